//! CPU time of a process, divided among the invocations that run in it, and whether it still answers.
//!
//! A process serves many invocations at once, and the system counts only the CPU time of all together. So each invocation that
//! has not begun to answer is charged an equal share of what is used meanwhile: processor sharing, kept as one number that grows
//! by `used / working` (the virtual time of fair queueing), of which an invocation's share is the difference between two
//! moments. Invocations that only rest (a response that streams, a WebSocket, what `waitUntil` was given) are charged in the
//! same way, and only while nobody works: an open stream must not pay for the requests beside it.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::meter::monotonic_ns;

/// How old a reading of the CPU clock may be while others run. It is a system call that adds up the times of a dozen threads;
/// two for each request were a microsecond of some thirty.
const STALE_NS: u64 = 500_000;

/// Reads the CPU clock of a process, in nanoseconds; `None` once it has ended.
pub(super) trait CpuClock: Send + Sync {
    fn cpu_ns(&self) -> Option<u64>;
}

/// What has been used of one process, and by how many.
pub(super) struct Clock<C> {
    source: C,
    state: Mutex<State>,
}

#[derive(Debug, Default, Clone, Copy)]
struct State {
    /// The CPU clock when it was last read, and when that was.
    cpu_ns: u64,
    read_at_ns: u64,
    /// CPU time for each invocation that has worked since the process began, and for each that has rested.
    worked_ns: u64,
    rested_ns: u64,
    working: u32,
    resting: u32,
    /// The CPU clock when the process last showed that its event loop turns.
    alive_ns: u64,
    /// Signs of life so far.
    lives: u64,
    /// An invocation was given up, and there was no sign of life since: its event loop may never turn again.
    owes_life: bool,
    /// The CPU clock when the last invocation ended.
    idle_ns: u64,
    /// Whether the process is stopped; it goes on with its next invocation.
    paused: bool,
    /// Nothing begins in it any more.
    closed: bool,
}

/// Since when an invocation works or rests, and what it was charged before.
#[derive(Debug, Clone, Copy)]
pub(super) struct Began {
    rests: bool,
    at_ns: u64,
    charged_ns: u64,
}

/// The state at one moment.
pub(super) struct Look(State);

impl Look {
    /// CPU time in all, in nanoseconds.
    pub(super) fn cpu_ns(&self) -> u64 {
        self.0.cpu_ns
    }

    /// CPU time since the last sign of life.
    pub(super) fn silent_ns(&self) -> u64 {
        self.0.cpu_ns.saturating_sub(self.0.alive_ns)
    }

    /// Signs of life so far.
    pub(super) fn lives(&self) -> u64 {
        self.0.lives
    }

    /// Whether the process has to be asked for a sign of life before it may be paused.
    pub(super) fn owes_life(&self) -> bool {
        self.0.owes_life
    }

    /// CPU time since the last invocation ended; `None` while there is one.
    pub(super) fn idle_ns(&self) -> Option<u64> {
        (self.0.running() == 0).then(|| self.0.cpu_ns.saturating_sub(self.0.idle_ns))
    }

    /// Whether there was a sign of life since the last invocation ended.
    pub(super) fn is_alive_since_idle(&self) -> bool {
        self.0.alive_ns > self.0.idle_ns
    }

    /// CPU time of an invocation so far.
    pub(super) fn of(&self, began: &Began) -> u64 {
        self.0.share(began)
    }
}

impl State {
    fn running(&self) -> u32 {
        self.working + self.resting
    }

    fn share(&self, began: &Began) -> u64 {
        let now = if began.rests { self.rested_ns } else { self.worked_ns };
        began.charged_ns + now.saturating_sub(began.at_ns)
    }

    fn is_stale(&self) -> bool {
        monotonic_ns().saturating_sub(self.read_at_ns) >= STALE_NS
    }

    fn live(&mut self) {
        self.alive_ns = self.cpu_ns;
        self.lives += 1;
        self.owes_life = false;
    }

    fn leave(&mut self, began: &Began) {
        let count = if began.rests { &mut self.resting } else { &mut self.working };
        *count = count.saturating_sub(1);
    }
}

impl<C: CpuClock> Clock<C> {
    pub(super) fn new(source: C) -> Self {
        Self { source, state: Mutex::default() }
    }

    /// One more invocation works; `resume` is called when the process was paused. `None`: the process was closed.
    pub(super) fn begin(&self, resume: impl FnOnce()) -> Option<Began> {
        let mut state = self.lock();
        if state.closed {
            return None;
        }
        if state.running() == 0 || state.is_stale() {
            self.read_into(&mut state);
        }
        state.working += 1;
        if std::mem::take(&mut state.paused) {
            resume();
        }
        Some(Began { rests: false, at_ns: state.worked_ns, charged_ns: 0 })
    }

    /// The invocation only rests from now on.
    pub(super) fn rest(&self, began: &mut Began) {
        if began.rests {
            return;
        }
        let mut state = self.lock();
        if state.is_stale() {
            self.read_into(&mut state);
        }
        let charged_ns = state.share(began);
        state.leave(began);
        state.resting += 1;
        *began = Began { rests: true, at_ns: state.rested_ns, charged_ns };
    }

    /// An invocation has ended: its CPU time in nanoseconds. `is_alive`: the process ended it, which shows that its event loop
    /// turns. Otherwise its client or its time did, and the process owes a sign of life.
    pub(super) fn end(&self, began: &Began, is_alive: bool) -> u64 {
        let mut state = self.lock();
        if state.running() == 1 || state.is_stale() {
            self.read_into(&mut state);
        }
        state.leave(began);
        if is_alive {
            state.live();
        } else {
            state.owes_life = true;
        }
        if state.running() == 0 {
            state.idle_ns = state.cpu_ns;
        }
        state.share(began)
    }

