//! The calls about the buckets of apps.

use std::collections::BTreeMap;

use minnow_control::api_types::{
    BLOB_METADATA, BLOB_UPLOADED, BlobInfo, BlobList, BlobListQuery, BlobQuery, SignBlob, SignedBlob,
};
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use reqwest::{
    Body, Method, Response,
    header::{
        CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_LENGTH, CONTENT_TYPE, ETAG,
        HeaderMap, HeaderName, IF_NONE_MATCH,
    },
};

use super::{ApiError, Client, stores::number};
use crate::store::StorePath;

/// What is said of a blob that is put.
#[derive(Debug, Default)]
pub struct NewBlob {
    pub content_type: String,
    pub cache_control: Option<String>,
    pub metadata: BTreeMap<String, String>,
    /// Only where there is nothing under the key.
    pub if_absent: bool,
    /// How many bytes it has, where that is known.
    pub bytes: Option<u64>,
}

/// A blob whose content is still to come.
#[derive(Debug)]
pub struct FoundBlob {
    pub info: BlobInfo,
    pub content: Response,
}

impl Client {
    /// There is no time limit: how long 5 GiB take depends on the line.
    pub async fn blob_put(
        &self,
        store: &StorePath,
        key: &str,
        new: &NewBlob,
        body: Body,
    ) -> Result<BlobInfo, ApiError> {
        let query = BlobQuery { key: key.to_owned() };
        let request = self.on_store(Method::PUT, "blob", store, "object", &query)?;
        let mut request = request.header(CONTENT_TYPE, &new.content_type).body(body);
        if let Some(caching) = &new.cache_control {
            request = request.header(CACHE_CONTROL, caching);
        }
        if !new.metadata.is_empty() {
            let json = serde_json::to_string(&new.metadata).unwrap_or_default();
            request = request.header(BLOB_METADATA, utf8_percent_encode(&json, NON_ALPHANUMERIC).to_string());
        }
        if new.if_absent {
            request = request.header(IF_NONE_MATCH, "*");
        }
        if let Some(bytes) = new.bytes {
            request = request.header(CONTENT_LENGTH, bytes);
        }
        self.read(self.send(request).await?).await
    }

    /// There is no time limit, as for [`Client::blob_put`].
    pub async fn blob_get(&self, store: &StorePath, key: &str) -> Result<FoundBlob, ApiError> {
        let query = BlobQuery { key: key.to_owned() };
        let content = self.send(self.on_store(Method::GET, "blob", store, "object", &query)?).await?;
        match info(key, content.headers()) {
            Some(info) => Ok(FoundBlob { info, content }),
            None => Err(ApiError::foreign(self.server.clone(), content.status(), content.headers())),
        }
    }

    pub async fn blob_delete(&self, store: &StorePath, key: &str) -> Result<(), ApiError> {
        let query = BlobQuery { key: key.to_owned() };
        self.done(self.on_store(Method::DELETE, "blob", store, "object", &query)?).await
    }

    pub async fn blob_list(&self, store: &StorePath, query: &BlobListQuery) -> Result<BlobList, ApiError> {
        let request = self.on_store(Method::GET, "blob", store, "keys", query)?;
        self.read(self.send(request.timeout(self.call_timeout)).await?).await
    }

    pub async fn blob_sign(&self, store: &StorePath, sign: &SignBlob) -> Result<SignedBlob, ApiError> {
        let request = self.on_store(Method::POST, "blob", store, "sign", &())?.json(sign);
        self.read(self.send(request.timeout(self.call_timeout)).await?).await
    }
}

/// What the headers of a blob say. `None` where they are not those of a blob.
fn info(key: &str, headers: &HeaderMap) -> Option<BlobInfo> {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let metadata = match headers.get(BLOB_METADATA) {
        Some(value) => {
            let json = percent_decode_str(value.to_str().ok()?).decode_utf8().ok()?;
            serde_json::from_str(&json).ok()?
        }
        None => BTreeMap::new(),
    };
    Some(BlobInfo {
        key: key.to_owned(),
        size: number(headers, CONTENT_LENGTH.as_str())?,
        etag: text(ETAG)?.trim_matches('"').to_owned(),
        uploaded_ms: number(headers, BLOB_UPLOADED)?,
        content_type: text(CONTENT_TYPE),
        content_encoding: text(CONTENT_ENCODING),
        content_language: text(CONTENT_LANGUAGE),
        content_disposition: text(CONTENT_DISPOSITION),
        cache_control: text(CACHE_CONTROL),
        metadata,
    })
}
