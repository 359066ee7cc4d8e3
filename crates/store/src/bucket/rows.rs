//! The index of a bucket, and what is asked of it.

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension as _, Row};

use super::{Blob, BucketError, Conditions, Listed, Meta, objects::FileId};

/// Content up to this many bytes lies in the index itself: to write and sync a file of its own for it would take longer, and
/// such a row still fits a few pages of 4 KiB.
pub const INLINE_BYTES: usize = 16 << 10;

/// What each blob counts in its bucket's size beside content, key and metadata: its row and its places in the two trees.
const ROW_BYTES: u64 = 128;

/// What the blobs of one page have in bytes, at most, keys and metadata: a page of blobs with all the metadata that
/// they may have would be 15 MiB otherwise.
const PAGE_BYTES: usize = 2 << 20;

/// Keys are BLOBs, so that the end of a prefix, which need not be text, can be searched. The content is the last
/// column, so that the others are read without its pages; not WITHOUT ROWID, where a search reads the content of the
/// keys that it passes.
///
/// `garbage` has files that no row has any more, until it is certain that they are removed. `total` is one row.
pub(super) const SCHEMA: &[&str] = &["
    CREATE TABLE blob (
        id          INTEGER PRIMARY KEY,
        key         BLOB NOT NULL UNIQUE,
        size        INTEGER NOT NULL,
        etag        BLOB NOT NULL,
        uploaded_ms INTEGER NOT NULL,
        meta        TEXT NOT NULL,
        file        TEXT,
        content     BLOB
    ) STRICT;
    CREATE UNIQUE INDEX blob_file ON blob (file) WHERE file IS NOT NULL;
    CREATE TABLE garbage (file TEXT PRIMARY KEY) STRICT, WITHOUT ROWID;
    CREATE TABLE total (
        used_bytes INTEGER NOT NULL,
        file_bytes INTEGER NOT NULL
    ) STRICT;
    INSERT INTO total VALUES (0, 0);
"];

/// Where the content of a blob is.
#[derive(Debug, Clone)]
pub(super) enum Held {
    Inline(Bytes),
    File(FileId),
}

/// A blob that was found.
pub(super) struct Found {
    pub(super) blob: Blob,
    pub(super) held: Held,
}

/// What all blobs of a bucket take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Total {
    /// What counts in the bucket's size.
    pub(super) used_bytes: u64,
    /// The content that is in files.
    pub(super) file_bytes: u64,
}

/// A blob that is to be put.
pub(super) struct Put {
    pub(super) key: String,
    pub(super) meta: Meta,
    pub(super) only_if: Conditions,
    pub(super) size: u64,
    pub(super) etag: String,
    pub(super) held: Held,
    pub(super) size_bytes: u64,
}

/// A blob that was put, and the file of the one that it replaced.
pub(super) struct Done {
    pub(super) blob: Blob,
    pub(super) replaced: Option<FileId>,
}

// What they begin with is read by `blob`.
const HEAD: &str = "SELECT key, size, etag, uploaded_ms, meta FROM blob WHERE key = ?1";
const FIND: &str = "SELECT key, size, etag, uploaded_ms, meta, file, content FROM blob WHERE key = ?1";
const FROM: &str = "SELECT key, size, etag, uploaded_ms, meta FROM blob WHERE key >= ?1 ORDER BY key";

pub(super) fn find(connection: &Connection, key: &str) -> Result<Option<Found>, BucketError> {
    let mut statement = connection.prepare_cached(FIND)?;
    let mut rows = statement.query([key.as_bytes()])?;
    rows.next()?.map(found).transpose()
}

/// Calls `each` with each blob and where its content is.
pub(super) fn each_content(
    connection: &Connection,
    mut each: impl FnMut(Found) -> Result<(), BucketError>,
) -> Result<(), BucketError> {
    let mut statement =
        connection.prepare("SELECT key, size, etag, uploaded_ms, meta, file, content FROM blob ORDER BY key")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        each(found(row)?)?;
    }
    Ok(())
}

/// Calls `each` with the file of each blob that has one, and its size.
pub(super) fn each_file(
    connection: &Connection,
    mut each: impl FnMut(FileId, u64) -> Result<(), BucketError>,
) -> Result<(), BucketError> {
    let mut statement = connection.prepare("SELECT file, size FROM blob WHERE file IS NOT NULL")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        each(parse(row.get(0)?)?, row.get(1)?)?;
    }
    Ok(())
}

pub(super) fn head(connection: &Connection, key: &str) -> Result<Option<Blob>, BucketError> {
    let mut statement = connection.prepare_cached(HEAD)?;
    let mut rows = statement.query([key.as_bytes()])?;
    rows.next()?.map(blob).transpose()
}

