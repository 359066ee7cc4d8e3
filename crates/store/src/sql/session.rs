//! One connection to a store, with its callbacks: runs statements and reads what they answer, within the bounds.

use std::{
    fs::OpenOptions,
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use rusqlite::{Batch, Connection, OpenFlags, Row, config::DbConfig, ffi, limits::Limit, types::ValueRef};

use crate::database::connect_alone;

use super::{
    error::{Failed, SqlError, position},
    functions,
    guard::{self, Author, Watch},
    memory::{Allowance, Held},
    value::{Rows, SqlLimits, Statement, Value},
};

/// What a statement may take for sorting, grouping and its values, in bytes: as nothing is put into temporary files, this is also the
/// bound on what can be sorted.
pub(super) const STATEMENT_MEMORY: usize = 64 << 20;
/// The same for a migration, which makes an index of what is there already: some 10 million rows.
pub(super) const MIGRATION_MEMORY: usize = 384 << 20;
/// Pages that a connection keeps, in KiB. Beyond them it reads from the page cache of the system, at a microsecond a page.
const CACHE_KIB: i32 = 1024;
/// Prepared statements of a connection, some kilobytes each.
const PREPARED: usize = 64;
/// SQLite's default, and what the system reads at least.
const PAGE_BYTES: u64 = 4096;
/// How long a connection waits for the lock of another one of this process: for a checkpoint, or the end of a recovery.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);

/// Whether a connection may write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Reader,
    Writer,
}

pub(super) struct Session {
    pub(super) connection: Connection,
    pub(super) watch: Arc<Watch>,
    path: PathBuf,
    limits: SqlLimits,
    memory_bytes: usize,
}

/// What happens inside of a call; becomes an [`SqlError`] with what else is known.
pub(super) enum Problem {
    Sqlite(rusqlite::Error),
    Known(SqlError),
}

impl From<rusqlite::Error> for Problem {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl From<SqlError> for Problem {
    fn from(error: SqlError) -> Self {
        Self::Known(error)
    }
}

impl Session {
    /// Opens the file, and creates it where there is none and `role` is to write. Blocking.
    pub(super) fn open(path: &Path, limits: SqlLimits, role: Role) -> Result<Self, SqlError> {
        let mut flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        if role == Role::Writer {
            make_private(path).map_err(|error| crate::StoreError::io(path, error))?;
            flags |= OpenFlags::SQLITE_OPEN_CREATE;
        }
        Self::configure(connect_alone(path, flags), path, limits, role)
    }

    /// A database without content: what a store is that was never written.
    pub(super) fn empty(path: &Path, limits: SqlLimits) -> Result<Self, SqlError> {
        Self::configure(Connection::open_in_memory(), path, limits, Role::Reader)
    }

    fn configure(
        opened: rusqlite::Result<Connection>,
        path: &Path,
        limits: SqlLimits,
        role: Role,
    ) -> Result<Self, SqlError> {
        let configure = || -> rusqlite::Result<_> {
            let mut connection = opened?;
            connection.busy_timeout(LOCK_PATIENCE)?;
            if role == Role::Writer {
                connection.pragma_update(None, "journal_mode", "wal")?;
                // The log is synced at each commit.
                connection.pragma_update(None, "synchronous", "full")?;
                // After a burst of writes the log file shrinks back to this, in bytes.
                connection.pragma_update(None, "journal_size_limit", 4 << 20)?;
                connection.pragma_update_and_check(
                    None,
                    "max_page_count",
                    limits.database_bytes / PAGE_BYTES,
                    |_| Ok(()),
                )?;
            } else {
                connection.pragma_update(None, "query_only", true)?;
            }
            connection.pragma_update(None, "foreign_keys", true)?;
            // Nothing outside of the store's own files.
            connection.pragma_update(None, "temp_store", "memory")?;
            connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
            // A damaged page is told of where it is read, instead of made something of.
            connection.pragma_update(None, "cell_size_check", true)?;
            connection.set_prepared_statement_cache_capacity(PREPARED);
            // Reads the schema, and so finds a file that is none of SQLite's.
            connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
            functions::register(&connection)?;
            let watch = guard::watch(&mut connection)?;
            Ok((connection, watch))
        };
        match configure() {
            Ok((connection, watch)) => {
                Ok(Self { connection, watch, path: path.to_owned(), limits, memory_bytes: STATEMENT_MEMORY })
            }
            Err(error) => Err(Failed { error, denied: None, memory: None, path }.into()),
        }
    }

