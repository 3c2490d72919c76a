//! What SmolVLA computes, written once over [`Backend`].
//!
//! An observation flows through [`Model::run`]: patches → vision tower → pixel shuffle and connector →
//! prefix (images, instruction, state) → language-model prefill, which leaves keys and values behind →
//! denoising steps of the action expert over those. The layers themselves ([`vision_layer`], [`text_layer`],
//! [`expert_layer`], [`denoise_step`]) are free functions: they are the default bodies of the backend's
//! provided methods and stay the oracle for a device that overrides one.
//!
//! Nothing here is computed that no action depends on: the language model stops at the keys and values of
//! the last layer the expert reads, and whatever does not change between denoising steps is computed once a
//! chunk (keys and values of cross-attention layers, masks, rotary tables) or once a number of steps (time
//! embeddings).

mod expert;
mod load;
mod model;
mod prefix;
mod rotary;
mod site;
mod text;
mod vision;

pub use expert::{
    DenoiseContext, Expert, ExpertAttentionWeights, ExpertLayer, Tap, TimeEmbeddings, denoise_step,
    expert_layer,
};
pub use load::{LoadProgress, Parameters, layer_paths, load};
pub use model::{Model, ModelInput, ModelOutput};
pub use prefix::{CameraInput, Prefix, PrefixLayout};
pub use rotary::RotaryTable;
pub use site::{Observer, Silent, Site, Stage};
pub use text::{TextLayer, TextLayerOutput, TextOutput, text_layer};
pub use vision::{Patches, Vision, VisionLayer, position_ids, vision_layer};

use crate::backend::{Activation, AttentionShape, Backend, BackendError, Epilogue};

/// Keys and values of a sequence of tokens, `[batch·tokens, kv_heads·head_dim]` each; keys are already rotated.
#[derive(Debug)]
pub struct KeyValue<T> {
    /// Keys.
    pub key: T,
    /// Values.
    pub value: T,
}

/// How a layer's width is divided into attention heads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    /// Query heads.
    pub query: usize,
    /// Key/value heads.
    pub kv: usize,
    /// Width of a head.
    pub dim: usize,
}

impl Heads {
    /// Width of all queries.
    pub fn query_width(self) -> usize {
        self.query * self.dim
    }

    /// Width of all keys, and of all values.
    pub fn kv_width(self) -> usize {
        self.kv * self.dim
    }

    /// Widths of the three parts of a fused QKV product.
    pub fn qkv_widths(self) -> [usize; 3] {
        [self.query_width(), self.kv_width(), self.kv_width()]
    }

    /// The attention these heads perform over a batch.
    pub fn shape(self, batch: usize) -> AttentionShape {
        AttentionShape {
            batch,
            heads: self.query,
            kv_heads: self.kv,
            head_dim: self.dim,
            scale: (self.dim as f64).powf(-0.5) as f32,
        }
    }
}

/// `x + down(silu(gate(y))·up(y))` with `y = rms_norm(x)`: the MLP of language-model and expert layers.
#[derive(Debug)]
pub struct GatedMlp<T, L> {
    /// Gain of the norm before it, `[1, width]`.
    pub norm: T,
    /// Gate and up projections stacked, `width → 2·intermediate`.
    pub gate_up: L,
    /// Down projection, `intermediate → width`.
    pub down: L,
    /// Epsilon of the norm.
    pub eps: f32,
}

/// Runs a [`GatedMlp`] with its residual: `x: [rows, width] → the same`.
pub fn gated_mlp<B: Backend>(
    backend: &B,
    mlp: &GatedMlp<B::Tensor, B::Linear>,
    x: &B::Tensor,
) -> Result<B::Tensor, BackendError> {
    let y = backend.rms_norm(x, &mlp.norm, mlp.eps)?;
    let gate_up = backend.linear(&y, &mlp.gate_up, Epilogue::NONE)?;
    backend.linear(&backend.silu_mul(&gate_up)?, &mlp.down, Epilogue::residual(x))
}

/// Splits a fused product into exactly `N` parts.
fn split<B: Backend, const N: usize>(
    backend: &B,
    x: &B::Tensor,
    widths: [usize; N],
) -> Result<[B::Tensor; N], BackendError> {
    backend.split_cols(x, &widths)?.try_into().map_err(|parts: Vec<B::Tensor>| {
        BackendError::new(
            backend.capabilities().backend,
            "split_cols",
            crate::backend::BackendErrorKind::Other,
            format!("returned {} parts, {N} were asked for", parts.len()),
        )
    })
}

/// Linear layer followed by an activation.
fn linear_activated<B: Backend>(
    backend: &B,
    x: &B::Tensor,
    weight: &B::Linear,
    activation: Activation,
) -> Result<B::Tensor, BackendError> {
    backend.linear(x, weight, Epilogue::activation(activation))
}
