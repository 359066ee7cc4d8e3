//! Signed URLs: whoever holds one may read or write one blob, until it expires.
//!
//! A URL is a path on the host of the app that owns the bucket: `/.minnow/blob/BUCKET/KEY?expires=SECONDS&signature=…`. What
//! is signed is not the URL's text but what it means: tenant, app, bucket, key, method, expiry, and for uploads the largest
//! size and the content type. So it does not matter how a client writes the key (`%2F` or `/`), and a parameter that is
//! changed, added or left out makes another meaning.
//!
//! HMAC-SHA256 (RFC 2104), with keys that are derived from those of the vault for this purpose alone.

use std::{borrow::Cow, fmt, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use hmac::{Hmac, KeyInit as _, Mac as _};
use minnow_model::{AppName, StoreId, StoreName, Tenant};
use minnow_store::{SigningKey, Vault, bucket::MAX_KEY_BYTES, kv::Clock};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use sha2::Sha256;

/// What the path of every signed URL begins with. The bucket and the key follow.
pub const PREFIX: &str = "/.minnow/blob/";

/// How long a URL is good at most: what S3 allows for its own.
pub const MAX_EXPIRY: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// The longest content type that a URL can ask for, in bytes: the longest in the registry of IANA has 101, and a charset or a
/// boundary of 70 comes with it (RFC 2046 section 5.1.1).
pub const MAX_CONTENT_TYPE_BYTES: usize = 255;

/// The longest query that is looked at, in bytes. One with everything in it, each byte of the content type escaped, has less
/// than 1 KiB.
const MAX_QUERY_BYTES: usize = 2048;

/// Of which purpose the keys are. Another number makes all URLs void that were given out.
const PURPOSE: &str = "minnow signed urls of blobs, 1";

/// The bytes of a signature.
const SIGNATURE_BYTES: usize = 32;

/// Characters of a key that stand in a URL as they are: those that RFC 3986 section 2.3 never wants escaped.
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// The same for a key whose `/` may stay.
const UNRESERVED_AND_SLASH: &AsciiSet = &UNRESERVED.remove(b'/');

/// What the holder of a URL may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignedMethod {
    /// Read the blob: GET and HEAD.
    Get,
    /// Write it: PUT.
    Put,
}

impl SignedMethod {
    /// As it is signed, and as HTTP knows it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Put => "PUT",
        }
    }

    /// What a URL has to allow for a request of this method; `None` where none does.
    fn needed_for(method: &str) -> Option<Self> {
        match method {
            "GET" | "HEAD" => Some(Self::Get),
            "PUT" => Some(Self::Put),
            _ => None,
        }
    }
}

/// What is to be signed, for [`Signer::sign`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignRequest {
    pub method: SignedMethod,
    /// From now on; whole seconds count.
    pub expires_in: Duration,
    /// Of an upload: its most bytes. `None` for as many as a blob and the bucket may have.
    pub max_size: Option<u64>,
    /// Of an upload: the content type that it has to have, and is stored with.
    pub content_type: Option<String>,
}

/// What a URL means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedUrl {
    /// The bucket.
    pub store: StoreId,
    pub key: String,
    pub method: SignedMethod,
    /// Seconds since the Unix epoch. From this second on the URL is not good any more.
    pub expires_s: u64,
    pub max_size: Option<u64>,
    pub content_type: Option<String>,
}

/// Why a URL is not signed. The words are for whoever asked for it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    #[error("a signed URL expires after 1 second to 7 days, not {0} seconds")]
    Expiry(u64),
    #[error("a key has 1 to {MAX_KEY_BYTES} bytes, not {0}")]
    KeyLength(usize),
    #[error("the key `{0}` cannot stand in a URL: clients take it for a folder; use another key")]
    Key(&'static str),
    #[error("`{0}` is only for uploads; sign a PUT")]
    OnlyForPut(&'static str),
    #[error(
        "a content type has 1 to {MAX_CONTENT_TYPE_BYTES} visible ASCII characters or blanks, and no blank at its ends"
    )]
    ContentType,
    #[error("the node has no key to sign with")]
    NoKey,
}

impl SignError {
    /// Whether the caller can mend it.
    pub fn is_refusal(&self) -> bool {
        !matches!(self, Self::NoKey)
    }
}

