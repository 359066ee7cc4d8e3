//! Files that are open, and writes that make them longer: for guests of every kind.

use std::{
    fs::File,
    io::{self, IoSlice},
    os::unix::fs::{FileExt as _, MetadataExt as _},
    sync::Arc,
};

use bytes::Bytes;
use rustix::io::{ReadWriteFlags, pwritev2};
use tokio::sync::OwnedSemaphorePermit;

use super::{Bounds, Change, Growth, Volume};

/// A file or folder that is open, with its place among those of the node. Whoever uses it has a share, which goes after all else that
/// keeps the file open.
pub struct Held {
    /// `None` for folders.
    file: Option<Arc<File>>,
    volume: Arc<Volume>,
    place: Option<OwnedSemaphorePermit>,
}

impl Held {
    /// Notes what was opened in the volume; without `file` it is a folder.
    pub fn new(file: Option<Arc<File>>, volume: Arc<Volume>, place: OwnedSemaphorePermit) -> Self {
        if let Some(file) = &file {
            volume.opened(file);
        }
        Self { file, volume, place: Some(place) }
    }

    pub fn file(&self) -> Option<&Arc<File>> {
        self.file.as_ref()
    }
}

/// Where the file was deleted before, its space is free now. That takes the disk a while for a large one, so it is done elsewhere.
impl Drop for Held {
    fn drop(&mut self) {
        let Some(file) = self.file.take_if(|file| is_deleted(file)) else { return };
        self.volume.closing(&file);
        let place = self.place.take();
        let close = move || drop((file, place));
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(close)),
            Err(_) => close(),
        }
    }
}

/// Whether the file has no name any more.
fn is_deleted(file: &File) -> bool {
    file.metadata().is_ok_and(|found| found.nlink() == 0)
}

/// A file that may grow, and what it lies in.
#[derive(Clone)]
pub struct Growing {
    pub file: Arc<File>,
    pub volume: Arc<Volume>,
    pub most: Bounds,
    pub held: Arc<Held>,
}

/// Where a write begins.
#[derive(Debug, Clone, Copy)]
pub enum At {
    Offset(u64),
    End,
}

impl At {
    /// What a write of so many bytes there is.
    pub fn change(self, bytes: u64) -> Change {
        match self {
            Self::Offset(offset) => Change::Write { offset, bytes },
            Self::End => Change::Append { bytes },
        }
    }
}

impl Growing {
    /// Takes space as [`Volume::claim_growth`] does.
    pub async fn claim(&self, change: Change) -> io::Result<Growth> {
        self.volume.claim_growth(&self.file, self.most, change).await
    }

    /// Writes all of it, and answers how many bytes that are. It is not synced.
    pub async fn write(self, at: At, bytes: Bytes) -> io::Result<u64> {
        let length = bytes.len() as u64;
        let growth = self.claim(at.change(length)).await?;
        let write = move || {
            let written = match at {
                At::Offset(offset) => self.file.write_all_at(&bytes, offset),
                At::End => append_all(&self.file, &bytes),
            };
            // Kept until it is written, whoever still waits for it.
            growth.finish(&self.file, written).map(|()| length)
        };
        tokio::task::spawn_blocking(write).await.map_err(io::Error::other)?
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
