//! What is published: the config of a bundle's OCI artifact, and its media types.
//!
//! A bundle is an OCI image manifest (<https://github.com/opencontainers/image-spec/blob/main/manifest.md>) with
//! `artifactType` [`ARTIFACT_TYPE`]. Its config blob is [`BundleConfig`] as JSON; each function's code, each static file and
//! each migration is a layer of its own, so that what did not change is not uploaded again.

mod check;
mod code;
mod events;
mod oci;
mod stores;

use std::collections::BTreeMap;

use semver::Version;
use serde::{Deserialize, Serialize};

use crate::{
    AppName, BlobStore, Digest, EgressRule, FilesStore, FunctionName, Grants, KvStore, Limits, RoutePattern, Schedule,
    StoreKind, StoreName, Subscription, Topic,
    event::{Async, Webhook},
    manifest::{Instances, Sticky},
};

pub use code::BundledCode;
pub use oci::{Layer, MAX_MANIFEST_BYTES, OciBundle, OciError, TITLE, oci_manifest, read_oci_manifest};
pub use stores::{migration_mistake, migration_name_mistake, misnumbered};

/// `artifactType` of a bundle's manifest.
pub const ARTIFACT_TYPE: &str = "application/vnd.minnow.bundle.v1";
/// Media type of the config blob.
pub const CONFIG_TYPE: &str = "application/vnd.minnow.bundle.config.v1+json";
/// Media type of a function's WebAssembly (<https://www.iana.org/assignments/media-types/application/wasm>).
pub const WASM_TYPE: &str = "application/wasm";
/// Media type of a function's JavaScript, one ES module in UTF-8 (RFC 9239).
pub const JS_TYPE: &str = "text/javascript";
/// Media type of the source map of a function's JavaScript (<https://tc39.es/ecma426/>).
pub const SOURCE_MAP_TYPE: &str = "application/source-map+json";
/// Media type of a static file's layer.
pub const FILE_TYPE: &str = "application/vnd.minnow.file.v1";
/// Media type of a migration of a SQL store (<https://www.iana.org/assignments/media-types/application/sql>).
pub const MIGRATION_TYPE: &str = "application/sql";

/// The most static files of one version. Each costs about 150 bytes of the node's memory while its app is live.
pub const MAX_FILES: usize = 10_000;
/// The most migrations of one store, which a store checks one by one at each deploy.
pub const MAX_MIGRATIONS: usize = 1000;
/// The most migrations of one version, so that its manifest stays within [`MAX_MANIFEST_BYTES`].
pub const MAX_APP_MIGRATIONS: usize = 2000;
/// The longest migration, in bytes. A schema has some kilobytes; data in bulk belongs to an import, which is not one
/// transaction at each deploy.
pub const MAX_MIGRATION_BYTES: u64 = 1024 * 1024;
/// The longest config blob, in bytes: [`MAX_FILES`] long paths fit, with functions to spare.
pub const MAX_CONFIG_BYTES: usize = 16 * 1024 * 1024;

/// What a version holds. The node serves from this and from the layers that it names, and from nothing else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BundleConfig {
    pub app: AppName,
    pub version: Version,
    pub functions: BTreeMap<FunctionName, BundledFunction>,
    /// Static files by the path under which they are served, which starts with `/`.
    #[serde(default)]
    pub files: BTreeMap<String, BundledFile>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub sticky: Option<Sticky>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub kv: BTreeMap<StoreName, KvStore>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub sql: BTreeMap<StoreName, BundledSql>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub blob: BTreeMap<StoreName, BlobStore>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub volumes: BTreeMap<StoreName, FilesStore>,
    /// Whether the app has locks.
    #[serde(skip_serializing_if = "is_false", default)]
    pub locks: bool,
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub topics: BTreeMap<StoreName, Topic>,
}

impl BundleConfig {
    /// The stores of a kind that the version declares.
    pub fn stores(&self, kind: StoreKind) -> Vec<&StoreName> {
        match kind {
            StoreKind::Kv => self.kv.keys().collect(),
            StoreKind::Sql => self.sql.keys().collect(),
            StoreKind::Blob => self.blob.keys().collect(),
            StoreKind::Files => self.volumes.keys().collect(),
            StoreKind::Topic => self.topics.keys().collect(),
        }
    }

    /// The apps that may use a store, for a topic none; `None` where the version does not declare it.
    pub fn share(&self, kind: StoreKind, store: &StoreName) -> Option<&[AppName]> {
        match kind {
            StoreKind::Kv => self.kv.get(store).map(|store| store.share.as_slice()),
            StoreKind::Sql => self.sql.get(store).map(|store| store.share.as_slice()),
            StoreKind::Blob => self.blob.get(store).map(|store| store.share.as_slice()),
            StoreKind::Files => self.volumes.get(store).map(|store| store.share.as_slice()),
            StoreKind::Topic => self.topics.get(store).map(|_| &[][..]),
        }
    }

    /// The most bytes that the version gives a bucket, a volume or a topic. `None` for a store of another kind, whose bound is the same
    /// for all, and for one that it does not declare.
    pub fn size_bytes(&self, kind: StoreKind, store: &StoreName) -> Option<u64> {
        match kind {
            StoreKind::Kv | StoreKind::Sql => None,
            StoreKind::Blob => self.blob.get(store).map(|store| store.size_bytes),
            StoreKind::Files => self.volumes.get(store).map(|store| store.size_bytes),
            StoreKind::Topic => self.topics.get(store).map(|topic| topic.max_bytes),
        }
    }

    /// The topics that have a webhook, in the order of their names.
    pub fn webhooks(&self) -> impl Iterator<Item = (&StoreName, &Webhook)> {
        self.topics.iter().filter_map(|(name, topic)| Some((name, topic.webhook.as_ref()?)))
    }

    /// Every migration, with its store.
    pub fn migrations(&self) -> impl Iterator<Item = (&StoreName, &BundledMigration)> {
        self.sql.iter().flat_map(|(name, store)| store.migrations.iter().map(move |migration| (name, migration)))
    }
}

/// One function of a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "code::WireFunction", into = "code::WireFunction")]
pub struct BundledFunction {
    pub code: BundledCode,
    pub routes: Vec<RoutePattern>,
    pub env: BTreeMap<String, String>,
    pub egress: Vec<EgressRule>,
    /// [`Instances::Reuse`] for JavaScript.
    pub instances: Instances,
    pub limits: Limits,
    pub grants: Grants,
    /// The topics that it follows.
    pub topics: Vec<Subscription>,
    pub schedules: Vec<Schedule>,
    /// What happens to its asynchronous invokes, where the manifest says so.
    pub asynchronous: Option<Async>,
}

/// One static file of a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BundledFile {
    pub digest: Digest,
    pub size: u64,
}

/// One SQL store of a version.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BundledSql {
    /// The apps whose functions may be granted it.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub share: Vec<AppName>,
    /// In the order in which they run, which is that of their names.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub migrations: Vec<BundledMigration>,
}

/// One migration of a SQL store: a script that runs once, in a transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BundledMigration {
    /// The name of its file, which ends with `.sql`. It is what the store remembers it by.
    pub name: String,
    pub digest: Digest,
    pub size: u64,
}

/// Left out, so that a version without the key keeps the digest that it had before the key existed.
pub(crate) fn is_false(value: &bool) -> bool {
    !value
}
