//! Which blobs and which compiled code the published versions need, for those who compile and those who clean up.

use std::collections::{HashMap, HashSet};

use minnow_model::{Digest, Tenant};
use minnow_runtime::GuestKind;
use minnow_store::rusqlite::{OptionalExtension as _, params};

use super::{Registry, collect, parse};
use crate::ControlError;

/// The kind as the registry and the API write it.
fn kind_of(text: &str) -> Option<GuestKind> {
    GuestKind::ALL.into_iter().find(|kind| kind.as_str() == text)
}

impl Registry {
    /// Notes that this code is about to be compiled. Comes before compiling, so that what a crash leaves behind is found.
    pub async fn begin_compile(&self, digest: Digest, now_ms: u64) -> Result<(), ControlError> {
        self.database
            .write(move |connection| {
                connection
                    .prepare_cached(
                        "INSERT INTO code (digest, touched_ms) VALUES (?1, ?2)
                         ON CONFLICT (digest) DO UPDATE SET touched_ms = excluded.touched_ms",
                    )?
                    .execute(params![digest.to_string(), now_ms])?;
                Ok(())
            })
            .await
    }

    /// Notes what the code turned out to be.
    pub async fn set_kind(&self, digest: Digest, kind: GuestKind) -> Result<(), ControlError> {
        self.database
            .write(move |connection| {
                connection
                    .prepare_cached("UPDATE code SET kind = ?2 WHERE digest = ?1")?
                    .execute(params![digest.to_string(), kind.as_str()])?;
                Ok(())
            })
            .await
    }

    /// What every compiled code is.
    pub async fn kinds(&self) -> Result<HashMap<Digest, GuestKind>, ControlError> {
        self.database
            .read(move |connection| {
                let sql = "SELECT digest, kind FROM code WHERE kind IS NOT NULL";
                let rows = collect(connection, sql, [], |row| {
                    let text: String = row.get(1)?;
                    let kind = kind_of(&text)
                        .ok_or_else(|| ControlError::Corrupt(format!("unknown kind of code `{text}`")))?;
                    Ok((parse(row, 0)?, kind))
                })?;
                Ok(rows.into_iter().collect())
            })
            .await
    }

    /// Whether a version of this tenant needs the blob.
    pub async fn needs_blob(&self, tenant: &Tenant, digest: &Digest) -> Result<bool, ControlError> {
        let (tenant, digest) = (tenant.clone(), digest.to_string());
        self.database
            .read(move |connection| {
                let found = connection
                    .prepare_cached("SELECT 1 FROM version_layer WHERE digest = ?1 AND tenant = ?2 LIMIT 1")?
                    .query_row([digest.as_str(), tenant.as_str()], |_| Ok(()))
                    .optional()?;
                Ok(found.is_some())
            })
            .await
    }

    /// Every blob that a published version needs, of all tenants. 32 bytes for each.
    pub async fn needed_blobs(&self) -> Result<HashSet<Digest>, ControlError> {
        let sql = "SELECT DISTINCT digest FROM version_layer";
        self.database
            .read(move |connection| Ok(collect(connection, sql, [], |row| parse(row, 0))?.into_iter().collect()))
            .await
    }

    /// Code that no published version needs, last touched before `cutoff_ms`; at most `limit` of it.
    pub async fn unneeded_code(&self, cutoff_ms: u64, limit: usize) -> Result<Vec<Digest>, ControlError> {
        let sql = "SELECT digest FROM code c WHERE touched_ms <= ?1
                   AND NOT EXISTS (SELECT 1 FROM version_layer l WHERE l.digest = c.digest) LIMIT ?2";
        self.database
            .read(move |connection| collect(connection, sql, params![cutoff_ms, limit], |row| parse(row, 0)))
            .await
    }

    /// Forgets code whose compiled form is removed.
    pub async fn forget_code(&self, digest: Digest) -> Result<(), ControlError> {
        self.database
            .write(move |connection| {
                connection.prepare_cached("DELETE FROM code WHERE digest = ?1")?.execute([digest.to_string()])?;
                Ok(())
            })
            .await
    }
}
