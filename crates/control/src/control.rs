//! The actions of the control plane. HTTP only parses into them; what the API can do is what is here, in [`crate::publish`],
//! [`crate::invoke`] and [`crate::logs`].

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use minnow_events::Events;
use minnow_model::{AppName, Deployment, Digest, Level, Share, Tenant, Version};
use minnow_runtime::{FunctionCode, Live, LiveApp, Runtime};
use minnow_store::{Blobs, DataDir, StoreError, Vault, VaultError};
use minnow_telemetry::{Logs, Metrics};
use tokio::sync::{Mutex, Notify, RwLock, watch};

use crate::{
    ControlConfig, ControlError,
    api_types::{AppInfo, AppStatus, CreatedToken, FunctionStatus, NodeInfo, TokenInfo, VersionInfo, VersionTraffic},
    environment::lacks,
    registry::{LiveRow, Registry, VersionRow},
    snapshot::Builder,
    stores::DataFate,
    tokens::{self, AdminTokenError, MAX_NAME_CHARS, MAX_TOKENS, Secret, Tokens},
    turns::Turns,
};

/// How long whoever deletes an app waits for calls that use its data: nearly all requests have ended by then.
const DELETION_PATIENCE: Duration = Duration::from_secs(2);
const DELETION_LOOK: Duration = Duration::from_millis(20);

/// Deployments that `GET /v1/apps/{app}` shows.
const SHOWN_HISTORY: u64 = 50;

/// The control plane of one node.
pub struct Control {
    pub(crate) config: ControlConfig,
    pub(crate) registry: Registry,
    pub(crate) blobs: Arc<Blobs>,
    pub(crate) runtime: Arc<Runtime>,
    pub(crate) live: Arc<Live>,
    pub(crate) events: Arc<Events>,
    pub(crate) metrics: Metrics,
    pub(crate) logs: Logs,
    pub(crate) tokens: Tokens,
    pub(crate) builder: Arc<Builder>,
    pub(crate) vault: Arc<Vault>,
    /// Held while something that is also kept in memory changes (live apps, tokens), so that memory and database change in
    /// the same order. Only for as long as a transaction takes.
    pub(crate) changes: Mutex<()>,
    pub(crate) turns: Turns,
    /// Publishes hold it for reading, from checking their blobs to the commit; cleaning up needs it for itself alone.
    pub(crate) publishing: RwLock<()>,
    /// Wakes the reconciler.
    pub(crate) nudged: Notify,
    /// Live code that is not compiled for this engine yet, as of the start.
    pub(crate) uncompiled: AtomicUsize,
    /// Whether the node has stopped taking requests.
    draining: watch::Sender<bool>,
    admin_token: PathBuf,
    pub(crate) logs_dir: PathBuf,
    /// The data of deleted apps.
    pub(crate) deleted_dir: PathBuf,
    /// Unfinished files; emptied at each start.
    pub(crate) tmp_dir: PathBuf,
    /// One backup or restore at a time: each takes the disk for itself, and room for as much as it is about.
    pub(crate) backing_up: Arc<Mutex<()>>,
    started_ms: u64,
}

/// Why the control plane could not start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error(transparent)]
    AdminToken(#[from] AdminTokenError),
    #[error(transparent)]
    Vault(#[from] VaultError),
    #[error(
        "the key file {} is missing, and {secrets} secrets are sealed with it; restore it. If it is lost, make a new one with \
         `(umask 077; openssl rand -hex 32 > {})`, and set the secrets again",
        path.display(), path.display()
    )]
    KeyLost { path: PathBuf, secrets: u64 },
    #[error(
        "the key file {} that the configuration names is missing; make one with `(umask 077; openssl rand -hex 32 > {})`",
        path.display(), path.display()
    )]
    NoKey { path: PathBuf },
}

