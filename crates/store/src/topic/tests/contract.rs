//! What any backend of [`Topics`] has to keep. Each function gets an empty one.

use std::sync::Mutex;

use minnow_model::event::{MAX_DATA_BYTES, MAX_DELAY, MAX_PUBLISH, Pattern};

use super::{
    super::{Bound, DEDUP_WINDOW, KEEP_CONSUMER, MAX_OUTSTANDING, Ready, TopicError, Which},
    *,
};

/// Makes a test of each function of this module, with the backend that the expression gives.
macro_rules! contract_tests {
    ($backend:expr) => {
        contract_tests! { $backend;
            what_was_published_is_read_in_order_with_all_attributes,
            a_publish_is_taken_as_a_whole_or_not_at_all,
            an_id_is_taken_once_in_the_window,
            a_delayed_message_comes_when_it_is_due_and_not_before,
            two_consumers_each_get_everything,
            what_is_settled_never_comes_again,
            a_retry_comes_after_its_time_alone_and_counted,
            what_is_released_comes_again_at_once_and_is_not_counted,
            a_key_waits_for_its_earlier_message_while_others_go_on,
            in_one_batch_a_key_is_taken_back_behind_what_comes_again,
            too_much_that_is_outstanding_stops_the_reading,
            filters_leave_out_what_is_not_wanted,
            what_is_left_out_is_done_though_nothing_is_settled,
            dead_letters_are_kept_with_their_reason_and_tried_again_or_dropped,
            a_copy_of_a_dead_letter_is_forwarded_once,
            a_replay_begins_at_a_position_or_time_also_in_flight,
            messages_go_by_age,
            a_full_topic_refuses,
            a_full_topic_drops_the_oldest,
            what_all_are_done_with_makes_room,
            a_consumer_that_left_holds_nothing_and_comes_back,
            a_dropped_consumer_is_delivered_the_rest_again,
            one_consumer_at_a_time,
            a_consumer_begins_where_it_says,
            a_batch_is_bounded_in_bytes,
            a_batch_is_counted_as_it_goes_out,
            a_batch_that_is_too_large_comes_one_by_one,
            the_hook_is_told_of_what_is_new_and_due,
            a_deleted_app_leaves_nothing,
            the_largest_of_everything_is_kept,
            what_is_too_large_or_no_event_is_refused_with_a_remedy,
            topics_and_apps_are_apart,
            the_clock_is_set_back_and_forward,
            what_there_is_is_surveyed,
            pages_are_read_without_a_consumer,
            first_ms_counts_from_the_first_answer,
            a_clock_that_was_ahead_leaves_no_duplicates_behind,
            a_message_that_dies_again_after_a_replay_has_another_copy,
            numbers_that_nothing_has_find_nothing,
        }
    };
    ($backend:expr; $($name:ident,)*) => {
        $(
            #[tokio::test]
            async fn $name() {
                let (topics, clock, _kept) = $backend;
                $crate::topic::tests::contract::$name(topics, clock).await;
            }
        )*
    };
}
pub(super) use contract_tests;

pub(super) async fn what_was_published_is_read_in_order_with_all_attributes(topics: Topics, clock: TestClock) {
    follow(&topics, &["a"]).await;
    let whole = Event {
        id: "ключ \"1\"".into(),
        source: "/å".into(),
        kind: "order.created".into(),
        subject: Some("eu/oslo".into()),
        time_ms: Some(7),
        content_type: Some("application/json".into()),
        extensions: [("customer".parse().unwrap(), "ada".into()), ("empty".parse().unwrap(), String::new())].into(),
        data: Bytes::from_static(b"{\"a\":1}"),
    };
    let bare = Event {
        subject: None,
        time_ms: None,
        content_type: None,
        extensions: BTreeMap::new(),
        data: Bytes::from_static(b"\0\xff"),
        ..whole.clone()
    };
    let sent = topics.publish(&orders(), &rules(), vec![own_id(whole.clone()), now(bare.clone())]).await.unwrap();
    assert_eq!(
        sent.iter().map(|sent| (sent.position, sent.duplicate)).collect::<Vec<_>>(),
        [(Some(1), false), (Some(2), false)]
    );
    assert_eq!(*sent[0].id, *whole.id);
    clock.advance(Duration::from_millis(5));
    assert_eq!(publish(&topics, [event("3")]).await, [3]);
    let consumer = consumer(&topics, "a").await;
    let first = next(&consumer, 2).await;
    assert_eq!(first.iter().map(|delivery| &*delivery.event).collect::<Vec<_>>(), [&whole, &bare]);
    assert!(first.iter().all(|delivery| !delivery.alone && delivery.tries == 0));
    assert_eq!(
        first.iter().map(|delivery| (delivery.at, delivery.position)).collect::<Vec<_>>(),
        [(At::Log(1), 1), (At::Log(2), 2)]
    );
    let second = next(&consumer, 2).await;
    assert_eq!(data(&second), ["3"]);
    assert_eq!(second[0].time_ms, first[0].time_ms + 5);
    assert_eq!(second[0].first_ms, clock.now_ms());
    assert_eq!(next(&consumer, 2).await, []);
    assert_eq!(topics.publish(&orders(), &rules(), Vec::new()).await.unwrap(), []);
}

pub(super) async fn a_publish_is_taken_as_a_whole_or_not_at_all(topics: Topics, _clock: TestClock) {
    follow(&topics, &["a"]).await;
    let large = Event { data: vec![0; MAX_DATA_BYTES + 1].into(), ..event("large") };
    topics.publish(&orders(), &rules(), vec![now(event("1")), now(large)]).await.unwrap_err();
    let small = TopicRules { max_messages: Some(2), ..rules() };
    let three = ["1", "2", "3"].map(|data| now(event(data))).to_vec();
    let error = topics.publish(&orders(), &small, three).await.unwrap_err();
    assert!(matches!(error, TopicError::Full(Bound::Messages(2))), "{error}");
    assert_eq!(drain(&consumer(&topics, "a").await).await, Vec::<String>::new());
    assert_eq!(publish(&topics, [event("1"), event("2")]).await, [1, 2], "a position was taken");
}

pub(super) async fn an_id_is_taken_once_in_the_window(topics: Topics, clock: TestClock) {
    follow(&topics, &["a"]).await;
    let send = async |event: Event| topics.publish(&orders(), &rules(), vec![own_id(event)]).await.unwrap().remove(0);
    let first = send(event("x")).await;
    assert_eq!((first.position, first.duplicate), (Some(1), false));
    clock.advance(DEDUP_WINDOW - Duration::from_millis(1));
    let again = send(Event { data: Bytes::from_static(b"other"), ..event("x") }).await;
    assert_eq!((again.position, again.duplicate, &*again.id), (Some(1), true, "x"));
    // Of another source it is another.
    assert_eq!(send(Event { source: "/other".into(), ..event("x") }).await.position, Some(2));
    // A publisher that gave no id has none that could be the same.
    assert_eq!(publish(&topics, [event("x")]).await, [3]);
    // Within one publish, too.
    let events = vec![own_id(event("y")), own_id(event("y")), own_id(event("x"))];
    let twice = topics.publish(&orders(), &rules(), events).await.unwrap();
    assert_eq!(
        twice.iter().map(|sent| (sent.position, sent.duplicate)).collect::<Vec<_>>(),
        [(Some(4), false), (Some(4), true), (Some(1), true)]
    );
    clock.advance(Duration::from_millis(1));
    assert_eq!(send(event("x")).await, super::super::Sent { id: "x".into(), position: Some(5), duplicate: false });
    assert_eq!(drain(&consumer(&topics, "a").await).await, ["x", "x", "x", "y", "x"]);
}

