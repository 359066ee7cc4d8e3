//! The straight line from a request to its answer: a place, the code, a sandbox, the response.

use std::{
    io,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt as _;
use ipnet::IpNet;
use minnow_model::{Digest, Level, LimitCaps, LogSource, Problem, RequestId, problem::Code as ProblemCode};
use minnow_store::Blobs;
use minnow_telemetry::{Logs, Metrics, metrics::Held};
use quick_cache::{
    DefaultHashBuilder, OptionsBuilder, Weighter,
    sync::{Cache, DefaultLifecycle},
};
use tokio::sync::Notify;

use crate::{
    Function, FunctionCode, FunctionSpec, JsConfig, LoadFailure,
    admission::{Admission, Refused},
    compile::{CompileLimits, Compiler},
    data::Data,
    egress::Egress,
    invocation::{Body, BodyError, Invocation, Outcome},
    js,
    memory::MemoryBudget,
    meter::Run,
    response,
    ticker::{Ticker, Ticking},
    wasm::{self, Code, Engines, LoadError},
};

/// How long a warm instance stays without a request. A minute bridges the gaps of a busy function; after it, idle
/// functions cost no memory.
pub(crate) const WARM_IDLE: Duration = Duration::from_secs(60);

/// How long code stays mapped without a request. Mapping it again takes well under a millisecond.
const CODE_IDLE: Duration = Duration::from_secs(10 * 60);

/// How long a process has to be idle before it goes for another function's: its next request may be on its way.
const LEAST_IDLE: Duration = Duration::from_secs(1);

/// How often idle code and instances are looked for.
const SWEEP: Duration = Duration::from_secs(15);

/// Artifacts up to this size are mapped on the worker itself (about 0.5 ms); larger ones on a thread of their own.
const MAP_INLINE_BYTES: u64 = 1 << 20;

/// What loaded code takes beside its artifact: linking tables, memory images, metadata. Measured: about 60 KB.
const CODE_OVERHEAD_BYTES: u64 = 64 << 10;

/// One of so many sandboxes may deliver events: requests always find the others.
const DELIVERY_SHARE: u32 = 2;

/// How a runtime is set up.
#[derive(Clone)]
pub struct RuntimeConfig {
    /// Where compiled artifacts are kept.
    pub compiled_dir: PathBuf,
    /// Where files are made before they are renamed into place; on the same file system.
    pub tmp_dir: PathBuf,
    /// Sandboxes at once on this node.
    pub sandboxes: u32,
    /// Requests that wait for a free sandbox when all are in use.
    pub sandbox_queue: u32,
    /// Bytes of memory that all sandboxes together may hold.
    pub memory_bytes: u64,
    /// Bytes of compiled code that stay mapped.
    pub code_bytes: u64,
    pub caps: LimitCaps,
    pub compile: CompileLimits,
    /// Networks that functions may reach although they are not public. Their `egress` still has to name the host.
    pub private_networks: Vec<IpNet>,
    /// Connections to other hosts at once; an app may have half of them.
    pub outbound_connections: usize,
    /// The executable that is run as `EXE compile-worker` and `EXE js-sandbox`.
    pub executable: PathBuf,
    /// Where all of it lies.
    pub data_dir: PathBuf,
    /// Where published content is.
    pub blobs: Arc<Blobs>,
    /// The stores and locks of functions.
    pub data: Data,
    pub js: JsConfig,
}

/// Why a runtime could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("the WebAssembly engine cannot be set up: {0:#}; is the address space limited (ulimit -v)?")]
    Engine(wasmtime::Error),
    #[error("the cache of compiled code cannot be set up: {0}")]
    Cache(String),
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
    #[error("cannot set up TLS for outbound requests: {0}")]
    Tls(String),
    #[error("cannot use {}: {error}", path.display())]
    Directory { path: PathBuf, error: std::io::Error },
}

