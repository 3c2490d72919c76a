//! Matrix products: blocks of rows by panels of weights, with what follows applied while a block is in cache.

use smolvla_core::backend::{Activation, Prepared};

use super::engine::Engine;
use super::isa::Isa;
use super::kernels::{Ahead, MAX_BLOCK_ROWS, PANEL, PANEL_STEP_BYTES};
use super::memory::SharedMut;
use super::rows::{Geometry, Rows, load, store};
use super::simd::{LANES, Simd, gelu_tanh, silu, vectorized};
use super::weights::{HALF, Operand, Weights};

/// What is done to a product before it is stored.
#[derive(Clone, Copy, Default)]
pub(crate) struct Finish<'a> {
    /// Applied after scale and bias.
    pub(crate) activation: Option<Activation>,
    /// Each pair of columns becomes `silu(gate)·up`; the weights are paired.
    pub(crate) gated: bool,
    /// Added last, `[rows, outputs]`, its rows repeating.
    pub(crate) residual: Option<&'a [f32]>,
}

/// Where a product goes.
#[derive(Clone, Copy)]
pub(crate) enum Target {
    /// A row-major f32 matrix of the given width.
    Matrix(SharedMut, usize),
    /// The left operand of the next product, f32 or bf16.
    Packed(SharedMut, Geometry),
}

/// A block's sums.
#[repr(C, align(64))]
struct Sums([f32; MAX_BLOCK_ROWS * PANEL]);

/// Bytes of packed rows that should stay in a core's second-level cache while panels pass by.
const RESIDENT_BYTES: usize = 384 * 1024;

/// `finish(x·Wᵀ + bias)` into `target`, on all threads.
pub(crate) fn product(engine: &Engine, x: &Rows, weights: &Weights, finish: Finish<'_>, target: Target) {
    let geometry = x.geometry;
    assert_eq!(geometry.operand, weights.operand(), "how the left operand is stored");
    assert_eq!(geometry.width, weights.inputs(), "width of the left operand");
    assert!(!finish.gated || weights.paired(), "gates beside their up-projections");
    if let Some(residual) = finish.residual {
        let whole_rows = !residual.is_empty() && residual.len().is_multiple_of(weights.outputs());
        assert!(whole_rows, "a residual of {} for {} outputs", residual.len(), weights.outputs());
    }
    if geometry.rows == 0 {
        return;
    }
    let (blocks, panels, steps) = (geometry.blocks(), weights.panels(), geometry.steps);
    let threads = engine.pool.threads();
    let mut group = (RESIDENT_BYTES / geometry.block_bytes().max(1)).clamp(1, blocks.max(1));
    if weights.widened_panel_bytes().is_none() {
        // Enough tasks for the threads to end together; a widened panel is too dear to be made several times.
        let groups = (8 * threads).div_ceil(panels.max(1)).clamp(1, blocks.max(1));
        group = group.min(blocks.div_ceil(groups));
    }
    let widened_bytes = weights.widened_panel_bytes().unwrap_or(0);
    let mut widened = (widened_bytes > 0).then(|| engine.arena.take::<u8>(threads * widened_bytes));
    let widened = widened.as_mut().map(|buffer| buffer.shared());
    let groups = blocks.div_ceil(group);

    let (tasks, panel_bytes) = (groups * panels, weights.panel_bytes());

    engine.pool.run(tasks, &|task, thread| {
        let (first, panel) = (task / panels * group, task % panels);
        // The panel that this thread probably takes next.
        let next = (task + threads < tasks).then(|| weights.panel((task + threads) % panels));
        let mut b = weights.panel(panel);
        if let Some(widened) = widened {
            // SAFETY: each thread has memory of its own, and the panel holds half as many bytes.
            unsafe {
                let own = widened.at::<u8>(thread * widened_bytes);
                widen(engine.isa, b.cast(), own.cast(), steps * PANEL_STEP_BYTES / 2);
                b = own;
            }
        }
        let columns = Columns {
            bias: weights.bias(panel),
            scales: weights.scales(panel),
            halves: weights.halves(panel),
            outputs: weights.outputs_stored(finish.gated),
            panel,
        };
        let mut sums = Sums([0.0; MAX_BLOCK_ROWS * PANEL]);
        let last = (first + group).min(blocks);
        for block in first..last {
            let a = x.block(block);
            let ahead = next.map_or(Ahead::NONE, |next| {
                Ahead::part(next, panel_bytes, block - first, last - first, steps)
            });
            // SAFETY: block and panel are laid out as the kernels demand, by construction of `Rows` and `Weights`; the
            // engine's instruction set is available, and the pool has configured the tiles.
            unsafe {
                match geometry.operand {
                    Operand::F32 => {
                        (engine.kernels.f32)(a, b, geometry.block, steps, sums.0.as_mut_ptr(), ahead)
                    }
                    Operand::Bf16 => {
                        (engine.kernels.bf16)(a, b, geometry.block, steps, sums.0.as_mut_ptr(), ahead)
                    }
                    Operand::Int8 => {
                        (engine.kernels.int8)(a, b, geometry.block, steps, sums.0.as_mut_ptr().cast(), ahead);
                    }
                }
                let rows = block * geometry.block..((block + 1) * geometry.block).min(geometry.rows);
                finish_block(engine.isa, &sums, geometry, rows, x.scales(), &columns, finish, target);
            }
        }
    });
}

/// What a panel's columns are.
struct Columns<'a> {
    bias: &'a [f32],
    scales: Option<&'a [f32]>,
    halves: [usize; 2],
    /// Columns of the result.
    outputs: usize,
    panel: usize,
}

