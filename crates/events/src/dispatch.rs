//! The task of one follower, while there is something to do: reads what is ready, delivers it, settles what it came to.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{StreamExt as _, stream::FuturesUnordered};
use minnow_model::{Level, StoreId, Subscription, problem::Code};
use minnow_runtime::{Batch, Delivered, Function, Happening};
use minnow_store::{
    TopicError,
    topic::{Consumer, ConsumerOptions, Delivery, Settled},
};
use tokio::sync::watch;

use crate::{
    events::Shared,
    outcome::judge,
    pause::Pause,
    room::Held,
    subscriptions::{Follower, Kept, choose, subscription},
    timer::What,
};

/// Deliveries of one function and topic at once. With a batch of one and a function that waits 10 ms for something else, 1,600 messages a
/// second.
pub(crate) const MAX_BATCHES: usize = 16;

/// The most data of one delivery, in bytes; one message may have as much alone. Beyond it a larger batch gains nothing.
pub(crate) const MAX_DELIVERY_BYTES: usize = 1 << 20;

/// How often a task that has something to do looks for a free place: nobody tells it when a request ends.
pub(crate) const LOOK_FOR_PLACE: Duration = Duration::from_millis(20);

/// The shortest time until a message that is due is looked for again: that it was not given has its reason, such as a key.
const LOOK_FOR_DUE_MS: u64 = 50;

/// How often a task that has something to do notes how far the function has come.
const NOTE: Duration = Duration::from_secs(5);

/// When a follower whose task broke down is looked at again.
const AFTER_PANIC_MS: u64 = 1000;

/// Delivers what there is for the follower, until there is nothing or the node stops.
pub(crate) async fn run(shared: Arc<Shared>, follower: Arc<Follower>) {
    let mut guard = Guard { shared: &shared, follower: &follower, has_ended: false };
    let stop = shared.stop.subscribe();
    let kept = std::mem::take(&mut *follower.kept());
    let mut task = Task {
        shared: &shared,
        follower: &follower,
        kept,
        stop,
        under_way: FuturesUnordered::new(),
        settling: FuturesUnordered::new(),
        noted: Instant::now(),
    };
    task.work().await;
    guard.has_ended = true;
}

/// Has a task that broke down taken up again.
struct Guard<'a> {
    shared: &'a Arc<Shared>,
    follower: &'a Arc<Follower>,
    has_ended: bool,
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if !self.has_ended {
            self.follower.stop();
            let again = self.shared.now_ms() + AFTER_PANIC_MS;
            self.shared.timer.set(self.follower.number, again, What::Follower(Arc::clone(self.follower)));
        }
    }
}

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

struct Task<'a> {
    shared: &'a Arc<Shared>,
    follower: &'a Arc<Follower>,
    kept: Kept,
    stop: watch::Receiver<Option<tokio::time::Instant>>,
    under_way: FuturesUnordered<Boxed<Ended>>,
    /// Writes of what was settled, which nobody else waits for.
    settling: FuturesUnordered<Boxed<Result<(), TopicError>>>,
    /// When it was noted last how far the function has come.
    noted: Instant,
}

/// A delivery that has ended.
struct Ended {
    delivered: Delivered,
    deliveries: Vec<Delivery>,
    picked: Arc<Function>,
    /// The version whose settings count.
    newest: Arc<Function>,
}

/// How to go on.
enum Step {
    /// There may be more.
    Again,
    /// Something has to happen first, or a time to come.
    Wait(Option<Instant>),
    /// There is nothing until then, in milliseconds since 1970.
    Nothing(Option<u64>),
    /// Nobody follows the topic any more.
    Gone,
}

