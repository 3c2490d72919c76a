//! What the kernels of [`matmul`](super::matmul) share, their choice, and the kernel for any processor.
//!
//! A kernel computes the rules of [`matrix`](super::matrix) in 32-bit lanes, one column each. These are its bounds:
//! - A product is at most 31 * 127 < 2^12, a sum of 8 less than 2^15.
//! - With 23 fraction bits the sums are below 2^28 and the accumulator below 2^24, so their total is below 2^30.
//! - `half away` and `half up` double the value first and then compute `((2v >> shift) + 1) >> 1`, which needs one bit
//!   more: 2^29 at most. Shifts count up to 31; anything larger is the same as 31, as the values have 30 bits.
//! - Rounding away from zero is rounding up with a negative value's double made smaller by 1, since that moves only the
//!   exact halves: for `shift = 0`, `(2v - 1 + 1) >> 1 = v`; else `floor((2v - 1) / 2^shift)` differs from
//!   `floor(2v / 2^shift)` only if `2v / 2^shift` is whole, and after `+ 1) >> 1` only if that was odd: a half.

use std::sync::OnceLock;

use super::matrix::{Blocking, LANES, Panel, Product, TILE, unpacked};
use super::{Dest, Fidelity};

/// The exponent of an operand that is zero: so low that with any other it stays below every true one, by so much
/// that products, sums and accumulators shifted by the difference vanish.
pub(super) const NO_EXPONENT: i16 = -8000;

/// Depth of the blocks of a panel that are unpacked at once, for the processor's first-level cache.
pub(super) const BLOCK: usize = 2 * TILE;

/// Instructions that a kernel is built for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Isa {
    /// Whatever the target has.
    Portable,
    /// AVX2.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX-512 with the dot product instructions (VNNI): Ice Lake, Zen 4 and later.
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Isa {
    /// The best kernel for this processor.
    pub(super) fn detect() -> Self {
        /// Asked for each panel of each product.
        static BEST: OnceLock<Isa> = OnceLock::new();
        *BEST.get_or_init(|| Self::all().pop().unwrap_or(Self::Portable))
    }

    /// The kernels that this processor can run, best last.
    pub(super) fn all() -> Vec<Self> {
        let all = vec![Self::Portable];
        #[cfg(target_arch = "x86_64")]
        let all = {
            let mut all = all;
            if is_x86_feature_detected!("avx2") {
                all.push(Self::Avx2);
            }
            if is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512cd")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512vnni")
            {
                all.push(Self::Avx512);
            }
            all
        };
        all
    }
}

/// in0, taken apart: for each row and each two depths, in the lower and upper 16 bits of a word.
pub(super) struct Rows {
    /// Pairs of depths in a row.
    width: usize,
    pairs: Vec<Pair>,
}

/// Two neighbouring depths of a row of in0.
#[derive(Clone, Copy, Default)]
pub(super) struct Pair {
    /// Biased exponent, or [`NO_EXPONENT`].
    pub(super) exponent: u32,
    /// 0 if positive, else `0xFFFE`: what turns 1 into -1 and back by exclusive or.
    pub(super) sign: u32,
    /// Hidden bit and the next 6.
    pub(super) high: u32,
    /// The last 4 bits, moved up by 3.
    pub(super) low: u32,
}

impl Rows {
    /// Takes `x`, `[rows, inputs]`, apart and fills its rows with zeros to `depth`.
    pub(super) fn new(x: &[f32], rows: usize, inputs: usize, depth: usize) -> Self {
        use rayon::prelude::*;

        let width = depth / 2;
        let mut pairs = vec![Pair::default(); rows * width];
        pairs.par_chunks_mut(width).zip(x.par_chunks(inputs)).for_each(|(pairs, x)| {
            for (index, pair) in pairs.iter_mut().enumerate() {
                let at = |k: usize| unpacked(x.get(k).copied().unwrap_or(0.0));
                let values = [at(2 * index), at(2 * index + 1)];
                let both = |part: fn(u32) -> u32| part(values[0]) | part(values[1]) << 16;
                *pair = Pair {
                    exponent: both(|bits| match bits >> 23 & 0xFF {
                        0 => u32::from(NO_EXPONENT as u16),
                        exponent => exponent,
                    }),
                    sign: both(|bits| if bits >> 31 == 1 { 0xFFFE } else { 0 }),
                    high: both(|bits| if bits == 0 { 0 } else { bits >> 17 & 0x3F | 0x40 }),
                    low: both(|bits| (bits >> 13 & 0xF) << 3),
                };
            }
        });
        Self { width, pairs }
    }

    /// Pairs of one row from depth `from` on.
    pub(super) fn row(&self, row: usize, from: usize) -> &[Pair] {
        &self.pairs[row * self.width + from / 2..(row + 1) * self.width]
    }
}

/// Phases of a fidelity.
pub(super) fn phases(fidelity: Fidelity) -> usize {
    match fidelity {
        Fidelity::LoFi => 1,
        Fidelity::HiFi2 => 2,
        Fidelity::HiFi3 => 3,
        Fidelity::HiFi4 => 4,
    }
}

