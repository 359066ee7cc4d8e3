//! What is on the disk of each run, with one method for each change.
//!
//! A run is *open* while there is something to do: a try, or telling its destination. Then `due_ms` says when. After that it is kept for
//! whoever asks what came of it. What is open and what is kept is counted for each app, so that both are bounded.

use std::{sync::Weak, time::Duration};

use bytes::Bytes;
use minnow_model::{
    AppName, FunctionName, RequestId, Tenant,
    event::{Async, Destination},
};
use minnow_runtime::stored::{Answer, StoredRequest};
use minnow_store::{StoreError, rusqlite};
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::Invoke;
use crate::{
    EventsError,
    database::{Rows, collect, parse},
    events::Shared,
};

/// Runs of an app that may be open at once. At a hundred a second, more than a minute of a function that has stopped.
pub const MAX_WAITING_RUNS: u64 = 10_000;
/// What these take, in bytes.
pub const MAX_WAITING_BYTES: u64 = 256 << 20;
/// Runs of an app whose results are kept, and what these take in bytes. Beyond it the oldest go.
pub const MAX_KEPT_RUNS: u64 = 10_000;
const MAX_KEPT_BYTES: u64 = 256 << 20;
/// For how long a result is kept: who looks at it the next day still finds it.
pub const RESULT_KEPT: Duration = Duration::from_secs(24 * 3600);

/// What a row takes beside request and answer, in bytes: names, settings and the index entries.
const ROW_BYTES: u64 = 1024;
/// The longest reason that is kept, in bytes: what a person reads.
const MAX_REASON_BYTES: usize = 1024;
/// Rows that one transaction removes: it holds up the others for milliseconds.
const SWEPT_AT_ONCE: u32 = 1000;

/// The tables of runs.
pub(crate) const MIGRATION: &str = "
CREATE TABLE run (
    number      INTEGER PRIMARY KEY,
    id          TEXT NOT NULL UNIQUE,
    tenant      TEXT NOT NULL,
    app         TEXT NOT NULL,
    function    TEXT NOT NULL,
    state       TEXT NOT NULL,
    created_ms  INTEGER NOT NULL,
    -- When there is something to do next; NULL when all is done.
    due_ms      INTEGER,
    -- Those that count.
    tries       INTEGER NOT NULL,
    -- What it counts for in `run_count`.
    bytes       INTEGER NOT NULL,
    settings    TEXT NOT NULL,
    -- Until it has ended.
    request     TEXT,
    body        BLOB,
    -- The last answer, and why the last try failed.
    status      INTEGER,
    reason      TEXT,
    -- Of the end.
    finished_ms INTEGER,
    headers     TEXT,
    answer      BLOB,
    is_cut      INTEGER NOT NULL DEFAULT 0,
    -- Who is told, and how far that is.
    destination TEXT,
    told        TEXT,
    told_tries  INTEGER NOT NULL DEFAULT 0,
    told_reason TEXT
) STRICT;
CREATE INDEX run_due ON run (tenant, app, function, due_ms) WHERE due_ms IS NOT NULL;
CREATE INDEX run_kept ON run (tenant, app, finished_ms) WHERE due_ms IS NULL;
CREATE INDEX run_old ON run (finished_ms) WHERE due_ms IS NULL;

CREATE TABLE run_count (
    tenant     TEXT NOT NULL,
    app        TEXT NOT NULL,
    open       INTEGER NOT NULL,
    open_bytes INTEGER NOT NULL,
    kept       INTEGER NOT NULL,
    kept_bytes INTEGER NOT NULL,
    PRIMARY KEY (tenant, app)
) STRICT, WITHOUT ROWID;
";

/// Whose runs: those of one function go through one task.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) tenant: Tenant,
    pub(crate) app: AppName,
    pub(crate) function: FunctionName,
}

/// How it stands with a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunState {
    /// For its first try, or its next one.
    Waiting,
    /// At this moment.
    Running,
    Succeeded,
    Failed,
}

