//! `minnow apps`: what a node serves.

use clap::Args;

use super::deploy::shares;
use crate::{
    cli::{JsonArg, ServerArgs},
    output::{self, DIM},
};

/// List a node's apps
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  minnow apps
  minnow apps --json | jq -r '.[].url'")]
pub struct AppsArgs {
    #[command(flatten)]
    pub json: JsonArg,
    #[command(flatten)]
    server: ServerArgs,
}

pub async fn run(args: AppsArgs) -> anyhow::Result<()> {
    let apps = args.server.client()?.apps().await?;
    if args.json.json {
        return output::json(&apps);
    }
    if apps.is_empty() {
        return output::line(format_args!("{DIM}no apps yet; `minnow publish` in an app's folder makes one{DIM:#}"));
    }
    let now = output::now_ms();
    let mut table = output::table(&["app", "live", "since", "versions", "url"]);
    for app in apps {
        let (live, since) = match &app.deployment {
            Some(deployment) => (shares(deployment), output::age(deployment.time_ms, now)),
            None => ("–".into(), "–".into()),
        };
        table.add_row([app.app.to_string(), live, since, app.versions.to_string(), app.url]);
    }
    output::print_table(table)
}
