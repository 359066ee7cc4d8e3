//! The way out: requests of functions to other hosts, through one pool of connections.
//!
//! A request passes two gates: the function's `egress` rules by name, and after DNS resolution the address, which has to be
//! public unless the node's configuration names its network. The address that was checked is the one that is connected to.
//!
//! `connect` bounds the connections. `wasi` is what guests of wasm see of all this, `js::outbound` what JavaScript does.

mod connect;
mod wasi;

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr, ToSocketAddrs as _},
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    task::{Context, Poll},
    thread,
    time::Duration,
};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, Uri, header};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{
        Client,
        connect::{HttpConnector, dns::Name},
    },
    rt::{TokioExecutor, TokioTimer},
};
use ipnet::IpNet;
use minnow_model::{
    AppName, EgressRule, RequestId, Tenant,
    egress::{address_is_public, any_allows},
};
use minnow_telemetry::trace::format_traceparent;
use tokio::{
    sync::{Semaphore, oneshot},
    time::{Instant, Sleep},
};

use self::connect::{BoxError, Connector, NoPlace, Places};
pub(crate) use self::wasi::continue_trace;
use crate::{FunctionSpec, StartError, TraceContext};

/// Requests that one sandbox may have under way at once, with those whose responses it has not read. Lambda has no such
/// limit, Workers has 6; browsers open 6 a host.
pub(crate) const MAX_OUTBOUND: u32 = 64;

/// Idle connections that are kept for one host: a function that always has as many requests under way connects once. What
/// a burst leaves beyond it is closed. Those to all hosts together are bounded in `connect`.
const MAX_IDLE_PER_HOST: usize = 16;

/// How long an idle connection is kept: below the 60 s after which common load balancers close it.
const IDLE: Duration = Duration::from_secs(50);

/// How the kernel watches over a connection on which nothing comes, which a WebSocket may be for hours: as the gateway has it for
/// those of clients, it asks the host after a minute, then every 15 s, and gives it up after four questions.
const KEEP_ALIVE: Duration = Duration::from_secs(60);
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEP_ALIVE_RETRIES: u32 = 4;

/// How long connecting may take, from the wait for a place to the end of the TLS handshake: two retransmissions of a SYN.
const CONNECT: Duration = Duration::from_secs(10);

/// How long a look-up may take of that, so that the guest hears that it was the name. The system's resolver asks the next
/// name server after 5 s.
const LOOK_UP: Duration = Duration::from_secs(8);

/// Look-ups of names under way at once, for one app and for the node. Each holds a thread until the system's resolver
/// gives up, which takes some 10 s for each name server; an app whose names nobody answers leaves the others their share.
const MAX_LOOKUPS_PER_APP: usize = 8;
const MAX_LOOKUPS: usize = 64;

tokio::task_local! {
    /// The share of the app whose request is being sent; not set once the request has another connection or is gone.
    static SHARE: Arc<Share>;
}

/// Sends requests of functions to other hosts.
pub(crate) struct Egress {
    client: Client<Connector<HttpsConnector<HttpConnector<Resolver>>>, RequestBody>,
    allowed: Allowed,
    shares: Shares,
}

