//! Times by how often they came, with three digits of precision, in memory that does not grow.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Nanoseconds from a microsecond to an hour; what lies outside counts as the nearest of these.
const LOW_NANOS: u64 = 1_000;
const HIGH_NANOS: u64 = 3_600_000_000_000;
/// Points of a distribution that a report holds, at most.
const POINTS: usize = 200;

/// Times that were seen.
#[derive(Clone, Debug)]
pub struct Times(hdrhistogram::Histogram<u64>);

impl Default for Times {
    fn default() -> Self {
        Self::new()
    }
}

impl Times {
    /// None yet.
    pub fn new() -> Self {
        // These bounds are constants that the crate takes: see the test.
        let histogram = hdrhistogram::Histogram::new_with_bounds(LOW_NANOS, HIGH_NANOS, 3);
        Self(histogram.expect("constant bounds that are right"))
    }

    /// One more.
    pub fn add(&mut self, time: Duration) {
        self.0.saturating_record(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }

    /// How many.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The time that `share` (0 to 1) of them do not exceed.
    pub fn quantile(&self, share: f64) -> Duration {
        Duration::from_nanos(self.0.value_at_quantile(share))
    }

    /// What a report says of them; `None` if there are none.
    pub fn summary(&self) -> Option<Summary> {
        if self.0.is_empty() {
            return None;
        }
        let ms = |nanos: u64| nanos as f64 / 1e6;
        let at = |share| ms(self.0.value_at_quantile(share));
        Some(Summary {
            count: self.0.len(),
            mean_ms: self.0.mean() / 1e6,
            min_ms: ms(self.0.min()),
            p50_ms: at(0.5),
            p90_ms: at(0.9),
            p95_ms: at(0.95),
            p99_ms: at(0.99),
            p999_ms: at(0.999),
            max_ms: ms(self.0.max()),
            distribution: self.distribution(),
        })
    }

    /// Pairs of a time in milliseconds and the share of all that do not exceed it.
    fn distribution(&self) -> Vec<(f64, f64)> {
        let all = self.0.len() as f64;
        let mut up_to = 0_u64;
        let mut points: Vec<(f64, f64)> = Vec::new();
        let mut last = 0.0;
        for value in self.0.iter_recorded() {
            up_to += value.count_since_last_iteration();
            let share = up_to as f64 / all;
            // Dense where it matters: the tail's last points are all kept.
            if share - last >= 1.0 / POINTS as f64 || all - up_to as f64 <= 10.0 {
                points.push((value.value_iterated_to() as f64 / 1e6, share));
                last = share;
            }
        }
        points
    }
}

/// Times as a report holds them, in milliseconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// How many.
    pub count: u64,
    /// Their mean.
    pub mean_ms: f64,
    /// The shortest.
    pub min_ms: f64,
    /// Half of them do not exceed this.
    pub p50_ms: f64,
    /// 90 % do not.
    pub p90_ms: f64,
    /// 95 % do not.
    pub p95_ms: f64,
    /// 99 % do not.
    pub p99_ms: f64,
    /// 99.9 % do not.
    pub p999_ms: f64,
    /// The longest.
    pub max_ms: f64,
    /// Times in milliseconds with the share that does not exceed them, rising.
    pub distribution: Vec<(f64, f64)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_right_to_three_digits() {
        let mut times = Times::new();
        assert_eq!(times.summary(), None);
        (1..=10_000).for_each(|i| times.add(Duration::from_micros(i * 100)));
        let summary = times.summary().unwrap();
        for (got, want) in [
            (summary.p50_ms, 500.0),
            (summary.p90_ms, 900.0),
            (summary.p99_ms, 990.0),
            (summary.p999_ms, 999.0),
            (summary.mean_ms, 500.05),
        ] {
            assert!((got / want - 1.0).abs() < 0.001, "{got} {want}");
        }
        let points = &summary.distribution;
        assert!(points.len() <= POINTS + 11 && points.last().unwrap().1 == 1.0);
        assert!(points.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 < pair[1].1));
    }

    #[test]
    fn times_outside_the_bounds_count_as_the_nearest() {
        let mut times = Times::new();
        times.add(Duration::ZERO);
        times.add(Duration::from_secs(100_000));
        assert_eq!(times.count(), 2);
        assert!(times.quantile(1.0) >= Duration::from_secs(3600));
    }
}
