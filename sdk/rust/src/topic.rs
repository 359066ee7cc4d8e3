//! Topics: what is published becomes CloudEvents, which the functions that follow the topic are sent.

use std::time::Duration;

use crate::bindings::minnow::topic::publisher;

/// Why nothing was published.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The manifest grants the function no such topic; the text says what to add.
    #[error("{0}")]
    NotGranted(String),
    /// A message that is none, or is beyond what a topic takes.
    #[error("{0}")]
    Refused(String),
    /// The topic has its size.
    #[error("{0}")]
    Full(String),
    /// The topic cannot be reached now; it may work the next time.
    #[error("{0}")]
    Unavailable(String),
    /// The node failed.
    #[error("{0}")]
    Other(String),
}

impl From<publisher::Error> for Error {
    fn from(error: publisher::Error) -> Self {
        match error {
            publisher::Error::NotGranted(message) => Self::NotGranted(message),
            publisher::Error::Refused(message) => Self::Refused(message),
            publisher::Error::Full(message) => Self::Full(message),
            publisher::Error::Unavailable(message) => Self::Unavailable(message),
            publisher::Error::Other(message) => Self::Other(message),
        }
    }
}

/// A topic of the app that the function may publish to.
#[derive(Debug, Clone)]
pub struct Topic {
    name: String,
}

/// A message: its data, and what else it has. What is not said is filled in.
#[derive(Debug, Clone, Default)]
pub struct Message {
    data: Vec<u8>,
    content_type: Option<String>,
    id: Option<String>,
    key: Option<String>,
    kind: Option<String>,
    subject: Option<String>,
    attributes: Vec<(String, String)>,
    delay: Duration,
}

/// What became of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// The event's `id`.
    pub id: String,
    /// Its place in the topic; `None` while it is held back.
    pub position: Option<u64>,
    /// Whether the same id was published in the last two minutes. Nothing was added then.
    pub duplicate: bool,
}

impl Topic {
    /// The topic of this name, which the function's `publish` has to name.
    pub fn open(name: &str) -> Result<Self, Error> {
        publisher::send(name, &[])?;
        Ok(Self { name: name.to_owned() })
    }

    /// Publishes a message. It is durable when this returns.
    pub fn send(&self, message: impl Into<Message>) -> Result<Sent, Error> {
        let mut sent = self.send_batch([message.into()])?;
        sent.pop().ok_or_else(|| Error::Other("the node has answered nothing".into()))
    }

    /// Publishes up to 100 messages at once: all or none.
    pub fn send_batch(&self, messages: impl IntoIterator<Item = Message>) -> Result<Vec<Sent>, Error> {
        let messages: Vec<publisher::Outgoing> = messages.into_iter().map(Message::outgoing).collect();
        if messages.is_empty() {
            return Ok(Vec::new());
        }
        let sent = publisher::send(&self.name, &messages)?;
        Ok(sent
            .into_iter()
            .map(|sent| Sent { id: sent.id, position: sent.position, duplicate: sent.duplicate })
            .collect())
    }
}

impl Message {
    /// Bytes of a type, such as `application/octet-stream`. What is said to be JSON has to be that.
    pub fn bytes(data: impl Into<Vec<u8>>, content_type: impl Into<String>) -> Self {
        Self { data: data.into(), content_type: Some(content_type.into()), ..Self::default() }
    }

    /// Text.
    pub fn text(text: impl Into<String>) -> Self {
        Self::bytes(text.into(), "text/plain; charset=utf-8")
    }

    /// A value as JSON.
    #[cfg(feature = "serde")]
    pub fn json(value: &impl serde::Serialize) -> Result<Self, serde_json::Error> {
        Ok(Self::bytes(serde_json::to_vec(value)?, "application/json"))
    }

    /// The key: messages of one key come in their order to a function with `order_by = "key"`.
    #[must_use]
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// The event's `id`: one that was published in the last two minutes is not published again.
    #[must_use]
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.id = Some(id.into());
        self
    }

    /// The event's `type`; `minnow.message` where it is not said.
    #[must_use]
    pub fn kind(mut self, kind: impl Into<String>) -> Self {
        self.kind = Some(kind.into());
        self
    }

    /// The event's `subject`.
    #[must_use]
    pub fn subject(mut self, subject: impl Into<String>) -> Self {
        self.subject = Some(subject.into());
        self
    }

    /// A further attribute: a name of 1 to 20 of `a-z` and `0-9`.
    #[must_use]
    pub fn attribute(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.attributes.push((name.into(), value.into()));
        self
    }

    /// Holds the message back for so long, up to a week.
    #[must_use]
    pub fn delay(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    fn outgoing(self) -> publisher::Outgoing {
        let Self { data, content_type, id, key, kind, subject, attributes, delay } = self;
        let delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        publisher::Outgoing { data, content_type, id, key, kind, subject, attributes, delay_ms }
    }
}

impl From<&str> for Message {
    fn from(text: &str) -> Self {
        Self::text(text)
    }
}

impl From<String> for Message {
    fn from(text: String) -> Self {
        Self::text(text)
    }
}
