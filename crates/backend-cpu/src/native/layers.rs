//! Whole layers without detours through memory: norms while packing, activations and residuals while storing, attention
//! straight into the next product's operand.
//!
//! The composed forms in [`smolvla_core::graph`] are their oracles.

use std::sync::OnceLock;

use smolvla_core::BackendError;
use smolvla_core::backend::{Activation, AttentionMask, AttentionShape, BackendErrorKind, Matrix, Prepared};
use smolvla_core::graph::{
    DenoiseContext, ExpertAttentionWeights, ExpertLayer, GatedMlp, Heads, KeyValue, RotaryTable, TextLayer,
    TextLayerOutput, VisionLayer,
};

use super::attention::{
    HeadColumns, MAX_HEAD_DIM, PackedSegment, Rotary, Segment, attend, packs_heads, rope,
};
use super::elementwise;
use super::engine::Engine;
use super::mask::Mask;
use super::memory::Buffer;
use super::product::{Finish, Target, product};
use super::rows::{Geometry, Norm, Rows};
use super::tensor::Tensor;
use super::weights::{Operand, Weights};

/// `finish(norm(x)·Wᵀ + bias)` as a matrix.
pub(crate) fn linear(
    engine: &Engine,
    x: &[f32],
    norm: Norm<'_>,
    weights: &Weights,
    finish: Finish<'_>,
) -> Tensor {
    linear_of(engine, &packed(engine, x, norm, weights), weights, finish)
}

/// `x` as the left operand of `weights`.
fn packed(engine: &Engine, x: &[f32], norm: Norm<'_>, weights: &Weights) -> Rows {
    Rows::pack(&engine.arena, &engine.pool, engine.isa, weights.operand(), x, weights.inputs(), norm)
}

fn linear_of(engine: &Engine, rows: &Rows, weights: &Weights, finish: Finish<'_>) -> Tensor {
    let (count, width) = (rows.geometry.rows, weights.outputs_stored(finish.gated));
    let mut out = engine.arena.take::<f32>(count * width);
    product(engine, rows, weights, finish, Target::Matrix(out.shared(), width));
    Tensor::new(out, count, width, arithmetic(weights))
}

/// A product as the left operand of the next one, `next`.
fn linear_into(engine: &Engine, rows: &Rows, weights: &Weights, finish: Finish<'_>, next: &Weights) -> Rows {
    if next.operand() == Operand::Int8 {
        // A row's scale is known when the whole row is.
        return packed(engine, linear_of(engine, rows, weights, finish).values(), Norm::None, next);
    }
    let geometry = Geometry::new(engine.isa, next.operand(), rows.geometry.rows, next.inputs());
    let mut out = Rows::take(&engine.arena, geometry);
    product(engine, rows, weights, finish, Target::Packed(out.shared(), geometry));
    out
}

/// In what attention over a layer's products is computed.
fn arithmetic(weights: &Weights) -> Operand {
    match weights.operand() {
        Operand::F32 => Operand::F32,
        Operand::Bf16 | Operand::Int8 => Operand::Bf16,
    }
}

/// Attention straight into the left operand of the output projection, `next`.
#[expect(clippy::too_many_arguments, reason = "an attention is its operands")]
fn attend_into(
    engine: &Engine,
    operand: Operand,
    shape: &AttentionShape,
    queries: HeadColumns<'_>,
    rotary: Option<Rotary<'_>>,
    segments: &[Segment<'_>],
    mask: Option<&Mask>,
    next: &Weights,
) -> Rows {
    let rows = queries.data.len() / queries.stride;
    let width = next.inputs();
    if next.operand() == Operand::Int8 || !packs_heads(shape.head_dim) {
        let mut out = engine.arena.take::<f32>(rows * width);
        let target = Target::Matrix(out.shared(), width);
        attend(engine, operand, shape, queries, rotary, segments, mask, target);
        return packed(engine, out.as_slice(), Norm::None, next);
    }
    let geometry = Geometry::new(engine.isa, next.operand(), rows, width);
    let mut out = Rows::take(&engine.arena, geometry);
    let target = Target::Packed(out.shared(), geometry);
    attend(engine, operand, shape, queries, rotary, segments, mask, target);
    out
}

/// Attention over segments that are tensors; what they look like packed stays with them.
#[expect(clippy::too_many_arguments, reason = "an attention is its operands")]
pub(crate) fn attend_segments(
    engine: &Engine,
    operand: Operand,
    shape: &AttentionShape,
    queries: HeadColumns<'_>,
    rotary: Option<Rotary<'_>>,
    segments: &[&KeyValue<Tensor>],
    mask: Option<&Mask>,
    target: Target,
) {
    let packed: Vec<_> =
        segments.iter().map(|segment| PackedPair::of(engine, operand, shape, segment)).collect();
    let packed: Vec<_> = packed.iter().map(PackedPair::segment).collect();
    attend(engine, operand, shape, queries, rotary, &packed, mask, target);
}

/// Keys and values, packed before or for this once.
struct PackedPair<'a> {
    keys: Kept<'a>,
    values: Kept<'a>,
}

