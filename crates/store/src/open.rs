//! The SQLite files of a data service: `DIR/TENANT/APP/NAME.db`, opened on first use and closed when nobody needs them.
//!
//! A node may hold ten thousand stores of which a few are busy. [`OpenStores`] keeps those open, under a bound, and closes
//! what was idle for a while, so that idle stores cost neither files nor memory. What `T` is (connections, a writer thread)
//! is the service's affair: it gives a function that opens one at a path; dropping a `T` must close it.
//!
//! For a service, in this order:
//! - [`OpenStores::new`] with the service's folder, bounds and function that opens a `T` (blocking, creates the file).
//! - Reads: [`OpenStores::existing`] gives an `Arc<T>` for the time of the call, or `None` when there is no file. A store that is open
//!   costs about 100 ns. One that is not is opened on a thread that may block: that takes half a millisecond, or as long as it
//!   takes to close another one or to recover a log. [`OpenStores::existing_here`] is for callers that may block themselves.
//! - Writes: [`OpenStores::or_create`], which opens and creates on a thread that may block.
//! - Whoever holds an `Arc<T>` keeps it open. So hold it for a call or a transaction, never longer: with [`OpenBounds::max_open`] stores in use
//!   the next one is refused. For one file there is never more than one `T`.

use std::{
    collections::{HashMap, HashSet},
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock, RwLockWriteGuard, TryLockError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use minnow_model::{AppName, StoreId, StoreName, Tenant};

use crate::{StoreError, data_dir::create_private};

/// How many stores of a service are open at once, and for how long without use.
#[derive(Debug, Clone, Copy)]
pub struct OpenBounds {
    /// Beyond it the store that was used longest ago is closed before another opens.
    pub max_open: usize,
    pub idle: Duration,
}

impl Default for OpenBounds {
    /// 128 open stores are some 900 file descriptors and 128 threads that sleep. A store idle for a minute has
    /// no burst to wait for; to open it again costs half a millisecond.
    fn default() -> Self {
        Self { max_open: 128, idle: Duration::from_secs(60) }
    }
}

/// How long the deletion of an app waits for calls that use its stores. Longer than a transaction of a function may be (10 s).
const DELETE_PATIENCE: Duration = Duration::from_secs(15);
/// How often it looks whether they ended.
const DELETE_LOOK: Duration = Duration::from_millis(2);
/// Starts the names of folders that are being removed. No app's name starts so (a DNS label has no dot).
const DELETED: &str = ".deleted-";

/// The stores of one service of which some are open. Cheap to clone; dropping the last clone closes them all.
pub struct OpenStores<T> {
    shared: Arc<Shared<T>>,
    /// After `shared`: the thread has a share too, and dropping this waits for it.
    closer: Arc<Closer>,
}

impl<T> Clone for OpenStores<T> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), closer: Arc::clone(&self.closer) }
    }
}

type OpenFn<T> = Box<dyn Fn(&Path) -> Result<T, StoreError> + Send + Sync>;

struct Shared<T> {
    dir: PathBuf,
    bounds: OpenBounds,
    open: OpenFn<T>,
    slots: RwLock<HashMap<StoreId, Arc<Slot<T>>>>,
    /// Stores that are open or about to be.
    count: AtomicUsize,
    /// Apps whose stores may not be opened now.
    deleting: Mutex<HashSet<(Tenant, AppName)>>,
    started: Instant,
}

/// One store that is open, opening or closing.
struct Slot<T> {
    /// Held for writing while the store opens or closes, so that others wait for that and there is one `T` for one file. That
    /// may take seconds (a log that is synced), so a thread that serves others only tries it.
    store: RwLock<Option<Arc<T>>>,
    /// Milliseconds after [`Shared::started`].
    used_ms: AtomicU64,
}

