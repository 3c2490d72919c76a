//! The seam: what a device must be able to do to run SmolVLA.
//!
//! Activations are row-major matrices `[rows, cols]` where `rows = batch × tokens`: the tokens of one
//! observation are consecutive rows. Every operation takes references and returns a new tensor or a
//! [`BackendError`]; it may only enqueue the work ([`Backend::synchronize`] waits for it).
//!
//! A backend implements the required operations. The provided ones ([`Backend::vision_layer`] and so on)
//! are composed from them in [`crate::graph`]; a device overrides one where it has a fused kernel, says so in
//! [`Backend::overrides`], and the composed form stays its oracle.
//!
//! Shapes are not checked here: [`crate::Checked`] does that once for all backends, and
//! [`crate::SmolVla`] always runs through it.

use std::fmt;

use crate::graph::{DenoiseContext, Expert, ExpertLayer, KeyValue, TextLayer, TextLayerOutput, VisionLayer};
use crate::precision::PrecisionPlan;
use crate::weights::LinearSource;

/// A matrix on a device.
pub trait Matrix {
    /// Number of rows.
    fn rows(&self) -> usize;
    /// Number of columns.
    fn cols(&self) -> usize;
}

/// A prepared linear layer or embedding table on a device.
pub trait Prepared {
    /// Width of what goes in (for a table: number of rows).
    fn inputs(&self) -> usize;
    /// Width of what comes out (for a table: width of a row).
    fn outputs(&self) -> usize;
    /// The precision the weight is really held and multiplied in.
    fn precision(&self) -> Precision;
}

/// An attention mask on a device.
pub trait AttentionMask {
    /// Observations in the batch.
    fn batch(&self) -> usize;
    /// Query tokens of an observation.
    fn queries(&self) -> usize;
    /// Keys of an observation, over all segments.
    fn keys(&self) -> usize;
}

/// In what numbers a linear layer's weights are held and multiplied. Chosen when the weight is prepared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Precision {
    /// 32-bit floats throughout.
    #[default]
    F32,
    /// bfloat16 weights and products, 32-bit accumulation.
    Bf16,
    /// IEEE half weights and products, 32-bit accumulation.
    F16,
    /// 8-bit integer weights and products, 32-bit integer accumulation.
    Int8,
    /// 8-bit integer weights with a scale for each output, and activations of 16 bits: multiplied as bfloat16 with 32-bit
    /// accumulation, or as integers.
    Int8Weights,
    /// 8-bit integer products in linear layers and in attention, 32-bit integer accumulation.
    Int8Full,
    /// 16-bit integer weights and activations, multiplied in 8-bit digits with a wider integer accumulation.
    Int16,
    /// Weights in 8-bit block floats (16 of a row share an exponent), bfloat16 activations, products of all of the
    /// weight's bits, 32-bit accumulation.
    Bfp8,
    /// Weights and activations in 8-bit block floats, products of their leading bits only, 16-bit accumulation.
    Bfp8LoFi,
}

impl Precision {
    /// Every precision there is.
    pub const ALL: &[Self] = &[
        Self::F32,
        Self::Bf16,
        Self::F16,
        Self::Int8,
        Self::Int8Weights,
        Self::Int8Full,
        Self::Int16,
        Self::Bfp8,
        Self::Bfp8LoFi,
    ];

    /// The name used on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
            Self::Int8 => "int8",
            Self::Int8Weights => "int8w",
            Self::Int8Full => "int8full",
            Self::Int16 => "int16",
            Self::Bfp8 => "bfp8",
            Self::Bfp8LoFi => "bfp8lofi",
        }
    }

    /// The precision of this [`Precision::name`].
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|precision| precision.name() == name)
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// By its [`Precision::name`].
impl serde::Serialize for Precision {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// Whether results come from the hardware they are named after.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Execution {
    /// The named device computes.
    Native,
    /// Software stands in for the device; the text says which.
    Emulated(String),
}

