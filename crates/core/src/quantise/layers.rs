//! Which tensors of a checkpoint make each linear layer of the graph, and which norm feeds it.

use std::ops::Range;

use crate::config::{Architecture, ExpertAttention};

/// A linear layer of the graph in terms of a checkpoint's tensors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Layer {
    /// As [`crate::graph::layer_paths`] has it.
    pub(crate) path: String,
    /// The weights that are stacked.
    pub(crate) weights: Vec<String>,
    /// The columns of the weight that it multiplies by; `None`: all.
    pub(crate) columns: Option<Range<usize>>,
    /// The norm whose result it reads, where nothing else does.
    pub(crate) norm: Option<Norm>,
}

/// A norm whose result goes into one linear layer and nowhere else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Norm {
    /// Its gain and, of a LayerNorm, its bias.
    pub(crate) parameters: Vec<String>,
    /// Weights that it feeds as well, but that inference does not read.
    pub(crate) unread: Vec<String>,
}

impl Norm {
    fn rms(name: String) -> Option<Self> {
        Some(Self { parameters: vec![format!("{name}.weight")], unread: Vec::new() })
    }

    fn layer(name: &str) -> Option<Self> {
        Some(Self { parameters: vec![format!("{name}.weight"), format!("{name}.bias")], unread: Vec::new() })
    }
}

/// Every linear layer, in the order of [`crate::graph::layer_paths`].
///
/// In the graph a norm's result is read by one (stacked) layer only, so a factor on each of its columns can go into the
/// norm and its inverse into that layer. The keys and values of cross-attention layers read the prefix's cache and have
/// no norm, nor have output projections, second MLP layers and the projections of state, actions and time.
pub(crate) fn layers(architecture: &Architecture) -> Vec<Layer> {
    let mut list = List(Vec::new());
    let vlm = "model.vlm_with_expert.vlm.model";
    let tower = format!("{vlm}.vision_model");
    list.one("vision.patch_embedding", &format!("{tower}.embeddings.patch_embedding"), None);
    for index in 0..architecture.vision.layers {
        let (path, prefix) = (format!("vision.layers.{index}"), format!("{tower}.encoder.layers.{index}"));
        let attention = format!("{prefix}.self_attn");
        let qkv = ["q_proj", "k_proj", "v_proj"];
        list.stacked(&format!("{path}.qkv"), &attention, &qkv, Norm::layer(&format!("{prefix}.layer_norm1")));
        list.one(&format!("{path}.output"), &format!("{attention}.out_proj"), None);
        let norm = Norm::layer(&format!("{prefix}.layer_norm2"));
        list.one(&format!("{path}.fc1"), &format!("{prefix}.mlp.fc1"), norm);
        list.one(&format!("{path}.fc2"), &format!("{prefix}.mlp.fc2"), None);
    }
    // The pixel shuffle in between only puts columns beside one another.
    let norm = Norm::layer(&format!("{tower}.post_layernorm"));
    list.one("connector", &format!("{vlm}.connector.modality_projection.proj"), norm);
    list.one("state", "model.state_proj", None);
    let last = architecture.expert.schedule.iter().rposition(Option::is_some).unwrap_or(0);
    for index in 0..=last {
        let (path, prefix) = (format!("text.layers.{index}"), format!("{vlm}.text_model.layers.{index}"));
        list.text_layer(&path, &prefix, index == last);
    }
    list.one("expert.action_in", "model.action_in_proj", None);
    let width = architecture.expert.hidden;
    for (part, columns) in [("actions", 0..width), ("time", width..2 * width)] {
        list.one(&format!("expert.time_in_{part}"), "model.action_time_mlp_in", None);
        list.last().columns = Some(columns);
    }
    list.one("expert.time_out", "model.action_time_mlp_out", None);
    for slot in architecture.expert.schedule.iter().flatten() {
        let path = format!("expert.layers.{}", slot.index);
        let prefix = format!("model.vlm_with_expert.lm_expert.layers.{}", slot.index);
        list.expert_layer(&path, &prefix, slot.kind);
    }
    let norm = Norm::rms("model.vlm_with_expert.lm_expert.norm".to_owned());
    list.one("expert.action_out", "model.action_out_proj", norm);
    list.0
}

