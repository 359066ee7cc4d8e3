//! An HTTP/2 client that begins without asking (prior knowledge).

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{
    body::{Body, Frame},
    client::conn::http2::{self, SendRequest},
};
use hyper_util::rt::{TokioExecutor, TokioIo};

use crate::until;

/// The window of a stream that HTTP/2 begins with, in bytes (RFC 9113 section 6.9.2).
const USUAL_WINDOW: u32 = 65_535;

/// A thread of its own drives the connection, so that the caller may block.
fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

/// Opens a connection whose streams begin with a window of `window` bytes.
async fn connect<B>(address: SocketAddr, window: u32) -> SendRequest<B>
where
    B: Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + Unpin + 'static,
{
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder.initial_stream_window_size(window);
    let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

/// Sends several GET requests at once on one connection, and gives the status and body of each, in their order.
pub fn get_all(address: SocketAddr, host: &str, paths: &[&str]) -> Vec<(u16, String)> {
    runtime().block_on(async {
        let sender = connect(address, USUAL_WINDOW).await;
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
    runtime().block_on(async {
        let mut sender = connect(address, USUAL_WINDOW).await;
        let request = http::Request::get(format!("http://{host}{path}")).body(Full::<Bytes>::default()).unwrap();
        let response = sender.send_request(request);
        let call = tokio::spawn(response);
        until("the request runs", is_running);
        call.abort();
        until("the request is over", is_over);
        assert!(!sender.is_closed(), "the connection was to stay");
    });
}

/// Sends the beginning of a POST request's body, and takes the request back (RST_STREAM) once something of the response's
/// body is there; the connection stays open until `is_over` says so, which is asked again and again.
pub fn take_back_upload(address: SocketAddr, host: &str, path: &str, is_over: impl Fn() -> bool) {
    runtime().block_on(async {
        let mut sender = connect(address, USUAL_WINDOW).await;
        let (give_up, given_up) = tokio::sync::oneshot::channel();
        let body = Begun { piece: Some("begun".into()), given_up };
        let request = http::Request::post(format!("http://{host}{path}")).body(body).unwrap();
        let mut response = sender.send_request(request).await.unwrap();
        assert_eq!(response.status(), 200);
        response.frame().await.unwrap().unwrap();
        drop((response, give_up));
        until("the request is over", is_over);
        assert!(!sender.is_closed(), "the connection was to stay");
    });
}

/// A body that begins and does not go on, until it is given up.
struct Begun {
    piece: Option<Bytes>,
    given_up: tokio::sync::oneshot::Receiver<()>,
}

impl Body for Begun {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match self.piece.take() {
            Some(piece) => Poll::Ready(Some(Ok(Frame::data(piece)))),
            None => Pin::new(&mut self.given_up).poll(context).map(|_| Some(Err(io::Error::other("given up")))),
        }
    }
}

/// Sends `count` GET requests on one connection and grants no window for their bodies; the connection stays open until
/// `is_over` says so, which is asked again and again. Gives the statuses of the heads that came.
pub fn take_nothing(address: SocketAddr, host: &str, path: &str, count: usize, is_over: impl Fn() -> bool) -> Vec<u16> {
    runtime().block_on(async {
        let sender = connect(address, 0).await;
        let mut calls = tokio::task::JoinSet::new();
        for _ in 0..count {
            let mut sender = sender.clone();
            let request = http::Request::get(format!("http://{host}{path}")).body(Full::<Bytes>::default()).unwrap();
            calls.spawn(async move { sender.send_request(request).await });
        }
        until("the request is over", is_over);
        // The bodies are held on to until here.
        let mut answers = Vec::new();
        while let Some(Ok(answer)) = calls.try_join_next() {
            answers.extend(answer);
        }
        answers.iter().map(|answer| answer.status().as_u16()).collect()
    })
}

/// Sends `count` GET requests on one connection, one after the other, and takes nothing of any body until all heads are here.
/// Gives the status and body of each.
pub fn take_late(address: SocketAddr, host: &str, path: &str, count: usize) -> Vec<(u16, String)> {
    runtime().block_on(async {
        let mut sender = connect(address, 1).await;
        let mut heads = Vec::new();
        for _ in 0..count {
            let request = http::Request::get(format!("http://{host}{path}")).body(Full::<Bytes>::default()).unwrap();
            heads.push(sender.send_request(request).await.unwrap());
        }
        let mut answers = Vec::new();
        for head in heads {
            let status = head.status().as_u16();
            let body = head.into_body().collect().await.unwrap().to_bytes();
            answers.push((status, String::from_utf8_lossy(&body).into_owned()));
        }
        answers
    })
}
