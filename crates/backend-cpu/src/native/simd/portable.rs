//! Sixteen lanes as an array; the compiler vectorises what it can.

use super::{LANES, Simd};

/// Any processor.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

#[inline(always)]
fn map(a: [f32; LANES], f: impl Fn(f32) -> f32) -> [f32; LANES] {
    a.map(f)
}

#[inline(always)]
fn zip(a: [f32; LANES], b: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> [f32; LANES] {
    std::array::from_fn(|lane| f(a[lane], b[lane]))
}

/// Rounds to bfloat16, ties to even; NaN stays NaN.
#[inline(always)]
fn bf16_bits(x: f32) -> u16 {
    let bits = x.to_bits();
    if x.is_nan() {
        return (bits >> 16) as u16 | 0x40;
    }
    ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16
}

#[inline(always)]
fn round(x: f32) -> f32 {
    // Adding 1.5 · 2²³ leaves no bits below one; the processor rounds to even. `round_ties_even` is a call here.
    const MAGIC: f32 = 12_582_912.0;
    (x + MAGIC) - MAGIC
}

// SAFETY (all blocks): plain reads and writes of what the trait's contract grants.
impl Simd for Portable {
    type Vector = [f32; LANES];

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::Vector {
        [x; LANES]
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self::Vector {
        // SAFETY: the trait's contract.
        unsafe { p.cast::<Self::Vector>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, x: Self::Vector) {
        // SAFETY: the trait's contract.
        unsafe { p.cast::<Self::Vector>().write_unaligned(x) }
    }
    #[inline(always)]
    unsafe fn load_i32(p: *const i32) -> Self::Vector {
        // SAFETY: the trait's contract.
        unsafe { p.cast::<[i32; LANES]>().read_unaligned() }.map(|x| x as f32)
    }
    #[inline(always)]
    unsafe fn store_bf16(p: *mut u16, x: Self::Vector) {
        // SAFETY: the trait's contract.
        unsafe { p.cast::<[u16; LANES]>().write_unaligned(x.map(bf16_bits)) }
    }
    #[inline(always)]
    unsafe fn store_bf16_pairs(p: *mut u16, even: Self::Vector, odd: Self::Vector) {
        let pairs: [[u16; 2]; LANES] =
            std::array::from_fn(|lane| [bf16_bits(even[lane]), bf16_bits(odd[lane])]);
        // SAFETY: the trait's contract.
        unsafe { p.cast::<[[u16; 2]; LANES]>().write_unaligned(pairs) }
    }
    #[inline(always)]
    unsafe fn store_u8(p: *mut u8, x: Self::Vector) {
        // SAFETY: the trait's contract.
        unsafe { p.cast::<[u8; LANES]>().write_unaligned(x.map(|x| (round(x) + 128.0) as u8)) }
    }
    #[inline(always)]
    unsafe fn add(a: Self::Vector, b: Self::Vector) -> Self::Vector {
        zip(a, b, |a, b| a + b)
    }
    #[inline(always)]
    unsafe fn sub(a: Self::Vector, b: Self::Vector) -> Self::Vector {
        zip(a, b, |a, b| a - b)
    }
    #[inline(always)]
    unsafe fn mul(a: Self::Vector, b: Self::Vector) -> Self::Vector {
        zip(a, b, |a, b| a * b)
    }
    #[inline(always)]
    unsafe fn div(a: Self::Vector, b: Self::Vector) -> Self::Vector {
        zip(a, b, |a, b| a / b)
    }
    #[inline(always)]
    unsafe fn max(a: Self::Vector, b: Self::Vector) -> Self::Vector {
        zip(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    unsafe fn min(a: Self::Vector, b: Self::Vector) -> Self::Vector {
        zip(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    unsafe fn abs(a: Self::Vector) -> Self::Vector {
        map(a, f32::abs)
    }
    #[inline(always)]
    unsafe fn mul_add(a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector {
        std::array::from_fn(|lane| a[lane] * b[lane] + c[lane])
    }
    #[inline(always)]
    unsafe fn round(x: Self::Vector) -> Self::Vector {
        map(x, round)
    }
    #[inline(always)]
    unsafe fn scale_power(x: Self::Vector, n: Self::Vector) -> Self::Vector {
        zip(x, n, |x, n| x * f32::from_bits(((n as i32 + 127) as u32) << 23))
    }
    #[inline(always)]
    unsafe fn select(bits: u16, yes: Self::Vector, no: Self::Vector) -> Self::Vector {
        std::array::from_fn(|lane| if bits >> lane & 1 == 1 { yes[lane] } else { no[lane] })
    }
    #[inline(always)]
    unsafe fn sum(x: Self::Vector) -> f32 {
        let eight: [f32; 8] = std::array::from_fn(|lane| x[lane] + x[lane + 8]);
        let four: [f32; 4] = std::array::from_fn(|lane| eight[lane] + eight[lane + 4]);
        (four[0] + four[2]) + (four[1] + four[3])
    }
    #[inline(always)]
    unsafe fn greatest(x: Self::Vector) -> f32 {
        x.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }
}
