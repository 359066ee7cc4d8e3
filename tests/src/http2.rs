//! An HTTP/2 client that begins without asking (prior knowledge).

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};

/// Sends several GET requests at once on one connection, and gives the status and body of each, in their order.
pub fn get_all(address: SocketAddr, host: &str, paths: &[&str]) -> Vec<(u16, String)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let (sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let calls: Vec<_> = paths
            .iter()
            .map(|path| {
                let mut sender = sender.clone();
                let request =
                    http::Request::get(format!("http://{host}{path}")).body(Full::<Bytes>::default()).unwrap();
                tokio::spawn(async move {
                    let response = sender.send_request(request).await.unwrap();
                    let status = response.status().as_u16();
                    let body = response.into_body().collect().await.unwrap().to_bytes();
                    (status, String::from_utf8_lossy(&body).into_owned())
                })
            })
            .collect();
        let mut answers = Vec::new();
        for call in calls {
            answers.push(call.await.unwrap());
        }
        answers
    })
}

/// Sends one GET request, and takes it back (RST_STREAM) once `is_running` says so; the connection stays open until `is_over`
/// does. Both are asked again and again.
pub fn take_back(
    address: SocketAddr,
    host: &str,
    path: &str,
    is_running: impl Fn() -> bool,
    is_over: impl Fn() -> bool,
) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let request = http::Request::get(format!("http://{host}{path}")).body(Full::<Bytes>::default()).unwrap();
        let response = sender.send_request(request);
        let call = tokio::spawn(response);
        wait(is_running).await;
        call.abort();
        wait(is_over).await;
        assert!(!sender.is_closed(), "the connection was to stay");
    });
}

/// Looks at a condition until it holds, and lets the connection go on meanwhile.
async fn wait(condition: impl Fn() -> bool) {
    let until = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(crate::PATIENCE, until).await.expect("the condition comes to hold");
}
