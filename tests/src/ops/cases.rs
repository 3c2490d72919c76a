//! The list of cases.

use smolvla_core::backend::Activation::{GeluTanh, Silu};
use smolvla_core::graph::Heads;
use smolvla_core::synth::Size;
use smolvla_core::weights::StorageType::{Bf16, F16, F32, F64};

use super::calls::{Addend, Attention, Call, Linear, Masking, Rows, Scores};
use super::inputs::{Kind, Weight};
use super::layers::{Attends, LayerCall, Sizes};
use super::{Action, OpCase};

/// Every case: for the tiny model small ones that break kernels, for the real one its operations in their real
/// sizes. Names are unique over both: operation, what is special about the sizes, and about the numbers, such as
/// `linear_odd_sizes_outliers`.
pub fn cases(size: Size) -> Vec<OpCase> {
    let mut list = List(Vec::new());
    match size {
        Size::Tiny => small(&mut list),
        Size::Base => real_sizes(&mut list),
    }
    list.0
}

fn small(list: &mut List) {
    linear_sizes(list);
    linear_epilogues(list);
    linear_weights(list);
    norms(list);
    attention_sizes(list);
    attention_masks(list);
    attention_scores(list);
    elementwise(list);
    rounding(list);
    movement(list);
    layers(list);
}

fn real_sizes(list: &mut List) {
    real_linears(list);
    real_attentions(list);
    real_movements(list);
    for (variant, call) in [
        ("vision", Call::LayerNorm { rows: IMAGES * PATCHES, cols: 768, x: Rows::Kind, eps: 1e-6 }),
        ("prefix", Call::RmsNorm { rows: PREFIX, cols: 960, x: Rows::Kind, eps: 1e-5 }),
        ("prefix", Call::SiluMul { rows: PREFIX, width: 2560 }),
        ("prefix", Call::Rope { rows: PREFIX, period: PREFIX, heads: 15, half: 32 }),
    ] {
        list.call(variant, Kind::Normal, call);
    }
    // As many tokens as an image has, in a narrower layer: the plain loops would take ten seconds for a real one.
    let heads = Heads { query: 2, kv: 2, dim: 64 };
    let sizes = Sizes { width: 128, intermediate: 256, heads, tokens: PATCHES };
    list.layer("all_patches", Kind::Normal, LayerCall::Vision { sizes, images: 1 });
}

/// Images of an observation.
const IMAGES: usize = 3;
/// Tokens of an image in the vision tower.
const PATCHES: usize = 1024;
/// Tokens of a prefix: 64 of each image, 48 of text, and the state.
const PREFIX: usize = IMAGES * 64 + 48 + 1;
/// Actions of a chunk.
const CHUNK: usize = 50;

fn real_linears(list: &mut List) {
    let usual = |rows, inputs, outputs| linear(rows, Weight::new(inputs, &[outputs]));
    let gate_up = |rows, width, intermediate| linear(rows, Weight::new(width, &[intermediate; 2]));
    let with_bias = |rows, inputs, outputs| linear(rows, Weight::new(inputs, &[outputs]).with_bias());
    let with_residual = |linear: Linear| Linear { residual: Some(linear.rows), ..linear };
    let patches = IMAGES * PATCHES;
    for (variant, linear) in [
        ("vision_fc1", Linear { activation: Some(GeluTanh), ..with_bias(patches, 768, 3072) }),
        ("vision_fc2", with_residual(with_bias(patches, 3072, 768))),
        ("connector", usual(IMAGES * 64, 12_288, 960)),
        ("text_gate_up", gate_up(PREFIX, 960, 2560)),
        ("text_down", with_residual(usual(PREFIX, 2560, 960))),
        ("expert_gate_up", gate_up(CHUNK, 720, 2048)),
        ("expert_down", with_residual(usual(CHUNK, 2048, 720))),
        ("action_in", with_bias(CHUNK, 32, 720)),
        ("state", with_bias(1, 32, 960)),
    ] {
        list.sampled(variant, Call::Linear(linear));
    }
}

