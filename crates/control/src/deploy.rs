//! Deployments: sending traffic to versions, and making sure that their code is compiled first.

use std::{collections::BTreeMap, sync::Arc};

use futures::StreamExt as _;
use minnow_model::{
    AppName, BundleConfig, BundledCode, BundledFunction, BundledMigration, Code, Deployment, Digest, FunctionName,
    Level, LogLine, LogSource, Problem, StoreId, Tenant, Version, bundle::MAX_MIGRATION_BYTES,
};
use minnow_runtime::{FunctionCode, FunctionSpec, GuestKind, LiveApp};

use minnow_store::{Blobs, sql::Migration};

use crate::{
    Control, ControlError,
    environment::{Lack, hidden_by, lacks, require_secrets},
    publish::{blocking, read_blob},
    registry::{LiveRow, Planned},
};

impl Control {
    /// Sends `weight` percent of an app's traffic to `version`; the newest published one for `None`.
    pub async fn deploy(
        self: &Arc<Self>,
        tenant: &Tenant,
        app: &AppName,
        version: Option<Version>,
        weight: u8,
    ) -> Result<Deployment, ControlError> {
        let (control, tenant, app) = (Arc::clone(self), tenant.clone(), app.clone());
        Self::to_the_end(async move {
            let planned = control.registry.plan_deploy(&tenant, &app, version.clone(), weight).await?;
            control.compile_rows(&planned.rows).await?;
            // Migrations may take minutes: they hold up deploys and the deletion of this app, and nothing else.
            let _turn = control.turns.of(&tenant, &app).await;
            // Again, as the app may be another one by now.
            let planned = control.registry.plan_deploy(&tenant, &app, version, weight).await?;
            let version = planned.version.clone();
            let deployed = control.deploy_planned(&tenant, &app, planned, weight).await;
            if let Err(error) = &deployed {
                let message = format!("{version} was not deployed: {}", in_one_line(error));
                control.note(&tenant, &app, Level::Error, control.config.clock.now_ms(), message);
            }
            deployed
        })
        .await
    }

    /// Runs the migrations and sends the traffic. The caller has the app's turn.
    async fn deploy_planned(
        self: &Arc<Self>,
        tenant: &Tenant,
        app: &AppName,
        planned: Planned,
        weight: u8,
    ) -> Result<Deployment, ControlError> {
        let Planned { version, rows } = planned;
        self.require_secrets(&rows)?;
        let row = rows.into_iter().find(|row| row.config.version == version);
        if let Some(row) = &row {
            self.check_shares(row)?;
            self.migrate(row).await?;
        }
        // Not refused: a variable that becomes a secret is both, until the version with the grant is live.
        let hidden = row
            .iter()
            .flat_map(|row| row.settings.variables.keys().flat_map(|name| hidden_by(std::slice::from_ref(row), name)));
        let mut warnings: Vec<String> = hidden.collect();
        if self.config.lenient {
            warnings.extend(row.iter().flat_map(|row| lacks(&self.vault, std::slice::from_ref(row))).map(in_dev));
            warnings.extend(row.iter().flat_map(missing_shares));
        }
        let _changes = self.changes.lock().await;
        let now_ms = self.config.clock.now_ms();
        let prepare = self.prepare_new(app, row.map(|row| row.config));
        // What goes live follows its topics before it does: nothing that is published from then on is missed.
        let planned = self.registry.plan_deploy(tenant, app, Some(version.clone()), weight).await?;
        if let Err(error) = self.prepare_events(tenant, app, &planned.rows).await {
            self.restore_events(tenant, app).await;
            return Err(error);
        }
        let deployed = self.registry.deploy(tenant, app, Some(version), weight, now_ms, prepare).await;
        if deployed.is_err() {
            self.restore_events(tenant, app).await;
        }
        let (changed, live) = deployed?;
        if changed.changed {
            self.begin_tallies(tenant, &changed.deployment);
        }
        self.go_live(app, live);
        if changed.changed {
            self.log_deployment(tenant, &changed.deployment);
            for warning in warnings {
                self.note(tenant, app, Level::Warn, now_ms, warning);
            }
        }
        self.follow_shares(tenant, app).await;
        Ok(changed.deployment)
    }

    /// Refuses versions whose functions or webhooks would lack secrets, unless the node is a lenient one.
    fn require_secrets(&self, rows: &[LiveRow]) -> Result<(), ControlError> {
        if self.config.lenient { Ok(()) } else { require_secrets(&self.vault, rows) }
    }

    /// Refuses a version that is granted what another app does not share, unless the node is a lenient one.
    fn check_shares(&self, row: &LiveRow) -> Result<(), ControlError> {
        if self.config.lenient { Ok(()) } else { check_shares(row) }
    }

