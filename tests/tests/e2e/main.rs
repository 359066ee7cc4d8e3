//! End-to-end tests: the real binary, driven as a user would. One module for each part of what it promises.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod backup;
mod blob;
mod blob_faults;
mod blob_http;
mod blob_js;
mod browser;
mod cli;
mod control;
mod data;
mod data_calls;
mod data_hostile;
mod data_kill;
mod data_races;
mod deploy;
mod dev;
mod docs;
mod durability;
mod egress;
mod failures;
mod files;
mod files_js;
mod gateway;
mod guests;
mod hostile;
mod io_errors;
mod js;
mod js_bad;
mod js_fetch;
mod js_greedy;
mod js_life;
mod js_refused;
mod js_walls;
mod js_work;
mod languages;
mod limits;
mod manifest;
mod new_app;
mod observability;
mod publish;
mod settings;
mod stores;
mod streaming;
mod warm;
mod websocket;
