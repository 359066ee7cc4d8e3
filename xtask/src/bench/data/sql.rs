//! SQL: reads by primary key against SQLite without anything in between, and durable inserts against PostgreSQL.

use std::{fs, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::bench::{
    Setup,
    app::{App, guest},
    contest::WARM_UP,
    machine::version_of,
    node::{Node, Threads},
    peers::require,
    report::{Figure, Report, Table, Target},
    stats::{median_ratio, micros},
    wrk::{self, Load},
};

use super::{
    CLIENTS, GETS, Gets, VALUE_BYTES, WRITES, ask, gets_row, p50s,
    plain::Plain,
    postgres::{Postgres, Transactions},
    timed_gets, value, writes_row,
};

/// What is read, in Minnow and in SQLite alike.
const ITEMS: &str = "\
CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT NOT NULL);
INSERT INTO item (id, name)
  WITH RECURSIVE n (id) AS (SELECT 0 UNION ALL SELECT id + 1 FROM n WHERE id < 999) SELECT id, 'item number ' || id FROM n;";

struct Round {
    wasm: Gets,
    plain: Gets,
    /// Inserts of a request each, and [`WRITES`] of each request.
    insert: Load,
    many_inserts: Load,
    postgres: Transactions,
}

pub(crate) fn run(setup: &Setup) -> Result<Report> {
    require(&[("wrk", "wrk")])?;
    let plain = Plain::build(setup)?;
    let app = App::new(&setup.work, "sql")?
        .code("data.wasm", &guest("data-p2")?)?
        .function("data", "data.wasm", "/{*rest}", "sql = [\"main\"]")
        .tables("[sql.main]")
        .finish()?;
    let node = Node::start(setup, &setup.work.join("sql-data"), Threads::OneCore, Some("sql"))?;
    node.publish(setup, &app)?;
    ask(&node, "/sql/script", &format!("{ITEMS}\nCREATE TABLE note (id INTEGER PRIMARY KEY, text TEXT NOT NULL);"))?;
    let postgres = Postgres::start(setup)?;
    postgres.run("CREATE TABLE note (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, text text NOT NULL)")?;
    let script = setup.work.join("insert.sql");
    fs::write(&script, format!("INSERT INTO note (text) VALUES ('{}');\n", value()))?;
    let statement = json!({ "sql": "INSERT INTO note (text) VALUES (?1)", "params": [value()] }).to_string();
    let url = format!("http://{}/sql/run", node.http);
    let many_url = format!("http://{}/sql/inserts?n={WRITES}", node.http);
    let file = setup.work.join("plain.db");

    let progress = setup.progress("sql", setup.rounds as usize * 5);
    let mut rounds = Vec::new();
    let (mut sent, mut committed) = (0, 0);
    for _ in 0..setup.rounds {
        let step = |what: &'static str| {
            progress.inc(1);
            progress.set_message(what);
        };
        step("reads");
        let wasm = timed_gets(setup, node.http, "/sql/gets?", ("found", u64::from(GETS)))?;
        step("reads, SQLite");
        let plain = plain.sqlite_gets(setup, &file, ITEMS)?;
        step("inserts");
        sent += wrk::run_posts(setup, &url, &statement, CLIENTS, WARM_UP)?.requests();
        let insert = wrk::run_posts(setup, &url, &statement, CLIENTS, setup.round)?;
        sent += insert.requests();
        step("many inserts");
        let many_inserts = wrk::run_posts(setup, &many_url, &statement, CLIENTS, setup.round)?;
        sent += many_inserts.requests() * u64::from(WRITES);
        step("inserts, PostgreSQL");
        let of_postgres = postgres.transactions(setup, &script)?;
        committed += of_postgres.count;
        rounds.push(Round { wasm, plain, insert, many_inserts, postgres: of_postgres });
    }
    progress.finish_and_clear();
    let count = r#"{"sql":"SELECT count(*) FROM note"}"#;
    let rows = ask(&node, "/sql/run", count)?.pointer("/rows/0/0").and_then(Value::as_u64).context("no count")?;
    ensure!(rows >= sent, "{sent} inserts were answered, and {rows} rows are there");
    let rows: u64 = postgres.run("SELECT count(*) FROM note")?.parse()?;
    ensure!(rows >= committed, "pgbench counts {committed} inserts, and {rows} rows are there");
    let peers = vec![
        format!("SQLite through rusqlite, {}", plain_version()?),
        postgres.version(),
        version_of("wrk", &["--version"])?,
    ];
    postgres.stop()?;
    Ok(report(&rounds, peers))
}

