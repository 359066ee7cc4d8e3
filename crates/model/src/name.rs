//! Names of tenants, apps, functions, stores and schedules, and the id of a request.

use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("a name needs at least one character")]
    Empty,
    #[error("`{0}` has {1} characters; a name is a DNS label and has at most 63")]
    TooLong(String, usize),
    #[error("`{0}` contains `{1}`; use only a-z, 0-9 and `-`")]
    Character(String, char),
    #[error("`{0}` starts or ends with `-`; a DNS label may not")]
    Hyphen(String),
}

/// Checks that `text` is a lower-case DNS label (RFC 1123): 1–63 of `[a-z0-9-]`, no `-` at either end.
fn check_label(text: &str) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if let Some(bad) = text.chars().find(|c| !matches!(c, 'a'..='z' | '0'..='9' | '-')) {
        return Err(NameError::Character(text.into(), bad));
    }
    if text.len() > 63 {
        return Err(NameError::TooLong(text.into(), text.len()));
    }
    if text.starts_with('-') || text.ends_with('-') {
        return Err(NameError::Hyphen(text.into()));
    }
    Ok(())
}

/// How to mend a name that was refused: the nearest one that would do.
pub(crate) fn remedy_for_name(text: &str) -> String {
    let mended: String =
        text.to_lowercase().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(63).collect();
    match mended.trim_matches('-') {
        "" => "write for example `hello`".into(),
        mended => format!("write for example `{mended}`"),
    }
}

macro_rules! label {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks and takes the name: a lower-case DNS label (RFC 1123) of 1–63 characters.
            pub fn new(text: impl AsRef<str>) -> Result<Self, NameError> {
                check_label(text.as_ref())?;
                Ok(Self(text.as_ref().into()))
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
                Self::new(&*text).map_err(serde::de::Error::custom)
            }
        }
    };
}

label! {
    /// The unit of isolation, quota, tokens and usage. `default` exists from the start.
    Tenant
}
label! {
    /// The name of an app, unique within its tenant; also its host name label (`APP.localhost`).
    AppName
}
label! {
    /// The name of a function, unique within its app.
    FunctionName
}
label! {
    /// The name of a store, unique within its app and its kind.
    StoreName
}
label! {
    /// The name of a schedule, unique within its function.
    ScheduleName
}

impl Default for Tenant {
    fn default() -> Self {
        Self("default".into())
    }
}

/// The id of one request: 128 bits, written as 32 lower-case hex digits. It is also the W3C trace id of the request, so
/// that logs, problems and traces meet under one id (<https://www.w3.org/TR/trace-context/#trace-id>).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestId(pub u128);

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for RequestId {
    type Err = std::num::ParseIntError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        u128::from_str_radix(text, 16).map(Self)
    }
}

impl Serialize for RequestId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for RequestId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_dns_labels() {
        for good in ["a", "hello", "a-b", "0", &"x".repeat(63)] {
            assert!(AppName::new(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a_b", "a.b", "å", &"x".repeat(64)] {
            assert!(AppName::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_request_id_is_32_hex_digits_and_reads_back() {
        let id = RequestId(0xabc);
        assert_eq!(id.to_string().len(), 32);
        assert_eq!(id.to_string().parse(), Ok(id));
    }
}
