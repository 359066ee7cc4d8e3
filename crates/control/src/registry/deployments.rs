//! Deployments: which versions are live, and the history.

use std::collections::HashMap;

use minnow_model::{
    AppName, BundleConfig, Deployment, Digest, Share, Tenant, Version,
    deployment::{Cause, DeployError, shares_after},
};
use minnow_store::rusqlite::{Connection, Row, params};

use super::{
    Registry, collect,
    history::{Entry, rollback_target},
    is_published, json, parse, require_app, to_json,
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
}

fn cause_text(cause: Cause) -> &'static str {
    match cause {
        Cause::Deploy => "deploy",
        Cause::Rollback => "rollback",
    }
}

fn read_deployment(app: &AppName, row: &Row<'_>) -> Result<Deployment, ControlError> {
    let cause = match row.get_ref(2)?.as_str() {
        Ok("deploy") => Cause::Deploy,
        Ok("rollback") => Cause::Rollback,
        other => return Err(ControlError::Corrupt(format!("deployment cause {other:?}"))),
    };
    let app = app.clone();
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

/// The configs of the versions that get traffic under `shares`.
fn live_rows(
    connection: &Connection,
    tenant: &Tenant,
    app: &AppName,
    shares: &[Share],
) -> Result<Vec<LiveRow>, ControlError> {
    shares
        .iter()
        .map(|share| {
            let config = config(connection, tenant, app, &share.version)?
                .ok_or_else(|| ControlError::Corrupt(format!("{app}@{} is live and not published", share.version)))?;
            Ok(LiveRow { tenant: tenant.clone(), weight: share.weight, config })
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

/// The shares that a deploy would give.
fn planned(
    connection: &Connection,
    tenant: &Tenant,
    app: &AppName,
    version: Option<&Version>,
    weight: u8,
) -> Result<(Option<Deployment>, Vec<Share>), ControlError> {
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
    Ok((live, shares))
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
    /// The versions that a deploy with these arguments would make live. Nothing is changed.
    pub async fn plan_deploy(
        &self,
        tenant: &Tenant,
        app: &AppName,
        version: Option<Version>,
        weight: u8,
    ) -> Result<Vec<LiveRow>, ControlError> {
        let (tenant, app) = (tenant.clone(), app.clone());
        self.database
            .read(move |connection| {
                let (_, shares) = planned(connection, &tenant, &app, version.as_ref(), weight)?;
                live_rows(connection, &tenant, &app, &shares)
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
                let (live, shares) = planned(connection, &tenant, &app, version.as_ref(), weight)?;
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
        self.database
            .read(move |connection| {
                let shares = live(connection, &tenant, &app)?.map(|live| live.shares).unwrap_or_default();
                live_rows(connection, &tenant, &app, &shares)
            })
            .await
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
