//! Single operations against the plain-loop reference.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use rand_distr::{Distribution, StandardNormal};
use smolvla_core::backend::{Activation, AttentionShape, Backend, Epilogue, Precision};
use smolvla_core::graph::KeyValue;
use smolvla_core::reference::Reference;
use smolvla_core::weights::{LinearSource, StorageType, TensorView};
use smolvla_core::{BackendError, Checked};

use crate::metrics::nmse;

/// One operation with fixed arguments, run on any backend: the names and values of its results.
#[derive(Clone, Copy, Debug)]
pub struct OpCase {
    /// Operation and what is special about the arguments.
    pub name: &'static str,
    kind: Kind,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Linear {
        rows: usize,
        inputs: usize,
        outputs: usize,
        bias: bool,
        activation: Option<Activation>,
        residual: Residual,
    },
    StackedLinear,
    LayerNorm {
        rows: usize,
        cols: usize,
    },
    RmsNorm {
        rows: usize,
        cols: usize,
    },
    Attention {
        batch: usize,
        queries: usize,
        keys: [usize; 2],
        heads: [usize; 3],
        mask: Masking,
    },
    Rope {
        rows: usize,
        period: usize,
        heads: usize,
        half: usize,
    },
    Activate(Activation),
    SiluMul {
        rows: usize,
        cols: usize,
    },
    Scale,
    Axpy,
    EmbedRows(StorageType),
    ConcatTokens {
        batch: usize,
    },
    SliceRows,
    SplitCols,
    PixelShuffle {
        images: usize,
        grid: usize,
        factor: usize,
    },
}

#[derive(Clone, Copy, Debug)]
enum Residual {
    None,
    Full,
    Repeating(usize),
}

#[derive(Clone, Copy, Debug)]
enum Masking {
    None,
    Causal,
    /// Some queries may attend nothing.
    EmptyRows,
    Nothing,
}

const fn linear(rows: usize, inputs: usize, outputs: usize) -> Kind {
    Kind::Linear { rows, inputs, outputs, bias: false, activation: None, residual: Residual::None }
}

