//! `minnow publish`: builds an app and makes it an immutable version on a node.

use std::path::{Path, PathBuf};

use clap::Args;
use minnow_model::Version;

use crate::{
    cli::{JsonArg, ServerArgs},
    credentials,
    output::{self, BOLD, DIM, GREEN},
    progress::Progress,
    project::Project,
    recipe::{self, Only, bundler},
    report::Failure,
    shell::Group,
    upload,
};

/// Build an app and publish it as an immutable version
#[derive(Debug, Args)]
#[command(
    long_about = "Build an app and publish it as an immutable version.

Runs the build commands, bundles JavaScript, packs code and static files, and uploads what the node does not have yet. The \
node checks and compiles the code; nothing gets traffic until `deploy`. The same content again is no error; other content under the same \
version is refused. Static files whose name starts with a dot are left out, except `.well-known`.",
    after_help = "Examples:
  minnow publish                       the version in minnow.toml
  minnow publish 0.2.0                 another version
  minnow publish --app-dir shop --json
  minnow publish 0.2.0 && minnow deploy 0.2.0"
)]
pub struct PublishArgs {
    /// The version, as semver. Default: `version` in minnow.toml
    version: Option<Version>,
    /// The folder with the app's minnow.toml
    #[arg(long, value_name = "DIR", default_value = ".", value_hint = clap::ValueHint::DirPath)]
    app_dir: PathBuf,
    #[command(flatten)]
    pub json: JsonArg,
    #[command(flatten)]
    server: ServerArgs,
}

pub async fn run(args: PublishArgs) -> anyhow::Result<()> {
    let project = Project::load(&args.app_dir)?;
    let version = args.version.or_else(|| project.manifest().version.clone()).ok_or_else(|| {
        Failure::usage("no version was given and minnow.toml has none")
            .help("run `minnow publish 0.1.0`, or add `version = \"0.1.0\"` to minnow.toml")
    })?;
    let client = args.server.client()?;
    // A wrong token or address should not cost a build first.
    client.node().await?;
    recipe::run(&project, &Only::All, Group::Ours).await?;
    bundler::all(&project).await?;
    let progress = if args.json.json { Progress::Hidden } else { Progress::Shown };
    let bundle = project.pack(&version, progress)?;
    let outcome = upload::publish(&client, &bundle, progress).await?;
    if args.json.json {
        return output::json(&outcome.published);
    }
    let info = &outcome.published.version;
    let (app, version, server) = (&info.app, &info.version, credentials::key(client.server()));
    if outcome.published.created {
        let uploaded = output::size(outcome.uploaded_bytes);
        let size = output::size(info.size);
        output::line(format_args!(
            "{GREEN}published{GREEN:#} {BOLD}{app}@{version}{BOLD:#}  {size}, {uploaded} uploaded to {server}"
        ))?;
    } else {
        output::line(format_args!(
            "{BOLD}{app}@{version}{BOLD:#} was published to {server} before with the same content"
        ))?;
    }
    output::line(format_args!("{}", info.digest))?;
    if info.weight == 0 {
        let folder = args.app_dir.display();
        let elsewhere = if args.app_dir == Path::new(".") { String::new() } else { format!(" --app-dir {folder}") };
        output::line(format_args!("{DIM}next: minnow deploy {version}{elsewhere}{DIM:#}"))?;
    }
    Ok(())
}
