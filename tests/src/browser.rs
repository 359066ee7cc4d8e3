//! Pages in a real browser: Debian's Chromium, driven by playwright-core from npm. `cargo xtask test` installs both.

use std::{env, path::PathBuf, time::Duration};

use crate::{
    Cli, Ran,
    process::{self, command},
    repository,
};

/// How long a script may take. Each of its steps has a limit of its own, and says which one was too slow.
const PATIENCE: Duration = Duration::from_secs(300);

/// Runs a script of `tests/browser/` in Node.js, against the app at `url`.
#[track_caller]
pub fn run_in_browser(script: &str, url: &str) -> Ran {
    let home = env::var_os("MINNOW_TEST_BROWSER").map(PathBuf::from);
    let home = home.unwrap_or_else(|| PathBuf::from(env::var_os("HOME").unwrap()).join(".cache/minnow-browser"));
    let missing =
        |what: &str| format!("this test opens a browser, and {what} is not installed: run `cargo xtask test`");
    assert!(home.join("node_modules/playwright-core").is_dir(), "{}", missing("playwright-core"));
    let programs = ["node", "chromium"].map(|name| on_path(name).unwrap_or_else(|| panic!("{}", missing(name))));
    let [node, chromium] = programs;
    // A home of its own, since a browser keeps a profile.
    let user = Cli::new();
    let mut command = command(&node);
    command.arg(repository().join("tests/browser").join(script)).arg(url).arg(home).arg(chromium);
    command.env("HOME", user.home()).current_dir(user.home());
    process::run(command, None, PATIENCE)
}

fn on_path(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|folder| folder.join(program)).find(|path| path.is_file())
}
