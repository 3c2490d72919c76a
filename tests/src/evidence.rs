//! What a check found: every comparison it made, and whether it holds.

use serde::Serialize;
use smolvla_core::backend::BackendErrorKind;
use smolvla_core::{BackendError, Error, Precision};

use crate::actions::{Chunks, JointReport, compare_joints};
use crate::metrics::Metrics;
use crate::tolerance::{Class, Gates, Violation, tolerance};

/// By what a result is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Judge {
    /// LeRobot with the checkpoint's weights in f32.
    LeRobot,
    /// LeRobot as it runs the file's own bfloat16.
    LeRobotMixed,
    /// The plain-loop reference backend.
    PlainLoops,
    /// The backend itself, in another run or with inputs that must not matter.
    Itself,
}

impl Judge {
    /// The name reports use.
    pub fn name(self) -> &'static str {
        match self {
            Self::LeRobot => "LeRobot f32",
            Self::LeRobotMixed => "LeRobot bf16",
            Self::PlainLoops => "plain loops",
            Self::Itself => "itself",
        }
    }
}

/// One comparison.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Measurement {
    /// What was compared: an operation's result, a stage, actions.
    pub what: String,
    /// By what.
    pub judge: Judge,
    /// Every metric.
    pub metrics: Metrics,
    /// The limits it was held to; all `None` where it is shown only.
    pub gates: Gates,
    /// Those it breaks.
    pub violations: Vec<Violation>,
}

impl Measurement {
    /// What is wrong, with the worst element; `None` where nothing is.
    pub fn complaint(&self) -> Option<String> {
        let broken: Vec<String> = self.violations.iter().map(Violation::to_string).collect();
        (!broken.is_empty())
            .then(|| format!("{}: {}{}", self.what, broken.join(", "), worst_element(&self.metrics)))
    }
}

/// `; worst element [3, 17]: 0.25, expected 0.5`
fn worst_element(metrics: &Metrics) -> String {
    let Some(worst) = metrics.worst else { return String::new() };
    let value = |value: Option<f32>| match value {
        None => "nothing".to_owned(),
        Some(v) if v == 0.0 || (1e-3..1e6).contains(&v.abs()) => format!("{v}"),
        Some(v) => format!("{v:e}"),
    };
    format!(
        "; worst element [{}, {}]: {}, expected {}",
        worst.row,
        worst.col,
        value(worst.got),
        value(worst.expected)
    )
}

/// A chunk's actions beside the expected ones, for drawing.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Trace {
    /// The case.
    pub case: String,
    /// Numbers of an action.
    pub joints: usize,
    /// Unit of the numbers, for people.
    pub unit: String,
    /// `[steps, joints]`.
    pub expected: Vec<f32>,
    /// The same, computed.
    pub got: Vec<f32>,
}

/// Everything one check found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Evidence {
    /// Comparisons, in the order they were made.
    pub measurements: Vec<Measurement>,
    /// Actions joint by joint, where the check looks at them.
    pub joints: Vec<JointReport>,
    /// Actions for drawing.
    pub traces: Vec<Trace>,
    /// What a reader should know beside the numbers.
    pub notes: Vec<String>,
    /// What is wrong; empty where the check holds.
    pub failures: Vec<String>,
    /// Why the check could not be made: a capability the backend says it lacks.
    pub unsupported: Option<String>,
}

impl Evidence {
    /// Evidence of one failure.
    pub fn failed(reason: impl Into<String>) -> Self {
        Self { failures: vec![reason.into()], ..Self::default() }
    }

    /// Evidence that the backend lacks something.
    pub fn unsupported(reason: impl Into<String>) -> Self {
        Self { unsupported: Some(reason.into()), ..Self::default() }
    }

    /// Compares two tensors of `cols` columns and holds them to the table's limits.
    pub fn compare(
        &mut self,
        what: impl Into<String>,
        judge: Judge,
        (class, precision): (Class, Precision),
        [expected, got]: [&[f32]; 2],
        cols: usize,
    ) {
        match tolerance(class, precision) {
            Some(row) => self.compare_within(what, judge, row.gates, [expected, got], cols),
            None => self.failures.push(format!(
                "{}: the tolerance table has no row for {} in {precision}",
                what.into(),
                class.name()
            )),
        }
    }

    /// Compares two tensors of `cols` columns and holds them to `gates`.
    pub fn compare_within(
        &mut self,
        what: impl Into<String>,
        judge: Judge,
        gates: Gates,
        [expected, got]: [&[f32]; 2],
        cols: usize,
    ) {
        let metrics = Metrics::measure(expected, got, cols);
        let violations = gates.violations(&metrics);
        let measurement = Measurement { what: what.into(), judge, metrics, gates, violations };
        self.failures.extend(measurement.complaint());
        self.measurements.push(measurement);
    }

    /// Compares actions joint by joint, in physical units.
    pub fn compare_joints(&mut self, precision: Precision, expected: Chunks<'_>, got: Chunks<'_>) {
        let Some(row) = tolerance(Class::Joint, precision) else {
            self.failures.push(format!("the tolerance table has no row for joints in {precision}"));
            return;
        };
        for report in compare_joints(expected, got, &row.gates) {
            let broken: Vec<String> = report.violations.iter().map(Violation::to_string).collect();
            if !broken.is_empty() {
                let worst = worst_element(&report.metrics);
                self.failures.push(format!("joint {}: {}{worst}", report.joint, broken.join(", ")));
            }
            self.joints.push(report);
        }
    }

    /// Records a failure unless `holds`.
    pub fn require(&mut self, holds: bool, otherwise: impl FnOnce() -> String) {
        if !holds {
            self.failures.push(otherwise());
        }
    }

    /// Whether the check was made and holds.
    pub fn holds(&self) -> bool {
        self.unsupported.is_none() && self.failures.is_empty()
    }
}

/// Why a check stopped before it could compare.
#[derive(Debug, thiserror::Error)]
pub enum Stop {
    /// The policy or the backend refused.
    #[error(transparent)]
    Policy(#[from] Error),
    /// A golden or a checkpoint of the suite cannot be used.
    #[error("{0}")]
    Fixture(String),
}

impl From<BackendError> for Stop {
    fn from(error: BackendError) -> Self {
        Self::Policy(Error::Backend(error))
    }
}

impl From<crate::GoldenError> for Stop {
    fn from(error: crate::GoldenError) -> Self {
        Self::Fixture(error.to_string())
    }
}

impl From<Stop> for Evidence {
    /// An operation that a backend says it cannot do is unsupported; everything else failed.
    fn from(stop: Stop) -> Self {
        match &stop {
            Stop::Policy(Error::Backend(error)) if error.kind == BackendErrorKind::Unsupported => {
                Self::unsupported(error.to_string())
            }
            _ => Self::failed(stop.to_string()),
        }
    }
}
