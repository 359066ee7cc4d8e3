//! What a guest prints, as log lines.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use bytes::Bytes;
use minnow_model::{Level, LogSource, log::MAX_MESSAGE_BYTES};
use tokio::io::AsyncWrite;
use wasmtime_wasi::{
    cli::{IsTerminal, StdoutStream},
    p2::{OutputStream, Pollable, StreamResult},
};

use super::state::Owner;

/// A guest's standard output or error: each line becomes a log line. Writing never blocks the guest; the log drops lines,
/// and says so, when a guest prints faster than the disk takes.
#[derive(Clone)]
pub(super) struct LogStream(Arc<Mutex<Lines>>);

struct Lines {
    owner: Owner,
    source: LogSource,
    /// The line that has begun, at most `MAX_MESSAGE_BYTES`.
    partial: Vec<u8>,
}

/// The most that a guest may write at once, in bytes.
const WRITE_BYTES: usize = 64 << 10;

impl LogStream {
    pub(super) fn new(owner: &Owner, source: LogSource) -> Self {
        Self(Arc::new(Mutex::new(Lines { owner: owner.clone(), source, partial: Vec::new() })))
    }

    /// What is printed from now on belongs to `owner`; a line that has begun ends here.
    pub(super) fn set_owner(&self, owner: &Owner) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !lines.partial.is_empty() {
            lines.end_line();
        }
        lines.owner = owner.clone();
    }

    fn push(&self, bytes: &[u8]) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(bytes);
    }
}

impl Lines {
    fn push(&mut self, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            // One byte over the bound tells the log that the line was longer; the rest of it is dropped here.
            let room = (MAX_MESSAGE_BYTES + 1).saturating_sub(self.partial.len());
            let line = piece.strip_suffix(b"\n").unwrap_or(piece);
            self.partial.extend_from_slice(line.get(..room).unwrap_or(line));
            if piece.ends_with(b"\n") {
                self.end_line();
            }
        }
    }

    fn end_line(&mut self) {
        if self.partial.last() == Some(&b'\r') {
            self.partial.pop();
        }
        let message = String::from_utf8_lossy(&self.partial).into_owned();
        self.partial.clear();
        let level = if self.source == LogSource::Stderr { Level::Warn } else { Level::Info };
        if let Some(function) = self.owner.function() {
            function.log(level, self.source, self.owner.request_id(), message);
        }
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        if !self.partial.is_empty() {
            self.end_line();
        }
    }
}

impl IsTerminal for LogStream {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for LogStream {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

impl OutputStream for LogStream {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.push(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(WRITE_BYTES)
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for LogStream {
    async fn ready(&mut self) {}
}

impl AsyncWrite for LogStream {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.push(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
