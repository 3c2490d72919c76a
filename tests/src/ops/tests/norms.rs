//! Wrong norms.

use super::*;

alterations! {
    VarianceOfDifferenceOfSquares {
        fn layer_norm(
            &self, _: &Reference, x: &HostMatrix, gain: &HostMatrix, bias: &HostMatrix, eps: f32
        ) -> Outcome {
            layer_norm(x, gain, bias, eps, |row| {
                let mean = mean(row.iter().copied());
                (mean, mean_of_squares(row) - mean * mean)
            })
        }
    }

    UnbiasedVariance {
        fn layer_norm(
            &self, _: &Reference, x: &HostMatrix, gain: &HostMatrix, bias: &HostMatrix, eps: f32
        ) -> Outcome {
            layer_norm(x, gain, bias, eps, |row| {
                let (mean, variance) = two_pass(row);
                (mean, variance * row.len() as f32 / (row.len() as f32 - 1.0).max(1.0))
            })
        }
    }

    LayerNormWithoutEpsilon {
        fn layer_norm(
            &self, inner: &Reference, x: &HostMatrix, gain: &HostMatrix, bias: &HostMatrix, _: f32
        ) -> Outcome {
            inner.layer_norm(x, gain, bias, 1e-12)
        }
    }

    EpsilonOutsideRoot {
        fn rms_norm(&self, _: &Reference, x: &HostMatrix, gain: &HostMatrix, eps: f32) -> Outcome {
            rms_norm(x, gain, |square| square.sqrt() + eps)
        }
    }

    RmsNormSubtractsMean {
        fn rms_norm(&self, inner: &Reference, x: &HostMatrix, gain: &HostMatrix, eps: f32) -> Outcome {
            inner.layer_norm(x, gain, &inner.scale(gain, 0.0)?, eps)
        }
    }
}

#[test]
fn wrong_norms_fail_the_cases_of_that_norm_alone() {
    assert_eq!(failing(VarianceOfDifferenceOfSquares), ["layer_norm"].into());
    let complaints = complaints("layer_norm", VarianceOfDifferenceOfSquares);
    assert!(complaints.contains("layer_norm (far_from_zero): NMSE"), "{complaints}");
    assert_eq!(failing(UnbiasedVariance), ["layer_norm"].into());
    assert_eq!(failing(LayerNormWithoutEpsilon), ["layer_norm"].into());
    assert_eq!(failing(EpsilonOutsideRoot), ["rms_norm"].into());
    assert_eq!(failing(RmsNormSubtractsMean), ["rms_norm"].into());
}

fn mean(values: impl ExactSizeIterator<Item = f32>) -> f32 {
    let count = values.len() as f32;
    sum(values) / count
}

fn mean_of_squares(row: &[f32]) -> f32 {
    mean(row.iter().map(|v| v * v))
}

pub(super) fn two_pass(row: &[f32]) -> (f32, f32) {
    let mean = mean(row.iter().copied());
    (mean, self::mean(row.iter().map(|v| (v - mean) * (v - mean))))
}

pub(super) fn welford(row: &[f32]) -> (f32, f32) {
    let (mut mean, mut squares) = (0.0, 0.0);
    for (value, count) in row.iter().zip(1..) {
        let distance = value - mean;
        mean += distance / count as f32;
        squares += distance * (value - mean);
    }
    (mean, squares / row.len() as f32)
}

pub(super) fn layer_norm(
    x: &HostMatrix,
    gain: &HostMatrix,
    bias: &HostMatrix,
    eps: f32,
    statistics: impl Fn(&[f32]) -> (f32, f32),
) -> Outcome {
    let (gain, bias) = (values(gain), values(bias));
    let mut result = values(x);
    for row in result.chunks_mut(x.cols()) {
        let (mean, variance) = statistics(row);
        let inverse = 1.0 / (variance + eps).sqrt();
        for ((value, gain), bias) in row.iter_mut().zip(&gain).zip(&bias) {
            *value = (*value - mean) * inverse * gain + bias;
        }
    }
    matrix(result, x.rows(), x.cols())
}

pub(super) fn rms_norm(x: &HostMatrix, gain: &HostMatrix, root: impl Fn(f32) -> f32) -> Outcome {
    let gain = values(gain);
    let mut result = values(x);
    for row in result.chunks_mut(x.cols()) {
        let inverse = 1.0 / root(mean_of_squares(row));
        row.iter_mut().zip(&gain).for_each(|(value, gain)| *value = *value * inverse * gain);
    }
    matrix(result, x.rows(), x.cols())
}
