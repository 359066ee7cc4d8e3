//! What the files of a volume take, whatever a guest does with them.

use std::{
    fs::{self, File},
    io::Write as _,
    os::{fd::AsFd as _, unix::fs::symlink},
    path::Path,
    sync::Arc,
    time::Duration,
};

use minnow_model::StoreId;
use rustix::fs::{Mode, OFlags, mkdirat, openat};
use tempfile::TempDir;

use super::*;

fn volumes() -> (TempDir, Volumes) {
    let temp = tempfile::tempdir().unwrap();
    fs::create_dir(temp.path().join("tmp")).unwrap();
    let volumes = Volumes::open(&temp.path().join("files"), &temp.path().join("tmp")).unwrap();
    (temp, volumes)
}

fn store(name: &str) -> StoreId {
    StoreId { tenant: Tenant::default(), app: "shop".parse().unwrap(), name: name.parse().unwrap() }
}

const MOST: Bounds = Bounds { bytes: 1 << 20, entries: 100 };

fn bytes(bytes: u64) -> Usage {
    Usage { bytes, entries: 0 }
}

/// Folders in one another, deeper than a path can say.
fn deep(root: &Path, levels: usize) {
    let mut folder = openat(rustix::fs::CWD, root, OFlags::DIRECTORY, Mode::empty()).unwrap();
    for _ in 0..levels {
        mkdirat(folder.as_fd(), "a-folder", Mode::RWXU).unwrap();
        folder = openat(folder.as_fd(), "a-folder", OFlags::DIRECTORY, Mode::empty()).unwrap();
    }
}

async fn is_full(volume: &Arc<Volume>, more: Usage) -> bool {
    match volume.claim(MOST, more).await {
        Ok(claim) => {
            claim.undo();
            false
        }
        Err(error) => {
            assert_eq!(error.kind(), io::ErrorKind::StorageFull);
            true
        }
    }
}

#[test]
fn sizes_are_counted_in_blocks_and_names_as_one() {
    for (from, to, expected) in [
        (0, 0, 0),
        (0, 1, 4096),
        (1, 4096, 0),
        (4096, 4097, 4096),
        (0, 1 << 40, 1 << 40),
        (9000, 3, 0),
        (0, u64::MAX, u64::MAX / 4096 * 4096),
    ] {
        let growth = Usage::growth(from, to);
        assert!(growth.bytes.abs_diff(expected) <= 4096 && growth.entries == 0, "{from} to {to}: {growth:?}");
    }
    let temp = tempfile::tempdir().unwrap();
    let root = temp.path();
    assert_eq!(tree::count(&root.join("not-there")).unwrap(), Usage::default());
    fs::create_dir_all(root.join("a/b")).unwrap();
    fs::write(root.join("a/b/one"), vec![1; 5000]).unwrap();
    // The same file, a file elsewhere, and one that is nearly all hole.
    fs::hard_link(root.join("a/b/one"), root.join("two")).unwrap();
    symlink("/etc/passwd", root.join("link")).unwrap();
    File::create(root.join("sparse")).unwrap().set_len(1 << 30).unwrap();
    let expected = Usage { bytes: 6 * 4096 + 8192 + (1 << 30), entries: 6 };
    assert_eq!(tree::count(root).unwrap(), expected);
}

