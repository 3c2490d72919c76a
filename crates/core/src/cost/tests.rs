//! The exact figures, and the closed forms that the counts are checked against.

use super::documents;
use super::*;
use crate::backend::Precision;
use crate::checked::Checked;
use crate::config::{Architecture, ExpertAttention, PolicyConfig};
use crate::count::{OpKind, Part, Trace, Workload, count};
use crate::precision::PrecisionPlan;
use crate::synth::{self, Size, SynthOptions};

type Sizes = (PolicyConfig, Architecture);

fn sizes(size: Size, overrides: &[(&str, serde_json::Value)]) -> Sizes {
    let overrides = overrides.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
    synth::sizes(&SynthOptions { size, overrides, ..SynthOptions::default() }).unwrap()
}

fn base() -> Sizes {
    sizes(Size::Base, &[])
}

fn traced((policy, architecture): &Sizes, change: impl Fn(&mut Workload)) -> Trace {
    let mut workload = Workload::of(policy);
    change(&mut workload);
    count(policy, architecture, &workload).unwrap()
}

fn cost(trace: &Trace, execution: &Execution, precision: &str, device: &str) -> Cost {
    Cost::of(trace, execution, &Widths::named(precision).unwrap(), &Device::named(device).unwrap()).unwrap()
}

/// Bytes at one a value, on the U280.
fn uniform(trace: &Trace, execution: &Execution) -> Cost {
    let widths = Widths::uniform(Format::Int8);
    Cost::of(trace, execution, &widths, &Device::named("u280").unwrap()).unwrap()
}

fn execution(fusion: Fusion) -> Execution {
    Execution { fusion, ..Execution::default() }
}

/// As LeRobot writes the time MLP; all else as the graph has it.
fn whole_time_mlp() -> Execution {
    Execution { time_mlp: TimeMlp::Whole, ..Execution::default() }
}

#[test]
fn published_model_has_its_exact_figures() {
    let sizes = base();
    let tokens = [1, 2, 3].map(|cameras| traced(&sizes, |w| w.cameras = cameras).prefix_tokens);
    assert_eq!(tokens, [113, 177, 241]);

    let trace = traced(&sizes, |_| ());
    let graph = cost(&trace, &Execution::default(), "int8", "u280");
    let macs = Part::ALL.map(|part| graph.part(part).macs);
    assert_eq!(macs, [106_904_420_352, 754_974_720, 17_099_733_120, 185_139_200, 50_952_960_000]);
    assert_eq!(graph.total.macs, 175_897_227_392);

    // 176.2 GMAC and 1,229 MB: with the time MLP over every action in every step, which the graph does not do.
    let written = cost(&trace, &whole_time_mlp(), "int8", "u280");
    assert_eq!(written.total.macs, 176_156_427_392);
    assert_eq!(written.total.macs - graph.total.macs, 10 * 50 * 720 * 720);
    assert_eq!((written.total.traffic.weights / 1e6).round(), 1229.0);
    let weights = Part::ALL.map(|part| written.part(part).traffic.weights);
    // Beside the linear layers, 48 rows of the embedding table.
    assert_eq!(weights, [85_524_480.0, 11_796_480.0, 148_147_200.0, 1_638_400.0, 981_849_600.0]);

    let storage =
        Storage::of(&sizes.0, &sizes.1, &trace, &Execution::default(), &Widths::named("int8").unwrap());
    assert_eq!((storage.parameters, storage.tensors), (450_046_176, 500));
    assert_eq!(storage.kv_cache_bytes, 16.0 * 2.0 * 113.0 * 320.0);
    assert_eq!(storage.largest_scores_bytes, 12.0 * 1024.0 * 1024.0);
}

