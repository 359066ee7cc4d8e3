//! WASI 0.3 instances that stay warm and serve several requests at once.
//!
//! A function has a crew of hands. A hand is one instance in one task; it takes jobs for as long as it waits for I/O, and is
//! left alone while it computes. What goes wrong in an instance (a trap, a limit) ends all the calls in it: that is the
//! price of sharing it, and why `fresh` is the default.

use std::{
    collections::VecDeque,
    future::poll_fn,
    pin::pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    task::Poll,
    thread::{self, ThreadId},
    time::{Duration, Instant},
};

use futures::{StreamExt as _, stream::FuturesUnordered};
use minnow_model::{Level, LogSource, problem::Code as ProblemCode};
use tokio::sync::{mpsc, oneshot};
use wasmtime::{AsContextMut as _, component::Accessor};
use wasmtime_wasi_http::p3::bindings::Service;

use super::{
    Answer, Code,
    code::Entry,
    failure::{self, Limit},
    first_piece::Idle,
    http03,
    state::{self, GuestState, Owner},
};
use crate::{
    Function,
    invocation::Invocation,
    meter::{Meter, Run, monotonic_ns},
    runtime::{IdleInstance, Place, WARM_IDLE},
};

/// Requests that one instance serves before it is replaced; see `http02`.
const MAX_REUSE: u32 = 1_000;

/// Calls in one instance at once. Beyond that another instance starts: a trap then ends at most this many requests.
const MAX_TOGETHER: u32 = 32;

/// How often a hand looks whether a guest that is at work has outlived its limit without coming back to the host.
const CHECK: Duration = Duration::from_millis(100);

/// The warm instances of one function.
#[derive(Default)]
pub(crate) struct Crew(Mutex<VecDeque<Arc<Hand>>>);

/// One warm instance.
pub(crate) struct Hand {
    pub(crate) function: Arc<Function>,
    pub(crate) meter: Meter,
    jobs: mpsc::UnboundedSender<Job>,
    queue: Mutex<mpsc::UnboundedReceiver<Job>>,
    thread: ThreadId,
    code: Arc<Code>,
    /// Calls that were given to it and have not ended. Bounds `jobs`.
    in_flight: AtomicU32,
    given: AtomicU32,
    retired: AtomicBool,
    /// A call was given up that the guest may still be at work for.
    has_abandoned: AtomicBool,
    /// Whether its instance could be made.
    is_up: AtomicBool,
    /// The guest waits in a call of the host's that blocks (a WASI 0.2 poll, a sleep): until it comes back no call can begin.
    is_blocked: AtomicBool,
    /// When the host's side of the instance last had its turn, on the monotonic clock in nanoseconds.
    back_ns: AtomicU64,
    /// The guest has done all that it does after its responses.
    is_at_rest: AtomicBool,
    /// CPU time that the guest used while no call was in it, in nanoseconds.
    unasked_ns: AtomicU64,
    memory_bytes: AtomicU64,
    memory_refused: Mutex<Option<ProblemCode>>,
    /// CPU time since the guest last came back to the host, in nanoseconds.
    computing_ns: AtomicU64,
    /// The calls in it, each with `each_ns` when it began.
    calls: Mutex<Vec<(Arc<Run>, u64)>>,
    /// CPU time that a call would have been charged if it had been in the instance all the time, in nanoseconds: what the
    /// calls used, each poll divided by those in flight. A call's CPU time is the difference over its life.
    each_ns: AtomicU64,
    /// How much of the poll that runs now is in `each_ns` or `unasked_ns` already, in nanoseconds.
    settled_ns: AtomicU64,
    /// Calls that were dropped before they ended, since the instance failed. Their places are kept until it is gone: the next
    /// one may find the pool full otherwise.
    broken_off: Mutex<Vec<(Arc<Run>, Option<Place>)>>,
    idle: Idle,
}

/// A request that waits for a hand.
pub(super) struct Job {
    pub(super) run: Arc<Run>,
    pub(super) place: Place,
    pub(super) invocation: Invocation,
    pub(super) answer: oneshot::Sender<Answer>,
}

