//! What HTTP says about a blob in header fields, for the gateway's signed URLs and for the control API.

use std::collections::BTreeMap;

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{
        CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_TYPE, IF_MATCH, IF_NONE_MATCH,
    },
};
use minnow_store::bucket::{Conditions, Meta};

/// The content type of a blob that has none.
pub const NO_CONTENT_TYPE: HeaderValue = HeaderValue::from_static("application/octet-stream");

/// A header of a request that cannot be kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the value of the header `{0}` is not ASCII; escape what is not")]
pub struct NotAscii(HeaderName);

/// The etags in the value of an `if-match` or `if-none-match` field, with their quotes, or `*`.
pub fn etags(value: &HeaderValue) -> impl Iterator<Item = &str> {
    value.to_str().unwrap_or_default().split(',').map(str::trim).filter(|tag| !tag.is_empty())
}

/// A blob's etag as a header has it.
pub fn quoted(etag: &str) -> HeaderValue {
    // 64 hex digits.
    HeaderValue::try_from(format!("\"{etag}\"")).unwrap_or(HeaderValue::from_static("\"\""))
}

/// On what a client makes a write depend. A weak etag in `if-match` is never that of a blob; in `if-none-match` it is compared
/// as if it were strong (RFC 9110, section 13.1.2).
pub fn conditions(headers: &HeaderMap) -> Conditions {
    let named = |name: HeaderName| {
        let is_weak = name == IF_NONE_MATCH;
        let mut values = headers.get_all(name).iter().peekable();
        values.peek()?;
        // Without the quotes that are HTTP's.
        let bare = |tag: &str| {
            let tag = tag.strip_prefix("W/").filter(|_| is_weak).unwrap_or(tag);
            tag.strip_prefix('"').and_then(|tag| tag.strip_suffix('"')).unwrap_or(tag).to_owned()
        };
        Some(values.flat_map(etags).map(bare).collect())
    };
    Conditions { if_match: named(IF_MATCH), if_none_match: named(IF_NONE_MATCH), ..Conditions::default() }
}

/// What is to be kept with a blob that comes with these headers. Empty ones count as absent.
pub fn meta(headers: &HeaderMap) -> Result<Meta, NotAscii> {
    let text = |name: HeaderName| -> Result<Option<String>, NotAscii> {
        let Some(value) = headers.get(&name) else { return Ok(None) };
        let text = value.to_str().map_err(|_| NotAscii(name))?;
        Ok(Some(text.to_owned()).filter(|text| !text.is_empty()))
    };
    Ok(Meta {
        content_type: text(CONTENT_TYPE)?,
        content_encoding: text(CONTENT_ENCODING)?,
        content_language: text(CONTENT_LANGUAGE)?,
        content_disposition: text(CONTENT_DISPOSITION)?,
        cache_control: text(CACHE_CONTROL)?,
        custom: BTreeMap::new(),
    })
}

/// Sets the headers that are kept with a blob.
pub fn set_meta(headers: &mut HeaderMap, meta: &Meta) {
    for (name, value) in meta.headers() {
        // What is kept was checked to be the value of a header.
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(HeaderName, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        headers
    }

    #[test]
    fn conditions_are_the_etags_without_their_quotes() {
        let all = headers(&[(IF_MATCH, r#""a", W/"b""#), (IF_MATCH, "c"), (IF_NONE_MATCH, "*")]);
        let names = |names: &[&str]| Some(names.iter().map(ToString::to_string).collect::<Vec<_>>());
        let found = conditions(&all);
        assert_eq!((found.if_match, found.if_none_match), (names(&["a", "W/\"b\"", "c"]), names(&["*"])));
        let weak = headers(&[(IF_NONE_MATCH, r#"W/"a", "b", W/"c""#)]);
        assert_eq!(conditions(&weak).if_none_match, names(&["a", "b", "c"]), "a weak one must not let a write pass");
        assert_eq!(conditions(&headers(&[])), Conditions::default());
        assert_eq!(conditions(&headers(&[(IF_MATCH, "")])).if_match, names(&[]), "nothing matches an empty list");
    }

    #[test]
    fn what_was_kept_comes_back_as_it_was_sent() {
        let sent = headers(&[
            (CONTENT_TYPE, "image/png"),
            (CONTENT_DISPOSITION, "attachment; filename=\"a.png\""),
            (CONTENT_LANGUAGE, ""),
            (CACHE_CONTROL, "max-age=60"),
        ]);
        let meta = meta(&sent).unwrap();
        let mut back = HeaderMap::new();
        set_meta(&mut back, &meta);
        let mut expected = sent;
        expected.remove(CONTENT_LANGUAGE);
        assert_eq!(back, expected);
        let error = super::meta(&headers(&[(CONTENT_TYPE, "tëxt/plain")])).unwrap_err();
        assert_eq!(error.to_string(), "the value of the header `content-type` is not ASCII; escape what is not");
    }
}
