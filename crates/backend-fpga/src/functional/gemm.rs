//! Products of digits. Sums of integers are the same in any order, so each processor has its own.
//!
//! With VNNI each pair of planes is a product of bytes. Without, activations of two digits are put together to 16 bits,
//! whose products with digits can be summed up over 512 inputs in 32 bits.

use std::borrow::Cow;

use rayon::prelude::*;

use super::isa::{Isa, Level, per_isa};
use super::rows::{result, sum};
use crate::arith::{BASE, DIGIT, Scale, TWO_DIGITS};
use crate::descriptor::{Descriptor, Flags, TILE_COLS, TILE_DEPTH, padded};
use crate::memory::Memory;

/// A row's sums in a panel.
type Sums = [i64; TILE_COLS];

/// Rows whose sums are computed before they are scaled; a multiple of every kernel's tile.
const BLOCK: usize = 96;

/// Rows of results that are written by a task.
const STORED: usize = 16;

/// Bytes of 8 inputs of a panel.
const GROUP: usize = TILE_COLS * TILE_DEPTH;

/// Pairs of inputs of which 16-bit numbers times digits can be summed up in 32 bits.
const PAIRS: usize = 256;
const _: () = assert!(TWO_DIGITS as i64 * DIGIT as i64 * 2 * PAIRS as i64 <= i32::MAX as i64);

/// Inputs `2·i` and `2·i + 1` of a panel's outputs.
type Pair = [[i16; 2]; TILE_COLS];

#[derive(Debug, Default)]
pub(super) struct Buffers {
    /// `[panel][row][column]`.
    results: Vec<f32>,
}

struct Gemm<'a> {
    rows: usize,
    /// Padded.
    depth: usize,
    planes: Vec<&'a [u8]>,
    pitch: usize,
    panels: Cow<'a, [u8]>,
    weight_planes: usize,
    row_scales: Vec<Scale>,
    /// Of whole panels, as the biases.
    columns: Vec<Scale>,
    bias: Option<Vec<f32>>,
}

impl Gemm<'_> {
    fn activations(&self, plane: usize, row: usize) -> &[u8] {
        &self.planes[plane][row * self.pitch..][..self.depth]
    }

    fn weights(&self, panel: usize, plane: usize) -> &[[u8; GROUP]] {
        let bytes = self.depth * TILE_COLS;
        self.panels[(panel * self.weight_planes + plane) * bytes..][..bytes].as_chunks().0
    }

    /// What a sum of digits of these planes counts.
    fn place(&self, plane: usize, weight_plane: usize) -> i64 {
        let places = self.planes.len() + self.weight_planes - 2 - plane - weight_plane;
        i64::from(BASE).pow(places as u32)
    }
}

pub(super) fn run(isa: Isa, memory: &mut Memory, d: &Descriptor, buffers: &mut Buffers) {
    let (rows, cols) = (d.rows as usize, d.cols as usize);
    let whole = cols.next_multiple_of(TILE_COLS);
    let gemm = Gemm {
        rows,
        depth: padded(d.depth as usize),
        planes: digit_planes(memory, d.source[0], d.planes(), d.plane[0], rows, d.pitch[0], d.depth),
        pitch: d.pitch[0] as usize,
        panels: panels(memory, d),
        weight_planes: d.weight_planes(),
        row_scales: memory.scales(d.source[1], rows).collect(),
        columns: whole_panels(memory.scales(d.source[3], cols), whole),
        bias: d.flags.has(Flags::BIAS).then(|| whole_panels(memory.words(d.destination[1], cols), whole)),
    };
    buffers.results.resize(rows * whole, 0.0);
    products(isa, &gemm, &mut buffers.results);
    let results = &buffers.results;
    let (pitch, row_bytes) = (d.pitch[2] as usize, cols * 4);
    let to = memory.bytes_mut(d.destination[0], (rows - 1) * pitch + row_bytes);
    // Several rows at a time, as those of a panel lie together.
    let task = if rows == 1 { row_bytes } else { pitch * STORED };
    to.par_chunks_mut(task).enumerate().with_min_len(1 + (1 << 12) / whole).for_each(|(task, to)| {
        for (panel, results) in results.chunks_exact(rows * TILE_COLS).enumerate() {
            let from = panel * TILE_COLS * 4;
            let bytes = (TILE_COLS * 4).min(row_bytes - from);
            let results = &results[task * STORED * TILE_COLS..];
            for (to, results) in to.chunks_mut(pitch.max(row_bytes)).zip(results.chunks_exact(TILE_COLS)) {
                for (to, result) in to[from..from + bytes].as_chunks_mut().0.iter_mut().zip(results) {
                    *to = result.to_le_bytes();
                }
            }
        }
    });
}

