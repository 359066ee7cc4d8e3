//! The tour's API, a wasi:http 0.3 service:
//!
//! | request | answer |
//! | --- | --- |
//! | `GET /api` | what there is, and how many requests this instance has served |
//! | `GET /api/hello?name=N` | a greeting |
//! | `POST /api/echo` | the request's body, streamed back as it arrives |
//! | `GET /api/time` | the time |
//! | `GET /api/clock` | the time, each second for a minute, as server-sent events |

mod date;

use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};
use wasip3::clocks::monotonic_clock::wait_for;
use wasip3::clocks::system_clock;
use wasip3::exports::http::handler::Guest;
use wasip3::http::types::{ErrorCode, Fields, Method, Request, Response};
use wasip3::wit_bindgen::{StreamResult, StreamWriter};
use wasip3::{spawn_local, wit_future, wit_stream};

const SECOND_NS: u64 = 1_000_000_000;
const CLOCK_TICKS: u64 = 60;
const CHUNK_BYTES: usize = 64 * 1024;

struct Api;

impl Guest for Api {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        // The manifest says `instances = "reuse"`, so this lives on from one request to the next.
        static SERVED: AtomicU64 = AtomicU64::new(0);
        let served = SERVED.fetch_add(1, Ordering::Relaxed) + 1;

        let target = request.get_path_with_query().unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let routes = ["/api/hello?name=N", "POST /api/echo", "/api/time", "/api/clock"];
        Ok(match (request.get_method(), path) {
            (Method::Get, "/api" | "/api/") => {
                json(200, &json!({ "routes": routes, "served_by_this_instance": served }))
            }
            (Method::Get, "/api/hello") => {
                let name = query.split('&').find_map(|pair| pair.strip_prefix("name="));
                let name = name.filter(|name| !name.is_empty()).unwrap_or("stranger");
                json(200, &json!({ "hello": name }))
            }
            (Method::Post, "/api/echo") => echo(request),
            (Method::Get, "/api/time") => json(200, &json!({ "time": now() })),
            (Method::Get, "/api/clock") => clock(),
            _ => json(404, &json!({ "error": "no such route", "routes": routes })),
        })
    }
}

wasip3::http::service::export!(Api);

fn now() -> String {
    date::rfc3339(system_clock::now().seconds)
}

fn clock() -> Response {
    let (response, mut body) = start(200, "text/event-stream");
    spawn_local(async move {
        for _ in 0..CLOCK_TICKS {
            let event = format!("data: {}\n\n", now());
            if !body.write_all(event.into_bytes()).await.is_empty() {
                return; // the client has gone
            }
            wait_for(SECOND_NS).await;
        }
    });
    response
}

fn echo(request: Request) -> Response {
    let types = request.get_headers().get("content-type");
    let content_type = types.first().map(|value| String::from_utf8_lossy(value).into_owned());
    let (_, received) = wit_future::new(|| Ok(()));
    let (mut input, _trailers) = Request::consume_body(request, received);
    let (response, mut body) = start(200, content_type.as_deref().unwrap_or("application/octet-stream"));
    spawn_local(async move {
        let mut more = true;
        while more {
            let (result, bytes) = input.read(Vec::with_capacity(CHUNK_BYTES)).await;
            more = matches!(result, StreamResult::Complete(_)) && body.write_all(bytes).await.is_empty();
        }
    });
    response
}

fn json(status: u16, value: &Value) -> Response {
    let (response, mut body) = start(status, "application/json");
    let text = format!("{value:#}\n");
    spawn_local(async move {
        body.write_all(text.into_bytes()).await;
    });
    response
}

/// A response and the writer of its body; dropping the writer ends the body.
fn start(status: u16, content_type: &str) -> (Response, StreamWriter<u8>) {
    let headers = [("content-type".to_owned(), content_type.as_bytes().to_vec())];
    let (body, contents) = wit_stream::new();
    let (_, trailers) = wit_future::new(|| Ok(None));
    let fields = Fields::from_list(&headers).unwrap_or_else(|_| Fields::new());
    let (response, _sent) = Response::new(fields, Some(contents), trailers);
    let _ = response.set_status_code(status);
    (response, body)
}
