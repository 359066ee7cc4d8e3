//! The bodies of the control API, as the server writes them and the CLI reads them.

mod events;

use std::{collections::BTreeMap, time::Duration};

use minnow_model::{
    AppName, Deployment, Digest, FunctionName, Limits, RoutePattern, StoreKind, StoreName, Usage, VariableName, Version,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use events::*;

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
    /// `http-0.2`, `http-0.3`, `messaging`, `http-0.2+messaging`, `command` or `command-core`, read from the WebAssembly; `js` for JavaScript.
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
    /// When its functions run by the clock, by function and name.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    #[schema(required = false)]
    pub schedules: Vec<ScheduleInfo>,
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

/// One variable in `GET /v1/apps/{app}/config`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VariableInfo {
    #[schema(value_type = String, example = "LOG_LEVEL")]
    pub name: VariableName,
    pub value: String,
    /// The change that set it.
    pub revision: u64,
    /// When it was set, in milliseconds since the Unix epoch.
    pub time_ms: u64,
}

/// `PATCH /v1/apps/{app}/config`: a JSON merge patch (RFC 7396) of the app's variables. Those to set are there with their
/// values, and those to take away with `null`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[schema(value_type = std::collections::HashMap<String, Option<String>>, example = json!({ "LOG_LEVEL": "debug", "OLD": null }))]
pub struct VariablePatch(pub BTreeMap<VariableName, Option<String>>);

/// What `PATCH /v1/apps/{app}/config` came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VariablesChanged {
    /// The newest revision; 0 when there never was a variable.
    pub revision: u64,
    /// False when all variables had these values already.
    pub changed: bool,
    /// Whether the app was not known before.
    pub app_created: bool,
}

/// One change in `GET /v1/apps/{app}/config/history`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VariableChange {
    pub revision: u64,
    /// Milliseconds since the Unix epoch.
    pub time_ms: u64,
    /// The variables that were set with their values, and `null` for those that were taken away.
    #[schema(value_type = std::collections::HashMap<String, Option<String>>)]
    pub changes: BTreeMap<VariableName, Option<String>>,
}

/// `PUT /v1/apps/{app}/secrets/{name}`
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewSecret {
    /// The secret itself, at most 64 KiB.
    pub value: String,
}

impl std::fmt::Debug for NewSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewSecret").finish_non_exhaustive()
    }
}

/// One secret in `GET /v1/apps/{app}/secrets`. What is in it is never shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SecretInfo {
    #[schema(value_type = String, example = "STRIPE_KEY")]
    pub name: VariableName,
    /// When it was first set, in milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// When it was last set.
    pub changed_ms: u64,
    /// False when the node's key file lacks the key that it is sealed with: set it again.
    pub readable: bool,
}

/// `PUT /v1/apps/{app}/secrets/{name}` answers 201 for a new secret, 200 when it replaced another value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SecretStored {
    #[serde(flatten)]
    pub secret: SecretInfo,
    /// False when it replaced another value.
    pub created: bool,
    /// Whether the app was not known before.
    pub app_created: bool,
}

/// `POST /v1/secrets/rotate`: the node's new key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KeyRotated {
    /// Names the key without telling it.
    pub key_id: String,
    /// How many secrets are sealed with it now.
    pub resealed: u64,
    /// How many could not be read, because their key is lost: set them again.
    pub unreadable: u64,
}

/// Query of `DELETE /v1/apps/{app}`.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct DeleteQuery {
    /// What becomes of the data in the app's stores; needed where there is any.
    pub data: Option<DataChoice>,
}

/// What becomes of the data of an app that is deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum DataChoice {
    /// It is kept aside for a while (`data.keep_deleted` of the node).
    Keep,
    /// It is destroyed now.
    Purge,
}

/// One store of an app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StoreUsage {
    pub kind: StoreKind,
    #[schema(value_type = String)]
    pub name: StoreName,
    /// On the disk; 0 for one that was never written.
    pub bytes: u64,
    /// Whether a live version declares it. One that none does is left from earlier versions.
    pub declared: bool,
}

/// `GET /v1/apps/{app}/usage`: what the app's stores take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AppUsage {
    #[schema(value_type = String)]
    pub app: AppName,
    /// All stores together.
    pub bytes: u64,
    pub stores: Vec<StoreUsage>,
}

/// The data of a deleted app, which is kept for a while.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeletedData {
    #[schema(value_type = String)]
    pub app: AppName,
    /// When the app was deleted, in milliseconds since the Unix epoch.
    pub deleted_ms: u64,
    /// When the data will be destroyed.
    pub purged_ms: u64,
    pub bytes: u64,
}

