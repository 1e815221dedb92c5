//! Exponential, error function, logarithm, sine and cosine, made of additions, multiplications and divisions alone, so
//! that they have the same bits everywhere. (A C library's may differ between machines.)

use super::simd::Lanes;
use std::f64::consts::{FRAC_PI_2, LN_2};

/// `e^x`, to about one unit in the last place. Results below 2^-125 are clamped there, above 2^127 there. NaN stays NaN.
///
/// `x = n ln 2 + r` with `|r| <= ln 2 / 2`; then 2^n times the Taylor series of `e^r`, whose first term left out is
/// `r^8 / 8!` < 6e-9.
#[inline(always)]
pub(super) fn exp<L: Lanes>(l: L, x: L::V) -> L::V {
    /// ln 2 in two parts; the first has so few bits that `n` times it is exact.
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = (LN_2 - LN_2_HIGH as f64) as f32;
    /// Added to a number below 2^22, it rounds it to an integer, which then stands in the low mantissa bits.
    const ROUND: f32 = 12_582_912.0;

    let x = l.min(l.splat(88.0), l.max(l.splat(-86.6), x));
    let shifted = l.fma(x, l.splat(std::f32::consts::LOG2_E), l.splat(ROUND));
    let n = l.sub(shifted, l.splat(ROUND));
    let r = l.fma(n, l.splat(-LN_2_HIGH), x);
    let r = l.fma(n, l.splat(-LN_2_LOW), r);
    let mut sum = l.splat(1.0 / 5040.0);
    for factor in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        sum = l.fma(sum, r, l.splat(factor));
    }
    l.mul(sum, l.power_of_two(shifted))
}

/// The error function of `x >= 0`, to about 1e-7. NaN stays NaN.
///
/// Up to 1, its Taylor series; beyond, `1 - e^(-x²) q(x)` with `q` the polynomial that interpolates `e^(x²) erfc(x)` at
/// the Chebyshev nodes of 1..4, to 2e-8 (erfc(4) is below the resolution of 1). Both are calculated, one is taken.
#[inline(always)]
pub(super) fn erf<L: Lanes>(l: L, x: L::V) -> L::V {
    /// `(-1)^n 2 / (√π n! (2n + 1))`, from n = 10 down to 0.
    const NEAR: [f32; 11] = [
        1.480_719_2e-8,
        -1.636_584_5e-7,
        1.646_211_4e-6,
        -1.492_565e-5,
        1.205_533_3e-4,
        -8.548_327e-4,
        5.223_978e-3,
        -2.686_617e-2,
        1.128_379_2e-1,
        -3.761_264e-1,
        std::f32::consts::FRAC_2_SQRT_PI,
    ];
    /// Of `(x - 2.5) / 1.5`, the highest power first.
    const FAR: [f32; 11] = [
        9.294_974e-5,
        -2.451_864_5e-4,
        3.764_772_7e-4,
        -9.162_726e-4,
        2.418_384_2e-3,
        -5.611_233_6e-3,
        1.248_67e-2,
        -2.699_793_7e-2,
        5.611_062_8e-2,
        -1.115_213_9e-1,
        2.108_063_6e-1,
    ];
    let near = l.min(l.splat(1.0), x);
    let near = l.mul(near, polynomial(l, &NEAR, l.mul(near, near)));
    let far = l.min(l.splat(4.0), l.max(l.splat(1.0), x));
    let factor = polynomial(l, &FAR, l.mul(l.sub(far, l.splat(2.5)), l.splat(1.0 / 1.5)));
    let tail = l.mul(exp(l, l.sub(l.splat(0.0), l.mul(far, far))), factor);
    l.select_less(x, l.splat(1.0), near, l.sub(l.splat(1.0), tail))
}

/// Horner's scheme, the highest power first.
#[inline(always)]
fn polynomial<L: Lanes>(l: L, factors: &[f32; 11], x: L::V) -> L::V {
    let mut sum = l.splat(factors[0]);
    for factor in &factors[1..] {
        sum = l.fma(sum, x, l.splat(*factor));
    }
    sum
}

/// `base^exponent` of a `base` > 0, to about 1e-15 of it, as `e^(exponent ln base)`.
pub(super) fn power(base: f64, exponent: f64) -> f64 {
    exp_f64(exponent * ln_f64(base))
}

/// `ln x` of a finite normal `x` > 0: with `x = m 2^e` and `m` about 1, `e ln 2` and the series of `2 artanh((m-1)/(m+1))`.
fn ln_f64(x: f64) -> f64 {
    let mut e = (x.to_bits() >> 52) as i64 - 1023;
    let mut m = f64::from_bits(x.to_bits() & ((1 << 52) - 1) | 1f64.to_bits());
    if m > std::f64::consts::SQRT_2 {
        m /= 2.0;
        e += 1;
    }
    let s = (m - 1.0) / (m + 1.0);
    let series = (0..=12).rev().fold(0.0, |sum, n| sum * (s * s) + 1.0 / f64::from(2 * n + 1));
    e as f64 * LN_2 + 2.0 * s * series
}

