//! Key-value stores: `/kv/STORE/…`.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode,
    header::{CONTENT_TYPE, ETAG, IF_MATCH, IF_NONE_MATCH},
    request::Parts,
};
use hyper::body::Incoming;
use minnow_model::{Code, StoreKind};
use minnow_store::kv::{Entry, MAX_BATCH, MAX_BATCH_BYTES, MAX_PAGE, MAX_VALUE_BYTES, Write};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};

use super::{
    Base64, Bounded, Flags, LocalHttp,
    answer::{self, Body, Refusal, empty},
    number, only, parsed, query, time_to_live,
};
use crate::{data::Need, meter::now_ms};

/// As the control API has them.
const VERSION: HeaderName = HeaderName::from_static("minnow-version");
const EXPIRES: HeaderName = HeaderName::from_static("minnow-expires-ms");
const METADATA: HeaderName = HeaderName::from_static("minnow-metadata");

const KEY_METHODS: &str = "GET, HEAD, PUT, DELETE";

/// What follows a key that is to be incremented.
const INCREMENT: &str = "/increment";

/// How often a key that others write meanwhile is looked at anew before it is deleted.
const DELETE_TRIES: usize = 16;

/// The memory of a page, in bytes: keys of 2 KiB and metadata of 1 KiB, 1000 of them, and their numbers.
const PAGE_BYTES: usize = 4 << 20;

/// On what a write depends.
#[derive(Clone, Copy)]
enum OnlyIf {
    Always,
    Absent,
    Version(u64),
}

