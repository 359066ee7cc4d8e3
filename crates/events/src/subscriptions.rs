//! Who follows what: a table made from the live apps, anew with each change of theirs.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use minnow_model::{
    AppName, FunctionName, ScheduleName, StoreId, StoreName, Subscription, Tenant, TopicRules, deployment::pick,
    event::From as Begin,
};
use minnow_runtime::{Function, FunctionSpec, LiveApp, LiveVersion};
use minnow_store::{
    TopicError,
    topic::{Consumer, ConsumerOptions, ConsumerSurvey, Ready},
};
use minnow_telemetry::{Metrics, metrics::SubscriptionMetrics};
use tokio::sync::Notify;

use crate::{
    events::{Job, Shared},
    pause::Pause,
    schedules::ScheduleEntry,
    timer::What,
};

/// When a topic is tended again where something did not find room, or could not be done.
pub(crate) const TEND_AGAIN_MS: u64 = 60_000;

/// The apps that are live, with what is to be delivered to them.
pub(crate) type Table = HashMap<AppName, Arc<AppEntry>>;

/// One live app.
pub(crate) struct AppEntry {
    /// What the entry was made from; not held, so that versions end when they are not live any more.
    live: Weak<LiveApp>,
    pub(crate) tenant: Tenant,
    pub(crate) topics: BTreeMap<StoreName, TopicEntry>,
    pub(crate) schedules: BTreeMap<(FunctionName, ScheduleName), Arc<ScheduleEntry>>,
}

/// One topic of a live app.
pub(crate) struct TopicEntry {
    /// Its place in the timer.
    pub(crate) number: u64,
    pub(crate) id: StoreId,
    pub(crate) followers: Vec<Arc<Follower>>,
}

/// A function that follows a topic, whatever versions of it are live.
#[derive(Debug)]
pub(crate) struct Follower {
    /// Its place in the timer.
    pub(crate) number: u64,
    pub(crate) topic: StoreId,
    pub(crate) function: FunctionName,
    /// One of [`IDLE`], [`RUNNING`] and [`AGAIN`].
    state: AtomicU8,
    /// Tells the task that there is something new.
    pub(crate) told: Notify,
    /// What is kept from one task to the next; with the task while there is one.
    kept: Mutex<Kept>,
    /// Since when nothing is delivered, in milliseconds since 1970; 0 while it is.
    paused_ms: AtomicU64,
    /// What was missing may be there now: a pause is over.
    has_changed: AtomicBool,
    /// It is in the table no more: another one may be there for the same function, and waits for this one's consumer.
    retired: AtomicBool,
    /// Made with the first delivery.
    metrics: OnceLock<Arc<SubscriptionMetrics>>,
    /// Messages that went before they were done, as of the last look.
    expired: AtomicU64,
}

/// There is no task.
const IDLE: u8 = 0;
/// There is a task, and it knows of everything.
const RUNNING: u8 = 1;
/// There is a task, and something is new since it looked.
const AGAIN: u8 = 2;

/// What a follower keeps.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    pub(crate) consumer: Option<(ConsumerOptions, Consumer)>,
    pub(crate) pause: Pause,
}