/// Multiply-accumulates of each part, and weights read by it, from sizes alone.
fn closed_form((policy, architecture): &Sizes, w: &Workload) -> ([u64; 5], [u64; 5]) {
    let (vision, text, expert) = (&architecture.vision, &architecture.text, &architecture.expert);
    let images = (w.batch * w.cameras) as u64;
    let side = policy.resize_imgs_with_padding.map_or(vision.image_size, |(width, _)| width);
    let patches = ((side / vision.patch_size) as u64).pow(2);
    let (width, inner) = (vision.hidden as u64, vision.intermediate as u64);
    let pixels = (vision.channels * vision.patch_size.pow(2)) as u64;
    let layer = 4 * width * width + 2 * width * inner;
    let layers = vision.layers as u64;
    let goes = if w.images_together { 1 } else { images };
    let vision_macs =
        images * (patches * (pixels * width + layers * layer) + layers * 2 * patches.pow(2) * width);
    let vision_weights = goes * (pixels * width + layers * layer);

    let block = (architecture.scale_factor as u64).pow(2);
    let tokens = patches / block;
    let connector = block * width * text.hidden as u64;

    let special = if policy.add_image_special_tokens { 3 } else { 0 };
    let prefix = w.cameras as u64 * (tokens + special) + w.prompt_tokens as u64 + 1;
    let batch = w.batch as u64;
    let rows = batch * prefix;
    let (d, ffn) = (text.hidden as u64, text.intermediate as u64);
    let (query, kv) = ((text.heads * text.head_dim) as u64, (text.kv_heads * text.head_dim) as u64);
    let last = expert.schedule.iter().rposition(Option::is_some).unwrap() as u64;
    let whole = d * (query + 2 * kv) + query * d + 3 * d * ffn;
    let state = architecture.max_state_dim as u64 * d;
    let text_macs =
        rows * (last * whole + d * 2 * kv) + last * batch * 2 * prefix * prefix * query + batch * state;
    let table = batch * (w.prompt_tokens as u64 + w.cameras as u64 * special) * d;
    let text_weights = last * whole + d * 2 * kv + state + table;

    let (mut own, mut cross) = (0, 0);
    for slot in expert.schedule.iter().flatten() {
        match slot.kind {
            ExpertAttention::SelfAttention => own += 1,
            ExpertAttention::CrossAttention => cross += 1,
        }
    }
    let (e, effn, actions) =
        (expert.hidden as u64, expert.intermediate as u64, architecture.max_action_dim as u64);
    let chunk = w.chunk.unwrap_or(architecture.chunk_size) as u64;
    let steps = w.steps as u64;
    let ends = 2 * actions * e + 2 * e * e;
    let rest = query * e + 3 * e * effn;
    let weights = ends + own * (e * (query + 2 * kv) + rest) + cross * (e * query + rest);
    let attention = batch * 2 * chunk * query * (own * (prefix + chunk) + cross * prefix);
    (
        [
            vision_macs,
            images * tokens * connector,
            text_macs,
            rows * cross * 2 * kv * kv,
            steps * (batch * chunk * weights + attention),
        ],
        [vision_weights, goes * connector, text_weights, cross * 2 * kv * kv, steps * weights],
    )
}

#[test]
fn counts_equal_the_closed_form() {
    let models = [
        base(),
        sizes(Size::Tiny, &[]),
        sizes(Size::Tiny, &[("attention_mode", "self_attn".into())]),
        sizes(Size::Tiny, &[("self_attn_every_n_layers", 0.into()), ("num_expert_layers", 2.into())]),
        sizes(
            Size::Tiny,
            &[
                ("add_image_special_tokens", true.into()),
                ("chunk_size", 7.into()),
                ("n_action_steps", 7.into()),
            ],
        ),
        sizes(Size::Tiny, &[("expert_width_multiplier", 0.5.into()), ("num_vlm_layers", 3.into())]),
    ];
    for (index, model) in models.iter().enumerate() {
        let changes: [&dyn Fn(&mut Workload); 7] = [
            &|_| (),
            &|w| w.cameras = 3,
            &|w| (w.cameras, w.images_together) = (2, false),
            &|w| w.batch = 2,
            &|w| (w.batch, w.cameras, w.images_together) = (3, 2, false),
            &|w| w.steps = 1,
            &|w| (w.prompt_tokens, w.chunk) = (5, Some(9)),
        ];
        for (number, change) in changes.iter().enumerate() {
            let trace = traced(model, change);
            let counted = uniform(&trace, &Execution::default());
            let (macs, weights) = closed_form(model, &trace.workload);
            assert_eq!(
                Part::ALL.map(|part| counted.part(part).macs),
                macs,
                "model {index}, workload {number}"
            );
            assert_eq!(
                Part::ALL.map(|part| counted.part(part).traffic.weights as u64),
                weights,
                "model {index}, workload {number}"
            );
        }
    }
}

