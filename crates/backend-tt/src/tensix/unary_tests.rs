#![allow(clippy::print_stdout, reason = "the tests say what they compared, case by case")]

use safetensors::SafeTensors;

use super::*;

/// One tensor of 16-bit patterns.
fn patterns(file: &'static [u8], name: &str) -> Vec<u16> {
    let tensors = SafeTensors::deserialize(file).unwrap();
    let tensor = tensors.tensor(name).unwrap();
    tensor.data().as_chunks::<2>().0.iter().map(|&pair| u16::from_le_bytes(pair)).collect()
}

fn widen(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

const ALL_INPUTS: &[u8] = include_bytes!("fixtures/unary.safetensors");
const TILE: &[u8] = include_bytes!("fixtures/tile.safetensors");

/// Every bfloat16 input with a measured output: name in the fixture, function, whether it took `|x|`.
const MEASURED: [(&str, Unary, bool); 9] = [
    ("exp", Unary::Exp, false),
    ("gelu_accurate", Unary::Gelu, false),
    ("gelu_fast", Unary::GeluFast, false),
    ("silu", Unary::Silu, false),
    ("sigmoid", Unary::Sigmoid, false),
    ("rsqrt_abs", Unary::Rsqrt, true),
    ("reciprocal", Unary::Reciprocal, false),
    ("sqrt_abs", Unary::Sqrt, true),
    ("tanh", Unary::Tanh, false),
];

/// The same functions on one tile, from another run.
const MEASURED_TILE: [(&str, Unary, bool); 6] = [
    ("exp", Unary::Exp, false),
    ("gelu_acc", Unary::Gelu, false),
    ("gelu_fast", Unary::GeluFast, false),
    ("silu", Unary::Silu, false),
    ("rsqrt", Unary::Rsqrt, true),
    ("recip", Unary::Reciprocal, false),
];

#[test]
fn every_bf16_input_gives_the_kernels_bits() {
    for (name, function, absolute) in MEASURED {
        let expected = patterns(ALL_INPUTS, name);
        assert_eq!(expected.len(), 1 << 16);
        let table = function.table(Dest::Bits16);
        for (bits, &want) in (0..=u16::MAX).zip(&expected) {
            // The measured run had +0 in place of infinities and NaN.
            let input = if bits & 0x7f80 == 0x7f80 { 0 } else { bits };
            let input = if absolute { input & 0x7fff } else { input };
            assert_eq!(table[usize::from(input)], want, "{name} of {:e}", widen(input));
        }
        println!("{name}: 65536 inputs equal");
    }
}

#[test]
fn a_tile_from_another_run_gives_the_kernels_bits() {
    let inputs = patterns(TILE, "X");
    for (name, function, absolute) in MEASURED_TILE {
        let mut row: Vec<f32> = inputs.iter().map(|&x| widen(x)).collect();
        if absolute {
            row.iter_mut().for_each(|x| *x = x.abs());
        }
        function.apply(&mut row, Dest::Bits16, Format::Bf16, Format::Bf16);
        let want: Vec<f32> = patterns(TILE, name).into_iter().map(widen).collect();
        assert_eq!(row, want, "{name}");
        println!("{name}: {} inputs equal", row.len());
    }
}

/// `erf(x)`: its Taylor series up to 3, then a continued fraction of the complement.
fn erf(x: f64) -> f64 {
    let square = x * x;
    if x.abs() < 3.0 {
        let mut term = x;
        let mut sum = x;
        for n in 1..100 {
            term *= -square / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        return sum * std::f64::consts::FRAC_2_SQRT_PI;
    }
    x.signum() - erfc_tail(x.abs()).copysign(x)
}

/// `1 - erf(x)` for `x >= 3`.
fn erfc_tail(x: f64) -> f64 {
    let fraction = (1..=60).rev().fold(x, |below, n| x + f64::from(n) / 2.0 / below);
    (-x * x).exp() / fraction * std::f64::consts::FRAC_2_SQRT_PI / 2.0
}

fn exact(function: Unary, x: f64) -> f64 {
    match function {
        Unary::Exp | Unary::ExpFast => x.exp(),
        Unary::Gelu | Unary::GeluFast => {
            let scaled = x * std::f64::consts::FRAC_1_SQRT_2;
            if scaled < -3.0 { x * 0.5 * erfc_tail(-scaled) } else { x * 0.5 * (1.0 + erf(scaled)) }
        }
        Unary::Silu => x / (1.0 + (-x).exp()),
        Unary::Sigmoid => 1.0 / (1.0 + (-x).exp()),
        Unary::Rsqrt | Unary::RsqrtFast => 1.0 / x.sqrt(),
        Unary::Reciprocal | Unary::ReciprocalFast => 1.0 / x,
        Unary::Sqrt => x.sqrt(),
        Unary::Tanh => x.tanh(),
    }
}

/// The largest error over `inputs`, in units of `2^-bits` of the exact value, where that is a normal number
/// at a distance from the ends of the range. Errors below `floor` do not count.
fn largest_error(
    function: Unary,
    dest: Dest,
    inputs: impl Iterator<Item = f32>,
    bits: i32,
    floor: f64,
) -> f64 {
    let mut largest: f64 = 0.0;
    for x in inputs.filter(|x| x.is_normal()) {
        let want = exact(function, f64::from(x));
        if !want.is_finite() || !(1e-30..1e38).contains(&want.abs()) {
            continue;
        }
        let got = f64::from(function.eval(x, dest));
        let error = (got - want).abs();
        if error > floor {
            largest = largest.max(error / want.abs() * 2.0_f64.powi(bits));
        }
    }
    largest
}

#[test]
fn sixteen_bit_functions_are_near_the_true_ones() {
    // In units of 2^-8 a correctly rounded function has 1 at most.
    for (function, bound, floor) in BOUNDS16 {
        let inputs = (0..=u16::MAX).map(widen);
        let error = largest_error(function, Dest::Bits16, inputs, 8, floor);
        println!("{function:?}: {error:.3}");
        assert!(error <= bound, "{function:?}: {error}");
    }
}

/// The function, its largest measured error (see [`largest_error`]), and the absolute error not counted.
const BOUNDS16: [(Unary, f64, f64); 12] = [
    (Unary::Exp, 1.47, 0.0),
    (Unary::ExpFast, 8.63, 0.0),
    (Unary::Gelu, 1.51, 2e-7),
    (Unary::GeluFast, 0.0, 0.025),
    (Unary::Silu, 1.38, 0.0),
    (Unary::Sigmoid, 1.28, 0.0),
    (Unary::Rsqrt, 1.0, 0.0),
    (Unary::RsqrtFast, 1.1, 0.0),
    (Unary::Reciprocal, 1.0, 0.0),
    (Unary::ReciprocalFast, 1.44, 0.0),
    (Unary::Sqrt, 1.0, 0.0),
    (Unary::Tanh, 1.18, 0.0),
];

#[test]
fn thirty_two_bit_functions_are_near_the_true_ones() {
    for (function, bound, floor) in BOUNDS32 {
        // Every 4,099th pattern: all exponents, scattered mantissas.
        let inputs = (0..u32::MAX / 4099).map(|i| f32::from_bits(i * 4099));
        let error = largest_error(function, Dest::Bits32, inputs, 24, floor);
        println!("{function:?}: {error:.3}");
        assert!(error <= bound, "{function:?}: {error}");
    }
}

/// The same for 32 bits. The kernel's `gelu` cancels in its tail, as `1 + erf` does.
const BOUNDS32: [(Unary, f64, f64); 8] = [
    (Unary::Exp, 1.17, 0.0),
    (Unary::Gelu, 3.56, 1e-6),
    (Unary::Silu, 3.48, 0.0),
    (Unary::Sigmoid, 2.89, 0.0),
    (Unary::Rsqrt, 1.34, 0.0),
    (Unary::Reciprocal, 1.24, 0.0),
    (Unary::Sqrt, 1.55, 0.0),
    (Unary::Tanh, 2.93, 0.0),
];

#[test]
fn the_fast_exponential_has_no_rounding_of_its_own() {
    for bits in 0..1 << 19 {
        let x = f32::from_bits(bits << 13);
        let (got, want) = (functions::exp_fast(x), functions::exp_fast_in_steps(x));
        assert_eq!(got.to_bits(), want.to_bits(), "{x:e}");
    }
}

#[test]
fn non_finite_inputs_and_zeros() {
    // Packed to bfloat16 from 16 bits: -inf, -0, +0, +inf, NaN. A NaN leaves the device as an infinity.
    const INF: f32 = f32::INFINITY;
    let cases = [
        (Unary::Exp, [0.0, 1.0, 1.0, INF, INF]),
        (Unary::Gelu, [0.0, 0.0, 0.0, INF, INF]),
        (Unary::Silu, [INF, 0.0, 0.0, INF, INF]),
        (Unary::Sigmoid, [0.0, 0.5, 0.5, 1.0, 0.0]),
        (Unary::Rsqrt, [INF, -INF, INF, 0.0, INF]),
        (Unary::Reciprocal, [0.0, -INF, INF, 0.0, 0.0]),
        (Unary::Sqrt, [INF, 0.0, 0.0, INF, INF]),
        (Unary::Tanh, [-1.0, 0.0, 0.0, 1.0, 1.0]),
    ];
    for (function, want) in cases {
        let mut row = [-INF, -0.0, 0.0, INF, f32::NAN];
        function.apply(&mut row, Dest::Bits16, Format::Bf16, Format::Bf16);
        assert_eq!(row, want, "{function:?}");
    }
    // Below zero both roots are NaN, which a 32-bit destination keeps and bfloat16 turns into infinity.
    for function in [Unary::Rsqrt, Unary::Sqrt] {
        assert!(function.eval(-2.0, Dest::Bits32).is_nan());
        assert_eq!(function.table(Dest::Bits16)[0xc000], 0x7f80);
    }
}

#[test]
fn a_row_of_blocks_goes_in_and_out() {
    let mut row: Vec<f32> = (0..40).map(|i| i as f32 / 8.0 - 2.5).collect();
    Format::Bfp8.round_host(&mut row);
    let mut want: Vec<f32> = row.iter().map(|&x| Unary::Silu.eval(x, Dest::Bits32)).collect();
    Format::Bfp8.pack(&mut want, Dest::Bits32);
    Unary::Silu.apply(&mut row, Dest::Bits32, Format::Bfp8, Format::Bfp8);
    assert_eq!(row, want);
}

#[test]
fn multiply_add_in_double_precision_equals_the_model() {
    let mut state = 7_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 32) as u32
    };
    for round in 0..3_000_000 {
        let (x, y) = (f32::from_bits(next()), f32::from_bits(next()));
        // Any addend, one of the product's size, or one that nearly cancels it.
        let near = (x * y).to_bits();
        let z = f32::from_bits(match round % 4 {
            0 => next(),
            1 => near.wrapping_add((next() & 0x9fff_ffff).wrapping_sub(0x0fff_ffff)),
            2 => near ^ 0x8000_0000 ^ (next() & 7),
            _ => near ^ (next() & 0x83ff_ffff),
        });
        let (got, want) = (alu::mad(x, y, z), alu::mad_in_integers(x, y, z));
        assert_eq!(got.to_bits(), want.to_bits(), "{x:e} * {y:e} + {z:e}");
    }
}

