//! The bodies of the control API, as the server writes them and the CLI reads them.

use std::time::Duration;

use minnow_model::{AppName, Deployment, Digest, FunctionName, Limits, RoutePattern, Usage, Version};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `GET /v1/node`: what node this is.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct NodeInfo {
    /// The node's own version.
    pub version: String,
    /// The data listener's address, `host:port`.
    pub http: String,
    /// Apps answer at `APP.DOMAIN`.
    pub domain: String,
    /// The app that answers hosts that name none.
    pub default_app: Option<String>,
    /// Milliseconds since the Unix epoch.
    pub started_ms: u64,
}

/// A published version. `GET /v1/apps/{app}/versions` lists them, newest first.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct VersionInfo {
    #[schema(value_type = String)]
    pub app: AppName,
    #[schema(value_type = String, example = "0.1.0")]
    pub version: Version,
    /// Digest of the OCI manifest.
    #[schema(value_type = String)]
    pub digest: Digest,
    /// Milliseconds since the Unix epoch.
    pub published_ms: u64,
    /// All layers together, in bytes.
    pub size: u64,
    /// Percent of the live traffic, 0 when the version is not live.
    pub weight: u8,
}

/// `PUT /v1/apps/{app}/versions/{version}` answers 201 for a new version, 200 when the same content was there already.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Published {
    #[serde(flatten)]
    pub version: VersionInfo,
    /// False when the same content had been published before.
    pub created: bool,
}

/// `POST /v1/apps/{app}/deploy`
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DeployRequest {
    /// The version to send traffic to; the newest published one when absent.
    #[schema(value_type = Option<String>)]
    pub version: Option<Version>,
    /// Percent of the traffic, 1–100; 100 when absent.
    pub weight: Option<u8>,
}

/// One app in `GET /v1/apps`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct AppInfo {
    #[schema(value_type = String)]
    pub app: AppName,
    /// How many versions are published.
    pub versions: u64,
    /// The live deployment, if any.
    pub deployment: Option<Deployment>,
    /// The URL at which the app answers.
    pub url: String,
}

/// One function in [`AppStatus`].
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct FunctionStatus {
    #[schema(value_type = String)]
    pub function: FunctionName,
    #[schema(value_type = String)]
    pub version: Version,
    /// `http-0.2`, `http-0.3`, `command` or `command-core`, read from the WebAssembly; `js` for JavaScript.
    pub kind: String,
    #[schema(value_type = Vec<String>)]
    pub routes: Vec<RoutePattern>,
    #[schema(value_type = Object)]
    pub limits: Limits,
    /// Invocations running now.
    pub running: u64,
    /// Requests waiting now.
    pub queued: u64,
    /// Whether the code is in memory now: mapped, or in a process.
    pub loaded: bool,
    /// Processes of a JavaScript function now.
    #[serde(default)]
    pub processes: u64,
    /// How many seconds a JavaScript function is not started from now on, because its processes kept failing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_back_s: Option<u64>,
}

/// What one live version has done, in [`AppStatus`]: the figures by which a canary is judged. Static files are not counted.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct VersionTraffic {
    #[schema(value_type = String, example = "0.1.0")]
    pub version: Version,
    /// Percent of the live traffic.
    pub weight: u8,
    /// From when on it is counted: the start of the live deployment, or of the node where that was later. Milliseconds since
    /// the Unix epoch.
    pub since_ms: u64,
    /// Requests for the version's functions, those that were refused included.
    pub requests: u64,
    /// Those of them that ended with a 5xx status.
    pub failed: u64,
    /// The wall time that half of the invocations did not exceed, in microseconds; estimated from a histogram whose buckets
    /// grow by a factor of 2 to 2.5. `null` when there was none.
    #[serde(rename = "p50_us", with = "optional_micros", default)]
    #[schema(value_type = Option<u64>)]
    pub p50: Option<Duration>,
    /// The same for 99 in 100 of them.
    #[serde(rename = "p99_us", with = "optional_micros", default)]
    #[schema(value_type = Option<u64>)]
    pub p99: Option<Duration>,
}

/// A duration in whole microseconds, or `null`.
mod optional_micros {
    use std::time::Duration;

    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

    pub(super) fn serialize<S: Serializer>(time: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
        time.map(|time| u64::try_from(time.as_micros()).unwrap_or(u64::MAX)).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
        Ok(Option::<u64>::deserialize(deserializer)?.map(Duration::from_micros))
    }
}

/// `GET /v1/apps/{app}`: the live deployment, its history and its functions.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct AppStatus {
    #[serde(flatten)]
    pub app: AppInfo,
    /// What each live version has done since the live deployment began.
    pub traffic: Vec<VersionTraffic>,
    /// Newest first, at most 50.
    pub history: Vec<Deployment>,
    pub functions: Vec<FunctionStatus>,
}

/// `POST /v1/apps/{app}/functions/{function}/invoke`: a request without the gateway.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InvokeRequest {
    #[serde(default = "get")]
    pub method: String,
    /// Path and query.
    #[serde(default = "slash")]
    pub path: String,
    #[serde(default)]
    pub headers: Vec<(String, String)>,
    /// Base64 (RFC 4648, padded).
    #[serde(default)]
    pub body: String,
}

fn get() -> String {
    "GET".into()
}

fn slash() -> String {
    "/".into()
}

/// The answer of the function, and what it cost.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct InvokeResponse {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    /// Base64 (RFC 4648, padded). At most 6 MiB, as AWS Lambda's synchronous invoke; beyond it the call fails.
    pub body: String,
    pub request_id: String,
    #[schema(value_type = Object)]
    pub usage: Usage,
}

/// Query of `GET /v1/apps/{app}/logs`, which answers JSON lines (`application/x-ndjson`), one `LogLine` each.
#[derive(Debug, Clone, Default, Serialize, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct LogQuery {
    /// Only lines from this time on, in milliseconds since the Unix epoch.
    pub since_ms: Option<u64>,
    /// The newest this many lines, at most 10000; 1000 when absent.
    pub limit: Option<usize>,
    /// Go on with new lines as they come.
    #[serde(default)]
    pub follow: bool,
    /// Only this function's lines.
    pub function: Option<String>,
}

/// One token in `GET /v1/tokens`. The token itself is never shown again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TokenInfo {
    pub id: String,
    /// Who uses it.
    pub name: String,
    /// Milliseconds since the Unix epoch.
    pub created_ms: u64,
}

/// `POST /v1/tokens`
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewToken {
    /// Who will use it, 1 to 100 characters.
    pub name: String,
}

/// `POST /v1/tokens` answers 201 with the token, which is shown this once.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
pub struct CreatedToken {
    #[serde(flatten)]
    pub info: TokenInfo,
    /// `mnw_` and 64 hex digits.
    pub token: String,
}

impl std::fmt::Debug for CreatedToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CreatedToken").field("info", &self.info).finish_non_exhaustive()
    }
}

/// `PUT /v1/blobs/{digest}` answers 201 for new content, 200 when it was there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StoredBlob {
    #[schema(value_type = String)]
    pub digest: Digest,
    /// In bytes.
    pub size: u64,
}
