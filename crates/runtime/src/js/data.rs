//! The data services for one process: what stands behind `env.SESSIONS.get(…)`.
//!
//! The process has one connection to a socket of its own. It sends a key that only its bootstrap knows ([`Key`]), and then frames: four bytes with the length of the rest (little
//! endian), four with that of the head, the head in JSON, then raw bytes that the head speaks of. An answer is such a frame
//! with the same `id`; answers come in the order in which they are ready. What comes in is the function's, and may be
//! anything: every call passes the gate.

mod blobs;
mod failure;
mod files;
mod frame;
mod held;
mod topics;

use std::{
    collections::HashMap,
    io, mem,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::{
    FutureExt as _, StreamExt as _, future,
    stream::{self, FuturesUnordered},
};
use minnow_model::{RequestId, StoreKind};
use minnow_store::{
    kv::{Entry, MAX_BATCH_BYTES, MAX_VALUE_BYTES, Write},
    lock::{Held, MAX_HELD, MAX_LEASE},
    sql::{Access, Rows, Statement, Value},
};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader, BufWriter},
    net::{UnixListener, UnixStream},
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
};

pub(super) use self::held::HeldOpen;
use self::{
    failure::{Code, Failure},
    frame::{MAX_FRAME_BYTES, Question, Reply},
};
use super::process::Call;
use crate::{
    Function,
    data::{Data, Need},
};

/// Calls of one process that are under way at once. Beyond that it is not read, which holds the function up.
const MAX_CALLS: usize = 256;
/// Those of them that may wait for locks. The others are for whoever holds these locks, and has to get on to release them.
const MAX_LOCK_CALLS: usize = MAX_CALLS / 2;
/// Bytes of a process's calls that are in memory until they are done, and as many of the answers to them: what one call for
/// several keys may find. Two frames of the largest size fit.
const MEMORY_BYTES: usize = MAX_BATCH_BYTES;
/// What a result of SQL is taken for until it is there: the longest row. It may be four times that, so that the
/// process's results are 256 MiB at most; to reserve that much would leave four inserts with `RETURNING` to one commit.
const ROWS_BYTES: usize = minnow_store::sql::MAX_VALUE_BYTES;
/// Locks of an invocation among which it is looked for those whose lease is over, for the first time.
const FIRST_SWEEP: usize = 64;
/// Connections that have not sent the process's [`Key`] yet. The bootstrap has one of them at most; the others are the function's own,
/// which gains nothing by them.
const MAX_STRANGERS: usize = 16;
/// How long such a connection stays. The bootstrap sends the key at once, but its process may be held up on a busy node.
const ADMISSION: Duration = Duration::from_secs(10);
/// Most calls and answers are some hundred bytes, and many of them leave together.
const BUFFER_BYTES: usize = 32 << 10;

/// The locks that one invocation holds, by the number under which the process has them.
#[derive(Default)]
pub(super) struct HeldLocks {
    state: Mutex<LockState>,
    ended: Notify,
}

#[derive(Default)]
struct LockState {
    has_ended: bool,
    held: HashMap<u64, Leased>,
    /// With so many, those whose lease is over are dropped. Twice what was left by then, so that a lock costs little.
    sweep_at: usize,
}

struct Leased {
    lock: Held,
    /// Not before the lease is over.
    until: Instant,
}

impl HeldLocks {
    /// Gives up all of them: the invocation has ended.
    pub(super) fn release(&self) {
        let held = {
            let mut state = self.state();
            state.has_ended = true;
            mem::take(&mut state.held)
        };
        drop(held);
        self.ended.notify_waiters();
    }

    /// Ready when the invocation has ended.
    async fn ended(&self) {
        let ended = self.ended.notified();
        if !self.state().has_ended {
            ended.await;
        }
    }

    fn insert(&self, number: u64, lock: Held, lease: Duration) -> Result<(), Failure> {
        let now = Instant::now();
        let mut state = self.state();
        if state.has_ended {
            return Err(Failure::ended());
        }
        if state.held.len() >= state.sweep_at.clamp(FIRST_SWEEP, MAX_HELD) {
            state.held.retain(|_, leased| leased.until > now);
            state.sweep_at = 2 * state.held.len();
        }
        if state.held.len() >= MAX_HELD {
            let message = format!("the invocation holds {MAX_HELD} locks, which is the most; release some first");
            return Err(Failure::new(Code::TooMany, message));
        }
        state.held.insert(number, Leased { lock, until: now + lease.min(MAX_LEASE) });
        Ok(())
    }

