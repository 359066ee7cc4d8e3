//! Which requests reach a function: `[METHOD ]PATH` patterns. [`Router`] picks the most specific one.

mod table;

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

pub use table::{Found, RouteClash, Router};

/// The longest route path, in bytes. Far beyond what people write, and small enough to print in an error.
pub const MAX_PATH_BYTES: usize = 1024;

/// The most segments of one route. It bounds how deep a lookup can go.
pub const MAX_SEGMENTS: usize = 32;

/// One route of a function: `[METHOD ]PATH`, where PATH may hold `{name}` (one segment) and end in `{*rest}` (the rest of the
/// path, also empty). Literal segments are compared with the request's path as it was sent, without decoding `%XX`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RoutePattern {
    /// The method in upper case; `None` stands for every method.
    pub method: Option<String>,
    /// The path pattern, starting with `/`.
    pub path: String,
}

/// One part of a route's path, between two `/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Segment<'a> {
    Literal(&'a str),
    /// `{name}`: one segment that is not empty.
    Name(&'a str),
    /// `{*rest}`: what is left of the path.
    Rest(&'a str),
}

/// Why a route was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}; {remedy}")]
pub struct RouteError {
    /// What is wrong.
    pub reason: String,
    /// How to mend it.
    pub remedy: String,
}

impl RouteError {
    fn new<T>(reason: impl Into<String>, remedy: impl Into<String>) -> Result<T, Self> {
        Err(Self { reason: reason.into(), remedy: remedy.into() })
    }
}

impl RoutePattern {
    /// The path's segments. `/` has one empty segment, `/a/` ends with one, `/{*rest}` has only the rest.
    pub(crate) fn segments(&self) -> impl Iterator<Item = Segment<'_>> {
        self.path.split('/').skip(1).map(|text| match text.strip_prefix('{').and_then(|text| text.strip_suffix('}')) {
            Some(name) => match name.strip_prefix('*') {
                Some(rest) => Segment::Rest(rest),
                None => Segment::Name(name),
            },
            None => Segment::Literal(text),
        })
    }
}

impl FromStr for RoutePattern {
    type Err = RouteError;

    fn from_str(text: &str) -> Result<Self, RouteError> {
        let (method, path) = match text.split_once(' ') {
            Some((method, path)) => (Some(method), path),
            None => (None, text),
        };
        if let Some(method) = method {
            check_method(method)?;
        }
        check_path(path)?;
        Ok(Self { method: method.map(str::to_owned), path: path.to_owned() })
    }
}

fn check_method(method: &str) -> Result<(), RouteError> {
    if method.is_empty() {
        return RouteError::new("the route starts with a space", "write `/path` or `METHOD /path` with one space");
    }
    if method.starts_with('/') {
        return RouteError::new("a route's path contains no space", "write `%20` for a space in the path");
    }
    // RFC 9110 allows any token; every registered method is upper-case letters, some with `-`.
    let valid = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
    if method.len() > 32 || !method.bytes().all(valid) || !method.starts_with(|c: char| c.is_ascii_uppercase()) {
        let upper = method.to_ascii_uppercase();
        return if method.len() <= 32 && upper.bytes().all(valid) && upper.starts_with(|c: char| c.is_ascii_uppercase())
        {
            RouteError::new(format!("`{method}` is not a method; methods are upper case"), format!("write `{upper}`"))
        } else {
            RouteError::new("what stands before the path is not an HTTP method", "write for example `GET /path`")
        };
    }
    Ok(())
}

fn check_path(path: &str) -> Result<(), RouteError> {
    if !path.starts_with('/') {
        return RouteError::new("a route's path starts with `/`", "write `/path` or `METHOD /path` with one space");
    }
    if path.len() > MAX_PATH_BYTES {
        return RouteError::new(format!("the path is longer than {MAX_PATH_BYTES} bytes"), "shorten it");
    }
    let segments = path.split('/').skip(1).count();
    if segments > MAX_SEGMENTS {
        return RouteError::new(
            format!("the path has {segments} segments, the most is {MAX_SEGMENTS}"),
            "match the tail with `{*rest}`",
        );
    }
    let mut names = Vec::new();
    for (index, segment) in path.split('/').skip(1).enumerate() {
        let last = index + 1 == segments;
        if segment.is_empty() && !last {
            return RouteError::new("the path has an empty segment (`//`)", "write one `/`");
        }
        match segment.strip_prefix('{').and_then(|text| text.strip_suffix('}')) {
            Some(inner) => {
                let name = inner.strip_prefix('*').unwrap_or(inner);
                check_name(name)?;
                if inner.len() != name.len() && !last {
                    return RouteError::new(
                        format!("`{segment}` takes the rest of the path, so nothing can follow it"),
                        format!("write `{{{name}}}` for one segment, or move `{segment}` to the end"),
                    );
                }
                if names.contains(&name) {
                    return RouteError::new(format!("`{name}` stands twice in the path"), "give each its own name");
                }
                names.push(name);
            }
            None => check_literal(segment)?,
        }
    }
    Ok(())
}

fn check_name(name: &str) -> Result<(), RouteError> {
    let starts_well = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    if !starts_well || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        return RouteError::new(
            format!("`{name}` is not a name"),
            "use letters, digits and `_`, for example `{id}` or `{*rest}`",
        );
    }
    Ok(())
}