pub(super) async fn a_delayed_message_comes_when_it_is_due_and_not_before(topics: Topics, clock: TestClock) {
    follow(&topics, &["a"]).await;
    let consumer = consumer(&topics, "a").await;
    let minute = Duration::from_secs(60);
    let held = vec![later(event("late"), 2 * minute), Outgoing { has_own_id: true, ..later(event("soon"), minute) }];
    let sent = topics.publish(&orders(), &rules(), held).await.unwrap();
    assert!(sent.iter().all(|sent| sent.position.is_none() && !sent.duplicate));
    publish(&topics, [event("now")]).await;
    let due = clock.now_ms() + 60_000;
    assert_eq!(topics.release_due(&orders(), &rules()).await.unwrap(), Some(due));
    assert_eq!(drain(&consumer).await, ["now"]);
    let survey = topics.survey(&orders()).await.unwrap();
    assert_eq!((survey.delayed, survey.next_delayed_ms, survey.messages), (2, Some(due), 3));
    // Its id is taken while it is held back.
    let again = topics.publish(&orders(), &rules(), vec![own_id(event("soon"))]).await.unwrap();
    assert_eq!((again[0].position, again[0].duplicate), (None, true));
    clock.advance(minute - Duration::from_millis(1));
    topics.release_due(&orders(), &rules()).await.unwrap();
    assert_eq!(drain(&consumer).await, Vec::<String>::new());
    clock.advance(Duration::from_millis(1));
    assert_eq!(topics.release_due(&orders(), &rules()).await.unwrap(), Some(due + 60_000));
    let deliveries = next(&consumer, 10).await;
    assert_eq!((data(&deliveries), positions(&deliveries)), (vec!["soon"], vec![2]));
    // And it is taken still, until the window after its order is over.
    let again = topics.publish(&orders(), &rules(), vec![own_id(event("soon"))]).await.unwrap();
    assert_eq!((again[0].position, again[0].duplicate), (Some(2), true));
    done(&consumer, &deliveries).await;
    clock.advance(minute);
    assert_eq!(topics.release_due(&orders(), &rules()).await.unwrap(), None);
    assert_eq!(drain(&consumer).await, ["late"]);
}

pub(super) async fn two_consumers_each_get_everything(topics: Topics, _clock: TestClock) {
    follow(&topics, &["a", "b"]).await;
    publish_all(&topics, (0..250).map(|number| number.to_string())).await;
    let all: Vec<_> = (0..250).map(|number| number.to_string()).collect();
    let (a, b) = (consumer(&topics, "a").await, consumer(&topics, "b").await);
    assert_eq!(drain(&a).await, all);
    assert_eq!(drain(&b).await, all);
}

pub(super) async fn what_is_settled_never_comes_again(topics: Topics, clock: TestClock) {
    follow(&topics, &["a"]).await;
    publish_all(&topics, (1..=6).map(|number| number.to_string())).await;
    let consumer_ = consumer(&topics, "a").await;
    let (first, second) = (next(&consumer_, 2).await, next(&consumer_, 2).await);
    // The later batch first, and each twice: the second word does not count.
    done(&consumer_, &second).await;
    settle(&consumer_, &second, |_| retry(0)).await;
    settle(&consumer_, &second, |_| dead("twice")).await;
    done(&consumer_, &first[..1]).await;
    settle(&consumer_, &first[..1], |_| Settled::Release).await;
    assert_eq!(data(&next(&consumer_, 10).await), ["5", "6"]);
    assert_eq!(consumer_.outstanding(), 3);
    drop(consumer_);
    let consumer = consumer(&topics, "a").await;
    clock.advance(Duration::from_secs(60));
    assert_eq!(drain(&consumer).await, ["2", "5", "6"]);
    assert_eq!(topics.dead_list(&orders(), None, 0, 10).await.unwrap().letters, []);
    // Nothing is known of one that was never delivered.
    consumer.settle(vec![(At::Log(77), 0, Settled::Done), (At::Dead(5), 0, Settled::Done)]).await.unwrap();
}

pub(super) async fn a_retry_comes_after_its_time_alone_and_counted(topics: Topics, clock: TestClock) {
    follow(&topics, &["a"]).await;
    publish_all(&topics, (1..=4).map(|number| number.to_string())).await;
    let consumer_ = consumer(&topics, "a").await;
    let first = next(&consumer_, 4).await;
    let started = clock.now_ms();
    settle(&consumer_, &first, |delivery| match delivery.position {
        2 => retry(10),
        3 => Settled::Retry { after: Duration::from_secs(5), counted: false },
        _ => Settled::Done,
    })
    .await;
    assert_eq!(consumer_.next_due(), Some(started + 5_000));
    clock.advance(Duration::from_millis(4_999));
    assert_eq!(next(&consumer_, 4).await, []);
    clock.advance(Duration::from_millis(1));
    publish(&topics, [event("5")]).await;
    // Not counted, it comes among the others.
    let second = next(&consumer_, 4).await;
    assert_eq!(data(&second), ["3", "5"]);
    assert_eq!((second[0].tries, second[0].alone, second[0].first_ms), (0, false, started));
    done(&consumer_, &second).await;
    assert_eq!(consumer_.next_due(), Some(started + 10_000));
    clock.advance(Duration::from_secs(5));
    publish(&topics, [event("6")]).await;
    let mut both = [next(&consumer_, 4).await, next(&consumer_, 4).await];
    both.sort_by_key(|deliveries| deliveries[0].position);
    let [alone, other] = both;
    assert_eq!((data(&alone), data(&other)), (vec!["2"], vec!["6"]));
    assert_eq!((alone[0].tries, alone[0].alone, alone[0].first_ms), (1, true, started));
    settle(&consumer_, &alone, |_| retry(20)).await;
    done(&consumer_, &other).await;
    // Over a new start its time and its tries stay.
    drop(consumer_);
    let consumer = consumer(&topics, "a").await;
    assert_eq!(consumer.next_due(), Some(started + 30_000));
    assert_eq!(next(&consumer, 4).await, []);
    clock.advance(Duration::from_secs(20));
    let last = next(&consumer, 4).await;
    assert_eq!((data(&last), last[0].tries, last[0].first_ms), (vec!["2"], 2, started));
    done(&consumer, &last).await;
    assert_eq!((consumer.next_due(), consumer.outstanding()), (None, 0));
}

pub(super) async fn what_is_released_comes_again_at_once_and_is_not_counted(topics: Topics, _clock: TestClock) {
    follow(&topics, &["a"]).await;
    publish_all(&topics, (1..=4).map(|number| number.to_string())).await;
    let consumer = consumer(&topics, "a").await;
    let first = next(&consumer, 2).await;
    settle(&consumer, &first, |_| Settled::Release).await;
    let second = next(&consumer, 3).await;
    assert_eq!(data(&second), ["1", "2", "3"]);
    assert!(second.iter().all(|delivery| delivery.tries == 0 && !delivery.alone));
}

pub(super) async fn a_key_waits_for_its_earlier_message_while_others_go_on(topics: Topics, clock: TestClock) {
    follow(&topics, &["a"]).await;
    let all = [("1", "ada"), ("2", "bob"), ("3", "ada"), ("4", "bob"), ("5", "ada")];
    publish(&topics, all.map(|(data, key)| with_key(data, key))).await;
    publish(&topics, [event("none"), event("either")]).await;
    let consumer_ = by_customer(&topics, "a").await;
    let first = next(&consumer_, 1).await;
    let second = next(&consumer_, 1).await;
    assert_eq!((data(&first), data(&second)), (vec!["1"], vec!["2"]));
    // What has no key has no order, and waits for nothing.
    let third = next(&consumer_, 10).await;
    assert_eq!(data(&third), ["none", "either"]);
    settle(&consumer_, &first, |_| retry(10)).await;
    done(&consumer_, &second).await;
    let fourth = next(&consumer_, 10).await;
    assert_eq!(data(&fourth), ["4"]);
    done(&consumer_, &fourth).await;
    assert_eq!(next(&consumer_, 10).await, []);
    // Also for who comes after it.
    drop(consumer_);
    let consumer = by_customer(&topics, "a").await;
    assert_eq!(data(&next(&consumer, 10).await), ["none", "either"], "they were not settled");
    clock.advance(Duration::from_secs(10));
    let again = next(&consumer, 10).await;
    assert_eq!((data(&again), again[0].alone), (vec!["1"], true));
    assert_eq!(next(&consumer, 10).await, []);
    settle(&consumer, &again, |_| dead("no")).await;
    // Together, since nothing of the key is elsewhere.
    let rest = next(&consumer, 10).await;
    assert_eq!(data(&rest), ["3", "5"]);
    done(&consumer, &rest).await;
    assert_eq!(consumer.outstanding(), 2);
}

