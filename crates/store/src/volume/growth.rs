//! Space for what changes a file's length, true to that length until the change is done.

use std::{fs::File, io, sync::Arc};

use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard};

use super::{Bounds, Claim, Usage, Volume};

/// What is about to be done to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Write { offset: u64, bytes: u64 },
    Append { bytes: u64 },
    Size(u64),
}

impl Change {
    /// What a file of `length` bytes takes more with it.
    fn needs(self, length: u64) -> Usage {
        let end = match self {
            // What writes nothing makes nothing longer.
            Self::Write { bytes: 0, .. } => length,
            Self::Write { offset, bytes } => offset.saturating_add(bytes),
            Self::Append { bytes } => length.saturating_add(bytes),
            Self::Size(size) => size,
        };
        Usage::growth(length, end)
    }
}

/// Space for a [`Change`]. While this is there no file of the volume becomes shorter.
#[must_use]
pub struct Growth {
    claim: Claim,
    from_bytes: u64,
    _lengths: Lengths,
}

/// Keeps the lengths of a volume's files from changing otherwise.
enum Lengths {
    /// Others write too: each has claimed for itself what makes the file longer, so together they have at least what it takes.
    Shared(#[expect(dead_code, reason = "held")] OwnedRwLockReadGuard<()>),
    /// A file may become shorter; or it is appended to, where two that see the same length would both leave its last block out.
    Alone(#[expect(dead_code, reason = "held")] OwnedRwLockWriteGuard<()>),
}

impl Growth {
    /// What was claimed is given back where the change has failed, but for what the file has grown nevertheless.
    pub fn finish<T, E>(self, file: &File, result: Result<T, E>) -> Result<T, E> {
        if result.is_err() {
            match file.metadata() {
                Ok(found) => self.claim.keep(Usage::growth(self.from_bytes, found.len())),
                // A count tells.
                Err(_) => self.claim.volume().freed(),
            }
        }
        result
    }

    /// Whether nothing is taken by it, as where a file becomes shorter.
    pub fn is_none(&self) -> bool {
        self.claim.is_none()
    }
}

impl Volume {
    /// Takes space for a change of the file; keep what this answers until the change is done. Fails and waits as [`Volume::claim`]
    /// does.
    ///
    /// A claim may wait for a count, and the file may become shorter meanwhile: a write at its old end would then leave a hole that
    /// nobody has claimed. So the length is read again when it cannot change any more, and what is missing is claimed then. That
    /// claim may wait too, with the lengths held; otherwise whoever truncates again and again could have this go on for ever.
    ///
    /// Lengths are read on this thread: for a file that is open the kernel has it, so that nothing waits for the disk.
    pub async fn claim_growth(self: &Arc<Self>, file: &File, most: Bounds, change: Change) -> io::Result<Growth> {
        let claim = self.claim(most, change.needs(file.metadata()?.len())).await?;
        let lengths = match change {
            Change::Write { .. } => Lengths::Shared(Arc::clone(&self.lengths).read_owned().await),
            Change::Append { .. } | Change::Size(_) => Lengths::Alone(self.shortening().await),
        };
        let from_bytes = match file.metadata() {
            Ok(found) => found.len(),
            Err(error) => {
                claim.undo();
                return Err(error);
            }
        };
        let claim = claim.fit(most, change.needs(from_bytes)).await?;
        Ok(Growth { claim, from_bytes, _lengths: lengths })
    }

    /// To be held while a file is made shorter.
    pub async fn shortening(&self) -> OwnedRwLockWriteGuard<()> {
        Arc::clone(&self.lengths).write_owned().await
    }
}
