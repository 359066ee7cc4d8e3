//! The log lines of apps: written without waiting, kept in bounded files, read back and followed live.
//!
//! A line goes from [`Logs::write`] through a bounded queue to one thread (`writer`), which hands it to whoever follows
//! the app and appends it to the app's newest segment (`segment`). All file work happens on that thread, so that a slow
//! or full disk costs lines and never a request. An app that writes nothing holds no file and no memory.

mod follow;
mod queue;
mod segment;
#[cfg(test)]
mod tests;
mod writer;

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    thread,
};

use minnow_model::{AppName, FunctionName, LogLine, Tenant, log::MAX_MESSAGE_BYTES};
use tokio::sync::oneshot;

pub use self::follow::{Follow, Followed};
use self::{
    follow::Followers,
    queue::{Command, Queue},
    segment::Cutoff,
    writer::Writer,
};
use crate::metrics::Counter;

/// The logs of a node. Clones share them; the writer ends when the last is dropped, after it wrote what it has.
#[derive(Clone)]
pub struct Logs {
    shared: Arc<Shared>,
}

struct Shared {
    dir: PathBuf,
    queue: Arc<Queue>,
    followers: Arc<Followers>,
}

/// What prints lines as they come.
pub type Echo = Box<dyn Fn(&LogLine) + Send + Sync>;

/// How much is kept.
pub struct LogConfig {
    /// A new segment is begun when the newest would grow beyond this, in bytes. Default 4 MiB: read in a millisecond,
    /// and small enough that dropping one loses little.
    pub segment_bytes: u64,
    /// The oldest segments of an app beyond this many are deleted. Default 8, so 32 MiB for an app, which is some
    /// 150,000 lines of the usual 200 bytes.
    pub segments_per_app: usize,
    /// All segments together, in bytes; beyond it the app that has most loses its oldest. Default 1 GiB.
    pub max_total_bytes: u64,
    /// Called for each line on the writer's thread, for `dev` to print. Must not panic.
    pub echo: Option<Echo>,
    /// Counts the lines that could not be kept.
    pub dropped: Counter,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            segment_bytes: 4 << 20,
            segments_per_app: 8,
            max_total_bytes: 1 << 30,
            echo: None,
            dropped: Counter::default(),
        }
    }
}

/// Which lines to read.
#[derive(Debug, Clone)]
pub struct ReadQuery {
    pub tenant: Tenant,
    pub app: AppName,
    /// Only this function's lines.
    pub function: Option<FunctionName>,
    /// Only lines from this time on, in milliseconds since the Unix epoch.
    pub since_ms: Option<u64>,
    /// The newest this many of them.
    pub limit: usize,
}

/// Why logs could not be opened or read.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("the log folder {0} is not a directory; move what is there out of the way")]
    NotADirectory(PathBuf),
    #[error("the log writer could not be started: {0}")]
    Start(#[source] io::Error),
    #[error("cannot read or delete logs at {path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("the log writer has stopped")]
    Stopped,
}

impl LogError {
    fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { path: path.into(), source }
    }
}

impl Logs {
    /// Opens the logs in `dir` (`DATA/logs`), which need not exist: nothing is created before a line is written.
    ///
    /// # Errors
    /// [`LogError::NotADirectory`] where a file is in the way, [`LogError::Start`] when no thread can be had.
    pub fn open(dir: &Path, config: LogConfig) -> Result<Self, LogError> {
        if fs::metadata(dir).is_ok_and(|found| !found.is_dir()) {
            return Err(LogError::NotADirectory(dir.into()));
        }
        let queue = Arc::new(Queue::new(config.dropped.clone()));
        let followers = Arc::new(Followers::default());
        let writer = Writer::new(dir.into(), config, Arc::clone(&queue), Arc::clone(&followers));
        thread::Builder::new().name("minnow-logs".into()).spawn(move || writer.run()).map_err(LogError::Start)?;
        Ok(Self { shared: Arc::new(Shared { dir: dir.into(), queue, followers }) })
    }

