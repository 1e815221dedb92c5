//! How long prompts and answers are: a distribution, or lengths from a file.

use serde::{Deserialize, Serialize};
use stageline_base::prng::Prng;

/// Numbers of tokens, each at least 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lengths {
    /// Always the same.
    Fixed(u32),
    /// Equally likely from the first to the second, both included.
    Uniform(u32, u32),
    /// Normal, by mean and standard deviation.
    Normal(f64, f64),
    /// Lognormal, by the mean and standard deviation of the lengths themselves (not of their logarithms).
    Lognormal(f64, f64),
    /// Drawn from this list, each entry equally likely.
    Listed(Vec<u32>),
}

impl Lengths {
    /// The longest that is ever drawn from a distribution without an end.
    pub const MOST: u32 = 1 << 20;

    /// A length.
    pub fn draw(&self, prng: &mut Prng) -> u32 {
        let whole = |length: f64| length.round().clamp(1.0, f64::from(Self::MOST)) as u32;
        match self {
            Self::Fixed(length) => (*length).max(1),
            Self::Uniform(low, high) => {
                let span = u64::from(high.saturating_sub(*low)) + 1;
                (low + prng.below(span) as u32).max(1)
            }
            Self::Normal(mean, deviation) => whole(mean + deviation * normal(prng)),
            Self::Lognormal(mean, deviation) => {
                let variance = (1.0 + (deviation / mean).powi(2)).ln();
                whole((mean.ln() - variance / 2.0 + variance.sqrt() * normal(prng)).exp())
            }
            Self::Listed(list) if list.is_empty() => 1,
            Self::Listed(list) => list[prng.below(list.len() as u64) as usize].max(1),
        }
    }
}

/// A standard normal number (Box and Muller).
fn normal(prng: &mut Prng) -> f64 {
    let radius = (-2.0 * (1.0 - prng.unit()).ln()).sqrt();
    radius * (std::f64::consts::TAU * prng.unit()).cos()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mean_and_deviation(lengths: &Lengths) -> (f64, f64) {
        let mut prng = Prng::new(1);
        let drawn: Vec<f64> = (0..100_000).map(|_| f64::from(lengths.draw(&mut prng))).collect();
        let mean = drawn.iter().sum::<f64>() / drawn.len() as f64;
        let variance = drawn.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / drawn.len() as f64;
        (mean, variance.sqrt())
    }

    #[test]
    fn what_is_drawn_has_the_mean_and_the_spread_asked_for() {
        for (lengths, mean, deviation) in [
            (Lengths::Fixed(7), 7.0, 0.0),
            (Lengths::Uniform(10, 19), 14.5, (99.0_f64 / 12.0).sqrt()),
            (Lengths::Normal(200.0, 30.0), 200.0, 30.0),
            (Lengths::Lognormal(200.0, 100.0), 200.0, 100.0),
            (Lengths::Listed(vec![1, 3]), 2.0, 1.0),
        ] {
            let (m, d) = mean_and_deviation(&lengths);
            assert!((m - mean).abs() < 0.01 * mean, "{lengths:?}: mean {m}");
            assert!((d - deviation).abs() <= 0.02 * deviation, "{lengths:?}: deviation {d}");
        }
    }

    #[test]
    fn no_length_is_below_one_or_outside_its_range() {
        let mut prng = Prng::new(2);
        for _ in 0..10_000 {
            assert!(Lengths::Normal(1.0, 50.0).draw(&mut prng) >= 1);
            assert!((3..=5).contains(&Lengths::Uniform(3, 5).draw(&mut prng)));
            assert!(Lengths::Lognormal(1e6, 1e9).draw(&mut prng) <= Lengths::MOST);
        }
        assert_eq!(Lengths::Fixed(0).draw(&mut prng), 1);
    }
}
