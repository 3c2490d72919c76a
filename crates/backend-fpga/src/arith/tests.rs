//! The arithmetic against wider arithmetic.

use super::*;

/// A reproducible sequence of 64-bit numbers (xorshift).
fn numbers(seed: u64) -> impl Iterator<Item = u64> {
    std::iter::successors(Some(seed), |x| {
        let x = x ^ x << 13;
        let x = x ^ x >> 7;
        Some(x ^ x << 17)
    })
}

/// 768 numbers about 10, 6 wide.
fn row() -> Vec<f32> {
    (0..768).map(|i| ((i * 7919 % 1000) as f32 / 500.0 - 1.0) * 3.0 + 10.0).collect()
}

fn worst(pairs: impl Iterator<Item = (f64, f32)>) -> f64 {
    pairs.map(|(want, got)| (want - f64::from(got)).abs()).fold(0.0, f64::max)
}

#[test]
fn digits_cover_their_range() {
    for q in -TWO_DIGITS..=TWO_DIGITS {
        let (h, l) = digits(q);
        assert!(i32::from(h) * BASE + i32::from(l) == q && h > -128 && l > -128, "{q}");
    }
}

#[test]
fn scales_survive_memory() {
    for (mantissa, exponent) in [(0, 0), (1 << 14, -268), (u16::MAX, i16::MIN), (1 << 12, i16::MAX)] {
        let scale = Scale { mantissa, exponent };
        assert_eq!(Scale::from_word(scale.to_word()), scale);
    }
    assert_eq!(Scale { mantissa: 0x1234, exponent: -2 }.to_word(), 0xfffe_1234);
}

/// What [`encode`] promises, said of its result in exact arithmetic.
fn assert_encoded(value: i64, exponent: i32) {
    let y = encode(value, exponent);
    let length = i128::from(value).unsigned_abs().checked_ilog2();
    let Some(length) = length.filter(|length| *length as i32 + exponent >= -126) else {
        assert_eq!(y.to_bits(), 0, "{value} {exponent}");
        return;
    };
    assert!(y.is_normal() && (y < 0.0) == (value < 0), "{value} {exponent}: {y:e}");
    let (_, own, mantissa) = decode(y);
    let places = own - 150 - exponent;
    let magnitude = i128::from(value).abs();
    if length as i32 + exponent >= 128 {
        assert_eq!(y.abs(), f32::MAX, "{value} {exponent}");
    } else if places <= 0 {
        assert_eq!(magnitude << -places, i128::from(mantissa), "{value} {exponent}");
    } else {
        let error = magnitude - (i128::from(mantissa) << places);
        let half = 1_i128 << (places - 1);
        let is_nearest = error.abs() < half || error.abs() == half && mantissa & 1 == 0;
        assert!(is_nearest || y.abs() == f32::MAX && error >= half, "{value} {exponent}: {y:e}");
    }
}

#[test]
fn encode_rounds_to_nearest_even() {
    for (n, exponent) in numbers(1).zip(numbers(2)).take(1 << 18) {
        assert_encoded(n as i64 >> (n % 64), exponent as i32 % 230);
    }
    for length in 0..64 {
        for exponent in -200..140 {
            for offset in [-1, 0, 1] {
                let value = (1_i64 << length).wrapping_add(offset);
                // The second is a tie where it has more than 24 bits.
                for value in [value, (value << 25 | 1 << 24) >> 20, value.wrapping_neg()] {
                    assert_encoded(value, exponent);
                }
            }
        }
    }
    assert_eq!((encode(i64::MIN, 64), encode(i64::MIN, 65)), (-(2.0_f32.powi(127)), f32::MIN));
    assert_eq!(encode((1 << 24) - 1, 104), f32::MAX);
    assert_eq!(encode((1 << 25) - 1, 103), f32::MAX);
    assert_eq!(encode((1 << 25) - 1, -151), 0.0, "rounding does not lift it into range");
}

