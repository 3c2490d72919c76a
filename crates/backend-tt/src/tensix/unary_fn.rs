//! The functions themselves, in the steps of the kernels that ship with ttnn 0.81.
//!
//! Those with `16` in their name feed a 16-bit destination and round to bfloat16 where the kernel does;
//! those with `32` feed a 32-bit one.

use super::alu::{
    INFINITY, add, approximate_reciprocal, exponent, greater, horner, mad, mantissa, max, min, mul,
    round_bf16, round_magnitude, set_exponent, shift,
};

/// `log2(e)` as the kernels have it.
const LOG2_E: f32 = std::f32::consts::LOG2_E;
/// `2^f` on fractions of `2^23`, without its constant term.
const EXP_LINEAR: f32 = 7.839_635_5e-8;
const EXP_SQUARE: f32 = 4.791_75e-15;

/// `2^(z - 127)` for `z` in `[0, 256)`: the integer part becomes the exponent, a parabola the mantissa.
///
/// This is `exp_21f` of Moroz et al., "Simple Multiple Precision Algorithms for Exponential Functions" (2022).
fn exp2_parabola(z: f32, constant: f32, keep: bool) -> f32 {
    let fixed = shift(mantissa(z), exponent(z));
    let fraction = (fixed & 0x007f_ffff) as f32;
    let slope = mad(fraction, EXP_SQUARE, EXP_LINEAR);
    let value = mad(slope, fraction, constant);
    set_exponent(value, if keep { fixed >> 23 } else { 0 })
}

/// `e^x` for a 16-bit destination.
pub(super) fn exp16(x: f32) -> f32 {
    let z = min(mad(x, LOG2_E, 127.0), 255.0);
    // The hand-written kernel loads its constant term as a half float: 1.00195 for 1.00172.
    round_bf16(exp2_parabola(z, 1.001_953_1, greater(z, 0.0)))
}

/// `e^x` as used inside the 16-bit sigmoid, not rounded.
fn exp16_inner(x: f32) -> f32 {
    let z = max(min(mad(x, LOG2_E, 127.0), 255.0), 0.0);
    exp2_parabola(z, 1.001_724_8, true)
}

/// Schraudolph's `e^x`: the bits of the result are linear in `x`; below -88.5 it is zero.
pub(super) fn exp_fast(x: f32) -> f32 {
    const SLOPE: f32 = 369.329_93;
    const START: f32 = 32_500.818;
    if x.abs() < 88.5 && x.to_bits() & 0x1fff == 0 {
        // The same in double precision, several lanes at a time: the tests compare all such inputs.
        let line = (f64::from(SLOPE) * f64::from(x) + f64::from(START)) as f32;
        return f32::from_bits(((f64::from(line.abs()) + 0.5) as u32).min(65_535) << 15);
    }
    exp_fast_in_steps(x)
}

/// [`exp_fast`] in the vector unit's own steps.
pub(super) fn exp_fast_in_steps(x: f32) -> f32 {
    let line = mad(369.329_93, max(x, -88.5), 32_500.818);
    f32::from_bits(round_magnitude(line, 65_535) << 15)
}

/// `e^x` to full precision: `2^i` times a polynomial on the remainder; steps and coefficients are Norbert
/// Juffa's, as the kernel credits them.
pub(super) fn exp32(x: f32) -> f32 {
    let scaled = mul(LOG2_E, x);
    let whole = round_magnitude(scaled, 32_767) as i32;
    let whole = if scaled.is_sign_negative() { -whole } else { whole };
    let steps = whole as f32;
    let rest = mad(steps, -1.428_606_8e-6, mad(steps, -6.931_457_5e-1, x));
    let mut series = 1.378_059_4e-3;
    for coefficient in [8.373_124_5e-3, 4.166_953_6e-2, 1.666_647_2e-1, 4.999_998_5e-1] {
        series = mad(series, rest, coefficient);
    }
    let slope = mad(series, rest, 1.0);
    let value = mad(slope, rest, 1.0);
    let power = exponent(value) + 127 + whole;
    if power >= 255 {
        mul(slope, f32::INFINITY)
    } else if power < 1 {
        0.0
    } else {
        set_exponent(value, power as u32)
    }
}

/// One or two Newton steps on the approximate reciprocal; zero and infinity keep the approximation.
fn reciprocal_newton(x: f32, steps: u32) -> f32 {
    let start = approximate_reciprocal(x);
    let error = mad(x, start, -2.0);
    if error.is_nan() || error.is_sign_positive() {
        return start;
    }
    let once = mad(start, -error, -0.0);
    if steps == 1 { once } else { mad(once, -mad(x, once, -2.0), -0.0) }
}