impl RunState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
        }
    }

    fn read(text: &str) -> Option<Self> {
        [Self::Waiting, Self::Succeeded, Self::Failed].into_iter().find(|state| state.as_str() == text)
    }
}

/// How it stands with the destination of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToldState {
    /// It is to be told, perhaps again.
    Waiting,
    Told,
    /// It could not be told, and will not be.
    GivenUp,
}

impl ToldState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Told => "told",
            Self::GivenUp => "given-up",
        }
    }

    fn read(text: &str) -> Option<Self> {
        [Self::Waiting, Self::Told, Self::GivenUp].into_iter().find(|state| state.as_str() == text)
    }
}

/// Who is told of a run, and how far that is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    pub destination: Destination,
    pub state: ToldState,
    pub tries: u32,
    /// Why it could not be told the last time.
    pub reason: Option<String>,
}

/// All that is known of a run. Times are in milliseconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunStatus {
    pub id: RequestId,
    pub function: FunctionName,
    pub state: RunState,
    pub created_ms: u64,
    /// Tries that count: those that failed, and the one that worked.
    pub tries: u32,
    /// When it is tried next, or its destination told.
    pub due_ms: Option<u64>,
    pub finished_ms: Option<u64>,
    /// That of the last answer.
    pub status: Option<u16>,
    /// Why the last try failed.
    pub reason: Option<String>,
    /// Of the answer at the end.
    pub headers: Vec<(String, String)>,
    pub answer: Bytes,
    pub is_cut: bool,
    pub told: Option<Told>,
}

/// A run with something to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OpenRun {
    pub(crate) status: RunStatus,
    pub(crate) settings: Async,
    /// `None` when it has ended, and its destination is to be told.
    pub(crate) request: Option<StoredRequest>,
}

/// The end of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) state: RunState,
    pub(crate) tries: u32,
    pub(crate) finished_ms: u64,
    pub(crate) reason: Option<String>,
    pub(crate) answer: Option<Answer>,
    /// Who is to be told.
    pub(crate) destination: Option<Destination>,
}

/// What came of telling a destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Tell {
    Told { tries: u32 },
    Again { tries: u32, due_ms: u64, reason: String },
    GivenUp { tries: u32, reason: String },
}

/// A change of what is counted for an app.
#[derive(Default)]
struct Change {
    open: i64,
    open_bytes: i64,
    kept: i64,
    kept_bytes: i64,
}

impl Rows {
    /// Takes a run, unless the app has too many open ones. Tells `shared` of it when it is on the disk.
    pub(crate) async fn take(
        &self,
        key: Key,
        id: RequestId,
        invoke: Invoke,
        now_ms: u64,
        shared: Weak<Shared>,
    ) -> Result<(), EventsError> {
        let Invoke { request, settings } = invoke;
        let head = json(&request)?;
        let settings = json(&settings)?;
        let bytes = ROW_BYTES + (head.len() + request.body.len()) as u64;
        let told = key.clone();
        let work = move |connection: &Connection| {
            if !has_room(connection, &key, bytes)? {
                return Err(EventsError::TooManyRuns(key.app.clone()));
            }
            Ok(insert(connection, &key, id, (&head, &request.body), &settings, bytes, now_ms)?)
        };
        // Also where the caller has gone away: it may be taken, and is run then.
        let wake = move |(): &()| {
            if let Some(shared) = shared.upgrade() {
                shared.wake_lane(&told);
            }
        };
        self.0.write_then(work, wake).await
    }

    /// The functions that have something to do. Blocking.
    pub(crate) fn open_lanes(&self) -> Result<Vec<Key>, StoreError> {
        self.0.read_here(|connection| {
            let sql = "SELECT DISTINCT tenant, app, function FROM run WHERE due_ms IS NOT NULL";
            collect(connection, sql, [], |row| {
                Ok(Key { tenant: parse(row, 0)?, app: parse(row, 1)?, function: parse(row, 2)? })
            })
        })
    }

