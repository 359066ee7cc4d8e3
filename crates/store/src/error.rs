//! What can go wrong in the store, as a caller can act on it.

use std::{
    io,
    path::{Path, PathBuf},
};

use minnow_model::Digest;
use rusqlite::ErrorCode;

use crate::full::tell_full_disk;

/// Why the store could not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk (or the user's quota on it) is full. Nothing was changed.
    #[error("no space is left on the disk of the data directory; free some and try again")]
    Full,
    #[error("the content is larger than the {max_bytes} bytes allowed")]
    TooLarge { max_bytes: u64 },
    #[error("the content is {actual}, not {expected}; it arrived damaged or under a wrong digest")]
    DigestMismatch { expected: Digest, actual: Digest },
    /// The node's own state cannot be trusted any more.
    #[error("the database {path} is damaged ({detail}); stop the node and restore the data directory from a backup")]
    Corrupt { path: PathBuf, detail: String },
    #[error("the database has schema {found}, this node knows up to {known}; start the newer version of minnow again")]
    NewerSchema { found: usize, known: usize },
    #[error("the database failed")]
    Database(#[source] rusqlite::Error),
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    /// A write that shared its commit with this one met a full or failing disk. Nothing was changed.
    #[error("the disk failed or is full; nothing was changed, try again")]
    Aborted,
    #[error("the database has stopped")]
    Stopped,
    /// As many stores of a service as may be open are in use at this moment.
    #[error("all {max} stores that may be open at once are in use; try again, or use fewer stores at the same time")]
    TooManyOpen { max: usize },
    /// The deletion of an app waited for a call or transaction that does not end.
    #[error("the store {path} is still in use, nothing was deleted; end the transaction that uses it and try again")]
    InUse { path: PathBuf },
    #[error("the stores of this app are being deleted; try again when that is done")]
    BeingDeleted,
}

impl StoreError {
    /// An I/O error at `path`; a full disk becomes [`StoreError::Full`], and the log tells of it.
    pub fn io(path: &Path, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                tell_full_disk();
                Self::Full
            }
            _ => Self::Io { path: path.to_owned(), source },
        }
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::Full,
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                Self::Corrupt { path: "minnow.db".into(), detail: error.to_string() }
            }
            _ => Self::Database(error),
        }
    }
}
