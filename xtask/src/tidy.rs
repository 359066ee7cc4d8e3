//! `cargo xtask tidy`: the checks that are not tests. All of them run, and all that is wrong is said at once.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use walkdir::WalkDir;

use crate::{cargo, docs, guests, must_run, root};

/// Workspaces beside the main one, whose format is checked too.
const OTHER_WORKSPACES: [&str; 2] = ["guests/Cargo.toml", "examples/tour/Cargo.toml"];
const SPECIFICATION: &str = "docs/specification.md";
/// Marks of work that is not done. Split, so that this file has none.
const LEFTOVERS: [&str; 4] =
    [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("to", "do!"), concat!("unimple", "mented!")];

pub(crate) fn run() -> Result<()> {
    let root = root();
    let mut problems = Vec::new();
    if let Err(error) = must_run(cargo().args(["fmt", "--all", "--check"])) {
        problems.push(format!("format: {error}; run `cargo fmt`"));
    }
    for manifest in OTHER_WORKSPACES {
        let mut format = cargo();
        format.args(["fmt", "--all", "--check", "--manifest-path", manifest]);
        if let Err(error) = must_run(&mut format) {
            problems.push(format!("format of {manifest}: {error}"));
        }
    }
    let lints = ["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"];
    if let Err(error) = must_run(cargo().args(lints)) {
        problems.push(format!("lints: {error}"));
    }
    problems.extend(guests::check(&root)?);
    problems.extend(docs::check(&root));

    let sources = read_all(&root, "rs")?;
    for (path, text) in &sources {
        problems.extend(leftovers(path, text));
    }
    for (path, text) in read_all(&root, "md")? {
        problems.extend(broken_links(&root, &path, &text));
    }
    let functions = test_names(sources.iter().map(|(_, text)| text.as_str()));
    match fs::read_to_string(root.join(SPECIFICATION)) {
        Ok(text) => problems.extend(untested_promises(&text, &functions)),
        Err(error) => problems.push(format!("{SPECIFICATION}: {error}")),
    }

    for problem in &problems {
        eprintln!("tidy: {problem}");
    }
    ensure!(problems.is_empty(), "{} checks failed", problems.len());
    println!("tidy: all is well");
    Ok(())
}

/// Every file with this extension that is part of the repository, its path relative to the root, in order.
fn read_all(root: &Path, extension: &str) -> Result<Vec<(PathBuf, String)>> {
    let is_ours = |entry: &walkdir::DirEntry| {
        let name = entry.file_name().to_string_lossy();
        entry.depth() == 0 || !(name.starts_with('.') || name == "target" || name == "node_modules")
    };
    let mut files = Vec::new();
    for entry in WalkDir::new(root).sort_by_file_name().into_iter().filter_entry(is_ours) {
        let entry = entry?;
        if entry.file_type().is_file() && entry.path().extension().is_some_and(|e| e == extension) {
            let name = entry.path().strip_prefix(root)?.to_owned();
            files.push((name, fs::read_to_string(entry.path())?));
        }
    }
    Ok(files)
}

fn leftovers(path: &Path, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        for mark in LEFTOVERS {
            if line.contains(mark) {
                found.push(format!("{}:{number}: {mark}", path.display()));
            }
        }
    }
    found
}

/// Relative links that lead nowhere: to a file that is not there, or to a heading that its page does not have.
fn broken_links(root: &Path, page: &Path, text: &str) -> Vec<String> {
    let folder = root.join(page.parent().unwrap_or(Path::new("")));
    let mut broken = Vec::new();
    for link in links(text) {
        if link.contains("://") || link.starts_with("mailto:") {
            continue;
        }
        let (file, heading) = link.split_once('#').unwrap_or((link, ""));
        let target = match file {
            "" => root.join(page),
            file => folder.join(file),
        };
        if !target.exists() {
            broken.push(format!("{}: the link to {link} leads nowhere", page.display()));
        } else if !heading.is_empty() && target.extension().is_some_and(|e| e == "md") {
            let there = fs::read_to_string(&target).is_ok_and(|text| headings(&text).contains(heading));
            if !there {
                broken.push(format!("{}: {link} has no such heading", page.display()));
            }
        }
    }
    broken
}

/// The targets of `[text](target)`, outside of code.
fn links(text: &str) -> Vec<&str> {
    let mut links = Vec::new();
    for line in prose(text) {
        // Every other piece between backticks is code.
        for piece in line.split('`').step_by(2) {
            let targets = piece.split("](").skip(1);
            links.extend(targets.filter_map(|rest| Some(rest.split_once(')')?.0)));
        }
        // A link whose text is code is cut apart by the split above.
        for (before, after) in line.match_indices("`](").map(|(at, _)| line.split_at(at)) {
            if before.matches('`').count() % 2 == 1 {
                links.extend(after.get(3..).and_then(|rest| Some(rest.split_once(')')?.0)));
            }
        }
    }
    links.sort_unstable();
    links.dedup();
    links
}

