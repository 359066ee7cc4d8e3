//! Publishing to topics: the one way for functions of every kind and for the API.

use std::{io, time::Duration};

use minnow_model::{
    StoreId, TopicRules,
    event::{Draft, EventError},
};
use minnow_store::{
    StoreError, TopicError,
    topic::{Outgoing, Sent},
};

use crate::{Runtime, meter::now_ms};

/// One message, and how long it is held back.
pub type Message = (Draft, Duration);

impl Runtime {
    /// Publishes messages to a topic: all or none. They are durable when this answers. What they lack is filled in; one without an id
    /// gets 128 random bits, and is not compared with others.
    pub async fn publish(
        &self,
        topic: &StoreId,
        rules: &TopicRules,
        messages: Vec<Message>,
    ) -> Result<Vec<Sent>, TopicError> {
        let count = u64::try_from(messages.len()).unwrap_or(u64::MAX);
        let events = messages.into_iter().map(|message| outgoing(topic, message)).collect::<Result<Vec<_>, _>>();
        let sent = match events {
            Ok(events) if events.is_empty() => Err(EventError::None.into()),
            Ok(events) => self.data().topics.publish(topic, rules, events).await,
            Err(error) => Err(error),
        };
        let metrics = self.metrics.topic(&topic.tenant, &topic.app, &topic.name);
        match &sent {
            Ok(sent) => {
                let duplicates = sent.iter().filter(|sent| sent.duplicate).count();
                let duplicates = u64::try_from(duplicates).unwrap_or(u64::MAX);
                metrics.duplicate.add(duplicates);
                metrics.taken.add(count.saturating_sub(duplicates));
            }
            Err(TopicError::Full(_)) => metrics.full.add(count),
            Err(_) => metrics.refused.add(count),
        }
        sent
    }
}

fn outgoing(topic: &StoreId, (draft, delay): Message) -> Result<Outgoing, TopicError> {
    let has_own_id = draft.id.is_some();
    let mut id = [0; 16];
    if !has_own_id {
        getrandom::fill(&mut id).map_err(|error| StoreError::Io {
            path: "random source".into(),
            source: io::Error::other(error.to_string()),
        })?;
    }
    let event = draft.complete(&topic.app, &topic.name, || hex(id), now_ms())?;
    Ok(Outgoing { event, delay, has_own_id })
}

fn hex(id: [u8; 16]) -> String {
    format!("{:032x}", u128::from_be_bytes(id))
}
