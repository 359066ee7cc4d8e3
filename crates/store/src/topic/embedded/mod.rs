//! Topics in SQLite files, one each: `DIR/TENANT/APP/NAME.db`, through [`OpenStores`].
//!
//! A publish is a write of its file, so that those who publish and those who acknowledge share commits. [`rows`] has the tables,
//! [`retain`] what goes, [`consumer`] deliveries, [`dead`] dead letters.

mod consumer;
mod dead;
mod retain;
mod rows;

use std::{
    collections::{HashMap, HashSet},
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Instant,
};

use minnow_model::{AppName, FunctionName, StoreId, StoreName, Tenant, event::From};
use rusqlite::{Connection, OptionalExtension as _};
use tokio::sync::Semaphore;

pub(super) use self::consumer::Consumer;
use self::{
    consumer::Shared,
    retain::{ConsumerRow, Done, Expired, IdTime, Need, SweptSome},
    rows::Counts,
};
use super::{
    Bound, ConsumerSurvey, Hook, Logged, MAX_PAGE_BYTES, Outgoing, Page, Ready, Sent, Survey, Swept, To, TopicError,
    TopicRules, check, window::Moment,
};
use crate::{
    Database, StoreError,
    database::Tuning,
    kv::Clock,
    open::{OpenBounds, OpenStores},
    snapshot::{self, Expected, Hold},
};

/// Data of messages that wait to be written to one topic, in bytes. A publish goes on when its caller stops waiting, so who gives up and
/// comes again would fill the node's memory otherwise.
pub(super) const QUEUED_BYTES: u32 = 16 << 20;
/// Pages that each connection of a topic keeps in memory, in KiB: what is read was written just before, or is read once.
const CACHE_KIB: u32 = 512;
/// Messages that become due and are given their positions in one write, and their data in bytes: some milliseconds.
const DUE_AT_ONCE: usize = 500;
const DUE_BYTES: usize = 4 << 20;
/// What a sweep removes in one write: some 10 ms of the writer, for which the publishers of the topic wait.
const SWEPT_AT_ONCE: usize = 5000;

/// The time of a topic.
#[derive(Clone)]
pub(super) struct Times {
    /// Milliseconds since 1970.
    pub wall: Clock,
    /// Milliseconds since some moment, by a clock that nobody sets. A wait that runs goes by it.
    pub running: Clock,
}

impl Times {
    pub(super) fn real(wall: Clock) -> Self {
        let started = Instant::now();
        Self { wall, running: Arc::new(move || started.elapsed().as_millis() as u64) }
    }

    fn now(&self) -> Moment {
        Moment { wall_ms: (self.wall)(), running_ms: (self.running)() }
    }
}

/// What topics may use.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct TopicBounds {
    pub open: OpenBounds,
}

type OfFunction = (StoreId, FunctionName);

#[derive(Clone)]
pub(super) struct Embedded {
    pub(super) stores: OpenStores<Open>,
    times: Times,
    common: Arc<Common>,
}

/// What the topics of a node have in common, in memory.
#[derive(Default)]
struct Common {
    hook: OnceLock<Hook>,
    /// Those that are consumed now.
    consumed: Mutex<HashMap<OfFunction, Weak<Shared>>>,
    /// Messages that went before a function was done with them, since the node started.
    expired: Mutex<HashMap<OfFunction, u64>>,
    /// Topics whose dead letters are being forwarded, and whether to look once more then.
    forwarding: Mutex<HashMap<StoreId, bool>>,
}

/// A topic that is open.
pub(super) struct Open {
    pub(super) database: Database,
    /// [`QUEUED_BYTES`].
    pub(super) queue: Arc<Semaphore>,
    /// What the file may take, as it was set last.
    file_bytes: Arc<AtomicU64>,
    done: Arc<Done>,
}

/// The largest file of a topic with these bytes: its messages and its dead letters, each with what SQLite adds to small ones, ids, and
/// some room to write.
fn file_bytes(max_bytes: u64) -> u64 {
    max_bytes.saturating_mul(3).saturating_add(64 << 20)
}

/// Sets the largest size of the file, where it is another than before. On the writer's connection.
fn bound_file(connection: &Connection, set: &AtomicU64, max_bytes: u64) -> Result<(), TopicError> {
    let bytes = file_bytes(max_bytes);
    if set.load(Ordering::Relaxed) != bytes {
        let page_bytes: u64 = connection.pragma_query_value(None, "page_size", |row| row.get(0))?;
        connection.pragma_update_and_check(None, "max_page_count", bytes / page_bytes.max(1), |_| Ok(()))?;
        set.store(bytes, Ordering::Relaxed);
    }
    Ok(())
}