impl Control {
    /// Opens the registry and the blobs in `dir`, makes sure of the admin token, and puts every live deployment into `live`.
    /// Spawn [`Control::run`] after it.
    pub async fn open(
        config: ControlConfig,
        dir: &DataDir,
        runtime: Arc<Runtime>,
        live: Arc<Live>,
        events: Arc<Events>,
        metrics: Metrics,
        logs: Logs,
    ) -> Result<Arc<Self>, OpenError> {
        let registry = Registry::open(&dir.database())?;
        let blobs = Arc::new(Blobs::open(dir)?);
        tokens::ensure_admin_token(&registry, &dir.admin_token(), &config.clock).await?;
        let tokens = Tokens::load(&registry).await?;
        let vault = Arc::new(open_vault(&config, dir, &registry).await?);
        runtime.data().signer.use_keys_of(&vault);
        let kinds = registry.kinds().await?;
        let builder = Arc::new(Builder::new(Arc::clone(&runtime), kinds, Arc::clone(&vault)));
        let control = Arc::new(Self {
            started_ms: config.clock.now_ms(),
            config,
            registry,
            blobs,
            runtime,
            live,
            events,
            metrics,
            logs,
            tokens,
            builder,
            vault,
            changes: Mutex::new(()),
            turns: Turns::default(),
            publishing: RwLock::new(()),
            nudged: Notify::new(),
            uncompiled: AtomicUsize::new(0),
            draining: watch::channel(false).0,
            admin_token: dir.admin_token(),
            logs_dir: dir.logs(),
            deleted_dir: dir.deleted(),
            tmp_dir: dir.tmp(),
            backing_up: Arc::default(),
        });
        control.reseal().await?;
        control.load_live().await?;
        // Before anybody can publish an app of the same name.
        control.finish_deletions().await?;
        control.remove_stray_data().await?;
        control.count().await;
        Ok(control)
    }

    /// Says which secrets live functions and webhooks lack, and so do not work: that is known of at the start only where a key was lost.
    fn tell_lacks(&self, rows: &[LiveRow]) {
        for lack in lacks(&self.vault, rows) {
            tracing::error!(%lack, "a secret of what is live cannot be used");
            if let Some(row) = rows.first() {
                self.note(&row.tenant, &row.config.app, Level::Error, self.started_ms, lack.to_string());
            }
        }
    }

    async fn load_live(self: &Arc<Self>) -> Result<(), ControlError> {
        let began = Instant::now();
        let control = Arc::clone(self);
        let apps = self
            .registry
            .each_live(std::collections::HashMap::new(), move |apps, rows| {
                control.tell_lacks(&rows);
                if let Some(app) = control.builder.app(rows, None)? {
                    apps.insert(app.name.clone(), app);
                }
                Ok(())
            })
            .await?;
        let count = apps.len();
        self.live.replace(apps);
        self.uncompiled.store(self.live_code_to_compile().len(), Ordering::Release);
        tracing::info!(apps = count, ms = began.elapsed().as_millis(), "live apps are loaded");
        Ok(())
    }

    /// Code of live functions that is not compiled for this engine, with a function that needs it.
    pub(crate) fn live_code_to_compile(&self) -> BTreeMap<Digest, String> {
        let mut seen = BTreeSet::new();
        let mut missing = BTreeMap::new();
        for app in self.live.load().values() {
            for function in app.shares.iter().flat_map(|(_, version)| &version.functions) {
                let spec = function.spec();
                // JavaScript is compiled by V8 in its process.
                let FunctionCode::Wasm { digest, .. } = spec.code else { continue };
                if seen.insert(digest) && self.runtime.compiled_kind(&digest).is_none() {
                    missing.insert(digest, format!("{}@{}/{}", spec.app, spec.version, spec.function));
                }
            }
        }
        missing
    }

    /// Whether the node should get traffic: live code is compiled (or was tried and failed, which is in the log), and the
    /// node is not draining.
    pub fn is_ready(&self) -> bool {
        self.uncompiled.load(Ordering::Acquire) == 0 && !self.is_draining()
    }

    /// Says that the node takes no more requests: it is not ready any more, and followed logs end.
    pub fn begin_drain(&self) {
        self.draining.send_replace(true);
    }