/// Why a request to a signed URL is refused. Nothing here says whether the blob is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The URL is not one that was given out for this method.
    #[error("the signature is not that of this URL and method")]
    Signature,
    #[error("the URL has expired")]
    Expired,
}

/// Makes signed URLs and checks them.
pub struct Signer {
    clock: Clock,
    /// The newest first; it signs, and all verify. None before [`Signer::use_keys_of`].
    keys: ArcSwap<Vec<SigningKey>>,
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer").finish_non_exhaustive()
    }
}

impl Signer {
    /// A signer without keys, which signs nothing and refuses everything.
    pub fn new(clock: Clock) -> Self {
        Self { clock, keys: ArcSwap::default() }
    }

    /// Takes the keys of the vault: at the start, and whenever it has a new one.
    pub fn use_keys_of(&self, vault: &Vault) {
        self.keys.store(Arc::new(vault.signing_keys(PURPOSE)));
    }

    /// The path and query of a URL for one blob, on the host of the app that owns the bucket.
    pub fn sign(&self, store: &StoreId, key: &str, request: &SignRequest) -> Result<String, SignError> {
        let expires_in_s = request.expires_in.as_secs();
        if !(1..=MAX_EXPIRY.as_secs()).contains(&expires_in_s) {
            return Err(SignError::Expiry(expires_in_s));
        }
        if !(1..=MAX_KEY_BYTES).contains(&key.len()) {
            return Err(SignError::KeyLength(key.len()));
        }
        // Browsers and proxies resolve them, also where they are escaped (WHATWG URL, "double-dot URL path segment").
        if let Some(folder) = [".", ".."].into_iter().find(|folder| *folder == key) {
            return Err(SignError::Key(folder));
        }
        if request.method == SignedMethod::Get {
            let only_for_put =
                [("max-size", request.max_size.is_some()), ("content-type", request.content_type.is_some())];
            if let Some((name, _)) = only_for_put.into_iter().find(|(_, is_set)| *is_set) {
                return Err(SignError::OnlyForPut(name));
            }
        }
        if request.content_type.as_deref().is_some_and(|text| !is_content_type(text)) {
            return Err(SignError::ContentType);
        }
        let url = SignedUrl {
            store: store.clone(),
            key: key.to_owned(),
            method: request.method,
            expires_s: self.now_s().saturating_add(expires_in_s),
            max_size: request.max_size,
            content_type: request.content_type.clone(),
        };
        let keys = self.keys.load();
        let newest = keys.first().ok_or(SignError::NoKey)?;
        let signature = mac(newest, &url).ok_or(SignError::NoKey)?.finalize().into_bytes();
        Ok(url.write(&signature))
    }

    /// What the URL with this path and query means for a request of this method to the host of `app`, if it was signed and has
    /// not expired.
    pub fn verify(
        &self,
        tenant: &Tenant,
        app: &AppName,
        method: &str,
        path: &str,
        query: Option<&str>,
    ) -> Result<SignedUrl, Refused> {
        let (url, signature) = SignedUrl::read(tenant, app, method, path, query).ok_or(Refused::Signature)?;
        // Each in constant time. Which of the keys it was is no secret.
        let is_signed = |key| mac(key, &url).is_some_and(|mac| mac.verify(&signature.into()).is_ok());
        if !self.keys.load().iter().any(is_signed) {
            return Err(Refused::Signature);
        }
        if url.expires_s <= self.now_s() {
            return Err(Refused::Expired);
        }
        Ok(url)
    }

    fn now_s(&self) -> u64 {
        (self.clock)() / 1000
    }
}

/// Takes in what a URL means. Each field has its name and its length before it, so that no two meanings give one text whatever
/// bytes are in a key.
fn mac(key: &SigningKey, url: &SignedUrl) -> Option<Hmac<Sha256>> {
    let SignedUrl { store, key: blob, method, expires_s, max_size, content_type } = url;
    let mut mac = Hmac::<Sha256>::new_from_slice(key.as_slice()).ok()?;
    let mut field = |name: &str, value: &str| {
        mac.update(format!("{name} {}\n", value.len()).as_bytes());
        mac.update(value.as_bytes());
        mac.update(b"\n");
    };
    field("tenant", store.tenant.as_str());
    field("app", store.app.as_str());
    field("bucket", store.name.as_str());
    field("key", blob);
    field("method", method.as_str());
    field("expires", &expires_s.to_string());
    if let Some(bytes) = max_size {
        field("max-size", &bytes.to_string());
    }
    if let Some(text) = content_type {
        field("content-type", text);
    }
    Some(mac)
}

