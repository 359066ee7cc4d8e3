//! The control API as the CLI calls it: one method for each route, typed by the API's own bodies.

use std::{path::Path, time::Duration};

use minnow_control::api_types::{
    AppInfo, AppStatus, DataChoice, DeleteQuery, DeployRequest, InvokeRequest, InvokeResponse, KeyRotated, LogQuery,
    NewSecret, NodeInfo, Published, SecretInfo, SecretStored, StoredBlob, VariableChange, VariableInfo, VariablePatch,
    VariablesChanged, VersionInfo,
};
use minnow_model::{AppName, Code, Deployment, Digest, FunctionName, LogLine, Problem, VariableName, Version};
use reqwest::{
    Method, RequestBuilder, Response, StatusCode, Url,
    header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue},
};
use serde::{Deserialize, de::DeserializeOwned};

mod backup;
mod buckets;
mod error;
mod events;
mod stores;

pub use buckets::{FoundBlob, NewBlob};
pub use error::{ApiError, ApiProblem};
pub use events::{Message, Publish};

/// A connection that takes longer does not come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// For calls that only read or change a record. Publishing, deploying, rolling back and deleting an app have no limit here: the
/// node may have to compile every function of an app first, or run its migrations, bounds that by itself, and carries on when the
/// caller leaves.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);
/// For invoking: a function's wall time is capped at 15 minutes by default, and the answer takes some time too.
const INVOKE_TIMEOUT: Duration = Duration::from_secs(20 * 60);
/// Finds a node that vanished during an upload or while a log is followed.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// How long a connection may rest and still be used again: less than the 10 s after which a node closes it. A command that
/// packs an app meanwhile would not notice, and send its next request to nobody.
const REST: Duration = Duration::from_secs(5);
/// The longest error body that is read, and the longest log line. A log message has at most 16 KiB, which JSON escapes
/// to at most six times that.
const MAX_TEXT_BYTES: usize = 256 * 1024;

/// Media type of an OCI manifest.
const OCI_MANIFEST: HeaderValue = HeaderValue::from_static("application/vnd.oci.image.manifest.v1+json");

/// A node's control API, and the token for it.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    server: Url,
    token: Option<HeaderValue>,
    /// What to do when the node refuses the token: that depends on where it came from.
    remedy: Option<String>,
    /// [`CALL_TIMEOUT`], but in tests.
    call_timeout: Duration,
}

impl Client {
    /// Prepares a client. Nothing is sent yet.
    pub fn new(server: Url, token: Option<String>) -> Result<Self, ApiError> {
        Self::with_rest(server, token, REST)
    }

    fn with_rest(server: Url, token: Option<String>, rest: Duration) -> Result<Self, ApiError> {
        use_ring();
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("minnow/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_keepalive(KEEPALIVE)
            .pool_idle_timeout(rest)
            // A redirect would carry an upload or a change somewhere else.
            .redirect(reqwest::redirect::Policy::none());
        if server.scheme() == "http" {
            // Plain HTTP needs no root certificates, which a small container may lack.
            builder = builder.tls_certs_only([]);
        }
        if is_loopback(&server) {
            builder = builder.no_proxy();
        }
        let http = builder.build().map_err(|source| ApiError::Setup { source })?;
        let token = match token {
            Some(token) => {
                let mut value =
                    HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| ApiError::MalformedToken)?;
                value.set_sensitive(true);
                Some(value)
            }
            None => None,
        };
        Ok(Self { http, server, token, remedy: None, call_timeout: CALL_TIMEOUT })
    }

    /// Says what to do when the node refuses the token.
    pub fn with_remedy(mut self, remedy: String) -> Self {
        self.remedy = Some(remedy);
        self
    }

    /// The control API's address.
    pub fn server(&self) -> &Url {
        &self.server
    }

