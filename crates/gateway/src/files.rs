//! Static files: small ones from memory, large ones in pieces from the blob store.

use std::{
    io::{self, SeekFrom},
    ops::Range,
    sync::Arc,
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode,
    header::{
        ACCEPT_RANGES, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_NONE_MATCH, IF_RANGE,
        RANGE, X_CONTENT_TYPE_OPTIONS,
    },
};
use minnow_model::{BundledFile, Digest};
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
    range::{Asked, asked, matches_any},
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

/// What is sent of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Sent {
    Whole,
    Part(Range<u64>),
    NotModified,
    Unsatisfiable,
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
        let sent = what_to_send(method, headers, &etag, file.size);
        let (status, range) = match sent {
            Sent::Whole => (StatusCode::OK, 0..file.size),
            Sent::Part(ref range) => (StatusCode::PARTIAL_CONTENT, range.clone()),
            Sent::NotModified => (StatusCode::NOT_MODIFIED, 0..0),
            Sent::Unsatisfiable => (StatusCode::RANGE_NOT_SATISFIABLE, 0..0),
        };
        let length = range.end - range.start;
        let content_range = match sent {
            Sent::Part(_) => Some(format!("bytes {}-{}/{}", range.start, range.end.saturating_sub(1), file.size)),
            Sent::Unsatisfiable => Some(format!("bytes */{}", file.size)),
            Sent::Whole | Sent::NotModified => None,
        };
        // hyper leaves the content of a HEAD away only for HTTP/1; none is read for either.
        let content =
            if length == 0 || *method == Method::HEAD { Content::Empty } else { self.read(&file, range).await? };
        let mut response = Response::new(content);
        *response.status_mut() = status;
        let headers = response.headers_mut();
        let mut set = |name: HeaderName, value: HeaderValue| headers.insert(name, value);
        set(ETAG, HeaderValue::try_from(etag).map_err(io::Error::other)?);
        // Always asked for again, which the ETag makes cheap: a deployment or rollback shows at once.
        set(CACHE_CONTROL, HeaderValue::from_static("public, max-age=0, must-revalidate"));
        set(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        if let Some(content_range) = content_range {
            set(CONTENT_RANGE, HeaderValue::try_from(content_range).map_err(io::Error::other)?);
        }
        if matches!(sent, Sent::Whole | Sent::Part(_)) {
            set(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
            set(CONTENT_TYPE, HeaderValue::try_from(content_type.into_owned()).map_err(io::Error::other)?);
            set(CONTENT_LENGTH, HeaderValue::from(length));
        }
        Ok(response)
    }

    /// The bytes `range` of a file, which are some.
    async fn read(&self, file: &BundledFile, range: Range<u64>) -> io::Result<Content> {
        if file.size > FILE_PIECE_BYTES as u64 {
            let Ok(held) = Arc::clone(&self.open).try_acquire_owned() else {
                return Err(io::Error::from(io::ErrorKind::QuotaExceeded));
            };
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

/// What to send of a file of `size` bytes, by the preconditions in their order (RFC 9110 section 13.2.2).
fn what_to_send(method: &Method, headers: &HeaderMap, etag: &str, size: u64) -> Sent {
    let text = |value: &HeaderValue| value.to_str().map(str::to_owned).unwrap_or_default();
    if headers.get_all(IF_NONE_MATCH).iter().any(|value| matches_any(&text(value), etag)) {
        return Sent::NotModified;
    }
    // A part is only of use with the rest that the client has, if that is of the same file.
    let is_same = headers.get(IF_RANGE).is_none_or(|value| value.as_bytes() == etag.as_bytes());
    let (Some(range), true, true) = (headers.get(RANGE), *method == Method::GET, is_same) else { return Sent::Whole };
    match asked(&text(range), size) {
        Asked::Whole => Sent::Whole,
        Asked::Part(range) => Sent::Part(range),
        Asked::Unsatisfiable => Sent::Unsatisfiable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn preconditions_and_ranges_decide_what_is_sent() {
        const ETAG: &str = r#""abc""#;
        for (method, sent, expected) in [
            (Method::GET, &[][..], Sent::Whole),
            (Method::HEAD, &[], Sent::Whole),
            (Method::GET, &[(IF_NONE_MATCH, ETAG)], Sent::NotModified),
            (Method::HEAD, &[(IF_NONE_MATCH, ETAG)], Sent::NotModified),
            (Method::GET, &[(IF_NONE_MATCH, r#""old""#)], Sent::Whole),
            (Method::GET, &[(IF_NONE_MATCH, ETAG), (RANGE, "bytes=0-1")], Sent::NotModified),
            (Method::GET, &[(RANGE, "bytes=2-3")], Sent::Part(2..4)),
            (Method::HEAD, &[(RANGE, "bytes=2-3")], Sent::Whole),
            (Method::GET, &[(RANGE, "bytes=99-")], Sent::Unsatisfiable),
            (Method::GET, &[(RANGE, "bytes=0-1,3-4")], Sent::Whole),
            (Method::GET, &[(RANGE, "bytes=2-3"), (IF_RANGE, ETAG)], Sent::Part(2..4)),
            (Method::GET, &[(RANGE, "bytes=2-3"), (IF_RANGE, r#"W/"abc""#)], Sent::Whole),
            (Method::GET, &[(RANGE, "bytes=2-3"), (IF_RANGE, "Tue, 15 Nov 1994 12:45:26 GMT")], Sent::Whole),
        ] {
            let mut headers = HeaderMap::new();
            for (name, value) in sent {
                headers.append(name, HeaderValue::from_static(value));
            }
            assert_eq!(what_to_send(&method, &headers, ETAG, 10), expected, "{method} {sent:?}");
        }
    }
}
