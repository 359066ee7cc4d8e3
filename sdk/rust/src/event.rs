//! What a function that follows topics is sent: CloudEvents 1.0 in JSON, and the answer that names those to come again.
//!
//! A function whose `batch` is more than 1 gets a list of them in the body of `POST /.minnow/topics/TOPIC`:
//!
//! ```no_run
//! use minnow_sdk::event::{self, Acks};
//!
//! # fn handle(body: &[u8]) -> Result<Acks, serde_json::Error> {
//! let mut acks = Acks::default();
//! for event in event::batch(body)? {
//!     let order: Vec<String> = event.json()?;
//!     if order.is_empty() {
//!         acks.retry(&event);
//!     }
//! }
//! # Ok(acks)
//! # }
//! ```

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

/// A message of a topic.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Event {
    /// Stays the same when the message comes again.
    pub id: String,
    /// Who published it.
    pub source: String,
    /// The event's `type`.
    #[serde(rename = "type")]
    pub kind: String,
    /// What it is about.
    pub subject: Option<String>,
    /// When it was published, as RFC 3339 has it.
    pub time: Option<String>,
    /// Its position in the topic: 20 digits, which sort as text.
    pub sequence: String,
    /// The key that keeps its order.
    #[serde(rename = "partitionkey")]
    pub key: Option<String>,
    /// The type of the data.
    #[serde(rename = "datacontenttype")]
    pub content_type: Option<String>,
    /// Data that is JSON, or text as a string.
    #[serde(default)]
    pub data: Value,
    /// Other data, in base64.
    pub data_base64: Option<String>,
    /// The other attributes.
    #[serde(flatten)]
    pub attributes: BTreeMap<String, Value>,
}

impl Event {
    /// The data as a value of this type.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        T::deserialize(&self.data)
    }

    /// An attribute that has no field of its own, such as `deadletterreason`.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.get(name)?.as_str()
    }

    /// How often it has come, this time included.
    pub fn delivery_count(&self) -> u32 {
        self.attribute("deliverycount").and_then(|count| count.parse().ok()).unwrap_or(1)
    }
}

/// The messages of a batch, in their order.
pub fn batch(body: &[u8]) -> Result<Vec<Event>, serde_json::Error> {
    serde_json::from_slice(body)
}

/// An answer to a batch that names the messages that are to come again; the others are done. It goes with a status of 2xx and
/// [`Acks::CONTENT_TYPE`].
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Acks {
    retry: Vec<Retry>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Retry {
    sequence: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    after_ms: Option<u64>,
}

impl Acks {
    /// The `content-type` of the answer.
    pub const CONTENT_TYPE: &str = "application/vnd.minnow.acks+json";

    /// The message has failed: it comes again after the subscription's `backoff`, if it has a try left.
    pub fn retry(&mut self, event: &Event) {
        self.retry.push(Retry { sequence: event.sequence.clone(), after_ms: None });
    }

    /// The same, after this time instead of the `backoff`.
    pub fn retry_after(&mut self, event: &Event, after: Duration) {
        let after_ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
        self.retry.push(Retry { sequence: event.sequence.clone(), after_ms: Some(after_ms) });
    }

    /// The body of the answer.
    pub fn to_json(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_read_and_answered() -> Result<(), serde_json::Error> {
        let body = br#"[{"specversion":"1.0","id":"a","source":"/s","type":"order","sequence":"00000000000000000007","partitionkey":"ada",
            "deliverycount":"2","datacontenttype":"application/json","data":{"n":1}},
            {"specversion":"1.0","id":"b","source":"/s","type":"order","sequence":"00000000000000000008","data_base64":"AA=="}]"#;
        let events = batch(body)?;
        let n: BTreeMap<String, u32> = events[0].json()?;
        assert_eq!((n["n"], events[0].key.as_deref(), events[0].delivery_count()), (1, Some("ada"), 2));
        assert_eq!((&events[1].data, events[1].data_base64.as_deref()), (&Value::Null, Some("AA==")));
        let mut acks = Acks::default();
        acks.retry(&events[0]);
        acks.retry_after(&events[1], Duration::from_secs(5));
        let expected =
            r#"{"retry":[{"sequence":"00000000000000000007"},{"sequence":"00000000000000000008","after_ms":5000}]}"#;
        assert_eq!(acks.to_json()?, expected);
        Ok(())
    }
}
