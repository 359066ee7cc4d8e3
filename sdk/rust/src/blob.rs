//! Buckets: blobs of up to 5 GiB under keys, whole or as streams.
//!
//! ```no_run
//! use std::io::{Read as _, Write as _};
//!
//! use minnow_sdk::blob::{Bucket, Get, Metadata, Put};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let uploads = Bucket::open("uploads")?;
//! uploads.put("notes/1.txt", b"buy milk")?;
//! assert_eq!(uploads.get("notes/1.txt")?.as_deref(), Some(&b"buy milk"[..]));
//!
//! // As a stream, with what browsers are to be told about it.
//! let metadata = Metadata { content_type: Some("text/csv".into()), ..Metadata::default() };
//! let mut upload = uploads.upload("report.csv", &Put { metadata, ..Put::default() })?;
//! for line in 0..1_000_000 {
//!     writeln!(upload, "{line},{}", line * line)?;
//! }
//! upload.finish()?;
//!
//! if let Some(mut report) = uploads.read("report.csv", &Get::default())? {
//!     let mut beginning = [0; 64];
//!     let read = report.read(&mut beginning)?;
//! }
//! # Ok(())
//! # }
//! ```
//!
//! An upload that is not finished leaves nothing.

use std::{
    io::{self, Read, Write},
    time::Duration,
};

use crate::bindings::{
    minnow::blob::store,
    wasi::io::streams::{InputStream, OutputStream, StreamError},
};

/// Why a call failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The manifest grants the function no bucket of this name; the text says what to add.
    #[error("{0}")]
    NotGranted(String),
    /// The bucket is granted for reading only.
    #[error("the bucket is granted for reading only; write its name without `:ro` to let the function change it")]
    ReadOnly,
    /// A key, metadata, a limit or a number of streams beyond what is allowed: why.
    #[error("{0}")]
    Refused(String),
    /// The range begins beyond the end of the blob, which has so many bytes.
    #[error("the range begins beyond the end of the blob, which has {0} bytes")]
    Range(u64),
    /// The content is too large.
    #[error("{0}")]
    TooLarge(String),
    /// The bucket has reached its size, or the disk is full.
    #[error("{0}")]
    Full(String),
    /// Too many uploads are under way.
    #[error("{0}")]
    Busy(String),
    /// The node failed.
    #[error("{0}")]
    Other(String),
}

impl From<store::Error> for Error {
    fn from(error: store::Error) -> Self {
        match error {
            store::Error::NotGranted(message) => Self::NotGranted(message),
            store::Error::ReadOnly => Self::ReadOnly,
            store::Error::Refused(message) => Self::Refused(message),
            store::Error::Range(size) => Self::Range(size),
            store::Error::TooLarge(message) => Self::TooLarge(message),
            store::Error::Full(message) => Self::Full(message),
            store::Error::Busy(message) => Self::Busy(message),
            store::Error::Other(message) => Self::Other(message),
        }
    }
}

/// A bucket that the function was granted.
#[derive(Debug)]
pub struct Bucket(store::Bucket);

/// What a blob is, without its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    /// The key.
    pub key: String,
    /// Bytes of its content.
    pub size: u64,
    /// SHA-256 of the content, in hexadecimal digits.
    pub etag: String,
    /// Milliseconds since 1970.
    pub uploaded_ms: u64,
    /// What was given with the content.
    pub metadata: Metadata,
}

/// What goes with a blob: values of HTTP headers, of 1 KiB each, and entries of the app's own, of 8 KiB together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Metadata {
    /// `content-type`.
    pub content_type: Option<String>,
    /// `content-encoding`.
    pub content_encoding: Option<String>,
    /// `content-language`.
    pub content_language: Option<String>,
    /// `content-disposition`.
    pub content_disposition: Option<String>,
    /// `cache-control`.
    pub cache_control: Option<String>,
    /// Names and values.
    pub custom: Vec<(String, String)>,
}

/// What has to hold of a blob for a call to do something. All that are given have to hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Conditions {
    /// Etags, or `*` for any: the blob is one of them.
    pub if_match: Option<Vec<String>>,
    /// Etags, or `*` for any: the blob is none of them.
    pub if_none_match: Option<Vec<String>>,
    /// Milliseconds since 1970.
    pub uploaded_before_ms: Option<u64>,
    /// Milliseconds since 1970.
    pub uploaded_after_ms: Option<u64>,
}

impl Conditions {
    /// There is no blob under the key: what is put is new.
    pub fn absent() -> Self {
        Self { if_none_match: Some(vec!["*".into()]), ..Self::default() }
    }

    /// The blob is the one with this etag.
    pub fn is(etag: impl Into<String>) -> Self {
        Self { if_match: Some(vec![etag.into()]), ..Self::default() }
    }
}

/// Bytes of a blob. An end beyond the blob's is the blob's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Range {
    /// From this offset to the end.
    From(u64),
    /// An offset and a length.
    Part(u64, u64),
    /// The last so many.
    Last(u64),
}

