//! Reading a backup that somebody sends: all of it goes into a folder and is checked, before anything of the node changes.
//!
//! Whoever sends it may have changed it, or made it up. So names are taken apart ([`Item`]) and never followed, sizes are bounded before
//! they are read, nothing is written over, and links come into being when all else is there.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fs::{self, File, OpenOptions},
    io::{self, BufRead, BufReader, BufWriter, Read, Seek as _, Write},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use minnow_model::{AppName, Digest, StoreKind, StoreName, digest::Digester};
use minnow_store::{Buckets, Kv, Sql, StoreError, Topics, data_dir::create_private};
use tar::{Archive, EntryType};
use tokio::sync::mpsc;

use super::format::{
    End, Entry, FORMAT, Head, Item, MAX_END_BYTES, MAX_ENTRIES, MAX_FILE_PATH_BYTES, MAX_HEAD_BYTES, MAX_LINKS,
    MAX_PATH_BYTES, MAX_RECORDS_BYTES, WINDOW_LOG, has_room,
};
use crate::{
    ControlError,
    api_types::LeftOut,
    registry::records::{read_line, write_line},
};

/// What is read and written at once, in bytes.
const PIECE_BYTES: usize = 256 << 10;
/// Bytes that are written between two looks at how much room there is on the disk.
const ROOM_STEP: u64 = 16 << 20;
/// What may come after the end of the tar, in bytes: tar fills its last block up with zeros.
const MAX_PADDING: u64 = 64 << 10;

/// How large the parts of a backup may be, in bytes: what this node takes otherwise.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    pub kv: u64,
    pub sql: u64,
    pub index: u64,
    pub topic: u64,
    pub object: u64,
    /// One blob of a version.
    pub content: u64,
}

/// A backup that is in a folder and was found whole and sound.
#[derive(Debug)]
pub(super) struct Unpacked {
    pub head: Head,
    pub apps: BTreeMap<AppName, Stores>,
    /// The blobs of versions that are there, under `blobs/sha256/DIGEST`.
    pub contents: HashSet<Digest>,
    /// What the backup has not, by app.
    pub left_out: BTreeMap<AppName, LeftOut>,
}

/// The stores of an app in a backup, each with its bytes.
#[derive(Debug, Default)]
pub(super) struct Stores {
    pub of_kind: BTreeMap<(StoreKind, StoreName), u64>,
    /// How many content files a bucket has.
    objects: BTreeMap<StoreName, u64>,
    has_records: bool,
}

/// A backup as it comes, piece by piece. To be read on a thread that may block.
pub struct Source {
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    piece: Bytes,
    /// Why nothing more comes, when that is not the end.
    broken: Arc<Mutex<Option<String>>>,
}

impl Source {
    /// An error among the pieces is that of the reading; the channel's end is the end.
    pub fn new(pieces: mpsc::Receiver<io::Result<Bytes>>) -> Self {
        Self { pieces, piece: Bytes::new(), broken: Arc::default() }
    }
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.pieces.blocking_recv() {
                Some(Ok(piece)) => self.piece = piece,
                Some(Err(error)) => {
                    *self.broken.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.to_string());
                    return Err(error);
                }
                None => return Ok(0),
            }
        }
        let taken = self.piece.split_to(self.piece.len().min(buffer.len()));
        if let Some(place) = buffer.get_mut(..taken.len()) {
            place.copy_from_slice(&taken);
        }
        Ok(taken.len())
    }
}

/// Why reading ended.
enum Stop {
    /// The backup could not be read: the error of the archive.
    Read(io::Error),
    Known(ControlError),
}

impl From<ControlError> for Stop {
    fn from(error: ControlError) -> Self {
        Self::Known(error)
    }
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Self {
        Self::Known(error.into())
    }
}

fn refused(what: impl std::fmt::Display) -> Stop {
    Stop::Known(ControlError::invalid(format!("the backup is refused, and nothing was changed: {what}")))
}

/// Reads the backup into the folder `into` and checks it. Of an archive with several apps only `only` is kept, if it is given; all is
/// checked. Blocking.
pub(super) fn unpack(
    source: Source,
    into: &Path,
    only: Option<&AppName>,
    sizes: Sizes,
) -> Result<Unpacked, ControlError> {
    let broken = Arc::clone(&source.broken);
    let mut last = String::new();
    let unpacked = read(source, into, only, sizes, &mut last);
    let unpacked = unpacked.and_then(|unpacked| {
        check(into, &unpacked)?;
        Ok(unpacked)
    });
    unpacked.map_err(|stop| match stop {
        Stop::Known(error) => error,
        Stop::Read(error) => {
            if let Some(broken) = broken.lock().unwrap_or_else(PoisonError::into_inner).take() {
                return ControlError::Incomplete(broken);
            }
            let place = if last.is_empty() { "at its beginning".into() } else { format!("after {last}") };
            let what = match error.kind() {
                io::ErrorKind::UnexpectedEof => "it was cut off",
                _ => "it is no backup of Minnow, or was changed",
            };
            ControlError::invalid(format!(
                "the backup is refused, and nothing was changed: {what}, {place} ({error}); fetch it again, or take another one"
            ))
        }
    })
}