    /// Goes back to the deployment before; [`crate::registry::history`] says which that is.
    pub async fn rollback(self: &Arc<Self>, tenant: &Tenant, app: &AppName) -> Result<Deployment, ControlError> {
        let (control, tenant, app) = (Arc::clone(self), tenant.clone(), app.clone());
        Self::to_the_end(async move {
            let planned = control.registry.plan_rollback(&tenant, &app).await?;
            control.compile_rows(&planned).await?;
            let _changes = control.changes.lock().await;
            let now_ms = control.config.clock.now_ms();
            let planned = control.registry.plan_rollback(&tenant, &app).await?;
            if let Err(error) = control.prepare_events(&tenant, &app, &planned).await {
                control.restore_events(&tenant, &app).await;
                return Err(error);
            }
            let rolled_back = control.registry.rollback(&tenant, &app, now_ms, control.prepare(&app)).await;
            if rolled_back.is_err() {
                control.restore_events(&tenant, &app).await;
            }
            let (deployment, live) = rolled_back?;
            control.begin_tallies(&tenant, &deployment);
            control.go_live(&app, live);
            control.log_deployment(&tenant, &deployment);
            control.follow_shares(&tenant, &app).await;
            Ok(deployment)
        })
        .await
    }

    /// [`Control::build`] for a deployment, which is refused where a function would lack secrets.
    fn prepare(
        &self,
        app: &AppName,
    ) -> impl FnOnce(Vec<LiveRow>) -> Result<Option<Arc<LiveApp>>, ControlError> + Send + 'static + use<> {
        let (vault, build, lenient) = (Arc::clone(&self.vault), self.build(app), self.config.lenient);
        move |rows| {
            if !lenient {
                require_secrets(&vault, &rows)?;
            }
            build(rows)
        }
    }

    /// [`Control::prepare`] for a deploy of a version whose migrations have run: what was checked of it before is checked again,
    /// now that nothing else changes.
    fn prepare_new(
        &self,
        app: &AppName,
        migrated: Option<BundleConfig>,
    ) -> impl FnOnce(Vec<LiveRow>) -> Result<Option<Arc<LiveApp>>, ControlError> + Send + 'static + use<> {
        let (prepare, lenient) = (self.prepare(app), self.config.lenient);
        move |rows| {
            let version = migrated.as_ref().map(|config| &config.version);
            if let Some(row) = rows.iter().find(|row| Some(&row.config.version) == version) {
                if !lenient {
                    check_shares(row)?;
                }
                if Some(&row.config) != migrated.as_ref() {
                    let BundleConfig { app, version, .. } = &row.config;
                    return Err(ControlError::Conflict(format!(
                        "{app}@{version} was deleted and published with other content meanwhile; deploy it again"
                    )));
                }
            }
            prepare(rows)
        }
    }

    /// What makes the live app, inside the transaction that changes it: whatever can fail has to fail before the commit. The
    /// caller holds the lock for changes.
    pub(crate) fn build(
        &self,
        app: &AppName,
    ) -> impl FnOnce(Vec<LiveRow>) -> Result<Option<Arc<LiveApp>>, ControlError> + Send + 'static + use<> {
        let (builder, running) = (Arc::clone(&self.builder), self.live.load().get(app).map(Arc::clone));
        move |rows| builder.app(rows, running.as_deref())
    }

    /// Puts a deployment that is committed into the snapshot, which cannot fail. The caller holds the lock for changes.
    pub(crate) fn go_live(&self, app: &AppName, live: Option<Arc<LiveApp>>) {
        match live {
            Some(live) => self.live.set(live),
            None => self.live.remove(app),
        }
    }

    /// Has the metrics count anew for a deployment that is committed. Before it goes live, or its first requests would not
    /// count. The caller holds the lock for changes.
    pub(crate) fn begin_tallies(&self, tenant: &Tenant, deployment: &Deployment) {
        let live: Vec<Version> = deployment.shares.iter().map(|share| share.version.clone()).collect();
        self.metrics.deployed(tenant, &deployment.app, &live);
    }

    /// Notes a deployment that has gone live in the app's log.
    fn log_deployment(&self, tenant: &Tenant, deployment: &Deployment) {
        let shares: Vec<_> =
            deployment.shares.iter().map(|share| format!("{} {} %", share.version, share.weight)).collect();
        let message = format!("deployment {} is live: {}", deployment.revision, shares.join(", "));
        self.note(tenant, &deployment.app, Level::Info, deployment.time_ms, message);
    }

    /// Writes a line of the node's own into an app's log.
    pub(crate) fn note(&self, tenant: &Tenant, app: &AppName, level: Level, time_ms: u64, message: String) {
        self.logs.write(LogLine {
            time_ms,
            level,
            source: LogSource::Node,
            tenant: tenant.clone(),
            app: app.clone(),
            version: None,
            function: None,
            request_id: None,
            message,
        });
    }

    /// Runs the migrations of a version's SQL stores that have not run yet, store by store in the order of their names. Each
    /// is a transaction of its own: after one that fails, those before it stay, and the next deploy goes on from there.
    async fn migrate(&self, row: &LiveRow) -> Result<(), ControlError> {
        let app = &row.config.app;
        for (name, store) in row.config.sql.iter().filter(|(_, store)| !store.migrations.is_empty()) {
            let (blobs, listed) = (Arc::clone(&self.blobs), store.migrations.clone());
            let migrations = blocking(move || listed.into_iter().map(|file| read_migration(&blobs, file)).collect());
            let id = StoreId { tenant: row.tenant.clone(), app: app.clone(), name: name.clone() };
            let applied = self.runtime.data().sql.migrate(&id, migrations.await?).await;
            let applied = applied.map_err(|error| ControlError::Migration { store: name.clone(), error })?;
            for file in applied {
                let message = format!("migration {file} of the sql store `{name}` has run");
                self.note(&row.tenant, app, Level::Info, self.config.clock.now_ms(), message);
            }
        }
        Ok(())
    }

    /// Builds the live apps anew that are granted stores of `owner`, whose shares may have changed. The caller holds the lock
    /// for changes. What fails is in the node's log: the change itself is done.
    pub(crate) async fn follow_shares(&self, tenant: &Tenant, owner: &AppName) {
        for app in self.builder.granted_of(owner) {
            if let Err(error) = self.rebuild(tenant, &app).await {
                tracing::error!(%app, %owner, %error, "what the app may use of another app's stores is not up to date");
            }
        }
    }

    /// Builds a live app anew from what the registry says now. The caller holds the lock for changes.
    pub(crate) async fn rebuild(&self, tenant: &Tenant, app: &AppName) -> Result<(), ControlError> {
        let rows = self.registry.live(tenant, app).await?;
        if self.live_app(tenant, app).is_none() || rows.is_empty() {
            return Ok(());
        }
        for missing in rows.iter().flat_map(missing_shares) {
            self.note(tenant, app, Level::Warn, self.config.clock.now_ms(), missing);
        }
        let live = self.build(app)(rows)?;
        self.go_live(app, live);
        Ok(())
    }

    /// Makes sure that the code of these versions is compiled for this engine: it is, unless the node was upgraded since
    /// they were published.
    async fn compile_rows(&self, rows: &[LiveRow]) -> Result<(), ControlError> {
        self.compile_all(wasm_of(rows.iter().flat_map(|row| &row.config.functions))).await
    }

    /// Refuses what starts a function with a request where its code takes messages only. The code is compiled.
    pub(crate) fn check_kinds(&self, config: &BundleConfig) -> Result<(), ControlError> {
        let mut errors = Vec::new();
        for (name, function) in &config.functions {
            let kind = self.builder.kind(&function.code.digest());
            if kind.is_none_or(GuestKind::takes_requests) {
                continue;
            }
            let starts = [("routes", !function.routes.is_empty()), ("schedules", !function.schedules.is_empty())];
            errors.extend(starts.into_iter().filter(|(_, is_there)| *is_there).map(|(key, _)| {
                format!(
                    "function `{name}`: it has `{key}` in minnow.toml, and its component takes messages only; export \
                     `wasi:http/incoming-handler@0.2` too, or take `{key}` out of [functions.{name}]"
                )
            }));
        }
        if errors.is_empty() { Ok(()) } else { Err(ControlError::Compile { code: Code::CompileFailed, errors }) }
    }

    /// Loads each JavaScript function of the version once, in a sandbox like the one that it will run in; reports every
    /// function that cannot be loaded.
    pub(crate) async fn check_js(&self, tenant: &Tenant, config: &BundleConfig) -> Result<(), ControlError> {
        let settings = self.registry.settings(tenant, &config.app).await?;
        let specs: Vec<FunctionSpec> = self.builder.specs(tenant, config, &BTreeMap::new(), &settings)?;
        let specs = specs.into_iter().filter(|spec| matches!(spec.code, FunctionCode::Js { .. }));
        let checks = specs.map(|spec| async move {
            let (name, secrets) = (spec.function.clone(), spec.secrets.clone());
            (name, secrets, self.runtime.check_js(spec).await)
        });
        let checked: Vec<_> = futures::stream::iter(checks).buffered(JS_CHECKS).collect().await;
        let mut refused: Option<(Code, Vec<String>)> = None;
        for (name, secrets, checked) in checked {
            if let Err(failure) = checked {
                let all = refused.get_or_insert((failure.publish_code(), Vec::new()));
                // The module may say what it found.
                all.1.push(secrets.mask(format!("function `{name}`: {failure}")));
            }
        }
        match refused {
            Some((code, errors)) => Err(ControlError::Compile { code, errors }),
            None => Ok(()),
        }
    }

    /// Compiles each piece of code that is not compiled yet; reports every piece that does not compile, by one of the
    /// functions that use it.
    pub(crate) async fn compile_all(&self, code: BTreeMap<Digest, FunctionName>) -> Result<(), ControlError> {
        let compiles = code.into_iter().map(|(digest, name)| async move {
            let result = self.compile(digest).await;
            (name, result)
        });
        let mut refused: Option<(Code, Vec<String>)> = None;
        for (name, result) in futures::future::join_all(compiles).await {
            match result {
                Ok(_) => {}
                Err(ControlError::Compile { code, errors }) => {
                    let all = refused.get_or_insert((code, Vec::new()));
                    all.1.extend(errors.into_iter().map(|error| format!("function `{name}`: {error}")));
                }
                Err(error) => return Err(error),
            }
        }
        match refused {
            Some((code, errors)) => Err(ControlError::Compile { code, errors }),
            None => Ok(()),
        }
    }

    /// Compiles one piece of code, if it is not compiled for this engine. The runtime bounds how many compile at once.
    pub(crate) async fn compile(&self, digest: Digest) -> Result<GuestKind, ControlError> {
        if let (Some(kind), Some(_)) = (self.builder.kind(&digest), self.runtime.compiled_kind(&digest)) {
            return Ok(kind);
        }
        self.registry.begin_compile(digest, self.config.clock.now_ms()).await?;
        let kind = self.runtime.compile(&self.blobs.path(&digest), digest).await;
        let kind =
            kind.map_err(|error| ControlError::Compile { code: error.code(), errors: vec![error.to_string()] })?;
        self.registry.set_kind(digest, kind).await?;
        self.builder.set_kind(digest, kind);
        Ok(kind)
    }
}

