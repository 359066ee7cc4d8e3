//! `minnow usage`: what the stores of apps take on the node's disk.

use clap::Args;
use minnow_control::api_types::AppUsage;
use minnow_model::AppName;

use crate::{
    cli::{JsonArg, ServerArgs},
    output::{self, DIM},
};

/// Show what the stores of apps take
#[derive(Debug, Args)]
#[command(
    long_about = "Show what the stores of apps take on the node's disk.

Also what is kept of deleted apps, and until when.",
    after_help = "Examples:
  minnow usage
  minnow usage --app shop
  minnow usage --json | jq '.apps[] | {app, bytes}'"
)]
pub struct UsageArgs {
    /// Only this app
    #[arg(long, value_name = "NAME")]
    app: Option<AppName>,
    #[command(flatten)]
    pub json: JsonArg,
    #[command(flatten)]
    server: ServerArgs,
}

pub async fn run(args: UsageArgs) -> anyhow::Result<()> {
    let client = args.server.client()?;
    if let Some(app) = &args.app {
        let usage = client.app_usage(app).await?;
        return if args.json.json { output::json(&usage) } else { show(&[usage]) };
    }
    let usage = client.usage().await?;
    if args.json.json {
        return output::json(&usage);
    }
    show(&usage.apps)?;
    if usage.deleted.is_empty() {
        return Ok(());
    }
    output::line("")?;
    let mut table = output::table(&["deleted app", "size", "deleted", "destroyed"]);
    for data in usage.deleted {
        let times = [data.deleted_ms, data.purged_ms].map(output::timestamp);
        let [deleted, purged] = times;
        table.add_row([data.app.to_string(), output::size(data.bytes), deleted, purged]);
    }
    output::print_table(table)
}

fn show(apps: &[AppUsage]) -> anyhow::Result<()> {
    if apps.iter().all(|app| app.stores.is_empty()) {
        return output::line(format_args!(
            "{DIM}no stores; `[kv.NAME]`, `[sql.NAME]`, `[blob.NAME]` and `[files.NAME]` in minnow.toml declare them{DIM:#}"
        ));
    }
    let mut table = output::table(&["store", "kind", "size", "note"]);
    for app in apps {
        for store in &app.stores {
            let note = match (store.declared, store.bytes) {
                (false, _) => "no live version declares it",
                (true, 0) => "never written",
                (true, _) => "",
            };
            let name = format!("{}/{}", app.app, store.name);
            table.add_row([name, store.kind.to_string(), output::size(store.bytes), note.into()]);
        }
    }
    output::print_table(table)
}
