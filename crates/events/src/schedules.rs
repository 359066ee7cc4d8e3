//! Functions that run by the clock: when each is due, and its ticks.
//!
//! A tick is noted before it runs, and its note goes when it is done. So the clock, whatever it does, never runs one twice; one that the
//! end of the node cut off is delivered again, as the same event.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use minnow_model::{
    FunctionName, Level, RequestId, Schedule, ScheduleName, Tenant,
    event::{BACKOFF, Missed, Overlap, When},
};
use minnow_runtime::{Delivered, Happening, LiveApp};
use minnow_telemetry::metrics::ScheduleMetrics;

use crate::{
    database::{Key, ScheduleRow, Tick},
    events::{Job, Shared, new_id},
    outcome::MAX_POSTPONED,
    pause::Pause,
    subscriptions::{AppEntry, choose},
    timer::What,
};

/// Ticks of one schedule that wait for the one before. More would be hours of work for a function that cannot keep up.
const MAX_QUEUED_TICKS: usize = 100;

/// Runs of one schedule that somebody asked for and that are not done.
const MAX_ASKED: usize = 100;

/// By how much the clock may be set back before a schedule follows it. Up to then a due time that was seen to does not come again; beyond
/// it, the time before was none. A day: summer time, time zones and most mistakes are less.
const SET_BACK_MS: u64 = 24 * 3600 * 1000;

/// When ticks are noted again that could not be.
const NOTE_AGAIN_MS: u64 = 5000;

/// How late a tick may be and still be no missed one: a node that is very busy is not one that was down.
const LATE_MS: u64 = 60_000;

/// Ticks that were not done when the node stopped.
pub(crate) type Pending = HashMap<Key, Vec<Tick>>;

/// A schedule of a live app.
#[derive(Debug)]
pub(crate) struct ScheduleEntry {
    /// Its place in the timer.
    pub(crate) number: u64,
    pub(crate) key: Key,
    schedule: Schedule,
    /// Goes on when the schedule's other settings change.
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// Where `@every` begins to count, in milliseconds since 1970.
    since_ms: u64,
    /// The last due time that was seen to, in milliseconds since 1970.
    last_ms: Option<u64>,
    is_running: bool,
    /// Runs that somebody asked for, beside the ticks.
    asked: usize,
    /// Due times that wait for the one that runs.
    queue: VecDeque<u64>,
}

/// When a schedule is due next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NextTick {
    pub function: FunctionName,
    pub name: ScheduleName,
    /// The schedule in words: `*/5 * * * * Europe/Oslo`.
    pub when: String,
    /// In milliseconds since 1970; `None` if it is not due any more.
    pub next_ms: Option<u64>,
    /// When it was due last.
    pub last_ms: Option<u64>,
    /// A tick of it runs now.
    pub is_running: bool,
}

/// What is due of a schedule, in milliseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Due {
    Run(u64),
    /// All up to then was missed, and does not run.
    Missed(u64),
    /// Nothing before then; `None` for never.
    NotBefore(Option<u64>),
}

/// What is due now of a schedule that was seen to up to `last_ms`. What was due before `started_ms`, when the node was down, is one tick or
/// none, as the schedule says.
fn due(schedule: &Schedule, since_ms: u64, last_ms: Option<u64>, started_ms: u64, now_ms: u64) -> Due {
    let after_ms = last_ms.unwrap_or(since_ms);
    let next_ms = match schedule.when.next_after(since_ms, after_ms) {
        Some(next_ms) if next_ms <= now_ms => next_ms,
        next_ms => return Due::NotBefore(next_ms),
    };
    if next_ms >= started_ms && now_ms - next_ms <= LATE_MS {
        return Due::Run(next_ms);
    }
    let latest_ms = latest(&schedule.when, since_ms, after_ms, now_ms).unwrap_or(next_ms);
    match schedule.missed {
        Missed::Once => Due::Run(latest_ms),
        Missed::Skip => Due::Missed(latest_ms),
    }
}

