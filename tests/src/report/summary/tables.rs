//! The tables of checks: which comparison stands for a check, and beside which limit.

use crate::evidence::Judge;
use crate::metrics::Metrics;
use crate::report::{CheckReport, format};
use crate::tolerance::{Gates, Violation};

/// A column of the tables of checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::report) enum Metric {
    Nmse,
    MaxAbs,
    RowError,
    Ulp,
    Bits,
    Pcc,
    Cosine,
    Slope,
    Bias,
}

impl Metric {
    pub(in crate::report) const ALL: [Self; 9] = [
        Self::Nmse,
        Self::MaxAbs,
        Self::RowError,
        Self::Ulp,
        Self::Bits,
        Self::Pcc,
        Self::Cosine,
        Self::Slope,
        Self::Bias,
    ];

    /// As violations name it, where it can have a limit.
    pub(in crate::report) fn name(self) -> &'static str {
        match self {
            Self::Nmse => "NMSE",
            Self::MaxAbs => "max abs",
            Self::RowError => "row error",
            Self::Ulp => "ULP",
            Self::Bits => "different bits",
            Self::Pcc => "PCC",
            Self::Cosine => "cosine",
            Self::Slope => "slope − 1",
            Self::Bias => "bias",
        }
    }

    fn is_minimum(self) -> bool {
        matches!(self, Self::Pcc | Self::Cosine)
    }

    fn value(self, metrics: &Metrics) -> f64 {
        if metrics.non_finite > 0 {
            return f64::NAN;
        }
        match self {
            Self::Nmse => metrics.nmse,
            Self::MaxAbs => metrics.max_abs,
            Self::RowError => metrics.row_error,
            Self::Ulp => f64::from(metrics.ulp),
            Self::Bits => metrics.different_bits as f64,
            Self::Pcc => metrics.pcc,
            Self::Cosine => metrics.cosine,
            Self::Slope => (metrics.slope - 1.0).abs(),
            Self::Bias => metrics.bias.abs(),
        }
    }

    fn limit(self, gates: &Gates) -> Option<f64> {
        match self {
            Self::Nmse => gates.nmse,
            Self::MaxAbs => gates.max_abs,
            Self::RowError => gates.row_error,
            Self::Ulp => gates.ulp.map(f64::from),
            Self::Bits => gates.different_bits.map(|count| count as f64),
            Self::Pcc => gates.pcc,
            Self::Cosine => None,
            Self::Slope => gates.slope,
            Self::Bias => gates.bias,
        }
    }
}

/// The worst value of a metric over a check's comparisons, with the limit it was held to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::report) struct Worst {
    pub(in crate::report) metric: Metric,
    /// NaN where anything is not finite.
    pub(in crate::report) value: f64,
    pub(in crate::report) limit: Option<f64>,
    pub(in crate::report) broken: bool,
}

impl Worst {
    pub(in crate::report) fn value_text(&self) -> String {
        match self.metric {
            Metric::Pcc | Metric::Cosine => format::pcc(self.value),
            _ => format::number(self.value),
        }
    }

    /// `≤ 1e-12`, `≥ 0.999`
    pub(in crate::report) fn limit_text(&self) -> Option<String> {
        let limit = self.limit?;
        Some(match self.metric {
            Metric::Pcc => format!("≥ {}", format::pcc(limit)),
            _ => format!("≤ {}", format::number(limit)),
        })
    }
}

/// The worst value of `metric` by one judge; `None` where that one compared nothing. Comparisons that are held to a limit come before
/// those that are only shown: a value never stands beside another's limit.
pub(in crate::report) fn worst(check: &CheckReport, judge: Option<Judge>, metric: Metric) -> Option<Worst> {
    let badness = |worst: &Worst| match (worst.value, metric.is_minimum()) {
        (value, _) if value.is_nan() => f64::INFINITY,
        (value, true) => -value,
        (value, false) => value,
    };
    comparisons(check, judge)
        .map(|(metrics, gates, violations)| Worst {
            metric,
            value: metric.value(metrics),
            limit: gates.and_then(|gates| metric.limit(gates)),
            broken: metrics.non_finite > 0
                || violations.iter().any(|violation| violation.metric == metric.name()),
        })
        .reduce(|a, b| {
            let rank = |worst: &Worst| (worst.broken, worst.limit.is_some());
            match rank(&a).cmp(&rank(&b)) {
                std::cmp::Ordering::Less => b,
                std::cmp::Ordering::Equal if badness(&b) > badness(&a) => b,
                _ => a,
            }
        })
}

/// A check's comparisons by one judge; those joint by joint where it has no others.
fn comparisons(
    check: &CheckReport,
    judge: Option<Judge>,
) -> impl Iterator<Item = (&Metrics, Option<&Gates>, &[Violation])> {
    let joints = if check.measurements.is_empty() { &check.joints[..] } else { &[] };
    let whole = check.measurements.iter().filter(move |m| Some(m.judge) == judge);
    whole
        .map(|m| (&m.metrics, Some(&m.gates), &m.violations[..]))
        .chain(joints.iter().map(|joint| (&joint.metrics, None, &joint.violations[..])))
}

/// Whether a check compared anything.
pub(in crate::report) fn is_measured(check: &CheckReport) -> bool {
    !check.measurements.is_empty() || !check.joints.is_empty()
}

/// Who judged a check's comparisons, each a row of its own: what one allows says nothing of another. `None` where no
/// judge is named.
pub(in crate::report) fn judges(check: &CheckReport) -> Vec<Option<Judge>> {
    let mut judges: Vec<Option<Judge>> = Vec::new();
    for measurement in &check.measurements {
        if !judges.contains(&Some(measurement.judge)) {
            judges.push(Some(measurement.judge));
        }
    }
    if judges.is_empty() { vec![None] } else { judges }
}

/// The operation an op check is about, and the case: `attention_plain` is `attention`, `plain`.
pub(in crate::report) fn operation(name: &str) -> (&str, &str) {
    OPERATIONS
        .into_iter()
        .filter_map(|operation| Some((operation, name.strip_prefix(operation)?)))
        .find_map(|(operation, rest)| match rest.strip_prefix('_') {
            Some(case) => Some((operation, case)),
            None => rest.is_empty().then_some((operation, "")),
        })
        .unwrap_or((name, ""))
}

/// Operations and layers of the `Backend` trait that cases are named after; none is another's beginning.
const OPERATIONS: [&str; 20] = [
    "activate",
    "attention",
    "axpy",
    "concat_tokens",
    "denoise_step",
    "download",
    "embed_rows",
    "expert_layer",
    "layer_norm",
    "linear",
    "pixel_shuffle",
    "rms_norm",
    "rope",
    "scale",
    "silu_mul",
    "slice_rows",
    "split_cols",
    "text_layer",
    "upload",
    "vision_layer",
];
