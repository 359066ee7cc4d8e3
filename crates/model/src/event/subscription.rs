//! Topics of an app, and how its functions follow them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{AttributeName, Backoff, Event, Webhook};
use crate::{FunctionName, StoreName, grant::STORE_BYTES};

/// The most topics that one function follows.
pub const MAX_SUBSCRIPTIONS: usize = 100;
/// The most messages of one batch.
pub const MAX_BATCH: u32 = 1000;
/// The longest that a batch waits to be full. A message that may wait longer can wait in the topic.
pub const MAX_WAIT: Duration = Duration::from_secs(60);
/// The most retries of a message.
pub const MAX_RETRIES: u32 = 1000;
/// The retries of a message, unless its subscription says otherwise: six tries in half a minute and more.
pub const DEFAULT_RETRIES: u32 = 5;
/// The most patterns for types, and for subjects, of one subscription: each message is compared with each.
pub const MAX_PATTERNS: usize = 20;
/// The longest pattern, in bytes.
pub const MAX_PATTERN_BYTES: usize = 256;
/// The least and the most time that a topic keeps a message.
pub const RETENTION: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(60)..=Duration::from_secs(10 * 366 * 24 * 3600);
/// The time that a topic keeps a message, unless its manifest says otherwise: a week covers a holiday.
pub const DEFAULT_RETENTION: Duration = Duration::from_secs(7 * 24 * 3600);
/// The bytes of a topic, unless its manifest says otherwise.
pub const DEFAULT_TOPIC_BYTES: u64 = 1 << 30;
/// The least and the most messages that a manifest can let a topic hold.
pub const TOPIC_MESSAGES: std::ops::RangeInclusive<u64> = 1..=1_000_000_000_000;

/// One topic of an app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Topic {
    /// A message that is older is gone.
    #[serde(rename = "retention_ms", with = "crate::duration::millis")]
    pub retention: Duration,
    /// The most that its messages take together.
    pub max_bytes: u64,
    /// The most messages; `None` for as many as fit.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub max_messages: Option<u64>,
    #[serde(skip_serializing_if = "WhenFull::is_refuse", default)]
    pub when_full: WhenFull,
    /// A public route to it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub webhook: Option<Webhook>,
}

impl Default for Topic {
    fn default() -> Self {
        Self {
            retention: DEFAULT_RETENTION,
            max_bytes: DEFAULT_TOPIC_BYTES,
            max_messages: None,
            when_full: WhenFull::Refuse,
            webhook: None,
        }
    }
}

/// What a topic holds, for whoever stores it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TopicRules {
    pub retention: Duration,
    pub max_bytes: u64,
    pub max_messages: Option<u64>,
    pub when_full: WhenFull,
}

impl Topic {
    /// What it may hold.
    pub fn rules(&self) -> TopicRules {
        let Self { retention, max_bytes, max_messages, when_full, webhook: _ } = *self;
        TopicRules { retention, max_bytes, max_messages, when_full }
    }

    /// What is wrong with it; `None` when it is sound.
    pub(crate) fn mistake(&self) -> Option<String> {
        let show = humantime::format_duration;
        if !RETENTION.contains(&self.retention) {
            return Some(format!(
                "its retention is {}; it is from {} to {}",
                show(self.retention),
                show(*RETENTION.start()),
                show(*RETENTION.end())
            ));
        }
        if !STORE_BYTES.contains(&self.max_bytes) {
            let (least, most) = (STORE_BYTES.start(), STORE_BYTES.end());
            return Some(format!("its size is {} bytes; it is from {least} to {most}", self.max_bytes));
        }
        if let Some(messages) = self.max_messages.filter(|messages| !TOPIC_MESSAGES.contains(messages)) {
            let (least, most) = (TOPIC_MESSAGES.start(), TOPIC_MESSAGES.end());
            return Some(format!("it may hold {messages} messages; that is from {least} to {most}"));
        }
        let mistake = self.webhook.as_ref()?.mistake()?;
        Some(format!("its webhook: {mistake}"))
    }
}

/// What happens to a message for which a topic has no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum WhenFull {
    /// The publisher gets an error. The default: nothing that was taken is lost.
    #[default]
    Refuse,
    /// The oldest messages go, also those that a function has not seen.
    DropOldest,
}

