//! What a statement may do, and for how long: the authorizer and the progress handler of a connection.
//!
//! The authorizer is asked while a statement is prepared, also for what its triggers and views do
//! (<https://sqlite.org/c3ref/set_authorizer.html>). The progress handler is called every [`STEPS`] steps of SQLite's machine.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use rusqlite::{
    Connection,
    config::DbConfig,
    hooks::{AuthAction, AuthContext, Authorization, TransactionOperation},
    limits::Limit,
};

use super::value::{MAX_PARAMS, MAX_SCRIPT_BYTES, MAX_VALUE_BYTES};

/// Steps between two looks at the clock. A step takes 10 to 100 ns, and a look some 30 ns.
const STEPS: i32 = 200;

/// Tables whose names start so belong to the node: functions read them at most.
const OURS: &str = "_minnow";

/// Whose statements the connection prepares now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Author {
    /// A function's or a person's.
    User = 0,
    /// The same, in a script or migration, which may bring the `BEGIN`, `COMMIT` and `PRAGMA foreign_keys` of a dump. They do nothing.
    Script = 1,
    /// The store itself.
    Store = 2,
}

/// What a connection's callbacks and its user share.
#[derive(Debug)]
pub(super) struct Watch {
    started: Instant,
    /// Nanoseconds after `started`.
    deadline: AtomicU64,
    /// Counts the calls, so that whoever cancels one meets no other.
    running: AtomicU64,
    cancelled: AtomicU64,
    author: AtomicU8,
    /// The statement calls a function whose time SQLite cannot bound (see [`LONG_FUNCTIONS`]).
    long: AtomicBool,
    /// The schema was changed.
    schema: AtomicBool,
    /// A table was changed, and perhaps its name.
    altered: AtomicBool,
    /// A script turned foreign keys off, as dumps do.
    keys_off: AtomicBool,
    denied: Mutex<Option<String>>,
    /// The tables that a statement reads, while somebody wants to know them.
    tables: Mutex<Option<HashSet<String>>>,
}

impl Watch {
    fn new() -> Self {
        Self {
            started: Instant::now(),
            deadline: AtomicU64::new(u64::MAX),
            running: AtomicU64::new(1),
            cancelled: AtomicU64::new(0),
            author: AtomicU8::new(Author::Store as u8),
            long: AtomicBool::new(false),
            schema: AtomicBool::new(false),
            altered: AtomicBool::new(false),
            keys_off: AtomicBool::new(false),
            denied: Mutex::new(None),
            tables: Mutex::new(None),
        }
    }

    /// Begins a statement that may run until `deadline`.
    pub(super) fn begin(&self, author: Author, deadline: Instant) {
        let deadline = deadline.saturating_duration_since(self.started).as_nanos() as u64;
        self.deadline.store(deadline, Ordering::Relaxed);
        self.author.store(author as u8, Ordering::Relaxed);
        self.long.store(false, Ordering::Relaxed);
        self.altered.store(false, Ordering::Relaxed);
    }

    /// Ends it: what follows is the store's own, without a bound on its time.
    pub(super) fn end(&self) {
        self.deadline.store(u64::MAX, Ordering::Relaxed);
        self.author.store(Author::Store as u8, Ordering::Relaxed);
    }

    /// The connection goes to somebody else, who was not cancelled.
    pub(super) fn fresh(&self) {
        self.running.fetch_add(1, Ordering::Relaxed);
    }

    /// Begins a call, of one or more statements, that is stopped when what this gives is dropped.
    pub(super) fn call(self: &Arc<Self>) -> CancelOnDrop {
        let running = self.running.fetch_add(1, Ordering::Relaxed) + 1;
        CancelOnDrop { watch: Arc::clone(self), running }
    }

    pub(super) fn is_long(&self) -> bool {
        self.long.load(Ordering::Relaxed)
    }

    /// Whether the schema was changed since the last call.
    pub(super) fn take_schema_changed(&self) -> bool {
        self.schema.swap(false, Ordering::Relaxed)
    }

    pub(super) fn take_keys_off(&self) -> bool {
        self.keys_off.swap(false, Ordering::Relaxed)
    }

