//! Invoking a function without the gateway.

use std::{sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Uri,
    header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING},
    uri::PathAndQuery,
};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use minnow_events::{Invoke, MAX_ASYNC_BYTES, RunStatus, ToldState};
use minnow_model::{AppName, Code, FunctionName, Problem, RequestId, Tenant};
use minnow_runtime::{
    Body, Function, Invocation, LiveApp, LiveVersion, TraceContext, response::content_length, stored::StoredRequest,
};
use tokio::sync::oneshot;

use crate::{
    Control, ControlError,
    api_types::{DestinationState, InvokeRequest, InvokeResponse, RunDestination, RunInfo, RunStarted, RunState},
    tokens::fill_random,
};

/// The longest request and response body, in bytes: what AWS Lambda allows for a synchronous invoke. Longer bodies go
/// through the gateway, which streams.
pub const MAX_BODY_BYTES: usize = 6 << 20;
/// How long to wait for the usage of an invocation whose response is complete. It comes at once; this guards the call.
const USAGE_WAIT: Duration = Duration::from_secs(5);
/// The longest path with its query, in bytes. A URI of the http crate has at most 65,534, of which the longest host takes 253.
const MAX_PATH_BYTES: usize = 65_000;
/// How much of a path an error repeats, in characters: enough to know it by.
const MAX_SHOWN_CHARS: usize = 100;

impl Control {
    /// Runs a function of the live version (of two, the one with more traffic) and answers what a client of the gateway
    /// would get, problems included.
    pub async fn invoke(
        &self,
        tenant: &Tenant,
        app: &AppName,
        function: &FunctionName,
        id: RequestId,
        invoke: InvokeRequest,
    ) -> Result<InvokeResponse, ControlError> {
        let live = self.live_to_invoke(tenant, app).await?;
        let (version, target) = find(&live, function)?;
        let host = format!("{app}.{}", self.config.domain);
        let request = request(invoke, &host, target, MAX_BODY_BYTES)?.map(full);
        let mut span = [0; 8];
        fill_random(&mut span)?;
        let (on_end, ended) = oneshot::channel();
        let invocation = Invocation {
            id,
            trace: TraceContext { span_id: u64::from_ne_bytes(span).max(1), parent_id: None, flags: 0 },
            scheme: "http",
            peer: None,
            script_len: version.script_len(&request, function),
            request,
            upgrade: None,
            on_end: Some(on_end),
        };
        let response = match self.runtime.invoke(target, invocation).await {
            Ok(response) => response,
            Err(problem) => problem_response(&problem),
        };
        let (parts, body) = response.into_parts();
        let body = match Limited::new(body, MAX_BODY_BYTES).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) if error.is::<LengthLimitError>() => {
                return Err(ControlError::TooLarge(format!(
                    "the response is longer than {MAX_BODY_BYTES} bytes; send the request through the gateway"
                )));
            }
            Err(_) => {
                let problem = Problem::new(Code::FunctionTrapped)
                    .detail("the function failed while it sent its response; its log has the reason");
                return Err(ControlError::Function(Box::new(problem)));
            }
        };
        let usage = tokio::time::timeout(USAGE_WAIT, ended).await.ok().and_then(Result::ok).unwrap_or_default();
        let headers = parts
            .headers
            .iter()
            .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
            .collect();
        Ok(InvokeResponse {
            status: parts.status.as_u16(),
            headers,
            body: STANDARD.encode(body),
            request_id: id.to_string(),
            usage,
        })
    }

    /// Takes a request for a function of the live versions, which run it later. It is durable when this answers.
    pub async fn invoke_async(
        &self,
        tenant: &Tenant,
        app: &AppName,
        function: &FunctionName,
        invoke: InvokeRequest,
    ) -> Result<RunStarted, ControlError> {
        let live = self.live_to_invoke(tenant, app).await?;
        let (_, target) = find(&live, function)?;
        let host = format!("{app}.{}", self.config.domain);
        let request = StoredRequest::of(&request(invoke, &host, target, MAX_ASYNC_BYTES)?);
        // The newest version is the last one, and its settings count.
        let newest = live.shares.iter().rev().find_map(|(_, version)| version.function(function));
        let settings = newest.and_then(|newest| newest.spec().asynchronous.as_deref()).cloned().unwrap_or_default();
        Ok(RunStarted { id: self.events.invoke(tenant, app, function, Invoke { request, settings }).await? })
    }

    /// How it stands with a request that was taken to be run later.
    pub async fn async_run(&self, tenant: &Tenant, app: &AppName, id: RequestId) -> Result<RunInfo, ControlError> {
        self.registry.app(tenant, app).await?;
        match self.events.run(tenant, app, id).await? {
            Some(status) => Ok(run_info(status)),
            None => Err(ControlError::NoRun(app.clone(), id)),
        }
    }

    async fn live_to_invoke(&self, tenant: &Tenant, app: &AppName) -> Result<Arc<LiveApp>, ControlError> {
        match self.live_app(tenant, app) {
            Some(live) => Ok(live),
            None => {
                self.registry.app(tenant, app).await?;
                Err(ControlError::NothingLive(app.clone()))
            }
        }
    }
}