/// The cases every backend runs.
pub const CASES: &[OpCase] = &[
    OpCase { name: "linear_one_row", kind: linear(1, 64, 48) },
    OpCase { name: "linear_odd_sizes", kind: linear(31, 33, 65) },
    OpCase { name: "linear_action_rows", kind: linear(50, 720, 96) },
    OpCase { name: "linear_long_inner", kind: linear(3, 12_288, 17) },
    OpCase {
        name: "linear_bias_gelu",
        kind: Kind::Linear {
            rows: 33,
            inputs: 48,
            outputs: 40,
            bias: true,
            activation: Some(Activation::GeluTanh),
            residual: Residual::None,
        },
    },
    OpCase {
        name: "linear_bias_silu_residual",
        kind: Kind::Linear {
            rows: 32,
            inputs: 40,
            outputs: 24,
            bias: true,
            activation: Some(Activation::Silu),
            residual: Residual::Full,
        },
    },
    OpCase {
        name: "linear_repeating_residual",
        kind: Kind::Linear {
            rows: 30,
            inputs: 16,
            outputs: 24,
            bias: true,
            activation: None,
            residual: Residual::Repeating(10),
        },
    },
    OpCase {
        name: "linear_one_row_residual",
        kind: Kind::Linear {
            rows: 7,
            inputs: 16,
            outputs: 24,
            bias: false,
            activation: None,
            residual: Residual::Repeating(1),
        },
    },
    OpCase { name: "linear_stacked", kind: Kind::StackedLinear },
    OpCase { name: "layer_norm", kind: Kind::LayerNorm { rows: 33, cols: 768 } },
    OpCase { name: "layer_norm_narrow", kind: Kind::LayerNorm { rows: 1, cols: 3 } },
    OpCase { name: "rms_norm", kind: Kind::RmsNorm { rows: 50, cols: 720 } },
    OpCase { name: "rms_norm_one_column", kind: Kind::RmsNorm { rows: 5, cols: 1 } },
    OpCase {
        name: "attention_plain",
        kind: Kind::Attention {
            batch: 1,
            queries: 31,
            keys: [31, 0],
            heads: [3, 3, 16],
            mask: Masking::None,
        },
    },
    OpCase {
        name: "attention_grouped",
        kind: Kind::Attention {
            batch: 2,
            queries: 33,
            keys: [17, 0],
            heads: [15, 5, 8],
            mask: Masking::Causal,
        },
    },
    OpCase {
        name: "attention_two_segments",
        kind: Kind::Attention {
            batch: 2,
            queries: 10,
            keys: [7, 10],
            heads: [6, 2, 16],
            mask: Masking::Causal,
        },
    },
    OpCase {
        name: "attention_fully_masked_rows",
        kind: Kind::Attention {
            batch: 1,
            queries: 9,
            keys: [12, 0],
            heads: [4, 2, 8],
            mask: Masking::EmptyRows,
        },
    },
    OpCase {
        name: "attention_nothing_allowed",
        kind: Kind::Attention {
            batch: 2,
            queries: 3,
            keys: [5, 4],
            heads: [2, 1, 4],
            mask: Masking::Nothing,
        },
    },
    OpCase {
        name: "attention_one_query_one_key",
        kind: Kind::Attention { batch: 1, queries: 1, keys: [1, 0], heads: [3, 1, 64], mask: Masking::None },
    },
    OpCase { name: "rope", kind: Kind::Rope { rows: 20, period: 20, heads: 15, half: 32 } },
    OpCase { name: "rope_repeating_table", kind: Kind::Rope { rows: 30, period: 10, heads: 2, half: 3 } },
    OpCase { name: "activate_silu", kind: Kind::Activate(Activation::Silu) },
    OpCase { name: "activate_gelu_tanh", kind: Kind::Activate(Activation::GeluTanh) },
    OpCase { name: "silu_mul", kind: Kind::SiluMul { rows: 13, cols: 34 } },
    OpCase { name: "scale", kind: Kind::Scale },
    OpCase { name: "axpy", kind: Kind::Axpy },
    OpCase { name: "embed_rows_f32", kind: Kind::EmbedRows(StorageType::F32) },
    OpCase { name: "embed_rows_bf16", kind: Kind::EmbedRows(StorageType::Bf16) },
    OpCase { name: "concat_tokens", kind: Kind::ConcatTokens { batch: 1 } },
    OpCase { name: "concat_tokens_of_a_batch", kind: Kind::ConcatTokens { batch: 3 } },
    OpCase { name: "slice_rows", kind: Kind::SliceRows },
    OpCase { name: "split_cols", kind: Kind::SplitCols },
    OpCase { name: "pixel_shuffle", kind: Kind::PixelShuffle { images: 2, grid: 8, factor: 4 } },
    OpCase { name: "pixel_shuffle_to_one_token", kind: Kind::PixelShuffle { images: 3, grid: 2, factor: 2 } },
];

/// Largest allowed NMSE of an f32 operation: 1e-12 is a relative error of 1e-6, eight times f32's rounding, which
/// sums over thousands of terms need and which a wrong formula misses by orders of magnitude.
pub const F32_NMSE: f64 = 1e-12;

impl OpCase {
    /// Whether the case only moves data or rounds once, so that results must be equal bit for bit.
    pub fn is_exact(self) -> bool {
        matches!(
            self.kind,
            Kind::Scale
                | Kind::Axpy
                | Kind::EmbedRows(_)
                | Kind::ConcatTokens { .. }
                | Kind::SliceRows
                | Kind::SplitCols
                | Kind::PixelShuffle { .. }
        )
    }