struct List(Vec<Layer>);

impl List {
    fn stacked(&mut self, path: &str, parent: &str, names: &[&str], norm: Option<Norm>) {
        let weights = names.iter().map(|name| format!("{parent}.{name}.weight")).collect();
        self.0.push(Layer { path: path.to_owned(), weights, columns: None, norm });
    }

    fn one(&mut self, path: &str, name: &str, norm: Option<Norm>) {
        let weights = vec![format!("{name}.weight")];
        self.0.push(Layer { path: path.to_owned(), weights, columns: None, norm });
    }

    fn last(&mut self) -> &mut Layer {
        self.0.last_mut().expect("a layer was added")
    }

    fn text_layer(&mut self, path: &str, prefix: &str, last: bool) {
        let attention = format!("{prefix}.self_attn");
        let mut norm = Norm::rms(format!("{prefix}.input_layernorm"));
        if last {
            norm.iter_mut().for_each(|norm| norm.unread.push(format!("{attention}.q_proj.weight")));
            self.stacked(&format!("{path}.qkv"), &attention, &["k_proj", "v_proj"], norm);
            return;
        }
        self.stacked(&format!("{path}.qkv"), &attention, &["q_proj", "k_proj", "v_proj"], norm);
        self.one(&format!("{path}.output"), &format!("{attention}.o_proj"), None);
        self.gated_mlp(path, prefix);
    }

    fn expert_layer(&mut self, path: &str, prefix: &str, kind: ExpertAttention) {
        let attention = format!("{prefix}.self_attn");
        let norm = Norm::rms(format!("{prefix}.input_layernorm"));
        match kind {
            ExpertAttention::SelfAttention => {
                self.stacked(&format!("{path}.qkv"), &attention, &["q_proj", "k_proj", "v_proj"], norm);
            }
            ExpertAttention::CrossAttention => {
                self.one(&format!("{path}.query"), &format!("{attention}.q_proj"), norm);
                self.one(&format!("{path}.key"), &format!("{attention}.k_proj"), None);
                self.one(&format!("{path}.value"), &format!("{attention}.v_proj"), None);
            }
        }
        self.one(&format!("{path}.output"), &format!("{attention}.o_proj"), None);
        self.gated_mlp(path, prefix);
    }

    fn gated_mlp(&mut self, path: &str, prefix: &str) {
        let norm = Norm::rms(format!("{prefix}.post_attention_layernorm"));
        self.stacked(&format!("{path}.gate_up"), &format!("{prefix}.mlp"), &["gate_proj", "up_proj"], norm);
        self.one(&format!("{path}.down"), &format!("{prefix}.mlp.down_proj"), None);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::checkpoint::expected;
    use crate::graph::layer_paths;
    use crate::synth::{self, Size, SynthOptions};

    #[test]
    fn layers_are_those_of_the_graph_and_cover_every_linear_weight_that_is_read() {
        for size in [Size::Tiny, Size::Base] {
            let (policy, architecture) =
                synth::sizes(&SynthOptions { size, ..SynthOptions::default() }).unwrap();
            let layers = layers(&architecture);
            let paths: Vec<String> = layers.iter().map(|layer| layer.path.clone()).collect();
            assert_eq!(paths, layer_paths(&architecture));

            let expected = expected(&policy, &architecture);
            let linear: BTreeSet<&str> = expected
                .iter()
                .filter(|tensor| tensor.needed && tensor.is_linear_weight())
                .map(|tensor| tensor.name.as_str())
                .collect();
            let used: BTreeSet<&str> =
                layers.iter().flat_map(|layer| &layer.weights).map(String::as_str).collect();
            assert_eq!(used, linear);
            let others = layers.iter().filter_map(|layer| layer.norm.as_ref());
            for name in others.flat_map(|norm| norm.parameters.iter().chain(&norm.unread)) {
                assert!(expected.iter().any(|tensor| tensor.name == *name), "{name}");
            }
        }
    }
}
