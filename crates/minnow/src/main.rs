//! The `minnow` binary: one verb for each thing that a developer or an operator does.
//!
//! Read [`cli`] first (the verbs and what they share), then any file of [`verb`]. The verbs that talk to a node use
//! [`client`] with the address and token that [`credentials`] finds; [`project`], [`recipe`], [`pack`] and [`upload`] turn a
//! folder with a `minnow.toml` into a published version; [`dev`] does the same on every change. [`report`] shows errors.

// `pub` says that a module's siblings use an item; nothing of a binary can be reached from outside.
#![allow(unreachable_pub)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing))]

mod cli;
#[cfg(test)]
mod cli_docs;
mod client;
mod credentials;
mod dev;
mod duration;
mod input;
mod node_log;
mod output;
mod pack;
mod progress;
mod project;
mod recipe;
mod report;
mod shell;
mod signals;
mod since;
mod sql_text;
mod store;
mod upload;
mod verb;

use std::process::ExitCode;

use clap::Parser as _;

/// The node allocates for every request; mimalloc is what the figures in bench/ were measured with.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // The compiler of hostile input and the sandbox start with nothing else set up: no arguments parsed, no runtime, no log, and
    // no second thread, with which Linux would let nobody into a user namespace.
    let verb = std::env::args_os().nth(1).unwrap_or_default();
    if verb == "compile-worker" {
        return verb::compile_worker::run();
    }
    if verb == minnow_runtime::js::sandbox::VERB {
        return verb::js_sandbox::run();
    }
    // The allocator asks for huge pages, of which a node at rest touches a few kilobytes each: 49 MB instead of 33 MB. Where
    // the kernel does not know the call, that is all that is lost.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    let cli = cli::Cli::parse();
    client::use_ring();
    let style = report::Style::choose(cli.wants_json());
    match cli.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report::show(&error, style),
    }
}
