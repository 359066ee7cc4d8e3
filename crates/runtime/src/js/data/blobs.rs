//! Calls for buckets. What one frame does not hold goes in pieces: of a blob that is read, the invocation holds a reader here,
//! and of one that is written an upload. `bootstrap/blobs.js` makes the calls.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use minnow_model::StoreKind;
use minnow_store::bucket::{Blob, Bucket, Conditions, Content, Got, Meta, PIECE_BYTES, Range, Upload};
use serde::{Deserialize, Serialize};

use super::{
    Call,
    failure::Failure,
    held::{Begun, What},
};
use crate::{
    Function,
    data::{
        GrantedStore, Need,
        signed::{SignRequest, SignedMethod},
    },
};

/// What one answer has of a blob: as much as the bootstrap sends in a call (BLOB_PIECE_BYTES), so that most blobs need one
/// answer, and the others few.
pub(super) const ANSWER_BYTES: usize = 1 << 20;
/// A call for a bucket, or for what was begun in one.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub(super) enum Asks {
    Head {
        key: String,
    },
    Get {
        key: String,
        only_if: Option<WireConditions>,
        range: Option<WireRange>,
    },
    Read {
        reader: u64,
    },
    Close {
        reader: u64,
    },
    /// With all of the content, or with `more` its first piece.
    Put {
        key: String,
        meta: WireMeta,
        only_if: Option<WireConditions>,
        more: bool,
    },
    Write {
        upload: u64,
    },
    Finish {
        upload: u64,
    },
    Abort {
        upload: u64,
    },
    Delete {
        keys: Vec<String>,
    },
    List {
        prefix: String,
        after: Option<String>,
        delimiter: Option<String>,
        limit: u64,
        /// Whether to answer with the headers that were kept, and with what the function added.
        http: bool,
        custom: bool,
    },
    Copy {
        from: String,
        to: String,
        only_if: Option<WireConditions>,
    },
    Sign {
        key: String,
        put: bool,
        expires_s: u64,
        max_size: Option<u64>,
        content_type: Option<String>,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct WireConditions {
    if_match: Option<Vec<String>>,
    if_none_match: Option<Vec<String>>,
    uploaded_before_ms: Option<u64>,
    uploaded_after_ms: Option<u64>,
}

#[derive(Deserialize)]
#[serde(untagged, deny_unknown_fields)]
pub(super) enum WireRange {
    Last { suffix: u64 },
    From { offset: u64, length: Option<u64> },
}

#[derive(Deserialize, Serialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct WireMeta {
    #[serde(skip_serializing_if = "Option::is_none")]
    content_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_encoding: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_language: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_disposition: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cache_control: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    custom: BTreeMap<String, String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub(super) enum Answer {
    /// `None`: there is none, or a condition does not hold.
    About {
        blob: Option<WireBlob>,
    },
    /// Without `blob` there is none; without `found` a condition does not hold.
    Got {
        blob: Option<WireBlob>,
        found: Option<Found>,
    },
    /// Bytes of a blob; `more`: the reader is still there.
    Piece {
        more: bool,
    },
    Upload {
        upload: u64,
    },
    Listed {
        blobs: Vec<WireBlob>,
        prefixes: Vec<String>,
        next: Option<String>,
    },
    Url {
        path: String,
    },
    Done {},
}

/// What is read of a blob; the frame has the first bytes of it.
#[derive(Serialize)]
pub(super) struct Found {
    offset: u64,
    length: u64,
    /// What has the rest.
    reader: Option<u64>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct WireBlob {
    key: String,
    size: u64,
    etag: String,
    uploaded_ms: u64,
    #[serde(flatten)]
    meta: WireMeta,
}

impl Asks {
    /// What its answer may take; 0: some hundred bytes.
    pub(super) fn most_bytes(&self) -> usize {
        match self {
            Self::Get { .. } | Self::Read { .. } => ANSWER_BYTES,
            // A thousand keys of 1 KiB; with what was kept beside them it is reckoned as the longest answer.
            Self::List { http: false, custom: false, .. } => ANSWER_BYTES,
            Self::List { .. } => super::MAX_FRAME_BYTES,
            _ => 0,
        }
    }
}

/// Makes one call. `name` is the bucket as the function knows it, `run` its invocation.
pub(super) async fn call(
    function: &Arc<Function>,
    name: &str,
    begun: &Begun,
    run: impl FnOnce() -> Result<Arc<Call>, Failure>,
    asked: Asks,
    content: Bytes,
    payload: &mut Vec<Bytes>,
) -> Result<Answer, Failure> {
    let data = function.runtime().data();
    let buckets = &data.buckets;
    let store = |need| Ok::<&GrantedStore, Failure>(function.store(StoreKind::Blob, name, need)?);
    match asked {
        Asks::Head { key } => {
            let blob = buckets.head(&store(Need::Read)?.store, &key).await?;
            Ok(Answer::About { blob: blob.map(WireBlob::from) })
        }
        Asks::Get { key, only_if, range } => {
            let store = &store(Need::Read)?.store;
            let only_if = only_if.map(Conditions::from).unwrap_or_default();
            Ok(match buckets.get(store, &key, &only_if, range.map(Range::from)).await? {
                Got::Absent => Answer::Got { blob: None, found: None },
                Got::Unmet(blob) => Answer::Got { blob: Some(blob.into()), found: None },
                Got::Found { blob, range, mut content } => {
                    read(&mut content, payload).await?;
                    let reader = match content.remaining() {
                        0 => None,
                        _ => {
                            let place = begun.reader_place()?;
                            Some(begun.hold(&run()?.open, What::Reader(content), place)?)
                        }
                    };
                    let found = Found { offset: range.start, length: range.end.saturating_sub(range.start), reader };
                    Answer::Got { blob: Some(blob.into()), found: Some(found) }
                }
            })
        }
        Asks::Read { reader } => {
            let run = run()?;
            let mut taken = run.open.take(reader)?;
            let Some(What::Reader(content)) = taken.what() else { return Err(Failure::malformed()) };
            read(content, payload).await?;
            let more = content.remaining() > 0;
            if more {
                taken.put_back()?;
            }
            Ok(Answer::Piece { more })
        }
        Asks::Put { key, meta, only_if, more } => {
            let GrantedStore { store, size_bytes, .. } = store(Need::Write)?;
            let bucket = Bucket { store, size_bytes: *size_bytes };
            let only_if = only_if.map(Conditions::from).unwrap_or_default();
            if !more {
                let blob = buckets.put_bytes(bucket, key, meta.into(), only_if, content).await?;
                return Ok(Answer::About { blob: blob.map(WireBlob::from) });
            }
            let (run, place) = (run()?, begun.upload_place()?);
            let mut upload = buckets.put(bucket, key, meta.into(), only_if).await?;
            write(&mut upload, content).await?;
            Ok(Answer::Upload { upload: begun.hold(&run.open, What::Upload(Box::new(upload)), place)? })
        }
        Asks::Write { upload: number } => {
            let run = run()?;
            let mut taken = run.open.take(number)?;
            let Some(What::Upload(upload)) = taken.what() else { return Err(Failure::malformed()) };
            write(upload, content).await?;
            taken.put_back()?;
            Ok(Answer::Done {})
        }
        Asks::Finish { upload } => {
            let Some(What::Upload(upload)) = run()?.open.take(upload)?.keep() else {
                return Err(Failure::malformed());
            };
            Ok(Answer::About { blob: upload.finish().await?.map(WireBlob::from) })
        }
        Asks::Close { reader: number } | Asks::Abort { upload: number } => {
            // An invocation that has ended has given up all of them.
            if let Ok(run) = run() {
                run.open.give_up(number);
            }
            Ok(Answer::Done {})
        }
        Asks::Delete { keys } => {
            buckets.delete(&store(Need::Write)?.store, keys).await?;
            Ok(Answer::Done {})
        }
        Asks::List { prefix, after, delimiter, limit, http, custom } => {
            let limit = u32::try_from(limit).unwrap_or(u32::MAX);
            let store = &store(Need::Read)?.store;
            let listed = buckets.list(store, &prefix, after.as_deref(), delimiter.as_deref(), limit).await?;
            let blobs = listed.blobs.into_iter().map(|blob| WireBlob::from(blob).with(http, custom)).collect();
            Ok(Answer::Listed { blobs, prefixes: listed.prefixes, next: listed.next })
        }
        Asks::Copy { from, to, only_if } => {
            let GrantedStore { store, size_bytes, .. } = store(Need::Write)?;
            let only_if = only_if.map(Conditions::from).unwrap_or_default();
            let bucket = Bucket { store, size_bytes: *size_bytes };
            let blob = buckets.copy((store, &from), bucket, to, only_if).await?;
            Ok(Answer::About { blob: blob.map(WireBlob::from) })
        }
        Asks::Sign { key, put, expires_s, max_size, content_type } => {
            let (need, method) = if put { (Need::Write, SignedMethod::Put) } else { (Need::Read, SignedMethod::Get) };
            let store = &store(need)?.store;
            let request = SignRequest { method, expires_in: Duration::from_secs(expires_s), max_size, content_type };
            Ok(Answer::Url { path: data.signer.sign(store, &key, &request)? })
        }
    }
}

/// The next bytes of a blob, as many as an answer has.
async fn read(content: &mut Content, payload: &mut Vec<Bytes>) -> Result<(), Failure> {
    let mut bytes = 0;
    while bytes + PIECE_BYTES <= ANSWER_BYTES {
        let Some(piece) = content.next().await? else { break };
        bytes += piece.len();
        payload.push(piece);
    }
    Ok(())
}

async fn write(upload: &mut Upload, mut content: Bytes) -> Result<(), Failure> {
    while !content.is_empty() {
        let piece = content.split_to(content.len().min(PIECE_BYTES));
        upload.write(piece).await?;
    }
    Ok(())
}

impl From<WireConditions> for Conditions {
    fn from(wire: WireConditions) -> Self {
        let WireConditions { if_match, if_none_match, uploaded_before_ms, uploaded_after_ms } = wire;
        Self { if_match, if_none_match, uploaded_before_ms, uploaded_after_ms }
    }
}

impl From<WireRange> for Range {
    fn from(wire: WireRange) -> Self {
        match wire {
            WireRange::Last { suffix } => Self::Last(suffix),
            WireRange::From { offset, length } => Self::From { offset, length },
        }
    }
}

impl From<WireMeta> for Meta {
    fn from(wire: WireMeta) -> Self {
        let WireMeta { content_type, content_encoding, content_language, content_disposition, cache_control, custom } =
            wire;
        Self { content_type, content_encoding, content_language, content_disposition, cache_control, custom }
    }
}

impl From<Blob> for WireBlob {
    fn from(blob: Blob) -> Self {
        let Blob { key, size, etag, uploaded_ms, meta } = blob;
        let Meta { content_type, content_encoding, content_language, content_disposition, cache_control, custom } =
            meta;
        let meta =
            WireMeta { content_type, content_encoding, content_language, content_disposition, cache_control, custom };
        Self { key, size, etag, uploaded_ms, meta }
    }
}

impl WireBlob {
    /// With what was asked for of what is kept beside it.
    fn with(mut self, http: bool, custom: bool) -> Self {
        if !custom {
            self.meta.custom = BTreeMap::new();
        }
        if !http {
            self.meta = WireMeta { custom: self.meta.custom, ..WireMeta::default() };
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_one_of_two_kinds_and_nothing_else() {
        let read = |json: &str| serde_json::from_str::<WireRange>(json).map(Range::from).ok();
        assert_eq!(read(r#"{"suffix":4}"#), Some(Range::Last(4)));
        assert_eq!(read(r#"{"offset":4}"#), Some(Range::From { offset: 4, length: None }));
        assert_eq!(read(r#"{"offset":0,"length":2}"#), Some(Range::From { offset: 0, length: Some(2) }));
        for odd in [r#"{}"#, r#"{"length":2}"#, r#"{"offset":-1}"#, r#"{"suffix":1,"offset":1}"#, r#"{"offset":1.5}"#] {
            assert_eq!(read(odd), None, "{odd}");
        }
    }

    #[test]
    fn a_list_tells_of_blobs_what_was_asked_for() {
        let blob = || {
            let custom = BTreeMap::from([("by".to_owned(), "ada".to_owned())]);
            let meta = Meta { content_type: Some("a/b".into()), custom, ..Meta::default() };
            WireBlob::from(Blob { key: "k".into(), size: 1, etag: "e".into(), uploaded_ms: 2, meta })
        };
        let known = r#"{"key":"k","size":1,"etag":"e","uploadedMs":2"#;
        for (http, custom, more) in [
            (false, false, ""),
            (true, false, r#","contentType":"a/b""#),
            (false, true, r#","custom":{"by":"ada"}"#),
            (true, true, r#","contentType":"a/b","custom":{"by":"ada"}"#),
        ] {
            assert_eq!(serde_json::to_string(&blob().with(http, custom)).unwrap(), format!("{known}{more}}}"));
        }
    }

    #[test]
    fn what_an_answer_holds_is_whole_pieces() {
        assert_eq!(ANSWER_BYTES % PIECE_BYTES, 0);
    }
}