/// [`bound_file`] by the rules that the topic had last: those who write a file that was opened again may not know them.
fn bound_known(connection: &Connection, set: &AtomicU64) -> Result<(), TopicError> {
    Counts::load(connection)?.max_bytes.map_or(Ok(()), |max_bytes| bound_file(connection, set, max_bytes))
}

/// Whether the file of a topic, as a backup has it, is sound. Blocking.
pub(super) fn check_file(path: &Path) -> Result<(), StoreError> {
    snapshot::check(path, Expected::Schema(rows::SCHEMA))
}

/// An event on its way into the file.
struct Entry {
    id: Arc<str>,
    delay_ms: u64,
    digest: Option<[u8; 16]>,
    head: String,
    data: bytes::Bytes,
}

impl Entry {
    fn bytes(&self) -> u64 {
        (self.head.len() + self.data.len()) as u64
    }
}

/// What a publish came to.
struct Published {
    /// Or why there was no room. What was removed for it stays removed.
    sent: Result<Vec<Sent>, Bound>,
    expired: Expired,
    has_new: bool,
    first_due_ms: Option<u64>,
}

impl Embedded {
    pub(super) fn open(dir: &Path, times: Times, bounds: TopicBounds) -> Result<Self, StoreError> {
        let readers = thread::available_parallelism().map_or(2, |cores| cores.get());
        // Until its rules are known, what a topic may have that says nothing.
        let first_bytes = file_bytes(minnow_model::event::DEFAULT_TOPIC_BYTES);
        let tuning = Tuning { readers, cache_kib: CACHE_KIB, max_bytes: Some(first_bytes), alone: true };
        let open = move |path: &Path| {
            let database = Database::open_tuned(path, rows::SCHEMA, tuning)?;
            let queue = Arc::new(Semaphore::new(QUEUED_BYTES as usize));
            Ok(Open { database, queue, file_bytes: Arc::new(AtomicU64::new(first_bytes)), done: Arc::default() })
        };
        Ok(Self { stores: OpenStores::new(dir, bounds.open, open)?, times, common: Arc::default() })
    }

    pub(super) fn on_ready(&self, hook: Hook) {
        // The first one stays.
        let _ = self.common.hook.set(hook);
    }

    pub(super) async fn publish(
        &self,
        topic: &StoreId,
        rules: &TopicRules,
        events: Vec<Outgoing>,
    ) -> Result<Vec<Sent>, TopicError> {
        check::outgoing(&events)?;
        self.append(topic, rules, events).await
    }

    /// [`Embedded::publish`] of what was checked.
    async fn append(
        &self,
        topic: &StoreId,
        rules: &TopicRules,
        events: Vec<Outgoing>,
    ) -> Result<Vec<Sent>, TopicError> {
        if events.is_empty() {
            return Ok(Vec::new());
        }
        let entries = events.into_iter().map(entry).collect::<Result<Vec<_>, _>>()?;
        let open = self.stores.or_create(topic).await.map_err(|error| self.at(topic, error))?;
        let bytes: u64 = entries.iter().map(Entry::bytes).sum();
        let bytes = u32::try_from(bytes).unwrap_or(QUEUED_BYTES).min(QUEUED_BYTES);
        let queued = Arc::clone(&open.queue).acquire_many_owned(bytes).await.map_err(|_| StoreError::Stopped)?;
        let (rules, clock, file_bytes) = (*rules, Arc::clone(&self.times.wall), Arc::clone(&open.file_bytes));
        let done = Arc::clone(&open.done);
        let work = move |connection: &Connection| {
            let _queued = queued;
            bound_file(connection, &file_bytes, rules.max_bytes)?;
            take(connection, &rules, &entries, clock(), &done)
        };
        let (common, id) = (Arc::clone(&self.common), topic.clone());
        let then = move |published: &Published| {
            common.note_expired(&id, &published.expired);
            if published.has_new {
                common.ready(&id, Ready::Now);
            }
            if let Some(due_ms) = published.first_due_ms {
                common.ready(&id, Ready::Due(due_ms));
            }
        };
        let published =
            open.database.write_then(work, then).await.map_err(|error: TopicError| self.at(topic, error))?;
        published.sent.map_err(TopicError::Full)
    }

