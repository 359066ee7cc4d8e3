//! bench/plain-data: gets in a plain loop, from Redis and from SQLite; messages over Redis and NATS.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use crate::bench::{Setup, machine::on_core, peers::plain_program, server::server_command};

use super::Gets;

/// The program, built.
pub(in crate::bench) struct Plain(PathBuf);

impl Plain {
    pub(in crate::bench) fn build(setup: &Setup) -> Result<Self> {
        Ok(Self(plain_program(setup, "plain-data")?))
    }

    /// GETs from a Redis, by a client on this core.
    pub(super) fn redis_gets(&self, setup: &Setup, core: usize, redis: SocketAddr) -> Result<Gets> {
        self.gets(setup, core, &["redis", &redis.to_string()])
    }

    /// Reads by primary key from the database in `file`, which `script` makes where there is none.
    pub(super) fn sqlite_gets(&self, setup: &Setup, file: &Path, script: &str) -> Result<Gets> {
        let file = file.to_str().context("a folder's name is not UTF-8")?;
        self.gets(setup, setup.cores.server, &["sqlite", file, script])
    }

    fn gets(&self, setup: &Setup, core: usize, arguments: &[&str]) -> Result<Gets> {
        self.times(setup, core, arguments)
    }

    /// Runs the program on a core, for a round: nanoseconds, one a line.
    pub(in crate::bench) fn times(
        &self,
        setup: &Setup,
        core: usize,
        arguments: &[impl AsRef<str>],
    ) -> Result<Vec<Duration>> {
        let text = self.run(setup, core, arguments)?;
        let times = text.lines().map(|line| Ok(Duration::from_nanos(line.parse()?))).collect::<Result<Vec<_>>>()?;
        ensure!(!times.is_empty(), "plain-data measured nothing");
        Ok(times)
    }

    /// Runs the program on a core, for a round, and answers what it prints.
    pub(in crate::bench) fn run(&self, setup: &Setup, core: usize, arguments: &[impl AsRef<str>]) -> Result<String> {
        let arguments: Vec<&str> = arguments.iter().map(AsRef::as_ref).collect();
        let mut command = server_command(&self.0);
        command.args(&arguments).arg(setup.round.as_millis().to_string()).stdin(Stdio::null());
        let output = on_core(core, || command.output().context("cannot start plain-data"))?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "plain-data {} failed: {errors}", arguments.join(" "));
        Ok(String::from_utf8(output.stdout)?)
    }
}
