//! Sixteen f32 lanes on any processor.
//!
//! What is not a matrix product (norms, softmax, activations, packing) is written once over [`Simd`] and compiled for each
//! instruction set by [`vectorized!`]. The trait has what these algorithms use and nothing else.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;

#[cfg(target_arch = "x86_64")]
pub(crate) use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) use avx512::Avx512;
pub(crate) use portable::Portable;

/// Lanes of a vector.
pub(crate) const LANES: usize = 16;

/// Operations on sixteen f32 lanes. Pointers need no alignment.
///
/// # Safety
/// All functions: the processor has the instruction set. Those with pointers: sixteen elements are readable or
/// writable there (`load_i32` and `load`: 64 bytes; `store_bf16`: 32 bytes; `store_bf16_pairs`: 64; `store_u8`: 16).
pub(crate) trait Simd: Copy {
    /// Sixteen f32.
    type Vector: Copy;

    unsafe fn splat(x: f32) -> Self::Vector;
    unsafe fn load(p: *const f32) -> Self::Vector;
    unsafe fn store(p: *mut f32, x: Self::Vector);
    /// Sixteen i32 as f32, rounded.
    unsafe fn load_i32(p: *const i32) -> Self::Vector;
    /// Rounds to bfloat16, to the nearest even.
    unsafe fn store_bf16(p: *mut u16, x: Self::Vector);
    /// Rounds both to bfloat16 and stores them lane by lane in turn: `even[0], odd[0], even[1], …`.
    unsafe fn store_bf16_pairs(p: *mut u16, even: Self::Vector, odd: Self::Vector);
    /// `round(x) + 128` as bytes; `x` within ±127.
    unsafe fn store_u8(p: *mut u8, x: Self::Vector);
    unsafe fn add(a: Self::Vector, b: Self::Vector) -> Self::Vector;
    unsafe fn sub(a: Self::Vector, b: Self::Vector) -> Self::Vector;
    unsafe fn mul(a: Self::Vector, b: Self::Vector) -> Self::Vector;
    unsafe fn div(a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// The greater; `b` where either is NaN.
    unsafe fn max(a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// The lesser; `b` where either is NaN.
    unsafe fn min(a: Self::Vector, b: Self::Vector) -> Self::Vector;
    unsafe fn abs(a: Self::Vector) -> Self::Vector;
    /// `a·b + c`; rounded once where the processor can, else twice.
    unsafe fn mul_add(a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector;
    /// The nearest integer, ties to even; `|x| < 2²²`.
    unsafe fn round(x: Self::Vector) -> Self::Vector;
    /// `x · 2ⁿ` for integral `n` in `-127..=127`; zero at `-127`.
    unsafe fn scale_power(x: Self::Vector, n: Self::Vector) -> Self::Vector;
    /// Lane `i` of `yes` where bit `i` is set, else of `no`.
    unsafe fn select(bits: u16, yes: Self::Vector, no: Self::Vector) -> Self::Vector;
    /// Sum of the lanes, in a fixed order.
    unsafe fn sum(x: Self::Vector) -> f32;
    /// The greatest lane.
    unsafe fn greatest(x: Self::Vector) -> f32;
}

/// Loads `count < 16` elements; the other lanes are zero.
///
/// # Safety
/// As [`Simd`]; `count` elements are readable at `p`.
#[inline(always)]
pub(crate) unsafe fn load_partial<S: Simd>(p: *const f32, count: usize) -> S::Vector {
    let mut lanes = [0.0f32; LANES];
    // SAFETY: `count` elements are readable and `count < 16`.
    unsafe {
        std::ptr::copy_nonoverlapping(p, lanes.as_mut_ptr(), count);
        S::load(lanes.as_ptr())
    }
}

/// Stores the first `count < 16` lanes.
///
/// # Safety
/// As [`Simd`]; `count` elements are writable at `p`.
#[inline(always)]
pub(crate) unsafe fn store_partial<S: Simd>(p: *mut f32, x: S::Vector, count: usize) {
    let mut lanes = [0.0f32; LANES];
    // SAFETY: `count` elements are writable and `count < 16`.
    unsafe {
        S::store(lanes.as_mut_ptr(), x);
        std::ptr::copy_nonoverlapping(lanes.as_ptr(), p, count);
    }
}

/// `eˣ` within 2 units in the last place for results above 2⁻¹²⁶; next to nothing below, infinity above 88.8.
///
/// Cody and Waite's reduction to `|r| ≤ ln 2 / 2` and the polynomial of Cephes' `expf`.
///
/// # Safety
/// As [`Simd`].
#[inline(always)]
pub(crate) unsafe fn exp<S: Simd>(x: S::Vector) -> S::Vector {
    // SAFETY: the caller has the instruction set.
    unsafe {
        // Constants come first so that a NaN comes through: of two lanes, one of them NaN, the second is taken.
        let x = S::max(S::splat(-88.1), S::min(S::splat(88.8), x));
        let n = S::round(S::mul(x, S::splat(std::f32::consts::LOG2_E)));
        let r = S::mul_add(n, S::splat(-0.693_359_4), x);
        let r = S::mul_add(n, S::splat(2.121_944_4e-4), r);
        let p = S::splat(1.987_569_1e-4);
        let p = S::mul_add(p, r, S::splat(1.398_199_9e-3));
        let p = S::mul_add(p, r, S::splat(8.333_452e-3));
        let p = S::mul_add(p, r, S::splat(4.166_579_6e-2));
        let p = S::mul_add(p, r, S::splat(1.666_666_5e-1));
        let p = S::mul_add(p, r, S::splat(0.5));
        let p = S::add(S::mul_add(p, S::mul(r, r), r), S::splat(1.0));
        // Twice half the power, so that 2¹²⁸ · p is reached where p < 1 and infinity beyond.
        let half = S::round(S::mul(n, S::splat(0.5)));
        S::scale_power(S::scale_power(p, half), S::sub(n, half))
    }
}

/// `2ˣ` for `x ≤ 0`, within 2 units in the last place; zero below −126.5.
///
/// # Safety
/// As [`Simd`].
#[inline(always)]
pub(crate) unsafe fn exp2_negative<S: Simd>(x: S::Vector) -> S::Vector {
    // SAFETY: the caller has the instruction set.
    unsafe {
        let x = S::max(S::splat(-127.0), x);
        let n = S::round(x);
        let r = S::sub(x, n);
        // Taylor's series of 2ʳ on |r| ≤ 1/2: the next term is 1.2e-7.
        let p = S::splat(1.540_353e-4);
        let p = S::mul_add(p, r, S::splat(1.333_355_8e-3));
        let p = S::mul_add(p, r, S::splat(9.618_129e-3));
        let p = S::mul_add(p, r, S::splat(5.550_411e-2));
        let p = S::mul_add(p, r, S::splat(2.402_265e-1));
        let p = S::mul_add(p, r, S::splat(6.931_472e-1));
        let p = S::mul_add(p, r, S::splat(1.0));
        S::scale_power(p, n)
    }
}

/// `x · sigmoid(x)`.
///
/// # Safety
/// As [`Simd`].
#[inline(always)]
pub(crate) unsafe fn silu<S: Simd>(x: S::Vector) -> S::Vector {
    // SAFETY: the caller has the instruction set.
    unsafe {
        let e = exp::<S>(S::sub(S::splat(0.0), x));
        S::div(x, S::add(S::splat(1.0), e))
    }
}

/// GELU by its tanh approximation, as `x · sigmoid(2u)` with `u = √(2/π)·(x + 0.044715·x³)`, which is the same and
/// loses no digits where `tanh(u)` is close to −1.
///
/// # Safety
/// As [`Simd`].
#[inline(always)]
pub(crate) unsafe fn gelu_tanh<S: Simd>(x: S::Vector) -> S::Vector {
    // SAFETY: the caller has the instruction set.
    unsafe {
        let inner = S::mul_add(S::mul(x, x), S::splat(0.044_715), S::splat(1.0));
        // −2·√(2/π)
        let e = exp::<S>(S::mul(S::mul(S::splat(-1.595_769), x), inner));
        S::div(x, S::add(S::splat(1.0), e))
    }
}

/// Compiles a generic function for each instruction set and gives it a name that chooses among them at run time.
///
/// `vectorized! { unsafe fn name = generic(a: A, b: B) }` makes `unsafe fn name(isa: Isa, a: A, b: B)`.
macro_rules! vectorized {
    ($(#[$attribute:meta])* unsafe fn $name:ident = $generic:ident($($argument:ident: $type:ty),* $(,)?) $(-> $result:ty)?) => {
        $(#[$attribute])*
        ///
        /// # Safety
        /// As the generic function; `isa` is available on this processor.
        #[allow(clippy::too_many_arguments, reason = "the generic function has as many")]
        unsafe fn $name(isa: $crate::native::isa::Isa, $($argument: $type),*) $(-> $result)? {
            #[cfg(target_arch = "x86_64")]
            {
                #[allow(clippy::too_many_arguments, reason = "the generic function has as many")]
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
                unsafe fn avx512($($argument: $type),*) $(-> $result)? {
                    // SAFETY: the caller's contract.
                    unsafe { $generic::<$crate::native::simd::Avx512>($($argument),*) }
                }
                #[allow(clippy::too_many_arguments, reason = "the generic function has as many")]
                #[target_feature(enable = "avx2,fma")]
                unsafe fn avx2($($argument: $type),*) $(-> $result)? {
                    // SAFETY: the caller's contract.
                    unsafe { $generic::<$crate::native::simd::Avx2>($($argument),*) }
                }
                if isa > $crate::native::isa::Isa::Avx2 {
                    // SAFETY: the caller's contract; `isa` includes AVX-512.
                    return unsafe { avx512($($argument),*) };
                }
                if isa == $crate::native::isa::Isa::Avx2 {
                    // SAFETY: the caller's contract.
                    return unsafe { avx2($($argument),*) };
                }
            }
            #[cfg(not(target_arch = "x86_64"))]
            let _ = isa;
            // SAFETY: the caller's contract.
            unsafe { $generic::<$crate::native::simd::Portable>($($argument),*) }
        }
    };
}
pub(crate) use vectorized;

#[cfg(test)]
mod tests;
