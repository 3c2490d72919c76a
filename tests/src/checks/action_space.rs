//! Actions in physical units, joint by joint, over many observations and noises.

use smolvla_core::Precision;
use smolvla_core::graph::Silent;

use super::{Context, predict};
use crate::actions::{Chunks, share_beyond_noise};
use crate::evidence::{Evidence, Judge, Stop};
use crate::fixtures::{ACTION_SPACE, Reference};
use crate::tolerance::Gates;

/// Observations a batch; what a batch holds changes nothing (see the metamorphic checks).
const BATCH: usize = 10;

/// Most chunks that may land further from LeRobot's than another noise would have moved LeRobot itself: none in f32; one
/// in a hundred where weights are rounded.
fn most_beyond_noise(precision: Precision) -> f64 {
    if precision == Precision::F32 { 0.0 } else { 0.01 }
}

/// The first observations of the golden's 50, at most `limit`, under each of its 4 noises.
pub(super) fn joints(context: &Context<'_>, limit: usize) -> Result<Evidence, Stop> {
    let case = context.fixtures.case(ACTION_SPACE)?;
    let golden = context.fixtures.golden(case, Reference::Fp32)?;
    let observations = context.fixtures.observations(case, &golden)?;
    let (noise_shape, noise) = golden.f32("noise")?;
    let (shape, actions) = golden.f32("actions")?;
    let &[noises, all, steps, joints] = shape else {
        return Err(Stop::Fixture(format!("{ACTION_SPACE}: actions have {} axes, expected 4", shape.len())));
    };
    let noise_length: usize = noise_shape.iter().skip(2).product();
    let observations = &observations[..observations.len().min(limit)];

    let mut policy = context.load(case, None)?;
    let (mut expected, mut got) = (Vec::new(), Vec::new());
    for (noise, actions) in noise.chunks(all * noise_length).zip(actions.chunks(all * steps * joints)) {
        expected.extend_from_slice(&actions[..observations.len() * steps * joints]);
        for (observations, noise) in observations.chunks(BATCH).zip(noise.chunks(BATCH * noise_length)) {
            let noise = &noise[..observations.len() * noise_length];
            got.extend(predict(&mut *policy, observations, noise, case.steps(), &mut Silent)?.actions);
        }
    }

    let mut evidence = Evidence::default();
    let expected = Chunks { values: &expected, steps, joints };
    let got = Chunks { values: &got, steps, joints };
    // Shown only: over all joints at once, a correlation sees little but where each joint is.
    evidence.compare_within("actions", Judge::LeRobot, Gates::NONE, [expected.values, got.values], joints);
    evidence.compare_joints(context.precision, expected, got);
    let beyond = share_beyond_noise(expected, got, noises);
    let most = most_beyond_noise(context.precision);
    evidence.require(beyond <= most, || {
        format!(
            "{:.1} % of chunks land further off than the noise's own spread, allowed {:.1} %",
            beyond * 100.0,
            most * 100.0
        )
    });
    evidence.notes.push(format!(
        "{} observations × {noises} noises; {:.1} % of chunks land further from LeRobot's than another noise would",
        observations.len(),
        beyond * 100.0
    ));
    Ok(evidence)
}
