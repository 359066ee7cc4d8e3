//! The data directory of a node: one node at a time, one format, private to its user.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, Read, Seek, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use rustix::fs::FlockOperation;

use crate::volume::tree;

/// The format that this version of Minnow writes. It grows when an older version could not read the directory any more.
const FORMAT: u32 = 1;

/// An open data directory. It stays locked until this value is dropped.
#[derive(Debug)]
pub struct DataDir {
    root: PathBuf,
    /// The lock goes with the open file, so the kernel releases it however the process ends.
    _lock: File,
}

/// Why a data directory could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    #[error(
        "another node{} uses the data directory {}; stop it, or start this one with another --data-dir",
        pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default(), path.display()
    )]
    InUse { path: PathBuf, pid: Option<u32> },
    #[error(
        "{} is not empty and is not a data directory of Minnow (it holds `{found}`); name a new or empty directory",
        path.display()
    )]
    NotOurs { path: PathBuf, found: String },
    #[error(
        "the data directory {} has format {found}, this version of minnow reads up to {FORMAT}; start the newer version",
        path.display()
    )]
    NewerFormat { path: PathBuf, found: u32 },
    #[error("{} does not hold a number; restore the data directory from a backup", path.display())]
    Format { path: PathBuf },
    #[error(
        "the database {} is missing or empty, and the data directory is in use; restore it from a backup, or start with an \
         empty directory",
        path.display()
    )]
    NoDatabase { path: PathBuf },
    #[error("{}: {source}; the node's user needs to read and write there", path.display())]
    Io { path: PathBuf, source: io::Error },
}

