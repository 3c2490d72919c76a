//! What the pages show, worked out from a [`Report`]: worst values, matrices, grouped reasons.
//!
//! Nothing here knows Markdown or HTML. Whatever is not finite stays so and is always the worst.

use std::collections::BTreeSet;
use std::ops::Range;

use crate::evidence::{Judge, Measurement, Trace};
use crate::metrics::Metrics;
use crate::tolerance::{Gates, Violation};

use super::format;
use super::model::{BackendReport, CheckReport, MutantsReport, Presence, Report, Status, Tier};

/// A backend in one of the precisions its checks ran in: a row of most tables.
#[derive(Clone, Copy, Debug)]
pub(super) struct Variant<'a> {
    pub(super) backend: &'a BackendReport,
    pub(super) precision: &'a str,
}

impl<'a> Variant<'a> {
    /// `cpu · f32`
    pub(super) fn label(&self) -> String {
        format!("{} · {}", self.backend.name, self.precision)
    }

    /// Its checks of one tier, in order.
    pub(super) fn checks(&self, tier: Tier) -> impl Iterator<Item = &'a CheckReport> + use<'a> {
        let precision = self.precision;
        self.backend.checks.iter().filter(move |check| check.tier == tier && check.precision == precision)
    }
}

/// Every variant, backends in the report's order, precisions in the order their checks ran.
pub(super) fn variants(report: &Report) -> Vec<Variant<'_>> {
    let mut variants = Vec::new();
    for backend in &report.backends {
        let mut seen = BTreeSet::new();
        let precisions = backend.checks.iter().map(|check| check.precision.as_str());
        variants.extend(
            precisions.filter(|name| seen.insert(*name)).map(|precision| Variant { backend, precision }),
        );
    }
    variants
}

/// The variants that ran any of [`HEADLINES`]; one that the backend does not offer has nothing to show there.
pub(super) fn headline_variants(report: &Report) -> Vec<Variant<'_>> {
    let ran = |variant: &Variant<'_>| {
        HEADLINES.iter().any(|(tier, name, _)| variant.checks(*tier).any(|check| check.name == *name))
    };
    variants(report).into_iter().filter(ran).collect()
}

/// `PASSED` or `FAILED`.
pub(super) fn verdict(report: &Report) -> &'static str {
    if report.passed() { "PASSED" } else { "FAILED" }
}

/// The run in one sentence.
pub(super) fn sentence(report: &Report) -> String {
    let total = |status| report.backends.iter().map(|backend| backend.count(status)).sum::<usize>();
    let checks: usize = report.backends.iter().map(|backend| backend.checks.len()).sum();
    let made = checks - total(Status::Unsupported);
    let absent = report.backends.iter().filter(|backend| is_absent(backend)).count();
    let present = report.backends.len() - absent;
    let mut parts = Vec::new();
    if made > 0 {
        let passed = if made == 1 { "1 check passed".to_owned() } else { format!("{made} checks passed") };
        let present = format::count(present, "backend");
        parts.push(format!("{} of {passed} on {present}", total(Status::Passed)));
    } else if !report.checked_anything() {
        parts.push("Nothing was checked".to_owned());
    }
    for status in Status::ALL.into_iter().filter(|status| *status != Status::Passed) {
        match total(status) {
            0 => (),
            1 => parts.push(format!("1 {}", status.name())),
            count => parts.push(format!("{count} {}", plural(status))),
        }
    }
    if absent > 0 {
        parts.push(format!("{} absent", format::count(absent, "backend")));
    }
    if let Some(mutants) = &report.mutants {
        let total = mutants.mutants.len();
        parts.push(format!("{} of {} killed", total - mutants.survivors(), format::count(total, "mutant")));
    }
    format!("{}.", parts.join(", "))
}

/// What a verdict rests on and what it does not: a reader may know nothing but this page.
pub(super) fn scope(report: &Report) -> String {
    let size = match report.size.as_str() {
        "base" => "the sizes of the published model",
        _ => "a miniature of the published model",
    };
    let versions: BTreeSet<&str> = report.cases.iter().map(|case| case.lerobot.as_str()).collect();
    let version = versions.into_iter().collect::<Vec<_>>().join(", ");
    let filter = match &report.filter {
        Some(text) => format!(" Only checks whose name contains “{text}” were asked."),
        None => String::new(),
    };
    format!(
        "Judged by what LeRobot {version} itself computed, and by plain loops with f64 sums for single operations. \
         The checkpoints have {size} and random weights from a seed: what is shown is that the same policy is \
         computed, not that a trained robot does its task, and no published checkpoint was run.{filter}"
    )
}

/// The words for several of them.
pub(super) fn plural(status: Status) -> &'static str {
    match status {
        Status::ExpectedFailure => "expected failures",
        Status::UnexpectedPass => "unexpected passes",
        _ => status.name(),
    }
}

pub(super) fn is_absent(backend: &BackendReport) -> bool {
    matches!(backend.presence, Presence::Absent { .. })
}

