//! `minnow sql`: the databases of apps.

mod import;
mod shell;
mod show;

use std::{
    io::{self, Write as _},
    path::{Path, PathBuf},
    str::FromStr,
};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use minnow_control::api_types::{ExportQuery, SqlRequest, SqlValue};
use reqwest::Response;
use serde::Serialize;

pub use import::{Imported, import_file};

use crate::{
    cli::{JsonArg, ServerArgs},
    client::Client,
    output::{self, GREEN},
    report::Failure,
    store::StoreArg,
};

/// What a whole dump ends with.
const DUMP_END: &[u8] = b"COMMIT;\n";

/// Query SQL stores, import and export them
#[derive(Debug, Args)]
#[command(
    long_about = "Query SQL stores, import and export them.

Each is a SQLite database. It is there once a live version declares it (`[sql.NAME]` in minnow.toml). It is named APP/DB, or \
DB for the app in this folder. What is written is on the node's disk when the command ends.",
    after_help = "Examples:
  minnow sql shell shop/main
  minnow sql query shop/main 'SELECT * FROM orders LIMIT 10'
  minnow sql import shop/main orders.sql
  minnow sql export shop/main > shop.sql",
    arg_required_else_help = true
)]
pub struct SqlArgs {
    #[command(subcommand)]
    verb: SqlVerb,
}

#[derive(Debug, Subcommand)]
enum SqlVerb {
    Query(QueryArgs),
    Import(ImportArgs),
    Export(ExportArgs),
    Shell(ShellArgs),
}

/// Run one statement
#[derive(Debug, Args)]
#[command(
    long_about = "Run one statement, and print its rows as a table.

A parameter that is a number or `null` is taken as such, everything else as text; \"5\" in double quotes is a text too. With \
--json a blob is {\"base64\": …}.",
    after_help = "Examples:
  minnow sql query shop/main 'SELECT * FROM orders LIMIT 10'
  minnow sql query shop/main 'SELECT * FROM orders WHERE id = ? OR name = ?' -p 5 -p Ada
  minnow sql query main 'EXPLAIN QUERY PLAN SELECT * FROM orders WHERE name = ?' -p Ada
  minnow sql query shop/main 'SELECT name FROM orders' --json | jq -r '.rows[][0]'"
)]
struct QueryArgs {
    /// The database
    #[arg(value_name = "APP/DB")]
    store: StoreArg,
    /// The statement
    #[arg(value_name = "STATEMENT")]
    sql: String,
    /// A parameter; may be given several times, in order
    #[arg(long, short, value_name = "VALUE", allow_hyphen_values = true)]
    param: Vec<Param>,
    /// Refuse a statement that changes the database
    #[arg(long)]
    read_only: bool,
    #[command(flatten)]
    json: JsonArg,
    #[command(flatten)]
    server: ServerArgs,
}

/// A parameter as it is written on the command line.
#[derive(Debug, Clone)]
struct Param(SqlValue);

impl FromStr for Param {
    type Err = std::convert::Infallible;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(match serde_json::from_str(text) {
            Ok(value @ (SqlValue::Null | SqlValue::Integer(_) | SqlValue::Real(_) | SqlValue::Text(_))) => value,
            _ => SqlValue::Text(text.into()),
        }))
    }
}

/// Run a file with SQL
#[derive(Debug, Args)]
#[command(
    long_about = "Run a file with SQL, such as a dump of SQLite.

A file of up to 4 MiB runs in one transaction. A larger one is sent in pieces of that size, each in a transaction of its own; \
when one fails, those before it stay. `BEGIN`, `COMMIT` and `PRAGMA foreign_keys` in the file do nothing.",
    after_help = "Examples:
  minnow sql import shop/main orders.sql
  sqlite3 old.db .dump | minnow sql import shop/main -"
)]
struct ImportArgs {
    /// The database
    #[arg(value_name = "APP/DB")]
    store: StoreArg,
    /// The file, or - for stdin
    #[arg(value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    file: PathBuf,
    #[command(flatten)]
    json: JsonArg,
    #[command(flatten)]
    server: ServerArgs,
}

/// Write a database as SQL text
#[derive(Debug, Args)]
#[command(
    long_about = "Write a database as SQL text, as it is at one moment.

It is what `.dump` of SQLite's shell writes: `sqlite3 new.db < FILE` and `minnow sql import` read it. The records of which \
migrations have run are left out.",
    after_help = "Examples:
  minnow sql export shop/main > shop.sql
  minnow sql export shop/main -o shop.sql
  minnow sql export shop/main --data-only      for a database that has the tables"
)]
struct ExportArgs {
    /// The database
    #[arg(value_name = "APP/DB")]
    store: StoreArg,
    /// The file to write. Default: stdout
    #[arg(long, short, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    output: Option<PathBuf>,
    /// Only the rows, without the tables
    #[arg(long)]
    data_only: bool,
    #[command(flatten)]
    server: ServerArgs,
}

