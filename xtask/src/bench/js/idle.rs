//! 1,000 idle JavaScript functions, against 1,000 idle functions of WebAssembly: the node's memory.

use std::{fs, path::PathBuf, thread, time::Duration};

use anyhow::{Result, ensure};
use serde_json::json;

use crate::bench::{
    Setup,
    app::{App, guest},
    distinct::with_number,
    http::Client,
    node::{Node, Threads},
    report::{Figure, Report, Table, Target, megabytes},
    server::{Descendants, Memory},
    stats::median,
};

use super::{POOL, call_numbered, install_tools, numbered_app, with_pool};

const APPS: u32 = 20;
const FUNCTIONS_AN_APP: u32 = 50;
/// How long a node is left alone after it is ready, so that what start-up left behind shows.
const SETTLE: Duration = Duration::from_secs(2);
/// Functions that are called at the end, to see that they are really there.
const SAMPLE: u32 = 5;

/// Starts of each node in a round.
const STARTS: usize = 3;
/// What still counts as no more. Eight starts of one node with nothing deployed had an RSS of 33.8 to 35.7 MB, depending on
/// how much of the program the kernel mapped in around what was touched, and 12.0 to 12.2 MB of anonymous memory: the medians
/// of some fifteen starts differ by about 1 % by chance.
const NO_MORE: f64 = 1.02;

/// What is deployed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Nothing,
    Wasm,
    JavaScript,
    /// The same functions, and the pool that starts them faster.
    Pooled,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Nothing => "js-idle: nothing",
            Self::Wasm => "js-idle: wasm",
            Self::JavaScript => "js-idle: js",
            Self::Pooled => "js-idle: js with the pool",
        }
    }

    fn pool(self) -> u32 {
        if self == Self::Pooled { POOL } else { 0 }
    }
}

/// A node at rest.
struct Idle {
    node: Memory,
    /// The pool, where there is one.
    others: Descendants,
}

/// Each node started and left alone once.
struct Round {
    nothing: Idle,
    wasm: Idle,
    javascript: Idle,
    pooled: Idle,
}

pub(crate) fn run(setup: &Setup) -> Result<Report> {
    install_tools(setup)?;
    publish_all(setup, Kind::Wasm)?;
    publish_all(setup, Kind::JavaScript)?;
    let starts = setup.rounds as usize * STARTS;
    let progress = setup.progress("js-idle", starts);
    let mut rounds = Vec::new();
    for _ in 0..starts {
        rounds.push(Round {
            nothing: measure(setup, Kind::Nothing)?,
            wasm: measure(setup, Kind::Wasm)?,
            javascript: measure(setup, Kind::JavaScript)?,
            pooled: measure(setup, Kind::Pooled)?,
        });
        progress.inc(1);
    }
    progress.finish_and_clear();
    call_sample(setup)?;
    for kind in [Kind::Nothing, Kind::Wasm, Kind::JavaScript] {
        fs::remove_dir_all(data_dir(setup, kind))?;
    }
    Ok(report(&rounds))
}

fn data_dir(setup: &Setup, kind: Kind) -> PathBuf {
    setup.work.join(match kind {
        Kind::Nothing => "js-idle-nothing-data",
        Kind::Wasm => "js-idle-wasm-data",
        Kind::JavaScript | Kind::Pooled => "js-idle-js-data",
    })
}

fn start(setup: &Setup, kind: Kind, threads: Threads) -> Result<Node> {
    Node::start_with(&with_pool(kind.pool()), setup, &data_dir(setup, kind), threads, None)
}

fn publish_all(setup: &Setup, kind: Kind) -> Result<()> {
    let node = start(setup, kind, Threads::AllCores)?;
    node.publish_all(setup, kind.name(), APPS, |number| write_app(setup, kind, number))?;
    node.stop()
}

fn write_app(setup: &Setup, kind: Kind, number: u32) -> Result<PathBuf> {
    let first = number * FUNCTIONS_AN_APP;
    if kind == Kind::JavaScript {
        return numbered_app(&setup.work, &app_name(number), first, FUNCTIONS_AN_APP, "");
    }
    let hello = guest("hello-p2")?;
    let mut app = App::new(&setup.work, &app_name(number))?;
    for function in 0..FUNCTIONS_AN_APP {
        let file = format!("f{function}.wasm");
        app = app.code(&file, &with_number(&hello, first + function))?;
        app = app.function(&format!("f{function}"), &file, &format!("/f{function}"), "");
    }
    app.finish()
}

