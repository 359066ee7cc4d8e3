//! The tables of a topic, and their statements.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use minnow_model::event::{AttributeName, Event};
use rusqlite::{Connection, OptionalExtension as _, Row};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{
    super::{TopicError, TopicRules},
    ms,
};

/// `topic` has one row. `next` is what no position was given yet; `messages` and `bytes` count what is held back, too. `head` is the
/// attributes of an event, as JSON ([`Head`]); the data is the last column, so that the others are read without the pages of large data.
/// `time_ms` grows with the position. `seen` has the ids that publishers gave, under the position of the message, or under the number of
/// one that is held back, below zero. `left_ms`: since when no live version has the consumer. `forward`: the topic that has not got its copy
/// yet. `again`: 1 while it is to be delivered again; `retries`: how often that was asked for.
pub(super) const SCHEMA: &[&str] = &["
    CREATE TABLE topic (
        one          INTEGER PRIMARY KEY CHECK (one = 1),
        next         INTEGER NOT NULL,
        last_ms      INTEGER NOT NULL,
        messages     INTEGER NOT NULL,
        bytes        INTEGER NOT NULL,
        dead_bytes   INTEGER NOT NULL,
        retention_ms INTEGER,
        max_bytes    INTEGER
    ) STRICT;
    INSERT INTO topic VALUES (1, 1, 0, 0, 0, 0, NULL, NULL);
    CREATE TABLE message (
        position INTEGER PRIMARY KEY,
        time_ms  INTEGER NOT NULL,
        head     TEXT NOT NULL,
        data     BLOB NOT NULL
    ) STRICT;
    CREATE TABLE seen (
        position INTEGER PRIMARY KEY,
        time_ms  INTEGER NOT NULL,
        digest   BLOB NOT NULL UNIQUE
    ) STRICT;
    CREATE TABLE delayed (
        number  INTEGER PRIMARY KEY,
        due_ms  INTEGER NOT NULL,
        time_ms INTEGER NOT NULL,
        head    TEXT NOT NULL,
        data    BLOB NOT NULL
    ) STRICT;
    CREATE INDEX delayed_due ON delayed (due_ms);
    CREATE TABLE consumer (
        name       TEXT PRIMARY KEY,
        upto       INTEGER NOT NULL,
        generation INTEGER NOT NULL,
        left_ms    INTEGER
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE hole (
        consumer TEXT NOT NULL,
        position INTEGER NOT NULL,
        tries    INTEGER NOT NULL,
        due_ms   INTEGER NOT NULL,
        first_ms INTEGER NOT NULL,
        PRIMARY KEY (consumer, position)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE dead (
        number   INTEGER PRIMARY KEY AUTOINCREMENT,
        consumer TEXT NOT NULL,
        position INTEGER NOT NULL,
        time_ms  INTEGER NOT NULL,
        died_ms  INTEGER NOT NULL,
        tries    INTEGER NOT NULL,
        reason   TEXT NOT NULL,
        status   INTEGER,
        answer   BLOB NOT NULL,
        forward  TEXT,
        again    INTEGER NOT NULL,
        retries  INTEGER NOT NULL,
        head     TEXT NOT NULL,
        data     BLOB NOT NULL
    ) STRICT;
    CREATE INDEX dead_consumer ON dead (consumer, number);
    CREATE INDEX dead_forward ON dead (number, forward) WHERE forward IS NOT NULL;
    CREATE INDEX dead_again ON dead (consumer, number) WHERE again = 1;
"];

/// The one row of `topic`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counts {
    pub next: u64,
    pub last_ms: u64,
    pub messages: u64,
    pub bytes: u64,
    pub dead_bytes: u64,
    /// What the rules said last. `None` before there were any.
    pub retention_ms: Option<u64>,
    pub max_bytes: Option<u64>,
}

impl Counts {
    pub(super) fn load(connection: &Connection) -> Result<Self, TopicError> {
        let mut statement = connection.prepare_cached(
            "SELECT next, last_ms, messages, bytes, dead_bytes, retention_ms, max_bytes FROM topic WHERE one = 1",
        )?;
        Ok(statement.query_row([], |row| {
            Ok(Self {
                next: row.get(0)?,
                last_ms: row.get(1)?,
                messages: row.get(2)?,
                bytes: row.get(3)?,
                dead_bytes: row.get(4)?,
                retention_ms: row.get(5)?,
                max_bytes: row.get(6)?,
            })
        })?)
    }

    pub(super) fn save(&self, connection: &Connection) -> Result<(), TopicError> {
        let Self { next, last_ms, messages, bytes, dead_bytes, retention_ms, max_bytes } = self;
        let mut statement = connection.prepare_cached(
            "UPDATE topic SET next = ?1, last_ms = ?2, messages = ?3, bytes = ?4, dead_bytes = ?5, retention_ms = ?6,
             max_bytes = ?7 WHERE one = 1",
        )?;
        statement.execute((next, last_ms, messages, bytes, dead_bytes, retention_ms, max_bytes))?;
        Ok(())
    }

    /// What is in the file, under these rules.
    pub(super) fn under(rules: &TopicRules, connection: &Connection) -> Result<Self, TopicError> {
        let (retention_ms, max_bytes) = (Some(ms(rules.retention)), Some(rules.max_bytes));
        Ok(Self { retention_ms, max_bytes, ..Self::load(connection)? })
    }

    /// What was taken before it is too old.
    pub(super) fn oldest_ms(&self, now_ms: u64) -> u64 {
        self.retention_ms.map_or(0, |retention_ms| now_ms.saturating_sub(retention_ms))
    }
}

/// The highest position or number that a row can have.
pub(super) const MAX_NUMBER: u64 = i64::MAX as u64;

/// The `type` of a dead letter whose own attributes cannot be read.
const UNREADABLE_KIND: &str = "minnow.unreadable";

/// The attributes of an event, as they are kept.
#[derive(Serialize, Deserialize)]
pub(super) struct Head<'a> {
    id: Arc<str>,
    source: Arc<str>,
    #[serde(rename = "type")]
    kind: Arc<str>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    subject: Option<Arc<str>>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    time_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    content_type: Option<Arc<str>>,
    #[serde(skip_serializing_if = "is_empty", default)]
    extensions: Cow<'a, BTreeMap<AttributeName, String>>,
}

fn is_empty(extensions: &BTreeMap<AttributeName, String>) -> bool {
    extensions.is_empty()
}

/// The attributes of an event, as they are kept.
pub(super) fn head(event: &Event) -> Result<String, TopicError> {
    let Event { id, source, kind, subject, time_ms, content_type, extensions, data: _ } = event;
    let head = Head {
        id: Arc::clone(id),
        source: Arc::clone(source),
        kind: Arc::clone(kind),
        subject: subject.clone(),
        time_ms: *time_ms,
        content_type: content_type.clone(),
        extensions: Cow::Borrowed(extensions),
    };
    serde_json::to_string(&head)
        .map_err(|error| Unreadable(format!("the attributes of a message cannot be written: {error}")).into())
}

/// The event of two columns: its head and its data.
pub(super) fn event(row: &Row<'_>, head: usize, data: usize) -> Result<Event, TopicError> {
    Ok(Event { data: bytes(row, data)?, ..attributes(row, head)? })
}

/// The data of an event.
pub(super) fn bytes(row: &Row<'_>, data: usize) -> Result<Bytes, TopicError> {
    Ok(Bytes::copy_from_slice(row.get_ref(data)?.as_blob().map_err(rusqlite::Error::from)?))
}

/// Why the head of a row cannot be read. It is the trouble of this row, and of no other.
#[derive(Debug)]
pub(super) struct Unreadable(pub String);

impl From<Unreadable> for TopicError {
    fn from(Unreadable(detail): Unreadable) -> Self {
        // The file's path is put in where the error leaves the topic.
        Self::Corrupt { path: "topic.db".into(), detail }
    }
}

/// The event of a row without its data.
pub(super) fn attributes(row: &Row<'_>, head: usize) -> Result<Event, Unreadable> {
    let told =
        |error: &dyn std::fmt::Display| Unreadable(format!("the attributes of a message cannot be read: {error}"));
    let text = row.get_ref(head).map_err(|error| told(&error))?.as_bytes().map_err(|error| told(&error))?;
    let head: Head<'_> = serde_json::from_slice(text).map_err(|error| told(&error))?;
    let Head { id, source, kind, subject, time_ms, content_type, extensions } = head;
    let extensions = extensions.into_owned();
    Ok(Event { id, source, kind, subject, time_ms, content_type, extensions, data: Bytes::new() })
}

/// [`attributes`] of a dead letter: one whose head cannot be read has others in their place, so that it can be listed, read, tried again
/// and dropped as any other.
pub(super) fn attributes_of_dead(row: &Row<'_>, head: usize) -> Event {
    attributes(row, head).unwrap_or_else(|_| Event {
        id: "unreadable".into(),
        source: "/unreadable".into(),
        kind: UNREADABLE_KIND.into(),
        subject: None,
        time_ms: None,
        content_type: None,
        extensions: BTreeMap::new(),
        data: Bytes::new(),
    })
}

/// What an id is remembered by.
pub(super) fn digest(event: &Event) -> [u8; 16] {
    let mut hash = Sha256::new();
    hash.update(event.source.as_bytes());
    hash.update([0]);
    hash.update(event.id.as_bytes());
    let mut digest = [0; 16];
    digest.iter_mut().zip(hash.finalize()).for_each(|(to, from)| *to = from);
    digest
}

/// Where the id was seen last, and when.
pub(super) fn seen(connection: &Connection, digest: &[u8]) -> Result<Option<(i64, u64)>, TopicError> {
    let mut statement = connection.prepare_cached("SELECT position, time_ms FROM seen WHERE digest = ?1")?;
    Ok(statement.query_row([digest], |row| Ok((row.get(0)?, row.get(1)?))).optional()?)
}

pub(super) fn remember(connection: &Connection, place: i64, time_ms: u64, digest: &[u8]) -> Result<(), TopicError> {
    // What is under the digest has had its time.
    let mut statement =
        connection.prepare_cached("INSERT OR REPLACE INTO seen (position, time_ms, digest) VALUES (?1, ?2, ?3)")?;
    statement.execute((place, time_ms, digest))?;
    Ok(())
}

pub(super) fn insert(
    connection: &Connection,
    position: u64,
    time_ms: u64,
    head: &str,
    data: &[u8],
) -> Result<(), TopicError> {
    let mut statement =
        connection.prepare_cached("INSERT INTO message (position, time_ms, head, data) VALUES (?1, ?2, ?3, ?4)")?;
    statement.execute((position, time_ms, head, data))?;
    Ok(())
}

/// Holds a message back, and answers its number.
pub(super) fn insert_delayed(
    connection: &Connection,
    due_ms: u64,
    time_ms: u64,
    head: &str,
    data: &[u8],
) -> Result<i64, TopicError> {
    let mut statement =
        connection.prepare_cached("INSERT INTO delayed (due_ms, time_ms, head, data) VALUES (?1, ?2, ?3, ?4)")?;
    Ok(statement.insert((due_ms, time_ms, head, data))?)
}

/// The first position whose message was taken at `since_ms` or later; `next` where there is none.
pub(super) fn first_since(connection: &Connection, since_ms: u64, next: u64) -> Result<u64, TopicError> {
    let mut statement =
        connection.prepare_cached("SELECT position, time_ms FROM message WHERE position >= ?1 ORDER BY position")?;
    let mut first = |from: u64| -> Result<Option<(u64, u64)>, TopicError> {
        Ok(statement.query_row([from], |row| Ok((row.get(0)?, row.get(1)?))).optional()?)
    };
    // Times grow with the positions, of which some may be missing.
    let (mut low, mut high) = (first(0)?.map_or(next, |(position, _)| position), next);
    while low < high {
        let middle = low + (high - low) / 2;
        match first(middle)? {
            Some((position, time_ms)) if time_ms < since_ms => low = position + 1,
            _ => high = middle,
        }
    }
    Ok(low)
}

/// The first and the last position that are there.
pub(super) fn ends(connection: &Connection) -> Result<Option<(u64, u64)>, TopicError> {
    let mut statement =
        connection.prepare_cached("SELECT (SELECT min(position) FROM message), (SELECT max(position) FROM message)")?;
    let (first, last): (Option<u64>, Option<u64>) = statement.query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(first.zip(last))
}