impl Task<'_> {
    async fn work(&mut self) {
        loop {
            self.follower.look();
            if self.shared.is_stopping() {
                self.drain().await;
                return self.follower.stop();
            }
            if self.noted.elapsed() >= NOTE {
                self.note().await;
            }
            match self.step().await {
                Step::Again => {}
                Step::Wait(until) => self.wait(until).await,
                Step::Nothing(due_ms) => {
                    // There is nothing that there could be no room for.
                    self.go_on();
                    if self.consumer().is_some_and(|consumer| consumer.outstanding() == 0) {
                        self.caught_up();
                    } else {
                        self.note().await;
                    }
                    *self.follower.kept() = std::mem::take(&mut self.kept);
                    if let Some(due_ms) = due_ms {
                        let due_ms = due_ms.max(self.shared.now_ms() + LOOK_FOR_DUE_MS);
                        self.shared.timer.set(self.follower.number, due_ms, What::Follower(Arc::clone(self.follower)));
                    }
                    if self.follower.rest() {
                        return;
                    }
                    self.kept = std::mem::take(&mut *self.follower.kept());
                }
                Step::Gone => {
                    while !self.is_quiet() {
                        self.wait(None).await;
                    }
                    // Before the state: who follows the topic next waits for this consumer's end.
                    self.kept = Kept::default();
                    self.go_on();
                    // Where there is another one for the function, the figures are its.
                    if !self.follower.is_retired() {
                        self.caught_up();
                    }
                    if self.follower.rest() {
                        return;
                    }
                }
            }
        }
    }

    /// Nothing is under way.
    fn is_quiet(&self) -> bool {
        self.under_way.is_empty() && self.settling.is_empty()
    }

    /// Begins one more delivery, if that can be.
    async fn step(&mut self) -> Step {
        let topic = &self.follower.topic;
        if self.follower.is_retired() {
            return Step::Gone;
        }
        let Some(app) = self.shared.app(&topic.tenant, &topic.app) else { return Step::Gone };
        let draw = rand::random_range(0..100);
        let follows = |spec: &minnow_runtime::FunctionSpec| subscription(spec, &topic.name).is_some();
        let Some(choice) = choose(&app, &self.follower.function, follows, draw) else { return Step::Gone };
        drop(app);
        let (Some(own), Some(newest)) =
            (subscription(choice.picked.spec(), &topic.name), subscription(choice.newest.spec(), &topic.name))
        else {
            return Step::Gone;
        };
        let now = Instant::now();
        if self.follower.has_changed() {
            self.kept.pause.look();
        }
        if let Some(until) = self.kept.pause.until(now) {
            return Step::Wait(Some(until));
        }
        if self.under_way.len() >= MAX_BATCHES {
            return Step::Wait(None);
        }
        if !self.shared.runtime.has_place_for_delivery(&choice.picked) {
            return self.no_room(now);
        }
        match self.ready(newest).await {
            Ok(true) => {}
            // What is under way belongs to the consumer with the options of before.
            Ok(false) => return Step::Wait(None),
            Err(error) => return self.trouble(&error),
        }
        let Some(mut room) = self.shared.room.take(&topic.tenant, &topic.app, MAX_DELIVERY_BYTES) else {
            return self.no_room(now);
        };
        let most = usize::try_from(own.batch).unwrap_or(1);
        let half = usize::try_from(choice.picked.spec().limits.request_body_bytes / 2).unwrap_or(MAX_DELIVERY_BYTES);
        let most_bytes = half.clamp(1, MAX_DELIVERY_BYTES);
        let deliveries = match next(&self.kept, most, most_bytes).await {
            Ok(deliveries) => deliveries,
            Err(error) => return self.trouble(&error),
        };
        let Some(first) = deliveries.first() else {
            let due_ms = self.consumer().and_then(Consumer::next_due);
            if self.is_quiet() {
                return Step::Nothing(due_ms);
            }
            return Step::Wait(due_ms.map(|due_ms| self.instant(due_ms)));
        };
        let waits = !own.wait.is_zero() && !first.alone;
        // Only what is held, for as long as more is waited for.
        room.shrink(size(&deliveries));
        let deliveries =
            if waits { self.gather(deliveries, &mut room, &choice, own, most_bytes).await } else { deliveries };
        self.begin(deliveries, choice.picked, choice.newest, room);
        Step::Again
    }

    /// Notes that nothing is left.
    fn caught_up(&self) {
        let metrics = self.follower.metrics(&self.shared.metrics);
        metrics.lag.set(0);
        metrics.set_oldest(None);
    }

    /// Notes how far the function has come.
    async fn note(&mut self) {
        self.noted = Instant::now();
        // What cannot be read is told when it is to be delivered.
        if let Ok(Some(own)) = self.shared.topics.survey_of(&self.follower.topic, &self.follower.function).await {
            self.follower.note_survey(&own, &self.shared.metrics);
        }
    }

    fn consumer(&self) -> Option<&Consumer> {
        self.kept.consumer.as_ref().map(|(_, consumer)| consumer)
    }

    /// Sees to it that there is a consumer with the options of the newest version. False while deliveries of another are under way.
    async fn ready(&mut self, newest: &Subscription) -> Result<bool, TopicError> {
        let wanted = ConsumerOptions {
            order_by: newest.order_by.clone(),
            types: newest.types.clone(),
            subjects: newest.subjects.clone(),
        };
        match &self.kept.consumer {
            Some((options, _)) if *options == wanted => return Ok(true),
            Some(_) if !self.is_quiet() => return Ok(false),
            _ => self.kept.consumer = None,
        }
        let Follower { topic, function, .. } = &**self.follower;
        let consumer = match self.shared.topics.consumer(topic, function, wanted.clone()).await {
            // A deployment makes it; somebody has taken the file away since.
            Err(TopicError::NoConsumer(_)) => {
                self.shared.ensure(topic).await?;
                self.shared.topics.consumer(topic, function, wanted.clone()).await?
            }
            consumer => consumer?,
        };
        self.kept.consumer = Some((wanted, consumer));
        Ok(true)
    }

    /// There is no place or no room for one more delivery. Without any under way that is a pause, which people are shown.
    fn no_room(&mut self, now: Instant) -> Step {
        if self.under_way.is_empty() {
            self.pause(Code::Overloaded, None);
            return Step::Again;
        }
        Step::Wait(Some(now + LOOK_FOR_PLACE))
    }

    /// Waits for more messages, as long as the subscription says from when the first one came; no longer where there is no room for
    /// more, or no place to deliver what comes beside them.
    async fn gather(
        &mut self,
        mut deliveries: Vec<Delivery>,
        room: &mut Held,
        choice: &crate::subscriptions::Choice,
        own: &Subscription,
        most_bytes: usize,
    ) -> Vec<Delivery> {
        let most = usize::try_from(own.batch).unwrap_or(1);
        let first_ms = deliveries.first().map_or(0, |first| first.time_ms);
        let waited = Duration::from_millis(self.shared.now_ms().saturating_sub(first_ms));
        let until = Instant::now() + own.wait.saturating_sub(waited);
        loop {
            let bytes = size(&deliveries);
            let is_over = Instant::now() >= until || deliveries.len() >= most || bytes >= most_bytes;
            if is_over || self.shared.is_stopping() {
                return deliveries;
            }
            self.wait(Some(until)).await;
            self.follower.look();
            let is_held_up = self.kept.pause.until(Instant::now()).is_some()
                || self.under_way.len() + 1 >= MAX_BATCHES
                || !self.shared.runtime.has_place_for_delivery(&choice.picked);
            let Follower { topic, .. } = &**self.follower;
            let beside = self.shared.room.take(&topic.tenant, &topic.app, most_bytes - bytes);
            let (Some(mut beside), false) = (beside, is_held_up) else { return deliveries };
            // What cannot be read now is read later.
            let more = next(&self.kept, most - deliveries.len(), most_bytes - bytes).await.unwrap_or_default();
            beside.shrink(size(&more));
            if more.first().is_some_and(|first| first.alone) {
                // It goes by itself, beside this batch.
                self.begin(more, Arc::clone(&choice.picked), Arc::clone(&choice.newest), beside);
                continue;
            }
            deliveries.extend(more);
            drop(beside);
            // Nobody else can have taken so much in between that it matters.
            room.grow(size(&deliveries));
        }
    }

    fn begin(&mut self, deliveries: Vec<Delivery>, picked: Arc<Function>, newest: Arc<Function>, room: Held) {
        let shared = Arc::clone(self.shared);
        let topic = self.follower.topic.clone();
        let now_ms = shared.now_ms();
        let metrics = self.follower.metrics(&shared.metrics);
        for delivery in deliveries.iter().filter(|delivery| delivery.tries == 0 && !delivery.alone) {
            metrics.delivered_after(Duration::from_millis(now_ms.saturating_sub(delivery.time_ms)));
        }
        self.under_way.push(Box::pin(async move {
            let is_batch = subscription(picked.spec(), &topic.name).is_some_and(|own| own.batch > 1);
            let what = Happening::Messages(Batch { topic: topic.name.clone(), deliveries, is_batch });
            let delivered = shared.deliver(&picked, &topic.app, &what).await;
            drop(room);
            let deliveries = match what {
                Happening::Messages(batch) => batch.deliveries,
                Happening::Tick { .. } => Vec::new(),
            };
            Ended { delivered, deliveries, picked, newest }
        }));
    }

    /// Waits until something has ended, is new, or `until` has come.
    async fn wait(&mut self, until: Option<Instant>) {
        let time = async {
            match until {
                Some(until) => tokio::time::sleep_until(until.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Some(ended) = self.under_way.next(), if !self.under_way.is_empty() => self.settle(ended),
            Some(written) = self.settling.next(), if !self.settling.is_empty() => self.written(written),
            () = self.follower.told.notified() => {}
            () = time => {}
            // An error means that nobody is left who could ask.
            _ = self.stop.changed() => {}
        }
    }

    /// Settles what a delivery came to.
    fn settle(&mut self, ended: Ended) {
        let Ended { delivered, deliveries, picked, newest } = ended;
        let topic = &self.follower.topic;
        let Some(own) = subscription(newest.spec(), &topic.name) else { return };
        let verdict = judge(&delivered, &deliveries, own, self.shared.now_ms(), &mut rand::random::<f64>);
        match verdict.pause {
            Some((code, after)) => self.pause(code, after),
            None => self.go_on(),
        }
        let mut forwards = false;
        let metrics = self.follower.metrics(&self.shared.metrics);
        for ((_, _, settled), delivery) in verdict.results.iter().zip(&deliveries) {
            match settled {
                Settled::Done => metrics.done.add(1),
                Settled::Retry { counted: true, .. } => metrics.retry.add(1),
                Settled::Retry { counted: false, .. } => metrics.later.add(1),
                Settled::Release | Settled::ReleaseAlone => {}
                Settled::Dead(_) => metrics.dead.add(1),
            }
            if let Settled::Dead(death) = settled {
                forwards |= death.forward.is_some();
                let tries = delivery.tries.saturating_add(1);
                let message = format!(
                    "message {} of the topic `{}` is a dead letter after {tries} tries: {}",
                    delivery.position, topic.name, death.reason
                );
                picked.note(Level::Error, None, message);
            }
        }
        let Some(consumer) = self.consumer() else { return };
        let written = consumer.settle(verdict.results);
        let (shared, topic) = (Arc::clone(self.shared), topic.clone());
        self.settling.push(Box::pin(async move {
            written.await?;
            if forwards {
                forward(&shared, &topic).await;
            }
            Ok(())
        }));
    }

    fn written(&mut self, written: Result<(), TopicError>) {
        if let Err(error) = written {
            self.trouble(&error);
        }
    }

    /// The topic cannot be used now.
    fn trouble(&mut self, error: &TopicError) -> Step {
        let topic = &self.follower.topic;
        match error {
            TopicError::Busy => {
                tracing::debug!(app = %topic.app, topic = %topic.name, %error, "deliveries wait");
            }
            // Another one is made.
            TopicError::NoConsumer(_) => {
                tracing::warn!(app = %topic.app, topic = %topic.name, %error, "the function begins anew in its topic");
                self.kept.consumer = None;
            }
            error => {
                tracing::warn!(app = %topic.app, topic = %topic.name, %error, "deliveries wait: the topic cannot be used")
            }
        }
        self.pause(Code::Internal, None);
        Step::Again
    }

    fn pause(&mut self, code: Code, after: Option<Duration>) {
        let Follower { topic, function, .. } = &**self.follower;
        if self.kept.pause.extend(code, after, Instant::now()) {
            let reason = code.as_str();
            tracing::warn!(app = %topic.app, topic = %topic.name, %function, reason, "deliveries have paused for more than 10 s");
        }
        self.follower.note_pause(&self.kept.pause, self.shared.now_ms());
    }

    fn go_on(&mut self) {
        let Follower { topic, function, .. } = &**self.follower;
        if let Some(paused) = self.kept.pause.end(Instant::now()) {
            tracing::info!(app = %topic.app, topic = %topic.name, %function, s = paused.as_secs(), "deliveries go on");
        }
        self.follower.note_pause(&Pause::default(), 0);
    }

    /// The time of the wall clock as one of the monotonic clock.
    fn instant(&self, ms: u64) -> Instant {
        let left = ms.saturating_sub(self.shared.now_ms()).max(LOOK_FOR_DUE_MS);
        Instant::now() + Duration::from_millis(left)
    }

    /// Lets what is under way end until the node's deadline. What is cut off then is delivered again.
    async fn drain(&mut self) {
        let deadline = (*self.stop.borrow()).unwrap_or_else(tokio::time::Instant::now);
        let through = async {
            while let Some(ended) = self.under_way.next().await {
                self.settle(ended);
            }
        };
        let is_cut = tokio::time::timeout_at(deadline, through).await.is_err();
        if is_cut {
            self.shared.cut(self.under_way.len());
        }
        while let Some(written) = self.settling.next().await {
            self.written(written);
        }
    }
}

/// What is ready for the consumer.
async fn next(kept: &Kept, most: usize, most_bytes: usize) -> Result<Vec<Delivery>, TopicError> {
    match &kept.consumer {
        Some((_, consumer)) => consumer.next(most, most_bytes).await,
        None => Ok(Vec::new()),
    }
}

/// Publishes copies of dead letters; those that find no room are tried again later.
async fn forward(shared: &Shared, topic: &StoreId) {
    if shared.forward(topic).await {
        shared.tend_at(topic, shared.now_ms() + crate::subscriptions::TEND_AGAIN_MS);
    }
}

/// What messages take in memory, in bytes.
fn size(deliveries: &[Delivery]) -> usize {
    deliveries.iter().map(Delivery::size).sum()
}
