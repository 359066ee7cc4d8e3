//! Webhooks of topics: a path at which others publish, and how what they send is signed.
//!
//! All forms are HMAC-SHA256 (RFC 2104) with a secret of the app. There is none without a secret.

use std::{fmt, str::FromStr};

use base64::{
    Engine as _,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};

use crate::{RoutePattern, VariableName, manifest::is_token, route::RouteError};

/// The longest that stands before an own signature, in bytes: `sha256=` and its like.
pub const MAX_PREFIX_BYTES: usize = 64;

/// Base64 with or without padding: providers write both.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A public route to a topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Webhook {
    pub path: WebhookPath,
    /// The secret of the app with which the sender signs.
    pub secret: VariableName,
    pub signature: Signature,
}

impl Webhook {
    /// What reaches it.
    pub fn route(&self) -> RoutePattern {
        RoutePattern { method: Some("POST".into()), path: self.path.0.clone() }
    }

    /// What is wrong with it; `None` when it is sound.
    pub(crate) fn mistake(&self) -> Option<String> {
        match &self.signature {
            Signature::Of(_) => None,
            Signature::Own(own) => own.mistake().map(|error| error.reason),
        }
    }
}

/// The path of a webhook: a route's, without method and names.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct WebhookPath(String);

impl WebhookPath {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for WebhookPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for WebhookPath {
    type Err = RouteError;

    fn from_str(text: &str) -> Result<Self, RouteError> {
        let refuse = |reason: &str, remedy: &str| Err(RouteError { reason: reason.into(), remedy: remedy.into() });
        let route: RoutePattern = text.parse()?;
        if route.method.is_some() {
            return refuse("a webhook takes POST only", "write the path alone, for example `/hooks/github`");
        }
        if route.path.contains('{') {
            return refuse("the path of a webhook has no `{name}`", "write the path as it stands in the URL");
        }
        if percent_decode_str(&route.path).any(|byte| byte == b'\\')
            || percent_decode_str(&route.path).decode_utf8_lossy().split('/').any(|segment| segment == ".minnow")
        {
            return refuse("paths under `/.minnow/` are the node's own", "write for example `/hooks/github`");
        }
        Ok(Self(route.path))
    }
}

impl<'de> Deserialize<'de> for WebhookPath {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// How a request to a webhook is signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Signature {
    Of(Provider),
    Own(OwnSignature),
}

/// Forms that have a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Provider {
    /// `x-hub-signature-256` over the body
    /// (<https://docs.github.com/en/webhooks/using-webhooks/validating-webhook-deliveries>).
    Github,
    /// `stripe-signature` over the time and the body (<https://docs.stripe.com/webhooks/signature>).
    Stripe,
    /// `webhook-signature` over the id, the time and the body (<https://www.standardwebhooks.com>).
    Standard,
}

impl Provider {
    /// What the manifest may say.
    pub const ALL: [Self; 3] = [Self::Github, Self::Stripe, Self::Standard];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Github => "github",
            Self::Stripe => "stripe",
            Self::Standard => "standard",
        }
    }
}

/// A header of its own that has the signature of the body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OwnSignature {
    /// The header, in lower case.
    pub header: String,
    /// What stands before the signature.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub prefix: String,
    pub encoding: Encoding,
    /// The header that has the event's id, in lower case. It is not signed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub id_header: Option<String>,
}

/// How the 32 bytes of a signature are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    #[default]
    Hex,
    Base64,
}

impl Encoding {
    /// What the manifest may say.
    pub const ALL: [Self; 2] = [Self::Hex, Self::Base64];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hex => "hex",
            Self::Base64 => "base64",
        }
    }

    /// The signature that `text` is; `None` where it is none.
    pub fn signature(self, text: &str) -> Option<[u8; 32]> {
        let bytes = match self {
            Self::Hex => hex::decode(text).ok()?,
            Self::Base64 => BASE64.decode(text).ok()?,
        };
        bytes.try_into().ok()
    }
}

impl OwnSignature {
    /// What is wrong with it, and how to mend that; `None` when it is sound.
    pub(crate) fn mistake(&self) -> Option<RouteError> {
        let Self { header, prefix, id_header, .. } = self;
        let mistake = |reason: String, remedy: &str| Some(RouteError { reason, remedy: remedy.into() });
        for (key, name) in [("header", Some(header)), ("id_header", id_header.as_ref())] {
            let Some(name) = name else { continue };
            if !is_token(name) || name.bytes().any(|byte| byte.is_ascii_uppercase()) {
                let reason = format!("`{key}`: `{}` cannot be the name of a header", name.escape_debug());
                return mistake(reason, "use letters, digits, `-` and `_`");
            }
        }
        if id_header.as_ref() == Some(header) {
            return mistake(
                format!("`header` and `id_header` are both `{header}`"),
                "name the header that has the id, or leave `id_header` out",
            );
        }
        if prefix.len() > MAX_PREFIX_BYTES || !prefix.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ') {
            return mistake(
                format!("`prefix` is not up to {MAX_PREFIX_BYTES} visible characters of ASCII"),
                "write what stands before the signature in the header, for example `sha256=`",
            );
        }
        None
    }
}

