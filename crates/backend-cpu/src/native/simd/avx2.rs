//! Sixteen lanes in two 256-bit registers.

use std::arch::x86_64::*;

use super::Simd;

/// AVX2 with fused multiply-add.
#[derive(Clone, Copy)]
pub(crate) struct Avx2;

/// Lanes 0–7 and 8–15.
#[derive(Clone, Copy)]
pub(crate) struct Pair(__m256, __m256);

impl Avx2 {
    /// Rounds to bfloat16 in the upper half of each lane, ties to even; NaN stays NaN.
    #[inline(always)]
    unsafe fn rounded(x: __m256) -> __m256i {
        // SAFETY: the trait's contract.
        unsafe {
            let bits = _mm256_castps_si256(x);
            let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
            let up = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
            let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x0040_0000));
            let nan = _mm256_cmp_ps::<_CMP_UNORD_Q>(x, x);
            _mm256_castps_si256(_mm256_blendv_ps(_mm256_castsi256_ps(up), _mm256_castsi256_ps(quiet), nan))
        }
    }

    /// `x · 2ⁿ` on eight lanes.
    #[inline(always)]
    unsafe fn scale(x: __m256, n: __m256) -> __m256 {
        // SAFETY: the trait's contract.
        unsafe {
            let exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
            _mm256_mul_ps(x, _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent)))
        }
    }

    /// All bits of lane `i` set where bit `i` is.
    #[inline(always)]
    unsafe fn mask(bits: i32) -> __m256 {
        // SAFETY: the trait's contract.
        unsafe {
            let lanes = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
            let chosen = _mm256_and_si256(_mm256_set1_epi32(bits), lanes);
            _mm256_castsi256_ps(_mm256_cmpeq_epi32(chosen, lanes))
        }
    }
}

macro_rules! both {
    ($op:ident($a:expr, $b:expr)) => {
        // SAFETY: the trait's contract.
        unsafe { Pair($op($a.0, $b.0), $op($a.1, $b.1)) }
    };
}

impl Simd for Avx2 {
    type Vector = Pair;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Pair {
        // SAFETY: the trait's contract.
        unsafe { Pair(_mm256_set1_ps(x), _mm256_set1_ps(x)) }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Pair {
        // SAFETY: the trait's contract.
        unsafe { Pair(_mm256_loadu_ps(p), _mm256_loadu_ps(p.add(8))) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, x: Pair) {
        // SAFETY: the trait's contract.
        unsafe {
            _mm256_storeu_ps(p, x.0);
            _mm256_storeu_ps(p.add(8), x.1);
        }
    }
    #[inline(always)]
    unsafe fn load_i32(p: *const i32) -> Pair {
        // SAFETY: the trait's contract.
        unsafe {
            Pair(
                _mm256_cvtepi32_ps(_mm256_loadu_si256(p.cast())),
                _mm256_cvtepi32_ps(_mm256_loadu_si256(p.add(8).cast())),
            )
        }
    }
    #[inline(always)]
    unsafe fn store_bf16(p: *mut u16, x: Pair) {
        // SAFETY: the trait's contract.
        unsafe {
            let low = _mm256_srli_epi32::<16>(Self::rounded(x.0));
            let high = _mm256_srli_epi32::<16>(Self::rounded(x.1));
            // Packing works within 128-bit lanes; the permutation puts their quarters back into order.
            let packed = _mm256_permute4x64_epi64::<0b1101_1000>(_mm256_packus_epi32(low, high));
            _mm256_storeu_si256(p.cast(), packed);
        }
    }
    #[inline(always)]
    unsafe fn store_bf16_pairs(p: *mut u16, even: Pair, odd: Pair) {
        // SAFETY: the trait's contract.
        unsafe {
            let upper = _mm256_set1_epi32(0xffff_0000_u32 as i32);
            for (half, (even, odd)) in [(even.0, odd.0), (even.1, odd.1)].into_iter().enumerate() {
                let low = _mm256_srli_epi32::<16>(Self::rounded(even));
                let high = _mm256_and_si256(Self::rounded(odd), upper);
                _mm256_storeu_si256(p.add(half * 16).cast(), _mm256_or_si256(low, high));
            }
        }
    }
    #[inline(always)]
    unsafe fn store_u8(p: *mut u8, x: Pair) {
        // SAFETY: the trait's contract.
        unsafe {
            let offset = _mm256_set1_epi32(128);
            let low = _mm256_add_epi32(_mm256_cvtps_epi32(x.0), offset);
            let high = _mm256_add_epi32(_mm256_cvtps_epi32(x.1), offset);
            let words = _mm256_permute4x64_epi64::<0b1101_1000>(_mm256_packus_epi32(low, high));
            let bytes = _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
            _mm_storeu_si128(p.cast(), bytes);
        }
    }
    #[inline(always)]
    unsafe fn add(a: Pair, b: Pair) -> Pair {
        both!(_mm256_add_ps(a, b))
    }
    #[inline(always)]
    unsafe fn sub(a: Pair, b: Pair) -> Pair {
        both!(_mm256_sub_ps(a, b))
    }
    #[inline(always)]
    unsafe fn mul(a: Pair, b: Pair) -> Pair {
        both!(_mm256_mul_ps(a, b))
    }
    #[inline(always)]
    unsafe fn div(a: Pair, b: Pair) -> Pair {
        both!(_mm256_div_ps(a, b))
    }
    #[inline(always)]
    unsafe fn max(a: Pair, b: Pair) -> Pair {
        both!(_mm256_max_ps(a, b))
    }
    #[inline(always)]
    unsafe fn min(a: Pair, b: Pair) -> Pair {
        both!(_mm256_min_ps(a, b))
    }
    #[inline(always)]
    unsafe fn abs(a: Pair) -> Pair {
        // SAFETY: the trait's contract.
        let sign = unsafe { Self::splat(-0.0) };
        both!(_mm256_andnot_ps(sign, a))
    }
    #[inline(always)]
    unsafe fn mul_add(a: Pair, b: Pair, c: Pair) -> Pair {
        // SAFETY: the trait's contract.
        unsafe { Pair(_mm256_fmadd_ps(a.0, b.0, c.0), _mm256_fmadd_ps(a.1, b.1, c.1)) }
    }
    #[inline(always)]
    unsafe fn round(x: Pair) -> Pair {
        // SAFETY: the trait's contract.
        unsafe { Pair(_mm256_round_ps::<8>(x.0), _mm256_round_ps::<8>(x.1)) }
    }
    #[inline(always)]
    unsafe fn scale_power(x: Pair, n: Pair) -> Pair {
        // SAFETY: the trait's contract.
        unsafe { Pair(Self::scale(x.0, n.0), Self::scale(x.1, n.1)) }
    }
    #[inline(always)]
    unsafe fn select(bits: u16, yes: Pair, no: Pair) -> Pair {
        // SAFETY: the trait's contract.
        unsafe {
            Pair(
                _mm256_blendv_ps(no.0, yes.0, Self::mask(i32::from(bits & 0xff))),
                _mm256_blendv_ps(no.1, yes.1, Self::mask(i32::from(bits >> 8))),
            )
        }
    }
    #[inline(always)]
    unsafe fn sum(x: Pair) -> f32 {
        // SAFETY: the trait's contract.
        unsafe {
            let eight = _mm256_add_ps(x.0, x.1);
            let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
        }
    }
    #[inline(always)]
    unsafe fn greatest(x: Pair) -> f32 {
        // SAFETY: the trait's contract.
        unsafe {
            let eight = _mm256_max_ps(x.0, x.1);
            let four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps::<1>(two, two)))
        }
    }
}
