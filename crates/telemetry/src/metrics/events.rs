//! What a node counts of events: what is published, what is delivered, and what the clock starts.
//!
//! As with functions, instruments come into being at first use, and what they are labelled with is deployed, so that the number of
//! series is bounded. Gauges are set by whoever delivers: a scrape opens no topic.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use minnow_model::{AppName, FunctionName, StoreName, Tenant};
use prometheus_client::{
    encoding::{DescriptorEncoder, NoLabelSet},
    metrics::MetricType,
    registry::Unit,
};

use super::{
    Metrics,
    instrument::{Counter, Gauge, Histogram},
};

/// What belongs to an app, by its names: a topic, a topic and a function, a function.
type Keyed<K, M> = RwLock<BTreeMap<(Tenant, AppName, K), Arc<M>>>;

/// The instruments of events.
#[derive(Debug, Default)]
pub(super) struct EventInstruments {
    topics: Keyed<StoreName, TopicMetrics>,
    subscriptions: Keyed<(StoreName, FunctionName), SubscriptionMetrics>,
    schedules: Keyed<FunctionName, ScheduleMetrics>,
    invokes: Keyed<FunctionName, InvokeMetrics>,
}

/// What is published to a topic, in messages.
#[derive(Debug, Default)]
pub struct TopicMetrics {
    pub taken: Counter,
    /// Whose id was published before.
    pub duplicate: Counter,
    /// Because the topic was full.
    pub full: Counter,
    /// For another reason.
    pub refused: Counter,
}

/// What a function is delivered of a topic.
#[derive(Debug)]
pub struct SubscriptionMetrics {
    /// Messages that are done, are tried again after a failure, come later because the function asked for that, are dead letters
    /// now, and went before they were done.
    pub done: Counter,
    pub retry: Counter,
    pub later: Counter,
    pub dead: Counter,
    pub expired: Counter,
    /// Messages that are not done.
    pub lag: Gauge,
    /// When the oldest of them was taken, in milliseconds since 1970; 0 when all are done.
    oldest_ms: AtomicU64,
    /// From the moment that the topic took a message to its first delivery.
    delay: Histogram,
}

impl Default for SubscriptionMetrics {
    fn default() -> Self {
        Self {
            done: Counter::default(),
            retry: Counter::default(),
            later: Counter::default(),
            dead: Counter::default(),
            expired: Counter::default(),
            lag: Gauge::default(),
            oldest_ms: AtomicU64::new(0),
            delay: Histogram::of_durations(),
        }
    }
}

impl SubscriptionMetrics {
    /// Says when the oldest message that is not done was taken, in milliseconds since 1970; `None` when all are done.
    pub fn set_oldest(&self, taken_ms: Option<u64>) {
        self.oldest_ms.store(taken_ms.unwrap_or(0), Ordering::Relaxed);
    }

    /// Records how long a message was in the topic when it was delivered for the first time.
    pub fn delivered_after(&self, delay: Duration) {
        self.delay.observe_duration(delay);
    }
}

/// The ticks of a function's schedules.
#[derive(Debug)]
pub struct ScheduleMetrics {
    /// Ticks that worked, that failed, that were left out since the one before still ran, and that were due while the node was
    /// down and are not run.
    pub run: Counter,
    pub failed: Counter,
    pub skipped: Counter,
    pub missed: Counter,
    /// From the due time to the start.
    delay: Histogram,
}

impl Default for ScheduleMetrics {
    fn default() -> Self {
        Self {
            run: Counter::default(),
            failed: Counter::default(),
            skipped: Counter::default(),
            missed: Counter::default(),
            delay: Histogram::of_durations(),
        }
    }
}

impl ScheduleMetrics {
    /// Records how long after its due time a tick was started.
    pub fn started_after(&self, delay: Duration) {
        self.delay.observe_duration(delay);
    }
}

/// The asynchronous invokes of a function.
#[derive(Debug, Default)]
pub struct InvokeMetrics {
    /// Invokes that were taken, that were refused because too many wait, that worked, that are tried again after a failure, that never
    /// worked, and those of which a destination was never told.
    pub taken: Counter,
    pub refused: Counter,
    pub succeeded: Counter,
    pub retry: Counter,
    pub failed: Counter,
    pub untold: Counter,
}

