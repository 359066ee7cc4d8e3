//! Quantiles from the histograms that a node exposes for Prometheus.

use std::{collections::BTreeMap, time::Duration};

/// A histogram of seconds, all series of one name added up.
pub(crate) struct Histogram {
    /// Upper bound in nanoseconds (the last is `u64::MAX`, for infinity) → how many were at most that.
    buckets: BTreeMap<u64, f64>,
    sum_seconds: f64,
}

impl Histogram {
    /// Reads the histogram `name` (with its unit, without `_bucket`) from Prometheus or OpenMetrics text. A histogram that
    /// the text does not have is empty.
    pub(crate) fn read(text: &str, name: &str) -> Self {
        let mut buckets = BTreeMap::new();
        let mut sum_seconds = 0.0;
        for line in text.lines() {
            let Some(rest) = line.strip_prefix(name) else { continue };
            let Some(value) = line.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok()) else { continue };
            if rest.starts_with("_sum") {
                sum_seconds += value;
            } else if rest.starts_with("_bucket")
                && let Some(bound) = upper_bound(rest)
            {
                *buckets.entry(bound).or_insert(0.0) += value;
            }
        }
        Self { buckets, sum_seconds }
    }

    /// How many values there are.
    pub(crate) fn count(&self) -> f64 {
        self.buckets.values().last().copied().unwrap_or_default()
    }

    pub(crate) fn mean(&self) -> Duration {
        Duration::try_from_secs_f64(self.sum_seconds / self.count()).unwrap_or_default()
    }

    /// The value at `quantile` (0 to 1), linear within its bucket as in Prometheus' `histogram_quantile`; `None` of nothing.
    /// In the last bucket, which has no upper bound, it is the lower bound.
    pub(crate) fn quantile(&self, quantile: f64) -> Option<Duration> {
        let rank = self.count() * quantile;
        let (mut below, mut count_below) = (0, 0.0);
        for (&bound, &count) in &self.buckets {
            if count >= rank && count > 0.0 {
                let width = if bound == u64::MAX { 0.0 } else { (bound - below) as f64 };
                let share = (rank - count_below) / (count - count_below);
                return Some(Duration::from_nanos(below + (width * share) as u64));
            }
            (below, count_below) = (bound, count);
        }
        None
    }
}

/// The bucket's bound in nanoseconds, from its `le` label.
fn upper_bound(labels: &str) -> Option<u64> {
    let (_, rest) = labels.split_once("le=\"")?;
    let (bound, _) = rest.split_once('"')?;
    if bound == "+Inf" {
        return Some(u64::MAX);
    }
    Some((bound.parse::<f64>().ok()? * 1e9).round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
# TYPE load_seconds histogram
load_seconds_sum{app="a"} 0.006
load_seconds_count{app="a"} 4
load_seconds_bucket{le="0.001",app="a"} 2
load_seconds_bucket{le="0.002",app="a"} 4
load_seconds_bucket{le="+Inf",app="a"} 4
load_seconds_sum{app="b"} 0.012
load_seconds_bucket{le="0.001",app="b"} 0
load_seconds_bucket{le="0.002",app="b"} 2
load_seconds_bucket{le="+Inf",app="b"} 4
load_seconds_other_bucket{le="0.001"} 100
"#;

    #[test]
    fn series_add_up() {
        let histogram = Histogram::read(TEXT, "load_seconds");
        assert_eq!(histogram.count(), 8.0);
        assert_eq!(histogram.mean(), Duration::from_micros(2250));
    }

    #[test]
    fn quantiles_are_linear_within_a_bucket() {
        let histogram = Histogram::read(TEXT, "load_seconds");
        for (quantile, expected) in [(0.125, 500), (0.25, 1000), (0.5, 1500), (0.75, 2000), (1.0, 2000)] {
            let found = histogram.quantile(quantile).unwrap();
            assert_eq!(found, Duration::from_micros(expected), "{quantile}");
        }
        assert_eq!(Histogram::read(TEXT, "missing").quantile(0.5), None);
    }
}