/// What a blob with such a key and metadata counts beside its content.
pub(super) fn overhead(key: &str, meta: &Meta) -> u64 {
    let headers: usize = meta.headers().map(|(_, value)| value.len()).sum();
    let custom: usize = meta.custom.iter().map(|(name, value)| name.len() + value.len()).sum();
    ROW_BYTES + (key.len() + headers + custom) as u64
}

/// Puts a blob; `None` where its conditions do not hold. [`BucketError::Full`] where the bucket has no room for it beside the
/// `reserved_bytes` that are on their way.
pub(super) fn put(
    connection: &Connection,
    put: &Put,
    now_ms: u64,
    reserved_bytes: u64,
) -> Result<Option<Done>, BucketError> {
    let before = head(connection, &put.key)?;
    if !put.only_if.hold(before.as_ref()) {
        return Ok(None);
    }
    let replaced = match &before {
        Some(before) => remove(connection, before)?,
        None => None,
    };
    let counts = put.size + overhead(&put.key, &put.meta);
    let total = total(connection)?;
    if total.used_bytes.saturating_add(reserved_bytes).saturating_add(counts) > put.size_bytes {
        return Err(BucketError::Full { size_bytes: put.size_bytes });
    }
    let meta = serde_json::to_string(&put.meta).map_err(|error| BucketError::BadMeta(error.to_string()))?;
    let etag = hex::decode(&put.etag).map_err(|error| BucketError::corrupt(format!("an etag is no hash: {error}")))?;
    let (file, content, file_bytes) = match &put.held {
        Held::Inline(content) => (None, Some(&content[..]), 0),
        Held::File(file) => (Some(file.as_str()), None, put.size),
    };
    connection
        .prepare_cached(
            "INSERT INTO blob (key, size, etag, uploaded_ms, meta, file, content) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?
        .execute((put.key.as_bytes(), put.size, etag, now_ms, meta, file, content))?;
    connection
        .prepare_cached("UPDATE total SET used_bytes = used_bytes + ?1, file_bytes = file_bytes + ?2")?
        .execute((counts, file_bytes))?;
    let blob = Blob {
        key: put.key.clone(),
        size: put.size,
        etag: put.etag.clone(),
        uploaded_ms: now_ms,
        meta: put.meta.clone(),
    };
    Ok(Some(Done { blob, replaced }))
}

/// Removes the blobs for which `only_if` holds: how many there were, and their files, which are garbage now.
pub(super) fn delete(
    connection: &Connection,
    keys: &[String],
    only_if: &Conditions,
) -> Result<(u64, Vec<FileId>), BucketError> {
    let (mut count, mut files) = (0, Vec::new());
    for key in keys {
        if let Some(found) = head(connection, key)?
            && only_if.hold(Some(&found))
        {
            files.extend(remove(connection, &found)?);
            count += 1;
        }
    }
    Ok((count, files))
}

/// Removes the row of a blob. Its file, if it has one, is noted as garbage.
fn remove(connection: &Connection, blob: &Blob) -> Result<Option<FileId>, BucketError> {
    let removed = connection
        .prepare_cached("DELETE FROM blob WHERE key = ?1 RETURNING file")?
        .query_row([blob.key.as_bytes()], |row| row.get::<_, Option<String>>(0))?;
    let file = removed.map(parse).transpose()?;
    let file_bytes = if file.is_some() { blob.size } else { 0 };
    connection
        .prepare_cached("UPDATE total SET used_bytes = max(0, used_bytes - ?1), file_bytes = max(0, file_bytes - ?2)")?
        .execute((blob.size + overhead(&blob.key, &blob.meta), file_bytes))?;
    if let Some(file) = &file {
        connection.prepare_cached("INSERT OR IGNORE INTO garbage VALUES (?1)")?.execute([file.as_str()])?;
    }
    Ok(file)
}

pub(super) fn total(connection: &Connection) -> Result<Total, BucketError> {
    let mut statement = connection.prepare_cached("SELECT used_bytes, file_bytes FROM total")?;
    Ok(statement.query_row([], |row| Ok(Total { used_bytes: row.get(0)?, file_bytes: row.get(1)? }))?)
}

/// Whether a blob's content is in the file.
pub(super) fn has_file(connection: &Connection, file: &FileId) -> Result<bool, BucketError> {
    let mut statement = connection.prepare_cached("SELECT 1 FROM blob WHERE file = ?1")?;
    Ok(statement.query_row([file.as_str()], |_| Ok(())).optional()?.is_some())
}

/// Files that no blob has any more and that may still be there.
pub(super) fn garbage(connection: &Connection) -> Result<Vec<FileId>, BucketError> {
    let mut statement = connection.prepare_cached("SELECT file FROM garbage")?;
    let files = statement.query_map([], |row| row.get::<_, String>(0))?;
    files.map(|file| parse(file?)).collect()
}

/// Forgets files that are certainly removed.
pub(super) fn forget_garbage(connection: &Connection, files: &[FileId]) -> Result<(), BucketError> {
    let mut statement = connection.prepare_cached("DELETE FROM garbage WHERE file = ?1")?;
    for file in files {
        statement.execute([file.as_str()])?;
    }
    Ok(())
}

/// The blobs whose keys start with `prefix` and come after `after`, in the order of their bytes. Keys that have
/// `delimiter` after the prefix are told once, as what they have in common; of those only the first is read.
pub(super) fn list(
    connection: &Connection,
    prefix: &str,
    after: Option<&str>,
    delimiter: Option<&str>,
    limit: u32,
) -> Result<Listed, BucketError> {
    let delimiter = delimiter.filter(|delimiter| !delimiter.is_empty());
    let common = |key: &str| -> Option<String> {
        let rest = key.strip_prefix(prefix)?;
        let delimiter = delimiter?;
        let at = rest.find(delimiter)?;
        key.get(..prefix.len() + at + delimiter.len()).map(str::to_owned)
    };
    // One snapshot for the whole page, which ends when this is dropped.
    let _snapshot = connection.unchecked_transaction()?;
    let mut from_key = connection.prepare_cached(FROM)?;
    let mut start = match after {
        // All that a common prefix stands for was told with it.
        Some(after) if after >= prefix && common(after).is_some_and(|common| common == after) => {
            beyond(after.as_bytes())
        }
        Some(after) if after >= prefix => following(after.as_bytes()),
        _ => prefix.as_bytes().to_vec(),
    };
    let mut listed = Listed::default();
    let (mut count, mut bytes, mut last) = (0, 0, None);
    'search: loop {
        let mut rows = from_key.query([&start])?;
        while let Some(row) = rows.next()? {
            let key = key(row)?;
            if !key.starts_with(prefix) {
                break 'search;
            }
            if count == limit || bytes > PAGE_BYTES {
                listed.next = last;
                break 'search;
            }
            count += 1;
            if let Some(common) = common(&key) {
                start = beyond(common.as_bytes());
                bytes += common.len();
                last = Some(common.clone());
                listed.prefixes.push(common);
                continue 'search;
            }
            let blob = blob(row)?;
            bytes += overhead(&blob.key, &blob.meta) as usize;
            last = Some(key);
            listed.blobs.push(blob);
        }
        break;
    }
    Ok(listed)
}

