//! The vector unit's instructions that the functions in [`super`] are made of, on one lane.
//!
//! Source: Tenstorrent's ISA documentation for Blackhole (`SFPMAD`, `SFPARECIP`, `SFPSWAP`, `SFPSHFT`,
//! `SFPSTOCHRND`, `SFPSTORE`, `SFPLUTFP32` and the multiply-add model beside them).

/// The sign bit of a 32-bit float.
const SIGN: u32 = 0x8000_0000;
/// The exponent field of a 32-bit float, and so the bits of infinity.
pub(super) const INFINITY: u32 = 0x7f80_0000;
/// The mantissa field of a 32-bit float.
const MANTISSA: u32 = 0x007f_ffff;
/// The one NaN that arithmetic instructions return.
const NAN: u32 = 0x7fc0_0000;

/// The mantissa with its leading one; denormals count as zero.
fn significand(bits: u32) -> u32 {
    if bits & INFINITY == 0 { 0 } else { (bits & MANTISSA) | 0x0080_0000 }
}

/// Shifts right and remembers in the lowest bit that something fell out, unless everything did.
fn align(value: u32, by: i32) -> u32 {
    if by >= 32 {
        return 0;
    }
    let shifted = value >> by;
    if shifted != 0 && (shifted << by) != value { shifted | 1 } else { shifted }
}

/// `SFPMAD`: `x * y + z`, rounded once to nearest even.
///
/// The product keeps 26 fraction bits and a sticky one, so where it nearly cancels `z` the result is less
/// exact than a fused multiply-add. Denormals are zero on both sides.
#[inline]
pub(super) fn mad(x: f32, y: f32, z: f32) -> f32 {
    let exponent = |x: f32| ((x.to_bits() >> 23) & 255) as i32;
    let (xe, ye, ze) = (exponent(x), exponent(y), exponent(z));
    let pe = xe + ye - 127;
    // Ordinary factors, a product in range, and a result that cannot leave it.
    let ordinary = (1..255).contains(&xe)
        && (1..255).contains(&ye)
        && (32..250).contains(&pe)
        && (ze == 0 || (32..250).contains(&ze));
    if !ordinary {
        return mad_in_integers(x, y, z);
    }
    let larger = pe.max(ze);
    // Both terms become whole multiples of 2^(larger - 127 - 26); then their sum is exact.
    let product = whole(f64::from(x) * f64::from(y), larger);
    let addend = if ze == 0 { 0.0 } else { whole(f64::from(z), larger) };
    (product + addend) as f32
}

/// `value`, cut to a multiple of `2^(exponent - 127 - 26)` whose last bit is set where something fell out;
/// zero where everything did.
#[inline]
fn whole(value: f64, exponent: i32) -> f64 {
    let bits = value.to_bits();
    let own = ((bits >> 52) & 0x7ff) as i32 - 1023;
    let below = exponent - 101 - own;
    if below > 52 {
        return 0.0;
    }
    let last = 1_u64 << below;
    let lost = bits & (last - 1);
    // At 52 the leading one is the last bit, and it is set.
    let sticky = if lost != 0 && below < 52 { last } else { 0 };
    f64::from_bits((bits - lost) | sticky)
}

/// [`mad`] for all operands, as the hardware's model does it.
pub(super) fn mad_in_integers(x: f32, y: f32, z: f32) -> f32 {
    let (xb, yb, zb) = (x.to_bits(), y.to_bits(), z.to_bits());
    let exponent = |bits: u32| ((bits >> 23) & 255) as i32;
    let (xe, ye, ze) = (exponent(xb), exponent(yb), exponent(zb));
    let (xm, ym, zm) = (significand(xb), significand(yb), significand(zb));
    let product_sign = (xb ^ yb) & SIGN;
    let addend_sign = zb & SIGN;
    let wide = (u64::from(xm) * u64::from(ym)) << 3;
    let mut pm = (wide >> 23) as u32 | u32::from(wide & 0x7f_ffff != 0);
    let pe = xe + ye - 127;
    if xe == 255 || ye == 255 || ze == 255 || pe >= 255 {
        let nan = |e: i32, m: u32, other: u32| e == 255 && (m != 0x0080_0000 || other == 0);
        let opposite = ze == 255 && (xe == 255 || ye == 255) && addend_sign != product_sign;
        if nan(xe, xm, ym) || nan(ye, ym, xm) || nan(ze, zm, 1) || opposite {
            return f32::from_bits(NAN);
        }
        return if ze == 255 { z } else { f32::from_bits(product_sign | INFINITY) };
    }
    if pm == 0 || pe < 0 {
        return if zm != 0 { z } else { f32::from_bits(product_sign & addend_sign) };
    }
    let mut zm = zm << 3;
    let mut exponent = pe.max(ze);
    pm = align(pm, exponent - pe);
    zm = align(zm, exponent - ze);
    let sign = if pm >= zm { product_sign } else { addend_sign };
    let mut sum = if product_sign == addend_sign { pm + zm } else { pm.abs_diff(zm) };
    if sum == 0 {
        return f32::from_bits(product_sign & addend_sign);
    }
    let mut shift = 5 - sum.leading_zeros() as i32;
    exponent += shift;
    if exponent >= 255 {
        return f32::from_bits(sign | INFINITY);
    }
    if exponent <= 0 {
        shift += 1;
        exponent = 0;
    }
    if shift <= 0 {
        sum <<= -shift;
    } else {
        let lost = sum & (shift as u32 | 1);
        sum = (sum >> shift) | u32::from(lost != 0);
    }
    let mut bits = ((exponent as u32) << 23) + ((sum >> 3) & MANTISSA);
    bits += u32::from((sum & 7) + (bits & 1) > 4);
    if bits >> 23 == 0 {
        bits = 0;
    }
    f32::from_bits(sign | bits)
}

