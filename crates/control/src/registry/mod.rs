//! The registry: what is published, what is live and who may ask, in the node's database.
//!
//! Read in this order: [`schema`] (the tables), [`history`] (which deployment a rollback goes to: a pure decision),
//! `versions`, `deletions`, `deployments`, `variables`, `secrets`, `tokens` and `content` (the queries, one file for each kind of
//! row), `records` (an app's rows in a backup). Every change is one transaction, so that a crash leaves either all of it or nothing.

use std::str::FromStr;

use minnow_model::{AppName, Tenant, Version};
use minnow_store::{Database, StoreError, rusqlite};
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use crate::ControlError;

mod content;
mod deletions;
mod deployments;
pub mod history;
pub(crate) mod records;
pub mod schema;
mod secrets;
mod tokens;
mod variables;
mod versions;

pub use deployments::{Changed, LiveRow, Planned, Settings, SharedStore};
pub use secrets::{MAX_SECRET_BYTES_PER_APP, Resealing, SecretRow, SecretSet};
pub use tokens::TokenRow;
pub use variables::{VariableChange, VariableChanges, VariableRow, VariablesSet};
pub use versions::{AppRow, Committed, NewVersion, VersionRow};

/// The tables, with one method for each question and each change.
pub struct Registry {
    database: Database,
}

impl Registry {
    /// Opens the registry in the database at `path`. Blocking.
    pub fn open(path: &std::path::Path) -> Result<Self, StoreError> {
        Ok(Self { database: Database::open(path, schema::MIGRATIONS)? })
    }
}

/// Reads a text column as `T`. Only this registry writes these columns, so that another form means damage.
fn parse<T: FromStr>(row: &Row<'_>, column: usize) -> Result<T, ControlError>
where
    T::Err: std::fmt::Display,
{
    let text = row.get_ref(column)?.as_str().map_err(|error| ControlError::Corrupt(error.to_string()))?;
    text.parse().map_err(|error: T::Err| ControlError::Corrupt(format!("`{text}`: {error}")))
}

/// Reads a JSON column as `T`.
fn json<T: serde::de::DeserializeOwned>(row: &Row<'_>, column: usize) -> Result<T, ControlError> {
    let text = row.get_ref(column)?.as_str().map_err(|error| ControlError::Corrupt(error.to_string()))?;
    serde_json::from_str(text).map_err(|error| ControlError::Corrupt(format!("`{text}`: {error}")))
}

fn to_json(value: &impl serde::Serialize) -> Result<String, ControlError> {
    serde_json::to_string(value).map_err(|error| ControlError::Corrupt(error.to_string()))
}

/// Runs a query and reads every row.
fn collect<T>(
    connection: &Connection,
    sql: &str,
    params: impl rusqlite::Params,
    read: impl Fn(&Row<'_>) -> Result<T, ControlError>,
) -> Result<Vec<T>, ControlError> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(params)?;
    let mut all = Vec::new();
    while let Some(row) = rows.next()? {
        all.push(read(row)?);
    }
    Ok(all)
}

/// Refuses an app that is not there.
fn require_app(connection: &Connection, tenant: &Tenant, app: &AppName) -> Result<(), ControlError> {
    let found = connection
        .prepare_cached("SELECT 1 FROM app WHERE tenant = ?1 AND name = ?2")?
        .query_row(params![tenant.as_str(), app.as_str()], |_| Ok(()))
        .optional()?;
    found.ok_or_else(|| ControlError::NoApp(app.clone()))
}

/// Notes an app that is not known. Answers whether it was not. Refuses one whose deletion is not at its end.
fn ensure_app(connection: &Connection, tenant: &Tenant, app: &AppName, now_ms: u64) -> Result<bool, ControlError> {
    if deletions::fate(connection, tenant, app)?.is_some() {
        return Err(ControlError::BeingDeleted(app.clone()));
    }
    let created = connection
        .prepare_cached("INSERT INTO app (tenant, name, created_ms) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING")?
        .execute(params![tenant.as_str(), app.as_str(), now_ms])?;
    Ok(created > 0)
}

/// Whether the version is published.
fn is_published(
    connection: &Connection,
    tenant: &Tenant,
    app: &AppName,
    version: &Version,
) -> Result<bool, ControlError> {
    let found = connection
        .prepare_cached("SELECT 1 FROM version WHERE tenant = ?1 AND app = ?2 AND version = ?3")?
        .query_row(params![tenant.as_str(), app.as_str(), version.to_string()], |_| Ok(()))
        .optional()?;
    Ok(found.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A registry with nothing in it.
    pub(super) fn registry() -> (tempfile::TempDir, Registry) {
        let temp = tempfile::tempdir().unwrap();
        let registry = Registry::open(&temp.path().join("minnow.db")).unwrap();
        (temp, registry)
    }

    pub(super) fn app() -> AppName {
        "shop".parse().unwrap()
    }
}
