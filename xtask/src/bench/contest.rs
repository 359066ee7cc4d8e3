//! Several servers under the same load, in interleaved rounds, so that what else the machine does hits all of them.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{
    Setup,
    http::{Answer, Client},
    report::{Table, megabytes, time},
    server::Server,
    stats::{median, median_time, micros},
    wrk,
};

/// Brings caches, branch predictors and the server's warm pools to where they stay.
pub(crate) const WARM_UP: Duration = Duration::from_secs(1);

/// One server, or one path of it.
pub(crate) struct Contender<'a> {
    pub(crate) name: String,
    pub(crate) address: SocketAddr,
    pub(crate) path: &'static str,
    pub(crate) server: &'a Server,
}

/// What a contender did, one value for each round.
pub(crate) struct Standing {
    pub(crate) name: String,
    pub(crate) requests_per_second: Vec<f64>,
    pub(crate) p50: Vec<Duration>,
    pub(crate) p99: Vec<Duration>,
    pub(crate) cpu_us: Vec<f64>,
    /// Bytes after the last round, of all of the server's processes.
    pub(crate) rss: u64,
}

/// Checks that the server gives the hello guest's answer, and returns it.
pub(crate) fn check_hello(address: SocketAddr, path: &str) -> Result<Answer> {
    let answer = Client::connect(address)?.get(&address.to_string(), path, "")?;
    let body = String::from_utf8_lossy(&answer.body);
    ensure!(
        answer.status == 200 && body == "Hello, World!\n" && !answer.closes(),
        "unexpected answer of {address}{path}: {} {:?} {body}",
        answer.status,
        answer.headers
    );
    Ok(answer)
}

/// Runs all rounds. The answers are checked before the first.
pub(crate) fn run(setup: &Setup, name: &str, contenders: &[Contender<'_>]) -> Result<Vec<Standing>> {
    for contender in contenders {
        check_hello(contender.address, contender.path).with_context(|| contender.name.clone())?;
    }
    let standing = |contender: &Contender<'_>| Standing {
        name: contender.name.clone(),
        requests_per_second: Vec::new(),
        p50: Vec::new(),
        p99: Vec::new(),
        cpu_us: Vec::new(),
        rss: 0,
    };
    let mut standings: Vec<Standing> = contenders.iter().map(standing).collect();
    let progress = setup.progress(name, setup.rounds as usize * contenders.len());
    for _ in 0..setup.rounds {
        for (contender, standing) in contenders.iter().zip(&mut standings) {
            progress.set_message(contender.name.clone());
            let url = format!("http://{}{}", contender.address, contender.path);
            wrk::run(setup, &url, None, wrk::CONNECTIONS, WARM_UP)?;
            let before = contender.server.cpu()?;
            let load = wrk::run(setup, &url, None, wrk::CONNECTIONS, setup.round)?;
            let cpu = contender.server.cpu()?.saturating_sub(before);
            standing.requests_per_second.push(load.requests_per_second());
            standing.p50.push(load.p50());
            standing.p99.push(load.p99());
            standing.cpu_us.push(cpu.as_secs_f64() * 1e6 / load.requests() as f64);
            standing.rss = contender.server.memory()?.rss + contender.server.descendants()?.memory.rss;
            progress.inc(1);
        }
    }
    progress.finish_and_clear();
    Ok(standings)
}

/// The medians as a table.
pub(crate) fn table(standings: &[Standing]) -> Table {
    let row = |standing: &Standing| {
        vec![
            standing.name.clone(),
            format!("{:.0}", median(&standing.requests_per_second)),
            time(median_time(standing.p50.iter().copied())),
            time(median_time(standing.p99.iter().copied())),
            format!("{:.1} µs", median(&standing.cpu_us)),
            megabytes(standing.rss),
        ]
    };
    Table {
        header: vec!["server", "requests/s", "p50", "p99", "CPU a request", "RSS"],
        rows: standings.iter().map(row).collect(),
    }
}

/// Every round's values.
pub(crate) fn raw(standings: &[Standing]) -> Value {
    let micros = |times: &[Duration]| times.iter().copied().map(micros).collect::<Vec<_>>();
    let one = |standing: &Standing| {
        json!({
            "server": standing.name,
            "requests_per_second": standing.requests_per_second,
            "p50_us": micros(&standing.p50),
            "p99_us": micros(&standing.p99),
            "cpu_us": standing.cpu_us,
            "rss_bytes": standing.rss,
        })
    };
    standings.iter().map(one).collect()
}
