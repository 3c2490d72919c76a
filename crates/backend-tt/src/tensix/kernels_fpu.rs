//! The matrix engine's element-wise instructions and the row sum it makes by multiplying with ones.
//!
//! Only what the kernels in [`super`] need. Source: the arithmetic of Tenstorrent's public simulator, which
//! produced the measured vectors; TF32 operands have an 11-bit significand, hidden one included.

use std::sync::OnceLock;

use crate::tensix::{Dest, Fidelity};

/// A number in the engine's adder: significand at most 25 bits, where `2^23` stands for `2^(exponent - 127)`.
#[derive(Clone, Copy)]
struct Term {
    negative: bool,
    exponent: i32,
    significand: u32,
}

const ZERO: Term = Term { negative: false, exponent: 0, significand: 0 };

impl Term {
    /// Moved to a larger exponent, ties up; a negative number's ties go the other way for `sign_aware`.
    fn aligned(self, exponent: i32, sign_aware: bool) -> u32 {
        let by = exponent - self.exponent;
        match by {
            i32::MIN..=0 => self.significand,
            1..=30 => {
                let half = 1_u32 << (by - 1);
                // With nothing to round, subtracting the sign must not reach below zero.
                (self.significand + half - u32::from(sign_aware && self.negative)) >> by
            }
            _ => 0,
        }
    }
}

/// A source operand: sign, exponent and the 11-bit significand.
#[derive(Clone, Copy)]
struct Operand {
    negative: bool,
    exponent: i32,
    significand: u32,
}

impl Operand {
    fn new(x: f32) -> Self {
        let bits = x.to_bits();
        let exponent = ((bits >> 23) & 255) as i32;
        // Denormals are zeros.
        let significand = if exponent == 0 { 0 } else { ((bits >> 13) & 0x3ff) | 0x400 };
        Self { negative: bits >> 31 != 0, exponent, significand }
    }
}

/// How many of the four phases a fidelity runs.
fn phases(fidelity: Fidelity) -> u32 {
    match fidelity {
        Fidelity::LoFi => 1,
        Fidelity::HiFi2 => 2,
        Fidelity::HiFi3 => 3,
        Fidelity::HiFi4 => 4,
    }
}

/// The part of `SrcA`'s significand that a phase multiplies: 5 bits.
fn part_a(significand: u32, phase: u32) -> u32 {
    if phase & 1 == 0 { significand >> 6 } else { (significand >> 1) & 31 }
}

/// The part of `SrcB`'s significand that a phase multiplies: 7 bits.
fn part_b(significand: u32, phase: u32) -> u32 {
    if phase & 2 == 0 { significand >> 4 } else { (significand & 15) << 3 }
}

/// What a phase adds to the sum of the operands' exponents.
fn phase_exponent(phase: u32) -> i32 {
    -127 - if phase & 1 == 0 { 0 } else { 5 } - if phase & 2 == 0 { 0 } else { 7 }
}

/// Adds two terms to the destination's value, rounds and encodes.
fn accumulate(terms: [Term; 2], dst: u32, dest: Dest) -> u32 {
    let exponent = ((dst >> 23) & 255) as i32;
    let significand = if exponent == 0 { 0 } else { (dst & 0x007f_ffff) | 0x0080_0000 };
    let old = Term { negative: dst >> 31 != 0, exponent, significand };
    let mut exponent = terms[0].exponent.max(terms[1].exponent).max(exponent);
    if exponent <= 0 {
        return 0;
    }
    let mut sum = 0_i32;
    for (term, sign_aware) in [(old, false), (terms[0], true), (terms[1], true)] {
        let mut value = term.aligned(exponent, sign_aware);
        if dest == Dest::Bits16 {
            // A narrow destination's adder has no room for the low 13 bits.
            value = (value + 0x1000 - u32::from(sign_aware && term.negative)) & !0x1fff;
        }
        sum += if term.negative { -(value as i32) } else { value as i32 };
    }
    if sum == 0 {
        return 0;
    }
    let sign = u32::from(sum < 0) << 31;
    let magnitude = sum.unsigned_abs();
    let left = magnitude.leading_zeros() as i32 - 8;
    exponent -= left;
    let narrow = if dest == Dest::Bits16 { 16 } else { 0 };
    let left = left - narrow;
    let mut mantissa =
        if left < 0 { (magnitude + (1 << (-left - 1))) >> -left } else { magnitude << left } << narrow;
    if mantissa & 0x0100_0000 != 0 {
        exponent += 1;
    }
    mantissa &= 0x007f_ffff;
    match exponent {
        i32::MIN..=0 => 0,
        255.. => sign | 0x7f80_0000,
        _ => sign | ((exponent as u32) << 23) | mantissa,
    }
}

