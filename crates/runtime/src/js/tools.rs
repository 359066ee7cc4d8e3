//! The programs that JavaScript needs: their releases, where they are looked for, and how they are installed.
//!
//! [`Tool::Deno`] runs functions, [`Tool::Esbuild`] makes one module of a function's sources. Nothing looks for either before
//! there is JavaScript. A program of exactly the right release on `PATH` is used; else the one in the tools folder; else
//! npm installs it there. npm is called by name and with the user's own configuration, so that a company's registry and
//! proxy are used.
//!
//! What npm installs is used only if it has the bytes that are pinned here, whatever registry it comes from. A program on
//! `PATH` is the operator's own: who decides what is there decides what runs, so it is only asked for its release, and one
//! built by a distribution has other bytes.

use std::{
    env,
    ffi::OsString,
    fmt,
    fs::{self, File, TryLockError},
    io::{self, Read as _},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use minnow_model::{Digest, digest::Digester};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    process::Command,
};

/// The release of Deno that functions run on. Another one is another V8 and other permissions: the sandbox's rules and the
/// figures in `bench` hold for this one.
pub const DENO_VERSION: &str = "2.9.6";
/// The release of esbuild that bundles functions. Another one can make other bytes of the same sources, and talks another
/// protocol.
pub const ESBUILD_VERSION: &str = "0.28.2";

/// npm's program of the release above for each machine, and its SHA-256: of the file that the package of this name holds.
/// To be renewed with the release, for all machines: `npm pack`, `tar`, `sha256sum`.
const PROGRAMS: [(Tool, &str, &str, &str, &str); 8] = [
    (
        Tool::Deno,
        "linux",
        "x86_64",
        "@deno/linux-x64-glibc/deno",
        "sha256:bceb5b6a6239b0b010418406d8c77a508f67cf4337d94288f1c19fe71304aab0",
    ),
    (
        Tool::Deno,
        "linux",
        "aarch64",
        "@deno/linux-arm64-glibc/deno",
        "sha256:d08d392418df53f4e6e88a08909c0e1bccbf9adcead7232df72b6ad6075ec416",
    ),
    (
        Tool::Deno,
        "macos",
        "x86_64",
        "@deno/darwin-x64/deno",
        "sha256:ec9fbd8e8f5f6ca5ceb0ebe4a564636f2c698bf60e3187460ded400cc0147fd5",
    ),
    (
        Tool::Deno,
        "macos",
        "aarch64",
        "@deno/darwin-arm64/deno",
        "sha256:b3ac3bd206e48c26026cadd80c1367e96c149f9c66130952382a642b09fa8a71",
    ),
    (
        Tool::Esbuild,
        "linux",
        "x86_64",
        "@esbuild/linux-x64/bin/esbuild",
        "sha256:e1698a3d5c6c0798fee4fd3b5cc816651f460c63d390a7a26ea4beb0b1884100",
    ),
    (
        Tool::Esbuild,
        "linux",
        "aarch64",
        "@esbuild/linux-arm64/bin/esbuild",
        "sha256:90bd269553d258e80b19e3ccab4f98f0831f87442a2f056510ce24fd1b425fc2",
    ),
    (
        Tool::Esbuild,
        "macos",
        "x86_64",
        "@esbuild/darwin-x64/bin/esbuild",
        "sha256:7fe5c9c905fff0a05d92db98929434ab4d3b6dd92d7a7688922db74380c75df3",
    ),
    (
        Tool::Esbuild,
        "macos",
        "aarch64",
        "@esbuild/darwin-arm64/bin/esbuild",
        "sha256:10b6243df618d374bb2d5c9cfbe7052e1405f6aa4e53a6164f11a91b9f2e1384",
    ),
];

/// The variable that names the folder in which tools are installed.
pub const FOLDER_VARIABLE: &str = "MINNOW_TOOLS_DIR";

