//! A backend that counts instead of computing: its tensors are shapes.
//!
//! It runs the very graph that other backends run ([`crate::graph`]) and writes down each operation: its
//! matrix products, its other arithmetic, the weights and tensors it reads and what it leaves behind. [`count()`] does
//! that for a [`Workload`] and yields a [`Trace`], from which [`crate::cost`] derives traffic, storage and time. Nothing
//! here knows a number format or a device.
//!
//! What is counted, and how:
//!
//! - **Products**: a linear layer is one product `rows × inputs × outputs`; an attention is two for each observation and
//!   head, `queries × head_dim × keys` and `queries × keys × head_dim`, every pair counted, masked or not.
//! - **Other arithmetic**, an addition, multiplication, comparison, exponential or root being one operation each:
//!   bias, residual, scale 1 an element; `axpy` 2; rotary embedding 3; RMS norm 4; layer norm 7; SiLU 4; gate of a SwiGLU 5;
//!   GELU (tanh) 8; softmax 6 a score (scale, largest, difference, exponential, sum, division) and 1 more under a mask.
//! - Masks are not counted as traffic: they follow from a few lengths. Views (columns of a fused product, rows of a
//!   batch) move nothing.

mod counter;

use std::collections::HashMap;
use std::sync::Arc;

use crate::backend::{Backend, Precision};
use crate::checkpoint::{self, ExpectedTensor};
use crate::config::{Architecture, ImageSpecialTokens, PolicyConfig};
use crate::error::{Error, Result};
use crate::graph::{self, CameraInput, ModelInput, Parameters, PrefixLayout, Stage};
use crate::precision::PrecisionPlan;
use crate::weights::{StorageType, TensorView};
use counter::{Counter, Scopes, lock};

/// Most pictures in one count: their pixels pass through the graph's own cutting into patches.
pub const MOST_IMAGES: usize = 64;
/// Most values of all their pixels, for the same reason.
const MOST_PIXEL_VALUES: usize = 1 << 26;
/// Most patches of a picture.
const MOST_PATCHES: usize = 1 << 14;
/// Most pairs of tokens that a mask is made for: the graph makes masks on the host.
const MOST_MASK: usize = 1 << 27;
/// Most layers of a stack, elements of a parameter, and elements of all parameters: far beyond any SmolVLA, and so that
/// no sum overflows.
const MOST_LAYERS: usize = 512;
const MOST_ELEMENTS: u128 = 1 << 30;
const MOST_PARAMETERS: u128 = 1 << 36;
/// Most denoising steps, as in [`crate::policy`].
const MOST_STEPS: usize = 1000;
/// Most instruction tokens; the language model's own limit.
const MOST_PROMPT_TOKENS: usize = 8192;
/// Most actions in a chunk.
const MOST_CHUNK: usize = 4096;

/// A part of the model, as cost tables divide it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// Patch embedding and vision tower.
    Vision,
    /// Pixel shuffle and projection to image tokens.
    Connector,
    /// Prefix and language model.
    Text,
    /// The expert's projections of the prefix's keys and values, the same in every denoising step.
    CrossKv,
    /// Denoising steps of the action expert.
    Expert,
}

impl Part {
    /// Every part, in the order of execution.
    pub const ALL: [Self; 5] = [Self::Vision, Self::Connector, Self::Text, Self::CrossKv, Self::Expert];

    /// The name used in tables and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Vision => "vision",
            Self::Connector => "connector",
            Self::Text => "text",
            Self::CrossKv => "cross_kv",
            Self::Expert => "expert",
        }
    }

    /// The stage that timings of a run put it into.
    pub fn stage(self) -> Stage {
        match self {
            Self::Vision | Self::Connector => Stage::Vision,
            Self::Text | Self::CrossKv => Stage::Prefill,
            Self::Expert => Stage::Denoise,
        }
    }
}

/// What is to be computed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Observations in the batch.
    pub batch: usize,
    /// Cameras of an observation.
    pub cameras: usize,
    /// Whether all images go through the vision tower as one batch, as the graph does; otherwise one by one.
    pub images_together: bool,
    /// Tokens of the instruction.
    pub prompt_tokens: usize,
    /// Denoising steps.
    pub steps: usize,
    /// Actions in a chunk; `None`: as the policy says.
    pub chunk: Option<usize>,
}

impl Workload {
    /// One observation of one camera with the policy's own numbers: an instruction of full length, its steps, its chunk.
    pub fn of(policy: &PolicyConfig) -> Self {
        Self {
            batch: 1,
            cameras: 1,
            images_together: true,
            prompt_tokens: policy.tokenizer_max_length,
            steps: policy.num_steps,
            chunk: None,
        }
    }