fn whole_panels<T: Default>(columns: impl Iterator<Item = T>, whole: usize) -> Vec<T> {
    let mut columns: Vec<T> = columns.collect();
    columns.resize_with(whole, T::default);
    columns
}

fn digit_planes(
    memory: &Memory,
    start: u64,
    planes: usize,
    plane: u32,
    rows: usize,
    pitch: u32,
    depth: u32,
) -> Vec<&[u8]> {
    let length = (rows - 1) * pitch as usize + padded(depth as usize);
    (0..planes as u64).map(|i| memory.bytes(start + i * u64::from(plane), length)).collect()
}

/// The weights as panels.
fn panels<'a>(memory: &'a Memory, d: &Descriptor) -> Cow<'a, [u8]> {
    let (cols, depth, planes) = (d.cols as usize, padded(d.depth as usize), d.weight_planes());
    let bytes = cols.next_multiple_of(TILE_COLS) * depth * planes;
    if !d.flags.has(Flags::ROWS) {
        return Cow::Borrowed(memory.bytes(d.source[2], bytes));
    }
    let rows = digit_planes(memory, d.source[2], planes, d.plane[1], cols, d.pitch[1], d.depth);
    let mut panels = vec![0; bytes];
    panels.par_chunks_mut(depth * TILE_COLS).enumerate().for_each(|(index, to)| {
        let (panel, plane) = (index / planes, index % planes);
        for c in 0..TILE_COLS.min(cols - panel * TILE_COLS) {
            let row = &rows[plane][(panel * TILE_COLS + c) * d.pitch[1] as usize..][..depth];
            for (to, from) in to.as_chunks_mut::<GROUP>().0.iter_mut().zip(row.as_chunks::<TILE_DEPTH>().0) {
                to[c * TILE_DEPTH..][..TILE_DEPTH].copy_from_slice(from);
            }
        }
    });
    Cow::Owned(panels)
}

/// All results, `[panel][row][column]`.
fn products(isa: Isa, gemm: &Gemm<'_>, results: &mut [f32]) {
    let operand = Activations::new(isa, gemm);
    let one = |(panel, results): (usize, &mut [[f32; TILE_COLS]])| {
        let weights = operand.weights(gemm, panel);
        let mut sums = [[0; TILE_COLS]; BLOCK];
        for (block, results) in results.chunks_mut(BLOCK).enumerate() {
            let first = block * BLOCK;
            let sums = &mut sums[..results.len()];
            sums.fill([0; TILE_COLS]);
            match (&operand, &weights) {
                #[cfg(target_arch = "x86_64")]
                (Activations::Bytes(row_sums), _) => vnni::sums(isa, gemm, row_sums, panel, first, sums),
                (Activations::Wide(activations), weights) => {
                    wide_sums(isa, gemm, activations, weights, first, sums);
                }
            }
            requantise(isa, gemm, panel, first, sums, results);
        }
    };
    results.as_chunks_mut().0.par_chunks_mut(gemm.rows).enumerate().for_each(one);
}

/// Activations as a kernel takes them.
enum Activations {
    /// As they lie in memory; with the sums `[plane][row]`.
    #[cfg(target_arch = "x86_64")]
    Bytes(Vec<Vec<i32>>),
    /// Digits put together.
    Wide(Vec<i16>),
}

impl Activations {
    fn new(isa: Isa, gemm: &Gemm<'_>) -> Self {
        #[cfg(target_arch = "x86_64")]
        if isa.level() == Level::Avx512 {
            let sum = |row: &[u8]| row.iter().map(|digit| i32::from(*digit as i8)).sum();
            let plane = |plane| {
                (0..gemm.rows)
                    .into_par_iter()
                    .with_min_len(32)
                    .map(|row| sum(gemm.activations(plane, row)))
                    .collect()
            };
            return Self::Bytes((0..gemm.planes.len()).map(plane).collect());
        }
        let _ = isa;
        let mut wide = vec![0_i16; gemm.rows * gemm.depth];
        wide.par_chunks_mut(gemm.depth).enumerate().for_each(|(row, to)| {
            for plane in 0..gemm.planes.len() {
                for (to, digit) in to.iter_mut().zip(gemm.activations(plane, row)) {
                    // Digits are in ±127, so this fits; other bytes are not digits.
                    *to = to.wrapping_mul(BASE as i16).wrapping_add(i16::from(*digit as i8));
                }
            }
        });
        Self::Wide(wide)
    }

    /// A panel's weights `[plane][pair]`, where they are not taken from memory.
    fn weights(&self, gemm: &Gemm<'_>, panel: usize) -> Vec<Pair> {
        let mut pairs = Vec::new();
        if matches!(self, Self::Wide(_)) {
            for plane in 0..gemm.weight_planes {
                for group in gemm.weights(panel, plane) {
                    pairs.extend((0..TILE_DEPTH).step_by(2).map(|k| -> Pair {
                        std::array::from_fn(|c| {
                            [k, k + 1].map(|k| i16::from(group[c * TILE_DEPTH + k] as i8))
                        })
                    }));
                }
            }
        }
        pairs
    }
}

