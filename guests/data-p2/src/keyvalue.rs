//! Key-value stores.

use std::time::{Duration, Instant};

use minnow_sdk::kv::{Options, Store};
use serde_json::json;

use crate::{Done, request::Query};

pub fn call(what: &str, query: &Query, body: &[u8]) -> Done {
    let store = Store::open(query.text("store", "items"))?;
    let key = query.text("key", "");
    Ok(match what {
        "get" => json!({ "value": store.get(key)?.map(text) }),
        "size" => json!({ "bytes": store.get(key)?.map(|value| value.len()) }),
        "set" => {
            let ttl = query.number("ttl", 0);
            match (ttl, query.text("metadata", "")) {
                (0, "") => store.set(key, body)?,
                (ttl, metadata) => {
                    let metadata = (!metadata.is_empty()).then(|| metadata.to_owned());
                    let time_to_live = (ttl > 0).then(|| Duration::from_millis(ttl));
                    store.set_with(key, body, &Options { metadata, time_to_live })?;
                }
            }
            json!({})
        }
        "fill" => {
            store.set(key, &vec![b'v'; query.number("bytes", 1) as usize])?;
            json!({})
        }
        "delete" => {
            store.delete(key)?;
            json!({})
        }
        "exists" => json!({ "exists": store.exists(key)? }),
        "entry" => match store.get_entry(key)? {
            None => json!({ "entry": null }),
            Some(entry) => json!({ "entry": {
                "value": text(entry.value), "metadata": entry.metadata, "expires_ms": entry.expires_ms,
                "version": entry.version,
            } }),
        },
        "keys" => {
            let keys: Vec<String> = store.keys(query.text("prefix", "")).collect::<Result<_, _>>()?;
            json!({ "keys": keys })
        }
        "add" => json!({ "sum": store.increment(key, query.text("by", "1").parse()?)? }),
        // Somebody else may write in between: then it is done again.
        "append" => {
            store.update(key, |value| Some([value.unwrap_or_default().as_slice(), body].concat()))?;
            json!({})
        }
        "many" => {
            let pairs: Vec<(String, Vec<u8>)> =
                (0..query.number("n", 10)).map(|index| (format!("{key}{index}"), body.to_vec())).collect();
            store.set_many(&pairs)?;
            let keys: Vec<String> = pairs.into_iter().map(|(key, _)| key).collect();
            let found = store.get_many(&keys)?.iter().flatten().count();
            store.delete_many(&keys)?;
            let left = store.get_many(&keys)?.iter().flatten().count();
            json!({ "found": found, "left": left })
        }
        // Has so many handles of the key at once.
        "looks" => {
            look(&store, key, query.number("n", 10))?;
            json!({})
        }
        // All of them or none.
        "batch" => {
            let pairs: Vec<(String, Vec<u8>)> =
                (0..query.number("n", 10)).map(|index| (format!("{key}{index}"), body.to_vec())).collect();
            store.set_many(&pairs)?;
            json!({})
        }
        // Each durable before the next begins.
        "sets" => {
            let count = query.number("n", 100);
            for _ in 0..count {
                store.set(key, body)?;
            }
            json!({ "set": count })
        }
        // How long one of many takes, in nanoseconds.
        "gets" => {
            let count = query.number("n", 100);
            let began = Instant::now();
            let mut bytes = 0;
            for _ in 0..count {
                bytes += store.get(key)?.map_or(0, |value| value.len());
            }
            let each = began.elapsed().as_nanos() / u128::from(count.max(1));
            json!({ "bytes": bytes, "each_ns": u64::try_from(each)? })
        }
        _ => return Err("no such call".into()),
    })
}

fn look(store: &Store, key: &str, times: u64) -> Result<(), Box<dyn std::error::Error>> {
    let mut deeper = Ok(());
    store.update(key, |value| {
        drop(value);
        if times > 1 {
            deeper = look(store, key, times - 1);
        }
        None
    })?;
    deeper
}

fn text(value: Vec<u8>) -> String {
    String::from_utf8_lossy(&value).into_owned()
}
