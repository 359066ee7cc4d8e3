//! Twice the requests that a function can serve, for 30 s: what is accepted, what is refused, and how fast.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Result, ensure};
use serde_json::json;

use super::{
    Setup,
    app::{App, guest},
    http::Client,
    machine::{on_core, version_of},
    node::{Node, Threads},
    open_loop::{Offer, Outcome, run as offer},
    peers::require,
    report::{Figure, Report, Table, Target, megabytes, time},
    server::Server,
    stats::percentile,
    wrk,
};

const CONCURRENCY: u32 = 8;
const QUEUE: u32 = 64;
const HOST: &str = "overload.localhost";
/// Work of 2 ms: far more than the gateway's part of a request, so that the function's capacity is what is exceeded.
const PATH: &str = "/burn?ms=2";
/// The closed loop that finds the capacity: every place is taken and the queue never empty, and nothing is refused.
const CAPACITY_CONNECTIONS: u32 = 2 * CONCURRENCY;
/// Requests under way at once, at most: those that run or wait, and some hundred refusals.
const CONNECTIONS: usize = 512;
/// The overload lasts this many rounds: 30 s with rounds of 5 s.
const ROUNDS: u32 = 6;
/// An accepted request may wait for all places in front of it, with half as much again for unfairness between them.
const QUEUE_TIME_SLACK: f64 = 1.5;
/// What counts as "at once" for a refusal, in milliseconds: a third of the time that a full queue takes at 500 requests a
/// second. Not less, since the refusal needs a turn on the core that the burning guests keep busy.
const AT_ONCE_MS: f64 = 50.0;
/// What memory may grow by, in MB. The connections and their buffers; not anything that grows with the requests refused.
const GROWTH_MB: f64 = 32.0;
const SAMPLE_EVERY: Duration = Duration::from_millis(100);

pub(crate) fn run(setup: &Setup) -> Result<Report> {
    require(&[("wrk", "wrk")])?;
    let app = App::new(&setup.work, "overload")?
        .code("lab.wasm", &guest("lab-p2")?)?
        .function(
            "lab",
            "lab.wasm",
            "/{*rest}",
            &format!("limits = {{ concurrency = {CONCURRENCY}, queue = {QUEUE} }}"),
        )
        .finish()?;
    let mut node = Node::start(setup, &setup.work.join("overload-data"), Threads::OneCore, None)?;
    node.publish(setup, &app)?;

    let url = format!("http://{}{PATH}", node.http);
    let closed_loop = |duration| wrk::run(setup, &url, Some(HOST), CAPACITY_CONNECTIONS, duration);
    closed_loop(Duration::from_secs(1))?;
    let capacity = closed_loop(setup.round)?.requests_per_second();
    let before = node.server.memory()?.rss;

    let duration = setup.round * ROUNDS;
    let per_second = 2.0 * capacity;
    let load = Offer { address: node.http, host: HOST, path: PATH, per_second, duration, connections: CONNECTIONS };
    let progress = setup.progress("overload", duration.as_secs() as usize);
    let (outcome, peak) = while_sampling(&node.server, &progress, || on_core(setup.cores.load, || offer(&load)))?;
    progress.finish_and_clear();

    let has_survived = node.server.is_running() && Client::connect(node.http)?.get(HOST, "/hello", "")?.status == 200;
    ensure!(!outcome.answers.is_empty(), "the node answered nothing: {:?}", outcome.first_failure);
    report(&Found { capacity, per_second, duration, outcome, before, peak, has_survived })
}

