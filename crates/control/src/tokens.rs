//! Who may use the control API: bearer tokens, of which the node keeps only hashes.

use std::{fmt, fs, io, path::Path, sync::Arc};

use arc_swap::ArcSwap;
use minnow_model::Tenant;
use minnow_store::data_dir::{sync_parent, write_atomically};
use sha2::Digest as _;
use subtle::ConstantTimeEq as _;

use crate::{
    Clock, ControlError,
    registry::{Registry, TokenRow},
};

/// Tokens on one node. A request compares against each, so the bound also bounds that.
pub const MAX_TOKENS: usize = 1000;
/// The longest name of a token, in characters.
pub const MAX_NAME_CHARS: usize = 100;

/// A bearer token: `mnw_` and 64 hex digits (256 random bits). The prefix lets scanners find leaked ones.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub(crate) fn generate() -> Result<Self, ControlError> {
        let mut bytes = [0; 32];
        fill_random(&mut bytes)?;
        Ok(Self(format!("mnw_{}", hex::encode(bytes))))
    }

    /// Takes text that has the form of a token.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix("mnw_")?;
        (digits.len() == 64 && digits.bytes().all(|byte| byte.is_ascii_hexdigit())).then(|| Self(text.into()))
    }

    /// The token itself, to show it once.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    fn hash(&self) -> [u8; 32] {
        hash(&self.0)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("mnw_…")
    }
}

/// 256 random bits need no slow hash: there is nothing to guess.
fn hash(text: &str) -> [u8; 32] {
    sha2::Sha256::digest(text).into()
}

/// Random bytes from the system.
pub(crate) fn fill_random(bytes: &mut [u8]) -> Result<(), ControlError> {
    getrandom::fill(bytes).map_err(|error| {
        let source = io::Error::other(error.to_string());
        ControlError::Store(minnow_store::StoreError::Io { path: "random source".into(), source })
    })
}

/// Who sent a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    pub tenant: Tenant,
}

/// The tokens that are valid now, in memory, so that no request waits for the database.
pub struct Tokens {
    known: ArcSwap<Vec<TokenRow>>,
}

impl Tokens {
    pub(crate) async fn load(registry: &Registry) -> Result<Self, ControlError> {
        Ok(Self { known: ArcSwap::from_pointee(registry.tokens().await?) })
    }

    /// Makes a token valid that the registry took. The caller holds the lock for changes.
    pub(crate) fn add(&self, row: TokenRow) {
        let mut known = Vec::clone(&self.known.load());
        known.push(row);
        self.known.store(Arc::new(known));
    }

    /// Makes a token void that the registry deleted. It cannot fail, so that a deleted token never stays valid. The caller
    /// holds the lock for changes.
    pub(crate) fn remove(&self, id: &str) {
        let known = self.known.load();
        self.known.store(Arc::new(known.iter().filter(|row| row.id != id).cloned().collect()));
    }

    /// Whose token this is. Takes the same time whichever token is right, and whether one is.
    pub fn authenticate(&self, presented: &str) -> Option<Caller> {
        let hash = hash(presented);
        let mut found = None;
        for token in self.known.load().iter() {
            if bool::from(token.hash.ct_eq(&hash)) {
                found = Some(Caller { tenant: token.tenant.clone() });
            }
        }
        found
    }

    /// The tenant's tokens, oldest first.
    pub(crate) fn of(&self, tenant: &Tenant) -> Vec<TokenRow> {
        self.known.load().iter().filter(|token| token.tenant == *tenant).cloned().collect()
    }
}

/// A token's row, ready to be stored.
pub(crate) fn row(secret: &Secret, tenant: Tenant, name: String, clock: &Clock) -> Result<TokenRow, ControlError> {
    let mut id = [0; 8];
    fill_random(&mut id)?;
    Ok(TokenRow { id: hex::encode(id), tenant, name, hash: secret.hash(), created_ms: clock.now_ms() })
}

/// Makes sure that the operator of this machine has a token: a node without any writes a new one to `path` (mode 0600); one
/// that is in the file and unknown to the registry is added. Comes before [`Tokens::load`].
pub(crate) async fn ensure_admin_token(registry: &Registry, path: &Path, clock: &Clock) -> Result<(), AdminTokenError> {
    let io = |source| AdminTokenError::Io { path: path.display().to_string(), source };
    let known = registry.tokens().await?;
    let secret = match fs::read_to_string(path) {
        Ok(text) => {
            Secret::parse(text.trim()).ok_or_else(|| AdminTokenError::Form { path: path.display().to_string() })?
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if !known.is_empty() {
                return Ok(());
            }
            let secret = Secret::generate()?;
            // The file first: a crash between the two leaves a token that the next start adds.
            write_atomically(path, format!("{}\n", secret.reveal()).as_bytes(), 0o600).map_err(io)?;
            secret
        }
        Err(error) => return Err(io(error)),
    };
    if !known.iter().any(|token| token.hash == secret.hash()) {
        let row = row(&secret, Tenant::default(), "admin".into(), clock)?;
        registry.add_token(row, MAX_TOKENS).await?;
    }
    Ok(())
}

