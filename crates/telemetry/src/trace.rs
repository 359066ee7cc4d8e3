//! The `traceparent` header of W3C Trace Context, level 1: <https://www.w3.org/TR/trace-context/#traceparent-header>.

/// Length of a `traceparent` value of version 00: `00-<32 hex>-<16 hex>-<2 hex>`.
pub const TRACEPARENT_BYTES: usize = 55;

/// The trace id, the parent's span id and the flags of a `traceparent` value, or `None` where the standard says to
/// ignore it: version `ff`, ids of zero, upper-case digits, a wrong length. Versions after 00 are read by their first 55
/// bytes, with anything behind them set off by `-`.
pub fn parse_traceparent(value: &str) -> Option<(u128, u64, u8)> {
    let (head, rest) = value.as_bytes().split_at_checked(TRACEPARENT_BYTES)?;
    let (version, head) = field(head, 2)?;
    let (trace_id, head) = field(head, 32)?;
    let (parent_id, head) = field(head, 16)?;
    let (flags, _) = field(head, 2)?;
    let known = match version {
        0xff => return None,
        0 => rest.is_empty(),
        _ => rest.first().is_none_or(|byte| *byte == b'-'),
    };
    let parent_id = u64::try_from(parent_id).ok()?;
    let flags = u8::try_from(flags).ok()?;
    (known && trace_id != 0 && parent_id != 0).then_some((trace_id, parent_id, flags))
}

/// A field of `digits` hex digits, and what comes behind the `-` after it.
fn field(text: &[u8], digits: usize) -> Option<(u128, &[u8])> {
    let (hex, rest) = text.split_at_checked(digits)?;
    let mut value = 0;
    for byte in hex {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            _ => return None,
        };
        value = value << 4 | u128::from(digit);
    }
    match rest.split_first() {
        None => Some((value, rest)),
        Some((b'-', rest)) => Some((value, rest)),
        Some(_) => None,
    }
}

/// A `traceparent` value of version 00. ASCII, so valid in a header and as UTF-8.
pub fn format_traceparent(trace_id: u128, span_id: u64, flags: u8) -> [u8; TRACEPARENT_BYTES] {
    let mut value = [b'-'; TRACEPARENT_BYTES];
    let digits = [(0, 2, 0), (3, 32, trace_id), (36, 16, u128::from(span_id)), (53, 2, u128::from(flags))];
    for (start, length, mut number) in digits {
        for place in value.iter_mut().skip(start).take(length).rev() {
            let digit = (number & 0xf) as u8;
            *place = if digit < 10 { b'0' + digit } else { b'a' + digit - 10 };
            number >>= 4;
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: u128 = 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736;
    const SPAN: u64 = 0x00f0_67aa_0ba9_02b7;

    #[test]
    fn a_traceparent_is_read_as_the_standard_says() {
        let read = Some((TRACE, SPAN, 1));
        let cases = [
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", read),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00", Some((TRACE, SPAN, 0))),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-ff", Some((TRACE, SPAN, 0xff))),
            // A later version is read by its prefix.
            ("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", read),
            ("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what-the-future-holds", read),
            ("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01.what-the-future-holds", None),
            // Version 00 ends there.
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-extra", None),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-", None),
            ("ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", None),
            ("00-00000000000000000000000000000000-00f067aa0ba902b7-01", None),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01", None),
            ("00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01", None),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-00F067AA0BA902B7-01", None),
            ("00-4bf92f3577b34da6a3ce929d0e0e473g-00f067aa0ba902b7-01", None),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0x", None),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7", None),
            ("00_4bf92f3577b34da6a3ce929d0e0e4736_00f067aa0ba902b7_01", None),
            ("0-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-001", None),
            (" 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1", None),
            ("00-4bf92f3577b34da6a3ce929d0e0e473é-00f067aa0ba902b-01", None),
            ("", None),
        ];
        for (value, expected) in cases {
            assert_eq!(parse_traceparent(value), expected, "{value}");
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        let cases = [
            ((TRACE, SPAN, 1), "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
            ((1, 1, 0), "00-00000000000000000000000000000001-0000000000000001-00"),
            ((u128::MAX, u64::MAX, 255), "00-ffffffffffffffffffffffffffffffff-ffffffffffffffff-ff"),
        ];
        for ((trace_id, span_id, flags), expected) in cases {
            let written = format_traceparent(trace_id, span_id, flags);
            let written = std::str::from_utf8(&written).unwrap();
            assert_eq!(written, expected);
            assert_eq!(parse_traceparent(written), Some((trace_id, span_id, flags)));
        }
    }
}
