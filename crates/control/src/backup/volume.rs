//! The files of a volume in a backup, as they are when their turn comes.
//!
//! Functions may change them meanwhile, also into links that lead elsewhere: so each is opened from its folder, and no link is followed.

use std::{
    ffi::CString,
    fs::File,
    io::{self, Read as _, Seek as _, Write},
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use minnow_model::{AppName, StoreName};
use minnow_store::StoreError;
use rustix::{
    fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, openat, readlinkat, statat},
    io::Errno,
};

use super::{
    archive::Archive,
    format::{MAX_FILE_PATH_BYTES, has_room},
};
use crate::ControlError;

/// Folders in folders that are backed up. Each keeps a file open. What lies deeper is left out, and the end of the backup says so.
const MAX_DEPTH: usize = 128;
/// Files up to this size are read into memory as a whole; larger ones are copied first. So a file that is cut off meanwhile is what it was
/// before, or what it is after.
const IN_MEMORY_BYTES: u64 = 1 << 20;

/// A folder on the way down.
struct Level {
    folder: OwnedFd,
    /// Its path in the archive, with `/` at its end.
    path: String,
    /// What is in it and was not looked at.
    left: Vec<CString>,
}

/// A volume that is backed up.
pub(super) struct Volume<'a> {
    pub app: &'a AppName,
    pub name: &'a StoreName,
    /// Where it is.
    pub root: &'a Path,
}

// Why something is left out, in the words that whoever made the backup reads.
const NO_TEXT: &str = "its name is not UTF-8";
const TOO_LONG: &str = "its path is longer than a backup takes (3 KiB)";
const TOO_DEEP: &str = "it lies in 128 folders, and no deeper ones are backed up; all that is in it is missing, too";
const NO_FILE: &str = "it is neither a file nor a folder nor a symbolic link";
const NO_TARGET: &str = "what it leads to is not UTF-8, or nothing";
const CHANGED: &str = "it became something else while the backup came to it";

/// Adds all that is in the volume to the archive. Large files are copied to `tmp` on the way. Blocking.
pub(super) fn volume<W: Write>(archive: &mut Archive<W>, volume: &Volume<'_>, tmp: &Path) -> Result<(), ControlError> {
    let Volume { app, name, root } = volume;
    let path = format!("apps/{app}/files/{name}/");
    let at = |error: Errno| StoreError::io(root, error.into());
    let sent = |error: io::Error| ControlError::Incomplete(format!("{path}: {error}"));
    let folder = match open(CWD, *root, OFlags::DIRECTORY) {
        // Removed since it was listed.
        Err(Errno::NOENT) => return Ok(()),
        folder => folder.map_err(at)?,
    };
    archive.folder(&path).map_err(sent)?;
    let before = archive.left_out(app);
    let mut levels = vec![Level { left: list(&folder).map_err(at)?, folder, path: path.clone() }];
    loop {
        let depth = levels.len();
        let Some(level) = levels.last_mut() else { break };
        let Some(entry) = level.left.pop() else {
            levels.pop();
            continue;
        };
        let inner = format!("{}{}", level.path, entry.to_string_lossy());
        let missing = if entry.to_str().is_err() {
            Some(NO_TEXT)
        } else if inner.len() >= MAX_FILE_PATH_BYTES {
            Some(TOO_LONG)
        } else {
            match add(archive, level, &entry, &inner, depth, tmp)? {
                Added::All => None,
                Added::Folder(folder) => {
                    levels.push(folder);
                    None
                }
                Added::Nothing(why) => Some(why),
            }
        };
        if let Some(why) = missing {
            let inner = inner.strip_prefix(path.as_str()).unwrap_or(&inner);
            archive.leave_out(app, &format!("{name}/{inner}"), why);
        }
    }
    let left_out = archive.left_out(app) - before;
    if left_out > 0 {
        tracing::warn!(%app, volume = %name, left_out, "files of a volume are not in its backup, which names them at its end");
    }
    Ok(())
}