impl<T: Send + Sync + 'static> OpenStores<T> {
    /// The stores under `dir`, which is created where it is missing. `open` opens the file at a path, and creates it. Blocking.
    pub fn new(
        dir: &Path,
        bounds: OpenBounds,
        open: impl Fn(&Path) -> Result<T, StoreError> + Send + Sync + 'static,
    ) -> Result<Self, StoreError> {
        create_private(dir).map_err(|error| StoreError::io(dir, error))?;
        remove_deleted(dir)?;
        let shared = Arc::new(Shared {
            dir: dir.to_owned(),
            bounds,
            open: Box::new(open),
            slots: RwLock::default(),
            count: AtomicUsize::new(0),
            deleting: Mutex::default(),
            started: Instant::now(),
        });
        let closer = Closer::start(&shared).map_err(|error| StoreError::io(dir, error))?;
        Ok(Self { shared, closer: Arc::new(closer) })
    }

    /// The store, if it is open already or has a file; opened on a thread that may block.
    pub async fn existing(&self, id: &StoreId) -> Result<Option<Arc<T>>, StoreError> {
        if let Some(store) = self.shared.opened(id) {
            return Ok(Some(store));
        }
        // Before a slot is made: asking for stores that were never written must not fill the table.
        if is_file(&self.path(id))? { self.open_elsewhere(id, || false).await } else { Ok(None) }
    }

    /// [`OpenStores::existing`] on this thread. Blocking.
    pub fn existing_here(&self, id: &StoreId) -> Result<Option<Arc<T>>, StoreError> {
        if let Some(store) = self.shared.opened(id) {
            return Ok(Some(store));
        }
        if is_file(&self.path(id))? { self.open(id, || false) } else { Ok(None) }
    }

    /// The store; opened, and its file created, on a thread that may block. Durable once something is committed in it.
    pub async fn or_create(&self, id: &StoreId) -> Result<Arc<T>, StoreError> {
        self.or_create_if(id, || true).await?.ok_or(StoreError::Stopped)
    }

    /// [`OpenStores::or_create`], but `None` where there is no file and `may_create` says no. It is asked when no deletion of
    /// the app can come between it and the file.
    pub async fn or_create_if(
        &self,
        id: &StoreId,
        may_create: impl FnOnce() -> bool + Send + 'static,
    ) -> Result<Option<Arc<T>>, StoreError> {
        if let Some(store) = self.shared.opened(id) {
            return Ok(Some(store));
        }
        self.open_elsewhere(id, may_create).await
    }

    /// Where the store is, or would be.
    pub fn path(&self, id: &StoreId) -> PathBuf {
        self.shared.path(id)
    }

    /// How many stores are open.
    pub fn count(&self) -> usize {
        self.shared.count.load(Ordering::Relaxed)
    }

    /// The stores of an app that have a file, by name, with their bytes on the disk.
    pub fn list(&self, tenant: &Tenant, app: &AppName) -> Result<Vec<(StoreName, u64)>, StoreError> {
        let dir = self.shared.app_dir(tenant, app);
        let at = |error| StoreError::io(&dir, error);
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(at(error)),
        };
        let mut stores = Vec::new();
        for entry in entries {
            let path = entry.map_err(at)?.path();
            if path.extension().is_none_or(|extension| extension != "db") {
                continue;
            }
            let Some(name) = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok()) else {
                continue;
            };
            // The log holds what is not in the file yet; it goes when the store closes.
            let bytes = len(&path)? + len(&path.with_extension("db-wal"))?;
            stores.push((name, bytes));
        }
        stores.sort();
        Ok(stores)
    }

    /// Removes all stores of an app, all or none also over a crash. Calls that use them are waited for; what comes meanwhile is
    /// refused. `closed` is called with the app's folder when none of them is open any more, and none can be opened yet.
    pub async fn delete_app(
        &self,
        tenant: &Tenant,
        app: &AppName,
        closed: impl FnOnce(&Path) + Send + 'static,
    ) -> Result<(), StoreError> {
        let (stores, app) = (self.clone(), (tenant.clone(), app.clone()));
        let delete = move || {
            stores.shared.without(&app, || {
                closed(&stores.shared.app_dir(&app.0, &app.1));
                stores.shared.remove_app(&app)
            })
        };
        tokio::task::spawn_blocking(delete).await.map_err(|_| StoreError::Stopped)?
    }

    /// Moves all stores of an app to the folder `to`, which must not be there yet and be on the same file system: all or
    /// none, as [`OpenStores::delete_app`]. False where the app has none.
    pub async fn move_app(
        &self,
        tenant: &Tenant,
        app: &AppName,
        to: &Path,
        closed: impl FnOnce(&Path) + Send + 'static,
    ) -> Result<bool, StoreError> {
        let (stores, app, to) = (self.clone(), (tenant.clone(), app.clone()), to.to_owned());
        let moved = move || {
            stores.shared.without(&app, || {
                closed(&stores.shared.app_dir(&app.0, &app.1));
                stores.shared.move_app(&app, &to)
            })
        };
        tokio::task::spawn_blocking(moved).await.map_err(|_| StoreError::Stopped)?
    }

    /// Makes the folder `from`, which is on the same file system, the stores of an app that has none: all or none, as
    /// [`OpenStores::move_app`].
    pub async fn adopt_app(&self, tenant: &Tenant, app: &AppName, from: &Path) -> Result<(), StoreError> {
        let (stores, app, from) = (self.clone(), (tenant.clone(), app.clone()), from.to_owned());
        let adopted = move || stores.shared.without(&app, || stores.shared.adopt_app(&app, &from));
        tokio::task::spawn_blocking(adopted).await.map_err(|_| StoreError::Stopped)?
    }

    /// The apps that have a folder here.
    pub fn apps(&self) -> Result<Vec<(Tenant, AppName)>, StoreError> {
        let mut apps = Vec::new();
        for tenant in names(&self.shared.dir)? {
            let of_tenant = names(&self.shared.dir.join(&tenant))?;
            let Ok(tenant) = tenant.parse::<Tenant>() else { continue };
            apps.extend(of_tenant.iter().filter_map(|app| Some((tenant.clone(), app.parse().ok()?))));
        }
        Ok(apps)
    }

    async fn open_elsewhere(
        &self,
        id: &StoreId,
        may_create: impl FnOnce() -> bool + Send + 'static,
    ) -> Result<Option<Arc<T>>, StoreError> {
        let (stores, id) = (self.clone(), id.clone());
        let opened = tokio::task::spawn_blocking(move || stores.open(&id, may_create)).await;
        opened.map_err(|_| StoreError::Stopped)?
    }

    fn open(&self, id: &StoreId, may_create: impl FnOnce() -> bool) -> Result<Option<Arc<T>>, StoreError> {
        let slot = self.shared.slot(id);
        let mut state = slot.state();
        if let Some(store) = &*state {
            slot.used_ms.store(self.shared.now_ms(), Ordering::Relaxed);
            return Ok(Some(Arc::clone(store)));
        }
        let opened = self.shared.open_file(id, may_create);
        if let Ok(Some(store)) = &opened {
            slot.used_ms.store(self.shared.now_ms(), Ordering::Relaxed);
            *state = Some(Arc::clone(store));
            drop(state);
            self.closer.look(self.shared.crowded());
        } else {
            drop(state);
            self.shared.forget(id, slot);
        }
        opened
    }
}

