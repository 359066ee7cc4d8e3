//! `cargo xtask test`: what the tests need, installed by name where it is missing, and then every test.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::wasm_toolchain::{Toolchain, install_packages};
use crate::{browser, cargo, languages, must_run};

/// Something that the tests use and a machine with only Rust may lack.
struct Need {
    what: &'static str,
    why: &'static str,
    is_there: fn() -> bool,
    install: fn() -> Result<()>,
}

fn needs() -> [Need; 6] {
    [
        Need {
            what: "npm",
            why: "with which minnow installs Deno and esbuild",
            is_there: || browser::is_on_path("npm"),
            install: || install_packages(&["nodejs", "npm"], "with which minnow installs Deno and esbuild"),
        },
        Need {
            what: "Python with venv",
            why: "for the toolchains from PyPI",
            is_there: || languages::has_venv(),
            install: || install_packages(&["python3", "python3-venv"], "or put a python3 that has venv on PATH"),
        },
        Need {
            what: "a Rust toolchain for wasm32-wasip2",
            why: "to build the app that `minnow new` makes",
            is_there: || Toolchain::find().is_some(),
            install: || Toolchain::find_or_install().map(drop),
        },
        Need {
            what: "toolchains for Python, Go, C and Zig",
            why: "to build the apps that `minnow new --template` makes",
            is_there: || languages::find().is_some(),
            install: || languages::find_or_install().map(drop),
        },
        Need {
            what: "strace",
            why: "which has calls of the system fail as a bad disk does",
            is_there: || browser::is_on_path("strace"),
            install: || install_packages(&["strace"], "or put a program `strace` on PATH"),
        },
        Need {
            what: "Chromium and playwright-core",
            why: "to open the example's pages in a browser",
            is_there: || browser::find().is_some(),
            install: || browser::find_or_install().map(drop),
        },
    ]
}

/// Where cargo builds.
fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| crate::root().join("target"), PathBuf::from)
}

pub(crate) fn run(arguments: &[String]) -> Result<()> {
    for need in needs() {
        if !(need.is_there)() {
            println!("missing: {}, {}", need.what, need.why);
            (need.install)().with_context(|| format!("cannot install {}", need.what))?;
        }
    }
    // Built with the features of the whole workspace, which the tests are built with too; otherwise every dependency that
    // differs would be built twice.
    let mut build = cargo();
    build.args(["build", "--workspace", "--bin", "minnow"]);
    must_run(&mut build)?;
    let mut command = cargo();
    command.args(["test", "--workspace"]).args(arguments);
    command.env("MINNOW_TEST_BIN", target_dir().join("debug/minnow"));
    // Tests that build an app put this folder first in its PATH; it is empty where cargo needs no help.
    let toolchain = Toolchain::find_or_install()?;
    let entry = toolchain.path_entry().map(|path| path.as_os_str().to_owned());
    command.env("MINNOW_TEST_WASM_PATH", entry.unwrap_or_default());
    command.env("MINNOW_TEST_LANGUAGES", languages::find_or_install()?);
    command.env("MINNOW_TEST_BROWSER", browser::find_or_install()?);
    must_run(&mut command)
}
