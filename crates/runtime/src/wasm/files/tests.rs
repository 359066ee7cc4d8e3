//! What a sandbox's files take of the volume and of the node.

use std::time::Duration;

use minnow_model::{StoreId, Tenant};
use tempfile::TempDir;
use wasmtime::component::{Resource, ResourceTable};
use wasmtime_wasi::{
    filesystem::File as WasiFile,
    p1::{
        types::{Ciovec, Errno, Fd, Fdflags, Lookupflags, Oflags, Rights},
        wasi_snapshot_preview1::WasiSnapshotPreview1 as _,
    },
    p2::bindings::filesystem::types::HostDescriptor,
};
use wiggle::{GuestMemory, GuestPtr};

use super::*;
use crate::wasm::state::Owner;

const SIZE: Bounds = Bounds { bytes: 1 << 20, entries: 100 };

struct Setting {
    temp: TempDir,
    volume: Arc<Volume>,
    files: Files,
}

/// A sandbox with one volume, in which there are the file `a` and the folder `b`.
fn setting(read_only: bool, memory_bytes: u64) -> Setting {
    let temp = tempfile::tempdir().unwrap();
    fs::create_dir(temp.path().join("tmp")).unwrap();
    let volumes = Volumes::open(&temp.path().join("files"), &temp.path().join("tmp")).unwrap();
    let store = StoreId { tenant: Tenant::default(), app: "shop".parse().unwrap(), name: "data".parse().unwrap() };
    let volume = volumes.volume(&store);
    volume.open_root().unwrap();
    fs::write(volumes.path(&store).join("a"), "one").unwrap();
    fs::create_dir(volumes.path(&store).join("b")).unwrap();
    let mount = Mount { path: "/data".into(), volume: Arc::clone(&volume), most: SIZE, read_only, dir: None };
    let turns = Turns { of_app: Arc::new(Semaphore::new(1)), of_node: Arc::new(Semaphore::new(LISTING_AT_ONCE)) };
    let files = Files::of_mounts(vec![mount], volumes, Arc::new(MemoryBudget::new(memory_bytes)), turns);
    Setting { temp, volume, files }
}

/// The memory of a core module: two names, and a piece of one byte that is to be written.
fn memory() -> Vec<u8> {
    let mut memory = vec![0; 4096];
    memory[0] = b'a';
    memory[1] = b'b';
    memory[16..20].copy_from_slice(&64_u32.to_le_bytes());
    memory[20..24].copy_from_slice(&1_u32.to_le_bytes());
    memory
}

fn core(temp: &TempDir, files: Files) -> P1 {
    let roots = Roots::new(temp.path().join("nowhere"), temp.path().join("services")).unwrap();
    let mut core = P1::with(WasiCtx::builder().build_p1(), files, &roots).unwrap();
    // What one call may copy.
    core.set_hostcall_fuel(1 << 20);
    core
}

async fn open(core: &mut P1, mem: &mut GuestMemory<'_>, name: u32, oflags: Oflags) -> Fd {
    let (lookup, rights) = (Lookupflags::empty(), Rights::FD_READ);
    let name = GuestPtr::<str>::new((name, 1));
    core.path_open(mem, Fd::from(3), lookup, name, oflags, rights, rights, Fdflags::empty()).await.unwrap()
}

#[tokio::test]
async fn a_volume_that_is_granted_for_reading_has_nothing_claimed_by_a_core_module() {
    let Setting { temp, volume, files } = setting(true, 1 << 20);
    let mut core = core(&temp, files);
    let mut memory = memory();
    let mem = &mut GuestMemory::Unshared(&mut memory);
    let fd = open(&mut core, mem, 0, Oflags::empty()).await;
    let (nearly_all, pieces) = (SIZE.bytes - (64 << 10), GuestPtr::<[Ciovec]>::new((16, 1)));
    let refused = core.fd_pwrite(mem, fd, pieces, nearly_all).await.unwrap_err();
    assert_eq!(refused.downcast().unwrap(), Errno::Perm);
    let refused = core.fd_filestat_set_size(mem, fd, nearly_all).await.unwrap_err();
    assert_eq!(refused.downcast().unwrap(), Errno::Perm);
    let owner = minnow_store::volume::Usage { bytes: nearly_all, entries: 0 };
    drop(volume.claim(SIZE, owner).await.expect("all is left to the owner"));
}

#[tokio::test]
async fn a_write_that_fails_gives_back_what_it_claimed() {
    let Setting { temp, volume, files } = setting(false, 1 << 20);
    let mut core = core(&temp, files);
    let mut memory = memory();
    let mem = &mut GuestMemory::Unshared(&mut memory);
    // Open for reading alone.
    let fd = open(&mut core, mem, 0, Oflags::empty()).await;
    let (nearly_all, pieces) = (SIZE.bytes - (64 << 10), GuestPtr::<[Ciovec]>::new((16, 1)));
    core.fd_pwrite(mem, fd, pieces, nearly_all).await.unwrap_err();
    let others = minnow_store::volume::Usage { bytes: nearly_all, entries: 0 };
    drop(volume.claim(SIZE, others).await.expect("nothing was written"));
}

