//! What the clock has started: when each schedule was due last, and the ticks that are on their way. One small database of the node,
//! which has asynchronous invokes too (`invokes::rows`).

use std::path::Path;

use minnow_model::{AppName, FunctionName, ScheduleName, Tenant};
use minnow_store::{Database, StoreError, rusqlite};
use rusqlite::{Connection, Row, params};

use crate::invokes;

/// What [`Database::open`] runs, in order. Entries are appended, never changed.
const MIGRATIONS: &[&str] = &["
-- `due` is the schedule in words. When it changes, the schedule begins anew at `since_ms`. Nothing at or before `last_ms` runs.
CREATE TABLE schedule (
    tenant   TEXT NOT NULL,
    app      TEXT NOT NULL,
    function TEXT NOT NULL,
    name     TEXT NOT NULL,
    due      TEXT NOT NULL,
    since_ms INTEGER NOT NULL,
    last_ms  INTEGER,
    PRIMARY KEY (tenant, app, function, name)
) STRICT, WITHOUT ROWID;

-- What was due and is not done. `asked` is 1 for a run that somebody asked for.
CREATE TABLE tick (
    tenant   TEXT NOT NULL,
    app      TEXT NOT NULL,
    function TEXT NOT NULL,
    name     TEXT NOT NULL,
    due_ms   INTEGER NOT NULL,
    asked    INTEGER NOT NULL,
    PRIMARY KEY (tenant, app, function, name, due_ms, asked)
) STRICT, WITHOUT ROWID;
", invokes::MIGRATION];

/// Which schedule.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) tenant: Tenant,
    pub(crate) app: AppName,
    pub(crate) function: FunctionName,
    pub(crate) name: ScheduleName,
}

/// One due time of a schedule, in milliseconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Tick {
    pub(crate) key: Key,
    pub(crate) due_ms: u64,
    /// Somebody asked for it.
    pub(crate) asked: bool,
}

impl Tick {
    /// The id of its event, which is the same each time that it is delivered.
    pub(crate) fn id(&self) -> String {
        let asked = if self.asked { "-asked" } else { "" };
        format!("{}-{}{asked}", self.key.name, self.due_ms)
    }
}

/// How it stands with a schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ScheduleRow {
    pub(crate) function: FunctionName,
    pub(crate) name: ScheduleName,
    pub(crate) due: String,
    pub(crate) since_ms: u64,
    pub(crate) last_ms: Option<u64>,
}

/// The tables, with one method for each question and each change.
pub(crate) struct Rows(pub(crate) Database);

