//! bench/plain-data: gets in a plain loop, from Redis and from SQLite.

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
pub(super) struct Plain(PathBuf);

impl Plain {
    pub(super) fn build(setup: &Setup) -> Result<Self> {
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
        let mut command = server_command(&self.0);
        command.args(arguments).arg(setup.round.as_millis().to_string()).stdin(Stdio::null());
        let output = on_core(core, || command.output().context("cannot start plain-data"))?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "plain-data {} failed: {errors}", arguments.join(" "));
        let text = String::from_utf8(output.stdout)?;
        let gets = text.lines().map(|line| Ok(Duration::from_nanos(line.parse()?))).collect::<Result<Gets>>()?;
        ensure!(!gets.is_empty(), "plain-data {} measured nothing", arguments.join(" "));
        Ok(gets)
    }
}
