//! The estimates on paper that the project began with, beside the exact figures.
//!
//! Five documents derive what SmolVLA costs by hand. Each of their tables is computed here from its own formulas and
//! assumptions, to the digit that it printed; beside it stands what the graph says, and why the two differ.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Serialize;

use super::{Cost, Device, Execution, Format, Fusion, Storage, Widths};
use crate::config::{Architecture, PolicyConfig};
use crate::count::{Op, Part, Trace, Workload, count};
use crate::error::{Error, Result};
use crate::synth::{self, Size, SynthOptions};

/// A document's tables.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Document {
    /// The name of its scenario: `seed-002`.
    pub name: &'static str,
    /// Its own title.
    pub title: &'static str,
    /// What it assumes.
    pub assumptions: &'static str,
    /// Its figures, in its order.
    pub rows: Vec<Row>,
}

/// A figure of a document.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// The table or section it stands in.
    pub section: &'static str,
    /// What it is.
    pub what: &'static str,
    /// How the document derives it.
    pub formula: &'static str,
    /// As printed; empty where the document describes it without a number.
    pub stated: &'static str,
    /// What the formula yields; `None` where the document claims something without one.
    pub value: Option<f64>,
    /// The unit of all three.
    pub unit: &'static str,
    /// What the graph says, where it says anything about it.
    pub exact: Option<f64>,
    /// Why the two differ.
    pub reason: Cow<'static, str>,
}

impl Row {
    /// What the formula yields, with as many decimals as the document printed.
    pub fn value_as_printed(&self) -> Option<String> {
        self.value.map(|value| format!("{value:.*}", self.decimals()))
    }

    /// What the graph says, with as many decimals.
    pub fn exact_as_printed(&self) -> Option<String> {
        self.exact.map(|exact| format!("{exact:.*}", self.decimals()))
    }

    /// Whether the printed number follows from the document's own formula.
    pub fn follows(&self) -> bool {
        self.stated.is_empty() || self.value_as_printed().is_none_or(|value| value == self.stated)
    }

    fn decimals(&self) -> usize {
        if self.stated.is_empty() {
            return 2;
        }
        self.stated.split_once('.').map_or(0, |(_, decimals)| decimals.len())
    }
}

/// Names of the documents' scenarios.
pub const NAMES: [&str; 5] = ["seed-000", "seed-001", "seed-002", "seed-003", "seed-004"];

/// The document of this scenario.
///
/// # Errors
/// [`Error::Input`] when there is none of this name.
///
/// ```
/// use smolvla_core::cost::documents;
///
/// let document = documents::named("seed-003")?;
/// let total = document.rows.iter().find(|row| row.what == "total").unwrap();
/// assert_eq!((total.stated, total.value_as_printed().as_deref()), ("181.92", Some("181.92")));
/// assert_eq!(total.exact_as_printed().unwrap(), "175.90");
/// # Ok::<(), smolvla_core::Error>(())
/// ```
pub fn named(name: &str) -> Result<Document> {
    let of = match name {
        "seed-000" => cameras,
        "seed-001" => latency,
        "seed-002" => memory,
        "seed-003" => macs,
        "seed-004" => roofline,
        _ => {
            return Err(Error::input(
                "scenario",
                format!("there is no `{name}`; expected one of {}", NAMES.join(", ")),
            ));
        }
    };
    of(&Exact::new()?)
}

// What the documents take the model for.
const PATCHES: f64 = 1024.0;
const VISION: f64 = 768.0;
const VISION_FFN: f64 = 3072.0;
const VISION_LAYERS: f64 = 12.0;
const TOKENS: f64 = 113.0;
const TEXT: f64 = 960.0;
const TEXT_FFN: f64 = 2560.0;
const LAYERS: f64 = 16.0;
const CHUNK: f64 = 50.0;
const EXPERT: f64 = 720.0;
const EXPERT_FFN: f64 = 2048.0;
const STEPS: f64 = 10.0;
const VOCABULARY: f64 = 49_280.0;

const GIGA: f64 = 1e9;
const MEGA: f64 = 1e6;
const KILO: f64 = 1e3;
const MEBI: f64 = 1_048_576.0;

