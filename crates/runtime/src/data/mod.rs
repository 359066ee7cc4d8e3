//! The data services, and the gate before them: what a function may reach of them is decided here, for every service and for
//! guests of every kind.

pub mod blob_headers;
pub mod codes;
pub(crate) mod local;
pub mod range;
pub mod signed;
pub mod topics;

use std::{
    collections::BTreeMap,
    error::Error,
    sync::{Arc, Mutex, PoisonError},
};

use minnow_model::{AppName, FunctionName, MountPath, StoreId, StoreKind, StoreName};
use minnow_store::{
    Buckets, DataDir, Kv, Locks, Sql, StoreError, Topics, Volumes, kv::Clock, sql::SqlLimits, topic::TopicRules,
};

use crate::{Function, meter::monotonic_ns};

pub use signed::Signer;

/// The node's data services.
#[derive(Clone)]
pub struct Data {
    pub kv: Kv,
    pub sql: Sql,
    pub locks: Locks,
    pub volumes: Volumes,
    pub buckets: Buckets,
    pub topics: Topics,
    /// Makes and checks the signed URLs of blobs. It has its keys once the control plane has opened the vault.
    pub signer: Arc<Signer>,
}

impl Data {
    /// Opens the services in a node's data directory. Blocking.
    pub fn open(dir: &DataDir, limits: SqlLimits, clock: Clock) -> Result<Self, StoreError> {
        Ok(Self {
            kv: Kv::open(&dir.kv(), Arc::clone(&clock))?,
            sql: Sql::open(&dir.sql(), limits)?,
            buckets: Buckets::open(&dir.blob(), Arc::clone(&clock))?,
            topics: Topics::open(&dir.topic(), Arc::clone(&clock))?,
            locks: Locks::open(&dir.lock_tokens(), Arc::clone(&clock))?,
            volumes: Volumes::open(&dir.files(), &dir.tmp())?,
            signer: Arc::new(Signer::new(clock)),
        })
    }
}

/// A store that a function was granted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrantedStore {
    pub store: StoreId,
    pub read_only: bool,
    /// What JavaScript has it under in `env`.
    pub variable: String,
    /// The most bytes of a bucket, a volume or a topic, as the manifest of its app says; 0 for other kinds, whose bound is the same for
    /// all.
    pub size_bytes: u64,
    /// Where the function finds a volume; `None` for other kinds.
    pub mount: Option<MountPath>,
    /// What a topic may hold, as the manifest of its app says; `None` for other kinds.
    pub topic: Option<TopicRules>,
}

/// Everything that a function was granted. Stores by the name that the function's manifest gives them: `STORE` or `APP/STORE`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Granted {
    pub kv: BTreeMap<String, GrantedStore>,
    pub sql: BTreeMap<String, GrantedStore>,
    pub blob: BTreeMap<String, GrantedStore>,
    pub files: BTreeMap<String, GrantedStore>,
    /// The topics that it may publish to.
    pub topic: BTreeMap<String, GrantedStore>,
    pub locks: bool,
    /// Stores of other apps that the manifest names, and that their owner does not share, or not any more. The function is told
    /// so when it uses one.
    pub withdrawn: Vec<Withdrawn>,
}

/// A store of another app that the function's manifest names and that is not shared with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Withdrawn {
    pub kind: StoreKind,
    pub owner: AppName,
    pub store: StoreName,
    /// As the function knows it: `APP/STORE`.
    pub name: String,
    /// What JavaScript has it under in `env`.
    pub variable: String,
}

impl Granted {
    pub fn is_empty(&self) -> bool {
        StoreKind::ALL.into_iter().all(|kind| self.of(kind).is_empty()) && !self.locks && self.withdrawn.is_empty()
    }

    /// The stores of one kind.
    pub fn of(&self, kind: StoreKind) -> &BTreeMap<String, GrantedStore> {
        match kind {
            StoreKind::Kv => &self.kv,
            StoreKind::Sql => &self.sql,
            StoreKind::Blob => &self.blob,
            StoreKind::Files => &self.files,
            StoreKind::Topic => &self.topic,
        }
    }
}

/// What somebody wants to do with a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    Read,
    Write,
}

/// Why a function does not get what it asks for. The function is told so in these words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Denied {
    #[error("the function has no {} `{name}`; add `{}` to `[functions.{function}]`", kind.noun(), grant_of(*kind, name))]
    NotGranted { kind: StoreKind, name: String, function: FunctionName },
    #[error("`{owner}` does not share its {} `{store}` with this app any more; add `share = [\"{app}\"]` to `[{}.{store}]` of `{owner}` and deploy it", kind.noun(), kind.as_str())]
    Withdrawn { kind: StoreKind, owner: AppName, store: StoreName, app: AppName },
    #[error("the {} `{name}` is granted for reading only; write `{name}` without `:ro` to let the function change it", kind.noun())]
    ReadOnly { kind: StoreKind, name: String },
    #[error("the function has no locks; add `locks = true` to `[functions.{0}]` and a table `[lock]`")]
    NoLocks(FunctionName),
}

