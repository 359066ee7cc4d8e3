//! Topics, what follows them, schedules, and asynchronous invokes.

use std::{collections::BTreeMap, time::Duration};

use toml_span::{Span, Value};

use super::{
    Function, keys,
    places::Places,
    read::{Field, Fields, Reader},
    stores::Stores,
};
use crate::{
    EgressRule, FunctionName, ScheduleName, StoreKind, StoreName, Subscription, Topic,
    event::{
        Async, AttributeName, BACKOFF, Backoff, Destination, DestinationError, DestinationUrl, EventError, From,
        MAX_AGE, MAX_APP_SCHEDULES, MAX_BATCH, MAX_PATTERNS, MAX_RETRIES, MAX_SCHEDULES, MAX_SUBSCRIPTIONS, MAX_WAIT,
        Missed, Overlap, Pattern, PatternError, RETENTION, Schedule, ScheduleError, TOPIC_MESSAGES, When, WhenFull,
        dead_letter_circle,
    },
    grant::STORE_BYTES,
    name::{NameError, remedy_for_name},
};

impl Reader {
    /// The bounds of one topic.
    pub(super) fn topic(&mut self, fields: Fields<'_, '_>) -> Topic {
        let default = Topic::default();
        let retention =
            fields.get("retention").and_then(|field| self.time(field, *RETENTION.start(), *RETENTION.end()));
        let size = fields.get("max_size").and_then(|field| self.size(field, *STORE_BYTES.start(), *STORE_BYTES.end()));
        let max_messages = fields
            .get("max_messages")
            .and_then(|field| self.long_number(field, *TOPIC_MESSAGES.start(), *TOPIC_MESSAGES.end()));
        let when_full = fields
            .get("when_full")
            .and_then(|field| self.word(field, &WhenFull::ALL.map(|when_full| (when_full.as_str(), when_full))));
        Topic {
            retention: retention.unwrap_or(default.retention),
            max_bytes: size.unwrap_or(default.max_bytes),
            max_messages,
            when_full: when_full.unwrap_or_default(),
            webhook: fields.get("webhook").and_then(|field| self.webhook(field)),
        }
    }

    /// The topics that a function follows.
    pub(super) fn subscriptions(&mut self, fields: Fields<'_, '_>, stores: &Stores<'_>) -> Vec<Subscription> {
        let mut subscriptions: Vec<Subscription> = Vec::new();
        let Some(field) = fields.get("topics") else { return subscriptions };
        for value in self.list(field, MAX_SUBSCRIPTIONS) {
            let read = match (value.as_str(), value.as_table()) {
                (Some(text), _) => self.topic_name(text, value.span, stores).map(Subscription::of),
                (None, Some(table)) => {
                    let fields = self.fields(table, &keys::SUBSCRIPTION);
                    self.subscription(fields, value, stores)
                }
                (None, None) => {
                    self.wrong_entry(field, value, "strings and tables");
                    None
                }
            };
            let Some(subscription) = read else { continue };
            if subscriptions.iter().any(|other| other.topic == subscription.topic) {
                let message = format!("the topic `{}` stands twice in `topics`", subscription.topic);
                self.refuse(value.span, message, "keep one: a function follows a topic once");
                continue;
            }
            subscriptions.push(subscription);
        }
        subscriptions
    }

    /// The name of a topic that the app has.
    fn topic_name(&mut self, text: &str, span: Span, stores: &Stores<'_>) -> Option<StoreName> {
        if text.contains('/') {
            let message = format!("`{}` is no topic of this app", text.escape_debug());
            self.refuse(span, message, "a function follows topics of its own app: write the name alone");
            return None;
        }
        if let Some(name) = text.strip_suffix(":ro") {
            let message = format!("`{}` names a way to use the topic", text.escape_debug());
            self.refuse(span, message, format!("following it takes no grant: write `{}`", name.escape_debug()));
            return None;
        }
        let name = match text.parse::<StoreName>() {
            Ok(name) => name,
            Err(error) => {
                let error: NameError = error;
                self.refuse(span, format!("not the name of a topic: {error}"), remedy_for_name(text));
                return None;
            }
        };
        if !stores.has(StoreKind::Topic, &name) {
            let guess = stores.guess(StoreKind::Topic, &name);
            self.refuse(span, format!("the app has no topic `{name}`"), format!("{guess}add `[topic.{name}]`"));
            return None;
        }
        Some(name)
    }