    pub(super) fn allow_memory(&mut self, bytes: usize) {
        self.memory_bytes = bytes;
    }

    pub(super) fn limits(&self) -> &SqlLimits {
        &self.limits
    }

    /// A statement of the store's own, like `BEGIN`. Never kept prepared: a function that sends the same text must meet the authorizer.
    pub(super) fn control(&self, sql: &str) -> Result<(), SqlError> {
        self.connection.execute_batch(sql).map_err(|error| self.own(error))
    }

    /// Ends a transaction that may have ended by itself.
    pub(super) fn roll_back(&self) -> Result<(), SqlError> {
        if self.connection.is_autocommit() { Ok(()) } else { self.control("ROLLBACK") }
    }

    /// What was inserted before is none of the next caller's business.
    pub(super) fn forget_rowid(&self) {
        // SAFETY: the handle is open as long as the connection, and used by this thread only.
        unsafe { ffi::sqlite3_set_last_insert_rowid(self.connection.handle(), 0) }
    }

    /// Whether somebody else may have the connection: nothing is open, and foreign keys are on.
    pub(super) fn is_sound(&self) -> bool {
        self.connection.is_autocommit()
            && matches!(self.connection.db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY), Ok(true))
    }

    /// Runs one statement to its end. With `read_only`, one that could write is not begun and gives [`SqlError::ReadOnly`].
    pub(super) fn run(&self, statement: &Statement, deadline: Instant, read_only: bool) -> Result<Rows, SqlError> {
        self.run_within(statement, deadline, read_only, &mut Room::new(self.limits.result_bytes))
    }

    /// [`Session::run`] for one statement of several, whose answers share `room`.
    fn run_within(
        &self,
        statement: &Statement,
        deadline: Instant,
        read_only: bool,
        room: &mut Room,
    ) -> Result<Rows, SqlError> {
        let collect = |allowance: &Allowance| self.collect(statement, read_only, allowance, room);
        self.bounded(Author::User, deadline, Held::default(), collect).0
    }

    /// Runs statements until `end`, the first error, or the bound on what one call may answer.
    pub(super) fn run_all(
        &self,
        statements: &[Statement],
        end: Instant,
        read_only: bool,
    ) -> Result<Vec<Rows>, SqlError> {
        let mut room = Room::new(self.limits.result_bytes);
        let mut run = |statement| {
            let deadline = end.min(Instant::now() + self.limits.statement);
            self.run_within(statement, deadline, read_only, &mut room)
        };
        statements.iter().map(&mut run).collect()
    }

    /// Runs one statement that reads as long as it meets no value of more than `value_bytes`.
    pub(super) fn run_small(
        &self,
        statement: &Statement,
        deadline: Instant,
        value_bytes: i32,
    ) -> Result<Rows, SqlError> {
        let before = self.connection.set_limit(Limit::SQLITE_LIMIT_LENGTH, value_bytes);
        let before = before.map_err(|error| self.own(error))?;
        let result = self.run(statement, deadline, true);
        self.connection.set_limit(Limit::SQLITE_LIMIT_LENGTH, before).map_err(|error| self.own(error))?;
        result
    }

    /// Whether all statements only read. `None` when one of them cannot be prepared: it may need what an earlier one makes.
    pub(super) fn only_read(&self, statements: &[Statement], deadline: Instant) -> Option<bool> {
        let prepare = |statement: &Statement, _: &Allowance| -> Result<bool, Problem> {
            Ok(self.prepare(&statement.sql)?.readonly())
        };
        let mut all = true;
        for statement in statements {
            let prepared = self.bounded(Author::User, deadline, Held::default(), |at| prepare(statement, at)).0;
            all &= prepared.ok()?;
        }
        Some(all)
    }

    /// Whether the time of a statement cannot be bounded. Prepares it anew: the authorizer is not asked about one from the cache.
    pub(super) fn is_long(&self, sql: &str, deadline: Instant) -> bool {
        self.watch.note_tables();
        let prepare = |_: &Allowance| Ok(self.connection.prepare(sql).map(drop)?);
        let prepared = self.bounded(Author::User, deadline, Held::default(), prepare).0;
        let tables = self.watch.take_tables();
        prepared.is_ok() && (self.watch.is_long() || tables.iter().any(|table| self.computes(table).unwrap_or(true)))
    }

