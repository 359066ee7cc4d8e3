//! The data services as components import them. Every call passes the gate of [`crate::data`].
//!
//! A file for each interface; [`failure`] is how errors of a service become those of an interface, [`streams`] has the blobs that are
//! on their way.

#![allow(unreachable_pub, reason = "generated bindings re-export the types that stand for resources and errors")]

mod blob;
mod blobstore;
mod config;
mod failure;
mod keyvalue;
mod lock;
pub(super) mod messaging;
mod sql;
mod streams;
mod topic;

use std::{error::Error, sync::Arc};

use tracing::Span;
use wasmtime::component::{HasData, Linker, Resource, ResourceTable, ResourceTableError};

use super::state::{GuestState, Owner};
use crate::{
    Function,
    data::{self, Data},
};

/// How many handles a guest has of what holds others up, or memory of the host's, for as long as it is there.
#[derive(Default)]
pub(super) struct Open {
    /// Locks and transactions.
    holds: u32,
    cursors: u32,
    /// What its messages take, in bytes.
    messages_bytes: usize,
    /// Uploads and bodies of blobs.
    streams: streams::Streams,
}

impl Open {
    pub(super) fn is_any(&self) -> bool {
        self.holds + self.cursors > 0 || self.streams.is_any()
    }
}

/// What the services need of a sandbox.
pub(super) struct DataView<'a> {
    owner: &'a Owner,
    table: &'a mut ResourceTable,
    open: &'a mut Open,
}

impl<'a> DataView<'a> {
    pub(super) fn new(owner: &'a Owner, table: &'a mut ResourceTable, open: &'a mut Open) -> Self {
        Self { owner, table, open }
    }

    /// Gives the guest a lock or a transaction.
    fn hold<T: Send + 'static>(&mut self, hold: T) -> Result<Resource<T>, ResourceTableError> {
        let handle = self.table.push(hold)?;
        self.open.holds += 1;
        Ok(handle)
    }

    /// The guest gives it up.
    fn let_go<T: 'static>(&mut self, handle: Resource<T>) -> Result<T, ResourceTableError> {
        let hold = self.table.delete(handle)?;
        self.open.holds -= 1;
        Ok(hold)
    }

    /// What the guest is told of what is wrong with the node: [`data::told`], which names the function and its request in the
    /// node's log.
    fn told(&self, error: &dyn Error) -> String {
        self.span().in_scope(|| data::told(error, false))
    }

    /// Whose call it is.
    fn span(&self) -> Span {
        let spec = self.owner.function().map(|function| function.spec());
        tracing::error_span!(
            "call",
            app = spec.map(|spec| spec.app.as_str()),
            function = spec.map(|spec| spec.function.as_str()),
            request = self.owner.request_id().map(tracing::field::display),
        )
    }

    /// Whose sandbox it is. An error ends the guest: it runs although no invocation does.
    fn function(&self) -> wasmtime::Result<&Arc<Function>> {
        self.owner.function().ok_or_else(|| wasmtime::format_err!("the sandbox has no invocation"))
    }

    fn data(&self) -> wasmtime::Result<&Data> {
        Ok(self.function()?.runtime().data())
    }
}

/// Says to wasmtime's linker what a host function gets.
struct HasDataView;

impl HasData for HasDataView {
    type Data<'a> = DataView<'a>;
}

/// Links the data services.
pub(super) fn link(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    keyvalue::link(linker)?;
    sql::link(linker)?;
    blob::link(linker)?;
    blobstore::link(linker)?;
    lock::link(linker)?;
    topic::link(linker)?;
    messaging::link(linker)?;
    config::link(linker)
}
