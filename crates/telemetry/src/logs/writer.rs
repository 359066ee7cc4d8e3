//! The thread that writes all logs.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    io::{self, ErrorKind},
    mem,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use minnow_model::{Level, LogLine, LogSource};

use super::{
    LogConfig, LogError,
    follow::Followers,
    queue::{AppKey, Batch, Command, Queue, Taken},
    segment::{self, AppSegments, Cutoff, OpenSegment, Segment},
};

/// Files that are open at once; the one that was used least recently is closed for another.
const MAX_OPEN_FILES: usize = 64;
/// A file that was not written to for this long is closed, so that an idle app holds none.
const IDLE: Duration = Duration::from_secs(10);
/// Lines of one app that are written together, in bytes. Bounds what the open files hold to 4 MiB.
const BUFFER_BYTES: usize = 64 << 10;
/// Apps that the thread remembers lost lines of while their disk is full; those of further apps are only in the total.
const MAX_LOSING_APPS: usize = 1024;

/// How long lines that are missing are counted before the log says so: an app that prints too much gets a line about it
/// each second, and not one for each batch.
const REPORT_AFTER: Duration = Duration::from_secs(1);

/// A full disk is reported once in this time, and not for each line.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);

pub(super) struct Writer {
    dir: PathBuf,
    config: LogConfig,
    queue: Arc<Queue>,
    followers: Arc<Followers>,
    open: HashMap<AppKey, OpenLog>,
    /// Lines that the logs of these apps still have to say are missing.
    lost: BTreeMap<AppKey, u64>,
    /// Since when there are such lines.
    lost_since: Option<Instant>,
    /// All segments together, in bytes; counted before the first line is written.
    total_bytes: Option<u64>,
    /// Whether the last write failed.
    failing: bool,
    /// When the operator was last told of that.
    complained: Option<Instant>,
    /// The line that is being written, kept for its memory.
    text: Vec<u8>,
}

/// The newest segment of one app.
struct OpenLog {
    segment: OpenSegment,
    used: Instant,
    /// How many lines wait in the segment's buffer.
    lines: u64,
}

impl Writer {
    pub(super) fn new(dir: PathBuf, config: LogConfig, queue: Arc<Queue>, followers: Arc<Followers>) -> Self {
        Self {
            dir,
            config,
            queue,
            followers,
            open: HashMap::new(),
            lost: BTreeMap::new(),
            lost_since: None,
            total_bytes: None,
            failing: false,
            complained: None,
            text: Vec::new(),
        }
    }

    /// Runs until the queue is closed and empty.
    pub(super) fn run(mut self) {
        loop {
            let patience = match self.lost_since {
                Some(since) if !self.failing => Some(REPORT_AFTER.saturating_sub(since.elapsed())),
                _ => (!self.open.is_empty()).then_some(IDLE),
            };
            match self.queue.take(patience) {
                Taken::Batch(batch) => self.write_batch(batch),
                Taken::Idle => self.report_lost(false),
                Taken::Closed => return self.report_lost(true),
            }
            self.close_idle();
        }
    }

    fn write_batch(&mut self, batch: Batch) {
        for (app, count) in batch.dropped {
            self.lose(&app, count);
        }
        for line in &batch.lines {
            self.followers.send(line);
            if let Some(echo) = &self.config.echo {
                echo(line);
            }
            self.append(line);
        }
        self.flush_all();
        // Who reads the log now should see what is missing from it.
        self.report_lost(!batch.commands.is_empty());
        self.keep_within_total();
        for command in batch.commands {
            match command {
                Command::Position { app, reply } => reply(self.position(&app)),
                Command::Remove { app, reply } => drop(reply.send(self.remove(&app))),
                Command::Flush { reply } => drop(reply.send(())),
            }
        }
    }

    /// Puts a line into its app's buffer, and counts it as dropped when there is no way to.
    fn append(&mut self, line: &LogLine) {
        if let Err(error) = self.try_append(line, 1) {
            self.fail(&(line.tenant.clone(), line.app.clone()), 1, &error);
        }
    }