/// `ELWMUL` into a cleared destination, step by step: `a * b`, with `a` in `SrcA` and `b` in `SrcB`.
fn multiply_in_phases(a: f32, b: f32, dest: Dest, phases: u32) -> f32 {
    let (a, b) = (Operand::new(a), Operand::new(b));
    let mut dst = 0;
    for phase in 0..phases {
        let exponent = a.exponent + b.exponent + phase_exponent(phase);
        let term = if a.significand == 0 || b.significand == 0 || exponent <= 0 {
            ZERO
        } else {
            let significand = (part_a(a.significand, phase) * part_b(b.significand, phase)) << 13;
            Term { negative: a.negative != b.negative, exponent, significand }
        };
        dst = accumulate([term, ZERO], dst, dest);
    }
    f32::from_bits(dst)
}

/// `ELWMUL` for one destination width and fidelity.
#[derive(Clone, Copy)]
pub(super) struct Multiplier {
    dest: Dest,
    phases: u32,
    /// What of the operands takes part, where the phases add up to one exact product.
    masks: Option<(u32, u32)>,
    /// For a 16-bit destination: exponent's increment and mantissa by sign and both 7-bit mantissas.
    table: &'static [u16],
}

impl Multiplier {
    pub(super) fn new(dest: Dest, fidelity: Fidelity) -> Self {
        static TABLES: [OnceLock<Box<[u16]>>; 4] = [const { OnceLock::new() }; 4];
        let phases = phases(fidelity);
        // In a 32-bit destination 5 + 5 by 7 + 4 bits leave nothing to round. The third fidelity lacks only the
        // product of both low parts, so it is no product of anything.
        let masks = match (dest, fidelity) {
            (Dest::Bits16, _) | (_, Fidelity::HiFi3) => None,
            (_, Fidelity::LoFi) => Some((0xfff8_0000, 0xfffe_0000)),
            (_, Fidelity::HiFi2) => Some((0xffff_c000, 0xfffe_0000)),
            (_, Fidelity::HiFi4) => Some((0xffff_c000, 0xffff_e000)),
        };
        let table: &[u16] = match dest {
            Dest::Bits32 => &[],
            Dest::Bits16 => TABLES[phases as usize - 1].get_or_init(|| {
                let one = |mantissa: u32| f32::from_bits(0x3f80_0000 | (mantissa << 16));
                let product = |i: u32| {
                    let (a, b) = (one((i >> 7) & 127), one(i & 127));
                    multiply_in_phases(if i >> 14 == 0 { a } else { -a }, b, Dest::Bits16, phases)
                };
                (0..1 << 15).map(|i| ((product(i).to_bits() >> 16 & 0x7fff) - 0x3f80) as u16).collect()
            }),
        };
        Self { dest, phases, masks, table }
    }

    /// `a * b`, with `a` in `SrcA` and `b` in `SrcB`.
    #[inline]
    pub(super) fn product(self, a: f32, b: f32) -> f32 {
        let (ab, bb) = (a.to_bits(), b.to_bits());
        let (ae, be) = ((ab >> 23) & 255, (bb >> 23) & 255);
        // Away from both ends of the exponents' range, where phases drop out one by one.
        let regular = (140..=380).contains(&(ae + be)) && ae != 0 && be != 0;
        match (self.dest, self.masks) {
            (Dest::Bits16, _) if regular && (ab | bb) & 0xffff == 0 => {
                let sign = (ab ^ bb) & 0x8000_0000;
                let entry = self.table[((sign >> 17) | ((ab >> 9) & 0x3f80) | ((bb >> 16) & 127)) as usize];
                let magnitude = ((ae + be - 127) << 23) + (u32::from(entry) << 16);
                f32::from_bits(sign | magnitude)
            }
            (Dest::Bits32, Some((a_mask, b_mask))) if regular => {
                f32::from_bits(ab & a_mask) * f32::from_bits(bb & b_mask)
            }
            _ => multiply_in_phases(a, b, self.dest, self.phases),
        }
    }
}