    /// Takes a line. Never waits: when the queue is full the line is dropped and counted, and the app's log says how
    /// many were, once there is room. A message beyond [`MAX_MESSAGE_BYTES`] is cut and ends with `…`.
    pub fn write(&self, mut line: LogLine) {
        cut(&mut line.message);
        self.shared.queue.push(line);
    }

    /// Counts a line of this app as dropped that is not worth taking: whoever writes it writes too many.
    pub fn lose(&self, tenant: &Tenant, app: &AppName) {
        self.shared.queue.lose((tenant.clone(), app.clone()));
    }

    /// The newest `limit` lines that match, in time order, with every line written before the call. Blocks on the disk
    /// and the writer: from async code call it in `spawn_blocking`.
    ///
    /// # Errors
    /// [`LogError::Io`] when a segment cannot be read, [`LogError::Stopped`] when the writer is gone.
    pub fn read(&self, query: &ReadQuery) -> Result<Vec<LogLine>, LogError> {
        let (reply, answer) = mpsc::sync_channel(1);
        self.shared.queue.command(Command::Position {
            app: (query.tenant.clone(), query.app.clone()),
            reply: Box::new(move |cutoff| {
                // An error would say that this call does not wait any more, but it does.
                let _ = reply.send(cutoff);
            }),
        });
        let cutoff = answer.recv().map_err(|_| LogError::Stopped)?;
        segment::read(&self.shared.dir, query, cutoff)
    }

    /// The app's lines from now on.
    pub fn follow(&self, tenant: &Tenant, app: &AppName) -> Follow {
        self.shared.followers.follow((tenant.clone(), app.clone()), None)
    }

    /// What [`Logs::read`] answers, and every matching line after that: no gap between them, and no line twice. With
    /// `limit` 0 it only follows.
    ///
    /// # Errors
    /// As [`Logs::read`].
    pub async fn read_and_follow(&self, query: ReadQuery) -> Result<(Vec<LogLine>, Follow), LogError> {
        let (reply, answer) = oneshot::channel::<(Option<Cutoff>, Follow)>();
        let followers = Arc::clone(&self.shared.followers);
        let (app, function) = ((query.tenant.clone(), query.app.clone()), query.function.clone());
        self.shared.queue.command(Command::Position {
            app: app.clone(),
            // The writer runs this between two lines: those before are in front of the cutoff, those after are sent to
            // the follower.
            reply: Box::new(move |cutoff| drop(reply.send((cutoff, followers.follow(app, function))))),
        });
        let (cutoff, follow) = answer.await.map_err(|_| LogError::Stopped)?;
        let dir = self.shared.dir.clone();
        let lines = tokio::task::spawn_blocking(move || segment::read(&dir, &query, cutoff)).await;
        Ok((lines.map_err(|_| LogError::Stopped)??, follow))
    }

    /// Deletes an app's log and ends its followers. Lines that an invocation writes later begin a new one.
    ///
    /// # Errors
    /// [`LogError::Io`] when a file cannot be deleted, [`LogError::Stopped`] when the writer is gone.
    pub async fn remove_app(&self, tenant: &Tenant, app: &AppName) -> Result<(), LogError> {
        let (reply, answer) = oneshot::channel();
        self.shared.queue.command(Command::Remove { app: (tenant.clone(), app.clone()), reply });
        answer.await.map_err(|_| LogError::Stopped)?
    }

    /// Returns when every line that was taken before is in its file (or dropped and counted).
    pub async fn flush(&self) {
        let (reply, answer) = oneshot::channel();
        self.shared.queue.command(Command::Flush { reply });
        // An error means that the writer is gone, and nothing is left to wait for.
        let _ = answer.await;
    }

    /// How many lines were dropped since the start.
    pub fn dropped_total(&self) -> u64 {
        self.shared.queue.dropped.get()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.queue.close();
    }
}

/// Cuts a message to [`MAX_MESSAGE_BYTES`], on a character's boundary.
fn cut(message: &mut String) {
    const MARK: char = '…';
    if message.len() > MAX_MESSAGE_BYTES {
        message.truncate(message.floor_char_boundary(MAX_MESSAGE_BYTES - MARK.len_utf8()));
        message.push(MARK);
        message.shrink_to_fit();
    }
}
