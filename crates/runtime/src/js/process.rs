//! One Deno process: how it is spoken to, watched and ended.

use std::{
    collections::HashMap,
    io,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::{self, ThreadId},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Method, Request, header::HOST};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use minnow_model::{Level, Limits, LogSource, RequestId, problem::Code};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::{Notify, OnceCell, watch},
};

use super::{
    clock::{Began, Clock, CpuClock},
    lines::{Line, Lines},
    Reserved, outbound,
    sandbox::{Running, Started, says_out_of_memory},
    stack, team,
};
use crate::{Function, invocation::Body, meter::Run, runtime::Place};

/// How often a process is looked at while something runs in it: as exact as CPU time is enforced.
const TICK: Duration = Duration::from_millis(10);

/// How long a process goes on after its last invocation before it is stopped. Long enough that a client's next request
/// costs no signals, short enough that nothing runs when nothing is asked for.
const PAUSE_AFTER: Duration = Duration::from_secs(1);

/// A process is busy when it computed for more than this share of the last [`BUSY_SPAN`].
const BUSY_SHARE: f64 = 0.9;
const BUSY_SPAN: Duration = Duration::from_millis(100);

/// How long an answer that the event loop can give at once may take before the process counts as stuck.
const PING_SHARE: u32 = 2;

/// How long the node waits to learn why a process ended whose connection broke off.
const ENDING: Duration = Duration::from_secs(2);

/// The longest head of a response, in bytes; as for WebAssembly.
const MAX_HEAD_BYTES: usize = 64 << 10;

/// What a module may take to be loaded at the least, whatever the limits of one invocation are.
const LEAST_LOAD_CPU: Duration = Duration::from_secs(1);
const MOST_LOAD_TIME: Duration = Duration::from_secs(10);

pub(super) static REQUEST: http::HeaderName = http::HeaderName::from_static("x-minnow-request");
static BOOT: http::HeaderName = http::HeaderName::from_static("x-minnow-boot");
static PING: http::HeaderName = http::HeaderName::from_static("x-minnow-ping");

/// Why a process ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ending {
    /// It was not needed any more.
    Unneeded,
    /// It used more CPU time than an invocation may, or computed without end.
    Cpu,
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
    #[error("the module was not loaded within {}; a top-level `await` that never ends?", humantime::format_duration(*.0))]
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
    running: Running,
    clock: Clock<ProcessCpu>,
    /// Where the function's outbound requests come in; taken when it is loaded.
    egress: Mutex<Option<std::os::unix::net::UnixListener>>,
    idle: Mutex<Vec<(ThreadId, SendRequest<Body>)>>,
    calls: Mutex<HashMap<RequestId, Arc<Call>>>,
    /// The function that it serves, once that is loaded.
    function: OnceLock<Weak<Function>>,
    /// Why it is being ended; the first reason stays.
    asked: OnceLock<Ending>,
    ended: watch::Sender<Option<Ending>>,
    is_ready: watch::Sender<bool>,
    /// Wakes the watch when the process goes on after a pause.
    resumed: Notify,
    is_busy: AtomicBool,
    memory_bytes: AtomicU64,
    used: Mutex<Instant>,
    /// From the bundled module to the sources; read when the first stack is printed.
    source_map: OnceCell<Option<stack::Map>>,
    /// Gives back what the process holds of the node's memory.
    _reserved: Reserved,
}

struct ProcessCpu(Running);

impl CpuClock for ProcessCpu {
    fn cpu_ns(&self) -> Option<u64> {
        self.0.cpu_ns()
    }
}

/// One invocation in a process.
pub(super) struct Call {
    pub(super) run: Arc<Run>,
    began: Began,
    /// The response is through; what `waitUntil` was given goes on.
    is_answered: AtomicBool,
    waits: AtomicBool,
    /// A WebSocket stays open for hours: the CPU limit holds for each of its events, not for all together.
    is_upgraded: AtomicBool,
    _place: Place,
}