/// Runs functions. One for each node.
pub struct Runtime {
    pub(crate) logs: Logs,
    pub(crate) metrics: Metrics,
    pub(crate) memory: Arc<MemoryBudget>,
    ticker: Arc<Ticker>,
    /// Warm instances that wait, and how many there may be.
    idle: AtomicU32,
    max_idle: u32,
    pub(crate) egress: Egress,
    pub(crate) file_roots: wasm::Roots,
    engines: Engines,
    data: Data,
    js: Arc<js::Engine>,
    compiler: Compiler,
    sandboxes: Admission,
    /// How many of the sandboxes deliveries of events may have.
    deliveries: Admission,
    code: Cache<Digest, Arc<Loaded>, ByBytes>,
    /// Wakes who compiles again what was discarded.
    discarded: Notify,
    warm: Mutex<Vec<Weak<Function>>>,
    began: Instant,
}

/// Code in the cache, and when it was last used.
struct Loaded {
    code: Arc<Code>,
    /// Seconds since the runtime began.
    used_s: AtomicU64,
}

#[derive(Clone)]
struct ByBytes;

impl Weighter<Digest, Arc<Loaded>> for ByBytes {
    fn weight(&self, _: &Digest, loaded: &Arc<Loaded>) -> u64 {
        loaded.code.size + CODE_OVERHEAD_BYTES
    }
}

impl Runtime {
    /// Sets the engines up. Call [`Runtime::sweep`] in a task of its own afterwards.
    pub fn new(config: RuntimeConfig, logs: Logs, metrics: Metrics) -> Result<Arc<Self>, StartError> {
        let engines = Engines::new(config.sandboxes, &config.caps).map_err(StartError::Engine)?;
        let ticker = Ticker::start(vec![engines.sync.engine.weak(), engines.asynchronous.engine.weak()])
            .map_err(StartError::Thread)?;
        let compiler = Compiler::new(&config, &engines)?;
        // The cache sorts by the number of items it expects; 340 KB is a usual artifact. One shard, since an item larger
        // than a shard is not kept, and a language runtime is some 100 MB of code.
        let expected = usize::try_from(config.code_bytes / (340 << 10)).unwrap_or(1).max(16);
        let options = OptionsBuilder::new()
            .shards(1)
            .estimated_items_capacity(expected)
            .weight_capacity(config.code_bytes)
            .build()
            .map_err(|error| StartError::Cache(error.to_string()))?;
        let (nowhere, services) = (config.tmp_dir.join("nowhere"), config.tmp_dir.join("services"));
        let file_roots = wasm::Roots::new(nowhere, services)
            .map_err(|error| StartError::Directory { path: config.tmp_dir, error })?;
        let js = js::Engine::new(config.js, config.executable, config.data_dir, config.blobs)?;
        let runtime = Arc::new(Self {
            logs,
            metrics,
            memory: Arc::new(MemoryBudget::new(config.memory_bytes)),
            ticker: Arc::new(ticker),
            idle: AtomicU32::new(0),
            max_idle: config.sandboxes.div_ceil(2),
            egress: Egress::new(config.private_networks, config.outbound_connections)?,
            file_roots,
            engines,
            data: config.data,
            js,
            compiler,
            sandboxes: Admission::new(config.sandboxes, config.sandbox_queue),
            deliveries: Admission::new((config.sandboxes / DELIVERY_SHARE).max(1), 0),
            code: Cache::with_options(options, ByBytes, DefaultHashBuilder::default(), DefaultLifecycle::default()),
            discarded: Notify::new(),
            warm: Mutex::default(),
            began: Instant::now(),
        });
        runtime.js.belongs_to(&runtime);
        Ok(runtime)
    }

    /// Runs one invocation. Waits for a place if need be; dropping the future or the response body stops the guest.
    pub async fn invoke(self: &Arc<Self>, function: &Arc<Function>, mut invocation: Invocation) -> Outcome {
        let id = invocation.id;
        let arrived = Instant::now();
        if function.spec().lacks_secrets {
            function.metrics().record_refused(ProblemCode::SecretMissing, arrived.elapsed());
            return Err(problem(ProblemCode::SecretMissing, id));
        }
        let place = match Place::take(self, function).await {
            Ok(place) => place,
            Err(code) => {
                function.metrics().record_refused(code, arrived.elapsed());
                return Err(problem(code, id));
            }
        };
        let on_end = invocation.on_end.take();
        let run = Arc::new(Run::new(Arc::clone(function), id, invocation.trace, arrived.elapsed(), on_end));
        self.run_in(place, run, invocation).await
    }

