//! Takes of what the host keeps for a guest, and gives nothing back.

use serde_json::json;
use wasip3::clocks::monotonic_clock::wait_for;
use wasip3::http::types::{Fields, Response};
use wasip3::{spawn_local, wit_stream};

use crate::{answer, sleep_ms};

/// Fills one set of fields nearly to what the host allows.
const FIELD_BYTES: usize = 60 * 1024;

/// Holds `count` of `what` until the end of the call, and answers with how many those were.
pub async fn hold(what: &str, count: u64) -> Response {
    let held = match what {
        "fields" => (0..count).map(|_| fields()).collect::<Vec<_>>().len(),
        "streams" => (0..count).map(|_| wit_stream::new::<u8>()).collect::<Vec<_>>().len(),
        "waits" => {
            for _ in 0..count {
                spawn_local(async { wait_for(u64::MAX).await });
            }
            // They begin when this call waits.
            sleep_ms(1).await;
            count as usize
        }
        _ => return answer::text(404, "there is no such thing to hold\n"),
    };
    answer::json(200, &json!({ "held": held }))
}

fn fields() -> Fields {
    let fields = Fields::new();
    fields.append("x-hoard", &vec![b'h'; FIELD_BYTES]).unwrap();
    fields
}
