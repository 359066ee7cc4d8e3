//! Blobs on their way in and out, as streams of `wasi:io`. Of each, the host has a piece or two in memory: a guest that writes
//! faster than the disk waits, and nothing is read that the guest does not ask for, but for one piece ahead.

use std::{
    future::poll_fn,
    mem,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker},
};

use bytes::{Bytes, BytesMut};
use minnow_store::{
    BucketError,
    bucket::{Blob, Content, PIECE_BYTES, Upload},
};
use tracing::Span;
use wasmtime_wasi_io::{
    async_trait,
    poll::Pollable,
    streams::{InputStream, OutputStream, StreamError, StreamResult},
};

use super::failure::Failure;
use crate::data;

/// Blobs that a sandbox may have on their way at once, in and out together. Each upload has up to 2 MiB in memory, as the store
/// has it, and a piece of 256 KiB; each body that is read two pieces.
pub(super) const MAX_STREAMS: u32 = 64;

/// How many blobs of a sandbox are on their way. The count is made with the first one.
#[derive(Default)]
pub(super) struct Streams(Option<Arc<AtomicU32>>);

impl Streams {
    pub(super) fn is_any(&self) -> bool {
        self.0.as_ref().is_some_and(|count| count.load(Relaxed) > 0)
    }

    /// Counts one more, until what is returned is dropped.
    pub(super) fn open<E>(&mut self) -> Result<Counted, Failure<E>> {
        let count = self.0.get_or_insert_default();
        // Only the sandbox's own thread adds.
        if count.load(Relaxed) >= MAX_STREAMS {
            return Err(Failure::Refused(format!(
                "{MAX_STREAMS} uploads and bodies of blobs are open, which is the most; finish or drop one first"
            )));
        }
        count.fetch_add(1, Relaxed);
        Ok(Counted(Arc::clone(count)))
    }
}

