//! When requests are to be sent: pure, and the same for the same seed.

use serde::{Deserialize, Serialize};
use stageline_base::prng::Prng;
use std::time::Duration;

/// How requests of a mean rate are spread over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Arrivals {
    /// Equal gaps.
    Constant,
    /// Each independent of all others: exponential gaps.
    Poisson,
    /// So many at the same moment, and equal gaps between these moments.
    Bursts(u32),
}

impl Arrivals {
    /// Times since the start, without an end, that never fall; `rate` is in requests a second, above 0.
    pub fn times(self, rate: f64, seed: u64) -> impl Iterator<Item = Duration> + Send {
        let mut prng = Prng::new(seed);
        let mut count = 0_u64;
        let mut seconds = 0.0;
        std::iter::from_fn(move || {
            match self {
                // From the count, not from a sum: no error adds up.
                Self::Constant => seconds = count as f64 / rate,
                Self::Bursts(size) => {
                    let size = u64::from(size.max(1));
                    seconds = (count / size * size) as f64 / rate;
                }
                Self::Poisson => seconds += -(1.0 - prng.unit()).ln() / rate,
            }
            count += 1;
            // A rate so low that a gap is longer than a year ends the schedule.
            (seconds < 3.2e7).then(|| Duration::from_secs_f64(seconds))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(arrivals: Arrivals, rate: f64, seed: u64, count: usize) -> Vec<f64> {
        arrivals.times(rate, seed).take(count).map(|t| t.as_secs_f64()).collect()
    }

    #[test]
    fn constant_gaps_are_equal_and_do_not_drift() {
        let times = times(Arrivals::Constant, 3.0, 1, 3_000_001);
        assert_eq!(times[0], 0.0);
        assert!((times[3_000_000] - 1e6).abs() < 1e-6);
    }

    #[test]
    fn bursts_come_at_once_and_keep_the_rate() {
        assert_eq!(times(Arrivals::Bursts(3), 6.0, 1, 7), [0.0, 0.0, 0.0, 0.5, 0.5, 0.5, 1.0]);
    }

    #[test]
    fn poisson_gaps_have_the_mean_and_the_spread_of_exponential_ones() {
        let count = 200_000;
        let times = times(Arrivals::Poisson, 50.0, 7, count);
        let gaps: Vec<f64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        assert!((mean * 50.0 - 1.0).abs() < 0.02, "mean {mean}");
        assert!((variance.sqrt() / mean - 1.0).abs() < 0.02, "deviation {}", variance.sqrt());
        let long = gaps.iter().filter(|gap| **gap > 2.0 / 50.0).count() as f64 / gaps.len() as f64;
        assert!((long - (-2.0_f64).exp()).abs() < 0.005, "share of gaps above two means: {long}");
    }

    #[test]
    fn a_seed_reproduces_a_schedule_and_another_does_not() {
        let of = |seed| times(Arrivals::Poisson, 10.0, seed, 100);
        assert_eq!(of(3), of(3));
        assert_ne!(of(3), of(4));
    }
}
