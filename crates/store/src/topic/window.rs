//! What a consumer delivers next, and what of that has to be on the disk. Pure: no clock, no I/O; every backend uses it.
//!
//! What is durable of a consumer is `upto` and its *holes*: everything up to `upto` is done, but what has a hole. So it is as large as
//! what is outstanding, however old the oldest retry is. What is in flight is in memory only: a batch that ends in order moves
//! `upto`, and rows appear only for what comes again, is blocked by its key, or was passed by a later batch.
//!
//! With keys, of the outstanding messages of one key (`keys`, in order) only the first may go out, and those behind it in the same batch.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    time::Duration,
};

use super::{At, Death, MAX_OUTSTANDING, Settled, check::MAX_RETRY};

/// Messages that the filters left out, or that were too old, after which `upto` is written though nothing was settled: what a crash has
/// read again at most.
const SKIP_COMMIT: u64 = 10_000;

/// How often `upto` is written at most when all was read and nothing of it wanted. A topic that is full of such messages has room after
/// this time; more often, each publish would cost a second commit.
const FLOOR_EVERY: Duration = Duration::from_millis(200);

/// A moment, in milliseconds: by the wall clock since 1970, and by one that is never set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Moment {
    pub wall_ms: u64,
    pub running_ms: u64,
}

/// What is durable of a message that was passed and is not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hole {
    pub position: u64,
    pub tries: u32,
    /// When it comes again, in milliseconds since 1970.
    pub due_ms: u64,
    /// When the flight began that was the first to be answered, in milliseconds since 1970; 0 for none.
    pub first_ms: u64,
}

/// What is durable of a consumer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Stored {
    pub generation: u64,
    pub upto: u64,
    /// Each with the hash of its key, in order.
    pub holes: Vec<(Hole, Option<u64>)>,
    /// Dead letters that are to be delivered again.
    pub again: Vec<u64>,
}

/// What became of a dead letter that went out again and failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DiedAgain {
    /// How often it failed.
    pub tries: u32,
    /// By which of its retries it had gone out: another that came meanwhile goes on.
    pub retry: u64,
    pub death: Box<Death>,
}

/// What has to become durable.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Changes {
    /// All but `dead` is void when the consumer has another generation by then.
    pub generation: u64,
    pub upto: Option<u64>,
    /// To be written over what is there.
    pub holes: Vec<Hole>,
    pub filled: Vec<u64>,
    /// By position: the tries, and why.
    pub deaths: Vec<(u64, u32, Box<Death>)>,
    /// By number: `None` for those that are done at last.
    pub dead: Vec<(u64, Option<DiedAgain>)>,
}

impl Changes {
    /// What needs little room, and the deaths, which need more. Until these are written, their messages have holes.
    pub(super) fn split(&self) -> (Self, Self) {
        let Self { generation, upto, holes, filled, deaths, dead } = self;
        let dying: BTreeSet<u64> = deaths.iter().map(|(position, _, _)| *position).collect();
        let mut holes = holes.clone();
        let hole =
            |(position, tries, _): &(u64, u32, _)| Hole { position: *position, tries: *tries, due_ms: 0, first_ms: 0 };
        holes.extend(deaths.iter().map(hole));
        let filled = filled.iter().copied().filter(|position| !dying.contains(position)).collect();
        let (done, died) = dead.iter().cloned().partition(|(_, died)| died.is_none());
        let small = Self { generation: *generation, upto: *upto, holes, filled, deaths: Vec::new(), dead: done };
        let filled = dying.into_iter().collect();
        let deaths = deaths.clone();
        (small, Self { generation: *generation, upto: None, holes: Vec::new(), filled, deaths, dead: died })
    }

    /// Whether it makes dead letters larger or more.
    pub(super) fn has_deaths(&self) -> bool {
        !self.deaths.is_empty() || self.dead.iter().any(|(_, died)| died.is_some())
    }
}

/// What goes out next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Begun {
    /// One that failed before.
    Alone(At),
    /// A batch of this number: what [`Window::ready`] has, and then what is new.
    Batch(u64),
}

/// What becomes of a message that is new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Offered {
    Goes,
    /// An earlier one of its key is outstanding.
    Blocked,
    /// Too much is outstanding: it was not taken.
    Full,
}

/// Where a message is that goes out: how often it failed, and when it went out first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Flight {
    pub tries: u32,
    pub first_ms: u64,
}

#[derive(Debug)]
struct Item {
    key: Option<u64>,
    tries: u32,
    first_ms: u64,
    /// `first_ms` is that of the flight under way, or of none: nothing was answered yet.
    is_first: bool,
    due_ms: u64,
    state: State,
    /// It goes alone also where it never failed.
    alone: bool,
    /// It has a row on the disk, or in changes that are on their way there.
    has_row: bool,
}

