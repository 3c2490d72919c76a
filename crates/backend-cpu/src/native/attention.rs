//! Attention with a streaming softmax: blocks of queries by blocks of keys, so that scores stay in cache.
//!
//! Keys and values are packed as the right operands of two products, queries and probabilities as the left ones, so the
//! micro-kernels of the linear layers do the arithmetic. Probabilities are powers of two, which are cheaper than powers of
//! e; the factor is applied to the difference of a score and the greatest one, where rounding it costs least.

use smolvla_core::backend::{AttentionMask, AttentionShape};

use super::engine::Engine;
use super::kernels::{Ahead, Kernels, MAX_BLOCK_ROWS, PANEL, PANEL_STEP_BYTES, STEP_BYTES};
use super::mask::Mask;
use super::memory::Buffer;
use super::product::{Target, put};
use super::rows::{block_rows, load, store};
use super::simd::{LANES, Simd, exp2_negative, vectorized};
use super::weights::{HALF, Operand};

/// Panels of keys whose scores are computed at once: 256 keys, 32 KiB of scores for the largest block.
const KEY_PANELS: usize = 8;
/// The widest head the engine takes.
pub(crate) const MAX_HEAD_DIM: usize = 512;

/// Heads side by side in the columns of a row-major matrix.
#[derive(Clone, Copy)]
pub(crate) struct HeadColumns<'a> {
    /// The matrix.
    pub(crate) data: &'a [f32],
    /// Its width.
    pub(crate) stride: usize,
    /// The column where the first head starts.
    pub(crate) start: usize,
}

impl HeadColumns<'_> {
    /// Tokens of one observation.
    ///
    /// # Panics
    /// When the heads do not fit into the matrix, or the rows are not as many for each observation.
    fn tokens(&self, batch: usize, heads: usize, head_dim: usize) -> usize {
        assert!((1..=MAX_HEAD_DIM).contains(&head_dim), "heads of {head_dim} columns");
        assert!(self.start + heads * head_dim <= self.stride, "{heads} heads in {} columns", self.stride);
        assert!(self.data.len().is_multiple_of(self.stride * batch), "rows of {batch} observations");
        self.data.len() / self.stride / batch
    }
}

/// A rotary table, `[rows, head_dim/2]` each, its rows repeating over the tokens.
#[derive(Clone, Copy)]
pub(crate) struct Rotary<'a> {
    pub(crate) cos: &'a [f32],
    pub(crate) sin: &'a [f32],
}

impl Rotary<'_> {
    /// # Panics
    /// When the tables are not for heads of this width.
    fn check(&self, head_dim: usize) {
        let fits = !self.cos.is_empty() && self.cos.len().is_multiple_of((head_dim / 2).max(1));
        assert!(fits && self.sin.len() == self.cos.len(), "rotary tables for heads of {head_dim}");
    }
}

/// Keys of a segment as panels: `[batch][kv heads][key panels][head steps]`.
/// Values of one: `[batch][kv heads][dimension panels][key steps]`.
#[derive(Debug)]
pub(crate) struct PackedSegment {
    pub(crate) operand: Operand,
    pub(crate) batch: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    /// Keys of one observation.
    pub(crate) keys: usize,
    kind: Kind,
    data: Buffer,
    /// Bytes of one head.
    head_bytes: usize,
}

/// Which of two layouts a [`PackedSegment`] has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Keys,
    Values,
}

impl PackedSegment {
    fn take(
        engine: &Engine,
        kind: Kind,
        operand: Operand,
        shape: &AttentionShape,
        keys: usize,
        head_bytes: usize,
    ) -> Self {
        let (batch, kv_heads, head_dim) = (shape.batch, shape.kv_heads, shape.head_dim);
        let data = engine.arena.take::<u8>(batch * kv_heads * head_bytes);
        Self { operand, batch, kv_heads, head_dim, keys, kind, data, head_bytes }
    }

