//! One invocation in a process: the request in, the response out.

use std::{
    io,
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri, Version,
    header::{HOST, SEC_WEBSOCKET_PROTOCOL},
    uri::PathAndQuery,
};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::{body::Incoming, client::conn::http1::SendRequest};
use minnow_model::{Level, LogSource, problem::Code};
use tokio::time::Instant;

use super::process::{CallGuard, Ending, LoadFailure, MAX_HEAD_BYTES, Process, REQUEST};
use crate::{
    deliver::EventKind,
    invocation::{Body, BodyError, Invocation, Upgrade},
    meter::Run,
    runtime::Place,
    wasm::{RequestBody, note_guest_failure, note_timeout},
};

static FAILURE: HeaderName = HeaderName::from_static("x-minnow-failure");
/// What the request is, where it is none of a client.
static EVENT: HeaderName = HeaderName::from_static("x-minnow-event");
static WAITS: HeaderName = HeaderName::from_static("x-minnow-waits");

/// Connections tried for one request: one that was idle may have been closed at this moment.
const TRIES: u32 = 3;

/// Runs an invocation to the head of its response; the body streams behind it. `None`: the run says why there is none.
pub(crate) async fn invoke(run: &Arc<Run>, place: Place, invocation: Invocation) -> Option<Response<Body>> {
    let ends = Instant::from_std(run.started) + run.function.spec().limits.timeout;
    match tokio::time::timeout_at(ends, start_and_send(run, place, invocation)).await {
        Ok(response) => response,
        Err(_) => {
            note_timeout(run);
            None
        }
    }
}

async fn start_and_send(run: &Arc<Run>, place: Place, mut invocation: Invocation) -> Option<Response<Body>> {
    let upgrade = invocation.upgrade.take();
    let place = Arc::new(place);
    let mut request = to_process(run, invocation);
    if upgrade.is_some() {
        space_protocols(request.headers_mut());
    }
    for _ in 0..TRIES {
        let (process, is_new) = match run.function.js().process(&run.function).await {
            Ok(found) => found,
            Err(failure) => {
                note_load_failure(run, &failure);
                return None;
            }
        };
        run.cold.store(is_new, Relaxed);
        // It was ended in this moment, for want of invocations.
        let Some(call) = process.begin(run, &place) else { continue };
        request.headers_mut().insert(&REQUEST, number_value(&call));
        let mut sender = match process.connection().await {
            Ok(sender) => sender,
            Err(_) if process.has_ended() || process.ending().await.is_some() => continue,
            Err(error) if has_no_server(&error) => {
                process.end(Ending::Crashed("it takes no more connections".into()));
                continue;
            }
            Err(error) => {
                note_guest_failure(run, Code::Internal, format!("the function's process takes no connection: {error}"));
                return None;
            }
        };
        match sender.try_send_request(request).await {
            Ok(response) => return answer(run, call, sender, response, upgrade),
            Err(mut error) => match error.take_message() {
                Some(unsent) => request = unsent,
                None => {
                    note_broken(run, &process, &error.into_error()).await;
                    return None;
                }
            },
        }
    }
    note_guest_failure(run, Code::FunctionExited, "the function's processes end as soon as they are started".into());
    None
}

/// Whether a process took no connection because nobody listens in it any more. Any other reason lies with the node, or passes.
fn has_no_server(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound)
}

/// The request as the process gets it.
fn to_process(run: &Arc<Run>, invocation: Invocation) -> Request<Body> {
    let (mut head, body) = invocation.request.into_parts();
    // A client may have sent one.
    head.headers.remove(&EVENT);
    match head.extensions.remove::<EventKind>() {
        Some(EventKind::Messages) => drop(head.headers.insert(&EVENT, HeaderValue::from_static("queue"))),
        Some(EventKind::Tick) => drop(head.headers.insert(&EVENT, HeaderValue::from_static("scheduled"))),
        None => {}
    }
    if !head.headers.contains_key(HOST) {
        let host = head.uri.authority().and_then(|authority| HeaderValue::try_from(authority.as_str()).ok());
        head.headers.insert(HOST, host.unwrap_or(HeaderValue::from_static("localhost")));
    }
    let path = head.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    head.uri = Uri::from(path);
    head.version = Version::HTTP_11;
    Request::from_parts(head, RequestBody::new(run, body).boxed_unsync())
}

/// Deno splits the list of protocols at a comma with a space only; RFC 9110 section 5.6.1 does without.
fn space_protocols(headers: &mut HeaderMap) {
    let lists = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    let protocols: Vec<&str> = lists.flat_map(|list| list.split(',')).map(str::trim).collect();
    if let (true, Ok(list)) = (!protocols.is_empty(), HeaderValue::try_from(protocols.join(", "))) {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, list);
    }
}