    /// The ids of what a function has to do first, and when each is due, in that order.
    pub(crate) async fn due(&self, key: Key, most: usize) -> Result<Vec<(RequestId, u64)>, StoreError> {
        self.0
            .read(move |connection| {
                let Key { tenant, app, function } = &key;
                let sql = "SELECT id, due_ms FROM run WHERE tenant = ?1 AND app = ?2 AND function = ?3 AND due_ms IS NOT NULL \
                           ORDER BY due_ms, number LIMIT ?4";
                let most = i64::try_from(most).unwrap_or(i64::MAX);
                let key = params![tenant.as_str(), app.as_str(), function.as_str(), most];
                collect(connection, sql, key, |row| Ok((parse(row, 0)?, row.get(1)?)))
            })
            .await
    }

    /// A run that has something to do; `None` when that was done, or its app is gone.
    pub(crate) async fn open_run(&self, id: RequestId) -> Result<Option<OpenRun>, StoreError> {
        self.0
            .read(move |connection| {
                let sql =
                    format!("SELECT {COLUMNS}, settings, request, body FROM run WHERE id = ?1 AND due_ms IS NOT NULL");
                let read = |row: &Row<'_>| {
                    let request: Option<String> = row.get(18)?;
                    let request = request.map(|text| from_json::<StoredRequest>(18, &text)).transpose()?;
                    let body: Option<Vec<u8>> = row.get(19)?;
                    let request =
                        request.zip(body).map(|(request, body)| StoredRequest { body: body.into(), ..request });
                    let settings: String = row.get(17)?;
                    Ok(OpenRun { status: status(row)?, settings: from_json(17, &settings)?, request })
                };
                Ok(connection.prepare_cached(&sql)?.query_row([id.to_string()], read).optional()?)
            })
            .await
    }

    /// How it stands with a run of an app.
    pub(crate) async fn status(
        &self,
        tenant: &Tenant,
        app: &AppName,
        id: RequestId,
    ) -> Result<Option<RunStatus>, StoreError> {
        let (tenant, app) = (tenant.clone(), app.clone());
        self.0
            .read(move |connection| {
                let sql = format!("SELECT {COLUMNS} FROM run WHERE id = ?1 AND tenant = ?2 AND app = ?3");
                let key = [&id.to_string(), tenant.as_str(), app.as_str()];
                Ok(connection.prepare_cached(&sql)?.query_row(key, status).optional()?)
            })
            .await
    }

    /// A run is tried again.
    pub(crate) async fn again(
        &self,
        id: RequestId,
        due_ms: u64,
        tries: u32,
        status: Option<u16>,
        reason: &str,
    ) -> Result<(), StoreError> {
        let reason = shortened(reason);
        self.0
            .write(move |connection| {
                let sql = "UPDATE run SET due_ms = ?2, tries = ?3, status = ?4, reason = ?5 WHERE id = ?1 AND state = 'waiting'";
                connection.prepare_cached(sql)?.execute(params![id.to_string(), due_ms, tries, status, reason])?;
                Ok(())
            })
            .await
    }

    /// A run has ended. Where nobody is to be told, all is done. A second time does nothing.
    pub(crate) async fn end(&self, id: RequestId, end: End) -> Result<(), StoreError> {
        self.0
            .write(move |connection| {
                let Some(row) = counted(connection, id, "state = 'waiting'")? else { return Ok(()) };
                let End { state, tries, finished_ms, reason, answer, destination } = end;
                let status = answer.as_ref().map(|answer| answer.status);
                let headers = answer.as_ref().map(|answer| json(&answer.headers)).transpose()?;
                let body = answer.as_ref().map(|answer| &*answer.body);
                let is_cut = answer.as_ref().is_some_and(|answer| answer.is_cut);
                let kept = headers.as_ref().map_or(0, String::len) + body.map_or(0, <[u8]>::len);
                let bytes = ROW_BYTES + kept as u64;
                let due_ms = destination.as_ref().map(|_| finished_ms);
                let (destination, told) = match destination {
                    Some(destination) => (Some(destination.to_string()), Some(ToldState::Waiting.as_str())),
                    None => (None, None),
                };
                let sql = "UPDATE run SET state = ?2, tries = ?3, finished_ms = ?4, reason = ?5, status = coalesce(?6, status), \
                           headers = ?7, answer = ?8, is_cut = ?9, destination = ?10, told = ?11, due_ms = ?12, bytes = ?13, \
                           request = NULL, body = NULL WHERE id = ?1";
                let (id, reason) = (id.to_string(), reason.as_deref().map(shortened));
                connection.prepare_cached(sql)?.execute(params![
                    id, state.as_str(), tries, finished_ms, reason, status, headers, body, is_cut, destination, told, due_ms, bytes
                ])?;
                let change = Change { open_bytes: signed(bytes) - signed(row.bytes), ..Change::default() };
                count_change(connection, &row.tenant, &row.app, &change)?;
                if due_ms.is_none() {
                    close(connection, &Counted { bytes, ..row })?;
                }
                Ok(())
            })
            .await
    }

    /// What came of telling the destination of a run.
    pub(crate) async fn tell(&self, id: RequestId, tell: Tell) -> Result<(), StoreError> {
        self.0
            .write(move |connection| {
                let Some(row) = counted(connection, id, "told = 'waiting'")? else { return Ok(()) };
                let (state, tries, due_ms, reason) = match tell {
                    Tell::Told { tries } => (ToldState::Told, tries, None, None),
                    Tell::Again { tries, due_ms, reason } => (ToldState::Waiting, tries, Some(due_ms), Some(reason)),
                    Tell::GivenUp { tries, reason } => (ToldState::GivenUp, tries, None, Some(reason)),
                };
                let sql = "UPDATE run SET told = ?2, told_tries = ?3, told_reason = ?4, due_ms = ?5 WHERE id = ?1";
                let (id, reason) = (id.to_string(), reason.as_deref().map(shortened));
                connection.prepare_cached(sql)?.execute(params![id, state.as_str(), tries, reason, due_ms])?;
                if due_ms.is_none() {
                    close(connection, &row)?;
                }
                Ok(())
            })
            .await
    }

    /// Removes results that ended before `before_ms`.
    pub(crate) async fn sweep_runs(&self, before_ms: u64) -> Result<(), StoreError> {
        loop {
            let swept = self
                .0
                .write(move |connection| {
                    let which = "due_ms IS NULL AND finished_ms < ?1 ORDER BY finished_ms LIMIT ?2";
                    remove(connection, which, params![before_ms, SWEPT_AT_ONCE])
                })
                .await?;
            if swept == 0 {
                return Ok(());
            }
        }
    }
}

