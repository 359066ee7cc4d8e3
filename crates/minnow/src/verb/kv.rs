//! `minnow kv`: the key-value stores of apps.

use std::{path::PathBuf, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use clap::{Args, Subcommand};
use minnow_control::api_types::{KvKey, KvListQuery, KvPutQuery};
use serde::Serialize;

use crate::{
    cli::{JsonArg, ServerArgs},
    duration::positive,
    input,
    output::{self, DIM, GREEN},
    report,
    store::StoreArg,
};

/// The most keys that a node gives in one page.
const PAGE: u32 = 1000;

/// What is read of a value, in bytes: the most that a node takes, and one more, so that it says that it is too much.
const MAX_INPUT_BYTES: u64 = minnow_store::kv::MAX_VALUE_BYTES as u64 + 1;

/// Read and write key-value stores
#[derive(Debug, Args)]
#[command(
    long_about = "Read and write key-value stores.

A store is there once a live version declares it (`[kv.NAME]` in minnow.toml). It is named APP/STORE, or STORE for the app \
in this folder. What is written is on the node's disk when the command ends.",
    after_help = "Examples:
  minnow kv list shop/sessions
  minnow kv get shop/sessions user:1
  minnow kv set shop/sessions user:1 '{\"name\": \"Ada\"}' --ttl 1h
  minnow kv delete shop/sessions user:1",
    arg_required_else_help = true
)]
pub struct KvArgs {
    #[command(subcommand)]
    verb: KvVerb,
}

#[derive(Debug, Subcommand)]
enum KvVerb {
    Get(GetArgs),
    Set(SetArgs),
    Delete(DeleteArgs),
    List(ListArgs),
}

/// Print the value of a key
#[derive(Debug, Args)]
#[command(
    long_about = "Print the value of a key.

As it is, byte for byte. With --json an object with the value as `value`, or as `base64` where it is no text, and its \
metadata, expiry and version.",
    after_help = "Examples:
  minnow kv get shop/sessions user:1
  minnow kv get shop/images logo > logo.png
  minnow kv get sessions user:1 --json          of the app in this folder"
)]
struct GetArgs {
    /// The store
    #[arg(value_name = "APP/STORE")]
    store: StoreArg,
    /// The key
    #[arg(value_name = "KEY")]
    key: String,
    #[command(flatten)]
    json: JsonArg,
    #[command(flatten)]
    server: ServerArgs,
}

/// Set a key
#[derive(Debug, Args)]
#[command(
    long_about = "Set a key.

The value is VALUE, a file's content, or without both what comes from stdin; at most 25 MiB. What was under the key before, \
with its metadata and expiry, is replaced.",
    after_help = "Examples:
  minnow kv set shop/sessions greeting 'Hello'
  minnow kv set shop/sessions user:1 '{}' --ttl 30m --metadata 'made by hand'
  minnow kv set shop/images logo --file logo.png
  date | minnow kv set shop/sessions started"
)]
struct SetArgs {
    /// The store
    #[arg(value_name = "APP/STORE")]
    store: StoreArg,
    /// The key, up to 2 KiB
    #[arg(value_name = "KEY")]
    key: String,
    /// The value
    #[arg(value_name = "VALUE", conflicts_with = "file", allow_hyphen_values = true)]
    value: Option<String>,
    /// The file with the value
    #[arg(long, short, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    file: Option<PathBuf>,
    /// The key goes after this time: 30s, 10m, 2h, 7d
    #[arg(long, value_name = "TIME", value_parser = positive)]
    ttl: Option<Duration>,
    /// Some text that `list` shows, up to 1 KiB
    #[arg(long, value_name = "TEXT")]
    metadata: Option<String>,
    #[command(flatten)]
    json: JsonArg,
    #[command(flatten)]
    server: ServerArgs,
}

/// Delete keys
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  minnow kv delete shop/sessions user:1
  minnow kv delete shop/sessions user:1 user:2")]
struct DeleteArgs {
    /// The store
    #[arg(value_name = "APP/STORE")]
    store: StoreArg,
    /// The keys
    #[arg(value_name = "KEY", required = true)]
    keys: Vec<String>,
    #[command(flatten)]
    json: JsonArg,
    #[command(flatten)]
    server: ServerArgs,
}

/// List keys
#[derive(Debug, Args)]
#[command(
    long_about = "List keys, in the order of their bytes, with their expiry and metadata.",
    after_help = "Examples:
  minnow kv list shop/sessions
  minnow kv list shop/sessions user:            only keys that begin so
  minnow kv list shop/sessions --after user:7   what comes after this key
  minnow kv list shop/sessions --limit 100000 --json | jq -r '.[].key'"
)]
struct ListArgs {
    /// The store
    #[arg(value_name = "APP/STORE")]
    store: StoreArg,
    /// Only keys that begin with it
    #[arg(value_name = "PREFIX")]
    prefix: Option<String>,
    /// Only what comes after this key; a list that has more ends with the one to go on with
    #[arg(long, value_name = "KEY")]
    after: Option<String>,
    /// At most this many keys
    #[arg(long, value_name = "KEYS", default_value_t = PAGE, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    #[command(flatten)]
    json: JsonArg,
    #[command(flatten)]
    server: ServerArgs,
}

