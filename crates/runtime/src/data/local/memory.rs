//! The memory that the node holds for what one sandbox sends and is sent.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use minnow_model::Code;

use super::answer::Refusal;
use crate::memory::MemoryBudget;

/// Bodies and answers that the node holds for one sandbox at once, in bytes. The largest call is a batch that gets values: they are
/// up to 64 MiB, and stand once more in the answer, which is bounded by [`super::answer::MAX_JSON_BYTES`].
pub(super) const MAX_HELD_BYTES: u64 = 128 << 20;

/// What one sandbox has of its [`MAX_HELD_BYTES`], and all of them of the node's memory.
pub(super) struct Memory {
    used: AtomicU64,
    node: Arc<MemoryBudget>,
}

impl Memory {
    pub(super) fn new(node: Arc<MemoryBudget>) -> Self {
        Self { used: AtomicU64::new(0), node }
    }

    /// Keeps room for as much as may come. Of the node's memory it takes nothing before it is there: [`Room::fill`].
    pub(super) fn expect(self: &Arc<Self>, bytes: usize) -> Result<Room, Refusal> {
        let mut room = Room { memory: Arc::clone(self), bytes: 0, filled: 0 };
        room.grow(bytes as u64)?;
        Ok(room)
    }
}

/// Some of a sandbox's memory. It is given back when this is dropped.
pub(super) struct Room {
    memory: Arc<Memory>,
    /// Of the sandbox's bound.
    bytes: u64,
    /// Of the node's memory.
    filled: u64,
}

impl Room {
    fn grow(&mut self, more: u64) -> Result<(), Refusal> {
        let used = self.memory.used.fetch_add(more, Relaxed).saturating_add(more);
        if used > MAX_HELD_BYTES {
            self.memory.used.fetch_sub(more, Relaxed);
            return Err(Refusal::new(
                Code::TooLarge,
                format!(
                    "all connections of an invocation may hold {MAX_HELD_BYTES} bytes together, and hold too much for this call; \
                     read the answers of the others and close them, or ask for less at once"
                ),
            ));
        }
        self.bytes += more;
        Ok(())
    }

    /// So much is there now: what was expected and did not come is given back, and what came beyond that is taken.
    pub(super) fn fill(&mut self, bytes: usize) -> Result<(), Refusal> {
        let bytes = bytes as u64;
        if let Some(more) = bytes.checked_sub(self.bytes) {
            self.grow(more)?;
        } else {
            self.memory.used.fetch_sub(self.bytes - bytes, Relaxed);
            self.bytes = bytes;
        }
        match bytes.checked_sub(self.filled) {
            Some(more) if !self.memory.node.take(more) => {
                return Err(Refusal::new(
                    Code::NodeOverloaded,
                    "the node has no memory left for what this call sends or is sent; try again later",
                ));
            }
            Some(_) => {}
            None => self.memory.node.give_back(self.filled - bytes),
        }
        self.filled = bytes;
        Ok(())
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.memory.used.fetch_sub(self.bytes, Relaxed);
        self.memory.node.give_back(self.filled);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sandbox_holds_so_much_and_the_node_what_is_really_there() {
        let node = Arc::new(MemoryBudget::new(100));
        let memory = Arc::new(Memory::new(Arc::clone(&node)));
        let half = usize::try_from(MAX_HELD_BYTES / 2).unwrap();
        let mut first = memory.expect(half).unwrap();
        let second = memory.expect(half).unwrap();
        assert_eq!(memory.expect(1).err().unwrap().problem.code, Code::TooLarge);
        drop(second);
        first.fill(60).unwrap();
        assert_eq!(memory.used.load(Relaxed), 60);
        let mut other = memory.expect(half).unwrap();
        assert_eq!(other.fill(41).unwrap_err().problem.code, Code::NodeOverloaded);
        drop(other);
        let mut other = memory.expect(0).unwrap();
        other.fill(40).unwrap();
        other.fill(10).unwrap();
        assert!(node.take(30) && !node.take(1));
        drop((first, other));
        assert_eq!(memory.used.load(Relaxed), 0);
        assert!(node.take(70) && !node.take(1));
    }
}
