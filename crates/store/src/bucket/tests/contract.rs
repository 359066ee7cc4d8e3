//! What any backend of [`Buckets`] has to keep. Each function gets an empty one.

use futures::future::join_all;

use super::{super::*, TestClock, begin, content, get, get_range, id, is_full, put, read, room};

/// Makes a test of each function of this module, with the backend that the expression gives.
macro_rules! contract_tests {
    ($backend:expr) => {
        contract_tests! { $backend;
            what_was_put_is_read_with_its_metadata,
            content_of_any_size_comes_back,
            an_upload_that_is_dropped_leaves_nothing,
            ranges_are_cut_at_the_end,
            conditions_are_decided_at_the_moment_of_the_write,
            conditions_of_a_read,
            of_uploads_that_race_on_one_condition_one_wins,
            a_reader_outlives_what_replaces_and_deletes,
            keys_are_listed_in_byte_order_by_prefix_and_page,
            common_prefixes_are_listed_once_in_pages,
            ten_thousand_keys_are_listed_in_pages,
            a_deletion_is_of_many_and_counts,
            a_copy_has_content_and_metadata,
            what_is_too_large_or_malformed_is_refused_with_a_remedy,
            a_bucket_is_never_more_than_full,
            parallel_uploads_do_not_pass_the_size_together,
            uploads_are_bounded,
            uploads_of_clients_leave_places_for_the_app_itself,
            readers_are_bounded,
            a_deletion_under_a_condition_spares_what_is_there_anew,
            stores_and_apps_are_apart,
            a_deleted_app_leaves_nothing,
            an_upload_that_began_before_a_deletion_brings_nothing_back,
        }
    };
    ($backend:expr; $($name:ident,)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let (buckets, clock, _kept) = $backend;
                $crate::bucket::tests::contract::$name(buckets, clock).await;
            }
        )*
    };
}
pub(super) use contract_tests;

fn etags(etags: &[&str]) -> Option<Vec<String>> {
    Some(etags.iter().map(|&etag| etag.to_owned()).collect())
}

fn keys(listed: &Listed) -> Vec<&str> {
    listed.blobs.iter().map(|blob| blob.key.as_str()).collect()
}

fn full_meta() -> Meta {
    Meta {
        content_type: Some("text/plain; charset=utf-8".into()),
        content_encoding: Some("gzip".into()),
        content_language: Some("de".into()),
        content_disposition: Some("attachment; filename=\"a.txt\"".into()),
        cache_control: Some("max-age=60".into()),
        custom: [("Größe".to_owned(), "a\nb\0".to_owned()), ("b".to_owned(), String::new())].into(),
    }
}

pub(super) async fn what_was_put_is_read_with_its_metadata(buckets: Buckets, clock: TestClock) {
    let store = id("shop", "uploads");
    assert_eq!(buckets.head(&store, "a").await.unwrap(), None);
    assert!(matches!(buckets.get(&store, "a", &Conditions::default(), None).await.unwrap(), Got::Absent));
    for (key, bytes) in [("a", 5), ("b/ü\0\u{10ffff}", 100_000)] {
        let content = content(1, bytes);
        let put = buckets.put_bytes(room(&store), key.into(), full_meta(), Conditions::default(), content.clone());
        let blob = put.await.unwrap().unwrap();
        let expected = Blob {
            key: key.into(),
            size: bytes as u64,
            etag: minnow_model::Digest::of(&content).hex(),
            uploaded_ms: clock.now_ms(),
            meta: full_meta(),
        };
        assert_eq!(blob, expected);
        clock.advance(1);
        assert_eq!(buckets.head(&store, key).await.unwrap().as_ref(), Some(&expected));
        let got = buckets.get(&store, key, &Conditions::default(), None).await.unwrap();
        let Got::Found { blob, range, content: mut found } = got else { panic!() };
        assert_eq!((blob, range), (expected, 0..bytes as u64));
        assert_eq!(read(&mut found).await, content);
        // A put replaces everything.
        let blob = put_anew(&buckets, &store, key).await;
        assert_eq!((blob.size, blob.meta, blob.uploaded_ms), (0, Meta::default(), clock.now_ms()));
        assert_eq!(get(&buckets, &store, key).await.unwrap(), b"");
    }
}

async fn put_anew(buckets: &Buckets, store: &StoreId, key: &str) -> Blob {
    begin(buckets, room(store), key).await.finish().await.unwrap().unwrap()
}

pub(super) async fn content_of_any_size_comes_back(buckets: Buckets, _clock: TestClock) {
    let store = id("shop", "uploads");
    // Around the sizes at which it is kept, buffered and read in another way.
    for bytes in [0, 1, 16 << 10, (16 << 10) + 1, PIECE_BYTES, PIECE_BYTES + 1, 1 << 20, (1 << 20) + 1, (9 << 20) + 7] {
        for piece in [4096, (1 << 20) + 77, 16 << 20] {
            if bytes / piece > 300 {
                continue;
            }
            let content = content(bytes, bytes);
            let mut upload = begin(&buckets, room(&store), "streamed").await;
            for piece in content.chunks(piece) {
                upload.write(Bytes::copy_from_slice(piece)).await.unwrap();
            }
            assert_eq!(upload.size_so_far(), bytes as u64);
            let blob = upload.finish().await.unwrap().unwrap();
            assert_eq!(blob.etag, minnow_model::Digest::of(&content).hex());
            assert!(get(&buckets, &store, "streamed").await.unwrap() == content, "{bytes} in pieces of {piece}");
        }
        let content = content(bytes + 1, bytes);
        put(&buckets, &store, "whole", content.clone()).await;
        assert!(get(&buckets, &store, "whole").await.unwrap() == content, "{bytes}");
    }
}

