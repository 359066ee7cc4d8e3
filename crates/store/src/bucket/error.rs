//! Why a bucket did not do what it was asked to, as a function or its developer can act on it.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::{MAX_BLOB_BYTES, MAX_DELETE, MAX_PAGE};
use crate::StoreError;

#[derive(Debug, thiserror::Error)]
pub enum BucketError {
    /// What is wrong with a key, prefix or cursor, and what to do.
    #[error("{0}")]
    BadKey(String),
    /// What is wrong with the metadata, and what to do.
    #[error("{0}")]
    BadMeta(String),
    #[error("a page of {0} blobs; ask for 1 to {MAX_PAGE}, and for more with the cursor")]
    Limit(u32),
    #[error("{0} keys at once, the most is {MAX_DELETE}; use several calls")]
    TooMany(usize),
    /// Nothing was changed.
    #[error("the content is larger than the {MAX_BLOB_BYTES} bytes that a blob may have; divide it among several keys")]
    TooLarge,
    /// Nothing was changed. Keys, metadata and what is being uploaded count, too.
    #[error(
        "the bucket is full: it may have {size_bytes} bytes; delete blobs, or give it a larger `size` in the manifest"
    )]
    Full { size_bytes: u64 },
    /// Nothing was changed.
    #[error("no space is left on the disk of the node; free some and try again")]
    DiskFull,
    #[error("the range begins beyond the end of the blob, which has {size} bytes")]
    Range { size: u64 },
    #[error("there is no blob `{key}` to copy")]
    NoSource { key: String },
    /// Nothing was begun. `what` says which of them, as "uploads are under way".
    #[error("{count} {what} already, as many as may be {place}; end some and try again")]
    Busy { count: usize, what: &'static str, place: &'static str },
    /// Nothing was read.
    #[error("`{key}` is replaced faster than it can be opened; try again")]
    Changing { key: String },
    /// Nothing was kept.
    #[error("the bucket was deleted while the upload went on")]
    Gone,
    /// An earlier write of the upload has failed, and its error was answered then.
    #[error("the upload has failed before; begin it anew")]
    Failed,
    #[error(
        "the bucket {path} is damaged ({detail}); restore it from a backup, or delete it. No other store is affected",
        path = path.display()
    )]
    Corrupt { path: PathBuf, detail: String },
    /// The node's trouble, not the caller's.
    #[error(transparent)]
    Store(StoreError),
}

impl BucketError {
    /// Whether the message is about the request alone, and can be shown to the function as it is. The others name files
    /// of the node.
    pub fn is_refusal(&self) -> bool {
        match self {
            // Others' writes or stores were in the way, or the node stops; nothing was changed.
            Self::Store(
                StoreError::Aborted | StoreError::TooManyOpen { .. } | StoreError::BeingDeleted | StoreError::Stopped,
            ) => true,
            Self::Corrupt { .. } | Self::Store(_) => false,
            _ => true,
        }
    }

    /// Names the bucket's index.
    pub(super) fn at(self, path: &Path) -> Self {
        match self {
            Self::Corrupt { path: found, detail }
                if found.as_os_str() == "minnow.db" || found.as_os_str().is_empty() =>
            {
                Self::Corrupt { path: path.to_owned(), detail }
            }
            Self::Store(StoreError::Database(source)) => {
                Self::Store(StoreError::Io { path: path.to_owned(), source: io::Error::other(source) })
            }
            error => error,
        }
    }

    /// Damage found by ourselves in what the index says.
    pub(super) fn corrupt(detail: impl Into<String>) -> Self {
        Self::Corrupt { path: PathBuf::new(), detail: detail.into() }
    }
}

impl From<StoreError> for BucketError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Full => Self::DiskFull,
            StoreError::Corrupt { path, detail } => Self::Corrupt { path, detail },
            error => Self::Store(error),
        }
    }
}

impl From<rusqlite::Error> for BucketError {
    fn from(error: rusqlite::Error) -> Self {
        StoreError::from(error).into()
    }
}
