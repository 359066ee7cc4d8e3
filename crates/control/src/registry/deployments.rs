//! Deployments: which versions are live, and the history.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use minnow_model::{
    AppName, BundleConfig, Deployment, Digest, FunctionName, Share, StoreGrant, StoreKind, StoreName, Tenant,
    VariableName, Version,
    deployment::{Cause, DeployError, shares_after},
};
use minnow_store::{
    Sealed,
    rusqlite::{Connection, Row, params},
};

use super::{
    Registry, collect,
    history::{Entry, rollback_target},
    is_published, json, parse, require_app, secrets, to_json, variables,
};
use crate::ControlError;

/// How many deployments of an app are kept: years of releases, and a bound for a script that deploys every minute.
const KEPT_REVISIONS: u64 = 1000;

/// What a deploy or rollback came to.
#[derive(Debug, Clone, PartialEq)]
pub struct Changed {
    pub deployment: Deployment,
    /// False when the deployment that was asked for was live already.
    pub changed: bool,
}

/// One version of a live deployment, as [`Registry::each_live`] gives it.
#[derive(Debug)]
pub struct LiveRow {
    pub tenant: Tenant,
    /// Percent of the traffic.
    pub weight: u8,
    pub config: BundleConfig,
    /// What other apps share of what the version is granted.
    pub shared: BTreeMap<SharedStore, u64>,
    /// The app's, the same for all of its versions.
    pub settings: Arc<Settings>,
}

/// What is set of an app besides its versions.
#[derive(Debug, Default)]
pub struct Settings {
    pub variables: BTreeMap<VariableName, String>,
    pub secrets: BTreeMap<VariableName, Sealed>,
}

/// What a deploy would do.
#[derive(Debug)]
pub struct Planned {
    /// The version that is deployed.
    pub version: Version,
    /// All that would be live.
    pub rows: Vec<LiveRow>,
}

/// A store of another app.
pub type SharedStore = (StoreKind, AppName, StoreName);

impl LiveRow {
    /// The stores of other apps that the version's functions are granted, each with the function.
    pub fn foreign_grants(&self) -> impl Iterator<Item = (&FunctionName, StoreKind, &AppName, &StoreGrant)> {
        foreign_grants(&self.config)
    }
}

fn foreign_grants(config: &BundleConfig) -> impl Iterator<Item = (&FunctionName, StoreKind, &AppName, &StoreGrant)> {
    config.functions.iter().flat_map(|(name, function)| {
        let of_kind = move |kind| {
            let grants = function.grants.stores(kind);
            grants.filter_map(move |grant| Some((name, kind, grant.app.as_ref()?, grant)))
        };
        StoreKind::ALL.into_iter().flat_map(of_kind)
    })
}

/// What the live versions of other apps share with this one, of what it is granted, with the most bytes of each bucket and
/// volume (0 for other kinds). While an app has several, one that shares
/// a store is enough: a canary neither opens nor shuts it by chance.
fn shared(
    connection: &Connection,
    tenant: &Tenant,
    version: &BundleConfig,
) -> Result<BTreeMap<SharedStore, u64>, ControlError> {
    let wanted: BTreeSet<SharedStore> =
        foreign_grants(version).map(|(_, kind, app, grant)| (kind, app.clone(), grant.store.clone())).collect();
    let owners: BTreeSet<&AppName> = wanted.iter().map(|(_, app, _)| app).collect();
    let mut shared = BTreeMap::new();
    for owner in owners {
        for share in live(connection, tenant, owner)?.map(|live| live.shares).unwrap_or_default() {
            let Some(config) = config(connection, tenant, owner, &share.version)? else { continue };
            let is_shared = |(kind, _, store): &&SharedStore| {
                config.share(*kind, store).is_some_and(|apps| apps.contains(&version.app))
            };
            for found in wanted.iter().filter(|(_, app, _)| app == owner).filter(is_shared) {
                let bytes = config.size_bytes(found.0, &found.2).unwrap_or_default();
                // While an app has two versions, the larger bound counts for others.
                let most = shared.entry(found.clone()).or_default();
                *most = bytes.max(*most);
            }
        }
    }
    Ok(shared)
}

/// Under which key of a version's config its stores of a kind are. `files` has its static files, and a function's topics are those
/// that it follows.
fn key_of(kind: StoreKind) -> &'static str {
    match kind {
        StoreKind::Files => "volumes",
        StoreKind::Topic => "topics",
        kind => kind.as_str(),
    }
}

pub(super) fn cause_text(cause: Cause) -> &'static str {
    match cause {
        Cause::Deploy => "deploy",
        Cause::Rollback => "rollback",
    }
}