impl KvArgs {
    /// Whether a script reads what comes out.
    pub fn wants_json(&self) -> bool {
        match &self.verb {
            KvVerb::Get(args) => args.json.json,
            KvVerb::Set(args) => args.json.json,
            KvVerb::Delete(args) => args.json.json,
            KvVerb::List(args) => args.json.json,
        }
    }
}

pub async fn run(args: KvArgs) -> anyhow::Result<()> {
    match args.verb {
        KvVerb::Get(args) => get(args).await,
        KvVerb::Set(args) => set(args).await,
        KvVerb::Delete(args) => delete(args).await,
        KvVerb::List(args) => list(args).await,
    }
}

#[derive(Serialize)]
struct Got {
    key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    base64: Option<String>,
    metadata: Option<String>,
    expires_ms: Option<u64>,
    version: u64,
}

async fn get(args: GetArgs) -> anyhow::Result<()> {
    let found = args.server.client()?.kv_get(&args.store.path()?, &args.key).await?;
    if !args.json.json {
        output::raw(&found.value)?;
        // A shell's prompt begins on a line of its own; a file or a pipe gets the value alone.
        if output::is_terminal() && !found.value.ends_with(b"\n") {
            output::line("")?;
        }
        return Ok(());
    }
    let (value, base64) = match String::from_utf8(found.value.to_vec()) {
        Ok(text) => (Some(text), None),
        Err(error) => (None, Some(BASE64.encode(error.as_bytes()))),
    };
    let (metadata, expires_ms, version) = (found.metadata, found.expires_ms, found.version);
    output::json(&Got { key: args.key, value, base64, metadata, expires_ms, version })
}

#[derive(Serialize)]
struct Done {
    store: String,
    keys: Vec<String>,
}

async fn set(args: SetArgs) -> anyhow::Result<()> {
    let store = args.store.path()?;
    let value = match (args.value, &args.file) {
        (Some(value), _) => value.into_bytes(),
        (None, Some(file)) => input::file(file)?,
        (None, None) => {
            input::tell_terminal("the value");
            input::stdin(MAX_INPUT_BYTES)?
        }
    };
    let query = KvPutQuery {
        key: args.key,
        metadata: args.metadata,
        expires_ms: args
            .ttl
            .map(|ttl| output::now_ms().saturating_add(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX))),
        ttl_s: None,
    };
    let size = value.len() as u64;
    args.server.client()?.kv_set(&store, &query, value).await?;
    if args.json.json {
        return output::json(&Done { store: store.to_string(), keys: vec![query.key] });
    }
    output::line(format_args!(
        "{GREEN}set{GREEN:#} {}  {DIM}{}{DIM:#}",
        output::printable(&query.key),
        output::size(size)
    ))
}

async fn delete(args: DeleteArgs) -> anyhow::Result<()> {
    let store = args.store.path()?;
    let client = args.server.client()?;
    for key in &args.keys {
        client.kv_delete(&store, key).await?;
        if !args.json.json {
            output::line(format_args!("{GREEN}deleted{GREEN:#} {}", output::printable(key)))?;
        }
    }
    if args.json.json {
        return output::json(&Done { store: store.to_string(), keys: args.keys });
    }
    Ok(())
}

async fn list(args: ListArgs) -> anyhow::Result<()> {
    let store = args.store.path()?;
    let client = args.server.client()?;
    let mut query = KvListQuery { prefix: args.prefix, cursor: args.after, limit: None };
    let mut keys: Vec<KvKey> = Vec::new();
    loop {
        let left = args.limit.saturating_sub(u32::try_from(keys.len()).unwrap_or(u32::MAX));
        query.limit = Some(left.min(PAGE));
        let page = client.kv_list(&store, &query).await?;
        keys.extend(page.keys);
        query.cursor = page.cursor;
        if query.cursor.is_none() || keys.len() >= args.limit as usize {
            break;
        }
    }
    if let Some(after) = &query.cursor {
        report::more("keys", args.limit, after);
    }
    if args.json.json {
        return output::json(&keys);
    }
    if keys.is_empty() {
        return output::line(format_args!("{DIM}no such keys{DIM:#}"));
    }
    let mut table = output::table(&["key", "expires", "metadata"]);
    for key in keys {
        let expires = key.expires_ms.map_or("–".into(), output::timestamp);
        let metadata = key.metadata.map_or("–".into(), |text| output::printable(&text));
        table.add_row([output::printable(&key.key), expires, metadata]);
    }
    output::print_table(table)
}