    /// Runs the invocation in the place that it has.
    pub(crate) async fn run_in(self: &Arc<Self>, place: Place, run: Arc<Run>, invocation: Invocation) -> Outcome {
        let (function, id) = (Arc::clone(&run.function), run.id);
        let is_head = invocation.request.method() == http::Method::HEAD;
        let FunctionCode::Wasm { digest, kind } = function.spec().code else {
            let response = js::invoke(&run, place, invocation).await;
            return finish(
                response.filter(|_| !is_too_large(&run)),
                Guest { task: None, is_done: is_head },
                is_head,
                run,
            );
        };
        let code = match self.load(&run, digest, kind).await {
            Ok(code) => code,
            Err(error) => {
                tracing::error!(request_id = %id, app = %function.spec().app, function = %function.spec().function, %error, "cannot load a function");
                run.fail(ProblemCode::LoadFailed);
                return Err(answer_problem(&run));
            }
        };
        let (answer, task) = wasm::start(code, Arc::clone(&run), place, invocation);
        // The body of an answer to HEAD is dropped at once; that is not the client going away.
        let mut guest = Guest { task, is_done: is_head };
        let response = match answer.await {
            // Whatever the function made of half a body: the client is told why it was half.
            Ok(response) => Some(response).filter(|_| !is_too_large(&run)),
            Err(_) => {
                // A guest can give its only way to answer away before it ends; why it did is known at its end.
                if let Some(task) = &mut guest.task {
                    let _ = task.await;
                }
                None
            }
        };
        finish(response, guest, is_head, run)
    }

    /// Whether a delivery to the function would find a place now.
    pub fn has_place_for_delivery(&self, function: &Function) -> bool {
        self.deliveries.has_place_leaving(0)
            && self.sandboxes.has_place_leaving(0)
            && function.admission.has_place_leaving(kept_for_requests(function))
    }

    /// Loads a JavaScript function's module once, in a process that ends then, to see that it can be loaded.
    pub async fn check_js(self: &Arc<Self>, spec: FunctionSpec) -> Result<(), LoadFailure> {
        let function = Function::new(self, spec);
        self.js.check(&function).await
    }

    /// The stores and locks of functions.
    pub fn data(&self) -> &Data {
        &self.data
    }

    pub(crate) fn js(&self) -> &Arc<js::Engine> {
        &self.js
    }

    /// Ends the processes of the function that was idle longest. Answers how much memory that gives back.
    pub(crate) fn end_idlest(&self) -> Option<u64> {
        let warm = self.warm.lock().unwrap_or_else(PoisonError::into_inner);
        let functions: Vec<Arc<Function>> = warm.iter().filter_map(Weak::upgrade).collect();
        drop(warm);
        let idle = functions.iter().filter_map(|function| Some((function.js_if_any()?.idlest()?, function)));
        let mut idle: Vec<_> = idle.filter(|(idle, _)| *idle >= LEAST_IDLE).collect();
        idle.sort_unstable_by_key(|(idle, _)| std::cmp::Reverse(*idle));
        idle.into_iter().find_map(|(idle, function)| {
            let ended = function.js().end_idle(idle);
            (ended > 0).then_some(ended as u64 * function.spec().limits.memory_bytes)
        })
    }

    /// Compiles the code in a child process, unless that was done before, and tells what it is. Durable when it returns.
    pub async fn compile(&self, wasm: &std::path::Path, code: Digest) -> Result<crate::GuestKind, crate::CompileError> {
        let began = Instant::now();
        let kind = self.compiler.compile(&self.engines, wasm, code).await?;
        self.metrics.compiled(began.elapsed());
        Ok(kind)
    }

    /// What the code is, if it is compiled for this engine.
    pub fn compiled_kind(&self, code: &Digest) -> Option<crate::GuestKind> {
        self.compiler.kind(code)
    }

