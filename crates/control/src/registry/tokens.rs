//! Tokens, of which only the hash is stored.

use minnow_model::Tenant;
use minnow_store::rusqlite::{OptionalExtension as _, params};

use super::{Registry, collect, parse};
use crate::ControlError;

/// A token as the registry keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRow {
    pub id: String,
    pub tenant: Tenant,
    pub name: String,
    /// The sha256 of the token.
    pub hash: [u8; 32],
    /// Milliseconds since the Unix epoch.
    pub created_ms: u64,
}

impl Registry {
    /// All tokens of all tenants, oldest first.
    pub async fn tokens(&self) -> Result<Vec<TokenRow>, ControlError> {
        let sql = "SELECT id, tenant, name, hash, created_ms FROM token ORDER BY sequence";
        self.database
            .read(move |connection| {
                collect(connection, sql, [], |row| {
                    Ok(TokenRow {
                        id: row.get(0)?,
                        tenant: parse(row, 1)?,
                        name: row.get(2)?,
                        hash: row.get(3)?,
                        created_ms: row.get(4)?,
                    })
                })
            })
            .await
    }

    /// Adds a token, unless the node has `limit` already.
    pub async fn add_token(&self, token: TokenRow, limit: usize) -> Result<(), ControlError> {
        self.database
            .write(move |connection| {
                let count: usize = connection.query_row("SELECT count(*) FROM token", [], |row| row.get(0))?;
                if count >= limit {
                    return Err(ControlError::Conflict(format!("the node has {count} tokens; delete some first")));
                }
                connection
                    .prepare_cached(
                        "INSERT INTO token (id, tenant, name, hash, created_ms) VALUES (?1, ?2, ?3, ?4, ?5)",
                    )?
                    .execute(params![token.id, token.tenant.as_str(), token.name, token.hash, token.created_ms])?;
                Ok(())
            })
            .await
    }

    /// Deletes a token of a tenant. The last one is kept: without it nobody could reach the API any more.
    pub async fn delete_token(&self, tenant: &Tenant, id: String) -> Result<(), ControlError> {
        let tenant = tenant.clone();
        self.database
            .write(move |connection| {
                let found = connection
                    .query_row("SELECT 1 FROM token WHERE tenant = ?1 AND id = ?2", [tenant.as_str(), &id], |_| Ok(()))
                    .optional()?;
                if found.is_none() {
                    return Err(ControlError::NoToken(id));
                }
                let count: u64 =
                    connection.query_row("SELECT count(*) FROM token WHERE tenant = ?1", [tenant.as_str()], |row| {
                        row.get(0)
                    })?;
                if count == 1 {
                    return Err(ControlError::Conflict("this is the last token; create another one first".into()));
                }
                connection.execute("DELETE FROM token WHERE tenant = ?1 AND id = ?2", [tenant.as_str(), &id])?;
                Ok(())
            })
            .await
    }
}
