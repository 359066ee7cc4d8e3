//! The node's own log, on stderr: for people on a terminal, as JSON lines elsewhere. MINNOW_LOG says how much.

use std::{
    env,
    io::{self, IsTerminal as _},
};

use anyhow::Context as _;
use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _};

use crate::report::Failure;

/// Starts the log. `default` is the filter when MINNOW_LOG is not set, for example `info` or `warn,minnow_gateway=debug`.
pub fn start(default: &str) -> anyhow::Result<()> {
    let given = env::var("MINNOW_LOG").ok().filter(|filter| !filter.is_empty());
    let filter = EnvFilter::try_new(given.as_deref().unwrap_or(default)).with_context(|| {
        Failure::usage("MINNOW_LOG is not a log filter")
            .help("write a level (error, warn, info, debug) or MODULE=LEVEL, with commas between")
    })?;
    let terminal = io::stderr().is_terminal();
    let colours = terminal && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let people = terminal.then(|| fmt::layer().compact().with_ansi(colours).with_target(false).with_writer(io::stderr));
    let machines = (!terminal).then(|| fmt::layer().json().flatten_event(true).with_writer(io::stderr));
    tracing_subscriber::registry().with(filter).with(people).with(machines).try_init().context("cannot start the log")
}