    fn check(&self) -> Result<()> {
        within("batch", self.batch, MOST_IMAGES)?;
        within("cameras", self.cameras, MOST_IMAGES)?;
        within("prompt", self.prompt_tokens, MOST_PROMPT_TOKENS)?;
        within("steps", self.steps, MOST_STEPS)?;
        if let Some(chunk) = self.chunk {
            within("chunk", chunk, MOST_CHUNK)?;
        }
        if self.batch * self.cameras > MOST_IMAGES {
            return Err(Error::input(
                "cameras",
                format!(
                    "{} with a batch of {} are {} pictures; expected at most {MOST_IMAGES} in all",
                    self.cameras,
                    self.batch,
                    self.batch * self.cameras
                ),
            ));
        }
        Ok(())
    }
}

fn within(field: &str, value: usize, most: usize) -> Result<()> {
    if (1..=most).contains(&value) {
        return Ok(());
    }
    Err(Error::input(field, format!("{value}; expected 1 to {most}")))
}

/// Everything a chunk takes, in order of execution.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Trace {
    /// The operations.
    pub ops: Vec<Op>,
    /// The tensors they are about, by their number.
    pub tensors: Vec<TensorInfo>,
    /// Tokens of the prefix.
    pub prefix_tokens: usize,
    /// What was counted.
    pub workload: Workload,
}

/// One operation of the graph.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Op {
    /// Which.
    pub kind: OpKind,
    /// The part of the model.
    pub part: Part,
    /// The layer it belongs to, or what stands in its place: `vision.layers.3`, `connector`, `expert.suffix`.
    pub layer: Arc<str>,
    /// Its own name within the layer: that of the linear layer, else the operation's.
    pub name: Arc<str>,
    /// Whether it is part of the layer's MLP rather than of its attention.
    pub is_mlp: bool,
    /// The denoising step.
    pub step: Option<usize>,
    /// Matrix products in it.
    pub products: Vec<Product>,
    /// Operations beside the products.
    pub elementwise: u64,
    /// The weight it reads, if it is a linear layer or a table.
    pub weight: Option<Weight>,
    /// Elements of biases that it reads.
    pub biases: u64,
    /// Attention scores it makes and uses up.
    pub scores: u64,
    /// Tensors it reads.
    pub inputs: Vec<usize>,
    /// Tensors it makes.
    pub outputs: Vec<usize>,
}

impl Op {
    /// Multiply-accumulates of its products.
    pub fn macs(&self) -> u64 {
        self.products.iter().map(Product::macs).sum()
    }
}

/// Kinds of operations, as [`Backend`] has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum OpKind {
    /// [`Backend::linear`].
    Linear,
    /// [`Backend::attention`].
    Attention,
    /// [`Backend::layer_norm`].
    LayerNorm,
    /// [`Backend::rms_norm`].
    RmsNorm,
    /// [`Backend::rope`].
    Rope,
    /// [`Backend::activate`].
    Activate,
    /// [`Backend::silu_mul`].
    SiluMul,
    /// [`Backend::scale`].
    Scale,
    /// [`Backend::axpy`].
    Axpy,
    /// [`Backend::embed_rows`].
    EmbedRows,
    /// [`Backend::concat_tokens`].
    ConcatTokens,
    /// [`Backend::pixel_shuffle`].
    PixelShuffle,
    /// [`Backend::slice_rows`] and [`Backend::split_cols`]: a view, nothing moves.
    View,
    /// [`Backend::upload`] during a run.
    Upload,
    /// [`Backend::download`].
    Download,
}

impl OpKind {
    /// The name used in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Linear => "linear",
            Self::Attention => "attention",
            Self::LayerNorm => "layer_norm",
            Self::RmsNorm => "rms_norm",
            Self::Rope => "rope",
            Self::Activate => "activate",
            Self::SiluMul => "silu_mul",
            Self::Scale => "scale",
            Self::Axpy => "axpy",
            Self::EmbedRows => "embed_rows",
            Self::ConcatTokens => "concat_tokens",
            Self::PixelShuffle => "pixel_shuffle",
            Self::View => "view",
            Self::Upload => "upload",
            Self::Download => "download",
        }
    }

    /// Whether a device does anything for it.
    pub fn is_work(self) -> bool {
        !matches!(self, Self::View | Self::Upload | Self::Download)
    }
}

/// `count` matrix products `[rows, depth]·[depth, cols]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Product {
    /// How many of this shape.
    pub count: u64,
    /// Rows of the result.
    pub rows: u64,
    /// Length of the sums.
    pub depth: u64,
    /// Columns of the result.
    pub cols: u64,
}