/// The last due time after `after_ms` and not after `now_ms`. It looks back from now, each time twice as far, since there may be a million
/// of them.
fn latest(when: &When, since_ms: u64, after_ms: u64, now_ms: u64) -> Option<u64> {
    let is_past = |ms: &u64| *ms <= now_ms;
    let mut back_ms = LATE_MS;
    let mut found = loop {
        let from_ms = now_ms.saturating_sub(back_ms).max(after_ms);
        match when.next_after(since_ms, from_ms).filter(is_past) {
            Some(found) => break found,
            None if from_ms == after_ms => return None,
            None => back_ms = back_ms.saturating_mul(2),
        }
    };
    while let Some(later) = when.next_after(since_ms, found).filter(is_past) {
        found = later;
    }
    Some(found)
}

/// What happens to a tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Start,
    /// It runs after the one before.
    Wait,
    /// It does not run.
    Skip,
}

impl State {
    /// Has a schedule whose last time lies ahead begin now: the clock was ahead then, and is set back. Whether it was so.
    fn correct(&mut self, when: &When, now_ms: u64) -> bool {
        let back_ms = match when {
            // Its times are none of the clock's, so that there is none that must not come twice.
            When::Every(every) => u64::try_from(every.as_millis()).unwrap_or(u64::MAX).max(LATE_MS),
            When::Cron { .. } | When::At(_) => SET_BACK_MS,
        };
        let is_ahead = self.last_ms.unwrap_or_default().max(self.since_ms) > now_ms.saturating_add(back_ms);
        if is_ahead {
            self.since_ms = self.since_ms.min(now_ms);
            self.last_ms = self.last_ms.map(|last_ms| last_ms.min(now_ms));
            if matches!(when, When::Every(_)) {
                (self.since_ms, self.last_ms) = (now_ms, None);
            }
        }
        is_ahead
    }

    /// A tick is due.
    fn take(&mut self, due_ms: u64, overlap: Overlap) -> Fate {
        self.last_ms = self.last_ms.max(Some(due_ms));
        if !self.is_running {
            self.is_running = true;
            return Fate::Start;
        }
        match overlap {
            Overlap::Queue if self.queue.len() < MAX_QUEUED_TICKS => {
                self.queue.push_back(due_ms);
                Fate::Wait
            }
            Overlap::Queue | Overlap::Skip => Fate::Skip,
        }
    }

    /// A tick that was taken cannot be noted: it is as if it had not been.
    fn undo(&mut self, before_ms: Option<u64>, fate: Option<Fate>) {
        self.last_ms = before_ms;
        match fate {
            Some(Fate::Start) => self.is_running = false,
            Some(Fate::Wait) => drop(self.queue.pop_back()),
            Some(Fate::Skip) | None => {}
        }
    }

    /// A tick has ended: the one that runs now.
    fn end(&mut self) -> Option<u64> {
        let next = self.queue.pop_front();
        self.is_running = next.is_some();
        next
    }
}

/// The ticks of each schedule.
pub(crate) fn pending(ticks: Vec<Tick>) -> Pending {
    let mut pending = Pending::new();
    for tick in ticks {
        pending.entry(tick.key.clone()).or_default().push(tick);
    }
    pending
}

impl ScheduleEntry {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When it is due next.
    pub(crate) fn next(&self, now_ms: u64) -> NextTick {
        let state = self.state();
        let after_ms = state.last_ms.unwrap_or(state.since_ms).max(now_ms);
        NextTick {
            function: self.key.function.clone(),
            name: self.key.name.clone(),
            when: self.schedule.when.to_string(),
            next_ms: self.schedule.when.next_after(state.since_ms, after_ms),
            last_ms: state.last_ms,
            is_running: state.is_running,
        }
    }
}

