//! Content on its way into a bucket: [`Upload`], and the steps that make a blob of it.
//!
//! The steps, in this order, and what a crash after each leaves:
//! 1. the content is in `new/ID` and synced, with its name: the next opening of the bucket removes it;
//! 2. one transaction makes the row, and notes the file that it replaces as garbage: the blob is there, and the next
//!    opening does steps 3 and 4;
//! 3. the file is renamed to `ab/ID`;
//! 4. the replaced file is removed;
//! 5. later, for many at once: the removals are synced, and the notes of the garbage forgotten.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    sync::Arc,
};

use bytes::{Bytes, BytesMut};
use minnow_model::{Digest, StoreId, digest::Digester};
use tokio::{sync::OwnedSemaphorePermit, task::JoinHandle};

use super::{
    Blob, BucketError, Buckets, Conditions, MAX_BLOB_BYTES, Meta,
    content::{Opened, blocking},
    objects::{FileId, NewFile},
    open::{OpenBucket, Remains},
    rows::{self, Done, Held, INLINE_BYTES, Put},
    under_way::Place,
};
use crate::StoreError;

/// How much is hashed and written at once, in bytes. One such piece is written while the next one arrives.
const WRITE_BYTES: usize = 1 << 20;

/// The disk begins to write after so many bytes, and an upload waits while twice as many are not on it: then the sync
/// at the end has little left to do, and other syncs of the disk do not wait for gigabytes.
const WRITEBACK_BYTES: u64 = 8 << 20;

/// An upload under way. Dropping it before [`Upload::finish`] leaves nothing behind.
pub struct Upload {
    buckets: Buckets,
    target: Target,
    place: Place,
    /// What was written to this, in bytes.
    size: u64,
    /// What counts beside the content.
    overhead: u64,
    /// What the bucket's blobs took when it was last asked, if that is not long ago.
    used_bytes: Option<u64>,
    buffer: BytesMut,
    sink: Sink,
}

/// What an upload is to become.
pub(super) struct Target {
    pub(super) store: StoreId,
    pub(super) size_bytes: u64,
    pub(super) key: String,
    pub(super) meta: Meta,
    pub(super) only_if: Conditions,
}

enum Sink {
    /// All of it is in the buffer.
    Nothing,
    Writing(JoinHandle<Result<Box<FileSink>, BucketError>>),
    Failed,
}

/// A file that grows, and the hash of what is in it.
pub(super) struct FileSink {
    file: NewFile,
    digester: Digester,
    written: u64,
    /// Up to where the disk was asked to write.
    begun: u64,
}

/// Content that is on the disk, of which the index knows nothing yet.
pub(super) struct Stored {
    pub(super) size: u64,
    pub(super) etag: String,
    pub(super) content: StoredContent,
}

pub(super) enum StoredContent {
    Inline(Bytes),
    File(NewFile),
}

/// A blob that the index has, and what is left to do for it.
pub(super) struct Committed {
    pub(super) blob: Option<Blob>,
    pub(super) remains: Remains,
}

impl Upload {
    pub(super) fn new(buckets: Buckets, target: Target, place: Place) -> Self {
        let overhead = rows::overhead(&target.key, &target.meta);
        let (buffer, sink) = (BytesMut::new(), Sink::Nothing);
        Self { buckets, target, place, size: 0, overhead, used_bytes: None, buffer, sink }
    }

    /// Appends a piece. Waits while the disk is slower than the caller. After an error, and after a caller that stopped
    /// waiting, the upload can only be dropped.
    pub async fn write(&mut self, mut piece: Bytes) -> Result<(), BucketError> {
        let size = self.size.saturating_add(piece.len() as u64);
        if size > MAX_BLOB_BYTES {
            self.sink = Sink::Failed;
            return Err(BucketError::TooLarge);
        }
        if let Err(error) = self.reserve(size).await {
            self.sink = Sink::Failed;
            return Err(error);
        }
        self.size = size;
        while !piece.is_empty() {
            // At once, where it will not be small: to grow bit by bit is to copy all of it several times.
            if self.size > INLINE_BYTES as u64 && self.buffer.is_empty() {
                self.buffer.reserve(WRITE_BYTES);
            }
            let room = WRITE_BYTES.saturating_sub(self.buffer.len());
            self.buffer.extend_from_slice(&piece.split_to(room.min(piece.len())));
            if self.buffer.len() >= WRITE_BYTES {
                self.flush().await?;
            }
        }
        Ok(())
    }

    /// How many bytes were written to this.
    pub fn size_so_far(&self) -> u64 {
        self.size
    }

