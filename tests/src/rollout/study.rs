//! Episodes of a policy, turned into a row of the report.

use std::fmt::Display;
use std::path::Path;
use std::time::Instant;

use smolvla_tabletop::{Attempt, Episode, Goal, PolicyPredictor, Predictor, Split, attempt};

use super::checkpoint::checkpoint_sha256;
use super::contestant::{Contestant, Place};
use super::progress::Progress;
use super::shadow::{self, KeptPrediction};
use super::statistics::{control_met, mcnemar, rate};
use crate::report::{BehaviourRow, Condition, OtherCheckpoint, Pairs, Rate};

/// The episodes of a run.
pub fn episodes(first_seed: u64, count: usize) -> Vec<Episode> {
    (first_seed..).take(count).map(|seed| Episode::new(Split::Evaluation, seed)).collect()
}

/// Periods until the goal was reached; `None` where time ran out.
pub fn finished(attempt: &Attempt) -> Option<usize> {
    attempt.outcome.is_success().then_some(attempt.periods)
}

/// All episodes, with a bar that calls them `what`.
///
/// # Errors
/// As the predictor.
pub fn attempts<P: Predictor>(
    predictor: &mut P,
    episodes: &[Episode],
    condition: Condition,
    what: &str,
) -> Result<Vec<Attempt>, String>
where
    P::Error: Display,
{
    let mut progress = Progress::new(format!("{what} ({})", condition.name()), episodes.len());
    attempt(predictor, episodes, condition.into(), &mut |step| progress.step(step))
        .map_err(|error| format!("{what}: {error}"))
}

impl From<Condition> for smolvla_tabletop::Condition {
    fn from(condition: Condition) -> Self {
        match condition {
            Condition::Normal => Self::Normal,
            Condition::Swapped => Self::Swapped,
            Condition::Frozen => Self::Frozen,
        }
    }
}

/// What contestants are compared with: episodes, and LeRobot's results on them.
#[derive(Clone, Copy, Debug)]
pub struct Baseline<'a> {
    /// The checkpoint of contestants that bring none.
    pub checkpoint: &'a Path,
    /// The episodes.
    pub episodes: &'a [Episode],
    /// How LeRobot ended them.
    pub periods: &'a [Option<usize>],
    /// LeRobot's predictions on which actions are compared.
    pub kept: &'a [KeptPrediction],
    /// How many actions of a chunk LeRobot carried out.
    pub n_action_steps: usize,
    /// Numbers of noise that a chunk of LeRobot's started from.
    pub noise_len: usize,
}

/// Runs one contestant: normally, then, if asked for, with its controls. `batch` observations go into a prediction.
///
/// Where the policy cannot be loaded or run, the last row says why, and the conditions after it are left out.
pub fn study(
    contestant: Contestant,
    controls: bool,
    baseline: &Baseline<'_>,
    batch: usize,
) -> Vec<BehaviourRow> {
    let label = contestant.label.clone();
    let place = contestant.place();
    let batch = contestant.batch(batch);
    let mut checkpoint = contestant.checkpoint.as_ref().map(|folder| OtherCheckpoint {
        folder: folder.display().to_string(),
        // What cannot be read fails to load below, with a reason.
        sha256: checkpoint_sha256(folder).unwrap_or_default(),
        integers: None,
    });
    let conditions: &[Condition] = match controls {
        true => &[Condition::Normal, Condition::Swapped, Condition::Frozen],
        false => &[Condition::Normal],
    };
    let mut started = Instant::now();
    let mut policy = contestant.load(baseline.checkpoint, batch).and_then(|loaded| {
        if let Some(checkpoint) = &mut checkpoint {
            checkpoint.integers.clone_from(&loaded.integers);
        }
        comparable(&loaded.policy, baseline).map_err(|reason| format!("{label}: {reason}"))?;
        Ok(loaded.policy)
    });
    let mut rows: Vec<BehaviourRow> = Vec::new();
    for &condition in conditions {
        let tried = match &mut policy {
            Ok(policy) => try_condition(policy, condition, baseline, &label, &place),
            Err(reason) => Err(reason.clone()),
        };
        let failed = tried.is_err();
        let mut row = tried.unwrap_or_else(|reason| BehaviourRow {
            failed: Some(reason),
            ..row(&label, condition, &place, &[], Vec::new())
        });
        row.checkpoint.clone_from(&checkpoint);
        row.batch = batch;
        if !failed && let Some(normal) = rows.first() {
            row.control_met = control_met(condition, &normal.overall, &row.overall);
        }
        row.wall_s = Some(started.elapsed().as_secs_f64());
        started = Instant::now();
        rows.push(row);
        if failed {
            break;
        }
    }
    rows
}