/// Gives a request to a hand of this thread that has room, or to a new one.
pub(super) fn dispatch(code: Arc<Code>, mut job: Job) {
    let function = Arc::clone(&job.run.function);
    let here = thread::current().id();
    let mut hands = function.crew().0.lock().unwrap_or_else(PoisonError::into_inner);
    for hand in hands.iter().filter(|hand| hand.thread == here && hand.has_room(&code)) {
        match hand.give(job) {
            None => return,
            Some(back) => job = back,
        }
    }
    let (jobs, queue) = mpsc::unbounded_channel();
    let hand = Arc::new(Hand {
        function: Arc::clone(&function),
        meter: Meter::default(),
        jobs,
        queue: Mutex::new(queue),
        thread: here,
        code,
        in_flight: AtomicU32::new(0),
        given: AtomicU32::new(0),
        retired: AtomicBool::new(false),
        has_abandoned: AtomicBool::new(false),
        is_up: AtomicBool::new(false),
        is_blocked: AtomicBool::new(false),
        back_ns: AtomicU64::new(monotonic_ns()),
        is_at_rest: AtomicBool::new(false),
        unasked_ns: AtomicU64::new(0),
        memory_bytes: AtomicU64::new(0),
        memory_refused: Mutex::default(),
        computing_ns: AtomicU64::new(0),
        calls: Mutex::default(),
        each_ns: AtomicU64::new(0),
        settled_ns: AtomicU64::new(0),
        broken_off: Mutex::default(),
        idle: Idle::default(),
    });
    // The queue cannot be closed yet.
    let _ = hand.give(job);
    hands.push_back(Arc::clone(&hand));
    drop(hands);
    tokio::spawn(work(hand));
}

impl Hand {
    fn has_room(&self, code: &Arc<Code>) -> bool {
        !self.retired.load(Relaxed)
            && Arc::ptr_eq(&self.code, code)
            && self.in_flight.load(Relaxed) < MAX_TOGETHER
            && self.given.load(Relaxed) < MAX_REUSE
            && !self.meter.is_suspended()
            && !self.is_blocked.load(Relaxed)
    }

    /// Gives the job back when the hand takes none any more.
    fn give(&self, job: Job) -> Option<Job> {
        self.in_flight.fetch_add(1, Relaxed);
        if let Err(back) = self.jobs.send(job) {
            self.in_flight.fetch_sub(1, Relaxed);
            return Some(back.0);
        }
        self.given.fetch_add(1, Relaxed);
        None
    }

    /// The guest is back at the host: what computes from now on is another computation, perhaps another call's. Never
    /// ready.
    fn came_back(&self) -> Poll<()> {
        self.computing_ns.store(0, Relaxed);
        self.back_ns.store(monotonic_ns(), Relaxed);
        self.is_blocked.store(false, Relaxed);
        Poll::Pending
    }

    /// Called at the end of each slice of computing.
    pub(super) fn check(&self) -> Result<(), Limit> {
        let limits = &self.function.spec().limits;
        let computing = Duration::from_nanos(self.computing_ns.load(Relaxed)) + self.meter.current();
        if computing > limits.cpu { Err(Limit::Cpu) } else { Ok(()) }
    }