/// Forgets the runs of a deleted app.
pub(crate) const FORGET: [&str; 2] =
    ["DELETE FROM run WHERE tenant = ?1 AND app = ?2", "DELETE FROM run_count WHERE tenant = ?1 AND app = ?2"];

/// Whether the app may have one more open run of so many bytes.
fn has_room(connection: &Connection, Key { tenant, app, .. }: &Key, bytes: u64) -> Result<bool, StoreError> {
    let sql = "SELECT open, open_bytes FROM run_count WHERE tenant = ?1 AND app = ?2";
    let count = |row: &Row<'_>| Ok((row.get::<_, u64>(0)?, row.get::<_, u64>(1)?));
    let found = connection.prepare_cached(sql)?.query_row([tenant.as_str(), app.as_str()], count).optional()?;
    let (open, open_bytes) = found.unwrap_or_default();
    Ok(open < MAX_WAITING_RUNS && open_bytes + bytes <= MAX_WAITING_BYTES)
}

fn insert(
    connection: &Connection,
    Key { tenant, app, function }: &Key,
    id: RequestId,
    (head, body): (&str, &[u8]),
    settings: &str,
    bytes: u64,
    now_ms: u64,
) -> Result<(), StoreError> {
    let sql = "INSERT INTO run (id, tenant, app, function, state, created_ms, due_ms, tries, bytes, settings, request, body) \
               VALUES (?1, ?2, ?3, ?4, 'waiting', ?5, ?5, 0, ?6, ?7, ?8, ?9)";
    let (id, tenant, app, function) = (id.to_string(), tenant.as_str(), app.as_str(), function.as_str());
    let row = params![id, tenant, app, function, now_ms, bytes, settings, head, body];
    connection.prepare_cached(sql)?.execute(row)?;
    let change = Change { open: 1, open_bytes: signed(bytes), ..Change::default() };
    count_change(connection, tenant, app, &change)
}

