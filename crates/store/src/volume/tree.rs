//! Walks a folder that a guest has filled: it may be as deep as it has entries, and change meanwhile. So nothing here recurses, keeps
//! a file open for each level, or needs a path of more than a few names.

use std::{
    collections::HashSet,
    ffi::CString,
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, fstat, openat, statat, unlinkat},
    io::Errno,
};

use super::Usage;

/// The levels of which a walk keeps the folder open. Deeper ones it finds again by going up: few trees are that deep.
const OPEN_LEVELS: usize = 32;

/// How often a folder is emptied again that somebody still puts something into: what a sandbox had begun when it was stopped.
const EMPTY_TRIES: usize = 8;

/// A folder on the way down.
struct Level {
    /// `None` below [`OPEN_LEVELS`].
    folder: Option<OwnedFd>,
    id: FileId,
    /// Its folders that were not looked into.
    left: Vec<CString>,
}

/// Device and number of a file.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct FileId(u64, u64);

impl From<&Stat> for FileId {
    fn from(stat: &Stat) -> Self {
        Self(stat.st_dev, stat.st_ino)
    }
}

/// What is in the folder, links not followed. A file with several links counts once. What comes or goes meanwhile may be in it or
/// not; no folder may be moved. Nothing where the folder is not there. Blocking.
pub fn count(root: &Path) -> io::Result<Usage> {
    let mut used = Usage::default();
    let mut linked = HashSet::new();
    // The folder itself may be a link to another disk.
    let mut folder = match openat(CWD, root, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) {
        Ok(folder) => folder,
        Err(Errno::NOENT) => return Ok(used),
        Err(error) => return Err(error.into()),
    };
    let mut levels: Vec<Level> = Vec::new();
    let mut left = look_into(&folder, &mut used, &mut linked)?;
    loop {
        while let Some(name) = left.pop() {
            let inner = match open_folder(&folder, name) {
                Ok(inner) => inner,
                // It has been removed, or is something else now.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
                Err(error) => return Err(error.into()),
            };
            let id = FileId::from(&fstat(&folder)?);
            let inner_left = look_into(&inner, &mut used, &mut linked)?;
            let above = std::mem::replace(&mut folder, inner);
            let above = (levels.len() < OPEN_LEVELS).then_some(above);
            levels.push(Level { folder: above, id, left: std::mem::replace(&mut left, inner_left) });
        }
        let Some(level) = levels.pop() else { return Ok(used) };
        folder = match level.folder {
            Some(folder) => folder,
            None => {
                let above = open_folder(&folder, "..")?;
                if FileId::from(&fstat(&above)?) != level.id {
                    return Err(io::Error::other("a folder was moved while its files were counted"));
                }
                above
            }
        };
        left = level.left;
    }
}

/// Counts the entries of a folder, and gives the folders among them.
fn look_into(folder: &OwnedFd, used: &mut Usage, linked: &mut HashSet<FileId>) -> io::Result<Vec<CString>> {
    let mut folders = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let stat = match statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => continue,
            Err(error) => return Err(error.into()),
        };
        *used += Usage::ENTRY;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => folders.push(name.to_owned()),
            FileType::RegularFile if stat.st_nlink < 2 || linked.insert(FileId::from(&stat)) => {
                *used += Usage::growth(0, u64::try_from(stat.st_size).unwrap_or(0));
            }
            _ => {}
        }
    }
    Ok(folders)
}

