//! A bare container that answers one HTTP request: what a cold start costs without WebAssembly.
//!
//! crun (the fastest OCI runtime) runs what `crun spec` writes, with a static busybox as the only program: no image to pull, no
//! container engine above, no port to publish, no seccomp filter. The process is given the connection as its standard input
//! and output, answers one request on it and ends. The same container is also run with fewer walls than a sandbox has, on
//! the host's network and with four mounts less, to show what of its time they are.

use std::{
    fs,
    io::{Read as _, Write as _},
    os::{
        fd::OwnedFd,
        unix::{net::UnixStream, process::CommandExt as _},
    },
    path::PathBuf,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{
    Setup,
    machine::on_core,
    peers::{find_program, require},
    server::clean_environment,
};

/// A container that has not answered by then never will.
const DEADLINE: Duration = Duration::from_secs(10);

/// Where the second hierarchy is mounted on machines that have cgroup versions 1 and 2 side by side.
const UNIFIED: &str = "/sys/fs/cgroup/unified";

/// How much of a container there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Walls {
    /// What `crun spec` writes: all namespaces, devices, masked paths.
    Standard,
    /// As little as runs: the host's network and control groups, `/proc` as the only mount.
    Fewest,
}

/// OCI bundles, ready to run.
pub(crate) struct Container {
    work: PathBuf,
    state: PathBuf,
}

impl Container {
    /// Lays out the bundles. Installs crun and busybox where they are missing.
    pub(crate) fn prepare(setup: &Setup) -> Result<Self> {
        require(&[("crun", "crun"), ("busybox", "busybox-static")])?;
        let busybox = find_program("busybox").context("busybox is not on PATH")?;
        let program = fs::read(&busybox)?;
        // A dynamic executable names its loader in the first page.
        let head = program.get(..4096).unwrap_or(&program);
        ensure!(
            !head.windows(4).any(|bytes| bytes == b"/ld-"),
            "{} is not static; `apt-get install busybox-static` replaces it",
            busybox.display()
        );
        let container = Self { work: setup.work.clone(), state: setup.work.join("crun") };
        for walls in [Walls::Standard, Walls::Fewest] {
            let bundle = container.bundle(walls);
            for folder in ["bin", "www", "proc", "dev", "sys"] {
                fs::create_dir_all(bundle.join("rootfs").join(folder))?;
            }
            fs::copy(&busybox, bundle.join("rootfs/bin/busybox"))?;
            fs::write(bundle.join("rootfs/www/index.html"), BODY)?;
            let mut spec = Command::new("crun");
            spec.arg("spec").args((!rustix::process::geteuid().is_root()).then_some("--rootless"));
            let _ = fs::remove_file(bundle.join("config.json"));
            ensure!(spec.current_dir(&bundle).status()?.success(), "`crun spec` failed");
            let config = serde_json::from_slice(&fs::read(bundle.join("config.json"))?)?;
            fs::write(bundle.join("config.json"), configure(config, walls)?.to_string())?;
        }
        Ok(container)
    }

    fn bundle(&self, walls: Walls) -> PathBuf {
        self.work.join(match walls {
            Walls::Standard => "container",
            Walls::Fewest => "container-fewest",
        })
    }

    fn crun(&self) -> Command {
        let mut command = Command::new("crun");
        clean_environment(&mut command);
        command.arg("--root").arg(&self.state);
        if !rustix::process::geteuid().is_root() {
            command.arg("--cgroup-manager=disabled");
        }
        command
    }

