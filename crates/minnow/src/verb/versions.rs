//! `minnow versions`: what was published.

use clap::Args;

use crate::{
    cli::{AppArgs, JsonArg, ServerArgs},
    output::{self, DIM},
};

/// List an app's published versions
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  minnow versions              the app in this folder
  minnow versions hello        an app by its name
  minnow versions hello --json")]
pub struct VersionsArgs {
    #[command(flatten)]
    app: AppArgs,
    #[command(flatten)]
    pub json: JsonArg,
    #[command(flatten)]
    server: ServerArgs,
}

pub async fn run(args: VersionsArgs) -> anyhow::Result<()> {
    let app = args.app.name()?;
    let versions = args.server.client()?.versions(&app).await?;
    if args.json.json {
        return output::json(&versions);
    }
    if versions.is_empty() {
        return output::line(format_args!("{DIM}{app} has no versions{DIM:#}"));
    }
    let now = output::now_ms();
    let mut table = output::table(&["version", "live", "published", "size", "digest"]);
    for info in versions {
        let live = if info.weight == 0 { "–".into() } else { format!("{} %", info.weight) };
        let published = output::ago(info.published_ms, now);
        table.add_row([
            info.version.to_string(),
            live,
            published,
            output::size(info.size),
            // Twelve digits, as git and Docker show them; --json has them all.
            info.digest.hex().chars().take(12).collect(),
        ]);
    }
    output::print_table(table)
}
