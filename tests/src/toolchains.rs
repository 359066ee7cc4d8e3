//! Toolchains of other languages than Rust. `cargo xtask test` installs them and names their folder here.

use std::{env, path::PathBuf};

use crate::Cli;

/// A user who can build apps in Python, Go, C and Zig.
#[track_caller]
pub fn with_languages(cli: Cli) -> Cli {
    let Some(home) = env::var_os("MINNOW_TEST_LANGUAGES").map(PathBuf::from) else {
        let paths: Vec<_> = env::split_paths(&env::var_os("PATH").unwrap()).collect();
        for program in ["componentize-py", "go", "zig"] {
            let is_there = paths.iter().any(|path| path.join(program).is_file());
            assert!(is_there, "this test builds an app, and {program} is not installed: run `cargo xtask test`");
        }
        return cli;
    };
    let path = format!("{}:{}", home.join("bin").display(), env::var("PATH").unwrap());
    // What Go and Zig keep of earlier builds. Without it each run compiles their libraries, which takes half a minute.
    let cache = |name: &str| home.join("cache").join(name).display().to_string();
    cli.env("PATH", &path).env("GOCACHE", &cache("go")).env("ZIG_GLOBAL_CACHE_DIR", &cache("zig"))
}

/// Where Minnow keeps the programs for JavaScript that it installs by itself: the machine's own folder, not that of a test's
/// user, so that they are installed once. It is the value of `MINNOW_TOOLS_DIR` for commands and nodes.
pub fn js_tools_dir() -> String {
    let home = || PathBuf::from(env::var_os("HOME").unwrap()).join(".cache/minnow/tools").display().to_string();
    env::var("MINNOW_TOOLS_DIR").unwrap_or_else(|_| home())
}
