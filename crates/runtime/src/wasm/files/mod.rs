//! The files of guests: the volumes that a function was granted, each under its path, and `/tmp`, which is the sandbox's own. A
//! command finds one more folder, in which a file is a way to the data services ([`crate::data::local`]).
//!
//! wasmtime-wasi does the work, and keeps guests within their folders. What stands before it here claims space in the volume before
//! something grows or is made ([`minnow_store::volume`]). [`p2`] is `wasi:filesystem` 0.2 of components, [`p1`] is preview 1 of core
//! modules, [`writer`] is the stream that writes.
//!
//! Nothing is made before a guest asks: [`Files`] with the first call, a folder and its handle when something in it is used. Until
//! then a folder stands for it that nobody can use.

mod p1;
mod p2;
mod writer;

#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    fs::{self, File},
    io,
    path::{Component, Path, PathBuf},
    sync::{Arc, Mutex, OnceLock, PoisonError, Weak},
};

use minnow_model::{AppName, Tenant};
use minnow_store::{
    Volume, Volumes,
    volume::{Bounds, Growing, Held, MAX_ENTRIES, TEMPORARY},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wasmtime_wasi::{
    FsPerms, OpenMode, WasiCtx,
    filesystem::{Descriptor, Dir, WasiFilesystemCtx, WasiFilesystemView as _},
    p2::bindings::filesystem::preopens::Host as _,
    runtime::spawn_blocking,
};

pub(super) use p1::{P1, imports_files};
pub(super) use p2::{FilesView, link};

use crate::{
    Function,
    data::local::{self, Connection, LocalHttp},
    memory::MemoryBudget,
    meter::Run,
};

/// Files and folders that a sandbox may have open at once. Many programs are content with 20; each is one of the node's.
const MAX_OPEN: usize = 128;

/// Streams of files that a sandbox may have at once: each may hold 64 KiB, 8 MiB together.
const MAX_STREAMS: usize = 128;

/// What the lists of names may take that a sandbox reads at once, in bytes: a whole volume with the longest names. The memory is the
/// node's, so it comes from what sandboxes may hold together.
const MAX_LISTING_BYTES: u64 = 64 << 20;

/// What an entry of a list takes beside its name.
const LISTED_BYTES: u64 = 64;

/// Folders that core modules list at once on this node. In preview 1 each piece of a list reads the whole folder.
const LISTING_AT_ONCE: usize = 4;
/// Of these, those of one app, with all its functions and versions: one that lists without end leaves three to others.
const LISTING_OF_APP: usize = 1;

/// Where a sandbox finds its own folder.
const TMP: &str = "/tmp";

/// What all sandboxes share.
pub(crate) struct Roots {
    /// An empty folder that stands for those that were not opened yet.
    nowhere: PathBuf,
    placeholder: OnceLock<Dir>,
    /// The folder of the services, with an empty file: what a guest sees of it that does not open it.
    services: PathBuf,
    services_dir: OnceLock<Dir>,
    /// For functions without volumes.
    plain: OnceLock<Preopened>,
    /// For functions without volumes that have services.
    plain_with_services: OnceLock<Preopened>,
    listing: Arc<Semaphore>,
    /// The turns of apps whose functions have asked for files.
    turns: Mutex<HashMap<(Tenant, AppName), Weak<Semaphore>>>,
}

/// The folders of a sandbox as preview 1 is told of them, each with a placeholder.
#[derive(Clone)]
struct Preopened {
    ctx: WasiFilesystemCtx,
    places: Vec<Arc<File>>,
}

impl Roots {
    /// Makes the folders `nowhere` and `services` where they are not there.
    pub(crate) fn new(nowhere: PathBuf, services: PathBuf) -> io::Result<Self> {
        for folder in [&nowhere, &services] {
            match fs::create_dir(folder) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
        File::create(services.join(local::FILE))?;
        Ok(Self {
            nowhere,
            placeholder: OnceLock::new(),
            services,
            services_dir: OnceLock::new(),
            plain: OnceLock::new(),
            plain_with_services: OnceLock::new(),
            listing: Arc::new(Semaphore::new(LISTING_AT_ONCE)),
            turns: Mutex::default(),
        })
    }

    /// Whose turn it is among the functions of an app. Kept by each of them.
    pub(crate) fn turn_of(&self, tenant: &Tenant, app: &AppName) -> Arc<Semaphore> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (tenant.clone(), app.clone());
        if let Some(turn) = turns.get(&key).and_then(Weak::upgrade) {
            return turn;
        }
        // Before it grows, and not each time: a node holds thousands of apps.
        if turns.len() == turns.capacity() {
            turns.retain(|_, turn| turn.strong_count() > 0);
        }
        let turn = Arc::new(Semaphore::new(LISTING_OF_APP));
        turns.insert(key, Arc::downgrade(&turn));
        turn
    }

    fn placeholder(&self) -> io::Result<Dir> {
        if let Some(dir) = self.placeholder.get() {
            return Ok(dir.clone());
        }
        let dir = Dir::new(File::open(&self.nowhere)?, FsPerms::ReadOnly, OpenMode::READ, false);
        Ok(self.placeholder.get_or_init(|| dir).clone())
    }

    fn services_dir(&self) -> io::Result<Dir> {
        if let Some(dir) = self.services_dir.get() {
            return Ok(dir.clone());
        }
        let dir = Dir::new(File::open(&self.services)?, FsPerms::ReadOnly, OpenMode::READ, false);
        Ok(self.services_dir.get_or_init(|| dir).clone())
    }

    fn preopened(&self, mounts: &[Mount], has_services: bool) -> wasmtime::Result<Preopened> {
        let kept = match (mounts.len(), has_services) {
            (1, false) => &self.plain,
            (2, true) => &self.plain_with_services,
            _ => return self.make_preopened(mounts),
        };
        match kept.get() {
            Some(plain) => Ok(plain.clone()),
            None => {
                let made = self.make_preopened(mounts)?;
                Ok(kept.get_or_init(|| made).clone())
            }
        }
    }

    fn make_preopened(&self, mounts: &[Mount]) -> wasmtime::Result<Preopened> {
        let mut wasi = WasiCtx::builder();
        for mount in mounts {
            wasi.preopened_dir(&self.nowhere, &*mount.path, mount.perms())?;
        }
        // The only way to what the builder has opened.
        let mut wasi = wasi.build_p1();
        let mut view = wasi.filesystem();
        let mut places = Vec::new();
        for (handle, _) in view.get_directories()? {
            if let Descriptor::Dir(dir) = view.table.get(&handle)? {
                places.push(Arc::clone(&dir.dir));
            }
        }
        Ok(Preopened { ctx: view.ctx.clone(), places })
    }
}

/// A folder that a guest sees.
struct Mount {
    path: Arc<str>,
    volume: Arc<Volume>,
    most: Bounds,
    read_only: bool,
    /// Set when it is first used.
    dir: Option<Dir>,
}

impl Mount {
    fn perms(&self) -> FsPerms {
        if self.read_only { FsPerms::ReadOnly } else { FsPerms::ReadWrite }
    }

    /// The folder, which is made where it is not there.
    async fn open(&mut self) -> io::Result<Dir> {
        if let Some(dir) = &self.dir {
            return Ok(dir.clone());
        }
        let volume = Arc::clone(&self.volume);
        let opened = spawn_blocking(move || volume.open_root()).await.inspect_err(|error| {
            tracing::error!(path = &*self.path, %error, "a folder of a function cannot be opened");
        })?;
        let mode = if self.read_only { OpenMode::READ } else { OpenMode::READ | OpenMode::WRITE };
        let dir = Dir::new(opened, self.perms(), mode, false);
        self.dir = Some(dir.clone());
        Ok(dir)
    }
}

/// What a guest has open.
struct Open {
    /// Which of the mounts it is in.
    mount: usize,
    /// Whether it is the folder of the mount itself, and was not used yet.
    is_untouched: bool,
    /// The folder that it is. In preview 1 only: in 0.2 the table says so.
    folder: Option<Arc<File>>,
    /// Whether writes go to the end. In preview 1 only: in 0.2 the stream says so.
    appends: bool,
    /// Set where it is a way to the services.
    connection: Option<Connection>,
    /// `None` for the folders of mounts.
    held: Option<Arc<Held>>,
}

impl Open {
    fn file(&self) -> Option<&Arc<File>> {
        self.held.as_ref()?.file()
    }
}

/// The files of one sandbox.
pub(super) struct Files {
    mounts: Vec<Mount>,
    /// By the number of the handle in the sandbox's table, or of the file descriptor.
    open: HashMap<u32, Open>,
    /// By the number of the handle.
    listings: HashMap<u32, Listing>,
    /// One share for each stream.
    streams: Arc<()>,
    // Not the function: a warm instance of it may have this.
    volumes: Volumes,
    memory: Arc<MemoryBudget>,
    turns: Turns,
    services: Option<Services>,
}

/// The way to the data services.
struct Services {
    /// Which of the mounts is their folder.
    mount: usize,
    http: Arc<LocalHttp>,
}

/// Whose turn it is to list a folder in preview 1.
struct Turns {
    of_app: Arc<Semaphore>,
    of_node: Arc<Semaphore>,
}

/// The memory that a list of names takes.
struct Listing {
    bytes: u64,
    budget: Arc<MemoryBudget>,
}

impl Drop for Listing {
    fn drop(&mut self) {
        self.budget.give_back(self.bytes);
    }
}

/// A bound of the sandbox's or the node's is reached.
struct TooMany;

impl Files {
    /// `run` is what the sandbox is made for, where that is one invocation.
    fn new(function: &Arc<Function>, run: Option<&Arc<Run>>) -> io::Result<Self> {
        let volumes = &function.runtime().data().volumes;
        let granted = function.spec().granted.files.values();
        let mut mounts: Vec<Mount> = granted
            .filter_map(|granted| {
                Some(Mount {
                    path: granted.mount.as_ref()?.as_str().into(),
                    volume: volumes.volume(&granted.store),
                    most: Bounds { bytes: granted.size_bytes, entries: MAX_ENTRIES },
                    read_only: granted.read_only,
                    dir: None,
                })
            })
            .collect();
        let tmp = volumes.temporary();
        mounts.push(Mount { path: TMP.into(), volume: tmp, most: TEMPORARY, read_only: false, dir: None });
        let roots = &function.runtime().file_roots;
        let mut services = None;
        if let Some(http) = run.and_then(LocalHttp::new) {
            services = Some(Services { mount: mounts.len(), http });
            // Nothing is ever written to it, so it takes nothing of what stands for its volume.
            let (path, volume) = (local::FOLDER.into(), volumes.temporary());
            mounts.push(Mount { path, volume, most: TEMPORARY, read_only: true, dir: Some(roots.services_dir()?) });
        }
        let turns = Turns { of_app: Arc::clone(function.listing()), of_node: Arc::clone(&roots.listing) };
        let files = Self::of_mounts(mounts, volumes.clone(), Arc::clone(&function.runtime().memory), turns);
        Ok(Self { services, ..files })
    }

    fn of_mounts(mounts: Vec<Mount>, volumes: Volumes, memory: Arc<MemoryBudget>, turns: Turns) -> Self {
        let (open, listings) = (HashMap::new(), HashMap::new());
        Self { mounts, open, listings, streams: Arc::default(), volumes, memory, turns, services: None }
    }

    /// Whether `path` in the mount `at` is the way to the services.
    fn is_service(&self, at: usize, path: &str) -> bool {
        let is_it = || {
            Path::new(path)
                .components()
                .filter(|part| *part != Component::CurDir)
                .eq([Component::Normal(local::FILE.as_ref())])
        };
        self.services.as_ref().is_some_and(|services| services.mount == at) && is_it()
    }

    /// A new connection to the services.
    fn connect(&self) -> Result<Connection, TooMany> {
        self.services.as_ref().and_then(|services| services.http.connect()).ok_or(TooMany)
    }

    /// What was opened under this number is a way to the services.
    fn connected(&mut self, number: u32, connection: Connection) {
        if let Some(open) = self.open.get_mut(&number) {
            open.connection = Some(connection);
        }
    }

    fn connection(&self, number: u32) -> Option<&Connection> {
        self.open.get(&number)?.connection.as_ref()
    }

    /// A place for one more file or folder that is opened.
    fn place(&self) -> Result<OwnedSemaphorePermit, TooMany> {
        if self.open.len() >= MAX_OPEN {
            return Err(TooMany);
        }
        self.volumes.open_file().ok_or(TooMany)
    }

    fn stream(&self) -> Result<Arc<()>, TooMany> {
        if Arc::strong_count(&self.streams) > MAX_STREAMS { Err(TooMany) } else { Ok(Arc::clone(&self.streams)) }
    }

    /// Notes what was opened in a mount; `None` is a folder.
    fn opened(&mut self, number: u32, mount: usize, file: Option<Arc<File>>, place: OwnedSemaphorePermit) {
        let mount_of = self.mounts.get(mount);
        let held = mount_of.map(|mount| Arc::new(Held::new(file, Arc::clone(&mount.volume), place)));
        let open = Open { mount, is_untouched: false, folder: None, appends: false, connection: None, held };
        self.open.insert(number, open);
    }

    fn root(mount: usize) -> Open {
        Open { mount, is_untouched: true, folder: None, appends: false, connection: None, held: None }
    }

    /// Forgets what is closed.
    fn closed(&mut self, number: u32) {
        self.open.remove(&number);
    }

    fn mount_of(&self, number: u32) -> Option<&Mount> {
        self.mounts.get(self.open.get(&number)?.mount)
    }

    /// The share of a stream.
    fn held(&self, number: u32) -> Option<Arc<Held>> {
        self.open.get(&number)?.held.clone()
    }

    /// The file for whoever makes it larger.
    fn growing(&self, number: u32) -> Option<Growing> {
        let mount = self.mount_of(number)?;
        let held = self.held(number)?;
        let file = Arc::clone(held.file()?);
        Some(Growing { file, volume: Arc::clone(&mount.volume), most: mount.most, held })
    }

    /// Takes the memory for a list of the folder's names.
    async fn list(&self, folder: Arc<File>) -> io::Result<Result<Listing, TooMany>> {
        let bytes = spawn_blocking(move || {
            let entries = rustix::fs::Dir::read_from(&*folder)?;
            let sizes = entries.map(|entry| entry.map(|entry| entry.file_name().count_bytes() as u64 + LISTED_BYTES));
            sizes.sum::<Result<u64, _>>().map_err(io::Error::from)
        })
        .await?;
        let budget = Arc::clone(&self.memory);
        let listed: u64 = self.listings.values().map(|listing| listing.bytes).sum();
        if listed.saturating_add(bytes) > MAX_LISTING_BYTES || !budget.take(bytes) {
            return Ok(Err(TooMany));
        }
        Ok(Ok(Listing { bytes, budget }))
    }
}
