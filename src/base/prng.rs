//! Random numbers that a seed reproduces.

/// One step of SplitMix64's output function (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// The random 64 bits of (seed, position): a counter-based generator, so that a replayed position draws the same number.
pub fn at(seed: u64, position: u32) -> u64 {
    mix(mix(seed.wrapping_add(GOLDEN)) ^ mix(u64::from(position).wrapping_add(1).wrapping_mul(GOLDEN)))
}

/// A stream of random numbers from one seed (SplitMix64).
#[derive(Clone, Debug)]
pub struct Prng(u64);

impl Prng {
    /// The stream of `seed`.
    pub fn new(seed: u64) -> Self {
        Self(mix(seed.wrapping_add(GOLDEN)))
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GOLDEN);
        mix(self.0)
    }

    /// A number in `0..n` (`n` > 0); its bias is below n / 2^64.
    pub fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.next_u64()) * u128::from(n)) >> 64) as u64
    }

    /// A number from 0 to below 1, of 2^53 equally likely ones.
    pub fn unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// True `per_mille` times in a thousand.
    pub fn chance(&mut self, per_mille: u64) -> bool {
        self.below(1000) < per_mille
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_and_seeds_draw_different_numbers() {
        let mut seen = std::collections::HashSet::new();
        for seed in 0..64 {
            for position in 0..64 {
                assert!(seen.insert(at(seed, position)), "seed {seed}, position {position} repeats a number");
            }
        }
        assert_eq!(at(7, 9), at(7, 9));
    }
}
