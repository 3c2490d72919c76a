//! The engine behind the [`Backend`] trait.

use std::env;
use std::sync::Arc;
use std::thread::available_parallelism;

use smolvla_core::backend::{
    Activation, AttentionShape, BackendErrorKind, Capabilities, Epilogue, LayerOp, Matrix, Precision,
};
use smolvla_core::graph::{DenoiseContext, ExpertLayer, KeyValue, TextLayer, TextLayerOutput, VisionLayer};
use smolvla_core::weights::LinearSource;
use smolvla_core::{Backend, BackendError};

use super::attention::{self, HeadColumns, MAX_HEAD_DIM, Rotary};
use super::elementwise::{self, Map};
use super::engine::Engine;
use super::isa::{self, Isa};
use super::layers;
use super::mask::Mask;
use super::plans;
use super::product::{Finish, Target};
use super::rows::{Norm, normalize};
use super::tensor::{Table, Tensor};
use super::weights::{Operand, Weights};

const NAME: &str = "cpu";
const THREADS: &str = "SMOLVLA_CPU_THREADS";
const PIN: &str = "SMOLVLA_CPU_PIN";
/// More threads than any machine has processors.
const MAX_THREADS: usize = 1024;

/// How to run the engine; whatever is `None` is found out.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct Options {
    /// The instruction set; the best available by default.
    pub isa: Option<Isa>,
    /// Threads; as many as the process may use by default.
    pub threads: Option<usize>,
    /// Whether each thread but the caller's stays on a processor of its own (Linux).
    pub pin: bool,
}

impl Options {
    /// Reads `SMOLVLA_CPU_ISA` (a name of [`Isa`]), `SMOLVLA_CPU_THREADS` and `SMOLVLA_CPU_PIN` (`0` or `1`).
    ///
    /// # Errors
    /// For a value that is none of these, naming the variable.
    pub fn from_env() -> Result<Self, BackendError> {
        let read = |name: &str| {
            let value = env::var_os(name).map(|value| value.to_string_lossy().into_owned());
            value.filter(|value| !value.is_empty())
        };
        let wrong = |name: &str, value: &str, expected: String| {
            let message = format!("{name}={value}: expected {expected}");
            BackendError::new(NAME, "open", BackendErrorKind::InvalidArgument, message)
        };
        let isa = read(isa::VARIABLE)
            .map(|value| {
                Isa::ALL.iter().copied().find(|isa| isa.name() == value).ok_or_else(|| {
                    let names: Vec<_> = Isa::ALL.iter().map(|isa| isa.name()).collect();
                    wrong(isa::VARIABLE, &value, format!("one of {}", names.join(", ")))
                })
            })
            .transpose()?;
        let threads = read(THREADS)
            .map(|value| {
                let threads = value.parse().ok().filter(|threads| (1..=MAX_THREADS).contains(threads));
                threads.ok_or_else(|| wrong(THREADS, &value, format!("a number from 1 to {MAX_THREADS}")))
            })
            .transpose()?;
        let pin = match read(PIN).as_deref() {
            None | Some("0") => false,
            Some("1") => true,
            Some(value) => return Err(wrong(PIN, value, "0 or 1".to_owned())),
        };
        Ok(Self { isa, threads, pin })
    }
}

/// Opens the CPU as the environment says; see [`Options::from_env`].
///
/// # Errors
/// When a variable is wrong, the processor lacks the instruction set asked for, or threads cannot be started.
pub fn open() -> Result<CpuBackend, BackendError> {
    CpuBackend::new(Options::from_env()?)
}

/// The CPU backend.
#[derive(Clone, Debug)]
pub struct CpuBackend {
    engine: Arc<Engine>,
}

