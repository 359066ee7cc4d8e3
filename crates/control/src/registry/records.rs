//! An app's rows as lines of JSON: what a backup takes of the registry, and what a restore brings back.

use std::{
    convert::Infallible,
    io::{BufRead, Write},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use minnow_model::{AppName, Digest, Share, Tenant, VariableName, Version, deployment::Cause, manifest::MAX_ENV_BYTES};
use minnow_store::{
    Sealed, Snapshot, StoreError,
    rusqlite::{Connection, params},
};
use serde::{Deserialize, Serialize};

use super::{
    LiveRow, NewVersion, Registry, collect, deletions, deployments, json, parse, secrets, to_json,
    variables::{self, VariableChange, VariableChanges, VariableRow},
    versions,
};
use crate::{ControlError, stores::DataFate};

/// The longest line, in bytes: a change of all variables of an app, whose names and values JSON escapes to at most six times what they
/// take, with room for the rest; and a version's config, of which a line of [`NewVersion`] holds one.
pub(crate) const MAX_LINE_BYTES: usize = {
    let config = 2 * minnow_model::bundle::MAX_CONFIG_BYTES + (8 << 20);
    let change = 6 * MAX_ENV_BYTES + (1 << 20);
    if config > change { config } else { change }
};

/// One row of an app. They are in this order: what a row refers to comes before it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Record {
    App {
        /// Milliseconds since the Unix epoch, as all times here.
        created_ms: u64,
    },
    /// Oldest first.
    Version {
        version: Version,
        /// Of its OCI manifest.
        digest: Digest,
        published_ms: u64,
    },
    /// Oldest first. The last one is live.
    Deployment {
        revision: u64,
        time_ms: u64,
        cause: Cause,
        /// The revision that a rollback brought back.
        restores: Option<u64>,
        shares: Vec<Share>,
        /// What each share's version was, by the digest of its manifest.
        digests: Vec<Digest>,
    },
    Variable {
        name: VariableName,
        value: String,
        revision: u64,
        time_ms: u64,
    },
    /// Oldest first.
    VariableChange {
        revision: u64,
        time_ms: u64,
        changes: VariableChanges,
    },
    Secret {
        name: VariableName,
        sealed: SealedText,
        created_ms: u64,
        changed_ms: u64,
    },
}

/// [`Sealed`] as text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedText {
    /// Which key of the node's key file opens it.
    key_id: String,
    /// In hex.
    nonce: String,
    /// In base64.
    sealed: String,
}

impl From<&Sealed> for SealedText {
    fn from(sealed: &Sealed) -> Self {
        Self {
            key_id: sealed.key_id.clone(),
            nonce: hex::encode(sealed.nonce),
            sealed: BASE64_STANDARD.encode(&sealed.bytes),
        }
    }
}

impl SealedText {
    /// `None` when it is no sealed secret.
    pub fn read(&self) -> Option<Sealed> {
        let nonce = hex::decode(&self.nonce).ok()?.try_into().ok()?;
        Some(Sealed { key_id: self.key_id.clone(), nonce, bytes: BASE64_STANDARD.decode(&self.sealed).ok()? })
    }
}

/// Writes one line.
pub(crate) fn write_line(out: &mut impl Write, record: &impl Serialize) -> std::io::Result<()> {
    serde_json::to_writer(&mut *out, record)?;
    out.write_all(b"\n")
}

/// Reads one line, of at most [`MAX_LINE_BYTES`]; `None` at the end. What is wrong with it comes as text, for whoever made it.
pub(crate) fn read_line<T: serde::de::DeserializeOwned>(
    lines: &mut impl BufRead,
) -> std::io::Result<Result<Option<T>, String>> {
    let mut line = Vec::new();
    std::io::Read::take(&mut *lines, MAX_LINE_BYTES as u64 + 1).read_until(b'\n', &mut line)?;
    if line.is_empty() {
        return Ok(Ok(None));
    }
    if line.pop() != Some(b'\n') {
        return Ok(Err("a line is too long, or its end is missing".into()));
    }
    Ok(serde_json::from_slice(&line).map(Some).map_err(|error| error.to_string()))
}

