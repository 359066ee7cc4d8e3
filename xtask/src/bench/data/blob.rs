//! Blobs: a large one up into a bucket and down again through a function, against a copy of the same bytes that is synced.

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::bench::{
    Setup,
    app::{App, guest},
    machine::{on_core, version_of},
    node::{Node, Threads},
    report::{Figure, Report, Table, Target, megabytes, time},
    stats::{median, median_ratio, median_time},
};

use super::answer_of;
use crate::bench::http::Client;

/// Sent and read at once: as much as the socket's buffers hold.
const PIECE_BYTES: usize = 256 << 10;
/// The content repeats after so many bytes, a prime number, so that pieces in a wrong order are not the same content.
const PERIOD: usize = 1_000_003;
/// How much more memory the node may have at its peak than before, whatever the size of the blob: pieces on their way,
/// instances, caches.
const MEMORY_MB: f64 = 64.0;
/// How long a read waits for more of an answer.
const PATIENCE: Duration = Duration::from_secs(60);

struct Round {
    copy: Duration,
    up: Transfer,
    down: Transfer,
}

struct Transfer {
    took: Duration,
    /// The node's peak above what it had before, in bytes.
    grown: u64,
}

pub(crate) fn run(setup: &Setup) -> Result<Report> {
    let bytes = setup.blob_mib << 20;
    let content: Vec<u8> = content();
    let source = setup.work.join("source");
    let etag = write_source(&source, &content, bytes)?;
    let app = App::new(&setup.work, "blob")?
        .code("data.wasm", &guest("data-p2")?)?
        .function(
            "data",
            "data.wasm",
            "/{*rest}",
            "blob = [\"uploads\"]\nlimits = { cpu = \"60s\", timeout = \"10m\", request_body = \"5GiB\" }",
        )
        .tables("[blob.uploads]\nsize = \"20GiB\"")
        .finish()?;
    let node = Node::start(setup, &setup.work.join("blob-data"), Threads::OneCore, Some("blob"))?;
    node.publish(setup, &app)?;

    let progress = setup.progress("blob", setup.rounds as usize * 3);
    let mut rounds = Vec::new();
    for number in 0..setup.rounds {
        let step = |what: &'static str| {
            progress.inc(1);
            progress.set_message(what);
        };
        step("copy");
        let copy = copy(setup, &source, &setup.work.join("copy"))?;
        let key = format!("round{number}");
        step("up");
        let up = measured(setup, &node, || upload(&node, &key, &content, bytes, &etag))?;
        step("down");
        let down = measured(setup, &node, || download(&node, &key, &content, bytes))?;
        // The next round finds the disk as this one did.
        let removed = answer_of(Client::connect(node.http)?.post("127.0.0.1", &format!("/blob/delete?key={key}"), ""))?;
        ensure!(removed.get("deleted") == Some(&json!(1)), "{removed}");
        rounds.push(Round { copy, up, down });
    }
    progress.finish_and_clear();
    Ok(report(&rounds, bytes, vec![version_of("cp", &["--version"])?]))
}

fn content() -> Vec<u8> {
    // Numbers of Knuth's generator: nothing that a file system or a disk could press.
    let mut state = 1_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u8
    };
    (0..PERIOD).map(|_| next()).collect()
}

/// Calls `each` with all of the content, piece by piece.
fn pieces(content: &[u8], bytes: u64, mut each: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let mut left = bytes;
    while left > 0 {
        let rest = usize::try_from(left).unwrap_or(usize::MAX).min(content.len());
        for piece in content.get(..rest).unwrap_or_default().chunks(PIECE_BYTES) {
            each(piece)?;
        }
        left -= rest as u64;
    }
    Ok(())
}