    fn subscription(&mut self, fields: Fields<'_, '_>, value: &Value<'_>, stores: &Stores<'_>) -> Option<Subscription> {
        let topic = match fields.get("name") {
            Some(field) => self.string(field).and_then(|text| self.topic_name(text, field.value.span, stores)),
            None => {
                self.refuse(value.span, "an entry of `topics` has no `name`", "name the topic, as `name = \"orders\"`");
                None
            }
        };
        let batch = fields.get("batch").and_then(|field| self.number(field, 1, MAX_BATCH));
        let wait = fields.get("wait").and_then(|field| {
            if fields.get("batch").is_none() {
                let remedy = "add `batch`, the most messages that come together, or remove `wait`";
                self.refuse(field.value.span, "`wait` does nothing without `batch`", remedy);
            }
            self.time(field, Duration::ZERO, MAX_WAIT)
        });
        let retries = fields.get("retries").and_then(|field| self.number(field, 0, MAX_RETRIES));
        let backoff = fields.get("backoff").and_then(|field| self.backoff(field));
        let dead_letter = fields
            .get("dead_letter")
            .and_then(|field| self.string(field).and_then(|text| self.topic_name(text, field.value.span, stores)));
        let order_by = fields.get("order_by").and_then(|field| self.order_by(field));
        let types = fields.get("types").map(|field| self.patterns(field)).unwrap_or_default();
        let subjects = fields.get("subjects").map(|field| self.patterns(field)).unwrap_or_default();
        let from = fields.get("from").and_then(|field| self.word(field, &From::ALL.map(|from| (from.as_str(), from))));
        let default = Subscription::of(topic?);
        Some(Subscription {
            batch: batch.unwrap_or(default.batch),
            wait: wait.unwrap_or(default.wait),
            retries: retries.unwrap_or(default.retries),
            backoff: backoff.unwrap_or(default.backoff),
            dead_letter,
            order_by,
            types,
            subjects,
            from: from.unwrap_or_default(),
            ..default
        })
    }