/// The least bytes that come after a key.
fn following(key: &[u8]) -> Vec<u8> {
    let mut next = key.to_vec();
    next.push(0);
    next
}

/// The least bytes that come after all that start with `prefix`, which is not empty. No byte of UTF-8 is 255.
fn beyond(prefix: &[u8]) -> Vec<u8> {
    let mut next = prefix.to_vec();
    if let Some(last) = next.last_mut() {
        *last = last.saturating_add(1);
    }
    next
}

fn key(row: &Row<'_>) -> Result<String, BucketError> {
    let bytes = row.get_ref(0)?.as_blob().map_err(rusqlite::Error::from)?;
    match std::str::from_utf8(bytes) {
        Ok(key) => Ok(key.to_owned()),
        Err(_) => Err(BucketError::corrupt("a key is not text")),
    }
}

/// The blob of a row of [`HEAD`], [`FIND`] or [`FROM`].
fn blob(row: &Row<'_>) -> Result<Blob, BucketError> {
    let key = key(row)?;
    let meta = row.get_ref(4)?.as_str().map_err(rusqlite::Error::from)?;
    let Ok(meta) = serde_json::from_str(meta) else {
        return Err(BucketError::corrupt(format!("the metadata of `{key}` cannot be read")));
    };
    let etag = row.get_ref(2)?.as_blob().map_err(rusqlite::Error::from)?;
    Ok(Blob { key, size: row.get(1)?, etag: hex::encode(etag), uploaded_ms: row.get(3)?, meta })
}

/// The blob of a row of [`FIND`], and where its content is.
fn found(row: &Row<'_>) -> Result<Found, BucketError> {
    let blob = blob(row)?;
    let held = match row.get::<_, Option<String>>(5)? {
        Some(file) => Held::File(parse(file)?),
        None => Held::Inline(content(row, &blob)?),
    };
    Ok(Found { blob, held })
}

fn content(row: &Row<'_>, blob: &Blob) -> Result<Bytes, BucketError> {
    let content = row.get_ref(6)?.as_blob_or_null().map_err(rusqlite::Error::from)?.unwrap_or_default();
    if content.len() as u64 != blob.size {
        let (key, size, len) = (&blob.key, blob.size, content.len());
        return Err(BucketError::corrupt(format!("`{key}` should have {size} bytes and has {len}")));
    }
    Ok(Bytes::copy_from_slice(content))
}

fn parse(file: String) -> Result<FileId, BucketError> {
    FileId::parse(&file).ok_or_else(|| BucketError::corrupt("the name of a content file cannot be read"))
}