#[test]
fn checked_graph_counts_the_same() {
    let (policy, architecture) = sizes(Size::Tiny, &[]);
    let workload = Workload { cameras: 2, batch: 2, ..Workload::of(&policy) };
    let trace = count(&policy, &architecture, &workload).unwrap();
    let checked = crate::count::count_on(&policy, &architecture, &workload, Checked::new).unwrap();
    let macs = |trace: &Trace| trace.ops.iter().map(crate::count::Op::macs).sum::<u64>();
    assert_eq!(macs(&checked), macs(&trace));
    assert_eq!(checked.ops.len(), trace.ops.len());
}

#[test]
fn every_layer_of_the_graph_is_counted_under_its_path() {
    let sizes = base();
    let trace = traced(&sizes, |_| ());
    let mut counted: Vec<&str> =
        trace.ops.iter().filter_map(|op| op.weight.as_ref()).map(|w| &*w.path).collect();
    counted.sort_unstable();
    counted.dedup();
    let mut expected = crate::graph::layer_paths(&sizes.1);
    expected.push("text.embedding".to_owned());
    expected.sort_unstable();
    assert_eq!(counted, expected);
    // Rules of a precision plan find them.
    assert!(PrecisionPlan::from(Precision::F32).check_layers(&expected).is_ok());
}

#[test]
fn an_operation_moves_its_operands_and_its_result() {
    let trace = traced(&base(), |_| ());
    let kernels = kernels(&trace, &Execution::default(), &Widths::uniform(Format::Int8));
    let find = |layer: &str, name: &str| {
        kernels.iter().find(|k| &*k.layer == layer && &*k.name == name).unwrap().traffic
    };
    let qkv = find("vision.layers.0", "qkv");
    assert_eq!((qkv.weights, qkv.small_parameters), (768.0 * 2304.0, 2304.0));
    assert_eq!((qkv.activations_read, qkv.activations_written), (1024.0 * 768.0, 1024.0 * 2304.0));
    // The fused product is read back as query, key and value; scores stay.
    let attention = find("vision.layers.0", "attention");
    assert_eq!(
        (attention.activations_read, attention.activations_written),
        (1024.0 * 2304.0, 1024.0 * 768.0)
    );
    assert_eq!((attention.weights, attention.scores), (0.0, 0.0));
    // The first expert layer attends to itself: the prefix's keys and values from the cache, its own beside them.
    let own = find("expert.layers.0", "self_attention");
    assert_eq!(own.kv_read, 2.0 * 113.0 * 320.0);
    assert_eq!(own.activations_read, 50.0 * (960.0 + 2.0 * 320.0));
    // Values of the language model are part of the fused product that is written; keys are, once they are rotated.
    let text = find("text.layers.0", "qkv");
    assert_eq!((text.activations_written, text.kv_written), (113.0 * (960.0 + 320.0), 113.0 * 320.0));
    let residual = find("vision.layers.0", "output");
    assert_eq!(residual.activations_read, 2.0 * 1024.0 * 768.0);
}

