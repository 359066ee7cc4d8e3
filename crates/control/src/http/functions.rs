//! Running functions and what they write.

use std::{convert::Infallible, sync::Arc};

use axum::{
    Extension, Json,
    body::Body,
    extract::{Path, Query, State},
    response::IntoResponse,
};
use futures::StreamExt as _;
use http::{StatusCode, header::CONTENT_TYPE};
use minnow_model::{AppName, FunctionName, RequestId};

use super::{ApiError, problem::ProblemDocument};
use crate::{
    Control,
    api_types::{InvokeRequest, InvokeResponse, LogQuery, RunInfo, RunStarted},
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

/// Takes a request for a function, which runs it later, and again where that fails. It is durable when this answers. Its body has at
/// most 1 MiB.
#[utoipa::path(post, path = "/v1/apps/{app}/functions/{function}/invoke-async", tag = "functions",
    operation_id = "invoke_async",
    params(("app" = String, Path), ("function" = String, Path)),
    request_body = InvokeRequest,
    responses(
        (status = 202, body = RunStarted),
        (status = "default", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(super) async fn invoke_async(
    State(control): State<Arc<Control>>,
    Extension(caller): Extension<Caller>,
    Path((app, function)): Path<(AppName, FunctionName)>,
    Json(request): Json<InvokeRequest>,
) -> Result<(StatusCode, Json<RunStarted>), ApiError> {
    Ok((StatusCode::ACCEPTED, Json(control.invoke_async(&caller.tenant, &app, &function, request).await?)))
}

/// How it stands with an asynchronous invoke, and what came of it. That is kept for 24 hours, of the newest 10,000 of an app.
#[utoipa::path(get, path = "/v1/apps/{app}/runs/{run}", tag = "functions", operation_id = "run",
    params(("app" = String, Path), ("run" = String, Path)),
    responses(
        (status = 200, body = RunInfo),
        (status = "default", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(super) async fn run(
    State(control): State<Arc<Control>>,
    Extension(caller): Extension<Caller>,
    Path((app, run)): Path<(AppName, RequestId)>,
) -> Result<Json<RunInfo>, ApiError> {
    Ok(Json(control.async_run(&caller.tenant, &app, run).await?))
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