/// Episodes are pairs only if every chunk starts at the same moment and from the same noise as LeRobot's.
fn comparable(policy: &PolicyPredictor, baseline: &Baseline<'_>) -> Result<(), String> {
    let own = (policy.n_action_steps(), policy.noise_len());
    let expected = (baseline.n_action_steps, baseline.noise_len);
    match own == expected {
        true => Ok(()),
        false => Err(format!(
            "carries out {} actions of a chunk and starts it from {} numbers of noise, LeRobot {} and {}: its episodes \
             would not be from the same noise; compare it with LeRobot running its own checkpoint (--checkpoint)",
            own.0, own.1, expected.0, expected.1
        )),
    }
}

fn try_condition(
    policy: &mut PolicyPredictor,
    condition: Condition,
    baseline: &Baseline<'_>,
    label: &str,
    place: &Place,
) -> Result<BehaviourRow, String> {
    let attempts = attempts(policy, baseline.episodes, condition, label)?;
    let periods = attempts.iter().map(finished).collect();
    let mut row = row(label, condition, place, baseline.episodes, periods);
    if condition == Condition::Normal {
        row.pairs = Some(pairs(baseline.episodes, baseline.periods, &row.periods));
        // The episodes stand without it.
        row.actions = shadow::compare(policy, baseline.kept).unwrap_or_else(|error| {
            row.notices.push(format!("ACTIONS NOT COMPARED: {error}"));
            None
        });
        // Once a contestant: its controls see the same cameras and instructions of the same length.
        row.notices.extend_from_slice(&policy.policy().info().notices);
        row.notices.extend_from_slice(policy.notices());
    }
    Ok(row)
}

/// A row without comparisons.
pub fn row(
    label: &str,
    condition: Condition,
    place: &Place,
    episodes: &[Episode],
    periods: Vec<Option<usize>>,
) -> BehaviourRow {
    let rate_of = |wanted: &dyn Fn(Goal) -> bool| -> Rate {
        let ended: Vec<bool> = episodes
            .iter()
            .zip(&periods)
            .filter(|(episode, _)| wanted(episode.instruction.goal))
            .map(|(_, periods)| periods.is_some())
            .collect();
        rate(ended.iter().filter(|success| **success).count(), ended.len())
    };
    BehaviourRow {
        label: label.to_owned(),
        condition,
        device: place.device.clone(),
        emulated: place.emulated.clone(),
        precision: place.precision.clone(),
        checkpoint: None,
        batch: 1,
        overall: rate_of(&|_| true),
        reach: rate_of(&|goal| matches!(goal, Goal::Reach(_))),
        push: rate_of(&|goal| matches!(goal, Goal::Push(..))),
        periods,
        pairs: None,
        actions: None,
        control_met: None,
        notices: Vec::new(),
        failed: None,
        wall_s: None,
    }
}

/// The same episodes beside LeRobot's.
pub fn pairs(episodes: &[Episode], lerobot: &[Option<usize>], own: &[Option<usize>]) -> Pairs {
    let seeds = |wanted: &dyn Fn(&Option<usize>, &Option<usize>) -> bool| -> Vec<u64> {
        let pairs = lerobot.iter().zip(own).zip(episodes);
        pairs.filter(|((lerobot, own), _)| wanted(lerobot, own)).map(|(_, episode)| episode.seed).collect()
    };
    let lost = seeds(&|lerobot, own| lerobot.is_some() && own.is_none());
    let won = seeds(&|lerobot, own| lerobot.is_none() && own.is_some());
    let identical = lerobot.iter().zip(own).filter(|(lerobot, own)| lerobot == own).count();
    let p = mcnemar(lost.len(), won.len());
    // Alone until there are more rows.
    Pairs { lost, won, identical, p, p_holm: p }
}
