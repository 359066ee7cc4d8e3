//! A function that can be invoked: its settings, and the handle that carries its places, its queue and its warm instances.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use minnow_model::{
    AppName, Digest, EgressRule, FunctionName, Level, Limits, LogLine, LogSource, RequestId, Schedule, Subscription,
    Tenant, Version, event::Async, manifest::Instances,
};
use minnow_telemetry::FunctionMetrics;
use tokio::sync::Semaphore;

use crate::{
    Runtime,
    admission::Admission,
    data::Granted,
    js::Team,
    kind::GuestKind,
    mask::Secrets,
    meter::{monotonic_ns, now_ms},
    wasm::{Crew, WarmInstance},
};

/// Everything the runtime needs to know of a function. Small, since a node holds thousands that are idle.
#[derive(Clone, PartialEq)]
pub struct FunctionSpec {
    pub tenant: Tenant,
    pub app: AppName,
    pub version: Version,
    pub function: FunctionName,
    pub code: FunctionCode,
    /// What the manifest says, then the app's variables, then the secrets that it was granted.
    pub env: Arc<BTreeMap<String, String>>,
    /// What no line of its log may hold.
    pub secrets: Secrets,
    /// Whether it lacks a secret that it was granted, and so is not run.
    pub lacks_secrets: bool,
    /// The stores and locks that it may use; one that is shared where there are none.
    pub granted: Arc<Granted>,
    pub egress: Arc<[EgressRule]>,
    pub instances: Instances,
    pub limits: Limits,
    /// The topics that it follows; one list that is shared where there are none.
    pub subscriptions: Arc<[Subscription]>,
    /// When it runs by the clock; shared likewise.
    pub schedules: Arc<[Schedule]>,
    /// What happens to its asynchronous invokes, where its manifest says so.
    pub asynchronous: Option<Arc<Async>>,
    /// Whether requests from outside may reach it: it has a route.
    pub has_routes: bool,
}

/// Of `env` only the names: its values may be secrets.
impl fmt::Debug for FunctionSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            tenant,
            app,
            version,
            function,
            code,
            env,
            secrets,
            lacks_secrets,
            granted,
            egress,
            instances,
            limits,
            subscriptions,
            schedules,
            asynchronous,
            has_routes,
        } = self;
        f.debug_struct("FunctionSpec")
            .field("tenant", tenant)
            .field("app", app)
            .field("version", version)
            .field("function", function)
            .field("code", code)
            .field("env", &env.keys().collect::<Vec<_>>())
            .field("secrets", secrets)
            .field("lacks_secrets", lacks_secrets)
            .field("granted", granted)
            .field("egress", egress)
            .field("instances", instances)
            .field("limits", limits)
            .field("subscriptions", subscriptions)
            .field("schedules", schedules)
            .field("asynchronous", asynchronous)
            .field("has_routes", has_routes)
            .finish()
    }
}

/// What a function is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FunctionCode {
    /// WebAssembly, by the digest of its bytes.
    Wasm { digest: Digest, kind: GuestKind },
    /// A bundled JavaScript module and its source map.
    Js { module: Digest, source_map: Digest },
}

impl FunctionCode {
    /// How the code is called, for people: `http-0.2`, `js`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Wasm { kind, .. } => kind.as_str(),
            Self::Js { .. } => "js",
        }
    }
}

/// A function that can be invoked. Cheap while it is idle: code, metrics and instances come with the first request.
pub struct Function {
    spec: FunctionSpec,
    runtime: Arc<Runtime>,
    pub(crate) admission: Admission,
    metrics: OnceLock<Arc<FunctionMetrics>>,
    warm: Mutex<VecDeque<WarmInstance>>,
    /// Whether the sweep knows of this function.
    is_swept: AtomicBool,
    crew: Crew,
    /// The app's turn to list a folder of a volume in WASI preview 1.
    listing: OnceLock<Arc<Semaphore>>,
    js: OnceLock<Box<Team>>,
    printing: LineRate,
}

impl Function {
    pub fn new(runtime: &Arc<Runtime>, spec: FunctionSpec) -> Arc<Self> {
        let limits = &spec.limits;
        if matches!(spec.code, FunctionCode::Js { .. }) {
            runtime.js().add_function();
        }
        Arc::new(Self {
            admission: Admission::new(limits.concurrency, limits.queue),
            runtime: Arc::clone(runtime),
            metrics: OnceLock::new(),
            warm: Mutex::default(),
            is_swept: AtomicBool::new(false),
            crew: Crew::default(),
            listing: OnceLock::new(),
            js: OnceLock::new(),
            printing: LineRate::default(),
            spec,
        })
    }

    pub fn spec(&self) -> &FunctionSpec {
        &self.spec
    }

