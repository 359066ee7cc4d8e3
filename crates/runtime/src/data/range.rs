//! Conditional and partial requests for static files and blobs (RFC 9110 sections 13 and 14).

use std::ops::Range;

use http::{
    HeaderMap, HeaderValue, Method, StatusCode,
    header::{
        ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_MATCH, IF_NONE_MATCH, IF_RANGE, RANGE,
        X_CONTENT_TYPE_OPTIONS,
    },
};

use super::blob_headers::etags;

/// What is sent of some content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sent {
    Whole,
    Part(Range<u64>),
    NotModified,
    /// It is not what the client expects it to be.
    Unmet,
    Unsatisfiable,
}

impl Sent {
    /// What a GET or HEAD with these headers gets of content of `size` bytes, by the preconditions in their order (RFC 9110
    /// section 13.2.2). `etag` is a strong one, with its quotes.
    pub fn of(method: &Method, headers: &HeaderMap, etag: &str, size: u64) -> Self {
        let named = |name, is_etag: fn(&str, &str) -> bool| {
            let mut values = headers.get_all(name).iter().peekable();
            values
                .peek()
                .is_some()
                .then(|| values.any(|value| etags(value).any(|tag| tag == "*" || is_etag(tag, etag))))
        };
        // By strong comparison: a weak one says that the bytes may differ.
        if named(IF_MATCH, |tag, etag| tag == etag) == Some(false) {
            return Self::Unmet;
        }
        if named(IF_NONE_MATCH, |tag, etag| tag.strip_prefix("W/").unwrap_or(tag) == etag) == Some(true) {
            return Self::NotModified;
        }
        // A part is only of use with the rest that the client has, if that is of the same content.
        let is_same = headers.get(IF_RANGE).is_none_or(|value| value.as_bytes() == etag.as_bytes());
        let (Some(range), true, true) = (headers.get(RANGE), *method == Method::GET, is_same) else {
            return Self::Whole;
        };
        match asked(range.to_str().unwrap_or_default(), size) {
            Asked::Whole => Self::Whole,
            Asked::Part(range) => Self::Part(range),
            Asked::Unsatisfiable => Self::Unsatisfiable,
        }
    }

    /// The status that says so.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Whole => StatusCode::OK,
            Self::Part(_) => StatusCode::PARTIAL_CONTENT,
            Self::NotModified => StatusCode::NOT_MODIFIED,
            Self::Unmet => StatusCode::PRECONDITION_FAILED,
            Self::Unsatisfiable => StatusCode::RANGE_NOT_SATISFIABLE,
        }
    }

    /// The bytes that are sent of content of `size` bytes.
    pub fn range(&self, size: u64) -> Range<u64> {
        match self {
            Self::Whole => 0..size,
            Self::Part(range) => range.clone(),
            Self::NotModified | Self::Unmet | Self::Unsatisfiable => 0..0,
        }
    }

    /// Sets what the answer says of the content: its etag, and where some of it is sent its type, length and range. It never is
    /// anything else than its type says.
    pub fn set_headers(&self, headers: &mut HeaderMap, etag: HeaderValue, size: u64, content_type: HeaderValue) {
        headers.insert(ETAG, etag);
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        let content_range = match self {
            Self::Part(range) => format!("bytes {}-{}/{size}", range.start, range.end.saturating_sub(1)),
            Self::Unsatisfiable => format!("bytes */{size}"),
            Self::Whole | Self::NotModified | Self::Unmet => String::new(),
        };
        if !content_range.is_empty()
            && let Ok(content_range) = HeaderValue::try_from(content_range)
        {
            headers.insert(CONTENT_RANGE, content_range);
        }
        if let Self::Whole | Self::Part(_) = self {
            let range = self.range(size);
            headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
            headers.insert(CONTENT_TYPE, content_type);
            headers.insert(CONTENT_LENGTH, HeaderValue::from(range.end - range.start));
        }
    }
}

/// What a `range` value asks of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Asked {
    /// All of it: no single byte range, or not a valid one, which RFC 9110 section 14.2 says to ignore.
    Whole,
    /// These bytes.
    Part(Range<u64>),
    /// Bytes that it does not have.
    Unsatisfiable,
}

/// What `value` asks of a file of `size` bytes. Several ranges get the whole file, which every client must take.
fn asked(value: &str, size: u64) -> Asked {
    parse(value, size).unwrap_or(Asked::Whole)
}

fn parse(value: &str, size: u64) -> Option<Asked> {
    let (unit, range) = value.split_once('=')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return None;
    }
    let (first, last) = range.trim().split_once('-')?;
    if first.is_empty() {
        // The last so many bytes.
        let length = number(last)?.min(size);
        return Some(if length == 0 { Asked::Unsatisfiable } else { Asked::Part(size - length..size) });
    }
    let first = number(first)?;
    let last = if last.is_empty() { u64::MAX } else { number(last)? };
    if last < first {
        return None;
    }
    Some(if first < size { Asked::Part(first..last.saturating_add(1).min(size)) } else { Asked::Unsatisfiable })
}

