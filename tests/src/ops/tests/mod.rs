//! Tests of the cases: backends that are wrong in one operation fail that operation's cases and no other's, and
//! backends that only round or add differently fail none.

/// Declares unit structs and what each alters.
macro_rules! alterations {
    ($($(#[$doc:meta])* $name:ident { $($method:item)* })*) => {
        $(
            $(#[$doc])*
            #[derive(Clone)]
            struct $name;

            impl Alteration<Reference> for $name {
                $($method)*
            }
        )*
    };
}

mod attention;
mod norms;
mod other_ways;
mod real_sizes;
mod wrong;

use std::collections::BTreeSet;

use smolvla_core::reference::HostMatrix;
use smolvla_core::synth::Size;

use super::*;
use crate::altered::{Alteration, Altered};

type HostLinear = <Reference as Backend>::Linear;
type HostTable = <Reference as Backend>::Table;
type HostMask = <Reference as Backend>::Mask;
type Outcome<T = HostMatrix> = Result<T, BackendError>;

const LAYERS: [&str; 4] = ["vision_layer", "text_layer", "expert_layer", "denoise_step"];

/// The methods of [`Backend`] that compute or move something.
const OPERATIONS: [&str; 15] = [
    "upload",
    "linear",
    "layer_norm",
    "rms_norm",
    "attention",
    "rope",
    "activate",
    "silu_mul",
    "scale",
    "axpy",
    "embed_rows",
    "concat_tokens",
    "slice_rows",
    "split_cols",
    "pixel_shuffle",
];

#[test]
fn every_operation_has_cases_of_its_own_name() {
    let ops: BTreeSet<&str> = cases(Size::Tiny).iter().map(OpCase::op).collect();
    assert_eq!(ops, OPERATIONS.into_iter().chain(LAYERS).collect());
    let cases = [cases(Size::Tiny), cases(Size::Base)].concat();
    let names: BTreeSet<&str> = cases.iter().map(OpCase::name).collect();
    assert_eq!(names.len(), cases.len(), "names are unique");
    for case in &cases {
        assert!(case.name().starts_with(case.op()), "{}", case.name());
        assert!(case.name().chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'));
    }
}

#[test]
fn the_plain_loops_hold_in_every_precision_they_could_be_given() {
    for precision in Precision::ALL.iter().copied() {
        for case in cases(Size::Tiny) {
            let evidence = case.judge(&Reference, precision);
            assert!(evidence.holds(), "{} in {precision}: {:?}", case.name(), evidence.failures);
            assert!(!evidence.measurements.is_empty(), "{} compares nothing", case.name());
        }
    }
}

#[test]
fn a_precision_not_offered_is_unsupported() {
    let case = &cases(Size::Tiny)[0];
    let evidence = case.check(&Checked::new(Reference), Precision::Bf16);
    assert!(evidence.unsupported.is_some() && evidence.failures.is_empty());
}

/// Names of the operations whose cases fail, without layers.
fn failing(alteration: impl Alteration<Reference>) -> BTreeSet<&'static str> {
    let mut failing = failing_with_layers(alteration);
    failing.retain(|op| !LAYERS.contains(op));
    failing
}

fn failing_with_layers(alteration: impl Alteration<Reference>) -> BTreeSet<&'static str> {
    let backend = Checked::new(Altered::new(Reference, alteration));
    cases(Size::Tiny)
        .iter()
        .filter(|case| !case.check(&backend, Precision::F32).holds())
        .map(OpCase::op)
        .collect()
}

/// What the failing cases of `op` say.
fn complaints(op: &str, alteration: impl Alteration<Reference>) -> String {
    let backend = Checked::new(Altered::new(Reference, alteration));
    let failures = cases(Size::Tiny)
        .into_iter()
        .filter(|case| case.op() == op)
        .flat_map(|case| case.check(&backend, Precision::F32).failures);
    failures.collect::<Vec<_>>().join("\n")
}

fn values(x: &HostMatrix) -> Vec<f32> {
    Reference.download(x).expect("the reference does not fail")
}

fn matrix(values: Vec<f32>, rows: usize, cols: usize) -> Outcome {
    Reference.upload(&values, rows, cols)
}

fn map(x: &HostMatrix, function: impl Fn(f32) -> f32) -> Outcome {
    matrix(values(x).into_iter().map(function).collect(), x.rows(), x.cols())
}

/// A matrix of the shape of `x` from `x`'s values at another place, `[row, col]` each.
fn rearranged(x: &HostMatrix, from: impl Fn(usize, usize) -> [usize; 2]) -> Outcome {
    let (old, cols) = (values(x), x.cols());
    let new = (0..old.len()).map(|index| {
        let [row, col] = from(index / cols, index % cols);
        old[row * cols + col]
    });
    matrix(new.collect(), x.rows(), cols)
}

/// In f32, term after term.
fn sum(values: impl Iterator<Item = f32>) -> f32 {
    values.fold(0.0, |sum, value| sum + value)
}
