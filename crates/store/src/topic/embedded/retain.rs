//! What goes from a topic: what is too old, what every function is done with when there is no room, what was dropped for newer
//! messages, and what is remembered no longer.

use std::collections::BTreeMap;

use minnow_model::event::WhenFull;
use rusqlite::{Connection, OptionalExtension as _};

use super::{
    super::{Bound, DEDUP_WINDOW, KEEP_CONSUMER, MAX_DEAD_AGE, Swept, TopicError, TopicRules},
    dead, ms,
    rows::Counts,
};

/// Messages that are done with and go beyond those whose room is needed: so that a full topic does not look for one at each publish.
const DONE_AT_ONCE: u64 = 256;
/// What a publish removes at least of what is too old. Twice what it adds otherwise, so that there is never much for long.
const LEAST_OLD: u64 = 8;

/// Messages that went before a function was done with them, by function.
pub(super) type Expired = BTreeMap<String, u64>;

/// Room that is needed.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Need {
    pub messages: u64,
    pub bytes: u64,
}

pub(super) struct ConsumerRow {
    pub name: String,
    pub upto: u64,
    pub left_ms: Option<u64>,
}

pub(super) fn consumers(connection: &Connection) -> Result<Vec<ConsumerRow>, TopicError> {
    let mut statement = connection.prepare_cached("SELECT name, upto, left_ms FROM consumer ORDER BY name")?;
    let rows = statement
        .query_map([], |row| Ok(ConsumerRow { name: row.get(0)?, upto: row.get(1)?, left_ms: row.get(2)? }))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// What is over a bound, if `need` comes to what is there.
fn over(rules: &TopicRules, counts: &Counts, need: Need) -> Option<Bound> {
    if counts.bytes.saturating_add(need.bytes) > rules.max_bytes {
        return Some(Bound::Bytes(rules.max_bytes));
    }
    rules.max_messages.filter(|most| counts.messages.saturating_add(need.messages) > *most).map(Bound::Messages)
}

/// Makes room for what is to be added, or says which bound is in the way. Counts what it removes.
pub(super) fn make_room(
    connection: &Connection,
    rules: &TopicRules,
    counts: &mut Counts,
    need: Need,
    now_ms: u64,
    expired: &mut Expired,
) -> Result<Result<(), Bound>, TopicError> {
    // It would not fit into an empty one.
    let empty = Counts { messages: 0, bytes: 0, ..*counts };
    if let Some(bound) = over(rules, &empty, need) {
        return Ok(Err(bound));
    }
    let oldest_ms = counts.oldest_ms(now_ms);
    let (messages, bytes) = ((2 * need.messages).max(LEAST_OLD), 2 * need.bytes);
    let mut removed = Need::default();
    drop_first(connection, counts, expired, |counts, first| {
        let go_on = removed.messages < messages && removed.bytes < bytes.max(1) || over(rules, counts, need).is_some();
        removed.messages += 1;
        removed.bytes += first.bytes;
        go_on && first.time_ms < oldest_ms
    })?;
    if over(rules, counts, need).is_none() {
        return Ok(Ok(()));
    }
    drop_done(connection, rules, counts, need)?;
    let Some(bound) = over(rules, counts, need) else { return Ok(Ok(())) };
    if rules.when_full == WhenFull::Refuse {
        return Ok(Err(bound));
    }
    drop_first(connection, counts, expired, |counts, _| over(rules, counts, need).is_some())?;
    // What is held back is in nobody's way but has its room.
    Ok(over(rules, counts, need).map_or(Ok(()), Err))
}

/// A message that may go.
struct First {
    position: u64,
    time_ms: u64,
    bytes: u64,
}

/// Removes messages from the first on, while `goes` says so of each; with the holes and ids that they have.
fn drop_first(
    connection: &Connection,
    counts: &mut Counts,
    expired: &mut Expired,
    mut goes: impl FnMut(&Counts, &First) -> bool,
) -> Result<u64, TopicError> {
    let (mut last, mut removed) = (None, Vec::new());
    {
        let mut statement = connection.prepare_cached(
            "SELECT position, time_ms, octet_length(head) + octet_length(data) FROM message ORDER BY position",
        )?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let first = First { position: row.get(0)?, time_ms: row.get(1)?, bytes: row.get(2)? };
            if !goes(counts, &first) {
                break;
            }
            counts.messages = counts.messages.saturating_sub(1);
            counts.bytes = counts.bytes.saturating_sub(first.bytes);
            removed.push(first.position);
            last = Some(first.position);
        }
    }
    let Some(last) = last else { return Ok(0) };
    connection.prepare_cached("DELETE FROM message WHERE position <= ?1")?.execute([last])?;
    connection.prepare_cached("DELETE FROM seen WHERE position BETWEEN 1 AND ?1")?.execute([last])?;
    let mut holes = connection.prepare_cached("DELETE FROM hole WHERE consumer = ?1 AND position <= ?2")?;
    for consumer in consumers(connection)? {
        let of_holes = holes.execute((&consumer.name, last))? as u64;
        let new = removed.len() - removed.partition_point(|position| *position <= consumer.upto);
        let lost = of_holes + new as u64;
        if consumer.left_ms.is_none() && lost > 0 {
            *expired.entry(consumer.name).or_default() += lost;
        }
    }
    Ok(removed.len() as u64)
}

