//! Databases as they are at one moment, for backups, and whether a database that comes out of one is sound.
//!
//! A [`Hold`] keeps the writes of one store waiting. With a hold on each store of an app there is one moment for all of them, in which a
//! [`Snapshot`] of each is begun; that takes microseconds, and the holds are given up before anything is copied.

use std::{
    fs::{File, OpenOptions},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rusqlite::{
    Connection, OpenFlags,
    backup::{Backup, StepResult},
    config::DbConfig,
};

use crate::{
    StoreError,
    database::{connect_alone, log_bound, log_is_over},
};

/// Pages that are copied before it is asked whether to go on: 4 MiB, some milliseconds.
const STEP_PAGES: i32 = 1024;
/// How long a snapshot waits for a checkpoint or a recovery of the log.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);
/// How much of the log's bound may be taken while a snapshot lives, in percent. At the bound writes fail; what is left is for those that
/// come before the snapshot is given up.
const LOG_PERCENT: u64 = 75;
/// How long the check of one database may take. The largest, of 10 GiB, takes some minutes.
const CHECK_TIME: Duration = Duration::from_secs(60 * 60);
/// Steps of SQLite's machine between two looks at the clock: some 10 µs.
const CHECK_STEPS: i32 = 1000;

/// Keeps the writes of one store waiting until it is dropped. Reads go on.
pub struct Hold {
    path: PathBuf,
    _held: Box<dyn Send>,
}

impl Hold {
    pub(crate) fn new(path: PathBuf, held: impl Send + 'static) -> Self {
        Self { path, _held: Box::new(held) }
    }

    /// The store's database.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The store as it is now: with every write that was answered. Blocking.
    pub fn snapshot(&self) -> Result<Snapshot, StoreError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        Snapshot::begin(&self.path, |path| connect_alone(path, flags))
    }
}

/// A database as it was when this was begun. While it lives, the log of the database grows with each write: so what is to be kept is
/// copied at once.
pub struct Snapshot {
    connection: Connection,
    path: PathBuf,
}

impl Snapshot {
    /// Begins to read the database at `path`, which `connect` opens as all its connections are. Blocking.
    pub(crate) fn begin(
        path: &Path,
        connect: impl FnOnce(&Path) -> rusqlite::Result<Connection>,
    ) -> Result<Self, StoreError> {
        let begin = || -> rusqlite::Result<Connection> {
            let connection = connect(path)?;
            connection.busy_timeout(LOCK_PATIENCE)?;
            connection.pragma_update(None, "query_only", true)?;
            connection.execute_batch("BEGIN")?;
            // The transaction begins with the first read.
            connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
            Ok(connection)
        };
        let connection = begin().map_err(|error| named(path, error))?;
        Ok(Self { connection, path: path.to_owned() })
    }

    /// The database, to read from.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Whether the log of this database, which may have `database_bytes`, has grown so much meanwhile that its writes will fail soon.
    pub fn crowds_log(&self, database_bytes: u64) -> bool {
        log_is_over(&self.path, log_bound(database_bytes) / 100 * LOG_PERCENT)
    }

    /// Copies the database to the file `to`, which must not be there, and answers its bytes. `go_on` is asked every few milliseconds;
    /// when it says no, the copy ends with [`StoreError::Stopped`] and is not whole. Blocking.
    pub fn copy_to(&self, to: &Path, mut go_on: impl FnMut() -> bool) -> Result<u64, StoreError> {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to);
        let file = file.map_err(|error| StoreError::io(to, error))?;
        let mut copy = Connection::open(to).map_err(|error| named(to, error))?;
        // It is of no use before it is whole: nothing of it has to survive a crash.
        copy.execute_batch("PRAGMA journal_mode = off; PRAGMA synchronous = off").map_err(|error| named(to, error))?;
        {
            let backup = Backup::new(&self.connection, &mut copy).map_err(|error| named(&self.path, error))?;
            loop {
                if !go_on() {
                    return Err(StoreError::Stopped);
                }
                // Nobody else has the copy, and who has the database open only holds it for a checkpoint.
                match backup.step(STEP_PAGES).map_err(|error| named(&self.path, error))? {
                    StepResult::Done => break,
                    StepResult::More => {}
                    _ => return Err(StoreError::InUse { path: self.path.clone() }),
                }
            }
        }
        copy.close().map_err(|(_, error)| named(to, error))?;
        Ok(file.metadata().map_err(|error| StoreError::io(to, error))?.len())
    }
}

