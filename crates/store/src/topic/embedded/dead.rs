//! The dead letters of a topic: what is kept of them, what becomes of them, and the copies that other topics get.

use std::{
    collections::{BTreeSet, hash_map::Entry},
    sync::Arc,
};

use minnow_model::{
    FunctionName, StoreId, StoreName,
    event::{AttributeName, Event},
};
use rusqlite::{Connection, OptionalExtension as _, Row};

use super::{
    super::{
        DeadInfo, DeadLetter, DeadPage, Death, MAX_DEAD, MAX_DEAD_ANSWER_BYTES, Outgoing, Ready, TopicError,
        TopicRules, Which,
        check::{self, LEAST_DEAD_BYTES, MAX_REASON_BYTES},
        window::DiedAgain,
    },
    Common, Embedded, bound_known, lock,
    rows::{self, Counts},
};

/// Copies that are published at once, and their bytes.
const FORWARDED_AT_ONCE: usize = 50;
const FORWARDED_BYTES: usize = 2 << 20;

/// The columns of [`info`].
const INFO: &str =
    "number, consumer, position, time_ms, died_ms, tries, reason, status, forward, again, octet_length(data), head";

impl Embedded {
    pub(in super::super) async fn dead_list(
        &self,
        topic: &StoreId,
        function: Option<&FunctionName>,
        after: u64,
        limit: u32,
    ) -> Result<DeadPage, TopicError> {
        check::limit(limit)?;
        let function = function.cloned();
        let read = move |connection: &Connection| {
            let of_one = if function.is_some() { "consumer = ?2 AND" } else { "?2 IS NULL AND" };
            let sql = format!("SELECT {INFO} FROM dead WHERE {of_one} number > ?1 ORDER BY number");
            let mut statement = connection.prepare_cached(&sql)?;
            let mut rows =
                statement.query((after.min(rows::MAX_NUMBER), function.as_ref().map(FunctionName::as_str)))?;
            let mut page = DeadPage::default();
            while let Some(row) = rows.next()? {
                if page.letters.len() == limit as usize {
                    page.next = page.letters.last().map(|last: &DeadInfo| last.number);
                    break;
                }
                page.letters.push(info(row)?);
            }
            Ok(Some(page))
        };
        Ok(self.read(topic, read).await?.unwrap_or_default())
    }

    pub(in super::super) async fn dead_get(
        &self,
        topic: &StoreId,
        number: u64,
    ) -> Result<Option<DeadLetter>, TopicError> {
        if number > rows::MAX_NUMBER {
            return Ok(None);
        }
        let read = move |connection: &Connection| {
            let sql = format!("SELECT {INFO}, answer, data FROM dead WHERE number = ?1");
            let mut statement = connection.prepare_cached(&sql)?;
            let mut rows = statement.query([number])?;
            let Some(row) = rows.next()? else { return Ok(None) };
            let answer = row.get::<_, Vec<u8>>(12)?.into();
            let event = Event { data: rows::bytes(row, 13)?, ..rows::attributes_of_dead(row, 11) };
            Ok(Some(DeadLetter { info: info(row)?, answer, event: Arc::new(event) }))
        };
        self.read(topic, read).await
    }

    pub(in super::super) async fn dead_retry(&self, topic: &StoreId, which: Which) -> Result<u64, TopicError> {
        let none = match &which {
            Which::One(number) => Err(TopicError::NoSuchMessage(*number)),
            Which::All(_) => Ok(0),
        };
        let open = self.stores.existing(topic).await.map_err(|error| self.at(topic, error))?;
        let Some(open) = open else { return none };
        let file_bytes = Arc::clone(&open.file_bytes);
        let work = move |connection: &Connection| -> Result<Vec<(String, u64)>, TopicError> {
            bound_known(connection, &file_bytes)?;
            let letters = select(connection, &which)?;
            let mut live = connection.prepare_cached("SELECT 1 FROM consumer WHERE name = ?1")?;
            let mut again =
                connection.prepare_cached("UPDATE dead SET again = 1, retries = retries + 1 WHERE number = ?1")?;
            for (name, number) in &letters {
                if !live.exists([name])? {
                    let function = name.parse().map_err(|_| TopicError::NoSuchMessage(*number))?;
                    return Err(TopicError::NoConsumer(function));
                }
                again.execute([number])?;
            }
            Ok(letters)
        };
        let (common, id) = (Arc::clone(&self.common), topic.clone());
        let then = move |letters: &Vec<(String, u64)>| {
            for (name, number) in letters {
                if let Ok(function) = name.parse()
                    && let Some(shared) = common.consumed(&(id.clone(), function))
                {
                    shared.deliver_again(*number);
                }
            }
            common.ready(&id, Ready::Now);
        };
        let letters = open.database.write_then(work, then).await.map_err(|error: TopicError| self.at(topic, error))?;
        if letters.is_empty() { none } else { Ok(letters.len() as u64) }
    }

