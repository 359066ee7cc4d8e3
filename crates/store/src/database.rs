//! The node's database: SQLite in WAL mode. One thread writes, a few connections read beside it.
//!
//! A write is answered after its transaction is on the disk (`synchronous=FULL`). Writes that wait while another is being
//! synced share the next sync (group commit), each in a savepoint of its own, so that one that fails takes no other along.

use std::{
    fs::OpenOptions,
    io,
    os::unix::fs::OpenOptionsExt as _,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock, PoisonError},
    thread,
    time::Duration,
};

use rusqlite::{Connection, OpenFlags, TransactionBehavior};
use tokio::{
    runtime::Handle,
    sync::{Semaphore, mpsc, oneshot},
};

use crate::{
    StoreError,
    full::{disk_is_full, tell_full_disk},
    snapshot::Snapshot,
};

/// Writes that may wait for the writer thread. Callers beyond it wait to enqueue, which is the back-pressure.
const WAITING_WRITES: usize = 256;
/// Writes that share one commit. Bounds how long the first one waits for the last.
const GROUPED_WRITES: usize = 64;
/// How long a connection waits for a lock that another one holds. Only checkpoints and backups hold one for long.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// An open database. Dropping it ends the writer thread after the writes that wait.
pub struct Database {
    /// `None` only while the value is dropped.
    writes: Option<mpsc::Sender<Job>>,
    writer: Option<thread::JoinHandle<()>>,
    /// At most [`Tuning::readers`] that nobody uses now; they are opened on first use.
    readers: Mutex<Vec<Connection>>,
    /// One permit for each connection that [`Database::read`] may use at once.
    reading: Arc<Semaphore>,
    path: PathBuf,
    tuning: Tuning,
}

/// How the node's own database and those of the data services differ.
#[derive(Debug, Clone, Copy)]
pub struct Tuning {
    /// Connections that are kept for reading.
    pub readers: usize,
    /// Pages that each connection keeps in memory, in KiB.
    pub cache_kib: u32,
    /// The database does not grow beyond it, nor its log much: a write that would answers [`StoreError::Full`].
    pub max_bytes: Option<u64>,
    /// Whether the file is locked for this process alone while it is open, as [`connect_alone`] does.
    pub alone: bool,
}

impl Default for Tuning {
    /// For the node's own database. Reads are short and the control API is not the hot path; 2 MiB is SQLite's own default.
    fn default() -> Self {
        Self { readers: 2, cache_kib: 2048, max_bytes: None, alone: false }
    }
}

/// Runs in a savepoint of the group's transaction, and answers after the group's commit; or is told why there is none.
type Job = Box<dyn FnOnce(Result<&Connection, StoreError>) -> Ran + Send>;

/// What a job came to inside its savepoint.
struct Ran {
    keep: bool,
    /// Where its caller waits.
    runtime: Option<Handle>,
    answer: Box<dyn Answer>,
}

/// What is left to do of a job when its group was committed, or was not.
trait Answer: Send {
    /// The group is on the disk. Called before any of its callers is told.
    fn committed(&mut self);
    /// Tells the caller, given whether the commit succeeded.
    fn tell(self: Box<Self>, committed: Result<(), StoreError>);
}

/// The answer of a write.
struct Written<T, E, F> {
    result: thread::Result<Result<T, E>>,
    then: Option<F>,
    tell: oneshot::Sender<thread::Result<Result<T, E>>>,
    path: PathBuf,
}

impl<T: Send, E: From<StoreError> + Send, F: FnOnce(&T) + Send> Answer for Written<T, E, F> {
    fn committed(&mut self) {
        let (Ok(Ok(written)), Some(then)) = (&self.result, self.then.take()) else { return };
        // The write stands, and the thread serves all others.
        if catch_unwind(AssertUnwindSafe(|| then(written))).is_err() {
            tracing::error!(path = %self.path.display(), "what follows a write panicked; the write was kept");
        }
    }

    fn tell(self: Box<Self>, committed: Result<(), StoreError>) {
        // The caller may have gone; the write stands.
        let _ = self.tell.send(match (self.result, committed) {
            (Ok(Ok(_)), Err(error)) => Ok(Err(E::from(name_path(&self.path, error)))),
            (result, _) => result,
        });
    }
}

/// What a writer's thread does.
type Run = Box<dyn FnOnce() + Send>;