/// Takes the admin token's file away when it holds the token that is about to be deleted, since the next start would bring
/// the token back.
pub(crate) fn remove_admin_file(path: &Path, deleted: &TokenRow) -> io::Result<()> {
    match fs::read_to_string(path) {
        Ok(text) if hash(text.trim()) == deleted.hash => {
            fs::remove_file(path)?;
            // Without it a power failure could bring the file back, and with it the token, after the row's deletion was
            // made durable.
            sync_parent(path)
        }
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Why the admin token could not be made sure of.
#[derive(Debug, thiserror::Error)]
pub enum AdminTokenError {
    #[error("{path} does not hold a token; delete the file, or put a token back that starts with `mnw_`")]
    Form { path: String },
    #[error("{path}: {source}")]
    Io { path: String, source: io::Error },
    #[error(transparent)]
    Control(#[from] ControlError),
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    async fn authenticated(registry: &Registry, text: &str) -> bool {
        Tokens::load(registry).await.unwrap().authenticate(text).is_some()
    }

    #[tokio::test]
    async fn the_first_start_writes_a_token_that_works() {
        let temp = tempfile::tempdir().unwrap();
        let registry = Registry::open(&temp.path().join("a.db")).unwrap();
        let path = temp.path().join("admin.token");
        ensure_admin_token(&registry, &path, &Clock::System).await.unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let text = fs::read_to_string(&path).unwrap();
        assert!(authenticated(&registry, text.trim()).await);
        assert!(!authenticated(&registry, "mnw_").await);
        ensure_admin_token(&registry, &path, &Clock::System).await.unwrap();
        assert_eq!(registry.tokens().await.unwrap().len(), 1);
        fs::remove_file(&path).unwrap();
        ensure_admin_token(&registry, &path, &Clock::System).await.unwrap();
        assert!(!path.exists(), "a node that has tokens makes no new one");
    }

    #[tokio::test]
    async fn a_token_in_the_file_that_a_crash_kept_out_of_the_registry_is_added() {
        let temp = tempfile::tempdir().unwrap();
        let registry = Registry::open(&temp.path().join("a.db")).unwrap();
        let path = temp.path().join("admin.token");
        let secret = Secret::generate().unwrap();
        fs::write(&path, secret.reveal()).unwrap();
        ensure_admin_token(&registry, &path, &Clock::System).await.unwrap();
        assert!(authenticated(&registry, secret.reveal()).await);
        fs::write(&path, "hunter2").unwrap();
        let error = ensure_admin_token(&registry, &path, &Clock::System).await.unwrap_err();
        assert!(matches!(error, AdminTokenError::Form { .. }) && !error.to_string().contains("hunter2"));
    }

    #[tokio::test]
    async fn the_last_token_stays_and_a_deleted_one_is_void() {
        let temp = tempfile::tempdir().unwrap();
        let registry = Registry::open(&temp.path().join("a.db")).unwrap();
        let tenant = Tenant::default();
        let secrets = [Secret::generate().unwrap(), Secret::generate().unwrap()];
        let mut ids = Vec::new();
        for secret in &secrets {
            let row = row(secret, tenant.clone(), "ci".into(), &Clock::System).unwrap();
            ids.push(row.id.clone());
            registry.add_token(row, MAX_TOKENS).await.unwrap();
        }
        registry.delete_token(&tenant, ids[0].clone()).await.unwrap();
        assert!(!authenticated(&registry, secrets[0].reveal()).await);
        assert!(authenticated(&registry, secrets[1].reveal()).await);
        assert!(matches!(registry.delete_token(&tenant, ids[0].clone()).await, Err(ControlError::NoToken(_))));
        assert!(matches!(registry.delete_token(&tenant, ids[1].clone()).await, Err(ControlError::Conflict(_))));
    }

    #[test]
    fn a_token_does_not_show_in_debug_output() {
        let secret = Secret::generate().unwrap();
        assert_eq!(format!("{secret:?}"), "mnw_…");
        assert_eq!(Secret::parse(secret.reveal()), Some(secret));
        assert_eq!(Secret::parse("mnw_short"), None);
    }
}