impl SignedUrl {
    fn write(&self, signature: &[u8]) -> String {
        // Empty parts and those of dots would be resolved on the way; behind `%2F` they are part of a longer one.
        let is_resolved = self.key.split('/').any(|part| matches!(part, "" | "." | ".."));
        let set = if is_resolved { UNRESERVED } else { UNRESERVED_AND_SLASH };
        let (bucket, key) = (&self.store.name, utf8_percent_encode(&self.key, set));
        let mut url = format!("{PREFIX}{bucket}/{key}?expires={}", self.expires_s);
        if let Some(bytes) = self.max_size {
            url.push_str(&format!("&max-size={bytes}"));
        }
        if let Some(text) = &self.content_type {
            url.push_str(&format!("&content-type={}", utf8_percent_encode(text, UNRESERVED)));
        }
        url.push_str("&signature=");
        for byte in signature {
            url.push_str(&format!("{byte:02x}"));
        }
        url
    }

    fn read(
        tenant: &Tenant,
        app: &AppName,
        method: &str,
        path: &str,
        query: Option<&str>,
    ) -> Option<(Self, [u8; SIGNATURE_BYTES])> {
        let (bucket, key) = path.strip_prefix(PREFIX)?.split_once('/')?;
        let name: StoreName = bucket.parse().ok()?;
        let key = percent_decode_str(key).decode_utf8().ok()?.into_owned();
        if !(1..=MAX_KEY_BYTES).contains(&key.len()) {
            return None;
        }
        let mut query = Query::read(query?)?;
        let method = SignedMethod::needed_for(method)?;
        let url = Self {
            store: StoreId { tenant: tenant.clone(), app: app.clone(), name },
            key,
            method,
            expires_s: number(&query.expires.take()?)?,
            max_size: match query.max_size.take() {
                Some(text) => Some(number(&text)?),
                None => None,
            },
            content_type: query.content_type.take().map(Cow::into_owned),
        };
        Some((url, signature_of(&query.signature?)?))
    }
}

/// The parameters of a URL.
#[derive(Default)]
struct Query<'a> {
    expires: Option<Cow<'a, str>>,
    max_size: Option<Cow<'a, str>>,
    content_type: Option<Cow<'a, str>>,
    signature: Option<Cow<'a, str>>,
}

impl<'a> Query<'a> {
    /// `None` where one is unknown or stands twice.
    fn read(query: &'a str) -> Option<Self> {
        if query.len() > MAX_QUERY_BYTES {
            return None;
        }
        let mut found = Self::default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let place = match &*name {
                "expires" => &mut found.expires,
                "max-size" => &mut found.max_size,
                "content-type" => &mut found.content_type,
                "signature" => &mut found.signature,
                _ => return None,
            };
            if place.replace(value).is_some() {
                return None;
            }
        }
        Some(found)
    }
}

