//! The left operand of a product: rows in blocks, normalised and rounded on the way in.

use super::isa::Isa;
use super::kernels::{Kernels, STEP_BYTES};
use super::memory::{Arena, Buffer, SharedMut};
use super::pool::Pool;
use super::simd::{LANES, Simd, load_partial, store_partial, vectorized};
use super::weights::Operand;

/// Rows packed for a product: `[blocks][steps][block rows][64 bytes]`.
#[derive(Debug)]
pub(crate) struct Rows {
    pub(crate) geometry: Geometry,
    data: Buffer,
    /// A scale a row, for integers.
    scales: Buffer,
}

/// Where a packed element lies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Geometry {
    pub(crate) operand: Operand,
    pub(crate) rows: usize,
    pub(crate) width: usize,
    pub(crate) steps: usize,
    /// Rows of a block.
    pub(crate) block: usize,
}

impl Geometry {
    pub(crate) fn new(isa: Isa, operand: Operand, rows: usize, width: usize) -> Self {
        let block = block_rows(isa, operand, rows);
        Self { operand, rows, width, steps: operand.steps(width), block }
    }

    /// Number of blocks.
    pub(crate) fn blocks(self) -> usize {
        self.rows.div_ceil(self.block)
    }

    /// Bytes of a block.
    pub(crate) fn block_bytes(self) -> usize {
        self.steps * self.block * STEP_BYTES
    }

    /// Where one row's part of a step starts, in bytes.
    pub(crate) fn offset(self, row: usize, step: usize) -> usize {
        (row / self.block * self.steps + step) * self.block * STEP_BYTES + row % self.block * STEP_BYTES
    }
}

/// Rows of a block for `rows` rows: as many as the kernels take, but no more blocks, and blocks no larger, than needed.
pub(crate) fn block_rows(isa: Isa, operand: Operand, rows: usize) -> usize {
    let most = Kernels::block_rows(isa, operand == Operand::F32);
    if most == super::kernels::MAX_BLOCK_ROWS {
        // Whole tiles only.
        return if rows <= most / 2 { most / 2 } else { most };
    }
    rows.div_ceil(rows.div_ceil(most).max(1)).max(1)
}

/// What happens to a row before it is rounded.
#[derive(Clone, Copy)]
pub(crate) enum Norm<'a> {
    /// Nothing.
    None,
    /// LayerNorm with gain, bias and epsilon.
    Layer(&'a [f32], &'a [f32], f32),
    /// RMSNorm with gain and epsilon.
    Rms(&'a [f32], f32),
}

impl Norm<'_> {
    /// # Panics
    /// When a gain or bias is not for rows of this width.
    fn check(self, width: usize) {
        let fits = match self {
            Self::None => true,
            Self::Rms(gain, _) => gain.len() == width,
            Self::Layer(gain, bias, _) => gain.len() == width && bias.len() == width,
        };
        assert!(fits, "gains for rows of {width}");
    }
}

impl Rows {
    /// Memory for rows that something else fills.
    pub(crate) fn take(arena: &Arena, geometry: Geometry) -> Self {
        let data = arena.take::<u8>(geometry.blocks() * geometry.block_bytes());
        let scales = arena.take::<f32>(if geometry.operand == Operand::Int8 { geometry.rows } else { 0 });
        Self { geometry, data, scales }
    }

    /// Packs `x: [rows, width]`, normalised, on all threads.
    pub(crate) fn pack(
        arena: &Arena,
        pool: &Pool,
        isa: Isa,
        operand: Operand,
        x: &[f32],
        width: usize,
        norm: Norm<'_>,
    ) -> Self {
        norm.check(width);
        let rows = x.len() / width.max(1);
        let geometry = Geometry::new(isa, operand, rows, width);
        let mut packed = Self::take(arena, geometry);
        let (data, scales) = (packed.data.shared(), packed.scales.shared());
        // Some 32 KiB a task.
        let per_task = (8192 / width.max(1)).clamp(1, rows.max(1));
        pool.run(rows.div_ceil(per_task), &|task, _| {
            for row in task * per_task..((task + 1) * per_task).min(rows) {
                // SAFETY: the row is within `x`, and this task alone writes it; `isa` is available.
                unsafe {
                    pack_row(isa, geometry, row, x[row * width..][..width].as_ptr(), norm, data, scales);
                }
            }
        });
        packed
    }

