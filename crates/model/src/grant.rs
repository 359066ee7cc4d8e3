//! The stores of an app, and what a function is granted of them.
//!
//! A *store* is declared by the app's manifest and belongs to the app. A *grant* gives one function a store, perhaps only for
//! reading. Another app's store takes a *share* too: that app has to name this one.

use std::{borrow::Borrow, collections::BTreeMap, fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{
    AppName, Origin, StoreName, Tenant,
    bundle::is_false,
    name::{NameError, remedy_for_name},
};

/// The longest name of a variable, in bytes: long for a name, and short beside a value.
pub const MAX_VARIABLE_BYTES: usize = 128;

/// What a grant of a store ends with when it is only for reading.
const READ_ONLY: &str = ":ro";

/// The variable under which JavaScript finds the app's locks.
pub const LOCKS_VARIABLE: &str = "LOCKS";

/// The kinds of stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum StoreKind {
    /// Values under keys.
    Kv,
    /// A SQLite database.
    Sql,
    /// A bucket of blobs.
    Blob,
    /// A volume of files.
    Files,
    /// A topic of messages.
    Topic,
}

impl StoreKind {
    /// All of them, in the order in which they are listed.
    pub const ALL: [Self; 5] = [Self::Kv, Self::Sql, Self::Blob, Self::Files, Self::Topic];

    /// The key of the manifest: `kv`, `sql`, `blob`, `files`, `topic`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kv => "kv",
            Self::Sql => "sql",
            Self::Blob => "blob",
            Self::Files => "files",
            Self::Topic => "topic",
        }
    }

    /// The key of a function's grants: `publish` for topics, since a function that follows one needs no grant.
    pub fn grant_key(self) -> &'static str {
        match self {
            Self::Topic => "publish",
            kind => kind.as_str(),
        }
    }

    /// What a sentence calls one: `kv store`, `topic`.
    pub fn noun(self) -> &'static str {
        match self {
            Self::Kv => "kv store",
            Self::Sql => "sql store",
            Self::Blob => "blob store",
            Self::Files => "files store",
            Self::Topic => "topic",
        }
    }
}

impl fmt::Display for StoreKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One store of a node, among those of its kind.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StoreId {
    pub tenant: Tenant,
    pub app: AppName,
    pub name: StoreName,
}

/// The name of a secret or of a configuration variable: 1–128 of `A-Z`, `0-9` and `_`, no digit first. POSIX keeps such
/// names for environment variables.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct VariableName(Arc<str>);

/// Why the name of a variable was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VariableNameError {
    #[error("a variable needs a name")]
    Empty,
    #[error("the name of a variable has {0} characters, the most is {MAX_VARIABLE_BYTES}")]
    TooLong(usize),
    #[error("the variable `{0}` starts with a digit")]
    Digit(String),
    #[error("the variable `{0}` contains `{1}`; use only A-Z, 0-9 and `_`")]
    Character(String, char),
}

impl VariableName {
    /// Checks and takes the name.
    pub fn new(text: impl AsRef<str>) -> Result<Self, VariableNameError> {
        let text = text.as_ref();
        if text.is_empty() {
            return Err(VariableNameError::Empty);
        }
        if text.len() > MAX_VARIABLE_BYTES {
            return Err(VariableNameError::TooLong(text.chars().count()));
        }
        if let Some(bad) = text.chars().find(|c| !matches!(c, 'A'..='Z' | '0'..='9' | '_')) {
            let shown = text.escape_debug().to_string();
            return Err(VariableNameError::Character(shown, bad));
        }
        if text.starts_with(|c: char| c.is_ascii_digit()) {
            return Err(VariableNameError::Digit(text.into()));
        }
        Ok(Self(text.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for VariableName {
    type Err = VariableNameError;
    fn from_str(text: &str) -> Result<Self, VariableNameError> {
        Self::new(text)
    }
}

impl fmt::Display for VariableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Borrow<str> for VariableName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for VariableName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        Self::new(&*text).map_err(serde::de::Error::custom)
    }
}

/// How to mend the name of a variable: the nearest one that would do.
pub(crate) fn remedy_for_variable(text: &str) -> String {
    let upper = text.trim().to_uppercase();
    let mended: String = upper.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    let mended = mended.trim_start_matches(|c: char| c.is_ascii_digit());
    match VariableName::new(mended) {
        Ok(name) if name.as_str().contains(|c: char| c != '_') => format!("write for example `{name}`"),
        _ => "write for example `STRIPE_KEY`".into(),
    }
}

/// One store that a function is granted: `[APP/]STORE[:ro]`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StoreGrant {
    /// The other app to which the store belongs; `None` for the function's own.
    pub app: Option<AppName>,
    pub store: StoreName,
    pub read_only: bool,
}

/// Why a grant was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}; {remedy}")]
pub struct GrantError {
    /// What is wrong.
    pub reason: String,
    /// How to mend it.
    pub remedy: String,
}

impl StoreGrant {
    /// The variable under which JavaScript finds the store: its name in upper case, with `_` for `-`. Another app's store has
    /// the app's name before it, since two apps may each share a store of one name: `order-log` is `ORDER_LOG`, `shop/main`
    /// is `SHOP_MAIN`.
    pub fn variable(&self) -> String {
        self.name().to_ascii_uppercase().replace(['-', '/'], "_")
    }

