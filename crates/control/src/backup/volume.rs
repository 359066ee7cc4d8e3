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

/// Folders in folders that are backed up. Each keeps a file open. What lies deeper is left out, and the node's log says so.
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

/// Adds all that is in the volume at `root` to the archive, under `path`, which ends with `/`. Large files are copied to `tmp` on the way. Blocking.
pub(super) fn volume<W: Write>(
    archive: &mut Archive<W>,
    root: &Path,
    path: &str,
    tmp: &Path,
) -> Result<(), ControlError> {
    let at = |error: Errno| StoreError::io(root, error.into());
    let sent = |error: io::Error| ControlError::Incomplete(format!("{path}: {error}"));
    let folder = match open(CWD, root, OFlags::DIRECTORY) {
        // Removed since it was listed.
        Err(Errno::NOENT) => return Ok(()),
        folder => folder.map_err(at)?,
    };
    archive.folder(path).map_err(sent)?;
    let mut left_out = 0_u64;
    let mut levels = vec![Level { left: list(&folder).map_err(at)?, folder, path: path.to_owned() }];
    loop {
        let depth = levels.len();
        let Some(level) = levels.last_mut() else { break };
        let Some(name) = level.left.pop() else {
            levels.pop();
            continue;
        };
        let text = name.to_str().ok().map(|text| format!("{}{text}", level.path));
        let Some(inner) = text.filter(|path| path.len() < MAX_FILE_PATH_BYTES) else {
            left_out += 1;
            continue;
        };
        let kind = match statat(&level.folder, &name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => continue,
            found => FileType::from_raw_mode(found.map_err(at)?.st_mode),
        };
        match kind {
            FileType::Directory if depth >= MAX_DEPTH => left_out += 1,
            FileType::Directory => {
                let Some(folder) = there(open(&level.folder, &name, OFlags::DIRECTORY)).map_err(at)? else { continue };
                let path = format!("{inner}/");
                archive.folder(&path).map_err(sent)?;
                levels.push(Level { left: list(&folder).map_err(at)?, folder, path });
            }
            FileType::RegularFile => {
                let Some(file) = there(open(&level.folder, &name, OFlags::NONBLOCK)).map_err(at)? else { continue };
                add(archive, &inner, File::from(file), tmp)?;
            }
            FileType::Symlink => {
                let Some(target) = there(readlinkat(&level.folder, &name, Vec::new())).map_err(at)? else { continue };
                match target.to_str() {
                    Ok(target) if !target.is_empty() => archive.link(&inner, target).map_err(sent)?,
                    _ => left_out += 1,
                }
            }
            _ => left_out += 1,
        }
    }
    if left_out > 0 {
        tracing::warn!(
            volume = path,
            left_out,
            "files of a volume are not in its backup: their paths are too long, or they are no files"
        );
    }
    Ok(())
}

/// Adds a file as it is now.
fn add<W: Write>(archive: &mut Archive<W>, path: &str, mut file: File, tmp: &Path) -> Result<(), ControlError> {
    let at = |error| StoreError::io(Path::new(path), error);
    let sent = |error: io::Error| ControlError::Incomplete(format!("{path}: {error}"));
    let metadata = file.metadata().map_err(at)?;
    let size = metadata.len();
    // It may be something else since it was looked at.
    if !metadata.is_file() {
        return Ok(());
    }
    if size <= IN_MEMORY_BYTES {
        let mut content = Vec::new();
        file.take(size).read_to_end(&mut content).map_err(at)?;
        return archive.file(path, content.len() as u64, content.as_slice()).map_err(sent);
    }
    if !has_room(tmp, size).map_err(at)? {
        return Err(StoreError::Full.into());
    }
    let mut copy = tempfile::tempfile_in(tmp).map_err(|error| StoreError::io(tmp, error))?;
    // In the kernel, and without copying where the file system can.
    io::copy(&mut (&mut file).take(size), &mut copy).map_err(at)?;
    let size = copy.stream_position().map_err(at)?;
    copy.rewind().map_err(at)?;
    archive.file(path, size, copy).map_err(sent)
}

/// `None` for what has gone, or is something else now.
fn there<T>(result: Result<T, Errno>) -> Result<Option<T>, Errno> {
    match result {
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::INVAL) => Ok(None),
        result => result.map(Some),
    }
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
        fs,
        os::unix::fs::{FileTypeExt as _, symlink},
    };

    use bytes::Bytes;
    use minnow_model::AppName;
    use tokio::sync::mpsc;

    use super::*;
    use crate::backup::{
        format::{FORMAT, HEAD, Head},
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
        let error = volume(&mut archive, &root, "apps/shop/files/more/", temp.path()).unwrap_err().to_string();
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

        let app: AppName = "shop".parse().unwrap();
        let mut archive = Archive::new(Vec::new(), temp.path(), 0).unwrap();
        let head = Head { format: FORMAT, minnow: "0".into(), time_ms: 0, apps: vec![app.clone()] };
        let head = serde_json::to_vec(&head).unwrap();
        archive.file(HEAD, head.len() as u64, head.as_slice()).unwrap();
        archive.file("apps/shop/app.jsonl", 0, io::empty()).unwrap();
        volume(&mut archive, &root, "apps/shop/files/data/", temp.path()).unwrap();
        volume(&mut archive, &temp.path().join("none"), "apps/shop/files/none/", temp.path()).unwrap();
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
        assert_eq!(unpacked.head.apps, [app]);
        // But for what is deeper than a backup goes.
        let mut expected = told(&root);
        let depth = |line: &String| line.matches("d/").count();
        expected.retain(|line| depth(line) < MAX_DEPTH);
        let whole = expected.len();
        expected.retain(|line| !line.starts_with(&beyond));
        assert_eq!(expected.len(), whole - 1);
        assert!(expected.iter().any(|line| line.starts_with(&most)));
        assert!(expected.iter().any(|line| depth(line) == MAX_DEPTH - 1));
        assert_eq!(told(&into.join("apps/shop/files/data")), expected);
        assert!(!into.join("apps/shop/files/none").exists());
    }
}