pub(super) fn read_cause(row: &Row<'_>, column: usize) -> Result<Cause, ControlError> {
    match row.get_ref(column)?.as_str() {
        Ok("deploy") => Ok(Cause::Deploy),
        Ok("rollback") => Ok(Cause::Rollback),
        other => Err(ControlError::Corrupt(format!("deployment cause {other:?}"))),
    }
}

fn read_deployment(app: &AppName, row: &Row<'_>) -> Result<Deployment, ControlError> {
    let (cause, app) = (read_cause(row, 2)?, app.clone());
    Ok(Deployment { app, revision: row.get(0)?, time_ms: row.get(1)?, cause, shares: json(row, 3)? })
}

fn newest(
    connection: &Connection,
    tenant: &Tenant,
    app: &AppName,
    limit: u64,
) -> Result<Vec<Deployment>, ControlError> {
    let sql = "SELECT revision, time_ms, cause, shares FROM deployment WHERE tenant = ?1 AND app = ?2
               ORDER BY revision DESC LIMIT ?3";
    collect(connection, sql, params![tenant.as_str(), app.as_str(), limit], |row| read_deployment(app, row))
}

/// The live deployment of an app.
pub(super) fn live(
    connection: &Connection,
    tenant: &Tenant,
    app: &AppName,
) -> Result<Option<Deployment>, ControlError> {
    Ok(newest(connection, tenant, app, 1)?.into_iter().next())
}

fn config(
    connection: &Connection,
    tenant: &Tenant,
    app: &AppName,
    version: &Version,
) -> Result<Option<BundleConfig>, ControlError> {
    let sql = "SELECT config FROM version WHERE tenant = ?1 AND app = ?2 AND version = ?3";
    let params = params![tenant.as_str(), app.as_str(), version.to_string()];
    Ok(collect(connection, sql, params, |row| json(row, 0))?.into_iter().next())
}

fn settings(connection: &Connection, tenant: &Tenant, app: &AppName) -> Result<Settings, ControlError> {
    let variables = variables::values(connection, tenant, app)?;
    Ok(Settings { variables, secrets: secrets::all(connection, tenant, app)? })
}

/// The versions of an app that get traffic; empty when none does.
pub(super) fn rows(connection: &Connection, tenant: &Tenant, app: &AppName) -> Result<Vec<LiveRow>, ControlError> {
    let shares = live(connection, tenant, app)?.map(|live| live.shares).unwrap_or_default();
    live_rows(connection, tenant, app, &shares)
}

/// The configs of the versions that get traffic under `shares`.
fn live_rows(
    connection: &Connection,
    tenant: &Tenant,
    app: &AppName,
    shares: &[Share],
) -> Result<Vec<LiveRow>, ControlError> {
    let settings = Arc::new(settings(connection, tenant, app)?);
    shares
        .iter()
        .map(|share| {
            let config = config(connection, tenant, app, &share.version)?
                .ok_or_else(|| ControlError::Corrupt(format!("{app}@{} is live and not published", share.version)))?;
            let shared = shared(connection, tenant, &config)?;
            let settings = Arc::clone(&settings);
            Ok(LiveRow { tenant: tenant.clone(), weight: share.weight, config, shared, settings })
        })
        .collect()
}

/// What a rollback would bring back.
fn target(connection: &Connection, tenant: &Tenant, app: &AppName) -> Result<Entry, ControlError> {
    require_app(connection, tenant, app)?;
    let sql = "SELECT revision, restores, shares, digests FROM deployment WHERE tenant = ?1 AND app = ?2
               ORDER BY revision DESC";
    let history = collect(connection, sql, [tenant.as_str(), app.as_str()], |row| {
        Ok(Entry { revision: row.get(0)?, restores: row.get(1)?, shares: json(row, 2)?, digests: json(row, 3)? })
    })?;
    if history.is_empty() {
        return Err(ControlError::NothingLive(app.clone()));
    }
    let sql = "SELECT version, digest FROM version WHERE tenant = ?1 AND app = ?2";
    let published: HashMap<Version, Digest> =
        collect(connection, sql, [tenant.as_str(), app.as_str()], |row| Ok((parse(row, 0)?, parse(row, 1)?)))?
            .into_iter()
            .collect();
    let is_published = |entry: &Entry| {
        entry.shares.iter().enumerate().all(|(index, share)| {
            let then = entry.digests.get(index);
            published.get(&share.version).is_some_and(|now| then.is_none_or(|then| then == now))
        })
    };
    rollback_target(&history, is_published).cloned().ok_or(ControlError::Deploy(DeployError::NothingBefore))
}

