//! Topics of apps: messages in order, each delivered to every function that follows them until it is done.
//!
//! A *message* is a CloudEvent at a *position*. A *consumer* is how far a function has come in a topic; it belongs to the app and
//! the function, and to no version.
//!
//! The contract, which every backend keeps (its tests are in `tests/contract.rs`, over [`Topics`] alone):
//! - a message that was acknowledged to its publisher is on the disk, and is delivered at least once to every consumer, until it is
//!   settled as done or dead, or goes by what the topic may hold ([`TopicRules`]);
//! - messages are delivered in the order of their positions; those that come again, come when their time is over and alone;
//! - with `order_by`, of the messages that have one key none is delivered while an earlier one is not settled, but in the same batch;
//! - what is settled as done never comes again, but after a crash or a replay;
//! - a message whose publisher gave it an id is taken once in [`DEDUP_WINDOW`].
//!
//! Read on in [`window`] (what a consumer delivers next: pure), [`embedded`] (topics in SQLite files), [`check`] (the bounds),
//! [`error`].

mod check;
mod embedded;
mod error;
#[cfg(test)]
mod tests;
mod window;

use std::{fmt, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
pub use minnow_model::event::TopicRules;
use minnow_model::{
    AppName, FunctionName, StoreId, StoreName, Tenant,
    event::{AttributeName, Event, From, Pattern},
};

pub use self::{
    check::{
        DEDUP_WINDOW, KEEP_CONSUMER, MAX_DEAD, MAX_DEAD_AGE, MAX_DEAD_ANSWER_BYTES, MAX_OUTSTANDING, MAX_PAGE,
        MAX_PAGE_BYTES,
    },
    error::{Bound, TopicError},
};
use crate::{StoreError, kv::Clock, snapshot::Hold};

/// A message on its way into a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    pub event: Event,
    /// How long it is held back before it gets its position, at most [`minnow_model::event::MAX_DELAY`].
    pub delay: Duration,
    /// Whether its publisher gave it its id. Only then is it compared with those of [`DEDUP_WINDOW`].
    pub has_own_id: bool,
}

/// What became of an [`Outgoing`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    pub id: Arc<str>,
    /// From 1 on, and never given twice in the life of a topic. `None` while it is held back. That of a duplicate is the position of the first.
    pub position: Option<u64>,
    /// Whether the same source published the id in [`DEDUP_WINDOW`] already. Nothing was added then.
    pub duplicate: bool,
}

/// Where a delivery comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum At {
    /// The position of a message.
    Log(u64),
    /// The number of a dead letter that is tried again.
    Dead(u64),
}

/// One message, for one consumer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    pub at: At,
    /// Grows with each replay. What was delivered before one is settled in vain.
    pub generation: u64,
    /// The position of the message, also where it comes from the dead letters.
    pub position: u64,
    pub event: Arc<Event>,
    /// When the topic took it, in milliseconds since 1970. Grows with the position.
    pub time_ms: u64,
    /// How often it failed before. Of a dead letter that is tried again: since then.
    pub tries: u32,
    /// When it was delivered first, in milliseconds since 1970: now, if this is the first time. A delivery that was released does not count.
    pub first_ms: u64,
    /// It failed before, or was settled as [`Settled::ReleaseAlone`], and comes in a batch of its own.
    pub alone: bool,
}

impl Delivery {
    /// What it takes in a batch, in bytes: its attributes and its data as JSON has them. In memory it takes no more.
    pub fn size(&self) -> usize {
        check::delivered_bytes(&self.event, &self.event.data)
    }
}

/// What became of a [`Delivery`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settled {
    Done,
    /// It comes again after a time. One that counts is a try.
    Retry {
        after: Duration,
        counted: bool,
    },
    /// As if it had never been delivered: it comes again at once.
    Release,
    /// As [`Settled::Release`], but it comes alone from now on: the batch was too large for its function.
    ReleaseAlone,
    /// It goes to the dead letters.
    Dead(Box<Death>),
}

/// Why a message is a dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Death {
    pub reason: String,
    /// The status of the last answer, and its body: the first [`MAX_DEAD_ANSWER_BYTES`] are kept.
    pub status: Option<u16>,
    pub answer: Bytes,
    /// The topic of the same app that gets a copy: see [`Topics::forward`].
    pub forward: Option<StoreName>,
}

