//! Prepares the sandbox for this machine, and starts processes in it.

use std::{
    fs,
    io::{self, BufRead as _, BufReader, Read as _},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::retry_on_intr,
    net::sockopt::{Timeout, set_socket_timeout},
    process::{Pid, PidfdFlags},
};

use super::{
    VERB, Wall, Walls,
    cgroup::{Group, Groups},
    command, libraries,
    limits::Limits,
    process::{self, Endings, Held, Process, RunFolder, Running, Started},
    root,
    wire::{self, Go, Order, Report, StartOrder},
};

/// How long the launcher may take for one step, and the trial Deno until it listens. They take milliseconds; this is
/// for a machine that is stuck.
const STEP: Duration = Duration::from_secs(10);

/// How many processes may be ending when one is started: each has a thread that waits for it, for milliseconds.
const MAX_ENDING: usize = 64;

/// What the launcher has said to its standard error when it fails without a report, at most.
const LAST_WORDS_BYTES: u64 = 4096;

/// Descriptors and threads of one process. V8's threads come with the machine's cores. Of the descriptors some 50 are Deno's own;
/// the others are its connections: one for each invocation (`Limits::MOST_JS`), those that wait for one
/// (`process::MAX_IDLE`), and those out (`outbound::MAX_CONNECTIONS`). Deno's server ends when there is none for the next one.
const LIMITS: Limits = Limits { open_files: 1024, threads: 128 };

/// The trial listens as the bootstrap does: by then Deno has mapped what it maps.
const TRIAL: &str =
    r#"Deno.serve({ path: Deno.args[0], onListen: () => console.log("ready") }, () => new Response());"#;
const TRIAL_MEMORY_BYTES: u64 = 1 << 30;

/// Starts Deno processes on this machine. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Sandbox(Arc<Prepared>);

#[derive(Debug)]
struct Prepared {
    launcher: PathBuf,
    deno: PathBuf,
    libraries: Vec<PathBuf>,
    boot: String,
    walls: Walls,
    groups: Option<Groups>,
    endings: Arc<Endings>,
    /// What an idle Deno maps and does not use.
    unused_bytes: u64,
}

/// One process to be.
#[derive(Debug)]
pub(super) struct Settings<'a> {
    /// With [`command::BOOT`] and the like in them.
    pub(super) args: Vec<String>,
    pub(super) env: Vec<(String, String)>,
    pub(super) boot: &'a str,
    pub(super) limits: Limits,
    pub(super) memory_bytes: u64,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error("cannot start the launcher {}: {error}", launcher.display())]
    Launcher { launcher: PathBuf, error: io::Error },
    /// A wall does not hold, or Deno cannot be executed.
    #[error("{0}")]
    Sandbox(String),
    #[error("cannot make a memory group: {0}")]
    Group(io::Error),
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl From<StartError> for io::Error {
    fn from(error: StartError) -> Self {
        Self::other(error)
    }
}

impl Sandbox {
    /// Finds out what this machine has, and starts one Deno to see that it works and how much it maps. Blocks for some
    /// 60 ms.
    ///
    /// `deno` is the program itself, not a script that starts it; `launcher` a program whose first argument [`VERB`]
    /// leads to [`super::main`]; `boot` the bootstrap script.
    pub(crate) fn prepare(deno: &Path, launcher: &Path, boot: &str) -> Result<Self, StartError> {
        let mut prepared = Prepared::probe(deno, launcher, boot)?;
        prepared.unused_bytes = prepared.try_out()?;
        Ok(Self(Arc::new(prepared)))
    }

    pub(crate) fn walls(&self) -> &Walls {
        &self.0.walls
    }

    /// Starts a Deno that runs the bootstrap behind all walls of this machine, with so much memory: all that Deno needs
    /// for itself is in it. Blocks until Deno is executed, which takes some 5 ms.
    ///
    /// Deno dies when the *thread* that calls this ends (`PR_SET_PDEATHSIG`), so that it does not outlive a node that
    /// was killed. Call it from one thread that lives as long as the node, never from a pool whose threads come and go.
    pub(crate) fn start(&self, memory_bytes: u64) -> Result<Started, StartError> {
        self.0.start(&Settings {
            args: command::args(memory_bytes),
            env: command::env(),
            boot: &self.0.boot,
            limits: LIMITS,
            memory_bytes,
        })
    }

    #[cfg(test)]
    pub(super) fn start_with(&self, settings: &Settings<'_>) -> Result<Started, StartError> {
        self.0.start(settings)
    }

