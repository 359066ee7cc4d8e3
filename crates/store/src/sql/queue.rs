//! What waits to write into one store. There is one connection that writes, and turns on it are taken in order.
//!
//! Writes that wait together share one commit, each in a savepoint of its own, so that the disk is synced once for all of them. A
//! transaction takes the connection out of the queue and brings it back. No thread waits while there is nothing to write.

use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
};

use crate::database::{Yielding, answer_together};

use super::{
    error::SqlError,
    session::{Role, Session, placed, row_bytes},
    store::{Store, lock},
    value::{Rows, SqlLimits, Statement},
};

/// Calls that may wait in the queue. Others wait for a place in it.
const WAITING: usize = 256;
/// Writes that share one commit.
const GROUPED: usize = 64;
/// No write is begun in a group this long after its first one. Bounds how long that waits for the last; a sync of a slow disk takes as long.
const GROUP_TIME: Duration = Duration::from_millis(100);

pub(super) struct Queue {
    path: PathBuf,
    limits: SqlLimits,
    places: Arc<Semaphore>,
    state: Mutex<State>,
}

struct State {
    turns: VecDeque<Turn>,
    /// Opened again when it is missing.
    writer: Option<Session>,
    /// Somebody works through the turns, or has the connection.
    busy: bool,
}

enum Turn {
    Write(Write),
    /// Wants the connection for itself.
    Take(oneshot::Sender<Lease>, Ticket),
}

/// A write that waits. It can run more than once, as long as nothing of it was kept.
struct Write {
    work: Work,
    tell: oneshot::Sender<Result<Done, SqlError>>,
    /// Where its caller waits.
    runtime: Option<Handle>,
    ticket: Ticket,
    begun: bool,
}

impl Write {
    /// Whether it may run: it did before, or its caller still waits. From then on that waits for what comes of it.
    fn begin(&mut self) -> bool {
        self.begun = self.begun || Ticket::take(&self.ticket.taken);
        self.begun
    }
}

enum Work {
    Statements(Vec<Statement>),
    /// Has a commit of its own.
    Script(String),
}

enum Done {
    Statements(Vec<Rows>),
    Script(u64),
}

impl Done {
    fn bytes(&self) -> usize {
        match self {
            Self::Statements(results) => results.iter().flat_map(|rows| &rows.rows).map(|row| row_bytes(row)).sum(),
            Self::Script(_) => 0,
        }
    }
}

/// Decides between a turn that comes and a caller that gives up.
struct Ticket {
    taken: Arc<AtomicBool>,
    _place: OwnedSemaphorePermit,
}

impl Ticket {
    /// Whether the turn is for whoever asks: the first one only.
    fn take(taken: &AtomicBool) -> bool {
        !taken.swap(true, Ordering::AcqRel)
    }
}

/// The connection that writes, out of its queue. Comes back when it is dropped; what it has begun is rolled back.
pub(super) struct Lease {
    /// `None` only while the value is dropped.
    session: Option<Session>,
    store: Arc<Store>,
}

impl Lease {
    pub(super) fn session(&mut self) -> Option<&mut Session> {
        self.session.as_mut()
    }

    /// Before a transaction is begun.
    pub(super) fn bound_log(&self) -> Result<(), SqlError> {
        self.store.bound_log(self.session.as_ref().ok_or(SqlError::Stopped)?)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let session = self.session.take().filter(|session| {
            session.watch.fresh();
            session.roll_back().is_ok() && session.is_sound()
        });
        self.store.queue.resume(&self.store, session);
    }
}

/// What an attempt at a group came to.
enum Attempt {
    /// The writes with which the group begins.
    Kept(Vec<Result<Done, SqlError>>),
    /// This write made SQLite roll everything back: out of time, memory or space, or `ROLLBACK` as the answer to a conflict.
    Lost(usize, SqlError),
    /// The commit failed, or there was no transaction to begin.
    Failed(SqlError),
    /// The commit of so many writes found a constraint broken that was to hold at the end of the transaction.
    Broken(usize, SqlError),
}

impl Queue {
    pub(super) fn new(path: &Path, limits: SqlLimits, writer: Session) -> Self {
        let state = State { turns: VecDeque::new(), writer: Some(writer), busy: false };
        Self { path: path.to_owned(), limits, places: Arc::new(Semaphore::new(WAITING)), state: Mutex::new(state) }
    }

