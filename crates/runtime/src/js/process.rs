//! One Deno process: how it is spoken to and ended. `watch` looks after it.

use std::{
    collections::{HashMap, VecDeque},
    io,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak,
        atomic::{
            AtomicBool, AtomicI32, AtomicU64,
            Ordering::{Relaxed, SeqCst},
        },
    },
    thread::{self, ThreadId},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Method, Request, header::HOST};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use minnow_model::{Limits, RequestId, StoreKind, problem::Code};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::{Notify, watch},
};

use super::{
    Reserved,
    clock::{Began, Clock, CpuClock},
    data::{self, HeldLocks, HeldOpen},
    handlers::Handlers,
    outbound,
    sandbox::{Running, Started},
};
use crate::{Function, invocation::Body, meter::Run, runtime::Place};

/// How often a process is looked at while something runs in it: as exact as CPU time is enforced.
pub(super) const TICK: Duration = Duration::from_millis(10);

/// How many invocations are remembered after their end. A line is read some milliseconds after it was printed.
const ENDED_CALLS: usize = 1024;

/// Connections to one process that wait for a request, of all threads together. Each is a descriptor of the process
/// (`sandbox::start`); a gateway that has more at once than this opens others.
const MAX_IDLE: usize = 128;

/// How long the node waits to learn why a process ended whose connection broke off.
const ENDING: Duration = Duration::from_millis(500);

/// The longest head of a response, in bytes; as for WebAssembly.
pub(super) const MAX_HEAD_BYTES: usize = 64 << 10;

/// What loading a module may take at the least, whatever the limits of one invocation are, and at most.
const LEAST_LOAD_CPU: Duration = Duration::from_secs(1);
const LEAST_LOAD_TIME: Duration = Duration::from_secs(5);
const MOST_LOAD_TIME: Duration = Duration::from_secs(10);

pub(super) static REQUEST: http::HeaderName = http::HeaderName::from_static("x-minnow-request");
static BOOT: http::HeaderName = http::HeaderName::from_static("x-minnow-boot");
pub(super) static PING: http::HeaderName = http::HeaderName::from_static("x-minnow-ping");

/// Why a process ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ending {
    /// It was not needed any more.
    Unneeded,
    /// It used more CPU time than an invocation may, or computed without end.
    Cpu,
    /// It gave no sign of life for as long as an invocation may take.
    Stuck,
    /// It needed more memory than its limit.
    Memory,
    /// It ended by itself: how.
    Crashed(String),
}

impl Ending {
    /// What a client is told whose invocation was running.
    pub(super) fn code(&self) -> Code {
        match self {
            Self::Unneeded => Code::ShuttingDown,
            Self::Cpu => Code::CpuLimit,
            Self::Stuck => Code::Timeout,
            Self::Memory => Code::MemoryLimit,
            Self::Crashed(_) => Code::FunctionExited,
        }
    }

    /// What happened, for the log: `was stopped: …`.
    pub(super) fn describe(&self, limits: &Limits) -> String {
        match self {
            Self::Unneeded => "was stopped, since it was not needed any more".into(),
            Self::Cpu => {
                let cpu = humantime::format_duration(limits.cpu);
                format!("was stopped: an invocation used more CPU time than limits.cpu = {cpu}")
            }
            Self::Stuck => {
                let timeout = humantime::format_duration(limits.timeout);
                format!("was stopped: it did nothing, and answered nothing, for limits.timeout = {timeout}")
            }
            Self::Memory => {
                let memory = bytesize::ByteSize::b(limits.memory_bytes).display().iec();
                format!("was stopped: it needed more memory than limits.memory = {memory}")
            }
            Self::Crashed(how) => format!("ended by itself: {how}"),
        }
    }

    /// Whether the function is to blame.
    pub(super) fn is_fault(&self) -> bool {
        *self != Self::Unneeded
    }
}