fn of<K: Ord, M: Default>(keyed: &Keyed<K, M>, key: (Tenant, AppName, K)) -> Arc<M> {
    if let Some(found) = keyed.read().unwrap_or_else(PoisonError::into_inner).get(&key) {
        return Arc::clone(found);
    }
    Arc::clone(keyed.write().unwrap_or_else(PoisonError::into_inner).entry(key).or_default())
}

fn forget<K: Ord, M>(keyed: &Keyed<K, M>, tenant: &Tenant, app: &AppName) {
    keyed.write().unwrap_or_else(PoisonError::into_inner).retain(|key, _| (&key.0, &key.1) != (tenant, app));
}

impl Metrics {
    /// The instruments of a topic, made at the first call. Keep them where many messages go: this takes a lock.
    pub fn topic(&self, tenant: &Tenant, app: &AppName, topic: &StoreName) -> Arc<TopicMetrics> {
        of(&self.instruments.events.topics, (tenant.clone(), app.clone(), topic.clone()))
    }

    /// The instruments of a function that follows a topic, likewise.
    pub fn subscription(
        &self,
        tenant: &Tenant,
        app: &AppName,
        topic: &StoreName,
        function: &FunctionName,
    ) -> Arc<SubscriptionMetrics> {
        let key = (tenant.clone(), app.clone(), (topic.clone(), function.clone()));
        of(&self.instruments.events.subscriptions, key)
    }

    /// The instruments of a function's schedules, likewise.
    pub fn schedules(&self, tenant: &Tenant, app: &AppName, function: &FunctionName) -> Arc<ScheduleMetrics> {
        of(&self.instruments.events.schedules, (tenant.clone(), app.clone(), function.clone()))
    }

    /// The instruments of a function's asynchronous invokes, likewise.
    pub fn async_invokes(&self, tenant: &Tenant, app: &AppName, function: &FunctionName) -> Arc<InvokeMetrics> {
        of(&self.instruments.events.invokes, (tenant.clone(), app.clone(), function.clone()))
    }
}

impl EventInstruments {
    /// Forgets a deleted app.
    pub(super) fn remove_app(&self, tenant: &Tenant, app: &AppName) {
        forget(&self.topics, tenant, app);
        forget(&self.subscriptions, tenant, app);
        forget(&self.schedules, tenant, app);
        forget(&self.invokes, tenant, app);
    }

    pub(super) fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        encode_topics(encoder, &shown(&self.topics))?;
        encode_subscriptions(encoder, &shown(&self.subscriptions))?;
        encode_schedules(encoder, &shown(&self.schedules))?;
        encode_invokes(encoder, &shown(&self.invokes))
    }
}

type Shown<K, M> = Vec<((Tenant, AppName, K), Arc<M>)>;

/// A copy, so that a slow scrape holds up no publish.
fn shown<K: Ord + Clone, M>(keyed: &Keyed<K, M>) -> Shown<K, M> {
    let keyed = keyed.read().unwrap_or_else(PoisonError::into_inner);
    keyed.iter().map(|(key, metrics)| (key.clone(), Arc::clone(metrics))).collect()
}

type Labels<'a> = Vec<(&'static str, &'a str)>;

fn labels<'a>(
    tenant: &'a Tenant,
    app: &'a AppName,
    more: impl IntoIterator<Item = (&'static str, &'a str)>,
) -> Labels<'a> {
    let mut labels = vec![("app", app.as_str())];
    labels.extend(more);
    if tenant.as_str() != "default" {
        labels.push(("tenant", tenant.as_str()));
    }
    labels
}

/// A counter for each outcome that has happened.
fn outcomes<'a>(
    encoder: &mut DescriptorEncoder<'_>,
    (name, help): (&str, &str),
    counted: impl Iterator<Item = (Labels<'a>, Vec<(&'static str, u64)>)>,
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (base, counts) in counted {
        for (outcome, count) in counts.into_iter().filter(|(_, count)| *count > 0) {
            let mut labels = base.clone();
            labels.push(("outcome", outcome));
            family.encode_family(&labels.as_slice())?.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
        }
    }
    Ok(())
}