impl<T> Shared<T> {
    fn app_dir(&self, tenant: &Tenant, app: &AppName) -> PathBuf {
        self.dir.join(tenant.as_str()).join(app.as_str())
    }

    fn path(&self, id: &StoreId) -> PathBuf {
        self.app_dir(&id.tenant, &id.app).join(format!("{}.db", id.name))
    }

    fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    /// Whether the closer should make room before somebody has to wait for it: an eighth is kept free.
    fn crowded(&self) -> bool {
        self.count.load(Ordering::Relaxed) > self.bounds.max_open - self.bounds.max_open / 8
    }

    /// The store, unless it is closed, or opens or closes just now. Waits for nobody.
    fn opened(&self, id: &StoreId) -> Option<Arc<T>> {
        let slot = Arc::clone(self.slots.read().unwrap_or_else(PoisonError::into_inner).get(id)?);
        let state = match slot.store.try_read() {
            Ok(state) => state,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        let store = Arc::clone(state.as_ref()?);
        slot.used_ms.store(self.now_ms(), Ordering::Relaxed);
        Some(store)
    }

    fn slot(&self, id: &StoreId) -> Arc<Slot<T>> {
        let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
        let slot = slots
            .entry(id.clone())
            .or_insert_with(|| Arc::new(Slot { store: RwLock::new(None), used_ms: AtomicU64::new(self.now_ms()) }));
        Arc::clone(slot)
    }

    /// Opens the file of a slot whose lock the caller holds. A deletion that begins after its first line waits for that lock.
    fn open_file(&self, id: &StoreId, may_create: impl FnOnce() -> bool) -> Result<Option<Arc<T>>, StoreError> {
        if lock(&self.deleting).contains(&(id.tenant.clone(), id.app.clone())) {
            return Err(StoreError::BeingDeleted);
        }
        let path = self.path(id);
        let exists = is_file(&path)?;
        if !exists && !may_create() {
            return Ok(None);
        }
        self.take_place()?;
        let opened = self.create_folders(id, exists).and_then(|()| (self.open)(&path)).and_then(|store| {
            if !exists {
                sync_dir(&self.app_dir(&id.tenant, &id.app))?;
            }
            Ok(Some(Arc::new(store)))
        });
        if opened.is_err() {
            self.count.fetch_sub(1, Ordering::Relaxed);
        }
        opened
    }

    /// Makes the folders of a new store durable, before anything in it can be. Also where they are there already: the store
    /// that made them may not have come to syncing them yet.
    fn create_folders(&self, id: &StoreId, exists: bool) -> Result<(), StoreError> {
        let app = self.app_dir(&id.tenant, &id.app);
        if exists {
            return Ok(());
        }
        create_private(&app).map_err(|error| StoreError::io(&app, error))?;
        sync_dir(&self.dir.join(id.tenant.as_str()))?;
        sync_dir(&self.dir)
    }

    /// Counts one more open store; at the bound, closes the one that was used longest ago.
    fn take_place(&self) -> Result<(), StoreError> {
        loop {
            let take = |count| (count < self.bounds.max_open).then_some(count + 1);
            if self.count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok() {
                return Ok(());
            }
            if !self.by_age().into_iter().any(|(id, slot)| self.close(&id, slot)) {
                return Err(StoreError::TooManyOpen { max: self.bounds.max_open });
            }
        }
    }

    /// The slots, the one that was used longest ago first.
    fn by_age(&self) -> Vec<(StoreId, Arc<Slot<T>>)> {
        let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner);
        let mut slots: Vec<_> = slots.iter().map(|(id, slot)| (id.clone(), Arc::clone(slot))).collect();
        slots.sort_by_cached_key(|(_, slot)| slot.used_ms.load(Ordering::Relaxed));
        slots
    }

