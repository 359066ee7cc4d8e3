//! A database as SQL text, as `.dump` of SQLite's shell writes it (<https://sqlite.org/cli.html#converting_an_entire_database_to_a_text_file>).
//!
//! Tables with their rows come first, then what is made of them: indexes, triggers, views. A virtual table (full-text search)
//! is written as its declaration and its rows, and the tables that it keeps for itself are left out. So are the records of
//! migrations: they belong to the deploys of the app, and nothing but those can write them.

use std::{
    fmt::Write as _,
    time::{Duration, Instant},
};

use bytes::Bytes;
use minnow_model::StoreId;
use rusqlite::{Connection, OpenFlags, types::ValueRef};

use crate::database::connect_alone;

use super::{
    Sql, SqlError,
    error::Failed,
    memory::{Allowance, Held},
    session::STATEMENT_MEMORY,
};

/// How long a dump may take. It holds a read transaction, in which the database's log grows with each write; a database of
/// 1 GiB takes a minute.
const MAX_TIME: Duration = Duration::from_secs(15 * 60);
/// What is given out at once, in bytes.
const PIECE_BYTES: usize = 64 << 10;

/// Gives text out in pieces.
struct Out<'a> {
    text: String,
    emit: &'a mut dyn FnMut(Bytes) -> bool,
    end: Instant,
}

/// Why a dump ended.
enum Stop {
    Sqlite(rusqlite::Error),
    Known(SqlError),
}

impl From<rusqlite::Error> for Stop {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl Out<'_> {
    fn line(&mut self, line: &str) -> Result<(), Stop> {
        self.text.push_str(line);
        self.text.push('\n');
        if self.text.len() >= PIECE_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), Stop> {
        let piece = Bytes::from(std::mem::take(&mut self.text));
        if Instant::now() > self.end {
            return Err(Stop::Known(SqlError::Timeout));
        }
        if (self.emit)(piece) { Ok(()) } else { Err(Stop::Known(SqlError::Stopped)) }
    }
}

/// One entry of the schema.
struct Entry {
    kind: String,
    name: String,
    sql: String,
}

impl Sql {
    /// Writes the database as it is at this moment to `emit`, in pieces; `emit` answers whether it wants more. Without the schema
    /// only the rows, for a database that has the tables; triggers are dropped before and made again after them, since what they did
    /// is in the rows. Blocking.
    pub fn dump(
        &self,
        store: &StoreId,
        with_schema: bool,
        emit: &mut dyn FnMut(Bytes) -> bool,
    ) -> Result<(), SqlError> {
        // Held, so that the file stays what it is.
        let open = self.stores.existing_here(store)?;
        let path = self.stores.path(store);
        let _bounded = Allowance::begin(STATEMENT_MEMORY, Held::default());
        let mut out = Out { text: String::new(), emit, end: Instant::now() + MAX_TIME };
        let connect = || -> rusqlite::Result<Connection> {
            if open.is_none() {
                return Connection::open_in_memory();
            }
            let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            let connection = connect_alone(&path, flags)?;
            connection.busy_timeout(Duration::from_secs(5))?;
            connection.pragma_update(None, "query_only", true)?;
            Ok(connection)
        };
        let dumped = connect().map_err(Stop::from).and_then(|connection| dump(&connection, with_schema, &mut out));
        dumped.map_err(|stop| match stop {
            Stop::Sqlite(error) => SqlError::from(Failed { error, denied: None, memory: None, path: &path }),
            Stop::Known(error) => error,
        })
    }
}

fn dump(connection: &Connection, with_schema: bool, out: &mut Out<'_>) -> Result<(), Stop> {
    out.line("PRAGMA foreign_keys=OFF;")?;
    out.line("BEGIN TRANSACTION;")?;
    // Everything is read in one transaction, and so is of one moment.
    connection.execute_batch("BEGIN")?;
    let own = strings(connection, "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'shadow'")?;
    let is_own = |name: &str| own.iter().any(|own| own == name) || name.starts_with("_minnow_");
    let entries = entries(connection)?;
    let triggers = || entries.iter().filter(|entry| entry.kind == "trigger" && !with_schema);
    for trigger in triggers() {
        out.line(&format!("DROP TRIGGER IF EXISTS {};", quoted(&trigger.name)))?;
    }
    for entry in entries.iter().filter(|entry| entry.kind == "table" && !is_own(&entry.name)) {
        if with_schema {
            out.line(&format!("{};", entry.sql))?;
        }
        rows(connection, entry, out)?;
    }
    sequences(connection, &is_own, out)?;
    for trigger in triggers() {
        out.line(&format!("{};", trigger.sql))?;
    }
    if with_schema {
        for entry in entries.iter().filter(|entry| entry.kind != "table" && !entry.name.starts_with("_minnow_")) {
            out.line(&format!("{};", entry.sql))?;
        }
    }
    out.line("COMMIT;")?;
    out.flush()
}

