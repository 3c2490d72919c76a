//! In what numbers each operation is stored and computed: plans, as data.

use std::sync::LazyLock;

use serde::{Deserialize, Serialize};
use smolvla_core::Precision;
use smolvla_core::backend::BackendErrorKind;
use smolvla_core::precision::matches;

use crate::error::DeviceError;
use crate::tensix::{Dest, Fidelity, Format, Math};

/// A format, fidelity and accumulator width for every operation of the policy.
///
/// Written as TOML, as the files in `plans/` are. Rules for linear layers are by path, with `*` for any run of
/// characters; each says only what it changes, and later ones win.
///
/// ```
/// use smolvla_backend_tt::Plan;
/// use smolvla_backend_tt::tensix::{Fidelity, Format};
///
/// let plan = Plan::named("balanced").expect("one of the built-in plans");
/// let linear = plan.linear("vision.layers.3.fc1");
/// assert_eq!((linear.weights, linear.math.fidelity), (Format::Bfp8, Fidelity::HiFi2));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// What it is called.
    pub name: String,
    /// What it is, in a line.
    pub summary: String,
    /// Rules for linear layers; the first is for all of them and says everything.
    #[serde(default)]
    linear: Vec<LinearRule>,
    /// Attention scores.
    pub scores: Product,
    /// The softmax of attention, and how its weights are stored.
    pub softmax: Kernel,
    /// Products of attention weights and values.
    pub values: Product,
    /// LayerNorm and RMSNorm.
    pub norm: Kernel,
    /// Rotary embeddings, activations by themselves, gates and factors.
    pub elementwise: Kernel,
}

/// A rule of a [`Plan`] for some linear layers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct LinearRule {
    /// Paths, with `*` for any run of characters.
    pub layers: String,
    /// How the weight is stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weights: Option<Format>,
    /// What the input is rounded to where it is stored finer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input: Option<Format>,
    /// Passes of the matrix engine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fidelity: Option<Fidelity>,
    /// Width of its accumulators.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dest: Option<Dest>,
    /// How the result is stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store: Option<Format>,
    /// Why, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// A product without weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Product {
    /// Passes of the matrix engine.
    pub fidelity: Fidelity,
    /// Width of its accumulators.
    pub dest: Dest,
    /// How the result is stored.
    pub store: Format,
}

impl Product {
    /// How it multiplies.
    pub fn math(self) -> Math {
        Math { fidelity: self.fidelity, dest: self.dest }
    }
}

/// An operation that is no product.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Kernel {
    /// Width of the accumulators.
    pub dest: Dest,
    /// Whether the vector unit takes its faster functions (`math_approx_mode`): exponentials up to 4 % off, roots to
    /// 10 bits. Only softmax and norms look at it.
    #[serde(default)]
    pub approximate: bool,
    /// How the result is stored.
    pub store: Format,
}

/// What a [`Plan`] says of one linear layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinearMath {
    /// How the weight is stored.
    pub weights: Format,
    /// What the input is rounded to where it is stored finer.
    pub input: Format,
    /// How it is multiplied.
    pub math: Math,
    /// How the result is stored.
    pub store: Format,
}

/// The built-in plans: name, the precision that asks for it, file.
const BUILT_IN: [(&str, Precision, &str); 4] = [
    ("accurate", Precision::Bf16, include_str!("../plans/accurate.toml")),
    ("balanced", Precision::Bfp8, include_str!("../plans/balanced.toml")),
    ("fast", Precision::Bfp8LoFi, include_str!("../plans/fast.toml")),
    ("float", Precision::F32, include_str!("../plans/float.toml")),
];

impl Plan {
    /// The plan used where nothing is asked for.
    pub const DEFAULT: &str = "balanced";

    /// The names of the built-in plans and the precision that stands for each.
    pub fn built_in() -> impl Iterator<Item = (&'static str, Precision)> {
        BUILT_IN.iter().map(|(name, precision, _)| (*name, *precision))
    }

    /// A built-in plan.
    pub fn named(name: &str) -> Option<Self> {
        /// Read once; a test reads each of them.
        static PLANS: LazyLock<Vec<Plan>> =
            LazyLock::new(|| BUILT_IN.iter().filter_map(|(_, _, text)| Plan::from_toml(text).ok()).collect());
        PLANS.iter().find(|plan| plan.name == name).cloned()
    }

    /// The built-in plan that `precision` stands for.
    pub fn of(precision: Precision) -> Option<Self> {
        BUILT_IN.iter().find(|(_, own, _)| *own == precision).and_then(|(name, _, _)| Self::named(name))
    }

