//! One open store: a few connections that read, and which of the ways below a statement takes.
//!
//! A statement that is known to be short runs on the caller's thread, for at most [`INLINE`]; one that takes longer is begun again on a
//! thread that may block, and goes there at once from then on. What writes goes to the [queue](super::queue).

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, RandomState},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Instant,
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    cursor,
    error::SqlError,
    guard::INLINE,
    queue::Queue,
    session::{Role, Session},
    value::{Access, Rows, SqlLimits, Statement},
};
use crate::{
    StoreError,
    database::{log_bound, log_is_over, reset_log},
};

/// Reads of one store at the same time. Each may take its memory and a thread; a node has a handful of cores.
const READS: usize = 4;
/// Cursors and reading transactions of one store at the same time. They hold a connection, and the log grows until they end.
const STREAMS: usize = 8;
/// A statement longer than this is never parsed on the caller's thread.
const INLINE_BYTES: usize = 16 << 10;
/// A statement that meets a larger value, in bytes, goes on to a thread that may block. A function of SQLite that is given this much takes
/// some 100 µs, and the clock is looked at after at most some dozens of them.
const INLINE_VALUE_BYTES: i32 = 64 << 10;
/// Statements whose way is known. When there are more all are forgotten; a program has some dozens.
const KNOWN: usize = 1024;

/// Which way a statement takes, by its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Reads, and was short.
    Here,
    /// Reads, and was not short the last time.
    Slow,
    /// Reads, and may take long in places where it cannot be interrupted.
    Long,
    Write,
}

/// The ways of statements that ran since the schema changed: a view may be another now, and a text mean something else.
#[derive(Default)]
struct Known {
    schema: u64,
    ways: HashMap<u64, Way>,
}

pub(super) struct Store {
    path: PathBuf,
    limits: SqlLimits,
    readers: Mutex<Vec<Session>>,
    reading: Arc<Semaphore>,
    streaming: Arc<Semaphore>,
    /// Those of them that are cursors.
    cursors: Mutex<Vec<Weak<Mutex<cursor::Open>>>>,
    /// By hash of the text; the hash has a key of its own, so that nobody can make two texts meet.
    known: Mutex<Known>,
    hasher: RandomState,
    pub(super) queue: Queue,
}

/// A connection that reads, and its permit.
pub(super) struct Reader {
    /// `None` only while the value is dropped.
    session: Option<Session>,
    store: Arc<Store>,
    _permit: OwnedSemaphorePermit,
}

impl Reader {
    pub(super) fn session(&self) -> Option<&Session> {
        self.session.as_ref()
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if let Some(session) = self.session.take() {
            // A statement that panicked or a transaction that was left open would be the next caller's.
            if session.connection.is_autocommit() && !std::thread::panicking() {
                session.watch.fresh();
                lock(&self.store.readers).push(session);
            }
        }
    }
}

impl Store {
    /// Opens the file, and creates it where there is none. Blocking.
    pub(super) fn open(path: &Path, limits: SqlLimits) -> Result<Self, StoreError> {
        let writer = Session::open(path, limits, Role::Writer).map_err(|error| match error {
            SqlError::Corrupt { path, detail } => StoreError::Corrupt { path, detail },
            SqlError::Full | SqlError::DiskFull => StoreError::Full,
            error => StoreError::Io { path: path.to_owned(), source: std::io::Error::other(error.to_string()) },
        })?;
        Ok(Self {
            path: path.to_owned(),
            limits,
            readers: Mutex::default(),
            reading: Arc::new(Semaphore::new(READS)),
            streaming: Arc::new(Semaphore::new(STREAMS)),
            cursors: Mutex::default(),
            known: Mutex::default(),
            hasher: RandomState::new(),
            queue: Queue::new(path, limits, writer),
        })
    }

    pub(super) fn limits(&self) -> &SqlLimits {
        &self.limits
    }