    /// A table may be given another name, which the authorizer is not told: whether `sql` could give it one of [`OURS`].
    pub(super) fn renames_to_ours(&self, sql: &str) -> bool {
        self.altered.load(Ordering::Relaxed) && sql.to_ascii_lowercase().contains(OURS)
    }

    pub(super) fn take_denied(&self) -> Option<String> {
        self.denied.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Notes the tables that what is prepared from now on reads.
    pub(super) fn note_tables(&self) {
        *self.tables.lock().unwrap_or_else(PoisonError::into_inner) = Some(HashSet::new());
    }

    pub(super) fn take_tables(&self) -> HashSet<String> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_default()
    }

    fn is_over(&self) -> bool {
        self.started.elapsed().as_nanos() as u64 >= self.deadline.load(Ordering::Relaxed)
            || self.cancelled.load(Ordering::Relaxed) == self.running.load(Ordering::Relaxed)
    }

    fn authorize(&self, context: AuthContext<'_>) -> Authorization {
        let author = self.author.load(Ordering::Relaxed);
        if author == Author::Store as u8 {
            return Authorization::Allow;
        }
        match self.decide(context, author == Author::Script as u8) {
            Ok(authorization) => authorization,
            Err(why) => {
                *self.denied.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
                Authorization::Deny
            }
        }
    }

    fn decide(&self, context: AuthContext<'_>, script: bool) -> Result<Authorization, String> {
        use AuthAction as A;
        // The names of tables and the like in `temp` are not told by the kinds below alone. Its schema is looked at by ALTER TABLE.
        let temporary = context.database_name.is_some_and(|name| name != "main");
        match context.action {
            A::Select | A::Recursive => return Ok(Authorization::Allow),
            A::Read { table_name, .. } => {
                if let Some(tables) = &mut *self.tables.lock().unwrap_or_else(PoisonError::into_inner)
                    && !tables.contains(table_name)
                {
                    tables.insert(table_name.to_owned());
                }
                return Ok(Authorization::Allow);
            }
            A::Function { function_name } => return self.function(function_name),
            A::Pragma { pragma_name, pragma_value } => return self.pragma(pragma_name, pragma_value, script),
            A::Insert { table_name } | A::Update { table_name, .. } | A::Delete { table_name } => ours(table_name)?,
            A::CreateTable { .. }
            | A::DropTable { .. }
            | A::CreateView { .. }
            | A::DropView { .. }
            | A::CreateIndex { .. }
            | A::DropIndex { .. }
            | A::CreateTrigger { .. }
            | A::DropTrigger { .. }
            | A::CreateVtable { .. }
            | A::DropVtable { .. }
                if temporary =>
            {
                return Err(NO_TEMPORARY.into());
            }
            A::CreateTable { table_name: name }
            | A::DropTable { table_name: name }
            | A::CreateView { view_name: name } => {
                ours(name)?;
                self.schema.store(true, Ordering::Relaxed);
            }
            A::DropView { .. } => self.schema.store(true, Ordering::Relaxed),
            A::CreateIndex { table_name, index_name: name }
            | A::DropIndex { table_name, index_name: name }
            | A::CreateTrigger { table_name, trigger_name: name }
            | A::DropTrigger { table_name, trigger_name: name } => {
                ours(table_name)?;
                ours(name)?;
                self.schema.store(true, Ordering::Relaxed);
            }
            A::AlterTable { table_name, .. } => {
                ours(table_name)?;
                self.schema.store(true, Ordering::Relaxed);
                self.altered.store(true, Ordering::Relaxed);
            }
            A::CreateVtable { table_name, module_name } | A::DropVtable { table_name, module_name } => {
                ours(table_name)?;
                if !MODULES.iter().any(|module| module.eq_ignore_ascii_case(module_name)) {
                    return Err(format!(
                        "virtual tables of the kind `{module_name}` are not available; use one of {}",
                        MODULES.join(", ")
                    ));
                }
                self.schema.store(true, Ordering::Relaxed);
            }
            A::Reindex { .. } | A::Analyze { .. } => {}
            A::Transaction { operation: TransactionOperation::Rollback } | A::Savepoint { .. } => {
                return Err(OWN_TRANSACTION.into());
            }
            A::Transaction { .. } if script => return Ok(Authorization::Ignore),
            A::Transaction { .. } => return Err(OWN_TRANSACTION.into()),
            A::CreateTempTable { .. }
            | A::CreateTempIndex { .. }
            | A::CreateTempTrigger { .. }
            | A::CreateTempView { .. }
            | A::DropTempTable { .. }
            | A::DropTempIndex { .. }
            | A::DropTempTrigger { .. }
            | A::DropTempView { .. } => {
                return Err(NO_TEMPORARY.into());
            }
            A::Attach { .. } => {
                return Err(
                    "ATTACH and VACUUM are not allowed: a store is one database, and reuses its free pages".into()
                );
            }
            A::Detach { .. } => return Err("DETACH is not allowed: a store is one database".into()),
            _ => return Err("the statement does something that is not allowed here".into()),
        }
        Ok(Authorization::Allow)
    }

