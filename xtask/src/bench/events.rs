//! Topics and schedules, against the brokers that a function would use without them.
//!
//! What is slow or late is told by the functions themselves (`guests/data-p2`, `events.rs`): how long a message was under way, and how late
//! a tick was, by the wall clock that publisher and consumer share.

pub(crate) mod drain;
pub(crate) mod idle;
pub(crate) mod latency;
mod nats;
pub(crate) mod publish;
pub(crate) mod schedules;

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result};

use super::{data::answer_of, http::Client};

/// What is published: a small document.
const MESSAGE_BYTES: usize = 256;

/// What the functions have written down since this was asked last: how late each event was.
fn taken(node: SocketAddr, host: &str) -> Result<Vec<Duration>> {
    let answer = answer_of(Client::connect(node)?.get(host, "/events/taken", ""))?;
    let times = answer.get("taken").and_then(|taken| taken.as_array()).context("nothing was written down")?;
    times.iter().map(|ns| Ok(Duration::from_nanos(ns.as_u64().context("a time is no number")?))).collect()
}
