//! What is there after a crash: between any two steps, of which a copy of the files is what a crash would leave, and after `kill -9`.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Command, Stdio},
};

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

/// Tells the child of [`every_acknowledged_message_comes_over_kills`] where it works.
const DIR: &str = "MINNOW_TOPIC_CRASH_DIR";

/// What the child does until it is killed: publishes, of four keys in order, and consumes. It says what was acknowledged.
#[test]
fn child_that_is_killed() {
    let Ok(dir) = env::var(DIR) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    runtime.block_on(async {
        let clock = Arc::new(|| std::time::UNIX_EPOCH.elapsed().unwrap().as_millis() as u64);
        let topics = Topics::open(Path::new(&dir), clock).unwrap();
        follow(&topics, &["a"]).await;
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
                    let outgoing = own_id(with_key(&data, &key.to_string()));
                    topics.publish(&orders(), &rules(), vec![outgoing]).await.unwrap();
                    say(format!("published {data}"));
                }
            });
        }
        let consumer = by_customer(&topics, "a").await;
        loop {
            let batch = next(&consumer, 7).await;
            for delivery in &batch {
                say(format!("delivered {}", str::from_utf8(&delivery.event.data).unwrap()));
            }
            // Some fail the first time.
            let fails = |delivery: &Delivery| delivery.tries == 0 && delivery.position % 11 == 0;
            settle(&consumer, &batch, |delivery| if fails(delivery) { retry(0) } else { Settled::Done }).await;
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
            .args(["topic::tests::crash::child_that_is_killed", "--exact", "--nocapture"])
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
        let clock = Arc::new(|| std::time::UNIX_EPOCH.elapsed().unwrap().as_millis() as u64);
        let topics = Topics::open(temp.path(), clock).unwrap();
        let consumer = by_customer(&topics, "a").await;
        delivered.extend(drain(&consumer).await);
        while consumer.outstanding() > 0 {
            delivered.extend(drain(&consumer).await);
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
