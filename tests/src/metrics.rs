//! Distances between an expected and a computed tensor.
//!
//! [`Metrics::measure`] takes every one of them at once, so that each comparison can print all. None is a gate by
//! itself: see [`crate::tolerance`]. PCC in particular does not see scale, offset or small signals under large
//! ones, and is always shown beside the others.

use serde::{Serialize, Serializer};

/// How far a computed tensor is from the expected one. All sums are in f64.
///
/// What is not finite on either side, or there on one side only, is counted and makes every distance infinite and
/// every likeness zero: a NaN can never look like agreement.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Metrics {
    /// Elements compared.
    pub elements: usize,
    /// Elements that are not finite on either side, or that only one side has.
    pub non_finite: usize,
    /// Pearson's correlation coefficient, see [`pcc`].
    #[serde(serialize_with = "number")]
    pub pcc: f64,
    /// Cosine of the angle between the tensors as vectors; of two zero vectors 1, of one 0.
    #[serde(serialize_with = "number")]
    pub cosine: f64,
    /// Normalised mean squared error, see [`nmse`].
    #[serde(serialize_with = "number")]
    pub nmse: f64,
    /// Largest absolute difference.
    #[serde(serialize_with = "number")]
    pub max_abs: f64,
    /// Largest absolute difference over the root mean square of the expected row it lies in. Unlike NMSE over
    /// the whole tensor it sees a small row that is wrong beside large ones.
    #[serde(serialize_with = "number")]
    pub row_error: f64,
    /// Largest distance in units in the last place of f32, subnormals taken as zero; see [`ulp_distance`].
    pub ulp: u32,
    /// Elements whose bits differ.
    pub different_bits: usize,
    /// Slope of the least-squares line `got ≈ slope·expected + offset`; 0 where nothing expected varies.
    #[serde(serialize_with = "number")]
    pub slope: f64,
    /// Its offset, in the unit of the tensor.
    #[serde(serialize_with = "number")]
    pub offset: f64,
    /// Mean difference over the standard deviation of the expected values: an offset that noise of the same size would
    /// not have.
    #[serde(serialize_with = "number")]
    pub bias: f64,
    /// The element with the largest difference; `None` where there is no difference.
    pub worst: Option<Worst>,
}

/// The element that differs most.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Worst {
    /// Its row.
    pub row: usize,
    /// Its column.
    pub col: usize,
    /// The value there should be; `None` where that side has no such element.
    pub expected: Option<f32>,
    /// The value there is.
    pub got: Option<f32>,
}

impl Metrics {
    /// Compares two tensors seen as matrices of `cols` columns (0 is taken as one row).
    pub fn measure(expected: &[f32], got: &[f32], cols: usize) -> Self {
        let elements = expected.len().max(got.len());
        let cols = if cols == 0 { elements.max(1) } else { cols };
        let bad = |index: &usize| !is_finite_at(expected, *index) || !is_finite_at(got, *index);
        let worst = |index: usize| Worst {
            row: index / cols,
            col: index % cols,
            expected: expected.get(index).copied(),
            got: got.get(index).copied(),
        };
        let mut bad_elements = (0..elements).filter(bad);
        if let Some(first) = bad_elements.next() {
            return Self {
                elements,
                non_finite: 1 + bad_elements.count(),
                pcc: 0.0,
                cosine: 0.0,
                nmse: f64::INFINITY,
                max_abs: f64::INFINITY,
                row_error: f64::INFINITY,
                ulp: u32::MAX,
                different_bits: elements,
                slope: 0.0,
                offset: f64::INFINITY,
                bias: f64::INFINITY,
                worst: Some(worst(first)),
            };
        }
        let (slope, offset) = affine_fit(expected, got);
        let (index, max_abs) = largest_difference(expected, got);
        Self {
            elements,
            non_finite: 0,
            pcc: pcc(expected, got),
            cosine: cosine(expected, got),
            nmse: nmse(expected, got),
            max_abs,
            row_error: row_error(expected, got, cols),
            ulp: expected.iter().zip(got).map(|(e, g)| ulp_distance(*e, *g)).max().unwrap_or(0),
            different_bits: expected.iter().zip(got).filter(|(e, g)| e.to_bits() != g.to_bits()).count(),
            slope,
            offset,
            bias: bias(expected, got),
            worst: (max_abs > 0.0).then(|| worst(index)),
        }
    }
}

