//! From the registry's rows to what the gateway reads: building a [`LiveApp`].

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError, RwLock, Weak},
};

use minnow_model::{
    AppName, BlobStore, BundleConfig, BundledCode, Digest, EgressRule, Grants, Schedule, StoreGrant, StoreId,
    StoreKind, StoreName, Subscription, Tenant, Topic, TopicRules,
};
use minnow_runtime::{
    Function, FunctionCode, FunctionSpec, GuestKind, LiveApp, LiveVersion, LiveWebhook, Runtime, Secrets,
    data::{Granted, GrantedStore, Withdrawn},
    live::WEBHOOK_PLACES,
};
use minnow_store::Vault;
use tokio::sync::Semaphore;

use crate::{
    ControlError,
    environment::{environment, webhook_key},
    registry::{LiveRow, Settings, SharedStore},
};

/// Builds live apps, sharing what is the same in most functions: a node holds thousands of them.
pub(crate) struct Builder {
    runtime: Arc<Runtime>,
    /// What every compiled code is. One entry of some 40 bytes for each distinct piece of code.
    kinds: RwLock<HashMap<Digest, GuestKind>>,
    no_env: Arc<BTreeMap<String, String>>,
    no_secrets: Secrets,
    no_egress: Arc<[EgressRule]>,
    no_grants: Arc<Granted>,
    no_subscriptions: Arc<[Subscription]>,
    no_schedules: Arc<[Schedule]>,
    /// Whose stores the live versions of an app are granted, where there are any: when what those apps share changes, this app
    /// is built anew.
    foreign: RwLock<HashMap<AppName, BTreeSet<AppName>>>,
    /// What functions were granted, for as long as one of them is there: live, or not live any more and still running.
    granted: Mutex<Vec<Weak<Granted>>>,
    vault: Arc<Vault>,
}

impl Builder {
    pub(crate) fn new(runtime: Arc<Runtime>, kinds: HashMap<Digest, GuestKind>, vault: Arc<Vault>) -> Self {
        Self {
            runtime,
            kinds: RwLock::new(kinds),
            no_env: Arc::default(),
            no_secrets: Secrets::default(),
            no_egress: Arc::from([]),
            no_grants: Arc::default(),
            no_subscriptions: Arc::from([]),
            no_schedules: Arc::from([]),
            foreign: RwLock::default(),
            granted: Mutex::default(),
            vault,
        }
    }

    pub(crate) fn kind(&self, code: &Digest) -> Option<GuestKind> {
        self.kinds.read().unwrap_or_else(PoisonError::into_inner).get(code).copied()
    }

    pub(crate) fn set_kind(&self, code: Digest, kind: GuestKind) {
        self.kinds.write().unwrap_or_else(PoisonError::into_inner).insert(code, kind);
    }

    pub(crate) fn forget_kind(&self, code: &Digest) {
        self.kinds.write().unwrap_or_else(PoisonError::into_inner).remove(code);
    }

    /// The apps that are granted something of `owner`: perhaps some more, none less.
    pub(crate) fn granted_of(&self, owner: &AppName) -> Vec<AppName> {
        let foreign = self.foreign.read().unwrap_or_else(PoisonError::into_inner);
        foreign.iter().filter(|(_, owners)| owners.contains(owner)).map(|(app, _)| app.clone()).collect()
    }

    /// The app is deleted.
    pub(crate) fn forget_app(&self, app: &AppName) {
        self.foreign.write().unwrap_or_else(PoisonError::into_inner).remove(app);
    }

    /// Whether a function may use stores of `owner`: one that is live, or one that is not any more and whose calls have not ended.
    pub(crate) fn is_used(&self, tenant: &Tenant, owner: &AppName) -> bool {
        let all = self.granted.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().filter_map(Weak::upgrade).any(|granted| {
            let mut stores = StoreKind::ALL.into_iter().flat_map(|kind| granted.of(kind).values());
            stores.any(|granted| {
                let store = &granted.store;
                (&store.tenant, &store.app) == (tenant, owner)
            })
        })
    }

    fn note_granted(&self, granted: &Arc<Granted>) {
        let mut all = self.granted.lock().unwrap_or_else(PoisonError::into_inner);
        // With room for as many again, so that on the whole each is looked at about twice.
        if all.len() == all.capacity() {
            all.retain(|granted| granted.strong_count() > 0);
            let living = all.len();
            all.reserve(living + 1);
        }
        all.push(Arc::downgrade(granted));
    }

    fn note_owners(&self, row: &LiveRow) {
        let owners: BTreeSet<AppName> = row.foreign_grants().map(|(_, _, owner, _)| owner.clone()).collect();
        if !owners.is_empty() {
            // Added, since what was there before may stay live: this deployment is not committed yet.
            let mut foreign = self.foreign.write().unwrap_or_else(PoisonError::into_inner);
            foreign.entry(row.config.app.clone()).or_default().extend(owners);
        }
    }

