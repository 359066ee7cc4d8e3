//! Writing a backup: entries one after the other, each hashed as it goes out.

use std::{
    fs::File,
    io::{self, BufWriter, Read, Seek as _, Write},
    path::Path,
};

use minnow_model::{AppName, digest::Digester};
use tar::{Builder, EntryType, Header};

use super::format::{END, End, Entry, MAX_END_BYTES, MAX_ENTRIES, MAX_LEFT_OUT, MAX_LEFT_OUT_PATH_BYTES, MAX_LINKS};
use crate::{api_types::LeftOutFile, registry::records::write_line};

/// zstd's default: 300 MB/s on one core, which a disk or a line keeps up with.
const LEVEL: i32 = 3;

/// What GNU tar calls an entry that holds the long target of the next one.
const LONG_LINK: &[u8] = b"././@LongLink";

/// A backup that is being written to `W`. It is whole after [`Archive::finish`].
pub(super) struct Archive<W: Write> {
    tar: Builder<zstd::Encoder<'static, W>>,
    /// The lines of the end, in a file: there may be millions.
    list: BufWriter<File>,
    end: End,
    /// How many of those that are left out are named.
    named: usize,
    links: u64,
    /// In seconds since the Unix epoch, of all entries.
    time: u64,
}

impl<W: Write> Archive<W> {
    /// Begins a backup; what has to be kept meanwhile is kept in `dir`.
    pub(super) fn new(out: W, dir: &Path, time_ms: u64) -> io::Result<Self> {
        let mut encoder = zstd::Encoder::new(out, LEVEL)?;
        encoder.include_checksum(true)?;
        Ok(Self {
            tar: Builder::new(encoder),
            list: BufWriter::new(tempfile::tempfile_in(dir)?),
            end: End::default(),
            named: 0,
            links: 0,
            time: time_ms / 1000,
        })
    }

    /// Adds a file. `content` has at least `size` bytes, of which so many are taken.
    pub(super) fn file(&mut self, path: &str, size: u64, content: impl Read) -> io::Result<()> {
        let mut content = Hashing { content: content.take(size), digester: Digester::default(), bytes: 0 };
        let mut header = self.header(EntryType::Regular, size);
        self.tar.append_data(&mut header, path, &mut content)?;
        let Hashing { digester, bytes, .. } = content;
        if bytes != size {
            return Err(io::Error::other(format!("{path} became shorter while it was read: {bytes} bytes of {size}")));
        }
        self.note(path, size, digester)
    }

    /// Adds a folder, whose path ends with `/`.
    pub(super) fn folder(&mut self, path: &str) -> io::Result<()> {
        let mut header = self.header(EntryType::Directory, 0);
        self.tar.append_data(&mut header, path, io::empty())?;
        self.note(path, 0, Digester::default())
    }

    /// Adds a symbolic link. Its target is text and goes as it is: `append_link` would write `a//b` as `a/b`.
    pub(super) fn link(&mut self, path: &str, target: &str) -> io::Result<()> {
        if self.links >= MAX_LINKS {
            return Err(io::Error::other(format!(
                "a backup has at most {MAX_LINKS} symbolic links; back up fewer apps at once, or remove some"
            )));
        }
        self.links += 1;
        let mut header = self.header(EntryType::Symlink, 0);
        if target.len() > header.as_old().linkname.len() {
            // An entry of its own before that of the link, with a zero at its end: GNU's way.
            let mut long = self.header(EntryType::GNULongLink, target.len() as u64 + 1);
            if let Some(name) = long.as_old_mut().name.get_mut(..LONG_LINK.len()) {
                name.copy_from_slice(LONG_LINK);
            }
            long.set_cksum();
            self.tar.append(&long, target.as_bytes().chain([0].as_slice()))?;
        } else {
            header.set_link_name_literal(target)?;
        }
        self.tar.append_data(&mut header, path, io::empty())?;
        let mut digester = Digester::default();
        digester.update(target.as_bytes());
        self.note(path, 0, digester)
    }

    /// Notes what a backup of this app has to do without. `path` is the volume and what is in it.
    pub(super) fn leave_out(&mut self, app: &AppName, path: &str, why: &str) {
        let left_out = self.end.left_out.entry(app.clone()).or_default();
        left_out.count += 1;
        if self.named < MAX_LEFT_OUT {
            self.named += 1;
            left_out.files.push(LeftOutFile { path: beginning_of(path), why: why.into() });
        }
    }

    /// How much was left out of this app so far.
    pub(super) fn left_out(&self, app: &AppName) -> u64 {
        self.end.left_out.get(app).map_or(0, |left_out| left_out.count)
    }

    /// Writes the end, and gives back where the backup went.
    pub(super) fn finish(mut self) -> io::Result<W> {
        write_line(&mut self.list, &self.end)?;
        let mut list = self.list.into_inner().map_err(|error| error.into_error())?;
        let size = list.stream_position()?;
        if size > MAX_END_BYTES {
            return Err(too_many());
        }
        list.rewind()?;
        let mut header = header(EntryType::Regular, size, self.time);
        self.tar.append_data(&mut header, END, list.take(size))?;
        self.tar.into_inner()?.finish()
    }

    fn header(&self, kind: EntryType, size: u64) -> Header {
        header(kind, size, self.time)
    }

    fn note(&mut self, path: &str, size: u64, digester: Digester) -> io::Result<()> {
        if self.end.entries >= MAX_ENTRIES {
            return Err(too_many());
        }
        self.end.entries += 1;
        self.end.bytes += size;
        write_line(&mut self.list, &Entry { path: path.to_owned(), size, sha256: digester.finish().hex() })
    }
}

/// A path that is not too long to be told.
fn beginning_of(path: &str) -> String {
    if path.len() <= MAX_LEFT_OUT_PATH_BYTES {
        return path.to_owned();
    }
    let end = path.floor_char_boundary(MAX_LEFT_OUT_PATH_BYTES);
    format!("{}…", path.get(..end).unwrap_or_default())
}

/// What a restore would refuse is an error of the backup.
fn too_many() -> io::Error {
    io::Error::other(format!(
        "a backup has at most {MAX_ENTRIES} entries, in a list of {MAX_END_BYTES} bytes; back up fewer apps at once"
    ))
}

fn header(kind: EntryType, size: u64, time: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mtime(time);
    header.set_mode(if kind == EntryType::Directory { 0o700 } else { 0o600 });
    header
}

struct Hashing<R> {
    content: R,
    digester: Digester,
    bytes: u64,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.content.read(buffer)?;
        self.digester.update(buffer.get(..read).unwrap_or_default());
        self.bytes += read as u64;
        Ok(read)
    }
}
