//! Secrets, sealed. What is in them never comes here.

use std::collections::BTreeMap;

use minnow_model::{AppName, Tenant, VariableName, manifest::MAX_ENV};
use minnow_store::{
    Sealed,
    rusqlite::{Connection, OptionalExtension as _, Row, params},
};

use super::{LiveRow, Registry, collect, deployments, ensure_app, parse, require_app};
use crate::ControlError;

/// All secrets of an app together, sealed, in bytes. Each function that is granted them has a copy in its environment: four
/// of the longest.
pub const MAX_SECRET_BYTES_PER_APP: usize = 256 << 10;

/// A secret, without what is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretRow {
    pub name: VariableName,
    pub sealed: Sealed,
    /// When it was first set, in milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// When it was last set.
    pub changed_ms: u64,
}

/// What setting a secret came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SecretSet {
    /// When it was first set.
    pub created_ms: u64,
    /// False when it replaced another value.
    pub created: bool,
    /// The app was not known before.
    pub app_created: bool,
}

/// A secret of any app, as [`Registry::reseal`] gives it.
#[derive(Debug)]
pub struct Resealing<'a> {
    pub tenant: &'a Tenant,
    pub app: &'a AppName,
    pub name: &'a VariableName,
    pub sealed: &'a Sealed,
}

fn sealed(row: &Row<'_>, column: usize) -> Result<Sealed, ControlError> {
    Ok(Sealed { key_id: row.get(column)?, nonce: row.get(column + 1)?, bytes: row.get(column + 2)? })
}

pub(super) fn rows(connection: &Connection, tenant: &Tenant, app: &AppName) -> Result<Vec<SecretRow>, ControlError> {
    let sql = "SELECT name, key_id, nonce, sealed, created_ms, changed_ms FROM secret WHERE tenant = ?1 AND app = ?2
               ORDER BY name";
    collect(connection, sql, [tenant.as_str(), app.as_str()], |row| {
        Ok(SecretRow {
            name: parse(row, 0)?,
            sealed: sealed(row, 1)?,
            created_ms: row.get(4)?,
            changed_ms: row.get(5)?,
        })
    })
}

/// The app's secrets.
pub(super) fn all(
    connection: &Connection,
    tenant: &Tenant,
    app: &AppName,
) -> Result<BTreeMap<VariableName, Sealed>, ControlError> {
    Ok(rows(connection, tenant, app)?.into_iter().map(|row| (row.name, row.sealed)).collect())
}

fn write(
    connection: &Connection,
    tenant: &Tenant,
    app: &AppName,
    name: &VariableName,
    sealed: &Sealed,
    time_ms: u64,
) -> Result<SecretSet, ControlError> {
    let app_created = ensure_app(connection, tenant, app, time_ms)?;
    let place = params![tenant.as_str(), app.as_str(), name.as_str()];
    let before: Option<u64> = connection
        .prepare_cached("SELECT created_ms FROM secret WHERE tenant = ?1 AND app = ?2 AND name = ?3")?
        .query_row(place, |row| row.get(0))
        .optional()?;
    connection
        .prepare_cached(
            "INSERT INTO secret (tenant, app, name, key_id, nonce, sealed, created_ms, changed_ms)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?7) ON CONFLICT DO UPDATE SET key_id = excluded.key_id,
             nonce = excluded.nonce, sealed = excluded.sealed, changed_ms = excluded.changed_ms",
        )?
        .execute(params![
            tenant.as_str(),
            app.as_str(),
            name.as_str(),
            sealed.key_id,
            sealed.nonce,
            sealed.bytes,
            time_ms
        ])?;
    check_size(connection, tenant, app)?;
    Ok(SecretSet { created_ms: before.unwrap_or(time_ms), created: before.is_none(), app_created })
}

/// Refuses more secrets than an app may have.
pub(super) fn check_size(connection: &Connection, tenant: &Tenant, app: &AppName) -> Result<(), ControlError> {
    let (count, bytes): (usize, usize) = connection
        .prepare_cached("SELECT count(*), coalesce(sum(length(sealed)), 0) FROM secret WHERE tenant = ?1 AND app = ?2")?
        .query_row([tenant.as_str(), app.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))?;
    if count > MAX_ENV {
        return Err(ControlError::invalid(format!(
            "the app has {MAX_ENV} secrets, which is the most; delete some first"
        )));
    }
    if bytes > MAX_SECRET_BYTES_PER_APP {
        return Err(ControlError::TooLarge(format!(
            "the app's secrets would take {bytes} bytes together; the most is {MAX_SECRET_BYTES_PER_APP}"
        )));
    }
    Ok(())
}

