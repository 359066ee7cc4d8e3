//! `minnow.toml`: what a developer writes about an app.
//!
//! Read `manifest/keys.rs` for every key (the reference page comes from it), `manifest/parse.rs` for how a key becomes a
//! checked value (`manifest/stores.rs` for stores and grants, `manifest/events.rs` for topics and schedules), `manifest/mistake.rs` for how mistakes are told.

mod events;
mod keys;
mod mistake;
mod parse;
mod places;
mod read;
mod stores;
#[cfg(test)]
mod tests;
mod webhooks;

use std::collections::BTreeMap;

use semver::Version;
use serde::{Deserialize, Serialize};

use crate::{
    AppName, BlobStore, EgressRule, FilesStore, FunctionName, Grants, KvStore, Limits, RoutePattern, Schedule,
    SqlStore, StoreName, Subscription, Topic, event::Async,
};

pub use keys::{KeyDoc, TableDoc, reference, reference_markdown};
pub use mistake::{MAX_MISTAKES, ManifestErrors, Mistake};
pub use places::{Parsed, Place};

/// The name of the file.
pub const FILE_NAME: &str = "minnow.toml";

/// The longest manifest, in bytes: what 1000 functions need with their routes, and quick to check.
pub const MAX_BYTES: usize = 1024 * 1024;
/// The most functions of one app.
pub const MAX_FUNCTIONS: usize = 1000;
/// The most routes of one function.
pub const MAX_ROUTES: usize = 100;
/// The most routes of one app. A lookup that has to step back looks at no more places than there are, so that even routes
/// made to be slow cost about a millisecond (12 ms measured in an unoptimised build).
pub const MAX_APP_ROUTES: usize = 10_000;
/// The most egress rules of one function: each outbound request looks at them in turn.
pub const MAX_EGRESS: usize = 100;
/// The most globs of one function.
pub const MAX_WATCH: usize = 100;
/// The most static folders of one app.
pub const MAX_STATIC: usize = 100;
/// The most environment variables of one function.
pub const MAX_ENV: usize = 256;
/// All names and values of one function's environment together, in bytes. Lambda allows 4 KiB; this also holds a
/// certificate chain, and is small beside a sandbox.
pub const MAX_ENV_BYTES: usize = 64 * 1024;
/// The most stores of one kind of one app. Each is a file of its own once something is written to it.
pub const MAX_STORES: usize = 100;
/// The most apps that one store is shared with.
pub const MAX_SHARES: usize = 100;
/// The most origins whose pages may use the signed URLs of a bucket.
pub const MAX_ORIGINS: usize = 100;
/// The most grants of one function, of all kinds together. JavaScript makes an object of each when a process starts.
pub const MAX_GRANTS: usize = 100;
/// The longest version text, in bytes: what an OCI tag can hold.
pub const MAX_VERSION_BYTES: usize = 128;
/// The longest build command, in bytes.
pub const MAX_BUILD_BYTES: usize = 8 * 1024;

/// A checked manifest: it parsed, every value is valid, and no routes clash.
#[derive(Debug, Clone, PartialEq)]
pub struct Manifest {
    pub name: AppName,
    /// The default for `publish`.
    pub version: Option<Version>,
    pub functions: BTreeMap<FunctionName, Function>,
    /// URL prefix (starts with `/`) → folder relative to the manifest.
    pub static_dirs: BTreeMap<String, String>,
    pub sticky: Option<Sticky>,
    pub kv: BTreeMap<StoreName, KvStore>,
    pub sql: BTreeMap<StoreName, SqlStore>,
    pub blob: BTreeMap<StoreName, BlobStore>,
    /// `[files.NAME]`.
    pub volumes: BTreeMap<StoreName, FilesStore>,
    /// Whether the app has locks: `[lock]` is there.
    pub locks: bool,
    /// `[topic.NAME]`.
    pub topics: BTreeMap<StoreName, Topic>,
}

/// One `[functions.NAME]` table.
#[derive(Debug, Clone, PartialEq)]
pub struct Function {
    pub code: Code,
    /// A shell command that makes the code; run in the manifest's folder by build, dev and publish.
    pub build: Option<String>,
    /// Globs, relative to the manifest: `dev` rebuilds when a matching file changes.
    pub watch: Vec<String>,
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
    /// `async`: what happens to its asynchronous invokes.
    pub asynchronous: Option<Async>,
}

/// A function's code: a file, relative to the manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Code {
    /// A component or core module.
    Wasm(String),
    /// JavaScript or TypeScript: the module that a bundle begins with. Its name ends with one of [`JS_ENDINGS`].
    Js(String),
}

impl Code {
    pub fn path(&self) -> &str {
        match self {
            Self::Wasm(path) | Self::Js(path) => path,
        }
    }

    /// The key that names it.
    pub fn key(&self) -> &'static str {
        match self {
            Self::Wasm(_) => "wasm",
            Self::Js(_) => "js",
        }
    }

    pub fn is_js(&self) -> bool {
        matches!(self, Self::Js(_))
    }
}

/// How the name of a JavaScript or TypeScript file ends. CommonJS (`.cjs`, `.cts`) can be imported, but has no `export
/// default` to begin with.
pub const JS_ENDINGS: [&str; 6] = [".js", ".mjs", ".ts", ".mts", ".jsx", ".tsx"];

/// Whether an instance serves one request or several.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Instances {
    /// A new instance for each request: nothing is shared between requests. The default, since it is the safe one.
    #[default]
    Fresh,
    /// Instances stay warm and serve a bounded number of requests; static state is shared between them.
    Reuse,
}

/// What names a client, so that it stays on one version while two are live.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sticky {
    Cookie(String),
    /// Lower case.
    Header(String),
}

/// The environment of a function: why a name or value cannot be used; `None` when it can.
pub(crate) fn env_mistake(name: &str, value: &str) -> Option<&'static str> {
    if name.is_empty() {
        Some("an environment variable needs a name")
    } else if name.contains(['=', '\0']) {
        Some("the name of an environment variable cannot hold `=` or NUL")
    } else if value.contains('\0') {
        Some("the value of an environment variable cannot hold NUL")
    } else {
        None
    }
}

/// Whether `text` is a token of RFC 9110: what cookies and headers are called.
pub(crate) fn is_token(text: &str) -> bool {
    let special = b"!#$%&'*+-.^_`|~";
    (1..=256).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || special.contains(&b))
}