/// One blob on its way.
pub(super) struct Counted(Arc<AtomicU32>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// Work of the store that goes on while the guest does something else.
type Step<T> = Pin<Box<dyn Future<Output = Result<T, BucketError>> + Send>>;

/// Looks whether a step has ended, and lets it begin, without anybody who waits for it.
fn glance() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

/// What went wrong, as a guest hears of it from a stream; once, then the stream is closed.
struct Fault {
    error: BucketError,
    is_told: bool,
}

impl Fault {
    fn new(error: BucketError) -> Self {
        Self { error, is_told: false }
    }

    fn tell(&mut self, span: &Span) -> StreamError {
        if mem::replace(&mut self.is_told, true) {
            return StreamError::Closed;
        }
        let told = span.in_scope(|| data::told(&self.error, self.error.is_refusal()));
        StreamError::LastOperationFailed(wasmtime::Error::msg(told))
    }
}

/// An upload: what the guest's handle and the stream of its body have in common.
#[derive(Clone)]
pub struct Uploading(Arc<Mutex<Writing>>);

struct Writing {
    sink: Sink,
    has_body: bool,
    span: Span,
    _counted: Counted,
}

enum Sink {
    /// The guest has not said yet which blob it is to be (`wasi:blobstore`): what it has written so far, at most
    /// [`PIECE_BYTES`].
    Nowhere(BytesMut),
    Idle(Box<Upload>),
    Busy(Step<Box<Upload>>),
    Failed(Fault),
    /// Finished, or given up.
    Closed,
}

impl Uploading {
    /// `None`: the guest is still to say where it goes, with [`Uploading::begin`].
    pub(super) fn new(upload: Option<Upload>, span: Span, counted: Counted) -> Self {
        let sink = upload.map_or(Sink::Nowhere(BytesMut::new()), |upload| Sink::Idle(Box::new(upload)));
        Self(Arc::new(Mutex::new(Writing { sink, has_body: false, span, _counted: counted })))
    }

    fn lock(&self) -> MutexGuard<'_, Writing> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it has no place yet.
    pub(super) fn is_nowhere(&self) -> bool {
        matches!(self.lock().sink, Sink::Nowhere(_))
    }

    /// What was written until now is the beginning of this upload.
    pub(super) fn begin(&self, upload: Upload) {
        let mut writing = self.lock();
        if let Sink::Nowhere(written) = mem::replace(&mut writing.sink, Sink::Idle(Box::new(upload)))
            && !written.is_empty()
        {
            writing.write(written.freeze());
        }
    }

    /// The stream to write to, the first time.
    pub(super) fn body(&self) -> Option<Body> {
        let mut writing = self.lock();
        (!mem::replace(&mut writing.has_body, true)).then(|| Body(self.clone()))
    }

    /// Makes the blob of what was written. `Ok(None)`: the condition does not hold.
    pub(super) async fn finish(&self) -> Result<Option<Blob>, Failure<BucketError>> {
        let sink = mem::replace(&mut self.lock().sink, Sink::Closed);
        let upload = match sink {
            Sink::Idle(upload) => upload,
            Sink::Busy(step) => step.await?,
            Sink::Failed(fault) => return Err(fault.error.into()),
            Sink::Nowhere(_) => {
                let why = "nobody has said where the value goes; give it to `write-data` of a container first";
                return Err(Failure::Refused(why.into()));
            }
            Sink::Closed => return Err(Failure::Trap(wasmtime::format_err!("the upload has finished already"))),
        };
        Ok(upload.finish().await?)
    }

    /// Nothing is left of it, whatever the guest still holds.
    pub(super) fn give_up(&self) {
        self.lock().sink = Sink::Closed;
    }
}

impl Writing {
    /// Gives the store a piece, and lets it begin with it.
    fn write(&mut self, piece: Bytes) {
        self.sink = match mem::replace(&mut self.sink, Sink::Closed) {
            Sink::Idle(mut upload) => Sink::Busy(Box::pin(async move {
                upload.write(piece).await?;
                Ok(upload)
            })),
            Sink::Nowhere(mut written) => {
                written.extend_from_slice(&piece);
                Sink::Nowhere(written)
            }
            sink => sink,
        };
        let _ = self.poll_room(&mut glance());
    }

    /// What may be written now, in bytes; 0 while the guest has to wait.
    fn room(&mut self) -> StreamResult<usize> {
        match &mut self.sink {
            Sink::Idle(_) => Ok(PIECE_BYTES),
            Sink::Busy(_) => Ok(0),
            Sink::Failed(fault) => Err(fault.tell(&self.span)),
            Sink::Closed => Err(StreamError::Closed),
            Sink::Nowhere(written) => match PIECE_BYTES.saturating_sub(written.len()) {
                // Whoever waits here waits for ever.
                0 => Err(StreamError::LastOperationFailed(wasmtime::format_err!(
                    "{PIECE_BYTES} bytes were written and nobody has said where the value goes; give it to `write-data` of a container before its content"
                ))),
                room => Ok(room),
            },
        }
    }

    /// Ready when the guest may write, or has to be told something.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Sink::Busy(step) = &mut self.sink {
            let Poll::Ready(done) = step.as_mut().poll(cx) else { return Poll::Pending };
            self.sink = match done {
                Ok(upload) => Sink::Idle(upload),
                Err(error) => Sink::Failed(Fault::new(error)),
            };
        }
        Poll::Ready(())
    }
}

/// The content of an upload.
pub(super) struct Body(Uploading);

impl OutputStream for Body {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        let mut writing = self.0.lock();
        if bytes.len() > writing.room()? {
            return Err(StreamError::trap("more was written than `check-write` allowed"));
        }
        if !bytes.is_empty() {
            writing.write(bytes);
        }
        Ok(())
    }

    /// Nothing of a blob is there before its end, so there is nothing to hurry.
    fn flush(&mut self) -> StreamResult<()> {
        self.check_write().map(drop)
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        let mut writing = self.0.lock();
        let _ = writing.poll_room(&mut glance());
        writing.room()
    }
}

#[async_trait]
impl Pollable for Body {
    async fn ready(&mut self) {
        poll_fn(|cx| self.0.lock().poll_room(cx)).await;
    }
}

/// A blob that a guest reads.
pub struct Reading {
    source: Source,
    /// What has been read and the guest has not got yet.
    ahead: Bytes,
    span: Span,
    _counted: Counted,
}

enum Source {
    Idle(Content),
    Busy(Step<Option<(Content, Bytes)>>),
    Failed(Fault),
    End,
}

impl Reading {
    pub(super) fn new(content: Content, span: Span, counted: Counted) -> Self {
        Self { source: Source::Idle(content), ahead: Bytes::new(), span, _counted: counted }
    }