/// What a consumer is given.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ConsumerOptions {
    /// The attribute of the events within which they keep their order.
    pub order_by: Option<AttributeName>,
    /// The types that it wants; none for all.
    pub types: Vec<Pattern>,
    /// The subjects that it wants; none for all.
    pub subjects: Vec<Pattern>,
}

/// Why [`Topics::on_ready`] is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ready {
    /// There may be something for a consumer now.
    Now,
    /// There are messages that are held back, the first until then: [`Topics::release_due`] is to be called. Milliseconds since 1970.
    Due(u64),
}

/// What [`Topics::on_ready`] takes.
pub type Hook = Arc<dyn Fn(&StoreId, Ready) + Send + Sync>;

/// How it stands with a topic.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Survey {
    /// Messages, with those that are held back, and their bytes.
    pub messages: u64,
    pub bytes: u64,
    /// The first and the last position that are there; `None` without messages.
    pub first: Option<u64>,
    pub last: Option<u64>,
    /// Messages that are held back, and when the first of them is due, in milliseconds since 1970.
    pub delayed: u64,
    pub next_delayed_ms: Option<u64>,
    /// Dead letters whose copy has not reached its topic yet.
    pub to_forward: u64,
    pub consumers: Vec<ConsumerSurvey>,
}

/// How it stands with one consumer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumerSurvey {
    pub function: FunctionName,
    /// Since when no live version follows the topic, in milliseconds since 1970.
    pub left_ms: Option<u64>,
    /// Whether [`Consumer::next`] may find something now.
    pub has_work: bool,
    /// When the next message that failed comes again, in milliseconds since 1970. In the past where it is due.
    pub next_due_ms: Option<u64>,
    /// Messages that are not done, with those that its filters leave out.
    pub lag: u64,
    /// When the oldest of them was taken, in milliseconds since 1970.
    pub oldest_ms: Option<u64>,
    /// Messages that are delivered, or wait to be delivered again. 0 where nobody consumes.
    pub outstanding: u64,
    /// Messages that failed and come again.
    pub retrying: u64,
    pub dead: u64,
    /// Messages that went before they were done, by what the topic may hold, since the node started.
    pub expired: u64,
}

/// Some messages of a topic, in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Page {
    pub messages: Vec<Logged>,
    /// The last position that the topic has given; 0 for none. More to read, if it is beyond the last message here.
    pub last: u64,
}

/// A message in a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logged {
    pub position: u64,
    /// When the topic took it, in milliseconds since 1970.
    pub time_ms: u64,
    pub event: Arc<Event>,
}

/// Where a replay begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum To {
    Position(u64),
    /// With the first message that was taken then or later, in milliseconds since 1970.
    Time(u64),
}

/// A dead letter, without its event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadInfo {
    /// From 1 on, and never given twice in the life of a topic.
    pub number: u64,
    pub function: FunctionName,
    pub position: u64,
    /// When the topic took the message, and when it died last, in milliseconds since 1970.
    pub time_ms: u64,
    pub died_ms: u64,
    pub tries: u32,
    pub reason: String,
    /// The status of the last answer.
    pub status: Option<u16>,
    pub event_id: Arc<str>,
    /// The event's `type`.
    pub event_kind: Arc<str>,
    pub data_bytes: u64,
    /// The topic that has not got its copy yet.
    pub forward: Option<StoreName>,
    /// It is tried again just now, or waits for that.
    pub again: bool,
}

/// A dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    pub info: DeadInfo,
    /// The body of the last answer, or its beginning.
    pub answer: Bytes,
    pub event: Arc<Event>,
}

/// Some dead letters, in the order of their numbers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DeadPage {
    pub letters: Vec<DeadInfo>,
    /// Where the next page starts, for `after`.
    pub next: Option<u64>,
}

/// Which dead letters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    One(u64),
    /// Those of a function.
    All(FunctionName),
}

/// What [`Topics::sweep`] removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Swept {
    pub messages: u64,
    pub dead: u64,
    pub consumers: u64,
}

/// The topics of a node. Cheap to clone; dropping the last clone closes them, after the writes that wait.
#[derive(Clone)]
pub struct Topics {
    embedded: embedded::Embedded,
}

impl fmt::Debug for Topics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Topics").finish_non_exhaustive()
    }
}

