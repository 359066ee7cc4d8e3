//! The backend of an index and files.

use std::{
    os::unix::fs::{FileExt as _, PermissionsExt as _},
    time::{Duration, Instant},
};

use futures::{FutureExt as _, future::join_all};

use super::{
    super::{rows::INLINE_BYTES, *},
    contract::contract_tests,
    *,
};

contract_tests!(embedded_buckets());

fn index(temp: &TempDir, store: &StoreId) -> PathBuf {
    objects(temp, store).with_extension("db")
}

/// The one content file of a bucket.
fn only_file(temp: &TempDir, store: &StoreId) -> PathBuf {
    let dir = objects(temp, store);
    let found = files(&dir);
    assert_eq!(found.len(), 1, "{found:?}");
    dir.join(&found[0])
}

#[tokio::test]
async fn everything_is_there_after_opening_again_and_private() {
    let (buckets, clock, temp) = embedded_buckets();
    let store = id("shop", "uploads");
    put(&buckets, &store, "small", "x").await;
    put(&buckets, &store, "large", content(1, 2 << 20)).await;
    let before = buckets.list(&store, "", None, None, 10).await.unwrap();
    drop(buckets);
    assert!(!index(&temp, &store).with_extension("db-wal").exists());
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let file = only_file(&temp, &store);
    assert_eq!((mode(&index(&temp, &store)), mode(&file)), (0o600, 0o600));
    assert_eq!((mode(file.parent().unwrap()), mode(&objects(&temp, &store))), (0o700, 0o700));
    Buckets::check_file(&index(&temp, &store)).unwrap();
    let buckets = Buckets::open(&temp.path().join("blob"), clock.shared()).unwrap();
    assert_eq!(buckets.list(&store, "", None, None, 10).await.unwrap(), before);
    assert!(get(&buckets, &store, "large").await.unwrap() == content(1, 2 << 20));
}

#[tokio::test]
async fn what_was_never_written_has_no_files() {
    let (buckets, _clock, temp) = embedded_buckets();
    let store = id("shop", "uploads");
    assert_eq!(buckets.head(&store, "a").await.unwrap(), None);
    assert_eq!(buckets.delete(&store, vec!["a".into()]).await.unwrap(), 0);
    assert_eq!(buckets.list(&store, "", None, None, 5).await.unwrap(), Listed::default());
    assert_eq!(buckets.list_stores(&store.tenant, &store.app).unwrap(), []);
    assert!(buckets.hold(&store).await.unwrap().is_none() && buckets.keep_files(&store).await.unwrap().is_none());
    assert_eq!((buckets.open_stores(), files(temp.path()).len()), (0, 0));
    // Small content needs no folder.
    put(&buckets, &store, "a", content(1, INLINE_BYTES)).await;
    assert!(!objects(&temp, &store).exists());
    put(&buckets, &store, "a", content(1, INLINE_BYTES + 1)).await;
    assert_eq!(fs::metadata(only_file(&temp, &store)).unwrap().len(), INLINE_BYTES as u64 + 1);
}

#[tokio::test]
async fn no_file_outlives_its_blob() {
    let (buckets, _clock, temp) = embedded_buckets();
    let store = id("shop", "uploads");
    for _ in 0..3 {
        put(&buckets, &store, "a", content(1, 100_000)).await;
        only_file(&temp, &store);
    }
    put(&buckets, &store, "a", "small").await;
    assert_eq!(files(&objects(&temp, &store)), Vec::<PathBuf>::new());
    put(&buckets, &store, "a", content(1, 100_000)).await;
    buckets.delete(&store, vec!["a".into()]).await.unwrap();
    assert_eq!(files(&objects(&temp, &store)), Vec::<PathBuf>::new());
    // Given up, refused, and not allowed in the end.
    let mut upload = begin(&buckets, room(&store), "a").await;
    upload.write(content(1, 3 << 20)).await.unwrap();
    drop(upload);
    let mut upload = begin(&buckets, Bucket { store: &store, size_bytes: 4 << 20 }, "a").await;
    upload.write(content(1, 3 << 20)).await.unwrap();
    assert!(is_full(&upload.write(content(1, 3 << 20)).await.unwrap_err()));
    drop(upload);
    let only_if = Conditions { if_match: Some(vec!["*".into()]), ..Conditions::default() };
    let mut upload = buckets.put(room(&store), "a".into(), Meta::default(), only_if).await.unwrap();
    upload.write(content(1, 3 << 20)).await.unwrap();
    assert_eq!(upload.finish().await.unwrap(), None);
    wait_until("files are left", || files(&objects(&temp, &store)).is_empty()).await;
}