/// Starts the thread of a writer from a thread that does nothing else. A thread inherits the priority of the one that starts it: whoever
/// opens a database at a low one would have all others wait for its writes.
fn start_thread(run: Run) -> io::Result<thread::JoinHandle<()>> {
    type Asked = (Run, std::sync::mpsc::SyncSender<io::Result<thread::JoinHandle<()>>>);
    static STARTER: OnceLock<std::sync::mpsc::Sender<Asked>> = OnceLock::new();
    let starter = STARTER.get_or_init(|| {
        let (starter, asked) = std::sync::mpsc::channel::<Asked>();
        let start = move || {
            for (run, started) in asked {
                // Whoever asked waits for it.
                let _ = started.send(thread::Builder::new().name("database".into()).spawn(run));
            }
        };
        // Without it, whoever asks is told so.
        let _ = thread::Builder::new().name("database-starter".into()).spawn(start);
        starter
    });
    let (started, start) = std::sync::mpsc::sync_channel(1);
    let gone = |_| io::Error::other("the thread that starts the writers of databases is gone");
    starter.send((run, started)).map_err(|error| gone(error.to_string()))?;
    start.recv().map_err(|error| gone(error.to_string()))?
}

/// The answer of a job whose caller was told already.
struct Told;

impl Answer for Told {
    fn committed(&mut self) {}
    fn tell(self: Box<Self>, _committed: Result<(), StoreError>) {}
}

impl Database {
    /// Opens the database at `path`, creating it where it does not exist, and brings it to the newest schema: each of
    /// `migrations` is a batch of SQL that has run once, in order. Entries may be appended, never changed. Blocking.
    pub fn open(path: &Path, migrations: &[&str]) -> Result<Self, StoreError> {
        Self::open_tuned(path, migrations, Tuning::default())
    }

    /// [`Database::open`] for one of many databases.
    pub fn open_tuned(path: &Path, migrations: &[&str], tuning: Tuning) -> Result<Self, StoreError> {
        crate::sql::memory::install()?;
        let name = |error: rusqlite::Error| at(path, error.into());
        make_private(path).map_err(|error| StoreError::io(path, error))?;
        let mut connection = connect(path, tuning).map_err(name)?;
        configure(&connection, tuning).map_err(name)?;
        migrate(&mut connection, migrations).map_err(|error| at(path, error))?;
        let (writes, jobs) = mpsc::channel(WAITING_WRITES);
        let of_writer = path.to_owned();
        let write = move || {
            yield_to_others();
            write_jobs(connection, jobs, &of_writer, tuning);
        };
        let writer = start_thread(Box::new(write)).map_err(|error| StoreError::io(path, error))?;
        Ok(Self {
            writes: Some(writes),
            writer: Some(writer),
            readers: Mutex::default(),
            reading: Arc::new(Semaphore::new(tuning.readers)),
            path: path.to_owned(),
            tuning,
        })
    }

    /// Runs `work` in a transaction and answers once it is durable. When `work` fails, nothing of it is kept. A write
    /// that was begun goes on when the caller stops waiting for it.
    pub async fn write<T, E>(&self, work: impl FnOnce(&Connection) -> Result<T, E> + Send + 'static) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        self.write_then(work, |_: &T| ()).await
    }

