//! The backend of SQLite files.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::{FileExt as _, PermissionsExt as _},
    path::PathBuf,
    sync::Mutex,
};

use futures::{FutureExt as _, poll};
use minnow_model::event::MAX_DATA_BYTES;

use super::{
    super::{Bound, DEDUP_WINDOW, MAX_DEAD, Ready, TopicError, Which, embedded::QUEUED_BYTES},
    contract::contract_tests,
    *,
};
use crate::{OpenBounds, StoreError};

contract_tests!(embedded_topics());

fn file(temp: &TempDir, name: &str) -> PathBuf {
    temp.path().join(format!("topic/default/shop/{name}.db"))
}

fn count(temp: &TempDir, table: &str) -> u64 {
    let file = rusqlite::Connection::open(file(temp, "orders")).unwrap();
    file.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap()
}

#[tokio::test]
async fn everything_is_there_after_opening_again() {
    let (topics, clock, temp) = embedded_topics();
    follow(&topics, &["a"]).await;
    let sent = vec![own_id(event("1")), now(event("2")), now(event("3")), later(event("4"), Duration::from_secs(5))];
    topics.publish(&orders(), &rules(), sent).await.unwrap();
    let a = consumer(&topics, "a").await;
    let batch = next(&a, 3).await;
    settle(&a, &batch, |delivery| match delivery.position {
        1 => Settled::Done,
        2 => retry(5),
        _ => dead("no"),
    })
    .await;
    drop(a);
    // Ends when what the consumer left was written.
    drop(consumer(&topics, "a").await);
    while topics.embedded.is_consumed(&orders(), &function("a")) {
        tokio::task::yield_now().await;
    }
    let before = topics.survey(&orders()).await.unwrap();
    drop(topics);
    // The last consumer's last write has its share of the topics still.
    while file(&temp, "orders").with_extension("db-wal").exists() {
        tokio::task::yield_now().await;
    }
    assert_eq!(fs::metadata(file(&temp, "orders")).unwrap().permissions().mode() & 0o777, 0o600);
    Topics::check_file(&file(&temp, "orders")).unwrap();
    let topics = open(&temp, &clock);
    assert_eq!(topics.survey(&orders()).await.unwrap(), before);
    clock.advance(Duration::from_secs(5));
    assert_eq!(topics.release_due(&orders(), &rules()).await.unwrap(), None);
    let a = consumer(&topics, "a").await;
    let mut rest = drain(&a).await;
    rest.sort();
    assert_eq!(rest, ["2", "4"]);
    assert_eq!(&*topics.dead_get(&orders(), 1).await.unwrap().unwrap().info.reason, "no");
    let again = topics.publish(&orders(), &rules(), vec![own_id(event("1"))]).await.unwrap();
    assert_eq!((again[0].position, again[0].duplicate), (Some(1), true));
}

#[tokio::test]
async fn a_topic_that_is_opened_again_may_grow_as_its_rules_said() {
    let (topics, clock, temp) = embedded_topics();
    let large = TopicRules { max_bytes: 1 << 40, ..rules() };
    topics.ensure(&orders(), &large, &[(function("a"), From::Start)]).await.unwrap();
    topics.publish(&orders(), &large, vec![now(event("1"))]).await.unwrap();
    drop(topics);
    let topics = open(&temp, &clock);
    let most = async || {
        let open = topics.embedded.stores.or_create(&orders()).await.unwrap();
        let most = |connection: &rusqlite::Connection| -> Result<u64, TopicError> {
            Ok(connection.pragma_query_value(None, "max_page_count", |row| row.get(0))?)
        };
        open.database.write(most).await.unwrap() * 4096
    };
    assert!(most().await < 4 << 30);
    // The one that consumes does not know its rules.
    assert_eq!(drain(&consumer(&topics, "a").await).await, ["1"]);
    assert!(most().await > 3 << 40);
}

#[tokio::test]
async fn a_topic_that_was_never_written_has_no_file() {
    let (topics, _clock, temp) = embedded_topics();
    topics.survey(&orders()).await.unwrap();
    topics.page(&orders(), 0, None, 1).await.unwrap();
    topics.dead_list(&orders(), None, 0, 1).await.unwrap();
    topics.forward(&orders(), |_| None).await.unwrap();
    topics.release_due(&orders(), &rules()).await.unwrap();
    assert!(topics.hold(&orders()).await.unwrap().is_none());
    assert_eq!((topics.open_stores(), fs::read_dir(temp.path().join("topic")).unwrap().count()), (0, 0));
}

