//! Weights as they lie in memory.

use super::simd::Lanes;
use half::{bf16, f16};

/// A type that weights are stored in. Widening it to `f32` is exact.
pub trait Stored: Copy + Default + Send + Sync {
    /// Sixteen of them, widened.
    fn load<L: Lanes>(lanes: L, x: &[Self; 16]) -> L::V;
    /// One of them, widened.
    fn widen(self) -> f32;
}

impl Stored for f32 {
    #[inline(always)]
    fn load<L: Lanes>(lanes: L, x: &[f32; 16]) -> L::V {
        lanes.load(x)
    }
    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }
}

impl Stored for bf16 {
    #[inline(always)]
    fn load<L: Lanes>(lanes: L, x: &[bf16; 16]) -> L::V {
        lanes.load_bf16(x)
    }
    #[inline(always)]
    fn widen(self) -> f32 {
        self.to_f32()
    }
}

impl Stored for f16 {
    #[inline(always)]
    fn load<L: Lanes>(lanes: L, x: &[f16; 16]) -> L::V {
        lanes.load_f16(x)
    }
    #[inline(always)]
    fn widen(self) -> f32 {
        self.to_f32()
    }
}
