//! Lanes as an array: any processor, and what the other paths must agree with.

use super::{Kernel, Lanes};
use half::{bf16, f16};
use std::array::from_fn;

#[derive(Clone, Copy)]
struct Plain;

/// Runs `kernel` in whatever instructions the build's target has.
pub(super) fn run<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Plain)
}

impl Lanes for Plain {
    type V = [f32; 16];
    const WIDE: bool = false;

    #[inline(never)]
    fn call<K: Kernel>(self, kernel: K) -> K::Output {
        kernel.run(self)
    }
    fn prefetch<T>(self, _: *const T) {}
    fn splat(self, x: f32) -> Self::V {
        [x; 16]
    }
    fn load(self, x: &[f32; 16]) -> Self::V {
        *x
    }
    fn load_bf16(self, x: &[bf16; 16]) -> Self::V {
        from_fn(|l| x[l].to_f32())
    }
    fn load_f16(self, x: &[f16; 16]) -> Self::V {
        from_fn(|l| x[l].to_f32())
    }
    fn store(self, v: Self::V, y: &mut [f32; 16]) {
        *y = v;
    }
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        from_fn(|l| a[l].mul_add(b[l], c[l]))
    }
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        from_fn(|l| a[l] + b[l])
    }
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        from_fn(|l| a[l] - b[l])
    }
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        from_fn(|l| a[l] * b[l])
    }
    fn div(self, a: Self::V, b: Self::V) -> Self::V {
        from_fn(|l| a[l] / b[l])
    }
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        from_fn(|l| if a[l] > b[l] { a[l] } else { b[l] })
    }
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        from_fn(|l| if a[l] < b[l] { a[l] } else { b[l] })
    }
    fn select_less(self, a: Self::V, b: Self::V, x: Self::V, y: Self::V) -> Self::V {
        from_fn(|l| if a[l] < b[l] { x[l] } else { y[l] })
    }
    fn power_of_two(self, v: Self::V) -> Self::V {
        from_fn(|l| f32::from_bits((v[l].to_bits() << 23).wrapping_add(1f32.to_bits())))
    }
    fn sum(self, v: Self::V) -> f32 {
        let a: [f32; 8] = from_fn(|l| v[l] + v[l + 8]);
        let b: [f32; 4] = from_fn(|l| a[l] + a[l + 4]);
        (b[0] + b[2]) + (b[1] + b[3])
    }
    fn sums(self, v: &[Self::V; 16]) -> Self::V {
        from_fn(|i| self.sum(v[i]))
    }
}
