//! `minnow build`: runs an app's build commands and checks what comes out.

use std::path::PathBuf;

use clap::Args;
use minnow_model::Version;

use crate::{
    output::{self, BOLD},
    progress::Progress,
    project::Project,
    recipe::{self, Only, bundler},
    shell::Group,
};

/// Run an app's build commands, bundle its JavaScript and check its files
#[derive(Debug, Args)]
#[command(
    long_about = "Run an app's build commands, bundle its JavaScript and check its files.

Runs the `build` command of each function in the manifest's folder with `sh -c` (one that several functions share runs \
once). Then esbuild makes one module of each function in JavaScript or TypeScript and of all that it imports, npm packages \
included, in DIR/.minnow/.build; types are removed and not checked (`npx -p typescript tsc --noEmit` does that). At last every \
file that the manifest names has to be there. A function with `wasm` and without `build` uses its file as it is. `dev` and \
`publish` do this too; no node is needed.",
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
    bundler::all(&project).await?;
    let version = project.manifest().version.clone().unwrap_or(Version::new(0, 0, 0));
    let bundle = project.pack(&version, Progress::Shown)?;
    for (name, function) in &project.manifest().functions {
        let digest = bundle.config.functions.get(name).map(|function| function.code.digest());
        let size = bundle.blobs.iter().find(|blob| Some(blob.digest) == digest).map_or(0, |blob| blob.size);
        let (kind, file) = (function.code.key(), function.code.path());
        output::line(format_args!("{BOLD}{name}{BOLD:#}  {kind}  {file}  {}", output::size(size)))?;
    }
    if !bundle.config.files.is_empty() {
        let bytes: u64 = bundle.config.files.values().map(|file| file.size).sum();
        output::line(format_args!("{} static files  {}", bundle.config.files.len(), output::size(bytes)))?;
    }
    Ok(())
}
