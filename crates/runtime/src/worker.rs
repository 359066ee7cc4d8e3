//! The tokio runtime of one worker thread, and the order in which long-running guests share it with short ones.
//!
//! A guest runs at most one slice (see `ticker`) before it has to ask for a turn. Turns are given out one at a time, after
//! the runtime has looked for new I/O, so between two slices of long-running guests every short request that is ready runs.
//! However many guests burn CPU on a worker, a short request waits for one slice of one of them, not for all.

use std::{cell::RefCell, sync::Arc};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

thread_local! {
    static TURNS: RefCell<Option<Arc<Semaphore>>> = const { RefCell::new(None) };
}

/// Builds the runtime of one worker: everything that happens on its listener, its connections and its sandboxes runs on
/// the one thread that calls `block_on`.
pub fn build() -> std::io::Result<tokio::runtime::Runtime> {
    TURNS.with_borrow_mut(|turns| *turns = Some(Arc::new(Semaphore::new(1))));
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// The right to run one more slice. On a worker only one long-running guest holds it at a time.
pub(crate) type Turn = Option<OwnedSemaphorePermit>;

/// Waits for a turn, letting everything else that is ready run first.
pub(crate) async fn next_turn() -> Turn {
    let turns = TURNS.with_borrow(Clone::clone);
    let turn = match turns {
        // The semaphore is never closed.
        Some(turns) => turns.acquire_owned().await.ok(),
        // Not a worker of the gateway (an invoke through the control API): the runtime has threads of its own.
        None => None,
    };
    // tokio polls for I/O before it resumes a task that yielded.
    tokio::task::yield_now().await;
    turn
}