/// A number as [`SignedUrl::write`] writes it: digits without zeros before them.
fn number(text: &str) -> Option<u64> {
    let number: u64 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

/// 64 lower-case hex digits.
fn signature_of(text: &str) -> Option<[u8; SIGNATURE_BYTES]> {
    let text = text.as_bytes();
    if text.len() != 2 * SIGNATURE_BYTES || !text.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    let mut bytes = [0; SIGNATURE_BYTES];
    for (byte, digits) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(bytes)
}

/// Whether a text can be the value of a `content-type` header as every client sends it.
fn is_content_type(text: &str) -> bool {
    (1..=MAX_CONTENT_TYPE_BYTES).contains(&text.len())
        && text.bytes().all(|byte| matches!(byte, b' '..=b'~'))
        && text.trim() == text
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    const NOW_S: u64 = 1_800_000_000;

    struct Fixture {
        temp: tempfile::TempDir,
        vault: Vault,
        signer: Signer,
        now_s: Arc<AtomicU64>,
    }

    impl Fixture {
        fn new() -> Self {
            let temp = tempfile::tempdir().unwrap();
            let vault = Vault::create(&temp.path().join("secrets.key")).unwrap();
            let now_s = Arc::new(AtomicU64::new(NOW_S));
            let clock = Arc::clone(&now_s);
            let signer = Signer::new(Arc::new(move || clock.load(Ordering::Relaxed) * 1000));
            signer.use_keys_of(&vault);
            Self { temp, vault, signer, now_s }
        }

        fn verify(&self, method: &str, url: &str) -> Result<SignedUrl, Refused> {
            self.verify_for("shop", method, url)
        }

        fn verify_for(&self, app: &str, method: &str, url: &str) -> Result<SignedUrl, Refused> {
            let (path, query) = match url.split_once('?') {
                Some((path, query)) => (path, Some(query)),
                None => (url, None),
            };
            self.signer.verify(&Tenant::default(), &app.parse().unwrap(), method, path, query)
        }
    }

    fn bucket() -> StoreId {
        StoreId { tenant: Tenant::default(), app: "shop".parse().unwrap(), name: "uploads".parse().unwrap() }
    }

    fn request(method: SignedMethod) -> SignRequest {
        SignRequest { method, expires_in: Duration::from_secs(60), max_size: None, content_type: None }
    }

    fn put() -> SignRequest {
        let content_type = Some("image/svg+xml; charset=utf-8".into());
        SignRequest { max_size: Some(1000), content_type, ..request(SignedMethod::Put) }
    }

    #[test]
    fn a_url_means_what_was_signed_whatever_is_in_the_key() {
        let fixture = Fixture::new();
        for key in [
            "a.png",
            "folder/a b.png",
            "a&signature=1",
            "a?expires=9",
            "a%2Fb",
            "a%252Fb",
            "a+b",
            "ü/日本/😀",
            "/a",
            "a//b",
            "a/../b",
            "./a",
            "a/",
            "/",
            "...",
            "a\nkey 1\nb",
            "a\u{0}b",
            "a\\..\\b",
            "#a",
            &"x".repeat(1024),
        ] {
            let url = fixture.signer.sign(&bucket(), key, &put()).unwrap();
            let uri: http::Uri = url.parse().unwrap();
            assert_eq!(uri.path_and_query().unwrap().as_str(), url);
            let expected = SignedUrl {
                store: bucket(),
                key: key.into(),
                method: SignedMethod::Put,
                expires_s: NOW_S + 60,
                max_size: Some(1000),
                content_type: Some("image/svg+xml; charset=utf-8".into()),
            };
            assert_eq!(fixture.verify("PUT", &url), Ok(expected), "{url}");
            // Nothing that a client or a proxy would take for a folder and resolve.
            let resolved = ["//", "/./", "/../", "/.?", "/..?"];
            assert!(!resolved.iter().any(|part| url.contains(part)), "{url}");
        }
        let url = fixture.signer.sign(&bucket(), "a/ü", &request(SignedMethod::Get)).unwrap();
        assert!(url.starts_with("/.minnow/blob/uploads/a/%C3%BC?expires=1800000060&signature="), "{url}");
    }

    #[test]
    fn how_a_client_writes_a_url_does_not_matter() {
        let fixture = Fixture::new();
        let url = fixture.signer.sign(&bucket(), "a/b c", &put()).unwrap();
        let (path, query) = url.split_once('?').unwrap();
        let mut turned: Vec<&str> = query.split('&').collect();
        turned.reverse();
        for same in [
            format!("{path}?{}", turned.join("&")),
            url.replace("a/b", "a%2fb"),
            url.replace("uploads/a", "uploads/%61"),
            url.replace("%20charset", "+charset"),
            url.replace("max-size", "max%2Dsize"),
        ] {
            assert!(same != url && fixture.verify("PUT", &same).is_ok(), "{same}");
        }
    }

    #[test]
    fn whatever_is_changed_is_refused() {
        let fixture = Fixture::new();
        let url = fixture.signer.sign(&bucket(), "a/b", &put()).unwrap();
        fixture.verify("PUT", &url).unwrap();
        let signature = &url[url.len() - 64..];
        let flipped = if signature.starts_with('0') { "1" } else { "0" };
        let changed = [
            url.replace("/uploads/", "/upload/"),
            url.replace("/uploads/", "/Uploads/"),
            url.replace("/uploads/a/b", "/uploads/a/c"),
            url.replace("/uploads/a/b", "/uploads/a/b/"),
            url.replace("/uploads/a/b", "/uploads/a%252Fb"),
            url.replace("/uploads/a/b", "/uploads/"),
            url.replace("/uploads/a/b", "/uploads"),
            url.replace("/uploads/a/b", "/uploads/a/b%FF"),
            url.replace("/uploads/a/b", "/uploads/../uploads/a/b"),
            url.replace("/.minnow/blob/", "/.minnow/other/"),
            url.replace("expires=1800000060", "expires=1800000061"),
            url.replace("expires=1800000060", "expires=01800000060"),
            url.replace("expires=1800000060", "expires=%2B1800000060"),
            url.replace("expires=1800000060", "expires=99999999999999999999"),
            url.replace("expires=1800000060", "expires="),
            url.replace("expires=1800000060&", ""),
            url.replace("max-size=1000", "max-size=1001"),
            url.replace("max-size=1000&", ""),
            url.replace("svg%2Bxml", "png"),
            url.replace("svg%2Bxml", "svg xml"),
            url.replace("svg%2Bxml", "SVG%2Bxml"),
            url.replace("content-type", "Content-Type"),
            format!("{url}&max-size=1000"),
            format!("{url}&utm_source=x"),
            format!("{url}0"),
            url[..url.len() - 1].to_owned(),
            url.replace(signature, &signature.to_uppercase()),
            url.replace(signature, &format!("{flipped}{}", &signature[1..])),
            url.replace(signature, &"é".repeat(32)),
            url.replace(&format!("&signature={signature}"), ""),
            url.replace('?', "?&".repeat(1100).as_str()),
            url.split('?').next().unwrap().to_owned(),
        ];
        for changed in changed {
            // Some signatures have no letters, which is never the case for all of these.
            assert_ne!(changed, url);
            assert_eq!(fixture.verify("PUT", &changed), Err(Refused::Signature), "{changed}");
        }
        for method in ["GET", "HEAD", "POST", "DELETE", "put", "OPTIONS"] {
            assert_eq!(fixture.verify(method, &url), Err(Refused::Signature), "{method}");
        }
        assert_eq!(fixture.verify_for("blog", "PUT", &url), Err(Refused::Signature));
        let get = fixture.signer.sign(&bucket(), "a", &request(SignedMethod::Get)).unwrap();
        assert!(fixture.verify("GET", &get).is_ok() && fixture.verify("HEAD", &get).is_ok());
        for changed in [format!("{get}&max-size=1"), format!("{get}&content-type=text/html")] {
            assert_eq!(fixture.verify("GET", &changed), Err(Refused::Signature), "{changed}");
        }
        assert_eq!(fixture.verify("PUT", &get), Err(Refused::Signature));
    }

    /// What belongs to one field cannot be moved into another: a key with line breaks and names of fields in it gives another text.
    #[test]
    fn no_two_meanings_have_one_signature() {
        let fixture = Fixture::new();
        let keys = fixture.vault.signing_keys(PURPOSE);
        let url = |bucket: &str, key: &str, max_size: Option<u64>, content_type: Option<&str>| SignedUrl {
            store: StoreId { name: bucket.parse().unwrap(), ..self::bucket() },
            key: key.into(),
            method: SignedMethod::Put,
            expires_s: NOW_S,
            max_size,
            content_type: content_type.map(Into::into),
        };
        let all = [
            url("a", "b", None, None),
            url("ab", "b", None, None),
            url("a", "bb", None, None),
            url("a", "b\nmethod 3\nPUT", None, None),
            url("a", "b\nmethod 3\nPUT\nexpires 10\n1800000000", None, None),
            url("a", "b", Some(1), None),
            url("a", "b", Some(11), None),
            url("a", "b", None, Some("1")),
            url("a", "b", Some(1), Some("1")),
            url("a", "b", Some(1), Some("1\n")),
            SignedUrl { method: SignedMethod::Get, ..url("a", "b", None, None) },
            SignedUrl { expires_s: 1, ..url("a", "b", None, None) },
            SignedUrl { expires_s: 18_000_000_001, ..url("a", "b", None, None) },
        ];
        let macs: std::collections::BTreeSet<Vec<u8>> =
            all.iter().map(|url| mac(&keys[0], url).unwrap().finalize().into_bytes().to_vec()).collect();
        assert_eq!(macs.len(), all.len());
    }

    #[test]
    fn a_url_is_good_until_the_second_of_its_expiry() {
        let fixture = Fixture::new();
        let url = fixture.signer.sign(&bucket(), "a", &request(SignedMethod::Get)).unwrap();
        for (passed_s, expected) in
            [(0, None), (59, None), (60, Some(Refused::Expired)), (u64::from(u32::MAX), Some(Refused::Expired))]
        {
            fixture.now_s.store(NOW_S + passed_s, Ordering::Relaxed);
            assert_eq!(fixture.verify("GET", &url).err(), expected, "after {passed_s} s");
        }
        // One that was never signed is not told apart from one that is still good.
        assert_eq!(fixture.verify("PUT", &url), Err(Refused::Signature));
    }

    #[test]
    fn urls_outlive_a_rotation_and_not_the_loss_of_their_key() {
        let fixture = Fixture::new();
        let old = fixture.signer.sign(&bucket(), "a", &request(SignedMethod::Get)).unwrap();
        fixture.vault.rotate().unwrap();
        fixture.signer.use_keys_of(&fixture.vault);
        let new = fixture.signer.sign(&bucket(), "a", &request(SignedMethod::Get)).unwrap();
        assert_ne!(old, new, "the newest key signs");
        assert!(fixture.verify("GET", &old).is_ok() && fixture.verify("GET", &new).is_ok());
        let other = Vault::create(&fixture.temp.path().join("other.key")).unwrap();
        fixture.signer.use_keys_of(&other);
        assert_eq!(fixture.verify("GET", &new), Err(Refused::Signature));
        let without = Signer::new(Arc::new(|| 0));
        assert_eq!(without.sign(&bucket(), "a", &request(SignedMethod::Get)), Err(SignError::NoKey));
        let (path, query) = new.split_once('?').unwrap();
        let refused = without.verify(&Tenant::default(), &bucket().app, "GET", path, Some(query));
        assert_eq!(refused, Err(Refused::Signature));
    }

    #[test]
    fn what_cannot_be_signed_is_told_with_its_reason() {
        let fixture = Fixture::new();
        let expiring = |expires_in| SignRequest { expires_in, ..put() };
        let typed = |text: &str| SignRequest { content_type: Some(text.into()), ..put() };
        let long = "x".repeat(1025);
        for (key, request, expected) in [
            ("a", expiring(Duration::ZERO), "not 0 seconds"),
            ("a", expiring(Duration::from_millis(999)), "not 0 seconds"),
            ("a", expiring(MAX_EXPIRY + Duration::from_secs(1)), "not 604801 seconds"),
            ("a", expiring(Duration::MAX), "1 second to 7 days"),
            ("", put(), "1 to 1024 bytes, not 0"),
            (&long, put(), "1 to 1024 bytes, not 1025"),
            ("..", put(), "the key `..` cannot stand in a URL"),
            (".", put(), "the key `.` cannot stand in a URL"),
            ("a", SignRequest { method: SignedMethod::Get, ..put() }, "`max-size` is only for uploads"),
            (
                "a",
                SignRequest { max_size: None, method: SignedMethod::Get, ..put() },
                "`content-type` is only for uploads",
            ),
            ("a", typed(""), "content type"),
            ("a", typed("text/plain\r\nx: y"), "content type"),
            ("a", typed(" text/plain"), "content type"),
            ("a", typed("tëxt/plain"), "content type"),
            ("a", typed(&"x".repeat(256)), "content type"),
        ] {
            let error = fixture.signer.sign(&bucket(), key, &request).unwrap_err();
            assert!(error.is_refusal() && error.to_string().contains(expected), "{error}");
        }
        fixture.signer.sign(&bucket(), "a", &expiring(MAX_EXPIRY)).unwrap();
    }
}