impl Signature {
    /// The key that a secret is: its bytes, or for [`Provider::Standard`] what its base64 says, with or without `whsec_` before it.
    /// `None` where it is no key: anybody could sign with an empty one.
    pub fn key(&self, secret: &str) -> Option<Vec<u8>> {
        let key = match self {
            Self::Of(Provider::Standard) => BASE64.decode(secret.strip_prefix("whsec_").unwrap_or(secret)).ok()?,
            Self::Of(Provider::Github | Provider::Stripe) | Self::Own(_) => secret.as_bytes().to_vec(),
        };
        (!key.is_empty()).then_some(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_of_a_webhook_is_one_path() {
        for (path, mistake) in [
            ("/hooks/github", None),
            ("/hooks/a%20b", None),
            ("/", None),
            ("hooks", Some("a route's path starts with `/`")),
            ("POST /hooks", Some("a webhook takes POST only; write the path alone")),
            ("/hooks/{name}", Some("has no `{name}`; write the path as it stands in the URL")),
            ("/{*rest}", Some("has no `{name}`")),
            ("/hooks?a=1", Some("a route matches the path only")),
            ("/.minnow/hooks", Some("paths under `/.minnow/` are the node's own")),
            ("/%2eminnow/hooks", Some("the node's own")),
            ("/a%2f.minnow/hooks", Some("the node's own")),
            ("/%5c.minnow", Some("the node's own")),
        ] {
            let error = path.parse::<WebhookPath>().err().map(|error| error.to_string());
            assert_eq!(error.is_some(), mistake.is_some(), "{path}: {error:?}");
            assert!(mistake.is_none_or(|mistake| error.as_ref().unwrap().contains(mistake)), "{path}: {error:?}");
        }
    }

    #[test]
    fn a_secret_is_a_key_and_an_empty_one_is_none() {
        let own = OwnSignature { header: "x".into(), prefix: String::new(), encoding: Encoding::Hex, id_header: None };
        let (github, standard) = (Signature::Of(Provider::Github), Signature::Of(Provider::Standard));
        for (signature, secret, key) in [
            (&github, "whsec_a2V5", Some("whsec_a2V5")),
            (&Signature::Of(Provider::Stripe), "whsec_a2V5", Some("whsec_a2V5")),
            (&Signature::Own(own), "k", Some("k")),
            (&github, "", None),
            (&standard, "whsec_a2V5", Some("key")),
            (&standard, "a2V5", Some("key")),
            (&standard, "a2V5cw", Some("keys")),
            (&standard, "a2V5cw==", Some("keys")),
            (&standard, "whsec_", None),
            (&standard, "not base64!", None),
        ] {
            assert_eq!(signature.key(secret), key.map(|key| key.as_bytes().to_vec()), "{signature:?} {secret}");
        }
    }

    #[test]
    fn a_webhook_reads_back_and_one_of_no_known_form_does_not() {
        for (json, right) in [
            (r#"{"path":"/a","secret":"KEY","signature":"github"}"#, true),
            (r#"{"path":"/a","secret":"KEY","signature":{"header":"x-sig","encoding":"hex"}}"#, true),
            (
                r#"{"path":"/a","secret":"KEY","signature":{"header":"x","prefix":"v1=","encoding":"base64","id_header":"y"}}"#,
                true,
            ),
            (r#"{"path":"/a","secret":"KEY","signature":"none"}"#, false),
            (r#"{"path":"/a","secret":"KEY","signature":{"header":"x","encoding":"hex","extra":1}}"#, false),
            (r#"{"path":"/a","secret":"KEY"}"#, false),
            (r#"{"path":"/a","signature":"github"}"#, false),
            (r#"{"path":"/{a}","secret":"KEY","signature":"github"}"#, false),
            (r#"{"path":"/a","secret":"key","signature":"github"}"#, false),
        ] {
            let read = serde_json::from_str::<Webhook>(json);
            assert_eq!(read.is_ok(), right, "{json}: {read:?}");
            assert!(read.is_err() || serde_json::to_string(&read.unwrap()).unwrap() == json, "{json}");
        }
    }
}