/// What went wrong and each mistake, for a line of the app's log. What is the node's own is in the node's log.
fn in_one_line(error: &ControlError) -> String {
    let Problem { title, detail, errors, .. } = error.problem();
    std::iter::once(detail.unwrap_or(title)).chain(errors).collect::<Vec<_>>().join("; ")
}

/// What a function lacks, for whoever writes it: see [`crate::ControlConfig::lenient`].
fn in_dev(lack: Lack) -> String {
    format!(
        "{lack}, or add a line `{}=…` to .dev.vars; until then {} answers `secret_missing`",
        lack.secret(),
        lack.who()
    )
}

/// Reads a migration, whose size and encoding its publish has checked. Blocking.
fn read_migration(blobs: &Blobs, file: BundledMigration) -> Result<Migration, ControlError> {
    let content = read_blob(blobs, &file.digest, usize::try_from(MAX_MIGRATION_BYTES).unwrap_or(usize::MAX))?;
    let sql = String::from_utf8(content)
        .map_err(|_| ControlError::Corrupt(format!("the migration {} ({}) is not UTF-8", file.name, file.digest)))?;
    Ok(Migration { name: file.name, sql })
}

/// Refuses a version that is granted what another app does not share.
fn check_shares(row: &LiveRow) -> Result<(), ControlError> {
    let errors: Vec<String> = missing_shares(row).collect();
    if errors.is_empty() {
        return Ok(());
    }
    let BundleConfig { app, version, .. } = &row.config;
    let detail = format!("{app}@{version} is granted stores that other apps do not share with `{app}`");
    Err(ControlError::Invalid { detail, errors })
}

