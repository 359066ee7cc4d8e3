//! Published versions.

use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::{Path, State},
    response::IntoResponse,
};
use bytes::Bytes;
use http::{StatusCode, header::CONTENT_TYPE};
use minnow_model::{AppName, Version};

use super::{ApiError, no_content, problem::ProblemDocument};
use crate::{
    Control,
    api_types::{Published, VersionInfo},
    tokens::Caller,
};

/// Media type of an OCI image manifest.
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// Lists the versions of an app, newest first.
#[utoipa::path(get, path = "/v1/apps/{app}/versions", tag = "versions", operation_id = "list_versions",
    params(("app" = String, Path)),
    responses(
        (status = 200, body = Vec<VersionInfo>),
        (status = "default", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(super) async fn list(
    State(control): State<Arc<Control>>,
    Extension(caller): Extension<Caller>,
    Path(app): Path<AppName>,
) -> Result<Json<Vec<VersionInfo>>, ApiError> {
    Ok(Json(control.versions(&caller.tenant, &app).await?))
}

/// Publishes a version: the body is the bundle's OCI manifest, whose blobs are uploaded already. The node checks the bundle
/// and compiles its code before it answers. The same content again is a no-op, other content is refused.
#[utoipa::path(put, path = "/v1/apps/{app}/versions/{version}", tag = "versions", operation_id = "publish_version",
    params(("app" = String, Path), ("version" = String, Path)),
    request_body(content = Object, content_type = "application/vnd.oci.image.manifest.v1+json"),
    responses(
        (status = 201, body = Published, description = "Published"),
        (status = 200, body = Published, description = "The same content was published before"),
        (status = "default", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(super) async fn publish(
    State(control): State<Arc<Control>>,
    Extension(caller): Extension<Caller>,
    Path((app, version)): Path<(AppName, Version)>,
    manifest: Bytes,
) -> Result<(StatusCode, Json<Published>), ApiError> {
    let published = control.publish(&caller.tenant, &app, &version, manifest).await?;
    let status = if published.created { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(published)))
}

/// Shows a version.
#[utoipa::path(get, path = "/v1/apps/{app}/versions/{version}", tag = "versions", operation_id = "get_version",
    params(("app" = String, Path), ("version" = String, Path)),
    responses(
        (status = 200, body = VersionInfo),
        (status = "default", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(super) async fn get(
    State(control): State<Arc<Control>>,
    Extension(caller): Extension<Caller>,
    Path((app, version)): Path<(AppName, Version)>,
) -> Result<Json<VersionInfo>, ApiError> {
    Ok(Json(control.version(&caller.tenant, &app, &version).await?))
}

/// Deletes a version that is not live.
#[utoipa::path(delete, path = "/v1/apps/{app}/versions/{version}", tag = "versions", operation_id = "delete_version",
    params(("app" = String, Path), ("version" = String, Path)),
    responses(
        (status = 204, description = "Deleted"),
        (status = "default", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(super) async fn delete(
    State(control): State<Arc<Control>>,
    Extension(caller): Extension<Caller>,
    Path((app, version)): Path<(AppName, Version)>,
) -> Result<StatusCode, ApiError> {
    control.delete_version(&caller.tenant, &app, &version).await?;
    Ok(no_content())
}

/// The OCI manifest of a version, byte for byte as it was published.
#[utoipa::path(get, path = "/v1/apps/{app}/versions/{version}/manifest", tag = "versions", operation_id = "get_manifest",
    params(("app" = String, Path), ("version" = String, Path)),
    responses(
        (status = 200, body = Object, content_type = "application/vnd.oci.image.manifest.v1+json"),
        (status = "default", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(super) async fn manifest(
    State(control): State<Arc<Control>>,
    Extension(caller): Extension<Caller>,
    Path((app, version)): Path<(AppName, Version)>,
) -> Result<impl IntoResponse, ApiError> {
    let manifest = control.manifest(&caller.tenant, &app, &version).await?;
    Ok(([(CONTENT_TYPE, OCI_MANIFEST)], manifest))
}