    /// Makes sure that a node's control API answers, before it is shown a token: without one it has to refuse the call.
    pub async fn find(&self) -> Result<(), ApiError> {
        let request = self.http.request(Method::GET, self.url(&["node"])?).timeout(self.call_timeout);
        match self.send(request).await {
            Ok(response) => Err(ApiError::foreign(self.server.clone(), response.status(), response.headers())),
            Err(ApiError::Problem { problem, .. }) if problem.known() == Some(Code::Unauthorized) => Ok(()),
            Err(error) => Err(error),
        }
    }

    pub async fn node(&self) -> Result<NodeInfo, ApiError> {
        self.call(Method::GET, &["node"]).await
    }

    pub async fn apps(&self) -> Result<Vec<AppInfo>, ApiError> {
        self.call(Method::GET, &["apps"]).await
    }

    pub async fn app(&self, app: &AppName) -> Result<AppStatus, ApiError> {
        self.call(Method::GET, &["apps", app.as_str()]).await
    }

    /// Deletes an app. `data` says what becomes of what is in its stores.
    /// False when calls still use its data, which goes when they have ended.
    pub async fn delete_app(&self, app: &AppName, data: Option<DataChoice>) -> Result<bool, ApiError> {
        let request = self.request(Method::DELETE, &["apps", app.as_str()])?.query(&DeleteQuery { data });
        let response = self.send(request).await?;
        match response.status() {
            StatusCode::NO_CONTENT => Ok(true),
            StatusCode::ACCEPTED => Ok(false),
            // Any other success is not the node's: nothing was deleted.
            status => Err(ApiError::foreign(self.server.clone(), status, response.headers())),
        }
    }

    /// Newest first.
    pub async fn versions(&self, app: &AppName) -> Result<Vec<VersionInfo>, ApiError> {
        self.call(Method::GET, &["apps", app.as_str(), "versions"]).await
    }

    /// Publishes a version whose blobs are all there: `manifest` is its OCI manifest.
    pub async fn publish(&self, app: &AppName, version: &Version, manifest: Vec<u8>) -> Result<Published, ApiError> {
        let request = self
            .request(Method::PUT, &["apps", app.as_str(), "versions", &version.to_string()])?
            .header(CONTENT_TYPE, OCI_MANIFEST)
            .body(manifest);
        self.read(self.send(request).await?).await
    }

    pub async fn delete_version(&self, app: &AppName, version: &Version) -> Result<(), ApiError> {
        self.delete(&["apps", app.as_str(), "versions", &version.to_string()]).await
    }

