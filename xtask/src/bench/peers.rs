//! What Minnow is compared with, and the tools that measure it: installed where they are missing, started with one worker
//! thread on the server's core.

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use super::{
    Setup,
    http::{Answer, free_address},
    machine::version_of,
    npm::{Npm, REDIS_CLIENT},
    server::{Server, server_command},
};

/// The newest of the line of wasmtime that Minnow embeds.
const WASMTIME: &str = "48.0.8";

/// `wasmtime serve` compiles the component before it listens.
const START_DEADLINE: Duration = Duration::from_secs(60);

/// A running peer.
pub(crate) struct Peer {
    pub(crate) server: Server,
    pub(crate) address: SocketAddr,
    /// Its name and version.
    pub(crate) version: String,
}

impl Peer {
    /// `wasmtime serve` of a component, with the interfaces of wasi:cli that Rust's standard library imports.
    pub(crate) fn wasmtime_serve(setup: &Setup, component: &Path) -> Result<Self> {
        let wasmtime = wasmtime()?;
        let address = free_address()?;
        let mut command = server_command(&wasmtime);
        command.args(["serve", "-Scli", "--addr", &address.to_string()]).arg(component);
        command.env("TOKIO_WORKER_THREADS", "1");
        let version = version_of(&wasmtime.to_string_lossy(), &["--version"])?;
        Self::start(setup, "wasmtime-serve", &mut command, address, version)
    }

    /// Plain hyper, which sends the same headers as `answer`.
    pub(crate) fn plain_hyper(setup: &Setup, answer: &Answer) -> Result<Self> {
        let program = plain_program(setup, "plain-hyper")?;
        let address = free_address()?;
        let mut command = server_command(program);
        command.arg(address.to_string());
        for (name, value) in &answer.headers {
            match name.as_str() {
                // hyper adds these itself.
                "date" | "content-length" => {}
                "transfer-encoding" => drop(command.arg("--chunked")),
                _ => drop(command.arg(format!("{name}: {value}"))),
            }
        }
        let lock = fs::read_to_string(crate::root().join("bench/plain-hyper/Cargo.lock"))?;
        let version = locked_version(&lock, "hyper").context("bench/plain-hyper/Cargo.lock does not name hyper")?;
        Self::start(setup, "plain-hyper", &mut command, address, format!("hyper {version}"))
    }

    /// `deno serve` of a module.
    pub(crate) fn deno_serve(setup: &Setup, module: &Path) -> Result<Self> {
        Self::deno(setup, &["--no-config"], module, &[])
    }

    /// `deno serve` of a module that talks to a Redis through the client from npm.
    pub(crate) fn deno_with_redis(setup: &Setup, module: &str, redis: SocketAddr) -> Result<Self> {
        // Deno finds packages from where the module lies.
        let folder = setup.work.join("deno-redis");
        if !folder.exists() {
            fs::create_dir(&folder)?;
            fs::write(folder.join("package.json"), "{}")?;
            symlink(Npm::install()?.modules(), folder.join("node_modules"))?;
        }
        let copy = folder.join("redis.js");
        fs::write(&copy, module)?;
        let mut peer = Self::deno(
            setup,
            &["--node-modules-dir=manual", "--allow-net", "--allow-env"],
            &copy,
            &[("REDIS_URL", &format!("redis://{redis}"))],
        )?;
        peer.version += &format!(" with redis {REDIS_CLIENT} from npm");
        Ok(peer)
    }

    fn deno(setup: &Setup, options: &[&str], module: &Path, environment: &[(&str, &str)]) -> Result<Self> {
        let deno = Npm::install()?.deno();
        let address = free_address()?;
        let mut command = server_command(&deno);
        command.arg("serve").args(options);
        command.args(["--host", &address.ip().to_string(), "--port", &address.port().to_string()]);
        command.envs(environment.iter().copied());
        command.arg(module).env("DENO_DIR", setup.work.join("deno-dir")).env("DENO_NO_UPDATE_CHECK", "1");
        let version = version_of(&deno.to_string_lossy(), &["--version"])?;
        Self::start(setup, "deno-serve", &mut command, address, version)
    }

    /// workerd with bench/js/hello.js as its one worker.
    pub(crate) fn workerd(setup: &Setup) -> Result<Self> {
        let workerd = Npm::install()?.workerd();
        let address = free_address()?;
        let mut command = server_command(&workerd);
        command.arg("serve").arg(crate::root().join("bench/js/workerd.capnp"));
        command.args(["--socket-addr", &format!("http={address}")]);
        let version = version_of(&workerd.to_string_lossy(), &["--version"])?;
        Self::start(setup, "workerd", &mut command, address, version)
    }

