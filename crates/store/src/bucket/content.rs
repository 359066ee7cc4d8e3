//! The content of a blob on its way to a reader. It stays whole when the blob is replaced or deleted: an open file is
//! not gone before it is closed.

use std::{fs::File, ops::Range, os::unix::fs::MetadataExt as _, path::PathBuf, sync::Arc};

use bytes::Bytes;
use rustix::buffer::spare_capacity;
use tokio::task::JoinHandle;

use super::{
    BucketError,
    counts::Reader,
    objects::{FileId, Objects},
};
use crate::StoreError;

/// The largest piece that [`Content::next`] gives, in bytes: large enough that the way to a thread that may block is
/// lost in reading it.
pub const PIECE_BYTES: usize = 256 << 10;

/// Content that is read piece by piece. While one is used the next is read, so two are in memory.
pub struct Content {
    source: Source,
    /// Of what was not given yet.
    remaining: u64,
}

enum Source {
    Inline(Bytes),
    File(Ahead),
    /// A read has failed.
    Failed,
}

/// The piece that comes next: read, or being read.
struct Ahead {
    file: Arc<Opened>,
    piece: Piece,
    /// Where the piece after it begins, and where the range ends.
    next: u64,
    end: u64,
}

enum Piece {
    Read(Bytes),
    Reading(JoinHandle<Result<Bytes, BucketError>>),
}

/// The open file of a blob.
pub(super) struct Opened {
    /// Until this is dropped.
    file: Option<File>,
    path: PathBuf,
    key: String,
    reader: Option<Reader>,
}

impl Content {
    /// A part of content that is in memory.
    pub(super) fn inline(mut content: Bytes, range: &Range<u64>) -> Self {
        let at = |offset: u64| usize::try_from(offset).unwrap_or(usize::MAX).min(content.len());
        let (start, end) = (at(range.start), at(range.end));
        content.truncate(end);
        let content = content.split_off(start.min(end));
        Self { remaining: content.len() as u64, source: Source::Inline(content) }
    }

    /// The open file, or the content that is in memory. For who has read nothing yet.
    pub(super) fn into_file(self) -> Result<Arc<Opened>, Bytes> {
        match self.source {
            Source::Inline(content) => Err(content),
            Source::File(ahead) => Ok(ahead.file),
            Source::Failed => Err(Bytes::new()),
        }
    }

    /// The file's content from `range`, or `None` where there is no such file. `size` is what it must have, and `reader` is
    /// kept until it is closed.
    pub(super) async fn open(
        objects: Objects,
        id: FileId,
        key: String,
        size: u64,
        range: Range<u64>,
        reader: Reader,
    ) -> Result<Option<Self>, BucketError> {
        let remaining = range.end - range.start;
        let (start, end) = (range.start, range.end);
        let opened = blocking(move || {
            let Some(file) = objects.open(&id)? else { return Ok(None) };
            let path = objects.path(&id);
            let len = file.metadata().map_err(|error| StoreError::io(&path, error))?.len();
            // Twice the read-ahead of the kernel; no harm where it does not know it.
            if size > PIECE_BYTES as u64 {
                let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Sequential);
            }
            let opened = Opened { file: Some(file), path, key, reader: Some(reader) };
            if len != size {
                return Err(opened.short(size, len));
            }
            let first = opened.read(start, piece_bytes(start, end))?;
            Ok(Some((opened, first)))
        });
        Ok(opened.await?.map(|(opened, first)| {
            let next = start + first.len() as u64;
            let ahead = Ahead { file: Arc::new(opened), piece: Piece::Read(first), next, end };
            Self { source: Source::File(ahead), remaining }
        }))
    }

    /// The next piece, of at most [`PIECE_BYTES`]; `None` at the end. Never less than was promised: what is damaged is an error.
    pub async fn next(&mut self) -> Result<Option<Bytes>, BucketError> {
        if self.remaining == 0 {
            return Ok(None);
        }
        let piece = match &mut self.source {
            Source::Inline(content) => content.split_to(content.len().min(PIECE_BYTES)),
            Source::File(ahead) => match ahead.take().await {
                Ok(piece) => piece,
                Err(error) => {
                    self.source = Source::Failed;
                    return Err(error);
                }
            },
            Source::Failed => return Err(BucketError::Failed),
        };
        self.remaining = self.remaining.saturating_sub(piece.len() as u64);
        Ok(Some(piece))
    }

    /// How many bytes [`Content::next`] has not given yet.
    pub fn remaining(&self) -> u64 {
        self.remaining
    }
}

