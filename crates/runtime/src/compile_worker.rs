//! The compiler child: `minnow compile-worker WASM OUTPUT MEMORY_BYTES CPU_SECONDS`.
//!
//! It limits itself before it looks at the input, compiles, writes the artifact and reports in one line of JSON on its
//! standard output.

use std::{ffi::OsString, fs, io::Write as _, path::PathBuf};

use rustix::process::{Resource, Rlimit, setrlimit};
use serde::{Deserialize, Serialize};
use wasmtime::Engine;

use crate::{compile::flavor, kind::GuestKind, wasm};

/// What the child tells its parent.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Report {
    Compiled(GuestKind),
    /// It is nothing that can be run.
    Kind(String),
    /// It is not valid WebAssembly, or uses a feature that is off.
    Invalid(String),
    Memory,
    Full,
    Io(String),
}

/// Runs the child with the arguments after `compile-worker`, and returns its exit code.
pub fn main(arguments: impl Iterator<Item = OsString>) -> u8 {
    let report = match Task::parse(arguments) {
        Some(task) => task.run(),
        None => Report::Io("usage: minnow compile-worker WASM OUTPUT MEMORY_BYTES CPU_SECONDS".into()),
    };
    let line = serde_json::to_vec(&report).unwrap_or_default();
    let written = std::io::stdout().write_all(&line);
    u8::from(written.is_err() || !matches!(report, Report::Compiled(_)))
}

struct Task {
    wasm: PathBuf,
    output: PathBuf,
    memory_bytes: u64,
    cpu_s: u64,
}

impl Task {
    fn parse(mut arguments: impl Iterator<Item = OsString>) -> Option<Self> {
        let wasm = arguments.next()?.into();
        let output = arguments.next()?.into();
        let memory_bytes = arguments.next()?.to_str()?.parse().ok()?;
        let cpu_s = arguments.next()?.to_str()?.parse().ok()?;
        Some(Self { wasm, output, memory_bytes, cpu_s })
    }

    fn run(&self) -> Report {
        if let Err(error) = self.limit() {
            return Report::Io(format!("cannot limit the compiler: {error}"));
        }
        let bytes = match fs::read(&self.wasm) {
            Ok(bytes) => bytes,
            Err(error) => return Report::Io(format!("cannot read the code: {error}")),
        };
        let kind = match GuestKind::of(&bytes) {
            Ok(kind) => kind,
            Err(error) => return Report::Kind(error.to_string()),
        };
        let engine = match Engine::new(&wasm::config(flavor(kind))) {
            Ok(engine) => engine,
            Err(error) => return Report::Io(format!("{error:#}")),
        };
        let compiled = match kind {
            GuestKind::CommandCore => engine.precompile_module(&bytes),
            _ => engine.precompile_component(&bytes),
        };
        let compiled = match compiled {
            Ok(compiled) => compiled,
            Err(error) if error.is::<wasmtime::error::OutOfMemory>() => return Report::Memory,
            Err(error) => return Report::Invalid(format!("{error:#}")),
        };
        match fs::write(&self.output, compiled) {
            Ok(()) => Report::Compiled(kind),
            Err(error) if error.kind() == std::io::ErrorKind::StorageFull => Report::Full,
            Err(error) => Report::Io(format!("cannot write the compiled code: {error}")),
        }
    }

    fn limit(&self) -> rustix::io::Result<()> {
        let both = |value| Rlimit { current: Some(value), maximum: Some(value) };
        setrlimit(Resource::Core, both(0))?;
        setrlimit(Resource::As, both(self.memory_bytes))?;
        // The soft limit sends SIGXCPU, which ends the process; the hard one sends SIGKILL should that be ignored.
        setrlimit(Resource::Cpu, Rlimit { current: Some(self.cpu_s), maximum: Some(self.cpu_s + 1) })?;
        // Requests come before compilations.
        let _ = rustix::process::nice(10);
        Ok(())
    }
}
