//! Modelled times against numbers worked out by hand, published ones, and themselves.

use smolvla_core::cost::{Device, documents};
use smolvla_core::count::Op;

use super::kernels::bytes;
use super::*;
use crate::plan::LinearRule;
use crate::tensix::Format;

fn plan(name: &str) -> Plan {
    Plan::named(name).unwrap()
}

fn trace(cameras: usize) -> Trace {
    let (policy, architecture) =
        synth::sizes(&SynthOptions { size: Size::Base, ..SynthOptions::default() }).unwrap();
    count(&policy, &architecture, &Workload { cameras, ..Workload::of(&policy) }).unwrap()
}

fn op<'a>(trace: &'a Trace, layer: &str, name: &str) -> &'a Op {
    trace.ops.iter().find(|op| &*op.layer == layer && &*op.name == name).unwrap()
}

/// The kernels of an operation of one camera under `balanced`.
fn kernels_of(layer: &str, name: &str, fusing: Fusing) -> Vec<Work> {
    let (trace, plan) = (trace(1), plan("balanced"));
    works(op(&trace, layer, name), &Formats::new(&trace, &plan), fusing)
}

fn only(works: Vec<Work>) -> Work {
    assert_eq!(works.len(), 1, "{works:?}");
    works.into_iter().next().unwrap()
}

fn sums_of(work: &Work) -> Sums {
    let mut sums = Sums::default();
    sums.work(work, &Settings::default());
    sums
}

/// Equal to a part in 10⁹.
#[track_caller]
fn close(a: f64, b: f64) {
    assert!((a - b).abs() <= 1e-9 * b.abs(), "{a} is not {b}");
}

#[test]
fn peaks_are_those_published() {
    let card = Card::p150();
    let tflops = |fidelity| (card.peak(fidelity) / 1e12).round();
    let all = [Fidelity::LoFi, Fidelity::HiFi2, Fidelity::HiFi3, Fidelity::HiFi4];
    assert_eq!(all.map(tflops), [664.0, 332.0, 221.0, 166.0]);
    let tflops = |fidelity| (card.with_cores(110).peak(fidelity) / 1e12).round();
    assert_eq!(all.map(tflops), [608.0, 304.0, 203.0, 152.0]);
    assert_eq!(card.with_cores(140).cores, 140);
    assert_eq!(card.with_cores(0).cores, 1);
}

#[test]
fn the_card_is_that_of_the_cost_model() {
    let (card, device) = (Card::p150(), Device::named("p150").unwrap());
    assert_eq!(card.bandwidth, device.memory.gb_s * 1e9);
    assert_eq!(card.bandwidth_attained, device.memory.attained);
    let vector = device.elementwise.unwrap();
    assert_eq!(f64::from(card.cores) * LANES * card.clock, vector.gops * 1e9);
    for (format, fidelity) in [("bfp4", Fidelity::LoFi), ("bfp8", Fidelity::HiFi2), ("bf16", Fidelity::HiFi4)]
    {
        let peak = &device.peaks[format];
        assert_eq!(card.peak(fidelity), peak.tops * 1e12, "{format}");
        // The preset's share is of 120 cores, measured on 110.
        let share = card.attained(fidelity) * 110.0 / 120.0;
        assert!((share - peak.attained).abs() < 0.01, "{format}: {share} and {}", peak.attained);
    }
}

#[test]
fn formats_take_the_bytes_they_share_exponents_for() {
    let formats = [Format::F32, Format::Bf16, Format::Bfp8, Format::Bfp4];
    assert_eq!(formats.map(bytes), [4.0, 2.0, 1.0625, 0.5625]);
}

