//! Numbers that many threads count up at once.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Only rises.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub fn inc(&self) {
        self.add(1);
    }

    /// `n` more.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    /// How many so far.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Time that has been spent; only rises.
#[derive(Debug, Default)]
pub struct Seconds(AtomicU64);

impl Seconds {
    /// More time, in whole microseconds.
    pub fn add(&self, time: Duration) {
        self.0.fetch_add(time.as_micros() as u64, Relaxed);
    }

    /// The time so far, in seconds.
    pub fn get(&self) -> f64 {
        self.0.load(Relaxed) as f64 / 1e6
    }
}

/// A level that rises and falls; never below 0.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// The level is `n`.
    pub fn set(&self, n: u64) {
        self.0.store(n, Relaxed);
    }

    /// One up.
    pub fn rise(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    /// One down; 0 stays 0.
    pub fn fall(&self) {
        let _ = self.0.fetch_update(Relaxed, Relaxed, |n| n.checked_sub(1));
    }

    /// The level.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Counts values by size: bucket `i` counts those up to `bounds[i]`, the last bucket all others.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [u64],
    /// What one printed unit is in observed units: 1e6 for microseconds printed as seconds.
    scale: f64,
    counts: Vec<AtomicU64>,
    sum: AtomicU64,
}

impl Histogram {
    /// Of plain numbers; `bounds` rise.
    pub fn of_numbers(bounds: &'static [u64]) -> Self {
        Self::new(bounds, 1.0)
    }

    /// Of times, observed in microseconds and printed in seconds; `bounds` rise, in microseconds.
    pub fn of_times(bounds: &'static [u64]) -> Self {
        Self::new(bounds, 1e6)
    }

    fn new(bounds: &'static [u64], scale: f64) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self { bounds, scale, counts, sum: AtomicU64::new(0) }
    }

    /// Counts `value`.
    pub fn observe(&self, value: u64) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        self.counts[bucket].fetch_add(1, Relaxed);
        self.sum.fetch_add(value, Relaxed);
    }

    /// Counts `time`.
    pub fn observe_time(&self, time: Duration) {
        self.observe(time.as_micros() as u64);
    }

    /// How many values, and their sum in observed units.
    pub fn count_and_sum(&self) -> (u64, u64) {
        (self.counts.iter().map(|c| c.load(Relaxed)).sum(), self.sum.load(Relaxed))
    }

    /// Each bound, as printed, with the number of values up to it; the last bound is infinite.
    pub(super) fn cumulative(&self) -> impl Iterator<Item = (f64, u64)> {
        let bounds = self.bounds.iter().map(|bound| *bound as f64 / self.scale).chain([f64::INFINITY]);
        let counts = self.counts.iter().scan(0, |sum, count| {
            *sum += count.load(Relaxed);
            Some(*sum)
        });
        bounds.zip(counts)
    }

    /// The sum, as printed.
    pub(super) fn printed_sum(&self) -> f64 {
        self.sum.load(Relaxed) as f64 / self.scale
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_counted_in_the_first_bucket_that_holds_it() {
        let rows = Histogram::of_numbers(&[1, 4]);
        for value in [0, 1, 2, 4, 5, 100] {
            rows.observe(value);
        }
        assert_eq!(rows.cumulative().collect::<Vec<_>>(), [(1.0, 2), (4.0, 4), (f64::INFINITY, 6)]);
        assert_eq!(rows.count_and_sum(), (6, 112));
        let times = Histogram::of_times(&[1000]);
        times.observe_time(Duration::from_millis(1));
        times.observe_time(Duration::from_micros(1001));
        assert_eq!(times.cumulative().collect::<Vec<_>>(), [(0.001, 1), (f64::INFINITY, 2)]);
        assert_eq!(times.printed_sum(), 0.002_001);
    }

    #[test]
    fn a_gauge_never_falls_below_zero() {
        let gauge = Gauge::default();
        gauge.fall();
        gauge.rise();
        assert_eq!(gauge.get(), 1);
    }
}
