//! The task of one function, while there is something to do for it: tries what is due, and tells destinations.

use std::{
    collections::{HashMap, HashSet},
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use futures::{StreamExt as _, stream::FuturesUnordered};
use minnow_model::{Level, RequestId, event::Async, problem::Code};
use minnow_runtime::{
    Delivered, Function, LiveVersion, TraceContext,
    stored::{StoredRequest, Try},
};
use minnow_store::StoreError;
use tokio::sync::{Notify, watch};

use super::{
    judge::{Verdict, expired, judge},
    rows::{End, Key, OpenRun, RunState},
};
use crate::{
    dispatch::{LOOK_FOR_PLACE, MAX_BATCHES},
    events::{Job, Shared},
    pause::Pause,
    subscriptions::choose,
    timer::What,
};

/// Tries of one function at once: as deliveries of one topic to it.
const MAX_TRIES: usize = MAX_BATCHES;

/// When runs of an app that is not live are looked at again.
const LOOK_FOR_APP_MS: u64 = 60_000;

/// When something is written again that the disk did not take, and when a task is taken up again that broke down or could not read.
const AGAIN: Duration = Duration::from_secs(1);
const AGAIN_MS: u64 = 1000;

/// The functions that have something to do, and what runs at this moment.
pub(crate) struct Lanes {
    /// There are at most as many as functions that have open runs.
    lanes: Mutex<HashMap<Key, State>>,
    running: Mutex<HashSet<RequestId>>,
    /// Those of before the start, until something is live.
    found: Mutex<Vec<Key>>,
}

/// How it stands with a function.
struct State {
    /// Its place in the timer.
    number: u64,
    has_task: bool,
    /// Something is new since the task looked.
    is_told: bool,
    told: Arc<Notify>,
}

/// What a task gets.
#[derive(Debug, Clone)]
pub(crate) struct Lane {
    key: Key,
    number: u64,
    /// Tells the task that there is something new.
    told: Arc<Notify>,
}

impl Lanes {
    /// `found` are the functions that have something to do at the start.
    pub(crate) fn new(found: Vec<Key>) -> Self {
        Self { lanes: Mutex::default(), running: Mutex::default(), found: Mutex::new(found) }
    }

    /// Whether the run is being tried.
    pub(crate) fn is_running(&self, id: RequestId) -> bool {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).contains(&id)
    }

    fn begin(&self, id: RequestId) -> Running<'_> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).insert(id);
        Running(self, id)
    }

    fn lanes(&self) -> MutexGuard<'_, HashMap<Key, State>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// There is something new for a function. Answers a task that is to be started for it.
    fn wake(&self, key: &Key, number: impl FnOnce() -> u64) -> Option<Lane> {
        let mut lanes = self.lanes();
        let state = lanes.entry(key.clone()).or_insert_with(|| State {
            number: number(),
            has_task: false,
            is_told: false,
            told: Arc::default(),
        });
        if state.has_task {
            state.is_told = true;
            state.told.notify_one();
            return None;
        }
        state.has_task = true;
        Some(Lane { key: key.clone(), number: state.number, told: Arc::clone(&state.told) })
    }

    /// The task ends, unless there is something new: whether it ends. Without `is_due` there is nothing left to do.
    fn rest(&self, key: &Key, is_due: bool) -> bool {
        let mut lanes = self.lanes();
        let Some(state) = lanes.get_mut(key) else { return true };
        if std::mem::take(&mut state.is_told) {
            return false;
        }
        state.has_task = false;
        if !is_due {
            lanes.remove(key);
        }
        true
    }
}

/// A run that is being tried, for as long as this is there.
struct Running<'a>(&'a Lanes, RequestId);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.1);
    }
}

impl Shared {
    /// Has a task look after the asynchronous invokes of a function.
    pub(crate) fn wake_lane(&self, key: &Key) {
        if let Some(lane) = self.lanes.wake(key, || self.number()) {
            self.send(lane.number, Job::Lane(lane));
        }
    }

    /// What is live has changed: what waits for that is looked at.
    pub(crate) fn wake_lanes(&self) {
        let mut keys = std::mem::take(&mut *self.lanes.found.lock().unwrap_or_else(PoisonError::into_inner));
        keys.extend(self.lanes.lanes().keys().cloned());
        keys.iter().for_each(|key| self.wake_lane(key));
    }
}

