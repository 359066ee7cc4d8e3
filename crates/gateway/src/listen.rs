//! Starting and stopping a gateway: its sockets and its threads.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    num::NonZeroUsize,
    sync::{Arc, mpsc},
    thread::{self, JoinHandle},
    time::Duration,
};

use minnow_runtime::{Live, Runtime};
use minnow_store::Blobs;
use minnow_telemetry::{Metrics, Tracer};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    sync::{Semaphore, oneshot, watch},
    time::Instant,
};

use crate::{
    GatewayConfig,
    blob::BlobPlaces,
    config::{BACKLOG, WEBHOOKS_READ},
    files::FileCache,
    worker::{Node, Worker},
};

/// A gateway that has not started: what it serves, and how.
pub struct Gateway {
    /// Which apps there are.
    pub live: Arc<Live>,
    /// What runs their functions.
    pub runtime: Arc<Runtime>,
    /// Where their static files lie.
    pub blobs: Arc<Blobs>,
    pub metrics: Metrics,
    /// Takes a span for each request, when spans are exported.
    pub tracer: Option<Tracer>,
    pub config: GatewayConfig,
}

/// Why a gateway did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(
        "{0} is in use by another process; stop it, or choose another address with --http ADDR (port 0 takes a free one)"
    )]
    PortInUse(SocketAddr),
    #[error("no permission to listen on {0}; choose a port above 1023 with --http ADDR, or grant CAP_NET_BIND_SERVICE")]
    NotPermitted(SocketAddr),
    #[error("cannot listen on {0}; choose an address of this machine with --http ADDR")]
    Listen(SocketAddr, #[source] io::Error),
    #[error("cannot start a worker thread")]
    Worker(#[source] io::Error),
}

/// A gateway that serves. Dropping it stops it at once, without waiting for its requests.
pub struct Listening {
    /// Where it listens, with the port that it got where it asked for port 0.
    pub addr: SocketAddr,
    stop: watch::Sender<Option<Instant>>,
    workers: Vec<(JoinHandle<()>, oneshot::Receiver<usize>)>,
}

impl Gateway {
    /// Serves on one thread for each of the sockets. Waits until all of them have started, which takes milliseconds.
    pub fn start(self, sockets: Sockets) -> Result<Listening, StartError> {
        let Sockets { addr, listeners } = sockets;
        let files = FileCache::new(Arc::clone(&self.blobs), self.config.max_connections);
        let node = Node {
            files,
            blob_places: BlobPlaces::default(),
            webhook_places: Semaphore::new(WEBHOOKS_READ),
            gateway: self,
            open: 0.into(),
            streams: 0.into(),
        };
        let node = Arc::new(node);
        let (stop, stopped) = watch::channel(None);
        let (started, starts) = mpsc::channel();
        let workers = listeners
            .into_iter()
            .enumerate()
            .map(|(index, listener)| {
                let (node, stopped, started) = (Arc::clone(&node), stopped.clone(), started.clone());
                let (ended, end) = oneshot::channel();
                let run = move || work(node, listener, stopped, started, ended);
                let thread = thread::Builder::new().name(format!("gateway-{index}")).spawn(run)?;
                Ok((thread, end))
            })
            .collect::<io::Result<Vec<_>>>()
            .map_err(StartError::Worker)?;
        drop(started);
        for start in starts {
            start.map_err(StartError::Worker)?;
        }
        Ok(Listening { addr, stop, workers })
    }
}

impl Listening {
    /// Stops accepting, tells clients to go elsewhere, and lets requests that are under way end until `drain` is over; what
    /// is left then is cut off. Answers how many connections that were.
    pub async fn shutdown(self, drain: Duration) -> usize {
        self.stop.send_replace(Some(Instant::now() + drain));
        let mut cut = 0;
        for (thread, end) in self.workers {
            // An error means that the thread panicked, which it has logged.
            cut += end.await.unwrap_or(0);
            let _ = thread.join();
        }
        cut
    }
}

/// One worker thread, from its start to its end.
fn work(
    node: Arc<Node>,
    listener: TcpListener,
    stop: watch::Receiver<Option<Instant>>,
    started: mpsc::Sender<io::Result<()>>,
    ended: oneshot::Sender<usize>,
) {
    // On this thread, since the runtime's scheduling of guests has a part in each thread.
    let runtime = match minnow_runtime::worker::build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = started.send(Err(error));
            return;
        }
    };
    let _ = started.send(Ok(()));
    drop(started);
    let cut = runtime.block_on(Arc::new(Worker::new(node, stop)).run(listener)).unwrap_or_else(|error| {
        tracing::error!(%error, "a gateway worker failed");
        0
    });
    // Drops the tasks that are left, and with them their sandboxes; does not wait for a disk that hangs.
    runtime.shutdown_background();
    let _ = ended.send(cut);
}