impl Shared {
    /// The schedules of a live app. One that is new, or due at other times than before, begins now; one that the database knows goes on
    /// where it stood.
    pub(crate) async fn schedules_of(
        &self,
        app: &LiveApp,
        tenant: &Tenant,
        before: Option<&AppEntry>,
    ) -> BTreeMap<(FunctionName, ScheduleName), Arc<ScheduleEntry>> {
        let mut wanted: BTreeMap<(FunctionName, ScheduleName), Schedule> = BTreeMap::new();
        // The newest version is the last one, and its settings count.
        for spec in app.shares.iter().flat_map(|(_, version)| &version.functions).map(|function| function.spec()) {
            for schedule in spec.schedules.iter() {
                wanted.insert((spec.function.clone(), schedule.name.clone()), schedule.clone());
            }
        }
        let known = |key: &(FunctionName, ScheduleName)| before.and_then(|before| before.schedules.get(key));
        let gone = before.into_iter().flat_map(|before| before.schedules.keys());
        let mut gone: Vec<_> = gone.filter(|key| !wanted.contains_key(key)).cloned().collect();
        let is_new = |(key, schedule): (&(FunctionName, ScheduleName), &Schedule)| {
            known(key).is_none_or(|known| known.schedule.when != schedule.when)
        };
        // Also of an app that is new here: a crash may have left some that it has not any more.
        let rows = if before.is_none() || wanted.iter().any(is_new) {
            match self.rows.schedules(tenant, &app.name).await {
                Ok(rows) => rows,
                Err(error) => {
                    tracing::error!(app = %app.name, %error, "schedules begin anew: when they were due last cannot be read");
                    Vec::new()
                }
            }
        } else {
            Vec::new()
        };
        let stale = rows.iter().map(|row| (row.function.clone(), row.name.clone()));
        gone.extend(stale.filter(|key| before.is_none() && !wanted.contains_key(key)));
        let now_ms = self.now_ms();
        let mut begun = Vec::new();
        let mut entries = BTreeMap::new();
        for (key, schedule) in wanted {
            let known = known(&key);
            if let Some(known) = known.filter(|known| known.schedule == schedule) {
                entries.insert(key, Arc::clone(known));
                continue;
            }
            let number = known.map_or_else(|| self.number(), |known| known.number);
            let (function, name) = key.clone();
            let due = schedule.when.to_string();
            let state = match known {
                Some(known) if known.schedule.when == schedule.when => Arc::clone(&known.state),
                _ => {
                    let row = rows.iter().find(|row| row.function == function && row.name == name);
                    // What was due before is over, also where the same schedule was due at other times.
                    let (since_ms, last_ms) = match row.filter(|row| row.due == due && known.is_none()) {
                        Some(row) => (row.since_ms, row.last_ms),
                        None => {
                            let (function, name) = (function.clone(), name.clone());
                            begun.push(ScheduleRow { function, name, due, since_ms: now_ms, last_ms: None });
                            (now_ms, None)
                        }
                    };
                    Arc::new(Mutex::new(State { since_ms, last_ms, ..State::default() }))
                }
            };
            let full = Key { tenant: tenant.clone(), app: app.name.clone(), function, name };
            entries.insert(key, Arc::new(ScheduleEntry { number, key: full, schedule, state }));
        }
        if (!begun.is_empty() || !gone.is_empty())
            && let Err(error) = self.rows.change_schedules(tenant, &app.name, begun, gone).await
        {
            tracing::error!(app = %app.name, %error, "what has changed of schedules cannot be written: they begin anew with the node");
        }
        entries
    }

    /// Puts a schedule into the timer, and goes on with the ticks that were cut off.
    pub(crate) fn begin(&self, schedule: &Arc<ScheduleEntry>) {
        let ticks = self.pending.lock().unwrap_or_else(PoisonError::into_inner).remove(&schedule.key);
        for tick in ticks.into_iter().flatten() {
            // All of them, whatever the schedule says of overlaps: they were to run.
            let mut state = schedule.state();
            let fate = if tick.asked {
                state.asked += 1;
                Fate::Start
            } else {
                state.take(tick.due_ms, Overlap::Queue)
            };
            drop(state);
            if fate == Fate::Start {
                self.send(schedule.number, Job::Tick(Arc::clone(schedule), tick, new_id()));
            }
        }
        self.time(schedule);
    }