    fn renew(&self, number: u64, lease: Duration) -> bool {
        let mut state = self.state();
        let Some(leased) = state.held.get_mut(&number) else { return false };
        let is_held = leased.lock.renew(lease);
        if is_held {
            leased.until = Instant::now() + lease.min(MAX_LEASE);
        }
        is_held
    }

    fn remove(&self, number: u64) -> Option<Held> {
        self.state().held.remove(&number).map(|leased| leased.lock)
    }

    fn state(&self) -> MutexGuard<'_, LockState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a connection begins with: made for one process, and told to its bootstrap alone. The function's own code can connect to the
/// socket, too, and must not take the place of the bootstrap. No wall: who knows it is still before the gate.
pub(super) struct Key(String);

impl Key {
    pub(super) fn new() -> io::Result<Self> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).map_err(io::Error::other)?;
        Ok(Self(format!("{:032x}", u128::from_le_bytes(bytes))))
    }

    /// As the bootstrap is told it, and sends it.
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// The connection, if that is what comes first on it.
    async fn admit(&self, mut stream: UnixStream) -> Option<UnixStream> {
        let mut said = vec![0; self.0.len()];
        let read = tokio::time::timeout(ADMISSION, stream.read_exact(&mut said)).await;
        (matches!(read, Ok(Ok(_))) && said == self.0.as_bytes()).then_some(stream)
    }
}

/// Serves one process of `function`; `calls` finds an invocation that runs in it. Everything ends when the future is dropped.
pub(super) async fn serve<C>(listener: UnixListener, key: Key, function: Weak<Function>, calls: C)
where
    C: Fn(RequestId) -> Option<Arc<Call>>,
{
    let service = Arc::new(Service {
        function,
        calls,
        next_lock: AtomicU64::new(1),
        begun: held::Begun::default(),
        file_calls: files::Turns::default(),
        memory_in: Arc::new(Semaphore::new(MEMORY_BYTES)),
        memory_out: Arc::new(Semaphore::new(MEMORY_BYTES)),
        lock_calls: Semaphore::new(MAX_LOCK_CALLS),
    });
    let mut strangers = FuturesUnordered::new();
    // One: the bootstrap makes another when this has failed, which it knows first.
    let mut speaking = None;
    loop {
        let spoken = async {
            match &mut speaking {
                Some(speaking) => Pin::new(speaking).await,
                None => future::pending().await,
            }
        };
        tokio::select! {
            accepted = listener.accept(), if strangers.len() < MAX_STRANGERS => match accepted {
                Ok((stream, _)) => strangers.push(key.admit(stream)),
                Err(error) => {
                    tracing::warn!(%error, "a process's stores cannot be reached any more");
                    return;
                }
            },
            Some(admitted) = strangers.next() => {
                if let Some(stream) = admitted {
                    speaking = Some(Box::pin(speak(&service, stream)));
                }
            }
            result = spoken => {
                speaking = None;
                if let Err(error) = result {
                    tracing::debug!(%error, "a function's connection to its stores has ended");
                }
            }
        }
    }
}

/// Ends with the connection, and with it what is under way.
async fn speak<C>(service: &Arc<Service<C>>, stream: UnixStream) -> io::Result<()>
where
    C: Fn(RequestId) -> Option<Arc<Call>>,
{
    let (from, to) = stream.into_split();
    let mut to = BufWriter::with_capacity(BUFFER_BYTES, to);
    let from = (BufReader::with_capacity(BUFFER_BYTES, from), Arc::clone(&service.memory_in));
    let questions = stream::unfold(from, async |(mut from, memory)| {
        Some((Question::read(&mut from, &memory).await, (from, memory)))
    });
    let answers = questions.map(|question| {
        let service = Arc::clone(service);
        async move { service.answer(question?).await }
    });
    let mut answers = pin!(answers.buffer_unordered(MAX_CALLS));
    loop {
        // What is ready leaves together.
        let next = match answers.next().now_or_never() {
            Some(next) => next,
            None => {
                to.flush().await?;
                answers.next().await
            }
        };
        let Some(answer) = next else { return Ok(()) };
        let (reply, _memory) = answer?;
        reply.write(&mut to).await?;
    }
}

