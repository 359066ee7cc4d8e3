//! Content, by digest.

use std::sync::Arc;

use axum::{
    Extension, Json,
    body::Body,
    extract::{Path, State},
    response::IntoResponse,
};
use http::{
    HeaderMap, StatusCode,
    header::{CONTENT_LENGTH, CONTENT_TYPE},
};
use minnow_model::Digest;
use tokio_util::io::ReaderStream;

use super::{ApiError, problem::ProblemDocument};
use crate::{Control, api_types::StoredBlob, tokens::Caller};

/// Whether the node has this content; it then keeps it for at least an hour.
#[utoipa::path(head, path = "/v1/blobs/{digest}", tag = "blobs", operation_id = "has_blob", params(("digest" = String, Path)), responses(
    (status = 200, description = "The node has it; `content-length` is its size"),
    (status = 404, description = "It does not"),
))]
pub(super) async fn head(
    State(control): State<Arc<Control>>,
    Path(digest): Path<Digest>,
) -> Result<impl IntoResponse, ApiError> {
    let size = control.has_blob(digest).await?;
    Ok([(CONTENT_LENGTH, size.to_string())])
}

/// Content that a published version needs.
#[utoipa::path(get, path = "/v1/blobs/{digest}", tag = "blobs", operation_id = "get_blob", params(("digest" = String, Path)), responses(
    (status = 200, body = Vec<u8>, content_type = "application/octet-stream"),
    (status = "default", body = ProblemDocument, content_type = "application/problem+json"),
))]
pub(super) async fn get(
    State(control): State<Arc<Control>>,
    Extension(caller): Extension<Caller>,
    Path(digest): Path<Digest>,
) -> Result<impl IntoResponse, ApiError> {
    let (file, size) = control.open_blob(&caller.tenant, digest).await?;
    let headers = [(CONTENT_LENGTH, size.to_string()), (CONTENT_TYPE, "application/octet-stream".into())];
    Ok((headers, Body::from_stream(ReaderStream::with_capacity(file, 64 * 1024))))
}

/// Uploads content; the path names its sha256. Content that no version names within an hour is dropped.
#[utoipa::path(put, path = "/v1/blobs/{digest}", tag = "blobs", operation_id = "put_blob", params(("digest" = String, Path)),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses(
        (status = 201, body = StoredBlob, description = "Stored"),
        (status = 200, body = StoredBlob, description = "It was there already"),
        (status = "default", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(super) async fn put(
    State(control): State<Arc<Control>>,
    Path(digest): Path<Digest>,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, Json<StoredBlob>), ApiError> {
    let announced = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    let written = control.put_blob(digest, announced, body.into_data_stream()).await?;
    let status = if written.created { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(StoredBlob { digest: written.digest, size: written.len })))
}
