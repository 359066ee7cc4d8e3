//! The id of a request, which is also its W3C trace id (<https://www.w3.org/TR/trace-context/>).

use http::{HeaderMap, HeaderName, HeaderValue};
use minnow_model::RequestId;
use minnow_runtime::TraceContext;
use minnow_telemetry::trace::{format_traceparent, parse_traceparent};

static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
static TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Where a request stands: in the caller's trace when it sent a valid `traceparent`, else in a new one. `flags` decides from
/// the trace id and the caller's span and flags whether the trace is recorded. Ids come from the thread's ChaCha generator,
/// so that nobody can guess those of others. A `tracestate` without a valid `traceparent` is removed, as the standard says.
pub(crate) fn begin(
    headers: &mut HeaderMap,
    flags: impl FnOnce(u128, Option<(u64, u8)>) -> u8,
) -> (RequestId, TraceContext) {
    let span_id = rand::random::<u64>().max(1);
    let (trace_id, parent) = match received(headers) {
        Some((trace_id, parent_id, parent_flags)) => (trace_id, Some((parent_id, parent_flags))),
        None => {
            headers.remove(&TRACESTATE);
            (rand::random::<u128>().max(1), None)
        }
    };
    let flags = flags(trace_id, parent);
    (RequestId(trace_id), TraceContext { span_id, parent_id: parent.map(|(span_id, _)| span_id), flags })
}

/// The caller's trace id, span id and flags. Several `traceparent` fields count as none.
fn received(headers: &HeaderMap) -> Option<(u128, u64, u8)> {
    let mut values = headers.get_all(&TRACEPARENT).iter();
    let (value, None) = (values.next()?, values.next()) else { return None };
    parse_traceparent(value.to_str().ok()?)
}

/// Makes `headers` say that what follows is part of the request's span.
pub(crate) fn set_traceparent(headers: &mut HeaderMap, id: RequestId, trace: &TraceContext) {
    let value = format_traceparent(id.0, trace.span_id, trace.flags);
    if let Ok(value) = HeaderValue::from_bytes(&value) {
        headers.insert(&TRACEPARENT, value);
    }
}

/// The id as a header value: 32 hex digits.
pub(crate) fn header_value(id: RequestId) -> HeaderValue {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = [0; 32];
    let mut rest = id.0;
    for place in text.iter_mut().rev() {
        *place = DIGITS.get((rest & 0xf) as usize).copied().unwrap_or(b'0');
        rest >>= 4;
    }
    HeaderValue::from_bytes(&text).unwrap_or(HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_valid_traceparent_is_continued_and_others_start_a_trace() {
        for (sent, continued) in
            [(&[SENT][..], true), (&[SENT, SENT], false), (&["00-4bf92f35-00f067aa0ba902b7-01"], false), (&[], false)]
        {
            let mut headers = HeaderMap::new();
            headers.insert(&TRACESTATE, HeaderValue::from_static("a=1"));
            for value in sent {
                headers.append(&TRACEPARENT, HeaderValue::from_static(value));
            }
            let (id, trace) = begin(&mut headers, |_, _| 1);
            assert_eq!(id.to_string() == "4bf92f3577b34da6a3ce929d0e0e4736", continued, "{sent:?}");
            assert_eq!(trace.parent_id, continued.then_some(0x00f0_67aa_0ba9_02b7), "{sent:?}");
            assert_eq!(trace.flags, 1);
            assert_eq!(headers.contains_key(&TRACESTATE), continued, "{sent:?}");
            set_traceparent(&mut headers, id, &trace);
            assert_eq!(received(&headers), Some((id.0, trace.span_id, 1)));
        }
    }

    #[test]
    fn ids_differ_and_read_back_from_the_header() {
        let mut ids = std::collections::HashSet::new();
        for _ in 0..1000 {
            let (id, _) = begin(&mut HeaderMap::new(), |_, _| 0);
            assert_eq!(header_value(id).to_str().unwrap(), id.to_string());
            assert!(ids.insert(id));
        }
    }
}
