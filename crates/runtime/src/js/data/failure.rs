//! What a function is told instead of an answer: a code that says why, and a sentence.

use minnow_model::StoreKind;
use minnow_store::{
    StoreError,
    bucket::BucketError,
    kv::KvError,
    lock::LockError,
    sql::SqlError,
    volume::paths::{FileCode, FileError},
};
use serde::Serialize;

use super::frame::MAX_FRAME_BYTES;
use crate::data::{Denied, signed::SignError, told};

/// Why a call has failed, as `error.code` of a `StoreError`. docs/data.md and sdk/js/minnow.d.ts list them; those of the
/// connection itself are made in `bootstrap/data.js`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Code {
    /// Not granted, or not shared any more.
    Denied,
    /// Granted with `:ro`.
    ReadOnly,
    /// The store cannot take what it was given, whatever is in it.
    BadArgument,
    /// More bytes, keys or rows than one call may have.
    TooLarge,
    /// As many locks, uploads or open blobs as there may be.
    TooMany,
    /// The store has its size, or the disk is full.
    Full,
    /// The statement ran for too long.
    Timeout,
    /// Others are in the way; it may work the next time.
    Busy,
    /// There is no blob to copy.
    NotFound,
    /// The range is beyond the end of the blob.
    Range,
    /// What is in the store does not allow it.
    Conflict,
    /// A constraint of SQL does not hold.
    Constraint,
    /// SQLite refuses the statement.
    Statement,
    /// The invocation that it belonged to is over.
    Ended,
    /// What keeps the topics cannot be reached.
    Unavailable,
    /// The store is damaged.
    Corrupt,
    /// The node's trouble.
    Failed,
    /// A volume that is granted with `:ro`: as node says it of a disk.
    #[serde(rename = "EROFS")]
    ReadOnlyVolume,
    /// Of a volume: as node says it.
    #[serde(untagged, serialize_with = "as_node_says")]
    File(FileCode),
}

fn as_node_says<S: serde::Serializer>(code: &FileCode, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(code.as_str())
}

#[derive(Debug)]
pub(super) struct Failure {
    pub(super) code: Code,
    pub(super) message: String,
}

impl Failure {
    pub(super) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// The bootstrap makes no such call.
    pub(super) fn malformed() -> Self {
        Self::new(Code::Failed, "the node cannot read the call")
    }

    pub(super) fn ended() -> Self {
        Self::new(
            Code::Ended,
            "the invocation has ended, and with it its locks, its uploads and the blobs that it was reading",
        )
    }

    pub(super) fn answer_too_large() -> Self {
        let message = format!(
            "the answer has more than {MAX_FRAME_BYTES} bytes on its way to the function; ask for less at once"
        );
        Self::new(Code::TooLarge, message)
    }
}

impl From<Denied> for Failure {
    fn from(denied: Denied) -> Self {
        let code = match denied {
            Denied::ReadOnly { kind: StoreKind::Files, .. } => Code::ReadOnlyVolume,
            Denied::ReadOnly { .. } => Code::ReadOnly,
            Denied::NotGranted { .. } | Denied::Withdrawn { .. } | Denied::NoLocks(_) => Code::Denied,
        };
        Self::new(code, denied.to_string())
    }
}

/// Of what lies beneath all kinds of stores.
pub(super) fn code_of(error: &StoreError) -> Code {
    match error {
        StoreError::Full => Code::Full,
        StoreError::TooLarge { .. } => Code::TooLarge,
        StoreError::Corrupt { .. } => Code::Corrupt,
        StoreError::Aborted | StoreError::TooManyOpen { .. } | StoreError::BeingDeleted | StoreError::Stopped => {
            Code::Busy
        }
        _ => Code::Failed,
    }
}

impl From<KvError> for Failure {
    fn from(error: KvError) -> Self {
        let code = match &error {
            KvError::EmptyKey | KvError::Limit(_) => Code::BadArgument,
            KvError::KeyTooLong { .. }
            | KvError::ValueTooLarge { .. }
            | KvError::MetadataTooLarge { .. }
            | KvError::BatchTooLong(_)
            | KvError::BatchTooLarge => Code::TooLarge,
            KvError::NotAnInteger { .. } | KvError::Overflow { .. } => Code::Conflict,
            KvError::Full | KvError::DiskFull => Code::Full,
            KvError::Corrupt { .. } => Code::Corrupt,
            KvError::Store(error) => code_of(error),
        };
        Self::new(code, told(&error, error.is_refusal()))
    }
}

impl From<SqlError> for Failure {
    fn from(error: SqlError) -> Self {
        let code = match &error {
            SqlError::Refused(_) | SqlError::Migration { .. } => Code::Statement,
            SqlError::Constraint(_) => Code::Constraint,
            SqlError::Timeout => Code::Timeout,
            SqlError::TooLarge(_) => Code::TooLarge,
            SqlError::Full | SqlError::DiskFull => Code::Full,
            SqlError::Busy | SqlError::TooManyOpen { .. } | SqlError::BeingDeleted | SqlError::Stopped => Code::Busy,
            SqlError::ReadOnly => Code::ReadOnly,
            SqlError::Ended(_) => Code::Ended,
            SqlError::Corrupt { .. } => Code::Corrupt,
            SqlError::Store(_) => Code::Failed,
        };
        Self::new(code, told(&error, error.is_refusal()))
    }
}

impl From<LockError> for Failure {
    fn from(error: LockError) -> Self {
        let code = match &error {
            LockError::Name(_) | LockError::Lease(_) => Code::BadArgument,
            LockError::TooManyHeld | LockError::TooManyWaiting => Code::TooMany,
            LockError::Store(error) => code_of(error),
        };
        Self::new(code, told(&error, error.is_refusal()))
    }
}

impl From<BucketError> for Failure {
    fn from(error: BucketError) -> Self {
        let code = match &error {
            BucketError::BadKey(_) | BucketError::BadMeta(_) | BucketError::Limit(_) => Code::BadArgument,
            BucketError::TooMany(_) | BucketError::TooLarge => Code::TooLarge,
            BucketError::Full { .. } | BucketError::DiskFull => Code::Full,
            BucketError::Range { .. } => Code::Range,
            BucketError::NoSource { .. } => Code::NotFound,
            BucketError::Busy { .. } => Code::TooMany,
            BucketError::Changing { .. } => Code::Busy,
            BucketError::Gone | BucketError::Failed => Code::Ended,
            BucketError::Corrupt { .. } => Code::Corrupt,
            BucketError::Store(error) => code_of(error),
        };
        Self::new(code, told(&error, error.is_refusal()))
    }
}

impl From<SignError> for Failure {
    fn from(error: SignError) -> Self {
        let code = if error.is_refusal() { Code::BadArgument } else { Code::Failed };
        Self::new(code, told(&error, error.is_refusal()))
    }
}

impl From<FileError> for Failure {
    fn from(error: FileError) -> Self {
        Self::new(Code::File(error.code), told(&error, error.is_refusal()))
    }
}
