//! A bucket that is open: its index, its files, and the care for what a put or a deletion leaves to be done.

use std::{
    fs::File,
    io::{self, Read as _},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use minnow_model::{Digest, digest::Digester};
use rusqlite::{Connection, OpenFlags};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    BucketError, Conditions, PIECE_BYTES, QUEUED_BYTES,
    content::blocking,
    objects::{FileId, Objects},
    rows::{self, Held},
    under_way::UnderWay,
};
use crate::{
    Database, StoreError,
    database::{Tuning, connect_alone},
    snapshot::{self, Expected, Snapshot},
};

/// Files that are removed before their removal is synced and the index forgets them. So many notes of 40 bytes cost
/// little, and the next opening removes as many files again, some milliseconds.
const SWEPT_FILES: usize = 256;

/// A bucket that is open.
pub(super) struct OpenBucket {
    pub(super) database: Database,
    pub(super) objects: Objects,
    /// [`QUEUED_BYTES`].
    queue: Arc<Semaphore>,
    /// Files that are removed and still noted as garbage.
    removed: Mutex<Vec<FileId>>,
    kept: Mutex<Kept>,
}

/// Files that no blob has any more, and that a backup still may want.
#[derive(Default)]
struct Kept {
    /// How many [`KeptFiles`] there are.
    by: usize,
    files: Vec<FileId>,
}

/// Keeps the content files that a bucket has now from being removed, until it is dropped.
pub struct KeptFiles {
    open: Arc<OpenBucket>,
}

impl KeptFiles {
    /// Puts a hard link of each content file that the index in `snapshot` names into `NAME.objects` beside `to`, as
    /// they lie beside the index itself, and answers their bytes. `snapshot` was begun after this, and `to` is on the
    /// same file system. `go_on` is asked for each file; when it says no, this ends with [`StoreError::Stopped`].
    /// Blocking.
    pub fn link_to(&self, snapshot: &Snapshot, to: &Path, mut go_on: impl FnMut() -> bool) -> Result<u64, BucketError> {
        let to = Objects::beside(to);
        let mut bytes = 0;
        rows::each_file(snapshot.connection(), |file, size| {
            if !go_on() {
                return Err(StoreError::Stopped.into());
            }
            if !self.open.objects.link(&file, &to)? {
                return Err(self.open.lost("a blob", &file));
            }
            bytes += size;
            Ok(())
        })?;
        Ok(bytes)
    }
}

impl Drop for KeptFiles {
    fn drop(&mut self) {
        let files = {
            let mut kept = self.open.kept();
            kept.by -= 1;
            if kept.by > 0 {
                return;
            }
            std::mem::take(&mut kept.files)
        };
        let open = Arc::clone(&self.open);
        let remove = move || {
            // What cannot be removed now, and what is removed here, is garbage for the next opening.
            for file in &files {
                let _ = open.objects.remove(file);
            }
        };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(remove)),
            Err(_) => remove(),
        }
    }
}

/// What is left to do when a write is on the disk. After a crash, the next opening does it.
#[derive(Default)]
pub(super) struct Remains {
    /// The new file, which is to leave `new/`.
    pub(super) placed: Option<FileId>,
    /// The files that no blob has any more.
    pub(super) removed: Vec<FileId>,
}

impl OpenBucket {
    /// Opens the bucket whose index is at `path`, and finishes what a crash interrupted. Blocking.
    pub(super) fn open(path: &Path, tuning: Tuning, under_way: &UnderWay) -> Result<Self, StoreError> {
        let database = Database::open_tuned(path, rows::SCHEMA, tuning)?;
        let objects = Objects::beside(path);
        let recovered = recover(path, &database, &objects, under_way);
        recovered.map_err(|error| stored(path, error))?;
        let queue = Arc::new(Semaphore::new(QUEUED_BYTES as usize));
        Ok(Self { database, objects, queue, removed: Mutex::default(), kept: Mutex::default() })
    }

    /// Waits until there is room for a write of so many bytes.
    pub(super) async fn enqueue(&self, bytes: usize) -> Result<OwnedSemaphorePermit, BucketError> {
        let bytes = u32::try_from(bytes).unwrap_or(QUEUED_BYTES).min(QUEUED_BYTES);
        Ok(Arc::clone(&self.queue).acquire_many_owned(bytes).await.map_err(|_| StoreError::Stopped)?)
    }

    /// Removes the rows of blobs for which `only_if` holds: how many there were, and the files that are garbage now.
    pub(super) async fn remove(
        &self,
        keys: Vec<String>,
        only_if: Conditions,
        queued: OwnedSemaphorePermit,
    ) -> Result<(u64, Vec<FileId>), BucketError> {
        self.database
            .write(move |connection| {
                let deleted = rows::delete(connection, &keys, &only_if);
                drop(queued);
                deleted
            })
            .await
    }

