//! Apps and their deployments.

use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::{Path, State},
};
use http::StatusCode;
use minnow_model::{AppName, Deployment};

use super::{ApiError, no_content, problem::ProblemDocument};
use crate::{
    Control,
    api_types::{AppInfo, AppStatus, DeployRequest},
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

/// Deletes an app with all its versions, deployments and logs. Requests that it is answering are answered.
#[utoipa::path(delete, path = "/v1/apps/{app}", tag = "apps", operation_id = "delete_app", params(("app" = String, Path)), responses(
    (status = 204, description = "Deleted"),
    (status = "default", body = ProblemDocument, content_type = "application/problem+json"),
))]
pub(super) async fn delete(
    State(control): State<Arc<Control>>,
    Extension(caller): Extension<Caller>,
    Path(app): Path<AppName>,
) -> Result<StatusCode, ApiError> {
    control.delete_app(&caller.tenant, &app).await?;
    Ok(no_content())
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
