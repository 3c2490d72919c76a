//! Actions of one case, put together over backends for drawing.

use super::Variant;
use crate::evidence::Trace;
use crate::report::{CheckReport, Report};

/// Actions of one case, as LeRobot and as several variants computed them.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::report) struct Drawing<'a> {
    pub(in crate::report) case: &'a str,
    pub(in crate::report) unit: &'a str,
    pub(in crate::report) joints: usize,
    /// `[steps, joints]`
    pub(in crate::report) expected: &'a [f32],
    /// What to call each, and its actions.
    pub(in crate::report) curves: Vec<(String, &'a [f32])>,
}

impl<'a> Drawing<'a> {
    /// One joint's actions.
    pub(in crate::report) fn joint(&self, values: &'a [f32], joint: usize) -> Vec<f32> {
        values.iter().skip(joint).step_by(self.joints.max(1)).copied().collect()
    }

    /// Largest absolute difference of one joint; `None` where anything is not finite or missing.
    pub(in crate::report) fn max_abs(&self, values: &'a [f32], joint: usize) -> Option<f64> {
        let distance = crate::metrics::max_abs(&self.joint(self.expected, joint), &self.joint(values, joint));
        distance.is_finite().then_some(distance)
    }
}

/// Every trace, those with the same expected actions in one drawing.
pub(in crate::report) fn drawings(report: &Report) -> Vec<Drawing<'_>> {
    let mut drawings: Vec<Drawing<'_>> = Vec::new();
    for (variant, check, trace) in traces(report) {
        let same = |drawing: &&mut Drawing<'_>| {
            drawing.case == trace.case
                && drawing.unit == trace.unit
                && drawing.joints == trace.joints
                && is_same(drawing.expected, &trace.expected)
        };
        let drawing = match drawings.iter_mut().find(same) {
            Some(drawing) => drawing,
            None => {
                drawings.push(Drawing {
                    case: &trace.case,
                    unit: &trace.unit,
                    joints: trace.joints,
                    expected: &trace.expected,
                    curves: Vec::new(),
                });
                let last = drawings.len() - 1;
                &mut drawings[last]
            }
        };
        let label = variant.label();
        match drawing.curves.iter().find(|(existing, _)| *existing == label) {
            // Another check drew the same run.
            Some((_, values)) if is_same(values, &trace.got) => (),
            Some(_) => drawing.curves.push((format!("{label} ({})", check.name), &trace.got)),
            None => drawing.curves.push((label, &trace.got)),
        }
    }
    drawings
}

fn traces(report: &Report) -> impl Iterator<Item = (Variant<'_>, &CheckReport, &Trace)> {
    report.backends.iter().flat_map(|backend| {
        backend.checks.iter().flat_map(move |check| {
            let variant = Variant { backend, precision: &check.precision };
            check.traces.iter().map(move |trace| (variant, check, trace))
        })
    })
}

fn is_same(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
}