    /// Moves the new file to its place and removes what no blob has. What fails is done when the bucket opens next.
    pub(super) async fn clear(self: &Arc<Self>, remains: Remains) {
        if remains.placed.is_none() && remains.removed.is_empty() {
            return;
        }
        let open = Arc::clone(self);
        let cleared = blocking(move || {
            let placed = remains.placed.as_ref().map_or(Ok(()), |file| open.place(file));
            let swept = open.unlink(remains.removed);
            placed.and(swept)
        });
        let swept = match cleared.await {
            Ok(Some(removed)) => self.sweep(removed).await,
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        if let Err(error) = swept {
            let bucket = self.database.path().display();
            tracing::warn!(%error, %bucket, "files of a bucket could not be moved or removed; its next opening tries again");
        }
    }

    /// Removes a new file that no row has. If that fails, the next opening does it.
    pub(super) async fn discard(self: &Arc<Self>, file: FileId) {
        let open = Arc::clone(self);
        let _ = blocking(move || Ok(open.objects.remove(&file)?)).await;
    }

    /// The third step of a put. Blocking.
    pub(super) fn place(&self, file: &FileId) -> Result<(), BucketError> {
        Ok(self.objects.place(file)?)
    }

    /// The fourth step. What is to be swept now, if it is time for that. Blocking.
    pub(super) fn unlink(&self, files: Vec<FileId>) -> Result<Option<Vec<FileId>>, BucketError> {
        {
            let mut kept = self.kept();
            if kept.by > 0 {
                kept.files.extend(files);
                return Ok(None);
            }
        }
        for file in &files {
            self.objects.remove(file)?;
        }
        let mut removed = self.removed.lock().unwrap_or_else(PoisonError::into_inner);
        removed.extend(files);
        Ok((removed.len() >= SWEPT_FILES).then(|| std::mem::take(&mut *removed)))
    }

    /// The last step: the index forgets files whose removal is on the disk.
    pub(super) async fn sweep(&self, removed: Vec<FileId>) -> Result<(), BucketError> {
        let objects = self.objects.clone();
        let removed = blocking(move || {
            objects.sync_removals(&removed)?;
            Ok(removed)
        })
        .await?;
        self.database.write(move |connection| rows::forget_garbage(connection, &removed)).await
    }

    /// Keeps the files that no blob has any more.
    pub(super) fn keep_files(self: Arc<Self>) -> KeptFiles {
        self.kept().by += 1;
        KeptFiles { open: self }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The error of a blob whose file is not there.
    pub(super) fn lost(&self, key: &str, file: &FileId) -> BucketError {
        let detail = format!("the file of `{key}` is missing");
        BucketError::Corrupt { path: self.objects.path(file), detail }
    }
}

/// Reads a bucket that nobody has open, and checks that all of it is sound: the index, and the content of each blob
/// against its etag. Blocking.
pub(super) fn check(path: &Path) -> Result<(), StoreError> {
    snapshot::check(path, Expected::Schema(rows::SCHEMA))?;
    let objects = Objects::beside(path);
    let connection = Connection::open(path)?;
    let checked = rows::each_content(&connection, |found| {
        let (blob, damaged) =
            (&found.blob, |detail: &str| BucketError::corrupt(format!("the content of `{}` {detail}", found.blob.key)));
        let digest = match &found.held {
            Held::Inline(content) => Digest::of(content),
            Held::File(file) => {
                let Some(content) = objects.open(file)? else { return Err(damaged("is missing")) };
                digest_of(content, blob.size).map_err(|error| StoreError::io(&objects.path(file), error))?
            }
        };
        if digest.hex() == blob.etag { Ok(()) } else { Err(damaged("is not what was stored")) }
    });
    checked.map_err(|error| stored(path, error))
}

/// The digest of a file that should have `size` bytes; one more is read, so that a longer one is told, too.
fn digest_of(content: File, size: u64) -> io::Result<Digest> {
    let mut digester = Digester::default();
    let mut content = content.take(size.saturating_add(1));
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        match content.read(&mut piece)? {
            0 => return Ok(digester.finish()),
            bytes => digester.update(piece.get(..bytes).unwrap_or_default()),
        }
    }
}

/// The error in the words of the store.
fn stored(path: &Path, error: BucketError) -> StoreError {
    match error.at(path) {
        BucketError::Store(error) => error,
        BucketError::DiskFull => StoreError::Full,
        BucketError::Corrupt { path, detail } => StoreError::Corrupt { path, detail },
        error => StoreError::Corrupt { path: path.to_owned(), detail: error.to_string() },
    }
}

/// Finishes what a crash interrupted, or what failed: new files are placed or removed, garbage is removed. Where the
/// disk does not let it, the bucket is as good without.
fn recover(path: &Path, database: &Database, objects: &Objects, under_way: &UnderWay) -> Result<(), BucketError> {
    let unplaced = objects.unplaced()?.into_iter().filter(|file| !under_way.has(path, file));
    let of_blobs = unplaced.map(|file| {
        let of_blob = database.read_here(|connection| rows::has_file(connection, &file))?;
        Ok((file, of_blob))
    });
    let of_blobs = of_blobs.collect::<Result<Vec<_>, BucketError>>()?;
    let garbage = database.read_here(rows::garbage)?;
    let tidied = of_blobs
        .iter()
        .try_for_each(|(file, of_blob)| if *of_blob { objects.place(file) } else { objects.remove(file) })
        .map_err(BucketError::from)
        .and_then(|()| forget(path, objects, &garbage));
    if let Err(error) = tidied {
        let bucket = path.display();
        tracing::warn!(%error, %bucket, "files of a bucket could not be moved or removed; its next opening tries again");
    }
    Ok(())
}

/// Removes garbage for good.
fn forget(path: &Path, objects: &Objects, garbage: &[FileId]) -> Result<(), BucketError> {
    if garbage.is_empty() {
        return Ok(());
    }
    for file in garbage {
        objects.remove(file)?;
    }
    objects.sync_removals(garbage)?;
    // The writer of the database cannot be waited for on every thread that opens a bucket.
    let mut connection = connect_alone(path, OpenFlags::default())?;
    let transaction = connection.transaction()?;
    rows::forget_garbage(&transaction, garbage)?;
    Ok(transaction.commit()?)
}
