//! What one sandbox holds on the host's side, and the interfaces that a guest may import.

use std::sync::{Arc, atomic::AtomicU32};

use http::{HeaderName, Request, Response};
use minnow_model::{LogSource, RequestId, problem::Code as ProblemCode};
use minnow_store::kv::MAX_BATCH_BYTES;
use wasmtime::{
    ResourceLimiter, Store, StoreContextMut, UpdateDeadline,
    component::{Linker, ResourceTable},
};
use wasmtime_wasi::{WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};
use wasmtime_wasi_http::{
    DEFAULT_FORBIDDEN_HEADERS, RequestOptions, WasiBody, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks, WasiHttpView,
};

use super::{
    Code, Flavor,
    data::{self, DataView},
    failure::Limit,
    files::{self, Files, FilesView, P1},
    output::LogStream,
    reuse03::Hand,
};
use crate::{
    Function,
    egress::continue_trace,
    memory::MemoryBudget,
    meter::{Meter, Run},
    worker,
};

/// Handles that a guest may hold at once (streams, requests, fields, pollables): far beyond what a request needs. Together
/// with the bounds below it keeps what a guest can take of the host's memory, outside its own, within some 100 MiB: 64 of
/// fields, 16 of large pieces of bodies and 16 of small ones. An instance that is reused can keep large pieces from several
/// requests: 64 of them, 150 MiB in all. Blobs on their way have a bound of their own.
const MAX_HANDLES: usize = 1_000;

/// The size of the header fields a guest may build, in bytes, counted as wasmtime counts them (in memory, not on the wire).
/// hyper writes at most what the guest sets, so this is what keeps a response head bounded.
const MAX_FIELDS_BYTES: usize = 64 << 10;

/// What a guest may write to a body at once, in bytes; two such pieces may wait for whoever reads the body.
const BODY_PIECE_BYTES: usize = 64 << 10;

/// The same for the bodies that an invocation makes beyond [`LARGE_BODIES`]: a guest may make many that nobody reads.
const SMALL_BODY_PIECE_BYTES: usize = 8 << 10;

/// Bodies of one invocation with large pieces: twice as many as can be on their way at once.
const LARGE_BODIES: u32 = 128;

/// What one call may have the host copy out of the guest, in bytes. Bodies go in pieces, so this is ample.
const HOSTCALL_BYTES: usize = 16 << 20;

/// The same for a function that was granted a key-value store or a bucket: it may set a batch of values at once, or a whole
/// blob.
const VALUES_BYTES: usize = HOSTCALL_BYTES + MAX_BATCH_BYTES;

/// Random bytes that a guest gets in one call: they are made without a look at the clock.
const MAX_RANDOM_BYTES: u64 = 1 << 20;

/// The data of a wasmtime store: one sandbox.
pub(crate) struct GuestState {
    table: ResourceTable,
    /// What the guest has open of the data services.
    open: data::Open,
    /// Made when the guest first asks for its folders. After the table, so that what is deleted and open is closed before it counts
    /// as free.
    files: Option<Box<Files>>,
    http: WasiHttpCtx,
    hooks: Hooks,
    /// Made when the guest first uses one of its interfaces: a hello-world never does.
    wasi: Option<Box<WasiCtx>>,
    /// Where the guest's output goes; a guest keeps these streams from one request to the next.
    output: Vec<LogStream>,
    /// Set for core modules only.
    p1: Option<Box<P1>>,
    pub(super) memory: MemoryLimit,
}

/// Whom a sandbox works for.
#[derive(Clone)]
pub(crate) enum Owner {
    /// Nobody: a warm instance between two requests.
    None,
    /// One invocation.
    Run(Arc<Run>),
    /// Several invocations at once (WASI 0.3 with `instances = "reuse"`).
    Hand(Arc<Hand>),
}

