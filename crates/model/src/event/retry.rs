//! How long a message waits before it is tried again.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The least and the most that a wait can be. Less than 100 ms would keep a core busy with a message that never works; after a
/// day somebody should look.
pub const BACKOFF: std::ops::RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(24 * 3600);

/// How far the draw changes a wait, up or down: what failed together is not tried together.
const JITTER: f64 = 0.1;

/// The waits between the tries of a message: the first is `least`, each further one twice the one before, up to `most`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Backoff {
    #[serde(rename = "least_ms", with = "crate::duration::millis")]
    pub least: Duration,
    #[serde(rename = "most_ms", with = "crate::duration::millis")]
    pub most: Duration,
}

impl Default for Backoff {
    /// A second, which a restart of something takes, to five minutes, which is not long after somebody has mended it.
    fn default() -> Self {
        Self { least: Duration::from_secs(1), most: Duration::from_secs(300) }
    }
}

impl Backoff {
    /// The wait after `tries` failed tries. `draw` is drawn from 0 to 1 and moves the wait by up to a tenth.
    pub fn wait(&self, tries: u32, draw: f64) -> Duration {
        let doubled = 2_u32.checked_pow(tries.saturating_sub(1)).and_then(|factor| self.least.checked_mul(factor));
        let wait = doubled.map_or(self.most, |wait| wait.min(self.most));
        wait.mul_f64(1.0 - JITTER + 2.0 * JITTER * draw.clamp(0.0, 1.0))
    }

    /// What is wrong with it; `None` when it is sound.
    pub(crate) fn mistake(&self) -> Option<String> {
        let show = humantime::format_duration;
        if !BACKOFF.contains(&self.least) || !BACKOFF.contains(&self.most) {
            return Some(format!("waits are from {} to {}", show(*BACKOFF.start()), show(*BACKOFF.end())));
        }
        (self.least > self.most)
            .then(|| format!("the first wait, {}, is longer than the longest, {}", show(self.least), show(self.most)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_most_and_differ_by_a_tenth() {
        let backoff = Backoff { least: Duration::from_secs(1), most: Duration::from_secs(300) };
        for (tries, draw, seconds) in [
            (0, 0.5, 1.0),
            (1, 0.5, 1.0),
            (1, 0.0, 0.9),
            (1, 1.0, 1.1),
            (1, 7.0, 1.1),
            (2, 0.5, 2.0),
            (3, 0.5, 4.0),
            (9, 0.5, 256.0),
            (10, 0.5, 300.0),
            (u32::MAX, 0.5, 300.0),
        ] {
            assert_eq!(backoff.wait(tries, draw).as_millis(), (seconds * 1000.0) as u128, "{tries} {draw}");
        }
    }

    #[test]
    fn bounds_are_told() {
        let backoff = |least, most| Backoff { least: Duration::from_millis(least), most: Duration::from_millis(most) };
        for (backoff, part) in [
            (Backoff::default(), None),
            (backoff(100, 100), None),
            (backoff(99, 1000), Some("from 100ms to 1day")),
            (backoff(1000, 24 * 3_600_000 + 1), Some("from 100ms to 1day")),
            (backoff(2000, 1000), Some("the first wait, 2s, is longer than the longest, 1s")),
        ] {
            let mistake = backoff.mistake();
            assert_eq!(mistake.as_deref().map(|text| part.is_some_and(|part| text.contains(part))), part.map(|_| true));
        }
    }
}
