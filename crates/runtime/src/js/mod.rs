//! Runs JavaScript: Deno (V8) in a sandboxed process for each function, spoken to over a socket.
//!
//! Read `serve` (one invocation), `team` (the processes of one function), `process` (one of them), `watch` (what looks after it,
//! with `clock` for its CPU time), `output` (what it prints, with `lines` for how that is read, `stack` for where an error came
//! from and `last_words` for how it gives up), then this file: where processes come from. `sandbox` makes the walls and starts
//! Deno, `bootstrap` is what runs in it before the function, `tools` finds or installs Deno. `outbound` is the function's way
//! out, `websocket` what becomes of an upgraded connection.

mod clock;
mod data;
mod handlers;
mod last_words;
mod lines;
mod outbound;
mod output;
mod process;
pub mod sandbox;
mod serve;
mod stack;
mod team;
pub mod tools;
mod watch;
mod websocket;

use std::{
    collections::HashMap,
    io,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering::Relaxed},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::Response;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use minnow_model::{Limits, Tenant};
use minnow_store::Blobs;
use tokio::sync::{Notify, OnceCell, oneshot};

use self::{
    process::{CallGuard, Ending, Process},
    sandbox::{Sandbox, Walls},
    stack::{MAPS_BYTES, Maps, Stacks},
};
use crate::{
    Function, Runtime, StartError,
    function::FunctionCode,
    invocation::{Body, Upgrade, Upgraded},
    memory::MemoryBudget,
    meter::Run,
};

pub use process::LoadFailure;
pub(crate) use serve::invoke;
pub(crate) use team::Team;

/// What runs in a process before the function.
///
/// One module in several files, which share one scope.
const BOOTSTRAP: &str = concat!(
    include_str!("bootstrap/intrinsics.js"),
    include_str!("bootstrap/records.js"),
    include_str!("bootstrap/invocation.js"),
    include_str!("bootstrap/fetch.js"),
    include_str!("bootstrap/websocket.js"),
    include_str!("bootstrap/data.js"),
    include_str!("bootstrap/blobs.js"),
    include_str!("bootstrap/files.js"),
    include_str!("bootstrap/topics.js"),
    include_str!("bootstrap/events.js"),
    include_str!("bootstrap/seal.js"),
    include_str!("bootstrap/load.js"),
);

/// How long a process may take until it listens: some 30 ms on an idle machine.
const START: Duration = Duration::from_secs(20);

/// How long the pool keeps a process for functions with another memory limit than the default after one was needed.
const CLASS_KEPT: Duration = Duration::from_secs(10 * 60);

/// How long the WebSockets of a version stay open that is not live any more.
const RETIRED_WEBSOCKETS: Duration = Duration::from_secs(10);

/// How long the pool waits before it replaces a process that was taken. Starting one takes some 35 ms of a core.
const REFILL: Duration = Duration::from_millis(100);

/// How long the pool waits after a process did not start, before it tries again.
const RETRY: Duration = Duration::from_secs(10);

/// How a node runs JavaScript.
#[derive(Debug, Clone)]
pub struct JsConfig {
    /// Processes that are started before they are needed; 0 for none.
    pub pool: u32,
    /// How long a process stays without an invocation.
    pub idle: Duration,
    /// Run functions of several tenants although the machine forbids a wall of the sandbox.
    pub allow_missing_walls: bool,
}

impl Default for JsConfig {
    fn default() -> Self {
        Self { pool: 2, idle: Duration::from_secs(60), allow_missing_walls: false }
    }
}

/// How long a request waits for memory that ended processes give back.
const GIVE_BACK: Duration = Duration::from_secs(2);

/// What a process is started for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    /// A request that waits for it.
    Request,
    /// To stand beside another one that is busy.
    Help,
    /// To see whether the function can be loaded.
    Check,
}

