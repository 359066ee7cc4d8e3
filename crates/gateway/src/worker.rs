//! One worker: a thread with its own listener and its own connections.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use hyper_util::{rt::TokioTimer, server::conn::auto};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Notify, Semaphore, watch},
    time::{Instant, MissedTickBehavior},
};

use crate::{
    blob::BlobPlaces,
    config::{
        DRAIN_GRACE, GatewayConfig, HTTP2_CONNECTION_WINDOW, HTTP2_PING, HTTP2_STREAM_WINDOW, HTTP2_STREAMS,
        MIN_HEADER_BYTES,
    },
    connection::{Connection, Verdict},
    files::FileCache,
    listen::Gateway,
    stream::Streams,
};

/// What all workers of a gateway share.
pub(crate) struct Node {
    pub(crate) gateway: Gateway,
    pub(crate) files: FileCache,
    pub(crate) blob_places: BlobPlaces,
    /// For the bodies of requests to webhooks.
    pub(crate) webhook_places: Semaphore,
    /// Client connections on all workers.
    pub(crate) open: AtomicUsize,
    /// Requests of HTTP/2 clients on all workers, from their head until the client has taken the response.
    pub(crate) streams: AtomicUsize,
}

impl std::ops::Deref for Node {
    type Target = Gateway;

    fn deref(&self) -> &Gateway {
        &self.gateway
    }
}

/// One worker's state. Only its own thread touches it.
pub(crate) struct Worker {
    pub(crate) node: Arc<Node>,
    pub(crate) protocol: auto::Builder<Streams>,
    /// Milliseconds since the worker began, as of the last sweep; from 1, since 0 stands for never.
    now_ms: AtomicU64,
    draining: AtomicBool,
    /// When everything has to be over, once the node stops.
    stop: watch::Receiver<Option<Instant>>,
    /// Touched when a connection comes or goes and by the sweep, never by a request.
    connections: Mutex<HashMap<u64, Arc<Connection>>>,
    next_id: AtomicU64,
    /// Told when the last connection has gone.
    empty: Notify,
}

impl Worker {
    pub(crate) fn new(node: Arc<Node>, stop: watch::Receiver<Option<Instant>>) -> Self {
        Self {
            protocol: protocol(&node.config),
            node,
            now_ms: AtomicU64::new(1),
            draining: AtomicBool::new(false),
            stop,
            connections: Mutex::default(),
            next_id: AtomicU64::new(0),
            empty: Notify::new(),
        }
    }

    /// The worker's clock, in milliseconds: as exact as the sweep is frequent, and free to read.
    pub(crate) fn now_ms(&self) -> u64 {
        self.now_ms.load(Relaxed)
    }

