//! The oracle of [`matmul`](super::matmul): its rules as plain loops over 64-bit integers.

use super::matrix::{Blocking, FACE, Math, Operand, TILE, check_rows, unpacked};
use super::{Dest, Fidelity};

/// [`matmul`](super::matmul) by plain loops straight from the rules in its module: slow, and what it is checked against.
///
/// # Panics
/// If `x` does not hold `rows` rows of [`Operand::inputs`].
pub fn matmul_plain(x: &[f32], rows: usize, operand: &Operand, math: Math, blocking: Blocking) -> Vec<f32> {
    check_rows(x, rows, operand);
    let (inputs, outputs) = (operand.inputs(), operand.outputs());
    let tile_of = |tile: usize| tile * TILE..inputs.min((tile + 1) * TILE);
    let mut out = Vec::with_capacity(rows * outputs);
    for row in 0..rows {
        let x = &x[row * inputs..(row + 1) * inputs];
        for output in 0..outputs {
            let mut dest = 0.0;
            for tile in 0..inputs.div_ceil(TILE) {
                if let Blocking::Reload { tiles } = blocking
                    && tile > 0
                    && tile % tiles == 0
                {
                    dest = reload(dest, math.dest);
                }
                let pairs: Vec<_> = tile_of(tile).map(|k| (operand.value(k, output), x[k])).collect();
                for &phase in phases(math.fidelity) {
                    for face in pairs.chunks(FACE) {
                        dest = step(dest, face, phase, math.dest);
                    }
                }
            }
            out.push(dest);
        }
    }
    out
}

/// What a partial sum is after a stay in L1; see [`Blocking::Reload`].
fn reload(value: f32, dest: Dest) -> f32 {
    match dest {
        Dest::Bits16 => value,
        Dest::Bits32 => f32::from_bits(unpacked(value)),
    }
}

/// Which part of `SrcA` (0 high, 1 low) and of `SrcB` each phase multiplies.
fn phases(fidelity: Fidelity) -> &'static [(usize, usize)] {
    let all = &[(0, 0), (1, 0), (0, 1), (1, 1)];
    match fidelity {
        Fidelity::LoFi => &all[..1],
        Fidelity::HiFi2 => &all[..2],
        Fidelity::HiFi3 => &all[..3],
        Fidelity::HiFi4 => all,
    }
}

/// `significand * 2^(exponent - 127 - fraction)`; no exponent where there is only zero.
#[derive(Clone, Copy)]
struct Term {
    significand: i64,
    exponent: Option<i64>,
}

/// One step for one accumulator, `face` holding up to 16 pairs of (`SrcA`, `SrcB`).
fn step(dest: f32, face: &[(f32, f32)], phase: (usize, usize), width: Dest) -> f32 {
    // Bits behind the point of aligned terms, and bits of the result.
    let (fraction, significant) = match width {
        Dest::Bits16 => (10, 8),
        Dest::Bits32 => (23, 24),
    };
    let dest = {
        let (sign, exponent, significand) = split(dest);
        // A 16-bit accumulator has zeros where the bits are cut off.
        Term { significand: sign * (significand >> (23 - fraction)), exponent }
    };
    let sums: Vec<_> = face.chunks(FACE / 2).map(|group| sum(group, phase, fraction)).collect();
    let Some(top) = sums.iter().chain([&dest]).filter_map(|term| term.exponent).max() else {
        return 0.0;
    };
    let mut total = dest.exponent.map_or(0, |exponent| half_away(dest.significand, top - exponent));
    for sum in sums {
        total += sum.exponent.map_or(0, |exponent| half_up(sum.significand, top - exponent));
    }
    normalise(total, top - fraction, significant)
}

/// The products of one group of 8, summed on the largest exponent among them.
fn sum(group: &[(f32, f32)], (part_a, part_b): (usize, usize), fraction: i64) -> Term {
    let mut products = Vec::new();
    for &(a, b) in group {
        let ((sign_a, exponent_a, a), (sign_b, exponent_b, b)) = (split(a), split(b));
        // 10 bits behind the point: 4 of SrcA and 6 of SrcB, whose low part has 3 and is moved up.
        let a = [a >> 19, a >> 14 & 31][part_a];
        let b = [b >> 17, (b >> 13 & 15) << 3][part_b];
        if let (Some(exponent_a), Some(exponent_b)) = (exponent_a, exponent_b) {
            products.push((sign_a * sign_b * a * b, exponent_a + exponent_b));
        }
    }
    let Some(top) = products.iter().map(|&(_, exponent)| exponent).max() else {
        return Term { significand: 0, exponent: None };
    };
    let sum: i64 = products.iter().map(|&(product, exponent)| half_away(product, top - exponent)).sum();
    let worth = 5 * part_a as i64 + 7 * part_b as i64;
    Term { significand: sum << (fraction - 10), exponent: Some(top - 127 - worth) }
}

/// Sign, biased exponent and 24-bit significand; no exponent and no significand for zeros and denormals.
fn split(value: f32) -> (i64, Option<i64>, i64) {
    let bits = i64::from(value.to_bits());
    let sign = if bits >> 31 == 1 { -1 } else { 1 };
    match bits >> 23 & 0xFF {
        0 => (sign, None, 0),
        exponent => (sign, Some(exponent), bits & 0x7F_FFFF | 0x80_0000),
    }
}

/// `value / 2^shift`, ties towards +infinity.
fn half_up(value: i64, shift: i64) -> i64 {
    match shift {
        0 => value,
        // Values have less than 40 bits.
        1..=50 => (value + (1 << (shift - 1))) >> shift,
        _ => 0,
    }
}

/// `value / 2^shift`, ties away from zero.
fn half_away(value: i64, shift: i64) -> i64 {
    value.signum() * half_up(value.abs(), shift)
}

/// `total * 2^(exponent - 127)` with `significant` bits.
fn normalise(total: i64, exponent: i64, significant: i64) -> f32 {
    let bits_of = |value: i64| i64::from(64 - value.leading_zeros());
    let mut magnitude = total.abs();
    let mut exponent = exponent;
    // Rounding can carry into one bit more, which then has zeros to lose.
    while bits_of(magnitude) > significant {
        let excess = bits_of(magnitude) - significant;
        magnitude = half_up(magnitude, excess);
        exponent += excess;
    }
    let missing = 24 - bits_of(magnitude);
    let exponent = exponent + 23 - missing;
    let bits = match (magnitude, exponent) {
        (0, _) | (_, ..=0) => return 0.0,
        (_, 255..) => 255 << 23,
        _ => exponent << 23 | (magnitude << missing) & 0x7F_FFFF,
    };
    let magnitude = f32::from_bits(bits as u32);
    if total < 0 { -magnitude } else { magnitude }
}
