//! Reproducible arguments of operations, in the numbers a precision can hold.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use rand_distr::{Distribution, StandardNormal};
use smolvla_core::backend::{Backend, BackendError, Precision};
use smolvla_core::weights::{LinearSource, StorageType, TensorView};

use super::{Part, first_difference};

/// What is special about the numbers an operation is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Normally distributed.
    Normal,
    /// One in a hundred a hundred times larger, as activations of such models are.
    Outliers,
    /// Thousands, of either sign.
    Large,
    /// Two of every four subnormal. The others are normal, so that a device that flushes subnormals, which it may
    /// where it computes, stays within its limits, and one that stumbles over them does not.
    Subnormal,
    /// The largest and smallest numbers of either sign, subnormal ones and zeros among them.
    Limits,
    /// Every third row is zero.
    ZeroRows,
}

impl Kind {
    /// What names of cases call it; nothing for the usual.
    pub(super) fn name(self) -> Option<&'static str> {
        match self {
            Self::Normal => None,
            Self::Outliers => Some("outliers"),
            Self::Large => Some("large"),
            Self::Subnormal => Some("subnormal"),
            Self::Limits => Some("limits"),
            Self::ZeroRows => Some("zero_rows"),
        }
    }

    /// Makes of one normally distributed number what stands at `[row, col]` of a matrix of `cols` columns.
    fn shape(self, normal: f32, [row, col]: [usize; 2], cols: usize) -> f32 {
        /// Small enough that no factor used here makes a normal number of it.
        const SUBNORMAL: f32 = 1e-41;
        const LIMITS: [f32; 8] = [
            f32::MAX,
            f32::MIN,
            f32::MIN_POSITIVE,
            -f32::MIN_POSITIVE,
            f32::from_bits(1),
            -f32::from_bits(1),
            0.0,
            -0.0,
        ];
        let index = row * cols + col;
        match self {
            Self::Normal => normal,
            // A prime, so that the outliers are in other columns of each row.
            Self::Outliers if index % 101 == 5 => 100.0 * normal,
            Self::Large => 1e4 * normal,
            Self::Subnormal if index % 4 < 2 => SUBNORMAL * normal,
            Self::Limits => LIMITS[index % LIMITS.len()],
            Self::ZeroRows if row.is_multiple_of(3) => 0.0,
            Self::Outliers | Self::Subnormal | Self::ZeroRows => normal,
        }
    }
}

/// A linear layer to make up.
#[derive(Clone, Debug)]
pub(super) struct Weight {
    /// Outputs of each stacked matrix, and how its numbers are stored.
    pub(super) stack: Vec<(usize, StorageType)>,
    /// Width of the input.
    pub(super) inputs: usize,
    /// Whether there is a bias.
    pub(super) bias: bool,
    /// Columns left and right of the matrix in a wider stored one, if it is a view of one.
    pub(super) around: Option<[usize; 2]>,
}

impl Weight {
    /// Matrices stacked along the outputs, stored as f32, without bias.
    pub(super) fn new(inputs: usize, outputs: &[usize]) -> Self {
        let stack = outputs.iter().map(|outputs| (*outputs, StorageType::F32)).collect();
        Self { stack, inputs, bias: false, around: None }
    }

    /// Width of the output, over the whole stack.
    pub(super) fn outputs(&self) -> usize {
        self.stack.iter().map(|(outputs, _)| outputs).sum()
    }

    /// The same with a bias.
    pub(super) fn with_bias(self) -> Self {
        Self { bias: true, ..self }
    }
}

/// Makes the arguments of one case on one backend, the same numbers on every backend.
///
/// A backend that holds weights and activations in 16 bits rounds whatever it is given. The plain loops do not, and
/// would be judging that rounding of the arguments too, which says nothing about the operation. So all numbers
/// are cut to the precision's own grid beforehand: both sides then compute from identical arguments, and what
/// they differ by is the operation's. Where weights are int8 or block floats, tensors may be bfloat16, so numbers are on
/// that grid; quantising weights and activations, whose scales depend on the data, is part of what is judged.
pub(super) struct Inputs<'a, B> {
    backend: &'a B,
    rng: ChaCha8Rng,
    /// On whose grid the numbers are.
    grid: Precision,
    /// What linear layers are prepared in.
    prepared: Precision,
    /// The rows of the result to compute; all, where `None`.
    rows: Option<&'a [usize]>,
    /// Arguments that an operation did not leave as they were, and where.
    changed: Vec<String>,
}

