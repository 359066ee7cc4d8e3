//! Signed URLs: blobs that clients read and write without a function.
//!
//! The signature is checked before anything is looked up, so that nobody learns from a URL that was not given out whether there
//! is a blob, a bucket or an app that has one. What users upload is served as content of nobody's: it runs in no page of the
//! app.

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use http::{
    HeaderMap, HeaderValue, Method, Response, StatusCode,
    header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG},
    request,
};
use http_body::Body as HttpBody;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use minnow_model::{Code, Origin, Problem};
use minnow_runtime::{
    BodyError, LiveApp,
    data::{
        Granted,
        blob_headers::{self, NO_CONTENT_TYPE, conditions, quoted, set_meta},
        range::Sent,
        signed::{Refused, SignedMethod, SignedUrl},
    },
};
use minnow_store::{
    BucketError, StoreError,
    bucket::{Blob, Bucket, Conditions, Got, INLINE_BYTES, MAX_BLOB_BYTES, Meta, Range},
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout},
};

use crate::{
    body::{BlobBody, Content, RequestBody},
    config::{ALL_EARLY_BYTES, BLOBS_SENT, EARLY_BYTES, FILE_PIECE_BYTES},
    connection::Connection,
    cors,
    files::OpenFile,
    refusal::Refusal,
    worker::Node,
};

/// How often a blob is opened anew that was replaced after its etag was compared, before the client is told to try again.
const OPEN_TRIES: usize = 3;

/// What the clients with signed URLs may take of the node at once.
pub(crate) struct BlobPlaces {
    /// Blobs that are being sent.
    sent: Arc<Semaphore>,
    /// Bytes of the beginnings of uploads.
    early: Arc<Semaphore>,
}

impl Default for BlobPlaces {
    fn default() -> Self {
        Self { sent: Arc::new(Semaphore::new(BLOBS_SENT)), early: Arc::new(Semaphore::new(ALL_EARLY_BYTES)) }
    }
}

impl BlobPlaces {
    /// A place for a blob of so many bytes that is sent; `None` for one that is small, and in memory anyway.
    fn send(&self, size: u64) -> Result<Option<OpenFile>, Refusal> {
        if size <= INLINE_BYTES as u64 {
            return Ok(None);
        }
        Ok(Some(Arc::clone(&self.sent).try_acquire_owned().map_err(|_| Code::NodeOverloaded)?))
    }

    /// The first [`EARLY_BYTES`] of an upload, less where it ends before, or where the memory for beginnings is used up.
    async fn begin(
        &self,
        patience: &mut Patience,
        body: &mut (impl HttpBody<Data = Bytes, Error = BodyError> + Unpin),
        most: u64,
    ) -> Result<Beginning, Refusal> {
        let mut beginning = BytesMut::new();
        let mut held = Vec::new();
        let is_whole = loop {
            let Some(piece) = patience.wait(body, most).await? else { break true };
            beginning.extend_from_slice(&piece);
            let bytes = u32::try_from(piece.len()).unwrap_or(u32::MAX);
            match Arc::clone(&self.early).try_acquire_many_owned(bytes) {
                Ok(more) if beginning.len() < EARLY_BYTES => match held.first_mut() {
                    Some(held) => OwnedSemaphorePermit::merge(held, more),
                    None => held.push(more),
                },
                _ => break false,
            }
        };
        Ok(Beginning { content: beginning.freeze(), is_whole, _held: held })
    }
}

/// The beginning of an upload.
struct Beginning {
    content: Bytes,
    /// Whether nothing comes after it.
    is_whole: bool,
    _held: Vec<OwnedSemaphorePermit>,
}

/// Answers a request to a signed URL of `app`, and counts it.
pub(crate) async fn answer(
    connection: &Arc<Connection>,
    app: &LiveApp,
    head: &request::Parts,
    incoming: Incoming,
) -> Result<Response<Content>, Refusal> {
    let metrics = &connection.worker.node.metrics;
    let answered = serve(connection, app, head, incoming).await;
    match &answered {
        Ok(response) => metrics.blob_request(response.status().as_u16(), None),
        Err(refusal) => metrics.blob_request(refusal.problem.status, Some(refusal.problem.code)),
    }
    answered
}