impl Follower {
    /// Has the follower looked after: whether a task is to be started for it.
    fn wake(&self) -> bool {
        let next = |state| match state {
            IDLE => Some(RUNNING),
            RUNNING => Some(AGAIN),
            _ => None,
        };
        match self.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, next) {
            Ok(IDLE) => true,
            Ok(_) => {
                self.told.notify_one();
                false
            }
            Err(_) => false,
        }
    }

    /// The task is about to look, so that all that was told until now is known.
    pub(crate) fn look(&self) {
        self.state.store(RUNNING, Ordering::Release);
    }

    /// Whether the app has changed since this was asked last.
    pub(crate) fn has_changed(&self) -> bool {
        self.has_changed.swap(false, Ordering::AcqRel)
    }

    pub(crate) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Acquire)
    }

    /// The task ends, unless there is something new: whether it ends.
    pub(crate) fn rest(&self) -> bool {
        self.state.compare_exchange(RUNNING, IDLE, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// The task has ended, whatever there is.
    pub(crate) fn stop(&self) {
        self.state.store(IDLE, Ordering::Release);
    }

    pub(crate) fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes how far the function has come.
    pub(crate) fn note_survey(&self, survey: &ConsumerSurvey, metrics: &Metrics) {
        let metrics = self.metrics(metrics);
        metrics.lag.set(i64::try_from(survey.lag).unwrap_or(i64::MAX));
        metrics.set_oldest(survey.oldest_ms);
        let before = self.expired.swap(survey.expired, Ordering::Relaxed);
        metrics.expired.add(survey.expired.saturating_sub(before));
    }

    pub(crate) fn metrics(&self, metrics: &Metrics) -> &SubscriptionMetrics {
        let StoreId { tenant, app, name } = &self.topic;
        self.metrics.get_or_init(|| metrics.subscription(tenant, app, name, &self.function))
    }

    /// Notes for how long nothing is delivered.
    pub(crate) fn note_pause(&self, pause: &Pause, now_ms: u64) {
        let since = pause.since().map_or(0, |since| {
            let paused = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
            now_ms.saturating_sub(paused).max(1)
        });
        self.paused_ms.store(since, Ordering::Relaxed);
    }

    /// For how long nothing is delivered.
    pub(crate) fn paused_for(&self, now_ms: u64) -> Option<Duration> {
        match self.paused_ms.load(Ordering::Relaxed) {
            0 => None,
            since => Some(Duration::from_millis(now_ms.saturating_sub(since))),
        }
    }
}

/// A function of a live version, and its newest live version, whose settings count.
pub(crate) struct Choice {
    pub(crate) picked: Arc<Function>,
    /// That of `picked`.
    pub(crate) version: Arc<LiveVersion>,
    pub(crate) newest: Arc<Function>,
}

/// Picks by weight among the live versions whose function of this name `has` what is asked for. `draw` is from 0 to 99.
pub(crate) fn choose(
    app: &LiveApp,
    function: &FunctionName,
    has: impl Fn(&FunctionSpec) -> bool,
    draw: u8,
) -> Option<Choice> {
    let of_version = |function: &Arc<Function>| has(function.spec()).then(|| Arc::clone(function));
    let having: Vec<(u8, Arc<Function>, &Arc<LiveVersion>)> = app
        .shares
        .iter()
        .filter_map(|(weight, version)| Some((*weight, version.function(function).and_then(of_version)?, version)))
        .collect();
    let index = pick(having.iter().map(|(weight, ..)| *weight), draw);
    let (_, picked, version) = having.get(index)?;
    let (_, newest, _) = having.last()?;
    Some(Choice { picked: Arc::clone(picked), version: Arc::clone(version), newest: Arc::clone(newest) })
}

/// How the function follows the topic.
pub(crate) fn subscription<'a>(spec: &'a FunctionSpec, topic: &StoreName) -> Option<&'a Subscription> {
    spec.subscriptions.iter().find(|subscription| subscription.topic == *topic)
}

impl Shared {
    /// The live app of this name, when it is the tenant's.
    pub(crate) fn app(&self, tenant: &Tenant, app: &AppName) -> Option<Arc<LiveApp>> {
        let app = Arc::clone(self.live.load().get(app)?);
        (tenant_of(&app).as_ref() == Some(tenant)).then_some(app)
    }

    /// What the topic may hold, as the newest live version says.
    pub(crate) fn rules(&self, topic: &StoreId) -> Option<TopicRules> {
        let app = self.app(&topic.tenant, &topic.app)?;
        app.shares.iter().rev().find_map(|(_, version)| version.topics.get(&topic.name)).copied()
    }

    /// What is to be delivered to the app, when it is the tenant's.
    pub(crate) fn entry(&self, tenant: &Tenant, app: &AppName) -> Option<Arc<AppEntry>> {
        self.table.load().get(app).filter(|entry| entry.tenant == *tenant).map(Arc::clone)
    }

