//! The accelerator's arithmetic, one number or one row at a time: what every device computes, bit for bit.
//!
//! Activations lie in the card's memory as binary32 words. Products are of int8 digits; every unit that needs more than
//! a sum or a product of two words (quantiser, norm, softmax, activation) first puts its row on the fixed-point grid of
//! the row's largest exponent and then works in integers. Sums and products of two words ([`add`], [`multiply`]) are
//! IEEE binary32 to nearest even, with what is below the normal range flushed to +0 and what is above it held at the
//! largest number. There is no infinity and no NaN.
//!
//! These functions are written to be read; the functional device has faster ones, and the RTL its own, and both are
//! held to these.

/// Largest int8 digit. -128 is left out: a DSP48E2 adds eight products of two packed weights in 17 bits each, and
/// `8 · 127 · 128 < 2^17` holds only so.
pub const DIGIT: i32 = 127;

/// Base of the two digits of a 16-bit number: with digits in ±127 the numbers are `±(127 · 255 + 127)`, without gaps.
pub const BASE: i32 = 255;

/// Largest number of two digits.
pub const TWO_DIGITS: i32 = DIGIT * BASE + DIGIT;

/// A factor `mantissa · 2^exponent` of a row or a column; zero for a row of zeros.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scale {
    /// At most `2^14`.
    pub mantissa: u16,
    /// Of two.
    pub exponent: i16,
}

impl Scale {
    /// As it lies in memory: the exponent in the upper half.
    pub fn to_word(self) -> u32 {
        u32::from(self.exponent as u16) << 16 | u32::from(self.mantissa)
    }

    /// From memory.
    pub fn from_word(word: u32) -> Self {
        Self { mantissa: word as u16, exponent: (word >> 16) as u16 as i16 }
    }
}

/// A word taken apart: sign, biased exponent, and 24-bit mantissa with its leading one. The value is
/// `±mantissa · 2^(exponent − 150)`. Zero and subnormal words are `(false, 0, 0)`.
pub fn decode(x: f32) -> (bool, i32, u32) {
    let bits = x.to_bits();
    let exponent = (bits >> 23 & 0xff) as i32;
    if exponent == 0 {
        return (false, 0, 0);
    }
    (bits >> 31 == 1, exponent, bits & 0x7f_ffff | 0x80_0000)
}

/// The word nearest `value · 2^exponent`, to even; +0 where the value's magnitude is below `2^-126` (judged before
/// rounding), the largest word of its sign where it rounds to more than that.
pub fn encode(value: i64, exponent: i32) -> f32 {
    if value == 0 {
        return 0.0;
    }
    let magnitude = value.unsigned_abs();
    let length = 64 - magnitude.leading_zeros() as i32;
    if length - 1 + exponent < -126 {
        return 0.0;
    }
    // To 24 bits, to nearest even.
    let (mut mantissa, mut exponent) = if length <= 24 {
        (magnitude << (24 - length), exponent - (24 - length))
    } else {
        let shift = length - 24;
        let (kept, half) = (magnitude >> shift, 1_u64 << (shift - 1));
        let rest = magnitude & (half << 1).wrapping_sub(1);
        let up = rest > half || (rest == half && kept & 1 == 1);
        (kept + u64::from(up), exponent + shift)
    };
    if mantissa == 1 << 24 {
        (mantissa, exponent) = (1 << 23, exponent + 1);
    }
    let biased = exponent + 150;
    let sign = u32::from(value < 0) << 31;
    if biased > 254 {
        return f32::from_bits(sign | f32::MAX.to_bits());
    }
    f32::from_bits(sign | (biased as u32) << 23 | mantissa as u32 & 0x7f_ffff)
}

/// The product of two words. An exact product below `2^-126` is +0.
pub fn multiply(a: f32, b: f32) -> f32 {
    let ((sa, ea, ma), (sb, eb, mb)) = (decode(a), decode(b));
    let product = (u64::from(ma) * u64::from(mb)) as i64;
    encode(if sa == sb { product } else { -product }, ea + eb - 300)
}