vectorized! {
    /// Scales, biases, activates and stores a block's sums.
    unsafe fn finish_block = finish_block_simd(
        sums: &Sums,
        geometry: Geometry,
        rows: std::ops::Range<usize>,
        row_scales: &[f32],
        columns: &Columns<'_>,
        finish: Finish<'_>,
        target: Target,
    )
}

/// # Safety
/// `target` holds `rows` and all columns, which nobody else writes.
#[inline(always)]
unsafe fn finish_block_simd<S: Simd>(
    sums: &Sums,
    geometry: Geometry,
    rows: std::ops::Range<usize>,
    row_scales: &[f32],
    columns: &Columns<'_>,
    finish: Finish<'_>,
    target: Target,
) {
    // SAFETY: the caller's contract; a panel has 32 biases and scales, and a block 32 sums a row.
    unsafe {
        let bias = columns.bias.as_ptr();
        let bias = [S::load(bias), S::load(bias.add(HALF))];
        let scales =
            columns.scales.map(|scales| [S::load(scales.as_ptr()), S::load(scales.as_ptr().add(HALF))]);
        for (index, row) in rows.enumerate() {
            let sums = sums.0.as_ptr().add(index * PANEL);
            let mut y = if geometry.operand == Operand::Int8 {
                let scale = S::splat(*row_scales.get_unchecked(row));
                let sums = sums.cast::<i32>();
                [S::mul(S::load_i32(sums), scale), S::mul(S::load_i32(sums.add(HALF)), scale)]
            } else {
                [S::load(sums), S::load(sums.add(HALF))]
            };
            if let Some(scales) = &scales {
                y = [S::mul_add(y[0], scales[0], bias[0]), S::mul_add(y[1], scales[1], bias[1])];
            } else {
                y = [S::add(y[0], bias[0]), S::add(y[1], bias[1])];
            }
            if finish.gated {
                let y = S::mul(silu::<S>(y[0]), y[1]);
                put::<S>(target, row, columns.panel * HALF, columns.outputs, y);
                continue;
            }
            match finish.activation {
                Some(Activation::GeluTanh) => y = [gelu_tanh::<S>(y[0]), gelu_tanh::<S>(y[1])],
                Some(Activation::Silu) => y = [silu::<S>(y[0]), silu::<S>(y[1])],
                None => {}
            }
            for (mut y, column) in y.into_iter().zip(columns.halves) {
                if column >= columns.outputs && matches!(target, Target::Matrix(..)) {
                    continue;
                }
                if let Some(residual) = finish.residual
                    && column < columns.outputs
                {
                    let start = row * columns.outputs % residual.len();
                    y = S::add(load::<S>(residual.as_ptr().add(start), column, columns.outputs), y);
                }
                put::<S>(target, row, column, columns.outputs, y);
            }
        }
    }
}

/// Stores sixteen columns of a row.
///
/// # Safety
/// As [`finish_block_simd`]; `column < outputs` for a matrix.
#[inline(always)]
pub(crate) unsafe fn put<S: Simd>(target: Target, row: usize, column: usize, outputs: usize, y: S::Vector) {
    // SAFETY: the caller's contract.
    unsafe {
        match target {
            Target::Matrix(out, width) => store::<S>(out.at(row * width), y, column, outputs),
            Target::Packed(out, geometry) => {
                let step = column / geometry.operand.step();
                if step >= geometry.steps {
                    return;
                }
                let to = out.at::<u8>(geometry.offset(row, step));
                if geometry.operand == Operand::F32 {
                    S::store(to.cast(), y);
                } else {
                    let to = to.cast::<u16>().add(column % 32);
                    S::store_bf16(to, y);
                    if column.is_multiple_of(32) && column + LANES >= outputs {
                        // Nothing else writes the rest of the step, and the next product reads it.
                        S::store_bf16(to.add(LANES), S::splat(0.0));
                    }
                }
            }
        }
    }
}

/// 8-bit weights as bf16, exactly.
///
/// # Safety
/// `from` has `count` elements, `to` has room for as many; `count` is a multiple of 32.
unsafe fn widen(isa: Isa, from: *const i8, to: *mut u16, count: usize) {
    // SAFETY: the caller's contract; `isa` is available.
    unsafe {
        match isa {
            #[cfg(target_arch = "x86_64")]
            isa if isa >= Isa::Avx512 => widen_avx512(from, to, count),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => widen_avx2(from, to, count),
            _ => widen_plain(from, to, count),
        }
    }
}

/// # Safety
/// As [`widen`].
#[inline(always)]
unsafe fn widen_plain(from: *const i8, to: *mut u16, count: usize) {
    for index in 0..count {
        // SAFETY: the caller's contract. An integer of 8 bits loses nothing in bf16.
        unsafe { *to.add(index) = (f32::from(*from.add(index)).to_bits() >> 16) as u16 }
    }
}

/// # Safety
/// As [`widen`], with AVX2.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn widen_avx2(from: *const i8, to: *mut u16, count: usize) {
    // SAFETY: the caller's contract.
    unsafe { widen_plain(from, to, count) }
}

/// # Safety
/// As [`widen`], with AVX-512 BW.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn widen_avx512(from: *const i8, to: *mut u16, count: usize) {
    use std::arch::x86_64::*;
    // SAFETY: the caller's contract.
    unsafe {
        for index in (0..count).step_by(LANES) {
            let words = _mm512_cvtepi8_epi32(_mm_loadu_si128(from.add(index).cast()));
            let bits = _mm512_castps_si512(_mm512_cvtepi32_ps(words));
            let halves = _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(bits));
            _mm256_storeu_si256(to.add(index).cast(), halves);
        }
    }
}
