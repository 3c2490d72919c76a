//! smolvla's [`Backend`] over [Burn](https://burn.dev) tensors: one adapter for every Burn device.
//!
//! A [`BurnBackend`] holds a Burn [`Device`]; which ones exist is decided by the features of the `burn` crate
//! that the backend crates turn on (`backend-cpu`: ndarray, `backend-wgpu`: wgpu). The operations are composed from Burn's own, in
//! f32, in the order of the formulas in [`smolvla_core::backend`].
//!
//! This crate knows nothing of checkpoints, of the graph or of device selection.
#![forbid(unsafe_code)]

mod attention;
mod parameters;

use std::fmt::Display;

use burn::tensor::activation::{silu, tanh};
use burn::tensor::{Bool, Device, Tensor, TensorData, module};
use smolvla_core::backend::{
    Activation, AttentionMask, AttentionShape, Backend, BackendError, BackendErrorKind, Capabilities,
    Epilogue, Execution, Matrix, Precision,
};
use smolvla_core::graph::KeyValue;
use smolvla_core::weights::LinearSource;

pub use parameters::{BurnLinear, BurnTable};

/// A Burn device as a smolvla backend.
#[derive(Clone, Debug)]
pub struct BurnBackend {
    device: Device,
    identity: Identity,
}

/// What a [`BurnBackend`] says of itself.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The backend's name, as `--backend` takes it.
    pub backend: &'static str,
    /// The device and engine, for people.
    pub device: String,
    /// The driver beneath Burn, with its version, where there is one.
    pub driver: Option<String>,
    /// Whether the named device itself computes.
    pub execution: Execution,
    /// Whether each new shape costs a compilation or tuning.
    pub static_shapes: bool,
}

/// A matrix on a Burn device.
#[derive(Clone, Debug)]
pub struct BurnMatrix(Tensor<2>);

impl BurnMatrix {
    /// A tensor in f32 as a matrix.
    pub fn new(tensor: Tensor<2>) -> Self {
        Self(tensor)
    }

    /// The tensor.
    pub fn tensor(&self) -> &Tensor<2> {
        &self.0
    }
}

impl Matrix for BurnMatrix {
    fn rows(&self) -> usize {
        self.0.dims()[0]
    }

    fn cols(&self) -> usize {
        self.0.dims()[1]
    }
}

/// An attention mask on a Burn device: true where attention is forbidden, `[batch, 1, queries, keys]`.
#[derive(Clone, Debug)]
pub struct BurnMask(Tensor<4, Bool>);

impl BurnMask {
    /// A mask `[batch, 1, queries, keys]`, true where attention is forbidden.
    pub fn new(forbidden: Tensor<4, Bool>) -> Self {
        Self(forbidden)
    }
}

impl AttentionMask for BurnMask {
    fn batch(&self) -> usize {
        self.0.dims()[0]
    }

    fn queries(&self) -> usize {
        self.0.dims()[2]
    }

    fn keys(&self) -> usize {
        self.0.dims()[3]
    }
}

impl BurnBackend {
    /// A backend on an opened device.
    pub fn new(device: Device, identity: Identity) -> Self {
        Self { device, identity }
    }

    /// The device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// `residual + activation(product + bias)`: what a linear layer does after its product.
    pub fn finished(
        product: Tensor<2>,
        bias: Option<Tensor<2>>,
        epilogue: &Epilogue<'_, BurnMatrix>,
    ) -> BurnMatrix {
        let mut out = product;
        if let Some(bias) = bias {
            out = out + bias;
        }
        if let Some(activation) = epilogue.activation {
            out = Self::activated(out, activation);
        }
        if let Some(residual) = epilogue.residual {
            out = Self::add_repeating(out, residual.0.clone());
        }
        BurnMatrix(out)
    }

    fn error(&self, op: &'static str, error: impl Display) -> BackendError {
        BackendError::new(self.identity.backend, op, BackendErrorKind::Other, error.to_string())
    }