/// The sum of two words. A sum of magnitude below `2^-126` is +0.
pub fn add(a: f32, b: f32) -> f32 {
    let sum = flushed(a) + flushed(b);
    if sum.abs() < f32::MIN_POSITIVE { 0.0 } else { sum.clamp(f32::MIN, f32::MAX) }
}

fn flushed(x: f32) -> f32 {
    if x.abs() < f32::MIN_POSITIVE { 0.0 } else { x }
}

/// The largest biased exponent of a row; 0 for a row of zeros.
pub fn row_exponent(row: impl IntoIterator<Item = f32>) -> i32 {
    row.into_iter().map(|x| decode(x).1).max().unwrap_or(0)
}

/// `x` in units of `2^(exponent − 150)`, where `exponent` is its row's: 25 bits with sign, half away from zero.
pub fn fixed(x: f32, exponent: i32) -> i32 {
    let (negative, own, mantissa) = decode(x);
    let magnitude = match exponent - own {
        0 => mantissa,
        shift @ 1..=24 => (mantissa + (1 << (shift - 1))) >> shift,
        _ => 0,
    } as i32;
    if negative { -magnitude } else { magnitude }
}

/// A row as integers in `±target` (127, or [`TWO_DIGITS`]): `x ≈ q · scale / target`.
pub fn quantise(row: &[f32], target: i32) -> (Vec<i32>, Scale) {
    let exponent = row_exponent(row.iter().copied());
    let fixed: Vec<i32> = row.iter().map(|x| fixed(*x, exponent)).collect();
    let largest = fixed.iter().map(|x| x.unsigned_abs()).max().unwrap_or(0);
    if largest == 0 {
        return (vec![0; row.len()], Scale::default());
    }
    // 2^13 to 2^14, as the largest has 24 bits.
    let mantissa = largest.div_ceil(1 << 10);
    let reciprocal = ((target as u64) << 24) / u64::from(mantissa);
    let one = |x: i32| {
        let q = ((u64::from(x.unsigned_abs()) * reciprocal + (1 << 33)) >> 34).min(target as u64) as i32;
        if x < 0 { -q } else { q }
    };
    let scale = Scale { mantissa: mantissa as u16, exponent: (exponent - 140) as i16 };
    (fixed.into_iter().map(one).collect(), scale)
}

/// The two digits of a number in ±[`TWO_DIGITS`], high and low: `high · 255 + low`, each in ±127.
pub fn digits(q: i32) -> (i8, i8) {
    let high = (q + TWO_DIGITS) / BASE - DIGIT;
    (high as i8, (q - high * BASE) as i8)
}

/// A product's result: its 48-bit sum of digit products times the row's and the column's factor, plus a bias.
///
/// With digits of one place each, `sum` is `Σ a·w`; with more, `Σ` over places of `255^place · Σ a·w`, and where the
/// weights have two places it is rounded to a 256th (half up) before it is scaled, `wide_weights`.
pub fn requantise(sum: i64, row: Scale, column: Scale, wide_weights: bool, bias: Option<f32>) -> f32 {
    let (sum, shift) = if wide_weights { ((sum + 128) >> 8, 8) } else { (sum, 0) };
    let factor = i64::from(row.mantissa) * i64::from(column.mantissa);
    let exponent = i32::from(row.exponent) + i32::from(column.exponent) + shift;
    let y = encode(sum.wrapping_mul(factor), exponent);
    bias.map_or(y, |bias| add(y, bias))
}