impl Product {
    /// Multiply-accumulates.
    pub fn macs(&self) -> u64 {
        self.count * self.rows * self.depth * self.cols
    }
}

/// A weight that an operation reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Weight {
    /// Its path in the graph, see [`layer_paths`](crate::graph::layer_paths).
    pub path: Arc<str>,
    /// Elements read: all of a linear layer, of a table the rows asked for.
    pub elements: u64,
    /// Rows among them, each the weights of one output: quantisation gives each scales of its own.
    pub rows: u64,
}

/// What a tensor is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Role {
    /// A gain, a bias or position embeddings: part of the checkpoint.
    Parameter,
    /// Comes from the host for this chunk.
    Input,
    /// Passes between operations.
    Activation,
    /// Keys or values of the prefix, kept for the denoising steps.
    Cache,
}

/// A tensor of the trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TensorInfo {
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub cols: usize,
    /// What it is for.
    pub role: Role,
    /// The tensor it is a part of, for a view.
    pub view_of: Option<usize>,
}

impl TensorInfo {
    /// Number of elements.
    pub fn elements(&self) -> u64 {
        self.rows as u64 * self.cols as u64
    }
}

/// Counts a chunk of the policy by running its graph on shapes.
///
/// The first chunk is counted, which computes what depends on the number of steps alone (`expert.time_in_time`);
/// [`crate::cost::TimeMlp`] says what becomes of it.
///
/// # Errors
/// [`Error::Input`] naming the field of the workload that is out of range; [`Error::Config`] or [`Error::Backend`] where
/// the sizes do not fit one another.
pub fn count(policy: &PolicyConfig, architecture: &Architecture, workload: &Workload) -> Result<Trace> {
    count_on(policy, architecture, workload, |counter| counter)
}

/// [`count()`] with the instruction that makes the prefix as long as `prefix_tokens`, for comparisons with runs whose
/// prefix is known.
///
/// # Errors
/// As [`count()`]; [`Error::Input`] when so few tokens leave none for an instruction.
pub fn count_with_prefix(
    policy: &PolicyConfig,
    architecture: &Architecture,
    workload: &Workload,
    prefix_tokens: usize,
) -> Result<Trace> {
    let cheap = Workload { prompt_tokens: 1, steps: 1, ..workload.clone() };
    let others = count(policy, architecture, &cheap)?.prefix_tokens - 1;
    if prefix_tokens <= others {
        return Err(Error::input(
            "prefix_tokens",
            format!(
                "{prefix_tokens}; {others} of them are images and state, and none is left for the instruction"
            ),
        ));
    }
    count(policy, architecture, &Workload { prompt_tokens: prefix_tokens - others, ..workload.clone() })
}

/// [`count()`] on a backend that wraps the counter.
pub(crate) fn count_on<B: Backend>(
    policy: &PolicyConfig,
    architecture: &Architecture,
    workload: &Workload,
    wrap: impl FnOnce(Counter) -> B,
) -> Result<Trace> {
    workload.check()?;
    let mut architecture = architecture.clone();
    if let Some(chunk) = workload.chunk {
        architecture.chunk_size = chunk;
    }
    if policy.add_image_special_tokens && architecture.image_special_tokens.is_none() {
        // How many there are matters, not which.
        architecture.image_special_tokens = Some(ImageSpecialTokens { fake: 0, global: 0 });
    }
    let side = side(policy, &architecture)?;
    check_sizes(&architecture, workload, side)?;
    let shapes = Shapes::new(checkpoint::expected(policy, &architecture))?;
    let mut counter = Counter::default();
    if !workload.images_together {
        counter.max_tensor_bytes = Some(1);
    }
    let state = Arc::clone(&counter.state);
    let plan = PrecisionPlan::from(Precision::F32);
    let mut model = graph::load(wrap(counter), &architecture, &plan, &shapes, &mut |_| ())?;

    let image = vec![0.0; architecture.vision.channels * side * side];
    let camera =
        CameraInput { side, images: vec![image; workload.batch], present: vec![true; workload.batch] };
    let tokens = workload.batch * workload.prompt_tokens;
    let input = ModelInput {
        batch: workload.batch,
        cameras: vec![camera; workload.cameras],
        tokens: vec![0; tokens],
        token_mask: vec![true; tokens],
        token_length: workload.prompt_tokens,
        state: vec![0.0; workload.batch * architecture.max_state_dim],
        noise: vec![0.0; workload.batch * architecture.chunk_size * architecture.max_action_dim],
        steps: workload.steps,
        prefix_length: 0,
        layout: PrefixLayout::Packed,
    };
    {
        let mut state = lock(&state);
        (state.running, state.steps) = (true, workload.steps);
    }
    let output = model.run(&input, &mut Scopes { state: Arc::clone(&state) })?;
    let mut state = lock(&state);
    Ok(Trace {
        ops: std::mem::take(&mut state.ops),
        tensors: std::mem::take(&mut state.tensors),
        prefix_tokens: output.prefix_tokens,
        workload: workload.clone(),
    })
}