#[tokio::test]
async fn a_damaged_topic_is_named_and_no_other_suffers() {
    let (topics, clock, temp) = embedded_topics();
    for name in ["overwritten", "torn", "good"] {
        let topic = id("shop", name);
        topics.ensure(&topic, &rules(), &[(function("a"), From::Start)]).await.unwrap();
        for _ in 0..10 {
            let events = (0..100).map(|number| now(event(&number.to_string().repeat(100)))).collect();
            topics.publish(&topic, &rules(), events).await.unwrap();
        }
    }
    drop(topics);
    let overwritten = fs::File::options().write(true).open(file(&temp, "overwritten")).unwrap();
    overwritten.write_all_at(&[b'x'; 4096], 0).unwrap();
    let torn = fs::File::options().write(true).open(file(&temp, "torn")).unwrap();
    let len = torn.metadata().unwrap().len();
    torn.write_all_at(&vec![0x5a; (len - 8192) as usize], 8192).unwrap();
    let topics = open(&temp, &clock);
    for name in ["overwritten", "torn"] {
        let topic = id("shop", name);
        let write = topics.publish(&topic, &rules(), vec![now(event("x"))]).await.map(drop);
        let read = topics.page(&topic, 0, None, 1000).await.map(drop);
        let consume = topics.consumer(&topic, &function("a"), ConsumerOptions::default()).await.map(drop);
        for error in [write.unwrap_err(), read.unwrap_err(), consume.unwrap_err()] {
            assert!(matches!(error, TopicError::Corrupt { .. }) && !error.is_refusal(), "{error:?}");
            let told = error.to_string();
            assert!(told.contains(&format!("{name}.db")) && told.contains("backup"), "{told}");
        }
        Topics::check_file(&file(&temp, name)).unwrap_err();
    }
    let good = id("shop", "good");
    topics.publish(&good, &rules(), vec![now(event("x"))]).await.unwrap();
    let consumer = topics.consumer(&good, &function("a"), ConsumerOptions::default()).await.unwrap();
    assert_eq!(drain(&consumer).await.len(), 1001);
}

/// Sets what the file of the topic may have, as a full disk does; `None` lets it grow again.
async fn bound_pages(topics: &Topics, more: Option<u64>) {
    let open = topics.embedded.stores.or_create(&orders()).await.unwrap();
    open.database
        .write(move |connection| -> Result<(), TopicError> {
            let pages: u64 = connection.pragma_query_value(None, "page_count", |row| row.get(0))?;
            let most = more.map_or(1 << 20, |more| pages + more);
            Ok(connection.pragma_update_and_check(None, "max_page_count", most, |_| Ok(()))?)
        })
        .await
        .unwrap();
}

#[tokio::test]
async fn on_a_full_disk_nothing_is_lost_and_it_goes_on_when_there_is_room() {
    let (topics, _clock, _temp) = embedded_topics();
    follow(&topics, &["a"]).await;
    let large = |data: &str| Event { data: data.repeat(100_000).into(), ..event(data) };
    publish(&topics, [large("1"), large("2"), large("3")]).await;
    let consumer = consumer(&topics, "a").await;
    let batch = next(&consumer, 2).await;
    bound_pages(&topics, Some(2)).await;
    let error = topics.publish(&orders(), &rules(), vec![now(large("4"))]).await.unwrap_err();
    assert!(matches!(error, TopicError::Full(Bound::Disk)) && error.to_string().contains("free some"), "{error}");
    // A dead letter needs room. It is told that it has none, by each that asks, and nothing goes out meanwhile.
    let results = |delivery: &Delivery| (delivery.at, delivery.generation, dead("no"));
    let error = consumer.settle(batch.iter().map(results).collect()).await.unwrap_err();
    assert!(matches!(error, TopicError::Full(Bound::Disk)), "{error}");
    for _ in 0..2 {
        let error = consumer.next(1, usize::MAX).await.unwrap_err();
        assert!(matches!(error, TopicError::Full(Bound::Disk)), "{error}");
    }
    assert_eq!(topics.dead_list(&orders(), None, 0, 10).await.unwrap().letters.len(), 0);
    bound_pages(&topics, None).await;
    assert_eq!(next(&consumer, 10).await.len(), 1);
    assert_eq!(topics.dead_list(&orders(), None, 0, 10).await.unwrap().letters.len(), 2);
    assert_eq!(publish(&topics, [large("4")]).await, [4]);
}

