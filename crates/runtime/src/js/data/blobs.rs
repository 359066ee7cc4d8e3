//! Calls for buckets. What one frame does not hold goes in pieces: of a blob that is read, the invocation holds a reader here,
//! and of one that is written an upload. `bootstrap/blobs.js` makes the calls.

use std::{
    collections::{BTreeMap, HashMap},
    mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use minnow_model::StoreKind;
use minnow_store::bucket::{Blob, Bucket, Conditions, Content, Got, Meta, PIECE_BYTES, Range, Upload};
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    Call,
    failure::{Code, Failure},
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
/// Blobs that one process is reading at once: each is a file that the node has open. As many as its calls under way.
const MAX_READERS: usize = 256;
/// Uploads of one process at once: those of one bucket are bounded by as many, in the node.
const MAX_UPLOADS: usize = 64;

/// The uploads and readers of one invocation, by the numbers under which the process has them.
#[derive(Default)]
pub(crate) struct HeldBlobs {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    has_ended: bool,
    held: HashMap<u64, Entry>,
}

/// What is under a number. A number that a call uses stays: whoever gives it up in the meantime finds it.
enum Entry {
    Here(Held),
    /// A call uses it.
    Used,
    /// A call uses it, and nobody wants it after that.
    GivenUp,
}

/// What was begun, with its place among those of the process.
struct Held {
    what: What,
    _place: OwnedSemaphorePermit,
}

enum What {
    Reader(Content),
    /// Several times as large as the other.
    Upload(Box<Upload>),
}

impl HeldBlobs {
    /// Gives up all of them: the invocation has ended. Of an upload nothing is left.
    pub(crate) fn release(&self) {
        let held = {
            let mut state = self.state();
            state.has_ended = true;
            mem::take(&mut state.held)
        };
        drop(held);
    }

    fn insert(&self, number: u64, held: Held) -> Result<(), Failure> {
        let mut state = self.state();
        if state.has_ended {
            return Err(Failure::ended());
        }
        state.held.insert(number, Entry::Here(held));
        Ok(())
    }

    /// Takes one out while a call uses it. A second call with its number finds nothing.
    fn take(&self, number: u64) -> Result<Taken<'_>, Failure> {
        let mut state = self.state();
        let place = state.held.get_mut(&number).ok_or_else(Failure::ended)?;
        match mem::replace(place, Entry::Used) {
            Entry::Here(held) => Ok(Taken { blobs: self, number, held: Some(held) }),
            used => {
                *place = used;
                Err(Failure::ended())
            }
        }
    }

    /// Gives one up: at once, or when the call that uses it is done. It may have failed or ended by itself.
    fn give_up(&self, number: u64) {
        let held = {
            let mut state = self.state();
            match state.held.get_mut(&number) {
                Some(Entry::Here(_)) => state.held.remove(&number),
                Some(used) => Some(mem::replace(used, Entry::GivenUp)),
                None => None,
            }
        };
        drop(held);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One that a call uses. When the call fails or is dropped, it is gone.
struct Taken<'a> {
    blobs: &'a HeldBlobs,
    number: u64,
    held: Option<Held>,
}

impl Taken<'_> {
    fn what(&mut self) -> Option<&mut What> {
        self.held.as_mut().map(|held| &mut held.what)
    }

    /// For the last call that uses it.
    fn keep(mut self) -> Option<What> {
        self.blobs.state().held.remove(&self.number);
        self.held.take().map(|held| held.what)
    }

    /// Puts it back for the next call, unless it was given up while this one used it.
    fn put_back(mut self) -> Result<(), Failure> {
        let mut state = self.blobs.state();
        if state.has_ended {
            return Err(Failure::ended());
        }
        if let Some(entry @ Entry::Used) = state.held.get_mut(&self.number)
            && let Some(held) = self.held.take()
        {
            *entry = Entry::Here(held);
        }
        Ok(())
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        // Not put back, so its number is of nothing any more.
        if self.held.is_some() {
            self.blobs.state().held.remove(&self.number);
        }
    }
}

/// What one process has begun of blobs.
pub(super) struct Begun {
    next: AtomicU64,
    readers: Arc<Semaphore>,
    uploads: Arc<Semaphore>,
}

impl Default for Begun {
    fn default() -> Self {
        Self {
            next: AtomicU64::new(1),
            readers: Arc::new(Semaphore::new(MAX_READERS)),
            uploads: Arc::new(Semaphore::new(MAX_UPLOADS)),
        }
    }
}

impl Begun {
    fn reader_place(&self) -> Result<OwnedSemaphorePermit, Failure> {
        Arc::clone(&self.readers).try_acquire_owned().map_err(|_| {
            let message = format!(
                "the function's process is reading {MAX_READERS} large blobs, which is the most; read or cancel the body \
                 of each blob that you get"
            );
            Failure::new(Code::TooMany, message)
        })
    }

    fn upload_place(&self) -> Result<OwnedSemaphorePermit, Failure> {
        Arc::clone(&self.uploads).try_acquire_owned().map_err(|_| {
            let message = format!(
                "{MAX_UPLOADS} uploads of the function's process are under way, which is the most; try again later"
            );
            Failure::new(Code::TooMany, message)
        })
    }