fn delays<'a>(
    encoder: &mut DescriptorEncoder<'_>,
    (name, help): (&str, &str),
    delays: impl Iterator<Item = (Labels<'a>, &'a Histogram)>,
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Histogram)?;
    for (labels, histogram) in delays.filter(|(_, histogram)| histogram.count() > 0) {
        histogram.encode(family.encode_family(&labels.as_slice())?)?;
    }
    Ok(())
}

fn encode_topics(encoder: &mut DescriptorEncoder<'_>, topics: &Shown<StoreName, TopicMetrics>) -> fmt::Result {
    if topics.is_empty() {
        return Ok(());
    }
    let name = ("minnow_topic_published", "Messages that were to be published, by what became of them");
    let counted = topics.iter().map(|((tenant, app, topic), metrics)| {
        let TopicMetrics { taken, duplicate, full, refused } = &**metrics;
        let counts = vec![
            ("taken", taken.get()),
            ("duplicate", duplicate.get()),
            ("full", full.get()),
            ("refused", refused.get()),
        ];
        (labels(tenant, app, [("topic", topic.as_str())]), counts)
    });
    outcomes(encoder, name, counted)
}

fn encode_subscriptions(
    encoder: &mut DescriptorEncoder<'_>,
    subscriptions: &Shown<(StoreName, FunctionName), SubscriptionMetrics>,
) -> fmt::Result {
    if subscriptions.is_empty() {
        return Ok(());
    }
    let each = || {
        subscriptions.iter().map(|((tenant, app, (topic, function)), metrics)| {
            let labels = labels(tenant, app, [("topic", topic.as_str()), ("function", function.as_str())]);
            (labels, &**metrics)
        })
    };
    let name = ("minnow_deliveries", "Messages that were delivered, by what became of them");
    let counted = each().map(|(labels, metrics)| {
        let counts = vec![
            ("done", metrics.done.get()),
            ("retry", metrics.retry.get()),
            ("later", metrics.later.get()),
            ("dead", metrics.dead.get()),
            ("expired", metrics.expired.get()),
        ];
        (labels, counts)
    });
    outcomes(encoder, name, counted)?;
    let help = "Messages that became dead letters";
    let mut family = encoder.encode_descriptor("minnow_dead_letters", help, None, MetricType::Counter)?;
    for (labels, metrics) in each() {
        family.encode_family(&labels.as_slice())?.encode_counter::<NoLabelSet, _, u64>(&metrics.dead.get(), None)?;
    }
    let help = "Messages of a topic that a function has not done";
    let mut family = encoder.encode_descriptor("minnow_topic_lag", help, None, MetricType::Gauge)?;
    for (labels, metrics) in each() {
        family.encode_family(&labels.as_slice())?.encode_gauge(&metrics.lag.get())?;
    }
    let help = "How long the oldest message that a function has not done is in the topic";
    let mut family =
        encoder.encode_descriptor("minnow_topic_oldest_age", help, Some(&Unit::Seconds), MetricType::Gauge)?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    for (labels, metrics) in each() {
        let oldest = Duration::from_millis(metrics.oldest_ms.load(Ordering::Relaxed));
        let age = if oldest.is_zero() { Duration::ZERO } else { now.saturating_sub(oldest) };
        family.encode_family(&labels.as_slice())?.encode_gauge(&age.as_secs_f64())?;
    }
    let name = ("minnow_delivery_delay", "Time from the moment that a topic took a message to its first delivery");
    delays(encoder, name, each().map(|(labels, metrics)| (labels, &metrics.delay)))
}

fn encode_schedules(
    encoder: &mut DescriptorEncoder<'_>,
    schedules: &Shown<FunctionName, ScheduleMetrics>,
) -> fmt::Result {
    if schedules.is_empty() {
        return Ok(());
    }
    let each = || {
        schedules.iter().map(|((tenant, app, function), metrics)| {
            (labels(tenant, app, [("function", function.as_str())]), &**metrics)
        })
    };
    let name = ("minnow_schedule_ticks", "Ticks of schedules, by what became of them");
    let counted = each().map(|(labels, metrics)| {
        let counts = vec![
            ("run", metrics.run.get()),
            ("failed", metrics.failed.get()),
            ("skipped", metrics.skipped.get()),
            ("missed", metrics.missed.get()),
        ];
        (labels, counts)
    });
    outcomes(encoder, name, counted)?;
    let name = ("minnow_schedule_delay", "Time from a tick's due time to its start");
    delays(encoder, name, each().map(|(labels, metrics)| (labels, &metrics.delay)))
}

