//! The way out of one process: an HTTP/1.1 server on a socket that the sandbox holds, which sends what it gets through
//! `egress`.
//!
//! The process asks with an absolute target, and in `x-minnow-scheme` with the scheme that it means; TLS is the node's. A
//! request that gets no answer is answered with 599, the reason in `x-minnow-egress-error`, and a remedy as text. What comes
//! in is the function's, and may be anything: it can only take the function's own connections.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError, Weak, atomic::AtomicU32},
    time::Duration,
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version,
    header::{CONNECTION, CONTENT_TYPE, UPGRADE},
    uri::{Authority, PathAndQuery, Scheme},
};
use http_body_util::{BodyExt as _, Full, combinators::UnsyncBoxBody};
use hyper::{body::Incoming, server::conn::http1, service::service_fn, upgrade::OnUpgrade};
use hyper_util::rt::{TokioIo, TokioTimer};
use minnow_model::{Level, LogSource, RequestId};
use tokio::{
    net::{UnixListener, UnixStream},
    task::JoinSet,
};

use super::{process::REQUEST, websocket};
use crate::{
    Function, TraceContext,
    egress::{self, Broken, Caller, Egress, EgressError, MAX_OUTBOUND, Patience},
    headers::remove_hop_by_hop,
};

const SCHEME: HeaderName = HeaderName::from_static("x-minnow-scheme");
const PORT: HeaderName = HeaderName::from_static("x-minnow-port");
const ERROR: HeaderName = HeaderName::from_static("x-minnow-egress-error");

/// What the node and the process tell each other.
const OWN: &str = "x-minnow-";

/// Connections of one process at once. As many as it may have requests under way stay open between two requests; Deno has
/// connections for each host, although all lead here. The rest is for requests that wait for their refusal.
const MAX_KEPT: usize = MAX_OUTBOUND as usize;
const MAX_CONNECTIONS: usize = 4 * MAX_KEPT;

/// The longest head of a request, in bytes; as everywhere. The same holds for what waits to be read of a response.
const MAX_HEAD_BYTES: usize = 64 << 10;

/// How long a head may take, and how long a connection may wait for it. Deno uses none that waited for 90 s.
const HEAD: Duration = Duration::from_secs(120);

/// Not a status of HTTP: a function cannot take it for an answer of the host.
const NOT_ANSWERED: u16 = 599;

type Body = UnsyncBoxBody<Bytes, Broken>;

/// Serves the way out of one process of `function`. `trace` knows the invocations that are in flight, by the
/// number under which the process has them: their request's id and their place in its trace. Everything ends when
/// the future is dropped.
pub(crate) async fn serve<T>(listener: UnixListener, function: Weak<Function>, trace: T)
where
    T: Fn(RequestId) -> Option<(RequestId, TraceContext)> + Send + Sync + 'static,
{
    let (under_way, trace) = (Arc::<AtomicU32>::default(), Arc::new(trace));
    let exit = move |request| {
        let (function, trace, under_way) = (function.upgrade(), Arc::clone(&trace), Arc::clone(&under_way));
        async move {
            let Some(function) = function else { return Err(Refusal::new("limit", "the function is gone".into())) };
            let sent =
                send(&function.runtime().egress, &Caller::of(function.spec()), &*trace, under_way, request).await;
            // WebSocket has no way to tell the function why.
            if let Err(refusal) = &sent
                && refusal.is_websocket
            {
                let message = format!("WebSocket: {}", refusal.text);
                function.log(Level::Warn, LogSource::Stderr, refusal.id, message);
            }
            sent
        }
    };
    accept(listener, exit).await;
}

async fn accept<E, S>(listener: UnixListener, exit: E)
where
    E: Fn(Request<Incoming>) -> S + Clone + Send + Sync + 'static,
    S: Future<Output = Result<Sent, Refusal>> + Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                Ok((stream, _)) => {
                    let is_kept = connections.len() < MAX_KEPT;
                    connections.spawn(speak(stream, exit.clone(), is_kept));
                }
                // Out of file descriptors, the next one would fail as well, and at once.
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection of a function's process");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            },
        }
    }
}

