//! What can go wrong when the CLI talks to a node, and what to do about it.

use std::{error::Error, io};

use minnow_model::Code;
use reqwest::{StatusCode, Url, header::HeaderMap};
use serde::Deserialize;

use super::is_loopback;

/// A call to the control API failed.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    #[error("no token for {}", at(.server))]
    NoToken { server: Url },
    #[error("the token is malformed: it holds characters that no token has")]
    MalformedToken,
    #[error("cannot reach the node at {}", at(.server))]
    Unreachable { server: Url, source: reqwest::Error },
    #[error("what answers at {} does not speak TLS", at(.server))]
    NotTls { server: Url },
    #[error("the certificate of {} is not trusted", at(.server))]
    Certificate { server: Url, source: reqwest::Error },
    #[error("what answers at {} does not speak HTTP", at(.server))]
    NotHttp { server: Url, source: reqwest::Error },
    #[error("the connection to {} was lost", at(.server))]
    Lost { server: Url, source: reqwest::Error },
    #[error("cannot set up the HTTP client")]
    Setup { source: reqwest::Error },
    /// The node refused.
    #[error("{}", .problem.title)]
    Problem { server: Url, problem: Box<ApiProblem> },
    /// The data listener was asked.
    #[error("{} is where a node's apps answer, not its control API", at(.server))]
    Gateway { server: Url },
    #[error("what answers at {} is not a Minnow node{}", at(.server), .status.map(|status| format!(" ({status})")).unwrap_or_default())]
    NotMinnow { server: Url, status: Option<StatusCode> },
    #[error("cannot understand the answer of {}", at(.server))]
    Unreadable { server: Url, source: serde_json::Error },
}

/// A problem document as it is read: lenient, so that a newer node's codes are shown as they come.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct ApiProblem {
    /// `urn:minnow:problem:CODE` when it is a node's.
    pub r#type: String,
    pub title: String,
    pub status: u16,
    pub code: String,
    pub detail: Option<String>,
    pub errors: Vec<String>,
    pub request_id: Option<String>,
    /// What to do when it is about the token. Not of the document: who sent the token knows where it came from.
    #[serde(skip)]
    pub remedy: Option<String>,
}

impl ApiProblem {
    /// The problem that a bare status stands for.
    pub(super) fn of_status(status: StatusCode) -> Self {
        let code = match status {
            StatusCode::UNAUTHORIZED => Code::Unauthorized,
            StatusCode::NOT_FOUND => Code::NotFound,
            StatusCode::INTERNAL_SERVER_ERROR => Code::Internal,
            StatusCode::INSUFFICIENT_STORAGE => Code::StorageFull,
            _ => {
                let title = status.canonical_reason().unwrap_or("Refused");
                return Self { title: title.into(), status: status.as_u16(), ..Self::default() };
            }
        };
        Self { title: code.title().into(), status: code.status(), code: code.as_str().into(), ..Self::default() }
    }

    /// Whether a node wrote it, and not a proxy in front of it.
    pub(super) fn is_of_minnow(&self) -> bool {
        self.r#type.starts_with("urn:minnow:")
    }

    /// Whether only the gateway refuses like this: the data listener was asked.
    fn is_of_gateway(&self) -> bool {
        matches!(self.known(), Some(Code::UnknownApp | Code::NoRoute))
    }

    pub(super) fn known(&self) -> Option<Code> {
        Code::all().iter().copied().find(|code| code.as_str() == self.code)
    }
}

impl ApiError {
    /// What a call means that came to nothing on its way.
    pub(super) fn lost(server: Url, source: reqwest::Error) -> Self {
        match tls_error(&source) {
            // The first bytes of an answer in the clear are no TLS record.
            Some(rustls::Error::InvalidMessage(_)) => return Self::NotTls { server },
            Some(rustls::Error::InvalidCertificate(_)) => return Self::Certificate { server, source },
            _ => {}
        }
        if source.is_connect() {
            return Self::Unreachable { server, source };
        }
        if causes(&source).any(|error| error.downcast_ref::<hyper::Error>().is_some_and(is_no_http)) {
            return Self::NotHttp { server, source };
        }
        Self::Lost { server, source }
    }

