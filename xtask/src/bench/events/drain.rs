//! A million messages that wait, and a function that reads them in batches.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::bench::{
    Setup,
    app::{App, guest},
    data::{CLIENTS, answer_of},
    http::Client,
    node::{Node, Threads},
    report::{Figure, Report, Table, Target, megabytes},
    stats::median,
};

use super::MESSAGE_BYTES;

const MESSAGES: u64 = 1_000_000;
/// What memory is compared with: the same with fewer messages.
const FEWER: u64 = 100_000;
const BATCH: u32 = 100;
/// As many as can be published at once.
const AT_ONCE: u64 = 100;
/// How often the counter is read: rarely enough that it costs nothing.
const LOOK: Duration = Duration::from_millis(100);
/// Slower than 2,000 a second is no measurement any more.
const DEADLINE: Duration = Duration::from_secs(500);

/// What draining came to.
struct Drain {
    per_second: f64,
    /// CPU time of the node for each message.
    cpu: Duration,
    /// The most memory of the node meanwhile, in bytes.
    peak: u64,
}

pub(crate) fn run(setup: &Setup) -> Result<Report> {
    let data_dir = setup.work.join("drain-data");
    let app = App::new(&setup.work, "drain")?
        .code("data.wasm", &guest("data-p2")?)?
        .function("publisher", "data.wasm", "/{*rest}", "publish = [\"orders\"]")
        .follower("consumer", "data.wasm", &format!("topics = [{{ name = \"orders\", batch = {BATCH} }}]"))
        .tables("[topic.orders]\nmax_size = \"4GiB\"")
        .finish()?;
    let node = Node::start(setup, &data_dir, Threads::AllCores, Some("drain"))?;
    node.publish(setup, &app)?;
    let started = Instant::now();
    fill(setup, &node)?;
    let filled = started.elapsed();
    wait_for(&node, MESSAGES, DEADLINE)?;
    node.stop()?;

    let node = Node::start(setup, &data_dir, Threads::OneCore, Some("drain"))?;
    node.server.wait_until_quiet()?;
    node.server.forget_peak()?;
    let idle = node.server.peak()?;
    let fewer = drain(&node, FEWER)?;
    let progress = setup.progress("events-drain", setup.rounds as usize);
    let mut rounds = Vec::new();
    for _ in 0..setup.rounds {
        rounds.push(drain(&node, MESSAGES)?);
        progress.inc(1);
    }
    progress.finish_and_clear();
    node.stop()?;
    std::fs::remove_dir_all(&data_dir)?;

    let per_second: Vec<f64> = rounds.iter().map(|round| round.per_second).collect();
    let peak = rounds.iter().map(|round| round.peak).max().unwrap_or_default();
    let cpu: Vec<f64> = rounds.iter().map(|round| round.cpu.as_secs_f64() * 1e6).collect();
    let row = |what: String, per_second: f64, cpu: f64, peak: u64| {
        vec![what, format!("{per_second:.0}"), format!("{cpu:.1} µs"), megabytes(peak)]
    };
    Ok(Report {
        figures: vec![
            Figure::new(
                format!("messages/s of {MESSAGES} that wait, {BATCH} at once"),
                median(&per_second),
                "",
                Target::AtLeast(20_000.0),
            ),
            Figure::new(
                format!("memory at its peak with {MESSAGES} messages, beyond that with {FEWER}"),
                (peak as f64 - fewer.peak as f64) / 1e6,
                "MB",
                Target::AtMost(5.0),
            ),
        ],
        measured: Table {
            header: vec!["what", "messages/s", "CPU a message", "VmHWM"],
            rows: vec![
                vec!["the node at rest, before".into(), String::new(), String::new(), megabytes(idle)],
                row(format!("{FEWER} messages"), fewer.per_second, fewer.cpu.as_secs_f64() * 1e6, fewer.peak),
                row(format!("{MESSAGES} messages"), median(&per_second), median(&cpu), peak),
            ],
        },
        notes: vec![format!(
            "A function of WebAssembly publishes {MESSAGES} messages of {MESSAGE_BYTES} bytes of JSON, {AT_ONCE} at once ({:.1} s, {CLIENTS} \
             clients, all cores). Then the node is restarted on the server's core, and the function that follows is set back by so many \
             messages: `minnow topic replay`. It gets {BATCH} in a request, as a batch of CloudEvents in JSON, in a fresh instance, and \
             parses all of it. Time runs from the replay until the node has counted the last message as done.",
            filled.as_secs_f64()
        )],
        peers: Vec::new(),
        raw: json!({
            "fill_s": filled.as_secs_f64(),
            "idle_peak_bytes": idle,
            "fewer": { "per_second": fewer.per_second, "cpu_us": fewer.cpu.as_secs_f64() * 1e6, "peak_bytes": fewer.peak },
            "per_second": per_second,
            "cpu_us": cpu,
            "peak_bytes": rounds.iter().map(|round| round.peak).collect::<Vec<_>>(),
        }),
    })
}

