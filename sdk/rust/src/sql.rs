//! SQL databases (SQLite).

use crate::bindings::minnow::sql::database;
pub use crate::bindings::minnow::sql::database::Value;

/// Why a call failed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Error {
    /// The manifest grants the function no database of this name; the text says what to add.
    #[error("{0}")]
    NotGranted(String),
    /// The database is granted for reading only.
    #[error("the sql store is granted for reading only; write its name without `:ro` to let the function change it")]
    ReadOnly,
    /// SQLite, or what is allowed here, refuses the statement: why.
    #[error("{0}")]
    Refused(String),
    /// The statement took too long.
    #[error("the statement took too long")]
    Timeout,
    /// The statement, a value or the result is too large.
    #[error("{0}")]
    TooLarge(String),
    /// The database has reached its size, or the disk is full.
    #[error("the database is full")]
    Full,
    /// Others were writing all the time.
    #[error("others were writing all the time; try again")]
    Busy,
    /// The node failed.
    #[error("{0}")]
    Other(String),
    /// The result has no such column.
    #[error("the result has no column `{0}`")]
    NoColumn(String),
    /// A value is of another type than was asked for.
    #[error("the column `{0}` holds {1}")]
    Type(String, &'static str),
}

impl From<database::Error> for Error {
    fn from(error: database::Error) -> Self {
        match error {
            database::Error::NotGranted(message) => Self::NotGranted(message),
            database::Error::ReadOnly => Self::ReadOnly,
            database::Error::Refused(message) => Self::Refused(message),
            database::Error::Timeout => Self::Timeout,
            database::Error::TooLarge(message) => Self::TooLarge(message),
            database::Error::Full => Self::Full,
            database::Error::Busy => Self::Busy,
            database::Error::Other(message) => Self::Other(message),
        }
    }
}

/// A database that the function was granted.
#[derive(Debug)]
pub struct Database(database::Connection);

/// Begun with [`Database::begin`]; others cannot write meanwhile. It is rolled back unless it is committed.
#[derive(Debug)]
pub struct Transaction(database::Transaction);

/// Rows that are read as they are needed.
#[derive(Debug)]
pub struct Cursor {
    cursor: database::Cursor,
    columns: Vec<String>,
}

/// What a statement came to.
#[derive(Debug, Clone)]
pub struct Rows {
    /// The names of the columns.
    pub columns: Vec<String>,
    /// The values, row by row.
    pub rows: Vec<Vec<Value>>,
    /// Rows that were inserted, changed or deleted.
    pub changes: u64,
    /// The row id of the last one that was inserted.
    pub last_insert_rowid: i64,
}

/// One row of a result.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    columns: &'a [String],
    values: &'a [Value],
}

impl Database {
    /// Opens a database by its name in the manifest, or `APP/DATABASE` for one that another app shares.
    pub fn open(name: &str) -> Result<Self, Error> {
        Ok(Self(database::Connection::open(name)?))
    }

    /// Runs one statement: `database.run("SELECT * FROM boat WHERE id = ?1", (7,))`.
    pub fn run(&self, sql: &str, params: impl Params) -> Result<Rows, Error> {
        Ok(self.0.run(&statement(sql, params))?.into())
    }

    /// Runs one statement whose rows are read as they are needed.
    pub fn query(&self, sql: &str, params: impl Params) -> Result<Cursor, Error> {
        let cursor = self.0.query(&statement(sql, params))?;
        let columns = cursor.columns();
        Ok(Cursor { cursor, columns })
    }

    /// Runs statements in one transaction: all or none.
    pub fn batch(&self, statements: impl IntoIterator<Item = (String, Vec<Value>)>) -> Result<Vec<Rows>, Error> {
        let statements: Vec<_> =
            statements.into_iter().map(|(sql, params)| database::Statement { sql, params }).collect();
        Ok(self.0.batch(&statements)?.into_iter().map(Into::into).collect())
    }

    /// Runs a script of statements in one transaction; returns how many they were.
    pub fn script(&self, sql: &str) -> Result<u64, Error> {
        Ok(self.0.script(sql)?)
    }

    /// Begins a transaction.
    pub fn begin(&self) -> Result<Transaction, Error> {
        Ok(Transaction(self.0.begin()?))
    }
}

impl Transaction {
    /// Runs one statement in the transaction.
    pub fn run(&self, sql: &str, params: impl Params) -> Result<Rows, Error> {
        Ok(self.0.run(&statement(sql, params))?.into())
    }

    /// Keeps what was written.
    pub fn commit(self) -> Result<(), Error> {
        Ok(database::Transaction::commit(self.0)?)
    }

    /// Keeps nothing of what was written.
    pub fn rollback(self) -> Result<(), Error> {
        Ok(database::Transaction::rollback(self.0)?)
    }
}

