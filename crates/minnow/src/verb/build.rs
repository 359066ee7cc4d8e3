//! `minnow build`: runs an app's build commands and checks what comes out.

use std::path::PathBuf;

use clap::Args;
use minnow_model::Version;

use crate::{
    output::{self, BOLD},
    progress::Progress,
    project::Project,
    recipe::{self, Only},
    shell::Group,
};

/// Run an app's build commands and check its files
#[derive(Debug, Args)]
#[command(
    long_about = "Run an app's build commands and check its files.

Runs the `build` command of each function in the manifest's folder with `sh -c` (one that several functions share runs \
once), then checks that every file that the manifest names is there. A function without `build` uses its file as it is. \
`dev` and `publish` do this too; no node is needed.",
    after_help = "Examples:
  minnow build                 the app in this folder
  minnow build examples/tour   the app in another one"
)]
pub struct BuildArgs {
    /// The folder with the app's minnow.toml
    #[arg(value_name = "DIR", default_value = ".", value_hint = clap::ValueHint::DirPath)]
    dir: PathBuf,
}

pub async fn run(args: BuildArgs) -> anyhow::Result<()> {
    let project = Project::load(&args.dir)?;
    recipe::run(&project, &Only::All, Group::Ours).await?;
    let version = project.manifest().version.clone().unwrap_or(Version::new(0, 0, 0));
    let bundle = project.pack(&version, Progress::Shown)?;
    for (name, function) in &bundle.config.functions {
        let size = bundle.blobs.iter().find(|blob| blob.digest == function.wasm).map_or(0, |blob| blob.size);
        let file = project.manifest().functions.get(name).map_or("", |function| function.wasm.as_str());
        output::line(format_args!("{BOLD}{name}{BOLD:#}  {file}  {}", output::size(size)))?;
    }
    if !bundle.config.files.is_empty() {
        let bytes: u64 = bundle.config.files.values().map(|file| file.size).sum();
        output::line(format_args!("{} static files  {}", bundle.config.files.len(), output::size(bytes)))?;
    }
    Ok(())
}