#[test]
fn multiply_add_rounds_once_and_flushes() {
    let cases = [
        (1.5, 2.0, 0.25, 3.25),
        // The product's last bits survive as one sticky bit at 2^-26, which cancellation brings to light.
        (1.0 + f32::EPSILON, 1.0 + f32::EPSILON, -1.0, 2.0 * f32::EPSILON + f32::EPSILON / 8.0),
        (f32::MIN_POSITIVE, 0.5, 0.0, 0.0),
        (1e-40, 1e30, 1.0, 1.0),
        (3e38, 2.0, f32::MIN, f32::INFINITY),
        (f32::INFINITY, -1.0, 1.0, f32::NEG_INFINITY),
    ];
    for (x, y, z, want) in cases {
        assert_eq!(alu::mad(x, y, z), want, "{x:e} * {y:e} + {z:e}");
    }
    assert!(alu::mad(f32::INFINITY, 0.0, 1.0).is_nan());
    // Away from cancellation it is a correctly rounded multiply-add.
    let mut state = 7_u64;
    for _ in 0..300_000 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let unit = |shift: u32| f32::from_bits(0x3f80_0000 | ((state >> shift) as u32 & 0x007f_ffff));
        let (x, y, z) = (unit(0), unit(20), unit(40));
        assert_eq!(alu::mad(x, y, z), x.mul_add(y, z), "{x} * {y} + {z}");
    }
}
