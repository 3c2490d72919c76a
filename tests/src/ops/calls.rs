//! The operations of [`Backend`] with arguments of given sizes.

use smolvla_core::backend::{Activation, AttentionShape, Backend, BackendError, Epilogue, Matrix};
use smolvla_core::graph::KeyValue;
use smolvla_core::weights::StorageType;

use super::Part;
use super::inputs::{Inputs, Kind, Weight};
use crate::tolerance::Class;

/// One operation with the sizes of its arguments.
#[derive(Clone, Debug)]
pub(super) enum Call {
    Linear(Linear),
    LayerNorm {
        rows: usize,
        cols: usize,
        x: Rows,
        eps: f32,
    },
    RmsNorm {
        rows: usize,
        cols: usize,
        x: Rows,
        eps: f32,
    },
    Attention(Attention),
    Rope {
        rows: usize,
        period: usize,
        heads: usize,
        half: usize,
    },
    Activate {
        rows: usize,
        cols: usize,
        activation: Activation,
    },
    SiluMul {
        rows: usize,
        width: usize,
    },
    Scale {
        rows: usize,
        cols: usize,
        factor: f32,
    },
    Axpy {
        rows: usize,
        cols: usize,
        alpha: f32,
        y: Addend,
    },
    EmbedRows {
        dtype: StorageType,
        table: [usize; 2],
        ids: Vec<u32>,
    },
    /// Parts of so many tokens an observation.
    ConcatTokens {
        batch: usize,
        tokens: Vec<usize>,
        cols: usize,
    },
    SliceRows {
        rows: usize,
        cols: usize,
        start: usize,
        count: usize,
    },
    SplitCols {
        rows: usize,
        widths: Vec<usize>,
    },
    PixelShuffle {
        images: usize,
        grid: usize,
        factor: usize,
        cols: usize,
    },
    /// `upload`, `synchronize`, `download`.
    Upload {
        rows: usize,
        cols: usize,
    },
}

/// A `linear`.
#[derive(Clone, Debug)]
pub(super) struct Linear {
    pub(super) rows: usize,
    pub(super) weight: Weight,
    pub(super) activation: Option<Activation>,
    /// Rows of the residual, if there is one.
    pub(super) residual: Option<usize>,
}

/// An `attention`.
#[derive(Clone, Debug)]
pub(super) struct Attention {
    pub(super) batch: usize,
    pub(super) queries: usize,
    /// Keys of each segment.
    pub(super) segments: Vec<usize>,
    /// Query heads, key/value heads and their width.
    pub(super) heads: [usize; 3],
    pub(super) mask: Masking,
    pub(super) scores: Scores,
    /// What scores are multiplied by.
    pub(super) scale: f32,
}

/// The rows a norm is given.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Rows {
    /// Of the case's kind.
    Kind,
    /// Of the case's kind, so small that epsilon decides.
    Tiny,
    /// Each row one number throughout.
    Constant,
    /// Two columns, a little above and below a number a thousand times larger. The mean is exact in f32 in
    /// whatever order it is summed, so taking the variance of what is left is, too; `mean(x²) − mean(x)²` loses all digits.
    FarFromZero,
}

/// What an `axpy` adds to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Addend {
    /// Numbers of the case's kind.
    Kind,
    /// For every second element the rounded product's negative: the sum is zero, unless the product was not rounded.
    Cancelling,
}

/// How large an attention's scores are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Scores {
    /// A few units.
    Usual,
    /// Thousands of either sign, whose exponentials overflow. Queries and keys are such that every score is exact
    /// in f32, since an error of a score is one of the result however well the softmax is done.
    Large,
    /// All of them close to one large positive number, so that every exponential overflows; exact as well.
    AllHigh,
    /// All of them close to one large negative number, so that every exponential vanishes; exact as well.
    AllLow,
}

/// Who may attend what.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Masking {
    /// No mask.
    None,
    /// The last query may attend all keys, each one before it one key fewer.
    Causal,
    /// The last keys are padding, more of them in each observation of the batch.
    Padding,
    /// The last quarter of the keys is padding.
    QuarterPadding,
    /// Here and there, differently in every observation.
    Scattered,
    /// As [`Self::Scattered`], and every third query nothing.
    EmptyRows,
    /// Nobody anything.
    Nothing,
}