fn real_attentions(list: &mut List) {
    let text = [15, 5, 64];
    for (variant, case) in [
        ("vision", attention(2, PATCHES, PATCHES, [12, 12, 64])),
        ("prefix", Attention { mask: Masking::QuarterPadding, ..attention(1, PREFIX, PREFIX, text) }),
        (
            "expert_self",
            Attention {
                segments: vec![PREFIX, CHUNK],
                mask: Masking::Causal,
                ..attention(1, CHUNK, 0, text)
            },
        ),
        ("expert_cross", Attention { mask: Masking::QuarterPadding, ..attention(1, CHUNK, PREFIX, text) }),
    ] {
        list.sampled(variant, Call::Attention(case));
    }
}

fn real_movements(list: &mut List) {
    let ids = [49_279, 0, 1, 32_767, 32_768, 49_278, 49_279].into_iter().chain(1000..1041).collect();
    for (variant, call) in [
        ("words", Call::EmbedRows { dtype: Bf16, table: [49_280, 960], ids }),
        ("prefix", Call::ConcatTokens { batch: 1, tokens: vec![64, 64, 64, 48, 1], cols: 960 }),
        ("vision_qkv", Call::SplitCols { rows: PATCHES * IMAGES, widths: vec![768; 3] }),
        ("images", Call::PixelShuffle { images: IMAGES, grid: 32, factor: 4, cols: 768 }),
    ] {
        list.call(variant, Kind::Normal, call);
    }
}

struct List(Vec<OpCase>);

impl List {
    fn call(&mut self, variant: &'static str, kind: Kind, call: Call) {
        self.0.push(OpCase::new(Action::Call(call), variant, kind));
    }

    /// The same sizes with several kinds of numbers.
    fn calls(&mut self, variant: &'static str, kinds: &[Kind], call: &Call) {
        for kind in kinds {
            self.call(variant, *kind, call.clone());
        }
    }

    /// An operation so large that the plain loops compute only some rows of it.
    fn sampled(&mut self, variant: &'static str, call: Call) {
        let rows = call.sample();
        self.0.push(OpCase { rows, ..OpCase::new(Action::Call(call), variant, Kind::Normal) });
    }

    fn layer(&mut self, variant: &'static str, kind: Kind, layer: LayerCall) {
        self.0.push(OpCase::new(Action::Layer(layer), variant, kind));
    }
}

const ARITHMETIC: &[Kind] = &[Kind::Normal, Kind::Outliers, Kind::Large, Kind::Subnormal];
const MOVED: &[Kind] = &[Kind::Normal, Kind::Limits, Kind::Subnormal];

fn linear(rows: usize, weight: Weight) -> Linear {
    Linear { rows, weight, activation: None, residual: None }
}

fn linear_sizes(list: &mut List) {
    let usual = |rows, inputs, outputs| Call::Linear(linear(rows, Weight::new(inputs, &[outputs])));
    for (variant, rows, inputs, outputs) in [
        ("one_by_one", 1, 1, 1),
        ("one_row", 1, 64, 48),
        ("one_input", 33, 1, 31),
        ("one_output", 50, 113, 1),
        ("tile", 32, 32, 32),
        ("tile_plus_one", 33, 33, 33),
        ("tall", 113, 31, 50),
        ("wide_output", 2, 33, 2560),
    ] {
        list.call(variant, Kind::Normal, usual(rows, inputs, outputs));
    }
    list.calls("odd_sizes", ARITHMETIC, &usual(31, 33, 65));
    list.call("odd_sizes", Kind::ZeroRows, usual(31, 33, 65));
    list.calls("action_rows", &[Kind::Normal, Kind::Outliers], &usual(50, 720, 96));
    list.calls("long_inner", &[Kind::Normal, Kind::Outliers], &usual(3, 12_288, 17));
}

