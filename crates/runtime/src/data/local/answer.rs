//! What a call is answered with: content, or a problem document with the codes of docs/errors.md.

use std::{io, sync::Arc};

use bytes::Bytes;
use http::{
    HeaderValue, Response, StatusCode,
    header::{ALLOW, CONTENT_TYPE},
};
use http_body_util::{BodyExt as _, Full, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use minnow_model::{Code, Problem, RequestId};
use minnow_store::{BucketError, KvError, LockError, SqlError};
use serde::Serialize;

use super::{
    Flags,
    memory::{Memory, Room},
};
use crate::data::{Denied, codes, told};

/// The longest answer in JSON, in bytes. The rows of one call are at most 16 MiB; blobs and escapes make them longer as JSON.
pub(super) const MAX_JSON_BYTES: usize = 32 << 20;

pub(super) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// Why a call is not done.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) problem: Box<Problem>,
    /// The methods that the path has.
    allow: Option<&'static str>,
}

impl Refusal {
    pub(super) fn new(code: Code, detail: impl Into<String>) -> Self {
        Self { problem: Box::new(Problem::new(code).detail(detail)), allow: None }
    }

    /// What was sent cannot be carried out as it is.
    pub(super) fn invalid(detail: impl Into<String>) -> Self {
        Self::new(Code::Invalid, detail)
    }

    pub(super) fn method(allow: &'static str) -> Self {
        Self { allow: Some(allow), ..Self::new(Code::MethodNotAllowed, format!("this path has {allow}")) }
    }

    pub(super) fn no_key(key: &str) -> Self {
        Self::new(Code::NotFound, format!("the store has no key `{key}`"))
    }

    /// `told` is what functions are told of the error, which has been written into the node's log where it is the node's own.
    fn of(code: Code, is_refusal: bool, told: String) -> Self {
        let problem = Problem::new(code);
        Self { problem: Box::new(if is_refusal { problem.detail(told) } else { problem }), allow: None }
    }

    pub(super) fn into_response(self, request: RequestId) -> Response<Body> {
        let status = StatusCode::from_u16(self.problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = Response::new(whole(self.problem.request_id(request).to_json().into()));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(Problem::CONTENT_TYPE));
        if let Some(allow) = self.allow {
            headers.insert(ALLOW, HeaderValue::from_static(allow));
        }
        response
    }
}

impl From<Denied> for Refusal {
    fn from(denied: Denied) -> Self {
        Self::new(Code::NotGranted, denied.to_string())
    }
}

macro_rules! service_error {
    ($($error:ty => $code:path),+) => {
        $(impl From<$error> for Refusal {
            fn from(error: $error) -> Self {
                Self::of($code(&error), error.is_refusal(), told(&error, error.is_refusal()))
            }
        })+
    };
}

service_error!(
    KvError => codes::of_kv,
    SqlError => of_sql,
    BucketError => codes::of_bucket,
    LockError => codes::of_lock
);

/// That a database may only be read is for a function a matter of its grant.
fn of_sql(error: &SqlError) -> Code {
    if matches!(error, SqlError::ReadOnly) { Code::NotGranted } else { codes::of_sql(error) }
}

pub(super) fn whole(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

/// An answer without content.
pub(super) fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(whole(Bytes::new()));
    *response.status_mut() = status;
    response
}

/// Content whose memory is held until it has been read.
pub(super) fn held(bytes: Bytes, room: Room) -> Bytes {
    struct Held(Bytes, #[allow(dead_code, reason = "it gives the memory back when the content goes")] Room);

    impl AsRef<[u8]> for Held {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }

    Bytes::from_owner(Held(bytes, room))
}

/// Answers with `value` as JSON. `room` holds what `value` takes; it is given back when the JSON is there.
pub(super) fn json(
    status: StatusCode,
    value: &impl Serialize,
    memory: &Arc<Memory>,
    room: Option<Room>,
) -> Result<Response<Body>, Refusal> {
    /// Grows to its bound and no further.
    struct Bounded(Vec<u8>);

    impl io::Write for Bounded {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.0.len() + bytes.len() > MAX_JSON_BYTES {
                return Err(io::ErrorKind::FileTooLarge.into());
            }
            let length = self.0.len() + bytes.len();
            if length > self.0.capacity() {
                let capacity = length.max(self.0.capacity().saturating_mul(2)).min(MAX_JSON_BYTES);
                self.0.reserve_exact(capacity - self.0.len());
            }
            self.0.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    let mut of_json = memory.expect(MAX_JSON_BYTES)?;
    let mut written = Bounded(Vec::new());
    serde_json::to_writer(&mut written, value).map_err(|_| {
        let detail = format!("the answer has more than {MAX_JSON_BYTES} bytes as JSON; ask for less at once");
        Refusal::new(Code::TooLarge, detail)
    })?;
    drop(room);
    of_json.fill(written.0.capacity())?;
    let mut response = Response::new(whole(held(written.0.into(), of_json)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

/// The whole of a request's body, of at most `most` bytes, and its memory.
pub(super) async fn whole_body(
    body: Incoming,
    most: usize,
    memory: &Arc<Memory>,
    flags: &Flags,
) -> Result<(Bytes, Room), Refusal> {
    use hyper::body::Body as _;
    let too_large =
        || Refusal::new(Code::TooLarge, format!("the body has more than the {most} bytes that this call takes"));
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if announced > most {
        return Err(too_large());
    }
    let mut room = memory.expect(announced)?;
    let mut whole = Vec::new();
    let mut body = body;
    while let Some(piece) = piece(&mut body, flags).await? {
        let length = whole.len() + piece.len();
        if length > most {
            return Err(too_large());
        }
        if length > whole.capacity() {
            // With its length announced it is one allocation; without, it doubles.
            let capacity = length.max(announced).max(whole.capacity().saturating_mul(2)).min(most);
            room.fill(capacity)?;
            whole.reserve_exact(capacity - whole.len());
        }
        whole.extend_from_slice(&piece);
    }
    Ok((whole.into(), room))
}

/// The next piece of a body.
pub(super) async fn piece(body: &mut Incoming, flags: &Flags) -> Result<Option<Bytes>, Refusal> {
    loop {
        let frame = flags.while_it_reads(body.frame()).await;
        match frame {
            None => return Ok(None),
            Some(Ok(frame)) => {
                if let Ok(piece) = frame.into_data() {
                    return Ok(Some(piece));
                }
            }
            Some(Err(error)) => {
                return Err(Refusal::new(Code::BadRequest, format!("the body cannot be read: {error}")));
            }
        }
    }
}