async fn serve(
    connection: &Arc<Connection>,
    app: &LiveApp,
    head: &request::Parts,
    incoming: Incoming,
) -> Result<Response<Content>, Refusal> {
    let node = &*connection.worker.node;
    if head.method == Method::OPTIONS {
        return cors::preflight(head, |method| verify(node, app, method, head).map(|(url, _)| origins(app, &url)));
    }
    let (url, place) = verify(node, app, head.method.as_str(), head)?;
    let cors = cors::headers(&origins(app, &url), &head.headers);
    let answered = match url.method {
        SignedMethod::Get => download(node, &url, place.buckets, head).await,
        SignedMethod::Put => upload(connection, url, &place, head, incoming).await,
    };
    // A page is told of refusals, too.
    match answered {
        Ok(mut response) => {
            response.headers_mut().extend(cors);
            Ok(response)
        }
        Err(refusal) => Err(Refusal { headers: cors, ..refusal }),
    }
}

/// The origins that live versions let use signed URLs of the bucket.
fn origins<'a>(app: &'a LiveApp, url: &SignedUrl) -> Vec<&'a Origin> {
    app.shares.iter().filter_map(|(_, version)| version.cors.get(&url.store.name)).flatten().collect()
}

/// A bucket as the live versions have it.
struct Place {
    /// Keeps the app's data where it is.
    buckets: Arc<Granted>,
    /// The largest size that a live version gives it.
    size_bytes: u64,
}

/// What the request's URL means, if it was signed for the method, and the bucket, if a live version has it.
fn verify(node: &Node, app: &LiveApp, method: &str, head: &request::Parts) -> Result<(SignedUrl, Place), Refusal> {
    let all = || app.shares.iter().map(|(_, version)| &version.buckets);
    // The app's tenant is that of its buckets; without one there is nothing to sign.
    let any = all().find_map(|buckets| buckets.blob.values().next()).ok_or(Code::SignatureInvalid)?;
    let signer = &node.runtime.data().signer;
    let uri = &head.uri;
    let url =
        signer.verify(&any.store.tenant, &app.name, method, uri.path(), uri.query()).map_err(
            |refused| match refused {
                Refused::Signature => Code::SignatureInvalid,
                Refused::Expired => Code::SignatureExpired,
            },
        )?;
    let declared = all().filter_map(|buckets| Some((buckets, buckets.blob.get(url.store.name.as_str())?)));
    let (buckets, bucket) = declared.max_by_key(|(_, bucket)| bucket.size_bytes).ok_or(Code::SignatureInvalid)?;
    Ok((url, Place { buckets: Arc::clone(buckets), size_bytes: bucket.size_bytes }))
}

/// Answers a GET or HEAD.
async fn download(
    node: &Node,
    url: &SignedUrl,
    buckets: Arc<Granted>,
    head: &request::Parts,
) -> Result<Response<Content>, Refusal> {
    let all = &node.runtime.data().buckets;
    for _ in 0..OPEN_TRIES {
        let found = all.head(&url.store, &url.key).await.map_err(|error| refused(url, error))?;
        let Some(blob) = found else { return Err(Code::NotFound.into()) };
        let etag = quoted(&blob.etag);
        let sent = Sent::of(&head.method, &head.headers, etag.to_str().unwrap_or_default(), blob.size);
        let range = sent.range(blob.size);
        if range.is_empty() || head.method == Method::HEAD {
            return Ok(described(&blob, etag, &sent, Content::Empty));
        }
        let held = node.blob_places.send(blob.size)?;
        // That it is still what was looked at.
        let only_if = Conditions { if_match: Some(vec![blob.etag.clone()]), ..Conditions::default() };
        let part = Range::From { offset: range.start, length: Some(range.end - range.start) };
        match all.get(&url.store, &url.key, &only_if, Some(part)).await {
            Ok(Got::Found { content, .. }) => {
                let body = BlobBody::new(content, held, buckets);
                return Ok(described(&blob, etag, &sent, Content::Blob(body)));
            }
            Ok(Got::Absent | Got::Unmet(_)) => {}
            Err(error) => return Err(refused(url, error)),
        }
    }
    Err(Code::NodeOverloaded.into())
}

