//! The specification of every operation: plain loops, f64 accumulation, f32 results.
//!
//! Slow on purpose, and to be kept simple for ever: each function is the formula of its trait method. Other
//! backends are judged against it, and it against LeRobot.

use crate::backend::{
    Activation, AttentionMask, AttentionShape, Backend, BackendError, Capabilities, Epilogue, Matrix,
    Precision, Prepared,
};
use crate::graph::KeyValue;
use crate::weights::LinearSource;

/// The plain-loop backend.
///
/// ```
/// use smolvla_core::backend::Backend;
/// use smolvla_core::reference::Reference;
///
/// let x = Reference.upload(&[1.0, 2.0, 3.0, 4.0], 2, 2)?;
/// assert_eq!(Reference.download(&Reference.scale(&x, 0.5)?)?, [0.5, 1.0, 1.5, 2.0]);
/// # Ok::<(), smolvla_core::BackendError>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Reference;

/// A matrix in host memory.
#[derive(Clone, Debug, PartialEq)]
pub struct HostMatrix {
    rows: usize,
    cols: usize,
    values: Vec<f32>,
}

impl HostMatrix {
    fn from_fn(rows: usize, cols: usize, value: impl Fn(usize, usize) -> f32) -> Self {
        let values = (0..rows).flat_map(|row| (0..cols).map(move |col| (row, col)));
        Self { rows, cols, values: values.map(|(row, col)| value(row, col)).collect() }
    }

    fn at(&self, row: usize, col: usize) -> f32 {
        self.values[row * self.cols + col]
    }

    fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.cols..][..self.cols]
    }
}

impl Matrix for HostMatrix {
    fn rows(&self) -> usize {
        self.rows
    }

    fn cols(&self) -> usize {
        self.cols
    }
}

/// A linear layer or a table in host memory, as f32.
#[derive(Clone, Debug)]
pub struct HostParameters {
    inputs: usize,
    outputs: usize,
    /// Linear: `[outputs, inputs]`; table: `[inputs, outputs]`.
    values: HostMatrix,
    bias: Option<Vec<f32>>,
}

impl Prepared for HostParameters {
    fn inputs(&self) -> usize {
        self.inputs
    }

    fn outputs(&self) -> usize {
        self.outputs
    }

    fn precision(&self) -> Precision {
        Precision::F32
    }
}

/// A mask in host memory.
#[derive(Clone, Debug)]
pub struct HostMask {
    batch: usize,
    queries: usize,
    keys: usize,
    allowed: Vec<bool>,
}

impl HostMask {
    /// Whether the query in a row (`observation · queries + query`) may attend a key.
    ///
    /// # Panics
    /// When there is no such row or key.
    pub fn allows(&self, row: usize, key: usize) -> bool {
        assert!(key < self.keys, "key {key} of {}", self.keys);
        self.allowed[row * self.keys + key]
    }
}

impl AttentionMask for HostMask {
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

impl Backend for Reference {
    type Tensor = HostMatrix;
    type Linear = HostParameters;
    type Table = HostParameters;
    type Mask = HostMask;

    fn capabilities(&self) -> Capabilities {
        Capabilities::new("reference", "plain loops with f64 accumulation, one thread", [Precision::F32])
    }

    fn prepare_linear(
        &self,
        source: &LinearSource<'_>,
        _precision: Precision,
    ) -> Result<Self::Linear, BackendError> {
        let (inputs, outputs) = (source.inputs(), source.outputs());
        let values = HostMatrix { rows: outputs, cols: inputs, values: source.weight_f32() };
        Ok(HostParameters { inputs, outputs, values, bias: source.bias_f32() })
    }

    fn prepare_table(&self, source: &LinearSource<'_>) -> Result<Self::Table, BackendError> {
        let (rows, cols) = (source.outputs(), source.inputs());
        let values = HostMatrix { rows, cols, values: source.weight_f32() };
        Ok(HostParameters { inputs: rows, outputs: cols, values, bias: None })
    }

    fn upload(&self, values: &[f32], rows: usize, cols: usize) -> Result<Self::Tensor, BackendError> {
        Ok(HostMatrix { rows, cols, values: values.to_vec() })
    }

    fn upload_mask(
        &self,
        allowed: &[bool],
        batch: usize,
        queries: usize,
        keys: usize,
    ) -> Result<Self::Mask, BackendError> {
        Ok(HostMask { batch, queries, keys, allowed: allowed.to_vec() })
    }

    fn download(&self, x: &Self::Tensor) -> Result<Vec<f32>, BackendError> {
        Ok(x.values.clone())
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
        Ok(HostMatrix::from_fn(x.rows, weight.outputs, |row, output| {
            let mut sum = dot(x.row(row), weight.values.row(output));
            if let Some(bias) = &weight.bias {
                sum += f64::from(bias[output]);
            }
            if let Some(activation) = epilogue.activation {
                sum = activated(sum, activation);
            }
            if let Some(residual) = epilogue.residual {
                sum += f64::from(residual.at(row % residual.rows, output));
            }
            sum as f32
        }))
    }