#[tokio::test]
async fn a_write_goes_on_when_its_caller_stops_waiting() {
    let (buckets, _clock, temp) = embedded_buckets();
    let store = id("shop", "uploads");
    put(&buckets, &store, "a", content(1, 100_000)).await;
    let open = buckets.stores.or_create(&store).await.unwrap();
    let hold = buckets.hold(&store).await.unwrap();
    let mut upload = begin(&buckets, room(&store), "a").await;
    upload.write(content(2, 200_000)).await.unwrap();
    let (_, target, place, stored) = upload.store().await.unwrap();
    // The index cannot be written, so this waits; and is dropped.
    assert!(buckets.clone().keep(target, place, stored, None).now_or_never().is_none());
    drop(hold);
    wait_until("the old file is left", || files(&objects(&temp, &store)).len() == 1).await;
    assert!(get(&buckets, &store, "a").await.unwrap() == content(2, 200_000));
    drop(open);
}

#[tokio::test]
async fn an_upload_outlives_that_its_bucket_is_closed_and_opened_again() {
    let bounds = OpenBounds { max_open: 4, idle: Duration::from_millis(20) };
    let (buckets, _clock, _temp) = bounded_buckets(bounds);
    let store = id("shop", "uploads");
    put(&buckets, &store, "there", "x").await;
    let mut upload = begin(&buckets, room(&store), "a").await;
    upload.write(content(1, 3 << 20)).await.unwrap();
    wait_until("the bucket stays open", || buckets.open_stores() == 0).await;
    // Opening it removes what a crash has left, and this is nothing of the kind.
    assert_eq!(get(&buckets, &store, "a").await, None);
    assert_eq!(buckets.open_stores(), 1);
    upload.finish().await.unwrap().unwrap();
    assert!(get(&buckets, &store, "a").await.unwrap() == content(1, 3 << 20));
}

#[tokio::test]
async fn a_content_file_that_is_lost_or_cut_fails_that_blob_and_names_it() {
    let (buckets, clock, temp) = embedded_buckets();
    let store = id("shop", "uploads");
    put(&buckets, &store, "a", content(1, 100_000)).await;
    put(&buckets, &store, "good", "text").await;
    let file = only_file(&temp, &store);
    let told = async || {
        let Err(error) = buckets.get(&store, "a", &Conditions::default(), None).await else { panic!("read") };
        assert!(matches!(error, BucketError::Corrupt { .. }) && !error.is_refusal(), "{error}");
        error.to_string()
    };
    let whole = fs::read(&file).unwrap();
    for (bytes, expected) in [(99_999, "has 99999"), (0, "has 0"), (100_001, "has 100001")] {
        fs::File::options().write(true).open(&file).unwrap().set_len(bytes).unwrap();
        let told = told().await;
        assert!(told.contains("`a` should have 100000 bytes and") && told.contains(expected), "{told}");
        assert!(told.contains(".objects/") && told.contains("backup"), "{told}");
    }
    fs::remove_file(&file).unwrap();
    assert!(told().await.contains("the file of `a` is missing"));
    assert_eq!(get(&buckets, &store, "good").await.unwrap(), b"text");
    assert_eq!(buckets.head(&store, "a").await.unwrap().unwrap().size, 100_000);
    // It is found where a crash may have left it, too.
    fs::write(objects(&temp, &store).join("new").join(file.file_name().unwrap()), &whole).unwrap();
    assert!(get(&buckets, &store, "a").await.unwrap() == whole);
    drop(buckets);
    // A changed one is read as it is, and found by a check.
    let buckets = Buckets::open(&temp.path().join("blob"), clock.shared()).unwrap();
    assert!(get(&buckets, &store, "a").await.unwrap() == whole && file.exists());
    drop(buckets);
    Buckets::check_file(&index(&temp, &store)).unwrap();
    fs::File::options().write(true).open(&file).unwrap().write_all_at(&[!whole[500]], 500).unwrap();
    let error = Buckets::check_file(&index(&temp, &store)).unwrap_err().to_string();
    assert!(error.contains("`a` is not what was stored"), "{error}");
    // It can be replaced and deleted.
    let buckets = Buckets::open(&temp.path().join("blob"), clock.shared()).unwrap();
    fs::remove_file(&file).unwrap();
    put(&buckets, &store, "a", content(2, 50_000)).await;
    assert!(get(&buckets, &store, "a").await.unwrap() == content(2, 50_000));
}

