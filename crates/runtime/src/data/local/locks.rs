//! Locks: `/locks/NAME/…`. They belong to the invocation, not to the connection on which they were taken.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use http::{Method, Response, StatusCode, request::Parts};
use hyper::body::Incoming;
use minnow_model::Code;
use minnow_store::Held;
use serde::{Deserialize, Serialize};

use super::{
    Flags, LocalHttp,
    answer::{self, Body, Refusal, empty},
    only, query,
};

/// Locks that an invocation may have at once: as many as the handles of a component.
const MAX_LOCKS: usize = 1_000;

/// The locks of an invocation, by name and token. They are released when it ends, however it ends.
#[derive(Default)]
pub(super) struct Holding(Mutex<HashMap<(String, u64), Held>>);

impl Holding {
    fn lock(&self) -> MutexGuard<'_, HashMap<(String, u64), Held>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Acquire {
    lease_ms: u64,
    #[serde(default)]
    wait_ms: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Renew {
    token: u64,
    lease_ms: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Release {
    token: u64,
}

#[derive(Serialize)]
struct Lock {
    /// The fencing token: greater than that of every earlier owner.
    token: u64,
    expires_ms: u64,
}

impl Lock {
    fn of(held: &Held) -> Self {
        Self { token: held.token(), expires_ms: held.expires() }
    }
}

impl LocalHttp {
    pub(super) async fn lock_acquire(
        &self,
        head: &Parts,
        body: Incoming,
        flags: &Flags,
        name: String,
    ) -> Result<Response<Body>, Refusal> {
        self.may_lock(head)?;
        let asked: Acquire = self.small(body, flags).await?;
        if self.locks.lock().len() >= MAX_LOCKS {
            let detail = format!("the invocation has {MAX_LOCKS} locks, which is the most; release some first");
            return Err(Refusal::new(Code::Conflict, detail));
        }
        let spec = self.run.function.spec();
        let (lease, wait) = (Duration::from_millis(asked.lease_ms), Duration::from_millis(asked.wait_ms));
        let locks = &self.data().locks;
        let Some(held) = locks.acquire(&spec.tenant, &spec.app, &name, lease, wait).await? else {
            let detail = format!("somebody else has the lock `{name}`; wait for longer with `wait_ms`, or try again");
            return Err(Refusal::new(Code::Conflict, detail));
        };
        let lock = Lock::of(&held);
        self.locks.lock().insert((name, lock.token), held);
        answer::json(StatusCode::OK, &lock, &self.memory, None)
    }

    pub(super) async fn lock_renew(
        &self,
        head: &Parts,
        body: Incoming,
        flags: &Flags,
        name: &str,
    ) -> Result<Response<Body>, Refusal> {
        self.may_lock(head)?;
        let Renew { token, lease_ms } = self.small(body, flags).await?;
        let renewed = match self.locks.lock().get(&(name.to_owned(), token)) {
            Some(held) => held.renew(Duration::from_millis(lease_ms)).then(|| Lock::of(held)),
            None => return Err(not_held(name)),
        };
        let lock = renewed.ok_or_else(|| was_over(name))?;
        answer::json(StatusCode::OK, &lock, &self.memory, None)
    }

    pub(super) async fn lock_release(
        &self,
        head: &Parts,
        body: Incoming,
        flags: &Flags,
        name: &str,
    ) -> Result<Response<Body>, Refusal> {
        self.may_lock(head)?;
        let Release { token } = self.small(body, flags).await?;
        let held = self.locks.lock().remove(&(name.to_owned(), token)).ok_or_else(|| not_held(name))?;
        if held.release() { Ok(empty(StatusCode::NO_CONTENT)) } else { Err(was_over(name)) }
    }

    fn may_lock(&self, head: &Parts) -> Result<(), Refusal> {
        only(&head.method, &Method::POST, "POST")?;
        query(head, |_, _| Ok(false))?;
        Ok(self.run.function.may_lock()?)
    }
}

fn not_held(name: &str) -> Refusal {
    Refusal::new(Code::NotFound, format!("this invocation has no lock `{name}` with this token"))
}

fn was_over(name: &str) -> Refusal {
    let detail = format!("the lease of the lock `{name}` was over: somebody else may have had it meanwhile");
    Refusal::new(Code::Conflict, detail)
}
