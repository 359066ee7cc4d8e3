//! Variables: what is configured of an app without a publish, and the history of that.

use std::collections::BTreeMap;

use minnow_model::{
    AppName, Tenant, VariableName,
    manifest::{MAX_ENV, MAX_ENV_BYTES},
};
use minnow_store::rusqlite::{Connection, params};

use super::{LiveRow, Registry, collect, deployments, ensure_app, json, parse, require_app};
use crate::ControlError;

/// How many changes of an app's variables are kept: years of them, and a bound for a script that makes one every minute.
const KEPT_CHANGES: u64 = 1000;
/// How much of a history is read at once, in bytes of its text. A thousand changes of one short value are some 100 KB; the
/// longest values come to 64 MB, which nobody reads.
const SHOWN_HISTORY_BYTES: usize = 1 << 20;

/// A variable as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VariableRow {
    pub name: VariableName,
    pub value: String,
    /// The change that set it.
    pub revision: u64,
    /// When, in milliseconds since the Unix epoch.
    pub time_ms: u64,
}

/// What is done to variables: each gets a value, or goes (`None`).
pub type VariableChanges = BTreeMap<VariableName, Option<String>>;

/// One change of an app's variables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VariableChange {
    /// Counted from 1 for each app.
    pub revision: u64,
    /// Milliseconds since the Unix epoch.
    pub time_ms: u64,
    pub changes: VariableChanges,
}

/// What setting variables came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VariablesSet {
    /// The change, without what had its value already; `None` when nothing is left.
    pub change: Option<VariableChange>,
    /// The newest revision; 0 before the first.
    pub revision: u64,
    /// The app was not known before.
    pub app_created: bool,
}

fn rows(connection: &Connection, tenant: &Tenant, app: &AppName) -> Result<Vec<VariableRow>, ControlError> {
    let sql = "SELECT name, value, revision, time_ms FROM variable WHERE tenant = ?1 AND app = ?2 ORDER BY name";
    collect(connection, sql, [tenant.as_str(), app.as_str()], |row| {
        Ok(VariableRow { name: parse(row, 0)?, value: row.get(1)?, revision: row.get(2)?, time_ms: row.get(3)? })
    })
}

/// The app's variables with their values.
pub(super) fn values(
    connection: &Connection,
    tenant: &Tenant,
    app: &AppName,
) -> Result<BTreeMap<VariableName, String>, ControlError> {
    Ok(rows(connection, tenant, app)?.into_iter().map(|row| (row.name, row.value)).collect())
}

/// Refuses more variables than a function's environment may hold.
pub(super) fn check(values: &BTreeMap<VariableName, String>) -> Result<(), ControlError> {
    if values.len() > MAX_ENV {
        return Err(ControlError::invalid(format!(
            "the app would have {} variables; the most is {MAX_ENV}",
            values.len()
        )));
    }
    let bytes: usize = values.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    if bytes > MAX_ENV_BYTES {
        return Err(ControlError::invalid(format!(
            "the app's variables would take {bytes} bytes together, names and values; the most is {MAX_ENV_BYTES}"
        )));
    }
    Ok(())
}

fn write(
    connection: &Connection,
    tenant: &Tenant,
    app: &AppName,
    changes: VariableChanges,
    time_ms: u64,
) -> Result<VariablesSet, ControlError> {
    // An app that is not known has nothing to unset.
    let sets = changes.values().any(Option::is_some);
    let app_created = sets && ensure_app(connection, tenant, app, time_ms)?;
    require_app(connection, tenant, app)?;
    let mut values = values(connection, tenant, app)?;
    if let Some(name) = changes.iter().find(|(name, value)| value.is_none() && !values.contains_key(*name)) {
        return Err(ControlError::NoVariable(app.clone(), name.0.clone()));
    }
    let changes: VariableChanges =
        changes.into_iter().filter(|(name, value)| values.get(name) != value.as_ref()).collect();
    let place = params![tenant.as_str(), app.as_str()];
    let newest: u64 = connection
        .prepare_cached("SELECT coalesce(max(revision), 0) FROM variable_change WHERE tenant = ?1 AND app = ?2")?
        .query_row(place, |row| row.get(0))?;
    if changes.is_empty() {
        return Ok(VariablesSet { change: None, revision: newest, app_created });
    }
    let revision = newest + 1;
    for (name, value) in &changes {
        match value {
            Some(value) => {
                values.insert(name.clone(), value.clone());
                connection
                    .prepare_cached(
                        "INSERT INTO variable (tenant, app, name, value, revision, time_ms)
                         VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT DO UPDATE
                         SET value = excluded.value, revision = excluded.revision, time_ms = excluded.time_ms",
                    )?
                    .execute(params![tenant.as_str(), app.as_str(), name.as_str(), value, revision, time_ms])?;
            }
            None => {
                values.remove(name);
                connection
                    .prepare_cached("DELETE FROM variable WHERE tenant = ?1 AND app = ?2 AND name = ?3")?
                    .execute([tenant.as_str(), app.as_str(), name.as_str()])?;
            }
        }
    }
    check(&values)?;
    let change = VariableChange { revision, time_ms, changes };
    insert_change(connection, tenant, app, &change)?;
    connection
        .prepare_cached("DELETE FROM variable_change WHERE tenant = ?1 AND app = ?2 AND revision <= ?3")?
        .execute(params![tenant.as_str(), app.as_str(), revision.saturating_sub(KEPT_CHANGES)])?;
    Ok(VariablesSet { change: Some(change), revision, app_created })
}

