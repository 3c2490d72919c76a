//! Everything but products: row by row, without branches that depend on numbers, so that loops become vector code.

use rayon::prelude::*;

use super::isa::{Isa, per_isa};
use crate::arith::{EXP2, GELU_GATE, SIGMOID, Scale, decode, reciprocal};
use crate::descriptor::{Descriptor, Flags, Op, padded};
use crate::memory::Memory;
use crate::plain::target;

/// Elements for which it is worth to wake another thread.
const GRAIN: usize = 1 << 13;

/// A thread's buffers for a row.
#[derive(Default)]
struct Row {
    words: Vec<f32>,
    values: Vec<i32>,
    wide: Vec<i64>,
}

/// [`crate::descriptor::Op::Copy`].
pub(super) fn copy(memory: &mut Memory, d: &Descriptor) {
    let bytes = d.cols as usize * 4;
    for block in 0..u64::from(d.depth) {
        let from = d.source[0] + block * u64::from(d.plane[0]);
        let to = d.destination[0] + block * u64::from(d.plane[1]);
        for row in 0..u64::from(d.rows) {
            memory.copy(from + row * u64::from(d.pitch[0]), to + row * u64::from(d.pitch[2]), bytes);
        }
    }
}

/// Every other operation but products.
pub(super) fn run(isa: Isa, memory: &mut Memory, d: &Descriptor, scratch: &mut Vec<u8>) {
    let (rows, cols) = (d.rows as usize, d.cols as usize);
    let digits = padded(cols);
    let row_bytes = match d.op {
        Op::Quantise | Op::Softmax => d.planes() * digits + 4,
        Op::Rope => cols * 8 * d.depth as usize,
        _ => cols * 4,
    };
    scratch.resize(rows * row_bytes, 0);
    let constants = Constants::new(memory, d);
    let read: &Memory = memory;
    let one = |row: &mut Row, (index, to): (usize, &mut [u8])| match d.op {
        Op::Quantise => quantise_row(isa, read, d, index, row, to),
        Op::Softmax => softmax_row(isa, read, d, index, row, to),
        Op::Norm => norm_row(isa, read, d, &constants, index, row, to),
        Op::Activate => activate_row(isa, read, d, index, to),
        Op::Rope => rope_row(isa, read, d, index, to),
        Op::Combine => combine_row(isa, read, d, index, to),
        Op::End | Op::Gemm | Op::Copy => {}
    };
    scratch
        .par_chunks_mut(row_bytes)
        .enumerate()
        .with_min_len(1 + GRAIN / cols)
        .for_each_init(Row::default, one);
    match d.op {
        Op::Quantise | Op::Softmax => {
            for plane in 0..d.planes() {
                let start = d.destination[0] + plane as u64 * u64::from(d.plane[0]);
                store(memory, start, d, scratch, row_bytes, plane * digits..(plane + 1) * digits);
            }
            let scales = memory.bytes_mut(d.destination[1], rows * 4);
            for (to, from) in scales.chunks_exact_mut(4).zip(scratch.chunks_exact(row_bytes)) {
                to.copy_from_slice(&from[row_bytes - 4..]);
            }
        }
        _ => store(memory, d.destination[0], d, scratch, row_bytes, 0..row_bytes),
    }
}

/// Writes a part of each row.
fn store(
    memory: &mut Memory,
    start: u64,
    d: &Descriptor,
    scratch: &[u8],
    row_bytes: usize,
    part: std::ops::Range<usize>,
) {
    let (rows, pitch) = (d.rows as usize, d.pitch[2] as usize);
    let to = memory.bytes_mut(start, (rows - 1) * pitch + part.len());
    let chunk = if rows == 1 { part.len() } else { pitch };
    to.par_chunks_mut(chunk)
        .zip(scratch.par_chunks(row_bytes))
        .with_min_len(1 + (1 << 17) / row_bytes)
        .for_each(|(to, from)| to[..part.len()].copy_from_slice(&from[part.clone()]));
}

fn at(start: u64, pitch: u32, row: usize) -> u64 {
    start + u64::from(pitch) * row as u64
}

/// A row of words in memory.
fn words(memory: &Memory, address: u64, count: usize) -> &[[u8; 4]] {
    memory.bytes(address, count * 4).as_chunks().0
}