enum Kept<'a> {
    Kept(&'a PackedSegment),
    Once(PackedSegment),
}

impl Kept<'_> {
    fn get(&self) -> &PackedSegment {
        match self {
            Self::Kept(packed) => packed,
            Self::Once(packed) => packed,
        }
    }
}

impl<'a> PackedPair<'a> {
    /// What is packed stays with the tensors.
    fn of(engine: &Engine, operand: Operand, shape: &AttentionShape, segment: &'a KeyValue<Tensor>) -> Self {
        let keep = |slot: &'a OnceLock<PackedSegment>, pack: &dyn Fn() -> PackedSegment| {
            let kept = slot.get_or_init(pack);
            if kept.fits(operand, shape) { Kept::Kept(kept) } else { Kept::Once(pack()) }
        };
        let (key, value) = (&segment.key, &segment.value);
        Self {
            keys: keep(&key.keys, &|| PackedSegment::keys(engine, operand, shape, whole(key), None)),
            values: keep(&value.values, &|| PackedSegment::values(engine, operand, shape, whole(value))),
        }
    }

    fn segment(&self) -> Segment<'_> {
        (self.keys.get(), self.values.get())
    }
}

/// A matrix whose columns are heads and nothing else.
fn whole(x: &Tensor) -> HeadColumns<'_> {
    HeadColumns { data: x.values(), stride: x.cols(), start: 0 }
}

/// One SigLIP block.
pub(crate) fn vision_layer(
    engine: &Engine,
    layer: &VisionLayer<Tensor, Weights>,
    x: &Tensor,
    images: usize,
) -> Result<Tensor, BackendError> {
    let shape = layer.heads.shape(images);
    check_head(&shape)?;
    let norm1 = Norm::Layer(layer.norm1.0.values(), layer.norm1.1.values(), layer.eps);
    let qkv = linear(engine, x.values(), norm1, &layer.qkv, Finish::default());
    let operand = arithmetic(&layer.qkv);
    let [q, k, v] = fused_columns(&qkv, layer.heads);
    let keys = PackedSegment::keys(engine, operand, &shape, k, None);
    let values = PackedSegment::values(engine, operand, &shape, v);
    let attended = attend_into(engine, operand, &shape, q, None, &[(&keys, &values)], None, &layer.output);
    drop((keys, values, qkv));
    let x = linear_of(engine, &attended, &layer.output, residual(x));
    drop(attended);

    let norm2 = Norm::Layer(layer.norm2.0.values(), layer.norm2.1.values(), layer.eps);
    let rows = packed(engine, x.values(), norm2, &layer.fc1);
    let gelu = Finish { activation: Some(Activation::GeluTanh), ..Finish::default() };
    let rows = linear_into(engine, &rows, &layer.fc1, gelu, &layer.fc2);
    Ok(linear_of(engine, &rows, &layer.fc2, residual(&x)))
}

/// One language-model layer over the prefix.
pub(crate) fn text_layer(
    engine: &Engine,
    layer: &TextLayer<Tensor, Weights>,
    x: &Tensor,
    cos: &Tensor,
    sin: &Tensor,
    mask: &Mask,
) -> Result<TextLayerOutput<Tensor>, BackendError> {
    let shape = layer.heads.shape(mask.batch());
    check_head(&shape)?;
    let rotary = Rotary { cos: cos.values(), sin: sin.values() };
    let norm = Norm::Rms(layer.norm.values(), layer.eps);
    let fused = linear(engine, x.values(), norm, &layer.qkv, Finish::default());
    let operand = arithmetic(&layer.qkv);
    let kv_width = layer.heads.kv_width();
    let start = fused.cols() - 2 * kv_width;
    let columns = |start| HeadColumns { data: fused.values(), stride: fused.cols(), start };

    let mut key = engine.arena.take::<f32>(x.rows() * kv_width);
    rope(engine, columns(start), layer.heads.kv, layer.heads.dim, rotary, &mut key);
    let mut value = engine.arena.take::<f32>(x.rows() * kv_width);
    elementwise::columns(fused.values(), fused.cols(), start + kv_width, kv_width, value.as_mut_slice());
    let tensor = |data: Buffer| Tensor::new(data, x.rows(), kv_width, operand);
    let kv = KeyValue { key: tensor(key), value: tensor(value) };
    let Some(output) = &layer.output else {
        return Ok(TextLayerOutput { kv, residual: None });
    };

    let attended = {
        // Not kept with the tensors: the expert may want them in another precision.
        let keys = PackedSegment::keys(engine, operand, &shape, whole(&kv.key), None);
        let values = PackedSegment::values(engine, operand, &shape, whole(&kv.value));
        let next = &output.projection;
        attend_into(engine, operand, &shape, columns(0), Some(rotary), &[(&keys, &values)], Some(mask), next)
    };
    let x = linear_of(engine, &attended, &output.projection, residual(x));
    let x = gated_mlp(engine, &output.mlp, &x);
    Ok(TextLayerOutput { kv, residual: Some(x) })
}

