//! Publishing: from blobs that were uploaded to a version that can be deployed.
//!
//! The order makes a crash harmless: blobs first (each whole or absent), then the compiled code, then one transaction that
//! makes the version visible. What an interrupted publish leaves is content that no version needs, which the reconciler
//! removes.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::Read as _,
    sync::Arc,
};

use bytes::Bytes;
use bytesize::ByteSize;
use futures::Stream;
use minnow_model::{
    AppName, BundleConfig, Digest, LimitCaps, Tenant, Version,
    bundle::{
        MAX_CONFIG_BYTES, MAX_MANIFEST_BYTES, MAX_MIGRATION_BYTES, OciBundle, OciError, migration_mistake,
        read_oci_manifest,
    },
};
use minnow_store::{Blobs, StoreError, Written, blobs::UploadError};

use crate::{
    Control, ControlConfig, ControlError,
    api_types::Published,
    control::version_info,
    deploy::wasm_of,
    registry::{Committed, NewVersion},
};

/// A bundle that is whole and right, before its code is compiled.
#[derive(Debug)]
struct Checked {
    config: BundleConfig,
    digest: Digest,
    /// Every blob that the version needs, the manifest itself included.
    blobs: BTreeSet<Digest>,
    /// All layers together, in bytes.
    size: u64,
}

impl Control {
    /// Publishes a version whose blobs are uploaded; `manifest` is the bundle's OCI manifest. The same content again is a
    /// no-op; other content under the same version is refused.
    pub async fn publish(
        self: &Arc<Self>,
        tenant: &Tenant,
        app: &AppName,
        version: &Version,
        manifest: Bytes,
    ) -> Result<Published, ControlError> {
        let (control, tenant, app, version) = (Arc::clone(self), tenant.clone(), app.clone(), version.clone());
        // To the end also when the client goes away: what it asked for is nearly done, and asking again is a no-op.
        Self::to_the_end(async move {
            let committed = control.commit(&tenant, &app, &version, manifest).await?;
            let live = control.registry.app(&tenant, &app).await?.deployment;
            let shares = live.map(|live| live.shares).unwrap_or_default();
            Ok(Published { version: version_info(&app, committed.row, &shares), created: committed.created })
        })
        .await
    }

    async fn commit(
        &self,
        tenant: &Tenant,
        app: &AppName,
        version: &Version,
        manifest: Bytes,
    ) -> Result<Committed, ControlError> {
        let digest = Digest::of(&manifest);
        if let Some(row) = self.registry.version(tenant, app, version).await? {
            return if row.digest == digest {
                Ok(Committed { row, created: false })
            } else {
                Err(ControlError::VersionExists { app: app.clone(), version: version.clone(), published: row.digest })
            };
        }
        // From here to the commit nothing that this publish relies on is removed.
        let _publishing = self.publishing.read().await;
        // Again in the transaction; this is before code of it is loaded.
        if self.registry.fate(tenant, app).await?.is_some() {
            return Err(ControlError::BeingDeleted(app.clone()));
        }
        let (blobs, config) = (Arc::clone(&self.blobs), self.config.clone());
        let (url_app, url_version) = (app.clone(), version.clone());
        let checked = blocking(move || check(&blobs, &config, &manifest, &url_app, &url_version)).await?;
        self.compile_all(wasm_of(checked.config.functions.iter())).await?;
        self.check_kinds(&checked.config)?;
        self.check_js(tenant, &checked.config).await?;
        let new = NewVersion {
            tenant: tenant.clone(),
            config: checked.config,
            digest: checked.digest,
            blobs: checked.blobs.into_iter().collect(),
            published_ms: self.config.clock.now_ms(),
            size: checked.size,
        };
        let committed = self.registry.publish(new).await?;
        self.count().await;
        Ok(committed)
    }

    /// The OCI manifest of a version, byte for byte as it was published.
    pub async fn manifest(&self, tenant: &Tenant, app: &AppName, version: &Version) -> Result<Bytes, ControlError> {
        let digest = self.version(tenant, app, version).await?.digest;
        let blobs = Arc::clone(&self.blobs);
        blocking(move || read_blob(&blobs, &digest, MAX_MANIFEST_BYTES)).await.map(Bytes::from)
    }