    /// Puts a line that counts for `lines` into its app's buffer.
    fn try_append(&mut self, line: &LogLine, lines: u64) -> io::Result<()> {
        let app = (line.tenant.clone(), line.app.clone());
        let mut text = mem::take(&mut self.text);
        text.clear();
        serde_json::to_writer(&mut text, line)?;
        text.push(b'\n');
        let log = self.open_for(&app, line.time_ms, text.len())?;
        log.segment.append(&text);
        log.lines += lines;
        self.text = text;
        Ok(())
    }

    /// The app's segment, with room for `bytes` more in its buffer and in its file.
    fn open_for(&mut self, app: &AppKey, time_ms: u64, bytes: usize) -> io::Result<&mut OpenLog> {
        let dir = segment::app_dir(&self.dir, app);
        if !self.open.contains_key(app) {
            self.make_room();
            let segment = OpenSegment::open(&dir, time_ms)?;
            self.open.insert(app.clone(), OpenLog { segment, used: Instant::now(), lines: 0 });
        }
        let (waiting, len) = self.open.get(app).map_or((0, 0), |log| (log.segment.waiting(), log.segment.len()));
        let full = len > 0 && len + bytes as u64 > self.config.segment_bytes;
        if full || waiting + bytes > BUFFER_BYTES {
            self.flush(app);
        }
        if full {
            self.rotate(app, &dir, time_ms)?;
        }
        // It is not there when the flush failed.
        let log = self.open.get_mut(app).ok_or_else(|| io::Error::other("the lines before could not be written"))?;
        log.used = Instant::now();
        Ok(log)
    }

    /// Begins the app's next segment and deletes its oldest ones beyond the bound.
    fn rotate(&mut self, app: &AppKey, dir: &Path, time_ms: u64) -> io::Result<()> {
        let Some(log) = self.open.get_mut(app) else { return Ok(()) };
        log.segment = log.segment.next(dir, time_ms)?;
        let segments = segment::list(dir)?;
        let excess = segments.len().saturating_sub(self.config.segments_per_app.max(1));
        for old in segments.iter().take(excess) {
            self.delete(old)?;
        }
        Ok(())
    }

    fn delete(&mut self, segment: &Segment) -> io::Result<()> {
        let bytes = fs::metadata(&segment.path).map_or(0, |found| found.len());
        fs::remove_file(&segment.path)?;
        self.total_bytes = self.total_bytes.map(|total| total.saturating_sub(bytes));
        Ok(())
    }

    /// Writes what waits for one app; answers whether that worked. Otherwise its file is closed; the next line opens
    /// and repairs it.
    fn flush(&mut self, app: &AppKey) -> bool {
        let Some(log) = self.open.get_mut(app) else { return false };
        let lines = mem::take(&mut log.lines);
        match log.segment.flush() {
            Ok(bytes) => {
                self.total_bytes = self.total_bytes.map(|total| total + bytes);
                self.failing &= bytes == 0;
                true
            }
            Err(error) => {
                self.open.remove(app);
                self.fail(app, lines, &error);
                false
            }
        }
    }

    fn flush_all(&mut self) {
        let waits = |(app, log): (&AppKey, &OpenLog)| (log.segment.waiting() > 0).then(|| app.clone());
        let waiting: Vec<_> = self.open.iter().filter_map(waits).collect();
        for app in waiting {
            self.flush(&app);
        }
    }

    /// Counts lines that the disk did not take.
    fn fail(&mut self, app: &AppKey, lines: u64, error: &io::Error) {
        self.failing = true;
        self.queue.dropped.add(lines);
        self.lose(app, lines);
        if self.complained.is_none_or(|complained| complained.elapsed() > COMPLAIN_EVERY) {
            self.complained = Some(Instant::now());
            tracing::error!(tenant = %app.0, app = %app.1, %error, "log lines cannot be written and are dropped");
        }
    }

