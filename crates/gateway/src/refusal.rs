//! Requests that the gateway answers itself: RFC 9457 problem documents.

use std::time::Duration;

use bytes::Bytes;
use http::{
    HeaderName, HeaderValue, Response, StatusCode,
    header::{ALLOW, CONTENT_TYPE, RETRY_AFTER},
};
use minnow_model::{Code, Problem, RequestId};

use crate::body::Content;

/// Why a request is not answered by what it asked for.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) problem: Box<Problem>,
    /// The methods that work, when another one would.
    pub(crate) allow: Vec<String>,
    /// When a client that was refused with 503 may try again, in whole seconds.
    pub(crate) retry_after: Duration,
    /// What else its head has.
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
}

/// For want of room: queues empty in less.
const RETRY_AFTER_WANT_OF_ROOM: Duration = Duration::from_secs(1);

impl From<Code> for Refusal {
    fn from(code: Code) -> Self {
        Box::new(Problem::new(code)).into()
    }
}

impl From<Box<Problem>> for Refusal {
    fn from(problem: Box<Problem>) -> Self {
        Self { problem, allow: Vec::new(), retry_after: RETRY_AFTER_WANT_OF_ROOM, headers: Vec::new() }
    }
}

impl Refusal {
    pub(crate) fn bad_request(detail: impl Into<String>) -> Self {
        Box::new(Problem::new(Code::BadRequest).detail(detail)).into()
    }

    pub(crate) fn method_not_allowed(allow: Vec<String>) -> Self {
        Self { allow, ..Code::MethodNotAllowed.into() }
    }

    /// The response for the request `id`.
    pub(crate) fn into_response(mut self, id: RequestId) -> Response<Content> {
        self.problem.request_id = Some(id);
        let mut response = Response::new(Content::Bytes(Bytes::from(self.problem.to_json())));
        let status = StatusCode::from_u16(self.problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(Problem::CONTENT_TYPE));
        headers.extend(self.headers);
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(RETRY_AFTER, HeaderValue::from(self.retry_after.as_secs()));
        }
        // RFC 9110 section 15.5.6: a 405 lists the methods that work.
        if status == StatusCode::METHOD_NOT_ALLOWED {
            // The names come from routes, which are checked when a version is published.
            if let Ok(allow) = HeaderValue::try_from(self.allow.join(", ")) {
                headers.insert(ALLOW, allow);
            }
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_a_problem_document_with_the_request_id() {
        for (refusal, status, retry_after, allow) in [
            (Refusal::from(Code::UnknownApp), 404, None, None),
            (Refusal::from(Code::Overloaded), 503, Some("1"), None),
            (Refusal::from(Code::NodeOverloaded), 503, Some("1"), None),
            (Refusal { retry_after: Duration::from_secs(60), ..Code::HeldBack.into() }, 503, Some("60"), None),
            (Refusal::method_not_allowed(vec!["GET".into(), "HEAD".into()]), 405, None, Some("GET, HEAD")),
            (Refusal::bad_request("what is wrong"), 400, None, None),
        ] {
            let code = refusal.problem.code;
            let response = refusal.into_response(RequestId(7));
            assert_eq!(response.status(), status);
            let header = |name| response.headers().get(name).map(|value: &HeaderValue| value.to_str().unwrap());
            assert_eq!(header(CONTENT_TYPE), Some("application/problem+json"));
            assert_eq!(header(RETRY_AFTER), retry_after);
            assert_eq!(header(ALLOW), allow);
            let Content::Bytes(body) = response.into_body() else { panic!("no body") };
            let body = String::from_utf8(body.to_vec()).unwrap();
            assert!(body.contains(&format!(r#""code":"{}""#, code.as_str())), "{body}");
            assert!(body.contains(r#""request_id":"00000000000000000000000000000007""#), "{body}");
        }
    }
}
