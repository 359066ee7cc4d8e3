//! `minnow schedule`: when functions run by the clock.

use clap::{Args, Subcommand};
use minnow_control::api_types::ScheduleInfo;
use minnow_model::{FunctionName, ScheduleName};

use crate::{
    cli::{AppArgs, AppFlags, JsonArg, ServerArgs},
    output::{self, DIM, GREEN},
};

/// List schedules, and run one now
#[derive(Debug, Args)]
#[command(
    long_about = "List schedules, and run one now.

A schedule is there while a live version has it (`schedules` of a function in minnow.toml).",
    after_help = "Examples:
  minnow schedule list shop
  minnow schedule run nightly --app shop",
    arg_required_else_help = true
)]
pub struct ScheduleArgs {
    #[command(subcommand)]
    verb: ScheduleVerb,
}

#[derive(Debug, Subcommand)]
enum ScheduleVerb {
    List(ListArgs),
    Run(RunArgs),
}

/// List an app's schedules with their next times
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  minnow schedule list                  of the app in this folder
  minnow schedule list shop
  minnow schedule list shop --json | jq '.schedules[] | {name, next_ms}'")]
struct ListArgs {
    #[command(flatten)]
    app: AppArgs,
    #[command(flatten)]
    json: JsonArg,
    #[command(flatten)]
    server: ServerArgs,
}

/// Run a schedule now
#[derive(Debug, Args)]
#[command(
    long_about = "Run a schedule now.

Beside its ticks, which stay as they are. The command ends when the run is durable; what it prints is in the log, under the id \
that is shown.",
    after_help = "Examples:
  minnow schedule run nightly           of the app in this folder
  minnow schedule run nightly --app shop
  minnow schedule run sweep --app shop --function worker"
)]
struct RunArgs {
    /// The schedule
    #[arg(value_name = "NAME")]
    name: ScheduleName,
    #[command(flatten)]
    app: AppFlags,
    /// The function that has it, where several have one of this name
    #[arg(long, value_name = "NAME")]
    function: Option<FunctionName>,
    #[command(flatten)]
    json: JsonArg,
    #[command(flatten)]
    server: ServerArgs,
}

impl ScheduleArgs {
    /// Whether a script reads what comes out.
    pub fn wants_json(&self) -> bool {
        match &self.verb {
            ScheduleVerb::List(args) => args.json.json,
            ScheduleVerb::Run(args) => args.json.json,
        }
    }
}

pub async fn run(args: ScheduleArgs) -> anyhow::Result<()> {
    match args.verb {
        ScheduleVerb::List(args) => list(args).await,
        ScheduleVerb::Run(args) => {
            let app = args.app.name()?;
            let started = args.server.client()?.schedule_run(&app, &args.name, args.function).await?;
            if args.json.json {
                return output::json(&started);
            }
            output::line(format_args!("{GREEN}running{GREEN:#} {}  {DIM}{}{DIM:#}", args.name, started.id))
        }
    }
}

async fn list(args: ListArgs) -> anyhow::Result<()> {
    let app = args.app.name()?;
    let list = args.server.client()?.schedules(&app).await?;
    if args.json.json {
        return output::json(&list);
    }
    if list.schedules.is_empty() {
        return output::line(format_args!("{DIM}no schedules{DIM:#}"));
    }
    show(list.schedules, output::now_ms())
}

/// Schedules in a table.
pub(super) fn show(schedules: Vec<ScheduleInfo>, now_ms: u64) -> anyhow::Result<()> {
    let mut table = output::table(&["schedule", "function", "when", "next", "in", "last"]);
    for schedule in schedules {
        let (next, wait) = match schedule.next_ms {
            Some(next) => (output::timestamp(next), output::age(now_ms, next)),
            None => ("–".into(), "–".into()),
        };
        let last = match schedule.last_ms {
            _ if schedule.running => "runs now".into(),
            Some(last) => output::ago(last, now_ms),
            None => "–".into(),
        };
        table.add_row([schedule.name.to_string(), schedule.function.to_string(), schedule.when, next, wait, last]);
    }
    output::print_table(table)
}