    /// Reads a plan.
    ///
    /// # Errors
    /// Names the line and key at fault: unknown, missing or of a wrong value; and a first rule for linear layers that
    /// is not about all of them or leaves something open.
    pub fn from_toml(text: &str) -> Result<Self, DeviceError> {
        let invalid =
            |message: String| DeviceError::new(BackendErrorKind::InvalidArgument, format!("plan: {message}"));
        let plan: Self = toml::from_str(text).map_err(|error| invalid(error.to_string()))?;
        match plan.linear.first() {
            Some(LinearRule {
                layers,
                weights: Some(_),
                input: Some(_),
                fidelity: Some(_),
                dest: Some(_),
                store: Some(_),
                ..
            }) if layers == "*" => Ok(plan),
            _ => Err(invalid(format!(
                "{}: the first [[linear]] must be for layers = \"*\" and say weights, input, fidelity, dest and store",
                plan.name
            ))),
        }
    }

    /// The rules for linear layers, in order.
    pub fn linear_rules(&self) -> &[LinearRule] {
        &self.linear
    }

    /// Adds a rule for linear layers, which wins over those before it.
    pub fn add_rule(&mut self, rule: LinearRule) {
        self.linear.push(rule);
    }

    /// The same plan with one more rule, as [`Plan::add_rule`] adds it.
    #[must_use]
    pub fn with_rule(mut self, rule: LinearRule) -> Self {
        self.add_rule(rule);
        self
    }

    /// What it says of the linear layer at `path`.
    pub fn linear(&self, path: &str) -> LinearMath {
        let mut merged = LinearRule::default();
        for rule in self.linear.iter().filter(|rule| matches(&rule.layers, path)) {
            merged.weights = rule.weights.or(merged.weights);
            merged.input = rule.input.or(merged.input);
            merged.fidelity = rule.fidelity.or(merged.fidelity);
            merged.dest = rule.dest.or(merged.dest);
            merged.store = rule.store.or(merged.store);
        }
        // The first rule is for all layers and complete; see `from_toml`.
        LinearMath {
            weights: merged.weights.unwrap_or(Format::Bf16),
            input: merged.input.unwrap_or(Format::Bf16),
            math: Math {
                fidelity: merged.fidelity.unwrap_or(Fidelity::HiFi4),
                dest: merged.dest.unwrap_or(Dest::Bits32),
            },
            store: merged.store.unwrap_or(Format::Bf16),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_in_plans_are_read_and_stand_for_their_precisions() {
        for (name, precision) in Plan::built_in() {
            let plan = Plan::named(name).expect(name);
            assert_eq!((plan.name.as_str(), Plan::of(precision).as_ref()), (name, Some(&plan)));
            assert!(!plan.summary.is_empty(), "{name}");
        }
        assert!(Plan::named("abacus").is_none() && Plan::of(Precision::Int8).is_none());
        assert!(Plan::named(Plan::DEFAULT).is_some());
    }

    #[test]
    fn later_rules_change_what_they_say_and_no_more() {
        let plan = Plan::named("balanced").unwrap();
        let usual = plan.linear("text.layers.3.down");
        assert_eq!((usual.weights, usual.input, usual.store), (Format::Bfp8, Format::Bf16, Format::Bf16));
        assert_eq!(usual.math, Math { fidelity: Fidelity::HiFi2, dest: Dest::Bits32 });
        let residual = plan.linear("expert.layers.3.down");
        assert_eq!(residual, LinearMath { store: Format::F32, ..usual });
        let rule =
            LinearRule { layers: "text.*".into(), weights: Some(Format::Bfp4), ..LinearRule::default() };
        let changed = plan.with_rule(rule).linear("text.layers.3.down");
        assert_eq!(changed, LinearMath { weights: Format::Bfp4, ..usual });
    }

    #[test]
    fn malformed_plans_name_what_is_wrong() {
        let good = include_str!("../plans/fast.toml");
        for (from, to, culprit) in [
            (
                "fidelity = \"lofi\"\ndest = \"16\"\nstore = \"bfp8\"\n\n[scores]",
                "[scores]",
                "layers = \"*\"",
            ),
            ("layers = \"*\"", "layers = \"text.*\"", "layers = \"*\""),
            ("weights = \"bfp8\"", "weights = \"bfp9\"", "bfp9"),
            ("[values]", "[valves]", "valves"),
            ("summary", "sumary", "sumary"),
            ("approximate = true", "approximate = 2", "approximate"),
        ] {
            assert!(good.contains(from), "{from}");
            let message = Plan::from_toml(&good.replacen(from, to, 1)).unwrap_err().to_string();
            assert!(message.starts_with("plan: ") && message.contains(culprit), "{message}");
        }
    }
}
