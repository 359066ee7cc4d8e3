//! `minnow run`: what became of asynchronous invokes.

use clap::{Args, Subcommand};
use minnow_control::api_types::{DestinationState, RunInfo, RunState};
use minnow_model::RequestId;

use super::invoke::show_answer;
use crate::{
    cli::{AppFlags, JsonArg, ServerArgs},
    output::{self, BOLD, DIM, GREEN, RED, YELLOW},
};

/// Show what became of an asynchronous invoke
#[derive(Debug, Args)]
#[command(
    long_about = "Show what became of an asynchronous invoke.

`minnow invoke --async` makes a run. What came of it is kept for 24 hours.",
    after_help = "Examples:
  minnow run show 5f0c19d2a4e84b7c9d3e1f2a3b4c5d6e --app shop",
    arg_required_else_help = true
)]
pub struct RunArgs {
    #[command(subcommand)]
    verb: RunVerb,
}

#[derive(Debug, Subcommand)]
enum RunVerb {
    Show(ShowArgs),
}

/// Show one run: its state, its tries, and the answer
#[derive(Debug, Args)]
#[command(
    long_about = "Show one run: its state, its tries, and the answer.

With --json the body of the answer is Base64. What the function has printed is in the log, under the id of the run.",
    after_help = "Examples:
  minnow run show 5f0c19d2a4e84b7c9d3e1f2a3b4c5d6e           of the app in this folder
  minnow run show 5f0c19d2a4e84b7c9d3e1f2a3b4c5d6e --app shop --json | jq .state"
)]
struct ShowArgs {
    /// The id that `minnow invoke --async` printed
    #[arg(value_name = "ID")]
    id: RequestId,
    #[command(flatten)]
    app: AppFlags,
    #[command(flatten)]
    json: JsonArg,
    #[command(flatten)]
    server: ServerArgs,
}

impl RunArgs {
    /// Whether a script reads what comes out.
    pub fn wants_json(&self) -> bool {
        match &self.verb {
            RunVerb::Show(args) => args.json.json,
        }
    }
}

pub async fn run(args: RunArgs) -> anyhow::Result<()> {
    let RunVerb::Show(args) = args.verb;
    let app = args.app.name()?;
    let run = args.server.client()?.async_run(&app, args.id).await?;
    if args.json.json { output::json(&run) } else { show(&run, output::now_ms()) }
}

fn show(run: &RunInfo, now_ms: u64) -> anyhow::Result<()> {
    let (style, state) = match run.state {
        RunState::Waiting => (YELLOW, "waiting"),
        RunState::Running => (YELLOW, "running"),
        RunState::Succeeded => (GREEN, "succeeded"),
        RunState::Failed => (RED, "failed"),
    };
    let tries = if run.tries == 1 { "1 try".to_owned() } else { format!("{} tries", run.tries) };
    output::line(format_args!(
        "{style}{state}{style:#} {BOLD}{}{BOLD:#}  {DIM}{}, taken {}, {tries}{DIM:#}",
        run.function,
        run.id,
        output::ago(run.created_ms, now_ms)
    ))?;
    if let Some(next_ms) = run.next_ms {
        output::line(format_args!("next try: {}", output::timestamp(next_ms)))?;
    }
    if let Some(finished_ms) = run.finished_ms {
        output::line(format_args!("ended: {}", output::timestamp(finished_ms)))?;
    }
    if let Some(reason) = &run.reason {
        output::line(format_args!("reason: {}", output::printable(reason)))?;
    }
    if let Some(told) = &run.destination {
        let state = match told.state {
            DestinationState::Waiting => "is to be told",
            DestinationState::Told => "was told",
            DestinationState::GivenUp => "was not told",
        };
        let reason = told.reason.as_deref().map(|reason| format!(": {}", output::printable(reason)));
        output::line(format_args!("{} {state}{}", output::printable(&told.to), reason.unwrap_or_default()))?;
    }
    let (Some(status), Some(body)) = (run.status, &run.body) else { return Ok(()) };
    output::line("")?;
    show_answer(status, &run.headers, body)?;
    if run.truncated {
        output::line(format_args!("{DIM}(the answer was longer){DIM:#}"))?;
    }
    Ok(())
}
