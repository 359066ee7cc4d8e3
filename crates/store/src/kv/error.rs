//! Why a store did not do what it was asked to, as a function or its developer can act on it.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::{MAX_BATCH, MAX_BATCH_BYTES, MAX_KEY_BYTES, MAX_METADATA_BYTES, MAX_PAGE, MAX_VALUE_BYTES};
use crate::{
    StoreError,
    full::{disk_is_full, tell_full_disk},
};

#[derive(Debug, thiserror::Error)]
pub enum KvError {
    #[error("a key is empty; it needs at least one character")]
    EmptyKey,
    #[error("a key has {bytes} bytes, the most is {MAX_KEY_BYTES}; shorten it, or use its hash")]
    KeyTooLong { bytes: usize },
    #[error("the value for `{key}` has {bytes} bytes, the most is {MAX_VALUE_BYTES}; divide it among several keys")]
    ValueTooLarge { key: String, bytes: usize },
    #[error("the metadata for `{key}` has {bytes} bytes, the most is {MAX_METADATA_BYTES}; move it into the value")]
    MetadataTooLarge { key: String, bytes: usize },
    #[error("{0} keys at once, the most is {MAX_BATCH}; use several calls")]
    BatchTooLong(usize),
    #[error("values of more than {MAX_BATCH_BYTES} bytes at once; use several calls with fewer keys")]
    BatchTooLarge,
    #[error("a page of {0} keys; ask for 1 to {MAX_PAGE}, and for more with the cursor")]
    Limit(u32),
    #[error("the value of `{key}` is not a decimal integer of 64 bits; set it to one before you increment it")]
    NotAnInteger { key: String },
    #[error("incrementing `{key}` would leave the range of 64 bits; set it to a smaller number")]
    Overflow { key: String },
    /// Nothing was changed.
    #[error("the store has reached its size; delete keys and try again")]
    Full,
    /// Nothing was changed.
    #[error("no space is left on the disk of the node; free some and try again")]
    DiskFull,
    #[error(
        "the store {path} is damaged ({detail}); restore it from a backup, or delete it. No other store is affected",
        path = path.display()
    )]
    Corrupt { path: PathBuf, detail: String },
    /// The node's trouble, not the caller's.
    #[error(transparent)]
    Store(StoreError),
}

impl KvError {
    /// Whether the message is about the request alone, and can be shown to the function as it is. The others name files of the node.
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

    /// Names the store's file, and says whether it or the disk is full.
    pub(super) fn at(self, path: &Path) -> Self {
        match self {
            Self::Full if disk_is_full(path) => {
                tell_full_disk();
                Self::DiskFull
            }
            Self::Corrupt { detail, .. } => Self::Corrupt { path: path.to_owned(), detail },
            Self::Store(StoreError::Database(source)) => {
                Self::Store(StoreError::Io { path: path.to_owned(), source: io::Error::other(source) })
            }
            error => error,
        }
    }
}

impl From<StoreError> for KvError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Full => Self::Full,
            StoreError::Corrupt { path, detail } => Self::Corrupt { path, detail },
            error => Self::Store(error),
        }
    }
}

impl From<rusqlite::Error> for KvError {
    fn from(error: rusqlite::Error) -> Self {
        StoreError::from(error).into()
    }
}
