//! Asynchronous invokes: requests that are taken, and run later, until they worked or were given up. One is called a run.
//!
//! Read in this order: `rows` (what is on the disk of each), `judge` (what a try comes to: pure), `lane` (the task of one function), and
//! `tell` (what its destinations get).

mod judge;
mod lane;
mod rows;
mod tell;

use std::sync::Arc;

use minnow_model::{AppName, FunctionName, RequestId, Tenant, event::Async};
use minnow_runtime::stored::StoredRequest;

pub use self::rows::{
    MAX_KEPT_RUNS, MAX_WAITING_BYTES, MAX_WAITING_RUNS, RESULT_KEPT, RunState, RunStatus, Told, ToldState,
};
pub(crate) use self::{
    lane::{Lane, Lanes, run},
    rows::{FORGET, Key, MIGRATION},
};
use crate::{Events, EventsError, events::new_id};

/// The largest body of a request that is run later, in bytes. It lies in the node's database until then; the 6 MiB of a synchronous
/// invoke do not.
pub const MAX_ASYNC_BYTES: usize = 1 << 20;

/// What is to be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invoke {
    pub request: StoredRequest,
    /// What the function's manifest says now. It counts where no live version has the function any more.
    pub settings: Async,
}

impl Events {
    /// Takes a request, to run the function later. It is durable when this answers. The id is that of the invocations as well, under
    /// which their lines are in the log.
    pub async fn invoke(
        &self,
        tenant: &Tenant,
        app: &AppName,
        function: &FunctionName,
        invoke: Invoke,
    ) -> Result<RequestId, EventsError> {
        let (id, shared) = (new_id(), &self.shared);
        let key = Key { tenant: tenant.clone(), app: app.clone(), function: function.clone() };
        let metrics = shared.metrics.async_invokes(tenant, app, function);
        let taken = shared.rows.take(key, id, invoke, shared.now_ms(), Arc::downgrade(shared)).await;
        match &taken {
            Ok(()) => metrics.taken.add(1),
            Err(_) => metrics.refused.add(1),
        }
        taken.map(|()| id)
    }

    /// How it stands with a run; `None` where the app has none of this id, or has not any more.
    pub async fn run(&self, tenant: &Tenant, app: &AppName, id: RequestId) -> Result<Option<RunStatus>, EventsError> {
        let Some(mut status) = self.shared.rows.status(tenant, app, id).await? else { return Ok(None) };
        if status.state == RunState::Waiting && self.shared.lanes.is_running(id) {
            status.state = RunState::Running;
        }
        Ok(Some(status))
    }
}