/// Why a function's module could not be loaded.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LoadFailure {
    /// The module itself: what the bootstrap says of it.
    #[error("{0}")]
    Module(String),
    #[error("the module was not loaded within {}; a top-level `await` that never ends, or an endless loop?", humantime::format_duration(*.0))]
    Timeout(Duration),
    #[error("loading the module took more than {} of CPU time; an endless loop at its top level?", humantime::format_duration(*.0))]
    Cpu(Duration),
    #[error("loading the module needed more memory than limits.memory")]
    Memory,
    #[error("the process ended while it loaded the module: {0}")]
    Crashed(String),
    #[error("{0}")]
    Unavailable(String),
    /// The node has no memory left for another process.
    #[error("the node has no more memory for sandboxes (sandboxes.memory)")]
    Full,
    /// The function's processes keep dying.
    #[error("the function keeps failing; it is started again in {}", humantime::format_duration(*.0))]
    HeldBack(Duration),
}

impl LoadFailure {
    /// The code that a publish answers with.
    pub fn publish_code(&self) -> Code {
        match self {
            Self::Unavailable(_) => Code::JavascriptUnavailable,
            Self::Full => Code::NodeOverloaded,
            _ => Code::CompileFailed,
        }
    }
}

/// One process.
pub(super) struct Process {
    pub(super) running: Running,
    pub(super) clock: Clock<ProcessCpu>,
    /// Where the function's outbound requests come in, and its calls to its stores; taken when it is loaded.
    ways_out: Mutex<Option<WaysOut>>,
    /// Connections that wait for a request, the one that waits longest first.
    idle: Mutex<VecDeque<(ThreadId, SendRequest<Body>)>>,
    calls: Mutex<Calls>,
    next_call: AtomicU64,
    /// The function that it serves, once that is loaded.
    pub(super) function: OnceLock<Weak<Function>>,
    /// What the function's module handles, once that is loaded.
    handlers: OnceLock<Handlers>,
    /// Why it is being ended; the first reason stays.
    pub(super) asked: OnceLock<Ending>,
    pub(super) ended: watch::Sender<Option<Ending>>,
    /// The function is loaded: the process may be paused.
    pub(super) is_loaded: AtomicBool,
    /// It gets no more invocations, and ends with those that it has.
    is_retired: AtomicBool,
    pub(super) is_ready: watch::Sender<bool>,
    /// Wakes the watch when the process goes on after a pause.
    pub(super) resumed: Notify,
    pub(super) is_busy: AtomicBool,
    pub(super) memory_bytes: AtomicU64,
    used: Mutex<Instant>,
    /// Gives back what the process holds of the node's memory.
    _reserved: Reserved,
}

/// The sockets on which the node hears a function.
struct WaysOut {
    egress: std::os::unix::net::UnixListener,
    data: std::os::unix::net::UnixListener,
}

pub(super) struct ProcessCpu(Running);

impl CpuClock for ProcessCpu {
    fn cpu_ns(&self) -> Option<u64> {
        self.0.cpu_ns()
    }
}

/// The invocations of one process.
#[derive(Default)]
struct Calls {
    /// By the number under which the process knows them: a client may give two requests the same id, that of its trace.
    open: HashMap<u64, Arc<Call>>,
    /// The last that ended, with their ids: what they printed may be read later.
    ended: VecDeque<(u64, RequestId)>,
}

/// One invocation in a process.
pub(super) struct Call {
    number: u64,
    pub(super) run: Arc<Run>,
    pub(super) began: Mutex<Began>,
    /// The response is through, or nobody waits for it any more; what `waitUntil` was given goes on.
    is_over: AtomicBool,
    /// How often the process announced work of `waitUntil`, less how often it was done. Below zero for a moment when the record
    /// of the end is read before the head of the response that announces the work.
    waits: AtomicI32,
    /// A WebSocket stays open for hours: the CPU limit holds for each of its events, not for all together.
    pub(super) is_upgraded: AtomicBool,
    /// Given up when the invocation ends.
    pub(super) locks: HeldLocks,
    /// Blobs and files that it is reading and writing, which end with it too.
    pub(super) open: HeldOpen,
    _place: Arc<Place>,
}

impl Call {
    /// Work of `waitUntil` goes on after the response.
    pub(super) fn waits(&self) {
        self.waits.fetch_add(1, SeqCst);
    }

    /// Whether only work of `waitUntil` is left of it.
    pub(super) fn only_waits(&self) -> bool {
        self.is_over.load(SeqCst) && self.waits.load(SeqCst) > 0
    }
}

