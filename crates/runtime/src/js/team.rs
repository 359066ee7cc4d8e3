//! The processes of one function: which one takes an invocation, when there are more, and when none is started.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use futures::{
    FutureExt as _,
    future::{BoxFuture, Shared},
};
use minnow_model::{Level, LogSource};
use tokio_util::sync::CancellationToken;

use super::{
    Use,
    process::{Ending, LoadFailure, Process},
};
use crate::Function;

/// Invocations that have to be in a busy process before another one is started for the function.
const CROWD: u32 = 2;

/// What a function's processes are. Small, since most functions of a node are idle.
#[derive(Default)]
pub(crate) struct Team(Mutex<State>);

#[derive(Default)]
struct State {
    processes: Vec<Arc<Process>>,
    /// The one that is being started, for all who wait for it.
    starting: Option<Starting>,
    deaths: Deaths,
    /// Told when the function's version is not live any more; made on first use.
    retired: Option<CancellationToken>,
    is_retired: bool,
}

type Starting = Shared<BoxFuture<'static, Result<Arc<Process>, LoadFailure>>>;

impl Team {
    /// The process with the fewest invocations; starts one if there is none, and another one beside those that are busy.
    pub(super) async fn process(&self, function: &Arc<Function>) -> Result<(Arc<Process>, bool), LoadFailure> {
        let starting = {
            let mut state = self.state();
            state.processes.retain(|process| !process.has_ended());
            let least = state
                .processes
                .iter()
                .filter(|process| !process.is_retired())
                .min_by_key(|process| process.load_of())
                .cloned();
            match least {
                Some(process) => {
                    let is_crowded = process.is_busy() && process.load_of() >= CROWD;
                    if is_crowded && state.starting.is_none() && state.processes.len() < most(function) {
                        // It goes on without anybody waiting; whether it comes to something is seen by the next request.
                        drop(self.start(&mut state, function, Use::Help));
                    }
                    return Ok((process, false));
                }
                None => match &state.starting {
                    Some(starting) => starting.clone(),
                    None => self.start(&mut state, function, Use::Request)?,
                },
            }
        };
        starting.await.map(|process| (process, true))
    }

    /// Starts a process in a task of its own: whoever waits for it may go away.
    fn start(&self, state: &mut State, function: &Arc<Function>, use_of: Use) -> Result<Starting, LoadFailure> {
        if let Some(left) = state.deaths.held_for(Instant::now()) {
            return Err(LoadFailure::HeldBack(left));
        }
        let function = Arc::clone(function);
        let engine = Arc::clone(function.runtime().js());
        let task = engine.spawner().spawn({
            let function = Arc::clone(&function);
            async move {
                let started = function.runtime().js().start(&function, use_of).await;
                function.js().started(&function, &started);
                started
            }
        });
        let starting = async move {
            match task.await {
                Ok(started) => started,
                // It panicked, or the node is stopping.
                Err(error) => {
                    let failed = Err(LoadFailure::Crashed(error.to_string()));
                    function.js().started(&function, &failed);
                    failed
                }
            }
        };
        let starting = starting.boxed().shared();
        state.starting = Some(starting.clone());
        Ok(starting)
    }

    fn started(&self, function: &Arc<Function>, started: &Result<Arc<Process>, LoadFailure>) {
        let mut state = self.state();
        state.starting = None;
        match started {
            Ok(process) => {
                state.processes.push(Arc::clone(process));
                drop(state);
                function.is_warm();
            }
            // Those of the process itself are counted when it has ended.
            Err(LoadFailure::Module(_) | LoadFailure::Timeout(_)) => {
                let held = state.deaths.record(Instant::now());
                drop(state);
                tell_held(function, held);
            }
            Err(_) => {}
        }
    }

    /// A process has ended.
    pub(super) fn ended(&self, process: &Arc<Process>, ending: &Ending) -> Option<Duration> {
        let mut state = self.state();
        state.processes.retain(|each| !Arc::ptr_eq(each, process));
        if ending.is_fault() { state.deaths.record(Instant::now()) } else { None }
    }

    /// Ends processes that nobody used for `idle`. Returns how many are left, with the one that is being started.
    pub(crate) fn cool(&self, idle: Duration) -> usize {
        self.end_idle(idle);
        let state = self.state();
        state.processes.len() + usize::from(state.starting.is_some())
    }

    /// Ends processes that nobody used for `idle`. Returns how many that were.
    pub(crate) fn end_idle(&self, idle: Duration) -> usize {
        let mut state = self.state();
        state.processes.retain(|process| !process.has_ended());
        let before = state.processes.len();
        state.processes.retain(|process| process.idle_for() < idle || !process.end_if_idle());
        before - state.processes.len()
    }

