//! CPU time of a process, divided among the invocations that run in it, and whether it still answers.
//!
//! A process serves many invocations at once, and the system counts only the CPU time of all together. So each invocation is
//! charged an equal share of what is used while it runs: processor sharing, kept as one number that grows by `used / running`
//! (the virtual time of fair queueing), of which an invocation's share is the difference between its end and its begin.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Reads the CPU clock of a process, in nanoseconds; `None` once it has ended.
pub(super) trait CpuClock: Send + Sync {
    fn cpu_ns(&self) -> Option<u64>;
}

/// What has been used of one process, and by how many.
pub(super) struct Clock<C> {
    source: C,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The CPU clock when it was last read.
    cpu_ns: u64,
    /// CPU time for each invocation that has run since the process began.
    shared_ns: u64,
    running: u32,
    /// The CPU clock when the process last showed that its event loop turns.
    alive_ns: u64,
    /// Whether the process is stopped; it goes on with its next invocation.
    paused: bool,
}

/// Where an invocation began, to know its share later.
#[derive(Debug, Clone, Copy)]
pub(super) struct Began(u64);

impl<C: CpuClock> Clock<C> {
    pub(super) fn new(source: C) -> Self {
        Self { source, state: Mutex::default() }
    }

    /// One more invocation runs; `resume` is called when the process was paused.
    pub(super) fn begin(&self, resume: impl FnOnce()) -> Began {
        let mut state = self.read();
        if state.running == 0 {
            // Whatever it did between invocations tells nothing about this one.
            state.alive_ns = state.cpu_ns;
        }
        state.running += 1;
        if std::mem::take(&mut state.paused) {
            resume();
        }
        Began(state.shared_ns)
    }

    /// An invocation has ended: its CPU time in nanoseconds. That it came to its end shows that the event loop turns.
    pub(super) fn end(&self, began: Began) -> u64 {
        let mut state = self.read();
        state.running = state.running.saturating_sub(1);
        state.alive_ns = state.cpu_ns;
        state.shared_ns.saturating_sub(began.0)
    }

    /// The CPU time of an invocation so far.
    pub(super) fn so_far(&self, began: Began) -> u64 {
        self.read().shared_ns.saturating_sub(began.0)
    }

    /// The process gave a sign that its event loop turns.
    pub(super) fn is_alive(&self) {
        let mut state = self.read();
        state.alive_ns = state.cpu_ns;
    }

    /// CPU time since the last sign of life, and in all, in nanoseconds.
    pub(super) fn silent(&self) -> (u64, u64) {
        let state = self.read();
        (state.cpu_ns.saturating_sub(state.alive_ns), state.cpu_ns)
    }

    pub(super) fn running(&self) -> u32 {
        self.lock().running
    }

    /// Pauses the process with `pause` unless something runs in it.
    pub(super) fn pause(&self, pause: impl FnOnce()) {
        let mut state = self.lock();
        if state.running == 0 && !state.paused {
            state.paused = true;
            pause();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state as of now.
    fn read(&self) -> MutexGuard<'_, State> {
        let mut state = self.lock();
        let now = self.source.cpu_ns().unwrap_or(state.cpu_ns).max(state.cpu_ns);
        let used = now - state.cpu_ns;
        state.cpu_ns = now;
        state.shared_ns += used / u64::from(state.running.max(1));
        state
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    use super::*;

    #[derive(Default)]
    struct Hand(AtomicU64);

    impl CpuClock for Hand {
        fn cpu_ns(&self) -> Option<u64> {
            Some(self.0.load(Relaxed))
        }
    }

    fn clock() -> Clock<Hand> {
        Clock::new(Hand::default())
    }

    fn uses(clock: &Clock<Hand>, ns: u64) {
        clock.source.0.fetch_add(ns, Relaxed);
    }

    #[test]
    fn cpu_time_is_divided_among_those_who_run() {
        let clock = clock();
        uses(&clock, 1000);
        let one = clock.begin(|| {});
        uses(&clock, 100);
        let two = clock.begin(|| {});
        uses(&clock, 60);
        assert_eq!((clock.so_far(one), clock.so_far(two)), (130, 30));
        assert_eq!(clock.end(two), 30);
        uses(&clock, 7);
        assert_eq!(clock.end(one), 137);
        // What is used between invocations is nobody's.
        uses(&clock, 5000);
        let three = clock.begin(|| {});
        assert_eq!(clock.end(three), 0);
    }

    #[test]
    fn silence_is_what_was_used_since_the_last_sign_of_life() {
        let clock = clock();
        uses(&clock, 500);
        let one = clock.begin(|| {});
        assert_eq!(clock.silent(), (0, 500));
        let two = clock.begin(|| {});
        uses(&clock, 100);
        assert_eq!(clock.silent(), (100, 600));
        clock.is_alive();
        uses(&clock, 10);
        assert_eq!(clock.silent(), (10, 610));
        clock.end(one);
        assert_eq!(clock.silent(), (0, 610));
        clock.end(two);
    }

    #[test]
    fn a_process_is_paused_only_while_nothing_runs_in_it() {
        let clock = clock();
        let one = clock.begin(|| panic!("it was not paused"));
        clock.pause(|| panic!("something runs"));
        clock.end(one);
        let mut paused = 0;
        clock.pause(|| paused += 1);
        clock.pause(|| paused += 1);
        assert_eq!(paused, 1);
        let mut resumed = 0;
        let one = clock.begin(|| resumed += 1);
        clock.begin(|| resumed += 1);
        assert_eq!(resumed, 1);
        clock.end(one);
    }
}
