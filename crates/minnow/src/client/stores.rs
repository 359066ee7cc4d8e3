//! The calls about the data of apps.

use bytes::Bytes;
use minnow_control::api_types::{
    AppUsage, ExportQuery, KV_EXPIRES, KV_METADATA, KV_VERSION, KvKeys, KvListQuery, KvPutQuery, NodeUsage, ScriptDone,
    SqlRequest, SqlResult,
};
use minnow_model::AppName;
use percent_encoding::percent_decode_str;
use reqwest::{
    Method, RequestBuilder, Response,
    header::{CONTENT_TYPE, HeaderMap},
};
use serde::Serialize;

use super::{ApiError, Client, has_type};
use crate::store::StorePath;

/// A value, and what is known about it.
#[derive(Debug)]
pub struct KvValue {
    pub value: Bytes,
    pub version: u64,
    pub metadata: Option<String>,
    /// Milliseconds since the Unix epoch.
    pub expires_ms: Option<u64>,
}

impl Client {
    pub async fn usage(&self) -> Result<NodeUsage, ApiError> {
        self.call(Method::GET, &["usage"]).await
    }

    pub async fn app_usage(&self, app: &AppName) -> Result<AppUsage, ApiError> {
        self.call(Method::GET, &["apps", app.as_str(), "usage"]).await
    }

    /// There is no time limit: how long 25 MiB take depends on the line.
    pub async fn kv_get(&self, store: &StorePath, key: &str) -> Result<KvValue, ApiError> {
        let request = self.on_store(Method::GET, "kv", store, "value", &[("key", key)])?;
        let response = self.send(request).await?;
        let headers = response.headers();
        let Some(version) = number(headers, KV_VERSION) else {
            return Err(ApiError::foreign(self.server.clone(), response.status(), headers));
        };
        let metadata = headers.get(KV_METADATA).and_then(|value| value.to_str().ok());
        let metadata = metadata.map(|text| percent_decode_str(text).decode_utf8_lossy().into_owned());
        let expires_ms = number(headers, KV_EXPIRES);
        let value = response.bytes().await.map_err(|source| self.lost(source))?;
        Ok(KvValue { value, version, metadata, expires_ms })
    }

    pub async fn kv_set(&self, store: &StorePath, query: &KvPutQuery, value: Vec<u8>) -> Result<(), ApiError> {
        let request = self.on_store(Method::PUT, "kv", store, "value", query)?;
        let request = request.header(CONTENT_TYPE, "application/octet-stream").body(value);
        self.send(request).await.map(drop)
    }

    pub async fn kv_delete(&self, store: &StorePath, key: &str) -> Result<(), ApiError> {
        let request = self.on_store(Method::DELETE, "kv", store, "value", &[("key", key)])?;
        self.send(request.timeout(self.call_timeout)).await.map(drop)
    }

    pub async fn kv_list(&self, store: &StorePath, query: &KvListQuery) -> Result<KvKeys, ApiError> {
        let request = self.on_store(Method::GET, "kv", store, "keys", query)?;
        self.read(self.send(request.timeout(self.call_timeout)).await?).await
    }

    /// The node bounds how long a statement takes.
    pub async fn sql_query(&self, store: &StorePath, query: &SqlRequest) -> Result<SqlResult, ApiError> {
        let request = self.on_store(Method::POST, "sql", store, "query", &())?.json(query);
        self.read(self.send(request).await?).await
    }

    /// Runs several statements in one transaction.
    pub async fn sql_script(&self, store: &StorePath, script: String) -> Result<ScriptDone, ApiError> {
        let request = self.on_store(Method::POST, "sql", store, "script", &())?;
        self.read(self.send(request.header(CONTENT_TYPE, "application/sql").body(script)).await?).await
    }

    /// The database as SQL text, as it comes.
    pub async fn sql_export(&self, store: &StorePath, query: &ExportQuery) -> Result<Response, ApiError> {
        let response = self.send(self.on_store(Method::GET, "sql", store, "export", query)?).await?;
        if has_type(&response, "application/sql") {
            return Ok(response);
        }
        Err(ApiError::foreign(self.server.clone(), response.status(), response.headers()))
    }

    /// What a call means whose answer broke off.
    pub fn broken_off(&self, source: reqwest::Error) -> ApiError {
        self.lost(source)
    }

    pub(super) fn on_store(
        &self,
        method: Method,
        kind: &str,
        store: &StorePath,
        what: &str,
        query: &(impl Serialize + ?Sized),
    ) -> Result<RequestBuilder, ApiError> {
        let path = ["apps", store.app.as_str(), kind, store.store.as_str(), what];
        Ok(self.request(method, &path)?.query(query))
    }
}

pub(super) fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.parse().ok()
}