    pub(in super::super) async fn dead_drop(&self, topic: &StoreId, which: Which) -> Result<u64, TopicError> {
        let none = match &which {
            Which::One(number) => Err(TopicError::NoSuchMessage(*number)),
            Which::All(_) => Ok(0),
        };
        let open = self.stores.existing(topic).await.map_err(|error| self.at(topic, error))?;
        let Some(open) = open else { return none };
        let work = move |connection: &Connection| -> Result<u64, TopicError> {
            let letters = select(connection, &which)?;
            let mut counts = Counts::load(connection)?;
            for (_, number) in &letters {
                remove(connection, &mut counts, *number)?;
            }
            counts.save(connection)?;
            Ok(letters.len() as u64)
        };
        let dropped = open.database.write(work).await.map_err(|error: TopicError| self.at(topic, error))?;
        if dropped == 0 { none } else { Ok(dropped) }
    }

    pub(in super::super) async fn forward(
        &self,
        topic: &StoreId,
        rules: impl Fn(&StoreName) -> Option<TopicRules> + Send + Sync,
    ) -> Result<u64, TopicError> {
        // One at a time of a topic: who comes meanwhile has it look once more.
        let Some(mut turn) = Turn::take(&self.common, topic) else { return Ok(0) };
        loop {
            let left = self.forward_once(topic, &rules).await?;
            if turn.is_over() {
                return Ok(left);
            }
        }
    }

    /// Publishes copies until nothing is left but those of topics that have no room, and answers how many these are.
    async fn forward_once(
        &self,
        topic: &StoreId,
        rules: &(impl Fn(&StoreName) -> Option<TopicRules> + Send + Sync),
    ) -> Result<u64, TopicError> {
        let (mut full, mut after) = (BTreeSet::<StoreName>::new(), 0);
        loop {
            let (name, but) = (topic.name.clone(), full.clone());
            let found = self.read(topic, move |connection| copies(connection, &name, after, &but).map(Some)).await?;
            let Some(found) = found.filter(|found| !found.is_empty()) else { break };
            let mut forwarded = Vec::new();
            let mut by_topic: Vec<(StoreName, Vec<Outgoing>, Vec<u64>)> = Vec::new();
            for Copy { number, to, event } in found {
                after = number;
                let outgoing = Outgoing { event, delay: std::time::Duration::ZERO, has_own_id: true };
                match by_topic.iter_mut().find(|(other, _, _)| *other == to) {
                    Some((_, events, numbers)) => {
                        events.push(outgoing);
                        numbers.push(number);
                    }
                    None => by_topic.push((to, vec![outgoing], vec![number])),
                }
            }
            for (to, events, numbers) in by_topic {
                let Some(rules) = rules(&to) else {
                    tracing::warn!(topic = %topic.name, %to, count = numbers.len(), "dead letters have no copy: the topic is gone");
                    forwarded.extend(numbers);
                    continue;
                };
                let target = StoreId { name: to.clone(), ..topic.clone() };
                match self.append(&target, &rules, events).await {
                    Ok(_) => forwarded.extend(numbers),
                    Err(error) => {
                        tracing::warn!(topic = %topic.name, %to, %error, "dead letters wait to be copied");
                        full.insert(to);
                    }
                }
            }
            self.note_forwarded(topic, forwarded).await?;
        }
        if full.is_empty() {
            return Ok(0);
        }
        let count = |connection: &Connection| {
            let sql = "SELECT count(*) FROM dead WHERE forward IS NOT NULL";
            Ok(Some(connection.prepare_cached(sql)?.query_row([], |row| row.get(0))?))
        };
        Ok(self.read(topic, count).await?.unwrap_or_default())
    }

