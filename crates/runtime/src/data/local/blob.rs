//! Buckets: `/blob/STORE/…`. Content is streamed both ways, a piece at a time.

use std::{collections::BTreeMap, io};

use futures::TryStreamExt as _;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header::CONTENT_LENGTH, request::Parts};
use http_body::{Body as _, Frame};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Incoming;
use minnow_model::{Code, StoreKind};
use minnow_store::{
    BucketError,
    bucket::{Blob, Bucket, Conditions, Got, MAX_BLOB_BYTES, MAX_PAGE, Range},
};
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde::Serialize;

use super::{
    Flags, LocalHttp,
    answer::{self, Body, Refusal, empty, piece},
    number, only, query,
};
use crate::data::{
    Need,
    blob_headers::{self, NO_CONTENT_TYPE, conditions, quoted, set_meta},
    range::Sent,
    told,
};

/// As the control API has them.
const METADATA: HeaderName = HeaderName::from_static("minnow-metadata");
const UPLOADED: HeaderName = HeaderName::from_static("minnow-uploaded-ms");

const KEY_METHODS: &str = "GET, HEAD, PUT, DELETE";

/// How often a blob is opened anew that was replaced after its etag was compared, before the function is told to try again.
const OPEN_TRIES: usize = 3;

/// The memory of a page, in bytes: keys of 1 KiB and metadata of up to 13 KiB, 1000 of them.
const PAGE_BYTES: usize = 16 << 20;

