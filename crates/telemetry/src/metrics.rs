//! What a node counts and times, for Prometheus.
//!
//! A function's instruments come into being with its first request, so that deployed functions that nobody calls cost
//! nothing; the labels are those of functions only (tenant, app, version, function), never of requests, so the number of
//! series is bounded by what is deployed: [`Metrics::deployed`] drops those of versions that are long gone. Recording
//! touches atomics only; all text is made at scrape time, in `exposition`.

mod events;
mod exposition;
mod instrument;
mod tally;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, OnceLock, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use minnow_model::{AppName, Code, FunctionName, Tenant, Usage, Version};
use prometheus_client::registry::Registry;

use self::{events::EventInstruments, exposition::Exposition, instrument::Histogram};
pub use self::{
    events::{InvokeMetrics, ScheduleMetrics, SubscriptionMetrics, TopicMetrics},
    instrument::{Counter, Gauge, Held},
    tally::Tally,
};

/// How many versions of an app have series: the two that can be live, and the two that were live before them, so that a
/// scrape still finds what a version counted last, and a rollback goes on counting where it was.
const KEPT_VERSIONS: usize = 4;

/// All metrics of a node. Clones share them.
#[derive(Clone)]
pub struct Metrics {
    instruments: Arc<Instruments>,
    registry: Arc<Registry>,
}

/// What is counted, and nothing about how it is shown.
#[derive(Debug)]
struct Instruments {
    version: &'static str,
    functions: RwLock<BTreeMap<FunctionKey, Arc<FunctionMetrics>>>,
    /// How often [`Metrics::deployed`] was called.
    deployments: AtomicU64,
    gateway: Responses,
    statics: Responses,
    blobs: Responses,
    webhooks: Responses,
    compile: Histogram,
    connections: Gauge,
    loaded_code_bytes: Gauge,
    apps: Gauge,
    versions: Gauge,
    log_lines_dropped: Counter,
    events: EventInstruments,
}

/// Which function of which version.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct FunctionKey {
    tenant: Tenant,
    app: AppName,
    version: Version,
    function: FunctionName,
}

impl FunctionKey {
    fn is_of(&self, tenant: &Tenant, app: &AppName) -> bool {
        self.tenant == *tenant && self.app == *app
    }
}

impl Metrics {
    /// The content type of [`Metrics::encode`]'s text (OpenMetrics 1.0, which Prometheus asks for first).
    pub const CONTENT_TYPE: &'static str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