    pub(super) async fn ensure(
        &self,
        topic: &StoreId,
        rules: &TopicRules,
        consumers: &[(FunctionName, From)],
    ) -> Result<(), TopicError> {
        let open = self.stores.or_create(topic).await.map_err(|error| self.at(topic, error))?;
        let (rules, consumers) = (*rules, consumers.to_vec());
        let (now_ms, file_bytes) = ((self.times.wall)(), Arc::clone(&open.file_bytes));
        let done = Arc::clone(&open.done);
        let work = move |connection: &Connection| -> Result<(), TopicError> {
            done.changed();
            bound_file(connection, &file_bytes, rules.max_bytes)?;
            let counts = Counts::under(&rules, connection)?;
            counts.save(connection)?;
            let named: HashSet<&str> = consumers.iter().map(|(name, _)| name.as_str()).collect();
            let there = retain::consumers(connection)?;
            for consumer in there.iter().filter(|consumer| !named.contains(consumer.name.as_str())) {
                let sql = "UPDATE consumer SET left_ms = ?2 WHERE name = ?1 AND left_ms IS NULL";
                connection.prepare_cached(sql)?.execute((&consumer.name, now_ms))?;
            }
            // Its generation is one that no consumer of this name had before, also in a topic that was deleted.
            let sql = "INSERT INTO consumer (name, upto, generation, left_ms) VALUES (?1, ?2, ?3, NULL)
                       ON CONFLICT (name) DO UPDATE SET left_ms = NULL";
            for (name, from) in &consumers {
                let upto = match from {
                    From::Now => counts.next - 1,
                    From::Start => 0,
                };
                connection.prepare_cached(sql)?.execute((name.as_str(), upto, now_ms.max(1)))?;
            }
            Ok(())
        };
        open.database.write(work).await.map_err(|error| self.at(topic, error))
    }

    pub(super) async fn survey(&self, topic: &StoreId) -> Result<Survey, TopicError> {
        let now = self.times.now();
        let read = self.read(topic, move |connection| survey(connection, now).map(Some)).await?;
        let mut survey = read.unwrap_or_default();
        let consumers = std::mem::take(&mut survey.consumers);
        survey.consumers = consumers.into_iter().map(|consumer| self.with_memory(topic, consumer)).collect();
        Ok(survey)
    }

    pub(super) async fn survey_of(
        &self,
        topic: &StoreId,
        function: &FunctionName,
    ) -> Result<Option<ConsumerSurvey>, TopicError> {
        let (now, name) = (self.times.now(), function.clone());
        let read = move |connection: &Connection| {
            let found = retain::consumers(connection)?.into_iter().find(|consumer| consumer.name == name.as_str());
            let Some(consumer) = found else { return Ok(None) };
            consumer_survey(connection, rows::ends(connection)?, &consumer, name, now).map(Some)
        };
        let read = self.read(topic, read).await?;
        Ok(read.map(|consumer| self.with_memory(topic, consumer)))
    }

    /// What the node knows of a consumer beside what is in the file.
    fn with_memory(&self, topic: &StoreId, mut consumer: ConsumerSurvey) -> ConsumerSurvey {
        let key = (topic.clone(), consumer.function.clone());
        consumer.expired = lock(&self.common.expired).get(&key).copied().unwrap_or_default();
        consumer.outstanding = self.common.consumed(&key).map_or(0, |shared| shared.outstanding() as u64);
        consumer
    }

    pub(super) async fn release_due(&self, topic: &StoreId, rules: &TopicRules) -> Result<Option<u64>, TopicError> {
        let Some(open) = self.stores.existing(topic).await.map_err(|error| self.at(topic, error))? else {
            return Ok(None);
        };
        loop {
            let (rules, clock, file_bytes) = (*rules, Arc::clone(&self.times.wall), Arc::clone(&open.file_bytes));
            let work = move |connection: &Connection| {
                bound_file(connection, &file_bytes, rules.max_bytes)?;
                release(connection, clock())
            };
            let (common, id) = (Arc::clone(&self.common), topic.clone());
            let then = move |released: &Released| {
                if released.count > 0 {
                    common.ready(&id, Ready::Now);
                }
            };
            let released = open.database.write_then(work, then).await;
            let released = released.map_err(|error: TopicError| self.at(topic, error))?;
            if released.count == 0 || released.next_ms.is_none_or(|next_ms| next_ms > (self.times.wall)()) {
                return Ok(released.next_ms);
            }
        }
    }

