//! Requests that were taken earlier, whose answer nobody waits for: asynchronous invokes. And what the node sends for a function, to
//! tell somebody what became of one.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Uri};
use http_body_util::{BodyExt as _, Full};
use minnow_model::{RequestId, problem::Code};
use serde::{Deserialize, Serialize};

use crate::{
    Body, Delivered, Function, Invocation, Runtime, TraceContext,
    deliver::{of_problem, retry_after},
    egress::{Caller, Patience, set_trace},
    meter::Run,
    runtime::Place,
};

/// How much of an answer's body is kept, in bytes: what AWS Lambda sends of one to a destination.
pub const MAX_KEPT_ANSWER_BYTES: usize = 256 << 10;

/// How much of an answer's header fields is kept, names and values together, in bytes. Beyond it they are left out.
pub const MAX_KEPT_HEAD_BYTES: usize = 16 << 10;

/// How much is read of what a destination answers, so that its connection can be used again.
const MAX_SENT_ANSWER_BYTES: usize = 64 << 10;

/// Tells the function under which id it was invoked: the same at each try.
static RUN: HeaderName = HeaderName::from_static("minnow-run");
/// Tells the function how often it was tried, 1 the first time.
static TRY: HeaderName = HeaderName::from_static("minnow-try");

/// A request that waits to be run. Whoever makes one has checked its parts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredRequest {
    pub method: String,
    /// With the query.
    pub path: String,
    pub headers: Vec<(String, String)>,
    #[serde(skip)]
    pub body: Bytes,
}

impl StoredRequest {
    /// What is kept of a request. Header fields that are not UTF-8 are left out.
    pub fn of(request: &Request<Bytes>) -> Self {
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        Self {
            method: request.method().to_string(),
            path: path.to_owned(),
            headers: texts(request.headers()).collect(),
            body: request.body().clone(),
        }
    }

    fn request(&self, host: &str) -> Option<Request<Body>> {
        let mut request = Request::new(full(self.body.clone()));
        *request.method_mut() = self.method.parse().ok()?;
        *request.uri_mut() = format!("http://{host}{}", self.path).parse().ok()?;
        for (name, value) in &self.headers {
            request.headers_mut().append(name.parse::<HeaderName>().ok()?, HeaderValue::from_str(value).ok()?);
        }
        Some(request)
    }
}

/// What a function answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    /// Those that are UTF-8, up to [`MAX_KEPT_HEAD_BYTES`].
    pub headers: Vec<(String, String)>,
    /// Up to [`MAX_KEPT_ANSWER_BYTES`].
    pub body: Bytes,
    /// Whether the body was longer.
    pub is_cut: bool,
}

/// Which run it is.
#[derive(Debug, Clone, Copy)]
pub struct Try {
    /// That of the run, at each try.
    pub id: RequestId,
    /// 1 the first time.
    pub number: u32,
}

impl Runtime {
    /// Runs a function for a request that was taken earlier, if it has a place for that now. `host` is `APP.DOMAIN`, `script_len` as in
    /// [`Invocation`]. Answers also what the function answered, if it did. Dropping the future stops the guest.
    pub async fn run_stored(
        self: &Arc<Self>,
        function: &Arc<Function>,
        Try { id, number }: Try,
        trace: TraceContext,
        host: &str,
        script_len: impl FnOnce(&Request<Body>) -> usize,
        stored: &StoredRequest,
    ) -> (Delivered, Option<Answer>) {
        let spec = function.spec();
        if spec.lacks_secrets {
            return (Delivered::NotNow(Code::SecretMissing, None), None);
        }
        if let Some(held) = function.held_for() {
            return (Delivered::NotNow(Code::HeldBack, Some(held)), None);
        }
        if stored.body.len() as u64 > spec.limits.request_body_bytes {
            return (Delivered::Failed(Code::RequestTooLarge), None);
        }
        let Some(mut request) = stored.request(host) else { return (Delivered::Failed(Code::Internal), None) };
        if let Ok(value) = HeaderValue::from_str(&id.to_string()) {
            request.headers_mut().insert(&RUN, value);
        }
        request.headers_mut().insert(&TRY, HeaderValue::from(number));
        set_trace(request.headers_mut(), id, &trace);
        let Some(place) = Place::try_take(self, function) else {
            return (Delivered::NotNow(Code::Overloaded, None), None);
        };
        let run = Arc::new(Run::new(Arc::clone(function), id, trace, Duration::ZERO, None));
        let script_len = script_len(&request);
        let invocation =
            Invocation { id, trace, request, scheme: "http", peer: None, script_len, upgrade: None, on_end: None };
        let response = match self.run_in(place, Arc::clone(&run), invocation).await {
            Ok(response) => response,
            Err(problem) => return (of_problem(problem.code, function), None),
        };
        let (head, body) = response.into_parts();
        let Some((body, is_cut)) = read(body, MAX_KEPT_ANSWER_BYTES).await else {
            // What broke the answer off is noted; a function that ends in the middle of one has crashed.
            return (Delivered::Failed(run.failure().unwrap_or(Code::FunctionTrapped)), None);
        };
        let retry_after = match head.status.as_u16() {
            429 | 503 => retry_after(&head.headers, SystemTime::now()),
            _ => None,
        };
        let status = head.status.as_u16();
        let delivered = Delivered::Answered { status, retry_after, answer: Bytes::new(), acks: None };
        let mut room = MAX_KEPT_HEAD_BYTES;
        let headers = texts(&head.headers).take_while(|(name, value)| {
            let left = room.checked_sub(name.len() + value.len());
            room = left.unwrap_or(0);
            left.is_some()
        });
        (delivered, Some(Answer { status, headers: headers.collect(), body, is_cut }))
    }

