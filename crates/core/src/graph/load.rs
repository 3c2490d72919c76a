//! Parameters from a checkpoint into a [`Model`].

use super::vision::VisionLayer;
use super::{
    Expert, ExpertAttentionWeights, ExpertLayer, GatedMlp, Heads, Model, TextLayer, TextOutput, Vision,
};
use crate::backend::{Backend, Precision};
use crate::config::{Architecture, ExpertAttention, ExpertSlot};
use crate::error::Result;
use crate::weights::{LinearSource, TensorView};

/// How far loading has come: layers prepared of all layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadProgress {
    /// Parts prepared so far.
    pub done: usize,
    /// Parts in all.
    pub total: usize,
}

/// Prepares every parameter that inference reads on `backend`.
///
/// `tensor` finds a parameter by its name in LeRobot's state dict; shapes are taken as checked against
/// `architecture` (see [`crate::checkpoint`]).
pub fn load<'a, B: Backend>(
    backend: B,
    architecture: &Architecture,
    precision: Precision,
    tensor: &dyn Fn(&str) -> Result<TensorView<'a>>,
    progress: &mut dyn FnMut(LoadProgress),
) -> Result<Model<B>> {
    let last_text_layer = architecture.expert.schedule.iter().rposition(Option::is_some).unwrap_or(0);
    let experts: Vec<(usize, ExpertSlot)> = architecture
        .expert
        .schedule
        .iter()
        .enumerate()
        .filter_map(|(text_layer, slot)| slot.map(|slot| (text_layer, slot)))
        .collect();
    let total = architecture.vision.layers + last_text_layer + 1 + experts.len() + 3;
    let mut done = 0;
    let mut advance = || {
        done += 1;
        progress(LoadProgress { done, total });
    };

    let loader = Loader { backend: &backend, precision, tensor };
    let vlm = "model.vlm_with_expert.vlm.model";
    let mut vision_layers = Vec::with_capacity(architecture.vision.layers);
    for index in 0..architecture.vision.layers {
        vision_layers
            .push(loader.vision_layer(architecture, &format!("{vlm}.vision_model.encoder.layers.{index}"))?);
        advance();
    }
    let vision = loader.vision(architecture, vlm, vision_layers)?;
    advance();
    let mut text = Vec::with_capacity(last_text_layer + 1);
    for index in 0..=last_text_layer {
        let prefix = format!("{vlm}.text_model.layers.{index}");
        text.push(loader.text_layer(architecture, &prefix, index == last_text_layer)?);
        advance();
    }
    let embeddings = backend.prepare_table(&LinearSource {
        name: "embed_tokens".to_owned(),
        weights: vec![tensor(&format!("{vlm}.text_model.embed_tokens.weight"))?],
        biases: Vec::new(),
    })?;
    let state = loader.linear("model.state_proj", true)?;
    advance();
    let mut expert_layers = Vec::with_capacity(experts.len());
    for (text_layer, slot) in experts {
        expert_layers.push(loader.expert_layer(architecture, text_layer, slot)?);
        advance();
    }
    let expert = loader.expert(architecture, expert_layers)?;
    advance();

    Ok(Model {
        architecture: architecture.clone(),
        vision,
        embeddings,
        state,
        text,
        expert,
        time: None,
        backend,
    })
}

/// Finds tensors and hands them to the backend.
struct Loader<'l, 'a, B> {
    backend: &'l B,
    precision: Precision,
    tensor: &'l dyn Fn(&str) -> Result<TensorView<'a>>,
}

impl<B: Backend> Loader<'_, '_, B> {
    fn vision(
        &self,
        architecture: &Architecture,
        vlm: &str,
        layers: Vec<VisionLayer<B::Tensor, B::Linear>>,
    ) -> Result<Vision<B::Tensor, B::Linear>> {
        let root = format!("{vlm}.vision_model");
        let positions = (self.tensor)(&format!("{root}.embeddings.position_embedding.weight"))?.to_f32();
        let side = architecture.vision.image_size / architecture.vision.patch_size;
        let usual = self.backend.upload(&positions, side * side, architecture.vision.hidden)?;
        Ok(Vision {
            patch_embedding: self.linear(&format!("{root}.embeddings.patch_embedding"), true)?,
            positions,
            usual_positions: (side, usual),
            layers,
            post_norm: self.layer_norm(&format!("{root}.post_layernorm"))?,
            connector: self.linear(&format!("{vlm}.connector.modality_projection.proj"), false)?,
        })
    }

    fn vision_layer(
        &self,
        architecture: &Architecture,
        prefix: &str,
    ) -> Result<VisionLayer<B::Tensor, B::Linear>> {
        let vision = &architecture.vision;
        let attention = format!("{prefix}.self_attn");
        Ok(VisionLayer {
            norm1: self.layer_norm(&format!("{prefix}.layer_norm1"))?,
            qkv: self.stacked(&attention, &["q_proj", "k_proj", "v_proj"], true)?,
            output: self.linear(&format!("{attention}.out_proj"), true)?,
            norm2: self.layer_norm(&format!("{prefix}.layer_norm2"))?,
            fc1: self.linear(&format!("{prefix}.mlp.fc1"), true)?,
            fc2: self.linear(&format!("{prefix}.mlp.fc2"), true)?,
            heads: Heads { query: vision.heads, kv: vision.heads, dim: vision.hidden / vision.heads },
            eps: vision.layer_norm_eps,
        })
    }