#[tokio::test]
async fn a_file_that_is_cut_while_it_is_read_gives_no_short_answer() {
    let (buckets, _clock, temp) = embedded_buckets();
    let store = id("shop", "uploads");
    put(&buckets, &store, "a", content(1, 2 << 20)).await;
    let got = buckets.get(&store, "a", &Conditions::default(), None).await.unwrap();
    let Got::Found { content: mut reader, .. } = got else { panic!() };
    fs::File::options().write(true).open(only_file(&temp, &store)).unwrap().set_len(1 << 20).unwrap();
    let mut bytes = 0;
    let error = loop {
        match reader.next().await {
            Ok(Some(piece)) if !piece.is_empty() => bytes += piece.len(),
            Ok(_) => panic!("ended after {bytes}"),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, BucketError::Corrupt { .. }) && bytes <= 1 << 20, "{error}");
    assert!(matches!(reader.next().await, Err(BucketError::Failed)));
}

#[tokio::test]
async fn a_damaged_index_is_named_and_no_other_suffers() {
    let (buckets, clock, temp) = embedded_buckets();
    let stores = ["overwritten", "torn", "foreign", "good"].map(|name| id("shop", name));
    for store in &stores {
        join_all((0..200).map(|number| put(&buckets, store, number.to_string().leak(), content(number, 3000)))).await;
        put(&buckets, store, "large", content(1, 50_000)).await;
    }
    drop(buckets);
    let open = |store| fs::File::options().write(true).open(index(&temp, store)).unwrap();
    open(&stores[0]).write_all_at(&[b'x'; 4096], 0).unwrap();
    let torn = open(&stores[1]);
    let len = torn.metadata().unwrap().len();
    torn.write_all_at(&vec![0x5a; (len - 8192) as usize], 8192).unwrap();
    // What is no file of ours is not opened, whatever the index says.
    let secret = temp.path().join("secret");
    fs::write(&secret, vec![b's'; 50_000]).unwrap();
    let connection = rusqlite::Connection::open(index(&temp, &stores[2])).unwrap();
    let file = "../../../../../secret";
    assert_eq!(connection.execute("UPDATE blob SET file = ?1 WHERE file IS NOT NULL", [file]).unwrap(), 1);
    drop(connection);

    let buckets = Buckets::open(&temp.path().join("blob"), clock.shared()).unwrap();
    for store in &stores[..3] {
        let mut errors = Vec::new();
        for key in ["0", "150", "large"] {
            if let Err(error) = buckets.get(store, key, &Conditions::default(), None).await {
                errors.push(error);
            }
        }
        let error = errors.first().unwrap_or_else(|| panic!("{} is read", store.name));
        assert!(matches!(error, BucketError::Corrupt { .. }) && !error.is_refusal(), "{error:?}");
        assert!(error.to_string().contains(&format!("{}.db", store.name)), "{error}");
        assert!(Buckets::check_file(&index(&temp, store)).is_err());
    }
    assert_eq!(get(&buckets, &stores[3], "large").await.unwrap().len(), 50_000);
    put(&buckets, &stores[3], "more", "x").await;
    // Nor does a damaged one hide the others, or keep the app from being deleted.
    assert_eq!(buckets.list_stores(&stores[0].tenant, &stores[0].app).unwrap().len(), 4);
    buckets.delete_app(&stores[0].tenant, &stores[0].app).await.unwrap();
    assert_eq!(files(&temp.path().join("blob")), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn a_full_disk_is_told_and_leaves_nothing() {
    let (buckets, _clock, temp) = embedded_buckets();
    let store = id("shop", "uploads");
    put(&buckets, &store, "a", content(1, 100_000)).await;
    let open = buckets.stores.or_create(&store).await.unwrap();
    let pages = async |pages: u32| {
        let set = move |connection: &rusqlite::Connection| -> Result<(), BucketError> {
            Ok(connection.pragma_update_and_check(None, "max_page_count", pages, |_| Ok(()))?)
        };
        open.database.write(set).await.unwrap();
    };
    // SQLite answers as on a full disk.
    pages(1).await;
    let mut kept = 0;
    let error = loop {
        let (meta, only_if) = (Meta::default(), Conditions::default());
        match buckets.put_bytes(room(&store), format!("{kept}").repeat(100), meta, only_if, content(1, 17_000)).await {
            Ok(_) => kept += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, BucketError::DiskFull) && error.is_refusal(), "{error:?}");
    assert!(error.to_string().contains("free some and try again"), "{error}");
    assert!(get(&buckets, &store, "a").await.unwrap() == content(1, 100_000));
    wait_until("the file is left", || files(&objects(&temp, &store)).len() == kept + 1).await;
    pages(100_000).await;
    put(&buckets, &store, "b", content(1, 17_000)).await;
}

/// A disk of four mebibytes and a hundred files, mounted for a child process alone, which runs this test again with the
/// path in its environment.
#[test]
fn a_disk_that_is_full_in_the_middle_of_an_upload_is_told_and_leaves_nothing() {
    const DISK: &str = "MINNOW_TEST_SMALL_DISK";
    if let Some(disk) = std::env::var_os(DISK) {
        return fill(Path::new(&disk));
    }
    let temp = tempfile::tempdir().unwrap();
    let script = "mount -t tmpfs -o size=4m,nr_inodes=100 none \"$0\" && exec \"$1\" --exact --nocapture \"$2\"";
    let name = "bucket::tests::embedded::a_disk_that_is_full_in_the_middle_of_an_upload_is_told_and_leaves_nothing";
    let child = std::process::Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", script])
        .args([temp.path().as_os_str(), std::env::current_exe().unwrap().as_os_str(), name.as_ref()])
        .env(DISK, temp.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success() && said.contains("1 passed"), "{said}{}", String::from_utf8_lossy(&child.stderr));
}

fn fill(disk: &Path) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let buckets = Buckets::open(&disk.join("blob"), TestClock::new().shared()).unwrap();
        let store = id("shop", "uploads");
        put(&buckets, &store, "kept", content(1, 500_000)).await;
        let objects = disk.join("blob/default/shop/uploads.objects");
        for streamed in [true, false] {
            let error = if streamed {
                let mut upload = begin(&buckets, room(&store), "a").await;
                loop {
                    if let Err(error) = upload.write(content(1, 1 << 20)).await {
                        break error;
                    }
                }
            } else {
                let (meta, only_if) = (Meta::default(), Conditions::default());
                let put = buckets.put_bytes(room(&store), "kept".into(), meta, only_if, content(1, 5 << 20));
                put.await.unwrap_err()
            };
            assert!(matches!(error, BucketError::DiskFull) && error.is_refusal(), "{error:?}");
            wait_until("files are left", || files(&objects).len() == 1).await;
            assert!(get(&buckets, &store, "kept").await.unwrap() == content(1, 500_000));
            assert_eq!(buckets.head(&store, "a").await.unwrap(), None);
        }
        put(&buckets, &store, "a", content(1, 1 << 20)).await;
        let mut copies = 0;
        let error = loop {
            let to = format!("copy {copies}");
            match buckets.copy((&store, "a"), room(&store), to, Conditions::default()).await {
                Ok(_) => copies += 1,
                Err(error) => break error,
            }
        };
        assert!(matches!(error, BucketError::DiskFull) && copies < 3, "{copies}: {error:?}");
        wait_until("files are left", || files(&objects).len() == 2 + copies).await;
        // Not a byte left: what a crash has left cannot be put in order, and is read all the same.
        buckets.delete(&store, vec!["a".into()]).await.unwrap();
        put(&buckets, &store, "last", content(7, 20_000)).await;
        drop(buckets);
        let last = files(&objects).into_iter().find(|file| fs::metadata(objects.join(file)).unwrap().len() == 20_000);
        let last = objects.join(last.unwrap());
        fs::rename(&last, objects.join("new").join(last.file_name().unwrap())).unwrap();
        fs::remove_dir(last.parent().unwrap()).unwrap();
        let _ = fs::write(disk.join("ballast"), vec![1; 4 << 20]);
        let full = (0..).take_while(|number| fs::write(disk.join(format!("ballast{number}")), "").is_ok()).count();
        // SQLite needs one for its log.
        fs::remove_file(disk.join(format!("ballast{}", full - 1))).unwrap();
        let buckets = Buckets::open(&disk.join("blob"), TestClock::new().shared()).unwrap();
        assert!(get(&buckets, &store, "last").await.unwrap() == content(7, 20_000));
        assert!(objects.join("new").join(last.file_name().unwrap()).exists(), "there was room");
        assert!(get(&buckets, &store, "kept").await.unwrap() == content(1, 500_000));
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_puts_at_the_same_time_share_syncs() {
    let (buckets, _clock, temp) = embedded_buckets();
    let store = id("shop", "uploads");
    put(&buckets, &store, "first", "x").await;
    // While the index cannot be written, all of them come to wait for it.
    let hold = buckets.hold(&store).await.unwrap();
    // The frames of the log that end a transaction tell so in their second word
    // (<https://sqlite.org/fileformat2.html#walformat>).
    let commits = || {
        let log = fs::read(index(&temp, &store).with_extension("db-wal")).unwrap();
        log[32..].chunks_exact(24 + 4096).filter(|frame| frame[4..8] != [0; 4]).count()
    };
    let before = commits();
    let mut puts = Box::pin(join_all((0..64).map(|number| {
        let content = content(number, 1024);
        let (meta, only_if) = (Meta::default(), Conditions::default());
        buckets.put_bytes(room(&store), number.to_string(), meta, only_if, content)
    })));
    assert!(futures::poll!(&mut puts).is_pending());
    let open = buckets.stores.existing_here(&store).unwrap().unwrap();
    wait_until("they do not come", || open.database.waiting_writes() == 64).await;
    drop(hold);
    assert!(puts.await.into_iter().all(|put| put.unwrap().is_some()));
    assert_eq!(commits() - before, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn blobs_are_read_while_they_are_replaced_and_their_bucket_closes() {
    let bounds = OpenBounds { max_open: 3, idle: Duration::from_millis(1) };
    let (buckets, _clock, temp) = bounded_buckets(bounds);
    let stores = ["a", "b", "c"].map(|name| id("shop", name));
    for store in &stores {
        put(&buckets, store, "k", content(0, 40_000)).await;
    }
    let end = Instant::now() + Duration::from_millis(1500);
    let users = (0..6).map(|user| {
        let (buckets, stores) = (buckets.clone(), stores.clone());
        tokio::spawn(async move {
            let mut round = 0;
            while Instant::now() < end {
                let store = &stores[(round + user) % 3];
                round += 1;
                if user < 2 {
                    put(&buckets, store, "k", content(round % 50, 40_000 + round % 50)).await;
                } else {
                    let found = get(&buckets, store, "k").await.unwrap();
                    assert!(found == content(found.len() - 40_000, found.len()), "half of one and half of another");
                }
            }
            round
        })
    });
    for user in users.collect::<Vec<_>>() {
        assert!(user.await.unwrap() > 3);
    }
    for store in &stores {
        only_file(&temp, store);
    }
}

#[tokio::test]
async fn a_backup_has_the_content_of_its_moment() {
    let (buckets, clock, temp) = embedded_buckets();
    let store = id("shop", "uploads");
    put(&buckets, &store, "a", content(1, 100_000)).await;
    put(&buckets, &store, "b", content(2, 60_000)).await;
    put(&buckets, &store, "small", "x").await;
    let files_kept = buckets.keep_files(&store).await.unwrap().unwrap();
    let hold = buckets.hold(&store).await.unwrap().unwrap();
    let snapshot = hold.snapshot().unwrap();
    drop(hold);
    // All of it changes before anything is copied.
    put(&buckets, &store, "a", content(3, 70_000)).await;
    buckets.delete(&store, vec!["b".into(), "small".into()]).await.unwrap();
    put(&buckets, &store, "new", content(4, 80_000)).await;
    let to = temp.path().join("blob/default/copy");
    fs::create_dir(&to).unwrap();
    let copy = to.join("uploads.db");
    snapshot.copy_to(&copy, || true).unwrap();
    assert!(matches!(files_kept.link_to(&snapshot, &copy, || false), Err(BucketError::Store(StoreError::Stopped))));
    assert_eq!(files_kept.link_to(&snapshot, &copy, || true).unwrap(), 160_000);
    drop((snapshot, files_kept));
    Buckets::check_file(&copy).unwrap();
    wait_until("what nobody wants is left", || files(&objects(&temp, &store)).len() == 2).await;
    // Put in the place of an app, it is that app's.
    let restored = id("restored", "uploads");
    let moved = temp.path().join("restored");
    fs::rename(&to, &moved).unwrap();
    buckets.adopt_app(&restored.tenant, &restored.app, &moved).await.unwrap();
    assert!(get(&buckets, &restored, "a").await.unwrap() == content(1, 100_000));
    assert!(get(&buckets, &restored, "b").await.unwrap() == content(2, 60_000));
    assert_eq!(get(&buckets, &restored, "small").await.unwrap(), b"x");
    assert_eq!(get(&buckets, &restored, "new").await, None);
    assert_eq!(buckets.used_bytes(&restored).await.unwrap(), 160_001 + 3 * 128 + 7);
    drop(buckets);
    let buckets = Buckets::open(&temp.path().join("blob"), clock.shared()).unwrap();
    assert!(get(&buckets, &store, "new").await.unwrap() == content(4, 80_000));
}
