//! Single operations and whole layers against the plain loops.
//!
//! [`cases`] lists every operation of [`Backend`] with the sizes and the kinds of numbers that have been known to
//! break kernels: one row, one more than a tile, one column, thousands of terms; outliers, subnormals, zeros of
//! either sign; and, in a list of their own, with the sizes of the real model. Each case runs on the backend twice,
//! which must give the same bits and leave the arguments as they were, and on [`Reference`], whose sums are in f64,
//! and is held to the limits of [`crate::tolerance`]. Of large products the plain loops compute some rows only.

mod calls;
mod cases;
mod inputs;
mod layers;
#[cfg(test)]
mod tests;

use smolvla_core::Checked;
use smolvla_core::backend::{Backend, BackendError, BackendErrorKind, Matrix, Precision};
use smolvla_core::reference::Reference;

use self::calls::Call;
use self::inputs::{Inputs, Kind};
use self::layers::{Form, LayerCall};
use crate::evidence::{Evidence, Judge, Measurement, Stop};
use crate::metrics::Metrics;
use crate::tolerance::{Class, tolerance};

pub use self::cases::cases;

/// One operation or layer with fixed arguments.
#[derive(Clone, Debug)]
pub struct OpCase {
    name: String,
    variant: &'static str,
    kind: Kind,
    action: Action,
    /// Rows of the result that the plain loops compute; all, where `None`.
    rows: Option<Vec<usize>>,
}

#[derive(Clone, Debug)]
enum Action {
    Call(Call),
    Layer(LayerCall),
}

impl OpCase {
    fn new(action: Action, variant: &'static str, kind: Kind) -> Self {
        let op = match &action {
            Action::Call(call) => call.op(),
            Action::Layer(layer) => layer.op(),
        };
        let words: Vec<&str> = [op, variant].into_iter().chain(kind.name()).collect();
        Self { name: words.join("_"), variant, kind, action, rows: None }
    }

