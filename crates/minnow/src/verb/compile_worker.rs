//! `minnow compile-worker`: the child process in which a node compiles what was published. Not for people.

use std::process::ExitCode;

/// Compiles what the node sends, within the limits that the node has set for this process.
pub fn run() -> ExitCode {
    ExitCode::from(minnow_runtime::compile_worker::main(std::env::args_os().skip(2)))
}
