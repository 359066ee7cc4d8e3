//! Whether a file is the program that it should be: its kind, its bytes, and what it says of itself.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use minnow_model::{Digest, digest::Digester};
use tokio::process::Command;

use super::Tool;

/// How long a program may take to say its release. It takes 30 ms; a cold disk under load takes seconds.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

pub(super) fn is_program(path: &Path) -> bool {
    path.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

/// The program itself where `path` may be a script that starts it, as npm's packages have one; a sandbox has no interpreter
/// for scripts. `None` when it cannot be told.
pub(super) fn native(tool: Tool, path: &Path) -> Option<PathBuf> {
    let real = path.canonicalize().ok()?;
    // A program that acts by the name under which it is started, as version managers are, is not the program either.
    let is_itself = real.file_name().is_some_and(|name| name == tool.name());
    if is_itself && (tool == Tool::Esbuild || is_binary(&real)) {
        return Some(real);
    }
    let program = tool.in_npm_folder()?;
    real.ancestors().map(|folder| folder.join(&program)).find(|path| is_program(path))
}

/// Whether the system runs the file without an interpreter.
fn is_binary(path: &Path) -> bool {
    let mut start = [0; 4];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut start));
    read.is_ok() && (!cfg!(target_os = "linux") || start == *b"\x7fELF")
}

/// The file beside a program in a tools folder that says which bytes were verified when, so that not every start reads 95 MB.
/// Whoever can write it can write the program too: this finds what a registry, an interrupted copy or a disk did.
pub(super) const VERIFIED: &str = "verified";

/// Sees to it that a program has the pinned bytes, unless it has not been changed since that was seen. The error says what
/// it has instead.
pub(super) async fn verify_once(path: &Path, pinned: Digest) -> Result<(), String> {
    let path = path.to_path_buf();
    let verified = tokio::task::spawn_blocking(move || {
        let metadata = path.metadata()?;
        let seen = format!("{pinned} {} {}.{:09}\n", metadata.len(), metadata.mtime(), metadata.mtime_nsec());
        let note = path.with_file_name(VERIFIED);
        if fs::read_to_string(&note).is_ok_and(|note| note == seen) {
            return Ok(pinned);
        }
        let digest = digest(&path)?;
        if digest == pinned {
            // In a folder that cannot be written to every start verifies anew.
            let _ = fs::write(&note, seen);
        }
        Ok(digest)
    });
    match verified.await.unwrap_or_else(|error| Err(io::Error::other(error))) {
        Ok(digest) if digest == pinned => Ok(()),
        Ok(digest) => Err(format!("it is {digest} in place of {pinned}")),
        Err(error) => Err(format!("it cannot be read: {error}")),
    }
}

fn digest(path: &Path) -> io::Result<Digest> {
    let mut file = File::open(path)?;
    let mut digester = Digester::default();
    let mut buffer = vec![0; 256 << 10];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(digester.finish()),
            read => digester.update(buffer.get(..read).unwrap_or_default()),
        }
    }
}

/// Asks a program for its release. The error says why it is not the right one.
pub(super) async fn check(tool: Tool, path: &Path) -> Result<(), String> {
    let mut command = Command::new(path);
    command.arg("--version").stdin(Stdio::null()).kill_on_drop(true);
    command.env("NO_COLOR", "1").env("DENO_NO_UPDATE_CHECK", "1");
    let output = match tokio::time::timeout(ANSWER_TIMEOUT, command.output()).await {
        Err(_) => return Err(format!("`--version` gave no answer in {} s", ANSWER_TIMEOUT.as_secs())),
        Ok(Err(error)) => return Err(format!("it does not start: {error}")),
        Ok(Ok(output)) => output,
    };
    let text = String::from_utf8_lossy(&output.stdout);
    match tool.release_in(&text) {
        Some(release) if release == tool.version() => Ok(()),
        Some(release) if output.status.success() => {
            Err(format!("it is release {}", release.chars().take(40).collect::<String>().escape_debug()))
        }
        _ => {
            // Such as a C library that is too old.
            let complaint = String::from_utf8_lossy(&output.stderr);
            let complaint: String = complaint.trim().chars().take(300).collect();
            Err(format!("`--version` failed ({}) {}", output.status, complaint.escape_debug()).trim_end().to_owned())
        }
    }
}