/// Normalised mean squared error `Σ(got − expected)² / Σ expected²`, in f64; its square root is the relative
/// error in the Euclidean norm.
///
/// A value that is not finite on either side, or lengths that differ, give infinity; so does any difference
/// from an expectation that is all zero.
pub fn nmse(expected: &[f32], got: &[f32]) -> f64 {
    if !comparable(expected, got) {
        return f64::INFINITY;
    }
    let (error, signal) = pairs(expected, got)
        .fold((0.0, 0.0), |(error, signal), (e, g)| (error + (g - e).powi(2), signal + e.powi(2)));
    match (error, signal) {
        (0.0, _) => 0.0,
        (_, 0.0) => f64::INFINITY,
        (error, signal) => error / signal,
    }
}

/// Largest absolute difference; infinity where [`nmse`] would be for its inputs' sake.
pub fn max_abs(expected: &[f32], got: &[f32]) -> f64 {
    if comparable(expected, got) { largest_difference(expected, got).1 } else { f64::INFINITY }
}

/// Pearson's correlation coefficient.
///
/// Defined for every input: where one side is constant there is nothing to correlate, and the coefficient is 1 if
/// both sides are that same constant and 0 otherwise; it is 0 where anything is not finite or lengths differ.
pub fn pcc(expected: &[f32], got: &[f32]) -> f64 {
    if !comparable(expected, got) {
        return 0.0;
    }
    let is_constant = |values: &[f32]| values.iter().all(|v| *v == values[0]);
    if is_constant(expected) || is_constant(got) {
        return if expected == got { 1.0 } else { 0.0 };
    }
    let moments = Moments::of(expected, got);
    (moments.covariance / (moments.expected_variance * moments.got_variance).sqrt()).clamp(-1.0, 1.0)
}

/// Distance of two finite numbers in units in the last place: how many f32 lie between them, with subnormals
/// taken as zero because devices may flush them. `u32::MAX` where one is not finite.
pub fn ulp_distance(a: f32, b: f32) -> u32 {
    if !a.is_finite() || !b.is_finite() {
        return u32::MAX;
    }
    // Floats of one sign are ordered as their bits are; count down from zero on the negative side, and let the
    // smallest normal number follow zero.
    let rank = |x: f32| -> i64 {
        let magnitude = i64::from(x.abs().to_bits());
        let first_normal = i64::from(f32::MIN_POSITIVE.to_bits());
        let rank = (magnitude - first_normal + 1).max(0);
        if x.is_sign_negative() { -rank } else { rank }
    };
    u32::try_from(rank(a).abs_diff(rank(b))).unwrap_or(u32::MAX)
}

/// Slope and offset of the least-squares line `got ≈ slope·expected + offset`. Where nothing expected varies the
/// slope is 0 and the offset the difference of the means. Both sides must be finite and equally long.
pub fn affine_fit(expected: &[f32], got: &[f32]) -> (f64, f64) {
    if expected.is_empty() {
        return (0.0, 0.0);
    }
    let moments = Moments::of(expected, got);
    if moments.expected_variance == 0.0 {
        return (0.0, moments.got_mean - moments.expected_mean);
    }
    let slope = moments.covariance / moments.expected_variance;
    (slope, moments.got_mean - slope * moments.expected_mean)
}

/// Writes a number that JSON may not hold: infinities and NaN become strings.
pub(crate) fn number<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    if value.is_finite() {
        serializer.serialize_f64(*value)
    } else {
        serializer.serialize_str(&value.to_string())
    }
}

/// Means, and central second moments times the number of elements.
struct Moments {
    expected_mean: f64,
    got_mean: f64,
    covariance: f64,
    expected_variance: f64,
    got_variance: f64,
}