fn read(
    source: Source,
    into: &Path,
    only: Option<&AppName>,
    sizes: Sizes,
    last: &mut String,
) -> Result<Unpacked, Stop> {
    let mut decoder = zstd::Decoder::new(source).map_err(Stop::Read)?.single_frame();
    decoder.window_log_max(WINDOW_LOG).map_err(Stop::Read)?;
    let mut archive = Archive::new(decoder);
    let list = tempfile::tempfile_in(into).map_err(|error| StoreError::io(into, error))?;
    let mut reading = Reading {
        into,
        only,
        sizes,
        list: BufWriter::new(list),
        end: End::default(),
        head: None,
        apps: BTreeMap::new(),
        contents: HashSet::new(),
        links: Vec::new(),
        linked: HashSet::new(),
        unlooked: ROOM_STEP,
        ended: false,
    };
    // Raw: long names and the like are entries of their own, so that their length is bounded here.
    let (mut long_path, mut long_target) = (None, None);
    for entry in archive.entries().map_err(Stop::Read)?.raw(true) {
        let mut entry = entry.map_err(Stop::Read)?;
        if reading.ended {
            return Err(refused("there is something after its end"));
        }
        let kind = entry.header().entry_type();
        let size = entry.header().entry_size().map_err(Stop::Read)?;
        match kind {
            EntryType::GNULongName => long_path = Some(long(&mut entry, size)?),
            EntryType::GNULongLink => long_target = Some(long(&mut entry, size)?),
            EntryType::Regular | EntryType::Directory | EntryType::Symlink => {
                let path = match long_path.take() {
                    Some(path) => path,
                    None => text(entry.header().path_bytes().into_owned())?,
                };
                let target = match long_target.take() {
                    None if kind == EntryType::Symlink => {
                        let target = entry.header().link_name_bytes().unwrap_or_default().into_owned();
                        Some(text(target)?)
                    }
                    target => target,
                };
                reading.entry(kind, &path, size, target, &mut entry)?;
                path.clone_into(last);
            }
            other => return Err(refused(format!("it has an entry of a kind that no backup has ({other:?})"))),
        }
    }
    if !reading.ended {
        return Err(Stop::Read(io::Error::new(io::ErrorKind::UnexpectedEof, "its last entry is missing")));
    }
    let mut decoder = archive.into_inner();
    let mut padding = Vec::new();
    (&mut decoder).take(MAX_PADDING + 1).read_to_end(&mut padding).map_err(Stop::Read)?;
    if padding.len() as u64 > MAX_PADDING || padding.iter().any(|byte| *byte != 0) {
        return Err(refused("there is something after its end"));
    }
    // Also what was compressed may not go on.
    let mut rest = decoder.finish();
    if !rest.fill_buf().map_err(Stop::Read)?.is_empty() {
        return Err(refused("there is something after its end"));
    }
    reading.finish()
}

/// A long path, as tar has it: with a zero at its end.
fn long(entry: &mut impl Read, size: u64) -> Result<String, Stop> {
    if size > MAX_PATH_BYTES {
        return Err(refused(format!("a path in it has {size} bytes; the most is {MAX_PATH_BYTES}")));
    }
    let mut bytes = Vec::new();
    entry.take(MAX_PATH_BYTES).read_to_end(&mut bytes).map_err(Stop::Read)?;
    if bytes.last() == Some(&0) {
        bytes.pop();
    }
    text(bytes)
}

fn text(bytes: Vec<u8>) -> Result<String, Stop> {
    String::from_utf8(bytes).map_err(|_| refused("a path in it is not UTF-8"))
}

struct Reading<'a> {
    into: &'a Path,
    only: Option<&'a AppName>,
    sizes: Sizes,
    /// An [`Entry`] for each entry so far.
    list: BufWriter<File>,
    /// What there was so far, and from the end what was left out.
    end: End,
    head: Option<Head>,
    apps: BTreeMap<AppName, Stores>,
    contents: HashSet<Digest>,
    /// Symbolic links with their targets, made at the end.
    links: Vec<(PathBuf, String)>,
    linked: HashSet<PathBuf>,
    /// Bytes that were written since the last look at the disk's room.
    unlooked: u64,
    ended: bool,
}