/// `1/x` for a 16-bit destination: the approximation, raised by one unit where its midpoint is too small.
pub(super) fn reciprocal16(x: f32) -> f32 {
    let middle = approximate_reciprocal(x).to_bits() | 0x8000;
    let error = mad(mad(0.0, 0.0, x), f32::from_bits(middle), -1.0);
    // A negative error has its sign bit in bit 15 after the shift and so carries into the mantissa.
    f32::from_bits(middle.wrapping_add(error.to_bits() >> 16))
}

/// `1/x` for a 32-bit destination: `y (1 + e + e² + e³)` with `e = 1 - x y`.
pub(super) fn reciprocal32(x: f32) -> f32 {
    let y = approximate_reciprocal(x);
    let e = mad(-x, y, 1.0);
    let series = min(mad(mad(e, e, e), e, e), 1.0);
    mad(series, y, y)
}

/// What both roots share: the refined reciprocal root `y`, `x y`, and `1 - x y y`.
fn root_steps(x: f32) -> (f32, f32, f32) {
    let y = f32::from_bits(0x5f11_10a0_u32.wrapping_sub(x.to_bits() >> 1));
    let c = mul(-y, mul(x, y));
    let y = mul(y, mad(c, add(2.253_305, c), 2.282_518_6));
    let xy = mul(x, y);
    (y, xy, mad(-y, xy, 1.0))
}

/// `1/√x` to about 10 bits, with the edges of [`rsqrt`].
pub(super) fn rsqrt_fast(x: f32) -> f32 {
    let y = f32::from_bits(0x5f0b_3892_u32.wrapping_sub(x.to_bits() >> 1));
    let step = mad(-y, mul(x, y), 1.890_990_1);
    rsqrt_edges(x, mul(y, step))
}

/// `1/√x`: ±inf at ±0, 0 at +inf, NaN below zero.
pub(super) fn rsqrt(x: f32) -> f32 {
    let (y, _, rest) = root_steps(x);
    let half = f32::from_bits(y.to_bits().wrapping_sub(0x0080_0000));
    rsqrt_edges(x, mad(rest, half, y))
}

/// `value`, except where `x` is zero, +inf or negative.
fn rsqrt_edges(x: f32, value: f32) -> f32 {
    let complement = INFINITY.wrapping_sub(x.to_bits());
    if complement == 0 || x.to_bits() << 1 == 0 {
        f32::from_bits(complement)
    } else if x.is_sign_negative() {
        f32::NAN
    } else {
        value
    }
}

/// `√x`: ±0 at ±0, NaN below zero.
pub(super) fn sqrt(x: f32) -> f32 {
    if x.to_bits() << 1 == 0 {
        return x;
    }
    if x.is_sign_negative() {
        return f32::NAN;
    }
    let (_, xy, rest) = root_steps(x);
    if x.to_bits() < INFINITY { mad(rest, mul(0.5, xy), xy) } else { xy }
}

/// `1 / (1 + e^-x)` for a 16-bit destination, not rounded.
pub(super) fn sigmoid16(x: f32) -> f32 {
    reciprocal_newton(add(1.0, exp16_inner(-x)), 1)
}

/// `1 / (1 + e^-x)` for a 32-bit destination.
pub(super) fn sigmoid32(x: f32) -> f32 {
    reciprocal_newton(add(1.0, exp32(-x)), 2)
}

/// `tanh` for a 16-bit destination: an odd polynomial of degree 6 in `|x|`, clamped to one.
pub(super) fn tanh16(x: f32) -> f32 {
    let a = x.abs();
    let mut value = 5.876_734e-3;
    for coefficient in [-6.664_902e-2, 0.281_917_63, -0.489_065_98, 3.089_743_9e-2, 0.999_004_36] {
        value = mad(value, a, coefficient);
    }
    min(mul(value, a), 1.0).copysign(x)
}

/// `tanh` for a 32-bit destination: `t / (t + 1)` with `t = expm1(2|x|) / 2`.
pub(super) fn tanh32(x: f32) -> f32 {
    let doubled = add(x, x).abs();
    let whole = round_magnitude(mul(x, 2.0 * LOG2_E), 255);
    let f = mad(whole as f32, -std::f32::consts::LN_2, doubled);
    let mut r = 1.974_105_8e-4;
    for coefficient in [1.393_318_2e-3, 8.331_299e-3, 4.166_680_2e-2, 1.666_667_2e-1, 0.5] {
        r = mad(r, f, coefficient);
    }
    let r = mad(r, mul(f, f), f);
    let scale = set_exponent(0.0, whole + 126);
    let numerator = mad(r, scale, add(scale, -0.5));
    let finite = f32::from_bits(doubled.to_bits().wrapping_sub(1));
    let denominator = add(numerator, 1.0);
    let saturated = mad(finite, 0.0, 1.0);
    let value = if whole >= 61 {
        saturated
    } else if exponent(x) + 127 < 115 {
        x
    } else {
        let start = approximate_reciprocal(denominator);
        let start = mad(start, mad(-denominator, start, 1.0), start);
        let ratio = mul(numerator, start);
        mad(mad(-denominator, ratio, numerator), start, ratio)
    };
    value.copysign(x)
}

