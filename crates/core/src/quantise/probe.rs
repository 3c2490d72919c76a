//! A backend that watches, or rounds, what goes into the linear layers of another one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::digits::round_rows;
use crate::backend::{
    Activation, AttentionShape, Backend, BackendError, Capabilities, Epilogue, Matrix, Precision, Prepared,
};
use crate::graph::KeyValue;
use crate::precision::PrecisionPlan;
use crate::weights::LinearSource;

/// Rows of each layer's input that are kept, spread over all it has seen.
const KEPT_ROWS: u64 = 64;

/// What went into one linear layer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// The largest magnitude of each column.
    pub(crate) amax: Vec<f32>,
    /// Some of the rows.
    pub(crate) rows: Vec<Vec<f32>>,
    count: u64,
}

impl Seen {
    fn add(&mut self, values: &[f32], cols: usize) {
        self.amax.resize(cols, 0.0);
        for row in values.chunks_exact(cols.max(1)) {
            for (largest, value) in self.amax.iter_mut().zip(row) {
                *largest = largest.max(value.abs());
            }
            // Reservoir sampling: each row seen so far is as likely to be among those kept.
            if self.count < KEPT_ROWS {
                self.rows.push(row.to_vec());
            } else {
                let place = mixed(self.count) % (self.count + 1);
                if place < KEPT_ROWS {
                    self.rows[place as usize].copy_from_slice(row);
                }
            }
            self.count += 1;
        }
    }
}