    /// Metrics of a node of this version.
    pub fn new(version: &'static str) -> Self {
        let instruments = Arc::new(Instruments {
            version,
            functions: RwLock::default(),
            deployments: AtomicU64::new(0),
            gateway: Responses::default(),
            statics: Responses::default(),
            blobs: Responses::default(),
            webhooks: Responses::default(),
            compile: Histogram::of_durations(),
            connections: Gauge::default(),
            loaded_code_bytes: Gauge::default(),
            apps: Gauge::default(),
            versions: Gauge::default(),
            log_lines_dropped: Counter::default(),
            events: EventInstruments::default(),
        });
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Exposition(Arc::clone(&instruments))));
        Self { instruments, registry: Arc::new(registry) }
    }

    /// A function's instruments, made at the first call. Look them up once and keep them: this takes a lock.
    pub fn function(
        &self,
        tenant: &Tenant,
        app: &AppName,
        version: &Version,
        function: &FunctionName,
    ) -> Arc<FunctionMetrics> {
        let key = FunctionKey {
            tenant: tenant.clone(),
            app: app.clone(),
            version: version.clone(),
            function: function.clone(),
        };
        let functions = self.instruments.functions.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = functions.get(&key) {
            return Arc::clone(found);
        }
        drop(functions);
        let mut functions = self.instruments.functions.write().unwrap_or_else(PoisonError::into_inner);
        let made = functions.entry(key).or_default();
        made.deployment.store(self.instruments.deployments.load(Ordering::Relaxed), Ordering::Relaxed);
        Arc::clone(made)
    }

    /// Says which versions of an app get traffic from now on, after each deployment. Their tallies begin anew; series of
    /// versions that are not among the last [`KEPT_VERSIONS`] of the app are dropped.
    pub fn deployed(&self, tenant: &Tenant, app: &AppName, live: &[Version]) {
        let mut functions = self.instruments.functions.write().unwrap_or_else(PoisonError::into_inner);
        let now = self.instruments.deployments.fetch_add(1, Ordering::Relaxed) + 1;
        // Those that are live count although nobody may have called them yet.
        let mut last_live: BTreeMap<Version, u64> = live.iter().map(|version| (version.clone(), now)).collect();
        for (key, metrics) in functions.iter().filter(|(key, _)| key.is_of(tenant, app)) {
            if live.contains(&key.version) {
                metrics.deployment.store(now, Ordering::Relaxed);
                metrics.begin_tally();
            }
            let last = last_live.entry(key.version.clone()).or_default();
            *last = (*last).max(metrics.deployment.load(Ordering::Relaxed));
        }
        let mut newest: Vec<(u64, Version)> = last_live.into_iter().map(|(version, last)| (last, version)).collect();
        newest.sort_unstable_by(|one, other| other.cmp(one));
        let kept: BTreeSet<Version> = newest.into_iter().take(KEPT_VERSIONS).map(|(_, version)| version).collect();
        functions.retain(|key, _| !key.is_of(tenant, app) || kept.contains(&key.version));
    }

    /// What the functions of a version did since [`Metrics::deployed`] was last called with it, or since the node started.
    pub fn tally(&self, tenant: &Tenant, app: &AppName, version: &Version) -> Tally {
        let functions = self.instruments.functions.read().unwrap_or_else(PoisonError::into_inner);
        let of_version = functions.iter().filter(|(key, _)| key.is_of(tenant, app) && key.version == *version);
        of_version.fold(Tally::default(), |sum, (_, metrics)| sum.plus(&metrics.tally()))
    }

    /// Forgets a deleted app's functions and topics.
    pub fn remove_app(&self, tenant: &Tenant, app: &AppName) {
        self.instruments.events.remove_app(tenant, app);
        let mut functions = self.instruments.functions.write().unwrap_or_else(PoisonError::into_inner);
        functions.retain(|key, _| !key.is_of(tenant, app));
    }

    /// Counts a request that reached no function, static file, blob or webhook: an unknown host or path, malformed HTTP.
    pub fn gateway_request(&self, status: u16, code: Option<Code>) {
        self.instruments.gateway.count(status, code);
    }

    /// Counts a request that was answered from an app's static files.
    pub fn static_request(&self, status: u16) {
        self.instruments.statics.count(status, None);
    }

    /// Counts a request to a signed URL: one that was answered, or one that was refused with a problem.
    pub fn blob_request(&self, status: u16, code: Option<Code>) {
        self.instruments.blobs.count(status, code);
    }

    /// Counts a request to a webhook: one that was answered, or one that was refused with a problem.
    pub fn webhook_request(&self, status: u16, code: Option<Code>) {
        self.instruments.webhooks.count(status, code);
    }

    /// Counts an open client connection until the answer is dropped.
    pub fn connection(&self) -> Held {
        self.instruments.connections.hold()
    }

    /// Records one run of the compiler, successful or not.
    pub fn compiled(&self, duration: Duration) {
        self.instruments.compile.observe_duration(duration);
    }

    /// How much compiled code is mapped into memory, in bytes.
    pub fn loaded_code_bytes(&self) -> &Gauge {
        &self.instruments.loaded_code_bytes
    }

    /// How many apps have a published version.
    pub fn apps(&self) -> &Gauge {
        &self.instruments.apps
    }

    /// How many versions are published.
    pub fn versions(&self) -> &Gauge {
        &self.instruments.versions
    }

    /// Log lines that could not be kept; give a clone to [`crate::LogConfig::dropped`].
    pub fn log_lines_dropped(&self) -> &Counter {
        &self.instruments.log_lines_dropped
    }

    /// Everything as OpenMetrics text. Reads `/proc/self`; takes time in proportion to the functions that were called.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail, and the collector passes on nothing but the writer's errors.
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.registry);
        text
    }
}

/// The instruments of one function of one version. About 1 KiB.
#[derive(Debug)]
pub struct FunctionMetrics {
    /// The deployment with which its version was live last, counted by [`Metrics::deployed`].
    deployment: AtomicU64,
    /// What there was when the live deployment began, where there was something.
    before: Mutex<Option<Box<Tally>>>,
    responses: Responses,
    duration: Histogram,
    queue: Histogram,
    peak_memory: Histogram,
    instantiate: Histogram,
    load: Histogram,
    cold_starts: AtomicU64,
    warm_starts: AtomicU64,
    cpu_ns: AtomicU64,
    sandboxes: Gauge,
    queued: Gauge,
}