impl LocalHttp {
    pub(super) async fn kv_list(&self, head: &Parts, store: &str) -> Result<Response<Body>, Refusal> {
        only(&head.method, &Method::GET, "GET")?;
        let store = self.store(StoreKind::Kv, store, Need::Read)?;
        let (mut prefix, mut cursor, mut limit) = (String::new(), None, MAX_PAGE);
        query(head, |name, value| {
            match name {
                "prefix" => prefix = value,
                "cursor" => cursor = Some(value),
                "limit" => limit = number(name, &value)?,
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        let room = self.memory.expect(PAGE_BYTES)?;
        let page = self.data().kv.fetch_page(&store.store, &prefix, cursor.as_deref(), limit).await?;
        let keys = page.keys.into_iter();
        let keys = keys.map(|info| Key { key: info.key, metadata: info.metadata, expires_ms: info.expires_ms });
        answer::json(StatusCode::OK, &Keys { keys: keys.collect(), cursor: page.next }, &self.memory, Some(room))
    }

    pub(super) async fn kv_key(
        &self,
        head: &Parts,
        body: Incoming,
        flags: &Flags,
        store: &str,
        key: String,
    ) -> Result<Response<Body>, Refusal> {
        match head.method {
            Method::GET | Method::HEAD => self.kv_get(head, store, key).await,
            Method::PUT => self.kv_put(head, body, flags, store, key).await,
            Method::DELETE => self.kv_delete(head, store, key).await,
            Method::POST => match key.strip_suffix(INCREMENT) {
                Some(key) => self.kv_increment(head, body, flags, store, key).await,
                None => Err(Refusal::method(KEY_METHODS)),
            },
            _ => Err(Refusal::method(KEY_METHODS)),
        }
    }

    async fn kv_get(&self, head: &Parts, store: &str, key: String) -> Result<Response<Body>, Refusal> {
        let store = self.store(StoreKind::Kv, store, Need::Read)?;
        query(head, |_, _| Ok(false))?;
        let mut room = self.memory.expect(MAX_VALUE_BYTES)?;
        let found = self.data().kv.fetch(&store.store, vec![key.clone()]).await?.pop().flatten();
        let Some(entry) = found else { return Err(Refusal::no_key(&key)) };
        room.fill(entry.value.len())?;
        let headers = headers_of(&entry);
        let mut response = Response::new(answer::whole(answer::held(entry.value, room)));
        *response.headers_mut() = headers;
        Ok(response)
    }

    async fn kv_put(
        &self,
        head: &Parts,
        body: Incoming,
        flags: &Flags,
        store: &str,
        key: String,
    ) -> Result<Response<Body>, Refusal> {
        let store = self.store(StoreKind::Kv, store, Need::Write)?;
        let (mut life, mut metadata) = (Life::default(), None);
        query(head, |name, value| {
            match name {
                "ttl" => life.ttl = Some(value),
                "expires_ms" => life.expires_ms = Some(number(name, &value)?),
                "metadata" => metadata = Some(value),
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        let (expires_ms, only_if) = (life.ends()?, only_if(&head.headers)?);
        let (value, _room) = answer::whole_body(body, MAX_VALUE_BYTES, &self.memory, flags).await?;
        let write = Write::Set { key, value, metadata, expires_ms };
        let kv = &self.data().kv;
        match only_if {
            OnlyIf::Always => kv.write(&store.store, vec![write]).await?,
            OnlyIf::Absent => unless_changed(kv.compare_and_swap(&store.store, None, write).await?)?,
            OnlyIf::Version(version) => {
                unless_changed(kv.compare_and_swap(&store.store, Some(version), write).await?)?;
            }
        }
        Ok(empty(StatusCode::NO_CONTENT))
    }

    async fn kv_delete(&self, head: &Parts, store: &str, key: String) -> Result<Response<Body>, Refusal> {
        let store = self.store(StoreKind::Kv, store, Need::Write)?.store;
        query(head, |_, _| Ok(false))?;
        let kv = &self.data().kv;
        let delete = || Write::Delete { key: key.clone() };
        match only_if(&head.headers)? {
            OnlyIf::Absent => return Err(Refusal::invalid("`if-none-match: *` asks for a key that is not there")),
            OnlyIf::Version(version) => {
                unless_changed(kv.compare_and_swap(&store, Some(version), delete()).await?)?;
                return Ok(empty(StatusCode::NO_CONTENT));
            }
            OnlyIf::Always => {}
        }
        for _ in 0..DELETE_TRIES {
            let Some(version) = kv.fetch_version(&store, &key).await? else { return Err(Refusal::no_key(&key)) };
            if kv.compare_and_swap(&store, Some(version), delete()).await? {
                return Ok(empty(StatusCode::NO_CONTENT));
            }
        }
        // It was there all the time: somebody kept writing it.
        kv.write(&store, vec![delete()]).await?;
        Ok(empty(StatusCode::NO_CONTENT))
    }

    async fn kv_increment(
        &self,
        head: &Parts,
        body: Incoming,
        flags: &Flags,
        store: &str,
        key: &str,
    ) -> Result<Response<Body>, Refusal> {
        let store = self.store(StoreKind::Kv, store, Need::Write)?;
        query(head, |_, _| Ok(false))?;
        let by: Increment = match http_body::Body::is_end_stream(&body) {
            true => Increment { by: 1 },
            false => self.small(body, flags).await?,
        };
        let value = self.data().kv.increment(&store.store, key, by.by).await?;
        answer::json(StatusCode::OK, &Sum { value }, &self.memory, None)
    }

    pub(super) async fn kv_batch(
        &self,
        head: &Parts,
        body: Incoming,
        flags: &Flags,
        store: &str,
    ) -> Result<Response<Body>, Refusal> {
        only(&head.method, &Method::POST, "POST")?;
        query(head, |_, _| Ok(false))?;
        // Before the body, so that nobody sends it for nothing.
        self.store(StoreKind::Kv, store, Need::Read)?;
        let (bytes, _room) = answer::whole_body(body, MAX_VALUE_BYTES, &self.memory, flags).await?;
        // What is read from it is not longer than it.
        let _parsed = self.memory.expect(bytes.len())?;
        match parsed(&bytes)? {
            Batch::Get(keys) => {
                let store = self.store(StoreKind::Kv, store, Need::Read)?;
                let mut room = self.memory.expect(MAX_BATCH_BYTES)?;
                let found = self.data().kv.fetch(&store.store, keys.0).await?;
                room.fill(found.iter().flatten().map(|entry| entry.value.len()).sum())?;
                let entries = found.iter().map(|found| found.as_ref().map(BatchEntry::of)).collect();
                let response = answer::json(StatusCode::OK, &Entries { entries }, &self.memory, None);
                drop(room);
                response
            }
            Batch::Write(writes) => {
                let store = self.store(StoreKind::Kv, store, Need::Write)?;
                let writes = writes.0.into_iter().map(BatchWrite::read).collect::<Result<_, _>>()?;
                self.data().kv.write(&store.store, writes).await?;
                Ok(empty(StatusCode::NO_CONTENT))
            }
        }
    }
}

fn unless_changed(is_done: bool) -> Result<(), Refusal> {
    if is_done {
        return Ok(());
    }
    Err(Refusal::new(
        Code::PreconditionFailed,
        "the key is not as `if-match` or `if-none-match` asks for; nothing was changed",
    ))
}

/// A version is an etag here, so that a write can depend on it.
fn only_if(headers: &HeaderMap) -> Result<OnlyIf, Refusal> {
    let text = |name: HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or_default().trim());
    match (text(IF_MATCH), text(IF_NONE_MATCH)) {
        (None, None) => Ok(OnlyIf::Always),
        (None, Some("*")) => Ok(OnlyIf::Absent),
        (Some(tag), None) => {
            let version = tag.strip_prefix('"').and_then(|tag| tag.strip_suffix('"')).and_then(|tag| tag.parse().ok());
            version.map(OnlyIf::Version).ok_or_else(|| {
                Refusal::invalid("`if-match` is the `etag` of an earlier answer: the version in quotes, and only one")
            })
        }
        _ => Err(Refusal::invalid("a write depends on `if-match: \"VERSION\"` or on `if-none-match: *`")),
    }
}

fn headers_of(entry: &Entry) -> HeaderMap {
    let metadata = entry.metadata.as_deref().map(|text| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string());
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    for (name, value) in [
        (ETAG, Some(format!("\"{}\"", entry.version))),
        (VERSION, Some(entry.version.to_string())),
        (EXPIRES, entry.expires_ms.map(|ms| ms.to_string())),
        (METADATA, metadata),
    ] {
        if let Some(value) = value.and_then(|value| HeaderValue::try_from(value).ok()) {
            headers.insert(name, value);
        }
    }
    headers
}

/// When a key goes.
#[derive(Default)]
struct Life {
    ttl: Option<String>,
    expires_ms: Option<u64>,
}

impl Life {
    fn is_default(&self) -> bool {
        self.ttl.is_none() && self.expires_ms.is_none()
    }

    fn ends(self) -> Result<Option<u64>, Refusal> {
        match (self.ttl, self.expires_ms) {
            (Some(_), Some(_)) => Err(Refusal::invalid("`expires_ms` and `ttl` say the same; send one of them")),
            (None, at) => Ok(at),
            (Some(ttl), None) => {
                let ms = u64::try_from(time_to_live(&ttl)?.as_millis()).unwrap_or(u64::MAX);
                Ok(Some(now_ms().saturating_add(ms)))
            }
        }
    }
}

#[derive(Serialize)]
struct Keys {
    keys: Vec<Key>,
    cursor: Option<String>,
}

#[derive(Serialize)]
struct Key {
    key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_ms: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Increment {
    by: i64,
}

#[derive(Serialize)]
struct Sum {
    value: i64,
}

/// `{"get": [KEY, …]}` or `{"write": [{"key": …, …}, …]}`.
#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Batch {
    Get(Bounded<String, MAX_BATCH>),
    Write(Bounded<BatchWrite, MAX_BATCH>),
}

/// A key with its value as `text` or `base64`, or one that is to be deleted.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BatchWrite {
    key: String,
    text: Option<String>,
    base64: Option<String>,
    #[serde(default)]
    delete: bool,
    metadata: Option<String>,
    ttl: Option<String>,
    expires_ms: Option<u64>,
}

impl BatchWrite {
    fn read(self) -> Result<Write, Refusal> {
        let Self { key, text, base64, delete, metadata, ttl, expires_ms } = self;
        let life = Life { ttl, expires_ms };
        let value: Bytes = match (text, base64, delete) {
            (Some(text), None, false) => text.into(),
            (None, Some(text), false) => BASE64_STANDARD
                .decode(text)
                .map_err(|error| Refusal::invalid(format!("the `base64` of `{key:.64}` cannot be read: {error}")))?
                .into(),
            (None, None, true) if metadata.is_none() && life.is_default() => return Ok(Write::Delete { key }),
            _ => {
                return Err(Refusal::invalid(format!(
                    "a write has one of `text`, `base64` and, alone, `\"delete\": true`; that of `{key:.64}` has not"
                )));
            }
        };
        Ok(Write::Set { key, value, metadata, expires_ms: life.ends()? })
    }
}

#[derive(Serialize)]
struct Entries<'a> {
    /// In the order of the keys; `null` where there is none.
    entries: Vec<Option<BatchEntry<'a>>>,
}

#[derive(Serialize)]
struct BatchEntry<'a> {
    /// The value where it is UTF-8, otherwise `base64`.
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    base64: Option<Base64<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_ms: Option<u64>,
    version: u64,
}

impl<'a> BatchEntry<'a> {
    fn of(entry: &'a Entry) -> Self {
        let text = std::str::from_utf8(&entry.value).ok();
        Self {
            text,
            base64: text.is_none().then_some(Base64(&entry.value)),
            metadata: entry.metadata.as_deref(),
            expires_ms: entry.expires_ms,
            version: entry.version,
        }
    }
}