    /// Whether reading the table runs code of a module, or of expressions in its schema: the authorizer is not asked about those.
    fn computes(&self, table: &str) -> rusqlite::Result<bool> {
        let sql = "SELECT EXISTS (SELECT 1 FROM pragma_table_list(?1) WHERE type = 'virtual') \
            OR EXISTS (SELECT 1 FROM pragma_table_xinfo(?1) WHERE hidden = 2)";
        self.connection.query_row(sql, [table], |row| row.get(0))
    }

    /// Does `work` as `author` and within the bounds; also gives the memory that it still holds.
    pub(super) fn bounded<T>(
        &self,
        author: Author,
        deadline: Instant,
        held: Held,
        work: impl FnOnce(&Allowance) -> Result<T, Problem>,
    ) -> (Result<T, SqlError>, Held) {
        let allowance = Allowance::begin(self.memory_bytes, held);
        self.watch.begin(author, deadline);
        let result = work(&allowance);
        self.watch.end();
        let result = result.map_err(|problem| self.failed(problem, Some(&allowance)));
        (result, allowance.hold())
    }

    /// The error of a statement of the store's own.
    pub(super) fn own(&self, error: rusqlite::Error) -> SqlError {
        self.failed(error.into(), None)
    }

    fn failed(&self, problem: Problem, allowance: Option<&Allowance>) -> SqlError {
        let denied = self.watch.take_denied();
        match problem {
            Problem::Known(error) => error,
            Problem::Sqlite(error) => {
                let memory = allowance.filter(|allowance| allowance.refused()).map(|_| self.memory_bytes);
                Failed { error, denied, memory, path: &self.path }.into()
            }
        }
    }

