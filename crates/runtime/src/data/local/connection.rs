//! One connection of a guest: what it writes goes to hyper, and what hyper answers is there to read.
//!
//! The serving end goes on when the guest reads or writes, on the guest's time. A call that has to wait for something also has a
//! task, the [`drive`]r: what it holds meanwhile (a reader of a database, a place in a queue, a lock) others wait for, and the guest
//! may look here again much later or never. It ends with the connection.

use std::{
    future::poll_fn,
    io,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, Wake, Waker, ready},
};

use bytes::{Buf as _, Bytes};
use futures::task::AtomicWaker;
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use minnow_model::Code;
use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf, duplex},
    task::JoinSet,
};

use super::{LocalHttp, answer::Refusal};
use crate::meter::monotonic_ns;

/// What lies between the guest and hyper in each direction, in bytes. It is also the most that one read or write moves.
const PIPE_BYTES: usize = 64 << 10;

/// The longest head of a request, and what hyper buffers, in bytes: the same as in the gateway. It is compared after each read, so
/// that a head may have twice as much.
const MAX_HEAD_BYTES: usize = 64 << 10;

/// Fields in the head of a request: the same as in the gateway.
const MAX_HEADERS: usize = 100;

/// How far a request has come.
#[derive(Default)]
pub(super) struct Flags {
    /// Its head is there.
    has_begun: AtomicBool,
    /// Its body is waited for.
    is_read: AtomicBool,
    /// Its answer has begun: nothing more of it is wanted.
    is_answered: AtomicBool,
    /// Bytes that hyper has taken.
    taken: AtomicU64,
}

impl Flags {
    /// Notes that more of the body is waited for.
    pub(super) async fn while_it_reads<T>(&self, piece: impl Future<Output = T>) -> T {
        let mut piece = pin!(piece);
        poll_fn(|cx| {
            let polled = piece.as_mut().poll(cx);
            self.is_read.store(polled.is_pending(), Relaxed);
            polled
        })
        .await
    }
}

type Serving = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A connection. Whoever reads it and whoever writes to it may have it at once.
#[derive(Clone)]
pub(crate) struct Connection(Arc<Mutex<Open>>);

struct Open {
    http: Arc<LocalHttp>,
    guest: DuplexStream,
    /// `None` when it is over.
    serving: Option<Serving>,
    /// Who is woken when the serving end can go on.
    wakers: Arc<Wakers>,
    /// The [`drive`]r, from when a call first has to wait. It goes with this.
    driver: JoinSet<()>,
    this: Weak<Mutex<Self>>,
    flags: Arc<Flags>,
    /// What the guest has written and the pipe has not taken yet.
    written: Bytes,
    /// Bytes that the pipe has taken.
    pushed: u64,
    /// What the guest has not read yet.
    ahead: Bytes,
    is_at_end: bool,
    _counted: Arc<()>,
}

/// Nobody can wait here, so nobody is told.
fn glance() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