    /// Packs keys, rotated on the way where there is a table.
    pub(crate) fn keys(
        engine: &Engine,
        operand: Operand,
        shape: &AttentionShape,
        source: HeadColumns<'_>,
        rotary: Option<Rotary<'_>>,
    ) -> Self {
        let keys = source.tokens(shape.batch, shape.kv_heads, shape.head_dim);
        if let Some(rotary) = rotary {
            rotary.check(shape.head_dim);
        }
        let panels = keys.div_ceil(PANEL);
        let steps = operand.steps(shape.head_dim);
        let panel_bytes = steps * PANEL_STEP_BYTES;
        let mut packed = Self::take(engine, Kind::Keys, operand, shape, keys, panels * panel_bytes);
        let out = packed.data.shared();
        let (kv_heads, head_dim) = (shape.kv_heads, shape.head_dim);
        engine.pool.run(shape.batch * kv_heads * panels, &|task, _| {
            let (head, panel) = (task / panels, task % panels);
            let (batch, head) = (head / kv_heads, head % kv_heads);
            let first = panel * PANEL;
            let tokens = Tokens {
                source,
                first: batch * keys + first,
                count: (keys - first).min(PANEL),
                column: source.start + head * head_dim,
                head_dim,
                rotary,
            };
            // SAFETY: each task writes a panel of its own; the instruction set is available.
            unsafe { pack_key_panel(engine.isa, operand, tokens, out.at(task * panel_bytes), steps) }
        });
        packed
    }

    /// Packs values.
    pub(crate) fn values(
        engine: &Engine,
        operand: Operand,
        shape: &AttentionShape,
        source: HeadColumns<'_>,
    ) -> Self {
        let keys = source.tokens(shape.batch, shape.kv_heads, shape.head_dim);
        let key_steps = keys.div_ceil(PANEL) * PANEL / operand.step();
        let panels = shape.head_dim.div_ceil(PANEL);
        let head_bytes = panels * key_steps * PANEL_STEP_BYTES;
        let mut packed = Self::take(engine, Kind::Values, operand, shape, keys, head_bytes);
        let out = packed.data.shared();
        let (kv_heads, head_dim) = (shape.kv_heads, shape.head_dim);
        engine.pool.run(shape.batch * kv_heads * key_steps, &|task, _| {
            let (head, step) = (task / key_steps, task % key_steps);
            let (batch, head_index) = (head / kv_heads, head % kv_heads);
            let first = step * operand.step();
            let tokens = Tokens {
                source,
                first: batch * keys + first.min(keys),
                count: keys.saturating_sub(first).min(operand.step()),
                column: source.start + head_index * head_dim,
                head_dim,
                rotary: None,
            };
            for panel in 0..panels {
                let at = head * head_bytes + (panel * key_steps + step) * PANEL_STEP_BYTES;
                // SAFETY: each task writes steps of its own; the instruction set is available.
                unsafe { pack_value_step(engine.isa, operand, tokens, out.at(at), panel) }
            }
        });
        packed
    }

    /// Whether it was packed for this attention.
    pub(crate) fn fits(&self, operand: Operand, shape: &AttentionShape) -> bool {
        self.operand == operand
            && (self.batch, self.kv_heads, self.head_dim) == (shape.batch, shape.kv_heads, shape.head_dim)
    }

    /// Where a head of an observation starts.
    fn head(&self, batch: usize, head: usize) -> *const u8 {
        self.data.as_slice::<u8>()[(batch * self.kv_heads + head) * self.head_bytes..].as_ptr()
    }
}

/// Consecutive tokens of one head.
#[derive(Clone, Copy)]
struct Tokens<'a> {
    source: HeadColumns<'a>,
    /// The first token's row.
    first: usize,
    count: usize,
    /// The head's first column.
    column: usize,
    head_dim: usize,
    rotary: Option<Rotary<'a>>,
}

impl Tokens<'_> {
    fn row(&self, index: usize) -> &[f32] {
        &self.source.data[(self.first + index) * self.source.stride + self.column..][..self.head_dim]
    }
}

/// A head of one token, with room for whole steps.
#[repr(C, align(64))]
struct HeadRow([f32; MAX_HEAD_DIM]);