/// How long npm may take, and another process that installs the same: 40 MB at 1 Mbit/s are five minutes.
const INSTALL_TIMEOUT: Duration = Duration::from_secs(600);
/// How long a program may take to say its release. It takes 30 ms; a cold disk under load takes seconds.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// How often is looked whether another process has finished installing.
const LOOK: Duration = Duration::from_millis(100);
/// How much of what npm reports is kept, from the end.
const MAX_REPORT_BYTES: usize = 8 * 1024;
/// How many lines of that are shown.
const MAX_REPORT_LINES: usize = 12;

/// A program of a pinned release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tool {
    Deno,
    Esbuild,
}

impl Tool {
    pub const ALL: [Self; 2] = [Self::Deno, Self::Esbuild];

    /// What the program and its npm package are called.
    pub fn name(self) -> &'static str {
        match self {
            Self::Deno => "deno",
            Self::Esbuild => "esbuild",
        }
    }

    /// The one release that is used.
    pub fn version(self) -> &'static str {
        match self {
            Self::Deno => DENO_VERSION,
            Self::Esbuild => ESBUILD_VERSION,
        }
    }

    /// npm's program for this machine, below `node_modules`, and its digest.
    fn for_this_machine(self) -> Option<(&'static str, &'static str)> {
        let machine = (self, env::consts::OS, env::consts::ARCH);
        let (.., program, digest) = PROGRAMS.into_iter().find(|(tool, os, arch, ..)| (*tool, *os, *arch) == machine)?;
        Some((program, digest))
    }

    /// Where npm puts the program, in the folder that it installs into. `None`: there is none for this machine.
    fn in_npm_folder(self) -> Option<String> {
        self.for_this_machine().map(|(program, _)| format!("node_modules/{program}"))
    }

    /// What it has to be, byte for byte, where npm installed it.
    fn pinned(self) -> Option<Digest> {
        self.for_this_machine()?.1.parse().ok()
    }

    /// The name of its folder in the tools folder, which machines of several kinds may share.
    fn folder_name(self) -> String {
        format!("{}-{}-{}-{}", self.name(), self.version(), env::consts::OS, env::consts::ARCH)
    }

    /// The release in the output of `--version`: `deno 2.9.6 (stable, …)`, or the number alone.
    fn release_in(self, output: &str) -> Option<&str> {
        let mut words = output.lines().next()?.split_whitespace();
        match self {
            Self::Deno => words.find(|word| *word == "deno").and_then(|_| words.next()),
            Self::Esbuild => words.next(),
        }
    }
}

impl fmt::Display for Tool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name(), self.version())
    }
}

/// A program of the right release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub tool: Tool,
    /// Absolute.
    pub path: PathBuf,
    pub origin: Origin,
}

/// Where a program comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// It is on `PATH`.
    Path,
    /// It was in the tools folder.
    Folder,
    /// It was installed just now.
    Installed,
}

/// What is happening, for whoever waits. `Display` is a line without a full stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The program on `PATH` is not used.
    PassedOver { tool: Tool, path: PathBuf, why: String },
    /// Another process installs the same program.
    Waiting(Tool),
    /// npm runs.
    Installing { tool: Tool, folder: PathBuf },
    /// It is there.
    Installed { tool: Tool, path: PathBuf, took: Duration },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PassedOver { tool, path, why } => {
                write!(f, "{} is not used: {why}, and {tool} is needed", path.display())
            }
            Self::Waiting(tool) => write!(f, "waiting for another minnow that installs {tool}"),
            Self::Installing { tool, folder } => write!(f, "installing {tool} with npm into {}", folder.display()),
            Self::Installed { tool, path, took } => {
                write!(f, "installed {tool} in {:.1} s: {}", took.as_secs_f64(), path.display())
            }
        }
    }
}