impl Owner {
    pub(crate) fn function(&self) -> Option<&Arc<Function>> {
        match self {
            Self::None => None,
            Self::Run(run) => Some(&run.function),
            Self::Hand(hand) => Some(&hand.function),
        }
    }

    /// The only invocation that the sandbox works for.
    pub(crate) fn run(&self) -> Option<&Arc<Run>> {
        match self {
            Self::Run(run) => Some(run),
            Self::Hand(_) | Self::None => None,
        }
    }

    /// The request to which a line that the guest prints belongs, where that can be known.
    pub(crate) fn request_id(&self) -> Option<RequestId> {
        self.run().map(|run| run.id)
    }

    fn meter(&self) -> Option<&Meter> {
        match self {
            Self::None => None,
            Self::Run(run) => Some(&run.meter),
            Self::Hand(hand) => Some(&hand.meter),
        }
    }

    fn check_cpu(&self) -> Result<(), Limit> {
        match self {
            Self::None => Err(Limit::NoInvocation),
            Self::Run(run) if run.meter.cpu() > run.function.spec().limits.cpu => Err(Limit::Cpu),
            Self::Run(_) => Ok(()),
            Self::Hand(hand) => hand.check(),
        }
    }

    fn holds_memory(&self, bytes: u64) {
        match self {
            Self::None => {}
            Self::Run(run) => run.holds_memory(bytes),
            Self::Hand(hand) => hand.holds_memory(bytes),
        }
    }

    fn refuse_memory(&self, why: ProblemCode) {
        match self {
            Self::None => {}
            Self::Run(run) => run.refuse_memory(why),
            Self::Hand(hand) => hand.refuse_memory(why),
        }
    }
}

impl GuestState {
    /// The state of a new sandbox of `function`.
    pub(super) fn new(function: &Function, owner: Owner) -> Self {
        let mut http = WasiHttpCtx::new();
        http.set_field_size_limit(MAX_FIELDS_BYTES);
        let mut table = ResourceTable::new();
        table.set_max_capacity(MAX_HANDLES);
        Self {
            table,
            open: data::Open::default(),
            files: None,
            http,
            memory: MemoryLimit {
                limit: function.spec().limits.memory_bytes,
                used: 0,
                budget: Arc::clone(&function.runtime().memory),
                owner: owner.clone(),
            },
            hooks: Hooks { owner, bodies: 0, outbound: None },
            wasi: None,
            output: Vec::new(),
            p1: None,
        }
    }

    /// The sandbox goes on with another invocation, or with none while it waits.
    pub(super) fn serve(&mut self, owner: Owner) {
        owner.holds_memory(self.memory.used);
        self.memory.owner.clone_from(&owner);
        for stream in &self.output {
            stream.set_owner(&owner);
        }
        self.hooks.owner = owner;
        self.hooks.bodies = 0;
    }

    /// Uses this context for a command instead of the default one.
    pub(super) fn set_wasi(&mut self, wasi: WasiCtx) {
        self.wasi = Some(Box::new(wasi));
    }

    /// What the data services need.
    pub(super) fn data(&mut self) -> DataView<'_> {
        DataView::new(&self.hooks.owner, &mut self.table, &mut self.open)
    }

    /// Whether the guest holds what must not outlive its invocation: a lock, a transaction, a cursor, or a blob on its way.
    /// They are given up with the sandbox.
    pub(super) fn holds_stores(&self) -> bool {
        self.open.is_any()
    }

    /// What file calls need.
    pub(super) fn files(&mut self) -> FilesView<'_> {
        FilesView { owner: &self.hooks.owner, table: &mut self.table, files: &mut self.files }
    }

    /// Uses this context for a core module.
    pub(super) fn set_p1(&mut self, p1: P1) {
        self.p1 = Some(Box::new(p1));
    }
}