    fn text_layer(
        &self,
        architecture: &Architecture,
        prefix: &str,
        last: bool,
    ) -> Result<TextLayer<B::Tensor, B::Linear>> {
        let attention = format!("{prefix}.self_attn");
        let projections: &[&str] = if last { &["k_proj", "v_proj"] } else { &["q_proj", "k_proj", "v_proj"] };
        let output = if last {
            None
        } else {
            Some(TextOutput {
                projection: self.linear(&format!("{attention}.o_proj"), false)?,
                mlp: self.gated_mlp(architecture, prefix)?,
            })
        };
        Ok(TextLayer {
            norm: self.vector(&format!("{prefix}.input_layernorm.weight"))?,
            qkv: self.stacked(&attention, projections, false)?,
            output,
            heads: text_heads(architecture),
            eps: architecture.text.rms_norm_eps,
        })
    }

    fn expert(
        &self,
        architecture: &Architecture,
        layers: Vec<ExpertLayer<B::Tensor, B::Linear>>,
    ) -> Result<Expert<B::Tensor, B::Linear>> {
        let width = architecture.expert.hidden;
        let time_in = (self.tensor)("model.action_time_mlp_in.weight")?;
        let half = |name: &str, start, biases| {
            self.prepare(LinearSource {
                name: name.to_owned(),
                weights: vec![time_in.columns(start, width)],
                biases,
            })
        };
        Ok(Expert {
            action_in: self.linear("model.action_in_proj", true)?,
            time_in_actions: half("model.action_time_mlp_in (actions)", 0, Vec::new())?,
            time_in_time: half(
                "model.action_time_mlp_in (time)",
                width,
                vec![(self.tensor)("model.action_time_mlp_in.bias")?],
            )?,
            time_out: self.linear("model.action_time_mlp_out", true)?,
            layers,
            norm: self.vector("model.vlm_with_expert.lm_expert.norm.weight")?,
            eps: architecture.text.rms_norm_eps,
            action_out: self.linear("model.action_out_proj", true)?,
        })
    }

    fn expert_layer(
        &self,
        architecture: &Architecture,
        text_layer: usize,
        slot: ExpertSlot,
    ) -> Result<ExpertLayer<B::Tensor, B::Linear>> {
        let prefix = format!("model.vlm_with_expert.lm_expert.layers.{}", slot.index);
        let attention = format!("{prefix}.self_attn");
        let projections = match slot.kind {
            ExpertAttention::SelfAttention => ExpertAttentionWeights::SelfAttention {
                qkv: self.stacked(&attention, &["q_proj", "k_proj", "v_proj"], false)?,
            },
            ExpertAttention::CrossAttention => ExpertAttentionWeights::CrossAttention {
                query: self.linear(&format!("{attention}.q_proj"), false)?,
                key: self.linear(&format!("{attention}.k_proj"), false)?,
                value: self.linear(&format!("{attention}.v_proj"), false)?,
            },
        };
        Ok(ExpertLayer {
            text_layer,
            norm: self.vector(&format!("{prefix}.input_layernorm.weight"))?,
            attention: projections,
            output: self.linear(&format!("{attention}.o_proj"), false)?,
            mlp: self.gated_mlp(architecture, &prefix)?,
            heads: text_heads(architecture),
            eps: architecture.text.rms_norm_eps,
        })
    }

    fn gated_mlp(&self, architecture: &Architecture, prefix: &str) -> Result<GatedMlp<B::Tensor, B::Linear>> {
        Ok(GatedMlp {
            norm: self.vector(&format!("{prefix}.post_attention_layernorm.weight"))?,
            gate_up: self.stacked(&format!("{prefix}.mlp"), &["gate_proj", "up_proj"], false)?,
            down: self.linear(&format!("{prefix}.mlp.down_proj"), false)?,
            eps: architecture.text.rms_norm_eps,
        })
    }

    fn layer_norm(&self, prefix: &str) -> Result<(B::Tensor, B::Tensor)> {
        Ok((self.vector(&format!("{prefix}.weight"))?, self.vector(&format!("{prefix}.bias"))?))
    }

    fn vector(&self, name: &str) -> Result<B::Tensor> {
        let view = (self.tensor)(name)?;
        Ok(self.backend.upload(&view.to_f32(), 1, view.rows() * view.cols())?)
    }

    fn linear(&self, prefix: &str, biased: bool) -> Result<B::Linear> {
        let (parent, name) = prefix.rsplit_once('.').unwrap_or(("", prefix));
        self.stacked(parent, &[name], biased)
    }

    /// Several projections of one input, stacked along their outputs.
    fn stacked(&self, parent: &str, names: &[&str], biased: bool) -> Result<B::Linear> {
        let all = |suffix: &str| {
            names
                .iter()
                .map(|name| (self.tensor)(&format!("{parent}.{name}.{suffix}")))
                .collect::<Result<_>>()
        };
        self.prepare(LinearSource {
            name: format!("{parent}.{}", names.join("+")),
            weights: all("weight")?,
            biases: if biased { all("bias")? } else { Vec::new() },
        })
    }

    fn prepare(&self, source: LinearSource<'_>) -> Result<B::Linear> {
        Ok(self.backend.prepare_linear(&source, self.precision)?)
    }
}

fn text_heads(architecture: &Architecture) -> Heads {
    let text = &architecture.text;
    Heads { query: text.heads, kv: text.kv_heads, dim: text.head_dim }
}