impl<'a, B: Backend> Inputs<'a, B> {
    /// Arguments for a case. `grid` must be the same for all backends that are to get the same numbers.
    pub(super) fn new(backend: &'a B, case: &str, grid: Precision, prepared: Precision) -> Self {
        let rng = ChaCha8Rng::seed_from_u64(seed(case));
        Self { backend, rng, grid, prepared, rows: None, changed: Vec::new() }
    }

    /// The same arguments, cut down to what these rows of the result depend on; `None` for all of them.
    pub(super) fn of_rows(self, rows: Option<&'a [usize]>) -> Self {
        Self { rows, ..self }
    }

    /// Runs an operation that has one result, on all tensors it reads.
    pub(super) fn call<'t, N: Into<String>>(
        &mut self,
        arguments: impl IntoIterator<Item = (N, &'t B::Tensor)>,
        op: impl FnOnce(&B) -> Result<B::Tensor, BackendError>,
    ) -> Result<Vec<Part>, BackendError>
    where
        B::Tensor: 't,
    {
        self.calls(arguments, |backend| Ok(vec![(String::new(), op(backend)?)]))
    }

    /// Runs an operation that has several results, each with its name, and sees whether the tensors it read are
    /// still what they were.
    pub(super) fn calls<'t, N: Into<String>>(
        &mut self,
        arguments: impl IntoIterator<Item = (N, &'t B::Tensor)>,
        op: impl FnOnce(&B) -> Result<Vec<(String, B::Tensor)>, BackendError>,
    ) -> Result<Vec<Part>, BackendError>
    where
        B::Tensor: 't,
    {
        let backend = self.backend;
        let arguments: Vec<_> = arguments.into_iter().map(|(name, tensor)| (name.into(), tensor)).collect();
        let download = |(name, tensor): &(String, &B::Tensor)| Part::download(backend, name, tensor);
        let before = arguments.iter().map(download).collect::<Result<Vec<_>, _>>()?;
        let results = op(backend)?;
        // Before the arguments: a backend may put off computing until a result is read.
        let results = results
            .iter()
            .map(|(name, tensor)| Part::download(backend, name, tensor))
            .collect::<Result<Vec<_>, _>>()?;
        for (before, argument) in before.into_iter().zip(&arguments) {
            self.changed.extend(first_difference(&[before], &[download(argument)?]));
        }
        Ok(results)
    }

    /// Arguments that an operation changed, and where: `residual [0, 3]: 0.5, then 0.25`.
    pub(super) fn changed(self) -> Vec<String> {
        self.changed
    }

