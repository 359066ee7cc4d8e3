//! A manifest is read, or its mistakes are told; nothing else happens.
#![no_main]

use libfuzzer_sys::fuzz_target;
use minnow_model::Manifest;

fuzz_target!(|text: &str| {
    if let Err(errors) = Manifest::parse(text, "minnow.toml") {
        assert!(!errors.lines().is_empty());
    }
});