fn open_folder(at: impl std::os::fd::AsFd, path: impl rustix::path::Arg) -> Result<OwnedFd, Errno> {
    openat(at, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

/// Removes the folder with all that is in it, also where it is deeper than a path can name. Nothing where it is not there. Blocking.
pub fn remove(root: &Path) -> io::Result<()> {
    let mut last = Ok(());
    for _ in 0..EMPTY_TRIES {
        last = empty(root).and_then(|()| fs::remove_dir(root));
        match &last {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {}
            Err(_) => return last,
        }
    }
    last
}

/// Removes what is in the folder. A folder in it gives its own folders to `root` and is empty then, so that no path gets longer than
/// two names.
fn empty(root: &Path) -> io::Result<()> {
    let mut folders = Vec::new();
    for entry in fs::read_dir(root)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            folders.push(entry.path());
        } else {
            gone(fs::remove_file(entry.path()))?;
        }
    }
    let mut number = 0;
    while let Some(folder) = folders.pop() {
        // Most are empty, or hold files only.
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(hoist(&entry.path(), root, &mut number)?);
            } else {
                gone(fs::remove_file(entry.path()))?;
            }
        }
        gone(fs::remove_dir(&folder))?;
    }
    Ok(())
}

/// Moves a folder up into `root`, under a name that nothing else there has.
fn hoist(folder: &Path, root: &Path, number: &mut u64) -> io::Result<PathBuf> {
    loop {
        let place = root.join(format!("{number}.hoisted"));
        *number += 1;
        // Nobody else makes something here any more.
        match fs::symlink_metadata(&place) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return fs::rename(folder, &place).map(|()| place),
            Err(error) => return Err(error),
        }
    }
}

/// Somebody else may have removed it.
fn gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// A folder on the way down whose folders are removed.
struct Emptying {
    /// `None` below [`OPEN_LEVELS`].
    folder: Option<OwnedFd>,
    id: FileId,
    /// Its folders that are still there, and how often each was emptied.
    left: Vec<(CString, usize)>,
}

/// Removes the folder `name` of `folder` with all that is in it, while others go on working there: each folder is opened in the one
/// above, and no link is followed. Fails where others fill it again and again, or move it. Blocking.
pub(super) fn remove_within(mut folder: OwnedFd, name: &str) -> io::Result<()> {
    let mut left = vec![(CString::new(name)?, 0)];
    let mut levels: Vec<Emptying> = Vec::new();
    loop {
        while let Some((name, emptied)) = left.pop() {
            match unlinkat(&folder, &name, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => continue,
                Err(Errno::NOTEMPTY | Errno::EXIST) if emptied < EMPTY_TRIES => {}
                // It is something else now.
                Err(Errno::NOTDIR) => {
                    unlink(&folder, &name)?;
                    continue;
                }
                Err(error) => return Err(error.into()),
            }
            let inner = match open_folder(&folder, &name) {
                Ok(inner) => inner,
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {
                    left.push((name, emptied + 1));
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            left.push((name, emptied + 1));
            let inner_left = remove_files(&inner)?;
            let id = FileId::from(&fstat(&folder)?);
            let above = std::mem::replace(&mut folder, inner);
            let above = (levels.len() < OPEN_LEVELS).then_some(above);
            levels.push(Emptying { folder: above, id, left: std::mem::replace(&mut left, inner_left) });
        }
        let Some(level) = levels.pop() else { return Ok(()) };
        folder = match level.folder {
            Some(folder) => folder,
            None => {
                let above = open_folder(&folder, "..")?;
                if FileId::from(&fstat(&above)?) != level.id {
                    return Err(Errno::BUSY.into());
                }
                above
            }
        };
        left = level.left;
    }
}

/// Removes what is in the folder, but for its folders, and answers those.
fn remove_files(folder: &OwnedFd) -> io::Result<Vec<(CString, usize)>> {
    let mut folders = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        match entry.file_type() {
            FileType::Directory => folders.push((name.to_owned(), 0)),
            // Linux says EISDIR of a folder.
            _ => match unlinkat(folder, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(Errno::ISDIR) => folders.push((name.to_owned(), 0)),
                Err(error) => return Err(error.into()),
            },
        }
    }
    Ok(folders)
}

fn unlink(folder: &OwnedFd, name: &CString) -> io::Result<()> {
    match unlinkat(folder, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        // A folder again: who goes on like this has it stay.
        Err(Errno::ISDIR) => Err(Errno::BUSY.into()),
        Err(error) => Err(error.into()),
    }
}
