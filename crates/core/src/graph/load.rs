//! Parameters from a checkpoint into a [`Model`].

use super::vision::VisionLayer;
use super::{
    Expert, ExpertAttentionWeights, ExpertLayer, GatedMlp, Heads, Model, TextLayer, TextOutput, Vision,
};
use crate::backend::Backend;
use crate::config::{Architecture, ExpertAttention, ExpertSlot};
use crate::error::Result;
use crate::precision::PrecisionPlan;
use crate::weights::{LinearSource, TensorView};

/// How far loading has come: layers prepared of all layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadProgress {
    /// Parts prepared so far.
    pub done: usize,
    /// Parts in all.
    pub total: usize,
}

/// Where [`load`] finds parameters, by their names in LeRobot's state dict.
pub trait Parameters {
    /// A parameter as a matrix.
    ///
    /// # Errors
    /// [`Error::Tensor`](crate::Error::Tensor) when there is no such parameter.
    fn tensor(&self, name: &str) -> Result<TensorView<'_>>;

    /// A parameter has been prepared and will not be asked for again: whatever holds it may give back memory.
    fn release(&self, name: &str) {
        let _ = name;
    }
}

/// The path of every linear layer in the graph, in the order of the data's way through it; what the rules of a
/// [`PrecisionPlan`] are about, and [`LinearSource::path`].
///
/// | Paths | |
/// |---|---|
/// | `vision.patch_embedding`, `connector`, `state` | |
/// | `vision.layers.{i}.` | `qkv`, `output`, `fc1`, `fc2` |
/// | `text.layers.{i}.` | `qkv`, and but for the last layer `output`, `gate_up`, `down` |
/// | `expert.` | `action_in`, `time_in_actions`, `time_in_time`, `time_out`, `action_out` |
/// | `expert.layers.{i}.` | `qkv` or `query`, `key`, `value`; `output`, `gate_up`, `down` |
///
/// Layers are counted from 0, the expert's by themselves.
pub fn layer_paths(architecture: &Architecture) -> Vec<String> {
    let mut paths = Vec::new();
    let mut add = |prefix: &str, names: &[&str]| {
        paths.extend(names.iter().map(|name| format!("{prefix}{name}")));
    };
    add("vision.", &["patch_embedding"]);
    for index in 0..architecture.vision.layers {
        add(&format!("vision.layers.{index}."), &["qkv", "output", "fc1", "fc2"]);
    }
    add("", &["connector", "state"]);
    let last_text_layer = last_text_layer(architecture);
    for index in 0..last_text_layer {
        add(&format!("text.layers.{index}."), &["qkv", "output", "gate_up", "down"]);
    }
    add(&format!("text.layers.{last_text_layer}."), &["qkv"]);
    add("expert.", &["action_in", "time_in_actions", "time_in_time", "time_out"]);
    for slot in architecture.expert.schedule.iter().flatten() {
        let prefix = format!("expert.layers.{}.", slot.index);
        match slot.kind {
            ExpertAttention::SelfAttention => add(&prefix, &["qkv"]),
            ExpertAttention::CrossAttention => add(&prefix, &["query", "key", "value"]),
        }
        add(&prefix, &["output", "gate_up", "down"]);
    }
    add("expert.", &["action_out"]);
    paths
}

/// Prepares every parameter that inference reads on `backend`, each linear layer in the precision of the plan.
///
/// Shapes are taken as checked against `architecture` (see [`crate::checkpoint`]).
///
/// # Errors
/// [`Error::Input`](crate::Error::Input) for a rule of the plan that is about no layer;
/// [`Error::Tensor`](crate::Error::Tensor) for a parameter that is not there;
/// [`Error::Backend`](crate::Error::Backend) when the backend refuses.
pub fn load<B: Backend>(
    backend: B,
    architecture: &Architecture,
    precision: &PrecisionPlan,
    parameters: &dyn Parameters,
    progress: &mut dyn FnMut(LoadProgress),
) -> Result<Model<B>> {
    precision.check_layers(&layer_paths(architecture))?;
    let last_text_layer = last_text_layer(architecture);
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

    let loader = Loader { backend: &backend, precision, parameters };
    let vlm = "model.vlm_with_expert.vlm.model";
    let mut vision_layers = Vec::with_capacity(architecture.vision.layers);
    for index in 0..architecture.vision.layers {
        let prefix = format!("{vlm}.vision_model.encoder.layers.{index}");
        vision_layers.push(loader.vision_layer(architecture, &format!("vision.layers.{index}"), &prefix)?);
        advance();
    }
    let vision = loader.vision(architecture, vlm, vision_layers)?;
    advance();
    let mut text = Vec::with_capacity(last_text_layer + 1);
    for index in 0..=last_text_layer {
        let prefix = format!("{vlm}.text_model.layers.{index}");
        let path = format!("text.layers.{index}");
        text.push(loader.text_layer(architecture, &path, &prefix, index == last_text_layer)?);
        advance();
    }
    let embeddings = loader.table("text.embedding", &format!("{vlm}.text_model.embed_tokens.weight"))?;
    let state = loader.linear("state", "model.state_proj", true)?;
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
        patches: Vec::new(),
        backend,
    })
}

