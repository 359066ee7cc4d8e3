//! The topics of apps, for whoever administers them: publishing, looking at what is in them, and their dead letters.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use futures::{Stream, StreamExt as _, stream};
use minnow_model::{AppName, StoreId, StoreKind, StoreName, Tenant, TopicRules, event::Draft};
use minnow_runtime::LiveApp;
use minnow_store::{
    TopicError, Topics,
    topic::{ConsumerSurvey, DeadInfo, DeadLetter, Logged, MAX_PAGE, Survey, To, Which},
};

use crate::{
    Control, ControlError,
    api_types::{
        ConsumerInfo, DeadCount, DeadLetterDetail, DeadLetterInfo, DeadLetters, DeadQuery, EventSent, EventsSent,
        MessagesQuery, PublishQuery, ReplayRequest, TopicBounds, TopicInfo, TopicList,
    },
};

/// Messages that are read when the caller does not say.
const DEFAULT_MESSAGES: u32 = 1000;
/// The most messages of one call. They are read a page at a time, so that few are in memory together.
const MAX_MESSAGES: u32 = 10_000;
/// Dead letters of one page when the caller does not say.
const DEFAULT_DEAD: u32 = 100;
/// How often a topic that is followed is looked at: as soon as a person sees the difference, and little work.
const FOLLOW_LOOK: Duration = Duration::from_millis(250);
/// A followed topic that is quiet sends an empty line this often, as a followed log does.
const KEEPALIVE_LOOKS: u32 = 60;

impl Control {
    /// Publishes events: all or none. They are durable when this answers.
    pub async fn publish_events(
        &self,
        tenant: &Tenant,
        topic: &StoreName,
        query: PublishQuery,
        drafts: Vec<Draft>,
    ) -> Result<EventsSent, ControlError> {
        let (app, rules) = self.topic_to_publish(tenant, topic, query.app)?;
        let delay = Duration::from_millis(query.delay_ms.unwrap_or_default());
        let id = StoreId { tenant: tenant.clone(), app, name: topic.clone() };
        let messages = drafts.into_iter().map(|draft| (draft, delay)).collect();
        let sent = self.runtime.publish(&id, &rules, messages).await?;
        let sent = sent.into_iter().map(|sent| EventSent {
            id: sent.id.to_string(),
            position: sent.position,
            duplicate: sent.duplicate,
        });
        Ok(EventsSent { sent: sent.collect() })
    }

    /// The app whose topic is meant, and what the topic may hold.
    fn topic_to_publish(
        &self,
        tenant: &Tenant,
        topic: &StoreName,
        app: Option<AppName>,
    ) -> Result<(AppName, TopicRules), ControlError> {
        if let Some(app) = app {
            let live = self.live_app(tenant, &app).ok_or_else(|| ControlError::NothingLive(app.clone()))?;
            let rules = live_topics(&live);
            return match rules.get(topic) {
                Some(rules) => Ok((app, *rules)),
                None => {
                    let there: Vec<_> = rules.keys().map(ToString::to_string).collect();
                    let there = (!there.is_empty()).then(|| there.join(", "));
                    Err(ControlError::NoStore { app, kind: StoreKind::Topic, name: topic.clone(), there })
                }
            };
        }
        let names: Vec<AppName> = self.live.load().keys().cloned().collect();
        let mut found: Vec<(AppName, TopicRules)> = names
            .into_iter()
            .filter_map(|app| {
                let rules = live_topics(&*self.live_app(tenant, &app)?).get(topic).copied()?;
                Some((app, rules))
            })
            .collect();
        found.sort_by(|(one, _), (other, _)| one.cmp(other));
        match found.len() {
            1 => found.pop().ok_or_else(|| ControlError::NoTopic(topic.clone())),
            0 => Err(ControlError::NoTopic(topic.clone())),
            _ => {
                let apps: Vec<_> = found.iter().map(|(app, _)| app.to_string()).collect();
                let detail = format!("several apps have a topic `{topic}`: {}; say which with `app`", apps.join(", "));
                Err(ControlError::invalid(detail))
            }
        }
    }

    fn topics(&self) -> &Topics {
        &self.runtime.data().topics
    }

