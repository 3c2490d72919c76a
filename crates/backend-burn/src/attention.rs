//! Attention composed from Burn's matrix products and softmax.

use burn::tensor::activation::softmax;
use burn::tensor::{Bool, Tensor};
use smolvla_core::backend::AttentionShape;

/// Joins the tokens of each observation: parts `[batch·tokens_i, cols] → [batch, Σ tokens_i, cols]`.
pub(crate) fn joined(parts: impl ExactSizeIterator<Item = Tensor<2>>, batch: usize) -> Tensor<3> {
    let mut parts: Vec<Tensor<3>> = parts
        .map(|part| {
            let [rows, cols] = part.dims();
            part.reshape([batch, rows / batch, cols])
        })
        .collect();
    if parts.len() == 1 { parts.remove(0) } else { Tensor::cat(parts, 1) }
}

/// `q: [batch·queries, heads·head_dim]`, `key`, `value`: `[batch, keys, kv_heads·head_dim]` → as `q`.
///
/// The query heads that share a key/value head are stacked along the queries, so that keys and values are
/// never repeated. Masked scores become the lowest finite number, as in LeRobot.
pub(crate) fn attention(
    q: Tensor<2>,
    key: Tensor<3>,
    value: Tensor<3>,
    forbidden: Option<Tensor<4, Bool>>,
    shape: AttentionShape,
) -> Tensor<2> {
    let AttentionShape { batch, heads, kv_heads, head_dim, scale } = shape;
    let [rows, width] = q.dims();
    let [_, keys, _] = key.dims();
    let queries = rows / batch;
    let group = heads / kv_heads;

    // Scaling the queries rather than the scores saves a pass over the largest tensor of the model.
    let q = q.mul_scalar(scale).reshape([batch, queries, heads, head_dim]).swap_dims(1, 2);
    let q = q.reshape([batch, kv_heads, group * queries, head_dim]);
    let key = key.reshape([batch, keys, kv_heads, head_dim]).permute([0, 2, 3, 1]);
    let value = value.reshape([batch, keys, kv_heads, head_dim]).swap_dims(1, 2);

    let mut scores = q.matmul(key);
    if let Some(forbidden) = forbidden {
        let by_head = scores.reshape([batch, heads, queries, keys]);
        let by_head = by_head.mask_fill(forbidden.expand([batch, heads, queries, keys]), f32::MIN);
        scores = by_head.reshape([batch, kv_heads, group * queries, keys]);
    }
    let attended = softmax(scores, 3).matmul(value);
    attended.reshape([batch, heads, queries, head_dim]).swap_dims(1, 2).reshape([rows, width])
}