/// The answer with (some of) a blob.
fn described(blob: &Blob, etag: HeaderValue, sent: &Sent, content: Content) -> Response<Content> {
    let mut response = Response::new(content);
    *response.status_mut() = sent.status();
    let headers = response.headers_mut();
    sent.set_headers(headers, etag, blob.size, NO_CONTENT_TYPE);
    // A URL is for whoever was given it, and what it names may change.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("private, max-age=0, must-revalidate"));
    set_meta(headers, &blob.meta);
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox"));
    response
}

/// Takes a PUT, and answers once the blob is on the disk.
async fn upload(
    connection: &Arc<Connection>,
    url: SignedUrl,
    place: &Place,
    head: &request::Parts,
    incoming: Incoming,
) -> Result<Response<Content>, Refusal> {
    let node = &*connection.worker.node;
    let meta = meta_of(&url, &head.headers)?;
    let most = url.max_size.unwrap_or(MAX_BLOB_BYTES).min(MAX_BLOB_BYTES);
    if incoming.size_hint().lower() > most {
        return Err(too_large(most));
    }
    let bucket = Bucket { store: &url.store, size_bytes: place.size_bytes };
    let only_if = conditions(&head.headers);
    let refused = |error| refused(&url, error);
    let buckets = &node.runtime.data().buckets;
    // It is decided at the end. But a client that has to be refused need not send all of it first.
    if only_if != Conditions::default() {
        let there = buckets.head(&url.store, &url.key).await.map_err(refused)?;
        if !only_if.hold(there.as_ref()) {
            return Err(Code::PreconditionFailed.into());
        }
    }
    let mut body = RequestBody::new(incoming, most, Arc::clone(connection));
    let mut patience = Patience::new(node.config.write_timeout);
    let beginning = node.blob_places.begin(&mut patience, &mut body, most).await?;
    let put = if beginning.is_whole {
        buckets.put_bytes(bucket, url.key.clone(), meta, only_if, beginning.content).await.map_err(refused)?
    } else {
        let mut upload = buckets.put_of_client(bucket, url.key.clone(), meta, only_if).await.map_err(refused)?;
        upload.write(beginning.content.clone()).await.map_err(refused)?;
        drop(beginning);
        while let Some(piece) = patience.wait(&mut body, most).await? {
            upload.write(piece).await.map_err(refused)?;
        }
        upload.finish().await.map_err(refused)?
    };
    let Some(blob) = put else {
        return Err(Code::PreconditionFailed.into());
    };
    let mut response = Response::new(Content::Empty);
    *response.status_mut() = StatusCode::CREATED;
    response.headers_mut().insert(ETAG, quoted(&blob.etag));
    Ok(response)
}

/// How long a client may still take for its next 64 KiB.
struct Patience {
    whole: Duration,
    left: Duration,
    came: usize,
}

impl Patience {
    fn new(whole: Duration) -> Self {
        Self { whole, left: whole, came: 0 }
    }

    /// The next piece of the body; `None` at its end.
    async fn wait(
        &mut self,
        body: &mut (impl HttpBody<Data = Bytes, Error = BodyError> + Unpin),
        most: u64,
    ) -> Result<Option<Bytes>, Refusal> {
        loop {
            let began = Instant::now();
            let frame = timeout(self.left, body.frame()).await.map_err(|_| Refusal::from(Code::RequestTimeout))?;
            match frame {
                None => return Ok(None),
                Some(Ok(frame)) => {
                    // Trailers are of no use here.
                    let Ok(piece) = frame.into_data() else { continue };
                    self.note(piece.len(), began.elapsed());
                    return Ok(Some(piece));
                }
                Some(Err(BodyError::TooLarge(_))) => return Err(too_large(most)),
                Some(Err(BodyError::Disconnected | BodyError::Guest)) => {
                    return Err(Refusal::bad_request("the upload broke off"));
                }
            }
        }
    }

