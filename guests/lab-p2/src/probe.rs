//! What the guest can see, reach and use up.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use wasip2::clocks::{monotonic_clock, wall_clock};
use wasip2::filesystem::preopens::get_directories;
use wasip2::http::types::{IncomingRequest, Method, ResponseOutparam, Scheme};
use wasip2::random::random::{get_random_bytes, get_random_u64};

use crate::answer;
use crate::request::wait_ms;

const LONG_LINE_BYTES: usize = 100 * 1024;
const PAGE_BYTES: usize = 4096;

pub fn environment(out: ResponseOutparam) {
    let environment: BTreeMap<_, _> = std::env::vars().collect();
    answer::json(out, &json!(environment));
}

pub fn headers(request: &IncomingRequest, out: ResponseOutparam) {
    let headers: Vec<Value> =
        request.headers().entries().iter().map(|(name, value)| json!([name, String::from_utf8_lossy(value)])).collect();
    let scheme = request.scheme().map(|scheme| match scheme {
        Scheme::Http => "http".to_owned(),
        Scheme::Https => "https".to_owned(),
        Scheme::Other(other) => other,
    });
    answer::json(
        out,
        &json!({
            "method": method_name(request.method()),
            "path_with_query": request.path_with_query(),
            "scheme": scheme,
            "authority": request.authority(),
            "headers": headers,
        }),
    );
}

fn method_name(method: Method) -> String {
    let name = match method {
        Method::Get => "GET",
        Method::Head => "HEAD",
        Method::Post => "POST",
        Method::Put => "PUT",
        Method::Delete => "DELETE",
        Method::Connect => "CONNECT",
        Method::Options => "OPTIONS",
        Method::Trace => "TRACE",
        Method::Patch => "PATCH",
        Method::Other(other) => return other,
    };
    name.to_owned()
}

pub fn random(out: ResponseOutparam) {
    let bytes: String = get_random_bytes(16).iter().map(|byte| format!("{byte:02x}")).collect();
    answer::json(out, &json!({ "u64": get_random_u64().to_string(), "bytes": bytes }));
}

pub fn clock(out: ResponseOutparam) {
    let now = wall_clock::now();
    answer::json(
        out,
        &json!({
            "wall_seconds": now.seconds,
            "wall_nanoseconds": now.nanoseconds,
            "monotonic_ns": monotonic_clock::now(),
            "monotonic_resolution_ns": monotonic_clock::resolution(),
        }),
    );
}

/// Counts the requests that this instance has answered, so a second request tells whether it was reused.
pub fn state(out: ResponseOutparam) {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    static INSTANCE: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed) + 1;
    if count == 1 {
        INSTANCE.store(get_random_u64(), Ordering::Relaxed);
    }
    let instance = format!("{:016x}", INSTANCE.load(Ordering::Relaxed));
    answer::json(out, &json!({ "count": count, "instance": instance }));
}

/// Tries the host's files in every way a guest has. `reached` is true when anything at all was there beside its own folder.
pub fn files(out: ResponseOutparam) {
    let preopens: Vec<String> = get_directories().into_iter().map(|(_, name)| name).collect();
    let attempts = [
        ("list /", std::fs::read_dir("/").map(drop)),
        ("list .", std::fs::read_dir(".").map(drop)),
        ("read /etc/passwd", std::fs::read("/etc/passwd").map(drop)),
        ("read ../../etc/passwd", std::fs::read("../../etc/passwd").map(drop)),
        ("write /var/tmp/minnow-lab", std::fs::write("/var/tmp/minnow-lab", "x")),
    ];
    let reached = preopens != ["/tmp"] || attempts.iter().any(|(_, result)| result.is_ok());
    let attempts: BTreeMap<_, _> = attempts
        .into_iter()
        .map(|(name, result)| (name, result.map_or_else(|e| e.to_string(), |()| "ok".into())))
        .collect();
    answer::json(out, &json!({ "reached": reached, "preopens": preopens, "attempts": attempts }));
}

pub fn log(out: ResponseOutparam) {
    println!("lab stdout one");
    println!("lab stdout two");
    eprintln!("lab stderr one");
    eprintln!("lab stderr two");
    println!("{}", "x".repeat(LONG_LINE_BYTES));
    print!("lab stdout without a newline");
    answer::text(out, "logged\n");
}

/// Prints short lines as fast as it can.
pub fn print(out: ResponseOutparam, lines: u64) {
    // Whole pieces, so that the host's part of the work is more than the guest's.
    let piece = "a line\n".repeat(1000);
    let (pieces, rest) = (lines / 1000, lines % 1000);
    for _ in 0..pieces {
        print!("{piece}");
    }
    for _ in 0..rest {
        println!("a line");
    }
    answer::json(out, &json!({ "printed": lines }));
}

pub fn burn(out: ResponseOutparam, ms: u64) {
    let start = Instant::now();
    let mut rounds: u64 = 0;
    while start.elapsed() < Duration::from_millis(ms) {
        // Reading the clock is a call to the host; most of the time should go into the guest's own code.
        for step in 0..10_000u64 {
            rounds = std::hint::black_box(rounds.wrapping_add(step & 1));
        }
    }
    answer::json(out, &json!({ "burned_ms": ms, "rounds": rounds }));
}

pub fn allocate(out: ResponseOutparam, mib: u64) {
    let bytes = usize::try_from(mib.saturating_mul(1024 * 1024)).unwrap_or(usize::MAX);
    let mut memory: Vec<u8> = Vec::new();
    if memory.try_reserve_exact(bytes).is_err() {
        answer::whole(
            answer::start(out, 507, answer::fields(&[("content-type", "text/plain")])),
            b"the allocation was refused\n",
        );
        return;
    }
    memory.resize(bytes, 0);
    for byte in memory.iter_mut().step_by(PAGE_BYTES) {
        *byte = 1;
    }
    let touched: u64 = std::hint::black_box(&memory).iter().step_by(PAGE_BYTES).map(|byte| u64::from(*byte)).sum();
    answer::json(out, &json!({ "mb": mib, "pages": touched }));
}

pub fn sleep(out: ResponseOutparam, ms: u64) {
    wait_ms(ms);
    answer::json(out, &json!({ "slept_ms": ms }));
}
