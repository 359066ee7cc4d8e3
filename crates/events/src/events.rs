//! Everything together: threads of their own for deliveries, the table of who follows what, and the timer.

use std::{
    io,
    panic::AssertUnwindSafe,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use arc_swap::ArcSwap;
use futures::FutureExt as _;
use minnow_model::{
    AppName, BundleConfig, FunctionName, RequestId, ScheduleName, StoreId, StoreName, Subscription, Tenant,
    event::From as Begin,
};
use minnow_runtime::{Delivered, Function, Happening, Live, Runtime, TraceContext};
use minnow_store::{StoreError, TopicError, Topics, kv::Clock};
use minnow_telemetry::Metrics;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::{JoinHandle, JoinSet},
    time::Instant,
};

use crate::{
    database::{Rows, Tick},
    dispatch,
    invokes::{self, Lane, Lanes, RESULT_KEPT},
    room::Room,
    schedules::{self, NextTick, Pending, ScheduleEntry},
    subscriptions::{Follower, Table},
    timer::{Timer, What},
};

/// How much less often than the gateway's threads those of events run when both have something to do: the system's `nice`. Requests come
/// first.
const NICE: i32 = 5;

/// What ends at the deadline of a drain may still need this long to be written down.
const AFTER_DEADLINE: Duration = Duration::from_secs(2);

/// What the clock of the machine may differ from the time that has passed before it counts as set, in milliseconds: more than clocks
/// drift within a minute, and than a busy machine takes for a look.
const CLOCK_JUMP_MS: u64 = 1000;

/// When a part that broke down begins again.
const AFTER_PANIC: Duration = Duration::from_secs(1);

/// How often what is too old is looked for.
pub(crate) const SWEEP_MS: u64 = 3600 * 1000;

/// How events are set up.
pub struct EventsConfig {
    /// The database of schedules and asynchronous invokes.
    pub database: PathBuf,
    pub clock: Clock,
    /// Functions see `APP.DOMAIN` as their host.
    pub domain: String,
    /// Threads that deliver.
    pub threads: usize,
}

impl EventsConfig {
    /// As many threads as are enough for the cores of the machine: one for two.
    pub fn threads() -> usize {
        thread::available_parallelism().map_or(1, |cores| cores.get() / 2).max(1)
    }
}

/// Why events could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("cannot start a thread for events: {0}")]
    Thread(io::Error),
}

/// Why something with events was not done.
#[derive(Debug, thiserror::Error)]
pub enum EventsError {
    #[error(transparent)]
    Topic(#[from] TopicError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{0} has no schedule `{1}`; `minnow schedule list` shows those that are live")]
    NoSchedule(AppName, ScheduleName),
    #[error("several functions have a schedule `{name}`: {}; say which one with `--function`", list(.functions))]
    WhichFunction { name: ScheduleName, functions: Vec<FunctionName> },
    #[error("as many runs of the schedule `{0}` that were asked for are not done as may be; wait for them")]
    TooManyAsked(ScheduleName),
    #[error("as many asynchronous invokes of {0} wait as may; try again later, or let its functions do them faster")]
    TooManyRuns(AppName),
}

fn list(functions: &[FunctionName]) -> String {
    functions.iter().map(|function| format!("`{function}`")).collect::<Vec<_>>().join(", ")
}

/// Topics to functions, and schedules. One for each node.
pub struct Events {
    pub(crate) shared: Arc<Shared>,
    threads: Mutex<Vec<Worker>>,
    tasks: Vec<JoinHandle<()>>,
}

/// A thread, and what tells that it ends.
struct Worker {
    thread: thread::JoinHandle<()>,
    ended: oneshot::Receiver<()>,
}

/// What all of events share.
pub(crate) struct Shared {
    pub(crate) runtime: Arc<Runtime>,
    pub(crate) live: Arc<Live>,
    pub(crate) metrics: Metrics,
    pub(crate) topics: Topics,
    pub(crate) rows: Rows,
    pub(crate) timer: Timer,
    pub(crate) table: ArcSwap<Table>,
    /// Room for the data of messages that are delivered.
    pub(crate) room: Arc<Room>,
    /// When everything has to be over, once the node stops.
    pub(crate) stop: watch::Sender<Option<Instant>>,
    /// The functions whose asynchronous invokes have something to do.
    pub(crate) lanes: Lanes,
    /// Ticks that were not done when the node stopped, until their schedule is live.
    pub(crate) pending: Mutex<Pending>,
    /// When the node started, in milliseconds since 1970.
    pub(crate) started_ms: u64,
    clock: Clock,
    domain: String,
    workers: Vec<mpsc::UnboundedSender<Job>>,
    /// The next number of a thing in the timer.
    numbers: AtomicU64,
    /// The sweep's.
    sweep: u64,
    /// What was cut off at the end of the drain.
    cut: AtomicUsize,
}

/// What a thread is to do. There are at most as many as followers, as ticks that may wait, and as functions.
pub(crate) enum Job {
    Follower(Arc<Follower>),
    Tick(Arc<ScheduleEntry>, Tick, RequestId),
    Lane(Lane),
}

impl Shared {
    pub(crate) fn now_ms(&self) -> u64 {
        (self.clock)()
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stop.borrow().is_some()
    }