    /// The statement, from the cache or prepared.
    pub(super) fn prepare(&self, sql: &str) -> Result<rusqlite::CachedStatement<'_>, Problem> {
        let statement = self.connection.prepare_cached(sql)?;
        if self.watch.renames_to_ours(sql) {
            statement.discard();
            return Err(renames_to_ours());
        }
        Ok(statement)
    }

    fn collect(
        &self,
        statement: &Statement,
        read_only: bool,
        allowance: &Allowance,
        room: &mut Room,
    ) -> Result<Rows, Problem> {
        let mut prepared = self.prepare(&statement.sql)?;
        let reads = prepared.readonly();
        if read_only && !reads {
            return Err(SqlError::ReadOnly.into());
        }
        bind(&mut prepared, &statement.params)?;
        let before = if reads { 0 } else { self.connection.total_changes() };
        let mut collected = Rows::default();
        let mut rows = prepared.raw_query();
        while let Some(row) = rows.next()? {
            if collected.rows.is_empty() {
                // Not before the first step, which prepares the statement anew when the schema has changed.
                collected.columns = names(row.as_ref());
            }
            collected.rows.push(read(row, collected.columns.len(), allowance, room)?);
        }
        drop(rows);
        if collected.rows.is_empty() {
            collected.columns = names(&prepared);
        }
        if !reads {
            if self.connection.total_changes() != before {
                collected.changes = self.connection.changes();
            }
            collected.last_insert_rowid = self.connection.last_insert_rowid();
        }
        Ok(collected)
    }

    /// Runs a text and then `last` in a transaction of their own, and commits it. An error comes with the byte offset it belongs to.
    ///
    /// A text that turns foreign keys off, as dumps do and as SQLite proposes it for the change of a table, begins again without
    /// them; that only works outside of a transaction. They are checked before the commit instead.
    pub(super) fn whole_script(
        &self,
        sql: &str,
        total: Duration,
        each: Duration,
        last: impl Fn() -> Result<(), SqlError>,
    ) -> Result<u64, (SqlError, usize)> {
        let end = Instant::now() + total;
        let attempt = |keys_off: bool| {
            let at_end = |error| (error, sql.len());
            self.control("BEGIN IMMEDIATE").map_err(|error| (error, 0))?;
            let Some(count) = self.script(sql, end, each, false, keys_off)? else { return Ok(None) };
            if keys_off {
                self.check_keys(end).map_err(at_end)?;
            }
            last().and_then(|()| self.control("COMMIT")).map_err(at_end)?;
            Ok(Some(count))
        };
        let mut result = attempt(false);
        self.roll_back().map_err(|error| (error, 0))?;
        // Where they do not come on again, the connection is not sound, and its user closes it.
        if matches!(result, Ok(None)) {
            self.control("PRAGMA foreign_keys = off").map_err(|error| (error, 0))?;
            result = attempt(true);
            self.roll_back().and_then(|()| self.control("PRAGMA foreign_keys = on")).map_err(|error| (error, 0))?;
        }
        result.map(Option::unwrap_or_default)
    }

    /// Refuses a database in which a row refers to nothing.
    fn check_keys(&self, deadline: Instant) -> Result<(), SqlError> {
        let check = |_: &Allowance| -> Result<(), Problem> {
            let mut statement = self.connection.prepare("PRAGMA foreign_key_check")?;
            let mut rows = statement.query([])?;
            let Some(row) = rows.next()? else { return Ok(()) };
            let (table, id, parent): (String, Option<i64>, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
            let id = id.map(|id| format!(" {id}")).unwrap_or_default();
            Err(SqlError::Constraint(format!(
                "FOREIGN KEY constraint failed: row{id} of {table} refers to no row of {parent}"
            ))
            .into())
        };
        self.bounded(Author::Store, deadline, Held::default(), check).0
    }

    /// Runs the statements of a text one after the other, in the transaction that is open. `None` when it turns foreign keys off and they
    /// are on. An error comes with the byte offset it belongs to.
    pub(super) fn script(
        &self,
        sql: &str,
        end: Instant,
        each: Duration,
        read_only: bool,
        keys_off: bool,
    ) -> Result<Option<u64>, (SqlError, usize)> {
        use rusqlite::fallible_iterator::FallibleIterator as _;
        if let Some(at) = sql.find('\0') {
            // SQLite would take it for the end of the text.
            return Err((SqlError::Refused("the text has a NUL character, which SQL cannot have".into()), at));
        }
        // SQLite copies a text that does not end with NUL: the whole rest of it, for each of its statements.
        let terminated = format!("{sql}\0");
        let mut batch = Batch::new(&self.connection, &terminated);
        let (mut count, mut at) = (0, 0);
        loop {
            let deadline = (Instant::now() + each).min(end);
            let mut place = None;
            let mut length = 0;
            let step = self.bounded(Author::Script, deadline, Held::default(), |_| {
                // Left from an attempt at another text that failed.
                self.watch.take_keys_off();
                let mut statement = match batch.next() {
                    Ok(Some(statement)) => statement,
                    Ok(None) => return Ok(false),
                    Err(error) => {
                        if let rusqlite::Error::SqlInputError { sql: rest, offset, .. } = &error {
                            place = Some(terminated.len() - rest.len() + usize::try_from(*offset).unwrap_or(0));
                        }
                        return Err(error.into());
                    }
                };
                if statement.parameter_count() > 0 {
                    return Err(SqlError::Refused("a script has no parameters".into()).into());
                }
                // Without parameters this is the text itself. What the iterator skipped before it is blank.
                let text = statement.expanded_sql();
                if let Some(text) = &text {
                    at += sql.get(at..).and_then(|rest| rest.find(text.as_str())).unwrap_or(0);
                    length = text.len();
                }
                if self.watch.renames_to_ours(text.as_deref().unwrap_or(sql)) {
                    return Err(renames_to_ours());
                }
                if read_only && !statement.readonly() {
                    return Err(SqlError::ReadOnly.into());
                }
                let mut rows = statement.raw_query();
                while rows.next()?.is_some() {}
                Ok(true)
            });
            match step.0 {
                Ok(true) => {
                    at += length;
                    count += 1;
                }
                Ok(false) => return Ok(Some(count)),
                Err(error) => {
                    return Err((
                        plain(error, place.is_some()),
                        place.unwrap_or_else(|| at + sql.get(at..).map_or(0, blank)),
                    ));
                }
            }
            if self.watch.take_keys_off() && !keys_off {
                return Ok(None);
            }
        }
    }
}

impl Session {
    /// A text that only reads. An error has its place in it.
    pub(super) fn reading_script(&self, sql: &str) -> Result<u64, SqlError> {
        let end = Instant::now() + self.limits.transaction;
        let count = self.script(sql, end, self.limits.statement, true, true).map_err(|error| placed(error, sql))?;
        Ok(count.unwrap_or_default())
    }
}

/// The message of a script's error without SQLite's own position, which counts from the statement.
fn plain(error: SqlError, placed: bool) -> SqlError {
    match error {
        // Those of constraints have no position.
        SqlError::Refused(text) if placed => match text.rsplit_once(" (line ") {
            Some((message, _)) => SqlError::Refused(message.into()),
            None => SqlError::Refused(text),
        },
        error => error,
    }
}

