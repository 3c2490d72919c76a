//! Activations and embedding tables.

use std::sync::OnceLock;

use smolvla_core::backend::{Matrix, Precision, Prepared};
use smolvla_core::weights::{LinearSource, StorageType, TensorView};

use super::attention::PackedSegment;
use super::memory::Buffer;
use super::weights::Operand;

/// A row-major f32 matrix.
#[derive(Debug)]
pub struct Tensor {
    rows: usize,
    cols: usize,
    data: Buffer,
    /// In what its producer multiplied: attention over bf16 products is computed in bf16 too.
    pub(crate) operand: Operand,
    /// Itself as keys of an attention. The prefix's are read in every step of every chunk's denoising.
    pub(crate) keys: OnceLock<PackedSegment>,
    /// Itself as values of one.
    pub(crate) values: OnceLock<PackedSegment>,
}

impl Matrix for Tensor {
    fn rows(&self) -> usize {
        self.rows
    }
    fn cols(&self) -> usize {
        self.cols
    }
}

impl Tensor {
    /// `data` holds `rows · cols` f32.
    pub(crate) fn new(data: Buffer, rows: usize, cols: usize, operand: Operand) -> Self {
        debug_assert_eq!(data.len_bytes(), rows * cols * size_of::<f32>());
        Self { rows, cols, data, operand, keys: OnceLock::new(), values: OnceLock::new() }
    }

    /// The elements, row by row.
    pub(crate) fn values(&self) -> &[f32] {
        self.data.as_slice()
    }
}

/// An embedding table as it was stored.
#[derive(Debug)]
pub struct Table {
    dtype: StorageType,
    rows: usize,
    cols: usize,
    bytes: Vec<u8>,
}

impl Prepared for Table {
    fn inputs(&self) -> usize {
        self.rows
    }
    fn outputs(&self) -> usize {
        self.cols
    }
    fn precision(&self) -> Precision {
        match self.dtype {
            StorageType::Bf16 => Precision::Bf16,
            StorageType::F16 => Precision::F16,
            _ => Precision::F32,
        }
    }
}

impl Table {
    /// Copies a table's bytes.
    pub(crate) fn new(source: &LinearSource<'_>) -> Option<Self> {
        let [view] = source.weights.as_slice() else { return None };
        let (rows, cols) = (view.rows(), view.cols());
        let mut bytes = Vec::with_capacity(view.dtype().bytes_of(rows * cols));
        (0..rows).for_each(|row| bytes.extend_from_slice(view.row_bytes(row)));
        Some(Self { dtype: view.dtype(), rows, cols, bytes })
    }

    /// Writes the rows `ids` one after another.
    pub(crate) fn read(&self, ids: &[u32], out: &mut [f32]) {
        let view = TensorView::new(self.dtype, self.rows, self.cols, &self.bytes);
        let view = view.expect("the bytes were copied from a view of this shape");
        for (&id, out) in ids.iter().zip(out.chunks_exact_mut(self.cols)) {
            view.read_row(id as usize, out);
        }
    }
}