/// How a blob is read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Get {
    /// Which bytes; all, if none are given.
    pub range: Option<Range>,
    /// What has to hold of it.
    pub only_if: Option<Conditions>,
}

/// How a blob is written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Put {
    /// What goes with it.
    pub metadata: Metadata,
    /// What has to hold of the blob that is there.
    pub only_if: Option<Conditions>,
}

/// What a signed URL allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signed {
    /// To read the blob.
    Get,
    /// To write it.
    Put {
        /// The most bytes.
        max_size: Option<u64>,
        /// What its content type has to be.
        content_type: Option<String>,
    },
}

/// What a listing is of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct List<'a> {
    /// Keys that begin with it.
    pub prefix: &'a str,
    /// Keys that have it after the prefix are given together, as the prefix that ends with it.
    pub delimiter: Option<&'a str>,
    /// Those after it: `next` of the page before.
    pub after: Option<&'a str>,
    /// At most so many keys and prefixes, of 1,000.
    pub limit: Option<u32>,
}

/// A page of a listing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// By key, in byte order.
    pub blobs: Vec<Info>,
    /// What keys have in common up to the delimiter.
    pub prefixes: Vec<String>,
    /// Where the next page begins; none at the end.
    pub next: Option<String>,
}

/// The most blobs and prefixes of a page.
const PAGE: u32 = 1000;

impl Bucket {
    /// Opens a bucket by its name in the manifest, or `APP/BUCKET` for one that another app shares.
    pub fn open(name: &str) -> Result<Self, Error> {
        Ok(Self(store::Bucket::open(name)?))
    }

    /// What is under a key, without its content.
    pub fn head(&self, key: &str) -> Result<Option<Info>, Error> {
        Ok(self.0.head(key)?.map(Into::into))
    }

    /// The content of a blob of up to 16 MiB, if there is one.
    pub fn get(&self, key: &str) -> Result<Option<Vec<u8>>, Error> {
        let got = self.0.get_bytes(key, &Get::default().into())?;
        Ok(got.and_then(|got| got.bytes))
    }

    /// A blob to read as a stream. `None`: there is none, or its condition does not hold; [`Bucket::head`] says which.
    pub fn read(&self, key: &str, how: &Get) -> Result<Option<Reader>, Error> {
        let Some(store::Got { info, part: Some(part) }) = self.0.get(key, &how.clone().into())? else {
            return Ok(None);
        };
        Ok(Some(Reader { info: info.into(), offset: part.offset, size: part.size, body: part.body }))
    }

    /// Writes a blob of up to 16 MiB.
    pub fn put(&self, key: &str, content: &[u8]) -> Result<Info, Error> {
        let info = self.put_with(key, content, &Put::default())?;
        info.ok_or_else(|| Error::Other("the blob was not written, although nothing was asked of it".into()))
    }

    /// The same, with metadata or a condition. `None`: the condition does not hold.
    pub fn put_with(&self, key: &str, content: &[u8], how: &Put) -> Result<Option<Info>, Error> {
        Ok(self.0.put_bytes(key, content, &how.clone().into())?.map(Into::into))
    }

    /// Begins a blob that is written as a stream.
    pub fn upload(&self, key: &str, how: &Put) -> Result<Writer, Error> {
        let upload = self.0.put(key, &how.clone().into())?;
        let body = upload.body()?;
        Ok(Writer { body, upload })
    }

    /// Deletes a blob. Whether it was there.
    pub fn delete(&self, key: &str) -> Result<bool, Error> {
        Ok(self.delete_many(&[key.to_owned()])? > 0)
    }

    /// Deletes up to 1,000 blobs: all or none. How many were there.
    pub fn delete_many(&self, keys: &[String]) -> Result<u64, Error> {
        Ok(self.0.delete(keys)?)
    }

    /// A page of what is in the bucket.
    pub fn list(&self, of: &List<'_>) -> Result<Page, Error> {
        let options = store::ListOptions {
            prefix: of.prefix.to_owned(),
            delimiter: of.delimiter.map(str::to_owned),
            after: of.after.map(str::to_owned),
            limit: of.limit.unwrap_or(PAGE),
        };
        let store::Listed { blobs, prefixes, next } = self.0.list(&options)?;
        Ok(Page { blobs: blobs.into_iter().map(Into::into).collect(), prefixes, next })
    }