/// Removes what every live consumer is done with, until there is room, and some more. Without a consumer nothing is done with.
fn drop_done(connection: &Connection, rules: &TopicRules, counts: &mut Counts, need: Need) -> Result<(), TopicError> {
    let live = consumers(connection)?.into_iter().filter(|consumer| consumer.left_ms.is_none());
    let Some(done) = live.map(|consumer| consumer.upto).min() else { return Ok(()) };
    let mut removed = Vec::new();
    {
        let mut statement = connection.prepare_cached(
            "SELECT position, octet_length(head) + octet_length(data) FROM message
             WHERE position <= ?1 AND NOT EXISTS (
                 SELECT 1 FROM consumer JOIN hole ON hole.consumer = consumer.name AND hole.position = message.position
                 WHERE consumer.left_ms IS NULL
             ) ORDER BY position",
        )?;
        let (mut rows, mut more) = (statement.query([done])?, 0);
        while more < DONE_AT_ONCE
            && let Some(row) = rows.next()?
        {
            more += u64::from(over(rules, counts, need).is_none());
            counts.messages = counts.messages.saturating_sub(1);
            counts.bytes = counts.bytes.saturating_sub(row.get(1)?);
            removed.push(row.get::<_, u64>(0)?);
        }
    }
    for position in removed {
        connection.prepare_cached("DELETE FROM message WHERE position = ?1")?.execute([position])?;
        connection.prepare_cached("DELETE FROM seen WHERE position = ?1")?.execute([position])?;
    }
    Ok(())
}

/// Forgets ids whose time is over, at most so many; whether there may be more.
pub(super) fn forget_ids(connection: &Connection, now_ms: u64, most: usize) -> Result<bool, TopicError> {
    if most == 0 {
        return Ok(false);
    }
    let mut old = Vec::new();
    {
        // Those of messages that are held back are below zero. They go when these get their positions.
        let mut statement =
            connection.prepare_cached("SELECT position, time_ms FROM seen WHERE position > 0 ORDER BY position")?;
        let mut rows = statement.query([])?;
        while old.len() < most
            && let Some(row) = rows.next()?
        {
            if row.get::<_, u64>(1)?.saturating_add(ms(DEDUP_WINDOW)) > now_ms {
                break;
            }
            old.push(row.get::<_, i64>(0)?);
        }
    }
    for position in &old {
        connection.prepare_cached("DELETE FROM seen WHERE position = ?1")?.execute([position])?;
    }
    Ok(old.len() == most)
}

/// Removes some of what is too old. Whether there may be more.
pub(super) fn sweep(
    connection: &Connection,
    rules: &TopicRules,
    now_ms: u64,
    most: usize,
) -> Result<(Swept, Expired, bool), TopicError> {
    let mut counts = Counts::under(rules, connection)?;
    let (oldest_ms, mut left) = (counts.oldest_ms(now_ms), most);
    let mut expired = Expired::default();
    let messages = drop_first(connection, &mut counts, &mut expired, |_, first| {
        let goes = left > 0 && first.time_ms < oldest_ms;
        left = left.saturating_sub(1);
        goes
    })?;
    let dead = dead::drop_old(connection, &mut counts, now_ms.saturating_sub(ms(MAX_DEAD_AGE)), most)?;
    let more_ids = forget_ids(connection, now_ms, most)?;
    let mut gone = 0;
    let left_before_ms = now_ms.saturating_sub(ms(KEEP_CONSUMER));
    for consumer in consumers(connection)? {
        if consumer.left_ms.is_some_and(|left_ms| left_ms < left_before_ms) {
            connection.prepare_cached("DELETE FROM hole WHERE consumer = ?1")?.execute([&consumer.name])?;
            connection.prepare_cached("DELETE FROM consumer WHERE name = ?1")?.execute([&consumer.name])?;
            gone += 1;
        }
    }
    counts.save(connection)?;
    let more = messages == most as u64 || dead == most as u64 || more_ids;
    Ok((Swept { messages, dead, consumers: gone }, expired, more))
}

/// How much a message takes, where it is there.
pub(super) fn bytes_of(connection: &Connection, position: u64) -> Result<Option<u64>, TopicError> {
    let mut statement =
        connection.prepare_cached("SELECT octet_length(head) + octet_length(data) FROM message WHERE position = ?1")?;
    Ok(statement.query_row([position], |row| row.get(0)).optional()?)
}
