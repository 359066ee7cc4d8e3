//! Compiled code that is mapped into memory, ready to be instantiated.

use std::path::Path;

use minnow_model::problem::Code as ProblemCode;
use wasmtime::{Engine, Module, component::Component};
use wasmtime_wasi::p2::bindings::CommandPre;
use wasmtime_wasi_http::{p2::bindings::ProxyPre, p3::bindings::ServicePre};

use super::{data::messaging::bindings::MessagingCorePre, engine::Engines, files, state::GuestState};
use crate::kind::GuestKind;

/// One piece of code, linked once for all functions that use it.
pub(crate) struct Code {
    kind: GuestKind,
    engine: Engine,
    pub(super) entry: Entry,
    /// Size of the compiled artifact, in bytes.
    pub(crate) size: u64,
}

/// The code with its imports resolved: an instance is made from it without any look-up.
pub(super) enum Entry {
    Http02(ProxyPre<GuestState>),
    Http02Messaging(ProxyPre<GuestState>, MessagingCorePre<GuestState>),
    Messaging(MessagingCorePre<GuestState>),
    Http03(ServicePre<GuestState>),
    Command(CommandPre<GuestState>),
    CommandCore {
        pre: wasmtime::InstancePre<GuestState>,
        /// Whether it imports what reaches files.
        has_files: bool,
    },
}

/// Why compiled code could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("the compiled code cannot be mapped: {0:#}")]
    Map(wasmtime::Error),
    #[error("the code cannot be linked: {0:#}")]
    Link(wasmtime::Error),
    #[error("the node stops")]
    Stopped,
}

impl LoadError {
    /// The code that a publish answers with.
    pub fn code(&self) -> ProblemCode {
        match self {
            Self::Map(_) | Self::Stopped => ProblemCode::LoadFailed,
            Self::Link(_) => ProblemCode::CompileFailed,
        }
    }
}

/// An import that the node does not have, or not in this form.
fn link_error(error: wasmtime::Error) -> LoadError {
    if format!("{error:#}").contains("wasi:messaging/") { other_shape(error) } else { LoadError::Link(error) }
}

/// Several shapes of `wasi:messaging` have had the same version number.
fn other_shape(error: wasmtime::Error) -> LoadError {
    LoadError::Link(error.context(
        "of wasi:messaging Minnow has `types`, `producer` and `incoming-handler` of 0.2.0-draft in its last shape, where `handle` takes one \
         message and a message is made of its data; build against wit/messaging-draft",
    ))
}

impl Code {
    /// Maps the artifact and resolves its imports. Takes about 0.2 ms for 300 KB.
    pub(crate) fn load(engines: &Engines, path: &Path, kind: GuestKind) -> Result<Self, LoadError> {
        let linked = engines.of(kind);
        let size = std::fs::metadata(path).map_or(0, |file| file.len());
        // SAFETY: the file lies in the node's own data directory, which no other user can write; it was made by the
        // compiler child of this node from code with this digest, and wasmtime refuses artifacts of another release or
        // configuration.
        #[allow(unsafe_code)]
        let entry = unsafe {
            match kind {
                GuestKind::CommandCore => {
                    let module = Module::deserialize_file(&linked.engine, path).map_err(LoadError::Map)?;
                    let pre = linked.modules.instantiate_pre(&module).map_err(LoadError::Link)?;
                    Entry::CommandCore { pre, has_files: files::imports_files(&module) }
                }
                _ => {
                    let component = Component::deserialize_file(&linked.engine, path).map_err(LoadError::Map)?;
                    let pre = linked.components.instantiate_pre(&component).map_err(link_error)?;
                    match kind {
                        GuestKind::Http02 => Entry::Http02(ProxyPre::new(pre).map_err(LoadError::Link)?),
                        GuestKind::Http02Messaging => Entry::Http02Messaging(
                            ProxyPre::new(pre.clone()).map_err(LoadError::Link)?,
                            MessagingCorePre::new(pre).map_err(other_shape)?,
                        ),
                        GuestKind::Messaging => Entry::Messaging(MessagingCorePre::new(pre).map_err(other_shape)?),
                        GuestKind::Http03 => Entry::Http03(ServicePre::new(pre).map_err(LoadError::Link)?),
                        GuestKind::Command | GuestKind::CommandCore => {
                            Entry::Command(CommandPre::new(pre).map_err(LoadError::Link)?)
                        }
                    }
                }
            }
        };
        Ok(Self { kind, engine: linked.engine.clone(), entry, size })
    }

    pub(crate) fn kind(&self) -> GuestKind {
        self.kind
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.engine
    }
}