#[test]
fn products_take_the_cycles_of_the_fullest_core() {
    let card = Card::p150();
    // 2 × 30 tiles, one a core; 23 tiles deep.
    let small = Product { count: 1, rows: 50, depth: 720, cols: 960 };
    close(card.product(&small, Fidelity::LoFi), 23.0 * 16.0 / 1.35e9);
    close(card.product(&small, Fidelity::HiFi4), 23.0 * 64.0 / 1.35e9);
    // 15 heads of 2 × 6 tiles are 180: two for the fullest core.
    let heads = Product { count: 15, rows: 50, depth: 64, cols: 163 };
    close(card.product(&heads, Fidelity::HiFi2), 2.0 * 2.0 * 32.0 / 1.35e9);
    // 32 × 72 tiles are 19.2 a core: 20 for the fullest, but 90 % of the peak takes longer.
    let large = Product { count: 1, rows: 1024, depth: 768, cols: 2304 };
    close(card.product(&large, Fidelity::HiFi2), 19.2 / 0.9 * 24.0 * 32.0 / 1.35e9);
    close(card.product(&large, Fidelity::HiFi2), 2.0 * large.macs() as f64 / (0.9 * 331.776e12));
    // 32 × 24 tiles are 6.4 a core, and 7 take longer than 94 % of the peak.
    let uneven = Product { count: 1, rows: 1024, depth: 768, cols: 768 };
    close(card.product(&uneven, Fidelity::HiFi4), 7.0 * 24.0 * 64.0 / 1.35e9);
}

#[test]
fn a_linear_layer_by_hand() {
    // Norm's output in bf16, bfp8 weights, f32 biases, bf16 result.
    let work = only(kernels_of("vision.layers.0", "qkv", Fusing::OPERATIONS));
    assert_eq!(work.weights, 768.0 * 2304.0 * 1.0625 + 2304.0 * 4.0);
    assert_eq!(work.activations, 1024.0 * 768.0 * 2.0 + 1024.0 * 2304.0 * 2.0);
    let bias = Vector { units: 2304, tiles_each: 1, operations: 1.0 };
    assert_eq!(work.vector, Some(bias));
    let sums = sums_of(&work);
    // 20 tiles, 32 instructions each for 1,024 numbers on 32 lanes, half of them useful.
    let vector = 20.0 * 32.0 / 0.5 / 1.35e9;
    close(sums.vector, vector);
    close(sums.matrix, 16384.0 / 1.35e9);
    // 8.18 MB take 17.8 µs, which is longer.
    close(sums.total, 8_180_736.0 / 460.8e9 + 12e-6);
    assert_eq!(sums.bound(), Bound::Bandwidth);
    assert_eq!(sums.passes_with.compute, 0.0);

    // 50 rows lie in 64, the residual stream in f32.
    let work = only(kernels_of("expert.layers.0", "output", Fusing::OPERATIONS));
    assert_eq!(work.weights, 960.0 * 736.0 * 1.0625);
    assert_eq!(work.activations, 64.0 * (960.0 * 2.0 + 736.0 * 4.0 + 736.0 * 4.0));
    assert_eq!(sums_of(&work).bound(), Bound::Floor);
}

#[test]
fn an_attention_by_hand() {
    let work = only(kernels_of("vision.layers.0", "attention", Fusing::OPERATIONS));
    assert_eq!(work.activations, 4.0 * 1024.0 * 768.0 * 2.0);
    // 12 heads of 32 rows of tiles: four rows of 32 tiles each on the fullest core.
    assert_eq!(work.vector, Some(Vector { units: 384, tiles_each: 32, operations: 6.0 }));
    let sums = sums_of(&work);
    close(sums.vector, 4.0 * 32.0 * 6.0 * 32.0 / 0.5 / 1.35e9);
    // 12,288 tiles of scores, 102.4 a core at 94 %, two deep; 768 of values, seven on the fullest core, 32 deep.
    close(sums.matrix, (102.4 / 0.94 * 2.0 * 64.0 + 7.0 * 32.0 * 64.0) / 1.35e9);
    close(sums.total, sums.matrix + sums.vector + 12e-6);
    assert_eq!(sums.bound(), Bound::Elementwise);

    // Apart: split q, k and v; scores in f32; scale; softmax; values; join.
    let apart = kernels_of("vision.layers.0", "attention", Fusing::COMPILER);
    let megabytes: Vec<f64> = apart.iter().map(|work| work.activations / 1_048_576.0).collect();
    assert_eq!(megabytes, [3.0, 3.0, 3.0, 51.0, 96.0, 72.0, 27.0, 3.0]);
    // Two segments are joined, and there is a mask.
    assert_eq!(kernels_of("expert.layers.0", "self_attention", Fusing::COMPILER).len(), 11);
    assert_eq!(kernels_of("expert.layers.0", "self_attention", Fusing::NOTHING).len(), 15);
}