    /// Removes compiled code that nothing uses any more.
    pub fn remove_compiled(&self, code: &Digest) {
        self.code.remove(code);
        self.compiler.remove(code);
    }

    /// Returns once compiled code that is damaged was removed since the last call, so that it can be compiled again.
    pub async fn code_discarded(&self) {
        self.discarded.notified().await;
    }

    /// Drops code and warm instances that were idle for long, until the runtime is dropped.
    pub async fn sweep(this: Weak<Self>) {
        let Some(idle) = this.upgrade().map(|runtime| runtime.js.idle()) else { return };
        let mut tick = tokio::time::interval(SWEEP.min(idle / 2).max(Duration::from_millis(50)));
        loop {
            tick.tick().await;
            let Some(runtime) = this.upgrade() else { return };
            runtime.drop_idle(Instant::now());
        }
    }

    pub(crate) fn is_loaded(&self, code: &Digest) -> bool {
        self.code.peek(code).is_some()
    }

    /// Remembers that a function has warm instances, for the sweep.
    pub(crate) fn has_warm(&self, function: &Arc<Function>) {
        self.warm.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(function));
    }

    fn drop_idle(&self, now: Instant) {
        let mut warm = std::mem::take(&mut *self.warm.lock().unwrap_or_else(PoisonError::into_inner));
        warm.retain(|function| function.upgrade().is_some_and(|function| function.cool(now, WARM_IDLE)));
        self.warm.lock().unwrap_or_else(PoisonError::into_inner).append(&mut warm);
        let oldest = now.duration_since(self.began).saturating_sub(CODE_IDLE).as_secs();
        self.code.retain(|_, loaded| loaded.used_s.load(Relaxed) >= oldest);
        self.metrics.loaded_code_bytes().set(i64::try_from(self.code.weight()).unwrap_or(i64::MAX));
    }

    /// The code of the run's function, from the cache or from disk.
    async fn load(&self, run: &Arc<Run>, digest: Digest, kind: crate::GuestKind) -> Result<Arc<Code>, LoadError> {
        let now_s = run.started.duration_since(self.began).as_secs();
        if let Some(loaded) = self.code.get(&digest) {
            loaded.used_s.store(now_s, Relaxed);
            return Ok(Arc::clone(&loaded.code));
        }
        let load = async {
            run.cold.store(true, Relaxed);
            let began = Instant::now();
            let code = Arc::new(self.map(digest, kind).await?);
            run.function.metrics().loaded(began.elapsed());
            Ok(Arc::new(Loaded { code, used_s: AtomicU64::new(now_s) }))
        };
        let loaded = self.code.get_or_insert_async(&digest, load).await?;
        self.metrics.loaded_code_bytes().set(i64::try_from(self.code.weight()).unwrap_or(i64::MAX));
        Ok(Arc::clone(&loaded.code))
    }

    async fn map(&self, code: Digest, kind: crate::GuestKind) -> Result<Code, LoadError> {
        let path = self.compiler.artifact(&code, kind);
        let size = std::fs::metadata(&path).map_or(0, |file| file.len());
        let mapped = if size <= MAP_INLINE_BYTES {
            Code::load(&self.engines, &path, kind)
        } else {
            let (engines, path) = (self.engines.clone(), path.clone());
            let mapped = tokio::task::spawn_blocking(move || Code::load(&engines, &path, kind)).await;
            mapped.unwrap_or_else(|_| Err(LoadError::Stopped))
        };
        // Once: what does not compile again is a file that is not there, which is no reason to try anew.
        if let Err(LoadError::Map(error)) = &mapped
            && is_damaged(&path, error)
            && std::fs::remove_file(&path).is_ok()
        {
            tracing::warn!(%code, error = format!("{error:#}"), "compiled code is damaged; it is compiled again");
            self.discarded.notify_one();
        }
        mapped
    }
}