impl Call {
    /// The method of [`Backend`].
    pub(super) fn op(&self) -> &'static str {
        match self {
            Self::Linear(_) => "linear",
            Self::LayerNorm { .. } => "layer_norm",
            Self::RmsNorm { .. } => "rms_norm",
            Self::Attention(_) => "attention",
            Self::Rope { .. } => "rope",
            Self::Activate { .. } => "activate",
            Self::SiluMul { .. } => "silu_mul",
            Self::Scale { .. } => "scale",
            Self::Axpy { .. } => "axpy",
            Self::EmbedRows { .. } => "embed_rows",
            Self::ConcatTokens { .. } => "concat_tokens",
            Self::SliceRows { .. } => "slice_rows",
            Self::SplitCols { .. } => "split_cols",
            Self::PixelShuffle { .. } => "pixel_shuffle",
            Self::Upload { .. } => "upload",
        }
    }

    /// What its results are held to.
    pub(super) fn class(&self) -> Class {
        match self {
            Self::Linear(_) => Class::Product,
            Self::LayerNorm { .. } | Self::RmsNorm { .. } => Class::Norm,
            Self::Attention(_) => Class::Attention,
            Self::Rope { .. } | Self::Activate { .. } | Self::SiluMul { .. } => Class::Elementwise,
            Self::Scale { .. } | Self::Axpy { .. } => Class::Rounding,
            Self::EmbedRows { .. }
            | Self::ConcatTokens { .. }
            | Self::SliceRows { .. }
            | Self::SplitCols { .. }
            | Self::PixelShuffle { .. }
            | Self::Upload { .. } => Class::Movement,
        }
    }

    /// Some of the result's rows, in each observation alike: the first and the last, those beside the edges of
    /// tiles, and others.
    /// `None` for operations of which all rows take the plain loops no time.
    pub(super) fn sample(&self) -> Option<Vec<usize>> {
        const ROWS: [usize; 23] = [
            0, 1, 15, 16, 31, 32, 50, 63, 64, 113, 127, 128, 200, 255, 256, 500, 511, 512, 777, 1500, 2047,
            2048, 2900,
        ];
        let (observations, rows) = match self {
            Self::Linear(linear) => (1, linear.rows),
            Self::Attention(attention) => (attention.batch, attention.queries),
            _ => return None,
        };
        let of_one: Vec<usize> =
            ROWS.into_iter().filter(|row| row + 1 < rows).chain(rows.checked_sub(1)).collect();
        Some((0..observations).flat_map(|index| of_one.iter().map(move |row| index * rows + row)).collect())
    }

    /// The results on one backend.
    pub(super) fn run<B: Backend>(
        &self,
        kind: Kind,
        inputs: &mut Inputs<'_, B>,
    ) -> Result<Vec<Part>, BackendError> {
        match self {
            Self::Linear(linear) => linear.run(kind, inputs),
            Self::LayerNorm { rows, cols, x, eps } => {
                let (gain, bias) = (inputs.gain(*cols)?, inputs.matrix(Kind::Normal, 1, *cols)?);
                let x = x.matrix(kind, inputs, *rows, *cols)?;
                inputs.call([("x", &x), ("gain", &gain), ("bias", &bias)], |backend| {
                    backend.layer_norm(&x, &gain, &bias, *eps)
                })
            }
            Self::RmsNorm { rows, cols, x, eps } => {
                let gain = inputs.gain(*cols)?;
                let x = x.matrix(kind, inputs, *rows, *cols)?;
                inputs.call([("x", &x), ("gain", &gain)], |backend| backend.rms_norm(&x, &gain, *eps))
            }
            Self::Attention(attention) => attention.run(kind, inputs),
            Self::Rope { rows, period, heads, half } => {
                let x = inputs.matrix(kind, *rows, heads * 2 * half)?;
                let cos = inputs.matrix(Kind::Normal, *period, *half)?;
                let sin = inputs.matrix(Kind::Normal, *period, *half)?;
                inputs.call([("x", &x), ("cos", &cos), ("sin", &sin)], |backend| backend.rope(&x, &cos, &sin))
            }
            Self::Activate { rows, cols, activation } => {
                let x = inputs.matrix(kind, *rows, *cols)?;
                inputs.call([("x", &x)], |backend| backend.activate(&x, *activation))
            }
            Self::SiluMul { rows, width } => {
                let x = inputs.matrix(kind, *rows, 2 * width)?;
                inputs.call([("x", &x)], |backend| backend.silu_mul(&x))
            }
            Self::Scale { rows, cols, factor } => {
                let x = inputs.matrix(kind, *rows, *cols)?;
                let factor = inputs.factor(*factor);
                inputs.call([("x", &x)], |backend| backend.scale(&x, factor))
            }
            Self::Axpy { rows, cols, alpha, y } => {
                let alpha = inputs.factor(*alpha);
                let x = inputs.values(kind, *rows, *cols);
                let mut addend = inputs.values(kind, *rows, *cols);
                if *y == Addend::Cancelling {
                    for (y, x) in addend.iter_mut().zip(&x).step_by(2) {
                        *y = -(alpha * x);
                    }
                }
                let (x, y) = (inputs.given(x, *rows, *cols)?, inputs.given(addend, *rows, *cols)?);
                inputs.call([("x", &x), ("y", &y)], |backend| backend.axpy(alpha, &x, &y))
            }
            Self::EmbedRows { dtype, table, ids } => {
                let table = inputs.table(kind, *dtype, *table)?;
                inputs.call(std::iter::empty::<(&str, _)>(), |backend| backend.embed_rows(&table, ids))
            }
            Self::ConcatTokens { batch, tokens, cols } => {
                let parts = tokens
                    .iter()
                    .map(|tokens| inputs.matrix(kind, batch * tokens, *cols))
                    .collect::<Result<Vec<_>, _>>()?;
                let parts: Vec<_> = parts.iter().collect();
                let arguments = parts.iter().zip(0..).map(|(part, index)| (format!("part {index}"), *part));
                inputs.call(arguments, |backend| backend.concat_tokens(&parts, *batch))
            }
            Self::SliceRows { rows, cols, start, count } => {
                let x = inputs.matrix(kind, *rows, *cols)?;
                inputs.call([("x", &x)], |backend| backend.slice_rows(&x, *start, *count))
            }
            Self::SplitCols { rows, widths } => {
                let x = inputs.matrix(kind, *rows, widths.iter().sum())?;
                inputs.calls([("x", &x)], |backend| {
                    let parts = backend.split_cols(&x, widths)?;
                    Ok((0..).map(|index: usize| format!("part {index}")).zip(parts).collect())
                })
            }
            Self::PixelShuffle { images, grid, factor, cols } => {
                let x = inputs.matrix(kind, images * grid * grid, *cols)?;
                inputs.call([("x", &x)], |backend| backend.pixel_shuffle(&x, *grid, *factor))
            }
            Self::Upload { rows, cols } => {
                let x = inputs.matrix(kind, *rows, *cols)?;
                let backend = inputs.backend();
                backend.synchronize()?;
                Ok(vec![Part::download(backend, "", &x)?])
            }
        }
    }
}

