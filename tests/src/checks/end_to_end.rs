//! Whole runs against LeRobot's actions.

use smolvla_core::Precision;
use smolvla_core::graph::{PrefixLayout, Silent};
use smolvla_core::policy::{ActionChunk, ActionUnits};
use smolvla_core::synth::Size;

use super::{Check, Context, PCC_GATE, noise, predict};
use crate::evidence::{Evidence, Judge, Stop, Trace};
use crate::fixtures::{Case, Reference, Stages};
use crate::golden::Golden;
use crate::report::Tier;
use crate::stages::{BoundaryRecorder, stage_pairs};
use crate::tolerance::{Class, Gates, tolerance};

/// Cases whose actions the report draws.
const TRACED: [&str; 5] =
    ["one_camera", "three_cameras", "base_one_camera", "base_two_cameras", "base_three_cameras"];

/// Largest difference between f32 actions and those of LeRobot running the file's own bfloat16, absolute and
/// normalised: what that precision costs LeRobot itself on these cases (0.054 at most, measured). It shows that
/// both references are of the same policy.
const MIXED_ACTION_MAX_ABS: f64 = 0.06;

/// The actions of a case in both layouts of the prefix: with LeRobot's padding, watched only where a denoising step
/// begins and ends, and without padding, unwatched. A backend's own layers and steps run in both.
pub(super) fn golden(context: &Context<'_>, case: &str) -> Result<Evidence, Stop> {
    let case = context.fixtures.case(case)?;
    let golden = context.fixtures.golden(case, Reference::Fp32)?;
    let observations = context.fixtures.observations(case, &golden)?;
    let mut evidence = Evidence::default();

    let mut policy = context.load(case, Some(PrefixLayout::Packed))?;
    let packed = predict(&mut *policy, &observations, noise(&golden)?, case.steps(), &mut Silent)?;
    compare_actions(&mut evidence, context.precision, case, &golden, &packed)?;
    if TRACED.contains(&case.name.as_str()) {
        evidence.traces.push(trace(case, &golden, &packed)?);
    }
    drop(policy);

    // At full size the stage checks run the padded layout already.
    if case.size() == Size::Tiny {
        let mut policy = context.load(case, Some(PrefixLayout::Padded))?;
        let mut boundary = BoundaryRecorder::default();
        let padded = predict(&mut *policy, &observations, noise(&golden)?, case.steps(), &mut boundary)?;
        compare_actions(&mut evidence, context.precision, case, &golden, &padded)?;
        let architecture = context.fixtures.checkpoint(case)?.architecture;
        let pairs = stage_pairs(&golden, boundary.recorder(), &architecture);
        for pair in pairs.into_iter().filter(|pair| pair.stage.ends_with(".velocity")) {
            let tensors = [pair.expected.as_slice(), pair.got.as_slice()];
            evidence.compare(
                pair.stage,
                Judge::LeRobot,
                (Class::StageFree, context.precision),
                tensors,
                pair.cols,
            );
        }
        evidence.require(packed.prefix_tokens <= padded.prefix_tokens, || {
            format!(
                "packing made the prefix longer: {} tokens of {}",
                packed.prefix_tokens, padded.prefix_tokens
            )
        });
    }
    if case.has_mixed() {
        compare_with_mixed(&mut evidence, context, case, &packed)?;
    }
    Ok(evidence)
}

/// The rows of the first port's test: PCC after one, five and all ten Euler steps.
pub(super) fn seed_rows(size: Size) -> Vec<Check> {
    let cases = match size {
        Size::Tiny => ["steps_1", "steps_5", "one_camera"],
        Size::Base => ["base_1_step", "base_5_steps", "base_one_camera"],
    };
    ["pcc_1_step", "pcc_5_steps", "pcc_full_trajectory"]
        .into_iter()
        .zip(cases)
        .map(|(name, case)| {
            Check::new(Tier::EndToEnd, size, name, move |context| {
                correlation(context, context.fixtures.case(case)?)
            })
        })
        .collect()
}

fn correlation(context: &Context<'_>, case: &Case) -> Result<Evidence, Stop> {
    let golden = context.fixtures.golden(case, Reference::Fp32)?;
    let observations = context.fixtures.observations(case, &golden)?;
    let mut policy = context.load(case, None)?;
    let chunk = predict(&mut *policy, &observations, noise(&golden)?, case.steps(), &mut Silent)?;
    let mut evidence = Evidence::default();
    let (shape, expected) = golden.f32("actions")?;
    let cols = shape.last().copied().unwrap_or(0);
    let gates = Gates { pcc: Some(PCC_GATE), ..Gates::NONE };
    evidence.compare_within("actions", Judge::LeRobot, gates, [expected, &chunk.actions], cols);
    evidence.notes.push(format!("{} Euler steps", chunk.steps));
    if case.stages() == Stages::Actions || case.size() == Size::Tiny {
        compare_actions(&mut evidence, context.precision, case, &golden, &chunk)?;
    }
    Ok(evidence)
}

/// Normalised actions by their row of the table; actions in physical units by the same relative limits.
fn compare_actions(
    evidence: &mut Evidence,
    precision: Precision,
    case: &Case,
    golden: &Golden,
    chunk: &ActionChunk,
) -> Result<(), Stop> {
    let class = match case.size() {
        Size::Tiny => Class::Actions,
        Size::Base => Class::ActionsBase,
    };
    for (what, got) in [("actions.normalized", &chunk.normalized), ("actions", &chunk.actions)] {
        let (shape, expected) = golden.f32(what)?;
        let cols = shape.last().copied().unwrap_or(0);
        let tensors = [expected, got.as_slice()];
        match tolerance(class, precision) {
            // Absolute limits are of normalised units.
            Some(row) if what == "actions" => {
                let gates = Gates { max_abs: None, ..row.gates };
                evidence.compare_within(what, Judge::LeRobot, gates, tensors, cols);
            }
            _ => evidence.compare(what, Judge::LeRobot, (class, precision), tensors, cols),
        }
    }
    Ok(())
}

/// Beside LeRobot in bfloat16: a limit for f32, where only LeRobot's own rounding differs; shown for the others.
fn compare_with_mixed(
    evidence: &mut Evidence,
    context: &Context<'_>,
    case: &Case,
    chunk: &ActionChunk,
) -> Result<(), Stop> {
    let mixed = context.fixtures.golden(case, Reference::Mixed)?;
    let (shape, expected) = mixed.f32("actions.normalized")?;
    let max_abs = (context.precision == Precision::F32).then_some(MIXED_ACTION_MAX_ABS);
    let gates = Gates { max_abs, ..Gates::NONE };
    let cols = shape.last().copied().unwrap_or(0);
    evidence.compare_within(
        "actions.normalized",
        Judge::LeRobotMixed,
        gates,
        [expected, &chunk.normalized],
        cols,
    );
    Ok(())
}

/// The first observation's actions.
fn trace(case: &Case, golden: &Golden, chunk: &ActionChunk) -> Result<Trace, Stop> {
    let (_, expected) = golden.f32("actions")?;
    let length = chunk.chunk_size * chunk.action_dim;
    let first = |values: &[f32]| values.iter().take(length).copied().collect();
    Ok(Trace {
        case: case.name.clone(),
        joints: chunk.action_dim,
        unit: match chunk.units {
            ActionUnits::Dataset => "unit of the training data".to_owned(),
            ActionUnits::Normalized => "normalised unit".to_owned(),
        },
        expected: first(expected),
        got: first(&chunk.actions),
    })
}
