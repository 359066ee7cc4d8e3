//! The Common Gateway Interface, version 1.1 (RFC 3875), by which a WASI command answers HTTP.
//!
//! The request is in the environment (section 4.1) and on standard input; the response is on standard output: header lines,
//! an empty line, the body (section 6). The body is streamed both ways.

use std::net::SocketAddr;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, request};
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// The longest header block of a response, in bytes; the gateway's own limit for requests is the same.
const MAX_HEAD_BYTES: usize = 64 << 10;

/// Header lines in a response.
const MAX_HEADERS: usize = 128;

/// Why a command's output is not a response.
#[derive(Debug, thiserror::Error)]
pub(super) enum CgiError {
    #[error("wrote nothing")]
    Empty,
    #[error("wrote no empty line after its headers")]
    NoEnd,
    #[error("wrote more than {MAX_HEAD_BYTES} bytes of headers")]
    TooLong,
    #[error("wrote something that is not a header: {0}")]
    Malformed(String),
    #[error("wrote `Status: {0}`, which is not a status code")]
    Status(String),
    #[error("wrote none of `Content-Type`, `Location` and `Status` (RFC 3875, section 6.2)")]
    NoField,
    #[error("its output could not be read: {0}")]
    Read(#[from] std::io::Error),
}

/// The meta-variables of a request (RFC 3875, section 4.1). `script_len` bytes of the path are SCRIPT_NAME, the rest is
/// PATH_INFO.
pub(super) fn variables(
    parts: &request::Parts,
    scheme: &str,
    peer: Option<SocketAddr>,
    script_len: usize,
) -> Vec<(String, String)> {
    let path = parts.uri.path();
    let script = path.get(..script_len).unwrap_or(path);
    let info = path.get(script_len..).unwrap_or_default();
    let authority = parts.uri.authority();
    let host = authority.map_or("localhost", |authority| authority.host());
    let default_port = if scheme == "https" { 443 } else { 80 };
    let port = authority.and_then(|authority| authority.port_u16()).unwrap_or(default_port);
    let protocol = format!("{:?}", parts.version);
    let mut variables = vec![
        ("GATEWAY_INTERFACE", "CGI/1.1".to_owned()),
        ("SERVER_SOFTWARE", concat!("minnow/", env!("CARGO_PKG_VERSION")).to_owned()),
        ("SERVER_PROTOCOL", protocol),
        ("SERVER_NAME", host.to_owned()),
        ("SERVER_PORT", port.to_string()),
        ("REQUEST_METHOD", parts.method.as_str().to_owned()),
        ("SCRIPT_NAME", script.to_owned()),
        ("PATH_INFO", percent_decoded(info)),
        ("QUERY_STRING", parts.uri.query().unwrap_or_default().to_owned()),
        // Not in the RFC, but every server sets them and programs rely on them.
        ("REQUEST_URI", parts.uri.path_and_query().map_or(path, |uri| uri.as_str()).to_owned()),
        ("REQUEST_SCHEME", scheme.to_owned()),
    ];
    if scheme == "https" {
        variables.push(("HTTPS", "on".to_owned()));
    }
    if let Some(peer) = peer {
        variables.push(("REMOTE_ADDR", peer.ip().to_string()));
        variables.push(("REMOTE_PORT", peer.port().to_string()));
    }
    let mut variables: Vec<(String, String)> =
        variables.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    for name in parts.headers.keys() {
        let values: Vec<&str> = parts.headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).collect();
        let value = values.join(if name == http::header::COOKIE { "; " } else { ", " });
        match name.as_str() {
            "content-type" => variables.push(("CONTENT_TYPE".into(), value)),
            "content-length" => variables.push(("CONTENT_LENGTH".into(), value)),
            // `Proxy:` would become HTTP_PROXY, which many HTTP clients obey (CVE-2016-5385, "httpoxy").
            "proxy" => {}
            // `X_Forwarded_For` would become the same variable as the `X-Forwarded-For` that the gateway sets. Web servers
            // drop such names, too.
            other if !other.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') => {}
            other => variables.push((format!("HTTP_{}", other.to_ascii_uppercase().replace('-', "_")), value)),
        }
    }
    variables
}

