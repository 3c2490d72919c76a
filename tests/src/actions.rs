//! Actions as the robot receives them: physical units, joint by joint.
//!
//! A chunk's correlation says little: joints with large ranges drown the others, and scale, offset and reversed
//! motion go unseen. So each joint is judged by itself, over all observations and noises, and so is the direction
//! in which it moves from one action to the next.

use serde::Serialize;

use crate::metrics::{Metrics, number};
use crate::tolerance::{Gates, Violation};

/// Actions of some chunks, `[chunks, steps, joints]` row-major, all alike in shape.
#[derive(Clone, Copy, Debug)]
pub struct Chunks<'a> {
    /// The numbers.
    pub values: &'a [f32],
    /// Actions of a chunk.
    pub steps: usize,
    /// Numbers of an action.
    pub joints: usize,
}

impl Chunks<'_> {
    /// One joint's actions over all chunks, in order.
    pub fn joint(&self, joint: usize) -> Vec<f32> {
        self.values.iter().skip(joint).step_by(self.joints.max(1)).copied().collect()
    }
}

/// How one joint's computed actions compare with the expected ones.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct JointReport {
    /// Index of the joint.
    pub joint: usize,
    /// Over all actions of the joint, in its unit; the rows of `row_error` are chunks.
    pub metrics: Metrics,
    /// Standard deviation of the expected actions, in the joint's unit.
    #[serde(serialize_with = "number")]
    pub spread: f64,
    /// Root mean square of the differences.
    #[serde(serialize_with = "number")]
    pub rms: f64,
    /// 99th percentile of the absolute differences.
    #[serde(serialize_with = "number")]
    pub p99: f64,
    /// Share of first differences (from one action of a chunk to the next) that point the same way, of those
    /// that are larger than a thousandth of the spread on the expected side; 1 where there are none.
    #[serde(serialize_with = "number")]
    pub direction: f64,
    /// The limits the joint breaks.
    pub violations: Vec<Violation>,
}

/// Compares every joint. Lengths that differ show as elements that are not finite.
pub fn compare_joints(expected: Chunks<'_>, got: Chunks<'_>, gates: &Gates) -> Vec<JointReport> {
    (0..expected.joints)
        .map(|joint| compare_joint(joint, &expected.joint(joint), &got.joint(joint), expected.steps, gates))
        .collect()
}

fn compare_joint(joint: usize, expected: &[f32], got: &[f32], steps: usize, gates: &Gates) -> JointReport {
    let spread = standard_deviation(expected);
    let mut errors: Vec<f64> = expected
        .iter()
        .zip(got)
        .map(|(e, g)| (f64::from(*e) - f64::from(*g)).abs())
        .map(|error| if error.is_finite() { error } else { f64::INFINITY })
        .collect();
    let rms = (errors.iter().map(|e| e * e).sum::<f64>() / errors.len().max(1) as f64).sqrt();
    errors.sort_by(f64::total_cmp);
    let p99 =
        errors.get((errors.len() * 99 / 100).min(errors.len().saturating_sub(1))).copied().unwrap_or(0.0);
    let direction = same_direction(expected, got, steps, spread / 1000.0);

    let mut metrics = Metrics::measure(expected, got, steps);
    // A joint's own motion is its signal: an offset common to all actions must not hide an error.
    metrics.row_error = match (metrics.max_abs, spread) {
        (0.0, _) => 0.0,
        (error, spread) => error / spread,
    };
    let mut violations = gates.violations(&metrics);
    if let Some(limit) = gates.direction
        && direction < limit
    {
        violations.push(Violation { metric: "same direction", value: direction, limit, is_minimum: true });
    }
    JointReport { joint, metrics, spread, rms, p99, direction, violations }
}

fn standard_deviation(values: &[f32]) -> f64 {
    let count = values.len().max(1) as f64;
    let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / count;
    (values.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / count).sqrt()
}

/// Of the expected first differences larger than `least`, the share whose computed counterpart has the same sign.
fn same_direction(expected: &[f32], got: &[f32], steps: usize, least: f64) -> f64 {
    let differences = |values: &[f32]| -> Vec<f64> {
        values
            .chunks(steps.max(1))
            .flat_map(|chunk| chunk.windows(2).map(|pair| f64::from(pair[1]) - f64::from(pair[0])))
            .collect()
    };
    let got = differences(got);
    let moving: Vec<(usize, f64)> =
        differences(expected).into_iter().enumerate().filter(|(_, d)| d.abs() > least).collect();
    if moving.is_empty() {
        return 1.0;
    }
    let same = moving.iter().filter(|(index, d)| got.get(*index).is_some_and(|g| g * d > 0.0)).count();
    same as f64 / moving.len() as f64
}