#[test]
fn norms_are_dealt_by_rows_and_gates_by_tiles() {
    let norm = only(kernels_of("vision.layers.0", "layer_norm", Fusing::COMPILER));
    assert_eq!(norm.vector, Some(Vector { units: 32, tiles_each: 24, operations: 7.0 }));
    assert_eq!(norm.weights, 2.0 * 768.0 * 4.0);
    // 24 tiles on each of 32 cores.
    close(sums_of(&norm).vector, 24.0 * 7.0 * 32.0 / 0.5 / 1.35e9);
    let gate = only(kernels_of("expert.layers.0", "silu_mul", Fusing::OPERATIONS));
    assert_eq!(gate.vector, Some(Vector { units: 2 * 64, tiles_each: 1, operations: 5.0 }));
    assert_eq!(kernels_of("vision.layers.0", "layer_norm", Fusing::NOTHING).len(), 8);
    assert_eq!(kernels_of("expert.layers.0", "rms_norm", Fusing::NOTHING).len(), 5);
    assert_eq!(kernels_of("expert.layers.0", "silu_mul", Fusing::NOTHING).len(), 4);
    assert_eq!(kernels_of("expert.layers.0", "rope_q", Fusing::NOTHING).len(), 9);
}

/// Rows, depth, columns and microseconds.
type Published = (u64, u64, u64, f64);

/// Traced products on 110 cores with default settings. Tenstorrent, tt-metal
/// tech report *Matrix Multiply FLOPS*, "P150 Out of Box Results (11×10 grid)".
const BF16_HIFI2: [Published; 13] = [
    (640, 704, 704, 15.705),
    (640, 1408, 1408, 27.759),
    (640, 1408, 2816, 46.129),
    (1280, 1408, 1408, 41.366),
    (1280, 1408, 2816, 72.484),
    (1280, 2816, 2816, 108.106),
    (2560, 2816, 2816, 203.180),
    (2560, 2816, 4224, 291.085),
    (2560, 4224, 4224, 392.005),
    (3840, 4224, 4224, 588.295),
    (3840, 4224, 5632, 792.544),
    (3840, 5632, 5632, 1019.049),
    (5120, 5632, 5632, 1356.115),
];
const BFP8_LOFI: [Published; 13] = [
    (640, 704, 704, 13.042),
    (640, 1408, 1408, 20.993),
    (640, 1408, 2816, 32.780),
    (1280, 1408, 1408, 27.318),
    (1280, 1408, 2816, 43.471),
    (1280, 2816, 2816, 60.828),
    (2560, 2816, 2816, 107.694),
    (2560, 2816, 4224, 153.751),
    (2560, 4224, 4224, 206.962),
    (3840, 4224, 4224, 301.239),
    (3840, 4224, 5632, 406.239),
    (3840, 5632, 5632, 519.183),
    (5120, 5632, 5632, 688.164),
];
const BFP4_LOFI: [Published; 13] = [
    (640, 704, 704, 11.668),
    (640, 1408, 1408, 18.179),
    (640, 1408, 2816, 26.290),
    (1280, 1408, 1408, 21.365),
    (1280, 1408, 2816, 33.803),
    (1280, 2816, 2816, 51.699),
    (2560, 2816, 2816, 93.379),
    (2560, 2816, 4224, 131.631),
    (2560, 4224, 4224, 184.484),
    (3840, 4224, 4224, 270.500),
    (3840, 4224, 5632, 366.707),
    (3840, 5632, 5632, 475.039),
    (5120, 5632, 5632, 627.701),
];