pub(super) async fn an_upload_that_is_dropped_leaves_nothing(buckets: Buckets, _clock: TestClock) {
    let store = id("shop", "uploads");
    for bytes in [5, 100_000, 3 << 20] {
        let mut upload = begin(&buckets, Bucket { store: &store, size_bytes: 4 << 20 }, "a").await;
        upload.write(content(1, bytes)).await.unwrap();
        drop(upload);
        assert_eq!(buckets.head(&store, "a").await.unwrap(), None);
    }
    // Nor does it count any more.
    let mut upload = begin(&buckets, Bucket { store: &store, size_bytes: 4 << 20 }, "a").await;
    upload.write(content(1, 4_000_000)).await.unwrap();
    upload.finish().await.unwrap().unwrap();
}

pub(super) async fn ranges_are_cut_at_the_end(buckets: Buckets, _clock: TestClock) {
    let store = id("shop", "uploads");
    let from = |offset, length| Some(Range::From { offset, length });
    for bytes in [1000u64, 700_000] {
        let content = content(3, bytes as usize);
        put(&buckets, &store, "a", content.clone()).await;
        for (range, expected) in [
            (from(0, None), 0..bytes),
            (from(10, None), 10..bytes),
            (from(10, Some(5)), 10..15),
            (from(10, Some(0)), 10..10),
            (from(10, Some(u64::MAX)), 10..bytes),
            (from(bytes - 1, Some(7)), bytes - 1..bytes),
            (Some(Range::Last(1)), bytes - 1..bytes),
            (Some(Range::Last(bytes + 1)), 0..bytes),
        ] {
            let found = get_range(&buckets, &store, "a", range).await.unwrap();
            assert!(found == content[expected.start as usize..expected.end as usize], "{range:?}");
        }
        for range in [from(bytes, None), from(u64::MAX, Some(u64::MAX)), Some(Range::Last(0))] {
            let got = buckets.get(&store, "a", &Conditions::default(), range).await;
            let Err(error @ BucketError::Range { size }) = got else { panic!("{range:?}") };
            assert_eq!((size, error.is_refusal()), (bytes, true));
        }
    }
    put(&buckets, &store, "empty", "").await;
    for range in [None, from(0, None), from(0, Some(5)), Some(Range::Last(5))] {
        assert_eq!(get_range(&buckets, &store, "empty", range).await.unwrap(), b"", "{range:?}");
    }
    let got = buckets.get(&store, "empty", &Conditions::default(), from(1, None)).await;
    assert!(matches!(got, Err(BucketError::Range { size: 0 })));
}

pub(super) async fn conditions_are_decided_at_the_moment_of_the_write(buckets: Buckets, clock: TestClock) {
    let store = id("shop", "uploads");
    let now = clock.now_ms();
    let put_if = async |only_if: &Conditions, text: &str| {
        let (meta, content) = (Meta::default(), Bytes::copy_from_slice(text.as_bytes()));
        buckets.put_bytes(room(&store), "a".into(), meta, only_if.clone(), content).await.unwrap().is_some()
    };
    let if_match = |etags| Conditions { if_match: etags, ..Conditions::default() };
    let if_none_match = |etags| Conditions { if_none_match: etags, ..Conditions::default() };
    let before = |ms| Conditions { uploaded_before_ms: Some(ms), ..Conditions::default() };
    let after = |ms| Conditions { uploaded_after_ms: Some(ms), ..Conditions::default() };
    // Nothing is there.
    assert!(!put_if(&if_match(etags(&["*"])), "x").await);
    assert!(!put_if(&if_match(etags(&[])), "x").await);
    assert!(!put_if(&after(0), "x").await);
    assert!(put_if(&before(0), "x").await);
    assert_eq!(buckets.delete(&store, vec!["a".into()]).await.unwrap(), 1);
    assert!(put_if(&if_none_match(etags(&["*"])), "first").await);
    // Something is.
    let first = buckets.head(&store, "a").await.unwrap().unwrap().etag;
    assert!(!put_if(&if_none_match(etags(&["*"])), "x").await);
    assert!(!put_if(&if_none_match(etags(&["y", &first])), "x").await);
    assert!(!put_if(&if_match(etags(&["y"])), "x").await);
    assert!(!put_if(&before(now), "x").await);
    assert!(!put_if(&after(now), "x").await);
    assert_eq!(get(&buckets, &store, "a").await.unwrap(), b"first");
    assert!(put_if(&before(now + 1), "first").await);
    assert!(put_if(&after(now - 1), "first").await);
    assert!(put_if(&if_none_match(etags(&["y"])), "first").await);
    assert!(put_if(&if_match(etags(&["*"])), "first").await);
    assert!(put_if(&if_match(etags(&["y", &first])), "second").await);
    assert!(!put_if(&if_match(etags(&[&first])), "x").await);
    // At the end of an upload, not at its beginning.
    let only_if = if_none_match(etags(&["*"]));
    let mut upload = buckets.put(room(&store), "b".into(), Meta::default(), only_if).await.unwrap();
    upload.write(content(1, 2 << 20)).await.unwrap();
    put(&buckets, &store, "b", "was faster").await;
    assert_eq!(upload.finish().await.unwrap(), None);
    assert_eq!(get(&buckets, &store, "b").await.unwrap(), b"was faster");
}

