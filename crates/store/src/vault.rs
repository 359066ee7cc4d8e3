//! Encrypts secrets before they are stored: XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha-03), with keys from a file.
//!
//! The file has a key a line, 64 hex digits, oldest first. The newest seals, and all of them open, so that a key is replaced
//! by adding one. What is sealed is bound to its place (the associated data): a row that is copied to another does not open.

use std::{
    fmt, fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{PoisonError, RwLock},
};

use chacha20poly1305::{
    KeyInit as _, XChaCha20Poly1305, XNonce,
    aead::{Aead as _, Payload},
};
use hkdf::Hkdf;
use minnow_model::digest::Digester;
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::data_dir::write_atomically;

/// Keys that a file may hold: one a month for eight years. Old ones can be taken out once nothing is sealed with them.
pub const MAX_KEYS: usize = 100;
/// The longest key file, in bytes: all keys, with a comment to each.
const MAX_FILE_BYTES: u64 = 64 << 10;
const KEY_BYTES: usize = 32;
/// Bytes of a key that is derived for signing: HMAC-SHA256 gains nothing from longer ones (RFC 2104 section 3).
pub const SIGNING_KEY_BYTES: usize = 32;
const NONCE_BYTES: usize = 24;
/// Modes that no key file may have: anybody may read or write it, or its group may write. Its group may read it, since
/// systemd's credentials show that mode (systemd.exec(5), LoadCredential).
const FORBIDDEN_MODES: u32 = 0o027;

/// Seals and opens, with the keys of one file.
pub struct Vault {
    file: PathBuf,
    /// Oldest first; never empty.
    keys: RwLock<Vec<Key>>,
}

/// What is kept of a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// Which key it was: 16 hex digits of the key's sha256.
    pub key_id: String,
    pub nonce: [u8; NONCE_BYTES],
    /// As long as the plain text and 16 bytes more.
    pub bytes: Vec<u8>,
}

/// Why a key file cannot be used, or something not sealed or opened.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    #[error("there is no key file {}", path.display())]
    Missing { path: PathBuf },
    #[error("the key file {} can be used by others (mode {mode:03o}); run `chmod 600 {}`", path.display(), path.display())]
    Open { path: PathBuf, mode: u32 },
    #[error("{}:{line}: a key is 64 hex digits; `openssl rand -hex 32` makes one", path.display())]
    Line { path: PathBuf, line: usize },
    #[error("the key file {} holds no key; `openssl rand -hex 32` makes one", path.display())]
    Empty { path: PathBuf },
    #[error("the key file {} is too long; it holds at most {MAX_KEYS} keys, and {MAX_FILE_BYTES} bytes", path.display())]
    TooLong { path: PathBuf },
    #[error("the key file {}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("it is sealed with the key {key_id}, which the key file does not hold")]
    UnknownKey { key_id: String },
    #[error("it is damaged, or belongs somewhere else")]
    Damaged,
    #[error("the system gives no random numbers: {0}")]
    Random(#[from] getrandom::Error),
}

/// A key for signing, wiped from memory when it is dropped.
pub type SigningKey = Zeroizing<[u8; SIGNING_KEY_BYTES]>;

struct Key {
    id: String,
    cipher: XChaCha20Poly1305,
    /// Made from the key, so that keys for signing can be derived without keeping the key itself (HKDF-Extract, RFC 5869).
    derive: Hkdf<Sha256>,
}

impl Key {
    fn new(secret: &[u8; KEY_BYTES]) -> Self {
        // Names the key and tells nothing of it: with random keys, sha256 cannot be undone by guessing.
        let mut digester = Digester::default();
        digester.update(b"minnow key id");
        digester.update(secret);
        let id = digester.finish().hex().chars().take(16).collect();
        Self { id, cipher: XChaCha20Poly1305::new(&(*secret).into()), derive: Hkdf::new(None, secret) }
    }

    fn signing(&self, purpose: &str) -> Option<SigningKey> {
        let mut key = Zeroizing::new([0; SIGNING_KEY_BYTES]);
        self.derive.expand(purpose.as_bytes(), key.as_mut_slice()).ok()?;
        Some(key)
    }