    /// Runs statements in one transaction, and answers when it is on the disk.
    pub(super) async fn write(&self, store: &Arc<Store>, statements: Vec<Statement>) -> Result<Vec<Rows>, SqlError> {
        match self.submit(store, Work::Statements(statements)).await? {
            Done::Statements(rows) => Ok(rows),
            Done::Script(_) => Err(SqlError::Stopped),
        }
    }

    pub(super) async fn script(&self, store: &Arc<Store>, sql: String) -> Result<u64, SqlError> {
        match self.submit(store, Work::Script(sql)).await? {
            Done::Script(count) => Ok(count),
            Done::Statements(_) => Err(SqlError::Stopped),
        }
    }

    async fn submit(&self, store: &Arc<Store>, work: Work) -> Result<Done, SqlError> {
        let (tell, told) = oneshot::channel();
        let runtime = Handle::try_current().ok();
        self.wait(store, told, |ticket| Turn::Write(Write { work, tell, runtime, ticket, begun: false })).await?
    }

    /// How many calls wait for a turn.
    pub(super) fn waiting(&self) -> usize {
        WAITING.saturating_sub(self.places.available_permits())
    }

    /// The connection that writes, for as long as the lease lives.
    pub(super) async fn take(&self, store: &Arc<Store>) -> Result<Lease, SqlError> {
        let (tell, told) = oneshot::channel();
        self.wait(store, told, |ticket| Turn::Take(tell, ticket)).await
    }

    /// Waits for a turn, and then for what comes of it. A turn that does not come in time never comes.
    async fn wait<T>(
        &self,
        store: &Arc<Store>,
        mut told: oneshot::Receiver<T>,
        turn: impl FnOnce(Ticket) -> Turn,
    ) -> Result<T, SqlError> {
        let deadline = tokio::time::Instant::now() + self.limits.statement;
        let place = tokio::time::timeout_at(deadline, Arc::clone(&self.places).acquire_owned()).await;
        let place = place.map_err(|_| SqlError::Busy)?.map_err(|_| SqlError::Stopped)?;
        let taken = Arc::new(AtomicBool::new(false));
        // Also when the caller stops waiting: what was not begun then is not begun later.
        let _give_up = GiveUp(Arc::clone(&taken));
        let start = {
            let mut state = lock(&self.state);
            state.turns.push_back(turn(Ticket { taken: Arc::clone(&taken), _place: place }));
            if state.busy {
                None
            } else {
                state.busy = true;
                Some(state.writer.take())
            }
        };
        if let Some(writer) = start {
            spawn_work(store, writer);
        }
        let told = match tokio::time::timeout_at(deadline, &mut told).await {
            Ok(told) => told,
            Err(_) if Ticket::take(&taken) => return Err(SqlError::Busy),
            // It runs, for a bounded time: its own and that of the group, or two more when others of the group are lost.
            Err(_) => told.await,
        };
        told.map_err(|_| SqlError::Stopped)
    }

    /// Goes on with what waits, with the connection that came back.
    fn resume(&self, store: &Arc<Store>, writer: Option<Session>) {
        let mut state = lock(&self.state);
        if changed_schema(writer.as_ref()) {
            store.forget_ways();
        }
        if state.turns.is_empty() {
            state.writer = writer;
            state.busy = false;
            return;
        }
        drop(state);
        spawn_work(store, writer);
    }

    /// Takes turns until there are none left, or one takes the connection. Blocking.
    fn work(&self, store: &Arc<Store>, mut writer: Option<Session>) {
        let _yielding = Yielding::begin();
        loop {
            let mut group = Vec::new();
            let mut take = None;
            {
                let mut state = lock(&self.state);
                while group.len() < GROUPED
                    && let Some(turn) = state.turns.pop_front()
                {
                    match turn {
                        Turn::Write(write) if matches!(write.work, Work::Statements(_)) => {
                            group.push(write);
                            continue;
                        }
                        turn if !group.is_empty() => state.turns.push_front(turn),
                        Turn::Write(write) => group.push(write),
                        Turn::Take(tell, ticket) => take = Some((tell, ticket)),
                    }
                    break;
                }
                if group.is_empty() && take.is_none() {
                    state.writer = writer;
                    state.busy = false;
                    return;
                }
            }
            let session = match writer.take() {
                Some(session) => Ok(session),
                None => Session::open(&self.path, self.limits, Role::Writer),
            };
            let session = match session {
                Ok(session) => session,
                Err(error) => {
                    for write in group {
                        let _ = write.tell.send(Err(error.clone()));
                    }
                    // Dropping the sender tells the one who wanted the connection.
                    continue;
                }
            };
            if let Some((tell, ticket)) = take {
                if !Ticket::take(&ticket.taken) {
                    writer = Some(session);
                    continue;
                }
                drop(ticket);
                session.forget_rowid();
                // A caller that has gone drops the lease, which goes on here.
                let _ = tell.send(Lease { session: Some(session), store: Arc::clone(store) });
                return;
            }
            // After a panic the connection is in no known state; its callers hear that the store has stopped, and another is opened.
            let ran = catch_unwind(AssertUnwindSafe(|| {
                run_group(store, &session, group);
                if session.watch.take_schema_changed() {
                    store.forget_ways();
                }
                session
            }));
            // So it is after a rollback that failed.
            writer = ran.ok().filter(Session::is_sound);
        }
    }
}

