//! What a delivery comes to for each of its messages. Pure: from values to values.

use std::time::Duration;

use minnow_model::{Subscription, event::BACKOFF, problem::Code};
use minnow_runtime::{Acks, Delivered, RetryAsked};
use minnow_store::topic::{At, Death, Delivery, MAX_DEAD_ANSWER_BYTES, Settled};

/// How long a message may be put off by `Retry-After`, which costs it no try. A day: whoever is away for longer does not come back by
/// itself.
pub(crate) const MAX_POSTPONED: Duration = Duration::from_secs(24 * 3600);

/// What is settled, and whether the subscription pauses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// One for each delivery, in their order.
    pub(crate) results: Vec<(At, u64, Settled)>,
    /// The node or the function had no room: why, and for how long if that is known.
    pub(crate) pause: Option<(Code, Option<Duration>)>,
}

/// What becomes of `deliveries`, which were given to the function together. `draw` gives numbers from 0 to 1, `now_ms` is the time.
pub(crate) fn judge(
    delivered: &Delivered,
    deliveries: &[Delivery],
    subscription: &Subscription,
    now_ms: u64,
    draw: &mut impl FnMut() -> f64,
) -> Verdict {
    let pause = match delivered {
        Delivered::NotNow(code, after) => Some((*code, *after)),
        _ => None,
    };
    let results = deliveries.iter().map(|delivery| {
        let settled = settle(delivered, delivery, deliveries.len(), subscription, now_ms, draw);
        (delivery.at, delivery.generation, settled)
    });
    Verdict { results: results.collect(), pause }
}

fn settle(
    delivered: &Delivered,
    delivery: &Delivery,
    together: usize,
    subscription: &Subscription,
    now_ms: u64,
    draw: &mut impl FnMut() -> f64,
) -> Settled {
    let mut fail = |after: Option<Duration>, failure: Failure<'_>| {
        let tries = delivery.tries.saturating_add(1);
        if tries > subscription.retries {
            return dead(failure, subscription);
        }
        let after = after.map_or_else(|| subscription.backoff.wait(tries, draw()), at_least);
        Settled::Retry { after, counted: true }
    };
    match delivered {
        Delivered::NotNow(..) => Settled::Release,
        // Alone it may fit.
        Delivered::Failed(Code::RequestTooLarge) if together > 1 => Settled::ReleaseAlone,
        // It does not become shorter.
        Delivered::Failed(Code::RequestTooLarge) => dead(
            Failure {
                reason: "it is larger than the function's `limits.request_body`".into(),
                status: None,
                answer: &[],
            },
            subscription,
        ),
        Delivered::Failed(code) => {
            let reason = format!("{}: {}", code.as_str(), code.title());
            fail(None, Failure { reason, status: None, answer: &[] })
        }
        Delivered::Answered { status: 200..=299, acks: None, .. } => Settled::Done,
        Delivered::Answered { status: status @ 200..=299, acks: Some(acks), .. } => match asked(acks, delivery) {
            None if acks.untried.contains(&delivery.position) => Settled::Release,
            None => Settled::Done,
            Some(RetryAsked { after, reason: Some(reason), .. }) => {
                fail(*after, Failure { reason: reason.clone(), status: None, answer: &[] })
            }
            Some(RetryAsked { after, .. }) => {
                let reason = "the function asked for it again".into();
                fail(*after, Failure { reason, status: Some(*status), answer: &[] })
            }
        },
        Delivered::Answered { status, retry_after: Some(after), answer, .. } => {
            let waited = Duration::from_millis(now_ms.saturating_sub(delivery.first_ms));
            if waited > MAX_POSTPONED {
                let reason = format!("postponed: the function answered {status} with `retry-after` for a day");
                return dead(Failure { reason, status: Some(*status), answer }, subscription);
            }
            Settled::Retry { after: at_least(*after), counted: false }
        }
        Delivered::Answered { status, answer, .. } => {
            fail(None, Failure { reason: format!("the function answered {status}"), status: Some(*status), answer })
        }
    }
}

/// Who asks for a message at once would have it run all the time.
fn at_least(after: Duration) -> Duration {
    after.max(*BACKOFF.start())
}

/// Whether the function asked for the message again.
fn asked<'a>(acks: &'a Acks, delivery: &Delivery) -> Option<&'a RetryAsked> {
    acks.retry.iter().find(|retry| retry.sequence == delivery.position)
}

struct Failure<'a> {
    reason: String,
    status: Option<u16>,
    answer: &'a [u8],
}

