//! Which app a request is for, from its host.

use http::{HeaderMap, Uri, Version, header::HOST, uri::Authority};

/// What a host name says about the app.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HostName<'a> {
    /// The label before `.localhost` or the domain; it need not be a valid app name.
    App(&'a str),
    /// No app is named: an IP address, `localhost`, the domain itself, a foreign name.
    Bare,
}

/// Why a request has no usable host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HostError {
    #[error("an HTTP/1.1 request needs a Host header")]
    Missing,
    #[error("the request has more than one Host header")]
    Several,
    #[error("the host is not valid")]
    Invalid,
}

/// The host and port that the client asked for: the URI's where it has one (HTTP/2, or a request to a proxy; RFC 9112
/// section 3.2.2), else the Host header's. `None` only for HTTP/1.0 without a Host header.
pub(crate) fn authority(uri: &Uri, version: Version, headers: &HeaderMap) -> Result<Option<Authority>, HostError> {
    let authority = match uri.authority() {
        Some(authority) => authority.clone(),
        None => {
            let mut hosts = headers.get_all(HOST).iter();
            match (hosts.next(), hosts.next()) {
                (Some(host), None) => Authority::try_from(host.as_bytes()).map_err(|_| HostError::Invalid)?,
                (None, _) if version < Version::HTTP_11 => return Ok(None),
                (None, _) => return Err(HostError::Missing),
                (Some(_), Some(_)) => return Err(HostError::Several),
            }
        }
    };
    // RFC 9110 section 4.2.4: user information in an http URI is an error.
    if authority.as_str().contains('@') || authority.host().is_empty() {
        return Err(HostError::Invalid);
    }
    Ok(Some(authority))
}

/// What `host` (without its port) names, where apps answer under `.localhost` and `domain`.
pub(crate) fn host_name<'a>(host: &'a str, domain: Option<&str>) -> HostName<'a> {
    let host = host.strip_suffix('.').unwrap_or(host);
    let label = domain.and_then(|domain| label_under(host, domain)).or_else(|| label_under(host, "localhost"));
    label.map_or(HostName::Bare, HostName::App)
}

/// What stands before `.domain`, in any case of letters.
fn label_under<'a>(host: &'a str, domain: &str) -> Option<&'a str> {
    let (label, suffix) = host.split_at_checked(host.len().checked_sub(domain.len())?)?;
    suffix.eq_ignore_ascii_case(domain).then(|| label.strip_suffix('.'))?
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn a_host_names_an_app_or_none() {
        use HostName::{App, Bare};
        for (host, domain, expected) in [
            ("hello.localhost", None, App("hello")),
            ("hello.localhost.", None, App("hello")),
            ("HELLO.LocalHost", None, App("HELLO")),
            ("localhost", None, Bare),
            (".localhost", None, App("")),
            ("a.b.localhost", None, App("a.b")),
            ("hellolocalhost", None, Bare),
            ("127.0.0.1", None, Bare),
            ("[::1]", None, Bare),
            ("hello.example.com", None, Bare),
            ("hello.example.com", Some("example.com"), App("hello")),
            ("hello.EXAMPLE.com", Some("example.com"), App("hello")),
            ("hello.localhost", Some("example.com"), App("hello")),
            ("example.com", Some("example.com"), Bare),
            ("badexample.com", Some("example.com"), Bare),
            ("example.org", Some("example.com"), Bare),
            ("m", Some("example.com"), Bare),
            ("é.localhost", None, App("é")),
            ("", None, Bare),
        ] {
            assert_eq!(host_name(host, domain), expected, "{host} under {domain:?}");
        }
    }

    #[test]
    fn the_authority_comes_from_the_uri_or_the_only_host_header() {
        let of = |uri: &str, version, hosts: &[&str]| {
            let mut headers = HeaderMap::new();
            for host in hosts {
                headers.append(HOST, HeaderValue::from_str(host).unwrap());
            }
            authority(&uri.parse().unwrap(), version, &headers).map(|authority| authority.map(|a| a.to_string()))
        };
        let found = |text: &str| Ok(Some(text.to_owned()));
        for (uri, version, hosts, expected) in [
            ("/", Version::HTTP_11, &["hello.localhost:8080"][..], found("hello.localhost:8080")),
            ("/", Version::HTTP_11, &["[::1]:8080"], found("[::1]:8080")),
            ("http://a.localhost/x", Version::HTTP_11, &["b.localhost"], found("a.localhost")),
            ("http://a.localhost/x", Version::HTTP_2, &[], found("a.localhost")),
            ("/", Version::HTTP_11, &[], Err(HostError::Missing)),
            ("/", Version::HTTP_10, &[], Ok(None)),
            ("/", Version::HTTP_11, &["a", "b"], Err(HostError::Several)),
            ("/", Version::HTTP_11, &["a b"], Err(HostError::Invalid)),
            ("/", Version::HTTP_11, &[""], Err(HostError::Invalid)),
            ("/", Version::HTTP_11, &["user@a.localhost"], Err(HostError::Invalid)),
            ("/", Version::HTTP_11, &["a/b"], Err(HostError::Invalid)),
        ] {
            assert_eq!(of(uri, version, hosts), expected, "{uri} {version:?} {hosts:?}");
        }
    }
}
