//! From the answer that an endless loop ends in to the function's next good answer.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::bench::{
    Setup,
    machine::on_core,
    node::{Node, Threads},
    report::{Figure, Report, Table, Target, time},
    stats::{median, median_time, micros, percentile},
};

use super::{AppClient, POOL, check_numbered, install_tools, numbered_app, with_pool};

const APP: &str = "js-recovery";
/// Each is killed once a round: one that keeps dying is held back.
const FUNCTIONS: u32 = 20;
/// What one loop burns before it is killed.
const LIMITS: &str = "limits = { cpu = \"200ms\" }";
/// A function that gives no good answer by then has not recovered.
const DEADLINE: Duration = Duration::from_secs(10);

/// One function's death, seen by the client.
struct Death {
    /// From the request that loops until its answer.
    dying: Duration,
    /// From that answer until the next good one.
    recovery: Duration,
    /// Answers in between that were not good.
    refused: u32,
}

pub(crate) fn run(setup: &Setup) -> Result<Report> {
    install_tools(setup)?;
    let data_dir = setup.work.join("js-recovery-data");
    let node = Node::start_with(&with_pool(0), setup, &data_dir, Threads::AllCores, None)?;
    node.publish(setup, &numbered_app(&setup.work, APP, 0, FUNCTIONS, LIMITS)?)?;
    node.stop()?;

    let progress = setup.progress("js-recovery", setup.rounds as usize);
    let mut rounds = Vec::new();
    for _ in 0..setup.rounds {
        rounds.push(kill_all(setup, &data_dir)?);
        progress.inc(1);
    }
    progress.finish_and_clear();
    Ok(report(&rounds))
}

/// Restarts the node and kills each function once.
fn kill_all(setup: &Setup, data_dir: &Path) -> Result<Vec<Death>> {
    let node = Node::start_with(&with_pool(POOL), setup, data_dir, Threads::OneCore, None)?;
    let deaths = on_core(setup.cores.load, || {
        let mut client = AppClient::connect(node.http, APP)?;
        let kill = |function| -> Result<Death> {
            check_numbered(&client.get(&format!("/f{function}"))?, function)?;
            node.server.wait_until_quiet()?;
            kill(&mut client, function).with_context(|| format!("f{function}"))
        };
        (0..FUNCTIONS).map(kill).collect()
    })?;
    node.stop()?;
    Ok(deaths)
}

fn kill(client: &mut AppClient, function: u32) -> Result<Death> {
    let started = Instant::now();
    let answer = client.get(&format!("/f{function}?loop"))?;
    let died = Instant::now();
    ensure!(answer.status >= 500, "the endless loop answers {}", answer.status);
    let mut refused = 0;
    loop {
        let answer = client.get(&format!("/f{function}"))?;
        if answer.status == 200 {
            check_numbered(&answer, function)?;
            return Ok(Death { dying: died - started, recovery: died.elapsed(), refused });
        }
        ensure!(died.elapsed() < DEADLINE, "no good answer within {DEADLINE:?}, but {}", answer.status);
        refused += 1;
    }
}

fn report(rounds: &[Vec<Death>]) -> Report {
    let times = |round: &[Death], of: fn(&Death) -> Duration| round.iter().map(of).collect::<Vec<_>>();
    let p50: Vec<f64> = rounds
        .iter()
        .map(|round| percentile(&times(round, |death| death.recovery), 50.0).as_secs_f64() * 1e3)
        .collect();
    let row = |name: &str, what: fn(&Death) -> Duration| {
        let of = |percent| time(median_time(rounds.iter().map(|round| percentile(&times(round, what), percent))));
        vec![name.to_owned(), of(50.0), of(99.0)]
    };
    let refused: u32 = rounds.iter().flatten().map(|death| death.refused).sum();
    let all_micros = |round: &[Death], of| times(round, of).into_iter().map(micros).collect::<Vec<_>>();
    let raw = |round: &Vec<Death>| {
        json!({
            "dying_us": all_micros(round, |death| death.dying),
            "recovery_us": all_micros(round, |death| death.recovery),
            "refused": round.iter().map(|death| death.refused).collect::<Vec<_>>(),
        })
    };
    Report {
        figures: vec![Figure::new(
            "p50 from the loop's end to the next good answer",
            median(&p50),
            "ms",
            Target::AtMost(50.0),
        )],
        measured: Table {
            header: vec!["what", "p50", "p99"],
            rows: vec![
                row("an endless loop until its answer, with 200 ms of CPU time", |death| death.dying),
                row("from there until the next good answer", |death| death.recovery),
            ],
        },
        notes: vec![format!(
            "{FUNCTIONS} functions, each killed once a round; each round restarts the node. The pool is {POOL} processes, full \
             when the loop begins. The next request goes out when the loop's answer is there, and again at once as long as it \
             is refused, which happened {refused} times in all. Seen by the client, on one kept connection."
        )],
        peers: Vec::new(),
        raw: rounds.iter().map(raw).collect(),
    }
}