    /// Runs the case on `backend` and on the reference, twice on the former.
    ///
    /// # Errors
    /// A message saying what differs, or the backend's own error.
    pub fn check<B: Backend>(self, backend: B) -> Result<(), String> {
        let backend = Checked::new(backend);
        let expected = self.run(&Checked::new(Reference)).map_err(|error| error.to_string())?;
        let got = self.run(&backend).map_err(|error| error.to_string())?;
        let again = self.run(&backend).map_err(|error| error.to_string())?;
        if got != again {
            return Err("two runs differ".to_owned());
        }
        if self.is_exact() {
            return if got == expected { Ok(()) } else { Err("is not equal bit for bit".to_owned()) };
        }
        let error = nmse(&expected, &got);
        if error <= F32_NMSE { Ok(()) } else { Err(format!("NMSE {error:.1e}, allowed {F32_NMSE:.0e}")) }
    }

    /// The results on one backend, concatenated.
    fn run<B: Backend>(self, backend: &B) -> Result<Vec<f32>, BackendError> {
        let mut inputs = Inputs { backend, rng: ChaCha8Rng::seed_from_u64(1) };
        let result = match self.kind {
            Kind::Linear { rows, inputs: width, outputs, bias, activation, residual } => {
                let x = inputs.matrix(rows, width)?;
                let weight = inputs.linear(&[outputs], width, bias)?;
                let residual = match residual {
                    Residual::None => None,
                    Residual::Full => Some(inputs.matrix(rows, outputs)?),
                    Residual::Repeating(period) => Some(inputs.matrix(period, outputs)?),
                };
                backend.linear(&x, &weight, Epilogue { activation, residual: residual.as_ref() })?
            }
            Kind::StackedLinear => {
                let x = inputs.matrix(19, 24)?;
                let weight = inputs.linear(&[24, 8, 8], 24, true)?;
                backend.linear(&x, &weight, Epilogue::NONE)?
            }
            Kind::LayerNorm { rows, cols } => {
                let (x, gain, bias) =
                    (inputs.matrix(rows, cols)?, inputs.matrix(1, cols)?, inputs.matrix(1, cols)?);
                backend.layer_norm(&x, &gain, &bias, 1e-6)?
            }
            Kind::RmsNorm { rows, cols } => {
                let (x, gain) = (inputs.matrix(rows, cols)?, inputs.matrix(1, cols)?);
                backend.rms_norm(&x, &gain, 1e-5)?
            }
            Kind::Attention { batch, queries, keys, heads: [heads, kv_heads, head_dim], mask } => {
                let q = inputs.matrix(batch * queries, heads * head_dim)?;
                let segments = keys
                    .iter()
                    .filter(|count| **count > 0)
                    .map(|count| {
                        Ok(KeyValue {
                            key: inputs.matrix(batch * count, kv_heads * head_dim)?,
                            value: inputs.matrix(batch * count, kv_heads * head_dim)?,
                        })
                    })
                    .collect::<Result<Vec<_>, BackendError>>()?;
                let segments: Vec<_> = segments.iter().collect();
                let mask = mask.upload(backend, batch, queries, keys.iter().sum())?;
                let scale = (head_dim as f32).powf(-0.5);
                let shape = AttentionShape { batch, heads, kv_heads, head_dim, scale };
                backend.attention(&q, &segments, mask.as_ref(), shape)?
            }
            Kind::Rope { rows, period, heads, half } => {
                let x = inputs.matrix(rows, heads * 2 * half)?;
                let (cos, sin) = (inputs.matrix(period, half)?, inputs.matrix(period, half)?);
                backend.rope(&x, &cos, &sin)?
            }
            Kind::Activate(activation) => backend.activate(&inputs.matrix(17, 29)?, activation)?,
            Kind::SiluMul { rows, cols } => backend.silu_mul(&inputs.matrix(rows, cols)?)?,
            Kind::Scale => backend.scale(&inputs.matrix(7, 11)?, 31.0)?,
            Kind::Axpy => backend.axpy(-0.1, &inputs.matrix(50, 32)?, &inputs.matrix(50, 32)?)?,
            Kind::EmbedRows(dtype) => {
                let bytes: Vec<u8> = match dtype {
                    StorageType::Bf16 => (0..40 * 6_u16).flat_map(|i| (0x3f00 + i).to_le_bytes()).collect(),
                    _ => (0..40 * 6_u16).flat_map(|i| f32::from(i).to_le_bytes()).collect(),
                };
                let view = TensorView::new(dtype, 40, 6, &bytes).into_iter().collect();
                let table = backend.prepare_table(&LinearSource {
                    name: "table".to_owned(),
                    weights: view,
                    biases: Vec::new(),
                })?;
                backend.embed_rows(&table, &[39, 0, 7, 7])?
            }
            Kind::ConcatTokens { batch } => {
                let (a, b, c) =
                    (inputs.matrix(batch * 4, 5)?, inputs.matrix(batch, 5)?, inputs.matrix(batch * 2, 5)?);
                backend.concat_tokens(&[&a, &b, &c], batch)?
            }
            Kind::SliceRows => backend.slice_rows(&inputs.matrix(9, 4)?, 3, 5)?,
            Kind::SplitCols => {
                let parts = backend.split_cols(&inputs.matrix(6, 12)?, &[7, 2, 3])?;
                let mut values = Vec::new();
                for part in &parts {
                    values.extend(backend.download(part)?);
                }
                return Ok(values);
            }
            Kind::PixelShuffle { images, grid, factor } => {
                backend.pixel_shuffle(&inputs.matrix(images * grid * grid, 3)?, grid, factor)?
            }
        };
        backend.download(&result)
    }
}