    async fn note_forwarded(&self, topic: &StoreId, numbers: Vec<u64>) -> Result<(), TopicError> {
        let open = self.stores.existing(topic).await.map_err(|error| self.at(topic, error))?;
        let Some(open) = open.filter(|_| !numbers.is_empty()) else { return Ok(()) };
        let work = move |connection: &Connection| -> Result<(), TopicError> {
            let mut statement = connection.prepare_cached("UPDATE dead SET forward = NULL WHERE number = ?1")?;
            for number in numbers {
                statement.execute([number])?;
            }
            Ok(())
        };
        open.database.write(work).await.map_err(|error| self.at(topic, error))
    }
}

/// The turn of the one that forwards a topic's dead letters. Dropped, it is given up.
struct Turn<'a> {
    common: &'a Common,
    topic: &'a StoreId,
    is_held: bool,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if self.is_held {
            lock(&self.common.forwarding).remove(self.topic);
        }
    }
}

impl<'a> Turn<'a> {
    /// `None` where another has it, who looks once more then.
    fn take(common: &'a Common, topic: &'a StoreId) -> Option<Self> {
        match lock(&common.forwarding).entry(topic.clone()) {
            Entry::Occupied(mut again) => {
                again.insert(true);
                None
            }
            Entry::Vacant(place) => {
                place.insert(false);
                Some(Self { common, topic, is_held: true })
            }
        }
    }

    /// Whether nobody came meanwhile.
    fn is_over(&mut self) -> bool {
        // Given up in the same moment, so that nobody who comes now is forgotten.
        let mut forwarding = lock(&self.common.forwarding);
        let look_again = forwarding.get_mut(self.topic).is_some_and(std::mem::take);
        if !look_again {
            forwarding.remove(self.topic);
            self.is_held = false;
        }
        !look_again
    }
}

fn info(row: &Row<'_>) -> Result<DeadInfo, TopicError> {
    let Event { id, kind, .. } = rows::attributes_of_dead(row, 11);
    Ok(DeadInfo {
        number: row.get(0)?,
        function: name(row, 1)?,
        position: row.get(2)?,
        time_ms: row.get(3)?,
        died_ms: row.get(4)?,
        tries: row.get(5)?,
        reason: row.get(6)?,
        status: row.get(7)?,
        forward: row.get::<_, Option<String>>(8)?.and_then(|name| name.parse().ok()),
        again: row.get(9)?,
        data_bytes: row.get(10)?,
        event_id: id,
        event_kind: kind,
    })
}

/// The name in a column, of a function or a topic.
fn name<T: std::str::FromStr>(row: &Row<'_>, column: usize) -> Result<T, TopicError> {
    let text = row.get_ref(column)?.as_str().map_err(rusqlite::Error::from)?;
    text.parse().map_err(|_| TopicError::Corrupt {
        path: "topic.db".into(),
        detail: format!("`{}` is no name", text.escape_debug()),
    })
}

/// The consumers and numbers of dead letters.
fn select(connection: &Connection, which: &Which) -> Result<Vec<(String, u64)>, TopicError> {
    let get = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?));
    let found = match which {
        Which::One(number) if *number > rows::MAX_NUMBER => Vec::new(),
        Which::One(number) => {
            let sql = "SELECT consumer, number FROM dead WHERE number = ?1";
            connection.prepare_cached(sql)?.query_map([number], get)?.collect::<Result<_, _>>()?
        }
        Which::All(function) => {
            let sql = "SELECT consumer, number FROM dead WHERE consumer = ?1 ORDER BY number";
            connection.prepare_cached(sql)?.query_map([function.as_str()], get)?.collect::<Result<_, _>>()?
        }
    };
    Ok(found)
}

/// What a dead letter takes, as the topic counts it.
const BYTES: &str = "octet_length(head) + octet_length(data) + octet_length(reason) + octet_length(answer)";

/// Removes a dead letter. Whether its copy was not made yet.
fn remove(connection: &Connection, counts: &mut Counts, number: u64) -> Result<bool, TopicError> {
    let sql = format!("DELETE FROM dead WHERE number = ?1 RETURNING {BYTES}, forward IS NOT NULL");
    let mut statement = connection.prepare_cached(&sql)?;
    let removed = statement.query_row([number], |row| Ok((row.get::<_, u64>(0)?, row.get(1)?))).optional()?;
    let (bytes, is_uncopied) = removed.unwrap_or_default();
    counts.dead_bytes = counts.dead_bytes.saturating_sub(bytes);
    Ok(is_uncopied)
}

