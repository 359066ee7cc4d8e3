//! How long nothing is delivered where there was no room, and when that is worth a line in the log.

use std::time::{Duration, Instant};

use minnow_model::problem::Code;

/// The first wait. Long enough that a full function is not asked all the time, and short enough to be no delay for a person.
const FIRST: Duration = Duration::from_millis(50);

/// The longest wait for what mends itself at no known time, such as a secret that is missing.
const LONGEST: Duration = Duration::from_secs(30);

/// The longest wait for a free place: looking for one costs next to nothing, and it may be free at any time.
const LONGEST_FOR_PLACE: Duration = Duration::from_secs(1);

/// A pause that takes longer is told.
const TELL: Duration = Duration::from_secs(10);

/// Since when there is no room, and until when nobody looks.
#[derive(Debug, Default)]
pub(crate) struct Pause {
    since: Option<Instant>,
    until: Option<Instant>,
    wait: Duration,
    told: bool,
}

impl Pause {
    /// There was no room: `code` says why, `after` when to look again, if that is known. What was found out together counts once.
    /// Answers whether that is now to be told.
    pub(crate) fn extend(&mut self, code: Code, after: Option<Duration>, now: Instant) -> bool {
        if self.until(now).is_some() {
            return false;
        }
        let longest = match code {
            Code::Overloaded | Code::NodeOverloaded | Code::QueueTimeout => LONGEST_FOR_PLACE,
            _ => LONGEST,
        };
        self.wait = (self.wait * 2).clamp(FIRST, longest);
        let since = *self.since.get_or_insert(now);
        self.until = Some(now + after.unwrap_or(self.wait).max(FIRST));
        let is_news = !self.told && now.duration_since(since) >= TELL;
        self.told |= is_news;
        is_news
    }

    /// Something was delivered. Answers for how long nothing was, where that was told.
    pub(crate) fn end(&mut self, now: Instant) -> Option<Duration> {
        let ended = std::mem::take(self);
        ended.since.filter(|_| ended.told).map(|since| now.duration_since(since))
    }

    /// Until when to wait; `None` when that is over.
    pub(crate) fn until(&self, now: Instant) -> Option<Instant> {
        self.until.filter(|until| *until > now)
    }

    /// Has the next look be at once.
    pub(crate) fn look(&mut self) {
        self.until = None;
        self.wait = Duration::ZERO;
    }

    /// Since when nothing is delivered.
    pub(crate) fn since(&self) -> Option<Instant> {
        self.since
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_and_end_with_a_delivery() {
        let began = Instant::now();
        let mut now = began;
        let mut waits = |pause: &mut Pause, code, after, times| -> Vec<u128> {
            let wait = |_| {
                pause.extend(code, after, now);
                let until = pause.until(now).unwrap();
                let wait = until - now;
                now = until;
                wait.as_millis()
            };
            (0..times).map(wait).collect()
        };
        let mut pause = Pause::default();
        let for_place = waits(&mut pause, Code::Overloaded, None, 7);
        assert_eq!(for_place, [50, 100, 200, 400, 800, 1000, 1000]);
        let for_secret = waits(&mut pause, Code::SecretMissing, None, 6);
        assert_eq!(for_secret, [2000, 4000, 8000, 16_000, 30_000, 30_000]);
        assert_eq!(waits(&mut pause, Code::HeldBack, Some(Duration::from_secs(3)), 1), [3000]);
        pause.end(began);
        assert_eq!(waits(&mut pause, Code::HeldBack, None, 1), [50]);
    }

    #[test]
    fn what_is_found_out_together_counts_once_and_a_long_pause_is_told_once() {
        let mut now = Instant::now();
        let mut pause = Pause::default();
        assert!(!pause.extend(Code::Overloaded, None, now));
        for _ in 0..15 {
            assert!(!pause.extend(Code::Overloaded, None, now));
        }
        assert_eq!(pause.until(now), Some(now + FIRST));
        let mut told = 0;
        for _ in 0..30 {
            now = pause.until(now).unwrap();
            told += u32::from(pause.extend(Code::Overloaded, None, now));
        }
        assert_eq!(told, 1);
        assert!(pause.end(now).is_some_and(|paused| paused >= TELL));
        assert_eq!((pause.end(now), pause.since()), (None, None));
        assert!(!pause.extend(Code::Overloaded, None, now));
        assert_eq!(pause.end(now), None);
    }
}