/// Whether an artifact that cannot be mapped is itself to blame: what it holds, or that it may not be read. The system may
/// have too many open files or no address space left, which passes; and code that begins with more memory than this node
/// allows any more is in order.
fn is_damaged(path: &Path, error: &wasmtime::Error) -> bool {
    // The pool's refusal has no type of its own; a test holds us to its words.
    if error.chain().any(|each| each.to_string().contains("pooling allocator requirements")) {
        return false;
    }
    let is_of_system =
        error.is::<io::Error>() || error.is::<rustix::io::Errno>() || error.is::<wasmtime::OutOfMemory>();
    match std::fs::File::open(path).and_then(|file| file.metadata()) {
        // The system maps no empty file.
        Ok(file) => !is_of_system || file.len() == 0,
        Err(error) => error.kind() == io::ErrorKind::PermissionDenied,
    }
}

/// The right to run: one of the function's places and one of the node's sandboxes.
pub(crate) struct Place {
    function: Arc<Function>,
    _counted: Held,
    /// Interrupts WebAssembly; a process is interrupted by the system.
    _ticking: Option<Ticking>,
    /// Whether it is one of those that deliveries may have.
    is_delivery: bool,
}

impl Place {
    async fn take(runtime: &Runtime, function: &Arc<Function>) -> Result<Self, ProblemCode> {
        let patience = function.spec().limits.timeout;
        let arrived = Instant::now();
        if !function.admission.try_enter() {
            let _counted = function.metrics().waiting();
            function.admission.enter(patience).await.map_err(|refused| match refused {
                Refused::Full => ProblemCode::Overloaded,
                Refused::TooLate => ProblemCode::QueueTimeout,
            })?;
        }
        let entered = Entered(function);
        // One patience for both queues.
        runtime
            .sandboxes
            .enter(patience.saturating_sub(arrived.elapsed()))
            .await
            .map_err(|_| ProblemCode::NodeOverloaded)?;
        std::mem::forget(entered);
        Ok(Self::of(runtime, function, false))
    }

    /// A place for a delivery: one that is free now, and that requests do not need. A delivery waits in no queue.
    pub(crate) fn try_take(runtime: &Runtime, function: &Arc<Function>) -> Option<Self> {
        if !runtime.deliveries.try_enter() {
            return None;
        }
        if !function.admission.try_enter_leaving(kept_for_requests(function)) {
            runtime.deliveries.leave();
            return None;
        }
        if !runtime.sandboxes.try_enter() {
            function.admission.leave();
            runtime.deliveries.leave();
            return None;
        }
        Some(Self::of(runtime, function, true))
    }

    fn of(runtime: &Runtime, function: &Arc<Function>, is_delivery: bool) -> Self {
        Self {
            function: Arc::clone(function),
            _counted: function.metrics().sandbox(),
            _ticking: matches!(function.spec().code, FunctionCode::Wasm { .. }).then(|| runtime.ticker.while_running()),
            is_delivery,
        }
    }
}

/// The places of a function that its deliveries leave to its requests: a quarter, where it has routes. One is left to deliveries in
/// any case.
fn kept_for_requests(function: &Function) -> u32 {
    let places = function.spec().limits.concurrency;
    if function.spec().has_routes { places.div_ceil(4).min(places.saturating_sub(1)) } else { 0 }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.is_delivery {
            self.function.runtime().deliveries.leave();
        }
        self.function.runtime().sandboxes.leave();
        self.function.admission.leave();
    }
}

/// A warm instance that waits for its next request. It holds a slot of the pool, so there are at most half as many as
/// sandboxes; the pool has that much more room.
pub(crate) struct IdleInstance(Arc<Runtime>);

impl IdleInstance {
    /// `None` when enough instances wait already; the instance is better dropped.
    pub(crate) fn begin(runtime: &Arc<Runtime>) -> Option<Self> {
        if runtime.idle.fetch_add(1, Relaxed) >= runtime.max_idle {
            runtime.idle.fetch_sub(1, Relaxed);
            return None;
        }
        Some(Self(Arc::clone(runtime)))
    }
}

impl Drop for IdleInstance {
    fn drop(&mut self) {
        self.0.idle.fetch_sub(1, Relaxed);
    }
}

/// Gives the function's place back when the request goes away while it waits for a sandbox.
struct Entered<'a>(&'a Function);

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.0.admission.leave();
    }
}

