//! The codes of docs/errors.md for what the services in the store refuse: the same for the control API and for functions that
//! speak HTTP with the node.

use minnow_model::Code;
use minnow_store::{BucketError, KvError, LockError, SqlError, StoreError, TopicError};

/// Of what lies beneath all kinds of stores.
pub fn of_store(error: &StoreError) -> Code {
    match error {
        StoreError::TooLarge { .. } => Code::TooLarge,
        StoreError::DigestMismatch { .. } => Code::DigestMismatch,
        StoreError::Full => Code::StorageFull,
        StoreError::TooManyOpen { .. } | StoreError::BeingDeleted => Code::Conflict,
        _ => Code::Internal,
    }
}

pub fn of_kv(error: &KvError) -> Code {
    match error {
        KvError::ValueTooLarge { .. } | KvError::BatchTooLarge => Code::TooLarge,
        KvError::Full | KvError::DiskFull => Code::StorageFull,
        KvError::Corrupt { .. } => Code::StoreDamaged,
        KvError::Store(error) => of_store(error),
        error if error.is_refusal() => Code::Invalid,
        _ => Code::Internal,
    }
}

pub fn of_bucket(error: &BucketError) -> Code {
    match error {
        BucketError::TooLarge => Code::TooLarge,
        BucketError::Full { .. } | BucketError::DiskFull => Code::StorageFull,
        BucketError::Busy { .. } | BucketError::Changing { .. } | BucketError::Gone => Code::Conflict,
        BucketError::Corrupt { .. } => Code::StoreDamaged,
        BucketError::Store(error) => of_store(error),
        error if error.is_refusal() => Code::Invalid,
        _ => Code::Internal,
    }
}

pub fn of_sql(error: &SqlError) -> Code {
    match error {
        SqlError::Refused(_)
        | SqlError::Constraint(_)
        | SqlError::Timeout
        | SqlError::ReadOnly
        | SqlError::Migration { .. } => Code::Invalid,
        SqlError::TooLarge(_) => Code::TooLarge,
        SqlError::Full | SqlError::DiskFull => Code::StorageFull,
        SqlError::Busy | SqlError::TooManyOpen { .. } | SqlError::BeingDeleted | SqlError::Ended(_) => Code::Conflict,
        SqlError::Stopped => Code::ShuttingDown,
        SqlError::Corrupt { .. } => Code::StoreDamaged,
        SqlError::Store(_) => Code::Internal,
    }
}

pub fn of_lock(error: &LockError) -> Code {
    match error {
        LockError::Name(_) | LockError::Lease(_) => Code::Invalid,
        LockError::TooManyHeld | LockError::TooManyWaiting => Code::Conflict,
        LockError::Store(error) => of_store(error),
    }
}

pub fn of_topic(error: &TopicError) -> Code {
    match error {
        TopicError::Event(_) => Code::InvalidEvent,
        TopicError::Full(_) => Code::StorageFull,
        TopicError::NoConsumer(_) | TopicError::NoSuchMessage(_) => Code::NotFound,
        TopicError::Busy | TopicError::Unavailable(_) => Code::BrokerUnavailable,
        TopicError::Corrupt { .. } => Code::StoreDamaged,
        TopicError::Store(error) => of_store(error),
        error if error.is_refusal() => Code::Invalid,
        _ => Code::Internal,
    }
}