/// What a phase's sums are worth less than those of phase 0: exponents.
pub(super) const WORTH: [i32; 4] = [0, 5, 7, 12];

/// Computes some rows of one panel, from `first` on: `columns` is `[rows, lane]`, zero at first.
#[allow(unsafe_code, reason = "kernels are built for instructions that not every processor has")]
pub(super) fn run(isa: Isa, product: &Product, panel: Panel, first: usize, columns: &mut [[f32; LANES]]) {
    match isa {
        Isa::Portable => portable(product, panel, first, columns),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => {
            assert!(is_x86_feature_detected!("avx2"));
            // SAFETY: the processor has the instructions, as was just asserted.
            unsafe { avx2(product, panel, first, columns) }
        }
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => {
            assert_eq!(Isa::detect(), Isa::Avx512);
            // SAFETY: the processor has the instructions, as was just asserted.
            unsafe { super::matrix_avx512::run(product, panel, first, columns) }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn avx2(product: &Product, panel: Panel, first: usize, columns: &mut [[f32; LANES]]) {
    portable(product, panel, first, columns);
}

#[inline(always)]
fn portable(product: &Product, panel: Panel, first: usize, columns: &mut [[f32; LANES]]) {
    match product.math.dest {
        Dest::Bits16 => rows::<false>(product, panel, first, columns),
        Dest::Bits32 => rows::<true>(product, panel, first, columns),
    }
}

/// The blocks of a depth in order: where each begins and ends, and whether accumulators are reloaded before it.
pub(super) fn blocks(depth: usize, blocking: Blocking) -> impl Iterator<Item = (usize, usize, bool)> {
    let stay = match blocking {
        Blocking::Whole => usize::MAX,
        Blocking::Reload { tiles } => tiles.get().saturating_mul(TILE),
    };
    let mut from = 0;
    std::iter::from_fn(move || {
        let begin = from;
        from = (begin + BLOCK.min(stay - begin % stay)).min(depth);
        (begin < depth).then_some((begin, from, begin > 0 && begin % stay == 0))
    })
}

/// Accumulators that come back from L1; see [`Blocking::Reload`].
#[inline(always)]
pub(super) fn reload(columns: &mut [[f32; LANES]], dest: Dest) {
    if dest == Dest::Bits32 {
        for value in columns.iter_mut().flatten() {
            *value = f32::from_bits(unpacked(*value));
        }
    }
}

/// Integers, one a column.
type Lanes = [i32; LANES];

/// One depth of a panel, taken apart.
#[derive(Clone, Copy, Default)]
struct Weights {
    exponent: Lanes,
    sign: Lanes,
    /// High and low bits, doubled.
    parts: [Lanes; 2],
}

/// Accumulators: signed significands and biased exponents.
#[derive(Clone, Copy)]
struct Accumulators {
    significand: Lanes,
    exponent: Lanes,
}

/// The sums of a group of 8 depths for each phase, and the largest exponent.
#[derive(Clone, Copy, Default)]
struct Group {
    exponent: Lanes,
    sums: [Lanes; 4],
}

#[inline(always)]
fn rows<const WIDE: bool>(product: &Product, panel: Panel, first: usize, columns: &mut [[f32; LANES]]) {
    let phases = phases(product.math.fidelity);
    let depth = match panel {
        Panel::Bf16(bits) => bits.len(),
        Panel::Tf32(bits) => bits.len(),
    };
    let mut weights = [Weights::default(); BLOCK];
    for (begin, end, reloads) in blocks(depth, product.blocking) {
        if reloads {
            reload(columns, product.math.dest);
        }
        for (k, weights) in (begin..end).zip(&mut weights) {
            let bits = match panel {
                Panel::Bf16(bits) => bits[k].map(|bits| u32::from(bits) << 16),
                Panel::Tf32(bits) => bits[k],
            };
            *weights = split(bits);
        }
        let weights = &weights[..end - begin];
        for (row, column) in columns.iter_mut().enumerate() {
            let x = product.rows.row(first + row, begin);
            let mut dest = read::<WIDE>(column);
            for (tile, x) in weights.chunks(TILE).zip(x.chunks(TILE / 2)) {
                let mut groups = [Group::default(); TILE / 8];
                for ((weights, x), sums) in tile.chunks(8).zip(x.chunks(4)).zip(&mut groups) {
                    *sums = group(weights, x, phases);
                }
                for phase in 0..phases {
                    for face in groups[..tile.len() / 8].chunks(2) {
                        add::<WIDE>(&mut dest, &face[0], &face[1], phase);
                    }
                }
            }
            *column = write::<WIDE>(&dest);
        }
    }
}

#[inline(always)]
fn split(bits: [u32; LANES]) -> Weights {
    let mut weights = Weights::default();
    for (lane, &bits) in bits.iter().enumerate() {
        let exponent = (bits >> 23 & 0xFF) as i32;
        weights.exponent[lane] = if exponent == 0 { i32::from(NO_EXPONENT) } else { exponent };
        weights.sign[lane] = if bits >> 31 == 1 { -1 } else { 1 };
        weights.parts[0][lane] = if exponent == 0 { 0 } else { (bits >> 18 & 0x1E | 0x20) as i32 };
        weights.parts[1][lane] = (bits >> 13 & 0x3E) as i32;
    }
    weights
}

/// Groups and rounds the products of 8 depths.
#[inline(always)]
fn group(weights: &[Weights], x: &[Pair], phases: usize) -> Group {
    let half = |pair: u32, k: usize| i32::from((pair >> (16 * (k % 2))) as u16 as i16);
    let mut group = Group { exponent: [i32::MIN; LANES], ..Group::default() };
    for (k, weights) in weights.iter().enumerate() {
        let exponent = half(x[k / 2].exponent, k);
        for lane in 0..LANES {
            group.exponent[lane] = group.exponent[lane].max(weights.exponent[lane] + exponent);
        }
    }
    for (k, weights) in weights.iter().enumerate() {
        let pair = &x[k / 2];
        let (exponent, sign) = (half(pair.exponent, k), half(pair.sign, k));
        let parts = [half(pair.high, k), half(pair.low, k)];
        let (mut shifts, mut signs) = ([0; LANES], [0; LANES]);
        for lane in 0..LANES {
            shifts[lane] = (group.exponent[lane] - weights.exponent[lane] - exponent).min(31);
            signs[lane] = weights.sign[lane] ^ sign;
        }
        for (phase, sums) in group.sums[..phases].iter_mut().enumerate() {
            let part = &weights.parts[phase % 2];
            for (lane, sum) in sums.iter_mut().enumerate() {
                let doubled = part[lane] * parts[phase / 2];
                *sum += (((doubled >> shifts[lane]) + 1) >> 1) * signs[lane];
            }
        }
    }
    group
}

/// One step: adds the two sums of a face to the accumulators.
#[inline(always)]
fn add<const WIDE: bool>(dest: &mut Accumulators, first: &Group, second: &Group, phase: usize) {
    let (fraction, significant) = if WIDE { (23, 24) } else { (10, 8) };
    let bias = 127 + WORTH[phase];
    for lane in 0..LANES {
        let exponents = [first.exponent[lane] - bias, second.exponent[lane] - bias];
        let top = exponents[0].max(exponents[1]).max(dest.exponent[lane]);
        let value = dest.significand[lane];
        let mut total = (((2 * value + (value >> 31)) >> (top - dest.exponent[lane]).min(31)) + 1) >> 1;
        for (sum, exponent) in [first.sums[phase][lane], second.sums[phase][lane]].into_iter().zip(exponents)
        {
            total += (((sum << (fraction - 9)) >> (top - exponent).min(31)) + 1) >> 1;
        }
        let magnitude = total.unsigned_abs();
        let zeros = magnitude.leading_zeros();
        // The leading one goes to bit 31, then `significant` bits are kept.
        let rounded = (((magnitude << (zeros & 31)) >> (31 - significant)) + 1) >> 1;
        let carry = rounded >> significant;
        let exponent = top + 31 - fraction - zeros as i32 + carry as i32;
        // Bits of a 16-bit accumulator stand 3 below the point's tenth place.
        let rounded = (rounded >> carry) << if WIDE { 0 } else { 3 };
        let largest = 1 << fraction;
        let (rounded, exponent) = if magnitude == 0 || exponent <= 0 {
            (0, i32::from(NO_EXPONENT))
        } else if exponent >= 255 {
            (largest, 255)
        } else {
            (rounded as i32, exponent)
        };
        dest.significand[lane] = if total < 0 { -rounded } else { rounded };
        dest.exponent[lane] = exponent;
    }
}

#[inline(always)]
fn read<const WIDE: bool>(column: &[f32; LANES]) -> Accumulators {
    let mut dest = Accumulators { significand: [0; LANES], exponent: [i32::from(NO_EXPONENT); LANES] };
    for (lane, value) in column.iter().enumerate() {
        let bits = value.to_bits();
        if bits & 0x7F80_0000 != 0 {
            let significand = (bits & 0x7F_FFFF | 0x80_0000) as i32 >> if WIDE { 0 } else { 13 };
            dest.significand[lane] = if bits >> 31 == 1 { -significand } else { significand };
            dest.exponent[lane] = (bits >> 23 & 0xFF) as i32;
        }
    }
    dest
}

#[inline(always)]
fn write<const WIDE: bool>(dest: &Accumulators) -> [f32; LANES] {
    std::array::from_fn(|lane| {
        let significand = dest.significand[lane];
        let magnitude = significand.unsigned_abs() << if WIDE { 0 } else { 13 };
        let sign = if significand < 0 { 1 << 31 } else { 0 };
        let exponent = if significand == 0 { 0 } else { dest.exponent[lane] as u32 };
        f32::from_bits(sign | exponent << 23 | magnitude & 0x7F_FFFF)
    })
}
