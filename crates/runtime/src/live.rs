//! What is live: an immutable snapshot of apps, their versions and functions. Control swaps it, the gateway reads it.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use arc_swap::{ArcSwap, Guard};
use minnow_model::{
    AppName, BundledFile, FunctionName, Origin, StoreId, StoreName, TopicRules, Version,
    event::Signature,
    manifest::Sticky,
    route::{Found, Router},
};
use tokio::sync::{Semaphore, watch};
use zeroize::Zeroizing;

use crate::{Function, data::Granted};

/// The apps that get traffic. Reading is one atomic load; a change swaps the whole map, so a request sees one state from
/// its start to its end.
pub struct Live {
    apps: ArcSwap<HashMap<AppName, Arc<LiveApp>>>,
    /// Counts the changes.
    changes: watch::Sender<u64>,
}

impl Default for Live {
    fn default() -> Self {
        Self { apps: ArcSwap::default(), changes: watch::Sender::new(0) }
    }
}

/// One app and the versions that share its traffic.
pub struct LiveApp {
    pub name: AppName,
    /// One version, or two; the weights add up to 100.
    pub shares: Vec<(u8, Arc<LiveVersion>)>,
}

/// One version that gets traffic.
pub struct LiveVersion {
    pub version: Version,
    /// Finds the index into `functions`, and beyond their number, into `webhooks`.
    pub router: Router,
    pub functions: Vec<Arc<Function>>,
    pub files: BTreeMap<String, BundledFile>,
    pub sticky: Option<Sticky>,
    /// The app's own buckets, which signed URLs reach without a function. Whoever serves one keeps this until it is done, so that
    /// nobody takes the data of a deleted app away meanwhile.
    pub buckets: Arc<Granted>,
    /// What each of the app's topics may hold.
    pub topics: BTreeMap<StoreName, TopicRules>,
    /// The origins whose pages may use signed URLs of these buckets, where there are any.
    pub cors: BTreeMap<StoreName, Vec<Origin>>,
    /// The public routes to topics, in the order of the topics' names.
    pub webhooks: Vec<Arc<LiveWebhook>>,
}

/// A public route to a topic. It has no `Debug`: the key is a secret.
pub struct LiveWebhook {
    pub topic: StoreId,
    /// What the topic may hold.
    pub rules: TopicRules,
    pub signature: Signature,
    /// What signs what comes. `None` where the secret was never set, cannot be read, or is no key: then nothing is taken.
    pub key: Option<Zeroizing<Vec<u8>>>,
    /// Has the topic. Whoever publishes keeps this until it is done, so that nobody takes the data of a deleted app away meanwhile.
    pub granted: Arc<Granted>,
    /// Requests whose bodies are in memory: [`WEBHOOK_PLACES`].
    pub places: Semaphore,
}

/// Bodies of one webhook in memory at once. A place is held for the milliseconds of a body and a commit, by a client that sends slowly for
/// seconds; with 24 MiB at most one webhook leaves the node's memory to others.
pub const WEBHOOK_PLACES: usize = 32;

impl LiveWebhook {
    /// Whether it is the same in all that a change of settings can change.
    pub fn is_like(&self, other: &Self) -> bool {
        let Self { topic, rules, signature, key, .. } = self;
        (topic, rules, signature, key) == (&other.topic, &other.rules, &other.signature, &other.key)
    }
}

impl LiveVersion {
    pub fn function(&self, name: &FunctionName) -> Option<&Arc<Function>> {
        self.functions.iter().find(|function| function.spec().function == *name)
    }

    /// Where the route's wildcard begins, when the path leads to the function of this name: [`crate::Invocation::script_len`].
    pub fn script_len<B>(&self, request: &http::Request<B>, name: &FunctionName) -> usize {
        match self.router.find(request.method().as_str(), request.uri().path()) {
            Found::Function { index, script_len, .. } => {
                let found = self.functions.get(index);
                let same = found.is_some_and(|found| found.spec().function == *name);
                if same { script_len } else { 0 }
            }
            _ => 0,
        }
    }
}

impl Drop for LiveVersion {
    fn drop(&mut self) {
        self.functions.iter().for_each(|function| function.retire());
    }
}

impl Live {
    /// The snapshot of this moment.
    pub fn load(&self) -> Guard<Arc<HashMap<AppName, Arc<LiveApp>>>> {
        self.apps.load()
    }

    /// Tells of each change, after it was made. What is received is only that there was one.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn changed(&self) {
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Replaces everything (at start-up).
    pub fn replace(&self, apps: HashMap<AppName, Arc<LiveApp>>) {
        self.apps.store(Arc::new(apps));
        self.changed();
    }

    /// Sets one app.
    pub fn set(&self, app: Arc<LiveApp>) {
        self.apps.rcu(|apps| {
            let mut apps = HashMap::clone(apps);
            apps.insert(app.name.clone(), Arc::clone(&app));
            apps
        });
        self.changed();
    }

    /// Takes one app away.
    pub fn remove(&self, app: &AppName) {
        self.apps.rcu(|apps| {
            let mut apps = HashMap::clone(apps);
            apps.remove(app);
            apps
        });
        self.changed();
    }
}