/// What a database that came out of a backup has to be.
#[derive(Debug, Clone, Copy)]
pub enum Expected<'a> {
    /// What the functions of an app made it.
    Any,
    /// Exactly what these migrations make, or the first of them.
    Schema(&'a [&'a str]),
}

/// Reads all of a database that nobody has open, and checks that it is sound: [`StoreError::Corrupt`] says what is wrong with it. It is
/// on the disk afterwards. Blocking.
pub fn check(path: &Path, expected: Expected<'_>) -> Result<(), StoreError> {
    crate::sql::memory::install()?;
    let corrupt = |detail: String| StoreError::Corrupt { path: path.to_owned(), detail };
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags).map_err(|error| named(path, error))?;
    let mut read = || -> rusqlite::Result<Option<String>> {
        // Whoever wrote the file wrote its schema, too: nothing in it is run that could reach out of it.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW, false)?;
        connection.pragma_update(None, "cell_size_check", true)?;
        let end = Instant::now() + CHECK_TIME;
        connection.progress_handler(CHECK_STEPS, Some(move || Instant::now() > end))?;
        let found: String = connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
        if found != "ok" {
            return Ok(Some(found));
        }
        let Expected::Schema(migrations) = expected else { return Ok(None) };
        let version: usize = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
        let Some(ran) = migrations.get(..version).filter(|ran| !ran.is_empty()) else {
            let known = migrations.len();
            return Ok(Some(format!("it has schema {version}, this node knows 1 to {known}")));
        };
        let fresh = Connection::open_in_memory()?;
        for sql in ran {
            fresh.execute_batch(sql)?;
        }
        if schema(&connection)? == schema(&fresh)? {
            return Ok(None);
        }
        Ok(Some("its tables are not those of a store of this kind".into()))
    };
    match read() {
        Ok(None) => {}
        Ok(Some(detail)) => return Err(corrupt(detail)),
        Err(rusqlite::Error::SqliteFailure(error, _)) if error.code == rusqlite::ErrorCode::OperationInterrupted => {
            return Err(corrupt("it could not be checked in an hour".into()));
        }
        Err(error) => return Err(named(path, error)),
    }
    connection.close().map_err(|(_, error)| named(path, error))?;
    File::open(path).and_then(|file| file.sync_all()).map_err(|error| StoreError::io(path, error))
}

/// All that a database consists of, without what SQLite adds by itself: statistics.
fn schema(connection: &Connection) -> rusqlite::Result<Vec<[Option<String>; 4]>> {
    let sql =
        "SELECT type, name, tbl_name, sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite_stat%' ORDER BY type, name";
    let mut statement = connection.prepare(sql)?;
    let rows = statement.query_map([], |row| Ok([row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?]))?;
    rows.collect()
}

