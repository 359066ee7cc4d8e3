//! A server that is measured: started on its core, watched through /proc, and never left behind.

use std::{
    ffi::OsStr,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use super::machine::on_core;

/// `utime` and `stime` in /proc/PID/stat count this many a second: USER_HZ, which is 100 on every architecture that Rust
/// supports on Linux.
const TICKS_PER_SECOND: f64 = 100.0;

/// A server that uses next to no CPU for this long has nothing left to do. Well above what separates one step of starting a
/// process from the next.
const QUIET: Duration = Duration::from_millis(200);
const QUIET_DEADLINE: Duration = Duration::from_secs(30);

/// A running server process. Dropping it kills it.
pub(crate) struct Server {
    child: Child,
    name: String,
    log: PathBuf,
    started: Instant,
}

/// Memory of a process, in bytes.
#[derive(Clone, Copy, Default)]
pub(crate) struct Memory {
    /// All resident pages.
    pub(crate) rss: u64,
    /// Of these, the ones that no file backs.
    pub(crate) anonymous: u64,
}

/// The processes that came from a server.
#[derive(Clone, Copy, Default)]
pub(crate) struct Descendants {
    pub(crate) count: usize,
    /// Of all together. What several map from one file counts for each of them.
    pub(crate) memory: Memory,
}

/// One process, as /proc has it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Process {
    id: u32,
    parent: u32,
    /// With that of the children that it has waited for.
    cpu: Duration,
}

/// A command for a server, with an environment of its own: nothing of the developer's shell (RUST_LOG, RUST_BACKTRACE,
/// OTEL_*) reaches a measurement. The kernel kills the process when the harness dies, however it dies.
pub(crate) fn server_command(program: impl AsRef<OsStr>) -> Command {
    server_command_as(None, program)
}

/// [`server_command`] as another user, whose name is that of its group as well.
pub(crate) fn server_command_as(user: Option<&str>, program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    if let Some(user) = user {
        command.args(["--reuid", user, "--regid", user, "--clear-groups"]);
    }
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    clean_environment(&mut command);
    command
}