    pub fn is_draining(&self) -> bool {
        *self.draining.borrow()
    }

    /// Returns once the node drains.
    pub(crate) fn drained(&self) -> impl Future<Output = ()> + Send + 'static + use<> {
        let mut draining = self.draining.subscribe();
        async move {
            // An error means that the control plane is gone, which ends the wait as well.
            let _ = draining.wait_for(|draining| *draining).await;
        }
    }

    /// Runs an action to its end also when the caller stops waiting, so that memory follows what the database took.
    pub(crate) async fn to_the_end<T: Send + 'static>(
        action: impl Future<Output = Result<T, ControlError>> + Send + 'static,
    ) -> Result<T, ControlError> {
        match tokio::spawn(action).await {
            Ok(result) => result,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => Err(ControlError::ShuttingDown),
            },
        }
    }

    /// What node this is.
    pub fn node(&self) -> NodeInfo {
        NodeInfo {
            version: env!("CARGO_PKG_VERSION").into(),
            http: self.config.http.to_string(),
            domain: self.config.domain.clone(),
            default_app: self.config.default_app.as_ref().map(ToString::to_string),
            started_ms: self.started_ms,
        }
    }

    // Apps and versions.

    pub async fn apps(&self, tenant: &Tenant) -> Result<Vec<AppInfo>, ControlError> {
        let rows = self.registry.apps(tenant).await?;
        Ok(rows
            .into_iter()
            .map(|row| AppInfo {
                url: self.config.url(&row.app),
                app: row.app,
                versions: row.versions,
                deployment: row.deployment,
            })
            .collect())
    }

    pub async fn app(&self, tenant: &Tenant, app: &AppName) -> Result<AppStatus, ControlError> {
        let row = self.registry.app(tenant, app).await?;
        let history = self.registry.history(tenant, app, SHOWN_HISTORY).await?;
        let rows = self.registry.live(tenant, app).await?;
        let functions = self.function_status(tenant, app, rows);
        let traffic = row.deployment.as_ref().map(|live| self.traffic(tenant, live)).unwrap_or_default();
        let app = AppInfo {
            url: self.config.url(&row.app),
            app: row.app,
            versions: row.versions,
            deployment: row.deployment,
        };
        let schedules = self.ticks(tenant, &app.app);
        Ok(AppStatus { app, traffic, history, functions, schedules })
    }

    /// What each version of the live deployment has done since it began.
    fn traffic(&self, tenant: &Tenant, live: &Deployment) -> Vec<VersionTraffic> {
        let of_share = |share: &Share| {
            let tally = self.metrics.tally(tenant, &live.app, &share.version);
            VersionTraffic {
                version: share.version.clone(),
                weight: share.weight,
                since_ms: live.time_ms.max(self.started_ms),
                requests: tally.requests,
                failed: tally.failed,
                p50: tally.duration(0.5),
                p99: tally.duration(0.99),
            }
        };
        live.shares.iter().map(of_share).collect()
    }

    /// The functions of the live versions in `rows`, and what they are doing now.
    fn function_status(&self, tenant: &Tenant, app: &AppName, rows: Vec<LiveRow>) -> Vec<FunctionStatus> {
        let live = self.live_app(tenant, app);
        let mut all = Vec::new();
        for row in rows {
            let version = live.as_ref().and_then(|app| {
                app.shares.iter().find(|(_, version)| version.version == row.config.version).map(|(_, version)| version)
            });
            for (name, function) in row.config.functions {
                let running = version.and_then(|version| version.function(&name));
                all.push(FunctionStatus {
                    version: row.config.version.clone(),
                    kind: self.builder.code(&function.code).map(|code| code.kind().to_owned()).unwrap_or_default(),
                    routes: function.routes,
                    limits: function.limits,
                    running: running.map_or(0, |function| function.running()),
                    queued: running.map_or(0, |function| function.queued()),
                    loaded: running.is_some_and(|function| function.is_loaded()),
                    processes: running.map_or(0, |function| function.processes().0 as u64),
                    held_back_s: running.and_then(|function| function.held_for()).map(|held| held.as_secs()),
                    function: name,
                });
            }
        }
        all
    }

    /// The live app of this name, when it is the tenant's.
    pub(crate) fn live_app(&self, tenant: &Tenant, app: &AppName) -> Option<Arc<LiveApp>> {
        let app = self.live.load().get(app).map(Arc::clone)?;
        let owner =
            app.shares.iter().flat_map(|(_, version)| &version.functions).map(|function| &function.spec().tenant);
        owner.take(1).all(|owner| owner == tenant).then_some(app)
    }

    pub async fn versions(&self, tenant: &Tenant, app: &AppName) -> Result<Vec<VersionInfo>, ControlError> {
        let shares = self.registry.app(tenant, app).await?.deployment.map(|live| live.shares).unwrap_or_default();
        let rows = self.registry.versions(tenant, app).await?;
        Ok(rows.into_iter().map(|row| version_info(app, row, &shares)).collect())
    }

    pub async fn version(
        &self,
        tenant: &Tenant,
        app: &AppName,
        version: &Version,
    ) -> Result<VersionInfo, ControlError> {
        let shares = self.registry.app(tenant, app).await?.deployment.map(|live| live.shares).unwrap_or_default();
        let row = self.registry.version(tenant, app, version).await?;
        let row = row.ok_or_else(|| ControlError::NoVersion(app.clone(), version.clone()))?;
        Ok(version_info(app, row, &shares))
    }

    /// Deletes a version that is not live.
    pub async fn delete_version(
        self: &Arc<Self>,
        tenant: &Tenant,
        app: &AppName,
        version: &Version,
    ) -> Result<(), ControlError> {
        let (control, tenant, app, version) = (Arc::clone(self), tenant.clone(), app.clone(), version.clone());
        Self::to_the_end(async move {
            control.registry.delete_version(&tenant, &app, &version).await?;
            control.nudged.notify_one();
            control.count().await;
            Ok(())
        })
        .await
    }

    /// Deletes an app with everything that belongs to it. Requests that it is answering now are answered. One that has data
    /// is only deleted when `fate` says what becomes of it. False when calls still use the data after a while: it goes when they
    /// have ended, and until then no app of this name comes about.
    pub async fn delete_app(
        self: &Arc<Self>,
        tenant: &Tenant,
        app: &AppName,
        fate: Option<DataFate>,
    ) -> Result<bool, ControlError> {
        let (control, tenant, app) = (Arc::clone(self), tenant.clone(), app.clone());
        Self::to_the_end(async move {
            // A deploy that runs migrations would make the database anew.
            let turn = control.turns.of(&tenant, &app).await;
            let changes = control.changes.lock().await;
            control.registry.app(&tenant, &app).await?;
            control.require_fate(&tenant, &app, fate).await?;
            control.registry.delete_app(&tenant, &app, fate.unwrap_or(DataFate::Keep)).await?;
            control.live.remove(&app);
            control.builder.forget_app(&app);
            control.follow_shares(&tenant, &app).await;
            control.metrics.remove_app(&tenant, &app);
            if let Err(error) = control.events.forget_app(&tenant, &app).await {
                tracing::warn!(%app, %error, "the schedules of a deleted app are forgotten later");
            }
            control.count().await;
            drop((changes, turn));
            // The app is gone already. The reconciler removes what is left of its log, also what requests that are still
            // being answered write from now on.
            if let Err(error) = control.logs.remove_app(&tenant, &app).await {
                tracing::warn!(%app, %error, "the log of a deleted app is removed later");
            }
            // The same for its data.
            let deadline = Instant::now() + DELETION_PATIENCE;
            while control.builder.is_used(&tenant, &app) && Instant::now() < deadline {
                tokio::time::sleep(DELETION_LOOK).await;
            }
            let finished = control.finish_deletion(&tenant, &app).await.unwrap_or_else(|error| {
                tracing::warn!(%app, %error, "the stores of a deleted app are taken away later");
                false
            });
            control.nudged.notify_one();
            Ok(finished)
        })
        .await
    }

    /// Brings the gauges up to date. A failure only leaves them as they were.
    pub(crate) async fn count(&self) {
        if let Ok((apps, versions)) = self.registry.count().await {
            self.metrics.apps().set(i64::try_from(apps).unwrap_or(i64::MAX));
            self.metrics.versions().set(i64::try_from(versions).unwrap_or(i64::MAX));
        }
    }

    // Tokens.

    pub fn tokens(&self, tenant: &Tenant) -> Vec<TokenInfo> {
        self.tokens
            .of(tenant)
            .into_iter()
            .map(|row| TokenInfo { id: row.id, name: row.name, created_ms: row.created_ms })
            .collect()
    }

    /// Creates a token; the answer is the only place where it is ever shown.
    pub async fn create_token(self: &Arc<Self>, tenant: &Tenant, name: String) -> Result<CreatedToken, ControlError> {
        let name = name.trim().to_owned();
        if name.is_empty() || name.chars().count() > MAX_NAME_CHARS || name.chars().any(char::is_control) {
            let detail = format!("a token's name has 1 to {MAX_NAME_CHARS} characters and says who uses it");
            return Err(ControlError::invalid(detail));
        }
        let (control, tenant) = (Arc::clone(self), tenant.clone());
        Self::to_the_end(async move {
            let _changes = control.changes.lock().await;
            let secret = Secret::generate()?;
            let row = tokens::row(&secret, tenant, name, &control.config.clock)?;
            let info = TokenInfo { id: row.id.clone(), name: row.name.clone(), created_ms: row.created_ms };
            control.registry.add_token(row.clone(), MAX_TOKENS).await?;
            control.tokens.add(row);
            Ok(CreatedToken { info, token: secret.reveal().to_owned() })
        })
        .await
    }

    /// Deletes a token, at once and for good. The last one of a tenant is kept.
    pub async fn delete_token(self: &Arc<Self>, tenant: &Tenant, id: String) -> Result<(), ControlError> {
        let (control, tenant) = (Arc::clone(self), tenant.clone());
        Self::to_the_end(async move {
            let _changes = control.changes.lock().await;
            let known = control.tokens.of(&tenant);
            // The file goes before the row, so that a crash between the two cannot bring a deleted token back; but not
            // for a token that the registry will keep.
            if known.len() > 1
                && let Some(row) = known.iter().find(|row| row.id == id)
            {
                tokens::remove_admin_file(&control.admin_token, row)
                    .map_err(|error| StoreError::io(&control.admin_token, error))?;
            }
            control.registry.delete_token(&tenant, id.clone()).await?;
            control.tokens.remove(&id);
            Ok(())
        })
        .await
    }
}

/// The keys of secrets. A missing file is made where nothing is lost with it, and the operator did not name one that should be
/// there.
async fn open_vault(config: &ControlConfig, dir: &DataDir, registry: &Registry) -> Result<Vault, OpenError> {
    let path = config.secrets_key.clone().unwrap_or_else(|| dir.secrets_key());
    match Vault::load(&path) {
        Err(VaultError::Missing { path }) => match registry.count_secrets().await? {
            0 if config.secrets_key.is_none() => Ok(Vault::create(&path)?),
            0 => Err(OpenError::NoKey { path }),
            secrets => Err(OpenError::KeyLost { path, secrets }),
        },
        loaded => Ok(loaded?),
    }
}

/// A version as the API shows it, with its share of the live traffic.
pub(crate) fn version_info(app: &AppName, row: VersionRow, shares: &[Share]) -> VersionInfo {
    let weight = shares.iter().find(|share| share.version == row.version).map_or(0, |share| share.weight);
    VersionInfo {
        app: app.clone(),
        version: row.version,
        digest: row.digest,
        published_ms: row.published_ms,
        size: row.size,
        weight,
    }
}
