//! The memory that all sandboxes of a node may hold together.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, timeout_at},
};

/// How long what was freed may be on its way back: a process that is killed takes some milliseconds. After it others have got it.
const ON_ITS_WAY: Duration = Duration::from_millis(200);

pub(crate) struct MemoryBudget {
    limit: u64,
    used: AtomicU64,
    /// Told when a process gives memory back.
    freed: Notify,
}

impl MemoryBudget {
    pub(crate) fn new(limit: u64) -> Self {
        Self { limit, used: AtomicU64::new(0), freed: Notify::new() }
    }

    /// False when that much is not left.
    pub(crate) fn take(&self, bytes: u64) -> bool {
        let used = self.used.fetch_add(bytes, Relaxed).saturating_add(bytes);
        if used > self.limit {
            self.used.fetch_sub(bytes, Relaxed);
            return false;
        }
        true
    }

    /// [`MemoryBudget::take`], with time for others to give memory back. `free` makes somebody do so who does not need it, and
    /// answers how much that is: as often as it takes, and once more when what it freed has gone to others.
    pub(crate) async fn take_within(&self, patience: Duration, bytes: u64, free: impl Fn() -> Option<u64>) -> bool {
        let ends = Instant::now() + patience;
        loop {
            let mut freed = 0;
            while freed < bytes
                && let Some(more) = free()
            {
                freed += more;
            }
            // Also where there is nothing to free: some give memory back by themselves.
            let until = ends.min(Instant::now() + ON_ITS_WAY);
            if timeout_at(until, self.take_when_given_back(bytes)).await.is_ok() {
                return true;
            }
            if until == ends {
                return false;
            }
        }
    }

    async fn take_when_given_back(&self, bytes: u64) {
        loop {
            let mut given_back = std::pin::pin!(self.freed.notified());
            // From here on nothing that is given back is missed.
            given_back.as_mut().enable();
            if self.take(bytes) {
                return;
            }
            given_back.await;
        }
    }

    pub(crate) fn give_back(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Relaxed);
    }

    /// [`MemoryBudget::give_back`] of what others may wait for.
    pub(crate) fn give_back_loudly(&self, bytes: u64) {
        self.give_back(bytes);
        self.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    };

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(2);

    /// A node with room for three processes of ten bytes, of which `idle` do nothing. What ends gives its memory back a moment
    /// later; the first `taken` go to others.
    struct Node {
        memory: Arc<MemoryBudget>,
        idle: AtomicU32,
        taken: Arc<AtomicU32>,
    }

    impl Node {
        fn new(idle: u32, taken: u32) -> Self {
            let memory = Arc::new(MemoryBudget::new(35));
            assert!(memory.take(30));
            Self { memory, idle: AtomicU32::new(idle), taken: Arc::new(AtomicU32::new(taken)) }
        }

        fn end_one(&self) -> Option<u64> {
            self.idle.fetch_update(Relaxed, Relaxed, |idle| idle.checked_sub(1)).ok()?;
            let (memory, taken) = (Arc::clone(&self.memory), Arc::clone(&self.taken));
            tokio::spawn(async move {
                tokio::time::sleep(ON_ITS_WAY / 20).await;
                memory.give_back_loudly(10);
                if taken.fetch_update(Relaxed, Relaxed, |taken| taken.checked_sub(1)).is_ok() {
                    assert!(memory.take(10));
                }
            });
            Some(10)
        }

        async fn take(&self, bytes: u64) -> bool {
            self.memory.take_within(PATIENCE, bytes, || self.end_one()).await
        }
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_is_freed_than_it_takes() {
        for (bytes, left) in [(10, 2), (20, 1), (30, 0)] {
            let node = Node::new(3, 0);
            assert!(node.take(bytes).await);
            assert_eq!(node.idle.load(Relaxed), left, "{bytes}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn more_is_freed_when_others_took_what_was_freed() {
        let node = Node::new(3, 2);
        let began = Instant::now();
        assert!(node.take(10).await);
        assert_eq!(node.idle.load(Relaxed), 0);
        assert!(began.elapsed() < PATIENCE);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_idle_only_later_is_freed_then() {
        let node = Node::new(0, 0);
        let later = async {
            tokio::time::sleep(PATIENCE / 2).await;
            node.idle.store(1, Relaxed);
        };
        let (has_taken, ()) = tokio::join!(node.take(10), later);
        assert!(has_taken);
    }

    #[tokio::test(start_paused = true)]
    async fn patience_ends() {
        let node = Node::new(0, 0);
        let began = Instant::now();
        // Others come and go, and leave too little.
        let others = async {
            loop {
                tokio::time::sleep(ON_ITS_WAY / 3).await;
                node.memory.give_back_loudly(0);
            }
        };
        tokio::select! {
            has_taken = node.take(10) => assert!(!has_taken),
            () = others => {}
        }
        assert!(began.elapsed() <= PATIENCE + ON_ITS_WAY);
        assert!(node.memory.take(5) && !node.memory.take(1), "nothing is taken that was not got");
    }
}