    /// Puts a schedule into the timer at its next time, whatever was there before.
    pub(crate) fn time(&self, schedule: &Arc<ScheduleEntry>) {
        let Key { app, function, name, .. } = &schedule.key;
        if schedule.state().correct(&schedule.schedule.when, self.now_ms()) {
            tracing::warn!(%app, %function, schedule = %name, "the clock was set back: the schedule goes on from now");
        }
        // The entry may be another one than before.
        self.timer.remove(schedule.number);
        self.set_next(schedule);
    }

    fn set_next(&self, schedule: &Arc<ScheduleEntry>) {
        let (since_ms, last_ms) = {
            let state = schedule.state();
            (state.since_ms, state.last_ms)
        };
        if let Some(next_ms) = schedule.schedule.when.next_after(since_ms, last_ms.unwrap_or(since_ms)) {
            self.timer.set(schedule.number, next_ms, What::Schedule(Arc::clone(schedule)));
        }
    }

    /// Takes a run that somebody asks for. False while as many are under way as may be.
    pub(crate) fn ask(schedule: &ScheduleEntry) -> bool {
        let mut state = schedule.state();
        let may = state.asked < MAX_ASKED;
        state.asked += usize::from(may);
        may
    }

    /// A run that was asked for is done, or did not begin.
    pub(crate) fn asked_for(schedule: &ScheduleEntry) {
        let mut state = schedule.state();
        state.asked = state.asked.saturating_sub(1);
    }

    fn schedule_metrics(&self, key: &Key) -> Arc<ScheduleMetrics> {
        self.metrics.schedules(&key.tenant, &key.app, &key.function)
    }

    /// The schedule as it is live now.
    fn current(&self, key: &Key) -> Option<Arc<ScheduleEntry>> {
        let app = self.entry(&key.tenant, &key.app)?;
        app.schedules.get(&(key.function.clone(), key.name.clone())).map(Arc::clone)
    }

    /// Starts what is due of these schedules: first notes all of it, in one transaction.
    pub(crate) async fn fire(&self, schedules: Vec<Arc<ScheduleEntry>>, now_ms: u64) {
        let mut notes = Vec::new();
        let mut starts = Vec::new();
        // What is undone if it cannot be written.
        let mut taken = Vec::new();
        for schedule in schedules {
            let Some(schedule) = self.current(&schedule.key) else { continue };
            let mut state = schedule.state();
            let tick = |due_ms| Tick { key: schedule.key.clone(), due_ms, asked: false };
            let before_ms = state.last_ms;
            match due(&schedule.schedule, state.since_ms, before_ms, self.started_ms, now_ms) {
                Due::NotBefore(_) => {}
                Due::Missed(due_ms) => {
                    self.schedule_metrics(&schedule.key).missed.add(1);
                    state.last_ms = Some(due_ms);
                    notes.push((tick(due_ms), false));
                    taken.push((Arc::clone(&schedule), before_ms, None));
                }
                Due::Run(due_ms) => {
                    let fate = state.take(due_ms, schedule.schedule.overlap);
                    taken.push((Arc::clone(&schedule), before_ms, Some(fate)));
                    notes.push((tick(due_ms), fate != Fate::Skip));
                    match fate {
                        Fate::Start => starts.push((Arc::clone(&schedule), tick(due_ms))),
                        Fate::Wait => {}
                        Fate::Skip => {
                            self.schedule_metrics(&schedule.key).skipped.add(1);
                            tracing::debug!(
                                app = %schedule.key.app, function = %schedule.key.function, schedule = %schedule.key.name,
                                "a tick is skipped: the one before is not done"
                            );
                        }
                    }
                }
            }
            drop(state);
            self.set_next(&schedule);
        }
        let count = notes.len();
        if let Err(error) = self.rows.note(notes).await {
            tracing::error!(ticks = count, %error, "what is due of schedules cannot be written; it is tried again");
            for (schedule, before_ms, fate) in taken {
                schedule.state().undo(before_ms, fate);
                self.timer.remove(schedule.number);
                self.timer.set(schedule.number, self.now_ms() + NOTE_AGAIN_MS, What::Schedule(schedule));
            }
            return;
        }
        for (schedule, tick) in starts {
            self.send(schedule.number, Job::Tick(schedule, tick, new_id()));
        }
    }
}