/// Something that makes the run fail, or a known gap.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Finding<'a> {
    /// Full name: `cpu::f32::op::linear_one_row`.
    pub(super) name: String,
    /// What it is: the status' name, or what is missing.
    pub(super) kind: &'static str,
    pub(super) messages: Vec<&'a str>,
}

/// Failed checks, unexpected passes, absent backends that were required, mutants that survived.
pub(super) fn failures(report: &Report) -> Vec<Finding<'_>> {
    let mut findings = Vec::new();
    for backend in &report.backends {
        if let (Presence::Absent { reason }, true) = (&backend.presence, backend.required) {
            let messages = vec![reason.as_str()];
            findings.push(Finding { name: backend.name.clone(), kind: "required, but absent", messages });
        }
    }
    findings.extend(with_status(report, Status::is_failure));
    let survivors = report.mutants.iter().flat_map(|mutants| &mutants.mutants);
    findings.extend(survivors.filter(|mutant| mutant.killed_by.is_empty()).map(|mutant| Finding {
        name: format!("mutant {}", mutant.name),
        kind: "survived",
        messages: vec![mutant.defect.as_str()],
    }));
    findings
}

/// Checks that fail as the backends' expectations say.
pub(super) fn known_gaps(report: &Report) -> Vec<Finding<'_>> {
    with_status(report, |status| status == Status::ExpectedFailure)
}

fn with_status(report: &Report, wanted: impl Fn(Status) -> bool) -> Vec<Finding<'_>> {
    let checks =
        report.backends.iter().flat_map(|backend| backend.checks.iter().map(move |check| (backend, check)));
    checks
        .filter(|(_, check)| wanted(check.status))
        .map(|(backend, check)| Finding {
            name: format!("{}::{}", backend.name, check.full_name()),
            kind: check.status.name(),
            messages: check.reasons.iter().map(String::as_str).collect(),
        })
        .collect()
}

/// Unsupported checks of one variant that share a reason.
#[derive(Clone, Debug)]
pub(super) struct Unsupported<'a> {
    pub(super) variant: Variant<'a>,
    pub(super) reason: String,
    /// `tier::name` of each.
    pub(super) checks: Vec<String>,
}

/// Every unsupported check, by variant and reason.
pub(super) fn unsupported(report: &Report) -> Vec<Unsupported<'_>> {
    let mut groups: Vec<Unsupported<'_>> = Vec::new();
    for variant in variants(report) {
        let first = groups.len();
        let own = variant.backend.checks.iter().filter(|check| check.precision == variant.precision);
        for check in own.filter(|check| check.status == Status::Unsupported) {
            let reason = check.reasons.join("; ");
            let name = format!("{}::{}", check.tier.name(), check.name);
            match groups[first..].iter_mut().find(|group| group.reason == reason) {
                Some(group) => group.checks.push(name),
                None => groups.push(Unsupported { variant, reason, checks: vec![name] }),
            }
        }
    }
    groups
}

/// What a reader should know of [`HEADLINES`].
pub(super) const HEADLINES_NOTE: &str = "The rows by which the first port of SmolVLA to another chip was judged, \
    under its names, with cameras and state added. They say little by themselves: see the mutants.";

/// The checks of the first port of SmolVLA to another chip, by tier, name and the title they had there.
pub(crate) const HEADLINES: [(Tier, &str, &str); 7] = [
    (Tier::EndToEnd, "pcc_1_step", "PCC (1-step)"),
    (Tier::EndToEnd, "pcc_5_steps", "PCC (5-step)"),
    (Tier::EndToEnd, "pcc_full_trajectory", "PCC (full trajectory)"),
    (Tier::Metamorphic, "determinism", "Determinism"),
    (Tier::Metamorphic, "instruction_sensitivity", "Instruction Sensitivity"),
    (Tier::Metamorphic, "camera_sensitivity", "Camera Sensitivity"),
    (Tier::Metamorphic, "state_sensitivity", "State Sensitivity"),
];

/// What one of [`HEADLINES`] came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Headline {
    pub(super) status: Status,
    /// The correlation, the different bits, or how far the actions moved; empty where nothing was measured.
    pub(super) value: String,
}

/// The result of a headline check; `None` where the variant has no such check.
pub(super) fn headline(variant: Variant<'_>, tier: Tier, name: &str) -> Option<Headline> {
    let check = variant.checks(tier).find(|check| check.name == name)?;
    let actions = check.measurements.iter().filter(|measurement| measurement.what == "actions");
    let measurement = actions
        .min_by(|a, b| badness(&b.metrics).total_cmp(&badness(&a.metrics)))
        .or(check.measurements.first());
    let value = measurement.map_or_else(String::new, |measurement| {
        let metrics = &measurement.metrics;
        match (tier, name) {
            _ if metrics.non_finite > 0 => format::count(metrics.non_finite, "not finite element"),
            (Tier::EndToEnd, _) => format::pcc(metrics.pcc),
            (_, "determinism") if metrics.different_bits == 0 => "equal bits".to_owned(),
            (_, "determinism") => format::count(metrics.different_bits, "different element"),
            _ => format!("moved by NMSE {}", format::number(metrics.nmse)),
        }
    });
    Some(Headline { status: check.status, value })
}

