//! Running functions and what they write.

use std::{convert::Infallible, sync::Arc};

use axum::{
    Extension, Json,
    body::Body,
    extract::{Path, Query, State},
    response::IntoResponse,
};
use futures::StreamExt as _;
use http::header::CONTENT_TYPE;
use minnow_model::{AppName, FunctionName, RequestId};

use super::{ApiError, problem::ProblemDocument};
use crate::{
    Control,
    api_types::{InvokeRequest, InvokeResponse, LogQuery},
    tokens::Caller,
};

/// Sends a function one request without the gateway. What the function answers, errors included, is in the body.
#[utoipa::path(post, path = "/v1/apps/{app}/functions/{function}/invoke", tag = "functions", operation_id = "invoke",
    params(("app" = String, Path), ("function" = String, Path)),
    request_body = InvokeRequest,
    responses(
        (status = 200, body = InvokeResponse),
        (status = "default", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(super) async fn invoke(
    State(control): State<Arc<Control>>,
    Extension(caller): Extension<Caller>,
    Extension(id): Extension<RequestId>,
    Path((app, function)): Path<(AppName, FunctionName)>,
    Json(request): Json<InvokeRequest>,
) -> Result<Json<InvokeResponse>, ApiError> {
    Ok(Json(control.invoke(&caller.tenant, &app, &function, id, request).await?))
}

/// The log of an app as JSON lines, oldest first. While it is followed, an empty line every 15 seconds keeps the connection
/// alive.
#[utoipa::path(get, path = "/v1/apps/{app}/logs", tag = "functions", operation_id = "logs",
    params(("app" = String, Path), LogQuery),
    responses(
        (status = 200, body = String, content_type = "application/x-ndjson"),
        (status = "default", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(super) async fn logs(
    State(control): State<Arc<Control>>,
    Extension(caller): Extension<Caller>,
    Path(app): Path<AppName>,
    Query(query): Query<LogQuery>,
) -> Result<impl IntoResponse, ApiError> {
    let lines = control.logs(&caller.tenant, &app, query).await?;
    Ok(([(CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines.map(Ok::<_, Infallible>))))
}
