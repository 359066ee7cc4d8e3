//! What goes into a database and what comes out of it.

use std::time::Duration;

/// The longest statement for `run`, `query`, `batch` and transactions, in bytes. Parsing a MiB takes some 10 ms.
pub const MAX_STATEMENT_BYTES: usize = 1 << 20;
/// The longest script, in bytes: an import sends a dump in pieces of this size.
pub const MAX_SCRIPT_BYTES: usize = 16 << 20;
/// The longest text or blob, and the longest row, in bytes. A function of SQLite cannot be interrupted inside; larger things belong into
/// blobs.
pub const MAX_VALUE_BYTES: usize = 4 << 20;
/// Parameters of a statement. SQLite's own bound is 32,766.
pub const MAX_PARAMS: usize = 10_000;
/// Statements of a batch. All wait for the last one, and keep other writes of the store waiting.
pub const MAX_BATCH: usize = 1000;

/// A value as SQLite keeps it (<https://sqlite.org/datatype3.html>). A NaN is stored as `Null`.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Null,
    Integer(i64),
    Real(f64),
    /// What the database holds as text is read as UTF-8; bytes that are none become U+FFFD.
    Text(String),
    Blob(Vec<u8>),
}

impl Value {
    /// What the value counts against a bound: its bytes and its place.
    pub(super) fn bytes(&self) -> usize {
        let content = match self {
            Self::Null | Self::Integer(_) | Self::Real(_) => 0,
            Self::Text(text) => text.len(),
            Self::Blob(blob) => blob.len(),
        };
        size_of::<Self>() + content
    }
}

/// One statement with the values of its parameters, in order (`?`, `?1`, `:name` in the order of their first use).
#[derive(Debug, Clone, PartialEq)]
pub struct Statement {
    pub sql: String,
    pub params: Vec<Value>,
}

impl Statement {
    pub fn new(sql: impl Into<String>, params: impl Into<Vec<Value>>) -> Self {
        Self { sql: sql.into(), params: params.into() }
    }
}

/// What a statement answered.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Rows {
    pub columns: Vec<String>,
    pub rows: Vec<Vec<Value>>,
    /// Rows that the statement inserted, changed or deleted itself; triggers not counted.
    pub changes: u64,
    /// The rowid of the last insert in this call or transaction; 0 where nothing was inserted.
    pub last_insert_rowid: i64,
}

/// What a caller may do with a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    ReadOnly,
    ReadWrite,
}

/// A file with SQL that runs once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Migration {
    pub name: String,
    pub sql: String,
}

/// Bounds for each store.
#[derive(Debug, Clone, Copy)]
pub struct SqlLimits {
    /// How long a statement may run, and how long a call waits for its turn.
    pub statement: Duration,
    /// How large a database may become, in bytes.
    pub database_bytes: u64,
    /// How large the answer of one call may be, in bytes.
    pub result_bytes: usize,
    /// How long a transaction may be open, and how long a cursor may rest.
    pub transaction: Duration,
}

impl Default for SqlLimits {
    fn default() -> Self {
        Self {
            statement: Duration::from_secs(5),
            database_bytes: 1 << 30,
            result_bytes: 16 << 20,
            transaction: Duration::from_secs(10),
        }
    }
}