    /// Sends a request as the function could, where its `egress` allows that, and answers the status. What comes with it is read and
    /// dropped. An error says in words why there is no answer.
    pub async fn send_for(
        &self,
        function: &Function,
        request: Request<Bytes>,
        patience: Duration,
    ) -> Result<u16, String> {
        let request = request.map(|body| Full::new(body).map_err(|never| match never {}).boxed_unsync());
        let exchange = async {
            let caller = Caller::of(function.spec());
            let response = self.egress.exchange(&caller, Arc::default(), request, Patience::default()).await;
            let (head, body) = response.map_err(|error| error.to_string())?.into_parts();
            // The status is all that counts.
            let _ = read(body, MAX_SENT_ANSWER_BYTES).await;
            Ok(head.status.as_u16())
        };
        let too_long = || Err(format!("there was no answer within {} s", patience.as_secs()));
        tokio::time::timeout(patience, exchange).await.unwrap_or_else(|_| too_long())
    }
}

/// The first `most` bytes of a body, and whether there were more; `None` where it broke off. All of it is read.
async fn read<B>(mut body: B, most: usize) -> Option<(Bytes, bool)>
where
    B: http_body::Body<Data = Bytes> + Unpin,
{
    let mut kept = BytesMut::new();
    let mut is_cut = false;
    while let Some(frame) = body.frame().await {
        if let Some(data) = frame.ok()?.data_ref() {
            let room = most - kept.len();
            is_cut |= data.len() > room;
            kept.extend_from_slice(data.get(..room).unwrap_or(data));
        }
    }
    Some((kept.freeze(), is_cut))
}

fn texts(headers: &HeaderMap) -> impl Iterator<Item = (String, String)> {
    let text = |(name, value): (&HeaderName, &HeaderValue)| {
        Some((name.to_string(), std::str::from_utf8(value.as_bytes()).ok()?.to_owned()))
    };
    headers.iter().filter_map(text)
}

fn full(body: Bytes) -> Body {
    Full::new(body).map_err(|never| match never {}).boxed_unsync()
}

/// A POST to a destination; `None` where the URL cannot be sent to.
pub fn post(url: &str, headers: Vec<(String, String)>, body: Bytes) -> Option<Request<Bytes>> {
    let uri: Uri = url.parse().ok()?;
    let mut request = Request::new(body);
    *request.method_mut() = http::Method::POST;
    *request.uri_mut() = uri;
    for (name, value) in headers {
        // The names of attributes are names of headers, and values are encoded.
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            request.headers_mut().append(name, value);
        }
    }
    Some(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_kept_and_made_again() {
        let mut request = Request::new(Bytes::from_static(b"{}"));
        *request.method_mut() = http::Method::PUT;
        *request.uri_mut() = "http://shop.localhost/a%20b?c=d&e".parse().unwrap();
        for (name, value) in [("host", "shop.localhost"), ("x-two", "1"), ("x-two", "å")] {
            request.headers_mut().append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        request.headers_mut().insert("x-raw", HeaderValue::from_bytes(b"\xff").unwrap());
        let stored = StoredRequest::of(&request);
        let json = serde_json::to_string(&stored).unwrap();
        let read: StoredRequest = serde_json::from_str(&json).unwrap();
        assert_eq!(StoredRequest { body: stored.body.clone(), ..read }, stored);
        let made = stored.request("shop.localhost").unwrap();
        assert_eq!((made.method(), made.uri()), (request.method(), request.uri()));
        request.headers_mut().remove("x-raw");
        assert_eq!(made.headers(), request.headers());
    }

    #[tokio::test]
    async fn of_a_body_no_more_is_kept_than_there_is_room_for() {
        for (text, most, kept, is_cut) in [("abc", 3, "abc", false), ("abcd", 3, "abc", true), ("", 3, "", false)] {
            let body = Full::new(Bytes::from_static(text.as_bytes()));
            assert_eq!(read(body, most).await, Some((Bytes::from_static(kept.as_bytes()), is_cut)));
        }
    }
}