/// Type statements, and see what they answer
#[derive(Debug, Args)]
#[command(
    long_about = "Type statements, and see what they answer.

A statement may have several lines; it runs once it ends with a `;`. Every statement is a transaction of its own. `.tables` \
and `.schema` show what is there, `.help` the other commands, Ctrl-D ends it. What was typed before comes with the arrow keys.",
    after_help = "Examples:
  minnow sql shell shop/main
  minnow sql shell main --read-only             of the app in this folder
  minnow sql shell shop/main < statements.sql   stops at the first that fails"
)]
struct ShellArgs {
    /// The database
    #[arg(value_name = "APP/DB")]
    store: StoreArg,
    /// Refuse statements that change the database
    #[arg(long)]
    read_only: bool,
    #[command(flatten)]
    server: ServerArgs,
}

impl SqlArgs {
    /// Whether a script reads what comes out.
    pub fn wants_json(&self) -> bool {
        match &self.verb {
            SqlVerb::Query(args) => args.json.json,
            SqlVerb::Import(args) => args.json.json,
            SqlVerb::Export(_) | SqlVerb::Shell(_) => false,
        }
    }
}

pub async fn run(args: SqlArgs) -> anyhow::Result<()> {
    match args.verb {
        SqlVerb::Query(args) => query(args).await,
        SqlVerb::Import(args) => import(args).await,
        SqlVerb::Export(args) => export(args).await,
        SqlVerb::Shell(args) => shell::run(&args.server.client()?, &args.store.path()?, args.read_only).await,
    }
}

async fn query(args: QueryArgs) -> anyhow::Result<()> {
    let request = SqlRequest {
        sql: args.sql,
        params: args.param.into_iter().map(|Param(value)| value).collect(),
        read_only: args.read_only,
    };
    let result = args.server.client()?.sql_query(&args.store.path()?, &request).await?;
    if args.json.json { output::json(&result) } else { show::result(&result) }
}

#[derive(Serialize)]
struct ImportedJson {
    store: String,
    statements: u64,
}

async fn import(args: ImportArgs) -> anyhow::Result<()> {
    let store = args.store.path()?;
    let client = args.server.client()?;
    let Imported { statements } = import_file(&client, &store, &args.file).await?;
    if args.json.json {
        return output::json(&ImportedJson { store: store.to_string(), statements });
    }
    output::line(format_args!("{GREEN}imported{GREEN:#} {statements} statements into {store}"))
}

async fn export(args: ExportArgs) -> anyhow::Result<()> {
    let store = args.store.path()?;
    let client = args.server.client()?;
    let dump = client.sql_export(&store, &ExportQuery { data_only: args.data_only }).await?;
    let Some(path) = &args.output else { return write_dump(&client, dump, output::raw).await };
    let failed = || Failure::new(format!("cannot write {}", path.display()));
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Renamed when it is whole: half a dump is none.
    let mut file = tempfile::NamedTempFile::new_in(folder).with_context(failed)?;
    write_dump(&client, dump, |piece| file.write_all(piece).with_context(failed)).await?;
    file.as_file().sync_all().with_context(failed)?;
    file.persist(path).map_err(|error| error.error).with_context(failed)?;
    output::line(format_args!("{GREEN}exported{GREEN:#} {store} to {}", path.display()))
}

/// Writes a dump as it comes, and makes sure that it is whole.
async fn write_dump(
    client: &Client,
    mut dump: Response,
    mut write: impl FnMut(&[u8]) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut end = Vec::new();
    while let Some(piece) = dump.chunk().await.map_err(|source| client.broken_off(source))? {
        write(&piece)?;
        end.extend_from_slice(piece.get(piece.len().saturating_sub(DUMP_END.len())..).unwrap_or_default());
        end.drain(..end.len().saturating_sub(DUMP_END.len()));
    }
    if end == DUMP_END {
        return Ok(());
    }
    let broken = io::Error::from(io::ErrorKind::UnexpectedEof);
    Err(anyhow::Error::from(broken)
        .context(Failure::new("the export is not whole").help("the node's log has the reason; try again")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_is_a_number_null_or_text() {
        for (text, expected) in [
            ("5", SqlValue::Integer(5)),
            ("-5", SqlValue::Integer(-5)),
            ("1.5", SqlValue::Real(1.5)),
            ("null", SqlValue::Null),
            ("Ada", SqlValue::Text("Ada".into())),
            ("\"5\"", SqlValue::Text("5".into())),
            ("true", SqlValue::Text("true".into())),
            ("{\"base64\": \"AA==\"}", SqlValue::Text("{\"base64\": \"AA==\"}".into())),
            ("", SqlValue::Text(String::new())),
        ] {
            assert_eq!(text.parse::<Param>().unwrap().0, expected, "{text}");
        }
    }
}