    /// [`Database::write`] that calls `then` with what `work` came to once it is durable: before anybody whose write shared the
    /// commit is told, and also where the caller has stopped waiting. `then` runs on the writer's thread, so it must not block.
    pub async fn write_then<T, E>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, E> + Send + 'static,
        then: impl FnOnce(&T) + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        let (tell, told) = oneshot::channel();
        let (path, runtime) = (self.path.clone(), Handle::try_current().ok());
        let job: Job = Box::new(move |connection| {
            let result = match connection {
                Ok(connection) => catch_unwind(AssertUnwindSafe(|| work(connection))),
                Err(error) => Ok(Err(E::from(name_path(&path, error)))),
            };
            let keep = matches!(result, Ok(Ok(_)));
            Ran { keep, runtime, answer: Box::new(Written { result, then: Some(then), tell, path }) }
        });
        let writes = self.writes.as_ref().ok_or(StoreError::Stopped)?;
        writes.send(job).await.map_err(|_| StoreError::Stopped)?;
        match told.await {
            Ok(Ok(result)) => result,
            Ok(Err(panic)) => resume_unwind(panic),
            Err(_) => Err(StoreError::Stopped.into()),
        }
    }

    /// Runs `work` on a connection that can only read, on a thread that may wait. It sees every write that was
    /// answered before.
    pub async fn read<T, E>(&self, work: impl FnOnce(&Connection) -> Result<T, E> + Send + 'static) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        let permit = Arc::clone(&self.reading).acquire_owned().await.map_err(|_| StoreError::Stopped)?;
        let connection = self.reader()?;
        let ran = tokio::task::spawn_blocking(move || {
            let result = work(&connection);
            // Not with the caller, who may look at the result much later.
            drop(permit);
            (connection, result)
        });
        match ran.await {
            Ok((connection, result)) => {
                self.keep(connection);
                result
            }
            Err(error) => match error.try_into_panic() {
                Ok(panic) => resume_unwind(panic),
                Err(_) => Err(StoreError::Stopped.into()),
            },
        }
    }

    /// [`Database::read`] on this thread, for work of microseconds. There are as many connections at once as threads that call.
    pub fn read_here<T, E>(&self, work: impl FnOnce(&Connection) -> Result<T, E>) -> Result<T, E>
    where
        E: From<StoreError>,
    {
        let connection = self.reader()?;
        let result = work(&connection);
        self.keep(connection);
        result
    }

    /// Keeps all writes waiting until what is returned is dropped. Those that are answered are committed.
    pub(crate) async fn hold(&self) -> Result<Held, StoreError> {
        let (tell, told) = oneshot::channel();
        let (release, released) = oneshot::channel::<()>();
        let job: Job = Box::new(move |connection| {
            // Where the caller has gone nobody would release the writer.
            if tell.send(connection.map(drop)).is_ok() {
                let _ = released.blocking_recv();
            }
            Ran { keep: false, runtime: None, answer: Box::new(Told) }
        });
        let writes = self.writes.as_ref().ok_or(StoreError::Stopped)?;
        writes.send(job).await.map_err(|_| StoreError::Stopped)?;
        match told.await {
            Ok(Ok(())) => Ok(Held { _release: release }),
            Ok(Err(error)) => Err(name_path(&self.path, error)),
            Err(_) => Err(StoreError::Stopped),
        }
    }

    /// The database as it is now. Blocking.
    pub fn snapshot(&self) -> Result<Snapshot, StoreError> {
        Snapshot::begin(&self.path, |path| connect(path, self.tuning))
    }

    /// How many writes wait for the writer now.
    #[cfg(test)]
    pub(crate) fn waiting_writes(&self) -> usize {
        self.writes.as_ref().map_or(0, |writes| writes.max_capacity() - writes.capacity())
    }

    /// Where the database is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A connection that can only read: one that was used before, or another. A caller that stopped waiting, or work that
    /// panicked, took its connection along.
    fn reader(&self) -> Result<Connection, StoreError> {
        if let Some(connection) = self.readers.lock().unwrap_or_else(PoisonError::into_inner).pop() {
            return Ok(connection);
        }
        let open = || {
            let reader = connect(&self.path, self.tuning)?;
            configure(&reader, self.tuning)?;
            reader.pragma_update(None, "query_only", true)?;
            Ok(reader)
        };
        open().map_err(|error: rusqlite::Error| at(&self.path, error.into()))
    }

    fn keep(&self, connection: Connection) {
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        if readers.len() < self.tuning.readers {
            readers.push(connection);
        }
    }
}

/// Holds the writer of a [`Database`]: see [`Database::hold`].
pub(crate) struct Held {
    /// Dropping it lets the writer go on.
    _release: oneshot::Sender<()>,
}

impl Drop for Database {
    fn drop(&mut self) {
        self.writes = None;
        if let Some(writer) = self.writer.take() {
            // The thread ends by itself once the channel is closed; it never panics, since jobs are caught.
            let _ = writer.join();
        }
    }
}

/// Puts the database's path into an error that names it.
fn name_path(path: &Path, error: StoreError) -> StoreError {
    match error {
        StoreError::Corrupt { detail, .. } => StoreError::Corrupt { path: path.to_owned(), detail },
        error => error,
    }
}

fn at(path: &Path, error: StoreError) -> StoreError {
    name_path(path, error)
}