    fn parse(line: &str) -> Option<Self> {
        let mut secret = Zeroizing::new([0; KEY_BYTES]);
        hex::decode_to_slice(line, secret.as_mut_slice()).ok()?;
        Some(Self::new(&secret))
    }
}

impl Vault {
    /// Reads the keys in `file`. Blocking.
    pub fn load(file: &Path) -> Result<Self, VaultError> {
        let (keys, _) = read(file)?;
        Ok(Self { file: file.to_owned(), keys: RwLock::new(keys) })
    }

    /// Makes `file` with a new key, for the node's user alone. It must not be there. Blocking.
    pub fn create(file: &Path) -> Result<Self, VaultError> {
        let at = |source| VaultError::Io { path: file.to_owned(), source };
        // The lock of the data directory keeps others from making it in the same moment.
        if file.exists() {
            return Err(at(io::ErrorKind::AlreadyExists.into()));
        }
        let (line, key) = new_key()?;
        write_atomically(file, line.as_bytes(), 0o600).map_err(at)?;
        Ok(Self { file: file.to_owned(), keys: RwLock::new(vec![key]) })
    }

    /// Seals `plain` with the newest key. It opens only with the same `ad`, which says where it belongs.
    pub fn seal(&self, ad: &str, plain: &[u8]) -> Result<Sealed, VaultError> {
        let mut nonce = [0; NONCE_BYTES];
        // 192 random bits: no two are the same, whatever is sealed.
        getrandom::fill(&mut nonce)?;
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        let key = keys.last().ok_or_else(|| VaultError::Empty { path: self.file.clone() })?;
        let payload = Payload { msg: plain, aad: ad.as_bytes() };
        let bytes = key.cipher.encrypt(&XNonce::from(nonce), payload).map_err(|_| VaultError::Damaged)?;
        Ok(Sealed { key_id: key.id.clone(), nonce, bytes })
    }

    /// What was sealed. It is wiped from memory when it is dropped.
    pub fn open(&self, ad: &str, sealed: &Sealed) -> Result<Zeroizing<Vec<u8>>, VaultError> {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        let key = keys.iter().find(|key| key.id == sealed.key_id);
        let key = key.ok_or_else(|| VaultError::UnknownKey { key_id: sealed.key_id.clone() })?;
        let payload = Payload { msg: &sealed.bytes, aad: ad.as_bytes() };
        let plain = key.cipher.decrypt(&XNonce::from(sealed.nonce), payload).map_err(|_| VaultError::Damaged)?;
        Ok(Zeroizing::new(plain))
    }

    /// A key for signing of each key in the file, the newest first (HKDF-SHA256, RFC 5869). Those of another purpose tell
    /// nothing of them, nor do they of what is sealed.
    pub fn signing_keys(&self, purpose: &str) -> Vec<SigningKey> {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        // Expanding fails only for more than 255 blocks of 32 bytes.
        keys.iter().rev().filter_map(|key| key.signing(purpose)).collect()
    }

    /// The id of the key that seals now.
    pub fn newest(&self) -> String {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        keys.last().map(|key| key.id.clone()).unwrap_or_default()
    }

    /// Adds a new key to the file, which seals from now on; answers its id. Keys that were added by hand are read too. Blocking.
    pub fn rotate(&self) -> Result<String, VaultError> {
        let (mut keys, mut text) = read(&self.file)?;
        if keys.len() >= MAX_KEYS {
            return Err(VaultError::TooLong { path: self.file.clone() });
        }
        let (line, key) = new_key()?;
        if !text.ends_with('\n') {
            text.push('\n');
        }
        text.push_str(&line);
        write_atomically(&self.file, text.as_bytes(), 0o600)
            .map_err(|source| VaultError::Io { path: self.file.clone(), source })?;
        let id = key.id.clone();
        keys.push(key);
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
        Ok(id)
    }
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vault").field("file", &self.file).finish_non_exhaustive()
    }
}

