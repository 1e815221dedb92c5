//! Lanes as one 512-bit register.

use super::{Kernel, Lanes};
use half::{bf16, f16};
use std::arch::x86_64::*;

/// The proof that the processor has AVX-512 (F, BW, DQ, VL): made in [`run`] alone.
#[derive(Clone, Copy)]
struct Avx512(());

/// Runs `kernel` in AVX-512.
///
/// # Safety
/// The processor must have AVX-512 F, BW, DQ and VL, and FMA.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
pub(super) unsafe fn run<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Avx512(()))
}

/// Lanes 4 apart and 8 apart added, of four vectors from `v[g]` on, every fourth one: 128 bits of each.
///
/// # Safety
/// The processor must have AVX-512F, here and below.
#[inline(always)]
unsafe fn four(v: &[__m512; 16], g: usize) -> __m512 {
    // SAFETY: the caller's promise, here and below.
    unsafe { step4(step8(v[g], v[g + 4]), step8(v[g + 8], v[g + 12])) }
}

#[inline(always)]
unsafe fn step8(a: __m512, b: __m512) -> __m512 {
    // SAFETY: the caller's promise of AVX-512F.
    unsafe { _mm512_add_ps(_mm512_shuffle_f32x4::<0x44>(a, b), _mm512_shuffle_f32x4::<0xEE>(a, b)) }
}

#[inline(always)]
unsafe fn step4(a: __m512, b: __m512) -> __m512 {
    // SAFETY: the caller's promise of AVX-512F.
    unsafe { _mm512_add_ps(_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0xDD>(a, b)) }
}

#[inline(always)]
unsafe fn step2(a: __m512, b: __m512) -> __m512 {
    // SAFETY: the caller's promise of AVX-512F.
    unsafe { _mm512_add_ps(_mm512_shuffle_ps::<0x44>(a, b), _mm512_shuffle_ps::<0xEE>(a, b)) }
}

#[inline(always)]
unsafe fn step1(a: __m512, b: __m512) -> __m512 {
    // SAFETY: the caller's promise of AVX-512F.
    unsafe { _mm512_add_ps(_mm512_shuffle_ps::<0x88>(a, b), _mm512_shuffle_ps::<0xDD>(a, b)) }
}

// SAFETY (every block): `self` exists, so the processor has the features of these intrinsics; the loads and stores are
// unaligned ones of exactly the 16 elements that the reference covers.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Lanes for Avx512 {
    type V = __m512;
    const WIDE: bool = true;

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
    fn splat(self, x: f32) -> __m512 {
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    fn load(self, x: &[f32; 16]) -> __m512 {
        unsafe { _mm512_loadu_ps(x.as_ptr()) }
    }
    #[inline(always)]
    fn load_bf16(self, x: &[bf16; 16]) -> __m512 {
        unsafe {
            let halves = _mm512_cvtepu16_epi32(_mm256_loadu_si256(x.as_ptr().cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(halves))
        }
    }
    #[inline(always)]
    fn load_f16(self, x: &[f16; 16]) -> __m512 {
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(x.as_ptr().cast())) }
    }
    #[inline(always)]
    fn store(self, v: __m512, y: &mut [f32; 16]) {
        unsafe { _mm512_storeu_ps(y.as_mut_ptr(), v) }
    }
    #[inline(always)]
    fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_div_ps(a, b) }
    }
    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_max_ps(a, b) }
    }
    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_min_ps(a, b) }
    }
    #[inline(always)]
    fn select_less(self, a: __m512, b: __m512, x: __m512, y: __m512) -> __m512 {
        unsafe { _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b), y, x) }
    }
    #[inline(always)]
    fn power_of_two(self, v: __m512) -> __m512 {
        unsafe {
            let exponent = _mm512_slli_epi32::<23>(_mm512_castps_si512(v));
            _mm512_castsi512_ps(_mm512_add_epi32(exponent, _mm512_castps_si512(_mm512_set1_ps(1.0))))
        }
    }
    #[inline(always)]
    fn sum(self, v: __m512) -> f32 {
        unsafe { super::avx2::sum_halves(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps::<1>(v)) }
    }
    /// The tree on many vectors at once: each step adds the two halves of two vectors, side by side in one register.
    #[inline(always)]
    fn sums(self, v: &[__m512; 16]) -> __m512 {
        unsafe {
            // The last two steps work within 128 bits, so every fourth vector goes together to come out in order.
            step1(step2(four(v, 0), four(v, 1)), step2(four(v, 2), four(v, 3)))
        }
    }
}
