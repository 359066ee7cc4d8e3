//! The one door to everything that a developer or CI does with this repository: `cargo xtask <what>`.
//!
//! Read [`test`] for what `cargo xtask test` installs and runs, [`tidy`] for the checks, [`docs`] for the pages made from
//! the code, [`guests`] for the prebuilt WebAssembly, [`wasm_toolchain`] for where its compiler comes from, [`languages`]
//! for those of other languages, and [`browser`] for the one that tests open pages in.

mod bench;
mod browser;
mod docs;
mod guests;
mod languages;
mod test;
mod tidy;
mod wasm_toolchain;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about, disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what the tests need where it is missing, then run every test
    Test {
        /// Handed to `cargo test --workspace`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Check format, lints, prebuilt guests, documents and leftovers
    Tidy,
    /// Write the documents that are made from the code
    Docs,
    /// Rebuild the prebuilt WebAssembly and guests/sources.lock
    Guests {
        /// Only those whose path contains one of these words
        only: Vec<String>,
    },
    /// Run cargo for wasm32-wasip2 with whichever toolchain is there
    WasmCargo {
        /// Handed to cargo, with `--target wasm32-wasip2` added
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        arguments: Vec<String>,
    },
    /// Measure against peers, writing bench/RESULTS.md
    Bench {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

fn main() -> Result<()> {
    match Arguments::parse().task {
        Task::Test { arguments } => test::run(&arguments),
        Task::Tidy => tidy::run(),
        Task::Docs => docs::write(),
        Task::Guests { only } => guests::rebuild(&only),
        Task::WasmCargo { arguments } => wasm_toolchain::run_cargo(&arguments),
        Task::Bench { arguments } => bench::run(&arguments),
    }
}

/// The repository's root folder. Asked at run time: clones that share a target folder share this program, too.
fn root() -> PathBuf {
    let here = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    let here = Path::new(&here);
    here.parent().unwrap_or(here).to_owned()
}

/// The cargo that runs this task, so that a nested call uses the same toolchain.
fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// Runs a command, its output going to the terminal, and fails where it fails.
fn must_run(command: &mut Command) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let status = command.status().with_context(|| format!("cannot start `{name}`"))?;
    ensure!(status.success(), "`{name}` failed: {status}");
    Ok(())
}
