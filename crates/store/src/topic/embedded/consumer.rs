//! What one function is delivered of a topic: the window in memory, and the writes that follow it.

use std::{
    hash::{BuildHasher as _, RandomState},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use minnow_model::{
    FunctionName, StoreId,
    event::{Event, takes},
};
use rusqlite::{Connection, OptionalExtension as _, Row};
use tokio::{runtime::Handle, sync::watch};

use super::{
    super::{
        At, ConsumerOptions, Death, Delivery, Settled, TopicError,
        check::delivered_bytes,
        window::{Begun, Changes, Flight, Hole, Moment, Offered, Stored, Window},
    },
    Embedded, bound_known, dead, lock,
    rows::{self, Counts},
};
use crate::StoreError;

/// Messages that are looked at before the thread serves others: a millisecond. Those that are delivered count as well.
const LOOKED_AT_ONCE: usize = 1000;

/// The consumer of a function, as its user has it.
pub(in super::super) struct Consumer {
    shared: Arc<Shared>,
}

/// The consumer of a function, as its user, its writes and those who change it have it.
pub(super) struct Shared {
    embedded: Embedded,
    topic: StoreId,
    function: FunctionName,
    options: ConsumerOptions,
    /// Makes numbers of keys. Two keys of one number only cost that they wait for each other.
    hash: RandomState,
    state: Mutex<State>,
    /// Held while a batch is put together.
    turn: tokio::sync::Mutex<()>,
    progress: watch::Sender<Progress>,
}

#[derive(Default)]
struct State {
    window: Window,
    /// What is to be written, in this order, before what the window has.
    queue: Vec<Arc<Changes>>,
    /// Counts what was settled.
    asked: u64,
    writes: bool,
    /// Its user has dropped it.
    closed: bool,
    /// The topic was deleted.
    gone: bool,
}

/// How far the writes have come.
#[derive(Debug, Clone, Default)]
struct Progress {
    /// All that was asked for up to here is on the disk.
    written: u64,
    /// What was asked for up to here was tried, and failed.
    failed: u64,
    error: Option<Arc<TopicError>>,
    /// Nothing of a consumer that was closed comes any more.
    ended: bool,
}

/// What a look at the file came to.
enum Step {
    Found(Vec<Delivery>),
    /// There is more to look at.
    Again,
    /// It was set to another place, or made anew.
    Moved,
}

impl Embedded {
    pub(in super::super) async fn consumer(
        &self,
        topic: &StoreId,
        function: &FunctionName,
        options: ConsumerOptions,
    ) -> Result<Consumer, TopicError> {
        let key = (topic.clone(), function.clone());
        let shared = Arc::new(Shared {
            embedded: self.clone(),
            topic: topic.clone(),
            function: function.clone(),
            options,
            hash: RandomState::new(),
            state: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
            progress: watch::Sender::default(),
        });
        loop {
            let before = {
                let mut consumed = lock(&self.common.consumed);
                let before = consumed.get(&key).and_then(|before| before.upgrade());
                if before.is_none() {
                    consumed.insert(key.clone(), Arc::downgrade(&shared));
                }
                before
            };
            let Some(before) = before else { break };
            if !before.state().closed {
                return Err(TopicError::Busy);
            }
            // It writes what was settled.
            let mut progress = before.progress.subscribe();
            drop(before);
            // It went with its user.
            let _ = progress.wait_for(|progress| progress.ended).await;
        }
        // Dropped on an error, it gives the place up again.
        let consumer = Consumer { shared };
        consumer.shared.load().await?;
        Ok(consumer)
    }
}

impl Consumer {
    pub(in super::super) async fn next(&self, most: usize, most_bytes: usize) -> Result<Vec<Delivery>, TopicError> {
        let shared = &self.shared;
        let _turn = shared.turn.lock().await;
        shared.mend().await?;
        loop {
            let open = shared.embedded.stores.existing(&shared.topic).await;
            let open = open.map_err(|error| shared.at(error))?.ok_or_else(|| shared.none())?;
            let step = open.database.read_here(|connection| shared.step(connection, most.max(1), most_bytes));
            drop(open);
            shared.write_changes();
            match step.map_err(|error: TopicError| shared.at(error))? {
                Step::Found(deliveries) => return Ok(deliveries),
                Step::Again => tokio::task::yield_now().await,
                Step::Moved => shared.load().await?,
            }
        }
    }

    pub(in super::super) fn next_due(&self) -> Option<u64> {
        let now = self.shared.embedded.times.now();
        self.shared.state().window.next_due(now)
    }

    pub(in super::super) fn outstanding(&self) -> usize {
        self.shared.outstanding()
    }

    pub(in super::super) fn settle(
        &self,
        results: Vec<(At, u64, Settled)>,
    ) -> impl Future<Output = Result<(), TopicError>> + Send + 'static + use<> {
        let shared = &self.shared;
        let ticket = {
            let mut state = shared.state();
            state.window.settle(results, shared.embedded.times.now());
            state.asked += 1;
            state.asked
        };
        shared.write_asked();
        let mut progress = shared.progress.subscribe();
        async move {
            let done = |progress: &Progress| progress.written >= ticket || progress.failed >= ticket || progress.ended;
            let progress = progress.wait_for(done).await.map_err(|_| StoreError::Stopped)?;
            match &progress.error {
                Some(error) if progress.written < ticket => Err(copy(error)),
                _ => Ok(()),
            }
        }
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        let shared = &self.shared;
        let (writes, runtime) = {
            let mut state = shared.state();
            state.closed = true;
            (state.writes, Handle::try_current())
        };
        match runtime {
            // The writes that are under way end it.
            _ if writes => {}
            Ok(runtime) => {
                shared.state().writes = true;
                runtime.spawn(Arc::clone(shared).write());
            }
            Err(_) => shared.end(),
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn outstanding(&self) -> usize {
        self.state().window.outstanding()
    }

    /// It was set to another place.
    pub(super) fn replay(&self, generation: u64, upto: u64) {
        self.state().window.replay(generation, upto);
    }

    /// A dead letter is to be delivered again.
    pub(super) fn deliver_again(&self, number: u64) {
        self.state().window.again([number]);
    }

    /// Its topic was deleted, and what it knows is of no more use.
    pub(super) fn lose_topic(&self) {
        self.state().gone = true;
    }

    fn none(&self) -> TopicError {
        TopicError::NoConsumer(self.function.clone())
    }

    fn at(&self, error: impl Into<TopicError>) -> TopicError {
        self.embedded.at(&self.topic, error)
    }

    /// Begins with what is on the disk.
    async fn load(&self) -> Result<(), TopicError> {
        let open = self.embedded.stores.existing(&self.topic).await;
        let open = open.map_err(|error| self.at(error))?.ok_or_else(|| self.none())?;
        let (name, key) = (self.function.clone(), self.key());
        let read = move |connection: &Connection| stored(&*connection.unchecked_transaction()?, &name, key);
        let stored = open.database.read(read).await.map_err(|error: TopicError| self.at(error))?;
        let stored = stored.ok_or_else(|| self.none())?;
        let mut state = self.state();
        // A replay may have set it to this meanwhile, and a retry of dead letters may have come.
        if state.window.generation() != stored.generation {
            let dead = state.window.dead();
            state.window = Window::new(stored, self.embedded.times.now());
            state.window.again(dead);
        }
        Ok(())
    }

    /// The number of an event's key.
    fn key(&self) -> impl Fn(&Event) -> Option<u64> + Send + use<> {
        let (order_by, hash) = (self.options.order_by.clone(), self.hash.clone());
        move |event| Some(hash.hash_one(event.attribute(order_by.as_ref()?)?))
    }

    /// Looks for what is to be delivered.
    fn step(&self, connection: &Connection, most: usize, most_bytes: usize) -> Result<Step, TopicError> {
        let now = self.embedded.times.now();
        // Before the snapshot: what the window knows of by then is in it.
        let (begun, known) = {
            let mut state = self.state();
            if state.gone {
                return Err(self.none());
            }
            (state.window.begin(now), state.window.generation())
        };
        let snapshot = connection.unchecked_transaction()?;
        let sql = "SELECT generation FROM consumer WHERE name = ?1";
        let generation: Option<u64> =
            snapshot.prepare_cached(sql)?.query_row([self.function.as_str()], |row| row.get(0)).optional()?;
        let generation = generation.ok_or_else(|| self.none())?;
        if known != generation {
            return Ok(Step::Moved);
        }
        let oldest_ms = Counts::load(&snapshot)?.oldest_ms(now.wall_ms);
        let look = Look { shared: self, connection: &snapshot, generation, oldest_ms, now };
        match begun {
            Begun::Alone(at) => look.alone(at),
            Begun::Batch(batch) => {
                let step = look.batch(batch, most, most_bytes);
                self.state().window.end();
                step
            }
        }
    }

    /// Tries again what could not be written; only then there is more.
    async fn mend(self: &Arc<Self>) -> Result<(), TopicError> {
        if self.progress.borrow().error.is_none() {
            return Ok(());
        }
        let writes = std::mem::replace(&mut self.state().writes, true);
        if !writes {
            Arc::clone(self).write().await;
        }
        match &self.progress.borrow().error {
            Some(error) => Err(copy(error)),
            None => Ok(()),
        }
    }

    /// Has what changed written, unless that is under way.
    fn write_changes(self: &Arc<Self>) {
        let is_changed = self.state().window.is_changed();
        if is_changed {
            self.write_asked();
        }
    }

    fn write_asked(self: &Arc<Self>) {
        // Without a runtime it is written with the next that has one.
        let Ok(runtime) = Handle::try_current() else { return };
        if !std::mem::replace(&mut self.state().writes, true) {
            runtime.spawn(Arc::clone(self).write());
        }
    }

    /// Writes what changed until nothing is left. Whoever has it called has set `writes`.
    async fn write(self: Arc<Self>) {
        loop {
            let (changes, asked, closed) = {
                let mut state = self.state();
                let changes = state.window.changes().map(Arc::new);
                state.queue.extend(changes);
                if state.queue.is_empty() || state.gone {
                    state.writes = false;
                    let (asked, closed) = (state.asked, state.closed);
                    // In the lock, so that nobody who asks later is told too much.
                    self.progress
                        .send_modify(|progress| *progress = Progress { written: asked, ..Progress::default() });
                    if closed {
                        drop(state);
                        self.end();
                    }
                    return;
                }
                (state.queue.clone(), state.asked, state.closed)
            };
            let count = changes.len();
            match self.write_once(changes).await {
                Ok(()) => {
                    self.state().queue.drain(..count);
                    self.progress.send_modify(|progress| {
                        *progress = Progress { written: asked, ..Progress::default() };
                    });
                }
                Err(error) => {
                    tracing::warn!(topic = %self.topic.name, function = %self.function, %error, "acknowledgements could not be written; they are kept in memory");
                    self.state().writes = false;
                    self.progress.send_modify(|progress| {
                        progress.failed = asked;
                        progress.error = Some(Arc::new(error));
                    });
                    if closed || self.state().closed {
                        self.end();
                    }
                    return;
                }
            }
        }
    }

    /// Writes all of it. Where there is no room for dead letters, what was settled otherwise is written without them, so that a full disk
    /// has nothing delivered twice; what is left then is in the place of `changes` in the queue.
    async fn write_once(&self, changes: Vec<Arc<Changes>>) -> Result<(), TopicError> {
        let count = changes.len();
        let error = match self.write_all(changes.clone()).await {
            Err(error @ TopicError::Full(_)) if changes.iter().any(|changes| changes.has_deaths()) => error,
            written => return written,
        };
        let (small, deaths): (Vec<_>, Vec<_>) = changes.iter().map(|changes| changes.split()).unzip();
        self.write_all(small.into_iter().map(Arc::new).collect()).await?;
        let deaths = deaths.into_iter().filter(Changes::has_deaths).map(Arc::new);
        self.state().queue.splice(..count, deaths);
        Err(error)
    }

    async fn write_all(&self, changes: Vec<Arc<Changes>>) -> Result<(), TopicError> {
        let open = self.embedded.stores.existing(&self.topic).await.map_err(|error| self.at(error))?;
        // The topic was deleted.
        let Some(open) = open else { return Ok(()) };
        let (name, now_ms) = (self.function.clone(), (self.embedded.times.wall)());
        let (file_bytes, done) = (Arc::clone(&open.file_bytes), Arc::clone(&open.done));
        let work = move |connection: &Connection| -> Result<Applied, TopicError> {
            done.changed();
            bound_known(connection, &file_bytes)?;
            let mut applied = Applied::default();
            for changes in &changes {
                apply(connection, &name, changes, now_ms, &mut applied)?;
            }
            Ok(applied)
        };
        let Applied { again, uncopied } = open.database.write(work).await.map_err(|error| self.at(error))?;
        self.state().window.again(again);
        dead::tell_uncopied(&self.topic, uncopied);
        Ok(())
    }

    /// Gives its place to the next one.
    fn end(&self) {
        let key = (self.topic.clone(), self.function.clone());
        let mut consumed = lock(&self.embedded.common.consumed);
        if consumed.get(&key).is_some_and(|shared| std::ptr::eq(shared.as_ptr(), self)) {
            consumed.remove(&key);
        }
        drop(consumed);
        self.progress.send_modify(|progress| progress.ended = true);
    }
}

/// A look at the file for what is to be delivered.
struct Look<'a> {
    shared: &'a Shared,
    connection: &'a Connection,
    generation: u64,
    /// What was taken before is too old.
    oldest_ms: u64,
    now: Moment,
}

/// A message as it was found.
struct Found {
    position: u64,
    time_ms: u64,
    event: Event,
}

impl Look<'_> {
    /// Does something with the window, unless it was set to another place meanwhile.
    fn with<T>(&self, work: impl FnOnce(&mut Window) -> T) -> Option<T> {
        let mut state = self.shared.state();
        (state.window.generation() == self.generation).then(|| work(&mut state.window))
    }

    fn alone(&self, at: At) -> Result<Step, TopicError> {
        let found = match at {
            At::Log(position) => self.message(position)?,
            At::Dead(number) => self.letter(number)?,
        };
        let Some(found) = found else {
            self.with(|window| match at {
                At::Log(position) => window.lose(position),
                At::Dead(number) => window.forget_dead(number),
            });
            return Ok(Step::Again);
        };
        let flight = self.with(|window| window.fly(at, None, self.now)).flatten();
        let Some(flight) = flight else { return Ok(Step::Again) };
        Ok(Step::Found(vec![self.delivery(at, found, flight, true)]))
    }

    /// Puts a batch together. What was found before an error goes out, since it flies: the next look meets the error.
    fn batch(&self, batch: u64, most: usize, most_bytes: usize) -> Result<Step, TopicError> {
        let mut deliveries = Vec::new();
        match self.fill(batch, most, most_bytes, &mut deliveries) {
            Ok(Step::Found(_)) | Err(_) if !deliveries.is_empty() => Ok(Step::Found(deliveries)),
            step => step,
        }
    }

    /// Fills `deliveries`. [`Step::Found`] has none: they are there.
    fn fill(
        &self,
        batch: u64,
        most: usize,
        most_bytes: usize,
        deliveries: &mut Vec<Delivery>,
    ) -> Result<Step, TopicError> {
        let mut bytes = 0;
        while deliveries.len() < most {
            let Some(position) = self.with(|window| window.ready()).flatten() else { break };
            let Some(found) = self.message(position)? else {
                self.with(|window| window.lose(position));
                continue;
            };
            bytes += delivered_bytes(&found.event, &found.event.data);
            if bytes > most_bytes && !deliveries.is_empty() {
                return Ok(Step::Found(Vec::new()));
            }
            if let Some(flight) = self.with(|window| window.fly(At::Log(position), Some(batch), self.now)).flatten() {
                deliveries.push(self.delivery(At::Log(position), found, flight, false));
            }
        }
        let mut at_end = true;
        if deliveries.len() < most {
            let Some(read) = self.with(|window| window.read()) else { return Ok(Step::Again) };
            let mut statement = self.connection.prepare_cached(
                "SELECT position, time_ms, head, data FROM message WHERE position > ?1 ORDER BY position",
            )?;
            let (mut rows, mut looked) = (statement.query([read])?, 0);
            while deliveries.len() < most {
                if looked == LOOKED_AT_ONCE {
                    at_end = false;
                    break;
                }
                let Some(row) = rows.next()? else { break };
                looked += 1;
                let time_ms = row.get(1)?;
                let position = row.get(0)?;
                let skip = |window: &mut Window| window.skip(position);
                if time_ms < self.oldest_ms {
                    self.with(skip);
                    continue;
                }
                let event = match rows::attributes(row, 2) {
                    Ok(event) => event,
                    Err(unreadable) => {
                        self.bury(position, unreadable);
                        continue;
                    }
                };
                let ConsumerOptions { types, subjects, .. } = &self.shared.options;
                if !takes(types, Some(&event.kind)) || !takes(subjects, event.subject.as_deref()) {
                    self.with(skip);
                    continue;
                }
                let data = row.get_ref(3)?.as_blob().map_err(rusqlite::Error::from)?;
                let size = delivered_bytes(&event, data);
                bytes += size;
                if bytes > most_bytes && !deliveries.is_empty() {
                    break;
                }
                let key = self.shared.key_of(&event);
                match self.with(|window| window.offer(position, key, batch, self.now)) {
                    Some(Offered::Goes) => {
                        let event = Event { data: bytes::Bytes::copy_from_slice(data), ..event };
                        let flight = Flight { tries: 0, first_ms: self.now.wall_ms };
                        let found = Found { position, time_ms, event };
                        deliveries.push(self.delivery(At::Log(position), found, flight, false));
                    }
                    // What waits does not count.
                    Some(Offered::Blocked) => bytes -= size,
                    Some(Offered::Full) => break,
                    None => return Ok(Step::Again),
                }
            }
        }
        if !deliveries.is_empty() {
            return Ok(Step::Found(Vec::new()));
        }
        let again = !at_end || self.with(|window| window.has_alone()).unwrap_or(true);
        if again {
            return Ok(Step::Again);
        }
        self.with(|window| window.rest(self.now));
        Ok(Step::Found(Vec::new()))
    }

    fn delivery(&self, at: At, found: Found, flight: Flight, alone: bool) -> Delivery {
        let Found { position, time_ms, event } = found;
        let (event, generation, Flight { tries, first_ms }) = (Arc::new(event), self.generation, flight);
        Delivery { at, generation, position, event, time_ms, tries, first_ms, alone }
    }

    /// A message whose attributes cannot be read is delivered to nobody. It is a dead letter, so that those behind it go on.
    fn bury(&self, position: u64, unreadable: rows::Unreadable) {
        let rows::Unreadable(reason) = unreadable;
        let Shared { topic, function, .. } = self.shared;
        tracing::error!(topic = %topic.name, %function, position, reason, "a message is a dead letter: it cannot be delivered");
        let death = Death { reason, status: None, answer: bytes::Bytes::new(), forward: None };
        self.with(|window| window.bury(position, Box::new(death)));
    }

    /// A message, unless it is gone, too old, or was buried just now.
    fn message(&self, position: u64) -> Result<Option<Found>, TopicError> {
        let sql = "SELECT position, time_ms, head, data FROM message WHERE position = ?1 AND time_ms >= ?2";
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut rows = statement.query((position, self.oldest_ms))?;
        let Some(row) = rows.next()? else { return Ok(None) };
        match rows::attributes(row, 2) {
            Ok(event) => Ok(Some(found(row, event)?)),
            Err(unreadable) => {
                self.bury(position, unreadable);
                Ok(None)
            }
        }
    }

    fn letter(&self, number: u64) -> Result<Option<Found>, TopicError> {
        let sql = "SELECT position, time_ms, head, data, retries FROM dead WHERE number = ?1 AND again = 1";
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut rows = statement.query([number])?;
        let Some(row) = rows.next()? else { return Ok(None) };
        let retry = row.get(4)?;
        self.with(|window| window.note_retry(number, retry));
        Ok(Some(found(row, rows::attributes_of_dead(row, 2))?))
    }
}