impl Egress {
    /// With at most `connections` open at once. One app may have half of them, as one function may have half of the sandboxes.
    pub(crate) fn new(private_networks: Vec<IpNet>, connections: usize) -> Result<Self, StartError> {
        let allowed = Allowed(private_networks.into());
        let mut connector = HttpConnector::new_with_resolver(Resolver {
            allowed: allowed.clone(),
            lookups: Arc::new(Semaphore::new(MAX_LOOKUPS)),
            ask: Arc::new(|name| (name, 0).to_socket_addrs().map(Iterator::collect)),
        });
        connector.enforce_http(false);
        connector.set_nodelay(true);
        connector.set_keepalive(Some(KEEP_ALIVE));
        connector.set_keepalive_interval(Some(KEEP_ALIVE_INTERVAL));
        connector.set_keepalive_retries(Some(KEEP_ALIVE_RETRIES));
        connector.set_connect_timeout(Some(CONNECT));
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls()?)
            .https_or_http()
            // One exchange at a time on a connection: over HTTP/2 all functions would share one connection to a host and its
            // window, and one that does not read would stop the others.
            .enable_http1()
            .wrap_connector(connector);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(MAX_IDLE_PER_HOST)
            .build(Connector::new(connector, Places::new(connections)));
        let shares = Shares { connections: connections.div_ceil(2), apps: Mutex::default() };
        Ok(Self { client, allowed, shares })
    }

    /// Sends a request of `caller` and waits for the head of the response. `under_way` counts the sandbox's requests.
    ///
    /// Knows nothing of the invocation: a guest that stays warm may keep the response, and the invocation must end all the
    /// same. A response with the status 101 has the host's connection (`hyper::upgrade::on`); keep its body for as long as
    /// that is used.
    pub(crate) async fn exchange(
        &self,
        caller: &Caller<'_>,
        under_way: Arc<AtomicU32>,
        mut request: Request<RequestBody>,
        patience: Patience,
    ) -> Result<Response<ResponseBody>, EgressError> {
        self.check(caller.rules, request.uri())?;
        let outbound = Outbound::begin(under_way).ok_or(EgressError::TooMany)?;
        // hyper sets it from the URI.
        request.headers_mut().remove(header::HOST);
        let connect_and_answer =
            patience.connect.unwrap_or(CONNECT).saturating_add(patience.first_byte.unwrap_or(Duration::MAX));
        let share = self.shares.of(caller.tenant, caller.app);
        let sending = SHARE.scope(share, self.client.request(request));
        let response = match tokio::time::timeout(connect_and_answer, sending).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Err(EgressError::of(&error)),
            Err(_) => return Err(EgressError::AnswerTimeout),
        };
        let between = patience.between_bytes;
        Ok(response.map(|inner| ResponseBody { inner, between, deadline: None, _outbound: outbound }))
    }

    /// The gate by name, and by address where the URL holds one.
    fn check(&self, rules: &[EgressRule], uri: &Uri) -> Result<(), EgressError> {
        let (Some(scheme), Some(host)) = (uri.scheme_str(), uri.host()) else {
            return Err(EgressError::Url);
        };
        let port = uri.port_u16().unwrap_or(if scheme == "https" { 443 } else { 80 });
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if !any_allows(rules, scheme, host, port) {
            return Err(EgressError::Denied);
        }
        // The resolver is not asked about addresses, so they are checked here.
        match host.parse::<IpAddr>() {
            Ok(address) if !self.allowed.contains(address) => Err(EgressError::Prohibited),
            _ => Ok(()),
        }
    }
}

/// The body of a request to another host.
pub(crate) type RequestBody = UnsyncBoxBody<Bytes, BoxError>;

/// Who asks.
pub(crate) struct Caller<'a> {
    pub(crate) tenant: &'a Tenant,
    pub(crate) app: &'a AppName,
    pub(crate) rules: &'a [EgressRule],
}

impl<'a> Caller<'a> {
    pub(crate) fn of(spec: &'a FunctionSpec) -> Self {
        Self { tenant: &spec.tenant, app: &spec.app, rules: &spec.egress }
    }
}

/// How long a guest wants to wait. `None` is the node's own bound for the connection, and no bound for the rest.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Patience {
    pub(crate) connect: Option<Duration>,
    pub(crate) first_byte: Option<Duration>,
    pub(crate) between_bytes: Option<Duration>,
}

