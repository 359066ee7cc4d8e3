//! Redis from Debian, whose writes are on the disk before they are answered.

use std::{
    fs,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use crate::bench::{
    Setup,
    http::free_address,
    machine::on_core,
    peers::{Peer, require},
    server::server_command,
};

use super::{CLIENTS, VALUE_BYTES};

/// Requests by which redis-benchmark's speed is found, which it does not limit by time.
const TRIAL: u64 = 5_000;

/// What redis-benchmark measured.
pub(super) struct Sets {
    pub(super) per_second: f64,
    pub(super) p50: Duration,
    pub(super) p99: Duration,
}

/// Starts a Redis on this core.
pub(in crate::bench) fn start(setup: &Setup, core: usize) -> Result<Peer> {
    require(&[("redis-server", "redis-server"), ("redis-benchmark", "redis-tools")])?;
    let address = free_address()?;
    let name = format!("redis-{core}");
    let dir = setup.work.join(&name);
    fs::create_dir_all(&dir)?;
    let mut command = server_command("redis-server");
    command.args(["--bind", &address.ip().to_string(), "--port", &address.port().to_string(), "--dir"]).arg(&dir);
    // No snapshots, and the log is not rewritten: either would take time from what is measured.
    command.args(["--save", "", "--auto-aof-rewrite-percentage", "0"]);
    command.args(["--appendonly", "yes", "--appendfsync", "always"]);
    Peer::start_on(core, setup, &name, &mut command, address, version()?)
}

/// `Redis server v=7.0.15 sha=...`
fn version() -> Result<String> {
    let output = Command::new("redis-server").arg("--version").output().context("cannot start redis-server")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = text.split(' ').find_map(|word| word.strip_prefix("v="));
    Ok(format!("Redis {}", version.with_context(|| format!("redis-server has no version: {text}"))?))
}

/// Sets the key `k`.
pub(super) fn set(redis: &Peer, value: &str) -> Result<()> {
    let mut command = Command::new("redis-cli");
    let output = command.args(["-p", &redis.address.port().to_string(), "set", "k", value]).output()?;
    let answer = String::from_utf8_lossy(&output.stdout);
    ensure!(answer.trim() == "OK", "redis-cli set answers {answer}");
    Ok(())
}

/// Sets one of a thousand keys, again and again, from the load's core for about as long as a round takes.
pub(super) fn sets(setup: &Setup, redis: &Peer) -> Result<Sets> {
    let trial = run_sets(setup, redis, TRIAL)?;
    run_sets(setup, redis, ((trial.per_second * setup.round.as_secs_f64()) as u64).max(TRIAL))
}

fn run_sets(setup: &Setup, redis: &Peer, count: u64) -> Result<Sets> {
    let mut command = Command::new("redis-benchmark");
    command.args(["-h", "127.0.0.1", "-p", &redis.address.port().to_string(), "--csv", "-t", "set", "-r", "1000"]);
    command.args(["-c", &CLIENTS.to_string(), "-n", &count.to_string(), "-d", &VALUE_BYTES.to_string()]);
    let output =
        on_core(setup.cores.load, || command.stdin(Stdio::null()).output().context("cannot start redis-benchmark"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    parse(&text).with_context(|| format!("unexpected report of redis-benchmark: {text}"))
}

/// Reads `"SET","rps","avg","min","p50","p95","p99","max"`, times in milliseconds.
fn parse(report: &str) -> Option<Sets> {
    let line = report.lines().find_map(|line| line.strip_prefix("\"SET\","))?;
    let numbers = line.split(',').map(|number| number.trim_matches('"').parse().ok()).collect::<Option<Vec<f64>>>()?;
    let &[per_second, _, _, p50, _, p99, _] = numbers.as_slice() else { return None };
    let time = |ms: f64| Duration::try_from_secs_f64(ms / 1e3).ok();
    Some(Sets { per_second, p50: time(p50)?, p99: time(p99)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_of_redis_benchmark_is_read() {
        let report = "\"test\",\"rps\",\"avg_latency_ms\",\"min_latency_ms\",\"p50_latency_ms\",\"p95_latency_ms\",\
                      \"p99_latency_ms\",\"max_latency_ms\"\n\"SET\",\"17746.23\",\"3.052\",\"0.016\",\"2.500\",\"4.039\",\"9.199\",\"28.5\"\n";
        let sets = parse(report).unwrap();
        assert_eq!((sets.per_second, sets.p50), (17746.23, Duration::from_micros(2500)));
        assert!(parse("\"SET\",\"1\"\n").is_none());
        assert!(parse("Could not connect").is_none());
    }
}
