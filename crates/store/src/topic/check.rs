//! The bounds of messages, consumers and dead letters.

use std::time::Duration;

use minnow_model::event::{Event, EventError, MAX_DATA_BYTES, MAX_DELAY, MAX_PUBLISH, MAX_PUBLISH_BYTES};

use super::{Outgoing, TopicError};

/// How long an id is remembered. JetStream's default `duplicate_window`.
pub const DEDUP_WINDOW: Duration = Duration::from_secs(120);
/// Messages of a consumer that are delivered or come again. Beyond it nothing new is read: some 100 bytes each are kept in memory.
pub const MAX_OUTSTANDING: usize = 10_000;
/// Dead letters of one function in one topic. The oldest go.
pub const MAX_DEAD: u64 = 10_000;
/// What the dead letters of a topic may take at least, in bytes; else as much as its messages. The oldest go, so that they do not fill the
/// file of the topic.
pub(super) const LEAST_DEAD_BYTES: u64 = 16 << 20;
/// How long a dead letter is kept: two weeks cover a holiday of who looks at them.
pub const MAX_DEAD_AGE: Duration = Duration::from_secs(14 * 24 * 3600);
/// What is kept of the last answer to a dead letter: an error message, and not a page.
pub const MAX_DEAD_ANSWER_BYTES: usize = 4096;
/// What is kept of the reason of a dead letter: it goes out as an attribute of its copy.
pub(super) const MAX_REASON_BYTES: usize = 1024;
/// How long a consumer is kept that no live version has: who rolls back meanwhile goes on where it stood.
pub const KEEP_CONSUMER: Duration = Duration::from_secs(7 * 24 * 3600);
/// Messages or dead letters in one page.
pub const MAX_PAGE: u32 = 1000;
/// What the messages in one page have together, in bytes: it is in memory as a whole.
pub const MAX_PAGE_BYTES: usize = MAX_PUBLISH_BYTES;
/// The longest time for which a message waits to be tried again: what a backoff may be, and more than `Retry-After`.
pub(super) const MAX_RETRY: Duration = Duration::from_secs(24 * 3600);

/// What each delivery of a message has beside the event: `sequence`, `deliverycount` and a comma, in bytes.
const DELIVERED_BYTES: usize = 64;

/// What a delivery of an event takes in a batch, in bytes.
pub(super) fn delivered_bytes(event: &Event, data: &[u8]) -> usize {
    event.json_size(data) + DELIVERED_BYTES
}

pub(super) fn outgoing(events: &[Outgoing]) -> Result<(), TopicError> {
    if events.len() > MAX_PUBLISH {
        return Err(EventError::Many(events.len()).into());
    }
    if let Some(large) = events.iter().find(|outgoing| outgoing.event.data.len() > MAX_DATA_BYTES) {
        return Err(EventError::LongData(large.event.data.len()).into());
    }
    let bytes: usize = events.iter().map(|outgoing| outgoing.event.data.len()).sum();
    if bytes > MAX_PUBLISH_BYTES {
        return Err(EventError::Large(bytes).into());
    }
    match events.iter().find(|outgoing| outgoing.delay > MAX_DELAY) {
        Some(outgoing) => Err(TopicError::Delay(outgoing.delay)),
        None => Ok(()),
    }
}

pub(super) fn limit(limit: u32) -> Result<(), TopicError> {
    if (1..=MAX_PAGE).contains(&limit) { Ok(()) } else { Err(TopicError::Limit(limit)) }
}
