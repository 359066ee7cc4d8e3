//! A bare container that answers one HTTP request: what a cold start costs without WebAssembly.
//!
//! It is as small as a container gets: crun (the fastest OCI runtime), an unpacked root file system that holds one static
//! busybox, the host's network, no seccomp filter, no image to pull, no container engine above. Its process listens,
//! answers one request and ends.

use std::{
    fs,
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;

use super::{
    Setup,
    http::{Client, free_address},
    machine::on_core,
    peers::{find_program, require},
    server::clean_environment,
};

/// A container that has not answered by then never will.
const DEADLINE: Duration = Duration::from_secs(10);

/// Where the second hierarchy is mounted on machines that have cgroup versions 1 and 2 side by side.
const UNIFIED: &str = "/sys/fs/cgroup/unified";

/// An OCI bundle, ready to run.
pub(crate) struct Container {
    bundle: PathBuf,
    state: PathBuf,
}

impl Container {
    /// Lays out the bundle. Installs crun and busybox where they are missing.
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
        let bundle = setup.work.join("container");
        for folder in ["bin", "www", "proc", "dev"] {
            fs::create_dir_all(bundle.join("rootfs").join(folder))?;
        }
        fs::copy(&busybox, bundle.join("rootfs/bin/busybox"))?;
        fs::write(bundle.join("rootfs/www/index.html"), "Hello, World!\n")?;
        Ok(Self { bundle, state: setup.work.join("crun") })
    }

    /// Starts the container on the server's core, sends it a request, and returns the time from before `crun run` was
    /// spawned until the answer was there.
    pub(crate) fn first_answer(&self, setup: &Setup) -> Result<Duration> {
        let address = free_address()?;
        fs::write(self.bundle.join("config.json"), config(address.port()).to_string())?;
        let mut command = Command::new("crun");
        clean_environment(&mut command);
        command.arg("--root").arg(&self.state);
        if !rustix::process::geteuid().is_root() {
            command.arg("--cgroup-manager=disabled");
        }
        command.args(["run", "--bundle"]).arg(&self.bundle).arg(format!("minnow-bench-{}", address.port()));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        on_core(setup.cores.load, || {
            let (started, mut child) = on_core(setup.cores.server, || {
                let started = Instant::now();
                Ok((started, command.spawn().context("cannot start crun")?))
            })?;
            let mut client = loop {
                // Refused until the container listens. On loopback that costs microseconds.
                match Client::connect(address) {
                    Ok(client) => break client,
                    Err(_) if started.elapsed() > DEADLINE => {
                        child.kill()?;
                        bail!("the container did not listen within {DEADLINE:?}: {}", child_errors(child)?);
                    }
                    Err(_) if child.try_wait()?.is_some() => bail!("crun failed: {}", child_errors(child)?),
                    Err(_) => std::thread::sleep(Duration::from_micros(20)),
                }
            };
            let answer = client.get("localhost", "/", "")?;
            let elapsed = started.elapsed();
            ensure!(
                answer.status == 200 && answer.body == b"Hello, World!\n",
                "the container answered {}",
                answer.status
            );
            ensure!(child.wait()?.success(), "the container failed after its answer");
            Ok(elapsed)
        })
    }
}

fn child_errors(child: std::process::Child) -> Result<String> {
    let output = child.wait_with_output()?;
    Ok(format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim()))
}

/// The container's config (<https://github.com/opencontainers/runtime-spec/blob/main/config.md>).
fn config(port: u16) -> serde_json::Value {
    let port = port.to_string();
    // `nc` listens and, when a client comes, becomes `httpd`, which answers on its standard output and ends. Where no client
    // comes, it gives up after 10 s, so that a harness that was killed leaves nothing behind.
    let responder =
        ["/bin/busybox", "nc", "-w", "10", "-l", "-p", &port, "-e", "/bin/busybox", "httpd", "-i", "-h", "/www"];
    let mut linux =
        json!({ "namespaces": [{ "type": "pid" }, { "type": "mount" }, { "type": "ipc" }, { "type": "uts" }] });
    let (user, group) = (rustix::process::geteuid(), rustix::process::getegid());
    if !user.is_root() {
        linux = json!({
            "namespaces": [{ "type": "user" }, { "type": "pid" }, { "type": "mount" }, { "type": "ipc" }, { "type": "uts" }],
            "uidMappings": [{ "containerID": 0, "hostID": user.as_raw(), "size": 1 }],
            "gidMappings": [{ "containerID": 0, "hostID": group.as_raw(), "size": 1 }],
        });
    }
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false,
            "user": { "uid": 0, "gid": 0 },
            "args": responder,
            "env": ["PATH=/bin"],
            "cwd": "/",
        },
        "root": { "path": "rootfs", "readonly": true },
        "mounts": [{ "destination": "/proc", "type": "proc", "source": "proc" }],
        "linux": linux,
    })
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
