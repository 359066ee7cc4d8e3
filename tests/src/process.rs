//! Processes of the tests: none outlives them, none runs for ever.

use std::{
    env,
    io::{Read as _, Seek as _, Write as _},
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Mutex, OnceLock, mpsc},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::{Pid, PidfdFlags, Signal, pidfd_open, set_parent_process_death_signal},
};

use crate::toolchains;

/// What came of a process that has ended.
#[derive(Debug, Clone)]
pub struct Ran {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    /// The exit code; panics where a signal ended the process.
    #[track_caller]
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| panic!("ended by a signal: {self:?}"))
    }

    /// Panics unless the process said on stderr every one of `parts`.
    #[track_caller]
    pub fn says(&self, parts: &[&str]) -> &Self {
        for part in parts {
            assert!(self.stderr.contains(part), "stderr does not say `{part}`:\n{}", self.stderr);
        }
        self
    }
}

/// A command whose environment has nothing of the tests' own but the way to programs, temporary files, and what Minnow has
/// installed for JavaScript.
pub(crate) fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_clear();
    for name in ["PATH", "TMPDIR"] {
        if let Some(value) = env::var_os(name) {
            command.env(name, value);
        }
    }
    // Every user and node of the tests has a home of its own, and would install them anew.
    command.env("MINNOW_TOOLS_DIR", toolchains::js_tools_dir());
    command
}

/// Starts a process that ends with the tests, however they end.
pub(crate) fn spawn(mut command: Command) -> Child {
    type Order = (Command, mpsc::Sender<std::io::Result<Child>>);
    // The kernel takes the thread that made the child for its parent, and a test's thread ends with the test.
    static NURSERY: OnceLock<Mutex<mpsc::Sender<Order>>> = OnceLock::new();
    let nursery = NURSERY.get_or_init(|| {
        let (sender, orders) = mpsc::channel::<Order>();
        thread::spawn(move || {
            for (mut command, reply) in orders {
                let _ = reply.send(command.spawn());
            }
        });
        Mutex::new(sender)
    });
    // SAFETY: the closure makes one system call, which is allowed between fork and exec.
    unsafe {
        command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?));
    }
    let (reply, answer) = mpsc::channel();
    nursery.lock().unwrap().send((command, reply)).unwrap();
    answer.recv().unwrap().expect("the process starts")
}

/// Waits for a process to end, and kills it at the deadline.
pub(crate) fn wait(child: &mut Child, patience: Duration) -> Option<ExitStatus> {
    let ending =
        pidfd_open(Pid::from_child(child), PidfdFlags::empty()).expect("a child that was not waited for is there");
    let deadline = Instant::now() + patience;
    let has_ended = loop {
        let left = Timespec::try_from(deadline.saturating_duration_since(Instant::now())).unwrap();
        match poll(&mut [PollFd::new(&ending, PollFlags::IN)], Some(&left)) {
            Err(Errno::INTR) => {}
            ready => break ready.expect("a child can be waited for") > 0,
        }
    };
    if !has_ended {
        let _ = child.kill();
    }
    let status = child.wait().expect("a child can be waited for");
    has_ended.then_some(status)
}

/// Runs a process to its end with `input` on its stdin.
#[track_caller]
pub(crate) fn run(mut command: Command, input: Option<&[u8]>, patience: Duration) -> Ran {
    let description = format!("{command:?}");
    let (mut stdout, mut stderr) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
    command.stdout(stdout.try_clone().unwrap()).stderr(stderr.try_clone().unwrap());
    match input {
        None => command.stdin(Stdio::null()),
        Some(bytes) => {
            let mut stdin = tempfile::tempfile().unwrap();
            stdin.write_all(bytes).unwrap();
            stdin.rewind().unwrap();
            command.stdin(stdin)
        }
    };
    let mut child = spawn(command);
    let status = wait(&mut child, patience);
    let read = |file: &mut std::fs::File| {
        let mut bytes = Vec::new();
        file.rewind().and_then(|()| file.read_to_end(&mut bytes)).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let (stdout, stderr) = (read(&mut stdout), read(&mut stderr));
    match status {
        Some(status) => Ran { status, stdout, stderr },
        None => panic!("{description} did not end in {patience:?}\n{stdout}\n{stderr}"),
    }
}
