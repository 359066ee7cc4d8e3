//! What the documents tell people to type is typed here.
//!
//! A block of shell commands is run when a comment `<!-- test: NAME -->` stands on the line before it. The blocks of one
//! document are run in their order by one shell in an empty folder, with `minnow` on its PATH and the repository's folder in
//! `MINNOW_REPO`. Only the ports are others: those in the documents may be taken.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    net::TcpListener,
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

/// The same commands with a port that is free for each `:77xx`.
fn on_free_ports(commands: &str) -> String {
    // Below those that the kernel gives to clients, and others than those of another run of the tests.
    let from = 10_000 + (std::process::id() % 1_000) as u16 * 20;
    let mut free = (from..).filter(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok());
    let mut ports = BTreeMap::new();
    let mut pieces = commands.split(":77");
    let mut text = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let end = piece.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(piece.len());
        let (number, rest) = piece.split_at(end);
        if number.len() == 2 {
            let port = ports.entry(number).or_insert_with(|| free.next().expect("a port is free"));
            let _ = write!(text, ":{port}{rest}");
        } else {
            let _ = write!(text, ":77{piece}");
        }
    }
    text
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
    fs::write(cli.home().join("blocks.sh"), on_free_ports(&script)).unwrap();
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

#[test]
fn each_port_in_the_commands_becomes_another_one() {
    let text = on_free_ports("a:7710 b:7711 c:7710/x d:77100 7710");
    let words: Vec<&str> = text.split(' ').collect();
    let port = |word: &str| word.split([':', '/']).nth(1).unwrap().parse::<u16>().unwrap();
    assert!(port(words[0]) >= 10_000 && port(words[0]) != port(words[1]), "{text}");
    assert_eq!(port(words[0]), port(words[2]), "{text}");
    assert_eq!(words[3..], ["d:77100", "7710"]);
}
