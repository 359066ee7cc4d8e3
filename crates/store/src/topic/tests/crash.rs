//! What is there after a crash between any two steps. A crash is a copy of the files as they are at that moment, which a node opens
//! anew. `tests/topics_over_kills.rs` of this crate kills a process.

use std::fs;

use super::*;

/// The topics that a crash at this moment would leave.
fn crash(temp: &TempDir, clock: &TestClock) -> (Topics, TempDir) {
    let left = tempfile::tempdir().unwrap();
    let folder = "topic/default/shop";
    fs::create_dir_all(left.path().join(folder)).unwrap();
    for file in fs::read_dir(temp.path().join(folder)).unwrap() {
        let file = file.unwrap();
        // Its index is made anew from the log.
        if !file.file_name().to_string_lossy().ends_with("-shm") {
            fs::copy(file.path(), left.path().join(folder).join(file.file_name())).unwrap();
        }
    }
    (open(&left, clock), left)
}

#[tokio::test]
async fn what_was_answered_is_there_after_a_crash_at_any_step() {
    let (topics, clock, temp) = embedded_topics();
    follow(&topics, &["a"]).await;
    let sent = ["1", "2", "3", "4"].map(|data| own_id(event(data))).to_vec();
    topics.publish(&orders(), &rules(), sent.clone()).await.unwrap();
    let a = consumer(&topics, "a").await;
    let rest = async |when: &str| {
        let (topics, _left) = crash(&temp, &clock);
        // A publisher that does not know whether it was answered publishes again.
        let again = topics.publish(&orders(), &rules(), sent.clone()).await.unwrap();
        assert!(again.iter().all(|sent| sent.duplicate), "{when}");
        clock.advance(Duration::from_secs(10));
        let mut rest = drain(&consumer(&topics, "a").await).await;
        rest.sort();
        (rest, topics.dead_list(&orders(), None, 0, 10).await.unwrap().letters.len())
    };
    let all = ["1", "2", "3", "4"].map(str::to_owned);
    assert_eq!(rest("published").await, (all.to_vec(), 0));
    let batch = next(&a, 3).await;
    assert_eq!(rest("delivered").await, (all.to_vec(), 0));
    settle(&a, &batch[2..], |_| Settled::Done).await;
    assert_eq!(rest("the last is done").await, (vec!["1".into(), "2".into(), "4".into()], 0));
    settle(&a, &batch[..1], |_| retry(5)).await;
    assert_eq!(rest("the first comes again").await, (vec!["1".into(), "2".into(), "4".into()], 0));
    settle(&a, &batch[1..2], |_| dead("no")).await;
    assert_eq!(rest("the second is dead").await, (vec!["1".into(), "4".into()], 1));
    topics.replay(&orders(), &function("a"), To::Position(2)).await.unwrap();
    assert_eq!(rest("set back").await, (all[1..].to_vec(), 1));
}

#[tokio::test]
async fn a_crash_while_copies_are_forwarded_publishes_none_twice() {
    let (topics, clock, temp) = embedded_topics();
    follow(&topics, &["a"]).await;
    publish(&topics, [event("1")]).await;
    let consumer = consumer(&topics, "a").await;
    let batch = next(&consumer, 1).await;
    let forward = Some("orders-dead".parse().unwrap());
    let death = Death { reason: "no".into(), status: None, answer: Bytes::new(), forward };
    settle(&consumer, &batch, |_| Settled::Dead(Box::new(death.clone()))).await;
    // It was published, and the crash came before that was noted.
    let (before, _left) = crash(&temp, &clock);
    topics.forward(&orders(), |_| Some(rules())).await.unwrap();
    let copy = topics.page(&id("shop", "orders-dead"), 0, None, 10).await.unwrap().messages.remove(0);
    let outgoing = own_id(Event::clone(&copy.event));
    before.publish(&id("shop", "orders-dead"), &rules(), vec![outgoing]).await.unwrap();
    assert_eq!(before.survey(&orders()).await.unwrap().to_forward, 1);
    before.forward(&orders(), |_| Some(rules())).await.unwrap();
    assert_eq!(before.survey(&orders()).await.unwrap().to_forward, 0);
    assert_eq!(before.page(&id("shop", "orders-dead"), 0, None, 10).await.unwrap().messages.len(), 1);
}