    /// Notes that so many bytes came after so long. What the disk takes in between is not the client's.
    fn note(&mut self, bytes: usize, waited: Duration) {
        self.left = self.left.saturating_sub(waited);
        self.came += bytes;
        if self.came >= FILE_PIECE_BYTES {
            *self = Self::new(self.whole);
        }
    }
}

/// What is kept of an upload beside its content. Caching is not for the client to say: browsers send `cache-control` for
/// themselves.
fn meta_of(url: &SignedUrl, headers: &HeaderMap) -> Result<Meta, Refusal> {
    let mut meta = blob_headers::meta(headers).map_err(|error| Refusal::bad_request(error.to_string()))?;
    meta.cache_control = None;
    let Some(signed) = &url.content_type else { return Ok(meta) };
    // A client that names none agrees.
    if headers.get_all(CONTENT_TYPE).iter().any(|sent| sent.as_bytes() != signed.as_bytes()) {
        let detail = format!("the URL is for an upload with the header `content-type: {signed}`");
        return Err(Box::new(Problem::new(Code::SignatureInvalid).detail(detail)).into());
    }
    meta.content_type = Some(signed.clone());
    Ok(meta)
}

fn too_large(most: u64) -> Refusal {
    Box::new(Problem::new(Code::TooLarge).detail(format!("the URL is for at most {most} bytes"))).into()
}

