//! The end-to-end tests' guest for wasi:http 0.3. The path picks what it does; `/` lists the paths.
//!
//! Its calls run concurrently in one instance where the host lets them, which `/together` proves.

mod after;
mod answer;
mod fetch;
#[path = "../../lab-p2/src/files.rs"]
mod files;
mod hoard;
mod together;

use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::json;
use wasip3::clocks::monotonic_clock::{now, wait_for};
use wasip3::exports::http::handler::Guest;
use wasip3::http::types::{ErrorCode, Request, Response};
use wasip3::random::random::get_random_u64;
use wasip3::spawn_local;
use wasip3::wit_bindgen::StreamResult;
use wasip3::wit_future;

const PATHS: &str = "\
/hello /echo /count /files /sse?n=N&ms=M /state /together?n=N /loop /burn?ms=N /sleep?ms=N /panic /fetch?url=U
/after-fetch?url=U /after-loop?url=U /after-block?ms=N /alloc?mb=N /hoard?what=fields|streams|waits&n=N
";
const CHUNK_BYTES: usize = 64 * 1024;

struct Lab;

impl Guest for Lab {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let target = request.get_path_with_query().unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        Ok(match path {
            "/" => answer::text(200, PATHS),
            "/hello" => answer::text(200, "Hello, World!\n"),
            "/echo" => echo(request),
            "/count" => count(request).await,
            "/files" => answer::json(200, &files::all(&whole(request).await, files::step)),
            "/sse" => events(number(query, "n", 5), number(query, "ms", 100)),
            "/state" => state(),
            "/together" => together::meet(number(query, "n", 2)).await,
            "/loop" => spin(),
            "/burn" => burn(number(query, "ms", 100)),
            "/sleep" => {
                let ms = number(query, "ms", 100);
                sleep_ms(ms).await;
                answer::json(200, &json!({ "slept_ms": ms }))
            }
            "/panic" => panic!("the lab panics, as it was asked to"),
            "/fetch" => fetch::get(&text(query, "url")).await,
            "/after-fetch" => after::fetch(text(query, "url")),
            "/after-loop" => after::spin(text(query, "url")),
            "/after-block" => after::block(number(query, "ms", 1000)),
            "/alloc" => alloc(number(query, "mb", 1)),
            "/hoard" => hoard::hold(&text(query, "what"), number(query, "n", 10)).await,
            _ => answer::text(404, "no such path\n"),
        })
    }
}

wasip3::http::service::export!(Lab);

/// Copies the body through the guest, chunk by chunk, while the response is already on its way.
fn echo(request: Request) -> Response {
    let (_, received) = wit_future::new(|| Ok(()));
    let (mut input, _trailers) = Request::consume_body(request, received);
    let (response, mut body) = answer::start(200, "application/octet-stream");
    spawn_local(async move {
        let mut chunk = Vec::with_capacity(CHUNK_BYTES);
        loop {
            let (result, bytes) = input.read(chunk).await;
            if !bytes.is_empty() {
                chunk = body.write_all(bytes).await;
                if !chunk.is_empty() {
                    return; // the client has gone
                }
                chunk.reserve(CHUNK_BYTES);
            } else {
                chunk = bytes;
            }
            if !matches!(result, StreamResult::Complete(_)) {
                return;
            }
        }
    });
    response
}

async fn whole(request: Request) -> Vec<u8> {
    let (_, received) = wit_future::new(|| Ok(()));
    let (mut input, _trailers) = Request::consume_body(request, received);
    let mut bytes = Vec::new();
    loop {
        let (result, read) = input.read(Vec::with_capacity(CHUNK_BYTES)).await;
        bytes.extend(read);
        if !matches!(result, StreamResult::Complete(_)) {
            return bytes;
        }
    }
}

/// Reads the body to its end, and tells in the answer and in the log how it ended: a client that is gone reads no answer.
async fn count(request: Request) -> Response {
    let (_, received) = wit_future::new(|| Ok(()));
    let (mut input, complete) = Request::consume_body(request, received);
    let (mut bytes, mut chunk) = (0, Vec::with_capacity(CHUNK_BYTES));
    loop {
        let (result, read) = input.read(chunk).await;
        bytes += read.len() as u64;
        if !matches!(result, StreamResult::Complete(_)) {
            break;
        }
        chunk = read;
        chunk.clear();
    }
    drop(input);
    let error = complete.await.err().map(fetch::name);
    println!("the body had {bytes} bytes and ended with {error:?}");
    answer::json(200, &json!({ "bytes": bytes, "error": error }))
}

fn events(count: u64, interval_ms: u64) -> Response {
    let (response, mut body) = answer::start(200, "text/event-stream");
    spawn_local(async move {
        for id in 1..=count {
            if id > 1 {
                sleep_ms(interval_ms).await;
            }
            let event = format!("id: {id}\ndata: event {id}\n\n");
            if !body.write_all(event.into_bytes()).await.is_empty() {
                return; // the client has gone
            }
        }
    });
    response
}

/// Counts the calls that this instance has answered, so a second call tells whether it was reused.
fn state() -> Response {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed) + 1;
    answer::json(200, &json!({ "count": count, "instance": instance() }))
}

/// A name for this instance: drawn once, the same for all of its calls.
pub fn instance() -> String {
    static INSTANCE: AtomicU64 = AtomicU64::new(0);
    if INSTANCE.load(Ordering::Relaxed) == 0 {
        INSTANCE.store(get_random_u64().max(1), Ordering::Relaxed);
    }
    format!("{:016x}", INSTANCE.load(Ordering::Relaxed))
}

pub fn spin() -> ! {
    let mut rounds: u64 = 0;
    loop {
        rounds = std::hint::black_box(rounds.wrapping_add(1));
    }
}

fn burn(ms: u64) -> Response {
    let start = now();
    let mut rounds: u64 = 0;
    while now() - start < ms.saturating_mul(1_000_000) {
        // Reading the clock is a call to the host; most of the time should go into the guest's own code.
        for step in 0..10_000u64 {
            rounds = std::hint::black_box(rounds.wrapping_add(step & 1));
        }
    }
    answer::json(200, &json!({ "burned_ms": ms, "rounds": rounds }))
}

/// Asks for memory, and answers whether it came.
fn alloc(mb: u64) -> Response {
    let bytes = usize::try_from(mb << 20).unwrap_or(usize::MAX);
    match Vec::<u8>::new().try_reserve_exact(bytes) {
        Ok(()) => answer::text(200, "there is room\n"),
        Err(_) => answer::text(507, "there is no room\n"),
    }
}

pub async fn sleep_ms(ms: u64) {
    wait_for(ms.saturating_mul(1_000_000)).await;
}

fn number(query: &str, name: &str, default: u64) -> u64 {
    text(query, name).parse().unwrap_or(default)
}

/// A parameter's value, percent-decoded; empty where it is absent.
fn text(query: &str, name: &str) -> String {
    let found = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
    let bytes = found.unwrap_or_default().as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = bytes.get(at + 1..at + 3).filter(|_| bytes[at] == b'%');
        let hex = hex.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        decoded.push(hex.unwrap_or(bytes[at]));
        at += if hex.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&decoded).into_owned()
}