/// Makes a store for `code` that counts its CPU time, memory and handles.
pub(super) fn store(code: &Code, state: GuestState) -> Store<GuestState> {
    let has_values = state.hooks.owner.function().is_some_and(|function| {
        let granted = &function.spec().granted;
        !granted.kv.is_empty() || !granted.blob.is_empty()
    });
    let hostcall_bytes = if has_values { VALUES_BYTES } else { HOSTCALL_BYTES };
    let mut store = Store::new(code.engine(), state);
    store.limiter(|state| &mut state.memory);
    store.set_hostcall_fuel(hostcall_bytes);
    store.set_max_component_handles(MAX_HANDLES);
    if let Some(tasks) = store.concurrent_resource_table() {
        tasks.set_max_capacity(MAX_HANDLES);
    }
    store.set_epoch_deadline(1);
    store.epoch_deadline_callback(end_of_slice);
    store
}

/// Called when a guest has run for a slice: stops it when its CPU time is used up, else has it wait for its next turn.
fn end_of_slice(store: StoreContextMut<'_, GuestState>) -> wasmtime::Result<UpdateDeadline> {
    let owner = store.data().hooks.owner.clone();
    owner.check_cpu()?;
    if owner.meter().is_some_and(Meter::has_just_begun) {
        return Ok(UpdateDeadline::Continue(1));
    }
    if let Some(meter) = owner.meter() {
        meter.suspend();
    }
    Ok(UpdateDeadline::YieldCustom(
        1,
        Box::pin(async move {
            let turn = worker::next_turn().await;
            if let Some(meter) = owner.meter() {
                meter.resume(turn);
            }
        }),
    ))
}

/// Counts all linear memories and tables of a sandbox together.
pub(super) struct MemoryLimit {
    limit: u64,
    used: u64,
    /// What all sandboxes of the node may take together.
    budget: Arc<MemoryBudget>,
    owner: Owner,
}

impl Drop for MemoryLimit {
    fn drop(&mut self) {
        self.budget.give_back(self.used);
    }
}

/// What one table element takes on a 64-bit host, in bytes.
const TABLE_ELEMENT_BYTES: usize = 8;

impl MemoryLimit {
    fn grow(&mut self, current: usize, desired: usize) -> bool {
        let more = desired.saturating_sub(current) as u64;
        let wanted = self.used.saturating_add(more);
        if wanted > self.limit {
            self.owner.refuse_memory(ProblemCode::MemoryLimit);
            return false;
        }
        if !self.budget.take(more) {
            self.owner.refuse_memory(ProblemCode::NodeOverloaded);
            return false;
        }
        self.used = wanted;
        self.owner.holds_memory(wanted);
        true
    }
}

impl ResourceLimiter for MemoryLimit {
    fn memory_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        Ok(self.grow(current, desired))
    }

    fn table_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        Ok(self.grow(current.saturating_mul(TABLE_ELEMENT_BYTES), desired.saturating_mul(TABLE_ELEMENT_BYTES)))
    }
}

/// What wasi:http asks the node.
pub(super) struct Hooks {
    owner: Owner,
    /// Bodies that the guest has begun to write in this invocation.
    bodies: u32,
    /// Requests to other hosts that are under way, also those of earlier invocations. Made with the first one.
    outbound: Option<Arc<AtomicU32>>,
}

/// The answer to an outbound request, and what goes on with it afterwards.
type Sent =
    wasmtime_wasi_http::Result<(Response<WasiBody>, Box<dyn Future<Output = wasmtime_wasi_http::Result<()>> + Send>)>;

impl WasiHttpHooks for Hooks {
    fn is_forbidden_header(&mut self, name: &HeaderName) -> bool {
        DEFAULT_FORBIDDEN_HEADERS.contains(name)
    }

