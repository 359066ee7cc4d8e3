//! The binary under test.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

/// The `minnow` binary. Built once for each run of the tests, into the folder that the tests themselves were built into;
/// `MINNOW_TEST_BIN` names one that is there already.
pub fn minnow() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| env::var_os("MINNOW_TEST_BIN").map_or_else(build, PathBuf::from))
}

/// The root of the repository.
pub fn repository() -> &'static Path {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    // Asked at run time: clones that share a target folder share this program, too.
    ROOT.get_or_init(|| {
        let tests = env::var("CARGO_MANIFEST_DIR").expect("cargo says where the tests lie");
        Path::new(&tests).parent().expect("the tests lie in the repository").to_owned()
    })
}

fn build() -> PathBuf {
    let tests = env::current_exe().expect("a running test has a path");
    // TARGET/PROFILE/deps/e2e-HASH
    let folder = tests.ancestors().nth(2).expect("cargo puts tests into TARGET/PROFILE/deps");
    let profile = match folder.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(profile) => profile,
    };
    let target = folder.parent().expect("a profile's folder lies in the target folder");
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(["build", "--quiet", "--package", "minnow", "--bin", "minnow", "--profile", profile, "--target-dir"]);
    command.arg(target).current_dir(repository());
    // Cargo describes the running test in these, and build scripts that look at them would run again.
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")) {
            command.env_remove(name);
        }
    }
    let status = command.status().expect("cargo runs");
    assert!(status.success(), "the binary under test cannot be built");
    folder.join("minnow")
}