impl Moments {
    fn of(expected: &[f32], got: &[f32]) -> Self {
        let mean = |values: &[f32]| values.iter().map(|v| f64::from(*v)).sum::<f64>() / values.len() as f64;
        let (expected_mean, got_mean) = (mean(expected), mean(got));
        let mut moments =
            Self { expected_mean, got_mean, covariance: 0.0, expected_variance: 0.0, got_variance: 0.0 };
        for (e, g) in pairs(expected, got) {
            let (e, g) = (e - expected_mean, g - got_mean);
            moments.covariance += e * g;
            moments.expected_variance += e * e;
            moments.got_variance += g * g;
        }
        moments
    }
}

/// Mean difference over the standard deviation of what is expected.
fn bias(expected: &[f32], got: &[f32]) -> f64 {
    if expected.is_empty() {
        return 0.0;
    }
    let moments = Moments::of(expected, got);
    let difference = moments.got_mean - moments.expected_mean;
    let deviation = (moments.expected_variance / expected.len() as f64).sqrt();
    if difference == 0.0 { 0.0 } else { difference / deviation }
}

fn comparable(expected: &[f32], got: &[f32]) -> bool {
    expected.len() == got.len() && expected.iter().chain(got).all(|v| v.is_finite())
}

fn pairs<'a>(expected: &'a [f32], got: &'a [f32]) -> impl Iterator<Item = (f64, f64)> + 'a {
    expected.iter().zip(got).map(|(e, g)| (f64::from(*e), f64::from(*g)))
}

fn is_finite_at(values: &[f32], index: usize) -> bool {
    values.get(index).is_some_and(|v| v.is_finite())
}

/// Index and size of the largest difference.
fn largest_difference(expected: &[f32], got: &[f32]) -> (usize, f64) {
    pairs(expected, got)
        .map(|(e, g)| (e - g).abs())
        .enumerate()
        .fold((0, 0.0), |worst, (index, error)| if error > worst.1 { (index, error) } else { worst })
}

fn cosine(expected: &[f32], got: &[f32]) -> f64 {
    let (dot, e2, g2) = pairs(expected, got)
        .fold((0.0, 0.0, 0.0), |(dot, e2, g2), (e, g)| (dot + e * g, e2 + e * e, g2 + g * g));
    match (e2, g2) {
        (0.0, 0.0) => 1.0,
        (0.0, _) | (_, 0.0) => 0.0,
        _ => (dot / (e2 * g2).sqrt()).clamp(-1.0, 1.0),
    }
}

