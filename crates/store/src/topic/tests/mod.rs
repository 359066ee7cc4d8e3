//! [`contract`] is what any backend has to keep; [`embedded`], [`crash`] and [`waiting`] are about the files of this one.

mod contract;
mod crash;
mod embedded;
mod waiting;
mod window;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use minnow_model::{
    FunctionName, StoreId,
    event::{Event, From, WhenFull},
};
use tempfile::TempDir;

use super::{
    At, Consumer, ConsumerOptions, Death, Delivery, Outgoing, Settled, To, TopicRules, Topics,
    embedded::{Embedded, Times, TopicBounds},
};

/// Two clocks that stand until they are moved: that of the wall, which can be set, and the running one.
#[derive(Clone)]
struct TestClock {
    wall: Arc<AtomicU64>,
    running: Arc<AtomicU64>,
}

impl TestClock {
    fn new() -> Self {
        Self { wall: Arc::new(AtomicU64::new(1_800_000_000_000)), running: Arc::default() }
    }

    fn now_ms(&self) -> u64 {
        self.wall.load(Ordering::SeqCst)
    }

    /// Time goes by.
    fn advance(&self, time: Duration) {
        self.wall.fetch_add(time.as_millis() as u64, Ordering::SeqCst);
        self.running.fetch_add(time.as_millis() as u64, Ordering::SeqCst);
    }

    /// Somebody sets the clock of the wall.
    fn set(&self, ms: u64) {
        self.wall.store(ms, Ordering::SeqCst);
    }

    fn times(&self) -> Times {
        let (wall, running) = (Arc::clone(&self.wall), Arc::clone(&self.running));
        Times {
            wall: Arc::new(move || wall.load(Ordering::SeqCst)),
            running: Arc::new(move || running.load(Ordering::SeqCst)),
        }
    }
}

/// An empty backend; the folder goes when the test ends.
fn embedded_topics() -> (Topics, TestClock, TempDir) {
    let (temp, clock) = (tempfile::tempdir().unwrap(), TestClock::new());
    (open(&temp, &clock), clock, temp)
}

/// What is in the folder, opened.
fn open(temp: &TempDir, clock: &TestClock) -> Topics {
    let embedded = Embedded::open(&temp.path().join("topic"), clock.times(), TopicBounds::default()).unwrap();
    Topics { embedded }
}

fn id(app: &str, name: &str) -> StoreId {
    StoreId { tenant: "default".parse().unwrap(), app: app.parse().unwrap(), name: name.parse().unwrap() }
}

fn orders() -> StoreId {
    id("shop", "orders")
}

fn function(name: &str) -> FunctionName {
    name.parse().unwrap()
}

fn rules() -> TopicRules {
    TopicRules {
        retention: Duration::from_secs(7 * 24 * 3600),
        max_bytes: 1 << 30,
        max_messages: None,
        when_full: WhenFull::Refuse,
    }
}

/// An event with this data, which is its id as well.
fn event(data: &str) -> Event {
    Event {
        id: data.into(),
        source: "/test".into(),
        kind: "test.message".into(),
        subject: None,
        time_ms: None,
        content_type: Some("text/plain".into()),
        extensions: BTreeMap::new(),
        data: Bytes::copy_from_slice(data.as_bytes()),
    }
}

fn with_key(data: &str, key: &str) -> Event {
    Event { extensions: [("customer".parse().unwrap(), key.to_owned())].into(), ..event(data) }
}

fn now(event: Event) -> Outgoing {
    Outgoing { event, delay: Duration::ZERO, has_own_id: false }
}

fn own_id(event: Event) -> Outgoing {
    Outgoing { has_own_id: true, ..now(event) }
}

fn later(event: Event, delay: Duration) -> Outgoing {
    Outgoing { delay, ..now(event) }
}

async fn publish(topics: &Topics, events: impl IntoIterator<Item = Event>) -> Vec<u64> {
    let sent = topics.publish(&orders(), &rules(), events.into_iter().map(now).collect()).await.unwrap();
    sent.into_iter().map(|sent| sent.position.unwrap()).collect()
}

async fn publish_all(topics: &Topics, data: impl IntoIterator<Item = String>) {
    let mut data = data.into_iter().peekable();
    while data.peek().is_some() {
        publish(topics, data.by_ref().take(100).map(|data| event(&data)).collect::<Vec<_>>()).await;
    }
}

/// The topic, which these functions follow from its start.
async fn follow(topics: &Topics, functions: &[&str]) {
    let consumers: Vec<_> = functions.iter().map(|name| (function(name), From::Start)).collect();
    topics.ensure(&orders(), &rules(), &consumers).await.unwrap();
}

async fn consumer(topics: &Topics, name: &str) -> Consumer {
    topics.consumer(&orders(), &function(name), ConsumerOptions::default()).await.unwrap()
}

/// One that keeps the order of customers.
async fn by_customer(topics: &Topics, name: &str) -> Consumer {
    let options = ConsumerOptions { order_by: Some("customer".parse().unwrap()), ..ConsumerOptions::default() };
    topics.consumer(&orders(), &function(name), options).await.unwrap()
}

async fn next(consumer: &Consumer, most: usize) -> Vec<Delivery> {
    consumer.next(most, usize::MAX).await.unwrap()
}

/// The data of deliveries.
fn data(deliveries: &[Delivery]) -> Vec<&str> {
    deliveries.iter().map(|delivery| str::from_utf8(&delivery.event.data).unwrap()).collect()
}

async fn settle(consumer: &Consumer, deliveries: &[Delivery], settled: impl Fn(&Delivery) -> Settled) {
    let results = deliveries.iter().map(|delivery| (delivery.at, delivery.generation, settled(delivery))).collect();
    consumer.settle(results).await.unwrap();
}

async fn done(consumer: &Consumer, deliveries: &[Delivery]) {
    settle(consumer, deliveries, |_| Settled::Done).await;
}

/// Everything that comes, until nothing does.
async fn drain(consumer: &Consumer) -> Vec<String> {
    let mut all = Vec::new();
    loop {
        let deliveries = next(consumer, 100).await;
        if deliveries.is_empty() {
            return all;
        }
        all.extend(data(&deliveries).into_iter().map(str::to_owned));
        done(consumer, &deliveries).await;
    }
}

fn retry(seconds: u64) -> Settled {
    Settled::Retry { after: Duration::from_secs(seconds), counted: true }
}

fn dead(reason: &str) -> Settled {
    let answer = Bytes::from_static(b"no such customer");
    Settled::Dead(Box::new(Death { reason: reason.into(), status: Some(500), answer, forward: None }))
}

fn positions(deliveries: &[Delivery]) -> Vec<u64> {
    deliveries
        .iter()
        .map(|delivery| match delivery.at {
            At::Log(position) => position,
            At::Dead(number) => panic!("dead letter {number}"),
        })
        .collect()
}