    fn function(&self, name: &str) -> Result<Authorization, String> {
        let is = |other: &&str| other.eq_ignore_ascii_case(name);
        if FORBIDDEN_FUNCTIONS.iter().any(is) {
            return Err(format!("the function `{name}` is not allowed"));
        }
        if LONG_FUNCTIONS.iter().any(is) {
            self.long.store(true, Ordering::Relaxed);
        }
        Ok(Authorization::Allow)
    }

    fn pragma(&self, name: &str, value: Option<&str>, script: bool) -> Result<Authorization, String> {
        let is = |other: &&str| other.eq_ignore_ascii_case(name);
        if READING_PRAGMAS.iter().any(is) {
            return Ok(Authorization::Allow);
        }
        if PRAGMAS_TO_READ.iter().any(is) && value.is_none() {
            return Ok(Authorization::Allow);
        }
        if PRAGMAS_TO_SET.iter().any(is) {
            return Ok(Authorization::Allow);
        }
        if name.eq_ignore_ascii_case("foreign_keys") && script {
            let off = value
                .is_some_and(|value| ["off", "0", "no", "false"].iter().any(|word| word.eq_ignore_ascii_case(value)));
            self.keys_off.store(off, Ordering::Relaxed);
            return Ok(Authorization::Ignore);
        }
        Err(match name.to_ascii_lowercase().as_str() {
            "foreign_keys" => {
                "foreign keys are always on; `PRAGMA defer_foreign_keys = on` checks them at the end of the transaction"
                    .into()
            }
            name => format!("`PRAGMA {name}` is not allowed{}", if value.is_some() { " with a value" } else { "" }),
        })
    }
}

const NO_TEMPORARY: &str =
    "temporary tables, views and triggers are not available: statements do not share a connection";

const OWN_TRANSACTION: &str = "BEGIN, COMMIT, ROLLBACK and SAVEPOINT are not statements here; use a batch, a script or an interactive transaction";

fn ours(name: &str) -> Result<(), String> {
    let is_ours = name.get(..OURS.len()).is_some_and(|start| start.eq_ignore_ascii_case(OURS));
    if is_ours { Err(format!("`{name}` belongs to Minnow and can only be read")) } else { Ok(()) }
}

/// Modules of virtual tables: full-text search, its vocabulary, and R-trees. `dbstat`, `fts3` and `fts4` are left out: the first reads every
/// page, the others are older and had more faults.
const MODULES: &[&str] = &["fts5", "fts5vocab", "rtree", "rtree_i32"];

/// Functions that reach outside of the database or into SQLite's memory.
const FORBIDDEN_FUNCTIONS: &[&str] = &["load_extension", "fts3_tokenizer", "fts5", "sqlite_log"];

