//! The node itself.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use http::StatusCode;

use super::problem::{Probe, ProblemDocument};
use crate::{Control, api_types::NodeInfo};

/// What node this is.
#[utoipa::path(get, path = "/v1/node", tag = "node", responses(
    (status = 200, body = NodeInfo),
    (status = "default", body = ProblemDocument, content_type = "application/problem+json"),
))]
pub(super) async fn node(State(control): State<Arc<Control>>) -> Json<NodeInfo> {
    Json(control.node())
}

/// Whether the process runs. Needs no token.
#[utoipa::path(get, path = "/healthz", tag = "node", security(()), responses((status = 200, body = String)))]
pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

/// Whether the node should get traffic: its live code is compiled and it is not shutting down. Needs no token.
#[utoipa::path(get, path = "/readyz", tag = "node", security(()), responses(
    (status = 200, body = String),
    (status = 503, body = String, description = "The text says why not"),
))]
pub(super) async fn readyz(State(control): State<Arc<Control>>) -> Response {
    let waiting_for = if control.is_ready() {
        return "ready\n".into_response();
    } else if control.is_draining() {
        "shutting down\n"
    } else {
        "compiling the live code for this version of the node\n"
    };
    let mut response = (StatusCode::SERVICE_UNAVAILABLE, waiting_for).into_response();
    response.extensions_mut().insert(Probe);
    response
}

/// Metrics in the OpenMetrics text format. Needs no token.
#[utoipa::path(get, path = "/metrics", tag = "node", security(()), responses(
    (status = 200, body = String, content_type = "application/openmetrics-text"),
))]
pub(super) async fn metrics(state: State<Arc<Control>>) -> impl IntoResponse {
    super::exposition(state)
}
