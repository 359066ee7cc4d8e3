//! The control plane as a client of its API sees it. The bundles here hold only static files, so that no compiler is needed;
//! compiling is tested end to end, on the real binary.

mod api;
mod backup;
mod lifecycle;
mod settings;
mod stores;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use axum::{Router, body::Body};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::BodyExt as _;
use minnow_events::{Events, EventsConfig};
use minnow_model::{
    BundleConfig, BundledFile, Digest, LimitCaps,
    bundle::{FILE_TYPE, Layer, oci_manifest},
};
use minnow_runtime::{CompileLimits, JsConfig, Live, Runtime, RuntimeConfig, data::Data};
use minnow_store::{Blobs, DataDir, sql::SqlLimits};
use minnow_telemetry::{LogConfig, Logs, Metrics};
use serde_json::Value;
use tower::ServiceExt as _;

use crate::{Clock, Control, ControlConfig, control::OpenError, router};

/// A node's control plane in a folder of its own.
struct Node {
    root: PathBuf,
    /// Dropped first, so that the folder can be opened again.
    open: Option<Opened>,
    now_ms: Arc<AtomicU64>,
    _temp: tempfile::TempDir,
}

struct Opened {
    control: Arc<Control>,
    live: Arc<Live>,
    events: Arc<Events>,
    router: Router,
    token: String,
    _dir: DataDir,
}

/// An answer of the API.
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&self.body)))
    }

    /// Asserts a problem document, and answers it.
    fn problem(&self, code: &str) -> Value {
        let problem = self.json();
        assert_eq!(problem["code"], code, "{problem}");
        assert_eq!(problem["status"], self.status.as_u16());
        assert_eq!(self.headers["content-type"], "application/problem+json");
        assert_eq!(problem["request_id"].as_str().unwrap(), self.headers["x-request-id"]);
        problem
    }

    /// Asserts the status, and answers the body.
    fn ok(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", String::from_utf8_lossy(&self.body));
        if self.body.is_empty() { Value::Null } else { self.json() }
    }
}

/// A bundle that can be published: its manifest and its blobs.
struct Bundle {
    manifest: Vec<u8>,
    blobs: Vec<Vec<u8>>,
}

/// A version of `app` with one static file.
fn bundle(app: &str, version: &str, page: &str) -> Bundle {
    let digest = Digest::of(page.as_bytes());
    let file = BundledFile { digest, size: page.len() as u64 };
    let config = BundleConfig {
        app: app.parse().unwrap(),
        version: version.parse().unwrap(),
        functions: BTreeMap::new(),
        files: [("/index.html".to_owned(), file)].into(),
        sticky: None,
        kv: BTreeMap::new(),
        sql: BTreeMap::new(),
        blob: BTreeMap::new(),
        volumes: BTreeMap::new(),
        locks: false,
        topics: std::collections::BTreeMap::new(),
    };
    let config = serde_json::to_vec(&config).unwrap();
    let layer = Layer { digest, size: page.len() as u64, media_type: FILE_TYPE.into(), title: "index.html".into() };
    let manifest = oci_manifest((Digest::of(&config), config.len() as u64), vec![layer]).unwrap();
    Bundle { manifest, blobs: vec![config, page.into()] }
}

impl Node {
    async fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
        let mut node =
            Self { root: temp.path().join("data"), open: None, now_ms: Arc::new(AtomicU64::new(now)), _temp: temp };
        node.restart().await;
        node
    }

    /// Opens the data directory again, as after a crash.
    async fn restart(&mut self) {
        self.try_restart().await.unwrap();
    }

    async fn try_restart(&mut self) -> Result<(), OpenError> {
        if let Some(open) = self.open.take() {
            open.events.drain(tokio::time::Instant::now()).await;
        }
        let dir = DataDir::open(&self.root).unwrap();
        let metrics = Metrics::new("test");
        let logs = Logs::open(&dir.logs(), LogConfig::default()).unwrap();
        let runtime = RuntimeConfig {
            compiled_dir: dir.compiled(),
            tmp_dir: dir.tmp(),
            sandboxes: 1,
            sandbox_queue: 1,
            memory_bytes: 1 << 30,
            code_bytes: 1 << 20,
            caps: LimitCaps::default(),
            compile: CompileLimits::default(),
            private_networks: Vec::new(),
            outbound_connections: 1,
            executable: "/bin/false".into(),
            data_dir: dir.root().to_path_buf(),
            blobs: Arc::new(Blobs::open(&dir).unwrap()),
            data: Data::open(&dir, SqlLimits::default(), Arc::new(|| 0)).unwrap(),
            js: JsConfig::default(),
        };
        let runtime = Runtime::new(runtime, logs.clone(), metrics.clone()).unwrap();
        let live = Arc::new(Live::default());
        let config = ControlConfig {
            max_bundle_bytes: 64 << 10,
            clock: Clock::Manual(Arc::clone(&self.now_ms)),
            ..ControlConfig::new("127.0.0.1:7700".parse().unwrap(), "localhost")
        };
        let events = EventsConfig {
            database: dir.events_db(),
            clock: Arc::new({
                let now_ms = Arc::clone(&self.now_ms);
                move || now_ms.load(Ordering::Relaxed)
            }),
            domain: "localhost".into(),
            threads: 1,
        };
        let events = Events::start(events, Arc::clone(&runtime), Arc::clone(&live), metrics.clone()).unwrap();
        let control =
            Control::open(config, &dir, runtime, Arc::clone(&live), Arc::clone(&events), metrics, logs).await?;
        let token = std::fs::read_to_string(dir.admin_token()).unwrap_or_default().trim().to_owned();
        self.open = Some(Opened { router: router(Arc::clone(&control)), control, live, events, token, _dir: dir });
        Ok(())
    }

    fn opened(&self) -> &Opened {
        self.open.as_ref().unwrap()
    }

    fn control(&self) -> &Arc<Control> {
        &self.opened().control
    }

    fn advance(&self, by: Duration) {
        self.now_ms.fetch_add(by.as_millis() as u64, Ordering::Relaxed);
    }

    async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.opened().router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes().to_vec();
        Answer { status: parts.status, headers: parts.headers, body }
    }

    async fn call(&self, method: Method, path: &str, body: impl Into<Body>) -> Answer {
        let authorization = format!("Bearer {}", self.opened().token);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("authorization", authorization)
            .header("content-type", "application/json")
            .body(body.into())
            .unwrap();
        self.send(request).await
    }

    async fn get(&self, path: &str) -> Answer {
        self.call(Method::GET, path, "").await
    }

    async fn put_blob(&self, content: &[u8]) -> Answer {
        self.call(Method::PUT, &format!("/v1/blobs/{}", Digest::of(content)), content.to_vec()).await
    }

    async fn publish(&self, app: &str, version: &str, bundle: &Bundle) -> Answer {
        for blob in &bundle.blobs {
            let answer = self.put_blob(blob).await;
            assert!(answer.status.is_success(), "{}", String::from_utf8_lossy(&answer.body));
        }
        self.call(Method::PUT, &format!("/v1/apps/{app}/versions/{version}"), bundle.manifest.clone()).await
    }

    async fn deploy(&self, app: &str, body: &str) -> Answer {
        self.call(Method::POST, &format!("/v1/apps/{app}/deploy"), body.to_owned()).await
    }

    /// The live shares as `version:weight`, from what the gateway reads.
    fn live(&self, app: &str) -> Vec<String> {
        let live = self.opened().live.load();
        live.get(app)
            .map(|app| app.shares.iter().map(|(weight, version)| format!("{}:{weight}", version.version)).collect())
            .unwrap_or_default()
    }
}
