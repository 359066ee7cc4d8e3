//! The files of a volume by their paths, a whole call each: what JavaScript has. (Guests in WebAssembly have handles, and
//! wasmtime-wasi to look after them.)
//!
//! cap-primitives finds a path, name for name below the volume's folder, as it does for WebAssembly: no `..`, no link and no move
//! meanwhile leads out. What is made, moved or removed is then named in the folder that holds it, which is synced afterwards. So what
//! was answered is on the disk, the name as well as the content.

mod path;

#[cfg(test)]
mod tests;

use std::{
    fs::File,
    io,
    os::{fd::OwnedFd, unix::fs::FileExt as _},
    path::Path,
    sync::Arc,
};

use bytes::Bytes;
use cap_primitives::fs::{OpenOptions, OpenOptionsExt as _};
use minnow_model::StoreId;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, fstat, mkdirat, openat, renameat, statat, unlinkat};
use tokio::sync::OwnedSemaphorePermit;

use super::{At, Bounds, Change, Growing, Held, MAX_ENTRIES, Usage, Volume, Volumes, tree};

pub use path::{FileCode, FileError, FilePath, MAX_PATH_BYTES};

/// What the names of one list may take, in bytes, each with [`LISTED_BYTES`]. A volume that has all of its 100,000 names in one folder
/// can be listed while they have 75 bytes on average.
pub const MAX_LISTING_BYTES: usize = 8 << 20;

/// What a name of a list takes beside itself: the quotes, the comma and the letter for its kind that it is sent with.
const LISTED_BYTES: usize = 8;

/// The rights of new files, less the node's umask: as cap-std makes them for WebAssembly.
const FILE_MODE: Mode = Mode::from_bits_truncate(0o666);
const FOLDER_MODE: Mode = Mode::from_bits_truncate(0o777);

type Result<T> = std::result::Result<T, FileError>;

/// A volume whose files are used by their paths. Cheap to make; nothing is opened before a call.
pub struct ByPath {
    volume: Arc<Volume>,
    volumes: Volumes,
    most: Bounds,
}

/// How a file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// What was in it goes. It is made where it is not there.
    Replace,
    /// It must not be there.
    New,
    /// At its end. It is made where it is not there.
    Append,
    /// From this offset in bytes on, over what is there. It is made where it is not there; a gap reads as zeros.
    From(u64),
}

/// What something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    File,
    Folder,
    Link,
    /// None of these: guests cannot make it.
    Other,
}

/// What is known of a file or folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    pub kind: Kind,
    pub bytes: u64,
    /// Milliseconds since 1970; before that below zero.
    pub modified_ms: i64,
}

impl Volumes {
    /// The volume by its paths; `size_bytes` is the most that it may hold.
    pub fn by_path(&self, store: &StoreId, size_bytes: u64) -> ByPath {
        let most = Bounds { bytes: size_bytes, entries: MAX_ENTRIES };
        ByPath { volume: self.volume(store), volumes: self.clone(), most }
    }
}

impl ByPath {
    /// Opens a file to be read, from `offset` on, `length` bytes or to its end as it is now.
    pub async fn read(&self, path: FilePath, offset: u64, length: Option<u64>) -> Result<Reader> {
        let place = self.place()?;
        let (file, size) = self
            .blocking(&path, |root, path| {
                let file = open_file(root, path, false)?;
                let size = file.metadata()?.len();
                Ok((Arc::new(file), size))
            })
            .await?;
        let at = offset.min(size);
        let end = length.map_or(size, |length| at.saturating_add(length).min(size));
        let held = Held::new(Some(Arc::clone(&file)), Arc::clone(&self.volume), place);
        Ok(Reader { file, _held: held, path, at, end, size })
    }

    /// Opens a file to be written piece by piece. With [`How::Replace`] what was in it goes with the first piece.
    pub async fn write(&self, path: FilePath, how: How) -> Result<Writer> {
        // The folder is kept open, too.
        let (place, folder_place) = (self.place()?, self.place()?);
        let (file, folder) = self.open_or_make(&path, how).await?;
        let file = Arc::new(file);
        let held = Arc::new(Held::new(Some(Arc::clone(&file)), Arc::clone(&self.volume), place));
        let to = Growing { file, volume: Arc::clone(&self.volume), most: self.most, held };
        let at = match how {
            How::Replace | How::New => At::Offset(0),
            How::Append => At::End,
            How::From(offset) => At::Offset(offset),
        };
        Ok(Writer { to, at, path, folder: Arc::new(folder), must_empty: how == How::Replace, _place: folder_place })
    }

