//! Answering: a head at once, and a body that is written while the call goes on.

use serde_json::Value;
use wasip3::http::types::{Fields, Response};
use wasip3::wit_bindgen::StreamWriter;
use wasip3::{spawn_local, wit_future, wit_stream};

/// A response and the writer of its body; dropping the writer ends the body.
pub fn start(status: u16, content_type: &str) -> (Response, StreamWriter<u8>) {
    let headers = [("content-type".to_owned(), content_type.as_bytes().to_vec())];
    let (body, contents) = wit_stream::new();
    let (_, trailers) = wit_future::new(|| Ok(None));
    let fields = Fields::from_list(&headers).unwrap();
    let (response, _sent) = Response::new(fields, Some(contents), trailers);
    response.set_status_code(status).unwrap();
    (response, body)
}

pub fn text(status: u16, text: &str) -> Response {
    whole(status, "text/plain", text.as_bytes().to_vec())
}

pub fn json(status: u16, value: &Value) -> Response {
    whole(status, "application/json", value.to_string().into_bytes())
}

fn whole(status: u16, content_type: &str, bytes: Vec<u8>) -> Response {
    let (response, mut body) = start(status, content_type);
    spawn_local(async move {
        body.write_all(bytes).await;
    });
    response
}
