//! Apps that are deleted and whose data is still there.

use minnow_model::{AppName, Tenant};
use minnow_store::rusqlite::{Connection, params};

use super::{Registry, collect, parse};
use crate::{ControlError, stores::DataFate};

/// What is to become of the data of an app whose deletion is not at its end; `None` where there is no such app.
pub(super) fn fate(connection: &Connection, tenant: &Tenant, app: &AppName) -> Result<Option<DataFate>, ControlError> {
    let sql = "SELECT fate FROM deletion WHERE tenant = ?1 AND app = ?2";
    Ok(collect(connection, sql, [tenant.as_str(), app.as_str()], |row| parse(row, 0))?.into_iter().next())
}

impl Registry {
    /// Deletes an app with its versions and deployments, and notes in the same transaction what is to become of its data: until
    /// [`Registry::end_deletion`] no app of this name comes about.
    pub async fn delete_app(&self, tenant: &Tenant, app: &AppName, fate: DataFate) -> Result<(), ControlError> {
        let (tenant, app) = (tenant.clone(), app.clone());
        self.database
            .write(move |connection| {
                let deleted = connection
                    .prepare_cached("DELETE FROM app WHERE tenant = ?1 AND name = ?2")?
                    .execute([tenant.as_str(), app.as_str()])?;
                if deleted == 0 {
                    return Err(ControlError::NoApp(app));
                }
                connection
                    .prepare_cached("INSERT INTO deletion (tenant, app, fate) VALUES (?1, ?2, ?3)")?
                    .execute(params![tenant.as_str(), app.as_str(), fate.as_str()])?;
                Ok(())
            })
            .await
    }

    /// Every app whose deletion is not at its end, of all tenants.
    pub async fn deletions(&self) -> Result<Vec<(Tenant, AppName)>, ControlError> {
        self.database
            .read(move |connection| {
                collect(connection, "SELECT tenant, app FROM deletion", [], |row| Ok((parse(row, 0)?, parse(row, 1)?)))
            })
            .await
    }

    /// What is to become of the data of an app whose deletion is not at its end; `None` where there is no such app.
    pub async fn fate(&self, tenant: &Tenant, app: &AppName) -> Result<Option<DataFate>, ControlError> {
        let (tenant, app) = (tenant.clone(), app.clone());
        self.database.read(move |connection| fate(connection, &tenant, &app)).await
    }

    /// The app's data is gone: its name is free.
    pub async fn end_deletion(&self, tenant: &Tenant, app: &AppName) -> Result<(), ControlError> {
        let (tenant, app) = (tenant.clone(), app.clone());
        self.database
            .write(move |connection| {
                connection
                    .prepare_cached("DELETE FROM deletion WHERE tenant = ?1 AND app = ?2")?
                    .execute([tenant.as_str(), app.as_str()])?;
                Ok(())
            })
            .await
    }
}