/// Publishes [`MESSAGES`].
fn fill(setup: &Setup, node: &Node) -> Result<()> {
    // A string in JSON, with its quotes.
    let body = format!("\"{}\"", "v".repeat(MESSAGE_BYTES - 2));
    let path = format!("/topic?topic=orders&content-type=application/json&n={AT_ONCE}");
    let (progress, next) = (setup.progress("events-drain: fill", MESSAGES as usize), AtomicU64::new(0));
    let publish = || -> Result<()> {
        let mut client = Client::connect(node.http)?;
        while next.fetch_add(AT_ONCE, Ordering::Relaxed) < MESSAGES {
            answer_of(client.post("127.0.0.1", &path, &body))?;
            progress.inc(AT_ONCE);
        }
        Ok(())
    };
    thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(publish)).collect();
        clients.into_iter().try_for_each(|client| match client.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })?;
    progress.finish_and_clear();
    Ok(())
}

/// Has the last `count` messages delivered again.
fn drain(node: &Node, count: u64) -> Result<Drain> {
    node.server.wait_until_quiet()?;
    node.server.forget_peak()?;
    let (done, cpu, started) = (done(node)?, node.server.cpu()?, Instant::now());
    let to = json!({ "function": "consumer", "position": MESSAGES - count + 1 });
    let answer = node.post_api("/v1/apps/drain/topics/orders/replay", &to.to_string())?;
    ensure!((200..300).contains(&answer.0), "the replay answers {} {}", answer.0, answer.1);
    wait_for(node, done + count, DEADLINE)?;
    let elapsed = started.elapsed();
    let cpu = node.server.cpu()?.saturating_sub(cpu);
    Ok(Drain {
        per_second: count as f64 / elapsed.as_secs_f64(),
        cpu: Duration::from_secs_f64(cpu.as_secs_f64() / count as f64),
        peak: node.server.peak()?,
    })
}

/// Waits until so many messages were done since the node started, and no more.
fn wait_for(node: &Node, count: u64, deadline: Duration) -> Result<()> {
    let started = Instant::now();
    loop {
        let done = done(node)?;
        ensure!(done <= count, "{done} messages are done where {count} were to be");
        if done == count {
            return Ok(());
        }
        ensure!(started.elapsed() < deadline, "only {done} of {count} messages are done after {deadline:?}");
        thread::sleep(LOOK);
    }
}

/// How many messages are done since the node started.
fn done(node: &Node) -> Result<u64> {
    let metrics = node.metrics()?;
    let is_own = |line: &&str| line.starts_with("minnow_deliveries_total{") && line.contains("outcome=\"done\"");
    let Some(line) = metrics.lines().find(is_own) else { return Ok(0) };
    let (_, count) = line.rsplit_once(' ').with_context(|| format!("a metric without a value: {line}"))?;
    Ok(count.parse::<f64>()? as u64)
}