/// The function in the live version that has it, of two in the one with more traffic.
fn find<'a>(
    live: &'a LiveApp,
    function: &FunctionName,
) -> Result<(&'a Arc<LiveVersion>, &'a Arc<Function>), ControlError> {
    let mut shares: Vec<_> = live.shares.iter().collect();
    shares.sort_by_key(|(weight, _)| std::cmp::Reverse(*weight));
    let found = shares.into_iter().find_map(|(_, version)| Some((version, version.function(function)?)));
    found.ok_or_else(|| ControlError::NoFunction(live.name.clone(), function.clone()))
}

fn run_info(status: RunStatus) -> RunInfo {
    let RunStatus { id, function, state, created_ms, tries, due_ms, finished_ms, .. } = status;
    let has_ended = finished_ms.is_some();
    RunInfo {
        id,
        function,
        state: match state {
            minnow_events::RunState::Waiting => RunState::Waiting,
            minnow_events::RunState::Running => RunState::Running,
            minnow_events::RunState::Succeeded => RunState::Succeeded,
            minnow_events::RunState::Failed => RunState::Failed,
        },
        created_ms,
        tries,
        next_ms: due_ms.filter(|_| state == minnow_events::RunState::Waiting),
        finished_ms,
        reason: status.reason,
        status: status.status,
        headers: status.headers,
        body: (has_ended && status.status.is_some()).then(|| STANDARD.encode(&status.answer)),
        truncated: status.is_cut,
        destination: status.told.map(|told| RunDestination {
            to: told.destination.to_string(),
            state: match told.state {
                ToldState::Waiting => DestinationState::Waiting,
                ToldState::Told => DestinationState::Told,
                ToldState::GivenUp => DestinationState::GivenUp,
            },
            tries: told.tries,
            next_ms: due_ms.filter(|_| told.state == ToldState::Waiting),
            reason: told.reason,
        }),
    }
}

/// What the gateway would answer.
fn problem_response(problem: &Problem) -> http::Response<Body> {
    let mut response = http::Response::new(full(problem.to_json().into()));
    *response.status_mut() = http::StatusCode::from_u16(problem.status).unwrap_or_default();
    response.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static(Problem::CONTENT_TYPE));
    response
}

fn full(body: Bytes) -> Body {
    Full::new(body).map_err(|never| match never {}).boxed_unsync()
}

/// Checks the parts of a request and builds it; all mistakes are reported at once. Its body has at most `most` bytes.
fn request(invoke: InvokeRequest, host: &str, target: &Function, most: usize) -> Result<Request<Bytes>, ControlError> {
    let mut errors = Vec::new();
    let method: Option<Method> =
        invoke.method.parse().map_err(|_| errors.push(format!("`{}` is not a method", invoke.method))).ok();
    let uri = uri(host, &invoke.path).map_err(|error| errors.push(error)).ok();
    let body = STANDARD.decode(&invoke.body).map_err(|error| errors.push(format!("body: not base64: {error}"))).ok();
    let mut headers = HeaderMap::with_capacity(invoke.headers.len() + 2);
    for (name, value) in &invoke.headers {
        match (name.parse::<HeaderName>(), HeaderValue::from_str(value)) {
            (Ok(name), Ok(value)) => {
                headers.append(name, value);
            }
            _ => errors.push(format!("`{name}: {value}` is not a header")),
        }
    }
    if let Some(body) = &body
        && let Err(error) = set_length(&mut headers, body.len() as u64)
    {
        errors.push(error);
    }
    let (Some(method), Some(uri), Some(body), true) = (method, uri, body, errors.is_empty()) else {
        return Err(ControlError::Invalid { detail: "the request cannot be sent".into(), errors });
    };
    let most = target.spec().limits.request_body_bytes.min(most as u64);
    if body.len() as u64 > most {
        return Err(ControlError::TooLarge(format!(
            "the body has {} bytes; at most {most} can be sent here",
            body.len()
        )));
    }
    if !headers.contains_key(HOST)
        && let Ok(host) = HeaderValue::from_str(host)
    {
        headers.insert(HOST, host);
    }
    let mut request = Request::new(Bytes::from(body));
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    *request.headers_mut() = headers;
    Ok(request)
}

