//! Takes of what the host keeps for a guest, and gives nothing back.

use serde_json::json;
use wasip2::clocks::monotonic_clock::subscribe_duration;
use wasip2::http::types::{Fields, OutgoingBody, OutgoingRequest, OutgoingResponse, ResponseOutparam};

use crate::answer;

/// Fills one set of fields nearly to what the host allows.
const FIELD_BYTES: usize = 60 * 1024;

/// Holds `count` of `what` until the end of the call, and answers with how many those were.
pub fn hold(out: ResponseOutparam, what: &str, count: u64) {
    let held = match what {
        "fields" => (0..count).map(|_| fields()).collect::<Vec<_>>().len(),
        "responses" => (0..count).map(|_| response()).collect::<Vec<_>>().len(),
        "requests" => (0..count).map(|_| request()).collect::<Vec<_>>().len(),
        "pollables" => (0..count).map(|_| subscribe_duration(u64::MAX)).collect::<Vec<_>>().len(),
        _ => return answer::with_status(out, 404),
    };
    answer::json(out, &json!({ "held": held }));
}

fn fields() -> Fields {
    let fields = Fields::new();
    fields.append("x-hoard", &vec![b'h'; FIELD_BYTES]).unwrap();
    fields
}

fn response() -> OutgoingResponse {
    let response = OutgoingResponse::new(fields());
    fill(response.body().unwrap());
    response
}

fn request() -> OutgoingRequest {
    let request = OutgoingRequest::new(fields());
    fill(request.body().unwrap());
    request
}

/// Writes what the host takes without anybody reading it. What was written stays with the message when the handles go.
fn fill(body: OutgoingBody) {
    let stream = body.write().unwrap();
    while let Ok(room @ 1..) = stream.check_write() {
        stream.write(&vec![b'h'; room as usize]).unwrap();
    }
}
