//! The contract of [`Sql`], by what a function would see.

mod bounds;
mod guard;
mod migrate;
mod transactions;
mod values;

use std::time::Duration;

use minnow_model::StoreId;
use tempfile::TempDir;

use super::*;

pub(super) const RO: Access = Access::ReadOnly;
pub(super) const RW: Access = Access::ReadWrite;

pub(super) fn id(name: &str) -> StoreId {
    StoreId { tenant: "default".parse().unwrap(), app: "shop".parse().unwrap(), name: name.parse().unwrap() }
}

pub(super) fn quick() -> SqlLimits {
    SqlLimits { statement: Duration::from_millis(400), transaction: Duration::from_millis(800), ..SqlLimits::default() }
}

/// So long that what waits for it fails, and not so long that a thread which computes until then holds up all tests.
pub(super) const NEVER: Duration = Duration::from_secs(120);

/// What ends without waiting for [`NEVER`]; what does not fails, and does not hang.
pub(super) async fn in_time<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), what).await.expect("it waits for what does not end")
}

/// Gives what does not end a moment in which it begins to run, and then goes away. Where it needs longer, less is tested, and nothing
/// fails for it.
pub(super) async fn begun<T>(what: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(Duration::from_millis(50), what).await.ok()
}

/// Some stores in a folder that goes with them.
pub(super) struct Stores {
    pub(super) sql: Sql,
    pub(super) temp: TempDir,
    pub(super) main: StoreId,
}

impl Stores {
    pub(super) fn new() -> Self {
        Self::with(SqlLimits::default())
    }

    pub(super) fn with(limits: SqlLimits) -> Self {
        let temp = tempfile::tempdir().unwrap();
        Self { sql: Sql::open(temp.path(), limits).unwrap(), temp, main: id("main") }
    }

    pub(super) async fn try_run(&self, sql: &str, params: impl Into<Vec<Value>>) -> Result<Rows, SqlError> {
        self.sql.run(&self.main, RW, Statement::new(sql, params)).await
    }

    pub(super) async fn run(&self, sql: &str) -> Rows {
        self.try_run(sql, []).await.unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    pub(super) async fn refused(&self, sql: &str) -> String {
        self.try_run(sql, []).await.expect_err(sql).to_string()
    }

    /// The one integer that a statement answers.
    pub(super) async fn number(&self, sql: &str) -> i64 {
        match self.run(sql).await.rows.as_slice() {
            [row] => match row.as_slice() {
                [Value::Integer(number)] => *number,
                other => panic!("{sql}: {other:?}"),
            },
            other => panic!("{sql}: {other:?}"),
        }
    }
}

pub(super) fn statement(sql: &str) -> Statement {
    Statement::new(sql, [])
}

/// Never ends by itself.
pub(super) const ENDLESS: &str =
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n";