pub(super) async fn conditions_of_a_read(buckets: Buckets, clock: TestClock) {
    let store = id("shop", "uploads");
    let blob = put(&buckets, &store, "a", "text").await;
    let now = clock.now_ms();
    let none = Conditions::default();
    for (only_if, met) in [
        (none.clone(), true),
        (Conditions { if_match: etags(&[&blob.etag]), ..none.clone() }, true),
        (Conditions { if_match: etags(&["\"x\""]), ..none.clone() }, false),
        (Conditions { if_none_match: etags(&[&blob.etag]), ..none.clone() }, false),
        (Conditions { if_none_match: etags(&["*"]), ..none.clone() }, false),
        (Conditions { uploaded_after_ms: Some(now), ..none.clone() }, false),
        // The etag is the better witness.
        (Conditions { if_none_match: etags(&["x"]), uploaded_after_ms: Some(now), ..none.clone() }, true),
        (Conditions { if_match: etags(&["*"]), uploaded_before_ms: Some(now), ..none.clone() }, true),
        (Conditions { uploaded_before_ms: Some(now), ..none.clone() }, false),
    ] {
        // Unmet also where the range would be refused.
        let range = (!met).then_some(Range::Last(0));
        match buckets.get(&store, "a", &only_if, range).await.unwrap() {
            Got::Absent => panic!("{only_if:?}"),
            Got::Unmet(found) => assert!(!met && found == blob, "{only_if:?}"),
            Got::Found { mut content, .. } => assert!(met && read(&mut content).await == b"text", "{only_if:?}"),
        }
        assert!(matches!(buckets.get(&store, "absent", &only_if, None).await.unwrap(), Got::Absent));
    }
}

pub(super) async fn of_uploads_that_race_on_one_condition_one_wins(buckets: Buckets, _clock: TestClock) {
    let store = id("shop", "uploads");
    for bytes in [100, 50_000] {
        let key = bytes.to_string();
        let race = join_all((0..16).map(|seed| {
            let (buckets, store, key) = (buckets.clone(), store.clone(), key.clone());
            tokio::spawn(async move {
                let only_if = Conditions { if_none_match: etags(&["*"]), ..Conditions::default() };
                let content = content(seed, bytes);
                buckets.put_bytes(room(&store), key, Meta::default(), only_if, content).await.unwrap()
            })
        }));
        let winners: Vec<_> = race.await.into_iter().filter_map(|put| put.unwrap()).collect();
        assert_eq!(winners.len(), 1);
        assert_eq!(buckets.head(&store, &key).await.unwrap().as_ref(), winners.first());
    }
}

pub(super) async fn a_reader_outlives_what_replaces_and_deletes(buckets: Buckets, _clock: TestClock) {
    let store = id("shop", "uploads");
    let content = content(5, 3 << 20);
    for replaced in [true, false] {
        put(&buckets, &store, "a", content.clone()).await;
        let got = buckets.get(&store, "a", &Conditions::default(), None).await.unwrap();
        let Got::Found { content: mut reader, .. } = got else { panic!() };
        let first = reader.next().await.unwrap().unwrap();
        if replaced {
            put(&buckets, &store, "a", "new").await;
            assert_eq!(get(&buckets, &store, "a").await.unwrap(), b"new");
        }
        assert_eq!(buckets.delete(&store, vec!["a".into()]).await.unwrap(), 1);
        let mut all = first.to_vec();
        all.extend(read(&mut reader).await);
        assert!(all == content);
        assert_eq!(get(&buckets, &store, "a").await, None);
    }
}

pub(super) async fn keys_are_listed_in_byte_order_by_prefix_and_page(buckets: Buckets, _clock: TestClock) {
    let store = id("shop", "uploads");
    assert_eq!(buckets.list(&store, "", None, None, 1).await.unwrap(), Listed::default());
    // In the order of their bytes: the last two differ in UTF-16.
    let all = ["B", "a", "a/", "a/1", "a/10", "a/2", "a/\u{10ffff}", "a0", "b", "å", "\u{ffee}", "\u{1f600}"];
    for key in all.iter().rev() {
        put(&buckets, &store, key, "x").await;
    }
    for (prefix, after, limit, expected, next) in [
        ("", None, 1000, &all[..], None),
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
        let listed = buckets.list(&store, prefix, after, None, limit).await.unwrap();
        assert_eq!((keys(&listed), listed.next.as_deref()), (expected.to_vec(), next), "{prefix} {after:?} {limit}");
        assert_eq!(listed.prefixes, Vec::<String>::new());
    }
    assert_eq!(buckets.list(&store, "a/1", None, None, 1).await.unwrap().blobs[0], {
        buckets.head(&store, "a/1").await.unwrap().unwrap()
    });
}

