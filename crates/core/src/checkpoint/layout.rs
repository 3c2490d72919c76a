//! Which tensors a checkpoint must hold.

use std::fmt;

use crate::config::{Architecture, ExpertAttention, PolicyConfig};

/// A part of the model, for counting parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Component {
    /// Vision tower.
    Vision,
    /// Pixel shuffle's projection into the language model.
    Connector,
    /// Token embeddings.
    EmbedTokens,
    /// Language-model layers and their final norm.
    Text,
    /// The language model's output layer, which inference does not read.
    LmHead,
    /// Action expert.
    Expert,
    /// State, action and time projections.
    Projections,
}

impl Component {
    /// Every component, in the order of a forward pass.
    pub const ALL: [Self; 7] = [
        Self::Vision,
        Self::Connector,
        Self::EmbedTokens,
        Self::Text,
        Self::LmHead,
        Self::Expert,
        Self::Projections,
    ];

    /// The name used in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Vision => "vision",
            Self::Connector => "connector",
            Self::EmbedTokens => "embed_tokens",
            Self::Text => "text",
            Self::LmHead => "lm_head",
            Self::Expert => "expert",
            Self::Projections => "projections",
        }
    }
}

impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The length of one dimension and the configuration key it follows from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Axis {
    /// Length.
    pub len: usize,
    /// The key, or keys, of `config.json` or the vision-language model's `config.json`.
    pub key: &'static str,
}

/// One tensor of LeRobot's state dict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpectedTensor {
    /// Its name.
    pub name: String,
    /// Its dimensions, in PyTorch's order (`[outputs, inputs]`).
    pub axes: Vec<Axis>,
    /// The part of the model it belongs to.
    pub component: Component,
    /// Whether inference reads it.
    pub needed: bool,
    /// Whether the published checkpoints keep it in F32 where the rest is BF16.
    pub full_precision: bool,
}

impl ExpectedTensor {
    /// Length of every dimension.
    pub fn shape(&self) -> Vec<usize> {
        self.axes.iter().map(|axis| axis.len).collect()
    }

    /// Whether it is the weight of a linear layer (the patch convolution is one): not a table, norm or bias.
    pub fn is_linear_weight(&self) -> bool {
        let is_table =
            self.component == Component::EmbedTokens || self.name.ends_with("position_embedding.weight");
        self.axes.len() >= 2 && !is_table && self.name.ends_with(".weight")
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.axes.iter().map(|axis| axis.len).product()
    }
}

/// The complete state dict of a policy, in LeRobot's names.
pub fn expected(policy: &PolicyConfig, architecture: &Architecture) -> Vec<ExpectedTensor> {
    let mut list = List { tensors: Vec::new() };
    list.vision(architecture);
    list.text(architecture);
    list.expert(policy, architecture);
    list.projections(architecture);
    list.tensors
}

/// Collects the state dict.
struct List {
    tensors: Vec<ExpectedTensor>,
}

/// Names and dimensions of a linear layer: `[outputs, inputs]`.
type Linear<'a> = (&'a str, Axis, Axis);

impl List {
    fn vision(&mut self, architecture: &Architecture) {
        let vision = &architecture.vision;
        let hidden = Axis { len: vision.hidden, key: "vision_config.hidden_size" };
        let inner = Axis { len: vision.intermediate, key: "vision_config.intermediate_size" };
        let patch = Axis { len: vision.patch_size, key: "vision_config.patch_size" };
        let channels = Axis { len: vision.channels, key: "vision_config.num_channels" };
        let positions = Axis {
            len: (vision.image_size / vision.patch_size).pow(2),
            key: "(vision_config.image_size / patch_size)²",
        };
        let root = "model.vlm_with_expert.vlm.model.vision_model";
        let mut add = |name: String, axes: &[Axis]| self.add(name, axes, Component::Vision, true);
        add(format!("{root}.embeddings.patch_embedding.weight"), &[hidden, channels, patch, patch]);
        add(format!("{root}.embeddings.patch_embedding.bias"), &[hidden]);
        add(format!("{root}.embeddings.position_embedding.weight"), &[positions, hidden]);
        for index in 0..vision.layers {
            let layer = format!("{root}.encoder.layers.{index}");
            for norm in ["layer_norm1", "layer_norm2"] {
                add(format!("{layer}.{norm}.weight"), &[hidden]);
                add(format!("{layer}.{norm}.bias"), &[hidden]);
            }
            let linears: [Linear<'_>; 6] = [
                ("self_attn.q_proj", hidden, hidden),
                ("self_attn.k_proj", hidden, hidden),
                ("self_attn.v_proj", hidden, hidden),
                ("self_attn.out_proj", hidden, hidden),
                ("mlp.fc1", inner, hidden),
                ("mlp.fc2", hidden, inner),
            ];
            for (name, outputs, inputs) in linears {
                add(format!("{layer}.{name}.weight"), &[outputs, inputs]);
                add(format!("{layer}.{name}.bias"), &[outputs]);
            }
        }
        add(format!("{root}.post_layernorm.weight"), &[hidden]);
        add(format!("{root}.post_layernorm.bias"), &[hidden]);
    }

