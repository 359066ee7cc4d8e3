//! Waits for the beginning of a response body, so that a short response leaves in one piece.
//!
//! A WASI 0.3 guest returns its head and then writes its body. Handed over at once, head and body were two system calls and
//! two packets, which was a third of the time of a small response.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{
            AtomicU8, AtomicU64,
            Ordering::{AcqRel, Acquire, Relaxed},
        },
    },
    task::{Context, Poll, Wake, Waker},
};

use bytes::Bytes;
use futures::task::AtomicWaker;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt as _;
use tokio::sync::oneshot;
use wasmtime_wasi_http::WasiBody;

use crate::invocation::{Body, BodyError};

/// Tells those who wait for the guest's own work that there is none left: the guest waits for the world.
#[derive(Default)]
pub(super) struct Idle {
    times: AtomicU64,
    waiting: Mutex<Vec<Waker>>,
}

impl Idle {
    /// Polls the guest, and once more when it has nothing to do and somebody waits to hear of that.
    pub(super) fn drive<F: Future + Unpin>(&self, mut guest: F) -> impl Future<Output = F::Output> {
        poll_fn(move |cx| {
            let polled = Pin::new(&mut guest).poll(cx);
            if polled.is_ready() || !self.tell() {
                return polled;
            }
            Pin::new(&mut guest).poll(cx)
        })
    }

    /// Polls the guests of a shared instance until they all wait for the world. A guest that yields wakes itself; going on at
    /// once is what lets its response leave whole, and saves a turn of the scheduler for each yield.
    pub(super) fn drive_to_rest<F: Future + Unpin>(&self, guest: F) -> impl Future<Output = F::Output> {
        let woken = Arc::new(SelfWake::default());
        let waker = Waker::from(Arc::clone(&woken));
        // tokio's budget makes what is ready look as if it were not, which cannot be told from rest.
        let mut guest = tokio::task::unconstrained(guest);
        poll_fn(move |cx| {
            woken.outer.register(cx.waker());
            for _ in 0..MAX_TURNS {
                // Not a store: what was there before another thread woke the guest must be seen by the poll.
                woken.state.swap(POLLING, AcqRel);
                let polled = Pin::new(&mut guest).poll(&mut Context::from_waker(&waker));
                if polled.is_ready() {
                    return polled;
                }
                if woken.state.load(Acquire) == POLLING {
                    self.tell();
                }
                if woken.state.compare_exchange(POLLING, RESTING, AcqRel, Acquire).is_ok() {
                    return Poll::Pending;
                }
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        })
    }

    fn tell(&self) -> bool {
        let waiting = std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        self.times.fetch_add(1, Relaxed);
        let any = !waiting.is_empty();
        waiting.into_iter().for_each(Waker::wake);
        any
    }

    fn times(&self) -> u64 {
        self.times.load(Relaxed)
    }

    fn wait(&self, cx: &Context<'_>) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push(cx.waker().clone());
    }
}

/// Polls of a shared instance in a row before others get their turn: twice the calls in it, since each yields once or twice.
const MAX_TURNS: u32 = 64;

/// Whether a guest was woken while it was polled.
#[derive(Default)]
struct SelfWake {
    state: AtomicU8,
    outer: AtomicWaker,
}

const RESTING: u8 = 0;
const POLLING: u8 = 1;
const WOKEN: u8 = 2;

impl Wake for SelfWake {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.state.swap(WOKEN, AcqRel) == RESTING {
            self.outer.wake();
        }
    }
}

/// A body whose beginning may be there already. `through` is dropped with it.
struct Begun {
    /// What was read ahead: at most one piece and what followed it.
    ahead: [Option<Result<Frame<Bytes>, BodyError>>; 2],
    /// The rest; `None` when it has ended.
    rest: Option<WasiBody>,
    /// Bytes read ahead, when they are all there is.
    length: Option<u64>,
    _through: Option<oneshot::Sender<()>>,
}

/// Takes what the guest has of its body once it has nothing more to do at once. Never waits for anything but the guest's
/// own work.
pub(super) async fn wait(mut body: WasiBody, idle: &Idle, through: Option<oneshot::Sender<()>>) -> Body {
    let mut ahead = [None, None];
    let mut since = idle.times();
    let mut length = None;
    poll_fn(|cx| {
        let [first, second] = &mut ahead;
        loop {
            match Pin::new(&mut body).poll_frame(cx) {
                Poll::Ready(None) => {
                    let data = |frame: &Frame<Bytes>| frame.data_ref().map(Bytes::len);
                    // Only data: the length is known, and the response needs no chunks.
                    length = match first {
                        None => Some(0),
                        Some(Ok(frame)) => data(frame).map(|length| length as u64),
                        Some(Err(_)) => None,
                    };
                    return Poll::Ready(());
                }
                Poll::Ready(Some(frame)) => {
                    let frame = frame.map_err(|_| BodyError::Guest);
                    let is_last = !matches!(&frame, Ok(frame) if frame.is_data());
                    if first.is_some() || is_last {
                        *if first.is_none() { first } else { second } = Some(frame);
                        return Poll::Ready(());
                    }
                    *first = Some(frame);
                    // Taking it lets the guest go on, perhaps to the end of its body.
                    since = idle.times();
                }
                Poll::Pending if idle.times() > since => return Poll::Ready(()),
                Poll::Pending => {
                    idle.wait(cx);
                    return Poll::Pending;
                }
            }
        }
    })
    .await;
    if length.is_some() {
        // The guest has no more to do with it.
        return Begun { ahead, rest: None, length, _through: None }.boxed_unsync();
    }
    Begun { ahead, rest: Some(body), length, _through: through }.boxed_unsync()
}

impl http_body::Body for Begun {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        if let Some(frame) = this.ahead.iter_mut().find_map(Option::take) {
            if this.length.is_some() {
                this.length = Some(0);
            }
            return Poll::Ready(Some(frame));
        }
        match &mut this.rest {
            None => Poll::Ready(None),
            Some(rest) => Pin::new(rest).poll_frame(cx).map_err(|_| BodyError::Guest),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ahead.iter().all(Option::is_none) && self.rest.as_ref().is_none_or(|rest| rest.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        match (self.length, &self.rest) {
            (Some(length), _) => SizeHint::with_exact(length),
            // What was read ahead is not in the hint of the rest.
            (None, Some(rest)) if self.ahead.iter().all(Option::is_none) => rest.size_hint(),
            (None, _) => SizeHint::default(),
        }
    }
}
