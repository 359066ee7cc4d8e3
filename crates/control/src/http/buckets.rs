//! The buckets of apps: their blobs, and signed URLs for them.

use std::{sync::Arc, time::Duration};

use axum::{
    Extension, Json,
    body::Body,
    extract::{Path, Query, State},
    response::IntoResponse,
};
use futures::TryStreamExt as _;
use http::{
    HeaderMap, HeaderName, HeaderValue, StatusCode,
    header::{CONTENT_LENGTH, CONTENT_TYPE, ETAG},
};
use minnow_model::{AppName, StoreKind, StoreName};
use minnow_runtime::data::{
    blob_headers::{self, NO_CONTENT_TYPE, conditions, quoted, set_meta},
    signed::{SignRequest, SignedMethod},
};
use minnow_store::{BucketError, bucket::Blob};
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::{ApiError, no_content, problem::ProblemDocument};
use crate::{
    Control, ControlError,
    api_types::{
        BLOB_METADATA, BLOB_UPLOADED, BlobInfo, BlobList, BlobListQuery, BlobMethod, BlobQuery, SignBlob, SignedBlob,
    },
    tokens::Caller,
};

/// Lists blobs, in the order of the bytes of their keys.
#[utoipa::path(get, path = "/v1/apps/{app}/blob/{store}/keys", tag = "stores", operation_id = "blob_list",
    params(("app" = String, Path), ("store" = String, Path), BlobListQuery),
    responses(
        (status = 200, body = BlobList),
        (status = "default", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(super) async fn list(
    State(control): State<Arc<Control>>,
    Extension(caller): Extension<Caller>,
    Path((app, store)): Path<(AppName, StoreName)>,
    Query(query): Query<BlobListQuery>,
) -> Result<Json<BlobList>, ApiError> {
    let store = control.store(&caller.tenant, &app, StoreKind::Blob, &store).await?;
    let BlobListQuery { prefix, delimiter, cursor, limit } = query;
    // An empty one would divide nothing.
    let delimiter = delimiter.filter(|delimiter| !delimiter.is_empty());
    let prefix = prefix.unwrap_or_default();
    let listed = control.blob_list(&store, &prefix, cursor.as_deref(), delimiter.as_deref(), limit).await?;
    let blobs = listed.blobs.into_iter().map(info).collect();
    Ok(Json(BlobList { blobs, prefixes: listed.prefixes, cursor: listed.next }))
}

/// What is known of a blob, in the headers of `GET`.
#[utoipa::path(head, path = "/v1/apps/{app}/blob/{store}/object", tag = "stores", operation_id = "blob_head",
    params(("app" = String, Path), ("store" = String, Path), BlobQuery),
    responses(
        (status = 200, description = "It is there"),
        (status = 404, description = "It is not"),
    )
)]
pub(super) async fn head(
    State(control): State<Arc<Control>>,
    Extension(caller): Extension<Caller>,
    Path((app, store)): Path<(AppName, StoreName)>,
    Query(query): Query<BlobQuery>,
) -> Result<impl IntoResponse, ApiError> {
    let store = control.store(&caller.tenant, &app, StoreKind::Blob, &store).await?;
    let blob = control.blob_head(&store, &query.key).await?;
    Ok(headers_of(&blob))
}