    /// How a sentence names it.
    pub(crate) fn called(&self, kind: StoreKind) -> String {
        format!("the {} `{}`", kind.noun(), self.name())
    }

    /// What the function calls the store: `STORE`, or `APP/STORE` for another app's.
    pub fn name(&self) -> String {
        match &self.app {
            None => self.store.to_string(),
            Some(app) => format!("{app}/{}", self.store),
        }
    }
}

impl FromStr for StoreGrant {
    type Err = GrantError;

    fn from_str(text: &str) -> Result<Self, GrantError> {
        let label = |error: NameError, text: &str| GrantError {
            reason: format!("not the name of a store: {error}"),
            remedy: remedy_for_name(text),
        };
        let (path, read_only) = match text.strip_suffix(READ_ONLY) {
            Some(path) => (path, true),
            None => (text, false),
        };
        if let Some((name, ending)) = path.split_once(':') {
            let (name, ending) = (name.escape_debug(), ending.escape_debug());
            let reason = format!("`:{ending}` is no way to grant a store");
            let remedy = format!("write `{name}` for reading and writing, or `{name}{READ_ONLY}` for reading");
            return Err(GrantError { reason, remedy });
        }
        let (app, store) = match path.split_once('/') {
            Some((app, store)) => (Some(app.parse().map_err(|error| label(error, app))?), store),
            None => (None, path),
        };
        if store.contains('/') {
            let reason = format!("`{}` has more than one `/`", path.escape_debug());
            return Err(GrantError { reason, remedy: "write `STORE`, or `APP/STORE` for another app's".into() });
        }
        let store = store.parse().map_err(|error| label(error, store))?;
        Ok(Self { app, store, read_only })
    }
}

impl fmt::Display for StoreGrant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(app) = &self.app {
            write!(f, "{app}/")?;
        }
        write!(f, "{}{}", self.store, if self.read_only { READ_ONLY } else { "" })
    }
}

impl Serialize for StoreGrant {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for StoreGrant {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Everything that a function is granted. What is empty is left out where it is written, so that a function without grants
/// is written as before there were any.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grants {
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub kv: Vec<StoreGrant>,
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub sql: Vec<StoreGrant>,
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub blob: Vec<StoreGrant>,
    /// Volumes, each with the folder under which the function finds it.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub files: Vec<Mount>,
    /// The app's locks.
    #[serde(skip_serializing_if = "is_false", default)]
    pub locks: bool,
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub secrets: Vec<VariableName>,
    /// The topics of its own app that the function may publish to, neither of which is only for reading.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub publish: Vec<StoreGrant>,
}

impl Grants {
    pub fn is_empty(&self) -> bool {
        self.count() == 0
    }

    /// How many things are granted.
    pub fn count(&self) -> usize {
        let stores = self.kv.len() + self.sql.len() + self.blob.len() + self.files.len() + self.publish.len();
        stores + usize::from(self.locks) + self.secrets.len()
    }

    /// The stores of one kind.
    pub fn stores(&self, kind: StoreKind) -> impl Iterator<Item = &StoreGrant> {
        let (grants, mounts): (&[StoreGrant], &[Mount]) = match kind {
            StoreKind::Kv => (&self.kv, &[]),
            StoreKind::Sql => (&self.sql, &[]),
            StoreKind::Blob => (&self.blob, &[]),
            StoreKind::Files => (&[], &self.files),
            StoreKind::Topic => (&self.publish, &[]),
        };
        grants.iter().chain(mounts.iter().map(|mount| &mount.volume))
    }

    /// Where the function finds a volume; `None` for one that it is not granted.
    pub fn mount(&self, volume: &StoreGrant) -> Option<&MountPath> {
        self.files.iter().find(|mount| mount.volume == *volume).map(|mount| &mount.path)
    }
}

/// A volume that a function is granted, and where it finds it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mount {
    pub volume: StoreGrant,
    pub path: MountPath,
}