/// Rows that the kernels of 16-bit numbers take at a time: 12 sums, two weights and an activation are 15 registers.
const WIDE_ROWS: usize = 6;

fn wide_sums(
    isa: Isa,
    gemm: &Gemm<'_>,
    activations: &[i16],
    weights: &[Pair],
    first: usize,
    sums: &mut [Sums],
) {
    let depth = gemm.depth;
    let (last, plane_pairs) = (gemm.planes.len() - 1, depth / 2);
    for (tile, sums) in sums.chunks_mut(WIDE_ROWS).enumerate() {
        let row = first + tile * WIDE_ROWS;
        for (plane, weights) in weights.chunks(plane_pairs).enumerate() {
            // Activations are whole, so only the weights' place counts.
            let place = gemm.place(last, plane);
            for (chunk, weights) in weights.chunks(PAIRS).enumerate() {
                // Past the last row, the last one once more.
                let rows: [&[[i16; 2]]; WIDE_ROWS] = std::array::from_fn(|r| {
                    let row = (row + r).min(row + sums.len() - 1);
                    &activations[row * depth..][..depth].as_chunks().0[chunk * PAIRS..][..weights.len()]
                });
                let tile = wide_tile(isa, rows, weights);
                for (sums, tile) in sums.iter_mut().zip(&tile) {
                    for (sum, part) in sums.iter_mut().zip(tile) {
                        *sum += i64::from(*part) * place;
                    }
                }
            }
        }
    }
}

fn wide_tile(isa: Isa, rows: [&[[i16; 2]]; WIDE_ROWS], weights: &[Pair]) -> [[i32; TILE_COLS]; WIDE_ROWS] {
    match isa.level() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: an `Isa` is only made of what the processor was found to have.
        Level::Avx2 => unsafe { avx2::tile(rows, weights) },
        _ => {
            let mut sums = [[0; TILE_COLS]; WIDE_ROWS];
            for (sums, row) in sums.iter_mut().zip(rows) {
                for (weights, activations) in weights.iter().zip(row) {
                    let [a, b] = activations.map(i32::from);
                    for (sum, weights) in sums.iter_mut().zip(weights) {
                        *sum += a * i32::from(weights[0]) + b * i32::from(weights[1]);
                    }
                }
            }
            sums
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::*;

    use super::{Pair, TILE_COLS, WIDE_ROWS};

    #[target_feature(enable = "avx2")]
    pub(super) fn tile(rows: [&[[i16; 2]]; WIDE_ROWS], weights: &[Pair]) -> [[i32; TILE_COLS]; WIDE_ROWS] {
        let mut sums = [[_mm256_setzero_si256(); 2]; WIDE_ROWS];
        for (i, weights) in weights.iter().enumerate() {
            let (low, high) = weights.split_at(TILE_COLS / 2);
            // SAFETY: 8 outputs' pairs are 32 bytes, and the loads need no alignment.
            let weights = unsafe {
                [_mm256_loadu_si256(low.as_ptr().cast()), _mm256_loadu_si256(high.as_ptr().cast())]
            };
            for (sums, row) in sums.iter_mut().zip(rows) {
                let [a, b] = row[i];
                let pair = i32::from(b) << 16 | i32::from(a as u16);
                let activation = _mm256_set1_epi32(pair);
                for (sum, weight) in sums.iter_mut().zip(weights) {
                    *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(activation, weight));
                }
            }
        }
        sums.map(|sums| {
            let mut row = [0; TILE_COLS];
            for (row, sum) in row.chunks_exact_mut(TILE_COLS / 2).zip(sums) {
                // SAFETY: 8 numbers are 32 bytes, and the store needs no alignment.
                unsafe { _mm256_storeu_si256(row.as_mut_ptr().cast(), sum) };
            }
            row
        })
    }
}

#[cfg(target_arch = "x86_64")]
mod vnni {
    use std::arch::x86_64::*;

    use super::{GROUP, Gemm, Isa, Sums, TILE_COLS, TILE_DEPTH};

    /// Rows at a time: 24 sums, two weights and an activation are 27 registers.
    const ROWS: usize = 12;