impl Process {
    /// Watches over a process that was just started, on the current runtime.
    pub(super) fn new(started: Started, reserved: Reserved) -> io::Result<Arc<Self>> {
        let Started { running, stdout, stderr, egress, data } = started;
        let process = Arc::new(Self {
            clock: Clock::new(ProcessCpu(running.clone())),
            running,
            ways_out: Mutex::new(Some(WaysOut { egress, data })),
            idle: Mutex::default(),
            calls: Mutex::default(),
            next_call: AtomicU64::new(0),
            function: OnceLock::new(),
            handlers: OnceLock::new(),
            asked: OnceLock::new(),
            ended: watch::Sender::new(None),
            is_loaded: AtomicBool::new(false),
            is_retired: AtomicBool::new(false),
            is_ready: watch::Sender::new(false),
            resumed: Notify::new(),
            is_busy: AtomicBool::new(false),
            memory_bytes: AtomicU64::new(0),
            used: Mutex::new(Instant::now()),
            _reserved: reserved,
        });
        let stdout = tokio::net::unix::pipe::Receiver::from_owned_fd(stdout)?;
        let stderr = tokio::net::unix::pipe::Receiver::from_owned_fd(stderr)?;
        tokio::spawn(Arc::clone(&process).watch(stdout, stderr));
        Ok(process)
    }

    /// What the function's module handles; nothing before it is loaded.
    pub(super) fn handlers(&self) -> Handlers {
        self.handlers.get().copied().unwrap_or_default()
    }

    /// Waits until the process listens.
    pub(super) async fn ready(&self) -> Result<(), Ending> {
        let (mut ready, mut ended) = (self.is_ready.subscribe(), self.ended.subscribe());
        tokio::select! {
            biased;
            _ = ready.wait_for(|is_ready| *is_ready) => Ok(()),
            ending = ended.wait_for(Option::is_some) => {
                Err(ending.ok().and_then(|ending| ending.clone()).unwrap_or(Ending::Unneeded))
            }
        }
    }

    /// Gives the process its function. It serves no other one from then on.
    pub(super) async fn load(self: &Arc<Self>, function: &Arc<Function>, module: Bytes) -> Result<(), LoadFailure> {
        // Before the watch knows the function: it pauses what has been idle for long.
        let began = self.clock.begin(|| self.go_on()).ok_or_else(|| LoadFailure::Crashed("it was ended".into()))?;
        let loaded = match self.connect().await {
            Ok(sender) => self.load_into(function, module, &began, sender).await,
            Err(error) => Err(LoadFailure::Crashed(format!("it takes no connection: {error}"))),
        };
        let loaded = loaded.map(|handlers| {
            let _ = self.handlers.set(handlers);
        });
        self.clock.end(&began, loaded.is_ok());
        self.touch();
        self.is_loaded.store(loaded.is_ok(), Relaxed);
        loaded
    }

    async fn load_into(
        self: &Arc<Self>,
        function: &Arc<Function>,
        module: Bytes,
        began: &Began,
        sender: SendRequest<Body>,
    ) -> Result<Handlers, LoadFailure> {
        let spec = function.spec();
        let _ = self.function.set(Arc::downgrade(function));
        // From now on there is something to watch.
        self.resumed.notify_one();
        let broken = |error: io::Error| LoadFailure::Crashed(error.to_string());
        let ways_out = self.ways_out.lock().unwrap_or_else(PoisonError::into_inner).take();
        let WaysOut { egress, data } =
            ways_out.ok_or_else(|| LoadFailure::Crashed("it has a function already".into()))?;
        let listen = |listener: std::os::unix::net::UnixListener| {
            listener.set_nonblocking(true)?;
            UnixListener::from_std(listener)
        };
        tokio::spawn(Arc::clone(self).let_out(listen(egress).map_err(broken)?, Arc::downgrade(function)));
        let data_key = data::Key::new().map_err(broken)?;
        let told_key = data_key.as_str().to_owned();
        if !spec.granted.is_empty() {
            tokio::spawn(Arc::clone(self).serve_data(
                listen(data).map_err(broken)?,
                data_key,
                Arc::downgrade(function),
            ));
        }
        // Those that are not shared any more too: who uses one is told so by the gate.
        let stores = StoreKind::ALL.into_iter().flat_map(|kind| {
            let granted = spec.granted.of(kind).iter().map(|(name, granted)| (name, &granted.variable));
            let withdrawn = spec.granted.withdrawn.iter().filter(move |store| store.kind == kind);
            let all = granted.chain(withdrawn.map(|store| (&store.name, &store.variable)));
            all.map(move |(name, variable)| serde_json::json!({ "kind": kind, "name": name, "variable": variable }))
        });
        let stores: Vec<_> = stores.collect();
        let head = serde_json::json!({
            "app": spec.app, "version": spec.version, "function": spec.function, "env": &*spec.env,
            "stores": stores, "locks": spec.granted.locks, "data_key": told_key,
            "timeout_ms": u64::try_from(spec.limits.timeout.as_millis()).unwrap_or(u64::MAX), "module_bytes": module.len(),
        });
        let body = [head.to_string().into_bytes(), b"\n".to_vec(), module.to_vec()].concat();
        let request = Request::builder()
            .method(Method::POST)
            .uri("/load")
            .header(&BOOT, "1")
            .header(HOST, "localhost")
            .body(full(body.into()))
            .map_err(|error| LoadFailure::Crashed(error.to_string()))?;
        self.watch_load(post_load(sender, request), began, &spec.limits).await
    }

