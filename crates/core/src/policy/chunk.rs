//! A chunk of actions with how it came about.

use super::StageTiming;

/// What the numbers of an action mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActionUnits {
    /// The units of the training data (degrees for the SO-100 arms), by the checkpoint's statistics.
    Dataset,
    /// The network's own, because the user asked for raw actions.
    Normalized,
}

/// Actions predicted for a batch of observations.
#[derive(Clone, Debug)]
pub struct ActionChunk {
    /// Observations in the batch.
    pub batch: usize,
    /// Actions of an observation.
    pub chunk_size: usize,
    /// Width of an action.
    pub action_dim: usize,
    /// The actions, `[batch, chunk_size, action_dim]`, in `units`.
    pub actions: Vec<f32>,
    /// The same before un-normalisation.
    pub normalized: Vec<f32>,
    /// Units of `actions`.
    pub units: ActionUnits,
    /// Euler steps taken.
    pub steps: usize,
    /// Tokens of the prefix as computed.
    pub prefix_tokens: usize,
    /// How long each part took.
    pub timings: Vec<StageTiming>,
    /// What was unusual about this observation: absent cameras, a shortened instruction.
    pub notices: Vec<String>,
}

impl ActionChunk {
    /// One action.
    ///
    /// # Panics
    /// When `observation` or `step` is out of range.
    pub fn action(&self, observation: usize, step: usize) -> &[f32] {
        assert!(observation < self.batch && step < self.chunk_size, "action {observation}, {step}");
        &self.actions[(observation * self.chunk_size + step) * self.action_dim..][..self.action_dim]
    }
}