impl CpuBackend {
    /// Starts the engine.
    ///
    /// # Errors
    /// When the processor lacks the instruction set asked for, or threads cannot be started.
    pub fn new(options: Options) -> Result<Self, BackendError> {
        let isa = options.isa.unwrap_or_else(Isa::detect);
        if !isa.is_available() {
            let available: Vec<_> = Isa::available().iter().map(|isa| isa.name()).collect();
            let message = format!("this processor cannot run `{isa}`; it has {}", available.join(", "));
            return Err(BackendError::new(NAME, "open", BackendErrorKind::Unavailable, message));
        }
        let threads = options.threads.unwrap_or_else(|| available_parallelism().map_or(1, usize::from));
        if !(1..=MAX_THREADS).contains(&threads) {
            let message = format!("{threads} threads; expected 1 to {MAX_THREADS}");
            return Err(BackendError::new(NAME, "open", BackendErrorKind::InvalidArgument, message));
        }
        let engine = Engine::new(isa, threads, options.pin).map_err(|error| BackendError {
            source: Some(Box::new(error)),
            ..BackendError::new(NAME, "open", BackendErrorKind::Other, "cannot start threads")
        })?;
        Ok(Self { engine: Arc::new(engine) })
    }

    /// The instruction set in use.
    pub fn isa(&self) -> Isa {
        self.engine.isa
    }

    /// Threads in use.
    pub fn threads(&self) -> usize {
        self.engine.pool.threads()
    }

    fn tensor(&self, rows: usize, cols: usize, operand: Operand, fill: impl FnOnce(&mut [f32])) -> Tensor {
        let mut data = self.engine.arena.take::<f32>(rows * cols);
        fill(data.as_mut_slice());
        Tensor::new(data, rows, cols, operand)
    }

    fn normalized(&self, x: &Tensor, norm: Norm<'_>) -> Tensor {
        let mut data = self.engine.arena.take::<f32>(x.rows() * x.cols());
        normalize(&self.engine.pool, self.engine.isa, x.values(), &mut data, x.cols(), norm);
        Tensor::new(data, x.rows(), x.cols(), x.operand)
    }

    fn mapped(&self, x: &Tensor, map: Map<'_>) -> Tensor {
        let mut data = self.engine.arena.take::<f32>(x.rows() * x.cols());
        elementwise::apply(&self.engine, map, x.values(), &mut data);
        Tensor::new(data, x.rows(), x.cols(), x.operand)
    }
}

impl Backend for CpuBackend {
    type Tensor = Tensor;
    type Linear = Weights;
    type Table = Table;
    type Mask = Mask;

    fn capabilities(&self) -> Capabilities {
        let (architecture, isa) = (env::consts::ARCH, self.engine.isa);
        let threads = match self.threads() {
            1 => "1 thread".to_owned(),
            threads => format!("{threads} threads"),
        };
        let device = format!("{architecture} with {threads}, native engine, {isa} instructions");
        let precisions = [Precision::F32, Precision::Bf16, Precision::Int8, Precision::Int8Weights];
        let mut capabilities = Capabilities::new(NAME, device, precisions);
        capabilities.plans = plans::all(isa);
        capabilities
    }

    fn prepare_linear(
        &self,
        source: &LinearSource<'_>,
        precision: Precision,
    ) -> Result<Self::Linear, BackendError> {
        Weights::pack(source, precision, &self.engine.pool).ok_or_else(|| {
            let message = format!("{}: there is no {precision} here", source.name);
            BackendError::new(NAME, "prepare_linear", BackendErrorKind::Unsupported, message)
        })
    }

    fn prepare_table(&self, source: &LinearSource<'_>) -> Result<Self::Table, BackendError> {
        Table::new(source).ok_or_else(|| {
            let message = format!("{}: a table is one matrix", source.name);
            BackendError::new(NAME, "prepare_table", BackendErrorKind::InvalidArgument, message)
        })
    }

    fn upload(&self, values: &[f32], rows: usize, cols: usize) -> Result<Self::Tensor, BackendError> {
        Ok(self.tensor(rows, cols, Operand::F32, |data| data.copy_from_slice(values)))
    }