vectorized! {
    /// Packs up to 32 keys of a head into a panel.
    unsafe fn pack_key_panel = pack_key_panel_simd(operand: Operand, tokens: Tokens<'_>, out: *mut u8, steps: usize)
}

/// # Safety
/// `out` has `steps` steps of a panel.
#[inline(always)]
unsafe fn pack_key_panel_simd<S: Simd>(operand: Operand, tokens: Tokens<'_>, out: *mut u8, steps: usize) {
    let mut head = HeadRow([0.0; MAX_HEAD_DIM]);
    let mut rounded = HeadRow([0.0; MAX_HEAD_DIM]);
    // SAFETY: the caller's contract; a head has at most `MAX_HEAD_DIM` columns, which is a multiple of all steps.
    unsafe {
        for key in 0..PANEL {
            if key < tokens.count {
                rotate::<S>(&tokens, key, 1.0, &mut head);
            } else {
                head.0[..tokens.head_dim].fill(0.0);
            }
            let groups: *const u32 = if operand == Operand::F32 {
                head.0.as_ptr().cast()
            } else {
                for column in (0..steps * 32).step_by(LANES) {
                    let to = rounded.0.as_mut_ptr().cast::<u16>().add(column);
                    S::store_bf16(to, S::load(head.0.as_ptr().add(column)));
                }
                rounded.0.as_ptr().cast()
            };
            let column = out.add(key / HALF * PANEL_STEP_BYTES / 2 + key % HALF * 4);
            for step in 0..steps {
                for group in 0..16 {
                    let to = column.add(step * PANEL_STEP_BYTES + group * 64).cast::<u32>();
                    *to = *groups.add(step * 16 + group);
                }
            }
        }
    }
}

vectorized! {
    /// Packs one step of keys of a head's values: 16 keys in f32, 32 in bf16.
    unsafe fn pack_value_step = pack_value_step_simd(operand: Operand, tokens: Tokens<'_>, out: *mut u8, panel: usize)
}

/// # Safety
/// `out` has a step of a panel.
#[inline(always)]
unsafe fn pack_value_step_simd<S: Simd>(operand: Operand, tokens: Tokens<'_>, out: *mut u8, panel: usize) {
    // SAFETY: the caller's contract; only rows and columns that exist are read.
    unsafe {
        let read = |key: usize, column: usize| {
            if key < tokens.count && column < tokens.head_dim {
                load::<S>(tokens.row(key).as_ptr(), column, tokens.head_dim)
            } else {
                S::splat(0.0)
            }
        };
        for half in 0..2 {
            let column = panel * PANEL + half * HALF;
            for group in 0..16 {
                let to = out.add((half * 16 + group) * 64);
                if operand == Operand::F32 {
                    S::store(to.cast(), read(group, column));
                } else {
                    S::store_bf16_pairs(to.cast(), read(2 * group, column), read(2 * group + 1, column));
                }
            }
        }
    }
}

/// A token's head times `factor`, rotated where there is a table. Columns beyond the head stay as they are.
///
/// # Safety
/// The token and its table row exist.
#[inline(always)]
unsafe fn rotate<S: Simd>(tokens: &Tokens<'_>, index: usize, factor: f32, out: &mut HeadRow) {
    // SAFETY: the caller's contract.
    unsafe {
        let x = tokens.row(index).as_ptr();
        let factor = S::splat(factor);
        let out = out.0.as_mut_ptr();
        let Some(rotary) = tokens.rotary else {
            for column in (0..tokens.head_dim).step_by(LANES) {
                let y = S::mul(load::<S>(x, column, tokens.head_dim), factor);
                store::<S>(out, y, column, tokens.head_dim);
            }
            return;
        };
        let half = tokens.head_dim / 2;
        let start = (tokens.first + index) * half % rotary.cos.len();
        let (cos, sin) = (rotary.cos.as_ptr().add(start), rotary.sin.as_ptr().add(start));
        for column in (0..half).step_by(LANES) {
            let [x1, x2] = [load::<S>(x, column, half), load::<S>(x.add(half), column, half)];
            let [cos, sin] = [load::<S>(cos, column, half), load::<S>(sin, column, half)];
            let y1 = S::sub(S::mul(x1, cos), S::mul(x2, sin));
            let y2 = S::add(S::mul(x2, cos), S::mul(x1, sin));
            store::<S>(out, S::mul(y1, factor), column, half);
            store::<S>(out.add(half), S::mul(y2, factor), column, half);
        }
    }
}

/// Rotates every head of `x` into `y`, a matrix of `heads · head_dim` columns.
pub(crate) fn rope(
    engine: &Engine,
    x: HeadColumns<'_>,
    heads: usize,
    head_dim: usize,
    rotary: Rotary<'_>,
    y: &mut Buffer,
) {
    let rows = x.tokens(1, heads, head_dim);
    rotary.check(head_dim);
    assert_eq!(y.as_slice::<f32>().len(), rows * heads * head_dim, "room for the result");
    let y = y.shared();
    engine.pool.run(rows, &|row, _| {
        for head in 0..heads {
            let tokens = Tokens {
                source: x,
                first: row,
                count: 1,
                column: x.start + head * head_dim,
                head_dim,
                rotary: Some(rotary),
            };
            // SAFETY: this task alone writes the row.
            unsafe { rope_head(engine.isa, &tokens, y.at((row * heads + head) * head_dim)) }
        }
    });
}

vectorized! {
    /// Rotates one head of one token.
    unsafe fn rope_head = rope_head_simd(tokens: &Tokens<'_>, y: *mut f32)
}

/// # Safety
/// The token exists; `y` has room for a head.
#[inline(always)]
unsafe fn rope_head_simd<S: Simd>(tokens: &Tokens<'_>, y: *mut f32) {
    let mut head = HeadRow([0.0; MAX_HEAD_DIM]);
    // SAFETY: the caller's contract.
    unsafe {
        rotate::<S>(tokens, 0, 1.0, &mut head);
        std::ptr::copy_nonoverlapping(head.0.as_ptr(), y, tokens.head_dim);
    }
}

/// Keys and values of one segment.
pub(crate) type Segment<'a> = (&'a PackedSegment, &'a PackedSegment);

/// `softmax(scale·q·kᵀ + mask)·v` into `target`, on all threads.
#[expect(clippy::too_many_arguments, reason = "an attention is its operands")]
pub(crate) fn attend(
    engine: &Engine,
    operand: Operand,
    shape: &AttentionShape,
    queries: HeadColumns<'_>,
    rotary: Option<Rotary<'_>>,
    segments: &[Segment<'_>],
    mask: Option<&Mask>,
    target: Target,
) {
    let rows = queries.tokens(shape.batch, shape.heads, shape.head_dim);
    assert!(shape.heads.is_multiple_of(shape.kv_heads), "{shape:?}");
    if let Some(rotary) = rotary {
        rotary.check(shape.head_dim);
    }
    for (keys, values) in segments {
        let kinds = (keys.kind, values.kind) == (Kind::Keys, Kind::Values);
        let alike = keys.fits(operand, shape) && values.fits(operand, shape) && keys.keys == values.keys;
        assert!(kinds && alike, "keys and values are packed for {shape:?}");
    }
    if let Some(mask) = mask {
        let keys = segments.iter().map(|(keys, _)| keys.keys).sum::<usize>();
        let covered = (mask.batch(), mask.queries(), mask.keys()) == (shape.batch, rows, keys);
        assert!(covered, "a mask of {} x {} x {}", mask.batch(), mask.queries(), mask.keys());
    }
    let width = match target {
        Target::Matrix(_, width) => width,
        Target::Packed(_, geometry) => geometry.width,
    };
    assert_eq!(width, shape.heads * shape.head_dim, "width of the result");
    let block = block_rows(engine.isa, operand, rows);
    let blocks = rows.div_ceil(block);
    let work = Work::new(operand, block, shape);
    let mut scratch = engine.arena.take::<u8>(engine.pool.threads() * work.bytes);
    let scratch = scratch.shared();
    engine.pool.run(shape.batch * shape.heads * blocks, &|task, thread| {
        let (head, first) = (task / blocks, task % blocks * block);
        let (batch, head) = (head / shape.heads, head % shape.heads);
        let tokens = Tokens {
            source: queries,
            first: batch * rows + first,
            count: (rows - first).min(block),
            column: queries.start + head * shape.head_dim,
            head_dim: shape.head_dim,
            rotary,
        };
        let part = Part { batch, head, query: first, queries: rows, tokens };
        // SAFETY: each thread has scratch memory of its own, and each task rows and columns of its own in `target`.
        unsafe {
            let scratch = scratch.at::<u8>(thread * work.bytes);
            attend_block(engine.isa, &engine.kernels, &work, shape, &part, segments, mask, scratch, target);
        }
    });
}

/// A block of queries of one head.
struct Part<'a> {
    batch: usize,
    head: usize,
    /// The first query's index in its observation.
    query: usize,
    /// Queries of one observation.
    queries: usize,
    tokens: Tokens<'a>,
}

/// Where a task's values lie in its scratch memory, in bytes.
struct Work {
    operand: Operand,
    block: usize,
    /// On a score, to make its exponent of two; positive.
    factor: f32,
    head_steps: usize,
    dim_panels: usize,
    scores: usize,
    probabilities: usize,
    sums: usize,
    result: usize,
    bytes: usize,
}

impl Work {
    fn new(operand: Operand, block: usize, shape: &AttentionShape) -> Self {
        let head_dim = shape.head_dim;
        // Of scores that all count for nothing, those that are no keys still must count less: zero times infinity does not.
        let factor = (shape.scale.abs() * std::f32::consts::LOG2_E).max(f32::MIN_POSITIVE);
        let (head_steps, dim_panels) = (operand.steps(head_dim), head_dim.div_ceil(PANEL));
        let queries_bytes = head_steps * block * STEP_BYTES;
        let scores_bytes = KEY_PANELS * block * PANEL * size_of::<f32>();
        let sums_bytes = block * PANEL * size_of::<f32>();
        let scores = queries_bytes;
        let probabilities = scores + scores_bytes;
        // Probabilities take no more than scores.
        let sums = probabilities + scores_bytes;
        let result = sums + sums_bytes;
        let bytes = result + dim_panels * sums_bytes;
        Self { operand, block, factor, head_steps, dim_panels, scores, probabilities, sums, result, bytes }
    }
}

vectorized! {
    /// Attention of one block of queries.
    unsafe fn attend_block = attend_block_simd(
        kernels: &Kernels,
        work: &Work,
        shape: &AttentionShape,
        part: &Part<'_>,
        segments: &[Segment<'_>],
        mask: Option<&Mask>,
        scratch: *mut u8,
        target: Target,
    )
}

/// # Safety
/// `scratch` has `work.bytes`; the rows and columns of `part` in `target` are written by nobody else.
#[expect(clippy::too_many_arguments, reason = "an attention is its operands")]
#[inline(always)]
unsafe fn attend_block_simd<S: Simd>(
    kernels: &Kernels,
    work: &Work,
    shape: &AttentionShape,
    part: &Part<'_>,
    segments: &[Segment<'_>],
    mask: Option<&Mask>,
    scratch: *mut u8,
    target: Target,
) {
    let multiply = if work.operand == Operand::F32 { kernels.f32 } else { kernels.bf16 };
    let (block, steps) = (work.block, work.head_steps);
    let kv_head = part.head / (shape.heads / shape.kv_heads);
    let mut greatest = [f32::NEG_INFINITY; MAX_BLOCK_ROWS];
    let mut total = [0.0f32; MAX_BLOCK_ROWS];
    let mut factor = [0.0f32; MAX_BLOCK_ROWS];
    // SAFETY: the caller's contract; segments are packed for this shape, so every panel exists.
    unsafe {
        let scores = scratch.add(work.scores).cast::<f32>();
        let probabilities = scratch.add(work.probabilities);
        let sums = scratch.add(work.sums).cast::<f32>();
        let result = scratch.add(work.result).cast::<f32>();
        pack_queries::<S>(work, shape, &part.tokens, scratch);
        std::ptr::write_bytes(result, 0, work.dim_panels * block * PANEL);

        let mut key_offset = 0;
        for (keys, values) in segments {
            let panels = keys.keys.div_ceil(PANEL);
            let key_steps = panels * PANEL / work.operand.step();
            let (key_head, value_head) = (keys.head(part.batch, kv_head), values.head(part.batch, kv_head));
            for first in (0..panels).step_by(KEY_PANELS) {
                let count = (panels - first).min(KEY_PANELS);
                for panel in 0..count {
                    let b = key_head.add((first + panel) * steps * PANEL_STEP_BYTES);
                    multiply(scratch, b, block, steps, scores.add(panel * block * PANEL), Ahead::NONE);
                }
                for row in 0..part.tokens.count {
                    let masked = mask.map(|mask| (mask, part.batch * part.queries + part.query + row));
                    let visible = Visible { masked, key_offset, keys: keys.keys, first };
                    let scores = scores.add(row * PANEL);
                    let row_scores = RowScores { scores, panels: count, stride: block * PANEL };
                    let newest = row_scores.mask::<S>(&visible, greatest[row]);
                    let fallen = (greatest[row] - newest) * work.factor;
                    factor[row] = S::greatest(exp2_negative::<S>(S::splat(fallen)));
                    greatest[row] = newest;
                    let sum = row_scores.exponentiate::<S>(newest, work, row, probabilities);
                    total[row] = total[row] * factor[row] + sum;
                }
                let part_steps = count * PANEL / work.operand.step();
                let first_step = first * PANEL / work.operand.step();
                for panel in 0..work.dim_panels {
                    let b = value_head.add((panel * key_steps + first_step) * PANEL_STEP_BYTES);
                    multiply(probabilities, b, block, part_steps, sums, Ahead::NONE);
                    let result = result.add(panel * block * PANEL);
                    for (row, &kept) in factor[..part.tokens.count].iter().enumerate() {
                        let kept = S::splat(kept);
                        for half in 0..2 {
                            let at = row * PANEL + half * HALF;
                            let value = S::mul_add(S::load(result.add(at)), kept, S::load(sums.add(at)));
                            S::store(result.add(at), value);
                        }
                    }
                }
            }
            key_offset += keys.keys;
        }
        let width = shape.heads * shape.head_dim;
        let end = (part.head + 1) * shape.head_dim;
        for (row, total) in total[..part.tokens.count].iter().enumerate() {
            let inverse = S::splat(1.0 / total);
            for column in (0..shape.head_dim).step_by(LANES) {
                let at = column / PANEL * block * PANEL + row * PANEL + column % PANEL;
                let y = S::mul(S::load(result.add(at)), inverse);
                let column = part.head * shape.head_dim + column;
                put_head::<S>(target, part.tokens.first + row, column, end, width, y);
            }
        }
    }
}

/// Stores sixteen columns of a head, or as many as it has left.
///
/// # Safety
/// As [`attend_block_simd`].
#[inline(always)]
unsafe fn put_head<S: Simd>(
    target: Target,
    row: usize,
    column: usize,
    end: usize,
    width: usize,
    y: S::Vector,
) {
    // SAFETY: the caller's contract.
    unsafe {
        match target {
            Target::Matrix(..) => put::<S>(target, row, column, end, y),
            // Heads fill whole half-steps here; see `packs_heads`.
            Target::Packed(..) => put::<S>(target, row, column, width, y),
        }
    }
}

/// Whether heads of this width can be stored packed: none may share sixteen columns with the next.
pub(crate) fn packs_heads(head_dim: usize) -> bool {
    head_dim.is_multiple_of(LANES)
}

/// Packs a block of queries; with the sign of the scale, so that the greatest score is the greatest product.
///
/// # Safety
/// `out` has room for the block.
#[inline(always)]
unsafe fn pack_queries<S: Simd>(work: &Work, shape: &AttentionShape, tokens: &Tokens<'_>, out: *mut u8) {
    let factor = 1.0f32.copysign(shape.scale);
    let mut head = HeadRow([0.0; MAX_HEAD_DIM]);
    // SAFETY: the caller's contract.
    unsafe {
        for row in 0..tokens.count {
            rotate::<S>(tokens, row, factor, &mut head);
            for step in 0..work.head_steps {
                let to = out.add((step * work.block + row) * STEP_BYTES);
                let from = head.0.as_ptr().add(step * work.operand.step());
                if work.operand == Operand::F32 {
                    S::store(to.cast(), S::load(from));
                } else {
                    S::store_bf16(to.cast(), S::load(from));
                    S::store_bf16(to.cast::<u16>().add(LANES), S::load(from.add(LANES)));
                }
            }
        }
    }
}

/// Which keys a query sees.
struct Visible<'a> {
    /// The mask and the query's row in it.
    masked: Option<(&'a Mask, usize)>,
    /// Keys of earlier segments.
    key_offset: usize,
    /// Keys of this segment.
    keys: usize,
    /// The first panel.
    first: usize,
}

impl Visible<'_> {
    /// Bit `i`: the panel's key `i` exists.
    #[inline(always)]
    fn existing(&self, panel: usize) -> u32 {
        match self.keys - (self.first + panel) * PANEL {
            left if left >= PANEL => u32::MAX,
            left => (1 << left) - 1,
        }
    }

    /// Bit `i`: the panel's key `i` may be seen.
    #[inline(always)]
    fn allowed(&self, panel: usize) -> u32 {
        match self.masked {
            Some((mask, row)) => mask.bits(row, self.key_offset + (self.first + panel) * PANEL),
            None => u32::MAX,
        }
    }
}

/// The scores of one query against consecutive panels of keys.
struct RowScores {
    scores: *mut f32,
    panels: usize,
    /// From one panel to the next, in elements.
    stride: usize,
}

impl RowScores {
    /// Masks the scores in place; returns the greatest of them and `so_far`.
    ///
    /// Masked keys get the least f32, as in LeRobot, so that a query that may see nothing weighs all keys alike; keys
    /// that only fill a panel get no weight at all.
    ///
    /// # Safety
    /// The scores exist.
    #[inline(always)]
    unsafe fn mask<S: Simd>(&self, visible: &Visible<'_>, so_far: f32) -> f32 {
        // SAFETY: the caller's contract.
        unsafe {
            let mut greatest = S::splat(so_far);
            for panel in 0..self.panels {
                let (existing, allowed) = (visible.existing(panel), visible.allowed(panel));
                for half in 0..2 {
                    let at = self.scores.add(panel * self.stride + half * HALF);
                    let mut score = S::load(at);
                    if existing & allowed != u32::MAX {
                        let (existing, allowed) = (existing >> (half * HALF), allowed >> (half * HALF));
                        score = S::select(allowed as u16, score, S::splat(f32::MIN));
                        score = S::select(existing as u16, score, S::splat(f32::NEG_INFINITY));
                        S::store(at, score);
                    }
                    greatest = S::max(greatest, score);
                }
            }
            S::greatest(greatest)
        }
    }

    /// Writes `2^(factor·(score − greatest))` as a row of the left operand; returns the sum.
    ///
    /// # Safety
    /// The scores exist; `out` has room for a block.
    #[inline(always)]
    unsafe fn exponentiate<S: Simd>(&self, greatest: f32, work: &Work, row: usize, out: *mut u8) -> f32 {
        // SAFETY: the caller's contract.
        unsafe {
            let (greatest, factor) = (S::splat(greatest), S::splat(work.factor));
            let mut sum = S::splat(0.0);
            for panel in 0..self.panels {
                let at = self.scores.add(panel * self.stride);
                let p0 = exp2_negative::<S>(S::mul(S::sub(S::load(at), greatest), factor));
                let p1 = exp2_negative::<S>(S::mul(S::sub(S::load(at.add(HALF)), greatest), factor));
                sum = S::add(sum, S::add(p0, p1));
                if work.operand == Operand::F32 {
                    let to = out.add((2 * panel * work.block + row) * STEP_BYTES).cast::<f32>();
                    S::store(to, p0);
                    S::store(to.add(work.block * LANES), p1);
                } else {
                    let to = out.add((panel * work.block + row) * STEP_BYTES).cast::<u16>();
                    S::store_bf16(to, p0);
                    S::store_bf16(to.add(LANES), p1);
                }
            }
            S::sum(sum)
        }
    }
}
