//! Medians and percentiles.

use std::time::Duration;

/// The middle value, or the mean of the two in the middle; NaN of nothing.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |index: usize| sorted.get(index).copied().unwrap_or(f64::NAN);
    let half = sorted.len() / 2;
    if sorted.len() % 2 == 1 { at(half) } else { (at(half.wrapping_sub(1)) + at(half)) / 2.0 }
}

/// The median of times, by the same rule; zero of nothing.
pub(crate) fn median_time(times: impl IntoIterator<Item = Duration>) -> Duration {
    let seconds: Vec<f64> = times.into_iter().map(|time| time.as_secs_f64()).collect();
    Duration::try_from_secs_f64(median(&seconds)).unwrap_or_default()
}

/// Microseconds, to the nanosecond.
pub(crate) fn micros(time: Duration) -> f64 {
    time.as_nanos() as f64 / 1e3
}

/// The median of the ratios `of[i] / to[i]`. Values of one round are compared with each other only, so that a machine
/// that gets slower from round to round does not tilt the result.
pub(crate) fn median_ratio(of: &[f64], to: &[f64]) -> f64 {
    let ratios: Vec<f64> = of.iter().zip(to).map(|(of, to)| of / to).collect();
    median(&ratios)
}

/// The value that `percent` percent of `times` do not exceed (nearest rank); zero of nothing.
pub(crate) fn percentile(times: &[Duration], percent: f64) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let rank = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        for (values, expected) in [(vec![3.0], 3.0), (vec![9.0, 1.0], 5.0), (vec![5.0, 1.0, 100.0], 5.0)] {
            assert_eq!(median(&values), expected, "{values:?}");
        }
        assert!(median(&[]).is_nan());
        assert_eq!(median_time([1, 9, 2].map(Duration::from_millis)), Duration::from_millis(2));
        assert_eq!(median_time([]), Duration::ZERO);
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        assert_eq!(median_ratio(&[10.0, 100.0, 30.0], &[5.0, 50.0, 10.0]), 2.0);
    }

    #[test]
    fn percentiles_are_values_that_occurred() {
        let times: Vec<Duration> = (1..=100).rev().map(Duration::from_millis).collect();
        for (percent, expected) in [(0.0, 1), (1.0, 1), (50.0, 50), (99.0, 99), (99.5, 100), (100.0, 100)] {
            assert_eq!(percentile(&times, percent), Duration::from_millis(expected), "{percent}");
        }
        assert_eq!(percentile(&[], 50.0), Duration::ZERO);
    }
}