/// Puts line and column into the message of an error.
pub(super) fn placed((error, offset): (SqlError, usize), sql: &str) -> SqlError {
    let with_place = |message: String| {
        let (line, column) = position(sql, offset);
        format!("{message} (line {line}, column {column})")
    };
    match error {
        SqlError::Refused(message) => SqlError::Refused(with_place(message)),
        SqlError::Constraint(message) => SqlError::Constraint(with_place(message)),
        error => error,
    }
}

/// Bytes of blanks and comments at the start.
fn blank(sql: &str) -> usize {
    let mut rest = sql;
    loop {
        rest = rest.trim_start_matches(|letter: char| letter.is_whitespace() || letter == ';');
        let end = if rest.starts_with("--") {
            rest.find('\n')
        } else if rest.starts_with("/*") {
            rest.find("*/").map(|at| at + 2)
        } else {
            return sql.len() - rest.len();
        };
        match end.and_then(|end| rest.get(end..)) {
            Some(after) => rest = after,
            None => return sql.len() - rest.len(),
        }
    }
}

fn renames_to_ours() -> Problem {
    SqlError::Refused("names that start with `_minnow` belong to Minnow".into()).into()
}

pub(super) fn names(statement: &rusqlite::Statement<'_>) -> Vec<String> {
    statement.column_names().map(str::to_owned).collect()
}

pub(super) fn bind(statement: &mut rusqlite::Statement<'_>, params: &[Value]) -> Result<(), Problem> {
    let expected = statement.parameter_count();
    if expected != params.len() {
        let counted = |count: usize, what: &str| match count {
            0 => format!("no {what}s"),
            1 => format!("1 {what}"),
            _ => format!("{count} {what}s"),
        };
        let (has, given) = (counted(expected, "parameter"), counted(params.len(), "value"));
        let verb = if params.len() == 1 { "was" } else { "were" };
        return Err(SqlError::Refused(format!("the statement has {has}, and {given} {verb} given")).into());
    }
    for (index, value) in params.iter().enumerate() {
        let index = index + 1;
        match value {
            Value::Null => statement.raw_bind_parameter(index, rusqlite::types::Null)?,
            Value::Integer(value) => statement.raw_bind_parameter(index, value)?,
            Value::Real(value) => statement.raw_bind_parameter(index, value)?,
            Value::Text(value) => statement.raw_bind_parameter(index, value.as_str())?,
            Value::Blob(value) => statement.raw_bind_parameter(index, value.as_slice())?,
        }
    }
    Ok(())
}

/// What is left of the bytes that one call may answer.
pub(super) struct Room {
    left: usize,
    max_bytes: usize,
}

impl Room {
    pub(super) fn new(max_bytes: usize) -> Self {
        Self { left: max_bytes, max_bytes }
    }

    fn take(&mut self, bytes: usize) -> Result<(), SqlError> {
        self.left = self.left.checked_sub(bytes).ok_or_else(|| SqlError::result_too_large(self.max_bytes))?;
        Ok(())
    }
}

/// The values of a row. Outside of the bound on memory: rusqlite takes it for granted that a value can be read. So `room` is looked at
/// after each value: a row of `zeroblob`s takes no memory before its values are read.
pub(super) fn read(
    row: &Row<'_>,
    columns: usize,
    allowance: &Allowance,
    room: &mut Room,
) -> Result<Vec<Value>, Problem> {
    let _outside = allowance.pause();
    room.take(size_of::<Vec<Value>>())?;
    let mut values = Vec::with_capacity(columns);
    for column in 0..columns {
        let value = match row.get_ref(column)? {
            ValueRef::Null => Value::Null,
            ValueRef::Integer(value) => Value::Integer(value),
            ValueRef::Real(value) => Value::Real(value),
            ValueRef::Text(text) => Value::Text(String::from_utf8_lossy(text).into_owned()),
            ValueRef::Blob(blob) => Value::Blob(blob.to_vec()),
        };
        room.take(value.bytes())?;
        values.push(value);
    }
    Ok(values)
}

pub(super) fn row_bytes(values: &[Value]) -> usize {
    size_of::<Vec<Value>>() + values.iter().map(Value::bytes).sum::<usize>()
}

/// Makes the file for the node's user alone, where there is none yet. SQLite gives the files beside it the same mode.
fn make_private(path: &Path) -> io::Result<()> {
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}