    pub(crate) fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    /// Gives a job to one of the threads: what has the same number goes to the same one.
    pub(crate) fn send(&self, number: u64, job: Job) {
        let count = u64::try_from(self.workers.len()).unwrap_or(1).max(1);
        let worker = usize::try_from(number % count).ok().and_then(|index| self.workers.get(index));
        if let Some(worker) = worker {
            // A thread that has ended delivers nothing more: the node stops.
            let _ = worker.send(job);
        }
    }

    /// Runs a function for what has happened.
    pub(crate) async fn deliver(&self, function: &Arc<Function>, app: &AppName, what: &Happening) -> Delivered {
        self.deliver_as(new_id(), function, app, what).await
    }

    /// [`Shared::deliver`] under this id.
    pub(crate) async fn deliver_as(
        &self,
        id: RequestId,
        function: &Arc<Function>,
        app: &AppName,
        what: &Happening,
    ) -> Delivered {
        let trace = TraceContext { span_id: rand::random::<u64>().max(1), parent_id: None, flags: 0 };
        self.runtime.deliver(function, id, trace, &self.host(app), what).await
    }

    /// What functions of the app see as their host.
    pub(crate) fn host(&self, app: &AppName) -> String {
        format!("{app}.{}", self.domain)
    }

    /// Returns when the node's drain is over; never, while it does not stop.
    pub(crate) async fn deadline(&self) {
        let mut stop = self.stop.subscribe();
        // An error means that nobody is left who could ask.
        let deadline = stop.wait_for(Option::is_some).await.map_or(None, |deadline| *deadline);
        tokio::time::sleep_until(deadline.unwrap_or_else(Instant::now)).await;
    }

    /// Sleeps, but not after the node has been told to stop.
    pub(crate) async fn sleep(&self, time: Duration) {
        let mut stop = self.stop.subscribe();
        let _ = tokio::time::timeout(time, stop.wait_for(Option::is_some)).await;
    }

    /// Notes that so many deliveries were cut off.
    pub(crate) fn cut(&self, count: usize) {
        self.cut.fetch_add(count, Ordering::Relaxed);
    }

    /// Runs `what` until it ends, and again where it breaks down: all apps depend on it.
    async fn keep<F: Future<Output = ()>>(self: Arc<Self>, name: &'static str, what: impl Fn(Arc<Self>) -> F) {
        while AssertUnwindSafe(what(Arc::clone(&self))).catch_unwind().await.is_err() {
            tracing::error!(name, "a part of events broke down; it begins again");
            self.sleep(AFTER_PANIC).await;
            // What it had in hand is lost.
            self.look_everywhere();
        }
    }