/// Makes the file for the node's user alone, where there is none yet. SQLite gives the files beside it the same mode.
fn make_private(path: &Path) -> io::Result<()> {
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

fn connect(path: &Path, tuning: Tuning) -> rusqlite::Result<Connection> {
    if tuning.alone { connect_alone(path, OpenFlags::default()) } else { Connection::open(path) }
}

/// Opens the database for connections of this process alone: another process finds it locked. Its locks and the index of its
/// log are then in this process's memory (<https://sqlite.org/vfs.html#standard_unix_vfses>, `unix-excl`), and a read does
/// without the two system calls that take and give up a lock of the file: a third of the time that it takes to read a row. All
/// connections to the file have to be made like this.
pub(crate) fn connect_alone(path: &Path, flags: OpenFlags) -> rusqlite::Result<Connection> {
    Connection::open_with_flags_and_vfs(path, flags, "unix-excl")
}

/// Has the system run the calling thread as a batch job (`sched(7)`): when it is woken it does not interrupt who runs. On a busy
/// core a writer that did would commit the first write alone, instead of all those that are about to come.
pub(crate) fn yield_to_others() {
    schedule(libc::SCHED_BATCH);
}

/// [`yield_to_others`] for a thread that then does other work: until this is dropped.
pub(crate) struct Yielding(());

impl Yielding {
    pub(crate) fn begin() -> Self {
        yield_to_others();
        Self(())
    }
}

impl Drop for Yielding {
    fn drop(&mut self) {
        schedule(libc::SCHED_OTHER);
    }
}

fn schedule(policy: libc::c_int) {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: 0 is the calling thread; the pointer is valid for the call. Where the system refuses, only speed is lost.
    unsafe { libc::sched_setscheduler(0, policy, &raw const parameters) };
}

/// Answers those who wait, with one wake-up for each of their runtimes: a wake-up for each of them is a system call for each, and
/// has a busy core go back and forth between two threads.
pub(crate) fn answer_together<T>(
    answers: impl IntoIterator<Item = (Option<Handle>, T)>,
    answer: impl Fn(T) + Clone + Send + 'static,
) where
    T: Send + 'static,
{
    let mut by_runtime: Vec<(Handle, Vec<T>)> = Vec::new();
    for (runtime, one) in answers {
        let Some(runtime) = runtime else {
            answer(one);
            continue;
        };
        match by_runtime.iter_mut().find(|(known, _)| known.id() == runtime.id()) {
            Some((_, all)) => all.push(one),
            None => by_runtime.push((runtime, vec![one])),
        }
    }
    for (runtime, mut all) in by_runtime {
        match all.pop() {
            Some(only) if all.is_empty() => answer(only),
            last => {
                all.extend(last);
                let answer = answer.clone();
                // A runtime that ends drops it, and with it those who waited.
                runtime.spawn(async move { all.into_iter().for_each(answer) });
            }
        }
    }
}

fn configure(connection: &Connection, tuning: Tuning) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    // FULL syncs the log at each commit; NORMAL could lose the last ones when the power fails.
    connection.pragma_update(None, "synchronous", "full")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    // After a burst of writes the log file shrinks back to this, in bytes.
    connection.pragma_update(None, "journal_size_limit", 16 * 1024 * 1024)?;
    // Finds damaged pages where they are read, instead of making something of them.
    connection.pragma_update(None, "cell_size_check", true)?;
    // Negative: KiB instead of pages.
    connection.pragma_update(None, "cache_size", -i64::from(tuning.cache_kib))?;
    if let Some(max_bytes) = tuning.max_bytes {
        let page_bytes: u64 = connection.pragma_query_value(None, "page_size", |row| row.get(0))?;
        connection.pragma_update_and_check(None, "max_page_count", max_bytes / page_bytes.max(1), |_| Ok(()))?;
    }
    // The registry prepares more statements than the default 16.
    connection.set_prepared_statement_cache_capacity(64);
    Ok(())
}

/// Runs the migrations that `user_version` says are missing, each in its own transaction.
fn migrate(connection: &mut Connection, migrations: &[&str]) -> Result<(), StoreError> {
    let found: usize = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if found > migrations.len() {
        return Err(StoreError::NewerSchema { found, known: migrations.len() });
    }
    for (index, sql) in migrations.iter().enumerate().skip(found) {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        transaction.execute_batch(sql)?;
        transaction.pragma_update(None, "user_version", index + 1)?;
        transaction.commit()?;
    }
    Ok(())
}

