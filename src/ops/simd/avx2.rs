//! Lanes as two 256-bit registers.

use super::{Kernel, Lanes};
use half::{bf16, f16};
use std::arch::x86_64::*;

/// The proof that the processor has AVX2, FMA and F16C: made in [`run`] alone.
#[derive(Clone, Copy)]
struct Avx2(());

/// Runs `kernel` in AVX2.
///
/// # Safety
/// The processor must have AVX2, FMA and F16C.
#[inline(never)]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn run<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Avx2(()))
}

/// The tree of [`Lanes::sum`] over lanes 0..8 and 8..16.
///
/// # Safety
/// The processor must have AVX.
#[inline(always)]
pub(super) unsafe fn sum_halves(low: __m256, high: __m256) -> f32 {
    // SAFETY: the caller's promise.
    unsafe {
        let eight = _mm256_add_ps(low, high);
        let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
        let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
    }
}

type Pair = (__m256, __m256);

// SAFETY (every block): `self` exists, so the processor has the features of these intrinsics; the loads and stores are
// unaligned ones within the 16 elements that the reference covers.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Lanes for Avx2 {
    type V = Pair;
    const WIDE: bool = false;

    #[inline(always)]
    fn call<K: Kernel>(self, kernel: K) -> K::Output {
        unsafe { run(kernel) }
    }
    #[inline(always)]
    fn prefetch<T>(self, at: *const T) {
        // A prefetch of any address is harmless.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
    }
    #[inline(always)]
    fn splat(self, x: f32) -> Pair {
        let v = unsafe { _mm256_set1_ps(x) };
        (v, v)
    }
    #[inline(always)]
    fn load(self, x: &[f32; 16]) -> Pair {
        unsafe { (_mm256_loadu_ps(x.as_ptr()), _mm256_loadu_ps(x.as_ptr().add(8))) }
    }
    #[inline(always)]
    fn load_bf16(self, x: &[bf16; 16]) -> Pair {
        unsafe {
            // Two loads that widen, rather than one whose upper half must be moved down.
            let low = _mm256_cvtepu16_epi32(_mm_loadu_si128(x.as_ptr().cast()));
            let high = _mm256_cvtepu16_epi32(_mm_loadu_si128(x.as_ptr().add(8).cast()));
            let (low, high) = (_mm256_slli_epi32::<16>(low), _mm256_slli_epi32::<16>(high));
            (_mm256_castsi256_ps(low), _mm256_castsi256_ps(high))
        }
    }
    #[inline(always)]
    fn load_f16(self, x: &[f16; 16]) -> Pair {
        unsafe {
            let low = _mm_loadu_si128(x.as_ptr().cast());
            let high = _mm_loadu_si128(x.as_ptr().add(8).cast());
            (_mm256_cvtph_ps(low), _mm256_cvtph_ps(high))
        }
    }
    #[inline(always)]
    fn store(self, v: Pair, y: &mut [f32; 16]) {
        unsafe {
            _mm256_storeu_ps(y.as_mut_ptr(), v.0);
            _mm256_storeu_ps(y.as_mut_ptr().add(8), v.1);
        }
    }
    #[inline(always)]
    fn fma(self, a: Pair, b: Pair, c: Pair) -> Pair {
        unsafe { (_mm256_fmadd_ps(a.0, b.0, c.0), _mm256_fmadd_ps(a.1, b.1, c.1)) }
    }
    #[inline(always)]
    fn add(self, a: Pair, b: Pair) -> Pair {
        unsafe { (_mm256_add_ps(a.0, b.0), _mm256_add_ps(a.1, b.1)) }
    }
    #[inline(always)]
    fn sub(self, a: Pair, b: Pair) -> Pair {
        unsafe { (_mm256_sub_ps(a.0, b.0), _mm256_sub_ps(a.1, b.1)) }
    }
    #[inline(always)]
    fn mul(self, a: Pair, b: Pair) -> Pair {
        unsafe { (_mm256_mul_ps(a.0, b.0), _mm256_mul_ps(a.1, b.1)) }
    }
    #[inline(always)]
    fn div(self, a: Pair, b: Pair) -> Pair {
        unsafe { (_mm256_div_ps(a.0, b.0), _mm256_div_ps(a.1, b.1)) }
    }
    #[inline(always)]
    fn max(self, a: Pair, b: Pair) -> Pair {
        unsafe { (_mm256_max_ps(a.0, b.0), _mm256_max_ps(a.1, b.1)) }
    }
    #[inline(always)]
    fn min(self, a: Pair, b: Pair) -> Pair {
        unsafe { (_mm256_min_ps(a.0, b.0), _mm256_min_ps(a.1, b.1)) }
    }
    #[inline(always)]
    fn select_less(self, a: Pair, b: Pair, x: Pair, y: Pair) -> Pair {
        unsafe {
            let low = _mm256_cmp_ps::<_CMP_LT_OQ>(a.0, b.0);
            let high = _mm256_cmp_ps::<_CMP_LT_OQ>(a.1, b.1);
            (_mm256_blendv_ps(y.0, x.0, low), _mm256_blendv_ps(y.1, x.1, high))
        }
    }
    #[inline(always)]
    fn power_of_two(self, v: Pair) -> Pair {
        unsafe {
            let one = _mm256_castps_si256(_mm256_set1_ps(1.0));
            let low = _mm256_add_epi32(_mm256_slli_epi32::<23>(_mm256_castps_si256(v.0)), one);
            let high = _mm256_add_epi32(_mm256_slli_epi32::<23>(_mm256_castps_si256(v.1)), one);
            (_mm256_castsi256_ps(low), _mm256_castsi256_ps(high))
        }
    }
    #[inline(always)]
    fn sum(self, v: Pair) -> f32 {
        unsafe { sum_halves(v.0, v.1) }
    }
    #[inline(always)]
    fn sums(self, v: &[Pair; 16]) -> Pair {
        let mut all = [0f32; 16];
        for (sum, v) in all.iter_mut().zip(v) {
            *sum = self.sum(*v);
        }
        self.load(&all)
    }
}