    /// Does what is due, until the node stops.
    async fn keep_time(self: Arc<Self>) {
        let mut stop = self.stop.subscribe();
        self.timer.set(self.sweep, self.now_ms() + SWEEP_MS, What::Sweep);
        let (mut wall_ms, mut running) = (self.now_ms(), Instant::now());
        loop {
            let now_ms = self.now_ms();
            let expected_ms = wall_ms.saturating_add(u64::try_from(running.elapsed().as_millis()).unwrap_or(u64::MAX));
            (wall_ms, running) = (now_ms, Instant::now());
            let was_set = now_ms.abs_diff(expected_ms) > CLOCK_JUMP_MS;
            if was_set {
                tracing::warn!(from_ms = expected_ms, to_ms = now_ms, "the clock was set: all that waits is looked at");
            }
            let mut ticks = Vec::new();
            for due in self.timer.take_due(if was_set { u64::MAX } else { now_ms }) {
                match due {
                    What::Schedule(schedule) if was_set => self.time(&schedule),
                    What::Sweep if was_set => self.timer.set(self.sweep, now_ms + SWEEP_MS, What::Sweep),
                    What::Follower(follower) => self.wake(&follower),
                    What::Topic(topic) => {
                        let shared = Arc::clone(&self);
                        tokio::spawn(async move { shared.tend(&topic).await });
                    }
                    What::Schedule(schedule) => ticks.push(schedule),
                    What::Lane(lane) => self.wake_lane(&lane),
                    What::Sweep => {
                        tokio::spawn(Arc::clone(&self).sweep());
                    }
                }
            }
            if !ticks.is_empty() {
                self.fire(ticks, now_ms).await;
                continue;
            }
            tokio::select! {
                () = self.timer.wait(self.now_ms()) => {}
                _ = stop.changed() => return,
            }
        }
    }

    /// Looks what there is to do for every follower, topic and schedule: what the timer has may be wrong.
    fn look_everywhere(&self) {
        for entry in self.table.load().values() {
            for topic in entry.topics.values() {
                self.timer.set(topic.number, 0, What::Topic(topic.id.clone()));
                topic.followers.iter().for_each(|follower| self.wake(follower));
            }
            entry.schedules.values().for_each(|schedule| self.time(schedule));
        }
        self.wake_lanes();
    }

    /// Removes what is too old from every live topic, one after the other.
    async fn sweep(self: Arc<Self>) {
        // First, so that it comes again whatever happens to this one.
        self.timer.set(self.sweep, self.now_ms() + SWEEP_MS, What::Sweep);
        let table = self.table.load_full();
        for (app, entry) in table.iter() {
            for name in entry.topics.keys() {
                let topic = StoreId { tenant: entry.tenant.clone(), app: app.clone(), name: name.clone() };
                let Some(rules) = self.rules(&topic) else { continue };
                if self.is_stopping() {
                    return;
                }
                if let Err(error) = self.topics.sweep(&topic, &rules).await {
                    tracing::warn!(%app, topic = %name, %error, "what is too old in a topic stays for another hour");
                }
            }
        }
        let kept_ms = u64::try_from(RESULT_KEPT.as_millis()).unwrap_or(u64::MAX);
        if let Err(error) = self.rows.sweep_runs(self.now_ms().saturating_sub(kept_ms)).await {
            tracing::warn!(%error, "old results of asynchronous invokes stay for another hour");
        }
    }
}

/// An id that nobody can guess.
pub(crate) fn new_id() -> RequestId {
    RequestId(rand::random::<u128>().max(1))
}

impl Events {
    /// Starts to deliver to what is live, and goes on with what becomes so. Call it on the node's tokio runtime. Blocking, for
    /// milliseconds.
    pub fn start(
        config: EventsConfig,
        runtime: Arc<Runtime>,
        live: Arc<Live>,
        metrics: Metrics,
    ) -> Result<Arc<Self>, StartError> {
        let EventsConfig { database, clock, domain, threads } = config;
        let rows = Rows::open(&database)?;
        let pending = schedules::pending(rows.ticks()?);
        let lanes = Lanes::new(rows.open_lanes()?);
        let topics = runtime.data().topics.clone();
        let (workers, jobs): (Vec<_>, Vec<_>) = (0..threads.max(1)).map(|_| mpsc::unbounded_channel()).unzip();
        let shared = Arc::new(Shared {
            runtime,
            live,
            metrics,
            topics,
            rows,
            timer: Timer::default(),
            table: ArcSwap::default(),
            room: Arc::default(),
            stop: watch::Sender::new(None),
            lanes,
            pending: Mutex::new(pending),
            started_ms: clock(),
            clock,
            domain,
            workers,
            numbers: AtomicU64::new(1),
            sweep: 0,
            cut: AtomicUsize::new(0),
        });
        // The topics are the runtime's, which is ours.
        let weak = Arc::downgrade(&shared);
        shared.topics.on_ready(Arc::new(move |topic, ready| {
            if let Some(shared) = weak.upgrade() {
                shared.ready(topic, ready);
            }
        }));
        let threads = jobs.into_iter().enumerate().map(|(index, jobs)| start_worker(index, &shared, jobs));
        let threads = Mutex::new(threads.collect::<io::Result<_>>().map_err(StartError::Thread)?);
        let tasks = vec![
            tokio::spawn(Arc::clone(&shared).keep("deployments", Shared::follow)),
            tokio::spawn(Arc::clone(&shared).keep("the timer", Shared::keep_time)),
        ];
        Ok(Arc::new(Self { shared, threads, tasks }))
    }

