//! `minnow setup`: installs what a kind of function needs beside `minnow` itself.

use clap::{Args, ValueEnum};
use minnow_runtime::js::tools::{DENO_VERSION, ESBUILD_VERSION, Origin, Tool};
use serde::Serialize;

use crate::{
    cli::JsonArg,
    output::{self, BOLD, DIM},
    recipe::tools,
};

/// Install what JavaScript functions need
#[derive(Debug, Args)]
#[command(
    long_about = "Install what JavaScript functions need, and show where it is.

Deno runs them and esbuild bundles them, each in one release. A program of that release on PATH is used. Else npm, which \
comes with Node.js, installs it into $XDG_CACHE_HOME/minnow/tools (~/.cache without that variable), or into \
MINNOW_TOOLS_DIR. `dev`, `build`, `publish` and a node do the same on first need, so this only saves the wait: when a machine or an \
image is prepared, and before it loses its network. Each user has a folder of their own: run it as the user of the node.",
    after_help = "Examples:
  minnow setup js
  minnow setup js --json | jq -r '.[].path'
  sudo -u minnow MINNOW_TOOLS_DIR=/var/lib/minnow/tools minnow setup js"
)]
pub struct SetupArgs {
    /// What to install it for
    #[arg(value_name = "WHAT", value_enum)]
    what: What,
    #[command(flatten)]
    pub json: JsonArg,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    /// JavaScript and TypeScript
    Js,
}

/// A program in `--json`.
#[derive(Serialize)]
struct Shown {
    tool: &'static str,
    version: &'static str,
    path: String,
    /// `path`, `folder` or `installed`.
    from: &'static str,
}

pub async fn run(args: SetupArgs) -> anyhow::Result<()> {
    let What::Js = args.what;
    let mut all = Vec::new();
    for tool in Tool::ALL {
        let found = tools::provide(tool).await?;
        let from = match found.origin {
            Origin::Path => "path",
            Origin::Folder => "folder",
            Origin::Installed => "installed",
        };
        all.push(Shown { tool: tool.name(), version: tool.version(), path: found.path.display().to_string(), from });
    }
    if args.json.json {
        return output::json(&all);
    }
    let width = DENO_VERSION.len().max(ESBUILD_VERSION.len());
    for Shown { tool, version, path, from } in &all {
        let from = match *from {
            "path" => "on PATH",
            "folder" => "there already",
            _ => "installed",
        };
        output::line(format_args!("{BOLD}{tool:7}{BOLD:#}  {version:width$}  {path}  {DIM}{from}{DIM:#}"))?;
    }
    Ok(())
}