#[test]
fn other_operations_are_counted_one_by_one() {
    let trace = traced(&base(), |_| ());
    let of = |layer: &str, name: &str| {
        let op = trace.ops.iter().find(|op| &*op.layer == layer && &*op.name == name).unwrap();
        op.elementwise
    };
    let vision = "vision.layers.0";
    assert_eq!(of(vision, "layer_norm"), 7 * 1024 * 768);
    assert_eq!(of(vision, "qkv"), 1024 * 2304, "a bias");
    assert_eq!(of(vision, "attention"), 6 * 12 * 1024 * 1024, "no mask");
    assert_eq!(of(vision, "output"), 2 * 1024 * 768, "bias and residual");
    assert_eq!(of(vision, "fc1"), 9 * 1024 * 3072, "bias and GELU");
    let text = "text.layers.0";
    assert_eq!(of(text, "rms_norm"), 4 * 113 * 960);
    assert_eq!(of(text, "qkv"), 0);
    assert_eq!((of(text, "rope_q"), of(text, "rope_k")), (3 * 113 * 960, 3 * 113 * 320));
    assert_eq!(of(text, "attention"), 7 * 15 * 113 * 113, "with a mask");
    assert_eq!(of(text, "silu_mul"), 5 * 113 * 2560);
    assert_eq!(of("expert.suffix", "activate"), 4 * 50 * 720);
    assert_eq!(of("expert.layers.0", "self_attention"), 7 * 15 * 50 * 163);
    assert_eq!(of("expert.layers.1", "cross_attention"), 6 * 15 * 50 * 113, "everything may be attended");
    assert_eq!(of("expert.euler", "axpy"), 2 * 50 * 32);
}

#[test]
fn a_fused_layer_moves_its_ends_alone() {
    let trace = traced(&base(), |_| ());
    let kernels = kernels(&trace, &execution(Fusion::Layers), &Widths::uniform(Format::Int8));
    let find = |layer: &str| kernels.iter().find(|k| &*k.layer == layer).unwrap().traffic;
    let vision = find("vision.layers.0");
    assert_eq!((vision.activations_read, vision.activations_written), (1024.0 * 768.0, 1024.0 * 768.0));
    // Two norms of gain and bias; biases of 3·768, 768, 3072, 768.
    assert_eq!(vision.small_parameters, 4.0 * 768.0 + 3.0 * 768.0 + 768.0 + 3072.0 + 768.0);
    let text = find("text.layers.3");
    assert_eq!(text.kv_written, 2.0 * 113.0 * 320.0);
    // The residual and the rotary tables, cosines and sines of 32 a token.
    assert_eq!(text.activations_read, 113.0 * 960.0 + 2.0 * 113.0 * 32.0);
    let blocks: Vec<_> = super::kernels(&trace, &execution(Fusion::Blocks), &Widths::uniform(Format::Int8));
    let of_layer = blocks.iter().filter(|k| &*k.layer == "vision.layers.0");
    assert_eq!(of_layer.map(|k| &*k.name).collect::<Vec<_>>(), ["attention_block", "mlp_block"]);
}

#[test]
fn fusing_more_moves_less_and_computes_the_same() {
    let trace = traced(&base(), |w| w.cameras = 2);
    let [operations, blocks, layers] = Fusion::ALL.map(|fusion| uniform(&trace, &execution(fusion)).total);
    assert!(operations.traffic.total() > blocks.traffic.total());
    assert!(blocks.traffic.total() > layers.traffic.total());
    assert_eq!((operations.macs, operations.elementwise), (layers.macs, layers.elementwise));
    assert_eq!(operations.traffic.weights, layers.traffic.weights);
    let unfused = Execution { unfused_attention: true, ..Execution::default() };
    let scores = 12.0 * 2.0 * 12.0 * 1024.0_f64.powi(2);
    let apart = uniform(&trace, &unfused);
    assert_eq!(apart.part(Part::Vision).traffic.scores, 4.0 * scores);
    // Three kernels in place of one, for twelve layers of each tower, of the language model and of ten steps.
    assert_eq!(apart.total.kernels, operations.kernels + 2 * (12 + 15 + 160));
}

#[test]
fn resident_weights_are_read_in_the_first_step_alone() {
    let trace = traced(&base(), |_| ());
    let with = |resident_bytes| uniform(&trace, &Execution { resident_bytes, ..Execution::default() });
    let none = with(0.0).part(Part::Expert).clone();
    let step = none.traffic.weights / 10.0;
    let all = with(1e12).part(Part::Expert).clone();
    assert_eq!(all.traffic.weights, step);
    assert_eq!(all.resident_bytes, 9.0 * step);
    let some = with(40e6).part(Part::Expert).clone();
    let kept = some.resident_bytes / 9.0;
    assert!(kept <= 40e6 && kept > 30e6, "{kept}");
    assert_eq!(some.traffic.weights + some.resident_bytes, 10.0 * step);
    assert_eq!(with(1e12).part(Part::Text), with(0.0).part(Part::Text));
}

