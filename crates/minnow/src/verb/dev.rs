//! `minnow dev`: runs an app on this machine while it is written.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use clap::Args;
use minnow_model::{LogLine, StoreName, Version};
use minnow_node::{Config, Node, StartError};
use minnow_store::DataDirError;
use reqwest::Url;
use tokio::sync::mpsc;

use super::logs::{self, Time};
use crate::{
    cli::{DEFAULT_ADMIN, DEFAULT_HTTP},
    client::Client,
    dev::{
        banner::{Place, banner},
        change::{Inputs, Interest},
        ports,
        secrets::Secrets,
        seed::Seed,
        session::{Applied, Scripts, Session},
        watch::Watch,
    },
    node_log,
    output::{self, BOLD, GREEN},
    project::{self, Project},
    recipe::{self, Only},
    report::{self, Failure, Style},
    shell::Group,
    signals::Signals,
};

/// How long running requests may take to end after Ctrl-C. Short: the person who pressed it is waiting.
const DRAIN: Duration = Duration::from_secs(2);
/// How many log lines may wait for the terminal. Beyond it lines are only in the stored log; a function that prints
/// without end must not fill the memory.
const LOG_LINES: usize = 4096;

/// Run an app on this machine and follow its changes
#[derive(Debug, Args)]
#[command(
    long_about = "Run an app on this machine and follow its changes.

Runs the same node as production, with its data in DIR/.minnow. The app is built, published and deployed as a version like \
0.1.0-dev.3. A change to minnow.toml, to code, to a static file, to a module that a function in JavaScript imports, or to a \
file that a function's `watch` names is live once it is built and published, at once where nothing is built; only functions \
whose files changed are built and bundled again. When that fails, the version before keeps serving. The app answers every \
host name, so bare localhost works too.

Secrets that functions are granted come from lines `NAME=VALUE` in DIR/.dev.vars, which belongs into no repository. The app also \
starts without them, or without a store of another app: the log says what is missing, and a function that lacks a secret \
answers 503 until it is set.

Functions with `wasm` and without `build` use their file as it is.",
    after_help = "Examples:
  minnow dev                          the app in this folder
  minnow dev examples/tour
  minnow dev --http 0.0.0.0:8080      reachable from other machines
  minnow dev --seed seed.sql          with some rows to begin with
  minnow dev --secrets ~/shop.vars    with secrets from elsewhere"
)]
pub struct DevArgs {
    /// The folder with the app's minnow.toml
    #[arg(value_name = "DIR", default_value = ".", value_hint = clap::ValueHint::DirPath)]
    dir: PathBuf,
    /// Where the app answers [default: 127.0.0.1:7700, or the next free port]
    #[arg(long, value_name = "ADDR")]
    http: Option<SocketAddr>,
    /// Where the control API answers [default: 127.0.0.1:7701, or the next free port]
    #[arg(long, value_name = "ADDR")]
    admin: Option<SocketAddr>,
    /// SQL to fill a database with, after its migrations. Once it has succeeded it is not run again: what is in DIR/.minnow stays
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    seed: Option<PathBuf>,
    /// The database that it goes into. Default: the app's only one
    #[arg(long, value_name = "NAME", requires = "seed")]
    seed_db: Option<StoreName>,
    /// The app's secrets, a line `NAME=VALUE` each [default: DIR/.dev.vars, if it is there]
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    secrets: Option<PathBuf>,
}

pub fn run(args: DevArgs) -> anyhow::Result<()> {
    // That a folder which was removed cannot be unwatched any more is no news.
    node_log::start("warn,notify=error")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start")?;
    runtime.block_on(serve(args))
}

async fn serve(args: DevArgs) -> anyhow::Result<()> {
    let mut signals = Signals::new().and_then(Signals::and_hangup).context("cannot handle signals")?;
    let project = Project::load(&args.dir)?;
    let seed = args.seed.as_deref().map(|file| Seed::of(&project, file, args.seed_db.as_ref())).transpose()?;
    let secrets = Secrets::of(&project.dir, args.secrets.as_deref())?;
    // Before the first build, which may take minutes: what is saved meanwhile is acted on after it.
    let watch = Watch::start(&project.dir, &Interest::of(&project, &Inputs::new())?)?;
    let build = async {
        recipe::run(&project, &Only::All, Group::Own).await?;
        Scripts::of(&project).await
    };
    let scripts = tokio::select! {
        scripts = build => scripts?,
        _ = signals.next() => return Ok(()),
    };
    let http = listen(args.http, DEFAULT_HTTP, "http")?;
    let admin = listen(args.admin, DEFAULT_ADMIN, "admin")?;
    let data_dir = project::data_dir(&project.dir).context("cannot make the folder .minnow")?;
    let (echo, lines) = mpsc::channel(LOG_LINES);
    let mut config = Config::new(data_dir.clone(), http, admin);
    config.default_app = Some(project.manifest().name.clone());
    config.log_echo = Some(echo);
    // What is missing is set while the app runs.
    config.lenient = true;
    let node = Node::start(config).await.map_err(cannot_start)?;
    let begin = Begin { project, scripts, secrets, seed };
    let followed = follow(&node, begin, watch, &args, &data_dir, lines, &mut signals).await;
    node.shutdown(DRAIN).await;
    followed
}

