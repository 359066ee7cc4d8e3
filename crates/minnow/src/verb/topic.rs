//! `minnow topic`: topics and what is in them.

mod dead;
mod show;

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand};
use minnow_control::api_types::{MessagesQuery, ReplayRequest};
use minnow_model::{
    AppName, FunctionName,
    event::{AttributeName, DEFAULT_KIND, MAX_PUBLISH_BYTES, PARTITION_KEY},
};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use crate::{
    cli::{AppArgs, JsonArg, ServerArgs},
    client::{Message, Publish},
    duration::positive,
    input,
    output::{self, DIM, GREEN, YELLOW},
    since::Since,
    store::{StoreArg, StorePath},
};

/// What a header cannot hold as it is (CloudEvents' HTTP binding, 3.1.3.2).
const HEADER: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'%');

/// What is read of the data, in bytes: more than any batch takes, so that the node says that it is too much.
const MAX_INPUT_BYTES: u64 = 2 * MAX_PUBLISH_BYTES as u64;

/// Publish to topics, look into them, and see to dead letters
#[derive(Debug, Args)]
#[command(
    long_about = "Publish to topics, look into them, and see to dead letters.

A topic is there once a live version declares it (`[topic.NAME]` in minnow.toml). It is named APP/TOPIC, or TOPIC with \
`--app APP`, or TOPIC for the app in this folder.",
    after_help = "Examples:
  minnow topic list shop
  minnow topic publish shop/orders '{\"total\": 12}' --key ada
  minnow topic tail shop/orders -f
  minnow topic dead list shop/orders
  minnow topic dead retry shop/orders 3",
    arg_required_else_help = true
)]
pub struct TopicArgs {
    #[command(subcommand)]
    verb: TopicVerb,
}

#[derive(Debug, Subcommand)]
enum TopicVerb {
    List(ListArgs),
    Info(InfoArgs),
    Publish(PublishArgs),
    Tail(TailArgs),
    Replay(ReplayArgs),
    Dead(dead::DeadArgs),
}

/// The topic that a verb is about.
#[derive(Debug, Args)]
struct Topic {
    /// The topic: APP/TOPIC, or TOPIC with --app or for the app in this folder
    #[arg(value_name = "TOPIC")]
    topic: StoreArg,
    /// The app by its name
    #[arg(long, value_name = "NAME")]
    app: Option<AppName>,
}

impl Topic {
    fn path(&self) -> anyhow::Result<StorePath> {
        self.topic.path_in(self.app.as_ref())
    }
}

/// List an app's topics
#[derive(Debug, Args)]
#[command(
    long_about = "List an app's topics.

With the number of their messages, and for each function that follows one how many it has not done and how many are dead \
letters.",
    after_help = "Examples:
  minnow topic list                     of the app in this folder
  minnow topic list shop
  minnow topic list shop --json | jq '.topics[] | {name, messages}'"
)]
struct ListArgs {
    #[command(flatten)]
    app: AppArgs,
    #[command(flatten)]
    json: JsonArg,
    #[command(flatten)]
    server: ServerArgs,
}

/// Show a topic, and how far functions have come in it
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  minnow topic info shop/orders
  minnow topic info orders --app shop --json")]
struct InfoArgs {
    #[command(flatten)]
    topic: Topic,
    #[command(flatten)]
    json: JsonArg,
    #[command(flatten)]
    server: ServerArgs,
}

/// Publish a message
#[derive(Debug, Args)]
#[command(
    long_about = "Publish a message.

The data is DATA, a file's content, or without both what comes from stdin; at most 768 KiB. Its type is application/json where \
it is JSON, else text/plain, or application/octet-stream where it is no text; `--content-type` says otherwise. With \
`--content-type application/cloudevents+json` it is a whole CloudEvent, with `application/cloudevents-batch+json` a list of at \
most 100. It is on the node's disk when the command ends.",
    after_help = "Examples:
  minnow topic publish shop/orders '{\"total\": 12}'
  minnow topic publish shop/orders '{}' --type order.created --key ada --id o-17
  minnow topic publish shop/orders --file order.json --delay 10m
  minnow topic publish shop/orders --content-type application/cloudevents-batch+json < events.json"
)]
struct PublishArgs {
    #[command(flatten)]
    topic: Topic,
    /// The data
    #[arg(value_name = "DATA", conflicts_with = "file", allow_hyphen_values = true)]
    data: Option<String>,
    /// The file with the data
    #[arg(long, short, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    file: Option<PathBuf>,
    /// The type of the data
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,
    /// The event's `id`; one that was published in the last two minutes is not published again
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// The event's `type` [default: minnow.message]
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
    /// The event's `source` [default: /apps/APP/topics/TOPIC]
    #[arg(long, value_name = "URI")]
    source: Option<String>,
    /// The event's `subject`
    #[arg(long, value_name = "TEXT")]
    subject: Option<String>,
    /// The key, within which `order_by = "key"` keeps the order
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// A further attribute; may be given several times
    #[arg(long, value_name = "NAME=VALUE", value_parser = attribute)]
    attribute: Vec<(AttributeName, String)>,
    /// Holds the message back for so long, up to 7 days: 30s, 10m, 2h
    #[arg(long, value_name = "TIME", value_parser = positive)]
    delay: Option<Duration>,
    #[command(flatten)]
    json: JsonArg,
    #[command(flatten)]
    server: ServerArgs,
}