#[test]
fn cross_kv_in_every_step_costs_ten_times_as_much_and_reads_the_language_models_cache() {
    let trace = traced(&base(), |_| ());
    let often = Execution { cross_kv: CrossKv::EveryStep, ..execution(Fusion::Layers) };
    let (once, often) = (uniform(&trace, &execution(Fusion::Layers)), uniform(&trace, &often));
    assert_eq!(often.part(Part::CrossKv).kernels, 0);
    let projections = once.part(Part::CrossKv).macs;
    assert_eq!(often.part(Part::Expert).macs, once.part(Part::Expert).macs + 10 * projections);
    assert_eq!(often.total.macs, once.total.macs + 9 * projections);
    for fusion in Fusion::ALL {
        let trace = traced(&base(), |w| w.batch = 2);
        let often = Execution { cross_kv: CrossKv::EveryStep, ..execution(fusion) };
        let (often, once) = (uniform(&trace, &often).total, uniform(&trace, &execution(fusion)).total);
        assert_eq!(often.macs - once.macs, 9 * 2 * projections, "{fusion:?}");
        assert_eq!(often.traffic.weights - once.traffic.weights, 9.0 * 1_638_400.0, "{fusion:?}");
        // Once they stay on chip they are read in the first step alone.
        let resident = Execution { cross_kv: CrossKv::EveryStep, resident_bytes: 1e12, ..execution(fusion) };
        let kept = uniform(&trace, &resident);
        assert_eq!(kept.part(Part::Expert).traffic.weights, 97_666_560.0 + 1_638_400.0, "{fusion:?}");
    }
    // Each step reads as many keys and values, the language model's in place of their projections.
    assert_eq!(often.part(Part::Expert).traffic.kv_read, once.part(Part::Expert).traffic.kv_read);
    assert_eq!(often.part(Part::Expert).traffic.activations(), once.part(Part::Expert).traffic.activations());
}

#[test]
fn time_mlp_is_kept_or_made_once_or_whole() {
    let trace = traced(&base(), |_| ());
    let macs = |time_mlp| {
        let execution = Execution { time_mlp, ..Execution::default() };
        uniform(&trace, &execution).part(Part::Expert).macs
    };
    let kept = macs(TimeMlp::Kept);
    assert_eq!(macs(TimeMlp::First), kept + 10 * 720 * 720);
    assert_eq!(macs(TimeMlp::Whole), kept + 10 * 50 * 720 * 720);
}

#[test]
fn cameras_one_by_one_read_the_towers_weights_each() {
    let sizes = base();
    let together = uniform(&traced(&sizes, |w| w.cameras = 3), &Execution::default());
    let apart =
        uniform(&traced(&sizes, |w| (w.cameras, w.images_together) = (3, false)), &Execution::default());
    assert_eq!(apart.total.macs, together.total.macs);
    let weights = |cost: &Cost| cost.part(Part::Vision).traffic.weights;
    assert_eq!(weights(&apart), 3.0 * weights(&together));
}

#[test]
fn peak_activation_is_the_mlp_of_the_vision_tower_or_unfused_scores() {
    let (peak, at) = peak_activation(&traced(&base(), |_| ()), &Execution::default());
    // The residual, the normalised residual and what the first layer makes of it.
    assert_eq!((peak, at.as_str()), (1024 * (768 + 768 + 3072), "vision.layers.0.fc1"));
    // The residual, query, key and value, what attention makes of them, and twelve heads' scores.
    let unfused = Execution { unfused_attention: true, ..Execution::default() };
    let (peak, at) = peak_activation(&traced(&base(), |_| ()), &unfused);
    assert_eq!((peak, at.as_str()), (1024 * (768 + 3 * 768 + 768 + 12 * 1024), "vision.layers.0.attention"));
}