    /// The app that `rows` describe, or `None` when they are empty. A version that `running` has, with the same grants and
    /// environment, stays the same object, so that its concurrency, its queue and its warm instances go on.
    pub(crate) fn app(
        &self,
        rows: Vec<LiveRow>,
        running: Option<&LiveApp>,
    ) -> Result<Option<Arc<LiveApp>>, ControlError> {
        let Some(name) = rows.first().map(|row| row.config.app.clone()) else { return Ok(None) };
        let shares = rows
            .into_iter()
            .map(|row| {
                self.note_owners(&row);
                let specs = self.specs(&row.tenant, &row.config, &row.shared, &row.settings)?;
                let webhooks = self.webhooks(&row.tenant, &row.config, &row.settings);
                let same = running
                    .and_then(|app| app.shares.iter().find(|(_, version)| version.version == row.config.version))
                    .filter(|(_, version)| version.functions.iter().map(|function| function.spec()).eq(&specs))
                    .filter(|(_, version)| {
                        let same = version.webhooks.iter().zip(&webhooks).all(|(one, other)| one.is_like(other));
                        same && version.webhooks.len() == webhooks.len()
                    })
                    .map(|(_, version)| Arc::clone(version));
                let version = match same {
                    Some(version) => version,
                    None => Arc::new(self.version(&row.tenant, row.config, specs, webhooks)?),
                };
                Ok((row.weight, version))
            })
            .collect::<Result<_, ControlError>>()?;
        Ok(Some(Arc::new(LiveApp { name, shares })))
    }

    fn version(
        &self,
        tenant: &Tenant,
        config: BundleConfig,
        specs: Vec<FunctionSpec>,
        webhooks: Vec<Arc<LiveWebhook>>,
    ) -> Result<LiveVersion, ControlError> {
        let router = config.router().map_err(|clashes| ControlError::Corrupt(clashes.join("; ")))?;
        let functions = specs.into_iter().map(|spec| Function::new(&self.runtime, spec)).collect();
        let buckets = self.buckets(tenant, &config);
        let topics = config.topics.iter().map(|(name, topic)| (name.clone(), topic.rules())).collect();
        let BundleConfig { version, files, sticky, blob, .. } = config;
        let cors = blob.into_iter().map(|(name, bucket)| (name, bucket.cors)).filter(|(_, cors)| !cors.is_empty());
        let cors = cors.collect();
        Ok(LiveVersion { version, router, functions, files, sticky, buckets, cors, topics, webhooks })
    }

    /// The buckets that the version declares, as if to a function that may do everything with them.
    fn buckets(&self, tenant: &Tenant, config: &BundleConfig) -> Arc<Granted> {
        if config.blob.is_empty() {
            return Arc::clone(&self.no_grants);
        }
        let bucket =
            |(name, bucket): (&StoreName, &BlobStore)| own_store(tenant, config, name, bucket.size_bytes, None);
        let granted = Arc::new(Granted { blob: config.blob.iter().map(bucket).collect(), ..Granted::default() });
        self.note_granted(&granted);
        granted
    }

    /// The public routes to topics that the version declares, in the order of the topics' names.
    fn webhooks(&self, tenant: &Tenant, config: &BundleConfig, settings: &Settings) -> Vec<Arc<LiveWebhook>> {
        let with_webhook =
            config.topics.iter().filter_map(|(name, topic)| Some((name, topic, topic.webhook.as_ref()?)));
        let webhooks = with_webhook.map(|(name, topic, webhook)| {
            let rules = topic.rules();
            let (key, store) = own_store(tenant, config, name, topic.max_bytes, Some(rules));
            let topic = store.store.clone();
            let granted = Arc::new(Granted { topic: [(key, store)].into(), ..Granted::default() });
            self.note_granted(&granted);
            Arc::new(LiveWebhook {
                topic,
                rules,
                signature: webhook.signature.clone(),
                key: webhook_key(&self.vault, tenant, &config.app, webhook, settings).ok(),
                granted,
                places: Semaphore::new(WEBHOOK_PLACES),
            })
        });
        webhooks.collect()
    }

