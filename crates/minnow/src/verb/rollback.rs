//! `minnow rollback`: returns to the deployment before.

use clap::Args;

use super::deploy;
use crate::{
    cli::{AppArgs, JsonArg, ServerArgs},
    output,
};

/// Return to the deployment before the live one
#[derive(Debug, Args)]
#[command(
    long_about = "Return to the deployment before the live one.

The version before gets its traffic back, with the weights that it had. Nothing is built or uploaded: it takes as long as \
one request. The deployment that was undone stays in the history that `minnow status` shows.",
    after_help = "Examples:
  minnow rollback              the app in this folder
  minnow rollback hello        an app by its name"
)]
pub struct RollbackArgs {
    #[command(flatten)]
    app: AppArgs,
    #[command(flatten)]
    pub json: JsonArg,
    #[command(flatten)]
    server: ServerArgs,
}

pub async fn run(args: RollbackArgs) -> anyhow::Result<()> {
    let app = args.app.name()?;
    let client = args.server.client()?;
    let deployment = client.rollback(&app).await?;
    if args.json.json {
        output::json(&deployment)
    } else {
        deploy::show(&client, &app, &deployment, "rolled back").await
    }
}
