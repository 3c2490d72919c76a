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
    /// 8-bit integers, with a scale for each row: an element stands for `digit · scale`.
    I8,
    /// 4-bit integers, two in a byte and the lower half first, with a scale for each row and a whole multiplier for
    /// each [`GROUP`] columns: an element stands for `digit · multiplier · scale`.
    I4,
}

/// Columns of [`StorageType::I4`] that share a multiplier.
pub const GROUP: usize = 64;

impl StorageType {
    /// Bytes that this many consecutive elements take.
    pub fn bytes_of(self, elements: usize) -> usize {
        match self {
            Self::F64 => 8 * elements,
            Self::F32 => 4 * elements,
            Self::F16 | Self::Bf16 => 2 * elements,
            Self::I8 => elements,
            Self::I4 => elements.div_ceil(2),
        }
    }

    /// Whether elements are integers that mean nothing without their scales.
    pub fn is_quantised(self) -> bool {
        matches!(self, Self::I8 | Self::I4)
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
    /// Where in a row the view begins.
    first: usize,
    bytes: &'a [u8],
    /// Of integers: a scale in f32 for each row.
    scales: &'a [u8],
    /// Of 4-bit integers: multipliers `[rows, row_stride / GROUP]`.
    multipliers: &'a [u8],
}

impl<'a> TensorView<'a> {
    /// A view of `rows × cols` floats stored without gaps.
    ///
    /// Returns `None` when `bytes` does not hold exactly that many elements, and for integers, which need their
    /// scales ([`TensorView::quantised`], [`TensorView::quantised4`]).
    pub fn new(dtype: StorageType, rows: usize, cols: usize, bytes: &'a [u8]) -> Option<Self> {
        if dtype.is_quantised() {
            return None;
        }
        let length = dtype.bytes_of(1).checked_mul(rows.checked_mul(cols)?)?;
        (bytes.len() == length).then_some(Self {
            dtype,
            rows,
            cols,
            row_stride: cols,
            first: 0,
            bytes,
            scales: &[],
            multipliers: &[],
        })
    }

    /// A view of `rows × cols` 8-bit integers stored without gaps, with a little-endian f32 scale for each row.
    ///
    /// Returns `None` when `digits` or `scales` does not hold exactly that many elements.
    pub fn quantised(rows: usize, cols: usize, digits: &'a [u8], scales: &'a [u8]) -> Option<Self> {
        let fits = Some(digits.len()) == rows.checked_mul(cols) && Some(scales.len()) == rows.checked_mul(4);
        fits.then_some(Self {
            dtype: StorageType::I8,
            rows,
            cols,
            row_stride: cols,
            first: 0,
            bytes: digits,
            scales,
            multipliers: &[],
        })
    }

    /// A view of `rows × cols` 4-bit integers, two in a byte, with a little-endian f32 scale for each row and a
    /// multiplier for each [`GROUP`] columns of it.
    ///
    /// Returns `None` when a row is no whole number of groups, or an argument does not hold exactly as much as that.
    pub fn quantised4(
        rows: usize,
        cols: usize,
        digits: &'a [u8],
        scales: &'a [u8],
        multipliers: &'a [u8],
    ) -> Option<Self> {
        let fits = cols.is_multiple_of(GROUP)
            && Some(digits.len()) == rows.checked_mul(cols / 2)
            && Some(scales.len()) == rows.checked_mul(4)
            && Some(multipliers.len()) == rows.checked_mul(cols / GROUP);
        fits.then_some(Self {
            dtype: StorageType::I4,
            rows,
            cols,
            row_stride: cols,
            first: 0,
            bytes: digits,
            scales,
            multipliers,
        })
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
        Self { cols: count, first: self.first + start, ..*self }
    }

    /// The stored bytes of one row. Of 4-bit integers: from the byte that holds the first one.
    ///
    /// # Panics
    /// When there is no such row.
    pub fn row_bytes(&self, row: usize) -> &'a [u8] {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        let start = row * self.row_stride + self.first;
        match self.dtype {
            StorageType::I4 => &self.bytes[start / 2..(start + self.cols).div_ceil(2)],
            dtype => &self.bytes[dtype.bytes_of(start)..][..dtype.bytes_of(self.cols)],
        }
    }

    /// The scale of one row's integers; `None` where elements are floats.
    ///
    /// # Panics
    /// When there is no such row.
    pub fn row_scale(&self, row: usize) -> Option<f32> {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        self.scales.as_chunks().0.get(row).map(|scale| f32::from_le_bytes(*scale))
    }

    /// Writes one row's elements as 8-bit integers in units of [`TensorView::row_scale`], and says whether it has any:
    /// `false` where elements are floats. An integer device takes these as they are.
    ///
    /// # Panics
    /// When there is no such row or `out` is not one row wide.
    pub fn read_digits(&self, row: usize, out: &mut [i8]) -> bool {
        assert_eq!(out.len(), self.cols, "a row has {} columns", self.cols);
        match self.dtype {
            StorageType::I8 => {
                for (out, byte) in out.iter_mut().zip(self.row_bytes(row)) {
                    *out = byte.cast_signed();
                }
            }
            StorageType::I4 => {
                assert!(row < self.rows, "row {row} of {}", self.rows);
                for (column, out) in out.iter_mut().enumerate() {
                    let place = row * self.row_stride + self.first + column;
                    let byte = self.bytes[place / 2];
                    let half = if place.is_multiple_of(2) { byte << 4 } else { byte };
                    let multiplier = self.multipliers[place / GROUP];
                    *out = (half.cast_signed() >> 4).saturating_mul(multiplier.cast_signed().max(0));
                }
            }
            _ => return false,
        }
        true
    }

