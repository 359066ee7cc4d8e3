//! What the node tells its control plane.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use minnow_model::{AppName, LimitCaps};

use crate::Clock;

/// Settings of the control plane, checked by the node that reads them.
#[derive(Debug, Clone)]
pub struct ControlConfig {
    /// The data listener's address, as it is bound.
    pub http: SocketAddr,
    /// Apps answer at `APP.DOMAIN`.
    pub domain: String,
    /// The app that answers hosts that name none.
    pub default_app: Option<AppName>,
    /// The most that a function may ask for.
    pub caps: LimitCaps,
    /// All layers of one bundle together, in bytes; also the largest blob. Default 128 MiB: several times a large
    /// componentized application with its pages, and small enough that a few of them fit on any disk.
    pub max_bundle_bytes: u64,
    /// One function's code, in bytes. Default 64 MiB: a language runtime with a large program is half of that, and the
    /// compiler's memory grows with it.
    pub max_wasm_bytes: u64,
    /// Where the keys of secrets are; `None` for a file in the data directory, which the node makes.
    pub secrets_key: Option<PathBuf>,
    /// How long the data of a deleted app is kept. Default a week: a mistake is noticed on the next working day.
    pub keep_deleted: Duration,
    /// Whether a version goes live whose functions lack secrets, or stores of other apps. The app's log says what is missing.
    /// For `minnow dev`; else such a deploy is refused. A function that lacks a secret answers `secret_missing` either way.
    pub lenient: bool,
    pub clock: Clock,
}

impl ControlConfig {
    /// The defaults for a node that listens at `http` and serves apps under `domain`.
    pub fn new(http: SocketAddr, domain: impl Into<String>) -> Self {
        Self {
            http,
            domain: domain.into(),
            default_app: None,
            caps: LimitCaps::default(),
            max_bundle_bytes: 128 << 20,
            max_wasm_bytes: 64 << 20,
            secrets_key: None,
            keep_deleted: Duration::from_secs(7 * 24 * 60 * 60),
            lenient: false,
            clock: Clock::System,
        }
    }

    /// The URL at which an app answers.
    pub fn url(&self, app: &AppName) -> String {
        match self.http.port() {
            80 => format!("http://{app}.{}", self.domain),
            port => format!("http://{app}.{}:{port}", self.domain),
        }
    }
}