    /// A topic has something new or due. Called on the thread that wrote it.
    pub(crate) fn ready(&self, topic: &StoreId, ready: Ready) {
        let Some(app) = self.entry(&topic.tenant, &topic.app) else { return };
        let Some(entry) = app.topics.get(&topic.name) else { return };
        match ready {
            Ready::Now => {
                let woken = entry.followers.iter().filter(|follower| self.begin_task(follower)).count();
                // On a core that it shares with the threads of requests, a delivery would else begin when the publisher's request has
                // ended: these come first, and the answer is next. A third of the time from a publish to its delivery (benchmark
                // events-latency, on one core); with a core to spare it gives up nothing. Not while a follower has its task, so that
                // publishers never wait for more than the first delivery's beginning.
                if woken > 0 {
                    thread::yield_now();
                }
            }
            Ready::Due(due_ms) => self.timer.set(entry.number, due_ms, What::Topic(topic.clone())),
        }
    }

    /// Has a task look after the follower.
    pub(crate) fn wake(&self, follower: &Arc<Follower>) {
        self.begin_task(follower);
    }

    /// [`Shared::wake`]; whether there was no task.
    fn begin_task(&self, follower: &Arc<Follower>) -> bool {
        let is_idle = follower.wake();
        if is_idle {
            self.send(follower.number, Job::Follower(Arc::clone(follower)));
        }
        is_idle
    }

    /// Gives the held back messages of a topic that are due their positions, and copies of dead letters to their topics.
    pub(crate) async fn tend(&self, topic: &StoreId) {
        let Some(rules) = self.rules(topic) else { return };
        let now_ms = self.now_ms();
        let mut again = match self.topics.release_due(topic, &rules).await {
            Ok(due) => due,
            Err(error) => {
                tracing::warn!(app = %topic.app, topic = %topic.name, %error, "held back messages of a topic stay where they are");
                Some(now_ms + TEND_AGAIN_MS)
            }
        };
        if self.forward(topic).await {
            let later = now_ms + TEND_AGAIN_MS;
            again = Some(again.map_or(later, |due| due.min(later)));
        }
        if let Some(at_ms) = again {
            self.tend_at(topic, at_ms);
        }
    }

    /// Publishes copies of dead letters to the topics that are named for them. Whether some are left.
    pub(crate) async fn forward(&self, topic: &StoreId) -> bool {
        let rules = |name: &StoreName| self.rules(&StoreId { name: name.clone(), ..topic.clone() });
        match self.topics.forward(topic, rules).await {
            Ok(left) => left > 0,
            Err(error) => {
                tracing::warn!(app = %topic.app, topic = %topic.name, %error, "copies of dead letters are published later");
                true
            }
        }
    }

    /// Sees to it that a topic of a live app is there, with those who follow it and nobody else. What a file without anybody has was
    /// published after it had been taken away: then all is delivered.
    pub(crate) async fn ensure(&self, topic: &StoreId) -> Result<(), TopicError> {
        let is_bare = self.topics.survey(topic).await?.consumers.is_empty();
        let (Some(rules), Some(app)) = (self.rules(topic), self.app(&topic.tenant, &topic.app)) else { return Ok(()) };
        let mut followers = BTreeMap::new();
        // The newest version is the last one, and its settings count.
        for spec in app.shares.iter().flat_map(|(_, version)| &version.functions).map(|function| function.spec()) {
            if let Some(own) = subscription(spec, &topic.name) {
                followers.insert(spec.function.clone(), if is_bare { Begin::Start } else { own.from });
            }
        }
        let followers: Vec<_> = followers.into_iter().collect();
        self.topics.ensure(topic, &rules, &followers).await
    }

    /// Has the topic tended at a time.
    pub(crate) fn tend_at(&self, topic: &StoreId, at_ms: u64) {
        if let Some(entry) = self.entry(&topic.tenant, &topic.app).as_ref().and_then(|app| app.topics.get(&topic.name))
        {
            self.timer.set(entry.number, at_ms, What::Topic(topic.clone()));
        }
    }