    pub(super) async fn page(
        &self,
        topic: &StoreId,
        after: u64,
        since_ms: Option<u64>,
        limit: u32,
    ) -> Result<Page, TopicError> {
        check::limit(limit)?;
        let now_ms = (self.times.wall)();
        let read = move |connection: &Connection| {
            let counts = Counts::load(connection)?;
            let since_ms = since_ms.unwrap_or(0).max(counts.oldest_ms(now_ms));
            // Nothing has a higher one than SQLite's numbers go.
            let from = after.saturating_add(1).min(rows::MAX_NUMBER);
            let from = from.max(rows::first_since(connection, since_ms, counts.next)?);
            let mut statement = connection.prepare_cached(
                "SELECT position, time_ms, head, data FROM message WHERE position >= ?1 ORDER BY position",
            )?;
            let (mut rows, mut bytes) = (statement.query([from])?, 0);
            let mut page = Page { messages: Vec::new(), last: counts.next - 1 };
            while page.messages.len() < limit as usize
                && let Some(row) = rows.next()?
            {
                let event = rows::event(row, 2, 3)?;
                bytes += event.size();
                if bytes > MAX_PAGE_BYTES && !page.messages.is_empty() {
                    break;
                }
                page.messages.push(Logged { position: row.get(0)?, time_ms: row.get(1)?, event: Arc::new(event) });
            }
            Ok(Some(page))
        };
        Ok(self.read(topic, read).await?.unwrap_or_default())
    }

    pub(super) async fn replay(&self, topic: &StoreId, function: &FunctionName, to: To) -> Result<(), TopicError> {
        let none = || TopicError::NoConsumer(function.clone());
        let open = self.stores.existing(topic).await.map_err(|error| self.at(topic, error))?.ok_or_else(none)?;
        let (name, file_bytes) = (function.clone(), Arc::clone(&open.file_bytes));
        let done = Arc::clone(&open.done);
        let work = move |connection: &Connection| -> Result<(u64, u64), TopicError> {
            done.changed();
            bound_known(connection, &file_bytes)?;
            let counts = Counts::load(connection)?;
            let first = match to {
                To::Position(position) => position.clamp(1, counts.next),
                To::Time(since_ms) => rows::first_since(connection, since_ms, counts.next)?,
            };
            let mut statement = connection.prepare_cached(
                "UPDATE consumer SET upto = ?2, generation = generation + 1 WHERE name = ?1 RETURNING generation",
            )?;
            let generation = statement.query_row((name.as_str(), first - 1), |row| row.get(0)).optional()?;
            let generation = generation.ok_or_else(|| TopicError::NoConsumer(name.clone()))?;
            connection.prepare_cached("DELETE FROM hole WHERE consumer = ?1")?.execute([name.as_str()])?;
            Ok((generation, first - 1))
        };
        let (common, key) = (Arc::clone(&self.common), (topic.clone(), function.clone()));
        let then = move |(generation, upto): &(u64, u64)| {
            if let Some(shared) = common.consumed(&key) {
                shared.replay(*generation, *upto);
            }
            common.ready(&key.0, Ready::Now);
        };
        open.database.write_then(work, then).await.map_err(|error| self.at(topic, error))?;
        Ok(())
    }

    pub(super) async fn sweep(&self, topic: &StoreId, rules: &TopicRules) -> Result<Swept, TopicError> {
        let Some(open) = self.stores.existing(topic).await.map_err(|error| self.at(topic, error))? else {
            return Ok(Swept::default());
        };
        let mut swept = Swept::default();
        loop {
            let (rules, clock, file_bytes) = (*rules, Arc::clone(&self.times.wall), Arc::clone(&open.file_bytes));
            let done = Arc::clone(&open.done);
            let work = move |connection: &Connection| {
                done.changed();
                bound_file(connection, &file_bytes, rules.max_bytes)?;
                retain::sweep(connection, &rules, clock(), SWEPT_AT_ONCE)
            };
            let (common, id) = (Arc::clone(&self.common), topic.clone());
            let then = move |some: &SweptSome| common.note_expired(&id, &some.expired);
            let some = open.database.write_then(work, then).await.map_err(|error: TopicError| self.at(topic, error))?;
            let SweptSome { swept: some, uncopied, more, expired: _ } = some;
            dead::tell_uncopied(topic, uncopied);
            swept.messages += some.messages;
            swept.dead += some.dead;
            swept.consumers += some.consumers;
            if !more {
                return Ok(swept);
            }
        }
    }