    /// How it stands with all topics of an app.
    pub async fn app_topics(&self, tenant: &Tenant, app: &AppName) -> Result<TopicList, ControlError> {
        let stores = self.app_usage(tenant, app).await?.stores;
        let mut topics = Vec::new();
        for store in stores.into_iter().filter(|store| store.kind == StoreKind::Topic) {
            let id = StoreId { tenant: tenant.clone(), app: app.clone(), name: store.name };
            topics.push(self.topic_info(&id).await?);
        }
        Ok(TopicList { topics })
    }

    /// How it stands with a topic.
    pub async fn topic_info(&self, topic: &StoreId) -> Result<TopicInfo, ControlError> {
        let rules = self.live_app(&topic.tenant, &topic.app).and_then(|app| live_topics(&app).remove(&topic.name));
        let mut info = info(topic.name.clone(), rules, self.topics().survey(topic).await?);
        for consumer in &mut info.consumers {
            let paused = self.events.paused_for(&topic.tenant, &topic.app, &topic.name, &consumer.function);
            consumer.paused_ms = paused.map(|paused| u64::try_from(paused.as_millis()).unwrap_or(u64::MAX));
        }
        Ok(info)
    }

    /// Messages of a topic as CloudEvents in JSON, one a line: what is there, and with `query.follow` what comes, until the
    /// caller goes or the node drains.
    pub async fn topic_messages(
        &self,
        topic: StoreId,
        query: MessagesQuery,
    ) -> Result<impl Stream<Item = Result<Bytes, TopicError>> + Send + 'static + use<>, ControlError> {
        let limit = query.limit.unwrap_or(DEFAULT_MESSAGES);
        if !(1..=MAX_MESSAGES).contains(&limit) {
            return Err(ControlError::invalid(format!(
                "limit: 1 to {MAX_MESSAGES} messages are read at once, not {limit}"
            )));
        }
        let topics = self.topics().clone();
        let after = query.after.unwrap_or_default();
        // Where a topic is damaged, the caller is told so by the status.
        topics.survey(&topic).await?;
        let reading = Reading { topics, topic, after, since_ms: query.since_ms, left: limit, follow: query.follow };
        let pages = stream::try_unfold(reading, |mut reading| async move {
            Ok::<_, TopicError>(reading.next().await?.map(|lines| (lines, reading)))
        });
        Ok(pages.take_until(Box::pin(self.drained())))
    }

    /// Sets a function to another place of a topic.
    pub async fn replay(&self, topic: &StoreId, request: ReplayRequest) -> Result<(), ControlError> {
        let to = match (request.position, request.time_ms) {
            (Some(position), None) => To::Position(position),
            (None, Some(time_ms)) => To::Time(time_ms),
            _ => return Err(ControlError::invalid("send either `position` or `time_ms`, where the function goes on")),
        };
        Ok(self.topics().replay(topic, &request.function, to).await?)
    }

    pub async fn dead_letters(&self, topic: &StoreId, query: DeadQuery) -> Result<DeadLetters, ControlError> {
        let (after, limit) = (query.after.unwrap_or_default(), query.limit.unwrap_or(DEFAULT_DEAD));
        let page = self.topics().dead_list(topic, query.function.as_ref(), after, limit).await?;
        Ok(DeadLetters { letters: page.letters.into_iter().map(dead_info).collect(), next: page.next })
    }

    pub async fn dead_letter(&self, topic: &StoreId, number: u64) -> Result<DeadLetterDetail, ControlError> {
        let found = self.topics().dead_get(topic, number).await?;
        let DeadLetter { info, answer, event } = found.ok_or(TopicError::NoSuchMessage(number))?;
        let mut json = Vec::new();
        event.write_json(&[], &mut json);
        let event = serde_json::from_slice(&json)
            .map_err(|error| ControlError::Corrupt(format!("the dead letter {number} of {topic:?}: {error}")))?;
        Ok(DeadLetterDetail { letter: dead_info(info), answer: String::from_utf8_lossy(&answer).into_owned(), event })
    }

    /// Has dead letters delivered again.
    pub async fn dead_retry(&self, topic: &StoreId, which: Which) -> Result<DeadCount, ControlError> {
        Ok(DeadCount { letters: self.topics().dead_retry(topic, which).await? })
    }

    /// Removes dead letters for good.
    pub async fn dead_drop(&self, topic: &StoreId, which: Which) -> Result<DeadCount, ControlError> {
        Ok(DeadCount { letters: self.topics().dead_drop(topic, which).await? })
    }
}