#[test]
fn workloads_out_of_range_name_the_field() {
    let (policy, architecture) = sizes(Size::Tiny, &[]);
    let refused = |change: &dyn Fn(&mut Workload)| {
        let mut workload = Workload::of(&policy);
        change(&mut workload);
        count(&policy, &architecture, &workload).unwrap_err().to_string()
    };
    assert_eq!(refused(&|w| w.cameras = 0), "cameras: 0; expected 1 to 64");
    assert_eq!(refused(&|w| w.batch = 0), "batch: 0; expected 1 to 64");
    assert_eq!(refused(&|w| w.steps = 1001), "steps: 1001; expected 1 to 1000");
    assert_eq!(refused(&|w| w.prompt_tokens = 0), "prompt: 0; expected 1 to 8192");
    assert_eq!(refused(&|w| w.chunk = Some(0)), "chunk: 0; expected 1 to 4096");
    let long = refused(&|w| (w.batch, w.prompt_tokens) = (64, 8192));
    assert!(long.starts_with("prompt: a batch of 64 with a prefix of 8197 tokens"), "{long}");
    let many = refused(&|w| (w.batch, w.cameras) = (20, 4));
    assert_eq!(many, "cameras: 4 with a batch of 20 are 80 pictures; expected at most 64 in all");
}

#[test]
fn pictures_that_the_policy_would_refuse_are_refused() {
    for (resize, named) in
        [([70, 70], "[70, 70]"), ([24, 24], "[24, 24]"), ([64, 32], "[64, 32]"), ([0, 0], "0")]
    {
        let result = synth::sizes(&SynthOptions {
            overrides: [("resize_imgs_with_padding".to_owned(), serde_json::json!(resize))]
                .into_iter()
                .collect(),
            ..SynthOptions::default()
        });
        let refused =
            result.and_then(|(policy, architecture)| count(&policy, &architecture, &Workload::of(&policy)));
        let message = refused.unwrap_err().to_string();
        assert!(message.contains("resize_imgs_with_padding") && message.contains(named), "{message}");
    }
}

#[test]
fn sizes_beyond_any_model_are_refused() {
    let (policy, architecture) = base();
    let refused = |change: &dyn Fn(&mut Architecture)| {
        let mut architecture = architecture.clone();
        change(&mut architecture);
        count(&policy, &architecture, &Workload::of(&policy)).unwrap_err().to_string()
    };
    let huge = 1 << 20;
    let message = refused(&|a| (a.vision.hidden, a.vision.intermediate) = (huge, huge));
    assert!(message.contains("is larger than costs are counted for"), "{message}");
    let message = refused(&|a| (a.text.heads, a.text.head_dim) = (huge, huge));
    assert!(message.contains("q_proj.weight: [1099511627776, 960] is larger"), "{message}");
    let message = refused(&|a| a.text.layers = huge);
    assert_eq!(message, "num_vlm_layers: 1048576; expected 1 to 512");
    let message = refused(&|a| a.vision.patch_size = 1);
    assert_eq!(message, "patches of a picture: 262144; expected 1 to 16384");
}

#[test]
fn u280_is_bound_by_arithmetic_and_other_devices_by_other_things() {
    let trace = traced(&base(), |_| ());
    let layers = execution(Fusion::Layers);
    let u280 = cost(&trace, &layers, "int8", "u280");
    for part in [Part::Vision, Part::Connector, Part::Text, Part::Expert] {
        assert_eq!(u280.part(part).bound(), Bound::Compute, "{}", part.name());
    }
    // Half the bandwidth, or weights half as wide, change nothing there.
    let device = Device::named("u280").unwrap().with_bandwidth(0.5).unwrap();
    let half = Cost::of(&trace, &layers, &Widths::named("int8").unwrap(), &device).unwrap();
    let int4 = cost(&trace, &layers, "int4", "u280");
    for other in [&half, &int4] {
        assert!((other.total.seconds.total / u280.total.seconds.total - 1.0).abs() < 0.01);
    }
    let h200 = cost(&trace, &layers, "bf16", "h200");
    assert_eq!(h200.part(Part::Vision).bound(), Bound::Compute);
    assert_eq!(h200.part(Part::Expert).bound(), Bound::Floor);
    // If launching cost nothing there, reading the weights would bind.
    let mut device = Device::named("h200").unwrap();
    device.launch = None;
    let h200 = Cost::of(&trace, &layers, &Widths::named("bf16").unwrap(), &device).unwrap();
    assert_eq!(h200.part(Part::Expert).bound(), Bound::Bandwidth);
    let p150 = cost(&trace, &Execution::default(), "bfp8", "p150");
    assert_eq!(p150.part(Part::Expert).bound(), Bound::Floor);
    assert_eq!(cost(&trace, &layers, "bf16", "cpu").total.bound(), Bound::Compute);
}