/// Why a program cannot be had. [`ToolError::remedy`] says what to do.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    #[error("there is no {tool} for {os} on {arch}", os = env::consts::OS, arch = env::consts::ARCH)]
    Machine { tool: Tool },
    #[error("there is no folder for {tool}: neither HOME nor XDG_CACHE_HOME is set")]
    NoFolder { tool: Tool },
    #[error("cannot write to {}: {error}", folder.display())]
    Folder { folder: PathBuf, error: io::Error },
    #[error("{tool} is neither on PATH nor in {}, and npm, which would install it, is not on PATH", folder.display())]
    NoNpm { tool: Tool, folder: PathBuf },
    #[error("npm cannot reach its registry to install {tool}:\n{report}")]
    Offline { tool: Tool, report: String },
    #[error("npm cannot install {tool}:\n{report}")]
    Npm { tool: Tool, report: String },
    #[error("npm did not install {tool} within {} minutes", after.as_secs() / 60)]
    TimedOut { tool: Tool, after: Duration },
    #[error("another process has been installing {tool} for {} minutes", after.as_secs() / 60)]
    Locked { tool: Tool, lock: PathBuf, after: Duration },
    #[error("what npm installed as {tool} is of no use: {why}")]
    Useless { tool: Tool, why: String },
}

impl ToolError {
    /// What to do next.
    pub fn remedy(&self) -> String {
        let by_hand = |tool: &Tool| format!("put {tool} on PATH");
        match self {
            Self::Machine { tool } => format!("{}, or use another machine for JavaScript", by_hand(tool)),
            Self::NoFolder { tool } => format!("set {FOLDER_VARIABLE} to a folder for it, or {}", by_hand(tool)),
            Self::Folder { .. } => format!("make the folder writable, or name another one with {FOLDER_VARIABLE}"),
            Self::NoNpm { tool, .. } => {
                format!("install Node.js, which has npm, and run `minnow setup js`; or {}", by_hand(tool))
            }
            Self::Offline { tool, .. } => format!(
                "connect to the network, or tell npm of the proxy or the registry to use, and run `minnow setup js`; or {}",
                by_hand(tool)
            ),
            Self::Npm { tool, .. } => {
                format!("mend what npm reports and run `minnow setup js`; or {}", by_hand(tool))
            }
            Self::TimedOut { tool, .. } => {
                format!("run `minnow setup js` again when the network is faster; or {}", by_hand(tool))
            }
            Self::Locked { lock, .. } => format!("end the process that has {} open", lock.display()),
            Self::Useless { tool, .. } => by_hand(tool),
        }
    }
}

/// The path of a program, which is installed when there is none yet: in `folder`, or else in the folder that the environment
/// names. `progress` hears what that waits for.
pub async fn find_or_install(
    tool: Tool,
    folder: Option<&Path>,
    progress: impl Fn(&Step) + Sync,
) -> Result<PathBuf, ToolError> {
    let tools = folder.map_or_else(|| Tools::of_environment(None), Tools::in_folder);
    Ok(tools.provide(tool, &progress).await?.path)
}

/// Where tools are looked for, and where they are installed.
#[derive(Debug, Clone)]
pub struct Tools {
    /// The tools folders, the best first. One is installed into the first that can be written to.
    folders: Vec<PathBuf>,
    /// The folders of `PATH`.
    search: Vec<PathBuf>,
    /// [`Tool::pinned`], but in tests.
    pinned: fn(Tool) -> Option<Digest>,
}

impl Tools {
    /// The folders that the environment names: `MINNOW_TOOLS_DIR` alone if it is set, else `minnow/tools` in `XDG_CACHE_HOME`
    /// or `~/.cache`, else, for a service without a home, `tools` in the node's data folder.
    pub fn of_environment(data_dir: Option<&Path>) -> Self {
        Self::of(|name| env::var_os(name).filter(|value| !value.is_empty()), data_dir)
    }

    /// `folder`, whatever the environment says.
    pub fn in_folder(folder: &Path) -> Self {
        let folders = vec![std::path::absolute(folder).unwrap_or_else(|_| folder.into())];
        Self { folders, ..Self::of_environment(None) }
    }

