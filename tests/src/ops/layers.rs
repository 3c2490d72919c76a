//! The provided methods of [`Backend`] with made-up weights.

use std::sync::Arc;

use smolvla_core::backend::{Backend, BackendError, LayerOp};
use smolvla_core::graph::{
    self, DenoiseContext, Expert, ExpertAttentionWeights, ExpertLayer, GatedMlp, Heads, KeyValue,
    RotaryTable, TextLayer, TextOutput, TimeEmbeddings, VisionLayer,
};

use super::Part;
use super::inputs::{Inputs, Kind, Weight};

/// Which form of a layer runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// The backend's method.
    Own,
    /// The free function of [`graph`], over the backend's operations.
    Composed,
}

/// One layer, or a denoising step, with the sizes of its arguments.
#[derive(Clone, Debug)]
pub(super) enum LayerCall {
    Vision {
        sizes: Sizes,
        images: usize,
    },
    Text {
        sizes: Sizes,
        batch: usize,
        /// Whether it is the last layer anything reads, of which only keys and values remain.
        is_last: bool,
    },
    Expert {
        sizes: Sizes,
        batch: usize,
        attends: Attends,
    },
    Denoise {
        sizes: Sizes,
        batch: usize,
        step: usize,
    },
}

/// Sizes of a layer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub(super) width: usize,
    pub(super) intermediate: usize,
    pub(super) heads: Heads,
    /// Tokens of an image, a prefix or a chunk.
    pub(super) tokens: usize,
}

/// What an expert layer attends to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Attends {
    /// The prefix and the action tokens.
    Itself,
    /// The whole prefix.
    Prefix,
    /// The part of the prefix that a mask allows.
    MaskedPrefix,
}

/// Tokens of the prefix that expert layers read.
const PREFIX: usize = 13;
/// Numbers of an action.
const ACTION_WIDTH: usize = 7;
/// Denoising steps that have a time embedding.
const STEPS: usize = 3;
const VISION_EPS: f32 = 1e-6;
const EPS: f32 = 1e-5;

impl LayerCall {
    /// The method of [`Backend`].
    pub(super) fn op(&self) -> &'static str {
        match self {
            Self::Vision { .. } => "vision_layer",
            Self::Text { .. } => "text_layer",
            Self::Expert { .. } => "expert_layer",
            Self::Denoise { .. } => "denoise_step",
        }
    }

    /// The same, as [`Backend::overrides`] is asked.
    pub(super) fn layer_op(&self) -> LayerOp {
        match self {
            Self::Vision { .. } => LayerOp::VisionLayer,
            Self::Text { .. } => LayerOp::TextLayer,
            Self::Expert { .. } => LayerOp::ExpertLayer,
            Self::Denoise { .. } => LayerOp::DenoiseStep,
        }
    }

    /// The results on one backend.
    pub(super) fn run<B: Backend>(
        &self,
        kind: Kind,
        form: Form,
        inputs: &mut Inputs<'_, B>,
    ) -> Result<Vec<Part>, BackendError> {
        match *self {
            Self::Vision { sizes, images } => vision(sizes, images, kind, form, inputs),
            Self::Text { sizes, batch, is_last } => text(sizes, batch, is_last, kind, form, inputs),
            Self::Expert { sizes, batch, attends } => expert(sizes, batch, attends, kind, form, inputs),
            Self::Denoise { sizes, batch, step } => denoise(sizes, batch, step, kind, form, inputs),
        }
    }
}

