//! `minnow config`: an app's variables, which change without a publish.

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use minnow_control::api_types::{VariablePatch, VariablesChanged};
use minnow_model::{AppName, VariableName};

use crate::{
    cli::{AppFlags, JsonArg, ServerArgs},
    output::{self, BOLD, DIM, GREEN},
    report,
};

/// Set, list and take away an app's variables, without a publish
#[derive(Debug, Args)]
#[command(
    long_about = "Set, list and take away an app's variables, without a publish.

All functions of the app find them in their environment, over what `env` in the manifest says. A change is live at once, \
survives publishes and deploys, and is kept in a history. What must not be seen belongs in `minnow secret`.",
    after_help = "Examples:
  minnow config set LOG_LEVEL=debug REGION=eu     both at once
  minnow config unset LOG_LEVEL
  minnow config list --app hello
  minnow config history",
    arg_required_else_help = true
)]
pub struct ConfigArgs {
    #[command(subcommand)]
    verb: ConfigVerb,
}

#[derive(Debug, Subcommand)]
enum ConfigVerb {
    Set(SetArgs),
    Unset(UnsetArgs),
    List(ListArgs),
    History(HistoryArgs),
}

/// Set variables, all or none
#[derive(Debug, Args)]
#[command(
    long_about = "Set variables, all or none.

A name has upper-case letters, digits and `_`. Functions start anew with the new values; requests that are running end with \
the old ones. An app that was not published yet can be given variables too.",
    after_help = "Examples:
  minnow config set LOG_LEVEL=debug
  minnow config set GREETING='Hello, world' REGION=eu
  minnow config set LOG_LEVEL=debug --app hello"
)]
struct SetArgs {
    /// The variables with their values
    #[arg(value_name = "NAME=VALUE", required = true, value_parser = assignment)]
    variables: Vec<(VariableName, String)>,
    #[command(flatten)]
    app: AppFlags,
    #[command(flatten)]
    json: JsonArg,
    #[command(flatten)]
    server: ServerArgs,
}

/// Take variables away, all or none
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  minnow config unset LOG_LEVEL
  minnow config unset LOG_LEVEL REGION --app hello")]
struct UnsetArgs {
    /// The names of the variables
    #[arg(value_name = "NAME", required = true)]
    names: Vec<VariableName>,
    #[command(flatten)]
    app: AppFlags,
    #[command(flatten)]
    json: JsonArg,
    #[command(flatten)]
    server: ServerArgs,
}

/// List an app's variables with their values
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  minnow config list                   the app in this folder
  minnow config list --app hello --json")]
struct ListArgs {
    #[command(flatten)]
    app: AppFlags,
    #[command(flatten)]
    json: JsonArg,
    #[command(flatten)]
    server: ServerArgs,
}

/// Show what was changed of an app's variables, newest first
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  minnow config history
  minnow config history --app hello --json | jq '.[0].changes'")]
struct HistoryArgs {
    #[command(flatten)]
    app: AppFlags,
    #[command(flatten)]
    json: JsonArg,
    #[command(flatten)]
    server: ServerArgs,
}

impl ConfigArgs {
    pub fn wants_json(&self) -> bool {
        match &self.verb {
            ConfigVerb::Set(args) => args.json.json,
            ConfigVerb::Unset(args) => args.json.json,
            ConfigVerb::List(args) => args.json.json,
            ConfigVerb::History(args) => args.json.json,
        }
    }
}

/// Reads `NAME=VALUE`.
fn assignment(text: &str) -> Result<(VariableName, String), String> {
    let (name, value) =
        text.split_once('=').ok_or_else(|| format!("write `{text}=VALUE`; `minnow config unset` takes one away"))?;
    Ok((name.parse().map_err(|error| format!("{error}"))?, value.to_owned()))
}

pub async fn run(args: ConfigArgs) -> anyhow::Result<()> {
    match args.verb {
        ConfigVerb::Set(args) => set(args).await,
        ConfigVerb::Unset(args) => unset(args).await,
        ConfigVerb::List(args) => list(args).await,
        ConfigVerb::History(args) => history(args).await,
    }
}