    /// What a response means that the control API does not give. Every answer of a node carries a request id, so with one it
    /// came from an app behind the gateway. What proxies say themselves is left out: nginx's `$request_id` looks the same.
    pub(super) fn foreign(server: Url, status: StatusCode, headers: &HeaderMap) -> Self {
        if has_request_id(headers) && !is_of_proxies(status) {
            Self::Gateway { server }
        } else {
            Self::NotMinnow { server, status: Some(status) }
        }
    }

    /// What a problem document in the place of an answer means.
    pub(super) fn refused(server: Url, problem: ApiProblem) -> Self {
        if problem.is_of_gateway() {
            return Self::Gateway { server };
        }
        Self::Problem { server, problem: Box::new(problem) }
    }

    /// The same refusal with another detail, where it is that something is not there.
    pub fn where_missing(mut self, detail: impl Into<String>) -> Self {
        if let Self::Problem { problem, .. } = &mut self
            && problem.known() == Some(Code::NotFound)
        {
            problem.detail = Some(detail.into());
        }
        self
    }

    /// The status with which the node refused.
    pub fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Problem { problem, .. } => StatusCode::from_u16(problem.status).ok(),
            Self::NotMinnow { status, .. } => *status,
            _ => None,
        }
    }

    /// Where and why, a line each.
    pub fn why(&self) -> Vec<String> {
        match self {
            Self::Problem { server, problem } => {
                let mut lines: Vec<String> = problem.detail.iter().cloned().collect();
                lines.extend(problem.errors.iter().map(|error| format!("- {error}")));
                let request = problem.request_id.as_ref().map(|id| format!(", request {id}")).unwrap_or_default();
                let code = if problem.code.is_empty() { String::new() } else { format!(" {}", problem.code) };
                lines.push(format!("{} answered {}{code}{request}", at(server), problem.status));
                lines
            }
            _ => Vec::new(),
        }
    }

    /// What to do next.
    pub fn help(&self) -> Option<String> {
        match self {
            Self::NoToken { server } => Some(format!(
                "run `minnow login {}` and give it the token from the node's DATA_DIR/admin.token (of `minnow dev`: \
                 DIR/.minnow/admin.token), or set MINNOW_TOKEN",
                at(server)
            )),
            Self::MalformedToken => Some("copy the whole line of the node's DATA_DIR/admin.token".into()),
            Self::Unreachable { server, .. } if is_loopback(server) => {
                Some("start a node with `minnow node --data-dir DIR` or `minnow dev`, or name another address".into())
            }
            Self::Unreachable { .. } => Some("check the address, and that the node's --admin listens there".into()),
            Self::NotTls { server } => Some(format!("write http:// instead: {}", with_scheme(server, "http"))),
            Self::NotHttp { server, .. } if server.scheme() == "http" => {
                Some(format!("if it speaks TLS, write https:// instead: {}", with_scheme(server, "https")))
            }
            Self::NotHttp { .. } => Some("check the address; a node prints its control API's when it starts".into()),
            Self::Certificate { .. } => {
                Some("if its authority is your own, name the file of the authority's certificate in SSL_CERT_FILE".into())
            }
            Self::Gateway { .. } => Some(
                "use the node's --admin address, which it prints as `control API` when it starts (by default port 7701)".into(),
            ),
            Self::NotMinnow { status: Some(StatusCode::PAYLOAD_TOO_LARGE), .. } => {
                Some("a proxy in front of the node takes no request of this size; for nginx set client_max_body_size".into())
            }
            Self::NotMinnow { status: Some(status), .. } if (502..=504).contains(&status.as_u16()) => {
                Some("a proxy answers there and does not reach the node; check that the node runs".into())
            }
            Self::NotMinnow { server, status: Some(StatusCode::BAD_REQUEST) } if server.scheme() == "http" => {
                Some(format!("check the address, and whether it speaks TLS: {}", with_scheme(server, "https")))
            }
            Self::NotMinnow { .. } => Some("check the address; a node prints its control API's when it starts".into()),
            Self::Unreadable { .. } => {
                Some("the node and this command may differ in version; compare `minnow --version` on both".into())
            }
            Self::Lost { source, .. } if source.is_timeout() => {
                Some("the node may still be at it; `minnow status` shows what came of it".into())
            }
            Self::Lost { .. } => Some("try again; where it happens again, the node's own log may say why".into()),
            Self::Setup { .. } => Some(
                "TLS needs the system's certificates (the package ca-certificates), or a file of them in SSL_CERT_FILE".into(),
            ),
            Self::Problem { server, problem } => match problem.known()? {
                Code::Unauthorized => Some(problem.remedy.clone().unwrap_or_else(|| {
                    format!("the token is missing or wrong; run `minnow login {}`", at(server))
                })),
                Code::NotFound if problem.detail.is_none() => {
                    Some("`minnow apps` and `minnow versions APP` list what there is".into())
                }
                Code::VersionExists => {
                    Some("versions are immutable; publish under a new one: `minnow publish VERSION`".into())
                }
                // The detail says what to do, more exactly than the code's general words.
                Code::NotFound
                | Code::Invalid
                | Code::CompileFailed
                | Code::Conflict
                | Code::TooLarge
                | Code::PreconditionFailed => None,
                code => Some(code.meaning().into()),
            },
        }
    }
}

