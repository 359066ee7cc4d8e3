//! The OCI manifest of a bundle (<https://github.com/opencontainers/image-spec/blob/v1.1.1/manifest.md>): writing it so that
//! equal content gives equal bytes, and reading one that somebody else wrote.

use std::collections::{HashMap, hash_map::Entry};

use oci_spec::image::{Descriptor, ImageManifest, ImageManifestBuilder, MediaType, Sha256Digest};

use super::{
    ARTIFACT_TYPE, CONFIG_TYPE, FILE_TYPE, JS_TYPE, MAX_APP_MIGRATIONS, MAX_CONFIG_BYTES, MAX_FILES, MIGRATION_TYPE,
    SOURCE_MAP_TYPE, WASM_TYPE,
};
use crate::{
    Digest,
    manifest::MAX_FUNCTIONS,
    path::{PathError, check_relative},
};

/// The annotation that names a layer's file (OCI image-spec, pre-defined annotation keys).
pub const TITLE: &str = "org.opencontainers.image.title";

/// The longest manifest, in bytes: what registries accept (distribution-spec, "4 megabytes").
pub const MAX_MANIFEST_BYTES: usize = 4 * 1024 * 1024;

/// What a layer can be.
const LAYER_TYPES: [&str; 5] = [WASM_TYPE, JS_TYPE, SOURCE_MAP_TYPE, FILE_TYPE, MIGRATION_TYPE];

/// One layer: a function's code, the source map of code, a static file, or a migration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    pub digest: Digest,
    /// In bytes.
    pub size: u64,
    /// [`WASM_TYPE`], [`JS_TYPE`], [`SOURCE_MAP_TYPE`], [`FILE_TYPE`] or [`MIGRATION_TYPE`].
    pub media_type: String,
    /// What tools show as the layer's name; a relative path, or empty for none. Nothing is ever written under it.
    pub title: String,
}

/// What a bundle's OCI manifest says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OciBundle {
    /// Digest and size of the config blob.
    pub config: (Digest, u64),
    pub layers: Vec<Layer>,
}

/// Why an OCI manifest was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OciError {
    #[error("the manifest has {0} bytes, the most is {MAX_MANIFEST_BYTES}")]
    TooLong(usize),
    #[error("the manifest is not an OCI image manifest: {0}")]
    Json(String),
    #[error("the manifest's `{key}` is `{found}`, not `{expected}`")]
    Type { key: &'static str, found: String, expected: &'static str },
    #[error("the config has {0} bytes, the most is {MAX_CONFIG_BYTES}")]
    ConfigTooLong(u64),
    #[error("the manifest has {0} layers, the most is {most}", most = MAX_LAYERS)]
    TooManyLayers(usize),
    #[error("layer {index} has the media type `{found}`, not one of {known}", known = LAYER_TYPES.join(", "))]
    LayerType { index: usize, found: String },
    #[error("{whose} has the digest `{found}`, not a sha256")]
    Digest { whose: String, found: String },
    #[error("layer {index} is named `{title}`: {error}")]
    Title { index: usize, title: String, error: PathError },
    #[error("{whose} lies elsewhere (`urls` or `data`); upload it as a blob")]
    Elsewhere { whose: String },
    #[error("layer {index} has {size} bytes, and the same content above has {other}")]
    Size { index: usize, size: u64, other: u64 },
}

/// Functions, each perhaps with a source map, files, and migrations together.
const MAX_LAYERS: usize = 2 * MAX_FUNCTIONS + MAX_FILES + MAX_APP_MIGRATIONS;

/// The OCI manifest of a bundle as JSON. Equal input gives equal bytes, so that publishing twice gives the same digest:
/// layers are sorted, equal ones are one, and no descriptor has more than one annotation (`oci-spec` keeps them unordered).
/// Fails when the result would be refused by [`read_oci_manifest`].
pub fn oci_manifest(config: (Digest, u64), mut layers: Vec<Layer>) -> Result<Vec<u8>, OciError> {
    layers.sort_by(|a, b| (&a.media_type, a.digest, &a.title).cmp(&(&b.media_type, b.digest, &b.title)));
    layers.dedup_by(|a, b| a.digest == b.digest && a.media_type == b.media_type);
    let mut descriptors = Vec::with_capacity(layers.len());
    for layer in &layers {
        let mut descriptor = descriptor(&layer.media_type, layer.digest, layer.size)?;
        if !layer.title.is_empty() {
            descriptor.set_annotations(Some([(TITLE.into(), layer.title.clone())].into()));
        }
        descriptors.push(descriptor);
    }
    let manifest = ImageManifestBuilder::default()
        .schema_version(2u32)
        .media_type(MediaType::ImageManifest)
        .artifact_type(ARTIFACT_TYPE)
        .config(descriptor(CONFIG_TYPE, config.0, config.1)?)
        .layers(descriptors)
        .build()
        .map_err(|error| OciError::Json(error.to_string()))?;
    let bytes = serde_json::to_vec(&manifest).map_err(|error| OciError::Json(error.to_string()))?;
    read_oci_manifest(&bytes)?;
    Ok(bytes)
}

