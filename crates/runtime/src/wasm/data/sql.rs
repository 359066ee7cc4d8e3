//! `minnow:sql`: the databases of an app.

use minnow_model::{StoreId, StoreKind};
use minnow_store::sql::{Access, Cursor, Rows, Sql, SqlError, Statement, Transaction, Value};
use wasmtime::component::{Linker, Resource};

use super::{DataView, HasDataView, failure::Told};
use crate::{
    data::{Denied, Need},
    wasm::state::GuestState,
};

/// Rows that one call of `next` returns at most.
const MAX_ROWS: usize = 10_000;

/// Cursors that a sandbox may have at once. One of a statement that writes keeps all its rows, up to 16 MiB of the host's memory;
/// one of a statement that reads has one of the 8 connections that a database has for them.
const MAX_CURSORS: u32 = 8;

mod bindings {
    wasmtime::component::bindgen!({
        path: "../../wit/sql",
        world: "minnow:sql/imports",
        imports: {
            "minnow:sql/database.[static]connection.open": trappable,
            "minnow:sql/database.[method]cursor.columns": trappable,
            default: async | trappable,
        },
        with: {
            "minnow:sql/database.connection": super::Connection,
            "minnow:sql/database.cursor": minnow_store::sql::Cursor,
            "minnow:sql/database.transaction": minnow_store::sql::Transaction,
        },
        trappable_error_type: { "minnow:sql/database.error" => super::Failure },
    });
}

use bindings::minnow::sql::database;

/// A database that a guest has opened.
pub struct Connection {
    store: StoreId,
    access: Access,
}

/// Why a call gives the guest nothing.
pub type Failure = super::failure::Failure<SqlError>;

impl Told<SqlError> for database::Error {
    fn denied(denied: Denied) -> Self {
        match denied {
            Denied::ReadOnly { .. } => Self::ReadOnly,
            denied => Self::NotGranted(denied.to_string()),
        }
    }

    fn refused(why: String) -> Self {
        Self::Refused(why)
    }

    fn other(message: String) -> Self {
        Self::Other(message)
    }

    fn of(error: SqlError) -> Result<Self, SqlError> {
        Ok(match error {
            SqlError::ReadOnly => Self::ReadOnly,
            SqlError::Timeout => Self::Timeout,
            SqlError::Full | SqlError::DiskFull => Self::Full,
            SqlError::Busy => Self::Busy,
            error @ SqlError::TooLarge(..) => Self::TooLarge(error.to_string()),
            error => return Err(error),
        })
    }
}

impl From<database::Statement> for Statement {
    fn from(statement: database::Statement) -> Self {
        Self { sql: statement.sql, params: statement.params.into_iter().map(Into::into).collect() }
    }
}

impl From<database::Value> for Value {
    fn from(value: database::Value) -> Self {
        match value {
            database::Value::Null => Self::Null,
            database::Value::Integer(number) => Self::Integer(number),
            database::Value::Real(number) => Self::Real(number),
            database::Value::Text(text) => Self::Text(text),
            database::Value::Blob(bytes) => Self::Blob(bytes),
        }
    }
}

impl From<Value> for database::Value {
    fn from(value: Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Integer(number) => Self::Integer(number),
            Value::Real(number) => Self::Real(number),
            Value::Text(text) => Self::Text(text),
            Value::Blob(bytes) => Self::Blob(bytes),
        }
    }
}

fn rows(found: Rows) -> database::Rows {
    let Rows { columns, rows, changes, last_insert_rowid } = found;
    database::Rows { columns, rows: many(rows), changes, last_insert_rowid }
}

fn many(found: Vec<Vec<Value>>) -> Vec<Vec<database::Value>> {
    found.into_iter().map(|row| row.into_iter().map(Into::into).collect()).collect()
}

impl DataView<'_> {
    fn sql(&self, connection: &Resource<Connection>) -> wasmtime::Result<(Sql, StoreId, Access)> {
        let Connection { store, access } = self.table.get(connection)?;
        Ok((self.data()?.sql.clone(), store.clone(), *access))
    }
}

impl database::Host for DataView<'_> {
    fn convert_error(&mut self, failure: Failure) -> wasmtime::Result<database::Error> {
        self.tell(failure)
    }
}

