//! The rows of a statement, read piece by piece.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
    vec,
};

use rusqlite::CachedStatement;
use tokio::{
    runtime::Handle,
    task::JoinHandle,
    time::{Instant as TimerInstant, sleep_until},
};

use super::{
    error::SqlError,
    guard::{Author, Watch},
    memory::Held,
    session::{Room, bind, names, read, row_bytes},
    store::{Kind, Reader, Store, lock},
    value::{Rows, Statement, Value},
};

/// What one piece holds at most, in bytes, beside its first row.
const PIECE_BYTES: usize = 256 << 10;
/// How long a cursor may be open. The log of the database grows until it ends, and at the log's bound it ends before its time.
const LIFE: Duration = Duration::from_secs(300);

/// The answer of one statement. Holds a few rows at a time, however many there are.
pub struct Cursor {
    columns: Vec<String>,
    rows: Source,
}

enum Source {
    /// Of a statement that wrote: it has run to its end.
    Kept(vec::IntoIter<Vec<Value>>),
    Streamed(Stream),
}

struct Stream {
    open: Arc<Mutex<Open>>,
    watch: Arc<Watch>,
    limit: Duration,
    /// Ends the cursor when it rests for too long.
    timer: JoinHandle<()>,
    runtime: Handle,
}

pub(super) enum Open {
    Running(Box<Running>),
    Done,
    Ended(String),
}

/// A statement between two of its steps.
pub(super) struct Running {
    /// Before the connection that it borrows from, and so dropped first.
    statement: Option<CachedStatement<'static>>,
    reader: Box<Reader>,
    columns: usize,
    /// The row that the last step found, as the first row is stepped to for the names of the columns.
    first: Option<Vec<Value>>,
    /// After the statement and its connection, and so released when the memory is free.
    memory: Held,
    /// By the clock of the runtime's timers, as all that decides how long a cursor lives.
    used: TimerInstant,
}

// SAFETY: statement and connection go from thread to thread together, and one thread at a time has them. SQLite allows that for connections
// opened without mutexes (<https://sqlite.org/threadsafe.html>), and the references between them go along.
unsafe impl Send for Running {}

impl Cursor {
    pub(super) fn kept(rows: Rows) -> Self {
        Self { columns: rows.columns, rows: Source::Kept(rows.rows.into_iter()) }
    }

    /// Begins a statement that reads; [`SqlError::ReadOnly`] when it does not.
    pub(super) async fn open(store: &Arc<Store>, statement: Statement) -> Result<Self, SqlError> {
        let reader = store.reader(Kind::Stream).await?;
        let watch = Arc::clone(&reader.session().ok_or(SqlError::Stopped)?.watch);
        let limits = *store.limits();
        let deadline = Instant::now() + limits.statement;
        let cancel = watch.call();
        let begun = tokio::task::spawn_blocking(move || Running::begin(reader, &statement, deadline)).await;
        cancel.done();
        let (columns, running) = begun.map_err(|_| SqlError::Stopped)??;
        let open = Arc::new(Mutex::new(running.map_or(Open::Done, |running| Open::Running(Box::new(running)))));
        store.note_cursor(&open);
        let timer = tokio::spawn(end_when_idle(Arc::clone(&open), limits.transaction));
        let stream = Stream { open, watch, limit: limits.statement, timer, runtime: Handle::current() };
        Ok(Self { columns, rows: Source::Streamed(stream) })
    }

    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    /// Whether it was ended from outside.
    #[cfg(test)]
    pub(super) fn has_ended(&self) -> bool {
        matches!(&self.rows, Source::Streamed(stream) if matches!(*lock(&stream.open), Open::Ended(_)))
    }

    /// The next rows, at most `max` and fewer when they are large; none at the end.
    pub async fn next(&mut self, max: usize) -> Result<Vec<Vec<Value>>, SqlError> {
        let stream = match &self.rows {
            Source::Streamed(stream) => stream,
            Source::Kept(_) => {
                let Source::Kept(rows) = &mut self.rows else { return Ok(Vec::new()) };
                return Ok(rows.by_ref().take(max.max(1)).collect());
            }
        };
        let open = Arc::clone(&stream.open);
        let deadline = Instant::now() + stream.limit;
        let cancel = stream.watch.call();
        let piece = tokio::task::spawn_blocking(move || {
            let mut open = lock(&open);
            let result = match &mut *open {
                Open::Running(running) => running.piece(max.max(1), deadline),
                Open::Done => return Ok(Vec::new()),
                Open::Ended(why) => return Err(SqlError::Ended(why.clone())),
            };
            match result {
                Ok((rows, more)) => {
                    if !more {
                        *open = Open::Done;
                    }
                    Ok(rows)
                }
                Err(error) => {
                    *open = Open::Ended(error.to_string());
                    Err(error)
                }
            }
        });
        let piece = piece.await;
        cancel.done();
        piece.map_err(|_| SqlError::Stopped)?
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.timer.abort();
        // A step that still runs was cancelled, and closes the cursor with the last share of it.
        if let Ok(mut open) = self.open.try_lock()
            && !matches!(*open, Open::Running(_))
        {
            *open = Open::Done;
            return;
        }
        let open = Arc::clone(&self.open);
        self.runtime.spawn_blocking(move || *lock(&open) = Open::Done);
    }
}