fn linear_epilogues(list: &mut List) {
    let weight = || Weight::new(48, &[40]);
    for (variant, rows, weight, activation, residual) in [
        ("bias", 33, weight().with_bias(), None, None),
        ("gelu", 33, weight(), Some(GeluTanh), None),
        ("silu", 33, weight(), Some(Silu), None),
        ("bias_gelu", 31, weight().with_bias(), Some(GeluTanh), None),
        ("residual", 33, weight(), None, Some(33)),
        ("repeating_residual", 30, weight().with_bias(), None, Some(10)),
        ("one_row_residual", 7, weight(), None, Some(1)),
        ("bias_gelu_residual", 50, weight().with_bias(), Some(GeluTanh), Some(50)),
        ("bias_silu_repeating_residual", 62, weight().with_bias(), Some(Silu), Some(31)),
    ] {
        list.call(variant, Kind::Normal, Call::Linear(Linear { rows, weight, activation, residual }));
    }
    let activated = |activation| {
        Call::Linear(Linear { activation: Some(activation), ..linear(31, weight().with_bias()) })
    };
    list.call("bias_gelu", Kind::Large, activated(GeluTanh));
    list.call("bias_silu", Kind::Large, activated(Silu));
}

fn linear_weights(list: &mut List) {
    for (variant, weight) in [
        ("stacked", Weight::new(24, &[24, 8, 8]).with_bias()),
        ("stacked_odd", Weight::new(33, &[15, 1, 50]).with_bias()),
        ("stored_as_bf16", Weight { stack: vec![(33, Bf16)], ..Weight::new(50, &[]) }.with_bias()),
        ("stored_as_f16", Weight { stack: vec![(33, F16)], ..Weight::new(50, &[]) }.with_bias()),
        ("stored_as_f64", Weight { stack: vec![(33, F64)], ..Weight::new(50, &[]) }.with_bias()),
        (
            "stacked_of_all_types",
            Weight { stack: vec![(32, Bf16), (5, F32), (31, F16)], ..Weight::new(33, &[]).with_bias() },
        ),
        ("left_columns", Weight { around: Some([0, 48]), ..Weight::new(48, &[40]) }),
        ("right_columns", Weight { around: Some([48, 0]), ..Weight::new(48, &[40]).with_bias() }),
        (
            "inner_columns_of_bf16",
            Weight { stack: vec![(31, Bf16)], around: Some([7, 3]), ..Weight::new(33, &[]) },
        ),
    ] {
        list.call(variant, Kind::Normal, Call::Linear(linear(19, weight)));
    }
}

fn norms(list: &mut List) {
    let sizes =
        [("one_column", 5, 1), ("three_columns", 31, 3), ("tile_plus_one", 33, 33), ("tall", 113, 50)];
    let layer_norm = |rows, cols, x, eps| Call::LayerNorm { rows, cols, x, eps };
    let rms_norm = |rows, cols, x, eps| Call::RmsNorm { rows, cols, x, eps };
    for (variant, rows, cols) in sizes {
        list.call(variant, Kind::Normal, layer_norm(rows, cols, Rows::Kind, 1e-6));
        list.call(variant, Kind::Normal, rms_norm(rows, cols, Rows::Kind, 1e-5));
    }
    for kind in [Kind::Normal, Kind::Outliers, Kind::Large, Kind::ZeroRows] {
        list.call("real_width", kind, layer_norm(9, 768, Rows::Kind, 1e-6));
        list.call("real_width", kind, rms_norm(9, 720, Rows::Kind, 1e-5));
    }
    for (variant, cols, x, eps) in [
        ("large_epsilon", 33, Rows::Kind, 0.5),
        ("epsilon_decides", 33, Rows::Tiny, 1e-5),
        ("constant_rows", 64, Rows::Constant, 1e-6),
    ] {
        list.call(variant, Kind::Normal, layer_norm(31, cols, x, eps));
        list.call(variant, Kind::Normal, rms_norm(31, cols, x, eps));
    }
    list.call("far_from_zero", Kind::Normal, layer_norm(33, 2, Rows::FarFromZero, 1e-6));
}

/// Attention over one segment without a mask, scaled as usual.
fn attention(batch: usize, queries: usize, keys: usize, heads: [usize; 3]) -> Attention {
    let scale = (heads[2] as f64).powf(-0.5) as f32;
    let segments = vec![keys];
    Attention { batch, queries, segments, heads, mask: Masking::None, scores: Scores::Usual, scale }
}