    fn send_request(
        &mut self,
        mut request: Request<WasiBody>,
        options: Option<RequestOptions>,
        _failed: Box<dyn Future<Output = wasmtime_wasi_http::Result<()>> + Send>,
    ) -> Box<dyn Future<Output = Sent> + Send> {
        let Some(function) = self.owner.function().cloned() else {
            return Box::new(async { Err(wasmtime_wasi_http::Error::HttpRequestDenied) });
        };
        continue_trace(&self.owner, &mut request);
        let outbound = Arc::clone(self.outbound.get_or_insert_default());
        // Without the owner: a guest may keep this beyond its invocation.
        Box::new(async move {
            let response = function.runtime().egress.send(&function, outbound, request, options).await?;
            Ok((response, Box::new(async { Ok(()) }) as Box<dyn Future<Output = _> + Send>))
        })
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        self.bodies = self.bodies.saturating_add(1);
        if self.bodies <= LARGE_BODIES { BODY_PIECE_BYTES } else { SMALL_BODY_PIECE_BYTES }
    }

    fn p3_outgoing_body_chunk_size(&mut self) -> usize {
        BODY_PIECE_BYTES
    }

    fn p2_error_from_hyper(
        &mut self,
        _error: &hyper::Error,
    ) -> wasmtime_wasi_http::p2::bindings::http::types::ErrorCode {
        wasmtime_wasi_http::p2::bindings::http::types::ErrorCode::ConnectionTerminated
    }
}

impl WasiHttpView for GuestState {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { ctx: &mut self.http, table: &mut self.table, hooks: &mut self.hooks }
    }
}

impl WasiView for GuestState {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        let (owner, output) = (&self.hooks.owner, &mut self.output);
        let ctx = self.wasi.get_or_insert_with(|| {
            *output = vec![LogStream::new(owner, LogSource::Stdout), LogStream::new(owner, LogSource::Stderr)];
            Box::new(wasi(owner, output))
        });
        WasiCtxView { ctx, table: &mut self.table }
    }
}

impl wasmtime_wasi_io::IoView for GuestState {
    fn table(&mut self) -> &mut ResourceTable {
        &mut self.table
    }
}

/// What a guest sees of the world: its env, clocks and random numbers; what it prints goes to the log. No
/// sockets, no names, no arguments. Its files are in [`files`].
fn wasi(owner: &Owner, output: &[LogStream]) -> WasiCtx {
    let mut wasi = WasiCtx::builder();
    restrict(&mut wasi);
    if let Some(function) = owner.function() {
        for (key, value) in function.spec().env.iter() {
            wasi.env(key, value);
        }
    }
    if let [stdout, stderr] = output {
        wasi.stdout(stdout.clone()).stderr(stderr.clone());
    }
    wasi.build()
}

/// What holds for every guest: no network of its own, random bytes in bounded pieces.
pub(super) fn restrict(wasi: &mut WasiCtxBuilder) {
    wasi.allow_tcp(false).allow_udp(false).allow_ip_name_lookup(false).max_random_size(MAX_RANDOM_BYTES);
}