    /// Invocations running now.
    pub fn running(&self) -> u64 {
        self.admission.running()
    }

    /// Requests waiting for a place now.
    pub fn queued(&self) -> u64 {
        self.admission.queued()
    }

    /// Whether the code is in memory now: mapped, or in a process.
    pub fn is_loaded(&self) -> bool {
        match &self.spec.code {
            FunctionCode::Wasm { digest, .. } => self.runtime.is_loaded(digest),
            FunctionCode::Js { .. } => self.processes().0 > 0,
        }
    }

    /// The processes of a JavaScript function now, and what they hold of memory in bytes.
    pub fn processes(&self) -> (usize, u64) {
        self.js.get().map_or((0, 0), |team| team.size())
    }

    /// How long the function is not started, because its processes kept failing.
    pub fn held_for(&self) -> Option<Duration> {
        self.js.get()?.held_for()
    }

    /// The function's version is not live any more: its WebSockets are to end.
    pub(crate) fn retire(&self) {
        if matches!(self.spec.code, FunctionCode::Js { .. }) {
            self.js().retire();
        }
    }

    pub(crate) fn runtime(&self) -> &Arc<Runtime> {
        &self.runtime
    }

    pub(crate) fn metrics(&self) -> &FunctionMetrics {
        let spec = &self.spec;
        let metrics = &self.runtime.metrics;
        self.metrics.get_or_init(|| metrics.function(&spec.tenant, &spec.app, &spec.version, &spec.function))
    }

    pub(crate) fn crew(&self) -> &Crew {
        &self.crew
    }

    pub(crate) fn listing(&self) -> &Arc<Semaphore> {
        self.listing.get_or_init(|| self.runtime.file_roots.turn_of(&self.spec.tenant, &self.spec.app))
    }

    pub(crate) fn js_if_any(&self) -> Option<&Team> {
        self.js.get().map(|team| &**team)
    }

    pub(crate) fn js(&self) -> &Team {
        self.js.get_or_init(Box::default)
    }

    /// Has the sweep look at the function.
    pub(crate) fn is_warm(self: &Arc<Self>) {
        if !self.is_swept.load(Relaxed) && !self.is_swept.swap(true, Relaxed) {
            self.runtime.has_warm(self);
        }
    }

    /// Writes a line to the app's log, or counts it as dropped when the function prints too fast.
    pub(crate) fn log(&self, level: Level, source: LogSource, request_id: Option<RequestId>, message: String) {
        self.print(level, source, request_id, message);
    }

    /// Counts a line that is not kept.
    pub(crate) fn lose(&self) {
        self.runtime.logs.lose(&self.spec.tenant, &self.spec.app);
    }

    /// [`Function::log`], and whether the line was kept.
    pub(crate) fn print(
        &self,
        level: Level,
        source: LogSource,
        request_id: Option<RequestId>,
        message: String,
    ) -> bool {
        // What the node itself has to say comes at most a few times for each request.
        let is_kept = source == LogSource::Node || self.may_print(message.len());
        if is_kept {
            self.write(level, source, request_id, message);
        }
        is_kept
    }

    /// Whether the function may print a line of `bytes` now. Counts it as dropped otherwise.
    pub(crate) fn may_print(&self, bytes: usize) -> bool {
        let has_room = self.printing.has_room(monotonic_ns(), bytes);
        if !has_room {
            self.lose();
        }
        has_room
    }

    /// Writes a line that [`Function::may_print`] has let through.
    pub(crate) fn write(&self, level: Level, source: LogSource, request_id: Option<RequestId>, message: String) {
        let spec = &self.spec;
        self.runtime.logs.write(LogLine {
            time_ms: now_ms(),
            level,
            source,
            tenant: spec.tenant.clone(),
            app: spec.app.clone(),
            version: Some(spec.version.clone()),
            function: Some(spec.function.clone()),
            request_id,
            message: spec.secrets.mask(message),
        });
    }

    /// The instance that was used last, if one is warm and fits.
    pub(crate) fn take_warm(&self, fits: impl Fn(&WarmInstance) -> bool) -> Option<WarmInstance> {
        let instance = self.warm.lock().unwrap_or_else(PoisonError::into_inner).pop_back()?;
        // One that does not fit was made from code that has been loaded anew since; it goes.
        fits(&instance).then_some(instance)
    }

    /// Keeps an instance for the next request. At most `limits.concurrency` are kept, since no more run at once.
    pub(crate) fn put_warm(self: &Arc<Self>, instance: WarmInstance) {
        let mut warm = self.warm.lock().unwrap_or_else(PoisonError::into_inner);
        if warm.len() < self.spec.limits.concurrency as usize {
            warm.push_back(instance);
            drop(warm);
            self.is_warm();
        }
    }

