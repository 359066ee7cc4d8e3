//! Content under its digest: `blobs/sha256/ab/<64 hex digits>`. A blob is either whole and right, or not there.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt};
use minnow_model::{Digest, digest::Digester};
use tempfile::NamedTempFile;

use crate::{
    DataDir, StoreError,
    data_dir::{create_private, sync_parent},
};

/// How much of an upload is in memory at once, in bytes. Large enough that the switch to a blocking thread for each piece
/// is lost in the cost of writing it.
const PIECE_BYTES: usize = 1024 * 1024;

/// The content-addressed files of a data directory.
#[derive(Debug)]
pub struct Blobs {
    root: PathBuf,
    tmp: PathBuf,
    /// Held between looking at a blob's age and removing it or making it young, so that what [`Blobs::touch`] or
    /// [`BlobWriter::finish`] answered for is not removed in the same moment.
    ages: Arc<Mutex<()>>,
}

/// One blob in [`Blobs::list`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredBlob {
    pub digest: Digest,
    /// In bytes.
    pub len: u64,
    /// When it was written or last touched.
    pub touched: SystemTime,
}

/// What a finished write came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    pub digest: Digest,
    /// In bytes.
    pub len: u64,
    /// False when the content was there before.
    pub created: bool,
}

/// Why an upload failed: the store, or the stream that it came from.
#[derive(Debug, thiserror::Error)]
pub enum UploadError<E> {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the upload broke off")]
    Source(E),
}

impl Blobs {
    pub fn open(dir: &DataDir) -> Result<Self, StoreError> {
        let root = dir.blobs().join("sha256");
        create_private(&root).map_err(|error| StoreError::io(&root, error))?;
        sync_parent(&root).map_err(|error| StoreError::io(&root, error))?;
        Ok(Self { root, tmp: dir.tmp(), ages: Arc::default() })
    }