fn encode_invokes(encoder: &mut DescriptorEncoder<'_>, invokes: &Shown<FunctionName, InvokeMetrics>) -> fmt::Result {
    if invokes.is_empty() {
        return Ok(());
    }
    let name = ("minnow_async_invokes", "Asynchronous invokes, by what became of them");
    let counted = invokes.iter().map(|((tenant, app, function), metrics)| {
        let InvokeMetrics { taken, refused, succeeded, retry, failed, untold } = &**metrics;
        let counts = vec![
            ("taken", taken.get()),
            ("refused", refused.get()),
            ("succeeded", succeeded.get()),
            ("retry", retry.get()),
            ("failed", failed.get()),
            ("untold", untold.get()),
        ];
        (labels(tenant, app, [("function", function.as_str())]), counts)
    });
    outcomes(encoder, name, counted)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::Metrics;

    #[test]
    fn what_was_recorded_of_events_is_in_the_text_until_the_app_goes() {
        let metrics = Metrics::new("0.1.0");
        let (tenant, app) = ("default".parse().unwrap(), "shop".parse().unwrap());
        let (topic, function) = ("orders".parse().unwrap(), "fulfil".parse().unwrap());
        assert!(!metrics.encode().contains("topic="));
        metrics.topic(&tenant, &app, &topic).taken.add(3);
        metrics.topic(&"acme".parse().unwrap(), &app, &topic).full.add(1);
        let subscription = metrics.subscription(&tenant, &app, &topic, &function);
        subscription.done.add(2);
        subscription.dead.add(1);
        subscription.lag.set(7);
        subscription.set_oldest(Some(1));
        subscription.delivered_after(Duration::from_millis(2));
        let schedules = metrics.schedules(&tenant, &app, &function);
        schedules.run.add(1);
        schedules.started_after(Duration::from_millis(3));
        metrics.async_invokes(&tenant, &app, &function).retry.add(2);
        let text = metrics.encode();
        for line in [
            r#"minnow_topic_published_total{app="shop",topic="orders",outcome="taken"} 3"#,
            r#"minnow_topic_published_total{app="shop",topic="orders",tenant="acme",outcome="full"} 1"#,
            r#"minnow_deliveries_total{app="shop",topic="orders",function="fulfil",outcome="done"} 2"#,
            r#"minnow_deliveries_total{app="shop",topic="orders",function="fulfil",outcome="dead"} 1"#,
            r#"minnow_dead_letters_total{app="shop",topic="orders",function="fulfil"} 1"#,
            r#"minnow_topic_lag{app="shop",topic="orders",function="fulfil"} 7"#,
            r#"minnow_delivery_delay_seconds_count{app="shop",topic="orders",function="fulfil"} 1"#,
            r#"minnow_schedule_ticks_total{app="shop",function="fulfil",outcome="run"} 1"#,
            r#"minnow_schedule_delay_seconds_count{app="shop",function="fulfil"} 1"#,
            r#"minnow_async_invokes_total{app="shop",function="fulfil",outcome="retry"} 2"#,
        ] {
            assert!(text.contains(&format!("{line}\n")), "{line}\n{text}");
        }
        let age = text.lines().find_map(|line| line.strip_prefix("minnow_topic_oldest_age_seconds{")).unwrap();
        assert!(age.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap() > 1e9, "{age}");
        subscription.set_oldest(None);
        let oldest = r#"minnow_topic_oldest_age_seconds{app="shop",topic="orders",function="fulfil"} 0.0"#;
        assert!(metrics.encode().contains(oldest), "{}", metrics.encode());
        metrics.remove_app(&tenant, &app);
        let text = metrics.encode();
        assert!(!text.contains("fulfil") && text.contains(r#"tenant="acme""#), "{text}");
    }
}
