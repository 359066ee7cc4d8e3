//! The record of one invocation while it runs: CPU time, memory, what went wrong.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use minnow_model::{Level, LogSource, RequestId, Usage, problem::Code};
use tokio::sync::oneshot;

use crate::{
    Function,
    invocation::{BodyError, TraceContext},
    ticker::SLICE,
    worker::Turn,
};

/// One invocation, shared by the sandbox, the response body and the request that waits for it. When the last of them is
/// gone, the invocation has ended and its usage is recorded.
pub(crate) struct Run {
    pub(crate) id: RequestId,
    pub(crate) trace: TraceContext,
    pub(crate) function: Arc<Function>,
    pub(crate) started: Instant,
    pub(crate) queued: Duration,
    pub(crate) cold: AtomicBool,
    pub(crate) meter: Meter,
    peak_memory: AtomicU64,
    /// The guest asked for memory that it may not have: why, as in `failure`. It may go on without, so this is not yet one.
    memory_refused: AtomicU8,
    has_returned: AtomicBool,
    status: AtomicU16,
    /// Index into `Code::all()` plus one; 0 while nothing failed. The first failure stays.
    failure: AtomicU8,
    /// The request has a body that the guest has not read to its end.
    request_unread: AtomicBool,
    /// Why the request's body broke off, once the guest has come to where it did.
    request_broke_off: OnceLock<BodyError>,
    on_end: Mutex<Option<oneshot::Sender<Usage>>>,
}

impl Run {
    pub(crate) fn new(
        function: Arc<Function>,
        id: RequestId,
        trace: TraceContext,
        queued: Duration,
        on_end: Option<oneshot::Sender<Usage>>,
    ) -> Self {
        Self {
            id,
            trace,
            function,
            started: Instant::now(),
            queued,
            cold: AtomicBool::new(false),
            meter: Meter::default(),
            peak_memory: AtomicU64::new(0),
            memory_refused: AtomicU8::new(0),
            has_returned: AtomicBool::new(false),
            status: AtomicU16::new(0),
            failure: AtomicU8::new(0),
            request_unread: AtomicBool::new(false),
            request_broke_off: OnceLock::new(),
            on_end: Mutex::new(on_end),
        }
    }

    /// The sandbox holds this much memory now.
    pub(crate) fn holds_memory(&self, bytes: u64) {
        self.peak_memory.fetch_max(bytes, Relaxed);
    }

    /// Notes why the invocation failed. The first reason stays, since later ones follow from it.
    pub(crate) fn fail(&self, code: Code) {
        let _ = self.failure.compare_exchange(0, index_of(code), Relaxed, Relaxed);
    }

    pub(crate) fn failure(&self) -> Option<Code> {
        code_at(self.failure.load(Relaxed))
    }

    /// Whether there is something left of the request's body that the guest has not read.
    pub(crate) fn request_is_to_be_read(&self, is_left: bool) {
        self.request_unread.store(is_left, Relaxed);
    }

    /// Whether the guest has read the request's body to its end, or there is none.
    pub(crate) fn has_read_request(&self) -> bool {
        !self.request_unread.load(Relaxed)
    }

    /// The guest was told that the request's body breaks off.
    pub(crate) fn request_broke_off(&self, why: BodyError) {
        let _ = self.request_broke_off.set(why);
    }

    /// Why the guest could not read all of the request's body, if it could not.
    pub(crate) fn broken_request(&self) -> Option<&BodyError> {
        self.request_broke_off.get()
    }

    /// The status that the client gets.
    pub(crate) fn answered(&self, status: u16) {
        self.status.store(status, Relaxed);
    }

    pub(crate) fn is_answered(&self) -> bool {
        self.status.load(Relaxed) != 0
    }

    /// The guest came back by itself.
    pub(crate) fn returned(&self) {
        self.has_returned.store(true, Relaxed);
    }