    async fn watch_load(
        &self,
        loading: impl Future<Output = Option<Result<Handlers, LoadFailure>>>,
        began: &Began,
        limits: &Limits,
    ) -> Result<Handlers, LoadFailure> {
        let most_cpu = limits.cpu.max(LEAST_LOAD_CPU);
        let most_time = limits.timeout.clamp(LEAST_LOAD_TIME, MOST_LOAD_TIME);
        let mut loading = std::pin::pin!(loading);
        let mut ticks = tokio::time::interval(TICK);
        let ends = Instant::now() + most_time;
        loop {
            tokio::select! {
                loaded = &mut loading => return match loaded {
                    Some(loaded) => loaded,
                    // The connection broke off: it is known soon why.
                    None => Err(match self.ending().await {
                        Some(Ending::Memory) => LoadFailure::Memory,
                        Some(Ending::Cpu) => LoadFailure::Cpu(most_cpu),
                        Some(Ending::Crashed(how)) => LoadFailure::Crashed(how),
                        Some(Ending::Unneeded | Ending::Stuck) | None => LoadFailure::Crashed("the connection broke off".into()),
                    }),
                },
                now = ticks.tick() => {
                    if self.clock.look().of(began) > nanoseconds(most_cpu) {
                        self.end(Ending::Cpu);
                        return Err(LoadFailure::Cpu(most_cpu));
                    }
                    if now.into_std() > ends {
                        self.end(Ending::Unneeded);
                        return Err(LoadFailure::Timeout(most_time));
                    }
                }
            }
        }
    }

    /// Serves the function's stores until the process has ended.
    async fn serve_data(self: Arc<Self>, listener: UnixListener, key: data::Key, function: Weak<Function>) {
        let mut ended = self.ended.subscribe();
        let process = Arc::downgrade(&self);
        drop(self);
        let calls = move |number: RequestId| process.upgrade()?.call(number);
        tokio::select! {
            _ = ended.wait_for(Option::is_some) => {}
            () = data::serve(listener, key, function, calls) => {}
        }
    }

    /// Serves the function's way out until the process has ended.
    async fn let_out(self: Arc<Self>, listener: UnixListener, function: Weak<Function>) {
        let mut ended = self.ended.subscribe();
        let process = Arc::downgrade(&self);
        drop(self);
        let trace = move |number: RequestId| {
            let call = process.upgrade()?.call(number)?;
            Some((call.run.id, call.run.trace))
        };
        tokio::select! {
            _ = ended.wait_for(Option::is_some) => {}
            () = outbound::serve(listener, function, trace) => {}
        }
    }

    /// An invocation begins. Drop what is returned when its response is through. `None`: the process takes none any more.
    pub(super) fn begin(self: &Arc<Self>, run: &Arc<Run>, place: &Arc<Place>) -> Option<CallGuard> {
        let began = self.clock.begin(|| self.go_on())?;
        let call = Arc::new(Call {
            number: self.next_call.fetch_add(1, Relaxed),
            run: Arc::clone(run),
            began: Mutex::new(began),
            is_over: AtomicBool::new(false),
            waits: AtomicI32::new(0),
            is_upgraded: AtomicBool::new(false),
            locks: HeldLocks::default(),
            open: HeldOpen::default(),
            _place: Arc::clone(place),
        });
        self.calls().open.insert(call.number, Arc::clone(&call));
        Some(CallGuard { process: Arc::clone(self), call, is_through: false })
    }

