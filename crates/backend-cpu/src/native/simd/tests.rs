//! Lanes and functions against scalar arithmetic, on every instruction set of this processor.

use half::bf16;

use super::{LANES, Simd, exp, exp2_negative};
use crate::native::isa::Isa;

vectorized! {
    /// Both exponentials of sixteen numbers.
    unsafe fn exponentials = exponentials_simd(x: &[f32; LANES], e: &mut [f32; LANES], two: &mut [f32; LANES])
}

#[inline(always)]
unsafe fn exponentials_simd<S: Simd>(x: &[f32; LANES], e: &mut [f32; LANES], two: &mut [f32; LANES]) {
    // SAFETY: arrays of sixteen.
    unsafe {
        let x = S::load(x.as_ptr());
        S::store(e.as_mut_ptr(), exp::<S>(x));
        S::store(two.as_mut_ptr(), exp2_negative::<S>(x));
    }
}

#[test]
fn exponentials_are_within_two_units_in_the_last_place() {
    for isa in Isa::available() {
        let mut x = -130.0f32;
        while x < 89.0 {
            let input: [f32; LANES] = std::array::from_fn(|lane| x + lane as f32 * 0.001_7);
            let (mut e, mut two) = ([0.0; LANES], [0.0; LANES]);
            // SAFETY: the instruction set is available.
            unsafe { exponentials(isa, &input, &mut e, &mut two) };
            for lane in 0..LANES {
                let wide = f64::from(input[lane]);
                if (-87.0..88.7).contains(&wide) {
                    let relative = f64::from(e[lane]) / wide.exp() - 1.0;
                    assert!(relative.abs() < 2.4e-7, "{isa}: exp({wide}) is off by {relative:e}");
                }
                if (-125.0..=0.0).contains(&wide) {
                    let relative = f64::from(two[lane]) / wide.exp2() - 1.0;
                    assert!(relative.abs() < 2.4e-7, "{isa}: 2^{wide} is off by {relative:e}");
                }
                if wide < -126.5 {
                    assert_eq!(two[lane], 0.0, "{isa}: 2^{wide}");
                }
            }
            x += 0.027;
        }
        for (input, expected) in [(f32::NEG_INFINITY, 0.0), (f32::MIN, 0.0)] {
            let (mut e, mut two) = ([1.0; LANES], [1.0; LANES]);
            // SAFETY: the instruction set is available.
            unsafe { exponentials(isa, &[input; LANES], &mut e, &mut two) };
            assert!(e[3] < 1e-37 && two[5] == expected, "{isa}: {} {}", e[3], two[5]);
        }
        let (mut e, mut two) = ([1.0; LANES], [1.0; LANES]);
        // SAFETY: the instruction set is available.
        unsafe { exponentials(isa, &[f32::NAN; LANES], &mut e, &mut two) };
        assert!(e[0].is_nan() && two[0].is_nan(), "{isa}: {} {}", e[0], two[0]);
    }
}

vectorized! {
    /// Sixteen numbers as bf16, as pairs with their negatives, and as bytes.
    unsafe fn rounded = rounded_simd(
        x: &[f32; LANES], half: &mut [u16; LANES], pairs: &mut [u16; 2 * LANES], bytes: &mut [u8; LANES],
    )
}

#[inline(always)]
unsafe fn rounded_simd<S: Simd>(
    x: &[f32; LANES],
    half: &mut [u16; LANES],
    pairs: &mut [u16; 2 * LANES],
    bytes: &mut [u8; LANES],
) {
    // SAFETY: arrays of sixteen, and one of thirty-two.
    unsafe {
        let x = S::load(x.as_ptr());
        S::store_bf16(half.as_mut_ptr(), x);
        S::store_bf16_pairs(pairs.as_mut_ptr(), x, S::sub(S::splat(0.0), x));
        let byte = S::max(S::splat(-127.0), S::min(S::splat(127.0), x));
        S::store_u8(bytes.as_mut_ptr(), byte);
    }
}

#[test]
fn rounding_is_to_the_nearest_even() {
    let ties = [1.0, 1.003_906_3, 1.011_718_8, -1.003_906_3, f32::MAX, 0.0, -0.0, 126.5];
    let others = [1e-3, -127.0, 2.5, -2.5, 0.5, 1.5, f32::INFINITY, 1e-40];
    let x: [f32; LANES] = std::array::from_fn(|lane| if lane < 8 { ties[lane] } else { others[lane - 8] });
    for isa in Isa::available() {
        let (mut half, mut pairs, mut bytes) = ([0; LANES], [0; 2 * LANES], [0; LANES]);
        // SAFETY: the instruction set is available.
        unsafe { rounded(isa, &x, &mut half, &mut pairs, &mut bytes) };
        for lane in 0..LANES {
            let expected = bf16::from_f32(x[lane]).to_bits();
            assert_eq!(half[lane], expected, "{isa}: {}", x[lane]);
            assert_eq!(pairs[2 * lane], expected, "{isa}: {}", x[lane]);
            assert_eq!(pairs[2 * lane + 1], bf16::from_f32(0.0 - x[lane]).to_bits(), "{isa}: {}", x[lane]);
            let byte = x[lane].clamp(-127.0, 127.0).round_ties_even() + 128.0;
            assert_eq!(f32::from(bytes[lane]), byte, "{isa}: {}", x[lane]);
        }
        let mut nan = [0; LANES];
        // SAFETY: the instruction set is available.
        unsafe { rounded(isa, &[f32::NAN; LANES], &mut nan, &mut pairs, &mut bytes) };
        assert!(bf16::from_bits(nan[0]).is_nan(), "{isa}");
    }
}
