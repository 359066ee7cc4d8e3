//! Blobs under keys, for the functions of an app: [`Buckets`].
//!
//! The contract, which a second backend would have to keep (its tests are in `tests/contract.rs`, over this type alone):
//! - a read sees every write that was answered before it began; a blob is there whole, with its metadata, or not at all;
//! - an answered write is on the disk; one that failed, or that was given up, has changed nothing and left nothing;
//! - a read that has begun gives the blob as it was then to its end, also when it is replaced or deleted meanwhile;
//! - conditions are decided at the moment of the write, so that of two that race on one, one wins;
//! - what is stored in a bucket is never more than its size, and what is on its way into it counts, so that those who
//!   put at the same time do not pass it together;
//! - keys are listed in the order of their bytes.
//!
//! Here a bucket is an index, `NAME.db`, and content files beside it, `NAME.objects/`. Read on in [`rows`] (the index),
//! [`objects`] (the files), [`upload`] (the order in which a put touches both, and what a crash leaves), [`open`] (what
//! is done about that), [`content`] (reading), [`under_way`] (what uploads have reserved), [`counts`] (how many there are
//! of either), [`check`] (the bounds), [`error`].

mod check;
mod content;
mod counts;
mod error;
mod objects;
mod open;
mod rows;
#[cfg(test)]
mod tests;
mod under_way;
mod upload;

use std::{collections::BTreeMap, path::Path, sync::Arc, thread};

use bytes::Bytes;
use minnow_model::{AppName, StoreId, StoreName, Tenant};
use serde::{Deserialize, Serialize};

pub use self::{
    check::{MAX_BLOB_BYTES, MAX_DELETE, MAX_HEADER_BYTES, MAX_KEY_BYTES, MAX_METADATA_BYTES, MAX_PAGE},
    content::{Content, PIECE_BYTES},
    counts::{MAX_APP_READERS, MAX_NODE_READERS},
    error::BucketError,
    open::KeptFiles,
    rows::INLINE_BYTES,
    under_way::{MAX_APP_UPLOADS, MAX_CLIENT_UPLOADS, MAX_NODE_UPLOADS, MAX_UPLOADS},
    upload::Upload,
};
use self::{
    content::blocking,
    counts::Readers,
    open::{OpenBucket, Remains},
    rows::Held,
    under_way::{Sender, UnderWay},
    upload::{FileSink, Stored, Target},
};
use crate::{
    StoreError,
    database::Tuning,
    kv::Clock,
    open::{OpenBounds, OpenStores},
    snapshot::Hold,
};

/// How often [`Buckets::get`] looks again where a blob was replaced between the look into the index and the opening of
/// its file. Each time somebody has put another one in the microseconds between.
const GET_TRIES: usize = 16;

/// Content that [`Buckets::put_bytes`] has in memory for one bucket, in bytes, waiting or under way. More waits.
const QUEUED_BYTES: u32 = 64 << 20;

/// Pages that each connection of an index keeps in memory, at most: as for key-value stores, whose rows are as large.
const CACHE_KIB: u32 = 1024;

/// The largest index of a bucket, in bytes, which also bounds its log. Rows of blobs take some 300 bytes, those with
/// content inside up to 17 KiB: of the largest bucket, 1 TiB, it takes 4 million of the latter.
const INDEX_BYTES: u64 = 64 << 30;

/// What is said about a blob beside its content.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Meta {
    /// Each of these is a valid value of the HTTP header of that name, of at most [`MAX_HEADER_BYTES`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_encoding: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_language: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_disposition: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_control: Option<String>,
    /// The app's own. Names and values have at most [`MAX_METADATA_BYTES`] together.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub custom: BTreeMap<String, String>,
}

impl Meta {
    /// The headers that have a value, by their names in lower case.
    pub fn headers(&self) -> impl Iterator<Item = (&'static str, &str)> {
        [
            ("content-type", &self.content_type),
            ("content-encoding", &self.content_encoding),
            ("content-language", &self.content_language),
            ("content-disposition", &self.content_disposition),
            ("cache-control", &self.cache_control),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value.as_deref()?)))
    }
}

/// A blob without its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    pub key: String,
    /// In bytes.
    pub size: u64,
    /// The sha256 of the content in 64 hex digits. As a header it has quotes around it.
    pub etag: String,
    /// Milliseconds since 1970.
    pub uploaded_ms: u64,
    pub meta: Meta,
}

