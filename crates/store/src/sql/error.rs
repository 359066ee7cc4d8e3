//! What can go wrong with a statement, in the words of whoever wrote it.

use std::path::PathBuf;

use rusqlite::{ErrorCode, ffi};

use super::value::{MAX_BATCH, MAX_SCRIPT_BYTES, MAX_STATEMENT_BYTES, MAX_VALUE_BYTES};
use crate::{
    StoreError,
    full::{disk_is_full, tell_full_disk},
};

/// Why a statement failed. What a function may see is the text of every variant but `Corrupt` and `Store`: those are for the operator.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SqlError {
    /// The statement is wrong or not allowed: SQLite's message, with line and column where it tells them.
    #[error("{0}")]
    Refused(String),
    /// A constraint of the tables does not hold, or a trigger said no. Nothing was changed.
    #[error("{0}")]
    Constraint(String),
    #[error("the statement ran for longer than allowed and was stopped; add an index, or do less in one statement")]
    Timeout,
    #[error("{0}")]
    TooLarge(String),
    /// Nothing was changed.
    #[error("the database has reached its size limit; delete something and try again")]
    Full,
    /// Nothing was changed.
    #[error("no space is left on the disk of the node; free some and try again")]
    DiskFull,
    /// The store did not come to this call in its time. Nothing was changed.
    #[error("the database is busy: other statements or an open transaction held it for too long; try again")]
    Busy,
    /// As many databases as may be open are in use at this moment. Nothing was changed.
    #[error("{}", StoreError::TooManyOpen { max: *max })]
    TooManyOpen { max: usize },
    /// The app is being deleted. Nothing was changed.
    #[error("{}", StoreError::BeingDeleted)]
    BeingDeleted,
    #[error(
        "the statement changes the database, which may only be read here: its grant ends in `:ro`, or the call asks for reading only"
    )]
    ReadOnly,
    /// The transaction that this statement belongs to is gone.
    #[error("the transaction has ended and was rolled back: {0}")]
    Ended(String),
    #[error("migration {name}, line {line}, column {column}: {message}")]
    Migration { name: String, line: usize, column: usize, message: String },
    #[error("the database {path} is damaged ({detail}); restore it from a backup")]
    Corrupt { path: PathBuf, detail: String },
    /// A failing disk and the like: [`StoreError`] as text.
    #[error("{0}")]
    Store(String),
    #[error("the database has stopped")]
    Stopped,
}

impl SqlError {
    /// Whether the message is about the statement alone, and can be shown to the function as it is.
    pub fn is_refusal(&self) -> bool {
        !matches!(self, Self::Corrupt { .. } | Self::Store(_))
    }

    pub(super) fn result_too_large(max_bytes: usize) -> Self {
        Self::TooLarge(format!(
            "the result is larger than the {max_bytes} bytes that one call may return; select less, or read it in pieces with `query`"
        ))
    }

    pub(super) fn statement_too_long() -> Self {
        Self::TooLarge(format!(
            "the statement is longer than {MAX_STATEMENT_BYTES} bytes; pass large values as parameters"
        ))
    }

    pub(super) fn script_too_long() -> Self {
        Self::TooLarge(format!("the script is longer than {MAX_SCRIPT_BYTES} bytes; send it in pieces"))
    }

    pub(super) fn batch_too_long() -> Self {
        Self::TooLarge(format!("the batch has more than {MAX_BATCH} statements; send it in pieces"))
    }
}

impl From<StoreError> for SqlError {
    fn from(error: StoreError) -> Self {
        match error {
            // Of a store that is opened or made; one that is open says which it is.
            StoreError::Full => Self::DiskFull,
            StoreError::Corrupt { path, detail } => Self::Corrupt { path, detail },
            StoreError::TooManyOpen { max } => Self::TooManyOpen { max },
            StoreError::BeingDeleted => Self::BeingDeleted,
            StoreError::Stopped => Self::Stopped,
            StoreError::Database(source) => Self::Store(format!("the database failed: {source}")),
            error => Self::Store(error.to_string()),
        }
    }
}