    /// Converts one row to f32 (exact from bf16, f16 and f32; rounded from f64 and from integers times their scale).
    ///
    /// # Panics
    /// When there is no such row or `out` is not one row wide.
    pub fn read_row(&self, row: usize, out: &mut [f32]) {
        assert_eq!(out.len(), self.cols, "a row has {} columns", self.cols);
        match self.dtype {
            StorageType::F64 => read(self.row_bytes(row), out, |b| f64::from_le_bytes(b) as f32),
            StorageType::F32 => read(self.row_bytes(row), out, f32::from_le_bytes),
            StorageType::F16 => read(self.row_bytes(row), out, |b| f16::from_le_bytes(b).to_f32()),
            StorageType::Bf16 => read(self.row_bytes(row), out, |b| bf16::from_le_bytes(b).to_f32()),
            StorageType::I8 => {
                let scale = self.row_scale(row).unwrap_or_default();
                read(self.row_bytes(row), out, |[b]: [u8; 1]| f32::from(b.cast_signed()) * scale);
            }
            StorageType::I4 => {
                let mut digits = vec![0; self.cols];
                self.read_digits(row, &mut digits);
                let scale = self.row_scale(row).unwrap_or_default();
                for (out, digit) in out.iter_mut().zip(digits) {
                    *out = f32::from(digit) * scale;
                }
            }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn floats(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|v| v.to_le_bytes()).collect()
    }

    fn rows(view: &TensorView<'_>) -> Vec<f32> {
        let mut out = vec![0.0; view.cols()];
        let read = |row| {
            view.read_row(row, &mut out);
            out.clone()
        };
        (0..view.rows()).flat_map(read).collect()
    }

    #[test]
    fn integers_mean_themselves_times_their_rows_scale() {
        let digits: Vec<u8> = [1, -2, 127, -127, 0, 5].map(i8::cast_unsigned).to_vec();
        let scales = floats(&[0.5, 2.0]);
        let view = TensorView::quantised(2, 3, &digits, &scales).unwrap();
        assert_eq!(view.to_f32(), [0.5, -1.0, 63.5, -254.0, 0.0, 10.0]);
        let right = view.columns(1, 2);
        assert_eq!(right.to_f32(), [-1.0, 63.5, 0.0, 10.0]);
        assert_eq!(right.columns(1, 1).to_f32(), [63.5, 10.0]);
        assert_eq!((right.row_scale(0), right.row_scale(1)), (Some(0.5), Some(2.0)));
        let mut row = [0; 2];
        assert!(right.read_digits(1, &mut row));
        assert_eq!((row, rows(&right)), ([0, 5], right.to_f32()));
    }

    #[test]
    fn integers_without_as_many_scales_are_no_view() {
        assert!(TensorView::new(StorageType::I8, 1, 4, &[0; 4]).is_none());
        assert!(TensorView::quantised(2, 2, &[0; 4], &[0; 4]).is_none());
        assert!(TensorView::quantised(2, 2, &[0; 3], &[0; 8]).is_none());
        assert!(TensorView::quantised4(1, 64, &[0; 32], &[0; 4], &[0; 1]).is_some());
        assert!(TensorView::quantised4(1, 64, &[0; 32], &[0; 4], &[0; 2]).is_none());
        assert!(TensorView::quantised4(1, 32, &[0; 16], &[0; 4], &[0; 1]).is_none());
    }

    #[test]
    fn halves_of_bytes_are_read_lower_first_with_their_groups_multiplier() {
        // Column c holds (c % 15) − 7; the groups' multipliers are 1, 3 in the first row and 18, 2 in the second.
        let nibble = |column: usize| ((column % 15) as i8 - 7).cast_unsigned() & 0xf;
        let row: Vec<u8> = (0..64).map(|pair| nibble(2 * pair) | nibble(2 * pair + 1) << 4).collect();
        let digits = row.repeat(2);
        let scales = floats(&[1.0, 0.25]);
        let view = TensorView::quantised4(2, 128, &digits, &scales, &[1, 3, 18, 2]).unwrap();
        let expected = |row: usize, column: usize| {
            let multiplier = [[1.0, 3.0], [18.0, 2.0]][row][column / GROUP];
            ((column % 15) as f32 - 7.0) * multiplier * [1.0, 0.25][row]
        };
        let all: Vec<f32> = (0..2).flat_map(|r| (0..128).map(move |c| expected(r, c))).collect();
        assert_eq!(view.to_f32(), all);
        let odd: Vec<f32> = (0..2).flat_map(|r| (61..70).map(move |c| expected(r, c))).collect();
        assert_eq!(view.columns(61, 9).to_f32(), odd);
    }
}
