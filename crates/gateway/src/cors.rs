//! Pages of other origins that use signed URLs (<https://fetch.spec.whatwg.org/#http-cors-protocol>).
//!
//! The URL is what lets somebody in, and no cookie: so `access-control-allow-credentials` is never sent. A preflight is answered
//! for the method that it asks for, and only where the URL was signed for that: who has no URL learns nothing of a bucket.

use http::{
    HeaderMap, HeaderName, HeaderValue, Response, StatusCode,
    header::{
        ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
        ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
    },
    request,
};
use minnow_model::{Code, Origin};

use crate::{body::Content, refusal::Refusal};

/// What a page may send: the headers that signed URLs know.
const ALLOWED_HEADERS: &str = "content-type, content-encoding, content-language, content-disposition, range, if-range, \
                               if-match, if-none-match";
/// What a page may read of an answer, beside what it always may: the etag of what it put, and what part it got.
const EXPOSED_HEADERS: &str = "etag, content-range";
/// How long a browser may go by a preflight, in seconds: a change of the manifest counts after ten minutes.
const MAX_AGE: &str = "600";

type Headers = Vec<(HeaderName, HeaderValue)>;

/// What the answer to a request has in its head, where `origins` may read it.
pub(crate) fn headers(origins: &[&Origin], request: &HeaderMap) -> Headers {
    let mut headers = allowed(origins, request);
    if headers.iter().any(|(name, _)| name == ACCESS_CONTROL_ALLOW_ORIGIN) {
        headers.push((ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED_HEADERS)));
    }
    headers
}

/// Who may read the answer, if the request comes from a page that may.
fn allowed(origins: &[&Origin], request: &HeaderMap) -> Headers {
    let mut headers = Vec::new();
    if origins.iter().any(|origin| origin.is_any()) {
        headers.push((ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*")));
    } else if !origins.is_empty() {
        // Also for a request of another origin, or of none: what is cached of it is not for the others.
        headers.push((VARY, HeaderValue::from_static("origin")));
        let sent = request.get(ORIGIN).filter(|sent| {
            let sent = sent.to_str().unwrap_or_default();
            origins.iter().any(|origin| origin.admits(sent))
        });
        headers.extend(sent.map(|sent| (ACCESS_CONTROL_ALLOW_ORIGIN, sent.clone())));
    }
    headers
}

/// Answers an OPTIONS; `origins` gives those of the bucket, if the URL was signed for a method.
pub(crate) fn preflight<'a>(
    head: &request::Parts,
    origins: impl FnOnce(&str) -> Result<Vec<&'a Origin>, Refusal>,
) -> Result<Response<Content>, Refusal> {
    let asked = head.headers.get(ACCESS_CONTROL_REQUEST_METHOD).and_then(|method| method.to_str().ok());
    let (Some(asked), true) = (asked, head.headers.contains_key(ORIGIN)) else {
        return Err(Code::SignatureInvalid.into());
    };
    let allowed = allowed(&origins(asked)?, &head.headers);
    if !allowed.iter().any(|(name, _)| name == ACCESS_CONTROL_ALLOW_ORIGIN) {
        // As without CORS: only what was signed works.
        return Err(Refusal { headers: allowed, ..Refusal::method_not_allowed(vec![asked.to_owned()]) });
    }
    let mut response = Response::new(Content::Empty);
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    headers.extend(allowed);
    // One that was verified, so a plain word.
    if let Ok(asked) = HeaderValue::try_from(asked) {
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, asked);
    }
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(ALLOWED_HEADERS));
    headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static(MAX_AGE));
    Ok(response)
}

#[cfg(test)]
mod tests {
    use http::{Method, Request};

    use super::*;

    fn list(origins: &[&str]) -> Vec<Origin> {
        origins.iter().map(|origin| origin.parse().unwrap()).collect()
    }

    fn shown(headers: impl IntoIterator<Item = (HeaderName, HeaderValue)>) -> String {
        let shown = headers.into_iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()));
        shown.collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn only_pages_of_the_origins_that_are_named_may_read_an_answer() {
        const OPEN: &str = "access-control-allow-origin: *; access-control-expose-headers: etag, content-range";
        let one = "vary: origin; access-control-allow-origin: https://a.example; access-control-expose-headers: etag, content-range";
        for (origins, sent, expected) in [
            (vec![], Some("https://a.example"), ""),
            (vec!["*"], Some("https://a.example"), OPEN),
            (vec!["https://a.example", "*"], Some("null"), OPEN),
            (vec!["*"], None, OPEN),
            (vec!["https://a.example"], None, "vary: origin"),
            (vec!["https://b.example", "https://a.example"], Some("https://a.example"), one),
            (vec!["https://a.example"], Some("https://a.example.evil"), "vary: origin"),
            (vec!["https://a.example"], Some("null"), "vary: origin"),
            (vec!["https://a.example"], Some("HTTPS://A.EXAMPLE"), "vary: origin"),
        ] {
            let mut request = HeaderMap::new();
            if let Some(sent) = sent {
                request.insert(ORIGIN, sent.parse().unwrap());
            }
            let list = list(&origins);
            let headers = headers(&list.iter().collect::<Vec<_>>(), &request);
            assert_eq!(shown(headers), expected, "{origins:?} {sent:?}");
        }
    }

    #[test]
    fn a_preflight_is_answered_for_what_was_signed_and_who_is_let_in() {
        let list = list(&["https://a.example"]);
        let ask = |origin: Option<&str>, method: Option<&str>, signed: bool| {
            let mut request = Request::builder().method(Method::OPTIONS);
            for (name, value) in [(ORIGIN, origin), (ACCESS_CONTROL_REQUEST_METHOD, method)] {
                if let Some(value) = value {
                    request = request.header(name, value);
                }
            }
            let (head, ()) = request.body(()).unwrap().into_parts();
            let origins = |method: &str| {
                assert_eq!(method, "PUT");
                if signed { Ok(list.iter().collect()) } else { Err(Code::SignatureInvalid.into()) }
            };
            match preflight(&head, origins) {
                Ok(response) => (
                    response.status().as_u16(),
                    shown(response.headers().clone().into_iter().map(|(name, value)| (name.unwrap(), value))),
                ),
                Err(refusal) => (refusal.problem.status, shown(refusal.headers)),
            }
        };
        let (status, headers) = ask(Some("https://a.example"), Some("PUT"), true);
        assert_eq!(status, 204);
        for part in [
            "access-control-allow-origin: https://a.example",
            "access-control-allow-methods: PUT",
            "access-control-allow-headers: content-type, ",
            "vary: origin",
        ] {
            assert!(headers.contains(part), "{headers}");
        }
        assert!(!headers.contains("credentials"), "{headers}");
        assert_eq!(ask(Some("https://b.example"), Some("PUT"), true), (405, "vary: origin".into()));
        for (origin, method) in [(None, Some("PUT")), (Some("https://a.example"), None)] {
            assert_eq!(ask(origin, method, true), (403, String::new()));
        }
        assert_eq!(ask(Some("https://a.example"), Some("PUT"), false), (403, String::new()));
    }
}
