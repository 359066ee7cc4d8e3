//! Very many messages that wait.
//!
//! Memory is that of a process, so each measurement has one of its own: the test runs itself again.

use std::{env, fs, process::Command};

use super::*;

/// Says to a process of this program how many messages are to wait.
const WAITING: &str = "MINNOW_TEST_WAITING";
const NAME: &str = "topic::tests::waiting::a_million_waiting_messages_take_no_more_memory_than_a_few";
/// What is delivered and settled of them, in batches.
const DELIVERED: usize = 20_000;
const BATCH: usize = 100;
/// Less than a byte for each message.
const MORE_BYTES: u64 = 900_000;

#[test]
fn a_million_waiting_messages_take_no_more_memory_than_a_few() {
    if let Ok(waiting) = env::var(WAITING) {
        return use_topic(waiting.parse().unwrap());
    }
    let peak = |waiting: usize| -> u64 {
        let mut command = Command::new(env::current_exe().unwrap());
        let output = command.args([NAME, "--exact", "--nocapture"]).env(WAITING, waiting.to_string()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{text}");
        let line = text.lines().find_map(|line| line.split_once("peak ")).unwrap_or_else(|| panic!("{text}"));
        line.1.trim().parse().unwrap()
    };
    // Twice as many as are delivered, so that both do the same.
    let few = peak(2 * DELIVERED);
    let million = peak(1_000_000);
    assert!(million < few + MORE_BYTES, "{million} bytes with a million, {few} with few");
}

/// Delivers the first of so many messages, then the last; prints the most memory that the process has had.
#[tokio::main(flavor = "current_thread")]
async fn use_topic(waiting: usize) {
    let (topics, clock, temp) = embedded_topics();
    follow(&topics, &["a"]).await;
    drop(topics);
    fill(&temp, &clock, waiting);
    let topics = open(&temp, &clock);
    let survey = topics.survey(&orders()).await.unwrap();
    assert_eq!((survey.messages, survey.consumers[0].lag), (waiting as u64, waiting as u64));
    let a = consumer(&topics, "a").await;
    // Nobody waits for the disk, as in a node.
    for batch in 0..DELIVERED / BATCH {
        let deliveries = next(&a, BATCH).await;
        assert_eq!((deliveries.len(), deliveries[0].position), (BATCH, (batch * BATCH + 1) as u64));
        drop(a.settle(deliveries.iter().map(|one| (one.at, one.generation, Settled::Done)).collect()));
    }
    topics.replay(&orders(), &function("a"), To::Position((waiting - DELIVERED / 2 + 1) as u64)).await.unwrap();
    assert_eq!(drain(&a).await.len(), DELIVERED / 2);
    // What comes in now is next.
    assert_eq!(publish(&topics, [event("new")]).await, [waiting as u64 + 1]);
    assert_eq!(drain(&a).await, ["new"]);
    assert_eq!(topics.survey(&orders()).await.unwrap().consumers[0].lag, 0);
    println!("peak {}", peak());
}

/// Writes messages into the file, as a publish does.
fn fill(temp: &TempDir, clock: &TestClock, waiting: usize) {
    let file = temp.path().join("topic/default/shop/orders.db");
    while file.with_extension("db-wal").exists() {
        std::thread::yield_now();
    }
    let head = r#"{"id":"some","source":"/test","type":"test.message"}"#;
    let data = vec![b'x'; 256];
    let bytes = (head.len() + data.len()) as u64;
    let connection = rusqlite::Connection::open(file).unwrap();
    // It is not to survive anything.
    connection.execute_batch("PRAGMA synchronous = OFF; PRAGMA journal_mode = DELETE; BEGIN").unwrap();
    let sql = "WITH RECURSIVE number (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < ?1)
               INSERT INTO message (position, time_ms, head, data) SELECT n, ?2, ?3, ?4 FROM number";
    assert_eq!(connection.execute(sql, (waiting, clock.now_ms(), head, data)).unwrap(), waiting);
    let sql = "UPDATE topic SET next = ?1 + 1, last_ms = ?2, messages = ?1, bytes = ?1 * ?3";
    connection.execute(sql, (waiting, clock.now_ms(), bytes)).unwrap();
    connection.execute_batch("COMMIT; PRAGMA journal_mode = WAL").unwrap();
}

/// The most resident memory of this process, in bytes: `VmHWM` (proc_pid_status(5)).
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
}