    pub(super) async fn run(self: &Arc<Self>, access: Access, statement: Statement) -> Result<Rows, SqlError> {
        let key = self.hasher.hash_one(statement.sql.as_str());
        let (schema, way) = {
            let known = lock(&self.known);
            (known.schema, known.ways.get(&key).copied())
        };
        let text = Text { key, schema, way };
        match way {
            Some(Way::Write) if access == Access::ReadOnly => return Err(SqlError::ReadOnly),
            Some(Way::Write) => return self.write_one(statement).await,
            Some(Way::Here) => {
                if let Some(result) = self.run_here(text, &statement) {
                    return result;
                }
            }
            Some(Way::Slow | Way::Long) | None => {}
        }
        let (statement, result) = self.run_aside(text, statement).await?;
        match result {
            Err(SqlError::ReadOnly) if access == Access::ReadWrite => {
                self.know(text, Way::Write);
                self.write_one(statement).await
            }
            result => result,
        }
    }

    /// `None` when it took too long, or no connection is free.
    fn run_here(self: &Arc<Self>, text: Text, statement: &Statement) -> Option<Result<Rows, SqlError>> {
        let permit = Arc::clone(&self.reading).try_acquire_owned().ok()?;
        let session = lock(&self.readers).pop()?;
        let reader = Reader { session: Some(session), store: Arc::clone(self), _permit: permit };
        let begun = Instant::now();
        let result = reader.session()?.run_small(statement, begun + INLINE, INLINE_VALUE_BYTES);
        if begun.elapsed() > INLINE {
            self.know(text, Way::Slow);
        }
        match result {
            // Busy: a checkpoint or recovery at this moment, which may be waited for elsewhere.
            Err(SqlError::Timeout | SqlError::Busy) => None,
            // What it takes depends on the values that it meets.
            Err(SqlError::TooLarge(_)) => {
                self.know(text, Way::Long);
                None
            }
            result => Some(result),
        }
    }

    /// Runs a statement that reads on a thread that may block, and gives it back.
    async fn run_aside(
        self: &Arc<Self>,
        text: Text,
        statement: Statement,
    ) -> Result<(Statement, Result<Rows, SqlError>), SqlError> {
        self.aside(Kind::Read, move |store, session, deadline| {
            let long = match text.way {
                Some(way) => way == Way::Long,
                None => statement.sql.len() > INLINE_BYTES || session.is_long(&statement.sql, deadline),
            };
            let begun = Instant::now();
            let result = session.run(&statement, deadline, true);
            if result.is_ok() {
                let short = begun.elapsed() < INLINE;
                store.know(
                    text,
                    if long {
                        Way::Long
                    } else if short {
                        Way::Here
                    } else {
                        Way::Slow
                    },
                );
            }
            (statement, result)
        })
        .await
    }