/// Writes what is copied; its sha256.
fn write_source(path: &Path, content: &[u8], bytes: u64) -> Result<String> {
    let mut file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
    let mut hash = Sha256::new();
    pieces(content, bytes, |piece| {
        hash.update(piece);
        Ok(file.write_all(piece)?)
    })?;
    file.sync_all()?;
    Ok(hex::encode(hash.finalize()))
}

/// `cp` and fsync.
fn copy(setup: &Setup, from: &Path, to: &PathBuf) -> Result<Duration> {
    let took = on_core(setup.cores.server, || {
        let started = Instant::now();
        // Not as a clone that shares the blocks, which writes nothing.
        let status = Command::new("cp").arg("--reflink=never").arg(from).arg(to).status().context("cannot start cp")?;
        ensure!(status.success(), "cp failed");
        File::open(to)?.sync_all()?;
        Ok(started.elapsed())
    });
    fs::remove_file(to)?;
    took
}

/// Runs a transfer on the load's core, and looks at the memory of the node.
fn measured(setup: &Setup, node: &Node, transfer: impl FnOnce() -> Result<Duration>) -> Result<Transfer> {
    // Nothing that a transfer before left to be written.
    rustix::fs::sync();
    node.server.forget_peak()?;
    let before = node.server.memory()?.rss;
    let took = on_core(setup.cores.load, transfer)?;
    Ok(Transfer { took, grown: node.server.peak()?.saturating_sub(before) })
}

fn connect(node: &Node) -> Result<TcpStream> {
    let stream = TcpStream::connect(node.http)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn upload(node: &Node, key: &str, content: &[u8], bytes: u64, etag: &str) -> Result<Duration> {
    let mut stream = connect(node)?;
    let started = Instant::now();
    write!(
        stream,
        "POST /blob/put?key={key} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: {bytes}\r\nconnection: close\r\n\r\n"
    )?;
    pieces(content, bytes, |piece| stream.write_all(piece).context("the node does not take the content"))?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).context("no answer to an upload")?;
    let took = started.elapsed();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    let found = body.find('{').and_then(|at| body.get(at..=body.rfind('}')?)).unwrap_or_default();
    let found: Value = serde_json::from_str(found).with_context(|| format!("the answer to an upload is {answer}"))?;
    let info = found.get("info");
    let is = |name: &str, expected: Value| info.and_then(|info| info.get(name)) == Some(&expected);
    ensure!(
        head.contains(" 200 ") && is("size", json!(bytes)) && is("etag", json!(etag)),
        "an upload came to {answer}"
    );
    Ok(took)
}

fn download(node: &Node, key: &str, content: &[u8], bytes: u64) -> Result<Duration> {
    let mut stream = connect(node)?;
    let started = Instant::now();
    write!(stream, "GET /blob/get?key={key} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n")?;
    let mut piece = vec![0; PIECE_BYTES];
    let mut head = Vec::new();
    let end = loop {
        let count = stream.read(&mut piece)?;
        ensure!(count > 0 && head.len() < PIECE_BYTES, "the answer has no head: {}", String::from_utf8_lossy(&head));
        head.extend_from_slice(piece.get(..count).unwrap_or_default());
        if let Some(end) = head.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            break end + 4;
        }
    };
    let mut rest = head.split_off(end);
    let head = String::from_utf8_lossy(&head).to_lowercase();
    ensure!(
        head.contains(" 200 ") && head.contains(&format!("content-length: {bytes}\r\n")),
        "a download begins with {head}"
    );
    let mut received = 0;
    loop {
        ensure!(is_at(content, received, &rest), "the content is another after {received} bytes");
        received += rest.len() as u64;
        rest.clear();
        let count = stream.read(&mut piece)?;
        if count == 0 {
            break;
        }
        rest.extend_from_slice(piece.get(..count).unwrap_or_default());
    }
    let took = started.elapsed();
    ensure!(received == bytes, "a download has {received} bytes");
    Ok(took)
}

