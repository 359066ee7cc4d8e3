//! What is taken of a volume, as far as it is known without a look at the disk.

use std::{
    fs::File,
    io,
    ops::AddAssign,
    os::unix::fs::MetadataExt as _,
    sync::{Arc, MutexGuard, Weak},
    time::Duration,
};

use tokio::{
    sync::OwnedRwLockReadGuard,
    time::{Instant, sleep_until},
};

use super::{BLOCK_BYTES, Volume, lock, tree};

/// How often the files of a volume are counted at most. A count reads every name: without a bound, a guest that deletes and writes at
/// a full volume would have one for each write. Who comes earlier waits, if something was deleted, or is told that the volume is full.
const COUNT_EVERY: Duration = Duration::from_secs(1);

/// Counts for one claim: the second one for what was deleted during the first.
const COUNTS: usize = 2;

/// What files take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    pub bytes: u64,
    pub entries: u64,
}

impl Usage {
    /// What a new file, folder or link takes before anything is written into it.
    pub const ENTRY: Self = Self { bytes: BLOCK_BYTES, entries: 1 };

    /// What a file takes more when it has grown from one size to another.
    pub fn growth(from_bytes: u64, to_bytes: u64) -> Self {
        let blocks = to_bytes.div_ceil(BLOCK_BYTES).saturating_sub(from_bytes.div_ceil(BLOCK_BYTES));
        Self { bytes: blocks.saturating_mul(BLOCK_BYTES), entries: 0 }
    }

    fn plus(self, other: Self) -> Self {
        Self { bytes: self.bytes.saturating_add(other.bytes), entries: self.entries.saturating_add(other.entries) }
    }

    fn minus(self, other: Self) -> Self {
        Self { bytes: self.bytes.saturating_sub(other.bytes), entries: self.entries.saturating_sub(other.entries) }
    }
}

impl AddAssign for Usage {
    fn add_assign(&mut self, other: Self) {
        *self = self.plus(other);
    }
}

/// The most that a volume holds. It comes with each claim: it is what the manifest of the version says that makes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    pub bytes: u64,
    pub entries: u64,
}

impl Bounds {
    fn hold(&self, used: Usage) -> bool {
        used.bytes <= self.bytes && used.entries <= self.entries
    }
}

#[derive(Default)]
pub(super) struct Claims {
    /// What was counted, and what was claimed since. `None` before the first count.
    used: Option<Usage>,
    /// Of that, what is not on the disk yet, or may not be.
    pending: Usage,
    /// All that was ever claimed and not given back: the difference is what was claimed during a count.
    claimed: Usage,
    /// Whether something was deleted since the last count began.
    freed: bool,
    counted: Option<Instant>,
    counts: u64,
    /// Whether the folder was ever opened.
    touched: bool,
}

impl Claims {
    pub(super) fn is_untouched(&self) -> bool {
        !self.touched
    }
}

/// Space that was claimed. It is taken when this is dropped, whatever became of the work: a call that is broken off may still do it.
#[must_use]
pub struct Claim {
    volume: Arc<Volume>,
    claimed: Usage,
}

impl Claim {
    /// The work has failed without doing anything.
    pub fn undo(self) {
        self.keep(Usage::default());
    }

    /// The work is done, and took no more than `taken`.
    pub(super) fn keep(mut self, taken: Usage) {
        self.shrink_to(taken);
    }

    /// Makes it `needed`: claims what is missing, as [`Volume::claim`] does, and gives back what is too much.
    pub(super) async fn fit(mut self, most: Bounds, needed: Usage) -> io::Result<Self> {
        match self.volume.claim(most, needed.minus(self.claimed)).await {
            Ok(mut rest) => {
                self.claimed += std::mem::take(&mut rest.claimed);
                self.shrink_to(needed);
                Ok(self)
            }
            Err(error) => {
                self.undo();
                Err(error)
            }
        }
    }

    pub(super) fn is_none(&self) -> bool {
        self.claimed == Usage::default()
    }

    pub(super) fn volume(&self) -> &Volume {
        &self.volume
    }

    fn shrink_to(&mut self, needed: Usage) {
        let surplus = self.claimed.minus(needed);
        self.claimed = self.claimed.minus(surplus);
        let mut claims = self.volume.claims();
        claims.pending = claims.pending.minus(surplus);
        claims.claimed = claims.claimed.minus(surplus);
        claims.used = claims.used.map(|used| used.minus(surplus));
    }

