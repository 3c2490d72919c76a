//! The precisions that `--precision` offers by name.

use smolvla_core::{Precision, PrecisionPlan};

/// Layers with 16 bits in every plan, and why. Second digits of weights and activations take four times as long, and all
/// of them together are a tenth of a chunk's arithmetic.
const WIDE: [(&str, &str); 6] = [
    ("vision.patch_embedding", "pixels have more levels than a digit"),
    ("connector", "all that the policy sees goes through its sums of 12,288 products"),
    ("text.*", "of all parts it loses most in 8 bits"),
    ("state", "a row of few numbers of very different sizes, and every action depends on it"),
    ("expert.action_*", OFTEN),
    ("expert.time_*", OFTEN),
];

/// The same of layers that only checkpoints with cross-attention have.
const WIDE_OF_CROSS_ATTENTION: [&str; 2] = ["expert.layers.*.key", "expert.layers.*.value"];

const OFTEN: &str = "its error is in every step's actions, and it is small";

/// Plans beside each precision for all layers alike; those of a precision's name take its place. The first is what runs
/// where none is named.
pub(crate) fn all() -> Vec<PrecisionPlan> {
    vec![
        wide(PrecisionPlan::new("int8", Precision::Int8)),
        wide(PrecisionPlan::new("int8w", Precision::Int16).with_rule(
            "expert.layers.*",
            Precision::Int8Weights,
            "its weights are read in every step; the vision tower's cost most where they have 8 bits",
        )),
        wide(PrecisionPlan::new("int8full", Precision::Int8Full)),
        wide(PrecisionPlan::new(PrecisionPlan::AUTO, Precision::Int8)),
    ]
}

fn wide(plan: PrecisionPlan) -> PrecisionPlan {
    let plan =
        WIDE.iter().fold(plan, |plan, (layers, reason)| plan.with_rule(*layers, Precision::Int16, *reason));
    let reason = "every step attends to them";
    WIDE_OF_CROSS_ATTENTION
        .iter()
        .fold(plan, |plan, layers| plan.with_optional_rule(*layers, Precision::Int16, reason))
}