/// Whether `piece` is the content at an offset.
fn is_at(content: &[u8], offset: u64, mut piece: &[u8]) -> bool {
    let mut at = usize::try_from(offset % content.len() as u64).unwrap_or_default();
    while !piece.is_empty() {
        let expected = content.get(at..).unwrap_or_default();
        let (found, rest) = piece.split_at(piece.len().min(expected.len()));
        if !expected.starts_with(found) {
            return false;
        }
        (piece, at) = (rest, 0);
    }
    true
}

fn report(rounds: &[Round], bytes: u64, peers: Vec<String>) -> Report {
    let seconds = |of: fn(&Round) -> Duration| rounds.iter().map(|round| of(round).as_secs_f64()).collect::<Vec<f64>>();
    let copies = seconds(|round| round.copy);
    let (up, down) = (seconds(|round| round.up.took), seconds(|round| round.down.took));
    let grown = |of: fn(&Round) -> u64| rounds.iter().map(of).max().unwrap_or_default();
    let (up_grown, down_grown) = (grown(|round| round.up.grown), grown(|round| round.down.grown));
    let row = |what: &str, times: &[f64], grown: Option<u64>| {
        vec![
            what.to_owned(),
            time(median_time(times.iter().map(|&seconds| Duration::from_secs_f64(seconds)))),
            format!("{:.0} MB/s", bytes as f64 / 1e6 / median(times)),
            grown.map(megabytes).unwrap_or_default(),
        ]
    };
    let size = format!("{} MiB", bytes >> 20);
    let raw = |round: &Round| {
        json!({
            "copy_s": round.copy.as_secs_f64(),
            "up_s": round.up.took.as_secs_f64(), "up_grown_bytes": round.up.grown,
            "down_s": round.down.took.as_secs_f64(), "down_grown_bytes": round.down.grown,
        })
    };
    Report {
        figures: vec![
            Figure::new(
                format!("speed of {size} up through a function against cp and fsync"),
                median_ratio(&copies, &up),
                "×",
                Target::AtLeast(0.3),
            ),
            Figure::new(
                format!("speed of {size} down through a function against cp and fsync"),
                median_ratio(&copies, &down),
                "×",
                Target::AtLeast(0.3),
            ),
            Figure::new(
                "memory of the node at its peak, beyond that before",
                up_grown.max(down_grown) as f64 / 1e6,
                "MB",
                Target::AtMost(MEMORY_MB),
            ),
        ],
        measured: Table {
            header: vec!["what", "time", "speed", "memory beyond that before"],
            rows: vec![
                row("cp and fsync", &copies, None),
                row("up through a function", &up, Some(up_grown)),
                row("down through a function", &down, Some(down_grown)),
            ],
        },
        notes: vec![
            format!(
                "A client sends {size} to a function of WebAssembly in one request; the function streams the body into a bucket, and answers \
                 when the blob is on the disk, with its sha256. Then it streams the blob into the answer of another request. The client \
                 checks every byte."
            ),
            "The copy is of a file with the same content that was just written, to the same disk; its time ends with the fsync. cp, \
             node and the threads of both that write have the server's core, the client has the other."
                .to_owned(),
            "Memory is the peak of all resident pages of the node (VmHWM), the largest of all rounds.".to_owned(),
        ],
        peers,
        raw: rounds.iter().map(raw).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_told_from_what_is_not() {
        let content = content();
        let mut all = Vec::new();
        pieces(&content, 2_500_000, |piece| {
            all.extend_from_slice(piece);
            Ok(())
        })
        .unwrap();
        assert_eq!(all.len(), 2_500_000);
        for offset in [0, 1, PERIOD - 1, PERIOD, 2 * PERIOD + 5] {
            assert!(is_at(&content, offset as u64, &all[offset..]));
            assert!(!is_at(&content, offset as u64 + 1, &all[offset..]));
        }
        let mut changed = all.clone();
        changed[2_400_000] ^= 1;
        assert!(!is_at(&content, 0, &changed));
    }
}
