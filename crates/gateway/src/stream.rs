//! HTTP/2 streams whose client takes nothing.
//!
//! A client that grants no flow-control window leaves its socket idle and answers pings: neither the kernel nor hyper sees
//! that a response does not move, and hyper does not poll its body meanwhile. So each stream's task watches for itself.
//!
//! HTTP/2 takes a whole piece of a response as soon as the client grants one byte, and keeps it until the client takes the
//! rest; the response may have ended long before. So a stream counts, and is watched, until its last piece has gone.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use hyper::rt::Executor;
use tokio::time::{Instant, Sleep};

use crate::connection::Connection;

tokio::task_local! {
    static STREAM: Arc<Stream>;
}

/// Runs the streams of a worker's HTTP/2 connections, and ends those whose response waits for the client for too long.
#[derive(Debug, Clone)]
pub(crate) struct Streams {
    pub(crate) write_timeout: Duration,
}

impl<F> Executor<F> for Streams
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, stream: F) {
        tokio::spawn(watched(stream, self.write_timeout));
    }
}

/// One HTTP/2 stream, as its task and the body of its response see it. Everything runs on the worker's thread: the atomics
/// are there for the compiler.
#[derive(Default)]
pub(crate) struct Stream {
    /// Counts the pieces that hyper took; 0 while the client waits for the function, and not the other way around.
    waits: AtomicU64,
    /// Pieces that HTTP/2 has and the client has not taken.
    unsent: AtomicU32,
    /// The task of a response that has ended and of which something is unsent.
    waker: Mutex<Option<Waker>>,
    connection: OnceLock<Arc<Connection>>,
}

impl Stream {
    /// The stream that the running task serves; none for HTTP/1. Counted among the node's from the first call on.
    pub(crate) fn current(connection: &Arc<Connection>) -> Option<Arc<Self>> {
        let stream = STREAM.try_with(Arc::clone).ok()?;
        stream.connection.get_or_init(|| {
            connection.worker.node.streams.fetch_add(1, Relaxed);
            Arc::clone(connection)
        });
        Some(stream)
    }

    /// The client may have the `count`th piece of the response; 0 when there is none for it.
    pub(crate) fn offer(&self, count: u64) {
        self.waits.store(count, Relaxed);
    }

    /// A piece on its way to the client: the stream counts until nobody holds it any more.
    pub(crate) fn send(self: &Arc<Self>, piece: Bytes) -> Bytes {
        if piece.is_empty() {
            return piece;
        }
        self.unsent.fetch_add(1, Relaxed);
        Bytes::from_owner(Unsent { piece, stream: Arc::clone(self) })
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.get() {
            connection.worker.node.streams.fetch_sub(1, Relaxed);
        }
    }
}

/// A piece of a response that HTTP/2 has, until the client took it or the stream was reset.
struct Unsent {
    piece: Bytes,
    stream: Arc<Stream>,
}

impl AsRef<[u8]> for Unsent {
    fn as_ref(&self) -> &[u8] {
        &self.piece
    }
}

impl Drop for Unsent {
    fn drop(&mut self) {
        self.stream.unsent.fetch_sub(1, Relaxed);
        if let Some(waker) = self.stream.waker.lock().unwrap_or_else(PoisonError::into_inner).take() {
            waker.wake();
        }
    }
}

/// How long one thing has waited for the client.
struct Patience {
    limit: Duration,
    what: Option<u64>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Patience {
    /// Whether it has been `what` for as long as a client may take. `None`: nothing waits for the client.
    fn is_over(&mut self, what: Option<u64>, context: &mut Context<'_>) -> bool {
        let has_changed = self.what != what;
        self.what = what;
        if what.is_none() {
            return false;
        }
        let limit = self.limit;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        if has_changed {
            timer.as_mut().reset(Instant::now() + limit);
        }
        timer.as_mut().poll(context).is_ready()
    }
}

/// Runs `stream` to its end, and on until the client has taken all of its response; or until one piece has waited for the
/// client for `limit`. Dropping it then resets the stream.
fn watched<F: Future>(stream: F, limit: Duration) -> impl Future<Output = ()> {
    let watch = Arc::new(Stream::default());
    let mut stream = Some(Box::pin(STREAM.scope(Arc::clone(&watch), stream)));
    let mut patience = Patience { limit, what: None, timer: None };
    poll_fn(move |context| {
        if stream.as_mut().is_some_and(|stream| stream.as_mut().poll(context).is_ready()) {
            stream = None;
        }
        let waits = if stream.is_some() {
            Some(watch.waits.load(Relaxed)).filter(|count| *count != 0)
        } else {
            // The last pieces: asked again whenever one has gone.
            *watch.waker.lock().unwrap_or_else(PoisonError::into_inner) = Some(context.waker().clone());
            match watch.unsent.load(Relaxed) {
                0 => return Poll::Ready(()),
                unsent => Some(u64::MAX - u64::from(unsent)),
            }
        };
        if !patience.is_over(waits, context) {
            return Poll::Pending;
        }
        if let Some(connection) = watch.connection.get() {
            tracing::debug!(peer = %connection.peer, "a stream's client takes nothing");
            // What HTTP/2 has buffered of the stream stays until the connection ends, so it gets no new streams.
            connection.finish();
        }
        Poll::Ready(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A response of `pieces` that are taken after `every`, and then of one that is not, or of a wait for the function.
    async fn response(pieces: u64, every: Duration, is_more: bool) {
        let stream = STREAM.with(Arc::clone);
        for piece in 1..=pieces {
            stream.offer(piece);
            tokio::time::sleep(every).await;
        }
        stream.offer(if is_more { pieces + 1 } else { 0 });
        tokio::time::sleep(Duration::from_secs(2)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_ends_when_its_client_takes_nothing_for_too_long() {
        let ms = Duration::from_millis;
        for (what, pieces, every, is_more, expected) in [
            ("nothing is taken", 0, ms(0), true, ms(500)),
            ("a slow client stays as long as it takes something", 10, ms(60), true, ms(1100)),
            ("a client that is too slow", 10, ms(3000), true, ms(500)),
            ("a slow function", 0, ms(0), false, ms(2000)),
        ] {
            let began = Instant::now();
            watched(response(pieces, every, is_more), ms(500)).await;
            let took = began.elapsed();
            // Timers are as exact as a millisecond.
            assert!((expected..=expected + ms(20)).contains(&took), "{what}: {took:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_counts_until_its_last_piece_has_gone() {
        let ms = Duration::from_millis;
        // When each of the last pieces is taken, and when the stream's task ends.
        for (what, taken, expected) in [
            ("without a piece", &[][..], ms(0)),
            ("an empty piece is no piece", &[None], ms(0)),
            ("pieces that are taken", &[Some(300), Some(700)], ms(700)),
            ("a piece that is not", &[Some(300), Some(5000)], ms(800)),
        ] {
            let began = Instant::now();
            let whole = async {
                let stream = STREAM.with(Arc::clone);
                for after in taken {
                    let piece = stream.send(if after.is_some() { Bytes::from_static(b"piece") } else { Bytes::new() });
                    let after = ms(after.unwrap_or(5000));
                    assert!(piece.is_empty() || piece == "piece");
                    tokio::spawn(async move {
                        tokio::time::sleep(after).await;
                        drop(piece);
                    });
                }
            };
            watched(whole, ms(500)).await;
            let took = began.elapsed();
            assert!((expected..=expected + ms(20)).contains(&took), "{what}: {took:?}");
        }
    }
}
