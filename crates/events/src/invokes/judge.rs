//! What a try comes to. Pure: from values to values.

use std::time::Duration;

use minnow_model::{
    event::{Async, Backoff},
    problem::Code,
};
use minnow_runtime::Delivered;

/// How often a URL is tried again that is to be told of a run. A topic is tried for as long as the run's result is kept.
pub(super) const MAX_TELLS: u32 = 5;

/// What becomes of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    Succeeded,
    Failed(String),
    /// It is tried again at this time, in milliseconds since 1970, after so many tries that count.
    Again {
        due_ms: u64,
        tries: u32,
        reason: String,
    },
    /// There was no room; it is as if it had not been tried.
    NotNow(Code, Option<Duration>),
}

/// What becomes of a run after a try. `tries` are those before it that count, `draw` is from 0 to 1, times are in milliseconds since
/// 1970.
pub(super) fn judge(
    delivered: &Delivered,
    settings: &Async,
    tries: u32,
    created_ms: u64,
    now_ms: u64,
    draw: f64,
) -> Verdict {
    let (reason, later) = match delivered {
        Delivered::Answered { status: 200..=299, .. } => return Verdict::Succeeded,
        Delivered::NotNow(code, after) => return Verdict::NotNow(*code, *after),
        // It does not become shorter.
        Delivered::Failed(Code::RequestTooLarge) => {
            return Verdict::Failed("its body is larger than the function's `limits.request_body`".into());
        }
        Delivered::Failed(code) => (format!("{}: {}", code.as_str(), code.title()), None),
        Delivered::Answered { status, retry_after, .. } => (format!("the function answered {status}"), *retry_after),
    };
    // What the function asks for costs no try.
    let (tries, wait) = match later {
        Some(after) => (tries, after),
        None => (tries.saturating_add(1), settings.backoff.wait(tries.saturating_add(1), draw)),
    };
    if tries > settings.retries {
        return Verdict::Failed(reason);
    }
    let due_ms = now_ms.saturating_add(ms(wait));
    if is_over(settings, created_ms, due_ms) {
        let age = humantime::format_duration(settings.max_age);
        return Verdict::Failed(format!("max_age: it would be older than {age} at the next try; {reason}"));
    }
    Verdict::Again { due_ms, tries, reason }
}

/// Why a run is not tried any more, because of its age at `now_ms`; `None` when it is. `before` is why the last try failed.
pub(super) fn expired(settings: &Async, created_ms: u64, now_ms: u64, before: Option<&str>) -> Option<String> {
    let age = humantime::format_duration(settings.max_age);
    let before = before.map(|before| format!("; {before}")).unwrap_or_default();
    is_over(settings, created_ms, now_ms).then(|| format!("max_age: it has waited for longer than {age}{before}"))
}

fn is_over(settings: &Async, created_ms: u64, at_ms: u64) -> bool {
    at_ms.saturating_sub(created_ms) > ms(settings.max_age)
}

/// When a destination is told again that could not be told, in milliseconds since 1970; `None` when that is given up. `tries` are all
/// so far, `until_ms` is how long the run's result is kept.
pub(super) fn tell_again(
    backoff: &Backoff,
    is_topic: bool,
    tries: u32,
    until_ms: u64,
    now_ms: u64,
    draw: f64,
) -> Option<u64> {
    let due_ms = now_ms.saturating_add(ms(backoff.wait(tries, draw)));
    let goes_on = if is_topic { due_ms <= until_ms } else { tries <= MAX_TELLS };
    goes_on.then_some(due_ms)
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn answered(status: u16, retry_after_s: Option<u64>) -> Delivered {
        let retry_after = retry_after_s.map(Duration::from_secs);
        Delivered::Answered { status, retry_after, answer: Bytes::new(), acks: None }
    }

    fn settings(retries: u32) -> Async {
        let backoff = Backoff { least: Duration::from_secs(1), most: Duration::from_secs(3) };
        Async { retries, backoff, max_age: Duration::from_secs(60), ..Async::default() }
    }

    #[test]
    fn what_a_try_comes_to() {
        let again = |due_ms, tries, reason: &str| Verdict::Again { due_ms, tries, reason: reason.into() };
        let failed = |reason: &str| Verdict::Failed(reason.into());
        let trap = "function_trapped: The function crashed";
        for (name, delivered, tries, now_ms, expected) in [
            ("200", answered(200, None), 0, 0, Verdict::Succeeded),
            ("204 at last", answered(204, None), 2, 99_000, Verdict::Succeeded),
            ("500", answered(500, None), 0, 1000, again(2000, 1, "the function answered 500")),
            ("404", answered(404, None), 1, 1000, again(3000, 2, "the function answered 404")),
            ("302", answered(302, None), 2, 1000, failed("the function answered 302")),
            ("503 for later", answered(503, Some(9)), 2, 1000, again(10_000, 2, "the function answered 503")),
            (
                "503 for too long",
                answered(503, Some(60)),
                0,
                1000,
                failed("max_age: it would be older than 1m at the next try; the function answered 503"),
            ),
            ("to the last moment", answered(503, Some(59)), 0, 1000, again(60_000, 0, "the function answered 503")),
            (
                "too old to be tried again",
                answered(500, None),
                0,
                59_001,
                failed("max_age: it would be older than 1m at the next try; the function answered 500"),
            ),
            ("a trap", Delivered::Failed(Code::FunctionTrapped), 0, 0, again(1000, 1, trap)),
            ("the last trap", Delivered::Failed(Code::FunctionTrapped), 2, 0, failed(trap)),
            (
                "too large",
                Delivered::Failed(Code::RequestTooLarge),
                0,
                0,
                failed("its body is larger than the function's `limits.request_body`"),
            ),
            ("no room", Delivered::NotNow(Code::Overloaded, None), 2, 99_000, Verdict::NotNow(Code::Overloaded, None)),
        ] {
            let verdict = judge(&delivered, &settings(2), tries, 0, now_ms, 0.5);
            match (&verdict, &expected) {
                (Verdict::Failed(reason), Verdict::Failed(part)) => {
                    assert!(reason.starts_with(part.as_str()), "{name}: {reason}")
                }
                (
                    Verdict::Again { due_ms, tries, reason },
                    Verdict::Again { due_ms: due, tries: count, reason: part },
                ) => {
                    assert_eq!((due_ms, tries), (due, count), "{name}");
                    assert!(reason.starts_with(part.as_str()), "{name}: {reason}");
                }
                _ => assert_eq!(verdict, expected, "{name}"),
            }
        }
    }

    #[test]
    fn what_has_waited_for_too_long_is_not_tried() {
        let settings = settings(2);
        assert_eq!(expired(&settings, 1000, 61_000, None), None);
        assert_eq!(expired(&settings, 1000, 500, None), None);
        let reason = expired(&settings, 1000, 61_001, Some("the function answered 500")).unwrap();
        assert_eq!(reason, "max_age: it has waited for longer than 1m; the function answered 500");
    }

    #[test]
    fn a_url_is_told_six_times_and_a_topic_for_a_day() {
        let backoff = settings(0).backoff;
        let tell = |is_topic, tries, now_ms| tell_again(&backoff, is_topic, tries, 100_000, now_ms, 0.5);
        assert_eq!(tell(false, 1, 5000), Some(6000));
        assert_eq!(tell(false, 5, 5000), Some(8000));
        assert_eq!(tell(false, 6, 5000), None);
        assert_eq!(tell(true, 600, 97_000), Some(100_000));
        assert_eq!(tell(true, 600, 97_001), None);
    }
}