    /// node with a plain node:http server around a module.
    pub(crate) fn node_server(setup: &Setup, module: &Path) -> Result<Self> {
        let node = Npm::install()?.node();
        let address = free_address()?;
        let mut command = server_command(&node);
        command.arg(crate::root().join("bench/js/node-server.mjs")).arg(module).arg(address.port().to_string());
        let version = format!("node {}", version_of(&node.to_string_lossy(), &["--version"])?);
        Self::start(setup, "node-server", &mut command, address, version)
    }

    fn start(setup: &Setup, name: &str, command: &mut Command, address: SocketAddr, version: String) -> Result<Self> {
        Self::start_on(setup.cores.server, setup, name, command, address, version)
    }

    /// Starts a server on a core and waits until it listens.
    pub(crate) fn start_on(
        core: usize,
        setup: &Setup,
        name: &str,
        command: &mut Command,
        address: SocketAddr,
        version: String,
    ) -> Result<Self> {
        let log = setup.work.join(format!("{name}.log"));
        let mut server = Server::start(name, command, Some(core), &log)?;
        server.wait_until(START_DEADLINE, || TcpStream::connect(address).is_ok())?;
        Ok(Self { server, address, version })
    }
}

/// Where peers are installed that are not from Debian.
pub(crate) fn cache() -> Result<PathBuf> {
    let home = std::env::var_os("HOME").context("HOME is not set")?;
    Ok(Path::new(&home).join(".cache/minnow/peers"))
}

/// The program `wasmtime`, in a folder of the user's cache; `cargo install` puts it there the first time.
fn wasmtime() -> Result<PathBuf> {
    let root = cache()?;
    let program = root.join("bin/wasmtime");
    let wanted = format!("wasmtime {WASMTIME}");
    if version_of(&program.to_string_lossy(), &["--version"]).is_ok_and(|version| version.starts_with(&wanted)) {
        return Ok(program);
    }
    eprintln!("installing wasmtime-cli {WASMTIME} into {}; this takes several minutes, once", root.display());
    let package = format!("wasmtime-cli@{WASMTIME}");
    let mut install = crate::cargo();
    install.args(["install", &package, "--locked", "--root"]).arg(&root);
    crate::must_run(&mut install)?;
    Ok(program)
}

/// Builds one of the programs in bench/, unless told not to.
pub(crate) fn plain_program(setup: &Setup, name: &str) -> Result<PathBuf> {
    let target = setup.target.join("bench").join(name);
    let program = target.join("release").join(name);
    if setup.build {
        let mut build = crate::cargo();
        let manifest = format!("bench/{name}/Cargo.toml");
        build.args(["build", "--quiet", "--release", "--locked", "--manifest-path", &manifest]);
        crate::must_run(build.arg("--target-dir").arg(&target))?;
    }
    ensure!(program.exists(), "{} is missing; leave out --no-build", program.display());
    Ok(program)
}

/// Installs Debian packages whose programs are missing: `(program, package)` each.
pub(crate) fn require(programs: &[(&str, &str)]) -> Result<()> {
    let missing = programs.iter().filter(|(program, _)| find_program(program).is_none());
    let packages: Vec<&str> = missing.map(|(_, package)| *package).collect();
    if packages.is_empty() { Ok(()) } else { install(&packages) }
}

/// Installs Debian packages.
pub(crate) fn install(packages: &[&str]) -> Result<()> {
    eprintln!("installing from Debian: {}", packages.join(" "));
    let mut install = if rustix::process::geteuid().is_root() {
        Command::new("apt-get")
    } else {
        let mut sudo = Command::new("sudo");
        sudo.arg("apt-get");
        sudo
    };
    install.args(["install", "--yes", "--no-install-recommends"]).args(packages);
    crate::must_run(&mut install)
        .with_context(|| format!("install them by hand: apt-get update && apt-get install {}", packages.join(" ")))
}

/// Where a program is on PATH.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|program| program.is_file())
}

/// The version of a package in the text of a Cargo.lock.
pub(crate) fn locked_version<'a>(lock: &'a str, package: &str) -> Option<&'a str> {
    let (_, rest) = lock.split_once(&format!("name = \"{package}\"\nversion = \""))?;
    rest.split('"').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_a_lock_file() {
        let lock = "[[package]]\nname = \"hyper-util\"\nversion = \"0.1\"\n\n[[package]]\nname = \"hyper\"\nversion = \"1.12.0\"\n";
        assert_eq!(locked_version(lock, "hyper"), Some("1.12.0"));
        assert_eq!(locked_version(lock, "tokio"), None);
    }
}