/// Serves one connection, and then the WebSocket that it has become.
async fn speak<E, S>(stream: UnixStream, exit: E, is_kept: bool)
where
    E: Fn(Request<Incoming>) -> S,
    S: Future<Output = Result<Sent, Refusal>>,
{
    let upgraded = Mutex::new(None);
    let service = service_fn(|request| {
        let sending = exit(request);
        let upgraded = &upgraded;
        async move {
            let Sent { mut response, upgrade } = sending.await.unwrap_or_else(Refusal::into_sent);
            if !is_kept && response.status() != StatusCode::SWITCHING_PROTOCOLS {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            *upgraded.lock().unwrap_or_else(PoisonError::into_inner) = upgrade;
            Ok::<_, Infallible>(response)
        }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(MAX_HEAD_BYTES);
    if http.serve_connection(TokioIo::new(stream), service).with_upgrades().await.is_err() {
        return;
    }
    let upgrade = upgraded.into_inner().unwrap_or_else(PoisonError::into_inner);
    let Some(Upgrade { function, host, body }) = upgrade else { return };
    if let Ok((function, host)) = tokio::try_join!(function, host) {
        websocket::copy(function, host).await;
    }
    drop(body);
}

/// An answer for the process.
struct Sent {
    response: Response<Body>,
    /// Both ends of a WebSocket, when this answer opens one.
    upgrade: Option<Upgrade>,
}

struct Upgrade {
    function: OnUpgrade,
    host: OnUpgrade,
    /// Counts as under way.
    body: egress::ResponseBody,
}

/// Sends one request and waits for the head of its response.
async fn send<T>(
    egress: &Egress,
    caller: &Caller<'_>,
    trace: &T,
    under_way: Arc<AtomicU32>,
    mut request: Request<Incoming>,
) -> Result<Sent, Refusal>
where
    T: Fn(RequestId) -> Option<(RequestId, TraceContext)>,
{
    let function = hyper::upgrade::on(&mut request);
    let (mut head, body) = request.into_parts();
    let number = head.headers.get(&REQUEST).and_then(|number| number.to_str().ok()?.parse().ok());
    let invocation = number.and_then(trace);
    let id = invocation.as_ref().map(|(id, _)| *id);
    let Some((uri, is_websocket)) = target(&head.uri, &head.method, &head.headers) else {
        return Err(Refusal::new("protocol", "the request cannot be sent: it names no host, or no scheme".into()));
    };
    let is_asking = head.headers.contains_key(UPGRADE);
    remove_own(&mut head.headers);
    if is_websocket && is_asking {
        head.headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        head.headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    }
    if let Some((id, trace)) = &invocation {
        egress::set_trace(&mut head.headers, *id, trace);
    }
    head.uri = uri.clone();
    head.version = Version::HTTP_11;
    let request = Request::from_parts(head, body.map_err(Into::into).boxed_unsync());
    let refuse = |error| Refusal { is_websocket, id, ..Refusal::of(error, &uri) };
    let mut response = egress.exchange(caller, under_way, request, Patience::default()).await.map_err(refuse)?;
    let host = hyper::upgrade::on(&mut response);
    let (mut head, body) = response.into_parts();
    remove_own(&mut head.headers);
    head.version = Version::HTTP_11;
    if head.status != StatusCode::SWITCHING_PROTOCOLS {
        let response = Response::from_parts(head, body.boxed_unsync());
        return Ok(Sent { response, upgrade: None });
    }
    if !is_websocket || !is_asking {
        return Err(refuse(EgressError::Protocol));
    }
    head.headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    head.headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    let response = Response::from_parts(head, text(""));
    Ok(Sent { response, upgrade: Some(Upgrade { function, host, body }) })
}

/// The URL that a request is for, and whether it is for a WebSocket.
fn target(uri: &Uri, method: &Method, headers: &HeaderMap) -> Option<(Uri, bool)> {
    let (scheme, is_websocket) = match headers.get(SCHEME)?.as_bytes() {
        b"http" => (Scheme::HTTP, false),
        b"https" => (Scheme::HTTPS, false),
        b"ws" => (Scheme::HTTP, true),
        b"wss" => (Scheme::HTTPS, true),
        _ => return None,
    };
    if *method == Method::CONNECT {
        return None;
    }
    // Without the name and password that a URL may have.
    let host = uri.host().filter(|host| !host.is_empty())?;
    let port = match headers.get(PORT) {
        Some(port) => Some(port.to_str().ok()?.parse().ok()?),
        None => uri.port_u16(),
    };
    let authority = match port {
        Some(port) => Authority::try_from(format!("{host}:{port}")),
        None => Authority::try_from(host),
    };
    let path = uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    let uri = Uri::builder().scheme(scheme).authority(authority.ok()?).path_and_query(path).build().ok()?;
    Some((uri, is_websocket))
}

/// Removes the fields that are about one connection only, and those between node and process.
fn remove_own(headers: &mut HeaderMap) {
    remove_hop_by_hop(headers);
    let own: Vec<HeaderName> = headers.keys().filter(|name| name.as_str().starts_with(OWN)).cloned().collect();
    for name in own {
        headers.remove(name);
    }
}

/// Why a request was not answered by the host.
struct Refusal {
    code: &'static str,
    text: String,
    is_websocket: bool,
    id: Option<RequestId>,
}

impl Refusal {
    fn new(code: &'static str, text: String) -> Self {
        Self { code, text, is_websocket: false, id: None }
    }

    fn of(error: EgressError, uri: &Uri) -> Self {
        let host = uri.host().unwrap_or_default();
        let origin = uri.authority().map_or("", Authority::as_str);
        let (code, text) = match error {
            EgressError::Denied => {
                let rule = format!("{}://{origin}", uri.scheme_str().unwrap_or_default());
                let text = format!("the function may not reach {rule}: add \"{rule}\" to its `egress` in minnow.toml");
                ("denied", text)
            }
            EgressError::Prohibited => (
                "prohibited_address",
                format!(
                    "{host} is at an address that is not public; whoever runs the node can allow its network \
                     (`egress.private_networks`)"
                ),
            ),
            EgressError::Dns => ("dns", format!("{host} cannot be resolved; is the name right?")),
            EgressError::Refused => ("connect", format!("{origin} refused the connection; is the port right?")),
            EgressError::Unreachable => ("connect", format!("{origin} cannot be reached")),
            EgressError::BrokeOff => ("connect", format!("{origin} closed the connection before it answered; try again")),
            EgressError::ConnectTimeout => ("timeout", format!("connecting to {origin} took too long; try again later")),
            EgressError::AnswerTimeout => ("timeout", format!("{origin} took too long to answer; try again later")),
            EgressError::Certificate => ("tls", format!("the certificate of {origin} is not valid")),
            EgressError::Tls => ("tls", format!("the TLS handshake with {origin} failed; does it speak https?")),
            EgressError::TooMany => (
                "limit",
                format!(
                    "{MAX_OUTBOUND} requests to other hosts are under way, with those whose responses were not read; read or \
                     cancel their bodies"
                ),
            ),
            EgressError::NoPlace => (
                "limit",
                "no connection became free in time: the app, or all apps together, have as many open to other hosts as \
                 they may; try again later"
                    .into(),
            ),
            EgressError::Url => ("protocol", "the request cannot be sent: its URL names no host".into()),
            EgressError::Protocol => {
                ("protocol", format!("{origin} closed the connection, or answered with something that is not expected"))
            }
        };
        Self::new(code, text)
    }

    fn into_sent(self) -> Sent {
        let mut response = Response::new(text(self.text));
        *response.status_mut() = StatusCode::from_u16(NOT_ANSWERED).unwrap_or(StatusCode::BAD_GATEWAY);
        response.headers_mut().insert(ERROR, HeaderValue::from_static(self.code));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        Sent { response, upgrade: None }
    }
}

fn text(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).map_err(|never| match never {}).boxed_unsync()
}

#[cfg(test)]
mod tests {
    use std::{net::SocketAddr, path::Path, sync::atomic::Ordering::Relaxed};

    use ipnet::IpNet;
    use minnow_model::{AppName, EgressRule, Tenant};
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::{TcpListener, TcpStream},
        task::JoinHandle,
    };

    use super::*;

    fn headers(fields: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn a_request_says_where_it_goes() {
        for (sent, scheme, port, expected) in [
            ("http://example.com/a?b", "http", None, Some(("http://example.com/a?b", false))),
            ("http://example.com", "https", None, Some(("https://example.com/", false))),
            ("http://example.com:8443/", "https", None, Some(("https://example.com:8443/", false))),
            ("http://example.com/", "https", Some("80"), Some(("https://example.com:80/", false))),
            ("http://example.com/", "https", Some("70000"), None),
            ("http://[::1]:8080/", "http", None, Some(("http://[::1]:8080/", false))),
            ("http://user:word@example.com/", "http", None, Some(("http://example.com/", false))),
            ("http://example.com/chat", "ws", None, Some(("http://example.com/chat", true))),
            ("http://example.com/chat", "wss", None, Some(("https://example.com/chat", true))),
            ("ftp://example.com/", "https", None, Some(("https://example.com/", false))),
            ("http://example.com/", "ftp", None, None),
            ("http://example.com/", "HTTP", None, None),
            ("/path", "http", None, None),
            ("*", "http", None, None),
        ] {
            let mut fields = vec![("x-minnow-scheme", scheme)];
            fields.extend(port.map(|port| ("x-minnow-port", port)));
            let found = target(&sent.parse().unwrap(), &Method::GET, &headers(&fields));
            let found = found.as_ref().map(|(uri, is_websocket)| (uri.to_string(), *is_websocket));
            assert_eq!(found, expected.map(|(uri, is_websocket)| (uri.to_owned(), is_websocket)), "{sent} {scheme}");
        }
        let uri: Uri = "http://example.com/".parse().unwrap();
        assert_eq!(target(&uri, &Method::GET, &HeaderMap::new()), None);
        assert_eq!(target(&uri, &Method::CONNECT, &headers(&[("x-minnow-scheme", "http")])), None);
    }

    #[test]
    fn fields_of_one_connection_and_of_the_node_are_removed() {
        let mut headers = headers(&[
            ("connection", "X-Hop, close, content-length"),
            ("x-hop", "1"),
            ("content-length", "5"),
            ("x-minnow-scheme", "http"),
            ("x-minnow-egress-error", "denied"),
            ("x-minnow-egress-error", "denied"),
            ("x-stays", "1"),
        ]);
        remove_own(&mut headers);
        assert_eq!(headers.keys().collect::<Vec<_>>(), ["content-length", "x-stays"]);
    }

    /// The node's side of a process that may call `rules`.
    struct Exit {
        socket: tempfile::TempDir,
        under_way: Arc<AtomicU32>,
        task: JoinHandle<()>,
    }

    const KNOWN: RequestId = RequestId(7);

    fn exit(rules: &[&str], private_networks: Vec<IpNet>) -> Exit {
        let socket = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(socket.path().join("egress")).unwrap();
        let under_way = Arc::<AtomicU32>::default();
        let egress = Arc::new(Egress::new(private_networks, 512).unwrap());
        let rules: Arc<[EgressRule]> = rules.iter().map(|rule| rule.parse().unwrap()).collect();
        let count = Arc::clone(&under_way);
        let exit = move |request| {
            let (egress, rules, under_way) = (Arc::clone(&egress), Arc::clone(&rules), Arc::clone(&count));
            async move {
                let (tenant, app): (Tenant, AppName) = (Tenant::default(), "app".parse().unwrap());
                let caller = Caller { tenant: &tenant, app: &app, rules: &rules };
                let trace = |id| {
                    (id == KNOWN).then_some((RequestId(7), TraceContext { span_id: 5, parent_id: None, flags: 1 }))
                };
                send(&egress, &caller, &trace, under_way, request).await
            }
        };
        Exit { socket, under_way, task: tokio::spawn(accept(listener, exit)) }
    }

    impl Exit {
        fn path(&self) -> &Path {
            self.socket.path()
        }

        async fn connect(&self) -> UnixStream {
            UnixStream::connect(self.path().join("egress")).await.unwrap()
        }

        /// Sends `request` and reads until the node closes.
        async fn ask(&self, request: &[u8]) -> String {
            let mut stream = self.connect().await;
            // The node may close before it has read all of it.
            let _ = stream.write_all(request).await;
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer).await;
            String::from_utf8_lossy(&answer).into_owned()
        }
    }

    fn loopback() -> Vec<IpNet> {
        vec!["127.0.0.0/8".parse().unwrap()]
    }

    /// Whether the kernel has a timer on the connection from `local` to `host` to ask whether it is there.
    fn is_kept_alive(local: SocketAddr, host: SocketAddr) -> bool {
        let sockets = std::fs::read_to_string("/proc/self/net/tcp").unwrap();
        let hex = |address: SocketAddr| format!("0100007F:{:04X}", address.port());
        let ends = [hex(local), hex(host)];
        let sockets = sockets.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        // The table changes while it is read, and may have a connection more than once.
        let mut timers = sockets.filter(|fields| fields[1..3] == ends).map(|fields| fields[5].to_owned());
        // proc_net_tcp.txt: "2 another timer (e.g. delayed ack or keepalive) is pending".
        timers.any(|timer| timer.starts_with("02:"))
    }

    async fn read_head(stream: &mut TcpStream) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        String::from_utf8(head).unwrap()
    }

    #[tokio::test]
    async fn a_request_reaches_its_host_and_the_answer_comes_back() {
        let host = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = host.local_addr().unwrap();
        let exit = exit(&[&format!("http://{address}")], loopback());
        let request = format!(
            "POST http://{address}/path?q=1 HTTP/1.1\r\nhost: elsewhere\r\nx-minnow-scheme: http\r\n\
             x-minnow-request: {KNOWN}\r\nconnection: close\r\nx-own: 1\r\ncontent-length: 5\r\n\r\nhello"
        );
        let answering = async {
            let (mut stream, _) = host.accept().await.unwrap();
            let head = read_head(&mut stream).await.to_lowercase();
            let mut body = [0; 5];
            stream.read_exact(&mut body).await.unwrap();
            assert_eq!(&body, b"hello");
            let answer = "HTTP/1.1 201 Just Made\r\nx-minnow-egress-error: denied\r\nkeep-alive: timeout=5\r\n\
                          x-from: host\r\ncontent-length: 2\r\n\r\nok";
            stream.write_all(answer.as_bytes()).await.unwrap();
            head
        };
        let (answer, head) = tokio::join!(exit.ask(request.as_bytes()), answering);
        let trace = "traceparent: 00-00000000000000000000000000000007-0000000000000005-01";
        for line in ["post /path?q=1 http/1.1", &format!("host: {address}"), "x-own: 1", "content-length: 5", trace] {
            assert!(head.lines().any(|found| found == line), "{line}: {head}");
        }
        assert!(!head.contains("x-minnow") && !head.contains("connection"), "{head}");
        assert!(answer.starts_with("HTTP/1.1 201 Just Made\r\n") && answer.ends_with("\r\n\r\nok"), "{answer}");
        assert!(answer.contains("x-from: host") && !answer.contains("x-minnow") && !answer.contains("keep-alive"));
        assert_eq!(exit.under_way.load(Relaxed), 0);
    }

    #[tokio::test]
    async fn what_gets_no_answer_is_told_why() {
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let gone = silent.local_addr().unwrap();
        drop(silent);
        let odd = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let odd_address = odd.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = odd.accept().await {
                read_head(&mut stream).await;
                stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n").await.unwrap();
            }
        });
        let exit = self::exit(&["*"], loopback());
        let allowed =
            self::exit(&[&format!("http://{gone}"), &format!("http://{odd_address}"), "10.0.0.1"], loopback());
        for (exit, target, scheme, code, text) in [
            (&exit, format!("http://{gone}/"), "http", "denied", format!("\"http://{gone}\"")),
            (&exit, "http://example.com:8443/".into(), "wss", "denied", "\"https://example.com:8443\"".into()),
            (&allowed, format!("http://{gone}/"), "http", "connect", gone.to_string()),
            (&allowed, format!("http://{odd_address}/"), "http", "protocol", odd_address.to_string()),
            (&allowed, format!("http://{odd_address}/"), "ws", "protocol", odd_address.to_string()),
            (&allowed, "http://10.0.0.1/".into(), "http", "prohibited_address", "10.0.0.1".into()),
            (&allowed, "/".into(), "http", "protocol", "host".into()),
            (&allowed, "http://10.0.0.1/".into(), "gopher", "protocol", "scheme".into()),
        ] {
            let request = format!("GET {target} HTTP/1.1\r\nx-minnow-scheme: {scheme}\r\nconnection: close\r\n\r\n");
            let answer = exit.ask(request.as_bytes()).await;
            assert!(answer.starts_with("HTTP/1.1 599 "), "{target}: {answer}");
            assert!(answer.contains(&format!("x-minnow-egress-error: {code}\r\n")), "{target}: {answer}");
            assert!(answer.split("\r\n\r\n").nth(1).unwrap().contains(&text), "{target}: {answer}");
        }
        let connect = exit.ask(b"CONNECT a:443 HTTP/1.1\r\nx-minnow-scheme: http\r\nconnection: close\r\n\r\n").await;
        assert!(connect.starts_with("HTTP/1.1 599 "), "{connect}");
    }

    #[tokio::test]
    async fn what_is_not_http_breaks_nothing() {
        let exit = exit(&["*"], loopback());
        let long = format!("GET http://a/ HTTP/1.1\r\nx: {}\r\n\r\n", "x".repeat(2 * MAX_HEAD_BYTES));
        for garbage in [
            &b"\0\x01\x02\x03\r\n\r\n"[..],
            b"\n\n\n\nGET\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            long.as_bytes(),
        ] {
            let answer = exit.ask(garbage).await;
            assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
        }
        // Those that say nothing take the function's own connections only.
        let mut idle = Vec::new();
        for _ in 0..MAX_CONNECTIONS - 1 {
            idle.push(exit.connect().await);
        }
        let request = b"GET / HTTP/1.1\r\nx-minnow-scheme: http\r\nconnection: close\r\n\r\n";
        assert!(exit.ask(request).await.starts_with("HTTP/1.1 599 "));
        // Beyond those that are kept, a connection is closed after its answer.
        let late = idle.last_mut().unwrap();
        late.write_all(b"GET / HTTP/1.1\r\nx-minnow-scheme: http\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        late.read_to_string(&mut answer).await.unwrap();
        assert!(answer.contains("connection: close"), "{answer}");
    }

    #[tokio::test]
    async fn requests_under_way_are_bounded_and_end_with_the_process() {
        let host = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = host.local_addr().unwrap();
        let exit = exit(&[&format!("http://{address}")], loopback());
        let request = format!("GET http://{address}/ HTTP/1.1\r\nx-minnow-scheme: http\r\nconnection: close\r\n\r\n");
        let (mut asking, mut asked) = (Vec::new(), Vec::new());
        for _ in 0..MAX_OUTBOUND {
            let mut stream = exit.connect().await;
            stream.write_all(request.as_bytes()).await.unwrap();
            asking.push(stream);
            asked.push(host.accept().await.unwrap().0);
        }
        let refused = exit.ask(request.as_bytes()).await;
        assert!(refused.contains("x-minnow-egress-error: limit"), "{refused}");
        // One that is given up makes room.
        drop((asking.pop(), asked.pop()));
        let mut stream = exit.connect().await;
        while exit.under_way.load(Relaxed) == MAX_OUTBOUND {
            tokio::task::yield_now().await;
        }
        stream.write_all(request.as_bytes()).await.unwrap();
        asked.push(host.accept().await.unwrap().0);
        exit.task.abort();
        for mut stream in asked {
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).await.unwrap();
        }
        assert_eq!(exit.under_way.load(Relaxed), 0);
    }

    #[tokio::test]
    async fn a_websocket_passes_both_ways_until_one_side_ends() {
        let host = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = host.local_addr().unwrap();
        let exit = exit(&[&format!("http://{address}")], loopback());
        let mut function = exit.connect().await;
        let request = format!(
            "GET http://{address}/chat HTTP/1.1\r\nx-minnow-scheme: ws\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        function.write_all(request.as_bytes()).await.unwrap();
        let (mut stream, node) = host.accept().await.unwrap();
        let head = read_head(&mut stream).await.to_lowercase();
        for line in ["get /chat http/1.1", "connection: upgrade", "upgrade: websocket", "sec-websocket-version: 13"] {
            assert!(head.lines().any(|found| found == line), "{line}: {head}");
        }
        // The first frame comes with the head.
        let answer = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                       sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n\x81\x02hi";
        stream.write_all(answer).await.unwrap();
        let mut got = Vec::new();
        while !got.ends_with(b"\x81\x02hi") {
            got.push(function.read_u8().await.unwrap());
        }
        let got = String::from_utf8_lossy(&got).to_lowercase();
        assert!(got.starts_with("http/1.1 101 ") && got.contains("upgrade: websocket"), "{got}");
        assert!(got.contains("sec-websocket-accept:") && !got.contains("content-length"), "{got}");
        let said = b"\x81\x82\x01\x02\x03\x04hi";
        function.write_all(said).await.unwrap();
        let mut heard = [0; 8];
        stream.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, said);
        assert_eq!(exit.under_way.load(Relaxed), 1);
        // A host that has vanished is found out, however long nothing is said.
        let kept_alive = async {
            while !is_kept_alive(node, address) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), kept_alive).await.unwrap();
        drop(stream);
        // What broke off looks so: the node says nothing in the host's name.
        assert_eq!(function.read_to_end(&mut Vec::new()).await.unwrap(), 0);
        drop(function);
        while exit.under_way.load(Relaxed) != 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
