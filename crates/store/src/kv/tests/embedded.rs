//! The backend of SQLite files.

use std::{
    fs,
    os::unix::fs::{FileExt as _, PermissionsExt as _},
    path::PathBuf,
    time::{Duration, Instant},
};

use futures::{FutureExt as _, poll};

use super::{super::*, bounded_kv, contract::contract_tests, delete, embedded_kv, id, set, set_until, value, version};

contract_tests!(embedded_kv());

fn file(temp: &tempfile::TempDir, app: &str, name: &str) -> PathBuf {
    temp.path().join(format!("kv/default/{app}/{name}.db"))
}

/// Waits until at most `count` stores are open.
async fn wait_for_open_stores(kv: &Kv, count: usize) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while kv.open_stores() > count {
        assert!(Instant::now() < deadline, "{} stores are open", kv.open_stores());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn everything_is_there_after_opening_again() {
    let (kv, clock, temp) = embedded_kv();
    let store = id("shop", "sessions");
    kv.write(&store, vec![set("a", "1"), set_until("b", "2", clock.now_ms() + 5), set("c", "3")]).await.unwrap();
    kv.write(&store, vec![delete("c")]).await.unwrap();
    let before = version(&kv, &store, "b");
    drop(kv);
    assert!(!file(&temp, "shop", "sessions").with_extension("db-wal").exists());
    let mode = fs::metadata(file(&temp, "shop", "sessions")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let kv = Kv::open(&temp.path().join("kv"), clock.shared()).unwrap();
    assert_eq!(value(&kv, &store, "a").as_deref(), Some("1"));
    assert_eq!(version(&kv, &store, "b"), before);
    assert_eq!(kv.get(&store, "c").unwrap(), None);
    // Versions go on where they were, with `c` counted.
    kv.write(&store, vec![set("c", "4")]).await.unwrap();
    assert!(version(&kv, &store, "c") > before + 1);
}

#[tokio::test]
async fn a_store_that_was_never_written_has_no_file() {
    let (kv, _clock, temp) = embedded_kv();
    let store = id("shop", "sessions");
    assert_eq!(kv.get(&store, "a").unwrap(), None);
    assert_eq!(kv.list(&store, "", None, 5).unwrap().keys, []);
    assert_eq!(kv.list_stores(&store.tenant, &store.app).unwrap(), []);
    assert_eq!((kv.open_stores(), fs::read_dir(temp.path().join("kv")).unwrap().count()), (0, 0));
}

#[tokio::test]
async fn a_full_store_answers_full_and_room_can_be_made() {
    let (kv, _clock, _temp) = bounded_kv(KvBounds { store_bytes: 1 << 20, ..KvBounds::default() });
    let store = id("shop", "sessions");
    let large = "x".repeat(300_000);
    let mut written = 0;
    let error = loop {
        match kv.write(&store, vec![set(&format!("k{written}"), &large), set("last", &written.to_string())]).await {
            Ok(()) => written += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, KvError::Full) && error.to_string().contains("delete keys"), "{error}");
    assert_eq!(written, 3);
    assert_eq!(value(&kv, &store, "last").as_deref(), Some("2"), "the batch was kept in part");
    kv.write(&store, vec![delete("k0")]).await.unwrap();
    kv.write(&store, vec![set("k3", &large)]).await.unwrap();
    assert!(kv.exists(&store, "k3").unwrap());
    // Another store has room of its own.
    kv.write(&id("shop", "other"), vec![set("k", &large)]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_that_fit_are_kept_beside_one_that_does_not() {
    let (kv, _clock, _temp) = bounded_kv(KvBounds { store_bytes: 1 << 20, ..KvBounds::default() });
    let store = id("shop", "sessions");
    let (mut writes, mut kept) = (Vec::new(), Vec::new());
    for number in 0..200 {
        let (kv, store) = (kv.clone(), store.clone());
        writes.push(tokio::spawn(async move {
            let value = "x".repeat(if number % 10 == 3 { 2_000_000 } else { 100 });
            kv.write(&store, vec![set(&format!("{number:03}"), &value)]).await
        }));
    }
    for (number, write) in writes.into_iter().enumerate() {
        match write.await.unwrap() {
            Ok(()) => kept.push(format!("{number:03}")),
            Err(KvError::Full) => assert_eq!(number % 10, 3),
            // Shared its transaction with one that did not fit.
            Err(error) => assert!(matches!(error, KvError::Store(StoreError::Aborted)), "{error:?}"),
        }
    }
    let listed = kv.list(&store, "", None, 1000).unwrap().keys;
    assert_eq!(listed.into_iter().map(|info| info.key).collect::<Vec<_>>(), kept);
    assert!(!kept.iter().any(|key| key.ends_with('3')));
}

#[tokio::test]
async fn a_damaged_store_is_named_and_no_other_suffers() {
    let (kv, clock, temp) = embedded_kv();
    let stores = [id("shop", "overwritten"), id("shop", "torn"), id("shop", "good")];
    for store in &stores {
        let batch = (0..1000).map(|number| set(&format!("{number:04}"), &"x".repeat(500)));
        kv.write(store, batch.collect()).await.unwrap();
    }
    drop(kv);
    let overwritten = fs::File::options().write(true).open(file(&temp, "shop", "overwritten")).unwrap();
    overwritten.write_all_at(&[b'x'; 4096], 0).unwrap();
    let torn = fs::File::options().write(true).open(file(&temp, "shop", "torn")).unwrap();
    let len = torn.metadata().unwrap().len();
    torn.write_all_at(&vec![0x5a; (len - 8192) as usize], 8192).unwrap();

    let kv = Kv::open(&temp.path().join("kv"), clock.shared()).unwrap();
    for (store, name) in [(&stores[0], "overwritten.db"), (&stores[1], "torn.db")] {
        let read = kv.get(store, "0500").map(drop);
        let write = kv.write(store, vec![set("0500", "y")]).await;
        for error in [read.unwrap_err(), write.unwrap_err()] {
            assert!(matches!(error, KvError::Corrupt { .. }) && !error.is_refusal(), "{error:?}");
            let told = error.to_string();
            assert!(told.contains(name) && told.contains("backup"), "{told}");
        }
    }
    assert!(kv.exists(&stores[2], "0500").unwrap());
    kv.write(&stores[2], vec![set("0500", "y")]).await.unwrap();
}

#[tokio::test]
async fn expired_keys_leave_the_file_with_later_writes() {
    let (kv, clock, temp) = embedded_kv();
    let store = id("shop", "sessions");
    let until = clock.now_ms() + 10;
    kv.write(&store, (0..20).map(|number| set_until(&number.to_string(), "x", until)).collect()).await.unwrap();
    clock.advance(10);
    let rows = || {
        let file = rusqlite::Connection::open(file(&temp, "shop", "sessions")).unwrap();
        file.query_row("SELECT count(*) FROM entry", [], |row| row.get::<_, u64>(0)).unwrap()
    };
    assert_eq!(rows(), 20);
    for _ in 0..3 {
        kv.write(&store, vec![set("new", "x")]).await.unwrap();
    }
    assert_eq!(rows(), 1);
}

#[tokio::test]
async fn expired_keys_do_not_pile_up_behind_batches() {
    let (kv, clock, temp) = embedded_kv();
    let store = id("shop", "sessions");
    let file = || rusqlite::Connection::open(file(&temp, "shop", "sessions")).unwrap();
    for round in 0..10 {
        let until = clock.now_ms() + 10;
        let batch = (0..100).map(|number| set_until(&format!("{round}/{number}"), "x", until));
        kv.write(&store, batch.collect()).await.unwrap();
        let rows: u64 = file().query_row("SELECT count(*) FROM entry", [], |row| row.get(0)).unwrap();
        assert_eq!(rows, 100, "round {round}");
        clock.advance(10);
    }
}

#[tokio::test]
async fn a_store_that_is_full_of_expired_keys_takes_new_ones() {
    let (kv, clock, _temp) = bounded_kv(KvBounds { store_bytes: 1 << 20, ..KvBounds::default() });
    let store = id("shop", "sessions");
    for (bytes, next) in [(300_000, 300_000), (3_000, 900_000)] {
        let until = clock.now_ms() + 10;
        let mut written = 0;
        while kv.write(&store, vec![set_until(&format!("{bytes}/{written}"), &"x".repeat(bytes), until)]).await.is_ok()
        {
            written += 1;
        }
        assert!(written * bytes > 600_000, "{written} of {bytes}");
        clock.advance(10);
        // As large as many of the small ones: they go all together.
        kv.write(&store, vec![set("new", &"y".repeat(next))]).await.unwrap();
        assert_eq!(value(&kv, &store, "new").unwrap().len(), next);
        kv.write(&store, vec![delete("new")]).await.unwrap();
    }
}

#[tokio::test]
async fn callers_that_give_up_leave_no_more_behind_than_one_batch() {
    let (kv, _clock, _temp) = embedded_kv();
    let store = id("shop", "sessions");
    kv.write(&store, vec![set("first", "x")]).await.unwrap();
    let open = kv.stores.existing_here(&store).unwrap().unwrap();
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let mut busy = Box::pin(open.database.write(move |_| -> Result<(), KvError> {
        let _ = wait.recv_timeout(Duration::from_secs(60));
        Ok(())
    }));
    assert!(poll!(&mut busy).is_pending());
    let large = Bytes::from(vec![b'x'; MAX_VALUE_BYTES]);
    for number in 0..10 {
        let write = Write::Set { key: number.to_string(), value: large.clone(), metadata: None, expires_ms: None };
        assert!(kv.write(&store, vec![write]).now_or_never().is_none());
    }
    drop(go);
    busy.await.unwrap();
    kv.write(&store, vec![set("last", "x")]).await.unwrap();
    let keys: Vec<_> = kv.list(&store, "", None, 100).unwrap().keys.into_iter().map(|info| info.key).collect();
    assert_eq!(keys, ["0", "1", "first", "last"], "two fit into one batch");
    assert_eq!(open.queue.available_permits(), QUEUED_BYTES as usize);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_stores_are_written_and_read_and_few_of_them_are_open() {
    let (kv, _clock, _temp) = embedded_kv();
    let most = OpenBounds::default().max_open;
    let store = |number: usize| id(&format!("app{}", number / 100), &format!("s{}", number % 100));
    let users = (0..8).map(|user| {
        let kv = kv.clone();
        tokio::spawn(async move {
            for number in (user..10_000).step_by(8) {
                kv.write(&store(number), vec![set("n", &number.to_string())]).await.unwrap();
                assert!(kv.open_stores() <= most);
            }
        })
    });
    for user in users.collect::<Vec<_>>() {
        user.await.unwrap();
    }
    for number in 0..10_000 {
        assert_eq!(value(&kv, &store(number), "n"), Some(number.to_string()));
    }
    assert!(kv.open_stores() <= most);
    let of_one = store(4_200);
    assert_eq!(kv.list_stores(&of_one.tenant, &of_one.app).unwrap().len(), 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_stores_are_used_through_few_open_ones() {
    let bounds = OpenBounds { max_open: 4, idle: Duration::from_millis(50) };
    let (kv, _clock, _temp) = bounded_kv(KvBounds { open: bounds, ..KvBounds::default() });
    // Each writes and reads its own stores and all others', which close under it all the time.
    let users = (0..3).map(|user| {
        let kv = kv.clone();
        tokio::spawn(async move {
            for round in 0..60 {
                let store = id("shop", &format!("s{}", (round * 7 + user) % 12));
                assert!(kv.increment(&store, "n", 1).await.unwrap() > 0);
                assert!(kv.exists(&store, "n").unwrap());
                assert!(kv.open_stores() <= 4);
            }
        })
    });
    for user in users.collect::<Vec<_>>() {
        user.await.unwrap();
    }
    let sum: i64 = (0..12)
        .map(|number| {
            value(&kv, &id("shop", &format!("s{number}")), "n").map_or(0, |text| text.parse::<i64>().unwrap())
        })
        .sum();
    assert_eq!(sum, 180);
    wait_for_open_stores(&kv, 0).await;
    // Opened again, and the thread that closes them is awake again.
    assert!(kv.exists(&id("shop", "s1"), "n").unwrap());
    assert_eq!(kv.open_stores(), 1);
    wait_for_open_stores(&kv, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_is_deleted_while_it_is_used() {
    let (kv, _clock, temp) = embedded_kv();
    let store = id("shop", "sessions");
    kv.write(&store, vec![set("n", "0")]).await.unwrap();
    let user = tokio::spawn({
        let (kv, store) = (kv.clone(), store.clone());
        async move {
            let mut counted = 0;
            for _ in 0..300 {
                match kv.increment(&store, "n", 1).await {
                    // The store was made anew.
                    Ok(1) => counted = 1,
                    Ok(now) => {
                        counted += 1;
                        assert_eq!(now, counted);
                    }
                    Err(error) => assert!(matches!(error, KvError::Store(StoreError::BeingDeleted)), "{error:?}"),
                }
            }
            counted
        }
    });
    for _ in 0..20 {
        kv.delete_app(&store.tenant, &store.app).await.unwrap();
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    // Gone, if the last deletion came after the last increment.
    let counted: i64 = user.await.unwrap();
    assert!(value(&kv, &store, "n").is_none_or(|text| text == counted.to_string()));
    // What a crash in the middle of a deletion leaves is removed by the next start.
    drop(kv);
    let left = temp.path().join("kv/default/.deleted-shop");
    fs::create_dir(&left).unwrap();
    fs::write(left.join("sessions.db"), "x").unwrap();
    drop(Kv::open(&temp.path().join("kv"), super::TestClock::new().shared()).unwrap());
    assert!(!left.exists());
}
