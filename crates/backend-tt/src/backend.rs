//! [`TtBackend`]: the policy's operations on a Blackhole.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use smolvla_core::backend::{
    Activation, AttentionMask, AttentionShape, Backend, BackendErrorKind, Capabilities, Epilogue, LayerOp,
    Matrix, Precision, Prepared,
};
use smolvla_core::graph::{self, DenoiseContext, Expert, KeyValue};
use smolvla_core::weights::LinearSource;
use smolvla_core::{BackendError, PrecisionPlan};

use crate::device::{Granularity, Readable, TtDevice};
use crate::plan::{Kernel, LinearMath, Plan};
use crate::program::{Argument, AttentionKernel, Op, TensorType};
use crate::record::{Fixed, Handle, Operand, Recorder};
use crate::tensix::Format;

/// The policy's operations on a device that takes Blackhole programs and gives numbers back.
///
/// Operations become instructions of a [`Program`](crate::program::Program); the device says whether each is one of
/// its own or whole stages are. Euler steps are taken on the host in f32, whatever the device computes in.
pub struct TtBackend<D: Readable> {
    recorder: Arc<Recorder<D>>,
    plan: Arc<Plan>,
    /// The precision that the plan stands for; layers of another one follow that one's plan.
    precision: Precision,
    /// Whether the language model has been reached since the last wait.
    reached_text: AtomicBool,
}

impl<D: Readable> Clone for TtBackend<D> {
    fn clone(&self) -> Self {
        Self {
            recorder: Arc::clone(&self.recorder),
            plan: Arc::clone(&self.plan),
            precision: self.precision,
            reached_text: AtomicBool::new(false),
        }
    }
}

impl<D: Readable> fmt::Debug for TtBackend<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TtBackend").field("plan", &self.plan.name).field("recorder", &self.recorder).finish()
    }
}

/// A matrix of a [`TtBackend`].
pub struct TtTensor<D: TtDevice>(Arc<Handle<D>>);

/// A linear layer of a [`TtBackend`].
pub struct TtLinear<D: TtDevice> {
    weight: Arc<Fixed<D>>,
    bias: Option<Arc<Handle<D>>>,
    outputs: usize,
    inputs: usize,
    precision: Precision,
    math: LinearMath,
    path: String,
}

/// An embedding table of a [`TtBackend`]: it stays on the host, whose rows go to the device as they are asked for.
#[derive(Debug)]
pub struct TtTable {
    values: Vec<f32>,
    rows: usize,
    width: usize,
}

/// A mask of a [`TtBackend`].
pub struct TtMask<D: TtDevice> {
    mask: Arc<Fixed<D>>,
    batch: usize,
    queries: usize,
    keys: usize,
}

macro_rules! opaque_debug {
    ($($name:ident),*) => {
        $(impl<D: TtDevice> fmt::Debug for $name<D> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name)).finish_non_exhaustive()
            }
        })*
    };
}

opaque_debug!(TtTensor, TtLinear, TtMask);

impl<D: TtDevice> Matrix for TtTensor<D> {
    fn rows(&self) -> usize {
        self.0.node.tensor.rows
    }
    fn cols(&self) -> usize {
        self.0.node.tensor.cols
    }
}

impl<D: TtDevice> Prepared for TtLinear<D> {
    fn inputs(&self) -> usize {
        self.inputs
    }
    fn outputs(&self) -> usize {
        self.outputs
    }
    fn precision(&self) -> Precision {
        self.precision
    }
}

impl Prepared for TtTable {
    fn inputs(&self) -> usize {
        self.rows
    }
    fn outputs(&self) -> usize {
        self.width
    }
    fn precision(&self) -> Precision {
        Precision::F32
    }
}

impl<D: TtDevice> AttentionMask for TtMask<D> {
    fn batch(&self) -> usize {
        self.batch
    }
    fn queries(&self) -> usize {
        self.queries
    }
    fn keys(&self) -> usize {
        self.keys
    }
}

impl<D: Readable> TtBackend<D> {
    /// The backend on `device`, with the plan of the first precision that the device offers.
    pub fn new(device: D) -> Self {
        let precision =
            device.capabilities().plans.first().map_or(Precision::Bfp8, PrecisionPlan::default_precision);
        let plan = Plan::of(precision).or_else(|| Plan::named(Plan::DEFAULT));
        Self {
            recorder: Arc::new(Recorder::new(device)),
            plan: Arc::new(plan.expect("built-in plans are read by a test")),
            precision,
            reached_text: AtomicBool::new(false),
        }
    }

    /// The same device with a plan of one's own for layers and operations of `precision`.
    #[must_use]
    pub fn with_settings(self, precision: Precision, plan: Plan) -> Self {
        Self { plan: Arc::new(plan), precision, ..self }
    }