    fn of(variable: impl Fn(&str) -> Option<OsString>, data_dir: Option<&Path>) -> Self {
        let search = variable("PATH").map(|path| env::split_paths(&path).collect()).unwrap_or_default();
        let absolute = |folder: PathBuf| std::path::absolute(&folder).unwrap_or(folder);
        let mut folders = Vec::new();
        if let Some(folder) = variable(FOLDER_VARIABLE) {
            folders.push(absolute(folder.into()));
        } else {
            // The XDG specification has relative paths ignored.
            let cache = variable("XDG_CACHE_HOME").map(PathBuf::from).filter(|cache| cache.is_absolute());
            let cache = cache.or_else(|| Some(PathBuf::from(variable("HOME")?).join(".cache")));
            folders.extend(cache.map(|cache| absolute(cache.join("minnow/tools"))));
            folders.extend(data_dir.map(|folder| absolute(folder.join("tools"))));
        }
        Self { folders, search, pinned: Tool::pinned }
    }

    /// The program, if there is one; nothing is installed.
    pub async fn find(&self, tool: Tool) -> Option<Found> {
        self.look(tool, &|_| {}).await
    }

    /// The program, installed when there is none yet. `progress` hears what that waits for.
    pub async fn provide(&self, tool: Tool, progress: &(dyn Fn(&Step) + Sync)) -> Result<Found, ToolError> {
        if let Some(found) = self.look(tool, progress).await {
            return Ok(found);
        }
        let (Some(program), Some(pinned)) = (tool.in_npm_folder(), (self.pinned)(tool)) else {
            return Err(ToolError::Machine { tool });
        };
        let folder = self.writable_folder(tool)?;
        let npm = self.npm().ok_or_else(|| ToolError::NoNpm { tool, folder: folder.clone() })?;
        let started = Instant::now();
        let _lock = lock(tool, &folder, progress).await?;
        // Another process may have installed it since.
        if let Some(found) = self.in_folders(tool, &|_| {}).await {
            return Ok(found);
        }
        progress(&Step::Installing { tool, folder: folder.clone() });
        let path = install(tool, &npm, &program, pinned, &folder).await?;
        progress(&Step::Installed { tool, path: path.clone(), took: started.elapsed() });
        Ok(Found { tool, path, origin: Origin::Installed })
    }

    async fn look(&self, tool: Tool, progress: &(dyn Fn(&Step) + Sync)) -> Option<Found> {
        let on_path = match self.on_path(tool).await {
            Some((path, None)) => return Some(Found { tool, path, origin: Origin::Path }),
            on_path => on_path,
        };
        let found = self.in_folders(tool, progress).await;
        if let Some((path, Some(why))) = on_path
            && found.is_none()
        {
            progress(&Step::PassedOver { tool, path, why });
        }
        found
    }

    /// The program that a shell would run, and why it cannot be used.
    async fn on_path(&self, tool: Tool) -> Option<(PathBuf, Option<String>)> {
        let path = self.search.iter().map(|folder| folder.join(tool.name())).find(|path| is_program(path))?;
        let path = std::path::absolute(&path).unwrap_or(path);
        let path = match native(tool, &path) {
            Some(native) => native,
            None => return Some((path, Some("it is a script that starts another program".into()))),
        };
        let why = check(tool, &path).await.err();
        Some((path, why))
    }

    /// The program in a tools folder.
    async fn in_folders(&self, tool: Tool, progress: &(dyn Fn(&Step) + Sync)) -> Option<Found> {
        let pinned = (self.pinned)(tool)?;
        for folder in &self.folders {
            let path = folder.join(tool.folder_name()).join(tool.name());
            if !is_program(&path) {
                continue;
            }
            match verify_once(&path, pinned).await {
                Ok(()) => return Some(Found { tool, path, origin: Origin::Folder }),
                Err(why) => progress(&Step::PassedOver { tool, path, why }),
            }
        }
        None
    }

