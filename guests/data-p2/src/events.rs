//! Publishing, and being run for messages and ticks, as the benchmarks need it.
//!
//! Times are those of the wall clock in nanoseconds, which all instances on a machine share.

use std::time::{SystemTime, UNIX_EPOCH};

use minnow_sdk::{
    kv::Store,
    topic::{Message, Topic},
};
use serde_json::{Value, json};
use wasip2::{http::types::IncomingRequest, random::random::get_random_u64};

use crate::{Done, body, request::Query};

/// Where it is written how late each event was.
const STORE: &str = "taken";
/// As many as one call of the store takes.
const AT_ONCE: usize = 100;

/// Publishes, on the request of a client.
pub fn call(what: &str, query: &Query, body: &[u8]) -> Done {
    Ok(match what {
        // Each durable before the next begins.
        "sends" => {
            let topic = Topic::open(query.text("topic", "orders"))?;
            let (count, has_own_ids) = (query.number("n", 1), query.number("own-ids", 0) == 1);
            let draw = get_random_u64();
            for index in 0..count {
                let message = Message::bytes(body, query.text("content-type", "text/plain"));
                topic.send(if has_own_ids { message.id(format!("{draw:016x}-{index}")) } else { message })?;
            }
            json!({ "sent": count })
        }
        // The time before, so that the one that takes it knows how long it was under way.
        "send-time" => {
            let topic = Topic::open(query.text("topic", "times"))?;
            let sent = topic.send(Message::json(&now_ns())?)?;
            json!({ "position": sent.position })
        }
        // How late each event was, in nanoseconds; forgotten then.
        "taken" => {
            let store = Store::open(STORE)?;
            let keys: Vec<String> = store.keys("").collect::<Result<_, _>>()?;
            let mut taken: Vec<u64> = Vec::new();
            for keys in keys.chunks(AT_ONCE) {
                for value in store.get_many(keys)?.into_iter().flatten() {
                    taken.push(String::from_utf8(value)?.parse()?);
                }
                store.delete_many(keys)?;
            }
            json!({ "taken": taken })
        }
        _ => return Err("no such call".into()),
    })
}

/// Is run for an event: `what` is the kind and the name. The messages of a batch are read and counted; of what comes alone it is written
/// down how late it is.
pub fn take(what: &str, request: &IncomingRequest) -> Done {
    let started_ns = now_ns();
    let headers = request.headers();
    let header = |name: &str| {
        let value = headers.get(name).into_iter().next();
        value.and_then(|value| String::from_utf8(value).ok()).ok_or_else(|| format!("there is no header {name}"))
    };
    let (name, since_ns) = match what.split_once('/') {
        Some(("topics", _)) if header("content-type")? == "application/cloudevents-batch+json" => {
            let events: Vec<Value> = serde_json::from_slice(&body(request))?;
            let bytes: usize = events.iter().filter_map(|event| event["data"].as_str()).map(str::len).sum();
            return Ok(json!({ "events": events.len(), "bytes": bytes }));
        }
        Some(("topics", _)) => (header("ce-sequence")?, serde_json::from_slice(&body(request))?),
        _ => {
            let id = header("ce-id")?;
            let due_ms: u64 = id.rsplit_once('-').ok_or("the id of a tick has no time")?.1.parse()?;
            (id, due_ms * 1_000_000)
        }
    };
    Store::open(STORE)?.set(&name, started_ns.saturating_sub(since_ns).to_string().as_bytes())?;
    Ok(json!({}))
}

fn now_ns() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}