/// The published model, counted.
struct Exact {
    sizes: (PolicyConfig, Architecture),
    one: Trace,
    three: Trace,
    int8: Widths,
    layers: Cost,
    operations: Cost,
    operations_three: Cost,
    storage: Storage,
    storage_bf16: Storage,
}

impl Exact {
    fn new() -> Result<Self> {
        let (policy, architecture) =
            synth::sizes(&SynthOptions { size: Size::Base, ..SynthOptions::default() })?;
        let of = |cameras| count(&policy, &architecture, &Workload { cameras, ..Workload::of(&policy) });
        let (one, three) = (of(1)?, of(3)?);
        let int8 = Widths::uniform(Format::Int8);
        let u280 = Device::named("u280")?;
        let by_operation = Execution::default();
        let by_layer = Execution { fusion: Fusion::Layers, ..Execution::default() };
        let storage = |widths: &Widths| Storage::of(&policy, &architecture, &one, &by_operation, widths);
        Ok(Self {
            layers: Cost::of(&one, &by_layer, &int8, &u280)?,
            operations: Cost::of(&one, &by_operation, &int8, &u280)?,
            operations_three: Cost::of(&three, &by_operation, &int8, &u280)?,
            storage: storage(&int8),
            storage_bf16: storage(&Widths::uniform(Format::Bf16)),
            one,
            three,
            int8,
            sizes: (policy, architecture),
        })
    }

    /// Multiply-accumulates of the operations that `which` picks.
    fn macs(&self, which: impl Fn(&Op) -> bool) -> f64 {
        self.one.ops.iter().filter(|op| which(op)).map(Op::macs).sum::<u64>() as f64
    }

    /// Of some operations of a layer, in the first denoising step where there are steps.
    fn layer(&self, layer: &str, names: &[&str]) -> f64 {
        self.macs(|op| {
            &*op.layer == layer && names.contains(&&*op.name) && op.step.is_none_or(|step| step == 0)
        })
    }

    fn part(&self, part: Part) -> f64 {
        self.operations.part(part).macs as f64
    }

    /// Bytes of int8 weights of a layer.
    fn layer_weights(&self, layer: &str) -> f64 {
        let weights: BTreeMap<_, _> = self
            .one
            .ops
            .iter()
            .filter(|op| &*op.layer == layer && op.part != Part::CrossKv)
            .filter_map(|op| op.weight.as_ref().map(|weight| (&*weight.path, weight.elements)))
            .collect();
        weights.into_values().sum::<u64>() as f64 * self.int8.weights.bytes()
    }

    fn component(&self, names: &[&str]) -> f64 {
        let components = &self.storage.components;
        components.iter().filter(|c| names.contains(&c.component)).map(|c| c.parameters as f64).sum()
    }
}

/// Rows of a document, with the section that they stand in.
struct Rows {
    section: &'static str,
    rows: Vec<Row>,
}

impl Rows {
    fn new() -> Self {
        Self { section: "", rows: Vec::new() }
    }

    #[expect(clippy::too_many_arguments, reason = "the columns of a table, written as its rows")]
    fn row(
        &mut self,
        what: &'static str,
        formula: &'static str,
        stated: &'static str,
        value: impl Into<Option<f64>>,
        unit: &'static str,
        exact: impl Into<Option<f64>>,
        reason: impl Into<Cow<'static, str>>,
    ) {
        let (value, exact, reason) = (value.into(), exact.into(), reason.into());
        self.rows.push(Row { section: self.section, what, formula, stated, value, unit, exact, reason });
    }
}