/// Show the messages of a topic
#[derive(Debug, Args)]
#[command(
    long_about = "Show the messages of a topic.

The newest ones, one a line: position, time, type, subject or key, and data. With --json each line is one CloudEvent. Nothing is \
taken out of the topic.",
    after_help = "Examples:
  minnow topic tail shop/orders
  minnow topic tail shop/orders -f                   go on as messages come; Ctrl-C ends it
  minnow topic tail shop/orders --since 1h --json | jq .data"
)]
struct TailArgs {
    #[command(flatten)]
    topic: Topic,
    /// Go on with new messages as they come
    #[arg(long, short)]
    follow: bool,
    /// Messages since then, the oldest first: 30s, 10m, 2h, 1d, or a UTC time like 2026-11-20T18:30:00Z
    #[arg(long, value_name = "TIME")]
    since: Option<Since>,
    /// At most this many of those that are there, up to 10000 [default: 10, with --since 1000]
    #[arg(long, short = 'n', value_name = "MESSAGES", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: Option<u32>,
    #[command(flatten)]
    json: JsonArg,
    #[command(flatten)]
    server: ServerArgs,
}

/// Have a function get messages again
#[derive(Debug, Args)]
#[command(
    long_about = "Have a function get messages again.

The function goes on at the place that is named, back or forwards, and gets all messages from there on. What it is being \
delivered meanwhile does not count.",
    after_help = "Examples:
  minnow topic replay shop/orders --function fulfil --since 1h
  minnow topic replay shop/orders --function fulfil --position 1        from the beginning"
)]
#[group(id = "place", required = true, multiple = false, args = ["position", "since"])]
struct ReplayArgs {
    #[command(flatten)]
    topic: Topic,
    /// The function
    #[arg(long, value_name = "NAME")]
    function: FunctionName,
    /// From this position on
    #[arg(long, value_name = "NUMBER")]
    position: Option<u64>,
    /// From what was taken then: 30s, 10m, 2h, 1d ago, or a UTC time like 2026-11-20T18:30:00Z
    #[arg(long, value_name = "TIME")]
    since: Option<Since>,
    #[command(flatten)]
    json: JsonArg,
    #[command(flatten)]
    server: ServerArgs,
}

/// `NAME=VALUE`.
fn attribute(text: &str) -> Result<(AttributeName, String), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    let name = name.parse::<AttributeName>().map_err(|error| error.to_string())?;
    Ok((name, value.to_owned()))
}

impl TopicArgs {
    /// Whether a script reads what comes out.
    pub fn wants_json(&self) -> bool {
        match &self.verb {
            TopicVerb::List(args) => args.json.json,
            TopicVerb::Info(args) => args.json.json,
            TopicVerb::Publish(args) => args.json.json,
            TopicVerb::Tail(args) => args.json.json,
            TopicVerb::Replay(args) => args.json.json,
            TopicVerb::Dead(args) => args.wants_json(),
        }
    }
}

pub async fn run(args: TopicArgs) -> anyhow::Result<()> {
    match args.verb {
        TopicVerb::List(args) => {
            let app = args.app.name()?;
            let list = args.server.client()?.topics(&app).await?;
            if args.json.json { output::json(&list) } else { show::list(&list.topics, output::now_ms()) }
        }
        TopicVerb::Info(args) => {
            let topic = args.topic.path()?;
            let info = args.server.client()?.topic(&topic).await?;
            if args.json.json { output::json(&info) } else { show::info(&topic, &info, output::now_ms()) }
        }
        TopicVerb::Publish(args) => publish(args).await,
        TopicVerb::Tail(args) => tail(args).await,
        TopicVerb::Replay(args) => replay(args).await,
        TopicVerb::Dead(args) => dead::run(args).await,
    }
}

