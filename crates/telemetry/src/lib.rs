//! What is happening on a node: logs, metrics and traces.
//!
//! [`logs`] keeps the lines that functions and the node write, in bounded files, and lets them be read and
//! followed. [`metrics`] counts and times requests, for Prometheus. [`trace`] reads and writes the W3C `traceparent`
//! header, and [`otlp`] sends finished spans to a collector. Recording never blocks and never fails a request: what
//! cannot be kept is dropped and counted.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing))]

pub mod logs;
pub mod metrics;
pub mod otlp;
pub mod trace;

pub use logs::{Echo, Follow, Followed, LogConfig, LogError, Logs, ReadQuery};
pub use metrics::{FunctionMetrics, Metrics};
pub use otlp::{OtlpError, SpanRecord, Tracer};
