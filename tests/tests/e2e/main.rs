//! End-to-end tests: the real binary, driven as a user would. One module for each part of what it promises.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod cli;
mod control;
mod data;
mod data_faults;
mod deploy;
mod dev;
mod docs;
mod durability;
mod egress;
mod failures;
mod gateway;
mod guests;
mod hostile;
mod js;
mod js_bad;
mod js_life;
mod js_walls;
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
