//! The kernel of [`matmul`](super::matmul) for AVX-512: 16 columns by two depths in one register of 16-bit lanes.
//!
//! It computes the same as the portable kernel, whose bounds hold here too. In 16 bits: exponents are between
//! -16,000 and 510, doubled products below 2^13, and `avg(doubled >> shift, 0)` is `((doubled >> shift) + 1) >> 1`. A shift
//! by 16 or more gives 0, as it should for products below 2^12.

use std::arch::x86_64::*;

use super::Dest;
use super::matrix::{LANES, Panel, Product};
use super::matrix_lanes::{BLOCK, NO_EXPONENT, Pair, WORTH, blocks, phases, reload};

/// Two depths of a panel, taken apart: 16-bit lanes, a column's two depths side by side.
#[derive(Clone, Copy)]
struct Weights {
    exponent: __m512i,
    /// 1 or -1.
    sign: __m512i,
    /// High and low bits, doubled.
    parts: [__m512i; 2],
}

/// Accumulators: signed significands and biased exponents.
#[derive(Clone, Copy)]
struct Accumulators {
    significand: __m512i,
    exponent: __m512i,
}

/// The sums of a group of 8 depths for each phase, and the largest exponent.
#[derive(Clone, Copy)]
struct Group<const PHASES: usize> {
    exponent: __m512i,
    sums: [__m512i; PHASES],
}

/// Pairs of depths in a group of 8.
const GROUP: usize = 4;