/// What is counted of a run.
struct Counted {
    tenant: String,
    app: String,
    bytes: u64,
}

fn counted(connection: &Connection, id: RequestId, condition: &str) -> Result<Option<Counted>, StoreError> {
    let sql = format!("SELECT tenant, app, bytes FROM run WHERE id = ?1 AND {condition}");
    let read = |row: &Row<'_>| Ok(Counted { tenant: row.get(0)?, app: row.get(1)?, bytes: row.get(2)? });
    Ok(connection.prepare_cached(&sql)?.query_row([id.to_string()], read).optional()?)
}

/// All of a run is done, and its result is kept, for which the oldest ones go.
fn close(connection: &Connection, row: &Counted) -> Result<(), StoreError> {
    let bytes = signed(row.bytes);
    let change = Change { open: -1, open_bytes: -bytes, kept: 1, kept_bytes: bytes };
    count_change(connection, &row.tenant, &row.app, &change)?;
    let sql = "SELECT kept > ?3 OR kept_bytes > ?4 FROM run_count WHERE tenant = ?1 AND app = ?2";
    loop {
        let bounds = params![row.tenant, row.app, MAX_KEPT_RUNS, MAX_KEPT_BYTES];
        if !connection.prepare_cached(sql)?.query_row(bounds, |row| row.get::<_, bool>(0))? {
            return Ok(());
        }
        let which = "tenant = ?1 AND app = ?2 AND due_ms IS NULL ORDER BY finished_ms LIMIT 1";
        if remove(connection, which, params![row.tenant, row.app])? == 0 {
            return Ok(());
        }
    }
}

/// Removes results. Answers how many.
fn remove(connection: &Connection, which: &str, params: impl rusqlite::Params) -> Result<usize, StoreError> {
    let sql =
        format!("DELETE FROM run WHERE number IN (SELECT number FROM run WHERE {which}) RETURNING tenant, app, bytes");
    let removed = collect(connection, &sql, params, |row| {
        Ok(Counted { tenant: row.get(0)?, app: row.get(1)?, bytes: row.get(2)? })
    })?;
    for Counted { tenant, app, bytes } in &removed {
        let change = Change { kept: -1, kept_bytes: -signed(*bytes), ..Change::default() };
        count_change(connection, tenant, app, &change)?;
    }
    Ok(removed.len())
}

fn count_change(connection: &Connection, tenant: &str, app: &str, change: &Change) -> Result<(), StoreError> {
    let sql = "INSERT INTO run_count (tenant, app, open, open_bytes, kept, kept_bytes) VALUES (?1, ?2, ?3, ?4, ?5, ?6) \
               ON CONFLICT (tenant, app) DO UPDATE SET open = open + ?3, open_bytes = open_bytes + ?4, kept = kept + ?5, \
               kept_bytes = kept_bytes + ?6";
    let Change { open, open_bytes, kept, kept_bytes } = change;
    connection.prepare_cached(sql)?.execute(params![tenant, app, open, open_bytes, kept, kept_bytes])?;
    Ok(())
}

/// What [`status`] reads.
const COLUMNS: &str = "id, function, state, created_ms, tries, due_ms, finished_ms, status, reason, headers, answer, is_cut, \
                       destination, told, told_tries, told_reason, number";

