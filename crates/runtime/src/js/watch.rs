//! What looks after a process: has what it prints heard, bounds what it uses, pauses it, and learns how it ends.

use std::{
    future::pending,
    pin::pin,
    sync::{Arc, PoisonError, Weak, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::future::maybe_done;
use http::{Request, header::HOST};
use http_body_util::BodyExt as _;
use minnow_model::{Level, Limits, LogSource};
use tokio::{net::unix::pipe::Receiver, time::MissedTickBehavior};

use super::{
    clock::Look,
    last_words::LastWords,
    lines::Lines,
    process::{Call, Ending, PING, Process, TICK, full, nanoseconds},
    team,
};

/// How long a process goes on after its last invocation before it is stopped. Long enough that a client's next request
/// costs no signals, short enough that nothing runs when nothing is asked for.
const PAUSE_AFTER: Duration = Duration::from_secs(1);

/// CPU time after its last invocation for which a process is stopped earlier: what goes on then nobody is charged for.
const IDLE_CPU: Duration = Duration::from_millis(100);

/// A process is busy when it computed for more than this share of the last [`BUSY_SPAN`].
const BUSY_SHARE: f64 = 0.9;
const BUSY_SPAN: Duration = Duration::from_millis(100);

/// How long a process in which something runs may be silent before it is asked for a sign of life.
const SILENCE: Duration = Duration::from_secs(1);

/// How long output is read after the process has ended. It is there by then, unless something else holds the pipe.
const LAST_OUTPUT: Duration = Duration::from_millis(100);

/// How long its last lines may take then. A stack among them waits for its source map, of which a large one is read in some
/// 200 ms.
const LAST_LINES: Duration = Duration::from_secs(2);

/// What the watch remembers between two looks.
struct Watch {
    /// Since when, and from which CPU time on, the current span of business is counted.
    since: Instant,
    cpu_ns: u64,
    /// CPU time at the last look.
    last_cpu_ns: u64,
    /// When there was a sign of life, and how many there were until then.
    alive: Instant,
    lives: u64,
    /// A sign of life was asked for, and did not come yet.
    asked: Option<Asked>,
    /// Nothing was computed between the last two looks.
    is_quiet: bool,
}

/// When a process was asked for a sign of life, and its CPU time then.
#[derive(Clone, Copy)]
struct Asked {
    at: Instant,
    cpu_ns: u64,
}

/// What a process has coming that gives no sign of life.
#[derive(Debug, PartialEq, Eq)]
enum Due {
    Question,
    End(Ending),
}

impl Watch {
    fn from(cpu_ns: u64) -> Self {
        let now = Instant::now();
        Self { since: now, cpu_ns, last_cpu_ns: cpu_ns, alive: now, lives: 0, asked: None, is_quiet: false }
    }

    /// What is due now. A process answers as soon as its event loop turns, so what it uses from the question on is one
    /// computation, which may take no more than a whole invocation.
    fn due(&mut self, look: &Look, now: Instant, limits: &Limits) -> Option<Due> {
        if look.lives() != self.lives {
            (self.alive, self.lives, self.asked) = (now, look.lives(), None);
        }
        let cpu_limit = nanoseconds(limits.cpu);
        if let Some(asked) = self.asked {
            if look.cpu_ns().saturating_sub(asked.cpu_ns) > cpu_limit {
                return Some(Due::End(Ending::Cpu));
            }
            let is_stuck = now.duration_since(asked.at) > limits.timeout.max(SILENCE);
            return is_stuck.then_some(Due::End(Ending::Stuck));
        }
        let is_silent = match look.idle_ns() {
            Some(idle_ns) => idle_ns > nanoseconds(IDLE_CPU),
            None => now.duration_since(self.alive) > SILENCE,
        };
        (is_silent || look.silent_ns() > cpu_limit / 2 || look.owes_life()).then(|| {
            self.asked = Some(Asked { at: now, cpu_ns: look.cpu_ns() });
            Due::Question
        })
    }
}

impl Process {
    /// Looks after the process until it has ended.
    pub(super) async fn watch(self: Arc<Self>, stdout: Receiver, stderr: Receiver) {
        let (mut stderr, mut last_words) = (Lines::new(stderr), LastWords::default());
        let mut hearing = pin!(maybe_done(self.hear(Lines::new(stdout))));
        let status = tokio::select! {
            biased;
            // Before the output: a process that prints without end is looked at all the same.
            status = self.look() => status,
            status = async {
                tokio::join!(hearing.as_mut(), self.hear_errors(&mut stderr, &mut last_words));
                // It closes both and lives.
                pending().await
            } => status,
        };
        let errors_left = async {
            while let Some(line) = stderr.next().await {
                self.hear_error(line, &mut last_words);
            }
        };
        let _ = tokio::time::timeout(LAST_OUTPUT, errors_left).await;
        let ending = self.asked.get().cloned().unwrap_or_else(|| self.why_it_ended(&status, &last_words));
        self.ended.send_replace(Some(ending.clone()));
        let _ = tokio::time::timeout(LAST_LINES, hearing).await;
        for call in self.open_calls() {
            self.settle(&call, false);
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

    /// Looks at the process again and again, and pauses it while nothing runs in it. Returns how it has ended.
    async fn look(self: &Arc<Self>) -> String {
        let mut exit = pin!(self.running.exited());
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut watch = Watch::from(0);
        let status = loop {
            tokio::select! {
                biased;
                status = &mut exit => break status,
                // In the pool there is nothing to look at.
                () = self.resumed.notified(), if self.function.get().is_none() => {}
                _ = ticks.tick(), if self.function.get().is_some() => {
                    self.tick(&mut watch);
                    if self.may_pause(&watch) && self.clock.pause(|| self.running.pause()) {
                        tokio::select! {
                            biased;
                            status = &mut exit => break status,
                            () = self.resumed.notified() => {}
                        }
                        ticks.reset_immediately();
                        watch = Watch::from(self.clock.look().cpu_ns());
                    }
                }
            }
        };
        status.map_or_else(|error| error.to_string(), |status| status.to_string())
    }

    /// Whether nothing is left that the process has to run for. It must not be stopped in the middle of a computation, or before it
    /// has answered: if what it does has no end, the next invocation would wait for it in vain.
    fn may_pause(&self, watch: &Watch) -> bool {
        let look = self.clock.look();
        let Some(idle_ns) = look.idle_ns() else { return false };
        self.is_loaded.load(Relaxed)
            && watch.asked.is_none()
            && ((watch.is_quiet && self.idle_for() >= PAUSE_AFTER)
                || (idle_ns > nanoseconds(IDLE_CPU) && look.is_alive_since_idle()))
    }

    /// Charges what was used, and ends the process when that is too much.
    fn tick(self: &Arc<Self>, watch: &mut Watch) {
        let Some(function) = self.function.get() else { return };
        let Some(function) = function.upgrade() else {
            // Whatever it was loaded for is gone.
            self.end(Ending::Unneeded);
            return;
        };
        let limits = &function.spec().limits;
        let cpu_limit = nanoseconds(limits.cpu);
        let look = self.clock.look();
        let now = Instant::now();
        self.note_business(&look.cpu_ns(), watch, now);
        watch.is_quiet = look.cpu_ns().saturating_sub(watch.last_cpu_ns) < nanoseconds(TICK / 10);
        watch.last_cpu_ns = look.cpu_ns();

        let calls = self.open_calls();
        let spent = |call: &Arc<Call>| look.of(&call.began.lock().unwrap_or_else(PoisonError::into_inner));
        let is_spent = |call: &Arc<Call>| !call.is_upgraded.load(Relaxed) && spent(call) > cpu_limit;
        if self.is_loaded.load(Relaxed) {
            if calls.iter().any(is_spent) {
                return self.end(Ending::Cpu);
            }
            match watch.due(&look, now, limits) {
                Some(Due::Question) => drop(tokio::spawn(Arc::clone(self).ping())),
                Some(Due::End(why)) => return self.end(why),
                None => {}
            }
        }
        for call in calls {
            call.run.holds_memory(self.memory_bytes.load(Relaxed));
            // What goes on after the response has the time of the whole invocation.
            let is_late = now > call.run.started + limits.timeout;
            if is_late && call.only_waits() && self.finish(&call, false) {
                let timeout = humantime::format_duration(limits.timeout);
                let message = format!("what `waitUntil` was given is not over after limits.timeout = {timeout}");
                call.run.log(Level::Warn, LogSource::Node, message);
            }
        }
    }

    fn note_business(&self, cpu_ns: &u64, watch: &mut Watch, now: Instant) {
        let span = now.duration_since(watch.since);
        if span < BUSY_SPAN {
            return;
        }
        let used = cpu_ns.saturating_sub(watch.cpu_ns) as f64 / span.as_nanos() as f64;
        self.is_busy.store(used >= BUSY_SHARE, Relaxed);
        (watch.since, watch.cpu_ns) = (now, *cpu_ns);
        if let Some(bytes) = self.running.memory_bytes() {
            self.memory_bytes.store(bytes, Relaxed);
        }
    }

    /// Asks for a sign of life, on a connection of its own.
    async fn ping(self: Arc<Self>) {
        let Ok(mut sender) = self.connect().await else { return };
        let request = Request::builder().uri("/").header(&PING, "1").header(HOST, "localhost").body(full(Bytes::new()));
        let Ok(request) = request else { return };
        let asked = async { sender.send_request(request).await?.into_body().collect().await };
        let mut ended = self.ended.subscribe();
        tokio::select! {
            answer = asked => if answer.is_ok() {
                self.clock.is_alive();
            },
            _ = ended.wait_for(Option::is_some) => {}
        }
    }

    fn why_it_ended(&self, status: &str, last_words: &LastWords) -> Ending {
        if last_words.say_out_of_memory() || self.running.was_out_of_memory() {
            return Ending::Memory;
        }
        match last_words.as_str() {
            "" => Ending::Crashed(status.to_owned()),
            words => Ending::Crashed(format!("{status}: {words}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;
    use crate::js::clock::{Clock, CpuClock};

    /// A CPU clock that shows what it is set to.
    #[derive(Default)]
    struct Hand(Arc<AtomicU64>);

    impl CpuClock for Hand {
        fn cpu_ns(&self) -> Option<u64> {
            Some(self.0.load(Relaxed))
        }
    }

    const MS: Duration = Duration::from_millis(1);

    /// A process, and what is due after it computed and time went by.
    struct Watched {
        cpu: Arc<AtomicU64>,
        clock: Clock<Hand>,
        watch: Watch,
        now: Instant,
        limits: Limits,
    }

    impl Watched {
        fn new(cpu: Duration, timeout: Duration) -> Self {
            let hand = Hand::default();
            let (cpu_clock, watch) = (Arc::clone(&hand.0), Watch::from(0));
            let limits = Limits { cpu, timeout, ..Limits::default() };
            Self { cpu: cpu_clock, clock: Clock::new(hand), now: watch.alive, watch, limits }
        }

        fn after(&mut self, cpu: Duration, time: Duration) -> Option<Due> {
            self.cpu.fetch_add(nanoseconds(cpu), Relaxed);
            self.now += time;
            let look = self.clock.look();
            self.watch.due(&look, self.now, &self.limits)
        }
    }

    #[test]
    fn one_computation_may_take_the_whole_of_cpu_whatever_was_used_before_it() {
        let mut process = Watched::new(1000 * MS, 60_000 * MS);
        let _stream = process.clock.begin(|| {}).unwrap();
        assert_eq!(process.after(499 * MS, 500 * MS), None);
        // The next one begins; it is asked in the middle of it.
        assert_eq!(process.after(10 * MS, 10 * MS), Some(Due::Question));
        assert_eq!(process.after(990 * MS, 990 * MS), None);
        process.clock.is_alive();
        assert_eq!(process.after(499 * MS, 500 * MS), None);
        assert_eq!(process.after(10 * MS, 10 * MS), Some(Due::Question));
        assert_eq!(process.after(1001 * MS, 1001 * MS), Some(Due::End(Ending::Cpu)));
    }

    #[test]
    fn a_process_that_gave_up_an_invocation_is_asked_and_ended_also_while_nothing_runs_in_it() {
        let mut process = Watched::new(1000 * MS, 500 * MS);
        let call = process.clock.begin(|| {}).unwrap();
        assert_eq!(process.after(MS, 500 * MS), None);
        process.clock.end(&call, false);
        assert_eq!(process.after(Duration::ZERO, TICK), Some(Due::Question));
        assert_eq!(process.after(Duration::ZERO, SILENCE), None);
        assert_eq!(process.after(Duration::ZERO, TICK), Some(Due::End(Ending::Stuck)));
        // One that answers goes on.
        let mut process = Watched::new(1000 * MS, 500 * MS);
        let call = process.clock.begin(|| {}).unwrap();
        process.clock.end(&call, false);
        assert_eq!(process.after(Duration::ZERO, TICK), Some(Due::Question));
        process.clock.is_alive();
        assert_eq!(process.after(Duration::ZERO, 60_000 * MS), None);
    }

    #[test]
    fn a_process_is_asked_when_it_is_silent_for_long_while_something_runs_in_it() {
        let mut process = Watched::new(1000 * MS, 5000 * MS);
        assert_eq!(process.after(Duration::ZERO, 60_000 * MS), None);
        let _call = process.clock.begin(|| {}).unwrap();
        assert_eq!(process.after(Duration::ZERO, TICK), Some(Due::Question));
        assert_eq!(process.after(Duration::ZERO, 5000 * MS), None);
        assert_eq!(process.after(Duration::ZERO, TICK), Some(Due::End(Ending::Stuck)));
    }
}
