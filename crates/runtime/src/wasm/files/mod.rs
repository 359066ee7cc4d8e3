//! The files of guests: the volumes that a function was granted, each under its path, and `/tmp`, which is the sandbox's own.
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
    path::PathBuf,
    sync::{Arc, OnceLock},
};

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

use crate::{Function, memory::MemoryBudget};

/// Files and folders that a sandbox may have open at once. Many programs are content with 20; each is one of the node's.
const MAX_OPEN: usize = 128;

/// Streams of files that a sandbox may have at once: each may hold 64 KiB, 8 MiB together.
const MAX_STREAMS: usize = 128;

/// What the lists of names may take that a sandbox reads at once, in bytes: a whole volume with the longest names. The memory is the
/// node's, so it comes from what sandboxes may hold together.
const MAX_LISTING_BYTES: u64 = 64 << 20;

/// What an entry of a list takes beside its name.
const LISTED_BYTES: u64 = 64;

/// Folders that core modules list at once on this node. In preview 1 each piece of a list reads the whole folder. Each function has one
/// turn beside these, so that one that lists without end leaves three to others.
const LISTING_AT_ONCE: usize = 4;

/// Where a sandbox finds its own folder.
const TMP: &str = "/tmp";

/// What all sandboxes share.
pub(crate) struct Roots {
    /// An empty folder that stands for those that were not opened yet.
    nowhere: PathBuf,
    placeholder: OnceLock<Dir>,
    /// For functions without volumes.
    plain: OnceLock<Preopened>,
    listing: Arc<Semaphore>,
}

/// The folders of a sandbox as preview 1 is told of them, each with a placeholder.
#[derive(Clone)]
struct Preopened {
    ctx: WasiFilesystemCtx,
    places: Vec<Arc<File>>,
}

impl Roots {
    /// Makes the folder `nowhere` where it is not there.
    pub(crate) fn new(nowhere: PathBuf) -> io::Result<Self> {
        match fs::create_dir(&nowhere) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        Ok(Self {
            nowhere,
            placeholder: OnceLock::new(),
            plain: OnceLock::new(),
            listing: Arc::new(Semaphore::new(LISTING_AT_ONCE)),
        })
    }

    fn placeholder(&self) -> io::Result<Dir> {
        if let Some(dir) = self.placeholder.get() {
            return Ok(dir.clone());
        }
        let dir = Dir::new(File::open(&self.nowhere)?, FsPerms::ReadOnly, OpenMode::READ, false);
        Ok(self.placeholder.get_or_init(|| dir).clone())
    }

    fn preopened(&self, mounts: &[Mount]) -> wasmtime::Result<Preopened> {
        let is_plain = mounts.len() == 1;
        match self.plain.get().filter(|_| is_plain) {
            Some(plain) => Ok(plain.clone()),
            None => {
                let made = self.make_preopened(mounts)?;
                Ok(if is_plain { self.plain.get_or_init(|| made).clone() } else { made })
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
}

/// Whose turn it is to list a folder in preview 1.
struct Turns {
    of_function: Arc<Semaphore>,
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
    fn new(function: &Arc<Function>) -> Self {
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
        let turns = Turns {
            of_function: Arc::clone(function.listing()),
            of_node: Arc::clone(&function.runtime().file_roots.listing),
        };
        Self::of_mounts(mounts, volumes.clone(), Arc::clone(&function.runtime().memory), turns)
    }

    fn of_mounts(mounts: Vec<Mount>, volumes: Volumes, memory: Arc<MemoryBudget>, turns: Turns) -> Self {
        Self { mounts, open: HashMap::new(), listings: HashMap::new(), streams: Arc::default(), volumes, memory, turns }
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
        self.open.insert(number, Open { mount, is_untouched: false, folder: None, appends: false, held });
    }

    fn root(mount: usize) -> Open {
        Open { mount, is_untouched: true, folder: None, appends: false, held: None }
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
