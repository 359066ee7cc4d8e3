//! CPU work in JavaScript through the whole gateway, against node and `deno serve` with the same module.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::bench::{
    Setup,
    app::App,
    http::Client,
    machine::on_core,
    node::{Node, Threads},
    peers::Peer,
    report::{Figure, Report, Table, Target, time},
    stats::{median_ratio, median_time, micros},
};

use super::{POOL, install_tools, read_source, source, with_pool};

/// How the module can hash, by the path that asks for it, and what that is called.
const WAYS: [(&str, &str); 3] =
    [("/script", "SHA-256 in JavaScript"), ("/node", "node:crypto"), ("/subtle", "crypto.subtle")];
/// In one request: tens of milliseconds, so that what HTTP costs is lost in it.
const ITERATIONS: u32 = 2000;
/// Until the engines have compiled all that they will.
const WARM_UP: usize = 5;
/// One invocation takes a tenth of a second of CPU time, on a slow machine several.
const LIMITS: &str = "limits = { cpu = \"30s\" }";
const CONTENDERS: usize = 3;

/// A server and the connection to it.
struct Contender {
    name: &'static str,
    client: Client,
}

/// One way of hashing in one round: how long a request took each contender, in their order.
type Times = [Duration; CONTENDERS];

pub(crate) fn run(setup: &Setup) -> Result<Report> {
    install_tools(setup)?;
    let engine = Peer::node_server(setup, &source("work.js"))?;
    let deno = Peer::deno_serve(setup, &source("work.js"))?;
    let app = App::new(&setup.work, "js-work")?
        .code("work.js", read_source("work.js")?.as_bytes())?
        .function("work", "work.js", "/{*rest}", LIMITS)
        .finish()?;
    let data_dir = setup.work.join("js-work-data");
    let node = Node::start_with(&with_pool(POOL), setup, &data_dir, Threads::OneCore, Some("js-work"))?;
    node.publish(setup, &app)?;

    let contender = |name, address| -> Result<Contender> { Ok(Contender { name, client: Client::connect(address)? }) };
    let mut contenders =
        [contender("Minnow", node.http)?, contender("node", engine.address)?, contender("deno serve", deno.address)?];
    for (path, _) in WAYS {
        for _ in 0..WARM_UP {
            take_turns(setup, &mut contenders, path, false)?;
        }
    }
    let progress = setup.progress("js-work", setup.rounds as usize * WAYS.len());
    let mut rounds: Vec<[Times; WAYS.len()]> = Vec::new();
    for _ in 0..setup.rounds {
        let mut round = [Times::default(); WAYS.len()];
        for (times, (path, _)) in round.iter_mut().zip(WAYS) {
            *times = measure(setup, &mut contenders, path)?;
            progress.inc(1);
        }
        rounds.push(round);
    }
    progress.finish_and_clear();
    Ok(report(&rounds, vec![engine.version.clone(), deno.version.clone()]))
}

/// The median time of a request to each contender, of the requests of one round.
fn measure(setup: &Setup, contenders: &mut [Contender; CONTENDERS], path: &str) -> Result<Times> {
    let started = Instant::now();
    let mut turns: Vec<Times> = Vec::new();
    while started.elapsed() < setup.round {
        // Forth and back, so that being first is nobody's advantage.
        let backwards = turns.len() % 2 == 1;
        turns.push(take_turns(setup, contenders, path, backwards)?);
    }
    Ok(std::array::from_fn(|index| median_time(turns.iter().filter_map(|times| times.get(index).copied()))))
}

/// One request to each, one after the other. All have to give the same answer.
fn take_turns(setup: &Setup, contenders: &mut [Contender; CONTENDERS], path: &str, backwards: bool) -> Result<Times> {
    let mut times = Times::default();
    let mut answers = Vec::new();
    let mut ask = |contender: &mut Contender, time: &mut Duration| -> Result<()> {
        let path = format!("{path}?n={ITERATIONS}");
        let started = Instant::now();
        let answer = contender.client.get("127.0.0.1", &path, "").with_context(|| contender.name)?;
        *time = started.elapsed();
        let body = String::from_utf8_lossy(&answer.body).into_owned();
        ensure!(
            answer.status == 200 && !answer.closes(),
            "{} answers {path} with {} {body}",
            contender.name,
            answer.status
        );
        answers.push(body);
        Ok(())
    };
    on_core(setup.cores.load, || {
        let mut turns = contenders.iter_mut().zip(&mut times);
        if backwards {
            turns.rev().try_for_each(|(contender, time)| ask(contender, time))
        } else {
            turns.try_for_each(|(contender, time)| ask(contender, time))
        }
    })?;
    ensure!(answers.windows(2).all(|pair| pair.first() == pair.last()), "the answers to {path} differ: {answers:?}");
    Ok(times)
}

fn report(rounds: &[[Times; WAYS.len()]], peers: Vec<String>) -> Report {
    let mut figures = Vec::new();
    let mut rows = Vec::new();
    let mut raw = Vec::new();
    for (index, (_, name)) in WAYS.into_iter().enumerate() {
        let times = rounds.iter().filter_map(|round| round.get(index));
        let [minnow, node, deno] = std::array::from_fn(|contender| -> Vec<Duration> {
            times.clone().filter_map(|times| times.get(contender).copied()).collect()
        });
        let seconds = |times: &[Duration]| times.iter().map(Duration::as_secs_f64).collect::<Vec<_>>();
        // Speed is what is compared: the other's time against Minnow's.
        let against = |other: &[Duration]| median_ratio(&seconds(other), &seconds(&minnow));
        figures.push(Figure::new(format!("speed against node, {name}"), against(&node), "×", Target::AtLeast(0.9)));
        let of = |times: &[Duration]| time(median_time(times.iter().copied()));
        rows.push(vec![name.into(), of(&minnow), of(&node), of(&deno), format!("{:.2} ×", against(&deno))]);
        let all = |times: &[Duration]| times.iter().copied().map(micros).collect::<Vec<_>>();
        raw.push(json!({
            "hash": name, "minnow_us": all(&minnow), "node_us": all(&node), "deno_us": all(&deno),
        }));
    }
    Report {
        figures,
        measured: Table {
            header: vec!["time of a request, by how it hashes", "Minnow", "node", "deno serve", "speed against deno serve"],
            rows,
        },
        notes: vec![
            format!(
                "A request is {ITERATIONS} iterations: some 900 bytes of JSON are written, read back and hashed with SHA-256. \
                 All run the same module on the same core and are asked in turn, one request at a time, Minnow through the \
                 gateway, node through a plain node:http server. A round's value is the median of its requests; ratios are \
                 medians of the ratios of each round."
            ),
            "node is its newest release from npm, not what the machine has. `deno serve` shows what is the engine's own."
                .into(),
        ],
        peers,
        raw: raw.into(),
    }
}