/// Why a request got no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum EgressError {
    #[error("the URL has no scheme or no host")]
    Url,
    #[error("the function's `egress` does not allow it")]
    Denied,
    #[error("the address is not public")]
    Prohibited,
    #[error("the sandbox has {MAX_OUTBOUND} requests under way")]
    TooMany,
    #[error("the app or the node has no more connections")]
    NoPlace,
    #[error("the name cannot be resolved")]
    Dns,
    #[error("the connection was refused")]
    Refused,
    #[error("the host cannot be reached")]
    Unreachable,
    #[error("connecting took too long")]
    ConnectTimeout,
    #[error("the certificate is not valid")]
    Certificate,
    #[error("the TLS handshake failed")]
    Tls,
    #[error("the answer took too long")]
    AnswerTimeout,
    #[error("the connection broke off")]
    BrokeOff,
    #[error("the answer is not HTTP")]
    Protocol,
}

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// Has a request continue the trace of the invocation that makes it, unless the guest has said otherwise.
pub(crate) fn set_trace(headers: &mut HeaderMap, id: RequestId, trace: &TraceContext) {
    if headers.contains_key(TRACEPARENT) {
        return;
    }
    let value = format_traceparent(id.0, trace.span_id, trace.flags);
    if let Ok(value) = HeaderValue::from_bytes(&value) {
        headers.insert(TRACEPARENT, value);
    }
}

/// Trusts what the system trusts, or Mozilla's list where the system has none.
fn tls() -> Result<rustls::ClientConfig, StartError> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| StartError::Tls(error.to_string()))?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

/// Notes that a request to another host is under way, for as long as it lives.
struct Outbound(Arc<AtomicU32>);

impl Outbound {
    fn begin(under_way: Arc<AtomicU32>) -> Option<Self> {
        if under_way.fetch_add(1, Relaxed) >= MAX_OUTBOUND {
            under_way.fetch_sub(1, Relaxed);
            return None;
        }
        Some(Self(under_way))
    }
}

impl Drop for Outbound {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// The addresses that may be connected to.
#[derive(Clone)]
struct Allowed(Arc<[IpNet]>);

impl Allowed {
    fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address_is_public(address) || self.0.iter().any(|network| network.contains(&address))
    }
}

/// Resolves names with the system's resolver and drops the addresses that may not be reached.
#[derive(Clone)]
struct Resolver {
    allowed: Allowed,
    lookups: Arc<Semaphore>,
    ask: Ask,
}

/// Asks for the addresses of a name. Blocks, perhaps for long.
type Ask = Arc<dyn Fn(&str) -> io::Result<Vec<SocketAddr>> + Send + Sync>;

/// What one app may have of the node at once.
struct Share {
    lookups: Arc<Semaphore>,
    connections: Places,
}

/// The shares of the apps that send requests now, or have connections open.
struct Shares {
    /// Connections of one app.
    connections: usize,
    apps: Mutex<HashMap<(Tenant, AppName), Weak<Share>>>,
}

impl Shares {
    fn of(&self, tenant: &Tenant, app: &AppName) -> Arc<Share> {
        let mut apps = self.apps.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (tenant.clone(), app.clone());
        if let Some(share) = apps.get(&key).and_then(Weak::upgrade) {
            return share;
        }
        apps.retain(|_, share| share.strong_count() > 0);
        let lookups = Arc::new(Semaphore::new(MAX_LOOKUPS_PER_APP));
        let share = Arc::new(Share { lookups, connections: Places::new(self.connections) });
        apps.insert(key, Arc::downgrade(&share));
        share
    }
}

/// Asks the resolver on a thread of its own: threads for blocking work also read files, which must not wait for
/// a name server. The places are given back when the resolver is done, whether or not anybody still waits for it.
async fn look_up(
    name: String,
    share: Option<Arc<Share>>,
    of_node: Arc<Semaphore>,
    ask: Ask,
) -> Result<Vec<SocketAddr>, Unresolved> {
    let of_app = match &share {
        Some(share) => Some(Arc::clone(&share.lookups).acquire_owned().await.map_err(|_| Unresolved)?),
        None => None,
    };
    let of_node = of_node.acquire_owned().await.map_err(|_| Unresolved)?;
    let (found, answer) = oneshot::channel();
    let asking = move || {
        let addresses = ask(&name);
        drop((of_app, of_node, share));
        // Nobody waits any more: the request has timed out or was given up.
        let _ = found.send(addresses);
    };
    thread::Builder::new().name("minnow-dns".into()).spawn(asking).map_err(|_| Unresolved)?;
    answer.await.map_err(|_| Unresolved)?.map_err(|_| Unresolved)
}