impl Connection {
    pub(super) fn new(http: &Arc<LocalHttp>, counted: Arc<()>) -> Self {
        let (guest, served) = duplex(PIPE_BYTES);
        let flags = Arc::new(Flags::default());
        let served = Served { pipe: served, flags: Arc::clone(&flags) };
        let serving = Box::pin(serve(Arc::clone(http), served, Arc::clone(&flags)));
        Self(Arc::new_cyclic(|this| {
            Mutex::new(Open {
                http: Arc::clone(http),
                guest,
                serving: Some(serving),
                wakers: Arc::default(),
                driver: JoinSet::new(),
                this: Weak::clone(this),
                flags,
                written: Bytes::new(),
                pushed: 0,
                ahead: Bytes::new(),
                is_at_end: false,
                _counted: counted,
            })
        }))
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What can be read now, of at most `most` bytes; `None` at the end. Empty where the guest has to wait.
    pub(crate) fn read_now(&self, most: usize) -> Option<Bytes> {
        let mut open = self.lock();
        let _ = open.poll_ahead(&mut glance(), false);
        open.take(most)
    }

    /// The next bytes of the answer, at most `most`; `None` at the end. For a guest that does nothing else while it waits: where
    /// only more of its request could bring an answer, it is told so.
    pub(crate) async fn read(&self, most: usize) -> Option<Bytes> {
        poll_fn(|cx| self.lock().poll_ahead(cx, true)).await;
        self.lock().take(most)
    }

    /// Ready when there is something to read.
    pub(crate) async fn readable(&self) {
        poll_fn(|cx| self.lock().poll_ahead(cx, false)).await;
    }

    /// How much can be written now, in bytes. 0 where the guest has to wait.
    pub(crate) fn room(&self) -> usize {
        let mut open = self.lock();
        if open.poll_room(&mut glance()).is_ready() { PIPE_BYTES } else { 0 }
    }

    /// Ready when there is room.
    pub(crate) async fn writable(&self) {
        poll_fn(|cx| self.lock().poll_room(cx)).await;
    }

    /// Gives hyper what the guest has written, or as much of the beginning as there is room for. Answers how much, in bytes.
    ///
    /// It is copied: a view of a guest's list of 80 MiB would keep all of it.
    pub(crate) fn write(&self, bytes: &[u8]) -> usize {
        let mut open = self.lock();
        if open.poll_room(&mut glance()).is_pending() {
            return 0;
        }
        let fits = bytes.get(..PIPE_BYTES).unwrap_or(bytes);
        open.written = Bytes::copy_from_slice(fits);
        let _ = open.poll_room(&mut glance());
        fits.len()
    }
}

impl Open {
    fn take(&mut self, most: usize) -> Option<Bytes> {
        if self.ahead.is_empty() && self.is_at_end {
            return None;
        }
        Some(self.ahead.split_to(most.min(self.ahead.len())))
    }

    /// Lets the serving end do what it can. Answers whether it waits for nothing but the guest.
    fn poll_serving(&mut self) -> bool {
        let is_idle = self.serve_and_push();
        if self.serving.is_some() && self.driver.is_empty() && self.flags.has_begun.load(Relaxed) {
            self.driver.spawn(drive(Weak::clone(&self.this), Arc::clone(&self.wakers)));
        }
        is_idle
    }

    fn serve_and_push(&mut self) -> bool {
        let waker = Waker::from(Arc::clone(&self.wakers));
        let cx = &mut Context::from_waker(&waker);
        loop {
            let mut is_idle = false;
            // What panics is not polled again, and the guest finds the end.
            if let Some(mut serving) = self.serving.take() {
                self.wakers.are_woken.store(false, Relaxed);
                if serving.as_mut().poll(cx).is_pending() {
                    self.serving = Some(serving);
                }
                is_idle = !self.wakers.are_woken.load(Relaxed);
            }
            if self.serving.is_none() || self.flags.is_answered.load(Relaxed) {
                // What comes after the request, or after its refusal, is for nobody.
                self.written.clear();
            }
            if self.written.is_empty() {
                return is_idle;
            }
            match Pin::new(&mut self.guest).poll_write(cx, &self.written) {
                Poll::Ready(Ok(count)) if count > 0 => {
                    self.written.advance(count);
                    self.pushed += count as u64;
                }
                // The other end is gone.
                Poll::Ready(_) => self.serving = None,
                Poll::Pending => return is_idle,
            }
        }
    }

    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.wakers.guest.register(cx.waker());
        self.poll_serving();
        if self.written.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    }