/// A literal segment is `*pchar` of RFC 3986: other characters never reach a server unescaped.
fn check_literal(segment: &str) -> Result<(), RouteError> {
    if segment.contains(['{', '}']) {
        return RouteError::new(
            format!("`{segment}` mixes a name with other text"),
            "let `{name}` be the whole segment, between two `/`",
        );
    }
    if segment == "*" || segment == "**" {
        return RouteError::new(
            format!("`{segment}` is not a wildcard here"),
            "write `{name}` for one segment or `{*rest}` for the rest of the path",
        );
    }
    if let Some(name) = segment.strip_prefix(':') {
        return RouteError::new(format!("`:{name}` is not a name here"), format!("write `{{{name}}}`"));
    }
    if segment == "." || segment == ".." {
        return RouteError::new(
            format!("clients resolve `{segment}` before they send a path"),
            "write the path that is left",
        );
    }
    let mut bytes = segment.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let hex = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_hexdigit());
                if !hex(bytes.next()) || !hex(bytes.next()) {
                    return RouteError::new("`%` stands without two hex digits", "write `%25` for the character `%`");
                }
            }
            b'?' | b'#' => {
                return RouteError::new("a route matches the path only", "leave out what follows `?` or `#`");
            }
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {}
            b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=' | b':' | b'@' => {}
            _ => {
                return RouteError::new(
                    format!("`{}` has a character that a path cannot hold", segment.escape_debug()),
                    "write it percent-encoded, for example `%20` for a space",
                );
            }
        }
    }
    Ok(())
}

impl fmt::Display for RoutePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.method {
            Some(method) => write!(f, "{method} {}", self.path),
            None => f.write_str(&self.path),
        }
    }
}

impl Serialize for RoutePattern {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for RoutePattern {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_reads_back_as_it_was_written() {
        for text in [
            "/",
            "/{*rest}",
            "/api/{*rest}",
            "/a/",
            "GET /a/{id}/b",
            "M-SEARCH /x",
            "/caf%C3%A9",
            "/a:b@c/!$&'()*+,;=-._~",
            "/.well-known/x",
        ] {
            let route: RoutePattern = text.parse().unwrap();
            assert_eq!(route.to_string(), text);
            let json = serde_json::to_string(&route).unwrap();
            assert_eq!(serde_json::from_str::<RoutePattern>(&json).unwrap(), route);
        }
    }

    #[test]
    fn a_bad_route_says_how_to_mend_it() {
        let long = format!("/{}", "x".repeat(MAX_PATH_BYTES));
        let deep = "/x".repeat(MAX_SEGMENTS + 1);
        for (text, part) in [
            ("", "starts with `/`"),
            ("api", "starts with `/`"),
            ("get /a", "write `GET`"),
            ("GE T /a", "starts with `/`"),
            (" /a", "starts with a space"),
            ("/a b", "%20"),
            ("GET  /a", "one space"),
            ("G(T /a", "not an HTTP method"),
            ("/a//b", "empty segment"),
            ("/{*rest}/a", "nothing can follow"),
            ("/{}", "is not a name"),
            ("/{*}", "is not a name"),
            ("/{a-b}", "is not a name"),
            ("/{a}/{a}", "stands twice"),
            ("/img-{id}.png", "whole segment"),
            ("/a/*", "{*rest}"),
            ("/users/:id", "write `{id}`"),
            ("/a/../b", "resolve"),
            ("/50%", "%25"),
            ("/a?b=1", "path only"),
            ("/ü", "percent-encoded"),
            ("/a\u{7}", "percent-encoded"),
            (&long, "longer than"),
            (&deep, "33 segments"),
        ] {
            let error = text.parse::<RoutePattern>().unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