impl database::HostConnection for DataView<'_> {
    fn open(&mut self, name: String) -> Result<Resource<Connection>, Failure> {
        let granted = self.function()?.store(StoreKind::Sql, &name, Need::Read)?;
        let access = if granted.read_only { Access::ReadOnly } else { Access::ReadWrite };
        let connection = Connection { store: granted.store.clone(), access };
        Ok(self.table.push(connection)?)
    }

    async fn run(
        &mut self,
        connection: Resource<Connection>,
        statement: database::Statement,
    ) -> Result<database::Rows, Failure> {
        let (sql, store, access) = self.sql(&connection)?;
        Ok(rows(sql.run(&store, access, statement.into()).await?))
    }

    async fn query(
        &mut self,
        connection: Resource<Connection>,
        statement: database::Statement,
    ) -> Result<Resource<Cursor>, Failure> {
        let (sql, store, access) = self.sql(&connection)?;
        if self.open.cursors >= MAX_CURSORS {
            let why = format!(
                "{MAX_CURSORS} cursors are open, which is the most; drop one first, or run the statement as a whole"
            );
            return Err(Failure::Refused(why));
        }
        let cursor = sql.query(&store, access, statement.into()).await?;
        let handle = self.table.push(cursor)?;
        self.open.cursors += 1;
        Ok(handle)
    }

    async fn batch(
        &mut self,
        connection: Resource<Connection>,
        statements: Vec<database::Statement>,
    ) -> Result<Vec<database::Rows>, Failure> {
        let (sql, store, access) = self.sql(&connection)?;
        let statements = statements.into_iter().map(Into::into).collect();
        Ok(sql.batch(&store, access, statements).await?.into_iter().map(rows).collect())
    }

    async fn script(&mut self, connection: Resource<Connection>, script: String) -> Result<u64, Failure> {
        let (sql, store, access) = self.sql(&connection)?;
        Ok(sql.script(&store, access, script).await?)
    }

    async fn begin(&mut self, connection: Resource<Connection>) -> Result<Resource<Transaction>, Failure> {
        let (sql, store, access) = self.sql(&connection)?;
        let transaction = sql.begin(&store, access).await?;
        Ok(self.hold(transaction)?)
    }

    async fn drop(&mut self, connection: Resource<Connection>) -> wasmtime::Result<()> {
        self.table.delete(connection)?;
        Ok(())
    }
}

impl database::HostCursor for DataView<'_> {
    fn columns(&mut self, cursor: Resource<Cursor>) -> wasmtime::Result<Vec<String>> {
        Ok(self.table.get(&cursor)?.columns().to_vec())
    }

    async fn next(&mut self, cursor: Resource<Cursor>, most: u32) -> Result<Vec<Vec<database::Value>>, Failure> {
        let most = usize::try_from(most).unwrap_or(MAX_ROWS).clamp(1, MAX_ROWS);
        Ok(many(self.table.get_mut(&cursor)?.next(most).await?))
    }

    async fn drop(&mut self, cursor: Resource<Cursor>) -> wasmtime::Result<()> {
        self.table.delete(cursor)?;
        self.open.cursors -= 1;
        Ok(())
    }
}

impl database::HostTransaction for DataView<'_> {
    async fn run(
        &mut self,
        transaction: Resource<Transaction>,
        statement: database::Statement,
    ) -> Result<database::Rows, Failure> {
        Ok(rows(self.table.get_mut(&transaction)?.run(statement.into()).await?))
    }

    async fn commit(&mut self, transaction: Resource<Transaction>) -> Result<(), Failure> {
        Ok(self.let_go(transaction)?.commit().await?)
    }

    async fn rollback(&mut self, transaction: Resource<Transaction>) -> Result<(), Failure> {
        // Dropped, it is rolled back.
        self.let_go(transaction)?;
        Ok(())
    }

    async fn drop(&mut self, transaction: Resource<Transaction>) -> wasmtime::Result<()> {
        self.let_go(transaction)?;
        Ok(())
    }
}

pub(super) fn link(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    database::add_to_linker::<_, HasDataView>(linker, GuestState::data)
}
