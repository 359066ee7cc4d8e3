//! Topics, dead letters and schedules, over the wire.

use minnow_model::{AppName, FunctionName, RequestId, ScheduleName, StoreName, event::WhenFull};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

/// Query of `POST /v1/topics/{topic}`, whose body is what is published.
#[derive(Debug, Clone, Default, Serialize, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct PublishQuery {
    /// The app that has the topic. It may be left out where only one live app has a topic of this name.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub app: Option<AppName>,
    /// Holds the messages back for so long, in milliseconds: at most a week.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay_ms: Option<u64>,
}

/// `POST /v1/topics/{topic}`: what became of the messages, in their order. They are durable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EventsSent {
    pub sent: Vec<EventSent>,
}

/// One message that was published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EventSent {
    /// The event's `id`.
    pub id: String,
    /// Its place in the topic; absent while it is held back. That of a duplicate is the place of the first.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    #[schema(required = false)]
    pub position: Option<u64>,
    /// Whether its source has published the id in the last two minutes. Nothing was added then.
    pub duplicate: bool,
}

/// `GET /v1/apps/{app}/topics`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TopicList {
    /// By name.
    pub topics: Vec<TopicInfo>,
}

/// One topic of an app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TopicInfo {
    #[schema(value_type = String)]
    pub name: StoreName,
    /// What it may hold; absent for one that no live version declares.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    #[schema(required = false)]
    pub bounds: Option<TopicBounds>,
    /// Messages, with those that are held back.
    pub messages: u64,
    /// What they take together, attributes and data.
    pub bytes: u64,
    /// The first and the last position that are there.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    #[schema(required = false)]
    pub first: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    #[schema(required = false)]
    pub last: Option<u64>,
    /// Messages that are held back.
    pub delayed: u64,
    /// When the first of them is due, in milliseconds since the Unix epoch.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    #[schema(required = false)]
    pub next_delayed_ms: Option<u64>,
    /// The functions that follow it, or did in the last week.
    pub consumers: Vec<ConsumerInfo>,
}

/// What a topic may hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TopicBounds {
    pub retention_ms: u64,
    pub max_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    #[schema(required = false)]
    pub max_messages: Option<u64>,
    pub when_full: WhenFull,
}

/// How far a function has come in a topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ConsumerInfo {
    #[schema(value_type = String)]
    pub function: FunctionName,
    /// Messages that are not done.
    pub lag: u64,
    /// When the oldest of them was taken, in milliseconds since the Unix epoch.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    #[schema(required = false)]
    pub oldest_ms: Option<u64>,
    /// Messages that are delivered, or wait to be delivered again.
    pub outstanding: u64,
    /// Those of them that failed and come again.
    pub retrying: u64,
    /// When the next of these comes, in milliseconds since the Unix epoch.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    #[schema(required = false)]
    pub next_retry_ms: Option<u64>,
    /// Its dead letters.
    pub dead: u64,
    /// Messages that went before they were done, since the node started.
    pub expired: u64,
    /// For how long nothing has been delivered, in milliseconds, since the function or the node had no room for it or asked to wait.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    #[schema(required = false)]
    pub paused_ms: Option<u64>,
    /// Since when no live version follows the topic, in milliseconds since the Unix epoch. It then holds nothing back.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    #[schema(required = false)]
    pub left_ms: Option<u64>,
}

/// Query of `GET /v1/apps/{app}/topics/{topic}/messages`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct MessagesQuery {
    /// Only messages after this position.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
    /// Only messages that were taken then or later, in milliseconds since the Unix epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since_ms: Option<u64>,
    /// At most this many messages of those that are there, 1 to 10000; 1000 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Goes on with what comes, until the caller goes away.
    #[serde(default)]
    pub follow: bool,
}

/// `POST /v1/apps/{app}/topics/{topic}/replay`: where a function goes on. Either `position` or `time_ms`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReplayRequest {
    #[schema(value_type = String)]
    pub function: FunctionName,
    /// With this message, or the first one after it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    #[schema(required = false)]
    pub position: Option<u64>,
    /// With the first message that was taken then or later, in milliseconds since the Unix epoch.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    #[schema(required = false)]
    pub time_ms: Option<u64>,
}

/// Query of `GET /v1/apps/{app}/topics/{topic}/dead`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct DeadQuery {
    /// Only those of this function.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub function: Option<FunctionName>,
    /// The `next` of the page before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
    /// At most this many, 1 to 1000; 100 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// Some dead letters of a topic, the oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeadLetters {
    pub letters: Vec<DeadLetterInfo>,
    /// Where the next page begins, for `after`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    #[schema(required = false)]
    pub next: Option<u64>,
}

