//! Where the compiler for wasm32-wasip2 comes from.
//!
//! With rustup it is `rustup target add wasm32-wasip2`. Where that target is not installed, Debian's own packages
//! build it: a newer Rust (`rustc-web`), its library's sources (`rust-web-src`), LLVM's linker (`lld-22`) and
//! `wasi-libc`, and from crates.io `wasm-component-ld`. Two small scripts make them look like a plain cargo; they
//! live in a folder of their own, so nothing of the machine's usual toolchain changes.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::{cargo, must_run};

/// Debian's packages for Rust guests. `rustc-web` is the Rust that Debian keeps current for its browsers.
const RUST_PACKAGES: [&str; 5] = ["rustc-web", "cargo-web", "rust-web-src", "lld-22", "wasi-libc"];
/// Debian's packages for C guests.
const C_PACKAGES: [&str; 4] = ["clang-22", "libclang-rt-22-dev-wasm32", "lld-22", "wasi-libc"];

/// Of wasm-component-ld: a build today and one next year are the same.
const LINKER_VERSION: &str = "0.5.31";

/// Stands in for `cargo`: adds what Debian's Rust needs for a build with `--target wasm32-wasip2`, and is Debian's
/// plain cargo for everything else. `{bin}` is the folder that the script lies in.
const CARGO_SCRIPT: &str = r#"#!/bin/sh
# Written by `cargo xtask`. Debian's cargo, able to build for wasm32-wasip2.
export PATH="{bin}:$PATH" RUSTC=/usr/bin/rustc
unset LD_LIBRARY_PATH RUSTUP_TOOLCHAIN CARGO
case " $* " in
*" wasm32-wasip2 "* | *"=wasm32-wasip2 "*)
  # The standard library is built from source, which only a nightly or this variable allows.
  export RUSTC_BOOTSTRAP=1
  export RUSTFLAGS="-C link-self-contained=no -L/usr/lib/wasm32-wasi -C linker={bin}/wasm-linker ${RUSTFLAGS:-}"
  subcommand=$1
  shift
  exec /usr/bin/cargo "$subcommand" -Zbuild-std=std,panic_abort "$@"
  ;;
esac
exec /usr/bin/cargo "$@"
"#;

/// Stands in for `wasm-component-ld`: a program with a `main` is given wasi-libc's start file, which rustc would
/// otherwise take from a sysroot that Debian does not fill.
const LINKER_SCRIPT: &str = r#"#!/bin/sh
# Written by `cargo xtask`.
case " $* " in *" __main_void "*) set -- "$@" /usr/lib/wasm32-wasi/crt1-command.o ;; esac
exec wasm-component-ld "$@"
"#;

/// A cargo that can build for wasm32-wasip2.
pub(crate) enum Toolchain {
    /// The running toolchain has the target.
    Rustup,
    /// Debian's packages, through the scripts in this folder.
    Debian { bin: PathBuf },
}

impl Toolchain {
    /// The one that is installed, if any.
    pub(crate) fn find() -> Option<Self> {
        if rustup_has_target() {
            return Some(Self::Rustup);
        }
        let bin = home().ok()?.join("bin");
        // The linker from crates.io comes last in an installation, so with it everything is there.
        let complete =
            bin.join("wasm-component-ld").exists() && bin.join("cargo").exists() && debian_rust_is_installed();
        complete.then_some(Self::Debian { bin })
    }

    /// The one that is installed, or Debian's, installed now.
    pub(crate) fn find_or_install() -> Result<Self> {
        match Self::find() {
            // Rewritten each time, as they are part of this program and may have changed with it.
            Some(Self::Debian { bin }) => {
                write_scripts(&bin)?;
                Ok(Self::Debian { bin })
            }
            Some(found) => Ok(found),
            None => install(),
        }
    }

    /// A cargo for `dir`; the caller adds `--target wasm32-wasip2`.
    pub(crate) fn cargo(&self, dir: &Path) -> Command {
        let mut command = match self {
            Self::Rustup => cargo(),
            Self::Debian { bin } => Command::new(bin.join("cargo")),
        };
        command.current_dir(dir);
        command
    }

    /// The folder to put first in `PATH` so that a plain `cargo build --target wasm32-wasip2` works; `None` where
    /// it works already.
    pub(crate) fn path_entry(&self) -> Option<&Path> {
        match self {
            Self::Rustup => None,
            Self::Debian { bin } => Some(bin),
        }
    }

    /// Folders whose names must not end up in what is built, with what stands for them there.
    pub(crate) fn remapped_paths(&self) -> Vec<(PathBuf, &'static str)> {
        let library = match self {
            Self::Rustup => sysroot().map(|sysroot| sysroot.join("lib/rustlib/src/rust")),
            Self::Debian { .. } => Some(PathBuf::from("/usr/lib/rustlib/src/rust")),
        };
        let mut paths: Vec<_> = library.into_iter().map(|path| (path, "std")).collect();
        let registries = cargo_home().map(|home| home.join("registry/src"));
        for registry in registries.and_then(fs::read_dir).into_iter().flatten() {
            paths.extend(registry.ok().map(|entry| (entry.path(), "deps")));
        }
        paths
    }
}