    /// Closes a store that nobody uses now. False when somebody does, or it was not open.
    fn close(&self, id: &StoreId, slot: Arc<Slot<T>>) -> bool {
        let closed = {
            let mut state = match slot.store.try_write() {
                Ok(state) => state,
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => return false,
            };
            // Shares are only given out under the lock, so one that is alone stays alone.
            match state.take().map(Arc::try_unwrap) {
                Some(Ok(store)) => {
                    drop(store);
                    self.count.fetch_sub(1, Ordering::Relaxed);
                    true
                }
                Some(Err(used)) => {
                    *state = Some(used);
                    return false;
                }
                None => false,
            }
        };
        self.forget(id, slot);
        closed
    }

    /// Takes a slot out of the table, unless somebody else has it in hand and may be opening its store.
    fn forget(&self, id: &StoreId, slot: Arc<Slot<T>>) {
        let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
        let ours = slots.get(id).is_some_and(|found| Arc::ptr_eq(found, &slot));
        // The table's share and this one.
        if ours && Arc::strong_count(&slot) == 2 && slot.state().is_none() {
            slots.remove(id);
        }
    }

    /// What the closer does: ends idle stores, and the oldest while there are nearly too many. Whether there were idle ones.
    fn close_idle(&self) -> bool {
        let mut closed = false;
        let now_ms = self.now_ms();
        let idle_ms = self.bounds.idle.as_millis() as u64;
        for (id, slot) in self.by_age() {
            let idle = now_ms.saturating_sub(slot.used_ms.load(Ordering::Relaxed)) >= idle_ms;
            if idle || self.crowded() {
                closed |= self.close(&id, slot) && idle;
            }
        }
        closed
    }

