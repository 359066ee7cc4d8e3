//! Events: what a message is, what a topic holds, who follows it, and when the clock starts a function.
//!
//! A message is a CloudEvent 1.0 (<https://github.com/cloudevents/spec>). Read in this order: [`Event`] and its forms in HTTP and
//! JSON (`cloud.rs`), [`Topic`] and [`Subscription`], [`Webhook`], [`Backoff`], [`Schedule`], [`Async`].

mod asynchronous;
mod cloud;
mod retry;
mod schedule;
mod subscription;
mod webhook;

use std::{borrow::Borrow, collections::BTreeMap, fmt, str::FromStr, sync::Arc};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

pub use asynchronous::{
    Async, DEFAULT_ASYNC_BACKOFF, DEFAULT_ASYNC_RETRIES, DEFAULT_MAX_AGE, Destination, DestinationError,
    DestinationUrl, MAX_AGE, MAX_URL_BYTES,
};
pub use cloud::{BATCH_TYPE, Draft, EVENT_TYPE, read_http, write_batch};
pub use retry::{BACKOFF, Backoff};
pub use schedule::{
    EVERY, MAX_APP_SCHEDULES, MAX_CRON_BYTES, MAX_SCHEDULES, Missed, Overlap, Schedule, ScheduleError, When, Zone,
};
pub(crate) use subscription::dead_letter_circle;
pub use subscription::{
    DEFAULT_RETENTION, DEFAULT_RETRIES, DEFAULT_TOPIC_BYTES, From, MAX_BATCH, MAX_PATTERN_BYTES, MAX_PATTERNS,
    MAX_RETRIES, MAX_SUBSCRIPTIONS, MAX_WAIT, Pattern, PatternError, RETENTION, Subscription, TOPIC_MESSAGES, Topic,
    TopicRules, WhenFull, takes,
};
pub use webhook::{Encoding, MAX_PREFIX_BYTES, OwnSignature, Provider, Signature, Webhook, WebhookPath};

/// The most data of one event, in bytes: in base64 1 MiB, and with its attributes below NATS's usual `max_payload` of that.
pub const MAX_DATA_BYTES: usize = 768 * 1024;
/// The most extension attributes of one event.
pub const MAX_ATTRIBUTES: usize = 64;
/// The longest value of an attribute, in bytes: what fits a header.
pub const MAX_ATTRIBUTE_BYTES: usize = 1024;
/// All names and values of one event's attributes together, in bytes: what fits the head of a request.
pub const MAX_ATTRIBUTES_BYTES: usize = 16 * 1024;
/// The most events of one publish.
pub const MAX_PUBLISH: usize = 100;
/// The most data of one publish, in bytes.
pub const MAX_PUBLISH_BYTES: usize = 4 * 1024 * 1024;
/// The longest time that a message can be held back: as long as a topic keeps one, unless its manifest says otherwise.
pub const MAX_DELAY: std::time::Duration = DEFAULT_RETENTION;

/// The longest name of an attribute, in bytes (CloudEvents 1.0 asks for no more).
pub const MAX_ATTRIBUTE_NAME: usize = 20;

/// The extension that holds the key of a message (CloudEvents' partitioning extension).
pub const PARTITION_KEY: &str = "partitionkey";
/// The type of a message whose publisher gives none.
pub const DEFAULT_KIND: &str = "minnow.message";

/// The name of an attribute: 1–20 of `a-z` and `0-9`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct AttributeName(Arc<str>);

impl AttributeName {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether messages can be kept in order by it: [`Event::attribute`] never has these.
    pub(crate) fn can_order(&self) -> bool {
        !matches!(self.as_str(), "specversion" | "time" | "datacontenttype" | "data")
    }

    /// The extension that holds the key of a message.
    pub fn partition_key() -> Self {
        Self(PARTITION_KEY.into())
    }
}

impl FromStr for AttributeName {
    type Err = EventError;

    fn from_str(text: &str) -> Result<Self, EventError> {
        let is_name = (1..=MAX_ATTRIBUTE_NAME).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        if is_name { Ok(Self(text.into())) } else { Err(EventError::Name(shown(text))) }
    }
}