    /// What the runtime needs to know of the version's functions, in the order of their names.
    pub(crate) fn specs(
        &self,
        tenant: &Tenant,
        config: &BundleConfig,
        shared: &BTreeMap<SharedStore, u64>,
        settings: &Settings,
    ) -> Result<Vec<FunctionSpec>, ControlError> {
        let BundleConfig { app, version, functions, .. } = config;
        let specs = functions.iter().map(|(name, function)| {
            let code = self.code(&function.code).ok_or_else(|| {
                ControlError::Corrupt(format!("function `{name}` of {app}@{version} was never compiled"))
            })?;
            let (env, secrets, lacks_secrets) = environment(&self.vault, tenant, app, function, settings);
            Ok(FunctionSpec {
                tenant: tenant.clone(),
                app: app.clone(),
                version: version.clone(),
                function: name.clone(),
                code,
                env: if env.is_empty() { Arc::clone(&self.no_env) } else { Arc::new(env) },
                secrets: if secrets.is_empty() { self.no_secrets.clone() } else { secrets },
                egress: match function.egress.as_slice() {
                    [] => Arc::clone(&self.no_egress),
                    rules => rules.into(),
                },
                lacks_secrets,
                granted: self.granted(tenant, config, &function.grants, shared),
                instances: function.instances,
                limits: function.limits,
                subscriptions: match function.topics.as_slice() {
                    [] => Arc::clone(&self.no_subscriptions),
                    topics => topics.into(),
                },
                schedules: match function.schedules.as_slice() {
                    [] => Arc::clone(&self.no_schedules),
                    schedules => schedules.into(),
                },
                asynchronous: function.asynchronous.clone().map(Arc::new),
                has_routes: !function.routes.is_empty(),
            })
        });
        specs.collect()
    }

    /// The stores that a function may use: its app's own, and those of other apps that are shared with it now. Those that are
    /// not stand apart, so that the function is told so when it asks for one.
    fn granted(
        &self,
        tenant: &Tenant,
        config: &BundleConfig,
        grants: &Grants,
        shared: &BTreeMap<SharedStore, u64>,
    ) -> Arc<Granted> {
        let of_kind = |kind: StoreKind| -> BTreeMap<String, GrantedStore> {
            let open = grants.stores(kind).filter_map(|grant| {
                let size_bytes = match &grant.app {
                    None => config.size_bytes(kind, &grant.store).unwrap_or_default(),
                    Some(owner) => *shared.get(&(kind, owner.clone(), grant.store.clone()))?,
                };
                let app = grant.app.as_ref().unwrap_or(&config.app).clone();
                let granted = GrantedStore {
                    store: StoreId { tenant: tenant.clone(), app, name: grant.store.clone() },
                    read_only: grant.read_only,
                    variable: grant.variable(),
                    size_bytes,
                    mount: grants.mount(grant).cloned(),
                    topic: config.topics.get(&grant.store).filter(|_| kind == StoreKind::Topic).map(Topic::rules),
                };
                Some((grant.name(), granted))
            });
            open.collect()
        };
        let withdrawn = StoreKind::ALL.into_iter().flat_map(|kind| {
            grants.stores(kind).filter_map(move |grant| {
                let owner = grant.app.as_ref()?;
                let is_shared = shared.contains_key(&(kind, owner.clone(), grant.store.clone()));
                (!is_shared).then(|| Withdrawn {
                    kind,
                    owner: owner.clone(),
                    store: grant.store.clone(),
                    name: grant.name(),
                    variable: grant.variable(),
                })
            })
        });
        let granted = Granted {
            kv: of_kind(StoreKind::Kv),
            sql: of_kind(StoreKind::Sql),
            blob: of_kind(StoreKind::Blob),
            files: of_kind(StoreKind::Files),
            topic: of_kind(StoreKind::Topic),
            locks: grants.locks,
            withdrawn: withdrawn.collect(),
        };
        if granted.is_empty() {
            return Arc::clone(&self.no_grants);
        }
        let granted = Arc::new(granted);
        self.note_granted(&granted);
        granted
    }

    /// The code as the runtime knows it; `None` for WebAssembly that was never compiled.
    pub(crate) fn code(&self, code: &BundledCode) -> Option<FunctionCode> {
        match *code {
            BundledCode::Wasm(digest) => Some(FunctionCode::Wasm { digest, kind: self.kind(&digest)? }),
            BundledCode::Js { module, source_map } => Some(FunctionCode::Js { module, source_map }),
        }
    }
}

/// A store of the version's own app, as if to a function that may do everything with it, under its name.
fn own_store(
    tenant: &Tenant,
    config: &BundleConfig,
    name: &StoreName,
    size_bytes: u64,
    topic: Option<TopicRules>,
) -> (String, GrantedStore) {
    let grant = StoreGrant { app: None, store: name.clone(), read_only: false };
    let granted = GrantedStore {
        store: StoreId { tenant: tenant.clone(), app: config.app.clone(), name: name.clone() },
        read_only: false,
        variable: grant.variable(),
        size_bytes,
        mount: None,
        topic,
    };
    (grant.name(), granted)
}