fn number_value(call: &CallGuard) -> HeaderValue {
    // Hexadecimal digits are a valid value.
    HeaderValue::try_from(call.number().to_string()).unwrap_or(HeaderValue::from_static(""))
}

/// Makes of the head that the process sent what the client gets.
fn answer(
    run: &Arc<Run>,
    call: CallGuard,
    sender: SendRequest<Body>,
    mut response: Response<Incoming>,
    upgrade: Option<Upgrade>,
) -> Option<Response<Body>> {
    if response.headers_mut().remove(&WAITS).is_some() {
        call.waits();
    }
    if let Some(failure) = response.headers_mut().remove(&FAILURE) {
        note_handler_failure(run, call.process(), failure.as_bytes());
        call.through();
        return None;
    }
    let head_bytes: usize = response.headers().iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    if head_bytes > MAX_HEAD_BYTES {
        note_guest_failure(
            run,
            Code::InvalidResponse,
            format!("its headers have {head_bytes} bytes, the most is 64 KiB"),
        );
        return None;
    }
    if response.status() == StatusCode::SWITCHING_PROTOCOLS
        && let Some(upgrade) = upgrade
    {
        call.upgraded();
        return Some(super::upgraded(run, call, response, upgrade));
    }
    run.returned();
    let (parts, inner) = response.into_parts();
    let mut body = ResponseBody { inner, call: Some(call), sender: Some(sender), run: Arc::clone(run) };
    if body.inner.is_end_stream() {
        body.finish();
    } else if let Some(call) = &body.call {
        call.streams();
    }
    Some(Response::from_parts(parts, body.boxed_unsync()))
}

/// The bootstrap says that the handler gave no response.
fn note_handler_failure(run: &Run, process: &Process, failure: &[u8]) {
    let code = match failure {
        b"memory" => {
            process.retire();
            Code::MemoryLimit
        }
        b"threw" => Code::FunctionTrapped,
        b"not_a_response" => Code::InvalidResponse,
        _ => Code::NoResponse,
    };
    match run.broken_request() {
        Some(_) => note_guest_failure(run, code, "the handler gave no response".into()),
        // The bootstrap has written why to the log.
        None => run.fail(code),
    }
}

fn note_load_failure(run: &Run, failure: &LoadFailure) {
    let code = match failure {
        LoadFailure::Full => Code::NodeOverloaded,
        LoadFailure::HeldBack(_) => Code::HeldBack,
        LoadFailure::Unavailable(_) => Code::JavascriptUnavailable,
        LoadFailure::Memory => Code::MemoryLimit,
        LoadFailure::Cpu(_) => Code::CpuLimit,
        LoadFailure::Module(_) | LoadFailure::Timeout(_) | LoadFailure::Crashed(_) => Code::LoadFailed,
    };
    run.fail(code);
    run.log(Level::Error, LogSource::Node, format!("not started: {failure}"));
}

/// The connection to the process broke off: why, as far as it is known.
async fn note_broken(run: &Run, process: &Process, error: &hyper::Error) {
    // What is no HTTP was sent by a process that lives.
    let ending = if error.is_parse() || run.broken_request().is_some() { None } else { process.ending().await };
    match ending {
        Some(ending) => {
            run.fail(ending.code());
            let why = ending.describe(&run.function.spec().limits);
            run.log(Level::Error, LogSource::Node, format!("ended with the function's process, which {why}"));
        }
        None => {
            note_guest_failure(run, Code::InvalidResponse, format!("the function's response cannot be read: {error}"))
        }
    }
}

/// The body of a process's response. Dropping it before its end closes the connection, which aborts `request.signal`.
struct ResponseBody {
    inner: Incoming,
    call: Option<CallGuard>,
    sender: Option<SendRequest<Body>>,
    run: Arc<Run>,
}

impl ResponseBody {
    /// The response is through: the connection is free for the next request.
    fn finish(&mut self) {
        if let (Some(call), Some(sender)) = (self.call.take(), self.sender.take()) {
            // A connection on which the request still comes in would make the next one wait for that.
            if self.run.has_read_request() {
                call.process().keep(sender);
            }
            call.through();
        }
    }
}

impl http_body::Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        match Pin::new(&mut this.inner).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                if this.inner.is_end_stream() {
                    this.finish();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(None) => {
                this.finish();
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => {
                // Why is known a moment later; the client only hears that the response is not whole.
                if let Some(call) = this.call.take() {
                    let run = Arc::clone(&this.run);
                    tokio::spawn(async move { note_broken(&run, call.process(), &error).await });
                }
                Poll::Ready(Some(Err(BodyError::Guest)))
            }
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
