//! Durable publishes of 64 clients, against NATS JetStream.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;

use crate::bench::{
    Setup,
    app::{App, guest},
    contest::WARM_UP,
    data::{CLIENTS, WRITES, ask, plain::Plain, writes_row},
    machine::version_of,
    node::{Node, Threads},
    peers::require,
    report::{Figure, Report, Table, Target},
    stats::median_ratio,
    wrk::{self, Load},
};

use super::{
    MESSAGE_BYTES,
    nats::{self, Publishes},
};

struct Round {
    /// [`WRITES`] of each request, one after the other, without ids of the publisher and with them; and one of each request.
    many: Load,
    many_with_ids: Load,
    one: Load,
    /// Of as many connections as there are publishers, and of one that they share.
    nats: [Publishes; 2],
    nats_with_ids: Publishes,
}

pub(crate) fn run(setup: &Setup) -> Result<Report> {
    require(&[("wrk", "wrk")])?;
    let plain = Plain::build(setup)?;
    let app = App::new(&setup.work, "publish")?
        .code("data.wasm", &guest("data-p2")?)?
        .function("data", "data.wasm", "/{*rest}", "publish = [\"orders\", \"named\"]")
        // More than a run publishes: retention has no part in it.
        .tables("[topic.orders]\nmax_size = \"16GiB\"\n\n[topic.named]\nmax_size = \"16GiB\"")
        .finish()?;
    let node = Node::start(setup, &setup.work.join("publish-data"), Threads::OneCore, Some("publish"))?;
    node.publish(setup, &app)?;
    let nats = nats::start(setup)?;
    let body = "v".repeat(MESSAGE_BYTES);
    ask(&node, "/events/sends?n=1", &body)?;
    let url = |query: &str| format!("http://{}/events/sends?{query}", node.http);
    let posts = |query: &str| -> Result<Load> {
        wrk::run_posts(setup, &url(query), &body, CLIENTS, WARM_UP)?;
        wrk::run_posts(setup, &url(query), &body, CLIENTS, setup.round)
    };
    let publishes =
        |connections: u32, has_ids: bool| nats::publishes(setup, &plain, nats.address, connections, has_ids);

    let progress = setup.progress("events-publish", setup.rounds as usize * 6);
    let mut rounds = Vec::new();
    for _ in 0..setup.rounds {
        let step = |what: &'static str| {
            progress.inc(1);
            progress.set_message(what);
        };
        step("many");
        let many = posts(&format!("n={WRITES}"))?;
        step("NATS");
        let nats = publishes(CLIENTS, false)?;
        step("many with ids");
        let many_with_ids = posts(&format!("n={WRITES}&own-ids=1&topic=named"))?;
        step("NATS with ids");
        let nats_with_ids = publishes(CLIENTS, true)?;
        step("one");
        let one = posts("n=1")?;
        step("NATS, one connection");
        let nats = [nats, publishes(1, false)?];
        rounds.push(Round { many, many_with_ids, one, nats, nats_with_ids });
    }
    progress.finish_and_clear();
    // Nobody follows the topics, so all that was published is there.
    let least = rounds.iter().map(|round| round.many.requests() * u64::from(WRITES)).sum::<u64>();
    let position = ask(&node, "/topic?n=1&topic=orders", &body)?;
    let position = position.pointer("/sent/0/position").and_then(serde_json::Value::as_u64).unwrap_or_default();
    ensure!(position > least, "{least} messages were published, and the next has the position {position}");
    let peers = vec![nats.version.clone(), version_of("wrk", &["--version"])?];
    Ok(report(&rounds, peers))
}

fn report(rounds: &[Round], peers: Vec<String>) -> Report {
    let per_second = |of: fn(&Round) -> &Load, each: u32| -> Vec<f64> {
        rounds.iter().map(|round| of(round).requests_per_second() * f64::from(each)).collect()
    };
    let times = |of: &dyn Fn(&Round) -> Duration| rounds.iter().map(of).collect::<Vec<_>>();
    let (many, many_with_ids) =
        (per_second(|round| &round.many, WRITES), per_second(|round| &round.many_with_ids, WRITES));
    let one = per_second(|round| &round.one, 1);
    let faster: Vec<f64> =
        rounds.iter().map(|round| round.nats.iter().fold(0.0, |most, nats| f64::max(most, nats.per_second))).collect();
    let with_ids: Vec<f64> = rounds.iter().map(|round| round.nats_with_ids.per_second).collect();
    let loads = |what: &str, of: fn(&Round) -> &Load, per_second: &[f64]| {
        writes_row(what, per_second, &times(&|round| of(round).p50()), &times(&|round| of(round).p99()))
    };
    let of_nats = |what: &str, of: fn(&Round) -> &Publishes| {
        let per_second: Vec<f64> = rounds.iter().map(|round| of(round).per_second).collect();
        writes_row(what, &per_second, &times(&|round| of(round).p50), &times(&|round| of(round).p99))
    };
    let raw = |round: &Round| {
        json!({
            "requests_of_many_per_second": round.many.requests_per_second(),
            "requests_of_many_with_ids_per_second": round.many_with_ids.requests_per_second(),
            "requests_of_one_per_second": round.one.requests_per_second(),
            "nats_per_second": round.nats.map(|nats| nats.per_second),
            "nats_with_ids_per_second": round.nats_with_ids.per_second,
        })
    };
    Report {
        figures: vec![
            Figure::new(
                format!("durable publishes/s of {CLIENTS} publishers against JetStream"),
                median_ratio(&many, &faster),
                "×",
                Target::AtLeast(1.0),
            ),
            Figure::new(
                "the same, each message with an id of its own",
                median_ratio(&many_with_ids, &with_ids),
                "×",
                Target::AtLeast(1.0),
            ),
        ],
        measured: Table {
            header: vec!["what", "p50", "p99", "messages/s"],
            rows: vec![
                loads(&format!("{WRITES} publishes in a request to a function"), |round| &round.many, &many),
                loads(
                    &format!("{WRITES} publishes with ids in a request to a function"),
                    |round| &round.many_with_ids,
                    &many_with_ids,
                ),
                loads("publish in a request to a function", |round| &round.one, &one),
                of_nats(&format!("JetStream, {CLIENTS} connections"), |round| &round.nats[0]),
                of_nats("JetStream, one connection", |round| &round.nats[1]),
                of_nats(&format!("JetStream with ids, {CLIENTS} connections"), |round| &round.nats_with_ids),
            ],
        },
        notes: vec![
            format!(
                "{CLIENTS} publishers at once, {MESSAGE_BYTES} bytes each, and each waits until its message is on the disk before it sends \
                 the next. A function publishes {WRITES} one after the other in a request, so that HTTP has little part in it; p50 and p99 \
                 of these rows are of requests. wrk sends the requests, a fresh instance each."
            ),
            "JetStream has `sync_interval: always`, a stream on files and one replica; its publishers are a program in Rust with async-nats \
             (`plain-data`). Compared is what was faster, a connection for each publisher or one for all. Node and NATS have the server's \
             core."
                .into(),
        ],
        peers,
        raw: rounds.iter().map(raw).collect(),
    }
}