    /// Does `work` while no store of the app is open.
    fn without<R>(
        &self,
        app: &(Tenant, AppName),
        work: impl FnOnce() -> Result<R, StoreError>,
    ) -> Result<R, StoreError> {
        if !lock(&self.deleting).insert(app.clone()) {
            return Err(StoreError::BeingDeleted);
        }
        let result = self.close_app(app).and_then(|()| work());
        lock(&self.deleting).remove(app);
        result
    }

    fn move_app(&self, (tenant, app): &(Tenant, AppName), to: &Path) -> Result<bool, StoreError> {
        let dir = self.app_dir(tenant, app);
        match fs::rename(&dir, to) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && !dir.exists() => return Ok(false),
            result => result.map_err(|error| StoreError::io(&dir, error))?,
        }
        sync_dir(&self.dir.join(tenant.as_str()))?;
        if let Some(parent) = to.parent() {
            sync_dir(parent)?;
        }
        Ok(true)
    }

    fn adopt_app(&self, (tenant, app): &(Tenant, AppName), from: &Path) -> Result<(), StoreError> {
        let tenant = self.dir.join(tenant.as_str());
        create_private(&tenant).map_err(|error| StoreError::io(&tenant, error))?;
        sync_dir(&self.dir)?;
        sync_dir(from)?;
        // Fails where there is a folder with something in it.
        let dir = tenant.join(app.as_str());
        fs::rename(from, &dir).map_err(|error| StoreError::io(&dir, error))?;
        sync_dir(&tenant)
    }

    /// Closes the stores of an app that is in `deleting`, so that no other opens. One that is opening just now holds its slot's lock.
    fn close_app(&self, app: &(Tenant, AppName)) -> Result<(), StoreError> {
        let deadline = Instant::now() + DELETE_PATIENCE;
        for (id, slot) in self.by_age() {
            if (&id.tenant, &id.app) != (&app.0, &app.1) {
                continue;
            }
            let mut taken = slot.state().take();
            while let Some(store) = taken {
                match Arc::try_unwrap(store) {
                    Ok(store) => {
                        drop(store);
                        self.count.fetch_sub(1, Ordering::Relaxed);
                        break;
                    }
                    Err(used) if Instant::now() > deadline => {
                        *slot.state() = Some(used);
                        return Err(StoreError::InUse { path: self.path(&id) });
                    }
                    Err(used) => taken = Some(used),
                }
                thread::sleep(DELETE_LOOK);
            }
            self.forget(&id, slot);
        }
        Ok(())
    }

    /// A rename takes all stores away at once; what a crash leaves is removed by the next start.
    fn remove_app(&self, (tenant, app): &(Tenant, AppName)) -> Result<(), StoreError> {
        let dir = self.app_dir(tenant, app);
        let tenant = self.dir.join(tenant.as_str());
        let away = tenant.join(format!("{DELETED}{app}"));
        remove_folder(&away)?;
        match fs::rename(&dir, &away) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            result => result.map_err(|error| StoreError::io(&dir, error))?,
        }
        sync_dir(&tenant)?;
        remove_folder(&away)
    }
}

impl<T> Slot<T> {
    /// Waits for who opens or closes the store.
    fn state(&self) -> RwLockWriteGuard<'_, Option<Arc<T>>> {
        self.store.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is in a folder, of that which has a readable name; nothing where there is no folder.
fn names(dir: &Path) -> Result<Vec<String>, StoreError> {
    let at = |error| StoreError::io(dir, error);
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(at(error)),
    };
    entries
        .filter_map(|entry| entry.map(|entry| entry.file_name().into_string().ok()).map_err(at).transpose())
        .collect()
}

/// The thread that closes idle stores.
struct Closer {
    signal: Arc<Signal>,
    thread: Option<thread::JoinHandle<()>>,
}

#[derive(Default)]
struct Signal {
    wanted: Mutex<Wanted>,
    changed: Condvar,
}