impl Rows {
    /// Opens the database. Blocking.
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        Ok(Self(Database::open(path, MIGRATIONS)?))
    }

    /// The ticks that are not done, in their order. Blocking.
    pub(crate) fn ticks(&self) -> Result<Vec<Tick>, StoreError> {
        self.0.read_here(|connection| {
            let sql = "SELECT tenant, app, function, name, due_ms, asked FROM tick ORDER BY tenant, app, function, name, due_ms";
            collect(connection, sql, [], |row| {
                let key = Key { tenant: parse(row, 0)?, app: parse(row, 1)?, function: parse(row, 2)?, name: parse(row, 3)? };
                Ok(Tick { key, due_ms: row.get(4)?, asked: row.get(5)? })
            })
        })
    }

    /// The schedules of an app.
    pub(crate) async fn schedules(&self, tenant: &Tenant, app: &AppName) -> Result<Vec<ScheduleRow>, StoreError> {
        let (tenant, app) = (tenant.clone(), app.clone());
        self.0
            .read(move |connection| {
                let sql = "SELECT function, name, due, since_ms, last_ms FROM schedule WHERE tenant = ?1 AND app = ?2";
                collect(connection, sql, params![tenant.as_str(), app.as_str()], |row| {
                    Ok(ScheduleRow {
                        function: parse(row, 0)?,
                        name: parse(row, 1)?,
                        due: row.get(2)?,
                        since_ms: row.get(3)?,
                        last_ms: row.get(4)?,
                    })
                })
            })
            .await
    }

    /// Begins `begun` anew and removes `gone`, with their ticks.
    pub(crate) async fn change_schedules(
        &self,
        tenant: &Tenant,
        app: &AppName,
        begun: Vec<ScheduleRow>,
        gone: Vec<(FunctionName, ScheduleName)>,
    ) -> Result<(), StoreError> {
        let (tenant, app) = (tenant.clone(), app.clone());
        self.0
            .write(move |connection| {
                for ScheduleRow { function, name, due, since_ms, last_ms } in begun {
                    let sql = "INSERT OR REPLACE INTO schedule (tenant, app, function, name, due, since_ms, last_ms) \
                               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
                    let row = params![
                        tenant.as_str(),
                        app.as_str(),
                        function.as_str(),
                        name.as_str(),
                        due,
                        since_ms,
                        last_ms
                    ];
                    connection.prepare_cached(sql)?.execute(row)?;
                }
                for (function, name) in gone {
                    let key = params![tenant.as_str(), app.as_str(), function.as_str(), name.as_str()];
                    for table in ["schedule", "tick"] {
                        let sql = format!(
                            "DELETE FROM {table} WHERE tenant = ?1 AND app = ?2 AND function = ?3 AND name = ?4"
                        );
                        connection.prepare_cached(&sql)?.execute(key)?;
                    }
                }
                Ok(())
            })
            .await
    }

    /// Notes that these ticks are due, those that run and those that do not. A second time is as the first.
    pub(crate) async fn note(&self, ticks: Vec<(Tick, bool)>) -> Result<(), StoreError> {
        self.0
            .write(move |connection| {
                for (Tick { key, due_ms, asked }, runs) in ticks {
                    let Key { tenant, app, function, name } = &key;
                    let key = [tenant.as_str(), app.as_str(), function.as_str(), name.as_str()];
                    let [tenant, app, function, name] = key;
                    if !asked {
                        // A time far ahead is of a clock that was wrong.
                        let sql = "UPDATE schedule SET last_ms = CASE WHEN last_ms BETWEEN ?5 AND ?5 + 86400000 THEN last_ms ELSE ?5 END \
                                   WHERE tenant = ?1 AND app = ?2 AND function = ?3 AND name = ?4";
                        connection.prepare_cached(sql)?.execute(params![tenant, app, function, name, due_ms])?;
                    }
                    if runs {
                        let sql = "INSERT OR IGNORE INTO tick (tenant, app, function, name, due_ms, asked) \
                                   VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
                        connection.prepare_cached(sql)?.execute(params![tenant, app, function, name, due_ms, asked])?;
                    }
                }
                Ok(())
            })
            .await
    }

    /// The tick is done.
    pub(crate) async fn finish(&self, tick: Tick) -> Result<(), StoreError> {
        self.0
            .write(move |connection| {
                let Tick { key: Key { tenant, app, function, name }, due_ms, asked } = &tick;
                let sql = "DELETE FROM tick WHERE tenant = ?1 AND app = ?2 AND function = ?3 AND name = ?4 AND due_ms = ?5 \
                           AND asked = ?6";
                let row = params![tenant.as_str(), app.as_str(), function.as_str(), name.as_str(), due_ms, asked];
                connection.prepare_cached(sql)?.execute(row)?;
                Ok(())
            })
            .await
    }

    /// Forgets a deleted app.
    pub(crate) async fn forget_app(&self, tenant: &Tenant, app: &AppName) -> Result<(), StoreError> {
        let (tenant, app) = (tenant.clone(), app.clone());
        self.0
            .write(move |connection| {
                let own = [
                    "DELETE FROM schedule WHERE tenant = ?1 AND app = ?2",
                    "DELETE FROM tick WHERE tenant = ?1 AND app = ?2",
                ];
                for sql in own.into_iter().chain(invokes::FORGET) {
                    connection.prepare_cached(sql)?.execute(params![tenant.as_str(), app.as_str()])?;
                }
                Ok(())
            })
            .await
    }
}

