//! Backends and policies with a known defect, to see that the checks find it.
//!
//! A suite that passes proves little until it is seen to fail. Each [`Mutant`] is a defect that a port of SmolVLA could
//! really have, put into the plain-loop reference backend (as an alteration of an operation), into the weights (as
//! a loader would get them wrong), or around the policy (as pre- and post-processing would). [`run`] says which tier
//! of checks finds each, and whether a correlation with LeRobot's actions alone would have.

mod backend;
mod policy;
mod weights;

use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use smolvla_core::Precision;
use smolvla_core::synth::Size;

use crate::checks::{Check, Context, PCC_GATE, checks, joints};
use crate::evidence::{Judge, Stop};
use crate::fixtures::Fixtures;
use crate::report::{Kill, MutantReport, MutantsReport, Tier};
use crate::subject::Subject;

/// A defect.
#[derive(Clone)]
pub struct Mutant {
    /// Its name.
    pub name: &'static str,
    /// What is wrong.
    pub defect: &'static str,
    subject: Arc<dyn Subject>,
}

impl Mutant {
    fn new(name: &'static str, defect: &'static str, subject: impl Subject + 'static) -> Self {
        Self { name, defect, subject: Arc::new(subject) }
    }

    /// The defective backend.
    pub fn subject(&self) -> &dyn Subject {
        &*self.subject
    }
}

/// Every mutant.
pub fn all() -> Vec<Mutant> {
    let mut mutants = backend::mutants();
    mutants.extend(weights::mutants());
    mutants.extend(policy::mutants());
    mutants
}

/// Cases whose stages and actions mutants are put before: enough to have padding, an absent camera, a batch, each
/// number of steps and both kinds of expert layers.
const CASES: [&str; 6] =
    ["one_camera", "batch_two_prompts", "empty_cameras", "max_length_padding", "steps_1", "steps_5"];

/// Observations whose actions mutants are judged by in physical units: a tenth of what backends face.
const OBSERVATIONS: usize = 5;

/// The checks that mutants face.
///
/// # Errors
/// [`Stop::Fixture`] when a case is not there.
pub fn faced(fixtures: &Fixtures) -> Result<Vec<Check>, Stop> {
    let mut faced = checks(fixtures, Size::Tiny)?;
    faced.retain(|check| {
        !matches!(check.tier, Tier::Stage | Tier::EndToEnd)
            || check.name.starts_with("pcc_")
            || CASES.iter().any(|case| {
                check.name == *case
                    || check.name.strip_prefix("free_").or(check.name.strip_prefix("forced_")) == Some(case)
            })
    });
    faced.retain(|check| check.tier != Tier::ActionSpace);
    faced.push(joints("joints", OBSERVATIONS));
    faced.sort_by_key(|check| check.tier);
    Ok(faced)
}

/// Puts every mutant before the checks, several at once. `progress` hears the name of each before it runs.
///
/// # Errors
/// [`Stop::Fixture`] when a case is not there.
pub fn run(fixtures: &Fixtures, progress: &(dyn Fn(&str) + Sync)) -> Result<MutantsReport, Stop> {
    let faced = faced(fixtures)?;
    let mutants = all();
    let next = AtomicUsize::new(0);
    let reports = Mutex::new(Vec::with_capacity(mutants.len()));
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, NonZero::get) {
            scope.spawn(|| {
                while let Some((index, mutant)) = take(&mutants, &next) {
                    progress(mutant.name);
                    let report = examine(mutant, &faced, fixtures);
                    reports.lock().unwrap_or_else(PoisonError::into_inner).push((index, report));
                }
            });
        }
    });
    let mut reports = reports.into_inner().unwrap_or_else(PoisonError::into_inner);
    reports.sort_by_key(|(index, _)| *index);
    let mutants = reports.into_iter().map(|(_, report)| report).collect();
    Ok(MutantsReport { backend: "reference".to_owned(), pcc_gate: PCC_GATE, mutants })
}

fn take<'a>(mutants: &'a [Mutant], next: &AtomicUsize) -> Option<(usize, &'a Mutant)> {
    let index = next.fetch_add(1, Ordering::Relaxed);
    Some((index, mutants.get(index)?))
}

/// Which tiers find a mutant. A tier stops at the first check that fails, except where whole runs are compared with
/// LeRobot's: those all run, for the lowest correlation of their actions. A gate of [`PCC_GATE`] on every one of them is
/// what the other checks are set beside.
pub fn examine(mutant: &Mutant, faced: &[Check], fixtures: &Fixtures) -> MutantReport {
    let context = Context { subject: mutant.subject(), precision: Precision::F32, fixtures };
    let mut killed_by: Vec<Kill> = Vec::new();
    let mut pcc = f64::INFINITY;
    for check in faced {
        let compares_actions = matches!(check.tier, Tier::EndToEnd | Tier::ActionSpace);
        let tier_found_it = killed_by.iter().any(|kill| kill.tier == check.tier);
        if tier_found_it && !compares_actions {
            continue;
        }
        let evidence = check.run(&context);
        if compares_actions {
            let actions =
                evidence.measurements.iter().filter(|m| m.judge == Judge::LeRobot && m.what == "actions");
            // No actions at all correlate with nothing.
            pcc = pcc.min(actions.map(|m| m.metrics.pcc).reduce(f64::min).unwrap_or(0.0));
        }
        if let (false, Some(message)) = (tier_found_it, evidence.failures.first()) {
            killed_by.push(Kill { tier: check.tier, check: check.name.clone(), message: message.clone() });
        }
    }
    MutantReport {
        name: mutant.name.to_owned(),
        defect: mutant.defect.to_owned(),
        killed_by,
        pcc,
        missed_by_pcc: pcc >= PCC_GATE,
    }
}