fn app_name(number: u32) -> String {
    format!("js-idle-{number}")
}

/// Starts a node, leaves it alone, and stops it.
fn measure(setup: &Setup, kind: Kind) -> Result<Idle> {
    let node = start(setup, kind, Threads::OneCore)?;
    thread::sleep(SETTLE);
    node.server.wait_until_quiet()?;
    let idle = Idle { node: node.server.memory()?, others: node.server.descendants()? };
    node.stop()?;
    ensure!(idle.others.count == kind.pool() as usize, "{} has {} processes beside it", kind.name(), idle.others.count);
    Ok(idle)
}

/// Calls functions from all over.
fn call_sample(setup: &Setup) -> Result<()> {
    let node = start(setup, Kind::Pooled, Threads::OneCore)?;
    let mut client = Client::connect(node.http)?;
    for sample in 0..SAMPLE {
        let (app, function) = (sample * (APPS / SAMPLE), sample * (FUNCTIONS_AN_APP / SAMPLE));
        let host = format!("{}.localhost", app_name(app));
        call_numbered(&mut client, &host, function, app * FUNCTIONS_AN_APP + function)?;
    }
    node.stop()
}

fn report(rounds: &[Round]) -> Report {
    let all = |of: fn(&Round) -> u64| -> Vec<f64> { rounds.iter().map(|round| of(round) as f64).collect() };
    let bytes = |of: fn(&Round) -> u64| megabytes(median(&all(of)) as u64);
    let functions = APPS * FUNCTIONS_AN_APP;
    let raw = |round: &Round| {
        let one = |idle: &Idle| {
            json!({
                "rss_bytes": idle.node.rss,
                "anonymous_bytes": idle.node.anonymous,
                "pool_processes": idle.others.count,
                "pool_rss_bytes": idle.others.memory.rss,
                "pool_anonymous_bytes": idle.others.memory.anonymous,
            })
        };
        json!({
            "nothing": one(&round.nothing),
            "wasm": one(&round.wasm),
            "javascript": one(&round.javascript),
            "pooled": one(&round.pooled),
        })
    };
    let figure = |what: &str, wasm: fn(&Round) -> u64, javascript: fn(&Round) -> u64| {
        Figure::new(
            format!("{what}, {functions} JavaScript functions against {functions} of WebAssembly"),
            median(&all(javascript)) / median(&all(wasm)),
            "×",
            Target::AtMost(NO_MORE),
        )
    };
    Report {
        figures: vec![
            figure("RSS", |round| round.wasm.node.rss, |round| round.javascript.node.rss),
            figure("anonymous memory", |round| round.wasm.node.anonymous, |round| round.javascript.node.anonymous),
        ],
        measured: Table {
            header: vec!["what", "RSS", "of it anonymous"],
            rows: vec![
                vec![
                    "node with nothing deployed".into(),
                    bytes(|round| round.nothing.node.rss),
                    bytes(|round| round.nothing.node.anonymous),
                ],
                vec![
                    format!("node with {functions} functions of WebAssembly"),
                    bytes(|round| round.wasm.node.rss),
                    bytes(|round| round.wasm.node.anonymous),
                ],
                vec![
                    format!("node with {functions} JavaScript functions"),
                    bytes(|round| round.javascript.node.rss),
                    bytes(|round| round.javascript.node.anonymous),
                ],
                vec![
                    format!("the same node with a pool of {POOL}"),
                    bytes(|round| round.pooled.node.rss),
                    bytes(|round| round.pooled.node.anonymous),
                ],
                vec![
                    format!("its pool, {POOL} processes, added up"),
                    bytes(|round| round.pooled.others.memory.rss),
                    bytes(|round| round.pooled.others.memory.anonymous),
                ],
            ],
        },
        notes: vec![
            format!(
                "{APPS} apps of {FUNCTIONS_AN_APP} functions, each with code of its own, published through the CLI. Then each node \
                 is restarted {} times, in turn, and read when it has been ready for {} s and come to rest; the values are \
                 medians. Starts of one node differ by some 2 % in RSS, so that much more counts as no more. {SAMPLE} of the \
                 functions are called afterwards, to see that they answer.",
                rounds.len(),
                SETTLE.as_secs()
            ),
            format!(
                "The figures are of nodes without a pool (js.pool = 0); what a pool of {POOL} adds to the node itself, and its \
                 processes, stand below. What they map from one file counts in the RSS of each."
            ),
        ],
        peers: Vec::new(),
        raw: rounds.iter().map(raw).collect(),
    }
}