fn percent_decoded(path: &str) -> String {
    percent_encoding::percent_decode_str(path).decode_utf8_lossy().into_owned()
}

/// Reads the header block from a command's output. Returns the head and what was read of the body already.
pub(super) async fn read_head(
    output: &mut (impl AsyncRead + Unpin),
) -> Result<(http::response::Parts, Vec<u8>), CgiError> {
    let mut buffer = Vec::with_capacity(1024);
    let mut lines = Lines::default();
    loop {
        if let Some(end) = lines.end_of_head(&buffer) {
            let body = buffer.split_off(end);
            return Ok((parse_head(&buffer)?, body));
        }
        if buffer.len() >= MAX_HEAD_BYTES {
            return Err(CgiError::TooLong);
        }
        if output.read_buf(&mut buffer).await? == 0 {
            return Err(if buffer.is_empty() { CgiError::Empty } else { CgiError::NoEnd });
        }
    }
}

/// How far a head has been looked through: a command may write it byte by byte.
#[derive(Default)]
struct Lines {
    /// Where the line begins whose end has not come yet.
    begin: usize,
    /// What is before this has no further line end.
    seen: usize,
}

impl Lines {
    /// Where the body begins: behind the first empty line, whether lines end in LF or CRLF.
    fn end_of_head(&mut self, buffer: &[u8]) -> Option<usize> {
        while let Some(found) = buffer.get(self.seen..)?.iter().position(|byte| *byte == b'\n') {
            let end = self.seen + found;
            if matches!(buffer.get(self.begin..end), Some(b"" | b"\r")) {
                return Some(end + 1);
            }
            (self.begin, self.seen) = (end + 1, end + 1);
        }
        self.seen = buffer.len();
        None
    }
}

