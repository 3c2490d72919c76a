//! Linear layers on the device.

use burn::tensor::{DType, Device, Tensor, TensorData};
use half::f16;
use smolvla_backend_burn::BurnLinear;
use smolvla_core::backend::{Precision, Prepared};
use smolvla_core::weights::LinearSource;

/// A linear layer on the device: weights in f32 or f16, the bias in f32.
#[derive(Clone, Debug)]
pub struct WgpuLinear(pub(crate) Weights);

#[derive(Clone, Debug)]
pub(crate) enum Weights {
    F32(BurnLinear),
    F16 {
        /// `[outputs, inputs]`, as stored.
        weight: Tensor<2>,
        /// `[1, outputs]`, f32.
        bias: Option<Tensor<2>>,
    },
}

impl WgpuLinear {
    /// Copies `source` to the device in f16. The error says which number is beyond its range.
    pub(crate) fn half(source: &LinearSource<'_>, device: &Device) -> Result<Self, String> {
        let (inputs, outputs) = (source.inputs(), source.outputs());
        let weight = TensorData::new(halves(source)?, [outputs, inputs]);
        let bias = source.bias_f32().map(|bias| TensorData::new(bias, [1, outputs]));
        Ok(Self(Weights::F16 {
            weight: Tensor::from_data(weight, (device, DType::F16)),
            bias: bias.map(|bias| Tensor::from_data(bias, device)),
        }))
    }
}

/// The weights rounded to f16. Its range ends at 65,504; a number beyond it would become infinite in silence.
fn halves(source: &LinearSource<'_>) -> Result<Vec<f16>, String> {
    let rounded = |value: f32| {
        let half = f16::from_f32(value);
        if half.is_finite() || !value.is_finite() {
            return Ok(half);
        }
        Err(format!("{}: {value} is beyond f16's range; use f32 for this layer", source.name))
    };
    source.weight_f32().into_iter().map(rounded).collect()
}

impl Prepared for WgpuLinear {
    fn inputs(&self) -> usize {
        match &self.0 {
            Weights::F32(linear) => linear.inputs(),
            Weights::F16 { weight, .. } => weight.dims()[1],
        }
    }

    fn outputs(&self) -> usize {
        match &self.0 {
            Weights::F32(linear) => linear.outputs(),
            Weights::F16 { weight, .. } => weight.dims()[0],
        }
    }

    fn precision(&self) -> Precision {
        match self.0 {
            Weights::F32(_) => Precision::F32,
            Weights::F16 { .. } => Precision::F16,
        }
    }
}

#[cfg(test)]
mod tests {
    use smolvla_core::weights::{StorageType, TensorView};

    use super::*;

    #[test]
    fn numbers_beyond_f16_are_refused_by_layer() {
        let source = |values: [f32; 2]| {
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            let view = TensorView::new(StorageType::F32, 1, 2, &bytes).unwrap();
            let (name, path) = ("a.weight".to_owned(), "a".to_owned());
            halves(&LinearSource { name, path, weights: vec![view], biases: Vec::new() })
        };
        assert_eq!(source([1.0, 65_504.0]).unwrap(), [f16::ONE, f16::MAX]);
        let error = source([1.0, 7e4]).unwrap_err();
        assert!(error.contains("a.weight: 70000 is beyond f16's range"), "{error}");
    }
}