fn quantise_row(isa: Isa, memory: &Memory, d: &Descriptor, row: usize, buffers: &mut Row, to: &mut [u8]) {
    let cols = d.cols as usize;
    buffers.words.resize(cols, 0.0);
    if d.flags.has(Flags::TRANSPOSE) {
        let pitch = d.pitch[0] as usize;
        let from = memory.bytes(d.source[0] + 4 * row as u64, (cols - 1) * pitch + 4);
        for (word, from) in buffers.words.iter_mut().zip(from.chunks(pitch.max(4))) {
            *word = f32::from_le_bytes([from[0], from[1], from[2], from[3]]);
        }
    } else {
        load(isa, words(memory, at(d.source[0], d.pitch[0], row), cols), &mut buffers.words);
    }
    buffers.values.resize(cols, 0);
    let scale = quantise(isa, &buffers.words, target(d), &mut buffers.values);
    set_digits(isa, d, &buffers.values, scale, to);
}

fn set_digits(isa: Isa, d: &Descriptor, values: &[i32], scale: Scale, to: &mut [u8]) {
    let (digits, last) = to.split_at_mut(to.len() - 4);
    last.copy_from_slice(&scale.to_word().to_le_bytes());
    let (high, low) = digits.split_at_mut(padded(values.len()));
    high[values.len()..].fill(0);
    if d.flags.has(Flags::TWO_DIGITS) {
        low[values.len()..].fill(0);
        two_digits(isa, values, high, low);
    } else {
        for (to, value) in high.iter_mut().zip(values) {
            *to = *value as u8;
        }
    }
}

fn softmax_row(isa: Isa, memory: &Memory, d: &Descriptor, row: usize, buffers: &mut Row, to: &mut [u8]) {
    let cols = d.cols as usize;
    let Row { words: numbers, values, .. } = buffers;
    numbers.resize(cols, 0.0);
    values.resize(cols, 0);
    load(isa, words(memory, at(d.source[0], d.pitch[0], row), cols), numbers);
    let mask = d
        .flags
        .has(Flags::MASK)
        .then(|| memory.bytes(at(d.source[1], d.pitch[1], row % d.repeat as usize), cols));
    let factor = f32::from_bits(d.immediate[0]);
    let sum = softmax(isa, numbers, mask, factor, target(d), values);
    let divisor = sum * u64::from(d.immediate[1]);
    let length = 64 - divisor.leading_zeros();
    let mantissa = ((1_u64 << (length + 13)) + divisor / 2) / divisor;
    let scale = Scale { mantissa: mantissa as u16, exponent: -(length as i16 + 13) };
    set_digits(isa, d, values, scale, to);
}

/// Parameters of a norm.
struct Constants {
    gain: Vec<f32>,
    bias: Vec<f32>,
}

impl Constants {
    fn new(memory: &Memory, d: &Descriptor) -> Self {
        let of = |is: bool, start| {
            let count = if is { d.cols as usize } else { 0 };
            memory.words(start, count).collect()
        };
        let is_norm = d.op == Op::Norm;
        Self { gain: of(is_norm, d.source[1]), bias: of(is_norm && d.flags.has(Flags::BIAS), d.source[2]) }
    }
}

fn norm_row(
    isa: Isa,
    memory: &Memory,
    d: &Descriptor,
    constants: &Constants,
    row: usize,
    buffers: &mut Row,
    to: &mut [u8],
) {
    let cols = d.cols as usize;
    let Row { words: numbers, wide, .. } = buffers;
    numbers.resize(cols, 0.0);
    wide.resize(cols, 0);
    load(isa, words(memory, at(d.source[0], d.pitch[0], row), cols), numbers);
    let bias = d.flags.has(Flags::BIAS).then_some(&constants.bias[..]);
    let epsilon = f32::from_bits(d.immediate[0]);
    norm(isa, numbers, &constants.gain, bias, epsilon, wide, to.as_chunks_mut().0);
}

fn activate_row(isa: Isa, memory: &Memory, d: &Descriptor, row: usize, to: &mut [u8]) {
    let cols = d.cols as usize;
    let gate = if d.flags.has(Flags::GELU) { &GELU_GATE } else { &SIGMOID };
    let to = to.as_chunks_mut().0;
    activate(isa, words(memory, at(d.source[0], d.pitch[0], row), cols), gate, to);
    if d.flags.has(Flags::MULTIPLY) {
        scale_by(isa, words(memory, at(d.source[1], d.pitch[0], row), cols), to);
    }
}

fn rope_row(isa: Isa, memory: &Memory, d: &Descriptor, row: usize, to: &mut [u8]) {
    let half = d.cols as usize;
    let from = words(memory, at(d.source[0], d.pitch[0], row), half * 2 * d.depth as usize);
    let table = |start| words(memory, at(start, d.pitch[1], row % d.repeat as usize), half);
    rotate(isa, from, table(d.source[1]), table(d.source[2]), to.as_chunks_mut().0);
}