    /// The plan in use.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The device.
    pub fn device(&self) -> &D {
        &self.recorder.device
    }

    fn tensor(x: &TtTensor<D>) -> Operand<D> {
        Operand::Tensor(Arc::clone(&x.0.node))
    }

    /// An operation of `operands` whose result has these sizes, stored in `format`.
    fn op(
        &self,
        name: &'static str,
        op: Op,
        operands: Vec<Operand<D>>,
        (rows, cols): (usize, usize),
        format: Format,
    ) -> Result<TtTensor<D>, BackendError> {
        let tensor = TensorType { rows, cols, format };
        self.recorder.record(op, operands, tensor).map(TtTensor).map_err(|error| error.during(name))
    }

    /// An operation of one matrix that only moves numbers.
    fn moved(
        &self,
        name: &'static str,
        op: Op,
        x: &TtTensor<D>,
        sizes: (usize, usize),
    ) -> Result<TtTensor<D>, BackendError> {
        self.op(name, op, vec![Self::tensor(x)], sizes, x.0.node.tensor.format)
    }

    /// The built-in plan that a precision of the device's stands for.
    fn built_in(&self, op: &'static str, precision: Precision) -> Result<Plan, BackendError> {
        let offered = self.recorder.device.capabilities().precisions;
        let plan = Plan::of(precision).filter(|_| offered.contains(&precision));
        plan.ok_or_else(|| {
            let names: Vec<&str> = offered.iter().map(|precision| precision.name()).collect();
            BackendError::new(
                crate::NAME,
                op,
                BackendErrorKind::Unsupported,
                format!("there is no plan for {precision} on this device; choose {}", names.join(", ")),
            )
        })
    }

    fn flush(&self, name: &'static str) -> Result<(), BackendError> {
        self.recorder.flush(None).map_err(|error| error.during(name))
    }
}

impl<D: Readable> Backend for TtBackend<D> {
    type Tensor = TtTensor<D>;
    type Linear = TtLinear<D>;
    type Table = TtTable;
    type Mask = TtMask<D>;

    fn capabilities(&self) -> Capabilities {
        self.recorder.device.capabilities()
    }

    /// Takes the built-in plan that the default precision stands for, or keeps the one of
    /// [`TtBackend::with_settings`], which is for its own precision alone.
    fn with_plan(self, plan: &PrecisionPlan) -> Result<Self, BackendError> {
        let precision = plan.default_precision();
        if precision == self.precision {
            return Ok(self);
        }
        let op = "with_plan";
        if Plan::of(self.precision).as_ref() != Some(&*self.plan) {
            let message = format!(
                "the plan `{}` is for {}, and {precision} is asked for; ask for the first",
                self.plan.name, self.precision
            );
            return Err(BackendError::new(crate::NAME, op, BackendErrorKind::InvalidArgument, message));
        }
        let settings = self.built_in(op, precision)?;
        Ok(self.with_settings(precision, settings))
    }

    fn prepare_linear(
        &self,
        source: &LinearSource<'_>,
        precision: Precision,
    ) -> Result<TtLinear<D>, BackendError> {
        let op = "prepare_linear";
        let math = if precision == self.precision {
            self.plan.linear(&source.path)
        } else {
            self.built_in(op, precision)?.linear(&source.path)
        };
        let (outputs, inputs) = (source.outputs(), source.inputs());
        let buffer = self
            .recorder
            .device
            .upload_weight(&source.weight_f32(), outputs, inputs, math.weights)
            .map_err(|error| error.during(op))?;
        let argument = Argument::Weight { outputs, inputs, format: math.weights };
        Ok(TtLinear {
            weight: Arc::new(Fixed { argument, buffer }),
            bias: source.bias_f32().map(|bias| self.recorder.host(bias, 1, outputs)),
            outputs,
            inputs,
            precision,
            math,
            path: source.path.clone(),
        })
    }

    fn prepare_table(&self, source: &LinearSource<'_>) -> Result<TtTable, BackendError> {
        match &source.weights[..] {
            [table] => Ok(TtTable { values: table.to_f32(), rows: table.rows(), width: table.cols() }),
            several => Err(BackendError::new(
                crate::NAME,
                "prepare_table",
                BackendErrorKind::InvalidArgument,
                format!("{}: {} matrices; a table is one", source.name, several.len()),
            )),
        }
    }

    fn upload(&self, values: &[f32], rows: usize, cols: usize) -> Result<TtTensor<D>, BackendError> {
        Ok(TtTensor(self.recorder.host(values.to_vec(), rows, cols)))
    }

