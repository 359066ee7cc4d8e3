//! How many of what takes memory and files as long as somebody else pleases there are: on the node, and of each app, so that
//! no app has all of them.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use super::BucketError;

/// Blobs in files that are being read on the node at once. Each has a file and up to 512 KiB (a piece and the one after it): up to
/// 1 GiB, when all their readers are slow.
pub const MAX_NODE_READERS: usize = 2000;
/// Of those, blobs of one app: half.
pub const MAX_APP_READERS: usize = MAX_NODE_READERS / 2;

/// The most of something that there may be.
pub(super) struct Bounds {
    /// What there is of it, as "uploads are under way".
    pub(super) what: &'static str,
    pub(super) of_app: usize,
    pub(super) of_node: usize,
}

#[derive(Default)]
pub(super) struct Counts {
    node: usize,
    /// By the folder of their buckets.
    apps: HashMap<PathBuf, usize>,
}

impl Counts {
    /// Counts one more of the app that the bucket with this index is of, if there may be.
    pub(super) fn add(&mut self, index: &Path, bounds: &Bounds) -> Result<(), BucketError> {
        let app = app_of(index);
        let Bounds { what, of_app, of_node } = *bounds;
        let in_app = self.apps.get(app).copied().unwrap_or_default();
        if in_app >= of_app {
            return Err(BucketError::Busy { count: in_app, what, place: "for an app" });
        }
        if self.node >= of_node {
            return Err(BucketError::Busy { count: self.node, what, place: "on the node" });
        }
        self.node += 1;
        self.apps.insert(app.to_owned(), in_app + 1);
        Ok(())
    }

    /// Counts one less.
    pub(super) fn subtract(&mut self, index: &Path) {
        self.node = self.node.saturating_sub(1);
        let app = app_of(index);
        if let Some(count) = self.apps.get_mut(app) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.apps.remove(app);
            }
        }
    }
}

fn app_of(index: &Path) -> &Path {
    index.parent().unwrap_or(index)
}

/// The blobs in files that are being read.
#[derive(Default)]
pub(super) struct Readers {
    counts: Mutex<Counts>,
}

/// A place among the [`Readers`], until it is dropped.
pub(super) struct Reader {
    readers: Arc<Readers>,
    index: PathBuf,
}

impl Readers {
    /// A place for one more reader of a blob in the bucket with this index.
    pub(super) fn reader(self: &Arc<Self>, index: &Path) -> Result<Reader, BucketError> {
        const BOUNDS: Bounds =
            Bounds { what: "blobs are being read", of_app: MAX_APP_READERS, of_node: MAX_NODE_READERS };
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).add(index, &BOUNDS)?;
        Ok(Reader { readers: Arc::clone(self), index: index.to_owned() })
    }

    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.counts.lock().unwrap().node
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.readers.counts.lock().unwrap_or_else(PoisonError::into_inner).subtract(&self.index);
    }
}