    fn text(&mut self, architecture: &Architecture) {
        let sizes = TextAxes::new(architecture);
        let vlm = "model.vlm_with_expert.vlm";
        let shuffled = Axis {
            len: architecture.vision.hidden * architecture.scale_factor.pow(2),
            key: "vision_config.hidden_size × scale_factor²",
        };
        self.add(
            format!("{vlm}.model.connector.modality_projection.proj.weight"),
            &[sizes.hidden, shuffled],
            Component::Connector,
            true,
        );
        let root = format!("{vlm}.model.text_model");
        self.add(
            format!("{root}.embed_tokens.weight"),
            &[sizes.vocab, sizes.hidden],
            Component::EmbedTokens,
            true,
        );
        let last = last_text_layer(architecture);
        for index in 0..architecture.text.layers {
            let layer = format!("{root}.layers.{index}");
            // Of the last layer that an expert looks at, only keys and values are read; of later ones nothing.
            let kv = index <= last;
            let all = index < last;
            let mut add = |name: &str, axes: &[Axis], needed| {
                self.add(format!("{layer}.{name}.weight"), axes, Component::Text, needed);
            };
            add("input_layernorm", &[sizes.hidden], kv);
            add("post_attention_layernorm", &[sizes.hidden], all);
            add("self_attn.q_proj", &[sizes.query, sizes.hidden], all);
            add("self_attn.k_proj", &[sizes.kv, sizes.hidden], kv);
            add("self_attn.v_proj", &[sizes.kv, sizes.hidden], kv);
            add("self_attn.o_proj", &[sizes.hidden, sizes.query], all);
            add("mlp.gate_proj", &[sizes.inner, sizes.hidden], all);
            add("mlp.up_proj", &[sizes.inner, sizes.hidden], all);
            add("mlp.down_proj", &[sizes.hidden, sizes.inner], all);
        }
        self.add(format!("{root}.norm.weight"), &[sizes.hidden], Component::Text, false);
        self.add(format!("{vlm}.lm_head.weight"), &[sizes.vocab, sizes.hidden], Component::LmHead, false);
    }

    fn expert(&mut self, policy: &PolicyConfig, architecture: &Architecture) {
        let TextAxes { query, kv, .. } = TextAxes::new(architecture);
        let hidden = expert_width(architecture);
        let inner = Axis { len: architecture.expert.intermediate, key: "expert_width_multiplier" };
        let root = "model.vlm_with_expert.lm_expert";
        for index in 0..architecture.expert.layers {
            let layer = format!("{root}.layers.{index}");
            let prefix = Architecture::expert_projection(policy, index) == ExpertAttention::CrossAttention;
            let keys_from = if prefix { kv } else { hidden };
            let mut add = |name: &str, axes: &[Axis], full_precision| {
                self.tensors.push(ExpectedTensor {
                    name: format!("{layer}.{name}.weight"),
                    axes: axes.to_vec(),
                    component: Component::Expert,
                    needed: true,
                    full_precision,
                });
            };
            add("input_layernorm", &[hidden], false);
            add("post_attention_layernorm", &[hidden], false);
            add("self_attn.q_proj", &[query, hidden], false);
            add("self_attn.k_proj", &[kv, keys_from], prefix);
            add("self_attn.v_proj", &[kv, keys_from], prefix);
            add("self_attn.o_proj", &[hidden, query], false);
            add("mlp.gate_proj", &[inner, hidden], false);
            add("mlp.up_proj", &[inner, hidden], false);
            add("mlp.down_proj", &[hidden, inner], false);
        }
        self.add(format!("{root}.norm.weight"), &[hidden], Component::Expert, true);
    }

    fn projections(&mut self, architecture: &Architecture) {
        let hidden = expert_width(architecture);
        let doubled = Axis { len: 2 * hidden.len, ..hidden };
        let state = Axis { len: architecture.max_state_dim, key: "max_state_dim" };
        let action = Axis { len: architecture.max_action_dim, key: "max_action_dim" };
        let linears: [Linear<'_>; 5] = [
            ("state_proj", TextAxes::new(architecture).hidden, state),
            ("action_in_proj", hidden, action),
            ("action_out_proj", action, hidden),
            ("action_time_mlp_in", hidden, doubled),
            ("action_time_mlp_out", hidden, hidden),
        ];
        for (name, outputs, inputs) in linears {
            for (part, axes) in [("weight", vec![outputs, inputs]), ("bias", vec![outputs])] {
                self.tensors.push(ExpectedTensor {
                    name: format!("model.{name}.{part}"),
                    axes,
                    component: Component::Projections,
                    needed: true,
                    full_precision: true,
                });
            }
        }
    }

    fn add(&mut self, name: String, axes: &[Axis], component: Component, needed: bool) {
        let axes = axes.to_vec();
        self.tensors.push(ExpectedTensor { name, axes, component, needed, full_precision: false });
    }
}

/// Dimensions of the language model.
struct TextAxes {
    hidden: Axis,
    inner: Axis,
    query: Axis,
    kv: Axis,
    vocab: Axis,
}

impl TextAxes {
    fn new(architecture: &Architecture) -> Self {
        let text = &architecture.text;
        Self {
            hidden: Axis { len: text.hidden, key: "text_config.hidden_size" },
            inner: Axis { len: text.intermediate, key: "text_config.intermediate_size" },
            query: Axis {
                len: text.heads * text.head_dim,
                key: "text_config.num_attention_heads × head_dim",
            },
            kv: Axis {
                len: text.kv_heads * text.head_dim,
                key: "text_config.num_key_value_heads × head_dim",
            },
            vocab: Axis { len: text.vocab, key: "text_config.vocab_size" },
        }
    }
}

fn expert_width(architecture: &Architecture) -> Axis {
    Axis { len: architecture.expert.hidden, key: "expert_width_multiplier × text_config.hidden_size" }
}

/// The last language-model layer whose keys and values an expert layer reads.
fn last_text_layer(architecture: &Architecture) -> usize {
    architecture.expert.schedule.iter().rposition(Option::is_some).unwrap_or(0)
}