    /// How long the process that was idle longest has been so.
    pub(crate) fn idlest(&self) -> Option<Duration> {
        self.state().processes.iter().map(|process| process.idle_for()).filter(|idle| !idle.is_zero()).max()
    }

    /// Processes now, and what they hold of memory in bytes.
    pub(crate) fn size(&self) -> (usize, u64) {
        let state = self.state();
        (state.processes.len(), state.processes.iter().map(|process| process.memory_bytes()).sum())
    }

    /// How long the function is held back from now on.
    pub(crate) fn held_for(&self) -> Option<Duration> {
        self.state().deaths.held_for(Instant::now())
    }

    /// Is told when the function's version is not live any more.
    pub(super) fn retired(&self) -> CancellationToken {
        let mut state = self.state();
        let is_retired = state.is_retired;
        let token = state.retired.get_or_insert_default();
        if is_retired {
            token.cancel();
        }
        token.clone()
    }

    /// The function's version is not live any more.
    pub(crate) fn retire(&self) {
        let mut state = self.state();
        state.is_retired = true;
        if let Some(token) = &state.retired {
            token.cancel();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        for process in self.state().processes.drain(..) {
            process.end(Ending::Unneeded);
        }
    }
}

/// How many processes one function may have: each computes on one core, and has to have an invocation.
fn most(function: &Function) -> usize {
    function.runtime().js().cores().min(function.spec().limits.concurrency as usize)
}

/// Says in the function's log that it is held back.
pub(super) fn tell_held(function: &Function, held: Option<Duration>) {
    if let Some(held) = held {
        let message = format!(
            "the function keeps failing: it is not started for {}, and requests get `held_back`",
            humantime::format_duration(held)
        );
        function.log(Level::Error, LogSource::Node, None, message);
    }
}

/// When a function that keeps dying is started again.
///
/// The first deaths cost nothing: a single bad request must not keep the others waiting. Whoever dies more often than
/// [`FREE`] times within [`WINDOW`] waits, twice as long each time.
#[derive(Debug, Default)]
struct Deaths {
    recent: VecDeque<Instant>,
    held_until: Option<Instant>,
    times_held: u32,
}

/// Deaths within [`WINDOW`] after which a process is started again at once.
const FREE: usize = 5;
const WINDOW: Duration = Duration::from_secs(10);
/// How long a function is held back at first, and at most.
const FIRST_HOLD: Duration = Duration::from_secs(1);
const LONGEST_HOLD: Duration = Duration::from_secs(60);

impl Deaths {
    /// One more. How long the function is held back for it, if it is.
    fn record(&mut self, now: Instant) -> Option<Duration> {
        if self.held_until.is_some_and(|until| now.saturating_duration_since(until) >= WINDOW) {
            *self = Self::default();
        }
        self.recent.retain(|death| now.saturating_duration_since(*death) < WINDOW);
        self.recent.push_back(now);
        // After it was held back, it has to stay up for the whole window.
        if self.recent.len() <= FREE && self.times_held == 0 {
            return None;
        }
        let held = FIRST_HOLD.saturating_mul(1 << self.times_held.min(10)).min(LONGEST_HOLD);
        self.times_held += 1;
        self.held_until = Some(now + held);
        self.recent.clear();
        Some(held)
    }

    fn held_for(&self, now: Instant) -> Option<Duration> {
        let left = self.held_until?.saturating_duration_since(now);
        // Whole seconds, rounded up: it is what clients are told to wait.
        (!left.is_zero()).then(|| Duration::from_secs(left.as_secs() + u64::from(left.subsec_nanos() > 0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_keeps_dying_is_held_back_for_longer_and_longer() {
        let mut deaths = Deaths::default();
        let second = Duration::from_secs(1);
        let mut now = Instant::now();
        for _ in 0..FREE {
            assert_eq!(deaths.record(now), None);
            assert_eq!(deaths.held_for(now), None);
        }
        let mut expected = FIRST_HOLD;
        for _ in 0..10 {
            assert_eq!(deaths.record(now), Some(expected));
            assert_eq!(deaths.held_for(now), Some(expected));
            // Rounded up: whoever comes then finds it started.
            let almost = Duration::from_millis(1);
            assert_eq!(deaths.held_for(now + almost), Some(expected));
            assert_eq!(deaths.held_for(now + expected - almost), Some(second));
            now += expected;
            assert_eq!(deaths.held_for(now), None);
            expected = (expected * 2).min(LONGEST_HOLD);
        }
        // After it was well for a while, everything is forgotten.
        now += WINDOW;
        assert_eq!(deaths.record(now), None);
        // Deaths that are far apart never count together.
        let mut deaths = Deaths::default();
        for _ in 0..100 {
            now += WINDOW / 4 + second;
            assert_eq!(deaths.record(now), None);
        }
    }
}
