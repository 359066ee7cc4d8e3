//! A node's configuration: defaults, then a TOML file, then the command line.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    num::NonZeroUsize,
    path::{Path, PathBuf},
    time::Duration,
};

use bytesize::ByteSize;
use ipnet::IpNet;
use minnow_gateway::GatewayConfig;
use minnow_model::{AppName, LimitCaps, Limits, LogLine};
use minnow_runtime::{CompileLimits, JsConfig};
use serde::Deserialize;
use tokio::sync::mpsc;

use crate::Domain;

/// Where the data listener and the admin listener are unless told otherwise: on loopback.
const DEFAULT_HTTP: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7700);
const DEFAULT_ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7701);

/// The most sandboxes at once. Two pools reserve about 24 GiB of addresses each for every one, without gaps. A process
/// has 128 TiB (47 bits), but its executable lies at two thirds of them, so that beyond some 1,800 the pools find no
/// room. 1,500 leave the rest to mapped code, threads and what else asks for some.
const MAX_SANDBOXES: u64 = 1_500;

/// The most processes for JavaScript that are kept ready.
const MAX_JS_POOL: u64 = 64;

/// Threads of the gateway for each core, at most; some more on small machines. Beyond the cores they only take turns, and
/// each has a listener and an event queue of its own: many thousands would take all the files that a process may have open.
const WORKERS_PER_CORE: u64 = 4;
const LEAST_MAX_WORKERS: u64 = 64;

/// Everything that can be set about a node, checked.
#[derive(Debug)]
pub struct Config {
    pub data_dir: PathBuf,
    /// Where apps answer.
    pub http: SocketAddr,
    /// Where the control API answers.
    pub admin: SocketAddr,
    /// Apps answer at `APP.<domain>`, besides `APP.localhost`.
    pub domain: Option<Domain>,
    /// The app that answers hosts that name none.
    pub default_app: Option<AppName>,
    /// Threads of the gateway; one for each core by default.
    pub workers: Option<NonZeroUsize>,
    pub trust_forwarded: bool,
    pub max_connections: usize,
    /// How long requests may take to end after SIGTERM.
    pub drain: Duration,
    /// Sandboxes at once, at most 1,500. Default 1,000: each holds some 340 KB while it runs a small guest, and its
    /// memory on top.
    pub sandboxes: u32,
    /// Requests that wait for a sandbox when all are in use. Default 1,000: as many as run.
    pub sandbox_queue: u32,
    /// Memory that all sandboxes together may hold, in bytes. Default 70 % of the machine's: the rest is for the node, its
    /// page cache and the system.
    pub sandbox_memory_bytes: u64,
    /// Compiled code that stays mapped, in bytes. Default 512 MiB: 1,500 small functions.
    pub code_bytes: u64,
    pub caps: LimitCaps,
    pub compile: CompileLimits,
    /// All layers of one bundle together, in bytes. `None` takes the control plane's default.
    pub max_bundle_bytes: Option<u64>,
    /// One function's code, in bytes. `None` takes the control plane's default.
    pub max_wasm_bytes: Option<u64>,
    /// Networks that functions may reach although they are not public.
    pub private_networks: Vec<IpNet>,
    pub js: JsConfig,
    /// Where the keys of secrets are; `None` for a file in the data directory, which the node makes.
    pub secrets_key: Option<PathBuf>,
    /// How long the data of a deleted app is kept; none at all for 0.
    pub keep_deleted: Duration,
    /// `None` takes the log's defaults.
    pub log_segment_bytes: Option<u64>,
    pub log_segments_per_app: Option<usize>,
    pub log_total_bytes: Option<u64>,
    /// Gets every log line of every app, for `dev` to print; a line that does not fit is left out.
    pub log_echo: Option<mpsc::Sender<LogLine>>,
    /// Whether versions go live whose functions lack secrets or stores of other apps, for `dev`: [`ControlConfig::lenient`].
    pub lenient: bool,
}

