//! Static files: small ones from memory, large ones in pieces from the blob store.

use std::{
    io::{self, SeekFrom},
    ops::Range,
    sync::Arc,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, header::CACHE_CONTROL};
use minnow_model::{BundledFile, Digest};
use minnow_runtime::data::range::Sent;
use minnow_store::Blobs;
use quick_cache::{Weighter, sync::Cache};
use tokio::{
    fs::File,
    io::AsyncSeekExt,
    sync::{OwnedSemaphorePermit, Semaphore},
};

use crate::{
    body::{Content, FileBody},
    config::{FILE_CACHE_BYTES, FILE_PIECE_BYTES, MIN_OPEN_FILES},
    target::FoundFile,
};

/// The static files of all apps, by their digests: what a path means is decided before.
pub(crate) struct FileCache {
    blobs: Arc<Blobs>,
    small: Cache<Digest, Bytes, FileWeight>,
    /// Places for large files that are being sent.
    open: Arc<Semaphore>,
}

/// A file that is open, for as long as it lives.
pub(crate) type OpenFile = OwnedSemaphorePermit;

#[derive(Clone)]
struct FileWeight;

impl Weighter<Digest, Bytes> for FileWeight {
    fn weight(&self, _: &Digest, content: &Bytes) -> u64 {
        // About what an entry costs beside its content; also keeps empty files from being free.
        content.len() as u64 + 128
    }
}

impl FileCache {
    /// The files of `blobs`, for a node with so many connections. A quarter as many large files may be sent at once:
    /// each has a descriptor, and HTTP/2 clients can ask for many on one connection.
    pub(crate) fn new(blobs: Arc<Blobs>, max_connections: usize) -> Self {
        // 4 KiB is a common size of scripts and styles that were made smaller for the web.
        let items = usize::try_from(FILE_CACHE_BYTES / 4096).unwrap_or(usize::MAX);
        let open = (max_connections / 4).clamp(MIN_OPEN_FILES, Semaphore::MAX_PERMITS);
        Self {
            blobs,
            open: Arc::new(Semaphore::new(open)),
            small: Cache::with_weighter(items, FILE_CACHE_BYTES, FileWeight),
        }
    }

    /// The response to a GET or HEAD for `found`. Fails when the blob cannot be read, and with
    /// [`io::ErrorKind::QuotaExceeded`] when too many files are open.
    pub(crate) async fn respond(
        &self,
        found: FoundFile,
        method: &Method,
        headers: &HeaderMap,
    ) -> io::Result<Response<Content>> {
        let FoundFile { file, content_type } = found;
        let etag = format!("\"{}\"", file.digest.hex());
        let sent = Sent::of(method, headers, &etag, file.size);
        let range = sent.range(file.size);
        // hyper leaves the content of a HEAD away only for HTTP/1; none is read for either.
        let content =
            if range.is_empty() || *method == Method::HEAD { Content::Empty } else { self.read(&file, range).await? };
        let mut response = Response::new(content);
        *response.status_mut() = sent.status();
        let headers = response.headers_mut();
        let etag = HeaderValue::try_from(etag).map_err(io::Error::other)?;
        let content_type = HeaderValue::try_from(content_type.into_owned()).map_err(io::Error::other)?;
        sent.set_headers(headers, etag, file.size, content_type);
        // Always asked for again, which the ETag makes cheap: a deployment or rollback shows at once.
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("public, max-age=0, must-revalidate"));
        Ok(response)
    }

    /// A place for a large file that is being sent; `None` while there are as many as may be.
    fn hold(&self) -> Option<OpenFile> {
        Arc::clone(&self.open).try_acquire_owned().ok()
    }

    /// The bytes `range` of a file, which are some.
    async fn read(&self, file: &BundledFile, range: Range<u64>) -> io::Result<Content> {
        if file.size > FILE_PIECE_BYTES as u64 {
            let held = self.hold().ok_or(io::ErrorKind::QuotaExceeded)?;
            let mut open = File::open(self.blobs.path(&file.digest)).await?;
            if range.start > 0 {
                open.seek(SeekFrom::Start(range.start)).await?;
            }
            return Ok(Content::File(FileBody::new(open, held, range.end - range.start)));
        }
        let whole = match self.small.get(&file.digest) {
            Some(whole) => whole,
            None => {
                let path = self.blobs.path(&file.digest);
                let whole = Bytes::from(tokio::fs::read(path).await?);
                if whole.len() as u64 != file.size {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "the blob is not of its size"));
                }
                self.small.insert(file.digest, whole.clone());
                whole
            }
        };
        // Within the size, which is that of the content.
        let index = |offset: u64| usize::try_from(offset).unwrap_or(usize::MAX).min(whole.len());
        Ok(Content::Bytes(whole.slice(index(range.start)..index(range.end))))
    }
}