    /// All blobs whose keys begin with `prefix`, in byte order, read in pages as they are needed.
    pub fn blobs<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = Result<Info, Error>> + 'a {
        let mut page = Vec::new().into_iter();
        let mut after = Some(None);
        std::iter::from_fn(move || {
            loop {
                if let Some(info) = page.next() {
                    return Some(Ok(info));
                }
                let from: Option<String> = after.take()?;
                match self.list(&List { prefix, after: from.as_deref(), ..List::default() }) {
                    Ok(found) => {
                        page = found.blobs.into_iter();
                        after = found.next.map(Some);
                    }
                    Err(error) => return Some(Err(error)),
                }
            }
        })
    }

    /// Copies a blob with its metadata, within the bucket or to another one. `None`: the condition does not hold for what is
    /// there.
    pub fn copy(
        &self,
        key: &str,
        to: &Self,
        to_key: &str,
        only_if: Option<&Conditions>,
    ) -> Result<Option<Info>, Error> {
        let only_if = only_if.cloned().map(Into::into);
        Ok(self.0.copy(key, &to.0, to_key, only_if.as_ref())?.map(Into::into))
    }

    /// Path and query of a URL on the host of the app that owns the bucket, by which whoever has it reads or writes this one
    /// blob, until it expires after at most 7 days.
    pub fn signed_url(&self, key: &str, what: &Signed, expires_in: Duration) -> Result<String, Error> {
        let (method, max_size, content_type) = match what {
            Signed::Get => (store::Method::Get, None, None),
            Signed::Put { max_size, content_type } => (store::Method::Put, *max_size, content_type.clone()),
        };
        let options = store::SignOptions { method, expires_in: expires_in.as_secs(), max_size, content_type };
        Ok(self.0.sign(key, &options)?)
    }
}

/// A blob that is read as a stream. It stays as it is when the blob is replaced or deleted.
#[derive(Debug)]
pub struct Reader {
    info: Info,
    offset: u64,
    size: u64,
    body: InputStream,
}

impl Reader {
    /// What the whole blob is.
    pub fn info(&self) -> &Info {
        &self.info
    }

    /// Where in the blob the bytes begin.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// How many bytes there are to read, from the first.
    pub fn size(&self) -> u64 {
        self.size
    }
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        match self.body.blocking_read(buffer.len() as u64) {
            Ok(piece) => {
                // Not longer than was asked for.
                let (filled, _) = buffer.split_at_mut(piece.len());
                filled.copy_from_slice(&piece);
                Ok(piece.len())
            }
            Err(StreamError::Closed) => Ok(0),
            Err(StreamError::LastOperationFailed(error)) => Err(io::Error::other(error.to_debug_string())),
        }
    }
}

/// A blob that is written as a stream. It is there once it has finished, whole; if this is dropped before, nothing is.
#[derive(Debug)]
pub struct Writer {
    // Dropped first.
    body: OutputStream,
    upload: store::Upload,
}

impl Writer {
    /// Makes the blob. `None`: the condition does not hold any more.
    pub fn finish(self) -> Result<Option<Info>, Error> {
        let Self { body, upload } = self;
        drop(body);
        Ok(store::Upload::finish(upload)?.map(Into::into))
    }
}

impl Write for Writer {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            let room = self.body.check_write().map_err(failed)?;
            if room > 0 {
                let length = buffer.len().min(usize::try_from(room).unwrap_or(usize::MAX));
                let (piece, _) = buffer.split_at(length);
                self.body.write(piece).map_err(failed)?;
                return Ok(length);
            }
            self.body.subscribe().block();
        }
    }

    /// Does nothing: nothing of a blob is there before it has finished.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn failed(error: StreamError) -> io::Error {
    match error {
        StreamError::Closed => io::Error::new(io::ErrorKind::BrokenPipe, "the upload has failed or finished"),
        StreamError::LastOperationFailed(error) => io::Error::other(error.to_debug_string()),
    }
}

impl From<store::Info> for Info {
    fn from(info: store::Info) -> Self {
        let store::Info { key, size, etag, uploaded, metadata } = info;
        Self { key, size, etag, uploaded_ms: uploaded, metadata: metadata.into() }
    }
}

impl From<store::Metadata> for Metadata {
    fn from(metadata: store::Metadata) -> Self {
        let store::Metadata {
            content_type,
            content_encoding,
            content_language,
            content_disposition,
            cache_control,
            custom,
        } = metadata;
        Self { content_type, content_encoding, content_language, content_disposition, cache_control, custom }
    }
}

impl From<Metadata> for store::Metadata {
    fn from(metadata: Metadata) -> Self {
        let Metadata { content_type, content_encoding, content_language, content_disposition, cache_control, custom } =
            metadata;
        Self { content_type, content_encoding, content_language, content_disposition, cache_control, custom }
    }
}

impl From<Conditions> for store::Conditions {
    fn from(conditions: Conditions) -> Self {
        let Conditions { if_match, if_none_match, uploaded_before_ms, uploaded_after_ms } = conditions;
        Self { if_match, if_none_match, uploaded_before: uploaded_before_ms, uploaded_after: uploaded_after_ms }
    }
}

impl From<Get> for store::GetOptions {
    fn from(get: Get) -> Self {
        let range = get.range.map(|range| match range {
            Range::From(offset) => store::ByteRange::From(offset),
            Range::Part(offset, length) => store::ByteRange::Part((offset, length)),
            Range::Last(bytes) => store::ByteRange::Last(bytes),
        });
        Self { range, only_if: get.only_if.map(Into::into) }
    }
}

impl From<Put> for store::PutOptions {
    fn from(put: Put) -> Self {
        Self { metadata: Some(put.metadata.into()), only_if: put.only_if.map(Into::into) }
    }
}