#[tokio::test]
async fn what_a_publisher_left_behind_is_told_of() {
    let (topics, _clock, _temp) = embedded_topics();
    follow(&topics, &["a"]).await;
    let (tell, told) = std::sync::mpsc::channel();
    let tell = Mutex::new(tell);
    topics.on_ready(Arc::new(move |_: &StoreId, ready| tell.lock().unwrap().send(ready).unwrap()));
    let topic = orders();
    assert!(topics.publish(&topic, &rules(), vec![now(event("1"))]).now_or_never().is_none());
    assert_eq!(told.recv_timeout(Duration::from_secs(60)).unwrap(), Ready::Now);
    assert_eq!(drain(&consumer(&topics, "a").await).await, ["1"]);
}

#[tokio::test]
async fn publishers_that_give_up_leave_a_bounded_number_of_bytes_behind() {
    let (topics, _clock, _temp) = embedded_topics();
    follow(&topics, &[]).await;
    let held = topics.hold(&orders()).await.unwrap().unwrap();
    let large = Event { data: vec![0; MAX_DATA_BYTES].into(), ..event("large") };
    let topic = orders();
    for _ in 0..60 {
        assert!(topics.publish(&topic, &rules(), vec![now(large.clone())]).now_or_never().is_none());
    }
    let open = topics.embedded.stores.or_create(&orders()).await.unwrap();
    assert!(open.database.waiting_writes() <= 21, "{}", open.database.waiting_writes());
    drop(held);
    publish(&topics, [event("last")]).await;
    assert_eq!(open.queue.available_permits(), QUEUED_BYTES as usize);
    assert!(topics.survey(&orders()).await.unwrap().messages <= 22);
}

#[tokio::test]
async fn ids_leave_the_file_when_their_time_is_over() {
    let (topics, clock, temp) = embedded_topics();
    for round in 0..5 {
        for number in 0..10 {
            let event = event(&format!("{round}/{number}"));
            topics.publish(&orders(), &rules(), vec![own_id(event)]).await.unwrap();
        }
        clock.advance(DEDUP_WINDOW);
    }
    assert!(count(&temp, "seen") <= 10, "{}", count(&temp, "seen"));
    topics.sweep(&orders(), &rules()).await.unwrap();
    assert_eq!((count(&temp, "seen"), count(&temp, "message")), (0, 50));
    // One that is held back has its id until it comes, and its window after its order.
    let held = Outgoing { has_own_id: true, ..later(event("held"), 2 * DEDUP_WINDOW) };
    topics.publish(&orders(), &rules(), vec![held]).await.unwrap();
    clock.advance(2 * DEDUP_WINDOW);
    topics.release_due(&orders(), &rules()).await.unwrap();
    let again = topics.publish(&orders(), &rules(), vec![own_id(event("held"))]).await.unwrap();
    assert!(!again[0].duplicate);
}

#[tokio::test]
async fn dead_letters_have_bounds_and_an_age() {
    let (topics, clock, _temp) = embedded_topics();
    let small = TopicRules { max_bytes: 1 << 20, ..rules() };
    follow(&topics, &["a"]).await;
    publish_all(&topics, (0..MAX_DEAD + 5).map(|number| number.to_string())).await;
    let consumer = consumer(&topics, "a").await;
    loop {
        let batch = next(&consumer, 1000).await;
        if batch.is_empty() {
            break;
        }
        settle(&consumer, &batch, |_| dead("no")).await;
    }
    let oldest = topics.dead_list(&orders(), None, 0, 1).await.unwrap().letters.remove(0);
    assert_eq!((oldest.number, topics.survey(&orders()).await.unwrap().consumers[0].dead), (6, MAX_DEAD));
    clock.advance(Duration::from_secs(14 * 24 * 3600 + 1));
    assert_eq!(topics.sweep(&orders(), &rules()).await.unwrap().dead, MAX_DEAD);
    // They take no more than there may be messages, or 16 MiB.
    for round in 0..30 {
        let large = Event { data: vec![b'x'; MAX_DATA_BYTES].into(), ..event(&round.to_string()) };
        topics.publish(&orders(), &small, vec![now(large)]).await.unwrap();
        let batch = next(&consumer, 1).await;
        settle(&consumer, &batch, |_| dead("large")).await;
    }
    let left = topics.dead_list(&orders(), None, 0, 100).await.unwrap().letters;
    assert_eq!((left.len(), &*left[20].event_id), (21, "29"));
    assert_eq!(topics.dead_drop(&orders(), Which::All(function("a"))).await.unwrap(), 21);
}