impl WhenFull {
    /// What the manifest may say.
    pub const ALL: [Self; 2] = [Self::Refuse, Self::DropOldest];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Refuse => "refuse",
            Self::DropOldest => "drop-oldest",
        }
    }

    fn is_refuse(&self) -> bool {
        *self == Self::Refuse
    }
}

/// How a function follows a topic of its app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subscription {
    pub topic: StoreName,
    /// The most messages of one delivery. With 1 a message comes in binary mode, else in a batch.
    pub batch: u32,
    /// How long a batch waits to be full, from its first message on.
    #[serde(rename = "wait_ms", with = "crate::duration::millis")]
    pub wait: Duration,
    /// How often a message is tried again after the first time.
    pub retries: u32,
    pub backoff: Backoff,
    /// The topic that gets a copy of what never worked.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub dead_letter: Option<StoreName>,
    /// The attribute within which messages stay in order. Those without it have no order.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub order_by: Option<AttributeName>,
    /// The types of the messages that the function gets; empty for all.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub types: Vec<Pattern>,
    /// The subjects of the messages that the function gets; empty for all.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub subjects: Vec<Pattern>,
    /// Where a function begins that follows the topic for the first time.
    #[serde(skip_serializing_if = "From::is_now", default)]
    pub from: From,
}

impl Subscription {
    /// How a function follows `topic` when its manifest says no more.
    pub fn of(topic: StoreName) -> Self {
        Self {
            topic,
            batch: 1,
            wait: Duration::ZERO,
            retries: DEFAULT_RETRIES,
            backoff: Backoff::default(),
            dead_letter: None,
            order_by: None,
            types: Vec::new(),
            subjects: Vec::new(),
            from: From::Now,
        }
    }

    /// Whether the function gets `event`.
    pub fn takes(&self, event: &Event) -> bool {
        takes(&self.types, Some(&event.kind)) && takes(&self.subjects, event.subject.as_deref())
    }

    /// What is wrong with it, but for the topics that it names; `None` when it is sound.
    pub(crate) fn mistake(&self) -> Option<String> {
        let Self { batch, wait, retries, order_by, types, subjects, .. } = self;
        if !(1..=MAX_BATCH).contains(batch) {
            return Some(format!("`batch` is {batch}; it is from 1 to {MAX_BATCH}"));
        }
        if *wait > MAX_WAIT {
            return Some(format!("`wait` is {} ms, the most is {} ms", wait.as_millis(), MAX_WAIT.as_millis()));
        }
        if *batch == 1 && !wait.is_zero() {
            return Some("`wait` does nothing without `batch`".into());
        }
        if *retries > MAX_RETRIES {
            return Some(format!("`retries` is {retries}, the most is {MAX_RETRIES}"));
        }
        if let Some(mistake) = self.backoff.mistake() {
            return Some(format!("`backoff`: {mistake}"));
        }
        if let Some(name) = order_by.as_ref().filter(|name| !name.can_order()) {
            return Some(format!("`order_by` is `{name}`, by which no messages belong together"));
        }
        let lists = [("types", types), ("subjects", subjects)];
        let (key, list) = lists.into_iter().find(|(_, list)| list.len() > MAX_PATTERNS)?;
        Some(format!("`{key}` has {} patterns, the most is {MAX_PATTERNS}", list.len()))
    }
}

/// Whether one of `patterns` matches; no patterns match everything, also what is not there.
pub fn takes(patterns: &[Pattern], text: Option<&str>) -> bool {
    patterns.is_empty() || text.is_some_and(|text| patterns.iter().any(|pattern| pattern.matches(text)))
}