/// `cargo xtask wasm-cargo`.
pub(crate) fn run_cargo(arguments: &[String]) -> Result<()> {
    let toolchain = Toolchain::find_or_install()?;
    let mut command = toolchain.cargo(&std::env::current_dir()?);
    let (before, after) = match arguments.iter().position(|argument| argument == "--") {
        Some(at) => arguments.split_at(at),
        None => (arguments, &[] as &[String]),
    };
    command.args(before);
    if !before.iter().any(|argument| argument.contains("wasm32-wasip2")) {
        command.args(["--target", "wasm32-wasip2"]);
    }
    must_run(command.args(after))
}

/// A clang that builds core modules for WASI 0.1: the WASI SDK's where `WASI_SDK_PATH` names one, else Debian's,
/// installed where it is missing.
pub(crate) fn find_or_install_clang() -> Result<PathBuf> {
    if let Some(sdk) = std::env::var_os("WASI_SDK_PATH") {
        return Ok(PathBuf::from(sdk).join("bin/clang"));
    }
    let clang = PathBuf::from("/usr/bin/clang-22");
    let builtins = Path::new("/usr/lib/llvm-22/lib/clang/22/lib/wasi/libclang_rt.builtins-wasm32.a");
    if !clang.exists() || !builtins.exists() || !Path::new("/usr/lib/wasm32-wasi").exists() {
        install_packages(&C_PACKAGES, "or set WASI_SDK_PATH to a WASI SDK")?;
    }
    Ok(clang)
}

fn rustup_has_target() -> bool {
    sysroot().is_some_and(|sysroot| sysroot.join("lib/rustlib/wasm32-wasip2/lib").is_dir())
}

/// Of the toolchain that runs this task.
fn sysroot() -> Option<PathBuf> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| OsString::from("rustc"));
    let output = Command::new(rustc).args(["--print", "sysroot"]).output().ok()?;
    let path = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| PathBuf::from(path.trim()))
}

fn debian_rust_is_installed() -> bool {
    [
        "/usr/bin/cargo",
        "/usr/bin/rustc",
        "/usr/bin/wasm-ld-22",
        "/usr/lib/rustlib/src/rust/library",
        "/usr/lib/wasm32-wasi/crt1-command.o",
    ]
    .iter()
    .all(|path| Path::new(path).exists())
}

fn install() -> Result<Toolchain> {
    let home = home()?;
    let bin = home.join("bin");
    if !debian_rust_is_installed() {
        install_packages(&RUST_PACKAGES, "or `rustup target add wasm32-wasip2`")?;
    }
    fs::create_dir_all(&bin).with_context(|| format!("cannot create {}", bin.display()))?;
    // Two names, one linker: wasm-component-ld asks for the first, rustc for the second.
    for name in ["wasm-ld", "rust-lld"] {
        let link = bin.join(name);
        if fs::symlink_metadata(&link).is_err() {
            symlink("/usr/bin/wasm-ld-22", &link).with_context(|| format!("cannot link {}", link.display()))?;
        }
    }
    write_scripts(&bin)?;
    if !bin.join("wasm-component-ld").exists() {
        println!("installing wasm-component-ld from crates.io (about two minutes)");
        let linker = ["install", "--quiet", "--locked", "wasm-component-ld", "--version", LINKER_VERSION, "--root"];
        must_run(cargo().args(linker).arg(&home))?;
    }
    Ok(Toolchain::Debian { bin })
}

fn write_scripts(bin: &Path) -> Result<()> {
    let folder = bin.to_str().context("the cache folder's name is not UTF-8")?;
    for (name, script) in [("cargo", CARGO_SCRIPT), ("wasm-linker", LINKER_SCRIPT)] {
        let script = script.replace("{bin}", folder);
        let path = bin.join(name);
        if fs::read_to_string(&path).is_ok_and(|old| old == script) {
            continue;
        }
        // Renamed into place: another build may be running the old one.
        let new = bin.join(format!("{name}.{}", std::process::id()));
        fs::write(&new, script)
            .and_then(|()| fs::set_permissions(&new, fs::Permissions::from_mode(0o755)))
            .and_then(|()| fs::rename(&new, &path))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

pub(crate) fn install_packages(packages: &[&str], alternative: &str) -> Result<()> {
    let names = packages.join(" ");
    if !Path::new("/usr/bin/apt-get").exists() {
        bail!("install {names}, {alternative}");
    }
    println!("installing {names} from Debian (about a minute)");
    let update = ["update", "-qq"].as_slice();
    let install = ["install", "-y", "-qq", "--no-install-recommends"].as_slice();
    for arguments in [update, &[install, packages].concat()] {
        let output = Command::new("apt-get")
            .args(arguments)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .output()
            .context("cannot start apt-get")?;
        ensure!(
            output.status.success(),
            "apt-get could not install {names} (it needs root); install them, {alternative}\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}

/// Where the scripts and the linker lie.
fn home() -> Result<PathBuf> {
    match std::env::var_os("MINNOW_WASM_RUST_HOME") {
        Some(home) => Ok(home.into()),
        None => {
            let home = std::env::var_os("HOME").context("HOME is not set")?;
            Ok(PathBuf::from(home).join(".cache/minnow-wasm-rust"))
        }
    }
}

fn cargo_home() -> std::io::Result<PathBuf> {
    let set = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let usual = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo"));
    set.or_else(usual).ok_or_else(|| std::io::Error::other("neither CARGO_HOME nor HOME is set"))
}
