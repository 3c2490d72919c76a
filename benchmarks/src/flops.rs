//! How much arithmetic each stage takes, from its closed form.
//!
//! Counted are products of matrices, a multiplication and an addition as two operations:
//!
//! - a linear layer over `rows` rows: `2 · rows · inputs · outputs`;
//! - an attention: `4 · batch · heads · queries · keys · head_dim` (scores, and their product with the values), every
//!   pair counted, masked or not.
//!
//! Norms, activations, softmax and rotary embeddings are left out: they are below two percent. What is counted is
//! what [`smolvla::graph`] computes: the language model stops at the last keys and values that the expert reads,
//! and the time embeddings, which are kept from chunk to chunk, do not appear.

use smolvla::config::{Architecture, ExpertAttention};
use smolvla::{Precision, PrecisionPlan};

/// What one chunk is computed from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counts {
    /// Observations.
    pub(crate) batch: usize,
    /// Pictures of an observation.
    pub(crate) cameras: usize,
    /// Patches along a side of a picture.
    pub(crate) patches: usize,
    /// Tokens of the prefix as computed.
    pub(crate) prefix: usize,
    /// Denoising steps.
    pub(crate) steps: usize,
}

/// The arithmetic of a stage, by layer.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Work {
    parts: Vec<Part>,
}

/// A linear layer, or an attention under the path of the layer that makes its queries.
#[derive(Clone, Debug, PartialEq)]
struct Part {
    path: String,
    /// Floating point (or integer) operations.
    flops: f64,
    /// Weights read, each as often as a pass over it begins; none for attention.
    weights: f64,
}

/// One value for each stage of a chunk.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Stages<T> {
    /// Tower and connector.
    pub(crate) vision: T,
    /// Prefix, language model, and the expert's projections of its keys and values.
    pub(crate) prefill: T,
    /// All denoising steps.
    pub(crate) denoise: T,
}

impl<T> Stages<T> {
    /// The stages of both, combined one by one.
    pub(crate) fn zip<U, V>(&self, other: &Stages<U>, combine: impl Fn(&T, &U) -> V) -> Stages<V> {
        Stages {
            vision: combine(&self.vision, &other.vision),
            prefill: combine(&self.prefill, &other.prefill),
            denoise: combine(&self.denoise, &other.denoise),
        }
    }
}

impl Stages<Work> {
    /// The work of one chunk.
    pub(crate) fn of(architecture: &Architecture, counts: Counts) -> Self {
        Self {
            vision: vision(architecture, counts),
            prefill: prefill(architecture, counts),
            denoise: denoise(architecture, counts),
        }
    }

    /// Operations of the whole chunk.
    pub(crate) fn flops(&self) -> f64 {
        self.vision.flops() + self.prefill.flops() + self.denoise.flops()
    }

    /// Seconds that the whole chunk takes at the ceilings; see [`Work::seconds_at`].
    pub(crate) fn seconds_at(
        &self,
        plan: &PrecisionPlan,
        ceiling: impl Fn(Precision) -> Option<f64>,
    ) -> Option<f64> {
        let stages = [&self.vision, &self.prefill, &self.denoise];
        stages.into_iter().map(|work| work.seconds_at(plan, &ceiling)).sum()
    }
}

impl Work {
    /// Operations in all.
    pub(crate) fn flops(&self) -> f64 {
        self.parts.iter().map(|part| part.flops).sum()
    }

    /// Bytes of weights read, each layer's in its own precision; `None` where one has no size known here.
    pub(crate) fn weight_bytes(&self, plan: &PrecisionPlan) -> Option<f64> {
        let bytes = |part: &Part| Some(part.weights * weight_bytes(plan.precision_for(&part.path))?);
        self.parts.iter().map(bytes).sum()
    }

