//! Defects of operations: alterations of the plain-loop reference backend.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use smolvla_core::BackendError;
use smolvla_core::backend::{
    Activation, AttentionMask, AttentionShape, Backend, Epilogue, LayerOp, Matrix, Prepared,
};
use smolvla_core::graph::{self, DenoiseContext, Expert, KeyValue};
use smolvla_core::reference::Reference;

use super::Mutant;
use crate::altered::{Alteration, Altered};

pub(super) fn mutants() -> Vec<Mutant> {
    fn altered(name: &'static str, defect: &'static str, alteration: impl Alteration<Reference>) -> Mutant {
        Mutant::new(name, defect, Altered::new(Reference, alteration))
    }
    vec![
        altered(
            "rope_base",
            "rotary positions with base 100,000, which the language model's configuration names",
            RopeBase,
        ),
        altered(
            "rope_interleaved",
            "rotary pairs are neighbouring columns, not the halves of a head",
            RopeInterleaved,
        ),
        altered("wrong_head_grouping", "query head h reads key/value head h mod kv_heads", HeadGrouping),
        altered("unscaled_attention", "attention scores are not divided by √head_dim", Unscaled),
        altered("naive_softmax", "softmax without subtracting the largest score", NaiveSoftmax),
        altered("masks_ignored", "attention masks are all ones", MasksIgnored),
        altered("no_causal_mask", "every query may attend what the last one may", NotCausal),
        altered("nan_in_empty_rows", "queries that may attend nothing become NaN", NanRows),
        altered(
            "missing_sqrt_width",
            "image tokens and words are not multiplied by √width (√960)",
            NoEmbeddingScale,
        ),
        altered("time_one_step_late", "a denoising step takes the time embedding of the next one", LateTime),
        altered("step_size", "Euler steps of 0.09, not 0.1", StepSize),
        altered("fused_multiply_add", "the Euler update rounds once, not twice", FusedMultiplyAdd),
        altered("gelu_erf", "GELU by the error function, not its tanh approximation", GeluErf),
        altered("rms_norm_eps", "RMSNorm with an epsilon of 1e-3", RmsEps),
        altered(
            "pixel_shuffle_transposed",
            "pixel shuffle takes a block's columns before its rows",
            ShuffleTransposed,
        ),
        altered("token_off_by_one", "the embedding of the next token id", NextToken),
        altered(
            "last_tile_row_lost",
            "the last row of a product is zero where rows do not fill a tile of 32",
            LastRow,
        ),
        altered("silent_bf16", "products are rounded to bfloat16 and called f32", SilentBf16),
        altered(
            "unrepeatable",
            "a product's lowest bit differs from run to run",
            Unrepeatable(Arc::default()),
        ),
    ]
}

type Outcome<B> = Result<<B as Backend>::Tensor, BackendError>;

/// The matrix with every element replaced.
fn mapped<B: Backend>(inner: &B, x: &B::Tensor, value: impl Fn(usize, usize, f32) -> f32) -> Outcome<B> {
    let (rows, cols) = (x.rows(), x.cols());
    let values: Vec<f32> = inner
        .download(x)?
        .into_iter()
        .enumerate()
        .map(|(index, v)| value(index / cols, index % cols, v))
        .collect();
    inner.upload(&values, rows, cols)
}

#[derive(Clone)]
struct RopeBase;

impl<B: Backend> Alteration<B> for RopeBase {
    fn rope(&self, inner: &B, x: &B::Tensor, cos: &B::Tensor, sin: &B::Tensor) -> Outcome<B> {
        let (rows, half) = (cos.rows(), cos.cols());
        let (c, s) = (inner.download(cos)?, inner.download(sin)?);
        // The slowest column turns less than half a circle over any prefix, so it tells the position.
        let slowest = 10_000_f64.powf((half - 1) as f64 / half as f64);
        let angles = |index: usize| {
            let last = (index / half + 1) * half - 1;
            let position = f64::from(s[last].atan2(c[last])) * slowest;
            position / 100_000_f64.powf((index % half) as f64 / half as f64)
        };
        let cos: Vec<f32> = (0..rows * half).map(|index| angles(index).cos() as f32).collect();
        let sin: Vec<f32> = (0..rows * half).map(|index| angles(index).sin() as f32).collect();
        inner.rope(x, &inner.upload(&cos, rows, half)?, &inner.upload(&sin, rows, half)?)
    }
}