pub(super) async fn in_one_batch_a_key_is_taken_back_behind_what_comes_again(topics: Topics, clock: TestClock) {
    follow(&topics, &["a"]).await;
    let all = [("1", "ada"), ("2", "ada"), ("3", "bob"), ("4", "ada"), ("5", "ada")];
    publish(&topics, all.map(|(data, key)| with_key(data, key))).await;
    let consumer = by_customer(&topics, "a").await;
    let batch = next(&consumer, 4).await;
    assert_eq!(data(&batch), ["1", "2", "3", "4"]);
    // What was said of 4 does not count, since 2 comes again.
    settle(&consumer, &batch, |delivery| if delivery.position == 2 { retry(1) } else { Settled::Done }).await;
    assert_eq!(next(&consumer, 10).await, []);
    clock.advance(Duration::from_secs(1));
    let again = next(&consumer, 10).await;
    assert_eq!(data(&again), ["2"]);
    // One that is released takes back those behind it as well.
    settle(&consumer, &again, |_| Settled::Done).await;
    let both = next(&consumer, 10).await;
    assert_eq!((data(&both), both[0].tries), (vec!["4", "5"], 0));
    settle(&consumer, &both, |delivery| if delivery.position == 4 { Settled::Release } else { dead("no") }).await;
    // A batch that has room for one takes the first, and the other waits.
    let first = next(&consumer, 1).await;
    assert_eq!(data(&first), ["4"]);
    assert_eq!(next(&consumer, 1).await, []);
    done(&consumer, &first).await;
    assert_eq!(drain(&consumer).await, ["5"]);
    assert_eq!(topics.dead_list(&orders(), None, 0, 10).await.unwrap().letters, []);
}

pub(super) async fn too_much_that_is_outstanding_stops_the_reading(topics: Topics, clock: TestClock) {
    follow(&topics, &["a"]).await;
    publish_all(&topics, (0..MAX_OUTSTANDING + 50).map(|number| number.to_string())).await;
    let consumer_ = consumer(&topics, "a").await;
    let mut first = Vec::new();
    loop {
        let deliveries = next(&consumer_, 1000).await;
        if deliveries.is_empty() {
            break;
        }
        first.extend(deliveries);
    }
    assert_eq!((first.len(), consumer_.outstanding()), (MAX_OUTSTANDING, MAX_OUTSTANDING));
    settle(&consumer_, &first, |_| retry(1)).await;
    assert_eq!(next(&consumer_, 10).await, []);
    clock.advance(Duration::from_secs(1));
    // Those that failed come; nothing new does.
    for _ in 0..3 {
        let again = next(&consumer_, 10).await;
        assert_eq!((again.len(), again[0].tries), (1, 1));
    }
    drop(consumer_);
    let consumer = consumer(&topics, "a").await;
    assert_eq!(drain(&consumer).await.len(), MAX_OUTSTANDING + 50);
}

pub(super) async fn filters_leave_out_what_is_not_wanted(topics: Topics, _clock: TestClock) {
    follow(&topics, &["a"]).await;
    let of = |data: &str, kind: &str, subject: Option<&str>| Event {
        kind: kind.into(),
        subject: subject.map(Into::into),
        ..event(data)
    };
    for round in 0..50 {
        let events = [
            of(&format!("{round}/1"), "order.created", Some("eu/oslo")),
            of(&format!("{round}/2"), "order.created", Some("us/nyc")),
            of(&format!("{round}/3"), "order", Some("eu/rome")),
            of(&format!("{round}/4"), "audit", Some("eu/oslo")),
            of(&format!("{round}/5"), "order.paid", None),
            of(&format!("{round}/6"), "cart", Some("eu/")),
        ];
        publish(&topics, events).await;
    }
    let patterns = |texts: &[&str]| texts.iter().map(|text| text.parse::<Pattern>().unwrap()).collect();
    let options =
        ConsumerOptions { order_by: None, types: patterns(&["order.*", "cart"]), subjects: patterns(&["eu/*", "us"]) };
    let consumer = topics.consumer(&orders(), &function("a"), options).await.unwrap();
    let wanted = drain(&consumer).await;
    assert_eq!(wanted.len(), 100);
    assert_eq!(wanted[..4], ["0/1", "0/6", "1/1", "1/6"]);
    assert_eq!(consumer.outstanding(), 0);
    drop(consumer);
    let _wait = super::consumer(&topics, "a").await;
    assert_eq!(topics.survey(&orders()).await.unwrap().consumers[0].lag, 0, "what was left out is done");
}

pub(super) async fn what_is_left_out_is_done_though_nothing_is_settled(topics: Topics, clock: TestClock) {
    let bounded = TopicRules { max_messages: Some(3), ..rules() };
    topics.ensure(&orders(), &bounded, &[(function("a"), From::Start)]).await.unwrap();
    let types = vec!["other".parse::<Pattern>().unwrap()];
    let options = ConsumerOptions { types, ..ConsumerOptions::default() };
    let consumer = topics.consumer(&orders(), &function("a"), options).await.unwrap();
    let lag = async || topics.survey(&orders()).await.unwrap().consumers[0].lag;
    let written = async || {
        let deadline = std::time::Instant::now() + Duration::from_secs(60);
        while lag().await > 0 {
            assert!(std::time::Instant::now() < deadline, "it was not written");
            tokio::task::yield_now().await;
        }
    };
    for round in 0..3 {
        for number in 0..3 {
            let event = event(&format!("{round}/{number}"));
            topics.publish(&orders(), &bounded, vec![now(event)]).await.unwrap();
        }
        assert_eq!(next(&consumer, 10).await, []);
        if round > 0 {
            // Not at each look; it says when it is to be looked at.
            let due = consumer.next_due().unwrap();
            assert!(due > clock.now_ms() && due <= clock.now_ms() + 1_000);
            assert_eq!(lag().await, 3);
            clock.advance(Duration::from_millis(due - clock.now_ms()));
            assert_eq!(next(&consumer, 10).await, []);
        }
        written().await;
        assert_eq!(consumer.next_due(), None);
    }
}

