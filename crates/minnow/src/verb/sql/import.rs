//! SQL from a file into a store, in pieces.

use std::{
    fs::File,
    io::{self, BufRead, BufReader},
    path::Path,
};

use anyhow::Context as _;

use crate::{client::Client, report::Failure, sql_text::Ends, store::StorePath};

/// What goes into one transaction, in bytes. The node runs that in about a second, and takes at most 16 MiB.
const PIECE_BYTES: usize = 4 << 20;
/// The longest line, in bytes: a row with a blob of 4 MiB, written in hexadecimal digits, and as much again.
const MAX_LINE_BYTES: u64 = 16 << 20;

/// What came of an import.
pub struct Imported {
    pub statements: u64,
}

/// Runs the file's statements; `-` stands for stdin.
pub async fn import_file(client: &Client, store: &StorePath, file: &Path) -> anyhow::Result<Imported> {
    if file == Path::new("-") {
        return import(client, store, io::stdin().lock(), "stdin").await;
    }
    let name = file.display().to_string();
    let opened = File::open(file).with_context(|| Failure::new(format!("cannot read {name}")))?;
    import(client, store, BufReader::new(opened), &name).await
}

async fn import(client: &Client, store: &StorePath, mut text: impl BufRead, name: &str) -> anyhow::Result<Imported> {
    let mut pieces = Pieces::default();
    let mut statements = 0;
    loop {
        let begin = pieces.begin;
        let piece = pieces.next(&mut text).with_context(|| Failure::new(format!("cannot read {name}")))?;
        let Some(piece) = piece else { return Ok(Imported { statements }) };
        let done = client.sql_script(store, piece).await.map_err(|error| {
            // The node counts lines from the beginning of the piece.
            let what = match begin {
                0 => format!("{name} was not imported"),
                _ => format!("{name}: what comes after line {begin} was not imported; line numbers count from there"),
            };
            anyhow::Error::from(error).context(Failure::new(what))
        })?;
        statements += done.statements;
    }
}

/// Divides text between its statements.
#[derive(Default)]
struct Pieces {
    ends: Ends,
    /// Statements that have ended, and the beginning of the next.
    text: Vec<u8>,
    /// How many bytes of `text` have ended.
    whole: usize,
    /// Lines before `text`, and in all.
    begin: u64,
    lines: u64,
    is_over: bool,
}

impl Pieces {
    /// The next piece; `None` at the end.
    fn next(&mut self, text: &mut impl BufRead) -> io::Result<Option<String>> {
        while !self.is_over && self.whole < PIECE_BYTES {
            let at = self.text.len();
            let read = io::Read::take(&mut *text, MAX_LINE_BYTES).read_until(b'\n', &mut self.text)?;
            if read as u64 == MAX_LINE_BYTES {
                return Err(io::Error::other(format!("line {} has more than {MAX_LINE_BYTES} bytes", self.lines + 1)));
            }
            self.is_over = read == 0;
            self.lines += u64::from(read > 0);
            let line = self.text.get(at..).unwrap_or_default();
            // Only where a line ends with the statement, so that a piece begins with a line.
            let ends = self.ends.of_line(line);
            if !self.ends.is_open() && !ends.is_empty() {
                self.whole = self.text.len();
            }
        }
        let piece: Vec<u8> =
            if self.is_over { std::mem::take(&mut self.text) } else { self.text.drain(..self.whole).collect() };
        self.whole = 0;
        // Further lines have been read only when the last of them ended the piece.
        self.begin = self.lines;
        if piece.trim_ascii().is_empty() {
            return Ok(None);
        }
        let text = String::from_utf8(piece).map_err(|_| io::Error::other("it is not UTF-8; SQL text has to be"))?;
        Ok(Some(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(text: &str) -> Vec<String> {
        let (mut pieces, mut bytes) = (Pieces::default(), text.as_bytes());
        std::iter::from_fn(|| pieces.next(&mut bytes).unwrap()).collect()
    }

    #[test]
    fn a_small_file_is_one_piece() {
        for text in ["select 1;", "select 1;\nselect 2;\n", "-- only this\n", "create table a(b);\nselect"] {
            assert_eq!(pieces(text), [text]);
        }
        assert_eq!(pieces(""), [""; 0]);
        assert_eq!(pieces(" \n\n"), [""; 0]);
    }

    #[test]
    fn a_large_file_is_divided_between_statements() {
        let insert = format!("insert into a values('{}\n;');\n", "x".repeat(1 << 20));
        let text = insert.repeat(10);
        let pieces = pieces(&text);
        assert_eq!(pieces.concat(), text);
        assert_eq!(pieces.iter().map(|piece| piece.matches("insert").count()).collect::<Vec<_>>(), [4, 4, 2]);
        assert!(pieces.iter().all(|piece| piece.ends_with(");\n")));
    }
}