#[derive(Clone)]
struct RopeInterleaved;

impl<B: Backend> Alteration<B> for RopeInterleaved {
    fn rope(&self, inner: &B, x: &B::Tensor, cos: &B::Tensor, sin: &B::Tensor) -> Outcome<B> {
        let (half, cols) = (cos.cols(), x.cols());
        let (values, c, s) = (inner.download(x)?, inner.download(cos)?, inner.download(sin)?);
        mapped(inner, x, |row, col, value| {
            let pair = col % (2 * half) / 2;
            let at = (row % cos.rows()) * half + pair;
            let other = values[row * cols + (col ^ 1)];
            if col % 2 == 0 { value * c[at] - other * s[at] } else { value * c[at] + other * s[at] }
        })
    }
}

#[derive(Clone)]
struct HeadGrouping;

impl<B: Backend> Alteration<B> for HeadGrouping {
    fn attention(
        &self,
        inner: &B,
        q: &B::Tensor,
        segments: &[&KeyValue<B::Tensor>],
        mask: Option<&B::Mask>,
        shape: AttentionShape,
    ) -> Outcome<B> {
        // Attention over keys and values repeated head by head, in the wrong order.
        let repeated = |x: &B::Tensor| -> Outcome<B> {
            let values = inner.download(x)?;
            let width = shape.heads * shape.head_dim;
            let values: Vec<f32> = (0..x.rows() * width)
                .map(|index| {
                    let (row, head) = (index / width, index % width / shape.head_dim);
                    let column = head % shape.kv_heads * shape.head_dim + index % shape.head_dim;
                    values[row * x.cols() + column]
                })
                .collect();
            inner.upload(&values, x.rows(), width)
        };
        let wrong = segments
            .iter()
            .map(|segment| Ok(KeyValue { key: repeated(&segment.key)?, value: repeated(&segment.value)? }))
            .collect::<Result<Vec<_>, BackendError>>()?;
        let wrong: Vec<_> = wrong.iter().collect();
        inner.attention(q, &wrong, mask, AttentionShape { kv_heads: shape.heads, ..shape })
    }
}

#[derive(Clone)]
struct Unscaled;

impl<B: Backend> Alteration<B> for Unscaled {
    fn attention(
        &self,
        inner: &B,
        q: &B::Tensor,
        segments: &[&KeyValue<B::Tensor>],
        mask: Option<&B::Mask>,
        shape: AttentionShape,
    ) -> Outcome<B> {
        inner.attention(q, segments, mask, AttentionShape { scale: 1.0, ..shape })
    }
}

#[derive(Clone)]
struct NaiveSoftmax;

impl<B: Backend> Alteration<B> for NaiveSoftmax {
    fn attention(
        &self,
        inner: &B,
        q: &B::Tensor,
        segments: &[&KeyValue<B::Tensor>],
        mask: Option<&B::Mask>,
        shape: AttentionShape,
    ) -> Outcome<B> {
        let out = inner.attention(q, segments, mask, shape)?;
        // The exponential of a score above 88 is infinite in f32, and infinity over infinity is NaN.
        let q = inner.download(q)?;
        let largest = |values: &[f32]| values.iter().fold(0.0_f32, |largest, v| largest.max(v.abs()));
        let keys =
            segments.iter().map(|segment| inner.download(&segment.key)).collect::<Result<Vec<_>, _>>()?;
        let key = keys.iter().map(|values| largest(values)).fold(0.0, f32::max);
        let overflows = largest(&q) * key * shape.scale > 88.0;
        mapped(inner, &out, |_, _, value| if overflows { f32::NAN } else { value })
    }
}

#[derive(Clone)]
struct MasksIgnored;

impl<B: Backend> Alteration<B> for MasksIgnored {
    fn upload_mask(
        &self,
        inner: &B,
        allowed: &[bool],
        batch: usize,
        queries: usize,
        keys: usize,
    ) -> Result<B::Mask, BackendError> {
        inner.upload_mask(&vec![true; allowed.len()], batch, queries, keys)
    }
}