/// Links everything that a component may import.
pub(super) fn link_component(linker: &mut Linker<GuestState>, flavor: Flavor) -> wasmtime::Result<()> {
    use wasmtime_wasi::{
        cli::{WasiCli, WasiCliView as _},
        clocks::{WasiClocks, WasiClocksView as _},
        p2::bindings::{cli, clocks, random, sockets},
        random::{WasiRandom, WasiRandomView as _},
        sockets::{WasiSockets, WasiSocketsView as _},
    };
    type S = GuestState;
    let l = linker;
    // Streams and pollables need no WASI context, so they must not make one: hence not `p2::add_to_linker_async`.
    wasmtime_wasi_io::add_to_linker_async(l)?;
    clocks::wall_clock::add_to_linker::<S, WasiClocks>(l, S::clocks)?;
    clocks::monotonic_clock::add_to_linker::<S, WasiClocks>(l, S::clocks)?;
    random::random::add_to_linker::<S, WasiRandom>(l, S::random)?;
    random::insecure::add_to_linker::<S, WasiRandom>(l, S::random)?;
    random::insecure_seed::add_to_linker::<S, WasiRandom>(l, S::random)?;
    cli::exit::add_to_linker::<S, WasiCli>(l, S::cli)?;
    cli::environment::add_to_linker::<S, WasiCli>(l, S::cli)?;
    cli::stdin::add_to_linker::<S, WasiCli>(l, S::cli)?;
    cli::stdout::add_to_linker::<S, WasiCli>(l, S::cli)?;
    cli::stderr::add_to_linker::<S, WasiCli>(l, S::cli)?;
    cli::terminal_input::add_to_linker::<S, WasiCli>(l, S::cli)?;
    cli::terminal_output::add_to_linker::<S, WasiCli>(l, S::cli)?;
    cli::terminal_stdin::add_to_linker::<S, WasiCli>(l, S::cli)?;
    cli::terminal_stdout::add_to_linker::<S, WasiCli>(l, S::cli)?;
    cli::terminal_stderr::add_to_linker::<S, WasiCli>(l, S::cli)?;
    files::link(l)?;
    // Linked so that programs built with a standard library load; every address is refused.
    sockets::tcp::add_to_linker::<S, WasiSockets>(l, S::sockets)?;
    sockets::udp::add_to_linker::<S, WasiSockets>(l, S::sockets)?;
    sockets::tcp_create_socket::add_to_linker::<S, WasiSockets>(l, S::sockets)?;
    sockets::udp_create_socket::add_to_linker::<S, WasiSockets>(l, S::sockets)?;
    sockets::instance_network::add_to_linker::<S, WasiSockets>(l, S::sockets)?;
    sockets::network::add_to_linker::<S, WasiSockets>(l, &sockets::network::LinkOptions::default(), S::sockets)?;
    sockets::ip_name_lookup::add_to_linker::<S, WasiSockets>(l, S::sockets)?;
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(l)?;
    data::link(l)?;
    if flavor == Flavor::Async {
        // Files of 0.3 are linked and show no folders: standard libraries reach theirs through 0.2.
        wasmtime_wasi::p3::add_to_linker(l)?;
        wasmtime_wasi_http::p3::add_to_linker(l)?;
    }
    Ok(())
}

/// Links WASI preview 1 for core modules.
pub(super) fn link_module(linker: &mut wasmtime::Linker<GuestState>) -> wasmtime::Result<()> {
    wasmtime_wasi::p1::wasi_snapshot_preview1::add_to_linker(linker, |state: &mut GuestState| {
        // A core module's sandbox is always given a context before it is instantiated; a default one has no grants.
        &mut **state.p1.get_or_insert_with(|| Box::new(P1::new(WasiCtx::builder().build_p1())))
    })
}

#[cfg(test)]
mod tests {
    use std::{net::SocketAddr, time::Duration};