/// Finds tensors and hands them to the backend.
struct Loader<'l, B> {
    backend: &'l B,
    precision: &'l PrecisionPlan,
    parameters: &'l dyn Parameters,
}

/// In the methods below `path` is a layer's place in the graph and `prefix` what its parameters' names begin with.
impl<B: Backend> Loader<'_, B> {
    fn vision(
        &self,
        architecture: &Architecture,
        vlm: &str,
        layers: Vec<VisionLayer<B::Tensor, B::Linear>>,
    ) -> Result<Vision<B::Tensor, B::Linear>> {
        let root = format!("{vlm}.vision_model");
        let positions = self.values(&format!("{root}.embeddings.position_embedding.weight"))?;
        let side = architecture.vision.image_size / architecture.vision.patch_size;
        let usual = self.backend.upload(&positions, side * side, architecture.vision.hidden)?;
        Ok(Vision {
            patch_embedding: self.linear(
                "vision.patch_embedding",
                &format!("{root}.embeddings.patch_embedding"),
                true,
            )?,
            positions,
            usual_positions: (side, usual),
            layers,
            post_norm: self.layer_norm(&format!("{root}.post_layernorm"))?,
            connector: self.linear(
                "connector",
                &format!("{vlm}.connector.modality_projection.proj"),
                false,
            )?,
        })
    }

    fn vision_layer(
        &self,
        architecture: &Architecture,
        path: &str,
        prefix: &str,
    ) -> Result<VisionLayer<B::Tensor, B::Linear>> {
        let vision = &architecture.vision;
        let attention = format!("{prefix}.self_attn");
        Ok(VisionLayer {
            norm1: self.layer_norm(&format!("{prefix}.layer_norm1"))?,
            qkv: self.stacked(&format!("{path}.qkv"), &attention, &["q_proj", "k_proj", "v_proj"], true)?,
            output: self.linear(&format!("{path}.output"), &format!("{attention}.out_proj"), true)?,
            norm2: self.layer_norm(&format!("{prefix}.layer_norm2"))?,
            fc1: self.linear(&format!("{path}.fc1"), &format!("{prefix}.mlp.fc1"), true)?,
            fc2: self.linear(&format!("{path}.fc2"), &format!("{prefix}.mlp.fc2"), true)?,
            heads: Heads { query: vision.heads, kv: vision.heads, dim: vision.hidden / vision.heads },
            eps: vision.layer_norm_eps,
        })
    }

    fn text_layer(
        &self,
        architecture: &Architecture,
        path: &str,
        prefix: &str,
        last: bool,
    ) -> Result<TextLayer<B::Tensor, B::Linear>> {
        let attention = format!("{prefix}.self_attn");
        let projections: &[&str] = if last { &["k_proj", "v_proj"] } else { &["q_proj", "k_proj", "v_proj"] };
        let output = if last {
            None
        } else {
            Some(TextOutput {
                projection: self.linear(&format!("{path}.output"), &format!("{attention}.o_proj"), false)?,
                mlp: self.gated_mlp(architecture, path, prefix)?,
            })
        };
        Ok(TextLayer {
            norm: self.vector(&format!("{prefix}.input_layernorm.weight"))?,
            qkv: self.stacked(&format!("{path}.qkv"), &attention, projections, false)?,
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
        let (weight, bias) = ("model.action_time_mlp_in.weight", "model.action_time_mlp_in.bias");
        let time_in = self.parameters.tensor(weight)?;
        let half = |part: &str, start, biases| {
            self.prepare(LinearSource {
                name: format!("model.action_time_mlp_in ({part})"),
                path: format!("expert.time_in_{part}"),
                weights: vec![time_in.columns(start, width)],
                biases,
            })
        };
        let time_in_actions = half("actions", 0, Vec::new())?;
        let time_in_time = half("time", width, vec![self.parameters.tensor(bias)?])?;
        self.parameters.release(weight);
        self.parameters.release(bias);
        Ok(Expert {
            action_in: self.linear("expert.action_in", "model.action_in_proj", true)?,
            time_in_actions,
            time_in_time,
            time_out: self.linear("expert.time_out", "model.action_time_mlp_out", true)?,
            layers,
            norm: self.vector("model.vlm_with_expert.lm_expert.norm.weight")?,
            eps: architecture.text.rms_norm_eps,
            action_out: self.linear("expert.action_out", "model.action_out_proj", true)?,
        })
    }

    fn expert_layer(
        &self,
        architecture: &Architecture,
        text_layer: usize,
        slot: ExpertSlot,
    ) -> Result<ExpertLayer<B::Tensor, B::Linear>> {
        let path = format!("expert.layers.{}", slot.index);
        let prefix = format!("model.vlm_with_expert.lm_expert.layers.{}", slot.index);
        let attention = format!("{prefix}.self_attn");
        let projections = match slot.kind {
            ExpertAttention::SelfAttention => ExpertAttentionWeights::SelfAttention {
                qkv: self.stacked(
                    &format!("{path}.qkv"),
                    &attention,
                    &["q_proj", "k_proj", "v_proj"],
                    false,
                )?,
            },
            ExpertAttention::CrossAttention => ExpertAttentionWeights::CrossAttention {
                query: self.linear(&format!("{path}.query"), &format!("{attention}.q_proj"), false)?,
                key: self.linear(&format!("{path}.key"), &format!("{attention}.k_proj"), false)?,
                value: self.linear(&format!("{path}.value"), &format!("{attention}.v_proj"), false)?,
            },
        };
        Ok(ExpertLayer {
            text_layer,
            norm: self.vector(&format!("{prefix}.input_layernorm.weight"))?,
            attention: projections,
            output: self.linear(&format!("{path}.output"), &format!("{attention}.o_proj"), false)?,
            mlp: self.gated_mlp(architecture, &path, &prefix)?,
            heads: text_heads(architecture),
            eps: architecture.text.rms_norm_eps,
        })
    }

    fn gated_mlp(
        &self,
        architecture: &Architecture,
        path: &str,
        prefix: &str,
    ) -> Result<GatedMlp<B::Tensor, B::Linear>> {
        Ok(GatedMlp {
            norm: self.vector(&format!("{prefix}.post_attention_layernorm.weight"))?,
            gate_up: self.stacked(
                &format!("{path}.gate_up"),
                &format!("{prefix}.mlp"),
                &["gate_proj", "up_proj"],
                false,
            )?,
            down: self.linear(&format!("{path}.down"), &format!("{prefix}.mlp.down_proj"), false)?,
            eps: architecture.text.rms_norm_eps,
        })
    }

    fn layer_norm(&self, prefix: &str) -> Result<(B::Tensor, B::Tensor)> {
        Ok((self.vector(&format!("{prefix}.weight"))?, self.vector(&format!("{prefix}.bias"))?))
    }

    fn vector(&self, name: &str) -> Result<B::Tensor> {
        let values = self.values(name)?;
        Ok(self.backend.upload(&values, 1, values.len())?)
    }

    fn values(&self, name: &str) -> Result<Vec<f32>> {
        let values = self.parameters.tensor(name)?.to_f32();
        self.parameters.release(name);
        Ok(values)
    }

    fn table(&self, path: &str, name: &str) -> Result<B::Table> {
        let table = self.backend.prepare_table(&LinearSource {
            name: name.to_owned(),
            path: path.to_owned(),
            weights: vec![self.parameters.tensor(name)?],
            biases: Vec::new(),
        })?;
        self.parameters.release(name);
        Ok(table)
    }

    fn linear(&self, path: &str, prefix: &str, biased: bool) -> Result<B::Linear> {
        let (parent, name) = prefix.rsplit_once('.').unwrap_or(("", prefix));
        self.stacked(path, parent, &[name], biased)
    }

    /// Several projections of one input, stacked along their outputs.
    fn stacked(&self, path: &str, parent: &str, names: &[&str], biased: bool) -> Result<B::Linear> {
        let all = |suffix: &str| -> Vec<String> {
            names.iter().map(|name| format!("{parent}.{name}.{suffix}")).collect()
        };
        let (weights, biases) = (all("weight"), if biased { all("bias") } else { Vec::new() });
        let views = |names: &[String]| -> Result<Vec<_>> {
            names.iter().map(|name| self.parameters.tensor(name)).collect()
        };
        let linear = self.prepare(LinearSource {
            name: format!("{parent}.{}", names.join("+")),
            path: path.to_owned(),
            weights: views(&weights)?,
            biases: views(&biases)?,
        })?;
        weights.iter().chain(&biases).for_each(|name| self.parameters.release(name));
        Ok(linear)
    }

    fn prepare(&self, source: LinearSource<'_>) -> Result<B::Linear> {
        Ok(self.backend.prepare_linear(&source, self.precision.precision_for(&source.path))?)
    }
}

/// The last layer of the language model whose keys and values the expert reads.
fn last_text_layer(architecture: &Architecture) -> usize {
    architecture.expert.schedule.iter().rposition(Option::is_some).unwrap_or(0)
}

fn text_heads(architecture: &Architecture) -> Heads {
    let text = &architecture.text;
    Heads { query: text.heads, kv: text.kv_heads, dim: text.head_dim }
}