impl Topics {
    /// The topics in `dir`, which is created where it is missing. Blocking.
    pub fn open(dir: &Path, clock: Clock) -> Result<Self, StoreError> {
        Ok(Self {
            embedded: embedded::Embedded::open(dir, embedded::Times::real(clock), embedded::TopicBounds::default())?,
        })
    }

    /// Has `hook` called when a topic has something new or due: on the thread that wrote it, after the commit and before the publisher is
    /// told. It must not block. The first one that is set stays.
    pub fn on_ready(&self, hook: Hook) {
        self.embedded.on_ready(hook);
    }

    /// Takes all of `events` into the topic, in their order, or none; they are durable when this answers. At most
    /// [`minnow_model::event::MAX_PUBLISH`] of [`minnow_model::event::MAX_PUBLISH_BYTES`].
    pub async fn publish(
        &self,
        topic: &StoreId,
        rules: &TopicRules,
        events: Vec<Outgoing>,
    ) -> Result<Vec<Sent>, TopicError> {
        self.embedded.publish(topic, rules, events).await
    }

    /// Makes the topic where it is not there, and a consumer for each of `consumers` that has none, which begins as it says. Consumers that
    /// are not named have left: they hold nothing back, and are forgotten after [`KEEP_CONSUMER`].
    pub async fn ensure(
        &self,
        topic: &StoreId,
        rules: &TopicRules,
        consumers: &[(FunctionName, From)],
    ) -> Result<(), TopicError> {
        self.embedded.ensure(topic, rules, consumers).await
    }

    /// What a function is delivered of a topic. One at a time on a node: [`TopicError::Busy`] while there is another. One that was dropped
    /// is waited for.
    pub async fn consumer(
        &self,
        topic: &StoreId,
        function: &FunctionName,
        options: ConsumerOptions,
    ) -> Result<Consumer, TopicError> {
        Ok(Consumer { embedded: self.embedded.consumer(topic, function, options).await? })
    }

    /// How it stands with the topic. One that has no file has nothing.
    pub async fn survey(&self, topic: &StoreId) -> Result<Survey, TopicError> {
        self.embedded.survey(topic).await
    }

    /// How it stands with one consumer; `None` where there is none. Cheaper than [`Topics::survey`], which looks at all.
    pub async fn survey_of(
        &self,
        topic: &StoreId,
        function: &FunctionName,
    ) -> Result<Option<ConsumerSurvey>, TopicError> {
        self.embedded.survey_of(topic, function).await
    }

    /// Gives the messages whose delay is over their positions, and answers when the next one is due, in milliseconds since 1970. What the
    /// topic may hold is no reason to refuse them.
    pub async fn release_due(&self, topic: &StoreId, rules: &TopicRules) -> Result<Option<u64>, TopicError> {
        self.embedded.release_due(topic, rules).await
    }

    /// Publishes the copies of dead letters that have not reached their topics yet. `rules` gives what a topic of the app may hold, `None` for one that
    /// is not there any more: its copies are given up. Answers how many are left, because their topic is full. One call at a time does the work
    /// of a topic; another that comes meanwhile has it look once more, and answers 0.
    pub async fn forward(
        &self,
        topic: &StoreId,
        rules: impl Fn(&StoreName) -> Option<TopicRules> + Send + Sync,
    ) -> Result<u64, TopicError> {
        self.embedded.forward(topic, rules).await
    }

    /// The messages after the position `after`, taken at `since_ms` or later; at most `limit` (1 to [`MAX_PAGE`]) of
    /// [`MAX_PAGE_BYTES`], but at least one where there is one.
    pub async fn page(
        &self,
        topic: &StoreId,
        after: u64,
        since_ms: Option<u64>,
        limit: u32,
    ) -> Result<Page, TopicError> {
        self.embedded.page(topic, after, since_ms, limit).await
    }

    /// Sets a consumer to another place, forwards or back. What it was delivered before is settled in vain.
    pub async fn replay(&self, topic: &StoreId, function: &FunctionName, to: To) -> Result<(), TopicError> {
        self.embedded.replay(topic, function, to).await
    }

    /// The dead letters after the number `after`, of one function or all; `limit` is 1 to [`MAX_PAGE`].
    pub async fn dead_list(
        &self,
        topic: &StoreId,
        function: Option<&FunctionName>,
        after: u64,
        limit: u32,
    ) -> Result<DeadPage, TopicError> {
        self.embedded.dead_list(topic, function, after, limit).await
    }