/// When something is to be done. Those that are absent hold always. Where there is no blob, `if_match` and
/// `uploaded_after_ms` do not hold; where `if_match` is given `uploaded_before_ms` is not asked, nor
/// `uploaded_after_ms` beside `if_none_match`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Conditions {
    /// The blob has one of these etags; `*` is any.
    pub if_match: Option<Vec<String>>,
    /// The blob has none of these etags; with `*` there is no blob.
    pub if_none_match: Option<Vec<String>>,
    /// Milliseconds since 1970, as all times here.
    pub uploaded_before_ms: Option<u64>,
    pub uploaded_after_ms: Option<u64>,
}

/// A part of a blob, in bytes. One that ends beyond the blob ends with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Range {
    From {
        offset: u64,
        length: Option<u64>,
    },
    /// So many bytes at the end.
    Last(u64),
}

/// A bucket that is written to. The size comes with each call: it is the manifest's.
#[derive(Debug, Clone, Copy)]
pub struct Bucket<'a> {
    pub store: &'a StoreId,
    pub size_bytes: u64,
}

/// What is under a key that was asked for.
pub enum Got {
    Absent,
    /// The conditions do not hold for it.
    Unmet(Blob),
    Found {
        blob: Blob,
        /// The bytes of the blob that `content` gives.
        range: std::ops::Range<u64>,
        content: Content,
    },
}

/// Some of the blobs of a bucket.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Listed {
    pub blobs: Vec<Blob>,
    /// What keys that have the delimiter after the prefix have in common, up to the delimiter.
    pub prefixes: Vec<String>,
    /// Where the next page starts, for `after`. A page with a next one may hold fewer than were asked for.
    pub next: Option<String>,
}

/// The buckets of a node. Cheap to clone; dropping the last clone closes them, after the writes that wait.
#[derive(Clone)]
pub struct Buckets {
    stores: OpenStores<OpenBucket>,
    under_way: Arc<UnderWay>,
    readers: Arc<Readers>,
    clock: Clock,
}

impl Buckets {
    /// The buckets in `dir`, which is created where it is missing. Blocking.
    pub fn open(dir: &Path, clock: Clock) -> Result<Self, StoreError> {
        Self::open_bounded(dir, clock, OpenBounds::default())
    }

    /// [`Buckets::open`] with other bounds.
    pub fn open_bounded(dir: &Path, clock: Clock, bounds: OpenBounds) -> Result<Self, StoreError> {
        // A connection for each of the gateway's threads, which are as many as cores.
        let readers = thread::available_parallelism().map_or(2, |cores| cores.get());
        let tuning = Tuning { readers, cache_kib: CACHE_KIB, max_bytes: Some(INDEX_BYTES), alone: true };
        let under_way = Arc::<UnderWay>::default();
        let stores = OpenStores::new(dir, bounds, {
            let under_way = Arc::clone(&under_way);
            move |path: &Path| OpenBucket::open(path, tuning, &under_way)
        })?;
        Ok(Self { stores, under_way, readers: Arc::default(), clock })
    }

    // Reads of the index are microseconds, from the page cache, on the caller's thread. Files are opened and read on
    // threads that may block.

    /// The blob under `key` without its content.
    pub async fn head(&self, store: &StoreId, key: &str) -> Result<Option<Blob>, BucketError> {
        check::key(key)?;
        self.named(store, async {
            let Some(open) = self.stores.existing(store).await? else { return Ok(None) };
            open.database.read_here(|connection| rows::head(connection, key))
        })
        .await
    }

    /// The blob under `key`, if `only_if` holds for it, and its content or a part of that.
    pub async fn get(
        &self,
        store: &StoreId,
        key: &str,
        only_if: &Conditions,
        range: Option<Range>,
    ) -> Result<Got, BucketError> {
        check::key(key)?;
        self.named(store, self.find(store, key, only_if, range)).await
    }

