//! `minnow blob`: the buckets of apps.

mod get;
mod put;

use std::{path::PathBuf, time::Duration};

use bytesize::ByteSize;
use clap::{Args, Subcommand};
use minnow_control::api_types::{BlobInfo, BlobListQuery, BlobMethod, SignBlob};
use serde::Serialize;

use crate::{
    cli::{JsonArg, ServerArgs},
    duration::positive,
    output::{self, DIM, GREEN},
    report,
    store::StoreArg,
};

/// The most blobs that a node gives in one page.
const PAGE: u32 = 1000;

/// Put, get, list and delete blobs, and sign URLs for them
#[derive(Debug, Args)]
#[command(
    long_about = "Put, get, list and delete blobs, and sign URLs for them.

A bucket is there once a live version declares it (`[blob.NAME]` in minnow.toml). It is named APP/BUCKET, or BUCKET for the app \
in this folder. What is written is on the node's disk when the command ends.",
    after_help = "Examples:
  minnow blob put shop/uploads logo.png logo.png
  minnow blob get shop/uploads logo.png copy.png
  minnow blob list shop/uploads images/
  minnow blob delete shop/uploads logo.png
  minnow blob sign shop/uploads logo.png --expires 1h",
    arg_required_else_help = true
)]
pub struct BlobArgs {
    #[command(subcommand)]
    verb: BlobVerb,
}

#[derive(Debug, Subcommand)]
enum BlobVerb {
    Put(PutArgs),
    Get(GetArgs),
    List(ListArgs),
    Delete(DeleteArgs),
    Sign(SignArgs),
}

/// Put a file, or what comes from stdin, under a key
#[derive(Debug, Args)]
#[command(
    long_about = "Put a file, or what comes from stdin, under a key.

At most 5 GiB. What was under the key before is replaced when all of it has arrived; when it breaks off, nothing changes. \
Without --content-type the type follows the ending of the file's name, or of the key's.",
    after_help = "Examples:
  minnow blob put shop/uploads logo.png logo.png
  minnow blob put shop/uploads reports/2026.json report.json --metadata by=Ada
  pg_dump shop | zstd | minnow blob put shop/backups today.sql.zst -
  minnow blob put shop/uploads logo.png logo.png --if-absent"
)]
struct PutArgs {
    /// The bucket
    #[arg(value_name = "APP/BUCKET")]
    store: StoreArg,
    /// The key, up to 1 KiB
    #[arg(value_name = "KEY")]
    key: String,
    /// The file, or - for stdin. Default: stdin
    #[arg(value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    file: Option<PathBuf>,
    /// What the content is, for example image/png
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,
    /// How caches may keep it, for example max-age=3600
    #[arg(long, value_name = "TEXT")]
    cache_control: Option<String>,
    /// Something to keep with it; may be given several times
    #[arg(long, value_name = "NAME=VALUE", value_parser = metadata)]
    metadata: Vec<(String, String)>,
    /// Only if there is nothing under the key
    #[arg(long)]
    if_absent: bool,
    #[command(flatten)]
    json: JsonArg,
    #[command(flatten)]
    server: ServerArgs,
}

/// Write a blob to a file or to stdout
#[derive(Debug, Args)]
#[command(
    long_about = "Write a blob to a file or to stdout.

A file that is there is not written over without --force. It appears when all of the blob has come and its sha256 is that of \
the blob; until then there is none. What goes to stdout is checked at the end, too: the command fails if it was not right.",
    after_help = "Examples:
  minnow blob get shop/uploads logo.png logo.png
  minnow blob get shop/uploads logo.png logo.png --force
  minnow blob get shop/backups today.sql.zst | zstd -d | psql shop
  minnow blob get uploads notes.txt -                            on the terminal; of the app in this folder"
)]
struct GetArgs {
    /// The bucket
    #[arg(value_name = "APP/BUCKET")]
    store: StoreArg,
    /// The key
    #[arg(value_name = "KEY")]
    key: String,
    /// The file to write, or - for stdout. Default: stdout, if that is no terminal
    #[arg(value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    file: Option<PathBuf>,
    /// Write over a file that is there
    #[arg(long, short)]
    force: bool,
    #[command(flatten)]
    json: JsonArg,
    #[command(flatten)]
    server: ServerArgs,
}