/// `e^x`, as 2^n times a Taylor series; 0 or infinity where the exponent ends.
fn exp_f64(x: f64) -> f64 {
    let n = (x / LN_2).round_ties_even();
    if n.abs() > 1000.0 {
        return if n > 0.0 { f64::INFINITY } else { 0.0 };
    }
    let r = x - n * LN_2;
    let series = (1..=16).rev().fold(1.0, |sum, i| sum * r / f64::from(i) + 1.0);
    series * f64::from_bits(((n as i64 + 1023) as u64) << 52)
}

/// `(sin x, cos x)` for |x| below 2^30 or so, to about 1e-12 (1e-16 times the number of turns, and a Taylor series within
/// an eighth of a turn).
pub(super) fn sin_cos(x: f64) -> (f64, f64) {
    /// π/2 less its first 33 bits, with which `n` times that part is exact.
    const HALF_PI_LOW: f64 = 6.077_100_506_506_192e-11;
    const HALF_PI_HIGH: f64 = FRAC_PI_2 - HALF_PI_LOW;
    let n = (x / FRAC_PI_2).round_ties_even();
    let r = x - n * HALF_PI_HIGH - n * HALF_PI_LOW;
    let square = r * r;
    let sin = (1..=9).rev().fold(1.0, |sum, i| 1.0 - sum * square / f64::from((2 * i) * (2 * i + 1))) * r;
    let cos = (1..=9).rev().fold(1.0, |sum, i| 1.0 - sum * square / f64::from((2 * i - 1) * (2 * i)));
    match (n as i64).rem_euclid(4) {
        0 => (sin, cos),
        1 => (cos, -sin),
        2 => (-sin, -cos),
        _ => (-cos, sin),
    }
}

#[cfg(test)]
mod tests {
    use super::super::simd::{Isa, Kernel};
    use super::*;

    struct Both<'a>(&'a [f32; 16]);

    impl Kernel for Both<'_> {
        type Output = [[f32; 16]; 2];
        #[inline(always)]
        fn run<L: Lanes>(self, l: L) -> [[f32; 16]; 2] {
            let (x, mut y) = (l.load(self.0), [[0.0; 16]; 2]);
            l.store(exp(l, x), &mut y[0]);
            l.store(erf(l, l.max(l.sub(l.splat(0.0), x), x)), &mut y[1]);
            y
        }
    }

    /// By its Taylor series in f64, which is accurate enough up to 4.5.
    fn erf_f64(x: f64) -> f64 {
        let mut term = x;
        let mut sum = x;
        for n in 1..120 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        sum * 2.0 / std::f64::consts::PI.sqrt()
    }

    #[test]
    fn exp_and_erf_are_accurate_and_equal_on_every_path() {
        for step in 0..2000 {
            let x: [f32; 16] = std::array::from_fn(|l| ((step * 16 + l) as f32 - 16_000.0) * 0.005_3);
            let all: Vec<_> = Isa::available().into_iter().map(|isa| isa.run(Both(&x))).collect();
            for l in 0..16 {
                let [y, z] = [all[0][0][l], all[0][1][l]];
                let want = f64::from(x[l]).exp();
                assert!((f64::from(y) - want).abs() <= want * 2e-7, "exp({}) = {y}, not {want}", x[l]);
                let size = f64::from(x[l].abs());
                let want = if size < 4.5 { erf_f64(size) } else { 1.0 };
                assert!((f64::from(z) - want).abs() <= 1.5e-7, "erf({size}) = {z}, not {want}");
                for other in &all[1..] {
                    assert_eq!((other[0][l].to_bits(), other[1][l].to_bits()), (y.to_bits(), z.to_bits()));
                }
            }
        }
    }

    #[test]
    fn exp_and_erf_keep_nan_and_clamp_the_rest() {
        let mut x = [f32::NAN; 16];
        (x[1], x[2], x[3]) = (f32::INFINITY, f32::NEG_INFINITY, -0.0);
        for isa in Isa::available() {
            let [y, z] = isa.run(Both(&x));
            assert!(y[0].is_nan() && z[0].is_nan(), "{isa:?} hides a NaN");
            assert!(y[1] > 1e38 && y[2] < 1e-37 && y[3] == 1.0 && z[1] == 1.0 && z[3] == 0.0, "{y:?} {z:?}");
        }
    }

    #[test]
    fn f64_functions_are_those_of_the_standard_library_to_its_accuracy() {
        for step in 0..20_000 {
            let x = f64::from(step) * 7.13 - 20_000.0;
            let (sin, cos) = sin_cos(x);
            assert!((sin - x.sin()).abs() < 1e-12 && (cos - x.cos()).abs() < 1e-12, "{x}: {sin} {cos}");
        }
        for base in [2.0, 10_000.0, 500_000.0, 0.3] {
            for step in -40..40 {
                let exponent = f64::from(step) / 40.0;
                let (got, want) = (power(base, exponent), f64::powf(base, exponent));
                assert!((got / want - 1.0).abs() < 1e-14, "{base}^{exponent} = {got}, not {want}");
            }
        }
    }
}
