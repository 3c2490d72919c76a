//! Medians and spreads of few numbers.

/// The middle of some numbers, or the mean of the two in the middle.
///
/// # Panics
/// When there are none.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    assert!(!values.is_empty(), "a median of no numbers");
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { f64::midpoint(values[middle - 1], values[middle]) }
}

/// The least and the greatest of some numbers.
pub(crate) fn range(values: impl IntoIterator<Item = f64>) -> (f64, f64) {
    values.into_iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_is_the_middle_of_sorted_numbers() {
        assert_eq!(median([3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median([10.0, 1.0, 2.0, 4.0]), 3.0);
    }

    #[test]
    fn range_is_least_and_greatest() {
        assert_eq!(range([3.0, 1.0, 2.0]), (1.0, 3.0));
    }
}
