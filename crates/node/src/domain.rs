//! The domain under which apps answer.

use std::{fmt, net::IpAddr, str::FromStr};

use serde::Deserialize;

/// The longest domain, in characters: a DNS name has at most 253 (RFC 1035, 2.3.4, as text), and the longest app name with
/// its dot takes 64 of them.
const MAX_LENGTH: usize = 253 - 64;

/// A DNS name in lower case, without a dot at its end. Apps answer at `APP.DOMAIN`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Domain(String);

/// Why a text is no domain, and what to write.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DomainError {
    #[error("the domain is empty; write a name like apps.example.org, or leave it out")]
    Empty,
    #[error("`{0}` is a URL; write the name alone, like apps.example.org")]
    Url(String),
    #[error("`{0}` has a port; write the name alone, the port is that of --http")]
    Port(String),
    #[error("`{0}` has a `*`; write what comes after it: every app gets a name of its own under the domain")]
    Wildcard(String),
    #[error("`{0}` is an address; apps are told apart by name, so write a DNS name like apps.example.org")]
    Address(String),
    #[error("`{0}` is not written in ASCII; write its `xn--` form")]
    NotAscii(String),
    #[error("`{name}` has {length} characters; with an app's name before it a DNS name has room for {MAX_LENGTH}")]
    TooLong { name: String, length: usize },
    #[error(
        "`{name}`: `{label}` is no part of a DNS name; each has 1 to 63 of a-z, 0-9 and `-`, and no `-` at its ends"
    )]
    Label { name: String, label: String },
}

impl Domain {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Domain {
    type Err = DomainError;

    fn from_str(text: &str) -> Result<Self, DomainError> {
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        let given = || text.to_owned();
        if name.is_empty() {
            return Err(DomainError::Empty);
        }
        if name.contains('/') {
            return Err(DomainError::Url(given()));
        }
        // The last part of a name is never a number, or it would be taken for an address (RFC 1123, 2.1).
        let last = name.rsplit('.').next().unwrap_or_default();
        let is_number = !last.is_empty() && last.bytes().all(|byte| byte.is_ascii_digit());
        if name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok() || is_number {
            return Err(DomainError::Address(given()));
        }
        if name.contains(':') {
            return Err(DomainError::Port(given()));
        }
        if name.contains('*') {
            return Err(DomainError::Wildcard(given()));
        }
        if !name.is_ascii() {
            return Err(DomainError::NotAscii(given()));
        }
        if name.len() > MAX_LENGTH {
            return Err(DomainError::TooLong { name: given(), length: name.len() });
        }
        for label in name.split('.') {
            let is_label = (1..=63).contains(&label.len())
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-');
            if !is_label {
                return Err(DomainError::Label { name: given(), label: label.into() });
            }
        }
        Ok(Self(name))
    }
}

impl TryFrom<String> for Domain {
    type Error = DomainError;

    fn try_from(text: String) -> Result<Self, DomainError> {
        text.parse()
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_is_a_dns_name() {
        let long = format!("{}.example", "a".repeat(63));
        for (text, expected) in [
            ("apps.example.org", "apps.example.org"),
            ("Apps.Example.ORG.", "apps.example.org"),
            ("lan", "lan"),
            ("localhost", "localhost"),
            ("xn--bcher-kva.example", "xn--bcher-kva.example"),
            ("4u.example", "4u.example"),
            (long.as_str(), long.as_str()),
        ] {
            assert_eq!(text.parse::<Domain>().map(|domain| domain.to_string()).as_deref(), Ok(expected));
        }
    }

    #[test]
    fn what_is_no_domain_is_told_with_what_to_write() {
        let long_label = format!("{}.example", "a".repeat(64));
        let long = format!("{}example", "abcdefghi.".repeat(19));
        for (text, part) in [
            ("", "leave it out"),
            (".", "leave it out"),
            ("https://apps.example.org", "the name alone"),
            ("apps.example.org/", "the name alone"),
            ("apps.example.org:8080", "--http"),
            ("*.apps.example.org", "what comes after it"),
            ("10.0.0.1", "a DNS name"),
            ("[::1]", "a DNS name"),
            ("::1", "a DNS name"),
            ("1.2.3", "a DNS name"),
            ("bücher.example", "xn--"),
            ("apps example", "`apps example`"),
            ("apps..example", "`` is no part"),
            ("apps..", "`` is no part"),
            (".example", "`` is no part"),
            ("-apps.example", "`-apps` is no part"),
            ("my_apps.example", "`my_apps` is no part"),
            (long_label.as_str(), "1 to 63"),
            (long.as_str(), "has 197 characters; with an app's name before it a DNS name has room for 189"),
            (&format!("{long}."), "has 197 characters"),
        ] {
            let error = text.parse::<Domain>().unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