    /// Why there is no answer although nothing was noted: the guest returned without one, or its task broke down.
    pub(crate) fn without_answer(&self) -> Code {
        if !self.has_returned.load(Relaxed) {
            return Code::Internal;
        }
        self.fail(Code::NoResponse);
        self.log(Level::Error, LogSource::Node, "returned without setting a response".into());
        Code::NoResponse
    }

    pub(crate) fn refuse_memory(&self, why: Code) {
        self.memory_refused.store(index_of(why), Relaxed);
    }

    /// Why memory was refused, if it was.
    pub(crate) fn memory_refused(&self) -> Option<Code> {
        code_at(self.memory_refused.load(Relaxed))
    }

    /// Writes a line about this invocation to the app's log.
    pub(crate) fn log(&self, level: Level, source: LogSource, message: String) {
        self.function.log(level, source, Some(self.id), message);
    }

    /// Whether the guest failed over a request that broke off, or was stopped when its client went away in the middle of it.
    fn ended_with_its_request(&self) -> bool {
        let is_broken = self.broken_request().is_some();
        match self.failure() {
            Some(_) => is_broken,
            None => !self.has_returned.load(Relaxed) && (is_broken || self.request_unread.load(Relaxed)),
        }
    }

    fn usage(&self) -> Usage {
        Usage {
            wall: self.started.elapsed(),
            queued: self.queued,
            cpu: self.meter.cpu(),
            peak_memory_bytes: self.peak_memory.load(Relaxed),
            cold: self.cold.load(Relaxed),
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let usage = self.usage();
        let status = match self.status.load(Relaxed) {
            // 499, as nginx logs it: the client went away before there was an answer.
            0 => 499,
            // Or the answer had begun, and went no further because the request did not.
            ..400 if self.ended_with_its_request() => match self.broken_request() {
                Some(BodyError::TooLarge(_)) => Code::RequestTooLarge.status(),
                _ => 499,
            },
            status => status,
        };
        self.function.metrics().record(status, self.failure(), &usage);
        let on_end = self.on_end.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(on_end) = on_end {
            let _ = on_end.send(usage);
        }
    }
}

/// A code as a small number: its place in `Code::all()` plus one.
fn index_of(code: Code) -> u8 {
    let index = Code::all().iter().position(|each| *each == code).unwrap_or_default();
    u8::try_from(index + 1).unwrap_or(u8::MAX)
}

fn code_at(index: u8) -> Option<Code> {
    Code::all().get(usize::from(index).checked_sub(1)?).copied()
}

/// Milliseconds since the Unix epoch.
pub(crate) fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The CPU clock of this thread, in nanoseconds. A system call: 0.3–0.8 µs on a virtual machine.
fn thread_cpu_ns() -> u64 {
    nanoseconds(rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime))
}

/// The monotonic clock, in nanoseconds. No system call: 25 ns.
pub(crate) fn monotonic_ns() -> u64 {
    nanoseconds(rustix::time::clock_gettime(rustix::time::ClockId::Monotonic))
}

/// A poll that lasts longer may have lost its core meanwhile. One more reading of the CPU clock is then 0.4 % of it.
const LASTING_NS: u64 = 200_000;

/// How old a reading of the CPU clock may be that bounds what a poll is charged.
const CPU_SEEN_NS: u64 = 1_000_000;

/// The last reading of this thread's CPU clock before a poll, and the monotonic clock then.
#[derive(Clone, Copy)]
struct CpuSeen {
    at_ns: u64,
    cpu_ns: u64,
}

thread_local! {
    static CPU_SEEN: std::cell::Cell<CpuSeen> = const { std::cell::Cell::new(CpuSeen { at_ns: 0, cpu_ns: 0 }) };
}

impl CpuSeen {
    /// Reads the clock again when the last reading is old: once a millisecond at the most.
    fn refresh(now_ns: u64) {
        if now_ns.saturating_sub(CPU_SEEN.get().at_ns) >= CPU_SEEN_NS {
            CPU_SEEN.set(Self { at_ns: now_ns, cpu_ns: thread_cpu_ns() });
        }
    }
}