    /// Does `work` with a connection that reads, on a thread that may block. Stops the statement when the caller goes away.
    async fn aside<T: Send + 'static>(
        self: &Arc<Self>,
        kind: Kind,
        work: impl FnOnce(&Store, &Session, Instant) -> T + Send + 'static,
    ) -> Result<T, SqlError> {
        let reader = self.reader(kind).await?;
        let Some(session) = reader.session() else { return Err(SqlError::Stopped) };
        let cancel = session.watch.call();
        let deadline = Instant::now() + self.limits.statement;
        let store = Arc::clone(self);
        let done = tokio::task::spawn_blocking(move || reader.session().map(|session| work(&store, session, deadline)));
        let done = done.await.map_err(|_| SqlError::Stopped)?;
        cancel.done();
        done.ok_or(SqlError::Stopped)
    }

    /// A connection that reads, when there is one in time.
    pub(super) async fn reader(self: &Arc<Self>, kind: Kind) -> Result<Reader, SqlError> {
        let places = match kind {
            Kind::Read => &self.reading,
            Kind::Stream => &self.streaming,
        };
        let waited = tokio::time::timeout(self.limits.statement, Arc::clone(places).acquire_owned()).await;
        let permit = waited.map_err(|_| SqlError::Busy)?.map_err(|_| SqlError::Stopped)?;
        let session = lock(&self.readers).pop();
        let session = match session {
            Some(session) => session,
            None => {
                let (path, limits) = (self.path.clone(), self.limits);
                let opened = tokio::task::spawn_blocking(move || Session::open(&path, limits, Role::Reader)).await;
                opened.map_err(|_| SqlError::Stopped)??
            }
        };
        Ok(Reader { session: Some(session), store: Arc::clone(self), _permit: permit })
    }

    pub(super) async fn batch(
        self: &Arc<Self>,
        access: Access,
        statements: Vec<Statement>,
    ) -> Result<Vec<Rows>, SqlError> {
        if access == Access::ReadOnly {
            return self
                .aside(Kind::Read, move |_, session, deadline| read_batch(session, &statements, deadline))
                .await?;
        }
        let writes = {
            let known = lock(&self.known);
            let way = |statement: &Statement| known.ways.get(&self.hasher.hash_one(statement.sql.as_str()));
            statements.iter().any(|statement| way(statement) == Some(&Way::Write))
        };
        if writes {
            return self.queue.write(self, statements).await;
        }
        let read = self.aside(Kind::Read, move |_, session, deadline| match session.only_read(&statements, deadline) {
            Some(true) => Ok(read_batch(session, &statements, deadline)),
            _ => Err(statements),
        });
        match read.await? {
            Ok(result) => result,
            Err(statements) => self.queue.write(self, statements).await,
        }
    }

    pub(super) async fn script(self: &Arc<Self>, access: Access, sql: String) -> Result<u64, SqlError> {
        if access == Access::ReadWrite {
            return self.queue.script(self, sql).await;
        }
        self.aside(Kind::Read, move |_, session, _| session.reading_script(&sql)).await?
    }

    async fn write_one(self: &Arc<Self>, statement: Statement) -> Result<Rows, SqlError> {
        let mut rows = self.queue.write(self, vec![statement]).await?;
        rows.pop().ok_or(SqlError::Stopped)
    }

    fn know(&self, text: Text, way: Way) {
        let mut known = lock(&self.known);
        if known.schema != text.schema || text.way == Some(way) {
            return;
        }
        if known.ways.len() >= KNOWN {
            known.ways.clear();
        }
        known.ways.insert(text.key, way);
    }

    /// A cursor that may have to end for the log's sake.
    pub(super) fn note_cursor(&self, open: &Arc<Mutex<cursor::Open>>) {
        let mut cursors = lock(&self.cursors);
        cursors.retain(|cursor| cursor.strong_count() > 0);
        cursors.push(Arc::downgrade(open));
    }

    /// Writes the log back into the database when it has grown past its bound, and ends the cursors that keep it from that. What else reads
    /// ends soon, and is waited for; [`SqlError::Busy`] when it does not. Blocking.
    pub(super) fn bound_log(&self, session: &Session) -> Result<(), SqlError> {
        let bound = log_bound(self.limits.database_bytes);
        if !log_is_over(&self.path, bound) {
            return Ok(());
        }
        // One of them may be the last user of its connection: not while others wait for the list.
        let cursors = std::mem::take(&mut *lock(&self.cursors));
        cursors.iter().filter_map(Weak::upgrade).for_each(|open| cursor::end(&open));
        if reset_log(&session.connection).map_err(|error| session.own(error))? { Ok(()) } else { Err(SqlError::Busy) }
    }

    /// After a change of the schema.
    pub(super) fn forget_ways(&self) {
        let mut known = lock(&self.known);
        known.schema += 1;
        known.ways.clear();
    }
}

/// A statement's text, and what is known about it.
#[derive(Clone, Copy)]
struct Text {
    key: u64,
    schema: u64,
    way: Option<Way>,
}

/// What a connection is wanted for: a call, or a cursor or transaction that lasts longer.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    Read,
    Stream,
}

/// All statements see one state.
fn read_batch(session: &Session, statements: &[Statement], deadline: Instant) -> Result<Vec<Rows>, SqlError> {
    session.control("BEGIN")?;
    let results = session.run_all(statements, deadline, true);
    session.roll_back()?;
    results
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