/// The writer thread: takes all the writes that wait, up to [`GROUPED_WRITES`], and commits them together.
fn write_jobs(mut connection: Connection, mut jobs: mpsc::Receiver<Job>, path: &Path, tuning: Tuning) {
    let mut group = Vec::with_capacity(GROUPED_WRITES);
    // What an aborted commit left in the group goes first.
    while !group.is_empty() || jobs.blocking_recv_many(&mut group, GROUPED_WRITES) > 0 {
        let mut ran = Vec::with_capacity(group.len());
        let committed =
            bound_log(&connection, path, tuning).and_then(|()| commit(&mut connection, &mut group, &mut ran));
        let committed = committed.map_err(|error| at(path, error));
        match &committed {
            Ok(()) => {}
            Err(StoreError::Full) if disk_is_full(path) => tell_full_disk(),
            // It has reached its size, which those who write are told.
            Err(StoreError::Full) => {}
            Err(error) => {
                tracing::error!(%error, writes = ran.len(), "a database commit failed; none of its writes was kept");
            }
        }
        if committed.is_ok() {
            ran.iter_mut().for_each(|ran| ran.answer.committed());
        }
        let mut error = committed.err();
        let mut copy = || {
            let (first, second) = split(error.take()?);
            error = Some(second);
            Some(first)
        };
        if ran.is_empty() {
            // There was no transaction, and the next one would not fare better.
            ran.extend(group.drain(..).map(|job| job(Err(copy().unwrap_or(StoreError::Stopped)))));
        }
        let answers =
            ran.into_iter().map(|Ran { runtime, answer, .. }| (runtime, (answer, copy().map_or(Ok(()), Err))));
        answer_together(answers, |(answer, committed)| answer.tell(committed));
    }
}

/// How large the log beside a database of at most `database_bytes` may be when a write begins, in bytes; the write itself adds at most a
/// database. Without readers the log begins anew after some 4 MiB: only reads that last make it grow.
pub(crate) fn log_bound(database_bytes: u64) -> u64 {
    (16 << 20) + database_bytes / 4
}

/// Whether the log beside the database at `path` is larger than `bytes`.
pub(crate) fn log_is_over(path: &Path, bytes: u64) -> bool {
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    std::fs::metadata(log).is_ok_and(|log| log.len() > bytes)
}

/// Writes the log back into the database and empties it. Waits for those who read from it, as long as the connection waits for locks; who begins
/// meanwhile reads from the database. Whether it succeeded.
pub(crate) fn reset_log(connection: &Connection) -> rusqlite::Result<bool> {
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0)).map(|busy: bool| !busy)
}

/// Refuses to write while the log is beyond its bound, and cannot be emptied.
fn bound_log(connection: &Connection, path: &Path, tuning: Tuning) -> Result<(), StoreError> {
    let Some(max_bytes) = tuning.max_bytes else { return Ok(()) };
    if log_is_over(path, log_bound(max_bytes)) && !reset_log(connection)? {
        return Err(StoreError::Full);
    }
    Ok(())
}

/// Every write of a failed group gets the error. SQLite's errors cannot be cloned, so the copies carry what a caller acts on.
fn split(error: StoreError) -> (StoreError, StoreError) {
    match error {
        StoreError::Full => (StoreError::Full, StoreError::Full),
        StoreError::Corrupt { path, detail } => {
            (StoreError::Corrupt { path: path.clone(), detail: detail.clone() }, StoreError::Corrupt { path, detail })
        }
        StoreError::Database(rusqlite::Error::SqliteFailure(code, text)) => (
            StoreError::Database(rusqlite::Error::SqliteFailure(code, text.clone())),
            StoreError::Database(rusqlite::Error::SqliteFailure(code, text)),
        ),
        error => (error, StoreError::Aborted),
    }
}