impl Masking {
    fn upload<B: Backend>(
        self,
        backend: &B,
        batch: usize,
        queries: usize,
        keys: usize,
    ) -> Result<Option<B::Mask>, BackendError> {
        let allowed = |query: usize, key: usize| match self {
            Self::None => true,
            Self::Causal => key <= query + keys.saturating_sub(queries),
            Self::EmptyRows => !query.is_multiple_of(3) && !key.is_multiple_of(4),
            Self::Nothing => false,
        };
        if matches!(self, Self::None) {
            return Ok(None);
        }
        let values: Vec<bool> = (0..batch * queries)
            .flat_map(|row| (0..keys).map(move |key| allowed(row % queries, key)))
            .collect();
        backend.upload_mask(&values, batch, queries, keys).map(Some)
    }
}

/// Reproducible arguments.
struct Inputs<'a, B> {
    backend: &'a B,
    rng: ChaCha8Rng,
}

impl<B: Backend> Inputs<'_, B> {
    fn values(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| StandardNormal.sample(&mut self.rng)).collect()
    }

    fn matrix(&mut self, rows: usize, cols: usize) -> Result<B::Tensor, BackendError> {
        let values = self.values(rows * cols);
        self.backend.upload(&values, rows, cols)
    }

    fn linear(&mut self, outputs: &[usize], inputs: usize, bias: bool) -> Result<B::Linear, BackendError> {
        let mut stored = |rows: usize, cols: usize| -> Stored {
            let bytes = self.values(rows * cols).iter().flat_map(|v| v.to_le_bytes()).collect();
            Stored { rows, cols, bytes }
        };
        let weights: Vec<Stored> = outputs.iter().map(|rows| stored(*rows, inputs)).collect();
        let biases: Vec<Stored> = outputs.iter().filter(|_| bias).map(|cols| stored(1, *cols)).collect();
        let source = LinearSource {
            name: "linear".to_owned(),
            weights: weights.iter().filter_map(Stored::view).collect(),
            biases: biases.iter().filter_map(Stored::view).collect(),
        };
        self.backend.prepare_linear(&source, Precision::F32)
    }
}

/// A parameter as a file would hold it.
struct Stored {
    rows: usize,
    cols: usize,
    bytes: Vec<u8>,
}

impl Stored {
    fn view(&self) -> Option<TensorView<'_>> {
        TensorView::new(StorageType::F32, self.rows, self.cols, &self.bytes)
    }
}
