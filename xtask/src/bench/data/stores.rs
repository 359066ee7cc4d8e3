//! 10,000 key-value stores and 1,000 databases that nobody uses: open files and memory.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::bench::{
    Setup,
    app::{App, guest},
    http::Client,
    node::{Node, Threads},
    report::{Figure, Report, Table, Target, megabytes, time},
    server::Memory,
};

use super::{answer_of, value};

const APPS: u32 = 100;
/// As many as one function may be granted.
const KV_AN_APP: u32 = 100;
const SQL_AN_APP: u32 = 10;
const STORES: u32 = APPS * (KV_AN_APP + SQL_AN_APP);
/// Clients that make the stores: each new file waits for the disk a few times.
const MAKERS: u32 = 8;
/// How long a node is left alone after it is ready, so that what start-up left behind shows.
const SETTLE: Duration = Duration::from_secs(2);
/// A store closes when nobody has used it for a minute, and at most a quarter of one later.
const CLOSE_DEADLINE: Duration = Duration::from_secs(150);
const LOOK: Duration = Duration::from_millis(200);

/// What of a store is done.
#[derive(Clone, Copy)]
enum Touch {
    Make,
    Read,
}

pub(crate) fn run(setup: &Setup) -> Result<Report> {
    let empty = {
        let node = Node::start(setup, &setup.work.join("stores-empty-data"), Threads::OneCore, None)?;
        let memory = at_rest(&node)?;
        node.stop()?;
        memory
    };

    let data_dir = setup.work.join("stores-data");
    let node = Node::start(setup, &data_dir, Threads::AllCores, None)?;
    let guest = guest("data-p2")?;
    node.publish_all(setup, "stores: publish", APPS, |number| write_app(setup, &guest, number))?;
    let started = Instant::now();
    touch_all(setup, &node, Touch::Make, MAKERS)?;
    let made = started.elapsed();
    ensure!(count_stores(&data_dir)? == STORES as usize, "{} stores have a file", count_stores(&data_dir)?);
    node.stop()?;

    let node = Node::start(setup, &data_dir, Threads::OneCore, None)?;
    let untouched = at_rest(&node)?;
    let started = Instant::now();
    touch_all(setup, &node, Touch::Read, 1)?;
    let read = started.elapsed();
    let (busy, busy_files) = (node.server.memory()?, open_files(&node, &data_dir)?);
    ensure!(busy_files > 0, "no store was open after all were read");
    let (closed, idle_files) = wait_until_closed(setup, &node, &data_dir)?;
    let idle = at_rest(&node)?;
    node.stop()?;
    fs::remove_dir_all(&data_dir)?;

    let row = |what: &str, files: usize, memory: Memory| {
        vec![what.to_owned(), files.to_string(), megabytes(memory.rss), megabytes(memory.anonymous)]
    };
    Ok(Report {
        figures: vec![
            Figure::new("open files of idle stores", idle_files as f64, "", Target::AtMost(0.0)),
            Figure::new(
                format!("RSS with {STORES} idle stores above an empty node"),
                (idle.rss as f64 - empty.rss as f64) / 1e6,
                "MB",
                Target::AtMost(20.0),
            ),
        ],
        measured: Table {
            header: vec!["node", "open files of stores", "RSS", "of it anonymous"],
            rows: vec![
                row("nothing deployed", 0, empty),
                row("stores that were not used since the start", 0, untouched),
                row("just after all were read", busy_files, busy),
                row("when all are idle", idle_files, idle),
            ],
        },
        notes: vec![
            format!(
                "{APPS} apps with {KV_AN_APP} key-value stores and {SQL_AN_APP} databases each, in two functions of one component. These make \
                 each store with one write ({} in all, {MAKERS} clients). The node is restarted, every store is read once through its \
                 function ({}, one client), and then left alone until no file of a store is open, {} later.",
                time(made),
                time(read),
                time(closed)
            ),
            "The difference is that of the whole process: the apps, the code that the reads brought in and what the allocator keeps \
             count as the stores' own."
                .into(),
        ],
        peers: Vec::new(),
        raw: json!({
            "make_s": made.as_secs_f64(),
            "read_s": read.as_secs_f64(),
            "closed_after_s": closed.as_secs_f64(),
            "busy_files": busy_files,
            "idle_files": idle_files,
            "empty_rss_bytes": empty.rss, "empty_anonymous_bytes": empty.anonymous,
            "untouched_rss_bytes": untouched.rss, "untouched_anonymous_bytes": untouched.anonymous,
            "busy_rss_bytes": busy.rss, "busy_anonymous_bytes": busy.anonymous,
            "idle_rss_bytes": idle.rss, "idle_anonymous_bytes": idle.anonymous,
        }),
    })
}