/// List blobs
#[derive(Debug, Args)]
#[command(
    long_about = "List blobs, in the order of the bytes of their keys.",
    after_help = "Examples:
  minnow blob list shop/uploads
  minnow blob list shop/uploads images/                 only keys that begin so
  minnow blob list shop/uploads images/ --delimiter /   what is in this folder, and its folders
  minnow blob list shop/uploads --after images/b.png    what comes after this key
  minnow blob list shop/uploads --json | jq '.blobs[] | {key, size}'"
)]
struct ListArgs {
    /// The bucket
    #[arg(value_name = "APP/BUCKET")]
    store: StoreArg,
    /// Only keys that begin with it
    #[arg(value_name = "PREFIX")]
    prefix: Option<String>,
    /// Show keys that have this after the prefix once, by what they begin with
    #[arg(long, value_name = "TEXT", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    delimiter: Option<String>,
    /// Only what comes after this key or prefix; a list that has more ends with the one to go on with
    #[arg(long, value_name = "KEY")]
    after: Option<String>,
    /// At most this many blobs and prefixes
    #[arg(long, value_name = "BLOBS", default_value_t = PAGE, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    #[command(flatten)]
    json: JsonArg,
    #[command(flatten)]
    server: ServerArgs,
}

/// Delete blobs
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  minnow blob delete shop/uploads logo.png
  minnow blob delete shop/uploads a.png b.png")]
struct DeleteArgs {
    /// The bucket
    #[arg(value_name = "APP/BUCKET")]
    store: StoreArg,
    /// The keys
    #[arg(value_name = "KEY", required = true)]
    keys: Vec<String>,
    #[command(flatten)]
    json: JsonArg,
    #[command(flatten)]
    server: ServerArgs,
}

/// Make a URL with which anybody may get or put one blob for a while
#[derive(Debug, Args)]
#[command(
    long_about = "Make a URL with which anybody may get or put one blob for a while.

Whoever has the URL needs no token, and the app no function for it. It cannot be taken back before it expires; a deploy of a \
version without the bucket, or a lost key file, makes it void. Behind a proxy with another name, put the app's own before the \
path (`path` of --json).",
    after_help = "Examples:
  minnow blob sign shop/uploads logo.png
  minnow blob sign shop/uploads logo.png --expires 7d
  minnow blob sign shop/uploads photo.jpg --put --max-size 10MiB --content-type image/jpeg
  curl -T photo.jpg \"$(minnow blob sign shop/uploads photo.jpg --put)\""
)]
struct SignArgs {
    /// The bucket
    #[arg(value_name = "APP/BUCKET")]
    store: StoreArg,
    /// The key
    #[arg(value_name = "KEY")]
    key: String,
    /// For an upload with PUT, not for a download
    #[arg(long)]
    put: bool,
    /// For how long the URL is good, up to 7d: 30s, 10m, 2h
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = positive)]
    expires: Duration,
    /// Of an upload: the most bytes, for example 10MiB
    #[arg(long, value_name = "SIZE", requires = "put", value_parser = size)]
    max_size: Option<ByteSize>,
    /// Of an upload: the content type that it has to have
    #[arg(long, value_name = "TYPE", requires = "put")]
    content_type: Option<String>,
    #[command(flatten)]
    json: JsonArg,
    #[command(flatten)]
    server: ServerArgs,
}

/// A size as people write it; what the parser says of a mistake names no example.
fn size(text: &str) -> Result<ByteSize, String> {
    text.parse().map_err(|_| "not a size; write for example 10MiB".to_owned())
}