    /// Where a block starts.
    pub(crate) fn block(&self, block: usize) -> *const u8 {
        self.data.as_slice::<u8>()[block * self.geometry.block_bytes()..].as_ptr()
    }

    /// The scales of the rows, for integers.
    pub(crate) fn scales(&self) -> &[f32] {
        self.scales.as_slice()
    }

    /// The packed memory, for those that fill it.
    pub(crate) fn shared(&mut self) -> SharedMut {
        self.data.shared()
    }
}

vectorized! {
    /// Packs one row.
    unsafe fn pack_row = pack_row_simd(
        geometry: Geometry, row: usize, x: *const f32, norm: Norm<'_>, data: SharedMut, scales: SharedMut,
    )
}

/// # Safety
/// `x` has `geometry.width` elements; `row` of `data` and `scales` is written by nobody else.
#[inline(always)]
unsafe fn pack_row_simd<S: Simd>(
    geometry: Geometry,
    row: usize,
    x: *const f32,
    norm: Norm<'_>,
    data: SharedMut,
    scales: SharedMut,
) {
    // SAFETY: the caller's contract; offsets stay within the geometry's row.
    unsafe {
        let width = geometry.width;
        let affine = Affine::<S>::of(x, width, norm);
        match geometry.operand {
            Operand::F32 => {
                for step in 0..geometry.steps {
                    let y = affine.at(x, step * LANES, width);
                    S::store(data.at::<u8>(geometry.offset(row, step)).cast(), y);
                }
            }
            Operand::Bf16 => {
                for step in 0..geometry.steps {
                    let to = data.at::<u8>(geometry.offset(row, step)).cast::<u16>();
                    S::store_bf16(to, affine.at(x, step * 32, width));
                    S::store_bf16(to.add(LANES), affine.at(x, step * 32 + LANES, width));
                }
            }
            Operand::Int8 => {
                let (mut largest, mut poison) = (S::splat(0.0), S::splat(0.0));
                for column in (0..width).step_by(LANES) {
                    let y = affine.at(x, column, width);
                    largest = S::max(largest, S::abs(y));
                    poison = S::mul_add(y, S::splat(0.0), poison);
                }
                let largest = S::greatest(largest);
                let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
                // Integers know no NaN: a row that holds one, or an infinity, gets it as its scale.
                *scales.at::<f32>(row) = largest / 127.0 + S::sum(poison);
                for step in 0..geometry.steps {
                    let to = data.at::<u8>(geometry.offset(row, step));
                    for quarter in 0..4 {
                        let y = affine.at(x, step * 64 + quarter * LANES, width);
                        S::store_u8(to.add(quarter * LANES), S::mul(y, S::splat(inverse)));
                    }
                }
            }
        }
    }
}

/// A norm whose statistics are known: `(x − mean)·inverse·gain + bias`.
struct Affine<'a, S: Simd> {
    mean: S::Vector,
    inverse: S::Vector,
    norm: Norm<'a>,
}

impl<'a, S: Simd> Affine<'a, S> {
    /// # Safety
    /// `x` has `width` elements, and so have the gains.
    #[inline(always)]
    unsafe fn of(x: *const f32, width: usize, norm: Norm<'a>) -> Self {
        // SAFETY: the caller's contract.
        unsafe {
            let (mean, inverse) = match norm {
                Norm::None => (0.0, 1.0),
                Norm::Rms(_, eps) => {
                    let squares = sum_of_squares::<S>(x, width, 0.0);
                    (0.0, 1.0 / (squares / width as f32 + eps).sqrt())
                }
                Norm::Layer(_, _, eps) => {
                    let mut sum = S::splat(0.0);
                    for column in (0..width).step_by(LANES) {
                        sum = S::add(sum, load::<S>(x, column, width));
                    }
                    let mean = S::sum(sum) / width as f32;
                    let squares = sum_of_squares::<S>(x, width, mean);
                    (mean, 1.0 / (squares / width as f32 + eps).sqrt())
                }
            };
            Self { mean: S::splat(mean), inverse: S::splat(inverse), norm }
        }
    }