/// A row's softmax as integers in `0..=target`, and the scale `1 / (their sum · weights)` of the product that follows,
/// where `weights` is the target that its values were quantised to.
///
/// `factor` is the scores' factor times log2(e): `p = 2^(factor · (x − largest))`. What is not allowed gets 0; where
/// nothing is, all get the same.
pub fn softmax(
    row: &[f32],
    allowed: Option<&[u8]>,
    factor: f32,
    target: i32,
    weights: i32,
) -> (Vec<i32>, Scale) {
    let is_allowed = |j: usize| allowed.is_none_or(|allowed| allowed[j] != 0);
    let exponent = row_exponent((0..row.len()).filter(|j| is_allowed(*j)).map(|j| row[j]));
    let largest = (0..row.len()).filter(|j| is_allowed(*j)).map(|j| fixed(row[j], exponent)).max();
    let one = |j: usize| match largest {
        None => target,
        Some(_) if !is_allowed(j) => 0,
        Some(largest) => {
            let p = exp2_of_minus(below(largest - fixed(row[j], exponent), exponent, factor));
            ((u64::from(p) * target as u64 + (1 << 15)) >> 16) as i32
        }
    };
    let p: Vec<i32> = (0..row.len()).map(one).collect();
    let divisor = p.iter().map(|p| *p as u64).sum::<u64>() * weights as u64;
    let length = 64 - divisor.leading_zeros();
    // 2^13 to 2^14.
    let mantissa = ((1_u64 << (length + 13)) + divisor / 2) / divisor;
    (p, Scale { mantissa: mantissa as u16, exponent: -(length as i16 + 13) })
}

/// `difference · 2^(exponent − 150) · factor` with 16 fractional bits, cut off; at most 2^22 − 1, which is 64.
fn below(difference: i32, exponent: i32, factor: f32) -> u32 {
    const MOST: u64 = (1 << 22) - 1;
    let (_, own, mantissa) = decode(factor);
    let product = difference as u64 * u64::from(mantissa); // 26 + 24 bits
    let shift = 284 - exponent - own;
    let t = match shift {
        51.. => 0,
        0..=50 => product >> shift,
        // A product is at least 2^23 where it is not 0.
        _ if product > 0 => MOST,
        _ => 0,
    };
    t.min(MOST) as u32
}

/// `2^16 · 2^-(t / 2^16)`, by a table of 256 steps and lines between them.
fn exp2_of_minus(t: u32) -> u32 {
    let (whole, place, rest) = (t >> 16, (t >> 8 & 0xff) as usize, t & 0xff);
    let (a, b) = (EXP2[place], EXP2[place + 1]);
    let value = a - (((a - b) * rest + 128) >> 8);
    if whole >= 18 { 0 } else { (value + ((1 << whole) >> 1)) >> whole }
}

/// LayerNorm of a row where there is a `bias`, RMSNorm where there is none.
pub fn norm(row: &[f32], gain: &[f32], bias: Option<&[f32]>, epsilon: f32) -> Vec<f32> {
    let inverse = reciprocal(row.len());
    let exponent = row_exponent(row.iter().copied());
    let fixed: Vec<i64> = row.iter().map(|x| i64::from(fixed(*x, exponent))).collect();
    // With 8 fractional bits from here on.
    let mean = if bias.is_some() {
        ((i128::from(fixed.iter().sum::<i64>()) * i128::from(inverse)) >> 24) as i64
    } else {
        0
    };
    let centred: Vec<i64> = fixed.iter().map(|x| (x << 8) - mean).collect();
    let largest = centred.iter().map(|d| d.unsigned_abs()).max().unwrap_or(0);
    let length = 64 - largest.leading_zeros() as i32;
    let to_bits = |d: i64, bits: i32| match length - bits {
        shift @ 1.. => (d + (1 << (shift - 1))) >> shift,
        shift => d << -shift,
    };
    let squares: u64 = centred.iter().map(|d| to_bits(*d, 17).pow(2) as u64).sum();
    let (factor, places) = inverse_root(squares, inverse, epsilon, exponent, length);
    let one = |(j, d): (usize, &i64)| {
        let y = multiply(encode(to_bits(*d, 24) * factor, places), gain[j]);
        bias.map_or(y, |bias| add(y, bias[j]))
    };
    centred.iter().enumerate().map(one).collect()
}

