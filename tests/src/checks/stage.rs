//! Stages of the model against LeRobot's.

use smolvla_core::graph::{Observer, PrefixLayout};
use smolvla_core::synth::Size;

use super::{Context, noise, predict};
use crate::evidence::{Evidence, Judge, Stop};
use crate::fixtures::{Case, Reference, Stages};
use crate::golden::Golden;
use crate::stages::{Forcing, Recorder, missing_from_golden, stage_pairs};
use crate::tolerance::Class;

/// Every stage of a run by itself. The first that diverges is named: those after it only inherit.
pub(super) fn free(context: &Context<'_>, case: &str) -> Result<Evidence, Stop> {
    let case = context.fixtures.case(case)?;
    let golden = context.fixtures.golden(case, Reference::Fp32)?;
    let mut recorder = Recorder::default();
    run(context, case, &golden, &mut recorder)?;
    let mut evidence = compare(context, case, &golden, &recorder, free_class(case))?;
    let later = evidence.failures.len().saturating_sub(1);
    evidence.failures.truncate(1);
    if let Some(first) = evidence.failures.first_mut() {
        *first = format!("first diverges at {first}; {later} stages after it are off too");
    }
    Ok(evidence)
}

fn free_class(case: &Case) -> Class {
    match case.size() {
        Size::Tiny => Class::StageFree,
        Size::Base => Class::StageFreeBase,
    }
}

/// Every stage from LeRobot's own inputs of it, so that each is judged by itself.
pub(super) fn forced(context: &Context<'_>, case: &str) -> Result<Evidence, Stop> {
    let case = context.fixtures.case(case)?;
    let golden = context.fixtures.golden(case, Reference::Fp32)?;
    let mut forcing = Forcing::new(&golden);
    run(context, case, &golden, &mut forcing)?;
    let mut evidence = compare(context, case, &golden, forcing.recorder(), Class::StageForced)?;
    if case.stages() == Stages::NoVision {
        evidence
            .notes
            .push("the golden holds no vision tower; the connector's input is the backend's own".to_owned());
    }
    Ok(evidence)
}

fn run(context: &Context<'_>, case: &Case, golden: &Golden, observer: &mut dyn Observer) -> Result<(), Stop> {
    // LeRobot computes padding, so stages have its shapes in this layout only.
    let mut policy = context.load(case, Some(PrefixLayout::Padded))?;
    let observations = context.fixtures.observations(case, golden)?;
    predict(&mut *policy, &observations, noise(golden)?, case.steps(), observer)?;
    Ok(())
}

fn compare(
    context: &Context<'_>,
    case: &Case,
    golden: &Golden,
    recorder: &Recorder,
    class: Class,
) -> Result<Evidence, Stop> {
    let architecture = context.fixtures.checkpoint(case)?.architecture;
    let mut evidence = Evidence::default();
    for pair in stage_pairs(golden, recorder, &architecture) {
        let tensors = [pair.expected.as_slice(), pair.got.as_slice()];
        evidence.compare(pair.stage, Judge::LeRobot, (class, context.precision), tensors, pair.cols);
    }
    let missing = missing_from_golden(golden, recorder, case.stages());
    evidence.require(missing.is_empty(), || format!("the golden lacks {}", missing.join(", ")));
    Ok(evidence)
}
