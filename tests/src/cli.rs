//! The commands of a user.

use std::{
    ffi::OsStr,
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{
    Node, eventually, minnow,
    process::{self, Ran},
};

/// How long one command may take. Building an app from crates.io is the longest.
const PATIENCE: Duration = Duration::from_secs(900);

/// A user at a shell: a home of their own, a folder that they are in, and an environment.
#[derive(Debug, Clone)]
pub struct Cli {
    home: Arc<TempDir>,
    dir: PathBuf,
    env: Vec<(String, String)>,
}

/// What a command showed on a terminal, with everything that moves the cursor, and its exit code.
#[derive(Debug, Clone)]
pub struct Shown {
    pub text: String,
    pub code: i32,
}

impl Cli {
    /// A user who knows of no node.
    #[expect(clippy::new_without_default, reason = "it makes a folder")]
    pub fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        Self { dir: home.path().to_owned(), home: Arc::new(home), env: Vec::new() }
    }

    /// A user whose environment names a node and its token.
    pub fn of(node: &Node) -> Self {
        Self::new().env("MINNOW_SERVER", &node.server()).env("MINNOW_TOKEN", &node.token())
    }

    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    #[must_use]
    pub fn in_dir(mut self, dir: &Path) -> Self {
        self.dir = dir.to_owned();
        self
    }

    /// The user's home.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// A command of this user, to be changed further.
    pub fn command<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Command {
        let mut command = process::command(minnow());
        command.env("HOME", self.home()).env("XDG_CONFIG_HOME", self.home().join("config"));
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command.current_dir(&self.dir).args(arguments);
        command
    }

    /// Runs a command to its end.
    #[track_caller]
    pub fn run<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Ran {
        process::run(self.command(arguments), None, PATIENCE)
    }

    /// Runs a command that reads `input`.
    #[track_caller]
    pub fn run_with<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>, input: &[u8]) -> Ran {
        process::run(self.command(arguments), Some(input), PATIENCE)
    }

    /// Runs a command that has to succeed, and gives what it printed.
    #[track_caller]
    pub fn ok<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> String {
        let command = self.command(arguments);
        let description = format!("{:?}", command.get_args());
        let ran = process::run(command, None, PATIENCE);
        assert!(ran.status.success(), "{description} failed: {:?}\n{}{}", ran.status, ran.stdout, ran.stderr);
        ran.stdout
    }

    /// Runs a command that has to succeed and prints JSON.
    #[track_caller]
    pub fn json<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Value {
        let printed = self.ok(arguments);
        serde_json::from_str(&printed).unwrap_or_else(|error| panic!("not JSON: {error}\n{printed}"))
    }

    /// Runs a command that has to fail with exit code 1.
    #[track_caller]
    pub fn fails<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Ran {
        let ran = self.run(arguments);
        assert_eq!(ran.code(), 1, "{ran:?}");
        assert!(ran.stderr.starts_with("error:"), "an error begins with what it is: {}", ran.stderr);
        ran
    }

    /// Runs a command on a terminal of its own. Where a prompt is given, types the answer once it is shown.
    #[track_caller]
    pub fn on_a_terminal(&self, arguments: &str, typed: Option<(&str, &str)>) -> Shown {
        // `script` makes the terminal, and passes on what it reads.
        let mut command = process::command(Path::new("script"));
        let line = format!("{} {arguments}", minnow().display());
        command.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
        let like = self.command([""; 0]);
        command.envs(like.get_envs().filter_map(|(name, value)| Some((name, value?)))).env("TERM", "xterm-256color");
        command.current_dir(&self.dir).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = process::spawn(command);
        let (shown, mut stdout) = (Arc::new(Mutex::new(Vec::new())), child.stdout.take().unwrap());
        let reading = {
            let shown = Arc::clone(&shown);
            thread::spawn(move || {
                let mut piece = [0; 4096];
                while let Ok(length @ 1..) = stdout.read(&mut piece) {
                    shown.lock().unwrap().extend_from_slice(&piece[..length]);
                }
            })
        };
        let text = || String::from_utf8_lossy(&shown.lock().unwrap()).into_owned();
        if let Some((prompt, answer)) = typed {
            eventually(&format!("`{prompt}` is shown"), || {
                assert!(child.try_wait().unwrap().is_none(), "it ended: {}", text());
                text().contains(prompt).then_some(())
            });
            child.stdin.as_mut().unwrap().write_all(answer.as_bytes()).unwrap();
        }
        let status = process::wait(&mut child, PATIENCE).unwrap_or_else(|| panic!("it did not end: {}", text()));
        reading.join().unwrap();
        Shown { text: text(), code: status.code().unwrap() }
    }

    /// Starts a command that goes on; it is killed with the tests at the latest.
    pub fn start(&self, command: Command) -> Child {
        process::spawn(command)
    }
}
