//! 1,000 topics and 10,000 schedules with nothing to do: memory and CPU time.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use serde_json::json;

use crate::bench::{
    Setup,
    app::{App, guest},
    node::{Node, Threads},
    report::{Figure, Report, Table, Target, megabytes},
    server::Memory,
    stats::median,
};

const APPS: u32 = 10;
const FUNCTIONS_AN_APP: u32 = 100;
const SCHEDULES_A_FUNCTION: u32 = 10;
/// One for each function, which follows it.
const TOPICS: u32 = APPS * FUNCTIONS_AN_APP;
const SCHEDULES: u32 = TOPICS * SCHEDULES_A_FUNCTION;
/// How long a node is left alone after it is ready, so that what start-up left behind shows.
const SETTLE: Duration = Duration::from_secs(2);
/// How long CPU time is counted: a few times as long as anything that the node does by the clock.
const WINDOW: Duration = Duration::from_secs(60);
/// A topic closes when nobody has used it for a minute, and at most a quarter of one later.
const CLOSE_DEADLINE: Duration = Duration::from_secs(150);
const LOOK: Duration = Duration::from_millis(200);

pub(crate) fn run(setup: &Setup) -> Result<Report> {
    let plain_dir = setup.work.join("idle-plain-data");
    publish(setup, &plain_dir, false)?;
    let mut plain = Vec::new();
    for _ in 0..setup.rounds {
        let node = Node::start(setup, &plain_dir, Threads::OneCore, None)?;
        plain.push(at_rest(&node)?);
        node.stop()?;
    }
    let full_dir = setup.work.join("idle-events-data");
    publish(setup, &full_dir, true)?;
    let topics = files(&full_dir.join("topic"))?;
    ensure!(topics == TOPICS as usize, "{topics} topics have a file where {TOPICS} were declared");
    let node = Node::start(setup, &full_dir, Threads::OneCore, None)?;
    let started = at_rest(&node)?;
    let (before, began) = (node.server.cpu()?, Instant::now());
    thread::sleep(WINDOW);
    let cpu = node.server.cpu()?.saturating_sub(before).as_secs_f64() / began.elapsed().as_secs_f64();
    let open_files = wait_until_closed(&node, &full_dir)?;
    let full = at_rest(&node)?;
    node.stop()?;
    fs::remove_dir_all(&plain_dir)?;
    fs::remove_dir_all(&full_dir)?;

    let rss: Vec<f64> = plain.iter().map(|memory| memory.rss as f64).collect();
    let middle = plain.iter().min_by_key(|memory| (memory.rss as f64 - median(&rss)).abs() as u64);
    let row = |what: &str, memory: &Memory| vec![what.to_owned(), megabytes(memory.rss), megabytes(memory.anonymous)];
    let mut rows: Vec<Vec<String>> = middle.map(|memory| row("the apps alone", memory)).into_iter().collect();
    rows.push(row("with topics and schedules, just started", &started));
    rows.push(row("with topics and schedules, at rest", &full));
    Ok(Report {
        figures: vec![
            Figure::new(
                format!("RSS with {TOPICS} topics and {SCHEDULES} schedules beyond that without"),
                (full.rss as f64 - median(&rss)) / 1e6,
                "MB",
                Target::AtMost(20.0),
            ),
            Figure::new("CPU time of the idle node", cpu * 100.0, "% of a core", Target::AtMost(1.0)),
            Figure::new("open files of idle topics", open_files as f64, "", Target::AtMost(0.0)),
        ],
        measured: Table { header: vec!["node", "RSS", "of it anonymous"], rows },
        notes: vec![format!(
            "{APPS} apps of {FUNCTIONS_AN_APP} functions, deployed with and without: a topic for each function, which follows it, and \
             {SCHEDULES_A_FUNCTION} schedules for each, due once a year. The node is started again ({} times without). CPU time is counted \
             for {} s from {} s after the start on, in which the topics that were looked at then are closed; memory at rest is read when no \
             topic is open.",
            setup.rounds,
            WINDOW.as_secs(),
            SETTLE.as_secs()
        )],
        peers: Vec::new(),
        raw: json!({
            "plain_rss_bytes": rss,
            "started_rss_bytes": started.rss, "started_anonymous_bytes": started.anonymous,
            "rss_bytes": full.rss, "anonymous_bytes": full.anonymous,
            "cpu_of_a_core": cpu,
            "open_files": open_files,
        }),
    })
}

fn at_rest(node: &Node) -> Result<Memory> {
    thread::sleep(SETTLE);
    node.server.wait_until_quiet()?;
    node.server.memory()
}

/// Publishes the apps to a node, which is then stopped.
fn publish(setup: &Setup, data_dir: &Path, has_events: bool) -> Result<()> {
    let node = Node::start(setup, data_dir, Threads::AllCores, None)?;
    let guest = guest("hello-p2")?;
    node.publish_all(setup, "events-idle: publish", APPS, |number| write_app(setup, &guest, number, has_events))?;
    node.stop()
}

fn write_app(setup: &Setup, guest: &[u8], number: u32, has_events: bool) -> Result<PathBuf> {
    let mut app = App::new(&setup.work, &format!("idle-{number}"))?.code("hello.wasm", guest)?;
    let mut topics = String::new();
    for function in 0..FUNCTIONS_AN_APP {
        let schedule = |number| format!("{{ cron = \"{} 3 1 1 *\", name = \"s{number}\" }}", function % 60);
        let mut settings = String::new();
        if has_events {
            let schedules: Vec<String> = (0..SCHEDULES_A_FUNCTION).map(schedule).collect();
            settings = format!("topics = [\"t{function}\"]\nschedules = [{}]", schedules.join(", "));
            topics += &format!("[topic.t{function}]\n");
        }
        app = app.function(&format!("f{function}"), "hello.wasm", &format!("/f{function}"), &settings);
    }
    app.tables(&topics).finish()
}

/// Waits until no topic is open, or should long be; answers how many files still are.
fn wait_until_closed(node: &Node, data_dir: &Path) -> Result<usize> {
    let started = Instant::now();
    loop {
        let files = node.server.open_files(&data_dir.join("topic"))?;
        if files == 0 || started.elapsed() > CLOSE_DEADLINE {
            return Ok(files);
        }
        thread::sleep(LOOK);
    }
}

/// Databases under a folder.
fn files(folder: &Path) -> Result<usize> {
    let mut count = 0;
    for entry in walkdir::WalkDir::new(folder) {
        count += usize::from(entry?.path().extension().is_some_and(|extension| extension == "db"));
    }
    Ok(count)
}