    pub(super) fn list_stores(&self, tenant: &Tenant, app: &AppName) -> Result<Vec<(StoreName, u64)>, TopicError> {
        Ok(self.stores.list(tenant, app)?)
    }

    pub(super) async fn delete_app(&self, tenant: &Tenant, app: &AppName) -> Result<(), TopicError> {
        self.stores.delete_app(tenant, app, |_| ()).await?;
        self.common.forget_app(tenant, app);
        Ok(())
    }

    pub(super) async fn move_app(&self, tenant: &Tenant, app: &AppName, to: &Path) -> Result<bool, TopicError> {
        let moved = self.stores.move_app(tenant, app, to, |_| ()).await?;
        self.common.forget_app(tenant, app);
        Ok(moved)
    }

    pub(super) async fn adopt_app(&self, tenant: &Tenant, app: &AppName, from: &Path) -> Result<(), TopicError> {
        Ok(self.stores.adopt_app(tenant, app, from).await?)
    }

    pub(super) async fn hold(&self, topic: &StoreId) -> Result<Option<Hold>, TopicError> {
        let Some(open) = self.stores.existing(topic).await.map_err(|error| self.at(topic, error))? else {
            return Ok(None);
        };
        let held = open.database.hold().await?;
        Ok(Some(Hold::new(self.stores.path(topic), (held, open))))
    }

    pub(super) fn apps(&self) -> Result<Vec<(Tenant, AppName)>, TopicError> {
        Ok(self.stores.apps()?)
    }

    pub(super) fn open_stores(&self) -> usize {
        self.stores.count()
    }

    /// Whether there is a consumer of the function, also one that writes its last.
    #[cfg(test)]
    pub(super) fn is_consumed(&self, topic: &StoreId, function: &FunctionName) -> bool {
        self.common.consumed(&(topic.clone(), function.clone())).is_some()
    }

    /// Names the topic's file in an error.
    fn at(&self, topic: &StoreId, error: impl Into<TopicError>) -> TopicError {
        error.into().at(&self.stores.path(topic))
    }

    /// Reads on a thread that may block. A topic that has no file reads as `None`.
    async fn read<T: Send + 'static>(
        &self,
        topic: &StoreId,
        work: impl FnOnce(&Connection) -> Result<Option<T>, TopicError> + Send + 'static,
    ) -> Result<Option<T>, TopicError> {
        let read = async {
            let Some(open) = self.stores.existing(topic).await? else { return Ok(None) };
            // Of one moment, with what it counts.
            open.database.read(|connection| work(&*connection.unchecked_transaction()?)).await
        };
        read.await.map_err(|error: TopicError| self.at(topic, error))
    }
}

impl Common {
    fn ready(&self, topic: &StoreId, ready: Ready) {
        if let Some(hook) = self.hook.get() {
            hook(topic, ready);
        }
    }

    /// The consumer of a function in a topic, while there is one.
    fn consumed(&self, key: &OfFunction) -> Option<Arc<Shared>> {
        lock(&self.consumed).get(key)?.upgrade()
    }

    fn note_expired(&self, topic: &StoreId, expired: &Expired) {
        let mut counted = lock(&self.expired);
        for (name, count) in expired.iter() {
            if let Ok(function) = name.parse() {
                *counted.entry((topic.clone(), function)).or_default() += count;
            }
        }
    }

    /// The topics of the app are not there any more.
    fn forget_app(&self, tenant: &Tenant, app: &AppName) {
        let is_of_app = |topic: &StoreId| topic.tenant == *tenant && topic.app == *app;
        lock(&self.expired).retain(|(topic, _), _| !is_of_app(topic));
        let mut gone = Vec::new();
        lock(&self.consumed).retain(|(topic, _), shared| {
            if is_of_app(topic) {
                gone.extend(shared.upgrade());
            }
            !is_of_app(topic)
        });
        gone.iter().for_each(|shared| shared.lose_topic());
    }
}