    /// Goes on after a pause.
    fn go_on(&self) {
        self.running.resume();
        self.resumed.notify_one();
    }

    /// Work of `waitUntil` that was announced is done.
    pub(super) fn done(&self, call: &Call) {
        call.waits.fetch_sub(1, SeqCst);
        self.settle(call, true);
    }

    /// Ends the invocation if nothing of it is left. `is_alive`: the process itself has come to this.
    pub(super) fn settle(&self, call: &Call, is_alive: bool) {
        // Of two who note the last things at once, at least one sees both: hence `SeqCst`.
        let is_over = call.is_over.load(SeqCst);
        if is_over && (call.waits.load(SeqCst) <= 0 || self.ended.borrow().is_some()) {
            self.finish(call, is_alive);
        }
    }

    /// Ends the invocation, whatever is left of it. False when it had ended before.
    pub(super) fn finish(&self, call: &Call, is_alive: bool) -> bool {
        {
            let mut calls = self.calls();
            if calls.open.remove(&call.number).is_none() {
                return false;
            }
            if calls.ended.len() >= ENDED_CALLS {
                calls.ended.pop_front();
            }
            calls.ended.push_back((call.number, call.run.id));
        }
        call.locks.release();
        call.open.release();
        let began = *call.began.lock().unwrap_or_else(PoisonError::into_inner);
        call.run.meter.charge_ns(self.clock.end(&began, is_alive));
        call.run.holds_memory(self.memory_bytes.load(Relaxed));
        self.touch();
        if self.is_retired() && self.clock.close_if_idle() {
            self.end(Ending::Memory);
        }
        true
    }

