//! The data of apps: their key-value and SQL stores, and what those take.

use std::sync::Arc;

use axum::{
    Extension, Json,
    body::Body,
    extract::{Path, Query, State},
    response::IntoResponse,
};
use base64::Engine as _;
use bytes::Bytes;
use futures::StreamExt as _;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header::CONTENT_TYPE};
use minnow_model::{AppName, StoreKind, StoreName};
use minnow_store::sql::{Access, Rows, Statement, Value};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::{ApiError, no_content, problem::ProblemDocument};
use crate::{
    Control, ControlError,
    api_types::{
        AppUsage, ExportQuery, KV_EXPIRES, KV_METADATA, KV_VERSION, KvKey, KvKeyQuery, KvKeys, KvListQuery, KvPutQuery,
        NodeUsage, ScriptDone, SqlBlob, SqlInfinite, SqlRequest, SqlResult, SqlValue,
    },
    tokens::Caller,
};

/// What the stores of all apps take, and what is kept of deleted apps.
#[utoipa::path(get, path = "/v1/usage", tag = "stores", operation_id = "usage", responses(
    (status = 200, body = NodeUsage),
    (status = "default", body = ProblemDocument, content_type = "application/problem+json"),
))]
pub(super) async fn usage(
    State(control): State<Arc<Control>>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<NodeUsage>, ApiError> {
    Ok(Json(control.usage(&caller.tenant).await?))
}

/// What the stores of an app take.
#[utoipa::path(get, path = "/v1/apps/{app}/usage", tag = "stores", operation_id = "app_usage", params(("app" = String, Path)), responses(
    (status = 200, body = AppUsage),
    (status = "default", body = ProblemDocument, content_type = "application/problem+json"),
))]
pub(super) async fn app_usage(
    State(control): State<Arc<Control>>,
    Extension(caller): Extension<Caller>,
    Path(app): Path<AppName>,
) -> Result<Json<AppUsage>, ApiError> {
    Ok(Json(control.app_usage(&caller.tenant, &app).await?))
}