/// Leaves only what finds programs and the user's folder.
pub(crate) fn clean_environment(command: &mut Command) {
    command.env_clear();
    for name in ["PATH", "HOME"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
}

impl Server {
    /// Starts a command of [`server_command`], on one core or, without, on all. Call it on the main thread: the kernel ties
    /// the server's life to the thread that started it.
    pub(crate) fn start(name: &str, command: &mut Command, core: Option<usize>, log: &Path) -> Result<Self> {
        let out = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        command.stdin(Stdio::null()).stderr(out.try_clone()?).stdout(out);
        let started = Instant::now();
        let mut spawn = || command.spawn().with_context(|| format!("cannot start {name}"));
        let child = match core {
            Some(core) => on_core(core, spawn)?,
            None => spawn()?,
        };
        Ok(Self { child, name: name.into(), log: log.into(), started })
    }

    /// Waits until `is_ready` holds and returns the time since the start. Fails, with the end of the server's output, when
    /// the server exits or `deadline` has passed.
    pub(crate) fn wait_until(&mut self, deadline: Duration, mut is_ready: impl FnMut() -> bool) -> Result<Duration> {
        loop {
            if is_ready() {
                return Ok(self.started.elapsed());
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended with {status} before it was ready:\n{}", self.name, self.log_end());
            }
            if self.started.elapsed() > deadline {
                bail!("{} is not ready after {deadline:?}:\n{}", self.name, self.log_end());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// User and system CPU time so far, in steps of 10 ms, with that of all processes that came from this one.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        Ok(self.family()?.iter().map(|process| process.cpu).sum())
    }

    /// Waits until neither the server nor what came from it has anything left to do.
    pub(crate) fn wait_until_quiet(&self) -> Result<()> {
        let started = Instant::now();
        loop {
            let before = self.cpu()?;
            std::thread::sleep(QUIET);
            // One step may end in any span of time.
            if self.cpu()?.saturating_sub(before) <= Duration::from_secs_f64(1.0 / TICKS_PER_SECOND) {
                return Ok(());
            }
            ensure!(started.elapsed() < QUIET_DEADLINE, "{} stays busy:\n{}", self.name, self.log_end());
        }
    }

    /// The processes that came from this one.
    pub(crate) fn descendants(&self) -> Result<Descendants> {
        let mut found = Descendants::default();
        for process in self.family()?.iter().filter(|process| process.id != self.child.id()) {
            // One that has ended since, or is about to, has no memory.
            let status = fs::read_to_string(format!("/proc/{}/status", process.id)).unwrap_or_default();
            if let Some(memory) = parse_memory(&status) {
                found.count += 1;
                found.memory.rss += memory.rss;
                found.memory.anonymous += memory.anonymous;
            }
        }
        Ok(found)
    }

    /// This process and all that came from it.
    fn family(&self) -> Result<Vec<Process>> {
        let mut all = Vec::new();
        for entry in fs::read_dir("/proc")? {
            let name = entry?.file_name();
            let Some(id) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
            // Processes end meanwhile.
            let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
            all.extend(parse_stat(id, &stat));
        }
        let family = family_of(self.child.id(), all);
        ensure!(!family.is_empty(), "{} has gone:\n{}", self.name, self.log_end());
        Ok(family)
    }

    /// Memory of the server's own process.
    pub(crate) fn memory(&self) -> Result<Memory> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))
            .with_context(|| format!("{} has gone:\n{}", self.name, self.log_end()))?;
        parse_memory(&status).with_context(|| format!("unreadable /proc status of {}", self.name))
    }

    /// Has the kernel count the peak of the server's memory anew (proc_pid_clear_refs(5)).
    pub(crate) fn forget_peak(&self) -> Result<()> {
        let path = format!("/proc/{}/clear_refs", self.child.id());
        fs::write(&path, "5").with_context(|| format!("cannot write {path}"))
    }

    /// The most resident memory of the server's own process since then, in bytes.
    pub(crate) fn peak(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))
            .with_context(|| format!("{} has gone:\n{}", self.name, self.log_end()))?;
        parse_kib(&status, "VmHWM:").with_context(|| format!("unreadable /proc status of {}", self.name))
    }

    /// How many files under `folder` the server's own process has open; one that is open twice counts twice.
    pub(crate) fn open_files(&self, folder: &Path) -> Result<usize> {
        let descriptors = fs::read_dir(format!("/proc/{}/fd", self.child.id()))
            .with_context(|| format!("{} has gone:\n{}", self.name, self.log_end()))?;
        // Descriptors are closed meanwhile.
        let files = descriptors.filter_map(|descriptor| fs::read_link(descriptor.ok()?.path()).ok());
        Ok(files.filter(|file| file.starts_with(folder)).count())
    }

    pub(crate) fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends SIGTERM and waits for the end.
    pub(crate) fn stop(mut self, deadline: Duration) -> Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("a process id out of range")?;
        kill_process(pid, Signal::TERM).with_context(|| format!("cannot stop {}", self.name))?;
        let started = Instant::now();
        while self.is_running() {
            if started.elapsed() > deadline {
                bail!("{} does not stop on SIGTERM within {deadline:?}:\n{}", self.name, self.log_end());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// The last lines that it printed.
    fn log_end(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines.get(lines.len().saturating_sub(15)..).unwrap_or_default().join("\n")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail only when the process has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads `/proc/PID/stat` (proc_pid_stat(5)): the 4th field is the parent, the 14th to 17th are the CPU times, of the process
/// and of the children that it has waited for. The second field is the program's name in parentheses, which may itself hold
/// anything.
fn parse_stat(id: u32, stat: &str) -> Option<Process> {
    let (_, rest) = stat.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split(' ').collect();
    let parent = fields.get(1)?.parse().ok()?;
    let ticks: f64 = fields.get(11..15)?.iter().filter_map(|ticks| ticks.parse::<f64>().ok()).sum();
    Some(Process { id, parent, cpu: Duration::from_secs_f64(ticks / TICKS_PER_SECOND) })
}

/// Of these processes `root` and all that came from it.
fn family_of(root: u32, mut others: Vec<Process>) -> Vec<Process> {
    let mut family: Vec<Process> = others.extract_if(.., |process| process.id == root).collect();
    let mut next = 0;
    while let Some(parent) = family.get(next).map(|process| process.id) {
        family.extend(others.extract_if(.., |process| process.parent == parent));
        next += 1;
    }
    family
}

fn parse_memory(status: &str) -> Option<Memory> {
    Some(Memory { rss: parse_kib(status, "VmRSS:")?, anonymous: parse_kib(status, "RssAnon:")? })
}

/// The bytes in one line of `/proc/PID/status`.
fn parse_kib(status: &str, key: &str) -> Option<u64> {
    let kib = status.lines().find_map(|line| line.strip_prefix(key)?.strip_suffix(" kB"))?;
    Some(kib.trim().parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_files_are_read() {
        let stat = "42 (a ) b) S 1 42 42 0 -1 4194304 100 0 0 0 150 50 0 0 20 0 5 0 100 1000 200";
        let process = Process { id: 42, parent: 1, cpu: Duration::from_secs(2) };
        assert_eq!(parse_stat(42, stat), Some(process));
        assert_eq!(parse_stat(42, ""), None);
        let memory = parse_memory("Name:\tx\nVmRSS:\t    1024 kB\nRssAnon:\t     512 kB\n").unwrap();
        assert_eq!((memory.rss, memory.anonymous), (1024 * 1024, 512 * 1024));
        assert!(parse_memory("Name:\tx\n").is_none());
    }

    #[test]
    fn a_family_is_a_process_and_all_that_came_from_it() {
        let process = |(id, parent)| Process { id, parent, cpu: Duration::ZERO };
        let all = [(1, 0), (9, 7), (5, 1), (7, 5), (6, 5), (8, 2), (2, 1)].map(process).to_vec();
        let ids: Vec<u32> = family_of(5, all.clone()).iter().map(|process| process.id).collect();
        assert_eq!(ids, [5, 7, 6, 9]);
        assert_eq!(family_of(99, all), []);
    }

    #[test]
    fn descendants_are_counted_apart() {
        let folder = tempfile::tempdir().unwrap();
        let mut command = server_command("sh");
        command.args(["-c", "sleep 60 & sleep 60 & wait"]);
        let mut server = Server::start("sh", &mut command, None, &folder.path().join("log")).unwrap();
        let are_there = |server: &Server| server.descendants().unwrap().count == 2;
        while !are_there(&server) {
            assert!(server.is_running() && server.started.elapsed() < Duration::from_secs(10));
        }
        assert!(server.descendants().unwrap().memory.rss > 0);
        server.wait_until_quiet().unwrap();
    }

    #[test]
    fn a_server_is_measured_and_does_not_outlive_its_guard() {
        let folder = tempfile::tempdir().unwrap();
        let mut command = server_command("sleep");
        let mut server = Server::start("sleep", command.arg("60"), None, &folder.path().join("log")).unwrap();
        server.wait_until(Duration::from_secs(10), || true).unwrap();
        server.forget_peak().unwrap();
        assert!(server.memory().unwrap().rss > 0 && server.peak().unwrap() > 0);
        let proc = PathBuf::from(format!("/proc/{}", server.child.id()));
        drop(server);
        assert!(!proc.exists());
    }

    #[test]
    fn a_server_that_ends_early_shows_what_it_printed() {
        let folder = tempfile::tempdir().unwrap();
        let mut command = server_command("sh");
        command.args(["-c", "echo the port is taken; exit 3"]);
        let mut server = Server::start("sh", &mut command, None, &folder.path().join("log")).unwrap();
        let error = server.wait_until(Duration::from_secs(10), || false).unwrap_err().to_string();
        assert!(error.contains("the port is taken"), "{error}");
    }
}
