//! Answering: a head, then a body that is streamed or written whole.

use std::io::Write;

use serde_json::Value;
use wasip2::http::types::{Fields, OutgoingBody, OutgoingResponse, ResponseOutparam};
use wasip2::io::streams::OutputStream;

/// A response whose head has been sent. `stream` must be dropped before `body`, hence the order of the fields.
pub struct Sending {
    pub stream: OutputStream,
    pub body: OutgoingBody,
}

impl Sending {
    pub fn finish(self, trailers: Option<Fields>) {
        drop(self.stream);
        // Fails only when the client has gone, which is nobody's mistake here.
        let _ = OutgoingBody::finish(self.body, trailers);
    }
}

pub fn fields(entries: &[(&str, &str)]) -> Fields {
    let entries: Vec<_> = entries.iter().map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec())).collect();
    Fields::from_list(&entries).unwrap()
}

/// Sends the head and hands back the body to write.
pub fn start(out: ResponseOutparam, status: u16, headers: Fields) -> Sending {
    let response = OutgoingResponse::new(headers);
    response.set_status_code(status).unwrap();
    let body = response.body().unwrap();
    ResponseOutparam::set(out, Ok(response));
    let stream = body.write().unwrap();
    Sending { stream, body }
}

pub fn start_as(out: ResponseOutparam, content_type: &str) -> Sending {
    start(out, 200, fields(&[("content-type", content_type)]))
}

pub fn text(out: ResponseOutparam, text: &str) {
    whole(start_as(out, "text/plain"), text.as_bytes());
}

pub fn json(out: ResponseOutparam, value: &Value) {
    whole(start_as(out, "application/json"), value.to_string().as_bytes());
}

/// An empty body with this status (or 500 where the number is not a status).
pub fn with_status(out: ResponseOutparam, status: u16) {
    let status = if (100..1000).contains(&status) { status } else { 500 };
    start(out, status, Fields::new()).finish(None);
}

pub fn whole(mut sending: Sending, bytes: &[u8]) {
    let _ = sending.stream.write_all(bytes);
    sending.finish(None);
}