impl Default for FunctionMetrics {
    fn default() -> Self {
        Self {
            deployment: AtomicU64::new(0),
            before: Mutex::default(),
            responses: Responses::default(),
            duration: Histogram::of_durations(),
            queue: Histogram::of_durations(),
            peak_memory: Histogram::of_memory(),
            instantiate: Histogram::of_durations(),
            load: Histogram::of_durations(),
            cold_starts: AtomicU64::new(0),
            warm_starts: AtomicU64::new(0),
            cpu_ns: AtomicU64::new(0),
            sandboxes: Gauge::default(),
            queued: Gauge::default(),
        }
    }
}

impl FunctionMetrics {
    /// Records an ended invocation: the status that the client got, the problem code when the node answered for the
    /// function or cut its response, and what it used.
    pub fn record(&self, status: u16, code: Option<Code>, usage: &Usage) {
        self.responses.count(status, code);
        self.duration.observe_duration(usage.wall);
        self.queue.observe_duration(usage.queued);
        self.peak_memory.observe(usage.peak_memory_bytes);
        self.cpu_ns.fetch_add(u64::try_from(usage.cpu.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
        let starts = if usage.cold { &self.cold_starts } else { &self.warm_starts };
        starts.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a request that was refused before it ran: the queue was full, or it waited too long in it.
    pub fn record_refused(&self, code: Code, queued: Duration) {
        self.responses.count(code.status(), Some(code));
        self.queue.observe_duration(queued);
    }

    /// Counts CPU time that belongs to no single invocation: what a shared sandbox does before its first and after its last.
    pub fn used_cpu(&self, cpu: Duration) {
        self.cpu_ns.fetch_add(u64::try_from(cpu.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Records how long making a sandbox took.
    pub fn instantiated(&self, duration: Duration) {
        self.instantiate.observe_duration(duration);
    }

    /// Records how long mapping the compiled code into memory took.
    pub fn loaded(&self, duration: Duration) {
        self.load.observe_duration(duration);
    }

    /// All that was counted so far.
    fn total(&self) -> Tally {
        let (requests, failed) = self.responses.seen().fold((0, 0), |(all, failed), (class, _, count)| {
            (all + count, if class == FAILED { failed + count } else { failed })
        });
        Tally::new(requests, failed, self.duration.counts())
    }

    /// From here on [`FunctionMetrics::tally`] counts anew.
    fn begin_tally(&self) {
        let total = self.total();
        *self.before.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(total));
    }

    fn tally(&self) -> Tally {
        let total = self.total();
        match &*self.before.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(before) => total.since(before),
            None => total,
        }
    }

    /// Counts a live sandbox until the answer is dropped.
    pub fn sandbox(&self) -> Held {
        self.sandboxes.hold()
    }

    /// Counts a waiting request until the answer is dropped.
    pub fn waiting(&self) -> Held {
        self.queued.hold()
    }
}

/// Responses by status class, and by problem code where there is one.
#[derive(Debug, Default)]
struct Responses {
    plain: Classes,
    /// One for each [`Code`], in its order. Made at the first problem: most functions never have one.
    problems: OnceLock<Box<[Classes]>>,
}

/// A counter for each of 1xx to 5xx.
type Classes = [AtomicU64; CLASS_NAMES.len()];

const CLASS_NAMES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", FAILED];

/// The class of responses that say that the function or the node failed.
const FAILED: &str = "5xx";

impl Responses {
    fn count(&self, status: u16, code: Option<Code>) {
        let classes = match code {
            None => Some(&self.plain),
            Some(code) => self
                .problems
                .get_or_init(|| Code::all().iter().map(|_| Classes::default()).collect())
                .get(code as usize),
        };
        // What is not a status (0, 1000) is a failure of the server that made it up.
        let class = usize::from(status / 100).wrapping_sub(1).min(CLASS_NAMES.len() - 1);
        if let Some(count) = classes.and_then(|classes| classes.get(class)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What has been counted: status class, problem code or `""`, and how often; without what never happened.
    fn seen(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
        let problems = self.problems.get().into_iter().flatten().zip(Code::all());
        let problems = problems.map(|(classes, code)| (classes, code.as_str()));
        [(&self.plain, "")]
            .into_iter()
            .chain(problems)
            .flat_map(|(classes, code)| {
                let counts = classes.iter().map(|count| count.load(Ordering::Relaxed));
                CLASS_NAMES.into_iter().zip(counts).map(move |(class, count)| (class, code, count))
            })
            .filter(|(_, _, count)| *count > 0)
    }
}