fn nanoseconds(time: rustix::time::Timespec) -> u64 {
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}

/// Counts the CPU time of a sandbox, poll by poll.
///
/// Until a guest has computed for a slice without a pause, polls are timed with the monotonic clock: four readings of the CPU
/// clock were a tenth of a short request, and a quarter of one that waits for a hundred writes. The two differ when the kernel
/// takes the core away, so a poll that lasts is charged no more than the thread has used. From then on the CPU clock is read,
/// until the guest waits for something.
#[derive(Default)]
pub(crate) struct Meter {
    /// CPU time of the polls that have ended, in nanoseconds.
    cpu_ns: AtomicU64,
    /// The clock when the current poll began, in nanoseconds; 0 between polls.
    poll_began_ns: AtomicU64,
    /// Whether the guest was suspended in this computation, and whether that was so when the current poll began.
    is_long: AtomicBool,
    poll_is_long: AtomicBool,
    /// CPU time of the polls since the guest last had a turn, in nanoseconds.
    unturned_ns: AtomicU64,
    /// The guest was interrupted at the end of a slice and waits for its next turn.
    suspended: AtomicBool,
    /// Whether `turn` holds one; saves the lock in the common case.
    holds: AtomicBool,
    turn: Mutex<Turn>,
}

impl Meter {
    /// CPU time so far; while a poll runs, call it on the polling thread.
    pub(crate) fn cpu(&self) -> Duration {
        Duration::from_nanos(self.cpu_ns.load(Relaxed)) + self.current()
    }

    /// CPU time of the poll that runs now; zero between polls.
    pub(crate) fn current(&self) -> Duration {
        match self.poll_began_ns.load(Relaxed) {
            0 => Duration::ZERO,
            began => Duration::from_nanos(Self::spent_ns(self.poll_is_long.load(Relaxed), began)),
        }
    }

    fn clock_ns(is_long: bool) -> u64 {
        if is_long { thread_cpu_ns() } else { monotonic_ns() }
    }

    /// The CPU time since `began`, of a poll on this thread.
    fn spent_ns(is_long: bool, began: u64) -> u64 {
        let spent = Self::clock_ns(is_long).saturating_sub(began);
        if is_long || spent < LASTING_NS {
            return spent;
        }
        spent.min(thread_cpu_ns().saturating_sub(CPU_SEEN.get().cpu_ns))
    }

    /// Adds CPU time that was measured elsewhere.
    pub(crate) fn charge_ns(&self, cpu_ns: u64) {
        self.cpu_ns.fetch_add(cpu_ns, Relaxed);
    }

    /// The guest reached the end of a slice.
    pub(crate) fn suspend(&self) {
        self.suspended.store(true, Relaxed);
        self.is_long.store(true, Relaxed);
    }

    /// Whether the guest has computed less than half a slice since it last had a turn, over all polls: it waited for something
    /// since then, and a slice that ends now began while it did.
    pub(crate) fn has_just_begun(&self) -> bool {
        let unturned = Duration::from_nanos(self.unturned_ns.load(Relaxed));
        !self.poll_is_long.load(Relaxed) && unturned + self.current() < SLICE / 2
    }

    /// The guest goes on; it keeps the turn until the poll in which it does so ends.
    pub(crate) fn resume(&self, turn: Turn) {
        self.suspended.store(false, Relaxed);
        self.unturned_ns.store(0, Relaxed);
        *self.turn.lock().unwrap_or_else(PoisonError::into_inner) = turn;
        self.holds.store(true, Relaxed);
    }

    /// Whether the guest stopped in the middle of a computation.
    pub(crate) fn is_suspended(&self) -> bool {
        self.suspended.load(Relaxed)
    }

