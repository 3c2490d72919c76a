//! The language model's layers over the prefix.

use super::{GatedMlp, Heads, KeyValue, gated_mlp, split};
use crate::backend::{AttentionMask, Backend, BackendError, Epilogue};

/// One language-model layer.
#[derive(Debug)]
pub struct TextLayer<T, L> {
    /// Gain of the norm before attention, `[1, width]`.
    pub norm: T,
    /// Fused query, key and value projections; only key and value where `output` is `None`.
    pub qkv: L,
    /// What follows attention. `None` for the last layer anything reads: only its keys and values matter.
    pub output: Option<TextOutput<T, L>>,
    /// Attention heads.
    pub heads: Heads,
    /// Epsilon of the norm.
    pub eps: f32,
}

/// Output projection and MLP of a [`TextLayer`].
#[derive(Debug)]
pub struct TextOutput<T, L> {
    /// Output projection.
    pub projection: L,
    /// The MLP after it.
    pub mlp: GatedMlp<T, L>,
}

/// What a language-model layer leaves behind.
#[derive(Debug)]
pub struct TextLayerOutput<T> {
    /// Rotated keys, and values.
    pub kv: KeyValue<T>,
    /// The new residual stream; `None` after the last layer anything reads.
    pub residual: Option<T>,
}

/// The composed form of [`Backend::text_layer`].
pub fn text_layer<B: Backend>(
    backend: &B,
    layer: &TextLayer<B::Tensor, B::Linear>,
    x: &B::Tensor,
    cos: &B::Tensor,
    sin: &B::Tensor,
    mask: &B::Mask,
) -> Result<TextLayerOutput<B::Tensor>, BackendError> {
    let y = backend.rms_norm(x, &layer.norm, layer.eps)?;
    let fused = backend.linear(&y, &layer.qkv, Epilogue::NONE)?;
    let Some(output) = &layer.output else {
        let [key, value] = split(backend, &fused, [layer.heads.kv_width(); 2])?;
        let kv = KeyValue { key: backend.rope(&key, cos, sin)?, value };
        return Ok(TextLayerOutput { kv, residual: None });
    };
    let [q, key, value] = split(backend, &fused, layer.heads.qkv_widths())?;
    let q = backend.rope(&q, cos, sin)?;
    let kv = KeyValue { key: backend.rope(&key, cos, sin)?, value };
    let attended = backend.attention(&q, &[&kv], Some(mask), layer.heads.shape(mask.batch()))?;
    let x = backend.linear(&attended, &output.projection, Epilogue::residual(x))?;
    let x = gated_mlp(backend, &output.mlp, &x)?;
    Ok(TextLayerOutput { kv, residual: Some(x) })
}