pub(super) async fn dead_letters_are_kept_with_their_reason_and_tried_again_or_dropped(
    topics: Topics,
    clock: TestClock,
) {
    follow(&topics, &["a", "b"]).await;
    publish_all(&topics, (1..=5).map(|number| number.to_string())).await;
    let (a, b) = (consumer(&topics, "a").await, consumer(&topics, "b").await);
    let taken_ms = clock.now_ms();
    clock.advance(Duration::from_secs(3));
    let first = next(&a, 5).await;
    settle(&a, &first, |delivery| {
        if delivery.position > 3 { Settled::Done } else { dead(&format!("failed\n{}", delivery.position)) }
    })
    .await;
    let of_b = next(&b, 1).await;
    settle(&b, &of_b, |_| dead("b")).await;
    // They do not come by themselves.
    assert_eq!(next(&a, 5).await, []);
    let page = topics.dead_list(&orders(), Some(&function("a")), 0, 2).await.unwrap();
    assert_eq!((page.letters.len(), page.next), (2, Some(2)));
    let letter = &page.letters[1];
    assert_eq!((letter.number, letter.position, letter.tries, letter.status), (2, 2, 1, Some(500)));
    assert_eq!((&*letter.reason, letter.time_ms, letter.died_ms), ("failed 2", taken_ms, clock.now_ms()));
    assert_eq!((&*letter.event_id, letter.data_bytes, letter.again), ("2", 1, false));
    let page = topics.dead_list(&orders(), Some(&function("a")), 2, 2).await.unwrap();
    assert_eq!((page.letters.len(), page.letters[0].number, page.next), (1, 3, None));
    assert_eq!(topics.dead_list(&orders(), None, 0, 10).await.unwrap().letters.len(), 4);
    let whole = topics.dead_get(&orders(), 2).await.unwrap().unwrap();
    assert_eq!((&*whole.answer, &*whole.event), (&b"no such customer"[..], &event("2")));
    assert_eq!(topics.dead_get(&orders(), 9).await.unwrap(), None);

    assert_eq!(topics.dead_retry(&orders(), Which::One(2)).await.unwrap(), 1);
    assert!(topics.dead_get(&orders(), 2).await.unwrap().unwrap().info.again);
    let again = next(&a, 5).await;
    assert_eq!((again[0].at, again[0].position, again[0].tries, again[0].alone), (At::Dead(2), 2, 0, true));
    assert_eq!(next(&a, 5).await, []);
    // A failure that comes again counts, and one that does not renews it.
    settle(&a, &again, |_| retry(2)).await;
    assert_eq!(next(&a, 5).await, []);
    assert_eq!(a.next_due(), Some(clock.now_ms() + 2_000));
    clock.advance(Duration::from_secs(2));
    let again = next(&a, 5).await;
    assert_eq!(again[0].tries, 1);
    settle(&a, &again, |_| dead("still")).await;
    let letter = topics.dead_get(&orders(), 2).await.unwrap().unwrap().info;
    assert_eq!((&*letter.reason, letter.tries, letter.again, letter.died_ms), ("still", 3, false, clock.now_ms()));

    // Those of one function, and one that works is gone. They wait over a new start.
    assert_eq!(topics.dead_retry(&orders(), Which::All(function("a"))).await.unwrap(), 3);
    drop(a);
    let a = consumer(&topics, "a").await;
    assert_eq!(drain(&a).await, ["1", "2", "3"]);
    assert_eq!(next(&b, 1).await.len(), 1, "of the log");
    let left = topics.dead_list(&orders(), None, 0, 10).await.unwrap().letters;
    assert_eq!(left.iter().map(|letter| (letter.number, letter.function.as_str())).collect::<Vec<_>>(), [(4, "b")]);
    assert_eq!(topics.dead_drop(&orders(), Which::One(4)).await.unwrap(), 1);
    assert_eq!(topics.dead_drop(&orders(), Which::All(function("b"))).await.unwrap(), 0);
    for gone in [
        topics.dead_drop(&orders(), Which::One(4)).await,
        topics.dead_retry(&orders(), Which::One(4)).await,
        topics.dead_retry(&id("shop", "never"), Which::One(1)).await,
    ] {
        let error = gone.unwrap_err();
        assert!(matches!(error, TopicError::NoSuchMessage(_)) && error.to_string().contains("dead list"), "{error}");
    }
    assert_eq!(topics.survey(&orders()).await.unwrap().consumers[0].dead, 0);
}

pub(super) async fn a_copy_of_a_dead_letter_is_forwarded_once(topics: Topics, _clock: TestClock) {
    follow(&topics, &["a"]).await;
    let original = with_key("1", "ada");
    publish(&topics, [original.clone(), event("2"), event("3")]).await;
    let consumer = consumer(&topics, "a").await;
    let deliveries = next(&consumer, 3).await;
    let to = |name: &str| Some(name.parse().unwrap());
    settle(&consumer, &deliveries, |delivery| {
        let (reason, answer) = ("x".repeat(5000), Bytes::from(vec![b'y'; 9000]));
        let forward = if delivery.position == 3 { to("gone") } else { to("orders-dead") };
        Settled::Dead(Box::new(Death { reason, status: Some(404), answer, forward }))
    })
    .await;
    assert_eq!(topics.survey(&orders()).await.unwrap().to_forward, 3);
    let small = TopicRules { max_messages: Some(1), ..rules() };
    let give =
        |rules: TopicRules| move |name: &minnow_model::StoreName| (name.as_str() == "orders-dead").then_some(rules);
    // Full: nothing of the two goes, and they wait. What goes nowhere is given up.
    assert_eq!(topics.forward(&orders(), give(small)).await.unwrap(), 2);
    assert_eq!(topics.survey(&orders()).await.unwrap().to_forward, 2);
    for _ in 0..2 {
        assert_eq!(topics.forward(&orders(), give(rules())).await.unwrap(), 0);
    }
    let copies = topics.page(&id("shop", "orders-dead"), 0, None, 10).await.unwrap().messages;
    assert_eq!(copies.len(), 2);
    let copy = &copies[0].event;
    assert_eq!((&*copy.id, &copy.data, &copy.source), ("dead-orders-a-1", &original.data, &original.source));
    let attribute = |name: &str| copy.attribute(&name.parse().unwrap()).unwrap();
    assert_eq!((attribute("customer"), attribute("deadletterid")), ("ada", "1"));
    assert_eq!((attribute("deadlettertopic"), attribute("deadletterfunction")), ("orders", "a"));
    assert_eq!((attribute("deadlettertries"), attribute("deadletterstatus")), ("1", "404"));
    assert_eq!(attribute("deadletterreason").len(), 1024);
    let letter = topics.dead_get(&orders(), 1).await.unwrap().unwrap();
    assert_eq!((letter.answer.len(), letter.info.forward), (4096, None));
}

pub(super) async fn a_replay_begins_at_a_position_or_time_also_in_flight(topics: Topics, clock: TestClock) {
    follow(&topics, &["a"]).await;
    let mut times = Vec::new();
    for number in 1..=6 {
        times.push(clock.now_ms());
        publish(&topics, [event(&number.to_string())]).await;
        clock.advance(Duration::from_secs(1));
    }
    let consumer = consumer(&topics, "a").await;
    let done_ = next(&consumer, 2).await;
    done(&consumer, &done_).await;
    let failed = next(&consumer, 1).await;
    settle(&consumer, &failed, |_| retry(1)).await;
    let in_flight = next(&consumer, 2).await;
    assert_eq!(data(&in_flight), ["4", "5"]);
    topics.replay(&orders(), &function("a"), To::Position(2)).await.unwrap();
    // What was in flight is settled in vain.
    settle(&consumer, &in_flight, |_| dead("old")).await;
    done(&consumer, &in_flight).await;
    clock.advance(Duration::from_secs(1));
    assert_eq!(drain(&consumer).await, ["2", "3", "4", "5", "6"]);
    for (to, first) in [
        (To::Time(times[3]), Some("4")),
        (To::Time(times[3] + 1), Some("5")),
        (To::Time(0), Some("1")),
        (To::Time(u64::MAX / 4), None),
        (To::Position(0), Some("1")),
        (To::Position(6), Some("6")),
        (To::Position(1000), None),
    ] {
        topics.replay(&orders(), &function("a"), to).await.unwrap();
        let found = drain(&consumer).await;
        assert_eq!(found.first().map(String::as_str), first, "{to:?}");
    }
    // Without one that consumes, too; and what it then begins with is where it was set to.
    drop(consumer);
    topics.replay(&orders(), &function("a"), To::Position(5)).await.unwrap();
    assert_eq!(drain(&super::consumer(&topics, "a").await).await, ["5", "6"]);
    assert_eq!(topics.dead_list(&orders(), None, 0, 10).await.unwrap().letters, []);
    for topic in [orders(), id("shop", "never")] {
        let error = topics.replay(&topic, &function("nobody"), To::Position(1)).await.unwrap_err();
        assert!(matches!(error, TopicError::NoConsumer(_)) && error.is_refusal(), "{error}");
    }
}

pub(super) async fn messages_go_by_age(topics: Topics, clock: TestClock) {
    let short = TopicRules { retention: Duration::from_secs(60), ..rules() };
    topics.ensure(&orders(), &short, &[(function("a"), From::Start)]).await.unwrap();
    let send = async |data: &str| topics.publish(&orders(), &short, vec![now(event(data))]).await.unwrap();
    send("1").await;
    send("2").await;
    let consumer = consumer(&topics, "a").await;
    let first = next(&consumer, 1).await;
    settle(&consumer, &first, |_| retry(1)).await;
    clock.advance(Duration::from_secs(30));
    send("3").await;
    clock.advance(Duration::from_millis(30_001));
    // They are not read any more, removed or not.
    assert_eq!(data(&next(&consumer, 10).await), ["3"]);
    let page = topics.page(&orders(), 0, None, 10).await.unwrap();
    assert_eq!(page.messages.iter().map(|logged| logged.position).collect::<Vec<_>>(), [3]);
    assert_eq!(topics.sweep(&orders(), &short).await.unwrap().messages, 2);
    let survey = topics.survey(&orders()).await.unwrap();
    assert_eq!((survey.messages, survey.first, survey.last), (1, Some(3), Some(3)));
    assert_eq!(next(&consumer, 10).await, []);
    // A publish removes some of them, too.
    clock.advance(Duration::from_secs(61));
    send("4").await;
    let survey = topics.survey(&orders()).await.unwrap();
    assert_eq!((survey.messages, survey.first), (1, Some(4)));
    assert_eq!(topics.sweep(&orders(), &short).await.unwrap(), super::super::Swept::default());
    assert_eq!(topics.sweep(&id("shop", "never"), &short).await.unwrap(), super::super::Swept::default());
}