    /// Whether the node has this content.
    pub async fn has_blob(&self, digest: &Digest) -> Result<bool, ApiError> {
        let request = self.request(Method::HEAD, &["blobs", &digest.to_string()])?.timeout(self.call_timeout);
        match self.send(request).await {
            Ok(_) => Ok(true),
            Err(error) if error.status() == Some(StatusCode::NOT_FOUND) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Uploads content of `size` bytes. There is no time limit: how long it may take depends on the line.
    pub async fn put_blob(&self, digest: &Digest, size: u64, body: reqwest::Body) -> Result<(), ApiError> {
        let request = self
            .request(Method::PUT, &["blobs", &digest.to_string()])?
            .header(CONTENT_TYPE, "application/octet-stream")
            .header(CONTENT_LENGTH, size)
            .body(body);
        self.read::<StoredBlob>(self.send(request).await?).await.map(drop)
    }

    pub async fn deploy(&self, app: &AppName, deploy: &DeployRequest) -> Result<Deployment, ApiError> {
        let request = self.request(Method::POST, &["apps", app.as_str(), "deploy"])?.json(deploy);
        self.read(self.send(request).await?).await
    }

    pub async fn rollback(&self, app: &AppName) -> Result<Deployment, ApiError> {
        let request = self.request(Method::POST, &["apps", app.as_str(), "rollback"])?;
        self.read(self.send(request).await?).await
    }

    /// By name.
    pub async fn variables(&self, app: &AppName) -> Result<Vec<VariableInfo>, ApiError> {
        self.call(Method::GET, &["apps", app.as_str(), "config"]).await
    }

    /// Sets variables and takes some away, all or none.
    pub async fn set_variables(&self, app: &AppName, patch: &VariablePatch) -> Result<VariablesChanged, ApiError> {
        let request = self.request(Method::PATCH, &["apps", app.as_str(), "config"])?;
        self.read(self.send(request.timeout(self.call_timeout).json(patch)).await?).await
    }

    /// Newest first.
    pub async fn variable_history(&self, app: &AppName) -> Result<Vec<VariableChange>, ApiError> {
        self.call(Method::GET, &["apps", app.as_str(), "config", "history"]).await
    }

    /// By name, without what is in them.
    pub async fn secrets(&self, app: &AppName) -> Result<Vec<SecretInfo>, ApiError> {
        self.call(Method::GET, &["apps", app.as_str(), "secrets"]).await
    }

    pub async fn set_secret(
        &self,
        app: &AppName,
        name: &VariableName,
        value: String,
    ) -> Result<SecretStored, ApiError> {
        let request = self.request(Method::PUT, &["apps", app.as_str(), "secrets", name.as_str()])?;
        self.read(self.send(request.timeout(self.call_timeout).json(&NewSecret { value })).await?).await
    }

    pub async fn delete_secret(&self, app: &AppName, name: &VariableName) -> Result<(), ApiError> {
        self.delete(&["apps", app.as_str(), "secrets", name.as_str()]).await
    }

    /// Encrypts all secrets of the node with a new key.
    pub async fn rotate_key(&self) -> Result<KeyRotated, ApiError> {
        self.call(Method::POST, &["secrets", "rotate"]).await
    }

    /// The lines of an app's log, and with `query.follow` those to come.
    pub async fn logs(&self, app: &AppName, query: &LogQuery) -> Result<LogStream, ApiError> {
        let mut url = self.url(&["apps", app.as_str(), "logs"])?;
        {
            let mut pairs = url.query_pairs_mut();
            if let Some(since) = query.since_ms {
                pairs.append_pair("since_ms", &since.to_string());
            }
            if let Some(limit) = query.limit {
                pairs.append_pair("limit", &limit.to_string());
            }
            if let Some(function) = &query.function {
                pairs.append_pair("function", function);
            }
            pairs.append_pair("follow", if query.follow { "true" } else { "false" });
        }
        let response = self.send(self.authorized(Method::GET, url)?).await?;
        if !has_type(&response, "application/x-ndjson") {
            return Err(ApiError::foreign(self.server.clone(), response.status(), response.headers()));
        }
        Ok(LogStream(Lines::new(self.server.clone(), response, MAX_TEXT_BYTES)))
    }

    pub async fn invoke(
        &self,
        app: &AppName,
        function: &FunctionName,
        invoke: &InvokeRequest,
    ) -> Result<InvokeResponse, ApiError> {
        let request = self
            .request(Method::POST, &["apps", app.as_str(), "functions", function.as_str(), "invoke"])?
            .timeout(INVOKE_TIMEOUT)
            .json(invoke);
        self.read(self.send(request).await?).await
    }

    /// A call without a body that answers JSON.
    async fn call<T: DeserializeOwned>(&self, method: Method, path: &[&str]) -> Result<T, ApiError> {
        let request = self.request(method, path)?.timeout(self.call_timeout);
        self.read(self.send(request).await?).await
    }

    async fn delete(&self, path: &[&str]) -> Result<(), ApiError> {
        self.done(self.request(Method::DELETE, path)?).await
    }

    async fn done(&self, request: RequestBuilder) -> Result<(), ApiError> {
        let response = self.send(request.timeout(self.call_timeout)).await?;
        // Any other success is not the node's: nothing was deleted.
        if response.status() == StatusCode::NO_CONTENT {
            return Ok(());
        }
        Err(ApiError::foreign(self.server.clone(), response.status(), response.headers()))
    }

    fn request(&self, method: Method, path: &[&str]) -> Result<RequestBuilder, ApiError> {
        self.authorized(method, self.url(path)?)
    }

    fn authorized(&self, method: Method, url: Url) -> Result<RequestBuilder, ApiError> {
        let token = self.token.as_ref().ok_or_else(|| ApiError::NoToken { server: self.server.clone() })?;
        Ok(self.http.request(method, url).header(reqwest::header::AUTHORIZATION, token))
    }

    /// `SERVER/v1/PATH`, each segment escaped.
    fn url(&self, path: &[&str]) -> Result<Url, ApiError> {
        let mut url = self.server.clone();
        match url.path_segments_mut() {
            Ok(mut segments) => {
                segments.pop_if_empty().push("v1").extend(path);
            }
            Err(()) => return Err(ApiError::NotMinnow { server: self.server.clone(), status: None }),
        }
        Ok(url)
    }

    /// Sends, and turns everything but success into an error.
    async fn send(&self, request: RequestBuilder) -> Result<Response, ApiError> {
        let response = request.send().await.map_err(|source| self.lost(source))?;
        if response.status().is_success() {
            return Ok(response);
        }
        Err(self.refusal(response).await)
    }

    /// The error that a response stands for.
    async fn refusal(&self, mut response: Response) -> ApiError {
        let status = response.status();
        let is_problem = has_type(&response, Problem::CONTENT_TYPE);
        let mut body = Vec::new();
        while let Ok(Some(chunk)) = response.chunk().await
            && body.len() < MAX_TEXT_BYTES
        {
            body.extend_from_slice(&chunk);
        }
        if is_problem
            && let Ok(mut problem) = serde_json::from_slice::<ApiProblem>(&body)
            && (problem.is_of_minnow() || !error::is_of_proxies(status))
        {
            problem.remedy.clone_from(&self.remedy);
            return ApiError::refused(self.server.clone(), problem);
        }
        // The answer to HEAD has a problem's headers without its body.
        if body.is_empty() && is_problem {
            let problem = Box::new(ApiProblem { remedy: self.remedy.clone(), ..ApiProblem::of_status(status) });
            return ApiError::Problem { server: self.server.clone(), problem };
        }
        ApiError::foreign(self.server.clone(), status, response.headers())
    }

    async fn read<T: DeserializeOwned>(&self, response: Response) -> Result<T, ApiError> {
        if !has_type(&response, "application/json") {
            return Err(ApiError::foreign(self.server.clone(), response.status(), response.headers()));
        }
        let body = response.bytes().await.map_err(|source| self.lost(source))?;
        parse(&self.server, &body)
    }

    fn lost(&self, source: reqwest::Error) -> ApiError {
        ApiError::lost(self.server.clone(), source)
    }
}

fn has_type(response: &Response, content_type: &str) -> bool {
    let found = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    found.is_some_and(|found| found.starts_with(content_type))
}

fn parse<'a, T: Deserialize<'a>>(server: &Url, body: &'a [u8]) -> Result<T, ApiError> {
    serde_json::from_slice(body).map_err(|source| ApiError::Unreadable { server: server.clone(), source })
}

/// Makes ring the process's TLS provider, for this client and for what the node sends. Once is enough; again does nothing.
pub fn use_ring() {
    // Fails when a provider is installed already, which is then the same one.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// Whether a server is this machine.
pub fn is_loopback(server: &Url) -> bool {
    match server.host_str() {
        Some("localhost") => true,
        Some(host) => {
            host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
        }
        None => false,
    }
}

/// The body of an upload, streamed from a file; `sent` is told how many bytes went out with each piece.
pub async fn file_body(path: &Path, sent: impl Fn(u64) + Send + 'static) -> std::io::Result<reqwest::Body> {
    use futures::StreamExt as _;
    let file = tokio::fs::File::open(path).await?;
    let pieces = tokio_util::io::ReaderStream::with_capacity(file, 64 * 1024);
    Ok(reqwest::Body::wrap_stream(pieces.inspect(move |piece| {
        if let Ok(piece) = piece {
            sent(piece.len() as u64);
        }
    })))
}

/// The lines of a log as they arrive.
pub struct LogStream(Lines);

impl LogStream {
    /// The next line; `None` when the node has ended the log.
    pub async fn next(&mut self) -> Result<Option<LogLine>, ApiError> {
        let Some(line) = self.0.next().await? else { return Ok(None) };
        parse(&self.0.server, &line).map(Some)
    }
}

/// Lines of JSON as they arrive.
pub struct Lines {
    server: Url,
    response: Response,
    buffer: Vec<u8>,
    /// The longest line, in bytes.
    most: usize,
}

impl Lines {
    fn new(server: Url, response: Response, most: usize) -> Self {
        Self { server, response, buffer: Vec::new(), most }
    }

    /// What a line of them says.
    pub fn read<'a, T: Deserialize<'a>>(&self, line: &'a [u8]) -> Result<T, ApiError> {
        parse(&self.server, line)
    }

    /// The next line; `None` when there are no more.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, ApiError> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                // A blank line keeps a quiet connection alive.
                if line.trim_ascii().is_empty() {
                    continue;
                }
                return Ok(Some(line));
            }
            if self.buffer.len() > self.most {
                return Err(ApiError::NotMinnow { server: self.server.clone(), status: None });
            }
            let server = &self.server;
            let lost = |source| ApiError::Lost { server: server.clone(), source };
            match self.response.chunk().await.map_err(lost)? {
                Some(chunk) => self.buffer.extend_from_slice(&chunk),
                None => return Ok(None),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead as _, Write as _},
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
            mpsc,
        },
    };

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::{TcpListener, TcpStream},
        sync::watch,
    };

    use super::*;

    fn client(server: &str) -> Client {
        Client::new(server.parse().unwrap(), Some("t".into())).unwrap()
    }

    #[test]
    fn segments_of_a_url_are_escaped() {
        let client = client("http://127.0.0.1:7701");
        let url = |path: &[&str]| client.url(path).unwrap().to_string();
        assert_eq!(
            url(&["apps", "hello", "versions", "1.0.0+b.1"]),
            "http://127.0.0.1:7701/v1/apps/hello/versions/1.0.0+b.1"
        );
        assert_eq!(url(&["blobs", "sha256:00"]), "http://127.0.0.1:7701/v1/blobs/sha256:00");
        assert_eq!(url(&["apps", "../x"]), "http://127.0.0.1:7701/v1/apps/..%2Fx");
    }

    #[test]
    fn loopback_is_recognised() {
        for (url, loopback) in [
            ("http://localhost:7701", true),
            ("http://127.0.0.9", true),
            ("http://[::1]:1", true),
            ("http://10.0.0.1", false),
            ("https://example.org", false),
        ] {
            assert_eq!(is_loopback(&url.parse().unwrap()), loopback, "{url}");
        }
    }

    #[tokio::test]
    async fn a_call_without_a_token_says_how_to_log_in() {
        let client = Client::new("http://127.0.0.1:9".parse().unwrap(), None).unwrap();
        let error = client.apps().await.unwrap_err();
        assert!(error.help().unwrap().contains("minnow login"), "{error:?}");
    }

    /// A node that takes requests, and holds every answer back until it is told to go on.
    async fn slow_node(taken: Arc<AtomicUsize>, go_on: watch::Receiver<bool>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer_late(stream, Arc::clone(&taken), go_on.clone()));
            }
        });
        format!("http://{address}")
    }

    async fn answer_late(mut stream: TcpStream, taken: Arc<AtomicUsize>, mut go_on: watch::Receiver<bool>) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        let version = serde_json::json!({ "app": "a", "version": "1.0.0", "digest": Digest::of(b""), "published_ms": 0,
            "size": 0, "weight": 0, "created": true });
        let deployment =
            serde_json::json!({ "app": "a", "revision": 1, "time_ms": 0, "cause": "deploy", "shares": [] });
        let blob = serde_json::json!({ "digest": Digest::of(b""), "size": 0 });
        let target = String::from_utf8_lossy(&head).split(' ').nth(1).unwrap().to_owned();
        let body = match target.as_str() {
            target if target.contains("/versions/") => version,
            target if target.contains("/blobs/") => blob,
            _ => deployment,
        };
        taken.fetch_add(1, Ordering::Relaxed);
        go_on.wait_for(|go_on| *go_on).await.unwrap();
        let body = body.to_string();
        let length = body.len();
        let answer =
            format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}");
        stream.write_all(answer.as_bytes()).await.unwrap();
        // What was sent along with the request stays unread; closing would reset the connection.
        tokio::io::copy(&mut stream, &mut tokio::io::sink()).await.ok();
    }

    #[tokio::test]
    async fn what_may_take_long_has_no_time_limit() {
        let (taken, (go_on, wait)) = (Arc::new(AtomicUsize::new(0)), watch::channel(false));
        let mut client = client(&slow_node(Arc::clone(&taken), wait).await);
        client.call_timeout = Duration::from_millis(50);
        let (app, version) = (AppName::new("a").unwrap(), Version::new(1, 0, 0));
        let (digest, deploy) = (Digest::of(b""), DeployRequest { version: None, weight: None });
        let long = async {
            tokio::join!(
                client.put_blob(&digest, 1, "x".into()),
                client.publish(&app, &version, b"{}".to_vec()),
                client.deploy(&app, &deploy),
                client.rollback(&app),
            )
        };
        let short = async {
            // Begun after the others, so that a limit of theirs would have run out before this one's.
            while taken.load(Ordering::Relaxed) < 4 {
                tokio::task::yield_now().await;
            }
            let refused = client.apps().await.unwrap_err();
            assert!(matches!(&refused, ApiError::Lost { source, .. } if source.is_timeout()), "{refused:?}");
            assert!(refused.help().unwrap().contains("minnow status"), "{refused:?}");
            go_on.send_replace(true);
        };
        let ((blob, published, deployed, rolled_back), ()) = tokio::join!(long, short);
        blob.unwrap();
        published.unwrap();
        deployed.unwrap();
        rolled_back.unwrap();
    }

    #[tokio::test]
    async fn a_connection_that_the_node_has_closed_meanwhile_is_not_used_again() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let server = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let (close, closing) = mpsc::channel();
        let (closed, is_closed) = mpsc::channel();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = std::io::BufReader::new(stream.unwrap());
                let mut line = String::new();
                while line != "\r\n" {
                    line.clear();
                    stream.read_line(&mut line).unwrap();
                }
                stream.get_mut().write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n").unwrap();
                closing.recv().unwrap();
                drop(stream);
                closed.send(()).unwrap();
            }
        });
        let rest = Duration::from_millis(1);
        let client = Client::with_rest(server, Some("t".into()), rest).unwrap();
        for _ in 0..3 {
            assert!(!client.has_blob(&Digest::of(b"")).await.unwrap());
            // The command computes from here on: nothing looks at the connection.
            close.send(()).unwrap();
            is_closed.recv().unwrap();
            std::thread::sleep(2 * rest);
        }
    }

    #[test]
    fn a_token_never_shows_up_in_debug_output() {
        let client = Client::new("http://127.0.0.1:9".parse().unwrap(), Some("s3cret".into())).unwrap();
        assert!(!format!("{client:?}").contains("s3cret"));
    }
}
