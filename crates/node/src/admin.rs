//! The listener of the control API.
//!
//! It may be open to a network, and whoever connects has shown no token yet: so connections are bounded, and so is the time
//! that a request's head may take.

use std::{io, pin::pin, sync::Arc, time::Duration};

use axum::Router;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
};

/// Connections at once: dozens of operators, pipelines and followers of logs. Further ones wait to be accepted.
const MAX_CONNECTIONS: u32 = 256;

/// How long a connection may go without a whole request head, also between two requests.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// Serves `router` until `stop` says so, then lets the requests end that are under way.
pub(crate) async fn serve(listener: TcpListener, router: Router, mut stop: watch::Receiver<bool>) {
    // HTTP/1.1 is what a proxy speaks without TLS, and its head has a time from the first byte on.
    let mut protocol = auto::Builder::new(TokioExecutor::new()).http1_only();
    protocol.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    let protocol = Arc::new(protocol);
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS as usize));
    let stopped = stop.clone();
    let accepting = async {
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    refuse_for_a_while(&error).await;
                    continue;
                }
            };
            let (protocol, router, stopped) = (Arc::clone(&protocol), router.clone(), stopped.clone());
            tokio::spawn(async move {
                converse(&protocol, stream, router, stopped).await;
                drop(place);
            });
        }
    };
    // An error means that the node is gone, which stops it as well.
    let until_stopped = async { drop(stop.wait_for(|stop| *stop).await) };
    tokio::select! {
        () = accepting => {}
        () = until_stopped => {}
    }
    drop(listener);
    // All places are free again when the last connection has ended.
    let _ = places.acquire_many(MAX_CONNECTIONS).await;
}

/// Speaks HTTP with one client until either side is done.
async fn converse(
    protocol: &auto::Builder<TokioExecutor>,
    stream: TcpStream,
    router: Router,
    mut stop: watch::Receiver<bool>,
) {
    // Without it the last, short packet of a response waits for the client's delayed ACK: 40 ms.
    let _ = stream.set_nodelay(true);
    let mut http = pin!(protocol.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router)));
    let stopped = async move { drop(stop.wait_for(|stop| *stop).await) };
    let ended = tokio::select! {
        ended = http.as_mut() => ended,
        () = stopped => {
            http.as_mut().graceful_shutdown();
            http.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection to the control API ended early");
    }
}

/// Waits a little after a failed accept. Out of file descriptors, the next one would fail as well, and at once.
async fn refuse_for_a_while(error: &io::Error) {
    if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) {
        return;
    }
    tracing::warn!(%error, "the control API cannot accept connections");
    tokio::time::sleep(Duration::from_millis(50)).await;
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn requests_are_answered_until_it_is_stopped() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let router = Router::new().route("/", axum::routing::get(async || "hello"));
        let (stop, stopped) = watch::channel(false);
        let serving = tokio::spawn(serve(listener, router, stopped));
        let mut client = TcpStream::connect(addr).await.unwrap();
        client.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut answer = vec![0; 4096];
        let length = client.read(&mut answer).await.unwrap();
        assert!(String::from_utf8_lossy(&answer[..length]).ends_with("hello"));

        stop.send_replace(true);
        tokio::time::timeout(Duration::from_secs(5), serving).await.unwrap().unwrap();
        assert_eq!(client.read(&mut answer).await.unwrap(), 0, "an idle connection is closed");
    }
}