    /// Writes a file in one go. One that is replaced keeps what it has where the new content does not fit. With `sync` it is on the disk
    /// afterwards.
    pub async fn put(&self, path: FilePath, how: How, content: Bytes, sync: bool) -> Result<()> {
        let mut writer = self.write(path, how).await?;
        if how == How::Replace {
            writer.replace(content).await?;
        } else {
            writer.write(content).await?;
        }
        if sync { writer.sync().await } else { Ok(()) }
    }

    /// What is in a folder, by name. Fails where that is more than one answer takes.
    pub async fn list(&self, path: FilePath) -> Result<Vec<(String, Kind)>> {
        let listed = self.blocking(&path, |root, path| {
            let folder = open_folder(root, path)?;
            let mut entries = Vec::new();
            let mut bytes = 0;
            for entry in Dir::read_from(&folder)? {
                let entry = entry?;
                let name = entry.file_name();
                if matches!(name.to_bytes(), b"." | b"..") {
                    continue;
                }
                let kind = match entry.file_type() {
                    FileType::Unknown => match statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW) {
                        Ok(found) => FileType::from_raw_mode(found.st_mode),
                        Err(rustix::io::Errno::NOENT) => continue,
                        Err(error) => return Err(error.into()),
                    },
                    known => known,
                };
                bytes += name.count_bytes() + LISTED_BYTES;
                if bytes > MAX_LISTING_BYTES {
                    return Err(io::Error::from_raw_os_error(libc::EFBIG));
                }
                entries.push((name.to_string_lossy().into_owned(), Kind::of(kind)));
            }
            entries.sort_unstable_by(|one, other| one.0.cmp(&other.0));
            Ok(entries)
        });
        listed.await.map_err(|error| match error.code {
            FileCode::TooLarge => FileError::new(
                error.code,
                format!("{path} has more names than one list takes, which is {MAX_LISTING_BYTES} bytes; divide it"),
            ),
            _ => error,
        })
    }

    /// Makes a folder. With `recursive` those on the way to it are made, too, and it may be there.
    pub async fn make_folder(&self, path: FilePath, recursive: bool) -> Result<()> {
        if path.split().is_none() && !recursive {
            return Err(path.failure(io::Error::from_raw_os_error(libc::EEXIST)));
        }
        if !recursive {
            return self.make_one(&path).await;
        }
        let missing = self.blocking(&path, |root, path| {
            let mut missing = Vec::new();
            for way in path.ways() {
                match open_folder(root, &way) {
                    Ok(_) => break,
                    Err(error) if error.raw_os_error() == Some(libc::ENOENT) => missing.push(way),
                    Err(error) if way == *path && error.raw_os_error() == Some(libc::ENOTDIR) => {
                        // A file in its place, or on the way.
                        return Err(if open_path(root, path).is_ok() { exists() } else { error });
                    }
                    Err(error) => return Err(error),
                }
            }
            if missing.is_empty() {
                // Whoever has made it may not have come to syncing it.
                holder(root, path)?.map_or(Ok(()), |(folder, _)| folder.sync_all())?;
            }
            Ok(missing)
        });
        for way in missing.await?.iter().rev() {
            match self.make_one(way).await {
                Err(error) if error.code == FileCode::Exists => {}
                made => made?,
            }
        }
        Ok(())
    }

    async fn make_one(&self, path: &FilePath) -> Result<()> {
        let claim = self.volume.claim(self.most, Usage::ENTRY).await.map_err(|error| path.failure(error))?;
        self.blocking(path, |root, path| {
            let made = holder(root, path).and_then(|held| {
                let (folder, name) = held.ok_or_else(exists)?;
                mkdirat(&folder, name, FOLDER_MODE)?;
                Ok(folder)
            });
            claim.unless_failed(made)?.sync_all()
        })
        .await
    }

    /// Removes a file or link; with `recursive` also a folder with all that is in it.
    pub async fn remove(&self, path: FilePath, recursive: bool) -> Result<()> {
        if path.split().is_none() {
            return Err(path.is_volume());
        }
        let volume = Arc::clone(&self.volume);
        self.blocking(&path, move |root, path| {
            let Some((folder, name)) = holder(root, path)? else { return Ok(()) };
            let found = statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
            let removed = if FileType::from_raw_mode(found.st_mode) != FileType::Directory {
                unlinkat(&folder, name, AtFlags::empty()).map_err(io::Error::from)
            } else if recursive {
                tree::remove_within(folder.try_clone()?.into(), name)
            } else {
                return Err(io::Error::from_raw_os_error(libc::EISDIR));
            };
            // Also where only a part of it is gone.
            volume.freed();
            removed?;
            folder.sync_all()
        })
        .await
    }

    /// Gives a file or folder another path. It takes the place of a file, or of an empty folder, that is there.
    pub async fn rename(&self, from: FilePath, to: FilePath) -> Result<()> {
        for path in [&from, &to] {
            if path.split().is_none() {
                return Err(path.is_volume());
            }
        }
        let moving = self.volume.moving().await;
        let volume = Arc::clone(&self.volume);
        let to_there = to.clone();
        let renamed = self.blocking(&from, move |root, from| {
            let (Some((from_folder, from_name)), Some((to_folder, to_name))) =
                (holder(root, from)?, holder(root, &to_there)?)
            else {
                return Err(io::Error::from_raw_os_error(libc::EINVAL));
            };
            renameat(&from_folder, from_name, &to_folder, to_name)?;
            drop(moving);
            // It may have taken the place of another.
            volume.freed();
            // The new name first: what was moved is never nowhere.
            to_folder.sync_all()?;
            from_folder.sync_all()
        });
        // Of the one that is in the way, where one is.
        renamed.await.map_err(|error| match error.code {
            FileCode::NotFound => FileError::new(error.code, format!("there is no {from}, or no folder for {to}")),
            FileCode::IsFolder | FileCode::NotFolder | FileCode::NotEmpty | FileCode::Exists => {
                FileError::new(error.code, format!("{from} cannot take the place of {to}: {}", in_the_way(error.code)))
            }
            FileCode::Invalid => FileError::new(error.code, format!("{from} cannot be moved into itself, to {to}")),
            _ => error,
        })
    }

    /// What is known of what the path names, links followed.
    pub async fn stat(&self, path: FilePath) -> Result<Found> {
        self.blocking(&path, |root, path| {
            let found = fstat(open_path(root, path)?)?;
            let seconds_ms = found.st_mtime.saturating_mul(1000);
            Ok(Found {
                kind: Kind::of(FileType::from_raw_mode(found.st_mode)),
                bytes: u64::try_from(found.st_size).unwrap_or(0),
                modified_ms: seconds_ms.saturating_add(i64::try_from(found.st_mtime_nsec / 1_000_000).unwrap_or(0)),
            })
        })
        .await
    }

    /// Makes a file so many bytes long: what is beyond goes, what is missing is zeros.
    pub async fn resize(&self, path: FilePath, bytes: u64) -> Result<()> {
        let place = self.place()?;
        let file = self.blocking(&path, |root, path| Ok(Arc::new(open_file(root, path, true)?))).await?;
        let held = Held::new(Some(Arc::clone(&file)), Arc::clone(&self.volume), place);
        let growth = self.volume.claim_growth(&file, self.most, Change::Size(bytes)).await;
        let growth = growth.map_err(|error| path.failure(error))?;
        let volume = Arc::clone(&self.volume);
        self.blocking(&path, move |_, _| {
            let _held = held;
            let is_shorter = growth.is_none();
            growth.finish(&file, file.set_len(bytes))?;
            if is_shorter {
                volume.freed();
            }
            file.sync_all()
        })
        .await
    }

    /// The file, open for writing, and the folder that holds it.
    async fn open_or_make(&self, path: &FilePath, how: How) -> Result<(File, File)> {
        let there = self.blocking(path, move |root, path| {
            // The volume itself.
            let Some((folder, name)) = holder(root, path)? else {
                return Err(io::Error::from_raw_os_error(libc::EISDIR));
            };
            if how == How::New {
                // Whatever is there: it is told so before space is taken.
                return match statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(_) => Err(exists()),
                    Err(rustix::io::Errno::NOENT) => Ok((None, folder)),
                    Err(error) => Err(error.into()),
                };
            }
            match open_file(root, path, true) {
                Ok(file) => Ok((Some(file), folder)),
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok((None, folder)),
                Err(error) => Err(error),
            }
        });
        // A file that is there claims nothing, so that it can be written over in a volume that is full.
        let folder = match there.await? {
            (Some(file), folder) => return Ok((file, folder)),
            (None, folder) => folder,
        };
        let claim = self.volume.claim(self.most, Usage::ENTRY).await.map_err(|error| path.failure(error))?;
        self.blocking(path, move |_, path| {
            // Somebody else may have made it meanwhile. A link is not followed to what is not there.
            let mut flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            if how == How::New {
                flags |= OFlags::EXCL;
            }
            let name = path.split().map_or("", |(_, name)| name).to_owned();
            let made = claim.unless_failed(openat(&folder, name, flags, FILE_MODE))?;
            Ok((only_a_file(File::from(made))?, folder))
        })
        .await
    }

    /// A place for one more file that is open.
    fn place(&self) -> Result<OwnedSemaphorePermit> {
        let most = || FilePath::default().failure(io::Error::from_raw_os_error(libc::EMFILE));
        self.volumes.open_file().ok_or_else(most)
    }

    /// Does what may wait for the disk where that holds up nobody.
    async fn blocking<T: Send + 'static>(
        &self,
        path: &FilePath,
        work: impl FnOnce(&File, &FilePath) -> io::Result<T> + Send + 'static,
    ) -> Result<T> {
        let (volume, there) = (Arc::clone(&self.volume), path.clone());
        let done = tokio::task::spawn_blocking(move || work(&volume.open_root()?, &there)).await;
        done.map_err(io::Error::other).flatten().map_err(|error| path.failure(error))
    }
}