/// What is behind the socket of one process.
struct Service<C> {
    function: Weak<Function>,
    calls: C,
    /// Of all invocations and connections: a function may keep a lock of one and try it in another.
    next_lock: AtomicU64,
    begun: held::Begun,
    file_calls: files::Turns,
    memory_in: Arc<Semaphore>,
    /// Apart from that of the calls, which is held while a call waits for this one.
    memory_out: Arc<Semaphore>,
    lock_calls: Semaphore,
}

impl<C> Service<C>
where
    C: Fn(RequestId) -> Option<Arc<Call>>,
{
    /// Makes one call. What the answer holds of the memory goes with it.
    async fn answer(&self, question: Question) -> io::Result<(Reply, Option<OwnedSemaphorePermit>)> {
        let function = self.function.upgrade().ok_or(io::ErrorKind::ConnectionAborted)?;
        let Ok(asked) = serde_json::from_slice::<Asked>(&question.head) else {
            // Somebody waits for it; without a number nobody can be told, and the connection ends.
            let Numbered { id } = serde_json::from_slice(&question.head)?;
            return Ok((refusal(id, Failure::malformed())?, None));
        };
        let id = asked.id;
        let mut memory = match asked.call.most_bytes() {
            0 => None,
            bytes => Some(self.reserve(bytes).await?),
        };
        let mut payload = Vec::new();
        let reply = match self.call(&function, asked, question.payload.clone(), &mut payload).await {
            Ok(answer) => Reply::new(id, &answer, payload).ok_or_else(Failure::answer_too_large),
            Err(failure) => Err(failure),
        };
        let reply = match reply {
            Ok(reply) => reply,
            Err(failure) => refusal(id, failure)?,
        };
        if let Some(held) = &mut memory {
            self.settle(held, reply.bytes());
        }
        Ok((reply, memory))
    }

    async fn call(
        &self,
        function: &Arc<Function>,
        asked: Asked,
        mut frame: Bytes,
        payload: &mut Vec<Bytes>,
    ) -> Result<Answer, Failure> {
        let Data { kv, sql, locks, .. } = function.runtime().data();
        let store = |kind, need| function.store(kind, &asked.store, need);
        let run = || {
            let found = asked.run.as_deref().and_then(|run| (self.calls)(run.parse().ok()?));
            found.ok_or_else(Failure::ended)
        };
        match asked.call {
            Asks::KvGet { keys } => {
                let store = &store(StoreKind::Kv, Need::Read)?.store;
                let found = kv.fetch(store, keys).await?;
                let entries = found.into_iter().map(|entry| entry.map(|entry| wire_entry(entry, payload))).collect();
                Ok(Answer::Entries { entries })
            }
            Asks::KvList { prefix, after, limit } => {
                let limit = u32::try_from(limit).unwrap_or(u32::MAX);
                let store = &store(StoreKind::Kv, Need::Read)?.store;
                let page = kv.fetch_page(store, &prefix, after.as_deref(), limit).await?;
                let keys = page.keys.into_iter();
                let keys =
                    keys.map(|info| WireKey { key: info.key, metadata: info.metadata, expires_ms: info.expires_ms });
                Ok(Answer::Page { keys: keys.collect(), next: page.next })
            }
            Asks::KvWrite { writes } => {
                let store = &store(StoreKind::Kv, Need::Write)?.store;
                let writes = writes.into_iter().map(|write| read_write(write, &mut frame)).collect::<Result<_, _>>()?;
                kv.write(store, writes).await?;
                Ok(Answer::Done {})
            }
            Asks::KvIncrement { key, delta } => {
                let sum = kv.increment(&store(StoreKind::Kv, Need::Write)?.store, &key, delta).await?;
                Ok(Answer::Sum { sum: sum.to_string() })
            }
            Asks::KvSwap { expected, write } => {
                let store = &store(StoreKind::Kv, Need::Write)?.store;
                let swapped = kv.compare_and_swap(store, expected, read_write(write, &mut frame)?).await?;
                Ok(Answer::Swapped { swapped })
            }
            Asks::SqlRun { statements, is_batch } => {
                let granted = store(StoreKind::Sql, Need::Read)?;
                let access = if granted.read_only { Access::ReadOnly } else { Access::ReadWrite };
                let statements = statements.into_iter().map(|statement| read_statement(statement, &mut frame));
                let mut statements = statements.collect::<Result<Vec<_>, _>>()?;
                let results = match (is_batch, statements.pop()) {
                    (false, Some(statement)) => vec![sql.run(&granted.store, access, statement).await?],
                    (_, last) => {
                        statements.extend(last);
                        sql.batch(&granted.store, access, statements).await?
                    }
                };
                Ok(Answer::Rows { results: results.into_iter().map(|rows| wire_rows(rows, payload)).collect() })
            }
            Asks::SqlScript { sql: script } => {
                let granted = store(StoreKind::Sql, Need::Write)?;
                Ok(Answer::Statements { statements: sql.script(&granted.store, Access::ReadWrite, script).await? })
            }
            Asks::LockAcquire { name, lease_ms, wait_ms } => {
                function.may_lock()?;
                let run = run()?;
                let Ok(_place) = self.lock_calls.try_acquire() else {
                    let message = format!(
                        "{MAX_LOCK_CALLS} calls of the process wait for locks, which is the most; try again later"
                    );
                    return Err(Failure::new(Code::TooMany, message));
                };
                let (tenant, app) = (&function.spec().tenant, &function.spec().app);
                let (lease, wait) = (Duration::from_millis(lease_ms), Duration::from_millis(wait_ms));
                let lock = tokio::select! {
                    biased;
                    () = run.locks.ended() => return Err(Failure::ended()),
                    lock = locks.acquire(tenant, app, &name, lease, wait) => lock?,
                };
                let Some(lock) = lock else { return Ok(Answer::Lock { lock: None, token: None }) };
                let (number, token) = (self.next_lock.fetch_add(1, Relaxed), lock.token().to_string());
                run.locks.insert(number, lock, lease)?;
                Ok(Answer::Lock { lock: Some(number), token: Some(token) })
            }
            Asks::LockRenew { lock, lease_ms } => {
                Ok(Answer::Held { held: run()?.locks.renew(lock, Duration::from_millis(lease_ms)) })
            }
            Asks::LockRelease { lock } => {
                let lock = run()?.locks.remove(lock);
                Ok(Answer::Held { held: lock.is_some_and(Held::release) })
            }
            Asks::TopicSend { messages } => {
                Ok(Answer::Sent { sent: topics::send(function, &asked.store, messages, frame).await? })
            }
            Asks::Blob(asks) => {
                let answer = blobs::call(function, &asked.store, &self.begun, run, asks, frame, payload).await?;
                Ok(Answer::Blob(answer))
            }
            Asks::File(asks) => {
                let (turns, begun) = (&self.file_calls, &self.begun);
                let answer = files::call(function, &asked.store, turns, begun, run, asks, frame, payload).await?;
                Ok(Answer::File(answer))
            }
        }
    }

    async fn reserve(&self, bytes: usize) -> io::Result<OwnedSemaphorePermit> {
        let bytes = u32::try_from(bytes.min(MEMORY_BYTES)).map_err(io::Error::other)?;
        Arc::clone(&self.memory_out).acquire_many_owned(bytes).await.map_err(io::Error::other)
    }

    /// Holds as much as an answer really takes, or what is left.
    fn settle(&self, held: &mut OwnedSemaphorePermit, bytes: usize) {
        if let Some(spare) = held.num_permits().checked_sub(bytes) {
            drop(held.split(spare));
            return;
        }
        let more = (bytes - held.num_permits()).min(self.memory_out.available_permits());
        // Somebody else may have been faster: then they wait a little less than they should.
        let take = |more| Arc::clone(&self.memory_out).try_acquire_many_owned(more).ok();
        if let Some(more) = u32::try_from(more).ok().and_then(take) {
            held.merge(more);
        }
    }
}