/// What the version is granted of other apps and does not get, a sentence each that names both sides.
pub(crate) fn missing_shares(row: &LiveRow) -> impl Iterator<Item = String> {
    let missing = row
        .foreign_grants()
        .filter(|(_, kind, owner, grant)| !row.shared.contains_key(&(*kind, (*owner).clone(), grant.store.clone())));
    let app = &row.config.app;
    missing.map(move |(function, kind, owner, grant)| {
        format!(
            "function `{function}` is granted the {kind} store `{}`, which no live version of `{owner}` shares: add \
             `share = [\"{app}\"]` to `[{kind}.{}]` of `{owner}` and deploy that, or take the grant out of \
             `[functions.{function}]` of `{app}`",
            grant.name(),
            grant.store
        )
    })
}

/// JavaScript functions that a publish loads at once, to check them. Each is a process.
const JS_CHECKS: usize = 2;

/// The WebAssembly among the code of these functions, each with one that uses it.
pub(crate) fn wasm_of<'a>(
    functions: impl Iterator<Item = (&'a FunctionName, &'a BundledFunction)>,
) -> BTreeMap<Digest, FunctionName> {
    let wasm = functions.filter_map(|(name, function)| match function.code {
        BundledCode::Wasm(digest) => Some((digest, name.clone())),
        BundledCode::Js { .. } => None,
    });
    wasm.collect()
}