fn entry(outgoing: Outgoing) -> Result<Entry, TopicError> {
    let Outgoing { event, delay, has_own_id } = outgoing;
    Ok(Entry {
        delay_ms: ms(delay),
        digest: has_own_id.then(|| rows::digest(&event)),
        head: rows::head(&event)?,
        id: event.id,
        data: event.data,
    })
}

/// Takes messages into the file, where there is room.
fn take(
    connection: &Connection,
    rules: &TopicRules,
    entries: &[Entry],
    now_ms: u64,
    done: &Done,
) -> Result<Published, TopicError> {
    let mut counts = Counts::under(rules, connection)?;
    let (time_ms, id_time) = (counts.last_ms.max(now_ms), IdTime::of(&counts, now_ms));
    // Also within the publish an id is taken once.
    let mut firsts: HashMap<[u8; 16], usize> = HashMap::new();
    let mut duplicates = Vec::with_capacity(entries.len());
    let (mut need, mut ids) = (Need::default(), 0);
    for (index, entry) in entries.iter().enumerate() {
        let duplicate = match entry.digest {
            None => None,
            Some(digest) => {
                ids += 1;
                let before = rows::seen(connection, &digest)?.filter(|(_, seen_ms)| id_time.remembers(*seen_ms));
                match before {
                    Some((place, _)) => Some(Duplicate::Before(u64::try_from(place).ok())),
                    None => match firsts.entry(digest) {
                        std::collections::hash_map::Entry::Occupied(first) => Some(Duplicate::Of(*first.get())),
                        std::collections::hash_map::Entry::Vacant(first) => {
                            first.insert(index);
                            None
                        }
                    },
                }
            }
        };
        if duplicate.is_none() {
            need.messages += 1;
            need.bytes += entry.bytes();
        }
        duplicates.push(duplicate);
    }
    retain::forget_ids(connection, id_time, 2 * ids)?;
    let mut expired = Expired::default();
    if let Err(bound) = retain::make_room(connection, rules, &mut counts, need, now_ms, done, &mut expired)? {
        counts.save(connection)?;
        return Ok(Published { sent: Err(bound), expired, has_new: false, first_due_ms: None });
    }
    let mut sent: Vec<Sent> = Vec::with_capacity(entries.len());
    let (mut has_new, mut first_due_ms) = (false, None::<u64>);
    for (entry, duplicate) in entries.iter().zip(duplicates) {
        let id = Arc::clone(&entry.id);
        match duplicate {
            Some(Duplicate::Before(position)) => sent.push(Sent { id, position, duplicate: true }),
            Some(Duplicate::Of(first)) => {
                let position = sent.get(first).and_then(|first| first.position);
                sent.push(Sent { id, position, duplicate: true });
            }
            None => {
                let position = if entry.delay_ms == 0 {
                    has_new = true;
                    let position = counts.next;
                    rows::insert(connection, position, time_ms, &entry.head, &entry.data)?;
                    counts.next += 1;
                    Ok(position)
                } else {
                    let due_ms = now_ms.saturating_add(entry.delay_ms);
                    first_due_ms = Some(first_due_ms.map_or(due_ms, |first| first.min(due_ms)));
                    Err(rows::insert_delayed(connection, due_ms, time_ms, &entry.head, &entry.data)?)
                };
                if let Some(digest) = &entry.digest {
                    let place = position.map_or_else(|number| -number, |position| position as i64);
                    rows::remember(connection, place, id_time.ms, digest)?;
                }
                sent.push(Sent { id, position: position.ok(), duplicate: false });
            }
        }
    }
    counts.messages += need.messages;
    counts.bytes += need.bytes;
    // Not that of one that is held back: it may be in the file before those that are older then.
    counts.last_ms = time_ms;
    counts.save(connection)?;
    Ok(Published { sent: Ok(sent), expired, has_new, first_due_ms })
}

/// An id that was there before.
enum Duplicate {
    /// At this position; `None` where the first is held back.
    Before(Option<u64>),
    /// The one of this index in the same publish.
    Of(usize),
}

/// What [`release`] did.
struct Released {
    count: usize,
    next_ms: Option<u64>,
}

