//! The files of a bucket: `NAME.objects/new/ID` until the index has it, then `NAME.objects/ab/ID`. All calls block.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, ErrorKind},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use super::BucketError;
use crate::{StoreError, data_dir::sync_parent};

/// The name of a content file: 32 hex digits. Never given out twice, so that what is garbage stays garbage.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct FileId(String);

/// Hex digits of a file's name.
const ID_DIGITS: usize = 32;

impl FileId {
    /// Blocks at most while the machine starts.
    pub(super) fn random() -> Result<Self, StoreError> {
        let mut bytes = [0; ID_DIGITS / 2];
        getrandom::fill(&mut bytes).map_err(|error| StoreError::io(Path::new("getrandom"), io::Error::other(error)))?;
        Ok(Self(hex::encode(bytes)))
    }

    /// `None` where the text is none of ours: a damaged index must not name other files.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let ours = text.len() == ID_DIGITS && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        ours.then(|| Self(text.to_owned()))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

/// The folder of a bucket's content files. It need not be there.
#[derive(Debug, Clone)]
pub(super) struct Objects {
    dir: PathBuf,
}

impl Objects {
    /// Those that belong to the index at a path.
    pub(super) fn beside(index: &Path) -> Self {
        Self { dir: index.with_extension("objects") }
    }

    /// Where a file is before the index has it, and a little longer.
    pub(super) fn new_path(&self, id: &FileId) -> PathBuf {
        self.dir.join("new").join(id.as_str())
    }

    /// Where a file is then. 256 folders keep each small on file systems that search a folder linearly.
    pub(super) fn path(&self, id: &FileId) -> PathBuf {
        self.dir.join(id.as_str().get(..2).unwrap_or_default()).join(id.as_str())
    }

    /// Begins a file in `new/`.
    pub(super) fn create(&self, id: FileId) -> Result<NewFile, StoreError> {
        let path = self.new_path(&id);
        let open = || OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let file = match open() {
            Err(error) if error.kind() == ErrorKind::NotFound => self.create_folders().and_then(|()| open()),
            result => result,
        };
        let file = file.map_err(|error| StoreError::io(&path, error))?;
        Ok(NewFile { id, path, file: Some(file) })
    }

    /// Makes the folders for new files, and their names durable.
    fn create_folders(&self) -> io::Result<()> {
        // Not what is above: a bucket that was deleted meanwhile must not come back.
        for folder in [&self.dir, &self.dir.join("new")] {
            make_folder(folder)?;
            sync_parent(folder)?;
        }
        Ok(())
    }

    /// Moves a file that the index has out of `new/`. It need not be durable: the next opening of the bucket does it again.
    /// One that is not there was replaced and removed meanwhile.
    pub(super) fn place(&self, id: &FileId) -> Result<(), StoreError> {
        let (from, to) = (self.new_path(id), self.path(id));
        let moved = match fs::rename(&from, &to) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                to.parent().map_or(Ok(()), make_folder).and_then(|()| fs::rename(&from, &to))
            }
            result => result,
        };
        match moved {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(StoreError::io(&to, error)),
            _ => Ok(()),
        }
    }

    /// Removes a file that the index has no more; one that is not there is removed already.
    pub(super) fn remove(&self, id: &FileId) -> Result<(), StoreError> {
        // In the order of its way: the put that made it may be moving it now.
        for path in [self.new_path(id), self.path(id)] {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(StoreError::io(&path, error)),
                _ => {}
            }
        }
        Ok(())
    }

    /// Makes removals durable.
    pub(super) fn sync_removals<'a>(&self, ids: impl IntoIterator<Item = &'a FileId>) -> Result<(), StoreError> {
        let mut folders: Vec<PathBuf> = ids.into_iter().map(|id| self.path(id)).collect();
        folders.push(self.new_path(&FileId(String::new())));
        let mut folders: Vec<&Path> = folders.iter().filter_map(|path| path.parent()).collect();
        folders.sort();
        folders.dedup();
        for folder in folders {
            match File::open(folder).and_then(|folder| folder.sync_all()) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(StoreError::io(folder, error)),
                _ => {}
            }
        }
        Ok(())
    }

    /// The file, or `None` where there is none.
    pub(super) fn open(&self, id: &FileId) -> Result<Option<File>, StoreError> {
        // It may be on its way from the one place to the other.
        for path in [self.path(id), self.new_path(id), self.path(id)] {
            match File::open(&path) {
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                result => return result.map(Some).map_err(|error| StoreError::io(&path, error)),
            }
        }
        Ok(None)
    }

    /// Puts a hard link of the file among those of another bucket. Whether the file was there.
    pub(super) fn link(&self, id: &FileId, to: &Self) -> Result<bool, StoreError> {
        let new = to.path(id);
        let link = |from: &Path| match fs::hard_link(from, &new) {
            // Either the file or the folder is not there.
            Err(error) if error.kind() == ErrorKind::NotFound => {
                new.parent().map_or(Ok(()), |folder| DirBuilder::new().recursive(true).mode(0o700).create(folder))?;
                fs::hard_link(from, &new)
            }
            result => result,
        };
        for from in [self.path(id), self.new_path(id), self.path(id)] {
            match link(&from) {
                Ok(()) => return Ok(true),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(StoreError::io(&new, error)),
            }
        }
        Ok(false)
    }

    /// The files in `new/`.
    pub(super) fn unplaced(&self) -> Result<Vec<FileId>, StoreError> {
        let dir = self.dir.join("new");
        let at = |error| StoreError::io(&dir, error);
        let entries = match fs::read_dir(&dir) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            result => result.map_err(at)?,
        };
        let mut files = Vec::new();
        for entry in entries {
            files.extend(entry.map_err(at)?.file_name().to_str().and_then(FileId::parse));
        }
        Ok(files)
    }
}

fn make_folder(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// A file in `new/`, which is removed when this is dropped.
pub(super) struct NewFile {
    id: FileId,
    path: PathBuf,
    /// `None` once the file stays.
    file: Option<File>,
}

impl NewFile {
    pub(super) fn id(&self) -> &FileId {
        &self.id
    }

    pub(super) fn file(&self) -> Result<&File, StoreError> {
        self.file.as_ref().ok_or(StoreError::Stopped)
    }

    pub(super) fn at(&self, error: io::Error) -> StoreError {
        StoreError::io(&self.path, error)
    }

    /// Makes content and name durable.
    pub(super) fn sync(&self) -> Result<(), BucketError> {
        self.file()?.sync_all().map_err(|error| self.at(error))?;
        match sync_parent(&self.path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Err(BucketError::Gone),
            result => Ok(result.map_err(|error| self.at(error))?),
        }
    }

    /// Whether the file is still where it was made: a bucket may be deleted or moved away during an upload.
    pub(super) fn is_in_place(&self) -> Result<bool, StoreError> {
        let inode = self.file()?.metadata().map_err(|error| self.at(error))?.ino();
        match fs::metadata(&self.path) {
            Ok(found) => Ok(found.ino() == inode),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(self.at(error)),
        }
    }

    /// Leaves the file there.
    pub(super) fn keep(mut self) {
        self.file = None;
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        let Some(file) = self.file.take() else { return };
        let path = std::mem::take(&mut self.path);
        let remove = move || {
            // What cannot be removed now is removed when the bucket opens next.
            let _ = fs::remove_file(&path);
            drop(file);
        };
        // To free gigabytes takes the file system a while.
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(remove)),
            Err(_) => remove(),
        }
    }
}
