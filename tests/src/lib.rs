//! What the end-to-end tests drive a node with: the binary as a user has it, and nothing from inside.
//!
//! Read [`Node`] (a node on free ports with its own data), [`Cli`] (the commands of a user with a home of their own), [`App`]
//! (a folder with a `minnow.toml`) and [`http`] (a client that shows what really is on the wire). [`eventually`] is how
//! everything here waits: it looks at a condition until it holds, and fails at a deadline.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test that fails says so by panicking"
)]

mod app;
mod binary;
mod browser;
mod cli;
pub mod http;
pub mod http2;
mod node;
mod process;
mod random;
mod tls;
pub mod toolchains;
pub mod upstream;
mod wait;
pub mod wasm;

pub use app::{App, guest};
pub use binary::{minnow, repository};
pub use browser::run_in_browser;
pub use cli::{Cli, Shown};
pub use http::{Answer, Connection, Exchange, Request};
pub use node::{Node, NodeBuilder};
pub use process::Ran;
pub use random::Random;
pub use tls::TlsFront;
pub use wait::{PATIENCE, eventually, eventually_within, until};