fn status(row: &Row<'_>) -> rusqlite::Result<RunStatus> {
    let (state, told): (String, Option<String>) = (row.get(2)?, row.get(13)?);
    let headers: Option<String> = row.get(9)?;
    let answer: Option<Vec<u8>> = row.get(10)?;
    let told = match told {
        Some(told) => Some(Told {
            destination: parse(row, 12)?,
            state: ToldState::read(&told).ok_or_else(|| unknown(13, told))?,
            tries: row.get(14)?,
            reason: row.get(15)?,
        }),
        None => None,
    };
    Ok(RunStatus {
        id: parse(row, 0)?,
        function: parse(row, 1)?,
        state: RunState::read(&state).ok_or_else(|| unknown(2, state))?,
        created_ms: row.get(3)?,
        tries: row.get(4)?,
        due_ms: row.get(5)?,
        finished_ms: row.get(6)?,
        status: row.get(7)?,
        reason: row.get(8)?,
        headers: headers.map(|headers| from_json(9, &headers)).transpose()?.unwrap_or_default(),
        answer: answer.unwrap_or_default().into(),
        is_cut: row.get(11)?,
        told,
    })
}

/// A word that only another version of this file can have written.
fn unknown(column: usize, word: String) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, word.into())
}

fn from_json<T: serde::de::DeserializeOwned>(column: usize, text: &str) -> rusqlite::Result<T> {
    let wrong = |error| rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, Box::new(error));
    serde_json::from_str(text).map_err(wrong)
}

/// What holds only texts and numbers can be written as JSON.
fn json<T: serde::Serialize>(value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)).into())
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

