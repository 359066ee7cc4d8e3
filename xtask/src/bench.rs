//! `cargo xtask bench`: Minnow against its peers, in the same run, on the same machine.
//!
//! One file a benchmark ([`hello`], [`reuse`], [`cold`], [`density`], [`neighbour`], [`overload`], those of JavaScript in
//! [`js`], those of the data services in [`data`], those of events in [`events`]); the rest is what they share. Read [`machine`] for how server and load are kept apart, [`contest`] for the
//! interleaved rounds, [`node`], [`peers`] and [`npm`] for what is measured, [`wrk`], [`open_loop`] and [`http`] for what
//! measures, and [`report`] for what is written to bench/RESULTS.md.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing))]

mod app;
mod cold;
mod container;
mod contest;
mod data;
mod density;
mod distinct;
mod events;
mod hello;
mod histogram;
mod http;
mod js;
mod machine;
mod neighbour;
mod node;
mod npm;
mod open_loop;
mod overload;
mod peers;
mod report;
mod reuse;
mod server;
mod stats;
mod wrk;

use std::{
    fs::{self, File, TryLockError},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use clap::{Parser, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};

use machine::Cores;
use report::Report;

#[derive(Parser)]
#[command(name = "cargo xtask bench", no_binary_name = true, about = "Measure Minnow against its peers")]
struct Arguments {
    /// What to measure
    #[arg(required = true)]
    what: Vec<What>,
    /// How often each measurement is repeated; figures are medians
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// How long each measurement of throughput takes; overload takes six times as long
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// How large the blob of `blob` is, in MiB
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u64).range(1..=5120))]
    blob_mib: u64,
    /// Measure the release binaries that are there
    #[arg(long)]
    no_build: bool,
    /// Print every single value as JSON, one line a benchmark; tables go to standard error
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    /// Fresh instances, against wasmtime serve and plain hyper
    Hello,
    /// Reused instances, against wasmtime serve and plain hyper
    Reuse,
    /// First requests after a restart, against starting a container
    Cold,
    /// 10,000 idle functions
    Density,
    /// Hello beside a function that burns CPU
    Neighbour,
    /// Twice the capacity
    Overload,
    /// Everything that begins with js
    Js,
    /// JavaScript through the gateway, against deno serve and workerd
    JsWarm,
    /// JSON and SHA-256 in JavaScript, against node
    JsWork,
    /// First requests to JavaScript functions, against starting node
    JsCold,
    /// From an endless loop that was killed to the next good answer
    JsRecovery,
    /// 1,000 idle JavaScript functions, against as many of WebAssembly
    JsIdle,
    /// Everything of the data services: kv, sql, blob and stores
    Data,
    /// The key-value store, against Redis
    Kv,
    /// SQL, against SQLite alone and PostgreSQL
    Sql,
    /// A large blob up and down, against cp and fsync
    Blob,
    /// 11,000 idle stores
    Stores,
    /// Everything of topics and schedules: all that begin with events
    Events,
    /// Durable publishes, against NATS JetStream
    EventsPublish,
    /// From a publish until the function runs, against Redis Streams
    EventsLatency,
    /// A million messages that wait
    EventsDrain,
    /// How late ticks are
    EventsSchedules,
    /// 1,000 topics and 10,000 schedules with nothing to do
    EventsIdle,
    /// Everything, about forty minutes
    All,
}

impl What {
    fn includes(self, part: Self) -> bool {
        use What::{
            Blob, EventsDrain, EventsIdle, EventsLatency, EventsPublish, EventsSchedules, JsCold, JsIdle, JsRecovery,
            JsWarm, JsWork, Kv, Sql, Stores,
        };
        match self {
            Self::All => true,
            Self::Js => matches!(part, JsWarm | JsWork | JsCold | JsRecovery | JsIdle),
            Self::Data => matches!(part, Kv | Sql | Blob | Stores),
            Self::Events => {
                matches!(part, EventsPublish | EventsLatency | EventsDrain | EventsSchedules | EventsIdle)
            }
            one => one == part,
        }
    }
}

/// A load average above this means that something else wants a core of its own.
const BUSY: f64 = 1.0;

/// A benchmark.
type Run = fn(&Setup) -> Result<Report>;

/// All benchmarks, in the order in which they run and stand in bench/RESULTS.md.
const BENCHES: [(What, &str, Run); 20] = [
    (What::Hello, "hello", hello::run),
    (What::Reuse, "reuse", reuse::run),
    (What::Cold, "cold", cold::run),
    (What::Density, "density", density::run),
    (What::Neighbour, "neighbour", neighbour::run),
    (What::Overload, "overload", overload::run),
    (What::JsWarm, "js-warm", js::warm::run),
    (What::JsWork, "js-work", js::work::run),
    (What::JsCold, "js-cold", js::cold::run),
    (What::JsRecovery, "js-recovery", js::recovery::run),
    (What::JsIdle, "js-idle", js::idle::run),
    (What::Kv, "kv", data::kv::run),
    (What::Sql, "sql", data::sql::run),
    (What::Blob, "blob", data::blob::run),
    (What::Stores, "stores", data::stores::run),
    (What::EventsPublish, "events-publish", events::publish::run),
    (What::EventsLatency, "events-latency", events::latency::run),
    (What::EventsDrain, "events-drain", events::drain::run),
    (What::EventsSchedules, "events-schedules", events::schedules::run),
    (What::EventsIdle, "events-idle", events::idle::run),
];