    /// As on a machine that has only these walls, with this version of Landlock.
    #[cfg(test)]
    pub(super) fn with_only(&self, walls: &[Wall], landlock_abi: i32) -> Self {
        let mut prepared = Prepared {
            launcher: self.0.launcher.clone(),
            deno: self.0.deno.clone(),
            libraries: self.0.libraries.clone(),
            boot: self.0.boot.clone(),
            walls: self.0.walls.clone(),
            groups: None,
            endings: Arc::default(),
            unused_bytes: self.0.unused_bytes,
        };
        prepared.walls.standing.retain(|wall| walls.contains(wall));
        prepared.walls.landlock_abi = landlock_abi;
        if !prepared.walls.has(Wall::Mount) {
            prepared.walls.way = super::walls::Way::None;
        }
        Self(Arc::new(prepared))
    }
}

impl Prepared {
    fn probe(deno: &Path, launcher: &Path, boot: &str) -> Result<Self, StartError> {
        let deno = fs::canonicalize(deno)?;
        let libraries = libraries::of(&deno)?;
        let order = Order::Probe { deno: deno.clone(), libraries: libraries.clone() };
        let mut launch = Launch::new(launcher, &order)?;
        let mut walls = match launch.report()? {
            Some((Report::Walls(walls), _)) => walls,
            _ => return Err(launch.failed("it did not say which walls there are")),
        };
        launch.finish();
        let groups = Groups::find();
        walls.found(Wall::Memory, groups.as_ref().map(|_| ()).map_err(Clone::clone));
        let (launcher, boot) = (launcher.into(), boot.into());
        let (groups, endings) = (groups.ok(), Arc::default());
        Ok(Self { launcher, deno, libraries, boot, walls, groups, endings, unused_bytes: 1 << 30 })
    }

    /// Starts a Deno that does nothing, and returns how much more it maps than it uses.
    fn try_out(&self) -> Result<u64, StartError> {
        let started = self.start(&Settings {
            args: command::args(TRIAL_MEMORY_BYTES),
            env: command::env(),
            boot: TRIAL,
            limits: LIMITS,
            memory_bytes: TRIAL_MEMORY_BYTES,
        })?;
        let timeout = Timespec { tv_sec: STEP.as_secs().cast_signed(), tv_nsec: 0 };
        let mut line = String::new();
        let is_ready = retry_on_intr(|| poll(&mut [PollFd::new(&started.stdout, PollFlags::IN)], Some(&timeout)));
        if is_ready.map_err(io::Error::from)? > 0 {
            BufReader::new(fs::File::from(started.stdout)).read_line(&mut line)?;
        }
        if line.trim() == "ready" {
            return Ok(started.running.unused_bytes()?);
        }
        started.running.kill();
        let mut words = String::new();
        let _ = fs::File::from(started.stderr).take(LAST_WORDS_BYTES).read_to_string(&mut words);
        Err(StartError::Sandbox(format!("Deno does not run in the sandbox: {}", words.trim())))
    }

    fn start(&self, settings: &Settings<'_>) -> Result<Started, StartError> {
        if !self.endings.wait(MAX_ENDING, STEP) {
            return Err(StartError::Sandbox(format!("more than {MAX_ENDING} processes do not end")));
        }
        let create = |groups: &Groups| groups.create(group_bytes(settings.memory_bytes), settings.limits.threads);
        let group = self.groups.as_ref().map(create).transpose();
        let group = group.map_err(StartError::Group)?;
        let run_dir = if self.walls.has(Wall::Mount) { None } else { Some(host_folder(settings.boot)?) };
        let order = self.order(settings, run_dir.as_ref().map(tempfile::TempDir::path), group.as_ref());

        let mut launch = Launch::new(&self.launcher, &Order::Start(Box::new(order)))?;
        let inside = match launch.report()? {
            Some((Report::Built, inside)) => inside,
            _ => return Err(launch.failed("it did not build the sandbox")),
        };
        let run = match (run_dir, inside) {
            (Some(folder), _) => RunFolder::Host(folder),
            (None, Some(folder)) => RunFolder::Inside(folder),
            (None, None) => return Err(launch.failed("it did not send the folder of the sockets")),
        };
        let (egress, data) = (process::listen(&run, "egress")?, process::listen(&run, "data")?);
        wire::send(&launch.node, &Go, None)?;
        let pid = match launch.report()? {
            Some((Report::Pid(pid), _)) => Pid::from_raw(pid),
            _ => None,
        };
        let Some(pid) = pid else { return Err(launch.failed("it did not make a process")) };
        let process = adopt(pid, run, group, &self.endings)?;
        // The end of the connection: Deno has been executed, and the launcher is done.
        if launch.report()?.is_some() {
            return Err(launch.failed("it said more than it should"));
        }
        let (stdout, stderr) = launch.finish().ok_or_else(|| io::Error::other("the launcher has no output"))?;
        Ok(Started { running: Running(Arc::new(process)), stdout, stderr, egress, data })
    }