/// The digests of the versions in `shares`, which are published.
fn digests(
    connection: &Connection,
    tenant: &Tenant,
    app: &AppName,
    shares: &[Share],
) -> Result<Vec<Digest>, ControlError> {
    let sql = "SELECT digest FROM version WHERE tenant = ?1 AND app = ?2 AND version = ?3";
    shares
        .iter()
        .map(|share| {
            let params = params![tenant.as_str(), app.as_str(), share.version.to_string()];
            let found = collect(connection, sql, params, |row| parse(row, 0))?.into_iter().next();
            found.ok_or_else(|| ControlError::Corrupt(format!("{app}@{} is live and not published", share.version)))
        })
        .collect()
}

/// What is live, the version that a deploy would send traffic to, and the shares that it would give.
fn planned(
    connection: &Connection,
    tenant: &Tenant,
    app: &AppName,
    version: Option<&Version>,
    weight: u8,
) -> Result<(Option<Deployment>, Version, Vec<Share>), ControlError> {
    require_app(connection, tenant, app)?;
    let version = match version {
        Some(version) if is_published(connection, tenant, app, version)? => version.clone(),
        Some(version) => return Err(ControlError::NoVersion(app.clone(), version.clone())),
        None => {
            let sql = "SELECT version FROM version WHERE tenant = ?1 AND app = ?2 ORDER BY sequence DESC LIMIT 1";
            let newest = collect(connection, sql, [tenant.as_str(), app.as_str()], |row| parse(row, 0))?;
            newest.into_iter().next().ok_or_else(|| ControlError::NothingPublished(app.clone()))?
        }
    };
    let live = live(connection, tenant, app)?;
    let current = live.as_ref().map_or(&[][..], |live| &live.shares);
    let shares = shares_after(current, &version, weight)?;
    Ok((live, version, shares))
}