/// What the command line says; it wins over the file.
#[derive(Debug, Default)]
pub struct Overrides {
    pub data_dir: Option<PathBuf>,
    pub http: Option<SocketAddr>,
    pub admin: Option<SocketAddr>,
    pub domain: Option<Domain>,
    pub default_app: Option<AppName>,
}

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read the configuration {}: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{}: {message}", path.display())]
    Invalid { path: PathBuf, message: String },
    #[error("no data directory is set; say where with --data-dir DIR or `data_dir` in the configuration")]
    NoDataDir,
    #[error(
        "both listeners are to be at port {port}: `http` (apps) is {http}, `admin` (the control API) is {admin}; give them \
         a port each",
        port = .http.port()
    )]
    SameAddress { http: SocketAddr, admin: SocketAddr },
    #[error("{}: `{key}` must be at least {}{}", path.display(), in_units(key, *least), consequence(key))]
    TooSmall { path: PathBuf, key: &'static str, least: u64 },
    #[error("{}: `{key}` must be at most {}: {reason}", path.display(), in_units(key, *most))]
    TooLarge { path: PathBuf, key: &'static str, most: u64, reason: &'static str },
}

impl Config {
    /// The defaults for a node with its data in `data_dir`.
    pub fn new(data_dir: PathBuf, http: SocketAddr, admin: SocketAddr) -> Self {
        Self {
            data_dir,
            http,
            admin,
            domain: None,
            default_app: None,
            workers: None,
            trust_forwarded: false,
            max_connections: GatewayConfig::default().max_connections,
            drain: Duration::from_secs(30),
            sandboxes: 1_000,
            sandbox_queue: 1_000,
            sandbox_memory_bytes: machine_memory_bytes() / 10 * 7,
            code_bytes: 512 << 20,
            caps: LimitCaps::default(),
            compile: CompileLimits::default(),
            max_bundle_bytes: None,
            max_wasm_bytes: None,
            private_networks: Vec::new(),
            js: JsConfig::default(),
            secrets_key: None,
            keep_deleted: Duration::from_secs(7 * 24 * 60 * 60),
            log_segment_bytes: None,
            log_segments_per_app: None,
            log_total_bytes: None,
            log_echo: None,
            lenient: false,
        }
    }

    /// Reads `file`, if there is one, and applies `overrides`.
    pub fn load(file: Option<&Path>, overrides: Overrides) -> Result<Self, ConfigError> {
        let path = file.unwrap_or(Path::new("configuration"));
        let file = match file {
            Some(path) => read(path)?,
            None => File::default(),
        };
        let data_dir = overrides.data_dir.or(file.data_dir.clone()).ok_or(ConfigError::NoDataDir)?;
        let http = overrides.http.or(file.http).unwrap_or(DEFAULT_HTTP);
        let admin = overrides.admin.or(file.admin).unwrap_or(DEFAULT_ADMIN);
        if in_conflict(http, admin) {
            return Err(ConfigError::SameAddress { http, admin });
        }
        let mut config = Self::new(data_dir, http, admin);
        file.apply(&mut config, path)?;
        config.domain = overrides.domain.or(config.domain);
        config.default_app = overrides.default_app.or(config.default_app);
        Ok(config)
    }
}

/// Whether two listeners cannot be at these addresses at once.
fn in_conflict(one: SocketAddr, other: SocketAddr) -> bool {
    // Port 0 takes a free one for each.
    if one.port() != other.port() || one.port() == 0 {
        return false;
    }
    // `[::]` takes the connections to every IPv4 address too.
    let has_all = |all: IpAddr, ip: IpAddr| all.is_unspecified() && (all.is_ipv6() || ip.is_ipv4());
    let (one, other) = (one.ip(), other.ip());
    one == other || has_all(one, other) || has_all(other, one)
}

fn read(path: &Path) -> Result<File, ConfigError> {
    let text = fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.into(), source })?;
    // The error of `toml` shows the line and names the keys that there are.
    toml::from_str(&text).map_err(|error| ConfigError::Invalid { path: path.into(), message: error.to_string() })
}