    pub(crate) fn holds_memory(&self, bytes: u64) {
        self.memory_bytes.store(bytes, Relaxed);
        for (run, _) in self.calls.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            run.holds_memory(bytes);
        }
    }

    pub(crate) fn refuse_memory(&self, why: ProblemCode) {
        *self.memory_refused.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
    }

    fn retire(self: &Arc<Self>) {
        if !self.retired.swap(true, Relaxed) {
            let mut hands = self.function.crew().0.lock().unwrap_or_else(PoisonError::into_inner);
            hands.retain(|hand| !Arc::ptr_eq(hand, self));
        }
    }

    /// Every call in the instance fails for the same reason. Returns the places that are free once the instance is gone.
    fn fail(&self, error: &wasmtime::Error) -> Vec<Place> {
        let broken_off = self.take_broken_off();
        let calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let mut failed: Vec<Arc<Run>> = calls.iter().map(|(run, _)| Arc::clone(run)).collect();
        drop(calls);
        failed.extend(broken_off.iter().map(|(run, _)| Arc::clone(run)));
        if failed.is_empty() && self.is_up.load(Relaxed) {
            // It went on after its answers, and no call is left to tell it of.
            let message = format!("stopped after its last answer: {error:?}");
            self.function.log(Level::Error, LogSource::Node, None, message);
        }
        for run in &failed {
            self.fail_one(run, error);
        }
        broken_off.into_iter().filter_map(|(_, place)| place).collect()
    }

    fn take_broken_off(&self) -> Vec<(Arc<Run>, Option<Place>)> {
        std::mem::take(&mut *self.broken_off.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Gives calls that cannot begin, since the guest waits in a call that blocks, to other hands.
    fn give_away(&self) {
        // Whatever waits here after a poll was not taken in it (or has come from another thread since, on the control API's
        // runtime, and starts an instance more). A guest that computes goes on within milliseconds, and one that is not up yet
        // would not be up elsewhere either.
        let begun = self.calls.lock().unwrap_or_else(PoisonError::into_inner).len();
        let is_waited_for = self.in_flight.load(Relaxed) as usize > begun;
        if !is_waited_for || !self.is_up.load(Relaxed) || self.meter.is_suspended() {
            return;
        }
        self.is_blocked.store(true, Relaxed);
        loop {
            let Ok(job) = self.queue.lock().unwrap_or_else(PoisonError::into_inner).try_recv() else { return };
            self.in_flight.fetch_sub(1, Relaxed);
            self.given.fetch_sub(1, Relaxed);
            dispatch(Arc::clone(&self.code), job);
        }
    }

    fn fail_one(&self, run: &Run, error: &wasmtime::Error) {
        if let Some(why) = *self.memory_refused.lock().unwrap_or_else(PoisonError::into_inner) {
            run.refuse_memory(why);
        }
        failure::note(run, error);
    }

    /// Shares the CPU time since the last settling among the calls in flight. `poll_ns` is the CPU time of the poll so far.
    fn settle(&self, calls: usize, poll_ns: u64) {
        let spent = poll_ns.saturating_sub(self.settled_ns.swap(poll_ns, Relaxed));
        match u64::try_from(calls) {
            Ok(calls @ 1..) => self.each_ns.fetch_add(spent / calls, Relaxed),
            // A guest may go on after its response, but not for ever.
            _ => self.unasked_ns.fetch_add(spent, Relaxed),
        };
    }

    fn settle_now(&self, calls: usize) {
        self.settle(calls, u64::try_from(self.meter.current().as_nanos()).unwrap_or(u64::MAX));
    }

    /// What the guest did without a call is the function's, and forgiven: another call has come.
    fn account_unasked(&self) {
        match self.unasked_ns.swap(0, Relaxed) {
            0 => {}
            unasked_ns => self.function.metrics().used_cpu(Duration::from_nanos(unasked_ns)),
        }
    }

    /// Ends the account of a poll that took `spent_ns` of CPU time, and tells whether a call is beyond its limit.
    fn charge(&self, spent_ns: u64) -> Option<Limit> {
        if self.meter.is_suspended() {
            self.computing_ns.fetch_add(spent_ns, Relaxed);
        } else {
            self.computing_ns.store(0, Relaxed);
        }
        let calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        self.settle(calls.len(), spent_ns);
        self.settled_ns.store(0, Relaxed);
        let each = self.each_ns.load(Relaxed);
        // The oldest call has used most.
        let most = match calls.iter().map(|(_, began)| *began).min() {
            None => self.unasked_ns.load(Relaxed),
            Some(began) => each.saturating_sub(began),
        };
        (Duration::from_nanos(most) > self.function.spec().limits.cpu).then_some(Limit::Cpu)
    }

    /// Whether the guest is at work, for a call or after its last response.
    fn is_at_work(&self) -> bool {
        self.in_flight.load(Relaxed) > 0 || !self.is_at_rest.load(Relaxed)
    }

    /// Whether a timer of the host's side should have ended a call, or what comes after it, and could not, because the guest
    /// does not come back.
    fn is_overdue(&self) -> bool {
        let timeout = self.function.spec().limits.timeout + CHECK;
        let away = Duration::from_nanos(monotonic_ns().saturating_sub(self.back_ns.load(Relaxed)));
        let calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        away > timeout || calls.iter().any(|(run, _)| run.started.elapsed() > timeout)
    }
}

/// One call of a hand, counted until it is dropped.
struct Call<'a> {
    hand: &'a Hand,
    run: Arc<Run>,
    has_ended: bool,
    place: Option<Place>,
}

