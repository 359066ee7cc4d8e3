//! A meeting of concurrent calls in one instance.

use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::json;
use wasip3::clocks::monotonic_clock::now;
use wasip3::http::types::Response;

use crate::{answer, instance, sleep_ms};

const PATIENCE_NS: u64 = 5_000_000_000;
const POLL_MS: u64 = 2;

/// Calls that are inside this instance right now.
static INSIDE: AtomicU64 = AtomicU64::new(0);
/// Meetings that have taken place, so that all who waited for one see it, whenever they look.
static MET: AtomicU64 = AtomicU64::new(0);

/// Answers once `wanted` calls are inside this instance; gives up with 504 after five seconds.
pub async fn meet(wanted: u64) -> Response {
    let before = MET.load(Ordering::Relaxed);
    let inside = INSIDE.fetch_add(1, Ordering::Relaxed) + 1;
    if inside >= wanted {
        MET.fetch_add(1, Ordering::Relaxed);
    }
    let deadline = now() + PATIENCE_NS;
    while MET.load(Ordering::Relaxed) == before && now() < deadline {
        sleep_ms(POLL_MS).await;
    }
    let met = MET.load(Ordering::Relaxed) != before;
    let inside = INSIDE.fetch_sub(1, Ordering::Relaxed);
    answer::json(
        if met { 200 } else { 504 },
        &json!({ "together": met, "wanted": wanted, "inside": inside, "instance": instance() }),
    )
}
