//! Calls for topics. `bootstrap/topics.js` makes them.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use minnow_model::{
    StoreKind,
    event::{AttributeName, Draft},
};
use minnow_store::{TopicError, topic::Sent};
use serde::{Deserialize, Serialize};

use super::{
    failure::{Code, Failure},
    take,
};
use crate::{
    Function,
    data::{Need, topics::Message},
};

/// One message. What is absent the node fills in.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct WireMessage {
    /// Its data are the next so many bytes of the frame.
    bytes: usize,
    content_type: Option<String>,
    delay_ms: u64,
    key: Option<String>,
    id: Option<String>,
    kind: Option<String>,
    subject: Option<String>,
    #[serde(default)]
    attributes: BTreeMap<String, String>,
}

/// What became of a message.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct WireSent {
    id: String,
    /// `None`: it is held back.
    position: Option<u64>,
    duplicate: bool,
}

pub(super) async fn send(
    function: &Function,
    topic: &str,
    messages: Vec<WireMessage>,
    mut frame: Bytes,
) -> Result<Vec<WireSent>, Failure> {
    let granted = function.store(StoreKind::Topic, topic, Need::Write)?;
    // Granted is only what the app's manifest declares, which has its rules.
    let rules = granted.topic.as_ref().ok_or_else(Failure::malformed)?;
    let messages = messages.into_iter().map(|message| read(message, &mut frame)).collect::<Result<_, _>>()?;
    let sent = function.runtime().publish(&granted.store, rules, messages).await?;
    Ok(sent.into_iter().map(wire).collect())
}

fn read(message: WireMessage, frame: &mut Bytes) -> Result<Message, Failure> {
    let WireMessage { bytes, content_type, delay_ms, key, id, kind, subject, attributes } = message;
    let attributes = attributes.into_iter().map(|(name, value)| {
        let name = name.parse::<AttributeName>().map_err(TopicError::Event)?;
        Ok((name, value))
    });
    let draft = Draft {
        id,
        kind,
        subject,
        extensions: attributes.collect::<Result<_, Failure>>()?,
        ..Draft::plain(content_type, take(frame, bytes)?)
    };
    Ok((draft.with_key(key), Duration::from_millis(delay_ms)))
}

fn wire(sent: Sent) -> WireSent {
    WireSent { id: sent.id.to_string(), position: sent.position, duplicate: sent.duplicate }
}

impl From<TopicError> for Failure {
    fn from(error: TopicError) -> Self {
        use minnow_model::event::EventError;

        let code = match &error {
            TopicError::Event(
                EventError::LongData(_)
                | EventError::Large(_)
                | EventError::Many(_)
                | EventError::LongAttribute { .. }
                | EventError::LongAttributes(_)
                | EventError::ManyAttributes(_),
            ) => Code::TooLarge,
            TopicError::Event(_) | TopicError::Delay(_) | TopicError::Limit(_) => Code::BadArgument,
            TopicError::Full(_) => Code::Full,
            TopicError::NoConsumer(_) | TopicError::NoSuchMessage(_) => Code::NotFound,
            TopicError::Busy => Code::Busy,
            TopicError::Unavailable(_) => Code::Unavailable,
            TopicError::Corrupt { .. } => Code::Corrupt,
            TopicError::Store(error) => super::failure::code_of(error),
        };
        Self::new(code, crate::data::told(&error, error.is_refusal()))
    }
}
