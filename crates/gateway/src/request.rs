//! The hot path: one request, from its head to its response, top to bottom.

use std::{borrow::Cow, convert::Infallible, io, sync::Arc};

use http::{
    HeaderValue, Method, Request, Response, StatusCode, Uri, Version,
    header::{CONNECTION, CONTENT_LENGTH, HOST, LOCATION},
    request,
    uri::{Authority, Scheme},
};
use http_body::Body as HttpBody;
use hyper::{body::Incoming, upgrade::OnUpgrade};
use minnow_model::{Code, RequestId};
use minnow_runtime::{
    Body, Function, Invocation, TraceContext, data::signed, invocation::Upgrade, remove_hop_by_hop,
    response::content_length,
};
use percent_encoding::percent_decode_str;

use crate::{
    blob,
    body::{Content, NoBody, RequestBody, ResponseBody},
    connection::{Connection, InFlight},
    headers::{X_REQUEST_ID, ask_for_websocket, join_cookies, set_forwarded, set_upgrade},
    host::{self, HostName},
    ids,
    refusal::Refusal,
    span::ServerSpan,
    target::{self, FoundFile, Target},
    webhook,
    worker::Node,
};

/// Answers one request. The future is dropped when the client goes away, and with it the invocation.
pub(crate) async fn handle(
    connection: Arc<Connection>,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Infallible> {
    let (mut head, incoming) = request.into_parts();
    let in_flight = InFlight::begin(connection, head.version, !incoming.is_end_stream());
    let connection = in_flight.connection();
    let node = &*connection.worker.node;
    let (id, trace) = ids::begin(&mut head.headers, |trace_id, parent| match &node.tracer {
        Some(tracer) => tracer.flags(trace_id, parent),
        // Not ours to record: what the caller decided goes on to those that the function calls.
        None => parent.map_or(0, |(_, flags)| flags),
    });
    let mut span = node.tracer.as_ref().and_then(|tracer| ServerSpan::begin(tracer, &head, id, trace));
    if head.version == Version::HTTP_2 {
        join_cookies(&mut head.headers);
    }
    let (version, is_head) = (head.version, head.method == Method::HEAD);

    let located = if in_flight.is_one_too_many() { Err(Code::NodeOverloaded.into()) } else { locate(node, &head) };
    let answered = match located {
        Ok((Target::Function { function, script_len }, authority)) => {
            if let Some(span) = &mut span {
                span.set_function(&function);
            }
            let call = Call { function: &function, script_len, authority, id, trace };
            run(connection, head, incoming, call).await
        }
        Ok((Target::File(found), _)) => send_file(node, found, &head).await,
        Ok((Target::Webhook(webhook), _)) => webhook::answer(connection, &webhook, &head, incoming)
            .await
            .map_err(|refusal| Answer { refusal, counted: true }),
        Ok((Target::Blob(app), _)) => {
            blob::answer(connection, &app, &head, incoming).await.map_err(|refusal| Answer { refusal, counted: true })
        }
        Ok((Target::Folder, _)) => Ok(redirect_into_folder(node, &head.uri)),
        Ok((Target::NotAllowed(allow), _)) => Err(Answer::gateway(Refusal::method_not_allowed(allow))),
        Ok((Target::Nothing, _)) => Err(Answer::gateway(Code::NoRoute.into())),
        Err(refusal) => Err(Answer::gateway(refusal)),
    };
    let (mut parts, content) = match answered {
        Ok(response) => response.into_parts(),
        Err(answer) => {
            if let Some(span) = &mut span {
                span.set_error(answer.refusal.problem.code);
            }
            answer.into_response(node, id).into_parts()
        }
    };

    if parts.status == StatusCode::SWITCHING_PROTOCOLS {
        connection.leave_http();
    } else if connection.worker.is_draining() && version < Version::HTTP_2 {
        parts.headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    parts.headers.insert(&X_REQUEST_ID, ids::header_value(id));
    if let Some(span) = &mut span {
        span.set_status(parts.status);
    }
    let content = if is_head { Content::Empty } else { content };
    Ok(Response::from_parts(parts, ResponseBody::new(content, in_flight, span)))
}

/// A request that is not answered by what it asked for, and who counts it.
struct Answer {
    refusal: Refusal,
    /// The runtime counts what it refuses, with the function's name; requests to signed URLs and webhooks are counted apart.
    counted: bool,
}

impl Answer {
    fn gateway(refusal: Refusal) -> Self {
        Self { refusal, counted: false }
    }

    #[cold]
    fn into_response(self, node: &Node, id: RequestId) -> Response<Content> {
        if !self.counted {
            let problem = &self.refusal.problem;
            node.metrics.gateway_request(problem.status, Some(problem.code));
        }
        self.refusal.into_response(id)
    }
}

/// Finds what answers the request, in the snapshot of this moment.
fn locate(node: &Node, head: &request::Parts) -> Result<(Target, Option<Authority>), Refusal> {
    if head.method == Method::CONNECT {
        return Err(Refusal::bad_request("CONNECT is for proxies"));
    }
    let authority = host::authority(&head.uri, head.version, &head.headers)
        .map_err(|error| Refusal::bad_request(error.to_string()))?;
    let host = authority.as_ref().map_or("", Authority::host);
    let live = node.live.load();
    let app = match host::host_name(host, node.config.domain.as_deref()) {
        HostName::App(label) => live.get(&*lower_case(label)),
        HostName::Bare => node.config.default_app.as_ref().and_then(|app| live.get(app)),
    };
    let app = app.ok_or(Code::UnknownApp)?;
    // Before the routes: a signed URL is good whatever routes and files its app has.
    if head.uri.path().starts_with(signed::PREFIX) {
        return Ok((Target::Blob(Arc::clone(app)), authority));
    }
    // A function that is called there is called by the node.
    if is_reserved(head.uri.path()) {
        return Err(Code::NoRoute.into());
    }
    let version = target::version(app, &head.headers).ok_or(Code::UnknownApp)?;
    Ok((target::find(version, &head.method, head.uri.path()), authority))
}

/// Whether the path may lead to where only the node itself calls functions, in any way in which a function may read it: as it is or with
/// its escapes decoded, with `\` for `/` as the URL standard has it, with several `/` for one or not, with `.` and `..` resolved by any
/// rule. So one that has the folder in it and anything of that sort is refused as well.
fn is_reserved(path: &str) -> bool {
    // Nearly all paths end here.
    if !path.bytes().any(|byte| matches!(byte, b'.' | b'%')) {
        return false;
    }
    let decoded: Cow<'_, [u8]> = percent_decode_str(path).into();
    if !decoded.windows(RESERVED.len()).any(|part| part == RESERVED) {
        return false;
    }
    let is_separator = |byte: &u8| matches!(byte, b'/' | b'\\');
    let inner = decoded.strip_prefix(b"/").unwrap_or(&decoded);
    if !inner.split(is_separator).any(|segment| segment == RESERVED) {
        return false;
    }
    let is_first = inner.split(is_separator).find(|segment| !segment.is_empty()) == Some(RESERVED);
    // The last segment is empty in a path that ends with a slash, which changes nothing.
    let is_ambiguous = inner
        .strip_suffix(b"/")
        .unwrap_or(inner)
        .split(is_separator)
        .any(|segment| matches!(segment, b"" | b"." | b".."));
    let is_escaped =
        decoded.iter().filter(|byte| is_separator(byte)).count() != path.bytes().filter(|byte| *byte == b'/').count();
    is_first || is_ambiguous || is_escaped
}

/// The folder of [`minnow_runtime::deliver::PREFIX`].
const RESERVED: &[u8] = b".minnow";

fn lower_case(label: &str) -> Cow<'_, str> {
    if label.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(label.to_ascii_lowercase())
    } else {
        Cow::Borrowed(label)
    }
}

