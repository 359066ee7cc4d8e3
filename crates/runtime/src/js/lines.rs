//! What a process prints: records of the bootstrap, and plain lines of everything else.

use minnow_model::{Level, RequestId, log::MAX_MESSAGE_BYTES};
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// The first byte of a line that holds a record: RS, as in JSON text sequences (RFC 7464).
const RECORD: u8 = 0x1e;

/// The longest line that is kept. A record is a message with its escapes: a control character becomes six bytes.
const MAX_LINE_BYTES: usize = 6 * MAX_MESSAGE_BYTES + 256;

/// One line of output.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// The process listens and waits for its function.
    Ready,
    /// `console.*`, or what the bootstrap has to say. The request is what the process claims.
    Log { level: Level, request: Option<RequestId>, message: String },
    /// The invocation goes on after its response.
    Waits(RequestId),
    /// What it waited for is over.
    Done(RequestId),
    /// Something printed without the bootstrap.
    Plain(String),
}

#[derive(Deserialize)]
#[serde(tag = "t", rename_all = "lowercase")]
enum Record {
    Ready,
    Log { l: String, r: Option<String>, m: String },
    Wait { r: String },
    Done { r: String },
}

impl Line {
    fn read(line: &[u8]) -> Self {
        let plain = || Self::Plain(String::from_utf8_lossy(line).into_owned());
        let Some(json) = line.strip_prefix(&[RECORD]) else { return plain() };
        let id = |text: &str| text.parse::<RequestId>().ok();
        match serde_json::from_slice(json) {
            Ok(Record::Ready) => Self::Ready,
            Ok(Record::Log { l, r, m }) => {
                let level = match l.as_str() {
                    "debug" => Level::Debug,
                    "warn" => Level::Warn,
                    "error" => Level::Error,
                    _ => Level::Info,
                };
                Self::Log { level, request: r.as_deref().and_then(id), message: m }
            }
            Ok(Record::Wait { r }) => id(&r).map_or_else(plain, Self::Waits),
            Ok(Record::Done { r }) => id(&r).map_or_else(plain, Self::Done),
            Err(_) => plain(),
        }
    }
}

/// What [`Lines::skip`] came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Skipped {
    /// A line that the node has to know.
    Line(Line),
    /// So many lines were passed over.
    Lines(u64),
}

/// Lines that are passed over before others get their turn.
const SKIPPED_AT_ONCE: u64 = 1000;

/// Splits a stream into lines. Of a longer line than [`MAX_LINE_BYTES`] the rest is dropped.
pub(super) struct Lines<R> {
    source: R,
    buffer: Box<[u8; 16 << 10]>,
    /// What was read and not looked at: a range of `buffer`.
    unread: std::ops::Range<usize>,
    line: Vec<u8>,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    pub(super) fn new(source: R) -> Self {
        Self { source, buffer: Box::new([0; 16 << 10]), unread: 0..0, line: Vec::new() }
    }

    /// The next line; `None` at the end. Safe to drop and call again.
    pub(super) async fn next(&mut self) -> Option<Line> {
        self.advance().await.then(|| self.take())
    }

    /// Passes over lines up to one that the node has to know, or some thousand; `None` at the end. Safe to drop and call again: of
    /// lines that were passed over then, no count is kept.
    pub(super) async fn skip(&mut self) -> Option<Skipped> {
        let mut lines = 0;
        while self.advance().await {
            if self.line.strip_prefix(&[RECORD]).is_some_and(|record| !record.starts_with(b"{\"t\":\"log\"")) {
                return Some(Skipped::Line(self.take()));
            }
            self.line.clear();
            lines += 1;
            if lines >= SKIPPED_AT_ONCE {
                return Some(Skipped::Lines(lines));
            }
        }
        None
    }

