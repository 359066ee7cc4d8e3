//! The calls about backups.

use minnow_control::api_types::{BACKUP_TYPE, BackupQuery, RestoreQuery, Restored};
use minnow_model::AppName;
use reqwest::{
    Method, Response,
    header::{CONTENT_LENGTH, CONTENT_TYPE},
};

use super::{ApiError, Client, has_type};

impl Client {
    /// A backup of these apps, or of all, as it comes. There is no time limit: the node copies their data before it answers.
    pub async fn backup(&self, apps: &[AppName]) -> Result<Response, ApiError> {
        let names: Vec<&str> = apps.iter().map(AppName::as_str).collect();
        let query = BackupQuery { app: Some(names.join(",")).filter(|names| !names.is_empty()) };
        let response = self.send(self.request(Method::GET, &["backup"])?.query(&query)).await?;
        if has_type(&response, BACKUP_TYPE) {
            return Ok(response);
        }
        Err(ApiError::foreign(self.server.clone(), response.status(), response.headers()))
    }

    /// Restores from a backup, of `size` bytes where that is known. There is no time limit: how long it takes depends on the line and the disk.
    pub async fn restore(
        &self,
        query: &RestoreQuery,
        size: Option<u64>,
        body: reqwest::Body,
    ) -> Result<Restored, ApiError> {
        let request = self.request(Method::POST, &["restore"])?.query(query).header(CONTENT_TYPE, BACKUP_TYPE);
        let request = match size {
            Some(size) => request.header(CONTENT_LENGTH, size),
            None => request,
        };
        let request = request.body(body);
        self.read(self.send(request).await?).await
    }
}
