//! One client connection: its socket, what it is doing, and when it has to go.
//!
//! hyper's own timers cost a heap allocation and a place in the timer wheel for each request, and know nothing of clients
//! that stop reading. Here the socket and the requests note what happens in a few atomics, and the worker looks at all its
//! connections about once a second (`Worker::sweep`).

use std::{
    future::poll_fn,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use http::{HeaderValue, Version};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use minnow_model::Code;
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use crate::{
    config::{GatewayConfig, KEEP_ALIVE, LINGER},
    request,
    stream::Stream,
    worker::{Open, Worker},
};

/// A connection as its requests and its worker see it. Everything runs on the worker's thread: the atomics are there for
/// the compiler, and need no order among them.
pub(crate) struct Connection {
    pub(crate) worker: Arc<Worker>,
    pub(crate) peer: SocketAddr,
    /// The peer's address as `x-forwarded-for` says it.
    pub(crate) forwarded_for: HeaderValue,
    /// Requests whose response is not at its end.
    in_flight: AtomicU32,
    served: AtomicBool,
    http2: AtomicBool,
    /// The five times are on the worker's clock, in milliseconds; 0 stands for not now.
    idle_since_ms: AtomicU64,
    head_since_ms: AtomicU64,
    stalled_since_ms: AtomicU64,
    /// Since when a piece of an HTTP/1 response waits for the client. HTTP/2 streams watch for themselves.
    offered_since_ms: AtomicU64,
    lingers_since_ms: AtomicU64,
    /// Part of a request's body is not read yet.
    request_unread: AtomicBool,
    /// A request has ended before all of its body was read. hyper reads once more, for a rest that is short: what comes then
    /// announces no head.
    drain_expected: AtomicBool,
    finish: AtomicBool,
    cut: AtomicBool,
    waker: OnceLock<Waker>,
    /// The connection has become a WebSocket's. Its socket belongs to the function's invocation then, and stays open and
    /// known to the worker until that drops it.
    has_left_http: AtomicBool,
    /// Who reads and writes it then.
    tunnel: Mutex<Option<Waker>>,
}

impl Connection {
    pub(crate) fn new(worker: Arc<Worker>, peer: SocketAddr) -> Self {
        let address = peer.ip().to_canonical().to_string();
        Self {
            idle_since_ms: AtomicU64::new(worker.now_ms()),
            peer,
            forwarded_for: HeaderValue::try_from(address).unwrap_or(HeaderValue::from_static("unknown")),
            in_flight: AtomicU32::new(0),
            served: AtomicBool::new(false),
            http2: AtomicBool::new(false),
            head_since_ms: AtomicU64::new(0),
            stalled_since_ms: AtomicU64::new(0),
            offered_since_ms: AtomicU64::new(0),
            lingers_since_ms: AtomicU64::new(0),
            request_unread: AtomicBool::new(false),
            drain_expected: AtomicBool::new(false),
            finish: AtomicBool::new(false),
            cut: AtomicBool::new(false),
            waker: OnceLock::new(),
            has_left_http: AtomicBool::new(false),
            tunnel: Mutex::default(),
            worker,
        }
    }

    /// Speaks HTTP with the client until either side is done, or the worker says so. The connection is `open` until its
    /// socket is closed, which may be later: a WebSocket takes it away from HTTP.
    pub(crate) async fn serve(self: Arc<Self>, stream: TcpStream, open: Open) {
        let socket = TokioIo::new(Socket { stream, connection: Arc::clone(&self), is_watched: false, _open: open });
        let service = service_fn(|request| request::handle(Arc::clone(&self), request));
        let mut http = std::pin::pin!(self.worker.protocol.serve_connection_with_upgrades(socket, service));
        let mut finishing = false;
        poll_fn(|context| {
            self.waker.get_or_init(|| context.waker().clone());
            loop {
                if self.cut.load(Relaxed) {
                    return Poll::Ready(());
                }
                if !finishing && self.should_finish() {
                    finishing = true;
                    http.as_mut().graceful_shutdown();
                }
                match http.as_mut().poll(context) {
                    Poll::Ready(Ok(())) => return Poll::Ready(()),
                    Poll::Ready(Err(error)) => {
                        self.failed(&*error);
                        return Poll::Ready(());
                    }
                    // The first request of a connection that has to finish: say so before its response begins.
                    Poll::Pending if !finishing && self.should_finish() => {}
                    Poll::Pending => return Poll::Pending,
                }
            }
        })
        .await;
    }

    /// Notes why HTTP with the client ended early. hyper has answered malformed requests by now, and closed.
    fn failed(&self, error: &(dyn std::error::Error + Send + Sync + 'static)) {
        tracing::debug!(peer = %self.peer, %error, "connection ended early");
        if let Some(error) = error.downcast_ref::<hyper::Error>().filter(|error| error.is_parse()) {
            let status = if error.is_parse_too_large() { 431 } else { 400 };
            self.worker.node.metrics.gateway_request(status, Some(Code::BadRequest));
        }
    }

    /// Lets the requests end that are under way, then closes. A connection that has not sent its first request yet gets a
    /// little time for it ([`crate::config::DRAIN_GRACE`]): it may be on its way.
    fn should_finish(&self) -> bool {
        self.finish.load(Relaxed) || (self.worker.is_draining() && self.served.load(Relaxed))
    }

    /// Asks the connection to close as soon as no request is under way.
    pub(crate) fn finish(&self) {
        self.finish.store(true, Relaxed);
        self.wake();
    }

    /// Closes the connection whatever it is doing.
    pub(crate) fn cut(&self) {
        self.cut.store(true, Relaxed);
        self.wake();
    }

    /// Makes the connection look at what is asked of it.
    pub(crate) fn wake(&self) {
        if let Some(waker) = self.waker.get() {
            waker.wake_by_ref();
        }
        if let Some(waker) = &*self.tunnel.lock().unwrap_or_else(PoisonError::into_inner) {
            waker.wake_by_ref();
        }
    }

    /// The response under way is the last one: the connection becomes a WebSocket's. It stays busy, so that it may be idle
    /// for as long as both sides like.
    pub(crate) fn leave_http(&self) {
        self.in_flight.fetch_add(1, Relaxed);
        self.has_left_http.store(true, Relaxed);
    }

    /// The request's body has been read to its end.
    pub(crate) fn request_was_read(&self) {
        self.request_unread.store(false, Relaxed);
    }

    /// Notes whether a piece of the HTTP/1 response waits for the client from now on.
    pub(crate) fn offer(&self, waits: bool) {
        self.offered_since_ms.store(if waits { self.worker.now_ms() } else { 0 }, Relaxed);
    }

    /// What the connection is doing.
    pub(crate) fn activity(&self) -> Activity {
        let some = |time: &AtomicU64| Some(time.load(Relaxed)).filter(|time| *time != 0);
        Activity {
            in_flight: self.in_flight.load(Relaxed),
            served: self.served.load(Relaxed),
            http2: self.http2.load(Relaxed),
            idle_since_ms: self.idle_since_ms.load(Relaxed),
            head_since_ms: some(&self.head_since_ms),
            stalled_since_ms: some(&self.stalled_since_ms),
            offered_since_ms: some(&self.offered_since_ms),
            lingers_since_ms: some(&self.lingers_since_ms),
        }
    }
}

/// One request under way on a connection, from its head to the end of its response.
pub(crate) struct InFlight {
    connection: Arc<Connection>,
    /// Its stream, where the client speaks HTTP/2.
    stream: Option<Arc<Stream>>,
}

impl InFlight {
    pub(crate) fn begin(connection: Arc<Connection>, version: Version, has_body: bool) -> Self {
        let http2 = version == Version::HTTP_2;
        connection.http2.store(http2, Relaxed);
        connection.served.store(true, Relaxed);
        connection.in_flight.fetch_add(1, Relaxed);
        // HTTP/2 says by itself that it wants no more of a body.
        connection.request_unread.store(has_body && !http2, Relaxed);
        connection.drain_expected.store(false, Relaxed);
        let stream = if http2 { Stream::current(&connection) } else { None };
        Self { connection, stream }
    }

    pub(crate) fn stream(&self) -> Option<&Arc<Stream>> {
        self.stream.as_ref()
    }

    pub(crate) fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// Whether HTTP/2 clients have more requests under way than the node takes: as many as with a connection for each. A
    /// request is under way until the client has taken its response.
    pub(crate) fn is_one_too_many(&self) -> bool {
        let node = &self.connection.worker.node;
        self.stream.is_some() && node.streams.load(Relaxed) > node.config.max_connections
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let Self { connection, .. } = self;
        connection.in_flight.fetch_sub(1, Relaxed);
        connection.idle_since_ms.store(connection.worker.now_ms(), Relaxed);
        connection.head_since_ms.store(0, Relaxed);
        connection.drain_expected.store(connection.request_unread.load(Relaxed), Relaxed);
    }
}

/// What a connection is doing. Times are on the worker's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Activity {
    in_flight: u32,
    served: bool,
    http2: bool,
    idle_since_ms: u64,
    head_since_ms: Option<u64>,
    stalled_since_ms: Option<u64>,
    offered_since_ms: Option<u64>,
    lingers_since_ms: Option<u64>,
}

/// What is to be done with a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Keep,
    Finish,
    Cut,
}