    /// Makes a blob of what was written, if the conditions hold at that moment. Answers when it is on the disk. Goes on
    /// when its caller stops waiting.
    pub async fn finish(self) -> Result<Option<Blob>, BucketError> {
        let (buckets, target, place, stored) = self.store().await?;
        let store = target.store.clone();
        let path = buckets.stores.path(&store);
        buckets.keep(target, place, stored, None).await.map_err(|error| error.at(&path))
    }

    /// The first step.
    pub(super) async fn store(mut self) -> Result<(Buckets, Target, Place, Stored), BucketError> {
        if self.size == 0 {
            self.reserve(0).await?;
        }
        let content = self.buffer.split().freeze();
        let sink = match self.take_sink().await? {
            None if content.len() <= INLINE_BYTES => {
                return Ok((self.buckets, self.target, self.place, Stored::inline(content)));
            }
            None => self.create().await?,
            Some(sink) => sink,
        };
        let stored = blocking(move || sink.finish(&content)).await?;
        Ok((self.buckets, self.target, self.place, stored))
    }

    /// Counts `size` bytes of content towards the bucket's size, if it is not full with them.
    async fn reserve(&mut self, size: u64) -> Result<(), BucketError> {
        let (bytes, size_bytes) = (size + self.overhead, self.target.size_bytes);
        if self.used_bytes.is_some_and(|used_bytes| self.place.reserve(bytes, used_bytes, size_bytes)) {
            return Ok(());
        }
        let used_bytes = self.buckets.used_bytes(&self.target.store).await?;
        self.used_bytes = Some(used_bytes);
        if self.place.reserve(bytes, used_bytes, size_bytes) { Ok(()) } else { Err(BucketError::Full { size_bytes }) }
    }

    /// Gives the buffer to a thread that writes it, when that is done with the one before.
    async fn flush(&mut self) -> Result<(), BucketError> {
        let sink = self.take_sink().await?;
        let piece = self.buffer.split().freeze();
        // What others have stored meanwhile.
        self.used_bytes = None;
        let mut sink = match sink {
            Some(sink) => sink,
            None => self.create().await?,
        };
        self.sink = Sink::Writing(tokio::task::spawn_blocking(move || {
            sink.write(&piece)?;
            Ok(sink)
        }));
        Ok(())
    }

    async fn create(&mut self) -> Result<Box<FileSink>, BucketError> {
        FileSink::create(&self.buckets, &self.target.store, &mut self.place).await.map(Box::new)
    }

    /// The file, if there is one, when what was given to it is written.
    async fn take_sink(&mut self) -> Result<Option<Box<FileSink>>, BucketError> {
        match std::mem::replace(&mut self.sink, Sink::Failed) {
            Sink::Nothing => Ok(None),
            Sink::Writing(writing) => writing.await.map_err(|_| StoreError::Stopped)?.map(Some),
            Sink::Failed => Err(BucketError::Failed),
        }
    }
}

impl FileSink {
    pub(super) async fn create(buckets: &Buckets, store: &StoreId, place: &mut Place) -> Result<Self, BucketError> {
        // A share, so that the bucket is not deleted or opened again before the file is there.
        let open = buckets.open_for(store, place).await?;
        let id = FileId::random()?;
        place.add_file(&id);
        blocking(move || {
            let file = open.objects.create(id)?;
            Ok(Self { file, digester: Digester::default(), written: 0, begun: 0 })
        })
        .await
    }

    /// Appends a piece. Blocking.
    pub(super) fn write(&mut self, piece: &[u8]) -> Result<(), BucketError> {
        self.digester.update(piece);
        let mut file = self.file.file()?;
        file.write_all(piece).map_err(|error| self.file.at(error))?;
        self.written += piece.len() as u64;
        if self.written - self.begun >= WRITEBACK_BYTES {
            write_back(file, self.begun, self.written - self.begun);
            self.begun = self.written;
        }
        Ok(())
    }

    /// Appends the last piece and makes all of it durable. Blocking.
    pub(super) fn finish(mut self, last: &[u8]) -> Result<Stored, BucketError> {
        self.write(last)?;
        self.file.sync()?;
        let etag = self.digester.finish().hex();
        Ok(Stored { size: self.written, etag, content: StoredContent::File(self.file) })
    }
}

/// How much is copied between two looks whether the disk keeps up, in bytes.
const COPY_BYTES: u64 = 64 << 20;

