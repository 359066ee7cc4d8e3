//! The data services against the databases that a function would use without them.
//!
//! Reads are timed where they are made: a request makes a hundred and answers how long one took, so that HTTP has no part in
//! it; [`plain`] does the same without a function. Durable writes are requests of 64 clients through the gateway.

pub(crate) mod blob;
pub(crate) mod kv;
pub(super) mod plain;
mod postgres;
pub(super) mod redis;
pub(crate) mod sql;
pub(crate) mod stores;

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::Value;

use super::{
    Setup,
    contest::WARM_UP,
    http::{Answer, Client},
    machine::on_core,
    node::Node,
    report::time,
    stats::{median, median_time, micros, percentile},
};

/// Clients that write at once.
pub(super) const CLIENTS: u32 = 64;
/// Gets in one request.
const GETS: u32 = 100;
/// Durable sets or inserts in one request, one after the other.
pub(super) const WRITES: u32 = 100;
/// What is stored: as much as a session or a row often has.
const VALUE_BYTES: usize = 100;

/// How long one get took, on average of each hundred.
type Gets = Vec<Duration>;

/// What a request with gets answers.
#[derive(Deserialize)]
struct Timed {
    each_ns: f64,
}

fn value() -> String {
    "v".repeat(VALUE_BYTES)
}

/// Sends requests, one after the other, that each make a hundred gets. They answer `expected`, and how long one took.
fn timed_gets(setup: &Setup, server: SocketAddr, path: &str, expected: (&str, u64)) -> Result<Gets> {
    // A connection of its own: one that waits for its turn is closed.
    let mut client = Client::connect(server)?;
    let path = format!("{path}n={GETS}");
    let mut one = || -> Result<Duration> {
        let answer = answer_of(client.get("127.0.0.1", &path, "")).with_context(|| path.clone())?;
        let (name, number) = expected;
        ensure!(answer.get(name) == Some(&number.into()), "{path} answers {answer} where {name} should be {number}");
        let timed: Timed = serde_json::from_value(answer)?;
        Ok(Duration::from_secs_f64(timed.each_ns / 1e9))
    };
    on_core(setup.cores.load, || {
        let started = Instant::now();
        while started.elapsed() < WARM_UP {
            one()?;
        }
        let started = Instant::now();
        let mut gets = Vec::new();
        while started.elapsed() < setup.round {
            gets.push(one()?);
        }
        Ok(gets)
    })
}

/// Asks the guest for something that cannot fail.
pub(super) fn ask(node: &Node, path: &str, body: &str) -> Result<Value> {
    answer_of(Client::connect(node.http)?.post("127.0.0.1", path, body)).with_context(|| path.to_owned())
}

/// The guest answers 200 with JSON in any case, which names the error where there was one.
pub(super) fn answer_of(answer: Result<Answer>) -> Result<Value> {
    let answer = answer?;
    let body = String::from_utf8_lossy(&answer.body);
    ensure!(answer.status == 200 && !answer.closes(), "the answer is {} {body}", answer.status);
    let value: Value = serde_json::from_str(&body).with_context(|| format!("the answer is {body}"))?;
    ensure!(value.get("error").is_none(), "the answer is {body}");
    Ok(value)
}

/// The p50 of each round, in microseconds.
fn p50s<'a>(rounds: impl Iterator<Item = &'a Gets>) -> Vec<f64> {
    rounds.map(|gets| micros(percentile(gets, 50.0))).collect()
}

/// A row of the table of gets.
fn gets_row<'a>(what: &str, rounds: impl Iterator<Item = &'a Gets> + Clone) -> Vec<String> {
    let of = |percent| time(median_time(rounds.clone().map(|gets| percentile(gets, percent))));
    vec![what.into(), of(50.0), of(99.0), String::new()]
}

/// A row of the same table for writes.
pub(super) fn writes_row(what: &str, writes_per_second: &[f64], p50: &[Duration], p99: &[Duration]) -> Vec<String> {
    let of = |times: &[Duration]| time(median_time(times.iter().copied()));
    vec![what.into(), of(p50), of(p99), format!("{:.0}", median(writes_per_second))]
}
