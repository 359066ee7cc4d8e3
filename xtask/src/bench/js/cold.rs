//! The first request to each of 60 JavaScript functions after a node's restart, with and without a pool, against starting
//! node with the same handler.

use std::{
    fs,
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::bench::{
    Setup,
    http::{Client, free_address},
    machine::{on_core, version_of},
    node::{Node, Threads},
    npm::Npm,
    report::{Figure, Report, Table, Target, time},
    server::clean_environment,
    stats::{median, median_ratio, median_time, micros, percentile},
};

use super::{
    POOL, call_numbered, check_numbered, install_tools, numbered, numbered_app, read_source, source, with_pool,
};

const APP: &str = "js-cold";
const FUNCTIONS: u32 = 60;
/// Starts of node in all, at least.
const NODES: u32 = 30;
/// A node that does not listen by then never will.
const DEADLINE: Duration = Duration::from_secs(10);

/// What the clients saw in one round.
struct Round {
    pool: Calls,
    no_pool: Calls,
    node: Vec<Duration>,
}

struct Calls {
    first: Vec<Duration>,
    second: Vec<Duration>,
}

pub(crate) fn run(setup: &Setup) -> Result<Report> {
    install_tools(setup)?;
    let engine = Npm::install()?.node();
    let module = setup.work.join("js-cold-module.mjs");
    fs::write(&module, numbered(&read_source("numbered.js")?, FUNCTIONS))?;
    let data_dir = setup.work.join("js-cold-data");
    let node = Node::start_with(&with_pool(0), setup, &data_dir, Threads::AllCores, None)?;
    node.publish(setup, &numbered_app(&setup.work, APP, 0, FUNCTIONS, "")?)?;
    node.stop()?;

    let starts = NODES.div_ceil(setup.rounds).max(10);
    let progress = setup.progress("js-cold", setup.rounds as usize);
    let mut rounds = Vec::new();
    for _ in 0..setup.rounds {
        rounds.push(Round {
            pool: call_all(setup, &data_dir, POOL)?,
            no_pool: call_all(setup, &data_dir, 0)?,
            node: (0..starts).map(|_| start_node(setup, &engine, &module)).collect::<Result<_>>()?,
        });
        progress.inc(1);
    }
    progress.finish_and_clear();
    Ok(report(&rounds, format!("node {}", version_of(&engine.to_string_lossy(), &["--version"])?)))
}

/// Restarts the node and asks each function twice, one after the other, on one connection. Before each first request the
/// node has done what it had to do: above all, filled its pool.
fn call_all(setup: &Setup, data_dir: &Path, pool: u32) -> Result<Calls> {
    let node = Node::start_with(&with_pool(pool), setup, data_dir, Threads::OneCore, None)?;
    let mut calls = Calls { first: Vec::new(), second: Vec::new() };
    on_core(setup.cores.load, || {
        let mut client = Client::connect(node.http)?;
        let host = format!("{APP}.localhost");
        for function in 0..FUNCTIONS {
            node.server.wait_until_quiet()?;
            calls.first.push(call_numbered(&mut client, &host, function, function)?);
            calls.second.push(call_numbered(&mut client, &host, function, function)?);
        }
        Ok(())
    })?;
    node.stop()?;
    Ok(calls)
}

/// A process that ends with its guard.
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        // Both fail only when the process has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts node with the handler on the server's core, and returns the time from before it was spawned until its answer was
/// there. Nothing stands between: what would end it with the harness costs a millisecond.
fn start_node(setup: &Setup, engine: &PathBuf, module: &Path) -> Result<Duration> {
    let address = free_address()?;
    let mut command = Command::new(engine);
    clean_environment(&mut command);
    command.arg(source("node-server.mjs")).arg(module).arg(address.port().to_string());
    command.stdin(Stdio::null()).stdout(Stdio::null());
    on_core(setup.cores.load, || {
        let (started, _guard) = on_core(setup.cores.server, || {
            let started = Instant::now();
            Ok((started, Guard(command.spawn().context("cannot start node")?)))
        })?;
        while TcpStream::connect(address).is_err() {
            ensure!(started.elapsed() < DEADLINE, "node does not listen after {DEADLINE:?}");
            thread::sleep(Duration::from_micros(100));
        }
        let answer = Client::connect(address)?.get("127.0.0.1", "/", "")?;
        let elapsed = started.elapsed();
        check_numbered(&answer, FUNCTIONS).context("node")?;
        Ok(elapsed)
    })
}

fn report(rounds: &[Round], engine: String) -> Report {
    let p50 = |times: fn(&Round) -> &[Duration]| -> Vec<f64> {
        rounds.iter().map(|round| percentile(times(round), 50.0).as_secs_f64() * 1e3).collect()
    };
    let row = |name: &str, times: fn(&Round) -> &[Duration]| {
        let of = |percent| time(median_time(rounds.iter().map(|round| percentile(times(round), percent))));
        vec![name.to_owned(), of(50.0), of(99.0)]
    };
    let all_micros = |times: &[Duration]| times.iter().copied().map(micros).collect::<Vec<_>>();
    let raw = |round: &Round| {
        json!({
            "pool_first_us": all_micros(&round.pool.first),
            "pool_second_us": all_micros(&round.pool.second),
            "no_pool_first_us": all_micros(&round.no_pool.first),
            "no_pool_second_us": all_micros(&round.no_pool.second),
            "node_us": all_micros(&round.node),
        })
    };
    let from_pool = p50(|round| &round.pool.first);
    Report {
        figures: vec![
            Figure::new("p50 of first requests, with the pool", median(&from_pool), "ms", Target::AtMost(8.0)),
            Figure::new(
                "p50, starting node against first request",
                median_ratio(&p50(|round| &round.node), &from_pool),
                "×",
                Target::AtLeast(10.0),
            ),
            Figure::new(
                "p50 of first requests, no pool",
                median(&p50(|round| &round.no_pool.first)),
                "ms",
                Target::AtMost(45.0),
            ),
        ],
        measured: Table {
            header: vec!["what", "p50", "p99"],
            rows: vec![
                row("first request to a function, with the pool", |round| &round.pool.first),
                row("second request", |round| &round.pool.second),
                row("first request to a function, no pool", |round| &round.no_pool.first),
                row("second request", |round| &round.no_pool.second),
                row("starting node until its first answer", |round| &round.node),
            ],
        },
        notes: vec![
            format!(
                "{FUNCTIONS} functions, each a different module; each round restarts the node. One kept connection, one \
                 request at a time, seen by the client. The pool is {POOL} processes, or none; before each first request the \
                 node has come to rest, so that the pool is full."
            ),
            "node runs the same module in a plain node:http server, from before its process is spawned until the answer is \
             there. It is the newest release from npm, not what the machine has. All run on the server's core."
                .into(),
        ],
        peers: vec![engine],
        raw: rounds.iter().map(raw).collect(),
    }
}