/// Does what there is to do for the function, until there is nothing or the node stops.
pub(crate) async fn run(shared: Arc<Shared>, lane: Lane) {
    let mut guard = Guard { shared: &shared, lane: &lane, has_ended: false };
    let mut task = Task {
        shared: &shared,
        lane: &lane,
        pause: Pause::default(),
        under_way: FuturesUnordered::new(),
        ids: HashSet::new(),
        stop: shared.stop.subscribe(),
        changes: shared.live.changes(),
    };
    task.work().await;
    guard.has_ended = true;
}

/// Has a task that broke down taken up again.
struct Guard<'a> {
    shared: &'a Shared,
    lane: &'a Lane,
    has_ended: bool,
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if !self.has_ended {
            self.shared.lanes.rest(&self.lane.key, true);
            let again = self.shared.now_ms() + AGAIN_MS;
            self.shared.timer.set(self.lane.number, again, What::Lane(self.lane.key.clone()));
        }
    }
}

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

struct Task<'a> {
    shared: &'a Arc<Shared>,
    lane: &'a Lane,
    pause: Pause,
    under_way: FuturesUnordered<Boxed<Ended>>,
    /// The runs that are under way.
    ids: HashSet<RequestId>,
    stop: watch::Receiver<Option<tokio::time::Instant>>,
    changes: watch::Receiver<u64>,
}

/// What was under way and is not any more, and why there was no room for it.
struct Ended {
    id: RequestId,
    not_now: Option<(Code, Option<Duration>)>,
}

/// How to go on.
enum Step {
    /// There may be more.
    Again,
    /// Something has to happen first, or a time to come.
    Wait(Option<Instant>),
    /// There is nothing until then, in milliseconds since 1970.
    Nothing(Option<u64>),
}