#[tokio::test]
async fn core_modules_of_one_app_list_one_folder_at_once() {
    let Setting { temp, files, .. } = setting(false, 1 << 20);
    let (of_app, of_node) = (Arc::clone(&files.turns.of_app), Arc::clone(&files.turns.of_node));
    let mut core = core(&temp, files);
    let mut memory = memory();
    let mem = &mut GuestMemory::Unshared(&mut memory);
    let folder = open(&mut core, mem, 1, Oflags::DIRECTORY).await;
    let into = GuestPtr::<u8>::new(1024);
    let another = of_app.acquire().await.unwrap();
    let waits = tokio::time::timeout(Duration::from_millis(100), core.fd_readdir(mem, folder, into, 1024, 0)).await;
    assert!(waits.is_err() && of_node.available_permits() == LISTING_AT_ONCE);
    drop(another);
    for fd in [folder, Fd::from(3)] {
        assert!(core.fd_readdir(mem, fd, into, 1024, 0).await.unwrap() > 0);
    }
}

#[test]
fn all_functions_of_an_app_have_one_turn_to_list_while_there_are_any() {
    let temp = tempfile::tempdir().unwrap();
    let roots = Roots::new(temp.path().join("nowhere"), temp.path().join("services")).unwrap();
    let (tenant, apps) = (Tenant::default(), ["shop", "blog"].map(|app| app.parse().unwrap()));
    let [of_one, of_other, of_another_app] = [0, 0, 1].map(|app| roots.turn_of(&tenant, &apps[app]));
    let turn = of_one.try_acquire().unwrap();
    assert!(of_other.try_acquire().is_err() && of_another_app.try_acquire().is_ok());
    drop(turn);
    assert!(of_other.try_acquire().is_ok());
    for number in 0..100 {
        drop(roots.turn_of(&tenant, &format!("gone-{number}").parse().unwrap()));
    }
    let kept = roots.turns.lock().unwrap().len();
    assert!(kept < 10, "those of apps without functions are forgotten: {kept}");
    assert!(Arc::ptr_eq(&of_one, &roots.turn_of(&tenant, &apps[0])));
}

#[tokio::test]
async fn what_a_core_module_lists_counts_as_memory() {
    let Setting { temp, files, .. } = setting(false, LISTED_BYTES);
    let budget = Arc::clone(&files.memory);
    let mut core = core(&temp, files);
    let mut memory = memory();
    let mem = &mut GuestMemory::Unshared(&mut memory);
    let refused = core.fd_readdir(mem, Fd::from(3), GuestPtr::<u8>::new(1024), 1024, 0).await.unwrap_err();
    assert_eq!(refused.downcast().unwrap(), Errno::Nomem);
    assert!(budget.take(LISTED_BYTES), "nothing of it stays taken");
}

#[tokio::test]
async fn a_file_keeps_its_place_until_its_last_stream_is_closed() {
    let Setting { temp, files, .. } = setting(false, 1 << 20);
    let (mut table, owner, mut files) = (ResourceTable::new(), Owner::None, Some(Box::new(files)));
    let mut view = FilesView { owner: &owner, table: &mut table, files: &mut files };
    let path = temp.path().join("files/default/shop/data/a");
    let opened = File::options().read(true).write(true).open(path).unwrap();
    let mode = OpenMode::READ | OpenMode::WRITE;
    let fd = view.table.push(Descriptor::File(WasiFile::new(opened, FsPerms::ReadWrite, mode, false))).unwrap();
    let number = fd.rep();
    let Descriptor::File(file) = view.table.get(&fd).unwrap() else { panic!("a file") };
    let file = Arc::clone(&file.file);
    let files_of = view.files.as_mut().unwrap();
    let place = files_of.place().ok().unwrap();
    files_of.opened(number, 0, Some(file), place);
    let held = Arc::downgrade(&files_of.held(number).unwrap());
    let reader = view.read_via_stream(Resource::new_borrow(number), 0).unwrap();
    let writer = view.write_via_stream(Resource::new_borrow(number), 0).unwrap();
    HostDescriptor::drop(&mut view, fd).unwrap();
    assert_eq!(held.strong_count(), 2, "one for each stream");
    view.table.delete(reader).unwrap();
    assert_eq!(held.strong_count(), 1);
    view.table.delete(writer).unwrap();
    assert_eq!(held.strong_count(), 0);
}
