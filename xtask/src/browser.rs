//! The browser that tests open pages in: Chromium from Debian, and playwright-core from npm, which drives it and brings none
//! of its own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use crate::{must_run, wasm_toolchain::install_packages};

/// A fixed release, so that a test today and one next year do the same. It drives every newer Chromium too, by the protocol
/// that stays.
const PLAYWRIGHT: &str = "1.65.1";
/// The oldest Node.js that this release runs on.
const MIN_NODE: u32 = 20;

/// The folder with playwright-core in its `node_modules`, where that and Chromium are installed.
pub(crate) fn find() -> Option<PathBuf> {
    let home = home().ok()?;
    (has_playwright(&home) && is_on_path("chromium")).then_some(home)
}

/// The folder, with what is missing installed now.
pub(crate) fn find_or_install() -> Result<PathBuf> {
    let home = home()?;
    if !is_on_path("chromium") {
        install_packages(&["chromium"], "or put a program `chromium` on PATH")?;
    }
    if !has_playwright(&home) {
        ensure_node()?;
        println!("installing playwright-core {PLAYWRIGHT} from npm into {} (14 MB)", home.display());
        fs::create_dir_all(&home).with_context(|| format!("cannot make {}", home.display()))?;
        let mut install = Command::new("npm");
        install.args(["install", "--prefix"]).arg(&home).args(["--no-save", "--no-audit", "--no-fund"]);
        must_run(install.args(["--ignore-scripts", &format!("playwright-core@{PLAYWRIGHT}")]))?;
    }
    Ok(home)
}

/// Whether a program is on PATH.
pub(crate) fn is_on_path(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(program).is_file()))
}

fn has_playwright(home: &Path) -> bool {
    let package = home.join("node_modules/playwright-core/package.json");
    fs::read(package).is_ok_and(|text| version(&text).as_deref() == Some(PLAYWRIGHT))
}

/// The version in a package.json.
fn version(package: &[u8]) -> Option<String> {
    let package: serde_json::Value = serde_json::from_slice(package).ok()?;
    Some(package.get("version")?.as_str()?.to_owned())
}

fn ensure_node() -> Result<()> {
    let output = Command::new("node").arg("--version").output().context("cannot start node: install Node.js")?;
    let printed = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let is_enough = major(&printed).is_some_and(|major| major >= MIN_NODE);
    ensure!(is_enough, "playwright-core needs Node.js {MIN_NODE} or newer, and `node --version` says {printed}");
    Ok(())
}

/// 20 of `v20.11.1`.
fn major(version: &str) -> Option<u32> {
    version.strip_prefix('v')?.split('.').next()?.parse().ok()
}

fn home() -> Result<PathBuf> {
    match std::env::var_os("MINNOW_BROWSER_HOME") {
        Some(home) => Ok(home.into()),
        None => {
            let home = std::env::var_os("HOME").context("HOME is not set")?;
            Ok(PathBuf::from(home).join(".cache/minnow-browser"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_what_npm_and_node_say() {
        assert_eq!(version(br#"{"name": "playwright-core", "version": "1.65.1"}"#).as_deref(), Some("1.65.1"));
        assert_eq!(version(b"not JSON"), None);
        assert_eq!(major("v20.11.1"), Some(20));
        assert_eq!(major("20"), None);
    }
}