/// The rows of an app, given one by one to `each`; and the content that its versions need.
pub(crate) fn export(
    connection: &Connection,
    tenant: &Tenant,
    app: &AppName,
    mut each: impl FnMut(Record) -> Result<(), ControlError>,
) -> Result<Vec<Digest>, ControlError> {
    let place = [tenant.as_str(), app.as_str()];
    let created_ms = created_ms(connection, tenant, app)?.ok_or_else(|| ControlError::NoApp(app.clone()))?;
    each(Record::App { created_ms })?;
    let mut rows = |sql: &str, read: &dyn Fn(&minnow_store::rusqlite::Row<'_>) -> Result<Record, ControlError>| {
        let mut statement = connection.prepare(sql)?;
        let mut rows = statement.query(place)?;
        while let Some(row) = rows.next()? {
            each(read(row)?)?;
        }
        Ok::<_, ControlError>(())
    };
    rows(
        "SELECT version, digest, published_ms FROM version WHERE tenant = ?1 AND app = ?2 ORDER BY sequence",
        &|row| Ok(Record::Version { version: parse(row, 0)?, digest: parse(row, 1)?, published_ms: row.get(2)? }),
    )?;
    rows(
        "SELECT revision, time_ms, cause, restores, shares, digests FROM deployment WHERE tenant = ?1 AND app = ?2
         ORDER BY revision",
        &|row| {
            Ok(Record::Deployment {
                revision: row.get(0)?,
                time_ms: row.get(1)?,
                cause: deployments::read_cause(row, 2)?,
                restores: row.get(3)?,
                shares: json(row, 4)?,
                digests: json(row, 5)?,
            })
        },
    )?;
    rows("SELECT name, value, revision, time_ms FROM variable WHERE tenant = ?1 AND app = ?2 ORDER BY name", &|row| {
        Ok(Record::Variable { name: parse(row, 0)?, value: row.get(1)?, revision: row.get(2)?, time_ms: row.get(3)? })
    })?;
    rows(
        "SELECT revision, time_ms, changes FROM variable_change WHERE tenant = ?1 AND app = ?2 ORDER BY revision",
        &|row| Ok(Record::VariableChange { revision: row.get(0)?, time_ms: row.get(1)?, changes: json(row, 2)? }),
    )?;
    for secret in secrets::rows(connection, tenant, app)? {
        each(Record::Secret {
            name: secret.name,
            sealed: (&secret.sealed).into(),
            created_ms: secret.created_ms,
            changed_ms: secret.changed_ms,
        })?;
    }
    let sql = "SELECT DISTINCT digest FROM version_layer WHERE tenant = ?1 AND app = ?2 ORDER BY digest";
    collect(connection, sql, place, |row| parse(row, 0))
}

/// What a restore writes into the registry. Both are read within the transaction, a line at a time.
pub struct Restored<V, R> {
    pub created_ms: u64,
    /// Oldest first.
    pub versions: V,
    /// All but those of versions.
    pub records: R,
}

impl Registry {
    /// The registry as it is now. Blocking.
    pub fn snapshot(&self) -> Result<Snapshot, StoreError> {
        self.database.snapshot()
    }

    /// Takes the name of an app that is not there, until [`Registry::restore`] or [`Registry::end_deletion`]: no app of the name comes
    /// about meanwhile, and after a crash the data that was put there is destroyed, as that of an app which was deleted.
    pub async fn reserve(&self, tenant: &Tenant, app: &AppName) -> Result<(), ControlError> {
        let (tenant, app) = (tenant.clone(), app.clone());
        self.database
            .write(move |connection| {
                if deletions::fate(connection, &tenant, &app)?.is_some() {
                    return Err(ControlError::BeingDeleted(app));
                }
                let sql = "SELECT 1 FROM app WHERE tenant = ?1 AND name = ?2";
                if !collect(connection, sql, [tenant.as_str(), app.as_str()], |_| Ok(()))?.is_empty() {
                    return Err(already_there(&app));
                }
                connection
                    .prepare_cached("INSERT INTO deletion (tenant, app, fate) VALUES (?1, ?2, ?3)")?
                    .execute(params![tenant.as_str(), app.as_str(), DataFate::Purge.as_str()])?;
                Ok(())
            })
            .await
    }

    /// Makes an app whose name was taken with [`Registry::reserve`], with all that belongs to it, in one transaction. `prepare` is as in
    /// [`Registry::deploy`].
    pub async fn restore<T: Send + 'static>(
        &self,
        tenant: &Tenant,
        app: &AppName,
        restored: Restored<
            impl Iterator<Item = Result<NewVersion, ControlError>> + Send + 'static,
            impl Iterator<Item = Result<Record, ControlError>> + Send + 'static,
        >,
        prepare: impl FnOnce(Vec<LiveRow>) -> Result<T, ControlError> + Send + 'static,
    ) -> Result<T, ControlError> {
        let (tenant, app) = (tenant.clone(), app.clone());
        self.database
            .write(move |connection| {
                let place = [tenant.as_str(), app.as_str()];
                let reserved =
                    connection.prepare_cached("DELETE FROM deletion WHERE tenant = ?1 AND app = ?2")?.execute(place)?;
                if reserved == 0 {
                    return Err(ControlError::Conflict(format!("the name `{app}` was given away; restore again")));
                }
                prepare(insert_app(connection, &tenant, &app, restored)?)
            })
            .await
    }

    /// Whether [`Registry::restore`] would go well in the place of an app of the name, or of none: it is done, and rolled back.
    pub async fn try_restore<T>(
        &self,
        tenant: &Tenant,
        app: &AppName,
        restored: Restored<
            impl Iterator<Item = Result<NewVersion, ControlError>> + Send + 'static,
            impl Iterator<Item = Result<Record, ControlError>> + Send + 'static,
        >,
        prepare: impl FnOnce(Vec<LiveRow>) -> Result<T, ControlError> + Send + 'static,
    ) -> Result<(), ControlError> {
        let (tenant, app) = (tenant.clone(), app.clone());
        let tried = self
            .database
            .write(move |connection| {
                let run = || {
                    connection
                        .prepare_cached("DELETE FROM app WHERE tenant = ?1 AND name = ?2")?
                        .execute([tenant.as_str(), app.as_str()])?;
                    prepare(insert_app(connection, &tenant, &app, restored)?).map(drop)
                };
                // An error rolls back.
                Err::<Infallible, Trial>(match run() {
                    Ok(()) => Trial::WentWell,
                    Err(error) => Trial::Failed(error),
                })
            })
            .await;
        match tried {
            Err(Trial::WentWell) => Ok(()),
            Err(Trial::Failed(error)) => Err(error),
        }
    }

    /// When the app came about, in milliseconds since the Unix epoch; `None` where there is none.
    pub async fn created_ms(&self, tenant: &Tenant, app: &AppName) -> Result<Option<u64>, ControlError> {
        let (tenant, app) = (tenant.clone(), app.clone());
        self.database.read(move |connection| created_ms(connection, &tenant, &app)).await
    }
}

