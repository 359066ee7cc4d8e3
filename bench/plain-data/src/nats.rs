//! Publishers of NATS JetStream, which each wait for the acknowledgement of a message before they send the next.

use std::{
    error::Error,
    time::{Duration, Instant},
};

use async_nats::{
    HeaderMap,
    jetstream::{
        self,
        stream::{Config, StorageType},
    },
};

use crate::WARM_UP;

const STREAM: &str = "bench";
/// The name of the header by which JetStream knows a message again.
const ID: &str = "Nats-Msg-Id";

/// What is published.
pub struct Publishing {
    pub publishers: usize,
    /// Among which the publishers are divided.
    pub connections: usize,
    pub bytes: usize,
    /// Whether each message has an id of its own.
    pub has_ids: bool,
    pub duration: Duration,
}

/// Publishes to a stream on files, without replicas; prints how many messages a second were acknowledged, and p50 and p99 of the time of
/// one, in nanoseconds.
pub fn publish(address: &str, publishing: &Publishing) -> Result<(), Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut took = runtime.block_on(run(address, publishing)).map_err(|error| error.to_string())?;
    took.sort_unstable();
    let at =
        |percent: usize| took.get((took.len() * percent).div_ceil(100).max(1) - 1).ok_or("nothing was acknowledged");
    let per_second = took.len() as f64 / publishing.duration.as_secs_f64();
    println!("{per_second} {} {}", at(50)?.as_nanos(), at(99)?.as_nanos());
    Ok(())
}

async fn run(address: &str, publishing: &Publishing) -> Result<Vec<Duration>, Box<dyn Error + Send + Sync>> {
    let mut contexts = Vec::new();
    for _ in 0..publishing.connections {
        contexts.push(jetstream::new(async_nats::connect(address).await?));
    }
    let context = contexts.first().ok_or("there is to be a connection")?;
    let stream = context.get_or_create_stream(Config {
        name: STREAM.into(),
        subjects: vec![STREAM.into()],
        storage: StorageType::File,
        num_replicas: 1,
        ..Config::default()
    });
    stream.await?;
    let begin = Instant::now() + WARM_UP;
    let end = begin + publishing.duration;
    // Another one in each run, since JetStream remembers ids for two minutes.
    let run = std::process::id();
    let (bytes, has_ids) = (publishing.bytes, publishing.has_ids);
    let mut publishers = Vec::new();
    for (number, context) in (0..publishing.publishers).zip(contexts.iter().cycle()) {
        let context = context.clone();
        publishers.push(tokio::spawn(async move {
            let payload = payload_of(bytes);
            let mut took = Vec::new();
            for index in 0_u64.. {
                let began = Instant::now();
                if began >= end {
                    break;
                }
                let mut headers = HeaderMap::new();
                let sent = if has_ids {
                    headers.insert(ID, format!("{run}-{number}-{index}"));
                    context.publish_with_headers(STREAM, headers, payload.clone()).await?
                } else {
                    context.publish(STREAM, payload.clone()).await?
                };
                let ack = sent.await?;
                if ack.duplicate {
                    return Err("JetStream takes a new id for an old one".into());
                }
                let ended = Instant::now();
                if began >= begin && ended <= end {
                    took.push(ended - began);
                }
            }
            Ok::<_, Box<dyn Error + Send + Sync>>(took)
        }));
    }
    let mut took = Vec::new();
    for publisher in publishers {
        took.extend(publisher.await??);
    }
    Ok(took)
}

fn payload_of(bytes: usize) -> bytes::Bytes {
    vec![b'v'; bytes].into()
}
