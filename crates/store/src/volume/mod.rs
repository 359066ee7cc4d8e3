//! Volumes: folders of files that functions see under a path, each under a size; and the folders that stand for `/tmp`.
//!
//! [`Volume`] is one of them, shared by all sandboxes that have it. A sandbox claims space before it makes something larger or new
//! ([`Volume::claim`]). Claims only grow; where they come to the bound, the files are counted ([`tree`]), and what was deleted
//! meanwhile is free again. So a write costs an addition, and no file system needs quotas. A file takes its size, rounded up to
//! [`BLOCK_BYTES`], and one block for its name; holes in it count as if they were written.

mod claims;
mod growing;
mod growth;
pub mod paths;
pub mod tree;

#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

use minnow_model::{AppName, StoreId, StoreName, Tenant};
use rustix::process::{Resource, getrlimit};
use tokio::sync::{OwnedSemaphorePermit, RwLock, Semaphore};

pub use claims::{Bounds, Claim, Usage};
pub use growing::{At, Growing, Held};
pub use growth::{Change, Growth};

use crate::{
    StoreError,
    data_dir::{create_private, sync_parent},
};

/// What sizes are rounded up to, and what the name of a file, folder or link takes: a block of nearly every file system.
pub const BLOCK_BYTES: u64 = 4 << 10;

/// Files, folders and links in a volume. More take long to count (about 0.3 s for as many), and to list.
pub const MAX_ENTRIES: u64 = 100_000;

/// The bytes and entries of a sandbox's `/tmp`: enough to unpack or convert something, and 1,000 sandboxes do not fill a disk at once.
pub const TEMPORARY: Bounds = Bounds { bytes: 64 << 20, entries: 1_000 };

/// Volumes whose claims are remembered although nobody uses them: 200 bytes each. One that is forgotten is counted again.
const MAX_KNOWN: usize = 10_000;

/// Of the files that the process may have open, the part that guests may: the others are connections and stores.
const OPEN_SHARE: u64 = 4;

/// The volumes of a node.
#[derive(Clone)]
pub struct Volumes {
    shared: Arc<Shared>,
}

struct Shared {
    dir: PathBuf,
    tmp: PathBuf,
    known: Mutex<HashMap<StoreId, Arc<Volume>>>,
    /// The number of the next temporary one.
    next: AtomicU64,
    open_files: Arc<Semaphore>,
}

/// One volume, or the `/tmp` of one sandbox.
pub struct Volume {
    root: PathBuf,
    is_temporary: bool,
    claims: Mutex<claims::Claims>,
    /// Files that are open, so that those count that were deleted since.
    open: Mutex<Vec<Weak<File>>>,
    /// Held for writing while the files are counted, for reading while something is moved: a file that moves from where the count
    /// comes to where it was would be missed.
    still: Arc<RwLock<()>>,
    /// Held for writing while a file is made shorter or appended to, for reading while it is written to: [`growth`].
    lengths: Arc<RwLock<()>>,
}

impl Volumes {
    /// Keeps the volumes of apps in `dir`, and the folders of sandboxes in `tmp`, which is emptied at each start.
    pub fn open(dir: &Path, tmp: &Path) -> Result<Self, StoreError> {
        create_private(dir).map_err(|error| StoreError::io(dir, error))?;
        let most = getrlimit(Resource::Nofile).current.unwrap_or(1 << 20) / OPEN_SHARE;
        let most = usize::try_from(most).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        let shared = Shared {
            dir: dir.to_owned(),
            tmp: tmp.to_owned(),
            known: Mutex::default(),
            next: AtomicU64::new(0),
            open_files: Arc::new(Semaphore::new(most)),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The folder of a volume, whether it is there or not.
    pub fn path(&self, store: &StoreId) -> PathBuf {
        self.app_dir(&store.tenant, &store.app).join(store.name.as_str())
    }

    /// The volume. Nothing is made on the disk before [`Volume::open_root`].
    pub fn volume(&self, store: &StoreId) -> Arc<Volume> {
        let mut known = lock(&self.shared.known);
        if let Some(volume) = known.get(store) {
            return Arc::clone(volume);
        }
        if known.len() >= MAX_KNOWN {
            known.retain(|_, volume| Arc::strong_count(volume) > 1);
        }
        let volume = Arc::new(Volume::new(self.path(store), false));
        known.insert(store.clone(), Arc::clone(&volume));
        volume
    }

    /// An empty folder of its own, removed when nobody has it any more. Nothing is made on the disk before [`Volume::open_root`].
    pub fn temporary(&self) -> Arc<Volume> {
        let number = self.shared.next.fetch_add(1, Ordering::Relaxed);
        Arc::new(Volume::new(self.shared.tmp.join(format!("sandbox-{number}")), true))
    }

    /// A place among the files that guests may have open at once on this node, or `None`.
    pub fn open_file(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.shared.open_files).try_acquire_owned().ok()
    }

    /// The volumes of an app that are on the disk. Blocking.
    pub fn names(&self, tenant: &Tenant, app: &AppName) -> Result<Vec<StoreName>, StoreError> {
        let dir = self.app_dir(tenant, app);
        let is_volume = |name: &String| dir.join(name).is_dir();
        Ok(names(&dir)?.into_iter().filter(is_volume).filter_map(|name| name.parse().ok()).collect())
    }

    /// The same with what they take: their files are counted, and nothing is moved in a volume meanwhile. Blocking, and not to be called
    /// on a thread of the runtime.
    pub fn list_stores(&self, tenant: &Tenant, app: &AppName) -> Result<Vec<(StoreName, u64)>, StoreError> {
        let stores = self.names(tenant, app)?.into_iter().map(|name| {
            let volume = self.volume(&StoreId { tenant: tenant.clone(), app: app.clone(), name: name.clone() });
            let _still = volume.still.blocking_write();
            let counted = tree::count(&volume.root);
            // One that cannot be counted does not hide the others.
            let bytes = counted.map(|used| used.bytes).unwrap_or_else(|error| {
                tracing::warn!(volume = %volume.root.display(), %error, "the files of a volume could not be counted");
                0
            });
            (name, bytes)
        });
        Ok(stores.collect())
    }

    /// Moves all volumes of an app to the folder `to`, all or none. False where it has none. No function may use them any more.
    pub async fn move_app(&self, tenant: &Tenant, app: &AppName, to: &Path) -> Result<bool, StoreError> {
        let (dir, to) = (self.app_dir(tenant, app), to.to_owned());
        lock(&self.shared.known).retain(|store, _| store.tenant != *tenant || store.app != *app);
        blocking(move || match fs::rename(&dir, &to) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && !dir.exists() => Ok(false),
            renamed => {
                let moved = renamed.and_then(|()| sync_parent(&dir)).and_then(|()| sync_parent(&to));
                moved.map(|()| true).map_err(|error| StoreError::io(&dir, error))
            }
        })
        .await
    }

