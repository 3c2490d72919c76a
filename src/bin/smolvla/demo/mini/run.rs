//! Episodes, attempted one after the other, with a clock beside the policy.

use std::slice;
use std::time::{Duration, Instant};

use smolvla_tabletop::{
    AttemptError, Condition, Episode, Instruction, LIMIT, Moment, PolicyPredictor, Predictor, attempt,
};

use super::report::short;
use crate::console::{Console, Task, Unit};
use crate::demo::reel::{Reel, distance_cm};
use crate::failure::Failure;

/// A policy and the times of its predictions.
pub(super) struct Timed {
    pub(super) policy: PolicyPredictor,
    /// Wall time of every chunk.
    pub(super) times: Vec<Duration>,
    pub(super) progress: Progress,
}

impl Timed {
    pub(super) fn new(policy: PolicyPredictor, progress: Progress) -> Self {
        Self { policy, times: Vec::new(), progress }
    }

    /// Attempts an episode.
    pub(super) fn run(&mut self, episode: &Episode) -> Result<Reel, Failure> {
        let mut reel = Reel::new(episode, self.n_action_steps());
        self.progress.instruction.clone_from(&episode.instruction);
        attempt(self, slice::from_ref(episode), Condition::Normal, &mut |step| reel.watch(step))
            .map_err(failure)?;
        self.progress.over += 1;
        Ok(reel)
    }
}

impl Predictor for Timed {
    type Error = AttemptError;

    fn noise_len(&self) -> usize {
        self.policy.noise_len()
    }

    fn n_action_steps(&self) -> usize {
        self.policy.n_action_steps()
    }

    fn predict(&mut self, moments: &[Moment<'_>]) -> Result<Vec<Vec<f32>>, AttemptError> {
        let mut chunks = Vec::with_capacity(moments.len());
        for moment in moments {
            self.progress.show(moment, self.times.last());
            let started = Instant::now();
            chunks.extend(self.policy.predict(slice::from_ref(moment))?);
            self.times.push(started.elapsed());
            self.progress.show(moment, self.times.last());
        }
        Ok(chunks)
    }
}

/// Whose fault it is that an attempt went wrong.
pub(super) fn failure(error: AttemptError) -> Failure {
    match error {
        AttemptError::Policy(error) => Failure::from(error),
        other => Failure::internal(other.to_string()),
    }
}

/// How far the episodes are, on a bar.
pub(super) struct Progress {
    pub(super) task: Task,
    total: usize,
    /// Episodes that have ended.
    over: usize,
    /// What is being attempted.
    instruction: Instruction,
}

impl Progress {
    pub(super) fn of(console: Console, episodes: &[Episode]) -> Self {
        let instruction = episodes[0].instruction.clone();
        let task = match episodes.len() {
            1 => console.task(format!("“{instruction}”"), Unit::Periods),
            total => console.task(format!("attempting {total} episodes"), Unit::Episodes),
        };
        Self { task, total: episodes.len(), over: 0, instruction }
    }

    fn show(&self, moment: &Moment<'_>, took: Option<&Duration>) {
        let took = took.map_or_else(String::new, |took| format!(" in {}", short(*took)));
        let left = distance_cm(moment.world, self.instruction.goal).unwrap_or_default();
        match self.total {
            1 => self.task.set(moment.period as u64, LIMIT as u64),
            total => self.task.set(self.over as u64, total as u64),
        }
        self.task.describe(format!(
            "chunk {}{took}, {left:.1} cm to go: “{}”",
            moment.chunk + 1,
            self.instruction
        ));
    }
}