    fn upload_mask(
        &self,
        allowed: &[bool],
        batch: usize,
        queries: usize,
        keys: usize,
    ) -> Result<TtMask<D>, BackendError> {
        let buffer = self
            .recorder
            .device
            .upload_mask(allowed, batch, queries, keys)
            .map_err(|error| error.during("upload_mask"))?;
        let argument = Argument::Mask { batch, queries, keys };
        Ok(TtMask { mask: Arc::new(Fixed { argument, buffer }), batch, queries, keys })
    }

    fn download(&self, x: &TtTensor<D>) -> Result<Vec<f32>, BackendError> {
        let node = &x.0.node;
        if let Some(values) = node.host() {
            return Ok(values.to_vec());
        }
        let read = || {
            self.recorder.settle(node)?;
            let buffer = node.buffer().ok_or_else(crate::record::lost)?;
            self.recorder.device.download(buffer)
        };
        read().map_err(|error| error.during("download"))
    }

    /// Computes what has been asked for, but for a vision tower alone: that is one program with the language model
    /// after it, so its time is the prefill's.
    fn synchronize(&self) -> Result<(), BackendError> {
        if self.recorder.device.granularity() == Granularity::Stage
            && !self.reached_text.swap(false, Ordering::Relaxed)
        {
            return Ok(());
        }
        self.flush("synchronize")
    }

    fn linear(
        &self,
        x: &TtTensor<D>,
        weight: &TtLinear<D>,
        epilogue: Epilogue<'_, TtTensor<D>>,
    ) -> Result<TtTensor<D>, BackendError> {
        let LinearMath { input, math, store, .. } = weight.math;
        let mut operands = vec![Self::tensor(x), Operand::Fixed(Arc::clone(&weight.weight))];
        operands.extend(weight.bias.as_ref().map(|bias| Operand::Tensor(Arc::clone(&bias.node))));
        operands.extend(epilogue.residual.map(Self::tensor));
        let op = Op::Linear {
            math,
            input,
            bias: weight.bias.is_some(),
            activation: epilogue.activation,
            residual: epilogue.residual.is_some(),
        };
        let result = self.op("linear", op, operands, (x.rows(), weight.outputs), store)?;
        if weight.path.starts_with("text.") {
            self.reached_text.store(true, Ordering::Relaxed);
        }
        // Time embeddings outlive the chunk they are first needed in. Each is a program of its own, so that the
        // prefix, which is under way then, is the same program in this chunk and in the next.
        if weight.path == "expert.time_in_time" {
            self.recorder.finish(&result.0).map_err(|error| error.during("linear"))?;
        }
        Ok(result)
    }

    fn layer_norm(
        &self,
        x: &TtTensor<D>,
        gain: &TtTensor<D>,
        bias: &TtTensor<D>,
        eps: f32,
    ) -> Result<TtTensor<D>, BackendError> {
        let Kernel { dest, approximate, store } = self.plan.norm;
        let operands = vec![Self::tensor(x), Self::tensor(gain), Self::tensor(bias)];
        self.op("layer_norm", Op::LayerNorm { eps, dest, approximate }, operands, (x.rows(), x.cols()), store)
    }

    fn rms_norm(&self, x: &TtTensor<D>, gain: &TtTensor<D>, eps: f32) -> Result<TtTensor<D>, BackendError> {
        let Kernel { dest, approximate, store } = self.plan.norm;
        let operands = vec![Self::tensor(x), Self::tensor(gain)];
        self.op("rms_norm", Op::RmsNorm { eps, dest, approximate }, operands, (x.rows(), x.cols()), store)
    }

    fn attention(
        &self,
        q: &TtTensor<D>,
        segments: &[&KeyValue<TtTensor<D>>],
        mask: Option<&TtMask<D>>,
        shape: AttentionShape,
    ) -> Result<TtTensor<D>, BackendError> {
        let mut operands = vec![Self::tensor(q)];
        operands.extend(segments.iter().flat_map(|kv| [Self::tensor(&kv.key), Self::tensor(&kv.value)]));
        operands.extend(mask.map(|mask| Operand::Fixed(Arc::clone(&mask.mask))));
        let Plan { scores, softmax, values, .. } = &*self.plan;
        let kernel = AttentionKernel {
            scores: scores.math(),
            scores_format: scores.store,
            softmax: softmax.dest,
            approximate: softmax.approximate,
            weights_format: softmax.store,
            values: values.math(),
        };
        let op = Op::Attention { shape, segments: segments.len(), mask: mask.is_some(), kernel };
        self.op("attention", op, operands, (q.rows(), q.cols()), values.store)
    }