/// Ends a cursor that nobody asked for rows in `idle`, or that is too old.
async fn end_when_idle(open: Arc<Mutex<Open>>, idle: Duration) {
    let begun = TimerInstant::now();
    let mut wake = begun + idle;
    loop {
        sleep_until(wake).await;
        let open = Arc::clone(&open);
        let looked = tokio::task::spawn_blocking(move || {
            let mut open = lock(&open);
            let Open::Running(running) = &*open else { return None };
            let over = (running.used + idle).min(begun + LIFE);
            if over > TimerInstant::now() {
                return Some(over);
            }
            *open = Open::Ended("its cursor was open, or unused, for too long".into());
            None
        });
        match looked.await {
            Ok(Some(next)) => wake = next,
            _ => return,
        }
    }
}

/// Ends a cursor, so that the log can be written back. Waits for the piece that it reads at this moment. Blocking.
pub(super) fn end(open: &Mutex<Open>) {
    let mut open = lock(open);
    if matches!(*open, Open::Running(_)) {
        *open = Open::Ended("too much was written while its cursor was open; read faster, or in parts".into());
    }
}

impl Running {
    /// The names of the columns, and the statement unless it has no rows.
    fn begin(
        reader: Reader,
        statement: &Statement,
        deadline: Instant,
    ) -> Result<(Vec<String>, Option<Self>), SqlError> {
        let reader = Box::new(reader);
        let session = reader.session().ok_or(SqlError::Stopped)?;
        let (begun, memory) = session.bounded(Author::User, deadline, Held::default(), |allowance| {
            let mut prepared = session.prepare(&statement.sql)?;
            if !prepared.readonly() {
                return Err(SqlError::ReadOnly.into());
            }
            bind(&mut prepared, &statement.params)?;
            let mut rows = prepared.raw_query();
            // The schema may have changed since the statement was prepared; the first step prepares it again.
            let first = match rows.next()? {
                Some(row) => {
                    let columns = names(row.as_ref());
                    let mut room = Room::new(session.limits().result_bytes);
                    Some((read(row, columns.len(), allowance, &mut room)?, columns))
                }
                None => None,
            };
            // Dropping them would begin the statement again.
            std::mem::forget(rows);
            let (first, columns) = match first {
                Some((first, columns)) => (Some(first), columns),
                None => (None, names(&prepared)),
            };
            Ok((prepared, first, columns))
        });
        let (prepared, first, columns) = begun?;
        if first.is_none() {
            return Ok((columns, None));
        }
        // SAFETY: the statement borrows from the connection inside of `reader`. That is on the heap and stays there, nothing takes it out,
        // and `Running` drops the statement before it.
        let statement = unsafe { std::mem::transmute::<CachedStatement<'_>, CachedStatement<'static>>(prepared) };
        let count = columns.len();
        let running =
            Self { statement: Some(statement), reader, columns: count, first, memory, used: TimerInstant::now() };
        Ok((columns, Some(running)))
    }

    /// Some rows, and whether there may be more.
    fn piece(&mut self, max: usize, deadline: Instant) -> Result<(Vec<Vec<Value>>, bool), SqlError> {
        let Self { statement, reader, columns, first, memory, used } = self;
        let session = reader.session().ok_or(SqlError::Stopped)?;
        let statement = statement.as_mut().ok_or(SqlError::Stopped)?;
        let (result, holds) = session.bounded(Author::User, deadline, std::mem::take(memory), |allowance| {
            let mut piece: Vec<_> = first.take().into_iter().collect();
            let mut bytes: usize = piece.iter().map(|row| row_bytes(row)).sum();
            let mut rows = statement.raw_query();
            while piece.len() < max && bytes < PIECE_BYTES {
                let Some(row) = rows.next()? else { return Ok((piece, false)) };
                let mut room = Room::new(session.limits().result_bytes);
                let values = read(row, *columns, allowance, &mut room)?;
                bytes += row_bytes(&values);
                piece.push(values);
            }
            // Dropping them would begin the statement again.
            std::mem::forget(rows);
            Ok((piece, true))
        });
        *memory = holds;
        *used = TimerInstant::now();
        result
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Puts the statement back at its start and into the cache of its connection, whose read transaction ends with that.
        if let Some(mut statement) = self.statement.take() {
            drop(statement.raw_query());
        }
    }
}