pub(super) async fn a_full_topic_refuses(topics: Topics, clock: TestClock) {
    let by_count = TopicRules { max_messages: Some(3), ..rules() };
    let by_size = TopicRules { max_bytes: 1 << 20, ..rules() };
    topics.ensure(&orders(), &by_count, &[(function("a"), From::Start)]).await.unwrap();
    let send = async |rules: &TopicRules, event: Event| topics.publish(&orders(), rules, vec![now(event)]).await;
    for number in 1..=3 {
        send(&by_count, event(&number.to_string())).await.unwrap();
    }
    for _ in 0..2 {
        let error = send(&by_count, event("4")).await.unwrap_err();
        assert!(matches!(error, TopicError::Full(Bound::Messages(3))) && error.is_refusal(), "{error}");
        assert!(error.to_string().contains("max_messages") && error.to_string().contains("drop-oldest"), "{error}");
    }
    let large = || Event { data: vec![b'x'; 700_000].into(), ..event("large") };
    send(&by_size, large()).await.unwrap();
    let error = send(&by_size, large()).await.unwrap_err();
    assert!(matches!(error, TopicError::Full(Bound::Bytes(1_048_576))), "{error}");
    assert!(error.to_string().contains("max_size"), "{error}");
    // What is held back has its room, too.
    let error = topics.publish(&orders(), &by_size, vec![later(large(), Duration::from_secs(1))]).await.unwrap_err();
    assert!(matches!(error, TopicError::Full(Bound::Bytes(_))), "{error}");
    let error = send(&TopicRules { max_bytes: 100, ..rules() }, large()).await.unwrap_err();
    assert!(matches!(error, TopicError::Full(Bound::Bytes(100))), "{error}");
    // Nothing was lost, and nothing got in.
    let consumer = consumer(&topics, "a").await;
    let deliveries = next(&consumer, 10).await;
    assert_eq!(positions(&deliveries), [1, 2, 3, 4]);
    // What is too old makes room.
    clock.advance(rules().retention + Duration::from_millis(1));
    send(&by_size, large()).await.unwrap();
}

pub(super) async fn a_full_topic_drops_the_oldest(topics: Topics, _clock: TestClock) {
    let bounded = TopicRules { max_messages: Some(3), when_full: WhenFull::DropOldest, ..rules() };
    topics.ensure(&orders(), &bounded, &[(function("a"), From::Start), (function("b"), From::Start)]).await.unwrap();
    let send = async |data: &str| topics.publish(&orders(), &bounded, vec![now(event(data))]).await.unwrap();
    send("1").await;
    send("2").await;
    let (a, b) = (consumer(&topics, "a").await, consumer(&topics, "b").await);
    let (of_a, of_b) = (next(&a, 2).await, next(&b, 2).await);
    settle(&a, &of_a, |delivery| if delivery.position == 1 { retry(0) } else { Settled::Done }).await;
    done(&b, &of_b).await;
    for number in 3..=6 {
        send(&number.to_string()).await;
    }
    // The one that was to come again is gone, and 3.
    assert_eq!(
        (drain(&a).await, drain(&b).await),
        (vec!["4".into(), "5".into(), "6".into()], vec!["4".to_owned(), "5".into(), "6".into()])
    );
    let survey = topics.survey(&orders()).await.unwrap();
    let expired: Vec<_> = survey.consumers.iter().map(|one| (one.function.as_str(), one.expired)).collect();
    assert_eq!(expired, [("a", 2), ("b", 1)]);
    assert_eq!((survey.messages, survey.first), (3, Some(4)));
    assert_eq!((a.outstanding(), survey.consumers[0].lag), (0, 0));
    // What is larger than all of it drops nothing.
    let small = TopicRules { max_bytes: 10, ..bounded };
    let error = topics.publish(&orders(), &small, vec![now(event("7"))]).await.unwrap_err();
    assert!(matches!(error, TopicError::Full(Bound::Bytes(10))), "{error}");
    assert_eq!(topics.survey(&orders()).await.unwrap().messages, 3);
}

pub(super) async fn what_all_are_done_with_makes_room(topics: Topics, clock: TestClock) {
    let bounded = TopicRules { max_messages: Some(4), ..rules() };
    topics.ensure(&orders(), &bounded, &[(function("a"), From::Start), (function("b"), From::Start)]).await.unwrap();
    let send = async |data: &str| topics.publish(&orders(), &bounded, vec![own_id(event(data))]).await;
    for number in 1..=4 {
        send(&number.to_string()).await.unwrap();
    }
    let (a, b) = (consumer(&topics, "a").await, consumer(&topics, "b").await);
    let (of_a, of_b) = (next(&a, 4).await, next(&b, 4).await);
    done(&a, &of_a).await;
    send("5").await.unwrap_err();
    // One of them waits to come again; the others are done with.
    settle(&b, &of_b, |delivery| if delivery.position == 1 { retry(1) } else { Settled::Done }).await;
    for number in 5..=7 {
        send(&number.to_string()).await.unwrap();
    }
    send("8").await.unwrap_err();
    clock.advance(Duration::from_secs(1));
    assert_eq!(drain(&a).await, ["5", "6", "7"]);
    let mut of_b = drain(&b).await;
    of_b.sort();
    assert_eq!(of_b, ["1", "5", "6", "7"]);
    // What was removed is not remembered.
    let again = send("2").await.unwrap();
    assert_eq!((again[0].position, again[0].duplicate), (Some(8), false));
    // With nobody who follows it, nobody is done with anything.
    topics.ensure(&orders(), &bounded, &[]).await.unwrap();
    for number in 9..=11 {
        drop(send(&number.to_string()).await);
    }
    send("12").await.unwrap_err();
}

pub(super) async fn a_consumer_that_left_holds_nothing_and_comes_back(topics: Topics, clock: TestClock) {
    let bounded = TopicRules { max_messages: Some(4), ..rules() };
    let both = [(function("a"), From::Start), (function("b"), From::Start)];
    topics.ensure(&orders(), &bounded, &both).await.unwrap();
    let send = async |data: &str| topics.publish(&orders(), &bounded, vec![now(event(data))]).await;
    for number in 1..=4 {
        send(&number.to_string()).await.unwrap();
    }
    let (a, b) = (consumer(&topics, "a").await, consumer(&topics, "b").await);
    assert_eq!(drain(&a).await.len(), 4);
    let of_b = next(&b, 3).await;
    settle(&b, &of_b, |delivery| if delivery.position == 2 { retry(1) } else { Settled::Done }).await;
    drop(b);
    topics.ensure(&orders(), &bounded, &both[..1]).await.unwrap();
    let survey = topics.survey(&orders()).await.unwrap();
    assert_eq!((survey.consumers[0].left_ms, survey.consumers[1].left_ms), (None, Some(clock.now_ms())));
    // Named again later, it has left since then still.
    clock.advance(KEEP_CONSUMER);
    topics.ensure(&orders(), &bounded, &both[..1]).await.unwrap();
    topics.sweep(&orders(), &TopicRules { retention: 2 * KEEP_CONSUMER, ..bounded }).await.unwrap();
    topics.ensure(&orders(), &TopicRules { retention: 2 * KEEP_CONSUMER, ..bounded }, &both).await.unwrap();
    let b = consumer(&topics, "b").await;
    clock.advance(Duration::from_secs(1));
    let mut rest = drain(&b).await;
    rest.sort();
    assert_eq!(rest, ["2", "4"], "it goes on where it stood");
    // It holds nothing back while it is away.
    drop(b);
    topics.ensure(&orders(), &bounded, &both[..1]).await.unwrap();
    for number in 5..=8 {
        send(&number.to_string()).await.unwrap();
        drain(&a).await;
    }
    for number in 9..=10 {
        send(&number.to_string()).await.unwrap();
    }
    // And after a while it is forgotten.
    clock.advance(KEEP_CONSUMER + Duration::from_millis(1));
    assert_eq!(topics.sweep(&orders(), &bounded).await.unwrap().consumers, 1);
    let gone = topics.consumer(&orders(), &function("b"), ConsumerOptions::default()).await;
    assert!(matches!(gone, Err(TopicError::NoConsumer(_))), "{gone:?}");
}

