//! The control API as the CLI calls it: one method for each route, typed by the API's own bodies.

use std::{path::Path, time::Duration};

use minnow_control::api_types::{
    AppInfo, AppStatus, DeployRequest, InvokeRequest, InvokeResponse, LogQuery, NodeInfo, Published, VersionInfo,
};
use minnow_model::{AppName, Deployment, Digest, FunctionName, LogLine, Problem, Version};
use reqwest::{
    Method, RequestBuilder, Response, StatusCode, Url,
    header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue},
};
use serde::{Deserialize, de::DeserializeOwned};

mod error;

pub use error::{ApiError, ApiProblem};

/// A connection that takes longer does not come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// For calls that only read or change a record. Publishing, deploying and rolling back have no limit here: the node may
/// have to compile every function of an app first, bounds that by itself, and carries on when the caller leaves.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);
/// For invoking: a function's wall time is capped at 15 minutes by default, and the answer takes some time too.
const INVOKE_TIMEOUT: Duration = Duration::from_secs(20 * 60);
/// Finds a node that vanished during an upload or while a log is followed.
const KEEPALIVE: Duration = Duration::from_secs(30);
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
}

impl Client {
    /// Prepares a client. Nothing is sent yet.
    pub fn new(server: Url, token: Option<String>) -> Result<Self, ApiError> {
        use_ring();
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("minnow/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_keepalive(KEEPALIVE)
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
        Ok(Self { http, server, token })
    }

    /// The control API's address.
    pub fn server(&self) -> &Url {
        &self.server
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

    pub async fn delete_app(&self, app: &AppName) -> Result<(), ApiError> {
        let request = self.request(Method::DELETE, &["apps", app.as_str()])?.timeout(CALL_TIMEOUT);
        self.send(request).await.map(drop)
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
        let path = ["apps", app.as_str(), "versions", &version.to_string()];
        let request = self.request(Method::DELETE, &path)?.timeout(CALL_TIMEOUT);
        self.send(request).await.map(drop)
    }

    /// Whether the node has this content.
    pub async fn has_blob(&self, digest: &Digest) -> Result<bool, ApiError> {
        let request = self.request(Method::HEAD, &["blobs", &digest.to_string()])?.timeout(CALL_TIMEOUT);
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
        self.send(request).await.map(drop)
    }

    pub async fn deploy(&self, app: &AppName, deploy: &DeployRequest) -> Result<Deployment, ApiError> {
        let request = self.request(Method::POST, &["apps", app.as_str(), "deploy"])?.json(deploy);
        self.read(self.send(request).await?).await
    }

    pub async fn rollback(&self, app: &AppName) -> Result<Deployment, ApiError> {
        let request = self.request(Method::POST, &["apps", app.as_str(), "rollback"])?;
        self.read(self.send(request).await?).await
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
        Ok(LogStream { server: self.server.clone(), response, buffer: Vec::new() })
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
        let request = self.request(method, path)?.timeout(CALL_TIMEOUT);
        self.read(self.send(request).await?).await
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
            Err(()) => return Err(ApiError::NotApi { server: self.server.clone(), status: None }),
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
        let content_type = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
        let is_problem = content_type.starts_with(Problem::CONTENT_TYPE);
        let mut body = Vec::new();
        while let Ok(Some(chunk)) = response.chunk().await
            && body.len() < MAX_TEXT_BYTES
        {
            body.extend_from_slice(&chunk);
        }
        if is_problem && let Ok(problem) = serde_json::from_slice::<ApiProblem>(&body) {
            return ApiError::refused(self.server.clone(), status, problem);
        }
        // The answer to HEAD has a problem's headers without its body; 401 and 404 say enough in any case.
        let says_enough = is_problem || matches!(status, StatusCode::UNAUTHORIZED | StatusCode::NOT_FOUND);
        if body.is_empty() && says_enough {
            let problem = Box::new(ApiProblem::of_status(status));
            return ApiError::Problem { server: self.server.clone(), problem };
        }
        ApiError::NotApi { server: self.server.clone(), status: Some(status) }
    }

    async fn read<T: DeserializeOwned>(&self, response: Response) -> Result<T, ApiError> {
        let body = response.bytes().await.map_err(|source| self.lost(source))?;
        parse(&self.server, &body)
    }

    fn lost(&self, source: reqwest::Error) -> ApiError {
        let server = self.server.clone();
        if source.is_connect() { ApiError::Unreachable { server, source } } else { ApiError::Lost { server, source } }
    }
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
pub struct LogStream {
    server: Url,
    response: Response,
    buffer: Vec<u8>,
}

impl LogStream {
    /// The next line; `None` when the node has ended the log.
    pub async fn next(&mut self) -> Result<Option<LogLine>, ApiError> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                // A blank line keeps a quiet connection alive.
                if line.trim_ascii().is_empty() {
                    continue;
                }
                return parse(&self.server, &line).map(Some);
            }
            if self.buffer.len() > MAX_TEXT_BYTES {
                return Err(ApiError::NotApi { server: self.server.clone(), status: None });
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

    #[test]
    fn a_token_never_shows_up_in_debug_output() {
        let client = Client::new("http://127.0.0.1:9".parse().unwrap(), Some("s3cret".into())).unwrap();
        assert!(!format!("{client:?}").contains("s3cret"));
    }
}