    /// The size of a blob in bytes. It then stays for as long as an upload does.
    pub async fn has_blob(&self, digest: Digest) -> Result<u64, ControlError> {
        let blobs = Arc::clone(&self.blobs);
        let found = blocking(move || {
            let found = blobs.touch(&digest).map_err(|error| StoreError::io(&blobs.path(&digest), error))?;
            Ok(found)
        });
        found.await?.ok_or(ControlError::NoBlob(digest))
    }

    /// Opens a blob that a version of this tenant needs, and tells its size in bytes.
    pub async fn open_blob(&self, tenant: &Tenant, digest: Digest) -> Result<(tokio::fs::File, u64), ControlError> {
        if !self.registry.needs_blob(tenant, &digest).await? {
            return Err(ControlError::NoBlob(digest));
        }
        let path = self.blobs.path(&digest);
        let at = |error| StoreError::io(&path, error);
        let file = tokio::fs::File::open(&path).await.map_err(at)?;
        let size = file.metadata().await.map_err(at)?.len();
        Ok((file, size))
    }

    /// Stores an upload under its digest. `announced` is the size that the client says it has, in bytes.
    pub async fn put_blob<E: std::fmt::Display>(
        &self,
        digest: Digest,
        announced: Option<u64>,
        body: impl Stream<Item = Result<Bytes, E>> + Unpin,
    ) -> Result<Written, ControlError> {
        let most = self.config.max_bundle_bytes;
        let too_large = |size: Option<u64>| {
            let (size, most) = (size.map_or("more".into(), iec), iec(most));
            ControlError::TooLarge(format!("the blob has {size}; this node takes at most {most} (bundles.max_size)"))
        };
        if let Some(size) = announced.filter(|size| *size > most) {
            return Err(too_large(Some(size)));
        }
        match self.blobs.put_stream(digest, most, body).await {
            Ok(written) => Ok(written),
            Err(UploadError::Store(StoreError::TooLarge { .. })) => Err(too_large(None)),
            Err(UploadError::Store(error)) => Err(error.into()),
            Err(UploadError::Source(error)) => Err(ControlError::Incomplete(error.to_string())),
        }
    }
}

/// Checks the manifest, the blobs that it names and the config among them. Stores the manifest itself as a blob.
fn check(
    blobs: &Blobs,
    config: &ControlConfig,
    manifest: &[u8],
    app: &AppName,
    version: &Version,
) -> Result<Checked, ControlError> {
    let bundle = read_oci_manifest(manifest).map_err(|error| match error {
        OciError::TooLong(_) | OciError::ConfigTooLong(_) | OciError::TooManyLayers(_) => {
            ControlError::TooLarge(error.to_string())
        }
        error => ControlError::invalid(error.to_string()),
    })?;
    let needed: BTreeMap<Digest, u64> =
        bundle.layers.iter().map(|layer| (layer.digest, layer.size)).chain([bundle.config]).collect();
    let size = needed.values().fold(0, |sum: u64, size| sum.saturating_add(*size));
    if size > config.max_bundle_bytes {
        let (size, most) = (iec(size), iec(config.max_bundle_bytes));
        return Err(ControlError::TooLarge(format!(
            "the bundle has {size}; this node takes at most {most} (bundles.max_size)"
        )));
    }
    require_blobs(blobs, &bundle, &needed)?;
    let text = read_blob(blobs, &bundle.config.0, MAX_CONFIG_BYTES)?;
    let mut found: BundleConfig = serde_json::from_slice(&text)
        .map_err(|error| ControlError::invalid(format!("the bundle's config cannot be read: {error}")))?;
    check_config(&found, &config.caps, &bundle, app, version)?;
    check_migrations(blobs, &found)?;
    for (name, function) in &found.functions {
        let size = needed.get(&function.code.digest()).copied().unwrap_or_default();
        if size > config.max_wasm_bytes {
            let (size, most) = (iec(size), iec(config.max_wasm_bytes));
            return Err(ControlError::TooLarge(format!(
                "function `{name}`: its code has {size}; this node takes at most {most} (bundles.max_wasm)"
            )));
        }
    }
    // In the registry's copy, so that the version keeps them whatever the caps become. The blob stays what was published.
    for function in found.functions.values_mut() {
        function.limits = config.caps.applied_to(&function.limits);
    }
    let digest = blobs.put_bytes(manifest)?.digest;
    Ok(Checked { config: found, digest, blobs: needed.into_keys().chain([digest]).collect(), size })
}

