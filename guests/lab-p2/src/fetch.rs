//! Outbound HTTP: what came back, or the name of the wasi:http error.

use std::io::Read;

use serde_json::{Value, json};
use wasip2::http::outgoing_handler;
use wasip2::http::types::{ErrorCode, Fields, IncomingResponse, OutgoingRequest, ResponseOutparam, Scheme};

use crate::answer;

pub fn once(out: ResponseOutparam, url: &str) {
    answer::json(out, &report(get(url)));
}

/// One after the other, so that a pooled connection shows.
pub fn many(out: ResponseOutparam, url: &str, count: u64) {
    let reports: Vec<Value> = (0..count).map(|_| report(get(url))).collect();
    answer::json(out, &json!(reports));
}

fn report(result: Result<(u16, Vec<u8>), String>) -> Value {
    match result {
        Ok((status, body)) => json!({ "status": status, "body": String::from_utf8_lossy(&body) }),
        Err(error) => json!({ "error": error }),
    }
}

fn get(url: &str) -> Result<(u16, Vec<u8>), String> {
    let (scheme, rest) = match url.split_once("://") {
        Some(("http", rest)) => (Scheme::Http, rest),
        Some(("https", rest)) => (Scheme::Https, rest),
        _ => return Err("the url must begin with http:// or https://".into()),
    };
    let split = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(split);
    let path = match path {
        "" => "/".to_owned(),
        path if path.starts_with('?') => format!("/{path}"),
        path => path.to_owned(),
    };

    let request = OutgoingRequest::new(Fields::new());
    let set = request
        .set_scheme(Some(&scheme))
        .and_then(|()| request.set_authority(Some(authority)))
        .and_then(|()| request.set_path_with_query(Some(&path)));
    set.map_err(|()| "the url is not valid".to_owned())?;

    let response = outgoing_handler::handle(request, None).map_err(name)?;
    response.subscribe().block();
    match response.get() {
        Some(Ok(Ok(response))) => Ok((response.status(), read_body(response)?)),
        Some(Ok(Err(code))) => Err(name(code)),
        Some(Err(())) | None => Err("the response was not there".into()),
    }
}

fn read_body(response: IncomingResponse) -> Result<Vec<u8>, String> {
    let body = response.consume().map_err(|()| "no body".to_owned())?;
    let mut stream = body.stream().map_err(|()| "no body stream".to_owned())?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    Ok(bytes)
}

/// The case's name as WIT spells it, in lower case: `ErrorCode::HttpRequestDenied` is `http-request-denied`.
fn name(code: ErrorCode) -> String {
    let debug = format!("{code:?}");
    let case = debug.trim_start_matches("ErrorCode::");
    let case = case.split(['(', ' ', '{']).next().unwrap_or(case);
    let mut name = String::new();
    for letter in case.chars() {
        if letter.is_ascii_uppercase() && !name.is_empty() {
            name.push('-');
        }
        name.push(letter.to_ascii_lowercase());
    }
    name
}
