//! Origins of web pages, to which a bucket answers across origins (<https://fetch.spec.whatwg.org/#http-cors-protocol>).

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Every origin.
const ANY: &str = "*";
/// The longest origin, in bytes: a host name has up to 253.
const MAX_ORIGIN_BYTES: usize = 300;

/// An origin as browsers write it, `https://app.example` or `http://localhost:5173`; or `*`, which is each of them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Origin(String);

/// Why a text is no origin, and what to write.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OriginError {
    #[error("an origin begins with `https://` or `http://`, or is `*`")]
    Scheme,
    #[error("an origin has a scheme, a host and perhaps a port, and nothing after it; leave the path out, and the `/`")]
    Path,
    #[error("browsers write origins in lower case, without user names; write the host so")]
    Host,
    #[error("the port of an origin is a number from 1 to 65535, and is left out where it is that of the scheme")]
    Port,
    #[error("an origin has at most {MAX_ORIGIN_BYTES} bytes")]
    TooLong,
}

impl Origin {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is every origin.
    pub fn is_any(&self) -> bool {
        self.0 == ANY
    }

    /// Whether a page of `origin`, as the browser's header has it, is meant.
    pub fn admits(&self, origin: &str) -> bool {
        self.is_any() || self.0 == origin
    }
}

impl FromStr for Origin {
    type Err = OriginError;

    fn from_str(text: &str) -> Result<Self, OriginError> {
        if text == ANY {
            return Ok(Self(text.into()));
        }
        if text.len() > MAX_ORIGIN_BYTES {
            return Err(OriginError::TooLong);
        }
        let (scheme, rest) = text.split_once("://").ok_or(OriginError::Scheme)?;
        let default_port = match scheme {
            "https" => 443,
            "http" => 80,
            _ => return Err(OriginError::Scheme),
        };
        if rest.contains(['/', '?', '#']) {
            return Err(OriginError::Path);
        }
        // The colons of an IPv6 address are in brackets.
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
            _ => (rest, None),
        };
        if let Some(port) = port {
            let is_number = !port.starts_with('0') && port.bytes().all(|byte| byte.is_ascii_digit());
            let number = port.parse::<u16>().ok().filter(|_| is_number).ok_or(OriginError::Port)?;
            if number == default_port {
                return Err(OriginError::Port);
            }
        }
        let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let is_host = match inner {
            Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok() && address == address.to_ascii_lowercase(),
            None => {
                let is_part = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-._".contains(&byte);
                !host.is_empty() && host.bytes().all(is_part)
            }
        };
        if is_host { Ok(Self(text.into())) } else { Err(OriginError::Host) }
    }
}

impl TryFrom<String> for Origin {
    type Error = OriginError;

    fn try_from(text: String) -> Result<Self, OriginError> {
        text.parse()
    }
}

impl From<Origin> for String {
    fn from(origin: Origin) -> Self {
        origin.0
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_what_a_browser_sends() {
        for good in [
            "*",
            "https://app.example",
            "http://localhost:5173",
            "https://a-b.c_d.xn--bcher-kva.example:8443",
            "http://127.0.0.1",
            "http://[::1]:3000",
            "http://[2001:db8::1]",
            "http://app.example:443",
        ] {
            let origin: Origin = good.parse().unwrap_or_else(|error| panic!("{good}: {error}"));
            assert!(origin.admits(good), "{good}");
            assert_eq!(origin.admits("https://other.example"), origin.is_any(), "{good}");
            let json = serde_json::to_string(&origin).unwrap();
            assert_eq!((json.as_str(), serde_json::from_str(&json).ok()), (format!("{good:?}").as_str(), Some(origin)));
        }
        for (bad, expected) in [
            ("", OriginError::Scheme),
            ("app.example", OriginError::Scheme),
            ("ftp://app.example", OriginError::Scheme),
            ("HTTPS://app.example", OriginError::Scheme),
            ("null", OriginError::Scheme),
            ("https://", OriginError::Host),
            ("https://App.example", OriginError::Host),
            ("https://*.example", OriginError::Host),
            ("https://user@app.example", OriginError::Host),
            ("https://app.example\r\nx", OriginError::Host),
            ("https://bücher.example", OriginError::Host),
            ("http://[::1", OriginError::Host),
            ("http://[::G]", OriginError::Host),
            ("https://app.example/", OriginError::Path),
            ("https://app.example/page", OriginError::Path),
            ("https://app.example?a", OriginError::Path),
            ("https://app.example:443", OriginError::Port),
            ("http://app.example:80", OriginError::Port),
            ("http://app.example:0", OriginError::Port),
            ("http://app.example:", OriginError::Port),
            ("http://app.example:+1", OriginError::Port),
            ("http://app.example:65536", OriginError::Port),
            (&format!("https://{}", "a".repeat(300)), OriginError::TooLong),
        ] {
            assert_eq!(bad.parse::<Origin>(), Err(expected), "{bad}");
            assert!(serde_json::from_str::<Origin>(&format!("{bad:?}")).is_err(), "{bad}");
        }
    }
}