/// A number that looks random, the same for the same `index`.
fn mixed(index: u64) -> u64 {
    // SplitMix64.
    let mut z = index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

/// What went into every linear layer, by its path.
pub(crate) type Record = BTreeMap<String, Seen>;

/// What a [`Probe`] does with the input of a linear layer.
#[derive(Clone, Debug)]
pub(crate) enum Mode {
    /// Notes it.
    Watch(Arc<Mutex<Record>>),
    /// Rounds each row to integers in ± this number, by the layer's path.
    Round(Arc<BTreeMap<String, i32>>),
}

/// Forwards everything to another backend; layers are composed, so that each linear layer is met by itself.
#[derive(Debug)]
pub(crate) struct Probe<B> {
    inner: B,
    mode: Mode,
}

impl<B> Probe<B> {
    pub(crate) fn new(inner: B, mode: Mode) -> Self {
        Self { inner, mode }
    }
}

/// Nothing is left half-written by a panic elsewhere that matters: the record is then thrown away.
pub(crate) fn lock(record: &Mutex<Record>) -> MutexGuard<'_, Record> {
    record.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A linear layer that knows its place.
#[derive(Debug)]
pub(crate) struct Placed<L> {
    inner: L,
    path: String,
}

impl<L: Prepared> Prepared for Placed<L> {
    fn inputs(&self) -> usize {
        self.inner.inputs()
    }

    fn outputs(&self) -> usize {
        self.inner.outputs()
    }

    fn precision(&self) -> Precision {
        self.inner.precision()
    }
}

impl<B: Backend> Backend for Probe<B> {
    type Tensor = B::Tensor;
    type Linear = Placed<B::Linear>;
    type Table = B::Table;
    type Mask = B::Mask;

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn with_plan(self, plan: &PrecisionPlan) -> Result<Self, BackendError> {
        Ok(Self { inner: self.inner.with_plan(plan)?, ..self })
    }

    fn prepare_linear(
        &self,
        source: &LinearSource<'_>,
        precision: Precision,
    ) -> Result<Self::Linear, BackendError> {
        Ok(Placed { inner: self.inner.prepare_linear(source, precision)?, path: source.path.clone() })
    }

    fn prepare_table(&self, source: &LinearSource<'_>) -> Result<Self::Table, BackendError> {
        self.inner.prepare_table(source)
    }

    fn upload(&self, values: &[f32], rows: usize, cols: usize) -> Result<Self::Tensor, BackendError> {
        self.inner.upload(values, rows, cols)
    }

    fn upload_mask(
        &self,
        allowed: &[bool],
        batch: usize,
        queries: usize,
        keys: usize,
    ) -> Result<Self::Mask, BackendError> {
        self.inner.upload_mask(allowed, batch, queries, keys)
    }

    fn download(&self, x: &Self::Tensor) -> Result<Vec<f32>, BackendError> {
        self.inner.download(x)
    }

    fn synchronize(&self) -> Result<(), BackendError> {
        self.inner.synchronize()
    }

    fn linear(
        &self,
        x: &Self::Tensor,
        weight: &Self::Linear,
        epilogue: Epilogue<'_, Self::Tensor>,
    ) -> Result<Self::Tensor, BackendError> {
        match &self.mode {
            Mode::Watch(record) => {
                let values = self.inner.download(x)?;
                lock(record).entry(weight.path.clone()).or_default().add(&values, x.cols());
            }
            Mode::Round(targets) => {
                if let Some(target) = targets.get(&weight.path) {
                    let mut values = self.inner.download(x)?;
                    round_rows(&mut values, x.cols(), *target);
                    let x = self.inner.upload(&values, x.rows(), x.cols())?;
                    return self.inner.linear(&x, &weight.inner, epilogue);
                }
            }
        }
        self.inner.linear(x, &weight.inner, epilogue)
    }

    fn layer_norm(
        &self,
        x: &Self::Tensor,
        gain: &Self::Tensor,
        bias: &Self::Tensor,
        eps: f32,
    ) -> Result<Self::Tensor, BackendError> {
        self.inner.layer_norm(x, gain, bias, eps)
    }

    fn rms_norm(
        &self,
        x: &Self::Tensor,
        gain: &Self::Tensor,
        eps: f32,
    ) -> Result<Self::Tensor, BackendError> {
        self.inner.rms_norm(x, gain, eps)
    }

    fn attention(
        &self,
        q: &Self::Tensor,
        segments: &[&KeyValue<Self::Tensor>],
        mask: Option<&Self::Mask>,
        shape: AttentionShape,
    ) -> Result<Self::Tensor, BackendError> {
        self.inner.attention(q, segments, mask, shape)
    }

    fn rope(
        &self,
        x: &Self::Tensor,
        cos: &Self::Tensor,
        sin: &Self::Tensor,
    ) -> Result<Self::Tensor, BackendError> {
        self.inner.rope(x, cos, sin)
    }

    fn activate(&self, x: &Self::Tensor, activation: Activation) -> Result<Self::Tensor, BackendError> {
        self.inner.activate(x, activation)
    }

    fn silu_mul(&self, x: &Self::Tensor) -> Result<Self::Tensor, BackendError> {
        self.inner.silu_mul(x)
    }

    fn scale(&self, x: &Self::Tensor, factor: f32) -> Result<Self::Tensor, BackendError> {
        self.inner.scale(x, factor)
    }

    fn axpy(&self, alpha: f32, x: &Self::Tensor, y: &Self::Tensor) -> Result<Self::Tensor, BackendError> {
        self.inner.axpy(alpha, x, y)
    }

    fn embed_rows(&self, table: &Self::Table, ids: &[u32]) -> Result<Self::Tensor, BackendError> {
        self.inner.embed_rows(table, ids)
    }

    fn concat_tokens(&self, parts: &[&Self::Tensor], batch: usize) -> Result<Self::Tensor, BackendError> {
        self.inner.concat_tokens(parts, batch)
    }

    fn slice_rows(&self, x: &Self::Tensor, start: usize, count: usize) -> Result<Self::Tensor, BackendError> {
        self.inner.slice_rows(x, start, count)
    }

    fn split_cols(&self, x: &Self::Tensor, widths: &[usize]) -> Result<Vec<Self::Tensor>, BackendError> {
        self.inner.split_cols(x, widths)
    }

    fn pixel_shuffle(
        &self,
        x: &Self::Tensor,
        grid: usize,
        factor: usize,
    ) -> Result<Self::Tensor, BackendError> {
        self.inner.pixel_shuffle(x, grid, factor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_keep_their_largest_magnitude_and_rows_are_a_sample() {
        let mut seen = Seen::default();
        for call in 0..100_u16 {
            let values: Vec<f32> = (0..30).map(|i| f32::from(call * 30 + i)).collect();
            seen.add(&values, 3);
        }
        seen.add(&[0.0, -9000.0, 1.0], 3);
        assert_eq!(seen.amax, [2997.0, 9000.0, 2999.0]);
        assert_eq!(seen.rows.len(), 64);
        // Early and late rows alike.
        let late = seen.rows.iter().filter(|row| row[0] > 1500.0).count();
        assert!((20..=44).contains(&late), "{late}");
        assert!(seen.rows.iter().all(|row| row[1] == row[0] + 1.0 || row[1] == -9000.0));
    }
}
