//! The bounds of keys, metadata, pages and ranges; pure.

use super::{Blob, BucketError, Conditions, Meta, Range};

/// What S3 and R2 allow.
pub const MAX_KEY_BYTES: usize = 1024;
/// What S3 takes in one upload, and R2 nearly: 5 GiB.
pub const MAX_BLOB_BYTES: u64 = 5 << 30;
/// All custom metadata of a blob, names and values: R2's 8 KiB.
pub const MAX_METADATA_BYTES: usize = 8 << 10;
/// One value that becomes a header, in bytes. Servers and proxies take 8 KiB for all headers together.
pub const MAX_HEADER_BYTES: usize = 1 << 10;
/// Blobs and prefixes in one page: as S3 and R2.
pub const MAX_PAGE: u32 = 1000;
/// Keys in one deletion: as S3 and R2.
pub const MAX_DELETE: usize = 1000;

pub(super) fn key(key: &str) -> Result<(), BucketError> {
    match key.len() {
        0 => Err(BucketError::BadKey("a key is empty; it needs at least one character".into())),
        1..=MAX_KEY_BYTES => Ok(()),
        bytes => Err(too_long(bytes)),
    }
}

pub(super) fn keys(keys: &[String]) -> Result<(), BucketError> {
    if keys.len() > MAX_DELETE {
        return Err(BucketError::TooMany(keys.len()));
    }
    keys.iter().try_for_each(|one| key(one))
}

/// A prefix or cursor may be empty, but no longer than a key.
pub(super) fn page(prefix: &str, after: Option<&str>, delimiter: Option<&str>, limit: u32) -> Result<(), BucketError> {
    for text in [prefix, after.unwrap_or_default(), delimiter.unwrap_or_default()] {
        if text.len() > MAX_KEY_BYTES {
            return Err(too_long(text.len()));
        }
    }
    if limit == 0 || limit > MAX_PAGE {
        return Err(BucketError::Limit(limit));
    }
    Ok(())
}

fn too_long(bytes: usize) -> BucketError {
    BucketError::BadKey(format!("a key has {bytes} bytes, the most is {MAX_KEY_BYTES}; shorten it, or use its hash"))
}

pub(super) fn meta(meta: &Meta) -> Result<(), BucketError> {
    let bad = |text: String| Err(BucketError::BadMeta(text));
    for (name, value) in meta.headers() {
        if value.len() > MAX_HEADER_BYTES {
            let bytes = value.len();
            return bad(format!("the {name} has {bytes} bytes, the most is {MAX_HEADER_BYTES}; shorten it"));
        }
        // What RFC 9110 lets a field have, without what is not ASCII: clients read that in different ways.
        let valid = value.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\t'));
        if !valid || value.is_empty() || value.trim() != value {
            return bad(format!(
                "the {name} is no value of a header; it needs visible ASCII characters, without spaces around them"
            ));
        }
    }
    if meta.custom.contains_key("") {
        return bad("a name in the custom metadata is empty; it needs at least one character".into());
    }
    let bytes: usize = meta.custom.iter().map(|(name, value)| name.len() + value.len()).sum();
    if bytes > MAX_METADATA_BYTES {
        return bad(format!(
            "the custom metadata has {bytes} bytes, names and values, the most is {MAX_METADATA_BYTES}; move some into the content"
        ));
    }
    Ok(())
}

/// The bytes that a range means of a blob of `size` bytes.
pub(super) fn range(range: Option<Range>, size: u64) -> Result<std::ops::Range<u64>, BucketError> {
    match range {
        None => Ok(0..size),
        // From its beginning, an empty blob is read as all of it.
        Some(Range::From { offset, .. }) if offset >= size && offset > 0 => Err(BucketError::Range { size }),
        Some(Range::From { offset, length }) => {
            Ok(offset..length.map_or(size, |length| offset.saturating_add(length).min(size)))
        }
        Some(Range::Last(0)) => Err(BucketError::Range { size }),
        Some(Range::Last(length)) => Ok(size.saturating_sub(length)..size),
    }
}

impl Conditions {
    /// Whether they hold for what is under a key; the order of precedence is that of RFC 9110, as R2 has it.
    pub fn hold(&self, blob: Option<&Blob>) -> bool {
        let Some(blob) = blob else {
            return self.if_match.is_none() && self.uploaded_after_ms.is_none();
        };
        let names = |etags: &[String]| etags.iter().any(|etag| etag == "*" || *etag == blob.etag);
        let matches = self.if_match.as_deref().is_none_or(names);
        let none_matches = self.if_none_match.as_deref().is_none_or(|etags| !names(etags));
        let after = self.if_none_match.is_some() || self.uploaded_after_ms.is_none_or(|after| blob.uploaded_ms > after);
        let before = self.if_match.is_some() || self.uploaded_before_ms.is_none_or(|before| blob.uploaded_ms < before);
        matches && none_matches && after && before
    }
}