    /// Seconds that the arithmetic takes when each layer runs at its precision's `ceiling` in GFLOP/s; `None` where
    /// there is none. An attention counts as the layer that makes its queries.
    pub(crate) fn seconds_at(
        &self,
        plan: &PrecisionPlan,
        ceiling: impl Fn(Precision) -> Option<f64>,
    ) -> Option<f64> {
        let seconds = |part: &Part| Some(part.flops / 1e9 / ceiling(plan.precision_for(&part.path))?);
        self.parts.iter().map(seconds).sum()
    }

    fn linear(&mut self, path: impl Into<String>, rows: usize, inputs: usize, outputs: usize) {
        let weights = inputs as f64 * outputs as f64;
        self.parts.push(Part { path: path.into(), flops: 2.0 * rows as f64 * weights, weights });
    }

    fn attention(
        &mut self,
        path: impl Into<String>,
        batch: usize,
        heads: usize,
        pairs: usize,
        head_dim: usize,
    ) {
        let flops = 4.0 * (batch * heads) as f64 * pairs as f64 * head_dim as f64;
        self.parts.push(Part { path: path.into(), flops, weights: 0.0 });
    }

    fn times(mut self, count: usize) -> Self {
        for part in &mut self.parts {
            part.flops *= count as f64;
            part.weights *= count as f64;
        }
        self
    }
}

/// Bytes that a weight takes where it is streamed from.
fn weight_bytes(precision: Precision) -> Option<f64> {
    match precision {
        Precision::F32 => Some(4.0),
        Precision::Bf16 | Precision::F16 => Some(2.0),
        Precision::Int8 | Precision::Int8Weights => Some(1.0),
        _ => None,
    }
}

fn vision(architecture: &Architecture, counts: Counts) -> Work {
    let vision = &architecture.vision;
    let images = counts.batch * counts.cameras;
    let tokens = counts.patches * counts.patches;
    let rows = images * tokens;
    let width = vision.hidden;

    let mut work = Work::default();
    work.linear("vision.patch_embedding", rows, vision.channels * vision.patch_size.pow(2), width);
    for index in 0..vision.layers {
        let path = |name: &str| format!("vision.layers.{index}.{name}");
        work.linear(path("qkv"), rows, width, 3 * width);
        work.attention(path("qkv"), images, vision.heads, tokens * tokens, width / vision.heads);
        work.linear(path("output"), rows, width, width);
        work.linear(path("fc1"), rows, width, vision.intermediate);
        work.linear(path("fc2"), rows, vision.intermediate, width);
    }
    let block = architecture.scale_factor.pow(2);
    work.linear("connector", rows / block, block * width, architecture.text.hidden);
    work
}

fn prefill(architecture: &Architecture, counts: Counts) -> Work {
    let text = &architecture.text;
    let rows = counts.batch * counts.prefix;
    let query = text.heads * text.head_dim;
    let kv = text.kv_heads * text.head_dim;
    let last = architecture.expert.schedule.iter().rposition(Option::is_some).unwrap_or(0);

    let mut work = Work::default();
    work.linear("state", counts.batch, architecture.max_state_dim, text.hidden);
    for index in 0..last {
        let path = |name: &str| format!("text.layers.{index}.{name}");
        work.linear(path("qkv"), rows, text.hidden, query + 2 * kv);
        work.attention(path("qkv"), counts.batch, text.heads, counts.prefix * counts.prefix, text.head_dim);
        work.linear(path("output"), rows, query, text.hidden);
        work.linear(path("gate_up"), rows, text.hidden, 2 * text.intermediate);
        work.linear(path("down"), rows, text.intermediate, text.hidden);
    }
    // The last layer that anything reads leaves only its keys and values.
    work.linear(format!("text.layers.{last}.qkv"), rows, text.hidden, 2 * kv);
    for slot in architecture.expert.schedule.iter().flatten() {
        if slot.kind == ExpertAttention::CrossAttention {
            work.linear(format!("expert.layers.{}.key", slot.index), rows, kv, kv);
            work.linear(format!("expert.layers.{}.value", slot.index), rows, kv, kv);
        }
    }
    work
}