/// What a function is called with, besides the request.
struct Call<'a> {
    function: &'a Arc<Function>,
    script_len: usize,
    authority: Option<Authority>,
    id: RequestId,
    trace: TraceContext,
}

/// Runs a function.
async fn run(
    connection: &Arc<Connection>,
    mut head: request::Parts,
    incoming: Incoming,
    call: Call<'_>,
) -> Result<Response<Content>, Answer> {
    let node = &*connection.worker.node;
    let limit_bytes = call.function.spec().limits.request_body_bytes;
    let has_no_body = incoming.is_end_stream();
    let body = if has_no_body {
        Body::new(NoBody)
    } else if incoming.size_hint().lower() > limit_bytes {
        return Err(Answer::gateway(Code::RequestTooLarge.into()));
    } else {
        Body::new(RequestBody::new(incoming, limit_bytes, Arc::clone(connection)))
    };

    let upgrade = offer_upgrade(connection, &mut head, has_no_body);
    remove_hop_by_hop(&mut head.headers);
    if upgrade.is_some() {
        set_upgrade(&mut head.headers);
    }
    // HTTP/2 has no Host header, and one that differs from the URI does not count (RFC 9112 section 3.2.2).
    if let Some(authority) = head.uri.authority()
        && let Ok(host) = HeaderValue::try_from(authority.as_str())
    {
        head.headers.insert(HOST, host);
    }
    let scheme = set_forwarded(&mut head.headers, &connection.forwarded_for, node.config.trust_forwarded);
    ids::set_traceparent(&mut head.headers, call.id, &call.trace);
    if let Some(authority) = call.authority {
        head.uri = with_authority(head.uri, scheme, authority).map_err(Answer::gateway)?;
    }
    let invocation = Invocation {
        id: call.id,
        trace: call.trace,
        request: Request::from_parts(head, body),
        scheme,
        peer: Some(connection.peer),
        script_len: call.script_len,
        upgrade,
        on_end: None,
    };
    match node.runtime.invoke(call.function, invocation).await {
        Ok(response) => Ok(sendable(response)),
        Err(problem) => {
            let mut refusal = Refusal::from(problem);
            if refusal.problem.code == Code::HeldBack
                && let Some(held) = call.function.held_for()
            {
                refusal.retry_after = held;
            }
            Err(Answer { refusal, counted: true })
        }
    }
}