    fn layer_norm(
        &self,
        x: &Self::Tensor,
        gain: &Self::Tensor,
        bias: &Self::Tensor,
        eps: f32,
    ) -> Result<Self::Tensor, BackendError> {
        let statistics: Vec<(f64, f64)> = (0..x.rows)
            .map(|row| {
                let mean = mean(x.row(row).iter().map(|v| f64::from(*v)));
                let variance = self::mean(x.row(row).iter().map(|v| (f64::from(*v) - mean).powi(2)));
                (mean, 1.0 / (variance + f64::from(eps)).sqrt())
            })
            .collect();
        Ok(HostMatrix::from_fn(x.rows, x.cols, |row, col| {
            let (mean, inverse) = statistics[row];
            let normalised = (f64::from(x.at(row, col)) - mean) * inverse;
            (normalised * f64::from(gain.at(0, col)) + f64::from(bias.at(0, col))) as f32
        }))
    }

    fn rms_norm(
        &self,
        x: &Self::Tensor,
        gain: &Self::Tensor,
        eps: f32,
    ) -> Result<Self::Tensor, BackendError> {
        let inverse: Vec<f64> = (0..x.rows)
            .map(|row| {
                let square = mean(x.row(row).iter().map(|v| f64::from(*v).powi(2)));
                1.0 / (square + f64::from(eps)).sqrt()
            })
            .collect();
        Ok(HostMatrix::from_fn(x.rows, x.cols, |row, col| {
            (f64::from(x.at(row, col)) * inverse[row] * f64::from(gain.at(0, col))) as f32
        }))
    }

    fn attention(
        &self,
        q: &Self::Tensor,
        segments: &[&KeyValue<Self::Tensor>],
        mask: Option<&Self::Mask>,
        shape: AttentionShape,
    ) -> Result<Self::Tensor, BackendError> {
        let AttentionShape { batch, heads, kv_heads, head_dim, scale } = shape;
        let queries = q.rows / batch;
        let mut out = HostMatrix { rows: q.rows, cols: q.cols, values: vec![0.0; q.rows * q.cols] };
        for observation in 0..batch {
            // Every key of the observation, over all segments: which segment, and which row there.
            let keys: Vec<(usize, usize)> = segments
                .iter()
                .enumerate()
                .flat_map(|(segment, kv)| {
                    let count = kv.key.rows / batch;
                    (0..count).map(move |key| (segment, observation * count + key))
                })
                .collect();
            for query in 0..queries {
                let row = observation * queries + query;
                for head in 0..heads {
                    let columns = head * head_dim..(head + 1) * head_dim;
                    let kv_head = head / (heads / kv_heads);
                    let kv_columns = kv_head * head_dim..(kv_head + 1) * head_dim;
                    let scores: Vec<f64> = keys
                        .iter()
                        .enumerate()
                        .map(|(index, &(segment, key_row))| {
                            let allowed = mask.is_none_or(|m| m.allows(row, index));
                            let key = &segments[segment].key.row(key_row)[kv_columns.clone()];
                            // LeRobot masks with the lowest finite number, so that a query that may attend
                            // nothing attends everything equally.
                            if allowed {
                                dot(&q.row(row)[columns.clone()], key) * f64::from(scale)
                            } else {
                                f64::from(f32::MIN)
                            }
                        })
                        .collect();
                    let highest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                    let weights: Vec<f64> = scores.iter().map(|score| (score - highest).exp()).collect();
                    let total: f64 = weights.iter().sum();
                    for (offset, column) in columns.enumerate() {
                        let sum: f64 = keys
                            .iter()
                            .zip(&weights)
                            .map(|(&(segment, key_row), weight)| {
                                let value = segments[segment].value.at(key_row, kv_columns.start + offset);
                                weight * f64::from(value)
                            })
                            .sum();
                        out.values[row * q.cols + column] = (sum / total) as f32;
                    }
                }
            }
        }
        Ok(out)
    }

    fn rope(
        &self,
        x: &Self::Tensor,
        cos: &Self::Tensor,
        sin: &Self::Tensor,
    ) -> Result<Self::Tensor, BackendError> {
        let half = cos.cols;
        Ok(HostMatrix::from_fn(x.rows, x.cols, |row, col| {
            let (head, index) = (col / (2 * half), col % (2 * half));
            let pair = index % half;
            let x1 = f64::from(x.at(row, head * 2 * half + pair));
            let x2 = f64::from(x.at(row, head * 2 * half + half + pair));
            let c = f64::from(cos.at(row % cos.rows, pair));
            let s = f64::from(sin.at(row % sin.rows, pair));
            (if index < half { x1 * c - x2 * s } else { x2 * c + x1 * s }) as f32
        }))
    }