async fn publish(args: PublishArgs) -> anyhow::Result<()> {
    let topic = args.topic.path()?;
    let body = match (args.data, &args.file) {
        (Some(data), _) => data.into_bytes(),
        (None, Some(file)) => input::file(file)?,
        (None, None) => {
            input::tell_terminal("the data");
            input::stdin(MAX_INPUT_BYTES)?
        }
    };
    let mut attributes: Vec<(String, String)> = Vec::new();
    attributes.extend(args.attribute.into_iter().map(|(name, value)| (name.to_string(), value)));
    attributes.extend(args.key.map(|key| (PARTITION_KEY.to_owned(), key)));
    attributes.extend(args.subject.map(|subject| ("subject".to_owned(), subject)));
    let is_event = !attributes.is_empty() || args.id.is_some() || args.kind.is_some() || args.source.is_some();
    if is_event {
        // With one attribute all that CloudEvents requires are to be there.
        let source = args.source.unwrap_or_else(|| format!("/apps/{}/topics/{}", topic.app, topic.store));
        let id = args.id.map_or_else(drawn_id, Ok)?;
        attributes.extend([
            ("specversion".to_owned(), "1.0".to_owned()),
            ("id".to_owned(), id),
            ("source".to_owned(), source),
            ("type".to_owned(), args.kind.unwrap_or_else(|| DEFAULT_KIND.to_owned())),
        ]);
    }
    let publish = Publish {
        content_type: args.content_type.unwrap_or_else(|| content_type(&body).to_owned()),
        attributes: attributes
            .into_iter()
            .map(|(name, value)| (name, utf8_percent_encode(&value, HEADER).to_string()))
            .collect(),
        body,
        delay_ms: args.delay.map(|delay| u64::try_from(delay.as_millis()).unwrap_or(u64::MAX)),
    };
    let sent = args.server.client()?.topic_publish(&topic, publish).await?;
    if args.json.json {
        return output::json(&sent);
    }
    for sent in sent.sent {
        let id = output::printable(&sent.id);
        match (sent.position, sent.duplicate) {
            (Some(position), true) => {
                output::line(format_args!("{YELLOW}duplicate{YELLOW:#} {id}  {DIM}position {position}{DIM:#}"))?;
            }
            (Some(position), false) => {
                output::line(format_args!("{GREEN}published{GREEN:#} {id}  {DIM}position {position}{DIM:#}"))?;
            }
            (None, true) => output::line(format_args!("{YELLOW}duplicate{YELLOW:#} {id}  {DIM}held back{DIM:#}"))?,
            (None, false) => output::line(format_args!("{GREEN}published{GREEN:#} {id}  {DIM}held back{DIM:#}"))?,
        }
    }
    Ok(())
}

/// An id for an event that has none.
fn drawn_id() -> anyhow::Result<String> {
    let mut id = [0; 16];
    getrandom::fill(&mut id)?;
    Ok(format!("{:032x}", u128::from_be_bytes(id)))
}

/// What data is, by its look.
fn content_type(data: &[u8]) -> &'static str {
    match std::str::from_utf8(data) {
        Ok(text) if serde_json::from_str::<&serde_json::value::RawValue>(text).is_ok() => "application/json",
        Ok(_) => "text/plain; charset=utf-8",
        Err(_) => "application/octet-stream",
    }
}

async fn tail(args: TailArgs) -> anyhow::Result<()> {
    let topic = args.topic.path()?;
    let client = args.server.client()?;
    let since_ms = args.since.map(|since| since.as_ms(output::now_ms()));
    let limit = args.limit.unwrap_or(if since_ms.is_some() { 1000 } else { 10 });
    let after = match since_ms {
        Some(_) => None,
        // The newest ones.
        None => client.topic(&topic).await?.last.map(|last| last.saturating_sub(u64::from(limit))),
    };
    let query = MessagesQuery { after, since_ms, limit: Some(limit), follow: args.follow };
    let mut lines = client.topic_messages(&topic, &query).await?;
    let mut is_empty = true;
    while let Some(line) = lines.next().await? {
        is_empty = false;
        if args.json.json {
            output::raw(&line)?;
        } else {
            let message: Message = lines.read(&line)?;
            output::line(show::message(&message))?;
        }
    }
    if is_empty && !args.json.json && output::is_terminal() {
        output::line(format_args!("{DIM}no such messages{DIM:#}"))?;
    }
    Ok(())
}

async fn replay(args: ReplayArgs) -> anyhow::Result<()> {
    let topic = args.topic.path()?;
    let replay = ReplayRequest {
        function: args.function,
        position: args.position,
        time_ms: args.since.map(|since| since.as_ms(output::now_ms())),
    };
    args.server.client()?.topic_replay(&topic, &replay).await?;
    if args.json.json {
        return output::json(&replay);
    }
    let place = match (replay.position, replay.time_ms) {
        (Some(position), _) => format!("position {position}"),
        (None, time_ms) => format!("what was taken at {}", output::timestamp(time_ms.unwrap_or_default())),
    };
    output::line(format_args!("{GREEN}replaying{GREEN:#} {topic} to {} from {place} on", replay.function))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_what_it_looks_like() {
        for (data, expected) in [
            (&b"{\"a\": 1}"[..], "application/json"),
            (b"12", "application/json"),
            (b"hello", "text/plain; charset=utf-8"),
            (b"", "text/plain; charset=utf-8"),
            (b"\xff", "application/octet-stream"),
        ] {
            assert_eq!(content_type(data), expected);
        }
    }
}