    /// A name no other case has: operation, what is special about the sizes, and about the numbers.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The method of [`Backend`] it is about.
    pub fn op(&self) -> &'static str {
        match &self.action {
            Action::Call(call) => call.op(),
            Action::Layer(layer) => layer.op(),
        }
    }

    /// What its results are held to.
    pub fn class(&self) -> Class {
        match &self.action {
            Action::Call(call) => call.class(),
            Action::Layer(_) => Class::Layer,
        }
    }

    /// Runs the case on `backend`, twice, and on the plain loops.
    ///
    /// Weights are prepared in `precision`, and all numbers lie on its grid, so that the plain loops, which
    /// compute in f32 throughout, get exactly what the backend gets. Arguments must be the same after the call. A
    /// layer of which the backend has a form of its own is compared with the one composed of the backend's
    /// operations too, if it has those.
    pub fn check<B: Backend>(&self, backend: &Checked<B>, precision: Precision) -> Evidence {
        let offered = backend.capabilities().precisions;
        if !offered.contains(&precision) {
            return Evidence::unsupported(format!("{precision} is not among the precisions offered"));
        }
        self.judge(backend, precision)
    }

    fn judge<B: Backend>(&self, backend: &B, precision: Precision) -> Evidence {
        let mut evidence = Evidence::default();
        if let Err(error) = self.measure(backend, precision, &mut evidence) {
            let stopped = Evidence::from(Stop::from(error));
            let label = self.label();
            evidence.failures.extend(stopped.failures.iter().map(|failure| format!("{label}: {failure}")));
            // What is wrong already outweighs what the backend lacks.
            evidence.unsupported = stopped.unsupported.filter(|_| evidence.failures.is_empty());
        }
        evidence
    }

    fn measure<B: Backend>(
        &self,
        backend: &B,
        precision: Precision,
        evidence: &mut Evidence,
    ) -> Result<(), BackendError> {
        let form = Form::Own;
        let got = self.run(backend, Setup { grid: precision, prepared: precision, form, rows: None })?;
        for changed in &got.changed_arguments {
            evidence.failures.push(format!("{}: changes its argument {changed}", self.label()));
        }
        self.compare_with_plain_loops(evidence, precision, &got.parts)?;
        match self.run(backend, Setup { grid: precision, prepared: precision, form, rows: None }) {
            Ok(again) => evidence.failures.extend(
                first_difference(&got.parts, &again.parts)
                    .map(|difference| format!("{}: two runs differ at {difference}", self.label())),
            ),
            Err(error) => evidence.failures.push(format!("{}: the second run: {error}", self.label())),
        }
        let Action::Layer(layer) = &self.action else { return Ok(()) };
        self.compare_forms(evidence, backend, precision, layer, &got.parts)
    }

    fn compare_with_plain_loops(
        &self,
        evidence: &mut Evidence,
        precision: Precision,
        got: &[Part],
    ) -> Result<(), BackendError> {
        let rows = self.rows.as_deref();
        let setup = Setup { grid: precision, prepared: Precision::F32, form: Form::Composed, rows };
        let expected = self.run(&Checked::new(Reference), setup)?.parts;
        match rows {
            None => self.compare(evidence, Judge::PlainLoops, precision, [&expected, got]),
            Some(rows) => self.compare_rows(evidence, precision, rows, [&expected, got]),
        }
        Ok(())
    }

    /// The backend's own form of a layer against the one composed of its operations.
    fn compare_forms<B: Backend>(
        &self,
        evidence: &mut Evidence,
        backend: &B,
        precision: Precision,
        layer: &LayerCall,
        own: &[Part],
    ) -> Result<(), BackendError> {
        let overrides = backend.overrides(layer.layer_op());
        let form = if overrides { "the backend's own form" } else { "composed of operations" };
        evidence.notes.push(format!("{}: {form}", layer.op()));
        if !overrides {
            return Ok(());
        }
        let setup = Setup { grid: precision, prepared: precision, form: Form::Composed, rows: None };
        match self.run(backend, setup) {
            Ok(composed) => self.compare(evidence, Judge::Itself, precision, [&composed.parts, own]),
            // A backend may have the layer alone; the plain loops have judged that.
            Err(error) if error.kind == BackendErrorKind::Unsupported => {
                evidence.notes.push(format!("{}: not compared with the composed form: {error}", layer.op()));
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn run<B: Backend>(&self, backend: &B, setup: Setup<'_>) -> Result<Run, BackendError> {
        let mut inputs = Inputs::new(backend, &self.name, setup.grid, setup.prepared).of_rows(setup.rows);
        let parts = match &self.action {
            Action::Call(call) => call.run(self.kind, &mut inputs),
            Action::Layer(layer) => layer.run(self.kind, setup.form, &mut inputs),
        }?;
        Ok(Run { parts, changed_arguments: inputs.changed() })
    }

    fn compare(
        &self,
        evidence: &mut Evidence,
        judge: Judge,
        precision: Precision,
        [expected, got]: [&[Part]; 2],
    ) {
        let against = if judge == Judge::Itself { " against the composed form" } else { "" };
        for (expected, got) in expected.iter().zip(got) {
            let what = [&self.label(), against, " ", &expected.name].concat();
            // Of a single column each row is one number, and may be the small difference of large terms: its
            // relative error is no measure, so the column is taken as one row.
            let cols = if expected.cols == 1 { expected.values.len() } else { expected.cols };
            let values = [&expected.values[..], &got.values];
            evidence.compare(what.trim_end(), judge, (self.class(), precision), values, cols);
        }
        evidence.require(expected.len() == got.len(), || {
            format!("{}: {} results, expected {}", self.label(), got.len(), expected.len())
        });
    }

    /// Compares some rows of the backend's one result with those the plain loops computed; the others must at least
    /// be finite.
    fn compare_rows(
        &self,
        evidence: &mut Evidence,
        precision: Precision,
        rows: &[usize],
        [expected, got]: [&[Part]; 2],
    ) {
        let label = self.label();
        let ([expected], [got]) = (expected, got) else {
            evidence.failures.push(format!("{label}: {} results, expected one", got.len()));
            return;
        };
        let Some(limits) = tolerance(self.class(), precision) else {
            let class = self.class().name();
            evidence.failures.push(format!("{label}: no limits for {class} in {precision}"));
            return;
        };
        let cols = got.cols;
        let picked: Vec<f32> = rows
            .iter()
            .filter_map(|row| got.values.get(row * cols..(row + 1) * cols))
            .flatten()
            .copied()
            .collect();
        let mut metrics = Metrics::measure(&expected.values, &picked, cols);
        if let Some(worst) = &mut metrics.worst {
            worst.row = rows[worst.row];
        }
        let gates = limits.gates;
        let violations = gates.violations(&metrics);
        let what = format!("{label} in {} rows", rows.len());
        let measurement = Measurement { what, judge: Judge::PlainLoops, metrics, gates, violations };
        evidence.failures.extend(measurement.complaint());
        evidence.measurements.push(measurement);
        if let Some(index) = got.values.iter().position(|value| !value.is_finite()) {
            let (row, col) = (index / cols, index % cols);
            evidence.failures.push(format!("{label}: [{row}, {col}] is {}", got.values[index]));
        }
    }

    /// `linear (odd_sizes, outliers)`
    fn label(&self) -> String {
        let special: Vec<&str> = [self.variant].into_iter().chain(self.kind.name()).collect();
        format!("{} ({})", self.op(), special.join(", "))
    }
}

/// How a case runs.
#[derive(Clone, Copy)]
struct Setup<'a> {
    /// On whose grid the numbers are.
    grid: Precision,
    /// What linear layers are prepared in.
    prepared: Precision,
    form: Form,
    /// Rows of the result to compute; all, where `None`.
    rows: Option<&'a [usize]>,
}

/// What came of it.
struct Run {
    parts: Vec<Part>,
    /// Arguments that are no longer what they were, and where.
    changed_arguments: Vec<String>,
}

/// One of the results of a case, or an argument, on the host.
struct Part {
    /// Which one, where there are several.
    name: String,
    cols: usize,
    values: Vec<f32>,
}

impl Part {
    fn download<B: Backend>(
        backend: &B,
        name: impl Into<String>,
        x: &B::Tensor,
    ) -> Result<Self, BackendError> {
        Ok(Self { name: name.into(), cols: x.cols(), values: backend.download(x)? })
    }
}

/// Where two runs of one case first differ, down to the sign of zero: `part 1 [3, 17]: 0.5, then 0.25`.
fn first_difference(first: &[Part], second: &[Part]) -> Option<String> {
    for (a, b) in first.iter().zip(second) {
        let differs = |(a, b): (&f32, &f32)| a.to_bits() != b.to_bits();
        if let Some(index) = a.values.iter().zip(&b.values).position(differs) {
            let (row, col) = (index / a.cols, index % a.cols);
            let place = format!("{} [{row}, {col}]", a.name);
            return Some(format!(
                "{}: {:e}, then {:e}",
                place.trim_start(),
                a.values[index],
                b.values[index]
            ));
        }
        if a.values.len() != b.values.len() {
            return Some(format!("{}: {} elements, then {}", a.name, a.values.len(), b.values.len()));
        }
    }
    (first.len() != second.len()).then(|| format!("{} results, then {}", first.len(), second.len()))
}
