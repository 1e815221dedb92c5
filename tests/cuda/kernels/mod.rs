//! Each kernel against its oracle: both types, rows 0 to 33, widths on both sides of a warp and of a 16-byte load.

mod add_rms_norm;
mod cache;
mod decode_attention;
mod embed;
mod gemv;
mod graph;
mod mma;
mod prefill_attention;
mod rope_kv;
mod sample;
mod silu_mul;
mod traffic;

use stageline_base::prng::Prng;
use stageline_cuda::launch::Half;

/// How many rows each kernel is tried with.
const ROWS: [usize; 5] = [0, 1, 2, 7, 33];

/// Widths of rows: one number, around a warp, odd, multiples of 8, one more than a block takes at a time, the largest.
const WIDTHS: [usize; 10] = [1, 31, 32, 33, 40, 255, 576, 1000, 2056, 4096];

/// Numbers between -1 and 1.
fn noise<T: Half>(count: usize, seed: u64) -> Vec<T> {
    floats(count, seed).into_iter().map(T::from_f32).collect()
}

fn floats(count: usize, seed: u64) -> Vec<f32> {
    let mut prng = Prng::new(seed);
    (0..count).map(|_| prng.below(2_000_001) as f32 / 1e6 - 1.0).collect()
}

/// Demands that every number is the one of `want`, but for a rounding to its type and `noise` of the larger of the number
/// and 1. NaN never is.
fn assert_rounded<T: Half>(got: &[T], want: &[f64], noise: f64, what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        let got = f64::from(got.to_f32());
        let most = want.abs() * f64::from(T::ROUNDING) + want.abs().max(1.0) * noise;
        assert!((got - want).abs() <= most, "{what}: number {i} is {got}, not {want}");
    }
}
