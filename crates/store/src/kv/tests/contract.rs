//! What any backend of [`Kv`] has to keep. Each function gets an empty one.

use super::{super::*, TestClock, delete, id, set, set_until, value, version};

/// Makes a test of each function of this module, with the backend that the expression gives.
macro_rules! contract_tests {
    ($backend:expr) => {
        contract_tests! { $backend;
            what_was_set_is_read_with_its_metadata,
            a_batch_is_done_as_a_whole_or_not_at_all,
            several_keys_are_read_at_one_moment,
            what_is_fetched_is_what_is_there_however_large,
            an_expired_key_is_absent_at_once,
            expired_keys_are_passed_over_in_lists,
            versions_never_repeat,
            compare_and_swap_writes_only_at_the_expected_version,
            increment_counts_and_keeps_what_else_is_there,
            keys_are_listed_in_byte_order_by_prefix_and_page,
            what_is_too_large_is_refused_with_a_remedy,
            the_largest_of_everything_is_kept,
            stores_and_apps_are_apart,
            a_deleted_app_leaves_nothing,
        }
    };
    ($backend:expr; $($name:ident,)*) => {
        $(
            #[tokio::test]
            async fn $name() {
                let (kv, clock, _kept) = $backend;
                $crate::kv::tests::contract::$name(kv, clock).await;
            }
        )*
    };
}
pub(super) use contract_tests;

fn keys(page: &Page) -> Vec<&str> {
    page.keys.iter().map(|info| info.key.as_str()).collect()
}

pub(super) async fn what_is_fetched_is_what_is_there_however_large(kv: Kv, clock: TestClock) {
    let store = id("shop", "sessions");
    let all = |count: usize| (0..count).map(|index| index.to_string()).collect::<Vec<String>>();
    assert_eq!(kv.fetch(&store, all(2)).await.unwrap(), [None, None]);
    let large = "x".repeat(AT_ONCE_BYTES);
    let writes = vec![set("0", "a"), set("1", &large), set_until("2", "gone", clock.now_ms()), set("90", "z")];
    kv.write(&store, writes).await.unwrap();
    // One that is read at once, one that just is, two that are together too large, and more keys than are read at once.
    for keys in [all(1), vec!["1".into()], all(4), all(100)] {
        assert_eq!(kv.fetch(&store, keys.clone()).await.unwrap(), kv.get_many(&store, &keys).unwrap());
    }
    let fetched = kv.fetch(&store, all(3)).await.unwrap();
    assert_eq!(
        fetched.iter().map(|one| one.as_ref().map_or(0, |entry| entry.value.len())).collect::<Vec<_>>(),
        [1, large.len(), 0]
    );
}

pub(super) async fn what_was_set_is_read_with_its_metadata(kv: Kv, clock: TestClock) {
    let store = id("shop", "sessions");
    assert_eq!(kv.get(&store, "a").unwrap(), None);
    assert!(!kv.exists(&store, "a").unwrap());
    let expires_ms = Some(clock.now_ms() + 1000);
    let (key, metadata) = ("å/\0/ключ".to_owned(), Some("{\"n\":1}".to_owned()));
    let write =
        Write::Set { key: key.clone(), value: Bytes::from_static(b"\0\xff"), metadata: metadata.clone(), expires_ms };
    kv.write(&store, vec![write]).await.unwrap();
    let entry = kv.get(&store, &key).unwrap().unwrap();
    assert_eq!((&entry.value[..], &entry.metadata, entry.expires_ms), (&b"\0\xff"[..], &metadata, expires_ms));
    assert!(entry.version > 0);
    // A write replaces everything.
    kv.write(&store, vec![set(&key, "")]).await.unwrap();
    let entry = kv.get(&store, &key).unwrap().unwrap();
    assert_eq!((entry.value.len(), entry.metadata, entry.expires_ms), (0, None, None));
    assert!(kv.exists(&store, &key).unwrap());
    kv.write(&store, vec![delete(&key)]).await.unwrap();
    assert_eq!(kv.get(&store, &key).unwrap(), None);
    kv.write(&store, vec![delete(&key), delete("never")]).await.unwrap();
}