fn cameras(exact: &Exact) -> Result<Document> {
    let mut rows = Rows::new();
    let patches = |trace: &Trace| {
        let embedding = trace.ops.iter().find(|op| &*op.name == "patch_embedding");
        embedding.map(|op| op.products.iter().map(|product| product.rows as f64).sum())
    };
    rows.section = "example setup";
    rows.row("patches, 1 camera", "(512/16)²", "1024", PATCHES, "rows", patches(&exact.one), "");
    rows.row("patches, 3 cameras", "3·1024", "3072", 3.0 * PATCHES, "rows", patches(&exact.three), "");

    rows.section = "roofline impact (int8)";
    let intensity = |m: f64| 2.0 * m * VISION * VISION / (2.0 * m * VISION + VISION * VISION);
    let output = |cost: &Cost| {
        let kernel = cost.kernels.iter().find(|kernel| kernel.name == "vision.layers.*.output");
        kernel.map(|kernel| kernel.sums.ops_per_byte())
    };
    rows.row(
        "768×768 product, 1 camera",
        "2·M·768² / (2·M·768 + 768²), M = 1024",
        "",
        intensity(PATCHES),
        "op/byte",
        output(&exact.operations),
        "the output projection also reads its residual and its bias",
    );
    rows.row(
        "768×768 product, 3 cameras",
        "the same, M = 3072",
        "",
        intensity(3.0 * PATCHES),
        "op/byte",
        output(&exact.operations_three),
        "only if the cameras go through the tower as one batch; one by one it stays that of one camera",
    );

    rows.section = "how images are combined";
    let attention = |rows: f64| 2.0 * rows * rows * VISION / GIGA;
    let three_cameras = exact.three.ops.iter().find(|op| op.part == Part::Vision && op.scores > 0);
    rows.row(
        "attention of a vision layer, 3 cameras",
        "option 1, “most likely”: 2·3072²·768",
        "",
        attention(3.0 * PATCHES),
        "GMAC",
        three_cameras.map(|op| op.macs() as f64 / GIGA),
        "each camera is encoded by itself: attention never spans cameras (option 2, without a fusion module)",
    );
    rows.row(
        "prefix tokens, 3 cameras",
        "3·64 + 48 + 1",
        "",
        3.0 * 64.0 + 48.0 + 1.0,
        "tokens",
        exact.three.prefix_tokens as f64,
        "1,024 positions are those of one camera; pixel shuffle makes 64 tokens of them",
    );
    Ok(Document {
        name: "seed-000",
        title: "Multi-Camera Input in smolVLA",
        assumptions: "512×512 pictures, all rows of N cameras in one product; bytes at one a value",
        rows: rows.rows,
    })
}

fn latency(_: &Exact) -> Result<Document> {
    let mut rows = Rows::new();
    rows.section = "performance (Blackhole p150, measured by its authors)";
    let parts = [77.0, 23.0, 9.0, 121.0];
    let sum: f64 = parts.iter().sum();
    const OTHERS: &str = "of another model than LeRobot's (no rotary embedding, 12 heads of 80, no state, no noise), so not comparable";
    rows.row(
        "preprocessing, on the CPU",
        "measured",
        "77",
        parts[0],
        "ms",
        None,
        "cutting into patches and tokenizing; not the model",
    );
    rows.row("vision encoder", "measured", "23", parts[1], "ms", None, OTHERS);
    rows.row("VLM K/V cache", "measured", "9", parts[2], "ms", None, OTHERS);
    rows.row("flow matching", "measured, 10 steps", "121", parts[3], "ms", None, OTHERS);
    rows.row("total", "77 + 23 + 9 + 121", "229", sum, "ms", None, "its parts sum up to 230");
    rows.row(
        "rate",
        "1 / 229 ms",
        "4.5",
        1000.0 / 229.0,
        "chunks/s",
        None,
        "1 / 0.229 s is 4.37; a chunk holds 50 actions",
    );
    Ok(Document {
        name: "seed-001",
        title: "SmolVLA - Vision-Language-Action Model on TT Hardware",
        assumptions: "measured on one card by a port that was checked against itself",
        rows: rows.rows,
    })
}