impl Cursor {
    /// The names of the columns.
    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    /// The next rows, at most so many; none at the end.
    pub fn next(&mut self, most: u32) -> Result<Rows, Error> {
        let rows = self.cursor.next(most)?;
        Ok(Rows { columns: self.columns.clone(), rows, changes: 0, last_insert_rowid: 0 })
    }
}

impl From<database::Rows> for Rows {
    fn from(rows: database::Rows) -> Self {
        let database::Rows { columns, rows, changes, last_insert_rowid } = rows;
        Self { columns, rows, changes, last_insert_rowid }
    }
}

impl Rows {
    /// The rows.
    pub fn iter(&self) -> impl Iterator<Item = Row<'_>> {
        self.rows.iter().map(|values| Row { columns: &self.columns, values })
    }

    /// The first row, if there is one.
    pub fn first(&self) -> Option<Row<'_>> {
        self.iter().next()
    }
}

impl Row<'_> {
    /// The value of a column.
    pub fn get<T: FromValue>(&self, column: &str) -> Result<T, Error> {
        let index = self.columns.iter().position(|name| name == column);
        let value = index.and_then(|index| self.values.get(index)).ok_or_else(|| Error::NoColumn(column.to_owned()))?;
        T::from_value(value).ok_or_else(|| Error::Type(column.to_owned(), kind(value)))
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Integer(_) => "an integer",
        Value::Real(_) => "a real number",
        Value::Text(_) => "text",
        Value::Blob(_) => "bytes",
    }
}

fn statement(sql: &str, params: impl Params) -> database::Statement {
    database::Statement { sql: sql.to_owned(), params: params.values() }
}

/// What a value of SQL can be read as.
pub trait FromValue: Sized {
    /// `None`: the value is of another type.
    fn from_value(value: &Value) -> Option<Self>;
}

macro_rules! from_value {
    ($type:ty, $pattern:pat => $read:expr) => {
        impl FromValue for $type {
            fn from_value(value: &Value) -> Option<Self> {
                match value {
                    $pattern => $read,
                    _ => None,
                }
            }
        }
    };
}

from_value!(i64, Value::Integer(number) => Some(*number));
from_value!(u64, Value::Integer(number) => u64::try_from(*number).ok());
from_value!(i32, Value::Integer(number) => i32::try_from(*number).ok());
from_value!(u32, Value::Integer(number) => u32::try_from(*number).ok());
from_value!(bool, Value::Integer(number @ (0 | 1)) => Some(*number == 1));
from_value!(String, Value::Text(text) => Some(text.clone()));
from_value!(Vec<u8>, Value::Blob(bytes) => Some(bytes.clone()));

impl FromValue for f64 {
    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Real(number) => Some(*number),
            // Exact up to 2^53, like all whole numbers in a double.
            Value::Integer(number) => Some(*number as f64),
            _ => None,
        }
    }
}

impl FromValue for Value {
    fn from_value(value: &Value) -> Option<Self> {
        Some(value.clone())
    }
}

impl<T: FromValue> FromValue for Option<T> {
    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Null => Some(None),
            value => T::from_value(value).map(Some),
        }
    }
}

macro_rules! into_value {
    ($type:ty, $value:ident => $made:expr) => {
        impl From<$type> for Value {
            fn from($value: $type) -> Self {
                $made
            }
        }
    };
}

into_value!(i64, value => Self::Integer(value));
into_value!(i32, value => Self::Integer(value.into()));
into_value!(u32, value => Self::Integer(value.into()));
into_value!(bool, value => Self::Integer(value.into()));
into_value!(f64, value => Self::Real(value));
into_value!(&str, value => Self::Text(value.to_owned()));
into_value!(String, value => Self::Text(value));
into_value!(&[u8], value => Self::Blob(value.to_vec()));
into_value!(Vec<u8>, value => Self::Blob(value));

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

/// The parameters of a statement: `()`, a tuple, or a `Vec<Value>`.
pub trait Params {
    /// In the order of their numbers.
    fn values(self) -> Vec<Value>;
}

impl Params for () {
    fn values(self) -> Vec<Value> {
        Vec::new()
    }
}

impl Params for Vec<Value> {
    fn values(self) -> Vec<Value> {
        self
    }
}

macro_rules! params {
    ($($name:ident),+) => {
        impl<$($name: Into<Value>),+> Params for ($($name,)+) {
            fn values(self) -> Vec<Value> {
                #[allow(non_snake_case)]
                let ($($name,)+) = self;
                vec![$($name.into()),+]
            }
        }
    };
}

params!(A);
params!(A, B);
params!(A, B, C);
params!(A, B, C, D);
params!(A, B, C, D, E);
params!(A, B, C, D, E, F);
params!(A, B, C, D, E, F, G);
params!(A, B, C, D, E, F, G, H);
