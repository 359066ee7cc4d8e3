//! The benchmarks' limit: what hyper does on one thread when nothing stands behind it.
//!
//! `plain-hyper ADDRESS [--chunked] ["name: value"]...` answers every request with 200, the header lines that it was
//! given, and "Hello, World!". The harness gives it the header lines of the node's own answer, so that both send the
//! same bytes. Allocator, TCP_NODELAY and `pipeline_flush` are as in the node.

use std::{
    convert::Infallible,
    error::Error,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const BODY: &[u8] = b"Hello, World!\n";

/// A body in one piece. Where its length is not told beforehand, hyper sends it chunked.
struct Piece {
    data: Option<Bytes>,
    chunked: bool,
}

impl Body for Piece {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.data.take().map(|data| Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.data {
            Some(data) if !self.chunked => SizeHint::with_exact(data.len() as u64),
            Some(_) => SizeHint::default(),
            None => SizeHint::with_exact(0),
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().ok_or("usage: plain-hyper ADDRESS [--chunked] [\"name: value\"]...")?;
    let mut chunked = false;
    let mut headers = HeaderMap::new();
    for argument in arguments {
        if argument == "--chunked" {
            chunked = true;
            continue;
        }
        let (name, value) = argument.split_once(": ").ok_or_else(|| format!("not a header line: {argument}"))?;
        headers.append(name.parse::<HeaderName>()?, HeaderValue::from_str(value)?);
    }

    let listener = TcpListener::bind(&address).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let headers = headers.clone();
        tokio::spawn(async move {
            let service = service_fn(|_request| {
                let mut response = Response::new(Piece { data: Some(Bytes::from_static(BODY)), chunked });
                *response.headers_mut() = headers.clone();
                std::future::ready(Ok::<_, Infallible>(response))
            });
            // A client that goes away is no event worth a line in a benchmark.
            let _ = http1::Builder::new().pipeline_flush(true).serve_connection(TokioIo::new(stream), service).await;
        });
    }
}