    fn hold(&self, blobs: &HeldBlobs, held: Held) -> Result<u64, Failure> {
        let number = self.next.fetch_add(1, Relaxed);
        blobs.insert(number, held)?;
        Ok(number)
    }
}

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
                            let held = Held { what: What::Reader(content), _place: begun.reader_place()? };
                            Some(begun.hold(&run()?.blobs, held)?)
                        }
                    };
                    let found = Found { offset: range.start, length: range.end.saturating_sub(range.start), reader };
                    Answer::Got { blob: Some(blob.into()), found: Some(found) }
                }
            })
        }
        Asks::Read { reader } => {
            let run = run()?;
            let mut taken = run.blobs.take(reader)?;
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
            let held = Held { what: What::Upload(Box::new(upload)), _place: place };
            Ok(Answer::Upload { upload: begun.hold(&run.blobs, held)? })
        }
        Asks::Write { upload: number } => {
            let run = run()?;
            let mut taken = run.blobs.take(number)?;
            let Some(What::Upload(upload)) = taken.what() else { return Err(Failure::malformed()) };
            write(upload, content).await?;
            taken.put_back()?;
            Ok(Answer::Done {})
        }
        Asks::Finish { upload } => {
            let Some(What::Upload(upload)) = run()?.blobs.take(upload)?.keep() else {
                return Err(Failure::malformed());
            };
            Ok(Answer::About { blob: upload.finish().await?.map(WireBlob::from) })
        }
        Asks::Close { reader: number } | Asks::Abort { upload: number } => {
            // An invocation that has ended has given up all of them.
            if let Ok(run) = run() {
                run.blobs.give_up(number);
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
    use minnow_model::{StoreId, Tenant};
    use minnow_store::Buckets;

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

    /// Uploads of one bucket, and their places among those of a process.
    struct Fixture {
        buckets: Buckets,
        store: StoreId,
        begun: Begun,
        _temp: tempfile::TempDir,
    }

    impl Fixture {
        fn new() -> Self {
            let temp = tempfile::tempdir().unwrap();
            let buckets = Buckets::open(&temp.path().join("blob"), Arc::new(|| 0)).unwrap();
            let store =
                StoreId { tenant: Tenant::default(), app: "shop".parse().unwrap(), name: "uploads".parse().unwrap() };
            Self { buckets, store, begun: Begun::default(), _temp: temp }
        }

        async fn held(&self) -> Held {
            let bucket = Bucket { store: &self.store, size_bytes: 1 << 20 };
            let upload = self.buckets.put(bucket, "a".into(), Meta::default(), Conditions::default()).await.unwrap();
            Held { what: What::Upload(Box::new(upload)), _place: self.begun.upload_place().map_err(|_| ()).unwrap() }
        }

        fn under_way(&self) -> usize {
            MAX_UPLOADS - self.begun.uploads.available_permits()
        }
    }

    fn code<T>(result: Result<T, Failure>) -> Option<Code> {
        result.err().map(|failure| failure.code)
    }

    #[tokio::test]
    async fn nothing_is_held_for_an_invocation_that_has_ended() {
        let (fixture, blobs) = (Fixture::new(), HeldBlobs::default());
        assert_eq!(code(blobs.take(1)), Some(Code::Ended), "there never was one");
        for number in [1, 2] {
            assert_eq!(code(blobs.insert(number, fixture.held().await)), None);
        }
        let used = blobs.take(1).map_err(|_| ()).unwrap();
        blobs.release();
        assert_eq!(fixture.under_way(), 1, "what a call uses is there until it is done");
        assert_eq!(code(used.put_back()), Some(Code::Ended));
        assert_eq!(code(blobs.insert(3, fixture.held().await)), Some(Code::Ended));
        assert_eq!(fixture.under_way(), 0);
        assert!(blobs.state().held.is_empty());
    }

    #[tokio::test]
    async fn what_is_given_up_while_a_call_uses_it_is_gone_after_the_call() {
        let (fixture, blobs) = (Fixture::new(), HeldBlobs::default());
        assert_eq!(code(blobs.insert(1, fixture.held().await)), None);
        let used = blobs.take(1).map_err(|_| ()).unwrap();
        assert_eq!(code(blobs.take(1)), Some(Code::Ended), "one call at a time");
        assert_eq!(code(used.put_back()), None);
        let used = blobs.take(1).map_err(|_| ()).unwrap();
        blobs.give_up(1);
        blobs.give_up(1);
        assert_eq!(fixture.under_way(), 1);
        assert_eq!(code(used.put_back()), None);
        assert_eq!((code(blobs.take(1)), fixture.under_way()), (Some(Code::Ended), 0));
        // One that nobody uses goes at once, and of one that is not there nothing is kept.
        assert_eq!(code(blobs.insert(2, fixture.held().await)), None);
        blobs.give_up(2);
        blobs.give_up(3);
        assert_eq!(fixture.under_way(), 0);
        assert!(blobs.state().held.is_empty());
    }

    #[tokio::test]
    async fn what_a_call_fails_with_or_ends_is_gone() {
        let (fixture, blobs) = (Fixture::new(), HeldBlobs::default());
        for is_last in [false, true] {
            assert_eq!(code(blobs.insert(1, fixture.held().await)), None);
            let used = blobs.take(1).map_err(|_| ()).unwrap();
            if is_last {
                assert!(used.keep().is_some());
            } else {
                drop(used);
            }
            assert_eq!((code(blobs.take(1)), fixture.under_way()), (Some(Code::Ended), 0));
            assert!(blobs.state().held.is_empty());
        }
    }
}