/// Reads a text column as `T`. Only this file writes it, so that another form means damage.
pub(crate) fn parse<T: std::str::FromStr>(row: &Row<'_>, column: usize) -> rusqlite::Result<T>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    let text: String = row.get(column)?;
    text.parse().map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, Box::new(error))
    })
}

pub(crate) fn collect<T>(
    connection: &Connection,
    sql: &str,
    params: impl rusqlite::Params,
    read: impl Fn(&Row<'_>) -> rusqlite::Result<T>,
) -> Result<Vec<T>, StoreError> {
    let mut statement = connection.prepare_cached(sql)?;
    let rows = statement.query_map(params, |row| read(row))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(app: &str, name: &str) -> Key {
        Key {
            tenant: Tenant::default(),
            app: app.parse().unwrap(),
            function: "work".parse().unwrap(),
            name: name.parse().unwrap(),
        }
    }

    fn row(name: &str, since_ms: u64, last_ms: Option<u64>) -> ScheduleRow {
        let function = "work".parse().unwrap();
        ScheduleRow { function, name: name.parse().unwrap(), due: "@every 1s".into(), since_ms, last_ms }
    }

    #[tokio::test]
    async fn ticks_are_there_until_they_are_done_also_after_a_restart() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("events.db");
        let rows = Rows::open(&path).unwrap();
        let (tenant, shop) = (Tenant::default(), "shop".parse().unwrap());
        rows.change_schedules(&tenant, &shop, vec![row("sweep", 100, None)], Vec::new()).await.unwrap();
        let tick = |due_ms, asked| Tick { key: key("shop", "sweep"), due_ms, asked };
        rows.note(vec![(tick(200, false), true), (tick(300, false), false), (tick(250, true), true)]).await.unwrap();
        rows.note(vec![(tick(200, false), true)]).await.unwrap();
        drop(rows);

        let rows = Rows::open(&path).unwrap();
        assert_eq!(rows.schedules(&tenant, &shop).await.unwrap(), [row("sweep", 100, Some(300))]);
        assert_eq!(rows.ticks().unwrap(), [tick(200, false), tick(250, true)]);
        rows.finish(tick(200, false)).await.unwrap();
        assert_eq!(rows.ticks().unwrap(), [tick(250, true)]);
    }

    #[tokio::test]
    async fn what_is_gone_takes_its_ticks_along_and_nothing_else() {
        let temp = tempfile::tempdir().unwrap();
        let rows = Rows::open(&temp.path().join("events.db")).unwrap();
        let (tenant, shop, other): (_, AppName, AppName) =
            (Tenant::default(), "shop".parse().unwrap(), "other".parse().unwrap());
        for app in [&shop, &other] {
            rows.change_schedules(&tenant, app, vec![row("a", 1, None), row("b", 1, None)], Vec::new()).await.unwrap();
            let ticks = ["a", "b"].map(|name| (Tick { key: key(app.as_str(), name), due_ms: 5, asked: false }, true));
            rows.note(ticks.into()).await.unwrap();
        }
        rows.change_schedules(&tenant, &shop, Vec::new(), vec![("work".parse().unwrap(), "a".parse().unwrap())])
            .await
            .unwrap();
        assert_eq!(rows.schedules(&tenant, &shop).await.unwrap(), [row("b", 1, Some(5))]);
        assert_eq!(rows.ticks().unwrap().len(), 3);
        rows.forget_app(&tenant, &other).await.unwrap();
        assert_eq!(rows.schedules(&tenant, &other).await.unwrap(), []);
        assert_eq!(rows.ticks().unwrap().len(), 1);
    }

    #[test]
    fn the_id_of_a_tick_is_of_its_schedule_and_its_time() {
        let tick = |asked| Tick { key: key("shop", "sweep"), due_ms: 1_700_000_000_000, asked };
        assert_eq!(tick(false).id(), "sweep-1700000000000");
        assert_eq!(tick(true).id(), "sweep-1700000000000-asked");
    }
}