fn vision<B: Backend>(
    sizes: Sizes,
    images: usize,
    kind: Kind,
    form: Form,
    inputs: &mut Inputs<'_, B>,
) -> Result<Vec<Part>, BackendError> {
    let Sizes { width, intermediate, heads, tokens } = sizes;
    let layer = VisionLayer {
        norm1: (inputs.gain(width)?, inputs.matrix(Kind::Normal, 1, width)?),
        qkv: inputs.linear(&Weight::new(width, &heads.qkv_widths()).with_bias())?,
        output: inputs.linear(&Weight::new(heads.query_width(), &[width]).with_bias())?,
        norm2: (inputs.gain(width)?, inputs.matrix(Kind::Normal, 1, width)?),
        fc1: inputs.linear(&Weight::new(width, &[intermediate]).with_bias())?,
        fc2: inputs.linear(&Weight::new(intermediate, &[width]).with_bias())?,
        heads,
        eps: VISION_EPS,
    };
    let x = inputs.matrix(kind, images * tokens, width)?;
    let arguments = [
        ("x", &x),
        ("gain of norm 1", &layer.norm1.0),
        ("bias of norm 1", &layer.norm1.1),
        ("gain of norm 2", &layer.norm2.0),
        ("bias of norm 2", &layer.norm2.1),
    ];
    inputs.call(arguments, |backend| match form {
        Form::Own => backend.vision_layer(&layer, &x, images),
        Form::Composed => graph::vision_layer(backend, &layer, &x, images),
    })
}

fn text<B: Backend>(
    sizes: Sizes,
    batch: usize,
    is_last: bool,
    kind: Kind,
    form: Form,
    inputs: &mut Inputs<'_, B>,
) -> Result<Vec<Part>, BackendError> {
    let Sizes { width, heads, tokens, .. } = sizes;
    let [query, key, value] = heads.qkv_widths();
    let stack: &[usize] = if is_last { &[key, value] } else { &[query, key, value] };
    let output = if is_last {
        None
    } else {
        let projection = inputs.linear(&Weight::new(query, &[width]))?;
        Some(TextOutput { projection, mlp: gated_mlp(sizes, inputs)? })
    };
    let layer = TextLayer {
        norm: inputs.gain(width)?,
        qkv: inputs.linear(&Weight::new(width, stack))?,
        output,
        heads,
        eps: EPS,
    };
    let RotaryTable { cos, sin } = rotary(inputs, (0..batch).flat_map(|_| 0..tokens), heads)?;
    // As LeRobot's: a block all attend, then causal; padding attends nothing and nobody attends it.
    let mask = inputs.mask(batch, tokens, tokens, |observation, query, key| {
        let valid = valid_tokens(tokens, observation);
        query < valid && key < valid && (key <= query || key < tokens / 2)
    })?;
    let x = inputs.matrix(kind, batch * tokens, width)?;
    let of_mlp = layer.output.iter().map(|output| ("gain of the MLP's norm", &output.mlp.norm));
    let arguments =
        [("x", &x), ("gain", &layer.norm), ("cos", &cos), ("sin", &sin)].into_iter().chain(of_mlp);
    inputs.calls(arguments, |backend| {
        let result = match form {
            Form::Own => backend.text_layer(&layer, &x, &cos, &sin, &mask)?,
            Form::Composed => graph::text_layer(backend, &layer, &x, &cos, &sin, &mask)?,
        };
        let KeyValue { key, value } = result.kv;
        let residual = result.residual.map(|residual| ("residual", residual));
        let parts = [("key", key), ("value", value)].into_iter().chain(residual);
        Ok(parts.map(|(name, part)| (name.to_owned(), part)).collect())
    })
}

fn expert<B: Backend>(
    sizes: Sizes,
    batch: usize,
    attends: Attends,
    kind: Kind,
    form: Form,
    inputs: &mut Inputs<'_, B>,
) -> Result<Vec<Part>, BackendError> {
    let layer = expert_layer(sizes, attends, inputs)?;
    let context = denoise_context(sizes, batch, &[attends], inputs)?;
    let x = inputs.matrix(kind, batch * sizes.tokens, sizes.width)?;
    let mut arguments = tensors(std::slice::from_ref(&layer), &context);
    arguments.push(("x".to_owned(), &x));
    inputs.call(arguments, |backend| match form {
        Form::Own => backend.expert_layer(&layer, &context.prefix[0], &context, &x),
        Form::Composed => graph::expert_layer(backend, &layer, &context.prefix[0], &context, &x),
    })
}