/// Offers the function the client's connection, when the client asks for a WebSocket.
fn offer_upgrade(connection: &Connection, head: &mut request::Parts, has_no_body: bool) -> Option<Upgrade> {
    // hyper puts it there for any HTTP/1.1 request with an `upgrade` field, and for no other.
    let client = head.extensions.remove::<OnUpgrade>()?;
    let is_offered = head.method == Method::GET && has_no_body && ask_for_websocket(&head.headers);
    is_offered.then(|| Upgrade { client, stop: connection.worker.stop() })
}

/// The request's URI with the scheme and authority that HTTP/1 has in its connection and its Host header.
fn with_authority(uri: Uri, scheme: &str, authority: Authority) -> Result<Uri, Refusal> {
    let mut parts = uri.into_parts();
    parts.scheme = Some(if scheme == "https" { Scheme::HTTPS } else { Scheme::HTTP });
    parts.authority = Some(authority);
    Uri::from_parts(parts).map_err(|_| Refusal::bad_request("the request's target is not valid"))
}

/// A function's response as it goes to the client. What would break the connection the runtime has refused.
fn sendable(response: Response<Body>) -> Response<Content> {
    let (mut parts, body) = response.into_parts();
    remove_hop_by_hop(&mut parts.headers);
    if parts.status == StatusCode::SWITCHING_PROTOCOLS {
        // The runtime lets one through only where the client was offered.
        set_upgrade(&mut parts.headers);
        parts.headers.remove(CONTENT_LENGTH);
        return Response::from_parts(parts, Content::Empty);
    }
    let sized = match content_length(&parts.headers) {
        Ok(claimed) => claimed.is_none() || claimed == body.size_hint().exact(),
        Err(_) => false,
    };
    Response::from_parts(parts, Content::Function { body, sized })
}

/// Answers with a static file.
async fn send_file(node: &Node, found: FoundFile, head: &request::Parts) -> Result<Response<Content>, Answer> {
    let digest = found.file.digest;
    let response = node.files.respond(found, &head.method, &head.headers).await.map_err(|error| {
        if error.kind() == io::ErrorKind::QuotaExceeded {
            return Answer::gateway(Code::NodeOverloaded.into());
        }
        tracing::error!(%digest, %error, "a static file cannot be read");
        Answer::gateway(Code::Internal.into())
    })?;
    node.metrics.static_request(response.status().as_u16());
    Ok(response)
}

