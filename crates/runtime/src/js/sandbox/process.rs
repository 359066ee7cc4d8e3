//! One sandboxed Deno, as the node holds it.

use std::{
    fmt, fs, io,
    mem::ManuallyDrop,
    ops::Deref,
    os::{
        fd::{AsFd, AsRawFd as _, OwnedFd},
        unix::{fs::PermissionsExt as _, net::UnixListener},
    },
    path::PathBuf,
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};
use tempfile::TempDir;
use tokio::io::unix::AsyncFd;

use super::cgroup::Group;

/// A Deno that has been started.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) running: Running,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
    /// Listens where the function's outbound requests go, `/run/egress`.
    pub(crate) egress: UnixListener,
    /// Listens where the function asks for its stores, `/run/data`.
    pub(crate) data: UnixListener,
}

/// A Deno in its sandbox, which lives as long as there are clones of this. The drop of the last one kills it; its end is
/// waited for, and everything of it taken away, on a thread of its own.
#[derive(Debug, Clone)]
pub(crate) struct Running(pub(super) Arc<Held>);

/// A process whose drop does not block: that may happen anywhere, also where requests are served.
#[derive(Debug)]
pub(super) struct Held {
    process: ManuallyDrop<Process>,
    endings: Arc<Endings>,
}

/// A process. Its drop kills it, waits for its end, 4 ms, and then for its memory group.
///
/// The number of the process is not given to another one as long as this value lives, because nobody else waits for it:
/// all but the drop only look how it has ended, without taking it away.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) pid: Pid,
    pub(super) pidfd: OwnedFd,
    pub(super) cpu_clock: libc::clockid_t,
    pub(super) run: RunFolder,
    pub(super) group: Option<Group>,
}

/// Where the sockets are.
#[derive(Debug)]
pub(super) enum RunFolder {
    /// A tmpfs that only the sandbox sees; this is the way in.
    Inside(OwnedFd),
    Host(TempDir),
}

impl RunFolder {
    /// The path under which the node reaches the folder. Short, as a path to a socket has at most 107 bytes.
    fn path(&self) -> PathBuf {
        match self {
            Self::Inside(fd) => format!("/proc/self/fd/{}", fd.as_raw_fd()).into(),
            Self::Host(folder) => folder.path().into(),
        }
    }
}

/// How a process has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    Exited(i32),
    /// By this signal.
    Killed(i32),
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::Exited(code) => return write!(f, "exited with {code}"),
            Self::Killed(libc::SIGKILL) => "SIGKILL",
            Self::Killed(libc::SIGSEGV) => "SIGSEGV",
            Self::Killed(libc::SIGTRAP) => "SIGTRAP",
            Self::Killed(libc::SIGILL) => "SIGILL",
            Self::Killed(libc::SIGABRT) => "SIGABRT",
            Self::Killed(libc::SIGBUS) => "SIGBUS",
            Self::Killed(libc::SIGSYS) => "SIGSYS",
            Self::Killed(signal) => return write!(f, "killed by signal {signal}"),
        };
        write!(f, "killed by {name}")
    }
}

impl Running {
    /// For tests that look from the outside. To act on the process use the methods, which cannot hit another one.
    #[cfg(test)]
    pub(crate) fn pid(&self) -> i32 {
        self.0.pid.as_raw_nonzero().get()
    }

    /// Where Deno listens. Valid as long as the process is held.
    pub(crate) fn http_socket(&self) -> PathBuf {
        self.0.run.path().join("http")
    }

    /// Ends it at once, if it has not ended.
    pub(crate) fn kill(&self) {
        self.0.signal(Signal::KILL);
    }

    /// Stops all its threads until [`Running::resume`].
    pub(crate) fn pause(&self) {
        self.0.signal(Signal::STOP);
    }

    pub(crate) fn resume(&self) {
        self.0.signal(Signal::CONT);
    }

    /// Waits until it has ended. On a tokio runtime; several may wait.
    pub(crate) async fn exited(&self) -> io::Result<Ended> {
        // A descriptor of its own: a runtime watches each only once.
        let pidfd = self.0.pidfd.try_clone()?;
        // SAFETY: an owned descriptor stays the same and open until it is dropped, and the runtime's watch owns it.
        let pidfd = unsafe { AsyncFd::register(pidfd) }.map_err(io::Error::from)?;
        loop {
            let mut readable = pidfd.readable().await?;
            match self.0.ended()? {
                Some(ended) => return Ok(ended),
                None => readable.clear_ready(),
            }
        }
    }

    /// The CPU time of all its threads, those that have ended included, in nanoseconds. `None` after the process has
    /// ended.
    pub(crate) fn cpu_ns(&self) -> Option<u64> {
        let time = self.0.cpu_time().ok()?;
        u64::try_from(time.as_nanos()).ok()
    }

    /// The memory that it holds and shares with nobody, in bytes. `None` after the process has ended.
    pub(crate) fn memory_bytes(&self) -> Option<u64> {
        self.0.status().ok()?.bytes("RssAnon:").ok()
    }

    /// Whether the kernel has killed it because its memory group was full. Without one see [`says_out_of_memory`].
    pub(crate) fn was_out_of_memory(&self) -> bool {
        self.0.group.as_ref().is_some_and(Group::has_killed)
    }

