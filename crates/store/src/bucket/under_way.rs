//! What is being uploaded to each bucket: how many uploads, their bytes, and their files, which the opening of a bucket must not
//! take for left over. In memory: a crash ends all uploads.

use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{
    BucketError,
    counts::{Bounds, Counts},
    objects::FileId,
};

/// Uploads of one bucket at once. Each has up to 2 MiB in memory.
pub const MAX_UPLOADS: usize = 64;
/// Of those, uploads of clients with signed URLs, who take as long as they please: half, so that whoever has a URL cannot
/// stop the app itself.
pub const MAX_CLIENT_UPLOADS: usize = MAX_UPLOADS / 2;
/// Uploads to all buckets of one app at once: a quarter of the node's, so that it takes several apps to stop the others.
pub const MAX_APP_UPLOADS: usize = 256;
/// Uploads of all buckets at once: up to 2 GiB of memory, when all of them are large and the disk is slower than those who send.
pub const MAX_NODE_UPLOADS: usize = 1000;

#[derive(Default)]
pub(super) struct UnderWay {
    all: Mutex<All>,
}

#[derive(Default)]
struct All {
    uploads: Counts,
    /// By the path of the index.
    buckets: HashMap<PathBuf, InBucket>,
}

#[derive(Default)]
struct InBucket {
    /// Places that are held.
    places: usize,
    /// Of those, uploads that come piece by piece.
    uploads: usize,
    /// Of those, uploads of clients.
    client_uploads: usize,
    reserved_bytes: u64,
    files: HashSet<FileId>,
    /// How often the bucket of this name was deleted while there were uploads to it.
    deletions: u64,
}

/// One upload in [`UnderWay`], until it is dropped.
pub(super) struct Place {
    /// Who sends an upload that comes piece by piece.
    sender: Option<Sender>,
    reserved_bytes: u64,
    file: Option<FileId>,
    began: Began,
}

/// Of which bucket an upload is: after a deletion, another one may have its name.
#[derive(Clone)]
pub(super) struct Began {
    under_way: Arc<UnderWay>,
    index: PathBuf,
    deletions: u64,
}

impl Began {
    /// Whether the bucket that was there when the upload began was deleted, or the upload has ended.
    pub(super) fn is_over(&self) -> bool {
        self.under_way.all().buckets.get(&self.index).is_none_or(|bucket| bucket.deletions != self.deletions)
    }
}

/// Who decides how fast an upload comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sender {
    /// A function, or an operator.
    Owner,
    /// Whoever has a signed URL.
    Client,
}

impl UnderWay {
    /// A place for an upload that comes piece by piece, for as long as the sender takes.
    pub(super) fn upload(self: &Arc<Self>, index: &Path, sender: Sender) -> Result<Place, BucketError> {
        const WHAT: &str = "uploads are under way";
        const BOUNDS: Bounds = Bounds { what: WHAT, of_app: MAX_APP_UPLOADS, of_node: MAX_NODE_UPLOADS };
        let mut all = self.all();
        let (uploads, of_clients) =
            all.buckets.get(index).map_or((0, 0), |bucket| (bucket.uploads, bucket.client_uploads));
        if uploads >= MAX_UPLOADS {
            return Err(BucketError::Busy { count: uploads, what: WHAT, place: "in a bucket" });
        }
        if sender == Sender::Client && of_clients >= MAX_CLIENT_UPLOADS {
            let place = "in a bucket from signed URLs";
            return Err(BucketError::Busy { count: of_clients, what: WHAT, place });
        }
        all.uploads.add(index, &BOUNDS)?;
        Ok(self.place(&mut all, index, Some(sender)))
    }

    /// A place for content that is there as a whole, which the memory that it takes bounds.
    pub(super) fn whole(self: &Arc<Self>, index: &Path) -> Place {
        self.place(&mut self.all(), index, None)
    }

    fn place(self: &Arc<Self>, all: &mut All, index: &Path, sender: Option<Sender>) -> Place {
        let bucket = all.buckets.entry(index.to_owned()).or_default();
        bucket.places += 1;
        bucket.uploads += usize::from(sender.is_some());
        bucket.client_uploads += usize::from(sender == Some(Sender::Client));
        let began = Began { under_way: Arc::clone(self), index: index.to_owned(), deletions: bucket.deletions };
        Place { sender, reserved_bytes: 0, file: None, began }
    }

    /// The buckets in a folder are deleted: uploads to them that are under way have none any more.
    pub(super) fn end_below(&self, dir: &Path) {
        for (_, bucket) in self.all().buckets.iter_mut().filter(|(index, _)| index.starts_with(dir)) {
            bucket.deletions += 1;
        }
    }

    /// Whether the file belongs to an upload of the bucket.
    pub(super) fn has(&self, index: &Path, file: &FileId) -> bool {
        self.all().buckets.get(index).is_some_and(|bucket| bucket.files.contains(file))
    }

    fn all(&self) -> MutexGuard<'_, All> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Makes the upload's reservation `bytes`, unless the bucket, of which `used_bytes` are stored, is full with it.
    /// Whether it did.
    pub(super) fn reserve(&mut self, bytes: u64, used_bytes: u64, size_bytes: u64) -> bool {
        let mut all = self.began.under_way.all();
        let Some(bucket) = all.buckets.get_mut(&self.began.index) else { return false };
        let others = bucket.reserved_bytes.saturating_sub(self.reserved_bytes);
        if used_bytes.saturating_add(others).saturating_add(bytes) > size_bytes {
            return false;
        }
        bucket.reserved_bytes = others + bytes;
        self.reserved_bytes = bytes;
        true
    }

    /// Gives the reservation up, as the bytes become part of the bucket. What the others in the bucket have reserved.
    pub(super) fn settle(&mut self) -> u64 {
        let mut all = self.began.under_way.all();
        let Some(bucket) = all.buckets.get_mut(&self.began.index) else { return 0 };
        bucket.reserved_bytes = bucket.reserved_bytes.saturating_sub(std::mem::take(&mut self.reserved_bytes));
        bucket.reserved_bytes
    }

    /// Which bucket the upload is of.
    pub(super) fn began(&self) -> Began {
        self.began.clone()
    }

    /// The file that the upload is about to make.
    pub(super) fn add_file(&mut self, file: &FileId) {
        self.file = Some(file.clone());
        if let Some(bucket) = self.began.under_way.all().buckets.get_mut(&self.began.index) {
            bucket.files.insert(file.clone());
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut all = self.began.under_way.all();
        if self.sender.is_some() {
            all.uploads.subtract(&self.began.index);
        }
        let Some(bucket) = all.buckets.get_mut(&self.began.index) else { return };
        bucket.places -= 1;
        bucket.uploads -= usize::from(self.sender.is_some());
        bucket.client_uploads -= usize::from(self.sender == Some(Sender::Client));
        bucket.reserved_bytes = bucket.reserved_bytes.saturating_sub(self.reserved_bytes);
        if let Some(file) = &self.file {
            bucket.files.remove(file);
        }
        if bucket.places == 0 {
            all.buckets.remove(&self.began.index);
        }
    }
}
