//! Apps and their published versions.

use std::collections::HashSet;

use minnow_model::{AppName, BundleConfig, Deployment, Digest, Tenant, Version};
use minnow_store::rusqlite::{Connection, Row, params};
use serde::{Deserialize, Serialize};

use super::{Registry, collect, deployments, ensure_app, parse, require_app, to_json};
use crate::ControlError;

/// A published version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionRow {
    pub version: Version,
    /// Of the OCI manifest.
    pub digest: Digest,
    /// Milliseconds since the Unix epoch.
    pub published_ms: u64,
    /// All layers together, in bytes.
    pub size: u64,
}

/// A version that is checked and compiled and becomes visible with [`Registry::publish`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NewVersion {
    pub tenant: Tenant,
    pub config: BundleConfig,
    pub digest: Digest,
    /// Every blob that the version needs, each once.
    pub blobs: Vec<Digest>,
    pub published_ms: u64,
    pub size: u64,
}

/// What a publish came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    pub row: VersionRow,
    /// False when the same content had been published before.
    pub created: bool,
}

/// One app.
#[derive(Debug, Clone, PartialEq)]
pub struct AppRow {
    pub app: AppName,
    /// How many versions are published.
    pub versions: u64,
    pub deployment: Option<Deployment>,
}

const COLUMNS: &str = "version, digest, published_ms, size";

fn read_version(row: &Row<'_>) -> Result<VersionRow, ControlError> {
    Ok(VersionRow { version: parse(row, 0)?, digest: parse(row, 1)?, published_ms: row.get(2)?, size: row.get(3)? })
}

fn find(
    connection: &Connection,
    tenant: &Tenant,
    app: &AppName,
    version: &Version,
) -> Result<Option<VersionRow>, ControlError> {
    let sql = format!("SELECT {COLUMNS} FROM version WHERE tenant = ?1 AND app = ?2 AND version = ?3");
    let params = params![tenant.as_str(), app.as_str(), version.to_string()];
    Ok(collect(connection, &sql, params, read_version)?.into_iter().next())
}

impl Registry {
    /// Makes a version visible, in one transaction. The same content again changes nothing; other content is refused
    /// with [`ControlError::VersionExists`].
    pub async fn publish(&self, new: NewVersion) -> Result<Committed, ControlError> {
        self.database.write(move |connection| insert(connection, &new)).await
    }

    /// The version, if it is published.
    pub async fn version(
        &self,
        tenant: &Tenant,
        app: &AppName,
        version: &Version,
    ) -> Result<Option<VersionRow>, ControlError> {
        let (tenant, app, version) = (tenant.clone(), app.clone(), version.clone());
        self.database.read(move |connection| find(connection, &tenant, &app, &version)).await
    }

    /// The versions of an app, newest first.
    pub async fn versions(&self, tenant: &Tenant, app: &AppName) -> Result<Vec<VersionRow>, ControlError> {
        let (tenant, app) = (tenant.clone(), app.clone());
        self.database
            .read(move |connection| {
                require_app(connection, &tenant, &app)?;
                let sql =
                    format!("SELECT {COLUMNS} FROM version WHERE tenant = ?1 AND app = ?2 ORDER BY sequence DESC");
                collect(connection, &sql, [tenant.as_str(), app.as_str()], read_version)
            })
            .await
    }

    /// The tenant's apps, by name.
    pub async fn apps(&self, tenant: &Tenant) -> Result<Vec<AppRow>, ControlError> {
        let tenant = tenant.clone();
        self.database
            .read(move |connection| {
                let sql = "SELECT name, (SELECT count(*) FROM version v WHERE v.tenant = a.tenant AND v.app = a.name)
                           FROM app a WHERE tenant = ?1 ORDER BY name";
                let apps =
                    collect(connection, sql, [tenant.as_str()], |row| Ok((parse::<AppName>(row, 0)?, row.get(1)?)))?;
                apps.into_iter()
                    .map(|(app, versions)| {
                        let deployment = deployments::live(connection, &tenant, &app)?;
                        Ok(AppRow { app, versions, deployment })
                    })
                    .collect()
            })
            .await
    }