/// Starts processes, and keeps some ready.
pub(crate) struct Engine {
    config: JsConfig,
    /// The executable that is run as `EXE js-sandbox`.
    launcher: PathBuf,
    /// Where Deno is installed when there is no other place.
    data_dir: PathBuf,
    blobs: Arc<Blobs>,
    maps: Maps,
    tokio: tokio::runtime::Handle,
    thread: mpsc::Sender<Box<dyn FnOnce() + Send>>,
    sandbox: OnceCell<Sandbox>,
    /// Why there is no sandbox, and when that was found out.
    unavailable: Mutex<Option<(Instant, LoadFailure)>>,
    cores: usize,
    /// Processes that are ready, by their memory limit.
    pool: Mutex<HashMap<u64, Vec<Arc<Process>>>>,
    /// When a memory limit was last asked for.
    classes: Mutex<HashMap<u64, Instant>>,
    /// Functions that are written in JavaScript, live or in their last invocations.
    functions: AtomicUsize,
    /// The pool has to be looked at.
    changed: Arc<Notify>,
    tenant: OnceLock<Tenant>,
    /// Whose memory the processes hold.
    runtime: OnceLock<Weak<Runtime>>,
}

impl Engine {
    /// Nothing is started or looked for until there is a function. Call on a multi-threaded tokio runtime: processes are
    /// watched there, since a worker of the gateway may be busy with a guest.
    pub(crate) fn new(
        config: JsConfig,
        launcher: PathBuf,
        data_dir: PathBuf,
        blobs: Arc<Blobs>,
    ) -> Result<Arc<Self>, StartError> {
        let (thread, jobs) = mpsc::channel::<Box<dyn FnOnce() + Send>>();
        // A sandbox asks to die with the thread that started it, so that it never outlives the node; this one lives as long
        // as the engine.
        let run = move || jobs.into_iter().for_each(|job| job());
        thread::Builder::new().name("minnow-js".into()).spawn(run).map_err(StartError::Thread)?;
        let engine = Arc::new(Self {
            config,
            launcher,
            data_dir,
            blobs,
            maps: Maps::new(MAPS_BYTES)?,
            tokio: tokio::runtime::Handle::current(),
            thread,
            sandbox: OnceCell::new(),
            unavailable: Mutex::default(),
            cores: thread::available_parallelism().map_or(1, usize::from),
            pool: Mutex::default(),
            classes: Mutex::default(),
            functions: AtomicUsize::new(0),
            changed: Arc::default(),
            tenant: OnceLock::new(),
            runtime: OnceLock::new(),
        });
        engine.tokio.spawn(Self::fill(Arc::downgrade(&engine), Arc::clone(&engine.changed)));
        Ok(engine)
    }

    /// Tells whose memory the processes hold. Nothing can be started before.
    pub(crate) fn belongs_to(&self, runtime: &Arc<Runtime>) {
        let _ = self.runtime.set(Arc::downgrade(runtime));
    }

    pub(crate) fn blobs(&self) -> &Blobs {
        &self.blobs
    }

    fn maps(&self) -> &Maps {
        &self.maps
    }

    fn cores(&self) -> usize {
        self.cores
    }

    /// Where tasks run that outlive an invocation.
    fn spawner(&self) -> &tokio::runtime::Handle {
        &self.tokio
    }

    /// There is one more function in JavaScript.
    pub(crate) fn add_function(&self) {
        if self.functions.fetch_add(1, Relaxed) == 0 {
            self.changed.notify_one();
        }
    }

    pub(crate) fn remove_function(&self) {
        if self.functions.fetch_sub(1, Relaxed) == 1 {
            self.changed.notify_one();
        }
    }

    /// How long a process stays without an invocation.
    pub(crate) fn idle(&self) -> Duration {
        self.config.idle
    }

