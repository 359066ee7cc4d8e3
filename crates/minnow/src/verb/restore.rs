//! `minnow restore`: brings apps back from a backup.

use std::{
    io::{self, IsTerminal as _},
    path::{Path, PathBuf},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::Context as _;
use clap::Args;
use futures::StreamExt as _;
use indicatif::ProgressBar;
use minnow_control::api_types::{RestoreQuery, RestoredApp};
use minnow_model::AppName;
use tokio::io::AsyncRead;
use tokio_util::io::ReaderStream;

use crate::{
    cli::{JsonArg, ServerArgs},
    output::{self, BOLD, DIM, GREEN},
    progress::Progress,
    report::{self, Failure},
};

/// Bytes that are read and sent at once.
const PIECE_BYTES: usize = 64 * 1024;

/// Restore apps from a backup
#[derive(Debug, Args)]
#[command(
    long_about = "Restore apps from a backup, on the node that made it or on another.

The node reads all of the file and checks it before anything changes: each entry against its sha256, each database for damage, each \
blob against its etag. Then each app is there in one step, and what was live serves again without a publish.

Where an app of the name is there already, nothing happens, unless --replace says that it is deleted first; its data is kept aside for \
a while, as that of each app that is deleted. Secrets can be read where the key file is that of the node that they come from; those \
that cannot are told.",
    after_help = "Examples:
  minnow restore shop.tar.zst
  minnow restore all.tar.zst --app shop              one app of several
  minnow restore shop.tar.zst --as shop-yesterday    beside the one that is there
  minnow restore shop.tar.zst --replace --json
  ssh vault 'cat shop.tar.zst' | minnow restore -"
)]
pub struct RestoreArgs {
    /// What `minnow backup` has written, or - for stdin
    #[arg(value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    file: PathBuf,
    /// Only this app
    #[arg(long, value_name = "NAME")]
    app: Option<AppName>,
    /// The name that the app gets
    #[arg(long = "as", value_name = "NEW")]
    rename: Option<AppName>,
    /// Delete apps that have the name first; their data is kept aside for a while
    #[arg(long)]
    replace: bool,
    #[command(flatten)]
    pub json: JsonArg,
    #[command(flatten)]
    server: ServerArgs,
}

pub async fn run(args: RestoreArgs) -> anyhow::Result<()> {
    let RestoreArgs { file, app, rename, replace, json, server } = args;
    let client = server.client()?;
    let (content, size) = open(&file).await?;
    let progress = if json.json { Progress::Hidden } else { Progress::Shown };
    let shown = Arc::new(Sending { progress, bar: progress.moving("uploading", size), waiting: Mutex::default() });
    let (moved, ended) = (Arc::clone(&shown), Arc::clone(&shown));
    let pieces = ReaderStream::with_capacity(content, PIECE_BYTES).inspect(move |piece| {
        if let Ok(piece) = piece {
            moved.bar.inc(piece.len() as u64);
            if size.is_some_and(|size| moved.bar.position() >= size) {
                moved.ended();
            }
        }
    });
    // Of what has no size, the end is after the last piece.
    let pieces = pieces.chain(futures::stream::poll_fn(move |_| {
        ended.ended();
        std::task::Poll::Ready(None)
    }));
    let body = reqwest::Body::wrap_stream(pieces);
    let restored = client.restore(&RestoreQuery { app, rename, replace }, size, body).await;
    shown.clear();
    let restored = restored?;
    if json.json {
        return output::json(&restored);
    }
    for app in &restored.apps {
        show(app)?;
    }
    let made = output::timestamp(restored.made_ms);
    output::line(format_args!("{DIM}from a backup of {made}, minnow {}{DIM:#}", restored.minnow))?;
    for app in restored.apps {
        report::left_out(&app.app, &app.left_out);
        for missing in &app.missing_shares {
            report::warn(format_args!("{}: {}", app.app, output::printable(missing)));
        }
        for secret in app.unreadable_secrets {
            report::warn(format_args!("the secret {} of {} cannot be read: {}", secret.name, app.app, secret.detail));
        }
    }
    Ok(())
}

/// The backup, and its bytes where they are known.
async fn open(file: &Path) -> anyhow::Result<(Pin<Box<dyn AsyncRead + Send>>, Option<u64>)> {
    if file == Path::new("-") {
        if io::stdin().is_terminal() {
            return Err(Failure::usage("a backup is not typed on a terminal")
                .help("name its file, or pipe it in")
                .into());
        }
        return Ok((Box::pin(tokio::io::stdin()), None));
    }
    let failed = || Failure::new(format!("cannot read {}", file.display()));
    let content = tokio::fs::File::open(file).await.with_context(failed)?;
    let metadata = content.metadata().await.with_context(failed)?;
    if !metadata.is_file() {
        return Err(Failure::usage(format!("{} is not a file", file.display()))
            .help("name the file that `minnow backup` has written, or - for stdin")
            .into());
    }
    Ok((Box::pin(content), Some(metadata.len())))
}

/// What a person sees of a backup on its way: how much of it is sent, and then that the node works.
struct Sending {
    progress: Progress,
    bar: ProgressBar,
    waiting: Mutex<Option<ProgressBar>>,
}

impl Sending {
    /// All of it is sent.
    fn ended(&self) {
        self.bar.finish_and_clear();
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.get_or_insert_with(|| self.progress.waiting("the node checks the backup and restores"));
    }

    fn clear(&self) {
        self.bar.finish_and_clear();
        if let Some(waiting) = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).take() {
            waiting.finish_and_clear();
        }
    }
}

fn show(app: &RestoredApp) -> anyhow::Result<()> {
    let live = match &app.deployment {
        None => "nothing is live".to_owned(),
        Some(live) => {
            let shares: Vec<_> =
                live.shares.iter().map(|share| format!("{} {} %", share.version, share.weight)).collect();
            format!("live: {}", shares.join(", "))
        }
    };
    let versions = match app.versions {
        1 => "1 version".to_owned(),
        versions => format!("{versions} versions"),
    };
    output::line(format_args!("{GREEN}restored{GREEN:#} {BOLD}{}{BOLD:#}  {versions}, {live}", app.app))?;
    for store in &app.stores {
        output::line(format_args!("  {} {}  {}", store.kind, store.name, output::size(store.bytes)))?;
    }
    Ok(())
}