pub(super) async fn common_prefixes_are_listed_once_in_pages(buckets: Buckets, _clock: TestClock) {
    let store = id("shop", "uploads");
    for key in ["a", "a/", "a/b/1", "a/b/2", "a/c", "a/d/1", "a0", "b/1", "c", "ä/x", "ä/y"] {
        put(&buckets, &store, key, "x").await;
    }
    for (prefix, delimiter, expected) in [
        ("", "/", &["a", "a/*", "a0", "b/*", "c", "ä/*"][..]),
        ("a/", "/", &["a/", "a/b/*", "a/c", "a/d/*"]),
        ("a", "/", &["a", "a/*", "a0"]),
        ("a/b", "/", &["a/b/*"]),
        ("a/b/", "/", &["a/b/1", "a/b/2"]),
        ("", "/b/", &["a", "a/", "a/b/*", "a/c", "a/d/1", "a0", "b/1", "c", "ä/x", "ä/y"]),
        ("", "", &["a", "a/", "a/b/1", "a/b/2", "a/c", "a/d/1", "a0", "b/1", "c", "ä/x", "ä/y"]),
        ("x", "/", &[]),
    ] {
        for limit in 1..=expected.len().max(1) as u32 + 1 {
            let (mut found, mut after) = (Vec::new(), None);
            loop {
                let listed = buckets.list(&store, prefix, after.as_deref(), Some(delimiter), limit).await.unwrap();
                let mut page: Vec<String> = keys(&listed).into_iter().map(str::to_owned).collect();
                page.extend(listed.prefixes.iter().map(|prefix| format!("{prefix}*")));
                assert!(page.len() <= limit as usize);
                page.sort();
                found.extend(page);
                after = listed.next;
                if after.is_none() {
                    break;
                }
                assert!(found.len() < expected.len(), "{prefix} {delimiter} {limit}: {found:?}");
            }
            assert_eq!(found, expected, "{prefix} {delimiter} {limit}");
        }
    }
}