    /// Every app, of all tenants.
    pub async fn app_names(&self) -> Result<HashSet<(Tenant, AppName)>, ControlError> {
        self.database
            .read(move |connection| {
                let sql = "SELECT tenant, name FROM app";
                Ok(collect(connection, sql, [], |row| Ok((parse(row, 0)?, parse(row, 1)?)))?.into_iter().collect())
            })
            .await
    }

    /// One app.
    pub async fn app(&self, tenant: &Tenant, app: &AppName) -> Result<AppRow, ControlError> {
        let (tenant, app) = (tenant.clone(), app.clone());
        self.database
            .read(move |connection| {
                require_app(connection, &tenant, &app)?;
                let versions = connection
                    .prepare_cached("SELECT count(*) FROM version WHERE tenant = ?1 AND app = ?2")?
                    .query_row([tenant.as_str(), app.as_str()], |row| row.get(0))?;
                let deployment = deployments::live(connection, &tenant, &app)?;
                Ok(AppRow { app, versions, deployment })
            })
            .await
    }

    /// How many apps and versions there are, of all tenants.
    pub async fn count(&self) -> Result<(u64, u64), ControlError> {
        let sql = "SELECT (SELECT count(*) FROM app), (SELECT count(*) FROM version)";
        self.database
            .read(move |connection| Ok(connection.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?)))?))
            .await
    }

    /// Deletes a version; refused while it is live.
    pub async fn delete_version(&self, tenant: &Tenant, app: &AppName, version: &Version) -> Result<(), ControlError> {
        let (tenant, app, version) = (tenant.clone(), app.clone(), version.clone());
        self.database
            .write(move |connection| {
                require_app(connection, &tenant, &app)?;
                let live = deployments::live(connection, &tenant, &app)?;
                if live.is_some_and(|live| live.shares.iter().any(|share| share.version == version)) {
                    return Err(ControlError::Conflict(format!(
                        "{app}@{version} is live; deploy another version first, or delete the app"
                    )));
                }
                let deleted = connection
                    .prepare_cached("DELETE FROM version WHERE tenant = ?1 AND app = ?2 AND version = ?3")?
                    .execute(params![tenant.as_str(), app.as_str(), version.to_string()])?;
                if deleted == 0 { Err(ControlError::NoVersion(app, version)) } else { Ok(()) }
            })
            .await
    }
}

pub(super) fn insert(connection: &Connection, new: &NewVersion) -> Result<Committed, ControlError> {
    let (tenant, app, version) = (new.tenant.as_str(), new.config.app.as_str(), new.config.version.to_string());
    if let Some(row) = find(connection, &new.tenant, &new.config.app, &new.config.version)? {
        return if row.digest == new.digest {
            Ok(Committed { row, created: false })
        } else {
            Err(ControlError::VersionExists {
                app: new.config.app.clone(),
                version: new.config.version.clone(),
                published: row.digest,
            })
        };
    }
    ensure_app(connection, &new.tenant, &new.config.app, new.published_ms)?;
    connection
        .prepare_cached(
            "INSERT INTO version (tenant, app, version, digest, config, published_ms, size)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?
        .execute(params![
            tenant,
            app,
            version,
            new.digest.to_string(),
            to_json(&new.config)?,
            new.published_ms,
            new.size
        ])?;
    let mut layer = connection
        .prepare_cached("INSERT INTO version_layer (tenant, app, version, digest) VALUES (?1, ?2, ?3, ?4)")?;
    for blob in &new.blobs {
        layer.execute(params![tenant, app, version, blob.to_string()])?;
    }
    let row = VersionRow {
        version: new.config.version.clone(),
        digest: new.digest,
        published_ms: new.published_ms,
        size: new.size,
    };
    Ok(Committed { row, created: true })
}
