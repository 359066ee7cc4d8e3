//! The bounded queue between those who write lines and the writer.
//!
//! A mutex and a vector instead of a channel: the writer takes everything at once, an empty queue takes no memory, both
//! bounds (lines and bytes) hold exactly, and a command never gets lost behind them.

use std::{
    collections::{BTreeMap, HashMap},
    mem,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use minnow_model::{AppName, LogLine, LogSource, Tenant};
use tokio::sync::oneshot;

use super::{LogError, segment::Cutoff};
use crate::metrics::Counter;

/// Lines that wait: as many as the bytes below allow if they were empty. A quarter of it, an app's share, takes more than a
/// function may print at once.
const MAX_LINES: usize = MAX_BYTES / LINE_OVERHEAD_BYTES;
/// Memory that waiting lines take. The writer works on one more such batch, so twice this is the most.
const MAX_BYTES: usize = 16 << 20;
/// What one app may have of the queue, as a part of both bounds: a noisy one drops its own lines, not those of others.
const APP_SHARE: usize = 4;
/// What only the node's own lines may take, as a part of both bounds, and a quarter of that for one app: they say why a
/// request failed.
const NODE_SHARE: usize = 8;
/// What a line takes besides its message: names, ids and the allocation.
const LINE_OVERHEAD_BYTES: usize = 256;
/// Apps whose dropped lines are counted one by one; those of further apps are only in the total.
const MAX_DROPPING_APPS: usize = 1024;
/// How long the writer waits for more lines once it was woken. Waking a thread takes the one who writes a line several
/// microseconds; so it happens at most 500 times a second, and followers see a line 2 ms later.
const GATHER: Duration = Duration::from_millis(2);

/// Whose log.
pub(super) type AppKey = (Tenant, AppName);

pub(super) struct Queue {
    state: Mutex<State>,
    woken: Condvar,
    /// All lines that were ever dropped.
    pub(super) dropped: Counter,
}

#[derive(Default)]
struct State {
    batch: Batch,
    bytes: usize,
    /// What waits of each app, at most [`MAX_LINES`] of them.
    apps: HashMap<AppKey, Waiting>,
    writer_sleeps: bool,
    closed: bool,
}

/// How much waits.
#[derive(Debug, Default, Clone, Copy)]
struct Waiting {
    lines: usize,
    bytes: usize,
}

impl Waiting {
    /// Whether there is room for a line with so many bytes within a part of the queue.
    fn has_room(self, bytes: usize, part: impl Fn(usize) -> usize) -> bool {
        self.lines < part(MAX_LINES) && self.bytes + bytes <= part(MAX_BYTES)
    }
}

/// What the writer takes at once. The lines come before the commands: whoever sends a command has written before.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) lines: Vec<Arc<LogLine>>,
    pub(super) dropped: BTreeMap<AppKey, u64>,
    pub(super) commands: Vec<Command>,
}

/// What the writer is asked besides writing. Each comes from a caller that waits for its answer, so there are never
/// more than callers.
pub(super) enum Command {
    /// Write out the app's lines and say where its log ends now.
    Position {
        app: AppKey,
        reply: Box<dyn FnOnce(Option<Cutoff>) + Send>,
    },
    Remove {
        app: AppKey,
        reply: oneshot::Sender<Result<(), LogError>>,
    },
    Flush {
        reply: oneshot::Sender<()>,
    },
}

/// What [`Queue::take`] comes back with.
pub(super) enum Taken {
    Batch(Batch),
    /// Nothing came in the given time.
    Idle,
    /// Nothing will come any more.
    Closed,
}

impl Queue {
    pub(super) fn new(dropped: Counter) -> Self {
        Self { state: Mutex::default(), woken: Condvar::new(), dropped }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a line, or drops and counts it when there is no room.
    pub(super) fn push(&self, line: LogLine) {
        let bytes = line.message.len() + LINE_OVERHEAD_BYTES;
        let mut state = self.lock();
        let app = (line.tenant.clone(), line.app.clone());
        let of_app = state.apps.get(&app).copied().unwrap_or_default();
        let of_all = Waiting { lines: state.batch.lines.len(), bytes: state.bytes };
        let has_room = if line.source == LogSource::Node {
            of_all.has_room(bytes, |all| all) && of_app.has_room(bytes, |all| all / APP_SHARE + all / NODE_SHARE / 4)
        } else {
            of_all.has_room(bytes, |all| all - all / NODE_SHARE) && of_app.has_room(bytes, |all| all / APP_SHARE)
        };
        if state.closed || !has_room {
            return self.drop_line(state, app);
        }
        state.bytes += bytes;
        state.apps.insert(app, Waiting { lines: of_app.lines + 1, bytes: of_app.bytes + bytes });
        state.batch.lines.push(Arc::new(line));
        self.wake(state);
    }

    /// Drops a line before it was made.
    pub(super) fn lose(&self, app: AppKey) {
        self.drop_line(self.lock(), app);
    }

    fn drop_line(&self, mut state: MutexGuard<'_, State>, app: AppKey) {
        self.dropped.add(1);
        let dropped = &mut state.batch.dropped;
        if let Some(count) = dropped.get_mut(&app) {
            *count += 1;
        } else if dropped.len() < MAX_DROPPING_APPS {
            dropped.insert(app, 1);
            // The writer tells of it in its own time.
            self.wake(state);
        }
    }

    /// Hands over a command; it is dropped, and its reply with it, when the writer is gone.
    pub(super) fn command(&self, command: Command) {
        let mut state = self.lock();
        if !state.closed {
            state.batch.commands.push(command);
            self.wake(state);
        }
    }

    fn wake(&self, mut state: MutexGuard<'_, State>) {
        if mem::take(&mut state.writer_sleeps) {
            drop(state);
            self.woken.notify_one();
        }
    }

    /// Lets the writer finish what is there and end.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        self.wake(state);
    }

    /// Takes nothing any more, and drops the commands that wait: the writer is gone.
    pub(super) fn abandon(&self) {
        let mut state = self.lock();
        state.closed = true;
        let batch = mem::take(&mut state.batch);
        drop(state);
        self.dropped.add(batch.lines.len() as u64);
    }

    /// Waits for something to do, at most `patience` where given.
    pub(super) fn take(&self, patience: Option<Duration>) -> Taken {
        let mut state = self.lock();
        while state.batch.lines.is_empty() && state.batch.commands.is_empty() && state.batch.dropped.is_empty() {
            if state.closed {
                return Taken::Closed;
            }
            state.writer_sleeps = true;
            match patience {
                None => state = self.woken.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(patience) => {
                    let waited = self.woken.wait_timeout(state, patience);
                    let (after, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
                    state = after;
                    if timeout.timed_out() && mem::take(&mut state.writer_sleeps) {
                        return Taken::Idle;
                    }
                }
            }
        }
        if state.batch.commands.is_empty() && !state.closed && state.batch.lines.len() < MAX_LINES / 2 {
            drop(state);
            thread::sleep(GATHER);
            state = self.lock();
        }
        state.bytes = 0;
        state.apps.clear();
        Taken::Batch(mem::take(&mut state.batch))
    }
}