    use futures::poll;
    use http_body_util::{BodyExt as _, Empty};
    use minnow_model::{Digest, LimitCaps, Tenant};
    use minnow_store::{Blobs, DataDir, sql::SqlLimits};
    use minnow_telemetry::{LogConfig, Logs, Metrics};
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
        sync::oneshot,
    };
    use wasmtime_wasi_http::Error;

    use super::*;
    use crate::{
        CompileLimits, FunctionCode, FunctionSpec, GuestKind, JsConfig, Runtime, RuntimeConfig, TraceContext,
        data::Data, egress::MAX_OUTBOUND,
    };

    /// A host that answers every request with half a body.
    async fn host() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let mut open = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    request.push(stream.read_u8().await.unwrap());
                }
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nhalf").await.unwrap();
                open.push(stream);
            }
        });
        address
    }

    /// A function that may call `host`.
    fn function(host: SocketAddr, dir: &std::path::Path) -> Arc<Function> {
        let data_dir = DataDir::open(&dir.join("data")).unwrap();
        let config = RuntimeConfig {
            compiled_dir: dir.join("compiled"),
            tmp_dir: dir.to_owned(),
            sandboxes: 1,
            sandbox_queue: 1,
            memory_bytes: 1 << 30,
            code_bytes: 1 << 20,
            caps: LimitCaps::default(),
            compile: CompileLimits::default(),
            private_networks: vec!["127.0.0.0/8".parse().unwrap()],
            outbound_connections: 1024,
            executable: "/bin/false".into(),
            data_dir: dir.to_owned(),
            blobs: Arc::new(Blobs::open(&data_dir).unwrap()),
            data: Data::open(&data_dir, SqlLimits::default(), Arc::new(|| 0)).unwrap(),
            js: JsConfig::default(),
        };
        let logs = Logs::open(&dir.join("logs"), LogConfig::default()).unwrap();
        let spec = FunctionSpec {
            tenant: Tenant::default(),
            app: "app".parse().unwrap(),
            version: "0.1.0".parse().unwrap(),
            function: "web".parse().unwrap(),
            code: FunctionCode::Wasm { digest: Digest::of(b"code"), kind: GuestKind::Http02 },
            env: Arc::default(),
            secrets: Default::default(),
            lacks_secrets: false,
            granted: Arc::default(),
            egress: Arc::new([format!("http://{host}").parse().unwrap()]),
            instances: Default::default(),
            limits: Default::default(),
            subscriptions: Arc::default(),
            schedules: Arc::default(),
            asynchronous: None,
            has_routes: true,
        };
        Function::new(&Runtime::new(config, logs, Metrics::new("test")).unwrap(), spec)
    }

    /// An invocation, and what is told at its end.
    fn run(function: &Arc<Function>) -> (Owner, oneshot::Receiver<minnow_model::Usage>) {
        let (on_end, ended) = oneshot::channel();
        let trace = TraceContext { span_id: 1, parent_id: None, flags: 0 };
        let run = Run::new(Arc::clone(function), RequestId(1), trace, Duration::ZERO, Some(on_end));
        (Owner::Run(Arc::new(run)), ended)
    }

    /// What the guest holds of a request to `host`.
    fn request(state: &mut GuestState, host: SocketAddr) -> std::pin::Pin<Box<dyn Future<Output = Sent> + Send>> {
        let body = Empty::new().map_err(|never: std::convert::Infallible| match never {}).boxed_unsync();
        let request = Request::get(format!("http://{host}/")).body(body).unwrap();
        Box::into_pin(state.hooks.send_request(request, None, Box::new(async { Ok(()) })))
    }

    #[tokio::test]
    async fn an_invocation_ends_although_a_warm_guest_keeps_what_it_asked_for() {
        let temp = tempfile::tempdir().unwrap();
        let host = host().await;
        let function = function(host, temp.path());
        let (owner, mut ended) = run(&function);
        let mut state = GuestState::new(&function, owner);
        let (response, _) = request(&mut state, host).await.unwrap();
        let mut pending = request(&mut state, host);
        assert!(poll!(&mut pending).is_pending());
        assert!(ended.try_recv().is_err());
        state.serve(Owner::None);
        assert!(ended.try_recv().is_ok(), "its usage is recorded while they are kept");
        drop((response, pending));
    }

    #[tokio::test]
    async fn requests_of_a_sandbox_are_counted_over_all_its_invocations() {
        let temp = tempfile::tempdir().unwrap();
        let host = host().await;
        let function = function(host, temp.path());
        let mut state = GuestState::new(&function, Owner::None);
        let mut kept = Vec::new();
        for _ in 0..MAX_OUTBOUND {
            state.serve(run(&function).0);
            kept.push(request(&mut state, host).await.unwrap());
        }
        state.serve(Owner::None);
        state.serve(run(&function).0);
        let refused = request(&mut state, host).await;
        assert!(matches!(refused, Err(Error::ConnectionLimitReached)));
        // Another sandbox of the function has its own count.
        let mut other = GuestState::new(&function, run(&function).0);
        kept.push(request(&mut other, host).await.unwrap());
        drop(kept.remove(0));
        kept.push(request(&mut state, host).await.unwrap());
    }
}