/// The topics of a live app. Where two versions have one, the newer version says what it may hold.
fn live_topics(app: &LiveApp) -> BTreeMap<StoreName, TopicRules> {
    let mut versions: Vec<_> = app.shares.iter().map(|(_, version)| version).collect();
    versions.sort_by(|one, other| one.version.cmp(&other.version));
    versions.into_iter().flat_map(|version| version.topics.iter().map(|(name, rules)| (name.clone(), *rules))).collect()
}

/// A topic that is read to its end, and perhaps beyond.
struct Reading {
    topics: Topics,
    topic: StoreId,
    after: u64,
    since_ms: Option<u64>,
    /// How many more of those that are there.
    left: u32,
    follow: bool,
}

impl Reading {
    /// The next lines, or an empty one that keeps the connection alive. `None` at the end.
    async fn next(&mut self) -> Result<Option<Bytes>, TopicError> {
        let mut looks = 0;
        loop {
            let limit = if self.left == 0 && self.follow { MAX_PAGE } else { self.left.min(MAX_PAGE) };
            if limit == 0 {
                return Ok(None);
            }
            let page = self.topics.page(&self.topic, self.after, self.since_ms, limit).await?;
            if let Some(last) = page.messages.last() {
                self.after = last.position;
                self.left = self.left.saturating_sub(u32::try_from(page.messages.len()).unwrap_or(u32::MAX));
                return Ok(Some(lines(&page.messages)));
            }
            // From here on all that comes is wanted.
            self.left = 0;
            if !self.follow {
                return Ok(None);
            }
            looks += 1;
            if looks > KEEPALIVE_LOOKS {
                return Ok(Some(Bytes::from_static(b"\n")));
            }
            tokio::time::sleep(FOLLOW_LOOK).await;
        }
    }
}

fn lines(messages: &[Logged]) -> Bytes {
    let mut lines = Vec::new();
    for message in messages {
        let start = lines.len();
        let sequence = format!("{:020}", message.position);
        message.event.write_json(&[("sequence", &sequence)], &mut lines);
        // Between the tokens of JSON, and nowhere else, there may be line ends.
        for byte in lines.iter_mut().skip(start).filter(|byte| matches!(byte, b'\n' | b'\r')) {
            *byte = b' ';
        }
        lines.push(b'\n');
    }
    lines.into()
}

fn info(name: StoreName, rules: Option<TopicRules>, survey: Survey) -> TopicInfo {
    let bounds = rules.map(|rules| TopicBounds {
        retention_ms: u64::try_from(rules.retention.as_millis()).unwrap_or(u64::MAX),
        max_bytes: rules.max_bytes,
        max_messages: rules.max_messages,
        when_full: rules.when_full,
    });
    TopicInfo {
        name,
        bounds,
        messages: survey.messages,
        bytes: survey.bytes,
        first: survey.first,
        last: survey.last,
        delayed: survey.delayed,
        next_delayed_ms: survey.next_delayed_ms,
        consumers: survey.consumers.into_iter().map(consumer).collect(),
    }
}

fn consumer(survey: ConsumerSurvey) -> ConsumerInfo {
    ConsumerInfo {
        function: survey.function,
        lag: survey.lag,
        oldest_ms: survey.oldest_ms,
        outstanding: survey.outstanding,
        retrying: survey.retrying,
        next_retry_ms: survey.next_due_ms,
        dead: survey.dead,
        expired: survey.expired,
        paused_ms: None,
        left_ms: survey.left_ms,
    }
}

fn dead_info(info: DeadInfo) -> DeadLetterInfo {
    DeadLetterInfo {
        number: info.number,
        function: info.function,
        position: info.position,
        taken_ms: info.time_ms,
        died_ms: info.died_ms,
        tries: info.tries,
        reason: info.reason,
        status: info.status,
        id: info.event_id.to_string(),
        r#type: info.event_kind.to_string(),
        bytes: info.data_bytes,
        forward: info.forward,
        again: info.again,
    }
}