/// How the stages of a matrix were computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Running {
    /// Each from the reference's own input.
    Forced,
    /// Each from what the backend computed before.
    Free,
}

impl Running {
    pub(super) const ALL: [Self; 2] = [Self::Forced, Self::Free];

    /// What the names of such checks begin with.
    fn prefix(self) -> &'static str {
        match self {
            Self::Forced => "forced_",
            Self::Free => "free_",
        }
    }

    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Forced => "Teacher-forced: each stage from LeRobot’s own input",
            Self::Free => "Free running: errors add up from stage to stage",
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Forced => "teacher-forced",
            Self::Free => "free running",
        }
    }
}

/// A part of the model whose stages stand side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    Vision,
    Connector,
    Prefix,
    Text,
    Cache,
    Expert,
    Velocity,
    Actions,
    Other,
}

impl Part {
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Vision => "Vision",
            Self::Connector => "Connector",
            Self::Prefix => "Prefix",
            Self::Text => "Text layers",
            Self::Cache => "Keys and values, by layer",
            Self::Expert => "Expert layers, worst step",
            Self::Velocity => "Velocity, by step",
            Self::Actions => "Actions x, by step",
            Self::Other => "Other stages",
        }
    }

    /// Title of the parts that stand together: those of one column would waste a block.
    fn block(self) -> &'static str {
        match self {
            Self::Vision | Self::Connector | Self::Prefix => "Vision, connector, prefix",
            part => part.title(),
        }
    }
}

/// A column of a matrix: a stage, whatever the camera, and for expert layers whatever the step.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Column {
    pub(super) part: Part,
    order: usize,
    /// `emb`, `7`, `out`
    pub(super) label: String,
}

impl Column {
    /// What stands above it in a block.
    pub(super) fn heading(&self) -> &str {
        match self.part {
            Part::Connector => "conn",
            Part::Prefix => "prefix",
            _ => &self.label,
        }
    }
}

/// A stage's name, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
struct StageName {
    column: Column,
    /// Sorts stages by when they are computed.
    computed: (u8, usize, u8, usize),
}

impl StageName {
    /// Reads names such as `vision.0.layers.3`, `text.layers.7.key` and `steps.3.layers.5`. A name it does not know
    /// becomes a column of its own, so that nothing is lost.
    fn parse(name: &str) -> Self {
        let name = name.strip_suffix(".samples").unwrap_or(name);
        let mut parts: Vec<&str> = name.split('.').collect();
        // The camera.
        if matches!(parts[0], "vision" | "connector") && parts.len() > 1 && number(parts[1]).is_some() {
            parts.remove(1);
        }
        let known = |part, order, label: &str, computed| Self {
            column: Column { part, order, label: label.to_owned() },
            computed,
        };
        match parts[..] {
            ["vision", "embeddings"] => known(Part::Vision, 0, "emb", (0, 0, 0, 0)),
            ["vision", "output"] => known(Part::Vision, usize::MAX, "out", (0, 0, 2, 0)),
            ["connector"] => known(Part::Connector, 0, "out", (1, 0, 0, 0)),
            ["prefix", "embeddings"] => known(Part::Prefix, 0, "emb", (2, 0, 0, 0)),
            ["vision", "layers", index] if let Some(layer) = number(index) => {
                known(Part::Vision, 1 + layer, index, (0, 0, 1, layer))
            }
            ["text", "layers", index] if let Some(layer) = number(index) => {
                known(Part::Text, layer, index, (3, layer, 1, 0))
            }
            ["text", "layers", index, "key" | "value"] if let Some(layer) = number(index) => {
                known(Part::Cache, layer, index, (3, layer, 0, 0))
            }
            ["steps", step, "x"] if let Some(step_index) = number(step) => {
                known(Part::Actions, step_index, step, (4, step_index, 0, 0))
            }
            ["steps", step, "suffix"] if let Some(step) = number(step) => {
                known(Part::Expert, 0, "in", (4, step, 1, 0))
            }
            ["steps", step, "layers", index]
                if let (Some(step), Some(layer)) = (number(step), number(index)) =>
            {
                known(Part::Expert, 1 + layer, index, (4, step, 2, layer))
            }
            ["steps", step, "velocity"] if let Some(step_index) = number(step) => {
                known(Part::Velocity, step_index, step, (4, step_index, 3, 0))
            }
            _ => known(Part::Other, 0, name, (5, 0, 0, 0)),
        }
    }
}

fn number(text: &str) -> Option<usize> {
    text.parse().ok()
}