    /// One dead letter; `None` where there is none of this number.
    pub async fn dead_get(&self, topic: &StoreId, number: u64) -> Result<Option<DeadLetter>, TopicError> {
        self.embedded.dead_get(topic, number).await
    }

    /// Has dead letters delivered again, and answers how many. One that works is gone then, one that fails is a dead letter again.
    pub async fn dead_retry(&self, topic: &StoreId, which: Which) -> Result<u64, TopicError> {
        self.embedded.dead_retry(topic, which).await
    }

    /// Removes dead letters, and answers how many.
    pub async fn dead_drop(&self, topic: &StoreId, which: Which) -> Result<u64, TopicError> {
        self.embedded.dead_drop(topic, which).await
    }

    /// Removes what is too old: messages, dead letters, ids, and consumers that left long ago.
    pub async fn sweep(&self, topic: &StoreId, rules: &TopicRules) -> Result<Swept, TopicError> {
        self.embedded.sweep(topic, rules).await
    }

    /// The topics of an app that have a file, by name, with their bytes on the disk.
    pub fn list_stores(&self, tenant: &Tenant, app: &AppName) -> Result<Vec<(StoreName, u64)>, TopicError> {
        self.embedded.list_stores(tenant, app)
    }

    /// Removes all topics of an app: all or none, also over a crash. Their consumers find nothing any more.
    pub async fn delete_app(&self, tenant: &Tenant, app: &AppName) -> Result<(), TopicError> {
        self.embedded.delete_app(tenant, app).await
    }

    /// Moves all topics of an app to the folder `to`, all or none. False where it has none.
    pub async fn move_app(&self, tenant: &Tenant, app: &AppName, to: &Path) -> Result<bool, TopicError> {
        self.embedded.move_app(tenant, app, to).await
    }

    /// Makes the files in the folder `from` the topics of an app that has none: all or none.
    pub async fn adopt_app(&self, tenant: &Tenant, app: &AppName, from: &Path) -> Result<(), TopicError> {
        self.embedded.adopt_app(tenant, app, from).await
    }

    /// Keeps the writes of a topic waiting, for a backup; `None` where it has no file.
    pub async fn hold(&self, topic: &StoreId) -> Result<Option<Hold>, TopicError> {
        self.embedded.hold(topic).await
    }

    /// Whether the file of a topic, as a backup has it, is sound. Blocking.
    pub fn check_file(path: &Path) -> Result<(), StoreError> {
        embedded::check_file(path)
    }

    /// The apps that have topics.
    pub fn apps(&self) -> Result<Vec<(Tenant, AppName)>, TopicError> {
        self.embedded.apps()
    }

    /// How many topics are open now.
    pub fn open_stores(&self) -> usize {
        self.embedded.open_stores()
    }
}

/// What one function is delivered of one topic. It holds no file open. Dropping it forgets what is delivered and not settled: the next one
/// delivers that again.
pub struct Consumer {
    embedded: embedded::Consumer,
}

impl fmt::Debug for Consumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer").finish_non_exhaustive()
    }
}

impl Consumer {
    /// What is to be delivered now: at most `most` messages of `most_bytes` together ([`Delivery::size`]), but at least one where there is
    /// one. Empty when nothing is ready; it waits for nothing to come. One that failed before comes alone.
    pub async fn next(&self, most: usize, most_bytes: usize) -> Result<Vec<Delivery>, TopicError> {
        self.embedded.next(most, most_bytes).await
    }

    /// When there is something to look for with [`Consumer::next`] though nothing new came, in milliseconds since 1970: a message that
    /// failed comes again, or what the filters left out is to be written down as done. In the past where it is due.
    pub fn next_due(&self) -> Option<u64> {
        self.embedded.next_due()
    }

    /// Messages that are delivered, or wait to be delivered again.
    pub fn outstanding(&self) -> usize {
        self.embedded.outstanding()
    }

    /// Settles deliveries, those of one batch in one call. What [`Consumer::next`] answers from now on knows of it, without that what is
    /// returned here is awaited: that answers when it is on the disk, so whoever has no need of it drops it. What was settled before, or
    /// delivered before a replay, stays as it is.
    #[must_use = "await it, or drop it to wait for nothing"]
    pub fn settle(
        &self,
        results: Vec<(At, u64, Settled)>,
    ) -> impl Future<Output = Result<(), TopicError>> + Send + 'static + use<> {
        self.embedded.settle(results)
    }
}
