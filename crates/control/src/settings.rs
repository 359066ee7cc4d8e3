//! Settings of an app that change without a publish: variables and secrets. A change goes live at once, as a deployment does:
//! functions whose environment it changes start anew with it, while requests that are running end with what they had.

use std::sync::Arc;

use minnow_model::{AppName, Level, Tenant, VariableName, manifest::MAX_ENV_BYTES};
use minnow_store::VaultError;
use zeroize::Zeroizing;

use crate::{
    Control, ControlError,
    api_types::{KeyRotated, SecretInfo, SecretStored, VariableChange, VariableInfo, VariablesChanged},
    environment::{hidden_by, lacks, open, place},
    registry::{self, LiveRow, Resealing, VariableChanges},
};

/// The longest secret, in bytes: what AWS Secrets Manager takes, and a certificate chain with its key several times over.
pub const MAX_SECRET_BYTES: usize = 64 << 10;

/// Names in one line of the log; beyond them it only says how many.
const LOGGED_NAMES: usize = 20;

impl Control {
    /// Sets variables of an app, and takes those away that are `None`: all or none. To take one away that is not set is
    /// refused, and to set one that a function which gets traffic would not see. An app that is not known comes about, so that
    /// its first version is checked with what it will run with.
    pub async fn set_variables(
        self: &Arc<Self>,
        tenant: &Tenant,
        app: &AppName,
        changes: VariableChanges,
    ) -> Result<VariablesChanged, ControlError> {
        let (control, tenant, app) = (Arc::clone(self), tenant.clone(), app.clone());
        let mistakes: Vec<String> = changes
            .iter()
            .filter_map(|(name, value)| Some((name, text_mistake(value.as_deref()?, MAX_ENV_BYTES)?)))
            .map(|(name, mistake)| format!("{name}: {mistake}"))
            .collect();
        if !mistakes.is_empty() {
            return Err(ControlError::Invalid { detail: "the variables cannot be set".into(), errors: mistakes });
        }
        Self::to_the_end(async move {
            let _changes = control.changes.lock().await;
            let now_ms = control.config.clock.now_ms();
            let build = control.build(&app);
            let set: Vec<VariableName> =
                changes.iter().filter(|(_, value)| value.is_some()).map(|(name, _)| name.clone()).collect();
            let prepare = move |rows: Vec<LiveRow>| {
                let errors: Vec<String> = set.iter().flat_map(|name| hidden_by(&rows, name)).collect();
                if errors.is_empty() {
                    return build(rows);
                }
                let detail = "the variables cannot be set, as functions would not see them; take other names".into();
                Err(ControlError::Invalid { detail, errors })
            };
            let (set, live) = control.registry.set_variables(&tenant, &app, changes, now_ms, prepare).await?;
            control.go_live(&app, live);
            if set.app_created {
                control.count().await;
            }
            if let Some(change) = &set.change {
                let names: Vec<_> = change.changes.keys().map(ToString::to_string).collect();
                let what = match names.len() {
                    ..=LOGGED_NAMES => names.join(", "),
                    count => format!("{count} variables"),
                };
                let message = format!("variables changed, revision {}: {what}", change.revision);
                control.note(&tenant, &app, Level::Info, now_ms, message);
            }
            Ok(VariablesChanged { revision: set.revision, changed: set.change.is_some(), app_created: set.app_created })
        })
        .await
    }

    /// An app's variables, by name.
    pub async fn variables(&self, tenant: &Tenant, app: &AppName) -> Result<Vec<VariableInfo>, ControlError> {
        let rows = self.registry.variables(tenant, app).await?;
        let info = |row: registry::VariableRow| VariableInfo {
            name: row.name,
            value: row.value,
            revision: row.revision,
            time_ms: row.time_ms,
        };
        Ok(rows.into_iter().map(info).collect())
    }

    /// The changes of an app's variables, newest first.
    pub async fn variable_history(&self, tenant: &Tenant, app: &AppName) -> Result<Vec<VariableChange>, ControlError> {
        let history = self.registry.variable_history(tenant, app).await?;
        let change = |change: registry::VariableChange| VariableChange {
            revision: change.revision,
            time_ms: change.time_ms,
            changes: change.changes,
        };
        Ok(history.into_iter().map(change).collect())
    }

