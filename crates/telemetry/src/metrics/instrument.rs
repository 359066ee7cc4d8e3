//! Counters, gauges and histograms that record with a few relaxed atomic operations and no lock.
//!
//! prometheus-client's own histogram takes a mutex for each observation; the hot path of a node records into several
//! for each request, from every core. These encode through the same crate.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use prometheus_client::encoding::{MetricEncoder, NoLabelSet};

/// A number that only grows. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Counter(Arc<AtomicU64>);

impl Counter {
    pub fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that goes up and down. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Gauge(Arc<AtomicI64>);

impl Gauge {
    pub fn set(&self, value: i64) {
        self.0.store(value, Ordering::Relaxed);
    }

    pub fn add(&self, amount: i64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }

    pub fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Counts one more until the answer is dropped.
    pub fn hold(&self) -> Held {
        self.add(1);
        Held(self.clone())
    }
}

/// One unit of a [`Gauge`], given back on drop.
#[derive(Debug)]
pub struct Held(Gauge);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.add(-1);
    }
}

/// Upper bounds of the duration buckets, in nanoseconds: from 25 µs, below which a warm WebAssembly request stays, to
/// the 60 s beyond which only the count matters; about 2.5 times from one to the next.
pub(super) const DURATION_BOUNDS_NS: &[u64] = &[
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
    30_000_000_000,
    60_000_000_000,
];

/// Upper bounds of the memory buckets, in bytes: one WebAssembly page block (64 KiB) to 4 GiB, all of wasm32, four
/// times from one to the next.
const MEMORY_BOUNDS_BYTES: &[u64] =
    &[1 << 16, 1 << 18, 1 << 20, 1 << 22, 1 << 24, 1 << 26, 1 << 27, 1 << 28, 1 << 30, 1 << 32];

/// A distribution over fixed buckets.
pub(super) struct Histogram {
    bounds: &'static [u64],
    /// One for each bound, and one for what lies above them all.
    counts: Box<[AtomicU64]>,
    /// In the unit of the bounds. 64 bits of nanoseconds last 584 years.
    sum: AtomicU64,
    /// From the unit of the bounds to the unit that is shown.
    scale: f64,
}

impl Histogram {
    /// Of durations, shown in seconds.
    pub(super) fn of_durations() -> Self {
        Self::new(DURATION_BOUNDS_NS, 1e-9)
    }

    /// Of bytes.
    pub(super) fn of_memory() -> Self {
        Self::new(MEMORY_BOUNDS_BYTES, 1.0)
    }

    fn new(bounds: &'static [u64], scale: f64) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self { bounds, counts, sum: AtomicU64::new(0), scale }
    }

    /// Records one value, in the unit of the bounds.
    pub(super) fn observe(&self, value: u64) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        if let Some(count) = self.counts.get(bucket) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.sum.fetch_add(value, Ordering::Relaxed);
    }

    pub(super) fn observe_duration(&self, duration: Duration) {
        self.observe(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
    }

    /// How many values were recorded.
    pub(super) fn count(&self) -> u64 {
        self.counts().sum()
    }

    /// How many values each bucket holds: one for each bound, and one for what lies above them all.
    pub(super) fn counts(&self) -> impl Iterator<Item = u64> {
        self.counts.iter().map(|count| count.load(Ordering::Relaxed))
    }

    pub(super) fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let bounds = self.bounds.iter().map(|bound| *bound as f64 * self.scale).chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> =
            bounds.zip(self.counts.iter().map(|count| count.load(Ordering::Relaxed))).collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        let sum = self.sum.load(Ordering::Relaxed) as f64 * self.scale;
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }
}

impl fmt::Debug for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Histogram").field("count", &self.count()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_falls_into_the_first_bucket_that_holds_it() {
        let histogram = Histogram::of_durations();
        for (nanos, bucket) in
            [(0, 0), (25_000, 0), (25_001, 1), (1_000_000, 5), (60_000_000_000, 19), (60_000_000_001, 20)]
        {
            let before = histogram.counts[bucket].load(Ordering::Relaxed);
            histogram.observe_duration(Duration::from_nanos(nanos));
            assert_eq!(histogram.counts[bucket].load(Ordering::Relaxed), before + 1, "{nanos} ns");
        }
        assert_eq!(histogram.count(), 6);
    }

    #[test]
    fn a_held_gauge_is_given_back() {
        let gauge = Gauge::default();
        let held = [gauge.hold(), gauge.hold()];
        assert_eq!(gauge.get(), 2);
        drop(held);
        assert_eq!(gauge.get(), 0);
    }
}
