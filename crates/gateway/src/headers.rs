//! Header fields of a WebSocket handshake, and those that tell a function who asked.

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{CONNECTION, COOKIE, FORWARDED, HOST, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE},
};

static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
static X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
static X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
pub(crate) static X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Whether a GET request without a body asks for a WebSocket (RFC 6455 section 4.2.1), as far as the header fields say so.
pub(crate) fn ask_for_websocket(headers: &HeaderMap) -> bool {
    let names = |name, token: &str| {
        let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).any(|each| each.trim().eq_ignore_ascii_case(token))
    };
    let one = |name| {
        let mut values = headers.get_all(name).iter();
        values.next().filter(|_| values.next().is_none()).map(HeaderValue::as_bytes)
    };
    names(CONNECTION, "upgrade")
        && names(UPGRADE, "websocket")
        && one(SEC_WEBSOCKET_VERSION) == Some(b"13")
        && one(SEC_WEBSOCKET_KEY).is_some_and(is_websocket_key)
}

/// 16 bytes in base64.
fn is_websocket_key(key: &[u8]) -> bool {
    matches!(key.split_last_chunk(), Some((digits, b"==")) if digits.len() == 22
        && digits.iter().all(|digit| digit.is_ascii_alphanumeric() || matches!(digit, b'+' | b'/')))
}

/// Sets the fields that [`minnow_runtime::remove_hop_by_hop`] has removed from one half of a WebSocket handshake.
pub(crate) fn set_upgrade(headers: &mut HeaderMap) {
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
}

/// Tells the function who asked and how: `x-forwarded-for`, `-host` and `-proto`. What the client sent under these names
/// is replaced, unless it is a proxy that is trusted. Answers the scheme that the client sees.
pub(crate) fn set_forwarded(headers: &mut HeaderMap, peer: &HeaderValue, trusted: bool) -> &'static str {
    let host = headers.get(HOST).cloned();
    if trusted {
        return keep_forwarded(headers, peer, host);
    }
    headers.remove(FORWARDED);
    headers.insert(&X_FORWARDED_FOR, peer.clone());
    headers.insert(&X_FORWARDED_PROTO, HeaderValue::from_static("http"));
    match host {
        Some(host) => headers.insert(&X_FORWARDED_HOST, host),
        None => headers.remove(&X_FORWARDED_HOST),
    };
    "http"
}

fn keep_forwarded(headers: &mut HeaderMap, peer: &HeaderValue, host: Option<HeaderValue>) -> &'static str {
    headers.append(&X_FORWARDED_FOR, peer.clone());
    if let Some(host) = host {
        headers.entry(&X_FORWARDED_HOST).or_insert(host);
    }
    let scheme = match headers.get(&X_FORWARDED_PROTO) {
        Some(value) if value.as_bytes().eq_ignore_ascii_case(b"https") => "https",
        _ => "http",
    };
    headers.insert(&X_FORWARDED_PROTO, HeaderValue::from_static(scheme));
    scheme
}

/// Joins cookies that an HTTP/2 client sent as several fields into the one that everybody expects (RFC 9113 section
/// 8.2.3).
pub(crate) fn join_cookies(headers: &mut HeaderMap) {
    let mut cookies = headers.get_all(COOKIE).iter();
    if cookies.next().is_none() || cookies.next().is_none() {
        return;
    }
    let all: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    // Parts of valid values, and `; ` between them, are valid.
    if let Ok(joined) = HeaderValue::from_bytes(&all.join(&b"; "[..])) {
        headers.insert(COOKIE, joined);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        headers
    }

    fn fields(headers: &HeaderMap) -> Vec<String> {
        let mut fields: Vec<_> =
            headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        fields.sort();
        fields
    }

    #[test]
    fn a_websocket_is_asked_for_in_one_way_only() {
        let right = [
            ("connection", "Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        assert!(ask_for_websocket(&headers(&right)));
        for (name, value, expected) in [
            ("connection", "keep-alive, upgrade", true),
            ("connection", "keep-alive", false),
            ("upgrade", "WebSocket", true),
            ("upgrade", "h2c", false),
            ("sec-websocket-version", "8", false),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ", false),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=a", false),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25j ZQ==", false),
            ("sec-websocket-key", "", false),
        ] {
            let mut other = headers(&right);
            other.insert(name, HeaderValue::from_static(value));
            assert_eq!(ask_for_websocket(&other), expected, "{name}: {value}");
        }
        for (name, value) in right {
            let mut other = headers(&right);
            other.remove(name);
            assert!(!ask_for_websocket(&other), "without {name}");
            other.append(name, HeaderValue::from_static(value));
            other.append(name, HeaderValue::from_static(value));
            // Lists may have several fields.
            assert_eq!(ask_for_websocket(&other), !name.starts_with("sec"), "two of {name}");
        }
    }

    #[test]
    fn forwarded_fields_are_replaced_unless_the_client_is_trusted() {
        let peer = HeaderValue::from_static("10.0.0.1");
        let sent = [
            ("host", "a.localhost"),
            ("forwarded", "for=6.6.6.6"),
            ("x-forwarded-for", "6.6.6.6"),
            ("x-forwarded-host", "evil"),
            ("x-forwarded-proto", "HTTPS"),
        ];
        let mut replaced = headers(&sent);
        assert_eq!(set_forwarded(&mut replaced, &peer, false), "http");
        assert_eq!(
            fields(&replaced),
            [
                "host: a.localhost",
                "x-forwarded-for: 10.0.0.1",
                "x-forwarded-host: a.localhost",
                "x-forwarded-proto: http"
            ]
        );
        let mut kept = headers(&sent);
        assert_eq!(set_forwarded(&mut kept, &peer, true), "https");
        assert_eq!(
            fields(&kept),
            [
                "forwarded: for=6.6.6.6",
                "host: a.localhost",
                "x-forwarded-for: 10.0.0.1",
                "x-forwarded-for: 6.6.6.6",
                "x-forwarded-host: evil",
                "x-forwarded-proto: https"
            ]
        );
        let mut none = headers(&[]);
        assert_eq!(set_forwarded(&mut none, &peer, true), "http");
        assert_eq!(fields(&none), ["x-forwarded-for: 10.0.0.1", "x-forwarded-proto: http"]);
    }

    #[test]
    fn several_cookie_fields_become_one() {
        for (sent, expected) in [
            (&[("cookie", "a=1"), ("cookie", "b=2")][..], &["cookie: a=1; b=2"][..]),
            (&[("cookie", "a=1; b=2")], &["cookie: a=1; b=2"]),
            (&[], &[]),
        ] {
            let mut headers = headers(sent);
            join_cookies(&mut headers);
            assert_eq!(fields(&headers), expected);
        }
    }
}