/// A name has only addresses that may not be reached.
#[derive(Debug, thiserror::Error)]
#[error("the address is not public")]
struct Prohibited;

/// A name has no address.
#[derive(Debug, thiserror::Error)]
#[error("the name cannot be resolved")]
struct Unresolved;

impl tower_service::Service<Name> for Resolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Self::Response>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let allowed = self.allowed.clone();
        let share = SHARE.try_with(Arc::clone).ok();
        let of_node = Arc::clone(&self.lookups);
        let ask = Arc::clone(&self.ask);
        Box::pin(async move {
            let asking = look_up(name.as_str().to_owned(), share, of_node, ask);
            let found = tokio::time::timeout(LOOK_UP, asking).await.unwrap_or(Err(Unresolved));
            let found = found.map_err(io::Error::other)?;
            if found.is_empty() {
                return Err(io::Error::other(Unresolved));
            }
            let reachable: Vec<SocketAddr> = found.into_iter().filter(|each| allowed.contains(each.ip())).collect();
            if reachable.is_empty() {
                return Err(io::Error::other(Prohibited));
            }
            Ok(reachable.into_iter())
        })
    }
}

impl EgressError {
    fn of(error: &hyper_util::client::legacy::Error) -> Self {
        let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
        while let Some(each) = source {
            // An io::Error hides what it wraps from `source`.
            let inner = each.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
            let known = Self::known(each).or_else(|| Self::known(inner?));
            if let Some(known) = known {
                return known;
            }
            source = each.source();
        }
        if error.is_connect() { Self::Unreachable } else { Self::Protocol }
    }

    fn known(error: &(dyn std::error::Error + 'static)) -> Option<Self> {
        if error.is::<NoPlace>() {
            return Some(Self::NoPlace);
        }
        if error.is::<Prohibited>() {
            return Some(Self::Prohibited);
        }
        if error.is::<Unresolved>() {
            return Some(Self::Dns);
        }
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            let is_certificate = matches!(tls, rustls::Error::InvalidCertificate(_));
            return Some(if is_certificate { Self::Certificate } else { Self::Tls });
        }
        match error.downcast_ref::<io::Error>()?.kind() {
            io::ErrorKind::ConnectionRefused => Some(Self::Refused),
            io::ErrorKind::TimedOut => Some(Self::ConnectTimeout),
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::UnexpectedEof => {
                Some(Self::BrokeOff)
            }
            _ => None,
        }
    }
}

/// A response body that gives up when nothing comes for too long, and counts as under way until it ends.
pub(crate) struct ResponseBody {
    inner: Incoming,
    between: Option<Duration>,
    deadline: Option<Pin<Box<Sleep>>>,
    _outbound: Outbound,
}

/// Why a response broke off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    #[error(transparent)]
    Http(hyper::Error),
    #[error("nothing came for too long")]
    Timeout,
}