fn attention_sizes(list: &mut List) {
    for (variant, case) in [
        ("one_query_one_key", attention(1, 1, 1, [3, 1, 64])),
        ("one_query", attention(1, 1, 113, [15, 5, 64])),
        ("tile_plus_one", attention(1, 33, 33, [3, 3, 16])),
        ("grouped", attention(1, 50, 31, [15, 5, 64])),
        ("one_group", attention(1, 31, 33, [6, 1, 16])),
        ("head_of_odd_width", attention(1, 31, 32, [4, 2, 5])),
        ("head_of_width_one", attention(1, 7, 9, [2, 1, 1])),
        ("batch", attention(3, 9, 7, [6, 2, 8])),
        ("many_keys", attention(1, 3, 1025, [3, 1, 16])),
        ("two_segments", Attention { segments: vec![33, 31], ..attention(1, 31, 0, [6, 2, 16]) }),
        ("three_segments", Attention { segments: vec![7, 1, 32], ..attention(2, 5, 0, [4, 4, 8]) }),
    ] {
        list.call(variant, Kind::Normal, Call::Attention(case));
    }
    for kind in [Kind::Outliers, Kind::Large, Kind::Subnormal] {
        list.call("values", kind, Call::Attention(attention(1, 31, 33, [6, 2, 16])));
    }
}

fn attention_masks(list: &mut List) {
    let masked = |mask, attention| Call::Attention(Attention { mask, ..attention });
    let usual = || attention(2, 33, 50, [6, 2, 16]);
    let segments = |segments: &[usize]| Attention { segments: segments.to_vec(), ..usual() };
    for (variant, call) in [
        ("causal", masked(Masking::Causal, usual())),
        ("causal_grouped", masked(Masking::Causal, attention(1, 50, 113, [15, 5, 64]))),
        ("causal_two_segments", masked(Masking::Causal, segments(&[17, 33]))),
        ("padding_per_observation", masked(Masking::Padding, attention(3, 31, 32, [6, 2, 16]))),
        ("padding_one_query", masked(Masking::Padding, attention(2, 1, 33, [15, 5, 16]))),
        ("padding_many_keys", masked(Masking::Padding, attention(2, 2, 1000, [3, 1, 16]))),
        ("scattered", masked(Masking::Scattered, usual())),
        ("scattered_two_segments", masked(Masking::Scattered, segments(&[31, 10]))),
        ("scattered_three_segments", masked(Masking::Scattered, segments(&[1, 31, 5]))),
        ("fully_masked_rows", masked(Masking::EmptyRows, attention(1, 31, 33, [4, 2, 16]))),
        ("fully_masked_rows_two_segments", masked(Masking::EmptyRows, segments(&[33, 13]))),
        ("nothing_allowed", masked(Masking::Nothing, attention(2, 3, 33, [2, 1, 8]))),
        ("nothing_allowed_two_segments", masked(Masking::Nothing, segments(&[5, 4]))),
    ] {
        list.call(variant, Kind::Normal, call);
    }
    list.call("scattered", Kind::Large, masked(Masking::Scattered, usual()));
}

fn attention_scores(list: &mut List) {
    for (variant, mask, scores) in [
        ("large_scores", Masking::None, Scores::Large),
        ("large_scores_masked", Masking::Scattered, Scores::Large),
        ("large_scores_fully_masked_rows", Masking::EmptyRows, Scores::Large),
        ("high_scores", Masking::None, Scores::AllHigh),
        ("low_scores", Masking::None, Scores::AllLow),
    ] {
        let case = Attention { mask, scores, ..attention(1, 31, 33, [6, 2, 16]) };
        list.call(variant, Kind::Normal, Call::Attention(case));
    }
    for (variant, scale) in [("small_scale", 0.1), ("scale_of_one", 1.0)] {
        let case = Attention { scale, ..attention(1, 31, 33, [6, 2, 16]) };
        list.call(variant, Kind::Normal, Call::Attention(case));
    }
}

