//! Writes to files that count.

use std::{
    fs::File,
    io::{self, IoSlice},
    os::unix::fs::FileExt as _,
    sync::Arc,
};

use bytes::Bytes;
use minnow_store::{
    Volume,
    volume::{Bounds, Change, Growth},
};
use rustix::io::{ReadWriteFlags, pwritev2};
use wasmtime_wasi::{
    p2::{OutputStream, Pollable, StreamError, StreamResult},
    runtime::{AbortOnDropJoinHandle, spawn, spawn_blocking},
};

use super::Held;

/// What a guest may write to a stream at once, in bytes: as wasmtime-wasi has it.
const PIECE_BYTES: usize = 64 << 10;

/// A file that may grow, and what it lies in.
#[derive(Clone)]
pub(super) struct Growing {
    pub(super) file: Arc<File>,
    pub(super) volume: Arc<Volume>,
    pub(super) most: Bounds,
    pub(super) _held: Arc<Held>,
}

/// Where a write begins.
#[derive(Clone, Copy)]
pub(super) enum At {
    Offset(u64),
    End,
}

impl At {
    pub(super) fn change(self, bytes: u64) -> Change {
        match self {
            Self::Offset(offset) => Change::Write { offset, bytes },
            Self::End => Change::Append { bytes },
        }
    }
}

impl Growing {
    pub(super) async fn claim(&self, change: Change) -> io::Result<Growth> {
        self.volume.claim_growth(&self.file, self.most, change).await
    }

    /// Writes all of it.
    pub(super) async fn write(self, at: At, bytes: Bytes) -> io::Result<u64> {
        let length = bytes.len() as u64;
        let growth = self.claim(at.change(length)).await?;
        spawn_blocking(move || {
            let written = match at {
                At::Offset(offset) => self.file.write_all_at(&bytes, offset),
                At::End => append_all(&self.file, &bytes),
            };
            // Kept until it is written, whoever still waits for it.
            growth.finish(&self.file, written).map(|()| length)
        })
        .await
    }
}

fn append_all(file: &File, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match pwritev2(file, &[IoSlice::new(bytes)], 0, ReadWriteFlags::APPEND) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

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