fn shortened(reason: &str) -> String {
    let mut end = reason.len().min(MAX_REASON_BYTES);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    reason.get(..end).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn key(app: &str) -> Key {
        Key { tenant: Tenant::default(), app: app.parse().unwrap(), function: "work".parse().unwrap() }
    }

    fn invoke(body: &'static str) -> Invoke {
        let request = StoredRequest {
            method: "POST".into(),
            path: "/a?b".into(),
            headers: vec![("host".into(), "shop.localhost".into())],
            body: body.into(),
        };
        Invoke { request, settings: Async { retries: 7, ..Async::default() } }
    }

    fn end(state: RunState, finished_ms: u64, destination: Option<&str>) -> End {
        let answer = Answer {
            status: 201,
            headers: vec![("x-own".into(), "å".into())],
            body: Bytes::from_static(b"\0done"),
            is_cut: true,
        };
        let destination = destination.map(|text| text.parse().unwrap());
        End { state, tries: 2, finished_ms, reason: Some("why".into()), answer: Some(answer), destination }
    }

    fn open(dir: &Path) -> Rows {
        Rows::open(&dir.join("events.db")).unwrap()
    }

    async fn take(rows: &Rows, app: &str, id: u128, now_ms: u64) {
        rows.take(key(app), RequestId(id), invoke("{}"), now_ms, Weak::new()).await.unwrap();
    }

    async fn status(rows: &Rows, id: u128) -> RunStatus {
        rows.status(&Tenant::default(), &key("shop").app, RequestId(id)).await.unwrap().unwrap()
    }

    /// Open runs and their bytes, kept ones and theirs.
    async fn counts(rows: &Rows) -> (u64, u64, u64, u64) {
        let counted = |connection: &Connection| -> Result<_, StoreError> {
            let sql = "SELECT open, open_bytes, kept, kept_bytes FROM run_count WHERE app = 'shop'";
            let read = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?));
            Ok(connection.query_row(sql, [], read).optional()?.unwrap_or_default())
        };
        let found = rows.0.read(counted).await.unwrap();
        // What is counted is what is there.
        let summed = |connection: &Connection| -> Result<_, StoreError> {
            let sql = "SELECT total(due_ms IS NOT NULL), total(bytes * (due_ms IS NOT NULL)), total(due_ms IS NULL), \
                       total(bytes * (due_ms IS NULL)) FROM run WHERE app = 'shop'";
            let number = |row: &Row<'_>, column| row.get::<_, f64>(column).map(|number| number as u64);
            let read = |row: &Row<'_>| Ok((number(row, 0)?, number(row, 1)?, number(row, 2)?, number(row, 3)?));
            Ok(connection.query_row(sql, [], read)?)
        };
        assert_eq!(found, rows.0.read(summed).await.unwrap());
        found
    }

    #[tokio::test]
    async fn a_run_waits_comes_again_and_ends_also_over_restarts() {
        let temp = tempfile::tempdir().unwrap();
        let rows = open(temp.path());
        take(&rows, "shop", 1, 100).await;
        take(&rows, "shop", 2, 200).await;
        drop(rows);

        let rows = open(temp.path());
        assert_eq!(rows.open_lanes().unwrap(), [key("shop")]);
        assert_eq!(rows.due(key("shop"), 9).await.unwrap(), [(RequestId(1), 100), (RequestId(2), 200)]);
        let waiting = rows.open_run(RequestId(1)).await.unwrap().unwrap();
        assert_eq!((waiting.request, waiting.settings.retries), (Some(invoke("{}").request), 7));
        assert_eq!((waiting.status.state, waiting.status.tries), (RunState::Waiting, 0));

        rows.again(RequestId(1), 900, 1, Some(500), "the function answered 500").await.unwrap();
        assert_eq!(rows.due(key("shop"), 1).await.unwrap(), [(RequestId(2), 200)]);
        let again = status(&rows, 1).await;
        assert_eq!(
            (again.state, again.tries, again.status, again.due_ms),
            (RunState::Waiting, 1, Some(500), Some(900))
        );
        assert_eq!(again.reason.as_deref(), Some("the function answered 500"));

        rows.end(RequestId(1), end(RunState::Succeeded, 1000, None)).await.unwrap();
        drop(rows);
        let rows = open(temp.path());
        let ended = status(&rows, 1).await;
        assert_eq!(
            (ended.state, ended.finished_ms, ended.status, ended.due_ms),
            (RunState::Succeeded, Some(1000), Some(201), None)
        );
        assert_eq!((&*ended.answer, ended.is_cut, ended.headers.len()), (&b"\0done"[..], true, 1));
        assert_eq!(rows.open_run(RequestId(1)).await.unwrap(), None);
        assert_eq!(rows.due(key("shop"), 9).await.unwrap(), [(RequestId(2), 200)]);
        let (open_runs, _, kept, _) = counts(&rows).await;
        assert_eq!((open_runs, kept), (1, 1));

        // What has ended stays as it is.
        rows.end(RequestId(1), end(RunState::Failed, 2000, Some("orders"))).await.unwrap();
        rows.again(RequestId(1), 900, 9, None, "late").await.unwrap();
        rows.tell(RequestId(1), Tell::Told { tries: 1 }).await.unwrap();
        assert_eq!(status(&rows, 1).await, ended);
        counts(&rows).await;
    }

    #[tokio::test]
    async fn a_run_with_a_destination_is_open_until_that_was_told_or_given_up() {
        let temp = tempfile::tempdir().unwrap();
        let rows = open(temp.path());
        for (id, tell, state) in [
            (1, Tell::Told { tries: 2 }, ToldState::Told),
            (2, Tell::GivenUp { tries: 2, reason: "it answered 500".into() }, ToldState::GivenUp),
        ] {
            take(&rows, "shop", id, 100).await;
            let id = RequestId(id);
            rows.end(id, end(RunState::Failed, 500, Some("https://ops.example/hook"))).await.unwrap();
            let open = rows.open_run(id).await.unwrap().unwrap();
            assert_eq!((open.request, open.status.due_ms, open.status.state), (None, Some(500), RunState::Failed));
            assert_eq!(counts(&rows).await.0, 1);
            rows.tell(id, Tell::Again { tries: 1, due_ms: 700, reason: "there was no answer".into() }).await.unwrap();
            assert_eq!(rows.due(key("shop"), 9).await.unwrap(), [(id, 700)]);
            let told = rows.open_run(id).await.unwrap().unwrap().status.told.unwrap();
            assert_eq!(
                (told.state, told.tries, told.reason.as_deref()),
                (ToldState::Waiting, 1, Some("there was no answer"))
            );
            rows.tell(id, tell).await.unwrap();
            assert_eq!(rows.open_run(id).await.unwrap(), None);
            let told = status(&rows, id.0).await.told.unwrap();
            assert_eq!((told.state, told.tries, told.destination.to_string().len()), (state, 2, 24));
        }
        assert_eq!(rows.open_lanes().unwrap(), []);
        let (open_runs, open_bytes, kept, _) = counts(&rows).await;
        assert_eq!((open_runs, open_bytes, kept), (0, 0, 2));
    }

    #[tokio::test]
    async fn what_waits_and_what_is_kept_is_bounded() {
        let temp = tempfile::tempdir().unwrap();
        let rows = open(temp.path());
        let set = |sql: &'static str, count: u64| {
            rows.0.write(move |connection| -> Result<(), StoreError> {
                connection.execute(sql, [count])?;
                Ok(())
            })
        };
        for (sql, bound) in [
            ("UPDATE run_count SET open = open + ?1 WHERE app = 'shop'", MAX_WAITING_RUNS - 1),
            ("UPDATE run_count SET open_bytes = open_bytes + ?1 WHERE app = 'shop'", MAX_WAITING_BYTES - 1500),
        ] {
            take(&rows, "shop", u128::from(bound), 1).await;
            set(sql, bound).await.unwrap();
            let refused = rows.take(key("shop"), RequestId(9), invoke("{}"), 1, Weak::new()).await;
            assert!(matches!(refused, Err(EventsError::TooManyRuns(_))), "{refused:?}");
            take(&rows, "other", u128::from(bound) + 1, 1).await;
            rows.forget_app(&Tenant::default(), &key("shop").app).await.unwrap();
            assert_eq!(counts(&rows).await, (0, 0, 0, 0));
        }
        for (sql, bound) in [
            ("UPDATE run_count SET kept = kept + ?1 WHERE app = 'shop'", MAX_KEPT_RUNS - 1),
            ("UPDATE run_count SET kept_bytes = kept_bytes + ?1 WHERE app = 'shop'", MAX_KEPT_BYTES - 3000),
        ] {
            for id in [20, 21, 22] {
                take(&rows, "shop", id, 1).await;
            }
            rows.end(RequestId(21), end(RunState::Succeeded, 50, None)).await.unwrap();
            set(sql, bound).await.unwrap();
            rows.end(RequestId(20), end(RunState::Succeeded, 60, None)).await.unwrap();
            rows.end(RequestId(22), end(RunState::Succeeded, 70, None)).await.unwrap();
            let (tenant, app) = (Tenant::default(), key("shop").app);
            // The one that ended first went for the others.
            assert_eq!(rows.status(&tenant, &app, RequestId(21)).await.unwrap(), None, "{sql}");
            assert!(rows.status(&tenant, &app, RequestId(22)).await.unwrap().is_some(), "{sql}");
            rows.forget_app(&tenant, &app).await.unwrap();
        }
    }

    #[tokio::test]
    async fn old_results_go_and_what_is_open_stays() {
        let temp = tempfile::tempdir().unwrap();
        let rows = open(temp.path());
        for id in 1..=4 {
            take(&rows, "shop", id, 1).await;
        }
        rows.end(RequestId(1), end(RunState::Succeeded, 100, None)).await.unwrap();
        rows.end(RequestId(2), end(RunState::Failed, 200, None)).await.unwrap();
        rows.end(RequestId(3), end(RunState::Failed, 100, Some("orders"))).await.unwrap();
        rows.sweep_runs(200).await.unwrap();
        let (open_runs, _, kept, _) = counts(&rows).await;
        assert_eq!((open_runs, kept), (2, 1));
        let tenant = Tenant::default();
        assert_eq!(rows.status(&tenant, &key("shop").app, RequestId(1)).await.unwrap(), None);
        // A run is known to its own app only.
        assert_eq!(rows.status(&tenant, &key("other").app, RequestId(2)).await.unwrap(), None);
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        assert_eq!(shortened("short"), "short");
        assert_eq!(shortened(&"å".repeat(600)), "å".repeat(512));
        assert_eq!(shortened(&format!("a{}", "å".repeat(600))), format!("a{}", "å".repeat(511)));
    }
}
