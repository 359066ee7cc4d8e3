//! `minnow logs`: what functions print and what the node says about them.

use anstyle::Style;
use clap::Args;
use minnow_control::api_types::LogQuery;
use minnow_model::{AppName, FunctionName, Level, LogLine};
use reqwest::StatusCode;

use crate::{
    cli::{AppArgs, JsonArg, ServerArgs},
    client::Client,
    output::{self, BOLD, DIM, RED, YELLOW},
    report::Failure,
    since::Since,
};

/// The most lines that a node gives at once; it refuses more.
const MAX_LINES: i64 = 10_000;

/// Show an app's log
#[derive(Debug, Args)]
#[command(
    long_about = "Show an app's log.

What its functions print, and what the node has to say about them: traps, limits, deployments. Times are UTC. With --json \
each line is one JSON object.",
    after_help = "Examples:
  minnow logs hello                     the newest lines
  minnow logs hello -f                  go on as lines come; Ctrl-C ends it
  minnow logs hello --since 10m --function api
  minnow logs hello --json | jq -r 'select(.level == \"error\") | .request_id'"
)]
pub struct LogsArgs {
    #[command(flatten)]
    app: AppArgs,
    /// Go on with new lines as they come
    #[arg(long, short)]
    follow: bool,
    /// Only lines since then: 30s, 10m, 2h, 1d, or a UTC time like 2026-11-20T18:30:00Z
    #[arg(long, value_name = "TIME")]
    since: Option<Since>,
    /// Only this function's lines
    #[arg(long, value_name = "NAME")]
    function: Option<FunctionName>,
    /// At most this many of the newest lines, up to 10000 [default: 1000]
    #[arg(long, value_name = "LINES", value_parser = clap::value_parser!(u16).range(..=MAX_LINES))]
    limit: Option<u16>,
    #[command(flatten)]
    pub json: JsonArg,
    #[command(flatten)]
    server: ServerArgs,
}

pub async fn run(args: LogsArgs) -> anyhow::Result<()> {
    let app = args.app.name()?;
    let query = LogQuery {
        since_ms: args.since.map(|since| since.as_ms(output::now_ms())),
        limit: args.limit.map(usize::from),
        follow: args.follow,
        function: args.function.map(|function| function.to_string()),
    };
    let client = args.server.client()?;
    let mut lines = client.logs(&app, &query).await?;
    let mut is_empty = true;
    while let Some(line) = lines.next().await? {
        is_empty = false;
        if args.json.json { output::json_line(&line)? } else { output::line(human(&line, Time::Date))? }
    }
    if args.follow {
        return Err(ended(&client, &app).await.into());
    }
    if is_empty && !args.json.json && output::is_terminal() {
        output::line(format_args!("{DIM}no such lines{DIM:#}"))?;
    }
    Ok(())
}

/// Why a log that was followed has ended: with its app, or with the node.
async fn ended(client: &Client, app: &AppName) -> Failure {
    match client.app(app).await {
        Err(error) if error.status() == Some(StatusCode::NOT_FOUND) => {
            Failure::new(format!("the app {app} was deleted, and its log with it"))
        }
        Ok(_) | Err(_) => Failure::new("the node ended the log")
            .help("it may be shutting down, or the app was deleted and published anew; try again"),
    }
}

/// How a line's time is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Time {
    /// Date and time.
    Date,
    /// The time of day, where all lines are of now.
    Clock,
}

/// A line for people: time, level, function, message.
pub fn human(line: &LogLine, time: Time) -> String {
    let stamp = output::timestamp(line.time_ms);
    let stamp = match time {
        Time::Date => stamp.as_str(),
        Time::Clock => stamp.split_once('T').map_or(stamp.as_str(), |(_, clock)| clock.trim_end_matches('Z')),
    };
    let (level, style) = match line.level {
        Level::Debug => ("debug", DIM),
        Level::Info => ("info ", Style::new()),
        Level::Warn => ("warn ", YELLOW),
        Level::Error => ("error", RED),
    };
    let from = line.function.as_ref().map_or("node", FunctionName::as_str);
    // A stack has several lines. They are set in, so that none of them passes for a line of its own.
    let lines: Vec<String> = line.message.trim_end_matches('\n').split('\n').map(output::printable).collect();
    let message = lines.join("\n    ");
    format!("{DIM}{stamp}{DIM:#} {style}{level}{style:#} {BOLD}{from}{BOLD:#} {message}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_shows_time_level_function_and_message() {
        let line: LogLine = serde_json::from_str(
            r#"{"time_ms":1000,"level":"warn","source":"stderr","tenant":"default","app":"a","function":"api","message":"hot\u001b[2J\n"}"#,
        )
        .unwrap();
        let plain = |time| anstream::adapter::strip_str(&human(&line, time)).to_string();
        assert_eq!(plain(Time::Date), "1970-01-01T00:00:01.000Z warn  api hot\\u{1b}[2J");
        assert_eq!(plain(Time::Clock), "00:00:01.000 warn  api hot\\u{1b}[2J");
    }

    #[test]
    fn the_lines_of_a_stack_are_set_in() {
        let line: LogLine = serde_json::from_str(
            r#"{"time_ms":0,"level":"error","source":"stderr","tenant":"default","app":"a","message":"Error: x\n    at f (src/a.ts:1:2)\n00:00:00.000 info\n"}"#,
        )
        .unwrap();
        let plain = anstream::adapter::strip_str(&human(&line, Time::Clock)).to_string();
        assert_eq!(plain, "00:00:00.000 error node Error: x\n        at f (src/a.ts:1:2)\n    00:00:00.000 info");
    }
}