    fn rope(
        &self,
        x: &TtTensor<D>,
        cos: &TtTensor<D>,
        sin: &TtTensor<D>,
    ) -> Result<TtTensor<D>, BackendError> {
        let Kernel { dest, store, .. } = self.plan.elementwise;
        let operands = vec![Self::tensor(x), Self::tensor(cos), Self::tensor(sin)];
        self.op("rope", Op::Rope { dest }, operands, (x.rows(), x.cols()), store)
    }

    fn activate(&self, x: &TtTensor<D>, activation: Activation) -> Result<TtTensor<D>, BackendError> {
        let Kernel { dest, store, .. } = self.plan.elementwise;
        let op = Op::Activate { activation, dest };
        self.op("activate", op, vec![Self::tensor(x)], (x.rows(), x.cols()), store)
    }

    fn silu_mul(&self, x: &TtTensor<D>) -> Result<TtTensor<D>, BackendError> {
        let Kernel { dest, store, .. } = self.plan.elementwise;
        self.op("silu_mul", Op::SiluMul { dest }, vec![Self::tensor(x)], (x.rows(), x.cols() / 2), store)
    }

    fn scale(&self, x: &TtTensor<D>, factor: f32) -> Result<TtTensor<D>, BackendError> {
        let Kernel { dest, store, .. } = self.plan.elementwise;
        let op = Op::Scale { factor, dest };
        self.op("scale", op, vec![Self::tensor(x)], (x.rows(), x.cols()), store)
    }

    /// On the host, in f32: the Euler state is not rounded between steps.
    fn axpy(&self, alpha: f32, x: &TtTensor<D>, y: &TtTensor<D>) -> Result<TtTensor<D>, BackendError> {
        let (change, mut values) = (self.download(x)?, self.download(y)?);
        for (value, change) in values.iter_mut().zip(change) {
            *value += alpha * change;
        }
        Ok(TtTensor(self.recorder.host(values, y.rows(), y.cols())))
    }

    fn embed_rows(&self, table: &TtTable, ids: &[u32]) -> Result<TtTensor<D>, BackendError> {
        let row = |id: &u32| &table.values[*id as usize * table.width..][..table.width];
        let values: Vec<f32> = ids.iter().flat_map(row).copied().collect();
        Ok(TtTensor(self.recorder.host(values, ids.len(), table.width)))
    }

    fn concat_tokens(&self, parts: &[&TtTensor<D>], batch: usize) -> Result<TtTensor<D>, BackendError> {
        let rows = parts.iter().map(|part| part.rows()).sum();
        let cols = parts.first().map_or(0, |part| part.cols());
        let operands = parts.iter().map(|part| Self::tensor(part)).collect();
        // The finest of the parts' formats: none of them is rounded.
        let finest = parts.iter().map(|part| part.0.node.tensor.format).min().unwrap_or(Format::F32);
        self.op("concat_tokens", Op::ConcatTokens { batch }, operands, (rows, cols), finest)
    }

    fn slice_rows(&self, x: &TtTensor<D>, start: usize, count: usize) -> Result<TtTensor<D>, BackendError> {
        self.moved("slice_rows", Op::SliceRows { start }, x, (count, x.cols()))
    }

    fn split_cols(&self, x: &TtTensor<D>, widths: &[usize]) -> Result<Vec<TtTensor<D>>, BackendError> {
        let mut start = 0;
        let piece = |width: &usize| {
            let piece = self.moved("split_cols", Op::SliceCols { start }, x, (x.rows(), *width));
            start += width;
            piece
        };
        widths.iter().map(piece).collect()
    }

    fn pixel_shuffle(
        &self,
        x: &TtTensor<D>,
        grid: usize,
        factor: usize,
    ) -> Result<TtTensor<D>, BackendError> {
        let block = factor * factor;
        let sizes = (x.rows() / block, x.cols() * block);
        self.moved("pixel_shuffle", Op::PixelShuffle { grid, factor }, x, sizes)
    }

    fn overrides(&self, op: LayerOp) -> bool {
        op == LayerOp::DenoiseStep && self.recorder.device.granularity() == Granularity::Stage
    }

    /// One program, whose noisy actions are given away; whatever it shares with other steps has been computed before.
    fn denoise_step(
        &self,
        expert: &Expert<TtTensor<D>, TtLinear<D>>,
        context: &DenoiseContext<TtTensor<D>, TtMask<D>>,
        x_t: &TtTensor<D>,
        step: usize,
    ) -> Result<TtTensor<D>, BackendError> {
        let op = "denoise_step";
        self.flush(op)?;
        let velocity = graph::denoise_step(self, expert, context, x_t, step, &mut |_, x| Ok(x))?;
        self.recorder.flush(Some(&x_t.0.node)).map_err(|error| error.during(op))?;
        Ok(velocity)
    }
}