    pub(super) fn sums(
        isa: Isa,
        gemm: &Gemm<'_>,
        row_sums: &[Vec<i32>],
        panel: usize,
        first: usize,
        sums: &mut [Sums],
    ) {
        assert_eq!(isa.level(), super::Level::Avx512);
        for plane in 0..gemm.planes.len() {
            for weight_plane in 0..gemm.weight_planes {
                let weights = gemm.weights(panel, weight_plane);
                let place = gemm.place(plane, weight_plane);
                let (tiles, rest) = sums.as_chunks_mut::<ROWS>();
                let mut row = first;
                for sums in tiles {
                    // SAFETY: this is called with that instruction set alone.
                    unsafe { tile(gemm, row_sums, weights, plane, place, row, sums) };
                    row += ROWS;
                }
                let (pairs, rest) = rest.as_chunks_mut::<2>();
                for sums in pairs {
                    // SAFETY: the same.
                    unsafe { tile(gemm, row_sums, weights, plane, place, row, sums) };
                    row += 2;
                }
                for sums in rest.as_chunks_mut::<1>().0 {
                    // SAFETY: the same.
                    unsafe { tile(gemm, row_sums, weights, plane, place, row, sums) };
                }
            }
        }
    }

    /// Products of weights made unsigned by adding 128; what that adds is taken off at the end.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    fn tile<const R: usize>(
        gemm: &Gemm<'_>,
        row_sums: &[Vec<i32>],
        weights: &[[u8; GROUP]],
        plane: usize,
        place: i64,
        row: usize,
        sums: &mut [Sums; R],
    ) {
        let rows: [&[[u8; TILE_DEPTH]]; R] =
            std::array::from_fn(|r| gemm.activations(plane, row + r).as_chunks().0);
        let offset = _mm512_set1_epi8(-128);
        // Of each output two sums, of inputs 0 to 3 and 4 to 7 of each 8.
        let mut parts = [[_mm512_setzero_si512(); 2]; R];
        for (i, weights) in weights.iter().enumerate() {
            let (low, high) = weights.split_at(GROUP / 2);
            // SAFETY: each half has 64 bytes, and the loads need no alignment.
            let weights = unsafe {
                [_mm512_loadu_si512(low.as_ptr().cast()), _mm512_loadu_si512(high.as_ptr().cast())]
            };
            let weights = weights.map(|weights| _mm512_xor_si512(weights, offset));
            for (parts, row) in parts.iter_mut().zip(rows) {
                let activation = _mm512_set1_epi64(i64::from_le_bytes(row[i]));
                for (part, weight) in parts.iter_mut().zip(weights) {
                    *part = _mm512_dpbusd_epi32(*part, weight, activation);
                }
            }
        }
        let place = _mm512_set1_epi64(place);
        for (r, (parts, sums)) in parts.iter().zip(sums).enumerate() {
            let added = _mm512_set1_epi64(i64::from(row_sums[plane][row + r]) * 128);
            for (part, sums) in parts.iter().zip(sums.chunks_exact_mut(TILE_COLS / 2)) {
                let part = _mm512_add_epi32(*part, _mm512_srli_epi64::<32>(*part));
                let part = _mm512_cvtepi32_epi64(_mm512_cvtepi64_epi32(part));
                let part = _mm512_mullo_epi64(_mm512_sub_epi64(part, added), place);
                // SAFETY: 8 numbers are 64 bytes, and neither load nor store needs alignment.
                unsafe {
                    let sum = _mm512_add_epi64(_mm512_loadu_si512(sums.as_ptr().cast()), part);
                    _mm512_storeu_si512(sums.as_mut_ptr().cast(), sum);
                }
            }
        }
    }
}

per_isa! {
    fn requantise(
        gemm: &Gemm<'_>,
        panel: usize,
        first: usize,
        sums: &[Sums],
        results: &mut [[f32; TILE_COLS]],
    ) = requantise_body;
}

/// [`crate::arith::requantise`].
#[inline(always)]
fn requantise_body(
    gemm: &Gemm<'_>,
    panel: usize,
    first: usize,
    sums: &[Sums],
    results: &mut [[f32; TILE_COLS]],
) {
    let from = panel * TILE_COLS;
    let columns = &gemm.columns[from..from + TILE_COLS];
    let mantissas: [i64; TILE_COLS] = std::array::from_fn(|c| i64::from(columns[c].mantissa));
    let exponents: [i32; TILE_COLS] = std::array::from_fn(|c| i32::from(columns[c].exponent));
    let bias: Option<&[f32]> = gemm.bias.as_ref().map(|bias| &bias[from..from + TILE_COLS]);
    let wide = gemm.weight_planes == 2;
    for (r, (sums, results)) in sums.iter().zip(results).enumerate() {
        let scale = gemm.row_scales[first + r];
        let (half, shift) = if wide { (128, 8) } else { (0, 0) };
        let exponent = i32::from(scale.exponent) + shift;
        for c in 0..TILE_COLS {
            let factor = i64::from(scale.mantissa) * mantissas[c];
            results[c] = result(((sums[c] + half) >> shift).wrapping_mul(factor), exponent + exponents[c]);
        }
        if let Some(bias) = bias {
            for (result, bias) in results.iter_mut().zip(bias) {
                *result = sum(*result, *bias);
            }
        }
    }
}
