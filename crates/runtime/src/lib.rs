//! Runs one invocation of one version: admission, sandbox, limits, metering.
//!
//! Read [`invocation`] (what goes in and out), [`function`] and [`live`] (what there is to run), `runtime` (the straight line
//! from a request to its answer), then `wasm` and `js`. `admission`, `memory`, `ticker`, `worker` and `meter` are the limits: who may start, how
//! long a guest runs before others do, and what it has used. `response` is what may be answered; `egress` is the way out; [`deliver`] is how an event becomes a request, [`stored`] a request that was taken earlier; [`data`] is the gate before the stores; `compile` makes code
//! ready to run.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing))]

mod admission;
mod compile;
pub mod compile_worker;
pub mod data;
pub mod deliver;
mod egress;
pub mod function;
mod headers;
pub mod invocation;
pub mod js;
pub mod kind;
pub mod live;
mod mask;
mod memory;
mod meter;
pub mod response;
mod runtime;
pub mod stored;
mod ticker;
mod wasm;
pub mod worker;

pub use compile::{CompileError, CompileLimits};
pub use deliver::{Acks, Batch, Delivered, Happening, RetryAsked};
pub use function::{Function, FunctionCode, FunctionSpec};
pub use headers::remove_hop_by_hop;
pub use invocation::{Body, BodyError, Invocation, Outcome, TraceContext};
pub use js::{JsConfig, LoadFailure};
pub use kind::GuestKind;
pub use live::{Live, LiveApp, LiveVersion, LiveWebhook};
pub use mask::Secrets;
pub use runtime::{Runtime, RuntimeConfig, StartError};