/// A new key, and its line in the file.
fn new_key() -> Result<(Zeroizing<String>, Key), VaultError> {
    let mut secret = Zeroizing::new([0; KEY_BYTES]);
    getrandom::fill(secret.as_mut_slice())?;
    let mut line = Zeroizing::new(hex::encode(secret.as_slice()));
    line.push('\n');
    Ok((line, Key::new(&secret)))
}

/// The keys of a file, and its text.
fn read(file: &Path) -> Result<(Vec<Key>, Zeroizing<String>), VaultError> {
    let path = || file.to_owned();
    let metadata = match fs::metadata(file) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(VaultError::Missing { path: path() }),
        Err(source) => return Err(VaultError::Io { path: path(), source }),
    };
    if metadata.mode() & FORBIDDEN_MODES != 0 {
        return Err(VaultError::Open { path: path(), mode: metadata.mode() & 0o777 });
    }
    if metadata.len() > MAX_FILE_BYTES {
        return Err(VaultError::TooLong { path: path() });
    }
    let text = fs::read_to_string(file).map_err(|source| VaultError::Io { path: path(), source })?;
    let text = Zeroizing::new(text);
    let mut keys = Vec::new();
    for (index, line) in text.lines().map(str::trim).enumerate() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        keys.push(Key::parse(line).ok_or_else(|| VaultError::Line { path: path(), line: index + 1 })?);
    }
    match keys.len() {
        0 => Err(VaultError::Empty { path: path() }),
        1..=MAX_KEYS => Ok((keys, text)),
        _ => Err(VaultError::TooLong { path: path() }),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const AD: &str = "default/shop/STRIPE_KEY";

    fn vault() -> (tempfile::TempDir, PathBuf, Vault) {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("secrets.key");
        let vault = Vault::create(&path).unwrap();
        (temp, path, vault)
    }

    #[test]
    fn what_is_sealed_opens_at_its_place_and_nowhere_else() {
        let (_temp, path, vault) = vault();
        let sealed = vault.seal(AD, b"sk_live_1").unwrap();
        assert!(!sealed.bytes.windows(4).any(|piece| piece == b"sk_l"));
        assert_eq!(vault.open(AD, &sealed).unwrap().as_slice(), b"sk_live_1");
        assert!(matches!(vault.open("default/other/STRIPE_KEY", &sealed), Err(VaultError::Damaged)));
        let other = vault.seal(AD, b"sk_live_1").unwrap();
        assert!(sealed.nonce != other.nonce && sealed.bytes != other.bytes);
        assert_eq!(vault.seal(AD, b"").unwrap().bytes.len(), 16);
        let again = Vault::load(&path).unwrap();
        assert_eq!(again.open(AD, &sealed).unwrap().as_slice(), b"sk_live_1");
    }

    #[test]
    fn a_bit_that_changed_is_noticed() {
        let (_temp, _, vault) = vault();
        let sealed = vault.seal(AD, b"sk_live_1").unwrap();
        for index in 0..sealed.bytes.len() {
            let mut broken = sealed.clone();
            broken.bytes[index] ^= 1;
            assert!(matches!(vault.open(AD, &broken), Err(VaultError::Damaged)), "{index}");
        }
        let mut broken = sealed;
        broken.nonce[23] ^= 1;
        assert!(matches!(vault.open(AD, &broken), Err(VaultError::Damaged)));
        broken.bytes.clear();
        assert!(matches!(vault.open(AD, &broken), Err(VaultError::Damaged)));
    }

    /// The vectors of draft-irtf-cfrg-xchacha-03, A.3.1: whatever a secret is opened with one day, it is this cipher.
    #[test]
    fn the_cipher_is_xchacha20_poly1305() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("secrets.key");
        let key: String = (0x80..=0x9f).map(|byte| format!("{byte:02x}")).collect();
        fs::write(&path, key).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let vault = Vault::load(&path).unwrap();
        let plain = "Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, sunscreen would be it.";
        let nonce: Vec<u8> = (0x40..=0x57).collect();
        let ad = [0x50, 0x51, 0x52, 0x53, 0xc0, 0xc1, 0xc2, 0xc3, 0xc4, 0xc5, 0xc6, 0xc7];
        let keys = vault.keys.read().unwrap();
        let nonce = XNonce::try_from(nonce.as_slice()).unwrap();
        let bytes = keys[0].cipher.encrypt(&nonce, Payload { msg: plain.as_bytes(), aad: &ad }).unwrap();
        assert_eq!(hex::encode(&bytes[..16]), "bd6d179d3e83d43b9576579493c0e939");
        assert_eq!(hex::encode(&bytes[bytes.len() - 16..]), "c0875924c1c7987947deafd8780acf49");
    }

    #[test]
    fn after_a_rotation_the_newest_key_seals_and_all_open() {
        let (_temp, path, vault) = vault();
        let old = vault.seal(AD, b"one").unwrap();
        fs::write(&path, format!("# the first\n{}# end", fs::read_to_string(&path).unwrap())).unwrap();
        let id = vault.rotate().unwrap();
        assert_eq!(vault.newest(), id);
        let new = vault.seal(AD, b"two").unwrap();
        assert!(new.key_id == id && old.key_id != id);
        for vault in [&vault, &Vault::load(&path).unwrap()] {
            assert_eq!(vault.open(AD, &old).unwrap().as_slice(), b"one");
            assert_eq!(vault.open(AD, &new).unwrap().as_slice(), b"two");
        }
        assert!(fs::read_to_string(&path).unwrap().starts_with("# the first\n"));
        // The old key is taken out.
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.lines().last().unwrap()).unwrap();
        let Err(error) = Vault::load(&path).unwrap().open(AD, &old) else { panic!("opened") };
        assert!(error.to_string().contains(&old.key_id), "{error}");
        for _ in 1..MAX_KEYS {
            vault.rotate().unwrap();
        }
        assert!(matches!(vault.rotate(), Err(VaultError::TooLong { .. })));
    }

    #[test]
    fn keys_for_signing_are_of_their_purpose_and_outlive_a_rotation() {
        let (_temp, path, vault) = vault();
        let first = vault.signing_keys("urls");
        assert_eq!(first.len(), 1);
        assert_ne!(first, vault.signing_keys("other"));
        vault.rotate().unwrap();
        let both = vault.signing_keys("urls");
        assert_eq!((both.len(), &both[1]), (2, &first[0]), "the newest comes first");
        assert_ne!(both[0], both[1]);
        assert_eq!(Vault::load(&path).unwrap().signing_keys("urls"), both);
        let text = fs::read_to_string(&path).unwrap();
        assert!(both.iter().all(|key| !text.contains(&hex::encode(key.as_slice()))));
    }

    #[test]
    fn a_key_file_is_private_and_never_replaced() {
        let (_temp, path, _) = vault();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let before = fs::read(&path).unwrap();
        assert!(Vault::create(&path).is_err());
        assert_eq!(fs::read(&path).unwrap(), before);
        for (mode, good) in
            [(0o600, true), (0o400, true), (0o440, true), (0o644, false), (0o660, false), (0o604, false)]
        {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(Vault::load(&path).is_ok(), good, "{mode:o}");
        }
    }

    #[test]
    fn mistakes_in_a_key_file_are_told_with_their_line_and_without_the_key() {
        let (_temp, path, _) = vault();
        let good = "ab".repeat(32);
        for (text, expected) in [
            (String::new(), "holds no key"),
            ("# nothing\n\n".into(), "holds no key"),
            (format!("{good}\n\n{}", "ab".repeat(31)), "secrets.key:3: a key is 64 hex digits"),
            (format!("{good}\nx{good}"), "secrets.key:2: a key is 64 hex digits"),
            (format!("{good}\n").repeat(101), "at most 100 keys"),
            (format!("{}{good}", "#\n".repeat(40_000)), "at most 100 keys"),
        ] {
            fs::write(&path, &text).unwrap();
            let Err(error) = Vault::load(&path) else { panic!("{text}") };
            let error = error.to_string();
            assert!(error.contains(expected) && !error.contains("abab"), "{error}");
        }
        fs::remove_file(&path).unwrap();
        assert!(matches!(Vault::load(&path), Err(VaultError::Missing { .. })));
        assert!(!format!("{:?}", vault().2).contains("cipher"));
    }
}