pub(super) async fn a_dropped_consumer_is_delivered_the_rest_again(topics: Topics, _clock: TestClock) {
    follow(&topics, &["a"]).await;
    publish_all(&topics, (1..=6).map(|number| number.to_string())).await;
    let first = consumer(&topics, "a").await;
    let batch = next(&first, 4).await;
    settle(&first, &batch[1..2], |_| Settled::Done).await;
    // What was settled last is written though nobody waits for it.
    drop(first.settle(vec![(At::Log(4), batch[0].generation, Settled::Done)]));
    drop(first);
    let second = consumer(&topics, "a").await;
    let again = next(&second, 10).await;
    assert_eq!(data(&again), ["1", "3", "5", "6"]);
    assert!(again.iter().all(|delivery| delivery.tries == 0));
}

pub(super) async fn one_consumer_at_a_time(topics: Topics, _clock: TestClock) {
    follow(&topics, &["a", "b"]).await;
    let first = consumer(&topics, "a").await;
    let second = topics.consumer(&orders(), &function("a"), ConsumerOptions::default()).await;
    assert!(matches!(second, Err(TopicError::Busy)), "{second:?}");
    drop(consumer(&topics, "b").await);
    drop(first);
    drop(consumer(&topics, "a").await);
    for topic in [orders(), id("shop", "never")] {
        let nobody = topics.consumer(&topic, &function("nobody"), ConsumerOptions::default()).await;
        assert!(matches!(nobody, Err(TopicError::NoConsumer(_))), "{nobody:?}");
        // It left no trace.
        let nobody = topics.consumer(&topic, &function("nobody"), ConsumerOptions::default()).await;
        assert!(matches!(nobody, Err(TopicError::NoConsumer(_))), "{nobody:?}");
    }
}

pub(super) async fn a_consumer_begins_where_it_says(topics: Topics, _clock: TestClock) {
    publish(&topics, [event("1"), event("2")]).await;
    let both = [(function("start"), From::Start), (function("now"), From::Now)];
    topics.ensure(&orders(), &rules(), &both).await.unwrap();
    publish(&topics, [event("3")]).await;
    // Only the first time.
    let other = [(function("start"), From::Now), (function("now"), From::Start)];
    topics.ensure(&orders(), &rules(), &other).await.unwrap();
    let (start, now) = (consumer(&topics, "start").await, consumer(&topics, "now").await);
    assert_eq!(
        (drain(&start).await, drain(&now).await),
        (vec!["1".into(), "2".into(), "3".into()], vec!["3".to_owned()])
    );
}

pub(super) async fn a_batch_is_bounded_in_bytes(topics: Topics, _clock: TestClock) {
    follow(&topics, &["a"]).await;
    // The id is the data again, and both go out.
    publish(&topics, ["x".repeat(600), "y".repeat(400), "z".repeat(3000), "a".into()].map(|data| event(&data))).await;
    let consumer = consumer(&topics, "a").await;
    let mut sizes = Vec::new();
    for most_bytes in [2_500, 2_500, 2_500] {
        let deliveries = consumer.next(10, most_bytes).await.unwrap();
        assert!(deliveries.len() == 1 || deliveries.iter().map(Delivery::size).sum::<usize>() <= most_bytes);
        sizes.push(deliveries.iter().map(|delivery| delivery.event.data.len()).collect::<Vec<_>>());
        settle(&consumer, &deliveries, |_| Settled::Release).await;
        if sizes.len() < 3 {
            let again = consumer.next(10, most_bytes).await.unwrap();
            assert_eq!(again.len(), deliveries.len(), "released, they go the same way");
            done(&consumer, &again).await;
        }
    }
    // One that is larger goes alone.
    assert_eq!(sizes, [vec![600, 400], vec![3000], vec![1]]);
}

pub(super) async fn a_batch_is_counted_as_it_goes_out(topics: Topics, _clock: TestClock) {
    follow(&topics, &["a"]).await;
    // A byte of data each: with attributes, in base64, and with what JSON escapes.
    let long = |text: &str| Event { extensions: [("a".parse().unwrap(), text.repeat(1000))].into(), ..event("1") };
    let binary = || Event { content_type: None, data: vec![0xff; 3000].into(), ..event("1") };
    let escaped = || Event { data: vec![1; 700].into(), ..event("1") };
    for (events, at_once) in [
        ([long("x"), long("x"), long("x"), long("x")], 3),
        ([long("\""), long("\""), long("\""), long("\"")], 1),
        ([binary(), binary(), event("1"), event("1")], 1),
        ([escaped(), event("1"), event("1"), event("1")], 1),
    ] {
        publish(&topics, events).await;
        let consumer = consumer(&topics, "a").await;
        let deliveries = consumer.next(10, 4300).await.unwrap();
        assert_eq!(deliveries.len(), at_once);
        let extra = [("sequence", "00000000000000000001"), ("deliverycount", "1000")];
        let events = deliveries.iter().map(|delivery| (&*delivery.event, extra.to_vec()));
        assert!(at_once == 1 || minnow_model::event::write_batch(events).len() <= 4300);
        // Released, they go the same way.
        settle(&consumer, &deliveries, |_| Settled::Release).await;
        assert_eq!(consumer.next(10, 4300).await.unwrap().len(), at_once);
        drop(consumer);
        let consumer = super::consumer(&topics, "a").await;
        let all = next(&consumer, 10).await;
        assert_eq!(all.len(), 4);
        done(&consumer, &all).await;
    }
}

pub(super) async fn a_batch_that_is_too_large_comes_one_by_one(topics: Topics, _clock: TestClock) {
    follow(&topics, &["a"]).await;
    let keys = ["ada", "ada", "bob", "ada", "bob"];
    publish(&topics, keys.iter().enumerate().map(|(index, key)| with_key(&(index + 1).to_string(), key))).await;
    let consumer = by_customer(&topics, "a").await;
    let batch = next(&consumer, 4).await;
    settle(&consumer, &batch, |_| Settled::ReleaseAlone).await;
    let mut order = Vec::new();
    loop {
        let deliveries = next(&consumer, 10).await;
        if deliveries.is_empty() {
            break;
        }
        let is_alone = deliveries.iter().all(|delivery| delivery.alone && delivery.tries == 0);
        order.push((data(&deliveries).join(" "), is_alone));
        // Not now: it stays alone.
        settle(&consumer, &deliveries, |_| Settled::Release).await;
        let mut again = next(&consumer, 10).await;
        if data(&again) != data(&deliveries) {
            // The others have their turn first.
            done(&consumer, &again).await;
            order.push((data(&again).join(" "), again.iter().all(|delivery| delivery.alone)));
            again = next(&consumer, 10).await;
        }
        assert_eq!(data(&again), data(&deliveries));
        done(&consumer, &again).await;
    }
    order.sort();
    assert_eq!(order, ["1", "2", "3", "4", "5"].map(|data| (data.to_owned(), data != "5")));
}