/// Gives positions to some of the messages whose delay is over.
fn release(connection: &Connection, now_ms: u64) -> Result<Released, TopicError> {
    let mut counts = Counts::load(connection)?;
    let time_ms = counts.last_ms.max(now_ms);
    let mut due = Vec::new();
    {
        let mut statement = connection
            .prepare_cached("SELECT number, head, data FROM delayed WHERE due_ms <= ?1 ORDER BY due_ms, number")?;
        let (mut rows, mut bytes) = (statement.query([now_ms])?, 0);
        while due.len() < DUE_AT_ONCE
            && bytes < DUE_BYTES
            && let Some(row) = rows.next()?
        {
            let (head, data): (String, Vec<u8>) = (row.get(1)?, row.get(2)?);
            bytes += head.len() + data.len();
            due.push((row.get::<_, i64>(0)?, head, data));
        }
    }
    for (number, head, data) in &due {
        rows::insert(connection, counts.next, time_ms, head, data)?;
        connection.prepare_cached("DELETE FROM delayed WHERE number = ?1")?.execute([number])?;
        let sql = "UPDATE seen SET position = ?2 WHERE position = ?1";
        connection.prepare_cached(sql)?.execute((-number, counts.next))?;
        counts.next += 1;
    }
    if !due.is_empty() {
        counts.last_ms = time_ms;
        counts.save(connection)?;
    }
    Ok(Released { count: due.len(), next_ms: next_delayed(connection)? })
}

fn next_delayed(connection: &Connection) -> Result<Option<u64>, TopicError> {
    Ok(connection.prepare_cached("SELECT min(due_ms) FROM delayed")?.query_row([], |row| row.get(0))?)
}

fn survey(connection: &Connection, now: Moment) -> Result<Survey, TopicError> {
    let count = |sql: &str| connection.prepare_cached(sql)?.query_row([], |row| row.get::<_, u64>(0));
    let counts = Counts::load(connection)?;
    let ends = rows::ends(connection)?;
    let mut survey = Survey {
        messages: counts.messages,
        bytes: counts.bytes,
        first: ends.map(|(first, _)| first),
        last: ends.map(|(_, last)| last),
        delayed: count("SELECT count(*) FROM delayed")?,
        next_delayed_ms: next_delayed(connection)?,
        to_forward: count("SELECT count(*) FROM dead WHERE forward IS NOT NULL")?,
        consumers: Vec::new(),
    };
    for consumer in retain::consumers(connection)? {
        let Ok(function) = consumer.name.parse::<FunctionName>() else { continue };
        survey.consumers.push(consumer_survey(connection, ends, &consumer, function, now)?);
    }
    Ok(survey)
}

/// How it stands with one consumer, as the file has it. `ends` are the first and the last position.
fn consumer_survey(
    connection: &Connection,
    ends: Option<(u64, u64)>,
    consumer: &ConsumerRow,
    function: FunctionName,
    now: Moment,
) -> Result<ConsumerSurvey, TopicError> {
    let of_holes =
        "SELECT count(*), coalesce(sum(tries > 0), 0), min(position), min(due_ms) FROM hole WHERE consumer = ?1";
    let of_dead = "SELECT count(*) FROM dead WHERE consumer = ?1";
    let of_again = "SELECT count(*) FROM dead WHERE consumer = ?1 AND again = 1";
    let name = [consumer.name.as_str()];
    let (holes, retrying, first_hole, next_due_ms): (u64, u64, Option<u64>, Option<u64>) = connection
        .prepare_cached(of_holes)?
        .query_row(name, |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?;
    let again: u64 = connection.prepare_cached(of_again)?.query_row(name, |row| row.get(0))?;
    // Positions are missing only before the first, and between those that are done.
    let behind = ends.map_or(0, |(first, last)| last.saturating_sub(consumer.upto.max(first.saturating_sub(1))));
    let next = (behind > 0).then(|| consumer.upto + 1);
    let oldest = [first_hole, next].into_iter().flatten().min();
    let sql = "SELECT time_ms FROM message WHERE position >= ?1 ORDER BY position";
    let oldest_ms = match oldest {
        Some(position) => connection.prepare_cached(sql)?.query_row([position], |row| row.get(0)).optional()?,
        None => None,
    };
    Ok(ConsumerSurvey {
        function,
        left_ms: consumer.left_ms,
        has_work: behind > 0 || again > 0 || next_due_ms.is_some_and(|due_ms| due_ms <= now.wall_ms),
        next_due_ms,
        lag: behind + holes,
        oldest_ms,
        outstanding: 0,
        retrying,
        dead: connection.prepare_cached(of_dead)?.query_row(name, |row| row.get(0))?,
        expired: 0,
    })
}

/// Milliseconds, as rows have them.
fn ms(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