    /// `x + other`, the rows of `other` repeating over those of `x`.
    fn add_repeating(x: Tensor<2>, other: Tensor<2>) -> Tensor<2> {
        let [rows, cols] = x.dims();
        let [period, _] = other.dims();
        if period == rows {
            return x + other;
        }
        let sum = x.reshape([rows / period, period, cols]) + other.reshape([1, period, cols]);
        sum.reshape([rows, cols])
    }

    fn activated(x: Tensor<2>, activation: Activation) -> Tensor<2> {
        match activation {
            Activation::Silu => silu(x),
            Activation::GeluTanh => {
                // Burn's own tanh approximation cubes with powf, which dominates the vision tower on a CPU.
                let cubed = x.clone() * x.clone() * x.clone();
                let inner = (x.clone() + cubed * 0.044715) * (2.0 / std::f64::consts::PI).sqrt();
                x * (tanh(inner) + 1.0) * 0.5
            }
        }
    }
}

impl Backend for BurnBackend {
    type Tensor = BurnMatrix;
    type Linear = BurnLinear;
    type Table = BurnTable;
    type Mask = BurnMask;

    fn capabilities(&self) -> Capabilities {
        let Identity { backend, device, driver, execution, static_shapes } = &self.identity;
        let mut capabilities = Capabilities::new(backend, device, [Precision::F32]);
        capabilities.driver.clone_from(driver);
        capabilities.execution = execution.clone();
        capabilities.static_shapes = *static_shapes;
        capabilities
    }

    fn prepare_linear(
        &self,
        source: &LinearSource<'_>,
        _precision: Precision,
    ) -> Result<Self::Linear, BackendError> {
        Ok(BurnLinear::new(source, &self.device))
    }

    fn prepare_table(&self, source: &LinearSource<'_>) -> Result<Self::Table, BackendError> {
        Ok(BurnTable::new(&source.weights[0]))
    }

    fn upload(&self, values: &[f32], rows: usize, cols: usize) -> Result<Self::Tensor, BackendError> {
        let data = TensorData::new(values.to_vec(), [rows, cols]);
        Ok(BurnMatrix(Tensor::from_data(data, &self.device)))
    }

    fn upload_mask(
        &self,
        allowed: &[bool],
        batch: usize,
        queries: usize,
        keys: usize,
    ) -> Result<Self::Mask, BackendError> {
        let forbidden: Vec<bool> = allowed.iter().map(|allowed| !allowed).collect();
        let data = TensorData::new(forbidden, [batch, 1, queries, keys]);
        Ok(BurnMask(Tensor::from_data(data, &self.device)))
    }

    fn download(&self, x: &Self::Tensor) -> Result<Vec<f32>, BackendError> {
        x.0.try_to_vec_as::<f32>().map_err(|error| self.error("download", error))
    }

    fn synchronize(&self) -> Result<(), BackendError> {
        self.device.sync().map_err(|error| self.error("synchronize", error))
    }

    fn linear(
        &self,
        x: &Self::Tensor,
        weight: &Self::Linear,
        epilogue: Epilogue<'_, Self::Tensor>,
    ) -> Result<Self::Tensor, BackendError> {
        Ok(Self::finished(x.0.clone().matmul(weight.transposed()), weight.bias(), &epilogue))
    }

    fn layer_norm(
        &self,
        x: &Self::Tensor,
        gain: &Self::Tensor,
        bias: &Self::Tensor,
        eps: f32,
    ) -> Result<Self::Tensor, BackendError> {
        let cols = x.cols();
        let gain = gain.0.clone().reshape([cols]);
        let bias = bias.0.clone().reshape([cols]);
        Ok(BurnMatrix(module::layer_norm(x.0.clone(), gain, Some(bias), f64::from(eps))))
    }

    fn rms_norm(
        &self,
        x: &Self::Tensor,
        gain: &Self::Tensor,
        eps: f32,
    ) -> Result<Self::Tensor, BackendError> {
        let x = x.0.clone();
        let root = (x.clone() * x.clone()).mean_dim(1).add_scalar(eps).sqrt();
        Ok(BurnMatrix(x / root * gain.0.clone()))
    }