/// Lists keys.
#[utoipa::path(get, path = "/v1/apps/{app}/kv/{store}/keys", tag = "stores", operation_id = "kv_list",
    params(("app" = String, Path), ("store" = String, Path), KvListQuery),
    responses(
        (status = 200, body = KvKeys),
        (status = "default", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(super) async fn kv_list(
    State(control): State<Arc<Control>>,
    Extension(caller): Extension<Caller>,
    Path((app, store)): Path<(AppName, StoreName)>,
    Query(query): Query<KvListQuery>,
) -> Result<Json<KvKeys>, ApiError> {
    let store = control.store(&caller.tenant, &app, StoreKind::Kv, &store).await?;
    let prefix = query.prefix.unwrap_or_default();
    let page = control.kv_list(&store, &prefix, query.cursor.as_deref(), query.limit).await?;
    let key =
        |info: minnow_store::kv::KeyInfo| KvKey { key: info.key, metadata: info.metadata, expires_ms: info.expires_ms };
    Ok(Json(KvKeys { keys: page.keys.into_iter().map(key).collect(), cursor: page.next }))
}

/// The value of a key. Headers have its version, and its metadata (percent-encoded) and expiry where there are any.
#[utoipa::path(get, path = "/v1/apps/{app}/kv/{store}/value", tag = "stores", operation_id = "kv_get",
    params(("app" = String, Path), ("store" = String, Path), KvKeyQuery),
    responses(
        (status = 200, body = Vec<u8>, content_type = "application/octet-stream", headers(
            ("minnow-version" = String, description = "Grows with each write of the key"),
            ("minnow-expires-ms" = String, description = "Milliseconds since the Unix epoch"),
            ("minnow-metadata" = String, description = "Percent-encoded"),
        )),
        (status = "default", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(super) async fn kv_get(
    State(control): State<Arc<Control>>,
    Extension(caller): Extension<Caller>,
    Path((app, store)): Path<(AppName, StoreName)>,
    Query(query): Query<KvKeyQuery>,
) -> Result<impl IntoResponse, ApiError> {
    let store = control.store(&caller.tenant, &app, StoreKind::Kv, &store).await?;
    let entry = control.kv_get(&store, &query.key).await?;
    let metadata = entry.metadata.map(|text| utf8_percent_encode(&text, NON_ALPHANUMERIC).to_string());
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    for (name, value) in [
        (KV_VERSION, Some(entry.version.to_string())),
        (KV_EXPIRES, entry.expires_ms.map(|ms| ms.to_string())),
        (KV_METADATA, metadata),
    ] {
        if let Some(value) = value.and_then(|value| HeaderValue::try_from(value).ok()) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
    Ok((headers, entry.value))
}

/// Sets a key to the body, of at most 25 MiB. It is on the disk when this answers.
#[utoipa::path(put, path = "/v1/apps/{app}/kv/{store}/value", tag = "stores", operation_id = "kv_set",
    params(("app" = String, Path), ("store" = String, Path), KvPutQuery),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses(
        (status = 204, description = "Set"),
        (status = "default", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(super) async fn kv_put(
    State(control): State<Arc<Control>>,
    Extension(caller): Extension<Caller>,
    Path((app, store)): Path<(AppName, StoreName)>,
    Query(query): Query<KvPutQuery>,
    value: Bytes,
) -> Result<StatusCode, ApiError> {
    let store = control.store(&caller.tenant, &app, StoreKind::Kv, &store).await?;
    let expires_ms = match (query.expires_ms, query.ttl_s) {
        (Some(_), Some(_)) => {
            return Err(ControlError::invalid("`expires_ms` and `ttl_s` say the same; send one of them").into());
        }
        (None, Some(0)) => {
            return Err(ControlError::invalid("`ttl_s` is 0: the key would be gone at once; the least is 1").into());
        }
        (at, None) => at,
        (None, Some(seconds)) => Some(control.config.clock.now_ms().saturating_add(seconds.saturating_mul(1000))),
    };
    control.kv_set(&store, query.key, value, query.metadata, expires_ms).await?;
    Ok(no_content())
}

/// Deletes a key.
#[utoipa::path(delete, path = "/v1/apps/{app}/kv/{store}/value", tag = "stores", operation_id = "kv_delete",
    params(("app" = String, Path), ("store" = String, Path), KvKeyQuery),
    responses(
        (status = 204, description = "Deleted"),
        (status = 404, body = ProblemDocument, content_type = "application/problem+json", description = "It was not there"),
        (status = "default", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(super) async fn kv_delete(
    State(control): State<Arc<Control>>,
    Extension(caller): Extension<Caller>,
    Path((app, store)): Path<(AppName, StoreName)>,
    Query(query): Query<KvKeyQuery>,
) -> Result<StatusCode, ApiError> {
    let store = control.store(&caller.tenant, &app, StoreKind::Kv, &store).await?;
    if control.kv_delete(&store, query.key.clone()).await? {
        Ok(no_content())
    } else {
        Err(ControlError::NoKey(query.key).into())
    }
}

/// Runs one statement and answers all its rows, of at most 16 MiB.
#[utoipa::path(post, path = "/v1/apps/{app}/sql/{store}/query", tag = "stores", operation_id = "sql_query",
    params(("app" = String, Path), ("store" = String, Path)),
    request_body = SqlRequest,
    responses(
        (status = 200, body = SqlResult),
        (status = "default", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(super) async fn sql_query(
    State(control): State<Arc<Control>>,
    Extension(caller): Extension<Caller>,
    Path((app, store)): Path<(AppName, StoreName)>,
    Json(request): Json<SqlRequest>,
) -> Result<Json<SqlResult>, ApiError> {
    let store = control.store(&caller.tenant, &app, StoreKind::Sql, &store).await?;
    let params = request.params.into_iter().enumerate().map(|(at, value)| from_json(at, value));
    let statement = Statement { sql: request.sql, params: params.collect::<Result<_, _>>()? };
    let access = if request.read_only { Access::ReadOnly } else { Access::ReadWrite };
    Ok(Json(to_json(control.sql_run(&store, access, statement).await?)))
}

/// Runs the statements of the body in one transaction. At most 16 MiB.
#[utoipa::path(post, path = "/v1/apps/{app}/sql/{store}/script", tag = "stores", operation_id = "sql_script",
    params(("app" = String, Path), ("store" = String, Path)),
    request_body(content = String, content_type = "application/sql"),
    responses(
        (status = 200, body = ScriptDone),
        (status = "default", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(super) async fn sql_script(
    State(control): State<Arc<Control>>,
    Extension(caller): Extension<Caller>,
    Path((app, store)): Path<(AppName, StoreName)>,
    script: Bytes,
) -> Result<Json<ScriptDone>, ApiError> {
    let store = control.store(&caller.tenant, &app, StoreKind::Sql, &store).await?;
    let script = String::from_utf8(script.into())
        .map_err(|error| ControlError::invalid(format!("the script is not UTF-8: {}", error.utf8_error())))?;
    Ok(Json(ScriptDone { statements: control.sql_script(&store, script).await? }))
}

/// The database as SQL text, as `.dump` of SQLite's shell writes it, as it is at one moment. It is whole when it ends with
/// `COMMIT;`.
#[utoipa::path(get, path = "/v1/apps/{app}/sql/{store}/export", tag = "stores", operation_id = "sql_export",
    params(("app" = String, Path), ("store" = String, Path), ExportQuery),
    responses(
        (status = 200, body = String, content_type = "application/sql"),
        (status = "default", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(super) async fn sql_export(
    State(control): State<Arc<Control>>,
    Extension(caller): Extension<Caller>,
    Path((app, store)): Path<(AppName, StoreName)>,
    Query(query): Query<ExportQuery>,
) -> Result<impl IntoResponse, ApiError> {
    let store = control.store(&caller.tenant, &app, StoreKind::Sql, &store).await?;
    let mut pieces = control.sql_dump(store, !query.data_only);
    let pieces = futures::stream::poll_fn(move |context| pieces.poll_recv(context));
    Ok(([(CONTENT_TYPE, "application/sql")], Body::from_stream(pieces.fuse())))
}

fn to_json(rows: Rows) -> SqlResult {
    let value = |value| match value {
        Value::Null => SqlValue::Null,
        Value::Integer(integer) => SqlValue::Integer(integer),
        Value::Real(real) if real.is_infinite() => SqlValue::Infinite(SqlInfinite { real: real.to_string() }),
        Value::Real(real) => SqlValue::Real(real),
        Value::Text(text) => SqlValue::Text(text),
        Value::Blob(blob) => SqlValue::Blob(SqlBlob { base64: base64::prelude::BASE64_STANDARD.encode(blob) }),
    };
    SqlResult {
        columns: rows.columns,
        rows: rows.rows.into_iter().map(|row| row.into_iter().map(value).collect()).collect(),
        changes: rows.changes,
        last_insert_rowid: rows.last_insert_rowid,
    }
}

fn from_json(at: usize, value: SqlValue) -> Result<Value, ControlError> {
    let invalid = |what: &str| ControlError::invalid(format!("parameter {}: {what}", at + 1));
    Ok(match value {
        SqlValue::Null => Value::Null,
        SqlValue::Bool(bool) => Value::Integer(bool.into()),
        SqlValue::Integer(integer) => Value::Integer(integer),
        SqlValue::Real(real) => Value::Real(real),
        SqlValue::Text(text) => Value::Text(text),
        SqlValue::Blob(blob) => {
            let bytes = base64::prelude::BASE64_STANDARD.decode(blob.base64);
            Value::Blob(bytes.map_err(|error| invalid(&format!("`base64` cannot be read: {error}")))?)
        }
        SqlValue::Infinite(infinite) => match infinite.real.as_str() {
            "inf" => Value::Real(f64::INFINITY),
            "-inf" => Value::Real(f64::NEG_INFINITY),
            _ => return Err(invalid("`real` is `inf` or `-inf`; write other numbers as they are")),
        },
    })
}
