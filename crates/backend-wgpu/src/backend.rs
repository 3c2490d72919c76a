//! The backend: Burn's operations where they are one launch or are fused into one, our own kernels elsewhere.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use burn::tensor::{Tensor, TensorData};
use smolvla_backend_burn::{BurnBackend, BurnMask, BurnMatrix, BurnTable, Identity};
use smolvla_core::backend::{
    Activation, AttentionMask, AttentionShape, Backend, BackendError, BackendErrorKind, Capabilities,
    Epilogue, Execution, Matrix, Precision, Prepared,
};
use smolvla_core::graph::KeyValue;
use smolvla_core::weights::LinearSource;

use crate::NAME;
use crate::adapter::{self, Adapter};
use crate::failure::Handle;
use crate::kernels::{Attention, Columns, Kernels};
use crate::linear::{Weights, WgpuLinear};
use crate::{plans, runtime};

/// How many storage buffers the kernel of attention is given, with the one that holds sizes.
const ATTENTION_BINDINGS: u32 = 8;
/// The widest head whose sums a unit can keep in registers.
const WIDEST_HEAD: usize = 128;

/// How to open a GPU.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Options {
    /// The adapter: its number in [`crate::adapters`] or a part of its name. `None`: the first.
    pub adapter: Option<String>,
    /// Compose attention, norms, rotary embeddings and gates of Burn's operations in place of this crate's kernels:
    /// slower, and written by others.
    pub composed: bool,
    /// Use no tensor larger than this, in bytes; `None`: as the adapter allows.
    pub max_tensor_bytes: Option<u64>,
}

/// A graphics adapter as a smolvla backend. Clones are handles of the same device.
#[derive(Clone, Debug)]
pub struct WgpuBackend {
    burn: BurnBackend,
    adapter: Adapter,
    failures: Handle,
    transfers: Arc<Counters>,
    composed: bool,
    max_tensor_bytes: u64,
    /// The device beneath Burn's.
    raw: burn_wgpu::wgpu::Device,
}

/// Copies of activations, masks and tables between the host and the device; weights are not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Transfers {
    /// Matrices and masks copied to the device.
    pub uploads: u64,
    /// Their size.
    pub upload_bytes: u64,
    /// Matrices copied from the device.
    pub downloads: u64,
    /// Their size.
    pub download_bytes: u64,
}

#[derive(Debug, Default)]
struct Counters {
    uploads: AtomicU64,
    upload_bytes: AtomicU64,
    downloads: AtomicU64,
    download_bytes: AtomicU64,
}

/// A matrix on the device, f32: some columns of a tensor.
#[derive(Clone, Debug)]
pub struct WgpuMatrix {
    tensor: Tensor<2>,
    columns: Columns,
}

impl WgpuMatrix {
    fn new(tensor: Tensor<2>) -> Self {
        let [_, cols] = tensor.dims();
        Self { tensor, columns: Columns { start: 0, cols } }
    }

    fn from_burn(matrix: &BurnMatrix) -> Self {
        Self::new(matrix.tensor().clone())
    }

    /// The same numbers with rows and columns exchanged, read in place: for tests of inputs that are not contiguous.
    #[doc(hidden)]
    #[must_use]
    pub fn transposed(&self) -> Self {
        Self::new(self.whole().transpose())
    }

    /// The columns by themselves.
    fn whole(&self) -> Tensor<2> {
        let Columns { start, cols } = self.columns;
        let [_, all] = self.tensor.dims();
        if cols == all { self.tensor.clone() } else { self.tensor.clone().narrow(1, start, cols) }
    }

    fn to_burn(&self) -> BurnMatrix {
        BurnMatrix::new(self.whole())
    }

    /// For Burn's dispatch.
    fn primitive(&self) -> burn::backend::DispatchTensor {
        self.tensor.clone().into_dispatch()
    }
}

impl Matrix for WgpuMatrix {
    fn rows(&self) -> usize {
        self.tensor.dims()[0]
    }

    fn cols(&self) -> usize {
        self.columns.cols
    }
}

/// An attention mask on the device.
#[derive(Clone, Debug)]
pub struct WgpuMask {
    /// `[batch·queries, keys]`, f32: 1 where attention is forbidden, else 0.
    forbidden: Tensor<2>,
    batch: usize,
}