/// Runs a tick to its end, and has the next one of the schedule run that waits for it.
pub(crate) async fn run(shared: Arc<Shared>, schedule: Arc<ScheduleEntry>, tick: Tick, id: RequestId) {
    let mut guard = Guard { schedule: &schedule, is_over: false, asked: tick.asked };
    let is_done = deliver(&shared, &schedule, &tick, id).await;
    if !is_done {
        // Its note stays, for when the node runs again.
        return;
    }
    let asked = tick.asked;
    if let Err(error) = shared.rows.finish(tick).await {
        tracing::warn!(app = %schedule.key.app, schedule = %schedule.key.name, %error, "a tick that is done may run again when the node is started");
    }
    if !asked {
        guard.is_over = true;
        let next_ms = schedule.state().end();
        if let Some(due_ms) = next_ms {
            let tick = Tick { key: schedule.key.clone(), due_ms, asked: false };
            shared.send(schedule.number, Job::Tick(Arc::clone(&schedule), tick, new_id()));
        }
    }
}

/// Has the schedule go on after a tick that broke down.
struct Guard<'a> {
    schedule: &'a ScheduleEntry,
    is_over: bool,
    asked: bool,
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if self.asked {
            Shared::asked_for(self.schedule);
        } else if !self.is_over {
            let mut state = self.schedule.state();
            state.queue.clear();
            state.is_running = false;
        }
    }
}