impl FileSink {
    /// Fills the file with the content of another, whose cursor is at its beginning; the system copies. Blocking.
    /// `go_on` is asked before each part; when it says no, this ends with [`StoreError::Stopped`].
    pub(super) fn copy(
        self,
        from: &Opened,
        size: u64,
        etag: String,
        go_on: impl Fn() -> bool,
    ) -> Result<Stored, BucketError> {
        let (source, mut to) = (from.file()?, self.file.file()?);
        let mut copied = 0;
        while copied < size {
            if !go_on() {
                return Err(StoreError::Stopped.into());
            }
            let mut part = source.take(COPY_BYTES.min(size - copied));
            let bytes = io::copy(&mut part, &mut to).map_err(|error| self.file.at(error))?;
            if bytes == 0 {
                return Err(from.short(size, copied));
            }
            write_back(to, copied, bytes);
            copied += bytes;
        }
        self.file.sync()?;
        Ok(Stored { size, etag, content: StoredContent::File(self.file) })
    }
}

/// Has the disk begin to write a part of a file, and waits for the part of the same size before it. Only for speed: the
/// sync at the end decides.
#[cfg(target_os = "linux")]
fn write_back(file: &File, start: u64, bytes: u64) {
    use std::os::fd::AsRawFd as _;
    let signed = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    let all = libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WRITE | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    // SAFETY: the descriptor is open as long as `file` is borrowed; the call takes no pointers.
    unsafe {
        libc::sync_file_range(file.as_raw_fd(), signed(start), signed(bytes), libc::SYNC_FILE_RANGE_WRITE);
        if let Some(before) = start.checked_sub(bytes) {
            libc::sync_file_range(file.as_raw_fd(), signed(before), signed(bytes), all);
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn write_back(_file: &File, _start: u64, _bytes: u64) {}

impl Stored {
    pub(super) fn inline(content: Bytes) -> Self {
        let etag = Digest::of(&content).hex();
        Self { size: content.len() as u64, etag, content: StoredContent::Inline(content) }
    }
}

impl Buckets {
    /// All steps after the first. They go on when the caller stops waiting.
    ///
    /// `queued` is given up when they are done.
    pub(super) async fn keep(
        self,
        target: Target,
        place: Place,
        stored: Stored,
        queued: Option<OwnedSemaphorePermit>,
    ) -> Result<Option<Blob>, BucketError> {
        let rest = async move {
            let _queued = queued;
            let open = self.open_for(&target.store, &place).await?;
            let committed = self.commit(&open, target, place, stored).await?;
            open.clear(committed.remains).await;
            Ok(committed.blob)
        };
        tokio::spawn(rest).await.map_err(|_| StoreError::Stopped)?
    }

    /// The second step. The place is given up with it.
    pub(super) async fn commit(
        &self,
        open: &Arc<OpenBucket>,
        target: Target,
        mut place: Place,
        stored: Stored,
    ) -> Result<Committed, BucketError> {
        let (held, file) = match stored.content {
            StoredContent::Inline(content) => (Held::Inline(content), None),
            StoredContent::File(file) => {
                // While this holds the bucket open, it is not deleted.
                let (file, in_place) = blocking(move || {
                    let in_place = file.is_in_place()?;
                    Ok((file, in_place))
                })
                .await?;
                if !in_place {
                    return Err(BucketError::Gone);
                }
                (Held::File(file.id().clone()), Some(file))
            }
        };
        let Target { store, size_bytes, key, meta, only_if } = target;
        let Stored { size, etag, .. } = stored;
        let put = Put { key, meta, only_if, size, etag, held, size_bytes };
        // Not removed when this is dropped half way: the write goes on, and a row needs its file. What no row has is removed
        // below, or by the next opening.
        let file = file.map(|file| {
            let id = file.id().clone();
            file.keep();
            id
        });
        let clock = Arc::clone(&self.clock);
        let done = open.database.write(move |connection| -> Result<_, BucketError> {
            // Given up first: from here on the bytes are those of the row.
            let reserved_bytes = place.settle();
            let done = rows::put(connection, &put, clock(), reserved_bytes)?;
            Ok((done, place))
        });
        let done = match done.await {
            Ok((done, _place)) => done,
            Err(error) => {
                // A sync of the index that failed leaves open what is on the disk. If the row is, the next opening
                // finds its file.
                if let Some(file) = file
                    && !matches!(error, BucketError::Store(_) | BucketError::Corrupt { .. })
                {
                    open.discard(file).await;
                }
                return Err(error.at(&self.stores.path(&store)));
            }
        };
        Ok(match done {
            None => {
                if let Some(file) = file {
                    open.discard(file).await;
                }
                Committed { blob: None, remains: Remains::default() }
            }
            Some(Done { blob, replaced }) => {
                let removed = replaced.into_iter().collect();
                Committed { blob: Some(blob), remains: Remains { placed: file, removed } }
            }
        })
    }
}
