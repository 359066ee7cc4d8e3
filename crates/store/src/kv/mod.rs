//! Values under keys, for the functions of an app: [`Kv`].
//!
//! The contract, which a second backend would have to keep (its tests are in `tests/contract.rs`, over this type alone):
//! - a read sees every write that was answered before it began, and a batch of writes is seen whole or not at all;
//! - an answered write is on the disk; one that failed has changed nothing;
//! - a key that expired is absent from that millisecond on;
//! - a version is given out once in the life of a store, also for a key that was deleted and set again, so that
//!   compare-and-swap cannot take one state for another;
//! - keys are listed in the order of their bytes.
//!
//! Read on in [`rows`] (the table and its statements), [`check`] (the bounds), [`error`].

mod check;
mod error;
mod rows;
#[cfg(test)]
mod tests;

use std::{path::Path, sync::Arc, thread};

use bytes::Bytes;
use minnow_model::{AppName, StoreId, StoreName, Tenant};
use rusqlite::Connection;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use self::rows::Purge;
pub use self::{
    check::{MAX_BATCH, MAX_BATCH_BYTES, MAX_KEY_BYTES, MAX_METADATA_BYTES, MAX_PAGE, MAX_VALUE_BYTES},
    error::KvError,
};
use crate::{
    Database, StoreError,
    database::Tuning,
    open::{OpenBounds, OpenStores},
    snapshot::{self, Expected, Hold},
};

/// Values of one call that [`Kv::fetch`] reads on the caller's thread, in bytes, and keys: some 100 µs from the page cache.
const AT_ONCE_BYTES: usize = 256 << 10;
const AT_ONCE_KEYS: usize = 64;

/// Values in the writes of one store that wait or are under way, in bytes: one batch may be as large. A write goes on when its
/// caller stops waiting, so who gives up and comes again would fill the node's memory otherwise.
const QUEUED_BYTES: u32 = MAX_BATCH_BYTES as u32;

/// Milliseconds since 1970. Decides what has expired.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// What is under a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub value: Bytes,
    pub metadata: Option<String>,
    /// Milliseconds since 1970.
    pub expires_ms: Option<u64>,
    /// Grows with each write of the key, and is not given out twice. Never 0; below 2^53, so that JavaScript's numbers hold it.
    pub version: u64,
}

/// One change of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    Set {
        key: String,
        value: Bytes,
        metadata: Option<String>,
        /// Milliseconds since 1970. One in the past makes the key absent.
        expires_ms: Option<u64>,
    },
    Delete {
        key: String,
    },
}

impl Write {
    pub fn key(&self) -> &str {
        match self {
            Self::Set { key, .. } | Self::Delete { key } => key,
        }
    }
}

/// Some of the keys of a store.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Page {
    pub keys: Vec<KeyInfo>,
    /// Where the next page starts, for `after`. A page with a next one may hold fewer keys than were asked for, even none.
    pub next: Option<String>,
}

/// A key without its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyInfo {
    pub key: String,
    pub metadata: Option<String>,
    /// Milliseconds since 1970.
    pub expires_ms: Option<u64>,
}

/// What the stores may use.
#[derive(Debug, Clone, Copy)]
pub struct KvBounds {
    pub open: OpenBounds,
    /// The largest file of a store; a write beyond it answers [`KvError::Full`].
    pub store_bytes: u64,
}

impl Default for KvBounds {
    /// 10 GiB: that one store does not fill the disk of all others by mistake.
    fn default() -> Self {
        Self { open: OpenBounds::default(), store_bytes: 10 << 30 }
    }
}

/// Pages that each connection of a store keeps in memory, at most: a get whose pages are there takes 3.4 µs, one that has them
/// from the kernel 7 µs. A write of the store empties what its readers keep. With as many stores open as may be, all of them
/// large and read all over in one minute, this is 128 MiB a connection (one for each core, and the writer's).
const CACHE_KIB: u32 = 1024;

