//! A build command, and how it ends together with all that it started.

use std::{
    io,
    path::Path,
    process::{ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};
use tokio::process::{Child, Command};

/// How long a command may take to end once it is told to. It may have files to put away, or a container to stop.
const GRACE: Duration = Duration::from_secs(2);
/// How often is looked whether it has ended: far below what a person notices.
const LOOK: Duration = Duration::from_millis(10);

/// The process group of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// This process's: Ctrl-C on the terminal goes to the command too, and ends both.
    Ours,
    /// One of its own. All of it ends when the command is not waited for any more, whoever sent this process a signal.
    Own,
}

/// Runs `command` with `sh` in `dir`. Its output goes to stderr, since stdout may carry JSON.
pub async fn run(dir: &Path, command: &str, group: Group) -> io::Result<ExitStatus> {
    let mut shell = Command::new("sh");
    shell
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(io::stderr())
        // Building runs the build scripts of every dependency; none of them needs to talk to the node.
        .env_remove("MINNOW_TOKEN")
        .kill_on_drop(true);
    match group {
        Group::Ours => shell.args(["-c", command]),
        // A terminal stops a group in the background that asks for input; this way the question fails instead.
        Group::Own => shell.arg("-c").arg(format!("trap '' TTIN TTOU; {command}")).process_group(0),
    };
    let mut running = Running { child: shell.spawn()?, group };
    running.child.wait().await
}

/// A command under way. Dropping it before its end ends its group.
struct Running {
    child: Child,
    group: Group,
}

impl Drop for Running {
    fn drop(&mut self) {
        // No id: it has ended, and what it left running is meant to run.
        let id = self.child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        let Some(group) = id.filter(|_| self.group == Group::Own) else { return };
        if kill_process_group(group, Signal::TERM).is_err() {
            return;
        }
        let deadline = Instant::now() + GRACE;
        while Instant::now() < deadline {
            // A shell that has ended is in the group until it is waited for.
            let _ = self.child.try_wait();
            if test_kill_process_group(group).is_err() {
                return;
            }
            thread::sleep(LOOK);
        }
        // Fails when the group is gone, which is what it is for.
        let _ = kill_process_group(group, Signal::KILL);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Starts a command that writes the id of a child of its own to `pid`, and gives up on it once that is there.
    async fn abandoned(script: &str) -> Pid {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        let written = async {
            loop {
                match fs::read_to_string(&file) {
                    Ok(text) if text.ends_with('\n') => break text.trim().parse().unwrap(),
                    _ => tokio::time::sleep(LOOK).await,
                }
            }
        };
        tokio::select! {
            ended = run(dir.path(), script, Group::Own) => panic!("it ended: {ended:?}"),
            pid = tokio::time::timeout(Duration::from_secs(60), written) => Pid::from_raw(pid.expect("it starts")).unwrap(),
        }
    }

    /// Whether a process runs; one that has ended and was not waited for does not.
    fn runs(pid: Pid) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
        stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
    }

    #[tokio::test]
    async fn what_a_command_started_ends_with_it() {
        let pid = abandoned("sleep 600 & echo $! > pid; wait").await;
        assert!(!runs(pid), "it was told to end");
    }

    #[tokio::test]
    async fn a_command_that_does_not_want_to_end_is_killed() {
        let pid = abandoned("trap '' TERM; sh -c 'while true; do sleep 600; done' & echo $! > pid; wait").await;
        let deadline = Instant::now() + Duration::from_secs(60);
        while runs(pid) {
            assert!(Instant::now() < deadline, "it goes on");
            thread::sleep(LOOK);
        }
    }

    #[tokio::test]
    async fn what_a_command_leaves_running_on_purpose_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let status = run(dir.path(), "sleep 600 & echo $! > pid", Group::Own).await.unwrap();
        assert!(status.success());
        let pid = fs::read_to_string(dir.path().join("pid")).unwrap().trim().parse().unwrap();
        let pid = Pid::from_raw(pid).unwrap();
        assert!(runs(pid));
        rustix::process::kill_process(pid, Signal::KILL).unwrap();
    }
}
