//! SQL for functions: a SQLite database for each store.
//!
//! Read in this order: [`value`] (what goes in and out, and the bounds), [`error`], `store` (which way a statement takes), `session` (one
//! connection), `guard` (what a statement may do and for how long), `functions` (some that SQLite has too, in bounded time), `memory` (how much it may take), `queue` (who writes, and the shared commit),
//! [`transaction`], [`cursor`], `migrate`, `dump`.
//!
//! What a write has answered with `Ok` is on the disk. A read sees every write that was answered before it.

pub mod cursor;
mod dump;
pub mod error;
mod functions;
mod guard;
pub(crate) mod memory;
mod migrate;
mod queue;
mod session;
mod store;
pub mod transaction;
pub mod value;

use std::{path::Path, sync::Arc, time::Instant};

use minnow_model::{AppName, StoreId, StoreName, Tenant};

pub use cursor::Cursor;
pub use error::SqlError;
pub use transaction::Transaction;
pub use value::{
    Access, MAX_BATCH, MAX_PARAMS, MAX_SCRIPT_BYTES, MAX_STATEMENT_BYTES, MAX_VALUE_BYTES, Migration, Rows, SqlLimits,
    Statement, Value,
};

use self::{session::Session, store::Store};
use crate::{
    OpenBounds, OpenStores, StoreError,
    snapshot::{self, Expected, Hold},
};

/// The SQL stores of a node. Cheap to clone.
#[derive(Clone)]
pub struct Sql {
    stores: OpenStores<Store>,
    limits: SqlLimits,
}

impl Sql {
    /// The stores under `dir`, which is created where it is missing. Blocking.
    pub fn open(dir: &Path, limits: SqlLimits) -> Result<Self, StoreError> {
        memory::install()?;
        let stores = OpenStores::new(dir, OpenBounds::default(), move |path| Store::open(path, limits))?;
        Ok(Self { stores, limits })
    }

    /// What statements and stores may take.
    pub fn limits(&self) -> &SqlLimits {
        &self.limits
    }

    /// Runs one statement. A read by primary key that ran before takes some microseconds, on the caller's thread.
    pub async fn run(&self, store: &StoreId, access: Access, statement: Statement) -> Result<Rows, SqlError> {
        check(&statement)?;
        match self.stores.existing(store).await? {
            Some(open) => open.run(access, statement).await,
            None => match self
                .empty(store, move |session, limits| {
                    session.run(&statement, Instant::now() + limits.statement, true).map_err(|error| (error, statement))
                })
                .await?
            {
                Err((SqlError::ReadOnly, statement)) if access == Access::ReadWrite => {
                    self.stores.or_create(store).await?.run(access, statement).await
                }
                result => result.map_err(|(error, _)| error),
            },
        }
    }

    /// Runs one statement whose rows are read piece by piece. One that writes has run to its end before its first row is read.
    pub async fn query(&self, store: &StoreId, access: Access, statement: Statement) -> Result<Cursor, SqlError> {
        check(&statement)?;
        let Some(open) = self.stores.existing(store).await? else {
            return Ok(Cursor::kept(self.run(store, access, statement).await?));
        };
        match Cursor::open(&open, statement.clone()).await {
            Err(SqlError::ReadOnly) if access == Access::ReadWrite => {
                Ok(Cursor::kept(open.run(access, statement).await?))
            }
            result => result,
        }
    }

    /// Runs statements in one transaction: all of them or none.
    pub async fn batch(
        &self,
        store: &StoreId,
        access: Access,
        statements: Vec<Statement>,
    ) -> Result<Vec<Rows>, SqlError> {
        if statements.len() > MAX_BATCH {
            return Err(SqlError::batch_too_long());
        }
        statements.iter().try_for_each(check)?;
        match self.existing_or_created(store, access).await? {
            Some(open) => open.batch(access, statements).await,
            None => {
                self.empty(store, move |session, limits| {
                    session.run_all(&statements, Instant::now() + limits.statement, true)
                })
                .await?
            }
        }
    }

    /// Runs the statements of a text in one transaction, and counts them. What they answer is dropped. `BEGIN`, `COMMIT` and
    /// `PRAGMA foreign_keys`, as dumps have them, do nothing.
    pub async fn script(&self, store: &StoreId, access: Access, sql: String) -> Result<u64, SqlError> {
        if sql.len() > MAX_SCRIPT_BYTES {
            return Err(SqlError::script_too_long());
        }
        match self.existing_or_created(store, access).await? {
            Some(open) => open.script(access, sql).await,
            None => self.empty(store, move |session, _| session.reading_script(&sql)).await?,
        }
    }