    /// What it has mapped of memory of its own, and does not use.
    pub(super) fn unused_bytes(&self) -> io::Result<u64> {
        let status = self.0.status()?;
        Ok(status.bytes("VmData:")?.saturating_sub(status.bytes("RssAnon:")?))
    }
}

impl Held {
    pub(super) fn new(process: Process, endings: &Arc<Endings>) -> Self {
        Self { process: ManuallyDrop::new(process), endings: Arc::clone(endings) }
    }
}

impl Deref for Held {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // SAFETY: this is the drop, so nothing uses the value afterwards.
        let process = unsafe { ManuallyDrop::take(&mut self.process) };
        process.signal(Signal::KILL);
        let ending = self.endings.begin();
        let end = move || {
            drop(process);
            drop(ending);
        };
        // Where there is no thread to be had, this drops the closure, and so waits here.
        let _ = thread::Builder::new().name("js-end".into()).stack_size(END_STACK_BYTES).spawn(end);
    }
}

/// It does a handful of system calls.
const END_STACK_BYTES: usize = 64 << 10;

/// The processes of a sandbox that are ending: killed, and not taken away yet.
#[derive(Debug, Default)]
pub(super) struct Endings {
    count: Mutex<usize>,
    ended: Condvar,
}

impl Endings {
    /// One more, until what is returned is dropped.
    fn begin(self: &Arc<Self>) -> Ending {
        *self.count.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        Ending(Arc::clone(self))
    }

    /// Waits until there are at most so many. Whether that has come.
    pub(super) fn wait(&self, at_most: usize, within: Duration) -> bool {
        let count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.ended.wait_timeout_while(count, within, |count| *count > at_most);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }
}

/// A process that is ending.
struct Ending(Arc<Endings>);

impl Drop for Ending {
    fn drop(&mut self) {
        *self.0.count.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.0.ended.notify_all();
    }
}

impl Process {
    fn signal(&self, signal: Signal) {
        // The one error there can be is that it has ended.
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, signal);
    }

    /// How it has ended, or `None` while it runs.
    pub(super) fn ended(&self) -> io::Result<Option<Ended>> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        let ended = || rustix::process::waitid(WaitId::PidFd(self.pidfd.as_fd()), options);
        let status = rustix::io::retry_on_intr(ended)?;
        Ok(status.and_then(|status| {
            status.exit_status().map(Ended::Exited).or_else(|| status.terminating_signal().map(Ended::Killed))
        }))
    }

    fn cpu_time(&self) -> io::Result<Duration> {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: `time` is a timespec that lives through the call.
        if unsafe { libc::clock_gettime(self.cpu_clock, &raw mut time) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
        Ok(Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0)))
    }

    fn status(&self) -> io::Result<Status> {
        Ok(Status(fs::read_to_string(format!("/proc/{}/status", self.pid.as_raw_nonzero()))?))
    }
}

/// The file /proc/PID/status.
struct Status(String);

impl Status {
    fn bytes(&self, key: &str) -> io::Result<u64> {
        let line = self.0.lines().find_map(|line| line.strip_prefix(key));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        kib.map(|kib| kib * 1024).ok_or_else(|| io::Error::other("the process has no memory any more"))
    }
}

/// Whether a line of Deno's standard error says that it has ended for want of memory.
pub(crate) fn says_out_of_memory(line: &str) -> bool {
    // V8: "Fatal JavaScript out of memory: …", "Fatal process out of memory: …". Rust: "memory allocation of 1 bytes
    // failed".
    line.contains("out of memory: ") && line.contains("Fatal ")
        || line.starts_with("memory allocation of ") && line.ends_with(" failed")
}

impl Drop for Process {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
        // This one takes it away, and with it every process that there might be in its namespace.
        while rustix::process::waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED)
            .is_err_and(|error| error == rustix::io::Errno::INTR)
        {}
    }
}

/// The clock of the CPU time of a process that has not been waited for.
pub(super) fn cpu_clock(pid: Pid) -> io::Result<libc::clockid_t> {
    let mut clock = 0;
    // SAFETY: `clock` is a clockid_t that lives through the call.
    match unsafe { libc::clock_getcpuclockid(pid.as_raw_nonzero().get(), &raw mut clock) } {
        0 => Ok(clock),
        code => Err(io::Error::from_raw_os_error(code)),
    }
}

/// A socket on which the node takes what the function wants of it.
pub(super) fn listen(run: &RunFolder, name: &str) -> io::Result<UnixListener> {
    let path = run.path().join(name);
    let listener = UnixListener::bind(&path)?;
    // Whoever Deno is: nobody else gets into the folder.
    fs::set_permissions(path, fs::Permissions::from_mode(0o666))?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_ending_counts_in_its_own_sandbox_until_it_has_ended() {
        let (endings, others) = (Arc::<Endings>::default(), Arc::<Endings>::default());
        let ending = (endings.begin(), endings.begin());
        assert!(endings.wait(2, Duration::ZERO) && !endings.wait(1, Duration::ZERO));
        assert!(others.wait(0, Duration::ZERO));
        thread::spawn(move || drop(ending));
        assert!(endings.wait(0, Duration::from_secs(60)));
    }
}