/// What SQLite answered, and what it does not know: where, and which bound it met.
pub(super) struct Failed<'a> {
    pub(super) error: rusqlite::Error,
    /// Why the authorizer said no.
    pub(super) denied: Option<String>,
    /// The statement met the bound on its memory.
    pub(super) memory: Option<usize>,
    pub(super) path: &'a std::path::Path,
}

impl From<Failed<'_>> for SqlError {
    fn from(failed: Failed<'_>) -> Self {
        let Failed { error, denied, memory, path } = failed;
        let text = match &error {
            rusqlite::Error::SqlInputError { msg, offset, sql, .. } => {
                let (line, column) = position(sql, usize::try_from(*offset).unwrap_or(0));
                format!("{msg} (line {line}, column {column})")
            }
            rusqlite::Error::SqliteFailure(_, Some(text)) => text.clone(),
            rusqlite::Error::MultipleStatement => {
                "there is more than one statement; use `batch` or a script for several".into()
            }
            error => error.to_string(),
        };
        match error.sqlite_error_code() {
            Some(ErrorCode::AuthorizationForStatementDenied) => Self::Refused(match denied {
                Some(what) => what,
                None => "the statement does something that is not allowed here".into(),
            }),
            // `CREATE VIRTUAL TABLE` and the pragma tables wrap the refusal into an error of their own.
            Some(ErrorCode::Unknown) if denied.is_some() => Self::Refused(denied.unwrap_or(text)),
            // What rusqlite makes of a blank or a comment.
            Some(ErrorCode::ApiMisuse) => Self::Refused("the text holds no statement".into()),
            Some(ErrorCode::OperationInterrupted) => Self::Timeout,
            Some(ErrorCode::OutOfMemory) => match memory {
                Some(bytes) => Self::TooLarge(format!(
                    "the statement needs more memory than the {bytes} bytes allowed, or others use too much now; sort and \
                     group by what has an index, or select less"
                )),
                None => Self::Store("the node has no memory left".into()),
            },
            Some(ErrorCode::TooBig) => Self::TooLarge(format!(
                "a text, a blob or a row is larger than the {MAX_VALUE_BYTES} bytes allowed ({text})"
            )),
            Some(ErrorCode::DiskFull) if disk_is_full(path) => {
                tell_full_disk();
                Self::DiskFull
            }
            Some(ErrorCode::DiskFull) => Self::Full,
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Busy,
            Some(ErrorCode::ReadOnly) => Self::ReadOnly,
            // A virtual table that was told other content than its index was made of. The file is whole.
            Some(ErrorCode::DatabaseCorrupt) if extended(&error) == Some(ffi::SQLITE_CORRUPT_VTAB) => Self::Refused(
                "a full-text or R-tree index does not match its content; `INSERT INTO t(t) VALUES ('rebuild')` makes it anew"
                    .into(),
            ),
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                Self::Corrupt { path: path.to_owned(), detail: text }
            }
            Some(ErrorCode::SystemIoFailure | ErrorCode::CannotOpen | ErrorCode::NoLargeFileSupport) => {
                Self::Store(format!("{}: {text}", path.display()))
            }
            Some(ErrorCode::ConstraintViolation) => Self::Constraint(text),
            _ => Self::Refused(text),
        }
    }
}

fn extended(error: &rusqlite::Error) -> Option<std::ffi::c_int> {
    error.sqlite_error().map(|error| error.extended_code)
}

/// Line and column, from 1 and in characters, of a byte offset.
pub(super) fn position(sql: &str, offset: usize) -> (usize, usize) {
    let before = sql.as_bytes().get(..offset).unwrap_or(sql.as_bytes());
    let before = String::from_utf8_lossy(before);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    (line, column)
}