fn memory(exact: &Exact) -> Result<Document> {
    let mut rows = Rows::new();
    let layers = |part| exact.layers.part(part);
    let weights = |part| layers(part).traffic.weights;
    let activations = |part| layers(part).traffic.activations();

    rows.section = "vision encoder";
    let vision_weights = VISION_LAYERS * (4.0 * VISION * VISION + 2.0 * VISION * VISION_FFN);
    let vision_activations = VISION_LAYERS * 2.0 * PATCHES * VISION;
    rows.row(
        "weights",
        "12·(4·768² + 2·768·3072)",
        "84.9",
        vision_weights / MEGA,
        "MB",
        weights(Part::Vision) / MEGA,
        "leaves out the patch embedding, 0.59 MB",
    );
    rows.row(
        "activations",
        "12·2·1024·768",
        "18.9",
        vision_activations / MEGA,
        "MB",
        activations(Part::Vision) / MEGA,
        "leaves out what goes into the patch embedding and comes out of it, and the norm at the end",
    );
    let vision = vision_weights + vision_activations;
    rows.row(
        "vision",
        "weights + activations",
        "103.81",
        vision / MEGA,
        "MB",
        (weights(Part::Vision) + activations(Part::Vision)) / MEGA,
        "both of these",
    );

    rows.section = "VLM backbone";
    let text_weights = LAYERS * (TEXT * TEXT * 8.0 / 3.0 + 3.0 * TEXT * TEXT_FFN);
    let text_activations = LAYERS * 2.0 * TOKENS * TEXT;
    rows.row("weights", "16·(960²·8/3 + 3·960·2560), printed with 2.66", "157.3", text_weights / MEGA, "MB", weights(Part::Text) / MEGA, "of layer 15 only keys and values are read: 9.2 MB less; 48 rows of the embedding and the state's projection more");
    rows.row(
        "activations",
        "16·2·113·960",
        "3.5",
        text_activations / MEGA,
        "MB",
        activations(Part::Text) / MEGA,
        "the last layer leaves no residual; the prefix is put together, rotary tables are read",
    );
    let text = text_weights + text_activations;
    rows.row(
        "VLM",
        "weights + activations",
        "160.76",
        text / MEGA,
        "MB",
        (weights(Part::Text) + activations(Part::Text)) / MEGA,
        "both of these",
    );

    rows.section = "action expert";
    let static_kv = 8.0 * 2.0 * TEXT * 320.0;
    rows.row("static K/V projections", "8·2·960·320", "4.69", static_kv / MEBI, "MiB", weights(Part::CrossKv) / MEBI, "they read the language model's keys and values, 320 wide, not its 960: 8·2·320·320; and MiB stand among MB");
    let mlp = 3.0 * EXPERT * EXPERT_FFN;
    let self_layer = 2.0 * EXPERT * TEXT + 2.0 * EXPERT * 320.0 + mlp;
    let cross_layer = 2.0 * EXPERT * TEXT + mlp;
    rows.row(
        "self-attention layer",
        "2·720·960 + 2·720·320 + 3·720·2048",
        "5.98",
        self_layer / MEBI,
        "MiB",
        exact.layer_weights("expert.layers.0") / MEBI,
        "the same; in MB 6.27",
    );
    rows.row(
        "cross-attention layer",
        "2·720·960 + 3·720·2048",
        "5.54",
        cross_layer / MEBI,
        "MiB",
        exact.layer_weights("expert.layers.1") / MEBI,
        "the same; in MB 5.81",
    );
    let a_step = 8.0 * 5.98 + 8.0 * 5.54;
    let steps = weights(Part::Expert) / STEPS;
    rows.row(
        "weights of a step",
        "8·5.98 + 8·5.54, from the rounded",
        "92.16",
        a_step,
        "MiB",
        steps / MEBI,
        "leaves out the projections of actions and time, 1.08 MB",
    );
    rows.row(
        "weights of 10 steps",
        "10·92.16",
        "921.6",
        STEPS * a_step,
        "MiB",
        STEPS * steps / MEBI,
        "the same; in MB 965.8 and 976.7",
    );
    let expert_activations = LAYERS * 2.0 * CHUNK * EXPERT;
    rows.row(
        "activations of a step",
        "16·2·50·720",
        "1.10",
        expert_activations / MEBI,
        "MiB",
        activations(Part::Expert) / STEPS / MEBI,
        "leaves out suffix, velocity head, Euler step and rotary tables; MiB",
    );
    let rounded = |value: f64, decimals: i32| (value * 10_f64.powi(decimals)).round() / 10_f64.powi(decimals);
    let all_activations = STEPS * rounded(expert_activations / MEBI, 2);
    rows.row(
        "activations of 10 steps",
        "10·1.10, from the rounded",
        "11.0",
        all_activations,
        "MiB",
        activations(Part::Expert) / MEBI,
        "the same",
    );
    let expert = rounded(static_kv / MEBI, 2) + STEPS * a_step + all_activations;
    let expert_exact = |part| weights(part) + activations(part);
    let exact_expert = expert_exact(Part::Expert)
        + expert_exact(Part::CrossKv)
        + layers(Part::CrossKv).traffic.kv()
        + layers(Part::Expert).traffic.kv();
    rows.row(
        "action expert",
        "4.69 + 921.6 + 11.0",
        "937.29",
        expert,
        "MiB",
        exact_expert / MEBI,
        "leaves out reading the prefix's keys and values in every step, 11.6 MB",
    );

    rows.section = "summary";
    rows.row("total", "103.81 + 160.76 + 937.29, MB and MiB added", "1201.86", rounded(vision / MEGA, 2) + rounded(text / MEGA, 2) + expert, "MB", exact.layers.total.traffic.total() / MEGA, "in MB throughout its own terms give 1246.8; leaves out the connector, 11.8 MB, and what is said above");

    rows.section = "storage";
    let vision_parameters = vision_weights + VISION * VISION + PATCHES * VISION;
    rows.row(
        "vision encoder",
        "layers + 768² patch embedding + 1024·768 positions",
        "86.31",
        vision_parameters / MEGA,
        "M",
        exact.component(&["vision"]) / MEGA,
        "leaves out biases and norms",
    );
    let text_parameters = VOCABULARY * TEXT + text_weights + LAYERS * 2.0 * TEXT + TEXT;
    rows.row(
        "VLM backbone",
        "49280·960 + layers + norms",
        "204.63",
        text_parameters / MEGA,
        "M",
        exact.component(&["embed_tokens", "text"]) / MEGA,
        "the same",
    );
    let expert_parameters = 8.0 * self_layer + 8.0 * (cross_layer + 2.0 * 320.0 * 320.0);
    rows.row(
        "action expert",
        "8·SA + 8·(CA + 2·320²)",
        "98.22",
        expert_parameters / MEGA,
        "M",
        exact.component(&["expert"]) / MEGA,
        "leaves out norms",
    );
    let connector = 12_288.0 * TEXT;
    let rest = connector + VOCABULARY * TEXT;
    rows.row(
        "connector and heads",
        "12288·960 + 49280·960",
        "59.11",
        rest / MEGA,
        "M",
        exact.component(&["connector", "lm_head"]) / MEGA,
        "the same; lm_head is never read",
    );
    let parameters = vision_parameters + text_parameters + expert_parameters + rest;
    rows.row(
        "parameters",
        "sum of the four",
        "448.27",
        parameters / MEGA,
        "M",
        exact.storage.parameters as f64 / MEGA,
        "leaves out biases, norms and the projections of state, actions and time (1.64 M): 450,046,176",
    );
    rows.row(
        "original",
        "448.27·2, called BF16/FP32",
        "897",
        2.0 * parameters / MEGA,
        "MB",
        exact.storage_bf16.bytes / MEGA,
        "that is BF16 alone; FP32 is twice as much",
    );
    rows.row(
        "int8",
        "448.27·1",
        "448.27",
        parameters / MEGA,
        "MB",
        exact.storage.bytes / MEGA,
        "as the parameters; scales not counted in either",
    );
    rows.row("on-chip peak activation", "2·1024·768", "1.57", 2.0 * PATCHES * VISION / MEGA, "MB", exact.storage.peak_activation_bytes / MEGA, "in and out of a layer; within it 2.36 (QKV) and 3.15 (FC1) are alive beside the residual, and unfused scores would be 12.6 a layer");
    rows.row(
        "action context cache",
        "113·240·2",
        "54.24",
        TOKENS * 240.0 * 2.0 / KILO,
        "kB",
        exact.storage.kv_cache_bytes / KILO,
        "one layer, of 4 heads of 60; in truth 5 heads of 64, in 16 layers: 72.32 each",
    );
    rows.row(
        "embeddings and head in BF16",
        "448.27 + 59",
        "526",
        parameters / MEGA + rest / MEGA,
        "MB",
        None,
        "its own terms give 507",
    );
    rows.row(
        "weights that exceed on-chip memory",
        "84.9 + 157.3 + 98.2 by its own terms",
        "180",
        (vision_weights + text_weights + expert_parameters) / MEGA,
        "MB",
        None,
        "nothing in it adds up to 180",
    );
    Ok(Document {
        name: "seed-002",
        title: "SmolVLA Memory Access Calculation Derivation",
        assumptions: "one camera, 113 tokens, one byte a value, layer by layer: weights streamed, activations of a layer's ends in memory; 10 steps, cross-attention's K/V once",
        rows: rows.rows,
    })
}

