//! What a version's invocations came to: the figures by which a canary is judged.

use std::time::Duration;

use super::instrument::DURATION_BOUNDS_NS;

/// What a version's functions did over some time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Requests that a function was chosen for, those that were refused included.
    pub requests: u64,
    /// Those of them that ended with a 5xx status.
    pub failed: u64,
    /// How many invocations took how long, by [`DURATION_BOUNDS_NS`]; empty when there was none.
    durations: Vec<u64>,
}

impl Tally {
    pub(super) fn new(requests: u64, failed: u64, durations: impl Iterator<Item = u64>) -> Self {
        Self { requests, failed, durations: durations.collect() }
    }

    /// Both together.
    pub(super) fn plus(mut self, other: &Self) -> Self {
        self.requests += other.requests;
        self.failed += other.failed;
        self.durations.resize(self.durations.len().max(other.durations.len()), 0);
        for (sum, count) in self.durations.iter_mut().zip(&other.durations) {
            *sum += count;
        }
        self
    }

    /// What came on top of `before`.
    pub(super) fn since(mut self, before: &Self) -> Self {
        // The numbers of one moment are read one after the other, so one may be ahead of another.
        self.requests = self.requests.saturating_sub(before.requests);
        self.failed = self.failed.saturating_sub(before.failed);
        for (count, before) in self.durations.iter_mut().zip(&before.durations) {
            *count = count.saturating_sub(*before);
        }
        self
    }

    /// The wall time that a share `quantile` (0 to 1) of the invocations did not exceed; `None` when there was none.
    /// Estimated as Prometheus' `histogram_quantile` does: invocations lie evenly within a bucket, and beyond the last bound
    /// (60 s) that bound is the answer.
    pub fn duration(&self, quantile: f64) -> Option<Duration> {
        let total: u64 = self.durations.iter().sum();
        if total == 0 {
            return None;
        }
        let rank = quantile * total as f64;
        let (mut below, mut lower) = (0.0, 0.0);
        for (bound, count) in DURATION_BOUNDS_NS.iter().zip(&self.durations) {
            let (upper, count) = (*bound as f64, *count as f64);
            if count > 0.0 && below + count >= rank {
                let nanos = lower + (upper - lower) * ((rank - below) / count).clamp(0.0, 1.0);
                return Some(Duration::from_nanos(nanos as u64));
            }
            below += count;
            lower = upper;
        }
        Some(Duration::from_nanos(lower as u64))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use minnow_model::{Code, Usage, Version};

    use super::*;
    use crate::{FunctionMetrics, Metrics};

    fn of(metrics: &Metrics, version: u64) -> Arc<FunctionMetrics> {
        let (tenant, app, function) = ("default", "shop", "web");
        let version = Version::new(version, 0, 0);
        metrics.function(&tenant.parse().unwrap(), &app.parse().unwrap(), &version, &function.parse().unwrap())
    }

    fn record(function: &FunctionMetrics, status: u16, wall: Duration) {
        let usage = Usage { wall, ..Usage::default() };
        function.record(status, None, &usage);
    }

    fn deployed(metrics: &Metrics, live: &[u64]) {
        let live: Vec<Version> = live.iter().map(|version| Version::new(*version, 0, 0)).collect();
        metrics.deployed(&"default".parse().unwrap(), &"shop".parse().unwrap(), &live);
    }

    fn tally(metrics: &Metrics, version: u64) -> Tally {
        metrics.tally(&"default".parse().unwrap(), &"shop".parse().unwrap(), &Version::new(version, 0, 0))
    }

    #[test]
    fn durations_are_estimated_within_their_bucket() {
        let at = |counts: &[(usize, u64)], quantile| {
            let mut durations = vec![0; DURATION_BOUNDS_NS.len() + 1];
            for (bucket, count) in counts {
                durations[*bucket] = *count;
            }
            Tally::new(0, 0, durations.into_iter()).duration(quantile).map(|time| time.as_micros())
        };
        for (counts, quantile, expected) in [
            (&[][..], 0.5, None),
            // 25 µs is the first bound, 50 µs the second.
            (&[(0, 10)], 0.5, Some(12)),
            (&[(1, 10)], 0.5, Some(37)),
            (&[(1, 10)], 1.0, Some(50)),
            (&[(0, 90), (4, 10)], 0.5, Some(13)),
            (&[(0, 90), (4, 10)], 0.99, Some(475)),
            (&[(0, 1), (20, 99)], 0.99, Some(60_000_000)),
        ] {
            assert_eq!(at(counts, quantile), expected, "{counts:?} {quantile}");
        }
    }

    #[test]
    fn versions_are_counted_apart_and_anew_with_each_deployment() {
        let metrics = Metrics::new("test");
        deployed(&metrics, &[1]);
        let one = of(&metrics, 1);
        record(&one, 200, Duration::from_millis(2));
        record(&one, 500, Duration::from_millis(2));
        assert_eq!((tally(&metrics, 1).requests, tally(&metrics, 1).failed), (2, 1));
        deployed(&metrics, &[1, 2]);
        assert_eq!(tally(&metrics, 1).requests, 0);
        assert_eq!(tally(&metrics, 1).duration(0.5), None, "durations begin anew, too");
        let two = of(&metrics, 2);
        record(&one, 404, Duration::from_millis(2));
        two.record_refused(Code::Overloaded, Duration::ZERO);
        record(&two, 200, Duration::from_millis(40));
        assert_eq!((tally(&metrics, 1).requests, tally(&metrics, 1).failed), (1, 0));
        assert_eq!((tally(&metrics, 2).requests, tally(&metrics, 2).failed), (2, 1));
        assert!(tally(&metrics, 2).duration(0.99) > tally(&metrics, 1).duration(0.99));
        // The metrics themselves only ever grow.
        let text = metrics.encode();
        let series = |version: u64, status: &str| {
            let labels = format!(r#"app="shop",function="web",version="{version}.0.0",status="{status}",code="""#);
            format!("minnow_requests_total{{{labels}}} 1\n")
        };
        for series in [series(1, "2xx"), series(1, "4xx"), series(1, "5xx"), series(2, "2xx")] {
            assert!(text.contains(&series), "{series} is not in\n{text}");
        }
    }

    #[test]
    fn series_of_versions_that_are_long_gone_are_dropped() {
        let metrics = Metrics::new("test");
        let has = |version: u64| metrics.encode().contains(&format!("version=\"{version}.0.0\""));
        for version in 1..=9 {
            deployed(&metrics, &[version]);
            record(&of(&metrics, version), 200, Duration::from_millis(1));
        }
        deployed(&metrics, &[1]);
        record(&of(&metrics, 1), 200, Duration::from_millis(1));
        deployed(&metrics, &[1, 2]);
        // The one that is live and was called, and the two that were live before it.
        for (version, expected) in [(1, true), (9, true), (8, true), (7, false), (6, false), (2, false)] {
            assert_eq!(has(version), expected, "{version}");
        }
    }
}
