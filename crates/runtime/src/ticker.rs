//! The clock that interrupts guests: it counts a wasmtime epoch up while an invocation runs, and sleeps when none does.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use wasmtime::EngineWeak;

/// How long a guest runs before others get a turn. 1 ms keeps the wait of a short request behind a long one below what a
/// client notices, and costs under 1 % of a core while anything runs.
pub(crate) const SLICE: Duration = Duration::from_millis(1);

/// Ticks without an invocation after which the thread parks. Waking it costs a system call, so it stays on across the gaps
/// between the requests of a busy node.
const IDLE_TICKS: u32 = 100;

/// Counts running invocations and drives the epoch while there are any.
#[derive(Debug)]
pub(crate) struct Ticker {
    shared: Arc<Shared>,
    thread: thread::Thread,
}

#[derive(Debug, Default)]
struct Shared {
    running: AtomicUsize,
    parked: AtomicBool,
    stopped: AtomicBool,
}

impl Ticker {
    /// Starts the thread. It ends when the ticker is dropped.
    pub(crate) fn start(engines: Vec<EngineWeak>) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let handle = thread::Builder::new().name("minnow-ticker".into()).spawn({
            let shared = Arc::clone(&shared);
            move || run(&shared, &engines)
        })?;
        Ok(Self { shared, thread: handle.thread().clone() })
    }

    /// An invocation starts; the clock runs at least until the guard is dropped.
    pub(crate) fn while_running(self: &Arc<Self>) -> Ticking {
        self.shared.running.fetch_add(1, SeqCst);
        if self.shared.parked.load(SeqCst) {
            self.thread.unpark();
        }
        Ticking(Arc::clone(self))
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.shared.stopped.store(true, SeqCst);
        self.thread.unpark();
    }
}

/// One invocation that the clock runs for.
pub(crate) struct Ticking(Arc<Ticker>);

impl Drop for Ticking {
    fn drop(&mut self) {
        self.0.shared.running.fetch_sub(1, SeqCst);
    }
}

fn run(shared: &Shared, engines: &[EngineWeak]) {
    let mut idle = 0;
    while !shared.stopped.load(SeqCst) {
        if idle >= IDLE_TICKS {
            shared.parked.store(true, SeqCst);
            // An invocation that started before the flag was seen did not unpark us, so look once more before sleeping.
            if shared.running.load(SeqCst) == 0 && !shared.stopped.load(SeqCst) {
                thread::park();
            }
            shared.parked.store(false, SeqCst);
            idle = 0;
            continue;
        }
        thread::sleep(SLICE);
        for engine in engines.iter().filter_map(EngineWeak::upgrade) {
            engine.increment_epoch();
        }
        idle = if shared.running.load(SeqCst) == 0 { idle + 1 } else { 0 };
    }
}