/// One expert layer in one denoising step.
pub(crate) fn expert_layer(
    engine: &Engine,
    layer: &ExpertLayer<Tensor, Weights>,
    prefix: &KeyValue<Tensor>,
    context: &DenoiseContext<Tensor, Mask>,
    x: &Tensor,
) -> Result<Tensor, BackendError> {
    let shape = layer.heads.shape(context.batch);
    check_head(&shape)?;
    let norm = Norm::Rms(layer.norm.values(), layer.eps);
    let next = &layer.output;
    let attended = match &layer.attention {
        ExpertAttentionWeights::SelfAttention { qkv } => {
            let fused = linear(engine, x.values(), norm, qkv, Finish::default());
            let operand = arithmetic(qkv);
            let rotary = rotary_of(&context.self_rotary);
            let [q, k, v] = fused_columns(&fused, layer.heads);
            let keys = PackedSegment::keys(engine, operand, &shape, k, Some(rotary));
            let values = PackedSegment::values(engine, operand, &shape, v);
            let prefix = PackedPair::of(engine, operand, &shape, prefix);
            let segments = [prefix.segment(), (&keys, &values)];
            let mask = Some(&context.self_mask);
            attend_into(engine, operand, &shape, q, Some(rotary), &segments, mask, next)
        }
        ExpertAttentionWeights::CrossAttention { query, .. } => {
            let q = linear(engine, x.values(), norm, query, Finish::default());
            let operand = arithmetic(query);
            let rotary = rotary_of(&context.cross_rotary);
            let columns = whole(&q);
            let prefix = PackedPair::of(engine, operand, &shape, prefix);
            let mask = context.cross_mask.as_ref();
            attend_into(engine, operand, &shape, columns, Some(rotary), &[prefix.segment()], mask, next)
        }
    };
    let x = linear_of(engine, &attended, &layer.output, residual(x));
    Ok(gated_mlp(engine, &layer.mlp, &x))
}

fn gated_mlp(engine: &Engine, mlp: &GatedMlp<Tensor, Weights>, x: &Tensor) -> Tensor {
    let rows = packed(engine, x.values(), Norm::Rms(mlp.norm.values(), mlp.eps), &mlp.gate_up);
    let rows = if mlp.gate_up.paired() {
        let gated = Finish { gated: true, ..Finish::default() };
        linear_into(engine, &rows, &mlp.gate_up, gated, &mlp.down)
    } else {
        let gate_up = linear_of(engine, &rows, &mlp.gate_up, Finish::default());
        let width = gate_up.cols() / 2;
        let mut gated = engine.arena.take::<f32>(gate_up.rows() * width);
        elementwise::silu_mul(engine, gate_up.values(), width, &mut gated);
        packed(engine, gated.as_slice(), Norm::None, &mlp.down)
    };
    linear_of(engine, &rows, &mlp.down, residual(x))
}

fn residual(x: &Tensor) -> Finish<'_> {
    Finish { residual: Some(x.values()), ..Finish::default() }
}

/// Queries, keys and values in the columns of a fused product.
fn fused_columns(fused: &Tensor, heads: Heads) -> [HeadColumns<'_>; 3] {
    let starts = [0, heads.query_width(), heads.query_width() + heads.kv_width()];
    starts.map(|start| HeadColumns { data: fused.values(), stride: fused.cols(), start })
}

fn rotary_of(table: &RotaryTable<Tensor>) -> Rotary<'_> {
    Rotary { cos: table.cos.values(), sin: table.sin.values() }
}

/// Refuses heads that the engine's buffers do not hold.
pub(crate) fn check_head(shape: &AttentionShape) -> Result<(), BackendError> {
    if shape.head_dim > MAX_HEAD_DIM { Err(head_too_wide("attention", shape.head_dim)) } else { Ok(()) }
}

pub(crate) fn head_too_wide(op: &'static str, head_dim: usize) -> BackendError {
    let message = format!("heads of {head_dim} columns; this engine takes at most {MAX_HEAD_DIM}");
    BackendError::new("cpu", op, BackendErrorKind::Unsupported, message)
}