fn combine_row(isa: Isa, memory: &Memory, d: &Descriptor, row: usize, to: &mut [u8]) {
    let cols = d.cols as usize;
    let x = words(memory, at(d.source[0], d.pitch[0], row), cols);
    let y = d
        .flags
        .has(Flags::ADD)
        .then(|| words(memory, at(d.source[1], d.pitch[1], row % d.repeat as usize), cols));
    let alpha = (!d.flags.has(Flags::PLAIN)).then(|| f32::from_bits(d.immediate[0]));
    combine(isa, x, y, alpha, to.as_chunks_mut().0);
}

/// [`crate::arith::encode`]. The conversion rounds as that does; the rest is the exponent's.
#[inline(always)]
pub(super) fn result(value: i64, exponent: i32) -> f32 {
    let magnitude = value.unsigned_abs();
    let bits = (value as f32).to_bits();
    let biased = ((bits >> 23 & 0xff) as i32).wrapping_add(exponent);
    let scaled = bits & 0x807f_ffff | (biased as u32) << 23;
    let largest = bits & 0x8000_0000 | f32::MAX.to_bits();
    // Below this the value is below the normal range, before it is rounded.
    let least = 1_u64 << (-126_i32).saturating_sub(exponent).clamp(0, 63);
    let is_small = magnitude < least || exponent < -189;
    f32::from_bits(if is_small {
        0
    } else if biased > 254 {
        largest
    } else {
        scaled
    })
}

/// [`crate::arith::multiply`]: a product of two words is exact in binary64.
#[inline(always)]
pub(super) fn product(a: f32, b: f32) -> f32 {
    let exact = f64::from(flushed(a)) * f64::from(flushed(b));
    let rounded = (exact as f32).clamp(f32::MIN, f32::MAX);
    if exact.abs() < f64::from(f32::MIN_POSITIVE) { 0.0 } else { rounded }
}

/// [`crate::arith::add`].
#[inline(always)]
pub(super) fn sum(a: f32, b: f32) -> f32 {
    let sum = flushed(a) + flushed(b);
    if sum.abs() < f32::MIN_POSITIVE { 0.0 } else { sum.clamp(f32::MIN, f32::MAX) }
}

#[inline(always)]
fn flushed(x: f32) -> f32 {
    if x.abs() < f32::MIN_POSITIVE { 0.0 } else { x }
}

/// A word without its sign, in the order of magnitudes; zero where it is below the normal range.
#[inline(always)]
fn magnitude(x: f32) -> u32 {
    let bits = x.to_bits() & 0x7fff_ffff;
    if bits < 1 << 23 { 0 } else { bits }
}

/// [`crate::arith::fixed`].
#[inline(always)]
fn fixed(x: f32, exponent: i32) -> i32 {
    let bits = magnitude(x);
    // Twice, to be rounded after the shift.
    let twice = (bits & 0x7f_ffff | 0x80_0000) << 1;
    let shift = (exponent - (bits >> 23) as i32).clamp(0, 31);
    let rounded = (((twice >> shift) + 1) >> 1) as i32;
    let rounded = if bits == 0 { 0 } else { rounded };
    if x.to_bits() >> 31 == 1 { -rounded } else { rounded }
}

per_isa! {
    fn load(from: &[[u8; 4]], to: &mut [f32]) = load_body;
}

#[inline(always)]
fn load_body(from: &[[u8; 4]], to: &mut [f32]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = f32::from_le_bytes(*from);
    }
}

per_isa! {
    /// [`crate::arith::quantise`].
    fn quantise(row: &[f32], target: i32, values: &mut [i32]) -> Scale = quantise_body;
}

#[inline(always)]
fn quantise_body(row: &[f32], target: i32, values: &mut [i32]) -> Scale {
    // The largest word has the row's exponent, so its number on the row's grid is its mantissa.
    let largest = row.iter().fold(0, |most, x| magnitude(*x).max(most));
    if largest == 0 {
        values.fill(0);
        return Scale::default();
    }
    let exponent = (largest >> 23) as i32;
    let mantissa = (largest & 0x7f_ffff | 0x80_0000).div_ceil(1 << 10);
    let reciprocal = ((target as u64) << 24) / u64::from(mantissa);
    for (value, x) in values.iter_mut().zip(row) {
        let x = fixed(*x, exponent);
        let q = ((u64::from(x.unsigned_abs()) * reciprocal + (1 << 33)) >> 34) as i32;
        let q = q.min(target);
        *value = if x < 0 { -q } else { q };
    }
    Scale { mantissa: mantissa as u16, exponent: (exponent - 140) as i16 }
}

