//! How wasmtime is set up. Each number has its reason and the measurement behind it.

use std::sync::Arc;

use minnow_model::LimitCaps;
use wasmtime::{Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, component::Linker};

use super::state::{self, GuestState};
use crate::kind::GuestKind;

/// Which of the two engines a guest needs.
///
/// Component-model async (WASI 0.3) makes every store carry concurrency state. Switching it off for guests that cannot use it
/// made a fresh WASI 0.2 instance 10–15 % cheaper, so there are two engines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Flavor {
    /// WASI 0.2 components and core modules.
    Sync,
    /// WASI 0.3 components.
    Async,
}

impl From<GuestKind> for Flavor {
    fn from(kind: GuestKind) -> Self {
        match kind {
            GuestKind::Http02
            | GuestKind::Http02Messaging
            | GuestKind::Messaging
            | GuestKind::Command
            | GuestKind::CommandCore => Self::Sync,
            GuestKind::Http03 => Self::Async,
        }
    }
}

/// The settings that the compiler and the node have to agree on.
pub(crate) fn config(flavor: Flavor) -> Config {
    let mut config = Config::new();
    config
        // Guests are interrupted by epochs: 2–3 % of their speed, against 20 % and more for fuel.
        .epoch_interruption(true)
        .concurrency_support(flavor == Flavor::Async)
        .wasm_component_model_async(flavor == Flavor::Async);
    config
}

/// The two engines with everything that guests may import linked.
#[derive(Clone)]
pub(crate) struct Engines {
    pub(crate) sync: Arc<Linked>,
    pub(crate) asynchronous: Arc<Linked>,
}

/// An engine and its linkers.
pub(crate) struct Linked {
    pub(crate) engine: Engine,
    pub(crate) components: Linker<GuestState>,
    pub(crate) modules: wasmtime::Linker<GuestState>,
}

impl Engines {
    /// Sets up both engines for at most `sandboxes` sandboxes at once.
    pub(crate) fn new(sandboxes: u32, caps: &LimitCaps) -> wasmtime::Result<Self> {
        Ok(Self {
            sync: Arc::new(Linked::new(Flavor::Sync, sandboxes, caps)?),
            asynchronous: Arc::new(Linked::new(Flavor::Async, sandboxes, caps)?),
        })
    }

    pub(crate) fn of(&self, kind: GuestKind) -> &Linked {
        match Flavor::from(kind) {
            Flavor::Sync => &self.sync,
            Flavor::Async => &self.asynchronous,
        }
    }
}

impl Linked {
    fn new(flavor: Flavor, sandboxes: u32, caps: &LimitCaps) -> wasmtime::Result<Self> {
        let mut config = config(flavor);
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool(sandboxes, caps)));
        let engine = Engine::new(&config)?;
        let mut components = Linker::new(&engine);
        state::link_component(&mut components, flavor)?;
        let mut modules = wasmtime::Linker::new(&engine);
        state::link_module(&mut modules)?;
        Ok(Self { engine, components, modules })
    }
}

/// The pool of sandboxes. Slots are reserved address space; they cost memory only when used.
fn pool(sandboxes: u32, caps: &LimitCaps) -> PoolingAllocationConfig {
    let mut pool = PoolingAllocationConfig::new();
    // Those that run and those that stay warm (see `IdleInstance`), each with all that a component may have, so that no
    // component can take what admission has promised to another.
    let instances = sandboxes.saturating_add(sandboxes.div_ceil(2));
    pool.total_component_instances(instances)
        // A component is several core instances: the program, an adapter, shims. Python's and Go's have up to a dozen.
        .total_core_instances(instances.saturating_mul(32))
        .max_core_instances_per_component(32)
        // A memory is 4 GiB of address space, which is what bounds the number of sandboxes.
        .total_memories(instances.saturating_mul(4))
        .max_memories_per_component(4)
        .max_memories_per_module(4)
        .total_tables(instances.saturating_mul(16))
        .max_tables_per_component(16)
        .max_tables_per_module(8)
        // 1 Mi elements: 8 MiB. Large programs have tables of some 10,000 functions.
        .table_elements(1 << 20)
        .total_stacks(instances)
        .max_memory_size(usize::try_from(caps.0.memory_bytes).unwrap_or(usize::MAX))
        // What stays mapped in a slot that was used: with these a small guest's reset is one ioctl (PAGEMAP_SCAN) and no
        // page fault, 28–31 k requests/s against 17–21 k without.
        .linear_memory_keep_resident(256 << 10)
        .table_keep_resident(64 << 10)
        .async_stack_keep_resident(64 << 10)
        .pagemap_scan(Enabled::Auto)
        .max_unused_warm_slots(200);
    pool
}
