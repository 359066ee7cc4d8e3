//! What verbs read from files and from stdin.

use std::{
    io::{self, IsTerminal as _, Read as _},
    path::Path,
};

use anyhow::Context as _;

use crate::report::{self, Failure};

/// Tells a person that a verb waits for them to type.
pub fn tell_terminal(what: &str) {
    if io::stdin().is_terminal() {
        report::warn(format_args!("{what} is read from here; end it with Ctrl-D"));
    }
}

/// All of a file.
pub fn file(path: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).with_context(|| Failure::new(format!("cannot read {}", path.display())))
}

/// What comes from stdin, at most so many bytes of it.
pub fn stdin(most: u64) -> anyhow::Result<Vec<u8>> {
    let mut content = Vec::new();
    io::stdin().lock().take(most).read_to_end(&mut content).context("cannot read stdin")?;
    Ok(content)
}