per_isa! {
    /// [`crate::arith::digits`].
    fn two_digits(values: &[i32], high: &mut [u8], low: &mut [u8]) = two_digits_body;
}

#[inline(always)]
fn two_digits_body(values: &[i32], high: &mut [u8], low: &mut [u8]) {
    for ((value, high), low) in values.iter().zip(high).zip(low) {
        // Divides numbers of 16 bits by 255.
        let place = (((value + crate::arith::TWO_DIGITS) as u32).wrapping_mul(0x8081) >> 23) as i32;
        let digit = place - crate::arith::DIGIT;
        *high = digit as u8;
        *low = (value - digit * crate::arith::BASE) as u8;
    }
}

per_isa! {
    /// [`crate::arith::softmax`], and the sum.
    fn softmax(
        row: &[f32],
        mask: Option<&[u8]>,
        factor: f32,
        target: i32,
        values: &mut [i32],
    ) -> u64 = softmax_body;
}

#[inline(always)]
fn softmax_body(row: &[f32], mask: Option<&[u8]>, factor: f32, target: i32, values: &mut [i32]) -> u64 {
    let most = match mask {
        None => row.iter().fold(0, |most, x| magnitude(*x).max(most)),
        Some(mask) => row
            .iter()
            .zip(mask)
            .fold(0, |most, (x, allowed)| if *allowed == 0 { most } else { magnitude(*x).max(most) }),
    };
    let exponent = (most >> 23) as i32;
    for (value, x) in values.iter_mut().zip(row) {
        *value = fixed(*x, exponent);
    }
    if let Some(mask) = mask {
        for (value, allowed) in values.iter_mut().zip(mask) {
            *value = if *allowed == 0 { i32::MIN } else { *value };
        }
    }
    let largest = values.iter().fold(i32::MIN, |most, x| most.max(*x));
    if largest == i32::MIN {
        values.fill(target);
        return row.len() as u64 * target as u64;
    }
    // Exponents of two, with 16 fractional bits.
    const MOST: u64 = (1 << 22) - 1;
    let (_, own, mantissa) = decode(factor);
    // A product is at least 2^23 where it is not 0, so what would have to be shifted to the left is too large anyway.
    let shift = (284 - exponent - own).clamp(0, 51);
    for value in values.iter_mut() {
        // Of what is not allowed, wrapped; it is large.
        let difference = largest.wrapping_sub(*value) as u32;
        let is_out = *value == i32::MIN;
        let product = u64::from(difference) * u64::from(mantissa);
        let t = (product >> shift).min(MOST) as i32;
        *value = if is_out { 18 << 16 } else { t };
    }
    for value in values.iter_mut() {
        let t = *value as u32;
        let (whole, place, rest) = (t >> 16, (t >> 8 & 0xff) as usize, t & 0xff);
        let (a, b) = (EXP2[place], EXP2[place + 1]);
        let power = a - (((a - b) * rest + 128) >> 8);
        let power = if whole >= 18 { 0 } else { (power + ((1_u32 << (whole & 31)) >> 1)) >> (whole & 31) };
        *value = ((power * target as u32 + (1 << 15)) >> 16) as i32;
    }
    values.iter().fold(0, |sum, p| sum + *p as u64)
}

per_isa! {
    /// [`crate::arith::norm`].
    fn norm(
        row: &[f32],
        gain: &[f32],
        bias: Option<&[f32]>,
        epsilon: f32,
        centred: &mut [i64],
        to: &mut [[u8; 4]],
    ) = norm_body;
}

#[inline(always)]
fn norm_body(
    row: &[f32],
    gain: &[f32],
    bias: Option<&[f32]>,
    epsilon: f32,
    centred: &mut [i64],
    to: &mut [[u8; 4]],
) {
    let inverse = reciprocal(row.len());
    let exponent = (row.iter().fold(0, |most, x| magnitude(*x).max(most)) >> 23) as i32;
    for (centred, x) in centred.iter_mut().zip(row) {
        *centred = i64::from(fixed(*x, exponent));
    }
    let mean = if bias.is_some() {
        ((i128::from(centred.iter().sum::<i64>()) * i128::from(inverse)) >> 24) as i64
    } else {
        0
    };
    for x in centred.iter_mut() {
        *x = (*x << 8) - mean;
    }
    let largest = centred.iter().fold(0, |most, d| d.unsigned_abs().max(most));
    let length = 64 - largest.leading_zeros() as i32;
    let squares = centred.iter().fold(0_u64, |sum, d| {
        let d = to_bits(*d, length - 17);
        sum + (d * d) as u64
    });
    let (factor, places) = crate::arith::inverse_root(squares, inverse, epsilon, exponent, length);
    for (d, (gain, to)) in centred.iter().zip(gain.iter().zip(to.iter_mut())) {
        let y = result(to_bits(*d, length - 24) * factor, places);
        *to = product(y, *gain).to_le_bytes();
    }
    if let Some(bias) = bias {
        for (to, bias) in to.iter_mut().zip(bias) {
            *to = sum(f32::from_le_bytes(*to), *bias).to_le_bytes();
        }
    }
}

