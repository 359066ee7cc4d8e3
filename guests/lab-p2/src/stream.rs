//! Bodies of any length, in and out, with constant memory.

use std::io::{Read, Write};

use serde_json::json;
use wasip2::http::types::{IncomingRequest, ResponseOutparam};

use crate::answer::{self, fields};
use crate::request::wait_ms;

const CHUNK_BYTES: usize = 64 * 1024;

pub fn echo(request: IncomingRequest, out: ResponseOutparam) {
    let body = request.consume().unwrap();
    let mut input = body.stream().unwrap();
    let mut sending = answer::start_as(out, "application/octet-stream");
    let mut chunk = vec![0; CHUNK_BYTES];
    // A read gives what has arrived, at least one byte; a write hands it over at once. Either fails when the
    // client has gone.
    while let Ok(count @ 1..) = Read::read(&mut input, &mut chunk) {
        if sending.stream.write_all(&chunk[..count]).is_err() {
            return;
        }
    }
    sending.finish(None);
}

/// The whole body; what came of it where it breaks off.
pub fn whole(request: IncomingRequest) -> Vec<u8> {
    let body = request.consume().unwrap();
    let mut bytes = Vec::new();
    let _ = body.stream().unwrap().read_to_end(&mut bytes);
    bytes
}

pub fn count(request: IncomingRequest, out: ResponseOutparam) {
    let body = request.consume().unwrap();
    let mut input = body.stream().unwrap();
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut bytes = 0;
    let error = loop {
        match Read::read(&mut input, &mut chunk) {
            Ok(0) => break None,
            Ok(count) => bytes += count as u64,
            Err(error) => break Some(error.to_string()),
        }
    };
    // Also into the log: a client that is gone reads no answer.
    println!("the body had {bytes} bytes and ended with {error:?}");
    answer::json(out, &json!({ "bytes": bytes, "error": error }));
}

pub fn download(out: ResponseOutparam, bytes: u64) {
    let mut sending = answer::start_as(out, "application/octet-stream");
    let chunk = vec![b'm'; CHUNK_BYTES];
    let mut left = bytes;
    while left > 0 {
        let count = left.min(CHUNK_BYTES as u64);
        if sending.stream.write_all(&chunk[..count as usize]).is_err() {
            return;
        }
        left -= count;
    }
    sending.finish(None);
}

pub fn events(out: ResponseOutparam, count: u64, interval_ms: u64) {
    let headers = fields(&[("content-type", "text/event-stream"), ("cache-control", "no-cache")]);
    let mut sending = answer::start(out, 200, headers);
    for id in 1..=count {
        if id > 1 {
            wait_ms(interval_ms);
        }
        let written = write!(sending.stream, "id: {id}\ndata: event {id}\n\n");
        if written.is_err() || sending.stream.blocking_flush().is_err() {
            return;
        }
    }
    sending.finish(None);
}

pub fn trailers(out: ResponseOutparam) {
    let headers = fields(&[("content-type", "text/plain"), ("trailer", "x-lab-trailer")]);
    let mut sending = answer::start(out, 200, headers);
    let _ = sending.stream.write_all(b"the trailers follow\n");
    sending.finish(Some(fields(&[("x-lab-trailer", "here")])));
}
