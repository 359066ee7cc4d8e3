//! Connections to other hosts: how many there may be, and for how long one may make no progress.
//!
//! A connection outlives the request that asked for it: the pool may finish it in a task of its own, and keeps it for the
//! next request. So it is the connection that holds a place, from before it is made until it is closed.

use std::{
    future::poll_fn,
    io::{self, IoSlice},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::future::BoxFuture;
use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, Sleep, sleep, timeout_at},
};
use tower_service::Service;

use super::{CONNECT, SHARE, Share};

/// How long another host may take nothing of what is sent to it: as long as a client of the gateway. The end of the function
/// is only noticed when something can be written again, so that a host that stops reading would keep its place for ever.
const STALLED: Duration = Duration::from_secs(60);

pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Connections that may be open at once.
#[derive(Clone)]
pub(super) struct Places {
    free: Arc<Semaphore>,
    most: usize,
}

impl Places {
    pub(super) fn new(most: usize) -> Self {
        Self { free: Arc::new(Semaphore::new(most)), most }
    }

    async fn take(&self) -> Result<OwnedSemaphorePermit, NoPlace> {
        Arc::clone(&self.free).acquire_owned().await.map_err(|_| NoPlace)
    }

    /// Whether more than half of them are taken.
    fn are_scarce(&self) -> bool {
        self.free.available_permits() < self.most / 2
    }
}

/// There is no place for another connection.
#[derive(Debug, thiserror::Error)]
#[error("too many connections to other hosts are open")]
pub(super) struct NoPlace;

/// The right to hold a connection: a place of the node's, and one of the app that opened it, whoever uses it next.
struct Place {
    /// See `Held::connected`.
    is_for_one_request: bool,
    _places: (OwnedSemaphorePermit, OwnedSemaphorePermit),
    /// The share is counted for as long as one of its connections is open.
    _share: Arc<Share>,
}

impl Place {
    /// Waits for a place, for as long as the request waits for a connection.
    async fn take(of_node: &Places) -> Result<Self, NoPlace> {
        let share = SHARE.try_with(Arc::clone).map_err(|_| NoPlace)?;
        let places = {
            let mut taking = pin!(async { Ok((share.connections.take().await?, of_node.take().await?)) });
            let taken = poll_fn(|cx| match SHARE.try_with(|_| ()) {
                Ok(()) => taking.as_mut().poll(cx),
                // The request has got another connection, and the pool goes on with this one in a task of its own. There
                // would be no bound on the tasks that wait.
                Err(_) => Poll::Ready(Err(NoPlace)),
            });
            taken.await?
        };
        let is_for_one_request = share.connections.are_scarce() || of_node.are_scarce();
        Ok(Self { is_for_one_request, _places: places, _share: share })
    }
}

/// Makes connections with `inner`, each of which holds a place until it is closed.
#[derive(Clone)]
pub(super) struct Connector<C> {
    inner: C,
    places: Places,
}

impl<C> Connector<C> {
    pub(super) fn new(inner: C, places: Places) -> Self {
        Self { inner, places }
    }
}

impl<C> Service<Uri> for Connector<C>
where
    C: Service<Uri, Error = BoxError>,
    C::Response: Send + 'static,
    C::Future: Send + 'static,
{
    type Response = Held<C::Response>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        // Does nothing until it is polled.
        let connecting = self.inner.call(uri);
        let places = self.places.clone();
        Box::pin(async move {
            // Of the connector's own timers none covers the TLS handshake.
            let deadline = Instant::now() + CONNECT;
            let place = timeout_at(deadline, Place::take(&places)).await.unwrap_or(Err(NoPlace))?;
            match timeout_at(deadline, connecting).await {
                Ok(connected) => Ok(Held { stream: connected?, stalled: None, place }),
                Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut).into()),
            }
        })
    }
}

/// A connection with its place.
pub(super) struct Held<T> {
    stream: T,
    /// Runs while nothing can be written.
    stalled: Option<Pin<Box<Sleep>>>,
    place: Place,
}

