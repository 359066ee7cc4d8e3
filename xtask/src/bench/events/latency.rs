//! From before a publish until the function runs that follows the topic, against a stream of Redis.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use serde_json::json;

use crate::bench::{
    Setup,
    app::{App, guest},
    contest::WARM_UP,
    data::{answer_of, plain::Plain, redis},
    http::Client,
    machine::on_core,
    node::{Node, Threads},
    report::{Figure, Report, Table, Target, time},
    stats::{median_ratio, median_time, micros, percentile},
};

use super::taken;

/// Between two messages: long enough that the one before is acknowledged, on both sides.
const PACE: Duration = Duration::from_millis(5);

struct Round {
    here: Vec<Duration>,
    /// The client beside Redis on one core, and on another core.
    redis: [Vec<Duration>; 2],
}

pub(crate) fn run(setup: &Setup) -> Result<Report> {
    let plain = Plain::build(setup)?;
    let app = App::new(&setup.work, "latency")?
        .code("data.wasm", &guest("data-p2")?)?
        .function("publisher", "data.wasm", "/{*rest}", "publish = [\"times\"]\nkv = [\"taken\"]")
        .follower("consumer", "data.wasm", "topics = [\"times\"]\nkv = [\"taken\"]")
        .tables("[topic.times]\n\n[kv.taken]")
        .finish()?;
    let node = Node::start(setup, &setup.work.join("latency-data"), Threads::OneCore, Some("latency"))?;
    node.publish(setup, &app)?;
    let beside = redis::start(setup, setup.cores.server)?;
    let apart = redis::start(setup, setup.cores.load)?;

    let progress = setup.progress("events-latency", setup.rounds as usize * 3);
    let mut rounds = Vec::new();
    for _ in 0..setup.rounds {
        progress.set_message("a function");
        let here = under_way(setup, &node)?;
        progress.inc(1);
        progress.set_message("Redis");
        let mut redis = [Vec::new(), Vec::new()];
        for (peer, times) in [&beside, &apart].into_iter().zip(&mut redis) {
            *times = plain.times(setup, setup.cores.server, &stream(peer.address))?;
            progress.inc(1);
        }
        rounds.push(Round { here, redis });
    }
    progress.finish_and_clear();
    Ok(report(&rounds, vec![beside.version.clone()]))
}

fn stream(redis: std::net::SocketAddr) -> [String; 3] {
    ["stream".to_owned(), redis.to_string(), PACE.as_millis().to_string()]
}

/// Has a function publish a message each [`PACE`], for a round.
fn under_way(setup: &Setup, node: &Node) -> Result<Vec<Duration>> {
    let mut client = Client::connect(node.http)?;
    let mut publish = |duration: Duration| -> Result<usize> {
        on_core(setup.cores.load, || {
            let (started, mut count) = (Instant::now(), 0);
            while started.elapsed() < duration {
                answer_of(client.post("127.0.0.1", "/events/send-time", ""))?;
                count += 1;
                thread::sleep(PACE);
            }
            Ok(count)
        })
    };
    publish(WARM_UP)?;
    node.server.wait_until_quiet()?;
    taken(node.http, "127.0.0.1")?;
    let published = publish(setup.round)?;
    node.server.wait_until_quiet()?;
    let taken = taken(node.http, "127.0.0.1")?;
    ensure!(taken.len() == published, "{published} messages were published, and {} came", taken.len());
    Ok(taken)
}

fn report(rounds: &[Round], peers: Vec<String>) -> Report {
    let p50 = |times: &Vec<Duration>| micros(percentile(times, 50.0));
    let here: Vec<f64> = rounds.iter().map(|round| p50(&round.here)).collect();
    let redis: Vec<f64> =
        rounds.iter().map(|round| round.redis.iter().map(p50).fold(f64::INFINITY, f64::min)).collect();
    let row = |what: &str, of: fn(&Round) -> &Vec<Duration>| {
        let at = |percent| time(median_time(rounds.iter().map(|round| percentile(of(round), percent))));
        vec![what.to_owned(), at(50.0), at(99.0)]
    };
    let raw = |round: &Round| {
        let all = |times: &Vec<Duration>| times.iter().copied().map(micros).collect::<Vec<_>>();
        json!({ "function_us": all(&round.here), "redis_us": round.redis.each_ref().map(all) })
    };
    Report {
        figures: vec![Figure::new(
            "p50 from a publish until the function runs, against Redis Streams",
            median_ratio(&here, &redis),
            "×",
            Target::AtMost(1.5),
        )],
        measured: Table {
            header: vec!["what", "p50", "p99"],
            rows: vec![
                row("publish in a function until another function runs", |round| &round.here),
                row("XADD until XREADGROUP, client on the core of Redis", |round| &round.redis[0]),
                row("XADD until XREADGROUP, client on another core", |round| &round.redis[1]),
            ],
        },
        notes: vec![
            format!(
                "A message each {} ms, on the disk before anybody gets it. A function of WebAssembly publishes the time, and another one, \
                 which follows the topic with a batch of one and a fresh instance for each message, writes down how long ago that was. The \
                 clock stops when its code begins.",
                PACE.as_millis()
            ),
            "Redis has `appendfsync always`. Its client is a program in Rust: one thread with XADD, another in a loop of XREADGROUP with \
             BLOCK, which acknowledges each message. The node has the server's core; so has the client of Redis. Redis is measured on that \
             core and on the other, and compared where it was faster."
                .into(),
        ],
        peers,
        raw: rounds.iter().map(raw).collect(),
    }
}