impl Kind {
    fn of(kind: FileType) -> Self {
        match kind {
            FileType::RegularFile => Self::File,
            FileType::Directory => Self::Folder,
            FileType::Symlink => Self::Link,
            _ => Self::Other,
        }
    }
}

/// A file that is being read. Until this is dropped, a file that is deleted takes its space.
pub struct Reader {
    file: Arc<File>,
    _held: Held,
    path: FilePath,
    at: u64,
    end: u64,
    size: u64,
}

impl Reader {
    /// The length of the whole file when it was opened, in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Bytes that were not read yet; fewer come where the file has become shorter.
    pub fn remaining(&self) -> u64 {
        self.end.saturating_sub(self.at)
    }

    /// The next bytes, `most` unless the end comes before.
    pub async fn next(&mut self, most: usize) -> Result<Bytes> {
        let wanted = usize::try_from(self.remaining()).unwrap_or(usize::MAX).min(most);
        if wanted == 0 {
            return Ok(Bytes::new());
        }
        let (file, at) = (Arc::clone(&self.file), self.at);
        let read = tokio::task::spawn_blocking(move || read_at(&file, at, wanted)).await;
        let bytes = read.map_err(io::Error::other).flatten().map_err(|error| self.path.failure(error))?;
        self.at += bytes.len() as u64;
        if bytes.len() < wanted {
            self.end = self.at;
        }
        Ok(bytes)
    }
}

