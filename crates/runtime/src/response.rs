//! Whether a function's response can be sent at all: one that would break the client's connection is the function's failure.

use http::{HeaderMap, Response, StatusCode, header::CONTENT_LENGTH};
use http_body::Body as _;

use crate::invocation::{Body, Upgraded};

/// Why a response cannot be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadResponse {
    /// Interim responses are the server's own; after one of these a client waits for another, or speaks another protocol.
    #[error("its status {} is not a final one", .0.as_u16())]
    Interim(StatusCode),
    #[error("its content-length is not one number")]
    Length,
    #[error("its content-length is {0}, and it has no content")]
    Missing(u64),
}

/// The body length that the response claims, where it can be sent (RFC 9110 sections 8.6 and 15.2). `is_head`: it answers
/// a HEAD request, so it has no content whatever it claims.
pub(crate) fn check(response: &Response<Body>, is_head: bool) -> Result<Option<u64>, BadResponse> {
    let status = response.status();
    if status == StatusCode::SWITCHING_PROTOCOLS && response.extensions().get::<Upgraded>().is_some() {
        return Ok(None);
    }
    if status.is_informational() {
        return Err(BadResponse::Interim(status));
    }
    let claimed = content_length(response.headers())?;
    let has_content = !is_head && status != StatusCode::NOT_MODIFIED;
    match claimed {
        Some(length @ 1..) if has_content && response.body().is_end_stream() => Err(BadResponse::Missing(length)),
        claimed => Ok(claimed),
    }
}

/// The body length that the headers claim.
pub fn content_length(headers: &HeaderMap) -> Result<Option<u64>, BadResponse> {
    let mut claimed = None;
    for value in headers.get_all(CONTENT_LENGTH) {
        let digits = value.to_str().ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
        let length: u64 = digits.and_then(|text| text.parse().ok()).ok_or(BadResponse::Length)?;
        if claimed.is_some_and(|claimed| claimed != length) {
            return Err(BadResponse::Length);
        }
        claimed = Some(length);
    }
    Ok(claimed)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use http_body_util::{BodyExt as _, Empty, Full};

    use super::*;

    #[test]
    fn a_claimed_length_is_one_number() {
        for (sent, expected) in [
            (&[][..], Ok(None)),
            (&["5"], Ok(Some(5))),
            (&["5", "5"], Ok(Some(5))),
            (&["5", "6"], Err(BadResponse::Length)),
            (&["+5"], Err(BadResponse::Length)),
            (&["5, 5"], Err(BadResponse::Length)),
            (&[""], Err(BadResponse::Length)),
            (&["99999999999999999999"], Err(BadResponse::Length)),
        ] {
            let mut headers = HeaderMap::new();
            for value in sent {
                headers.append(CONTENT_LENGTH, HeaderValue::from_static(value));
            }
            assert_eq!(content_length(&headers), expected, "{sent:?}");
        }
    }

    #[test]
    fn a_response_that_would_break_the_connection_is_refused() {
        let full = || Body::new(Full::from("hello").map_err(|never| match never {}));
        let empty = || Body::new(Empty::new().map_err(|never| match never {}));
        for (what, status, length, body, is_head, expected) in [
            ("a plain response", 200, None, full(), false, Ok(None)),
            ("with its true length", 200, Some("5"), full(), false, Ok(Some(5))),
            ("with another length", 200, Some("7"), full(), false, Ok(Some(7))),
            ("with a length that is none", 200, Some("five"), full(), false, Err(BadResponse::Length)),
            ("without the content it claims", 200, Some("5"), empty(), false, Err(BadResponse::Missing(5))),
            ("without content, and saying so", 200, Some("0"), empty(), false, Ok(Some(0))),
            ("to HEAD, with the length GET would have", 200, Some("5"), empty(), true, Ok(Some(5))),
            ("not modified", 304, Some("5"), empty(), false, Ok(Some(5))),
            ("an interim response", 103, None, empty(), false, Err(BadResponse::Interim(StatusCode::EARLY_HINTS))),
            ("an upgrade", 101, None, empty(), false, Err(BadResponse::Interim(StatusCode::SWITCHING_PROTOCOLS))),
        ] {
            let mut response = Response::new(body);
            *response.status_mut() = StatusCode::from_u16(status).unwrap();
            if let Some(length) = length {
                response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static(length));
            }
            assert_eq!(check(&response, is_head), expected, "{what}");
        }
    }

    #[test]
    fn only_the_answer_to_an_offer_may_leave_http() {
        for (status, expected) in
            [(101, Ok(None)), (103, Err(BadResponse::Interim(StatusCode::EARLY_HINTS))), (200, Ok(None))]
        {
            let mut response = Response::new(Body::new(Empty::new().map_err(|never| match never {})));
            *response.status_mut() = StatusCode::from_u16(status).unwrap();
            response.extensions_mut().insert(Upgraded);
            assert_eq!(check(&response, false), expected, "{status}");
        }
    }
}