/// What the client is told of a bucket that did not do what it was asked to. Strangers hold signed URLs: nothing of the node's
/// files.
fn refused(url: &SignedUrl, error: BucketError) -> Refusal {
    match error {
        BucketError::TooLarge => too_large(MAX_BLOB_BYTES),
        BucketError::Full { .. } | BucketError::DiskFull => Code::StorageFull.into(),
        BucketError::BadMeta(detail) | BucketError::BadKey(detail) => Refusal::bad_request(detail),
        BucketError::Busy { .. }
        | BucketError::Changing { .. }
        | BucketError::Store(StoreError::TooManyOpen { .. } | StoreError::Aborted) => Code::NodeOverloaded.into(),
        BucketError::Gone | BucketError::Store(StoreError::BeingDeleted) => Code::NotFound.into(),
        BucketError::Store(StoreError::Stopped) => Code::ShuttingDown.into(),
        error => {
            tracing::error!(app = %url.store.app, bucket = %url.store.name, %error, "a signed URL cannot be served");
            Code::Internal.into()
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::{StreamExt as _, stream};
    use http_body::Frame;
    use http_body_util::StreamBody;
    use minnow_model::{StoreId, Tenant};

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn url(content_type: Option<&str>) -> SignedUrl {
        SignedUrl {
            store: StoreId {
                tenant: Tenant::default(),
                app: "shop".parse().unwrap(),
                name: "uploads".parse().unwrap(),
            },
            key: "a".into(),
            method: SignedMethod::Put,
            expires_s: 0,
            max_size: None,
            content_type: content_type.map(Into::into),
        }
    }

    /// A client that sends so many pieces, each after a while.
    fn client(pieces: usize, bytes: usize, every: Duration) -> impl HttpBody<Data = Bytes, Error = BodyError> + Unpin {
        let pieces = stream::iter(0..pieces).then(move |_| async move {
            tokio::time::sleep(every).await;
            Ok(Frame::data(Bytes::from(vec![0; bytes])))
        });
        StreamBody::new(Box::pin(pieces))
    }

    /// How many bytes come of an upload, whose writing takes its time too, and how it ends.
    async fn take(
        mut body: impl HttpBody<Data = Bytes, Error = BodyError> + Unpin,
        disk: Duration,
    ) -> (usize, Option<Code>) {
        let (mut patience, mut came) = (Patience::new(MINUTE), 0);
        loop {
            match patience.wait(&mut body, 1 << 30).await {
                Ok(Some(piece)) => came += piece.len(),
                Ok(None) => return (came, None),
                Err(refusal) => return (came, Some(refusal.problem.code)),
            }
            tokio::time::sleep(disk).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_uploads_too_slowly_is_given_up() {
        let second = Duration::from_secs(1);
        for (what, body, disk, expected) in [
            ("one byte a second", client(1000, 1, second), Duration::ZERO, (60, Some(Code::RequestTimeout))),
            ("nothing at all", client(1, 1, MINUTE * 2), Duration::ZERO, (0, Some(Code::RequestTimeout))),
            ("two kilobytes a second", client(1000, 2048, second), Duration::ZERO, (2_048_000, None)),
            ("64 KiB each 59 seconds", client(10, 65_536, second * 59), Duration::ZERO, (655_360, None)),
            ("a disk that is slow", client(100, 1, second / 10), MINUTE * 2, (100, None)),
        ] {
            assert_eq!(take(body, disk).await, expected, "{what}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_upload_takes_a_place_when_enough_of_it_is_there() {
        let begin = async |places: &BlobPlaces, mut body| {
            let begun = places.begin(&mut Patience::new(MINUTE), &mut body, 1 << 30).await;
            begun.map(|begun| (begun.content.len(), begun.is_whole)).map_err(|refusal| refusal.problem.code)
        };
        let places = BlobPlaces::default();
        let second = Duration::from_secs(1);
        assert_eq!(begin(&places, client(3, 10_000, second)).await, Ok((30_000, true)), "small: it takes none");
        assert_eq!(begin(&places, client(0, 0, second)).await, Ok((0, true)));
        assert_eq!(begin(&places, client(100, 65_536, second)).await, Ok((EARLY_BYTES, false)), "large");
        assert_eq!(begin(&places, client(1000, 1, second)).await, Err(Code::RequestTimeout), "slow: it gets none");
        assert_eq!(places.early.available_permits(), ALL_EARLY_BYTES);
        let _all = Arc::clone(&places.early).try_acquire_many_owned(ALL_EARLY_BYTES as u32).unwrap();
        assert_eq!(begin(&places, client(3, 10_000, second)).await, Ok((10_000, false)), "no memory: at once");
    }

    #[test]
    fn blobs_that_are_sent_are_bounded_and_small_ones_take_no_place() {
        let places = BlobPlaces::default();
        let large = INLINE_BYTES as u64 + 1;
        let mut held: Vec<_> = (0..BLOBS_SENT).map(|_| places.send(large).unwrap().unwrap()).collect();
        assert_eq!(places.send(large).unwrap_err().problem.code, Code::NodeOverloaded);
        assert!(places.send(INLINE_BYTES as u64).unwrap().is_none());
        held.pop();
        assert!(places.send(large).is_ok());
    }

    #[test]
    fn what_is_kept_of_an_upload_is_what_was_signed_or_sent() {
        let png = HeaderValue::from_static("image/png");
        let meta = |signed: Option<&str>, sent: Option<&HeaderValue>| {
            let headers = sent.map(|value| (CONTENT_TYPE, value.clone())).into_iter();
            let headers = headers.chain([(CACHE_CONTROL, HeaderValue::from_static("no-store"))]).collect();
            meta_of(&url(signed), &headers).map(|meta| meta.content_type).map_err(|refusal| refusal.problem.code)
        };
        let is_png = || Ok(Some("image/png".to_owned()));
        assert_eq!(meta(None, Some(&png)), is_png());
        assert_eq!(meta(None, None), Ok(None));
        assert_eq!(meta(Some("image/png"), None), is_png());
        assert_eq!(meta(Some("image/png"), Some(&png)), is_png());
        assert_eq!(meta(Some("image/gif"), Some(&png)), Err(Code::SignatureInvalid));
        let bad = HeaderValue::from_bytes(b"\xff").unwrap();
        assert_eq!(meta(None, Some(&bad)), Err(Code::BadRequest));
        let headers = [(CACHE_CONTROL, HeaderValue::from_static("no-store"))].into_iter().collect();
        assert_eq!(meta_of(&url(None), &headers).unwrap(), Meta::default(), "browsers send it for themselves");
    }
}
