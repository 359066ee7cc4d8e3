//! Checks of topics, subscriptions and schedules in a bundle's config.

use std::collections::BTreeSet;

use super::{BundleConfig, BundledFunction};
use crate::{
    FunctionName,
    event::{
        Async, Destination, MAX_APP_SCHEDULES, MAX_SCHEDULES, MAX_SUBSCRIPTIONS, Subscription, dead_letter_circle,
    },
    manifest::{MAX_FUNCTIONS, MAX_STORES},
};

impl BundleConfig {
    /// The bounds of each topic, the schedules of all functions together, and that no dead letters go in a circle. Counts and
    /// names are those of every store.
    pub(super) fn check_topics(&self, messages: &mut Vec<String>) {
        for (name, topic) in self.topics.iter().take(MAX_STORES) {
            // Its size has been checked with those of other stores.
            let mistake = topic.mistake().filter(|_| crate::grant::STORE_BYTES.contains(&topic.max_bytes));
            messages.extend(mistake.map(|mistake| format!("the topic `{name}`: {mistake}")));
        }
        let schedules: usize = self.functions.values().map(|function| function.schedules.len()).sum();
        if schedules > MAX_APP_SCHEDULES {
            messages.push(format!("the version has {schedules} schedules, the most is {MAX_APP_SCHEDULES}"));
        }
        let followers = self.functions.iter().take(MAX_FUNCTIONS).map(|(name, function)| (name, followed(function)));
        if let Some(circle) = dead_letter_circle(followers) {
            let way: Vec<String> = circle.into_iter().map(|topic| format!("`{topic}`")).collect();
            messages.push(format!("dead letters go in a circle: {}", way.join(" → ")));
        }
    }

    /// What is wrong with the subscriptions and schedules of one function.
    pub(super) fn check_events(&self, name: &FunctionName, function: &BundledFunction, messages: &mut Vec<String>) {
        let mut refuse = |message: String| messages.push(format!("function `{name}`: {message}"));
        for (what, count, most) in [
            ("topics", function.topics.len(), MAX_SUBSCRIPTIONS),
            ("schedules", function.schedules.len(), MAX_SCHEDULES),
        ] {
            if count > most {
                refuse(format!("has {count} {what}, the most is {most}"));
                return;
            }
        }
        let mut known = BTreeSet::new();
        for subscription in &function.topics {
            let topic = &subscription.topic;
            for named in [Some(topic), subscription.dead_letter.as_ref()].into_iter().flatten() {
                if !self.topics.contains_key(named) {
                    refuse(format!("`topics`: the app has no topic `{named}`"));
                }
            }
            if !known.insert(topic) {
                refuse(format!("`topics`: `{topic}` stands twice"));
            }
            if let Some(mistake) = subscription.mistake() {
                refuse(format!("`topics`: `{topic}`: {mistake}"));
            }
        }
        if let Some(asynchronous) = &function.asynchronous {
            self.check_async(function, asynchronous, &mut refuse);
        }
        let mut known = BTreeSet::new();
        for schedule in &function.schedules {
            if !known.insert(&schedule.name) {
                refuse(format!("`schedules`: `{}` stands twice", schedule.name));
            }
        }
    }
}

impl BundleConfig {
    /// What is wrong with how a function is invoked asynchronously.
    fn check_async(&self, function: &BundledFunction, asynchronous: &Async, refuse: &mut impl FnMut(String)) {
        if let Some(mistake) = asynchronous.mistake() {
            refuse(format!("`async`: {mistake}"));
        }
        for (key, destination) in asynchronous.destinations() {
            match destination {
                Destination::Topic(topic) if !self.topics.contains_key(topic) => {
                    refuse(format!("`async`: `{key}`: the app has no topic `{topic}`"));
                }
                Destination::Url(url) if !url.is_allowed(&function.egress) => {
                    refuse(format!("`async`: `{key}`: the function's `egress` does not allow `{}`", url.rule()));
                }
                Destination::Topic(_) | Destination::Url(_) => {}
            }
        }
    }
}

