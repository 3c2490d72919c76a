//! A policy at the task, in closed loop.

use smolvla_core::graph::Silent;
use smolvla_core::policy::{ChunkRequest, Noise, Observation, Policy};
use smolvla_core::processor::Image;

use crate::episode::Episode;
use crate::render::{Camera, SIDE, render};
use crate::world::{ACTION_DIM, ActionError, Judge, Outcome, World};

/// A moment at which a chunk of actions is wanted.
#[derive(Clone, Debug)]
pub struct Moment<'a> {
    /// Which of the episodes attempted.
    pub episode: usize,
    /// Chunks predicted before in it.
    pub chunk: usize,
    /// Periods gone by in it.
    pub period: usize,
    /// What the policy is shown and told.
    pub observation: Observation,
    /// The noise to denoise from.
    pub noise: Vec<f32>,
    /// The table itself, which no policy looks at.
    pub world: &'a World,
}

/// What predicts chunks of actions: one of our policies, or LeRobot.
pub trait Predictor {
    /// What can go wrong.
    type Error: From<ActionError> + From<smolvla_core::Error>;

    /// How many numbers of noise a chunk takes.
    fn noise_len(&self) -> usize;

    /// How many actions of a chunk are carried out before the next is predicted.
    fn n_action_steps(&self) -> usize;