#[tokio::test]
async fn what_is_settled_while_a_replay_is_under_way_does_not_undo_it() {
    let (topics, _clock, _temp) = embedded_topics();
    follow(&topics, &["a"]).await;
    publish(&topics, [event("1"), event("2"), event("3")]).await;
    let consumer = consumer(&topics, "a").await;
    let batch = next(&consumer, 3).await;
    let held = topics.hold(&orders()).await.unwrap().unwrap();
    let (topic, name) = (orders(), function("a"));
    let mut replay = Box::pin(topics.replay(&topic, &name, To::Position(2)));
    assert!(poll!(&mut replay).is_pending());
    let results = batch.iter().map(|delivery| (delivery.at, delivery.generation, Settled::Done)).collect();
    let settling = consumer.settle(results);
    // Both wait for the writer.
    let open = topics.embedded.stores.or_create(&orders()).await.unwrap();
    while open.database.waiting_writes() < 2 {
        tokio::task::yield_now().await;
    }
    drop(held);
    replay.await.unwrap();
    settling.await.unwrap();
    assert_eq!(drain(&consumer).await, ["2", "3"]);
}

#[test]
fn a_dead_letter_is_tried_again_also_by_who_just_begins() {
    // One thread that may block: what is asked of it is done in order.
    let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).build().unwrap();
    runtime.block_on(async {
        let (topics, _clock, _temp) = embedded_topics();
        follow(&topics, &["a"]).await;
        publish(&topics, [event("1")]).await;
        let first = consumer(&topics, "a").await;
        let batch = next(&first, 1).await;
        settle(&first, &batch, |_| dead("no")).await;
        drop(first);
        drop(consumer(&topics, "a").await);
        while topics.embedded.is_consumed(&orders(), &function("a")) {
            tokio::task::yield_now().await;
        }
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let busy = tokio::task::spawn_blocking(move || wait.recv().unwrap_err());
        let mut begins = Box::pin(consumer(&topics, "a"));
        assert!(poll!(&mut begins).is_pending());
        drop(go);
        busy.await.unwrap();
        // It has read what there is, and does not know it yet.
        tokio::task::spawn_blocking(|| ()).await.unwrap();
        topics.dead_retry(&orders(), Which::One(1)).await.unwrap();
        assert_eq!(drain(&begins.await).await, ["1"]);
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn publishers_and_consumers_at_once_lose_nothing() {
    let (topics, _clock, _temp) = embedded_topics();
    follow(&topics, &["a", "b"]).await;
    let publishers = (0..8).map(|publisher| {
        let topics = topics.clone();
        tokio::spawn(async move {
            for number in 0..100 {
                let event = with_key(&format!("{publisher}/{number}"), &publisher.to_string());
                topics.publish(&orders(), &rules(), vec![own_id(event)]).await.unwrap();
            }
        })
    });
    let publishers: Vec<_> = publishers.collect();
    let consumers = ["a", "b"].map(|name| {
        let topics = topics.clone();
        tokio::spawn(async move {
            let consumer = by_customer(&topics, name).await;
            let mut all = Vec::new();
            while all.len() < 800 {
                let batch = next(&consumer, 7).await;
                if batch.is_empty() {
                    tokio::task::yield_now().await;
                    continue;
                }
                let is_done = |delivery: &Delivery| delivery.tries > 0 || !delivery.position.is_multiple_of(5);
                // Those of a key behind one that comes again are taken back.
                let mut held_back = BTreeSet::new();
                for delivery in &batch {
                    let key = delivery.event.extensions.values().next().unwrap().clone();
                    if is_done(delivery) && !held_back.contains(&key) {
                        all.push(String::from_utf8(delivery.event.data.to_vec()).unwrap());
                    } else {
                        held_back.insert(key);
                    }
                }
                let settled = |delivery: &Delivery| {
                    if is_done(delivery) { Settled::Done } else { retry(0) }
                };
                let results = batch.iter().map(|one| (one.at, one.generation, settled(one))).collect();
                drop(consumer.settle(results));
            }
            assert!(next(&consumer, 7).await.is_empty());
            all
        })
    });
    for publisher in publishers {
        publisher.await.unwrap();
    }
    for consumer in consumers {
        let all = consumer.await.unwrap();
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), 800);
        for publisher in 0..8 {
            let of_key: Vec<_> = all.iter().filter(|data| data.starts_with(&format!("{publisher}/"))).collect();
            let expected: Vec<_> = (0..100).map(|number| format!("{publisher}/{number}")).collect();
            assert_eq!(of_key, expected.iter().collect::<Vec<_>>(), "a key was overtaken");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_topics_are_used_through_few_open_ones() {
    let (temp, clock) = (tempfile::tempdir().unwrap(), TestClock::new());
    let bounds = TopicBounds { open: OpenBounds { max_open: 4, idle: Duration::from_millis(50) } };
    let embedded = Embedded::open(&temp.path().join("topic"), clock.times(), bounds).unwrap();
    let topics = Topics { embedded };
    let users = (0..3).map(|user| {
        let topics = topics.clone();
        tokio::spawn(async move {
            // Each has the consumers of its topics all the time, and they keep no file open.
            let mut consumers = Vec::new();
            for number in 0..4 {
                let topic = id("shop", &format!("t{user}-{number}"));
                topics.ensure(&topic, &rules(), &[(function("a"), From::Start)]).await.unwrap();
                let consumer = topics.consumer(&topic, &function("a"), ConsumerOptions::default()).await.unwrap();
                consumers.push((topic, consumer));
            }
            for round in 0..10 {
                for (topic, consumer) in &consumers {
                    topics.publish(topic, &rules(), vec![now(event(&round.to_string()))]).await.unwrap();
                    assert_eq!(drain(consumer).await, [round.to_string()]);
                    assert!(topics.open_stores() <= 4);
                }
            }
        })
    });
    for user in users.collect::<Vec<_>>() {
        user.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_is_deleted_while_it_is_used() {
    let (topics, _clock, _temp) = embedded_topics();
    follow(&topics, &["a"]).await;
    let publisher = tokio::spawn({
        let topics = topics.clone();
        async move {
            for number in 0..200 {
                match topics.publish(&orders(), &rules(), vec![now(event(&number.to_string()))]).await {
                    Ok(_) => {}
                    Err(error) => assert!(matches!(error, TopicError::Store(StoreError::BeingDeleted)), "{error:?}"),
                }
            }
        }
    });
    let consumer_ = consumer(&topics, "a").await;
    for _ in 0..10 {
        topics.delete_app(&orders().tenant, &orders().app).await.unwrap();
        match consumer_.next(1, 100).await {
            Err(TopicError::NoConsumer(_) | TopicError::Store(StoreError::BeingDeleted)) => {}
            other => panic!("{other:?}"),
        }
    }
    publisher.await.unwrap();
    drop(consumer_);
    topics.delete_app(&orders().tenant, &orders().app).await.unwrap();
    follow(&topics, &["a"]).await;
    assert_eq!(publish(&topics, [event("1")]).await, [1]);
    assert_eq!(drain(&consumer(&topics, "a").await).await, ["1"]);
}

#[tokio::test]
async fn a_topic_is_held_for_a_backup_and_adopted_from_it() {
    let (topics, _clock, temp) = embedded_topics();
    follow(&topics, &["a"]).await;
    publish(&topics, [event("1")]).await;
    let held = topics.hold(&orders()).await.unwrap().unwrap();
    let snapshot = held.snapshot().unwrap();
    let topic = orders();
    let rules_ = rules();
    let mut waits = Box::pin(topics.publish(&topic, &rules_, vec![now(event("2"))]));
    assert!(poll!(&mut waits).is_pending());
    drop(held);
    waits.await.unwrap();
    let copy = temp.path().join("copy");
    fs::create_dir(&copy).unwrap();
    snapshot.copy_to(&copy.join("orders.db"), || true).unwrap();
    drop(snapshot);
    Topics::check_file(&copy.join("orders.db")).unwrap();
    let away = temp.path().join("away");
    assert!(topics.move_app(&orders().tenant, &orders().app, &away).await.unwrap());
    topics.adopt_app(&orders().tenant, &orders().app, &copy).await.unwrap();
    assert_eq!(drain(&consumer(&topics, "a").await).await, ["1"]);
    assert!(away.join("orders.db").exists());
}

/// Does something to the file of the topic.
async fn execute(topics: &Topics, sql: &'static str) {
    let open = topics.embedded.stores.or_create(&orders()).await.unwrap();
    let work =
        move |connection: &rusqlite::Connection| -> Result<usize, TopicError> { Ok(connection.execute(sql, [])?) };
    assert!(open.database.write(work).await.unwrap() > 0, "{sql}");
}

#[tokio::test]
async fn what_was_found_before_an_error_goes_out_and_the_rest_comes_when_it_is_over() {
    let (topics, _clock, _temp) = embedded_topics();
    follow(&topics, &["a"]).await;
    let keys = ["ada", "bob", "ada", "bob", "ada"];
    publish(&topics, keys.iter().enumerate().map(|(index, key)| with_key(&(index + 1).to_string(), key))).await;
    let consumer = by_customer(&topics, "a").await;
    // Of no use to anybody: a time before 1970.
    execute(&topics, "UPDATE message SET time_ms = -1 - time_ms WHERE position = 3").await;
    let first = next(&consumer, 10).await;
    assert_eq!(data(&first), ["1", "2"]);
    consumer.next(10, usize::MAX).await.unwrap_err();
    assert_eq!(consumer.outstanding(), 2);
    done(&consumer, &first).await;
    consumer.next(10, usize::MAX).await.unwrap_err();
    assert_eq!(consumer.outstanding(), 0);
    execute(&topics, "UPDATE message SET time_ms = -1 - time_ms WHERE position = 3").await;
    let rest = next(&consumer, 10).await;
    assert_eq!(data(&rest), ["3", "4", "5"]);
}

#[tokio::test]
async fn a_message_whose_attributes_cannot_be_read_is_a_dead_letter_and_the_others_go_on() {
    let (topics, _clock, _temp) = embedded_topics();
    follow(&topics, &["a"]).await;
    publish_all(&topics, (1..=5).map(|number| number.to_string())).await;
    let consumer_ = consumer(&topics, "a").await;
    let first = next(&consumer_, 2).await;
    settle(&consumer_, &first, |delivery| if delivery.position == 1 { Settled::Release } else { retry(0) }).await;
    execute(&topics, "UPDATE message SET head = '{\"id\":7}' WHERE position IN (1, 2, 4)").await;
    assert_eq!(drain(&consumer_).await, ["3", "5"]);
    drop(consumer_);
    let consumer_ = consumer(&topics, "a").await;
    assert_eq!(drain(&consumer_).await, Vec::<String>::new());
    let mut letters = topics.dead_list(&orders(), Some(&function("a")), 0, 10).await.unwrap().letters;
    letters.sort_by_key(|letter| letter.position);
    let told: Vec<_> = letters.iter().map(|letter| (letter.position, letter.tries, &*letter.event_kind)).collect();
    assert_eq!(told, [(1, 0, "minnow.unreadable"), (2, 1, "minnow.unreadable"), (4, 0, "minnow.unreadable")]);
    assert!(letters[0].reason.contains("attributes"), "{}", letters[0].reason);
    // Its data is there still, and it is tried again as any other.
    let whole = topics.dead_get(&orders(), letters[2].number).await.unwrap().unwrap();
    assert_eq!(&whole.event.data[..], b"4");
    topics.dead_retry(&orders(), Which::One(letters[2].number)).await.unwrap();
    assert_eq!(drain(&consumer_).await, ["4"]);
    assert_eq!(topics.dead_drop(&orders(), Which::All(function("a"))).await.unwrap(), 2);
}

#[tokio::test]
async fn a_dead_letter_without_room_keeps_no_acknowledgement_back() {
    let (topics, _clock, _temp) = embedded_topics();
    follow(&topics, &["a"]).await;
    publish(&topics, [Event { data: "x".repeat(100_000).into(), ..event("1") }, event("2"), event("3")]).await;
    let consumer_ = consumer(&topics, "a").await;
    let batch = next(&consumer_, 3).await;
    bound_pages(&topics, Some(2)).await;
    let results = batch.iter().map(|delivery| {
        let settled = if delivery.position == 1 { dead("no") } else { Settled::Done };
        (delivery.at, delivery.generation, settled)
    });
    let error = consumer_.settle(results.collect()).await.unwrap_err();
    assert!(error.to_string().contains("minnow topic dead drop"), "{error}");
    assert_eq!(topics.survey(&orders()).await.unwrap().consumers[0].lag, 1);
    // Again, with nothing else to write; and for who comes after.
    consumer_.next(1, usize::MAX).await.unwrap_err();
    drop(consumer_);
    let consumer_ = consumer(&topics, "a").await;
    let batch = next(&consumer_, 3).await;
    assert_eq!(positions(&batch), [1]);
    let results = batch.iter().map(|delivery| (delivery.at, delivery.generation, dead("no")));
    consumer_.settle(results.collect()).await.unwrap_err();
    bound_pages(&topics, None).await;
    assert_eq!(next(&consumer_, 3).await, []);
    assert_eq!((topics.survey(&orders()).await.unwrap().consumers[0].lag, consumer_.outstanding()), (0, 0));
    assert_eq!(topics.dead_list(&orders(), None, 0, 10).await.unwrap().letters.len(), 1);
}

#[tokio::test]
async fn answers_and_reasons_are_in_the_bound_of_dead_letters() {
    let (topics, _clock, temp) = embedded_topics();
    let small = TopicRules { max_bytes: 1 << 20, ..rules() };
    topics.ensure(&orders(), &small, &[(function("a"), From::Start)]).await.unwrap();
    let consumer = consumer(&topics, "a").await;
    let death = Death { reason: "r".repeat(1024), status: None, answer: vec![b'x'; 4096].into(), forward: None };
    for round in 0..40 {
        let events = (0..100).map(|number| now(event(&format!("{round}/{number}")))).collect();
        topics.publish(&orders(), &small, events).await.unwrap();
        let batch = next(&consumer, 100).await;
        settle(&consumer, &batch, |_| Settled::Dead(Box::new(death.clone()))).await;
    }
    let left = count(&temp, "dead");
    assert!(left > 2_500 && left * (1024 + 4096) <= 16 << 20, "{left}");
    let counted = |temp: &TempDir| {
        let file = rusqlite::Connection::open(file(temp, "orders")).unwrap();
        let sql =
            "SELECT dead_bytes, (SELECT coalesce(sum(octet_length(head) + octet_length(data) + octet_length(reason)
            + octet_length(answer)), 0) FROM dead) FROM topic";
        file.query_row(sql, [], |row| Ok((row.get::<_, u64>(0)?, row.get::<_, u64>(1)?))).unwrap()
    };
    // Also after some died again with less, and some were dropped.
    let letters = topics.dead_list(&orders(), None, 0, 2).await.unwrap().letters;
    topics.dead_retry(&orders(), Which::One(letters[0].number)).await.unwrap();
    let again = next(&consumer, 1).await;
    settle(&consumer, &again, |_| dead("no")).await;
    topics.dead_drop(&orders(), Which::One(letters[1].number)).await.unwrap();
    let (kept, there) = counted(&temp);
    assert_eq!(kept, there);
    topics.dead_drop(&orders(), Which::All(function("a"))).await.unwrap();
    assert_eq!(counted(&temp), (0, 0));
}

#[tokio::test]
async fn copies_are_forwarded_by_one_at_a_time_and_none_is_forgotten() {
    let (topics, _clock, _temp) = embedded_topics();
    follow(&topics, &["a"]).await;
    let target = id("shop", "orders-dead");
    topics.ensure(&target, &rules(), &[]).await.unwrap();
    publish(&topics, [event("1"), event("2")]).await;
    let consumer = consumer(&topics, "a").await;
    let death = Death { reason: "no".into(), status: None, answer: Bytes::new(), forward: Some(target.name.clone()) };
    let die = async || {
        let batch = next(&consumer, 1).await;
        settle(&consumer, &batch, |_| Settled::Dead(Box::new(death.clone()))).await;
    };
    die().await;
    let held = topics.hold(&target).await.unwrap().unwrap();
    let topic = orders();
    let mut first = Box::pin(topics.forward(&topic, |_| Some(rules())));
    let open = topics.embedded.stores.or_create(&target).await.unwrap();
    while open.database.waiting_writes() == 0 {
        assert!(poll!(&mut first).is_pending());
        tokio::task::yield_now().await;
    }
    die().await;
    // It does not wait, and reads nothing.
    assert_eq!(topics.forward(&topic, |_| Some(rules())).now_or_never().unwrap().unwrap(), 0);
    drop(held);
    assert_eq!(first.await.unwrap(), 0);
    assert_eq!(topics.page(&target, 0, None, 10).await.unwrap().messages.len(), 2);
    // One that was given up leaves the turn.
    drop(topics.forward(&topic, |_| Some(rules())).now_or_never());
    publish(&topics, [event("3")]).await;
    die().await;
    topics.forward(&topic, |_| Some(rules())).await.unwrap();
    assert_eq!(topics.page(&target, 0, None, 10).await.unwrap().messages.len(), 3);
}

#[tokio::test]
async fn a_retry_that_comes_while_a_dead_letter_fails_is_kept() {
    let (topics, _clock, _temp) = embedded_topics();
    follow(&topics, &["a"]).await;
    publish(&topics, [event("1")]).await;
    let consumer = consumer(&topics, "a").await;
    let batch = next(&consumer, 1).await;
    settle(&consumer, &batch, |_| dead("no")).await;
    topics.dead_retry(&orders(), Which::One(1)).await.unwrap();
    let again = next(&consumer, 1).await;
    // The second retry is written before that the first one failed.
    let held = topics.hold(&orders()).await.unwrap().unwrap();
    let topic = orders();
    let mut retry = Box::pin(topics.dead_retry(&topic, Which::One(1)));
    let open = topics.embedded.stores.or_create(&orders()).await.unwrap();
    while open.database.waiting_writes() < 1 {
        assert!(poll!(&mut retry).is_pending());
    }
    let settling = consumer.settle(vec![(again[0].at, again[0].generation, dead("still"))]);
    while open.database.waiting_writes() < 2 {
        tokio::task::yield_now().await;
    }
    drop(held);
    retry.await.unwrap();
    settling.await.unwrap();
    let letter = topics.dead_get(&orders(), 1).await.unwrap().unwrap().info;
    assert_eq!((&*letter.reason, letter.again, letter.tries), ("still", true, 2));
    assert_eq!(drain(&consumer).await, ["1"]);
    assert_eq!(topics.dead_get(&orders(), 1).await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_letter_comes_again_as_often_as_it_is_asked_for() {
    let (topics, _clock, _temp) = embedded_topics();
    follow(&topics, &["a"]).await;
    publish(&topics, [event("1")]).await;
    let consumer = consumer(&topics, "a").await;
    let batch = next(&consumer, 1).await;
    settle(&consumer, &batch, |_| dead("no")).await;
    for round in 0..100 {
        let retry = tokio::spawn({
            let topics = topics.clone();
            async move { topics.dead_retry(&orders(), Which::One(1)).await }
        });
        let deadline = std::time::Instant::now() + Duration::from_secs(60);
        let again = loop {
            let again = next(&consumer, 1).await;
            if !again.is_empty() {
                break again;
            }
            assert!(std::time::Instant::now() < deadline, "round {round}: it does not come");
            tokio::task::yield_now().await;
        };
        assert_eq!(retry.await.unwrap().unwrap(), 1);
        // The next retry may come before this is written.
        drop(consumer.settle(vec![(again[0].at, again[0].generation, dead("still"))]));
    }
}

#[tokio::test]
async fn a_bound_that_has_become_smaller_is_reached_in_pieces() {
    let (topics, _clock, _temp) = embedded_topics();
    follow(&topics, &["a"]).await;
    publish_all(&topics, (0..12_000).map(|number| number.to_string())).await;
    let bounded = TopicRules { max_messages: Some(10), when_full: WhenFull::DropOldest, ..rules() };
    topics.publish(&orders(), &bounded, vec![now(event("new"))]).await.unwrap();
    let left = topics.survey(&orders()).await.unwrap().messages;
    assert!((5_000..8_000).contains(&left), "{left}");
    topics.sweep(&orders(), &bounded).await.unwrap();
    let survey = topics.survey(&orders()).await.unwrap();
    assert_eq!((survey.messages, survey.last, survey.consumers[0].expired), (10, Some(12_001), 11_991));
    topics.publish(&orders(), &bounded, vec![now(event("newer"))]).await.unwrap();
    assert_eq!(topics.survey(&orders()).await.unwrap().messages, 10);
}
