//! `minnow delete`: takes away an app, or one version of it.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

use clap::Args;
use minnow_model::Version;
use serde::Serialize;

use crate::{
    cli::{AppArgs, JsonArg, ServerArgs},
    output::{self, GREEN},
    report::Failure,
};

/// Delete an app, or one of its versions
#[derive(Debug, Args)]
#[command(
    long_about = "Delete an app, or one of its versions.

An app goes with all its versions, its deployments and its log, and its URL answers 404 from then on. A version that has \
live traffic cannot be deleted. There is no undo, so on a terminal it asks first; elsewhere it needs --yes.",
    after_help = "Examples:
  minnow delete hello --version 0.1.0    one version
  minnow delete hello                    the whole app; asks first
  minnow delete hello --yes              does not ask"
)]
pub struct DeleteArgs {
    #[command(flatten)]
    app: AppArgs,
    /// Delete only this version
    #[arg(long, value_name = "VERSION")]
    version: Option<Version>,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    pub json: JsonArg,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Serialize)]
struct Deleted {
    app: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    deleted: bool,
}

pub async fn run(args: DeleteArgs) -> anyhow::Result<()> {
    let app = args.app.name()?;
    let client = args.server.client()?;
    let what = match &args.version {
        Some(version) => format!("{app}@{version}"),
        None => format!("the app {app} with all its versions"),
    };
    if !args.yes && !confirmed(&what, client.server().as_str().trim_end_matches('/'))? {
        return Err(Failure::new("nothing was deleted").into());
    }
    match &args.version {
        Some(version) => client.delete_version(&app, version).await.map_err(|error| {
            error.where_missing(format!(
                "there is no {app}@{version}; `minnow versions {app}` lists those that there are"
            ))
        })?,
        None => client.delete_app(&app).await.map_err(|error| {
            error.where_missing(format!("there is no app `{app}`; `minnow apps` lists those that there are"))
        })?,
    }
    if args.json.json {
        let version = args.version.map(|version| version.to_string());
        return output::json(&Deleted { app: app.to_string(), version, deleted: true });
    }
    output::line(format_args!("{GREEN}deleted{GREEN:#} {what}"))
}

/// Asks on the terminal. The answer has to be the word, since a stray Enter must not delete anything.
fn confirmed(what: &str, server: &str) -> anyhow::Result<bool> {
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Err(Failure::usage(format!("deleting {what} needs --yes when nobody can be asked")).into());
    }
    write!(io::stderr(), "Delete {what} from {server}? There is no undo. [yes/no] ")?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "yes"))
}
