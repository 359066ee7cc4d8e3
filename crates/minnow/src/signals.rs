//! SIGINT and SIGTERM, and for `dev` SIGHUP: the first asks to drain, the second to stop at once.

use std::{fs, future, io};

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals, from the moment on at which this is made.
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Option<Signal>,
}

impl Signals {
    /// Takes over the signals. Needs a tokio runtime.
    pub fn new() -> io::Result<Self> {
        let (interrupt, terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        Ok(Self { interrupt, terminate, hangup: None })
    }

    /// Takes over SIGHUP too, which comes when the terminal is closed; not where it is ignored, as `nohup` has it.
    pub fn and_hangup(mut self) -> io::Result<Self> {
        if !fs::read_to_string("/proc/self/status").is_ok_and(|status| ignores_hangup(&status)) {
            self.hangup = Some(signal(SignalKind::hangup())?);
        }
        Ok(self)
    }

    /// Waits for the next one and gives its name. Safe to cancel.
    pub async fn next(&mut self) -> &'static str {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
            _ = hangup => "SIGHUP",
        }
    }
}

/// Whether a process ignores SIGHUP: the first bit of its mask of ignored signals (proc_pid_status(5)).
fn ignores_hangup(status: &str) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ignored_hangup_is_read_from_the_mask() {
        for (status, expected) in [
            ("Name:\tminnow\nSigIgn:\t0000000000001001\nSigCgt:\t0000000000000000\n", true),
            ("SigIgn:\t0000000000001000\nSigCgt:\t0000000000000001\n", false),
            ("", false),
        ] {
            assert_eq!(ignores_hangup(status), expected, "{status}");
        }
    }
}
