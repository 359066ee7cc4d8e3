//! What no good guest does. Each of these must fail only its own request.

use std::io::Write;

use wasip2::cli::exit::exit_with_code;
use wasip2::clocks::monotonic_clock::subscribe_duration;
use wasip2::http::types::{Fields, HeaderError, ResponseOutparam};

use crate::answer;

pub fn exit(code: u8) {
    exit_with_code(code);
}

pub fn spin() -> ! {
    let mut rounds: u64 = 0;
    loop {
        rounds = std::hint::black_box(rounds.wrapping_add(1));
    }
}

/// Holds on to the response for ever.
pub fn never(out: ResponseOutparam) {
    block_for_ever();
    drop(out);
}

/// Answers whole, then uses the response that it has already given away.
pub fn answer_twice(out: ResponseOutparam) {
    let handle = out.take_handle();
    // SAFETY: the first of the two is the handle that was just taken. The second is a mistake on purpose: the
    // handle has been consumed by then, and the host has to notice.
    let (first, second) = unsafe { (ResponseOutparam::from_handle(handle), ResponseOutparam::from_handle(handle)) };
    answer::text(first, "first\n");
    answer::text(second, "second\n");
}

/// Headers of 1 KiB each. Where the host refuses one, answers 500 and says at which it stopped.
pub fn big_headers(out: ResponseOutparam, kib: u64) {
    let headers = answer::fields(&[("content-type", "text/plain")]);
    for index in 0..kib {
        let name = format!("x-big-{index:06}");
        let value = vec![b'v'; 1024 - name.len()];
        if let Err(error) = headers.append(&name, &value) {
            refuse(out, index, error);
            return;
        }
    }
    answer::whole(answer::start(out, 200, headers), b"headers sent\n");
}

fn refuse(out: ResponseOutparam, index: u64, error: HeaderError) {
    let sending = answer::start(out, 500, Fields::new());
    let text = format!("header {index} was refused: {error:?}\n");
    answer::whole(sending, text.as_bytes());
}

pub fn partial(out: ResponseOutparam) {
    let mut sending = answer::start_as(out, "text/plain");
    let _ = sending.stream.write_all(b"partial\n");
    let _ = sending.stream.blocking_flush();
    panic!("the lab panics in the middle of a body");
}

pub fn stall(out: ResponseOutparam) {
    let mut sending = answer::start_as(out, "text/plain");
    let _ = sending.stream.write_all(b"stalled\n");
    let _ = sending.stream.blocking_flush();
    block_for_ever();
}

fn block_for_ever() {
    loop {
        subscribe_duration(u64::MAX).block();
    }
}
