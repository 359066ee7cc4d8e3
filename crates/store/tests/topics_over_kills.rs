//! Topics over `kill -9`: what was acknowledged to a publisher comes, and in the order of its key. In a process of its own, since a child has
//! the locks of its parent's files until it runs something else.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use bytes::Bytes;
use minnow_model::{
    StoreId,
    event::{Event, From, WhenFull},
};
use minnow_store::{
    Topics,
    kv::Clock,
    topic::{Consumer, ConsumerOptions, Delivery, Outgoing, Settled, TopicRules},
};

fn orders() -> StoreId {
    StoreId { tenant: "default".parse().unwrap(), app: "shop".parse().unwrap(), name: "orders".parse().unwrap() }
}

fn rules() -> TopicRules {
    let retention = Duration::from_secs(24 * 3600);
    TopicRules { retention, max_bytes: 1 << 30, max_messages: None, when_full: WhenFull::Refuse }
}

fn open(dir: &Path) -> Topics {
    let clock: Clock = Arc::new(|| UNIX_EPOCH.elapsed().unwrap().as_millis() as u64);
    Topics::open(dir, clock).unwrap()
}

/// A message of a key, whose data is its id as well.
fn outgoing(data: &str, key: u32) -> Outgoing {
    let event = Event {
        id: data.into(),
        source: "/test".into(),
        kind: "test.message".into(),
        subject: None,
        time_ms: None,
        content_type: None,
        extensions: [("customer".parse().unwrap(), key.to_string())].into(),
        data: Bytes::copy_from_slice(data.as_bytes()),
    };
    Outgoing { event, delay: Duration::ZERO, has_own_id: true }
}

async fn consumer(topics: &Topics) -> Consumer {
    let options = ConsumerOptions { order_by: Some("customer".parse().unwrap()), ..ConsumerOptions::default() };
    topics.consumer(&orders(), &"a".parse().unwrap(), options).await.unwrap()
}

fn text(delivery: &Delivery) -> String {
    String::from_utf8(delivery.event.data.to_vec()).unwrap()
}

/// Tells the child of [`every_acknowledged_message_comes_over_kills`] where it works.
const DIR: &str = "MINNOW_TOPIC_CRASH_DIR";

/// What the child does until it is killed: publishes, of four keys in order, and consumes. It says what was acknowledged.
#[test]
fn child_that_is_killed() {
    let Ok(dir) = env::var(DIR) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    runtime.block_on(async {
        let topics = open(Path::new(&dir));
        topics.ensure(&orders(), &rules(), &[("a".parse().unwrap(), From::Start)]).await.unwrap();
        let round = topics.survey(&orders()).await.unwrap().last.unwrap_or(0);
        let say = |line: String| {
            let mut out = std::io::stdout().lock();
            writeln!(out, "{line}").unwrap();
            out.flush().unwrap();
        };
        // What stands on one line with what the test harness says does not count.
        say("begins".into());
        for key in 0..4 {
            let topics = topics.clone();
            tokio::spawn(async move {
                for number in 0.. {
                    let data = format!("{round:09}-{number:09}-{key}");
                    topics.publish(&orders(), &rules(), vec![outgoing(&data, key)]).await.unwrap();
                    say(format!("published {data}"));
                }
            });
        }
        let consumer = consumer(&topics).await;
        loop {
            let batch = consumer.next(7, usize::MAX).await.unwrap();
            batch.iter().for_each(|delivery| say(format!("delivered {}", text(delivery))));
            // Some fail the first time.
            let settled = |delivery: &Delivery| match delivery.tries == 0 && delivery.position.is_multiple_of(11) {
                true => Settled::Retry { after: Duration::ZERO, counted: true },
                false => Settled::Done,
            };
            let results = batch.iter().map(|delivery| (delivery.at, delivery.generation, settled(delivery))).collect();
            consumer.settle(results).await.unwrap();
            tokio::task::yield_now().await;
        }
    });
}

#[test]
fn every_acknowledged_message_comes_over_kills() {
    let temp = tempfile::tempdir().unwrap();
    let (mut published, mut delivered) = (BTreeSet::new(), Vec::new());
    for round in 0..6 {
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["child_that_is_killed", "--exact", "--nocapture"])
            .env(DIR, temp.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut note = |line: String| match line.split_once(' ') {
            Some(("published", data)) => drop(published.insert(data.to_owned())),
            Some(("delivered", data)) => delivered.push(data.to_owned()),
            _ => {}
        };
        // It dies in the middle of things, another one each round.
        for line in lines.by_ref().take(300 + 97 * round) {
            note(line.unwrap());
        }
        child.kill().unwrap();
        child.wait().unwrap();
        // What it said before it died counts as well; a line that it did not end does not.
        lines.map_while(Result::ok).filter(|line| line.ends_with(char::is_numeric) && line.len() == 31).for_each(note);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let topics = open(temp.path());
        let consumer = consumer(&topics).await;
        loop {
            let batch = consumer.next(7, usize::MAX).await.unwrap();
            // Those that are to come again are due by now, or in this moment.
            if batch.is_empty() && consumer.outstanding() == 0 {
                break;
            }
            delivered.extend(batch.iter().map(text));
            let results = batch.iter().map(|delivery| (delivery.at, delivery.generation, Settled::Done)).collect();
            consumer.settle(results).await.unwrap();
        }
    });
    assert!(published.len() > 200, "{} were published", published.len());
    let seen: BTreeSet<_> = delivered.iter().cloned().collect();
    assert_eq!(
        published.difference(&seen).collect::<Vec<_>>(),
        Vec::<&String>::new(),
        "acknowledged, and never delivered"
    );
    // By key the first deliveries are in the order in which it published.
    let mut last: BTreeMap<char, &str> = BTreeMap::new();
    let mut before = BTreeSet::new();
    for data in &delivered {
        if before.insert(data) {
            let last = last.entry(data.chars().last().unwrap()).or_default();
            assert!(*last < data.as_str(), "{data} came after {last}");
            *last = data;
        }
    }
}