impl AttentionMask for WgpuMask {
    fn batch(&self) -> usize {
        self.batch
    }

    fn queries(&self) -> usize {
        self.forbidden.dims()[0] / self.batch
    }

    fn keys(&self) -> usize {
        self.forbidden.dims()[1]
    }
}

impl WgpuBackend {
    /// Opens an adapter. The process keeps it; opening it again is cheap.
    ///
    /// # Errors
    /// [`BackendErrorKind::Unavailable`] where there is no adapter, or none that `options` means: the message lists
    /// those there are, or says how to get one. [`BackendErrorKind::InvalidArgument`] where several are meant.
    pub fn open(options: &Options) -> Result<Self, BackendError> {
        let adapters = adapter::adapters();
        let adapter = adapter::choose(&adapters, options.adapter.as_deref())?.clone();
        let opened = runtime::open(&adapter)?;
        let execution = if adapter.is_software() {
            Execution::Emulated(format!("{}, a software renderer on this processor", adapter.name))
        } else {
            Execution::Native
        };
        // An adapter of fewer than eight storage buffers cannot be given all that attention reads.
        let is_composed = options.composed || adapter.storage_bindings < ATTENTION_BINDINGS;
        let composed = if is_composed { ", composed of Burn's operations" } else { "" };
        let identity = Identity {
            backend: NAME,
            device: format!("{} ({}, {}){composed}", adapter.name, adapter.interface, adapter.kind),
            driver: Some(adapter.driver.clone()).filter(|driver| !driver.is_empty()),
            execution,
            static_shapes: true,
        };
        Ok(Self {
            burn: BurnBackend::new(opened.device, identity),
            failures: opened.failures.handle(),
            transfers: Arc::default(),
            composed: is_composed,
            max_tensor_bytes: options.max_tensor_bytes.unwrap_or(u64::MAX).min(adapter.max_binding_bytes),
            adapter,
            raw: opened.raw,
        })
    }

    /// The adapter it runs on.
    pub fn adapter(&self) -> &Adapter {
        &self.adapter
    }

    /// What has been copied so far through this handle and its clones.
    pub fn transfers(&self) -> Transfers {
        let Counters { uploads, upload_bytes, downloads, download_bytes } = &*self.transfers;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Transfers {
            uploads: read(uploads),
            upload_bytes: read(upload_bytes),
            downloads: read(downloads),
            download_bytes: read(download_bytes),
        }
    }

    /// Gives the device up, as a driver does that is reset. Every handle fails from then on, in this process for good.
    #[doc(hidden)]
    pub fn lose_device(&self) {
        self.raw.destroy();
    }

    /// Device work that only enqueues.
    fn enqueue<T>(&self, op: &'static str, work: impl FnOnce() -> T) -> Result<T, BackendError> {
        self.failures.run(op, || Ok::<_, Infallible>(work()))
    }

    /// Work of Burn's adapter.
    fn compose<T>(
        &self,
        op: &'static str,
        work: impl FnOnce() -> Result<T, BackendError>,
    ) -> Result<T, BackendError> {
        // Errors of the adapter are of its arguments; only panics and the device's own reports spoil the device.
        self.enqueue(op, work)?
    }

    fn burned(
        &self,
        op: &'static str,
        work: impl FnOnce() -> Result<BurnMatrix, BackendError>,
    ) -> Result<WgpuMatrix, BackendError> {
        Ok(WgpuMatrix::from_burn(&self.compose(op, work)?))
    }

    /// Refuses an f32 activation of this shape that a shader could not be given.
    fn fits(&self, op: &'static str, what: &str, rows: usize, cols: usize) -> Result<(), BackendError> {
        self.fits_as(op, what, [rows, cols], 4, "use a smaller batch or fewer cameras")
    }

    fn fits_as(
        &self,
        op: &'static str,
        what: &str,
        shape: [usize; 2],
        element_bytes: u64,
        advice: &str,
    ) -> Result<(), BackendError> {
        let bytes = shape.iter().fold(element_bytes, |bytes, &size| bytes.saturating_mul(size as u64));
        let limit = self.max_tensor_bytes;
        if bytes <= limit {
            return Ok(());
        }
        Err(BackendError::new(
            NAME,
            op,
            BackendErrorKind::Unsupported,
            format!(
                "{what} of {shape:?} takes {bytes} bytes, more than the {limit} that a shader can be given on this \
                 adapter; {advice}"
            ),
        ))
    }