    fn upload_mask(
        &self,
        allowed: &[bool],
        batch: usize,
        queries: usize,
        keys: usize,
    ) -> Result<Self::Mask, BackendError> {
        Ok(Mask::new(allowed, batch, queries, keys))
    }

    fn download(&self, x: &Self::Tensor) -> Result<Vec<f32>, BackendError> {
        Ok(x.values().to_vec())
    }

    fn synchronize(&self) -> Result<(), BackendError> {
        Ok(())
    }

    fn linear(
        &self,
        x: &Self::Tensor,
        weight: &Self::Linear,
        epilogue: Epilogue<'_, Self::Tensor>,
    ) -> Result<Self::Tensor, BackendError> {
        let finish = Finish {
            activation: epilogue.activation,
            residual: epilogue.residual.map(Tensor::values),
            gated: false,
        };
        Ok(layers::linear(&self.engine, x.values(), Norm::None, weight, finish))
    }

    fn layer_norm(
        &self,
        x: &Self::Tensor,
        gain: &Self::Tensor,
        bias: &Self::Tensor,
        eps: f32,
    ) -> Result<Self::Tensor, BackendError> {
        Ok(self.normalized(x, Norm::Layer(gain.values(), bias.values(), eps)))
    }

    fn rms_norm(
        &self,
        x: &Self::Tensor,
        gain: &Self::Tensor,
        eps: f32,
    ) -> Result<Self::Tensor, BackendError> {
        Ok(self.normalized(x, Norm::Rms(gain.values(), eps)))
    }

    fn attention(
        &self,
        q: &Self::Tensor,
        segments: &[&KeyValue<Self::Tensor>],
        mask: Option<&Self::Mask>,
        shape: AttentionShape,
    ) -> Result<Self::Tensor, BackendError> {
        layers::check_head(&shape)?;
        let queries = HeadColumns { data: q.values(), stride: q.cols(), start: 0 };
        let mut out = self.engine.arena.take::<f32>(q.rows() * q.cols());
        let target = Target::Matrix(out.shared(), q.cols());
        layers::attend_segments(&self.engine, q.operand, &shape, queries, None, segments, mask, target);
        Ok(Tensor::new(out, q.rows(), q.cols(), q.operand))
    }

    fn rope(
        &self,
        x: &Self::Tensor,
        cos: &Self::Tensor,
        sin: &Self::Tensor,
    ) -> Result<Self::Tensor, BackendError> {
        let head_dim = 2 * cos.cols();
        if head_dim > MAX_HEAD_DIM {
            return Err(layers::head_too_wide("rope", head_dim));
        }
        let mut out = self.engine.arena.take::<f32>(x.rows() * x.cols());
        let source = HeadColumns { data: x.values(), stride: x.cols(), start: 0 };
        let rotary = Rotary { cos: cos.values(), sin: sin.values() };
        attention::rope(&self.engine, source, x.cols() / head_dim, head_dim, rotary, &mut out);
        Ok(Tensor::new(out, x.rows(), x.cols(), x.operand))
    }

    fn activate(&self, x: &Self::Tensor, activation: Activation) -> Result<Self::Tensor, BackendError> {
        Ok(self.mapped(x, Map::Activate(activation)))
    }

    fn silu_mul(&self, x: &Self::Tensor) -> Result<Self::Tensor, BackendError> {
        let width = x.cols() / 2;
        let mut out = self.engine.arena.take::<f32>(x.rows() * width);
        elementwise::silu_mul(&self.engine, x.values(), width, &mut out);
        Ok(Tensor::new(out, x.rows(), width, x.operand))
    }

    fn scale(&self, x: &Self::Tensor, factor: f32) -> Result<Self::Tensor, BackendError> {
        Ok(self.mapped(x, Map::Scale(factor)))
    }

    fn axpy(&self, alpha: f32, x: &Self::Tensor, y: &Self::Tensor) -> Result<Self::Tensor, BackendError> {
        Ok(self.mapped(x, Map::Axpy(alpha, y.values())))
    }