/// Sends the client to the folder's path with `/`, so that relative links in its page work. Not for good, since the
/// next version may have a file or a route there.
fn redirect_into_folder(node: &Node, uri: &Uri) -> Response<Content> {
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let mut response = Response::new(Content::Empty);
    *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
    // A path and query that made a valid URI make a valid header.
    if let Ok(location) = HeaderValue::try_from(format!("{}/{query}", uri.path())) {
        response.headers_mut().insert(LOCATION, location);
    }
    node.metrics.static_request(StatusCode::TEMPORARY_REDIRECT.as_u16());
    response
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, Full};
    use minnow_runtime::deliver;

    use super::*;

    #[test]
    fn what_the_node_calls_functions_at_is_reached_by_nobody_else() {
        assert_eq!(deliver::PREFIX.as_bytes(), [b"/", RESERVED, b"/"].concat());
        for (path, expected) in [
            ("/.minnow/topics/orders", true),
            ("/.minnow/", true),
            ("/%2eminnow/topics/orders", true),
            ("/.%6Dinnow%2ftopics/orders", true),
            ("%2F.minnow/topics/orders", true),
            ("/.minnow", true),
            ("//.minnow/topics/orders", true),
            ("/./.minnow/topics/orders", true),
            ("/a/../.minnow/topics/orders", true),
            ("/a/%2e%2E/%2eminnow/topics/orders", true),
            ("/../.minnow/x", true),
            ("/\\.minnow\\topics/orders", true),
            ("/.minnows/x", false),
            ("/a/.minnow/topics/orders", false),
            ("/.minnow/../a", true),
            ("/.minnow//../topics/orders", true),
            ("/.minnow/a%2f..%2f../topics/orders", true),
            ("/.minnow/topics/orders/../../../x", true),
            ("/a//../.minnow/topics/orders", true),
            ("/a/b%2f../../../.minnow/x", true),
            ("/a%2f.minnow/x", true),
            ("/a/.minnow/x/", false),
            ("/a/.minnow", false),
            ("/%252eminnow/topics/orders", false),
            ("/a.html", false),
            ("/", false),
            ("*", false),
        ] {
            assert_eq!(is_reserved(path), expected, "{path}");
        }
    }

    /// Whatever a function makes of a path that it gets, it is not the node's.
    #[test]
    fn no_reading_of_a_path_that_passes_is_the_nodes() {
        let pieces = ["/", "//", ".minnow", "..", ".", "a", "%2f", "%2e", "%2e%2E", "\\", "%5c", "%2eminnow", "topics"];
        let mut paths = vec![String::from("/")];
        for _ in 0..5 {
            let longer = |path: &String| pieces.iter().map(|piece| format!("{path}{piece}")).collect::<Vec<_>>();
            paths = paths.iter().flat_map(longer).collect();
            for path in paths.iter().filter(|path| !is_reserved(path)) {
                let url = url::Url::parse(&format!("http://app.localhost{path}")).unwrap();
                for read in [path, url.path(), &percent_decode_str(url.path()).decode_utf8_lossy()] {
                    let folder = read.trim_start_matches('/').split('/').next();
                    assert_ne!(folder, Some(".minnow"), "{path} is read as {read}");
                }
            }
            // Enough of each length, and not always the same ones.
            if paths.len() > 40_000 {
                paths = paths.into_iter().step_by(7).collect();
            }
        }
    }

    #[test]
    fn a_function_gets_the_whole_uri() {
        for (uri, scheme, expected) in [
            ("/a/b?c=%20d", "http", "http://hello.localhost:8080/a/b?c=%20d"),
            ("/", "https", "https://hello.localhost:8080/"),
            ("//x", "http", "http://hello.localhost:8080//x"),
            ("*", "http", "http://hello.localhost:8080*"),
        ] {
            let authority = Authority::from_static("hello.localhost:8080");
            let whole = with_authority(uri.parse().unwrap(), scheme, authority).unwrap();
            assert_eq!(whole.to_string(), expected);
        }
    }

    #[test]
    fn a_body_is_believed_about_its_length_only_where_the_function_agrees() {
        for (length, expected) in [(None, true), (Some("5"), true), (Some("7"), false)] {
            let mut response = Response::new(Body::new(Full::from("hello").map_err(|never| match never {})));
            if let Some(length) = length {
                response.headers_mut().insert(http::header::CONTENT_LENGTH, HeaderValue::from_static(length));
            }
            let Content::Function { sized, .. } = sendable(response).into_body() else { panic!("{length:?}") };
            assert_eq!(sized, expected, "{length:?}");
        }
    }
}