/// What every benchmark needs to know.
pub(crate) struct Setup {
    pub(crate) rounds: u32,
    /// How long one measurement takes.
    pub(crate) round: Duration,
    /// How large the blob is that goes up and down.
    pub(crate) blob_mib: u64,
    /// Whether to build what is measured.
    pub(crate) build: bool,
    pub(crate) cores: Cores,
    /// Cargo's target folder.
    pub(crate) target: PathBuf,
    /// A folder for data, logs and apps; emptied before each run.
    pub(crate) work: PathBuf,
    /// The release binary.
    pub(crate) minnow: PathBuf,
}

impl Setup {
    /// A progress bar on standard error, of `length` steps; where that is no terminal, a line.
    pub(crate) fn progress(&self, name: &str, length: usize) -> ProgressBar {
        let bar = ProgressBar::new(length as u64);
        if bar.is_hidden() {
            eprintln!("{name} ...");
        }
        if let Ok(style) = ProgressStyle::with_template("{prefix:18} {bar:30} {pos}/{len} {elapsed} {msg}") {
            bar.set_style(style);
        }
        bar.set_prefix(name.to_owned());
        bar.enable_steady_tick(Duration::from_millis(500));
        bar
    }
}

/// Runs the benchmarks that `args` name and writes what they found to bench/RESULTS.md. A benchmark that cannot be run does
/// not keep the others from running, but fails the command; a figure that misses its target does not.
pub(crate) fn run(args: &[String]) -> Result<()> {
    let arguments = Arguments::parse_from(args);
    let is_wanted = |what: What| arguments.what.iter().any(|named| named.includes(what));
    if is_wanted(What::Cold) {
        container::hide_second_cgroup_hierarchy()?;
    }
    peers::require(&[("setpriv", "util-linux")])?;
    let busy = machine::load_average()?;
    if busy > BUSY {
        eprintln!("something else keeps this machine busy (load average {busy}); figures will be off");
    }
    let target = target_folder()?;
    fs::create_dir_all(target.join("bench"))?;
    let _lock = lock(&target.join("bench/lock"))?;
    let setup = Setup {
        rounds: arguments.rounds,
        round: Duration::from_secs(arguments.seconds),
        blob_mib: arguments.blob_mib,
        build: !arguments.no_build,
        cores: Cores::detect()?,
        work: empty_folder(target.join("bench/work"))?,
        minnow: build_minnow(&target, !arguments.no_build)?,
        target,
    };

    let mut failures = Vec::new();
    for (what, name, bench) in BENCHES {
        if !is_wanted(what) {
            continue;
        }
        let origin = origin(&setup)?;
        match bench(&setup) {
            Ok(report) => publish(name, &report, &origin, arguments.json)?,
            Err(error) => {
                eprintln!("{name} failed: {error:#}");
                failures.push(name);
            }
        }
    }
    ensure!(failures.is_empty(), "these benchmarks failed: {}", failures.join(", "));
    Ok(())
}

/// When and where: the lines that begin each section.
fn origin(setup: &Setup) -> Result<String> {
    Ok(format!(
        "{}, commit {}, {} rounds of {} s\n{}",
        machine::now(),
        machine::commit(),
        setup.rounds,
        setup.round.as_secs(),
        machine::describe(&setup.cores)?
    ))
}

fn publish(name: &str, report: &Report, origin: &str, as_json: bool) -> Result<()> {
    if as_json {
        eprintln!("{}", report.terminal(name));
        println!("{}", report.json(name, origin));
    } else {
        println!("{}", report.terminal(name));
    }
    let path = crate::root().join("bench/RESULTS.md");
    let document = match fs::read_to_string(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        document => document?,
    };
    let order = BENCHES.map(|(_, name, _)| name);
    fs::write(&path, report::with_section(&document, &order, name, &report.markdown(origin)))?;
    Ok(())
}

/// Cargo's target folder, in which this program itself lies (as `debug/xtask`), wherever it was put.
fn target_folder() -> Result<PathBuf> {
    let program = std::env::current_exe()?;
    Ok(program.ancestors().nth(2).context("this program does not lie in a target folder")?.into())
}

fn build_minnow(target: &Path, build: bool) -> Result<PathBuf> {
    if build {
        let mut command = crate::cargo();
        crate::must_run(command.args(["build", "--release", "-p", "minnow", "--target-dir"]).arg(target))?;
    }
    let program = target.join("release/minnow");
    ensure!(program.exists(), "{} is missing; leave out --no-build", program.display());
    Ok(program)
}

/// Two benchmarks at once would measure each other.
fn lock(path: &Path) -> Result<File> {
    let file = File::create(path)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => bail!("another benchmark is running"),
        Err(TryLockError::Error(error)) => Err(error).context("cannot lock"),
    }
}

fn empty_folder(path: PathBuf) -> Result<PathBuf> {
    if path.exists() {
        fs::remove_dir_all(&path)?;
    }
    fs::create_dir_all(&path)?;
    Ok(path)
}