    /// Sixteen normalised elements from `column` on; zero beyond the row.
    ///
    /// # Safety
    /// As [`Affine::of`].
    #[inline(always)]
    unsafe fn at(&self, x: *const f32, column: usize, width: usize) -> S::Vector {
        // SAFETY: the caller's contract.
        unsafe {
            if column >= width {
                return S::splat(0.0);
            }
            let value = load::<S>(x, column, width);
            match self.norm {
                Norm::None => value,
                Norm::Rms(gain, _) => {
                    S::mul(S::mul(value, self.inverse), load::<S>(gain.as_ptr(), column, width))
                }
                Norm::Layer(gain, bias, _) => {
                    let gain = load::<S>(gain.as_ptr(), column, width);
                    let bias = load::<S>(bias.as_ptr(), column, width);
                    S::mul_add(S::mul(S::sub(value, self.mean), self.inverse), gain, bias)
                }
            }
        }
    }
}

/// Sixteen elements from `column` on; zero beyond `width`.
///
/// # Safety
/// `x` has `width` elements and `column < width`.
#[inline(always)]
pub(crate) unsafe fn load<S: Simd>(x: *const f32, column: usize, width: usize) -> S::Vector {
    // SAFETY: the caller's contract.
    unsafe {
        if column + LANES <= width {
            S::load(x.add(column))
        } else {
            load_partial::<S>(x.add(column), width - column)
        }
    }
}

/// `Σ (x − mean)²`.
#[inline(always)]
unsafe fn sum_of_squares<S: Simd>(x: *const f32, width: usize, mean: f32) -> f32 {
    // SAFETY: the caller's contract.
    unsafe {
        let whole = width / LANES * LANES;
        let mean16 = S::splat(mean);
        let mut sum = S::splat(0.0);
        for column in (0..whole).step_by(LANES) {
            let d = S::sub(S::load(x.add(column)), mean16);
            sum = S::mul_add(d, d, sum);
        }
        let mut rest = 0.0;
        for column in whole..width {
            let d = *x.add(column) - mean;
            rest += d * d;
        }
        S::sum(sum) + rest
    }
}

vectorized! {
    /// Normalises one row into `y`.
    unsafe fn normalize_row = normalize_row_simd(x: *const f32, y: *mut f32, width: usize, norm: Norm<'_>)
}

/// # Safety
/// `x` and `y` have `width` elements, and so have the gains.
#[inline(always)]
unsafe fn normalize_row_simd<S: Simd>(x: *const f32, y: *mut f32, width: usize, norm: Norm<'_>) {
    // SAFETY: the caller's contract.
    unsafe {
        let affine = Affine::<S>::of(x, width, norm);
        for column in (0..width).step_by(LANES) {
            let value = affine.at(x, column, width);
            store::<S>(y, value, column, width);
        }
    }
}

/// Normalises every row of `x` into `y`, both `[rows, width]`.
pub(crate) fn normalize(pool: &Pool, isa: Isa, x: &[f32], y: &mut Buffer, width: usize, norm: Norm<'_>) {
    norm.check(width);
    assert_eq!(y.as_slice::<f32>().len(), x.len(), "room for the result");
    let rows = x.len() / width.max(1);
    let per_task = (8192 / width.max(1)).clamp(1, rows.max(1));
    let y = y.shared();
    pool.run(rows.div_ceil(per_task), &|task, _| {
        for row in task * per_task..((task + 1) * per_task).min(rows) {
            // SAFETY: the row is within both, and this task alone writes it; `isa` is available.
            unsafe {
                normalize_row(isa, x[row * width..][..width].as_ptr(), y.at(row * width), width, norm);
            }
        }
    });
}

/// Stores sixteen elements from `column` on; nothing beyond `width`.
///
/// # Safety
/// `y` has `width` elements and `column < width`.
#[inline(always)]
pub(crate) unsafe fn store<S: Simd>(y: *mut f32, value: S::Vector, column: usize, width: usize) {
    // SAFETY: the caller's contract.
    unsafe {
        if column + LANES <= width {
            S::store(y.add(column), value);
        } else {
            store_partial::<S>(y.add(column), value, width - column);
        }
    }
}