fn refusal(id: u64, failure: Failure) -> io::Result<Reply> {
    let Failure { code, message } = failure;
    Reply::new(id, &Answer::Failed { code, message }, Vec::new()).ok_or_else(|| io::ErrorKind::FileTooLarge.into())
}

/// What can be read of a head that cannot be read.
#[derive(Deserialize)]
struct Numbered {
    id: u64,
}

/// The head of a call.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    id: u64,
    /// The invocation.
    run: Option<String>,
    /// The store, as the function knows it.
    #[serde(default)]
    store: String,
    call: Asks,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
enum Asks {
    KvGet { keys: Vec<String> },
    KvList { prefix: String, after: Option<String>, limit: u64 },
    KvWrite { writes: Vec<WireWrite> },
    KvIncrement { key: String, delta: i64 },
    KvSwap { expected: Option<u64>, write: WireWrite },
    SqlRun { statements: Vec<WireStatement>, is_batch: bool },
    SqlScript { sql: String },
    LockAcquire { name: String, lease_ms: u64, wait_ms: u64 },
    LockRenew { lock: u64, lease_ms: u64 },
    LockRelease { lock: u64 },
    TopicSend { messages: Vec<topics::WireMessage> },
    Blob(blobs::Asks),
    File(files::Asks),
}