impl LocalHttp {
    pub(super) async fn blob_list(&self, head: &Parts, store: &str) -> Result<Response<Body>, Refusal> {
        only(&head.method, &Method::GET, "GET")?;
        let store = self.store(StoreKind::Blob, store, Need::Read)?;
        let (mut prefix, mut cursor, mut delimiter, mut limit) = (String::new(), None, None, MAX_PAGE);
        query(head, |name, value| {
            match name {
                "prefix" => prefix = value,
                "cursor" => cursor = Some(value),
                // An empty one would divide nothing.
                "delimiter" => delimiter = Some(value).filter(|delimiter| !delimiter.is_empty()),
                "limit" => limit = number(name, &value)?,
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        let room = self.memory.expect(PAGE_BYTES)?;
        let buckets = &self.data().buckets;
        let listed = buckets.list(&store.store, &prefix, cursor.as_deref(), delimiter.as_deref(), limit).await?;
        let blobs = listed.blobs.iter().map(Info::of).collect();
        let list = List { blobs, prefixes: &listed.prefixes, cursor: listed.next.as_deref() };
        answer::json(StatusCode::OK, &list, &self.memory, Some(room))
    }

    pub(super) async fn blob_key(
        &self,
        head: &Parts,
        body: Incoming,
        flags: &Flags,
        store: &str,
        key: String,
    ) -> Result<Response<Body>, Refusal> {
        query(head, |_, _| Ok(false))?;
        match head.method {
            Method::GET | Method::HEAD => self.blob_get(head, store, &key).await,
            Method::PUT => self.blob_put(head, body, flags, store, key).await,
            Method::DELETE => {
                let store = self.store(StoreKind::Blob, store, Need::Write)?;
                if head.headers.contains_key(http::header::IF_MATCH) {
                    return Err(Refusal::invalid("a deletion depends on nothing; leave `if-match` out"));
                }
                match self.data().buckets.delete(&store.store, vec![key.clone()]).await? {
                    0 => Err(no_blob(&key)),
                    _ => Ok(empty(StatusCode::NO_CONTENT)),
                }
            }
            _ => Err(Refusal::method(KEY_METHODS)),
        }
    }

    async fn blob_get(&self, head: &Parts, store: &str, key: &str) -> Result<Response<Body>, Refusal> {
        let store = self.store(StoreKind::Blob, store, Need::Read)?;
        let buckets = &self.data().buckets;
        for _ in 0..OPEN_TRIES {
            let Some(blob) = buckets.head(&store.store, key).await? else { return Err(no_blob(key)) };
            let etag = quoted(&blob.etag);
            let sent = Sent::of(&head.method, &head.headers, etag.to_str().unwrap_or_default(), blob.size);
            if sent == Sent::Unmet {
                return Err(unmet());
            }
            let range = sent.range(blob.size);
            if range.is_empty() || head.method == Method::HEAD {
                return Ok(described(&blob, &sent, answer::whole(bytes::Bytes::new())));
            }
            // That it is still what was looked at.
            let only_if = Conditions { if_match: Some(vec![blob.etag.clone()]), ..Conditions::default() };
            let part = Range::From { offset: range.start, length: Some(range.end - range.start) };
            let Got::Found { content, .. } = buckets.get(&store.store, key, &only_if, Some(part)).await? else {
                continue;
            };
            let span = tracing::Span::current();
            let pieces = futures::stream::try_unfold(content, async |mut content| {
                Ok::<_, BucketError>(content.next().await?.map(|piece| (Frame::data(piece), content)))
            });
            // The function sees that the content breaks off, and no more.
            let pieces = pieces.map_err(move |error| io::Error::other(span.in_scope(|| told(&error, false))));
            return Ok(described(&blob, &sent, StreamBody::new(pieces).boxed_unsync()));
        }
        Err(BucketError::Changing { key: key.to_owned() }.into())
    }

    async fn blob_put(
        &self,
        head: &Parts,
        mut body: Incoming,
        flags: &Flags,
        store: &str,
        key: String,
    ) -> Result<Response<Body>, Refusal> {
        let store = self.store(StoreKind::Blob, store, Need::Write)?;
        let mut meta = blob_headers::meta(&head.headers).map_err(|error| Refusal::invalid(error.to_string()))?;
        if let Some(value) = head.headers.get(METADATA) {
            meta.custom = custom(value)?;
        }
        if body.size_hint().lower() > MAX_BLOB_BYTES {
            return Err(BucketError::TooLarge.into());
        }
        let only_if = conditions(&head.headers);
        let buckets = &self.data().buckets;
        // It is decided at the end. But who has to be refused need not send all of it first.
        if only_if != Conditions::default() && !only_if.hold(buckets.head(&store.store, &key).await?.as_ref()) {
            return Err(unmet());
        }
        let bucket = Bucket { store: &store.store, size_bytes: store.size_bytes };
        let mut upload = buckets.put(bucket, key, meta, only_if).await?;
        while let Some(piece) = piece(&mut body, flags).await? {
            upload.write(piece).await?;
        }
        let blob = upload.finish().await?.ok_or_else(unmet)?;
        answer::json(StatusCode::CREATED, &Info::of(&blob), &self.memory, None)
    }
}

fn no_blob(key: &str) -> Refusal {
    Refusal::new(Code::NotFound, format!("the bucket has no blob `{key}`"))
}

fn unmet() -> Refusal {
    Refusal::new(
        Code::PreconditionFailed,
        "the blob is not as `if-match` or `if-none-match` asks for; nothing was changed",
    )
}

/// The answer with (some of) a blob.
fn described(blob: &Blob, sent: &Sent, content: Body) -> Response<Body> {
    let mut response = Response::new(content);
    *response.status_mut() = sent.status();
    let headers = response.headers_mut();
    sent.set_headers(headers, quoted(&blob.etag), blob.size, NO_CONTENT_TYPE);
    set_meta(headers, &blob.meta);
    headers.insert(UPLOADED, HeaderValue::from(blob.uploaded_ms));
    set_custom(headers, &blob.meta.custom);
    if *sent == Sent::NotModified {
        headers.remove(CONTENT_LENGTH);
    }
    response
}

fn set_custom(headers: &mut HeaderMap, custom: &BTreeMap<String, String>) {
    if custom.is_empty() {
        return;
    }
    let json = serde_json::to_string(custom).unwrap_or_default();
    if let Ok(value) = HeaderValue::try_from(utf8_percent_encode(&json, NON_ALPHANUMERIC).to_string()) {
        headers.insert(METADATA, value);
    }
}

/// Reads custom metadata as [`set_custom`] writes it.
fn custom(value: &HeaderValue) -> Result<BTreeMap<String, String>, Refusal> {
    let invalid = |why: String| {
        Refusal::invalid(format!("the header `{METADATA}` is no JSON object of strings, percent-encoded: {why}"))
    };
    let text = percent_decode_str(value.to_str().map_err(|error| invalid(error.to_string()))?);
    let json = text.decode_utf8().map_err(|error| invalid(error.to_string()))?;
    serde_json::from_str(&json).map_err(|error| invalid(error.to_string()))
}

#[derive(Serialize)]
struct List<'a> {
    blobs: Vec<Info<'a>>,
    prefixes: &'a [String],
    cursor: Option<&'a str>,
}

#[derive(Serialize)]
struct Info<'a> {
    key: &'a str,
    size: u64,
    etag: &'a str,
    uploaded_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_type: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_encoding: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_language: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_disposition: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cache_control: Option<&'a str>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    metadata: &'a BTreeMap<String, String>,
}

impl<'a> Info<'a> {
    fn of(blob: &'a Blob) -> Self {
        let meta = &blob.meta;
        Self {
            key: &blob.key,
            size: blob.size,
            etag: &blob.etag,
            uploaded_ms: blob.uploaded_ms,
            content_type: meta.content_type.as_deref(),
            content_encoding: meta.content_encoding.as_deref(),
            content_language: meta.content_language.as_deref(),
            content_disposition: meta.content_disposition.as_deref(),
            cache_control: meta.cache_control.as_deref(),
            metadata: &meta.custom,
        }
    }
}