    fn activate(&self, x: &Self::Tensor, activation: Activation) -> Result<Self::Tensor, BackendError> {
        Ok(HostMatrix::from_fn(x.rows, x.cols, |row, col| {
            activated(f64::from(x.at(row, col)), activation) as f32
        }))
    }

    fn silu_mul(&self, x: &Self::Tensor) -> Result<Self::Tensor, BackendError> {
        let width = x.cols / 2;
        Ok(HostMatrix::from_fn(x.rows, width, |row, col| {
            let gate = activated(f64::from(x.at(row, col)), Activation::Silu);
            (gate * f64::from(x.at(row, width + col))) as f32
        }))
    }

    fn scale(&self, x: &Self::Tensor, factor: f32) -> Result<Self::Tensor, BackendError> {
        Ok(HostMatrix::from_fn(x.rows, x.cols, |row, col| factor * x.at(row, col)))
    }

    fn axpy(&self, alpha: f32, x: &Self::Tensor, y: &Self::Tensor) -> Result<Self::Tensor, BackendError> {
        Ok(HostMatrix::from_fn(y.rows, y.cols, |row, col| {
            let product = alpha * x.at(row, col);
            y.at(row, col) + product
        }))
    }

    fn embed_rows(&self, table: &Self::Table, ids: &[u32]) -> Result<Self::Tensor, BackendError> {
        Ok(HostMatrix::from_fn(ids.len(), table.outputs, |row, col| table.values.at(ids[row] as usize, col)))
    }

    fn concat_tokens(&self, parts: &[&Self::Tensor], batch: usize) -> Result<Self::Tensor, BackendError> {
        let cols = parts[0].cols;
        let rows = parts.iter().map(|part| part.rows).sum();
        let mut values = Vec::with_capacity(rows * cols);
        for observation in 0..batch {
            for part in parts {
                let length = part.values.len() / batch;
                values.extend_from_slice(&part.values[observation * length..][..length]);
            }
        }
        Ok(HostMatrix { rows, cols, values })
    }

    fn slice_rows(&self, x: &Self::Tensor, start: usize, count: usize) -> Result<Self::Tensor, BackendError> {
        Ok(HostMatrix::from_fn(count, x.cols, |row, col| x.at(start + row, col)))
    }

    fn split_cols(&self, x: &Self::Tensor, widths: &[usize]) -> Result<Vec<Self::Tensor>, BackendError> {
        let starts = widths.iter().scan(0, |end, width| {
            let start = *end;
            *end += width;
            Some(start)
        });
        Ok(starts
            .zip(widths)
            .map(|(start, width)| HostMatrix::from_fn(x.rows, *width, |row, col| x.at(row, start + col)))
            .collect())
    }