#[test]
fn a_floor_on_top_is_nearer_to_published_products_than_one_as_a_minimum() {
    let settings = Settings { card: Card::p150().with_cores(110), ..Settings::default() };
    let tables: [(Format, Fidelity, &[Published]); 3] = [
        (Format::Bf16, Fidelity::HiFi2, &BF16_HIFI2),
        (Format::Bfp8, Fidelity::LoFi, &BFP8_LOFI),
        (Format::Bfp4, Fidelity::LoFi, &BFP4_LOFI),
    ];
    let (mut on_top, mut minimum) = (Vec::new(), Vec::new());
    for (format, fidelity, rows) in tables {
        for &(rows, depth, cols, published) in rows {
            let work = Work {
                products: vec![(Product { count: 1, rows, depth, cols }, fidelity)],
                vector: None,
                weights: (depth * cols) as f64 * bytes(format),
                activations: (rows * (depth + cols)) as f64 * bytes(format),
            };
            let mut sums = Sums::default();
            sums.work(&work, &settings);
            on_top.push(sums.total * 1e6 / published);
            minimum.push((sums.total - sums.floor).max(sums.floor) * 1e6 / published);
        }
    }
    let range = |ratios: &[f64]| {
        let least = ratios.iter().copied().fold(f64::INFINITY, f64::min);
        let most = ratios.iter().copied().fold(0.0, f64::max);
        format!("{least:.2} to {most:.2}")
    };
    assert_eq!(on_top.len(), 39);
    assert_eq!(range(&on_top), "0.73 to 1.17");
    assert_eq!(range(&minimum), "0.46 to 1.03");
}

/// One to three cameras, each plan, traced and not, one kernel an operation and as the compiler fuses.
fn all_latencies() -> Vec<Latency> {
    let mut latencies = Vec::new();
    let traces = [1, 2, 3].map(trace);
    for fusing in [Fusing::OPERATIONS, Fusing::COMPILER] {
        for launch in Launch::ALL {
            let settings = Settings { fusing, launch, ..Settings::default() };
            for name in ["accurate", "balanced", "fast"] {
                let plan = plan(name);
                latencies.extend(traces.iter().map(|trace| Latency::of(trace, &plan, &settings)));
            }
        }
    }
    latencies
}

#[test]
fn totals_are_those_on_paper() {
    const COMMAND: &str = "SMOLVLA_WRITE_DOCS=1 cargo test -p smolvla-backend-tt latency";
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/data/latency.md");
    let text = format!(
        "# SmolVLA on a Blackhole p150, modelled\n\n\
         Written by a test (`{COMMAND}`) from `crates/backend-tt/src/latency`, whose documentation says what is assumed.\n\n{}",
        compare(&all_latencies()).markdown()
    );
    if std::env::var_os("SMOLVLA_WRITE_DOCS").is_some() {
        std::fs::write(file, &text).unwrap();
    }
    assert_eq!(std::fs::read_to_string(file).unwrap_or_default(), text, "{COMMAND} brings it up to date");
}

#[test]
fn totals_of_one_to_three_cameras() {
    let settings = Settings::default();
    let latencies = [1, 2, 3].map(|cameras| Latency::of(&trace(cameras), &plan("balanced"), &settings));
    let rows = compare(&latencies).rows;
    assert_eq!(rows[0][1..], ["1841", "2.99", "2.85", "24.13", "29.97", "floors"]);
    assert_eq!(rows[1][1..], ["1841", "4.59", "2.99", "24.25", "31.82", "floors"]);
    assert_eq!(rows[2][1..], ["1841", "6.21", "3.12", "24.37", "33.70", "floors"]);
}

