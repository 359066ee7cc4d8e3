//! Outbound HTTP: what came back, or the name of the wasi:http error.

use serde_json::json;
use wasip3::http::client;
use wasip3::http::types::{ErrorCode, Fields, Request, Response, Scheme};
use wasip3::wit_future;

use crate::answer;

pub async fn get(url: &str) -> Response {
    let report = match fetch(url).await {
        Ok((status, body)) => json!({ "status": status, "body": String::from_utf8_lossy(&body) }),
        Err(error) => json!({ "error": error }),
    };
    answer::json(200, &report)
}

pub async fn fetch(url: &str) -> Result<(u16, Vec<u8>), String> {
    let (scheme, rest) = match url.split_once("://") {
        Some(("http", rest)) => (Scheme::Http, rest),
        Some(("https", rest)) => (Scheme::Https, rest),
        _ => return Err("the url must begin with http:// or https://".into()),
    };
    let split = rest.find('/').unwrap_or(rest.len());
    let (authority, path) = rest.split_at(split);
    let path = if path.is_empty() { "/" } else { path };

    let (_, trailers) = wit_future::new(|| Ok(None));
    let (request, _sent) = Request::new(Fields::new(), None, trailers, None);
    let set = request
        .set_scheme(Some(&scheme))
        .and_then(|()| request.set_authority(Some(authority)))
        .and_then(|()| request.set_path_with_query(Some(path)));
    set.map_err(|()| "the url is not valid".to_owned())?;

    let response = client::send(request).await.map_err(name)?;
    let status = response.get_status_code();
    let (_, received) = wit_future::new(|| Ok(()));
    let (body, complete) = Response::consume_body(response, received);
    let body = body.collect().await;
    complete.await.map_err(name)?;
    Ok((status, body))
}

/// The case's name as WIT spells it, in lower case: `ErrorCode::HttpRequestDenied` is `http-request-denied`.
pub fn name(code: ErrorCode) -> String {
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