    fn count_upload(&self, bytes: usize) {
        self.transfers.uploads.fetch_add(1, Ordering::Relaxed);
        self.transfers.upload_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn norm(
        &self,
        op: &'static str,
        x: &WgpuMatrix,
        gain: &WgpuMatrix,
        bias: &WgpuMatrix,
        eps: f32,
        centred: bool,
    ) -> Result<WgpuMatrix, BackendError> {
        self.enqueue(op, || {
            let [gain, bias] = [gain, bias].map(|row| row.whole().into_dispatch());
            let out = <burn::backend::Dispatch as Kernels>::norm(
                x.primitive(),
                gain,
                bias,
                x.columns,
                eps,
                centred,
            );
            WgpuMatrix::new(Tensor::from_dispatch(out))
        })
    }
}

impl Backend for WgpuBackend {
    type Tensor = WgpuMatrix;
    type Linear = WgpuLinear;
    type Table = BurnTable;
    type Mask = WgpuMask;

    fn capabilities(&self) -> Capabilities {
        let mut capabilities = self.burn.capabilities();
        if self.adapter.f16 {
            capabilities.precisions.push(Precision::F16);
        }
        capabilities.plans = plans::all(&capabilities.precisions);
        capabilities.max_tensor_bytes = Some(self.max_tensor_bytes);
        if !self.adapter.f16 {
            capabilities.refusals.push((
                Precision::F16,
                format!("{} has no 16-bit floats in shaders (SHADER_F16)", self.adapter.name),
            ));
        }
        capabilities
    }

    fn prepare_linear(
        &self,
        source: &LinearSource<'_>,
        precision: Precision,
    ) -> Result<Self::Linear, BackendError> {
        let (shape, bytes) =
            ([source.outputs(), source.inputs()], if precision == Precision::F16 { 2 } else { 4 });
        self.fits_as(
            "prepare_linear",
            &source.name,
            shape,
            bytes,
            "use f16, another adapter or --backend cpu",
        )?;
        match precision {
            Precision::F16 => self.compose("prepare_linear", || {
                WgpuLinear::half(source, self.burn.device()).map_err(|message| {
                    BackendError::new(NAME, "prepare_linear", BackendErrorKind::Unsupported, message)
                })
            }),
            _ => self.compose("prepare_linear", || {
                Ok(WgpuLinear(Weights::F32(self.burn.prepare_linear(source, precision)?)))
            }),
        }
    }

    fn prepare_table(&self, source: &LinearSource<'_>) -> Result<Self::Table, BackendError> {
        self.burn.prepare_table(source)
    }

    fn upload(&self, values: &[f32], rows: usize, cols: usize) -> Result<Self::Tensor, BackendError> {
        self.fits("upload", "a matrix", rows, cols)?;
        self.count_upload(4 * values.len());
        self.burned("upload", || self.burn.upload(values, rows, cols))
    }

    fn upload_mask(
        &self,
        allowed: &[bool],
        batch: usize,
        queries: usize,
        keys: usize,
    ) -> Result<Self::Mask, BackendError> {
        self.fits("upload_mask", "a mask", batch * queries, keys)?;
        let forbidden: Vec<f32> = allowed.iter().map(|allowed| f32::from(u8::from(!allowed))).collect();
        self.count_upload(4 * forbidden.len());
        self.enqueue("upload_mask", || {
            let data = TensorData::new(forbidden, [batch * queries, keys]);
            WgpuMask { forbidden: Tensor::from_data(data, self.burn.device()), batch }
        })
    }

    fn download(&self, x: &Self::Tensor) -> Result<Vec<f32>, BackendError> {
        let values = self.failures.run("download", || x.whole().try_to_vec_as::<f32>())?;
        self.transfers.downloads.fetch_add(1, Ordering::Relaxed);
        self.transfers.download_bytes.fetch_add(4 * values.len() as u64, Ordering::Relaxed);
        Ok(values)
    }