/// Divided by `2^shift`, to nearest, half up.
#[inline(always)]
fn to_bits(d: i64, shift: i32) -> i64 {
    let (right, left) = (shift.max(0) as u32, (-shift).max(0) as u32);
    let half = (1_i64 << right) >> 1;
    ((d << left) + half) >> right
}

per_isa! {
    /// [`crate::arith::activate`].
    fn activate(from: &[[u8; 4]], gate: &[u32; 257], to: &mut [[u8; 4]]) = activate_body;
}

#[inline(always)]
fn activate_body(from: &[[u8; 4]], gate: &[u32; 257], to: &mut [[u8; 4]]) {
    for (to, from) in to.iter_mut().zip(from) {
        let x = f32::from_le_bytes(*from);
        let bits = magnitude(x);
        let shift = 134 - (bits >> 23) as i32;
        let position = (bits & 0x7f_ffff | 0x80_0000) >> shift.clamp(0, 31);
        let position = if shift <= 0 { 1 << 20 } else { position.min(1 << 20) };
        // The last place of the table is that of 16 and more, where the next one is not used.
        let (place, rest) = ((position >> 12) as usize, position & 0xfff);
        let (a, b) = (gate[place], gate[(place + 1).min(256)]);
        let at = a + (((b - a) * rest + (1 << 11)) >> 12);
        let at = if position == 1 << 20 { 1 << 24 } else { at };
        let at = if x.to_bits() >> 31 == 1 && bits != 0 { (1 << 24) - at } else { at };
        let gate = at as i32 as f32 * (1.0 / (1 << 24) as f32);
        *to = product(x, gate).to_le_bytes();
    }
}

per_isa! {
    fn scale_by(factors: &[[u8; 4]], to: &mut [[u8; 4]]) = scale_by_body;
}

#[inline(always)]
fn scale_by_body(factors: &[[u8; 4]], to: &mut [[u8; 4]]) {
    for (to, factor) in to.iter_mut().zip(factors) {
        *to = product(f32::from_le_bytes(*to), f32::from_le_bytes(*factor)).to_le_bytes();
    }
}

per_isa! {
    /// [`crate::arith::rotate`] of each head.
    fn rotate(from: &[[u8; 4]], cos: &[[u8; 4]], sin: &[[u8; 4]], to: &mut [[u8; 4]]) = rotate_body;
}

#[inline(always)]
fn rotate_body(from: &[[u8; 4]], cos: &[[u8; 4]], sin: &[[u8; 4]], to: &mut [[u8; 4]]) {
    let half = cos.len();
    for (from, to) in from.chunks_exact(2 * half).zip(to.chunks_exact_mut(2 * half)) {
        let ((x1, x2), (y1, y2)) = (from.split_at(half), to.split_at_mut(half));
        for i in 0..half {
            let [x1, x2, cos, sin] = [x1[i], x2[i], cos[i], sin[i]].map(f32::from_le_bytes);
            y1[i] = sum(product(x1, cos), -product(x2, sin)).to_le_bytes();
            y2[i] = sum(product(x2, cos), product(x1, sin)).to_le_bytes();
        }
    }
}

per_isa! {
    /// `y + alpha · x`, each where it is there.
    fn combine(x: &[[u8; 4]], y: Option<&[[u8; 4]]>, alpha: Option<f32>, to: &mut [[u8; 4]]) = combine_body;
}

#[inline(always)]
fn combine_body(x: &[[u8; 4]], y: Option<&[[u8; 4]]>, alpha: Option<f32>, to: &mut [[u8; 4]]) {
    match alpha {
        Some(alpha) => {
            for (to, x) in to.iter_mut().zip(x) {
                *to = product(alpha, f32::from_le_bytes(*x)).to_le_bytes();
            }
        }
        None => to.copy_from_slice(x),
    }
    if let Some(y) = y {
        for (to, y) in to.iter_mut().zip(y) {
            *to = sum(f32::from_le_bytes(*y), f32::from_le_bytes(*to)).to_le_bytes();
        }
    }
}