    /// Actions for each moment, `[chunk, ACTION_DIM]`, in the table's units.
    ///
    /// # Errors
    /// As the predictor's kind.
    fn predict(&mut self, moments: &[Moment<'_>]) -> Result<Vec<Vec<f32>>, Self::Error>;
}

/// A [`Policy`] as a [`Predictor`], on whatever backend runs it.
pub struct PolicyPredictor {
    policy: Box<dyn Policy>,
    max_action_dim: usize,
    batch: usize,
    notices: Vec<String>,
}

/// What goes wrong with a [`PolicyPredictor`] at the task.
#[derive(Debug, thiserror::Error)]
pub enum AttemptError {
    /// The policy itself failed.
    #[error(transparent)]
    Policy(#[from] smolvla_core::Error),
    /// What it predicted is no action.
    #[error("the policy predicted what is no action: {0}")]
    Action(#[from] ActionError),
    /// It is a policy for something else.
    #[error("this policy is not one for the tabletop: {0}")]
    NotForThis(String),
}

impl PolicyPredictor {
    /// A policy with the width that its checkpoint pads actions to, and how many observations go into a prediction at
    /// once: results depend on that number by rounding at most, and a backend that compiles for shapes wants 1.
    ///
    /// # Errors
    /// [`AttemptError::NotForThis`] when its cameras, state or actions are not the tabletop's.
    pub fn new(policy: Box<dyn Policy>, max_action_dim: usize, batch: usize) -> Result<Self, AttemptError> {
        let info = policy.info();
        let cameras = Camera::ALL.map(Camera::feature);
        if info.cameras.iter().any(|camera| !cameras.contains(&camera.rsplit('.').next().unwrap_or(camera))) {
            let own = info.cameras.join(", ");
            return Err(AttemptError::NotForThis(format!(
                "its cameras are {own}; the table has top and wrist"
            )));
        }
        if (info.state_dim, info.action_dim) != (crate::STATE_DIM, ACTION_DIM) {
            return Err(AttemptError::NotForThis(format!(
                "its state has {} numbers and its actions {}; the table's have {} and {ACTION_DIM}",
                info.state_dim,
                info.action_dim,
                crate::STATE_DIM
            )));
        }
        Ok(Self { policy, max_action_dim, batch: batch.max(1), notices: Vec::new() })
    }

    /// The policy.
    pub fn policy(&self) -> &dyn Policy {
        &*self.policy
    }

    /// What its predictions had to say so far, each once, beside the notices of its [`smolvla_core::policy::PolicyInfo`].
    pub fn notices(&self) -> &[String] {
        &self.notices
    }
}

impl Predictor for PolicyPredictor {
    type Error = AttemptError;

    fn noise_len(&self) -> usize {
        self.policy.info().chunk_size * self.max_action_dim
    }

    fn n_action_steps(&self) -> usize {
        self.policy.info().n_action_steps
    }

    fn predict(&mut self, moments: &[Moment<'_>]) -> Result<Vec<Vec<f32>>, AttemptError> {
        let mut chunks = Vec::with_capacity(moments.len());
        for group in moments.chunks(self.batch) {
            let observations: Vec<Observation> =
                group.iter().map(|moment| moment.observation.clone()).collect();
            let noise = group.iter().flat_map(|moment| moment.noise.iter().copied()).collect();
            let request = ChunkRequest { noise: Some(Noise::Values(noise)), steps: None };
            let chunk = self.policy.predict_action_chunk(&observations, &request, &mut Silent)?;
            for notice in chunk.notices {
                if !self.notices.contains(&notice) {
                    self.notices.push(notice);
                }
            }
            chunks.extend(chunk.actions.chunks(chunk.chunk_size * chunk.action_dim).map(<[f32]>::to_vec));
        }
        Ok(chunks)
    }
}

/// What the policy is shown and told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// The scene and the instruction as they are.
    Normal,
    /// The instruction of [`Episode::swapped`], while the judge keeps the episode's own: a policy that listens fails.
    Swapped,
    /// The episode's first pictures all the time, the state as it is: a policy that looks does worse.
    Frozen,
}

/// The table after a period of an attempt.
#[derive(Clone, Copy, Debug)]
pub struct Step<'a> {
    /// Which of the episodes attempted.
    pub episode: usize,
    /// Periods gone by, this one included.
    pub period: usize,
    /// The table.
    pub world: &'a World,
    /// The chunk that is being carried out, `[chunk, ACTION_DIM]`.
    pub chunk: &'a [f32],
    /// How many of its actions have been carried out, this period's included.
    pub done: usize,
    /// How the episode ended, if this was its end.
    pub outcome: Option<Outcome>,
}

/// How an episode went.
#[derive(Clone, Debug, PartialEq)]
pub struct Attempt {
    /// Its end.
    pub outcome: Outcome,
    /// Periods it took.
    pub periods: usize,
    /// Every chunk that was predicted, `[chunk, ACTION_DIM]` each.
    pub chunks: Vec<Vec<f32>>,
}

struct Running<'a> {
    episode: &'a Episode,
    world: World,
    judge: Judge,
    task: String,
    first_pictures: Option<Vec<(String, Image)>>,
    attempt: Attempt,
    over: bool,
}

/// Attempts all episodes side by side: those that go on are predicted for together, every [`Predictor::n_action_steps`] periods.
/// `watch` is called after every period of each.
///
/// # Errors
/// As the predictor; where it predicts no chunk, one too short, or what is no action, for an episode.
pub fn attempt<P: Predictor>(
    predictor: &mut P,
    episodes: &[Episode],
    condition: Condition,
    watch: &mut dyn FnMut(&Step<'_>),
) -> Result<Vec<Attempt>, P::Error> {
    let mut running: Vec<Running<'_>> =
        episodes.iter().map(|episode| Running::new(episode, condition)).collect();
    let n_action_steps = predictor.n_action_steps().max(1);
    while running.iter().any(|one| !one.over) {
        let mut moments = Vec::new();
        for (index, one) in running.iter_mut().enumerate().filter(|(_, one)| !one.over) {
            let observation = one.observe(condition)?;
            let chunk = one.attempt.chunks.len();
            let noise = one.episode.noise(chunk, predictor.noise_len());
            let period = one.attempt.periods;
            moments.push(Moment { episode: index, chunk, period, observation, noise, world: &one.world });
        }
        let who: Vec<usize> = moments.iter().map(|moment| moment.episode).collect();
        let chunks = predictor.predict(&moments)?;
        check(&chunks, who.len(), n_action_steps)?;
        for (index, chunk) in who.into_iter().zip(chunks) {
            running[index].carry_out(index, chunk, n_action_steps, watch)?;
        }
    }
    Ok(running.into_iter().map(|one| one.attempt).collect())
}

impl<'a> Running<'a> {
    fn new(episode: &'a Episode, condition: Condition) -> Self {
        let task = match condition {
            Condition::Swapped => episode.swapped().text,
            Condition::Normal | Condition::Frozen => episode.instruction.text.clone(),
        };
        Self {
            episode,
            world: episode.world.clone(),
            judge: Judge::new(episode.instruction.goal),
            task,
            first_pictures: None,
            attempt: Attempt { outcome: Outcome::TimeUp, periods: 0, chunks: Vec::new() },
            over: false,
        }
    }

    fn observe(&mut self, condition: Condition) -> Result<Observation, smolvla_core::Error> {
        let images = match condition {
            Condition::Normal | Condition::Swapped => pictures(&self.world)?,
            Condition::Frozen => match &self.first_pictures {
                Some(pictures) => pictures.clone(),
                None => self.first_pictures.insert(pictures(&self.world)?).clone(),
            },
        };
        Ok(Observation { images, state: self.world.state().to_vec(), task: self.task.clone() })
    }

    fn carry_out(
        &mut self,
        index: usize,
        chunk: Vec<f32>,
        n_action_steps: usize,
        watch: &mut dyn FnMut(&Step<'_>),
    ) -> Result<(), ActionError> {
        for (done, action) in chunk.chunks(ACTION_DIM).take(n_action_steps).enumerate() {
            self.world.step(action)?;
            self.attempt.periods += 1;
            let outcome = self.judge.look(&self.world);
            watch(&Step {
                episode: index,
                period: self.attempt.periods,
                world: &self.world,
                chunk: &chunk,
                done: done + 1,
                outcome,
            });
            if let Some(outcome) = outcome {
                self.attempt.outcome = outcome;
                self.over = true;
                break;
            }
        }
        self.attempt.chunks.push(chunk);
        Ok(())
    }
}

/// Refuses predictions that are not a chunk for each moment, long enough to be carried out.
fn check(chunks: &[Vec<f32>], moments: usize, n_action_steps: usize) -> Result<(), smolvla_core::Error> {
    if chunks.len() != moments {
        let reason = format!("{} chunks for {moments} observations", chunks.len());
        return Err(smolvla_core::Error::input("actions", reason));
    }
    let whole = |chunk: &&Vec<f32>| {
        chunk.len() >= n_action_steps * ACTION_DIM && chunk.len().is_multiple_of(ACTION_DIM)
    };
    match chunks.iter().find(|chunk| !whole(chunk)) {
        None => Ok(()),
        Some(chunk) => Err(smolvla_core::Error::input(
            "actions",
            format!(
                "{} numbers in a chunk; expected {n_action_steps} or more actions of {ACTION_DIM}",
                chunk.len()
            ),
        )),
    }
}

fn pictures(world: &World) -> Result<Vec<(String, Image)>, smolvla_core::Error> {
    Camera::ALL
        .into_iter()
        .map(|camera| {
            let image = Image::from_rgb8(camera.feature(), SIDE, SIDE, render(world, camera, SIDE))?;
            Ok((camera.feature().to_owned(), image))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demonstrations::CHUNK;
    use crate::instruction::Instruction;
    use crate::{Split, expert};

    /// Does what the expert would, for what it is told.
    struct Expert {
        shown: Vec<Observation>,
    }

    impl Predictor for Expert {
        type Error = AttemptError;

        fn noise_len(&self) -> usize {
            4
        }

        fn n_action_steps(&self) -> usize {
            8
        }

        fn predict(&mut self, moments: &[Moment<'_>]) -> Result<Vec<Vec<f32>>, AttemptError> {
            self.shown.extend(moments.iter().map(|moment| moment.observation.clone()));
            Ok(moments
                .iter()
                .map(|moment| {
                    let told = Instruction::parse(&moment.observation.task).unwrap();
                    expert::plan(moment.world, told.goal, CHUNK).concat()
                })
                .collect())
        }
    }

    fn successes(condition: Condition) -> (usize, Vec<Observation>) {
        let episodes: Vec<Episode> = (0..30).map(|seed| Episode::new(Split::Evaluation, seed)).collect();
        let mut expert = Expert { shown: Vec::new() };
        let attempts = attempt(&mut expert, &episodes, condition, &mut |_| ()).unwrap();
        (attempts.iter().filter(|attempt| attempt.outcome.is_success()).count(), expert.shown)
    }

    #[test]
    fn chunks_of_the_expert_do_the_task_and_those_for_a_swapped_instruction_do_not() {
        assert!(successes(Condition::Normal).0 >= 29);
        assert!(successes(Condition::Swapped).0 <= 2);
    }

    #[test]
    fn a_frozen_camera_shows_the_first_pictures_with_the_state_of_now() {
        let (_, shown) = successes(Condition::Frozen);
        let (_, live) = successes(Condition::Normal);
        assert_ne!(live[0].images, live[30].images);
        // The first thirty observations are the episodes' first moments; the thirty-first is the first one's second.
        assert_eq!(shown[0].images, shown[30].images);
        assert_ne!(shown[0].state, shown[30].state);
    }

    #[test]
    fn every_period_is_shown_and_the_last_one_says_how_it_ended() {
        let episodes = [Episode::new(Split::Evaluation, 1)];
        let mut periods = Vec::new();
        let mut ends = Vec::new();
        let mut expert = Expert { shown: Vec::new() };
        let attempts = attempt(&mut expert, &episodes, Condition::Normal, &mut |step| {
            periods.push(step.period);
            ends.extend(step.outcome);
        })
        .unwrap();
        assert_eq!(periods, (1..=attempts[0].periods).collect::<Vec<_>>());
        assert_eq!(ends, [attempts[0].outcome]);
        assert_eq!(attempts[0].chunks.len(), attempts[0].periods.div_ceil(8));
    }

    #[test]
    fn a_chunk_that_is_too_short_is_refused() {
        struct Short(usize);
        impl Predictor for Short {
            type Error = AttemptError;
            fn noise_len(&self) -> usize {
                1
            }
            fn n_action_steps(&self) -> usize {
                8
            }
            fn predict(&mut self, moments: &[Moment<'_>]) -> Result<Vec<Vec<f32>>, AttemptError> {
                Ok(vec![vec![0.0; self.0]; moments.len()])
            }
        }
        let episodes = [Episode::new(Split::Evaluation, 1)];
        for length in [0, 2, 3, 23, 25] {
            let error = attempt(&mut Short(length), &episodes, Condition::Normal, &mut |_| ()).unwrap_err();
            assert!(error.to_string().contains(&format!("{length} numbers in a chunk")), "{error}");
        }
        assert!(attempt(&mut Short(24), &episodes, Condition::Normal, &mut |_| ()).is_ok());
    }
}