/// The line of a manifest that grants a store.
fn grant_of(kind: StoreKind, name: &str) -> String {
    match kind {
        StoreKind::Files => format!("files = {{ \"{name}\" = \"/data\" }}"),
        _ => format!("{} = [\"{name}\"]", kind.grant_key()),
    }
}

/// Failures of stores that the log tells each second. What goes on longer is no news, and functions may ask a damaged store at any rate.
const TOLD_PER_SECOND: u32 = 10;

/// What a function is told of an error: its own mistakes as they are. What is wrong with the node goes to the node's log, since
/// it may name the node's files.
pub(crate) fn told(error: &dyn Error, is_refusal: bool) -> String {
    /// Of the process, as its log is.
    static RATE: Mutex<Rate> = Mutex::new(Rate { second: 0, told: 0, untold: 0 });
    if is_refusal {
        return error.to_string();
    }
    let untold = RATE.lock().unwrap_or_else(PoisonError::into_inner).tell(monotonic_ns() / 1_000_000_000);
    if let Some(untold) = untold {
        let error = with_causes(error);
        tracing::error!(error, untold, "a call of a function to a store has failed");
    }
    "the store has failed; the log of the node says why".into()
}

/// The error and what it comes from, in one line.
fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        // Some errors have their cause in their own words.
        if !text.ends_with(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

/// How much was told in this second.
struct Rate {
    second: u64,
    told: u32,
    untold: u64,
}

impl Rate {
    /// Whether to tell one more: how many were not told before it.
    fn tell(&mut self, second: u64) -> Option<u64> {
        if self.second != second {
            (self.second, self.told) = (second, 0);
        }
        if self.told == TOLD_PER_SECOND {
            self.untold += 1;
            return None;
        }
        self.told += 1;
        Some(std::mem::take(&mut self.untold))
    }
}

/// The longest name that an error repeats, in bytes: a guest may ask for anything.
const SHOWN_NAME: usize = 128;

impl Function {
    /// The store that the function knows as `name`, if it was granted it for what it needs.
    pub(crate) fn store(&self, kind: StoreKind, name: &str, need: Need) -> Result<&GrantedStore, Denied> {
        let shown = || name.get(..name.floor_char_boundary(SHOWN_NAME)).unwrap_or_default().to_owned();
        let spec = self.spec();
        let refusal = || match spec.granted.withdrawn.iter().find(|store| store.kind == kind && store.name == name) {
            Some(Withdrawn { owner, store, .. }) => {
                Denied::Withdrawn { kind, owner: owner.clone(), store: store.clone(), app: spec.app.clone() }
            }
            None => Denied::NotGranted { kind, name: shown(), function: spec.function.clone() },
        };
        let granted = spec.granted.of(kind).get(name).ok_or_else(refusal)?;
        granted.allow(kind, name, need)?;
        Ok(granted)
    }

    /// Whether the function was granted the app's locks.
    pub(crate) fn may_lock(&self) -> Result<(), Denied> {
        if self.spec().granted.locks { Ok(()) } else { Err(Denied::NoLocks(self.spec().function.clone())) }
    }
}

impl GrantedStore {
    /// Whether the grant is enough; `name` is how the function knows the store.
    pub(crate) fn allow(&self, kind: StoreKind, name: &str, need: Need) -> Result<(), Denied> {
        if need == Need::Write && self.read_only {
            return Err(Denied::ReadOnly { kind, name: name.to_owned() });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use minnow_store::KvError;

    use super::*;

    #[test]
    fn the_log_names_what_an_error_comes_from() {
        let disk = || io::Error::other("the disk is gone");
        let io = StoreError::Io { path: "/data/kv/default/shop/a.db".into(), source: disk() };
        assert_eq!(with_causes(&io), "/data/kv/default/shop/a.db: the disk is gone");
        let sqlite = minnow_store::rusqlite::Error::ToSqlConversionFailure(Box::new(disk()));
        let error = KvError::Store(StoreError::Database(sqlite));
        assert_eq!(with_causes(&error), "the database failed: the disk is gone");
        assert!(told(&error, false).contains("the log of the node says why"));
    }

    #[test]
    fn what_goes_on_is_told_a_few_times_a_second_and_counted() {
        let mut rate = Rate { second: 0, told: 0, untold: 0 };
        let mut told = |second, times| (0..times).filter_map(|_| rate.tell(second)).collect::<Vec<u64>>();
        assert_eq!(told(7, 1000), [0; 10]);
        assert_eq!(told(8, 2), [990, 0]);
    }
}