fn descriptor(media_type: &str, digest: Digest, size: u64) -> Result<Descriptor, OciError> {
    let digest = digest.hex().parse::<Sha256Digest>().map_err(|error| OciError::Json(error.to_string()))?;
    Ok(Descriptor::new(media_type.into(), size, digest))
}

/// Reads the OCI manifest of a bundle. Refused are other artifacts, digests other than sha256, layers that lie elsewhere,
/// and names that lead out of a folder.
pub fn read_oci_manifest(bytes: &[u8]) -> Result<OciBundle, OciError> {
    if bytes.len() > MAX_MANIFEST_BYTES {
        return Err(OciError::TooLong(bytes.len()));
    }
    let manifest: ImageManifest = serde_json::from_slice(bytes).map_err(|error| OciError::Json(error.to_string()))?;
    if manifest.schema_version() != 2 {
        return Err(OciError::Type {
            key: "schemaVersion",
            found: manifest.schema_version().to_string(),
            expected: "2",
        });
    }
    let media_type = manifest.media_type().as_ref();
    expect("mediaType", media_type, "application/vnd.oci.image.manifest.v1+json")?;
    expect("artifactType", manifest.artifact_type().as_ref(), ARTIFACT_TYPE)?;
    expect("config.mediaType", Some(manifest.config().media_type()), CONFIG_TYPE)?;
    let config = (digest_of(manifest.config(), || "the config".into())?, manifest.config().size());
    if config.1 > MAX_CONFIG_BYTES as u64 {
        return Err(OciError::ConfigTooLong(config.1));
    }
    if manifest.layers().len() > MAX_LAYERS {
        return Err(OciError::TooManyLayers(manifest.layers().len()));
    }
    let mut sizes = HashMap::new();
    let mut layers = Vec::with_capacity(manifest.layers().len());
    for (index, descriptor) in manifest.layers().iter().enumerate() {
        let layer = read_layer(index, descriptor)?;
        match sizes.entry(layer.digest) {
            Entry::Vacant(entry) => {
                entry.insert(layer.size);
            }
            Entry::Occupied(entry) if *entry.get() != layer.size => {
                return Err(OciError::Size { index, size: layer.size, other: *entry.get() });
            }
            Entry::Occupied(_) => {}
        }
        layers.push(layer);
    }
    Ok(OciBundle { config, layers })
}

fn read_layer(index: usize, descriptor: &Descriptor) -> Result<Layer, OciError> {
    let media_type = descriptor.media_type().to_string();
    if !LAYER_TYPES.contains(&media_type.as_str()) {
        return Err(OciError::LayerType { index, found: media_type });
    }
    let digest = digest_of(descriptor, || format!("layer {index}"))?;
    let title = descriptor.annotations().as_ref().and_then(|all| all.get(TITLE)).cloned().unwrap_or_default();
    if !title.is_empty()
        && let Err(error) = check_relative(&title)
    {
        return Err(OciError::Title { index, title: title.escape_debug().to_string(), error });
    }
    Ok(Layer { digest, size: descriptor.size(), media_type, title })
}

fn expect(key: &'static str, found: Option<&MediaType>, expected: &'static str) -> Result<(), OciError> {
    let found = found.map(MediaType::to_string).unwrap_or_default();
    if found == expected { Ok(()) } else { Err(OciError::Type { key, found, expected }) }
}