#[test]
fn sums_and_products_are_those_of_binary32() {
    let word = |n: u64| f32::from_bits((n >> 13) as u32 & 0x807f_ffff | ((n % 255) as u32) << 23);
    let mut normal = 0;
    for (a, b) in numbers(3).map(word).zip(numbers(4).map(word)).take(1 << 20) {
        let [x, y] = [a, b].map(|x| if x.is_subnormal() { 0.0 } else { x });
        for (got, want) in [(multiply(a, b), x * y), (add(a, b), x + y), (add(a, -b), x - y)] {
            assert!(got == 0.0 && got.is_sign_positive() || got.is_normal(), "{a:e} {b:e}");
            // A product that rounding lifts to the least normal number is judged before that.
            if want.is_normal() && want.abs() > f32::MIN_POSITIVE {
                assert_eq!(got.to_bits(), want.to_bits(), "{a:e} {b:e}");
                normal += 1;
            } else if want.is_infinite() {
                assert_eq!(got, f32::MAX.copysign(want), "{a:e} {b:e}");
            } else if want.abs() < f32::MIN_POSITIVE {
                assert_eq!(got, 0.0, "{a:e} {b:e}");
            }
        }
    }
    assert!(normal > 1 << 20);
    let subnormal = f32::from_bits(0x7f_ffff);
    assert_eq!(add(subnormal, subnormal), 0.0);
    assert_eq!(multiply(subnormal, f32::MAX), 0.0);
    assert_eq!(multiply(f32::from_bits(0x3f7f_ffff), f32::MIN_POSITIVE), 0.0);
}

#[test]
fn numbers_on_a_row_s_grid_are_rounded() {
    let exponent = 127;
    for (x, want) in [
        (1.0_f32, 1 << 23),
        (-1.5, -3 << 22),
        (2.0_f32.powi(-23), 1),
        (2.0_f32.powi(-24), 1),
        (-(2.0_f32.powi(-24)), -1),
        (2.0_f32.powi(-25), 0),
        (0.0, 0),
    ] {
        assert_eq!(fixed(x, exponent), want, "{x:e}");
    }
}

#[test]
fn quantising_errs_by_half_a_step() {
    let outlier: Vec<f32> = row().into_iter().chain([-1e4]).collect();
    let tiny: Vec<f32> = row().iter().map(|x| x * 1e-37).collect();
    let huge: Vec<f32> = row().iter().map(|x| x * 2e37).chain([f32::MAX]).collect();
    for row in [row(), outlier, tiny, huge, vec![-3.0]] {
        for target in [DIGIT, TWO_DIGITS] {
            let (q, scale) = quantise(&row, target);
            assert!((1 << 13..=1 << 14).contains(&scale.mantissa), "{scale:?}");
            assert!(
                q.iter().all(|q| q.abs() <= target) && q.iter().any(|q| q.abs() >= target - target / 4000)
            );
            let step = f64::from(scale.mantissa) * f64::from(scale.exponent).exp2() / f64::from(target);
            let error = q.iter().zip(&row).map(|(q, x)| (f64::from(*q) - f64::from(*x) / step).abs());
            let error = error.fold(0.0, f64::max);
            assert!(error < 0.502, "{target}: {error}");
        }
    }
    assert_eq!(quantise(&[0.0, -0.0, f32::from_bits(1)], DIGIT), (vec![0; 3], Scale::default()));
}

#[test]
fn requantising_scales_and_adds() {
    let (row, column) =
        (Scale { mantissa: 1 << 13, exponent: -13 }, Scale { mantissa: 1 << 12, exponent: -12 });
    assert_eq!(requantise(5, row, column, false, Some(1.5)), 6.5);
    assert_eq!(requantise(-5, row, column, false, None), -5.0);
    assert_eq!(requantise(256 * 3 + 127, row, column, true, None), 256.0 * 3.0);
    assert_eq!(requantise(256 * 3 + 128, row, column, true, None), 256.0 * 4.0);
    assert_eq!(requantise(-128, row, column, true, None), 0.0);
    assert_eq!(requantise(5, Scale::default(), column, false, Some(-2.0)), -2.0);
}