/// Sockets that listen and are not served yet: clients that connect wait in the backlog.
pub struct Sockets {
    /// Where they listen, with the port that they got where port 0 was asked for.
    pub addr: SocketAddr,
    listeners: Vec<TcpListener>,
}

impl Sockets {
    /// Listens on `addr` for `workers` threads, by default one for each core that the process may use.
    pub fn bind(addr: SocketAddr, workers: Option<NonZeroUsize>) -> Result<Self, StartError> {
        let count = workers.or_else(|| thread::available_parallelism().ok()).map_or(1, NonZeroUsize::get);
        let (addr, listeners) = listen(addr, count)?;
        Ok(Self { addr, listeners })
    }
}

/// One listening socket for each worker, all on one port: the kernel spreads connections over them.
fn listen(addr: SocketAddr, count: usize) -> Result<(SocketAddr, Vec<TcpListener>), StartError> {
    let refused = |error: io::Error| match error.kind() {
        io::ErrorKind::AddrInUse => StartError::PortInUse(addr),
        io::ErrorKind::PermissionDenied => StartError::NotPermitted(addr),
        _ => StartError::Listen(addr, error),
    };
    if addr.port() != 0 {
        // SO_REUSEPORT would share the port with any process of the same user that sets it, too: two nodes would each get
        // half of the requests. A socket without it is refused where anybody listens.
        let probe = socket(addr).map_err(refused)?;
        probe.bind(&addr.into()).map_err(refused)?;
    }
    let mut bound = addr;
    let mut listeners = Vec::with_capacity(count);
    for _ in 0..count {
        let listener = listen_shared(bound).map_err(refused)?;
        bound = listener.local_addr().map_err(refused)?;
        listeners.push(listener);
    }
    Ok((bound, listeners))
}

fn listen_shared(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket(addr)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn socket(addr: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    // Connections of a node that just stopped linger in TIME_WAIT and would keep the port for a minute.
    socket.set_reuse_address(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANY_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

    #[test]
    fn all_workers_listen_on_the_port_that_the_first_one_got() {
        let (addr, listeners) = listen(ANY_PORT, 3).unwrap();
        assert_ne!(addr.port(), 0);
        for listener in &listeners {
            assert_eq!(listener.local_addr().unwrap(), addr);
        }
    }

    #[test]
    fn a_port_that_is_in_use_is_refused_even_when_it_could_be_shared() {
        let (taken, _listeners) = listen(ANY_PORT, 1).unwrap();
        let error = listen(taken, 2).unwrap_err();
        assert!(matches!(error, StartError::PortInUse(addr) if addr == taken), "{error}");
        assert!(error.to_string().contains("--http"), "{error}");
    }

    #[test]
    fn a_port_is_free_again_when_its_listeners_are_gone() {
        let (addr, listeners) = listen(ANY_PORT, 2).unwrap();
        let _client = std::net::TcpStream::connect(addr).unwrap();
        drop(listeners);
        assert!(listen(addr, 2).is_ok());
    }

    #[test]
    fn an_address_of_another_machine_is_refused() {
        let error = listen("192.0.2.1:8080".parse().unwrap(), 1).unwrap_err();
        assert!(matches!(error, StartError::Listen(..)), "{error}");
    }
}