    fn synchronize(&self) -> Result<(), BackendError> {
        self.failures.run("synchronize", || self.burn.device().sync())
    }

    fn linear(
        &self,
        x: &Self::Tensor,
        weight: &Self::Linear,
        epilogue: Epilogue<'_, Self::Tensor>,
    ) -> Result<Self::Tensor, BackendError> {
        self.fits("linear", "a result", x.rows(), weight.outputs())?;
        self.burned("linear", || {
            let residual = epilogue.residual.map(WgpuMatrix::to_burn);
            let epilogue = Epilogue { activation: epilogue.activation, residual: residual.as_ref() };
            match &weight.0 {
                Weights::F32(weight) => self.burn.linear(&x.to_burn(), weight, epilogue),
                Weights::F16 { weight, bias } => {
                    let product = <burn::backend::Dispatch as Kernels>::half_product(
                        x.whole().into_dispatch(),
                        weight.clone().into_dispatch(),
                    );
                    let product = Tensor::from_dispatch(product);
                    Ok(BurnBackend::finished(product, bias.clone(), &epilogue))
                }
            }
        })
    }

    fn layer_norm(
        &self,
        x: &Self::Tensor,
        gain: &Self::Tensor,
        bias: &Self::Tensor,
        eps: f32,
    ) -> Result<Self::Tensor, BackendError> {
        if self.composed {
            return self.burned("layer_norm", || {
                self.burn.layer_norm(&x.to_burn(), &gain.to_burn(), &bias.to_burn(), eps)
            });
        }
        self.norm("layer_norm", x, gain, bias, eps, true)
    }

    fn rms_norm(
        &self,
        x: &Self::Tensor,
        gain: &Self::Tensor,
        eps: f32,
    ) -> Result<Self::Tensor, BackendError> {
        if self.composed {
            return self.burned("rms_norm", || self.burn.rms_norm(&x.to_burn(), &gain.to_burn(), eps));
        }
        self.norm("rms_norm", x, gain, gain, eps, false)
    }

    fn attention(
        &self,
        q: &Self::Tensor,
        segments: &[&KeyValue<Self::Tensor>],
        mask: Option<&Self::Mask>,
        shape: AttentionShape,
    ) -> Result<Self::Tensor, BackendError> {
        let AttentionShape { batch, heads, kv_heads, head_dim, scale } = shape;
        let (Some(first), 1..=2, false) =
            (segments.first(), segments.len(), self.composed || head_dim > WIDEST_HEAD)
        else {
            return self.composed_attention(q, segments, mask, shape);
        };
        // Where there is no second segment, or no mask, the kernel is given another matrix, and does not read it.
        let second = segments.last().unwrap_or(first);
        let keys = |kv: &KeyValue<WgpuMatrix>| kv.key.rows() / batch;
        let sizes = Attention {
            batch,
            heads,
            kv_heads,
            head_dim,
            scale,
            queries: q.rows() / batch,
            keys: [keys(first), if segments.len() == 2 { keys(second) } else { 0 }],
            q: q.columns.start,
            key: [first, second].map(|kv| kv.key.columns.start),
            value: [first, second].map(|kv| kv.value.columns.start),
            masked: mask.is_some(),
        };
        self.enqueue("attention", || {
            let forbidden = mask.map_or(&q.tensor, |mask| &mask.forbidden);
            let out = <burn::backend::Dispatch as Kernels>::attend(
                q.primitive(),
                first.key.primitive(),
                first.value.primitive(),
                second.key.primitive(),
                second.value.primitive(),
                forbidden.clone().into_dispatch(),
                sizes,
            );
            WgpuMatrix::new(Tensor::from_dispatch(out))
        })
    }

    fn rope(
        &self,
        x: &Self::Tensor,
        cos: &Self::Tensor,
        sin: &Self::Tensor,
    ) -> Result<Self::Tensor, BackendError> {
        if self.composed {
            return self.burned("rope", || self.burn.rope(&x.to_burn(), &cos.to_burn(), &sin.to_burn()));
        }
        self.enqueue("rope", || {
            let [cos, sin] = [cos, sin].map(|table| table.whole().into_dispatch());
            let out = <burn::backend::Dispatch as Kernels>::rotate(x.primitive(), cos, sin, x.columns);
            WgpuMatrix::new(Tensor::from_dispatch(out))
        })
    }