/// The file as it is written. `docs/operations.md` lists the keys.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    data_dir: Option<PathBuf>,
    http: Option<SocketAddr>,
    admin: Option<SocketAddr>,
    domain: Option<Domain>,
    default_app: Option<AppName>,
    #[serde(with = "humantime_serde")]
    drain: Option<Duration>,
    gateway: GatewaySection,
    sandboxes: SandboxSection,
    limits: LimitSection,
    compile: CompileSection,
    bundles: BundleSection,
    egress: EgressSection,
    js: JsSection,
    logs: LogSection,
    secrets: SecretSection,
    data: DataSection,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct GatewaySection {
    workers: Option<NonZeroUsize>,
    trust_forwarded: Option<bool>,
    max_connections: Option<usize>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct SandboxSection {
    max: Option<u32>,
    queue: Option<u32>,
    memory: Option<ByteSize>,
    code: Option<ByteSize>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct LimitSection {
    memory: Option<ByteSize>,
    #[serde(with = "humantime_serde")]
    cpu: Option<Duration>,
    #[serde(with = "humantime_serde")]
    timeout: Option<Duration>,
    concurrency: Option<u32>,
    queue: Option<u32>,
    request_body: Option<ByteSize>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct CompileSection {
    memory: Option<ByteSize>,
    #[serde(with = "humantime_serde")]
    cpu: Option<Duration>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct BundleSection {
    max_size: Option<ByteSize>,
    max_wasm: Option<ByteSize>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct EgressSection {
    private_networks: Vec<IpNet>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct JsSection {
    pool: Option<u32>,
    #[serde(with = "humantime_serde")]
    idle: Option<Duration>,
    allow_missing_walls: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct LogSection {
    segment: Option<ByteSize>,
    segments_per_app: Option<usize>,
    max_size: Option<ByteSize>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct DataSection {
    #[serde(with = "humantime_serde")]
    keep_deleted: Option<Duration>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct SecretSection {
    key_file: Option<PathBuf>,
}

impl File {
    fn apply(self, config: &mut Config, path: &Path) -> Result<(), ConfigError> {
        let at_least = |key: &'static str, value: Option<u64>, least: u64| match value {
            Some(value) if value < least => Err(ConfigError::TooSmall { path: path.into(), key, least }),
            _ => Ok(()),
        };
        at_least("sandboxes.max", self.sandboxes.max.map(u64::from), 1)?;
        at_least("gateway.max_connections", self.gateway.max_connections.map(|value| value as u64), 1)?;
        at_least("limits.memory", self.limits.memory.map(|size| size.as_u64()), Limits::LEAST.memory_bytes)?;
        at_least("limits.cpu", self.limits.cpu.map(in_ms), 1)?;
        at_least("limits.timeout", self.limits.timeout.map(in_ms), 1)?;
        at_least("limits.concurrency", self.limits.concurrency.map(u64::from), 1)?;
        at_least("sandboxes.memory", self.sandboxes.memory.map(|size| size.as_u64()), 16 << 20)?;
        at_least("sandboxes.code", self.sandboxes.code.map(|size| size.as_u64()), 1 << 20)?;
        at_least("compile.memory", self.compile.memory.map(|size| size.as_u64()), 64 << 20)?;
        at_least("compile.cpu", self.compile.cpu.map(in_ms), 1000)?;
        at_least("bundles.max_size", self.bundles.max_size.map(|size| size.as_u64()), 64 << 10)?;
        at_least("bundles.max_wasm", self.bundles.max_wasm.map(|size| size.as_u64()), 64 << 10)?;
        at_least("js.idle", self.js.idle.map(in_ms), 1000)?;
        at_least("logs.segment", self.logs.segment.map(|size| size.as_u64()), 64 << 10)?;
        at_least("logs.max_size", self.logs.max_size.map(|size| size.as_u64()), 1 << 20)?;
        at_least("logs.segments_per_app", self.logs.segments_per_app.map(|count| count as u64), 1)?;
        let at_most = |key: &'static str, value: Option<u64>, most: u64, reason: &'static str| match value {
            Some(value) if value > most => Err(ConfigError::TooLarge { path: path.into(), key, most, reason }),
            _ => Ok(()),
        };
        let reason = "each sandbox reserves about 48 GiB of the addresses that a process has";
        at_most("sandboxes.max", self.sandboxes.max.map(u64::from), MAX_SANDBOXES, reason)?;
        let reason = "WebAssembly has addresses of 32 bits";
        at_most("limits.memory", self.limits.memory.map(|size| size.as_u64()), Limits::MOST.memory_bytes, reason)?;
        let reason = "threads beyond the machine's cores only take turns";
        at_most("gateway.workers", self.gateway.workers.map(|count| count.get() as u64), max_workers(), reason)?;
        let reason = "each holds some 50 MB of memory while nothing is asked of it";
        at_most("js.pool", self.js.pool.map(u64::from), MAX_JS_POOL, reason)?;
        config.domain = self.domain;
        config.default_app = self.default_app;
        set(&mut config.drain, self.drain);
        config.workers = self.gateway.workers;
        set(&mut config.trust_forwarded, self.gateway.trust_forwarded);
        set(&mut config.max_connections, self.gateway.max_connections);
        set(&mut config.sandboxes, self.sandboxes.max);
        set(&mut config.sandbox_queue, self.sandboxes.queue);
        set(&mut config.sandbox_memory_bytes, self.sandboxes.memory.map(|size| size.as_u64()));
        set(&mut config.code_bytes, self.sandboxes.code.map(|size| size.as_u64()));
        let caps = &mut config.caps.0;
        set(&mut caps.memory_bytes, self.limits.memory.map(|size| size.as_u64()));
        set(&mut caps.cpu, self.limits.cpu);
        set(&mut caps.timeout, self.limits.timeout);
        set(&mut caps.concurrency, self.limits.concurrency);
        set(&mut caps.queue, self.limits.queue);
        set(&mut caps.request_body_bytes, self.limits.request_body.map(|size| size.as_u64()));
        set(&mut config.compile.memory_bytes, self.compile.memory.map(|size| size.as_u64()));
        set(&mut config.compile.cpu, self.compile.cpu);
        config.max_bundle_bytes = self.bundles.max_size.map(|size| size.as_u64());
        config.max_wasm_bytes = self.bundles.max_wasm.map(|size| size.as_u64());
        config.private_networks = self.egress.private_networks;
        set(&mut config.js.pool, self.js.pool);
        set(&mut config.js.idle, self.js.idle);
        set(&mut config.js.allow_missing_walls, self.js.allow_missing_walls);
        config.secrets_key = self.secrets.key_file;
        set(&mut config.keep_deleted, self.data.keep_deleted);
        config.log_segment_bytes = self.logs.segment.map(|size| size.as_u64());
        config.log_segments_per_app = self.logs.segments_per_app;
        config.log_total_bytes = self.logs.max_size.map(|size| size.as_u64());
        Ok(())
    }
}

fn max_workers() -> u64 {
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
    cores.saturating_mul(WORKERS_PER_CORE).max(LEAST_MAX_WORKERS)
}

fn in_ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// What a value that is too small would lead to, where the name of the key does not say it.
fn consequence(key: &str) -> &'static str {
    match key {
        "limits.memory" | "sandboxes.memory" => ": below that no usual function can run",
        "sandboxes.code" => ": below that the code of no usual function stays loaded",
        "compile.memory" | "compile.cpu" => ": below that no usual function can be compiled",
        "bundles.max_size" | "bundles.max_wasm" => ": below that no usual app can be published",
        _ => "",
    }
}

/// A bound as it is written in the file.
fn in_units(key: &str, bound: u64) -> String {
    match key {
        "limits.cpu" | "limits.timeout" | "js.idle" => format!("{bound}ms"),
        // The kernel counts it in seconds (setrlimit(2)).
        "compile.cpu" => format!("{}s", bound / 1000),
        "gateway.workers" | "sandboxes.max" => bound.to_string(),
        _ if bound >= 1 << 30 && bound.is_multiple_of(1 << 30) => format!("{}GiB", bound >> 30),
        _ if bound >= 1 << 20 && bound.is_multiple_of(1 << 20) => format!("{}MiB", bound >> 20),
        _ if bound >= 1 << 10 && bound.is_multiple_of(1 << 10) => format!("{}KiB", bound >> 10),
        _ => bound.to_string(),
    }
}

/// The machine's memory, in bytes (sysinfo(2)).
fn machine_memory_bytes() -> u64 {
    let info = rustix::system::sysinfo();
    u64::from(info.mem_unit).saturating_mul(info.totalram)
}

fn set<T>(place: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *place = value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Config, ConfigError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), text).unwrap();
        Config::load(Some(file.path()), Overrides { data_dir: Some("data".into()), ..Default::default() })
    }

    #[test]
    fn the_command_line_wins_over_the_file_and_the_file_over_the_defaults() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "http = \"127.0.0.1:1\"\nadmin = \"127.0.0.1:2\"\n[limits]\nmemory = \"2GiB\"\n")
            .unwrap();
        let overrides = Overrides {
            data_dir: Some("data".into()),
            http: Some("127.0.0.1:9".parse().unwrap()),
            ..Default::default()
        };
        let config = Config::load(Some(file.path()), overrides).unwrap();
        assert_eq!(config.http.port(), 9);
        assert_eq!(config.admin.port(), 2);
        assert_eq!(config.caps.0.memory_bytes, 2 << 30);
        assert_eq!(config.sandboxes, 1_000);
    }

    #[test]
    fn mistakes_are_refused_with_their_place() {
        for (text, expected) in [
            ("htpp = \"x\"", "htpp"),
            ("[limits]\nmemory = \"lots\"", "line 2"),
            ("drain = \"soon\"", "line 1"),
            ("drain = \"1s\"\ndomain = \"apps.example.org:80\"", "line 2"),
            ("domain = \"http://apps.example.org\"", "write the name alone"),
            ("[sandboxes]\nmax = 0", "`sandboxes.max` must be at least 1"),
            ("[limits]\ncpu = \"0s\"", "`limits.cpu` must be at least 1ms"),
            ("[compile]\nmemory = \"1MB\"", "`compile.memory` must be at least 64MiB"),
            ("[logs]\nmax_size = \"0\"", "`logs.max_size` must be at least 1MiB"),
            ("[sandboxes]\nmemory = \"0\"", "`sandboxes.memory` must be at least 16MiB"),
            ("[sandboxes]\nmemory = \"15MiB\"", "below that no usual function can run"),
            ("[sandboxes]\ncode = \"512kB\"", "`sandboxes.code` must be at least 1MiB"),
            ("[limits]\nmemory = \"64KiB\"", "`limits.memory` must be at least 1MiB"),
            ("[compile]\ncpu = \"999ms\"", "`compile.cpu` must be at least 1s"),
            ("[bundles]\nmax_size = \"1KiB\"", "`bundles.max_size` must be at least 64KiB"),
            ("[bundles]\nmax_wasm = \"1KiB\"", "`bundles.max_wasm` must be at least 64KiB"),
            ("[sandboxes]\nmax = 1501", "`sandboxes.max` must be at most 1500"),
            ("[limits]\nmemory = \"5GiB\"", "`limits.memory` must be at most 4GiB"),
            ("[limits]\nmemory = \"4294967297B\"", "`limits.memory` must be at most 4GiB"),
            ("[gateway]\nworkers = 100000", "`gateway.workers` must be at most "),
            ("http = \"127.0.0.1:7701\"", "a port each"),
            ("[egress]\nprivate_networks = [\"10.0.0.0/99\"]", "line 2"),
        ] {
            let error = load(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
        let none = Config::load(None, Overrides::default()).unwrap_err();
        assert!(matches!(none, ConfigError::NoDataDir));
    }

    #[test]
    fn the_most_that_is_allowed_is_accepted() {
        let most = max_workers();
        let config = load(&format!("[limits]\nmemory = \"4GiB\"\n[gateway]\nworkers = {most}")).unwrap();
        assert_eq!(config.caps.0.memory_bytes, 4 << 30);
        assert_eq!(config.workers.map(|workers| workers.get() as u64), Some(most));
        let error = load(&format!("[gateway]\nworkers = {}", most + 1)).unwrap_err().to_string();
        assert!(error.contains(&format!("at most {most}")), "{error}");
    }

    #[test]
    fn the_listeners_have_no_address_in_common() {
        for (http, admin, is_refused) in [
            ("127.0.0.1:7701", "127.0.0.1:7701", true),
            ("0.0.0.0:7701", "127.0.0.1:7701", true),
            ("127.0.0.1:7701", "0.0.0.0:7701", true),
            ("[::]:7701", "[::1]:7701", true),
            ("[::]:7701", "127.0.0.1:7701", true),
            ("0.0.0.0:7701", "[::]:7701", true),
            ("0.0.0.0:7701", "[::1]:7701", false),
            ("127.0.0.1:7701", "[::1]:7701", false),
            ("127.0.0.1:7701", "127.0.0.2:7701", false),
            ("0.0.0.0:7700", "127.0.0.1:7701", false),
            ("0.0.0.0:0", "127.0.0.1:0", false),
        ] {
            let error = load(&format!("http = \"{http}\"\nadmin = \"{admin}\"")).err().map(|error| error.to_string());
            let names_both = |error: &String| error.contains(http) && error.contains(admin);
            assert_eq!(error.as_ref().map(names_both), is_refused.then_some(true), "{http} and {admin}: {error:?}");
        }
    }

    #[test]
    fn the_data_directory_is_named_by_the_command_line_or_the_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "data_dir = \"of the file\"").unwrap();
        for (argument, expected) in [(None, "of the file"), (Some("of the line"), "of the line")] {
            let overrides = Overrides { data_dir: argument.map(PathBuf::from), ..Default::default() };
            assert_eq!(Config::load(Some(file.path()), overrides).unwrap().data_dir, Path::new(expected));
        }
    }

    #[test]
    fn a_node_listens_on_loopback_unless_told_otherwise() {
        let config = load("").unwrap();
        assert!(config.http.ip().is_loopback() && config.admin.ip().is_loopback());
    }
}