/// Decimal digits only: `parse` alone would take a sign. What is too long for a number is beyond the end of any file.
fn number(digits: &str) -> Option<u64> {
    let valid = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    valid.then(|| digits.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_byte_range_is_answered_and_other_forms_get_the_whole() {
        use Asked::{Part, Unsatisfiable, Whole};
        for (value, size, expected) in [
            ("bytes=0-0", 10, Part(0..1)),
            ("bytes=0-", 10, Part(0..10)),
            ("bytes=2-5", 10, Part(2..6)),
            ("Bytes = 2-5", 10, Part(2..6)),
            ("bytes=5-99", 10, Part(5..10)),
            ("bytes=9-18446744073709551615", 10, Part(9..10)),
            ("bytes=9-99999999999999999999999", 10, Part(9..10)),
            ("bytes=-3", 10, Part(7..10)),
            ("bytes=-99", 10, Part(0..10)),
            ("bytes=10-", 10, Unsatisfiable),
            ("bytes=99999999999999999999999-", 10, Unsatisfiable),
            ("bytes=-0", 10, Unsatisfiable),
            ("bytes=0-", 0, Unsatisfiable),
            ("bytes=-1", 0, Unsatisfiable),
            ("bytes=5-2", 10, Whole),
            ("bytes=0-1,4-5", 10, Whole),
            ("bytes=+1-2", 10, Whole),
            ("bytes=a-b", 10, Whole),
            ("bytes=-", 10, Whole),
            ("bytes=", 10, Whole),
            ("lines=0-1", 10, Whole),
            ("", 10, Whole),
        ] {
            assert_eq!(asked(value, size), expected, "{value} of {size}");
        }
    }

    #[test]
    fn preconditions_and_ranges_decide_what_is_sent() {
        const ETAG: &str = r#""abc""#;
        for (method, sent, expected) in [
            (Method::GET, &[][..], Sent::Whole),
            (Method::HEAD, &[], Sent::Whole),
            (Method::GET, &[(IF_NONE_MATCH, ETAG)], Sent::NotModified),
            (Method::HEAD, &[(IF_NONE_MATCH, ETAG)], Sent::NotModified),
            (Method::GET, &[(IF_NONE_MATCH, r#""old""#)], Sent::Whole),
            (Method::GET, &[(IF_NONE_MATCH, r#""old""#), (IF_NONE_MATCH, ETAG)], Sent::NotModified),
            (Method::GET, &[(IF_NONE_MATCH, ETAG), (RANGE, "bytes=0-1")], Sent::NotModified),
            (Method::GET, &[(IF_MATCH, ETAG)], Sent::Whole),
            (Method::GET, &[(IF_MATCH, ETAG), (RANGE, "bytes=2-3")], Sent::Part(2..4)),
            (Method::GET, &[(IF_MATCH, ETAG), (IF_NONE_MATCH, ETAG)], Sent::NotModified),
            (Method::GET, &[(IF_MATCH, r#""old""#), (IF_NONE_MATCH, ETAG)], Sent::Unmet),
            (Method::GET, &[(IF_MATCH, r#""old", "abc""#)], Sent::Whole),
            (Method::GET, &[(IF_MATCH, "*")], Sent::Whole),
            (Method::HEAD, &[(IF_MATCH, r#"W/"abc""#)], Sent::Unmet),
            (Method::GET, &[(IF_MATCH, "")], Sent::Unmet),
            (Method::GET, &[(RANGE, "bytes=2-3")], Sent::Part(2..4)),
            (Method::HEAD, &[(RANGE, "bytes=2-3")], Sent::Whole),
            (Method::GET, &[(RANGE, "bytes=99-")], Sent::Unsatisfiable),
            (Method::GET, &[(RANGE, "bytes=0-1,3-4")], Sent::Whole),
            (Method::GET, &[(RANGE, "bytes=2-3"), (IF_RANGE, ETAG)], Sent::Part(2..4)),
            (Method::GET, &[(RANGE, "bytes=2-3"), (IF_RANGE, r#"W/"abc""#)], Sent::Whole),
            (Method::GET, &[(RANGE, "bytes=2-3"), (IF_RANGE, "Tue, 15 Nov 1994 12:45:26 GMT")], Sent::Whole),
        ] {
            let mut headers = HeaderMap::new();
            for (name, value) in sent {
                headers.append(name, HeaderValue::from_static(value));
            }
            assert_eq!(Sent::of(&method, &headers, ETAG, 10), expected, "{method} {sent:?}");
        }
    }

    #[test]
    fn etags_of_if_none_match_are_compared_weakly() {
        for (value, expected) in [
            (r#""abc""#, true),
            (r#"W/"abc""#, true),
            (r#""x", "abc""#, true),
            (r#""x",W/"abc""#, true),
            ("*", true),
            (r#""abcd""#, false),
            ("abc", false),
            (r#"w/"abc""#, false),
            ("", false),
        ] {
            let headers = [(IF_NONE_MATCH, HeaderValue::from_static(value))].into_iter().collect();
            let sent = Sent::of(&Method::GET, &headers, r#""abc""#, 10);
            assert_eq!(sent == Sent::NotModified, expected, "{value}");
        }
    }

    #[test]
    fn an_answer_says_what_is_sent() {
        for (sent, expected) in [
            (Sent::Whole, (200, Some("10"), None, true)),
            (Sent::Part(2..4), (206, Some("2"), Some("bytes 2-3/10"), true)),
            (Sent::Unsatisfiable, (416, None, Some("bytes */10"), false)),
            (Sent::NotModified, (304, None, None, false)),
            (Sent::Unmet, (412, None, None, false)),
        ] {
            let mut headers = HeaderMap::new();
            sent.set_headers(&mut headers, HeaderValue::from_static(r#""abc""#), 10, HeaderValue::from_static("a/b"));
            let text = |name| headers.get(name).map(|value: &HeaderValue| value.to_str().unwrap());
            let found =
                (sent.status().as_u16(), text(CONTENT_LENGTH), text(CONTENT_RANGE), text(CONTENT_TYPE).is_some());
            assert_eq!(found, expected, "{sent:?}");
            assert_eq!((text(ETAG), text(X_CONTENT_TYPE_OPTIONS)), (Some(r#""abc""#), Some("nosniff")));
        }
    }
}