    async fn find(
        &self,
        store: &StoreId,
        key: &str,
        only_if: &Conditions,
        range: Option<Range>,
    ) -> Result<Got, BucketError> {
        let mut missing = None;
        for _ in 0..GET_TRIES {
            let Some(open) = self.stores.existing(store).await? else { return Ok(Got::Absent) };
            let Some(found) = open.database.read_here(|connection| rows::find(connection, key))? else {
                return Ok(Got::Absent);
            };
            let blob = found.blob;
            if !only_if.hold(Some(&blob)) {
                return Ok(Got::Unmet(blob));
            }
            let range = check::range(range, blob.size)?;
            let file = match found.held {
                Held::Inline(content) => {
                    let content = Content::inline(content, &range);
                    return Ok(Got::Found { blob, range, content });
                }
                Held::File(file) => file,
            };
            let reader = self.readers.reader(&self.stores.path(store))?;
            let (objects, id) = (open.objects.clone(), file.clone());
            let content = Content::open(objects, id, blob.key.clone(), blob.size, range.clone(), reader);
            if let Some(content) = content.await? {
                return Ok(Got::Found { blob, range, content });
            }
            // Replaced or deleted since, or lost.
            if missing.as_ref() == Some(&file) {
                return Err(open.lost(key, &file));
            }
            missing = Some(file);
        }
        Err(BucketError::Changing { key: key.to_owned() })
    }

    /// The blobs whose keys start with `prefix` and come after `after`, in the order of their bytes; `limit` is 1 to
    /// [`MAX_PAGE`], of blobs and prefixes together. With a delimiter, keys that have it after the prefix are told
    /// once, by what they have in common up to it; such a prefix as `after` stands for all of them.
    pub async fn list(
        &self,
        store: &StoreId,
        prefix: &str,
        after: Option<&str>,
        delimiter: Option<&str>,
        limit: u32,
    ) -> Result<Listed, BucketError> {
        check::page(prefix, after, delimiter, limit)?;
        self.named(store, async {
            let Some(open) = self.stores.existing(store).await? else { return Ok(Listed::default()) };
            let owned = |text: Option<&str>| text.map(str::to_owned);
            let (prefix, after, delimiter) = (prefix.to_owned(), owned(after), owned(delimiter));
            // Up to some milliseconds, so on a thread that may block.
            let list = move |connection: &rusqlite::Connection| {
                rows::list(connection, &prefix, after.as_deref(), delimiter.as_deref(), limit)
            };
            open.database.read(list).await
        })
        .await
    }

    // Writes answer when they are on the disk. One that was begun goes on when its caller stops waiting.

    /// Begins an upload of a blob under `key`. The bucket need not be there yet.
    pub async fn put(
        &self,
        bucket: Bucket<'_>,
        key: String,
        meta: Meta,
        only_if: Conditions,
    ) -> Result<Upload, BucketError> {
        self.begin(bucket, key, meta, only_if, Sender::Owner)
    }

    /// [`Buckets::put`] for a client that has a signed URL, of which there may be fewer at once.
    pub async fn put_of_client(
        &self,
        bucket: Bucket<'_>,
        key: String,
        meta: Meta,
        only_if: Conditions,
    ) -> Result<Upload, BucketError> {
        self.begin(bucket, key, meta, only_if, Sender::Client)
    }

    fn begin(
        &self,
        bucket: Bucket<'_>,
        key: String,
        meta: Meta,
        only_if: Conditions,
        sender: Sender,
    ) -> Result<Upload, BucketError> {
        check::key(&key)?;
        check::meta(&meta)?;
        let place = self.under_way.upload(&self.stores.path(bucket.store), sender)?;
        Ok(Upload::new(self.clone(), Target::new(bucket, key, meta, only_if), place))
    }

    /// Puts content that is there as a whole, if the conditions hold at that moment. Small ones that come at the same
    /// time share a sync.
    pub async fn put_bytes(
        &self,
        bucket: Bucket<'_>,
        key: String,
        meta: Meta,
        only_if: Conditions,
        content: Bytes,
    ) -> Result<Option<Blob>, BucketError> {
        check::key(&key)?;
        check::meta(&meta)?;
        if content.len() as u64 > MAX_BLOB_BYTES {
            return Err(BucketError::TooLarge);
        }
        let target = Target::new(bucket, key, meta, only_if);
        self.named(bucket.store, async {
            let mut place = self.under_way.whole(&self.stores.path(bucket.store));
            let open = self.open_for(bucket.store, &place).await?;
            let queued = open.enqueue(content.len()).await?;
            drop(open);
            if content.len() <= rows::INLINE_BYTES {
                return self.clone().keep(target, place, Stored::inline(content), Some(queued)).await;
            }
            self.reserve(&mut place, &target, content.len() as u64).await?;
            let sink = FileSink::create(self, bucket.store, &mut place).await?;
            // With what bounds it: a caller that stops waiting does not stop the writing.
            let written = blocking(move || Ok((sink.finish(&content)?, place, queued)));
            let (stored, place, queued) = written.await?;
            self.clone().keep(target, place, stored, Some(queued)).await
        })
        .await
    }