/// Delivers a tick until the function has answered. False when the node stops before.
async fn deliver(shared: &Shared, schedule: &ScheduleEntry, tick: &Tick, id: RequestId) -> bool {
    let Key { tenant, app, function, name } = &schedule.key;
    let what = Happening::Tick {
        schedule: name.clone(),
        cron: schedule.schedule.when.cron().map(Into::into),
        due_ms: tick.due_ms,
        id: tick.id(),
    };
    let metrics = shared.schedule_metrics(&schedule.key);
    if !tick.asked {
        metrics.started_after(Duration::from_millis(shared.now_ms().saturating_sub(tick.due_ms)));
    }
    let began = Instant::now();
    let mut pause = Pause::default();
    loop {
        if shared.is_stopping() {
            return false;
        }
        let Some(live) = shared.app(tenant, app) else { return true };
        let has = |spec: &minnow_runtime::FunctionSpec| spec.schedules.iter().any(|schedule| schedule.name == *name);
        let Some(choice) = choose(&live, function, has, rand::random_range(0..100)) else { return true };
        drop(live);
        let delivered = tokio::select! {
            delivered = shared.deliver_as(id, &choice.picked, app, &what) => delivered,
            () = shared.deadline() => {
                shared.cut(1);
                return false;
            }
        };
        let failure = match delivered {
            Delivered::Answered { status: 200..=299, .. } => {
                metrics.run.add(1);
                return true;
            }
            Delivered::NotNow(code, after) => {
                let now = Instant::now();
                if pause.extend(code, after, now) {
                    tracing::warn!(%app, %function, schedule = %name, reason = code.as_str(), "a tick has waited for more than 10 s");
                }
                shared.sleep(pause.until(now).map_or(Duration::ZERO, |until| until - now)).await;
                continue;
            }
            Delivered::Answered { retry_after: Some(after), .. } if began.elapsed() + after < MAX_POSTPONED => {
                shared.sleep(after.max(*BACKOFF.start())).await;
                continue;
            }
            Delivered::Answered { status, .. } => format!("the function answered {status}"),
            Delivered::Failed(code) => format!("{}: {}", code.as_str(), code.title()),
        };
        metrics.failed.add(1);
        let due = minnow_model::event::time_text(tick.due_ms);
        choice.picked.note(
            Level::Error,
            Some(id),
            format!("the tick of {due} of the schedule `{name}` failed: {failure}"),
        );
        return true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600_000;
    /// 2026-11-27T12:00:00Z, a Friday.
    const NOON: u64 = 1_795_780_800_000;

    fn schedule(cron: &str, missed: Missed) -> Schedule {
        let when = match cron.strip_prefix("at ") {
            Some(at) => When::parse_at(at).unwrap(),
            None => When::parse(cron, None).unwrap(),
        };
        Schedule { name: "sweep".parse().unwrap(), when, overlap: Overlap::Skip, missed }
    }

    #[test]
    fn what_is_due_after_all_that_can_have_happened() {
        let started = NOON - HOUR;
        for (name, cron, since, last, now, once, skip) in [
            ("not yet", "0 * * * *", NOON - 10, None, NOON - 1, Due::NotBefore(Some(NOON)), Due::NotBefore(Some(NOON))),
            ("to the moment", "0 * * * *", NOON - 10, None, NOON, Due::Run(NOON), Due::Run(NOON)),
            ("late", "0 * * * *", NOON - 10, None, NOON + LATE_MS, Due::Run(NOON), Due::Run(NOON)),
            ("very late", "0 * * * *", NOON - 10, None, NOON + LATE_MS + 1, Due::Run(NOON), Due::Missed(NOON)),
            (
                "not twice",
                "0 * * * *",
                NOON - 10,
                Some(NOON),
                NOON,
                Due::NotBefore(Some(NOON + HOUR)),
                Due::NotBefore(Some(NOON + HOUR)),
            ),
            // The clock was set back.
            (
                "set back",
                "0 * * * *",
                NOON - 10,
                Some(NOON),
                NOON - HOUR,
                Due::NotBefore(Some(NOON + HOUR)),
                Due::NotBefore(Some(NOON + HOUR)),
            ),
            // While the node was down: the latest of many.
            ("down", "*/5 * * * *", 0, Some(NOON - 9 * HOUR), NOON + 70_000, Due::Run(NOON), Due::Missed(NOON)),
            (
                "down for years",
                "* * * * *",
                0,
                Some(0),
                NOON + 70_000,
                Due::Run(NOON + 60_000),
                Due::Missed(NOON + 60_000),
            ),
            (
                "every, down",
                "@every 7s",
                500,
                Some(7500),
                NOON,
                Due::Run(500 + (NOON - 500) / 7000 * 7000),
                Due::Missed(500 + (NOON - 500) / 7000 * 7000),
            ),
            (
                "down for a moment",
                "@every 1s",
                0,
                Some(started - 5000),
                started,
                Due::Run(started),
                Due::Missed(started),
            ),
            (
                "busy for a moment",
                "@every 1s",
                0,
                Some(NOON - 5000),
                NOON,
                Due::Run(NOON - 4000),
                Due::Run(NOON - 4000),
            ),
            ("yearly", "0 0 1 1 *", 0, None, NOON, Due::Run(1_767_225_600_000), Due::Missed(1_767_225_600_000)),
            (
                "once, later",
                "at 2026-11-27T13:00:00Z",
                NOON,
                None,
                NOON,
                Due::NotBefore(Some(NOON + HOUR)),
                Due::NotBefore(Some(NOON + HOUR)),
            ),
            (
                "once, now",
                "at 2026-11-27T13:00:00Z",
                NOON,
                None,
                NOON + HOUR,
                Due::Run(NOON + HOUR),
                Due::Run(NOON + HOUR),
            ),
            (
                "once, done",
                "at 2026-11-27T13:00:00Z",
                NOON,
                Some(NOON + HOUR),
                NOON + HOUR,
                Due::NotBefore(None),
                Due::NotBefore(None),
            ),
            (
                "once, before it was deployed",
                "at 2026-11-27T11:00:00Z",
                NOON,
                None,
                NOON,
                Due::NotBefore(None),
                Due::NotBefore(None),
            ),
            (
                "once, while down",
                "at 2026-11-27T10:00:00Z",
                0,
                None,
                NOON,
                Due::Run(NOON - 2 * HOUR),
                Due::Missed(NOON - 2 * HOUR),
            ),
        ] {
            for (missed, expected) in [(Missed::Once, once), (Missed::Skip, skip)] {
                assert_eq!(due(&schedule(cron, missed), since, last, started, now), expected, "{name} {missed:?}");
            }
        }
    }

    #[test]
    fn a_tick_beside_one_that_runs_is_skipped_or_waits_for_it() {
        let mut state = State::default();
        assert_eq!(state.take(1, Overlap::Skip), Fate::Start);
        assert_eq!(state.take(2, Overlap::Skip), Fate::Skip);
        assert_eq!(state.end(), None);
        assert_eq!(state.take(3, Overlap::Queue), Fate::Start);
        for due in 4..4 + MAX_QUEUED_TICKS as u64 {
            assert_eq!(state.take(due, Overlap::Queue), Fate::Wait);
        }
        assert_eq!(state.take(999, Overlap::Queue), Fate::Skip);
        assert_eq!((state.end(), state.end(), state.last_ms), (Some(4), Some(5), Some(999)));
        assert!(state.is_running);
    }

    #[test]
    fn a_tick_that_cannot_be_noted_is_due_again() {
        let mut state = State { last_ms: Some(1), ..State::default() };
        let fate = state.take(2, Overlap::Queue);
        state.undo(Some(1), Some(fate));
        assert!(!state.is_running && state.last_ms == Some(1));
        assert_eq!(state.take(2, Overlap::Queue), Fate::Start);
        let waits = state.take(3, Overlap::Queue);
        state.undo(Some(2), Some(waits));
        assert!(state.is_running && state.queue.is_empty() && state.last_ms == Some(2));
    }

    #[test]
    fn a_schedule_follows_a_clock_that_is_set_far_back_and_runs_no_time_twice_otherwise() {
        let at = |cron: &str| schedule(cron, Missed::Once).when;
        for (name, when, last_ms, now_ms, next_ms) in [
            ("an hour", at("0 * * * *"), NOON, NOON - HOUR, NOON + HOUR),
            ("a day", at("0 * * * *"), NOON, NOON - 24 * HOUR, NOON + HOUR),
            ("more than a day", at("0 * * * *"), NOON, NOON - 24 * HOUR - 1, NOON - 24 * HOUR),
            ("a year", at("0 * * * *"), NOON, NOON - 8760 * HOUR, NOON - 8759 * HOUR),
            ("every, a minute", at("@every 1s"), NOON, NOON - LATE_MS, NOON + 1000),
            ("every, more", at("@every 1s"), NOON, NOON - LATE_MS - 1, NOON - LATE_MS + 999),
            ("every, its time", at("@every 2h"), NOON, NOON - 2 * HOUR, NOON + 2 * HOUR),
            ("every, long ago", at("@every 2h"), NOON, NOON - 9 * HOUR, NOON - 7 * HOUR),
        ] {
            let mut state = State { since_ms: NOON - 4 * HOUR, last_ms: Some(last_ms), ..State::default() };
            state.correct(&when, now_ms);
            let next = when.next_after(state.since_ms, state.last_ms.unwrap_or(state.since_ms));
            assert_eq!(next, Some(next_ms), "{name}");
        }
        // Deployed while the clock was ahead, and never due since.
        let mut state = State { since_ms: NOON + 48 * HOUR, ..State::default() };
        assert!(state.correct(&at("0 * * * *"), NOON));
        assert_eq!((state.since_ms, state.last_ms), (NOON, None));
    }
}