/// The longest path of a mount, in bytes.
pub const MAX_MOUNT_BYTES: usize = 255;

/// The folder under which a function finds a volume: an absolute path without `.`, `..` or empty parts, neither `/` nor `/run`, and not
/// in `/tmp` or `/run/minnow`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct MountPath(Arc<str>);

impl MountPath {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether one of the two is in the other, or is the other.
    pub fn overlaps(&self, other: &Self) -> bool {
        let is_in = |inner: &str, outer: &str| {
            inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        is_in(&self.0, &other.0) || is_in(&other.0, &self.0)
    }
}

impl FromStr for MountPath {
    type Err = GrantError;

    fn from_str(text: &str) -> Result<Self, GrantError> {
        let refuse = |reason: &str| GrantError {
            reason: format!("`{}` is no folder for a volume: {reason}", text.escape_debug()),
            remedy: "write an absolute path such as `/data`".into(),
        };
        if text.len() > MAX_MOUNT_BYTES {
            return Err(GrantError {
                reason: format!("the folder of a volume has {} bytes, the most is {MAX_MOUNT_BYTES}", text.len()),
                remedy: "write a shorter path such as `/data`".into(),
            });
        }
        let Some(parts) = text.strip_prefix('/') else { return Err(refuse("it does not begin with `/`")) };
        if parts.is_empty() {
            return Err(refuse("it is the root"));
        }
        if text.chars().any(char::is_control) {
            return Err(refuse("it has a control character"));
        }
        if parts.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(refuse("a part of it is empty, `.` or `..`"));
        }
        if parts.split('/').next() == Some("tmp") {
            return Err(refuse("`/tmp` is the sandbox's own"));
        }
        if parts == "run" || parts == "run/minnow" || parts.starts_with("run/minnow/") {
            return Err(refuse("`/run/minnow` is where functions reach the data services"));
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for MountPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for MountPath {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Why a function cannot be granted to publish so; `None` when it can. A topic is its app's own, so that what is in it can be
/// trusted as far as the app can; and nothing is read through the grant.
pub(crate) fn publish_mistake(grant: &StoreGrant) -> Option<String> {
    let StoreGrant { app, store, read_only } = grant;
    match app {
        Some(app) => {
            Some(format!("`{grant}` is a topic of `{app}`; a function publishes to topics of its own app only"))
        }
        None => read_only.then(|| format!("`{grant}` is for reading, and a function publishes to `{store}`")),
    }
}

/// The variables that a function would find twice, each with the first and the second thing of that name. In JavaScript
/// everything that is granted stands in one `env`, under names in upper case. Two variables of the manifest's own `env` are no
/// clash, whatever their case.
pub(crate) fn clashes<T: Clone>(
    env: impl IntoIterator<Item = (String, T)>,
    granted: impl IntoIterator<Item = (String, T)>,
) -> Vec<(String, T, T)> {
    let upper = |(name, thing): (String, T)| (name.to_uppercase().replace('-', "_"), thing);
    let mut known: BTreeMap<String, T> = env.into_iter().map(upper).collect();
    let mut clashes = Vec::new();
    for (variable, thing) in granted {
        match known.get(&variable) {
            Some(first) => clashes.push((variable, first.clone(), thing)),
            None => drop(known.insert(variable, thing)),
        }
    }
    clashes
}

/// One key-value store of an app.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KvStore {
    /// The apps whose functions may be granted it.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub share: Vec<AppName>,
}

/// The bytes of a bucket, unless its manifest says otherwise.
pub const DEFAULT_BLOB_BYTES: u64 = 10 << 30;
/// The bytes of a volume, unless its manifest says otherwise.
pub const DEFAULT_FILES_BYTES: u64 = 1 << 30;
/// The least and the most bytes that a manifest can give a bucket or a volume.
pub const STORE_BYTES: std::ops::RangeInclusive<u64> = 1 << 20..=1 << 40;

/// One bucket of blobs of an app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlobStore {
    /// The apps whose functions may be granted it.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub share: Vec<AppName>,
    /// The origins whose pages may use its signed URLs, beside those of the app itself.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub cors: Vec<Origin>,
    /// The most that its blobs take together.
    pub size_bytes: u64,
}

/// One volume of files of an app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FilesStore {
    /// The apps whose functions may be granted it.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub share: Vec<AppName>,
    /// The most that its files take together.
    pub size_bytes: u64,
}

/// One SQL store of an app, as the manifest declares it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SqlStore {
    /// The apps whose functions may be granted it.
    pub share: Vec<AppName>,
    /// The folder of its migrations, relative to the manifest.
    pub migrations: Option<String>,
}
