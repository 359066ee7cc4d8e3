//! HTTP/2 streams whose client takes nothing.
//!
//! A client that grants no flow-control window leaves its socket idle and answers pings: neither the kernel nor hyper sees
//! that a response does not move, and hyper does not poll its body meanwhile. So each stream's task watches for itself.

use std::{
    future::{Future, poll_fn},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::Poll,
    time::Duration,
};

use hyper::rt::Executor;
use tokio::time::Instant;

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

/// One HTTP/2 stream, as its task and the body of its response see it.
#[derive(Default)]
pub(crate) struct Stream {
    /// Counts the pieces that hyper took; 0 while the client waits for the function, and not the other way around.
    waits: AtomicU64,
    connection: OnceLock<Arc<Connection>>,
}

impl Stream {
    /// The stream that the running task serves; none for HTTP/1.
    pub(crate) fn current(connection: &Arc<Connection>) -> Option<Arc<Self>> {
        let stream = STREAM.try_with(Arc::clone).ok()?;
        stream.connection.get_or_init(|| Arc::clone(connection));
        Some(stream)
    }

    /// The client may have the `count`th piece of the response; 0 when there is none for it.
    pub(crate) fn offer(&self, count: u64) {
        self.waits.store(count, Relaxed);
    }
}

/// Runs `stream` to its end, or until one piece of its response has waited for the client for `limit`. Dropping it then
/// resets the stream.
fn watched<F: Future>(stream: F, limit: Duration) -> impl Future<Output = ()> {
    let watch = Arc::new(Stream::default());
    let mut stream = Box::pin(STREAM.scope(Arc::clone(&watch), stream));
    let mut timer = None;
    let mut offered = 0;
    poll_fn(move |context| {
        if stream.as_mut().poll(context).is_ready() {
            return Poll::Ready(());
        }
        let waits = watch.waits.load(Relaxed);
        if waits == 0 {
            offered = 0;
            return Poll::Pending;
        }
        let timer = timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        if waits != offered {
            offered = waits;
            timer.as_mut().reset(Instant::now() + limit);
        }
        if timer.as_mut().poll(context).is_pending() {
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

    #[tokio::test]
    async fn a_stream_ends_when_its_client_takes_nothing_for_too_long() {
        let ms = Duration::from_millis;
        for (what, pieces, every, is_more, at_least, below) in [
            ("nothing is taken", 0, ms(0), true, ms(500), ms(2000)),
            ("a slow client stays as long as it takes something", 10, ms(60), true, ms(1100), ms(2600)),
            ("a client that is too slow", 10, ms(3000), true, ms(500), ms(3000)),
            ("a slow function", 0, ms(0), false, ms(2000), ms(60_000)),
        ] {
            let began = Instant::now();
            watched(response(pieces, every, is_more), ms(500)).await;
            let took = began.elapsed();
            assert!((at_least..below).contains(&took), "{what}: {took:?}");
        }
    }
}