impl Activity {
    /// What is to be done at `now_ms`.
    pub(crate) fn verdict(&self, now_ms: u64, config: &GatewayConfig) -> Verdict {
        let past = |since_ms: u64, limit: Duration| u128::from(now_ms.saturating_sub(since_ms)) >= limit.as_millis();
        if self.lingers_since_ms.is_some_and(|since| past(since, LINGER))
            || self.stalled_since_ms.is_some_and(|since| past(since, config.write_timeout))
            || self.offered_since_ms.is_some_and(|since| past(since, config.write_timeout))
        {
            return Verdict::Cut;
        }
        if self.in_flight > 0 {
            return Verdict::Keep;
        }
        // HTTP/2 clients send pings between requests, so there a byte does not announce a head.
        let head_is_late = !self.http2 && self.head_since_ms.is_some_and(|since| past(since, config.header_timeout));
        if head_is_late || (!self.served && past(self.idle_since_ms, config.header_timeout)) {
            return Verdict::Cut;
        }
        // Asked to finish, it still waits for a client that does not take the end of a response.
        if past(self.idle_since_ms, config.idle_timeout.saturating_add(config.write_timeout)) {
            return Verdict::Cut;
        }
        let is_idle = self.http2 || self.head_since_ms.is_none();
        if is_idle && past(self.idle_since_ms, config.idle_timeout) { Verdict::Finish } else { Verdict::Keep }
    }
}