    /// Removes blobs, all or none, and answers how many were there. At most [`MAX_DELETE`].
    pub async fn delete(&self, store: &StoreId, keys: Vec<String>) -> Result<u64, BucketError> {
        self.delete_if(store, keys, Conditions::default()).await
    }

    /// Removes those of the blobs for which the conditions hold at that moment, and answers how many there were.
    pub async fn delete_if(&self, store: &StoreId, keys: Vec<String>, only_if: Conditions) -> Result<u64, BucketError> {
        check::keys(&keys)?;
        if keys.is_empty() {
            return Ok(0);
        }
        self.named(store, async {
            let Some(open) = self.stores.existing(store).await? else { return Ok(0) };
            let queued = open.enqueue(keys.iter().map(String::len).sum()).await?;
            let delete = async move {
                let (count, removed) = open.remove(keys, only_if, queued).await?;
                open.clear(Remains { placed: None, removed }).await;
                Ok(count)
            };
            tokio::spawn(delete).await.map_err(|_| StoreError::Stopped)?
        })
        .await
    }

    /// Makes a copy of a blob with its metadata, in the same bucket or in another, if the conditions hold for what is
    /// under `key` at that moment. Where the file system can, the two share their content on the disk.
    pub async fn copy(
        &self,
        from: (&StoreId, &str),
        to: Bucket<'_>,
        key: String,
        only_if: Conditions,
    ) -> Result<Option<Blob>, BucketError> {
        check::key(&key)?;
        let source = self.get(from.0, from.1, &Conditions::default(), None).await?;
        let Got::Found { blob, content, .. } = source else {
            return Err(BucketError::NoSource { key: from.1.to_owned() });
        };
        let target = Target::new(to, key, blob.meta, only_if);
        self.named(to.store, async {
            let mut place = self.under_way.upload(&self.stores.path(to.store), Sender::Owner)?;
            let file = match content.into_file() {
                Err(content) => return self.clone().keep(target, place, Stored::inline(content), None).await,
                Ok(file) => file,
            };
            self.reserve(&mut place, &target, blob.size).await?;
            let sink = FileSink::create(self, to.store, &mut place).await?;
            // With what bounds it: a caller that stops waiting ends the copying between two parts of it, not at once.
            let (caller, _waits) = tokio::sync::oneshot::channel::<()>();
            let copied = blocking(move || Ok((sink.copy(&file, blob.size, blob.etag, || !caller.is_closed())?, place)));
            let (stored, place) = copied.await?;
            self.clone().keep(target, place, stored, None).await
        })
        .await
    }

    /// The buckets of an app that were ever written, by name, with their bytes on the disk: index and content. Blocking.
    pub fn list_stores(&self, tenant: &Tenant, app: &AppName) -> Result<Vec<(StoreName, u64)>, BucketError> {
        let mut stores = self.stores.list(tenant, app)?;
        for (name, bytes) in &mut stores {
            let store = StoreId { tenant: tenant.clone(), app: app.clone(), name: name.clone() };
            let total = self.stores.existing_here(&store).map_err(BucketError::from);
            let total = total.and_then(|open| open.map(|open| open.database.read_here(rows::total)).transpose());
            // A damaged one says so where it is used. Here it must not hide the others.
            *bytes += total.ok().flatten().map_or(0, |total| total.file_bytes);
        }
        Ok(stores)
    }

    /// Removes all buckets of an app: all or none, also over a crash. Uploads to them that are under way fail at their end.
    pub async fn delete_app(&self, tenant: &Tenant, app: &AppName) -> Result<(), BucketError> {
        let under_way = Arc::clone(&self.under_way);
        Ok(self.stores.delete_app(tenant, app, move |dir| under_way.end_below(dir)).await?)
    }

