//! Invoking a function without the gateway.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, Uri, header::HOST};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use minnow_model::{AppName, Code, FunctionName, Problem, RequestId, Tenant, route::Found};
use minnow_runtime::{Body, Function, Invocation, LiveVersion, TraceContext};
use tokio::sync::oneshot;

use crate::{
    Control, ControlError,
    api_types::{InvokeRequest, InvokeResponse},
    tokens::fill_random,
};

/// The longest request and response body, in bytes: what AWS Lambda allows for a synchronous invoke. Longer bodies go
/// through the gateway, which streams.
pub const MAX_BODY_BYTES: usize = 6 << 20;
/// How long to wait for the usage of an invocation whose response is complete. It comes at once; this guards the call.
const USAGE_WAIT: Duration = Duration::from_secs(5);

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
        let live = match self.live_app(tenant, app) {
            Some(live) => live,
            None => {
                self.registry.app(tenant, app).await?;
                return Err(ControlError::NothingLive(app.clone()));
            }
        };
        let mut shares: Vec<_> = live.shares.iter().collect();
        shares.sort_by_key(|(weight, _)| std::cmp::Reverse(*weight));
        let (version, target) = shares
            .iter()
            .find_map(|(_, version)| Some((version, version.function(function)?)))
            .ok_or_else(|| ControlError::NoFunction(app.clone(), function.clone()))?;
        let host = format!("{app}.{}", self.config.domain);
        let request = request(invoke, &host, target)?;
        let mut span = [0; 8];
        fill_random(&mut span)?;
        let (on_end, ended) = oneshot::channel();
        let invocation = Invocation {
            id,
            trace: TraceContext { span_id: u64::from_ne_bytes(span).max(1), parent_id: None, flags: 0 },
            scheme: "http",
            peer: None,
            script_len: script_len(version, &request, target),
            request,
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
}

/// What the gateway would answer.
fn problem_response(problem: &Problem) -> http::Response<Body> {
    let mut response = http::Response::new(full(problem.to_json()));
    *response.status_mut() = http::StatusCode::from_u16(problem.status).unwrap_or_default();
    response.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static(Problem::CONTENT_TYPE));
    response
}

fn full(body: Vec<u8>) -> Body {
    Full::new(Bytes::from(body)).map_err(|never| match never {}).boxed_unsync()
}

/// Where the route's wildcard begins, when the path leads to this function.
fn script_len(version: &LiveVersion, request: &Request<Body>, target: &Function) -> usize {
    match version.router.find(request.method().as_str(), request.uri().path()) {
        Found::Function { index, script_len, .. } => {
            let found = version.functions.get(index);
            let same = found.is_some_and(|found| found.spec().function == target.spec().function);
            if same { script_len } else { 0 }
        }
        _ => 0,
    }
}

/// Checks the parts of a request and builds it; all mistakes are reported at once.
fn request(invoke: InvokeRequest, host: &str, target: &Function) -> Result<Request<Body>, ControlError> {
    let mut errors = Vec::new();
    let method: Option<Method> =
        invoke.method.parse().map_err(|_| errors.push(format!("`{}` is not a method", invoke.method))).ok();
    let uri =
        invoke.path.starts_with('/').then(|| format!("http://{host}{}", invoke.path).parse::<Uri>().ok()).flatten();
    if uri.is_none() {
        errors.push(format!("`{}` is not a path; it starts with `/`", invoke.path));
    }
    let body = STANDARD.decode(&invoke.body).map_err(|error| errors.push(format!("body: not base64: {error}"))).ok();
    let mut headers = http::HeaderMap::with_capacity(invoke.headers.len() + 1);
    for (name, value) in &invoke.headers {
        match (name.parse::<HeaderName>(), HeaderValue::from_str(value)) {
            (Ok(name), Ok(value)) => {
                headers.append(name, value);
            }
            _ => errors.push(format!("`{name}: {value}` is not a header")),
        }
    }
    let (Some(method), Some(uri), Some(body), true) = (method, uri, body, errors.is_empty()) else {
        return Err(ControlError::Invalid { detail: "the request cannot be sent".into(), errors });
    };
    let most = target.spec().limits.request_body_bytes.min(MAX_BODY_BYTES as u64);
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
    let mut request = Request::new(full(body));
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    *request.headers_mut() = headers;
    Ok(request)
}
