//! The table of a store, and what is asked of it.

use std::str;

use bytes::Bytes;
use rusqlite::{Connection, Row, types::ValueRef};

use super::{Entry, KeyInfo, KvError, MAX_BATCH_BYTES, MAX_VALUE_BYTES, Page, Size, Write};

/// Tells the time, in milliseconds since 1970. Asked only where something can expire.
pub(super) type Now<'a> = &'a (dyn Fn() -> u64 + Send + Sync);

/// A key's row is a new one with each write, so that its number is the version; AUTOINCREMENT never gives one twice. The value
/// is the last column, so that the others are read without the pages of a large one. Not WITHOUT ROWID, which saves a tree:
/// there, a search reads the whole values of the keys that it passes.
pub(super) const SCHEMA: &[&str] = &["
    CREATE TABLE entry (
        version    INTEGER PRIMARY KEY AUTOINCREMENT,
        key        TEXT NOT NULL UNIQUE,
        expires_ms INTEGER,
        metadata   TEXT,
        value      BLOB NOT NULL
    ) STRICT;
    CREATE INDEX entry_expiry ON entry (expires_ms) WHERE expires_ms IS NOT NULL;
"];

/// How many expired keys are removed at once: it ends with the one that reaches either number.
#[derive(Clone, Copy)]
pub(super) struct Purge {
    rows: usize,
    /// Of values.
    bytes: usize,
}

impl Purge {
    /// Some 50 ms of the writer, and four times what a batch needs.
    pub(super) const WHEN_FULL: Self = Self { rows: 5000, bytes: 4 * MAX_BATCH_BYTES };

    /// What a change removes. Twice what it may add, so that there are never many for long; and no more than that, so that it
    /// takes no longer than the change itself: a value of 25 MiB takes some milliseconds.
    pub(super) fn beside(change: Size) -> Self {
        Self { rows: (2 * change.keys).max(8), bytes: (2 * change.bytes).max(MAX_VALUE_BYTES) }
    }
}

/// Expired keys that a page passes over before it ends early: some 2 ms on a thread that serves others.
const MAX_PASSED: usize = 4000;

pub(super) fn find(connection: &Connection, key: &str, now: Now<'_>) -> Result<Option<Entry>, KvError> {
    let mut statement =
        connection.prepare_cached("SELECT expires_ms, version, metadata, value FROM entry WHERE key = ?1")?;
    let mut rows = statement.query([key])?;
    match rows.next()? {
        Some(row) => live(row, now)?.map(|expires_ms| entry(row, expires_ms)).transpose(),
        None => Ok(None),
    }
}

/// What is found of values that shall have so many bytes together at the most.
pub(super) enum Found {
    All(Vec<Option<Entry>>),
    Larger,
}

/// [`find_many`], which reads no value once they are too large.
pub(super) fn find_within(
    connection: &Connection,
    keys: &[String],
    most_bytes: usize,
    now: Now<'_>,
) -> Result<Found, KvError> {
    let _snapshot = (keys.len() > 1).then(|| connection.unchecked_transaction()).transpose()?;
    // The length of a value is told by the head of its row.
    let mut statement = connection.prepare_cached(
        "SELECT expires_ms, version, metadata, CASE WHEN length(value) <= ?2 THEN value END FROM entry WHERE key = ?1",
    )?;
    let (mut found, mut left) = (Vec::with_capacity(keys.len()), most_bytes);
    for key in keys {
        let mut rows = statement.query((key, left))?;
        let Some(row) = rows.next()? else {
            found.push(None);
            continue;
        };
        let Some(expires_ms) = live(row, now)? else {
            found.push(None);
            continue;
        };
        if row.get_ref(3)? == ValueRef::Null {
            return Ok(Found::Larger);
        }
        let entry = entry(row, expires_ms)?;
        left -= entry.value.len();
        found.push(Some(entry));
    }
    Ok(Found::All(found))
}

pub(super) fn find_many(connection: &Connection, keys: &[String], now: Now<'_>) -> Result<Vec<Option<Entry>>, KvError> {
    // One snapshot, which ends when this is dropped.
    let _snapshot = connection.unchecked_transaction()?;
    let mut bytes = 0;
    let find = |key: &String| {
        let found = find(connection, key, now)?;
        bytes += found.as_ref().map_or(0, |entry| entry.value.len());
        if bytes > MAX_BATCH_BYTES { Err(KvError::BatchTooLarge) } else { Ok(found) }
    };
    keys.iter().map(find).collect()
}

/// The version of a key that is there.
pub(super) fn version(connection: &Connection, key: &str, now: Now<'_>) -> Result<Option<u64>, KvError> {
    let mut statement = connection.prepare_cached("SELECT expires_ms, version FROM entry WHERE key = ?1")?;
    let mut rows = statement.query([key])?;
    match rows.next()? {
        Some(row) if live(row, now)?.is_some() => Ok(Some(row.get(1)?)),
        _ => Ok(None),
    }
}

pub(super) fn list(
    connection: &Connection,
    prefix: &str,
    after: Option<&str>,
    limit: u32,
    now: Now<'_>,
) -> Result<Page, KvError> {
    // TEXT compares as bytes. Rows are read one by one, so the end of the prefix needs no condition.
    let (sql, start) = match after {
        Some(after) if after >= prefix => {
            ("SELECT expires_ms, key, metadata FROM entry WHERE key > ?1 ORDER BY key", after)
        }
        _ => ("SELECT expires_ms, key, metadata FROM entry WHERE key >= ?1 ORDER BY key", prefix),
    };
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query([start])?;
    let mut page = Page { keys: Vec::new(), next: None };
    let mut passed = 0;
    while let Some(row) = rows.next()? {
        let key = row.get_ref(1)?.as_str().map_err(rusqlite::Error::from)?;
        if !key.starts_with(prefix) {
            break;
        }
        let Some(expires_ms) = live(row, now)? else {
            passed += 1;
            if passed == MAX_PASSED {
                page.next = Some(key.to_owned());
                break;
            }
            continue;
        };
        if page.keys.len() == limit as usize {
            page.next = page.keys.last().map(|last| last.key.clone());
            break;
        }
        page.keys.push(KeyInfo { key: key.to_owned(), metadata: row.get(2)?, expires_ms });
    }
    Ok(page)
}

pub(super) fn apply(connection: &Connection, writes: &[Write]) -> Result<(), KvError> {
    for write in writes {
        match write {
            Write::Set { key, value, metadata, expires_ms } => {
                set(connection, key, value, metadata.as_deref(), *expires_ms)?;
            }
            Write::Delete { key } => {
                connection.prepare_cached("DELETE FROM entry WHERE key = ?1")?.execute([key])?;
            }
        }
    }
    Ok(())
}

pub(super) fn increment(connection: &Connection, key: &str, delta: i64, now: Now<'_>) -> Result<i64, KvError> {
    let (number, metadata, expires_ms) = match find(connection, key, now)? {
        Some(entry) => {
            let number = str::from_utf8(&entry.value).ok().and_then(|text| text.parse::<i64>().ok());
            (number.ok_or_else(|| KvError::NotAnInteger { key: key.into() })?, entry.metadata, entry.expires_ms)
        }
        None => (0, None, None),
    };
    let sum = number.checked_add(delta).ok_or_else(|| KvError::Overflow { key: key.into() })?;
    set(connection, key, sum.to_string().as_bytes(), metadata.as_deref(), expires_ms)?;
    Ok(sum)
}

/// Removes keys that expired, those first whose time is over for longest, and counts them.
pub(super) fn purge(connection: &Connection, now_ms: u64, most: Purge) -> Result<usize, KvError> {
    // Without a LIMIT: SQLite would compile the statement again with each one that is bound. Rows are read one by one.
    let mut expired = connection
        .prepare_cached("SELECT version, length(value) FROM entry WHERE expires_ms <= ?1 ORDER BY expires_ms")?;
    let mut rows = expired.query([signed(now_ms)])?;
    let (mut versions, mut bytes) = (Vec::new(), 0);
    while versions.len() < most.rows
        && bytes < most.bytes
        && let Some(row) = rows.next()?
    {
        versions.push(row.get::<_, i64>(0)?);
        bytes += row.get::<_, usize>(1)?;
    }
    drop(rows);
    let mut delete = connection.prepare_cached("DELETE FROM entry WHERE version = ?1")?;
    for version in &versions {
        delete.execute([version])?;
    }
    Ok(versions.len())
}

fn set(
    connection: &Connection,
    key: &str,
    value: &[u8],
    metadata: Option<&str>,
    expires_ms: Option<u64>,
) -> Result<(), KvError> {
    let mut statement = connection
        .prepare_cached("INSERT OR REPLACE INTO entry (key, expires_ms, metadata, value) VALUES (?1, ?2, ?3, ?4)")?;
    statement.execute((key, expires_ms.map(signed), metadata, value))?;
    Ok(())
}

/// SQLite's integers have a sign. What is beyond them never comes.
fn signed(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}

/// The expiry of a row (its first column), or `None` when that has passed.
fn live(row: &Row<'_>, now: Now<'_>) -> Result<Option<Option<u64>>, KvError> {
    let expires_ms: Option<u64> = row.get(0)?;
    Ok(expires_ms.is_none_or(|expires_ms| expires_ms > now()).then_some(expires_ms))
}

fn entry(row: &Row<'_>, expires_ms: Option<u64>) -> Result<Entry, KvError> {
    let value = row.get_ref(3)?.as_blob().map_err(rusqlite::Error::from)?;
    Ok(Entry { value: Bytes::copy_from_slice(value), metadata: row.get(2)?, expires_ms, version: row.get(1)? })
}