    /// Makes the topics of versions that are about to go live, and says who follows them. `rows` are all versions that will be live, the
    /// newest last.
    pub async fn prepare(&self, tenant: &Tenant, app: &AppName, rows: &[&BundleConfig]) -> Result<(), EventsError> {
        for (name, followers) in followers(rows) {
            let topic = StoreId { tenant: tenant.clone(), app: app.clone(), name: name.clone() };
            let Some(rules) = rows.iter().rev().find_map(|row| row.topics.get(name)).map(|topic| topic.rules()) else {
                continue;
            };
            self.shared.topics.ensure(&topic, &rules, &followers).await?;
        }
        Ok(())
    }

    /// When each schedule of an app is due next, in the order of their functions and names.
    pub fn next_ticks(&self, tenant: &Tenant, app: &AppName) -> Vec<NextTick> {
        let entry = self.shared.entry(tenant, app);
        let now_ms = self.shared.now_ms();
        entry.iter().flat_map(|entry| entry.schedules.values()).map(|schedule| schedule.next(now_ms)).collect()
    }

    /// Runs a schedule now, beside its ticks. Durable when it returns; the id is that of the invocation. `function` may be left out where
    /// one function alone has a schedule of this name.
    pub async fn run_schedule(
        &self,
        tenant: &Tenant,
        app: &AppName,
        function: Option<&FunctionName>,
        name: &ScheduleName,
    ) -> Result<RequestId, EventsError> {
        let entry = self.shared.entry(tenant, app);
        let named = entry.iter().flat_map(|entry| entry.schedules.values()).filter(|schedule| {
            schedule.key.name == *name && function.is_none_or(|function| schedule.key.function == *function)
        });
        let named: Vec<_> = named.collect();
        let [schedule] = named.as_slice() else {
            if named.is_empty() {
                return Err(EventsError::NoSchedule(app.clone(), name.clone()));
            }
            let functions = named.iter().map(|schedule| schedule.key.function.clone()).collect();
            return Err(EventsError::WhichFunction { name: name.clone(), functions });
        };
        let id = new_id();
        if !Shared::ask(schedule) {
            return Err(EventsError::TooManyAsked(name.clone()));
        }
        let tick = Tick { key: schedule.key.clone(), due_ms: self.shared.now_ms(), asked: true };
        if let Err(error) = self.shared.rows.note(vec![(tick.clone(), true)]).await {
            Shared::asked_for(schedule);
            return Err(error.into());
        }
        self.shared.send(schedule.number, Job::Tick(Arc::clone(schedule), tick, id));
        Ok(id)
    }

    /// For how long nothing of the topic is delivered to the function, because there is no room for it.
    pub fn paused_for(
        &self,
        tenant: &Tenant,
        app: &AppName,
        topic: &StoreName,
        function: &FunctionName,
    ) -> Option<Duration> {
        let entry = self.shared.entry(tenant, app)?;
        let followers = &entry.topics.get(topic)?.followers;
        let follower = followers.iter().find(|follower| follower.function == *function)?;
        follower.paused_for(self.shared.now_ms())
    }

    /// Forgets the schedules and the asynchronous invokes of a deleted app. Its topics go with its data.
    pub async fn forget_app(&self, tenant: &Tenant, app: &AppName) -> Result<(), EventsError> {
        self.shared.rows.forget_app(tenant, app).await?;
        let mut pending = self.shared.pending.lock().unwrap_or_else(PoisonError::into_inner);
        pending.retain(|key, _| (&key.tenant, &key.app) != (tenant, app));
        Ok(())
    }