/// Runs the writes of `group` in one transaction and moves them to `ran`. After an error, those that are left have not run.
fn commit(connection: &mut Connection, group: &mut Vec<Job>, ran: &mut Vec<Ran>) -> Result<(), StoreError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // Kept as prepared statements: to compile them takes as long as a small write.
    let control = |sql| transaction.prepare_cached(sql).and_then(|mut statement| statement.execute([]));
    while !group.is_empty() {
        control("SAVEPOINT write")?;
        let job = group.remove(0);
        let result = job(Ok(&transaction));
        let keep = result.keep;
        ran.push(result);
        // A full disk or an I/O error makes SQLite roll the whole transaction back, with the writes before this one. The
        // write that met it answers with the error itself.
        if transaction.is_autocommit() {
            return Err(StoreError::Aborted);
        }
        if !keep {
            control("ROLLBACK TO write")?;
        }
        control("RELEASE write")?;
    }
    transaction.commit()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use futures::FutureExt as _;

    use super::*;

    const SCHEMA: &[&str] = &["CREATE TABLE item (name TEXT PRIMARY KEY) STRICT"];

    #[derive(Debug, thiserror::Error)]
    enum Failure {
        #[error(transparent)]
        Store(#[from] StoreError),
        #[error("refused")]
        Refused,
    }

    impl From<rusqlite::Error> for Failure {
        fn from(error: rusqlite::Error) -> Self {
            Self::Store(error.into())
        }
    }

    fn insert(connection: &Connection, name: &str) -> Result<(), Failure> {
        connection.execute("INSERT INTO item VALUES (?1)", [name])?;
        Ok(())
    }

    async fn names(database: &Database) -> Vec<String> {
        database
            .read(|connection| -> Result<Vec<String>, StoreError> {
                let mut statement = connection.prepare("SELECT name FROM item ORDER BY name")?;
                Ok(statement.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?)
            })
            .await
            .unwrap()
    }

    #[tokio::test]
    async fn writers_have_the_priority_of_the_process_whoever_opens_their_database() {
        let nice_of_writer = async |database: &Database| {
            database.write(|_| Ok::<_, StoreError>(rustix::process::nice(0).unwrap())).await.unwrap()
        };
        let temp = tempfile::tempdir().unwrap();
        let (first, second) = (temp.path().join("first.db"), temp.path().join("second.db"));
        let usual = nice_of_writer(&Database::open(&first, SCHEMA).unwrap()).await;
        let opened = thread::spawn(move || {
            rustix::process::nice(5).unwrap();
            Database::open(&second, SCHEMA).unwrap()
        });
        assert_eq!(nice_of_writer(&opened.join().unwrap()).await, usual);
    }

    #[tokio::test]
    async fn writes_are_there_after_opening_again() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("a.db");
        let database = Database::open(&path, SCHEMA).unwrap();
        database.write(|connection| insert(connection, "one")).await.unwrap();
        assert_eq!(names(&database).await, ["one"]);
        for file in ["a.db", "a.db-wal", "a.db-shm"] {
            let mode = std::fs::metadata(temp.path().join(file)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{file}");
        }
        drop(database);
        assert_eq!(names(&Database::open(&path, SCHEMA).unwrap()).await, ["one"]);
    }

    #[tokio::test]
    async fn a_write_that_fails_or_panics_keeps_nothing_and_hurts_no_other() {
        let temp = tempfile::tempdir().unwrap();
        let database = std::sync::Arc::new(Database::open(&temp.path().join("a.db"), SCHEMA).unwrap());
        let mut writes = Vec::new();
        for number in 0..200 {
            let database = std::sync::Arc::clone(&database);
            writes.push(tokio::spawn(async move {
                database
                    .write(move |connection| {
                        insert(connection, &format!("{number:03}"))?;
                        match number % 10 {
                            3 => Err(Failure::Refused),
                            7 => panic!("on purpose"),
                            _ => Ok(()),
                        }
                    })
                    .await
            }));
        }
        let mut kept = 0;
        for write in writes {
            kept += usize::from(matches!(write.await, Ok(Ok(()))));
        }
        assert_eq!(kept, 160);
        let names = names(&database).await;
        assert_eq!(names.len(), 160);
        assert!(!names.iter().any(|name| name.ends_with('3') || name.ends_with('7')));
    }

    #[tokio::test]
    async fn what_follows_a_write_comes_after_the_commit_and_before_anybody_is_told() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("a.db");
        let database = std::sync::Arc::new(Database::open(&path, SCHEMA).unwrap());
        // Both share a commit: they wait behind the hold.
        let hold = database.hold().await.unwrap();
        let (saw, seen) = std::sync::mpsc::channel();
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let write = |name: &'static str, result: Result<(), Failure>| {
            let saw = saw.clone();
            let reader = Connection::open(&path).unwrap();
            database.write_then(
                move |connection| insert(connection, name).and(result).map(|()| name),
                move |name: &&str| {
                    let sql = "SELECT count(*) FROM item WHERE name = ?1";
                    saw.send((*name, reader.query_row(sql, [name], |row| row.get::<_, u64>(0)).unwrap())).unwrap();
                },
            )
        };
        // Its caller goes away once it waits.
        assert!(write("gone", Ok(())).now_or_never().is_none());
        assert!(write("refused", Err(Failure::Refused)).now_or_never().is_none());
        let panics = database.write_then(|connection| insert(connection, "panics"), |_: &()| panic!("on purpose"));
        let mut panics = std::pin::pin!(panics);
        assert!(futures::poll!(&mut panics).is_pending());
        let last = database.write_then(
            |connection| insert(connection, "last"),
            move |()| {
                let _ = wait.recv_timeout(Duration::from_secs(60));
            },
        );
        let mut last = std::pin::pin!(last);
        assert!(futures::poll!(&mut last).is_pending());
        drop(hold);
        assert_eq!(seen.recv_timeout(Duration::from_secs(60)).unwrap(), ("gone", 1));
        // Committed, and the one before `last` is not told while what follows `last` runs.
        tokio::task::yield_now().await;
        assert!(futures::poll!(&mut panics).is_pending());
        drop(go);
        last.await.unwrap();
        panics.await.unwrap();
        assert_eq!(names(&database).await, ["gone", "last", "panics"]);
        assert!(seen.try_recv().is_err(), "what failed was followed");
    }

    #[tokio::test]
    async fn a_full_disk_is_told_apart_and_the_next_write_works() {
        let temp = tempfile::tempdir().unwrap();
        let database = Database::open(&temp.path().join("a.db"), SCHEMA).unwrap();
        database
            .write(|connection| -> Result<(), Failure> {
                Ok(connection.pragma_update_and_check(None, "max_page_count", 10, |_| Ok(()))?)
            })
            .await
            .unwrap();
        let long = "x".repeat(100_000);
        let error = database.write(move |connection| insert(connection, &long)).await.unwrap_err();
        assert!(matches!(error, Failure::Store(StoreError::Full)), "{error:?}");
        database.write(|connection| insert(connection, "small")).await.unwrap();
        assert_eq!(names(&database).await, ["small"]);
    }

    #[tokio::test]
    async fn a_read_that_lasts_does_not_let_the_log_grow_without_bound() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("a.db");
        let tuning = Tuning { max_bytes: Some(1 << 20), ..Tuning::default() };
        let database = Database::open_tuned(&path, SCHEMA, tuning).unwrap();
        let reader = Connection::open(&path).unwrap();
        reader.execute_batch("BEGIN; SELECT count(*) FROM item").unwrap();
        let log = || std::fs::metadata(temp.path().join("a.db-wal")).unwrap().len();
        let write = |name: &str| {
            let name = name.repeat(50_000);
            database.write(move |connection| -> Result<(), Failure> {
                connection.execute("DELETE FROM item", [])?;
                insert(connection, &name)
            })
        };
        while log() <= log_bound(1 << 20) {
            write("ab").await.unwrap();
        }
        assert!(log() < log_bound(1 << 20) + (1 << 20), "{}", log());
        // It waits for a while, and then says no.
        let error = write("cd").await.unwrap_err();
        assert!(matches!(error, Failure::Store(StoreError::Full)), "{error:?}");
        drop(reader);
        write("ef").await.unwrap();
        assert!(log() < 1 << 20, "{}", log());
    }

    #[test]
    fn migrations_run_once_and_a_newer_schema_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("a.db");
        let newer = [SCHEMA[0], "ALTER TABLE item ADD COLUMN size INTEGER"];
        drop(Database::open(&path, SCHEMA).unwrap());
        drop(Database::open(&path, &newer).unwrap());
        drop(Database::open(&path, &newer).unwrap());
        assert!(matches!(Database::open(&path, SCHEMA), Err(StoreError::NewerSchema { found: 2, known: 1 })));
    }

    #[test]
    fn a_file_that_is_no_database_is_reported_as_damage() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("a.db");
        std::fs::write(&path, vec![b'x'; 8192]).unwrap();
        let Err(error) = Database::open(&path, SCHEMA) else { panic!("opened") };
        assert!(error.to_string().contains("a.db") && error.to_string().contains("backup"), "{error}");
    }
}
