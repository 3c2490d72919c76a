//! Operations on single elements and whole columns.

use smolvla_core::backend::Activation;

use super::engine::Engine;
use super::memory::Buffer;
use super::rows::{load, store};
use super::simd::{LANES, Simd, gelu_tanh, silu, vectorized};

/// Elements a task works on.
const TASK: usize = 16 * 1024;

/// What is computed of each element.
#[derive(Clone, Copy)]
pub(crate) enum Map<'a> {
    Activate(Activation),
    Scale(f32),
    /// `y + alpha·x`: the product rounded, then the sum.
    Axpy(f32, &'a [f32]),
}

/// Applies `map` to all of `x`.
pub(crate) fn apply(engine: &Engine, map: Map<'_>, x: &[f32], out: &mut Buffer) {
    assert_eq!(out.as_slice::<f32>().len(), x.len(), "room for the result");
    let out = out.shared();
    engine.pool.run(x.len().div_ceil(TASK), &|task, _| {
        let start = task * TASK;
        let part = &x[start..(start + TASK).min(x.len())];
        let map = match map {
            Map::Axpy(alpha, y) => Map::Axpy(alpha, &y[start..start + part.len()]),
            other => other,
        };
        // SAFETY: each task writes its own elements; the instruction set is available.
        unsafe { apply_part(engine.isa, map, part, out.at(start)) }
    });
}

vectorized! {
    /// Applies a map to consecutive elements.
    unsafe fn apply_part = apply_part_simd(map: Map<'_>, x: &[f32], out: *mut f32)
}

/// # Safety
/// `out` has as many elements as `x`.
#[inline(always)]
unsafe fn apply_part_simd<S: Simd>(map: Map<'_>, x: &[f32], out: *mut f32) {
    // SAFETY: the caller's contract.
    unsafe {
        for column in (0..x.len()).step_by(LANES) {
            let value = load::<S>(x.as_ptr(), column, x.len());
            let value = match map {
                Map::Activate(Activation::GeluTanh) => gelu_tanh::<S>(value),
                Map::Activate(Activation::Silu) => silu::<S>(value),
                Map::Scale(factor) => S::mul(value, S::splat(factor)),
                Map::Axpy(alpha, y) => {
                    S::add(load::<S>(y.as_ptr(), column, x.len()), S::mul(value, S::splat(alpha)))
                }
            };
            store::<S>(out, value, column, x.len());
        }
    }
}

/// `[gate, up] → silu(gate)·up`: `x: [rows, 2·width] → [rows, width]`.
pub(crate) fn silu_mul(engine: &Engine, x: &[f32], width: usize, out: &mut Buffer) {
    assert_eq!(2 * out.as_slice::<f32>().len(), x.len(), "room for the result");
    let out = out.shared();
    engine.pool.run(x.len() / (2 * width).max(1), &|row, _| {
        let x = &x[row * 2 * width..][..2 * width];
        // SAFETY: each task writes its own row; the instruction set is available.
        unsafe { silu_mul_row(engine.isa, x, out.at(row * width), width) }
    });
}

vectorized! {
    /// The gate of one row.
    unsafe fn silu_mul_row = silu_mul_row_simd(x: &[f32], out: *mut f32, width: usize)
}

/// # Safety
/// `x` has `2·width` elements, `out` has room for `width`.
#[inline(always)]
unsafe fn silu_mul_row_simd<S: Simd>(x: &[f32], out: *mut f32, width: usize) {
    // SAFETY: the caller's contract.
    unsafe {
        for column in (0..width).step_by(LANES) {
            let gate = silu::<S>(load::<S>(x.as_ptr(), column, width));
            let up = load::<S>(x.as_ptr().add(width), column, width);
            store::<S>(out, S::mul(gate, up), column, width);
        }
    }
}

/// Columns `start..start + count` of every row of `x: [rows, width]`.
pub(crate) fn columns(x: &[f32], width: usize, start: usize, count: usize, out: &mut [f32]) {
    for (x, out) in x.chunks_exact(width).zip(out.chunks_exact_mut(count)) {
        out.copy_from_slice(&x[start..start + count]);
    }
}