impl Process {
    /// Watches over a process that was just started, on the current runtime.
    pub(super) fn new(
        started: Started,
        reserved: Reserved,
    ) -> io::Result<Arc<Self>> {
        let Started { running, stdout, stderr, egress } = started;
        let process = Arc::new(Self {
            clock: Clock::new(ProcessCpu(running.clone())),
            running,
            egress: Mutex::new(Some(egress)),
            idle: Mutex::default(),
            calls: Mutex::default(),
            function: OnceLock::new(),
            asked: OnceLock::new(),
            ended: watch::Sender::new(None),
            is_ready: watch::Sender::new(false),
            resumed: Notify::new(),
            is_busy: AtomicBool::new(false),
            memory_bytes: AtomicU64::new(0),
            used: Mutex::new(Instant::now()),
            source_map: OnceCell::new(),
            _reserved: reserved,
        });
        let stdout = tokio::net::unix::pipe::Receiver::from_owned_fd(stdout)?;
        let stderr = tokio::net::unix::pipe::Receiver::from_owned_fd(stderr)?;
        tokio::spawn(Arc::clone(&process).watch(stdout, stderr));
        Ok(process)
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
    pub(super) async fn load(
        self: &Arc<Self>,
        function: &Arc<Function>,
        module: Bytes,
    ) -> Result<(), LoadFailure> {
        let spec = function.spec();
        let _ = self.function.set(Arc::downgrade(function));
        let broken = |error: io::Error| LoadFailure::Crashed(error.to_string());
        let egress = self.egress.lock().unwrap_or_else(PoisonError::into_inner).take();
        let egress = egress.ok_or_else(|| LoadFailure::Crashed("it has a function already".into()))?;
        egress.set_nonblocking(true).map_err(broken)?;
        let egress = UnixListener::from_std(egress).map_err(broken)?;
        tokio::spawn(Arc::clone(self).let_out(egress, Arc::downgrade(function)));
        let head = serde_json::json!({
            "app": spec.app, "version": spec.version, "function": spec.function, "env": &*spec.env,
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
        let began = self.clock.begin(|| {});
        let loaded = self.watch_load(request, began, &spec.limits).await;
        self.clock.end(began);
        self.touch();
        loaded
    }

    async fn watch_load(
        &self,
        request: Request<Body>,
        began: Began,
        limits: &Limits,
    ) -> Result<(), LoadFailure> {
        let most_cpu = limits.cpu.max(LEAST_LOAD_CPU);
        let most_time = limits.timeout.min(MOST_LOAD_TIME);
        let mut loading = std::pin::pin!(self.post_load(request));
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
                        Some(Ending::Unneeded) | None => LoadFailure::Crashed("the connection broke off".into()),
                    }),
                },
                now = ticks.tick() => {
                    if self.clock.so_far(began) > nanoseconds(most_cpu) {
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

    /// `None`: the connection broke off.
    async fn post_load(&self, request: Request<Body>) -> Option<Result<(), LoadFailure>> {
        let mut sender = self.connect().await.ok()?;
        let response = sender.send_request(request).await.ok()?;
        let is_loaded = response.status().is_success();
        let body = http_body_util::Limited::new(response.into_body(), MAX_HEAD_BYTES).collect().await.ok()?.to_bytes();
        if is_loaded {
            self.keep(sender);
            return Some(Ok(()));
        }
        #[derive(serde::Deserialize)]
        struct Refused {
            message: String,
            #[serde(default)]
            stack: Option<String>,
        }
        let refused = serde_json::from_slice(&body)
            .unwrap_or_else(|_| Refused { message: String::from_utf8_lossy(&body).into_owned(), stack: None });
        Some(Err(LoadFailure::Module(refused.stack.unwrap_or(refused.message))))
    }

    /// Serves the function's way out until the process has ended.
    async fn let_out(self: Arc<Self>, listener: UnixListener, function: Weak<Function>) {
        let mut ended = self.ended.subscribe();
        let process = Arc::downgrade(&self);
        drop(self);
        let trace = move |id: RequestId| Some(process.upgrade()?.calls().get(&id)?.run.trace);
        tokio::select! {
            _ = ended.wait_for(Option::is_some) => {}
            () = outbound::serve(listener, function, trace) => {}
        }
    }

    /// An invocation begins. Drop what is returned when its response is through.
    pub(super) fn begin(self: &Arc<Self>, run: &Arc<Run>, place: Place) -> CallGuard {
        let began = self.clock.begin(|| {
            self.running.resume();
            self.resumed.notify_one();
        });
        let call = Arc::new(Call {
            run: Arc::clone(run),
            began,
            is_answered: AtomicBool::new(false),
            waits: AtomicBool::new(false),
            is_upgraded: AtomicBool::new(false),
            _place: place,
        });
        self.calls().insert(run.id, Arc::clone(&call));
        CallGuard { process: Arc::clone(self), call }
    }

    /// Ends the invocation if nothing of it is left.
    fn settle(&self, call: &Arc<Call>) {
        let mut calls = self.calls();
        let is_over = call.is_answered.load(Relaxed) && (!call.waits.load(Relaxed) || self.ended.borrow().is_some());
        let is_known = calls.get(&call.run.id).is_some_and(|known| Arc::ptr_eq(known, call));
        if !is_over || !is_known {
            return;
        }
        calls.remove(&call.run.id);
        drop(calls);
        call.run.meter.charge_ns(self.clock.end(call.began));
        call.run.holds_memory(self.memory_bytes.load(Relaxed));
        self.touch();
    }

    /// A connection of this thread's: one that is idle, or a new one.
    pub(super) async fn connection(&self) -> io::Result<SendRequest<Body>> {
        loop {
            let idle = {
                let here = thread::current().id();
                let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
                let found = idle.iter().rposition(|(thread, _)| *thread == here);
                found.map(|index| idle.swap_remove(index).1)
            };
            match idle {
                Some(mut sender) => {
                    if sender.ready().await.is_ok() {
                        return Ok(sender);
                    }
                }
                None => return self.connect().await,
            }
        }
    }

    /// Keeps a connection for the next request of this thread. Invocations bound how many there are.
    pub(super) fn keep(&self, sender: SendRequest<Body>) {
        if !sender.is_closed() {
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push((thread::current().id(), sender));
        }
    }

    async fn connect(&self) -> io::Result<SendRequest<Body>> {
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

    fn calls(&self) -> MutexGuard<'_, HashMap<RequestId, Arc<Call>>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads what the process prints, charges and bounds what it uses, and learns how it ends.
    async fn watch(
        self: Arc<Self>,
        stdout: tokio::net::unix::pipe::Receiver,
        stderr: tokio::net::unix::pipe::Receiver,
    ) {
        let (mut stdout, mut stderr) = (Lines::new(stdout), Lines::new(stderr));
        let mut exit = std::pin::pin!(self.running.exited());
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut watch = Watch { since: Instant::now(), cpu_ns: 0, pinged: false };
        // What V8 says when it gives up, for the log and to tell why.
        let mut last_words = String::new();
        let (mut out_ended, mut err_ended) = (false, false);
        let status = loop {
            tokio::select! {
                biased;
                status = &mut exit => break status,
                line = stdout.next(), if !out_ended => match line {
                    Some(line) => self.hear(line).await,
                    None => out_ended = true,
                },
                line = stderr.next(), if !err_ended => match line {
                    Some(Line::Plain(line)) => self.note_stderr(line, &mut last_words),
                    Some(_) => {}
                    None => err_ended = true,
                },
                _ = ticks.tick() => {
                    self.tick(&mut watch);
                    if self.function.get().is_some() && self.idle_for() >= PAUSE_AFTER {
                        self.clock.pause(|| self.running.pause());
                        if self.clock.running() == 0 {
                            tokio::select! {
                                biased;
                                status = &mut exit => break status,
                                () = self.resumed.notified() => {}
                            }
                            ticks.reset_immediately();
                            watch = Watch { since: Instant::now(), cpu_ns: self.clock.silent().1, pinged: false };
                        }
                    }
                }
            }
        };
        // What it printed before it ended.
        while let Some(line) = stdout.next().await {
            self.hear(line).await;
        }
        while let Some(line) = stderr.next().await {
            if let Line::Plain(line) = line {
                self.note_stderr(line, &mut last_words);
            }
        }
        let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
        let ending = self.asked.get().cloned().unwrap_or_else(|| self.why_it_ended(&status, &last_words));
        self.ended.send_replace(Some(ending.clone()));
        let left: Vec<Arc<Call>> = self.calls().values().cloned().collect();
        for call in left {
            self.settle(&call);
        }
        if let Some(function) = self.function.get().and_then(Weak::upgrade) {
            let held = function.js().ended(&self, &ending);
            if ending.is_fault() {
                let why = ending.describe(&function.spec().limits);
                function.log(Level::Error, LogSource::Node, None, format!("the function's process {why}"));
            }
            team::tell_held(&function, held);
        }
    }

    /// A line of the process.
    async fn hear(&self, line: Line) {
        match line {
            Line::Ready => {
                self.is_ready.send_replace(true);
            }
            Line::Waits(id) => {
                if let Some(call) = self.calls().get(&id) {
                    call.waits.store(true, Relaxed);
                }
            }
            Line::Done(id) => {
                let call = self.calls().get(&id).cloned();
                if let Some(call) = call {
                    call.waits.store(false, Relaxed);
                    self.settle(&call);
                }
            }
            Line::Log { level, request, message } => {
                let Some(function) = self.function.get().and_then(Weak::upgrade) else { return };
                // A process can claim any request: only those count that run in it.
                let request = request.filter(|id| self.calls().contains_key(id));
                let source = if level >= Level::Warn { LogSource::Stderr } else { LogSource::Stdout };
                let message = self.mapped(&function, message).await;
                function.log(level, source, request, message);
            }
            Line::Plain(message) => {
                if let Some(function) = self.function.get().and_then(Weak::upgrade) {
                    function.log(Level::Info, LogSource::Stdout, None, message);
                }
            }
        }
    }

    /// `message` with the places of the function's own sources in the stacks that it holds.
    pub(super) async fn mapped(&self, function: &Function, message: String) -> String {
        let module = stack::module(function);
        if !message.contains(&module) {
            return message;
        }
        let map = self.source_map.get_or_init(|| stack::load(function)).await;
        match map {
            Some(map) => stack::mapped(map, &module, &message),
            None => message,
        }
    }

    fn note_stderr(&self, line: String, last_words: &mut String) {
        const LAST_WORDS_BYTES: usize = 4096;
        if line.trim().is_empty() {
            return;
        }
        if last_words.len() + line.len() < LAST_WORDS_BYTES {
            last_words.push_str(&line);
            last_words.push('\n');
        }
        if let Some(function) = self.function.get().and_then(Weak::upgrade) {
            function.log(Level::Warn, LogSource::Stderr, None, line);
        }
    }

    fn why_it_ended(&self, status: &str, last_words: &str) -> Ending {
        let lacks_memory = last_words.lines().any(says_out_of_memory);
        if lacks_memory || self.running.was_out_of_memory() {
            return Ending::Memory;
        }
        match last_words.trim() {
            "" => Ending::Crashed(status.to_owned()),
            words => Ending::Crashed(format!("{status}: {words}")),
        }
    }

    /// Charges what was used, and ends the process when that is too much.
    fn tick(self: &Arc<Self>, watch: &mut Watch) {
        let Some(function) = self.function.get().and_then(Weak::upgrade) else { return };
        let limit = nanoseconds(function.spec().limits.cpu);
        let (silent_ns, cpu_ns) = self.clock.silent();
        let span = watch.since.elapsed();
        if span >= BUSY_SPAN {
            let used = cpu_ns.saturating_sub(watch.cpu_ns) as f64 / span.as_nanos() as f64;
            self.is_busy.store(used >= BUSY_SHARE, Relaxed);
            (watch.since, watch.cpu_ns) = (Instant::now(), cpu_ns);
            if let Some(bytes) = self.running.memory_bytes() {
                self.memory_bytes.store(bytes, Relaxed);
            }
        }
        let calls: Vec<Arc<Call>> = self.calls().values().cloned().collect();
        if calls.is_empty() {
            return;
        }
        let is_spent =
            |call: &Arc<Call>| !call.is_upgraded.load(Relaxed) && self.clock.so_far(call.began) > limit;
        if silent_ns > limit || calls.iter().any(is_spent) {
            return self.end(Ending::Cpu);
        }
        // Half of what it may compute without a sign of life: ask for one.
        if silent_ns > limit / u64::from(PING_SHARE) {
            if !std::mem::replace(&mut watch.pinged, true) {
                tokio::spawn(Arc::clone(self).ping());
            }
        } else {
            watch.pinged = false;
        }
        let now = Instant::now();
        for call in calls {
            call.run.holds_memory(self.memory_bytes.load(Relaxed));
            // What goes on after the response has the time of the whole invocation.
            let is_late = now > call.run.started + function.spec().limits.timeout;
            if is_late && call.is_answered.load(Relaxed) && call.waits.swap(false, Relaxed) {
                call.run.log(
                    Level::Warn,
                    LogSource::Node,
                    format!(
                        "what `waitUntil` was given is not over after limits.timeout = {}",
                        humantime::format_duration(function.spec().limits.timeout)
                    ),
                );
                self.settle(&call);
            }
        }
    }

    /// Asks for a sign of life.
    async fn ping(self: Arc<Self>) {
        let Ok(mut sender) = self.connection().await else { return };
        let request = Request::builder().uri("/").header(&PING, "1").header(HOST, "localhost").body(full(Bytes::new()));
        let Ok(request) = request else { return };
        if let Ok(response) = sender.send_request(request).await
            && response.into_body().collect().await.is_ok()
        {
            self.clock.is_alive();
            self.keep(sender);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.running.kill();
    }
}

/// What the watch remembers between two looks.
struct Watch {
    since: Instant,
    cpu_ns: u64,
    pinged: bool,
}

/// An invocation whose response is not through.
pub(super) struct CallGuard {
    process: Arc<Process>,
    call: Arc<Call>,
}

impl CallGuard {
    pub(super) fn process(&self) -> &Arc<Process> {
        &self.process
    }

    /// From now on it is a WebSocket.
    pub(super) fn upgraded(&self) {
        self.call.is_upgraded.store(true, Relaxed);
    }
}

impl Drop for CallGuard {
    fn drop(&mut self) {
        self.call.is_answered.store(true, Relaxed);
        self.process.settle(&self.call);
    }
}

fn full(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
