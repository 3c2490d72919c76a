//! Success rates with intervals, pairs of episodes, distributions of errors.

use crate::report::{BehaviourRow, Condition, Distribution, Rate, SWAPPED_AT_MOST};

/// The 97.5 % point of the standard normal distribution.
const Z: f64 = 1.959_963_984_540_054;

/// A rate with Wilson's 95 % interval, which holds also near 0 and 1.
pub fn rate(successes: usize, attempts: usize) -> Rate {
    Rate { successes, attempts, interval: wilson(successes, attempts) }
}

/// Wilson's score interval at 95 %; all of [0, 1] where nothing was attempted.
pub fn wilson(successes: usize, attempts: usize) -> (f64, f64) {
    if attempts == 0 {
        return (0.0, 1.0);
    }
    let n = attempts as f64;
    let share = successes as f64 / n;
    let scale = 1.0 + Z * Z / n;
    let centre = (share + Z * Z / (2.0 * n)) / scale;
    let half = Z * (share * (1.0 - share) / n + Z * Z / (4.0 * n * n)).sqrt() / scale;
    // Rounding must not leave the range, nor exclude a rate of exactly 0 or 1.
    let low = if successes == 0 { 0.0 } else { (centre - half).max(0.0) };
    let high = if successes == attempts { 1.0 } else { (centre + half).min(1.0) };
    (low, high)
}

/// McNemar's test on `lost` and `won` pairs, exact (binomial) and two-sided: 1 where no pair differs.
pub fn mcnemar(lost: usize, won: usize) -> f64 {
    let pairs = lost + won;
    // Terms of Binomial(pairs, 1/2) from the smallest on, in logarithms: 2^-pairs alone may be too small for f64.
    let mut log_term = -(pairs as f64) * std::f64::consts::LN_2;
    let mut tail = log_term.exp();
    for k in 1..=lost.min(won) {
        log_term += ((pairs + 1 - k) as f64).ln() - (k as f64).ln();
        tail += log_term.exp();
    }
    (2.0 * tail).min(1.0)
}

/// Corrects the rows' values of p for their number: Holm's step-down, which holds whatever the tests have in common.
pub fn correct(rows: &mut [BehaviourRow]) {
    let mut pairs: Vec<_> = rows.iter_mut().filter_map(|row| row.pairs.as_mut()).collect();
    pairs.sort_by(|one, other| one.p.total_cmp(&other.p));
    let count = pairs.len();
    let mut largest = 0.0_f64;
    for (index, pairs) in pairs.into_iter().enumerate() {
        largest = largest.max((count - index) as f64 * pairs.p).min(1.0);
        pairs.p_holm = largest;
    }
}

/// Whether a control shows what it is there for, beside the same contestant under normal conditions: does clearly worse, and
/// told of another block hardly ever does the real task.
pub fn control_met(condition: Condition, normal: &Rate, control: &Rate) -> Option<bool> {
    let is_worse = control.interval.1 < normal.interval.0;
    match condition {
        Condition::Normal => None,
        Condition::Swapped => Some(is_worse && control.share() <= SWAPPED_AT_MOST),
        Condition::Frozen => Some(is_worse),
    }
}

/// Mean, median, 95 % point and maximum, the last three values of `values` (nearest rank); `None` of nothing.
///
/// # Errors
/// When a value is not finite: it has no place in an order.
pub fn distribution(mut values: Vec<f64>) -> Result<Option<Distribution>, String> {
    if let Some(bad) = values.iter().find(|value| !value.is_finite()) {
        return Err(format!("an action differs by {bad}"));
    }
    values.sort_by(f64::total_cmp);
    let Some(max) = values.last().copied() else { return Ok(None) };
    let at = |share: f64| {
        let rank = (share * values.len() as f64).ceil() as usize;
        values[rank.clamp(1, values.len()) - 1]
    };
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    Ok(Some(Distribution { count: values.len(), mean, median: at(0.5), p95: at(0.95), max }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wilson_gives_the_published_intervals() {
        // Newcombe, Statistics in Medicine 17 (1998), table I, method 3.
        for (successes, attempts, low, high) in [
            (81, 263, 0.2553, 0.3662),
            (15, 148, 0.0624, 0.1605),
            (0, 20, 0.0, 0.1611),
            (1, 29, 0.0061, 0.1718),
        ] {
            let interval = wilson(successes, attempts);
            assert!((interval.0 - low).abs() < 5e-5, "{successes}/{attempts}: {interval:?}");
            assert!((interval.1 - high).abs() < 5e-5, "{successes}/{attempts}: {interval:?}");
        }
    }

    #[test]
    fn wilson_of_all_or_nothing_keeps_the_end() {
        assert_eq!(wilson(200, 200).1, 1.0);
        assert!(wilson(200, 200).0 > 0.98);
        assert_eq!(wilson(0, 200).0, 0.0);
        assert_eq!(wilson(0, 0), (0.0, 1.0));
    }

    #[test]
    fn mcnemar_gives_the_published_values() {
        // Fagerland, Lydersen and Laake, BMC Medical Research Methodology 13:91 (2013): airway responsiveness (1 and 7
        // discordant pairs, p = 0.070) and complete response (6 and 16, p = 0.052).
        assert!((mcnemar(1, 7) - 0.0703).abs() < 5e-5, "{}", mcnemar(1, 7));
        assert!((mcnemar(16, 6) - 0.0525).abs() < 5e-5, "{}", mcnemar(16, 6));
    }

    #[test]
    fn mcnemar_is_symmetric_and_bounded() {
        assert_eq!(mcnemar(0, 0), 1.0);
        assert_eq!(mcnemar(5, 5), 1.0);
        assert_eq!(mcnemar(3, 9), mcnemar(9, 3));
        assert!((mcnemar(6, 0) - 2.0 / 64.0).abs() < 1e-15);
        assert!(mcnemar(2000, 0) < 1e-300);
    }

    #[test]
    fn controls_must_do_clearly_worse_and_swapped_ones_hardly_ever_succeed() {
        let met = |condition, successes| control_met(condition, &rate(95, 100), &rate(successes, 100));
        assert_eq!(met(Condition::Normal, 95), None);
        assert_eq!((met(Condition::Frozen, 80), met(Condition::Frozen, 90)), (Some(true), Some(false)));
        assert_eq!((met(Condition::Swapped, 10), met(Condition::Swapped, 11)), (Some(true), Some(false)));
        // Few episodes show nothing.
        assert_eq!(control_met(Condition::Swapped, &rate(2, 2), &rate(0, 2)), Some(false));
    }

    #[test]
    fn distribution_takes_values_that_are_there() {
        let values = (1..=100).rev().map(f64::from).collect();
        let found = distribution(values).unwrap().unwrap();
        assert_eq!((found.count, found.median, found.p95, found.max), (100, 50.0, 95.0, 100.0));
        assert_eq!(found.mean, 50.5);
        let one = distribution(vec![3.0]).unwrap().unwrap();
        assert_eq!((one.median, one.p95, one.max), (3.0, 3.0, 3.0));
        assert_eq!(distribution(Vec::new()).unwrap(), None);
        assert!(distribution(vec![0.0, f64::NAN]).is_err());
    }
}