    /// Ready when something has been read, or there is nothing more to read.
    fn poll_ahead(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.ahead.is_empty() {
            self.source = match mem::replace(&mut self.source, Source::End) {
                Source::Idle(mut content) => Source::Busy(Box::pin(async move {
                    let piece = content.next().await?;
                    Ok(piece.map(|piece| (content, piece)))
                })),
                Source::Busy(mut step) => match step.as_mut().poll(cx) {
                    Poll::Pending => {
                        self.source = Source::Busy(step);
                        return Poll::Pending;
                    }
                    Poll::Ready(Ok(Some((content, piece)))) => {
                        self.ahead = piece;
                        Source::Idle(content)
                    }
                    Poll::Ready(Ok(None)) => Source::End,
                    Poll::Ready(Err(error)) => Source::Failed(Fault::new(error)),
                },
                source @ (Source::Failed(_) | Source::End) => {
                    self.source = source;
                    return Poll::Ready(());
                }
            };
        }
        Poll::Ready(())
    }

    /// All of it, which the caller knows to be short enough.
    pub(super) async fn whole(mut content: Content) -> Result<Vec<u8>, BucketError> {
        let mut bytes = Vec::with_capacity(usize::try_from(content.remaining()).unwrap_or(0));
        while let Some(piece) = content.next().await? {
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes)
    }
}

impl InputStream for Reading {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        let is_read = self.poll_ahead(&mut glance()).is_ready();
        if is_read && self.ahead.is_empty() {
            return Err(match &mut self.source {
                Source::Failed(fault) => fault.tell(&self.span),
                _ => StreamError::Closed,
            });
        }
        let piece = self.ahead.split_to(size.min(self.ahead.len()));
        if size > 0 && self.ahead.is_empty() {
            // The next one is on its way while the guest works on this one.
            let _ = self.poll_ahead(&mut glance());
        }
        Ok(piece)
    }
}

#[async_trait]
impl Pollable for Reading {
    async fn ready(&mut self) {
        poll_fn(|cx| self.poll_ahead(cx)).await;
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, time::Duration};

    use minnow_model::{StoreId, Tenant};
    use minnow_store::{
        Buckets,
        bucket::{Bucket, Conditions, Got, Meta},
    };

    use super::*;

    struct Fixture {
        buckets: Buckets,
        store: StoreId,
        streams: Streams,
        _temp: tempfile::TempDir,
    }

    impl Fixture {
        fn new() -> Self {
            let temp = tempfile::tempdir().unwrap();
            let buckets = Buckets::open(&temp.path().join("blob"), Arc::new(|| 0)).unwrap();
            let store =
                StoreId { tenant: Tenant::default(), app: "shop".parse().unwrap(), name: "uploads".parse().unwrap() };
            Self { buckets, store, streams: Streams::default(), _temp: temp }
        }

        async fn upload(&self, key: &str, size_bytes: u64) -> Upload {
            let bucket = Bucket { store: &self.store, size_bytes };
            self.buckets.put(bucket, key.into(), Meta::default(), Conditions::default()).await.unwrap()
        }

        fn counted(&mut self) -> Counted {
            self.streams.open::<BucketError>().map_err(|_| ()).unwrap()
        }

        async fn content(&self, key: &str) -> Option<Content> {
            match self.buckets.get(&self.store, key, &Conditions::default(), None).await.unwrap() {
                Got::Found { content, .. } => Some(content),
                Got::Absent | Got::Unmet(_) => None,
            }
        }
    }

    /// Writes as a guest does: what may be written, after a wait for it.
    async fn write(body: &mut Body, mut bytes: Bytes) -> StreamResult<()> {
        while !bytes.is_empty() {
            let room = body.write_ready().await?;
            body.write(bytes.split_to(room.min(bytes.len())))?;
        }
        Ok(())
    }

    #[tokio::test]
    async fn what_is_written_before_an_upload_has_a_place_is_its_beginning() {
        let mut fixture = Fixture::new();
        let uploading = Uploading::new(None, Span::none(), fixture.counted());
        let mut body = uploading.body().unwrap();
        assert!(uploading.body().is_none(), "there is one body");
        write(&mut body, Bytes::from_static(b"one, ")).await.unwrap();
        assert!(uploading.is_nowhere());
        uploading.begin(fixture.upload("a", 1 << 30).await);
        assert!(!uploading.is_nowhere());
        write(&mut body, Bytes::from_static(b"two")).await.unwrap();
        let blob = uploading.finish().await.map_err(|_| ()).unwrap().unwrap();
        assert_eq!(blob.size, 8);
        let content = fixture.content("a").await.unwrap();
        assert_eq!(Reading::whole(content).await.unwrap(), b"one, two");
        // The stream may be there longer than its upload.
        assert!(matches!(body.check_write(), Err(StreamError::Closed)));
        assert!(matches!(body.write(Bytes::from_static(b"late")), Err(StreamError::Closed)));
        assert!(matches!(uploading.finish().await, Err(Failure::Trap(_))));
    }

