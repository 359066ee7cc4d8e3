//! What can go wrong when the CLI talks to a node, and what to do about it.

use minnow_model::Code;
use reqwest::{StatusCode, Url};
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
    #[error("the connection to {} was lost", at(.server))]
    Lost { server: Url, source: reqwest::Error },
    #[error("cannot set up the HTTP client")]
    Setup { source: reqwest::Error },
    /// The node refused.
    #[error("{}", .problem.title)]
    Problem { server: Url, problem: Box<ApiProblem> },
    #[error("{} does not answer like a node's control API{}", at(.server), .status.map(|status| format!(" ({status})")).unwrap_or_default())]
    NotApi { server: Url, status: Option<StatusCode> },
    #[error("cannot understand the answer of {}", at(.server))]
    Unreadable { server: Url, source: serde_json::Error },
}

/// A problem document as it is read: lenient, so that a newer node's codes are shown as they come.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct ApiProblem {
    pub title: String,
    pub status: u16,
    pub code: String,
    pub detail: Option<String>,
    pub errors: Vec<String>,
    pub request_id: Option<String>,
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

    /// Whether only the gateway refuses like this: the data listener was asked.
    fn is_of_gateway(&self) -> bool {
        matches!(self.known(), Some(Code::UnknownApp | Code::NoRoute))
    }

    fn known(&self) -> Option<Code> {
        Code::all().iter().copied().find(|code| code.as_str() == self.code)
    }
}

impl ApiError {
    /// What a problem document in the place of an answer means.
    pub(super) fn refused(server: Url, status: StatusCode, problem: ApiProblem) -> Self {
        if problem.is_of_gateway() {
            return Self::NotApi { server, status: Some(status) };
        }
        Self::Problem { server, problem: Box::new(problem) }
    }

    /// The status with which the node refused.
    pub fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Problem { problem, .. } => StatusCode::from_u16(problem.status).ok(),
            Self::NotApi { status, .. } => *status,
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
                "run `minnow login {}` and give it the token from the node's DATA_DIR/admin.token, or set MINNOW_TOKEN",
                at(server)
            )),
            Self::MalformedToken => Some("copy the whole line of the node's DATA_DIR/admin.token".into()),
            Self::Unreachable { server, source } if server.scheme() == "https" && is_plain(source) => {
                Some("what answers there does not speak TLS: try http://".into())
            }
            Self::Unreachable { server, .. } if is_loopback(server) => {
                Some("start a node with `minnow node --data-dir DIR` or `minnow dev`, or name another address".into())
            }
            Self::Unreachable { .. } => Some("check the address, and that the node's --admin listens there".into()),
            Self::NotApi { .. } => {
                Some("the control API is on the node's --admin address (default port 7701), not on --http".into())
            }
            Self::Unreadable { .. } => {
                Some("the node and this command may differ in version; compare `minnow --version` on both".into())
            }
            Self::Lost { source, .. } if source.is_timeout() => {
                Some("the node may still be at it; `minnow status` shows what came of it".into())
            }
            Self::Lost { .. } | Self::Setup { .. } => None,
            Self::Problem { server, problem } => match problem.known()? {
                Code::Unauthorized => Some(format!("the token is missing or wrong; run `minnow login {}`", at(server))),
                Code::NotFound if problem.detail.is_none() => {
                    Some("`minnow apps` and `minnow versions APP` list what there is".into())
                }
                Code::VersionExists => {
                    Some("versions are immutable; publish under a new one: `minnow publish VERSION`".into())
                }
                // The detail says what to do, more exactly than the code's general words.
                Code::NotFound | Code::Invalid | Code::CompileFailed | Code::Conflict | Code::TooLarge => None,
                code => Some(code.meaning().into()),
            },
        }
    }
}

/// Whether a TLS handshake was answered with something that is no TLS.
fn is_plain(error: &reqwest::Error) -> bool {
    let error: &dyn std::error::Error = error;
    std::iter::successors(Some(error), |error| error.source())
        .any(|error| error.to_string().contains("InvalidContentType"))
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
            let error = ApiError::refused("http://127.0.0.1:7700".parse().unwrap(), StatusCode::NOT_FOUND, problem);
            assert_eq!(matches!(error, ApiError::NotApi { .. }), is_gateway, "{code}");
            assert_eq!(error.help().is_some_and(|help| help.contains("--admin")), is_gateway, "{code}");
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