/// A blob. What is kept with it is in the headers.
#[utoipa::path(get, path = "/v1/apps/{app}/blob/{store}/object", tag = "stores", operation_id = "blob_get",
    params(("app" = String, Path), ("store" = String, Path), BlobQuery),
    responses(
        (status = 200, body = Vec<u8>, content_type = "application/octet-stream", headers(
            ("etag" = String, description = "The sha256 of the content, 64 hex digits in quotes"),
            ("content-type" = String, description = "As the blob was put; so are `content-encoding`, `content-language`, `content-disposition` and `cache-control`"),
            ("minnow-uploaded-ms" = String, description = "Milliseconds since the Unix epoch"),
            ("minnow-metadata" = String, description = "The custom metadata: a JSON object of strings, percent-encoded"),
        )),
        (status = "default", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(super) async fn get(
    State(control): State<Arc<Control>>,
    Extension(caller): Extension<Caller>,
    Path((app, store)): Path<(AppName, StoreName)>,
    Query(query): Query<BlobQuery>,
) -> Result<impl IntoResponse, ApiError> {
    let store = control.store(&caller.tenant, &app, StoreKind::Blob, &store).await?;
    let (blob, content) = control.blob_get(&store, &query.key).await?;
    let headers = headers_of(&blob);
    let pieces = futures::stream::try_unfold(content, async |mut content| {
        Ok::<_, BucketError>(content.next().await?.map(|piece| (piece, content)))
    });
    // The client sees that the content breaks off, and no more.
    let pieces = pieces.inspect_err(move |error| {
        tracing::error!(app = %store.app, bucket = %store.name, %error, "a blob cannot be read to its end");
    });
    Ok((headers, Body::from_stream(pieces)))
}

/// Puts the body under a key. It is on the disk when this answers. `content-type`, `content-encoding`, `content-language`,
/// `content-disposition`, `cache-control` and `minnow-metadata` are kept with it; `if-match` and `if-none-match` make it depend on
/// what is there.
#[utoipa::path(put, path = "/v1/apps/{app}/blob/{store}/object", tag = "stores", operation_id = "blob_put",
    params(("app" = String, Path), ("store" = String, Path), BlobQuery),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses(
        (status = 201, body = BlobInfo, description = "It is there"),
        (status = 412, body = ProblemDocument, content_type = "application/problem+json", description = "A condition does not hold"),
        (status = "default", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(super) async fn put(
    State(control): State<Arc<Control>>,
    Extension(caller): Extension<Caller>,
    Path((app, store)): Path<(AppName, StoreName)>,
    Query(query): Query<BlobQuery>,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, Json<BlobInfo>), ApiError> {
    let store = control.store(&caller.tenant, &app, StoreKind::Blob, &store).await?;
    let mut meta = blob_headers::meta(&headers).map_err(|error| ControlError::invalid(error.to_string()))?;
    if let Some(value) = headers.get(BLOB_METADATA) {
        meta.custom = custom(value)?;
    }
    let body = body.into_data_stream();
    let blob = control.blob_put(&store, query.key, meta, conditions(&headers), body).await?;
    Ok((StatusCode::CREATED, Json(info(blob))))
}

/// Deletes a blob.
#[utoipa::path(delete, path = "/v1/apps/{app}/blob/{store}/object", tag = "stores", operation_id = "blob_delete",
    params(("app" = String, Path), ("store" = String, Path), BlobQuery),
    responses(
        (status = 204, description = "Deleted"),
        (status = 404, body = ProblemDocument, content_type = "application/problem+json", description = "It was not there"),
        (status = "default", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(super) async fn delete(
    State(control): State<Arc<Control>>,
    Extension(caller): Extension<Caller>,
    Path((app, store)): Path<(AppName, StoreName)>,
    Query(query): Query<BlobQuery>,
) -> Result<StatusCode, ApiError> {
    let store = control.store(&caller.tenant, &app, StoreKind::Blob, &store).await?;
    if control.blob_delete(&store, query.key.clone()).await? {
        Ok(no_content())
    } else {
        Err(ControlError::NoKey(query.key).into())
    }
}

/// Makes a URL with which anybody may read or write one blob until it expires. Whether there is one is not asked.
#[utoipa::path(post, path = "/v1/apps/{app}/blob/{store}/sign", tag = "stores", operation_id = "blob_sign",
    params(("app" = String, Path), ("store" = String, Path)),
    request_body = SignBlob,
    responses(
        (status = 200, body = SignedBlob),
        (status = "default", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(super) async fn sign(
    State(control): State<Arc<Control>>,
    Extension(caller): Extension<Caller>,
    Path((app, store)): Path<(AppName, StoreName)>,
    Json(sign): Json<SignBlob>,
) -> Result<Json<SignedBlob>, ApiError> {
    let store = control.store(&caller.tenant, &app, StoreKind::Blob, &store).await?;
    let request = SignRequest {
        method: match sign.method {
            BlobMethod::Get => SignedMethod::Get,
            BlobMethod::Put => SignedMethod::Put,
        },
        expires_in: Duration::from_secs(sign.expires_s),
        max_size: sign.max_size,
        content_type: sign.content_type,
    };
    Ok(Json(control.blob_sign(&store, &sign.key, &request).await?))
}

fn info(blob: Blob) -> BlobInfo {
    let Blob { key, size, etag, uploaded_ms, meta } = blob;
    BlobInfo {
        key,
        size,
        etag,
        uploaded_ms,
        content_type: meta.content_type,
        content_encoding: meta.content_encoding,
        content_language: meta.content_language,
        content_disposition: meta.content_disposition,
        cache_control: meta.cache_control,
        metadata: meta.custom,
    }
}

fn headers_of(blob: &Blob) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, NO_CONTENT_TYPE);
    set_meta(&mut headers, &blob.meta);
    headers.insert(CONTENT_LENGTH, HeaderValue::from(blob.size));
    headers.insert(ETAG, quoted(&blob.etag));
    headers.insert(HeaderName::from_static(BLOB_UPLOADED), HeaderValue::from(blob.uploaded_ms));
    if !blob.meta.custom.is_empty() {
        let json = serde_json::to_string(&blob.meta.custom).unwrap_or_default();
        if let Ok(value) = HeaderValue::try_from(utf8_percent_encode(&json, NON_ALPHANUMERIC).to_string()) {
            headers.insert(HeaderName::from_static(BLOB_METADATA), value);
        }
    }
    headers
}

/// Reads custom metadata as [`headers_of`] writes it.
fn custom(value: &HeaderValue) -> Result<std::collections::BTreeMap<String, String>, ControlError> {
    let invalid = |why: String| {
        ControlError::invalid(format!(
            "the header `{BLOB_METADATA}` is no JSON object of strings, percent-encoded: {why}"
        ))
    };
    let text = percent_decode_str(value.to_str().map_err(|error| invalid(error.to_string()))?);
    let json = text.decode_utf8().map_err(|error| invalid(error.to_string()))?;
    serde_json::from_str(&json).map_err(|error| invalid(error.to_string()))
}

#[cfg(test)]
mod tests {
    use minnow_store::bucket::Meta;

    use super::*;

    #[test]
    fn custom_metadata_passes_through_a_header() {
        let custom_metadata =
            [("by", "Ada\nü"), ("ünïcode", "100%")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        let meta = Meta { custom: custom_metadata.into(), ..Meta::default() };
        let blob = Blob { key: "a".into(), size: 5, etag: "00".into(), uploaded_ms: 7, meta };
        let headers = headers_of(&blob);
        assert_eq!(custom(&headers[BLOB_METADATA]).unwrap(), blob.meta.custom);
        assert_eq!(
            (&headers[CONTENT_TYPE], &headers[ETAG]),
            (&NO_CONTENT_TYPE, &"\"00\"".parse::<HeaderValue>().unwrap())
        );
        for bad in ["", "x", "%7B", "%FF", "%5B%5D", "{\"a\":1}"] {
            let error = custom(&HeaderValue::from_static(bad)).unwrap_err();
            assert!(error.to_string().contains("percent-encoded"), "{bad}: {error}");
        }
    }
}
