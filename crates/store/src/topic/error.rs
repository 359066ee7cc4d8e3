//! Why a topic did not do what it was asked to, as a function or its developer can act on it.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    time::Duration,
};

use minnow_model::{
    FunctionName,
    event::{EventError, MAX_DELAY},
};

use super::MAX_PAGE;
use crate::StoreError;

#[derive(Debug, thiserror::Error)]
pub enum TopicError {
    #[error(transparent)]
    Event(#[from] EventError),
    #[error(
        "a delay of {} s, the most is {} s; keep what is to happen later in a store, and look there by a schedule",
        .0.as_secs(),
        MAX_DELAY.as_secs()
    )]
    Delay(Duration),
    #[error("a page of {0}; ask for 1 to {MAX_PAGE}, and for more after the last one")]
    Limit(u32),
    /// Nothing was taken.
    #[error("the topic is full: {0}")]
    Full(Bound),
    #[error("the function `{0}` does not follow the topic; name one that `minnow topic info` shows")]
    NoConsumer(FunctionName),
    #[error("there is no dead letter {0}; `minnow topic dead list` shows those that there are")]
    NoSuchMessage(u64),
    /// As many topics as may be open are in use at this moment, or what was asked for has another user.
    #[error("the topic is busy at this moment; try again")]
    Busy,
    #[error("the topic cannot be reached: {0}; try again")]
    Unavailable(String),
    #[error(
        "the topic {path} is damaged ({detail}); restore it from a backup, or delete it. No other topic is affected",
        path = path.display()
    )]
    Corrupt { path: PathBuf, detail: String },
    /// The node's trouble, not the caller's.
    #[error(transparent)]
    Store(StoreError),
}

/// What a topic may not go beyond.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// `max_size` of the topic, in bytes.
    Bytes(u64),
    /// `max_messages` of the topic.
    Messages(u64),
    /// The disk, or what the file may take.
    Disk,
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let remedy = "let its functions catch up, raise it, or set `when_full = \"drop-oldest\"`";
        match self {
            Self::Bytes(bytes) => write!(f, "it holds as much as its `max_size` of {bytes} bytes allows; {remedy}"),
            Self::Messages(messages) => write!(f, "it holds its `max_messages` of {messages}; {remedy}"),
            Self::Disk => f.write_str(
                "no space is left in its file or on the disk; drop dead letters with `minnow topic dead drop`, or free some space on the disk, and try again",
            ),
        }
    }
}

impl TopicError {
    /// Whether the message is about the request alone, and can be shown to the function as it is. The others name files of the node.
    pub fn is_refusal(&self) -> bool {
        match self {
            // Others' writes or topics were in the way, or the node stops; nothing was changed.
            Self::Store(
                StoreError::Aborted | StoreError::TooManyOpen { .. } | StoreError::BeingDeleted | StoreError::Stopped,
            ) => true,
            Self::Corrupt { .. } | Self::Store(_) => false,
            _ => true,
        }
    }

    /// Names the topic's file.
    pub(super) fn at(self, path: &Path) -> Self {
        match self {
            Self::Corrupt { detail, .. } => Self::Corrupt { path: path.to_owned(), detail },
            Self::Store(StoreError::Database(source)) => {
                Self::Store(StoreError::Io { path: path.to_owned(), source: io::Error::other(source) })
            }
            error => error,
        }
    }
}

impl From<StoreError> for TopicError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Full => Self::Full(Bound::Disk),
            StoreError::TooManyOpen { .. } => Self::Busy,
            StoreError::Corrupt { path, detail } => Self::Corrupt { path, detail },
            error => Self::Store(error),
        }
    }
}

impl From<rusqlite::Error> for TopicError {
    fn from(error: rusqlite::Error) -> Self {
        StoreError::from(error).into()
    }
}