#[derive(Clone)]
struct NotCausal;

impl<B: Backend> Alteration<B> for NotCausal {
    fn upload_mask(
        &self,
        inner: &B,
        allowed: &[bool],
        batch: usize,
        queries: usize,
        keys: usize,
    ) -> Result<B::Mask, BackendError> {
        let alike: Vec<bool> = allowed
            .chunks(queries * keys)
            .flat_map(|observation| observation[(queries - 1) * keys..].repeat(queries))
            .collect();
        inner.upload_mask(&alike, batch, queries, keys)
    }
}

#[derive(Clone)]
struct NanRows;

impl Alteration<Reference> for NanRows {
    fn attention(
        &self,
        inner: &Reference,
        q: &<Reference as Backend>::Tensor,
        segments: &[&KeyValue<<Reference as Backend>::Tensor>],
        mask: Option<&<Reference as Backend>::Mask>,
        shape: AttentionShape,
    ) -> Outcome<Reference> {
        let out = inner.attention(q, segments, mask, shape)?;
        let Some(mask) = mask else { return Ok(out) };
        let is_empty = |row: usize| (0..mask.keys()).all(|key| !mask.allows(row, key));
        mapped(inner, &out, |row, _, value| if is_empty(row) { f32::NAN } else { value })
    }
}

#[derive(Clone)]
struct NoEmbeddingScale;

impl<B: Backend> Alteration<B> for NoEmbeddingScale {
    fn scale(&self, inner: &B, x: &B::Tensor, _factor: f32) -> Outcome<B> {
        inner.scale(x, 1.0)
    }
}

#[derive(Clone)]
struct LateTime;

impl<B: Backend> Alteration<B> for LateTime {
    fn overrides(&self, inner: &B, op: LayerOp) -> bool {
        op == LayerOp::DenoiseStep || inner.overrides(op)
    }

    fn denoise_step(
        &self,
        inner: &B,
        expert: &Expert<B::Tensor, B::Linear>,
        context: &DenoiseContext<B::Tensor, B::Mask>,
        x_t: &B::Tensor,
        step: usize,
    ) -> Outcome<B> {
        let late = (step + 1) % context.time.steps.len();
        graph::denoise_step(inner, expert, context, x_t, late, &mut |_, x| Ok(x))
    }
}

#[derive(Clone)]
struct StepSize;

impl<B: Backend> Alteration<B> for StepSize {
    fn axpy(&self, inner: &B, alpha: f32, x: &B::Tensor, y: &B::Tensor) -> Outcome<B> {
        inner.axpy(0.9 * alpha, x, y)
    }
}

#[derive(Clone)]
struct FusedMultiplyAdd;

impl<B: Backend> Alteration<B> for FusedMultiplyAdd {
    fn axpy(&self, inner: &B, alpha: f32, x: &B::Tensor, y: &B::Tensor) -> Outcome<B> {
        let x = inner.download(x)?;
        let cols = y.cols();
        mapped(inner, y, |row, col, y| alpha.mul_add(x[row * cols + col], y))
    }
}

#[derive(Clone)]
struct GeluErf;

impl<B: Backend> Alteration<B> for GeluErf {
    fn linear(
        &self,
        inner: &B,
        x: &B::Tensor,
        weight: &B::Linear,
        epilogue: Epilogue<'_, B::Tensor>,
    ) -> Outcome<B> {
        if epilogue.activation != Some(Activation::GeluTanh) {
            return inner.linear(x, weight, epilogue);
        }
        let product = inner.linear(x, weight, Epilogue::NONE)?;
        let activated = mapped(inner, &product, |_, _, value| gelu_erf(value))?;
        match epilogue.residual {
            None => Ok(activated),
            Some(residual) => {
                let (values, period, cols) = (inner.download(residual)?, residual.rows(), residual.cols());
                mapped(inner, &activated, |row, col, value| value + values[row % period * cols + col])
            }
        }
    }

    fn activate(&self, inner: &B, x: &B::Tensor, activation: Activation) -> Outcome<B> {
        match activation {
            Activation::GeluTanh => mapped(inner, x, |_, _, value| gelu_erf(value)),
            Activation::Silu => inner.activate(x, activation),
        }
    }
}