    fn order(&self, settings: &Settings<'_>, run_dir: Option<&Path>, group: Option<&Group>) -> StartOrder {
        let (boot, run) = match run_dir {
            Some(folder) => (folder.join(root::BOOT_NAME).display().to_string(), folder.display().to_string()),
            None => (root::BOOT.into(), root::RUN.into()),
        };
        let mut env = settings.env.clone();
        if self.walls.has(Wall::Mount) {
            env.push(("LD_LIBRARY_PATH".into(), libraries::folders(&self.libraries)));
        }
        StartOrder {
            deno: self.deno.clone(),
            libraries: self.libraries.clone(),
            boot: settings.boot.into(),
            args: settings.args.iter().map(|arg| command::with_paths(arg, &boot, &run)).collect(),
            env,
            limits: settings.limits,
            data_bytes: self.unused_bytes.saturating_add(settings.memory_bytes),
            walls: self.walls.clone(),
            run_dir: run_dir.map(Path::to_path_buf),
            group: group.map(Group::door),
        }
    }
}

/// The limit of the memory group. A little more than that of the process on itself, which is the one to reach first:
/// there an allocation fails, upon which V8 collects garbage and tries again, and then JavaScript gets a `RangeError`;
/// here the process is killed. The group counts what the other one does not see: page tables, stacks and buffers in the
/// kernel, files.
fn group_bytes(memory_bytes: u64) -> u64 {
    memory_bytes.saturating_add(memory_bytes / 32).saturating_add(12 << 20)
}

/// Takes hold of a child of this process.
fn adopt(pid: Pid, run: RunFolder, group: Option<Group>, endings: &Arc<Endings>) -> Result<Held, StartError> {
    let adopted = rustix::process::pidfd_open(pid, PidfdFlags::empty()).map_err(io::Error::from);
    match adopted.and_then(|pidfd| Ok((pidfd, process::cpu_clock(pid)?))) {
        Ok((pidfd, cpu_clock)) => Ok(Held::new(Process { pid, pidfd, cpu_clock, run, group }, endings)),
        Err(error) => {
            // It is a child that nobody has waited for, so the number is still its own.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            let _ = retry_on_intr(|| rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty()));
            Err(error.into())
        }
    }
}

/// The folder with the sockets and the bootstrap, where the host's files have to do.
fn host_folder(boot: &str) -> io::Result<tempfile::TempDir> {
    let folder = tempfile::Builder::new().prefix("minnow-js-").tempdir()?;
    fs::write(folder.path().join(root::BOOT_NAME), boot)?;
    Ok(folder)
}

/// A launcher at work. It is killed when it is dropped.
struct Launch {
    child: Child,
    node: OwnedFd,
}

impl Launch {
    fn new(launcher: &Path, order: &Order) -> Result<Self, StartError> {
        let (node, theirs) = wire::pair()?;
        set_socket_timeout(&node, Timeout::Recv, Some(STEP)).map_err(io::Error::from)?;
        set_socket_timeout(&node, Timeout::Send, Some(STEP)).map_err(io::Error::from)?;
        let child = Command::new(launcher)
            .arg(VERB)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| StartError::Launcher { launcher: launcher.into(), error })?;
        let launch = Self { child, node };
        wire::send(&launch.node, order, None)?;
        Ok(launch)
    }

    /// What it says next.
    fn report(&mut self) -> Result<Option<(Report, Option<OwnedFd>)>, StartError> {
        match wire::receive(&self.node) {
            Ok(Some((Report::Failed(reason), _))) => Err(StartError::Sandbox(reason)),
            Ok(report) => Ok(report),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(self.failed("it does not answer")),
            Err(error) => Err(error.into()),
        }
    }

    fn failed(&mut self, what: &str) -> StartError {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let mut words = Vec::new();
        if let Some(stderr) = self.child.stderr.take() {
            // What there is: a Deno that was started has the other end too, and lives.
            let _ = rustix::io::ioctl_fionbio(&stderr, true);
            let _ = stderr.take(LAST_WORDS_BYTES).read_to_end(&mut words);
        }
        let words = String::from_utf8_lossy(&words);
        let text = format!("the launcher of the sandbox failed: {what} {}", words.trim());
        StartError::Sandbox(text.trim_end().to_owned())
    }

    /// Waits for its end, which is near, and gives what it has left to Deno.
    fn finish(mut self) -> Option<(OwnedFd, OwnedFd)> {
        if !self.ends_within(STEP) {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
        Some((self.child.stdout.take()?.into(), self.child.stderr.take()?.into()))
    }

    fn ends_within(&self, time: Duration) -> bool {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let Some(Ok(pidfd)) = pid.map(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty())) else {
            return false;
        };
        let timeout = Timespec { tv_sec: time.as_secs().cast_signed(), tv_nsec: 0 };
        retry_on_intr(|| poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timeout))).is_ok_and(|ended| ended > 0)
    }
}

impl Drop for Launch {
    fn drop(&mut self) {
        // No effect on one that has been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
