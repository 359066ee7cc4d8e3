//! 10,000 deployed functions over 1,000 different components, idle: memory, and how long the node takes to be ready.

use std::{
    fs,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::{
    Setup,
    app::{App, guest},
    distinct::with_number,
    http::Client,
    node::{Node, Threads},
    report::{Figure, Report, Table, Target, megabytes, time},
    server::Memory,
};

/// One component each.
const APPS: u32 = 1000;
const FUNCTIONS_AN_APP: u32 = 10;
/// How long a node is left alone after it is ready, so that what start-up left behind shows.
const SETTLE: Duration = Duration::from_secs(2);
/// Functions that are called at the end, to see that they are really there.
const SAMPLE: u32 = 20;

pub(crate) fn run(setup: &Setup) -> Result<Report> {
    let empty_dir = setup.work.join("density-empty-data");
    let (empty_ready, empty) = idle(setup, &empty_dir)?;

    let data_dir = setup.work.join("density-data");
    let node = Node::start(setup, &data_dir, Threads::AllCores, None)?;
    let started = Instant::now();
    let hello = guest("hello-p2")?;
    node.publish_all(setup, "density: publish", APPS, |number| write_app(setup, &hello, number))?;
    let published = started.elapsed();
    node.stop()?;

    let (ready, full) = idle(setup, &data_dir)?;
    let node = Node::start(setup, &data_dir, Threads::OneCore, None)?;
    call_sample(&node)?;
    node.stop()?;
    // A gigabyte or so that nobody needs again.
    fs::remove_dir_all(&data_dir)?;

    let row = |what: &str, ready: Duration, memory: Memory| {
        vec![what.into(), time(ready), megabytes(memory.rss), megabytes(memory.anonymous)]
    };
    let functions = APPS * FUNCTIONS_AN_APP;
    Ok(Report {
        figures: vec![
            Figure::new(format!("RSS with {functions} functions"), full.rss as f64 / 1e6, "MB", Target::AtMost(100.0)),
            Figure::new("RSS with none", empty.rss as f64 / 1e6, "MB", Target::AtMost(40.0)),
            Figure::new(
                format!("time until ready with {functions} functions"),
                ready.as_secs_f64(),
                "s",
                Target::AtMost(3.0),
            ),
        ],
        measured: Table {
            header: vec!["node", "ready after", "RSS", "of it anonymous"],
            rows: vec![
                row("nothing deployed", empty_ready, empty),
                row(&format!("{functions} functions deployed"), ready, full),
            ],
        },
        notes: vec![
            format!(
                "{APPS} apps of {FUNCTIONS_AN_APP} functions, each app with a component of its own, published and deployed \
                 through the CLI in {:.0} s. Then the node is restarted; ready is the time from the start of the process \
                 until /readyz answers 200, RSS is read {} s later.",
                published.as_secs_f64(),
                SETTLE.as_secs()
            ),
            format!("{SAMPLE} of the functions are called afterwards, to see that they answer."),
        ],
        peers: Vec::new(),
        raw: json!({
            "publish_s": published.as_secs_f64(),
            "ready_s": ready.as_secs_f64(),
            "empty_ready_s": empty_ready.as_secs_f64(),
            "rss_bytes": full.rss,
            "rss_anonymous_bytes": full.anonymous,
            "empty_rss_bytes": empty.rss,
            "empty_rss_anonymous_bytes": empty.anonymous,
        }),
    })
}

/// Starts a node, leaves it alone, and stops it: when it was ready, and what memory it has.
fn idle(setup: &Setup, data_dir: &std::path::Path) -> Result<(Duration, Memory)> {
    let node = Node::start(setup, data_dir, Threads::OneCore, None)?;
    thread::sleep(SETTLE);
    let memory = node.server.memory()?;
    let ready = node.ready_after;
    node.stop()?;
    Ok((ready, memory))
}

fn write_app(setup: &Setup, hello: &[u8], number: u32) -> Result<PathBuf> {
    let mut app = App::new(&setup.work, &app_name(number))?.code("hello.wasm", &with_number(hello, number))?;
    for function in 0..FUNCTIONS_AN_APP {
        app = app.function(&format!("f{function}"), "hello.wasm", &format!("/f{function}"), "");
    }
    app.finish()
}

fn app_name(number: u32) -> String {
    format!("density-{number}")
}

/// Calls functions from all over.
fn call_sample(node: &Node) -> Result<()> {
    let mut client = Client::connect(node.http)?;
    for sample in 0..SAMPLE {
        let host = format!("{}.localhost", app_name(sample * (APPS / SAMPLE)));
        let path = format!("/f{}", sample % FUNCTIONS_AN_APP);
        let answer = client.get(&host, &path, "").with_context(|| format!("{host}{path}"))?;
        ensure!(answer.status == 200, "{host}{path} answers {}", answer.status);
    }
    Ok(())
}