fn dead(failure: Failure<'_>, subscription: &Subscription) -> Settled {
    let Failure { reason, status, answer } = failure;
    let answer = answer.get(..MAX_DEAD_ANSWER_BYTES).unwrap_or(answer).to_vec().into();
    Settled::Dead(Box::new(Death { reason, status, answer, forward: subscription.dead_letter.clone() }))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use minnow_model::event::{Backoff, Event};

    use super::*;

    const DAY_MS: u64 = 24 * 3600 * 1000;

    fn delivery(position: u64, tries: u32) -> Delivery {
        let event = Event {
            id: "1".into(),
            source: "/".into(),
            kind: "t".into(),
            subject: None,
            time_ms: None,
            content_type: None,
            extensions: Default::default(),
            data: Bytes::new(),
        };
        Delivery {
            at: At::Log(position),
            generation: 3,
            position,
            event: Arc::new(event),
            time_ms: 0,
            tries,
            first_ms: 1000,
            alone: tries > 0,
        }
    }

    fn answered(status: u16, retry_after_s: Option<u64>) -> Delivered {
        let retry_after = retry_after_s.map(Duration::from_secs);
        Delivered::Answered { status, retry_after, answer: "why".into(), acks: None }
    }

    fn subscription(retries: u32) -> Subscription {
        let backoff = Backoff { least: Duration::from_secs(1), most: Duration::from_secs(60) };
        Subscription { retries, backoff, ..Subscription::of("orders".parse().unwrap()) }
    }

    #[test]
    fn what_an_answer_means_for_one_message() {
        let retry = |seconds, counted| Settled::Retry { after: Duration::from_secs(seconds), counted };
        let dead = |reason: &str, status, answer: &'static str| {
            let forward = None;
            Settled::Dead(Box::new(Death { reason: reason.into(), status, answer: answer.into(), forward }))
        };
        for (name, delivered, tries, now_ms, expected) in [
            ("200", answered(200, None), 0, 0, Settled::Done),
            ("299", answered(299, None), 5, 0, Settled::Done),
            // Only 429 and 503 come with a time, from the runtime; what came with one is believed.
            ("500", answered(500, None), 0, 0, retry(1, true)),
            ("302", answered(302, None), 0, 0, retry(1, true)),
            ("404", answered(404, None), 1, 0, retry(2, true)),
            ("the last try", answered(500, None), 2, 0, dead("the function answered 500", Some(500), "why")),
            ("503 without a time", answered(503, None), 0, 0, retry(1, true)),
            ("503 for later", answered(503, Some(7)), 2, 2000, retry(7, false)),
            (
                "429 at once",
                answered(429, Some(0)),
                2,
                2000,
                Settled::Retry { after: Duration::from_millis(100), counted: false },
            ),
            ("for a day", answered(503, Some(7)), 0, 1000 + DAY_MS, retry(7, false)),
            (
                "for more than a day",
                answered(503, Some(7)),
                0,
                1001 + DAY_MS,
                dead("postponed: the function answered 503 with `retry-after` for a day", Some(503), "why"),
            ),
            ("a trap", Delivered::Failed(Code::FunctionTrapped), 0, 0, retry(1, true)),
            (
                "the last trap",
                Delivered::Failed(Code::Timeout),
                2,
                0,
                dead("timeout: The function took too long", None, ""),
            ),
            (
                "too large",
                Delivered::Failed(Code::RequestTooLarge),
                0,
                0,
                dead("it is larger than the function's `limits.request_body`", None, ""),
            ),
            ("no room", Delivered::NotNow(Code::Overloaded, None), 2, 0, Settled::Release),
        ] {
            let verdict = judge(&delivered, &[delivery(7, tries)], &subscription(2), now_ms, &mut || 0.5);
            assert_eq!(verdict.results, [(At::Log(7), 3, expected)], "{name}");
        }
    }

    #[test]
    fn a_subscription_pauses_where_there_is_no_room_and_only_there() {
        let pause = |delivered| judge(&delivered, &[delivery(1, 0)], &subscription(0), 0, &mut || 0.5).pause;
        assert_eq!(pause(Delivered::NotNow(Code::Overloaded, None)), Some((Code::Overloaded, None)));
        let held = Some(Duration::from_secs(3));
        assert_eq!(pause(Delivered::NotNow(Code::HeldBack, held)), Some((Code::HeldBack, held)));
        assert_eq!(pause(answered(503, Some(5))), None);
        assert_eq!(pause(Delivered::Failed(Code::CpuLimit)), None);
    }

    #[test]
    fn of_a_batch_only_what_is_named_comes_again_and_all_where_it_failed() {
        let batch = [delivery(1, 0), delivery(2, 0), delivery(3, 1)];
        let mut subscription = subscription(1);
        subscription.dead_letter = Some("orders-dead".parse().unwrap());
        let settled = |delivered: &Delivered| -> Vec<Settled> {
            let verdict = judge(delivered, &batch, &subscription, 0, &mut || 0.5);
            verdict.results.into_iter().map(|(_, _, settled)| settled).collect()
        };
        let second = Duration::from_secs(1);
        let again =
            |sequence, after: Option<u64>| RetryAsked { sequence, after: after.map(Duration::from_secs), reason: None };
        let retry = vec![again(2, Some(9)), again(3, None), again(99, None)];
        let acks = Delivered::Answered {
            status: 200,
            retry_after: None,
            answer: Bytes::new(),
            acks: Some(Acks { retry, untried: vec![] }),
        };
        match settled(&acks).as_slice() {
            [Settled::Done, Settled::Retry { after, counted: true }, Settled::Dead(death)] => {
                assert_eq!(*after, Duration::from_secs(9));
                assert_eq!(death.reason, "the function asked for it again");
                assert_eq!(death.forward, subscription.dead_letter);
            }
            other => panic!("{other:?}"),
        }
        match settled(&answered(500, None)).as_slice() {
            [Settled::Retry { after, counted: true }, Settled::Retry { .. }, Settled::Dead(_)] => {
                assert_eq!(*after, second);
            }
            other => panic!("{other:?}"),
        }
        // The function ended at the second one: the third was not tried.
        let retry = vec![RetryAsked { reason: Some("it broke".into()), ..again(2, None) }];
        let acks = Some(Acks { retry, untried: vec![3] });
        let ended = settled(&Delivered::Answered { status: 200, retry_after: None, answer: Bytes::new(), acks });
        assert_eq!(ended, [Settled::Done, Settled::Retry { after: second, counted: true }, Settled::Release]);
        let alone = || Settled::ReleaseAlone;
        assert_eq!(settled(&Delivered::Failed(Code::RequestTooLarge)), [alone(), alone(), alone()]);
    }
}
