//! A transaction that a caller leads statement by statement.
//!
//! One that may write has the store's writing connection for itself, so that two of them never interleave: what one has read does not
//! change until it commits. One that only reads sees one state. Both end by themselves after [`SqlLimits::transaction`](super::SqlLimits).

use std::{
    sync::{Arc, Mutex},
    time::Instant,
};

use tokio::{runtime::Handle, task::JoinHandle};

use super::{
    error::SqlError,
    guard::Watch,
    queue::Lease,
    session::Session,
    store::{Kind, Reader, Store, lock},
    value::{Access, Rows, Statement},
};

/// An open transaction. Dropping it rolls it back.
pub struct Transaction {
    open: Arc<Mutex<Open>>,
    watch: Arc<Watch>,
    access: Access,
    end: Instant,
    store: Arc<Store>,
    /// Ends the transaction when its time is over.
    timer: JoinHandle<()>,
    runtime: Handle,
}

enum Open {
    Writing(Lease),
    Reading(Reader),
    Ended(String),
}

impl Open {
    fn session(&mut self) -> Result<&Session, SqlError> {
        let session = match self {
            Self::Writing(lease) => lease.session().map(|session| &*session),
            Self::Reading(reader) => reader.session(),
            Self::Ended(why) => return Err(SqlError::Ended(why.clone())),
        };
        session.ok_or(SqlError::Stopped)
    }

    /// Rolls back what is open and gives the connection back. Blocking.
    fn end(&mut self, why: &str) {
        if matches!(self, Self::Ended(_)) {
            return;
        }
        if let Ok(session) = self.session()
            && let Err(error) = session.roll_back()
        {
            tracing::warn!(%error, "a transaction could not be rolled back; its connection is closed");
        }
        *self = Self::Ended(why.to_owned());
    }
}

impl Transaction {
    pub(super) async fn begin(store: &Arc<Store>, access: Access) -> Result<Self, SqlError> {
        let mut open = match access {
            Access::ReadWrite => Open::Writing(store.queue.take(store).await?),
            Access::ReadOnly => Open::Reading(store.reader(Kind::Stream).await?),
        };
        let watch = Arc::clone(&open.session()?.watch);
        let begun = tokio::task::spawn_blocking(move || {
            if let Open::Writing(lease) = &open {
                lease.bound_log()?;
            }
            open.session()?.control(if access == Access::ReadWrite { "BEGIN IMMEDIATE" } else { "BEGIN" })?;
            Ok::<_, SqlError>(open)
        });
        let open = begun.await.map_err(|_| SqlError::Stopped)??;
        let open = Arc::new(Mutex::new(open));
        let limit = store.limits().transaction;
        let end = Instant::now() + limit;
        let ending = Arc::clone(&open);
        let timer = tokio::spawn(async move {
            tokio::time::sleep(limit).await;
            // A statement that runs is over at the same moment, by its deadline.
            let why = format!("it was open for longer than {} s", limit.as_secs_f32());
            let _ = tokio::task::spawn_blocking(move || lock(&ending).end(&why)).await;
        });
        Ok(Self { open, watch, access, end, store: Arc::clone(store), timer, runtime: Handle::current() })
    }

    /// Runs one statement in the transaction. One that fails keeps nothing of itself; the transaction goes on, unless the error is
    /// [`SqlError::Ended`] or ends it (no time, memory or space left).
    pub async fn run(&mut self, statement: Statement) -> Result<Rows, SqlError> {
        super::check(&statement)?;
        let deadline = (Instant::now() + self.store.limits().statement).min(self.end);
        let read_only = self.access == Access::ReadOnly;
        self.aside(move |open| {
            let session = open.session()?;
            let result = session.run(&statement, deadline, read_only);
            if session.connection.is_autocommit() {
                let why = match &result {
                    Err(error) => error.to_string(),
                    Ok(_) => "the statement rolled it back".into(),
                };
                open.end(&why);
            }
            result
        })
        .await
    }

    /// Keeps what was done, and answers when it is on the disk.
    pub async fn commit(self) -> Result<(), SqlError> {
        self.aside(|open| {
            let committed = open.session()?.control("COMMIT");
            open.end(if committed.is_ok() { "it was committed" } else { "its commit failed" });
            committed
        })
        .await
    }

    async fn aside<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Open) -> Result<T, SqlError> + Send + 'static,
    ) -> Result<T, SqlError> {
        let cancel = self.watch.call();
        let open = Arc::clone(&self.open);
        let result = tokio::task::spawn_blocking(move || work(&mut lock(&open))).await;
        cancel.done();
        result.map_err(|_| SqlError::Stopped)?
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        self.timer.abort();
        if let Ok(open) = self.open.try_lock()
            && matches!(*open, Open::Ended(_))
        {
            return;
        }
        let open = Arc::clone(&self.open);
        self.runtime.spawn_blocking(move || lock(&open).end("it was dropped"));
    }
}
