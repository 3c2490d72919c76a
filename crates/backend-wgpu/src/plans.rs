//! The precisions that `--precision` offers by name.

use smolvla_core::{Precision, PrecisionPlan};

/// Layers that stay f32 where the others are f16, and why. Together they are 1 % of a chunk's arithmetic.
const KEPT: [(&str, &str); 5] = [
    ("vision.patch_embedding", "it reads pixels, and everything after it reads its sums"),
    ("connector", "all that the policy sees goes through its sums of 12,288 products"),
    ("state", LEROBOT),
    ("expert.action_*", LEROBOT),
    ("expert.time_*", LEROBOT),
];

const LEROBOT: &str = "LeRobot stores and runs it in f32";

/// Plans in the place of each precision for all layers alike.
pub(crate) fn all(precisions: &[Precision]) -> Vec<PrecisionPlan> {
    let has_f16 = precisions.contains(&Precision::F16);
    has_f16.then(f16).into_iter().collect()
}

fn f16() -> PrecisionPlan {
    let plan = PrecisionPlan::new(Precision::F16.name(), Precision::F16);
    let plan =
        KEPT.iter().fold(plan, |plan, (layers, reason)| plan.with_rule(*layers, Precision::F32, *reason));
    // Layers that only checkpoints with cross-attention have.
    let cross = ["expert.layers.*.key", "expert.layers.*.value"];
    cross.iter().fold(plan, |plan, layers| plan.with_optional_rule(*layers, Precision::F32, LEROBOT))
}