#[test]
fn norms_are_near() {
    let (gain, zeros) = (vec![1.0; 768], vec![0.0; 768]);
    for factor in [1.0, 1e-4, 1e30] {
        let row: Vec<f32> = row().iter().map(|x| x * factor).collect();
        let wide = || row.iter().map(|x| f64::from(*x));
        let mean = wide().sum::<f64>() / 768.0;
        let variance = wide().map(|x| (x - mean).powi(2)).sum::<f64>() / 768.0;
        let layer = norm(&row, &gain, Some(&zeros), 1e-6);
        let error = worst(wide().map(|x| (x - mean) / (variance + 1e-6).sqrt()).zip(layer));
        assert!(error < 1e-5, "{factor:e}: {error:e}");
        let square = wide().map(|x| x * x).sum::<f64>() / 768.0;
        let error = worst(wide().map(|x| x / (square + 1e-5).sqrt()).zip(norm(&row, &gain, None, 1e-5)));
        assert!(error < 1e-5, "{factor:e}: {error:e}");
    }
    assert_eq!(norm(&zeros, &gain, Some(&gain), 1e-6), gain);
    // Epsilon in a row's units is held at 2^46: a row far below it comes out small, but not as small as it should.
    let faint: Vec<f32> = row().iter().map(|x| x * 1e-30).collect();
    assert!(norm(&faint, &gain, None, 1e-6).iter().all(|y| *y > 0.0 && *y <= 1.0 / 64.0));
}

#[test]
fn norms_take_gain_and_bias() {
    let gain: Vec<f32> = (0..768).map(|i| i as f32 / 100.0 - 3.0).collect();
    let bias: Vec<f32> = (0..768).map(|i| 2.0 - i as f32 / 300.0).collect();
    let plain = norm(&row(), &vec![1.0; 768], Some(&vec![0.0; 768]), 1e-6);
    let want = plain.iter().zip(&gain).zip(&bias).map(|((y, gain), bias)| add(multiply(*y, *gain), *bias));
    assert_eq!(norm(&row(), &gain, Some(&bias), 1e-6), want.collect::<Vec<_>>());
}

#[test]
fn softmax_is_near() {
    let row = row();
    let factor = std::f32::consts::LOG2_E * 0.125;
    let mask: Vec<u8> = (0..row.len()).map(|j| u8::from(j % 3 != 0)).collect();
    for (target, bound) in [(TWO_DIGITS, 1e-3), (DIGIT, 2e-2)] {
        for mask in [None, Some(&mask[..])] {
            let (p, scale) = softmax(&row, mask, factor, target, 127);
            let allowed = |j: usize| mask.is_none_or(|mask| mask[j] != 0);
            let e = |j: usize| if allowed(j) { (f64::from(row[j]) * 0.125).exp() } else { 0.0 };
            let sum: f64 = (0..row.len()).map(e).sum();
            let one = f64::from(scale.mantissa) * f64::from(scale.exponent).exp2() * 127.0;
            for (j, p) in p.iter().enumerate() {
                assert!((0..=target).contains(p) && (allowed(j) || *p == 0));
                let (want, got) = (e(j) / sum, f64::from(*p) * one);
                assert!((got - want).abs() <= bound * want, "{target} {j}: {got} {want}");
            }
        }
    }
    let (p, scale) = softmax(&row, Some(&[0; 768]), factor, DIGIT, DIGIT);
    assert!(p.iter().all(|p| *p == DIGIT));
    let one = f64::from(scale.mantissa) * f64::from(scale.exponent).exp2();
    assert!((one * 768.0 * 127.0 * 127.0 - 1.0).abs() < 1e-4);
}

#[test]
fn activations_are_near() {
    let normal =
        |x: f64| 0.5 * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)).tanh());
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    for i in -4000..4000 {
        let x = i as f32 * 5.3e-3;
        let wide = f64::from(x);
        for (name, got, want) in [
            ("SiLU", activate(x, &SIGMOID), wide * sigmoid(wide)),
            ("GELU", activate(x, &GELU_GATE), wide * normal(wide)),
        ] {
            assert!((f64::from(got) - want).abs() < 4e-4 * wide.abs().max(1e-9), "{name} {x}: {got} {want}");
        }
    }
    for gate in [&SIGMOID, &GELU_GATE] {
        assert_eq!((activate(16.0, gate), activate(f32::MAX, gate)), (16.0, f32::MAX));
        assert_eq!((activate(-16.0, gate), activate(f32::MIN, gate)), (0.0, 0.0));
        assert_eq!(activate(1e-30, gate), 0.5e-30);
        assert_eq!(activate(-0.0, gate).to_bits(), 0);
    }
}

#[test]
fn rotations_are_rounded_at_each_step() {
    let (x1, x2, cos, sin) = (1.25e8_f32, -3.000_001, 0.6, 0.8);
    assert_eq!(rotate(x1, x2, cos, sin), (x1 * cos - x2 * sin, x2 * cos + x1 * sin));
}