impl Linear {
    fn run<B: Backend>(&self, kind: Kind, inputs: &mut Inputs<'_, B>) -> Result<Vec<Part>, BackendError> {
        let (width, outputs) = (self.weight.inputs, self.weight.outputs());
        let x = inputs.values(kind, self.rows, width);
        let x = inputs.given_by_row(x, self.rows, width)?;
        let weight = inputs.linear(&self.weight)?;
        let residual = self.residual.map(|rows| {
            let values = inputs.values(Kind::Normal, rows, outputs);
            inputs.given_by_row(values, rows, outputs)
        });
        let residual = residual.transpose()?;
        let epilogue = Epilogue { activation: self.activation, residual: residual.as_ref() };
        let arguments = [("x", &x)].into_iter().chain(residual.iter().map(|residual| ("residual", residual)));
        inputs.call(arguments, |backend| backend.linear(&x, &weight, epilogue))
    }
}

impl Attention {
    fn run<B: Backend>(&self, kind: Kind, inputs: &mut Inputs<'_, B>) -> Result<Vec<Part>, BackendError> {
        let Self { batch, queries, ref segments, heads, mask, scores, scale } = *self;
        let [heads, kv_heads, head_dim] = heads;
        let (width, kv_width) = (heads * head_dim, kv_heads * head_dim);
        let q = scores.queries(inputs, batch * queries, width, head_dim);
        let q = inputs.given_by_row(q, batch * queries, width)?;
        let segments = segments
            .iter()
            .map(|keys| {
                let key = scores.keys(inputs, batch * keys, kv_width, head_dim);
                Ok(KeyValue {
                    key: inputs.given(key, batch * keys, kv_width)?,
                    value: inputs.matrix(kind, batch * keys, kv_width)?,
                })
            })
            .collect::<Result<Vec<_>, BackendError>>()?;
        let segments: Vec<_> = segments.iter().collect();
        let keys = segments.iter().map(|segment| segment.key.rows() / batch).sum();
        let mask = mask.upload(inputs, batch, queries, keys)?;
        let shape = AttentionShape { batch, heads, kv_heads, head_dim, scale };
        let of_segments = segments.iter().zip(0..).flat_map(|(segment, index): (_, usize)| {
            [(format!("key {index}"), &segment.key), (format!("value {index}"), &segment.value)]
        });
        let arguments = [("q".to_owned(), &q)].into_iter().chain(of_segments);
        inputs.call(arguments, |backend| backend.attention(&q, &segments, mask.as_ref(), shape))
    }
}

