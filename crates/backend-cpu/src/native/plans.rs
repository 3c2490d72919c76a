//! The precisions that `--precision` offers by name.

use smolvla_core::{Precision, PrecisionPlan};

use super::isa::Isa;

/// Layers that stay f32 in every plan, and why. Together they are 1 % of a chunk's arithmetic.
const KEPT: [(&str, &str); 5] = [
    ("vision.patch_embedding", "pixels have as many bits as bf16: rounding them loses the last one"),
    ("connector", "all that the policy sees goes through its sums of 12,288 products"),
    ("state", LEROBOT),
    ("expert.action_*", LEROBOT),
    ("expert.time_*", LEROBOT),
];

/// The same of layers that only checkpoints with cross-attention have.
const KEPT_OF_CROSS_ATTENTION: [&str; 2] = ["expert.layers.*.key", "expert.layers.*.value"];

const LEROBOT: &str = "LeRobot stores and runs it in f32";

/// Plans beside each precision for all layers alike; those of a precision's name take its place.
///
/// `auto` is what `isa` does fastest within the limits that the conformance suite has for bf16.
pub(crate) fn all(isa: Isa) -> Vec<PrecisionPlan> {
    let bf16 = |name: &str| kept(PrecisionPlan::new(name, Precision::Bf16));
    let int8 = kept(PrecisionPlan::new("int8", Precision::Int8).with_rule(
        "text.*",
        Precision::Bf16,
        "of all parts it loses most in 8 bits, and it is a fifteenth of the arithmetic",
    ));
    let expert = PrecisionPlan::new("int8w", Precision::Bf16).with_rule(
        "expert.layers.*",
        Precision::Int8Weights,
        "its weights are read in every step, which takes longer than multiplying them",
    );
    let auto = if has_bf16_products(isa) {
        bf16(PrecisionPlan::AUTO)
    } else {
        let reason = format!("{isa} instructions multiply bf16 no faster than f32");
        PrecisionPlan::new(PrecisionPlan::AUTO, Precision::F32).with_rule("*", Precision::F32, reason)
    };
    vec![bf16("bf16"), int8, kept(expert), auto]
}

fn has_bf16_products(isa: Isa) -> bool {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Bf16 | Isa::Amx => true,
        _ => false,
    }
}

fn kept(plan: PrecisionPlan) -> PrecisionPlan {
    let plan =
        KEPT.iter().fold(plan, |plan, (layers, reason)| plan.with_rule(*layers, Precision::F32, *reason));
    let optional = KEPT_OF_CROSS_ATTENTION.iter();
    optional.fold(plan, |plan, layers| plan.with_optional_rule(*layers, Precision::F32, LEROBOT))
}
