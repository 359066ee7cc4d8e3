//! Conditional and partial requests for static files (RFC 9110 sections 13 and 14).

use std::ops::Range;

/// Whether an `if-none-match` value names `etag`, by weak comparison. `etag` is a strong one, with its quotes.
pub(crate) fn matches_any(value: &str, etag: &str) -> bool {
    value.split(',').map(str::trim).any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag)
}

/// What a `range` value asks of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Asked {
    /// All of it: no single byte range, or not a valid one, which RFC 9110 section 14.2 says to ignore.
    Whole,
    /// These bytes.
    Part(Range<u64>),
    /// Bytes that it does not have.
    Unsatisfiable,
}

/// What `value` asks of a file of `size` bytes. Several ranges get the whole file, which every client must take.
pub(crate) fn asked(value: &str, size: u64) -> Asked {
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
    fn etags_are_compared_weakly() {
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
            assert_eq!(matches_any(value, r#""abc""#), expected, "{value}");
        }
    }
}