    /// Delivers nothing new from now on, and lets what is under way end until `deadline`. Answers how many deliveries were cut off; they
    /// are delivered again when the node runs again.
    pub async fn drain(&self, deadline: Instant) -> usize {
        self.shared.stop.send_replace(Some(deadline));
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for Worker { thread, ended } in threads {
            // An error means that the thread panicked, which it has logged.
            let _ = ended.await;
            let _ = thread.join();
        }
        self.shared.cut.load(Ordering::Relaxed)
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.shared.stop.send_if_modified(|stop| {
            let is_running = stop.is_none();
            stop.get_or_insert_with(Instant::now);
            is_running
        });
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// Who follows each topic of these versions, and where it begins if it is new there: as the newest version says.
fn followers<'a>(rows: &[&'a BundleConfig]) -> Vec<(&'a StoreName, Vec<(FunctionName, Begin)>)> {
    let mut topics: std::collections::BTreeMap<&StoreName, Vec<(FunctionName, Begin)>> = Default::default();
    for row in rows.iter().rev() {
        for name in row.topics.keys() {
            topics.entry(name).or_default();
        }
        for (function, Subscription { topic, from, .. }) in
            row.functions.iter().flat_map(|(name, function)| function.topics.iter().map(move |topic| (name, topic)))
        {
            let followers = topics.entry(topic).or_default();
            if !followers.iter().any(|(known, _)| known == function) {
                followers.push((function.clone(), *from));
            }
        }
    }
    topics.into_iter().collect()
}

fn start_worker(index: usize, shared: &Arc<Shared>, jobs: mpsc::UnboundedReceiver<Job>) -> io::Result<Worker> {
    let (end, ended) = oneshot::channel();
    let (started, start) = std::sync::mpsc::channel();
    let shared = Arc::clone(shared);
    let run = move || {
        if let Err(error) = rustix::process::nice(NICE) {
            tracing::debug!(%error, "deliveries run as often as requests");
        }
        // On this thread, since the runtime's scheduling of guests has a part in each thread.
        let runtime = match minnow_runtime::worker::build() {
            Ok(runtime) => runtime,
            Err(error) => {
                let _ = started.send(Err(error));
                return;
            }
        };
        let _ = started.send(Ok(()));
        drop(started);
        runtime.block_on(serve(&shared, jobs));
        // Drops the tasks that are left, and with them their sandboxes; does not wait for a disk that hangs.
        runtime.shutdown_background();
        drop(shared);
        let _ = end.send(());
    };
    let thread = thread::Builder::new().name(format!("events-{index}")).spawn(run)?;
    match start.recv() {
        Ok(started) => started.map(|()| Worker { thread, ended }),
        Err(_) => Err(io::Error::other("the thread ended at once")),
    }
}

/// One thread, from its start to its end.
async fn serve(shared: &Arc<Shared>, mut jobs: mpsc::UnboundedReceiver<Job>) {
    let mut stop = shared.stop.subscribe();
    let mut tasks = JoinSet::new();
    let deadline = loop {
        tokio::select! {
            biased;
            _ = stop.changed() => break (*stop.borrow()).unwrap_or_else(Instant::now),
            Some(ended) = tasks.join_next(), if !tasks.is_empty() => note_panic(ended),
            job = jobs.recv() => match job {
                Some(Job::Follower(follower)) => drop(tasks.spawn(dispatch::run(Arc::clone(shared), follower))),
                Some(Job::Tick(schedule, tick, id)) => {
                    drop(tasks.spawn(schedules::run(Arc::clone(shared), schedule, tick, id)));
                }
                Some(Job::Lane(lane)) => drop(tasks.spawn(invokes::run(Arc::clone(shared), lane))),
                None => break Instant::now(),
            },
        }
    };
    let through = async {
        while let Some(ended) = tasks.join_next().await {
            note_panic(ended);
        }
    };
    // The tasks end by the deadline themselves, but for what they write then.
    let _ = tokio::time::timeout_at(deadline + AFTER_DEADLINE, through).await;
}

fn note_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a delivery broke down; it is taken up again");
    }
}