impl Shared {
    fn key_of(&self, event: &Event) -> Option<u64> {
        Some(self.hash.hash_one(event.attribute(self.options.order_by.as_ref()?)?))
    }
}

/// The message of a row whose attributes are read.
fn found(row: &Row<'_>, event: Event) -> Result<Found, TopicError> {
    let event = Event { data: rows::bytes(row, 3)?, ..event };
    Ok(Found { position: row.get(0)?, time_ms: row.get(1)?, event })
}

/// What is durable of a consumer.
fn stored(
    connection: &Connection,
    name: &FunctionName,
    key: impl Fn(&Event) -> Option<u64>,
) -> Result<Option<Stored>, TopicError> {
    let sql = "SELECT generation, upto FROM consumer WHERE name = ?1";
    let mut statement = connection.prepare_cached(sql)?;
    let found = statement.query_row([name.as_str()], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    let Some((generation, upto)) = found else { return Ok(None) };
    let mut holes = Vec::new();
    {
        // One whose message is gone goes when it would be delivered.
        let mut statement = connection.prepare_cached(
            "SELECT hole.position, tries, due_ms, first_ms, head FROM hole LEFT JOIN message USING (position)
             WHERE consumer = ?1 ORDER BY hole.position",
        )?;
        let mut rows = statement.query([name.as_str()])?;
        while let Some(row) = rows.next()? {
            let hole = Hole { position: row.get(0)?, tries: row.get(1)?, due_ms: row.get(2)?, first_ms: row.get(3)? };
            let is_there = row.get_ref(4)? != rusqlite::types::ValueRef::Null;
            // One that cannot be read is buried when it would be delivered.
            let event = if is_there { rows::attributes(row, 4).ok() } else { None };
            holes.push((hole, event.as_ref().and_then(&key)));
        }
    }
    let sql = "SELECT number FROM dead WHERE consumer = ?1 AND again = 1 ORDER BY number";
    let mut statement = connection.prepare_cached(sql)?;
    let again = statement.query_map([name.as_str()], |row| row.get(0))?.collect::<Result<_, _>>()?;
    Ok(Some(Stored { generation, upto, holes, again }))
}

/// What came of changes when they were written.
#[derive(Default)]
struct Applied {
    /// Dead letters that failed again, and were to be tried once more by then.
    again: Vec<u64>,
    /// Dead letters that went for newer ones before their copy was made.
    uncopied: u64,
}

/// Makes what changed durable.
fn apply(
    connection: &Connection,
    name: &FunctionName,
    changes: &Changes,
    now_ms: u64,
    applied: &mut Applied,
) -> Result<(), TopicError> {
    let Changes { generation, upto, holes, filled, deaths, dead } = changes;
    let name = name.as_str();
    let sql = "SELECT generation FROM consumer WHERE name = ?1";
    let current: Option<u64> = connection.prepare_cached(sql)?.query_row([name], |row| row.get(0)).optional()?;
    let is_current = current == Some(*generation);
    if is_current {
        if let Some(upto) = upto {
            connection.prepare_cached("UPDATE consumer SET upto = ?2 WHERE name = ?1")?.execute((name, upto))?;
        }
        let sql =
            "INSERT OR REPLACE INTO hole (consumer, position, tries, due_ms, first_ms) VALUES (?1, ?2, ?3, ?4, ?5)";
        let mut statement = connection.prepare_cached(sql)?;
        for Hole { position, tries, due_ms, first_ms } in holes {
            statement.execute((name, position, tries, due_ms, first_ms))?;
        }
        let mut statement = connection.prepare_cached("DELETE FROM hole WHERE consumer = ?1 AND position = ?2")?;
        for position in filled {
            statement.execute((name, position))?;
        }
    }
    if dead.is_empty() && (deaths.is_empty() || !is_current) {
        return Ok(());
    }
    let mut counts = Counts::load(connection)?;
    for (position, tries, death) in deaths.iter().filter(|_| is_current) {
        dead::bury(connection, &mut counts, name, (*position, *tries, death), now_ms)?;
    }
    for (number, outcome) in dead {
        if dead::settle(connection, &mut counts, *number, outcome.as_ref(), now_ms)? {
            applied.again.push(*number);
        }
    }
    applied.uncopied += dead::bound(connection, &mut counts, name)?;
    counts.save(connection)
}

/// An error for each of those who wait; it carries what they act on.
fn copy(error: &TopicError) -> TopicError {
    match error {
        TopicError::Full(bound) => TopicError::Full(*bound),
        TopicError::Corrupt { path, detail } => TopicError::Corrupt { path: path.clone(), detail: detail.clone() },
        TopicError::NoConsumer(function) => TopicError::NoConsumer(function.clone()),
        TopicError::Busy => TopicError::Busy,
        _ => TopicError::Store(StoreError::Aborted),
    }
}