/// `ELWADD`: `a + b`. The smaller operand is first rounded to the larger one's 11 bits, ties up.
pub(super) fn add(a: f32, b: f32, dest: Dest) -> f32 {
    let (ab, bb) = (a.to_bits(), b.to_bits());
    let (larger, smaller) = if ab << 1 >= bb << 1 { (ab, bb) } else { (bb, ab) };
    let (big, small) = (Operand::new(f32::from_bits(larger)), Operand::new(f32::from_bits(smaller)));
    let apart = (big.exponent - small.exponent).min(12);
    let rounded = (2 * small.significand + (1 << apart)) >> (apart + 1);
    let significand =
        if big.negative == small.negative { big.significand + rounded } else { big.significand - rounded };
    let exponent = if big.significand == 0 { 0 } else { big.exponent };
    let sum = Term { negative: big.negative, exponent, significand: significand << 13 };
    f32::from_bits(accumulate([sum, ZERO], 0, dest))
}

/// How many elements are taken together.
const LANES: usize = 16;

/// `ELWADD` on a row: `row[i] += other[i]`.
pub(super) fn add_row(row: &mut [f32], other: &[f32], dest: Dest) {
    let (blocks, rest) = row.as_chunks_mut::<LANES>();
    let (others, others_rest) = other.as_chunks::<LANES>();
    for (a, b) in blocks.iter_mut().zip(others) {
        add_lanes(a, b, dest);
    }
    for (a, &b) in rest.iter_mut().zip(others_rest) {
        *a = add(*a, b, dest);
    }
}

/// `ELWADD` of one number to a row.
pub(super) fn add_to_row(row: &mut [f32], other: f32, dest: Dest) {
    let (blocks, rest) = row.as_chunks_mut::<LANES>();
    for a in blocks {
        add_lanes(a, &[other; LANES], dest);
    }
    for a in rest {
        *a = add(*a, other, dest);
    }
}

fn add_lanes(a: &mut [f32; LANES], b: &[f32; LANES], dest: Dest) {
    if regular(a, b) {
        add_block(a, b, dest);
    } else {
        for (a, &b) in a.iter_mut().zip(b) {
            *a = add(*a, b, dest);
        }
    }
}

/// Whether the larger operand of every sum is zero or far from both ends of the exponents' range.
fn regular(a: &[f32; LANES], b: &[f32; LANES]) -> bool {
    let mut all = true;
    for (a, b) in a.iter().zip(b) {
        let (a, b) = (a.abs(), b.abs());
        let larger = if a >= b { a } else { b };
        // A NaN is in no range.
        all &= (larger == 0.0)
            | ((larger >= f32::from_bits(0x1000_0000)) & (larger < f32::from_bits(0x7d00_0000)));
    }
    all
}

/// [`add`] on several lanes, in floating-point operations of which each is exact.
fn add_block(a: &mut [f32; LANES], b: &[f32; LANES], dest: Dest) {
    let (carry, keep) = match dest {
        Dest::Bits16 => (0x8000, 0xffff_0000),
        Dest::Bits32 => (0, u32::MAX),
    };
    for (a, &b) in a.iter_mut().zip(b) {
        let swap = a.abs() < b.abs();
        let (larger, smaller) = (if swap { b } else { *a }, if swap { *a } else { b });
        // Adding four times the larger one's power of two puts the place of its 11th bit at bit 11.
        let power = f32::from_bits(larger.to_bits() & 0x7f80_0000);
        let half = power * (0.5 / 1024.0);
        let moved = (smaller.abs() + half) + 4.0 * power;
        let rounded = f32::from_bits(moved.to_bits() & !0x7ff) - 4.0 * power;
        let rounded = if smaller.abs() < half { 0.0 } else { rounded };
        // The last term makes +0 of -0.
        let sum = larger + rounded.copysign(smaller) + 0.0;
        *a = f32::from_bits((sum.to_bits() + carry) & keep);
    }
}