    /// Reads on until `line` is whole. False at the end.
    async fn advance(&mut self) -> bool {
        loop {
            while let Some(piece) = self.buffer.get(self.unread.clone()).filter(|piece| !piece.is_empty()) {
                let end = piece.iter().position(|byte| *byte == b'\n');
                let text = piece.get(..end.unwrap_or(piece.len())).unwrap_or_default();
                // A record may follow a line that has no end.
                let record = text.iter().position(|byte| *byte == RECORD).filter(|at| *at + self.line.len() > 0);
                let (text, is_whole, skip) = match record {
                    Some(at) => (text.get(..at).unwrap_or_default(), true, 0),
                    None => (text, end.is_some(), usize::from(end.is_some())),
                };
                let room = MAX_LINE_BYTES.saturating_sub(self.line.len());
                self.line.extend_from_slice(text.get(..room).unwrap_or(text));
                self.unread.start += text.len() + skip;
                // An empty line says nothing, and a flood of them must not cost more than to read it.
                if is_whole && !self.line.is_empty() {
                    return true;
                }
            }
            match self.source.read(&mut self.buffer[..]).await {
                Ok(length @ 1..) => self.unread = 0..length,
                Ok(0) | Err(_) => return !self.line.is_empty(),
            }
        }
    }

    fn take(&mut self) -> Line {
        let line = Line::read(&self.line);
        self.line.clear();
        // One long line must not keep its memory for the life of the process.
        self.line.shrink_to(4096);
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn lines(text: &[u8]) -> Vec<Line> {
        let mut lines = Lines::new(text);
        let mut found = Vec::new();
        while let Some(line) = lines.next().await {
            found.push(line);
        }
        found
    }

    #[tokio::test]
    async fn records_are_told_from_plain_lines() {
        let id = "0af7651916cd43dd8448eb211c80319c";
        let request = id.parse().unwrap();
        let text = format!(
            "\x1e{{\"t\":\"ready\"}}\nplain\n\x1e{{\"t\":\"log\",\"l\":\"warn\",\"r\":\"{id}\",\"m\":\"a\\nb\"}}\n\
             \x1e{{\"t\":\"log\",\"l\":\"odd\",\"r\":null,\"m\":\"c\"}}\n\x1e{{\"t\":\"wait\",\"r\":\"{id}\"}}\n\
             \x1e{{\"t\":\"done\",\"r\":\"{id}\"}}\n\x1e{{\"t\":\"done\",\"r\":\"x\"}}\n\x1enonsense\nno end\x1e{{\"t\":\"ready\"}}\nlast"
        );
        let expected = [
            Line::Ready,
            Line::Plain("plain".into()),
            Line::Log { level: Level::Warn, request: Some(request), message: "a\nb".into() },
            Line::Log { level: Level::Info, request: None, message: "c".into() },
            Line::Waits(request),
            Line::Done(request),
            Line::Plain("\x1e{\"t\":\"done\",\"r\":\"x\"}".into()),
            Line::Plain("\x1enonsense".into()),
            Line::Plain("no end".into()),
            Line::Ready,
            Line::Plain("last".into()),
        ];
        assert_eq!(lines(text.as_bytes()).await, expected);
    }

    #[tokio::test]
    async fn what_the_node_has_to_know_is_found_among_lines_that_are_passed_over() {
        let log = "\x1e{\"t\":\"log\",\"l\":\"info\",\"r\":null,\"m\":\"c\"}\n";
        let text = format!("{}plain\n\x1e{{\"t\":\"ready\"}}\n{log}last\n", log.repeat(1999));
        let mut lines = Lines::new(text.as_bytes());
        assert_eq!(lines.skip().await, Some(Skipped::Lines(1000)));
        assert_eq!(lines.skip().await, Some(Skipped::Lines(1000)));
        assert_eq!(lines.skip().await, Some(Skipped::Line(Line::Ready)));
        assert_eq!(lines.next().await.map(|line| line != Line::Ready), Some(true));
        assert_eq!(lines.next().await, Some(Line::Plain("last".into())));
        assert_eq!(lines.skip().await, None);
    }

    #[tokio::test]
    async fn a_line_is_bounded() {
        let mut text = vec![b'x'; 50 << 20];
        text.extend_from_slice(b"\nnext\n");
        let found = lines(&text).await;
        assert_eq!(found.len(), 2);
        assert!(matches!(&found[0], Line::Plain(line) if line.len() == MAX_LINE_BYTES));
        assert_eq!(found[1], Line::Plain("next".into()));
    }
}