pub(super) async fn the_hook_is_told_of_what_is_new_and_due(topics: Topics, clock: TestClock) {
    let told: Arc<Mutex<Vec<(String, Ready)>>> = Arc::default();
    let hook = Arc::clone(&told);
    topics.on_ready(Arc::new(move |topic: &StoreId, ready| hook.lock().unwrap().push((topic.name.to_string(), ready))));
    let told = || std::mem::take(&mut *told.lock().unwrap());
    let new = ("orders".to_owned(), Ready::Now);
    follow(&topics, &["a"]).await;
    assert_eq!(told(), []);
    topics.publish(&orders(), &rules(), vec![own_id(event("1")), now(event("2"))]).await.unwrap();
    assert_eq!(told(), std::slice::from_ref(&new));
    topics.publish(&orders(), &rules(), vec![own_id(event("1"))]).await.unwrap();
    assert_eq!(told(), [], "a duplicate is nothing new");
    let held = [30, 10, 20].map(|seconds| later(event("3"), Duration::from_secs(seconds))).to_vec();
    topics.publish(&orders(), &rules(), held).await.unwrap();
    assert_eq!(told(), [("orders".to_owned(), Ready::Due(clock.now_ms() + 10_000))]);
    topics.release_due(&orders(), &rules()).await.unwrap();
    assert_eq!(told(), []);
    clock.advance(Duration::from_secs(10));
    topics.release_due(&orders(), &rules()).await.unwrap();
    assert_eq!(told(), std::slice::from_ref(&new));
    let consumer = consumer(&topics, "a").await;
    let batch = next(&consumer, 1).await;
    settle(&consumer, &batch, |_| dead("no")).await;
    topics.dead_retry(&orders(), Which::One(1)).await.unwrap();
    topics.replay(&orders(), &function("a"), To::Position(1)).await.unwrap();
    assert_eq!(told(), [new.clone(), new]);
}

pub(super) async fn a_deleted_app_leaves_nothing(topics: Topics, _clock: TestClock) {
    let kept = id("blog", "orders");
    topics.delete_app(&orders().tenant, &orders().app).await.unwrap();
    follow(&topics, &["a"]).await;
    for topic in [orders(), id("shop", "audit"), kept.clone()] {
        topics.publish(&topic, &rules(), vec![now(event("1"))]).await.unwrap();
    }
    let old = consumer(&topics, "a").await;
    let in_flight = next(&old, 1).await;
    topics.delete_app(&orders().tenant, &orders().app).await.unwrap();
    assert_eq!(topics.list_stores(&orders().tenant, &orders().app).unwrap(), []);
    assert_eq!(topics.page(&orders(), 0, None, 10).await.unwrap(), super::super::Page::default());
    assert_eq!(topics.survey(&orders()).await.unwrap(), super::super::Survey::default());
    // What is left of it in memory is of no use in a topic of the same name.
    follow(&topics, &["a"]).await;
    publish(&topics, [event("new")]).await;
    done(&old, &in_flight).await;
    let error = old.next(1, 1).await.unwrap_err();
    assert!(matches!(error, TopicError::NoConsumer(_)), "{error}");
    drop(old);
    assert_eq!(drain(&consumer(&topics, "a").await).await, ["new"]);
    assert_eq!(topics.page(&kept, 0, None, 10).await.unwrap().messages.len(), 1);
    assert_eq!(topics.apps().unwrap().len(), 2);
}

pub(super) async fn the_largest_of_everything_is_kept(topics: Topics, _clock: TestClock) {
    follow(&topics, &["a"]).await;
    let extensions = (0..14).map(|number| (format!("attribute{number}").parse().unwrap(), "é".repeat(512)));
    let largest = Event {
        data: vec![7; MAX_DATA_BYTES].into(),
        id: "i".repeat(1024).into(),
        extensions: extensions.collect(),
        ..event("")
    };
    let five = std::iter::repeat_n(now(largest.clone()), 5).collect();
    topics.publish(&orders(), &rules(), five).await.unwrap();
    let many = (0..MAX_PUBLISH).map(|number| later(event(&number.to_string()), MAX_DELAY)).collect();
    assert_eq!(topics.publish(&orders(), &rules(), many).await.unwrap().len(), MAX_PUBLISH);
    let consumer = consumer(&topics, "a").await;
    let deliveries = next(&consumer, 10).await;
    assert_eq!(deliveries.len(), 5);
    assert!(deliveries.iter().all(|delivery| *delivery.event == largest));
    settle(&consumer, &deliveries, |_| dead("large")).await;
    assert_eq!(*topics.dead_get(&orders(), 5).await.unwrap().unwrap().event, largest);
}

pub(super) async fn what_is_too_large_or_no_event_is_refused_with_a_remedy(topics: Topics, _clock: TestClock) {
    let large = |bytes: usize| now(Event { data: vec![0; bytes].into(), ..event("large") });
    let too_late = later(event("late"), MAX_DELAY + Duration::from_millis(1));
    for (events, expected) in [
        (vec![large(MAX_DATA_BYTES + 1)], "put it into a bucket"),
        (vec![now(event("x")); MAX_PUBLISH + 1], "the most at once is 100"),
        (vec![large(MAX_DATA_BYTES); 6], "the most at once is 4194304"),
        (vec![too_late], "by a schedule"),
    ] {
        let error = topics.publish(&orders(), &rules(), events).await.unwrap_err();
        assert!(error.is_refusal() && error.to_string().contains(expected), "{error}");
    }
    for limit in [0, 1001] {
        for error in [
            topics.page(&orders(), 0, None, limit).await.map(drop),
            topics.dead_list(&orders(), None, 0, limit).await.map(drop),
        ] {
            assert!(matches!(error, Err(TopicError::Limit(_))), "{error:?}");
        }
    }
    assert_eq!(topics.list_stores(&orders().tenant, &orders().app).unwrap(), [], "a file was made");
}

pub(super) async fn topics_and_apps_are_apart(topics: Topics, _clock: TestClock) {
    let all = [orders(), id("shop", "audit"), id("blog", "orders")];
    for (number, topic) in all.iter().enumerate() {
        topics.ensure(topic, &rules(), &[(function("a"), From::Start)]).await.unwrap();
        let sent = topics.publish(topic, &rules(), vec![own_id(event("same")), now(event(&number.to_string()))]).await;
        assert!(sent.unwrap().iter().all(|sent| !sent.duplicate));
    }
    for (number, topic) in all.iter().enumerate() {
        let consumer = topics.consumer(topic, &function("a"), ConsumerOptions::default()).await.unwrap();
        assert_eq!(drain(&consumer).await, ["same".to_owned(), number.to_string()]);
    }
    let listed = topics.list_stores(&orders().tenant, &orders().app).unwrap();
    assert_eq!(listed.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["audit", "orders"]);
}

pub(super) async fn the_clock_is_set_back_and_forward(topics: Topics, clock: TestClock) {
    follow(&topics, &["a"]).await;
    let started = clock.now_ms();
    publish(&topics, [event("1")]).await;
    let consumer = consumer(&topics, "a").await;
    let first = next(&consumer, 1).await;
    settle(&consumer, &first, |_| retry(10)).await;
    // An hour back: the times of messages do not go back, and a wait that runs is not longer.
    clock.set(started - 3_600_000);
    publish(&topics, [event("2")]).await;
    let second = next(&consumer, 1).await;
    assert_eq!((data(&second), second[0].time_ms), (vec!["2"], started));
    clock.advance(Duration::from_secs(10));
    assert_eq!(data(&next(&consumer, 1).await), ["1"]);
    // A day forward: a wait that runs is not shorter either.
    settle(&consumer, &second, |_| retry(10)).await;
    clock.set(started + 24 * 3_600_000);
    assert_eq!(next(&consumer, 1).await, []);
    clock.advance(Duration::from_secs(10));
    assert_eq!(data(&next(&consumer, 1).await), ["2"]);
    assert_eq!(publish(&topics, [event("3")]).await, [3]);
    assert_eq!(next(&consumer, 1).await[0].time_ms, clock.now_ms());
}

