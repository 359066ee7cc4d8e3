//! The sandbox of JavaScript: the walls of the system around each Deno process.
//!
//! Deno's own permissions are the inner wall. This is the outer one, which must hold when the inner one does not: code
//! that has taken Deno over altogether finds a read-only root with Deno in it, no network, no other process, few system
//! calls, no privilege, and a bound on all that it can use.
//!
//! Read `walls` (what there is), `launch` (the straight line from a process of the node to a sandboxed Deno: `root`,
//! `namespaces`, `limits`, `landlock`, `syscalls`), then `start` and `process` (the node's side). `command` is how Deno
//! is called, `probe` finds out which walls the machine has, `cgroup` makes memory groups, `wire` is what node and
//! launcher say to each other.

mod cgroup;
mod command;
mod landlock;
mod launch;
mod libraries;
mod limits;
mod namespaces;
mod probe;
mod process;
mod root;
mod start;
mod syscalls;
#[cfg(test)]
mod tests;
mod walls;
mod wire;

pub use launch::main;
pub(crate) use process::{Running, Started, says_out_of_memory};
pub(crate) use start::Sandbox;
use walls::Wall;
pub(crate) use walls::Walls;

/// The hidden verb of the binary that runs [`main`].
pub const VERB: &str = "js-sandbox";