impl<T> Held<T> {
    /// Gives up when nothing can be written for too long.
    fn bounded<R>(&mut self, cx: &mut Context<'_>, polled: Poll<io::Result<R>>) -> Poll<io::Result<R>> {
        if polled.is_ready() {
            self.stalled = None;
            return polled;
        }
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(STALLED)));
        stalled.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<T: Connection> Connection for Held<T> {
    fn connected(&self) -> Connected {
        let connected = self.stream.connected();
        // Idle connections take half of the places at most. Otherwise a function that calls many hosts would soon wait for
        // connections that nobody uses.
        if self.place.is_for_one_request {
            connected.poison();
        }
        connected
    }
}

impl<T: Read + Unpin> Read for Held<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<T: Write + Unpin> Write for Held<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.bounded(cx, polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(cx);
        self.bounded(cx, polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.bounded(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, pieces);
        self.bounded(cx, polled)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use bytes::Bytes;
    use futures::{FutureExt as _, poll};
    use http::Request;
    use http_body_util::{BodyExt as _, Empty};
    use hyper_util::{
        client::legacy::Client,
        rt::{TokioExecutor, TokioIo},
    };
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

    use super::*;

    /// The other end of a connection that was made in this process.
    struct Near(TokioIo<DuplexStream>);

    impl Connection for Near {
        fn connected(&self) -> Connected {
            Connected::new()
        }
    }

    impl Read for Near {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buffer: ReadBufCursor<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_read(cx, buffer)
        }
    }

    impl Write for Near {
        fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            Pin::new(&mut self.0).poll_write(cx, bytes)
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_shutdown(cx)
        }
    }

    /// Hosts that are connected to.
    #[derive(Clone, Default)]
    struct Hosts {
        /// None of them completes a handshake.
        are_silent: bool,
        connected: Arc<AtomicUsize>,
    }

    impl Service<Uri> for Hosts {
        type Response = Near;
        type Error = BoxError;
        type Future = BoxFuture<'static, Result<Near, BoxError>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Uri) -> Self::Future {
            let Self { are_silent, connected } = self.clone();
            Box::pin(async move {
                if are_silent {
                    return futures::future::pending().await;
                }
                connected.fetch_add(1, Relaxed);
                let (near, mut far) = duplex(1024);
                // Answers whatever comes, for as long as the connection is open.
                tokio::spawn(async move {
                    let mut request = [0; 1024];
                    while far.read(&mut request).await.is_ok_and(|read| read > 0) {
                        let _ = far.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
                    }
                });
                Ok(Near(TokioIo::new(near)))
            })
        }
    }

    fn share(connections: usize) -> Arc<Share> {
        Arc::new(Share { lookups: Arc::new(Semaphore::new(1)), connections: Places::new(connections) })
    }

    fn connector(are_silent: bool, places: &Places) -> Connector<Hosts> {
        Connector::new(Hosts { are_silent, ..Hosts::default() }, places.clone())
    }

    /// A connection for a request of the app whose share this is.
    fn connect(
        connector: &Connector<Hosts>,
        share: &Arc<Share>,
    ) -> impl Future<Output = Result<Held<Near>, BoxError>> + use<> {
        SHARE.scope(Arc::clone(share), connector.clone().call(Uri::from_static("https://example.org")))
    }

    fn kind(error: &BoxError) -> Option<io::ErrorKind> {
        error.downcast_ref::<io::Error>().map(io::Error::kind)
    }

    // The clock of these tests stands still while something runs, and goes to the next timer when nothing does.
    #[tokio::test(start_paused = true)]
    async fn a_handshake_that_never_ends_is_given_up_and_its_place_is_free_again() {
        let (places, share) = (Places::new(4), share(2));
        let began = Instant::now();
        let error = connect(&connector(true, &places), &share).await.err().unwrap();
        assert_eq!((kind(&error), began.elapsed().as_secs()), (Some(io::ErrorKind::TimedOut), CONNECT.as_secs()));
        assert_eq!((places.free.available_permits(), share.connections.free.available_permits()), (4, 2));

        // The pool may go on with it when its request is gone.
        let mut connecting = connector(true, &places).call(Uri::from_static("https://example.org"));
        let begun = SHARE.scope(Arc::clone(&share), async { poll!(&mut connecting) }).await;
        assert!(begun.is_pending());
        assert_eq!(places.free.available_permits(), 3);
        let error = tokio::spawn(connecting).await.unwrap().err().unwrap();
        assert_eq!(kind(&error), Some(io::ErrorKind::TimedOut));
        assert_eq!((places.free.available_permits(), share.connections.free.available_permits()), (4, 2));
    }

    #[tokio::test(start_paused = true)]
    async fn open_connections_are_bounded_for_an_app_and_for_the_node() {
        let (places, greedy, modest) = (Places::new(3), share(2), share(2));
        let connector = connector(false, &places);
        let mut open = vec![connect(&connector, &greedy).await.unwrap(), connect(&connector, &greedy).await.unwrap()];
        // The app has its share; others still get a connection, and then the node is full.
        let began = Instant::now();
        assert!(connect(&connector, &greedy).await.err().unwrap().is::<NoPlace>());
        assert_eq!(began.elapsed().as_secs(), CONNECT.as_secs());
        open.push(connect(&connector, &modest).await.unwrap());
        assert!(connect(&connector, &modest).await.err().unwrap().is::<NoPlace>());
        // One that waits gets the place of one that is closed.
        let mut waits = Box::pin(connect(&connector, &modest));
        assert!(poll!(&mut waits).is_pending());
        open.remove(0);
        open.push(waits.await.unwrap());
        drop(open);
        let free = [&places, &greedy.connections, &modest.connections].map(|places| places.free.available_permits());
        assert_eq!(free, [3, 2, 2]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_nobody_waits_for_does_not_wait_for_a_place() {
        let (places, share) = (Places::new(1), share(1));
        let connector = connector(false, &places);
        let open = connect(&connector, &share).await.unwrap();
        let mut connecting = connector.clone().call(Uri::from_static("https://example.org"));
        let begun = SHARE.scope(Arc::clone(&share), async { poll!(&mut connecting) }).await;
        assert!(begun.is_pending());
        // Polled once without its request, as in a task of the pool's.
        let error = connecting.now_or_never().unwrap().err().unwrap();
        assert!(error.is::<NoPlace>(), "{error}");
        drop(open);
        assert_eq!(places.free.available_permits(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_kept_for_other_requests_unless_most_places_are_taken() {
        for (of_node, of_app, taken, expected) in [(8, 8, 0, 1), (8, 8, 3, 1), (8, 8, 4, 2), (16, 4, 2, 2)] {
            let (places, share) = (Places::new(of_node), share(of_app));
            let connector = connector(false, &places);
            let mut open = Vec::new();
            for _ in 0..taken {
                open.push(connect(&connector, &share).await.unwrap());
            }
            let connected = Arc::clone(&connector.inner.connected);
            let client: Client<_, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build(connector);
            for _ in 0..2 {
                let request = Request::get("http://example.org/").body(Empty::new()).unwrap();
                let response = SHARE.scope(Arc::clone(&share), client.request(request)).await.unwrap();
                assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "ok");
                // It goes back to the pool, or is closed, in a task of its own.
                for _ in 0..100 {
                    tokio::task::yield_now().await;
                }
            }
            let kept = of_node - taken - places.free.available_permits();
            let found = (connected.load(Relaxed) - taken, kept);
            assert_eq!(found, (expected, usize::from(expected == 1)), "{taken} of {of_node} and {of_app} are taken");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_that_takes_nothing_loses_its_connection() {
        let (near, _far) = duplex(16);
        let place = SHARE.scope(share(1), Place::take(&Places::new(1))).await.unwrap();
        let mut held = Held { stream: Near(TokioIo::new(near)), stalled: None, place };
        let mut write = async || poll_fn(|cx| Pin::new(&mut held).poll_write(cx, b"sixteen letters.")).await;
        let began = Instant::now();
        assert_eq!(write().await.unwrap(), 16);
        assert_eq!(write().await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(began.elapsed().as_secs(), STALLED.as_secs());
    }
}
