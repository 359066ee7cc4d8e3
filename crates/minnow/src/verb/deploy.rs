//! `minnow deploy`: sends live traffic to a version.

use clap::Args;
use minnow_control::api_types::DeployRequest;
use minnow_model::{AppName, Deployment, Version};

use crate::{
    cli::{AppFlags, JsonArg, ServerArgs},
    client::Client,
    output::{self, BOLD, DIM, GREEN},
};

/// Send live traffic to a published version
#[derive(Debug, Args)]
#[command(
    long_about = "Send live traffic to a published version.

All traffic, or with --weight a percentage of it (a canary) while the rest stays where it is. Requests that are running \
finish on the version on which they started. `minnow rollback` undoes it.

Without VERSION: the `version` in minnow.toml, or with --app the version that was published last.",
    after_help = "Examples:
  minnow deploy                        the version in minnow.toml
  minnow deploy 0.2.0 --weight 10      one request in ten
  minnow deploy 0.2.0                  all of them
  minnow deploy 0.2.0 --app hello      no minnow.toml needed"
)]
pub struct DeployArgs {
    /// The version, as semver
    version: Option<Version>,
    #[command(flatten)]
    app: AppFlags,
    /// Percent of the traffic, 1 to 100 [default: 100]
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(1..=100))]
    weight: Option<u8>,
    #[command(flatten)]
    pub json: JsonArg,
    #[command(flatten)]
    server: ServerArgs,
}

pub async fn run(args: DeployArgs) -> anyhow::Result<()> {
    let (app, version) = if args.app.is_named() {
        (args.app.name()?, args.version)
    } else {
        let manifest = args.app.project()?.manifest().clone();
        (manifest.name, args.version.or(manifest.version))
    };
    let client = args.server.client()?;
    let deployment = client.deploy(&app, &DeployRequest { version, weight: args.weight }).await?;
    if args.json.json { output::json(&deployment) } else { show(&client, &app, &deployment, "deployed").await }
}

/// Prints what is live now and where.
pub async fn show(client: &Client, app: &AppName, deployment: &Deployment, done: &str) -> anyhow::Result<()> {
    output::line(format_args!(
        "{GREEN}{done}{GREEN:#} {BOLD}{app}{BOLD:#}  {}  {DIM}revision {}{DIM:#}",
        shares(deployment),
        deployment.revision
    ))?;
    // It is done; not being told the address is no failure.
    match client.app(app).await {
        Ok(status) => output::line(status.app.url),
        Err(_) => Ok(()),
    }
}

/// `0.2.0`, or `0.1.0 90 %, 0.2.0 10 %`.
pub fn shares(deployment: &Deployment) -> String {
    match deployment.shares.as_slice() {
        [share] => share.version.to_string(),
        shares => {
            let each: Vec<String> =
                shares.iter().map(|share| format!("{} {} %", share.version, share.weight)).collect();
            each.join(", ")
        }
    }
}