fn elementwise(list: &mut List) {
    let rope = |rows, period, heads, half| Call::Rope { rows, period, heads, half };
    for (variant, call) in [
        ("one_row", rope(1, 1, 1, 1)),
        ("real_heads", rope(50, 50, 15, 32)),
        ("odd_half", rope(31, 31, 5, 31)),
        ("repeating_table", rope(99, 33, 3, 16)),
        ("one_row_table", rope(7, 1, 2, 3)),
    ] {
        list.call(variant, Kind::Normal, call);
    }
    list.calls("odd_half", &[Kind::Outliers, Kind::Large, Kind::Subnormal], &rope(31, 31, 5, 31));
    for (variant, activation) in [("silu", Silu), ("gelu_tanh", GeluTanh)] {
        list.calls(variant, ARITHMETIC, &Call::Activate { rows: 33, cols: 31, activation });
    }
    list.call("silu_one_element", Kind::Normal, Call::Activate { rows: 1, cols: 1, activation: Silu });
    list.calls("odd_sizes", ARITHMETIC, &Call::SiluMul { rows: 31, width: 33 });
    list.call("one_column", Kind::Normal, Call::SiluMul { rows: 50, width: 1 });
}

fn rounding(list: &mut List) {
    let scale = |factor| Call::Scale { rows: 31, cols: 33, factor };
    // √960, as image and word embeddings are scaled.
    list.calls("usual", &[Kind::Normal, Kind::Subnormal], &scale(30.983_868));
    list.call("zero", Kind::Normal, scale(0.0));
    list.call("negative", Kind::Normal, scale(-0.3));
    list.call("huge", Kind::Normal, scale(1e30));
    list.call("tiny", Kind::Normal, scale(1e-30));
    let axpy = |alpha, y| Call::Axpy { rows: 50, cols: 33, alpha, y };
    list.calls("usual", &[Kind::Normal, Kind::Subnormal], &axpy(-0.1, Addend::Kind));
    list.call("zero", Kind::Normal, axpy(0.0, Addend::Kind));
    list.call("one", Kind::Normal, axpy(1.0, Addend::Kind));
    list.call("huge", Kind::Normal, axpy(1e30, Addend::Kind));
    list.call("cancelling", Kind::Normal, axpy(-0.1, Addend::Cancelling));
}

fn movement(list: &mut List) {
    list.calls("odd_sizes", MOVED, &Call::Upload { rows: 31, cols: 33 });
    list.call("one_column", Kind::Subnormal, Call::Upload { rows: 113, cols: 1 });

    let first_last_repeated: &[u32] = &[39, 0, 7, 7, 39];
    for (variant, dtype, table, ids) in [
        ("f32", F32, [40, 33], first_last_repeated),
        ("bf16", Bf16, [40, 33], first_last_repeated),
        ("f16", F16, [40, 33], first_last_repeated),
        ("one_word", F32, [1, 31], &[0; 3]),
        ("one_column", Bf16, [113, 1], &[112, 0, 50]),
        ("one_id", F32, [33, 50], &[32]),
    ] {
        let ids = ids.to_vec();
        list.call(variant, Kind::Normal, Call::EmbedRows { dtype, table, ids });
    }
    let every_id = Call::EmbedRows { dtype: F32, table: [113, 31], ids: (0..113).rev().collect() };
    list.call("every_id", Kind::Limits, every_id);

    for (variant, batch, tokens, cols) in [
        ("one_part", 1, &[31_usize] as &[usize], 33),
        ("two_parts", 1, &[1, 32], 31),
        ("three_parts_of_a_batch", 3, &[4, 1, 33], 5),
        ("four_parts_of_a_batch", 2, &[1, 2, 3, 4], 1),
    ] {
        list.call(variant, Kind::Normal, Call::ConcatTokens { batch, tokens: tokens.to_vec(), cols });
    }
    let parts = Call::ConcatTokens { batch: 2, tokens: vec![3, 8], cols: 9 };
    list.call("two_parts_of_a_batch", Kind::Limits, parts);

    for (variant, start, count) in
        [("whole", 0, 33), ("first", 0, 1), ("last", 32, 1), ("inner", 3, 29), ("from_inner_to_end", 17, 16)]
    {
        list.call(variant, Kind::Normal, Call::SliceRows { rows: 33, cols: 31, start, count });
    }
    let inner = Call::SliceRows { rows: 50, cols: 7, start: 31, count: 17 };
    list.call("inner", Kind::Limits, inner);

    for (variant, rows, widths) in [
        ("one_part", 31, &[33_usize] as &[usize]),
        ("fused_qkv", 50, &[30, 10, 10]),
        ("odd_widths", 33, &[7, 1, 31]),
        ("single_columns", 1, &[1; 5]),
    ] {
        list.call(variant, Kind::Normal, Call::SplitCols { rows, widths: widths.to_vec() });
    }
    let parts = Call::SplitCols { rows: 7, widths: vec![5, 8] };
    list.call("two_parts", Kind::Limits, parts);

    let shuffle = |images, grid, factor, cols| Call::PixelShuffle { images, grid, factor, cols };
    for (variant, call) in [
        ("factor_one", shuffle(2, 3, 1, 5)),
        ("factor_two", shuffle(1, 4, 2, 3)),
        ("factor_three", shuffle(2, 9, 3, 1)),
        ("factor_four", shuffle(3, 8, 4, 31)),
        ("to_one_token", shuffle(3, 4, 4, 2)),
    ] {
        list.call(variant, Kind::Normal, call);
    }
    list.call("factor_four", Kind::Limits, shuffle(1, 8, 4, 3));
}