/// Share of chunks that land further from the expected chunk than the expectation's own noise moves it.
///
/// `expected` and `got` hold `noises` chunks of each of several observations, noise by noise:
/// `[noises, observations, steps, joints]`. An observation's noise spread is the mean Euclidean distance between
/// its expected chunks, each joint measured in its own standard deviation.
pub fn share_beyond_noise(expected: Chunks<'_>, got: Chunks<'_>, noises: usize) -> f64 {
    let size = expected.steps * expected.joints;
    let chunks = expected.values.len() / size.max(1);
    if noises < 2 || chunks == 0 || got.values.len() != expected.values.len() {
        return if chunks == 0 { 0.0 } else { 1.0 };
    }
    let scales: Vec<f64> = (0..expected.joints)
        .map(|joint| standard_deviation(&expected.joint(joint)).max(f64::MIN_POSITIVE))
        .collect();
    let chunk = |values: &'_ [f32], index: usize| -> Vec<f64> {
        values[index * size..][..size]
            .iter()
            .zip(scales.iter().cycle())
            .map(|(value, scale)| f64::from(*value) / scale)
            .collect()
    };
    let distance = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt();
    let observations = chunks / noises;
    let mut beyond = 0;
    for observation in 0..observations {
        let of = |noise: usize| noise * observations + observation;
        let own: Vec<Vec<f64>> = (0..noises).map(|noise| chunk(expected.values, of(noise))).collect();
        let between: Vec<f64> = (0..noises)
            .flat_map(|a| (0..a).map(move |b| (a, b)))
            .map(|(a, b)| distance(&own[a], &own[b]))
            .collect();
        let spread = between.iter().sum::<f64>() / between.len() as f64;
        // NaN lands beyond everything.
        let stays = |noise: &usize| distance(&own[*noise], &chunk(got.values, of(*noise))) <= spread;
        beyond += noises - (0..noises).filter(stays).count();
    }
    beyond as f64 / (observations * noises) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two chunks of four actions of two joints.
    const ACTIONS: [f32; 16] =
        [0.0, 100.0, 1.0, 102.0, 2.0, 104.0, 1.0, 101.0, 5.0, 90.0, 4.0, 93.0, 3.0, 99.0, 6.0, 92.0];

    fn chunks(values: &[f32]) -> Chunks<'_> {
        Chunks { values, steps: 4, joints: 2 }
    }

    #[test]
    fn joints_are_taken_apart() {
        assert_eq!(chunks(&ACTIONS).joint(1), [100.0, 102.0, 104.0, 101.0, 90.0, 93.0, 99.0, 92.0]);
    }

    #[test]
    fn equal_actions_break_nothing() {
        let gates = Gates { row_error: Some(0.0), direction: Some(1.0), slope: Some(0.0), ..Gates::NONE };
        for report in compare_joints(chunks(&ACTIONS), chunks(&ACTIONS), &gates) {
            assert!(report.violations.is_empty() && report.rms == 0.0 && report.p99 == 0.0, "{report:?}");
        }
    }

    #[test]
    fn one_reversed_joint_is_seen_in_that_joint_only() {
        let mut reversed = ACTIONS;
        for action in reversed.chunks_mut(2) {
            action[0] = 6.0 - action[0];
        }
        let gates = Gates { direction: Some(0.9), ..Gates::NONE };
        let reports = compare_joints(chunks(&ACTIONS), chunks(&reversed), &gates);
        assert_eq!(reports[0].direction, 0.0);
        assert_eq!(reports[0].violations[0].to_string(), "same direction 0 (at least 0.9)");
        assert!(reports[1].violations.is_empty());
    }

    #[test]
    fn direction_does_not_look_across_chunks() {
        // From the last action of the first chunk to the first of the second, joint 1 falls.
        let mut got = ACTIONS;
        for value in got.iter_mut().skip(9).step_by(2) {
            *value += 50.0;
        }
        assert_eq!(compare_joints(chunks(&ACTIONS), chunks(&got), &Gates::NONE)[1].direction, 1.0);
    }

    #[test]
    fn p99_and_rms_are_of_absolute_differences() {
        let mut got = ACTIONS;
        got[0] -= 4.0;
        let report = &compare_joints(chunks(&ACTIONS), chunks(&got), &Gates::NONE)[0];
        assert_eq!(report.p99, 4.0);
        assert!((report.rms - 2.0_f64.sqrt()).abs() < 1e-12, "{}", report.rms);
    }

    #[test]
    fn share_beyond_noise_counts_chunks_further_off_than_the_noise() {
        // Two noises of one observation; the distance between them is the spread.
        let none = share_beyond_noise(chunks(&ACTIONS), chunks(&ACTIONS), 2);
        assert_eq!(none, 0.0);
        let mut far = ACTIONS;
        far[0] += 1000.0;
        assert_eq!(share_beyond_noise(chunks(&ACTIONS), chunks(&far), 2), 0.5);
        far[0] = f32::NAN;
        assert_eq!(share_beyond_noise(chunks(&ACTIONS), chunks(&far), 2), 0.5);
    }
}