pub(super) async fn a_batch_is_done_as_a_whole_or_not_at_all(kv: Kv, _clock: TestClock) {
    let store = id("shop", "sessions");
    kv.write(&store, vec![set("a", "1"), set("b", "1"), delete("a"), set("b", "2")]).await.unwrap();
    assert_eq!((value(&kv, &store, "a"), value(&kv, &store, "b").as_deref()), (None, Some("2")));
    let error = kv.write(&store, vec![set("a", "3"), set("", "x"), delete("b")]).await.unwrap_err();
    assert!(matches!(error, KvError::EmptyKey) && error.is_refusal(), "{error}");
    assert_eq!((value(&kv, &store, "a"), value(&kv, &store, "b").as_deref()), (None, Some("2")));
    kv.write(&store, Vec::new()).await.unwrap();
}

pub(super) async fn several_keys_are_read_at_one_moment(kv: Kv, _clock: TestClock) {
    let store = id("shop", "sessions");
    let pair = ["a".to_owned(), "b".to_owned(), "absent".to_owned()];
    assert_eq!(kv.get_many(&store, &pair).unwrap(), [None, None, None]);
    let writer = tokio::spawn({
        let (kv, store) = (kv.clone(), store.clone());
        async move {
            for number in 0..100 {
                let number = number.to_string();
                kv.write(&store, vec![set("a", &number), set("b", &number)]).await.unwrap();
            }
        }
    });
    let reader = std::thread::spawn(move || {
        let mut seen = 0;
        for _ in 0..100_000 {
            let found = kv.get_many(&store, &pair).unwrap();
            assert_eq!(found[0].as_ref().map(|a| &a.value), found[1].as_ref().map(|b| &b.value));
            assert_eq!(found[2], None);
            seen += usize::from(found[0].is_some());
            if found[0].as_ref().is_some_and(|a| &a.value[..] == b"99") {
                break;
            }
        }
        seen
    });
    writer.await.unwrap();
    let seen = tokio::task::spawn_blocking(move || reader.join().unwrap()).await.unwrap();
    assert!(seen > 0);
}

pub(super) async fn an_expired_key_is_absent_at_once(kv: Kv, clock: TestClock) {
    let store = id("shop", "sessions");
    let until = clock.now_ms() + 100;
    kv.write(&store, vec![set_until("a", "1", until), set_until("past", "1", clock.now_ms()), set("b", "1")])
        .await
        .unwrap();
    assert!(!kv.exists(&store, "past").unwrap());
    clock.advance(99);
    assert_eq!(kv.get(&store, "a").unwrap().unwrap().expires_ms, Some(until));
    clock.advance(1);
    assert_eq!(kv.get(&store, "a").unwrap(), None);
    assert!(!kv.exists(&store, "a").unwrap());
    assert_eq!(kv.get_many(&store, &["a".into()]).unwrap(), [None]);
    assert_eq!(keys(&kv.list(&store, "", None, 10).unwrap()), ["b"]);
    // Absent for those who write, too.
    kv.write(&store, vec![set_until("n", "41", clock.now_ms() + 1)]).await.unwrap();
    clock.advance(1);
    assert_eq!(kv.increment(&store, "n", 1).await.unwrap(), 1);
    assert_eq!(kv.get(&store, "n").unwrap().unwrap().expires_ms, None);
    assert!(kv.compare_and_swap(&store, None, set("a", "2")).await.unwrap());
    // What is written before it expires stays.
    kv.write(&store, vec![set_until("c", "1", clock.now_ms() + 10), set("c", "2")]).await.unwrap();
    clock.advance(1000);
    assert_eq!(value(&kv, &store, "c").as_deref(), Some("2"));
    // An expiry beyond all clocks is none that ever comes.
    kv.write(&store, vec![set_until("c", "3", u64::MAX)]).await.unwrap();
    assert_eq!(value(&kv, &store, "c").as_deref(), Some("3"));
}