fn row_error(expected: &[f32], got: &[f32], cols: usize) -> f64 {
    let of_row = |(expected, got): (&[f32], &[f32])| {
        let error = largest_difference(expected, got).1;
        let square: f64 = expected.iter().map(|v| f64::from(*v).powi(2)).sum();
        match (error, square) {
            (0.0, _) => 0.0,
            (_, 0.0) => f64::INFINITY,
            _ => error / (square / expected.len() as f64).sqrt(),
        }
    };
    expected.chunks(cols).zip(got.chunks(cols)).map(of_row).fold(0.0, f64::max)
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
    fn nothing_that_is_not_finite_looks_like_agreement() {
        for (expected, got) in [
            ([1.0, 2.0], [1.0, f32::NAN]),
            ([f32::NAN; 2], [f32::NAN; 2]),
            ([1.0, 2.0], [1.0, f32::INFINITY]),
        ] {
            let metrics = Metrics::measure(&expected, &got, 2);
            assert!(metrics.non_finite > 0 && metrics.pcc == 0.0 && metrics.cosine == 0.0, "{metrics:?}");
            assert_eq!(
                (metrics.nmse, metrics.max_abs, metrics.row_error),
                (f64::INFINITY, f64::INFINITY, f64::INFINITY)
            );
            assert_eq!((nmse(&expected, &got), max_abs(&expected, &got)), (f64::INFINITY, f64::INFINITY));
            assert_eq!(pcc(&expected, &got), 0.0);
        }
        assert_eq!(nmse(&[0.0], &[1e-30]), f64::INFINITY);
    }

    #[test]
    fn elements_of_one_side_only_count_as_not_finite() {
        let metrics = Metrics::measure(&[1.0, 2.0, 3.0], &[1.0], 1);
        assert_eq!((metrics.elements, metrics.non_finite), (3, 2));
        assert_eq!(metrics.worst, Some(Worst { row: 1, col: 0, expected: Some(2.0), got: None }));
        assert_eq!(Metrics::measure(&[], &[1.0], 4).non_finite, 1);
    }

    #[test]
    fn pcc_is_defined_for_constants() {
        assert_eq!(pcc(&[2.0; 3], &[2.0; 3]), 1.0);
        assert_eq!(pcc(&[2.0; 3], &[2.5; 3]), 0.0);
        assert_eq!(pcc(&[2.0; 3], &[1.0, 2.0, 3.0]), 0.0);
        assert_eq!(pcc(&[1.0, 2.0, 3.0], &[0.1; 3]), 0.0);
        assert_eq!(pcc(&[], &[]), 1.0);
    }

    #[test]
    fn pcc_does_not_see_scale_or_offset_and_the_fit_does() {
        let expected = [10.0, -20.0, 35.0, 4.0];
        let got = expected.map(|v| 1.3 * v + 15.0);
        let metrics = Metrics::measure(&expected, &got, 4);
        assert!(metrics.pcc > 0.999_999, "{}", metrics.pcc);
        assert!((metrics.slope - 1.3).abs() < 1e-6 && (metrics.offset - 15.0).abs() < 1e-5, "{metrics:?}");
        let shifted = expected.map(|v| v + 3.0);
        assert!((Metrics::measure(&expected, &shifted, 4).bias - 3.0 / 19.562_4).abs() < 1e-5);
    }

    #[test]
    fn worst_names_row_column_and_both_values() {
        let metrics = Metrics::measure(&[1.0, -2.0, 3.0, 4.0], &[1.5, -2.0, 2.25, 4.0], 2);
        assert_eq!(metrics.max_abs, 0.75);
        assert_eq!(metrics.worst, Some(Worst { row: 1, col: 0, expected: Some(3.0), got: Some(2.25) }));
        assert_eq!(Metrics::measure(&[1.0], &[1.0], 1).worst, None);
    }

    #[test]
    fn row_error_sees_a_small_row_beside_a_large_one() {
        let expected = [1e4, -1e4, 1e-2, 1e-2];
        let metrics = Metrics::measure(&expected, &[1e4, -1e4, 1e-2, -1e-2], 2);
        assert!(metrics.nmse < 1e-11, "{}", metrics.nmse);
        assert!((metrics.row_error - 2.0).abs() < 1e-6, "{}", metrics.row_error);
    }

    #[test]
    fn ulp_distance_counts_floats_between() {
        assert_eq!(ulp_distance(1.0, 1.0), 0);
        assert_eq!(ulp_distance(1.0, 1.0 + f32::EPSILON), 1);
        assert_eq!(ulp_distance(0.0, -0.0), 0);
        assert_eq!(ulp_distance(0.0, 1e-40), 0, "subnormals may be flushed");
        assert_eq!(ulp_distance(-f32::MIN_POSITIVE, f32::MIN_POSITIVE), 2);
        assert_eq!(ulp_distance(1.0, f32::NAN), u32::MAX);
        assert!(ulp_distance(f32::MIN, f32::MAX) > 4_000_000_000);
    }

    #[test]
    fn cosine_sees_direction_only() {
        assert!((cosine(&[1.0, 0.0], &[5.0, 0.0]) - 1.0).abs() < 1e-12);
        assert_eq!(cosine(&[1.0, 0.0], &[0.0, 2.0]), 0.0);
        assert_eq!((cosine(&[0.0], &[0.0]), cosine(&[0.0], &[1.0])), (1.0, 0.0));
    }
}