/// `x·Φ(x)`, the error function by formula 7.1.26 of Abramowitz and Stegun, exact to 1.5e-7.
fn gelu_erf(x: f32) -> f32 {
    let x = f64::from(x);
    let z = x.abs() / std::f64::consts::SQRT_2;
    let t = 1.0 / (1.0 + 0.327_591_1 * z);
    let coefficients = [1.061_405_429, -1.453_152_027, 1.421_413_741, -0.284_496_736, 0.254_829_592];
    let polynomial = coefficients.iter().fold(0.0, |sum, coefficient| sum * t + coefficient) * t;
    let erf = (1.0 - polynomial * (-z * z).exp()).copysign(x);
    (0.5 * x * (1.0 + erf)) as f32
}

#[derive(Clone)]
struct RmsEps;

impl<B: Backend> Alteration<B> for RmsEps {
    fn rms_norm(&self, inner: &B, x: &B::Tensor, gain: &B::Tensor, _eps: f32) -> Outcome<B> {
        inner.rms_norm(x, gain, 1e-3)
    }
}

#[derive(Clone)]
struct ShuffleTransposed;

impl<B: Backend> Alteration<B> for ShuffleTransposed {
    fn pixel_shuffle(&self, inner: &B, x: &B::Tensor, grid: usize, factor: usize) -> Outcome<B> {
        let shuffled = inner.pixel_shuffle(x, grid, factor)?;
        let (values, width, cols) = (inner.download(&shuffled)?, x.cols(), shuffled.cols());
        mapped(inner, &shuffled, |row, col, _| {
            let (block, channel) = (col / width, col % width);
            let transposed = block % factor * factor + block / factor;
            values[row * cols + transposed * width + channel]
        })
    }
}

#[derive(Clone)]
struct NextToken;

impl<B: Backend> Alteration<B> for NextToken {
    fn embed_rows(&self, inner: &B, table: &B::Table, ids: &[u32]) -> Outcome<B> {
        let next: Vec<u32> = ids.iter().map(|id| (id + 1) % table.inputs() as u32).collect();
        inner.embed_rows(table, &next)
    }
}

#[derive(Clone)]
struct LastRow;

impl<B: Backend> Alteration<B> for LastRow {
    fn linear(
        &self,
        inner: &B,
        x: &B::Tensor,
        weight: &B::Linear,
        epilogue: Epilogue<'_, B::Tensor>,
    ) -> Outcome<B> {
        let product = inner.linear(x, weight, epilogue)?;
        let rows = product.rows();
        let is_lost = |row: usize| !rows.is_multiple_of(32) && row + 1 == rows;
        mapped(inner, &product, |row, _, value| if is_lost(row) { 0.0 } else { value })
    }
}

#[derive(Clone)]
struct SilentBf16;

impl<B: Backend> Alteration<B> for SilentBf16 {
    fn linear(
        &self,
        inner: &B,
        x: &B::Tensor,
        weight: &B::Linear,
        epilogue: Epilogue<'_, B::Tensor>,
    ) -> Outcome<B> {
        let product = inner.linear(x, weight, epilogue)?;
        // Round to nearest, ties to even, on the upper sixteen bits.
        mapped(inner, &product, |_, _, value| {
            let bits = value.to_bits();
            f32::from_bits((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff_0000)
        })
    }
}

#[derive(Clone)]
struct Unrepeatable(Arc<AtomicU32>);

impl<B: Backend> Alteration<B> for Unrepeatable {
    fn linear(
        &self,
        inner: &B,
        x: &B::Tensor,
        weight: &B::Linear,
        epilogue: Epilogue<'_, B::Tensor>,
    ) -> Outcome<B> {
        let product = inner.linear(x, weight, epilogue)?;
        let flips = self.0.fetch_add(1, Ordering::Relaxed).is_multiple_of(3);
        mapped(inner, &product, |row, col, value| {
            let is_first = (row, col) == (0, 0);
            if flips && is_first { f32::from_bits(value.to_bits() ^ 1) } else { value }
        })
    }
}
