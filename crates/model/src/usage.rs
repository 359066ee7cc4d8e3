//! What one invocation consumed.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What one invocation consumed, measured by the node. In JSON times are microseconds (`wall_us`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Usage {
    /// Wall time from admission to the end of the response, without the time spent in the queue.
    #[serde(rename = "wall_us", with = "crate::duration::micros")]
    #[schema(value_type = u64)]
    pub wall: Duration,
    /// Time spent waiting for admission.
    #[serde(rename = "queued_us", with = "crate::duration::micros")]
    #[schema(value_type = u64)]
    pub queued: Duration,
    /// CPU time of the thread while it ran the guest or served its host calls.
    #[serde(rename = "cpu_us", with = "crate::duration::micros")]
    #[schema(value_type = u64)]
    pub cpu: Duration,
    /// The most that the sandbox's linear memories and tables held together, in bytes.
    pub peak_memory_bytes: u64,
    /// Whether the code had to be loaded for this invocation (a cold start).
    pub cold: bool,
}