    fn poll_ahead(&mut self, cx: &mut Context<'_>, is_alone: bool) -> Poll<()> {
        if !self.ahead.is_empty() || self.is_at_end {
            return Poll::Ready(());
        }
        self.wakers.guest.register(cx.waker());
        let is_idle = self.poll_serving();
        let mut bytes = vec![0; PIPE_BYTES];
        let mut buffer = ReadBuf::new(&mut bytes);
        let polled = Pin::new(&mut self.guest).poll_read(cx, &mut buffer);
        let count = buffer.filled().len();
        if polled.is_pending() && is_alone && is_idle && self.waits_for_guest() {
            self.refuse_half_a_request();
            return Poll::Ready(());
        }
        // An error is the other end gone, too.
        let _ = ready!(polled);
        bytes.truncate(count);
        self.is_at_end = bytes.is_empty();
        self.ahead = bytes.into();
        Poll::Ready(())
    }

    /// Whether only the guest can bring the request on.
    fn waits_for_guest(&self) -> bool {
        let has_all = self.written.is_empty() && self.flags.taken.load(Relaxed) == self.pushed;
        let wants_more = !self.flags.has_begun.load(Relaxed) || self.flags.is_read.load(Relaxed);
        self.serving.is_some() && has_all && wants_more && !self.flags.is_answered.load(Relaxed)
    }

    /// The guest would wait for ever.
    fn refuse_half_a_request(&mut self) {
        self.serving = None;
        let refusal = Refusal::new(
            Code::BadRequest,
            "the answer was read before the request was whole: write its head, an empty line and as much as `content-length` says",
        );
        let document = refusal.problem.request_id(self.http.run.id).to_json();
        let mut answer = format!(
            "HTTP/1.1 400 Bad Request\r\ncontent-type: {}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
            minnow_model::Problem::CONTENT_TYPE,
            document.len()
        )
        .into_bytes();
        answer.extend_from_slice(&document);
        self.ahead = answer.into();
        // Nothing comes after it.
        self.guest = duplex(1).0;
    }
}

/// Answers one request.
async fn serve(http: Arc<LocalHttp>, served: Served, flags: Arc<Flags>) {
    let service = service_fn(|request| {
        let (http, flags) = (Arc::clone(&http), Arc::clone(&flags));
        async move {
            flags.has_begun.store(true, Relaxed);
            let response = http.answer(request, &flags).await;
            flags.is_answered.store(true, Relaxed);
            Ok::<_, std::convert::Infallible>(response)
        }
    });
    let connection = http1::Builder::new()
        .keep_alive(false)
        .max_buf_size(MAX_HEAD_BYTES)
        .max_headers(MAX_HEADERS)
        // Values are not copied once more.
        .writev(true)
        .serve_connection(TokioIo::new(served), service);
    // What is not HTTP has been answered; a body that fails breaks the answer off.
    let _ = connection.await;
}

/// Lets a call go on while the guest does something else, on the invocation's account.
async fn drive(open: Weak<Mutex<Open>>, wakers: Arc<Wakers>) {
    poll_fn(|cx| {
        wakers.driver.register(cx.waker());
        let Some(open) = open.upgrade() else { return Poll::Ready(()) };
        let mut open = open.lock().unwrap_or_else(PoisonError::into_inner);
        // Otherwise the guest has looked since.
        if wakers.are_woken.load(Relaxed) {
            let began = monotonic_ns();
            open.serve_and_push();
            open.http.run.meter.charge_ns(monotonic_ns().saturating_sub(began));
        }
        if open.serving.is_none() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// Whoever waits for the serving end.
#[derive(Default)]
struct Wakers {
    /// It can go on since it was polled last.
    are_woken: AtomicBool,
    guest: AtomicWaker,
    driver: AtomicWaker,
}

impl Wake for Wakers {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.are_woken.store(true, Relaxed);
        self.guest.wake();
        self.driver.wake();
    }
}

/// The serving end of the pipe.
struct Served {
    pipe: DuplexStream,
    flags: Arc<Flags>,
}

impl AsyncRead for Served {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.pipe).poll_read(cx, buffer))?;
        self.flags.taken.fetch_add((buffer.filled().len() - before) as u64, Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Served {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.pipe).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.pipe).poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_shutdown(cx)
    }
}