impl http_body::Body for ResponseBody {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let this = &mut *self;
        if let Poll::Ready(frame) = Pin::new(&mut this.inner).poll_frame(cx) {
            this.deadline = None;
            return Poll::Ready(frame.map(|frame| frame.map_err(Broken::Http)));
        }
        let Some(between) = this.between else { return Poll::Pending };
        let deadline =
            this.deadline.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + between)));
        match deadline.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Some(Err(Broken::Timeout))),
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Condvar, atomic::AtomicUsize};

    use futures::future::join_all;
    use tower_service::Service as _;

    use super::*;

    /// A name server that answers once it is told to, and counts who asks.
    #[derive(Default)]
    struct Silent {
        asked: AtomicUsize,
        answers: Mutex<bool>,
        told: Condvar,
    }

    impl Silent {
        fn resolver(self: &Arc<Self>) -> Resolver {
            let server = Arc::clone(self);
            let ask = move |_: &str| {
                server.asked.fetch_add(1, Relaxed);
                let answers = server.answers.lock().unwrap();
                drop(server.told.wait_while(answers, |answers| !*answers).unwrap());
                Ok(vec![SocketAddr::from(([192, 0, 2, 1], 0)), SocketAddr::from(([1, 1, 1, 1], 0))])
            };
            let lookups = Arc::new(Semaphore::new(MAX_LOOKUPS));
            Resolver { allowed: Allowed(Arc::new([])), lookups, ask: Arc::new(ask) }
        }

        fn answer(&self) {
            *self.answers.lock().unwrap() = true;
            self.told.notify_all();
        }

        /// Threads ask in their own time: waits until so many have.
        fn asked(&self, expected: usize) -> bool {
            let deadline = std::time::Instant::now() + Duration::from_secs(60);
            while self.asked.load(Relaxed) < expected && std::time::Instant::now() < deadline {
                thread::yield_now();
            }
            self.asked.load(Relaxed) == expected
        }
    }

    /// Looks a name up for each of these apps.
    async fn look_up_for(resolver: &Resolver, shares: &Shares, apps: &[String]) -> Vec<io::Result<Vec<IpAddr>>> {
        let calls = apps.iter().map(|app| {
            let share = shares.of(&Tenant::default(), &app.parse().unwrap());
            let mut resolver = resolver.clone();
            SHARE.scope(share, async move {
                let found = resolver.call("example.org".parse().unwrap()).await?;
                Ok(found.map(|address| address.ip()).collect())
            })
        });
        join_all(calls).await
    }

    fn shares() -> Shares {
        Shares { connections: 1, apps: Mutex::default() }
    }

    // The clock of these tests stands still while something runs, and goes to the next timer when nothing does.
    #[tokio::test(start_paused = true)]
    async fn look_ups_that_nobody_answers_are_bounded_in_time_and_number() {
        let (server, shares) = (Arc::new(Silent::default()), shares());
        let resolver = server.resolver();
        let began = Instant::now();
        let of_one = vec!["one".to_owned(); 5 * MAX_LOOKUPS_PER_APP];
        let found = look_up_for(&resolver, &shares, &of_one).await;
        assert!(found.iter().all(Result::is_err), "{found:?}");
        assert_eq!(began.elapsed().as_secs(), LOOK_UP.as_secs());
        assert!(server.asked(MAX_LOOKUPS_PER_APP), "one app asked {:?} times", server.asked);

        // The threads still wait, so that the app gets no more of them, and others get what is left.
        let many: Vec<String> = (0..5 * MAX_LOOKUPS).map(|index| format!("app-{}", index % 40)).collect();
        let found = look_up_for(&resolver, &shares, &[of_one, many].concat()).await;
        assert!(found.iter().all(Result::is_err), "{found:?}");
        assert!(server.asked(MAX_LOOKUPS), "all apps asked {:?} times", server.asked);
        server.answer();
    }

    #[tokio::test]
    async fn places_for_look_ups_come_back_when_the_name_server_does() {
        let (server, shares) = (Arc::new(Silent::default()), shares());
        let resolver = server.resolver();
        let all = vec!["one".to_owned(); 5 * MAX_LOOKUPS_PER_APP];
        {
            let mut given_up = std::pin::pin!(look_up_for(&resolver, &shares, &all));
            assert!(futures::poll!(&mut given_up).is_pending());
        }
        assert!(server.asked(MAX_LOOKUPS_PER_APP), "{:?}", server.asked);
        server.answer();
        for found in look_up_for(&resolver, &shares, &all).await {
            // The address that is not public is left out.
            assert_eq!(found.unwrap(), [IpAddr::from([1, 1, 1, 1])]);
        }
    }

    #[test]
    fn an_app_has_one_share_for_as_long_as_something_of_it_is_left() {
        let (shares, tenant) = (shares(), Tenant::default());
        let of = |app: &str| shares.of(&tenant, &app.parse().unwrap());
        let kept = of("one");
        assert!(Arc::ptr_eq(&of("one"), &kept) && !Arc::ptr_eq(&of("two"), &kept));
        drop(kept);
        drop(of("three"));
        assert_eq!(shares.apps.lock().unwrap().len(), 1, "what is over is forgotten");
    }
}
