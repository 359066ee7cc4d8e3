//! A node that is measured, and the CLI that publishes to it.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use super::{
    Setup,
    http::{Client, free_address},
    server::{Server, clean_environment, server_command},
};

/// Well above the slowest start that the benchmarks accept, so that a slow one is measured and not an error.
const START_DEADLINE: Duration = Duration::from_secs(120);
/// A node drains when it is told to stop; nothing is in flight when a benchmark does that.
const STOP_DEADLINE: Duration = Duration::from_secs(30);

/// Threads that publish. More than the node compiles at once on a small machine, so that it never waits for the next.
const PUBLISHERS: usize = 4;

/// Where a node's threads may run.
#[derive(Clone, Copy)]
pub(crate) enum Threads {
    /// On the server's core: one worker thread, since a node starts as many as it has cores. For what is measured.
    OneCore,
    /// Everywhere, for publishing, which compiles.
    AllCores,
}

/// A running node.
pub(crate) struct Node {
    pub(crate) server: Server,
    /// The data listener.
    pub(crate) http: SocketAddr,
    admin: SocketAddr,
    data_dir: PathBuf,
    /// From the start of the process until `/readyz` answered 200.
    pub(crate) ready_after: Duration,
}

impl Node {
    /// Starts a node on `data_dir` and waits until it is ready. Bare hosts get `default_app`.
    pub(crate) fn start(setup: &Setup, data_dir: &Path, threads: Threads, default_app: Option<&str>) -> Result<Self> {
        Self::start_with("", setup, data_dir, threads, default_app)
    }

    /// [`Node::start`] with a configuration, the text of its file.
    pub(crate) fn start_with(
        configuration: &str,
        setup: &Setup,
        data_dir: &Path,
        threads: Threads,
        default_app: Option<&str>,
    ) -> Result<Self> {
        let (http, admin) = (free_address()?, free_address()?);
        fs::create_dir_all(data_dir)?;
        let mut command = server_command(&setup.minnow);
        command.arg("node").arg("--data-dir").arg(data_dir);
        if !configuration.is_empty() {
            let file = data_dir.with_extension("toml");
            fs::write(&file, configuration)?;
            command.arg("--config").arg(file);
        }
        command.args(["--http", &http.to_string(), "--admin", &admin.to_string()]);
        if let Some(app) = default_app {
            command.args(["--default-app", app]);
        }
        let core = match threads {
            Threads::OneCore => Some(setup.cores.server),
            Threads::AllCores => None,
        };
        let mut server = Server::start("the node", &mut command, core, &data_dir.with_extension("log"))?;
        let is_ready = || get(admin, "/readyz", "").is_ok_and(|(status, _)| status == 200);
        let ready_after = server.wait_until(START_DEADLINE, is_ready)?;
        Ok(Self { server, http, admin, data_dir: data_dir.into(), ready_after })
    }

    /// Publishes and deploys an app, as a developer does it. May be called from several threads.
    pub(crate) fn publish(&self, setup: &Setup, app_dir: &Path) -> Result<()> {
        let token = self.token()?;
        for verb in ["publish", "deploy"] {
            let mut command = Command::new(&setup.minnow);
            clean_environment(&mut command);
            command.env("MINNOW_SERVER", format!("http://{}", self.admin)).env("MINNOW_TOKEN", &token);
            command.args([verb, "0.1.0", "--app-dir"]).arg(app_dir).stdin(Stdio::null());
            let output = command.output().with_context(|| format!("cannot start {}", setup.minnow.display()))?;
            let errors = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.success(), "`minnow {verb}` of {} failed:\n{errors}", app_dir.display());
        }
        Ok(())
    }

    /// Publishes and deploys `count` apps, some at once. `write` makes the folder of the app with the number that it is given;
    /// it is removed when the app is deployed.
    pub(crate) fn publish_all(
        &self,
        setup: &Setup,
        name: &str,
        count: u32,
        write: impl Fn(u32) -> Result<PathBuf> + Sync,
    ) -> Result<()> {
        let next = AtomicU32::new(0);
        let progress = setup.progress(name, count as usize);
        let publish = || -> Result<()> {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return Ok(());
                }
                let folder = write(number)?;
                self.publish(setup, &folder)?;
                fs::remove_dir_all(folder)?;
                progress.inc(1);
            }
        };
        thread::scope(|scope| {
            let publishers: Vec<_> = (0..PUBLISHERS)
                .map(|_| {
                    scope.spawn(|| {
                        // The others stop, too.
                        publish().inspect_err(|_| next.store(count, Ordering::Relaxed))
                    })
                })
                .collect();
            publishers.into_iter().try_for_each(|publisher| match publisher.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            })
        })?;
        progress.finish_and_clear();
        Ok(())
    }

    /// The text of `/metrics`.
    pub(crate) fn metrics(&self) -> Result<String> {
        let token = self.token()?;
        let (status, body) = get(self.admin, "/metrics", &format!("authorization: Bearer {token}\r\n"))?;
        ensure!(status == 200, "/metrics answers {status}: {body}");
        Ok(body)
    }

    /// `POST` to the control API, with the administrator's token: the status and the body of the answer.
    pub(crate) fn post_api(&self, path: &str, body: &str) -> Result<(u16, String)> {
        let headers = format!("authorization: Bearer {}\r\ncontent-type: application/json\r\n", self.token()?);
        let answer = Client::connect(self.admin)?.post_with(&self.admin.to_string(), path, &headers, body)?;
        Ok((answer.status, String::from_utf8_lossy(&answer.body).into_owned()))
    }

    /// Stops the node as a service manager would, so that it can be started again.
    pub(crate) fn stop(self) -> Result<()> {
        self.server.stop(STOP_DEADLINE)
    }

    fn token(&self) -> Result<String> {
        let path = self.data_dir.join("admin.token");
        let token = fs::read_to_string(&path).with_context(|| format!("the node wrote no {}", path.display()))?;
        Ok(token.trim().into())
    }
}

fn get(address: SocketAddr, path: &str, headers: &str) -> Result<(u16, String)> {
    let answer = Client::connect(address)?.get(&address.to_string(), path, headers)?;
    Ok((answer.status, String::from_utf8_lossy(&answer.body).into_owned()))
}