/// The worst of the comparisons that fall into a cell of a matrix.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Cell<'a> {
    pub(super) pcc: f64,
    /// Of the same comparison.
    pub(super) nmse: f64,
    /// The most elements of one comparison that are not finite.
    pub(super) non_finite: usize,
    /// Comparisons.
    pub(super) count: usize,
    /// Whether any of them breaks a limit.
    pub(super) broken: bool,
    /// Check and stage of the worst.
    pub(super) worst: (&'a str, &'a str),
}

impl<'a> Cell<'a> {
    fn of(check: &'a CheckReport, measurement: &'a Measurement) -> Self {
        let metrics = &measurement.metrics;
        Self {
            pcc: metrics.pcc,
            nmse: metrics.nmse,
            non_finite: metrics.non_finite,
            count: 1,
            broken: !measurement.violations.is_empty(),
            worst: (&check.name, &measurement.what),
        }
    }

    fn merge(&mut self, other: Self) {
        let (count, broken) = (self.count + other.count, self.broken || other.broken);
        let non_finite = self.non_finite.max(other.non_finite);
        if other.badness() > self.badness() {
            *self = other;
        }
        *self = Self { count, broken, non_finite, ..*self };
    }

    /// Whether any comparison has elements that are not finite, or a correlation that is none.
    pub(super) fn is_finite(&self) -> bool {
        self.non_finite == 0 && self.pcc.is_finite()
    }

    fn badness(&self) -> f64 {
        if self.is_finite() { 1.0 - self.pcc } else { f64::INFINITY }
    }

    /// How many nines the correlation has: `−log10(1 − PCC)`, from 0 to [`MOST_NINES`]; `None` where it is not
    /// finite, which no number may stand for.
    pub(super) fn nines(&self) -> Option<f64> {
        self.is_finite().then(|| nines(self.pcc))
    }
}

/// The lowest correlation has the largest; what is not finite is beyond all.
fn badness(metrics: &Metrics) -> f64 {
    if metrics.non_finite == 0 && metrics.pcc.is_finite() { 1.0 - metrics.pcc } else { f64::INFINITY }
}

/// More cannot be told from equality in f64.
pub(super) const MOST_NINES: f64 = 15.0;

/// Nines from which each band of the heat map but the worst begins, the worst first.
pub(super) const BANDS: [f64; 7] = [1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 10.0];

fn nines(pcc: f64) -> f64 {
    // 1 − 0.999 is not quite 0.001 in f64; a correlation below zero has no nines either.
    let nines = (-(1.0 - pcc).log10() * 1e6).round() / 1e6;
    nines.clamp(0.0, MOST_NINES)
}

/// The band a number of nines falls into: 0 is the worst, `BANDS.len()` the best.
pub(super) fn band(nines: f64) -> usize {
    BANDS.iter().filter(|from| nines >= **from).count()
}

/// Worst correlations, variant by stage.
#[derive(Clone, Debug)]
pub(super) struct Matrix<'a> {
    /// In the order of the model.
    pub(super) columns: Vec<Column>,
    /// As many cells as columns; `None` where nothing was compared.
    pub(super) rows: Vec<(Variant<'a>, Vec<Option<Cell<'a>>>)>,
}

impl Matrix<'_> {
    /// The columns that stand together, with their title, in order.
    pub(super) fn blocks(&self) -> Vec<(&'static str, Range<usize>)> {
        let mut blocks: Vec<(&'static str, Range<usize>)> = Vec::new();
        for (index, column) in self.columns.iter().enumerate() {
            match blocks.last_mut() {
                Some((title, range)) if *title == column.part.block() => range.end = index + 1,
                _ => blocks.push((column.part.block(), index..index + 1)),
            }
        }
        blocks
    }
}

/// The matrix of all stage checks that ran in this way; rows and columns of those only that were compared.
pub(super) fn matrix(report: &Report, running: Running) -> Matrix<'_> {
    let mut rows: Vec<(Variant<'_>, Vec<(Column, Cell<'_>)>)> = Vec::new();
    let mut columns = BTreeSet::new();
    for variant in variants(report) {
        let mut cells: Vec<(Column, Cell<'_>)> = Vec::new();
        for (check, measurement) in stage_measurements(variant, running) {
            let column = StageName::parse(&measurement.what).column;
            let cell = Cell::of(check, measurement);
            match cells.iter_mut().find(|(existing, _)| *existing == column) {
                Some((_, existing)) => existing.merge(cell),
                None => cells.push((column, cell)),
            }
        }
        if !cells.is_empty() {
            columns.extend(cells.iter().map(|(column, _)| column.clone()));
            rows.push((variant, cells));
        }
    }
    let columns: Vec<Column> = columns.into_iter().collect();
    let rows = rows.into_iter().map(|(variant, cells)| (variant, in_order(&columns, &cells))).collect();
    Matrix { columns, rows }
}