#[derive(Default)]
struct Wanted {
    stop: bool,
    /// Look after the stores: at once, or when the first of them may be idle.
    look: Option<Look>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Look {
    Later,
    Now,
}

impl Closer {
    fn start<T: Send + Sync + 'static>(shared: &Arc<Shared<T>>) -> io::Result<Self> {
        let signal = Arc::new(Signal::default());
        let (shared, heard) = (Arc::clone(shared), Arc::clone(&signal));
        let thread = thread::Builder::new().name("store-closer".into()).spawn(move || {
            // A store is closed after its idle time and at most a quarter more.
            let patience = (shared.bounds.idle / 4).max(Duration::from_millis(1));
            while heard.wait(patience) {
                if shared.close_idle() {
                    give_memory_back();
                }
                if shared.count.load(Ordering::Relaxed) > 0 {
                    heard.look(Look::Later);
                }
            }
        })?;
        Ok(Self { signal, thread: Some(thread) })
    }

    fn look(&self, now: bool) {
        self.signal.look(if now { Look::Now } else { Look::Later });
    }
}

impl Signal {
    fn look(&self, look: Look) {
        let mut wanted = lock(&self.wanted);
        if wanted.look < Some(look) {
            wanted.look = Some(look);
            self.changed.notify_all();
        }
    }

    /// Sleeps until there is something to look at: with no store open, for ever. False at the end.
    fn wait(&self, patience: Duration) -> bool {
        let mut wanted = lock(&self.wanted);
        let mut deadline = None;
        loop {
            if wanted.stop {
                return false;
            }
            let now = Instant::now();
            let left = match wanted.look {
                Some(Look::Now) => Some(Duration::ZERO),
                Some(Look::Later) => Some(deadline.get_or_insert(now + patience).saturating_duration_since(now)),
                None => None,
            };
            wanted = match left {
                Some(Duration::ZERO) => {
                    wanted.look = None;
                    return true;
                }
                Some(left) => self.changed.wait_timeout(wanted, left).unwrap_or_else(PoisonError::into_inner).0,
                None => self.changed.wait(wanted).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }
}

impl Drop for Closer {
    fn drop(&mut self) {
        lock(&self.signal.wanted).stop = true;
        self.signal.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // Ends after the store that it closes just now. It panics only where dropping a store does.
            let _ = thread.join();
        }
    }
}

/// SQLite's memory comes from the C library, which keeps what is freed: 55 MB after 2,000 stores had been open, 128 at a time;
/// 13 MB after this.
fn give_memory_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: no preconditions; the function takes the allocator's own locks.
    unsafe {
        libc::malloc_trim(0);
    }
}

fn lock<V>(mutex: &Mutex<V>) -> MutexGuard<'_, V> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn is_file(path: &Path) -> Result<bool, StoreError> {
    match fs::metadata(path) {
        Ok(found) => Ok(found.is_file()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(StoreError::io(path, error)),
    }
}

/// The length of a file in bytes; 0 where there is none (any more).
fn len(path: &Path) -> Result<u64, StoreError> {
    match fs::metadata(path) {
        Ok(found) => Ok(found.len()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(StoreError::io(path, error)),
    }
}

fn sync_dir(path: &Path) -> Result<(), StoreError> {
    File::open(path).and_then(|dir| dir.sync_all()).map_err(|error| StoreError::io(path, error))
}

fn remove_folder(path: &Path) -> Result<(), StoreError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StoreError::io(path, error)),
        _ => Ok(()),
    }
}

/// Finishes the deletions that a crash interrupted.
fn remove_deleted(dir: &Path) -> Result<(), StoreError> {
    let folders = |path: &Path| -> Result<Vec<PathBuf>, StoreError> {
        let entries = fs::read_dir(path).and_then(|entries| entries.collect::<io::Result<Vec<_>>>());
        let entries = entries.map_err(|error| StoreError::io(path, error))?;
        Ok(entries.into_iter().map(|entry| entry.path()).filter(|path| path.is_dir()).collect())
    };
    for tenant in folders(dir)? {
        for app in folders(&tenant)? {
            if app.file_name().is_some_and(|name| name.to_string_lossy().starts_with(DELETED)) {
                remove_folder(&app)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