/// The client's socket, which notes what passes through it.
struct Socket {
    stream: TcpStream,
    connection: Arc<Connection>,
    /// The kernel asks the client whether it is there.
    is_watched: bool,
    _open: Open,
}

impl Socket {
    /// While HTTP is spoken, [`Connection::serve`] heeds [`Connection::cut`]; afterwards the socket does.
    fn heed_cut(&mut self, context: &Context<'_>) -> io::Result<()> {
        if self.connection.has_left_http.load(Relaxed) { self.heed_cut_in_tunnel(context) } else { Ok(()) }
    }

    #[cold]
    fn heed_cut_in_tunnel(&mut self, context: &Context<'_>) -> io::Result<()> {
        if self.connection.cut.load(Relaxed) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        if !self.is_watched {
            self.is_watched = true;
            SockRef::from(&self.stream).set_tcp_keepalive(&KEEP_ALIVE)?;
        }
        let mut tunnel = self.connection.tunnel.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *tunnel {
            Some(waker) => waker.clone_from(context.waker()),
            none => *none = Some(context.waker().clone()),
        }
        Ok(())
    }

    fn note_write(&self, polled: &Poll<io::Result<usize>>) {
        let stalled = &self.connection.stalled_since_ms;
        if polled.is_ready() {
            stalled.store(0, Relaxed);
        } else if stalled.load(Relaxed) == 0 {
            stalled.store(self.connection.worker.now_ms(), Relaxed);
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.heed_cut(context)?;
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        if buffer.filled().len() > before
            && !self.connection.drain_expected.swap(false, Relaxed)
            && self.connection.head_since_ms.load(Relaxed) == 0
        {
            self.connection.head_since_ms.store(self.connection.worker.now_ms(), Relaxed);
        }
        polled
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.heed_cut(context)?;
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.note_write(&polled);
        polled
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.heed_cut(context)?;
        let polled = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.note_write(&polled);
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    /// Closes the sending side. Where a request was answered before all of it was read, goes on reading until the client
    /// closes too or [`LINGER`] is over: closing with unread bytes resets the connection, and the client may lose the
    /// answer (RFC 9112 section 9.6).
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.connection.lingers_since_ms.load(Relaxed) == 0 {
            ready!(Pin::new(&mut self.stream).poll_shutdown(context))?;
            if !self.connection.request_unread.load(Relaxed) {
                return Poll::Ready(Ok(()));
            }
            self.connection.lingers_since_ms.store(self.connection.worker.now_ms(), Relaxed);
        }
        let mut waste = [0; 4096];
        loop {
            let mut buffer = ReadBuf::new(&mut waste);
            ready!(Pin::new(&mut self.stream).poll_read(context, &mut buffer))?;
            if buffer.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_may_take_its_time_within_the_limits() {
        use Verdict::{Cut, Finish, Keep};
        let config = GatewayConfig {
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            write_timeout: Duration::from_secs(60),
            ..GatewayConfig::default()
        };
        let fresh = Activity {
            in_flight: 0,
            served: false,
            http2: false,
            idle_since_ms: 1000,
            head_since_ms: None,
            stalled_since_ms: None,
            offered_since_ms: None,
            lingers_since_ms: None,
        };
        let served = Activity { served: true, ..fresh };
        let busy = Activity { in_flight: 1, head_since_ms: Some(1000), ..served };
        for (what, activity, now_ms, expected) in [
            ("a new connection has time for its first byte", fresh, 10_999, Keep),
            ("but not for ever", fresh, 11_000, Cut),
            ("nor when it is slow", Activity { head_since_ms: Some(9000), ..fresh }, 11_000, Cut),
            ("an idle connection stays", served, 75_999, Keep),
            ("until it is idle for too long", served, 76_000, Finish),
            ("a slow head stays", Activity { head_since_ms: Some(70_000), ..served }, 79_999, Keep),
            ("until it is too slow", Activity { head_since_ms: Some(70_000), ..served }, 80_000, Cut),
            ("a request may take as long as it takes", busy, 1_000_000, Keep),
            ("a client may pause", Activity { stalled_since_ms: Some(1000), ..busy }, 60_999, Keep),
            ("but not stop reading", Activity { stalled_since_ms: Some(1000), ..busy }, 61_000, Cut),
            ("a piece may be taken slowly", Activity { offered_since_ms: Some(1000), ..busy }, 60_999, Keep),
            ("but not byte by byte", Activity { offered_since_ms: Some(1000), ..busy }, 61_000, Cut),
            ("an end that nobody takes is waited for", served, 135_999, Finish),
            ("for as long as any other piece", served, 136_000, Cut),
            ("HTTP/2 pings are no head", Activity { http2: true, head_since_ms: Some(1000), ..served }, 20_000, Keep),
            ("and keep nothing open", Activity { http2: true, head_since_ms: Some(1000), ..served }, 76_000, Finish),
            ("the rest of a refused body is read", Activity { lingers_since_ms: Some(1000), ..served }, 5_999, Keep),
            ("for a while", Activity { lingers_since_ms: Some(1000), ..served }, 6_000, Cut),
            ("the clock may be behind", Activity { idle_since_ms: 5000, ..fresh }, 1000, Keep),
        ] {
            assert_eq!(activity.verdict(now_ms, &config), expected, "{what}");
        }
    }
}
