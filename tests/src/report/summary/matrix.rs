//! The matrix of correlations by backend and stage, and the first stage that diverges.

use std::collections::BTreeSet;
use std::ops::Range;

use super::{Variant, variants};
use crate::evidence::Measurement;
use crate::metrics::Metrics;
use crate::report::{CheckReport, Report, Tier};

/// How the stages of a matrix were computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::report) enum Running {
    /// Each from the reference's own input.
    Forced,
    /// Each from what the backend computed before.
    Free,
}

impl Running {
    pub(in crate::report) const ALL: [Self; 2] = [Self::Forced, Self::Free];

    /// What the names of such checks begin with.
    fn prefix(self) -> &'static str {
        match self {
            Self::Forced => "forced_",
            Self::Free => "free_",
        }
    }

    pub(in crate::report) fn title(self) -> &'static str {
        match self {
            Self::Forced => "Teacher-forced: each stage from LeRobot’s own input",
            Self::Free => "Free running: errors add up from stage to stage",
        }
    }

    pub(in crate::report) fn name(self) -> &'static str {
        match self {
            Self::Forced => "teacher-forced",
            Self::Free => "free running",
        }
    }
}

/// A part of the model whose stages stand side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::report) enum Part {
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
    pub(in crate::report) fn title(self) -> &'static str {
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
pub(in crate::report) struct Column {
    pub(in crate::report) part: Part,
    order: usize,
    /// `emb`, `7`, `out`
    pub(in crate::report) label: String,
}

impl Column {
    /// What stands above it in a block.
    pub(in crate::report) fn heading(&self) -> &str {
        match self.part {
            Part::Connector => "conn",
            Part::Prefix => "prefix",
            _ => &self.label,
        }
    }
}

/// A stage's name, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StageName {
    pub(super) column: Column,
    /// Sorts stages by when they are computed.
    pub(super) computed: (u8, usize, u8, usize),
}

impl StageName {
    /// Reads names such as `vision.0.layers.3`, `text.layers.7.key` and `steps.3.layers.5`. A name it does not know
    /// becomes a column of its own, so that nothing is lost.
    pub(super) fn parse(name: &str) -> Self {
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
pub(in crate::report) struct Cell<'a> {
    pub(in crate::report) pcc: f64,
    /// Of the same comparison.
    pub(in crate::report) nmse: f64,
    /// The most elements of one comparison that are not finite.
    pub(in crate::report) non_finite: usize,
    /// Comparisons.
    pub(in crate::report) count: usize,
    /// Whether any of them breaks a limit.
    pub(in crate::report) broken: bool,
    /// Check and stage of the worst.
    pub(in crate::report) worst: (&'a str, &'a str),
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
    pub(in crate::report) fn is_finite(&self) -> bool {
        self.non_finite == 0 && self.pcc.is_finite()
    }

    fn badness(&self) -> f64 {
        if self.is_finite() { 1.0 - self.pcc } else { f64::INFINITY }
    }

    /// How many nines the correlation has: `−log10(1 − PCC)`, from 0 to [`MOST_NINES`]; `None` where it is not
    /// finite, which no number may stand for.
    pub(in crate::report) fn nines(&self) -> Option<f64> {
        self.is_finite().then(|| nines(self.pcc))
    }
}

/// The lowest correlation has the largest; what is not finite is beyond all.
pub(super) fn badness(metrics: &Metrics) -> f64 {
    if metrics.non_finite == 0 && metrics.pcc.is_finite() { 1.0 - metrics.pcc } else { f64::INFINITY }
}

/// More cannot be told from equality in f64.
pub(in crate::report) const MOST_NINES: f64 = 15.0;

/// Nines from which each band of the heat map but the worst begins, the worst first.
pub(in crate::report) const BANDS: [f64; 7] = [1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 10.0];

pub(super) fn nines(pcc: f64) -> f64 {
    // 1 − 0.999 is not quite 0.001 in f64; a correlation below zero has no nines either.
    let nines = (-(1.0 - pcc).log10() * 1e6).round() / 1e6;
    nines.clamp(0.0, MOST_NINES)
}

/// The band a number of nines falls into: 0 is the worst, `BANDS.len()` the best.
pub(in crate::report) fn band(nines: f64) -> usize {
    BANDS.iter().filter(|from| nines >= **from).count()
}

/// Worst correlations, variant by stage.
#[derive(Clone, Debug)]
pub(in crate::report) struct Matrix<'a> {
    /// In the order of the model.
    pub(in crate::report) columns: Vec<Column>,
    /// As many cells as columns; `None` where nothing was compared.
    pub(in crate::report) rows: Vec<(Variant<'a>, Vec<Option<Cell<'a>>>)>,
}

impl Matrix<'_> {
    /// The columns that stand together, with their title, in order.
    pub(in crate::report) fn blocks(&self) -> Vec<(&'static str, Range<usize>)> {
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
pub(in crate::report) fn matrix(report: &Report, running: Running) -> Matrix<'_> {
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
pub(in crate::report) struct Divergence<'a> {
    pub(in crate::report) variant: Variant<'a>,
    pub(in crate::report) running: Running,
    pub(in crate::report) stage: &'a str,
    /// The check that saw it first.
    pub(in crate::report) check: &'a str,
    /// How many checks break at any stage.
    pub(in crate::report) checks: usize,
    /// Which limits break, and the worst element.
    pub(in crate::report) message: String,
}

/// Where each variant first diverges, over all of its stage checks.
pub(in crate::report) fn divergences(report: &Report) -> Vec<Divergence<'_>> {
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
