//! What enters the graph, against what LeRobot's processors made of the same observations.
//!
//! Tokens and masks must be equal, pixels and state to rounding. No backend computes here.

use std::process::ExitCode;
use std::sync::Arc;

use libtest_mimic::{Arguments, Failed, Trial};
use smolvla_conformance::Golden;
use smolvla_conformance::fixtures::{Case, Fixtures, Reference as Run, Stages};
use smolvla_conformance::metrics::{max_abs, nmse};
use smolvla_core::graph::PrefixLayout;
use smolvla_core::policy::{PolicyOptions, SmolVla};
use smolvla_core::reference::Reference;
use smolvla_core::synth::Size;

/// Largest difference of a pixel: values in [−1, 1] that torch interpolates in f32.
const PIXEL_MAX_ABS: f64 = 2e-6;

/// Largest NMSE of the normalised state: one subtraction and one division in f32.
const STATE_NMSE: f64 = 1e-12;

fn main() -> ExitCode {
    let fixtures = Arc::new(Fixtures::open().expect("the package's own fixtures"));
    let has_inputs = |case: &&Case| case.size() == Size::Tiny && case.stages() != Stages::Actions;
    let trials = fixtures
        .cases()
        .iter()
        .filter(has_inputs)
        .cloned()
        .map(|case| {
            let fixtures = Arc::clone(&fixtures);
            Trial::test(case.name.clone(), move || compare(&fixtures, &case))
        })
        .collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn compare(fixtures: &Fixtures, case: &Case) -> Result<(), Failed> {
    let golden = fixtures.golden(case, Run::Fp32)?;
    let observations = fixtures.observations(case, &golden)?;
    let options = PolicyOptions::default();
    let policy = SmolVla::open(Reference, &fixtures.checkpoint(case)?, &options, &mut |_| ())?;
    let (input, _) = policy.pipeline().process(&observations, Vec::new(), 1, PrefixLayout::Padded)?;

    let (_, tokens) = golden.i64("processed.tokens")?;
    if !tokens.iter().map(|id| u32::try_from(*id).ok()).eq(input.tokens.iter().map(|id| Some(*id))) {
        return Err(format!("tokens are {:?}, expected {tokens:?}", input.tokens).into());
    }
    let (_, mask) = golden.u8("processed.token_mask")?;
    if !mask.iter().map(|m| *m != 0).eq(input.token_mask.iter().copied()) {
        return Err("the token mask differs".into());
    }
    if !policy.pipeline().config().adapt_to_pi_aloha {
        compare_state(&golden, &input.state)?;
    }
    for (index, camera) in input.cameras.iter().enumerate() {
        // Some goldens leave out what enters and leaves the vision tower.
        let Ok((_, expected)) = golden.f32(&format!("processed.image.{index}")) else { continue };
        let error = max_abs(expected, &camera.images.concat());
        if error > PIXEL_MAX_ABS {
            return Err(format!("image {index} differs by {error:.1e}, allowed {PIXEL_MAX_ABS:.0e}").into());
        }
    }
    Ok(())
}

/// The golden's state is not padded yet.
fn compare_state(golden: &Golden, padded: &[f32]) -> Result<(), Failed> {
    let (shape, expected) = golden.f32("processed.state")?;
    let width = padded.len() / shape[0];
    let state: Vec<f32> = padded.chunks(width).flat_map(|row| &row[..shape[1]]).copied().collect();
    let error = nmse(expected, &state);
    if error <= STATE_NMSE {
        return Ok(());
    }
    Err(format!("state: NMSE {error:.1e}, allowed {STATE_NMSE:.0e}").into())
}