    /// Polls `inner`, adds the CPU time to this meter and gives back the turn. Returns the outcome and the CPU time of the
    /// poll in nanoseconds.
    pub(crate) fn poll<F: Future + Unpin>(&self, inner: &mut F, cx: &mut Context<'_>) -> (Poll<F::Output>, u64) {
        let is_long = self.is_long.load(Relaxed);
        let began = Self::clock_ns(is_long);
        if !is_long {
            CpuSeen::refresh(began);
        }
        self.poll_is_long.store(is_long, Relaxed);
        self.poll_began_ns.store(began, Relaxed);
        let polled = Pin::new(inner).poll(cx);
        self.poll_began_ns.store(0, Relaxed);
        let spent = Self::spent_ns(is_long, began);
        self.cpu_ns.fetch_add(spent, Relaxed);
        self.unturned_ns.fetch_add(spent, Relaxed);
        if is_long && !self.is_suspended() {
            // It waits for something. What it does then is another computation, short until it turns out to be long.
            self.is_long.store(false, Relaxed);
        }
        if self.holds.swap(false, Relaxed) {
            // The next guest that waits for a turn gets it now.
            drop(self.turn.lock().unwrap_or_else(PoisonError::into_inner).take());
        }
        (polled, spent)
    }
}

/// Charges the CPU time of every poll of `inner` to an invocation.
pub(crate) struct Metered<F> {
    pub(crate) run: Arc<Run>,
    pub(crate) inner: F,
}

impl<F: Future + Unpin> Future for Metered<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.get_mut();
        this.run.meter.poll(&mut this.inner, cx).0
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, pin::pin};

    use super::*;

    /// One poll of `step`.
    fn poll(meter: &Meter, step: impl Fn() -> Poll<()>) -> bool {
        let mut future = pin!(poll_fn(|_| step()));
        meter.poll(&mut future, &mut Context::from_waker(std::task::Waker::noop())).0.is_ready()
    }

    #[test]
    fn a_computation_is_long_from_its_first_slice_until_the_guest_waits() {
        let meter = Meter::default();
        assert!(!poll(&meter, || {
            assert!(!meter.poll_is_long.load(Relaxed));
            meter.suspend();
            Poll::Pending
        }));
        // It waits for its turn.
        for _ in 0..2 {
            assert!(!poll(&meter, || {
                assert!(meter.poll_is_long.load(Relaxed) && !meter.has_just_begun());
                Poll::Pending
            }));
        }
        // It goes on, and then waits for something.
        assert!(!poll(&meter, || {
            meter.resume(Turn::default());
            assert!(meter.poll_is_long.load(Relaxed) && !meter.has_just_begun());
            Poll::Pending
        }));
        assert!(poll(&meter, || {
            assert!(!meter.poll_is_long.load(Relaxed));
            Poll::Ready(())
        }));
    }

    /// Computes for so long, on whatever core time there is.
    fn compute(time: Duration) {
        let end = Duration::from_nanos(thread_cpu_ns()) + time;
        while Duration::from_nanos(thread_cpu_ns()) < end {}
    }

    #[test]
    fn what_has_computed_for_half_a_slice_has_not_just_begun_also_in_many_short_polls() {
        let meter = Meter::default();
        poll(&meter, || {
            compute(SLICE);
            assert!(!meter.has_just_begun());
            Poll::Pending
        });
        // As it would after a turn.
        meter.resume(Turn::default());
        for _ in 0..10 {
            poll(&meter, || {
                compute(SLICE / 10);
                Poll::Pending
            });
        }
        poll(&meter, || {
            assert!(!meter.poll_is_long.load(Relaxed) && !meter.has_just_begun());
            Poll::Ready(())
        });
    }

    #[test]
    fn a_poll_is_not_charged_for_the_time_in_which_others_have_its_core() {
        let meter = Meter::default();
        let slept = Duration::from_millis(50);
        poll(&meter, || {
            // The thread has no core meanwhile.
            std::thread::sleep(slept);
            Poll::Ready(())
        });
        assert!(meter.cpu() < slept / 2, "{:?}", meter.cpu());
        poll(&meter, || {
            compute(SLICE);
            Poll::Ready(())
        });
        assert!(meter.cpu() >= SLICE, "{:?}", meter.cpu());
    }
}