impl Reading<'_> {
    fn entry(
        &mut self,
        kind: EntryType,
        path: &str,
        size: u64,
        target: Option<String>,
        content: &mut impl Read,
    ) -> Result<(), Stop> {
        let shown = path.escape_debug();
        if self.end.entries >= MAX_ENTRIES {
            return Err(refused(format!("it has more than {MAX_ENTRIES} entries")));
        }
        let item = Item::at(path).ok_or_else(|| refused(format!("it has an entry `{shown}`, which no backup has")))?;
        if path.len() > MAX_FILE_PATH_BYTES {
            return Err(refused(format!("a path in it has {} bytes; the most is {MAX_FILE_PATH_BYTES}", path.len())));
        }
        if (item == Item::Head) != self.head.is_none() {
            return Err(refused(match self.head {
                None => "it does not begin with minnow-backup.json, so it is none of Minnow's",
                Some(_) => "it begins twice",
            }));
        }
        let may_be = match item {
            // A link in its place would lead functions elsewhere.
            Item::Volume { .. } => kind == EntryType::Directory,
            Item::File { .. } => true,
            _ => kind == EntryType::Regular,
        };
        if !may_be || (kind == EntryType::Directory) != path.ends_with('/') {
            return Err(refused(format!("its entry `{shown}` is not of the kind that it should be")));
        }
        let most = match &item {
            Item::Head => MAX_HEAD_BYTES,
            Item::End => MAX_END_BYTES,
            Item::Records { .. } => MAX_RECORDS_BYTES,
            Item::Store { kind: StoreKind::Kv, .. } => self.sizes.kv,
            Item::Store { kind: StoreKind::Sql, .. } => self.sizes.sql,
            Item::Store { kind: StoreKind::Topic, .. } => self.sizes.topic,
            Item::Store { .. } => self.sizes.index,
            Item::Object { .. } => self.sizes.object,
            Item::Content(_) => self.sizes.content,
            Item::File { .. } if kind == EntryType::Regular => u64::MAX,
            Item::File { .. } | Item::Volume { .. } => 0,
        };
        if size > most {
            return Err(refused(format!("its entry `{shown}` has {size} bytes; the most is {most}")));
        }
        if item == Item::End {
            return self.compare(content);
        }
        let kept = self.note(&item, path, size)?;
        let to = self.into.join(path.trim_end_matches('/'));
        let digest = match (kind, target) {
            (EntryType::Symlink, Some(target)) => {
                let digest = Digest::of(target.as_bytes());
                if kept {
                    self.link(&to, target)?;
                }
                digest
            }
            (EntryType::Directory, _) => {
                if kept {
                    self.folder(&to)?;
                }
                Digest::of(&[])
            }
            _ => self.file(kept.then_some(to.as_path()), path, size, content)?,
        };
        if let Item::Content(expected) = item
            && digest != expected
        {
            return Err(refused(format!("its entry `{shown}` has other content than its name says")));
        }
        if item == Item::Head {
            self.read_head(&to)?;
        }
        self.end.entries += 1;
        self.end.bytes = self.end.bytes.saturating_add(size);
        let line = Entry { path: path.to_owned(), size, sha256: digest.hex() };
        Ok(write_line(&mut self.list, &line).map_err(|error| StoreError::io(self.into, error))?)
    }

    /// Notes what an entry is. Whether it is kept.
    fn note(&mut self, item: &Item, path: &str, size: u64) -> Result<bool, Stop> {
        if let Item::Content(digest) = item {
            if !self.contents.insert(*digest) {
                return Err(refused(format!("its entry `{path}` is there twice")));
            }
            return Ok(true);
        }
        let Some(app) = item.app() else { return Ok(true) };
        if !self.head.as_ref().is_some_and(|head| head.apps.contains(app)) {
            return Err(refused(format!("it holds `{path}` of an app that its beginning does not name")));
        }
        let stores = self.apps.entry(app.clone()).or_default();
        match item {
            Item::Records { .. } => stores.has_records = true,
            Item::Store { kind, store, .. } => *stores.of_kind.entry((*kind, store.clone())).or_default() += size,
            Item::Object { store, .. } => {
                *stores.of_kind.entry((StoreKind::Blob, store.clone())).or_default() += size;
                *stores.objects.entry(store.clone()).or_default() += 1;
            }
            Item::Volume { volume, .. } | Item::File { volume, .. } => {
                *stores.of_kind.entry((StoreKind::Files, volume.clone())).or_default() += size
            }
            Item::Head | Item::End | Item::Content(_) => {}
        }
        Ok(self.only.is_none_or(|only| only == app))
    }

    fn read_head(&mut self, path: &Path) -> Result<(), Stop> {
        let text = fs::read(path).map_err(|error| StoreError::io(path, error))?;
        // Of a newer format only the number has to be readable.
        #[derive(serde::Deserialize)]
        struct Format {
            format: u32,
        }
        let unreadable = |error: serde_json::Error| refused(format!("its beginning cannot be read: {error}"));
        let Format { format } = serde_json::from_slice(&text).map_err(unreadable)?;
        if format > FORMAT {
            return Err(refused(format!(
                "it has format {format}, this node reads up to {FORMAT}; restore it with the version of minnow that made it"
            )));
        }
        let head: Head = serde_json::from_slice(&text).map_err(unreadable)?;
        if let Some(only) = self.only.filter(|only| !head.apps.contains(only)) {
            let there: Vec<&str> = head.apps.iter().map(AppName::as_str).collect();
            // The name is wrong, and not the backup.
            let what =
                format!("there is no app `{only}` in the backup, which has {}; nothing was changed", there.join(", "));
            return Err(ControlError::invalid(what).into());
        }
        if head.apps.iter().collect::<BTreeSet<_>>().len() != head.apps.len() {
            return Err(refused("its beginning names an app twice"));
        }
        self.head = Some(head);
        Ok(())
    }

    /// Refuses a path that goes through what is not a folder.
    fn parent(&self, path: &Path) -> Result<(), Stop> {
        let folder = path.parent().unwrap_or(path);
        // Links come last, so nothing in here leads out of the folder.
        create_private(folder).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory => {
                refused(format!("an entry lies in `{}`, which is not a folder", folder.display()))
            }
            _ => StoreError::io(folder, error).into(),
        })?;
        let mut above = Some(folder).filter(|_| !self.linked.is_empty());
        while let Some(path) = above.filter(|above| *above != self.into) {
            if self.linked.contains(path) {
                return Err(refused("an entry lies beyond a symbolic link"));
            }
            above = path.parent();
        }
        Ok(())
    }

    fn folder(&mut self, path: &Path) -> Result<(), Stop> {
        self.look(4096)?;
        if self.linked.contains(path) {
            return Err(refused("a path in it is there twice"));
        }
        self.parent(&path.join("x"))
    }

    fn link(&mut self, path: &Path, target: String) -> Result<(), Stop> {
        if self.links.len() as u64 >= MAX_LINKS {
            return Err(refused(format!("it has more than {MAX_LINKS} symbolic links")));
        }
        self.look(4096)?;
        self.parent(path)?;
        if path.symlink_metadata().is_ok() || !self.linked.insert(path.to_owned()) {
            return Err(refused("a path in it is there twice"));
        }
        self.links.push((path.to_owned(), target));
        Ok(())
    }

    /// Writes a file, or only reads it where `to` is `None`.
    fn file(&mut self, to: Option<&Path>, path: &str, size: u64, content: &mut impl Read) -> Result<Digest, Stop> {
        let mut file = match to {
            None => None,
            Some(to) => {
                self.parent(to)?;
                if self.linked.contains(to) {
                    return Err(refused(format!("its entry `{}` is there twice", path.escape_debug())));
                }
                let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to);
                Some(file.map_err(|error| match error.kind() {
                    io::ErrorKind::AlreadyExists => {
                        refused(format!("its entry `{}` is there twice", path.escape_debug()))
                    }
                    io::ErrorKind::InvalidFilename => refused("the name of a file in it is too long"),
                    _ => StoreError::io(to, error).into(),
                })?)
            }
        };
        let mut digester = Digester::default();
        let mut buffer = vec![0; PIECE_BYTES];
        let mut left = size;
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(PIECE_BYTES).min(PIECE_BYTES);
            let read = content.read(buffer.get_mut(..most).unwrap_or_default()).map_err(Stop::Read)?;
            let piece = buffer.get(..read).unwrap_or_default();
            if piece.is_empty() {
                let cut = io::Error::new(io::ErrorKind::UnexpectedEof, format!("{path} is not whole"));
                return Err(Stop::Read(cut));
            }
            digester.update(piece);
            if let (Some(file), Some(to)) = (&mut file, to) {
                self.look(read as u64)?;
                file.write_all(piece).map_err(|error| StoreError::io(to, error))?;
            }
            left -= read as u64;
        }
        Ok(digester.finish())
    }

    /// Looks from time to time whether there is room for what is written.
    fn look(&mut self, bytes: u64) -> Result<(), Stop> {
        self.unlooked += bytes;
        if self.unlooked >= ROOM_STEP {
            self.unlooked = 0;
            if !has_room(self.into, ROOM_STEP).map_err(|error| StoreError::io(self.into, error))? {
                return Err(StoreError::Full.into());
            }
        }
        Ok(())
    }

    /// Compares the list of entries at the end with those that came.
    fn compare(&mut self, content: &mut impl Read) -> Result<(), Stop> {
        let at = |error| Stop::Known(StoreError::io(self.into, error).into());
        self.list.flush().map_err(at)?;
        let mut list = BufReader::new(self.list.get_ref().try_clone().map_err(at)?);
        list.rewind().map_err(at)?;
        let mut content = BufReader::new(content);
        loop {
            let came: Option<Entry> = read_line(&mut list).map_err(at)?.map_err(refused)?;
            let Some(came) = came else { break };
            let written: Entry = match read_line(&mut content).map_err(Stop::Read)? {
                Ok(Some(written)) => written,
                Ok(None) | Err(_) => {
                    return Err(refused(format!("it holds `{}`, which its end does not list", came.path)));
                }
            };
            if written.path != came.path {
                return Err(refused(format!(
                    "`{}` is missing in it, or was moved: there is `{}` in its place",
                    written.path, came.path
                )));
            }
            if written != came {
                return Err(refused(format!("`{}` was changed since it was backed up", came.path)));
            }
        }
        match read_line::<serde_json::Value>(&mut content).map_err(Stop::Read)? {
            Ok(Some(value)) => match (serde_json::from_value::<End>(value.clone()), serde_json::from_value(value)) {
                (Ok(end), _) if (end.entries, end.bytes) == (self.end.entries, self.end.bytes) => self.end = end,
                (_, Ok(Entry { path, .. })) => return Err(refused(format!("`{path}` is missing in it"))),
                _ => return Err(refused("its end is not that of a backup")),
            },
            Ok(None) | Err(_) => return Err(refused("its end is not that of a backup")),
        }
        if read_line::<serde_json::Value>(&mut content).map_err(Stop::Read)? != Ok(None) {
            return Err(refused("its end is not that of a backup"));
        }
        self.ended = true;
        Ok(())
    }

    fn finish(self) -> Result<Unpacked, Stop> {
        let Self { head, mut apps, contents, links, only, end, .. } = self;
        let head = head.ok_or_else(|| refused("it is empty"))?;
        if let Some(app) = head.apps.iter().find(|app| !apps.get(*app).is_some_and(|stores| stores.has_records)) {
            return Err(refused(format!("the app `{app}` is missing in it")));
        }
        for (path, target) in links {
            std::os::unix::fs::symlink(&target, &path).map_err(|error| match error.kind() {
                io::ErrorKind::InvalidInput | io::ErrorKind::InvalidFilename => {
                    refused("a symbolic link in it cannot be made")
                }
                _ => StoreError::io(&path, error).into(),
            })?;
        }
        apps.retain(|app, _| only.is_none_or(|only| only == app));
        Ok(Unpacked { head, apps, contents, left_out: end.left_out })
    }
}