    /// A process with the function's module in it.
    async fn start(&self, function: &Arc<Function>, use_of: Use) -> Result<Arc<Process>, LoadFailure> {
        self.admit(&function.spec().tenant).await?;
        let FunctionCode::Js { module, .. } = function.spec().code else {
            return Err(LoadFailure::Unavailable("the function is not JavaScript".into()));
        };
        let path = self.blobs.path(&module);
        let module = tokio::fs::read(&path).await.map(Bytes::from).map_err(|error| {
            tracing::error!(path = %path.display(), %error, "a function's module cannot be read");
            LoadFailure::Unavailable("the function's module cannot be read".into())
        })?;
        let memory = function.spec().limits.memory_bytes;
        if use_of == Use::Request {
            self.classes().insert(memory, Instant::now());
        }
        if let Some(process) = self.take(memory) {
            let process = Loading(Some(process));
            match process.load(function, &module).await {
                // It died in the pool: a new one is no worse for that.
                Err(_) if process.is_unused() => {}
                Err(failure) => return Err(failure),
                Ok(()) => return process.done(),
            }
        }
        let process = Loading(Some(self.new_process(memory, use_of != Use::Help).await?));
        process.load(function, &module).await?;
        process.done()
    }

    /// Loads the function's module once, to see that it can be loaded, and that it has a handler for all that the function is run for.
    pub(crate) async fn check(&self, function: &Arc<Function>) -> Result<(), LoadFailure> {
        let process = self.start(function, Use::Check).await?;
        process.end(Ending::Unneeded);
        let lacks = process.handlers().lacks(function.spec());
        if lacks.is_empty() { Ok(()) } else { Err(LoadFailure::Module(lacks.join("; "))) }
    }

    /// Where the machine forbids a wall, only one tenant's functions may run: what is behind it is its own.
    async fn admit(&self, tenant: &Tenant) -> Result<(), LoadFailure> {
        let walls = self.sandbox().await?.walls();
        let first = self.tenant.get_or_init(|| tenant.clone());
        if first == tenant || self.config.allow_missing_walls || walls.keeps_tenants_apart() {
            return Ok(());
        }
        Err(LoadFailure::Unavailable(
            "this machine forbids walls of the sandbox, so that JavaScript of one tenant only is run; js.allow_missing_walls \
             in the node's config allows more"
                .into(),
        ))
    }

    fn take(&self, memory: u64) -> Option<Arc<Process>> {
        let mut pool = self.pool();
        let ready = pool.get_mut(&memory)?;
        let found = std::iter::from_fn(|| ready.pop()).find(|process| !process.has_ended());
        drop(pool);
        self.changed.notify_one();
        found
    }

    /// Starts a process that waits for its function.
    ///
    /// `is_needed`: processes that are idle go for it, when too little memory is left.
    async fn new_process(&self, memory: u64, is_needed: bool) -> Result<Arc<Process>, LoadFailure> {
        let reserved = self.reserve(memory, is_needed).await.ok_or(LoadFailure::Full)?;
        let unavailable = |error: io::Error| {
            tracing::error!(%error, "a process for JavaScript cannot be started");
            LoadFailure::Unavailable("a process for JavaScript cannot be started".into())
        };
        let sandbox = self.sandbox().await?.clone();
        let started = self.on_thread(move || sandbox.start(memory)).await.ok_or_else(stopping)?;
        let started = started.map_err(io::Error::other).map_err(unavailable)?;
        let watched = {
            let _here = self.tokio.enter();
            Process::new(started, reserved).map_err(unavailable)?
        };
        let failed = match tokio::time::timeout(START, watched.ready()).await {
            Ok(Ok(())) => return Ok(watched),
            Ok(Err(ending)) => format!("{ending:?}"),
            Err(_) => format!("it does not listen after {}", humantime::format_duration(START)),
        };
        watched.end(Ending::Unneeded);
        Err(unavailable(io::Error::other(failed)))
    }