#[test]
fn more_work_takes_longer() {
    let trace = trace(1);
    let total = |plan: &Plan, settings: &Settings| Latency::of(&trace, plan, settings).total.total;
    let default = Settings::default();
    let ascending = |times: &[f64]| assert!(times.windows(2).all(|pair| pair[0] < pair[1]), "{times:?}");

    let fidelities = [Fidelity::LoFi, Fidelity::HiFi2, Fidelity::HiFi3, Fidelity::HiFi4];
    let at =
        |fidelity| LinearRule { layers: "*".to_owned(), fidelity: Some(fidelity), ..LinearRule::default() };
    ascending(&fidelities.map(|fidelity| total(&plan("balanced").with_rule(at(fidelity)), &default)));
    ascending(&["fast", "balanced", "accurate", "float"].map(|name| total(&plan(name), &default)));
    let balanced = plan("balanced");
    ascending(
        &[140, 120, 110]
            .map(|cores| total(&balanced, &Settings { card: Card::p150().with_cores(cores), ..default })),
    );
    ascending(&Launch::ALL.map(|launch| total(&balanced, &Settings { launch, ..default })));
    let fusings = [Fusing::OPERATIONS, Fusing::COMPILER, Fusing::NOTHING];
    ascending(&fusings.map(|fusing| total(&balanced, &Settings { fusing, ..default })));
    let activations = [Activations::L1, Activations::Gddr6];
    ascending(&activations.map(|activations| total(&balanced, &Settings { activations, ..default })));

    let cameras = |cameras| Latency::of_base(cameras, &balanced, &default).unwrap();
    let all: Vec<Latency> = (1..=4).map(cameras).collect();
    for stage in STAGES {
        ascending(&all.iter().map(|latency| latency.stage(stage).total).collect::<Vec<_>>());
    }
    assert!(Latency::of_base(0, &balanced, &default).is_err());
}

#[test]
fn sums_agree_with_themselves() {
    let trace = trace(2);
    for fusing in [Fusing::OPERATIONS, Fusing::COMPILER, Fusing::NOTHING] {
        let settings = Settings { fusing, ..Settings::default() };
        let latency = Latency::of(&trace, &plan("balanced"), &settings);
        let total = &latency.total;
        close(latency.stages.iter().map(|stage| stage.total).sum(), total.total);
        close(Bound::ALL.iter().map(|bound| total.passes_with.of(*bound)).sum(), total.total);
        close(Bound::ALL.iter().map(|bound| total.share(*bound)).sum(), 1.0);
        close(total.floor, total.kernels as f64 * 12e-6);
        // What is multiplied does not depend on what is one kernel.
        close(total.matrix, Latency::of(&trace, &plan("balanced"), &Settings::default()).total.matrix);
    }
    // Kernels of a step: the graph's 158 operations on the device; about the first port's 600 by the compiler.
    let kernels = |fusing| {
        let settings = Settings { fusing, ..Settings::default() };
        Latency::of(&trace, &plan("balanced"), &settings).stage(Stage::Denoise).kernels
    };
    assert_eq!(kernels(Fusing::OPERATIONS), 1_580);
    assert_eq!(kernels(Fusing::COMPILER), 5_940);
}

#[test]
fn tables_say_that_they_are_modelled() {
    let latency = Latency::of_base(1, &plan("float"), &Settings::default()).unwrap();
    let text = latency.to_string();
    assert!(text.starts_with("modelled, not measured: p150 of 120 cores, plan float, 1 camera"), "{text}");
    assert!(text.lines().nth(1).unwrap().ends_with("first port, measured"), "{text}");
    assert!(text.contains("no products of f32"), "{text}");
    let markdown = latency.table().markdown();
    assert!(markdown.starts_with("**modelled, not measured"), "{markdown}");
    assert!(markdown.contains("\n|---|---:|---:|---:|---:|---:|---:|---:|---:|\n| vision | "), "{markdown}");
    let table = compare(&[latency.clone(), latency]);
    assert!(table.title.starts_with("modelled"));
    assert_eq!(table.rows[2][2..6], ["23", "9", "121", "153"]);
    assert_eq!(table.notes.len(), 2);
    assert!(table.rows.iter().all(|row| row.len() == table.head.len()));
}

#[test]
fn the_first_ports_figures_are_the_documents() {
    let document = documents::named("seed-001").unwrap();
    let stated = |what: &str| -> f64 {
        document.rows.iter().find(|row| row.what == what).unwrap().stated.parse().unwrap()
    };
    assert_eq!(FIRST_PORT.preprocessing, stated("preprocessing, on the CPU"));
    assert_eq!(FIRST_PORT.vision, stated("vision encoder"));
    assert_eq!(FIRST_PORT.prefill, stated("VLM K/V cache"));
    assert_eq!(FIRST_PORT.denoise, stated("flow matching"));
    assert_eq!(FIRST_PORT.total, stated("total"));
}
