//! Locks.

use std::{sync::Mutex, time::Duration};

use minnow_sdk::lock;
use serde_json::json;

use crate::{
    Done,
    request::{Query, wait_ms},
};

/// What an instance keeps from one request to the next.
static KEPT: Mutex<Option<lock::Lock>> = Mutex::new(None);

/// Takes a lock, holds it for a while, and ends in the way that was asked for.
pub fn hold(query: &Query) -> Done {
    let time = |name, default| Duration::from_millis(query.number(name, default));
    let Some(held) = lock::acquire(query.text("name", "l"), time("lease", 10_000), time("wait", 0))? else {
        return Ok(json!({ "token": null }));
    };
    let token = held.token();
    wait_ms(query.number("hold", 0));
    match query.text("end", "release") {
        "trap" => panic!("with the lock in hand"),
        "loop" => loop {
            std::hint::black_box(token);
        },
        // As a mistake: nobody gives it up.
        "forget" => {
            std::mem::forget(held);
            Ok(json!({ "token": token }))
        }
        // For the requests that come after this one.
        "keep" => {
            *KEPT.lock()? = Some(held);
            Ok(json!({ "token": token }))
        }
        "drop" => {
            drop(held);
            Ok(json!({ "token": token }))
        }
        "renew" => Ok(json!({ "token": token, "renewed": held.renew(time("lease", 10_000))? })),
        _ => Ok(json!({ "token": token, "released": held.release()? })),
    }
}
