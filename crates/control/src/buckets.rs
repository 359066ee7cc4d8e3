//! The buckets of apps, for whoever administers them: reading and writing blobs, and signing URLs for them.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use minnow_model::{StoreId, StoreKind, grant::DEFAULT_BLOB_BYTES};
use minnow_runtime::data::{
    Granted,
    signed::{SignRequest, SignedMethod},
};
use minnow_store::bucket::{Blob, Bucket, Conditions, Content, Got, Listed, MAX_PAGE, Meta};

use crate::{Control, ControlError, api_types::SignedBlob};

impl Control {
    /// The blob under a key, without its content.
    pub async fn blob_head(&self, store: &StoreId, key: &str) -> Result<Blob, ControlError> {
        let found = self.runtime.data().buckets.head(store, key).await?;
        found.ok_or_else(|| ControlError::NoKey(key.to_owned()))
    }

    /// The blob under a key, and its content.
    pub async fn blob_get(&self, store: &StoreId, key: &str) -> Result<(Blob, Content), ControlError> {
        match self.runtime.data().buckets.get(store, key, &Conditions::default(), None).await? {
            Got::Found { blob, content, .. } => Ok((blob, content)),
            // Nothing was asked of it, so it never is unmet.
            Got::Absent | Got::Unmet(_) => Err(ControlError::NoKey(key.to_owned())),
        }
    }

    /// Puts what `body` brings under a key, if the conditions hold at its end. It is on the disk when this answers.
    pub async fn blob_put<E: std::fmt::Display>(
        &self,
        store: &StoreId,
        key: String,
        meta: Meta,
        only_if: Conditions,
        mut body: impl Stream<Item = Result<Bytes, E>> + Unpin,
    ) -> Result<Blob, ControlError> {
        // The second keeps the data where it is until the upload is over.
        let (size_bytes, _live) = self.bucket_size(store);
        let bucket = Bucket { store, size_bytes };
        let buckets = &self.runtime.data().buckets;
        // It is decided at the end. But a client that has to be refused need not send all of it first.
        if only_if != Conditions::default() && !only_if.hold(buckets.head(store, &key).await?.as_ref()) {
            return Err(ControlError::Unmet);
        }
        let mut upload = buckets.put(bucket, key, meta, only_if).await?;
        while let Some(piece) = body.next().await {
            upload.write(piece.map_err(|error| ControlError::Incomplete(error.to_string()))?).await?;
        }
        upload.finish().await?.ok_or(ControlError::Unmet)
    }

    /// False where the key was not there.
    pub async fn blob_delete(&self, store: &StoreId, key: String) -> Result<bool, ControlError> {
        Ok(self.runtime.data().buckets.delete(store, vec![key]).await? > 0)
    }

    pub async fn blob_list(
        &self,
        store: &StoreId,
        prefix: &str,
        after: Option<&str>,
        delimiter: Option<&str>,
        limit: Option<u32>,
    ) -> Result<Listed, ControlError> {
        let limit = limit.unwrap_or(MAX_PAGE);
        Ok(self.runtime.data().buckets.list(store, prefix, after, delimiter, limit).await?)
    }

    /// A URL with which anybody may read or write one blob for a while. It answers once a live version declares the bucket.
    pub async fn blob_sign(
        &self,
        store: &StoreId,
        key: &str,
        request: &SignRequest,
    ) -> Result<SignedBlob, ControlError> {
        if !self.registry.declares(&store.tenant, &store.app, StoreKind::Blob, &store.name).await? {
            return Err(ControlError::Conflict(format!(
                "no live version of `{}` declares the bucket `{}`, so that its URLs answer nothing; deploy one with `[blob.{}]`",
                store.app, store.name, store.name
            )));
        }
        let path = self.runtime.data().signer.sign(store, key, request)?;
        let whole = Duration::from_secs(request.expires_in.as_secs());
        let lasts_ms = u64::try_from(whole.as_millis()).unwrap_or(u64::MAX);
        // As the signer does it: in whole seconds, so that this is not later than the URL's end.
        let now_ms = self.config.clock.now_ms() / 1000 * 1000;
        Ok(SignedBlob {
            url: format!("{}{path}", self.config.url(&store.app)),
            path,
            method: match request.method {
                SignedMethod::Get => crate::api_types::BlobMethod::Get,
                SignedMethod::Put => crate::api_types::BlobMethod::Put,
            },
            expires_ms: now_ms.saturating_add(lasts_ms),
        })
    }

    /// How large the bucket may be: the most that a live version says, or what a bucket has that none declares. Beside it what
    /// keeps its data from being taken away.
    fn bucket_size(&self, store: &StoreId) -> (u64, Vec<Arc<Granted>>) {
        let live = self.live_app(&store.tenant, &store.app);
        let shares = live.iter().flat_map(|app| &app.shares);
        let all: Vec<_> = shares.map(|(_, version)| Arc::clone(&version.buckets)).collect();
        let declared = all.iter().filter_map(|buckets| buckets.blob.get(store.name.as_str()));
        let size_bytes = declared.map(|bucket| bucket.size_bytes).max().unwrap_or(DEFAULT_BLOB_BYTES);
        (size_bytes, all)
    }
}
