//! The secrets of an app under `minnow dev`: lines `NAME=VALUE` of a file that is in no repository.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use minnow_model::{Manifest, VariableName};

use crate::{
    client::Client,
    report::{self, Failure},
};

/// The file in the app's folder. Developers of Cloudflare Workers know it under this name.
pub const FILE_NAME: &str = ".dev.vars";
/// The longest file, in bytes: a secret of 64 KiB, and as many again as anybody has.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Where the secrets come from, and what the node was told of them.
pub struct Secrets {
    file: PathBuf,
    /// It was asked for by name, and so has to be there.
    is_given: bool,
    set: BTreeMap<VariableName, String>,
    /// Names that nothing asks for, as they were told of last.
    unused: BTreeSet<VariableName>,
}

impl Secrets {
    /// The secrets in `given`, or in [`FILE_NAME`] of the app's folder where there is one. A file that cannot be read or has a
    /// mistake is refused.
    pub fn of(dir: &Path, given: Option<&Path>) -> anyhow::Result<Self> {
        let file = match given {
            Some(file) => file.canonicalize().with_context(|| cannot_read(file))?,
            None => dir.join(FILE_NAME),
        };
        let secrets = Self { file, is_given: given.is_some(), set: BTreeMap::new(), unused: BTreeSet::new() };
        secrets.read()?;
        Ok(secrets)
    }

    /// Whether the file is among `changed`.
    pub fn is_in(&self, changed: &BTreeSet<PathBuf>) -> bool {
        changed.contains(&self.file)
    }

    /// Sets what the file has and functions are granted or webhooks need, as far as the node has it not yet. What a line was taken out for stays set.
    pub async fn apply(&mut self, client: &Client, manifest: &Manifest) -> anyhow::Result<()> {
        let of_functions = manifest.functions.values().flat_map(|function| &function.grants.secrets);
        let of_webhooks = manifest.topics.values().filter_map(|topic| Some(&topic.webhook.as_ref()?.secret));
        let granted: BTreeSet<&VariableName> = of_functions.chain(of_webhooks).collect();
        let mut unused = BTreeSet::new();
        for (name, value) in self.read()? {
            if !granted.contains(&name) {
                unused.insert(name);
            } else if self.set.get(&name) != Some(&value) {
                client.set_secret(&manifest.name, &name, value.clone()).await?;
                self.set.insert(name, value);
            }
        }
        for name in unused.difference(&self.unused) {
            report::warn(format_args!(
                "{} has {name}, which no function is granted; add `secrets = [\"{name}\"]` to a function in minnow.toml",
                self.file.display()
            ));
        }
        self.unused = unused;
        Ok(())
    }

    fn read(&self) -> anyhow::Result<BTreeMap<VariableName, String>> {
        let mut text = String::new();
        let read = File::open(&self.file).and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text));
        match read {
            Err(error) if error.kind() == io::ErrorKind::NotFound && !self.is_given => return Ok(BTreeMap::new()),
            Err(error) => return Err(anyhow::Error::from(error).context(cannot_read(&self.file))),
            Ok(_) if text.len() as u64 > MAX_FILE_BYTES => {
                let what = format!("{} has more than {MAX_FILE_BYTES} bytes", self.file.display());
                return Err(Failure::new(what).help("secrets are lines `NAME=VALUE`").into());
            }
            Ok(_) => {}
        }
        parse(&text).map_err(|mistakes| {
            let mut what = format!("the secrets in {} cannot be read", self.file.display());
            for (line, mistake) in mistakes {
                let _ = write!(what, "\n  line {line}: {mistake}");
            }
            Failure::new(what)
                .help("write lines `NAME=VALUE`; a value may stand in quotes, `#` begins a comment")
                .into()
        })
    }
}

fn cannot_read(file: &Path) -> Failure {
    Failure::new(format!("cannot read the secrets {}", file.display()))
}