fn denoise<B: Backend>(
    sizes: Sizes,
    batch: usize,
    step: usize,
    kind: Kind,
    form: Form,
    inputs: &mut Inputs<'_, B>,
) -> Result<Vec<Part>, BackendError> {
    let layers = [Attends::Itself, Attends::MaskedPrefix];
    let width = sizes.width;
    let expert = Expert {
        action_in: inputs.linear(&Weight::new(ACTION_WIDTH, &[width]).with_bias())?,
        // The halves of one stored matrix `[width, 2·width]`.
        time_in_actions: inputs
            .linear(&Weight { around: Some([0, width]), ..Weight::new(width, &[width]) })?,
        time_in_time: inputs
            .linear(&Weight { around: Some([width, 0]), ..Weight::new(width, &[width]) }.with_bias())?,
        time_out: inputs.linear(&Weight::new(width, &[width]).with_bias())?,
        layers: layers
            .iter()
            .map(|attends| expert_layer(sizes, *attends, inputs))
            .collect::<Result<_, _>>()?,
        norm: inputs.gain(width)?,
        eps: EPS,
        action_out: inputs.linear(&Weight::new(width, &[ACTION_WIDTH]).with_bias())?,
    };
    let context = denoise_context(sizes, batch, &layers, inputs)?;
    let x_t = inputs.matrix(kind, batch * sizes.tokens, ACTION_WIDTH)?;
    let mut arguments = tensors(&expert.layers, &context);
    arguments.extend([("x_t".to_owned(), &x_t), ("gain of the last norm".to_owned(), &expert.norm)]);
    inputs.call(arguments, |backend| match form {
        Form::Own => backend.denoise_step(&expert, &context, &x_t, step),
        Form::Composed => graph::denoise_step(backend, &expert, &context, &x_t, step, &mut |_, x| Ok(x)),
    })
}

/// Every tensor that expert layers read, by name.
fn tensors<'t, T, L, M>(
    layers: &'t [ExpertLayer<T, L>],
    context: &'t DenoiseContext<T, M>,
) -> Vec<(String, &'t T)> {
    let mut tensors = vec![
        ("cos of self-attention".to_owned(), &context.self_rotary.cos),
        ("sin of self-attention".to_owned(), &context.self_rotary.sin),
        ("cos of cross-attention".to_owned(), &context.cross_rotary.cos),
        ("sin of cross-attention".to_owned(), &context.cross_rotary.sin),
    ];
    for (index, layer) in layers.iter().enumerate() {
        tensors.push((format!("gain of layer {index}"), &layer.norm));
        tensors.push((format!("gain of the MLP's norm of layer {index}"), &layer.mlp.norm));
    }
    for (index, prefix) in context.prefix.iter().enumerate() {
        tensors.push((format!("keys of prefix {index}"), &prefix.key));
        tensors.push((format!("values of prefix {index}"), &prefix.value));
    }
    for (index, step) in context.time.steps.iter().enumerate() {
        tensors.push((format!("time of step {index}"), step));
    }
    tensors
}

fn expert_layer<B: Backend>(
    sizes: Sizes,
    attends: Attends,
    inputs: &mut Inputs<'_, B>,
) -> Result<ExpertLayer<B::Tensor, B::Linear>, BackendError> {
    let Sizes { width, heads, .. } = sizes;
    let attention = match attends {
        Attends::Itself => {
            let qkv = inputs.linear(&Weight::new(width, &heads.qkv_widths()))?;
            ExpertAttentionWeights::SelfAttention { qkv }
        }
        Attends::Prefix | Attends::MaskedPrefix => ExpertAttentionWeights::CrossAttention {
            query: inputs.linear(&Weight::new(width, &[heads.query_width()]))?,
            key: inputs.linear(&Weight::new(heads.kv_width(), &[heads.kv_width()]))?,
            value: inputs.linear(&Weight::new(heads.kv_width(), &[heads.kv_width()]))?,
        },
    };
    Ok(ExpertLayer {
        text_layer: 0,
        norm: inputs.gain(width)?,
        attention,
        output: inputs.linear(&Weight::new(heads.query_width(), &[width]))?,
        mlp: gated_mlp(sizes, inputs)?,
        heads,
        eps: EPS,
    })
}