#[test]
fn times_are_never_below_the_roof() {
    let trace = traced(&base(), |_| ());
    for name in Device::presets() {
        let device = Device::named(name).unwrap();
        for precision in Widths::NAMES {
            let widths = Widths::named(precision).unwrap();
            if device.peak(widths.products).is_err() {
                continue;
            }
            for fusion in Fusion::ALL {
                let cost = Cost::of(&trace, &execution(fusion), &widths, &device).unwrap();
                for kernel in &cost.kernels {
                    let seconds = kernel.sums.seconds;
                    assert!(
                        seconds.roof <= seconds.total * (1.0 + 1e-12),
                        "{name} {precision} {}",
                        kernel.name
                    );
                }
                let parts: f64 = cost.parts.iter().map(|part| part.sums.seconds.total).sum();
                assert!((parts / cost.total.seconds.total - 1.0).abs() < 1e-9);
                let shares: f64 = Bound::ALL.iter().map(|bound| cost.total.bound_by.of(*bound)).sum();
                assert!((shares / cost.total.seconds.total - 1.0).abs() < 1e-9);
            }
        }
    }
}

#[test]
fn documents_are_reproduced_to_the_digit() {
    let mut contradictions = Vec::new();
    let mut rows = 0;
    for name in documents::NAMES {
        let document = documents::named(name).unwrap();
        assert_eq!(document.name, name);
        for row in &document.rows {
            rows += 1;
            if !row.follows() {
                contradictions.push((name, row.what, row.stated, row.value_as_printed().unwrap()));
            }
            let differs = row.exact_as_printed() != row.value_as_printed();
            assert!(!differs || !row.reason.is_empty(), "{name}: {}: no reason", row.what);
        }
    }
    assert_eq!(rows, 67);
    // Where a document's number does not follow from its own terms.
    let found: Vec<_> = contradictions.iter().map(|(n, w, s, v)| (*n, *w, *s, v.as_str())).collect();
    assert_eq!(
        found,
        [
            ("seed-001", "total", "229", "230"),
            ("seed-001", "rate", "4.5", "4.4"),
            ("seed-002", "embeddings and head in BF16", "526", "507"),
            ("seed-002", "weights that exceed on-chip memory", "180", "340"),
            ("seed-003", "Q, K, V, Out", "2.41", "2.42"),
        ]
    );
    let message = documents::named("seed-005").unwrap_err().to_string();
    assert!(message.starts_with("scenario: there is no `seed-005`; expected one of seed-000"), "{message}");
}

#[test]
fn every_kind_of_operation_occurs() {
    let trace = traced(&base(), |w| (w.cameras, w.images_together) = (2, false));
    for kind in [
        OpKind::Linear,
        OpKind::Attention,
        OpKind::LayerNorm,
        OpKind::RmsNorm,
        OpKind::Rope,
        OpKind::Activate,
        OpKind::SiluMul,
        OpKind::Scale,
        OpKind::Axpy,
        OpKind::EmbedRows,
        OpKind::ConcatTokens,
        OpKind::PixelShuffle,
        OpKind::View,
        OpKind::Upload,
        OpKind::Download,
    ] {
        assert!(trace.ops.iter().any(|op| op.kind == kind), "{}", kind.name());
    }
    for op in &trace.ops {
        assert_eq!(
            op.step.is_some(),
            op.part == Part::Expert && &*op.layer != "expert.time" && has_step(op),
            "{op:?}"
        );
    }
}

/// Noise is uploaded before the first step, and actions are downloaded after the last.
fn has_step(op: &crate::count::Op) -> bool {
    !matches!(op.kind, OpKind::Upload | OpKind::Download)
}
