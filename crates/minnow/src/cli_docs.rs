//! `docs/cli.md`, written from the command line's own definition. `MINNOW_UPDATE=1 cargo test -p minnow` writes it anew.

use std::{fmt::Write as _, fs, path::Path};

use clap::{Arg, Command, CommandFactory as _};

use crate::cli::Cli;

#[test]
fn the_cli_reference_is_current() {
    let path = Path::new(&std::env::var("CARGO_MANIFEST_DIR").unwrap()).join("../../docs/cli.md");
    let current = markdown();
    if std::env::var_os("MINNOW_UPDATE").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, &current).unwrap();
    }
    let committed = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == current,
        "docs/cli.md is out of date; run `MINNOW_UPDATE=1 cargo test -p minnow cli_reference`"
    );
}

/// The whole reference: the overview, then each verb.
fn markdown() -> String {
    let mut command = Cli::command();
    command.build();
    let mut page = String::from(
        "# Command line\n\n<!-- Generated from the command line's definition. Do not edit: change the code and run\n`MINNOW_UPDATE=1 cargo test -p minnow cli_reference`. -->\n\n",
    );
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    writeln!(page, "{about}.\n").unwrap();
    page.push_str("| verb | what it does |\n| --- | --- |\n");
    let verbs: Vec<&Command> =
        command.get_subcommands().filter(|verb| !verb.is_hide_set() && verb.get_name() != "help").collect();
    for verb in &verbs {
        let about = verb.get_about().map(ToString::to_string).unwrap_or_default();
        writeln!(page, "| [`{name}`](#minnow-{name}) | {about} |", name = verb.get_name()).unwrap();
    }
    writeln!(page, "\n```text\n{}\n```", command.get_after_help().map(ToString::to_string).unwrap_or_default())
        .unwrap();
    page.push_str("\n## Environment\n\n| variable | meaning |\n| --- | --- |\n");
    for (name, meaning) in [
        ("MINNOW_SERVER", "The node's control API, for every verb that talks to a node. `--server` takes precedence."),
        ("MINNOW_TOKEN", "The token for it. Takes precedence over what `minnow login` stored."),
        (
            "MINNOW_LOG",
            "How much `node` and `dev` write to their own log: a level, or `module=level` with commas between.",
        ),
        ("NO_COLOR", "Set to anything, it turns colours off. They are only used on a terminal anyway."),
        ("XDG_CONFIG_HOME", "The folder in which `minnow/credentials.toml` is kept. Default `~/.config`."),
        (
            "MINNOW_TOOLS_DIR",
            "The folder in which Deno and esbuild are installed. Default `minnow/tools` in `XDG_CACHE_HOME`.",
        ),
        ("XDG_CACHE_HOME", "Default `~/.cache`."),
        ("XDG_STATE_HOME", "The folder in which `minnow/sql_history` is kept. Default `~/.local/state`."),
    ] {
        writeln!(page, "| `{name}` | {meaning} |").unwrap();
    }
    for verb in verbs {
        describe(&mut page, verb);
    }
    page
}

fn describe(page: &mut String, verb: &Command) {
    describe_at(page, "##", &format!("minnow {}", verb.get_name()), verb);
}

/// A verb under its full name, then the verbs that it has itself.
fn describe_at(page: &mut String, level: &str, full_name: &str, verb: &Command) {
    let about = verb.get_long_about().or_else(|| verb.get_about()).map(ToString::to_string).unwrap_or_default();
    let usage = verb.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage: ").to_owned();
    writeln!(page, "\n{level} {full_name}\n\n{}\n\n```text\n{usage}\n```\n", full_stop(&about)).unwrap();
    let subverbs: Vec<&Command> = verb.get_subcommands().filter(|verb| verb.get_name() != "help").collect();
    if subverbs.is_empty() {
        page.push_str("| argument | meaning |\n| --- | --- |\n");
        for arg in verb.get_arguments().filter(|arg| !arg.is_hide_set() && arg.get_id() != "help") {
            writeln!(page, "| {} | {} |", name(arg), meaning(arg)).unwrap();
        }
    } else {
        page.push_str("| verb | what it does |\n| --- | --- |\n");
        for subverb in &subverbs {
            let about = subverb.get_about().map(ToString::to_string).unwrap_or_default();
            let link = format!("{full_name} {}", subverb.get_name()).replace(' ', "-");
            writeln!(page, "| [`{}`](#{link}) | {about} |", subverb.get_name()).unwrap();
        }
    }
    let examples = verb.get_after_help().map(ToString::to_string).unwrap_or_default();
    writeln!(page, "\n```text\n{}\n```", examples.trim_end()).unwrap();
    for subverb in subverbs {
        describe_at(page, &format!("{level}#"), &format!("{full_name} {}", subverb.get_name()), subverb);
    }
}

fn name(arg: &Arg) -> String {
    let value = arg.get_value_names().and_then(|names| names.first()).map(ToString::to_string).unwrap_or_default();
    let takes_value = arg.get_action().takes_values();
    let mut names = Vec::new();
    names.extend(arg.get_short().map(|short| format!("-{short}")));
    names.extend(arg.get_long().map(|long| format!("--{long}")));
    if names.is_empty() {
        return format!("`{value}`");
    }
    let names = names.join(", ");
    if takes_value { format!("`{names} {value}`") } else { format!("`{names}`") }
}

fn meaning(arg: &Arg) -> String {
    let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
    let mut text = full_stop(&help.replace('\n', " ").replace('|', "\\|"));
    let values: Vec<String> = arg.get_possible_values().iter().map(|value| format!("`{}`", value.get_name())).collect();
    if !values.is_empty() && arg.get_action().takes_values() {
        write!(text, " One of {}.", values.join(", ")).unwrap();
    }
    let defaults: Vec<String> =
        arg.get_default_values().iter().map(|value| value.to_string_lossy().into_owned()).collect();
    if !defaults.is_empty() && arg.get_action().takes_values() {
        write!(text, " Default `{}`.", defaults.join(" ")).unwrap();
    }
    text
}

fn full_stop(text: &str) -> String {
    let text = text.trim();
    if text.ends_with(['.', '?', ']']) || text.is_empty() { text.into() } else { format!("{text}.") }
}
