//! Sixteen lanes in one 512-bit register.

use std::arch::x86_64::*;

use super::Simd;

/// AVX-512 F, BW, DQ and VL.
#[derive(Clone, Copy)]
pub(crate) struct Avx512;

impl Avx512 {
    /// Rounds to bfloat16 in the upper half of each lane, ties to even; NaN stays NaN.
    #[inline(always)]
    unsafe fn rounded(x: __m512) -> __m512i {
        // SAFETY: the trait's contract.
        unsafe {
            let bits = _mm512_castps_si512(x);
            let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
            let up = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
            let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x, x);
            _mm512_mask_or_epi32(up, nan, bits, _mm512_set1_epi32(0x0040_0000))
        }
    }
}

// SAFETY (all blocks): the processor has the instructions and the memory is granted, by the trait's contract.
impl Simd for Avx512 {
    type Vector = __m512;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::Vector {
        // SAFETY: the trait's contract.
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self::Vector {
        // SAFETY: the trait's contract.
        unsafe { _mm512_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, x: Self::Vector) {
        // SAFETY: the trait's contract.
        unsafe { _mm512_storeu_ps(p, x) }
    }
    #[inline(always)]
    unsafe fn load_i32(p: *const i32) -> Self::Vector {
        // SAFETY: the trait's contract.
        unsafe { _mm512_cvtepi32_ps(_mm512_loadu_si512(p.cast())) }
    }
    #[inline(always)]
    unsafe fn store_bf16(p: *mut u16, x: Self::Vector) {
        // SAFETY: the trait's contract.
        unsafe {
            let halves = _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(Self::rounded(x)));
            _mm256_storeu_si256(p.cast(), halves);
        }
    }
    #[inline(always)]
    unsafe fn store_bf16_pairs(p: *mut u16, even: Self::Vector, odd: Self::Vector) {
        // SAFETY: the trait's contract.
        unsafe {
            let low = _mm512_srli_epi32::<16>(Self::rounded(even));
            let high = _mm512_and_si512(Self::rounded(odd), _mm512_set1_epi32(0xffff_0000_u32 as i32));
            _mm512_storeu_si512(p.cast(), _mm512_or_si512(low, high));
        }
    }
    #[inline(always)]
    unsafe fn store_u8(p: *mut u8, x: Self::Vector) {
        // SAFETY: the trait's contract.
        unsafe {
            let x = _mm512_add_epi32(_mm512_cvtps_epi32(x), _mm512_set1_epi32(128));
            _mm_storeu_si128(p.cast(), _mm512_cvtepi32_epi8(x));
        }
    }
    #[inline(always)]
    unsafe fn add(a: Self::Vector, b: Self::Vector) -> Self::Vector {
        // SAFETY: the trait's contract.
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn sub(a: Self::Vector, b: Self::Vector) -> Self::Vector {
        // SAFETY: the trait's contract.
        unsafe { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn mul(a: Self::Vector, b: Self::Vector) -> Self::Vector {
        // SAFETY: the trait's contract.
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn div(a: Self::Vector, b: Self::Vector) -> Self::Vector {
        // SAFETY: the trait's contract.
        unsafe { _mm512_div_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn max(a: Self::Vector, b: Self::Vector) -> Self::Vector {
        // SAFETY: the trait's contract.
        unsafe { _mm512_max_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn min(a: Self::Vector, b: Self::Vector) -> Self::Vector {
        // SAFETY: the trait's contract.
        unsafe { _mm512_min_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn abs(a: Self::Vector) -> Self::Vector {
        // SAFETY: the trait's contract.
        unsafe { _mm512_abs_ps(a) }
    }
    #[inline(always)]
    unsafe fn mul_add(a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector {
        // SAFETY: the trait's contract.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn round(x: Self::Vector) -> Self::Vector {
        // SAFETY: the trait's contract.
        unsafe { _mm512_roundscale_ps::<8>(x) }
    }
    #[inline(always)]
    unsafe fn scale_power(x: Self::Vector, n: Self::Vector) -> Self::Vector {
        // SAFETY: the trait's contract.
        unsafe {
            let exponent = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
            _mm512_mul_ps(x, _mm512_castsi512_ps(_mm512_slli_epi32::<23>(exponent)))
        }
    }
    #[inline(always)]
    unsafe fn select(bits: u16, yes: Self::Vector, no: Self::Vector) -> Self::Vector {
        // SAFETY: the trait's contract.
        unsafe { _mm512_mask_blend_ps(bits, no, yes) }
    }
    #[inline(always)]
    unsafe fn sum(x: Self::Vector) -> f32 {
        // SAFETY: the trait's contract.
        unsafe { _mm512_reduce_add_ps(x) }
    }
    #[inline(always)]
    unsafe fn greatest(x: Self::Vector) -> f32 {
        // SAFETY: the trait's contract.
        unsafe { _mm512_reduce_max_ps(x) }
    }
}