impl Task<'_> {
    async fn work(&mut self) {
        loop {
            if self.shared.is_stopping() {
                // Each ends by the deadline itself.
                while self.under_way.next().await.is_some() {}
                return;
            }
            let step = match self.step().await {
                Ok(step) => step,
                Err(error) => {
                    let Key { app, function, .. } = &self.lane.key;
                    tracing::warn!(%app, %function, %error, "asynchronous invokes wait: they cannot be read");
                    Step::Wait(Some(Instant::now() + AGAIN))
                }
            };
            match step {
                Step::Again => {}
                Step::Wait(until) => self.wait(until).await,
                Step::Nothing(due_ms) => {
                    if let Some(due_ms) = due_ms {
                        self.shared.timer.set(self.lane.number, due_ms, What::Lane(self.lane.key.clone()));
                    }
                    if self.shared.lanes.rest(&self.lane.key, due_ms.is_some()) {
                        return;
                    }
                }
            }
        }
    }

    /// Begins one more thing, if that can be.
    async fn step(&mut self) -> Result<Step, StoreError> {
        if self.under_way.len() >= MAX_TRIES {
            return Ok(Step::Wait(None));
        }
        if let Some(until) = self.pause.until(Instant::now()) {
            return Ok(Step::Wait(Some(until)));
        }
        let found = self.shared.rows.due(self.lane.key.clone(), self.ids.len() + 1).await?;
        let is_quiet = self.under_way.is_empty();
        let Some((id, due_ms)) = found.into_iter().find(|(id, _)| !self.ids.contains(id)) else {
            return Ok(if is_quiet { Step::Nothing(None) } else { Step::Wait(None) });
        };
        let now_ms = self.shared.now_ms();
        if due_ms > now_ms {
            let left = Duration::from_millis(due_ms - now_ms);
            return Ok(if is_quiet { Step::Nothing(Some(due_ms)) } else { Step::Wait(Some(Instant::now() + left)) });
        }
        // It may have gone with its app.
        let Some(mut open) = self.shared.rows.open_run(id).await? else { return Ok(Step::Again) };
        let Some(request) = open.request.take() else {
            self.begin(id, |shared, key| Box::pin(super::tell::tell(shared, key, open)));
            return Ok(Step::Again);
        };
        let Key { tenant, app, function } = &self.lane.key;
        let live = self.shared.app(tenant, app);
        let choice = live.as_ref().and_then(|live| choose(live, function, |_| true, rand::random_range(0..100)));
        let own = choice.as_ref().and_then(|choice| choice.newest.spec().asynchronous.as_deref());
        let settings = match (&choice, own) {
            (Some(_), Some(own)) => own.clone(),
            (Some(_), None) => Async::default(),
            // As the function was when it was invoked.
            (None, _) => open.settings.clone(),
        };
        if let Some(reason) = expired(&settings, open.status.created_ms, now_ms, open.status.reason.as_deref()) {
            self.fail(open, settings, reason);
            return Ok(Step::Again);
        }
        let Some(choice) = choice else {
            if live.is_none() {
                let again_ms = now_ms + LOOK_FOR_APP_MS;
                return Ok(if is_quiet { Step::Nothing(Some(again_ms)) } else { Step::Wait(None) });
            }
            self.fail(open, settings, "no live version has the function any more".into());
            return Ok(Step::Again);
        };
        if !self.shared.runtime.has_place_for_delivery(&choice.picked) {
            if is_quiet {
                self.pause_for(Code::Overloaded, None);
                return Ok(Step::Again);
            }
            return Ok(Step::Wait(Some(Instant::now() + LOOK_FOR_PLACE)));
        }
        let Key { tenant, app, .. } = &self.lane.key;
        let Some(room) = self.shared.room.take(tenant, app, request.body.len()) else {
            return Ok(Step::Wait(Some(Instant::now() + LOOK_FOR_PLACE)));
        };
        let (picked, version) = (choice.picked, choice.version);
        self.begin(id, |shared, key| {
            Box::pin(async move {
                let ended = attempt(&shared, &key, open, request, settings, &picked, &version).await;
                drop(room);
                ended
            })
        });
        Ok(Step::Again)
    }

    fn begin(&mut self, id: RequestId, what: impl FnOnce(Arc<Shared>, Key) -> Boxed<Option<(Code, Option<Duration>)>>) {
        self.ids.insert(id);
        let what = what(Arc::clone(self.shared), self.lane.key.clone());
        self.under_way.push(Box::pin(async move { Ended { id, not_now: what.await } }));
    }

    /// Ends a run that is not tried any more.
    fn fail(&mut self, open: OpenRun, settings: Async, reason: String) {
        let (id, tries) = (open.status.id, open.status.tries);
        self.begin(id, |shared, key| {
            Box::pin(async move {
                tracing::info!(app = %key.app, function = %key.function, run = %id, reason, "an asynchronous invoke is given up");
                shared.metrics.async_invokes(&key.tenant, &key.app, &key.function).failed.add(1);
                let end = End {
                    state: RunState::Failed,
                    tries,
                    finished_ms: shared.now_ms(),
                    reason: Some(reason),
                    answer: None,
                    destination: settings.on_failure,
                };
                write(&shared, || shared.rows.end(id, end.clone())).await;
                None
            })
        });
    }

    /// Waits until something has ended, is new, or `until` has come.
    async fn wait(&mut self, until: Option<Instant>) {
        let time = async {
            match until {
                Some(until) => tokio::time::sleep_until(until.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Some(ended) = self.under_way.next(), if !self.under_way.is_empty() => self.ended(ended),
            () = self.lane.told.notified() => {}
            () = time => {}
            // What was missing may be there now. An error means that nobody is left who could change anything.
            Ok(()) = self.changes.changed() => self.pause.look(),
            // An error means that nobody is left who could ask.
            _ = self.stop.changed() => {}
        }
    }

    fn ended(&mut self, Ended { id, not_now }: Ended) {
        self.ids.remove(&id);
        match not_now {
            Some((code, after)) => self.pause_for(code, after),
            None => {
                let Key { app, function, .. } = &self.lane.key;
                if let Some(paused) = self.pause.end(Instant::now()) {
                    tracing::info!(%app, %function, s = paused.as_secs(), "asynchronous invokes go on");
                }
            }
        }
    }

    fn pause_for(&mut self, code: Code, after: Option<Duration>) {
        let Key { app, function, .. } = &self.lane.key;
        if self.pause.extend(code, after, Instant::now()) {
            let reason = code.as_str();
            tracing::warn!(%app, %function, reason, "asynchronous invokes have paused for more than 10 s");
        }
    }
}

/// Tries a run, and writes down what it came to. Answers why there was no room for it.
async fn attempt(
    shared: &Arc<Shared>,
    key: &Key,
    open: OpenRun,
    request: StoredRequest,
    settings: Async,
    picked: &Arc<Function>,
    version: &Arc<LiveVersion>,
) -> Option<(Code, Option<Duration>)> {
    let (id, before) = (open.status.id, open.status.tries);
    let trace = TraceContext { span_id: rand::random::<u64>().max(1), parent_id: None, flags: 0 };
    let host = shared.host(&key.app);
    let running = shared.lanes.begin(id);
    let number = before.saturating_add(1);
    let script_len = |request: &_| version.script_len(request, &key.function);
    let ran = shared.runtime.run_stored(picked, Try { id, number }, trace, &host, script_len, &request);
    let (delivered, answer) = tokio::select! {
        ran = ran => ran,
        () = shared.deadline() => {
            // It is tried again when the node runs again.
            shared.cut(1);
            return None;
        }
    };
    let metrics = shared.metrics.async_invokes(&key.tenant, &key.app, &key.function);
    let now_ms = shared.now_ms();
    let end = |state, tries, reason, destination| End {
        state,
        tries,
        finished_ms: now_ms,
        reason,
        answer: answer.clone(),
        destination,
    };
    match judge(&delivered, &settings, before, open.status.created_ms, now_ms, rand::random()) {
        Verdict::NotNow(code, after) => return Some((code, after)),
        Verdict::Again { due_ms, tries, reason } => {
            metrics.retry.add(1);
            let status = status_of(&delivered);
            write(shared, || shared.rows.again(id, due_ms, tries, status, &reason)).await;
        }
        Verdict::Succeeded => {
            metrics.succeeded.add(1);
            let end = end(RunState::Succeeded, number, None, settings.on_success.clone());
            write(shared, || shared.rows.end(id, end.clone())).await;
        }
        Verdict::Failed(reason) => {
            metrics.failed.add(1);
            picked.note(
                Level::Error,
                Some(id),
                format!("the asynchronous invoke failed after {number} tries: {reason}"),
            );
            let end = end(RunState::Failed, number, Some(reason), settings.on_failure.clone());
            write(shared, || shared.rows.end(id, end.clone())).await;
        }
    }
    // Until it is written: who asks is told that it runs, and not that it waits.
    drop(running);
    None
}

fn status_of(delivered: &Delivered) -> Option<u16> {
    match delivered {
        Delivered::Answered { status, .. } => Some(*status),
        Delivered::Failed(_) | Delivered::NotNow(..) => None,
    }
}

/// Writes something down, again and again where the disk does not take it: what has happened cannot be taken back. When the node stops
/// before, it happens again after the next start.
pub(super) async fn write<F: Future<Output = Result<(), StoreError>>>(shared: &Shared, what: impl Fn() -> F) {
    let mut is_told = false;
    while let Err(error) = what().await {
        if !std::mem::replace(&mut is_told, true) {
            tracing::error!(%error, "what an asynchronous invoke came to cannot be written; it is tried again every second");
        }
        if shared.is_stopping() {
            return;
        }
        shared.sleep(AGAIN).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> Key {
        Key { tenant: Default::default(), app: "shop".parse().unwrap(), function: "work".parse().unwrap() }
    }

    #[tokio::test]
    async fn a_function_has_one_task_which_learns_of_what_is_new_before_it_ends() {
        let lanes = Lanes::new(Vec::new());
        let lane = lanes.wake(&key(), || 7).unwrap();
        assert_eq!(lane.number, 7);
        assert!(lanes.wake(&key(), || 8).is_none() && lanes.wake(&key(), || 8).is_none());
        lane.told.notified().await;
        assert!(!lanes.rest(&key(), false));
        // One that waits for a time keeps its place in the timer.
        assert!(lanes.rest(&key(), true));
        assert_eq!(lanes.wake(&key(), || 9).unwrap().number, 7);
        // One with nothing to do is forgotten.
        assert!(lanes.rest(&key(), false));
        assert!(lanes.lanes().is_empty());
        assert_eq!(lanes.wake(&key(), || 9).unwrap().number, 9);
    }

    #[test]
    fn a_run_is_running_while_it_is_tried() {
        let lanes = Lanes::new(Vec::new());
        let id = RequestId(3);
        let running = lanes.begin(id);
        assert!(lanes.is_running(id) && !lanes.is_running(RequestId(4)));
        drop(running);
        assert!(!lanes.is_running(id));
    }
}
