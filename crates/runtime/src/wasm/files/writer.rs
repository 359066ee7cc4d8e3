//! The stream of `wasi:io` that writes to a file.

use std::{io, sync::Arc};

use bytes::Bytes;
use minnow_store::volume::{At, Growing};
use wasmtime_wasi::{
    p2::{OutputStream, Pollable, StreamError, StreamResult},
    runtime::{AbortOnDropJoinHandle, spawn},
};

/// What a guest may write to a stream at once, in bytes: as wasmtime-wasi has it.
const PIECE_BYTES: usize = 64 << 10;

/// What a guest writes to a file with.
pub(super) struct Writer {
    to: Growing,
    at: At,
    state: State,
    _place: Arc<()>,
}

enum State {
    Ready,
    Writing(AbortOnDropJoinHandle<io::Result<u64>>),
    Failed(io::Error),
    Closed,
}

impl Writer {
    pub(super) fn new(to: Growing, at: At, place: Arc<()>) -> Self {
        Self { to, at, state: State::Ready, _place: place }
    }

    fn wrote(&mut self, written: io::Result<u64>) {
        self.state = match written {
            Ok(bytes) => {
                if let At::Offset(offset) = &mut self.at {
                    *offset = offset.saturating_add(bytes);
                }
                State::Ready
            }
            Err(error) => State::Failed(error),
        };
    }

    /// An error is told once; then the stream is closed.
    fn failure(&mut self) -> StreamResult<()> {
        match std::mem::replace(&mut self.state, State::Closed) {
            State::Failed(error) => Err(StreamError::LastOperationFailed(error.into())),
            State::Closed => Err(StreamError::Closed),
            state => {
                self.state = state;
                Ok(())
            }
        }
    }
}

#[wasmtime_wasi::async_trait]
impl OutputStream for Writer {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        match self.state {
            State::Ready => {
                // Goes on whether the guest looks at it or not, as a write to a file does.
                self.state = State::Writing(spawn(self.to.clone().write(self.at, bytes)));
                Ok(())
            }
            State::Closed => Err(StreamError::Closed),
            State::Writing(_) | State::Failed(_) => Err(StreamError::trap("wrote without a permit")),
        }
    }

    async fn blocking_write_and_flush(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.ready().await;
        self.failure()?;
        let written = self.to.clone().write(self.at, bytes).await;
        self.wrote(written);
        self.failure()
    }

    fn flush(&mut self) -> StreamResult<()> {
        self.failure()
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        self.failure()?;
        Ok(if matches!(self.state, State::Ready) { PIECE_BYTES } else { 0 })
    }

    async fn cancel(&mut self) {
        // What the guest has written before it gave the stream up is written.
        self.ready().await;
        self.state = State::Closed;
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Writer {
    async fn ready(&mut self) {
        if let State::Writing(task) = &mut self.state {
            let written = task.await;
            self.wrote(written);
        }
    }
}