/// The cell of each column, where there is one.
fn in_order<'a>(columns: &[Column], cells: &[(Column, Cell<'a>)]) -> Vec<Option<Cell<'a>>> {
    let cell = |column| cells.iter().find(|(own, _)| own == column).map(|(_, cell)| cell.clone());
    columns.iter().map(cell).collect()
}

fn stage_measurements<'a>(
    variant: Variant<'a>,
    running: Running,
) -> impl Iterator<Item = (&'a CheckReport, &'a Measurement)> {
    variant
        .checks(Tier::Stage)
        .filter(move |check| check.name.starts_with(running.prefix()))
        .flat_map(|check| check.measurements.iter().map(move |measurement| (check, measurement)))
}

/// The earliest stage at which a variant breaks its limits.
#[derive(Clone, Debug)]
pub(super) struct Divergence<'a> {
    pub(super) variant: Variant<'a>,
    pub(super) running: Running,
    pub(super) stage: &'a str,
    /// The check that saw it first.
    pub(super) check: &'a str,
    /// How many checks break at any stage.
    pub(super) checks: usize,
    /// Which limits break, and the worst element.
    pub(super) message: String,
}

/// Where each variant first diverges, over all of its stage checks.
pub(super) fn divergences(report: &Report) -> Vec<Divergence<'_>> {
    let mut divergences = Vec::new();
    for variant in variants(report) {
        for running in Running::ALL {
            let broken: Vec<_> = stage_measurements(variant, running)
                .filter(|(_, measurement)| !measurement.violations.is_empty())
                .collect();
            let first =
                broken.iter().min_by_key(|(_, measurement)| StageName::parse(&measurement.what).computed);
            if let Some((check, measurement)) = first {
                let checks: BTreeSet<&str> = broken.iter().map(|(check, _)| check.name.as_str()).collect();
                divergences.push(Divergence {
                    variant,
                    running,
                    stage: &measurement.what,
                    check: &check.name,
                    checks: checks.len(),
                    message: measurement.complaint().unwrap_or_default(),
                });
            }
        }
    }
    divergences
}

