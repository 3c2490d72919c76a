//! A small backend as somebody else would write it, for the suite's own tests and as an example to start from.
//!
//! It computes with the plain loops of [`Reference`] and offers bfloat16 too: weights, and the activations that meet
//! them, are rounded to it; sums, and everything else, stay as they are. So it says that it is emulated.

use smolvla_core::backend::{
    Activation, AttentionShape, Backend, BackendError, Capabilities, Epilogue, Execution, Matrix, Precision,
    Prepared,
};
use smolvla_core::graph::KeyValue;
use smolvla_core::reference::{HostMask, HostMatrix, HostParameters, Reference};
use smolvla_core::weights::{LinearSource, StorageType, TensorView};

/// The device: an emulation that is always there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Toy;

impl Toy {
    /// Opens the device, or says why it is not there.
    pub(crate) fn open() -> Result<Self, BackendError> {
        Ok(Self)
    }
}

/// A weight, and the precision it was rounded to.
pub(crate) struct ToyLinear {
    weight: HostParameters,
    precision: Precision,
}

impl Prepared for ToyLinear {
    fn inputs(&self) -> usize {
        self.weight.inputs()
    }

    fn outputs(&self) -> usize {
        self.weight.outputs()
    }

    fn precision(&self) -> Precision {
        self.precision
    }
}

/// To the nearest bfloat16, ties to even.
fn rounded(values: &mut [f32]) {
    for value in values {
        let bits = value.to_bits();
        *value = f32::from_bits((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff_0000);
    }
}

impl Backend for Toy {
    type Tensor = HostMatrix;
    type Linear = ToyLinear;
    type Table = HostParameters;
    type Mask = HostMask;

    fn capabilities(&self) -> Capabilities {
        let precisions = [Precision::F32, Precision::Bf16];
        let mut capabilities = Capabilities::new("toy", "a toy of the test suite", precisions);
        capabilities.execution = Execution::Emulated("the plain loops of the reference backend".to_owned());
        capabilities.static_shapes = true;
        capabilities
    }

    fn prepare_linear(
        &self,
        source: &LinearSource<'_>,
        precision: Precision,
    ) -> Result<ToyLinear, BackendError> {
        if precision == Precision::F32 {
            return Ok(ToyLinear { weight: Reference.prepare_linear(source, precision)?, precision });
        }
        let bytes = |values: &[f32]| -> Vec<u8> { values.iter().flat_map(|v| v.to_le_bytes()).collect() };
        let mut weight = source.weight_f32();
        rounded(&mut weight);
        let (weight, bias) = (bytes(&weight), source.bias_f32().map(|bias| bytes(&bias)));
        let view = |rows, cols, bytes| TensorView::new(StorageType::F32, rows, cols, bytes);
        let source = LinearSource {
            name: source.name.clone(),
            path: source.path.clone(),
            weights: view(source.outputs(), source.inputs(), &weight).into_iter().collect(),
            biases: bias.iter().filter_map(|bias| view(1, source.outputs(), bias)).collect(),
        };
        Ok(ToyLinear { weight: Reference.prepare_linear(&source, Precision::F32)?, precision })
    }

    fn prepare_table(&self, source: &LinearSource<'_>) -> Result<HostParameters, BackendError> {
        Reference.prepare_table(source)
    }

    fn upload(&self, values: &[f32], rows: usize, cols: usize) -> Result<HostMatrix, BackendError> {
        Reference.upload(values, rows, cols)
    }

    fn upload_mask(
        &self,
        allowed: &[bool],
        batch: usize,
        queries: usize,
        keys: usize,
    ) -> Result<HostMask, BackendError> {
        Reference.upload_mask(allowed, batch, queries, keys)
    }

    fn download(&self, x: &HostMatrix) -> Result<Vec<f32>, BackendError> {
        Reference.download(x)
    }

    fn synchronize(&self) -> Result<(), BackendError> {
        Ok(())
    }

    fn linear(
        &self,
        x: &HostMatrix,
        weight: &ToyLinear,
        epilogue: Epilogue<'_, HostMatrix>,
    ) -> Result<HostMatrix, BackendError> {
        if weight.precision == Precision::F32 {
            return Reference.linear(x, &weight.weight, epilogue);
        }
        let mut values = Reference.download(x)?;
        rounded(&mut values);
        let x = Reference.upload(&values, x.rows(), x.cols())?;
        Reference.linear(&x, &weight.weight, epilogue)
    }

    fn layer_norm(
        &self,
        x: &HostMatrix,
        gain: &HostMatrix,
        bias: &HostMatrix,
        eps: f32,
    ) -> Result<HostMatrix, BackendError> {
        Reference.layer_norm(x, gain, bias, eps)
    }

    fn rms_norm(&self, x: &HostMatrix, gain: &HostMatrix, eps: f32) -> Result<HostMatrix, BackendError> {
        Reference.rms_norm(x, gain, eps)
    }

    fn attention(
        &self,
        q: &HostMatrix,
        segments: &[&KeyValue<HostMatrix>],
        mask: Option<&HostMask>,
        shape: AttentionShape,
    ) -> Result<HostMatrix, BackendError> {
        Reference.attention(q, segments, mask, shape)
    }

    fn rope(&self, x: &HostMatrix, cos: &HostMatrix, sin: &HostMatrix) -> Result<HostMatrix, BackendError> {
        Reference.rope(x, cos, sin)
    }

    fn activate(&self, x: &HostMatrix, activation: Activation) -> Result<HostMatrix, BackendError> {
        Reference.activate(x, activation)
    }

    fn silu_mul(&self, x: &HostMatrix) -> Result<HostMatrix, BackendError> {
        Reference.silu_mul(x)
    }

    fn scale(&self, x: &HostMatrix, factor: f32) -> Result<HostMatrix, BackendError> {
        Reference.scale(x, factor)
    }

    fn axpy(&self, alpha: f32, x: &HostMatrix, y: &HostMatrix) -> Result<HostMatrix, BackendError> {
        Reference.axpy(alpha, x, y)
    }

    fn embed_rows(&self, table: &HostParameters, ids: &[u32]) -> Result<HostMatrix, BackendError> {
        Reference.embed_rows(table, ids)
    }

    fn concat_tokens(&self, parts: &[&HostMatrix], batch: usize) -> Result<HostMatrix, BackendError> {
        Reference.concat_tokens(parts, batch)
    }

    fn slice_rows(&self, x: &HostMatrix, start: usize, count: usize) -> Result<HostMatrix, BackendError> {
        Reference.slice_rows(x, start, count)
    }

    fn split_cols(&self, x: &HostMatrix, widths: &[usize]) -> Result<Vec<HostMatrix>, BackendError> {
        Reference.split_cols(x, widths)
    }

    fn pixel_shuffle(&self, x: &HostMatrix, grid: usize, factor: usize) -> Result<HostMatrix, BackendError> {
        Reference.pixel_shuffle(x, grid, factor)
    }
}
