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
//!
//! [`program`] says whether a file is the program, [`install`] has npm fetch it.

mod install;
mod program;

use std::{
    env,
    ffi::OsString,
    fmt, fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use minnow_model::Digest;

use self::{
    install::{install, lock},
    program::{check, is_program, native, verify_once},
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

#[cfg(test)]
mod tests;
