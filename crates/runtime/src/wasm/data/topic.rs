//! `minnow:topic`: publishing to topics.

use std::time::Duration;

use minnow_model::{
    StoreKind,
    event::{AttributeName, Draft},
};
use minnow_store::TopicError;
use wasmtime::component::Linker;

use super::{DataView, HasDataView, failure::Told};
use crate::{
    data::{Denied, Need, topics::Message},
    wasm::state::GuestState,
};

mod bindings {
    wasmtime::component::bindgen!({
        path: "../../wit/topic",
        world: "minnow:topic/imports",
        imports: {
            "minnow:topic/publisher.send": async | trappable,
            default: trappable,
        },
        trappable_error_type: { "minnow:topic/publisher.error" => super::Failure },
    });
}

use bindings::minnow::topic::publisher;

/// Why a call gives the guest nothing.
pub type Failure = super::failure::Failure<TopicError>;

impl Told<TopicError> for publisher::Error {
    fn denied(denied: Denied) -> Self {
        Self::NotGranted(denied.to_string())
    }

    fn refused(why: String) -> Self {
        Self::Refused(why)
    }

    fn other(message: String) -> Self {
        Self::Other(message)
    }

    fn of(error: TopicError) -> Result<Self, TopicError> {
        match error {
            error @ TopicError::Full(_) => Ok(Self::Full(error.to_string())),
            error @ (TopicError::Busy | TopicError::Unavailable(_)) => Ok(Self::Unavailable(error.to_string())),
            error => Err(error),
        }
    }
}

impl publisher::Host for DataView<'_> {
    async fn send(
        &mut self,
        topic: String,
        messages: Vec<publisher::Outgoing>,
    ) -> Result<Vec<publisher::Sent>, Failure> {
        let function = self.function()?;
        let granted = function.store(StoreKind::Topic, &topic, Need::Write)?;
        // Granted is only what the app's manifest declares, which has its rules.
        let rules = granted.topic.as_ref().ok_or_else(|| wasmtime::format_err!("the topic has no rules"))?;
        if messages.is_empty() {
            return Ok(Vec::new());
        }
        let messages = messages.into_iter().map(message).collect::<Result<_, _>>()?;
        let sent = function.runtime().publish(&granted.store, rules, messages).await?;
        let wire = |sent: minnow_store::topic::Sent| publisher::Sent {
            id: sent.id.to_string(),
            position: sent.position,
            duplicate: sent.duplicate,
        };
        Ok(sent.into_iter().map(wire).collect())
    }

    fn convert_error(&mut self, failure: Failure) -> wasmtime::Result<publisher::Error> {
        self.tell(failure)
    }
}

fn message(outgoing: publisher::Outgoing) -> Result<Message, Failure> {
    let publisher::Outgoing { data, content_type, id, key, kind, subject, attributes, delay_ms } = outgoing;
    let attributes = attributes.into_iter().map(|(name, value)| {
        let name = name.parse::<AttributeName>().map_err(TopicError::Event)?;
        Ok((name, value))
    });
    let draft = Draft {
        id,
        kind,
        subject,
        extensions: attributes.collect::<Result<_, Failure>>()?,
        ..Draft::plain(content_type, data.into())
    };
    Ok((draft.with_key(key), Duration::from_millis(delay_ms)))
}

pub(super) fn link(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    publisher::add_to_linker::<_, HasDataView>(linker, GuestState::data)
}