    fn attention(
        &self,
        q: &Self::Tensor,
        segments: &[&KeyValue<Self::Tensor>],
        mask: Option<&Self::Mask>,
        shape: AttentionShape,
    ) -> Result<Self::Tensor, BackendError> {
        let join = |part: fn(&KeyValue<BurnMatrix>) -> &BurnMatrix| {
            attention::joined(segments.iter().map(|segment| part(segment).0.clone()), shape.batch)
        };
        let out = attention::attention(
            q.0.clone(),
            join(|kv| &kv.key),
            join(|kv| &kv.value),
            mask.map(|mask| mask.0.clone()),
            shape,
        );
        Ok(BurnMatrix(out))
    }

    fn rope(
        &self,
        x: &Self::Tensor,
        cos: &Self::Tensor,
        sin: &Self::Tensor,
    ) -> Result<Self::Tensor, BackendError> {
        let [rows, cols] = x.0.dims();
        let [period, half] = cos.0.dims();
        let heads = cols / (2 * half);
        let x = x.0.clone().reshape([rows / period, period, heads, 2 * half]);
        let table = |table: &BurnMatrix| table.0.clone().reshape([1, period, 1, half]);
        let (cos, sin) = (table(cos), table(sin));
        let x1 = x.clone().narrow(3, 0, half);
        let x2 = x.narrow(3, half, half);
        let rotated =
            Tensor::cat(vec![x1.clone() * cos.clone() - x2.clone() * sin.clone(), x2 * cos + x1 * sin], 3);
        Ok(BurnMatrix(rotated.reshape([rows, cols])))
    }

    fn activate(&self, x: &Self::Tensor, activation: Activation) -> Result<Self::Tensor, BackendError> {
        Ok(BurnMatrix(Self::activated(x.0.clone(), activation)))
    }

    fn silu_mul(&self, x: &Self::Tensor) -> Result<Self::Tensor, BackendError> {
        let width = x.cols() / 2;
        let gate = x.0.clone().narrow(1, 0, width);
        let up = x.0.clone().narrow(1, width, width);
        Ok(BurnMatrix(silu(gate) * up))
    }

    fn scale(&self, x: &Self::Tensor, factor: f32) -> Result<Self::Tensor, BackendError> {
        Ok(BurnMatrix(x.0.clone().mul_scalar(factor)))
    }

    fn axpy(&self, alpha: f32, x: &Self::Tensor, y: &Self::Tensor) -> Result<Self::Tensor, BackendError> {
        Ok(BurnMatrix(y.0.clone() + x.0.clone().mul_scalar(alpha)))
    }

    fn embed_rows(&self, table: &Self::Table, ids: &[u32]) -> Result<Self::Tensor, BackendError> {
        self.upload(&table.gather(ids), ids.len(), table.width())
    }

    fn concat_tokens(&self, parts: &[&Self::Tensor], batch: usize) -> Result<Self::Tensor, BackendError> {
        let joined = attention::joined(parts.iter().map(|part| part.0.clone()), batch);
        let [_, tokens, cols] = joined.dims();
        Ok(BurnMatrix(joined.reshape([batch * tokens, cols])))
    }

    fn slice_rows(&self, x: &Self::Tensor, start: usize, count: usize) -> Result<Self::Tensor, BackendError> {
        Ok(BurnMatrix(x.0.clone().narrow(0, start, count)))
    }

    fn split_cols(&self, x: &Self::Tensor, widths: &[usize]) -> Result<Vec<Self::Tensor>, BackendError> {
        Ok(x.0.clone().split_with_sizes(widths.to_vec(), 1).into_iter().map(BurnMatrix).collect())
    }

    fn pixel_shuffle(
        &self,
        x: &Self::Tensor,
        grid: usize,
        factor: usize,
    ) -> Result<Self::Tensor, BackendError> {
        let [rows, cols] = x.0.dims();
        let images = rows / (grid * grid);
        let side = grid / factor;
        // [image·R, r, C, c·cols] → [image·R, C, r, c·cols]: all inner axes stay contiguous.
        let blocks = x.0.clone().reshape([images * side, factor, side, factor * cols]);
        let tokens = blocks.swap_dims(1, 2);
        Ok(BurnMatrix(tokens.reshape([images * side * side, factor * factor * cols])))
    }
}
