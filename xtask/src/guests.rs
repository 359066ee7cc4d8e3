//! The prebuilt WebAssembly: which files there are, how each is built, and whether it is what its sources say.
//!
//! Tests, benchmarks and the example run these files as they lie in the repository, so that neither needs a
//! WebAssembly toolchain. guests/sources.lock has a line for each with the hash of its sources and of itself;
//! [`check`] compares, and so finds a source that was changed without `cargo xtask guests`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};
use walkdir::WalkDir;

use crate::wasm_toolchain::{self, Toolchain};
use crate::{must_run, root};

const LOCK: &str = "guests/sources.lock";
const LOCK_HEAD: &str = "\
# Written by `cargo xtask guests`: each prebuilt file, the SHA-256 of its sources and of itself.
";

/// One prebuilt file. Paths are relative to the repository's root.
struct Prebuilt {
    wasm: &'static str,
    /// Files, and folders with all that is in them.
    sources: &'static [&'static str],
    recipe: Recipe,
}

enum Recipe {
    /// A package of this Cargo workspace; `artifact` is what cargo calls its file.
    Cargo { workspace: &'static str, package: &'static str, artifact: &'static str },
    /// A single C file.
    C { source: &'static str },
}

macro_rules! cargo_guest {
    ($workspace:literal, $folder:literal, $package:literal, $artifact:literal) => {
        Prebuilt {
            wasm: concat!($workspace, "/", $folder, "/", $package, ".wasm"),
            sources: &[
                concat!($workspace, "/", $folder),
                concat!($workspace, "/Cargo.toml"),
                concat!($workspace, "/Cargo.lock"),
            ],
            recipe: Recipe::Cargo { workspace: $workspace, package: $package, artifact: $artifact },
        }
    };
}

macro_rules! messages_guest {
    ($package:literal, $artifact:literal) => {
        Prebuilt {
            wasm: concat!("guests/", $package, "/", $package, ".wasm"),
            sources: &[
                concat!("guests/", $package),
                "guests/messages-p2/src/handler.rs",
                "wit/messaging-draft",
                "guests/Cargo.toml",
                "guests/Cargo.lock",
            ],
            recipe: Recipe::Cargo { workspace: "guests", package: $package, artifact: $artifact },
        }
    };
}

macro_rules! c_guest {
    ($folder:literal, $name:literal) => {
        Prebuilt {
            wasm: concat!($folder, "/", $name, ".wasm"),
            sources: &[$folder],
            recipe: Recipe::C { source: concat!($folder, "/", $name, ".c") },
        }
    };
}

const PREBUILT: &[Prebuilt] = &[
    cargo_guest!("examples/tour", "functions/api", "api", "api.wasm"),
    c_guest!("examples/tour/functions/cgi", "cgi"),
    Prebuilt {
        wasm: "examples/tour/functions/entries/entries.wasm",
        sources: &[
            "examples/tour/functions/entries",
            "examples/tour/Cargo.toml",
            "examples/tour/Cargo.lock",
            "sdk/rust",
            "wit",
        ],
        recipe: Recipe::Cargo { workspace: "examples/tour", package: "entries", artifact: "entries.wasm" },
    },
    Prebuilt {
        wasm: "examples/tour/functions/fulfil/fulfil.wasm",
        sources: &[
            "examples/tour/functions/fulfil",
            "examples/tour/Cargo.toml",
            "examples/tour/Cargo.lock",
            "sdk/rust",
            "wit",
        ],
        recipe: Recipe::Cargo { workspace: "examples/tour", package: "fulfil", artifact: "fulfil.wasm" },
    },
    cargo_guest!("examples/tour", "functions/pages", "pages", "pages.wasm"),
    c_guest!("guests/cgi-c", "cgi-c"),
    Prebuilt {
        wasm: "guests/cgi-component/cgi-component.wasm",
        sources: &["guests/cgi-component", "guests/lab-p2/src/files.rs", "guests/Cargo.toml", "guests/Cargo.lock"],
        recipe: Recipe::Cargo { workspace: "guests", package: "cgi-component", artifact: "cgi-component.wasm" },
    },
    Prebuilt {
        wasm: "guests/data-p2/data-p2.wasm",
        sources: &[
            "guests/data-p2",
            "guests/lab-p2/src/answer.rs",
            "guests/lab-p2/src/request.rs",
            "sdk/rust",
            "wit",
            "guests/Cargo.toml",
            "guests/Cargo.lock",
        ],
        recipe: Recipe::Cargo { workspace: "guests", package: "data-p2", artifact: "data_p2.wasm" },
    },
    cargo_guest!("guests", "hello-p2", "hello-p2", "hello_p2.wasm"),
    cargo_guest!("guests", "hello-p3", "hello-p3", "hello_p3.wasm"),
    cargo_guest!("guests", "lab-p2", "lab-p2", "lab_p2.wasm"),
    messages_guest!("messages-p2", "messages_p2.wasm"),
    messages_guest!("messages-http-p2", "messages_http_p2.wasm"),
    Prebuilt {
        wasm: "guests/lab-p3/lab-p3.wasm",
        sources: &["guests/lab-p3", "guests/lab-p2/src/files.rs", "guests/Cargo.toml", "guests/Cargo.lock"],
        recipe: Recipe::Cargo { workspace: "guests", package: "lab-p3", artifact: "lab_p3.wasm" },
    },
];

/// `cargo xtask guests`: builds the prebuilt files (those whose path has one of the words in it, or all), puts each
/// beside its sources, and writes the lock.
pub(crate) fn rebuild(only: &[String]) -> Result<()> {
    let root = root();
    let chosen =
        |prebuilt: &&Prebuilt| only.is_empty() || only.iter().any(|word| prebuilt.wasm.contains(word.as_str()));
    let mut lock = read_lock(&root).unwrap_or_default();
    for prebuilt in PREBUILT.iter().filter(chosen) {
        println!("building {}", prebuilt.wasm);
        build(&root, prebuilt).with_context(|| format!("cannot build {}", prebuilt.wasm))?;
        lock.insert(prebuilt.wasm.to_owned(), Hashes::of(&root, prebuilt)?);
    }
    lock.retain(|wasm, _| PREBUILT.iter().any(|prebuilt| prebuilt.wasm == wasm));
    let mut text = LOCK_HEAD.to_owned();
    for (wasm, hashes) in &lock {
        writeln!(text, "{wasm} sources:{} wasm:{}", hashes.sources, hashes.wasm)?;
    }
    fs::write(root.join(LOCK), text).with_context(|| format!("cannot write {LOCK}"))
}

/// What is wrong with the prebuilt files under `root`, a line for each; empty where they are what the lock says.
pub(crate) fn check(root: &Path) -> Result<Vec<String>> {
    let lock = read_lock(root)?;
    let mut problems = Vec::new();
    for prebuilt in PREBUILT {
        let wasm = prebuilt.wasm;
        let Some(locked) = lock.get(wasm) else {
            problems.push(format!("{wasm} is not in {LOCK}: run `cargo xtask guests`"));
            continue;
        };
        let found = Hashes::of(root, prebuilt)?;
        if found.sources != locked.sources {
            problems.push(format!("{wasm} is older than its sources: run `cargo xtask guests`"));
        } else if found.wasm != locked.wasm {
            problems.push(format!("{wasm} is not the file in {LOCK}: run `cargo xtask guests`"));
        }
    }
    for wasm in lock.keys() {
        if !PREBUILT.iter().any(|prebuilt| prebuilt.wasm == wasm) {
            problems.push(format!("{LOCK} names {wasm}, which nothing builds"));
        }
    }
    Ok(problems)
}

/// SHA-256, in hexadecimal.
#[derive(Debug, PartialEq)]
struct Hashes {
    sources: String,
    wasm: String,
}

impl Hashes {
    fn of(root: &Path, prebuilt: &Prebuilt) -> Result<Self> {
        let wasm = root.join(prebuilt.wasm);
        let bytes = fs::read(&wasm).with_context(|| format!("cannot read {}", wasm.display()))?;
        Ok(Self { sources: hash_sources(root, prebuilt.sources)?, wasm: hex::encode(Sha256::digest(bytes)) })
    }
}

/// The hash over every file's path, length and content, in the order of their paths. What is built (`target`,
/// `*.wasm`) and hidden files do not count.
fn hash_sources(root: &Path, sources: &[&str]) -> Result<String> {
    let mut files: Vec<PathBuf> = Vec::new();
    for source in sources {
        let walk = WalkDir::new(root.join(source)).into_iter();
        for entry in walk.filter_entry(|entry| entry.depth() == 0 || is_source(entry.path())) {
            let entry = entry?;
            if entry.file_type().is_file() {
                files.push(entry.into_path());
            }
        }
    }
    let mut named = BTreeMap::new();
    for file in files {
        let name = file.strip_prefix(root)?.to_string_lossy().into_owned();
        named.insert(name, fs::read(&file)?);
    }
    let mut hash = Sha256::new();
    for (name, content) in named {
        hash.update(name.as_bytes());
        hash.update([0]);
        hash.update((content.len() as u64).to_le_bytes());
        hash.update(content);
    }
    Ok(hex::encode(hash.finalize()))
}

fn is_source(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    !name.starts_with('.') && name != "target" && !name.ends_with(".wasm")
}

fn read_lock(root: &Path) -> Result<BTreeMap<String, Hashes>> {
    let text =
        fs::read_to_string(root.join(LOCK)).with_context(|| format!("cannot read {LOCK}: run `cargo xtask guests`"))?;
    let mut lock = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let hashes = line.split_once(" sources:").and_then(|(wasm, hashes)| {
            let (sources, built) = hashes.split_once(" wasm:")?;
            Some((wasm, sources, built))
        });
        let (wasm, sources, built) =
            hashes.with_context(|| format!("{LOCK} has a line that is not one of its own: {line}"))?;
        let (sources, built) = (sources.to_owned(), built.to_owned());
        lock.insert(wasm.to_owned(), Hashes { sources, wasm: built });
    }
    Ok(lock)
}

fn build(root: &Path, prebuilt: &Prebuilt) -> Result<()> {
    let wasm = root.join(prebuilt.wasm);
    match prebuilt.recipe {
        Recipe::Cargo { workspace, package, artifact } => {
            let target = target_folder(root);
            build_package(&root.join(workspace), package, &target)?;
            let built = target.join("wasm32-wasip2/release").join(artifact);
            fs::copy(&built, &wasm).with_context(|| format!("cannot copy {} into place", built.display()))?;
            Ok(())
        }
        Recipe::C { source } => {
            let clang = wasm_toolchain::find_or_install_clang()?;
            let arguments = "--target=wasm32-wasi -Wno-deprecated -Os -Wall -Wextra -Werror -Wl,--strip-all";
            must_run(Command::new(clang).current_dir(root).args(arguments.split(' ')).args([
                source,
                "-o",
                prebuilt.wasm,
            ]))?;
            // A linker marks what it makes as executable, which no machine can do with it.
            let mut permissions = fs::metadata(&wasm)?.permissions();
            std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o644);
            Ok(fs::set_permissions(&wasm, permissions)?)
        }
    }
}