impl Item {
    fn goes_alone(&self) -> bool {
        self.alone || self.tries > 0
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// With the batch of this number.
    Flies(u64),
    Ready,
    /// Behind an earlier one of its key.
    Blocked,
    /// Until then, by the running clock.
    Waits(u64),
}

#[derive(Debug)]
struct DeadItem {
    tries: u32,
    first_ms: u64,
    /// As in [`Item`].
    is_first: bool,
    /// By which of its retries it goes out.
    retry: u64,
    state: State,
}

#[derive(Debug, Default)]
pub(super) struct Window {
    generation: u64,
    /// As it is on the disk, or in changes that are on their way there.
    upto: u64,
    /// Messages up to here were looked at.
    read: u64,
    /// The last one that is done or comes again: `upto` becomes this, so that no hole is beyond it.
    passed: u64,
    items: BTreeMap<u64, Item>,
    /// Those of [`State::Ready`] that go in a batch, and those that go alone.
    ready: BTreeSet<u64>,
    alone: BTreeSet<u64>,
    waits: BTreeSet<(u64, At)>,
    keys: HashMap<u64, VecDeque<u64>>,
    dead: BTreeMap<u64, DeadItem>,
    dead_ready: BTreeSet<u64>,
    batches: u64,
    was_alone: bool,
    /// Ready only in the batch that is being put together, since what is before them goes with it.
    lent: Vec<u64>,
    /// Rows to be written again.
    dirty: BTreeSet<u64>,
    filled: Vec<u64>,
    deaths: Vec<(u64, u32, Box<Death>)>,
    dead_changes: Vec<(u64, Option<DiedAgain>)>,
    /// Whether `upto` is to be written though nothing was settled, and when that was said last, by the running clock.
    rests: bool,
    rested_ms: Option<u64>,
}

impl Window {
    pub(super) fn new(stored: Stored, now: Moment) -> Self {
        let Stored { generation, upto, holes, again } = stored;
        let mut window = Self { generation, upto, read: upto, passed: upto, ..Self::default() };
        for (hole, key) in holes {
            let wait_ms = hole.due_ms.saturating_sub(now.wall_ms).min(MAX_RETRY.as_millis() as u64);
            let Hole { position, tries, due_ms, first_ms } = hole;
            let state = State::Waits(now.running_ms + wait_ms);
            window.items.insert(
                position,
                Item { key, tries, first_ms, is_first: first_ms == 0, due_ms, state, alone: false, has_row: true },
            );
            window.waits.insert((now.running_ms + wait_ms, At::Log(position)));
            if let Some(key) = key {
                window.keys.entry(key).or_default().push_back(position);
            }
        }
        window.again(again);
        window
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// Up to where messages were looked at.
    pub(super) fn read(&self) -> u64 {
        self.read
    }

    /// Messages and dead letters that went out, or wait to go out again.
    pub(super) fn outstanding(&self) -> usize {
        self.items.len() + self.dead.len()
    }

    /// Begins anew behind `upto`.
    pub(super) fn replay(&mut self, generation: u64, upto: u64) {
        let dead = std::mem::take(&mut self.dead);
        let dead_ready = std::mem::take(&mut self.dead_ready);
        let dead_changes = std::mem::take(&mut self.dead_changes);
        let waits = std::mem::take(&mut self.waits).into_iter().filter(|(_, at)| matches!(at, At::Dead(_))).collect();
        let batches = self.batches;
        let fresh = Self { generation, upto, read: upto, passed: upto, batches, ..Self::default() };
        *self = Self { dead, dead_ready, dead_changes, waits, ..fresh };
    }

    /// Dead letters that are to go out again.
    pub(super) fn again(&mut self, numbers: impl IntoIterator<Item = u64>) {
        for number in numbers {
            if let std::collections::btree_map::Entry::Vacant(place) = self.dead.entry(number) {
                place.insert(DeadItem { tries: 0, first_ms: 0, is_first: true, retry: 0, state: State::Ready });
                self.dead_ready.insert(number);
            }
        }
    }

    /// By which of its retries a dead letter goes out.
    pub(super) fn note_retry(&mut self, number: u64, retry: u64) {
        if let Some(item) = self.dead.get_mut(&number) {
            item.retry = retry;
        }
    }

    /// The dead letters that go out again.
    pub(super) fn dead(&self) -> Vec<u64> {
        self.dead.keys().copied().collect()
    }

    /// A dead letter that is not there any more.
    pub(super) fn forget_dead(&mut self, number: u64) {
        let Some(item) = self.dead.remove(&number) else { return };
        self.dead_ready.remove(&number);
        if let State::Waits(due) = item.state {
            self.waits.remove(&(due, At::Dead(number)));
        }
    }

    /// There is nothing to deliver. What was left out on the way here counts as done, and is to be written, though not too often.
    pub(super) fn rest(&mut self, now: Moment) {
        if self.floor() > self.upto && self.rest_due() <= now.running_ms {
            self.rests = true;
            self.rested_ms = Some(now.running_ms);
        }
    }

    /// When [`Window::rest`] may have something written, by the running clock.
    fn rest_due(&self) -> u64 {
        self.rested_ms.map_or(0, |rested_ms| rested_ms.saturating_add(FLOOR_EVERY.as_millis() as u64))
    }

    /// When there is the next to look for, by the wall clock: one comes again, or what was left out is to be written. What is due already
    /// has `now`'s time, or an earlier one.
    pub(super) fn next_due(&self, now: Moment) -> Option<u64> {
        let rest = (!self.rests && self.floor() > self.upto).then(|| self.rest_due());
        let due = self.waits.first().map(|(due, _)| *due).into_iter().chain(rest).min()?;
        let due = &due;
        Some((now.wall_ms + due.saturating_sub(now.running_ms)).saturating_sub(now.running_ms.saturating_sub(*due)))
    }

    /// Begins to put together what goes out. Those that failed take turns with the others, so that many of them do not keep those up.
    pub(super) fn begin(&mut self, now: Moment) -> Begun {
        self.wake(now);
        if !self.was_alone {
            let log = self.alone.first().map(|position| At::Log(*position));
            if let Some(at) = log.or_else(|| self.dead_ready.first().map(|number| At::Dead(*number))) {
                self.was_alone = true;
                return Begun::Alone(at);
            }
        }
        self.was_alone = false;
        self.batches += 1;
        Begun::Batch(self.batches)
    }

    /// Whether something waits to go out alone.
    pub(super) fn has_alone(&self) -> bool {
        !self.alone.is_empty() || !self.dead_ready.is_empty()
    }

    /// The first that can go out in a batch.
    pub(super) fn ready(&self) -> Option<u64> {
        self.ready.first().copied()
    }

    /// Lets one that is ready go out, with a batch (or alone: `batch` is `None`). `None` where it is not ready any more.
    pub(super) fn fly(&mut self, at: At, batch: Option<u64>, now: Moment) -> Option<Flight> {
        let batch = batch.unwrap_or_else(|| {
            self.batches += 1;
            self.batches
        });
        let position = match at {
            At::Dead(number) => {
                self.dead_ready.remove(&number).then_some(())?;
                let item = self.dead.get_mut(&number)?;
                item.state = State::Flies(batch);
                item.first_ms = if item.is_first { now.wall_ms } else { item.first_ms };
                return Some(Flight { tries: item.tries, first_ms: item.first_ms });
            }
            At::Log(position) => position,
        };
        let was_ready = self.ready.remove(&position) | self.alone.remove(&position);
        let item = self.items.get_mut(&position).filter(|_| was_ready)?;
        item.state = State::Flies(batch);
        item.first_ms = if item.is_first { now.wall_ms } else { item.first_ms };
        let (flight, key) = (Flight { tries: item.tries, first_ms: item.first_ms }, item.key);
        if !item.goes_alone() {
            self.lend_next(key, position);
        }
        Some(flight)
    }

    /// The one behind `position` in its key may go with it.
    fn lend_next(&mut self, key: Option<u64>, position: u64) {
        let Some(queue) = key.and_then(|key| self.keys.get(&key)) else { return };
        let place = queue.partition_point(|other| *other <= position);
        let Some(next) = queue.get(place).copied() else { return };
        if let Some(item) = self.items.get_mut(&next).filter(|item| item.state == State::Blocked && !item.goes_alone())
        {
            item.state = State::Ready;
            self.ready.insert(next);
            self.lent.push(next);
        }
    }

    /// Ends what [`Window::begin`] began.
    pub(super) fn end(&mut self) {
        for position in std::mem::take(&mut self.lent) {
            if self.ready.remove(&position)
                && let Some(item) = self.items.get_mut(&position)
            {
                item.state = State::Blocked;
            }
        }
    }

    /// Takes a message that is new, the next after [`Window::read`].
    pub(super) fn offer(&mut self, position: u64, key: Option<u64>, batch: u64, now: Moment) -> Offered {
        if self.items.len() >= MAX_OUTSTANDING {
            return Offered::Full;
        }
        self.read = self.read.max(position);
        let before = key.and_then(|key| self.keys.get(&key)?.back()).and_then(|before| self.items.get(before));
        let goes = before.is_none_or(|before| before.state == State::Flies(batch) && !before.goes_alone());
        let state = if goes { State::Flies(batch) } else { State::Blocked };
        let first_ms = if goes { now.wall_ms } else { 0 };
        self.items.insert(
            position,
            Item { key, tries: 0, first_ms, is_first: true, due_ms: 0, state, alone: false, has_row: false },
        );
        if let Some(key) = key {
            self.keys.entry(key).or_default().push_back(position);
        }
        if goes { Offered::Goes } else { Offered::Blocked }
    }

    /// A message that is new and not wanted: it counts as done.
    pub(super) fn skip(&mut self, position: u64) {
        self.read = self.read.max(position);
    }

    /// A message that is ready and not there any more: it counts as done.
    pub(super) fn lose(&mut self, position: u64) {
        self.remove(position);
    }

    /// One that can be delivered to nobody, new or ready: it goes to the dead letters as it is.
    pub(super) fn bury(&mut self, position: u64, death: Box<Death>) {
        let tries = self.items.get(&position).map_or(0, |item| item.tries);
        self.deaths.push((position, tries, death));
        self.read = self.read.max(position);
        self.passed = self.passed.max(position);
        self.remove(position);
    }

    /// Takes what became of deliveries. What does not fly is left as it is.
    pub(super) fn settle(&mut self, results: Vec<(At, u64, Settled)>, now: Moment) {
        let mut of_log = Vec::with_capacity(results.len());
        for (at, generation, settled) in results {
            match at {
                At::Log(position) if generation == self.generation => of_log.push((position, settled)),
                At::Log(_) => {}
                At::Dead(number) => self.settle_dead(number, settled, now),
            }
        }
        // In order, so that one that comes again takes back those of its key behind it.
        of_log.sort_by_key(|(position, _)| *position);
        for (position, settled) in of_log {
            self.settle_one(position, settled, now);
        }
    }

    fn settle_one(&mut self, position: u64, settled: Settled, now: Moment) {
        let Some(item) = self.items.get_mut(&position) else { return };
        // Also one that was taken back just now: it was in the same batch.
        item.alone |=
            matches!(settled, Settled::ReleaseAlone) && matches!(item.state, State::Flies(_) | State::Blocked);
        let State::Flies(batch) = item.state else { return };
        match settled {
            Settled::Done => self.remove(position),
            Settled::Dead(death) => {
                let tries = item.tries.saturating_add(1);
                self.deaths.push((position, tries, death));
                self.remove(position);
            }
            Settled::Retry { after, counted } => {
                let (due, due_ms) = due(after, now);
                item.is_first = false;
                item.tries = item.tries.saturating_add(u32::from(counted));
                item.due_ms = due_ms;
                item.state = State::Waits(due);
                let key = item.key;
                self.waits.insert((due, At::Log(position)));
                self.dirty.insert(position);
                self.passed = self.passed.max(position);
                self.take_back(key, position, batch);
            }
            Settled::Release | Settled::ReleaseAlone => {
                let key = item.key;
                self.wait_for_turn(position);
                self.take_back(key, position, batch);
            }
        }
    }

    /// Those behind `position` in its key that fly with it, whatever becomes of them: they come again after it.
    fn take_back(&mut self, key: Option<u64>, position: u64, batch: u64) {
        let Some(queue) = key.and_then(|key| self.keys.get(&key)) else { return };
        let place = queue.partition_point(|other| *other <= position);
        for later in queue.range(place..) {
            match self.items.get_mut(later) {
                Some(item) if item.state == State::Flies(batch) => item.state = State::Blocked,
                _ => break,
            }
        }
    }

    /// Makes one that neither flies nor waits ready, or has it wait for an earlier one of its key.
    fn wait_for_turn(&mut self, position: u64) {
        let Some(item) = self.items.get_mut(&position) else { return };
        let first = item.key.and_then(|key| self.keys.get(&key)?.front());
        if first.is_some_and(|first| *first != position) {
            item.state = State::Blocked;
            return;
        }
        item.state = State::Ready;
        if item.goes_alone() {
            self.alone.insert(position)
        } else {
            self.ready.insert(position)
        };
    }

    /// One is done; the next one of its key has its turn.
    fn remove(&mut self, position: u64) {
        let Some(item) = self.items.remove(&position) else { return };
        self.ready.remove(&position);
        self.alone.remove(&position);
        if let State::Waits(due) = item.state {
            self.waits.remove(&(due, At::Log(position)));
        }
        self.dirty.remove(&position);
        if item.has_row {
            self.filled.push(position);
        }
        self.passed = self.passed.max(position);
        let Some(key) = item.key else { return };
        let Some(queue) = self.keys.get_mut(&key) else { return };
        let place = queue.partition_point(|other| *other < position);
        if queue.get(place) == Some(&position) {
            queue.remove(place);
        }
        match queue.front().copied() {
            None => drop(self.keys.remove(&key)),
            Some(first) if self.items.get(&first).is_some_and(|item| item.state == State::Blocked) => {
                self.wait_for_turn(first);
            }
            Some(_) => {}
        }
    }

    fn settle_dead(&mut self, number: u64, settled: Settled, now: Moment) {
        let Some(item) = self.dead.get_mut(&number) else { return };
        let State::Flies(_) = item.state else { return };
        match settled {
            Settled::Done => {
                self.dead.remove(&number);
                self.dead_changes.push((number, None));
            }
            Settled::Dead(death) => {
                let (tries, retry) = (item.tries.saturating_add(1), item.retry);
                self.dead.remove(&number);
                self.dead_changes.push((number, Some(DiedAgain { tries, retry, death })));
            }
            Settled::Retry { after, counted } => {
                let (due, _) = due(after, now);
                item.is_first = false;
                item.tries = item.tries.saturating_add(u32::from(counted));
                item.state = State::Waits(due);
                self.waits.insert((due, At::Dead(number)));
            }
            // It goes alone anyway.
            Settled::Release | Settled::ReleaseAlone => {
                item.state = State::Ready;
                self.dead_ready.insert(number);
            }
        }
    }

    /// Those whose time is over are ready, or behind an earlier one of their key.
    fn wake(&mut self, now: Moment) {
        while let Some((due, at)) = self.waits.first().copied().filter(|(due, _)| *due <= now.running_ms) {
            self.waits.remove(&(due, at));
            match at {
                At::Log(position) => self.wait_for_turn(position),
                At::Dead(number) => {
                    if let Some(item) = self.dead.get_mut(&number) {
                        item.state = State::Ready;
                        self.dead_ready.insert(number);
                    }
                }
            }
        }
    }

    /// Whether [`Window::changes`] has something that is to be written soon.
    pub(super) fn is_changed(&self) -> bool {
        let settled = !self.dirty.is_empty() || !self.filled.is_empty() || self.passed > self.upto;
        settled
            || self.rests
            || !self.deaths.is_empty()
            || !self.dead_changes.is_empty()
            || self.floor() >= self.upto + SKIP_COMMIT
    }

    /// All up to here is done.
    fn floor(&self) -> u64 {
        self.items.first_key_value().map_or(self.read, |(first, _)| self.read.min(first.saturating_sub(1)))
    }

    /// What is to be written now; they count as written. `None` for nothing.
    pub(super) fn changes(&mut self) -> Option<Changes> {
        let upto = self.floor().max(self.passed).max(self.upto);
        self.rests = false;
        let mut rows: BTreeSet<u64> = std::mem::take(&mut self.dirty);
        // What is passed and not done.
        let passed = self.items.range(self.upto.saturating_add(1)..=upto.max(self.upto.saturating_add(1)));
        rows.extend(
            passed.filter(|(position, item)| **position <= upto && !item.has_row).map(|(position, _)| *position),
        );
        let mut holes = Vec::with_capacity(rows.len());
        for position in rows {
            let Some(item) = self.items.get_mut(&position) else { continue };
            item.has_row = true;
            // Of a flight under way nobody knows whether it will be answered.
            let first_ms = if item.is_first { 0 } else { item.first_ms };
            holes.push(Hole { position, tries: item.tries, due_ms: item.due_ms, first_ms });
        }
        let changes = Changes {
            generation: self.generation,
            upto: (upto > self.upto).then_some(upto),
            holes,
            filled: std::mem::take(&mut self.filled),
            deaths: std::mem::take(&mut self.deaths),
            dead: std::mem::take(&mut self.dead_changes),
        };
        self.upto = upto;
        let is_empty = Changes { generation: self.generation, ..Changes::default() } == changes;
        (!is_empty).then_some(changes)
    }
}

/// When something comes again, by the running clock and by the wall.
fn due(after: Duration, now: Moment) -> (u64, u64) {
    let after_ms = after.min(MAX_RETRY).as_millis() as u64;
    (now.running_ms + after_ms, now.wall_ms + after_ms)
}
