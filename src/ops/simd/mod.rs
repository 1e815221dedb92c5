//! Sixteen numbers at a time, with the same bits on every processor.
//!
//! A [`Kernel`] is written once over [`Lanes`] and compiled once an [`Isa`]. Each operation of `Lanes` is one IEEE 754
//! operation a lane (or a fixed order of them), so the result does not depend on which instructions ran it.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod isa;
mod plain;

pub use isa::Isa;

use half::{bf16, f16};

/// A calculation that is written over [`Lanes`]. `run` must be `#[inline(always)]`, or its lanes would not be compiled
/// into the instructions that [`Isa::run`] chose.
pub trait Kernel {
    /// What it gives.
    type Output;
    /// Does it.
    fn run<L: Lanes>(self, lanes: L) -> Self::Output;
}

/// How sixteen `f32` are held and calculated with. A value of the type proves that the processor has the instructions.
pub trait Lanes: Copy {
    /// Sixteen `f32`.
    type V: Copy;
    /// Whether registers are so many and so wide that a tile of 16 sums fits into them.
    const WIDE: bool;

    /// Runs `kernel` as a function of its own, so that its registers are its own too.
    fn call<K: Kernel>(self, kernel: K) -> K::Output;
    /// Asks for the cache line of `at`, which may be any address; where there is no such instruction, does nothing.
    fn prefetch<T>(self, at: *const T);
    /// `x` in every lane.
    fn splat(self, x: f32) -> Self::V;
    /// Lane `l` is `x[l]`.
    fn load(self, x: &[f32; 16]) -> Self::V;
    /// The same, widened exactly.
    fn load_bf16(self, x: &[bf16; 16]) -> Self::V;
    /// The same, widened exactly.
    fn load_f16(self, x: &[f16; 16]) -> Self::V;
    /// `y[l]` becomes lane `l`.
    fn store(self, v: Self::V, y: &mut [f32; 16]);
    /// `a * b + c` with one rounding.
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `a + b`.
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a - b`.
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b`.
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a / b`.
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a > b ? a : b`, so `b` where either is NaN.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a < b ? a : b`, so `b` where either is NaN.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a < b ? x : y`.
    fn select_less(self, a: Self::V, b: Self::V, x: Self::V, y: Self::V) -> Self::V;
    /// Two to the power of the integer that stands in the low mantissa bits of `v`: `(bits << 23) + bits of 1.0`,
    /// wrapping.
    fn power_of_two(self, v: Self::V) -> Self::V;
    /// The sum of the lanes by one fixed tree: `l` and `l + 8`, then `l` and `l + 4`, `l + 2`, `l + 1`.
    fn sum(self, v: Self::V) -> f32;
    /// Sixteen [`Lanes::sum`]s at once: lane `i` is that of `v[i]`.
    fn sums(self, v: &[Self::V; 16]) -> Self::V;
}

/// Sixteen numbers of a slice that may end before: what is missing is 0.
#[inline(always)]
pub fn padded<T: Copy + Default>(x: &[T]) -> [T; 16] {
    let mut all = [T::default(); 16];
    all[..x.len()].copy_from_slice(x);
    all
}