pub(super) async fn ten_thousand_keys_are_listed_in_pages(buckets: Buckets, _clock: TestClock) {
    let store = id("shop", "uploads");
    let all: Vec<String> = (0..10_000).map(|number| format!("{:02}/{:02}", number / 100, number % 100)).collect();
    for keys in all.chunks(500) {
        join_all(keys.iter().map(|key| put(&buckets, &store, key, "x"))).await;
    }
    let (mut found, mut after, mut pages) = (Vec::new(), None, 0);
    loop {
        let listed = buckets.list(&store, "", after.as_deref(), None, 1000).await.unwrap();
        found.extend(keys(&listed).into_iter().map(str::to_owned));
        pages += 1;
        after = listed.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!((found == all, pages), (true, 10));
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let listed = buckets.list(&store, "", after.as_deref(), Some("/"), 7).await.unwrap();
        assert_eq!(listed.blobs, []);
        found.extend(listed.prefixes);
        after = listed.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(found, (0..100).map(|number| format!("{number:02}/")).collect::<Vec<_>>());
    for keys in all.chunks(1000) {
        assert_eq!(buckets.delete(&store, keys.to_vec()).await.unwrap(), 1000);
    }
    assert_eq!(buckets.list(&store, "", None, Some("/"), 1000).await.unwrap(), Listed::default());
}

pub(super) async fn a_deletion_is_of_many_and_counts(buckets: Buckets, _clock: TestClock) {
    let store = id("shop", "uploads");
    let owned = |keys: &[&str]| keys.iter().map(|&key| key.to_owned()).collect::<Vec<_>>();
    assert_eq!(buckets.delete(&store, owned(&["a"])).await.unwrap(), 0);
    for (key, bytes) in [("a", 1), ("b", 100_000), ("c", 2)] {
        put(&buckets, &store, key, content(1, bytes)).await;
    }
    assert_eq!(buckets.delete(&store, owned(&["a", "b", "a", "never"])).await.unwrap(), 2);
    assert_eq!(buckets.delete(&store, Vec::new()).await.unwrap(), 0);
    assert_eq!(keys(&buckets.list(&store, "", None, None, 10).await.unwrap()), ["c"]);
    // All or none.
    assert!(buckets.delete(&store, owned(&["c", ""])).await.is_err());
    assert!(buckets.head(&store, "c").await.unwrap().is_some());
}

pub(super) async fn a_copy_has_content_and_metadata(buckets: Buckets, clock: TestClock) {
    let (from, to) = (id("shop", "uploads"), id("blog", "archive"));
    for (number, bytes) in [5, 3 << 20].into_iter().enumerate() {
        let content = content(2, bytes);
        let put = buckets.put_bytes(room(&from), "a".into(), full_meta(), Conditions::default(), content.clone());
        let source = put.await.unwrap().unwrap();
        clock.advance(10);
        let none = Conditions::default;
        let copy = buckets.copy((&from, "a"), room(&to), "b".into(), none()).await.unwrap().unwrap();
        assert_eq!(copy, Blob { key: "b".into(), uploaded_ms: clock.now_ms(), ..source.clone() });
        assert_eq!(buckets.delete(&from, vec!["a".into()]).await.unwrap(), 1);
        assert!(get(&buckets, &to, "b").await.unwrap() == content);
        // Onto itself, which is a new upload of it.
        clock.advance(10);
        let copy = buckets.copy((&to, "b"), room(&to), "b".into(), none()).await.unwrap().unwrap();
        assert_eq!(copy.uploaded_ms, clock.now_ms());
        assert!(get(&buckets, &to, "b").await.unwrap() == content);
        let only_if = Conditions { if_none_match: etags(&["*"]), ..none() };
        assert_eq!(buckets.copy((&to, "b"), room(&to), "b".into(), only_if.clone()).await.unwrap(), None);
        let there = format!("c{number}");
        assert!(buckets.copy((&to, "b"), room(&to), there, only_if).await.unwrap().is_some());
        let small = Bucket { store: &to, size_bytes: 100 };
        assert!(is_full(&buckets.copy((&to, "b"), small, "d".into(), none()).await.unwrap_err()));
        let error = buckets.copy((&from, "a"), room(&to), "d".into(), none()).await.unwrap_err();
        assert!(matches!(&error, BucketError::NoSource { key } if key == "a") && error.is_refusal(), "{error}");
        assert_eq!(get(&buckets, &to, "d").await, None);
    }
}

pub(super) async fn what_is_too_large_or_malformed_is_refused_with_a_remedy(buckets: Buckets, _clock: TestClock) {
    let store = id("shop", "uploads");
    let long = "k".repeat(MAX_KEY_BYTES + 1);
    let put = async |key: &str, meta: Meta| {
        let put = buckets.put_bytes(room(&store), key.into(), meta.clone(), Conditions::default(), Bytes::new()).await;
        let begun = buckets.put(room(&store), key.into(), meta, Conditions::default()).await.map(drop);
        assert_eq!(put.is_err(), begun.is_err());
        put.map(drop)
    };
    let error = |result: Result<(), BucketError>| {
        let error = result.unwrap_err();
        assert!(error.is_refusal(), "{error}");
        error.to_string()
    };
    let meta = |content_type: &str| Meta { content_type: Some(content_type.into()), ..Meta::default() };
    let custom =
        |name: &str, value: usize| Meta { custom: [(name.to_owned(), "x".repeat(value))].into(), ..Meta::default() };
    let get = async |key: &str| buckets.get(&store, key, &Conditions::default(), None).await.map(drop);
    let list = async |prefix: &str, after: &str, delimiter: &str, limit| {
        buckets.list(&store, prefix, Some(after), Some(delimiter), limit).await.map(drop)
    };
    for (told, expected) in [
        (error(put("", Meta::default()).await), "at least one character"),
        (error(put(&long, Meta::default()).await), "1025 bytes, the most is 1024; shorten it, or use its hash"),
        (error(get("").await), "at least one character"),
        (error(get(&long).await), "use its hash"),
        (error(buckets.head(&store, &long).await.map(drop)), "1024"),
        (error(buckets.delete(&store, vec![long.clone()]).await.map(drop)), "1024"),
        (error(buckets.delete(&store, vec!["a".into(); MAX_DELETE + 1]).await.map(drop)), "use several calls"),
        (error(list(&long, "", "", 1).await), "1024"),
        (error(list("", &long, "", 1).await), "1024"),
        (error(list("", "", &long, 1).await), "1024"),
        (error(list("", "", "", 0).await), "ask for 1 to 1000"),
        (error(list("", "", "", MAX_PAGE + 1).await), "ask for 1 to 1000"),
        (error(put("a", meta("")).await), "the content-type is no value of a header"),
        (error(put("a", meta("text/html\r\nset-cookie: a=b")).await), "visible ASCII"),
        (error(put("a", meta("text/html\0")).await), "visible ASCII"),
        (error(put("a", meta("text/größe")).await), "visible ASCII"),
        (error(put("a", meta(" text/html")).await), "without spaces around"),
        (error(put("a", meta(&"x".repeat(1025))).await), "the most is 1024"),
        (error(put("a", custom("", 1)).await), "a name in the custom metadata is empty"),
        (error(put("a", custom("name", 8189)).await), "8193 bytes, names and values, the most is 8192"),
    ] {
        assert!(told.contains(expected), "{told}");
    }
    assert_eq!(buckets.list(&store, "", None, None, 1).await.unwrap(), Listed::default());
    // The largest of everything is kept.
    let long = "k".repeat(MAX_KEY_BYTES);
    let meta = Meta { content_type: Some("x".repeat(MAX_HEADER_BYTES)), ..custom("name", 8188) };
    put(&long, meta.clone()).await.unwrap();
    assert_eq!(buckets.head(&store, &long).await.unwrap().unwrap().meta, meta);
    for number in 0..MAX_PAGE {
        let key = format!("{number:03}").repeat(300);
        buckets.put_bytes(room(&store), key, meta.clone(), Conditions::default(), Bytes::new()).await.unwrap();
        if number == 399 {
            break;
        }
    }
    // A page of them is bounded in bytes, and there is another.
    let listed = buckets.list(&store, "", None, None, MAX_PAGE).await.unwrap();
    assert!((100..400).contains(&listed.blobs.len()) && listed.next.is_some(), "{}", listed.blobs.len());
}

pub(super) async fn a_bucket_is_never_more_than_full(buckets: Buckets, _clock: TestClock) {
    let store = id("shop", "uploads");
    let bucket = Bucket { store: &store, size_bytes: 1 << 20 };
    let put = async |key: &str, bytes: usize| {
        let (meta, only_if) = (Meta::default(), Conditions::default());
        buckets.put_bytes(bucket, key.into(), meta, only_if, content(1, bytes)).await.map(|blob| blob.unwrap().size)
    };
    assert!(is_full(&put("a", (1 << 20) + 1).await.unwrap_err()));
    put("a", 600_000).await.unwrap();
    let error = put("b", 600_000).await.unwrap_err();
    assert!(is_full(&error) && error.to_string().contains("larger `size` in the manifest"), "{error}");
    // The old content is there until the new one is.
    assert!(is_full(&put("a", 500_000).await.unwrap_err()));
    put("a", 400_000).await.unwrap();
    put("b", 600_000).await.unwrap();
    // Small ones that lie in the index, and empty ones count, too.
    let mut small = 0;
    while put(&format!("small{small}"), 10_000).await.is_ok() {
        small += 1;
    }
    let mut empty = 0;
    while put(&format!("empty{empty}"), 0).await.is_ok() {
        empty += 1;
    }
    assert!(small <= 5 && empty < 100, "{small} {empty}");
    // Told as soon as it shows.
    assert_eq!(buckets.delete(&store, vec!["a".into()]).await.unwrap(), 1);
    let mut upload = begin(&buckets, bucket, "c").await;
    let mut written = 0;
    let error = loop {
        match upload.write(content(2, 10_000)).await {
            Ok(()) => written += 10_000,
            Err(error) => break error,
        }
    };
    assert!(is_full(&error) && (380_000..420_000).contains(&written), "{written}: {error}");
    // It is over, and finishing it is an error, not a blob that ends early.
    assert!(matches!(upload.write(Bytes::new()).await, Err(BucketError::Failed) | Ok(())));
    assert!(matches!(upload.finish().await, Err(BucketError::Failed)));
    assert_eq!(buckets.head(&store, "c").await.unwrap(), None);
    put("c", 380_000).await.unwrap();
    // A smaller size than what is there refuses more, and keeps what is there.
    let smaller = Bucket { size_bytes: 1000, ..bucket };
    let put = buckets.put_bytes(smaller, "d".into(), Meta::default(), Conditions::default(), Bytes::new());
    assert!(is_full(&put.await.unwrap_err()));
    assert_eq!(get(&buckets, &store, "c").await.unwrap().len(), 380_000);
}

pub(super) async fn parallel_uploads_do_not_pass_the_size_together(buckets: Buckets, _clock: TestClock) {
    let store = id("shop", "uploads");
    let bucket = Bucket { store: &store, size_bytes: 20 << 20 };
    // Half of it is stored. Of uploads of 4 MiB that go on at the same time, two fit beside it.
    put(&buckets, &store, "there", content(0, 10 << 20)).await;
    let mut uploads = Vec::new();
    for number in 0..8 {
        uploads.push(Some(begin(&buckets, bucket, &number.to_string()).await));
    }
    for _ in 0..16 {
        for upload in &mut uploads {
            let Some(going) = upload else { continue };
            if let Err(error) = going.write(content(1, 256 << 10)).await {
                assert!(is_full(&error), "{error}");
                *upload = None;
            }
        }
        let under_way: u64 = uploads.iter().flatten().map(Upload::size_so_far).sum();
        assert!(under_way <= 10 << 20, "{under_way}");
    }
    let going: Vec<Upload> = uploads.into_iter().flatten().collect();
    assert_eq!(going.len(), 2);
    // What is under way counts for those who come with all at once.
    let late = async |bytes| {
        let put = buckets.put_bytes(bucket, "late".into(), Meta::default(), Conditions::default(), content(3, bytes));
        put.await
    };
    assert!(is_full(&late(3 << 20).await.unwrap_err()));
    let mut small = Vec::new();
    let error = loop {
        let (key, none) = (format!("small{}", small.len()), Conditions::default());
        match buckets.put_bytes(bucket, key.clone(), Meta::default(), none, content(4, 10_000)).await {
            Ok(_) => small.push(key),
            Err(error) => break error,
        }
    };
    assert!(is_full(&error) && (200..210).contains(&small.len()), "{}: {error}", small.len());
    // Stored, they count once: the room that is left is left.
    for finished in join_all(going.into_iter().map(Upload::finish)).await {
        finished.unwrap().unwrap();
    }
    assert_eq!(buckets.delete(&store, small.clone()).await.unwrap(), small.len() as u64);
    late(1_900_000).await.unwrap().unwrap();
    assert!(is_full(&late(300_000).await.unwrap_err()));
}

pub(super) async fn uploads_are_bounded(buckets: Buckets, _clock: TestClock) {
    let store = id("shop", "uploads");
    let mut uploads = Vec::new();
    for number in 0..MAX_UPLOADS {
        uploads.push(begin(&buckets, room(&store), &number.to_string()).await);
    }
    let more = async || buckets.put(room(&store), "more".into(), Meta::default(), Conditions::default()).await;
    let Err(error) = more().await else { panic!() };
    assert!(matches!(error, BucketError::Busy { .. }) && error.is_refusal(), "{error}");
    assert_eq!(
        error.to_string(),
        "64 uploads are under way already, as many as may be in a bucket; end some and try again"
    );
    // Neither other buckets nor content that is there as a whole wait for them.
    drop(begin(&buckets, room(&id("shop", "other")), "a").await);
    put(&buckets, &store, "small", "x").await;
    put(&buckets, &store, "large", content(1, 100_000)).await;
    drop(uploads.pop());
    uploads.push(more().await.unwrap());
    assert!(more().await.is_err());
    drop(uploads.pop().unwrap().finish().await.unwrap().unwrap());
    more().await.unwrap();
    // On the node.
    let mut others = Vec::new();
    let mut fill = async |app: &str| {
        for bucket in 0.. {
            let store = id(app, &format!("b{bucket}"));
            for _ in 0..MAX_UPLOADS {
                match buckets.put(room(&store), "a".into(), Meta::default(), Conditions::default()).await {
                    Ok(upload) => others.push(upload),
                    Err(error) => return (error, others.len()),
                }
            }
        }
        unreachable!()
    };
    let (error, count) = fill("shop").await;
    assert_eq!(count + uploads.len(), MAX_APP_UPLOADS);
    assert!(error.to_string().contains("256 uploads are under way already, as many as may be for an app"), "{error}");
    fill("blog").await;
    fill("wiki").await;
    let (error, count) = fill("chat").await;
    assert_eq!(count + uploads.len(), MAX_NODE_UPLOADS);
    assert!(error.to_string().contains("1000 uploads are under way already, as many as may be on the node"), "{error}");
}

pub(super) async fn uploads_of_clients_leave_places_for_the_app_itself(buckets: Buckets, _clock: TestClock) {
    let store = id("shop", "uploads");
    let client = async || buckets.put_of_client(room(&store), "a".into(), Meta::default(), Conditions::default()).await;
    let mut uploads = Vec::new();
    let error = loop {
        match client().await {
            Ok(upload) => uploads.push(upload),
            Err(error) => break error,
        }
    };
    assert_eq!(uploads.len(), MAX_CLIENT_UPLOADS);
    assert!(error.to_string().contains("in a bucket from signed URLs"), "{error}");
    let mut own = Vec::new();
    for _ in MAX_CLIENT_UPLOADS..MAX_UPLOADS {
        own.push(begin(&buckets, room(&store), "b").await);
    }
    // A place of the app's own is none for a client.
    drop(own);
    assert!(client().await.is_err());
    drop(uploads.pop());
    client().await.unwrap();
}

pub(super) async fn readers_are_bounded(buckets: Buckets, _clock: TestClock) {
    let (shop, blog) = (id("shop", "a"), id("blog", "a"));
    for store in [&shop, &blog, &id("wiki", "a")] {
        put(&buckets, store, "small", "x").await;
        put(&buckets, store, "large", content(1, INLINE_BYTES + 1)).await;
    }
    let open = async |store: &StoreId, key: &str| {
        let got = buckets.get(store, key, &Conditions::default(), Some(Range::Last(1))).await;
        got.map(|got| match got {
            Got::Found { content, .. } => content,
            _ => panic!("{key} is not there"),
        })
    };
    let mut contents = Vec::new();
    for _ in 0..MAX_APP_READERS {
        contents.push(open(&shop, "large").await.unwrap());
    }
    let Err(error) = open(&shop, "large").await else { panic!("more") };
    assert!(matches!(error, BucketError::Busy { .. }) && error.is_refusal(), "{error}");
    let expected = "1000 blobs are being read already, as many as may be for an app; end some and try again";
    assert_eq!(error.to_string(), expected);
    // What has no file takes no place.
    contents.push(open(&shop, "small").await.unwrap());
    for _ in MAX_APP_READERS..MAX_NODE_READERS {
        contents.push(open(&blog, "large").await.unwrap());
    }
    let wiki = id("wiki", "a");
    let Err(error) = open(&wiki, "large").await else { panic!("more") };
    assert!(error.to_string().contains("2000 blobs are being read already, as many as may be on the node"), "{error}");
    drop(contents);
    open(&wiki, "large").await.unwrap();
}

pub(super) async fn a_deletion_under_a_condition_spares_what_is_there_anew(buckets: Buckets, _clock: TestClock) {
    let store = id("shop", "uploads");
    let before = put(&buckets, &store, "a", "before").await;
    let that = || Conditions { if_match: etags(&[&before.etag]), ..Conditions::default() };
    put(&buckets, &store, "a", "after").await;
    assert_eq!(buckets.delete_if(&store, vec!["a".into()], that()).await.unwrap(), 0);
    assert_eq!(get(&buckets, &store, "a").await.unwrap(), b"after");
    put(&buckets, &store, "a", "before").await;
    assert_eq!(buckets.delete_if(&store, vec!["a".into(), "b".into()], that()).await.unwrap(), 1);
    assert_eq!(get(&buckets, &store, "a").await, None);
}

pub(super) async fn stores_and_apps_are_apart(buckets: Buckets, _clock: TestClock) {
    let stores = [id("shop", "a"), id("shop", "b"), id("blog", "a")];
    for (number, store) in stores.iter().enumerate() {
        put(&buckets, store, "key", content(number, 50_000 + number)).await;
    }
    for (number, store) in stores.iter().enumerate() {
        assert!(get(&buckets, store, "key").await.unwrap() == content(number, 50_000 + number));
    }
    let listed = buckets.list_stores(&stores[0].tenant, &stores[0].app).unwrap();
    assert_eq!(listed.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    assert!(listed.iter().all(|(_, bytes)| *bytes > 50_000), "{listed:?}");
    let mut apps: Vec<_> = buckets.apps().unwrap().into_iter().map(|(_, app)| app.to_string()).collect();
    apps.sort();
    assert_eq!(apps, ["blog", "shop"]);
}

pub(super) async fn a_deleted_app_leaves_nothing(buckets: Buckets, _clock: TestClock) {
    let (gone, kept) = (id("shop", "a"), id("blog", "a"));
    buckets.delete_app(&gone.tenant, &gone.app).await.unwrap();
    for store in [&gone, &id("shop", "b"), &kept] {
        put(&buckets, store, "small", "x").await;
        put(&buckets, store, "large", content(1, 50_000)).await;
    }
    let mut under_way = begin(&buckets, room(&gone), "upload").await;
    under_way.write(content(1, 2 << 20)).await.unwrap();
    buckets.delete_app(&gone.tenant, &gone.app).await.unwrap();
    assert_eq!(get(&buckets, &gone, "small").await, None);
    assert_eq!(get(&buckets, &gone, "large").await, None);
    assert_eq!(buckets.list_stores(&gone.tenant, &gone.app).unwrap(), []);
    assert_eq!(get(&buckets, &kept, "large").await.unwrap().len(), 50_000);
    put(&buckets, &gone, "again", content(2, 50_000)).await;
    // An upload to the bucket that is gone does not come into the one that has its name now.
    let error = under_way.finish().await.unwrap_err();
    assert!(matches!(error, BucketError::Gone) && error.is_refusal(), "{error}");
    assert_eq!(keys(&buckets.list(&gone, "", None, None, 10).await.unwrap()), ["again"]);
}

pub(super) async fn an_upload_that_began_before_a_deletion_brings_nothing_back(buckets: Buckets, _clock: TestClock) {
    let (store, other) = (id("shop", "a"), id("blog", "a"));
    for there in [false, true] {
        for (before, after) in [(0, 0), (0, 10), (10, 0), (10, 50_000), (10, 2 << 20), (2 << 20, 10)] {
            if there {
                put(&buckets, &store, "there", "x").await;
            }
            let mut uploads = Vec::new();
            for store in [&store, &other] {
                let mut upload = begin(&buckets, room(store), "a").await;
                upload.write(content(1, before)).await.unwrap();
                uploads.push(upload);
            }
            buckets.delete_app(&store.tenant, &store.app).await.unwrap();
            let of_other = uploads.pop().unwrap();
            let mut upload = uploads.pop().unwrap();
            let finished = match upload.write(content(2, after)).await {
                Ok(()) => upload.finish().await,
                Err(error) => Err(error),
            };
            let error = finished.expect_err("it was kept");
            assert!(matches!(error, BucketError::Gone), "{there}, {before}, {after}: {error}");
            assert_eq!(buckets.list_stores(&store.tenant, &store.app).unwrap(), [], "{there}, {before}, {after}");
            // That of another app goes on, also where it is the first of its bucket.
            of_other.finish().await.unwrap().unwrap();
            assert_eq!(get(&buckets, &other, "a").await.unwrap().len(), before);
            buckets.delete_app(&other.tenant, &other.app).await.unwrap();
        }
    }
    // Nor does it come into the next app of that name, whose own do, the first as well.
    let mut old = begin(&buckets, room(&store), "a").await;
    old.write("old".into()).await.unwrap();
    buckets.delete_app(&store.tenant, &store.app).await.unwrap();
    let mut new = begin(&buckets, room(&store), "a").await;
    new.write("new".into()).await.unwrap();
    new.finish().await.unwrap().unwrap();
    assert!(matches!(old.finish().await, Err(BucketError::Gone)));
    assert_eq!(get(&buckets, &store, "a").await.unwrap(), b"new");
}