/// As many bytes as were wanted, or up to the file's end.
fn read_at(file: &File, at: u64, wanted: usize) -> io::Result<Bytes> {
    let mut bytes = vec![0; wanted];
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, at.saturating_add(filled as u64)) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(filled);
    Ok(bytes.into())
}

/// A file that is being written. What was written stays, whatever becomes of the rest.
pub struct Writer {
    to: Growing,
    at: At,
    path: FilePath,
    folder: Arc<File>,
    /// Whether what was in it goes with the first piece.
    must_empty: bool,
    _place: OwnedSemaphorePermit,
}

impl Writer {
    /// Writes all of it after what was written before. What is appended stays together.
    pub async fn write(&mut self, bytes: Bytes) -> Result<()> {
        if std::mem::take(&mut self.must_empty) {
            self.empty().await?;
        }
        if bytes.is_empty() {
            return Ok(());
        }
        let written = self.to.clone().write(self.at, bytes).await.map_err(|error| self.path.failure(error))?;
        if let At::Offset(offset) = &mut self.at {
            *offset = offset.saturating_add(written);
        }
        Ok(())
    }

    /// Puts it on the disk, with the name.
    pub async fn sync(self) -> Result<()> {
        let (file, folder) = (Arc::clone(&self.to.file), Arc::clone(&self.folder));
        let synced = tokio::task::spawn_blocking(move || {
            file.sync_all()?;
            // Also where the file was there before: who made it may not have come to this.
            folder.sync_all()
        });
        synced.await.map_err(io::Error::other).flatten().map_err(|error| self.path.failure(error))
    }

