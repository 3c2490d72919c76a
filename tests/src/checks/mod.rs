//! What the suite asks of a backend, tier by tier.

mod action_space;
mod end_to_end;
mod metamorphic;
mod stage;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use smolvla_core::graph::{Observer, PrefixLayout};
use smolvla_core::policy::{ActionChunk, ChunkRequest, Noise, Observation, Policy, PolicyOptions};
use smolvla_core::synth::Size;
use smolvla_core::{Precision, PrecisionPlan};

use crate::evidence::{Evidence, Stop};
use crate::fixtures::{Case, Fixtures, Stages};
use crate::golden::Golden;
use crate::ops;
use crate::report::Tier;
use crate::subject::Subject;

/// The gate that the first ports of SmolVLA had, and nothing else. Rows of that name are held to it beside the
/// limits of [`crate::tolerance`].
pub const PCC_GATE: f64 = 0.99;

/// One named question about a backend in one precision.
#[derive(Clone)]
pub struct Check {
    /// What kind of question.
    pub tier: Tier,
    /// The name, unique within the tier.
    pub name: String,
    /// Size of the checkpoints it takes.
    pub size: Size,
    /// Whether only reports ask it: it costs too much for every `cargo test` and repeats what other checks see.
    pub in_reports_only: bool,
    ask: Arc<Ask>,
}

type Ask = dyn Fn(&Context<'_>) -> Result<Evidence, Stop> + Send + Sync;

impl Check {
    fn new(
        tier: Tier,
        size: Size,
        name: impl Into<String>,
        ask: impl Fn(&Context<'_>) -> Result<Evidence, Stop> + Send + Sync + 'static,
    ) -> Self {
        Self { tier, size, name: name.into(), in_reports_only: false, ask: Arc::new(ask) }
    }

    /// Asks it. A backend that panics fails; the suite goes on.
    pub fn run(&self, context: &Context<'_>) -> Evidence {
        match catch_unwind(AssertUnwindSafe(|| (self.ask)(context))) {
            Ok(answer) => answer.unwrap_or_else(Evidence::from),
            Err(payload) => {
                let text = payload.downcast_ref::<String>().map(String::as_str);
                let text = text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("no message");
                Evidence::failed(format!("the backend panicked: {text}"))
            }
        }
    }
}

impl fmt::Debug for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Check({}::{})", self.tier.name(), self.name)
    }
}

/// What a check runs on.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// The backend.
    pub subject: &'a dyn Subject,
    /// The precision to load in.
    pub precision: Precision,
    /// Cases, goldens and checkpoints.
    pub fixtures: &'a Fixtures,
}

impl Context<'_> {
    /// Loads a case's checkpoint; `None` leaves padding to the backend. What runs is what a user gets who asks for
    /// the precision by name: the backend's own plan of that name, where it has one.
    fn load(&self, case: &Case, layout: Option<PrefixLayout>) -> Result<Box<dyn Policy>, Stop> {
        let precision = PrecisionPlan::resolve(self.precision.name(), &self.subject.capabilities())?;
        let options = PolicyOptions { precision, layout, ..PolicyOptions::default() };
        Ok(self.subject.load(&self.fixtures.checkpoint(case)?, &options)?)
    }
}

/// Every check at one size: of operations too, whose kernels can be right for 50 rows and wrong for 1024.
///
/// # Errors
/// [`Stop::Fixture`] when a case that a check is about is not there.
pub fn checks(fixtures: &Fixtures, size: Size) -> Result<Vec<Check>, Stop> {
    let mut checks = Vec::new();
    checks.extend(ops::cases(size).into_iter().map(|case| {
        Check::new(Tier::Op, size, case.name().to_owned(), move |context| {
            Ok(context.subject.check_op(&case, context.precision))
        })
    }));
    let has_stages = |case: &&Case| case.size() == size && case.stages() != Stages::Actions;
    for case in fixtures.cases().iter().filter(has_stages) {
        let name = case.name.clone();
        checks.push(Check::new(Tier::Stage, size, format!("free_{name}"), move |context| {
            stage::free(context, &name)
        }));
        // A digest's samples cannot be fed to the next stage.
        if case.stages() != Stages::Digest {
            let name = case.name.clone();
            checks.push(Check::new(Tier::Stage, size, format!("forced_{name}"), move |context| {
                stage::forced(context, &name)
            }));
        }
        let name = case.name.clone();
        checks.push(Check::new(Tier::EndToEnd, size, case.name.clone(), move |context| {
            end_to_end::golden(context, &name)
        }));
    }
    let golden_checks = checks.len();
    checks.extend(end_to_end::seed_rows(size));
    if size == Size::Tiny {
        checks.push(joints("joints", usize::MAX));
    }
    checks.extend(metamorphic::checks(size));
    if size == Size::Base {
        checks[golden_checks..].iter_mut().for_each(|check| check.in_reports_only = true);
    }
    checks.sort_by_key(|check| check.tier);
    Ok(checks)
}

/// Actions in physical units over the first `limit` observations of the case for that.
pub(crate) fn joints(name: &str, limit: usize) -> Check {
    Check::new(Tier::ActionSpace, Size::Tiny, name, move |context| action_space::joints(context, limit))
}

/// Predicts one chunk for each observation from given noise.
fn predict(
    policy: &mut dyn Policy,
    observations: &[Observation],
    noise: &[f32],
    steps: Option<usize>,
    observer: &mut dyn Observer,
) -> Result<ActionChunk, Stop> {
    let request = ChunkRequest { noise: Some(Noise::Values(noise.to_vec())), steps };
    Ok(policy.predict_action_chunk(observations, &request, observer)?)
}

/// The noise LeRobot started from.
fn noise(golden: &Golden) -> Result<&[f32], Stop> {
    Ok(golden.f32("noise")?.1)
}
