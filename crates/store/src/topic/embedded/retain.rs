//! What goes from a topic: what is too old, what every function is done with when there is no room, what was dropped for newer
//! messages, and what is remembered no longer.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
};

use minnow_model::event::WhenFull;
use rusqlite::Connection;

use super::{
    super::{Bound, DEDUP_WINDOW, KEEP_CONSUMER, MAX_DEAD_AGE, Swept, TopicError, TopicRules},
    dead, ms,
    rows::Counts,
};

/// Messages that are done with and go beyond those whose room is needed: so that a full topic does not look for one at each publish.
const DONE_AT_ONCE: u64 = 256;
/// Messages that go for newer ones in one publish: some 10 ms of the writer. More than can be published at once, so that it becomes less.
const DROPPED_AT_ONCE: u64 = 5000;
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

/// Whether a full topic has to be searched for what all are done with: not, when that was in vain and nothing was settled since. Each refused
/// publish would walk over all that waits to come again. Used by the topic's writer alone.
#[derive(Debug, Default)]
pub(super) struct Done {
    /// Counts what may make something done.
    settled: AtomicU64,
    /// `settled` as it was when nothing was found, and one more.
    looked: AtomicU64,
}

impl Done {
    /// Something was settled, or those who follow the topic are others.
    pub(super) fn changed(&self) {
        self.settled.fetch_add(1, Ordering::Relaxed);
    }

    fn unless_looked(&self) -> Option<u64> {
        let settled = self.settled.load(Ordering::Relaxed);
        (self.looked.load(Ordering::Relaxed) != settled + 1).then_some(settled)
    }

    fn note(&self, settled: u64, has_room: bool) {
        self.looked.store(if has_room { 0 } else { settled + 1 }, Ordering::Relaxed);
    }
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
    done: &Done,
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
    if let Some(settled) = done.unless_looked() {
        drop_done(connection, rules, counts, need)?;
        done.note(settled, over(rules, counts, need).is_none());
    }
    let Some(bound) = over(rules, counts, need) else { return Ok(Ok(())) };
    if rules.when_full == WhenFull::Refuse {
        return Ok(Err(bound));
    }
    // Where the rules have become smaller there is much to drop. More than is added goes at once, and the rest with the next ones.
    let (mut dropped, mut has_more) = (Need::default(), false);
    drop_first(connection, counts, expired, |counts, first| {
        let is_enough = dropped.messages >= DROPPED_AT_ONCE && dropped.bytes > need.bytes;
        has_more = over(rules, counts, need).is_some() && is_enough;
        dropped.messages += 1;
        dropped.bytes += first.bytes;
        over(rules, counts, need).is_some() && !is_enough
    })?;
    // What is held back is in nobody's way but has its room.
    Ok(over(rules, counts, need).filter(|_| !has_more).map_or(Ok(()), Err))
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

/// The time by which ids are remembered: that of the messages, which never goes back, but no more than the window ahead of the clock. So
/// after a clock that was far ahead and was set back, an id is not a duplicate until the time has come there again.
#[derive(Debug, Clone, Copy)]
pub(super) struct IdTime {
    pub ms: u64,
    /// What was seen later was seen by a clock that was ahead. A window more than what is noted: the clock may be set back a little again.
    most_ms: u64,
}

impl IdTime {
    pub(super) fn of(counts: &Counts, now_ms: u64) -> Self {
        let window = ms(DEDUP_WINDOW);
        let most_ms = now_ms.saturating_add(2 * window);
        Self { ms: counts.last_ms.max(now_ms).min(now_ms.saturating_add(window)), most_ms }
    }

    /// Whether an id that was seen then is remembered.
    pub(super) fn remembers(self, seen_ms: u64) -> bool {
        seen_ms <= self.most_ms && seen_ms.saturating_add(ms(DEDUP_WINDOW)) > self.ms
    }
}

/// Forgets ids whose time is over, at most so many; whether there may be more.
pub(super) fn forget_ids(connection: &Connection, time: IdTime, most: usize) -> Result<bool, TopicError> {
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
            if time.remembers(row.get(1)?) {
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

/// What one write of a sweep did.
pub(super) struct SweptSome {
    pub swept: Swept,
    pub expired: Expired,
    /// Dead letters that went before their copy was made.
    pub uncopied: u64,
    /// There may be more.
    pub more: bool,
}

/// Removes some of what is too old, or too much since the rules are others.
pub(super) fn sweep(
    connection: &Connection,
    rules: &TopicRules,
    now_ms: u64,
    most: usize,
) -> Result<SweptSome, TopicError> {
    let mut counts = Counts::under(rules, connection)?;
    let (oldest_ms, mut left) = (counts.oldest_ms(now_ms), most);
    let mut expired = Expired::default();
    let drops = rules.when_full == WhenFull::DropOldest;
    let messages = drop_first(connection, &mut counts, &mut expired, |counts, first| {
        let is_over = drops && over(rules, counts, Need::default()).is_some();
        let goes = left > 0 && (first.time_ms < oldest_ms || is_over);
        left = left.saturating_sub(1);
        goes
    })?;
    let (dead, uncopied) = dead::drop_old(connection, &mut counts, now_ms.saturating_sub(ms(MAX_DEAD_AGE)), most)?;
    let more_ids = forget_ids(connection, IdTime::of(&counts, now_ms), most)?;
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
    Ok(SweptSome { swept: Swept { messages, dead, consumers: gone }, expired, uncopied, more })
}
