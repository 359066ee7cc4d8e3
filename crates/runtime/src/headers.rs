//! Header fields that belong to one connection, and so are not passed on.

use http::{
    HeaderMap, HeaderName,
    header::{
        CONNECTION, CONTENT_LENGTH, HOST, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE,
    },
};

/// Whether a field is about one connection only (RFC 9110 section 7.6.1, and the older ones that it names).
fn is_hop_by_hop(name: &HeaderName) -> bool {
    *name == CONNECTION
        || *name == TRANSFER_ENCODING
        || *name == UPGRADE
        || *name == TE
        || *name == PROXY_AUTHENTICATE
        || *name == PROXY_AUTHORIZATION
        || matches!(name.as_str(), "keep-alive" | "proxy-connection")
}

/// Removes the fields that are about one connection only, and those that `connection` names.
pub fn remove_hop_by_hop(headers: &mut HeaderMap) {
    // Most messages have none: one pass over the names, no lookups.
    if headers.keys().any(is_hop_by_hop) {
        remove_found(headers);
    }
}

#[cold]
fn remove_found(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        // Whoever names these would take away what the node itself relies on.
        .filter(|name| *name != HOST && *name != CONTENT_LENGTH)
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in [CONNECTION, TRANSFER_ENCODING, UPGRADE, TE, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION] {
        headers.remove(name);
    }
    headers.remove("keep-alive");
    headers.remove("proxy-connection");
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
    fn fields_of_one_connection_are_removed() {
        for (before, after) in [
            (&[("host", "a"), ("accept", "*/*")][..], &["accept: */*", "host: a"][..]),
            (&[("connection", "keep-alive"), ("keep-alive", "timeout=5"), ("host", "a")], &["host: a"]),
            (&[("connection", "X-Hop, close"), ("x-hop", "1"), ("x-stays", "1")], &["x-stays: 1"]),
            (&[("connection", "x-a"), ("connection", "x-b"), ("x-a", "1"), ("x-b", "1")], &[]),
            (
                &[("connection", "host, content-length"), ("host", "a"), ("content-length", "3")],
                &["content-length: 3", "host: a"],
            ),
            (&[("connection", "not a name, x-a"), ("x-a", "1")], &[]),
            (&[("transfer-encoding", "chunked"), ("te", "trailers"), ("upgrade", "websocket")], &[]),
            (&[("proxy-connection", "close"), ("proxy-authorization", "x"), ("proxy-authenticate", "y")], &[]),
        ] {
            let mut headers = headers(before);
            remove_hop_by_hop(&mut headers);
            assert_eq!(fields(&headers), after, "{before:?}");
        }
    }
}