impl BlobArgs {
    /// Whether a script reads what comes out.
    pub fn wants_json(&self) -> bool {
        match &self.verb {
            BlobVerb::Put(args) => args.json.json,
            BlobVerb::Get(args) => args.json.json,
            BlobVerb::List(args) => args.json.json,
            BlobVerb::Delete(args) => args.json.json,
            BlobVerb::Sign(args) => args.json.json,
        }
    }
}

pub async fn run(args: BlobArgs) -> anyhow::Result<()> {
    match args.verb {
        BlobVerb::Put(args) => put::run(args).await,
        BlobVerb::Get(args) => get::run(args).await,
        BlobVerb::List(args) => list(args).await,
        BlobVerb::Delete(args) => delete(args).await,
        BlobVerb::Sign(args) => sign(args).await,
    }
}

/// Reads `NAME=VALUE`.
fn metadata(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write NAME=VALUE".into()),
    }
}

/// What a list comes to, as JSON.
#[derive(Default, Serialize)]
struct Found {
    blobs: Vec<BlobInfo>,
    prefixes: Vec<String>,
    /// For `--after`, where there is more.
    cursor: Option<String>,
}

async fn list(args: ListArgs) -> anyhow::Result<()> {
    let store = args.store.path()?;
    let client = args.server.client()?;
    let mut query = BlobListQuery { prefix: args.prefix, delimiter: args.delimiter, cursor: args.after, limit: None };
    let mut found = Found::default();
    loop {
        let count = found.blobs.len() + found.prefixes.len();
        let left = args.limit.saturating_sub(u32::try_from(count).unwrap_or(u32::MAX));
        query.limit = Some(left.min(PAGE));
        let page = client.blob_list(&store, &query).await?;
        found.blobs.extend(page.blobs);
        found.prefixes.extend(page.prefixes);
        query.cursor = page.cursor;
        if query.cursor.is_none() || found.blobs.len() + found.prefixes.len() >= args.limit as usize {
            break;
        }
    }
    if let Some(after) = &query.cursor {
        report::more("blobs", args.limit, after);
    }
    found.cursor = query.cursor;
    if args.json.json {
        return output::json(&found);
    }
    if found.blobs.is_empty() && found.prefixes.is_empty() {
        return output::line(format_args!("{DIM}no such blobs{DIM:#}"));
    }
    let mut table = output::table(&["key", "size", "uploaded", "type"]);
    for prefix in found.prefixes {
        table.add_row([output::printable(&prefix), "–".into(), "–".into(), "–".into()]);
    }
    for blob in found.blobs {
        let content_type = blob.content_type.unwrap_or_else(|| "–".into());
        let uploaded = output::timestamp(blob.uploaded_ms);
        table.add_row([output::printable(&blob.key), output::size(blob.size), uploaded, content_type]);
    }
    output::print_table(table)
}

#[derive(Serialize)]
struct Deleted {
    store: String,
    keys: Vec<String>,
}

async fn delete(args: DeleteArgs) -> anyhow::Result<()> {
    let store = args.store.path()?;
    let client = args.server.client()?;
    for key in &args.keys {
        client.blob_delete(&store, key).await?;
        if !args.json.json {
            output::line(format_args!("{GREEN}deleted{GREEN:#} {}", output::printable(key)))?;
        }
    }
    if args.json.json {
        return output::json(&Deleted { store: store.to_string(), keys: args.keys });
    }
    Ok(())
}

async fn sign(args: SignArgs) -> anyhow::Result<()> {
    let request = SignBlob {
        key: args.key,
        method: if args.put { BlobMethod::Put } else { BlobMethod::Get },
        expires_s: args.expires.as_secs(),
        max_size: args.max_size.map(|size| size.as_u64()),
        content_type: args.content_type,
    };
    let signed = args.server.client()?.blob_sign(&args.store.path()?, &request).await?;
    if args.json.json { output::json(&signed) } else { output::line(&signed.url) }
}
