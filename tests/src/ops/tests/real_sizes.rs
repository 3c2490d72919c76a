//! Backends that are wrong in the sizes of the real model alone.

use smolvla_core::backend::{AttentionShape, Epilogue};
use smolvla_core::graph::KeyValue;

use super::*;

alterations! {
    /// Attention off by a thousandth where there are many queries and keys.
    MistakesManyKeys {
        fn attention(
            &self,
            inner: &Reference,
            q: &HostMatrix,
            segments: &[&KeyValue<HostMatrix>],
            mask: Option<&HostMask>,
            shape: AttentionShape,
        ) -> Outcome {
            let keys: usize = segments.iter().map(|segment| segment.key.rows()).sum();
            let result = inner.attention(q, segments, mask, shape)?;
            let is_many = keys > 113 * shape.batch && q.rows() > 50 * shape.batch;
            if is_many { inner.scale(&result, 1.001) } else { Ok(result) }
        }
    }

    SpoilsLastRow {
        fn linear(&self, inner: &Reference, x: &HostMatrix, w: &HostLinear, e: Epilogue<'_, HostMatrix>) -> Outcome {
            with_row(&inner.linear(x, w, e)?, 49, 1e9)
        }
    }

    /// Of a row that the plain loops do not compute.
    LosesInnerRow {
        fn linear(&self, inner: &Reference, x: &HostMatrix, w: &HostLinear, e: Epilogue<'_, HostMatrix>) -> Outcome {
            with_row(&inner.linear(x, w, e)?, 40, f32::NAN)
        }
    }
}

fn with_row(x: &HostMatrix, row: usize, value: f32) -> Outcome {
    let mut values = values(x);
    values[row * x.cols()..][..x.cols()].fill(value);
    matrix(values, x.rows(), x.cols())
}

fn evidence(case: &str, alteration: impl Alteration<Reference>) -> Evidence {
    let case = cases(Size::Base).into_iter().find(|known| known.name() == case).expect("a known case");
    case.check(&Checked::new(Altered::new(Reference, alteration)), Precision::F32)
}

#[test]
fn the_plain_loops_agree_with_some_of_their_own_rows() {
    // Those that take the plain loops no time, one with a residual and two with masks among them.
    for case in [
        "linear_action_in",
        "linear_expert_down",
        "attention_prefix",
        "attention_expert_self",
        "attention_expert_cross",
    ] {
        let evidence = evidence(case, ());
        assert!(evidence.holds(), "{:?}", evidence.failures);
        assert_eq!(evidence.measurements[0].metrics.different_bits, 0, "{case}");
    }
}

#[test]
fn samples_are_of_every_observation_and_have_both_ends() {
    let case = cases(Size::Base).into_iter().find(|case| case.name() == "attention_vision");
    let rows = case.and_then(|case| case.rows).expect("a sample");
    let (first, second) = rows.split_at(rows.len() / 2);
    assert_eq!(first.iter().map(|row| row + 1024).collect::<Vec<_>>(), second);
    assert_eq!((first[0], first[first.len() - 1]), (0, 1023));
    assert!(first.is_sorted_by(|a, b| a < b) && first.len() > 14, "{first:?}");
}

#[test]
fn attention_that_is_wrong_for_many_keys_fails_in_real_sizes_alone() {
    assert_eq!(failing_with_layers(MistakesManyKeys), [].into());
    assert!(!evidence("attention_prefix", MistakesManyKeys).holds());
}

#[test]
fn rows_are_named_by_their_place_in_the_result() {
    let failures = evidence("linear_action_in", SpoilsLastRow).failures.join("\n");
    assert!(failures.starts_with("linear (action_in) in 7 rows: NMSE "), "{failures}");
    assert!(failures.contains("worst element [49, "), "{failures}");
}

#[test]
fn rows_that_are_not_compared_must_be_finite() {
    let failures = evidence("linear_action_in", LosesInnerRow).failures;
    assert_eq!(failures, ["linear (action_in): [40, 0] is NaN"]);
}
