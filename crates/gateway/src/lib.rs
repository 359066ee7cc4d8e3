//! HTTP from the outside: listeners, routing to functions and static files, streaming both ways.
//!
//! Read in this order: [`config`] (what can be set), [`listen`] (the threads and their sockets), `worker` (one thread:
//! accepting, timeouts, draining), `connection` (one client), `request` (the hot path, top to bottom in one file), then
//! what it uses: `host` (which app), `target` (which version, function or file), `headers`, `ids`, `body`, `files`, `blob`
//! (signed URLs), `webhook` (routes to topics) with `signature`, `range`, `span` and `refusal`.
//!
//! Each worker is one thread with its own listener, connections and sandboxes. A request stays on the thread that accepted
//! its connection, and on its way to a function it takes no lock and does no I/O of the gateway's own.
//!
//! # Functions before files, except before a wildcard
//!
//! A path is looked up among the function routes and the static files of the version. A static file, and a folder with an
//! `index.html`, win over a route with `{*rest}`; every other route wins over both. So `{*rest}` may stand at `/` without
//! hiding the files, and a route that names the whole path always gets it.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing))]

mod blob;
mod body;
pub mod config;
mod connection;
mod cors;
mod files;
mod headers;
mod host;
mod ids;
pub mod listen;
mod refusal;
mod request;
mod signature;
mod span;
mod stream;
mod target;
mod webhook;
mod worker;

pub use config::GatewayConfig;
pub use listen::{Gateway, Listening, StartError};