/// Checks the databases that were kept.
fn check(into: &Path, unpacked: &Unpacked) -> Result<(), Stop> {
    for (app, stores) in &unpacked.apps {
        for (kind, store) in stores.of_kind.keys() {
            let path = into.join(format!("apps/{app}/{kind}/{store}.db"));
            let checked = match kind {
                StoreKind::Kv => Kv::check_file(&path),
                StoreKind::Sql => Sql::check_file(&path),
                StoreKind::Blob => Buckets::check_file(&path),
                StoreKind::Topic => Topics::check_file(&path),
                StoreKind::Files => continue,
            };
            checked.map_err(|error| match error {
                StoreError::Corrupt { detail, .. } => {
                    refused(format!("`apps/{app}/{kind}/{store}.db` is damaged: {detail}"))
                }
                StoreError::Database(error) => refused(format!("`apps/{app}/{kind}/{store}.db` is damaged: {error}")),
                error => error.into(),
            })?;
            // A file that no blob has would stay for ever.
            let objects = stores.objects.get(store).copied().filter(|_| *kind == StoreKind::Blob).unwrap_or_default();
            if *kind == StoreKind::Blob && Buckets::count_files(&path)? != objects {
                return Err(refused(format!(
                    "the content of the bucket `{store}` of `{app}` is not what its index says"
                )));
            }
        }
    }
    Ok(())
}