    /// `LEAST..MOST`, or one time for both.
    fn backoff(&mut self, field: Field<'_, '_>) -> Option<Backoff> {
        let text = self.string(field)?;
        let (least, most) = text.split_once("..").unwrap_or((text, text));
        let times = [least, most].map(|text| humantime::parse_duration(text.trim()).ok());
        let [Some(least), Some(most)] = times else {
            let message = format!("`{}` is not a range of times", text.escape_debug());
            self.refuse(field.value.span, message, format!("write for example `{}`", field.doc.example));
            return None;
        };
        let show = humantime::format_duration;
        let (bottom, top) = (*BACKOFF.start(), *BACKOFF.end());
        if !BACKOFF.contains(&least) || !BACKOFF.contains(&most) {
            let message = format!("`backoff` is {}, out of range", text.escape_debug());
            let remedy = format!("choose times from {} to {}", show(bottom), show(top));
            self.refuse(field.value.span, message, remedy);
            return None;
        }
        if least > most {
            let message = format!("`backoff` is {}, which begins with the longer time", text.escape_debug());
            self.refuse(field.value.span, message, format!("write `{}..{}`", show(most), show(least)));
            return None;
        }
        // As fine as the bundle can say it.
        let whole = |time: Duration| Duration::from_millis(u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        Some(Backoff { least: whole(least), most: whole(most) })
    }

    fn order_by(&mut self, field: Field<'_, '_>) -> Option<AttributeName> {
        match self.string(field)? {
            "key" => Some(AttributeName::partition_key()),
            text => match text.parse::<AttributeName>() {
                Ok(name) if name.can_order() => Some(name),
                Ok(name) => {
                    let remedy = "write `key`, or the name of an attribute such as `subject`";
                    self.refuse(field.value.span, format!("by `{name}` no messages belong together"), remedy);
                    None
                }
                Err(error) => {
                    let error: EventError = error;
                    let remedy = "write `key`, or the name of an attribute such as `subject`";
                    self.refuse(field.value.span, error.to_string(), remedy);
                    None
                }
            },
        }
    }

    fn patterns(&mut self, field: Field<'_, '_>) -> Vec<Pattern> {
        let mut patterns = Vec::new();
        for (text, span) in self.strings(field, MAX_PATTERNS) {
            match text.parse::<Pattern>() {
                Ok(pattern) => patterns.push(pattern),
                Err(error) => {
                    let error: PatternError = error;
                    self.refuse(span, error.to_string(), format!("write for example `{}`", field.doc.example));
                }
            }
        }
        patterns
    }

    /// When a function runs by the clock.
    pub(super) fn schedules(&mut self, fields: Fields<'_, '_>) -> Vec<Schedule> {
        let mut schedules: Vec<Schedule> = Vec::new();
        let Some(field) = fields.get("schedules") else { return schedules };
        for value in self.list(field, MAX_SCHEDULES) {
            let Some(table) = value.as_table() else {
                self.wrong_entry(field, value, "tables");
                continue;
            };
            let fields = self.fields(table, &keys::SCHEDULE);
            let Some(schedule) = self.schedule(fields, value) else { continue };
            if schedules.iter().any(|other| other.name == schedule.name) {
                let message = format!("the schedule `{}` stands twice", schedule.name);
                self.refuse(value.span, message, "give each its own name");
                continue;
            }
            schedules.push(schedule);
        }
        schedules
    }

    fn schedule(&mut self, fields: Fields<'_, '_>, value: &Value<'_>) -> Option<Schedule> {
        let name = match fields.get("name") {
            Some(field) => self.string(field).and_then(|text| match text.parse::<ScheduleName>() {
                Ok(name) => Some(name),
                Err(error) => {
                    let error: NameError = error;
                    self.refuse(field.value.span, error.to_string(), remedy_for_name(text));
                    None
                }
            }),
            None => {
                self.refuse(value.span, "a schedule has no `name`", "give it one, as `name = \"nightly\"`");
                None
            }
        };
        let zone = fields.get("timezone");
        let when = match (fields.get("cron"), fields.get("at")) {
            (Some(field), None) => {
                let zone = zone.map(|field| self.string(field));
                match (self.string(field), zone) {
                    (None, _) | (_, Some(None)) => None,
                    (Some(cron), zone) => self.due(field.value.span, When::parse(cron.trim(), zone.flatten())),
                }
            }
            (None, Some(field)) => {
                if let Some(zone) = zone {
                    let remedy = "write the offset into `at`, and remove `timezone`";
                    self.refuse(zone.value.span, "`timezone` does nothing beside `at`", remedy);
                }
                self.string(field).and_then(|text| self.due(field.value.span, When::parse_at(text)))
            }
            (Some(_), Some(field)) => {
                let remedy = "keep `cron` for what comes again and again, or `at` for what comes once";
                self.refuse(field.value.span, "a schedule has both `cron` and `at`", remedy);
                None
            }
            (None, None) => {
                let remedy = "write when it runs, as `cron = \"*/5 * * * *\"` or `at = \"2026-12-24T18:00:00+01:00\"`";
                self.refuse(value.span, "a schedule has neither `cron` nor `at`", remedy);
                None
            }
        };
        let overlap = fields
            .get("overlap")
            .and_then(|field| self.word(field, &Overlap::ALL.map(|overlap| (overlap.as_str(), overlap))));
        let missed = fields
            .get("missed")
            .and_then(|field| self.word(field, &Missed::ALL.map(|missed| (missed.as_str(), missed))));
        Some(Schedule {
            name: name?,
            when: when?,
            overlap: overlap.unwrap_or_default(),
            missed: missed.unwrap_or_default(),
        })
    }

    fn due(&mut self, span: Span, when: Result<When, ScheduleError>) -> Option<When> {
        when.map_err(|error| self.refuse(span, error.reason, error.remedy)).ok()
    }

    /// What happens to the asynchronous invokes of a function.
    pub(super) fn asynchronous(
        &mut self,
        fields: Fields<'_, '_>,
        egress: &[EgressRule],
        stores: &Stores<'_>,
    ) -> Option<Async> {
        let field = fields.get("async")?;
        let fields = self.table(field, &keys::ASYNC)?;
        let retries = fields.get("retries").and_then(|field| self.number(field, 0, MAX_RETRIES));
        let backoff = fields.get("backoff").and_then(|field| self.backoff(field));
        let max_age = fields.get("max_age").and_then(|field| self.time(field, *MAX_AGE.start(), *MAX_AGE.end()));
        let [on_success, on_failure] = ["on_success", "on_failure"]
            .map(|key| fields.get(key).and_then(|field| self.destination(field, egress, stores)));
        let default = Async::default();
        Some(Async {
            retries: retries.unwrap_or(default.retries),
            backoff: backoff.unwrap_or(default.backoff),
            max_age: max_age.unwrap_or(default.max_age),
            on_success,
            on_failure,
        })
    }

    /// A topic of the app, or a URL that the function may call.
    fn destination(&mut self, field: Field<'_, '_>, egress: &[EgressRule], stores: &Stores<'_>) -> Option<Destination> {
        let (text, span) = (self.string(field)?, field.value.span);
        if !text.contains("://") {
            return self.topic_name(text, span, stores).map(Destination::Topic);
        }
        match text.parse::<DestinationUrl>() {
            Ok(url) if url.is_allowed(egress) => Some(Destination::Url(url)),
            Ok(url) => {
                let rule = url.rule();
                let message = format!("the function's `egress` does not allow `{rule}`");
                self.refuse(span, message, format!("add it: `egress = [\"{rule}\"]`"));
                None
            }
            Err(error) => {
                let error: DestinationError = error;
                self.refuse(span, error.reason, error.remedy);
                None
            }
        }
    }

    /// What holds for the events of all functions together.
    pub(super) fn event_limits(&mut self, functions: &BTreeMap<FunctionName, Function>, places: &Places) {
        let place = |name: &FunctionName| places.functions.get(name).map_or(places.name, |at| at.name);
        let mut schedules = 0;
        for (name, function) in functions {
            let before = schedules;
            schedules += function.schedules.len();
            if before <= MAX_APP_SCHEDULES && schedules > MAX_APP_SCHEDULES {
                let message = format!("the app has more than {MAX_APP_SCHEDULES} schedules, which is the most");
                self.refuse(place(name), message, "let one schedule do what several do, or split the app in two");
            }
        }
        let followers = functions.iter().map(|(name, function)| (name, function.topics.as_slice()));
        let Some(circle) = dead_letter_circle(followers) else { return };
        let follows = |function: &Function| {
            function.topics.iter().any(|followed| circle.contains(&&followed.topic) && followed.dead_letter.is_some())
        };
        let at = functions.iter().find(|(_, function)| follows(function)).map_or(places.name, |(name, _)| place(name));
        let way: Vec<String> = circle.iter().chain(circle.first()).map(|topic| format!("`{topic}`")).collect();
        let remedy = "let the last topic's functions have no `dead_letter`, or a topic that nobody follows";
        self.refuse(at, format!("dead letters go in a circle: {}", way.join(" → ")), remedy);
    }
}
