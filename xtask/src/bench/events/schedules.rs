//! How late ticks are.

use std::{thread, time::Duration};

use anyhow::{Result, ensure};
use serde_json::json;

use crate::bench::{
    Setup,
    app::{App, guest},
    node::{Node, Threads},
    report::{Figure, Report, Table, Target, time},
    stats::{median, micros, percentile},
};

use super::taken;

const FUNCTIONS: u32 = 10;
const SCHEDULES_A_FUNCTION: u32 = 10;
const SCHEDULES: u32 = FUNCTIONS * SCHEDULES_A_FUNCTION;
/// Ticks before these are not counted: the first ones load the code.
const WARM_UP: Duration = Duration::from_secs(3);

pub(crate) fn run(setup: &Setup) -> Result<Report> {
    let mut app = App::new(&setup.work, "ticks")?.code("data.wasm", &guest("data-p2")?)?;
    for function in 0..FUNCTIONS {
        let schedule = |number| format!("{{ cron = \"@every 1s\", name = \"s{function}-{number}\" }}");
        let schedules: Vec<String> = (0..SCHEDULES_A_FUNCTION).map(schedule).collect();
        let settings = format!("kv = [\"taken\"]\nschedules = [{}]", schedules.join(", "));
        app = app.follower(&format!("f{function}"), "data.wasm", &settings);
    }
    let app = app.function("reader", "data.wasm", "/{*rest}", "kv = [\"taken\"]").tables("[kv.taken]").finish()?;
    let node = Node::start(setup, &setup.work.join("ticks-data"), Threads::OneCore, Some("ticks"))?;
    node.publish(setup, &app)?;
    thread::sleep(WARM_UP);
    taken(node.http, "127.0.0.1")?;

    let progress = setup.progress("events-schedules", setup.rounds as usize);
    let mut rounds = Vec::new();
    for _ in 0..setup.rounds {
        thread::sleep(setup.round);
        let late = taken(node.http, "127.0.0.1")?;
        // A tick of each schedule may fall into the round before or after.
        let least = (setup.round.as_secs().max(1) - 1) * u64::from(SCHEDULES);
        ensure!(late.len() as u64 >= least, "only {} ticks in {:?}", late.len(), setup.round);
        rounds.push(late);
        progress.inc(1);
    }
    progress.finish_and_clear();
    let of = |percent: f64| -> Vec<f64> { rounds.iter().map(|late| micros(percentile(late, percent))).collect() };
    let row = |what: &str, percent: f64| {
        vec![what.to_owned(), time(Duration::from_secs_f64(median(&of(percent)).max(0.0) / 1e6))]
    };
    Ok(Report {
        figures: vec![Figure::new(
            "p99 from a tick until the function runs",
            median(&of(99.0)) / 1e3,
            "ms",
            Target::AtMost(20.0),
        )],
        measured: Table {
            header: vec!["ticks", "late by"],
            rows: vec![row("p50", 50.0), row("p99", 99.0), row("the latest", 100.0)],
        },
        notes: vec![format!(
            "{SCHEDULES} schedules of `@every 1s` in {FUNCTIONS} functions of WebAssembly, on an otherwise idle node. They were deployed \
             together, so all are due in the same millisecond of each second. Each tick is noted on the disk before it runs, and runs in a \
             fresh instance, which first takes the time, and then writes into a key-value store how late it is."
        )],
        peers: Vec::new(),
        raw: json!(rounds.iter().map(|late| late.iter().copied().map(micros).collect::<Vec<_>>()).collect::<Vec<_>>()),
    })
}