/// What an opened backend is and can do. Plain data, printed with every result.
///
/// ```
/// use smolvla_core::backend::{Capabilities, Execution, Precision};
///
/// let mut capabilities = Capabilities::new("mine", "a card of mine, 8 GB", [Precision::F32, Precision::Bf16]);
/// capabilities.execution = Execution::Emulated("a cycle-accurate model".to_owned());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// The backend's name, as `--backend` takes it.
    pub backend: &'static str,
    /// The device and engine, for people: "2 × x86-64 cores, Burn ndarray".
    pub device: String,
    /// The software between this code and the device, with its version, where there is any: a graphics driver, a
    /// vendor's runtime.
    pub driver: Option<String>,
    /// Whether the device itself or software in its place computes.
    pub execution: Execution,
    /// Precisions [`Backend::prepare_linear`] accepts.
    pub precisions: Vec<Precision>,
    /// Mixtures of those precisions that this backend offers by name, beside each of them alone: `auto` is the
    /// fastest that it recommends on this device. Each has a name, and rules that match layers of every checkpoint.
    pub plans: Vec<PrecisionPlan>,
    /// Why a precision is not offered, where there is more to say than that it is not.
    pub refusals: Vec<(Precision, String)>,
    /// The largest tensor the device takes, in bytes; `None`: no limit short of its memory. The graph runs images in
    /// groups that stay below it.
    pub max_tensor_bytes: Option<u64>,
    /// Whether each new shape costs a compilation or tuning. The graph then keeps LeRobot's padded prefix;
    /// otherwise it leaves out padding, which changes no valid value.
    pub static_shapes: bool,
}

impl Capabilities {
    /// A native device without a driver to name, plans of its own and static shapes; what is otherwise is set
    /// afterwards.
    pub fn new(
        backend: &'static str,
        device: impl Into<String>,
        precisions: impl IntoIterator<Item = Precision>,
    ) -> Self {
        Self {
            backend,
            device: device.into(),
            driver: None,
            execution: Execution::Native,
            precisions: precisions.into_iter().collect(),
            plans: Vec::new(),
            refusals: Vec::new(),
            max_tensor_bytes: None,
            static_shapes: false,
        }
    }

    /// Why `precision` is not offered, where the backend says.
    pub fn why_not(&self, precision: Precision) -> Option<&str> {
        self.refusals.iter().find(|(refused, _)| *refused == precision).map(|(_, why)| why.as_str())
    }
}

/// What kind of failure a backend met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BackendErrorKind {
    /// The device cannot do this.
    Unsupported,
    /// The caller broke the operation's contract; names the shapes.
    InvalidArgument,
    /// The device is not there, or this build has no code for it.
    Unavailable,
    /// Out of device or host memory.
    OutOfMemory,
    /// The device went away.
    DeviceLost,
    /// The device did not answer in time.
    Timeout,
    /// Anything else.
    Other,
}

/// A failure of one operation on one backend.
#[derive(Debug, thiserror::Error)]
#[error("{backend}: {op}: {message}")]
pub struct BackendError {
    /// The backend's name.
    pub backend: &'static str,
    /// The operation, as the trait spells it.
    pub op: &'static str,
    /// What kind of failure.
    pub kind: BackendErrorKind,
    /// What happened and what to do.
    pub message: String,
    /// The library's or driver's own error.
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl BackendError {
    /// An error without a source.
    pub fn new(
        backend: &'static str,
        op: &'static str,
        kind: BackendErrorKind,
        message: impl Into<String>,
    ) -> Self {
        Self { backend, op, kind, message: message.into(), source: None }
    }
}

/// An elementwise function applied to a linear layer's result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activation {
    /// `x · sigmoid(x)`.
    Silu,
    /// GELU by its tanh approximation, as SigLIP uses it.
    GeluTanh,
}

/// What happens to a linear layer's product before it is stored: `residual + activation(x·Wᵀ + bias)`.
#[derive(Debug)]
pub struct Epilogue<'a, T> {
    /// Applied to the product (the bias is already in it).
    pub activation: Option<Activation>,
    /// Added last. Its rows repeat: row `r` of the result takes row `r % residual.rows()`.
    pub residual: Option<&'a T>,
}

impl<T> Epilogue<'_, T> {
    /// Only the bias.
    pub const NONE: Self = Self { activation: None, residual: None };
}

impl<'a, T> Epilogue<'a, T> {
    /// Only an activation.
    pub fn activation(activation: Activation) -> Self {
        Self { activation: Some(activation), residual: None }
    }

    /// Only a residual.
    pub fn residual(residual: &'a T) -> Self {
        Self { activation: None, residual: Some(residual) }
    }
}

/// A provided operation that a backend may override.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LayerOp {
    /// [`Backend::vision_layer`].
    VisionLayer,
    /// [`Backend::text_layer`].
    TextLayer,
    /// [`Backend::expert_layer`].
    ExpertLayer,
    /// [`Backend::denoise_step`].
    DenoiseStep,
}

/// The numbers that fix an attention: `softmax(scale · q·kᵀ + mask)·v`, per observation and head.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionShape {
    /// Observations in the batch; rows of `q`, `k` and `v` divide by it.
    pub batch: usize,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads; query head `h` reads key/value head `h / (heads / kv_heads)`.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Factor on the scores, `head_dim^-0.5` everywhere in SmolVLA.
    pub scale: f32,
}