    async fn empty(&self) -> Result<()> {
        let shortening = self.to.volume.shortening().await;
        let (file, volume) = (Arc::clone(&self.to.file), Arc::clone(&self.to.volume));
        let emptied = tokio::task::spawn_blocking(move || {
            let _shortening = shortening;
            if file.metadata()?.len() > 0 {
                file.set_len(0)?;
                volume.freed();
            }
            Ok(())
        });
        emptied.await.map_err(io::Error::other).flatten().map_err(|error| self.path.failure(error))
    }

    /// Writes all of it in the place of what is there. Only what makes the file longer is claimed, and before anything is lost; while it
    /// is short, nobody counts it.
    async fn replace(&mut self, bytes: Bytes) -> Result<()> {
        self.must_empty = false;
        let at_path = |error| self.path.failure(error);
        let growth = self.to.claim(Change::Size(bytes.len() as u64)).await.map_err(at_path)?;
        let still = self.to.volume.moving().await;
        let (file, volume) = (Arc::clone(&self.to.file), Arc::clone(&self.to.volume));
        let replaced = tokio::task::spawn_blocking(move || {
            let is_shorter = file.metadata().is_ok_and(|found| found.len() > bytes.len() as u64);
            let written = file.set_len(0).and_then(|()| file.write_all_at(&bytes, 0));
            let written = growth.finish(&file, written);
            if is_shorter {
                volume.freed();
            }
            drop(still);
            written
        });
        replaced.await.map_err(io::Error::other).flatten().map_err(at_path)
    }
}

/// Opens what the path names below the folder, and nothing beyond it.
fn open(root: &File, path: &FilePath, flags: OFlags, write: bool) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(!write).write(write).custom_flags(flags.bits().cast_signed());
    cap_primitives::fs::open(root, Path::new(path.as_str()), &options)
}

/// What the path names, links followed: to be looked at only.
fn open_path(root: &File, path: &FilePath) -> io::Result<OwnedFd> {
    open(root, path, OFlags::PATH, false).map(OwnedFd::from)
}

fn open_folder(root: &File, path: &FilePath) -> io::Result<File> {
    open(root, path, OFlags::DIRECTORY, false)
}

/// The file, which has to be one: no folder, and nothing that a restored volume may hold besides, such as a pipe.
fn open_file(root: &File, path: &FilePath, write: bool) -> io::Result<File> {
    only_a_file(open(root, path, OFlags::NONBLOCK | OFlags::NOCTTY, write)?)
}

fn only_a_file(file: File) -> io::Result<File> {
    let found = file.metadata()?;
    if found.is_file() {
        return Ok(file);
    }
    Err(io::Error::from_raw_os_error(if found.is_dir() { libc::EISDIR } else { libc::EINVAL }))
}

/// The folder that holds what the path names, and its name there; `None` for the volume itself.
fn holder<'a>(root: &File, path: &'a FilePath) -> io::Result<Option<(File, &'a str)>> {
    path.split().map(|(folder, name)| Ok((open_folder(root, &folder)?, name))).transpose()
}

fn exists() -> io::Error {
    io::Error::from_raw_os_error(libc::EEXIST)
}

/// Why nothing can be moved there.
fn in_the_way(code: FileCode) -> &'static str {
    match code {
        FileCode::IsFolder => "that is a folder",
        FileCode::NotFolder => "one of them is no folder",
        _ => "that is a folder which is not empty",
    }
}
