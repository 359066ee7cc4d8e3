//! Migrations: files with SQL that run once, in order, each in a transaction together with its record.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use minnow_model::Digest;
use rusqlite::params;

use super::{
    error::{SqlError, position},
    queue::Lease,
    session::{MIGRATION_MEMORY, STATEMENT_MEMORY, Session},
    value::{MAX_SCRIPT_BYTES, Migration},
};

/// How long one migration may take. It may have to rewrite a table of the largest database.
const LIMIT: Duration = Duration::from_secs(60);

const RECORDS: &str = "CREATE TABLE IF NOT EXISTS _minnow_migrations \
    (name TEXT PRIMARY KEY, sha256 TEXT NOT NULL, applied_ms INTEGER NOT NULL) STRICT";

/// Applies what has not run yet, and gives the names of that. Blocking.
pub(super) fn migrate(mut lease: Lease, migrations: &[Migration]) -> Result<Vec<String>, SqlError> {
    let session = lease.session().ok_or(SqlError::Stopped)?;
    let recorded = recorded(session)?;
    let mut names = HashSet::new();
    for migration in migrations {
        if !names.insert(migration.name.as_str()) {
            return Err(SqlError::Refused(format!("there are two migrations with the name {}", migration.name)));
        }
        if recorded.get(&migration.name).is_some_and(|digest| *digest != digest_of(migration)) {
            return Err(SqlError::Refused(format!(
                "migration {} has run already, with other content; undo the change of the file, and put what is new into another",
                migration.name
            )));
        }
        if migration.sql.len() > MAX_SCRIPT_BYTES {
            return Err(SqlError::script_too_long());
        }
    }
    session.allow_memory(MIGRATION_MEMORY);
    let mut applied = Vec::new();
    let mut result = Ok(());
    for migration in migrations.iter().filter(|migration| !recorded.contains_key(&migration.name)) {
        result = lease.bound_log().and_then(|()| apply(lease.session().ok_or(SqlError::Stopped)?, migration));
        if result.is_err() {
            break;
        }
        applied.push(migration.name.clone());
    }
    let session = lease.session().ok_or(SqlError::Stopped)?;
    session.allow_memory(STATEMENT_MEMORY);
    session.roll_back()?;
    result.map(|()| applied)
}

fn digest_of(migration: &Migration) -> String {
    Digest::of(migration.sql.as_bytes()).hex()
}

/// What has run, by name, with the digest of its content.
fn recorded(session: &Session) -> Result<HashMap<String, String>, SqlError> {
    session.control("BEGIN IMMEDIATE")?;
    session.control(RECORDS)?;
    let read = |session: &Session| -> rusqlite::Result<HashMap<String, String>> {
        let mut statement = session.connection.prepare("SELECT name, sha256 FROM _minnow_migrations")?;
        statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
    };
    let records = read(session).map_err(|error| session.own(error))?;
    session.control("COMMIT")?;
    Ok(records)
}

fn apply(session: &Session, migration: &Migration) -> Result<(), SqlError> {
    let at = |(error, offset): (SqlError, usize)| match error {
        SqlError::Corrupt { .. } | SqlError::Store(_) | SqlError::Stopped => error,
        error => {
            let (line, column) = position(&migration.sql, offset);
            SqlError::Migration { name: migration.name.clone(), line, column, message: error.to_string() }
        }
    };
    let record = || {
        let record = "INSERT INTO _minnow_migrations VALUES (?1, ?2, CAST(unixepoch('subsec') * 1000 AS INTEGER))";
        let recorded = session.connection.execute(record, params![migration.name, digest_of(migration)]);
        recorded.map(drop).map_err(|error| session.own(error))
    };
    session.whole_script(&migration.sql, LIMIT, LIMIT, record).map(drop).map_err(at)
}
