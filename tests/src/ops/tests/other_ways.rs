//! Other ways of being right: sums in another order, results in a narrower type.

use std::sync::{Arc, Mutex};

use smolvla_core::backend::{Activation, AttentionShape, Epilogue, Prepared};
use smolvla_core::graph::KeyValue;
use smolvla_core::weights::{LinearSource, StorageType, TensorView};

use super::attention::{Softmax, careful};
use super::norms::{layer_norm, rms_norm, two_pass, welford};
use super::*;

alterations! {
    SumsSquaresAfterMean {
        fn layer_norm(
            &self, _: &Reference, x: &HostMatrix, gain: &HostMatrix, bias: &HostMatrix, eps: f32
        ) -> Outcome {
            layer_norm(x, gain, bias, eps, two_pass)
        }

        fn rms_norm(&self, _: &Reference, x: &HostMatrix, gain: &HostMatrix, eps: f32) -> Outcome {
            rms_norm(x, gain, |square| (square + eps).sqrt())
        }
    }

    SumsSquaresOnTheGo {
        fn layer_norm(
            &self, _: &Reference, x: &HostMatrix, gain: &HostMatrix, bias: &HostMatrix, eps: f32
        ) -> Outcome {
            layer_norm(x, gain, bias, eps, welford)
        }
    }
}

#[test]
fn f32_sums_term_after_term_hold() {
    assert_eq!(failing_with_layers(SumsSquaresAfterMean), [].into());
    assert_eq!(failing_with_layers(SumsSquaresOnTheGo), [].into());
    assert_eq!(failing_with_layers(Softmax::new(careful)), [].into());
    let backend = Checked::new(Altered::new(Reference, MultipliesInOrder::default()));
    for case in cases(Size::Tiny).iter().filter(|case| case.op() == "linear") {
        let evidence = case.check(&backend, Precision::F32);
        // One running sum of twelve thousand terms is at the edge of what the limits allow.
        let is_long = case.name().starts_with("linear_long_inner");
        assert!(is_long || evidence.holds(), "{:?}", evidence.failures);
        assert!(evidence.measurements.iter().all(|m| m.metrics.nmse < 1e-11), "{}", case.name());
    }
}

type WeightAndBias = (Vec<f32>, Option<Vec<f32>>);

/// Products in f32, term after term.
#[derive(Clone, Default)]
struct MultipliesInOrder {
    /// What was prepared last: enough for cases of `linear`.
    last: Arc<Mutex<WeightAndBias>>,
}

impl Alteration<Reference> for MultipliesInOrder {
    fn prepare_linear(
        &self,
        inner: &Reference,
        source: &LinearSource<'_>,
        precision: Precision,
    ) -> Outcome<HostLinear> {
        *self.last.lock().expect("no test panics in here") = (source.weight_f32(), source.bias_f32());
        inner.prepare_linear(source, precision)
    }

    fn linear(
        &self,
        inner: &Reference,
        x: &HostMatrix,
        linear: &HostLinear,
        epilogue: Epilogue<'_, HostMatrix>,
    ) -> Outcome {
        let last = self.last.lock().expect("no test panics in here");
        let (weight, bias) = &*last;
        let x_values = values(x);
        let mut result = Vec::with_capacity(x.rows() * linear.outputs());
        for x in x_values.chunks(x.cols()) {
            for (output, weight) in weight.chunks(x.len()).enumerate() {
                let product = sum(x.iter().zip(weight).map(|(x, w)| x * w));
                result.push(product + bias.as_ref().map_or(0.0, |bias| bias[output]));
            }
        }
        let mut result = matrix(result, x.rows(), linear.outputs())?;
        if let Some(activation) = epilogue.activation {
            result = inner.activate(&result, activation)?;
        }
        let Some(residual) = epilogue.residual else { return Ok(result) };
        let repeated = values(residual).repeat(x.rows() / residual.rows());
        inner.axpy(1.0, &result, &matrix(repeated, x.rows(), linear.outputs())?)
    }
}

/// Tensors, and for int8 the factors of products, in a narrower type.
#[derive(Clone, Copy)]
struct Stores {
    /// How many bits of f32's fraction are left out.
    bits: u32,
    /// Whether weights have 255 levels a row.
    quantises: bool,
    /// Whether what they are multiplied with has too.
    quantises_inputs: bool,
}

impl Stores {
    const BF16: Self = Self { bits: 16, quantises: false, quantises_inputs: false };
    const F16: Self = Self { bits: 13, quantises: false, quantises_inputs: false };
    const INT8: Self = Self { bits: 16, quantises: true, quantises_inputs: true };
    const INT8_WEIGHTS: Self = Self { quantises_inputs: false, ..Self::INT8 };