fn layers(list: &mut List) {
    let heads = |query, kv, dim| Heads { query, kv, dim };
    let tower = Sizes { width: 48, intermediate: 80, heads: heads(3, 3, 16), tokens: 9 };
    let tower_of_tiles = Sizes { width: 64, intermediate: 96, heads: heads(1, 1, 64), tokens: 64 };
    for kind in [Kind::Normal, Kind::Outliers] {
        list.layer("one_image", kind, LayerCall::Vision { sizes: tower, images: 1 });
    }
    list.layer("three_images", Kind::Normal, LayerCall::Vision { sizes: tower, images: 3 });
    list.layer("tiles", Kind::Normal, LayerCall::Vision { sizes: tower_of_tiles, images: 1 });

    let model = Sizes { width: 60, intermediate: 50, heads: heads(15, 5, 4), tokens: 33 };
    for (variant, batch, is_last) in
        [("usual", 1, false), ("usual_of_a_batch", 2, false), ("last", 1, true), ("last_of_a_batch", 2, true)]
    {
        list.layer(variant, Kind::Normal, LayerCall::Text { sizes: model, batch, is_last });
    }
    let outliers = LayerCall::Text { sizes: model, batch: 2, is_last: false };
    list.layer("usual_of_a_batch", Kind::Outliers, outliers);

    let action = Sizes { width: 45, intermediate: 64, heads: heads(6, 2, 8), tokens: 10 };
    let action_of_tiles = Sizes { width: 72, intermediate: 96, heads: heads(3, 1, 64), tokens: 50 };
    for (variant, sizes, batch, attends) in [
        ("self_attention", action, 1, Attends::Itself),
        ("self_attention_of_a_batch", action, 2, Attends::Itself),
        ("self_attention_wide_heads", action_of_tiles, 1, Attends::Itself),
        ("cross_attention", action, 1, Attends::Prefix),
        ("cross_attention_masked", action, 2, Attends::MaskedPrefix),
    ] {
        list.layer(variant, Kind::Normal, LayerCall::Expert { sizes, batch, attends });
    }
    let outliers = LayerCall::Expert { sizes: action, batch: 2, attends: Attends::Itself };
    list.layer("self_attention_of_a_batch", Kind::Outliers, outliers);

    for (variant, batch, step) in [("first_step", 1, 0), ("last_step_of_a_batch", 2, 2)] {
        list.layer(variant, Kind::Normal, LayerCall::Denoise { sizes: action, batch, step });
    }
}
