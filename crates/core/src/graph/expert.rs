//! The action expert: one denoising step, and what is fixed across steps.

use super::rotary::RotaryTable;
use super::{GatedMlp, Heads, KeyValue, Site, gated_mlp, split};
use crate::backend::{Activation, Backend, BackendError, Epilogue};

/// The action expert with its input and output projections.
#[derive(Debug)]
pub struct Expert<T, L> {
    /// Embeds noisy actions, `action width → width`.
    pub action_in: L,
    /// The half of the time MLP's first layer that reads the embedded actions, without bias.
    pub time_in_actions: L,
    /// The half that reads the time embedding, with the layer's bias.
    pub time_in_time: L,
    /// The time MLP's second layer.
    pub time_out: L,
    /// The layers in order of execution.
    pub layers: Vec<ExpertLayer<T, L>>,
    /// Gain of the norm after the layers, `[1, width]`.
    pub norm: T,
    /// Epsilon of that norm.
    pub eps: f32,
    /// Velocity head, `width → action width`.
    pub action_out: L,
}

/// One layer of the expert.
#[derive(Debug)]
pub struct ExpertLayer<T, L> {
    /// The language-model layer whose keys and values it reads.
    pub text_layer: usize,
    /// Gain of the norm before attention, `[1, width]`.
    pub norm: T,
    /// What it attends to, with the projections for that.
    pub attention: ExpertAttentionWeights<L>,
    /// Output projection, `heads·head_dim → width`.
    pub output: L,
    /// The MLP after it.
    pub mlp: GatedMlp<T, L>,
    /// Attention heads.
    pub heads: Heads,
    /// Epsilon of the norm.
    pub eps: f32,
}

/// Projections of an expert layer's attention.
#[derive(Debug)]
pub enum ExpertAttentionWeights<L> {
    /// Over the prefix and, causally, the action tokens.
    SelfAttention {
        /// Fused query, key and value projections of the action tokens.
        qkv: L,
    },
    /// Over the prefix only.
    CrossAttention {
        /// Query projection of the action tokens.
        query: L,
        /// Projection of the prefix's cached keys, `kv width → kv width`. Applied once a chunk.
        key: L,
        /// Projection of the prefix's cached values.
        value: L,
    },
}

/// Everything a denoising step reads that no step changes.
#[derive(Debug)]
pub struct DenoiseContext<T, M> {
    /// Observations in the batch.
    pub batch: usize,
    /// Keys and values of the prefix for each of the expert's layers; projected for cross-attention layers.
    pub prefix: Vec<KeyValue<T>>,
    /// Which prefix and action tokens an action token may attend, `[batch, chunk, prefix + chunk]`.
    pub self_mask: M,
    /// Which prefix tokens an action token may attend, `[batch, chunk, prefix]`; `None`: all.
    pub cross_mask: Option<M>,
    /// Positions after the prefix, for self-attention layers: `[batch·chunk, head_dim/2]`.
    pub self_rotary: RotaryTable<T>,
    /// Positions from zero, for cross-attention layers: `[chunk, head_dim/2]`.
    pub cross_rotary: RotaryTable<T>,
    /// Contribution of the time to the time MLP's first layer, of each step.
    pub time: std::sync::Arc<TimeEmbeddings<T>>,
}

/// `time_in_time` applied to the time embedding of each step, `[1, width]` each. Depends on the number of
/// steps alone.
#[derive(Debug)]
pub struct TimeEmbeddings<T> {
    /// One row a step.
    pub steps: Vec<T>,
}

/// Sees values inside a denoising step, and returns what the step goes on with.
pub type Tap<'a, T> = dyn FnMut(Site, T) -> Result<T, BackendError> + 'a;

/// The composed form of [`Backend::expert_layer`].
pub fn expert_layer<B: Backend>(
    backend: &B,
    layer: &ExpertLayer<B::Tensor, B::Linear>,
    prefix: &KeyValue<B::Tensor>,
    context: &DenoiseContext<B::Tensor, B::Mask>,
    x: &B::Tensor,
) -> Result<B::Tensor, BackendError> {
    let shape = layer.heads.shape(context.batch);
    let y = backend.rms_norm(x, &layer.norm, layer.eps)?;
    let attended = match &layer.attention {
        ExpertAttentionWeights::SelfAttention { qkv } => {
            let fused = backend.linear(&y, qkv, Epilogue::NONE)?;
            let [q, key, value] = split(backend, &fused, layer.heads.qkv_widths())?;
            let RotaryTable { cos, sin } = &context.self_rotary;
            let q = backend.rope(&q, cos, sin)?;
            let own = KeyValue { key: backend.rope(&key, cos, sin)?, value };
            backend.attention(&q, &[prefix, &own], Some(&context.self_mask), shape)?
        }
        ExpertAttentionWeights::CrossAttention { query, .. } => {
            let q = backend.linear(&y, query, Epilogue::NONE)?;
            let q = backend.rope(&q, &context.cross_rotary.cos, &context.cross_rotary.sin)?;
            backend.attention(&q, &[prefix], context.cross_mask.as_ref(), shape)?
        }
    };
    let x = backend.linear(&attended, &layer.output, Epilogue::residual(x))?;
    gated_mlp(backend, &layer.mlp, &x)
}

/// The composed form of [`Backend::denoise_step`]. `tap` sees the suffix and each layer's output, and
/// returns what to go on with.
pub fn denoise_step<B: Backend>(
    backend: &B,
    expert: &Expert<B::Tensor, B::Linear>,
    context: &DenoiseContext<B::Tensor, B::Mask>,
    x_t: &B::Tensor,
    step: usize,
    tap: &mut Tap<'_, B::Tensor>,
) -> Result<B::Tensor, BackendError> {
    // LeRobot multiplies [actions, time] by one matrix; the time half is the same for every token and known
    // before the loop, so only the action half is left here.
    let actions = backend.linear(x_t, &expert.action_in, Epilogue::NONE)?;
    let time = Epilogue::residual(&context.time.steps[step]);
    let hidden = backend.linear(&actions, &expert.time_in_actions, time)?;
    let hidden = backend.activate(&hidden, Activation::Silu)?;
    let x = backend.linear(&hidden, &expert.time_out, Epilogue::NONE)?;
    let mut x = tap(Site::Suffix { step }, x)?;
    for (layer, prefix) in expert.layers.iter().zip(&context.prefix) {
        x = backend.expert_layer(layer, prefix, context, &x)?;
        x = tap(Site::ExpertLayer { step, layer: layer.text_layer }, x)?;
    }
    let x = backend.rms_norm(&x, &expert.norm, expert.eps)?;
    backend.linear(&x, &expert.action_out, Epilogue::NONE)
}