/// What became of something in a volume.
enum Added {
    /// It is in the archive, or gone since it was listed.
    All,
    /// It is in the archive, and what is in it comes next.
    Folder(Level),
    /// Why it is left out.
    Nothing(&'static str),
}

/// Adds what is in a folder under a name; `depth` is that of the folder.
fn add<W: Write>(
    archive: &mut Archive<W>,
    level: &Level,
    name: &CString,
    path: &str,
    depth: usize,
    tmp: &Path,
) -> Result<Added, ControlError> {
    let at = |error: Errno| StoreError::io(Path::new(path), error.into());
    let sent = |error: io::Error| ControlError::Incomplete(format!("{path}: {error}"));
    let kind = match statat(&level.folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(Added::All),
        found => FileType::from_raw_mode(found.map_err(at)?.st_mode),
    };
    match kind {
        FileType::Directory if depth >= MAX_DEPTH => Ok(Added::Nothing(TOO_DEEP)),
        FileType::Directory => match open(&level.folder, name, OFlags::DIRECTORY) {
            Err(error) => changed(path, error),
            Ok(folder) => {
                let path = format!("{path}/");
                archive.folder(&path).map_err(sent)?;
                Ok(Added::Folder(Level { left: list(&folder).map_err(at)?, folder, path }))
            }
        },
        FileType::RegularFile => match open(&level.folder, name, OFlags::NONBLOCK) {
            Err(error) => changed(path, error),
            Ok(file) => add_file(archive, path, File::from(file), tmp),
        },
        FileType::Symlink => match readlinkat(&level.folder, name, Vec::new()) {
            Err(error) => changed(path, error),
            Ok(target) => match target.to_str() {
                Ok(target) if !target.is_empty() => {
                    archive.link(path, target).map_err(sent)?;
                    Ok(Added::All)
                }
                _ => Ok(Added::Nothing(NO_TARGET)),
            },
        },
        _ => Ok(Added::Nothing(NO_FILE)),
    }
}

/// What became of something that was listed and cannot be opened.
fn changed(path: &str, error: Errno) -> Result<Added, ControlError> {
    match error {
        Errno::NOENT => Ok(Added::All),
        Errno::NOTDIR | Errno::LOOP | Errno::INVAL => Ok(Added::Nothing(CHANGED)),
        error => Err(StoreError::io(Path::new(path), error.into()).into()),
    }
}

/// Adds a file as it is now.
fn add_file<W: Write>(archive: &mut Archive<W>, path: &str, mut file: File, tmp: &Path) -> Result<Added, ControlError> {
    let at = |error| StoreError::io(Path::new(path), error);
    let sent = |error: io::Error| ControlError::Incomplete(format!("{path}: {error}"));
    let metadata = file.metadata().map_err(at)?;
    let size = metadata.len();
    if !metadata.is_file() {
        return Ok(Added::Nothing(CHANGED));
    }
    if size <= IN_MEMORY_BYTES {
        let mut content = Vec::new();
        file.take(size).read_to_end(&mut content).map_err(at)?;
        archive.file(path, content.len() as u64, content.as_slice()).map_err(sent)?;
        return Ok(Added::All);
    }
    if !has_room(tmp, size).map_err(at)? {
        return Err(StoreError::Full.into());
    }
    let mut copy = tempfile::tempfile_in(tmp).map_err(|error| StoreError::io(tmp, error))?;
    // In the kernel, and without copying where the file system can.
    io::copy(&mut (&mut file).take(size), &mut copy).map_err(at)?;
    let size = copy.stream_position().map_err(at)?;
    copy.rewind().map_err(at)?;
    archive.file(path, size, copy).map_err(sent)?;
    Ok(Added::All)
}

fn open(at: impl AsFd, path: impl rustix::path::Arg, flags: OFlags) -> Result<OwnedFd, Errno> {
    openat(at, path, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | flags, Mode::empty())
}

/// The names in a folder.
fn list(folder: &OwnedFd) -> Result<Vec<CString>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
    }
    // Taken from the end, in the order of their names.
    names.sort_by(|one, other| other.cmp(one));
    Ok(names)
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeMap,
        ffi::OsStr,
        fs,
        os::unix::{
            ffi::OsStrExt as _,
            fs::{FileTypeExt as _, symlink},
        },
    };

    use bytes::Bytes;
    use tokio::sync::mpsc;

    use super::*;
    use crate::backup::{
        format::{FORMAT, HEAD, Head, MAX_LEFT_OUT, MAX_LEFT_OUT_PATH_BYTES},
        read_end,
        unpack::{Sizes, Source, unpack},
    };

    /// What is in a folder, with what each is.
    fn told(root: &Path) -> Vec<String> {
        let mut told = Vec::new();
        let mut left = vec![root.to_owned()];
        while let Some(folder) = left.pop() {
            for entry in fs::read_dir(&folder).unwrap() {
                let path = entry.unwrap().path();
                let name = path.strip_prefix(root).unwrap().display().to_string();
                let kind = path.symlink_metadata().unwrap().file_type();
                if kind.is_symlink() {
                    told.push(format!("{name} -> {}", fs::read_link(&path).unwrap().display()));
                } else if kind.is_dir() {
                    told.push(format!("{name}/"));
                    left.push(path);
                } else if kind.is_fifo() {
                    told.push(format!("{name}|"));
                } else {
                    let content = fs::read(&path).unwrap();
                    told.push(format!("{name} {} {}", content.len(), minnow_model::Digest::of(&content)));
                }
            }
        }
        told.sort();
        told
    }

    /// A path of so many bytes, in folders whose names are as long as names may be.
    fn long_path(bytes: usize) -> String {
        let mut path = format!("{}/", "p".repeat(255)).repeat(bytes / 256);
        path.push_str(&"q".repeat(bytes - path.len()));
        path
    }

    /// Writes a file whose path may be longer than one that can be opened.
    fn write_deep(root: &Path, path: &str) {
        let (folders, name) = path.rsplit_once('/').unwrap();
        let mut folder = open(CWD, root, OFlags::DIRECTORY).unwrap();
        for part in folders.split('/') {
            let _ = rustix::fs::mkdirat(&folder, part, Mode::RWXU);
            folder = open(&folder, part, OFlags::DIRECTORY).unwrap();
        }
        openat(&folder, name, OFlags::CREATE | OFlags::WRONLY, Mode::RUSR).unwrap();
    }

    #[test]
    fn more_links_than_a_restore_takes_are_an_error_of_the_backup() {
        let temp = tempfile::tempdir().unwrap();
        let mut archive = Archive::new(io::sink(), temp.path(), 0).unwrap();
        for index in 0..crate::backup::format::MAX_LINKS {
            archive.link(&format!("apps/shop/files/data/{index}"), "x").unwrap();
        }
        let root = temp.path().join("root");
        fs::create_dir(&root).unwrap();
        symlink("x", root.join("one more")).unwrap();
        let more = Volume { app: &"shop".parse().unwrap(), name: &"more".parse().unwrap(), root: &root };
        let error = volume(&mut archive, &more, temp.path()).unwrap_err().to_string();
        assert!(error.contains("apps/shop/files/more/") && error.contains("symbolic links"), "{error}");
    }

    #[test]
    fn files_folders_and_links_come_back_and_nothing_that_they_lead_to() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().join("root");
        let (long, wide) = ("n".repeat(255), "w".repeat(90));
        let deep = root.join(vec!["d"; 200].join("/"));
        for folder in [root.join("empty"), root.join(&wide).join(&wide).join("more"), deep.clone()] {
            fs::create_dir_all(folder).unwrap();
        }
        for (path, bytes) in [("none", 0), ("a b\n'\"ü", 10), (&long, 5000), (&format!("{wide}/{wide}/x"), 3 << 20)] {
            let content: Vec<u8> = (0..bytes).map(|index| (index % 251) as u8).collect();
            fs::write(root.join(path), content).unwrap();
        }
        fs::write(deep.join("too deep"), "x").unwrap();
        fs::write(temp.path().join("outside"), "outside").unwrap();
        symlink("../outside", root.join("up")).unwrap();
        symlink("/etc", root.join("etc")).unwrap();
        symlink(&long, root.join(&wide).join("long")).unwrap();
        symlink("nowhere", root.join("empty/dangling")).unwrap();
        // As they were written, which is not how a path is written best; short, and just short and just long enough for the header of tar.
        for (index, target) in ["a//b", "./x", "x/.", "x/", "/", "a/../b", ".."].iter().enumerate() {
            symlink(target, root.join(format!("odd {index}"))).unwrap();
            symlink(format!("{}{target}", "l/".repeat(60)), root.join(format!("odd and long {index}"))).unwrap();
        }
        for length in [99, 100, 101, 4095] {
            symlink("/".repeat(length), root.join(format!("a target of {length}"))).unwrap();
        }
        // Longer than what a restore has a path for, below its own folder; and the longest that it has.
        let fits = MAX_FILE_PATH_BYTES - 1 - "apps/shop/files/data/".len();
        let (most, beyond) = (long_path(fits), long_path(fits + 1));
        write_deep(&root, &most);
        write_deep(&root, &beyond);
        fs::write(root.join(OsStr::from_bytes(b"caf\xe9")), "x").unwrap();
        symlink(OsStr::from_bytes(b"caf\xe9"), root.join("to caf\u{e9}")).unwrap();
        rustix::fs::mknodat(CWD, root.join("pipe"), FileType::Fifo, Mode::RUSR, 0).unwrap();

        let app: AppName = "shop".parse().unwrap();
        let mut archive = Archive::new(Vec::new(), temp.path(), 0).unwrap();
        let head = Head { format: FORMAT, minnow: "0".into(), time_ms: 0, apps: vec![app.clone()] };
        let head = serde_json::to_vec(&head).unwrap();
        archive.file(HEAD, head.len() as u64, head.as_slice()).unwrap();
        archive.file("apps/shop/app.jsonl", 0, io::empty()).unwrap();
        let (data, none) = ("data".parse().unwrap(), "none".parse().unwrap());
        volume(&mut archive, &Volume { app: &app, name: &data, root: &root }, temp.path()).unwrap();
        let nowhere = temp.path().join("none");
        volume(&mut archive, &Volume { app: &app, name: &none, root: &nowhere }, temp.path()).unwrap();
        let backup = archive.finish().unwrap();

        let into = temp.path().join("into");
        fs::create_dir(&into).unwrap();
        let (pieces, source) = mpsc::channel(backup.len() / 1000 + 1);
        for piece in backup.chunks(1000) {
            pieces.try_send(Ok(Bytes::copy_from_slice(piece))).unwrap();
        }
        drop(pieces);
        let sizes = Sizes { kv: 0, sql: 0, index: 0, topic: 0, object: 0, content: 0 };
        let unpacked = unpack(Source::new(source), &into, None, sizes).unwrap();
        assert_eq!(unpacked.head.apps, std::slice::from_ref(&app));
        // But for what is deeper than a backup goes.
        let mut expected = told(&root);
        let depth = |line: &String| line.matches("d/").count();
        expected.retain(|line| depth(line) < MAX_DEPTH);
        let whole = expected.len();
        expected.retain(|line| !line.starts_with(&beyond));
        assert_eq!(expected.len(), whole - 1);
        // Nor what is no text or no file. All of that is told.
        expected.retain(|line| !line.contains("caf") && line != "pipe|");
        assert_eq!(expected.len(), whole - 4);
        let told_of = &unpacked.left_out[&app];
        let whys: BTreeMap<&str, &str> = told_of.files.iter().map(|file| (&*file.path, &*file.why)).collect();
        let too_long = format!("data/{}…", &beyond[..MAX_LEFT_OUT_PATH_BYTES - 5]);
        let too_deep = format!("data/{}", vec!["d"; MAX_DEPTH].join("/"));
        let expected_whys = [
            ("data/caf\u{fffd}", NO_TEXT),
            ("data/to caf\u{e9}", NO_TARGET),
            ("data/pipe", NO_FILE),
            (&too_long, TOO_LONG),
            (&too_deep, TOO_DEEP),
        ];
        assert_eq!((told_of.count, whys), (5, expected_whys.into()));
        assert!(expected.iter().any(|line| line.starts_with(&most)));
        assert!(expected.iter().any(|line| depth(line) == MAX_DEPTH - 1));
        assert_eq!(told(&into.join("apps/shop/files/data")), expected);
        assert!(!into.join("apps/shop/files/none").exists());
    }

    /// What changes between two looks cannot be staged here; what a look at it says then is.
    #[test]
    fn what_became_something_else_or_went_away_meanwhile_is_told_apart() {
        let temp = tempfile::tempdir().unwrap();
        fs::create_dir(temp.path().join("folder")).unwrap();
        let mut archive = Archive::new(io::sink(), temp.path(), 0).unwrap();
        let folder = File::open(temp.path().join("folder")).unwrap();
        assert!(matches!(add_file(&mut archive, "a", folder, temp.path()), Ok(Added::Nothing(CHANGED))));
        symlink("nowhere", temp.path().join("link")).unwrap();
        let dir = open(CWD, temp.path(), OFlags::DIRECTORY).unwrap();
        let told = |error: Errno| match changed("a", error) {
            Ok(Added::All) => "gone",
            Ok(Added::Nothing(why)) => why,
            _ => "failed",
        };
        for (name, flags, expected) in [
            (c"folder/none", OFlags::empty(), "gone"),
            (c"link", OFlags::NONBLOCK, CHANGED),
            (c"link", OFlags::DIRECTORY, CHANGED),
        ] {
            assert_eq!(told(open(&dir, name, flags).unwrap_err()), expected, "{name:?}");
        }
        assert_eq!(told(readlinkat(&dir, c"folder", Vec::new()).unwrap_err()), CHANGED);
        assert_eq!(told(Errno::IO), "failed");
    }

    #[test]
    fn so_many_are_named_and_all_are_counted() {
        let temp = tempfile::tempdir().unwrap();
        let mut archive = Archive::new(Vec::new(), temp.path(), 0).unwrap();
        let apps: [AppName; 3] = ["blog", "none", "shop"].map(|app| app.parse().unwrap());
        for index in 0..80 {
            archive.leave_out(&apps[0], &format!("data/{index}"), "why");
            archive.leave_out(&apps[2], &format!("data/{index}"), "why");
        }
        let left_out = read_end(archive.finish().unwrap().as_slice()).unwrap();
        let counts = apps.each_ref().map(|app| left_out.get(app).map(|of_app| (of_app.count, of_app.files.len())));
        assert_eq!(counts, [Some((80, MAX_LEFT_OUT / 2)), None, Some((80, MAX_LEFT_OUT / 2))]);
    }
}