    fn pixel_shuffle(
        &self,
        x: &Self::Tensor,
        grid: usize,
        factor: usize,
    ) -> Result<Self::Tensor, BackendError> {
        let side = grid / factor;
        Ok(HostMatrix::from_fn(x.rows / (factor * factor), x.cols * factor * factor, |row, col| {
            let (image, token) = (row / (side * side), row % (side * side));
            let (block, channel) = (col / x.cols, col % x.cols);
            let source_row = factor * (token / side) + block / factor;
            let source_col = factor * (token % side) + block % factor;
            x.at((image * grid + source_row) * grid + source_col, channel)
        }))
    }
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len() as f64;
    values.sum::<f64>() / count
}

fn activated(x: f64, activation: Activation) -> f64 {
    match activation {
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::GeluTanh => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
            0.5 * x * (1.0 + inner.tanh())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::{StorageType, TensorView};

    fn matrix<const R: usize, const C: usize>(rows: [[f32; C]; R]) -> HostMatrix {
        HostMatrix { rows: R, cols: C, values: rows.concat() }
    }

    #[track_caller]
    fn close(got: &HostMatrix, expected: &[f32]) {
        assert_eq!(got.values.len(), expected.len());
        for (got, expected) in got.values.iter().zip(expected) {
            assert!((got - expected).abs() < 1e-6, "{got} for {expected}");
        }
    }

    // Expected values in these tests were worked out by hand from the formulas of the trait.

    #[test]
    fn linear_multiplies_by_the_transpose_then_bias_activation_residual() {
        let bytes: Vec<u8> = [1.0_f32, 2.0, -1.0, 0.5].iter().flat_map(|v| v.to_le_bytes()).collect();
        let bias: Vec<u8> = [0.5_f32, -1.0].iter().flat_map(|v| v.to_le_bytes()).collect();
        let source = LinearSource {
            name: "l".to_owned(),
            path: "l".to_owned(),
            weights: vec![TensorView::new(StorageType::F32, 2, 2, &bytes).unwrap()],
            biases: vec![TensorView::new(StorageType::F32, 1, 2, &bias).unwrap()],
        };
        let weight = Reference.prepare_linear(&source, Precision::F32).unwrap();
        let x = matrix([[1.0, 1.0], [0.0, 2.0]]);
        close(&Reference.linear(&x, &weight, Epilogue::NONE).unwrap(), &[3.5, -1.5, 4.5, 0.0]);
        let residual = matrix([[10.0, 20.0]]);
        let epilogue = Epilogue { activation: Some(Activation::Silu), residual: Some(&residual) };
        let silu = |x: f32| x / (1.0 + (-x).exp());
        close(
            &Reference.linear(&x, &weight, epilogue).unwrap(),
            &[10.0 + silu(3.5), 20.0 + silu(-1.5), 10.0 + silu(4.5), 20.0],
        );
    }

    #[test]
    fn norms_follow_their_formulas() {
        let x = matrix([[1.0, 3.0]]);
        let (gain, bias) = (matrix([[2.0, 1.0]]), matrix([[0.0, 5.0]]));
        close(&Reference.layer_norm(&x, &gain, &bias, 0.0).unwrap(), &[-2.0, 6.0]);
        // mean(x²) = 5
        close(&Reference.rms_norm(&x, &gain, 0.0).unwrap(), &[2.0 / 5.0_f32.sqrt(), 3.0 / 5.0_f32.sqrt()]);
    }

    #[test]
    fn attention_groups_heads_joins_segments_and_masks() {
        // Two query heads of width 1 share one key/value head; one key in each of two segments.
        let q = matrix([[0.0, 1.0]]);
        let segment = |key, value| KeyValue { key: matrix([[key]]), value: matrix([[value]]) };
        let (a, b) = (segment(0.0, 1.0), segment(3.0_f32.ln(), 5.0));
        let shape = AttentionShape { batch: 1, heads: 2, kv_heads: 1, head_dim: 1, scale: 1.0 };
        // Head 0 scores 0 and 0: the mean, 3. Head 1 scores 0 and ln 3: weights 1/4 and 3/4.
        close(&Reference.attention(&q, &[&a, &b], None, shape).unwrap(), &[3.0, 4.0]);
        let only_first = Reference.upload_mask(&[true, false], 1, 1, 2).unwrap();
        close(&Reference.attention(&q, &[&a, &b], Some(&only_first), shape).unwrap(), &[1.0, 1.0]);
        let nothing = Reference.upload_mask(&[false, false], 1, 1, 2).unwrap();
        close(&Reference.attention(&q, &[&a, &b], Some(&nothing), shape).unwrap(), &[3.0, 3.0]);
    }

    #[test]
    fn rope_rotates_halves_of_each_head() {
        let x = matrix([[1.0, 2.0, 3.0, 4.0]]);
        let (cos, sin) = (matrix([[0.0]]), matrix([[1.0]]));
        // A quarter turn takes (x1, x2) to (−x2, x1), in each head of width 2.
        close(&Reference.rope(&x, &cos, &sin).unwrap(), &[-2.0, 1.0, -4.0, 3.0]);
    }

    #[test]
    fn activations_have_their_known_values() {
        let x = matrix([[0.0, 1.0, -1.0]]);
        close(&Reference.activate(&x, Activation::Silu).unwrap(), &[0.0, 0.731_058_6, -0.268_941_4]);
        close(&Reference.activate(&x, Activation::GeluTanh).unwrap(), &[0.0, 0.841_192, -0.158_808]);
        close(&Reference.silu_mul(&matrix([[1.0, 2.0, 10.0, 0.5]])).unwrap(), &[7.310_586, 0.880_797]);
    }

    #[test]
    fn pixel_shuffle_gathers_blocks_row_by_row() {
        // A 4 × 4 grid of one-column tokens numbered row by row, in blocks of 2 × 2.
        let x = HostMatrix { rows: 16, cols: 1, values: (0..16).map(|v| v as f32).collect() };
        let shuffled = Reference.pixel_shuffle(&x, 4, 2).unwrap();
        assert_eq!(shuffled.row(1), [2.0, 3.0, 6.0, 7.0]);
        assert_eq!(shuffled.row(2), [8.0, 9.0, 12.0, 13.0]);
    }

    #[test]
    fn concat_tokens_keeps_observations_apart() {
        let (a, b) = (matrix([[1.0], [2.0]]), matrix([[3.0], [4.0], [5.0], [6.0]]));
        let joined = Reference.concat_tokens(&[&a, &b], 2).unwrap();
        assert_eq!(joined.values, [1.0, 3.0, 4.0, 2.0, 5.0, 6.0]);
    }
}