pub(super) async fn what_there_is_is_surveyed(topics: Topics, clock: TestClock) {
    assert_eq!(topics.survey(&orders()).await.unwrap(), super::super::Survey::default());
    follow(&topics, &["a", "b"]).await;
    let idle = topics.survey(&orders()).await.unwrap();
    assert!(idle.consumers.iter().all(|one| !one.has_work && one.lag == 0 && one.oldest_ms.is_none()));
    let taken_ms = clock.now_ms();
    publish_all(&topics, (1..=3).map(|number| number.to_string())).await;
    clock.advance(Duration::from_secs(1));
    publish_all(&topics, (4..=5).map(|number| number.to_string())).await;
    let consumer = consumer(&topics, "a").await;
    let batch = next(&consumer, 4).await;
    settle(&consumer, &batch[..3], |delivery| match delivery.position {
        1 => Settled::Done,
        2 => retry(10),
        _ => dead("no"),
    })
    .await;
    let survey = topics.survey(&orders()).await.unwrap();
    assert_eq!((survey.messages, survey.first, survey.last), (5, Some(1), Some(5)));
    let [a, b] = &survey.consumers[..] else { panic!("{survey:?}") };
    assert_eq!(topics.survey_of(&orders(), &function("a")).await.unwrap().as_ref(), Some(a));
    assert_eq!(topics.survey_of(&orders(), &function("b")).await.unwrap().as_ref(), Some(b));
    assert_eq!(topics.survey_of(&orders(), &function("c")).await.unwrap(), None);
    assert_eq!(topics.survey_of(&id("shop", "never"), &function("a")).await.unwrap(), None);
    assert_eq!((a.lag, a.oldest_ms, a.outstanding, a.retrying, a.dead), (3, Some(taken_ms), 2, 1, 1));
    assert_eq!((a.has_work, a.next_due_ms), (true, Some(clock.now_ms() + 10_000)));
    assert_eq!((b.lag, b.oldest_ms, b.outstanding, b.has_work, b.next_due_ms), (5, Some(taken_ms), 0, true, None));
    done(&consumer, &batch[3..]).await;
    assert_eq!(drain(&consumer).await, ["5"]);
    let a = topics.survey(&orders()).await.unwrap().consumers.remove(0);
    assert_eq!((a.lag, a.has_work, a.oldest_ms), (1, false, Some(taken_ms)));
    clock.advance(Duration::from_secs(10));
    assert!(topics.survey(&orders()).await.unwrap().consumers[0].has_work);
    drain(&consumer).await;
    topics.dead_retry(&orders(), Which::One(1)).await.unwrap();
    let a = topics.survey(&orders()).await.unwrap().consumers.remove(0);
    assert_eq!((a.lag, a.has_work, a.outstanding), (0, true, 1));
}

pub(super) async fn pages_are_read_without_a_consumer(topics: Topics, clock: TestClock) {
    for number in 1..=5 {
        publish(&topics, [event(&number.to_string())]).await;
        clock.advance(Duration::from_secs(1));
    }
    let started = clock.now_ms() - 5_000;
    for (after, since_ms, limit, expected) in [
        (0, None, 1000, &[1, 2, 3, 4, 5][..]),
        (0, None, 2, &[1, 2]),
        (2, None, 2, &[3, 4]),
        (5, None, 2, &[]),
        (0, Some(started + 2_000), 9, &[3, 4, 5]),
        (3, Some(started + 2_000), 9, &[4, 5]),
        (0, Some(u64::MAX / 4), 9, &[]),
        (u64::MAX / 4, None, 9, &[]),
        (u64::MAX - 1, None, 9, &[]),
        (u64::MAX, None, 9, &[]),
    ] {
        let page = topics.page(&orders(), after, since_ms, limit).await.unwrap();
        let found: Vec<_> = page.messages.iter().map(|logged| logged.position).collect();
        assert_eq!((found, page.last), (expected.to_vec(), 5), "{after} {since_ms:?} {limit}");
    }
    let page = topics.page(&orders(), 1, None, 1).await.unwrap();
    assert_eq!((&*page.messages[0].event, page.messages[0].time_ms), (&event("2"), started + 1_000));
    let large = Event { data: vec![0; 700_000].into(), ..event("large") };
    for _ in 0..7 {
        publish(&topics, [large.clone()]).await;
    }
    assert_eq!(topics.page(&orders(), 5, None, 1000).await.unwrap().messages.len(), 5);
}

pub(super) async fn first_ms_counts_from_the_first_answer(topics: Topics, clock: TestClock) {
    follow(&topics, &["a"]).await;
    publish(&topics, [event("1"), event("2")]).await;
    let first = consumer(&topics, "a").await;
    let day = Duration::from_secs(24 * 3600);
    let batches = [next(&first, 1).await, next(&first, 1).await];
    // The later one passes the first, which nobody answered.
    done(&first, &batches[1]).await;
    drop(first);
    clock.advance(day);
    let consumer_ = consumer(&topics, "a").await;
    for again in [Settled::Release, Settled::ReleaseAlone] {
        let batch = next(&consumer_, 1).await;
        assert_eq!((batch[0].position, batch[0].first_ms), (1, clock.now_ms()));
        settle(&consumer_, &batch, |_| again.clone()).await;
        clock.advance(day);
    }
    let answered_ms = clock.now_ms();
    let later = || Settled::Retry { after: Duration::from_secs(1), counted: false };
    for settled in [later(), Settled::Release, later()] {
        let batch = next(&consumer_, 1).await;
        assert_eq!(batch[0].first_ms, answered_ms);
        settle(&consumer_, &batch, |_| settled.clone()).await;
        clock.advance(Duration::from_secs(1));
    }
    drop(consumer_);
    let consumer = consumer(&topics, "a").await;
    let batch = next(&consumer, 1).await;
    assert_eq!(batch[0].first_ms, answered_ms);
    // A dead letter that is tried again begins anew.
    settle(&consumer, &batch, |_| dead("no")).await;
    topics.dead_retry(&orders(), Which::One(1)).await.unwrap();
    let batch = next(&consumer, 1).await;
    settle(&consumer, &batch, |_| Settled::Release).await;
    clock.advance(day);
    assert_eq!(next(&consumer, 1).await[0].first_ms, clock.now_ms());
}

pub(super) async fn a_clock_that_was_ahead_leaves_no_duplicates_behind(topics: Topics, clock: TestClock) {
    let send = async |data: &str| {
        topics.publish(&orders(), &rules(), vec![own_id(event(data))]).await.unwrap().remove(0).duplicate
    };
    let started = clock.now_ms();
    clock.set(started + 366 * 24 * 3_600_000);
    assert!(!send("ahead").await);
    assert!(send("ahead").await);
    clock.set(started);
    assert!(!send("x").await);
    assert!(send("x").await);
    clock.advance(DEDUP_WINDOW - Duration::from_millis(1));
    assert!(send("x").await);
    clock.advance(Duration::from_millis(1));
    assert!(!send("x").await, "its window is over");
    assert!(!send("ahead").await);
    // A little is no matter.
    clock.set(clock.now_ms() - 1000);
    assert!(send("x").await);
}

pub(super) async fn a_message_that_dies_again_after_a_replay_has_another_copy(topics: Topics, _clock: TestClock) {
    follow(&topics, &["a"]).await;
    publish(&topics, [event("1")]).await;
    let consumer = consumer(&topics, "a").await;
    for _ in 0..2 {
        let deliveries = next(&consumer, 1).await;
        let forward = Some("orders-dead".parse().unwrap());
        let death = Death { reason: "no".into(), status: None, answer: Bytes::new(), forward };
        settle(&consumer, &deliveries, |_| Settled::Dead(Box::new(death.clone()))).await;
        assert_eq!(topics.forward(&orders(), |_| Some(rules())).await.unwrap(), 0);
        topics.replay(&orders(), &function("a"), To::Position(1)).await.unwrap();
    }
    let copies = topics.page(&id("shop", "orders-dead"), 0, None, 10).await.unwrap().messages;
    let ids: Vec<_> = copies.iter().map(|copy| &*copy.event.id).collect();
    assert_eq!(ids, ["dead-orders-a-1", "dead-orders-a-2"]);
}

pub(super) async fn numbers_that_nothing_has_find_nothing(topics: Topics, _clock: TestClock) {
    follow(&topics, &["a"]).await;
    publish(&topics, [event("1")]).await;
    for number in [u64::MAX, u64::MAX / 2 + 1, u64::MAX / 2] {
        assert_eq!(topics.dead_get(&orders(), number).await.unwrap(), None);
        assert_eq!(topics.dead_list(&orders(), None, number, 1).await.unwrap().letters, []);
        for error in [
            topics.dead_drop(&orders(), Which::One(number)).await,
            topics.dead_retry(&orders(), Which::One(number)).await,
        ] {
            assert!(matches!(error, Err(TopicError::NoSuchMessage(_))), "{error:?}");
        }
        topics.replay(&orders(), &function("a"), To::Position(number)).await.unwrap();
        topics.replay(&orders(), &function("a"), To::Time(number)).await.unwrap();
    }
}