/// Side of the pictures that go through the tower.
fn side(policy: &PolicyConfig, architecture: &Architecture) -> Result<usize> {
    let vision = &architecture.vision;
    let (width, height) = policy.resize_imgs_with_padding.unwrap_or((vision.image_size, vision.image_size));
    let multiple = vision.patch_size * architecture.scale_factor;
    if width == height && width > 0 && width.is_multiple_of(multiple) {
        return Ok(width);
    }
    Err(Error::input(
        "resize_imgs_with_padding",
        format!("[{width}, {height}]; expected a square whose side is a multiple of {multiple}"),
    ))
}

/// Refuses what would take more memory or larger numbers than any SmolVLA does.
fn check_sizes(architecture: &Architecture, workload: &Workload, side: usize) -> Result<()> {
    let vision = &architecture.vision;
    for (field, layers) in [
        ("vision_config.num_hidden_layers", vision.layers),
        ("num_vlm_layers", architecture.text.layers),
        ("num_expert_layers", architecture.expert.layers),
    ] {
        within(field, layers, MOST_LAYERS)?;
    }
    let patches = (side / vision.patch_size).pow(2);
    within("patches of a picture", patches, MOST_PATCHES)?;
    let images = workload.batch * workload.cameras;
    let pixels = side.saturating_mul(side).saturating_mul(vision.channels).saturating_mul(images);
    within("values of all pictures", pixels, MOST_PIXEL_VALUES)?;
    let special = if architecture.image_special_tokens.is_some() { 3 } else { 0 };
    let image_tokens = patches / architecture.scale_factor.pow(2) + special;
    let prefix = workload.cameras * image_tokens + workload.prompt_tokens + 1;
    let chunk = architecture.chunk_size;
    let pairs = workload.batch.saturating_mul(prefix.max(chunk)).saturating_mul(prefix + chunk);
    if pairs > MOST_MASK {
        return Err(Error::input(
            "prompt",
            format!(
                "a batch of {} with a prefix of {prefix} tokens and {chunk} actions has masks of {pairs} pairs; expected at \
                 most {MOST_MASK}",
                workload.batch
            ),
        ));
    }
    Ok(())
}

/// Parameters of the right shapes without values.
struct Shapes {
    tensors: HashMap<String, (usize, usize)>,
    /// Zeros for the largest of them. Never touched, so that the operating system never provides it.
    zeros: Vec<u8>,
}

impl Shapes {
    fn new(expected: Vec<ExpectedTensor>) -> Result<Self> {
        let mut tensors = HashMap::with_capacity(expected.len());
        let (mut largest, mut all) = (0, 0_u128);
        for tensor in expected {
            let shape = tensor.shape();
            let elements = shape.iter().map(|len| *len as u128).product::<u128>();
            all += elements;
            if elements > MOST_ELEMENTS || all > MOST_PARAMETERS {
                return Err(Error::input(
                    tensor.name,
                    format!(
                        "{shape:?} is larger than costs are counted for: {MOST_ELEMENTS} elements, or {MOST_PARAMETERS} in all"
                    ),
                ));
            }
            let matrix = match shape[..] {
                [cols] => (1, cols),
                _ => (shape[0], shape[1..].iter().product()),
            };
            largest = largest.max(matrix.0 * matrix.1);
            tensors.insert(tensor.name, matrix);
        }
        Ok(Self { tensors, zeros: vec![0; StorageType::Bf16.bytes_of(largest)] })
    }
}

impl Parameters for Shapes {
    fn tensor(&self, name: &str) -> Result<TensorView<'_>> {
        let absent = |reason: &str| Error::Tensor {
            file: "the architecture".into(),
            tensor: name.to_owned(),
            reason: reason.to_owned(),
        };
        let (rows, cols) = *self.tensors.get(name).ok_or_else(|| absent("has no such parameter"))?;
        let bytes = &self.zeros[..StorageType::Bf16.bytes_of(rows * cols)];
        TensorView::new(StorageType::Bf16, rows, cols, bytes).ok_or_else(|| absent("has no size"))
    }
}