/// A target folder apart from the workspace's own, as another compiler may be at work here.
fn target_folder(root: &Path) -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    target.unwrap_or_else(|| root.join("target")).join("guests")
}

fn build_package(workspace: &Path, package: &str, target: &Path) -> Result<()> {
    let toolchain = Toolchain::find_or_install()?;
    // What is built is committed, so it carries no path of the machine that built it.
    let mut remapped = toolchain.remapped_paths();
    // Of two that fit the last counts: what is outside of the workspace, such as the SDK, has the repository's root before it.
    remapped.push((root(), "minnow"));
    remapped.push((workspace.to_owned(), "."));
    let mut flags = Vec::new();
    for (path, name) in remapped {
        let path = path.to_str().context("a folder's name is not UTF-8")?.to_owned();
        ensure!(!path.contains(' '), "cannot build in a folder with a space in its name: {path}");
        flags.push(format!("--remap-path-prefix={path}={name}"));
    }
    must_run(
        toolchain
            .cargo(workspace)
            .args(["build", "--quiet", "--release", "--target", "wasm32-wasip2"])
            .args(["--package", package])
            .env("CARGO_TARGET_DIR", target)
            .env("RUSTFLAGS", flags.join(" ")),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prebuilt_guests_are_what_their_sources_say() -> Result<()> {
        let problems = check(&root())?;
        assert!(problems.is_empty(), "{}", problems.join("\n"));
        Ok(())
    }

    #[test]
    fn source_hash_changes_with_content_and_name_but_not_with_what_is_built() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let root = folder.path();
        let hash = || hash_sources(root, &["guest"]);
        fs::create_dir_all(root.join("guest/target"))?;
        fs::write(root.join("guest/a.rs"), "one")?;
        let first = hash()?;

        fs::write(root.join("guest/guest.wasm"), "built")?;
        fs::write(root.join("guest/target/a"), "built")?;
        assert_eq!(hash()?, first);
        fs::write(root.join("guest/a.rs"), "two")?;
        let second = hash()?;
        assert_ne!(second, first);
        fs::rename(root.join("guest/a.rs"), root.join("guest/b.rs"))?;
        assert_ne!(hash()?, second);
        Ok(())
    }
}