/// Where the single-precision `erf(x/√2)` reaches -1 and so the kernels return zero.
const GELU_SATURATION: f32 = -5.542_594_4;

/// `gelu` for a 16-bit destination, not rounded: `x Φ(x)` with `Φ` in three pieces.
pub(super) fn gelu16(x: f32) -> f32 {
    if !greater_than(x, GELU_SATURATION) {
        return 0.0;
    }
    if !less_than(x, 2.781_25) {
        return x;
    }
    let square = mul(x, x);
    if !less_than(x, -3.125) {
        const ODD: [f32; 7] = [
            3.989_423e-1,
            -6.636_104e-2,
            9.772_005_5e-3,
            -1.071_780_7e-3,
            8.181_216e-5,
            -3.808_205_7e-6,
            7.982_141e-8,
        ];
        return mul(x, mad(x, horner(square, ODD), 0.5));
    }
    let gauss = exp2_parabola(mad(square, -0.721_347_5, 127.0), 1.001_724_8, true);
    let tail = mul(gauss, horner(x, [3.036_999e-1, 9.541_339e-2, 1.380_998_4e-2, 7.595_048e-4]));
    // Adding and subtracting 0.375 rounds to multiples of 2^-25, the steps of PyTorch's single-precision erfc.
    mul(x, add(add(tail, 0.375), -0.375))
}

/// `gelu` for a 32-bit destination: `x (1/2 + erf(x/√2)/2)` with a rational `erf`.
pub(super) fn gelu32(x: f32) -> f32 {
    #[expect(clippy::approx_constant, reason = "the fit's first coefficient is one step below 2/√π")]
    const NUMERATOR: [f32; 8] = [
        1.128_379_1,
        2.147_743_3e-1,
        6.213_343_5e-2,
        5.623_043_5e-3,
        6.130_704_4e-4,
        1.767_832_1e-5,
        2.738_464_8e-8,
        -2.863_206_3e-10,
    ];
    const DENOMINATOR: [f32; 9] = [
        1.0,
        5.236_727_6e-1,
        1.296_170_7e-1,
        1.964_257_1e-2,
        1.954_555_5e-3,
        1.317_905_7e-4,
        1.315_634_5e-6,
        -3.515_388_9e-9,
        -6.735_072_6e-12,
    ];
    if !greater_than(x, GELU_SATURATION) {
        return add(x, -x);
    }
    let scaled = min(mul(x, std::f32::consts::FRAC_1_SQRT_2), 10.0);
    let square = mul(scaled, scaled);
    let numerator = mul(horner(square, NUMERATOR), scaled);
    let erf = mul(numerator, reciprocal_newton(horner(square, DENOMINATOR), 2));
    let erf = min(max(erf, -1.0), 1.0);
    if erf == -1.0 { mul(x, 2.980_232_2e-8) } else { mul(x, mad(0.5, erf, 0.5)) }
}

/// The approximate `gelu`: `x/2` plus a function of `|x|` that is linear on six intervals.
pub(super) fn gelu_fast(x: f32) -> f32 {
    /// Slopes and intercepts, in half precision in the kernel's table.
    const LINES: [(f32, f32); 6] = [
        (0.192_749_02, -0.000_104_427_34),
        (0.493_896_48, -0.160_400_39),
        (0.618_652_34, -0.279_541_02),
        (0.609_863_3, -0.263_427_73),
        (0.540_039_06, -0.119_384_766),
        (0.5, 0.0),
    ];
    let a = x.abs();
    let interval = [0.5, 1.0, 1.5, 2.0, 3.0].iter().filter(|&&edge| !less_than(a, edge)).count();
    let (slope, intercept) = LINES[interval];
    add(mul(x, 0.5), mad(slope, a, intercept))
}

/// `x > y` as the compiler compares floats: the sign of a difference.
fn greater_than(x: f32, y: f32) -> bool {
    let difference = add(x, -y);
    difference.is_sign_positive() && difference.to_bits() != 0
}

/// `x < y` as the compiler compares floats: the sign of a difference.
fn less_than(x: f32, y: f32) -> bool {
    add(x, -y).is_sign_negative()
}
