//! Prepared parameters.

use burn::tensor::{Device, Tensor, TensorData};
use smolvla_core::backend::{Precision, Prepared};
use smolvla_core::weights::{LinearSource, StorageType, TensorView};

/// A linear layer in f32 on a Burn device.
#[derive(Clone, Debug)]
pub struct BurnLinear {
    /// `[outputs, inputs]`, as stored.
    weight: Tensor<2>,
    /// `[1, outputs]`.
    bias: Option<Tensor<2>>,
}

impl BurnLinear {
    pub(crate) fn new(source: &LinearSource<'_>, device: &Device) -> Self {
        let (inputs, outputs) = (source.inputs(), source.outputs());
        let upload = |values: Vec<f32>, rows, cols| {
            Tensor::<2>::from_data(TensorData::new(values, [rows, cols]), device)
        };
        Self {
            weight: upload(source.weight_f32(), outputs, inputs),
            bias: source.bias_f32().map(|bias| upload(bias, 1, outputs)),
        }
    }

    /// The weight as `[inputs, outputs]`, a view.
    pub(crate) fn transposed(&self) -> Tensor<2> {
        self.weight.clone().transpose()
    }

    pub(crate) fn bias(&self) -> Option<Tensor<2>> {
        self.bias.clone()
    }
}

impl Prepared for BurnLinear {
    fn inputs(&self) -> usize {
        self.weight.dims()[1]
    }

    fn outputs(&self) -> usize {
        self.weight.dims()[0]
    }

    fn precision(&self) -> Precision {
        Precision::F32
    }
}

/// An embedding table in host memory, in the numbers of the file.
///
/// A chunk reads a few dozen of its 49,280 rows; on the device it would be the largest buffer of all.
#[derive(Clone)]
pub struct BurnTable {
    dtype: StorageType,
    rows: usize,
    width: usize,
    bytes: Vec<u8>,
}

impl BurnTable {
    pub(crate) fn new(view: &TensorView<'_>) -> Self {
        let rows: Vec<&[u8]> = (0..view.rows()).map(|row| view.row_bytes(row)).collect();
        Self { dtype: view.dtype(), rows: view.rows(), width: view.cols(), bytes: rows.concat() }
    }

    /// Columns.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The rows `ids` as f32, `[ids, width]`.
    pub fn gather(&self, ids: &[u32]) -> Vec<f32> {
        let mut out = vec![0.0; ids.len() * self.width];
        let view = TensorView::new(self.dtype, self.rows, self.width, &self.bytes)
            .expect("a table holds exactly its rows");
        for (id, row) in ids.iter().zip(out.chunks_exact_mut(self.width)) {
            view.read_row(*id as usize, row);
        }
        out
    }
}

impl Prepared for BurnTable {
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