fn at_rest(node: &Node) -> Result<Memory> {
    thread::sleep(SETTLE);
    node.server.wait_until_quiet()?;
    node.server.memory()
}

fn app_name(number: u32) -> String {
    format!("stores-{number}")
}

fn write_app(setup: &Setup, guest: &[u8], number: u32) -> Result<PathBuf> {
    let named = |kind: &str, count: u32| (0..count).map(|store| format!("{kind}-{store}")).collect::<Vec<_>>();
    let (kv, sql) = (named("kv", KV_AN_APP), named("sql", SQL_AN_APP));
    let tables =
        |kind: &str, names: &[String]| names.iter().map(|name| format!("[{kind}.{name}]\n")).collect::<String>();
    // TOML writes a list of names as Rust does.
    App::new(&setup.work, &app_name(number))?
        .code("data.wasm", guest)?
        .function("kv", "data.wasm", "/kv/{*rest}", &format!("kv = {kv:?}"))
        .function("sql", "data.wasm", "/sql/{*rest}", &format!("sql = {sql:?}"))
        .tables(&(tables("kv", &kv) + &tables("sql", &sql)))
        .finish()
}

/// Uses every store of every app once, through its function, by so many clients.
fn touch_all(setup: &Setup, node: &Node, touch: Touch, clients: u32) -> Result<()> {
    let name = match touch {
        Touch::Make => "stores: make",
        Touch::Read => "stores: read",
    };
    let progress = setup.progress(name, STORES as usize);
    let next = AtomicU32::new(0);
    let work = || -> Result<()> {
        let mut client = Client::connect(node.http)?;
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= STORES {
                return Ok(());
            }
            // The apps take turns, as they would with real traffic.
            touch_one(&mut client, &format!("{}.localhost", app_name(number % APPS)), number / APPS, touch)?;
            progress.inc(1);
        }
    };
    thread::scope(|scope| {
        let clients: Vec<_> = (0..clients).map(|_| scope.spawn(work)).collect();
        clients.into_iter().try_for_each(|client| match client.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })?;
    progress.finish_and_clear();
    Ok(())
}

/// The stores of an app are numbered through, the databases last.
fn touch_one(client: &mut Client, host: &str, store: u32, touch: Touch) -> Result<()> {
    let (path, body) = match (store.checked_sub(KV_AN_APP), touch) {
        (None, Touch::Make) => (format!("/kv/set?store=kv-{store}&key=k"), value()),
        (None, Touch::Read) => (format!("/kv/get?store=kv-{store}&key=k"), String::new()),
        (Some(store), Touch::Make) => (
            format!("/sql/script?store=sql-{store}"),
            format!(
                "CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT); INSERT INTO item VALUES (1, '{}');",
                value()
            ),
        ),
        (Some(store), Touch::Read) => {
            (format!("/sql/run?store=sql-{store}"), r#"{"sql":"SELECT name FROM item WHERE id = 1"}"#.into())
        }
    };
    let answer = answer_of(client.post(host, &path, &body)).with_context(|| format!("{host}{path}"))?;
    if matches!(touch, Touch::Read) {
        let found = answer.get("value").or_else(|| answer.pointer("/rows/0/0"));
        ensure!(found == Some(&value().into()), "{host}{path} answers {answer}");
    }
    Ok(())
}

/// Waits until no file of a store is open, and answers how long that took; or until it should long have been so, and
/// answers how many still are.
fn wait_until_closed(setup: &Setup, node: &Node, data_dir: &Path) -> Result<(Duration, usize)> {
    let progress = setup.progress("stores: idle", CLOSE_DEADLINE.as_secs() as usize);
    let started = Instant::now();
    loop {
        let (files, elapsed) = (open_files(node, data_dir)?, started.elapsed());
        if files == 0 || elapsed > CLOSE_DEADLINE {
            progress.finish_and_clear();
            return Ok((elapsed, files));
        }
        progress.set_position(elapsed.as_secs());
        thread::sleep(LOOK);
    }
}

/// Files of stores that the node has open.
fn open_files(node: &Node, data_dir: &Path) -> Result<usize> {
    Ok(node.server.open_files(&data_dir.join("kv"))? + node.server.open_files(&data_dir.join("sql"))?)
}

/// Databases of all apps.
fn count_stores(data_dir: &Path) -> Result<usize> {
    let mut count = 0;
    for kind in ["kv", "sql"] {
        for entry in walkdir::WalkDir::new(data_dir.join(kind)) {
            count += usize::from(entry?.path().extension().is_some_and(|extension| extension == "db"));
        }
    }
    Ok(count)
}
