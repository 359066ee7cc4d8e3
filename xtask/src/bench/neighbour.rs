//! Hello while another app's function burns CPU at its concurrency limit.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::{
    Setup,
    app::{App, guest},
    contest::check_hello,
    http::Client,
    machine::{on_core, version_of},
    node::{Node, Threads},
    peers::require,
    report::{Figure, Report, Table, Target, time},
    stats::{median, median_ratio, median_time, micros},
    wrk::{self, Load},
};

/// Twice the burner's concurrency, so that the next request is in the queue whenever one ends.
const BURNER_CLIENTS: usize = 8;
/// Burns 900 ms by its own clock, four at once. `cpu` is above what one can use meanwhile.
const BURN_PATH: &str = "/burn?ms=900";
const BURNER_LIMITS: &str = "limits = { concurrency = 4, cpu = \"2s\" }";
const BURNER_HOST: &str = "burner.localhost";
const WARM_UP: Duration = Duration::from_secs(1);

/// One round: hello alone, then hello beside the burner.
struct Round {
    alone: Load,
    beside: Load,
    /// Requests that the burner answered meanwhile.
    burned: usize,
}

pub(crate) fn run(setup: &Setup) -> Result<Report> {
    require(&[("wrk", "wrk")])?;
    let hello = App::new(&setup.work, "neighbour-hello")?
        .code("hello.wasm", &guest("hello-p2")?)?
        .function("hello", "hello.wasm", "/{*rest}", "")
        .finish()?;
    let burner = App::new(&setup.work, "burner")?
        .code("lab.wasm", &guest("lab-p2")?)?
        .function("burn", "lab.wasm", "/{*rest}", BURNER_LIMITS)
        .finish()?;
    let node = Node::start(setup, &setup.work.join("neighbour-data"), Threads::OneCore, Some("neighbour-hello"))?;
    node.publish(setup, &hello)?;
    node.publish(setup, &burner)?;
    check_hello(node.http, "/")?;

    let progress = setup.progress("neighbour", setup.rounds as usize);
    let url = format!("http://{}/", node.http);
    let measure = |duration| wrk::run(setup, &url, None, wrk::CONNECTIONS, duration);
    let mut rounds = Vec::new();
    for _ in 0..setup.rounds {
        measure(WARM_UP)?;
        let alone = measure(setup.round)?;
        let (beside, burned) = beside_burner(setup, node.http, || {
            measure(WARM_UP)?;
            measure(setup.round)
        })?;
        rounds.push(Round { alone, beside, burned });
        progress.inc(1);
    }
    progress.finish_and_clear();
    report(&rounds)
}

/// Runs `work` while the burner is kept busy from the load's core; also how many requests the burner answered.
fn beside_burner<T>(setup: &Setup, address: SocketAddr, work: impl FnOnce() -> Result<T>) -> Result<(T, usize)> {
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let clients: Vec<_> = on_core(setup.cores.load, || {
            Ok((0..BURNER_CLIENTS).map(|_| scope.spawn(|| keep_burning(address, &is_over))).collect())
        })?;
        // The queue is full well before the warm-up within `work` ends.
        let done = work();
        is_over.store(true, Ordering::Relaxed);
        let mut burned = 0;
        for client in clients {
            burned += match client.join() {
                Ok(count) => count?,
                Err(panic) => std::panic::resume_unwind(panic),
            };
        }
        Ok((done?, burned))
    })
}

fn keep_burning(address: SocketAddr, is_over: &AtomicBool) -> Result<usize> {
    let mut client = Client::connect(address)?;
    let mut count = 0;
    while !is_over.load(Ordering::Relaxed) {
        let answer = client.get(BURNER_HOST, BURN_PATH, "").context("the burner failed")?;
        let body = String::from_utf8_lossy(&answer.body);
        ensure!(answer.status == 200, "the burner answers {}: {body}", answer.status);
        count += 1;
    }
    Ok(count)
}

fn report(rounds: &[Round]) -> Result<Report> {
    let alone: Vec<f64> = rounds.iter().map(|round| round.alone.requests_per_second()).collect();
    let beside: Vec<f64> = rounds.iter().map(|round| round.beside.requests_per_second()).collect();
    let slowest = rounds.iter().map(|round| round.beside.max()).max().unwrap_or_default();
    let row = |name: &str, load: fn(&Round) -> &Load| {
        let of = |value: fn(&Load) -> Duration| time(median_time(rounds.iter().map(|round| value(load(round)))));
        let rates: Vec<f64> = rounds.iter().map(|round| load(round).requests_per_second()).collect();
        let max = rounds.iter().map(|round| load(round).max()).max().unwrap_or_default();
        vec![name.to_owned(), format!("{:.0}", median(&rates)), of(Load::p50), of(Load::p99), time(max)]
    };
    let one = |load: &Load| {
        json!({
            "requests_per_second": load.requests_per_second(),
            "p50_us": micros(load.p50()), "p99_us": micros(load.p99()), "max_us": micros(load.max()),
        })
    };
    let raw =
        |round: &Round| json!({ "alone": one(&round.alone), "beside": one(&round.beside), "burned": round.burned });
    Ok(Report {
        figures: vec![
            Figure::new(
                "requests/s beside the burner, of those alone",
                median_ratio(&beside, &alone),
                "×",
                Target::AtLeast(0.3),
            ),
            Figure::new("slowest request beside the burner", slowest.as_secs_f64() * 1e3, "ms", Target::AtMost(100.0)),
        ],
        measured: Table {
            header: vec!["hello", "requests/s", "p50", "p99", "slowest of all rounds"],
            rows: vec![row("alone", |round| &round.alone), row("beside the burner", |round| &round.beside)],
        },
        notes: vec![format!(
            "Both on one core. The burner is another app's function with `concurrency = 4`, kept at it by {BURNER_CLIENTS} \
             clients with requests that each burn for 900 ms; it answered {} of them. Hello is under closed-loop load from \
             64 connections.",
            rounds.iter().map(|round| round.burned).sum::<usize>()
        )],
        peers: vec![version_of("wrk", &["--version"])?],
        raw: rounds.iter().map(raw).collect(),
    })
}