/// `GET /v1/usage`: what all stores take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeUsage {
    pub apps: Vec<AppUsage>,
    /// Oldest first.
    pub deleted: Vec<DeletedData>,
    /// How long the data of a deleted app is kept, in milliseconds.
    pub kept_ms: u64,
}

/// Query of `/v1/apps/{app}/kv/{store}/value`.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct KvKeyQuery {
    pub key: String,
}

/// Query of `PUT /v1/apps/{app}/kv/{store}/value`, whose body is the value.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct KvPutQuery {
    pub key: String,
    /// At most 1 KiB.
    pub metadata: Option<String>,
    /// When the key goes, in milliseconds since the Unix epoch.
    pub expires_ms: Option<u64>,
    /// Or in how many seconds.
    pub ttl_s: Option<u64>,
}

/// Query of `GET /v1/apps/{app}/kv/{store}/keys`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct KvListQuery {
    /// Only keys that start with it.
    pub prefix: Option<String>,
    /// The `cursor` of the page before.
    pub cursor: Option<String>,
    /// At most this many keys, 1 to 1000; 1000 when absent.
    pub limit: Option<u32>,
}

/// Some keys of a store, in the order of their bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KvKeys {
    pub keys: Vec<KvKey>,
    /// Where the next page begins. A page with one may have fewer keys than were asked for, even none.
    pub cursor: Option<String>,
}

/// One key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KvKey {
    pub key: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub metadata: Option<String>,
    /// Milliseconds since the Unix epoch.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub expires_ms: Option<u64>,
}

/// The header with a value's version, which grows with each write of the key.
pub const KV_VERSION: &str = "minnow-version";
/// The header with the time at which a value expires, in milliseconds since the Unix epoch.
pub const KV_EXPIRES: &str = "minnow-expires-ms";
/// The header with a value's metadata, percent-encoded, since it may be any text.
pub const KV_METADATA: &str = "minnow-metadata";

/// Query of `/v1/apps/{app}/blob/{store}/object`.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct BlobQuery {
    /// At most 1 KiB.
    pub key: String,
}

/// Query of `GET /v1/apps/{app}/blob/{store}/keys`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct BlobListQuery {
    /// Only keys that start with it.
    pub prefix: Option<String>,
    /// Keys that have it after the prefix are told once, by what they have in common up to it: with `/` as folders.
    pub delimiter: Option<String>,
    /// The `cursor` of the page before.
    pub cursor: Option<String>,
    /// At most this many blobs and prefixes, 1 to 1000; 1000 when absent.
    pub limit: Option<u32>,
}

/// Some blobs of a bucket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BlobList {
    pub blobs: Vec<BlobInfo>,
    /// What keys that have the delimiter after the prefix begin with.
    pub prefixes: Vec<String>,
    /// Where the next page begins. A page with one may have fewer blobs than were asked for, even none.
    pub cursor: Option<String>,
}

/// A blob without its content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BlobInfo {
    pub key: String,
    /// In bytes.
    pub size: u64,
    /// The sha256 of the content, 64 hex digits.
    pub etag: String,
    /// Milliseconds since the Unix epoch.
    pub uploaded_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub content_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub content_encoding: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub content_language: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub content_disposition: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cache_control: Option<String>,
    /// The app's own.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub metadata: BTreeMap<String, String>,
}

/// The header with a blob's custom metadata: a JSON object of strings, percent-encoded.
pub const BLOB_METADATA: &str = "minnow-metadata";
/// The header with the time at which a blob was put, in milliseconds since the Unix epoch.
pub const BLOB_UPLOADED: &str = "minnow-uploaded-ms";

/// What the holder of a signed URL may do with the blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum BlobMethod {
    /// Read it, with GET and HEAD.
    #[default]
    Get,
    /// Write it, with PUT.
    Put,
}

/// `POST /v1/apps/{app}/blob/{store}/sign`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SignBlob {
    pub key: String,
    #[serde(default)]
    pub method: BlobMethod,
    /// For how long the URL is good, in seconds: 1 to 604800, which is 7 days.
    pub expires_s: u64,
    /// Of a PUT: the most bytes.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub max_size: Option<u64>,
    /// Of a PUT: the content type that it has to have, and is stored with.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub content_type: Option<String>,
}