    /// Sets a secret of an app. An app that is not known comes about.
    pub async fn set_secret(
        self: &Arc<Self>,
        tenant: &Tenant,
        app: &AppName,
        name: &VariableName,
        value: Zeroizing<String>,
    ) -> Result<SecretStored, ControlError> {
        let (control, tenant, app, name) = (Arc::clone(self), tenant.clone(), app.clone(), name.clone());
        if value.is_empty() {
            return Err(ControlError::invalid(format!("the value of the secret {name} is empty")));
        }
        if let Some(mistake) = text_mistake(&value, MAX_SECRET_BYTES) {
            return Err(ControlError::invalid(format!("the secret {name}: {mistake}")));
        }
        Self::to_the_end(async move {
            let _changes = control.changes.lock().await;
            let now_ms = control.config.clock.now_ms();
            let sealed = control.vault.seal(&place(&tenant, &app, &name), value.as_bytes())?;
            drop(value);
            let (build, vault, set) = (control.build(&app), Arc::clone(&control.vault), name.clone());
            let prepare = move |rows: Vec<LiveRow>| {
                let no_keys = lacks(&vault, &rows).into_iter().filter(|lack| lack.is_no_key() && *lack.secret() == set);
                match no_keys.map(|lack| lack.to_string()).next() {
                    Some(lack) => Err(ControlError::invalid(lack)),
                    None => build(rows),
                }
            };
            let (set, live) = control.registry.set_secret(&tenant, &app, &name, sealed, now_ms, prepare).await?;
            control.go_live(&app, live);
            if set.app_created {
                control.count().await;
            }
            control.note(&tenant, &app, Level::Info, now_ms, format!("the secret {name} was set"));
            let secret = SecretInfo { name, created_ms: set.created_ms, changed_ms: now_ms, readable: true };
            Ok(SecretStored { secret, created: set.created, app_created: set.app_created })
        })
        .await
    }

    /// Deletes a secret. Refused while a function that gets traffic is granted it.
    pub async fn delete_secret(
        self: &Arc<Self>,
        tenant: &Tenant,
        app: &AppName,
        name: &VariableName,
    ) -> Result<(), ControlError> {
        let (control, tenant, app, name) = (Arc::clone(self), tenant.clone(), app.clone(), name.clone());
        Self::to_the_end(async move {
            let _changes = control.changes.lock().await;
            control.registry.delete_secret(&tenant, &app, &name).await?;
            let now_ms = control.config.clock.now_ms();
            control.note(&tenant, &app, Level::Info, now_ms, format!("the secret {name} was deleted"));
            Ok(())
        })
        .await
    }

    /// An app's secrets by name, without what is in them.
    pub async fn secrets(&self, tenant: &Tenant, app: &AppName) -> Result<Vec<SecretInfo>, ControlError> {
        let rows = self.registry.secrets(tenant, app).await?;
        let info = |row: registry::SecretRow| SecretInfo {
            readable: open(&self.vault, tenant, app, &row.name, &row.sealed).is_ok(),
            name: row.name,
            created_ms: row.created_ms,
            changed_ms: row.changed_ms,
        };
        Ok(rows.into_iter().map(info).collect())
    }

    /// Adds a new key to the node's key file, seals every secret of the node with it, and signs URLs with it from now on.
    pub async fn rotate_key(self: &Arc<Self>) -> Result<KeyRotated, ControlError> {
        let control = Arc::clone(self);
        Self::to_the_end(async move {
            let _changes = control.changes.lock().await;
            let vault = Arc::clone(&control.vault);
            let rotated = tokio::task::spawn_blocking(move || vault.rotate()).await;
            let key_id = rotated.map_err(|_| ControlError::ShuttingDown)?.map_err(|error| {
                tracing::error!(%error, "no key can be added to the key file");
                ControlError::Conflict(
                    "the node cannot add a key to its key file; its log says why. Where it may not write there, add a line with the \
                     output of `openssl rand -hex 32` and start the node again"
                        .into(),
                )
            })?;
            control.runtime.data().signer.use_keys_of(&control.vault);
            let (resealed, unreadable) = control.reseal().await?;
            tracing::info!(key = key_id, resealed, unreadable, "the key of secrets was rotated");
            Ok(KeyRotated { key_id, resealed, unreadable })
        })
        .await
    }

    /// Seals every secret with the newest key that is not. Answers how many it was, and how many could not be read.
    pub(crate) async fn reseal(&self) -> Result<(u64, u64), ControlError> {
        let vault = Arc::clone(&self.vault);
        let reseal = move |old: Resealing<'_>| {
            let at = place(old.tenant, old.app, old.name);
            match vault.open(&at, old.sealed) {
                Ok(plain) => Ok(Some(vault.seal(&at, &plain)?)),
                Err(error @ (VaultError::UnknownKey { .. } | VaultError::Damaged)) => {
                    tracing::error!(app = %old.app, secret = %old.name, %error, "a secret cannot be read; set it again");
                    Ok(None)
                }
                Err(error) => Err(error.into()),
            }
        };
        self.registry.reseal(self.vault.newest(), reseal).await
    }
}

/// Why a text cannot be in an environment.
fn text_mistake(value: &str, most: usize) -> Option<String> {
    if value.contains('\0') {
        return Some("the value of an environment variable cannot hold NUL".into());
    }
    (value.len() > most).then(|| format!("the value has {} bytes; the most is {most}", value.len()))
}