/// The lines outside of fenced code.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut fenced = false;
    text.lines().filter(move |line| {
        let is_fence = line.trim_start().starts_with("```");
        fenced ^= is_fence;
        !fenced && !is_fence
    })
}

/// The anchors of a page's headings, as forges make them: lower case, spaces as hyphens, no punctuation.
fn headings(text: &str) -> BTreeSet<String> {
    let titles = prose(text).filter_map(|line| line.strip_prefix('#'));
    let anchor = |title: &str| {
        let title = title.trim_start_matches('#').trim().to_lowercase();
        title
            .chars()
            .filter(|letter| letter.is_alphanumeric() || matches!(letter, ' ' | '-' | '_'))
            .map(|letter| if letter == ' ' { '-' } else { letter })
            .collect()
    };
    titles.map(anchor).collect()
}

/// The names of all tests in these sources.
fn test_names<'a>(sources: impl Iterator<Item = &'a str>) -> BTreeSet<&'a str> {
    let is_name = |letter: char| letter.is_alphanumeric() || letter == '_';
    let mut names = BTreeSet::new();
    for text in sources {
        let mut is_test = false;
        let mut is_list = false;
        for line in text.lines().map(str::trim) {
            // Tests that a backend gets from a list of their names.
            if line.starts_with("contract_tests! {") {
                is_list = true;
                continue;
            }
            if is_list {
                is_list = line != "}";
                names.extend(line.strip_suffix(',').filter(|name| name.chars().all(is_name)));
                continue;
            }
            // `#[test]`, `#[tokio::test]`, `#[tokio::test(flavor = …)]`; other attributes may stand beside it.
            if line.starts_with("#[") {
                is_test |= line == "#[test]" || line.contains("::test");
                continue;
            }
            if is_test && let Some((_, rest)) = line.split_once("fn ") {
                let end = rest.find(|letter| !is_name(letter)).unwrap_or(rest.len());
                names.extend(rest.get(..end).filter(|name| !name.is_empty()));
            }
            is_test &= line.is_empty() || line.starts_with("//");
        }
    }
    names
}

/// Rows of the specification that name no test, or one that is not in the tree. The tests are the names in
/// backticks in a row's last column; a path such as `deploy::switch_loses_no_request` is known by its last part.
fn untested_promises(text: &str, functions: &BTreeSet<&str>) -> Vec<String> {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let is_rule = |line: &str| line.starts_with('|') && line.chars().all(|c| "|-: ".contains(c));
    let mut problems = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        let is_head = lines.get(index + 1).is_some_and(|next| is_rule(next));
        if !line.starts_with('|') || is_rule(line) || is_head {
            continue;
        }
        let number = index + 1;
        let last = line.trim_matches('|').rsplit('|').next().unwrap_or_default();
        let mut tests = last.split('`').skip(1).step_by(2).peekable();
        if tests.peek().is_none() {
            problems.push(format!("{SPECIFICATION}:{number}: the row names no test"));
        }
        for test in tests {
            let name = test.rsplit("::").next().unwrap_or(test);
            if !functions.contains(name) {
                problems.push(format!("{SPECIFICATION}:{number}: there is no test `{test}`"));
            }
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_found_outside_of_code() {
        let text = "See [a](a.md), [`b`](b.md#part) and `[c](c.md)`.\n```\n[d](d.md)\n```\n";
        assert_eq!(links(text), ["a.md", "b.md#part"]);
    }

    #[test]
    fn headings_become_anchors() {
        let text = "# One, two\n```\n# not one\n```\n### `three` four\n";
        let expected = ["one-two", "three-four"].map(str::to_owned);
        assert_eq!(headings(text), BTreeSet::from(expected));
    }

    #[test]
    fn a_promise_needs_a_test_that_exists() {
        let functions = test_names(
            [
                "#[test]\nfn kept() {}\n#[tokio::test]\n#[cfg(unix)]\nasync fn kept_too() {}\nfn gone() {}",
                "contract_tests! { $backend;\n listed,\n}\n not_listed,",
            ]
            .into_iter(),
        );
        let text = "\
| id | promise | test |
| --- | --- | --- |
| A1 | kept | `kept`, `room::kept_too`, `listed` |
| A2 | broken | `gone` |
| A3 | without | none |
";
        let problems = untested_promises(text, &functions);
        assert_eq!(
            problems,
            ["docs/specification.md:4: there is no test `gone`", "docs/specification.md:5: the row names no test",]
        );
    }

    #[test]
    fn leftovers_are_found_with_their_line() {
        let text = format!("fn a() {{}}\n// {} later\n", LEFTOVERS[0]);
        assert_eq!(leftovers(Path::new("a.rs"), &text), [format!("a.rs:2: {}", LEFTOVERS[0])]);
    }
}
