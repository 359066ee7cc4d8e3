//! What is set of an app without a publish: variables and secrets.

use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::{Path, State},
};
use http::StatusCode;
use minnow_model::{AppName, VariableName};
use zeroize::Zeroizing;

use super::{ApiError, no_content, problem::ProblemDocument};
use crate::{
    Control,
    api_types::{
        KeyRotated, NewSecret, SecretInfo, SecretStored, VariableChange, VariableInfo, VariablePatch, VariablesChanged,
    },
    tokens::Caller,
};

/// Lists an app's variables, by name.
#[utoipa::path(get, path = "/v1/apps/{app}/config", tag = "settings", operation_id = "list_variables",
    params(("app" = String, Path)),
    responses(
        (status = 200, body = Vec<VariableInfo>),
        (status = "default", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(super) async fn variables(
    State(control): State<Arc<Control>>,
    Extension(caller): Extension<Caller>,
    Path(app): Path<AppName>,
) -> Result<Json<Vec<VariableInfo>>, ApiError> {
    Ok(Json(control.variables(&caller.tenant, &app).await?))
}

/// Sets variables of an app and takes some away, all or none, as one revision. They are in the environment of its functions
/// at once. One that a function which gets traffic would not see, since it has a store or a secret under that name, is refused.
/// An app that is not known comes about.
#[utoipa::path(patch, path = "/v1/apps/{app}/config", tag = "settings", operation_id = "set_variables",
    params(("app" = String, Path)), request_body = VariablePatch,
    responses(
        (status = 200, body = VariablesChanged),
        (status = "default", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(super) async fn set_variables(
    State(control): State<Arc<Control>>,
    Extension(caller): Extension<Caller>,
    Path(app): Path<AppName>,
    Json(VariablePatch(changes)): Json<VariablePatch>,
) -> Result<Json<VariablesChanged>, ApiError> {
    Ok(Json(control.set_variables(&caller.tenant, &app, changes).await?))
}

/// The changes of an app's variables, newest first: at most 1000, and fewer where their values are long.
#[utoipa::path(get, path = "/v1/apps/{app}/config/history", tag = "settings", operation_id = "variable_history",
    params(("app" = String, Path)),
    responses(
        (status = 200, body = Vec<VariableChange>),
        (status = "default", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(super) async fn history(
    State(control): State<Arc<Control>>,
    Extension(caller): Extension<Caller>,
    Path(app): Path<AppName>,
) -> Result<Json<Vec<VariableChange>>, ApiError> {
    Ok(Json(control.variable_history(&caller.tenant, &app).await?))
}

/// Lists an app's secrets by name, without what is in them.
#[utoipa::path(get, path = "/v1/apps/{app}/secrets", tag = "settings", operation_id = "list_secrets",
    params(("app" = String, Path)),
    responses(
        (status = 200, body = Vec<SecretInfo>),
        (status = "default", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(super) async fn secrets(
    State(control): State<Arc<Control>>,
    Extension(caller): Extension<Caller>,
    Path(app): Path<AppName>,
) -> Result<Json<Vec<SecretInfo>>, ApiError> {
    Ok(Json(control.secrets(&caller.tenant, &app).await?))
}

/// Sets a secret. It is stored encrypted and never shown again; functions that are granted it have it in their environment
/// at once. An app that is not known comes about.
#[utoipa::path(put, path = "/v1/apps/{app}/secrets/{name}", tag = "settings", operation_id = "set_secret",
    params(("app" = String, Path), ("name" = String, Path)), request_body = NewSecret,
    responses(
        (status = 201, body = SecretStored, description = "Set"),
        (status = 200, body = SecretStored, description = "It replaced another value"),
        (status = "default", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(super) async fn set_secret(
    State(control): State<Arc<Control>>,
    Extension(caller): Extension<Caller>,
    Path((app, name)): Path<(AppName, VariableName)>,
    Json(request): Json<NewSecret>,
) -> Result<(StatusCode, Json<SecretStored>), ApiError> {
    let stored = control.set_secret(&caller.tenant, &app, &name, Zeroizing::new(request.value)).await?;
    Ok((if stored.created { StatusCode::CREATED } else { StatusCode::OK }, Json(stored)))
}

/// Deletes a secret. Refused while a function that gets traffic is granted it.
#[utoipa::path(delete, path = "/v1/apps/{app}/secrets/{name}", tag = "settings", operation_id = "delete_secret",
    params(("app" = String, Path), ("name" = String, Path)),
    responses(
        (status = 204, description = "Deleted"),
        (status = "default", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(super) async fn delete_secret(
    State(control): State<Arc<Control>>,
    Extension(caller): Extension<Caller>,
    Path((app, name)): Path<(AppName, VariableName)>,
) -> Result<StatusCode, ApiError> {
    control.delete_secret(&caller.tenant, &app, &name).await?;
    Ok(no_content())
}

/// Adds a new key to the node's key file, and seals every secret of the node with it.
#[utoipa::path(post, path = "/v1/secrets/rotate", tag = "settings", operation_id = "rotate_key", responses(
    (status = 200, body = KeyRotated),
    (status = "default", body = ProblemDocument, content_type = "application/problem+json"),
))]
pub(super) async fn rotate(State(control): State<Arc<Control>>) -> Result<Json<KeyRotated>, ApiError> {
    Ok(Json(control.rotate_key().await?))
}