/// Makes of what a guest answered what the client gets. `None`: the run says why there is no answer.
fn finish(response: Option<http::Response<Body>>, guest: Guest, is_head: bool, run: Arc<Run>) -> Outcome {
    let Some(response) = response else { return Err(answer_problem(&run)) };
    match response::check(&response, is_head) {
        Ok(length) => {
            run.answered(response.status().as_u16());
            Ok(response.map_with_length(length, guest, run))
        }
        Err(error) => {
            run.fail(ProblemCode::InvalidResponse);
            run.log(Level::Error, LogSource::Node, format!("the response cannot be sent: {error}"));
            Err(answer_problem(&run))
        }
    }
}

fn problem(code: ProblemCode, id: RequestId) -> Box<Problem> {
    Box::new(Problem::new(code).request_id(id))
}

/// Whether the request's body grew beyond the function's limit.
fn is_too_large(run: &Run) -> bool {
    matches!(run.broken_request(), Some(BodyError::TooLarge(_)))
}

/// The problem that a run without an answer ends in.
fn answer_problem(run: &Run) -> Box<Problem> {
    if is_too_large(run) {
        run.fail(ProblemCode::RequestTooLarge);
    }
    let code = run.failure().unwrap_or_else(|| run.without_answer());
    run.answered(code.status());
    problem(code, run.id)
}

/// The task in which the guest runs. Dropping it stops the guest, unless it has sent all of its response.
struct Guest {
    task: Option<tokio::task::JoinHandle<()>>,
    is_done: bool,
}

impl Drop for Guest {
    fn drop(&mut self) {
        if let (Some(task), false) = (&self.task, self.is_done) {
            task.abort();
        }
    }
}

/// A response body that stops the guest when the client goes away before its end.
struct ResponseBody {
    inner: Body,
    guest: Guest,
    /// Bytes that are still to come, when the guest said how many there are.
    remaining: Option<u64>,
    /// Keeps the usage open until the body is through.
    run: Arc<Run>,
    /// Ends the body of what runs among others, and so in no task of its own: a call in a shared instance, an invocation in a
    /// process.
    deadline: Option<Pin<Box<tokio::time::Sleep>>>,
}

trait IntoResponseBody {
    fn map_with_length(self, length: Option<u64>, guest: Guest, run: Arc<Run>) -> http::Response<Body>;
}

impl IntoResponseBody for http::Response<Body> {
    fn map_with_length(self, remaining: Option<u64>, guest: Guest, run: Arc<Run>) -> http::Response<Body> {
        self.map(|inner| {
            let mut body = ResponseBody { inner, guest, remaining, run, deadline: None };
            body.guest.is_done |= body.inner.is_end_stream() || remaining == Some(0);
            body.boxed_unsync()
        })
    }
}

impl http_body::Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(cx);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                let sent = frame.data_ref().map_or(0, Bytes::len) as u64;
                // hyper drops a body of known length with its last byte, without asking for its end.
                self.remaining = self.remaining.map(|remaining| remaining.saturating_sub(sent));
                self.guest.is_done |= self.remaining == Some(0) || self.inner.is_end_stream();
            }
            // A guest that was stopped leaves a body that looks complete; the client must see that it is not.
            Poll::Ready(None) if self.run.failure().is_some() => return Poll::Ready(Some(Err(BodyError::Guest))),
            Poll::Ready(None) => self.guest.is_done = true,
            Poll::Ready(Some(Err(_))) => {}
            Poll::Pending if self.guest.task.is_none() => {
                let ends = self.run.started + self.run.function.spec().limits.timeout;
                let deadline = self.deadline.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(ends.into())));
                if deadline.as_mut().poll(cx).is_ready() {
                    // A shared instance tells it itself, as it has to end then.
                    if matches!(self.run.function.spec().code, FunctionCode::Js { .. }) {
                        wasm::note_timeout(&self.run);
                    }
                    return Poll::Ready(Some(Err(BodyError::Guest)));
                }
            }
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        // The end of a body whose guest was stopped is an error.
        self.inner.is_end_stream() && self.run.failure().is_none()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