    /// Undoes it where the work has failed.
    pub fn unless_failed<T, E>(self, result: Result<T, E>) -> Result<T, E> {
        if result.is_err() {
            self.undo();
        }
        result
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if self.claimed != Usage::default() {
            let mut claims = self.volume.claims();
            claims.pending = claims.pending.minus(self.claimed);
        }
    }
}

/// What becomes of a claim.
enum Tried {
    Claimed,
    Full,
    /// It may fit, if the files are counted.
    Unknown,
}

impl Volume {
    pub(super) fn claims(&self) -> MutexGuard<'_, Claims> {
        lock(&self.claims)
    }

    /// Somebody has opened the folder, so that there may be something in it.
    pub(super) fn touch(&self) {
        self.claims().touched = true;
    }

    /// Takes space for what is about to be written or made; hold the claim until that is done. Fails with ENOSPC where the volume
    /// would hold more than `most`. At the bound it waits for the files to be counted, up to a second and the time that takes.
    pub async fn claim(self: &Arc<Self>, most: Bounds, more: Usage) -> io::Result<Claim> {
        let claim = |claimed| Claim { volume: Arc::clone(self), claimed };
        if more == Usage::default() {
            return Ok(claim(more));
        }
        for _ in 0..COUNTS {
            match self.try_claim(most, more) {
                Tried::Claimed => return Ok(claim(more)),
                Tried::Full => return Err(full()),
                Tried::Unknown => self.count().await?,
            }
        }
        match self.try_claim(most, more) {
            Tried::Claimed => Ok(claim(more)),
            Tried::Full | Tried::Unknown => Err(full()),
        }
    }

    /// Something was deleted or made smaller: a count may find more room.
    pub fn freed(&self) {
        self.claims().freed = true;
    }

    /// Keeps the files from being counted while one is moved or linked.
    pub async fn moving(&self) -> OwnedRwLockReadGuard<()> {
        Arc::clone(&self.still).read_owned().await
    }

    fn try_claim(&self, most: Bounds, more: Usage) -> Tried {
        let mut claims = self.claims();
        let Some(used) = claims.used else {
            // Nothing fits, whatever there is.
            return if most.hold(more) { Tried::Unknown } else { Tried::Full };
        };
        let wanted = used.plus(more);
        if most.hold(wanted) {
            claims.used = Some(wanted);
            claims.pending += more;
            claims.claimed += more;
            return Tried::Claimed;
        }
        if claims.freed && most.hold(more) { Tried::Unknown } else { Tried::Full }
    }

    /// Finds out what the files take.
    async fn count(self: &Arc<Self>) -> io::Result<()> {
        let (counts, due) = {
            let claims = self.claims();
            (claims.counts, claims.counted.map(|counted| counted + COUNT_EVERY))
        };
        if let Some(due) = due {
            sleep_until(due).await;
        }
        let still = Arc::clone(&self.still).write_owned().await;
        let volume = Arc::clone(self);
        let counted = tokio::task::spawn_blocking(move || {
            let _still = still;
            volume.count_here(counts)
        });
        counted.await.map_err(io::Error::other)?
    }

    /// Counts, unless somebody else has since `counts`. Blocking.
    fn count_here(&self, counts: u64) -> io::Result<()> {
        let (claimed, pending) = {
            let mut claims = self.claims();
            if claims.counts != counts {
                return Ok(());
            }
            claims.freed = false;
            (claims.claimed, claims.pending)
        };
        let found = tree::count(&self.root).map(|used| used.plus(self.deleted()));
        let mut claims = self.claims();
        claims.counts += 1;
        claims.counted = Some(Instant::now());
        match found {
            Ok(found) => {
                // What was claimed and not done when the count began may be in it or not; too much is found out by the next one.
                let used = found.plus(pending).plus(claims.claimed).minus(claimed);
                claims.used = Some(used);
                Ok(())
            }
            Err(error) => {
                claims.freed = true;
                tracing::warn!(path = %self.root.display(), %error, "the files of a volume cannot be counted");
                Err(error)
            }
        }
    }

    /// What files take that are open and have no name any more.
    fn deleted(&self) -> Usage {
        let open: Vec<Arc<File>> = lock(&self.open).iter().filter_map(Weak::upgrade).collect();
        let mut used = Usage::default();
        let mut seen = std::collections::HashSet::new();
        for file in open {
            if let Ok(found) = file.metadata()
                && found.nlink() == 0
                && found.is_file()
                && seen.insert((found.dev(), found.ino()))
            {
                used += Usage::ENTRY;
                used += Usage::growth(0, found.len());
            }
        }
        used
    }
}

/// The volume is full.
fn full() -> io::Error {
    io::Error::from_raw_os_error(libc::ENOSPC)
}