pub(super) async fn expired_keys_are_passed_over_in_lists(kv: Kv, clock: TestClock) {
    let store = id("shop", "sessions");
    for thousand in 0..5 {
        let until = clock.now_ms() + 1;
        let batch = (0..1000).map(|number| set_until(&format!("old{thousand}{number:03}"), "", until));
        kv.write(&store, batch.collect()).await.unwrap();
    }
    kv.write(&store, vec![set("a", ""), set("z", "")]).await.unwrap();
    clock.advance(1);
    let (mut found, mut after, mut pages) = (Vec::new(), None, 0);
    loop {
        let page = kv.list(&store, "", after.as_deref(), 10).unwrap();
        found.extend(page.keys.into_iter().map(|info| info.key));
        pages += 1;
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(found, ["a", "z"]);
    assert!(pages < 5, "{pages}");
}

pub(super) async fn versions_never_repeat(kv: Kv, clock: TestClock) {
    let store = id("shop", "sessions");
    let mut versions = Vec::new();
    for round in 0..5 {
        kv.write(&store, vec![set("a", "same")]).await.unwrap();
        versions.push(version(&kv, &store, "a"));
        kv.write(&store, vec![set("b", ""), delete("b"), delete("a")]).await.unwrap();
        kv.write(&store, vec![set_until("a", "same", clock.now_ms() + 1)]).await.unwrap();
        versions.push(version(&kv, &store, "a"));
        clock.advance(u64::from(round % 2 == 0));
    }
    assert!(versions.is_sorted_by(|a, b| a < b), "{versions:?}");
}

pub(super) async fn compare_and_swap_writes_only_at_the_expected_version(kv: Kv, _clock: TestClock) {
    let store = id("shop", "sessions");
    assert!(!kv.compare_and_swap(&store, Some(1), set("a", "1")).await.unwrap());
    assert!(kv.compare_and_swap(&store, None, delete("a")).await.unwrap());
    assert!(kv.compare_and_swap(&store, None, set("a", "1")).await.unwrap());
    assert!(!kv.compare_and_swap(&store, None, set("a", "2")).await.unwrap());
    let first = version(&kv, &store, "a");
    assert!(kv.compare_and_swap(&store, Some(first), set("a", "2")).await.unwrap());
    assert!(!kv.compare_and_swap(&store, Some(first), set("a", "3")).await.unwrap());
    // The same value again, but not the same state.
    let second = version(&kv, &store, "a");
    kv.write(&store, vec![delete("a")]).await.unwrap();
    kv.write(&store, vec![set("a", "2")]).await.unwrap();
    assert!(!kv.compare_and_swap(&store, Some(second), set("a", "3")).await.unwrap());
    assert!(!kv.compare_and_swap(&store, Some(second), delete("a")).await.unwrap());
    assert_eq!(value(&kv, &store, "a").as_deref(), Some("2"));
    assert!(kv.compare_and_swap(&store, Some(version(&kv, &store, "a")), delete("a")).await.unwrap());
    assert_eq!(value(&kv, &store, "a"), None);
    assert!(matches!(kv.compare_and_swap(&store, None, set("", "")).await, Err(KvError::EmptyKey)));
}

pub(super) async fn increment_counts_and_keeps_what_else_is_there(kv: Kv, clock: TestClock) {
    let store = id("shop", "sessions");
    assert_eq!(kv.increment(&store, "n", 5).await.unwrap(), 5);
    assert_eq!(kv.increment(&store, "n", -7).await.unwrap(), -2);
    assert_eq!(value(&kv, &store, "n").as_deref(), Some("-2"));
    let before = version(&kv, &store, "n");
    assert_eq!(kv.increment(&store, "n", 0).await.unwrap(), -2);
    assert!(version(&kv, &store, "n") > before);

    let expires_ms = Some(clock.now_ms() + 1000);
    let (key, value_) = ("kept".to_owned(), Bytes::from_static(b"9223372036854775806"));
    kv.write(&store, vec![Write::Set { key, value: value_, metadata: Some("m".into()), expires_ms }]).await.unwrap();
    assert_eq!(kv.increment(&store, "kept", 1).await.unwrap(), i64::MAX);
    let entry = kv.get(&store, "kept").unwrap().unwrap();
    assert_eq!((entry.metadata.as_deref(), entry.expires_ms), (Some("m"), expires_ms));
    let error = kv.increment(&store, "kept", 1).await.unwrap_err();
    assert!(matches!(error, KvError::Overflow { .. }) && error.to_string().contains("`kept`"), "{error}");
    assert_eq!(value(&kv, &store, "kept").as_deref(), Some("9223372036854775807"));

    for bad in ["", "x", "1.5", " 1", "9223372036854775808"] {
        kv.write(&store, vec![set("text", bad)]).await.unwrap();
        let error = kv.increment(&store, "text", 1).await.unwrap_err();
        assert!(matches!(error, KvError::NotAnInteger { .. }) && error.is_refusal(), "{bad}: {error}");
        assert_eq!(value(&kv, &store, "text").as_deref(), Some(bad));
    }
}

pub(super) async fn keys_are_listed_in_byte_order_by_prefix_and_page(kv: Kv, _clock: TestClock) {
    let store = id("shop", "sessions");
    assert_eq!(kv.list(&store, "", None, 1).unwrap(), Page { keys: Vec::new(), next: None });
    // In the order of their bytes: the last two differ in UTF-16.
    let all = ["B", "a", "a/", "a/1", "a/10", "a/2", "a/\u{10ffff}", "a0", "b", "å", "\u{ffee}", "\u{1f600}"];
    kv.write(&store, all.iter().rev().map(|key| set(key, "x")).collect()).await.unwrap();
    assert_eq!(keys(&kv.list(&store, "", None, 1000).unwrap()), all);
    for (prefix, after, limit, expected, next) in [
        ("a/", None, 10, &all[2..7], None),
        ("a/", None, 2, &all[2..4], Some("a/1")),
        ("a/", Some("a/1"), 2, &all[4..6], Some("a/2")),
        ("a/", Some("a/2"), 2, &all[6..7], None),
        ("a/", Some("a/\u{10ffff}"), 2, &[], None),
        // The cursor need not be a key, nor within the prefix.
        ("a/", Some("a/11"), 1, &all[5..6], Some("a/2")),
        ("a/", Some("A"), 1, &all[2..3], Some("a/")),
        ("a/", Some("z"), 1, &[], None),
        ("a/", Some(""), 5, &all[2..7], None),
        ("", Some("\u{1f600}"), 5, &[], None),
        ("c", None, 5, &[], None),
        ("", None, 12, &all[..], None),
    ] {
        let page = kv.list(&store, prefix, after, limit).unwrap();
        assert_eq!((keys(&page), page.next.as_deref()), (expected.to_vec(), next), "{prefix} {after:?} {limit}");
    }
    let info = Write::Set {
        key: "a/".into(),
        value: Bytes::new(),
        metadata: Some("m".into()),
        expires_ms: Some(u64::MAX / 4),
    };
    kv.write(&store, vec![info]).await.unwrap();
    let page = kv.list(&store, "a/", None, 1).unwrap();
    assert_eq!(page.keys, [KeyInfo { key: "a/".into(), metadata: Some("m".into()), expires_ms: Some(u64::MAX / 4) }]);
    for limit in [0, MAX_PAGE + 1] {
        assert!(matches!(kv.list(&store, "", None, limit), Err(KvError::Limit(_))), "{limit}");
    }
}

pub(super) async fn what_is_too_large_is_refused_with_a_remedy(kv: Kv, _clock: TestClock) {
    let store = id("shop", "sessions");
    let long = "k".repeat(MAX_KEY_BYTES + 1);
    let with = |value: Bytes, metadata: Option<String>| {
        vec![Write::Set { key: "a".into(), value, metadata, expires_ms: None }]
    };
    let zeros = |len| Bytes::from(vec![0; len]);
    let error = |result: Result<(), KvError>| {
        let error = result.unwrap_err();
        assert!(error.is_refusal(), "{error}");
        error.to_string()
    };
    for (told, expected) in [
        (error(kv.get(&store, &long).map(drop)), "use its hash"),
        (error(kv.get(&store, "").map(drop)), "at least one character"),
        (error(kv.exists(&store, &long).map(drop)), "2048"),
        (error(kv.list(&store, &long, None, 1).map(drop)), "2048"),
        (error(kv.list(&store, "", Some(&long), 1).map(drop)), "2048"),
        (error(kv.increment(&store, &long, 1).await.map(drop)), "2048"),
        (error(kv.write(&store, vec![delete(&long)]).await), "2048"),
        (error(kv.write(&store, with(zeros(MAX_VALUE_BYTES + 1), None)).await), "`a` has 26214401 bytes"),
        (error(kv.write(&store, with(Bytes::new(), Some("m".repeat(1025)))).await), "1024; move it into the value"),
        (error(kv.write(&store, vec![delete("a"); MAX_BATCH + 1]).await), "use several calls"),
        (error(kv.get_many(&store, &vec!["a".to_owned(); MAX_BATCH + 1]).map(drop)), "1000; use several calls"),
        (error(kv.write(&store, vec![with(zeros(MAX_VALUE_BYTES), None).remove(0); 3]).await), "fewer keys"),
    ] {
        assert!(told.contains(expected), "{told}");
    }
    assert_eq!(kv.list(&store, "", None, 1).unwrap().keys, []);
}

pub(super) async fn the_largest_of_everything_is_kept(kv: Kv, _clock: TestClock) {
    let store = id("shop", "sessions");
    let keys: Vec<String> = (0..3).map(|number| number.to_string().repeat(MAX_KEY_BYTES)).collect();
    let (value, metadata) = (Bytes::from(vec![7; MAX_VALUE_BYTES]), Some("m".repeat(MAX_METADATA_BYTES)));
    for key in &keys {
        let (key, value, metadata) = (key.clone(), value.clone(), metadata.clone());
        kv.write(&store, vec![Write::Set { key, value, metadata, expires_ms: None }]).await.unwrap();
    }
    let found = kv.get_many(&store, &keys[..2]).unwrap();
    assert!(found.iter().flatten().all(|entry| entry.value == value && entry.metadata == metadata));
    assert_eq!(found.iter().flatten().count(), 2);
    // Three of them are too many for one answer.
    let error = kv.get_many(&store, &keys).unwrap_err();
    assert!(matches!(error, KvError::BatchTooLarge), "{error}");
    let many: Vec<_> = (0..MAX_BATCH).map(|number| set(&format!("{number:03}"), "x")).collect();
    kv.write(&store, many).await.unwrap();
    assert_eq!(kv.list(&store, "", None, MAX_PAGE).unwrap().keys.len(), 1000);
}

pub(super) async fn stores_and_apps_are_apart(kv: Kv, _clock: TestClock) {
    let stores = [id("shop", "a"), id("shop", "b"), id("blog", "a")];
    for (number, store) in stores.iter().enumerate() {
        kv.write(store, vec![set("key", &number.to_string())]).await.unwrap();
    }
    for (number, store) in stores.iter().enumerate() {
        assert_eq!(value(&kv, store, "key"), Some(number.to_string()));
    }
    let listed = kv.list_stores(&stores[0].tenant, &stores[0].app).unwrap();
    assert_eq!(listed.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    assert!(listed.iter().all(|(_, bytes)| *bytes > 0), "{listed:?}");
}

pub(super) async fn a_deleted_app_leaves_nothing(kv: Kv, _clock: TestClock) {
    let (gone, kept) = (id("shop", "a"), id("blog", "a"));
    kv.delete_app(&gone.tenant, &gone.app).await.unwrap();
    for store in [&gone, &id("shop", "b"), &kept] {
        kv.write(store, vec![set("key", "x")]).await.unwrap();
    }
    kv.delete_app(&gone.tenant, &gone.app).await.unwrap();
    assert_eq!(value(&kv, &gone, "key"), None);
    assert_eq!(kv.list_stores(&gone.tenant, &gone.app).unwrap(), []);
    assert_eq!(value(&kv, &kept, "key").as_deref(), Some("x"));
    kv.write(&gone, vec![set("again", "x")]).await.unwrap();
    assert_eq!(keys(&kv.list(&gone, "", None, 10).unwrap()), ["again"]);
}
