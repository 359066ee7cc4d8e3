//! One line of an app's log, as it is stored, followed and printed.

use serde::{Deserialize, Serialize};

use crate::{AppName, FunctionName, RequestId, Tenant};

/// How much a line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Debug,
    Info,
    Warn,
    Error,
}

/// Who wrote the line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogSource {
    /// The guest's standard output.
    Stdout,
    /// The guest's standard error.
    Stderr,
    /// The node itself: a trap, a limit that was reached, a deployment.
    Node,
}

/// One structured log line. Stored as one JSON object a line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct LogLine {
    /// Milliseconds since the Unix epoch.
    pub time_ms: u64,
    pub level: Level,
    pub source: LogSource,
    #[schema(value_type = String, example = "default")]
    pub tenant: Tenant,
    #[schema(value_type = String)]
    pub app: AppName,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    #[schema(value_type = Option<String>)]
    pub version: Option<semver::Version>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    #[schema(value_type = Option<String>)]
    pub function: Option<FunctionName>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    #[schema(value_type = Option<String>)]
    pub request_id: Option<RequestId>,
    pub message: String,
}

/// The longest message of one line, in bytes; a longer one is cut and ends with `…`. 16 KiB holds a long stack trace
/// (CloudWatch cuts at 256 KiB, Docker's json-file driver at 16 KiB).
pub const MAX_MESSAGE_BYTES: usize = 16 * 1024;
