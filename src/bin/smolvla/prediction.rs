//! One chunk of actions with everything worth reporting about it; shared by `run` and `demo`.

use std::time::Duration;

use smolvla::backend::Execution;
use smolvla::checkpoint::Checkpoint;
use smolvla::graph::{Observer, Site};
use smolvla::policy::{
    ActionChunk, ActionUnits, ChunkRequest, Noise, Observation, PolicyInfo, PolicyOptions,
};
use smolvla::{Capabilities, Device};

use crate::console::{Console, Task, Unit};
use crate::failure::Failure;
use crate::{cameras, joints};

/// What is to be predicted, and what it is called.
pub(crate) struct Job {
    /// The checkpoint as the user named it.
    pub(crate) checkpoint_name: String,
    /// The device that is to run it.
    pub(crate) device: Device,
    /// How to run it.
    pub(crate) options: PolicyOptions,
    /// What the robot sees and is asked to do.
    pub(crate) observation: Observation,
    /// What denoising starts from.
    pub(crate) noise: Noise,
    /// Euler steps, if not the configuration's.
    pub(crate) steps: Option<usize>,
    /// Names of the joints, if known.
    pub(crate) joints: Option<Vec<String>>,
}

/// A predicted chunk and how it came about.
pub(crate) struct Prediction {
    /// The checkpoint as the user named it.
    pub(crate) checkpoint_name: String,
    /// The instruction.
    pub(crate) task: String,
    /// The cameras as the user named them.
    pub(crate) cameras: Vec<String>,
    /// The seed of the noise, unless it came from a file.
    pub(crate) noise_seed: Option<u64>,
    /// A name for each number of an action.
    pub(crate) joints: Vec<String>,
    /// The policy.
    pub(crate) info: PolicyInfo,
    /// The actions.
    pub(crate) chunk: ActionChunk,
    /// How long preparing the weights on the device took.
    pub(crate) load: Duration,
}

impl Prediction {
    /// What the numbers of the actions are, for people.
    pub(crate) fn units(&self) -> &'static str {
        match self.chunk.units {
            ActionUnits::Dataset => "in the units of the training data",
            ActionUnits::Normalized => "in normalised units",
        }
    }

    /// Everything a user should know: about the policy, then about this observation.
    pub(crate) fn notices(&self) -> impl Iterator<Item = &String> {
        self.info.notices.iter().chain(&self.chunk.notices)
    }

    /// The action at `step`.
    pub(crate) fn action(&self, step: usize) -> &[f32] {
        self.chunk.action(0, step)
    }

    /// Wall time of the prediction, without loading.
    pub(crate) fn total(&self) -> Duration {
        self.chunk.timings.iter().map(|timing| timing.elapsed).sum()
    }
}

/// Loads the policy onto the device and predicts one chunk.
pub(crate) fn predict(console: Console, checkpoint: &Checkpoint, job: Job) -> Result<Prediction, Failure> {
    let capabilities = job.device.capabilities();
    let backend = capabilities.backend;
    announce(console, &capabilities);
    if capabilities.static_shapes {
        console.note(&format!(
            "times below include what {backend} compiles and tunes at first; `smolvla warmup` gives those of later chunks"
        ));
    }
    if backend == "reference" {
        console.note(
            "the reference backend is slow (minutes a chunk at full size); it is for checking the others",
        );
    }

    let absent = cameras::absent(checkpoint, &job.options.cameras, &job.observation)?;
    for camera in &absent {
        console.note(&format!("no image from camera {camera}: the policy runs without it"));
    }

    let task = console.task(format!("preparing weights on {backend}"), Unit::Parts);
    let mut policy = job.device.load(checkpoint, &job.options, &mut |progress| {
        task.set(progress.done as u64, progress.total as u64);
    })?;
    let load = task.finish();
    let info = policy.info().clone();
    info.notices.iter().for_each(|notice| console.note(notice));
    let joints = joints::fit(job.joints.as_deref(), info.action_dim)?;

    let steps = job.steps.unwrap_or(info.num_steps);
    let mut watcher = Watcher::new(console.task("predicting", Unit::Parts), checkpoint, steps);
    let noise_seed = match job.noise {
        Noise::Seed(seed) => Some(seed),
        Noise::Values(_) => None,
    };
    let request = ChunkRequest { noise: Some(job.noise), steps: Some(steps) };
    let observations = [job.observation];
    let chunk = policy.predict_action_chunk(&observations, &request, &mut watcher)?;
    watcher.task.finish();
    // Of cameras that are absent the user knows already.
    let known = |notice: &&String| {
        absent.iter().any(|camera| notice.starts_with(&format!("camera {camera} is absent:")))
    };
    chunk.notices.iter().filter(|notice| !known(notice)).for_each(|notice| console.note(notice));
    for timing in &chunk.timings {
        tracing::debug!(stage = timing.stage, elapsed = ?timing.elapsed, "stage done");
    }

    let [observation] = observations;
    Ok(Prediction {
        checkpoint_name: job.checkpoint_name,
        task: observation.task,
        cameras: observation.images.into_iter().map(|(camera, _)| camera).collect(),
        noise_seed,
        joints,
        info,
        chunk,
        load,
    })
}

/// Says what nobody must take for a device.
pub(crate) fn announce(console: Console, capabilities: &Capabilities) {
    if let Execution::Emulated(by) = &capabilities.execution {
        console.caution(&format!("EMULATED by {by}; timings say nothing about the device"));
    }
}

/// Moves a bar as the graph advances.
struct Watcher {
    task: Task,
    done: u64,
    total: u64,
    steps: usize,
}

impl Watcher {
    fn new(task: Task, checkpoint: &Checkpoint, steps: usize) -> Self {
        let layers = checkpoint.architecture.vision.layers + checkpoint.architecture.text.layers;
        Self { task, done: 0, total: (layers + steps) as u64, steps }
    }
}

impl Observer for Watcher {
    fn reached(&mut self, site: Site) {
        match site {
            Site::VisionLayer(_) | Site::TextLayer(_) | Site::Velocity { .. } => self.done += 1,
            _ => return,
        }
        self.task.set(self.done.min(self.total), self.total);
        self.task.describe(match site {
            Site::Velocity { step } => format!("denoising, step {} of {}", step + 1, self.steps),
            Site::TextLayer(_) => "reading the instruction".to_owned(),
            _ => "looking at the images".to_owned(),
        });
    }
}