/// An error and what caused it, outermost first.
fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    let mut next = Some(error);
    std::iter::from_fn(move || {
        let error = next?;
        next = error.source();
        Some(error)
    })
}

/// What TLS has to say about a failed call.
fn tls_error(error: &reqwest::Error) -> Option<&rustls::Error> {
    causes(error).find_map(as_tls_error)
}

fn as_tls_error<'a>(mut error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    // I/O errors wrap others, and name as their source not these but what caused these.
    while let Some(wrapped) = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        error = wrapped;
    }
    error.downcast_ref()
}

/// Whether what came was no HTTP: it could not be parsed, or came before it was asked for.
fn is_no_http(error: &hyper::Error) -> bool {
    // hyper has no question for the second.
    error.is_parse() || error.to_string().contains("unexpected message")
}

/// Whether a response carries the id that a node gives to every request: 32 hex digits.
pub(super) fn has_request_id(headers: &HeaderMap) -> bool {
    let id = headers.get("x-request-id").map(|value| value.as_bytes());
    id.is_some_and(|id| id.len() == 32 && id.iter().all(u8::is_ascii_hexdigit))
}

/// Whether proxies answer with this status themselves.
pub(super) fn is_of_proxies(status: StatusCode) -> bool {
    matches!(status.as_u16(), 413 | 502..=504)
}

/// The same address with another scheme.
fn with_scheme(server: &Url, scheme: &str) -> String {
    let address = at(server);
    match address.split_once("://") {
        Some((_, rest)) => format!("{scheme}://{rest}"),
        None => address.to_owned(),
    }
}

