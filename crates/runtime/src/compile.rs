//! Makes code ready to run, once, at publish: a child process compiles it ahead of time under limits of its own.
//!
//! A compiler is the largest attack surface for hostile input, and the easiest to exhaust. So the node never compiles in its
//! own process: the child has bounds on memory and CPU time, and dies alone.

use std::{
    fs::{self, File},
    hash::{DefaultHasher, Hash, Hasher},
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use bytesize::ByteSize;
use minnow_model::{Digest, problem::Code as ProblemCode};
use serde::{Deserialize, Serialize};
use tokio::{process::Command, sync::Semaphore};

use crate::{
    StartError,
    compile_worker::Report,
    kind::{GuestKind, KindError},
    runtime::RuntimeConfig,
    wasm::{Code, Engines, Flavor, LoadError},
};

/// What one compilation may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompileLimits {
    /// Address space of the compiler, in bytes. Default 2 GiB: Python's interpreter, 35 MB of WebAssembly, takes about 1 GiB.
    pub memory_bytes: u64,
    /// CPU time of the compiler, all threads together. Default 60 s; usual components take 0.1–5 s.
    pub cpu: Duration,
}

impl Default for CompileLimits {
    fn default() -> Self {
        Self { memory_bytes: 2 << 30, cpu: Duration::from_secs(60) }
    }
}