fn denoise(architecture: &Architecture, counts: Counts) -> Work {
    let (text, expert) = (&architecture.text, &architecture.expert);
    let chunk = architecture.chunk_size;
    let rows = counts.batch * chunk;
    let width = expert.hidden;
    let query = text.heads * text.head_dim;
    let kv = text.kv_heads * text.head_dim;

    let mut step = Work::default();
    step.linear("expert.action_in", rows, architecture.max_action_dim, width);
    step.linear("expert.time_in_actions", rows, width, width);
    step.linear("expert.time_out", rows, width, width);
    for slot in expert.schedule.iter().flatten() {
        let path = |name: &str| format!("expert.layers.{}.{name}", slot.index);
        let (projection, outputs, keys) = match slot.kind {
            ExpertAttention::SelfAttention => ("qkv", query + 2 * kv, counts.prefix + chunk),
            ExpertAttention::CrossAttention => ("query", query, counts.prefix),
        };
        step.linear(path(projection), rows, width, outputs);
        step.attention(path(projection), counts.batch, text.heads, chunk * keys, text.head_dim);
        step.linear(path("output"), rows, query, width);
        step.linear(path("gate_up"), rows, width, 2 * expert.intermediate);
        step.linear(path("down"), rows, expert.intermediate, width);
    }
    step.linear("expert.action_out", rows, width, architecture.max_action_dim);
    step.times(counts.steps)
}

#[cfg(test)]
mod tests {
    use smolvla::checkpoint::{Checkpoint, LoadOptions};
    use smolvla::synth::{self, Size, SynthOptions};

    use super::*;

    const ONE: Counts = Counts { batch: 1, cameras: 1, patches: 32, prefix: 113, steps: 10 };

    /// The published sizes, from a tiny checkpoint whose own sizes are replaced.
    fn base() -> Architecture {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("policy");
        synth::write(&SynthOptions { size: Size::Tiny, ..SynthOptions::default() }, &folder, &mut |_, _| ())
            .unwrap();
        let mut architecture =
            Checkpoint::open(&folder, &LoadOptions::default()).unwrap().architecture.clone();
        let vlm = smolvla::config::VlmConfig::smolvlm2_500m();
        architecture.vision = vlm.vision;
        architecture.scale_factor = vlm.scale_factor;
        architecture.text = smolvla::config::TextConfig { layers: 16, ..vlm.text };
        architecture.expert.hidden = 720;
        architecture.expert.intermediate = 2048;
        let kind = |index: usize| {
            if index.is_multiple_of(2) {
                ExpertAttention::SelfAttention
            } else {
                ExpertAttention::CrossAttention
            }
        };
        architecture.expert.schedule =
            (0..16).map(|index| Some(smolvla::config::ExpertSlot { index, kind: kind(index) })).collect();
        (architecture.chunk_size, architecture.max_state_dim, architecture.max_action_dim) = (50, 32, 32);
        architecture
    }

    #[test]
    fn vision_of_one_camera_matches_numbers_computed_by_hand() {
        let vision = Stages::of(&base(), ONE).vision;
        // Twelve layers: 7,077,888 weights over 1,024 patches, and 12 heads of 64 over 1,024 × 1,024 pairs.
        let layers = 12.0 * (2.0 * 1024.0 * 7_077_888.0 + 4.0 * 12.0 * 1024.0 * 1024.0 * 64.0);
        // The patches, 768 values each, and the connector: 64 tokens of 12,288.
        let ends = 2.0 * 1024.0 * 768.0 * 768.0 + 2.0 * 64.0 * 12_288.0 * 960.0;
        assert_eq!(vision.flops(), layers + ends);
        assert!((vision.flops() / 1e9 - 215.3).abs() < 0.1, "{}", vision.flops());
        let weights = 12.0 * 7_077_888.0 + 768.0 * 768.0 + 12_288.0 * 960.0;
        assert_eq!(vision.weight_bytes(&Precision::Bf16.into()), Some(2.0 * weights));
    }

