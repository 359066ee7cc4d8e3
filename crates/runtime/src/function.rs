//! A function that can be invoked: its settings, and the handle that carries its places, its queue and its warm instances.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use minnow_model::{
    AppName, Digest, EgressRule, FunctionName, Level, Limits, LogLine, LogSource, RequestId, Tenant, Version,
    manifest::Instances,
};
use minnow_telemetry::FunctionMetrics;

use crate::{
    Runtime,
    admission::Admission,
    kind::GuestKind,
    meter::now_ms,
    wasm::{Crew, WarmInstance},
};

/// Everything the runtime needs to know of a function. Small, since a node holds thousands that are idle.
#[derive(Debug, Clone)]
pub struct FunctionSpec {
    pub tenant: Tenant,
    pub app: AppName,
    pub version: Version,
    pub function: FunctionName,
    pub code: Digest,
    pub kind: GuestKind,
    pub env: Arc<BTreeMap<String, String>>,
    pub egress: Arc<[EgressRule]>,
    pub instances: Instances,
    pub limits: Limits,
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
}

impl Function {
    pub fn new(runtime: &Arc<Runtime>, spec: FunctionSpec) -> Arc<Self> {
        let limits = &spec.limits;
        Arc::new(Self {
            admission: Admission::new(limits.concurrency, limits.queue),
            runtime: Arc::clone(runtime),
            metrics: OnceLock::new(),
            warm: Mutex::default(),
            is_swept: AtomicBool::new(false),
            crew: Crew::default(),
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

    /// Whether the code is mapped into memory now.
    pub fn is_loaded(&self) -> bool {
        self.runtime.is_loaded(&self.spec.code)
    }

    pub(crate) fn runtime(&self) -> &Arc<Runtime> {
        &self.runtime
    }

    pub(crate) fn metrics(&self) -> &FunctionMetrics {
        let spec = &self.spec;
        self.metrics.get_or_init(|| self.runtime.metrics.function(&spec.tenant, &spec.app, &spec.function))
    }

    pub(crate) fn crew(&self) -> &Crew {
        &self.crew
    }

    /// Writes a line to the app's log.
    pub(crate) fn log(&self, level: Level, source: LogSource, request_id: Option<RequestId>, message: String) {
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
            message,
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
            if !self.is_swept.load(Relaxed) && !self.is_swept.swap(true, Relaxed) {
                self.runtime.has_warm(self);
            }
        }
    }

    /// Drops instances that nobody used for `idle`. Returns whether some are left.
    pub(crate) fn cool(&self, now: Instant, idle: Duration) -> bool {
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
