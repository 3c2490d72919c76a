//! Precisions as the user names them, and what they multiply in.

use smolvla::{Capabilities, Precision, PrecisionPlan};

use crate::Result;
use crate::ceiling::Arithmetic;

/// A precision or a plan, by the name that the command line takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Choice {
    /// As the child is told it: the name of a precision or a plan, or a plan's file.
    pub(crate) argument: String,
    pub(crate) plan: PrecisionPlan,
}

impl Choice {
    /// What an engine is to understand by a name.
    ///
    /// # Errors
    /// The engine's offer, where it has no such plan or precision.
    pub(crate) fn new(argument: &str, capabilities: &Capabilities) -> Result<Self> {
        let plan = PrecisionPlan::resolve(argument, capabilities)
            .map_err(|error| format!("--precision {argument}: {error}"))?;
        Ok(Self { argument: argument.to_owned(), plan })
    }

    /// Everything that an engine offers, plans of the same content once.
    ///
    /// # Errors
    /// None that an engine causes by itself.
    pub(crate) fn all(capabilities: &Capabilities) -> Result<Vec<Self>> {
        let precisions = capabilities.precisions.iter().map(|precision| precision.name());
        let plans = capabilities.plans.iter().filter_map(|plan| plan.name());
        let mut all: Vec<Self> = Vec::new();
        for name in precisions.chain(plans) {
            let choice = Self::new(name, capabilities)?;
            let content = |plan: &PrecisionPlan| (plan.default_precision(), plan.rules().to_vec());
            if !all.iter().any(|other| content(&other.plan) == content(&choice.plan)) {
                all.push(choice);
            }
        }
        Ok(all)
    }

    /// For tables and records.
    pub(crate) fn name(&self) -> &str {
        self.plan.name().unwrap_or(&self.argument)
    }

    /// The precision of a layer that no rule is about, for kernels.
    pub(crate) fn of_kernels(&self) -> Precision {
        Precision::named(&self.argument).unwrap_or(self.plan.default_precision())
    }
}

/// In what numbers a precision multiplies, where this is known here.
pub(crate) fn arithmetic(precision: Precision) -> Option<Arithmetic> {
    match precision {
        Precision::F32 => Some(Arithmetic::F32),
        // 8-bit weights alone are multiplied as bfloat16.
        Precision::Bf16 | Precision::Int8Weights => Some(Arithmetic::Bf16),
        Precision::Int8 => Some(Arithmetic::Int8),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn capabilities() -> Capabilities {
        let mut capabilities = Capabilities::new("cpu", "a device", [Precision::F32, Precision::Bf16]);
        let mixed =
            |name: &str| PrecisionPlan::new(name, Precision::Bf16).with_rule("state", Precision::F32, "");
        // An exception to a precision goes by the precision's own name, and `auto` is often another's content.
        capabilities.plans = vec![mixed("bf16"), mixed("auto")];
        capabilities
    }

    #[test]
    fn everything_offered_is_measured_once() {
        let all = Choice::all(&capabilities()).unwrap();
        let names: Vec<&str> = all.iter().map(Choice::name).collect();
        assert_eq!(names, ["f32", "bf16"]);
        assert_eq!(all[1].plan.precision_for("state"), Precision::F32);
        assert_eq!(all[1].of_kernels(), Precision::Bf16);
    }

    #[test]
    fn what_is_not_offered_is_refused() {
        let message = Choice::new("int8", &capabilities()).unwrap_err();
        assert!(message.starts_with("--precision int8: ") && message.contains("f32"), "{message}");
    }

    #[test]
    fn weights_of_eight_bits_may_be_multiplied_in_sixteen() {
        assert_eq!(arithmetic(Precision::Int8Weights), Some(Arithmetic::Bf16));
        assert_eq!(arithmetic(Precision::Int8), Some(Arithmetic::Int8));
    }
}