/// Computes some rows of one panel, from `first` on: `columns` is `[rows, lane]`, zero at first.
#[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512vnni")]
pub(super) fn run(product: &Product, panel: Panel, first: usize, columns: &mut [[f32; LANES]]) {
    match (phases(product.math.fidelity), product.math.dest) {
        (1, Dest::Bits16) => rows::<1, false>(product, panel, first, columns),
        (2, Dest::Bits16) => rows::<2, false>(product, panel, first, columns),
        (3, Dest::Bits16) => rows::<3, false>(product, panel, first, columns),
        (_, Dest::Bits16) => rows::<4, false>(product, panel, first, columns),
        (1, Dest::Bits32) => rows::<1, true>(product, panel, first, columns),
        (2, Dest::Bits32) => rows::<2, true>(product, panel, first, columns),
        (3, Dest::Bits32) => rows::<3, true>(product, panel, first, columns),
        (_, Dest::Bits32) => rows::<4, true>(product, panel, first, columns),
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512vnni")]
fn rows<const PHASES: usize, const WIDE: bool>(
    product: &Product,
    panel: Panel,
    first: usize,
    columns: &mut [[f32; LANES]],
) {
    let depth = match panel {
        Panel::Bf16(bits) => bits.len(),
        Panel::Tf32(bits) => bits.len(),
    };
    let zero = _mm512_setzero_si512();
    let mut weights = [Weights { exponent: zero, sign: zero, parts: [zero; 2] }; BLOCK / 2];
    for (begin, end, reloads) in blocks(depth, product.blocking) {
        if reloads {
            reload(columns, product.math.dest);
        }
        for (k, weights) in (begin..end).step_by(2).zip(&mut weights) {
            *weights = match panel {
                Panel::Bf16(bits) => split_bf16(&bits[k], &bits[k + 1]),
                Panel::Tf32(bits) => split_tf32(&bits[k], &bits[k + 1]),
            };
        }
        let weights = &weights[..(end - begin) / 2];
        let x = |row| &product.rows.row(first + row, begin)[..weights.len()];
        let (couples, rest) = columns.as_chunks_mut::<2>();
        for (couple, columns) in couples.iter_mut().enumerate() {
            block::<2, PHASES, WIDE>(weights, [x(2 * couple), x(2 * couple + 1)], columns);
        }
        for column in rest {
            block::<1, PHASES, WIDE>(weights, [x(2 * couples.len())], std::array::from_mut(column));
        }
    }
}

/// Adds a block of depths to the accumulators of `ROWS` rows, which share what is read of the weights.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512vnni")]
fn block<const ROWS: usize, const PHASES: usize, const WIDE: bool>(
    weights: &[Weights],
    x: [&[Pair]; ROWS],
    columns: &mut [[f32; LANES]; ROWS],
) {
    let weights = weights.as_chunks::<GROUP>().0;
    let x = x.map(|x| &x.as_chunks::<GROUP>().0[..weights.len()]);
    let mut dest =
        [Accumulators { significand: _mm512_setzero_si512(), exponent: _mm512_setzero_si512() }; ROWS];
    for row in 0..ROWS {
        dest[row] = read::<WIDE>(&columns[row]);
    }
    // Groups of a tile: 4, or 2 where the depth ends with half a tile.
    let mut at = 0;
    while at + 4 <= weights.len() {
        let groups = [
            group::<ROWS, PHASES>(weights, x, at),
            group::<ROWS, PHASES>(weights, x, at + 1),
            group::<ROWS, PHASES>(weights, x, at + 2),
            group::<ROWS, PHASES>(weights, x, at + 3),
        ];
        for phase in 0..PHASES {
            for row in 0..ROWS {
                dest[row] = add::<PHASES, WIDE>(dest[row], &groups[0][row], &groups[1][row], phase);
            }
            for row in 0..ROWS {
                dest[row] = add::<PHASES, WIDE>(dest[row], &groups[2][row], &groups[3][row], phase);
            }
        }
        at += 4;
    }
    if at < weights.len() {
        let groups = [group::<ROWS, PHASES>(weights, x, at), group::<ROWS, PHASES>(weights, x, at + 1)];
        for phase in 0..PHASES {
            for row in 0..ROWS {
                dest[row] = add::<PHASES, WIDE>(dest[row], &groups[0][row], &groups[1][row], phase);
            }
        }
    }
    for row in 0..ROWS {
        write::<WIDE>(dest[row], &mut columns[row]);
    }
}

/// Two depths of 16 columns from bf16.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512vnni")]
fn split_bf16(even: &[u16; LANES], odd: &[u16; LANES]) -> Weights {
    split(interleave(_mm512_cvtepu16_epi32(load_u16(even)), _mm512_cvtepu16_epi32(load_u16(odd))))
}

/// bf16 in 16-bit lanes, taken apart.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512vnni")]
fn split(bits: __m512i) -> Weights {
    let exponent = _mm512_and_si512(_mm512_srli_epi16::<7>(bits), _mm512_set1_epi16(0xFF));
    let some = _mm512_test_epi16_mask(exponent, exponent);
    let high = _mm512_and_si512(_mm512_srli_epi16::<2>(bits), _mm512_set1_epi16(0x1E));
    Weights {
        exponent: _mm512_mask_mov_epi16(_mm512_set1_epi16(NO_EXPONENT), some, exponent),
        sign: _mm512_or_si512(_mm512_srai_epi16::<15>(bits), _mm512_set1_epi16(1)),
        parts: [
            _mm512_maskz_mov_epi16(some, _mm512_or_si512(high, _mm512_set1_epi16(0x20))),
            _mm512_slli_epi16::<3>(_mm512_and_si512(bits, _mm512_set1_epi16(7))),
        ],
    }
}

/// Two depths of 16 columns from TF32.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512vnni")]
fn split_tf32(even: &[u32; LANES], odd: &[u32; LANES]) -> Weights {
    let (even, odd) = (load_u32(even), load_u32(odd));
    let upper = interleave(_mm512_srli_epi32::<16>(even), _mm512_srli_epi32::<16>(odd));
    // Bits 14 and 15, which bf16 does not have.
    let lower = interleave(even, odd);
    let below = _mm512_and_si512(_mm512_srli_epi16::<13>(lower), _mm512_set1_epi16(6));
    let mut weights = split(upper);
    weights.parts[1] = _mm512_or_si512(weights.parts[1], below);
    weights
}

/// The low halves of `even` and of `odd` side by side.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512vnni")]
fn interleave(even: __m512i, odd: __m512i) -> __m512i {
    _mm512_mask_blend_epi16(0xAAAA_AAAA, even, _mm512_slli_epi32::<16>(odd))
}

/// Groups and rounds the products of 8 depths.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512vnni")]
fn group<const ROWS: usize, const PHASES: usize>(
    weights: &[[Weights; GROUP]],
    x: [&[[Pair; GROUP]]; ROWS],
    at: usize,
) -> [Group<PHASES>; ROWS] {
    let zero = _mm512_setzero_si512();
    let weights = &weights[at];
    let mut exponents = [[zero; GROUP]; ROWS];
    let mut tops = [zero; ROWS];
    for row in 0..ROWS {
        for k in 0..GROUP {
            let exponent = _mm512_set1_epi32(x[row][at][k].exponent as i32);
            exponents[row][k] = _mm512_add_epi16(weights[k].exponent, exponent);
        }
        let [a, b, c, d] = exponents[row];
        let top = _mm512_max_epi16(_mm512_max_epi16(a, b), _mm512_max_epi16(c, d));
        tops[row] = _mm512_max_epi16(top, _mm512_rol_epi32::<16>(top));
    }
    let mut groups = [Group { exponent: zero, sums: [zero; PHASES] }; ROWS];
    for k in 0..GROUP {
        for row in 0..ROWS {
            let x = &x[row][at][k];
            let shift = _mm512_sub_epi16(tops[row], exponents[row][k]);
            let sign = _mm512_xor_si512(weights[k].sign, _mm512_set1_epi32(x.sign as i32));
            for (phase, sum) in groups[row].sums.iter_mut().enumerate() {
                let part = if phase < 2 { x.high } else { x.low };
                let doubled = _mm512_mullo_epi16(weights[k].parts[phase % 2], _mm512_set1_epi32(part as i32));
                let rounded = _mm512_avg_epu16(_mm512_srlv_epi16(doubled, shift), zero);
                *sum = _mm512_dpwssd_epi32(*sum, rounded, sign);
            }
        }
    }
    for row in 0..ROWS {
        groups[row].exponent = _mm512_srai_epi32::<16>(tops[row]);
    }
    groups
}

/// One step: adds the two sums of a face to the accumulators.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512vnni")]
fn add<const PHASES: usize, const WIDE: bool>(
    dest: Accumulators,
    first: &Group<PHASES>,
    second: &Group<PHASES>,
    phase: usize,
) -> Accumulators {
    let one = _mm512_set1_epi32(1);
    let half =
        |doubled, shift| _mm512_srai_epi32::<1>(_mm512_add_epi32(_mm512_srav_epi32(doubled, shift), one));
    let bias = _mm512_set1_epi32(127 + WORTH[phase]);
    let first_exponent = _mm512_sub_epi32(first.exponent, bias);
    let second_exponent = _mm512_sub_epi32(second.exponent, bias);
    let top = _mm512_max_epi32(_mm512_max_epi32(first_exponent, second_exponent), dest.exponent);

    let value = dest.significand;
    let doubled = _mm512_add_epi32(_mm512_add_epi32(value, value), _mm512_srai_epi32::<31>(value));
    let value = half(doubled, _mm512_sub_epi32(top, dest.exponent));
    let doubled = |sum| if WIDE { _mm512_slli_epi32::<14>(sum) } else { _mm512_slli_epi32::<1>(sum) };
    let sums = _mm512_add_epi32(
        half(doubled(first.sums[phase]), _mm512_sub_epi32(top, first_exponent)),
        half(doubled(second.sums[phase]), _mm512_sub_epi32(top, second_exponent)),
    );
    let total = _mm512_add_epi32(value, sums);

    let magnitude = _mm512_abs_epi32(total);
    let zeros = _mm512_lzcnt_epi32(magnitude);
    let leading = _mm512_sllv_epi32(magnitude, zeros);
    let significant = _mm512_set1_epi32(if WIDE { 24 } else { 8 });
    let kept = if WIDE { _mm512_srli_epi32::<7>(leading) } else { _mm512_srli_epi32::<23>(leading) };
    let rounded = _mm512_srli_epi32::<1>(_mm512_add_epi32(kept, one));
    let carry = _mm512_srlv_epi32(rounded, significant);
    let rounded = _mm512_srlv_epi32(rounded, carry);
    let rounded = if WIDE { rounded } else { _mm512_slli_epi32::<3>(rounded) };
    let raised = _mm512_add_epi32(top, _mm512_set1_epi32(if WIDE { 8 } else { 21 }));
    let exponent = _mm512_add_epi32(_mm512_sub_epi32(raised, zeros), carry);

    let over = _mm512_cmpge_epi32_mask(exponent, _mm512_set1_epi32(255));
    let largest = _mm512_set1_epi32(if WIDE { 1 << 23 } else { 1 << 10 });
    let rounded = _mm512_mask_mov_epi32(rounded, over, largest);
    let exponent = _mm512_min_epi32(exponent, _mm512_set1_epi32(255));
    let some = _mm512_mask_cmpgt_epi32_mask(
        _mm512_test_epi32_mask(magnitude, magnitude),
        exponent,
        _mm512_setzero_si512(),
    );
    let negative = _mm512_movepi32_mask(total);
    let rounded = _mm512_maskz_mov_epi32(some, rounded);
    Accumulators {
        significand: _mm512_mask_sub_epi32(rounded, negative, _mm512_setzero_si512(), rounded),
        exponent: _mm512_mask_mov_epi32(_mm512_set1_epi32(i32::from(NO_EXPONENT)), some, exponent),
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512vnni")]
fn read<const WIDE: bool>(column: &[f32; LANES]) -> Accumulators {
    let bits = load_f32(column);
    let exponent = _mm512_and_si512(_mm512_srli_epi32::<23>(bits), _mm512_set1_epi32(0xFF));
    let some = _mm512_test_epi32_mask(exponent, exponent);
    let mantissa = _mm512_and_si512(bits, _mm512_set1_epi32(0x7F_FFFF));
    let significand = _mm512_maskz_or_epi32(some, mantissa, _mm512_set1_epi32(0x80_0000));
    let significand = if WIDE { significand } else { _mm512_srli_epi32::<13>(significand) };
    let negative = _mm512_movepi32_mask(bits);
    Accumulators {
        significand: _mm512_mask_sub_epi32(significand, negative, _mm512_setzero_si512(), significand),
        exponent: _mm512_mask_mov_epi32(_mm512_set1_epi32(i32::from(NO_EXPONENT)), some, exponent),
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512vnni")]
fn write<const WIDE: bool>(dest: Accumulators, column: &mut [f32; LANES]) {
    let significand = _mm512_abs_epi32(dest.significand);
    let significand = if WIDE { significand } else { _mm512_slli_epi32::<13>(significand) };
    let some = _mm512_test_epi32_mask(significand, significand);
    let mantissa = _mm512_and_si512(significand, _mm512_set1_epi32(0x7F_FFFF));
    let sign = _mm512_and_si512(dest.significand, _mm512_set1_epi32(i32::MIN));
    let bits = _mm512_or_si512(_mm512_or_si512(_mm512_slli_epi32::<23>(dest.exponent), mantissa), sign);
    store_f32(_mm512_maskz_mov_epi32(some, bits), column);
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512vnni")]
fn load_u16(values: &[u16; LANES]) -> __m256i {
    // SAFETY: it reads 32 bytes, which is what `values` has; no alignment is asked for.
    unsafe { _mm256_loadu_si256(values.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512vnni")]
fn load_u32(values: &[u32; LANES]) -> __m512i {
    // SAFETY: it reads 64 bytes, which is what `values` has; no alignment is asked for.
    unsafe { _mm512_loadu_si512(values.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512vnni")]
fn load_f32(values: &[f32; LANES]) -> __m512i {
    // SAFETY: it reads 64 bytes, which is what `values` has; no alignment is asked for.
    unsafe { _mm512_loadu_si512(values.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512vnni")]
fn store_f32(bits: __m512i, values: &mut [f32; LANES]) {
    // SAFETY: it writes 64 bytes, which is what `values` has; no alignment is asked for.
    unsafe { _mm512_storeu_si512(values.as_mut_ptr().cast(), bits) }
}