impl<'a> Call<'a> {
    fn begin(hand: &'a Hand, run: Arc<Run>, place: Place) -> Self {
        run.holds_memory(hand.memory_bytes.load(Relaxed));
        let mut calls = hand.calls.lock().unwrap_or_else(PoisonError::into_inner);
        hand.settle_now(calls.len());
        hand.account_unasked();
        hand.is_at_rest.store(false, Relaxed);
        if calls.is_empty() {
            // What an earlier call was refused says nothing of this one.
            *hand.memory_refused.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        calls.push((Arc::clone(&run), hand.each_ns.load(Relaxed)));
        drop(calls);
        Self { hand, run, has_ended: false, place: Some(place) }
    }

    /// The call is over; the guest may still be at work for it. Gives the place back to the one who knows.
    fn end(mut self) -> Option<Place> {
        self.has_ended = true;
        self.place.take()
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        let mut calls = self.hand.calls.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(index) = calls.iter().position(|(run, _)| Arc::ptr_eq(run, &self.run)) {
            self.hand.settle_now(calls.len());
            let (run, began) = calls.swap_remove(index);
            run.meter.charge_ns(self.hand.each_ns.load(Relaxed).saturating_sub(began));
            if !self.has_ended {
                let broken_off = (run, self.place.take());
                self.hand.broken_off.lock().unwrap_or_else(PoisonError::into_inner).push(broken_off);
            }
        }
        self.hand.in_flight.fetch_sub(1, Relaxed);
    }
}

/// The life of a hand: until it has served enough, has been idle, or its instance fails.
async fn work(hand: Arc<Hand>) {
    let _retire = RetireOnDrop(&hand);
    let mut failed = None;
    let mut places = Vec::new();
    {
        let instance = pin!(serve(&hand));
        let mut instance = pin!(hand.idle.drive_to_rest(instance));
        let mut check = tokio::time::interval(CHECK);
        check.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        poll_fn(|cx| {
            let (polled, spent) = hand.meter.poll(&mut instance, cx);
            let error = match (hand.charge(spent), polled) {
                (Some(limit), _) => limit.into(),
                (None, Poll::Ready(Err(error))) => error,
                (None, Poll::Ready(Ok(()))) => return Poll::Ready(()),
                (None, Poll::Pending) => {
                    hand.give_away();
                    // The timer only runs while the guest is at work; an idle hand sleeps.
                    while hand.is_at_work() && check.poll_tick(cx).is_ready() {
                        if hand.is_overdue() {
                            places = hand.fail(&Limit::Time.into());
                            failed = Some(Limit::Time.into());
                            return Poll::Ready(());
                        }
                    }
                    return Poll::Pending;
                }
            };
            // Noted before the instance is dropped, since that wakes those who wait for an answer.
            places = hand.fail(&error);
            failed = Some(error);
            Poll::Ready(())
        })
        .await;
    }
    drop((places, hand.take_broken_off()));
    hand.retire();
    let left: Vec<Job> = {
        let mut queue = hand.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.close();
        std::iter::from_fn(|| queue.try_recv().ok()).collect()
    };
    for job in left {
        match &failed {
            // An instance that cannot be made could not be made for the next hand either.
            Some(error) if !hand.is_up.load(Relaxed) => hand.fail_one(&job.run, error),
            // Jobs that had not begun go to another hand.
            _ => dispatch(Arc::clone(&hand.code), job),
        }
    }
}

/// Takes a hand out of its crew also when its task is dropped.
struct RetireOnDrop<'a>(&'a Arc<Hand>);

impl Drop for RetireOnDrop<'_> {
    fn drop(&mut self) {
        self.0.retire();
        self.0.account_unasked();
    }
}

/// Ends when the instance is of no more use: it was idle for long, there is no room for idle ones, the guest does not come to
/// an end of what it does after its responses, or it has kept a lock or the like, which ends with the instance.
///
/// Until the guest is at rest the instance keeps the place of its last call: it is one of those that run, for which the pool
/// has room, and not one of those that wait.
async fn until_useless(
    accessor: &Accessor<GuestState>,
    hand: &Hand,
    place: &mut Option<Place>,
    waits: &mut Option<IdleInstance>,
) {
    if !comes_to_rest(accessor, hand).await || accessor.with(|mut store| store.data_mut().holds_stores()) {
        return;
    }
    hand.is_at_rest.store(true, Relaxed);
    *waits = IdleInstance::begin(hand.function.runtime());
    if waits.is_some() {
        drop(place.take());
        tokio::time::sleep(WARM_IDLE).await;
    }
}