    #[tokio::test]
    async fn a_guest_that_writes_for_ever_without_a_place_is_told() {
        let mut fixture = Fixture::new();
        let uploading = Uploading::new(None, Span::none(), fixture.counted());
        let mut body = uploading.body().unwrap();
        write(&mut body, Bytes::from(vec![0; PIECE_BYTES])).await.unwrap();
        let Err(StreamError::LastOperationFailed(told)) = body.check_write() else { panic!("nothing is told") };
        assert!(told.to_string().contains("`write-data`"), "{told}");
        assert!(matches!(uploading.finish().await, Err(Failure::Refused(_))));
    }

    #[tokio::test]
    async fn what_fails_is_told_once_by_the_stream_and_then_by_the_end() {
        let mut fixture = Fixture::new();
        let uploading = Uploading::new(Some(fixture.upload("a", 1 << 20).await), Span::none(), fixture.counted());
        let mut body = uploading.body().unwrap();
        let written = write(&mut body, Bytes::from(vec![0; 2 << 20])).await;
        let Err(StreamError::LastOperationFailed(told)) = written else { panic!("nothing is told: {written:?}") };
        assert!(told.to_string().contains("the bucket is full"), "{told}");
        assert!(matches!(body.check_write(), Err(StreamError::Closed)));
        assert!(matches!(uploading.finish().await, Err(Failure::Service(BucketError::Full { .. }))));
        assert!(fixture.content("a").await.is_none());
    }

    #[tokio::test]
    async fn more_than_may_be_written_ends_the_guest() {
        let mut fixture = Fixture::new();
        let uploading = Uploading::new(Some(fixture.upload("a", 1 << 30).await), Span::none(), fixture.counted());
        let mut body = uploading.body().unwrap();
        assert_eq!(body.check_write().unwrap(), PIECE_BYTES);
        assert!(matches!(body.write(Bytes::from(vec![0; PIECE_BYTES + 1])), Err(StreamError::Trap(_))));
        uploading.give_up();
        assert!(matches!(body.check_write(), Err(StreamError::Closed)));
    }

    #[tokio::test]
    async fn a_reader_is_one_piece_ahead_and_no_more() {
        let mut fixture = Fixture::new();
        let uploading = Uploading::new(Some(fixture.upload("a", 1 << 30).await), Span::none(), fixture.counted());
        write(&mut uploading.body().unwrap(), Bytes::from(vec![7; 4 * PIECE_BYTES])).await.unwrap();
        uploading.finish().await.map_err(|_| ()).unwrap();
        let content = fixture.content("a").await.unwrap();
        let mut reading = Reading::new(content, Span::none(), fixture.counted());
        assert!(reading.ahead.is_empty(), "nothing is read before somebody asks");
        let first = tokio::time::timeout(Duration::from_secs(60), reading.blocking_read(usize::MAX)).await.unwrap();
        assert_eq!(first.unwrap().len(), PIECE_BYTES);
        poll_fn(|cx| reading.poll_ahead(cx)).await;
        let left = |reading: &Reading| match &reading.source {
            Source::Idle(content) => content.remaining(),
            _ => panic!("it goes on although nobody asks"),
        };
        assert_eq!((reading.ahead.len(), left(&reading)), (PIECE_BYTES, 2 * PIECE_BYTES as u64));
        // A piece that is not read whole keeps the next one away.
        assert_eq!(reading.read(1).unwrap().len(), 1);
        assert_eq!((reading.ahead.len(), left(&reading)), (PIECE_BYTES - 1, 2 * PIECE_BYTES as u64));
        let mut rest = 0;
        let end = loop {
            match reading.blocking_read(100_000).await {
                Ok(piece) => rest += piece.len(),
                Err(end) => break end,
            }
        };
        assert!(matches!(end, StreamError::Closed));
        assert_eq!(rest, 3 * PIECE_BYTES - 1);
    }

    #[test]
    fn a_sandbox_has_so_many_streams_and_no_more() {
        let mut streams = Streams::default();
        assert!(!streams.is_any());
        let mut open: Vec<Counted> = Vec::new();
        while let Ok(counted) = streams.open::<BucketError>() {
            open.push(counted);
        }
        assert_eq!(open.len(), MAX_STREAMS as usize);
        open.pop();
        assert!(streams.open::<BucketError>().is_ok() && streams.is_any());
        drop(open);
        assert!(!streams.is_any());
    }
}
