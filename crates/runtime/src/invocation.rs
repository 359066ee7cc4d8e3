//! One run of one function: what goes in and what comes out.

use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::upgrade::OnUpgrade;
use minnow_model::{Problem, RequestId, Usage};
use tokio::{
    sync::{oneshot, watch},
    time::Instant,
};

/// Why a body stream broke off.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BodyError {
    /// The request body grew beyond the function's limit, in bytes.
    #[error("the request body is larger than {0} bytes")]
    TooLarge(u64),
    /// The client went away or sent something that is not a body.
    #[error("the client's connection broke off")]
    Disconnected,
    /// The guest stopped before its response was complete.
    #[error("the function stopped before its response was complete")]
    Guest,
}

/// A request or response body, streamed with back-pressure.
pub type Body = UnsyncBoxBody<Bytes, BodyError>;

/// Where the request stands in a distributed trace (W3C Trace Context, level 1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    /// The span of this invocation; the trace id is the request id.
    pub span_id: u64,
    /// The caller's span, when it sent a valid `traceparent`.
    pub parent_id: Option<u64>,
    /// Trace flags; bit 0 is `sampled`.
    pub flags: u8,
}

/// The client's side of a WebSocket, offered to a function that may take it.
pub struct Upgrade {
    /// The client's connection, once a response with the status 101 and [`Upgraded`] was sent. Drop it before any other
    /// response: it may resolve to a connection that was not upgraded.
    pub client: OnUpgrade,
    /// Since when the node is stopping: `Some`, or the sender is gone.
    pub stop: watch::Receiver<Option<Instant>>,
}

/// Marks a response, in its extensions, as the answer to an [`Upgrade`]. Any other 101 is refused.
#[derive(Debug, Clone, Copy)]
pub struct Upgraded;

/// One request for one function.
pub struct Invocation {
    pub id: RequestId,
    pub trace: TraceContext,
    /// Method, URI (path and query as the client sent them, authority from the Host header), headers, body. The body
    /// must already enforce `limits.request_body`.
    pub request: http::Request<Body>,
    /// `http` or `https`, as the client sees it.
    pub scheme: &'static str,
    /// The client's address, for CGI's REMOTE_ADDR and the log.
    pub peer: Option<SocketAddr>,
    /// How many bytes of the path stand before the route's wildcard (CGI's SCRIPT_NAME); the rest is PATH_INFO.
    pub script_len: usize,
    /// Set when the request is a WebSocket handshake. Its `connection` and `upgrade` fields are there then, and in no other
    /// request.
    pub upgrade: Option<Upgrade>,
    /// Told once, when the invocation has ended and its response body was sent or dropped.
    pub on_end: Option<oneshot::Sender<Usage>>,
}

/// What an invocation comes to. An `Err` is what the client sees, with the request id in it; the reason is in the app's log.
pub type Outcome = Result<http::Response<Body>, Box<Problem>>;
