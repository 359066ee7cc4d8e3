//! `minnow:lock`: the locks of an app.

use std::time::Duration;

use minnow_store::lock::{Held, LockError};
use wasmtime::component::{Linker, Resource};

use super::{DataView, HasDataView, failure::Told};
use crate::{data::Denied, wasm::state::GuestState};

mod bindings {
    wasmtime::component::bindgen!({
        path: "../../wit/lock",
        world: "minnow:lock/imports",
        imports: {
            "minnow:lock/locks.acquire": async | trappable,
            default: trappable,
        },
        with: { "minnow:lock/locks.lock": minnow_store::Held },
        trappable_error_type: { "minnow:lock/locks.error" => super::Failure },
    });
}

use bindings::minnow::lock::locks;

/// Why a call gives the guest nothing.
pub type Failure = super::failure::Failure<LockError>;

impl Told<LockError> for locks::Error {
    fn denied(denied: Denied) -> Self {
        Self::NotGranted(denied.to_string())
    }

    fn refused(why: String) -> Self {
        Self::Refused(why)
    }

    fn other(message: String) -> Self {
        Self::Other(message)
    }
}

impl locks::Host for DataView<'_> {
    async fn acquire(&mut self, name: String, lease: u64, wait: u64) -> Result<Option<Resource<Held>>, Failure> {
        let function = self.function()?;
        function.may_lock()?;
        let (tenant, app) = (function.spec().tenant.clone(), function.spec().app.clone());
        let all = self.data()?.locks.clone();
        let held = all.acquire(&tenant, &app, &name, Duration::from_millis(lease), Duration::from_millis(wait)).await?;
        Ok(held.map(|held| self.hold(held)).transpose()?)
    }

    fn convert_error(&mut self, failure: Failure) -> wasmtime::Result<locks::Error> {
        self.tell(failure)
    }
}

impl locks::HostLock for DataView<'_> {
    fn token(&mut self, lock: Resource<Held>) -> wasmtime::Result<u64> {
        Ok(self.table.get(&lock)?.token())
    }

    fn renew(&mut self, lock: Resource<Held>, lease: u64) -> Result<bool, Failure> {
        Ok(self.table.get(&lock)?.renew(Duration::from_millis(lease)))
    }

    fn release(&mut self, lock: Resource<Held>) -> Result<bool, Failure> {
        Ok(self.let_go(lock)?.release())
    }

    fn drop(&mut self, lock: Resource<Held>) -> wasmtime::Result<()> {
        self.let_go(lock)?;
        Ok(())
    }
}

pub(super) fn link(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    locks::add_to_linker::<_, HasDataView>(linker, GuestState::data)
}