impl Asks {
    /// What its answer may take. 0: some hundred bytes.
    fn most_bytes(&self) -> usize {
        match self {
            Self::KvGet { keys } => keys.len().saturating_mul(MAX_VALUE_BYTES).min(MAX_BATCH_BYTES),
            Self::KvList { .. } => MAX_FRAME_BYTES,
            Self::SqlRun { statements, .. } if statements.iter().any(|statement| may_have_rows(&statement.sql)) => {
                ROWS_BYTES
            }
            Self::Blob(asks) => asks.most_bytes(),
            Self::File(asks) => asks.most_bytes(),
            _ => 0,
        }
    }
}

/// Whether a statement may answer with rows, as far as its text says: a change without `RETURNING` does not.
fn may_have_rows(sql: &str) -> bool {
    const RETURNING: &[u8] = b"returning";
    let first = sql.split_ascii_whitespace().next().unwrap_or_default();
    let is_change = ["insert", "update", "delete", "replace"].iter().any(|word| word.eq_ignore_ascii_case(first));
    !is_change || sql.as_bytes().windows(RETURNING.len()).any(|word| word.eq_ignore_ascii_case(RETURNING))
}

/// A key to be set to the next so many bytes of the frame, or to be deleted.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireWrite {
    key: String,
    /// `None`: it is deleted.
    bytes: Option<usize>,
    metadata: Option<String>,
    expires_ms: Option<u64>,
}

#[derive(Deserialize)]
struct WireStatement {
    sql: String,
    #[serde(default)]
    params: Vec<WireValue>,
}