/// The key-value stores of a node. Cheap to clone; dropping the last clone closes them, after the writes that wait.
#[derive(Clone)]
pub struct Kv {
    stores: OpenStores<Open>,
    clock: Clock,
}

/// A store that is open.
struct Open {
    database: Database,
    /// [`QUEUED_BYTES`].
    queue: Arc<Semaphore>,
}

/// What a change writes: its keys, and their bytes with everything under them.
#[derive(Clone, Copy)]
struct Size {
    keys: usize,
    bytes: usize,
}

impl Size {
    fn of(writes: &[Write]) -> Self {
        let bytes = |write: &Write| match write {
            Write::Set { key, value, metadata, .. } => {
                key.len() + value.len() + metadata.as_ref().map_or(0, String::len)
            }
            Write::Delete { key } => key.len(),
        };
        Self { keys: writes.len(), bytes: writes.iter().map(bytes).sum() }
    }
}

impl Kv {
    /// The stores in `dir`, which is created where it is missing. Blocking.
    pub fn open(dir: &Path, clock: Clock) -> Result<Self, StoreError> {
        Self::open_bounded(dir, clock, KvBounds::default())
    }

    /// [`Kv::open`] with other bounds.
    pub fn open_bounded(dir: &Path, clock: Clock, bounds: KvBounds) -> Result<Self, StoreError> {
        // A connection for each of the gateway's threads, which are as many as cores.
        let readers = thread::available_parallelism().map_or(2, |cores| cores.get());
        let tuning = Tuning { readers, cache_kib: CACHE_KIB, max_bytes: Some(bounds.store_bytes), alone: true };
        let open = move |path: &Path| {
            let database = Database::open_tuned(path, rows::SCHEMA, tuning)?;
            Ok(Open { database, queue: Arc::new(Semaphore::new(QUEUED_BYTES as usize)) })
        };
        Ok(Self { stores: OpenStores::new(dir, bounds.open, open)?, clock })
    }

    // Reads are plain calls: microseconds, from the page cache, on the caller's thread. A value of 10 KB takes 5 µs, one of
    // 25 MiB 40 ms. But where the store is not open, it is opened on that thread, too. So a thread that serves others calls
    // those that are async, which do what may take long on another one.

    pub fn get(&self, store: &StoreId, key: &str) -> Result<Option<Entry>, KvError> {
        check::key(key)?;
        self.read(store, |connection| rows::find(connection, key, &*self.clock))
    }

    /// The values under `keys`, in their order, as they were at one moment. At most [`MAX_BATCH`], of [`MAX_BATCH_BYTES`] together.
    pub fn get_many(&self, store: &StoreId, keys: &[String]) -> Result<Vec<Option<Entry>>, KvError> {
        check::keys(keys)?;
        let found = self.read(store, |connection| rows::find_many(connection, keys, &*self.clock).map(Some))?;
        Ok(found.unwrap_or_else(|| vec![None; keys.len()]))
    }

    /// [`Kv::get_many`] for a thread that serves others.
    pub async fn fetch(&self, store: &StoreId, keys: Vec<String>) -> Result<Vec<Option<Entry>>, KvError> {
        check::keys(&keys)?;
        if keys.len() <= AT_ONCE_KEYS {
            let within =
                |connection: &Connection| rows::find_within(connection, &keys, AT_ONCE_BYTES, &*self.clock).map(Some);
            match self.read_elsewhere(store, within).await? {
                Some(rows::Found::All(found)) => return Ok(found),
                None => return Ok(vec![None; keys.len()]),
                Some(rows::Found::Larger) => {}
            }
        }
        let (kv, store) = (self.clone(), store.clone());
        let read = tokio::task::spawn_blocking(move || kv.get_many(&store, &keys));
        read.await.unwrap_or_else(|_| Err(StoreError::Stopped.into()))
    }

    pub fn exists(&self, store: &StoreId, key: &str) -> Result<bool, KvError> {
        check::key(key)?;
        Ok(self.read(store, |connection| rows::version(connection, key, &*self.clock))?.is_some())
    }