/// Notes a change, whose revision must be a new one.
pub(super) fn insert_change(
    connection: &Connection,
    tenant: &Tenant,
    app: &AppName,
    change: &VariableChange,
) -> minnow_store::rusqlite::Result<()> {
    let changes = serde_json::to_string(&change.changes)
        .map_err(|error| minnow_store::rusqlite::Error::ToSqlConversionFailure(error.into()))?;
    connection
        .prepare_cached(
            "INSERT INTO variable_change (tenant, app, revision, time_ms, changes) VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute(params![tenant.as_str(), app.as_str(), change.revision, change.time_ms, changes])?;
    Ok(())
}

/// Notes the value of a variable that has none.
pub(super) fn insert(
    connection: &Connection,
    tenant: &Tenant,
    app: &AppName,
    row: &VariableRow,
) -> minnow_store::rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO variable (tenant, app, name, value, revision, time_ms) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?
        .execute(params![tenant.as_str(), app.as_str(), row.name.as_str(), row.value, row.revision, row.time_ms])?;
    Ok(())
}

impl Registry {
    /// Changes an app's variables as one revision, in one transaction; an app that is not known comes about. `prepare` is
    /// given the versions that get traffic, with what they see now; when it fails nothing is changed.
    pub async fn set_variables<T: Send + 'static>(
        &self,
        tenant: &Tenant,
        app: &AppName,
        changes: VariableChanges,
        time_ms: u64,
        prepare: impl FnOnce(Vec<LiveRow>) -> Result<T, ControlError> + Send + 'static,
    ) -> Result<(VariablesSet, T), ControlError> {
        let (tenant, app) = (tenant.clone(), app.clone());
        self.database
            .write(move |connection| {
                let set = write(connection, &tenant, &app, changes, time_ms)?;
                Ok((set, prepare(deployments::rows(connection, &tenant, &app)?)?))
            })
            .await
    }

    /// An app's variables, by name.
    pub async fn variables(&self, tenant: &Tenant, app: &AppName) -> Result<Vec<VariableRow>, ControlError> {
        let (tenant, app) = (tenant.clone(), app.clone());
        self.database
            .read(move |connection| {
                require_app(connection, &tenant, &app)?;
                rows(connection, &tenant, &app)
            })
            .await
    }

    /// The changes of an app's variables, newest first: as many as are kept, and of long values as many as are read at once.
    pub async fn variable_history(&self, tenant: &Tenant, app: &AppName) -> Result<Vec<VariableChange>, ControlError> {
        let (tenant, app) = (tenant.clone(), app.clone());
        self.database
            .read(move |connection| {
                require_app(connection, &tenant, &app)?;
                let mut statement = connection.prepare_cached(
                    "SELECT revision, time_ms, changes FROM variable_change WHERE tenant = ?1 AND app = ?2
                     ORDER BY revision DESC",
                )?;
                let mut rows = statement.query([tenant.as_str(), app.as_str()])?;
                let (mut history, mut bytes) = (Vec::new(), 0);
                while let Some(row) = rows.next()?
                    && bytes < SHOWN_HISTORY_BYTES
                {
                    bytes += row.get_ref(2)?.as_str().map_or(0, str::len);
                    history.push(VariableChange {
                        revision: row.get(0)?,
                        time_ms: row.get(1)?,
                        changes: json(row, 2)?,
                    });
                }
                Ok(history)
            })
            .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        registry::tests::{app, registry},
        stores::DataFate,
    };

    fn changes(changes: &[(&str, Option<&str>)]) -> VariableChanges {
        changes.iter().map(|(name, value)| (name.parse().unwrap(), value.map(Into::into))).collect()
    }

    async fn set(
        registry: &Registry,
        given: &[(&str, Option<&str>)],
        time_ms: u64,
    ) -> Result<VariablesSet, ControlError> {
        let set = registry.set_variables(&Tenant::default(), &app(), changes(given), time_ms, |_| Ok(())).await;
        set.map(|(set, ())| set)
    }

    async fn listed(registry: &Registry) -> Vec<(String, String, u64, u64)> {
        let rows = registry.variables(&Tenant::default(), &app()).await.unwrap();
        rows.into_iter().map(|row| (row.name.to_string(), row.value, row.revision, row.time_ms)).collect()
    }

    #[tokio::test]
    async fn each_change_is_a_revision_and_what_is_the_same_is_none() {
        let (_temp, registry) = registry();
        let first = set(&registry, &[("A", Some("1")), ("B", Some("2"))], 10).await.unwrap();
        assert!(first.app_created && first.revision == 1);
        let second = set(&registry, &[("A", Some("1")), ("B", Some(""))], 20).await.unwrap();
        assert_eq!(second.change.unwrap().changes, changes(&[("B", Some(""))]));
        assert_eq!(
            set(&registry, &[("A", Some("1"))], 30).await.unwrap(),
            VariablesSet { change: None, revision: 2, app_created: false }
        );
        set(&registry, &[("A", None), ("C", Some("3"))], 40).await.unwrap();
        assert_eq!(listed(&registry).await, [("B".into(), "".into(), 2, 20), ("C".into(), "3".into(), 3, 40)]);
        let history = registry.variable_history(&Tenant::default(), &app()).await.unwrap();
        let expected = [
            (3, 40, changes(&[("A", None), ("C", Some("3"))])),
            (2, 20, changes(&[("B", Some(""))])),
            (1, 10, changes(&[("A", Some("1")), ("B", Some("2"))])),
        ];
        assert_eq!(history.len(), 3);
        for (change, (revision, time_ms, changes)) in history.into_iter().zip(expected) {
            assert_eq!(change, VariableChange { revision, time_ms, changes });
        }
    }

    #[tokio::test]
    async fn what_cannot_be_is_refused_and_changes_nothing() {
        let (_temp, registry) = registry();
        assert!(matches!(set(&registry, &[("A", None)], 1).await, Err(ControlError::NoApp(_))));
        set(&registry, &[("A", Some("1"))], 1).await.unwrap();
        let error = set(&registry, &[("A", Some("2")), ("B", None)], 2).await.unwrap_err();
        assert!(matches!(&error, ControlError::NoVariable(..)) && error.to_string().contains("`B`"), "{error}");
        let long = "x".repeat(MAX_ENV_BYTES);
        let many: VariableChanges =
            (0..MAX_ENV).map(|number| (format!("V{number}").parse().unwrap(), Some(String::new()))).collect();
        let (tenant, app) = (Tenant::default(), app());
        for changes in [changes(&[("LONG", Some(&long))]), many] {
            let error = registry.set_variables(&tenant, &app, changes, 2, |_| Ok(())).await.unwrap_err();
            assert!(error.to_string().contains("the most is"), "{error}");
        }
        let failing = |_| Err::<(), _>(ControlError::Corrupt("injected".into()));
        registry.set_variables(&tenant, &app, changes(&[("A", Some("3"))]), 3, failing).await.unwrap_err();
        assert_eq!(listed(&registry).await, [("A".into(), "1".into(), 1, 1)]);
        assert_eq!(registry.variable_history(&tenant, &app).await.unwrap().len(), 1);
    }

    #[tokio::test]
    async fn the_history_is_bounded_and_goes_with_the_app() {
        let (_temp, registry) = registry();
        for number in 0..KEPT_CHANGES + 5 {
            set(&registry, &[("A", Some(&number.to_string()))], number).await.unwrap();
        }
        let (tenant, app) = (Tenant::default(), app());
        let history = registry.variable_history(&tenant, &app).await.unwrap();
        assert_eq!((history.len() as u64, history[0].revision), (KEPT_CHANGES, KEPT_CHANGES + 5));
        registry.delete_app(&tenant, &app, DataFate::Keep).await.unwrap();
        registry.end_deletion(&tenant, &app).await.unwrap();
        assert_eq!(set(&registry, &[("A", Some("1"))], 1).await.unwrap().revision, 1);
    }
}
