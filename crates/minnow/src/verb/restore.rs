//! `minnow restore`: brings apps back from a backup.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use minnow_control::api_types::{RestoreQuery, RestoredApp};
use minnow_model::AppName;

use crate::{
    cli::{JsonArg, ServerArgs},
    client::file_body,
    output::{self, BOLD, DIM, GREEN},
    progress::Progress,
    report::{self, Failure},
};

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
  minnow restore shop.tar.zst --replace --json"
)]
pub struct RestoreArgs {
    /// What `minnow backup` has written
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
    let failed = || Failure::new(format!("cannot read {}", file.display()));
    let metadata = tokio::fs::metadata(&file).await.with_context(failed)?;
    if !metadata.is_file() {
        return Err(Failure::usage(format!("{} is not a file", file.display()))
            .help("name the file that `minnow backup` has written")
            .into());
    }
    let size = metadata.len();
    let progress = if json.json { Progress::Hidden } else { Progress::Shown };
    let bar = progress.uploading(size);
    let sent = bar.clone();
    let waiting = std::sync::Mutex::new(None);
    let waiting = std::sync::Arc::new(waiting);
    let begun = std::sync::Arc::clone(&waiting);
    let body = file_body(&file, move |bytes| {
        sent.inc(bytes);
        if sent.position() >= size {
            sent.finish_and_clear();
            let spinner = progress.waiting("the node checks the backup and restores");
            *begun.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(spinner);
        }
    });
    let body = body.await.with_context(failed)?;
    let restored = client.restore(&RestoreQuery { app, rename, replace }, size, body).await;
    bar.finish_and_clear();
    if let Some(spinner) = waiting.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take() {
        spinner.finish_and_clear();
    }
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
        for secret in app.unreadable_secrets {
            report::warn(format_args!("the secret {} of {} cannot be read: {}", secret.name, app.app, secret.detail));
        }
    }
    Ok(())
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