/// Why code was not compiled.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    #[error("{0}")]
    Kind(#[from] KindError),
    #[error("the code does not compile: {0}")]
    Invalid(String),
    #[error("the code does not fit into a sandbox of this node: {0}")]
    DoesNotFit(String),
    #[error("{0}")]
    Load(#[from] LoadError),
    #[error("compiling the code took more than {} of CPU time; make it smaller or raise the node's compile.cpu", humantime::format_duration(*.0))]
    CpuLimit(Duration),
    #[error("compiling the code took more than {} of memory; make it smaller or raise the node's compile.memory", ByteSize::b(*.0).display().iec())]
    MemoryLimit(u64),
    #[error("no space left for the compiled code")]
    Full,
    #[error("the compiler could not be run: {0}")]
    Child(String),
}

impl CompileError {
    /// The code that a publish answers with.
    pub fn code(&self) -> ProblemCode {
        match self {
            Self::Kind(_) | Self::Invalid(_) | Self::DoesNotFit(_) | Self::CpuLimit(_) | Self::MemoryLimit(_) => {
                ProblemCode::CompileFailed
            }
            Self::Load(error) => error.code(),
            Self::Full => ProblemCode::StorageFull,
            Self::Child(_) => ProblemCode::Internal,
        }
    }
}

/// Compilations at once. The compiler uses all cores by itself.
const AT_ONCE: usize = 2;

/// Runs the compiler child and keeps what it makes.
pub(crate) struct Compiler {
    /// One folder for each engine version and configuration.
    dir: PathBuf,
    tmp_dir: PathBuf,
    executable: PathBuf,
    limits: CompileLimits,
    slots: Semaphore,
}

impl Compiler {
    pub(crate) fn new(config: &RuntimeConfig, engines: &Engines) -> Result<Self, StartError> {
        let mut hasher = DefaultHasher::new();
        engines.sync.engine.precompile_compatibility_hash().hash(&mut hasher);
        engines.asynchronous.engine.precompile_compatibility_hash().hash(&mut hasher);
        let dir = config.compiled_dir.join(format!("{:016x}", hasher.finish()));
        remove_others(&config.compiled_dir, &dir);
        fs::create_dir_all(&dir).map_err(|error| StartError::Directory { path: dir.clone(), error })?;
        Ok(Self {
            dir,
            tmp_dir: config.tmp_dir.clone(),
            executable: config.executable.clone(),
            limits: config.compile,
            slots: Semaphore::new(AT_ONCE),
        })
    }

    /// Where the compiled form of `code` is or will be.
    pub(crate) fn artifact(&self, code: &Digest, kind: GuestKind) -> PathBuf {
        self.dir.join(format!("{}.{}", code.hex(), kind.as_str()))
    }

    /// What `code` is, if it is compiled.
    pub(crate) fn kind(&self, code: &Digest) -> Option<GuestKind> {
        GuestKind::ALL.into_iter().find(|kind| self.artifact(code, *kind).exists())
    }

    pub(crate) fn remove(&self, code: &Digest) {
        for kind in GuestKind::ALL {
            let _ = fs::remove_file(self.artifact(code, kind));
        }
    }

    /// Compiles `wasm`, checks that everything it imports is there, and keeps the result durably.
    pub(crate) async fn compile(
        &self,
        engines: &Engines,
        wasm: &Path,
        code: Digest,
    ) -> Result<GuestKind, CompileError> {
        if let Some(kind) = self.kind(&code) {
            return Ok(kind);
        }
        // The semaphore is never closed.
        let _slot = self.slots.acquire().await;
        let output = tempfile::Builder::new().prefix("compile-").tempfile_in(&self.tmp_dir).map_err(io)?;
        let kind = self.run_child(wasm, output.path()).await?;
        let artifact = self.artifact(&code, kind);
        let dir = self.dir.clone();
        let engines = engines.clone();
        let keep = move || -> Result<(), CompileError> {
            // Loading resolves the imports, so what is missing is told at publish, by name.
            Code::load(&engines, output.path(), kind).map_err(|error| match error {
                // The path of the artifact is the node's own business; the cause is what does not fit.
                LoadError::Map(error) => CompileError::DoesNotFit(error.root_cause().to_string()),
                other => other.into(),
            })?;
            output.as_file().sync_all().map_err(io)?;
            output.persist(&artifact).map_err(|error| io(error.error))?;
            File::open(&dir).and_then(|dir| dir.sync_all()).map_err(io)
        };
        tokio::task::spawn_blocking(keep).await.map_err(|error| CompileError::Child(error.to_string()))??;
        Ok(kind)
    }

    async fn run_child(&self, wasm: &Path, output: &Path) -> Result<GuestKind, CompileError> {
        let child = Command::new(&self.executable)
            .arg("compile-worker")
            .arg(wasm)
            .arg(output)
            .arg(self.limits.memory_bytes.to_string())
            .arg(self.limits.cpu.as_secs_f64().ceil().max(1.0).to_string())
            .env_clear()
            // The allocator would reserve 1 GiB of address space at its first use, out of the child's limit.
            .env("MIMALLOC_ARENA_RESERVE", "64MiB")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .output();
        // The CPU limit holds while the child computes; this one, while it waits for a core.
        let patience = self.limits.cpu.saturating_mul(4) + Duration::from_secs(10);
        let ended = match tokio::time::timeout(patience, child).await {
            Ok(Ok(ended)) => ended,
            Ok(Err(error)) => return Err(CompileError::Child(error.to_string())),
            Err(_) => return Err(CompileError::CpuLimit(self.limits.cpu)),
        };
        let said = String::from_utf8_lossy(&ended.stderr);
        match ended.status.signal() {
            Some(libc_signal::XCPU | libc_signal::KILL) => return Err(CompileError::CpuLimit(self.limits.cpu)),
            // Rust aborts when an allocation fails, C code may fault.
            Some(libc_signal::ABRT | libc_signal::SEGV) => {
                return Err(CompileError::MemoryLimit(self.limits.memory_bytes));
            }
            Some(signal) => return Err(CompileError::Child(format!("it was ended by signal {signal}: {said}"))),
            None => {}
        }
        match serde_json::from_slice::<Report>(&ended.stdout) {
            Ok(Report::Compiled(kind)) => Ok(kind),
            Ok(Report::Kind(message)) => Err(CompileError::Invalid(message)),
            Ok(Report::Invalid(message)) => Err(CompileError::Invalid(message)),
            Ok(Report::Memory) => Err(CompileError::MemoryLimit(self.limits.memory_bytes)),
            Ok(Report::Full) => Err(CompileError::Full),
            Ok(Report::Io(message)) => Err(CompileError::Child(message)),
            // Without address space neither an allocation nor a thread of the compiler can be had.
            Err(_)
                if ["memory allocation of", "Resource temporarily unavailable"]
                    .iter()
                    .any(|why| said.contains(why)) =>
            {
                Err(CompileError::MemoryLimit(self.limits.memory_bytes))
            }
            Err(_) => Err(CompileError::Child(format!("it ended with {}: {said}", ended.status))),
        }
    }
}

/// The flavor for which a kind is compiled.
pub(crate) fn flavor(kind: GuestKind) -> Flavor {
    kind.into()
}

/// Removes what other engine versions compiled. Best effort: it only takes space.
fn remove_others(compiled: &Path, ours: &Path) {
    for entry in fs::read_dir(compiled).into_iter().flatten().flatten() {
        if entry.path() != ours {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn io(error: std::io::Error) -> CompileError {
    if error.kind() == std::io::ErrorKind::StorageFull {
        CompileError::Full
    } else {
        CompileError::Child(error.to_string())
    }
}

/// Signal numbers, the same on every Linux architecture that Minnow runs on.
mod libc_signal {
    pub(super) const ABRT: i32 = 6;
    pub(super) const KILL: i32 = 9;
    pub(super) const SEGV: i32 = 11;
    pub(super) const XCPU: i32 = 24;
}