    /// The invocation only rests from now on: its response streams, or is through.
    fn rest(&self, call: &Call) {
        self.clock.rest(&mut call.began.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// The process found no memory. It gets no more invocations: what fills it may be held for good, and every other one would
    /// fail for it.
    pub(super) fn retire(&self) {
        self.is_retired.store(true, Relaxed);
    }

    pub(super) fn is_retired(&self) -> bool {
        self.is_retired.load(Relaxed)
    }

    /// A connection of this thread's: one that is idle, or a new one.
    pub(super) async fn connection(&self) -> io::Result<SendRequest<Body>> {
        loop {
            let idle = {
                let here = thread::current().id();
                let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
                let found = idle.iter().rposition(|(thread, _)| *thread == here);
                found.and_then(|index| idle.remove(index))
            };
            match idle {
                Some((_, mut sender)) => {
                    if sender.ready().await.is_ok() {
                        return Ok(sender);
                    }
                }
                None => return self.connect().await,
            }
        }
    }

    /// Keeps a connection for the next request of this thread.
    pub(super) fn keep(&self, sender: SendRequest<Body>) {
        if sender.is_closed() {
            return;
        }
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() >= MAX_IDLE {
            idle.pop_front();
        }
        idle.push_back((thread::current().id(), sender));
    }

    pub(super) async fn connect(&self) -> io::Result<SendRequest<Body>> {
        let socket = UnixStream::connect(self.running.http_socket()).await?;
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(MAX_HEAD_BYTES)
            .handshake(TokioIo::new(socket))
            .await
            .map_err(io::Error::other)?;
        tokio::spawn(connection.with_upgrades());
        Ok(sender)
    }

    /// Ends the process.
    pub(super) fn end(&self, why: Ending) {
        let _ = self.asked.set(why);
        self.running.kill();
    }

    pub(super) fn has_ended(&self) -> bool {
        self.asked.get().is_some() || self.ended.borrow().is_some()
    }

    /// Ends the process unless something runs in it. Answers whether it has ended.
    pub(super) fn end_if_idle(&self) -> bool {
        let is_idle = self.clock.close_if_idle();
        if is_idle {
            self.end(Ending::Unneeded);
        }
        is_idle
    }

    /// Why the process ended, if it does within a moment.
    pub(super) async fn ending(&self) -> Option<Ending> {
        let mut ended = self.ended.subscribe();
        let ending = tokio::time::timeout(ENDING, ended.wait_for(Option::is_some)).await;
        ending.ok()?.ok()?.clone()
    }

    /// Invocations in it now.
    pub(super) fn load_of(&self) -> u32 {
        self.clock.running()
    }

    pub(super) fn is_busy(&self) -> bool {
        self.is_busy.load(Relaxed)
    }

    /// How long nothing has run in it; zero while something does.
    pub(super) fn idle_for(&self) -> Duration {
        if self.clock.running() > 0 {
            return Duration::ZERO;
        }
        self.used.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }

    pub(super) fn memory_bytes(&self) -> u64 {
        self.memory_bytes.load(Relaxed)
    }

    fn touch(&self) {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn calls(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The invocations that have not ended.
    pub(super) fn open_calls(&self) -> Vec<Arc<Call>> {
        self.calls().open.values().cloned().collect()
    }

    /// The request id of an invocation that runs, or ran a moment ago.
    pub(super) fn id_of(&self, number: RequestId) -> Option<RequestId> {
        let number = u64::try_from(number.0).ok()?;
        let calls = self.calls();
        let open = calls.open.get(&number).map(|call| call.run.id);
        open.or_else(|| calls.ended.iter().rev().find(|(ended, _)| *ended == number).map(|(_, id)| *id))
    }

    /// The invocation that the process knows by this number.
    pub(super) fn call(&self, number: RequestId) -> Option<Arc<Call>> {
        self.calls().open.get(&u64::try_from(number.0).ok()?).cloned()
    }
}

/// Sends a function's module. `None`: the connection broke off.
async fn post_load(mut sender: SendRequest<Body>, request: Request<Body>) -> Option<Result<Handlers, LoadFailure>> {
    let response = sender.send_request(request).await.ok()?;
    let is_loaded = response.status().is_success();
    let body = match http_body_util::Limited::new(response.into_body(), MAX_HEAD_BYTES).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => {
            return Some(Err(LoadFailure::Module("the module fails with an error that is too long to show".into())));
        }
        Err(_) => return None,
    };
    if is_loaded {
        let handlers = Handlers::read(&body);
        return Some(
            handlers.map_err(|error| LoadFailure::Crashed(format!("it says nothing of its handlers: {error}"))),
        );
    }
    #[derive(serde::Deserialize)]
    struct Refused {
        message: String,
        #[serde(default)]
        stack: Option<String>,
    }
    let refused = serde_json::from_slice(&body)
        .unwrap_or_else(|_| Refused { message: String::from_utf8_lossy(&body).into_owned(), stack: None });
    let stack = refused.stack.filter(|stack| !stack.is_empty());
    Some(Err(LoadFailure::Module(stack.unwrap_or(refused.message))))
}

impl Drop for Process {
    fn drop(&mut self) {
        self.running.kill();
    }
}

/// An invocation whose response is not through.
pub(super) struct CallGuard {
    process: Arc<Process>,
    call: Arc<Call>,
    is_through: bool,
}

impl CallGuard {
    pub(super) fn process(&self) -> &Arc<Process> {
        &self.process
    }

    /// What the process knows the invocation by, in the form of a request id.
    pub(super) fn number(&self) -> RequestId {
        RequestId(u128::from(self.call.number))
    }

    /// The response announces that work of `waitUntil` goes on after it.
    pub(super) fn waits(&self) {
        self.call.waits();
    }

    /// The process has sent the whole response.
    pub(super) fn through(mut self) {
        self.is_through = true;
    }

    /// The response streams from now on.
    pub(super) fn streams(&self) {
        self.process.rest(&self.call);
    }

    /// From now on it is a WebSocket.
    pub(super) fn upgraded(&self) {
        self.call.is_upgraded.store(true, Relaxed);
        self.process.rest(&self.call);
    }
}

impl Drop for CallGuard {
    fn drop(&mut self) {
        // Before it is over: what has ended does not rest.
        if self.call.waits.load(SeqCst) > 0 {
            self.process.rest(&self.call);
        }
        self.call.is_over.store(true, SeqCst);
        self.process.settle(&self.call, self.is_through);
    }
}

pub(super) fn full(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

pub(super) fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