impl Ahead {
    /// The piece; the next one is begun. A caller may stop waiting and come again.
    async fn take(&mut self) -> Result<Bytes, BucketError> {
        let piece = match &mut self.piece {
            Piece::Read(piece) => std::mem::take(piece),
            Piece::Reading(reading) => reading.await.map_err(|_| StoreError::Stopped)??,
        };
        let (file, start, bytes) = (Arc::clone(&self.file), self.next, piece_bytes(self.next, self.end));
        self.next += bytes as u64;
        self.piece = if bytes == 0 {
            Piece::Read(Bytes::new())
        } else {
            Piece::Reading(tokio::task::spawn_blocking(move || file.read(start, bytes)))
        };
        Ok(piece)
    }
}

/// How much is read at once from `start`.
fn piece_bytes(start: u64, end: u64) -> usize {
    end.saturating_sub(start).min(PIECE_BYTES as u64) as usize
}

impl Opened {
    pub(super) fn file(&self) -> Result<&File, StoreError> {
        self.file.as_ref().ok_or(StoreError::Stopped)
    }

    fn read(&self, start: u64, bytes: usize) -> Result<Bytes, BucketError> {
        let file = self.file()?;
        let mut piece = Vec::with_capacity(bytes);
        while piece.len() < bytes {
            let offset = start + piece.len() as u64;
            match rustix::io::pread(file, spare_capacity(&mut piece), offset) {
                // The file became shorter.
                Ok(0) => return Err(self.short(start + bytes as u64, offset)),
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(StoreError::io(&self.path, error.into()).into()),
            }
        }
        piece.truncate(bytes);
        Ok(Bytes::from(piece))
    }

    pub(super) fn short(&self, size: u64, len: u64) -> BucketError {
        let detail = format!("the file of `{}` should have {size} bytes and has {len}", self.key);
        BucketError::Corrupt { path: self.path.clone(), detail }
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        let (Some(file), reader) = (self.file.take(), self.reader.take()) else { return };
        // The last close of a file that was removed frees its content, for gigabytes a while. One that is removed between the
        // question and the close is rare enough.
        let is_removed = file.metadata().is_ok_and(|metadata| metadata.nlink() == 0);
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) if is_removed => drop(runtime.spawn_blocking(move || drop((file, reader)))),
            _ => drop((file, reader)),
        }
    }
}

/// Runs file work on a thread that may wait.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BucketError> + Send + 'static,
) -> Result<T, BucketError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(StoreError::Stopped.into()),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, sync::mpsc};

    use super::{super::counts::Readers, *};

    #[test]
    fn the_last_close_of_a_removed_file_is_not_on_its_readers_thread() {
        let temp = tempfile::tempdir().unwrap();
        let readers = Arc::<Readers>::default();
        let open = || {
            let path = temp.path().join("file");
            let reader = readers.reader(&temp.path().join("a.db")).unwrap();
            Opened { file: Some(File::create(&path).unwrap()), path, key: "a".into(), reader: Some(reader) }
        };
        let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).build().unwrap();
        runtime.block_on(async {
            let (release, released) = mpsc::channel::<()>();
            let busy = tokio::task::spawn_blocking(move || released.recv().unwrap());
            drop(open());
            assert_eq!(readers.count(), 0, "a file that stays is closed at once");
            let removed = open();
            fs::remove_file(&removed.path).unwrap();
            drop(removed);
            assert_eq!(readers.count(), 1, "it waits for the thread that is busy");
            release.send(()).unwrap();
            busy.await.unwrap();
            tokio::task::spawn_blocking(|| ()).await.unwrap();
            assert_eq!(readers.count(), 0);
        });
    }
}
