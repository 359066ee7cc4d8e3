//! `minnow js-sandbox`: the process that a node starts for each Deno, and that makes the sandbox around it. Not for people.

use std::process::ExitCode;

/// Does what the node on the other end of its standard input wants.
pub fn run() -> ExitCode {
    minnow_runtime::js::sandbox::main()
}
