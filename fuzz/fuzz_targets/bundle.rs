//! A bundle's config and its OCI manifest come over the network: both are refused or checked.
#![no_main]

use libfuzzer_sys::fuzz_target;
use minnow_model::{BundleConfig, LimitCaps, bundle::read_oci_manifest};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(config) = serde_json::from_slice::<BundleConfig>(bytes)
        && config.check(&LimitCaps::default()).is_ok()
    {
        assert!(config.router().is_ok());
    }
    let _ = read_oci_manifest(bytes);
});