/// A column of the tables of checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Metric {
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
    pub(super) const ALL: [Self; 9] = [
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
    pub(super) fn name(self) -> &'static str {
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
pub(super) struct Worst {
    pub(super) metric: Metric,
    /// NaN where anything is not finite.
    pub(super) value: f64,
    pub(super) limit: Option<f64>,
    pub(super) broken: bool,
}

impl Worst {
    pub(super) fn value_text(&self) -> String {
        match self.metric {
            Metric::Pcc | Metric::Cosine => format::pcc(self.value),
            _ => format::number(self.value),
        }
    }

    /// `≤ 1e-12`, `≥ 0.999`
    pub(super) fn limit_text(&self) -> Option<String> {
        let limit = self.limit?;
        Some(match self.metric {
            Metric::Pcc => format!("≥ {}", format::pcc(limit)),
            _ => format!("≤ {}", format::number(limit)),
        })
    }
}

/// The worst value of `metric` by one judge; `None` where that one compared nothing. Comparisons that are held to a limit come before
/// those that are only shown: a value never stands beside another's limit.
pub(super) fn worst(check: &CheckReport, judge: Option<Judge>, metric: Metric) -> Option<Worst> {
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
pub(super) fn is_measured(check: &CheckReport) -> bool {
    !check.measurements.is_empty() || !check.joints.is_empty()
}

/// Who judged a check's comparisons, each a row of its own: what one allows says nothing of another. `None` where no
/// judge is named.
pub(super) fn judges(check: &CheckReport) -> Vec<Option<Judge>> {
    let mut judges: Vec<Option<Judge>> = Vec::new();
    for measurement in &check.measurements {
        if !judges.contains(&Some(measurement.judge)) {
            judges.push(Some(measurement.judge));
        }
    }
    if judges.is_empty() { vec![None] } else { judges }
}

/// The operation an op check is about, and the case: `attention_plain` is `attention`, `plain`.
pub(super) fn operation(name: &str) -> (&str, &str) {
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

/// Actions of one case, as LeRobot and as several variants computed them.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Drawing<'a> {
    pub(super) case: &'a str,
    pub(super) unit: &'a str,
    pub(super) joints: usize,
    /// `[steps, joints]`
    pub(super) expected: &'a [f32],
    /// What to call each, and its actions.
    pub(super) curves: Vec<(String, &'a [f32])>,
}

impl<'a> Drawing<'a> {
    /// One joint's actions.
    pub(super) fn joint(&self, values: &'a [f32], joint: usize) -> Vec<f32> {
        values.iter().skip(joint).step_by(self.joints.max(1)).copied().collect()
    }

    /// Largest absolute difference of one joint; `None` where anything is not finite or missing.
    pub(super) fn max_abs(&self, values: &'a [f32], joint: usize) -> Option<f64> {
        let distance = crate::metrics::max_abs(&self.joint(self.expected, joint), &self.joint(values, joint));
        distance.is_finite().then_some(distance)
    }
}

/// Every trace, those with the same expected actions in one drawing.
pub(super) fn drawings(report: &Report) -> Vec<Drawing<'_>> {
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

/// What the mutants came to, in one sentence.
pub(super) fn mutants_sentence(mutants: &MutantsReport) -> String {
    let total = mutants.mutants.len();
    format!(
        "{} of {} killed on {}; PCC ≥ {} alone would have let {} through.",
        total - mutants.survivors(),
        format::count(total, "mutant"),
        mutants.backend,
        mutants.pcc_gate,
        mutants.missed_by_pcc()
    )
}

/// The commands that repeat the run.
pub(super) fn commands(report: &Report) -> Vec<String> {
    let mut commands = Vec::new();
    if !report.backends.is_empty() {
        let names = |wanted: fn(&BackendReport) -> bool| -> Vec<&str> {
            report.backends.iter().filter(|b| wanted(b)).map(|b| b.name.as_str()).collect()
        };
        let mut command =
            format!("cargo xtask conform --backend {} --size {}", names(|_| true).join(","), report.size);
        if let Some(text) = &report.filter {
            command.push_str(&format!(" --filter {text}"));
        }
        for name in names(|backend| backend.required) {
            command.push_str(&format!(" --require {name}"));
        }
        commands.push(command);
    }
    if report.mutants.is_some() {
        commands.push("cargo xtask conform --mutants".to_owned());
    }
    commands
}

#[cfg(test)]
mod tests {
    use smolvla_core::Precision;

    use super::super::model::{Machine, MutantReport};
    use super::*;
    use crate::evidence::Evidence;
    use crate::tolerance::Class;

    fn stage(what: &str, expected: &[f32], got: &[f32]) -> Measurement {
        let mut evidence = Evidence::default();
        let class = (Class::StageFree, Precision::F32);
        evidence.compare(what, Judge::LeRobot, class, [expected, got], expected.len());
        evidence.measurements.remove(0)
    }

    fn check(tier: Tier, name: &str, measurements: Vec<Measurement>) -> CheckReport {
        let failed = measurements.iter().any(|measurement| !measurement.violations.is_empty());
        CheckReport {
            tier,
            name: name.to_owned(),
            precision: "f32".to_owned(),
            status: if failed { Status::Failed } else { Status::Passed },
            reasons: Vec::new(),
            notes: Vec::new(),
            wall_s: 0.0,
            measurements,
            joints: Vec::new(),
            traces: Vec::new(),
        }
    }

    fn report(checks: Vec<CheckReport>) -> Report {
        let presence = Presence::Present {
            device: "test".to_owned(),
            driver: None,
            emulated: None,
            precisions: vec!["f32".to_owned()],
        };
        Report {
            format: super::super::FORMAT,
            version: "0.0.0".to_owned(),
            started: "2026-01-31T12:00:00Z".to_owned(),
            wall_s: 1.0,
            filter: None,
            size: "tiny".to_owned(),
            machine: Machine { system: String::new(), processor: String::new(), threads: 1 },
            backends: vec![BackendReport { name: "cpu".to_owned(), presence, required: false, checks }],
            cases: Vec::new(),
            mutants: None,
            tolerances: Report::TOLERANCES,
        }
    }

    const EXPECTED: [f32; 4] = [1.0, 2.0, 3.0, 5.0];

    #[test]
    fn matrix_keeps_the_worst_correlation_over_cases_cameras_and_steps() {
        let good = [1.0, 2.0, 3.0, 5.1];
        let bad = [1.0, 3.0, 2.0, 5.0];
        let report = report(vec![
            check(
                Tier::Stage,
                "free_a",
                vec![
                    stage("vision.0.layers.3", &EXPECTED, &good),
                    stage("steps.0.layers.1", &EXPECTED, &bad),
                ],
            ),
            check(
                Tier::Stage,
                "free_b",
                vec![
                    stage("vision.0.layers.3", &EXPECTED, &EXPECTED),
                    stage("vision.1.layers.3", &EXPECTED, &bad),
                    stage("steps.9.layers.1", &EXPECTED, &good),
                ],
            ),
            check(Tier::Stage, "forced_a", vec![stage("vision.0.layers.3", &EXPECTED, &EXPECTED)]),
        ]);
        let free = matrix(&report, Running::Free);
        let labels: Vec<_> = free.columns.iter().map(|c| (c.part, c.label.as_str())).collect();
        assert_eq!(labels, [(Part::Vision, "3"), (Part::Expert, "1")]);
        let titles = free.blocks();
        assert_eq!(titles, [("Vision, connector, prefix", 0..1), ("Expert layers, worst step", 1..2)]);
        let [Some(vision), Some(expert)] = &free.rows[0].1[..] else { panic!("{free:?}") };
        assert_eq!((vision.count, vision.worst), (3, ("free_b", "vision.1.layers.3")));
        assert_eq!((expert.count, expert.worst), (2, ("free_a", "steps.0.layers.1")));
        assert_eq!(vision.pcc, crate::metrics::pcc(&EXPECTED, &bad));
        assert_eq!(vision.nmse, crate::metrics::nmse(&EXPECTED, &bad));
        let forced = matrix(&report, Running::Forced);
        assert_eq!(forced.rows[0].1[0].as_ref().unwrap().nines(), Some(MOST_NINES));
        assert_eq!(forced.columns.len(), 1);
    }

    #[test]
    fn what_is_not_finite_is_worst_and_has_no_nines() {
        let nan = [1.0, f32::NAN, 3.0, 5.0];
        let bad = [5.0, 3.0, 2.0, 1.0];
        for order in [[&nan, &bad], [&bad, &nan]] {
            let measurements = order.map(|got| stage("connector.0", &EXPECTED, got));
            let report = report(vec![check(Tier::Stage, "free_a", measurements.to_vec())]);
            let matrix = matrix(&report, Running::Free);
            let cell = matrix.rows[0].1[0].clone().unwrap();
            assert!(!cell.is_finite() && cell.broken && cell.nines().is_none(), "{cell:?}");
            assert_eq!(cell.nmse, f64::INFINITY);
            let shown =
                worst(&report.backends[0].checks[0], judges(&report.backends[0].checks[0])[0], Metric::Pcc)
                    .unwrap();
            assert!(shown.broken && shown.value_text() == "not finite", "{shown:?}");
        }
    }

    #[test]
    fn stages_are_grouped_by_part_of_the_model_in_its_order() {
        let names = [
            "steps.4.x",
            "steps.3.layers.5",
            "text.layers.10",
            "text.layers.7.value",
            "vision.1.output",
            "vision.0.layers.11",
            "text.layers.7.key",
            "something.new",
            "steps.9.velocity",
            "prefix.embeddings",
            "vision.0.embeddings",
            "connector.2",
            "steps.3.suffix",
            "text.layers.9",
            "vision.0.layers.2.samples",
        ];
        let columns: BTreeSet<_> = names.iter().map(|name| StageName::parse(name).column).collect();
        let columns: Vec<_> = columns.iter().map(|c| (c.part, c.label.as_str())).collect();
        assert_eq!(
            columns,
            [
                (Part::Vision, "emb"),
                (Part::Vision, "2"),
                (Part::Vision, "11"),
                (Part::Vision, "out"),
                (Part::Connector, "out"),
                (Part::Prefix, "emb"),
                (Part::Text, "9"),
                (Part::Text, "10"),
                (Part::Cache, "7"),
                (Part::Expert, "in"),
                (Part::Expert, "5"),
                (Part::Velocity, "9"),
                (Part::Actions, "4"),
                (Part::Other, "something.new"),
            ]
        );
    }

    #[test]
    fn divergence_is_at_the_stage_computed_first_not_the_one_listed_first() {
        let bad = [1.0, 3.0, 2.0, 5.0];
        let broken = |what| stage(what, &EXPECTED, &bad);
        let report = report(vec![
            check(Tier::Stage, "free_a", vec![broken("steps.0.x"), broken("steps.0.layers.2")]),
            check(Tier::Stage, "free_b", vec![broken("text.layers.3"), broken("text.layers.3.key")]),
            check(Tier::Stage, "free_c", vec![stage("vision.0.embeddings", &EXPECTED, &EXPECTED)]),
        ]);
        let found = divergences(&report);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].stage, found[0].check, found[0].checks), ("text.layers.3.key", "free_b", 2));
        assert!(found[0].message.contains("NMSE"), "{}", found[0].message);
    }

    #[test]
    fn bands_rise_with_the_nines() {
        assert_eq!([0.0, 0.99, 1.0, 2.5, 5.9, 6.0, 15.0].map(band), [0, 0, 1, 2, 4, 5, 7]);
        assert_eq!([1.0, 0.9, 0.0, -1.0].map(|pcc| nines(pcc).round()), [15.0, 1.0, 0.0, 0.0]);
    }

    #[test]
    fn headline_takes_the_lowest_correlation_of_the_actions() {
        let slightly = [1.0, 2.0, 3.0, 5.1];
        let bad = [1.0, 3.0, 2.0, 5.0];
        let measurements = vec![
            stage("steps.0.x", &EXPECTED, &[5.0, 3.0, 2.0, 1.0]),
            stage("actions", &EXPECTED, &slightly),
            stage("actions", &EXPECTED, &bad),
        ];
        let report = report(vec![check(Tier::EndToEnd, "pcc_1_step", measurements)]);
        let variant = variants(&report)[0];
        let found = headline(variant, Tier::EndToEnd, "pcc_1_step").unwrap();
        assert_eq!(found.value, format::pcc(crate::metrics::pcc(&EXPECTED, &bad)));
        assert_eq!(found.status, Status::Failed);
        assert_eq!(headline(variant, Tier::EndToEnd, "pcc_5_steps"), None);
    }

    #[test]
    fn a_value_stands_beside_its_own_limit() {
        let mut evidence = Evidence::default();
        let tight = Gates { nmse: Some(1e-2), ..Gates::NONE };
        evidence.compare_within("held", Judge::LeRobot, tight, [&EXPECTED[..], &[1.0, 2.0, 3.0, 5.1][..]], 4);
        evidence.compare_within("shown", Judge::LeRobot, Gates::NONE, [&EXPECTED[..], &[9.0; 4][..]], 4);
        let check = check(Tier::EndToEnd, "a", evidence.measurements);
        let shown = worst(&check, judges(&check)[0], Metric::Nmse).unwrap();
        assert!(shown.limit == Some(1e-2) && !shown.broken && shown.value < 1e-2, "{shown:?}");
        assert_eq!(worst(&check, judges(&check)[0], Metric::Pcc).unwrap().value, 0.0);
    }

    #[test]
    fn operations_are_told_from_their_cases() {
        for (name, expected) in [
            ("linear_one_row", ("linear", "one_row")),
            ("layer_norm", ("layer_norm", "")),
            ("scale", ("scale", "")),
            ("scaled", ("scaled", "")),
            ("embed_rows_bf16", ("embed_rows", "bf16")),
        ] {
            assert_eq!(operation(name), expected);
        }
    }

    #[test]
    fn unsupported_checks_are_grouped_by_reason() {
        let mut checks: Vec<_> =
            ["a", "b", "c"].map(|name| check(Tier::Op, name, Vec::new())).into_iter().collect();
        for (check, reason) in checks.iter_mut().zip(["no f16", "no int8", "no f16"]) {
            check.status = Status::Unsupported;
            check.reasons = vec![reason.to_owned()];
        }
        let report = report(checks);
        let groups: Vec<_> =
            unsupported(&report).into_iter().map(|group| (group.reason, group.checks)).collect();
        assert_eq!(
            groups,
            [
                ("no f16".to_owned(), vec!["op::a".to_owned(), "op::c".to_owned()]),
                ("no int8".to_owned(), vec!["op::b".to_owned()])
            ]
        );
    }

    #[test]
    fn traces_of_equal_expectations_share_a_drawing() {
        let trace = |expected: f32, got: f32| Trace {
            case: "case".to_owned(),
            joints: 1,
            unit: "deg".to_owned(),
            expected: vec![expected],
            got: vec![got],
        };
        let mut first = check(Tier::EndToEnd, "a", Vec::new());
        first.traces = vec![trace(1.0, 1.5), trace(2.0, 2.0), trace(1.0, 1.5)];
        let mut second = check(Tier::ActionSpace, "b", Vec::new());
        second.traces = vec![trace(1.0, f32::NAN)];
        let report = report(vec![first, second]);
        let drawings = drawings(&report);
        assert_eq!(drawings.iter().map(|d| d.curves.len()).collect::<Vec<_>>(), [2, 1]);
        let labels: Vec<_> = drawings[0].curves.iter().map(|(label, _)| label.as_str()).collect();
        assert_eq!(labels, ["cpu · f32", "cpu · f32 (b)"]);
        let distances = drawings[0].curves.iter().map(|(_, values)| drawings[0].max_abs(values, 0));
        assert_eq!(distances.collect::<Vec<_>>(), [Some(0.5), None]);
    }

    #[test]
    fn failures_name_required_backends_checks_and_survivors() {
        let mut failed = check(Tier::Op, "linear", Vec::new());
        failed.status = Status::Failed;
        failed.reasons = vec!["NMSE".to_owned()];
        let mut report = report(vec![failed, check(Tier::Op, "rope", Vec::new())]);
        let absent = |name: &str, required| BackendReport {
            name: name.to_owned(),
            presence: Presence::Absent { reason: "no card".to_owned() },
            required,
            checks: Vec::new(),
        };
        report.backends.extend([absent("tt", true), absent("fpga", false)]);
        report.mutants = Some(MutantsReport {
            backend: "cpu".to_owned(),
            pcc_gate: 0.99,
            mutants: vec![MutantReport {
                name: "scaled".to_owned(),
                defect: "1.3 times".to_owned(),
                killed_by: Vec::new(),
                pcc: 1.0,
                missed_by_pcc: true,
            }],
        });
        let names: Vec<_> = failures(&report).into_iter().map(|f| (f.name, f.kind)).collect();
        assert_eq!(
            names,
            [
                ("tt".to_owned(), "required, but absent"),
                ("cpu::f32::op::linear".to_owned(), "failed"),
                ("mutant scaled".to_owned(), "survived"),
            ]
        );
        assert_eq!(
            sentence(&report),
            "1 of 2 checks passed on 1 backend, 1 failed, 2 backends absent, 0 of 1 mutant killed."
        );
        assert_eq!(
            commands(&report)[0],
            "cargo xtask conform --backend cpu,tt,fpga --size tiny --require tt"
        );
    }
}