    /// The backend they are for.
    pub(super) fn backend(&self) -> &'a B {
        self.backend
    }

    /// A matrix `[rows, cols]` on the host.
    pub(super) fn values(&mut self, kind: Kind, rows: usize, cols: usize) -> Vec<f32> {
        // Half precision ends at 65,504, and products of large numbers have to stay below that.
        let kind = if self.grid == Precision::F16 && kind == Kind::Large { Kind::Outliers } else { kind };
        let normal = |rng: &mut ChaCha8Rng| StandardNormal.sample(rng);
        let values: Vec<f32> = (0..rows * cols)
            .map(|index| kind.shape(normal(&mut self.rng), [index / cols, index % cols], cols))
            .collect();
        on_grid(values, self.grid)
    }

    /// A matrix `[rows, cols]`.
    pub(super) fn matrix(&mut self, kind: Kind, rows: usize, cols: usize) -> Result<B::Tensor, BackendError> {
        let values = self.values(kind, rows, cols);
        self.backend.upload(&values, rows, cols)
    }

    /// A matrix of given numbers, cut to the grid.
    pub(super) fn given(
        &self,
        values: Vec<f32>,
        rows: usize,
        cols: usize,
    ) -> Result<B::Tensor, BackendError> {
        self.backend.upload(&on_grid(values, self.grid), rows, cols)
    }

    /// As [`Self::given`], for an argument of which a row of the result reads but one: the row of that number,
    /// or that modulo `rows` where the argument's rows repeat.
    pub(super) fn given_by_row(
        &self,
        values: Vec<f32>,
        rows: usize,
        cols: usize,
    ) -> Result<B::Tensor, BackendError> {
        let Some(picked) = self.rows else { return self.given(values, rows, cols) };
        let row = |row: &usize| &values[row % rows * cols..][..cols];
        self.given(picked.iter().flat_map(row).copied().collect(), picked.len(), cols)
    }

    /// A factor whose products with normal numbers the grid's range holds.
    pub(super) fn factor(&self, factor: f32) -> f32 {
        let size = match self.grid {
            Precision::F16 if factor != 0.0 => factor.abs().clamp(1e-2, 1e2),
            _ => factor.abs(),
        };
        size.copysign(factor)
    }

    /// The gain of a norm, around one: `[1, cols]`.
    pub(super) fn gain(&mut self, cols: usize) -> Result<B::Tensor, BackendError> {
        let gain = self.values(Kind::Normal, 1, cols).iter().map(|v| 1.0 + 0.25 * v).collect();
        self.given(gain, 1, cols)
    }

    /// A linear layer whose results are about as large as its inputs.
    pub(super) fn linear(&mut self, weight: &Weight) -> Result<B::Linear, BackendError> {
        let size = (weight.inputs as f32).powf(-0.5);
        let weights: Vec<Stored> = weight
            .stack
            .iter()
            .map(|(outputs, dtype)| {
                let [left, right] = weight.around.unwrap_or_default();
                let stored = self.stored(size, *outputs, left + weight.inputs + right, *dtype);
                Stored { columns: [left, weight.inputs], ..stored }
            })
            .collect();
        let biases: Vec<Stored> = weight
            .stack
            .iter()
            .filter(|_| weight.bias)
            .map(|(outputs, dtype)| self.stored(1.0, 1, *outputs, *dtype))
            .collect();
        let source = LinearSource {
            name: "linear".to_owned(),
            path: "linear".to_owned(),
            weights: weights.iter().map(Stored::view).collect(),
            biases: biases.iter().map(Stored::view).collect(),
        };
        self.backend.prepare_linear(&source, self.prepared)
    }

    /// An embedding table `[rows, cols]`.
    pub(super) fn table(
        &mut self,
        kind: Kind,
        dtype: StorageType,
        [rows, cols]: [usize; 2],
    ) -> Result<B::Table, BackendError> {
        let values = self.values(kind, rows, cols);
        let stored = Stored { dtype, rows, columns: [0, cols], cols, bytes: encode(&values, dtype) };
        let source = LinearSource {
            name: "table".to_owned(),
            path: "table".to_owned(),
            weights: vec![stored.view()],
            biases: Vec::new(),
        };
        self.backend.prepare_table(&source)
    }

    /// A mask of what query (second) of an observation (first) may attend which key (third).
    pub(super) fn mask(
        &self,
        batch: usize,
        queries: usize,
        keys: usize,
        allowed: impl Fn(usize, usize, usize) -> bool,
    ) -> Result<B::Mask, BackendError> {
        let mut values = Vec::with_capacity(batch * queries * keys);
        for observation in 0..batch {
            for query in 0..queries {
                values.extend((0..keys).map(|key| allowed(observation, query, key)));
            }
        }
        self.backend.upload_mask(&values, batch, queries, keys)
    }

    /// As [`Self::mask`], for the queries among the rows of the result that are computed.
    pub(super) fn mask_by_row(
        &self,
        batch: usize,
        queries: usize,
        keys: usize,
        allowed: impl Fn(usize, usize, usize) -> bool,
    ) -> Result<B::Mask, BackendError> {
        let Some(picked) = self.rows else { return self.mask(batch, queries, keys, allowed) };
        let count = picked.len() / batch;
        self.mask(batch, count, keys, |observation, index, key| {
            allowed(observation, picked[observation * count + index] % queries, key)
        })
    }

    fn stored(&mut self, size: f32, rows: usize, cols: usize, dtype: StorageType) -> Stored {
        let values = self.values(Kind::Normal, rows, cols).iter().map(|v| size * v).collect();
        let bytes = encode(&on_grid(values, self.grid), dtype);
        Stored { dtype, rows, cols, columns: [0, cols], bytes }
    }
}

/// A parameter as a file would hold it.
struct Stored {
    dtype: StorageType,
    rows: usize,
    cols: usize,
    /// First one and number of those that are the parameter.
    columns: [usize; 2],
    bytes: Vec<u8>,
}