    fn activate(&self, x: &Self::Tensor, activation: Activation) -> Result<Self::Tensor, BackendError> {
        self.burned("activate", || self.burn.activate(&x.to_burn(), activation))
    }

    fn silu_mul(&self, x: &Self::Tensor) -> Result<Self::Tensor, BackendError> {
        if self.composed {
            return self.burned("silu_mul", || self.burn.silu_mul(&x.to_burn()));
        }
        self.enqueue("silu_mul", || {
            let out = <burn::backend::Dispatch as Kernels>::gate(x.primitive(), x.columns);
            WgpuMatrix::new(Tensor::from_dispatch(out))
        })
    }

    fn scale(&self, x: &Self::Tensor, factor: f32) -> Result<Self::Tensor, BackendError> {
        self.burned("scale", || self.burn.scale(&x.to_burn(), factor))
    }

    fn axpy(&self, alpha: f32, x: &Self::Tensor, y: &Self::Tensor) -> Result<Self::Tensor, BackendError> {
        self.burned("axpy", || self.burn.axpy(alpha, &x.to_burn(), &y.to_burn()))
    }

    fn embed_rows(&self, table: &Self::Table, ids: &[u32]) -> Result<Self::Tensor, BackendError> {
        // The table stays on the host: at full size it is larger than many adapters give a shader.
        self.upload(&table.gather(ids), ids.len(), table.width())
    }

    fn concat_tokens(&self, parts: &[&Self::Tensor], batch: usize) -> Result<Self::Tensor, BackendError> {
        let rows = parts.iter().map(|part| part.rows()).sum();
        self.fits("concat_tokens", "a result", rows, parts.first().map_or(0, |part| part.cols()))?;
        self.burned("concat_tokens", || {
            let parts: Vec<BurnMatrix> = parts.iter().map(|part| part.to_burn()).collect();
            self.burn.concat_tokens(&parts.iter().collect::<Vec<_>>(), batch)
        })
    }

    fn slice_rows(&self, x: &Self::Tensor, start: usize, count: usize) -> Result<Self::Tensor, BackendError> {
        self.burned("slice_rows", || self.burn.slice_rows(&x.to_burn(), start, count))
    }

    fn split_cols(&self, x: &Self::Tensor, widths: &[usize]) -> Result<Vec<Self::Tensor>, BackendError> {
        // Nothing is copied: the kernels read columns in place.
        let mut start = x.columns.start;
        Ok(widths
            .iter()
            .map(|&cols| {
                let columns = Columns { start, cols };
                start += cols;
                WgpuMatrix { tensor: x.tensor.clone(), columns }
            })
            .collect())
    }

    fn pixel_shuffle(
        &self,
        x: &Self::Tensor,
        grid: usize,
        factor: usize,
    ) -> Result<Self::Tensor, BackendError> {
        self.burned("pixel_shuffle", || self.burn.pixel_shuffle(&x.to_burn(), grid, factor))
    }
}

impl WgpuBackend {
    /// Attention of Burn's operations.
    fn composed_attention(
        &self,
        q: &WgpuMatrix,
        segments: &[&KeyValue<WgpuMatrix>],
        mask: Option<&WgpuMask>,
        shape: AttentionShape,
    ) -> Result<WgpuMatrix, BackendError> {
        self.burned("attention", || {
            let whole =
                |kv: &&KeyValue<WgpuMatrix>| KeyValue { key: kv.key.to_burn(), value: kv.value.to_burn() };
            let segments: Vec<KeyValue<BurnMatrix>> = segments.iter().map(whole).collect();
            let segments: Vec<&KeyValue<BurnMatrix>> = segments.iter().collect();
            let mask = mask.map(|mask| {
                let dims = [mask.batch(), 1, mask.queries(), mask.keys()];
                BurnMask::new(mask.forbidden.clone().reshape(dims).not_equal_elem(0.0))
            });
            self.burn.attention(&q.to_burn(), &segments, mask.as_ref(), shape)
        })
    }
}