/// The sum of eight products with one: aligned to the largest exponent, added exactly.
fn group(values: &[Operand; 8], phase: u32) -> Term {
    // The ones are 127 + 0; the phase's shift is all that is left.
    let shift = phase_exponent(phase) + 127;
    let largest = values.iter().fold(0, |most, value| most.max(value.exponent + shift));
    if largest <= 0 {
        return ZERO;
    }
    let mut sum = 0_i32;
    for value in values {
        if value.significand == 0 {
            continue;
        }
        let product = 16 * part_b(value.significand, phase);
        let apart = (largest - value.exponent - shift).clamp(0, 30);
        let rounded = ((u64::from(product) << 1) + (1 << apart)) >> (apart + 1);
        sum += if value.negative { -(rounded as i32) } else { rounded as i32 };
    }
    Term { negative: sum < 0, exponent: largest, significand: sum.unsigned_abs() << 13 }
}

/// [`group`] for a tile of ordinary exponents, in floating-point operations of which each is exact: the terms
/// of four groups for phase 0 (the upper 7 bits of a significand) and phase 2 (the next 4, 7 places lower).
fn groups_of_ordinary(values: &[f32; 32]) -> Option<[[Term; 4]; 2]> {
    let mut largest = [0; 4];
    let mut anchors = [0.0; 32];
    for ((values, largest), anchors) in values.chunks(8).zip(&mut largest).zip(anchors.chunks_mut(8)) {
        *largest = values.iter().fold(0, |most, x| most.max(x.to_bits() & 0x7f80_0000));
        if !(0x1800_0000..0x7d00_0000).contains(largest) && *largest != 0 {
            return None;
        }
        // Adding it moves the unit that products are rounded to, to bit 11.
        anchors.fill(if *largest == 0 { 1.0 } else { f32::from_bits(*largest) * 4.0 });
    }
    let mut upper = [0.0; 32];
    let mut lower = [0.0; 32];
    for i in 0..32 {
        let (x, anchor) = (values[i], anchors[i]);
        let high = f32::from_bits(x.to_bits() & 0xfffe_0000);
        let low = x - high;
        let moved = (high.abs() + anchor * (0.5 / 4096.0)) + anchor;
        upper[i] = (f32::from_bits(moved.to_bits() & !0x7ff) - anchor).copysign(x);
        let anchor = anchor * (1.0 / 128.0);
        let moved = (low.abs() + anchor * (0.5 / 4096.0)) + anchor;
        lower[i] = (f32::from_bits(moved.to_bits() & !0x7ff) - anchor).copysign(x);
    }
    let term = |parts: &[f32; 32], i: usize, shift: i32, scale: f32| {
        if largest[i] == 0 {
            return ZERO;
        }
        let [a, b, c, d, e, f, g, h] = parts.as_chunks::<8>().0[i];
        let sum = ((a + b) + (c + d)) + ((e + f) + (g + h));
        let units = sum.abs() / anchors[8 * i] * scale;
        Term {
            negative: sum < 0.0,
            exponent: (largest[i] >> 23) as i32 - shift,
            significand: (units as u32) << 13,
        }
    };
    Some([
        std::array::from_fn(|i| term(&upper, i, 0, 4096.0)),
        std::array::from_fn(|i| term(&lower, i, 7, 4096.0 * 128.0)),
    ])
}

/// The sum of a row as the reduction makes it: tiles of 32 in order, in each the phases outside and its two
/// faces of 16 inside, accumulated in the destination. The row counts as padded with zeros.
pub(super) fn row_sum(row: &[f32], dest: Dest, fidelity: Fidelity) -> f32 {
    // The odd phases multiply by the low bits of one, which are zero, and change nothing.
    let passes = phases(fidelity).div_ceil(2) as usize;
    let mut dst = 0;
    for tile in row.chunks(32) {
        let mut values = [0.0; 32];
        values[..tile.len()].copy_from_slice(tile);
        let terms = groups_of_ordinary(&values).unwrap_or_else(|| {
            let group = |i: usize, phase| group(&values.as_chunks::<8>().0[i].map(Operand::new), phase);
            [std::array::from_fn(|i| group(i, 0)), std::array::from_fn(|i| group(i, 2))]
        });
        for [a, b, c, d] in &terms[..passes] {
            dst = accumulate([*a, *b], dst, dest);
            dst = accumulate([*c, *d], dst, dest);
        }
    }
    f32::from_bits(dst)
}

#[cfg(test)]
#[path = "kernels_fpu_tests.rs"]
mod tests;
