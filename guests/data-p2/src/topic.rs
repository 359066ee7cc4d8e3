//! Topics.

use std::time::Duration;

use minnow_sdk::topic::{Message, Topic};
use serde_json::json;

use crate::{Done, request::Query};

/// Publishes the body `n` times, at once.
pub fn send(query: &Query, body: &[u8]) -> Done {
    let topic = Topic::open(query.text("topic", "orders"))?;
    let mut message = Message::bytes(body, query.text("content-type", "text/plain"))
        .delay(Duration::from_millis(query.number("delay", 0)));
    // What is not asked for is left to the node.
    let given = |name| Some(query.text(name, "")).filter(|text| !text.is_empty());
    if let Some(key) = given("key") {
        message = message.key(key);
    }
    if let Some(id) = given("id") {
        message = message.id(id);
    }
    if let Some(kind) = given("type") {
        message = message.kind(kind);
    }
    if let Some(subject) = given("subject") {
        message = message.subject(subject);
    }
    if let Some((name, value)) = given("attribute").and_then(|text| text.split_once('=')) {
        message = message.attribute(name, value);
    }
    let count = usize::try_from(query.number("n", 1))?;
    let sent = topic.send_batch(std::iter::repeat_n(message, count))?;
    let sent = sent.iter().map(|sent| json!({ "id": sent.id, "position": sent.position, "duplicate": sent.duplicate }));
    Ok(json!({ "sent": sent.collect::<Vec<_>>() }))
}
