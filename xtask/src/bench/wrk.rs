//! Closed-loop load from wrk: a number of connections, each sending its next request when the last one is answered.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::{Setup, machine::on_core};

/// Connections of the throughput benchmarks. 64 keep one server core busy and stay below the default concurrency.
pub(crate) const CONNECTIONS: u32 = 64;

/// What bench/report.lua prints.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Load {
    requests: u64,
    duration_us: u64,
    connect: u64,
    read: u64,
    write: u64,
    status: u64,
    timeout: u64,
    p50_us: u64,
    p99_us: u64,
    max_us: u64,
}

impl Load {
    pub(crate) fn requests(&self) -> u64 {
        self.requests
    }

    pub(crate) fn requests_per_second(&self) -> f64 {
        self.requests as f64 / (self.duration_us as f64 / 1e6)
    }

    pub(crate) fn p50(&self) -> Duration {
        Duration::from_micros(self.p50_us)
    }

    pub(crate) fn p99(&self) -> Duration {
        Duration::from_micros(self.p99_us)
    }

    pub(crate) fn max(&self) -> Duration {
        Duration::from_micros(self.max_us)
    }
}

/// Loads `url` from the load's core. `host` is the Host header where it is not the URL's. An error, or an answer that is not
/// 2xx or 3xx, fails the benchmark: a server that refuses is fast.
pub(crate) fn run(setup: &Setup, url: &str, host: Option<&str>, connections: u32, duration: Duration) -> Result<Load> {
    run_script(setup, &script("report.lua"), &[], url, host, connections, duration)
}

/// [`run`] with POST requests of this body. An `@` in the URL is another of a thousand numbers in each request.
pub(crate) fn run_posts(setup: &Setup, url: &str, body: &str, connections: u32, duration: Duration) -> Result<Load> {
    let both = setup.work.join("post.lua");
    // wrk takes one script.
    fs::write(
        &both,
        ["post.lua", "report.lua"].map(script).map(fs::read_to_string).into_iter().collect::<Result<String, _>>()?,
    )?;
    run_script(setup, &both, &[body], url, None, connections, duration)
}

fn script(name: &str) -> PathBuf {
    crate::root().join("bench").join(name)
}

fn run_script(
    setup: &Setup,
    script: &Path,
    arguments: &[&str],
    url: &str,
    host: Option<&str>,
    connections: u32,
    duration: Duration,
) -> Result<Load> {
    let mut command = Command::new("wrk");
    // wrk measures at least one second.
    let seconds = duration.as_secs().max(1);
    command.args(["-t1", &format!("-c{connections}"), &format!("-d{seconds}s"), "--timeout", "30s", "-s"]);
    command.arg(script);
    if let Some(host) = host {
        command.args(["-H", &format!("Host: {host}")]);
    }
    command.arg(url).arg("--").args(arguments).stdin(Stdio::null());
    let output = on_core(setup.cores.load, || command.output().context("cannot start wrk"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    let line = text.lines().find_map(|line| line.strip_prefix("measured "));
    let line = line.with_context(|| format!("wrk on {url} did not report:\n{text}{errors}"))?;
    let load: Load = serde_json::from_str(line).with_context(|| format!("unexpected report of wrk: {line}"))?;
    let Load { connect, read, write, status, timeout, .. } = load;
    ensure!(
        connect + read + write + status + timeout == 0,
        "{url}: errors among {} requests: connect {connect}, read {read}, write {write}, status {status}, timeout {timeout}",
        load.requests
    );
    ensure!(load.requests > 0, "{url} answered nothing");
    Ok(load)
}
