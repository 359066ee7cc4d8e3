//! Starting and stopping a node.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use minnow_control::{Control, ControlConfig};
use minnow_events::{Events, EventsConfig};
use minnow_gateway::{Gateway, GatewayConfig, Listening, listen::Sockets};
use minnow_model::LogLine;
use minnow_runtime::{Live, Runtime, RuntimeConfig, data::Data};
use minnow_store::{Blobs, DataDir, SqlLimits};
use minnow_telemetry::{LogConfig, Logs, Metrics, Tracer};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};

use crate::{Config, Domain, admin};

/// How long spans that were not sent yet may take at shutdown.
const FLUSH_SPANS: Duration = Duration::from_secs(5);

/// A running node.
pub struct Node {
    gateway: Listening,
    admin_addr: SocketAddr,
    admin: JoinHandle<()>,
    control: Arc<Control>,
    events: Arc<Events>,
    admin_token: Option<String>,
    logs: Logs,
    tracer: Option<Tracer>,
    stop_admin: watch::Sender<bool>,
    background: Vec<JoinHandle<()>>,
    /// Holds the lock of the data directory; last, so that it is given up when everything else has ended.
    _dir: DataDir,
}

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    DataDir(#[from] minnow_store::DataDirError),
    #[error(transparent)]
    Store(#[from] minnow_store::StoreError),
    #[error(transparent)]
    Logs(#[from] minnow_telemetry::LogError),
    #[error(transparent)]
    Otlp(#[from] minnow_telemetry::OtlpError),
    #[error(transparent)]
    Runtime(#[from] minnow_runtime::StartError),
    #[error(transparent)]
    Control(#[from] minnow_control::OpenError),
    #[error(transparent)]
    Events(#[from] minnow_events::StartError),
    #[error(transparent)]
    Gateway(#[from] minnow_gateway::StartError),
    #[error(
        "{0} is in use by another process; stop it, or choose another address with --admin ADDR (port 0 takes a free one)"
    )]
    AdminInUse(SocketAddr),
    #[error("cannot listen on {0} for the control API: {1}")]
    Admin(SocketAddr, io::Error),
    #[error("cannot find the running executable, which also compiles code: {0}")]
    Executable(io::Error),
}

impl Node {
    /// Starts a node. When it returns, both listeners answer and everything that was live is live again.
    ///
    /// Call it on a multi-threaded tokio runtime: the control plane runs there, the gateway has threads of its own.
    pub async fn start(mut config: Config) -> Result<Self, StartError> {
        let executable = std::env::current_exe().map_err(StartError::Executable)?;
        let files = raise_open_files();
        if let Some(fitting) = connections_within(files, config.max_connections) {
            tracing::info!(
                open_files = files,
                connections = fitting,
                "the system's limit on open files (ulimit -n) takes fewer connections than gateway.max_connections says"
            );
            config.max_connections = fitting;
        }

        // The sockets first: a port that is taken is the mistake made most often, and nothing has been touched yet. Clients
        // that connect now wait in the backlog until the apps are loaded.
        let sockets = Sockets::bind(config.http, config.workers)?;
        let admin = TcpListener::bind(config.admin).await.map_err(|error| match error.kind() {
            io::ErrorKind::AddrInUse => StartError::AdminInUse(config.admin),
            _ => StartError::Admin(config.admin, error),
        })?;
        let admin_addr = admin.local_addr().map_err(|error| StartError::Admin(config.admin, error))?;

        let dir = DataDir::open(&config.data_dir)?;
        let metrics = Metrics::new(env!("CARGO_PKG_VERSION"));
        let logs = open_logs(&dir, &mut config, &metrics)?;
        let tracer = Tracer::from_env()?;

        let blobs = Arc::new(Blobs::open(&dir)?);
        let clock = minnow_control::Clock::System;
        let data = Data::open(&dir, SqlLimits::default(), {
            let clock = clock.clone();
            Arc::new(move || clock.now_ms())
        })?;
        let runtime = Runtime::new(
            RuntimeConfig {
                compiled_dir: dir.compiled(),
                tmp_dir: dir.tmp(),
                sandboxes: config.sandboxes,
                sandbox_queue: config.sandbox_queue,
                memory_bytes: config.sandbox_memory_bytes,
                code_bytes: config.code_bytes,
                caps: config.caps,
                compile: config.compile,
                private_networks: config.private_networks.clone(),
                outbound_connections: outbound_within(files),
                executable,
                data_dir: dir.root().to_path_buf(),
                blobs: Arc::clone(&blobs),
                data,
                js: config.js.clone(),
            },
            logs.clone(),
            metrics.clone(),
        )?;
        let live = Arc::new(Live::default());
        // Before anything is live: it delivers to what becomes so.
        let events = Events::start(
            EventsConfig {
                database: dir.events_db(),
                clock: Arc::new(move || clock.now_ms()),
                domain: config.domain.as_ref().map_or("localhost", Domain::as_str).to_owned(),
                threads: EventsConfig::threads(),
            },
            Arc::clone(&runtime),
            Arc::clone(&live),
            metrics.clone(),
        )?;
        let control = Control::open(
            control_config(&config, sockets.addr),
            &dir,
            Arc::clone(&runtime),
            Arc::clone(&live),
            Arc::clone(&events),
            metrics.clone(),
            logs.clone(),
        )
        .await?;
        // An operator may have taken the file away, or deleted the token.
        let admin_token = std::fs::read_to_string(dir.admin_token()).ok().map(|token| token.trim().to_owned());

        let background =
            vec![tokio::spawn(Runtime::sweep(Arc::downgrade(&runtime))), tokio::spawn(Arc::clone(&control).run())];
        let gateway = Gateway {
            live,
            runtime,
            blobs,
            metrics,
            tracer: tracer.clone(),
            config: GatewayConfig {
                domain: config.domain.as_ref().map(ToString::to_string),
                default_app: config.default_app.clone(),
                trust_forwarded: config.trust_forwarded,
                max_connections: config.max_connections,
                ..GatewayConfig::default()
            },
        }
        .start(sockets)?;
        let (stop_admin, stopped) = watch::channel(false);
        let router = minnow_control::router(Arc::clone(&control));
        let admin = tokio::spawn(admin::serve(admin, router, stopped));
        tracing::info!(http = %gateway.addr, admin = %admin_addr, data_dir = %dir.root().display(), "the node is ready");
        Ok(Self {
            gateway,
            admin_addr,
            admin,
            control,
            events,
            admin_token,
            logs,
            tracer,
            stop_admin,
            background,
            _dir: dir,
        })
    }

    /// Where apps answer, with the port that was taken where port 0 was asked for.
    pub fn http_addr(&self) -> SocketAddr {
        self.gateway.addr
    }

    /// Where the control API answers.
    pub fn admin_addr(&self) -> SocketAddr {
        self.admin_addr
    }

    /// The operator's token, if its file is still there.
    pub fn admin_token(&self) -> Option<&str> {
        self.admin_token.as_deref()
    }

    /// Stops taking requests, lets those under way end for at most `drain`, and writes out what is not on disk yet.
    pub async fn shutdown(self, drain: Duration) {
        self.control.begin_drain();
        let deadline = tokio::time::Instant::now() + drain;
        let (cut, cut_deliveries) = tokio::join!(self.gateway.shutdown(drain), self.events.drain(deadline));
        if cut > 0 {
            tracing::warn!(connections = cut, "connections were cut off at the end of the drain time");
        }
        if cut_deliveries > 0 {
            tracing::warn!(
                deliveries = cut_deliveries,
                "deliveries were cut off at the end of the drain time; they come again"
            );
        }
        self.stop_admin.send_replace(true);
        // A client of the control API that does not go away must not hold the node up.
        let abort = self.admin.abort_handle();
        if tokio::time::timeout(Duration::from_secs(2), self.admin).await.is_err() {
            abort.abort();
        }
        for task in &self.background {
            task.abort();
        }
        self.logs.flush().await;
        if let Some(tracer) = self.tracer
            && !tracer.shutdown(FLUSH_SPANS).await
        {
            tracing::warn!("some spans were not sent");
        }
    }
}

fn open_logs(dir: &DataDir, config: &mut Config, metrics: &Metrics) -> Result<Logs, StartError> {
    let mut log = LogConfig { dropped: metrics.log_lines_dropped().clone(), ..LogConfig::default() };
    if let Some(bytes) = config.log_segment_bytes {
        log.segment_bytes = bytes;
    }
    if let Some(segments) = config.log_segments_per_app {
        log.segments_per_app = segments;
    }
    if let Some(bytes) = config.log_total_bytes {
        log.max_total_bytes = bytes;
    }
    if let Some(echo) = config.log_echo.take() {
        // A line that does not fit is in the stored log.
        log.echo = Some(Box::new(move |line: &LogLine| {
            let _ = echo.try_send(line.clone());
        }));
    }
    Ok(Logs::open(&dir.logs(), log)?)
}

fn control_config(config: &Config, http: SocketAddr) -> ControlConfig {
    let domain = config.domain.as_ref().map_or("localhost", Domain::as_str);
    let mut control = ControlConfig::new(http, domain);
    control.default_app = config.default_app.clone();
    control.caps = config.caps;
    control.lenient = config.lenient;
    control.secrets_key.clone_from(&config.secrets_key);
    control.keep_deleted = config.keep_deleted;
    if let Some(bytes) = config.max_bundle_bytes {
        control.max_bundle_bytes = bytes;
    }
    if let Some(bytes) = config.max_wasm_bytes {
        control.max_wasm_bytes = bytes;
    }
    control
}

/// Connections of functions to other hosts at once: as many as there are sandboxes by default, of which most have none and
/// some have several.
const MAX_OUTBOUND: u64 = 1024;

/// File descriptors that connections leave to the rest: 256 for the control API, as many for the store, the logs and the
/// compiler, and those of connections to other hosts.
const OTHER_FILES: u64 = 512 + MAX_OUTBOUND;

/// How many connections there may be at once where `max_connections` are too many for so many open files: each is one,
/// and a quarter of them may send a file.
fn connections_within(files: u64, max_connections: usize) -> Option<usize> {
    // With very few files, half of them: too few for either, but it starts.
    let fitting = (files.saturating_sub(OTHER_FILES) / 5 * 4).max(files / 2 / 5 * 4).max(1);
    usize::try_from(fitting).ok().filter(|fitting| *fitting < max_connections)
}

/// How many connections functions may have to other hosts where there are so many open files: with few, a quarter of them.
fn outbound_within(files: u64) -> usize {
    usize::try_from((files / 4).clamp(1, MAX_OUTBOUND)).unwrap_or(1)
}

/// Takes as many file descriptors as the system lets this process have: each connection is one, and the usual soft limit
/// of 1,024 is for programs that use `select`. Answers how many it has.
fn raise_open_files() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let holds = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(error) => {
            tracing::warn!(%error, "the limit on open files cannot be raised; connections may be refused early");
            limit.current
        }
    };
    // None stands for no limit.
    holds.unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_descriptors_to_the_rest() {
        for (files, max_connections, expected, outbound) in [
            (u64::MAX, 20_000, None, 1024),
            (1 << 20, 20_000, None, 1024),
            (26_536, 20_000, None, 1024),
            (4096, 20_000, Some(2048), 1024),
            (4096, 100, None, 1024),
            (2048, 20_000, Some(816), 512),
            (1024, 20_000, Some(408), 256),
            (0, 20_000, Some(1), 1),
        ] {
            let found = (connections_within(files, max_connections), outbound_within(files));
            assert_eq!(found, (expected, outbound), "{files} {max_connections}");
            let clients = found.0.unwrap_or(max_connections) as u64;
            assert!(clients + clients / 4 + outbound as u64 <= files || files == 0, "{files} {max_connections}");
        }
    }
}