impl DataDir {
    /// Opens `root`, creating it where it does not exist (mode 0700), takes its lock and clears what an earlier run left
    /// unfinished in `tmp/`.
    ///
    /// A directory that holds files of something else is refused, so that a mistyped path loses nothing; and so is one with
    /// content but no database, since all its content would pass for what nothing needs any more.
    pub fn open(root: &Path) -> Result<Self, DataDirError> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |source| DataDirError::Io { path, source }
        };
        create_private(root).map_err(at(root))?;
        let format_path = root.join("FORMAT");
        let format = match fs::read_to_string(&format_path) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(at(&format_path)(error)),
        };
        if format.is_none()
            && let Some(found) = stranger(root).map_err(at(root))?
        {
            return Err(DataDirError::NotOurs { path: root.to_owned(), found });
        }
        let lock = lock(root)?;
        match format {
            Some(text) => match text.trim().parse::<u32>() {
                Ok(found) if found > FORMAT => {
                    return Err(DataDirError::NewerFormat { path: root.to_owned(), found });
                }
                Ok(_) => {}
                Err(_) => return Err(DataDirError::Format { path: format_path }),
            },
            None => {
                // The database holds what functions are configured with, so nobody else on the machine may read it.
                fs::set_permissions(root, Permissions::from_mode(0o700)).map_err(at(root))?;
                write_atomically(&format_path, format!("{FORMAT}\n").as_bytes(), 0o600).map_err(at(&format_path))?;
            }
        }
        let dir = Self { root: root.to_owned(), _lock: lock };
        dir.require_database()?;
        let tmp = dir.tmp();
        // What sandboxes have left may be deeper than `remove_dir_all` can go.
        tree::remove(&tmp).map_err(at(&tmp))?;
        for sub in [dir.blobs(), dir.compiled(), dir.logs(), tmp] {
            create_private(&sub).map_err(at(&sub))?;
        }
        File::open(root).and_then(|root| root.sync_all()).map_err(at(root))?;
        Ok(dir)
    }

    /// Refuses a database that is lost. Before the first one is made there is no content: a start that is killed leaves
    /// folders at most.
    fn require_database(&self) -> Result<(), DataDirError> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |source| DataDirError::Io { path, source }
        };
        let path = self.database();
        match fs::metadata(&path) {
            // SQLite takes an empty file for a new database.
            Ok(file) if file.len() > 0 => return Ok(()),
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(&path)(error)),
            _ => {}
        }
        for content in [self.blobs(), self.compiled(), self.kv(), self.sql(), self.blob(), self.topic()] {
            if holds_file(&content, CONTENT_DEPTH).map_err(at(&content))? {
                return Err(DataDirError::NoDatabase { path });
            }
        }
        let files = self.files();
        if holds_file(&files, VOLUME_DEPTH).map_err(at(&files))? {
            return Err(DataDirError::NoDatabase { path });
        }
        Ok(())
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Published content, by digest.
    pub fn blobs(&self) -> PathBuf {
        self.root.join("blobs")
    }

    /// Code compiled ahead of time. All of it can be made again from `blobs`.
    pub fn compiled(&self) -> PathBuf {
        self.root.join("compiled")
    }

    pub fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    /// Unfinished files; emptied at each start. On the same file system as the rest, so that a rename finishes them.
    pub fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }

    /// The key-value stores of apps.
    pub fn kv(&self) -> PathBuf {
        self.root.join("kv")
    }

    /// The SQL stores of apps.
    pub fn sql(&self) -> PathBuf {
        self.root.join("sql")
    }

    /// The volumes of apps.
    pub fn files(&self) -> PathBuf {
        self.root.join("files")
    }

    /// The buckets of apps: indexes and content.
    pub fn blob(&self) -> PathBuf {
        self.root.join("blob")
    }

    /// The topics of apps.
    pub fn topic(&self) -> PathBuf {
        self.root.join("topic")
    }

    /// The stores of apps that were deleted, until they are purged.
    pub fn deleted(&self) -> PathBuf {
        self.root.join("deleted")
    }

    pub fn database(&self) -> PathBuf {
        self.root.join("minnow.db")
    }

    /// Schedules and asynchronous invokes.
    pub fn events_db(&self) -> PathBuf {
        self.root.join("events.db")
    }

    /// The keys that secrets are sealed with, unless the operator keeps them elsewhere.
    pub fn secrets_key(&self) -> PathBuf {
        self.root.join("secrets.key")
    }

    /// The mark that all fencing tokens of locks so far are below.
    pub fn lock_tokens(&self) -> PathBuf {
        self.root.join("lock.tokens")
    }

    /// The token that the first start writes, for the operator of this machine.
    pub fn admin_token(&self) -> PathBuf {
        self.root.join("admin.token")
    }
}

/// Writes a small file so that a reader, or a start after a crash, sees all of it or none.
pub fn write_atomically(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let unfinished = PathBuf::from(name);
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&unfinished)?;
    // The mode above is only for a file that did not exist.
    file.set_permissions(Permissions::from_mode(mode))?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&unfinished, path)?;
    sync_parent(path)
}

/// Makes a rename into, or a removal from, the parent of `path` durable.
pub fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

