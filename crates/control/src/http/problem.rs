//! Errors on their way out: every one becomes a problem document with the id of its request, whoever made it.

use axum::{
    body::{Body, to_bytes},
    extract::Request,
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::{
    HeaderName, HeaderValue, StatusCode,
    header::{CONTENT_LENGTH, CONTENT_TYPE},
};
use minnow_model::{Code, Problem, RequestId};
use utoipa::ToSchema;

use crate::{ControlError, tokens::fill_random};

/// How much of a rejection's text becomes the problem's detail, in bytes.
const MAX_DETAIL_BYTES: usize = 4096;
/// Carries the id of the request in every response.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// An error of the API. It is written by [`identify`], which knows the id of the request.
#[derive(Debug, Clone)]
pub(crate) struct ApiError {
    problem: Problem,
    /// For the node's log; the client never sees it.
    cause: Option<String>,
}

impl ApiError {
    pub(crate) fn new(code: Code) -> Self {
        Self { problem: Problem::new(code), cause: None }
    }

    pub(crate) fn detail(mut self, detail: impl Into<String>) -> Self {
        self.problem = self.problem.detail(detail);
        self
    }
}

impl From<ControlError> for ApiError {
    fn from(error: ControlError) -> Self {
        let problem = error.problem();
        let mut cause = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(inner) = source {
            cause = format!("{cause}: {inner}");
            source = inner.source();
        }
        Self { problem, cause: Some(cause) }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// Marks an answer that [`identify`] leaves as it is: probes are read by machines that look at the status alone.
#[derive(Debug, Clone)]
pub(super) struct Probe;

/// The code of an error that the HTTP layer made itself: a body that does not parse, an unknown path or method.
fn code_of(status: StatusCode) -> Code {
    match status {
        StatusCode::UNAUTHORIZED => Code::Unauthorized,
        StatusCode::NOT_FOUND => Code::NotFound,
        StatusCode::METHOD_NOT_ALLOWED => Code::MethodNotAllowed,
        StatusCode::PAYLOAD_TOO_LARGE => Code::TooLarge,
        StatusCode::UNSUPPORTED_MEDIA_TYPE | StatusCode::UNPROCESSABLE_ENTITY => Code::Invalid,
        status if status.is_client_error() => Code::BadRequest,
        _ => Code::Internal,
    }
}

/// Gives the request its id, and writes errors. Every layer that may refuse is inside of this one.
pub(super) async fn identify(mut request: Request, next: Next) -> Response {
    let mut bytes = [0; 16];
    if let Err(error) = fill_random(&mut bytes) {
        tracing::error!(%error, "no randomness for a request id");
    }
    let id = RequestId(u128::from_ne_bytes(bytes));
    request.extensions_mut().insert(id);
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let response = next.run(request).await;
    let failed = response.status().is_client_error() || response.status().is_server_error();
    let mut response = if failed && response.extensions().get::<Probe>().is_none() {
        write_problem(response, id, method.as_str(), &path).await
    } else {
        response
    };
    if let Ok(value) = HeaderValue::from_str(&id.to_string()) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    response
}

/// What the operator has to look after.
#[derive(Debug, PartialEq, Eq)]
enum Fault {
    FullDisk,
    Other,
}

/// Whether the operator has to look after it: the node's log says so. A store that has reached its bounds is a refusal like others,
/// of which the caller is told the reason; of a full disk there is none for the caller.
fn fault(problem: &Problem) -> Option<Fault> {
    match problem.code {
        Code::Internal | Code::StoreDamaged => Some(Fault::Other),
        Code::StorageFull if problem.detail.is_none() => Some(Fault::FullDisk),
        _ => None,
    }
}

async fn write_problem(response: Response, id: RequestId, method: &str, path: &str) -> Response {
    let (mut parts, body) = response.into_parts();
    let error = match parts.extensions.remove::<ApiError>() {
        Some(error) => error,
        None => {
            let code = code_of(parts.status);
            let text = to_bytes(body, MAX_DETAIL_BYTES).await.unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            let error = ApiError::new(code);
            if text.is_empty() || code == Code::Internal { error } else { error.detail(text) }
        }
    };
    match fault(&error.problem) {
        Some(Fault::Other) => {
            let cause = error.cause.as_deref().unwrap_or("no cause was recorded");
            tracing::error!(request_id = %id, method, path, code = error.problem.code.as_str(), cause, "a control call failed");
        }
        // Once, and not for each call that meets it.
        Some(Fault::FullDisk) => minnow_store::tell_full_disk(),
        None => {}
    }
    parts.status = StatusCode::from_u16(error.problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    parts.headers.remove(CONTENT_LENGTH);
    parts.headers.insert(CONTENT_TYPE, HeaderValue::from_static(Problem::CONTENT_TYPE));
    Response::from_parts(parts, Body::from(error.problem.request_id(id).to_json()))
}

/// The form of [`Problem`] for the API's description.
#[derive(ToSchema)]
#[schema(as = Problem)]
#[allow(dead_code, reason = "only its schema is used; a test holds it to the real type")]
pub(crate) struct ProblemDocument {
    /// `urn:minnow:problem:CODE`
    r#type: String,
    /// What kind of problem this is.
    title: String,
    /// The HTTP status.
    status: u16,
    /// The stable code of the problem; docs/errors.md lists all.
    code: String,
    /// What happened in this case, and what to do about it.
    detail: Option<String>,
    /// Several mistakes at once.
    #[schema(required = false)]
    errors: Vec<String>,
    /// The id under which the node's log has more.
    request_id: Option<String>,
}

#[cfg(test)]
mod tests {
    use minnow_store::{BucketError, KvError, SqlError, StoreError};
    use utoipa::PartialSchema as _;

    use super::*;

    #[test]
    fn a_refusal_is_no_error_of_the_node() {
        fn problem(error: impl Into<ControlError>) -> Problem {
            error.into().problem()
        }
        let migration = |error| ControlError::Migration { store: "main".parse().unwrap(), error };
        for (problem, expected) in [
            (problem(BucketError::Full { size_bytes: 1 }), None),
            (problem(BucketError::TooLarge), None),
            (problem(KvError::Full), None),
            (problem(SqlError::Full), None),
            (problem(migration(SqlError::Full)), None),
            (problem(BucketError::DiskFull), Some(Fault::FullDisk)),
            (problem(KvError::DiskFull), Some(Fault::FullDisk)),
            (problem(SqlError::DiskFull), Some(Fault::FullDisk)),
            (problem(migration(SqlError::DiskFull)), Some(Fault::FullDisk)),
            (problem(StoreError::Full), Some(Fault::FullDisk)),
            (Problem::new(Code::Internal), Some(Fault::Other)),
            (Problem::new(Code::StoreDamaged), Some(Fault::Other)),
            (Problem::new(Code::NotFound), None),
        ] {
            assert_eq!(fault(&problem), expected, "{problem:?}");
            let is_refusal = problem.code == Code::StorageFull && expected.is_none();
            assert!(!is_refusal || problem.detail.as_ref().unwrap().contains("size"), "{problem:?}");
        }
    }

    #[test]
    fn the_described_problem_is_the_one_that_is_sent() {
        let problem = Problem::new(Code::Invalid).detail("x").errors(vec!["y".into()]).request_id(RequestId(1));
        let sent: serde_json::Value = serde_json::from_slice(&problem.to_json()).unwrap();
        let schema = serde_json::to_value(ProblemDocument::schema()).unwrap();
        let mut sent: Vec<_> = sent.as_object().unwrap().keys().cloned().collect();
        let mut described: Vec<_> = schema["properties"].as_object().unwrap().keys().cloned().collect();
        sent.sort();
        described.sort();
        assert_eq!(sent, described);
    }
}