/// The release of the crate that has SQLite's source.
fn plain_version() -> Result<String> {
    let lock = fs::read_to_string(crate::root().join("bench/plain-data/Cargo.lock"))?;
    let version = crate::bench::peers::locked_version(&lock, "libsqlite3-sys");
    Ok(format!("libsqlite3-sys {}", version.context("bench/plain-data/Cargo.lock does not name libsqlite3-sys")?))
}

fn report(rounds: &[Round], peers: Vec<String>) -> Report {
    let (wasm, plain) = (p50s(rounds.iter().map(|round| &round.wasm)), p50s(rounds.iter().map(|round| &round.plain)));
    let inserts: Vec<f64> = rounds.iter().map(|round| round.insert.requests_per_second()).collect();
    let many_inserts: Vec<f64> =
        rounds.iter().map(|round| round.many_inserts.requests_per_second() * f64::from(WRITES)).collect();
    let of_postgres: Vec<f64> = rounds.iter().map(|round| round.postgres.per_second).collect();
    let times = |of: fn(&Round) -> Duration| rounds.iter().map(of).collect::<Vec<_>>();
    let raw = |round: &Round| {
        let all = |gets: &Gets| gets.iter().copied().map(micros).collect::<Vec<_>>();
        json!({
            "wasm_get_us": all(&round.wasm),
            "sqlite_get_us": all(&round.plain),
            "inserts_per_second": round.insert.requests_per_second(),
            "requests_of_many_inserts_per_second": round.many_inserts.requests_per_second(),
            "postgres_inserts_per_second": round.postgres.per_second,
        })
    };
    let mut postgres_row = writes_row("INSERT of PostgreSQL", &of_postgres, &times(|round| round.postgres.mean), &[]);
    // pgbench tells no percentiles.
    if let Some([p50, p99]) = postgres_row.get_mut(1..3) {
        *p50 = format!("mean {p50}");
        p99.clear();
    }
    Report {
        figures: vec![
            Figure::new(
                "speed of a read by primary key against SQLite alone",
                median_ratio(&plain, &wasm),
                "×",
                Target::AtLeast(0.5),
            ),
            Figure::new(
                format!("durable inserts/s of {CLIENTS} clients against PostgreSQL"),
                median_ratio(&many_inserts, &of_postgres),
                "×",
                Target::AtLeast(1.0),
            ),
        ],
        measured: Table {
            header: vec!["what", "p50", "p99", "writes/s"],
            rows: vec![
                gets_row("read in a function of WebAssembly", rounds.iter().map(|round| &round.wasm)),
                gets_row("read through rusqlite", rounds.iter().map(|round| &round.plain)),
                writes_row(
                    &format!("{WRITES} INSERTs in a request to a function of WebAssembly"),
                    &many_inserts,
                    &times(|round| round.many_inserts.p50()),
                    &times(|round| round.many_inserts.p99()),
                ),
                writes_row(
                    "INSERT in a request to a function of WebAssembly",
                    &inserts,
                    &times(|round| round.insert.p50()),
                    &times(|round| round.insert.p99()),
                ),
                postgres_row,
            ],
        },
        notes: vec![
            format!(
                "Reads: `SELECT name FROM item WHERE id = ?1`, of a thousand rows. A request makes {GETS}, one after the other, and \
                 times them itself; p50 and p99 are of these means. Alone, SQLite runs them with a cached prepared statement in a \
                 plain loop, from a file in WAL mode. Both have the server's core."
            ),
            format!(
                "Inserts: {CLIENTS} clients insert a row with {VALUE_BYTES} bytes of text, each answered when it is on the disk \
                 before the next begins. wrk sends requests to a function, a fresh instance each, with the statement as JSON; compared \
                 is what makes {WRITES} inserts in each, so that HTTP has as little part in it as in the reads. pgbench runs a prepared \
                 statement in PostgreSQL with its defaults. Node and PostgreSQL have the server's core."
            ),
        ],
        peers,
        raw: rounds.iter().map(raw).collect(),
    }
}
