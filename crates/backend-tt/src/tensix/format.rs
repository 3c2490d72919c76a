//! Number formats: what the host's and the device's conversions make of 32-bit floats.
//!
//! Values stay `f32`; a conversion moves them onto the grid of the format. The block formats `bfp8_b` and
//! `bfp4_b` give 16 neighbours of a row one exponent, the largest of theirs, and each a sign and 7 or 3 bits
//! of magnitude without a hidden one. A row whose length is no multiple of 16 ends in a shorter block, which
//! is the same as padding it with zeros.
//!
//! Sources: the host's conversion (`blockfloat_common.cpp` of tt-metal), the packer of Tenstorrent's
//! simulator and ISA documentation; the tests compare both with measured vectors.

use super::{Dest, Format};

/// How many neighbours of a row share an exponent.
pub const BLOCK: usize = 16;

const SIGN: u32 = 0x8000_0000;
const INFINITY: u32 = 0x7f80_0000;
/// `2^23`, the hidden one of a 24-bit significand.
const ONE: u32 = 0x0080_0000;

impl Format {
    /// Bytes a value takes in memory, its share of the block's exponent included.
    #[must_use]
    pub const fn bytes_per_value(self) -> f64 {
        match self {
            Self::F32 => 4.0,
            Self::Bf16 => 2.0,
            Self::Bfp8 => 1.0 + 1.0 / BLOCK as f64,
            Self::Bfp4 => 0.5 + 1.0 / BLOCK as f64,
        }
    }

    /// Bits of magnitude of a block format.
    const fn magnitude_bits(self) -> u32 {
        if matches!(self, Self::Bfp4) { 3 } else { 7 }
    }

    /// Converts one row as the host does before it uploads a tensor: to the nearest, ties to even.
    ///
    /// Magnitudes that would round up to a power of two too large stay at the largest code. Denormals become
    /// zeros in block formats. NaN and infinity stay in bfloat16; in block formats they are infinite and the
    /// rest of their block is zero or infinite.
    pub fn round_host(self, row: &mut [f32]) {
        match self {
            Self::F32 => {}
            Self::Bf16 => {
                for value in row {
                    *value = nearest_even_bf16(*value);
                }
            }
            Self::Bfp8 => blocks(row, host_block::<7>),
            Self::Bfp4 => blocks(row, host_block::<3>),
        }
    }

    /// Converts a row-major matrix of `cols` columns with [`Self::round_host`].
    ///
    /// # Panics
    /// If `cols` is zero while there are values, or does not divide their number.
    pub fn round_host_matrix(self, values: &mut [f32], cols: usize) {
        if values.is_empty() {
            return;
        }
        assert!(cols > 0 && values.len().is_multiple_of(cols), "{} values in rows of {cols}", values.len());
        if cols.is_multiple_of(BLOCK) || !matches!(self, Self::Bfp8 | Self::Bfp4) {
            self.round_host(values);
        } else {
            for row in values.chunks_exact_mut(cols) {
                self.round_host(row);
            }
        }
    }

    /// Converts one row as the device's packer does on the way out of the destination registers, the way ttnn
    /// configures it by default.
    ///
    /// The packer rounds ties away from zero, makes NaN infinite, and zero of denormals and of -0. To block
    /// formats it goes by way of 7 significant bits and so rounds twice. `bfp4` is `bfp8` with the low four
    /// bits of magnitude cut off. Measured: a product's `bfp8` output.
    pub fn pack(self, row: &mut [f32], dest: Dest) {
        self.pack_by_way_of(row, dest, |x| f32::from_bits(x.to_bits().wrapping_add(0x1_0000) & 0xfffe_0000));
    }

    /// [`Self::pack`] configured with `bfp8_pack_precise`, as type casts are: block formats are rounded once.
    ///
    /// A 32-bit destination's values are cut to bfloat16 before. Measured: a cast from bfloat16 to `bfp8`.
    pub fn pack_precise(self, row: &mut [f32], dest: Dest) {
        self.pack_by_way_of(row, dest, |x| x);
    }

    fn pack_by_way_of(self, row: &mut [f32], dest: Dest, round: impl Fn(f32) -> f32) {
        match self {
            Self::F32 | Self::Bf16 => {
                for value in row {
                    *value = pack_value(*value, dest, self);
                }
            }
            Self::Bfp8 | Self::Bfp4 => {
                for value in &mut *row {
                    // Cutting first leaves rounding to 7 bits as it is, and denormals become zeros here.
                    *value = round(pack_value(*value, Dest::Bits16, Self::Bf16));
                }
                let cut = 7 - self.magnitude_bits();
                blocks(row, |block| pack_block(block, cut));
            }
        }
    }