    /// Starts the container on the server's core with a request on its standard input, and returns the time from before
    /// `crun run` was spawned until the answer was there.
    pub(crate) fn first_answer(&self, setup: &Setup, walls: Walls) -> Result<Duration> {
        let id = format!("minnow-bench-{}", std::process::id());
        let mut command = self.crun();
        command.args(["run", "--bundle"]).arg(self.bundle(walls)).arg(&id);
        let (mut ours, theirs) = UnixStream::pair()?;
        ours.set_read_timeout(Some(DEADLINE))?;
        command.stdin(OwnedFd::from(theirs.try_clone()?)).stdout(OwnedFd::from(theirs)).stderr(Stdio::piped());
        on_core(setup.cores.load, || {
            let (started, mut child) = on_core(setup.cores.server, || {
                let started = Instant::now();
                Ok((started, command.spawn().context("cannot start crun")?))
            })?;
            // The command has kept its ends of the connection until now.
            drop(command);
            let answered = ask(&mut ours, started);
            if answered.is_err() {
                // Or a container that hangs is waited for: it lives on without crun, and holds the standard error open.
                let _ = child.kill();
                let _ = self.crun().args(["delete", "--force", &id]).stderr(Stdio::null()).status();
            }
            let output = child.wait_with_output()?;
            let said = || format!("the container failed: {}", String::from_utf8_lossy(&output.stderr).trim());
            let (elapsed, answer) = answered.with_context(said)?;
            ensure!(
                output.status.success() && answer.starts_with(b"HTTP/1.") && answer.ends_with(BODY),
                "the container failed: {}: {} {}",
                output.status,
                String::from_utf8_lossy(&output.stderr).trim(),
                String::from_utf8_lossy(&answer)
            );
            Ok(elapsed)
        })
    }
}

/// Asks for the page and returns when its last byte, or the end, was there, and all that came.
fn ask(connection: &mut UnixStream, started: Instant) -> Result<(Duration, Vec<u8>)> {
    connection.write_all(b"GET / HTTP/1.0\r\nhost: localhost\r\n\r\n").context("it took no request")?;
    let mut answer = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let length = connection.read(&mut piece).with_context(|| format!("no answer within {DEADLINE:?}"))?;
        answer.extend_from_slice(piece.get(..length).unwrap_or_default());
        if length == 0 || answer.ends_with(BODY) {
            return Ok((started.elapsed(), answer));
        }
    }
}

const BODY: &[u8] = b"Hello, World!\n";

/// The config that `crun spec` wrote (<https://github.com/opencontainers/runtime-spec/blob/main/config.md>) with our program,
/// and without some of its walls.
fn configure(mut config: Value, walls: Walls) -> Result<Value> {
    let mut at = |path: &str, change: &dyn Fn(&mut Value)| -> Result<()> {
        change(config.pointer_mut(path).with_context(|| format!("`crun spec` wrote no {path}"))?);
        Ok(())
    };
    at("/process/terminal", &|terminal| *terminal = json!(false))?;
    at("/process/args", &|args| *args = json!(["/bin/busybox", "httpd", "-i", "-h", "/www"]))?;
    if walls == Walls::Fewest {
        at("/linux/namespaces", &|namespaces| keep(namespaces, "type", &["pid", "mount", "ipc", "uts", "user"]))?;
        at("/mounts", &|mounts| keep(mounts, "destination", &["/proc"]))?;
        for paths in ["/linux/maskedPaths", "/linux/readonlyPaths"] {
            at(paths, &|paths| *paths = json!([]))?;
        }
    }
    Ok(config)
}

/// Keeps those of an array's objects whose `key` is one of `wanted`.
fn keep(objects: &mut Value, key: &str, wanted: &[&str]) {
    if let Some(objects) = objects.as_array_mut() {
        objects.retain(|object| object.get(key).and_then(Value::as_str).is_some_and(|value| wanted.contains(&value)));
    }
}

/// crun refuses machines that have both cgroup hierarchies mounted. There, this replaces the process by itself in a mount
/// namespace of its own, without the second one; elsewhere it does nothing.
pub(crate) fn hide_second_cgroup_hierarchy() -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let is_hybrid = mounts.lines().any(|mount| mount.split(' ').nth(4) == Some(UNIFIED));
    if !is_hybrid || !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let script = format!("umount {UNIFIED} && exec \"$0\" \"$@\"");
    let mut again = Command::new("unshare");
    again.args(["--mount", "sh", "-c", &script]).arg(std::env::current_exe()?).args(std::env::args_os().skip(1));
    Err(again.exec()).context("cannot start `unshare`")
}