    /// Deno and the walls of this machine, found out on first use.
    async fn sandbox(&self) -> Result<&Sandbox, LoadFailure> {
        let find = async {
            let tools = tools::Tools::of_environment(Some(&self.data_dir));
            let found = tools.provide(tools::Tool::Deno, &|step| tracing::info!("{step}")).await.map_err(|error| {
                let remedy = error.remedy();
                tracing::error!(%error, remedy, "JavaScript cannot be run");
                LoadFailure::Unavailable(format!("{error}; {remedy}"))
            })?;
            let launcher = self.launcher.clone();
            let prepare = move || Sandbox::prepare(&found.path, &launcher, BOOTSTRAP);
            let sandbox = self.on_thread(prepare).await.ok_or_else(stopping)?.map_err(|error| {
                tracing::error!(%error, "JavaScript cannot be run");
                LoadFailure::Unavailable(format!("the sandbox for JavaScript cannot be set up: {error}"))
            })?;
            tell_walls(sandbox.walls());
            Ok(sandbox)
        };
        if let Some((found, failure)) = &*self.unavailable()
            && found.elapsed() < RETRY
        {
            return Err(failure.clone());
        }
        self.sandbox.get_or_try_init(|| find).await.inspect_err(|failure: &LoadFailure| {
            *self.unavailable() = Some((Instant::now(), failure.clone()));
        })
    }

    /// Runs blocking work on the thread that starts processes. `None` when the engine is gone.
    async fn on_thread<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let (done, result) = oneshot::channel();
        let job = move || {
            // Nobody waits any more: what was started is dropped, and ends.
            let _ = done.send(work());
        };
        self.thread.send(Box::new(job)).ok()?;
        result.await.ok()
    }

    /// Takes memory from what all sandboxes of the node may hold. For a process that `is_needed`, those that are idle go when too
    /// little is left: first of the pool, then those that were idle longest.
    async fn reserve(&self, bytes: u64, is_needed: bool) -> Option<Reserved> {
        let runtime = self.runtime.get().and_then(Weak::upgrade)?;
        let end_one = || self.end_pooled().or_else(|| runtime.end_idlest());
        let has_taken =
            runtime.memory.take(bytes) || is_needed && runtime.memory.take_within(GIVE_BACK, bytes, end_one).await;
        has_taken.then(|| Reserved { memory: Arc::clone(&runtime.memory), bytes })
    }

    /// Ends a process of the pool. Answers how much memory that gives back.
    fn end_pooled(&self) -> Option<u64> {
        let mut pool = self.pool();
        let (memory, process) = pool.iter_mut().find_map(|(memory, ready)| Some((*memory, ready.pop()?)))?;
        drop(pool);
        process.end(Ending::Unneeded);
        Some(memory)
    }

    /// Keeps the pool filled, until the engine is dropped.
    async fn fill(engine: Weak<Self>, changed: Arc<Notify>) {
        loop {
            let Some(this) = engine.upgrade() else { return };
            let wait = match this.fill_once().await {
                Ok(()) => CLASS_KEPT,
                Err(()) => RETRY,
            };
            drop(this);
            if tokio::time::timeout(wait, changed.notified()).await.is_ok() {
                // Whoever took a process is loading its function now, and its client waits.
                tokio::time::sleep(REFILL).await;
            }
        }
    }

    /// Starts what the pool lacks, one process after the other, and ends what nobody needs.
    async fn fill_once(&self) -> Result<(), ()> {
        let mut failed = Vec::new();
        loop {
            let wanted = self.wanted();
            let lacking = {
                let mut pool = self.pool();
                for (memory, ready) in pool.iter_mut() {
                    ready.retain(|process| !process.has_ended());
                    let most = wanted.iter().find(|(wanted, _)| wanted == memory).map_or(0, |(_, most)| *most);
                    ready.drain(..ready.len().saturating_sub(most)).for_each(|process| process.end(Ending::Unneeded));
                }
                pool.retain(|_, ready| !ready.is_empty());
                let has = |memory: &u64| pool.get(memory).map_or(0, Vec::len);
                let lacks = |(memory, most): &&(u64, usize)| has(memory) < *most && !failed.contains(memory);
                wanted.iter().find(lacks).map(|(memory, _)| *memory)
            };
            let Some(memory) = lacking else { return if failed.is_empty() { Ok(()) } else { Err(()) } };
            match self.new_process(memory, false).await {
                Ok(process) => self.pool().entry(memory).or_default().push(process),
                // Of another size one may start all the same.
                Err(_) => failed.push(memory),
            }
        }
    }

    /// How many processes should be ready, by memory limit: the pool for the default limit first, then one for each other limit
    /// that was needed lately.
    fn wanted(&self) -> Vec<(u64, usize)> {
        let mut classes = self.classes();
        classes.retain(|_, used| used.elapsed() < CLASS_KEPT);
        if self.functions.load(Relaxed) == 0 || self.config.pool == 0 {
            return Vec::new();
        }
        let default = Limits::default().memory_bytes;
        let mut lately: Vec<(Instant, u64)> = classes.iter().map(|(memory, used)| (*used, *memory)).collect();
        drop(classes);
        lately.retain(|(_, memory)| *memory != default);
        lately.sort_unstable_by(|one, other| other.cmp(one));
        let others = lately.into_iter().take(self.config.pool as usize).map(|(_, memory)| (memory, 1));
        [(default, self.config.pool as usize)].into_iter().chain(others).collect()
    }

    fn unavailable(&self) -> MutexGuard<'_, Option<(Instant, LoadFailure)>> {
        self.unavailable.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pool(&self) -> MutexGuard<'_, HashMap<u64, Vec<Arc<Process>>>> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn classes(&self) -> MutexGuard<'_, HashMap<u64, Instant>> {
        self.classes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A process that is given its function. It ends unless it gets it.
struct Loading(Option<Arc<Process>>);

impl Loading {
    async fn load(&self, function: &Arc<Function>, module: &Bytes) -> Result<(), LoadFailure> {
        let Some(process) = &self.0 else { return Err(stopping()) };
        match process.load(function, module.clone()).await {
            Err(LoadFailure::Module(message)) => {
                Err(LoadFailure::Module(Stacks::default().mapped(function, message).await))
            }
            loaded => loaded,
        }
    }

    /// It has it.
    fn done(mut self) -> Result<Arc<Process>, LoadFailure> {
        self.0.take().ok_or_else(stopping)
    }

    /// Nothing of a function was given to it.
    fn is_unused(&self) -> bool {
        self.0.as_ref().is_none_or(|process| process.function.get().is_none())
    }
}

impl Drop for Loading {
    fn drop(&mut self) {
        if let Some(process) = &self.0 {
            process.end(Ending::Unneeded);
        }
    }
}

/// What a process holds of the node's memory, given back when it is dropped.
struct Reserved {
    memory: Arc<MemoryBudget>,
    bytes: u64,
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.memory.give_back_loudly(self.bytes);
    }
}