impl fmt::Display for AttributeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Borrow<str> for AttributeName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for AttributeName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// One CloudEvent, whole: [`Draft::complete`] checks it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub id: Arc<str>,
    pub source: Arc<str>,
    /// `type`.
    pub kind: Arc<str>,
    pub subject: Option<Arc<str>>,
    /// When it happened, as its publisher says, in milliseconds since 1970; else when it was taken.
    pub time_ms: Option<u64>,
    /// `datacontenttype`.
    pub content_type: Option<Arc<str>>,
    /// All other attributes. Numbers and truth values are kept as CloudEvents writes them as text.
    pub extensions: BTreeMap<AttributeName, String>,
    pub data: Bytes,
}

impl Event {
    /// The value of an attribute; `None` where it has none, and for `time`, `datacontenttype` and the data.
    pub fn attribute(&self, name: &AttributeName) -> Option<&str> {
        match name.as_str() {
            "id" => Some(&self.id),
            "source" => Some(&self.source),
            "type" => Some(&self.kind),
            "subject" => self.subject.as_deref(),
            name => self.extensions.get(name).map(String::as_str),
        }
    }
}

/// Why an event was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EventError {
    #[error("the event has no `{0}`; CloudEvents 1.0 asks for `specversion`, `id`, `source` and `type`")]
    Missing(&'static str),
    #[error("the `specversion` is `{0}`; send CloudEvents 1.0")]
    Version(String),
    #[error("the attribute `{0}` is empty; leave it out, or give it a value")]
    Empty(String),
    #[error("the attribute `{0}` stands twice")]
    Twice(String),
    #[error("`{0}` is not the name of an attribute: use 1 to {MAX_ATTRIBUTE_NAME} of a-z and 0-9")]
    Name(String),
    #[error(
        "the attribute `{name}` has {bytes} bytes, the most is {MAX_ATTRIBUTE_BYTES}; put what is long into the data"
    )]
    LongAttribute { name: String, bytes: usize },
    #[error("the attribute `{0}` holds a control character, or is not UTF-8")]
    Character(String),
    #[error("the attribute `{0}` is neither a string nor a whole number nor true or false")]
    Value(String),
    #[error("the event has {0} extension attributes, the most is {MAX_ATTRIBUTES}")]
    ManyAttributes(usize),
    #[error(
        "the attributes have {0} bytes together, the most is {MAX_ATTRIBUTES_BYTES}; put what is long into the data"
    )]
    LongAttributes(usize),
    #[error("the time `{0}` is not one of RFC 3339 since 1970; write for example `2026-11-27T10:00:00Z`")]
    Time(String),
    #[error("the data has {0} bytes, the most is {MAX_DATA_BYTES}; put it into a bucket, and its name into the event")]
    LongData(usize),
    #[error("the data is said to be `{content_type}` and is no JSON: {reason}")]
    NotJson { content_type: String, reason: String },
    #[error("the data is said to be `{0}`; write it as a string in `data`, or in base64 in `data_base64`")]
    NotText(String),
    #[error("the event has both `data` and `data_base64`; keep one")]
    TwoData,
    #[error("`data_base64` is not base64")]
    Base64,
    #[error("this is no CloudEvent in JSON: {0}")]
    Structure(String),
    #[error("there are {0} events, the most at once is {MAX_PUBLISH}")]
    Many(usize),
    #[error("the events have {0} bytes of data together, the most at once is {MAX_PUBLISH_BYTES}")]
    Large(usize),
    #[error("there is no event in the batch")]
    None,
}

/// A time as CloudEvents write it; what is beyond the years that RFC 3339 can write is its last one.
pub fn time_text(ms: u64) -> String {
    let time = i64::try_from(ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    time.unwrap_or(jiff::Timestamp::MAX).to_string()
}

/// What a stranger wrote, short enough for an error.
fn shown(text: &str) -> String {
    text.chars().take(64).flat_map(char::escape_debug).collect()
}