/// The secrets of a text, or its mistakes by line. A name without a value is one that is not set. No message repeats what a line says:
/// it may be half of a secret.
fn parse(text: &str) -> Result<BTreeMap<VariableName, String>, Vec<(usize, &'static str)>> {
    let (mut secrets, mut mistakes) = (BTreeMap::new(), Vec::new());
    for (index, line) in text.lines().enumerate() {
        match parse_line(line.trim()) {
            Ok(None) => {}
            Ok(Some((name, value))) if value.is_empty() => drop(name),
            Ok(Some((name, value))) => {
                if secrets.insert(name, value).is_some() {
                    mistakes.push((index + 1, "the name is there already, above"));
                }
            }
            Err(mistake) => mistakes.push((index + 1, mistake)),
        }
    }
    if mistakes.is_empty() { Ok(secrets) } else { Err(mistakes) }
}

fn parse_line(line: &str) -> Result<Option<(VariableName, String)>, &'static str> {
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    let (name, value) = line.split_once('=').ok_or("there is no `=`")?;
    let name = name.trim().trim_start_matches("export ").trim_start();
    let name: VariableName = name.parse().map_err(|_| "what is before the `=` is no name of A-Z, 0-9 and `_`")?;
    Ok(Some((name, parse_value(value.trim())?)))
}

/// As `.env` files are read everywhere: in double quotes `\n` is a line break, in single quotes everything is as it is, and without
/// quotes a comment may follow.
fn parse_value(value: &str) -> Result<String, &'static str> {
    const OPEN: &str = "the quote does not end on its line; write a line break as \\n, in double quotes";
    let (quote, rest) = match value.chars().next() {
        Some(quote @ ('"' | '\'')) => (quote, value.get(1..).unwrap_or_default()),
        _ => {
            let end = value.find(" #").or_else(|| value.find("\t#")).unwrap_or(value.len());
            return Ok(value.get(..end).unwrap_or_default().trim_end().to_owned());
        }
    };
    let mut text = String::new();
    let mut letters = rest.chars();
    loop {
        match letters.next().ok_or(OPEN)? {
            letter if letter == quote => break,
            '\\' if quote == '"' => text.push(match letters.next().ok_or(OPEN)? {
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                letter => letter,
            }),
            letter => text.push(letter),
        }
    }
    let after = letters.as_str().trim_start();
    if after.is_empty() || after.starts_with('#') { Ok(text) } else { Err("there is more after the quote") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_name_and_a_value() {
        for (line, expected) in [
            ("A=1", Some("1")),
            ("  A = one two  ", Some("one two")),
            ("export A=1", Some("1")),
            ("A=sk_1 # mine", Some("sk_1")),
            ("A=a#b", Some("a#b")),
            ("A=a=b==", Some("a=b==")),
            (r#"A="one\ntwo \"x\" # y" # z"#, Some("one\ntwo \"x\" # y")),
            (r"A='one\ntwo'", Some(r"one\ntwo")),
            ("A=", None),
            ("A=''", None),
            ("# A=1", None),
            ("", None),
            ("A=1\r", Some("1")),
        ] {
            let secrets = parse(line).unwrap();
            assert_eq!(secrets.get("A").map(String::as_str), expected, "{line}");
        }
    }

    #[test]
    fn a_mistake_is_told_by_its_line_and_shows_nothing_of_it() {
        let text = "A=1\nsk_live_1\na=sk_live_2\nB=\"sk_live_3\nC='x' sk_live_4\nA=sk_live_5\n";
        let mistakes = parse(text).unwrap_err();
        assert_eq!(mistakes.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [2, 3, 4, 5, 6]);
        assert!(mistakes.iter().all(|(_, mistake)| !mistake.contains("sk_live")));
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FILE_NAME), text).unwrap();
        let error = format!("{:?}", Secrets::of(dir.path(), None).err().unwrap());
        assert!(error.contains("line 3: what is before") && !error.contains("sk_live"), "{error}");
    }

    #[test]
    fn a_file_that_was_asked_for_has_to_be_there() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Secrets::of(dir.path(), None).unwrap().read().unwrap().is_empty());
        let error = Secrets::of(dir.path(), Some(&dir.path().join("mine"))).err().unwrap();
        assert!(error.to_string().contains("cannot read the secrets"), "{error}");
    }
}