fn macs(exact: &Exact) -> Result<Document> {
    let mut rows = Rows::new();
    rows.section = "vision encoder, a layer";
    let projections = 4.0 * PATCHES * VISION * VISION;
    let attention = 2.0 * PATCHES * PATCHES * VISION;
    let mlp = 2.0 * PATCHES * VISION * VISION_FFN;
    let of = |layer, names: &[&str]| exact.layer(layer, names) / GIGA;
    rows.row(
        "Q, K, V, Out",
        "4·1024·768²",
        "2.41",
        projections / GIGA,
        "GMAC",
        of("vision.layers.0", &["qkv", "output"]),
        "the same, rounded down: 2.416",
    );
    rows.row(
        "attention",
        "2·1024²·768",
        "1.61",
        attention / GIGA,
        "GMAC",
        of("vision.layers.0", &["attention"]),
        "the same",
    );
    rows.row(
        "MLP",
        "2·1024·768·3072",
        "4.83",
        mlp / GIGA,
        "GMAC",
        of("vision.layers.0", &["fc1", "fc2"]),
        "the same",
    );
    let vision = VISION_LAYERS * (projections + attention + mlp);
    rows.section = "summary";
    rows.row(
        "vision encoder",
        "12 layers",
        "106.30",
        vision / GIGA,
        "GMAC",
        exact.part(Part::Vision) / GIGA,
        "leaves out the patch embedding, 0.60",
    );

    rows.section = "VLM backbone, a layer";
    let projections = TOKENS * TEXT * TEXT * 8.0 / 3.0;
    let attention = 2.0 * TOKENS * TOKENS * TEXT;
    let mlp = 3.0 * TOKENS * TEXT * TEXT_FFN;
    rows.row(
        "Q, K, V, Out",
        "113·960²·8/3",
        "0.28",
        projections / GIGA,
        "GMAC",
        of("text.layers.0", &["qkv", "output"]),
        "the same: 15 and 5 heads of 64 are 960 and 320 wide too",
    );
    rows.row(
        "attention",
        "2·113²·960",
        "0.025",
        attention / GIGA,
        "GMAC",
        of("text.layers.0", &["attention"]),
        "the same",
    );
    rows.row(
        "MLP",
        "3·113·960·2560",
        "0.83",
        mlp / GIGA,
        "GMAC",
        of("text.layers.0", &["gate_up", "down"]),
        "the same",
    );
    let text = LAYERS * (projections + attention + mlp);
    rows.section = "summary";
    rows.row(
        "VLM backbone",
        "16 layers",
        "18.17",
        text / GIGA,
        "GMAC",
        exact.part(Part::Text) / GIGA,
        "of the last layer only keys and values are read",
    );

    rows.section = "action expert, once";
    let static_kv = LAYERS * 2.0 * TOKENS * TEXT * 240.0;
    rows.row(
        "static K/V projections",
        "16·2·113·960·240",
        "0.83",
        static_kv / GIGA,
        "GMAC",
        exact.part(Part::CrossKv) / GIGA,
        "8 layers have them, from 320 to 320",
    );
    rows.section = "action expert, a step and layer";
    let own_projections = 8.0 / 3.0 * CHUNK * EXPERT * EXPERT;
    let own_attention = 2.0 * CHUNK * CHUNK * EXPERT;
    rows.row(
        "self-attention: projections",
        "8/3·50·720²",
        "0.07",
        own_projections / GIGA,
        "GMAC",
        of("expert.layers.0", &["qkv", "output"]),
        "heads are 15 and 5 of 64, wider than the expert: 960 and 320",
    );
    rows.row(
        "self-attention: attention",
        "2·50²·720",
        "0.0036",
        own_attention / GIGA,
        "GMAC",
        of("expert.layers.0", &["self_attention"]),
        "keys are the prefix's 113 and the 50",
    );
    let own = own_projections + own_attention;
    rows.row(
        "self-attention",
        "both",
        "0.073",
        own / GIGA,
        "GMAC",
        of("expert.layers.0", &["qkv", "self_attention", "output"]),
        "in every second layer only",
    );
    let cross_projection = CHUNK * EXPERT * EXPERT;
    let cross_attention = 2.0 * CHUNK * TOKENS * EXPERT;
    rows.row(
        "cross-attention: Q",
        "50·720²",
        "0.026",
        cross_projection / GIGA,
        "GMAC",
        of("expert.layers.1", &["query"]),
        "720 to 960",
    );
    rows.row(
        "cross-attention: Out",
        "50·720²",
        "0.026",
        cross_projection / GIGA,
        "GMAC",
        of("expert.layers.1", &["output"]),
        "960 to 720",
    );
    rows.row(
        "cross-attention: attention",
        "2·50·113·720",
        "0.008",
        cross_attention / GIGA,
        "GMAC",
        of("expert.layers.1", &["cross_attention"]),
        "960 wide",
    );
    let cross = 2.0 * cross_projection + cross_attention;
    rows.row(
        "cross-attention",
        "all three",
        "0.060",
        cross / GIGA,
        "GMAC",
        of("expert.layers.1", &["query", "cross_attention", "output"]),
        "in every second layer only",
    );
    let mlp = 3.0 * CHUNK * EXPERT * EXPERT_FFN;
    rows.row(
        "MLP",
        "3·50·720·2048",
        "0.22",
        mlp / GIGA,
        "GMAC",
        of("expert.layers.1", &["gate_up", "down"]),
        "the same",
    );
    let dynamic = LAYERS * STEPS * (own + cross + mlp);
    rows.section = "summary";
    rows.row("action expert, 10 steps", "16·10·(0.073 + 0.060 + 0.22)", "56.62", dynamic / GIGA, "GMAC", exact.part(Part::Expert) / GIGA, "counts self- and cross-attention in all 16 layers, in truth 8 and 8; heads and keys as above; leaves out the projections of actions and time, 0.54");
    let expert = static_kv + dynamic;
    rows.row(
        "action expert",
        "static + dynamic",
        "57.45",
        expert / GIGA,
        "GMAC",
        (exact.part(Part::Expert) + exact.part(Part::CrossKv)) / GIGA,
        "both",
    );
    rows.row("total", "sum of the three", "181.92", (vision + text + expert) / GIGA, "GMAC", exact.operations.total.macs as f64 / GIGA, "as above, and leaves out the connector, 0.75. With the time MLP as LeRobot writes it, over every action in every step, 176.16");
    rows.section = "assumptions";
    rows.row(
        "VLM tokens",
        "192/3 + 48 + 1",
        "113",
        192.0 / 3.0 + 48.0 + 1.0,
        "tokens",
        exact.one.prefix_tokens as f64,
        "64 a camera",
    );
    Ok(Document {
        name: "seed-003",
        title: "SmolVLA MACs Calculation Derivation",
        assumptions: "one camera, 113 tokens, 50 actions, 10 steps; expert heads 12 and 4 of 60; cross-attention's K/V once",
        rows: rows.rows,
    })
}