async fn set(args: SetArgs) -> anyhow::Result<()> {
    let app = args.app.name()?;
    let changes: BTreeMap<_, _> = args.variables.into_iter().map(|(name, value)| (name, Some(value))).collect();
    let names: Vec<_> = changes.keys().map(ToString::to_string).collect();
    let changed = args.server.client()?.set_variables(&app, &VariablePatch(changes)).await?;
    show(&app, "set", &names, &changed, args.json)
}

async fn unset(args: UnsetArgs) -> anyhow::Result<()> {
    let app = args.app.name()?;
    let changes: BTreeMap<_, _> = args.names.into_iter().map(|name| (name, None)).collect();
    let names: Vec<_> = changes.keys().map(ToString::to_string).collect();
    let changed = args.server.client()?.set_variables(&app, &VariablePatch(changes)).await?;
    show(&app, "unset", &names, &changed, args.json)
}

fn show(app: &AppName, what: &str, names: &[String], changed: &VariablesChanged, json: JsonArg) -> anyhow::Result<()> {
    if changed.app_created {
        report::unpublished(app);
    }
    if json.json {
        return output::json(changed);
    }
    let names = names.join(", ");
    if !changed.changed {
        return output::line(format_args!("{DIM}nothing changed:{DIM:#} {app} has these values already"));
    }
    let revision = changed.revision;
    output::line(format_args!("{GREEN}{what}{GREEN:#} {BOLD}{names}{BOLD:#} of {app}  {DIM}revision {revision}{DIM:#}"))
}

async fn list(args: ListArgs) -> anyhow::Result<()> {
    let app = args.app.name()?;
    let variables = args.server.client()?.variables(&app).await?;
    if args.json.json {
        return output::json(&variables);
    }
    if variables.is_empty() {
        return output::line(format_args!(
            "{DIM}{app} has no variables; `minnow config set NAME=VALUE` sets one{DIM:#}"
        ));
    }
    let now = output::now_ms();
    let mut table = output::table(&["name", "value", "set", "revision"]);
    for variable in variables {
        let (set, revision) = (output::ago(variable.time_ms, now), variable.revision.to_string());
        table.add_row([variable.name.to_string(), output::printable(&variable.value), set, revision]);
    }
    output::print_table(table)
}

async fn history(args: HistoryArgs) -> anyhow::Result<()> {
    let app = args.app.name()?;
    let history = args.server.client()?.variable_history(&app).await?;
    if args.json.json {
        return output::json(&history);
    }
    if history.is_empty() {
        return output::line(format_args!("{DIM}{app} never had variables{DIM:#}"));
    }
    for change in history {
        let time = output::timestamp(change.time_ms);
        output::line(format_args!("{BOLD}{}{BOLD:#}  {DIM}{time}{DIM:#}", change.revision))?;
        for (name, value) in change.changes {
            match value {
                Some(value) => output::line(format_args!("   {name}={}", output::printable(&value)))?,
                None => output::line(format_args!("   {name} {DIM}taken away{DIM:#}"))?,
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_assignment_is_a_name_and_everything_behind_the_first_equals_sign() {
        for (text, expected) in [
            ("A=1", Ok(("A", "1"))),
            ("A=", Ok(("A", ""))),
            ("A=b=c", Ok(("A", "b=c"))),
            ("_A1= x ", Ok(("_A1", " x "))),
            ("A", Err("write `A=VALUE`")),
            ("a=1", Err("use only A-Z")),
            ("1A=1", Err("starts with a digit")),
            ("=1", Err("needs a name")),
        ] {
            match (assignment(text), expected) {
                (Ok((name, value)), Ok(expected)) => assert_eq!((name.as_str(), value.as_str()), expected),
                (Err(error), Err(expected)) => assert!(error.contains(expected), "{error}"),
                (found, expected) => panic!("{text}: {found:?}, not {expected:?}"),
            }
        }
    }
}
