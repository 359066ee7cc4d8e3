//! `minnow delete`: takes away an app, or one version of it.

use std::{
    io::{self, BufRead as _, IsTerminal as _, Write as _},
    time::Duration,
};

use clap::Args;
use minnow_control::api_types::DataChoice;
use minnow_model::{AppName, Version};
use serde::Serialize;

use crate::{
    cli::{AppArgs, JsonArg, ServerArgs},
    client::Client,
    output::{self, GREEN},
    report::{self, Failure},
};

/// Delete an app, or one of its versions
#[derive(Debug, Args)]
#[command(
    long_about = "Delete an app, or one of its versions.

An app goes with all its versions, its deployments, variables, secrets and log, and its URL answers 404 from then on. A \
version that has live traffic cannot be deleted. There is no undo, so on a terminal it asks first; elsewhere it needs --yes.

The data in the app's stores is kept aside for a while (`data.keep_deleted` of the node, 7 days by default), or destroyed with \
it. It asks what to do; with --yes, --data says it.",
    after_help = "Examples:
  minnow delete hello --version 0.1.0    one version
  minnow delete hello                    the whole app; asks first
  minnow delete hello --yes              does not ask
  minnow delete shop --yes --data keep   the data of its stores stays for a while"
)]
pub struct DeleteArgs {
    #[command(flatten)]
    app: AppArgs,
    /// Delete only this version
    #[arg(long, value_name = "VERSION")]
    version: Option<Version>,
    /// What becomes of the data in the app's stores
    #[arg(long, value_enum, value_name = "FATE", conflicts_with = "version")]
    data: Option<Fate>,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    pub json: JsonArg,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Fate {
    Keep,
    Purge,
}

#[derive(Serialize)]
struct Deleted {
    app: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    deleted: bool,
    /// Calls still use the data, which goes when they have ended.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    data_in_use: bool,
}

pub async fn run(args: DeleteArgs) -> anyhow::Result<()> {
    let app = args.app.name()?;
    let client = args.server.client()?;
    let what = match &args.version {
        Some(version) => format!("{app}@{version}"),
        None => format!("the app {app} with all its versions"),
    };
    if !args.yes && !can_ask() {
        return Err(Failure::usage(format!("deleting {what} needs --yes when nobody can be asked")).into());
    }
    let fate = match &args.version {
        Some(_) => None,
        None => fate(&client, &app, args.data, args.yes).await?,
    };
    if !args.yes && !confirmed(&what, client.server().as_str().trim_end_matches('/'))? {
        return Err(Failure::new("nothing was deleted").into());
    }
    let is_done = match &args.version {
        Some(version) => client.delete_version(&app, version).await.map(|()| true).map_err(|error| {
            error.where_missing(format!(
                "there is no {app}@{version}; `minnow versions {app}` lists those that there are"
            ))
        })?,
        None => client.delete_app(&app, fate).await.map_err(|error| {
            error.where_missing(format!("there is no app `{app}`; `minnow apps` lists those that there are"))
        })?,
    };
    if args.json.json {
        let version = args.version.map(|version| version.to_string());
        return output::json(&Deleted { app: app.to_string(), version, deleted: true, data_in_use: !is_done });
    }
    output::line(format_args!("{GREEN}deleted{GREEN:#} {what}"))?;
    if !is_done {
        report::warn("calls still use its data, which goes when they have ended; until then its name is taken");
    }
    Ok(())
}

/// Says which data the app has, and finds out what is to become of it. `None` for an app without any.
async fn fate(client: &Client, app: &AppName, given: Option<Fate>, yes: bool) -> anyhow::Result<Option<DataChoice>> {
    let stores = match client.app_usage(app).await {
        Ok(usage) => usage.stores,
        // Whoever deletes it is told so.
        Err(error) if error.status() == Some(reqwest::StatusCode::NOT_FOUND) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let stores: Vec<_> = stores.into_iter().filter(|store| store.bytes > 0).collect();
    let given = given.map(|fate| match fate {
        Fate::Keep => DataChoice::Keep,
        Fate::Purge => DataChoice::Purge,
    });
    if stores.is_empty() {
        return Ok(given);
    }
    let list = |end: &str| {
        let each = stores.iter().map(|store| format!("{} {} ({})", store.kind, store.name, output::size(store.bytes)));
        each.collect::<Vec<_>>().join(end)
    };
    match given {
        Some(given) => Ok(Some(given)),
        None if yes || !can_ask() => Err(Failure::usage(format!("the app {app} has data: {}", list(", ")))
            .help("say what becomes of it: `--data keep` keeps it aside for a while, `--data purge` destroys it now")
            .into()),
        None => {
            let kept = humantime::format_duration(Duration::from_millis(client.usage().await?.kept_ms));
            writeln!(io::stderr(), "The app {app} has data:\n  {}", list("\n  "))?;
            write!(io::stderr(), "Keep it aside for {kept}, or destroy it with the app? [keep/purge] ")?;
            match answer()?.as_str() {
                "keep" => Ok(Some(DataChoice::Keep)),
                "purge" => Ok(Some(DataChoice::Purge)),
                _ => Err(Failure::new("nothing was deleted").into()),
            }
        }
    }
}

fn can_ask() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

fn answer() -> io::Result<String> {
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    Ok(answer.trim().to_owned())
}

/// Asks on the terminal, which there is. The answer has to be the word, since a stray Enter must not delete anything.
fn confirmed(what: &str, server: &str) -> anyhow::Result<bool> {
    write!(io::stderr(), "Delete {what} from {server}? There is no undo. [yes/no] ")?;
    Ok(matches!(answer()?.as_str(), "y" | "yes"))
}