/// How a trial came out. An error in any case, so that nothing of it stays.
enum Trial {
    WentWell,
    Failed(ControlError),
}

impl From<StoreError> for Trial {
    fn from(error: StoreError) -> Self {
        Self::Failed(error.into())
    }
}

fn created_ms(connection: &Connection, tenant: &Tenant, app: &AppName) -> Result<Option<u64>, ControlError> {
    let sql = "SELECT created_ms FROM app WHERE tenant = ?1 AND name = ?2";
    Ok(collect(connection, sql, [tenant.as_str(), app.as_str()], |row| Ok(row.get(0)?))?.into_iter().next())
}

/// Inserts all rows of an app, and answers those that are live.
fn insert_app(
    connection: &Connection,
    tenant: &Tenant,
    app: &AppName,
    restored: Restored<
        impl Iterator<Item = Result<NewVersion, ControlError>>,
        impl Iterator<Item = Result<Record, ControlError>>,
    >,
) -> Result<Vec<LiveRow>, ControlError> {
    connection.prepare_cached("INSERT INTO app (tenant, name, created_ms) VALUES (?1, ?2, ?3)")?.execute(params![
        tenant.as_str(),
        app.as_str(),
        restored.created_ms
    ])?;
    for version in restored.versions {
        if !versions::insert(connection, &version?)?.created {
            return Err(ControlError::invalid("the backup has a version twice"));
        }
    }
    for record in restored.records {
        insert(connection, tenant, app, record?)?;
    }
    secrets::check_size(connection, tenant, app)?;
    variables::check(&variables::values(connection, tenant, app)?)?;
    deployments::rows(connection, tenant, app).map_err(|error| match error {
        ControlError::Corrupt(what) => ControlError::invalid(format!("the backup does not fit together: {what}")),
        error => error,
    })
}

/// What a restore over an app says that is there.
pub(crate) fn already_there(app: &AppName) -> ControlError {
    ControlError::Conflict(format!(
        "there is an app `{app}` on this node; restore with --replace, which deletes it first and keeps its data aside for a \
         while, or under another name with --as NAME"
    ))
}

fn insert(connection: &Connection, tenant: &Tenant, app: &AppName, record: Record) -> Result<(), ControlError> {
    match record {
        Record::App { .. } | Record::Version { .. } => {}
        Record::Deployment { revision, time_ms, cause, restores, shares, digests } => {
            let sum: u32 = shares.iter().map(|share| u32::from(share.weight)).sum();
            if sum != 100 || shares.iter().any(|share| share.weight == 0) {
                return Err(ControlError::invalid(format!(
                    "the shares of deployment {revision} in the backup are not 100 %"
                )));
            }
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
                    deployments::cause_text(cause),
                    restores,
                    to_json(&shares)?,
                    to_json(&digests)?
                ])
                .map_err(twice)?;
        }
        Record::Variable { name, value, revision, time_ms } => {
            variables::insert(connection, tenant, app, &VariableRow { name, value, revision, time_ms })
                .map_err(twice)?;
        }
        Record::VariableChange { revision, time_ms, changes } => {
            variables::insert_change(connection, tenant, app, &VariableChange { revision, time_ms, changes })
                .map_err(twice)?;
        }
        Record::Secret { name, sealed, created_ms, changed_ms } => {
            let sealed = sealed
                .read()
                .ok_or_else(|| ControlError::invalid(format!("the secret {name} in the backup is damaged")))?;
            connection
                .prepare_cached(
                    "INSERT INTO secret (tenant, app, name, key_id, nonce, sealed, created_ms, changed_ms)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
                )?
                .execute(params![
                    tenant.as_str(),
                    app.as_str(),
                    name.as_str(),
                    sealed.key_id,
                    sealed.nonce,
                    sealed.bytes,
                    created_ms,
                    changed_ms
                ])
                .map_err(twice)?;
        }
    }
    Ok(())
}

/// A row that is there already is the backup's fault.
fn twice(error: minnow_store::rusqlite::Error) -> ControlError {
    match error.sqlite_error_code() {
        Some(minnow_store::rusqlite::ErrorCode::ConstraintViolation) => {
            ControlError::invalid("the backup has a row of an app twice")
        }
        _ => error.into(),
    }
}