    /// Keeps the table as the live apps are, until the node stops.
    pub(crate) async fn follow(self: Arc<Self>) {
        let mut changes = self.live.changes();
        let mut stop = self.stop.subscribe();
        loop {
            let is_live = *changes.borrow_and_update() > 0;
            let fresh = self.refresh().await;
            if is_live {
                self.wake_lanes();
            }
            if !fresh.is_empty() {
                tokio::spawn(Arc::clone(&self).survey(fresh));
            }
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                // An error means that nobody is left who could ask.
                _ = stop.changed() => return,
            }
        }
    }

    /// Makes the table anew. Answers the topics that somebody follows since then.
    async fn refresh(&self) -> Vec<StoreId> {
        let live = Arc::clone(&self.live.load());
        let old = self.table.load_full();
        let mut table = Table::with_capacity(live.len());
        let mut fresh = Vec::new();
        let mut changed = Vec::new();
        for (name, app) in live.iter() {
            let before = old.get(name);
            if let Some(entry) = before.filter(|entry| std::ptr::eq(entry.live.as_ptr(), Arc::as_ptr(app))) {
                table.insert(name.clone(), Arc::clone(entry));
                continue;
            }
            let Some(tenant) = tenant_of(app) else { continue };
            let before = before.map(|entry| &**entry).filter(|entry| entry.tenant == tenant);
            let topics = self.topics_of(app, &tenant, before, &mut fresh);
            let schedules = self.schedules_of(app, &tenant, before).await;
            let entry = Arc::new(AppEntry { live: Arc::downgrade(app), tenant, topics, schedules });
            changed.push(Arc::clone(&entry));
            table.insert(name.clone(), entry);
        }
        let kept: HashSet<u64> = table.values().flat_map(|entry| entry.numbers()).collect();
        self.table.store(Arc::new(table));
        for number in old.values().flat_map(|entry| entry.numbers()).filter(|number| !kept.contains(number)) {
            self.timer.remove(number);
        }
        let before = old.values().flat_map(|entry| entry.topics.values()).flat_map(|topic| &topic.followers);
        for follower in before.filter(|follower| !kept.contains(&follower.number)) {
            follower.retired.store(true, Ordering::Release);
            self.wake(follower);
        }
        let followers = changed.iter().flat_map(|entry| entry.topics.values()).flat_map(|topic| &topic.followers);
        for follower in followers.filter(|follower| follower.paused_ms.load(Ordering::Relaxed) != 0) {
            follower.has_changed.store(true, Ordering::Release);
            self.wake(follower);
        }
        for entry in changed {
            for schedule in entry.schedules.values() {
                self.begin(schedule);
            }
        }
        fresh
    }

    fn topics_of(
        &self,
        app: &LiveApp,
        tenant: &Tenant,
        before: Option<&AppEntry>,
        fresh: &mut Vec<StoreId>,
    ) -> BTreeMap<StoreName, TopicEntry> {
        let mut topics: BTreeMap<StoreName, Vec<FunctionName>> = BTreeMap::new();
        for (_, version) in &app.shares {
            for name in version.topics.keys() {
                topics.entry(name.clone()).or_default();
            }
            for spec in version.functions.iter().map(|function| function.spec()) {
                for subscription in spec.subscriptions.iter() {
                    let followers = topics.entry(subscription.topic.clone()).or_default();
                    if !followers.contains(&spec.function) {
                        followers.push(spec.function.clone());
                    }
                }
            }
        }
        let entry = |(name, functions): (StoreName, Vec<FunctionName>)| {
            let before = before.and_then(|app| app.topics.get(&name));
            let topic = StoreId { tenant: tenant.clone(), app: app.name.clone(), name: name.clone() };
            let mut is_fresh = before.is_none();
            let follower = |function: FunctionName| {
                let known = before.and_then(|topic| topic.followers.iter().find(|known| known.function == function));
                is_fresh |= known.is_none();
                known.map_or_else(|| Arc::new(self.follower(topic.clone(), function)), Arc::clone)
            };
            let followers = functions.into_iter().map(follower).collect();
            if is_fresh {
                fresh.push(topic.clone());
            }
            let number = before.map_or_else(|| self.number(), |before| before.number);
            (name, TopicEntry { number, id: topic, followers })
        };
        topics.into_iter().map(entry).collect()
    }

    fn follower(&self, topic: StoreId, function: FunctionName) -> Follower {
        Follower {
            number: self.number(),
            topic,
            function,
            state: AtomicU8::new(IDLE),
            told: Notify::new(),
            kept: Mutex::default(),
            paused_ms: AtomicU64::new(0),
            has_changed: AtomicBool::new(false),
            retired: AtomicBool::new(false),
            metrics: OnceLock::new(),
            expired: AtomicU64::new(0),
        }
    }

    /// Looks what there is to do in topics that nobody here has looked at, one after the other.
    async fn survey(self: Arc<Self>, topics: Vec<StoreId>) {
        let began = Instant::now();
        let count = topics.len();
        for topic in topics {
            if self.is_stopping() {
                return;
            }
            // Also what was live before the node started: it may have ended within a deployment, or somebody has taken the file away.
            if let Err(error) = self.ensure(&topic).await {
                tracing::warn!(app = %topic.app, topic = %topic.name, %error, "a topic cannot be made ready now; its functions try again");
            }
            self.survey_one(&topic).await;
        }
        tracing::debug!(topics = count, ms = began.elapsed().as_millis(), "topics are looked through");
    }

    pub(crate) async fn survey_one(&self, topic: &StoreId) {
        let survey = self.topics.survey(topic).await;
        let Some(app) = self.entry(&topic.tenant, &topic.app) else { return };
        let Some(entry) = app.topics.get(&topic.name) else { return };
        let survey = match survey {
            Ok(survey) => survey,
            Err(error) => {
                tracing::warn!(app = %topic.app, topic = %topic.name, %error, "a topic cannot be read now; its functions try again");
                self.tend_at(topic, self.now_ms() + TEND_AGAIN_MS);
                return entry.followers.iter().for_each(|follower| self.wake(follower));
            }
        };
        if survey.to_forward > 0 {
            self.tend_at(topic, 0);
        } else if let Some(due_ms) = survey.next_delayed_ms {
            self.tend_at(topic, due_ms);
        }
        for consumer in survey.consumers {
            let Some(follower) = entry.followers.iter().find(|follower| follower.function == consumer.function) else {
                continue;
            };
            if consumer.lag > 0 {
                follower.note_survey(&consumer, &self.metrics);
            }
            if consumer.has_work {
                self.wake(follower);
            } else if let Some(due_ms) = consumer.next_due_ms {
                self.timer.set(follower.number, due_ms, What::Follower(Arc::clone(follower)));
            }
        }
    }
}

