//! What is published: the config of a bundle's OCI artifact, and its media types.
//!
//! A bundle is an OCI image manifest (<https://github.com/opencontainers/image-spec/blob/main/manifest.md>) with
//! `artifactType` [`ARTIFACT_TYPE`]. Its config blob is [`BundleConfig`] as JSON; each function's code and each static file
//! is a layer of its own, so that what did not change is not uploaded again.

mod check;
mod code;
mod oci;

use std::collections::BTreeMap;

use semver::Version;
use serde::{Deserialize, Serialize};

use crate::{
    AppName, Digest, EgressRule, FunctionName, Limits, RoutePattern,
    manifest::{Instances, Sticky},
};

pub use code::BundledCode;
pub use oci::{Layer, MAX_MANIFEST_BYTES, OciBundle, OciError, TITLE, oci_manifest, read_oci_manifest};

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

/// The most static files of one version. Each costs about 150 bytes of the node's memory while its app is live.
pub const MAX_FILES: usize = 10_000;
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
}

/// One static file of a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BundledFile {
    pub digest: Digest,
    pub size: u64,
}