/// Refuses to take a secret from functions and webhooks that get traffic.
fn check_unused(app: &AppName, name: &VariableName, live: &[LiveRow]) -> Result<(), ControlError> {
    let users: Vec<String> = live
        .iter()
        .flat_map(|row| {
            let granted = row.config.functions.iter().filter(|(_, function)| function.grants.secrets.contains(name));
            let granted = granted.map(|(function, _)| format!("`{function}`"));
            let webhooks = row.config.webhooks().filter(|(_, webhook)| webhook.secret == *name);
            let webhooks = webhooks.map(|(topic, _)| format!("the webhook of `{topic}`"));
            granted.chain(webhooks).map(|user| format!("{user} of {app}@{}", row.config.version))
        })
        .collect();
    if users.is_empty() {
        return Ok(());
    }
    Err(ControlError::Conflict(format!(
        "the secret {name} is granted to {}, which gets traffic; deploy a version without the grant first, or set another value",
        users.join(" and ")
    )))
}

impl Registry {
    /// Sets a secret, in one transaction; an app that is not known comes about. `prepare` is as in
    /// [`Registry::set_variables`].
    pub async fn set_secret<T: Send + 'static>(
        &self,
        tenant: &Tenant,
        app: &AppName,
        name: &VariableName,
        sealed: Sealed,
        time_ms: u64,
        prepare: impl FnOnce(Vec<LiveRow>) -> Result<T, ControlError> + Send + 'static,
    ) -> Result<(SecretSet, T), ControlError> {
        let (tenant, app, name) = (tenant.clone(), app.clone(), name.clone());
        self.database
            .write(move |connection| {
                let set = write(connection, &tenant, &app, &name, &sealed, time_ms)?;
                Ok((set, prepare(deployments::rows(connection, &tenant, &app)?)?))
            })
            .await
    }

    /// Deletes a secret, unless a function that gets traffic is granted it.
    pub async fn delete_secret(&self, tenant: &Tenant, app: &AppName, name: &VariableName) -> Result<(), ControlError> {
        let (tenant, app, name) = (tenant.clone(), app.clone(), name.clone());
        self.database
            .write(move |connection| {
                require_app(connection, &tenant, &app)?;
                let deleted = connection
                    .prepare_cached("DELETE FROM secret WHERE tenant = ?1 AND app = ?2 AND name = ?3")?
                    .execute([tenant.as_str(), app.as_str(), name.as_str()])?;
                if deleted == 0 {
                    return Err(ControlError::NoSecret(app, name));
                }
                check_unused(&app, &name, &deployments::rows(connection, &tenant, &app)?)
            })
            .await
    }

    /// An app's secrets, by name.
    pub async fn secrets(&self, tenant: &Tenant, app: &AppName) -> Result<Vec<SecretRow>, ControlError> {
        let (tenant, app) = (tenant.clone(), app.clone());
        self.database
            .read(move |connection| {
                require_app(connection, &tenant, &app)?;
                rows(connection, &tenant, &app)
            })
            .await
    }

    /// How many secrets there are, of all tenants.
    pub async fn count_secrets(&self) -> Result<u64, ControlError> {
        self.database
            .read(|connection| Ok(connection.query_row("SELECT count(*) FROM secret", [], |row| row.get(0))?))
            .await
    }

    /// Gives every secret that is not sealed with `key_id` to `reseal`, and keeps what it answers; `None` leaves the secret as
    /// it is. In one transaction. Answers how many were sealed anew, and how many were left.
    pub async fn reseal(
        &self,
        key_id: String,
        reseal: impl Fn(Resealing<'_>) -> Result<Option<Sealed>, ControlError> + Send + 'static,
    ) -> Result<(u64, u64), ControlError> {
        self.database
            .write(move |connection| {
                let sql = "SELECT tenant, app, name, key_id, nonce, sealed FROM secret WHERE key_id <> ?1";
                let (mut resealed, mut left) = (0, 0);
                let old: Vec<(Tenant, AppName, VariableName, Sealed)> = collect(connection, sql, [&key_id], |row| {
                    Ok((parse(row, 0)?, parse(row, 1)?, parse(row, 2)?, sealed(row, 3)?))
                })?;
                for (tenant, app, name, sealed) in &old {
                    let Some(new) = reseal(Resealing { tenant, app, name, sealed })? else {
                        left += 1;
                        continue;
                    };
                    connection
                        .prepare_cached(
                            "UPDATE secret SET key_id = ?4, nonce = ?5, sealed = ?6
                             WHERE tenant = ?1 AND app = ?2 AND name = ?3",
                        )?
                        .execute(params![
                            tenant.as_str(),
                            app.as_str(),
                            name.as_str(),
                            new.key_id,
                            new.nonce,
                            new.bytes
                        ])?;
                    resealed += 1;
                }
                Ok((resealed, left))
            })
            .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::tests::{app, registry};

    fn sealed(text: &str) -> Sealed {
        Sealed { key_id: "old".into(), nonce: [7; 24], bytes: text.into() }
    }

    async fn set(registry: &Registry, name: &str, text: &str, time_ms: u64) -> Result<SecretSet, ControlError> {
        let name = name.parse().unwrap();
        let set = registry.set_secret(&Tenant::default(), &app(), &name, sealed(text), time_ms, |_| Ok(())).await;
        set.map(|(set, ())| set)
    }

    #[tokio::test]
    async fn secrets_are_set_replaced_listed_and_deleted() {
        let (_temp, registry) = registry();
        let (tenant, app) = (Tenant::default(), app());
        assert!(matches!(registry.secrets(&tenant, &app).await, Err(ControlError::NoApp(_))));
        let first = set(&registry, "B", "one", 10).await.unwrap();
        assert_eq!(first, SecretSet { created_ms: 10, created: true, app_created: true });
        set(&registry, "A", "two", 20).await.unwrap();
        let again = set(&registry, "B", "three", 30).await.unwrap();
        assert_eq!(again, SecretSet { created_ms: 10, created: false, app_created: false });
        let row = |name: &str, text: &str, created_ms, changed_ms| SecretRow {
            name: name.parse().unwrap(),
            sealed: sealed(text),
            created_ms,
            changed_ms,
        };
        let all = [row("A", "two", 20, 20), row("B", "three", 10, 30)];
        assert_eq!(registry.secrets(&tenant, &app).await.unwrap(), all);
        assert_eq!(registry.count_secrets().await.unwrap(), 2);
        registry.delete_secret(&tenant, &app, &"B".parse().unwrap()).await.unwrap();
        let error = registry.delete_secret(&tenant, &app, &"B".parse().unwrap()).await.unwrap_err();
        assert!(matches!(error, ControlError::NoSecret(..)), "{error}");
        registry.delete_app(&tenant, &app, crate::stores::DataFate::Keep).await.unwrap();
        assert_eq!(registry.count_secrets().await.unwrap(), 0);
    }

    #[tokio::test]
    async fn an_apps_secrets_are_bounded() {
        let (_temp, registry) = registry();
        let long = "x".repeat(MAX_SECRET_BYTES_PER_APP / 2);
        set(&registry, "A", &long, 1).await.unwrap();
        set(&registry, "B", &long, 1).await.unwrap();
        assert!(matches!(set(&registry, "C", "x", 1).await, Err(ControlError::TooLarge(_))));
        set(&registry, "A", "", 1).await.unwrap();
        for number in 2..MAX_ENV {
            set(&registry, &format!("S{number}"), "", 1).await.unwrap();
        }
        let error = set(&registry, "C", "", 1).await.unwrap_err();
        assert!(error.to_string().contains("delete some first"), "{error}");
        assert_eq!(registry.count_secrets().await.unwrap(), MAX_ENV as u64);
    }

    #[tokio::test]
    async fn secrets_are_sealed_anew_together_or_not_at_all() {
        let (_temp, registry) = registry();
        for name in ["A", "B", "LOST"] {
            set(&registry, name, name, 1).await.unwrap();
        }
        let failing = |one: Resealing<'_>| match one.name.as_str() {
            "B" => Err(ControlError::Corrupt("injected".into())),
            _ => Ok(Some(Sealed { key_id: "new".into(), ..one.sealed.clone() })),
        };
        registry.reseal("new".into(), failing).await.unwrap_err();
        let keys = async || -> Vec<String> {
            let rows = registry.secrets(&Tenant::default(), &app()).await.unwrap();
            rows.into_iter().map(|row| row.sealed.key_id).collect()
        };
        assert_eq!(keys().await, ["old", "old", "old"]);
        let reseal = |one: Resealing<'_>| {
            assert_eq!((one.tenant, one.app), (&Tenant::default(), &app()));
            let known = one.name.as_str() != "LOST";
            Ok(known.then(|| Sealed { key_id: "new".into(), ..one.sealed.clone() }))
        };
        assert_eq!(registry.reseal("new".into(), reseal).await.unwrap(), (2, 1));
        assert_eq!(keys().await, ["new", "new", "old"]);
        assert_eq!(registry.reseal("new".into(), reseal).await.unwrap(), (0, 1));
    }
}