    #[test]
    fn prefill_stops_at_the_last_keys_and_values() {
        let prefill = Stages::of(&base(), ONE).prefill;
        // Fifteen whole layers of 960·1600 + 960·960 + 960·5120 + 2560·960 weights, one of 960·640.
        let whole = 9_830_400.0;
        let linear = 2.0 * 113.0 * (15.0 * whole + 960.0 * 640.0 + 8.0 * 2.0 * 320.0 * 320.0);
        let attention = 15.0 * 4.0 * 15.0 * 113.0 * 113.0 * 64.0;
        assert_eq!(prefill.flops(), linear + attention + 2.0 * 32.0 * 960.0);
    }

    #[test]
    fn denoising_reads_the_expert_once_a_step() {
        let one = Stages::of(&base(), ONE).denoise;
        let ends = 2.0 * 32.0 * 720.0 + 2.0 * 720.0 * 720.0;
        let rest = 960.0 * 720.0 + 720.0 * 4096.0 + 2048.0 * 720.0;
        let step = ends + 8.0 * (720.0 * 1600.0 + rest) + 8.0 * (720.0 * 960.0 + rest);
        assert_eq!(one.weight_bytes(&Precision::Int8.into()), Some(10.0 * step));
        let attention = 10.0 * 8.0 * 4.0 * 15.0 * 50.0 * (163.0 + 113.0) * 64.0;
        assert_eq!(one.flops(), 10.0 * 2.0 * 50.0 * step + attention);

        let five = Stages::of(&base(), Counts { steps: 5, ..ONE }).denoise;
        assert_eq!(five.flops() * 2.0, one.flops());
    }

    #[test]
    fn work_grows_with_the_batch_and_weights_do_not() {
        let architecture = base();
        let one = Stages::of(&architecture, ONE);
        let four = Stages::of(&architecture, Counts { batch: 4, ..ONE });
        assert_eq!(four.flops(), 4.0 * one.flops());
        let bytes = |stages: &Stages<Work>| stages.denoise.weight_bytes(&Precision::F32.into());
        assert_eq!(bytes(&four), bytes(&one));
        let three = Stages::of(&architecture, Counts { cameras: 3, ..ONE });
        assert_eq!(three.vision.flops(), 3.0 * one.vision.flops());
        assert_eq!(three.denoise, one.denoise);
    }

    #[test]
    fn every_layer_of_the_graph_is_counted_under_its_path() {
        let architecture = base();
        let stages = Stages::of(&architecture, ONE);
        let mut counted: Vec<String> = [stages.vision, stages.prefill, stages.denoise]
            .into_iter()
            .flat_map(|work| work.parts)
            .filter(|part| part.weights > 0.0)
            .map(|part| part.path)
            .collect();
        counted.sort_unstable();
        let mut expected = smolvla::graph::layer_paths(&architecture);
        // Kept from chunk to chunk.
        expected.retain(|path| path != "expert.time_in_time");
        expected.sort_unstable();
        assert_eq!(counted, expected);
    }

    #[test]
    fn each_layer_runs_at_the_ceiling_of_its_own_precision() {
        let work = Work {
            parts: vec![
                Part { path: "a".into(), flops: 4e9, weights: 10.0 },
                Part { path: "b".into(), flops: 8e9, weights: 100.0 },
            ],
        };
        let plan = PrecisionPlan::new("mixed", Precision::Bf16).with_rule("b", Precision::Int8, "");
        let ceiling = |precision| match precision {
            Precision::Bf16 => Some(2.0),
            Precision::Int8 => Some(4.0),
            _ => None,
        };
        assert_eq!(work.seconds_at(&plan, ceiling), Some(4.0));
        assert_eq!(work.weight_bytes(&plan), Some(120.0));
        assert_eq!(work.seconds_at(&Precision::F32.into(), ceiling), None);
    }
}