/// What a norm's numbers of 24 bits are multiplied by: `(f, p)` for `f · 2^p`, from the sum of the squares of the same
/// numbers in 17 bits; zero where there is nothing but zeros, whose `length` is 0.
///
/// `inverse` is [`reciprocal`] of how many they are, `length` the bits of the largest of them with 8 fractional bits.
pub fn inverse_root(squares: u64, inverse: u64, epsilon: f32, exponent: i32, length: i32) -> (i64, i32) {
    if length == 0 {
        return (0, 0);
    }
    // The mean square with 16 fractional bits, in units of the 17-bit numbers squared.
    let mean_square = ((u128::from(squares) * u128::from(inverse)) >> 16) as u64;
    let (epsilon, excess) = epsilon_in_units(epsilon, exponent, length - 17);
    let variance = (mean_square.checked_shr(excess).unwrap_or(0) + epsilon).min(1 << 62);
    let shift = variance.leading_zeros() & !1;
    let root = (variance << shift).isqrt();
    (((1_u64 << 56) / root) as i64, shift as i32 / 2 - 55 - excess as i32 / 2)
}

/// `2^32 / n`, to nearest: what norms multiply sums by.
pub fn reciprocal(n: usize) -> u64 {
    ((1 << 32) + n as u64 / 2) / n as u64
}

/// Epsilon in the mean square's units, and the even number of places by which both are to be smaller where epsilon is so
/// much the larger that they would not fit.
fn epsilon_in_units(epsilon: f32, exponent: i32, shift: i32) -> (u64, u32) {
    let (_, own, mantissa) = decode(epsilon);
    let places = (own - 150) - 2 * (shift + exponent - 158) + 16;
    let excess = (places - 37).max(0) as u32 & !1;
    match places - excess as i32 {
        _ if mantissa == 0 => (0, 0),
        places @ 0.. => (u64::from(mantissa) << places, excess),
        places @ -23..=-1 => (u64::from(mantissa) >> -places, 0),
        _ => (0, 0),
    }
}

/// `x · gate(x)`: the gate is sigmoid for SiLU and the approximated normal distribution for GELU, by a table of
/// 256 steps over 0..16 and lines between them; `gate(−x) = 1 − gate(x)`.
pub fn activate(x: f32, gate: &[u32; 257]) -> f32 {
    let (negative, exponent, mantissa) = decode(x);
    let position = match 134 - exponent {
        ..=0 => 1 << 20,
        shift @ 1..=23 => (mantissa >> shift).min(1 << 20),
        _ => 0,
    };
    let at = if position == 1 << 20 {
        1 << 24
    } else {
        let (place, rest) = ((position >> 12) as usize, position & 0xfff);
        let (a, b) = (gate[place], gate[place + 1]);
        a + (((u64::from(b - a) * u64::from(rest)) + (1 << 11)) >> 12) as u32
    };
    let at = if negative { (1 << 24) - at } else { at };
    multiply(x, encode(i64::from(at), -24))
}

/// A rotation of a pair, `[x1·cos − x2·sin, x2·cos + x1·sin]`; each product and sum is rounded.
pub fn rotate(x1: f32, x2: f32, cos: f32, sin: f32) -> (f32, f32) {
    let (y1, y2) = (multiply(x2, sin), multiply(x1, sin));
    (add(multiply(x1, cos), -y1), add(multiply(x2, cos), y2))
}

/// `2^16 · 2^(−i/256)`.
pub static EXP2: [u32; 257] = include!("tables/exp2.rs");
/// `2^24 · sigmoid(i/16)`.
pub static SIGMOID: [u32; 257] = include!("tables/sigmoid.rs");
/// `2^24 · (1 + tanh(√(2/π)·(x + 0.044715·x³)))/2` at `x = i/16`.
pub static GELU_GATE: [u32; 257] = include!("tables/gelu_gate.rs");

#[cfg(test)]
mod tests;
