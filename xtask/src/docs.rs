//! `cargo xtask docs`: the pages that are made from the code, so that they cannot drift from it. `cargo xtask tidy` checks that
//! each is current.
//!
//! Two are values of minnow-model and are written here. Two need a crate that this one does not link: there a test of that
//! crate compares the page with the code, and writes it when `MINNOW_UPDATE` is set.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use minnow_model::Code;

use crate::{cargo, must_run, root};

/// Set, it makes the tests below write their page instead of only comparing it.
const UPDATE: &str = "MINNOW_UPDATE";

/// A page that is a value of minnow-model.
struct Page {
    path: &'static str,
    text: fn() -> String,
}

const PAGES: [Page; 2] = [
    Page { path: "docs/manifest.md", text: minnow_model::manifest::reference_markdown },
    Page { path: "docs/errors.md", text: errors },
];

/// A page that a test of another crate compares and writes.
struct TestedPage {
    path: &'static str,
    /// `cargo test` with these arguments runs the one test.
    arguments: [&'static str; 4],
}

const TESTED_PAGES: [TestedPage; 2] = [
    TestedPage { path: "docs/cli.md", arguments: ["--package", "minnow", "--bins", "the_cli_reference_is_current"] },
    TestedPage {
        path: "docs/openapi.json",
        arguments: ["--package", "minnow-control", "--lib", "the_committed_description_is_current"],
    },
];

/// Writes all four pages.
pub(crate) fn write() -> Result<()> {
    let root = root();
    for page in PAGES {
        fs::write(root.join(page.path), (page.text)()).with_context(|| format!("cannot write {}", page.path))?;
        println!("wrote {}", page.path);
    }
    for page in TESTED_PAGES {
        must_run(cargo().args(["test", "--quiet"]).args(page.arguments).env(UPDATE, "1"))?;
        println!("wrote {}", page.path);
    }
    Ok(())
}

/// A problem for each page that is not what the code says.
pub(crate) fn check(root: &Path) -> Vec<String> {
    let mut problems = Vec::new();
    for page in PAGES {
        if fs::read_to_string(root.join(page.path)).unwrap_or_default() != (page.text)() {
            problems.push(format!("{} is not what the code says: run `cargo xtask docs`", page.path));
        }
    }
    for page in TESTED_PAGES {
        if must_run(cargo().args(["test", "--quiet"]).args(page.arguments).env_remove(UPDATE)).is_err() {
            problems.push(format!("{} is not what the code says: run `cargo xtask docs`", page.path));
        }
    }
    problems
}

const ERRORS_HEAD: &str = r#"# Error codes

<!-- Generated from crates/model/src/problem.rs by `cargo xtask docs`. Do not edit by hand. -->

When a request fails, the gateway and the control API answer with a problem document
([RFC 9457](https://www.rfc-editor.org/rfc/rfc9457)) of the type `application/problem+json`:

```json
{
  "type": "urn:minnow:problem:no_route",
  "title": "No such route",
  "status": 404,
  "code": "no_route",
  "request_id": "02a4a9d8610c76676e2ec09c8e36fc7b"
}
```

| member | meaning |
| --- | --- |
| `code` | one of the codes below; a code never changes its meaning, so programs may rely on it |
| `type` | the code as a URI |
| `title` | the code in words; the words may change |
| `status` | the HTTP status of the response |
| `detail` | what happened in this case, where there is more to say; not always there |
| `errors` | a list of mistakes, each with its place and remedy; only the control API sends it |
| `request_id` | the id under which the app's log and the node's log have the reason; also in the `x-request-id` header |

A document never holds inner detail of a function or of the node. That is in the logs: `minnow logs APP` shows the
app's. A 503 of the gateway has a `retry-after` header.

Bytes that are not HTTP get a bare 400 without a document, and a request head beyond 64 KiB or 100 fields a bare 431: no request has
been read that an id could belong to.

| code | status | title | meaning |
| --- | --- | --- | --- |
"#;

fn errors() -> String {
    let mut page = String::from(ERRORS_HEAD);
    for code in Code::all() {
        let meaning = code.meaning().replace('|', "\\|");
        // Writing to a string cannot fail.
        let _ = writeln!(page, "| `{}` | {} | {} | {meaning} |", code.as_str(), code.status(), code.title());
    }
    page
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    fn read(path: &str) -> String {
        fs::read_to_string(root().join(path)).unwrap()
    }

    /// The keys of a node's configuration, as `section.key`: the fields of `File`, and of the sections that it holds.
    fn config_keys(source: &str) -> BTreeSet<String> {
        let mut structs: BTreeMap<&str, Vec<(&str, &str)>> = BTreeMap::new();
        let mut current = None;
        for line in source.lines() {
            if let Some(name) = line.strip_prefix("struct ").and_then(|rest| rest.strip_suffix(" {")) {
                current = Some(name);
            } else if line == "}" {
                current = None;
            } else if let (Some(name), Some((field, kind))) = (current, line.trim().split_once(": ")) {
                structs.entry(name).or_default().push((field, kind.trim_end_matches(',')));
            }
        }
        let fields = structs["File"].iter().flat_map(|(field, kind)| match structs.get(kind) {
            Some(section) => section.iter().map(|(key, _)| format!("{field}.{key}")).collect(),
            None => vec![(*field).to_owned()],
        });
        fields.collect()
    }

    /// What the first column of the tables under `heading` names, in backticks.
    fn rows_under<'a>(page: &'a str, heading: &str) -> BTreeSet<&'a str> {
        let section = page.split_once(&format!("\n{heading}\n")).unwrap().1;
        let section = section.split_once("\n## ").map_or(section, |(section, _)| section);
        section.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`')).map(|(name, _)| name).collect()
    }

    #[test]
    fn every_configuration_key_is_in_the_operations_page_and_no_other() {
        let keys = config_keys(&read("crates/node/src/config.rs"));
        assert!(keys.contains("http") && keys.contains("logs.max_size"), "{keys:?}");
        let page = read("docs/operations.md");
        let documented = rows_under(&page, "## Configuration file");
        let keys: BTreeSet<&str> = keys.iter().map(String::as_str).collect();
        assert_eq!(keys, documented);
    }

    #[test]
    fn every_metric_is_in_the_operations_page() {
        let source = read("crates/telemetry/src/metrics/exposition.rs");
        let source = source.split("#[cfg(test)]").next().unwrap();
        let names = source.split('"').skip(1).step_by(2);
        let names: Vec<&str> =
            names.filter(|text| text.starts_with("minnow_") || text.starts_with("process_")).collect();
        assert!(names.len() > 10, "{names:?}");
        let page = read("docs/operations.md");
        let documented = rows_under(&page, "## Metrics");
        for name in names {
            assert!(documented.iter().any(|row| row.starts_with(name)), "docs/operations.md lacks {name}");
        }
    }

    #[test]
    fn every_error_code_is_on_the_errors_page_once() {
        let page = errors();
        for code in Code::all() {
            assert_eq!(page.matches(&format!("\n| `{}` |", code.as_str())).count(), 1, "{}", code.as_str());
        }
    }
}