/// Creates the directory and what is missing above it, for the node's user alone.
pub fn create_private(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Folders above a blob: `sha256` and the first two digits; above a store: its tenant and app. Compiled code has one.
const CONTENT_DEPTH: u32 = 2;

/// Folders above what a function has put into a volume: tenant, app and volume. Deeper files are in a folder of its own making.
const VOLUME_DEPTH: u32 = 3;

/// Whether there is a file in `dir`, or in folders down to `depth` below it.
fn holds_file(dir: &Path, depth: u32) -> io::Result<bool> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        let is_dir = entry.file_type()?.is_dir();
        if !is_dir || (depth > 0 && holds_file(&entry.path(), depth - 1)?) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// An entry of `root` that neither the first start of a node nor `minnow setup` has left there. Hidden files and `lost+found` (the root of a
/// freshly made ext4) are nobody's data.
fn stranger(root: &Path) -> io::Result<Option<String>> {
    for entry in fs::read_dir(root)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') && !["lock", "FORMAT.new", "lost+found", "tools"].contains(&name.as_str()) {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// Takes the directory's lock and writes the pid of this process into it, for the message that a second node prints.
fn lock(root: &Path) -> Result<File, DataDirError> {
    let path = root.join("lock");
    let at = |source| DataDirError::Io { path: path.clone(), source };
    let mut file =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path).map_err(at)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut text = String::new();
            // The other node may be between taking the lock and writing its pid; the message does without it then.
            let pid = file.read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
            return Err(DataDirError::InUse { path: root.to_owned(), pid });
        }
        Err(error) => return Err(at(error.into())),
    }
    file.set_len(0).map_err(at)?;
    file.rewind().map_err(at)?;
    writeln!(file, "{}", std::process::id()).map_err(at)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_node_is_refused_and_told_who_holds_the_directory() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().join("data");
        let first = DataDir::open(&root).unwrap();
        let error = DataDir::open(&root).unwrap_err();
        assert!(matches!(error, DataDirError::InUse { pid: Some(pid), .. } if pid == std::process::id()), "{error}");
        assert!(error.to_string().contains("--data-dir"), "{error}");
        drop(first);
        DataDir::open(&root).unwrap();
    }

    #[test]
    fn the_directory_is_private_and_tmp_starts_empty() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().join("data");
        let dir = DataDir::open(&root).unwrap();
        for path in [root.clone(), dir.blobs(), dir.compiled(), dir.logs(), dir.tmp()] {
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700, "{path:?}");
        }
        fs::write(dir.tmp().join("half"), "x").unwrap();
        fs::write(dir.blobs().join("whole"), "x").unwrap();
        fs::write(dir.database(), "x").unwrap();
        drop(dir);
        let dir = DataDir::open(&root).unwrap();
        assert!(!dir.tmp().join("half").exists());
        assert!(dir.blobs().join("whole").exists());
    }

    #[test]
    fn a_newer_or_damaged_format_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        drop(DataDir::open(temp.path()).unwrap());
        for (text, expected) in [("2\n", "newer version"), ("x", "backup")] {
            fs::write(temp.path().join("FORMAT"), text).unwrap();
            let error = DataDir::open(temp.path()).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn content_without_its_database_is_refused_and_left_alone() {
        let blob = "blobs/sha256/2c/2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
        for file in [
            blob,
            "compiled/0123456789abcdef/2cf24dba.http-0.2",
            "kv/default/hello/sessions.db",
            "blob/default/hello/uploads.db",
            "files/default/hello/data/a.txt",
            "topic/default/hello/orders.db",
        ] {
            let temp = tempfile::tempdir().unwrap();
            let file = temp.path().join(file);
            drop(DataDir::open(temp.path()).unwrap());
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            // What the very first start leaves when it is killed.
            let dir = DataDir::open(temp.path()).unwrap();
            fs::write(&file, "x").unwrap();
            let database = dir.database();
            drop(dir);
            for empty in [false, true] {
                if empty {
                    fs::write(&database, "").unwrap();
                }
                let error = DataDir::open(temp.path()).unwrap_err();
                assert!(matches!(&error, DataDirError::NoDatabase { path } if *path == database), "{error}");
                assert!(error.to_string().contains("backup") && file.exists(), "{error}");
            }
            fs::write(&database, "x").unwrap();
            DataDir::open(temp.path()).unwrap();
        }
    }

    #[test]
    fn a_directory_of_something_else_is_refused_and_left_alone() {
        let temp = tempfile::tempdir().unwrap();
        fs::create_dir(temp.path().join("tmp")).unwrap();
        fs::write(temp.path().join("tmp/thesis"), "x").unwrap();
        let error = DataDir::open(temp.path()).unwrap_err();
        assert!(matches!(error, DataDirError::NotOurs { .. }), "{error}");
        assert!(temp.path().join("tmp/thesis").exists());
    }
}