    fn store(self, x: Outcome) -> Outcome {
        map(&x?, |v| {
            // To nearest, ties to even.
            let bits = v.to_bits();
            let half = (1 << (self.bits - 1)) - 1 + (bits >> self.bits & 1);
            f32::from_bits((bits + half) >> self.bits << self.bits)
        })
    }
}

/// Each row in 255 levels of its own.
fn quantised(mut values: Vec<f32>, cols: usize) -> Vec<f32> {
    for row in values.chunks_mut(cols) {
        let level = row.iter().fold(0.0_f32, |largest, v| largest.max(v.abs())) / 127.0;
        row.iter_mut().filter(|_| level > 0.0).for_each(|v| *v = (*v / level).round() * level);
    }
    values
}

impl Alteration<Reference> for Stores {
    fn prepare_linear(
        &self,
        inner: &Reference,
        source: &LinearSource<'_>,
        precision: Precision,
    ) -> Outcome<HostLinear> {
        let weights = source.weight_f32();
        let weights = if self.quantises { quantised(weights, source.inputs()) } else { weights };
        let bytes = |values: Vec<f32>| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
        let (weights, bias) = (bytes(weights), source.bias_f32().map(bytes));
        let view =
            |bytes, rows, cols| TensorView::new(StorageType::F32, rows, cols, bytes).expect("same size");
        let source = LinearSource {
            name: source.name.clone(),
            path: source.path.clone(),
            weights: vec![view(&weights, source.outputs(), source.inputs())],
            biases: bias.iter().map(|bias| view(bias, 1, source.outputs())).collect(),
        };
        inner.prepare_linear(&source, precision)
    }

    fn upload(&self, inner: &Reference, values: &[f32], rows: usize, cols: usize) -> Outcome {
        self.store(inner.upload(values, rows, cols))
    }

    fn linear(
        &self,
        inner: &Reference,
        x: &HostMatrix,
        w: &HostLinear,
        e: Epilogue<'_, HostMatrix>,
    ) -> Outcome {
        let inputs = values(x);
        let inputs = if self.quantises_inputs { quantised(inputs, x.cols()) } else { inputs };
        self.store(inner.linear(&matrix(inputs, x.rows(), x.cols())?, w, e))
    }

    fn layer_norm(
        &self,
        inner: &Reference,
        x: &HostMatrix,
        gain: &HostMatrix,
        bias: &HostMatrix,
        eps: f32,
    ) -> Outcome {
        self.store(inner.layer_norm(x, gain, bias, eps))
    }

    fn rms_norm(&self, inner: &Reference, x: &HostMatrix, gain: &HostMatrix, eps: f32) -> Outcome {
        self.store(inner.rms_norm(x, gain, eps))
    }

    fn attention(
        &self,
        inner: &Reference,
        q: &HostMatrix,
        segments: &[&KeyValue<HostMatrix>],
        mask: Option<&HostMask>,
        shape: AttentionShape,
    ) -> Outcome {
        self.store(inner.attention(q, segments, mask, shape))
    }

    fn rope(&self, inner: &Reference, x: &HostMatrix, cos: &HostMatrix, sin: &HostMatrix) -> Outcome {
        self.store(inner.rope(x, cos, sin))
    }

    fn activate(&self, inner: &Reference, x: &HostMatrix, activation: Activation) -> Outcome {
        self.store(inner.activate(x, activation))
    }

    fn silu_mul(&self, inner: &Reference, x: &HostMatrix) -> Outcome {
        self.store(inner.silu_mul(x))
    }

    fn scale(&self, inner: &Reference, x: &HostMatrix, factor: f32) -> Outcome {
        self.store(inner.scale(x, factor))
    }

    fn axpy(&self, inner: &Reference, alpha: f32, x: &HostMatrix, y: &HostMatrix) -> Outcome {
        self.store(inner.axpy(alpha, x, y))
    }
}

#[test]
fn tensors_stored_in_a_precision_stay_within_its_limits() {
    let mut all_failures = Vec::new();
    for (precision, stores) in [
        (Precision::Bf16, Stores::BF16),
        (Precision::F16, Stores::F16),
        (Precision::Int8Weights, Stores::INT8_WEIGHTS),
        (Precision::Int8, Stores::INT8),
    ] {
        let backend = Altered::new(Reference, stores);
        for case in cases(Size::Tiny) {
            let failures = case.judge(&backend, precision).failures;
            all_failures.extend(failures.iter().map(|failure| format!("{precision}: {failure}")));
        }
        let narrower = cases(Size::Tiny).iter().any(|case| !case.judge(&backend, Precision::F32).holds());
        assert!(narrower, "{precision} would pass for f32");
    }
    assert!(all_failures.is_empty(), "{}", all_failures.join("\n"));
}
