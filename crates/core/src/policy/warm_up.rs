//! Running a policy before a robot needs it.

use std::time::{Duration, Instant};

use super::{ChunkRequest, Noise, Observation, Policy};
use crate::error::{Error, Result};
use crate::graph::{Observer, Silent};
use crate::processor::Image;

/// What a policy is to be made ready for.
///
/// A device may compile and tune its kernels when it first meets a size ([`crate::Capabilities::static_shapes`]); the
/// first chunk of a process can then take a hundred times as long as the next. Predicting chunks of black pictures with
/// the sizes to come takes that time before the robot moves. The pictures are [`super::PolicyInfo::image_side`] wide; where the
/// configuration resizes none, images of another size are still new to the device.
///
/// ```
/// # fn example(policy: &mut dyn smolvla_core::policy::Policy) -> smolvla_core::Result<()> {
/// use smolvla_core::policy::WarmUp;
///
/// let times = WarmUp::new(2).run(policy)?;
/// println!("first chunk {:?}, from now on {:?}", times.first, times.steady);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct WarmUp {
    /// Cameras that observations will have images of: the policy's first so many.
    pub cameras: usize,
    /// Observations that will be predicted at once.
    pub batch: usize,
    /// An instruction. Its length matters only to policies that do not pad instructions to a fixed length.
    pub task: String,
    /// Chunks predicted after the first; the last of them is the steady one. At least 1.
    pub repeats: usize,
}

/// What [`WarmUp::run`] measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WarmUpTimes {
    /// The first chunk, with everything the device had to prepare.
    pub first: Duration,
    /// The last chunk.
    pub steady: Duration,
}

impl WarmUp {
    /// For one observation at a time with images of the policy's first `cameras` cameras.
    pub fn new(cameras: usize) -> Self {
        Self { cameras, batch: 1, task: "pick up the red block".to_owned(), repeats: 2 }
    }

    /// Runs the policy on black pictures. Its queue of actions and its sequence of noise are left as they are.
    ///
    /// # Errors
    /// [`Error::Input`] when the policy has fewer cameras, or the batch, the cameras or the repeats are none;
    /// otherwise as [`Policy::predict_action_chunk`].
    pub fn run(&self, policy: &mut dyn Policy) -> Result<WarmUpTimes> {
        self.run_observed(policy, &mut |_| Box::new(Silent))
    }

    /// [`WarmUp::run`], with an observer for each chunk, by its number from 0.
    ///
    /// # Errors
    /// As there.
    pub fn run_observed(
        &self,
        policy: &mut dyn Policy,
        observer: &mut dyn FnMut(usize) -> Box<dyn Observer>,
    ) -> Result<WarmUpTimes> {
        let observations = self.observations(policy)?;
        let mut chunk = |number: usize| -> Result<Duration> {
            let started = Instant::now();
            // The policy's own noise would go on to the next.
            let request = ChunkRequest { noise: Some(Noise::Seed(0)), steps: None };
            policy.predict_action_chunk(&observations, &request, &mut *observer(number))?;
            Ok(started.elapsed())
        };
        let first = chunk(0)?;
        let mut steady = first;
        for number in 1..=self.repeats {
            steady = chunk(number)?;
        }
        Ok(WarmUpTimes { first, steady })
    }

    fn observations(&self, policy: &dyn Policy) -> Result<Vec<Observation>> {
        let info = policy.info();
        for (what, count) in [("cameras", self.cameras), ("batch", self.batch), ("repeats", self.repeats)] {
            if count == 0 {
                return Err(Error::input("warm_up", format!("{what} is 0; expected at least 1")));
            }
        }
        if self.cameras > info.cameras.len() {
            return Err(Error::input(
                "warm_up",
                format!(
                    "{} cameras; the policy has {}: {}",
                    self.cameras,
                    info.cameras.len(),
                    info.cameras.join(", ")
                ),
            ));
        }
        let side = info.image_side;
        let black = Image::from_rgb8("black", side, side, vec![0; 3 * side * side])?;
        let images = info.cameras[..self.cameras].iter().map(|camera| (camera.clone(), black.clone()));
        let observation = Observation {
            images: images.collect(),
            state: vec![0.0; info.state_dim],
            task: self.task.clone(),
        };
        Ok(vec![observation; self.batch])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::{Checkpoint, LoadOptions};
    use crate::policy::{PolicyOptions, SmolVla};
    use crate::reference::Reference;
    use crate::synth::{self, SynthOptions};

    fn policy() -> (tempfile::TempDir, SmolVla<Reference>) {
        let folder = tempfile::tempdir().unwrap();
        let checkpoint = folder.path().join("policy");
        synth::write(&SynthOptions::default(), &checkpoint, &mut |_, _| ()).unwrap();
        let checkpoint = Checkpoint::open(&checkpoint, &LoadOptions::default()).unwrap();
        let policy = SmolVla::open(Reference, &checkpoint, &PolicyOptions::default(), &mut |_| ()).unwrap();
        (folder, policy)
    }

    #[test]
    fn a_warm_policy_predicts_what_a_cold_one_does() {
        let (_folder, mut policy) = policy();
        let (_other, mut cold) = self::policy();
        let times = WarmUp::new(1).run(&mut policy).unwrap();
        assert!(times.first > Duration::ZERO && times.steady > Duration::ZERO);
        let observations = WarmUp::new(2).observations(&policy).unwrap();
        let [warm, cold] =
            [&mut policy, &mut cold].map(|policy| policy.predict(&observations).unwrap().actions);
        assert_eq!(warm, cold);
    }

    #[test]
    fn what_the_policy_does_not_have_is_refused() {
        let (_folder, mut policy) = policy();
        let cameras = policy.info().cameras.len();
        let refused = |change: &dyn Fn(&mut WarmUp), policy: &mut SmolVla<Reference>| {
            let mut warm_up = WarmUp::new(1);
            change(&mut warm_up);
            warm_up.run(policy).unwrap_err().to_string()
        };
        let many = refused(&|w| w.cameras = cameras + 1, &mut policy);
        assert!(many.contains(&format!("the policy has {cameras}: ")), "{many}");
        assert!(refused(&|w| w.cameras = 0, &mut policy).contains("cameras is 0"));
        assert!(refused(&|w| w.batch = 0, &mut policy).contains("batch is 0"));
        assert!(refused(&|w| w.repeats = 0, &mut policy).contains("repeats is 0"));
    }
}