/// Functions that take time with the product of what they are given, or make much of little, and cannot be interrupted. They never run on a
/// thread that others wait for. Those of full-text search come to the progress handler in the end, as they step through tables of their own.
/// `instr`, `replace` and the trims are [ours](super::functions), and not among them.
const LONG_FUNCTIONS: &[&str] = &[
    "like",
    "glob",
    "match",
    "printf",
    "format",
    "randomblob",
    "zeroblob",
    "group_concat",
    "string_agg",
    "json_patch",
    "json_group_array",
    "json_group_object",
    "jsonb_patch",
    "jsonb_group_array",
    "jsonb_group_object",
    "highlight",
    "snippet",
    "bm25",
];

/// Pragmas that tell something about the schema, with or without an argument. `database_list` is not among them: it tells the path.
const READING_PRAGMAS: &[&str] = &[
    "table_info",
    "table_xinfo",
    "table_list",
    "index_list",
    "index_info",
    "index_xinfo",
    "foreign_key_list",
    "foreign_key_check",
    "function_list",
    "module_list",
    "pragma_list",
    "collation_list",
    "compile_options",
    "integrity_check",
    "quick_check",
];

/// Pragmas that may be read and not be set.
const PRAGMAS_TO_READ: &[&str] = &[
    "foreign_keys",
    "encoding",
    "page_size",
    "page_count",
    "max_page_count",
    "freelist_count",
    "schema_version",
    "data_version",
    "journal_mode",
    "synchronous",
    "recursive_triggers",
    "case_sensitive_like",
];

/// Pragmas that are part of the database or of one transaction.
const PRAGMAS_TO_SET: &[&str] = &["user_version", "application_id", "defer_foreign_keys", "optimize"];

/// Gives the connection its bounds and callbacks. Until [`Watch::begin`] it is the store's own.
pub(super) fn watch(connection: &mut Connection) -> rusqlite::Result<Arc<Watch>> {
    for (limit, value) in [
        (Limit::SQLITE_LIMIT_LENGTH, MAX_VALUE_BYTES as i32),
        (Limit::SQLITE_LIMIT_SQL_LENGTH, MAX_SCRIPT_BYTES as i32),
        // The program of a statement and the stack of the parser grow with these; SQLite proposes them for hostile input
        // (<https://sqlite.org/security.html>), and Cloudflare D1 has the same or less.
        (Limit::SQLITE_LIMIT_EXPR_DEPTH, 100),
        (Limit::SQLITE_LIMIT_COMPOUND_SELECT, 100),
        (Limit::SQLITE_LIMIT_COLUMN, 500),
        (Limit::SQLITE_LIMIT_FUNCTION_ARG, 100),
        (Limit::SQLITE_LIMIT_VARIABLE_NUMBER, MAX_PARAMS as i32),
        (Limit::SQLITE_LIMIT_VDBE_OP, 250_000),
        (Limit::SQLITE_LIMIT_TRIGGER_DEPTH, 30),
        // The time of LIKE is the product of both lengths.
        (Limit::SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 200),
        (Limit::SQLITE_LIMIT_ATTACHED, 0),
        (Limit::SQLITE_LIMIT_WORKER_THREADS, 0),
    ] {
        connection.set_limit(limit, value)?;
    }
    // No writes to the schema or to the tables beneath a full-text index, whatever `writable_schema` says.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FTS3_TOKENIZER, false)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_ATTACH_CREATE, false)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_ATTACH_WRITE, false)?;
    let watch = Arc::new(Watch::new());
    let over = Arc::clone(&watch);
    connection.progress_handler(STEPS, Some(move || over.is_over()))?;
    let authorizer = Arc::clone(&watch);
    connection.authorizer(Some(move |context: AuthContext<'_>| authorizer.authorize(context)))?;
    Ok(watch)
}

/// Stops the statement of a call that nobody waits for any more. Does nothing when the call has ended: another has its connection.
pub(super) struct CancelOnDrop {
    watch: Arc<Watch>,
    running: u64,
}

impl CancelOnDrop {
    /// The call has its answer.
    pub(super) fn done(mut self) {
        self.running = 0;
    }
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.watch.cancelled.fetch_max(self.running, Ordering::Relaxed);
    }
}

/// How long a statement may run on a thread that others wait for: what a request notices, and a hundred times a read by primary key.
pub(super) const INLINE: Duration = Duration::from_millis(1);
