//! Apps in a file, and back.

use std::sync::Arc;

use axum::{
    Extension, Json,
    body::Body,
    extract::{Query, State},
    response::IntoResponse,
};
use http::header::CONTENT_TYPE;
use minnow_model::AppName;

use super::{ApiError, problem::ProblemDocument};
use crate::{
    Control, ControlError,
    api_types::{BACKUP_TYPE, BackupQuery, RestoreQuery, Restored},
    backup::RestoreChoice,
    tokens::Caller,
};

/// Apps with all that belongs to them, each as it is at one moment: a tar, compressed with zstd. It is whole when its last entry is
/// `minnow-backup.end.jsonl`.
#[utoipa::path(get, path = "/v1/backup", tag = "backup", operation_id = "backup", params(BackupQuery), responses(
    (status = 200, body = Vec<u8>, content_type = "application/zstd"),
    (status = "default", body = ProblemDocument, content_type = "application/problem+json"),
))]
pub(super) async fn backup(
    State(control): State<Arc<Control>>,
    Extension(caller): Extension<Caller>,
    Query(query): Query<BackupQuery>,
) -> Result<impl IntoResponse, ApiError> {
    let names = query.app.iter().flat_map(|names| names.split(','));
    let apps: Result<Vec<AppName>, _> = names.map(|name| name.parse()).collect();
    let apps =
        apps.map_err(|error| ControlError::invalid(format!("`app` names apps, with commas between them: {error}")))?;
    let pieces = control.backup(&caller.tenant, apps).await?;
    Ok(([(CONTENT_TYPE, BACKUP_TYPE)], Body::from_stream(pieces)))
}

/// Brings apps back from a backup, which is the body. It is read and checked to its end before anything changes.
#[utoipa::path(post, path = "/v1/restore", tag = "backup", operation_id = "restore", params(RestoreQuery),
    request_body(content = Vec<u8>, content_type = "application/zstd"),
    responses(
        (status = 200, body = Restored),
        (status = "default", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(super) async fn restore(
    State(control): State<Arc<Control>>,
    Extension(caller): Extension<Caller>,
    Query(query): Query<RestoreQuery>,
    body: Body,
) -> Result<Json<Restored>, ApiError> {
    let choice = RestoreChoice { app: query.app, rename: query.rename, replace: query.replace };
    Ok(Json(control.restore(&caller.tenant, choice, body.into_data_stream()).await?))
}