    /// [`Self::pack_precise`] for values of any precision: rounded to bfloat16 as from a 32-bit destination,
    /// ties away from zero, then divided into blocks as from a 16-bit one. 32-bit floats stay as they are.
    pub fn round_packed(self, row: &mut [f32]) {
        if self == Self::F32 {
            return;
        }
        for value in &mut *row {
            *value = pack_value(*value, Dest::Bits32, Self::Bf16);
        }
        self.pack_precise(row, Dest::Bits16);
    }
}

/// What the unpacker hands to the matrix engine's source registers for a 32-bit float, as TF32: the low 13
/// bits are cut off.
#[inline]
#[must_use]
pub fn tf32(x: f32) -> f32 {
    f32::from_bits(x.to_bits() & !0x1fff)
}

/// The unpacker's other choice, for a 16-bit destination: the low 16 bits are cut off.
#[inline]
#[must_use]
pub fn truncate_bf16(x: f32) -> f32 {
    f32::from_bits(x.to_bits() & 0xffff_0000)
}

/// Rounds to bfloat16, ties to even; NaN stays NaN.
#[inline]
fn nearest_even_bf16(x: f32) -> f32 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) & 0xffff_0000;
    f32::from_bits(if bits & !SIGN > INFINITY { (bits & 0xffff_0000) | 0x0040_0000 } else { rounded })
}

/// The packer on one value, for formats without shared exponents.
#[inline]
pub(super) fn pack_value(x: f32, dest: Dest, format: Format) -> f32 {
    let bits = x.to_bits();
    if format == Format::F32 && dest == Dest::Bits32 {
        return x;
    }
    let finite = if bits & !SIGN > INFINITY { (bits & SIGN) | INFINITY } else { bits };
    let rounded = match dest {
        Dest::Bits16 => finite & 0xffff_0000,
        Dest::Bits32 => finite.wrapping_add(0x8000) & 0xffff_0000,
    };
    f32::from_bits(if rounded & INFINITY == 0 { 0 } else { rounded })
}

/// Runs `convert` over blocks of 16 and the shorter one at the end.
fn blocks(row: &mut [f32], mut convert: impl FnMut(&mut [f32; BLOCK])) {
    let (whole, rest) = row.as_chunks_mut::<BLOCK>();
    for block in whole {
        convert(block);
    }
    if !rest.is_empty() {
        let mut padded = [0.0; BLOCK];
        padded[..rest.len()].copy_from_slice(rest);
        convert(&mut padded);
        rest.copy_from_slice(&padded[..rest.len()]);
    }
}

/// The largest exponent field among 16 values, still in its place.
#[inline]
fn shared_exponent(block: &[f32; BLOCK]) -> u32 {
    block.iter().fold(0, |largest, value| largest.max(value.to_bits() & INFINITY))
}

/// One block of the host's conversion to `BITS` bits of magnitude.
///
/// The host shifts significands to the shared exponent first and drops what falls out, so only the 24 bits
/// that remain decide a tie.
#[inline]
fn host_block<const BITS: u32>(block: &mut [f32; BLOCK]) {
    let exponent = shared_exponent(block);
    for value in &mut *block {
        let bits = value.to_bits();
        let own = bits & INFINITY;
        let significand = if own == 0 { 0 } else { (bits & 0x007f_ffff) | ONE };
        let aligned = significand >> ((exponent - own) >> 23).min(31);
        let drop = 24 - BITS;
        let even = (aligned >> drop) & 1;
        let rounded = ((aligned + (1 << (drop - 1)) - 1 + even) >> drop).min((1 << BITS) - 1);
        *value = from_magnitude(rounded, bits & SIGN, exponent, BITS);
    }
}

/// One block of the packer's conversion, from values on bfloat16's grid; `cut` low bits are dropped after.
#[inline]
fn pack_block(block: &mut [f32; BLOCK], cut: u32) {
    let exponent = shared_exponent(block);
    for value in &mut *block {
        let bits = value.to_bits();
        let own = bits & INFINITY;
        let significand = if own == 0 { 0 } else { ((bits & 0x007f_ffff) | ONE) >> 16 };
        let shift = ((exponent - own) >> 23).min(8);
        let rounded = if shift == 8 { 0 } else { ((significand + (1 << shift)) >> (shift + 1)).min(127) };
        *value = from_magnitude((rounded >> cut) << cut, bits & SIGN, exponent, 7);
    }
}

/// `magnitude · 2^(e - bits + 1)` with a sign, where `exponent` is the field of `2^e`; never -0.
#[inline]
fn from_magnitude(magnitude: u32, sign: u32, exponent: u32, bits: u32) -> f32 {
    // Both products are exact: the factors are powers of two.
    let scale = f32::from_bits(exponent.max(ONE));
    let unit = f32::from_bits((127 + 1 - bits) << 23);
    let value = (magnitude as f32 * unit) * scale;
    f32::from_bits(if magnitude == 0 { 0 } else { value.to_bits() | sign })
}

#[cfg(test)]
#[path = "format_tests.rs"]
mod tests;