fn followed(function: &BundledFunction) -> &[Subscription] {
    function.topics.get(..MAX_SUBSCRIPTIONS).unwrap_or(&function.topics)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::Duration};

    use super::*;
    use crate::{
        BundledCode, Digest, Grants, LimitCaps, Limits, Schedule, StoreName, Topic, Version,
        event::{
            AttributeName, Backoff, Encoding, From, Missed, Overlap, OwnSignature, Provider, Signature, Webhook,
            WhenFull,
        },
        manifest::Instances,
    };

    fn name(text: &str) -> StoreName {
        text.parse().unwrap()
    }

    fn schedule(name: &str) -> Schedule {
        let json = format!(r#"{{"name":"{name}","cron":"*/5 * * * *","timezone":"Europe/Oslo"}}"#);
        serde_json::from_str(&json).unwrap()
    }

    /// A sound config with everything of this file in it.
    fn config() -> BundleConfig {
        let orders = Subscription {
            batch: 10,
            wait: Duration::from_millis(200),
            dead_letter: Some(name("dead")),
            order_by: Some(AttributeName::partition_key()),
            types: vec!["order.*".parse().unwrap()],
            subjects: vec!["eu/*".parse().unwrap()],
            from: From::Start,
            ..Subscription::of(name("orders"))
        };
        let party = serde_json::from_str(r#"{"name":"party","at_ms":1000,"overlap":"queue","missed":"skip"}"#).unwrap();
        let worker = BundledFunction {
            code: BundledCode::Wasm(Digest::of(b"code")),
            routes: Vec::new(),
            env: BTreeMap::new(),
            egress: vec!["https://ops.example".parse().unwrap()],
            instances: Instances::Fresh,
            limits: Limits::default(),
            grants: Grants { publish: vec!["orders".parse().unwrap()], ..Grants::default() },
            topics: vec![Subscription::of(name("audit")), orders],
            schedules: vec![schedule("sweep"), party],
            asynchronous: Some(Async {
                on_success: Some("orders".parse().unwrap()),
                on_failure: Some("https://ops.example/hook".parse().unwrap()),
                ..Async::default()
            }),
        };
        let full = Topic {
            max_messages: Some(1_000_000),
            when_full: WhenFull::DropOldest,
            webhook: Some(github("/hooks/github")),
            ..Topic::default()
        };
        BundleConfig {
            app: "shop".parse().unwrap(),
            version: Version::new(0, 1, 0),
            functions: [("worker".parse().unwrap(), worker)].into(),
            files: BTreeMap::new(),
            sticky: None,
            kv: BTreeMap::new(),
            sql: BTreeMap::new(),
            blob: BTreeMap::new(),
            volumes: BTreeMap::new(),
            locks: false,
            topics: [(name("audit"), full), (name("orders"), Topic::default()), (name("dead"), Topic::default())]
                .into(),
        }
    }

    fn github(path: &str) -> Webhook {
        let (path, secret) = (path.parse().unwrap(), "KEY".parse().unwrap());
        Webhook { path, secret, signature: Signature::Of(Provider::Github) }
    }

    fn messages(config: &BundleConfig) -> Vec<String> {
        config.check(&LimitCaps::default()).err().unwrap_or_default()
    }

    #[test]
    fn a_config_with_events_reads_back() {
        let config = config();
        assert_eq!(messages(&config), [""; 0]);
        let json = serde_json::to_string_pretty(&config).unwrap();
        assert_eq!(serde_json::from_str::<BundleConfig>(&json).unwrap(), config);
        insta::assert_snapshot!(json);
        for pointer in
            ["/topics/orders", "/functions/worker/topics/0", "/functions/worker/schedules/0", "/functions/worker/async"]
        {
            let mut bad = serde_json::to_value(&config).unwrap();
            bad.pointer_mut(pointer).unwrap()["extra"] = 1.into();
            assert!(serde_json::from_value::<BundleConfig>(bad).is_err(), "{pointer}");
        }
    }

    #[test]
    fn every_mistake_of_events_is_refused() {
        type Change = fn(&mut BundleConfig, &mut BundledFunction);
        let table: &[(Change, &str)] = &[
            (
                |_, worker| worker.topics[0].topic = "other".parse().unwrap(),
                "function `worker`: `topics`: the app has no topic `other`",
            ),
            (
                |_, worker| worker.topics[0].dead_letter = Some("other".parse().unwrap()),
                "`topics`: the app has no topic `other`",
            ),
            (|_, worker| worker.topics[0].topic = "orders".parse().unwrap(), "`topics`: `orders` stands twice"),
            (|_, worker| worker.topics[0].batch = 0, "`audit`: `batch` is 0; it is from 1 to 1000"),
            (|_, worker| worker.topics[0].batch = 1001, "`batch` is 1001"),
            (|_, worker| worker.topics[0].wait = Duration::from_secs(1), "`wait` does nothing without `batch`"),
            (|_, worker| worker.topics[1].wait = Duration::from_secs(61), "`wait` is 61000 ms, the most is 60000 ms"),
            (|_, worker| worker.topics[0].retries = 1001, "`retries` is 1001, the most is 1000"),
            (
                |_, worker| {
                    worker.topics[0].backoff = Backoff { least: Duration::from_secs(2), most: Duration::from_secs(1) }
                },
                "`backoff`: the first wait, 2s, is longer than the longest, 1s",
            ),
            (
                |_, worker| worker.topics[0].types = vec!["a".parse().unwrap(); 21],
                "`types` has 21 patterns, the most is 20",
            ),
            (
                |_, worker| worker.topics[0].subjects = vec!["a".parse().unwrap(); 21],
                "`subjects` has 21 patterns, the most is 20",
            ),
            (
                |_, worker| worker.topics = vec![Subscription::of("audit".parse().unwrap()); 101],
                "function `worker`: has 101 topics, the most is 100",
            ),
            (
                |_, worker| worker.schedules = (0..101).map(|n| schedule(&format!("s{n}"))).collect(),
                "function `worker`: has 101 schedules, the most is 100",
            ),
            (|_, worker| worker.schedules.push(schedule("sweep")), "`schedules`: `sweep` stands twice"),
            (
                |_, worker| worker.egress.clear(),
                "`async`: `on_failure`: the function's `egress` does not allow `https://ops.example`",
            ),
            (
                |_, worker| worker.asynchronous.as_mut().unwrap().on_success = Some("other".parse().unwrap()),
                "`async`: `on_success`: the app has no topic `other`",
            ),
            (|_, worker| worker.asynchronous.as_mut().unwrap().retries = 1001, "`async`: `retries` is 1001"),
            (
                |_, worker| worker.topics[0].dead_letter = Some("audit".parse().unwrap()),
                "dead letters go in a circle: `audit`",
            ),
            (
                |config, worker| {
                    for n in 0..11 {
                        let schedules = (0..100).map(|n| schedule(&format!("s{n}"))).collect();
                        let function = BundledFunction { schedules, ..worker.clone() };
                        config.functions.insert(format!("f{n}").parse().unwrap(), function);
                    }
                },
                "the version has 1102 schedules, the most is 1000",
            ),
            (
                |_, worker| worker.grants.publish[0] = "other".parse().unwrap(),
                "`publish`: the app has no topic `other`",
            ),
            (
                |_, worker| worker.grants.publish[0] = "b/orders".parse().unwrap(),
                "`publish`: `b/orders` is a topic of `b`; a function publishes to topics of its own app only",
            ),
            (
                |_, worker| worker.grants.publish[0] = "orders:ro".parse().unwrap(),
                "`publish`: `orders:ro` is for reading",
            ),
            (|_, worker| worker.grants.publish.push("orders".parse().unwrap()), "`orders` stands twice"),
            (
                |_, worker| worker.grants.secrets = vec!["ORDERS".parse().unwrap()],
                "has two things called `ORDERS`: the topic `orders` and the secret `ORDERS`",
            ),
            (
                |config, _| config.topics.get_mut("audit").unwrap().retention = Duration::from_secs(59),
                "the topic `audit`: its retention is 59s; it is from 1m to",
            ),
            (
                |config, _| config.topics.get_mut("audit").unwrap().max_bytes = 1,
                "the topic `audit`: its size is 1 bytes; it is from 1048576 to",
            ),
            (
                |config, _| config.topics.get_mut("audit").unwrap().max_messages = Some(0),
                "the topic `audit`: it may hold 0 messages; that is from 1 to",
            ),
            (
                |config, worker| {
                    config.topics.get_mut("audit").unwrap().webhook = Some(github("/h"));
                    worker.routes.push("POST /h".parse().unwrap());
                },
                "routes `POST /h` and `POST /h` match the same requests: the function `worker` and the webhook of `audit`",
            ),
            (
                |config, _| config.topics.values_mut().take(2).for_each(|topic| topic.webhook = Some(github("/h"))),
                "match the same requests: the webhook of `audit` and the webhook of `dead`",
            ),
            (
                |config, _| {
                    let own = OwnSignature {
                        header: "X".into(),
                        prefix: String::new(),
                        encoding: Encoding::Hex,
                        id_header: None,
                    };
                    let webhook = Webhook { signature: Signature::Own(own), ..github("/h") };
                    config.topics.get_mut("audit").unwrap().webhook = Some(webhook);
                },
                "the topic `audit`: its webhook: `header`: `X` cannot be the name of a header",
            ),
            (
                |config, _| config.topics.extend((0..98).map(|n| (format!("t{n}").parse().unwrap(), Topic::default()))),
                "the version has 101 topics, the most is 100",
            ),
        ];
        for (change, expected) in table {
            let mut config = config();
            let mut worker = config.functions.remove("worker").unwrap();
            change(&mut config, &mut worker);
            config.functions.insert("worker".parse().unwrap(), worker);
            let messages = messages(&config);
            assert!(messages.len() == 1 && messages[0].contains(expected), "expected {expected}\ngot {messages:#?}");
        }
        let mut quiet = config();
        quiet.functions.values_mut().for_each(|function| {
            function.schedules.clear();
            function.asynchronous = None;
        });
        let quiet = serde_json::to_string(&quiet).unwrap();
        assert!(!quiet.contains("schedules") && !quiet.contains("async"));
        assert_eq!((schedule("a").overlap, schedule("a").missed), (Overlap::Skip, Missed::Once));
    }
}
