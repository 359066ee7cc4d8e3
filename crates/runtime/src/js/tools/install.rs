//! Installing a program with npm, by one process at a time.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use minnow_model::Digest;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    process::Command,
};

use super::{
    Step, Tool, ToolError,
    program::{VERIFIED, check, is_program, verify_once},
};

/// How long npm may take, and another process that installs the same: 40 MB at 1 Mbit/s are five minutes.
const INSTALL_TIMEOUT: Duration = Duration::from_secs(600);
/// How often is looked whether another process has finished installing.
const LOOK: Duration = Duration::from_millis(100);
/// How much of what npm reports is kept, from the end.
const MAX_REPORT_BYTES: usize = 8 * 1024;
/// How many lines of that are shown.
const MAX_REPORT_LINES: usize = 12;

/// Sees to it that one process at a time installs a tool.
pub(super) async fn lock(tool: Tool, folder: &Path, progress: &(dyn Fn(&Step) + Sync)) -> Result<File, ToolError> {
    let path = folder.join(format!("{}.lock", tool.folder_name()));
    let refuse = |error| ToolError::Folder { folder: folder.into(), error };
    let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(refuse)?;
    let deadline = Instant::now() + INSTALL_TIMEOUT;
    let mut told = false;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(error)) => return Err(refuse(error)),
            Err(TryLockError::WouldBlock) if Instant::now() >= deadline => {
                return Err(ToolError::Locked { tool, lock: path, after: INSTALL_TIMEOUT });
            }
            Err(TryLockError::WouldBlock) => {}
        }
        if !told {
            progress(&Step::Waiting(tool));
            told = true;
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Installs `tool` into `folder`, whose lock is held: into a folder of its own first, which is then renamed into place.
pub(super) async fn install(
    tool: Tool,
    npm: &Path,
    program: &str,
    pinned: Digest,
    folder: &Path,
) -> Result<PathBuf, ToolError> {
    let refuse = |error| ToolError::Folder { folder: folder.into(), error };
    let prefix = format!(".{}-", tool.folder_name());
    remove_leftovers(folder, &prefix);
    let temporary = tempfile::Builder::new().prefix(&prefix).tempdir_in(folder).map_err(refuse)?;
    run_npm(tool, npm, temporary.path()).await?;
    let installed = temporary.path().join(program);
    if !is_program(&installed) {
        return Err(ToolError::Useless { tool, why: format!("it has no {program}") });
    }
    let useless = |why| ToolError::Useless { tool, why };
    verify_once(&installed, pinned).await.map_err(useless)?;
    check(tool, &installed).await.map_err(useless)?;
    let ready = temporary.path().join("ready");
    let place = folder.join(tool.folder_name());
    let path = place.join(tool.name());
    let name = tool.name();
    let moved = tokio::task::spawn_blocking(move || {
        fs::create_dir(&ready)?;
        // Without it the next start verifies anew.
        let _ = fs::rename(installed.with_file_name(VERIFIED), ready.join(VERIFIED));
        fs::rename(&installed, ready.join(name))?;
        // A program that a loss of power emptied would be taken for a good one for ever.
        File::open(ready.join(name))?.sync_all()?;
        // What is there is not the program, or it would have been found.
        if place.exists() {
            fs::remove_dir_all(&place)?;
        }
        fs::rename(&ready, &place)
    });
    moved.await.unwrap_or_else(|error| Err(io::Error::other(error))).map_err(refuse)?;
    Ok(path)
}

/// Removes what a process that was killed left behind.
fn remove_leftovers(folder: &Path, prefix: &str) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(prefix) {
            // It only takes room.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

async fn run_npm(tool: Tool, npm: &Path, prefix: &Path) -> Result<(), ToolError> {
    let failed = |report| ToolError::Npm { tool, report };
    let mut command = Command::new(npm);
    command
        .args(["install", "--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock", "--loglevel=error"])
        // The program is an optional dependency of its package, one for each machine.
        .args(["--include=optional", "--no-update-notifier", "--prefix"])
        .arg(prefix)
        .arg(format!("{}@{}", tool.name(), tool.version()))
        // Not the folder of an app, whose `.npmrc` is somebody else's.
        .current_dir(prefix)
        .env_remove("MINNOW_TOKEN")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let running = async {
        let mut child = command.spawn()?;
        let report = match child.stderr.take() {
            Some(stderr) => tail(stderr).await,
            None => String::new(),
        };
        io::Result::Ok((child.wait().await?, report))
    };
    let (status, report) = tokio::time::timeout(INSTALL_TIMEOUT, running)
        .await
        .map_err(|_| ToolError::TimedOut { tool, after: INSTALL_TIMEOUT })?
        .map_err(|error| failed(format!("{} does not start: {error}", npm.display())))?;
    if status.success() {
        return Ok(());
    }
    let is_offline = OFFLINE.iter().any(|code| report.contains(code));
    let report = last_lines(&report).unwrap_or_else(|| status.to_string());
    Err(if is_offline { ToolError::Offline { tool, report } } else { failed(report) })
}

/// How npm says that it could not connect.
const OFFLINE: [&str; 8] = [
    "ENOTFOUND",
    "EAI_AGAIN",
    "ECONNREFUSED",
    "ECONNRESET",
    "ETIMEDOUT",
    "ENETUNREACH",
    "EHOSTUNREACH",
    "ERR_SOCKET_TIMEOUT",
];

/// How lines of npm's begin that help nobody: where in npm it happened, and where its log is.
const NOISE: [&str; 2] = ["at ", "A complete log of this run"];

/// The last [`MAX_REPORT_BYTES`] of a stream, which is read to its end.
async fn tail(mut stream: impl AsyncRead + Unpin) -> String {
    let mut kept = Vec::new();
    let mut buffer = vec![0; MAX_REPORT_BYTES];
    while let Ok(read @ 1..) = stream.read(&mut buffer).await {
        kept.extend_from_slice(buffer.get(..read).unwrap_or_default());
        kept.drain(..kept.len().saturating_sub(MAX_REPORT_BYTES));
    }
    String::from_utf8_lossy(&kept).into_owned()
}

/// The last lines of what npm reports, without its prefix and without control characters.
fn last_lines(report: &str) -> Option<String> {
    let lines = report.lines().map(|line| {
        let line = ["npm error", "npm ERR!"].iter().find_map(|prefix| line.strip_prefix(prefix)).unwrap_or(line);
        line.trim().chars().filter(|c| !c.is_control()).collect::<String>()
    });
    let lines: Vec<String> =
        lines.filter(|line| !line.is_empty() && !NOISE.iter().any(|noise| line.starts_with(noise))).collect();
    let last = lines.get(lines.len().saturating_sub(MAX_REPORT_LINES)..)?;
    (!last.is_empty()).then(|| last.join("\n"))
}