    /// Makes the folders in `from`, which is on the same file system, the volumes of an app that has none: all or none.
    pub async fn adopt_app(&self, tenant: &Tenant, app: &AppName, from: &Path) -> Result<(), StoreError> {
        let (dir, from) = (self.app_dir(tenant, app), from.to_owned());
        self.forget(tenant, app);
        blocking(move || {
            let adopt = || {
                make_durable(dir.parent().unwrap_or(&dir), 2)?;
                // Fails where there is a folder with something in it.
                fs::rename(&from, &dir)?;
                sync_parent(&dir)
            };
            adopt().map_err(|error| StoreError::io(&dir, error))
        })
        .await
    }

    /// The apps that have volumes. Blocking.
    pub fn apps(&self) -> Result<Vec<(Tenant, AppName)>, StoreError> {
        let mut apps = Vec::new();
        for tenant in names(&self.shared.dir)? {
            let of_tenant = names(&self.shared.dir.join(&tenant))?;
            let Ok(tenant) = tenant.parse::<Tenant>() else { continue };
            apps.extend(of_tenant.iter().filter_map(|app| Some((tenant.clone(), app.parse().ok()?))));
        }
        Ok(apps)
    }

    /// What is known of the app's volumes does not hold any more.
    fn forget(&self, tenant: &Tenant, app: &AppName) {
        lock(&self.shared.known).retain(|store, _| store.tenant != *tenant || store.app != *app);
    }

    fn app_dir(&self, tenant: &Tenant, app: &AppName) -> PathBuf {
        self.shared.dir.join(tenant.as_str()).join(app.as_str())
    }
}

impl Volume {
    fn new(root: PathBuf, is_temporary: bool) -> Self {
        Self {
            root,
            is_temporary,
            claims: Mutex::default(),
            open: Mutex::default(),
            still: Arc::default(),
            lengths: Arc::default(),
        }
    }

    /// Opens the folder, for the node's user alone. It is made where it is not there: durably, unless it is temporary. Blocking.
    pub fn open_root(&self) -> io::Result<File> {
        self.touch();
        match File::open(&self.root) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            opened => return opened,
        }
        if self.is_temporary {
            DirBuilder::new().mode(0o700).create(&self.root)?;
        } else {
            make_durable(&self.root, 4)?;
        }
        File::open(&self.root)
    }

    /// Notes a file of the volume that was opened: it takes space until it is closed, also when it is deleted.
    pub fn opened(&self, file: &Arc<File>) {
        let mut open = lock(&self.open);
        // Those that are closed go when they would make the list longer.
        if open.len() == open.capacity() {
            open.retain(|file| file.strong_count() > 0);
        }
        open.push(Arc::downgrade(file));
    }

    /// The opposite of [`Volume::opened`], for a file that was deleted: whoever calls this closes it now, wherever that is done. Its
    /// space counts as free at once.
    pub fn closing(&self, file: &Arc<File>) {
        lock(&self.open).retain(|open| !std::ptr::eq(open.as_ptr(), Arc::as_ptr(file)));
        self.freed();
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        if !self.is_temporary || self.claims().is_untouched() {
            return;
        }
        let root = std::mem::take(&mut self.root);
        let remove = move || {
            if let Err(error) = tree::remove(&root) {
                tracing::warn!(path = %root.display(), %error, "the files of a sandbox stay until the node starts again");
            }
        };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(remove)),
            Err(_) => remove(),
        }
    }
}

/// Creates the folder and makes it durable, with those above it: `levels` of them lie in the data directory, itself included. Also
/// where they are there already: who made them may not have come to syncing them.
fn make_durable(path: &Path, levels: usize) -> io::Result<()> {
    create_private(path)?;
    path.ancestors().take(levels).try_for_each(sync_parent)
}

/// The names in a folder; none where it is not there.
fn names(dir: &Path) -> Result<Vec<String>, StoreError> {
    let at = |error| StoreError::io(dir, error);
    match fs::read_dir(dir) {
        Ok(entries) => {
            let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
            names.collect::<io::Result<_>>().map_err(at)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(at(error)),
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| StoreError::Stopped)?
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