/// What was declared, in the order in which it was. What SQLite makes for itself has no text.
fn entries(connection: &Connection) -> Result<Vec<Entry>, Stop> {
    let sql = "SELECT type, name, sql FROM sqlite_schema WHERE sql NOT NULL AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'
               ORDER BY rowid";
    let mut statement = connection.prepare(sql)?;
    let entries =
        statement.query_map([], |row| Ok(Entry { kind: row.get(0)?, name: row.get(1)?, sql: row.get(2)? }))?;
    Ok(entries.collect::<Result<_, _>>()?)
}

fn strings(connection: &Connection, sql: &str) -> Result<Vec<String>, Stop> {
    let mut statement = connection.prepare(sql)?;
    let found = statement.query_map([], |row| row.get(0))?;
    Ok(found.collect::<Result<_, _>>()?)
}

/// An `INSERT` for each row of a table.
fn rows(connection: &Connection, table: &Entry, out: &mut Out<'_>) -> Result<(), Stop> {
    let name = quoted(&table.name);
    let is_virtual = table.sql.trim_start().get(..14).is_some_and(|start| start.eq_ignore_ascii_case("CREATE VIRTUAL"));
    let mut statement = connection.prepare("SELECT name, hidden FROM pragma_table_xinfo(?1)")?;
    let found = statement.query_map([&table.name], |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?)))?;
    let found: Vec<(String, i64)> = found.collect::<Result<_, _>>()?;
    // Hidden columns are no data, and generated ones are made again.
    let kept: Vec<String> = found.iter().filter(|(_, hidden)| *hidden == 0).map(|(name, _)| quoted(name)).collect();
    if kept.is_empty() {
        return Ok(());
    }
    let (into, columns) = if is_virtual {
        if keeps_no_content(&table.sql) {
            // Its content is in another table, of which it is made again.
            return out.line(&format!("INSERT INTO {name}({name}) VALUES('rebuild');"));
        }
        let columns: Vec<String> = std::iter::once("rowid".to_owned()).chain(kept).collect();
        (format!("{name}({})", columns.join(",")), columns)
    } else if kept.len() < found.len() {
        (format!("{name}({})", kept.join(",")), kept)
    } else {
        (name.clone(), kept)
    };
    let select: Vec<String> = columns.iter().map(|column| literal(column)).collect();
    let mut statement = connection.prepare(&format!("SELECT {} FROM {name}", select.join(",")))?;
    let count = statement.column_count();
    let mut rows = statement.query([])?;
    let mut line = String::new();
    while let Some(row) = rows.next()? {
        line.clear();
        let _ = write!(line, "INSERT INTO {into} VALUES(");
        for column in 0..count {
            if column > 0 {
                line.push(',');
            }
            match row.get_ref(column)? {
                ValueRef::Text(text) => line.push_str(&String::from_utf8_lossy(text)),
                // `quote` answers text, whatever it is given.
                _ => line.push_str("NULL"),
            }
        }
        line.push_str(");");
        out.line(&line)?;
    }
    Ok(())
}

/// What writes a column's value as a literal. Of a text with a zero byte, `quote` would give the part before it.
fn literal(column: &str) -> String {
    format!(
        "CASE WHEN typeof({column})='text' AND instr({column},char(0)) \
         THEN 'CAST('||quote(CAST({column} AS BLOB))||' AS TEXT)' ELSE quote({column}) END"
    )
}

/// Whether a virtual table for full-text search has its content in another table, or none (`content=…` of FTS5).
fn keeps_no_content(sql: &str) -> bool {
    let squeezed: String = sql.chars().filter(|c| !c.is_whitespace()).collect::<String>().to_ascii_lowercase();
    squeezed.contains(",content=") || squeezed.contains("(content=")
}

/// The last rowids of tables with AUTOINCREMENT.
fn sequences(connection: &Connection, is_own: &dyn Fn(&str) -> bool, out: &mut Out<'_>) -> Result<(), Stop> {
    let there = strings(connection, "SELECT name FROM sqlite_schema WHERE name = 'sqlite_sequence'")?;
    if there.is_empty() {
        return Ok(());
    }
    out.line("DELETE FROM sqlite_sequence;")?;
    let mut statement = connection.prepare("SELECT name, quote(name), quote(seq) FROM sqlite_sequence")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (name, quoted, last): (String, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
        if !is_own(&name) {
            out.line(&format!("INSERT INTO sqlite_sequence VALUES({quoted},{last});"))?;
        }
    }
    Ok(())
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