/// A URL that needs no token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SignedBlob {
    /// As the app's other URLs; behind a proxy it may have another host.
    pub url: String,
    /// The path and query of it, which are what was signed.
    pub path: String,
    pub method: BlobMethod,
    /// From when on it is not good any more, in milliseconds since the Unix epoch.
    pub expires_ms: u64,
}

/// `POST /v1/apps/{app}/sql/{store}/query`: one statement.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SqlRequest {
    pub sql: String,
    /// For its parameters, in order.
    #[serde(default)]
    pub params: Vec<SqlValue>,
    /// Refuses a statement that would change the database.
    #[serde(default)]
    pub read_only: bool,
}

/// A value of SQLite's: `null`, a number, a text, or a blob as `{"base64": …}`. A number without a point is an integer of 64
/// bits. An infinite one is `{"real": "inf"}` or `{"real": "-inf"}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum SqlValue {
    Null,
    /// Taken for 0 or 1; never answered.
    Bool(bool),
    Integer(i64),
    Real(f64),
    Text(String),
    Blob(SqlBlob),
    Infinite(SqlInfinite),
}

/// A blob as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SqlBlob {
    /// RFC 4648, padded.
    pub base64: String,
}

/// An infinite number as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SqlInfinite {
    pub real: String,
}

/// What a statement answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SqlResult {
    pub columns: Vec<String>,
    pub rows: Vec<Vec<SqlValue>>,
    /// Rows that were inserted, changed or deleted.
    pub changes: u64,
    /// The rowid of the last insert; 0 where nothing was inserted.
    pub last_insert_rowid: i64,
}

/// `POST /v1/apps/{app}/sql/{store}/script` answers how many statements have run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ScriptDone {
    pub statements: u64,
}

/// Query of `GET /v1/apps/{app}/sql/{store}/export`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct ExportQuery {
    /// Only the rows, for a database whose tables are there already.
    #[serde(default)]
    pub data_only: bool,
}

/// The media type of a backup: zstd (RFC 8878), around a tar.
pub const BACKUP_TYPE: &str = "application/zstd";

/// Query of `GET /v1/backup`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct BackupQuery {
    /// Names of apps with commas between them. All when it is absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app: Option<String>,
}

/// Query of `POST /v1/restore`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct RestoreQuery {
    /// Only this app of the backup. All when it is absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub app: Option<AppName>,
    /// The name that the app gets, when it is not to be that which it had.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub rename: Option<AppName>,
    /// Whether an app of the name is deleted first. Its data is kept aside for a while.
    #[serde(default)]
    pub replace: bool,
}

/// `POST /v1/restore`: what came back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Restored {
    /// When the backup was made, in milliseconds since the Unix epoch.
    pub made_ms: u64,
    /// The version of the node that made it.
    pub minnow: String,
    pub apps: Vec<RestoredApp>,
}

/// One app that was restored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RestoredApp {
    #[schema(value_type = String)]
    pub app: AppName,
    /// How many versions are published.
    pub versions: u64,
    /// What is live; absent when nothing was.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    #[schema(required = false)]
    pub deployment: Option<Deployment>,
    pub stores: Vec<RestoredStore>,
    /// How many secrets it had.
    pub secrets: u64,
    /// Those that this node cannot read. Functions that are granted one go without it.
    pub unreadable_secrets: Vec<UnreadableSecret>,
    /// Stores of other apps that its functions are granted and do not get here, a sentence each that names both sides.
    #[serde(default)]
    #[schema(required = false)]
    pub missing_shares: Vec<String>,
    /// What its volumes had and the backup has not.
    #[serde(default)]
    #[schema(required = false)]
    pub left_out: LeftOut,
}

/// What an app's volumes had and a backup has not.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct LeftOut {
    /// How many files, folders and links. What is in a folder that was left out is not counted.
    pub count: u64,
    /// The first of them; a backup names 100 of all its apps.
    pub files: Vec<LeftOutFile>,
}

/// A file, folder or link of a volume that a backup has not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LeftOutFile {
    /// The volume and the path in it, as `data/photos/a.jpg`; only the beginning of a long one.
    pub path: String,
    /// Why it was left out.
    pub why: String,
}

/// A store that was restored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RestoredStore {
    pub kind: StoreKind,
    #[schema(value_type = String)]
    pub name: StoreName,
    pub bytes: u64,
}

/// A secret that a node cannot read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UnreadableSecret {
    pub name: String,
    /// Why, and what to do about it.
    pub detail: String,
}