/// What the client gets whose request the process upgraded to a WebSocket. The tunnel runs on this thread.
fn upgraded(run: &Arc<Run>, call: CallGuard, mut response: Response<Incoming>, upgrade: Upgrade) -> Response<Body> {
    let guest = hyper::upgrade::on(&mut response);
    let Upgrade { client, mut stop } = upgrade;
    let (run, retired) = (Arc::clone(run), run.function.js().retired());
    tokio::spawn(async move {
        let Ok((client, guest)) = tokio::try_join!(client, guest) else { return };
        let going_away = async {
            let stops = async { drop(stop.wait_for(Option::is_some).await) };
            let is_retired = async {
                retired.cancelled().await;
                tokio::time::sleep(RETIRED_WEBSOCKETS).await;
            };
            tokio::select! {
                () = stops => {}
                () = is_retired => {}
            }
        };
        let ended = websocket::tunnel(client, guest, going_away).await;
        tracing::debug!(request_id = %run.id, ?ended, "a WebSocket has ended");
        run.returned();
        drop(call);
    });
    let (mut parts, _) = response.into_parts();
    parts.extensions.insert(Upgraded);
    Response::from_parts(parts, Empty::new().map_err(|never| match never {}).boxed_unsync())
}

/// The thread that starts processes is gone.
fn stopping() -> LoadFailure {
    LoadFailure::Unavailable("the node is stopping".into())
}

/// Says which walls this machine forbids.
fn tell_walls(walls: &Walls) {
    for missing in walls.missing() {
        tracing::warn!(wall = %missing.wall, reason = %missing.reason, "this machine forbids a wall of the sandbox for JavaScript");
    }
}