/// The error, with the database that it is about.
fn named(path: &Path, error: rusqlite::Error) -> StoreError {
    match error.into() {
        StoreError::Corrupt { detail, .. } => StoreError::Corrupt { path: path.to_owned(), detail },
        error => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Database;

    const SCHEMA: &[&str] = &["CREATE TABLE item (name TEXT PRIMARY KEY) STRICT", "CREATE INDEX i ON item (name)"];

    fn insert(connection: &Connection, name: &str) -> Result<(), StoreError> {
        connection.execute("INSERT INTO item VALUES (?1)", [name])?;
        Ok(())
    }

    fn names(path: &Path) -> Vec<String> {
        let connection = Connection::open(path).unwrap();
        let mut statement = connection.prepare("SELECT name FROM item ORDER BY name").unwrap();
        statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    }

    #[tokio::test]
    async fn a_snapshot_has_what_was_answered_before_the_hold_and_nothing_after() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("a.db");
        let database = std::sync::Arc::new(Database::open(&path, SCHEMA).unwrap());
        database.write(|connection| insert(connection, "before")).await.unwrap();
        let hold = database.hold().await.unwrap();
        let waiting = tokio::spawn({
            let database = std::sync::Arc::clone(&database);
            async move { database.write(|connection| insert(connection, "after")).await }
        });
        while database.waiting_writes() == 0 {
            tokio::task::yield_now().await;
        }
        let snapshot = Snapshot::begin(&path, |path| Connection::open(path)).unwrap();
        assert!(!waiting.is_finished());
        drop(hold);
        waiting.await.unwrap().unwrap();
        let copy = temp.path().join("copy.db");
        let bytes = snapshot.copy_to(&copy, || true).unwrap();
        assert_eq!(bytes, std::fs::metadata(&copy).unwrap().len());
        check(&copy, Expected::Schema(SCHEMA)).unwrap();
        assert_eq!(names(&copy), ["before"]);
        // Nobody waits for ever for a hold that nobody wants any more.
        drop(database.hold().await.unwrap());
        database.write(|connection| insert(connection, "later")).await.unwrap();
    }

    #[tokio::test]
    async fn a_snapshot_tells_before_writes_fail_for_its_log() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("a.db");
        let max_bytes = 1 << 20;
        let database = Database::open(&path, SCHEMA).unwrap();
        let snapshot = Snapshot::begin(&path, |path| Connection::open(path)).unwrap();
        assert!(!snapshot.crowds_log(max_bytes));
        let mut writes = 0;
        while !snapshot.crowds_log(max_bytes) {
            writes += 1;
            assert!(writes < 100, "the log is large by now");
            let name = format!("{writes}{}", "x".repeat(1 << 20));
            database.write(move |connection| insert(connection, &name)).await.unwrap();
        }
        assert!(!log_is_over(&path, log_bound(max_bytes)), "a write would fail already");
    }

    #[tokio::test]
    async fn a_copy_that_is_told_to_stop_ends() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("a.db");
        let _database = Database::open(&path, SCHEMA).unwrap();
        let snapshot = Snapshot::begin(&path, |path| Connection::open(path)).unwrap();
        let copied = snapshot.copy_to(&temp.path().join("copy.db"), || false);
        assert!(matches!(copied, Err(StoreError::Stopped)), "{copied:?}");
    }

    #[test]
    fn a_database_that_is_not_what_it_should_be_is_told() {
        crate::sql::memory::install().unwrap();
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("a.db");
        let make = |sql: &str| {
            let _ = std::fs::remove_file(&path);
            Connection::open(&path).unwrap().execute_batch(sql).unwrap();
        };
        let refused = |expected| match check(&path, expected) {
            Err(StoreError::Corrupt { detail, .. }) => detail,
            other => panic!("{other:?}"),
        };
        let first = SCHEMA[0];
        make(&format!("{first}; PRAGMA user_version = 1"));
        check(&path, Expected::Schema(SCHEMA)).unwrap();
        make(&format!("{first}; PRAGMA user_version = 3"));
        assert!(refused(Expected::Schema(SCHEMA)).contains("schema 3"));
        make(first);
        assert!(refused(Expected::Schema(SCHEMA)).contains("schema 0"));
        make(&format!(
            "{first}; CREATE TRIGGER t AFTER INSERT ON item BEGIN DELETE FROM item; END; PRAGMA user_version = 1"
        ));
        assert!(refused(Expected::Schema(SCHEMA)).contains("tables"));
        check(&path, Expected::Any).unwrap();
        // Rows, so that there are pages to damage.
        make(&format!(
            "{first}; WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 2000) INSERT INTO item SELECT 'name ' || i FROM n"
        ));
        check(&path, Expected::Any).unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        for byte in &mut bytes[8192..8200] {
            *byte ^= 0xff;
        }
        std::fs::write(&path, bytes).unwrap();
        refused(Expected::Any);
        std::fs::write(&path, b"no database at all, but long enough to be read as one").unwrap();
        refused(Expected::Any);
    }
}