/// `SFPMUL`: a multiply-add of +0, so a negative zero does not survive.
#[inline]
pub(super) fn mul(x: f32, y: f32) -> f32 {
    mad(x, y, 0.0)
}

/// `SFPADD`: a multiply-add by one.
#[inline]
pub(super) fn add(x: f32, y: f32) -> f32 {
    mad(1.0, x, y)
}

/// `c[0] + x * (c[1] + x * (c[2] + …))`, one multiply-add a step.
#[inline]
pub(super) fn horner<const N: usize>(x: f32, c: [f32; N]) -> f32 {
    let mut sum = c[N - 1];
    for &coefficient in c[..N - 1].iter().rev() {
        sum = mad(x, sum, coefficient);
    }
    sum
}

/// The 7-bit reciprocal of `SFPARECIP`; its 128 table entries are the rounded mantissas at interval centres.
#[inline]
pub(super) fn approximate_reciprocal(x: f32) -> f32 {
    let sign = x.to_bits() & SIGN;
    let bits = x.to_bits() ^ sign;
    let magnitude = if bits < 0x0080_0000 {
        INFINITY
    } else if bits < 0x7e80_0000 {
        let centre = 257 + 2 * ((bits >> 16) & 0x7f);
        let mantissa = (2 * 65_536 + centre) / (2 * centre) - 128;
        ((253 - (bits >> 23)) << 23) | (mantissa << 16)
    } else {
        0
    };
    f32::from_bits(sign | magnitude)
}

/// A key in whose order `SFPSWAP` and `SFPGT` compare: -NaN < -inf < … < -0 < +0 < … < +inf < +NaN.
fn key(x: f32) -> i32 {
    let bits = x.to_bits() as i32;
    bits ^ (((bits >> 30) as u32) >> 1) as i32
}

/// The smaller in `SFPSWAP`'s order.
#[inline]
pub(super) fn min(x: f32, y: f32) -> f32 {
    if key(x) < key(y) { x } else { y }
}

/// The larger in `SFPSWAP`'s order.
#[inline]
pub(super) fn max(x: f32, y: f32) -> f32 {
    if key(x) < key(y) { y } else { x }
}

/// Whether `x > y` in `SFPGT`'s order.
#[inline]
pub(super) fn greater(x: f32, y: f32) -> bool {
    key(x) > key(y)
}

/// `SFPSHFT` by a register: left for positive amounts, right for negative ones, five bits of amount.
#[inline]
pub(super) fn shift(value: u32, by: i32) -> u32 {
    if by >= 0 { value << (by & 31) } else { value >> (-by & 31) }
}

/// The exponent, without its bias.
#[inline]
pub(super) fn exponent(x: f32) -> i32 {
    ((x.to_bits() >> 23) & 255) as i32 - 127
}

/// The mantissa with its leading one, whatever the exponent.
#[inline]
pub(super) fn mantissa(x: f32) -> u32 {
    (x.to_bits() & MANTISSA) | 0x0080_0000
}

/// `SFPSETEXP`: `x` with another (biased) exponent.
#[inline]
pub(super) fn set_exponent(x: f32, biased: u32) -> f32 {
    f32::from_bits((x.to_bits() & !INFINITY) | ((biased & 255) << 23))
}

/// `SFPSTOCHRND` to a sign-magnitude integer, ties away from zero: the magnitude, at most `limit`.
#[inline]
pub(super) fn round_magnitude(x: f32, limit: u32) -> u32 {
    let power = exponent(x);
    if power < -1 {
        return 0;
    }
    if power >= 16 {
        return limit;
    }
    let wide = u64::from(mantissa(x));
    let scaled = if power >= 0 { wide << power } else { wide >> 1 };
    (((scaled + 0x40_0000) >> 23) as u32).min(limit)
}

/// `SFPSTOCHRND` to bfloat16, ties away from zero: NaN becomes infinity, denormals and -0 become +0.
#[inline]
pub(super) fn round_bf16(x: f32) -> f32 {
    let bits = x.to_bits();
    match bits & INFINITY {
        0 => 0.0,
        INFINITY => f32::from_bits(bits & (SIGN | INFINITY)),
        _ => f32::from_bits((bits + 0x8000) & 0xffff_0000),
    }
}

/// `SFPSTORE` to a 16-bit destination: the low bits are cut off, denormals become zeros.
#[inline]
pub(super) fn store_bf16(x: f32) -> f32 {
    let bits = x.to_bits();
    f32::from_bits(if bits & INFINITY == 0 { bits & SIGN } else { bits & 0xffff_0000 })
}

/// `SFPSTORE` to a 32-bit destination: denormals become zeros.
#[inline]
pub(super) fn store_f32(x: f32) -> f32 {
    let bits = x.to_bits();
    f32::from_bits(if bits & INFINITY == 0 { bits & SIGN } else { bits })
}
