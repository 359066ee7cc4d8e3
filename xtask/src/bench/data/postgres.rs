//! PostgreSQL from Debian with its defaults, in a cluster of its own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use crate::bench::{
    Setup,
    http::free_address,
    machine::on_core,
    peers::{Peer, install},
    server::{clean_environment, server_command_as},
};

use super::CLIENTS;

/// Where Debian has the programs of each release.
const RELEASES: &str = "/usr/lib/postgresql";
/// The user that its package makes. PostgreSQL refuses to run as root.
const USER: &str = "postgres";
const STOP_DEADLINE: Duration = Duration::from_secs(30);
const START_DEADLINE: Duration = Duration::from_secs(30);
/// What its clients may take to connect, which counts in the time that pgbench is given, and not in the speed that it tells.
const CONNECTING: Duration = Duration::from_secs(3);

pub(super) struct Postgres {
    peer: Peer,
    programs: PathBuf,
    /// After the peer, which has to end first.
    _dir: Folder,
}

/// A folder that goes with this.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        // It lies among what is temporary, and nobody could do more about it.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What pgbench measured.
pub(super) struct Transactions {
    pub(super) count: u64,
    pub(super) per_second: f64,
    pub(super) mean: Duration,
}

impl Postgres {
    /// Makes a cluster and starts it on the server's core.
    pub(super) fn start(setup: &Setup) -> Result<Self> {
        let programs = programs()?;
        let user = rustix::process::geteuid().is_root().then_some(USER);
        // Where its user can go, which may not be true of the target folder, and on a disk, which may not be true of /tmp.
        let dir = PathBuf::from(format!("/var/tmp/minnow-bench-postgres-{}", std::process::id()));
        fs::create_dir_all(&dir)?;
        let folder = Folder(dir.clone());
        if let Some(user) = user {
            crate::must_run(Command::new("chown").arg(user).arg(&dir))?;
        }
        let mut init = server_command_as(user, programs.join("initdb"));
        init.args(["--auth=trust", "--username=postgres", "--pgdata"]).arg(&dir);
        // Its user cannot go where this process is.
        let output = init.current_dir("/").stdin(Stdio::null()).output().context("cannot start initdb")?;
        ensure!(output.status.success(), "initdb failed: {}", String::from_utf8_lossy(&output.stderr));

        let address = free_address()?;
        let mut command = server_command_as(user, programs.join("postgres"));
        command.current_dir("/").arg("-D").arg(&dir).args(["-h", &address.ip().to_string()]);
        command.args(["-p", &address.port().to_string(), "-k", ""]);
        let version = version(&programs)?;
        let peer = Peer::start_on(setup.cores.server, setup, "postgres", &mut command, address, version)?;
        let mut started = Self { peer, programs, _dir: folder };
        // It takes connections before it takes statements.
        let mut select = started.client("psql");
        select.args(["-qAt", "-c", "SELECT 1"]).stdout(Stdio::null()).stderr(Stdio::null());
        started.peer.server.wait_until(START_DEADLINE, || select.status().is_ok_and(|status| status.success()))?;
        Ok(started)
    }

    pub(super) fn version(&self) -> String {
        self.peer.version.clone()
    }

    /// Runs SQL and answers what it selects.
    pub(super) fn run(&self, sql: &str) -> Result<String> {
        let output = self.client("psql").args(["-qAt", "-v", "ON_ERROR_STOP=1", "-c", sql]).output()?;
        ensure!(output.status.success(), "psql failed: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).trim().into())
    }

    /// Has the clients run the statement in `script`, each again and again on a connection of its own, as a prepared one.
    pub(super) fn transactions(&self, setup: &Setup, script: &Path) -> Result<Transactions> {
        let mut command = self.client("pgbench");
        command.args(["--no-vacuum", "--protocol=prepared", "--jobs=1", &format!("--client={CLIENTS}")]);
        command
            .arg(format!("--time={}", (setup.round + CONNECTING).as_secs()))
            .arg("--file")
            .arg(script)
            .arg("postgres");
        let output = on_core(setup.cores.load, || command.output().context("cannot start pgbench"))?;
        let text = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "pgbench failed: {}", String::from_utf8_lossy(&output.stderr));
        parse(&text).with_context(|| format!("unexpected report of pgbench: {text}"))
    }

    /// Ends it in order: what it shares between its processes outlives those that are killed.
    pub(super) fn stop(self) -> Result<()> {
        self.peer.server.stop(STOP_DEADLINE)
    }

    fn client(&self, program: &str) -> Command {
        let mut command = Command::new(self.programs.join(program));
        clean_environment(&mut command);
        let address = self.peer.address;
        command.env("PGHOST", address.ip().to_string()).env("PGPORT", address.port().to_string());
        command.env("PGUSER", "postgres").stdin(Stdio::null());
        command
    }
}

/// `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`
fn version(programs: &Path) -> Result<String> {
    let output = Command::new(programs.join("postgres")).arg("--version").output().context("cannot start postgres")?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(format!(
        "PostgreSQL {}",
        text.split(' ').nth(2).with_context(|| format!("postgres has no version: {text}"))?.trim()
    ))
}

/// The programs of the newest release, which is installed where there is none.
fn programs() -> Result<PathBuf> {
    if let Some(found) = newest() {
        return Ok(found);
    }
    install(&["postgresql"])?;
    newest().with_context(|| format!("there is no PostgreSQL in {RELEASES}"))
}

fn newest() -> Option<PathBuf> {
    let number = |path: &Path| path.file_name()?.to_str()?.parse::<u32>().ok();
    let releases = fs::read_dir(RELEASES).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    let whole = |release: &PathBuf| {
        ["initdb", "postgres", "pgbench", "psql"].iter().all(|name| release.join("bin").join(name).is_file())
    };
    Some(releases.filter(whole).max_by_key(|release| number(release))?.join("bin"))
}

fn parse(report: &str) -> Option<Transactions> {
    let value =
        |key: &str| report.lines().find_map(|line| line.strip_prefix(key)?.split(' ').next()?.parse::<f64>().ok());
    Some(Transactions {
        count: value("number of transactions actually processed: ")? as u64,
        per_second: value("tps = ")?,
        mean: Duration::try_from_secs_f64(value("latency average = ")? / 1e3).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_of_pgbench_is_read() {
        let report = "number of transactions actually processed: 25601\nnumber of failed transactions: 0 (0.000%)\nlatency average = 12.500 ms\ninitial connection time = 90.1 ms\n\
                      tps = 5120.250000 (without initial connection time)\n";
        let found = parse(report).unwrap();
        assert_eq!((found.count, found.per_second, found.mean), (25601, 5120.25, Duration::from_micros(12_500)));
        assert!(parse("pgbench: error").is_none());
    }
}
