//! `minnow completions`: completions for a shell.

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use crate::{cli::Cli, output};

/// Print completions for a shell
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  minnow completions bash > ~/.local/share/bash-completion/completions/minnow
  minnow completions zsh > ~/.zfunc/_minnow
  minnow completions fish > ~/.config/fish/completions/minnow.fish")]
pub struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

pub fn run(args: &CompletionsArgs) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "minnow", &mut script);
    output::raw(&script)
}