/// A value of SQL. Numbers are told apart: JSON has but one kind.
#[derive(Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
enum WireValue {
    Null,
    /// Decimal: a 64-bit integer is more than a number of JavaScript.
    Int(String),
    Real(f64),
    /// Not a number of JSON: `NaN` and the infinities.
    Odd(String),
    Text(String),
    /// The next so many bytes of the frame.
    Blob(usize),
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
enum Answer {
    Entries { entries: Vec<Option<WireEntry>> },
    Page { keys: Vec<WireKey>, next: Option<String> },
    Done {},
    Sum { sum: String },
    Swapped { swapped: bool },
    Rows { results: Vec<WireRows> },
    Statements { statements: u64 },
    Lock { lock: Option<u64>, token: Option<String> },
    Held { held: bool },
    Sent { sent: Vec<topics::WireSent> },
    Blob(blobs::Answer),
    File(files::Answer),
    Failed { code: Code, message: String },
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WireEntry {
    bytes: usize,
    metadata: Option<String>,
    expires_ms: Option<u64>,
    version: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WireKey {
    key: String,
    metadata: Option<String>,
    expires_ms: Option<u64>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WireRows {
    columns: Vec<String>,
    rows: Vec<Vec<WireValue>>,
    changes: u64,
    last_insert_rowid: String,
}

/// The next so many bytes.
fn take(bytes: &mut Bytes, length: usize) -> Result<Bytes, Failure> {
    if length > bytes.len() { Err(Failure::malformed()) } else { Ok(bytes.split_to(length)) }
}

fn wire_entry(entry: Entry, payload: &mut Vec<Bytes>) -> WireEntry {
    let Entry { value, metadata, expires_ms, version } = entry;
    let bytes = value.len();
    payload.push(value);
    WireEntry { bytes, metadata, expires_ms, version }
}

fn read_write(write: WireWrite, frame: &mut Bytes) -> Result<Write, Failure> {
    let WireWrite { key, bytes, metadata, expires_ms } = write;
    Ok(match bytes {
        Some(length) => Write::Set { key, value: take(frame, length)?, metadata, expires_ms },
        None => Write::Delete { key },
    })
}

fn read_statement(statement: WireStatement, frame: &mut Bytes) -> Result<Statement, Failure> {
    let params = statement.params.into_iter().map(|value| {
        Ok(match value {
            WireValue::Null => Value::Null,
            WireValue::Int(digits) => Value::Integer(digits.parse().map_err(|_| {
                let message = format!("bind: {digits:.40} does not fit into 64 bits, as an integer of SQL has them");
                Failure::new(Code::BadArgument, message)
            })?),
            WireValue::Real(number) => Value::Real(number),
            WireValue::Odd(number) => Value::Real(number.parse().map_err(|_| Failure::malformed())?),
            WireValue::Text(text) => Value::Text(text),
            WireValue::Blob(length) => Value::Blob(take(frame, length)?.into()),
        })
    });
    Ok(Statement { sql: statement.sql, params: params.collect::<Result<_, Failure>>()? })
}

fn wire_rows(rows: Rows, payload: &mut Vec<Bytes>) -> WireRows {
    let Rows { columns, rows, changes, last_insert_rowid } = rows;
    let mut wire = |value| match value {
        Value::Null => WireValue::Null,
        Value::Integer(number) => WireValue::Int(number.to_string()),
        Value::Real(number) if number.is_finite() => WireValue::Real(number),
        Value::Real(number) => WireValue::Odd(number.to_string()),
        Value::Text(text) => WireValue::Text(text),
        Value::Blob(bytes) => {
            let length = bytes.len();
            payload.push(bytes.into());
            WireValue::Blob(length)
        }
    };
    let rows = rows.into_iter().map(|row| row.into_iter().map(&mut wire).collect()).collect();
    WireRows { columns, rows, changes, last_insert_rowid: last_insert_rowid.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_has_no_rows_unless_it_says_returning() {
        let cases = [
            ("SELECT 1", true),
            ("WITH n (i) AS (SELECT 1) DELETE FROM t", true),
            ("/* a change */ DELETE FROM t", true),
            ("", true),
            ("INSERT INTO t VALUES (1) Returning id", true),
            ("INSERT INTO t(a)\nVALUES(1)RETURNING*", true),
            ("INSERT INTO t SELECT * FROM u", false),
            (" update t SET a = 1", false),
            ("Replace INTO t VALUES (1)", false),
        ];
        for (sql, may) in cases {
            assert_eq!(may_have_rows(sql), may, "{sql}");
        }
    }

    #[test]
    fn the_number_of_a_call_is_found_in_a_head_that_cannot_be_read() {
        let heads = [
            r#"{"id":7,"store":"s","call":{"kvGet":{"keys":["\ud83d"]}}}"#,
            r#"{"id":7,"store":"s","call":{"kvGet":{"keys":[1]}}}"#,
            r#"{"id":7,"store":"s","call":{"unknown":{}}}"#,
            r#"{"id":7,"store":"s","call":{"file":{"chmod":{"path":"a"}}}}"#,
            r#"{"id":7,"store":"s","call":{"file":{"write":{"path":"a","how":"r+","sync":true,"more":false}}}}"#,
            r#"{"id":7,"store":"s","call":{"file":{"resize":{"path":"a","bytes":-1}}}}"#,
        ];
        for head in heads {
            assert!(serde_json::from_str::<Asked>(head).is_err(), "{head}");
            assert_eq!(serde_json::from_str::<Numbered>(head).unwrap().id, 7, "{head}");
        }
    }
}
