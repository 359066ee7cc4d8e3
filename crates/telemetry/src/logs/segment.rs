//! The files of a log: `TENANT/APP/<start_ms>-<seq>.jsonl`, one JSON object a line, appended to until full.
//!
//! A crash can leave half a line at the end of the newest segment. Readers skip what has no line end or is not a line;
//! the next one to append cuts it off first.

use std::{
    collections::VecDeque,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, ErrorKind, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use minnow_model::{LogLine, log::MAX_MESSAGE_BYTES};

use super::{LogError, ReadQuery, queue::AppKey};

/// The longest stored line: each byte of the message can become six (`\u0000`), the rest are names and ids.
const MAX_LINE_BYTES: u64 = MAX_MESSAGE_BYTES as u64 * 6 + 1024;

/// How far apart the times of neighbouring lines may be out of order: they are stamped on many threads before they come
/// to the queue.
const DISORDER_MS: u64 = 1000;

/// One file of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Segment {
    /// The time of its first line, in milliseconds since the Unix epoch.
    pub(super) start_ms: u64,
    /// Grows by one from each segment of an app to the next.
    pub(super) seq: u64,
    pub(super) path: PathBuf,
}

/// Where a log ended at some moment: in which segment, and at which byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cutoff {
    pub(super) seq: u64,
    pub(super) bytes: u64,
}

impl Segment {
    fn parse(path: PathBuf) -> Option<Self> {
        let (start_ms, seq) = path.file_name()?.to_str()?.strip_suffix(".jsonl")?.split_once('-')?;
        Some(Self { start_ms: start_ms.parse().ok()?, seq: seq.parse().ok()?, path })
    }

    fn new(dir: &Path, start_ms: u64, seq: u64) -> Self {
        Self { start_ms, seq, path: dir.join(format!("{start_ms:013}-{seq:08}.jsonl")) }
    }
}

/// An app's folder below the log folder. Names are DNS labels, so they are safe as file names.
pub(super) fn app_dir(dir: &Path, (tenant, app): &AppKey) -> PathBuf {
    dir.join(tenant.as_str()).join(app.as_str())
}

/// The segments in an app's folder, oldest first; none when there is no folder.
pub(super) fn list(dir: &Path) -> io::Result<Vec<Segment>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut segments = Vec::new();
    for entry in entries {
        segments.extend(Segment::parse(entry?.path()));
    }
    segments.sort_by_key(|segment| segment.seq);
    Ok(segments)
}

/// Where an app's log ends, when nobody appends to it.
pub(super) fn end_of(dir: &Path) -> Option<Cutoff> {
    let newest = list(dir).ok()?.pop()?;
    let bytes = whole_lines(&mut File::open(&newest.path).ok()?).ok()?;
    Some(Cutoff { seq: newest.seq, bytes })
}

/// What one app has on the disk.
pub(super) struct AppSegments {
    /// With their sizes in bytes, oldest first.
    segments: VecDeque<(Segment, u64)>,
    bytes: u64,
}

impl AppSegments {
    /// All of them together, in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes the oldest off the list, with its size in bytes.
    pub(super) fn take_oldest(&mut self) -> Option<(Segment, u64)> {
        let (oldest, bytes) = self.segments.pop_front()?;
        self.bytes = self.bytes.saturating_sub(bytes);
        Some((oldest, bytes))
    }
}

/// The segments of every app that has some.
pub(super) fn list_all(dir: &Path) -> Vec<AppSegments> {
    let folders = |dir: &Path| fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let sized = |segment: Segment| fs::metadata(&segment.path).ok().map(|found| (segment, found.len()));
    folders(dir)
        .flat_map(|tenant| folders(&tenant).collect::<Vec<_>>())
        .map(|app| list(&app).unwrap_or_default().into_iter().filter_map(sized).collect::<VecDeque<_>>())
        .filter(|segments| !segments.is_empty())
        .map(|segments| AppSegments { bytes: segments.iter().map(|(_, bytes)| bytes).sum(), segments })
        .collect()
}

/// A segment that is appended to.
pub(super) struct OpenSegment {
    pub(super) segment: Segment,
    file: File,
    /// What is in the file, in bytes.
    written: u64,
    /// Whole lines that are not in the file yet.
    buffer: Vec<u8>,
}