    /// Where the blob is, or would be.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        let hex = digest.hex();
        // 256 folders keep each small on file systems that search a folder linearly.
        self.root.join(hex.get(..2).unwrap_or_default()).join(&hex)
    }

    /// The length of the blob in bytes, or `None` when it is not there.
    pub fn len(&self, digest: &Digest) -> io::Result<Option<u64>> {
        match fs::metadata(self.path(digest)) {
            Ok(metadata) => Ok(Some(metadata.len())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// [`Blobs::len`], and starts the blob's age anew, so that it stays for whoever was told that it is there.
    pub fn touch(&self, digest: &Digest) -> io::Result<Option<u64>> {
        let _ages = self.ages.lock().unwrap_or_else(PoisonError::into_inner);
        match File::open(self.path(digest)) {
            Ok(file) => {
                file.set_modified(SystemTime::now())?;
                Ok(Some(file.metadata()?.len()))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Begins a blob of at most `max_bytes` that must turn out to be `expected`. Blocking.
    pub fn writer(&self, expected: Digest, max_bytes: u64) -> Result<BlobWriter, StoreError> {
        let file = NamedTempFile::new_in(&self.tmp).map_err(|error| StoreError::io(&self.tmp, error))?;
        Ok(BlobWriter {
            file,
            digester: Digester::default(),
            expected,
            path: self.path(&expected),
            len: 0,
            max_bytes,
            ages: Arc::clone(&self.ages),
        })
    }

    /// Stores small content under its digest. Blocking.
    pub fn put_bytes(&self, content: &[u8]) -> Result<Written, StoreError> {
        let digest = Digest::of(content);
        let mut writer = self.writer(digest, content.len() as u64)?;
        writer.write(content)?;
        writer.finish()
    }

    /// Stores what `pieces` brings under `expected`, holding about 1 MiB in memory and no thread while it waits for more.
    /// Nothing is left behind when it fails or is dropped half way.
    pub async fn put_stream<E>(
        &self,
        expected: Digest,
        max_bytes: u64,
        mut pieces: impl Stream<Item = Result<Bytes, E>> + Unpin,
    ) -> Result<Written, UploadError<E>> {
        let mut writer = self.writer(expected, max_bytes)?;
        let mut piece = BytesMut::new();
        loop {
            let next = pieces.next().await;
            let ended = next.is_none();
            if let Some(bytes) = next {
                piece.extend_from_slice(&bytes.map_err(UploadError::Source)?);
            }
            if piece.len() >= PIECE_BYTES || (ended && !piece.is_empty()) {
                let full = piece.split().freeze();
                writer = blocking(move || {
                    writer.write(&full)?;
                    Ok(writer)
                })
                .await?;
            }
            if ended {
                return Ok(blocking(move || writer.finish()).await?);
            }
        }
    }

    /// Makes the file `from`, which is on the same file system, durable and the blob with this digest. The caller has made sure that it
    /// is. Blocking.
    pub fn adopt(&self, digest: &Digest, from: &Path) -> Result<(), StoreError> {
        let path = self.path(digest);
        let adopt = || -> io::Result<()> {
            File::open(from)?.sync_all()?;
            if let Some(folder) = path.parent() {
                create_private(folder)?;
                sync_parent(folder)?;
            }
            let _ages = self.ages.lock().unwrap_or_else(PoisonError::into_inner);
            File::open(from)?.set_modified(SystemTime::now())?;
            fs::rename(from, &path)?;
            sync_parent(&path)
        };
        adopt().map_err(|error| StoreError::io(&path, error))
    }

    /// Removes the blob; one that is not there is removed already. Blocking.
    pub fn remove(&self, digest: &Digest) -> Result<(), StoreError> {
        let path = self.path(digest);
        match fs::remove_file(&path) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(StoreError::io(&path, error)),
        }
    }

    /// Removes the blob unless it was written or touched after `cutoff`; answers whether it is gone. Blocking.
    pub fn remove_untouched_since(&self, digest: &Digest, cutoff: SystemTime) -> Result<bool, StoreError> {
        let _ages = self.ages.lock().unwrap_or_else(PoisonError::into_inner);
        let path = self.path(digest);
        match fs::metadata(&path).and_then(|metadata| metadata.modified()) {
            Ok(touched) if touched > cutoff => Ok(false),
            Ok(_) => self.remove(digest).map(|()| true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
            Err(error) => Err(StoreError::io(&path, error)),
        }
    }

    /// Every blob, in no order, read from the directory as the caller goes on. Files that are not blobs are skipped.
    pub fn list(&self) -> io::Result<impl Iterator<Item = io::Result<StoredBlob>>> {
        let folders = fs::read_dir(&self.root)?;
        Ok(folders.flat_map(|folder| {
            let files = folder.and_then(|folder| fs::read_dir(folder.path()));
            let (files, failed) = match files {
                Ok(files) => (Some(files), None),
                Err(error) => (None, Some(Err(error))),
            };
            files.into_iter().flatten().filter_map(|file| stored(file).transpose()).chain(failed)
        }))
    }
}

fn stored(file: io::Result<fs::DirEntry>) -> io::Result<Option<StoredBlob>> {
    let file = file?;
    let name = file.file_name();
    let Some(digest) = name.to_str().and_then(|hex| format!("sha256:{hex}").parse().ok()) else {
        return Ok(None);
    };
    match file.metadata() {
        Ok(metadata) => Ok(Some(StoredBlob { digest, len: metadata.len(), touched: metadata.modified()? })),
        // Removed since the folder was read.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// A blob that is being written. Dropping it before [`BlobWriter::finish`] leaves nothing behind.
pub struct BlobWriter {
    file: NamedTempFile,
    digester: Digester,
    expected: Digest,
    path: PathBuf,
    len: u64,
    max_bytes: u64,
    ages: Arc<Mutex<()>>,
}

impl BlobWriter {
    /// Appends a piece. Blocking.
    pub fn write(&mut self, piece: &[u8]) -> Result<(), StoreError> {
        self.len += piece.len() as u64;
        if self.len > self.max_bytes {
            return Err(StoreError::TooLarge { max_bytes: self.max_bytes });
        }
        self.digester.update(piece);
        self.file.write_all(piece).map_err(|error| StoreError::io(self.file.path(), error))
    }

    /// Checks the digest and makes the blob durable and visible. Blocking.
    pub fn finish(self) -> Result<Written, StoreError> {
        let Self { file, digester, expected, path, len, ages, .. } = self;
        let digest = digester.finish();
        if digest != expected {
            return Err(StoreError::DigestMismatch { expected, actual: digest });
        }
        let publish = |path: &Path| -> io::Result<bool> {
            file.as_file().sync_all()?;
            if let Some(folder) = path.parent() {
                let new_folder = !folder.exists();
                create_private(folder)?;
                if new_folder {
                    sync_parent(folder)?;
                }
            }
            let _ages = ages.lock().unwrap_or_else(PoisonError::into_inner);
            let created = !path.exists();
            file.persist(path).map_err(|error| error.error)?;
            sync_parent(path)?;
            Ok(created)
        };
        let created = publish(&path).map_err(|error| StoreError::io(&path, error))?;
        Ok(Written { digest, len, created })
    }
}

/// Runs blocking file work on a thread that may wait.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(StoreError::Stopped),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, time::Duration};

    use futures::stream;

    use super::*;

    struct Fixture {
        _temp: tempfile::TempDir,
        dir: DataDir,
        blobs: Blobs,
    }

    impl Fixture {
        fn new() -> Self {
            let temp = tempfile::tempdir().unwrap();
            let dir = DataDir::open(&temp.path().join("data")).unwrap();
            let blobs = Blobs::open(&dir).unwrap();
            Self { _temp: temp, dir, blobs }
        }

        fn unfinished(&self) -> usize {
            fs::read_dir(self.dir.tmp()).unwrap().count()
        }
    }

    #[test]
    fn content_reads_back_under_its_digest_and_is_stored_once() {
        let fixture = Fixture::new();
        let first = fixture.blobs.put_bytes(b"hello").unwrap();
        assert_eq!(first, Written { digest: Digest::of(b"hello"), len: 5, created: true });
        assert!(!fixture.blobs.put_bytes(b"hello").unwrap().created);
        assert_eq!(fs::read(fixture.blobs.path(&first.digest)).unwrap(), b"hello");
        assert_eq!(fixture.blobs.len(&first.digest).unwrap(), Some(5));
        assert_eq!(fixture.blobs.len(&Digest::of(b"other")).unwrap(), None);
        assert_eq!(fixture.unfinished(), 0);
    }

    #[test]
    fn a_wrong_digest_leaves_nothing_behind() {
        let fixture = Fixture::new();
        let expected = Digest::of(b"hello");
        let mut writer = fixture.blobs.writer(expected, 100).unwrap();
        writer.write(b"hullo").unwrap();
        assert!(matches!(writer.finish(), Err(StoreError::DigestMismatch { .. })));
        assert_eq!(fixture.blobs.len(&expected).unwrap(), None);
        assert_eq!(fixture.unfinished(), 0);
    }

    #[test]
    fn content_beyond_the_bound_is_refused_as_soon_as_it_shows() {
        let fixture = Fixture::new();
        let mut writer = fixture.blobs.writer(Digest::of(b"hello"), 4).unwrap();
        writer.write(b"hell").unwrap();
        assert!(matches!(writer.write(b"o"), Err(StoreError::TooLarge { max_bytes: 4 })));
        drop(writer);
        assert_eq!(fixture.unfinished(), 0);
    }

    #[tokio::test]
    async fn a_stream_is_stored_and_a_broken_one_is_not() {
        let fixture = Fixture::new();
        let content = vec![7u8; 3 * PIECE_BYTES + 17];
        let digest = Digest::of(&content);
        let pieces = |upto: usize| {
            let pieces: Vec<_> =
                content[..upto].chunks(100_000).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
            stream::iter(pieces)
        };
        let broken = pieces(2 * PIECE_BYTES).chain(stream::iter([Err("gone")]));
        assert!(matches!(fixture.blobs.put_stream(digest, 1 << 30, broken).await, Err(UploadError::Source("gone"))));
        assert_eq!(fixture.unfinished(), 0);
        let written = fixture.blobs.put_stream(digest, 1 << 30, pieces(content.len())).await.unwrap();
        assert_eq!(written.len, content.len() as u64);
        assert_eq!(fs::read(fixture.blobs.path(&digest)).unwrap(), content);
        let empty = stream::iter(Vec::<Result<Bytes, Infallible>>::new());
        assert_eq!(fixture.blobs.put_stream(Digest::of(b""), 10, empty).await.unwrap().len, 0);
    }

    #[test]
    fn the_list_has_every_blob_and_nothing_else() {
        let fixture = Fixture::new();
        let mut expected: Vec<_> =
            (0..50u8).map(|content| fixture.blobs.put_bytes(&[content]).unwrap().digest).collect();
        fs::write(fixture.blobs.path(&expected[0]).with_file_name("README"), "x").unwrap();
        let mut found: Vec<_> = fixture.blobs.list().unwrap().map(|blob| blob.unwrap().digest).collect();
        expected.sort();
        found.sort();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_touched_blob_is_young_again() {
        let fixture = Fixture::new();
        let digest = fixture.blobs.put_bytes(b"hello").unwrap().digest;
        let written = SystemTime::now();
        let file = File::open(fixture.blobs.path(&digest)).unwrap();
        file.set_modified(written - Duration::from_secs(7200)).unwrap();
        let cutoff = written - Duration::from_secs(3600);
        assert_eq!(fixture.blobs.touch(&digest).unwrap(), Some(5));
        assert!(!fixture.blobs.remove_untouched_since(&digest, cutoff).unwrap());
        file.set_modified(written - Duration::from_secs(7200)).unwrap();
        assert!(fixture.blobs.remove_untouched_since(&digest, cutoff).unwrap());
        assert_eq!(fixture.blobs.touch(&digest).unwrap(), None);
    }
}