#[test]
fn a_folder_that_is_deeper_than_any_path_is_counted_and_removed() {
    let temp = tempfile::tempdir().unwrap();
    let root = temp.path().join("root");
    fs::create_dir(&root).unwrap();
    // 5,400 bytes.
    deep(&root, 600);
    fs::write(root.join("0.hoisted"), "a name that the removal would like").unwrap();
    fs::create_dir_all(root.join("wide/1/2")).unwrap();
    assert_eq!(tree::count(&root).unwrap().entries, 604);
    tree::remove(&root).unwrap();
    assert!(!root.exists());
    tree::remove(&root).unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_full_volume_takes_no_more_and_what_is_deleted_is_free_again() {
    let (_temp, volumes) = volumes();
    let volume = volumes.volume(&store("data"));
    volume.open_root().unwrap();
    let file = volumes.path(&store("data")).join("file");
    drop(volume.claim(MOST, Usage::ENTRY).await.unwrap());
    drop(volume.claim(MOST, Usage::growth(0, MOST.bytes - 4096)).await.unwrap());
    fs::write(&file, vec![1; (MOST.bytes - 4096) as usize]).unwrap();
    assert!(is_full(&volume, bytes(1)).await);
    assert!(!is_full(&volume, bytes(0)).await, "what claims nothing goes on");
    fs::remove_file(&file).unwrap();
    assert!(is_full(&volume, bytes(1)).await, "nobody has said that there may be room");
    volume.freed();
    drop(volume.claim(MOST, bytes(MOST.bytes)).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn the_first_claim_counts_what_an_earlier_start_has_left() {
    let (_temp, volumes) = volumes();
    let path = volumes.path(&store("data"));
    fs::create_dir_all(&path).unwrap();
    fs::write(path.join("old"), vec![1; 1 << 20]).unwrap();
    assert!(is_full(&volumes.volume(&store("data")), bytes(1)).await);
    assert!(!is_full(&volumes.volume(&store("other")), bytes(1)).await, "another one is none of its business");
}

#[tokio::test(start_paused = true)]
async fn a_file_that_is_deleted_counts_until_it_is_closed() {
    let (_temp, volumes) = volumes();
    let volume = volumes.volume(&store("data"));
    volume.open_root().unwrap();
    let path = volumes.path(&store("data")).join("file");
    let mut file = File::create(&path).unwrap();
    file.write_all(&vec![1; (1 << 20) - 4096]).unwrap();
    let file = Arc::new(file);
    volume.opened(&file);
    volume.opened(&Arc::new(File::open(&path).unwrap()));
    fs::remove_file(&path).unwrap();
    volume.freed();
    assert!(is_full(&volume, bytes(1)).await);
    drop(file);
    volume.freed();
    assert!(!is_full(&volume, bytes(1)).await);
}

#[tokio::test(start_paused = true)]
async fn many_small_files_fill_a_volume_too() {
    let (_temp, volumes) = volumes();
    let volume = volumes.volume(&store("data"));
    let root = volumes.path(&store("data"));
    volume.open_root().unwrap();
    for number in 0..MOST.entries {
        drop(volume.claim(MOST, Usage::ENTRY).await.unwrap());
        fs::write(root.join(format!("{number}")), "").unwrap();
    }
    assert!(is_full(&volume, Usage::ENTRY).await);
    assert!(!is_full(&volume, bytes(4096)).await, "there is room for bytes, not for names");
    let claim = volume.claim(Bounds { entries: 101, ..MOST }, Usage::ENTRY).await.unwrap();
    claim.undo();
}

#[tokio::test(start_paused = true)]
async fn a_count_keeps_what_is_claimed_and_not_written_yet() {
    let (_temp, volumes) = volumes();
    let volume = volumes.volume(&store("data"));
    volume.open_root().unwrap();
    let half = bytes(MOST.bytes / 2);
    let (first, second) = (volume.claim(MOST, half).await.unwrap(), volume.claim(MOST, half).await.unwrap());
    volume.freed();
    assert!(is_full(&volume, bytes(1)).await, "nothing is on the disk, and all is promised");
    first.undo();
    assert!(is_full(&volume, bytes(half.bytes + 1)).await);
    drop(second);
    volume.freed();
    let claim = volume.claim(MOST, bytes(MOST.bytes)).await;
    drop(claim.expect("the second one was never written"));
}

#[tokio::test(start_paused = true)]
async fn files_are_counted_once_a_second_at_most() {
    let (_temp, volumes) = volumes();
    let volume = volumes.volume(&store("data"));
    drop(volume.claim(MOST, bytes(MOST.bytes)).await.unwrap());
    let began = tokio::time::Instant::now();
    for _ in 0..5 {
        volume.freed();
        drop(volume.claim(MOST, bytes(MOST.bytes)).await.unwrap());
    }
    assert!(began.elapsed() >= Duration::from_secs(5), "{:?}", began.elapsed());
}

#[tokio::test]
async fn those_who_claim_at_once_get_together_what_there_is() {
    let (_temp, volumes) = volumes();
    let volume = volumes.volume(&store("data"));
    let tasks: Vec<_> = (0..64)
        .map(|_| {
            let volume = Arc::clone(&volume);
            tokio::spawn(async move { volume.claim(MOST, bytes(MOST.bytes / 16)).await.is_ok() })
        })
        .collect();
    let mut granted = 0;
    for task in tasks {
        granted += usize::from(task.await.unwrap());
    }
    assert_eq!(granted, 16);
}

#[tokio::test]
async fn a_temporary_folder_is_empty_and_goes_with_its_last_user() {
    let (temp, volumes) = volumes();
    let tmp = temp.path().join("tmp");
    let entries = || fs::read_dir(&tmp).unwrap().count();
    let (used, unused) = (volumes.temporary(), volumes.temporary());
    used.open_root().unwrap();
    assert_eq!(entries(), 1);
    let folder = fs::read_dir(&tmp).unwrap().next().unwrap().unwrap().path();
    fs::create_dir_all(folder.join("a/b")).unwrap();
    deep(&folder, 100);
    drop(unused);
    drop(used);
    tokio::time::timeout(Duration::from_secs(10), async {
        while entries() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn the_volumes_of_an_app_move_together() {
    let (temp, volumes) = volumes();
    let (tenant, app) = (Tenant::default(), "shop".parse().unwrap());
    assert!(!volumes.move_app(&tenant, &app, &temp.path().join("none")).await.unwrap());
    for name in ["one", "two"] {
        volumes.volume(&store(name)).open_root().unwrap();
        fs::write(volumes.path(&store(name)).join("file"), "x").unwrap();
    }
    assert_eq!(volumes.apps().unwrap(), [(tenant.clone(), app.clone())]);
    assert_eq!(listed(&volumes).await, [("one".parse().unwrap(), 8192), ("two".parse().unwrap(), 8192)]);
    let to = temp.path().join("kept");
    assert!(volumes.move_app(&tenant, &app, &to).await.unwrap());
    assert!(to.join("two/file").exists() && volumes.names(&tenant, &app).unwrap().is_empty());
    volumes.adopt_app(&tenant, &app, &to).await.unwrap();
    assert_eq!(volumes.names(&tenant, &app).unwrap().len(), 2);
}

/// The volumes of the app with their bytes, as the node lists them.
async fn listed(volumes: &Volumes) -> Vec<(StoreName, u64)> {
    let volumes = volumes.clone();
    let list = move || volumes.list_stores(&Tenant::default(), &"shop".parse().unwrap());
    let mut listed = tokio::task::spawn_blocking(list).await.unwrap().unwrap();
    listed.sort();
    listed
}

#[tokio::test]
async fn a_volume_is_not_counted_for_its_usage_while_something_moves_in_it_and_named_at_once() {
    let (_temp, volumes) = volumes();
    let volume = volumes.volume(&store("one"));
    volume.open_root().unwrap();
    let moving = Arc::clone(&volume.still).read_owned().await;
    let mut counting = tokio::spawn({
        let volumes = volumes.clone();
        async move { listed(&volumes).await }
    });
    let early = tokio::time::timeout(Duration::from_millis(100), &mut counting).await;
    assert!(early.is_err(), "counted while something moves");
    // What a backup and a deletion ask.
    assert_eq!(volumes.names(&Tenant::default(), &"shop".parse().unwrap()).unwrap(), ["one".parse().unwrap()]);
    drop(moving);
    assert_eq!(counting.await.unwrap(), [("one".parse().unwrap(), 0)]);
}

/// A file that fills the volume, and a count that has just been.
async fn full_volume(volumes: &Volumes) -> (Arc<Volume>, File) {
    let volume = volumes.volume(&store("data"));
    volume.open_root().unwrap();
    let file = File::create(volumes.path(&store("data")).join("file")).unwrap();
    file.set_len(MOST.bytes - 4096).unwrap();
    assert!(is_full(&volume, bytes(1)).await);
    (volume, file)
}

#[tokio::test(start_paused = true)]
async fn a_file_that_becomes_shorter_while_a_claim_waits_leaves_no_hole_that_nobody_claimed() {
    let (_temp, volumes) = volumes();
    let (volume, file) = full_volume(&volumes).await;
    let end = MOST.bytes - 4096;
    let file = Arc::new(file);
    // Something was deleted, so that the claim waits for a count.
    volume.freed();
    let waiting = tokio::spawn({
        let (volume, file) = (Arc::clone(&volume), Arc::clone(&file));
        async move { volume.claim_growth(&file, MOST, Change::Write { offset: end, bytes: 4096 }).await.map(drop) }
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!waiting.is_finished());
    let shortening = volume.shortening().await;
    file.set_len(0).unwrap();
    drop(shortening);
    volume.freed();
    let refused = waiting.await.unwrap().expect_err("the hole before it takes the whole volume");
    assert_eq!(refused.kind(), io::ErrorKind::StorageFull);
    // Nothing of it stays claimed.
    volume.freed();
    drop(volume.claim_growth(&file, MOST, Change::Size(end)).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn no_file_becomes_shorter_between_a_claim_and_its_write() {
    let (_temp, volumes) = volumes();
    let (volume, file) = full_volume(&volumes).await;
    let writing = volume.claim_growth(&file, MOST, Change::Write { offset: 0, bytes: 10 }).await.unwrap();
    let other = volume.claim_growth(&file, MOST, Change::Write { offset: 0, bytes: 10 }).await.unwrap();
    let mut shorter = std::pin::pin!(volume.claim_growth(&file, MOST, Change::Size(0)));
    let soon = Duration::from_secs(5);
    assert!(tokio::time::timeout(soon, &mut shorter).await.is_err());
    assert!(tokio::time::timeout(soon, volume.shortening()).await.is_err());
    drop((writing, other));
    assert!(shorter.await.unwrap().is_none());
}

#[tokio::test]
async fn appends_at_once_claim_all_blocks_that_they_fill() {
    let (_temp, volumes) = volumes();
    let volume = volumes.volume(&store("data"));
    volume.open_root().unwrap();
    let path = volumes.path(&store("data")).join("file");
    drop(volume.claim(MOST, Usage::ENTRY).await.unwrap());
    let file = Arc::new(File::options().append(true).create(true).open(&path).unwrap());
    let tasks: Vec<_> = (0..64)
        .map(|_| {
            let (volume, file) = (Arc::clone(&volume), Arc::clone(&file));
            tokio::spawn(async move {
                let growth = volume.claim_growth(&file, MOST, Change::Append { bytes: 1000 }).await.unwrap();
                tokio::task::yield_now().await;
                growth.finish(&file, (&*file).write_all(&[1; 1000])).unwrap();
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    // 64,000 bytes are 16 blocks.
    let left = MOST.bytes - 17 * 4096;
    assert!(!is_full(&volume, bytes(left)).await);
    assert!(is_full(&volume, bytes(left + 1)).await);
}

#[tokio::test]
async fn a_change_that_fails_takes_what_the_file_has_grown_and_no_more() {
    let (_temp, volumes) = volumes();
    let volume = volumes.volume(&store("data"));
    volume.open_root().unwrap();
    drop(volume.claim(MOST, Usage::ENTRY).await.unwrap());
    let file = File::create(volumes.path(&store("data")).join("file")).unwrap();
    for (grown, left) in [(0, MOST.bytes - 4096), (5000, MOST.bytes - 3 * 4096)] {
        let offset = MOST.bytes - 2 * 4096;
        let growth = volume.claim_growth(&file, MOST, Change::Write { offset, bytes: 4096 }).await.unwrap();
        file.set_len(grown).unwrap();
        growth.finish(&file, Err::<(), _>(())).unwrap_err();
        assert!(!is_full(&volume, bytes(left)).await);
        assert!(is_full(&volume, bytes(left + 1)).await);
    }
}

#[tokio::test(start_paused = true)]
async fn the_space_of_a_deleted_file_is_free_when_its_close_has_begun() {
    let (_temp, volumes) = volumes();
    let (volume, file) = full_volume(&volumes).await;
    let file = Arc::new(file);
    volume.opened(&file);
    fs::remove_file(volumes.path(&store("data")).join("file")).unwrap();
    volume.freed();
    assert!(is_full(&volume, bytes(MOST.bytes)).await);
    volume.closing(&file);
    assert!(!is_full(&volume, bytes(MOST.bytes)).await, "also while somebody else still closes it");
}
