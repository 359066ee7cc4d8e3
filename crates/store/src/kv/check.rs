//! The bounds of keys, values and batches.

use super::{KvError, Write};

/// Long enough for a URL or a path. Redis and Workers KV allow 512 MiB and 512 bytes.
pub const MAX_KEY_BYTES: usize = 2048;
/// What Workers KV allows.
pub const MAX_VALUE_BYTES: usize = 25 << 20;
/// What Workers KV allows. A page of keys has metadata of 1 MiB at most.
pub const MAX_METADATA_BYTES: usize = 1024;
/// Keys in one batch. Thousand small writes take about 5 ms, for which the other writes of the store wait.
pub const MAX_BATCH: usize = 1000;
/// All values in one batch, of writes or of reads. Twice the largest value and some more: a batch is in memory as a whole.
pub const MAX_BATCH_BYTES: usize = 64 << 20;
/// Keys in one page, as many as Workers KV gives. They are read on a thread that serves others: about a millisecond.
pub const MAX_PAGE: u32 = 1000;

pub(super) fn key(key: &str) -> Result<(), KvError> {
    match key.len() {
        0 => Err(KvError::EmptyKey),
        1..=MAX_KEY_BYTES => Ok(()),
        bytes => Err(KvError::KeyTooLong { bytes }),
    }
}

pub(super) fn keys(keys: &[String]) -> Result<(), KvError> {
    if keys.len() > MAX_BATCH {
        return Err(KvError::BatchTooLong(keys.len()));
    }
    keys.iter().try_for_each(|one| key(one))
}

/// A prefix or cursor may be empty, but no longer than a key.
pub(super) fn page(prefix: &str, after: Option<&str>, limit: u32) -> Result<(), KvError> {
    for text in [prefix, after.unwrap_or_default()] {
        if text.len() > MAX_KEY_BYTES {
            return Err(KvError::KeyTooLong { bytes: text.len() });
        }
    }
    if limit == 0 || limit > MAX_PAGE {
        return Err(KvError::Limit(limit));
    }
    Ok(())
}

pub(super) fn writes(writes: &[Write]) -> Result<(), KvError> {
    if writes.len() > MAX_BATCH {
        return Err(KvError::BatchTooLong(writes.len()));
    }
    let mut batch_bytes = 0;
    for write in writes {
        key(write.key())?;
        let Write::Set { key, value, metadata, .. } = write else { continue };
        if value.len() > MAX_VALUE_BYTES {
            return Err(KvError::ValueTooLarge { key: key.clone(), bytes: value.len() });
        }
        let metadata_bytes = metadata.as_ref().map_or(0, String::len);
        if metadata_bytes > MAX_METADATA_BYTES {
            return Err(KvError::MetadataTooLarge { key: key.clone(), bytes: metadata_bytes });
        }
        batch_bytes += value.len();
    }
    if batch_bytes > MAX_BATCH_BYTES { Err(KvError::BatchTooLarge) } else { Ok(()) }
}
