//! The plans that are compared: those built in, and the recommended one with one thing changed.

use smolvla_backend_tt::tensix::{Dest, Fidelity, Format};
use smolvla_backend_tt::{LinearRule, Plan};

/// A plan under study.
#[derive(Clone, Debug)]
pub struct Variant {
    /// What tables call it.
    pub name: String,
    /// What it is: the plan's own summary, or what is changed.
    pub change: String,
    /// The plan.
    pub plan: Plan,
}

/// Every variant: the three built-in plans, then each change of the recommended one.
pub fn variants() -> Vec<Variant> {
    let built_in = ["accurate", "balanced", "fast"].into_iter().filter_map(Plan::named);
    let mut variants: Vec<Variant> = built_in
        .map(|plan| Variant { name: plan.name.clone(), change: plan.summary.clone(), plan })
        .collect();
    let Some(balanced) = Plan::named(Plan::DEFAULT) else { return variants };
    let mut add = |change: &str, edit: &dyn Fn(&mut Plan)| {
        let mut plan = balanced.clone();
        edit(&mut plan);
        plan.name = format!("{} with {change}", Plan::DEFAULT);
        variants.push(Variant { name: change.to_owned(), change: plan.name.clone(), plan });
    };
    let rule = |layers: &str| LinearRule { layers: layers.to_owned(), ..LinearRule::default() };
    add("weights bf16", &|plan| plan.add_rule(LinearRule { weights: Some(Format::Bf16), ..rule("*") }));
    for (part, layers) in
        [("vision", "vision.layers.*"), ("text", "text.layers.*"), ("expert", "expert.layers.*")]
    {
        add(&format!("{part} weights bfp4"), &|plan| {
            plan.add_rule(LinearRule { weights: Some(Format::Bfp4), ..rule(layers) });
        });
    }
    for (name, fidelity) in [("products LoFi", Fidelity::LoFi), ("products HiFi4", Fidelity::HiFi4)] {
        add(name, &|plan| plan.add_rule(LinearRule { fidelity: Some(fidelity), ..rule("*.layers.*") }));
    }
    add("products 16-bit dest", &|plan| {
        plan.add_rule(LinearRule { dest: Some(Dest::Bits16), ..rule("*.layers.*") });
    });
    add("inputs bfp8", &|plan| plan.add_rule(LinearRule { input: Some(Format::Bfp8), ..rule("*.layers.*") }));
    add("activations bfp8", &|plan| {
        plan.add_rule(LinearRule { store: Some(Format::Bfp8), ..rule("*.layers.*") });
        for kernel in [&mut plan.norm, &mut plan.elementwise, &mut plan.softmax] {
            kernel.store = Format::Bfp8;
        }
        plan.values.store = Format::Bfp8;
    });
    add("expert residual bf16", &|plan| {
        for layers in ["expert.layers.*.output", "expert.layers.*.down", "expert.time_*"] {
            plan.add_rule(LinearRule { store: Some(Format::Bf16), ..rule(layers) });
        }
    });
    add("scores LoFi", &|plan| plan.scores.fidelity = Fidelity::LoFi);
    add("scores HiFi2", &|plan| plan.scores.fidelity = Fidelity::HiFi2);
    add("scores stored bf16", &|plan| plan.scores.store = Format::Bf16);
    add("values LoFi", &|plan| plan.values.fidelity = Fidelity::LoFi);
    add("values HiFi2", &|plan| plan.values.fidelity = Fidelity::HiFi2);
    add("softmax 16-bit dest", &|plan| plan.softmax.dest = Dest::Bits16);
    add("norms 16-bit dest", &|plan| plan.norm.dest = Dest::Bits16);
    add("elementwise 16-bit dest", &|plan| plan.elementwise.dest = Dest::Bits16);
    variants
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_variant_has_a_name_of_its_own_and_differs_from_the_recommended_plan() {
        let all = variants();
        assert!(all.len() > 15);
        let balanced = Plan::named(Plan::DEFAULT).unwrap();
        let same = |plan: &Plan| {
            let mut plan = plan.clone();
            (plan.name, plan.summary) = (balanced.name.clone(), balanced.summary.clone());
            plan
        };
        for (index, variant) in all.iter().enumerate() {
            assert!(all[..index].iter().all(|other| other.name != variant.name), "{}", variant.name);
            assert_eq!(same(&variant.plan) == balanced, variant.name == "balanced", "{}", variant.name);
        }
    }
}