    /// Whether connections are to close as soon as they can.
    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Relaxed)
    }

    /// Tells those that hold a connection after HTTP when the node stops.
    pub(crate) fn stop(&self) -> watch::Receiver<Option<Instant>> {
        self.stop.clone()
    }

    /// Serves until `stop` says when everything has to be over, then drains. Answers how many connections were still open
    /// at that time.
    pub(crate) async fn run(self: Arc<Self>, listener: std::net::TcpListener) -> io::Result<usize> {
        let listener = TcpListener::from_std(listener)?;
        let mut stop = self.stop();
        tokio::spawn(Arc::clone(&self).sweep());
        loop {
            tokio::select! {
                biased;
                // An error means that nobody is left who could ask: that is a stop, too.
                _ = stop.changed() => break,
                accepted = listener.accept() => match accepted {
                    Ok((stream, peer)) => self.take(stream, peer),
                    Err(error) => refuse_for_a_while(&error).await,
                },
            }
        }
        let deadline = stop.borrow().unwrap_or_else(Instant::now);
        self.take_backlog(listener);
        Ok(self.drain(deadline).await)
    }

    /// Starts serving a new connection, unless there are too many.
    fn take(self: &Arc<Self>, stream: TcpStream, peer: SocketAddr) {
        let Some(open) = Open::count(self) else {
            tracing::debug!(%peer, "refused: too many connections");
            return;
        };
        // Without it the last, short packet of a response waits for the client's delayed ACK: 40 ms.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%peer, %error, "client gone");
            return;
        }
        let connection = Arc::new(Connection::new(Arc::clone(self), peer));
        self.connections().insert(open.id, Arc::clone(&connection));
        tokio::spawn(connection.serve(stream, open));
    }

    /// Takes the connections that the kernel has established already: closing the listener would reset them.
    fn take_backlog(self: &Arc<Self>, listener: TcpListener) {
        let Ok(listener) = listener.into_std() else { return };
        while let Ok((stream, peer)) = listener.accept() {
            if let Ok(stream) = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream)) {
                self.take(stream, peer);
            }
        }
    }

    /// Lets requests end until `deadline`; answers how many connections are left then.
    async fn drain(self: &Arc<Self>, deadline: Instant) -> usize {
        self.draining.store(true, Relaxed);
        self.connections().values().for_each(|connection| connection.wake());
        let grace = deadline.min(Instant::now() + DRAIN_GRACE);
        if tokio::time::timeout_at(grace, self.until_empty()).await.is_err() {
            self.connections().values().for_each(|connection| connection.finish());
            let _ = tokio::time::timeout_at(deadline, self.until_empty()).await;
        }
        self.connections().len()
    }

    async fn until_empty(&self) {
        loop {
            let told = self.empty.notified();
            if self.connections().is_empty() {
                return;
            }
            told.await;
        }
    }

    /// Moves the clock and ends the connections that have used up their time. About once a second, or ten times within
    /// the shortest limit: no limit is exceeded by more than a tenth, and a thousand idle connections cost microseconds.
    async fn sweep(self: Arc<Self>) {
        let config = &self.node.config;
        let shortest = config.header_timeout.min(config.idle_timeout).min(config.write_timeout);
        let period = (shortest / 10).clamp(Duration::from_millis(10), Duration::from_secs(1));
        let mut ticks = tokio::time::interval(period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let began = Instant::now();
        loop {
            ticks.tick().await;
            let now_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX).max(1);
            self.now_ms.store(now_ms, Relaxed);
            for connection in self.connections().values() {
                match connection.activity().verdict(now_ms, config) {
                    Verdict::Keep => {}
                    Verdict::Finish => connection.finish(),
                    Verdict::Cut => connection.cut(),
                }
            }
        }
    }

    fn connections(&self) -> MutexGuard<'_, HashMap<u64, Arc<Connection>>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One open connection, counted and known to its worker until this is dropped.
pub(crate) struct Open {
    worker: Arc<Worker>,
    id: u64,
    _gauge: minnow_telemetry::metrics::Held,
}

impl Open {
    /// Counts one more, unless that would be too many.
    fn count(worker: &Arc<Worker>) -> Option<Self> {
        let open = &worker.node.open;
        if open.fetch_add(1, Relaxed) >= worker.node.config.max_connections {
            open.fetch_sub(1, Relaxed);
            return None;
        }
        let gauge = worker.node.metrics.connection();
        Some(Self { worker: Arc::clone(worker), id: worker.next_id.fetch_add(1, Relaxed), _gauge: gauge })
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.worker.node.open.fetch_sub(1, Relaxed);
        let mut connections = self.worker.connections();
        let gone = connections.remove(&self.id);
        let is_last = connections.is_empty();
        drop(connections);
        drop(gone);
        if is_last {
            self.worker.empty.notify_waiters();
        }
    }
}

/// Waits a little after a failed accept. Out of file descriptors, the next one would fail as well, and at once.
async fn refuse_for_a_while(error: &io::Error) {
    if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) {
        return;
    }
    tracing::warn!(%error, "cannot accept connections");
    tokio::time::sleep(Duration::from_millis(50)).await;
}

/// How HTTP is spoken.
///
/// HTTP/1 responses are copied into one buffer with their head and sent with one `send`. hyper's `pipeline_flush` would do
/// that too, but lifts the bound on that buffer, and holds back a response that is streaming while the client's next
/// request waits behind it. hyper's own timer for request heads is off: the worker's sweep does its work.
fn protocol(config: &GatewayConfig) -> auto::Builder<Streams> {
    let head_bytes = config.max_header_bytes.max(MIN_HEADER_BYTES);
    let mut protocol = auto::Builder::new(Streams { write_timeout: config.write_timeout });
    protocol.http1().writev(false).max_buf_size(head_bytes).header_read_timeout(None);
    protocol
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(u32::try_from(head_bytes).unwrap_or(u32::MAX))
        .max_concurrent_streams(HTTP2_STREAMS)
        .initial_stream_window_size(HTTP2_STREAM_WINDOW)
        .initial_connection_window_size(HTTP2_CONNECTION_WINDOW)
        .max_send_buf_size(head_bytes)
        .keep_alive_interval(HTTP2_PING)
        .keep_alive_timeout(HTTP2_PING);
    protocol
}