/// A server's address without the slash that a URL ends in.
fn at(server: &Url) -> &str {
    server.as_str().trim_end_matches('/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_shows_detail_errors_and_request_id() {
        let body = r#"{"type":"urn:minnow:problem:invalid","title":"No","status":422,"code":"invalid","detail":"two mistakes",
            "errors":["a","b"],"request_id":"00ff"}"#;
        let problem = Box::new(serde_json::from_str(body).unwrap());
        let error = ApiError::Problem { server: "http://127.0.0.1:7701".parse().unwrap(), problem };
        assert_eq!(error.to_string(), "No");
        let expected = ["two mistakes", "- a", "- b", "http://127.0.0.1:7701 answered 422 invalid, request 00ff"];
        assert_eq!(error.why(), expected);
        assert_eq!(error.help(), None, "the detail says what to do");
    }

    #[test]
    fn a_refused_token_is_told_with_the_remedy_of_who_sent_it() {
        let help = |code: Code, remedy: Option<&str>| {
            let problem = ApiProblem {
                code: code.as_str().into(),
                detail: Some("x".into()),
                remedy: remedy.map(Into::into),
                ..ApiProblem::default()
            };
            ApiError::refused("http://h".parse().unwrap(), problem).help()
        };
        assert_eq!(help(Code::Unauthorized, Some("unset it")).as_deref(), Some("unset it"));
        assert!(help(Code::Unauthorized, None).unwrap().contains("minnow login http://h"));
        assert_eq!(help(Code::NotFound, Some("unset it")), None, "it is about tokens");
    }

    #[test]
    fn another_detail_replaces_only_that_of_what_is_missing() {
        for (code, expected) in [(Code::NotFound, "no such version"), (Code::Conflict, "it is live")] {
            let problem =
                ApiProblem { code: code.as_str().into(), detail: Some("it is live".into()), ..ApiProblem::default() };
            let error = ApiError::refused("http://h".parse().unwrap(), problem).where_missing("no such version");
            assert_eq!(error.why().first().map(String::as_str), Some(expected));
        }
    }

    #[test]
    fn a_status_without_a_document_still_names_the_problem() {
        for (status, expected) in [
            (StatusCode::NOT_FOUND, "http://h answered 404 not_found"),
            (StatusCode::INTERNAL_SERVER_ERROR, "http://h answered 500 internal"),
            (StatusCode::INSUFFICIENT_STORAGE, "http://h answered 507 storage_full"),
            (StatusCode::SERVICE_UNAVAILABLE, "http://h answered 503"),
        ] {
            let problem = Box::new(ApiProblem::of_status(status));
            let error = ApiError::Problem { server: "http://h".parse().unwrap(), problem };
            assert_eq!(error.why(), [expected]);
            assert_eq!(error.status(), Some(status));
        }
    }

    #[test]
    fn what_only_the_gateway_says_is_not_the_control_api() {
        for (code, is_gateway) in [
            ("unknown_app", true),
            ("no_route", true),
            ("method_not_allowed", false),
            ("not_found", false),
            ("from_the_future", false),
        ] {
            let problem = ApiProblem { code: code.into(), ..ApiProblem::default() };
            let error = ApiError::refused("http://127.0.0.1:7700".parse().unwrap(), problem);
            assert_eq!(matches!(error, ApiError::Gateway { .. }), is_gateway, "{code}");
            assert_eq!(error.help().is_some_and(|help| help.contains("--admin")), is_gateway, "{code}");
        }
    }

    #[test]
    fn a_response_that_is_not_the_control_apis_is_told_by_who_gave_it() {
        let foreign = |status: u16, id: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("x-request-id", id.parse().unwrap());
            ApiError::foreign("http://h:1".parse().unwrap(), StatusCode::from_u16(status).unwrap(), &headers)
        };
        let id = "0123456789abcdef0123456789abcdef";
        for (status, id, what, help) in [
            (200, id, "http://h:1 is where a node's apps answer, not its control API", "--admin"),
            (404, id, "http://h:1 is where a node's apps answer", "--admin"),
            (200, "", "what answers at http://h:1 is not a Minnow node (200 OK)", "check the address"),
            (404, "another-kind-of-id", "is not a Minnow node (404 Not Found)", "check the address"),
            (400, "", "(400 Bad Request)", "https://h:1"),
            (413, "", "(413 Payload Too Large)", "client_max_body_size"),
            (502, "", "(502 Bad Gateway)", "check that the node runs"),
            (413, id, "(413 Payload Too Large)", "client_max_body_size"),
            (502, id, "(502 Bad Gateway)", "check that the node runs"),
            (503, id, "(503 Service Unavailable)", "check that the node runs"),
            (504, id, "(504 Gateway Timeout)", "check that the node runs"),
            (500, id, "http://h:1 is where a node's apps answer", "--admin"),
        ] {
            let error = foreign(status, id);
            assert!(error.to_string().contains(what), "{error}");
            assert!(error.help().unwrap().contains(help), "{error}: {:?}", error.help());
        }
    }

    #[test]
    fn an_unknown_code_is_shown_as_it_comes() {
        let body = r#"{"title":"New","status":409,"code":"from_the_future"}"#;
        let problem = Box::new(serde_json::from_str(body).unwrap());
        let error = ApiError::Problem { server: "http://h".parse().unwrap(), problem };
        assert_eq!(error.why(), ["http://h answered 409 from_the_future"]);
        assert_eq!(error.help(), None);
    }
}