fn insert(
    connection: &Connection,
    tenant: &Tenant,
    deployment: &Deployment,
    restores: Option<u64>,
) -> Result<(), ControlError> {
    let Deployment { app, revision, time_ms, cause, shares } = deployment;
    connection
        .prepare_cached(
            "INSERT INTO deployment (tenant, app, revision, time_ms, cause, restores, shares, digests)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )?
        .execute(params![
            tenant.as_str(),
            app.as_str(),
            revision,
            time_ms,
            cause_text(*cause),
            restores,
            to_json(shares)?,
            to_json(&digests(connection, tenant, app, shares)?)?
        ])?;
    connection
        .prepare_cached("DELETE FROM deployment WHERE tenant = ?1 AND app = ?2 AND revision <= ?3")?
        .execute(params![tenant.as_str(), app.as_str(), revision.saturating_sub(KEPT_REVISIONS)])?;
    Ok(())
}

impl Registry {
    /// The versions that a deploy with these arguments would make live, and which of them is deployed. Nothing is changed.
    pub async fn plan_deploy(
        &self,
        tenant: &Tenant,
        app: &AppName,
        version: Option<Version>,
        weight: u8,
    ) -> Result<Planned, ControlError> {
        let (tenant, app) = (tenant.clone(), app.clone());
        self.database
            .read(move |connection| {
                let (_, version, shares) = planned(connection, &tenant, &app, version.as_ref(), weight)?;
                Ok(Planned { version, rows: live_rows(connection, &tenant, &app, &shares)? })
            })
            .await
    }

    /// Sends `weight` percent of an app's traffic to `version` (the newest published one for `None`), in one
    /// transaction. What is live already is not recorded again. `prepare` is given the versions that get traffic; when
    /// it fails nothing is recorded.
    pub async fn deploy<T: Send + 'static>(
        &self,
        tenant: &Tenant,
        app: &AppName,
        version: Option<Version>,
        weight: u8,
        time_ms: u64,
        prepare: impl FnOnce(Vec<LiveRow>) -> Result<T, ControlError> + Send + 'static,
    ) -> Result<(Changed, T), ControlError> {
        let (tenant, app) = (tenant.clone(), app.clone());
        self.database
            .write(move |connection| {
                let (live, _, shares) = planned(connection, &tenant, &app, version.as_ref(), weight)?;
                let prepared = prepare(live_rows(connection, &tenant, &app, &shares)?)?;
                let changed = match live {
                    Some(deployment) if deployment.shares == shares => Changed { deployment, changed: false },
                    live => {
                        let revision = live.map_or(1, |live| live.revision + 1);
                        let deployment = Deployment { app, revision, time_ms, cause: Cause::Deploy, shares };
                        insert(connection, &tenant, &deployment, None)?;
                        Changed { deployment, changed: true }
                    }
                };
                Ok((changed, prepared))
            })
            .await
    }

    /// The versions that a rollback would make live. Nothing is changed.
    pub async fn plan_rollback(&self, tenant: &Tenant, app: &AppName) -> Result<Vec<LiveRow>, ControlError> {
        let (tenant, app) = (tenant.clone(), app.clone());
        self.database
            .read(move |connection| {
                let target = target(connection, &tenant, &app)?;
                live_rows(connection, &tenant, &app, &target.shares)
            })
            .await
    }

    /// Goes back to the deployment that [`rollback_target`] names, as a new revision, in one transaction. `prepare` is as
    /// in [`Registry::deploy`].
    pub async fn rollback<T: Send + 'static>(
        &self,
        tenant: &Tenant,
        app: &AppName,
        time_ms: u64,
        prepare: impl FnOnce(Vec<LiveRow>) -> Result<T, ControlError> + Send + 'static,
    ) -> Result<(Deployment, T), ControlError> {
        let (tenant, app) = (tenant.clone(), app.clone());
        self.database
            .write(move |connection| {
                let target = target(connection, &tenant, &app)?;
                let prepared = prepare(live_rows(connection, &tenant, &app, &target.shares)?)?;
                let revision = live(connection, &tenant, &app)?.map_or(1, |live| live.revision + 1);
                let deployment = Deployment { app, revision, time_ms, cause: Cause::Rollback, shares: target.shares };
                insert(connection, &tenant, &deployment, Some(target.revision))?;
                Ok((deployment, prepared))
            })
            .await
    }

    /// The newest `limit` deployments of an app, newest first.
    pub async fn history(&self, tenant: &Tenant, app: &AppName, limit: u64) -> Result<Vec<Deployment>, ControlError> {
        let (tenant, app) = (tenant.clone(), app.clone());
        self.database.read(move |connection| newest(connection, &tenant, &app, limit)).await
    }

    /// The versions of an app that get traffic; empty when none does.
    pub async fn live(&self, tenant: &Tenant, app: &AppName) -> Result<Vec<LiveRow>, ControlError> {
        let (tenant, app) = (tenant.clone(), app.clone());
        self.database.read(move |connection| rows(connection, &tenant, &app)).await
    }

    /// Whether a version of the app that gets traffic has this store.
    pub async fn declares(
        &self,
        tenant: &Tenant,
        app: &AppName,
        kind: StoreKind,
        store: &StoreName,
    ) -> Result<bool, ControlError> {
        let (tenant, app, path) = (tenant.clone(), app.clone(), format!("$.{}.\"{store}\"", key_of(kind)));
        self.database
            .read(move |connection| {
                require_app(connection, &tenant, &app)?;
                let sql = "SELECT json_type(config, ?4) IS NOT NULL FROM version
                           WHERE tenant = ?1 AND app = ?2 AND version = ?3";
                for share in live(connection, &tenant, &app)?.map(|live| live.shares).unwrap_or_default() {
                    let params = params![tenant.as_str(), app.as_str(), share.version.to_string(), path];
                    if collect(connection, sql, params, |row| Ok(row.get(0)?))?.contains(&true) {
                        return Ok(true);
                    }
                }
                Ok(false)
            })
            .await
    }

    /// What is set of an app; nothing of one that is not known.
    pub async fn settings(&self, tenant: &Tenant, app: &AppName) -> Result<Settings, ControlError> {
        let (tenant, app) = (tenant.clone(), app.clone());
        self.database.read(move |connection| settings(connection, &tenant, &app)).await
    }

    /// Calls `each` with the versions of every live deployment, one app at a time, so that a node with many of them never
    /// holds all configs at once. Answers what `each` has become.
    pub async fn each_live<S: Send + 'static>(
        &self,
        mut state: S,
        mut each: impl FnMut(&mut S, Vec<LiveRow>) -> Result<(), ControlError> + Send + 'static,
    ) -> Result<S, ControlError> {
        self.database
            .read(move |connection| {
                let mut statement = connection.prepare(
                    "SELECT a.tenant, a.name, d.shares FROM app a JOIN deployment d ON d.tenant = a.tenant AND d.app = a.name
                     AND d.revision = (SELECT max(revision) FROM deployment l WHERE l.tenant = a.tenant AND l.app = a.name)",
                )?;
                let mut rows = statement.query([])?;
                while let Some(row) = rows.next()? {
                    let (tenant, app, shares) = (parse(row, 0)?, parse(row, 1)?, json::<Vec<Share>>(row, 2)?);
                    each(&mut state, live_rows(connection, &tenant, &app, &shares)?)?;
                }
                Ok(state)
            })
            .await
    }
}
