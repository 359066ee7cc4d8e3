//! Apps and their deployments.

use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::{Path, Query, State},
};
use http::StatusCode;
use minnow_model::{AppName, Deployment};

use super::{ApiError, no_content, problem::ProblemDocument};
use crate::{
    Control,
    api_types::{AppInfo, AppStatus, DataChoice, DeleteQuery, DeployRequest},
    stores::DataFate,
    tokens::Caller,
};

/// Lists the apps, by name.
#[utoipa::path(get, path = "/v1/apps", tag = "apps", operation_id = "list_apps", responses(
    (status = 200, body = Vec<AppInfo>),
    (status = "default", body = ProblemDocument, content_type = "application/problem+json"),
))]
pub(super) async fn list(
    State(control): State<Arc<Control>>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<Vec<AppInfo>>, ApiError> {
    Ok(Json(control.apps(&caller.tenant).await?))
}

/// Shows an app: its live deployment, its history and its functions.
#[utoipa::path(get, path = "/v1/apps/{app}", tag = "apps", operation_id = "get_app", params(("app" = String, Path)), responses(
    (status = 200, body = AppStatus),
    (status = "default", body = ProblemDocument, content_type = "application/problem+json"),
))]
pub(super) async fn status(
    State(control): State<Arc<Control>>,
    Extension(caller): Extension<Caller>,
    Path(app): Path<AppName>,
) -> Result<Json<AppStatus>, ApiError> {
    Ok(Json(control.app(&caller.tenant, &app).await?))
}

/// Deletes an app with all its versions, deployments, variables, secrets and logs. Requests that it is answering are answered.
/// An app with data in its stores is only deleted when `data` says what becomes of it. Where calls still use the data after two
/// seconds, the data goes when they have ended; until then nothing can be published under the app's name.
#[utoipa::path(delete, path = "/v1/apps/{app}", tag = "apps", operation_id = "delete_app",
    params(("app" = String, Path), DeleteQuery),
    responses(
    (status = 202, description = "Deleted; its data goes once the calls that use it have ended"),
    (status = 204, description = "Deleted, and its data with it"),
    (status = "default", body = ProblemDocument, content_type = "application/problem+json"),
))]
pub(super) async fn delete(
    State(control): State<Arc<Control>>,
    Extension(caller): Extension<Caller>,
    Path(app): Path<AppName>,
    Query(query): Query<DeleteQuery>,
) -> Result<StatusCode, ApiError> {
    let fate = query.data.map(|data| match data {
        DataChoice::Keep => DataFate::Keep,
        DataChoice::Purge => DataFate::Purge,
    });
    let finished = control.delete_app(&caller.tenant, &app, fate).await?;
    Ok(if finished { no_content() } else { StatusCode::ACCEPTED })
}

/// Sends live traffic to a version, all of it or a percentage (a canary). What is live already stays as it is.
#[utoipa::path(post, path = "/v1/apps/{app}/deploy", tag = "apps", params(("app" = String, Path)), request_body = DeployRequest,
    responses(
        (status = 200, body = Deployment),
        (status = "default", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(super) async fn deploy(
    State(control): State<Arc<Control>>,
    Extension(caller): Extension<Caller>,
    Path(app): Path<AppName>,
    Json(request): Json<DeployRequest>,
) -> Result<Json<Deployment>, ApiError> {
    let weight = request.weight.unwrap_or(100);
    Ok(Json(control.deploy(&caller.tenant, &app, request.version, weight).await?))
}

/// Goes back to the deployment before the live one. Called again it goes back further.
#[utoipa::path(post, path = "/v1/apps/{app}/rollback", tag = "apps", params(("app" = String, Path)), responses(
    (status = 200, body = Deployment),
    (status = "default", body = ProblemDocument, content_type = "application/problem+json"),
))]
pub(super) async fn rollback(
    State(control): State<Arc<Control>>,
    Extension(caller): Extension<Caller>,
    Path(app): Path<AppName>,
) -> Result<Json<Deployment>, ApiError> {
    Ok(Json(control.rollback(&caller.tenant, &app).await?))
}
