//! Single operations and whole layers against the plain loops.
//!
//! [`cases`] lists every operation of [`Backend`] with the sizes and the kinds of numbers that have been known to
//! break kernels: one row, one more than a tile, one column, thousands of terms; outliers, subnormals, zeros of
//! either sign. Each case runs on the backend twice, which must give the same bits, and on
//! [`Reference`], whose sums are in f64, and is held to the limits of [`crate::tolerance`].

mod calls;
mod cases;
mod inputs;
mod layers;
#[cfg(test)]
mod tests;

use smolvla_core::Checked;
use smolvla_core::backend::{Backend, BackendError, Matrix, Precision};
use smolvla_core::reference::Reference;

use self::calls::Call;
use self::inputs::{Inputs, Kind};
use self::layers::{Form, LayerCall};
use crate::evidence::{Evidence, Judge, Stop};
use crate::tolerance::Class;

pub use self::cases::cases;

/// One operation or layer with fixed arguments.
#[derive(Clone, Debug)]
pub struct OpCase {
    name: String,
    variant: &'static str,
    kind: Kind,
    action: Action,
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
        Self { name: words.join("_"), variant, kind, action }
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
    /// compute in f32 throughout, get exactly what the backend gets. A layer of which the backend has a form of
    /// its own is compared with the one composed of the backend's operations too.
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
            let mut stopped = Evidence::from(Stop::from(error));
            for failure in &mut stopped.failures {
                *failure = format!("{}: {failure}", self.label());
            }
            evidence.failures.extend(stopped.failures);
            evidence.unsupported = stopped.unsupported;
        }
        evidence
    }

    fn measure<B: Backend>(
        &self,
        backend: &B,
        precision: Precision,
        evidence: &mut Evidence,
    ) -> Result<(), BackendError> {
        let held_to = (self.class(), precision);
        let got = self.run(backend, precision, precision, Form::Own)?;
        let again = self.run(backend, precision, precision, Form::Own)?;
        if let Some(difference) = first_difference(&got, &again) {
            evidence.failures.push(format!("{}: two runs differ at {difference}", self.label()));
        }
        let expected = self.run(&Checked::new(Reference), precision, Precision::F32, Form::Composed)?;
        self.compare(evidence, Judge::PlainLoops, held_to, [&expected, &got]);

        let Action::Layer(layer) = &self.action else { return Ok(()) };
        let overrides = backend.overrides(layer.layer_op());
        let form = if overrides { "the backend's own form" } else { "composed of operations" };
        evidence.notes.push(format!("{}: {form}", layer.op()));
        if overrides {
            let composed = self.run(backend, precision, precision, Form::Composed)?;
            self.compare(evidence, Judge::Itself, held_to, [&composed, &got]);
        }
        Ok(())
    }

    fn run<B: Backend>(
        &self,
        backend: &B,
        grid: Precision,
        prepared: Precision,
        form: Form,
    ) -> Result<Vec<Part>, BackendError> {
        let mut inputs = Inputs::new(backend, &self.name, grid, prepared);
        match &self.action {
            Action::Call(call) => call.run(self.kind, &mut inputs),
            Action::Layer(layer) => layer.run(self.kind, form, &mut inputs),
        }
    }

    fn compare(
        &self,
        evidence: &mut Evidence,
        judge: Judge,
        held_to: (Class, Precision),
        [expected, got]: [&[Part]; 2],
    ) {
        let against = if judge == Judge::Itself { " against the composed form" } else { "" };
        for (expected, got) in expected.iter().zip(got) {
            let what = [&self.label(), against, " ", &expected.name].concat();
            // Of a single column each row is one number, and may be the small difference of large terms: its
            // relative error is no measure, so the column is taken as one row.
            let cols = if expected.cols == 1 { expected.values.len() } else { expected.cols };
            evidence.compare(what.trim_end(), judge, held_to, [&expected.values, &got.values], cols);
        }
        evidence.require(expected.len() == got.len(), || {
            format!("{}: {} results, expected {}", self.label(), got.len(), expected.len())
        });
    }

    /// `linear (odd_sizes, outliers)`
    fn label(&self) -> String {
        let special: Vec<&str> = [self.variant].into_iter().chain(self.kind.name()).collect();
        format!("{} ({})", self.op(), special.join(", "))
    }
}

/// One of the results of a case, on the host.
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
