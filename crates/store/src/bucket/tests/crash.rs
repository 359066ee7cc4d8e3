//! What is there after a crash between any two steps of a write. A crash is a copy of the files as they are at that
//! moment, which a node opens anew.

use std::collections::BTreeMap;

use super::{super::upload::Committed, *};

/// Opens what a crash at this moment would leave, and checks that it is exactly the blobs expected, and no more files
/// than theirs.
async fn crash(temp: &TempDir, store: &StoreId, expected: &BTreeMap<&str, Bytes>, when: &str) {
    let copy = tempfile::tempdir().unwrap();
    for file in files(temp.path()) {
        let to = copy.path().join(&file);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(temp.path().join(&file), to).unwrap();
    }
    // Twice: a start may crash, too, and finds less to do.
    for start in ["first", "second"] {
        let buckets = Buckets::open(&copy.path().join("blob"), TestClock::new().shared()).unwrap();
        let listed = buckets.list(store, "", None, None, 1000).await.unwrap();
        let found: Vec<_> = listed.blobs.iter().map(|blob| blob.key.as_str()).collect();
        assert_eq!(found, expected.keys().copied().collect::<Vec<_>>(), "{when}, {start} start");
        for (&key, content) in expected {
            assert!(get(&buckets, store, key).await.unwrap() == *content, "{when}, {start} start: {key}");
        }
        let used: u64 = listed.blobs.iter().map(|blob| blob.size + 128 + blob.key.len() as u64).sum();
        assert_eq!(buckets.used_bytes(store).await.unwrap(), used, "{when}, {start} start");
        drop(buckets);
        let left = files(&objects(&copy, store));
        let of_blobs = expected.values().filter(|content| content.len() > super::super::rows::INLINE_BYTES).count();
        assert_eq!(left.len(), of_blobs, "{when}, {start} start: {left:?}");
        assert!(!left.iter().any(|file| file.starts_with("new")), "{when}, {start} start: {left:?}");
        let index = objects(&copy, store).with_extension("db");
        let connection = rusqlite::Connection::open(&index).unwrap();
        let noted: u64 = connection.query_row("SELECT count(*) FROM garbage", [], |row| row.get(0)).unwrap();
        assert_eq!(noted, 0, "{when}, {start} start");
        drop(connection);
        Buckets::check_file(&index).unwrap();
    }
}

#[tokio::test]
async fn a_crash_between_any_two_steps_of_a_put_leaves_the_one_or_the_other() {
    let (buckets, _clock, temp) = embedded_buckets();
    let store = id("shop", "uploads");
    let kept = put_all(&buckets, &store, &[("kept", 100_000), ("small", 100)]).await;
    for (name, before, after) in [
        ("new", None, 3 << 20),
        ("replaced", Some(50_000), 100_000),
        ("grown", Some(10), 2 << 20),
        ("shrunk", Some(70_000), 10),
    ] {
        let mut old = kept.clone();
        if let Some(bytes) = before {
            old.insert(name, content(9, bytes));
            put(&buckets, &store, name, content(9, bytes)).await;
        }
        let mut new = old.clone();
        new.insert(name, content(10, after));

        let mut upload = begin(&buckets, room(&store), name).await;
        upload.write(content(10, after)).await.unwrap();
        crash(&temp, &store, &old, &format!("{name}: content is being written")).await;
        let (_, target, place, stored) = upload.store().await.unwrap();
        crash(&temp, &store, &old, &format!("{name}: content is stored")).await;
        let open = buckets.stores.or_create(&store).await.unwrap();
        let Committed { blob, remains } = buckets.commit(&open, target, place, stored).await.unwrap();
        assert_eq!(blob.unwrap().size, after as u64);
        crash(&temp, &store, &new, &format!("{name}: the index has it")).await;
        assert!(get(&buckets, &store, name).await.unwrap() == new[name], "{name} is not read before it has its place");
        if let Some(file) = &remains.placed {
            open.place(file).unwrap();
            crash(&temp, &store, &new, &format!("{name}: it has its place")).await;
        }
        assert_eq!(remains.removed.is_empty(), before.is_none_or(|bytes| bytes < 20_000), "{name}");
        assert_eq!(open.unlink(remains.removed.clone()).unwrap().map(|files| files.len()), None);
        crash(&temp, &store, &new, &format!("{name}: what it replaced is removed")).await;
        open.sweep(remains.removed).await.unwrap();
        crash(&temp, &store, &new, &format!("{name}: nothing is left to do")).await;
        drop(open);
        buckets.delete(&store, vec![name.into()]).await.unwrap();
    }
    crash(&temp, &store, &kept, "the end").await;
}

#[tokio::test]
async fn a_crash_in_a_deletion_leaves_all_or_none() {
    let (buckets, _clock, temp) = embedded_buckets();
    let store = id("shop", "uploads");
    let all = put_all(&buckets, &store, &[("a", 100_000), ("b", 50_000), ("c", 100), ("kept", 60_000)]).await;
    let rest = all.iter().filter(|(key, _)| **key == "kept").map(|(key, content)| (*key, content.clone())).collect();
    crash(&temp, &store, &all, "before").await;
    let open = buckets.stores.or_create(&store).await.unwrap();
    let queued = open.enqueue(3).await.unwrap();
    let keys = ["a", "b", "c", "never"].map(str::to_owned).to_vec();
    let (count, removed) = open.remove(keys, Conditions::default(), queued).await.unwrap();
    assert_eq!((count, removed.len()), (3, 2));
    crash(&temp, &store, &rest, "the index has forgotten them").await;
    open.unlink(removed[..1].to_vec()).unwrap();
    crash(&temp, &store, &rest, "one file is removed").await;
    open.unlink(removed[1..].to_vec()).unwrap();
    crash(&temp, &store, &rest, "all files are removed").await;
    open.sweep(removed).await.unwrap();
    crash(&temp, &store, &rest, "after").await;
}

#[tokio::test]
async fn what_is_removed_is_forgotten_in_the_end() {
    let (buckets, _clock, temp) = embedded_buckets();
    let store = id("shop", "uploads");
    for round in 0..3 {
        let keys: Vec<String> = (0..200).map(|number| format!("{round}/{number}")).collect();
        for key in &keys {
            put(&buckets, &store, key, content(1, 17_000)).await;
        }
        assert_eq!(buckets.delete(&store, keys).await.unwrap(), 200);
        assert_eq!(files(&objects(&temp, &store)), Vec::<PathBuf>::new());
    }
    let open = buckets.stores.or_create(&store).await.unwrap();
    let noted = open.database.read_here(super::super::rows::garbage).unwrap().len();
    assert_eq!(noted, 200, "the first two rounds were swept together");
}

async fn put_all(buckets: &Buckets, store: &StoreId, all: &[(&'static str, usize)]) -> BTreeMap<&'static str, Bytes> {
    for (key, bytes) in all {
        put(buckets, store, key, content(*bytes, *bytes)).await;
    }
    all.iter().map(|(key, bytes)| (*key, content(*bytes, *bytes))).collect()
}