impl OpenSegment {
    /// Opens the app's newest segment behind its last whole line, or a first one that starts at `time_ms`.
    pub(super) fn open(dir: &Path, time_ms: u64) -> io::Result<Self> {
        match list(dir)?.pop() {
            Some(newest) => {
                let mut file = OpenOptions::new().read(true).append(true).open(&newest.path)?;
                let written = whole_lines(&mut file)?;
                if written < file.metadata()?.len() {
                    file.set_len(written)?;
                }
                Ok(Self { segment: newest, file, written, buffer: Vec::new() })
            }
            None => {
                DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
                Self::create(Segment::new(dir, time_ms, 0))
            }
        }
    }

    /// Begins the segment after this one, which must have been flushed.
    pub(super) fn next(&self, dir: &Path, time_ms: u64) -> io::Result<Self> {
        Self::create(Segment::new(dir, time_ms, self.segment.seq + 1))
    }

    fn create(segment: Segment) -> io::Result<Self> {
        let file = OpenOptions::new().create_new(true).append(true).mode(0o600).open(&segment.path)?;
        Ok(Self { segment, file, written: 0, buffer: Vec::new() })
    }

    /// How long the segment is with what waits to be written, in bytes.
    pub(super) fn len(&self) -> u64 {
        self.written + self.waiting() as u64
    }

    /// What waits to be written, in bytes.
    pub(super) fn waiting(&self) -> usize {
        self.buffer.len()
    }

    /// Appends lines that end in a line end each; [`OpenSegment::flush`] writes them.
    pub(super) fn append(&mut self, lines: &[u8]) {
        self.buffer.extend_from_slice(lines);
    }

    /// Writes what waits; answers how many bytes that were. After an error the file ends where it ended before, and what
    /// waited is gone.
    pub(super) fn flush(&mut self) -> io::Result<u64> {
        let buffer = std::mem::take(&mut self.buffer);
        if buffer.is_empty() {
            return Ok(0);
        }
        match self.file.write_all(&buffer) {
            Ok(()) => {
                self.written += buffer.len() as u64;
                Ok(buffer.len() as u64)
            }
            Err(error) => {
                // Where this fails, the next to open the file cuts off what is torn.
                let _ = self.file.set_len(self.written);
                Err(error)
            }
        }
    }
}

/// The length of a file up to its last whole line, without what a crash left behind it.
fn whole_lines(file: &mut File) -> io::Result<u64> {
    let len = file.metadata()?.len();
    let tail_start = len.saturating_sub(MAX_LINE_BYTES);
    file.seek(SeekFrom::Start(tail_start))?;
    let mut tail = Vec::new();
    file.take(len - tail_start).read_to_end(&mut tail)?;
    Ok(tail.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| tail_start + end as u64 + 1))
}

/// The newest lines before `cutoff` that match, in time order.
pub(super) fn read(dir: &Path, query: &ReadQuery, cutoff: Option<Cutoff>) -> Result<Vec<LogLine>, LogError> {
    let Some(cutoff) = cutoff.filter(|_| query.limit > 0) else { return Ok(Vec::new()) };
    let dir = app_dir(dir, &(query.tenant.clone(), query.app.clone()));
    let segments = list(&dir).map_err(LogError::io(&dir))?;
    let since_ms = query.since_ms.unwrap_or(0);
    let mut newest_first = Vec::new();
    for segment in segments.iter().rev().filter(|segment| segment.seq <= cutoff.seq) {
        let bytes = if segment.seq == cutoff.seq { cutoff.bytes } else { u64::MAX };
        let content = match read_start(&segment.path, bytes) {
            // The bound was reached since the listing, and the oldest went.
            Err(error) if error.kind() == ErrorKind::NotFound => break,
            content => content.map_err(LogError::io(&segment.path))?,
        };
        let mut lines = content.rsplit(|byte| *byte == b'\n');
        // What stands behind the last line end is nothing, or half a line.
        lines.next();
        for line in lines {
            let Ok(line) = serde_json::from_slice::<LogLine>(line) else { continue };
            let wanted = query.function.is_none() || query.function == line.function;
            if wanted && line.time_ms >= since_ms {
                newest_first.push(line);
            }
            if newest_first.len() >= query.limit {
                break;
            }
        }
        if newest_first.len() >= query.limit || segment.start_ms.saturating_add(DISORDER_MS) < since_ms {
            break;
        }
    }
    newest_first.reverse();
    newest_first.sort_by_key(|line| line.time_ms);
    Ok(newest_first)
}

fn read_start(path: &Path, bytes: u64) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    let bytes = bytes.min(file.metadata()?.len());
    let mut content = Vec::new();
    file.take(bytes).read_to_end(&mut content)?;
    Ok(content)
}