    fn writable_folder(&self, tool: Tool) -> Result<PathBuf, ToolError> {
        let mut failed = ToolError::NoFolder { tool };
        for folder in &self.folders {
            match fs::create_dir_all(folder).and_then(|()| tempfile::tempfile_in(folder)) {
                Ok(_) => return Ok(folder.clone()),
                Err(error) => failed = ToolError::Folder { folder: folder.clone(), error },
            }
        }
        Err(failed)
    }

    fn npm(&self) -> Option<PathBuf> {
        self.search.iter().map(|folder| folder.join("npm")).find(|path| is_program(path))
    }
}

fn is_program(path: &Path) -> bool {
    path.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

/// The program itself where `path` may be a script that starts it, as npm's packages have one; a sandbox has no interpreter
/// for scripts. `None` when it cannot be told.
fn native(tool: Tool, path: &Path) -> Option<PathBuf> {
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
const VERIFIED: &str = "verified";

/// Sees to it that a program has the pinned bytes, unless it has not been changed since that was seen. The error says what
/// it has instead.
async fn verify_once(path: &Path, pinned: Digest) -> Result<(), String> {
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
async fn check(tool: Tool, path: &Path) -> Result<(), String> {
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

/// Sees to it that one process at a time installs a tool.
async fn lock(tool: Tool, folder: &Path, progress: &(dyn Fn(&Step) + Sync)) -> Result<File, ToolError> {
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
async fn install(tool: Tool, npm: &Path, program: &str, pinned: Digest, folder: &Path) -> Result<PathBuf, ToolError> {
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

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// A folder for programs, and one for tools.
    struct Home {
        dir: tempfile::TempDir,
        tools: Tools,
    }

    fn home() -> Home {
        let dir = tempfile::tempdir().unwrap();
        let bin = dir.path().join("bin");
        fs::create_dir(&bin).unwrap();
        let pinned = |_| Some(Digest::of(script_that_says(ESBUILD_VERSION).as_bytes()));
        let tools = Tools { folders: vec![dir.path().join("tools")], search: vec![bin], pinned };
        Home { dir, tools }
    }

    /// The program that [`Home::npm`] installs.
    fn script_that_says(release: &str) -> String {
        format!("#!/bin/sh\necho {release}\n")
    }

    impl Home {
        fn script(&self, name: &str, text: &str) -> PathBuf {
            let path = self.dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            // In another process: one that a test beside this one starts may inherit the open file, and a file that is open
            // for writing cannot be run.
            let write = r#"printf '#!/bin/sh\n%s\n' "$1" > "$2" && chmod 755 "$2""#;
            let status = std::process::Command::new("sh").args(["-c", write, "sh", text]).arg(&path).status().unwrap();
            assert!(status.success());
            path
        }

        /// An npm that installs an esbuild which says that it is release `says`.
        fn npm(&self, says: &str) {
            let program = Tool::Esbuild.in_npm_folder().unwrap();
            self.script(
                "bin/npm",
                &format!(
                    "echo \"$@\" >> {log}\nwhile [ $# -gt 0 ]; do [ \"$1\" = --prefix ] && prefix=$2; shift; done\n\
                     mkdir -p $prefix/$(dirname {program})\n\
                     printf '#!/bin/sh\\necho {says}\\n' > $prefix/{program}\nchmod +x $prefix/{program}",
                    log = self.dir.path().join("npm.log").display()
                ),
            );
        }

        fn npm_calls(&self) -> usize {
            fs::read_to_string(self.dir.path().join("npm.log")).unwrap_or_default().lines().count()
        }

        async fn provide(&self) -> (Result<Found, ToolError>, Vec<Step>) {
            let steps = Mutex::new(Vec::new());
            let found = self.tools.provide(Tool::Esbuild, &|step| steps.lock().unwrap().push(step.clone())).await;
            (found, steps.into_inner().unwrap())
        }
    }

    #[test]
    fn the_release_is_read_from_what_a_program_says() {
        for (tool, output, expected) in [
            (Tool::Deno, "deno 2.9.6 (stable, release, x86_64-unknown-linux-gnu)\nv8 15.0\n", Some("2.9.6")),
            (Tool::Deno, "node v20", None),
            (Tool::Esbuild, "0.28.2\n", Some("0.28.2")),
            (Tool::Esbuild, "", None),
        ] {
            assert_eq!(tool.release_in(output), expected, "{output}");
        }
    }

    #[test]
    fn the_folder_is_the_named_one_or_a_cache_or_the_nodes() {
        let data = Some(Path::new("/data"));
        type Variables = &'static [(&'static str, &'static str)];
        let cases: [(Variables, _, &[&str]); 7] = [
            (&[("MINNOW_TOOLS_DIR", "/t"), ("HOME", "/h")], data, &["/t"]),
            (&[("XDG_CACHE_HOME", "/c"), ("HOME", "/h")], data, &["/c/minnow/tools", "/data/tools"]),
            (&[("XDG_CACHE_HOME", "c"), ("HOME", "/h")], None, &["/h/.cache/minnow/tools"]),
            (&[("HOME", "/h")], data, &["/h/.cache/minnow/tools", "/data/tools"]),
            (&[("HOME", "/h")], None, &["/h/.cache/minnow/tools"]),
            (&[], data, &["/data/tools"]),
            (&[], None, &[]),
        ];
        for (variables, data_dir, expected) in cases {
            let value = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into());
            let folders = Tools::of(value, data_dir).folders;
            assert_eq!(folders, expected.iter().map(PathBuf::from).collect::<Vec<_>>(), "{variables:?}");
        }
    }

    #[tokio::test]
    async fn a_program_of_the_right_release_on_the_path_is_used() {
        let home = home();
        let path = home.script("bin/esbuild", &format!("echo {ESBUILD_VERSION}"));
        let (found, steps) = home.provide().await;
        let path = path.canonicalize().unwrap();
        assert_eq!(found.unwrap(), Found { tool: Tool::Esbuild, path, origin: Origin::Path });
        assert_eq!(steps, []);
    }

    #[tokio::test]
    async fn another_release_is_passed_over_and_the_right_one_installed_once() {
        let home = home();
        home.script("bin/esbuild", "echo 0.1.0");
        home.npm(ESBUILD_VERSION);
        let leftover = home.dir.path().join("tools").join(format!(".{}-x", Tool::Esbuild.folder_name()));
        fs::create_dir_all(&leftover).unwrap();
        assert_eq!(home.tools.find(Tool::Esbuild).await, None);
        let (found, steps) = home.provide().await;
        let found = found.unwrap();
        assert_eq!(found.origin, Origin::Installed);
        assert!(found.path.starts_with(home.dir.path().join("tools")), "{found:?}");
        let [Step::PassedOver { why, .. }, Step::Installing { .. }, Step::Installed { .. }] = &steps[..] else {
            panic!("{steps:?}")
        };
        assert_eq!(why, "it is release 0.1.0");
        let (again, _) = home.provide().await;
        assert_eq!(again.unwrap(), Found { origin: Origin::Folder, ..found.clone() });
        assert_eq!(home.tools.find(Tool::Esbuild).await.unwrap().path, found.path);
        assert_eq!(home.npm_calls(), 1);
        let mut left: Vec<_> =
            fs::read_dir(home.dir.path().join("tools")).unwrap().map(|e| e.unwrap().file_name()).collect();
        left.sort();
        let name = Tool::Esbuild.folder_name();
        assert_eq!(left, [name.clone().into(), OsString::from(format!("{name}.lock"))], "nothing is left behind");
    }

    #[tokio::test]
    async fn two_that_need_it_at_once_install_it_once() {
        let home = home();
        home.npm(ESBUILD_VERSION);
        let (one, two) = tokio::join!(home.provide(), home.provide());
        assert_eq!(one.0.unwrap().path, two.0.unwrap().path);
        assert_eq!(home.npm_calls(), 1);
    }

    #[tokio::test]
    async fn what_is_missing_or_fails_is_told_with_a_remedy() {
        type Prepare = fn(&Home);
        let cases: [(Prepare, &str, &str); 6] = [
            (|_| {}, "npm, which would install it, is not on PATH", "install Node.js"),
            (
                |home| {
                    home.script(
                        "bin/npm",
                        "echo 'npm error code ENOTFOUND\nnpm error at x:1\nnpm error getaddrinfo' >&2; exit 1",
                    );
                },
                "cannot reach its registry to install esbuild 0.28.2:\ncode ENOTFOUND\ngetaddrinfo",
                "connect to the network",
            ),
            (
                |home| {
                    home.script("bin/npm", "echo 'npm error code ETARGET' >&2; exit 1");
                },
                "npm cannot install esbuild 0.28.2:\ncode ETARGET",
                "mend what npm reports",
            ),
            (
                |home| {
                    home.script("bin/npm", "exit 7");
                },
                "exit status: 7",
                "mend what npm reports",
            ),
            (
                |home| {
                    home.script("bin/npm", "exit 0");
                },
                "is of no use: it has no node_modules/@esbuild",
                "put esbuild 0.28.2 on PATH",
            ),
            (|home| home.npm("9.9.9"), "is of no use: it is sha256:", "put esbuild"),
        ];
        for (prepare, message, remedy) in cases {
            let home = home();
            prepare(&home);
            let error = home.provide().await.0.unwrap_err();
            assert!(error.to_string().contains(message), "{error}");
            assert!(error.remedy().contains(remedy), "{}", error.remedy());
        }
        let mut nowhere = home();
        nowhere.tools.folders.clear();
        let error = nowhere.provide().await.0.unwrap_err();
        assert!(error.to_string().contains("neither HOME nor") && error.remedy().contains(FOLDER_VARIABLE), "{error}");
        let mut unwritable = home();
        unwritable.tools.folders = vec![PathBuf::from("/dev/null/tools")];
        let error = unwritable.provide().await.0.unwrap_err();
        assert!(error.to_string().contains("cannot write to /dev/null/tools"), "{error}");
    }

    #[tokio::test]
    async fn a_program_in_the_folder_with_other_bytes_is_replaced() {
        let home = home();
        home.npm(ESBUILD_VERSION);
        let path = home.provide().await.0.unwrap().path;
        let was_run = home.dir.path().join("was-run");
        let other = format!("touch {}; echo {ESBUILD_VERSION}", was_run.display());
        home.script(path.strip_prefix(home.dir.path()).unwrap().to_str().unwrap(), &other);
        let (found, steps) = home.provide().await;
        assert_eq!(found.unwrap().origin, Origin::Installed);
        let [Step::PassedOver { why, .. }, Step::Installing { .. }, Step::Installed { .. }] = &steps[..] else {
            panic!("{steps:?}")
        };
        assert!(why.starts_with("it is sha256:"), "{why}");
        assert_eq!(fs::read_to_string(path).unwrap(), script_that_says(ESBUILD_VERSION));
        assert!(!was_run.exists());
    }

    #[test]
    fn every_program_has_a_digest() {
        for (tool, os, arch, _, digest) in PROGRAMS {
            assert!(digest.parse::<Digest>().is_ok(), "{tool} for {os} on {arch}");
        }
    }

    #[tokio::test]
    async fn the_script_of_an_npm_package_leads_to_its_program() {
        let home = home();
        let script = home.script("lib/node_modules/deno/bin.cjs", "exit 1");
        std::os::unix::fs::symlink(&script, home.dir.path().join("bin/deno")).unwrap();
        let (_, why) = home.tools.on_path(Tool::Deno).await.unwrap();
        assert_eq!(why.unwrap(), "it is a script that starts another program");
        let program = home.script(&format!("lib/{}", Tool::Deno.in_npm_folder().unwrap()), "echo deno 2.9.6");
        let (path, why) = home.tools.on_path(Tool::Deno).await.unwrap();
        assert_eq!((path, why), (program.canonicalize().unwrap(), None));
    }
}
