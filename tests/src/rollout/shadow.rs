//! Actions on LeRobot's own observations: what a contestant would have done in LeRobot's place.
//!
//! In closed loop the smallest difference grows: another action, another picture. Here every prediction starts from what
//! LeRobot saw and from the same noise, so the differences are those of single predictions.

use std::collections::HashSet;
use std::fmt::Display;

use sha2::{Digest, Sha256};
use smolvla_core::policy::Observation;
use smolvla_tabletop::{ACTION_DIM, Moment, Predictor, World};

use super::lerobot::pixels;
use super::statistics::distribution;
use crate::fixtures::hex;
use crate::report::ActionErrors;

/// Pressed down above this.
const PRESSED: f32 = 0.5;

/// What a predictor was shown, and what it answered.
#[derive(Clone, Debug)]
pub struct KeptPrediction {
    episode: usize,
    chunk: usize,
    period: usize,
    observation: Observation,
    noise: Vec<f32>,
    world: World,
    /// The actions that were to be carried out, `[n_action_steps, ACTION_DIM]`.
    actions: Vec<f32>,
}

/// A predictor of which every prediction for the first episodes is kept.
pub struct PredictionKeeper<'a, P> {
    inner: &'a mut P,
    episodes: usize,
    /// What was kept.
    pub kept: Vec<KeptPrediction>,
}

impl<'a, P> PredictionKeeper<'a, P> {
    /// Keeps what `inner` predicts for the first `episodes` of the episodes it is asked for.
    pub fn new(inner: &'a mut P, episodes: usize) -> Self {
        Self { inner, episodes, kept: Vec::new() }
    }
}

impl<P: Predictor> Predictor for PredictionKeeper<'_, P> {
    type Error = P::Error;

    fn predict(&mut self, moments: &[Moment<'_>]) -> Result<Vec<Vec<f32>>, P::Error> {
        let chunks = self.inner.predict(moments)?;
        let width = self.inner.n_action_steps() * ACTION_DIM;
        for (moment, chunk) in
            moments.iter().zip(&chunks).filter(|(moment, _)| moment.episode < self.episodes)
        {
            self.kept.push(KeptPrediction {
                episode: moment.episode,
                chunk: moment.chunk,
                period: moment.period,
                observation: moment.observation.clone(),
                noise: moment.noise.clone(),
                world: moment.world.clone(),
                actions: chunk.get(..width).unwrap_or(chunk).to_vec(),
            });
        }
        Ok(chunks)
    }

    fn noise_len(&self) -> usize {
        self.inner.noise_len()
    }

    fn n_action_steps(&self) -> usize {
        self.inner.n_action_steps()
    }
}

/// SHA-256 of all that was seen in an episode: pictures, state, noise and instruction of each prediction.
///
/// # Errors
/// When a picture is not as large as the table's.
pub fn seen_sha256(kept: &[KeptPrediction], episode: usize) -> Result<String, String> {
    let mut hash = Sha256::new();
    // With their lengths: no two episodes have the same bytes for different reasons.
    let mut add = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    let floats = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
    for one in kept.iter().filter(|one| one.episode == episode) {
        add(&(one.chunk as u64).to_le_bytes());
        for (name, image) in &one.observation.images {
            add(name.as_bytes());
            add(&pixels(image)?);
        }
        add(&floats(&one.observation.state));
        add(one.observation.task.as_bytes());
        add(&floats(&one.noise));
    }
    Ok(hex(&hash.finalize()))
}

/// Has `predictor` predict for all that was kept, and measures how far it is from what was done then.
///
/// # Errors
/// As the predictor; when it predicts what is not finite, or fewer chunks or actions.
pub fn compare<P: Predictor>(
    predictor: &mut P,
    kept: &[KeptPrediction],
) -> Result<Option<ActionErrors>, String>
where
    P::Error: Display,
{
    let moments: Vec<Moment<'_>> = kept.iter().map(KeptPrediction::moment).collect();
    let chunks = predictor.predict(&moments).map_err(|error| error.to_string())?;
    if chunks.len() != kept.len() {
        return Err(format!("{} chunks for {} observations", chunks.len(), kept.len()));
    }
    let (mut velocity, mut press, mut press_flips) = (Vec::new(), Vec::new(), 0);
    for (one, chunk) in kept.iter().zip(&chunks) {
        let actions = chunk.get(..one.actions.len()).ok_or("a chunk has fewer actions than LeRobot's")?;
        for (expected, got) in one.actions.chunks(ACTION_DIM).zip(actions.chunks(ACTION_DIM)) {
            let error = |index: usize| (f64::from(expected[index]) - f64::from(got[index])).abs();
            velocity.extend([error(0), error(1)]);
            press.push(error(2));
            press_flips += usize::from((expected[2] > PRESSED) != (got[2] > PRESSED));
        }
    }
    let episodes = kept.iter().map(|one| one.episode).collect::<HashSet<_>>().len();
    let (Some(velocity_cm_s), Some(press)) = (distribution(velocity)?, distribution(press)?) else {
        return Ok(None);
    };
    Ok(Some(ActionErrors { episodes, moments: kept.len(), velocity_cm_s, press, press_flips }))
}

impl KeptPrediction {
    fn moment(&self) -> Moment<'_> {
        Moment {
            episode: self.episode,
            chunk: self.chunk,
            period: self.period,
            observation: self.observation.clone(),
            noise: self.noise.clone(),
            world: &self.world,
        }
    }
}