fn parse_head(head: &[u8]) -> Result<http::response::Parts, CgiError> {
    let mut lines = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let headers = match httparse::parse_headers(head, &mut lines) {
        Ok(httparse::Status::Complete((_, headers))) => headers,
        Ok(httparse::Status::Partial) => return Err(CgiError::NoEnd),
        Err(error) => return Err(CgiError::Malformed(error.to_string())),
    };
    let mut status = None;
    let mut fields = HeaderMap::with_capacity(headers.len());
    for header in headers.iter() {
        let malformed = || CgiError::Malformed(header.name.to_owned());
        if header.name.eq_ignore_ascii_case("status") {
            let text = String::from_utf8_lossy(header.value).into_owned();
            let code = text.split_whitespace().next().unwrap_or_default();
            status = Some(StatusCode::from_bytes(code.as_bytes()).map_err(|_| CgiError::Status(text.clone()))?);
            continue;
        }
        let name = HeaderName::from_bytes(header.name.as_bytes()).map_err(|_| malformed())?;
        fields.append(name, HeaderValue::from_bytes(header.value).map_err(|_| malformed())?);
    }
    let is_redirect = fields.contains_key(http::header::LOCATION);
    if status.is_none() && !is_redirect && !fields.contains_key(http::header::CONTENT_TYPE) {
        return Err(CgiError::NoField);
    }
    let status = status.unwrap_or(if is_redirect { StatusCode::FOUND } else { StatusCode::OK });
    let (mut parts, ()) = http::Response::new(()).into_parts();
    parts.status = status;
    parts.headers = fields;
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn head(output: &str) -> Result<(u16, usize, String), CgiError> {
        let (parts, body) = read_head(&mut output.as_bytes()).await?;
        Ok((parts.status.as_u16(), parts.headers.len(), String::from_utf8_lossy(&body).into_owned()))
    }

    #[tokio::test]
    async fn a_head_ends_at_the_first_empty_line() {
        for (output, expected) in [
            ("Content-Type: text/plain\n\nhello\n\n", (200, 1, "hello\n\n")),
            ("Content-Type: text/plain\r\n\r\nhello", (200, 1, "hello")),
            ("Status: 404 Not Found\nX-A: b\n\n", (404, 1, "")),
            ("Location: /there\n\n", (302, 1, "")),
            ("Status: 201\nLocation: /there\n\n", (201, 1, "")),
        ] {
            let (status, headers, body) = head(output).await.unwrap();
            assert_eq!((status, headers, body.as_str()), expected, "{output:?}");
        }
    }

    #[tokio::test]
    async fn a_head_may_come_in_pieces_of_any_size() {
        const OUTPUT: &[u8] = b"Content-Type: text/plain\r\nX-A: b\n\r\nbody\n\nbody";
        for size in 1..=OUTPUT.len() {
            let pieces = OUTPUT.chunks(size).map(|piece| Ok::<_, std::io::Error>(bytes::Bytes::from_static(piece)));
            let mut output = tokio_util::io::StreamReader::new(futures::stream::iter(pieces));
            let (parts, mut body) = read_head(&mut output).await.unwrap();
            output.read_to_end(&mut body).await.unwrap();
            assert_eq!((parts.headers.len(), &*body), (2, &b"body\n\nbody"[..]), "pieces of {size} bytes");
        }
    }

    #[test]
    fn a_head_that_comes_byte_by_byte_is_looked_through_once() {
        let head = b"X-A: b\n".repeat(1000);
        let mut lines = Lines::default();
        for length in 1..=head.len() {
            assert_eq!(lines.end_of_head(&head[..length]), None);
            assert_eq!(lines.seen, length, "nothing before is looked at again");
        }
    }

    #[tokio::test]
    async fn output_that_is_no_response_is_refused() {
        assert!(matches!(head("").await, Err(CgiError::Empty)));
        assert!(matches!(head("Content-Type: text/plain\n").await, Err(CgiError::NoEnd)));
        assert!(matches!(head("hello world\n\n").await, Err(CgiError::Malformed(_))));
        assert!(matches!(head("X-Only: 1\n\n").await, Err(CgiError::NoField)));
        assert!(matches!(head("Status: abc\n\n").await, Err(CgiError::Status(_))));
        assert!(matches!(head(&"A: b\n".repeat(20_000)).await, Err(CgiError::TooLong)));
    }

    #[test]
    fn the_request_is_in_the_meta_variables() {
        let (parts, ()) = http::Request::builder()
            .method("POST")
            .uri("http://app.localhost:7700/cgi/a%20b?x=1&y=2")
            .header("content-type", "text/plain")
            .header("x-thing", "one")
            .header("x-thing", "two")
            .header("proxy", "http://evil")
            .header("x_forwarded_for", "192.0.2.66")
            .header("x_forwarded-proto", "https")
            .header("x-forwarded-for", "192.0.2.1")
            .body(())
            .unwrap()
            .into_parts();
        let variables = variables(&parts, "http", Some("192.0.2.1:99".parse().unwrap()), 4);
        let get = |name: &str| variables.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        for (name, value) in [
            ("REQUEST_METHOD", Some("POST")),
            ("SCRIPT_NAME", Some("/cgi")),
            ("PATH_INFO", Some("/a b")),
            ("QUERY_STRING", Some("x=1&y=2")),
            ("SERVER_NAME", Some("app.localhost")),
            ("SERVER_PORT", Some("7700")),
            ("SERVER_PROTOCOL", Some("HTTP/1.1")),
            ("CONTENT_TYPE", Some("text/plain")),
            ("HTTP_X_THING", Some("one, two")),
            ("REMOTE_ADDR", Some("192.0.2.1")),
            ("HTTP_PROXY", None),
            ("HTTP_X_FORWARDED_FOR", Some("192.0.2.1")),
            ("HTTP_X_FORWARDED_PROTO", None),
        ] {
            assert_eq!(get(name), value, "{name}");
        }
    }
}
