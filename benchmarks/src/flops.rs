//! How much arithmetic each stage takes, as the graph itself is counted.
//!
//! Counted are products of matrices, a multiplication and an addition as two operations (see [`smolvla::count`]). Norms,
//! activations, softmax and rotary embeddings are left out: they are below two percent. The time embeddings, which are
//! kept from chunk to chunk, do not appear.

use smolvla::count::{Op, OpKind, Part as ModelPart, Trace};
use smolvla::graph::Stage;
use smolvla::{Precision, PrecisionPlan};

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
    pub(crate) fn of(trace: &Trace) -> Self {
        let of = |stage| Work {
            parts: trace
                .ops
                .iter()
                .filter(|op| op.part.stage() == stage && op.macs() > 0 && &*op.layer != "expert.time")
                .map(Part::of)
                .collect(),
        };
        Self { vision: of(Stage::Vision), prefill: of(Stage::Prefill), denoise: of(Stage::Denoise) }
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
}

impl Part {
    fn of(op: &Op) -> Self {
        let path = match &op.weight {
            Some(weight) => weight.path.to_string(),
            // An attention counts as the layer that makes its queries.
            None => {
                let crosses = op.part == ModelPart::Expert && &*op.name == "cross_attention";
                format!("{}.{}", op.layer, if crosses { "query" } else { "qkv" })
            }
        };
        let weights = match op.kind {
            OpKind::Linear => op.weight.as_ref().map_or(0, |weight| weight.elements),
            _ => 0,
        };
        Self { path, flops: 2.0 * op.macs() as f64, weights: weights as f64 }
    }
}

/// Bytes that a weight takes where it is streamed from.
fn weight_bytes(precision: Precision) -> Option<f64> {
    match precision {
        Precision::F32 => Some(4.0),
        Precision::Bf16 | Precision::F16 | Precision::Int16 => Some(2.0),
        Precision::Int8 | Precision::Int8Weights | Precision::Int8Full => Some(1.0),
        // A byte each, and one more for sixteen.
        Precision::Bfp8 | Precision::Bfp8LoFi => Some(17.0 / 16.0),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use smolvla::count::{Workload, count};
    use smolvla::synth::{self, Size, SynthOptions};

    use super::*;

    fn base(change: impl Fn(&mut Workload)) -> Stages<Work> {
        let options = SynthOptions { size: Size::Base, ..SynthOptions::default() };
        let (policy, architecture) = synth::sizes(&options).unwrap();
        let mut workload = Workload::of(&policy);
        change(&mut workload);
        Stages::of(&count(&policy, &architecture, &workload).unwrap())
    }

    fn one() -> Stages<Work> {
        base(|_| ())
    }

    #[test]
    fn vision_of_one_camera_matches_numbers_computed_by_hand() {
        let vision = one().vision;
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
        let prefill = one().prefill;
        // Fifteen whole layers of 960·1600 + 960·960 + 960·5120 + 2560·960 weights, one of 960·640.
        let whole = 9_830_400.0;
        let linear = 2.0 * 113.0 * (15.0 * whole + 960.0 * 640.0 + 8.0 * 2.0 * 320.0 * 320.0);
        let attention = 15.0 * 4.0 * 15.0 * 113.0 * 113.0 * 64.0;
        assert_eq!(prefill.flops(), linear + attention + 2.0 * 32.0 * 960.0);
    }

    #[test]
    fn denoising_reads_the_expert_once_a_step() {
        let one = one().denoise;
        let ends = 2.0 * 32.0 * 720.0 + 2.0 * 720.0 * 720.0;
        let rest = 960.0 * 720.0 + 720.0 * 4096.0 + 2048.0 * 720.0;
        let step = ends + 8.0 * (720.0 * 1600.0 + rest) + 8.0 * (720.0 * 960.0 + rest);
        assert_eq!(one.weight_bytes(&Precision::Int8.into()), Some(10.0 * step));
        let attention = 10.0 * 8.0 * 4.0 * 15.0 * 50.0 * (163.0 + 113.0) * 64.0;
        assert_eq!(one.flops(), 10.0 * 2.0 * 50.0 * step + attention);

        let five = base(|w| w.steps = 5).denoise;
        assert_eq!(five.flops() * 2.0, one.flops());
    }

    #[test]
    fn work_grows_with_the_batch_and_weights_do_not() {
        let one = one();
        let four = base(|w| w.batch = 4);
        assert_eq!(four.flops(), 4.0 * one.flops());
        let bytes = |stages: &Stages<Work>| stages.denoise.weight_bytes(&Precision::F32.into());
        assert_eq!(bytes(&four), bytes(&one));
        let three = base(|w| w.cameras = 3);
        assert_eq!(three.vision.flops(), 3.0 * one.vision.flops());
        // Each of 80 and 80 attentions has 128 keys more, for 50 queries in 15 heads of 64.
        let more = 160.0 * 4.0 * 15.0 * 50.0 * 128.0 * 64.0;
        assert_eq!(three.denoise.flops(), one.denoise.flops() + more);
    }

    #[test]
    fn every_layer_of_the_graph_is_counted_under_its_path() {
        let stages = one();
        let mut counted: Vec<String> = [stages.vision, stages.prefill, stages.denoise]
            .into_iter()
            .flat_map(|work| work.parts)
            .filter(|part| part.weights > 0.0)
            .map(|part| part.path)
            .collect();
        counted.sort_unstable();
        counted.dedup();
        let (_, architecture) =
            synth::sizes(&SynthOptions { size: Size::Base, ..SynthOptions::default() }).unwrap();
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