    /// Remembers that an app's log has to say that lines are missing.
    fn lose(&mut self, app: &AppKey, lines: u64) {
        self.lost_since.get_or_insert_with(Instant::now);
        if let Some(count) = self.lost.get_mut(app) {
            *count += lines;
        } else if self.lost.len() < MAX_LOSING_APPS {
            self.lost.insert(app.clone(), lines);
        }
    }

    /// Says in each app's log how many of its lines are missing, once it is time for that (or `now`) and the disk takes
    /// lines again.
    fn report_lost(&mut self, now: bool) {
        if self.failing || self.lost_since.is_none_or(|since| !now && since.elapsed() < REPORT_AFTER) {
            return;
        }
        self.lost_since = None;
        for (app, count) in mem::take(&mut self.lost) {
            let line = lost_line(&app, count);
            if self.try_append(&line, 0).is_ok() && self.flush(&app) {
                self.followers.send(&Arc::new(line));
            } else {
                self.lose(&app, count);
            }
        }
    }

    /// Deletes segments when they are more than the bound, to nine tenths of it, so that it does not happen again with the
    /// next line: always the oldest of the app that has most, so that an app that prints much costs the others nothing.
    fn keep_within_total(&mut self) {
        let bound = self.config.max_total_bytes;
        if self.open.is_empty() || self.total_bytes.is_some_and(|total| total <= bound) {
            return;
        }
        let mut apps = segment::list_all(&self.dir);
        let mut total = apps.iter().map(AppSegments::bytes).sum::<u64>();
        self.total_bytes = Some(total);
        if total <= bound {
            return;
        }
        while total > bound - bound / 10 {
            let largest = apps.iter_mut().max_by_key(|app| app.bytes());
            let Some((old, bytes)) = largest.and_then(AppSegments::take_oldest) else { return };
            self.open.retain(|_, log| log.segment.segment.path != old.path);
            if self.delete(&old).is_err() {
                // The next one would fail as well; tried again with the next lines.
                return;
            }
            total = total.saturating_sub(bytes);
        }
    }

    fn position(&self, app: &AppKey) -> Option<Cutoff> {
        match self.open.get(app) {
            Some(log) => Some(Cutoff { seq: log.segment.segment.seq, bytes: log.segment.len() }),
            None => segment::end_of(&segment::app_dir(&self.dir, app)),
        }
    }

    fn remove(&mut self, app: &AppKey) -> Result<(), LogError> {
        self.open.remove(app);
        self.lost.remove(app);
        self.followers.end(app);
        // Counted anew when the next line is written.
        self.total_bytes = None;
        let dir = segment::app_dir(&self.dir, app);
        match fs::remove_dir_all(&dir) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            removed => removed.map_err(LogError::io(&dir)),
        }
    }

    /// Closes the file that was used least recently when there are as many as may be.
    fn make_room(&mut self) {
        if self.open.len() < MAX_OPEN_FILES {
            return;
        }
        let oldest = self.open.iter().min_by_key(|(_, log)| log.used).map(|(app, _)| app.clone());
        if let Some(app) = oldest {
            self.flush(&app);
            self.open.remove(&app);
        }
    }

    fn close_idle(&mut self) {
        self.open.retain(|_, log| log.segment.waiting() > 0 || log.used.elapsed() < IDLE);
        if self.open.is_empty() {
            self.open = HashMap::new();
            self.text = Vec::new();
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.queue.abandon();
        self.followers.end_all();
    }
}

/// What a log says about lines that it does not hold.
fn lost_line((tenant, app): &AppKey, count: u64) -> LogLine {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    LogLine {
        time_ms: u64::try_from(now.as_millis()).unwrap_or(u64::MAX),
        level: Level::Warn,
        source: LogSource::Node,
        tenant: tenant.clone(),
        app: app.clone(),
        version: None,
        function: None,
        request_id: None,
        message: match count {
            1 => "1 log line was dropped".into(),
            _ => format!("{count} log lines were dropped"),
        },
    }
}
