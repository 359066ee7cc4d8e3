//! The first request to each of 200 functions after a node's restart, against starting a bare container that answers one
//! HTTP request.

use std::{
    net::SocketAddr,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::{
    Setup,
    app::{App, guest},
    container::{Container, Walls},
    distinct::with_number,
    histogram::Histogram,
    http::Client,
    machine::{on_core, version_of},
    node::{Node, Threads},
    report::{Figure, Report, Table, Target, time},
    stats::{median, median_ratio, median_time, micros, percentile},
};

const APPS: u32 = 4;
const FUNCTIONS_AN_APP: u32 = 50;
/// Containers in all, at least.
const CONTAINERS: u32 = 30;

/// One round.
struct Round {
    cold: Vec<Duration>,
    warm: Vec<Duration>,
    containers: Vec<Duration>,
    /// The same with the fewest walls.
    bare: Vec<Duration>,
    /// Mapping the code and making the first instance, by the node's own clock.
    load: Histogram,
    instantiate: Histogram,
}

pub(crate) fn run(setup: &Setup) -> Result<Report> {
    let container = Container::prepare(setup)?;
    let data_dir = setup.work.join("cold-data");
    let mut node = Node::start(setup, &data_dir, Threads::AllCores, None)?;
    let publishing = setup.progress("cold: publish", APPS as usize);
    for app in 0..APPS {
        node.publish(setup, &write_app(setup, app)?)?;
        publishing.inc(1);
    }
    publishing.finish_and_clear();

    let containers = CONTAINERS.div_ceil(setup.rounds).max(10);
    let progress = setup.progress("cold", setup.rounds as usize);
    let mut rounds = Vec::new();
    let start = |walls| (0..containers).map(|_| container.first_answer(setup, walls)).collect::<Result<Vec<_>>>();
    for _ in 0..setup.rounds {
        node.stop()?;
        node = Node::start(setup, &data_dir, Threads::OneCore, None)?;
        let cold = on_core(setup.cores.load, || call_each(node.http))?;
        let metrics = node.metrics()?;
        let load = Histogram::read(&metrics, "minnow_load_duration_seconds");
        ensure!(
            load.count() == f64::from(APPS * FUNCTIONS_AN_APP),
            "the node loaded code {} times for the first requests of {} functions",
            load.count(),
            APPS * FUNCTIONS_AN_APP
        );
        rounds.push(Round {
            cold,
            warm: on_core(setup.cores.load, || call_each(node.http))?,
            containers: start(Walls::Standard)?,
            bare: start(Walls::Fewest)?,
            load,
            instantiate: Histogram::read(&metrics, "minnow_instantiate_duration_seconds"),
        });
        progress.inc(1);
    }
    progress.finish_and_clear();
    report(&rounds)
}

/// An app whose functions are all different components.
fn write_app(setup: &Setup, number: u32) -> Result<PathBuf> {
    let hello = guest("hello-p2")?;
    let mut app = App::new(&setup.work, &app_name(number))?;
    for function in 0..FUNCTIONS_AN_APP {
        let file = format!("f{function}.wasm");
        app = app.code(&file, &with_number(&hello, number * FUNCTIONS_AN_APP + function))?;
        app = app.function(&format!("f{function}"), &file, &format!("/f{function}"), "");
    }
    app.finish()
}

fn app_name(number: u32) -> String {
    format!("cold-{number}")
}

/// One request to each function, one after the other, on one connection; how long each took the client.
fn call_each(address: SocketAddr) -> Result<Vec<Duration>> {
    let mut client = Client::connect(address)?;
    let mut times = Vec::new();
    // The apps take turns, as they would with real traffic.
    for function in 0..FUNCTIONS_AN_APP {
        for app in 0..APPS {
            let host = format!("{}.localhost", app_name(app));
            let path = format!("/f{function}");
            let started = Instant::now();
            let answer = client.get(&host, &path, "").with_context(|| format!("{host}{path}"))?;
            times.push(started.elapsed());
            ensure!(answer.status == 200, "{host}{path} answers {}", answer.status);
        }
    }
    Ok(times)
}

fn report(rounds: &[Round]) -> Result<Report> {
    let p50 = |times: fn(&Round) -> &[Duration]| -> Vec<f64> {
        rounds.iter().map(|round| percentile(times(round), 50.0).as_secs_f64()).collect()
    };
    let platform = |round: &Round| {
        let load = round.load.quantile(0.5)?;
        Some((load + round.instantiate.quantile(0.5)?).as_secs_f64() * 1e3)
    };
    let platform: Option<Vec<f64>> = rounds.iter().map(platform).collect();
    let platform = platform.context("the node's metrics hold no instantiate times")?;
    let row = |name: &str, times: fn(&Round) -> &[Duration]| {
        let of = |percent| time(median_time(rounds.iter().map(|round| percentile(times(round), percent))));
        vec![name.to_owned(), of(50.0), of(99.0)]
    };
    let by_node = |name: &str, histogram: fn(&Round) -> &Histogram| {
        let of = |quantile| time(median_time(rounds.iter().filter_map(|round| histogram(round).quantile(quantile))));
        vec![name.to_owned(), of(0.5), of(0.99)]
    };
    let all_micros = |times: &[Duration]| times.iter().copied().map(micros).collect::<Vec<_>>();
    let raw = |round: &Round| {
        json!({
            "cold_us": all_micros(&round.cold),
            "warm_us": all_micros(&round.warm),
            "container_us": all_micros(&round.containers),
            "container_fewest_walls_us": all_micros(&round.bare),
            "load_mean_us": micros(round.load.mean()),
            "instantiate_mean_us": micros(round.instantiate.mean()),
        })
    };
    Ok(Report {
        figures: vec![
            Figure::new(
                "p50, container against first request",
                median_ratio(&p50(|round| &round.containers), &p50(|round| &round.cold)),
                "×",
                Target::AtLeast(20.0),
            ),
            Figure::new("p50 platform time (load and instantiate)", median(&platform), "ms", Target::AtMost(1.0)),
        ],
        measured: Table {
            header: vec!["what", "p50", "p99"],
            rows: vec![
                row("first request to a function, seen by the client", |round| &round.cold),
                row("second request, seen by the client", |round| &round.warm),
                by_node("of the first: load, by the node's metrics", |round| &round.load),
                by_node("of the first: instantiate, by the node's metrics", |round| &round.instantiate),
                row("`crun run` until the answer, as `crun spec` writes it", |round| &round.containers),
                row("`crun run` until the answer, with the fewest walls", |round| &round.bare),
            ],
        },
        notes: vec![
            format!(
                "{} functions, each a different wasi:http 0.2 component, in {APPS} apps; each round restarts the node. The \
                 compiled code is in the page cache. One kept connection, one request at a time.",
                APPS * FUNCTIONS_AN_APP
            ),
            "The container is what `crun spec` writes with a static busybox in an unpacked bundle, started by crun alone: no \
             image, no engine, no port, no seccomp filter. It answers on its standard output. With the fewest walls it is on \
             the host's network and control groups and has `/proc` as its only mount. Node and container run on the server's \
             core."
                .into(),
            "The node's own times are read from histogram buckets, linear within a bucket.".into(),
        ],
        peers: vec![version_of("crun", &["--version"])?, version_of("busybox", &["--help"])?],
        raw: rounds.iter().map(raw).collect(),
    })
}
