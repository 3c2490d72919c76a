//! The policy: observations in, actions in the robot's units out.
//!
//! [`SmolVla`] is generic over its backend; [`Policy`] is the object-safe face that applications hold, with one
//! virtual call an inference.

mod chunk;
mod noise;
mod pipeline;
mod smolvla;
mod warm_up;

use std::time::Duration;

pub use chunk::{ActionChunk, ActionUnits};
pub use noise::Noise;
pub use pipeline::Pipeline;
pub use smolvla::{PolicyOptions, SmolVla};
pub use warm_up::{WarmUp, WarmUpTimes};

use crate::backend::Capabilities;
use crate::error::Result;
use crate::graph::{Observer, Silent};
use crate::precision::PrecisionPlan;
use crate::processor::Image;

/// What the robot sees and is asked to do at one moment.
#[derive(Clone, Debug, Default)]
pub struct Observation {
    /// Images by camera, under the policy's names or names a [`crate::processor::CameraMap`] knows.
    pub images: Vec<(String, Image)>,
    /// Joint positions, in the units of the training data.
    pub state: Vec<f32>,
    /// The instruction.
    pub task: String,
}

/// How one chunk is to be predicted.
#[derive(Clone, Debug, Default)]
pub struct ChunkRequest {
    /// What to start denoising from; `None` takes the next noise of the policy's own sequence.
    pub noise: Option<Noise>,
    /// Euler steps; `None` takes the configuration's.
    pub steps: Option<usize>,
}

/// What a loaded policy is.
#[derive(Clone, Debug)]
pub struct PolicyInfo {
    /// The backend and the device that run it.
    pub capabilities: Capabilities,
    /// The precision of each linear layer; a backend that prepares another one is refused.
    pub precision: PrecisionPlan,
    /// Names of the cameras the policy knows, in its order.
    pub cameras: Vec<String>,
    /// Side of the square that images are brought to, in pixels; where the configuration resizes none, that of the
    /// images the vision tower was made for.
    pub image_side: usize,
    /// Width of the state.
    pub state_dim: usize,
    /// Width of an action.
    pub action_dim: usize,
    /// Actions in a chunk.
    pub chunk_size: usize,
    /// Actions of a chunk that [`Policy::select_action`] hands out before it predicts again.
    pub n_action_steps: usize,
    /// Euler steps of a chunk unless a request says otherwise.
    pub num_steps: usize,
    /// Units of the actions.
    pub units: ActionUnits,
    /// What a user should know about this checkpoint: statistics chosen, tensors ignored, files missing.
    pub notices: Vec<String>,
}

/// A part of a prediction and how long it took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StageTiming {
    /// `preprocess`, `vision`, `prefill`, `denoise` or `postprocess`.
    pub stage: &'static str,
    /// Wall time; the device is synchronised at its end.
    pub elapsed: Duration,
}

/// A policy that can act. Object-safe: `Box<dyn Policy>` hides which backend runs it.
pub trait Policy: Send {
    /// What this policy is.
    fn info(&self) -> &PolicyInfo;

    /// Forgets the queued actions. Call it at the start of every episode.
    fn reset(&mut self);

    /// Predicts a chunk of actions for each observation of the batch. The action queue is not touched.
    ///
    /// # Errors
    /// [`crate::Error::Input`] and [`crate::Error::Image`] name the input at fault;
    /// [`crate::Error::Backend`] carries a device's failure.
    fn predict_action_chunk(
        &mut self,
        observations: &[Observation],
        request: &ChunkRequest,
        observer: &mut dyn Observer,
    ) -> Result<ActionChunk>;

    /// [`Policy::predict_action_chunk`] with the policy's own noise and number of steps, unwatched.
    ///
    /// # Errors
    /// As there.
    fn predict(&mut self, observations: &[Observation]) -> Result<ActionChunk> {
        self.predict_action_chunk(observations, &ChunkRequest::default(), &mut Silent)
    }

    /// The next action for each observation of the batch, in the units of [`PolicyInfo::units`].
    ///
    /// Predicts a chunk when the queue is empty and hands out its first `n_action_steps` actions one call at a
    /// time; the observations of the calls in between are not looked at, as in LeRobot.
    ///
    /// # Errors
    /// As [`Policy::predict_action_chunk`]; [`crate::Error::Input`] when the batch changes size while actions
    /// are queued.
    fn select_action(&mut self, observations: &[Observation]) -> Result<Vec<Vec<f32>>>;
}
