//! Factors between a norm and the layer that reads it.

use std::collections::BTreeMap;

use super::layers::Layer;
use super::probe::Record;
use crate::checkpoint::Checkpoint;
use crate::error::Result;

/// Factors closer to zero or larger than its inverse are cut off.
const SMALLEST: f32 = 1.0 / 65_536.0;

/// What norms are divided by and weights multiplied by, column by column. The products stay as they were.
#[derive(Debug, Default)]
pub(crate) struct Smoothing {
    /// By layer.
    layers: BTreeMap<String, Vec<f32>>,
    /// The layer whose factors a norm's parameter is divided by.
    norms: BTreeMap<String, String>,
    /// The layer whose factors a weight is multiplied by.
    weights: BTreeMap<String, String>,
}

impl Smoothing {
    /// SmoothQuant: for each column `amax(activations)^alpha / amax(weights)^(1 − alpha)`.
    pub(crate) fn new(
        checkpoint: &Checkpoint,
        layers: &[Layer],
        record: &Record,
        alpha: f32,
    ) -> Result<Self> {
        let mut smoothing = Self::default();
        for layer in layers {
            let (Some(norm), Some(seen)) = (&layer.norm, record.get(&layer.path)) else { continue };
            // Columns of a pixel shuffle are several pixels of each of the norm's.
            let width = checkpoint.tensor(&norm.parameters[0])?.cols();
            let mut weights = vec![0.0_f32; width];
            for name in &layer.weights {
                let view = checkpoint.tensor(name)?;
                let mut row = vec![0.0; view.cols()];
                for index in 0..view.rows() {
                    view.read_row(index, &mut row);
                    fold_amax(&mut weights, &row);
                }
                checkpoint.release(name);
            }
            let mut activations = vec![0.0_f32; width];
            fold_amax(&mut activations, &seen.amax);
            let factors = activations.iter().zip(&weights).map(|(a, w)| factor(*a, *w, alpha)).collect();
            smoothing.layers.insert(layer.path.clone(), factors);
            smoothing.norms.extend(norm.parameters.iter().map(|name| (name.clone(), layer.path.clone())));
            let fed = layer.weights.iter().chain(&norm.unread);
            smoothing.weights.extend(fed.map(|name| (name.clone(), layer.path.clone())));
        }
        Ok(smoothing)
    }

    /// A weight as f32 with its factors, and its number of columns.
    pub(crate) fn weight(&self, checkpoint: &Checkpoint, name: &str) -> Result<(Vec<f32>, usize)> {
        let view = checkpoint.tensor(name)?;
        let (mut values, cols) = (view.to_f32(), view.cols());
        checkpoint.release(name);
        if let Some(factors) = self.weights.get(name).and_then(|path| self.layers.get(path)) {
            values.iter_mut().zip(factors.iter().cycle()).for_each(|(value, factor)| *value *= factor);
        }
        Ok((values, cols))
    }

    /// A norm's gain or bias with its factors; `None` where a tensor is none of a norm that has any.
    pub(crate) fn norm(&self, checkpoint: &Checkpoint, name: &str) -> Result<Option<Vec<f32>>> {
        let Some(factors) = self.norms.get(name).and_then(|path| self.layers.get(path)) else {
            return Ok(None);
        };
        let values = checkpoint.tensor(name)?.to_f32();
        Ok(Some(values.iter().zip(factors).map(|(value, factor)| value / factor).collect()))
    }

    /// What a layer reads once its norm has its factors.
    pub(crate) fn divide_rows(&self, layer: &Layer, rows: &mut [f32]) {
        if let Some(factors) = self.layers.get(&layer.path) {
            rows.iter_mut().zip(factors.iter().cycle()).for_each(|(value, factor)| *value /= factor);
        }
    }

    /// How many layers have factors.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.layers.len()
    }
}

/// The largest magnitudes of a row's columns, where columns repeat.
fn fold_amax(largest: &mut [f32], row: &[f32]) {
    let width = largest.len();
    for (column, value) in row.iter().enumerate() {
        let largest = &mut largest[column % width];
        *largest = largest.max(value.abs());
    }
}

/// A column that is never anything but zero is left alone.
fn factor(activation: f32, weight: f32, alpha: f32) -> f32 {
    if activation == 0.0 || weight == 0.0 {
        return 1.0;
    }
    (activation.powf(alpha) / weight.powf(1.0 - alpha)).clamp(SMALLEST, 1.0 / SMALLEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors_share_the_range_between_activations_and_weights() {
        // Both sides end up at √(16 · 0.25).
        let s = factor(16.0, 0.25, 0.5);
        assert_eq!((16.0 / s, 0.25 * s), (2.0, 2.0));
        assert_eq!(factor(16.0, 0.25, 1.0), 16.0);
        assert_eq!(factor(16.0, 0.25, 0.0), 4.0);
        assert_eq!((factor(0.0, 1.0, 0.5), factor(1.0, 0.0, 0.5)), (1.0, 1.0));
        assert_eq!(factor(1e30, 1e-30, 0.5), 65_536.0);
        let mut largest = [0.0; 2];
        fold_amax(&mut largest, &[1.0, -2.0, -3.0, 1.0]);
        assert_eq!(largest, [3.0, 2.0]);
    }
}