    /// Drops instances that nobody used for `idle`. Returns whether some are left.
    pub(crate) fn cool(&self, now: Instant, idle: Duration) -> bool {
        if let Some(team) = self.js.get() {
            let left = team.cool(self.runtime.js().idle()) > 0;
            self.is_swept.store(left, Relaxed);
            return left;
        }
        let mut warm = self.warm.lock().unwrap_or_else(PoisonError::into_inner);
        let mut gone = Vec::new();
        while warm.front().is_some_and(|instance| now.duration_since(instance.idle_since) >= idle) {
            gone.extend(warm.pop_front());
        }
        let left = !warm.is_empty();
        self.is_swept.store(left, Relaxed);
        drop(warm);
        // Tearing an instance down takes longer than the lock should be held.
        drop(gone);
        left
    }
}

impl Drop for Function {
    fn drop(&mut self) {
        if matches!(self.spec.code, FunctionCode::Js { .. }) {
            self.runtime.js().remove_function();
        }
    }
}

/// Lines that a function may print each second, and on top of that at once. A line for each request of a node that is busy
/// with this function alone is some thousands a second; what prints more has gone astray, and would wear out the disk and
/// leave the log with the last moments only.
const LINES_PER_SECOND: u64 = 10_000;
const LINES_AT_ONCE: u64 = 10_000;

/// How full the bucket is that a function's lines drip out of: a leaky bucket in one number (the generic cell rate
/// algorithm of ITU-T I.371).
#[derive(Debug, Default)]
struct LineRate {
    /// When the bucket will be empty, in nanoseconds on the monotonic clock.
    empty_at_ns: AtomicU64,
}

impl LineRate {
    const LINE_NS: u64 = 1_000_000_000 / LINES_PER_SECOND;
    const FULL_NS: u64 = Self::LINE_NS * LINES_AT_ONCE;

    /// What counts as one line; a longer one counts as several. 10,000 of these a second are 10 MB/s, which a disk takes.
    const LINE_BYTES: usize = 1024;

    /// Puts a line of `bytes` in, unless the bucket is full.
    fn has_room(&self, now_ns: u64, bytes: usize) -> bool {
        let lines = u64::try_from(bytes.div_ceil(Self::LINE_BYTES)).unwrap_or(LINES_AT_ONCE).max(1);
        let put = |empty_at_ns: u64| {
            let empty_at_ns = empty_at_ns.max(now_ns) + Self::LINE_NS * lines;
            (empty_at_ns - now_ns <= Self::FULL_NS).then_some(empty_at_ns)
        };
        self.empty_at_ns.fetch_update(Relaxed, Relaxed, put).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_of_a_function_holds_no_value_of_its_environment() {
        let spec = FunctionSpec {
            tenant: Tenant::default(),
            app: "shop".parse().unwrap(),
            version: "0.1.0".parse().unwrap(),
            function: "web".parse().unwrap(),
            code: FunctionCode::Wasm { digest: Digest::of(b"code"), kind: GuestKind::Http02 },
            env: Arc::new(BTreeMap::from([("API_KEY".to_owned(), "hunter2".to_owned())])),
            secrets: Secrets::default(),
            lacks_secrets: false,
            granted: Arc::default(),
            egress: Arc::new([]),
            instances: Instances::default(),
            limits: Limits::default(),
            subscriptions: Arc::default(),
            schedules: Arc::default(),
            asynchronous: None,
            has_routes: true,
        };
        let printed = format!("{spec:?}");
        assert!(printed.contains("API_KEY") && !printed.contains("hunter2"), "{printed}");
    }

    #[test]
    fn a_function_prints_at_once_what_fits_and_then_at_its_rate() {
        let rate = LineRate::default();
        let second = 1_000_000_000;
        for (what, from_s, to_s, tried, bytes, expected) in [
            ("all at once", 5, 5, 30_000, 0, LINES_AT_ONCE),
            ("more at once", 5, 5, 10, 1, 0),
            ("a second later", 6, 6, 30_000, 1024, LINES_PER_SECOND),
            ("too many for ten seconds", 6, 16, 1_000_000, 100, 10 * LINES_PER_SECOND),
            ("after a rest", 100, 100, 30_000, 100, LINES_AT_ONCE),
            ("few for long", 200, 300, 500_000, 100, 500_000),
            ("long ones at once", 400, 400, 30_000, 16 << 10, LINES_AT_ONCE / 16),
        ] {
            let span_ns = (to_s - from_s) * second;
            let times = (0..tried).map(|line| from_s * second + span_ns / tried * line);
            let printed = times.filter(|now_ns| rate.has_room(*now_ns, bytes)).count() as u64;
            assert!(printed.abs_diff(expected) <= 2, "{what}: {printed}");
        }
    }
}