impl Rows {
    fn matrix<B: Backend>(
        self,
        kind: Kind,
        inputs: &mut Inputs<'_, B>,
        rows: usize,
        cols: usize,
    ) -> Result<B::Tensor, BackendError> {
        let mut values = inputs.values(kind, rows, cols);
        match self {
            Self::Kind => {}
            Self::Tiny => values.iter_mut().for_each(|v| *v *= 1e-3),
            Self::Constant => {
                for (row, number) in values.chunks_mut(cols).zip([3.0, -7.0, 0.5, 0.0, 1e4].iter().cycle()) {
                    row.fill(*number);
                }
            }
            Self::FarFromZero => {
                for row in values.chunks_exact_mut(2) {
                    let (middle, distance) = (1024.0 * row[0].signum(), (64.0 * row[1]).round() / 64.0);
                    (row[0], row[1]) = (middle + distance, middle - distance);
                }
            }
        }
        inputs.given(values, rows, cols)
    }
}

impl Scores {
    fn queries<B: Backend>(
        self,
        inputs: &mut Inputs<'_, B>,
        rows: usize,
        cols: usize,
        head_dim: usize,
    ) -> Vec<f32> {
        let high = match self {
            Self::AllLow => -64.0,
            _ => 64.0,
        };
        self.values(inputs, rows, cols, head_dim, high)
    }

    fn keys<B: Backend>(
        self,
        inputs: &mut Inputs<'_, B>,
        rows: usize,
        cols: usize,
        head_dim: usize,
    ) -> Vec<f32> {
        self.values(inputs, rows, cols, head_dim, 64.0)
    }

    /// `first`: what every head begins with where all scores are to be close to one number.
    fn values<B: Backend>(
        self,
        inputs: &mut Inputs<'_, B>,
        rows: usize,
        cols: usize,
        head_dim: usize,
        first: f32,
    ) -> Vec<f32> {
        let mut values = inputs.values(Kind::Normal, rows, cols);
        match self {
            Self::Usual => {}
            Self::Large => values.iter_mut().for_each(|v| *v = 16.0 * (4.0 * *v).round().clamp(-8.0, 8.0)),
            Self::AllHigh | Self::AllLow => {
                for head in values.chunks_mut(head_dim) {
                    head.iter_mut().for_each(|v| *v = v.round());
                    head[0] = first;
                }
            }
        }
        values
    }
}

impl Masking {
    fn upload<B: Backend>(
        self,
        inputs: &Inputs<'_, B>,
        batch: usize,
        queries: usize,
        keys: usize,
    ) -> Result<Option<B::Mask>, BackendError> {
        if self == Self::None {
            return Ok(None);
        }
        let is_scattered =
            |observation: usize, query: usize, key: usize| (7 * key + 5 * query + 3 * observation) % 11 < 6;
        let mask = inputs.mask_by_row(batch, queries, keys, |observation, query, key| match self {
            Self::None => true,
            Self::Causal => key + queries <= query + keys,
            Self::Padding => key + 1 + 2 * observation < keys,
            Self::QuarterPadding => key < keys - keys / 4,
            Self::Scattered => key == query % keys || is_scattered(observation, query, key),
            Self::EmptyRows => !query.is_multiple_of(3) && is_scattered(observation, query, key),
            Self::Nothing => false,
        })?;
        Ok(Some(mask))
    }
}