fn digest_of(descriptor: &Descriptor, whose: impl Fn() -> String) -> Result<Digest, OciError> {
    if descriptor.urls().as_ref().is_some_and(|urls| !urls.is_empty()) || descriptor.data().is_some() {
        return Err(OciError::Elsewhere { whose: whose() });
    }
    let found = descriptor.digest().to_string();
    found.parse().map_err(|_| OciError::Digest { whose: whose(), found })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn layer(content: &[u8], media_type: &str, title: &str) -> Layer {
        Layer {
            digest: Digest::of(content),
            size: content.len() as u64,
            media_type: media_type.into(),
            title: title.into(),
        }
    }

    fn config() -> (Digest, u64) {
        (Digest::of(b"{}"), 2)
    }

    #[test]
    fn a_manifest_reads_back_and_equal_content_gives_equal_bytes() {
        let a = layer(b"a", WASM_TYPE, "api");
        let b = layer(b"b", FILE_TYPE, "index.html");
        let bytes = oci_manifest(config(), vec![a.clone(), b.clone()]).unwrap();
        let again = oci_manifest(config(), vec![b.clone(), a.clone(), layer(b"a", WASM_TYPE, "other")]).unwrap();
        assert_eq!(bytes, again);
        let read = read_oci_manifest(&bytes).unwrap();
        assert_eq!(read.config, config());
        assert_eq!(read.layers, [b, a]);
        insta::assert_snapshot!(String::from_utf8(bytes).unwrap());
        let js = [layer(b"m", SOURCE_MAP_TYPE, "api.js.map"), layer(b"c", JS_TYPE, "api.js")];
        let bytes = oci_manifest(config(), js.to_vec()).unwrap();
        assert_eq!(read_oci_manifest(&bytes).unwrap().layers, js);
    }

    #[test]
    fn a_bad_manifest_is_refused_with_the_reason() {
        let bytes = oci_manifest(config(), vec![layer(b"a", WASM_TYPE, "api")]).unwrap();
        let good: Value = serde_json::from_slice(&bytes).unwrap();
        let md5 = "md5:d41d8cd98f00b204e9800998ecf8427e";
        for (pointer, value, part) in [
            ("/schemaVersion", json!(1), "schemaVersion"),
            ("/schemaVersion", json!("2"), "not an OCI image manifest"),
            ("/mediaType", json!("application/vnd.oci.image.index.v1+json"), "mediaType"),
            ("/mediaType", Value::Null, "mediaType"),
            ("/artifactType", json!("application/x"), "artifactType"),
            ("/artifactType", Value::Null, "artifactType"),
            ("/config/mediaType", json!("application/json"), "config.mediaType"),
            ("/config/digest", json!(md5), "not a sha256"),
            ("/config/size", json!(1u64 << 40), "config has"),
            ("/config/size", json!(-1), "not an OCI image manifest"),
            ("/layers/0/mediaType", json!("application/x-sh"), "media type"),
            ("/layers/0/digest", json!(md5), "not a sha256"),
            ("/layers/0/digest", json!("sha256:../../etc/passwd"), "not an OCI image manifest"),
            ("/layers/0/urls", json!(["http://169.254.169.254/"]), "lies elsewhere"),
            ("/layers/0/data", json!("YQ=="), "lies elsewhere"),
            ("/layers/0/annotations", json!({TITLE: "../../etc/passwd"}), "leaves its folder"),
            ("/layers/0/annotations", json!({TITLE: "/etc/passwd"}), "absolute"),
            ("/layers/0/annotations", json!({TITLE: "a\\b"}), "backslash"),
            ("/layers", json!([]), ""),
        ] {
            let mut bad = good.clone();
            let (parent, key) = pointer.rsplit_once('/').unwrap();
            bad.pointer_mut(parent).unwrap()[key] = value.clone();
            match read_oci_manifest(&serde_json::to_vec(&bad).unwrap()) {
                Err(error) => {
                    assert!(!part.is_empty() && error.to_string().contains(part), "{pointer} {value}: {error}")
                }
                Ok(_) => assert!(part.is_empty(), "{pointer} {value}"),
            }
        }
        let mut twice = good.clone();
        let mut other = good["layers"][0].clone();
        other["size"] = json!(7);
        twice["layers"].as_array_mut().unwrap().push(other);
        let error = read_oci_manifest(&serde_json::to_vec(&twice).unwrap()).unwrap_err();
        assert_eq!(error, OciError::Size { index: 1, size: 7, other: 1 });
        assert!(matches!(read_oci_manifest(b"{"), Err(OciError::Json(_))));
        assert!(matches!(read_oci_manifest(&vec![b' '; MAX_MANIFEST_BYTES + 1]), Err(OciError::TooLong(_))));
    }

    #[test]
    fn a_manifest_that_would_be_refused_is_not_written() {
        let error = oci_manifest(config(), vec![layer(b"a", WASM_TYPE, "../a")]).unwrap_err();
        assert!(matches!(error, OciError::Title { .. }), "{error}");
    }
}