/// A message that a function did not get done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeadLetterInfo {
    /// What it is called by, for its topic.
    pub number: u64,
    #[schema(value_type = String)]
    pub function: FunctionName,
    /// The place that the message had in the topic.
    pub position: u64,
    /// When the topic took the message, in milliseconds since the Unix epoch.
    pub taken_ms: u64,
    /// When it became a dead letter, likewise.
    pub died_ms: u64,
    /// How often it was delivered in vain.
    pub tries: u32,
    /// Why: the code of an error, a status, or what the message is.
    pub reason: String,
    /// The status of the last answer.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    #[schema(required = false)]
    pub status: Option<u16>,
    /// The event's `id`.
    pub id: String,
    /// The event's `type`.
    pub r#type: String,
    /// Its data, in bytes.
    pub bytes: u64,
    /// The topic that has not got its copy yet.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    #[schema(value_type = Option<String>, required = false)]
    pub forward: Option<StoreName>,
    /// Whether it is to be delivered again.
    pub again: bool,
}

/// `GET /v1/apps/{app}/topics/{topic}/dead/{number}`: all that is known of a dead letter.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct DeadLetterDetail {
    pub letter: DeadLetterInfo,
    /// The body of the last answer, or its beginning, with `�` for what is not UTF-8.
    pub answer: String,
    /// The message as a CloudEvent in JSON.
    #[schema(value_type = Object)]
    pub event: Box<RawValue>,
}

/// Which dead letters of a topic a call is about.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct DeadOf {
    /// All of this function.
    #[schema(value_type = String)]
    #[param(value_type = String)]
    pub function: FunctionName,
}

/// How many dead letters it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeadCount {
    pub letters: u64,
}

/// `GET /v1/apps/{app}/schedules`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ScheduleList {
    /// By function and name.
    pub schedules: Vec<ScheduleInfo>,
}

/// One schedule of a live function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ScheduleInfo {
    #[schema(value_type = String)]
    pub function: FunctionName,
    #[schema(value_type = String)]
    pub name: ScheduleName,
    /// The schedule in words: `*/5 * * * * Europe/Oslo`, `@every 10s`, `2026-12-24T17:00:00Z`.
    pub when: String,
    /// When it is due next, in milliseconds since the Unix epoch; absent when it is not any more.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    #[schema(required = false)]
    pub next_ms: Option<u64>,
    /// When it was due last, likewise; absent when it was not yet.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    #[schema(required = false)]
    pub last_ms: Option<u64>,
    /// Whether it runs at this moment.
    pub running: bool,
}

/// Query of `POST /v1/apps/{app}/schedules/{schedule}/run`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct ScheduleRunQuery {
    /// The function that has the schedule. It may be left out where only one has one of this name.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub function: Option<FunctionName>,
}

/// `POST /v1/apps/{app}/schedules/{schedule}/run` and `POST /v1/apps/{app}/functions/{function}/invoke-async`: it is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RunStarted {
    /// The id of the invocation, under which its lines are in the log.
    #[schema(value_type = String)]
    pub id: RequestId,
}

/// How it stands with an asynchronous invoke.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RunState {
    /// For its first try, or its next one.
    Waiting,
    Running,
    Succeeded,
    Failed,
}

/// How it stands with who is to be told of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DestinationState {
    /// It is to be told, perhaps again.
    Waiting,
    Told,
    /// It could not be told, and will not be.
    GivenUp,
}

/// `GET /v1/apps/{app}/runs/{id}`: an asynchronous invoke. Its result is kept for 24 hours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RunInfo {
    /// That of its invocations as well, under which their lines are in the log.
    #[schema(value_type = String)]
    pub id: RequestId,
    #[schema(value_type = String)]
    pub function: FunctionName,
    pub state: RunState,
    /// When it was taken, in milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// Tries that failed, and the one that worked. What the function put off by `retry-after` is not counted.
    pub tries: u32,
    /// When it is tried next, in milliseconds since the Unix epoch, while it waits.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    #[schema(required = false)]
    pub next_ms: Option<u64>,
    /// When it ended, likewise.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    #[schema(required = false)]
    pub finished_ms: Option<u64>,
    /// Why the last try failed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    #[schema(required = false)]
    pub reason: Option<String>,
    /// The status of the last answer.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    #[schema(required = false)]
    pub status: Option<u16>,
    /// The header fields of the last answer, once it has ended.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    #[schema(required = false)]
    pub headers: Vec<(String, String)>,
    /// Its body likewise, up to 256 KiB, in Base64 (RFC 4648, padded).
    #[serde(skip_serializing_if = "Option::is_none", default)]
    #[schema(required = false)]
    pub body: Option<String>,
    /// Whether the body was longer.
    pub truncated: bool,
    /// Who is told of it, if somebody is.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    #[schema(required = false)]
    pub destination: Option<RunDestination>,
}

/// Who is told what became of an asynchronous invoke.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RunDestination {
    /// The name of a topic, or a URL.
    pub to: String,
    pub state: DestinationState,
    pub tries: u32,
    /// When it is told next, in milliseconds since the Unix epoch, while it waits.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    #[schema(required = false)]
    pub next_ms: Option<u64>,
    /// Why it could not be told the last time.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    #[schema(required = false)]
    pub reason: Option<String>,
}