/// A version whose blobs are among the node's, as [`Control::publish`] would take it. Its code is not compiled. Blocking.
pub(crate) fn checked(
    blobs: &Blobs,
    config: &ControlConfig,
    tenant: &Tenant,
    manifest: &[u8],
    app: &AppName,
    version: &Version,
    published_ms: u64,
) -> Result<NewVersion, ControlError> {
    let Checked { config, digest, blobs, size } = check(blobs, config, manifest, app, version)?;
    Ok(NewVersion { tenant: tenant.clone(), config, digest, blobs: blobs.into_iter().collect(), published_ms, size })
}

/// A size as people write it: `1.5 MiB`.
fn iec(bytes: u64) -> String {
    ByteSize::b(bytes).display().iec().to_string()
}

/// Every blob must be there, with the size that the manifest gives it.
fn require_blobs(blobs: &Blobs, bundle: &OciBundle, needed: &BTreeMap<Digest, u64>) -> Result<(), ControlError> {
    let title = |digest: &Digest| {
        let layer = bundle.layers.iter().find(|layer| layer.digest == *digest);
        layer.map_or("the config", |layer| layer.title.as_str())
    };
    let mut errors = Vec::new();
    for (digest, size) in needed {
        match blobs.len(digest).map_err(|error| StoreError::io(&blobs.path(digest), error))? {
            Some(found) if found == *size => {}
            Some(found) => {
                errors.push(format!("{digest} ({}) has {found} bytes, the manifest says {size}", title(digest)));
            }
            None => errors.push(format!("{digest} ({}) is not uploaded; PUT it to /v1/blobs first", title(digest))),
        }
    }
    if errors.is_empty() {
        return Ok(());
    }
    Err(ControlError::Invalid { detail: "the bundle is not complete".into(), errors })
}

fn check_config(
    config: &BundleConfig,
    caps: &LimitCaps,
    bundle: &OciBundle,
    app: &AppName,
    version: &Version,
) -> Result<(), ControlError> {
    let mut errors = Vec::new();
    if config.app != *app || config.version != *version {
        errors.push(format!("the bundle is {}@{}, the URL says {app}@{version}", config.app, config.version));
    }
    errors.extend(config.check(caps).err().unwrap_or_default());
    errors.extend(config.check_layers(bundle).err().unwrap_or_default());
    if errors.is_empty() {
        return Ok(());
    }
    Err(ControlError::Invalid { detail: "the bundle's config is not valid".into(), errors })
}

/// Reads every migration, whose sizes are checked: what cannot be SQL is told now, and not by a deploy.
fn check_migrations(blobs: &Blobs, config: &BundleConfig) -> Result<(), ControlError> {
    let mut errors = Vec::new();
    for (store, migration) in config.migrations() {
        let content = read_blob(blobs, &migration.digest, usize::try_from(MAX_MIGRATION_BYTES).unwrap_or(usize::MAX))?;
        if let Some(mistake) = migration_mistake(&content) {
            errors.push(format!("the sql store `{store}`: its migration `{}`: {mistake}", migration.name));
        }
    }
    if errors.is_empty() {
        return Ok(());
    }
    Err(ControlError::Invalid { detail: "the bundle's migrations are not valid".into(), errors })
}

/// Reads a small blob of at most `most` bytes.
pub(crate) fn read_blob(blobs: &Blobs, digest: &Digest, most: usize) -> Result<Vec<u8>, ControlError> {
    let path = blobs.path(digest);
    let at = |error| StoreError::io(&path, error);
    let mut content = Vec::new();
    File::open(&path).map_err(at)?.take(most as u64 + 1).read_to_end(&mut content).map_err(at)?;
    if content.len() > most {
        return Err(ControlError::TooLarge(format!("{digest} has more than {most} bytes")));
    }
    Ok(content)
}

/// Runs blocking file work on a thread that may wait.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ControlError> + Send + 'static,
) -> Result<T, ControlError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(ControlError::ShuttingDown),
        },
    }
}