fn roofline(exact: &Exact) -> Result<Document> {
    let mut rows = Rows::new();
    let (u280, board) = (Device::named("u280")?, Device::named("u280-datasheet")?);
    let ridge = |device: &Device| -> Result<f64> {
        Ok(device.peak(Format::Int8)?.tops * 1e12 / (device.memory.gb_s * 1e9))
    };
    let (ours, published) = (ridge(&u280)?, ridge(&board)?);
    let linear = |part: Part| {
        exact.operations.kernels.iter().filter(move |k| {
            k.part == part
                && k.sums.macs > 0
                && !k.name.ends_with("attention")
                && !k.name.starts_with("prefix.")
        })
    };
    let lowest = |part: Part| linear(part).map(|k| k.sums.ops_per_byte()).fold(f64::INFINITY, f64::min);
    let count = |part: Part, most: f64| {
        linear(part).filter(|k| k.sums.ops_per_byte() < most).map(|k| k.sums.kernels).sum::<u64>() as f64
    };
    let of = |part: Part| count(part, f64::INFINITY);

    rows.section = "vision encoder";
    rows.row(
        "memory-bound products",
        "claimed: most kernels are, at batch 1",
        "",
        None,
        "products",
        count(Part::Vision, ours),
        format!(
            "of {}: M is 1,024 at batch 1 already; the ridge of the preset u280 is at {ours:.1} op/byte, that of the board's \
             published peak at {published:.0}",
            of(Part::Vision)
        ),
    );
    rows.row(
        "least intensity of a product",
        "claimed: below the ridge",
        "",
        None,
        "op/byte",
        lowest(Part::Vision),
        format!("above {ours:.1} and {published:.0}"),
    );
    let connector = exact.one.ops.iter().find(|op| op.part == Part::Connector && op.macs() > 0);
    let connector_rows = connector.map(|op| op.products.iter().map(|product| product.rows as f64).sum());
    rows.row("connector: rows", "claimed", "1", None, "rows", connector_rows, "64 tokens a camera");
    let vector = 2.0 * 12_288.0 * TEXT / (12_288.0 * TEXT + 12_288.0 + TEXT);
    let kernel = exact.operations.kernels.iter().find(|k| k.name == "connector.connector");
    rows.row(
        "connector: intensity",
        "2·12288·960 / (12288·960 + 12288 + 960), from M = 1",
        "",
        vector,
        "op/byte",
        kernel.map(|k| k.sums.ops_per_byte()),
        "not memory-bound on a U280",
    );

    rows.section = "text encoder";
    rows.row(
        "memory-bound products",
        "claimed: MLP and Q, K, V are, at batch 1",
        "",
        None,
        "products",
        count(Part::Text, ours),
        format!("of {}: M is 113", of(Part::Text)),
    );
    rows.row(
        "least intensity of a product",
        "claimed: below the ridge",
        "",
        None,
        "op/byte",
        lowest(Part::Text),
        format!("above {ours:.1} and {published:.0}"),
    );

    rows.section = "recommendations and resources";
    let scaled = Storage::of(
        &exact.sizes.0,
        &exact.sizes.1,
        &exact.one,
        &Execution::default(),
        &Widths::named("int8")?,
    );
    let scaled = 2.0 * exact.storage_bf16.bytes / scaled.bytes;
    rows.row(
        "int8 against FP32",
        "32/8",
        "4",
        4.0,
        "times",
        scaled,
        format!(
            "{scaled:.2} with a scale an output; and throughput follows only where bandwidth binds, which on this design it \
             does not"
        ),
    );
    let gigabytes = exact.storage_bf16.bytes / GIGA;
    rows.row(
        "parameters",
        "without a number format",
        "0.8",
        None,
        "GB",
        gigabytes,
        format!(
            "{gigabytes:.2} in BF16, {:.2} in FP32, {:.2} in int8; all fit the card's {} GB",
            2.0 * gigabytes,
            gigabytes / 2.0,
            u280.memory.capacity_gb
        ),
    );
    Ok(Document {
        name: "seed-004",
        title: "VLM Roofline Analysis Summary",
        assumptions: "claims about the roofline of a U280 at batch 1, almost without numbers; judged against the preset u280",
        rows: rows.rows,
    })
}