impl AppEntry {
    /// The places of the app in the timer.
    fn numbers(&self) -> impl Iterator<Item = u64> {
        let topics = self.topics.values();
        let of_topics =
            topics.flat_map(|topic| topic.followers.iter().map(|follower| follower.number).chain([topic.number]));
        of_topics.chain(self.schedules.values().map(|schedule| schedule.number))
    }
}

fn tenant_of(app: &LiveApp) -> Option<Tenant> {
    let functions = app.shares.iter().flat_map(|(_, version)| &version.functions);
    functions.map(|function| function.spec().tenant.clone()).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn follower() -> Follower {
        let topic =
            StoreId { tenant: Tenant::default(), app: "shop".parse().unwrap(), name: "orders".parse().unwrap() };
        Follower {
            number: 1,
            topic,
            function: "work".parse().unwrap(),
            state: AtomicU8::new(IDLE),
            told: Notify::new(),
            kept: Mutex::default(),
            paused_ms: AtomicU64::new(0),
            has_changed: AtomicBool::new(false),
            retired: AtomicBool::new(false),
            metrics: OnceLock::new(),
            expired: AtomicU64::new(0),
        }
    }

    #[tokio::test]
    async fn one_task_is_started_and_what_is_told_meanwhile_is_looked_at_before_it_ends() {
        let follower = follower();
        assert!(follower.wake());
        follower.look();
        // Whatever comes: it is told once, and starts nothing.
        assert!(!follower.wake() && !follower.wake());
        follower.told.notified().await;
        assert!(!follower.rest());
        follower.look();
        assert!(follower.rest());
        assert!(follower.wake());
    }
}
