//! Distances between an expected and a computed tensor.

/// Normalised mean squared error `Σ(got − expected)² / Σ expected²`, in f64; its square root is the relative
/// error in the Euclidean norm.
///
/// A value that is not finite on either side, or lengths that differ, give infinity; so does any difference
/// from an expectation that is all zero.
pub fn nmse(expected: &[f32], got: &[f32]) -> f64 {
    if expected.len() != got.len() || expected.iter().chain(got).any(|v| !v.is_finite()) {
        return f64::INFINITY;
    }
    let (error, signal) = expected.iter().zip(got).fold((0.0, 0.0), |(error, signal), (e, g)| {
        let (e, g) = (f64::from(*e), f64::from(*g));
        (error + (g - e).powi(2), signal + e.powi(2))
    });
    match (error, signal) {
        (0.0, _) => 0.0,
        (_, 0.0) => f64::INFINITY,
        (error, signal) => error / signal,
    }
}

/// Largest absolute difference; infinity where [`nmse`] would be for its inputs' sake.
pub fn max_abs(expected: &[f32], got: &[f32]) -> f64 {
    if expected.len() != got.len() || expected.iter().chain(got).any(|v| !v.is_finite()) {
        return f64::INFINITY;
    }
    expected.iter().zip(got).map(|(e, g)| (f64::from(*e) - f64::from(*g)).abs()).fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nmse_is_the_squared_relative_error() {
        assert_eq!(nmse(&[3.0, 4.0], &[3.0, 4.0]), 0.0);
        assert!((nmse(&[3.0, 4.0], &[3.3, 4.4]) - 0.01).abs() < 1e-6);
    }

    #[test]
    fn nothing_that_is_not_finite_passes() {
        assert_eq!(nmse(&[1.0], &[f32::NAN]), f64::INFINITY);
        assert_eq!(nmse(&[f32::NAN], &[f32::NAN]), f64::INFINITY);
        assert_eq!(max_abs(&[1.0], &[f32::INFINITY]), f64::INFINITY);
        assert_eq!(nmse(&[1.0], &[1.0, 2.0]), f64::INFINITY);
        assert_eq!(nmse(&[0.0], &[1e-30]), f64::INFINITY);
    }

    #[test]
    fn max_abs_takes_the_worst_element() {
        assert_eq!(max_abs(&[1.0, -2.0, 3.0], &[1.5, -2.0, 2.25]), 0.75);
    }
}