/// The URI of a path with its query, or what is wrong with it.
fn uri(host: &str, path: &str) -> Result<Uri, String> {
    let shown = || {
        let mut shown: String = path.chars().take(MAX_SHOWN_CHARS).flat_map(char::escape_debug).collect();
        if path.chars().nth(MAX_SHOWN_CHARS).is_some() {
            shown.push('…');
        }
        shown
    };
    if !path.starts_with('/') {
        return Err(format!("the path `{}` does not start with `/`", shown()));
    }
    if path.len() > MAX_PATH_BYTES {
        return Err(format!("the path has {} bytes; the most is {MAX_PATH_BYTES}", path.len()));
    }
    // What follows a `#` would be dropped without a word.
    if !path.contains('#')
        && let Ok(uri) = format!("http://{host}{path}").parse()
    {
        return Ok(uri);
    }
    let query = path.find('?').unwrap_or(path.len());
    // The parser does not say which character it refused, and takes others in a query than in a path.
    let is_refused = |(at, c): &(usize, char)| {
        let before = if *at > query { "/?" } else { "/" };
        *c == '#' || format!("{before}{c}").parse::<PathAndQuery>().is_err()
    };
    match path.char_indices().find(is_refused) {
        Some((_, c)) => {
            let encoded: String = c.encode_utf8(&mut [0; 4]).bytes().map(|byte| format!("%{byte:02X}")).collect();
            Err(format!("the path `{}` holds {c:?}, which no path can; write it as `{encoded}`", shown()))
        }
        None => Err(format!("`{}` is not a path", shown())),
    }
}

/// Gives the request the length of its body, as the gateway's clients do: a CGI program reads by it. A length of the
/// caller's own has to be the true one.
fn set_length(headers: &mut HeaderMap, length: u64) -> Result<(), String> {
    match content_length(headers) {
        Ok(Some(claimed)) if claimed == length => {}
        Ok(Some(claimed)) => {
            return Err(format!(
                "`content-length` is {claimed}, and the body has {length} bytes; leave it out: it is set to what the body has"
            ));
        }
        Err(_) => return Err("`content-length` is not one number; leave it out: it is set to what the body has".into()),
        // A request in chunks has no length (RFC 9112, 6.2), and one without a body needs none.
        Ok(None) if length == 0 || headers.contains_key(TRANSFER_ENCODING) => {}
        Ok(None) => {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_cannot_be_sent_is_told_by_its_character() {
        for (path, expected) in [
            ("/", "/"),
            ("/a%20b?c=%23&d={}", "/a%20b?c=%23&d={}"),
            ("/ü?ü", "/ü?ü"),
            ("//evil.example/x", "//evil.example/x"),
        ] {
            let uri = uri("a.localhost", path).unwrap();
            let found = uri.path_and_query().map(PathAndQuery::as_str);
            assert_eq!((uri.host(), found), (Some("a.localhost"), Some(expected)), "{path}");
        }
        let long = format!("/{} ", "x".repeat(1000));
        for (path, expected) in [
            ("", "the path `` does not start with `/`"),
            ("foo", "the path `foo` does not start with `/`"),
            ("http://x/y", "the path `http://x/y` does not start with `/`"),
            ("/a b", "the path `/a b` holds ' ', which no path can; write it as `%20`"),
            ("/a#b", "the path `/a#b` holds '#', which no path can; write it as `%23`"),
            ("/a?b=c d", "the path `/a?b=c d` holds ' ', which no path can; write it as `%20`"),
            ("/a\nb", "the path `/a\\nb` holds '\\n', which no path can; write it as `%0A`"),
            (&long, &format!("the path `/{}…` holds ' ', which no path can; write it as `%20`", "x".repeat(99))),
            (&"/".repeat(70_000), "the path has 70000 bytes; the most is 65000"),
        ] {
            assert_eq!(uri("a.localhost", path).unwrap_err(), expected);
        }
    }

    #[test]
    fn a_body_has_its_length_and_no_other() {
        for (given, length, expected) in [
            (&[][..], 5, Ok(Some("5"))),
            (&[], 0, Ok(None)),
            (&[("content-length", "5")], 5, Ok(Some("5"))),
            (&[("content-length", "0")], 0, Ok(Some("0"))),
            (&[("content-length", "4")], 5, Err("`content-length` is 4, and the body has 5 bytes")),
            (&[("content-length", "5")], 0, Err("`content-length` is 5, and the body has 0 bytes")),
            (&[("content-length", "many")], 5, Err("`content-length` is not one number")),
            (&[("content-length", "5"), ("content-length", "6")], 5, Err("`content-length` is not one number")),
            (&[("transfer-encoding", "chunked")], 5, Ok(None)),
        ] {
            let mut headers = HeaderMap::new();
            for (name, value) in given {
                headers.append(*name, HeaderValue::from_static(value));
            }
            match (set_length(&mut headers, length), expected) {
                (Ok(()), Ok(expected)) => {
                    let found = headers.get(CONTENT_LENGTH).map(|value| value.to_str().unwrap());
                    assert_eq!(found, expected, "{given:?}");
                }
                (Err(error), Err(expected)) => assert!(error.starts_with(expected), "{error}"),
                (found, expected) => panic!("{given:?}: {found:?}, not {expected:?}"),
            }
        }
    }
}