/// Waits until the guest has done what it does after its responses. False when it does not come to an end.
async fn comes_to_rest(accessor: &Accessor<GuestState>, hand: &Hand) -> bool {
    let at_rest = poll_fn(|cx| accessor.poll_no_interesting_tasks(cx));
    tokio::time::timeout(hand.function.spec().limits.timeout, at_rest).await.is_ok()
}

async fn serve(hand: &Arc<Hand>) -> wasmtime::Result<()> {
    let Entry::Http03(pre) = &hand.code.entry else { wasmtime::bail!("not an HTTP 0.3 component") };
    let began = Instant::now();
    // Dropped after the store: otherwise the next one may find the pool full before the instance is gone.
    let (mut last_place, mut waits) = (None, None);
    let mut store = state::store(&hand.code, GuestState::new(&hand.function, Owner::Hand(Arc::clone(hand))));
    let service = pre.instantiate_async(&mut store).await?;
    hand.function.metrics().instantiated(began.elapsed());
    hand.is_up.store(true, Relaxed);
    store
        .run_concurrent(async |accessor| {
            let mut calls = FuturesUnordered::new();
            let mut is_done = false;
            // Calls that wait are in flight, too.
            while !(hand.retired.load(Relaxed) && hand.in_flight.load(Relaxed) == 0) {
                let is_idle = calls.is_empty();
                tokio::select! {
                    biased;
                    // Asked whenever the guest has come back; within one poll a call may end and another begin.
                    () = poll_fn(|_| hand.came_back()) => {}
                    Some(ended) = calls.next(), if !is_idle => {
                        let place: Option<Place> = ended?;
                        last_place = place.filter(|_| calls.is_empty());
                    }
                    Some(job) = poll_fn(|cx| hand.queue.lock().unwrap_or_else(PoisonError::into_inner).poll_recv(cx)) => {
                        (last_place, waits) = (None, None);
                        calls.push(serve_one(accessor, &service, hand, job));
                    }
                    () = until_useless(accessor, hand, &mut last_place, &mut waits), if is_idle => {
                        is_done = true;
                        break;
                    }
                }
                if hand.given.load(Relaxed) >= MAX_REUSE {
                    hand.retire();
                }
            }
            if !is_done && !hand.has_abandoned.load(Relaxed) {
                // It has served enough; what it does after its last responses may come to its end.
                comes_to_rest(accessor, hand).await;
            }
            wasmtime::error::Ok(())
        })
        .await?
}

/// One call, until its response is through.
async fn serve_one(
    accessor: &Accessor<GuestState>,
    service: &Service,
    hand: &Arc<Hand>,
    job: Job,
) -> wasmtime::Result<Option<Place>> {
    let Job { run, place, invocation, answer } = job;
    // A slice begins with what it is for, not with the last slice of long ago. Nothing computes while this runs.
    accessor.with(|mut store| store.as_context_mut().set_epoch_deadline(1));
    let call = Call::begin(hand, Arc::clone(&run), place);
    let (sent, through) = oneshot::channel();
    let whole = async {
        let is_wanted = http03::call(accessor, service, &run, &hand.idle, invocation, answer, Some(sent)).await?;
        // The sender is dropped with the response body.
        let _ = through.await;
        wasmtime::error::Ok(is_wanted)
    };
    let deadline = run.started + hand.function.spec().limits.timeout;
    match tokio::time::timeout_at(deadline.into(), whole).await {
        Ok(Ok(is_wanted)) => {
            if !is_wanted {
                // The guest goes on with what nobody waits for; it takes no more, and goes when the others end.
                hand.has_abandoned.store(true, Relaxed);
                hand.retire();
            }
            Ok(call.end())
        }
        Ok(Err(error)) => Err(error),
        Err(_) => {
            // The guest cannot be made to give up one call, so this instance takes no more and goes when the others end.
            failure::note_timeout(&run);
            hand.has_abandoned.store(true, Relaxed);
            hand.retire();
            Ok(call.end())
        }
    }
}