    /// The version of a key that is there, for a thread that serves others.
    pub async fn fetch_version(&self, store: &StoreId, key: &str) -> Result<Option<u64>, KvError> {
        check::key(key)?;
        self.read_elsewhere(store, |connection| rows::version(connection, key, &*self.clock)).await
    }

    /// The keys that start with `prefix` and come after `after`, in the order of their bytes; `limit` is 1 to [`MAX_PAGE`].
    pub fn list(&self, store: &StoreId, prefix: &str, after: Option<&str>, limit: u32) -> Result<Page, KvError> {
        check::page(prefix, after, limit)?;
        let page = |connection: &Connection| rows::list(connection, prefix, after, limit, &*self.clock).map(Some);
        Ok(self.read(store, page)?.unwrap_or_default())
    }

    /// [`Kv::list`] for a thread that serves others.
    pub async fn fetch_page(
        &self,
        store: &StoreId,
        prefix: &str,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Page, KvError> {
        check::page(prefix, after, limit)?;
        let page = |connection: &Connection| rows::list(connection, prefix, after, limit, &*self.clock).map(Some);
        Ok(self.read_elsewhere(store, page).await?.unwrap_or_default())
    }

    // Writes answer when they are on the disk. One that was begun goes on when its caller stops waiting.

    /// Does all of `writes`, in their order, or none.
    pub async fn write(&self, store: &StoreId, writes: Vec<Write>) -> Result<(), KvError> {
        check::writes(&writes)?;
        if writes.is_empty() {
            return Ok(());
        }
        self.change(store, Size::of(&writes), move |connection, _| rows::apply(connection, &writes)).await
    }

    /// Adds `delta` to the decimal integer under `key` and answers the sum. An absent key counts as 0; one that is there keeps its
    /// metadata and expiry.
    pub async fn increment(&self, store: &StoreId, key: &str, delta: i64) -> Result<i64, KvError> {
        check::key(key)?;
        let key = key.to_owned();
        self.change(store, Size { keys: 1, bytes: key.len() }, move |connection, clock| {
            rows::increment(connection, &key, delta, clock)
        })
        .await
    }

    /// Does `write` if its key is at version `expected` (`None`: absent), and answers whether it did.
    pub async fn compare_and_swap(
        &self,
        store: &StoreId,
        expected: Option<u64>,
        write: Write,
    ) -> Result<bool, KvError> {
        check::writes(std::slice::from_ref(&write))?;
        self.change(store, Size::of(std::slice::from_ref(&write)), move |connection, clock| {
            let matches = rows::version(connection, write.key(), clock)? == expected;
            if matches {
                rows::apply(connection, std::slice::from_ref(&write))?;
            }
            Ok(matches)
        })
        .await
    }

    /// The stores of an app that were ever written, by name, with their bytes on the disk.
    pub fn list_stores(&self, tenant: &Tenant, app: &AppName) -> Result<Vec<(StoreName, u64)>, KvError> {
        Ok(self.stores.list(tenant, app)?)
    }

    /// Removes all stores of an app: all or none, also over a crash.
    pub async fn delete_app(&self, tenant: &Tenant, app: &AppName) -> Result<(), KvError> {
        Ok(self.stores.delete_app(tenant, app, |_| ()).await?)
    }

    /// Moves all stores of an app to the folder `to`, all or none. False where it has none.
    pub async fn move_app(&self, tenant: &Tenant, app: &AppName, to: &Path) -> Result<bool, KvError> {
        Ok(self.stores.move_app(tenant, app, to, |_| ()).await?)
    }

    /// Keeps the writes of a store waiting, for a backup; `None` where it was never written.
    pub async fn hold(&self, store: &StoreId) -> Result<Option<Hold>, KvError> {
        let Some(open) = self.stores.existing(store).await? else { return Ok(None) };
        let held = open.database.hold().await?;
        Ok(Some(Hold::new(self.stores.path(store), (held, open))))
    }

    /// Whether the file of a store, as a backup has it, is sound. Blocking.
    pub fn check_file(path: &Path) -> Result<(), StoreError> {
        snapshot::check(path, Expected::Schema(rows::SCHEMA))
    }

    /// Makes the files in the folder `from` the stores of an app that has none: all or none.
    pub async fn adopt_app(&self, tenant: &Tenant, app: &AppName, from: &Path) -> Result<(), KvError> {
        Ok(self.stores.adopt_app(tenant, app, from).await?)
    }

    /// The apps that have stores.
    pub fn apps(&self) -> Result<Vec<(Tenant, AppName)>, KvError> {
        Ok(self.stores.apps()?)
    }

    /// How many stores are open now.
    pub fn open_stores(&self) -> usize {
        self.stores.count()
    }

    /// A store that was never written reads as `None`.
    fn read<T>(
        &self,
        store: &StoreId,
        work: impl FnOnce(&Connection) -> Result<Option<T>, KvError>,
    ) -> Result<Option<T>, KvError> {
        let open = self.stores.existing_here(store);
        self.read_from(store, open, work)
    }

    /// [`Kv::read`] that opens the store on another thread, if it is not open.
    async fn read_elsewhere<T>(
        &self,
        store: &StoreId,
        work: impl FnOnce(&Connection) -> Result<Option<T>, KvError>,
    ) -> Result<Option<T>, KvError> {
        let open = self.stores.existing(store).await;
        self.read_from(store, open, work)
    }

    fn read_from<T>(
        &self,
        store: &StoreId,
        open: Result<Option<Arc<Open>>, StoreError>,
        work: impl FnOnce(&Connection) -> Result<Option<T>, KvError>,
    ) -> Result<Option<T>, KvError> {
        let read = || open?.map_or(Ok(None), |open| open.database.read_here(work));
        read().map_err(|error| error.at(&self.stores.path(store)))
    }

    async fn change<T: Send + 'static>(
        &self,
        store: &StoreId,
        size: Size,
        work: impl Fn(&Connection, rows::Now<'_>) -> Result<T, KvError> + Send + Sync + 'static,
    ) -> Result<T, KvError> {
        let change = async {
            let open = self.stores.or_create(store).await?;
            let bytes = u32::try_from(size.bytes).unwrap_or(QUEUED_BYTES).min(QUEUED_BYTES);
            let queued = Arc::clone(&open.queue).acquire_many_owned(bytes).await.map_err(|_| StoreError::Stopped)?;
            let job =
                Arc::new(Job { work, most: Purge::beside(size), clock: Arc::clone(&self.clock), _queued: queued });
            match open.database.write(Job::run(&job)).await {
                // What expired may fill a store. Removed in a transaction of its own, it is gone also when that was not enough.
                Err(KvError::Full) if self.make_room(&open.database).await => open.database.write(Job::run(&job)).await,
                result => result,
            }
        };
        change.await.map_err(|error: KvError| error.at(&self.stores.path(store)))
    }

    /// Removes expired keys of a full store. Whether there were any.
    async fn make_room(&self, database: &Database) -> bool {
        let clock = Arc::clone(&self.clock);
        let purged = database.write(move |connection| rows::purge(connection, clock(), Purge::WHEN_FULL));
        purged.await.is_ok_and(|purged| purged > 0)
    }
}

/// A change on its way to the writer. Its bytes are counted until both the writer and the caller are done with it.
struct Job<F> {
    work: F,
    most: Purge,
    clock: Clock,
    _queued: OwnedSemaphorePermit,
}

impl<T, F: Fn(&Connection, rows::Now<'_>) -> Result<T, KvError>> Job<F> {
    fn run(job: &Arc<Self>) -> impl FnOnce(&Connection) -> Result<T, KvError> + use<T, F> {
        let job = Arc::clone(job);
        move |connection| {
            // Before the work, which may need the room.
            rows::purge(connection, (job.clock)(), job.most)?;
            (job.work)(connection, &*job.clock)
        }
    }
}