fn gated_mlp<B: Backend>(
    Sizes { width, intermediate, .. }: Sizes,
    inputs: &mut Inputs<'_, B>,
) -> Result<GatedMlp<B::Tensor, B::Linear>, BackendError> {
    Ok(GatedMlp {
        norm: inputs.gain(width)?,
        gate_up: inputs.linear(&Weight::new(width, &[intermediate; 2]))?,
        down: inputs.linear(&Weight::new(intermediate, &[width]))?,
        eps: EPS,
    })
}

fn denoise_context<B: Backend>(
    Sizes { width, heads, tokens, .. }: Sizes,
    batch: usize,
    layers: &[Attends],
    inputs: &mut Inputs<'_, B>,
) -> Result<DenoiseContext<B::Tensor, B::Mask>, BackendError> {
    let prefix = layers
        .iter()
        .map(|_| {
            Ok(KeyValue {
                key: inputs.matrix(Kind::Normal, batch * PREFIX, heads.kv_width())?,
                value: inputs.matrix(Kind::Normal, batch * PREFIX, heads.kv_width())?,
            })
        })
        .collect::<Result<Vec<_>, BackendError>>()?;
    let is_valid = |observation: usize, key: usize| key < valid_tokens(PREFIX, observation);
    let self_mask = inputs.mask(batch, tokens, PREFIX + tokens, |observation, query, key| {
        if key < PREFIX { is_valid(observation, key) } else { key - PREFIX <= query }
    })?;
    let cross_mask = layers
        .contains(&Attends::MaskedPrefix)
        .then(|| inputs.mask(batch, tokens, PREFIX, |observation, _, key| is_valid(observation, key)))
        .transpose()?;
    let after_prefix = (0..batch)
        .flat_map(|observation| (0..tokens).map(move |token| valid_tokens(PREFIX, observation) + token));
    let steps = (0..STEPS)
        .map(|_| inputs.matrix(Kind::Normal, 1, width))
        .collect::<Result<Vec<_>, BackendError>>()?;
    Ok(DenoiseContext {
        batch,
        prefix,
        self_mask,
        cross_mask,
        self_rotary: rotary(inputs, after_prefix, heads)?,
        cross_rotary: rotary(inputs, 0..tokens, heads)?,
        time: Arc::new(TimeEmbeddings { steps }),
    })
}

/// Tokens of an observation that are not padding: fewer in each one of a batch.
fn valid_tokens(tokens: usize, observation: usize) -> usize {
    tokens - 3 * observation
}

/// Cosines and sines of positions, `[positions, head_dim/2]` each.
fn rotary<B: Backend>(
    inputs: &Inputs<'_, B>,
    positions: impl Iterator<Item = usize>,
    heads: Heads,
) -> Result<RotaryTable<B::Tensor>, BackendError> {
    let half = heads.dim / 2;
    let angles: Vec<f32> = positions
        .flat_map(|position| {
            (0..half).map(move |pair| position as f32 / 10_000_f32.powf(pair as f32 / half as f32))
        })
        .collect();
    let table = |function: fn(f32) -> f32| {
        inputs.given(angles.iter().map(|angle| function(*angle)).collect(), angles.len() / half, half)
    };
    Ok(RotaryTable { cos: table(f32::cos)?, sin: table(f32::sin)? })
}