/// Tells of dead letters that went before their copy was made: nobody else does.
pub(super) fn tell_uncopied(topic: &StoreId, count: u64) {
    if count > 0 {
        let StoreId { app, name, .. } = topic;
        tracing::warn!(%app, topic = %name, count, "dead letters went before their copies were made: their topic had no room for too long");
    }
}

/// Makes a message a dead letter of a consumer, if it is there still.
pub(super) fn bury(
    connection: &Connection,
    counts: &mut Counts,
    consumer: &str,
    (position, tries, death): (u64, u32, &Death),
    now_ms: u64,
) -> Result<(), TopicError> {
    let Death { reason, status, answer, forward } = death;
    let sql = format!(
        "INSERT INTO dead (consumer, position, time_ms, died_ms, tries, reason, status, answer, forward, again, retries, head, data)
         SELECT ?2, position, time_ms, ?3, ?4, ?5, ?6, ?7, ?8, 0, 0, head, data FROM message WHERE position = ?1
         RETURNING {BYTES}"
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let forward = forward.as_ref().map(StoreName::as_str);
    let row = (position, consumer, now_ms, tries, short(reason), status, beginning(answer), forward);
    let bytes: Option<u64> = statement.query_row(row, |row| row.get(0)).optional()?;
    counts.dead_bytes += bytes.unwrap_or(0);
    Ok(())
}

/// Ends that a dead letter is delivered again: it is done, or dead again. Whether it is to be delivered once more, since that was asked for
/// meanwhile.
pub(super) fn settle(
    connection: &Connection,
    counts: &mut Counts,
    number: u64,
    outcome: Option<&DiedAgain>,
    now_ms: u64,
) -> Result<bool, TopicError> {
    let Some(DiedAgain { tries, retry, death }) = outcome else {
        remove(connection, counts, number)?;
        return Ok(false);
    };
    let of_before = format!("SELECT {BYTES} FROM dead WHERE number = ?1");
    let before: Option<u64> =
        connection.prepare_cached(&of_before)?.query_row([number], |row| row.get(0)).optional()?;
    // It is gone.
    let Some(before) = before else { return Ok(false) };
    // Its copy, if there is to be one, was made when it died first.
    let sql = format!(
        "UPDATE dead SET died_ms = ?2, tries = tries + ?3, reason = ?4, status = ?5, answer = ?6, again = again AND retries > ?7
         WHERE number = ?1 RETURNING {BYTES}, again"
    );
    let row = (number, now_ms, tries, short(&death.reason), death.status, beginning(&death.answer), retry);
    let mut statement = connection.prepare_cached(&sql)?;
    let (bytes, again): (u64, bool) = statement.query_row(row, |row| Ok((row.get(0)?, row.get(1)?)))?;
    counts.dead_bytes = counts.dead_bytes.saturating_sub(before) + bytes;
    Ok(again)
}

/// Removes the oldest dead letters while a consumer has too many, or the topic too much. Answers how many had no copy yet.
pub(super) fn bound(connection: &Connection, counts: &mut Counts, consumer: &str) -> Result<u64, TopicError> {
    let mut uncopied = 0;
    let sql = "SELECT count(*) FROM dead WHERE consumer = ?1";
    let count: u64 = connection.prepare_cached(sql)?.query_row([consumer], |row| row.get(0))?;
    if count > MAX_DEAD {
        let sql = "SELECT number FROM dead WHERE consumer = ?1 ORDER BY number LIMIT ?2";
        let mut statement = connection.prepare_cached(sql)?;
        let oldest = statement.query_map((consumer, count - MAX_DEAD), |row| row.get(0))?;
        for number in oldest.collect::<Result<Vec<u64>, _>>()? {
            uncopied += u64::from(remove(connection, counts, number)?);
        }
    }
    let most = counts.max_bytes.unwrap_or(0).max(LEAST_DEAD_BYTES);
    while counts.dead_bytes > most {
        let sql = "SELECT number FROM dead ORDER BY number LIMIT 1";
        let oldest: Option<u64> = connection.prepare_cached(sql)?.query_row([], |row| row.get(0)).optional()?;
        let Some(number) = oldest else { break };
        uncopied += u64::from(remove(connection, counts, number)?);
    }
    Ok(uncopied)
}

/// Removes those that died before, at most so many. Answers how many, and how many of them had no copy yet.
pub(super) fn drop_old(
    connection: &Connection,
    counts: &mut Counts,
    before_ms: u64,
    most: usize,
) -> Result<(u64, u64), TopicError> {
    // One that died again has a later time than those after it, and has them wait for it: at most as long as it is kept itself.
    let mut old = Vec::new();
    {
        let mut statement = connection.prepare_cached("SELECT number, died_ms FROM dead ORDER BY number")?;
        let mut rows = statement.query([])?;
        while old.len() < most
            && let Some(row) = rows.next()?
            && row.get::<_, u64>(1)? < before_ms
        {
            old.push(row.get::<_, u64>(0)?);
        }
    }
    let mut uncopied = 0;
    for number in &old {
        uncopied += u64::from(remove(connection, counts, *number)?);
    }
    Ok((old.len() as u64, uncopied))
}

/// A copy that another topic is to get.
struct Copy {
    number: u64,
    to: StoreName,
    event: Event,
}

/// The next copies behind the dead letter `after`, `but` for those of some topics.
fn copies(
    connection: &Connection,
    topic: &StoreName,
    after: u64,
    but: &BTreeSet<StoreName>,
) -> Result<Vec<Copy>, TopicError> {
    let but = serde_json::Value::from(but.iter().map(StoreName::as_str).collect::<Vec<_>>()).to_string();
    let mut statement = connection.prepare_cached(
        "SELECT number, forward, consumer, tries, reason, status, head, data FROM dead
         WHERE forward IS NOT NULL AND number > ?1 AND forward NOT IN (SELECT value FROM json_each(?2)) ORDER BY number",
    )?;
    let (mut rows, mut found, mut bytes) = (statement.query((after, but))?, Vec::new(), 0);
    while found.len() < FORWARDED_AT_ONCE
        && bytes < FORWARDED_BYTES
        && let Some(row) = rows.next()?
    {
        let event = copy(topic, row)?;
        bytes += event.size();
        found.push(Copy { number: row.get(0)?, to: name(row, 1)?, event });
    }
    Ok(found)
}

/// The event of a dead letter's copy: its own, and what became of it. Its id is the same each time that it is made, so that one that was
/// published before a crash is not taken twice, and another than that of the same message's death after a replay.
fn copy(topic: &StoreName, row: &Row<'_>) -> Result<Event, TopicError> {
    let mut event = Event { data: rows::bytes(row, 7)?, ..rows::attributes_of_dead(row, 6) };
    let function: FunctionName = name(row, 2)?;
    let (number, tries): (u64, u32) = (row.get(0)?, row.get(3)?);
    let (reason, status): (String, Option<u16>) = (row.get(4)?, row.get(5)?);
    let told = [
        ("deadletterid", Some(event.id.to_string())),
        ("deadlettertopic", Some(topic.to_string())),
        ("deadletterfunction", Some(function.to_string())),
        ("deadletterreason", Some(reason)),
        ("deadlettertries", Some(tries.to_string())),
        ("deadletterstatus", status.map(|status| status.to_string())),
    ];
    for (attribute, value) in told {
        if let (Ok(attribute), Some(value)) = (attribute.parse::<AttributeName>(), value) {
            event.extensions.insert(attribute, value);
        }
    }
    event.id = format!("dead-{topic}-{function}-{number}").into();
    Ok(event)
}

/// A reason as it is kept: a line, and short enough for an attribute.
fn short(reason: &str) -> String {
    let mut line = String::with_capacity(reason.len().min(MAX_REASON_BYTES));
    for c in reason.chars().map(|c| if c.is_control() { ' ' } else { c }) {
        if line.len() + c.len_utf8() > MAX_REASON_BYTES {
            break;
        }
        line.push(c);
    }
    line
}

fn beginning(answer: &[u8]) -> &[u8] {
    answer.get(..MAX_DEAD_ANSWER_BYTES).unwrap_or(answer)
}