    /// Begins a transaction. One with [`Access::ReadWrite`] keeps all other writes of the store waiting.
    pub async fn begin(&self, store: &StoreId, access: Access) -> Result<Transaction, SqlError> {
        // Also to read: a transaction over a database that does not exist yet is not worth a way of its own.
        let open = self.stores.or_create(store).await?;
        Transaction::begin(&open, access).await
    }

    /// Applies the migrations that have not run yet, in the order given, and tells which. The first error ends it: nothing of that
    /// migration is kept, those before it are.
    pub async fn migrate(&self, store: &StoreId, migrations: Vec<Migration>) -> Result<Vec<String>, SqlError> {
        let open = self.stores.or_create(store).await?;
        let lease = open.queue.take(&open).await?;
        tokio::task::spawn_blocking(move || migrate::migrate(lease, &migrations))
            .await
            .map_err(|_| SqlError::Stopped)?
    }

    /// How many calls wait for the writer of a store.
    pub async fn waiting(&self, store: &StoreId) -> Result<usize, SqlError> {
        Ok(self.stores.existing(store).await?.map_or(0, |open| open.queue.waiting()))
    }

    /// The stores of an app that have a file, by name, with their bytes on the disk.
    pub fn list_stores(&self, tenant: &Tenant, app: &AppName) -> Result<Vec<(StoreName, u64)>, SqlError> {
        Ok(self.stores.list(tenant, app)?)
    }

    /// Removes all stores of an app, when the calls that use them have ended.
    pub async fn delete_app(&self, tenant: &Tenant, app: &AppName) -> Result<(), SqlError> {
        Ok(self.stores.delete_app(tenant, app, |_| ()).await?)
    }

    /// Moves all stores of an app to the folder `to`, all or none. False where it has none.
    pub async fn move_app(&self, tenant: &Tenant, app: &AppName, to: &Path) -> Result<bool, SqlError> {
        Ok(self.stores.move_app(tenant, app, to, |_| ()).await?)
    }

    /// Keeps the writes of a store waiting, for a backup; `None` where it has no file.
    pub async fn hold(&self, store: &StoreId) -> Result<Option<Hold>, SqlError> {
        let Some(open) = self.stores.existing(store).await? else { return Ok(None) };
        let lease = open.queue.take(&open).await?;
        Ok(Some(Hold::new(self.stores.path(store), lease)))
    }

    /// Whether the file of a store, as a backup has it, is sound. Blocking.
    pub fn check_file(path: &Path) -> Result<(), StoreError> {
        snapshot::check(path, Expected::Any)
    }

    /// Makes the files in the folder `from` the stores of an app that has none: all or none.
    pub async fn adopt_app(&self, tenant: &Tenant, app: &AppName, from: &Path) -> Result<(), SqlError> {
        Ok(self.stores.adopt_app(tenant, app, from).await?)
    }

    /// The apps that have stores.
    pub fn apps(&self) -> Result<Vec<(Tenant, AppName)>, SqlError> {
        Ok(self.stores.apps()?)
    }

    async fn existing_or_created(&self, store: &StoreId, access: Access) -> Result<Option<Arc<Store>>, SqlError> {
        Ok(match access {
            Access::ReadOnly => self.stores.existing(store).await?,
            Access::ReadWrite => Some(self.stores.or_create(store).await?),
        })
    }

    /// Reads from a store that was never written, without making a file for it.
    async fn empty<T: Send + 'static>(
        &self,
        store: &StoreId,
        work: impl FnOnce(&Session, SqlLimits) -> T + Send + 'static,
    ) -> Result<T, SqlError> {
        let (path, limits) = (self.stores.path(store), self.limits);
        let read = tokio::task::spawn_blocking(move || Ok(work(&Session::empty(&path, limits)?, limits)));
        read.await.map_err(|_| SqlError::Stopped)?
    }
}

/// What does not need SQLite to be refused.
fn check(statement: &Statement) -> Result<(), SqlError> {
    if statement.sql.len() > MAX_STATEMENT_BYTES {
        return Err(SqlError::statement_too_long());
    }
    if statement.params.len() > MAX_PARAMS {
        return Err(SqlError::Refused(format!("a statement has at most {MAX_PARAMS} parameters")));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
