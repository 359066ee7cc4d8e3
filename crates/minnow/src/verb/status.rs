//! `minnow status`: what of an app is live, and what it does now.

use std::time::Duration;

use clap::Args;
use minnow_control::api_types::{AppStatus, FunctionStatus, VersionTraffic};

use super::{deploy::shares, schedule};
use crate::{
    cli::{AppArgs, JsonArg, ServerArgs},
    output::{self, BOLD, DIM, YELLOW},
};

/// How many deployments the history shows; --json has them all.
const HISTORY: usize = 10;

/// Show an app's deployment, traffic, functions, schedules and history
#[derive(Debug, Args)]
#[command(
    long_about = "Show an app's deployment, traffic, functions, schedules and history.

For each live version: its weight, the requests for its functions since the live deployment began (or since the node started, \
where that was later), how many of them ended with a 5xx status, and how long half and 99 in 100 of the invocations took at \
most (estimated from a histogram). By these a canary is judged. Static files are not counted.",
    after_help = "Examples:
  minnow status                the app in this folder
  minnow status hello          an app by its name
  minnow status hello --json | jq '.traffic[] | {version, weight, requests, failed}'"
)]
pub struct StatusArgs {
    #[command(flatten)]
    app: AppArgs,
    #[command(flatten)]
    pub json: JsonArg,
    #[command(flatten)]
    server: ServerArgs,
}

pub async fn run(args: StatusArgs) -> anyhow::Result<()> {
    let app = args.app.name()?;
    let status = args.server.client()?.app(&app).await?;
    if args.json.json { output::json(&status) } else { show(&status, output::now_ms()) }
}

fn show(status: &AppStatus, now_ms: u64) -> anyhow::Result<()> {
    let app = &status.app;
    output::line(format_args!("{BOLD}{}{BOLD:#}  {}", app.app, app.url))?;
    match &app.deployment {
        Some(live) => output::line(format_args!(
            "live: {}  {DIM}revision {}, since {}{DIM:#}",
            shares(live),
            live.revision,
            output::age(live.time_ms, now_ms)
        ))?,
        None => output::line(format_args!("live: nothing  {DIM}`minnow deploy VERSION --app {}`{DIM:#}", app.app))?,
    }
    if !status.functions.is_empty() {
        output::line("")?;
        traffic(&status.traffic, now_ms)?;
        output::line("")?;
        functions(&status.functions)?;
    }
    if !status.schedules.is_empty() {
        output::line("")?;
        schedule::show(status.schedules.clone(), now_ms)?;
    }
    if !status.history.is_empty() {
        output::line("")?;
        let mut table = output::table(&["revision", "deployed", "by", "versions"]);
        for past in status.history.iter().take(HISTORY) {
            let cause = match past.cause {
                minnow_model::deployment::Cause::Deploy => "deploy",
                minnow_model::deployment::Cause::Rollback => "rollback",
            };
            let when = output::ago(past.time_ms, now_ms);
            table.add_row([past.revision.to_string(), when, cause.into(), shares(past)]);
        }
        output::print_table(table)?;
    }
    Ok(())
}

fn traffic(traffic: &[VersionTraffic], now_ms: u64) -> anyhow::Result<()> {
    let mut table = output::table(&["version", "weight", "requests", "5xx", "p50", "p99", "counted for"]);
    for version in traffic {
        let time = |time: Option<Duration>| time.map_or("–".into(), output::duration);
        table.add_row([
            version.version.to_string(),
            format!("{} %", version.weight),
            version.requests.to_string(),
            failed(version.failed, version.requests),
            time(version.p50),
            time(version.p99),
            output::age(version.since_ms, now_ms),
        ]);
    }
    output::print_table(table)
}

/// `0`, or `12 (9.2 %)`.
fn failed(failed: u64, requests: u64) -> String {
    match failed {
        0 => "0".into(),
        _ => format!("{failed} ({:.1} %)", failed as f64 * 100.0 / requests.max(1) as f64),
    }
}

fn functions(functions: &[FunctionStatus]) -> anyhow::Result<()> {
    let mut table =
        output::table(&["function", "version", "kind", "running", "queued", "loaded", "memory", "cpu", "routes"]);
    for function in functions {
        let routes: Vec<String> = function.routes.iter().map(ToString::to_string).collect();
        table.add_row([
            function.function.to_string(),
            function.version.to_string(),
            function.kind.clone(),
            format!("{}/{}", function.running, function.limits.concurrency),
            format!("{}/{}", function.queued, function.limits.queue),
            if function.loaded { "yes".into() } else { "no".into() },
            output::size(function.limits.memory_bytes),
            humantime::format_duration(function.limits.cpu).to_string(),
            routes.join(", "),
        ]);
    }
    output::print_table(table)?;
    for function in functions {
        if let Some(held_s) = function.held_back_s {
            output::line(format_args!(
                "{YELLOW}held back{YELLOW:#} {} {}: its processes keep failing; it is started again in {held_s} s (see `minnow logs`)",
                function.function, function.version
            ))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_shown_with_their_share() {
        for (count, requests, expected) in [(0, 0, "0"), (0, 9, "0"), (12, 130, "12 (9.2 %)"), (3, 3, "3 (100.0 %)")] {
            assert_eq!(failed(count, requests), expected);
        }
    }
}