fn changed_schema(writer: Option<&Session>) -> bool {
    writer.is_none_or(|session| session.watch.take_schema_changed())
}

fn spawn_work(store: &Arc<Store>, writer: Option<Session>) {
    let store = Arc::clone(store);
    let work = move || store.queue.work(&store, writer);
    match tokio::runtime::Handle::try_current() {
        Ok(runtime) => {
            runtime.spawn_blocking(work);
        }
        // A lease that is dropped outside of a runtime: the node is about to end.
        Err(_) => work(),
    }
}

struct GiveUp(Arc<AtomicBool>);

impl Drop for GiveUp {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Runs the writes and tells their callers. When SQLite answers one by rolling back everything, that one is taken out, and those before it run
/// again; when that fails too, each alone. So a write runs at most three times, and one that is not begun in its caller's time is never begun.
fn run_group(store: &Store, session: &Session, mut group: Vec<Write>) {
    if let Err(error) = store.bound_log(session) {
        for write in group {
            let _ = write.tell.send(Err(error.clone()));
        }
        return;
    }
    if matches!(group.as_slice(), [Write { work: Work::Script(_), .. }]) {
        if let Some(mut write) = group.pop()
            && write.begin()
            && let Work::Script(sql) = &write.work
        {
            let limits = session.limits();
            let ran = session.whole_script(sql, limits.transaction, limits.statement, || Ok(()));
            let _ = write.tell.send(ran.map(Done::Script).map_err(|error| placed(error, sql)));
        }
        return;
    }
    // So many writes at the start of the group ran already, in an attempt of which nothing was kept.
    let mut again = 0;
    let mut alone = false;
    while !group.is_empty() {
        let most = match again {
            0 => group.len(),
            _ if alone => 1,
            again => again,
        };
        let attempt = attempt(session, &mut group, most);
        if !session.connection.is_autocommit() {
            // Nothing is kept of an attempt that failed.
            if let Err(error) = session.roll_back() {
                tracing::error!(%error, "a transaction could not be rolled back");
            }
        }
        match attempt {
            Attempt::Kept(results) => {
                again = again.saturating_sub(results.len());
                alone &= again > 0;
                let answers = group.drain(..results.len()).zip(results);
                let answers = answers.map(|(write, result)| (write.runtime, (write.tell, result)));
                // A caller may have gone; its write stands.
                answer_together(answers, |(tell, result)| drop(tell.send(result)));
            }
            Attempt::Lost(index, error) => {
                let _ = group.remove(index).tell.send(Err(error));
                alone = again > 0;
                again = if alone { again - 1 } else { index };
            }
            Attempt::Broken(ran, _) if ran > 1 => (again, alone) = (again.max(ran), true),
            Attempt::Broken(ran, error) => {
                again = again.saturating_sub(ran);
                for write in group.drain(..ran) {
                    let _ = write.tell.send(Err(error.clone()));
                }
            }
            Attempt::Failed(error) => {
                for write in group.drain(..) {
                    let _ = write.tell.send(Err(error.clone()));
                }
            }
        }
    }
}

/// Runs at most `most` writes from the start of `group` and commits: fewer when they take long or answer much. Those that nobody waits for any
/// more are taken out.
fn attempt(session: &Session, group: &mut Vec<Write>, most: usize) -> Attempt {
    if let Err(error) = session.control("BEGIN IMMEDIATE") {
        return Attempt::Failed(error);
    }
    let begun = Instant::now();
    let mut results = Vec::new();
    let mut bytes = 0;
    while results.len() < most
        && (results.is_empty() || begun.elapsed() < GROUP_TIME && bytes < session.limits().result_bytes)
        && let Some(write) = group.get_mut(results.len())
    {
        if !write.begin() {
            group.remove(results.len());
            continue;
        }
        if let Err(error) = session.control("SAVEPOINT write") {
            return Attempt::Failed(error);
        }
        session.forget_rowid();
        let result = run(session, &write.work);
        if session.connection.is_autocommit() {
            let error = result.err().unwrap_or_else(|| SqlError::Ended("the statement rolled it back".into()));
            return Attempt::Lost(results.len(), error);
        }
        let end = if result.is_ok() { "RELEASE write" } else { "ROLLBACK TO write; RELEASE write" };
        if let Err(error) = session.control(end) {
            return Attempt::Failed(error);
        }
        bytes += result.as_ref().map_or(0, Done::bytes);
        results.push(result);
    }
    match session.control("COMMIT") {
        Ok(()) => Attempt::Kept(results),
        Err(error @ (SqlError::Refused(_) | SqlError::Constraint(_))) => Attempt::Broken(results.len(), error),
        Err(error) => Attempt::Failed(error),
    }
}

fn run(session: &Session, work: &Work) -> Result<Done, SqlError> {
    let Work::Statements(statements) = work else { return Err(SqlError::Stopped) };
    let end = Instant::now() + session.limits().transaction;
    session.run_all(statements, end, false).map(Done::Statements)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(dir: &tempfile::TempDir) -> Session {
        super::super::memory::install().unwrap();
        let session = Session::open(&dir.path().join("a.db"), SqlLimits::default(), Role::Writer).unwrap();
        session.control("CREATE TABLE t (a)").unwrap();
        session
    }

    fn writes(count: usize, sql: &str) -> Vec<Write> {
        let places = Arc::new(Semaphore::new(count));
        let write = |_| Write {
            work: Work::Statements(vec![Statement::new(sql, [])]),
            tell: oneshot::channel().0,
            runtime: None,
            ticket: Ticket { taken: Arc::default(), _place: Arc::clone(&places).try_acquire_owned().unwrap() },
            begun: false,
        };
        (0..count).map(write).collect()
    }

    /// Attempts until all is done: how many writes each kept.
    fn attempts(session: &Session, mut group: Vec<Write>) -> Vec<usize> {
        let mut sizes = Vec::new();
        while !group.is_empty() {
            let most = group.len();
            let Attempt::Kept(results) = attempt(session, &mut group, most) else { panic!("not kept") };
            results.iter().for_each(|result| assert_eq!(result.as_ref().map(drop), Ok(())));
            assert!(group.iter().skip(results.len()).all(|write| !write.begun));
            sizes.push(results.len());
            group.drain(..results.len());
        }
        sizes
    }

    #[test]
    fn a_group_ends_when_its_answers_are_large_or_its_time_is_over() {
        let temp = tempfile::tempdir().unwrap();
        let session = session(&temp);
        assert!(attempts(&session, writes(20, "INSERT INTO t VALUES (1)")).len() < 10);
        let large = "INSERT INTO t VALUES (1), (2) RETURNING zeroblob(4000000)";
        let sizes = attempts(&session, writes(7, large));
        assert!(sizes.iter().all(|size| *size <= 3), "{sizes:?}");
        let slow = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 1000000) INSERT INTO t SELECT max(i) FROM n";
        let begun = Instant::now();
        session
            .control(
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 1000000) SELECT max(i) FROM n",
            )
            .unwrap();
        let fit = (GROUP_TIME.as_secs_f64() / begun.elapsed().as_secs_f64()).ceil() as usize;
        let sizes = attempts(&session, writes(fit * 6, slow));
        assert!(sizes.len() > 2, "{sizes:?}");
    }

    #[test]
    fn a_write_that_nobody_waits_for_is_left_out_before_it_begins() {
        let temp = tempfile::tempdir().unwrap();
        let session = session(&temp);
        let mut group = writes(5, "INSERT INTO t VALUES (1)");
        for index in [0, 3] {
            group[index].ticket.taken.store(true, Ordering::Release);
        }
        // This one ran before, in an attempt of which nothing was kept.
        group[1].ticket.taken.store(true, Ordering::Release);
        group[1].begun = true;
        assert_eq!(attempts(&session, group).iter().sum::<usize>(), 3);
    }
}