/// Runs `work` while the server's memory is watched; the peak in bytes.
fn while_sampling<T>(
    server: &Server,
    progress: &indicatif::ProgressBar,
    work: impl FnOnce() -> Result<T>,
) -> Result<(T, u64)> {
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let sampler = scope.spawn(|| {
            let mut peak = 0;
            while !is_over.load(Ordering::Relaxed) {
                // A server that is gone is found out by what follows.
                peak = peak.max(server.memory().unwrap_or_default().rss);
                progress.set_position(progress.elapsed().as_secs());
                thread::sleep(SAMPLE_EVERY);
            }
            peak
        });
        let done = work();
        is_over.store(true, Ordering::Relaxed);
        match sampler.join() {
            Ok(peak) => Ok((done?, peak)),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

struct Found {
    /// Requests a second that the closed loop got answered.
    capacity: f64,
    per_second: f64,
    duration: Duration,
    outcome: Outcome,
    before: u64,
    peak: u64,
    has_survived: bool,
}

fn report(found: &Found) -> Result<Report> {
    let Found { capacity, per_second, duration, outcome, before, peak, has_survived } = found;
    let (accepted, refused) = (outcome.latencies(200), outcome.latencies(503));
    let others = outcome.answers.len() - accepted.len() - refused.len();
    let without_hint = outcome.answers.iter().filter(|answer| answer.status == 503 && !answer.has_retry_after).count();
    let rate = |count: usize| count as f64 / duration.as_secs_f64();
    let bound_ms = f64::from(QUEUE + CONCURRENCY) / capacity * QUEUE_TIME_SLACK * 1e3;
    let p99_ms =
        |times: &[Duration]| if times.is_empty() { f64::NAN } else { percentile(times, 99.0).as_secs_f64() * 1e3 };
    let growth_mb = (*peak as f64 - *before as f64) / 1e6;
    let row = |what: &str, times: &[Duration]| {
        let at = |percent| time(percentile(times, percent));
        vec![what.to_owned(), format!("{:.0}", rate(times.len())), at(50.0), at(99.0), at(100.0)]
    };
    let rate_row = |what: &str, rate: f64| {
        vec![what.to_owned(), format!("{rate:.0}"), String::new(), String::new(), String::new()]
    };
    let failed = outcome.failed as usize + others;
    let bound_ms_rounded = bound_ms.round();
    let mut notes = vec![
        format!(
            "A function with `concurrency = {CONCURRENCY}` and `queue = {QUEUE}` that burns 2 ms a request. Capacity is what a \
             closed loop of {CAPACITY_CONNECTIONS} connections gets; then twice that arrives at a fixed rate for {} s, on at most \
             {CONNECTIONS} connections; latency counts from when a request was due.",
            duration.as_secs()
        ),
        format!(
            "Queue time is (queue + concurrency) / capacity × {QUEUE_TIME_SLACK}. \"At once\" is a p99 of {AT_ONCE_MS} ms. RSS was {} \
             before and {} at most.",
            megabytes(*before),
            megabytes(*peak)
        ),
    ];
    if outcome.unsent > 0 {
        notes.push(format!("{} requests were not sent, since all connections were busy.", outcome.unsent));
    }
    if let Some(failure) = &outcome.first_failure {
        notes.push(format!("The first failure: {failure}."));
    }
    Ok(Report {
        figures: vec![
            Figure::new("crashes", f64::from(u8::from(!has_survived)), "", Target::AtMost(0.0)),
            Figure::new("failed connections, and answers but 200 and 503", failed as f64, "", Target::AtMost(0.0)),
            Figure::new("answers of 503 without Retry-After", without_hint as f64, "", Target::AtMost(0.0)),
            Figure::new("p99 of refusals", p99_ms(&refused), "ms", Target::AtMost(AT_ONCE_MS)),
            Figure::new(
                "p99 of accepted requests, within queue time",
                p99_ms(&accepted),
                "ms",
                Target::AtMost(bound_ms_rounded),
            ),
            Figure::new("growth of RSS", growth_mb, "MB", Target::AtMost(GROWTH_MB)),
        ],
        measured: Table {
            header: vec!["requests", "a second", "p50", "p99", "slowest"],
            rows: vec![
                rate_row("capacity", *capacity),
                rate_row("offered", *per_second),
                row("accepted (200)", &accepted),
                row("refused (503)", &refused),
            ],
        },
        notes,
        peers: vec![version_of("wrk", &["--version"])?],
        raw: json!({
            "capacity_per_second": capacity,
            "offered_per_second": per_second,
            "accepted_per_second": rate(accepted.len()),
            "refused_per_second": rate(refused.len()),
            "others": others, "failed": outcome.failed, "unsent": outcome.unsent,
            "queue_time_ms": bound_ms,
            "accepted_p99_ms": p99_ms(&accepted), "refused_p99_ms": p99_ms(&refused),
            "rss_before_bytes": before, "rss_peak_bytes": peak,
        }),
    })
}