/// Why the node of `dev` does not start. It has no `--data-dir`, so a folder that is in use is told in its own words.
fn cannot_start(error: StartError) -> anyhow::Error {
    let StartError::DataDir(DataDirError::InUse { pid, .. }) = &error else {
        return anyhow::Error::from(error).context("cannot start the node");
    };
    let (which, kill) = match pid {
        Some(pid) => (format!(" (pid {pid})"), format!(", or `kill {pid}`")),
        None => Default::default(),
    };
    Failure::new(format!("another `minnow dev`{which} runs this app"))
        .help(format!("stop that one first: Ctrl-C in its terminal{kill}"))
        .into()
}

/// What a session begins with.
struct Begin {
    project: Project,
    scripts: Scripts,
    secrets: Secrets,
    seed: Option<Seed>,
}

impl Begin {
    /// Publishes and deploys the app, and fills its database, whose tables that has made.
    async fn session(self, client: Client, data_dir: &Path) -> anyhow::Result<(Session, Version)> {
        let Self { project, scripts, secrets, seed } = self;
        let Some(seed) = seed else { return Session::start(client, project, scripts, secrets).await };
        let plan = seed.plan(&client, data_dir).await?;
        let started = Session::start(client.clone(), project, scripts, secrets).await?;
        seed.run(plan, &client, data_dir).await?;
        Ok(started)
    }
}

/// Serves until a signal comes.
async fn follow(
    node: &Node,
    begin: Begin,
    mut watch: Watch,
    args: &DevArgs,
    data_dir: &Path,
    lines: mpsc::Receiver<LogLine>,
    signals: &mut Signals,
) -> anyhow::Result<()> {
    let server = Url::parse(&format!("http://{}", node.admin_addr()))?;
    let client = Client::new(server, node.admin_token().map(str::to_owned))?;
    let (mut session, mut version) = tokio::select! {
        started = begin.session(client, data_dir) => started?,
        _ = signals.next() => return Ok(()),
    };
    // Folders that the first build made.
    watch.update(session.interest());
    let place = Place { http: node.http_addr(), admin: node.admin_addr(), app_dir: &args.dir, data_dir };
    output::line(banner(session.project().manifest(), &version, &place))?;
    let printing = tokio::spawn(print_log(lines));
    let mut has_failed = false;
    loop {
        let changes = tokio::select! {
            changes = watch.next() => changes,
            _ = signals.next() => break,
        };
        let applied = tokio::select! {
            applied = session.apply(&changes) => applied,
            _ = signals.next() => break,
        };
        let name = &session.project().manifest().name;
        match applied {
            Ok(Applied::Live(now)) => {
                (version, has_failed) = (now, false);
                output::line(format_args!("{GREEN}live{GREEN:#} {BOLD}{name}@{version}{BOLD:#}"))?;
            }
            // Whoever undoes a mistake waits for a word.
            Ok(Applied::AsLive) if has_failed => {
                has_failed = false;
                output::line(format_args!("{GREEN}live{GREEN:#} {BOLD}{name}@{version}{BOLD:#} as before"))?;
            }
            Ok(Applied::AsLive | Applied::Nothing) => {}
            Err(error) => {
                has_failed = true;
                report::print(&error, Style::choose(false));
                report::warn("the version before keeps serving");
            }
        }
        watch.update(session.interest());
    }
    printing.abort();
    Ok(())
}

/// Prints what functions write. Stops when stdout is gone; the node goes on.
async fn print_log(mut lines: mpsc::Receiver<LogLine>) {
    while let Some(line) = lines.recv().await {
        if output::line(logs::human(&line, Time::Clock)).is_err() {
            return;
        }
    }
}

/// The address that was asked for, or the default or a free one beside it.
fn listen(given: Option<SocketAddr>, default: &str, name: &str) -> anyhow::Result<SocketAddr> {
    if let Some(address) = given {
        return Ok(address);
    }
    let wanted: SocketAddr = default.parse()?;
    let found = ports::free(wanted)?;
    if found != wanted {
        report::warn(format_args!("{wanted} is taken; --{name} is {found}"));
    }
    Ok(found)
}
