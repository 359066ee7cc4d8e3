//! What the documents tell people to type is typed here.
//!
//! A block of shell commands is run when a comment `<!-- test: NAME -->` stands on the line before it. The blocks of one
//! document are run in their order by one shell in an empty folder, with `minnow` on its PATH and the repository's folder in
//! `MINNOW_REPO`.

use std::{
    fmt::Write as _,
    fs,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
};

use minnow_tests::{Cli, PATIENCE, eventually_within, minnow, repository};
use rustix::process::{Pid, Signal, kill_process_group};

/// A block to run.
#[derive(Debug, PartialEq, Eq)]
struct Block {
    name: String,
    commands: String,
}

/// The blocks of a document that are marked, in their order. A mark that no block of shell commands follows is a mistake.
fn blocks(text: &str) -> Result<Vec<Block>, String> {
    let mut blocks = Vec::new();
    let mut lines = text.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        let Some(mark) = line.trim().strip_prefix("<!-- test:") else { continue };
        let name = mark.trim_end_matches("-->").trim().to_owned();
        match lines.next() {
            Some((_, fence)) if fence.trim() == "```sh" => {}
            _ => return Err(format!("line {}: no block of ```sh follows the mark", number + 1)),
        }
        let mut commands = String::new();
        for (_, line) in lines.by_ref().take_while(|(_, line)| line.trim() != "```") {
            let _ = writeln!(commands, "{line}");
        }
        blocks.push(Block { name, commands });
    }
    Ok(blocks)
}

/// Every document in the root and in `docs/`.
fn documents() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for folder in [repository().to_owned(), repository().join("docs")] {
        let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        found.extend(entries.filter(|path| path.extension().is_some_and(|extension| extension == "md")));
    }
    found.push(repository().join("examples/tour/README.md"));
    found.retain(|path| path.is_file());
    found.sort();
    found
}

/// Runs the blocks of one document.
fn run(document: &Path, blocks: &[Block]) {
    let cli = Cli::new();
    let bin = cli.home().join("bin");
    fs::create_dir(&bin).unwrap();
    std::os::unix::fs::symlink(minnow(), bin.join("minnow")).unwrap();
    let mut script = String::from("set -euo pipefail\n");
    for block in blocks {
        let _ = write!(script, "echo '== {}'\n{}", block.name, block.commands);
    }
    fs::write(cli.home().join("blocks.sh"), script).unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let mut command = std::process::Command::new("bash");
    let like = cli.command([""; 0]);
    command
        .env_clear()
        .envs(like.get_envs().filter_map(|(name, value)| Some((name, value?))))
        .env("PATH", path)
        .env("MINNOW_REPO", repository());
    command.arg("blocks.sh").current_dir(cli.home());
    let log = cli.home().join("blocks.log");
    let file = fs::File::create(&log).unwrap();
    command.stdout(file.try_clone().unwrap()).stderr(file);
    // What the blocks leave running ends with them.
    command.process_group(0);
    let mut shell = cli.start(command);
    let group = Pid::from_child(&shell);
    let what = format!("the blocks of {} end", document.display());
    let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        eventually_within(PATIENCE * 5, &what, || shell.try_wait().unwrap())
    }));
    // An error says that nothing was left.
    let _ = kill_process_group(group, Signal::KILL);
    let printed = fs::read_to_string(log).unwrap();
    let status = ended.unwrap_or_else(|_| panic!("{what}\n{printed}"));
    assert!(status.success(), "{}: {status}\n{printed}", document.display());
}

#[test]
fn the_commands_in_the_documents_work() {
    // One document after the other: they use the default ports, as their readers do.
    for document in documents() {
        let found = blocks(&fs::read_to_string(&document).unwrap());
        let found = found.unwrap_or_else(|error| panic!("{}: {error}", document.display()));
        if !found.is_empty() {
            run(&document, &found);
        }
    }
}

#[test]
fn marked_blocks_are_found_and_others_are_left_alone() {
    let text = "a\n```sh\nnot this\n```\n<!-- test: one -->\n```sh\nx\ny\n```\n<!-- test: two -->\n```sh\nz\n```\n";
    let block = |name: &str, commands: &str| Block { name: name.into(), commands: commands.into() };
    assert_eq!(blocks(text), Ok(vec![block("one", "x\ny\n"), block("two", "z\n")]));
    assert!(blocks("<!-- test: one -->\ntext\n").is_err());
}
