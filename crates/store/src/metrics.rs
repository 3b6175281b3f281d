//! What a store counts about itself. The server turns it into `knarr_store_*` metrics.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::{CommitError, Outcome};

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// The number.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that changes.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// Replaces the number.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// The number.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Upper bounds of the buckets of a histogram of durations, in microseconds.
pub const DURATION_BOUNDS: [u64; 14] = [50, 100, 200, 400, 800, 1_600, 3_200, 6_400, 12_800, 25_600, 51_200, 102_400, 409_600, 1_638_400];

/// Upper bounds of the buckets of a histogram of sizes.
pub const SIZE_BOUNDS: [u64; 14] = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192];

/// How often a value fell between two bounds. The one histogram of all components; `client::metrics` writes it as text.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [u64],
    buckets: Box<[AtomicU64]>,
    sum: AtomicU64,
}

/// A histogram at one moment. The counts are cumulative, as Prometheus wants them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistogramValues {
    /// Upper bound and number of values up to it.
    pub buckets: Vec<(u64, u64)>,
    /// Number of all values.
    pub count: u64,
    /// Sum of all values.
    pub sum: u64,
}

impl Histogram {
    /// One without values; the bounds rise.
    pub fn new(bounds: &'static [u64]) -> Histogram {
        Histogram { bounds, buckets: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(), sum: AtomicU64::new(0) }
    }

    /// Counts a value.
    pub fn observe(&self, value: u64) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(value, Ordering::Relaxed);
    }

    /// Counts a duration, in microseconds.
    pub fn observe_duration(&self, duration: Duration) {
        self.observe(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX));
    }

    /// The values now.
    pub fn values(&self) -> HistogramValues {
        let mut count = 0;
        let mut buckets = Vec::with_capacity(self.bounds.len());
        for (bucket, at) in self.buckets.iter().enumerate() {
            count += at.load(Ordering::Relaxed);
            if let Some(bound) = self.bounds.get(bucket) {
                buckets.push((*bound, count));
            }
        }
        HistogramValues { buckets, count, sum: self.sum.load(Ordering::Relaxed) }
    }
}

/// All numbers of one store.
#[derive(Debug)]
pub struct Metrics {
    /// From the call to the answer of each committed change, in microseconds.
    pub commit: Histogram,
    /// Writing and syncing one batch, in microseconds.
    pub sync: Histogram,
    /// Changes per batch.
    pub batch: Histogram,
    /// Changes committed.
    pub committed: Counter,
    /// Changes whose expectation did not hold.
    pub lost: Counter,
    /// Changes that ended in an error.
    pub failed: Counter,
    /// Objects deleted because their time to live ended.
    pub expired: Counter,
    /// Snapshots written.
    pub snapshots: Counter,
    /// Snapshots that could not be written.
    pub snapshot_failures: Counter,
    /// Bytes in the log since the last snapshot.
    pub log_bytes: Gauge,
    /// The newest revision.
    pub revision: Gauge,
    /// Objects stored.
    pub objects: Gauge,
    /// Bytes of memory of the newest versions.
    pub live_bytes: Gauge,
    /// The oldest revision that can be read.
    pub history_floor: Gauge,
    /// Changes in the history.
    pub history_events: Gauge,
    /// Bytes of memory that only the history keeps.
    pub history_bytes: Gauge,
    /// Open watches.
    pub watchers: Gauge,
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics {
            commit: Histogram::new(&DURATION_BOUNDS),
            sync: Histogram::new(&DURATION_BOUNDS),
            batch: Histogram::new(&SIZE_BOUNDS),
            committed: Counter::default(),
            lost: Counter::default(),
            failed: Counter::default(),
            expired: Counter::default(),
            snapshots: Counter::default(),
            snapshot_failures: Counter::default(),
            log_bytes: Gauge::default(),
            revision: Gauge::default(),
            objects: Gauge::default(),
            live_bytes: Gauge::default(),
            history_floor: Gauge::default(),
            history_events: Gauge::default(),
            history_bytes: Gauge::default(),
            watchers: Gauge::default(),
        }
    }
}

impl Metrics {
    /// Counts how a commit ends and how long it takes.
    pub(crate) async fn count_commit(&self, commit: impl Future<Output = Result<Outcome, CommitError>>) -> Result<Outcome, CommitError> {
        let begun = Instant::now();
        let outcome = commit.await;
        match &outcome {
            Ok(Outcome::Committed(_)) => {
                self.committed.add(1);
                self.commit.observe_duration(begun.elapsed());
            }
            Ok(Outcome::Lost { .. }) => self.lost.add(1),
            Err(_) => self.failed.add(1),
        }
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_fall_into_the_bucket_of_their_upper_bound() {
        let histogram = Histogram::new(&SIZE_BOUNDS);
        for value in [1, 2, 3, 4, 100_000] {
            histogram.observe(value);
        }
        let values = histogram.values();
        assert_eq!(values.buckets[..4], [(1, 1), (2, 2), (4, 4), (8, 4)]);
        assert_eq!((values.count, values.sum), (5, 100_010));
    }
}