/// A way of dead letters that comes back to where it began: each topic's dead letters go to the next one, and those of the last
/// to the first. `None` where there is none. What a message cannot be delivered for would go round for ever.
pub(crate) fn dead_letter_circle<'a>(
    functions: impl IntoIterator<Item = (&'a FunctionName, &'a [Subscription])>,
) -> Option<Vec<&'a StoreName>> {
    let mut next: BTreeMap<&StoreName, BTreeSet<&StoreName>> = BTreeMap::new();
    for subscription in functions.into_iter().flat_map(|(_, subscriptions)| subscriptions) {
        if let Some(dead) = &subscription.dead_letter {
            next.entry(&subscription.topic).or_default().insert(dead);
        }
    }
    let mut done = BTreeSet::new();
    for start in next.keys() {
        // The way that was taken, each topic with those that are still to be looked at after it.
        let mut way: Vec<(&StoreName, Vec<&StoreName>)> =
            vec![(start, next.get(start).into_iter().flatten().copied().collect())];
        while let Some((_, left)) = way.last_mut() {
            let Some(topic) = left.pop() else {
                done.extend(way.pop().map(|(topic, _)| topic));
                continue;
            };
            if let Some(at) = way.iter().position(|(other, _)| *other == topic) {
                return Some(way.into_iter().skip(at).map(|(topic, _)| topic).collect());
            }
            if !done.contains(topic) {
                way.push((topic, next.get(topic).into_iter().flatten().copied().collect()));
            }
        }
    }
    None
}

/// Where a function begins that follows a topic for the first time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum From {
    /// With what is published from then on. The default: a new function is not surprised by a week of messages.
    #[default]
    Now,
    /// With the oldest message that the topic has.
    Start,
}

impl From {
    /// What the manifest may say.
    pub const ALL: [Self; 2] = [Self::Now, Self::Start];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Now => "now",
            Self::Start => "start",
        }
    }

    fn is_now(&self) -> bool {
        *self == Self::Now
    }
}

/// A text, or the beginning of one: `order.created`, `order.*`, `*`. A `*` stands at the end only.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Pattern(Arc<str>);

/// Why a pattern was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    #[error("a pattern needs at least one character")]
    Empty,
    #[error("a pattern has {0} bytes, the most is {MAX_PATTERN_BYTES}")]
    TooLong(usize),
    #[error("`{0}` has a `*` that is not its end")]
    Star(String),
}

impl Pattern {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn matches(&self, text: &str) -> bool {
        match self.0.strip_suffix('*') {
            Some(beginning) => text.starts_with(beginning),
            None => *self.0 == *text,
        }
    }
}

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        if text.is_empty() {
            return Err(PatternError::Empty);
        }
        if text.len() > MAX_PATTERN_BYTES {
            return Err(PatternError::TooLong(text.len()));
        }
        if text.strip_suffix('*').unwrap_or(text).contains('*') {
            return Err(PatternError::Star(text.escape_debug().to_string()));
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_a_text_or_a_beginning() {
        for (pattern, text, matches) in [
            ("order.created", "order.created", true),
            ("order.created", "order.created2", false),
            ("order.*", "order.created", true),
            ("order.*", "order.", true),
            ("order.*", "order", false),
            ("*", "", true),
        ] {
            assert_eq!(pattern.parse::<Pattern>().unwrap().matches(text), matches, "{pattern} {text}");
        }
        for bad in ["", "*.created", "a*b", "**", &"x".repeat(257)] {
            assert!(bad.parse::<Pattern>().is_err(), "{bad}");
        }
        assert!(takes(&[], None));
        assert!(!takes(&["*".parse().unwrap()], None));
    }

    #[test]
    fn a_circle_of_dead_letters_is_found() {
        let name = |text: &str| text.parse::<StoreName>().unwrap();
        let follows = |ways: &[(&str, &str)]| -> Option<Vec<String>> {
            let subscriptions: Vec<Subscription> = ways
                .iter()
                .map(|(topic, dead)| Subscription { dead_letter: Some(name(dead)), ..Subscription::of(name(topic)) })
                .collect();
            let function = "f".parse().unwrap();
            let circle = dead_letter_circle([(&function, subscriptions.as_slice())]);
            circle.map(|circle| circle.into_iter().map(ToString::to_string).collect())
        };
        assert_eq!(follows(&[("a", "b"), ("b", "c"), ("a", "c")]), None);
        assert_eq!(follows(&[("a", "a")]), Some(vec!["a".into()]));
        assert_eq!(follows(&[("x", "a"), ("a", "b"), ("b", "a")]), Some(vec!["a".into(), "b".into()]));
        // As long as there can be, and without a stack for it.
        let long: Vec<(String, String)> = (0..100).map(|n| (format!("t{n}"), format!("t{}", (n + 1) % 100))).collect();
        let long: Vec<(&str, &str)> = long.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
        assert_eq!(follows(&long).map(|circle| circle.len()), Some(100));
    }
}