    /// Moves all buckets of an app to the folder `to`, all or none. False where it has none. Uploads to them that are under
    /// way fail at their end.
    pub async fn move_app(&self, tenant: &Tenant, app: &AppName, to: &Path) -> Result<bool, BucketError> {
        let under_way = Arc::clone(&self.under_way);
        Ok(self.stores.move_app(tenant, app, to, move |dir| under_way.end_below(dir)).await?)
    }

    /// Makes the files in the folder `from` the buckets of an app that has none: all or none.
    pub async fn adopt_app(&self, tenant: &Tenant, app: &AppName, from: &Path) -> Result<(), BucketError> {
        Ok(self.stores.adopt_app(tenant, app, from).await?)
    }

    /// Keeps the writes of a bucket waiting, for a backup; `None` where it was never written.
    pub async fn hold(&self, store: &StoreId) -> Result<Option<Hold>, BucketError> {
        self.named(store, async {
            let Some(open) = self.stores.existing(store).await? else { return Ok(None) };
            let held = open.database.hold().await?;
            Ok(Some(Hold::new(self.stores.path(store), (held, open))))
        })
        .await
    }

    /// Keeps the content files of a bucket while a backup links them; `None` where it was never written. To be taken
    /// before the snapshot of the index.
    pub async fn keep_files(&self, store: &StoreId) -> Result<Option<KeptFiles>, BucketError> {
        self.named(store, async { Ok(self.stores.existing(store).await?.map(OpenBucket::keep_files)) }).await
    }

    /// Whether a bucket is sound, as a backup has it: the index at `path`, and each blob's content by its etag. Blocking.
    pub fn check_file(path: &Path) -> Result<(), StoreError> {
        open::check(path)
    }

    /// How many content files the index at `path` has, which nobody has open. Blocking.
    pub fn count_files(path: &Path) -> Result<u64, StoreError> {
        let connection = rusqlite::Connection::open(path)?;
        Ok(connection.query_row("SELECT count(*) FROM blob WHERE file IS NOT NULL", [], |row| row.get(0))?)
    }

    /// The apps that have buckets.
    pub fn apps(&self) -> Result<Vec<(Tenant, AppName)>, BucketError> {
        Ok(self.stores.apps()?)
    }

    /// How many buckets are open now.
    pub fn open_stores(&self) -> usize {
        self.stores.count()
    }

    /// What the bucket's blobs count towards its size; 0 where there is none.
    async fn used_bytes(&self, store: &StoreId) -> Result<u64, BucketError> {
        self.named(store, async {
            let Some(open) = self.stores.existing(store).await? else { return Ok(0) };
            Ok(open.database.read_here(rows::total)?.used_bytes)
        })
        .await
    }

    /// The bucket of an upload, created where it is missing: the one that was there, or was not yet, when the upload began.
    async fn open_for(&self, store: &StoreId, place: &under_way::Place) -> Result<Arc<OpenBucket>, BucketError> {
        let began = place.began();
        match self.stores.or_create_if(store, move || !began.is_over()).await? {
            // While this is open no deletion ends it.
            Some(open) if !place.began().is_over() => Ok(open),
            _ => Err(BucketError::Gone),
        }
    }

    /// Reserves room for content whose size is known.
    async fn reserve(&self, place: &mut under_way::Place, target: &Target, size: u64) -> Result<(), BucketError> {
        let used_bytes = self.used_bytes(&target.store).await?;
        let bytes = size + rows::overhead(&target.key, &target.meta);
        if place.reserve(bytes, used_bytes, target.size_bytes) {
            Ok(())
        } else {
            Err(BucketError::Full { size_bytes: target.size_bytes })
        }
    }

    /// Names the bucket in an error.
    async fn named<T>(
        &self,
        store: &StoreId,
        work: impl Future<Output = Result<T, BucketError>>,
    ) -> Result<T, BucketError> {
        work.await.map_err(|error| error.at(&self.stores.path(store)))
    }
}

impl Target {
    fn new(bucket: Bucket<'_>, key: String, meta: Meta, only_if: Conditions) -> Self {
        Self { store: bucket.store.clone(), size_bytes: bucket.size_bytes, key, meta, only_if }
    }
}
