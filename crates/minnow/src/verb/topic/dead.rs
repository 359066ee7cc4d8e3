//! `minnow topic dead`: messages that a function did not get done.

use clap::{Args, Subcommand};
use minnow_control::api_types::{DeadCount, DeadLetterInfo, DeadQuery};
use minnow_model::FunctionName;

use super::{Topic, show};
use crate::{
    cli::{JsonArg, ServerArgs},
    output::{self, GREEN},
    report,
};

/// Dead letters that a node gives in one page.
const PAGE: u32 = 1000;

/// See to messages that a function did not get done
#[derive(Debug, Args)]
#[command(
    long_about = "See to messages that a function did not get done.

A message that failed as often as its `retries` allow is a dead letter: it is kept for two weeks with the reason, the last \
answer and the number of tries, until it is retried or dropped.",
    after_help = "Examples:
  minnow topic dead list shop/orders
  minnow topic dead show shop/orders 3
  minnow topic dead retry shop/orders 3
  minnow topic dead drop shop/orders --function fulfil",
    arg_required_else_help = true
)]
pub(super) struct DeadArgs {
    #[command(subcommand)]
    verb: DeadVerb,
}

#[derive(Debug, Subcommand)]
enum DeadVerb {
    List(ListArgs),
    Show(ShowArgs),
    Retry(RetryArgs),
    Drop(DropArgs),
}

/// List dead letters
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  minnow topic dead list shop/orders
  minnow topic dead list orders --app shop --function fulfil
  minnow topic dead list shop/orders --json | jq -r '.[].reason'")]
struct ListArgs {
    #[command(flatten)]
    topic: Topic,
    /// Only those of this function
    #[arg(long, value_name = "NAME")]
    function: Option<FunctionName>,
    /// At most this many of the oldest
    #[arg(long, value_name = "LETTERS", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    #[command(flatten)]
    json: JsonArg,
    #[command(flatten)]
    server: ServerArgs,
}

/// Show a dead letter with its message and the last answer
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  minnow topic dead show shop/orders 3
  minnow topic dead show shop/orders 3 --json | jq .event.data")]
struct ShowArgs {
    #[command(flatten)]
    topic: Topic,
    /// Its number
    #[arg(value_name = "NUMBER")]
    number: u64,
    #[command(flatten)]
    json: JsonArg,
    #[command(flatten)]
    server: ServerArgs,
}

/// Have dead letters delivered again
#[derive(Debug, Args)]
#[command(
    long_about = "Have dead letters delivered again.

With as many retries as any message. One that works is gone then; one that does not is a dead letter again.",
    after_help = "Examples:
  minnow topic dead retry shop/orders 3
  minnow topic dead retry shop/orders --function fulfil      all of this function"
)]
struct RetryArgs {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    json: JsonArg,
    #[command(flatten)]
    server: ServerArgs,
}

/// Remove dead letters for good
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  minnow topic dead drop shop/orders 3 4
  minnow topic dead drop shop/orders --function fulfil       all of this function")]
struct DropArgs {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    json: JsonArg,
    #[command(flatten)]
    server: ServerArgs,
}

/// Some dead letters by their numbers, or all of a function.
#[derive(Debug, Args)]
#[group(id = "which", required = true, multiple = false, args = ["numbers", "function"])]
struct Which {
    #[command(flatten)]
    topic: Topic,
    /// Their numbers
    #[arg(value_name = "NUMBER")]
    numbers: Vec<u64>,
    /// All of this function
    #[arg(long, value_name = "NAME")]
    function: Option<FunctionName>,
}

impl DeadArgs {
    pub(super) fn wants_json(&self) -> bool {
        match &self.verb {
            DeadVerb::List(args) => args.json.json,
            DeadVerb::Show(args) => args.json.json,
            DeadVerb::Retry(args) => args.json.json,
            DeadVerb::Drop(args) => args.json.json,
        }
    }
}

pub(super) async fn run(args: DeadArgs) -> anyhow::Result<()> {
    match args.verb {
        DeadVerb::List(args) => list(args).await,
        DeadVerb::Show(args) => {
            let letter = args.server.client()?.dead_letter(&args.topic.path()?, args.number).await?;
            if args.json.json { output::json(&letter) } else { show::letter(&letter) }
        }
        DeadVerb::Retry(args) => {
            let (client, topic) = (args.server.client()?, args.which.topic.path()?);
            let mut letters = 0;
            for number in args.which.numbers {
                letters += client.dead_retry(&topic, number).await?.letters;
            }
            if let Some(function) = args.which.function {
                letters += client.dead_retry_all(&topic, function).await?.letters;
            }
            told(letters, "are delivered again", args.json)
        }
        DeadVerb::Drop(args) => {
            let (client, topic) = (args.server.client()?, args.which.topic.path()?);
            let mut letters = 0;
            for number in args.which.numbers {
                letters += client.dead_drop(&topic, number).await?.letters;
            }
            if let Some(function) = args.which.function {
                letters += client.dead_drop_all(&topic, function).await?.letters;
            }
            told(letters, "are removed", args.json)
        }
    }
}

fn told(letters: u64, what: &str, json: JsonArg) -> anyhow::Result<()> {
    if json.json {
        return output::json(&DeadCount { letters });
    }
    output::line(format_args!("{GREEN}{letters}{GREEN:#} dead letters {what}"))
}

async fn list(args: ListArgs) -> anyhow::Result<()> {
    let (client, topic) = (args.server.client()?, args.topic.path()?);
    let mut letters: Vec<DeadLetterInfo> = Vec::new();
    let mut query = DeadQuery { function: args.function, after: None, limit: None };
    loop {
        let left = args.limit.saturating_sub(u32::try_from(letters.len()).unwrap_or(u32::MAX));
        query.limit = Some(left.min(PAGE));
        let page = client.dead_letters(&topic, &query).await?;
        letters.extend(page.letters);
        query.after = page.next;
        if query.after.is_none() || letters.len() >= args.limit as usize {
            break;
        }
    }
    if query.after.is_some() {
        report::warn(format_args!("there are more; --limit {} shows more of them", u64::from(args.limit) * 10));
    }
    if args.json.json { output::json(&letters) } else { show::letters(&letters, output::now_ms()) }
}