    /// The process gave a sign that its event loop turns.
    pub(super) fn is_alive(&self) {
        let mut state = self.lock();
        self.read_into(&mut state);
        state.live();
    }

    pub(super) fn look(&self) -> Look {
        let mut state = self.lock();
        self.read_into(&mut state);
        Look(*state)
    }

    /// Invocations that work or rest.
    pub(super) fn running(&self) -> u32 {
        self.lock().running()
    }

    /// Pauses the process with `pause` unless something runs in it, or it owes a sign of life. Answers whether it is paused.
    pub(super) fn pause(&self, pause: impl FnOnce()) -> bool {
        let mut state = self.lock();
        if state.running() == 0 && !state.owes_life && !state.paused {
            state.paused = true;
            pause();
        }
        state.paused
    }

    /// Lets nothing begin in the process any more, unless something runs in it. Answers whether it is closed.
    pub(super) fn close_if_idle(&self) -> bool {
        let mut state = self.lock();
        state.closed |= state.running() == 0;
        state.closed
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_into(&self, state: &mut State) {
        let now = self.source.cpu_ns().unwrap_or(state.cpu_ns).max(state.cpu_ns);
        let used = now - state.cpu_ns;
        state.cpu_ns = now;
        state.read_at_ns = monotonic_ns();
        if state.working > 0 {
            state.worked_ns += used / u64::from(state.working);
        } else if state.resting > 0 {
            state.rested_ns += used / u64::from(state.resting);
        }
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

    /// The process computes, and the clock is looked at.
    fn uses(clock: &Clock<Hand>, ns: u64) {
        clock.source.0.fetch_add(ns, Relaxed);
        clock.look();
    }

    #[test]
    fn cpu_time_is_divided_among_those_who_work() {
        let clock = clock();
        uses(&clock, 1000);
        let one = clock.begin(|| {}).unwrap();
        uses(&clock, 100);
        let two = clock.begin(|| {}).unwrap();
        uses(&clock, 60);
        let look = clock.look();
        assert_eq!((look.of(&one), look.of(&two)), (130, 30));
        assert_eq!(clock.end(&two, true), 30);
        uses(&clock, 7);
        assert_eq!(clock.end(&one, true), 137);
        // What is used between invocations is nobody's.
        uses(&clock, 5000);
        let three = clock.begin(|| {}).unwrap();
        assert_eq!(clock.end(&three, true), 0);
    }

    #[test]
    fn who_rests_pays_only_while_nobody_works() {
        let clock = clock();
        let mut stream = clock.begin(|| {}).unwrap();
        uses(&clock, 10);
        clock.rest(&mut stream);
        let request = clock.begin(|| {}).unwrap();
        uses(&clock, 1000);
        assert_eq!(clock.end(&request, true), 1000);
        uses(&clock, 5);
        let mut other = clock.begin(|| {}).unwrap();
        clock.rest(&mut other);
        uses(&clock, 6);
        assert_eq!(clock.end(&stream, true), 10 + 5 + 3);
        assert_eq!(clock.end(&other, true), 3);
        assert_eq!(clock.running(), 0);
    }

    #[test]
    fn silence_is_what_was_used_since_the_last_sign_of_life() {
        let clock = clock();
        let one = clock.begin(|| {}).unwrap();
        let two = clock.begin(|| {}).unwrap();
        uses(&clock, 100);
        assert_eq!((clock.look().silent_ns(), clock.look().cpu_ns()), (100, 100));
        clock.is_alive();
        uses(&clock, 10);
        assert_eq!(clock.look().silent_ns(), 10);
        // Its client went away, which says nothing of the process.
        clock.end(&one, false);
        assert_eq!(clock.look().silent_ns(), 10);
        clock.end(&two, false);
        uses(&clock, 30);
        let look = clock.look();
        assert_eq!((look.silent_ns(), look.idle_ns(), look.is_alive_since_idle()), (40, Some(30), false));
        clock.is_alive();
        assert!(clock.look().is_alive_since_idle());
        assert_eq!(clock.look().lives(), 2);
    }

    #[test]
    fn a_process_in_which_an_invocation_was_given_up_is_not_paused_before_it_gave_a_sign_of_life() {
        let clock = clock();
        let one = clock.begin(|| {}).unwrap();
        let two = clock.begin(|| {}).unwrap();
        clock.end(&one, true);
        assert!(!clock.look().owes_life());
        clock.end(&two, false);
        assert!(clock.look().owes_life() && !clock.pause(|| panic!("it may be blocked")));
        clock.is_alive();
        assert!(!clock.look().owes_life() && clock.pause(|| {}));
        // The end of another invocation is a sign as well.
        let one = clock.begin(|| {}).unwrap();
        let two = clock.begin(|| {}).unwrap();
        clock.end(&one, false);
        clock.end(&two, true);
        assert!(clock.pause(|| {}));
    }

    #[test]
    fn a_process_is_paused_and_closed_only_while_nothing_runs_in_it() {
        let clock = clock();
        let one = clock.begin(|| panic!("it was not paused")).unwrap();
        assert!(!clock.pause(|| panic!("something runs")) && !clock.close_if_idle());
        clock.end(&one, true);
        let mut paused = 0;
        assert!(clock.pause(|| paused += 1) && clock.pause(|| paused += 1));
        assert_eq!(paused, 1);
        let mut resumed = 0;
        let one = clock.begin(|| resumed += 1).unwrap();
        let two = clock.begin(|| resumed += 1).unwrap();
        assert_eq!(resumed, 1);
        clock.end(&one, true);
        clock.end(&two, true);
        assert!(clock.close_if_idle());
        assert!(clock.begin(|| {}).is_none());
    }
}