impl Stored {
    fn view(&self) -> TensorView<'_> {
        let [start, count] = self.columns;
        whole(self.dtype, self.rows, self.cols, &self.bytes).columns(start, count)
    }
}

fn whole(dtype: StorageType, rows: usize, cols: usize, bytes: &[u8]) -> TensorView<'_> {
    TensorView::new(dtype, rows, cols, bytes).expect("as many bytes as `encode` makes of that many numbers")
}

/// FNV-1a of a name: each case has numbers of its own, which do not change when others come or go.
fn seed(name: &str) -> u64 {
    name.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Numbers that a precision holds exactly.
fn on_grid(values: Vec<f32>, grid: Precision) -> Vec<f32> {
    let dtype = match grid {
        Precision::Bf16
        | Precision::Int8
        | Precision::Int8Weights
        | Precision::Int8Full
        | Precision::Int16
        | Precision::Bfp8
        | Precision::Bfp8LoFi => StorageType::Bf16,
        Precision::F16 => StorageType::F16,
        _ => return values,
    };
    whole(dtype, 1, values.len(), &encode(&values, dtype)).to_f32()
}

/// Numbers as a file holds them, cut off where the type is narrower: which neighbour is taken does not matter for
/// made-up numbers, only that both sides of a comparison get the same.
fn encode(values: &[f32], dtype: StorageType) -> Vec<u8> {
    match dtype {
        StorageType::F64 => values.iter().flat_map(|v| f64::from(*v).to_le_bytes()).collect(),
        StorageType::F16 => values.iter().flat_map(|v| f16_bits(*v).to_le_bytes()).collect(),
        StorageType::Bf16 => values.iter().flat_map(|v| ((v.to_bits() >> 16) as u16).to_le_bytes()).collect(),
        _ => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
    }
}

/// The half-precision number next to `value` on the side of zero; the largest finite one for what is larger.
fn f16_bits(value: f32) -> u16 {
    const LARGEST: f32 = 65_504.0;
    const SMALLEST_NORMAL: f32 = 6.103_515_6e-5; // 2^-14
    const SUBNORMALS: f32 = 16_777_216.0; // 2^24 of them to one
    const EXPONENT_BIAS: u32 = (127 - 15) << 10;
    let magnitude = value.abs().min(LARGEST);
    let bits = if magnitude < SMALLEST_NORMAL {
        (magnitude * SUBNORMALS) as u32
    } else {
        (magnitude.to_bits() >> 13) - EXPONENT_BIAS
    };
    let sign = if value.is_sign_negative() { 0x8000 } else { 0 };
    sign | bits as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_on_a_grid_stay_there() {
        let values = vec![1.0, -0.1, 65_504.0, 1e6, -3.0e-6, 6.0e-5, 0.0, -0.0, 1e-39];
        let half = on_grid(values.clone(), Precision::F16);
        assert_eq!(half[..4], [1.0, -0.099_975_586, 65_504.0, 65_504.0]);
        assert!((half[4] + 3.0e-6).abs() < 6e-8 && (half[5] - 6.0e-5).abs() < 6e-8, "{half:?}");
        assert_eq!(half[6..].iter().map(|v| v.to_bits()).collect::<Vec<_>>(), [0, 0x8000_0000, 0]);
        for (precision, dtype) in [
            (Precision::F16, StorageType::F16),
            (Precision::Bf16, StorageType::Bf16),
            (Precision::Int8, StorageType::Bf16),
            (Precision::Int8Weights, StorageType::Bf16),
            (Precision::Int8Full, StorageType::Bf16),
            (Precision::Int16, StorageType::Bf16),
            (Precision::Bfp8, StorageType::Bf16),
            (Precision::Bfp8LoFi, StorageType::Bf16),
        ] {
            let once = on_grid(values.clone(), precision);
            assert_eq!(whole(dtype, 3, 3, &encode(&once, dtype)).to_f32(), once);
            assert_ne!(once, values);
        }
        assert_eq!(on_grid(values.clone(), Precision::F32), values);
    }

    #[test]
    fn outliers_are_one_in_a_hundred_in_changing_columns() {
        let large: Vec<usize> =
            (0..5050).filter(|i| Kind::Outliers.shape(1.0, [i / 50, i % 50], 50) > 1.0).collect();
        assert_eq!(large.len(), 50);
        assert_ne!(large[0] % 50, large[1] % 50);
    }
}