/// A device that can run SmolVLA's graph. See the [module documentation](self) for the conventions.
pub trait Backend: Send + Sync + Sized + 'static {
    /// An activation or a small parameter (norm gains, tables), `[rows, cols]`.
    type Tensor: Matrix + Send + Sync;
    /// A prepared linear layer: packed panels, quantised tiles, whatever the device multiplies fastest.
    type Linear: Prepared + Send + Sync;
    /// An embedding table.
    type Table: Prepared + Send + Sync;
    /// An attention mask.
    type Mask: AttentionMask + Send + Sync;

    // ---- Boundary ----

    /// What this device is and can do.
    fn capabilities(&self) -> Capabilities;

    /// The same device, set for the policy that `plan` is about; asked once, before any parameter is prepared. Each
    /// layer's precision still comes with [`Backend::prepare_linear`]. A device whose operations without weights
    /// (attention, norms) can be computed in more than one way chooses here, by the plan's default precision.
    fn with_plan(self, plan: &PrecisionPlan) -> Result<Self, BackendError> {
        let _ = plan;
        Ok(self)
    }

    /// Prepares a linear layer; happens once, at load. `source` is PyTorch's layout `[outputs, inputs]`,
    /// possibly several matrices stacked along the outputs (fused QKV, gate and up).
    fn prepare_linear(
        &self,
        source: &LinearSource<'_>,
        precision: Precision,
    ) -> Result<Self::Linear, BackendError>;

    /// Prepares an embedding table `[vocabulary, width]`, the one weight of `source`; its rows come back as the
    /// stored values, unrounded.
    fn prepare_table(&self, source: &LinearSource<'_>) -> Result<Self::Table, BackendError>;

    /// Copies a matrix to the device. `values.len() == rows × cols`.
    fn upload(&self, values: &[f32], rows: usize, cols: usize) -> Result<Self::Tensor, BackendError>;

    /// Copies a mask to the device. `allowed[(b·queries + q)·keys + k]` says whether query `q` of
    /// observation `b` may attend key `k`.
    fn upload_mask(
        &self,
        allowed: &[bool],
        batch: usize,
        queries: usize,
        keys: usize,
    ) -> Result<Self::Mask, BackendError>;

    /// Waits for `x` and copies it to the host, row-major.
    fn download(&self, x: &Self::Tensor) -> Result<Vec<f32>, BackendError>;

    /// Waits until all enqueued work is done.
    fn synchronize(&self) -> Result<(), BackendError>;

    // ---- Required operations ----

    /// `residual + activation(x·Wᵀ + bias)`: `x: [rows, inputs] → [rows, outputs]`.
    fn linear(
        &self,
        x: &Self::Tensor,
        weight: &Self::Linear,
        epilogue: Epilogue<'_, Self::Tensor>,
    ) -> Result<Self::Tensor, BackendError>;

    /// LayerNorm over each row: `(x − mean)/√(var + eps)·gain + bias`, biased variance. `gain`, `bias`: `[1, cols]`.
    fn layer_norm(
        &self,
        x: &Self::Tensor,
        gain: &Self::Tensor,
        bias: &Self::Tensor,
        eps: f32,
    ) -> Result<Self::Tensor, BackendError>;

    /// RMSNorm over each row: `x/√(mean(x²) + eps)·gain`. `gain`: `[1, cols]`.
    fn rms_norm(&self, x: &Self::Tensor, gain: &Self::Tensor, eps: f32)
    -> Result<Self::Tensor, BackendError>;

    /// Grouped-query attention over keys and values in one or more segments, in order.
    ///
    /// `q: [batch·queries, heads·head_dim]`, each segment's key and value `[batch·keys_i, kv_heads·head_dim]`,
    /// result as `q`. `mask` covers the concatenated keys; `None` allows all. A query that may attend nothing
    /// gets the mean of all values (a softmax of equal scores), never NaN.
    fn attention(
        &self,
        q: &Self::Tensor,
        segments: &[&KeyValue<Self::Tensor>],
        mask: Option<&Self::Mask>,
        shape: AttentionShape,
    ) -> Result<Self::Tensor, BackendError>;

    /// Rotary embedding in half-split form: for each head `[x1, x2] → [x1·cos − x2·sin, x2·cos + x1·sin]`.
    /// `cos`, `sin`: `[table rows, head_dim/2]`, repeating over the rows of `x: [rows, heads·head_dim]`.
    fn rope(
        &self,
        x: &Self::Tensor,
        cos: &Self::Tensor,
        sin: &Self::Tensor,
    ) -> Result<Self::Tensor, BackendError>;

    /// An elementwise function.
    fn activate(&self, x: &Self::Tensor, activation: Activation) -> Result<Self::Tensor, BackendError>;

    /// The gate of a SwiGLU: `[gate, up] → silu(gate)·up`, `x: [rows, 2·width] → [rows, width]`.
    fn silu_mul(&self, x: &Self::Tensor) -> Result<Self::Tensor, BackendError>;

    /// `factor · x`.
    fn scale(&self, x: &Self::Tensor, factor: f32) -> Result<Self::Tensor, BackendError>;

    /// `y + alpha · x`: the product is rounded, then the sum (no fused multiply-add in f32 backends).
    fn axpy(&self, alpha: f32, x: &Self::Tensor, y: &Self::Tensor) -> Result<Self::Tensor, BackendError>;

    /// Rows of a table: `ids: [n] → [n, width]`.
    fn embed_rows(&self, table: &Self::Table, ids: &[u32]) -> Result<Self::Tensor, BackendError>;

    /// Joins the tokens of each observation: parts `[batch·tokens_i, cols] → [batch·Σ tokens_i, cols]`.
    fn concat_tokens(&self, parts: &[&Self::Tensor], batch: usize) -> Result<Self::Tensor, BackendError>;

    /// The rows `start..start + count`.
    fn slice_rows(&self, x: &Self::Tensor, start: usize, count: usize) -> Result<Self::Tensor, BackendError>;

    /// Cuts the columns into consecutive pieces of the given widths.
    fn split_cols(&self, x: &Self::Tensor, widths: &[usize]) -> Result<Vec<Self::Tensor>, BackendError>;

    /// Pixel shuffle: joins each `factor × factor` block of a square grid of tokens into one token.
    /// `x: [n·grid², cols] → [n·(grid/factor)², factor²·cols]`; token `(R, C)` of the result is, for `r` then
    /// `c` in `0..factor`, the columns of token `(factor·R + r, factor·C + c)`.
    fn pixel_shuffle(
        &self,
        x: &Self::Tensor,
        grid: usize,
        factor: usize,
    ) -> Result<Self::Tensor, BackendError>;

    // ---- Provided, composed in `graph` ----

    /// Whether this backend has its own form of a provided operation. [`crate::Checked`] composes the others
    /// itself, so that every operation inside them is checked too.
    fn overrides(&self, op: LayerOp) -> bool {
        let _ = op;
        false
    }

    /// One SigLIP block over `images` pictures: `x: [images·patches, width] → the same`.
    fn vision_layer(
        &self,
        layer: &VisionLayer<Self::Tensor, Self::Linear>,
        x: &Self::Tensor,
        images: usize,
    ) -> Result<Self::Tensor, BackendError> {
        crate::graph::vision_layer(self, layer, x, images)
    }

    /// One language-model layer over the prefix: its rotated keys and its values, and the new residual stream.
    /// The last layer that anything reads yields only keys and values (its query, output and MLP are dead).
    fn text_layer(
        &self,
        layer: &TextLayer<Self::Tensor, Self::Linear>,
        x: &Self::Tensor,
        cos: &Self::Tensor,
        sin: &Self::Tensor,
        mask: &Self::Mask,
    ) -> Result<TextLayerOutput<Self::Tensor>, BackendError> {
        crate::graph::text_layer(self, layer, x, cos, sin, mask)
    }

    /// One action-expert layer in one denoising step: `x: [batch·chunk, width] → the same`.
    /// `prefix` is the layer's K/V of the prefix (already projected for a cross-attention layer).
    fn expert_layer(
        &self,
        layer: &ExpertLayer<Self::Tensor, Self::Linear>,
        prefix: &KeyValue<Self::Tensor>,
        context: &DenoiseContext<Self::Tensor, Self::Mask>,
        x: &Self::Tensor,
    ) -> Result<Self::Tensor, BackendError> {
        crate::graph::expert_layer(self, layer, prefix, context, x)
    }

    /// The velocity of one denoising step: `x_t: [batch·chunk, action width] → the same`.
    fn denoise_step(
        &self,
        expert: &Expert<Self::Tensor, Self::Linear>,
        context: &DenoiseContext<Self::Tensor, Self::Mask>,
        x_t: &Self::Tensor,
        step: usize,
    ) -> Result<Self::Tensor, BackendError> {
        crate::graph::denoise_step(self, expert, context, x_t, step, &mut |_, x| Ok(x))
    }
}
