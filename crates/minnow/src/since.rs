//! `--since`: how far back a log goes.

use std::{
    str::FromStr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// A point in time, said as a distance from now or as a date.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Since {
    Ago(Duration),
    At(SystemTime),
}

impl Since {
    /// The time in milliseconds since the Unix epoch, when it is `now_ms` now.
    pub fn as_ms(self, now_ms: u64) -> u64 {
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        match self {
            Self::Ago(ago) => now_ms.saturating_sub(millis(ago)),
            Self::At(time) => time.duration_since(UNIX_EPOCH).map_or(0, millis),
        }
    }
}

impl FromStr for Since {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if let Ok(ago) = humantime::parse_duration(text) {
            return Ok(Self::Ago(ago));
        }
        humantime::parse_rfc3339_weak(text)
            .map(Self::At)
            .map_err(|_| "write a duration like 30s, 10m, 2h or 1d, or a UTC time like 2026-11-20T18:30:00Z".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_dates_are_understood() {
        let now = 10_000_000;
        for (text, expected) in [
            ("10s", 9_990_000),
            ("10m", 9_400_000),
            ("1h 30m", 4_600_000),
            ("1h30m", 4_600_000),
            ("500ms", 9_999_500),
            ("9d", 0),
            ("1970-01-01T00:00:01Z", 1_000),
            ("1970-01-01 00:00:02", 2_000),
        ] {
            assert_eq!(text.parse::<Since>().map(|since| since.as_ms(now)), Ok(expected), "{text}");
        }
        for bad in ["", "10", "m", "yesterday", "10 parsecs", "-5m"] {
            assert!(bad.parse::<Since>().is_err(), "{bad}");
        }
    }
}