    fn embed_rows(&self, table: &Self::Table, ids: &[u32]) -> Result<Self::Tensor, BackendError> {
        use smolvla_core::backend::Prepared;
        Ok(self.tensor(ids.len(), table.outputs(), Operand::F32, |out| table.read(ids, out)))
    }

    fn concat_tokens(&self, parts: &[&Self::Tensor], batch: usize) -> Result<Self::Tensor, BackendError> {
        let rows = parts.iter().map(|part| part.rows()).sum();
        let (cols, operand) = parts.first().map_or((0, Operand::F32), |part| (part.cols(), part.operand));
        Ok(self.tensor(rows, cols, operand, |mut out| {
            for observation in 0..batch {
                for part in parts {
                    let len = part.values().len() / batch;
                    let (head, rest) = std::mem::take(&mut out).split_at_mut(len);
                    head.copy_from_slice(&part.values()[observation * len..][..len]);
                    out = rest;
                }
            }
        }))
    }

    fn slice_rows(&self, x: &Self::Tensor, start: usize, count: usize) -> Result<Self::Tensor, BackendError> {
        let cols = x.cols();
        Ok(self.tensor(count, cols, x.operand, |out| {
            out.copy_from_slice(&x.values()[start * cols..(start + count) * cols]);
        }))
    }

    fn split_cols(&self, x: &Self::Tensor, widths: &[usize]) -> Result<Vec<Self::Tensor>, BackendError> {
        let mut start = 0;
        let split = |&width: &usize| {
            let part = self.tensor(x.rows(), width, x.operand, |out| {
                elementwise::columns(x.values(), x.cols(), start, width, out);
            });
            start += width;
            part
        };
        Ok(widths.iter().map(split).collect())
    }

    fn pixel_shuffle(
        &self,
        x: &Self::Tensor,
        grid: usize,
        factor: usize,
    ) -> Result<Self::Tensor, BackendError> {
        let (cols, side) = (x.cols(), grid / factor);
        let images = x.rows() / (grid * grid);
        Ok(self.tensor(images * side * side, factor * factor * cols, x.operand, |out| {
            for (index, out) in out.chunks_exact_mut(factor * cols).enumerate() {
                // A token's `r`-th line of pixels.
                let (token, r) = (index / factor, index % factor);
                let (image, row, column) = (token / (side * side), token / side % side, token % side);
                let first = (image * grid + factor * row + r) * grid + factor * column;
                out.copy_from_slice(&x.values()[first * cols..][..factor * cols]);
            }
        }))
    }

    fn overrides(&self, op: LayerOp) -> bool {
        matches!(op, LayerOp::VisionLayer | LayerOp::TextLayer | LayerOp::ExpertLayer)
    }

    fn vision_layer(
        &self,
        layer: &VisionLayer<Self::Tensor, Self::Linear>,
        x: &Self::Tensor,
        images: usize,
    ) -> Result<Self::Tensor, BackendError> {
        layers::vision_layer(&self.engine, layer, x, images)
    }

    fn text_layer(
        &self,
        layer: &TextLayer<Self::Tensor, Self::Linear>,
        x: &Self::Tensor,
        cos: &Self::Tensor,
        sin: &Self::Tensor,
        mask: &Self::Mask,
    ) -> Result<TextLayerOutput<Self::Tensor>, BackendError> {
        layers::text_layer(&self.engine, layer, x, cos, sin, mask)
    }

    fn expert_layer(
        &self,
        layer: &ExpertLayer<Self::Tensor, Self::Linear>,
        prefix: &KeyValue<Self::Tensor>,
        context: &DenoiseContext<Self::Tensor, Self::Mask>,
        x: &Self::Tensor,
    ) -> Result<Self::Tensor, BackendError> {
        layers::expert_layer(&self.engine, layer, prefix, context, x)
    }
}
