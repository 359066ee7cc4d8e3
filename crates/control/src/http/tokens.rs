//! Who may use the API.

use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::{Path, State},
};
use http::StatusCode;

use super::{ApiError, no_content, problem::ProblemDocument};
use crate::{
    Control,
    api_types::{CreatedToken, NewToken, TokenInfo},
    tokens::Caller,
};

/// Lists the tokens, oldest first, without the tokens themselves.
#[utoipa::path(get, path = "/v1/tokens", tag = "tokens", operation_id = "list_tokens", responses(
    (status = 200, body = Vec<TokenInfo>),
    (status = "default", body = ProblemDocument, content_type = "application/problem+json"),
))]
pub(super) async fn list(
    State(control): State<Arc<Control>>,
    Extension(caller): Extension<Caller>,
) -> Json<Vec<TokenInfo>> {
    Json(control.tokens(&caller.tenant))
}

/// Creates a token and shows it, this once.
#[utoipa::path(post, path = "/v1/tokens", tag = "tokens", operation_id = "create_token", request_body = NewToken, responses(
    (status = 201, body = CreatedToken),
    (status = "default", body = ProblemDocument, content_type = "application/problem+json"),
))]
pub(super) async fn create(
    State(control): State<Arc<Control>>,
    Extension(caller): Extension<Caller>,
    Json(request): Json<NewToken>,
) -> Result<(StatusCode, Json<CreatedToken>), ApiError> {
    Ok((StatusCode::CREATED, Json(control.create_token(&caller.tenant, request.name).await?)))
}

/// Deletes a token, at once. The last one is kept.
#[utoipa::path(delete, path = "/v1/tokens/{id}", tag = "tokens", operation_id = "delete_token", params(("id" = String, Path)), responses(
    (status = 204, description = "Deleted"),
    (status = "default", body = ProblemDocument, content_type = "application/problem+json"),
))]
pub(super) async fn delete(
    State(control): State<Arc<Control>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<StatusCode, ApiError> {
    control.delete_token(&caller.tenant, id).await?;
    Ok(no_content())
}
