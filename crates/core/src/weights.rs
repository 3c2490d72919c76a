//! Parameters on their way from a file to a device.

use half::{bf16, f16};

/// How the numbers of a [`TensorView`] are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StorageType {
    /// IEEE double.
    F64,
    /// IEEE single.
    F32,
    /// IEEE half.
    F16,
    /// bfloat16.
    Bf16,
}

impl StorageType {
    /// Bytes of one element.
    pub fn size_bytes(self) -> usize {
        match self {
            Self::F64 => 8,
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }
}

/// A parameter as it lies in the (memory-mapped) weights file: little-endian, row-major, unaligned.
///
/// Seen as a matrix `[rows, cols]`: a vector is one row, and higher ranks keep their first axis as rows.
#[derive(Clone, Copy, Debug)]
pub struct TensorView<'a> {
    dtype: StorageType,
    rows: usize,
    cols: usize,
    /// Elements from the start of one row to the next.
    row_stride: usize,
    bytes: &'a [u8],
}

impl<'a> TensorView<'a> {
    /// A view of `rows × cols` elements stored without gaps.
    ///
    /// Returns `None` when `bytes` does not hold exactly that many elements.
    pub fn new(dtype: StorageType, rows: usize, cols: usize, bytes: &'a [u8]) -> Option<Self> {
        let length = rows.checked_mul(cols)?.checked_mul(dtype.size_bytes())?;
        (bytes.len() == length).then_some(Self { dtype, rows, cols, row_stride: cols, bytes })
    }

    /// How the numbers are stored.
    pub fn dtype(&self) -> StorageType {
        self.dtype
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The columns `start..start + count`, without copying.
    ///
    /// # Panics
    /// When the range leaves the matrix.
    pub fn columns(&self, start: usize, count: usize) -> Self {
        assert!(start + count <= self.cols, "columns {start}..{} of {}", start + count, self.cols);
        Self { cols: count, bytes: &self.bytes[start * self.dtype.size_bytes()..], ..*self }
    }

    /// The stored bytes of one row.
    ///
    /// # Panics
    /// When there is no such row.
    pub fn row_bytes(&self, row: usize) -> &'a [u8] {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        let size = self.dtype.size_bytes();
        &self.bytes[row * self.row_stride * size..][..self.cols * size]
    }

    /// Converts one row to f32 (exact from bf16, f16 and f32; rounded from f64).
    ///
    /// # Panics
    /// When there is no such row or `out` is not one row wide.
    pub fn read_row(&self, row: usize, out: &mut [f32]) {
        assert_eq!(out.len(), self.cols, "a row has {} columns", self.cols);
        let bytes = self.row_bytes(row);
        match self.dtype {
            StorageType::F64 => read(bytes, out, |b| f64::from_le_bytes(b) as f32),
            StorageType::F32 => read(bytes, out, f32::from_le_bytes),
            StorageType::F16 => read(bytes, out, |b| f16::from_le_bytes(b).to_f32()),
            StorageType::Bf16 => read(bytes, out, |b| bf16::from_le_bytes(b).to_f32()),
        }
    }

    /// All elements as f32, row-major.
    pub fn to_f32(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.rows * self.cols];
        if self.cols > 0 {
            for (row, out) in out.chunks_exact_mut(self.cols).enumerate() {
                self.read_row(row, out);
            }
        }
        out
    }
}

fn read<const N: usize>(bytes: &[u8], out: &mut [f32], decode: impl Fn([u8; N]) -> f32) {
    let (elements, rest) = bytes.as_chunks::<N>();
    debug_assert!(rest.is_empty());
    for (out, element) in out.iter_mut().zip(elements) {
        *out = decode(*element);
    }
}

/// The parameters of one linear layer or table, ready to be prepared by a backend.
///
/// Several matrices of equal width are stacked along the outputs: fused QKV, gate and up.
#[derive(Clone, Debug)]
pub struct LinearSource<'a> {
    /// What to call it in errors and reports.
    pub name: String,
    /// Its place in the graph, short and the same for every checkpoint (see
    /// [`layer_paths`](crate::graph::layer_paths)): `expert.layers.3.gate_up`, or `text.embedding` for the table.
    pub path: String,
    /// `[outputs_i, inputs]` each.
    pub weights: Vec<TensorView<'a>>,
    /// One vector `[1, outputs_i]` per weight, or none at all.
    pub biases: Vec<TensorView<'a>>,
}

impl LinearSource<'_> {
    /// Width of the input.
    pub fn inputs(&self) -> usize {
        self.weights.first().map_or(0, TensorView::cols)
    }

    /// Width of the output, over all stacked matrices.
    pub fn outputs(&self) -> usize {
        self.weights.iter().map(TensorView::rows).sum()
    }

    /// The stacked weights as f32, `[outputs, inputs]`.
    pub fn weight_f32(&self) -> Vec<f32> {
        self.weights.iter().flat_map(TensorView::to_f32).collect()
    }

    /// The stacked bias as f32, `[outputs]`, or `None` where the layer has none.
    pub fn bias_f32(&self) -> Option<Vec<f32>> {
        (!self.biases.is_empty()).then(|| self.biases.iter().flat_map(TensorView::to_f32).collect())
    }
}
