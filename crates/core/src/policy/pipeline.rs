//! LeRobot's processors in order: observations to model inputs, model outputs to actions.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use super::{ActionUnits, Observation};
use crate::config::{Architecture, PolicyConfig};
use crate::error::{Error, Result};
use crate::graph::{CameraInput, ModelInput, PrefixLayout};
use crate::processor::{CameraMap, Normalizer, TextSettings, Tokenizer, aloha, prepare_image_in};

/// Everything between an [`Observation`] and the graph, and between the graph and an action.
#[derive(Debug)]
pub struct Pipeline {
    /// Cameras of the policy, in the order of its configuration.
    cameras: Vec<String>,
    camera_map: CameraMap,
    /// Normaliser of each camera's colours, where the checkpoint has one.
    image_normalizers: Vec<Option<Normalizer>>,
    tokenizer: Tokenizer,
    text: TextSettings,
    state: Normalizer,
    action: Normalizer,
    units: ActionUnits,
    config: PolicyConfig,
    state_dim: usize,
    action_dim: usize,
    sizes: Sizes,
    /// Memory of images that have been used. Memory fresh from the system costs more than what is computed into
    /// it, because the system clears it page by page.
    spare: Mutex<Vec<Vec<f32>>>,
}

/// The architecture's sizes that inputs are checked against.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    patch: usize,
    scale: usize,
    vocab: usize,
}

/// Normalisers of a policy.
#[derive(Debug)]
pub(super) struct Normalizers {
    /// By camera, in the order of the configuration.
    pub(super) images: Vec<Option<Normalizer>>,
    /// Of the state.
    pub(super) state: Normalizer,
    /// Of the actions.
    pub(super) action: Normalizer,
    /// Units the actions come out in.
    pub(super) units: ActionUnits,
}

/// A processed batch and what is unusual about it.
pub(super) struct Processed {
    /// Cameras, tokens and state.
    pub(super) cameras: Vec<CameraInput>,
    pub(super) tokens: crate::processor::TokenBatch,
    pub(super) state: Vec<f32>,
    pub(super) notices: Vec<String>,
}

impl Pipeline {
    /// Puts the processors together and checks that they fit the architecture.
    pub(super) fn new(
        config: PolicyConfig,
        file: PathBuf,
        architecture: &Architecture,
        camera_map: CameraMap,
        tokenizer: Tokenizer,
        text: TextSettings,
        normalizers: Normalizers,
    ) -> Result<Self> {
        let config_error =
            |key: &str, reason: String| Error::Config { file: file.clone(), key: key.to_owned(), reason };
        let cameras: Vec<String> = config.cameras().map(str::to_owned).collect();
        if cameras.is_empty() {
            return Err(config_error(
                "input_features",
                "has no VISUAL feature; a policy needs a camera".into(),
            ));
        }
        let (state_dim, action_dim) = (config.state_dim(), config.action_dim());
        for (key, dim, limit_key, limit) in [
            ("input_features", state_dim, "max_state_dim", config.max_state_dim),
            ("output_features", action_dim, "max_action_dim", config.max_action_dim),
        ] {
            if dim > limit {
                return Err(config_error(key, format!("is {dim} wide, more than {limit_key} = {limit}")));
            }
        }
        if config.adapt_to_pi_aloha && (state_dim < aloha::WIDTH || action_dim < aloha::WIDTH) {
            return Err(config_error(
                "adapt_to_pi_aloha",
                format!(
                    "needs state and actions at least {} wide; they are {state_dim} and {action_dim}",
                    aloha::WIDTH
                ),
            ));
        }
        let sizes = Sizes {
            patch: architecture.vision.patch_size,
            scale: architecture.scale_factor,
            vocab: architecture.text.vocab,
        };
        if let Some((width, height)) = config.resize_imgs_with_padding
            && (width != height || !sizes.fits(width))
        {
            return Err(config_error(
                "resize_imgs_with_padding",
                format!(
                    "[{width}, {height}]; expected a square whose side is a multiple of {}",
                    sizes.patch * sizes.scale
                ),
            ));
        }
        for (what, normalizer, dim) in
            [("state", &normalizers.state, state_dim), ("action", &normalizers.action, action_dim)]
        {
            if normalizer.width().is_some_and(|width| width != dim) {
                return Err(config_error(
                    "input_features",
                    format!(
                        "the {what} is {dim} wide, its statistics are {} wide",
                        normalizer.width().unwrap_or_default()
                    ),
                ));
            }
        }
        Ok(Self {
            cameras,
            camera_map,
            image_normalizers: normalizers.images,
            tokenizer,
            text,
            state: normalizers.state,
            action: normalizers.action,
            units: normalizers.units,
            config,
            state_dim,
            action_dim,
            sizes,
            spare: Mutex::default(),
        })
    }

    /// Cameras of the policy, in the order of its configuration.
    pub fn cameras(&self) -> &[String] {
        &self.cameras
    }

    /// Width of the state.
    pub fn state_dim(&self) -> usize {
        self.state_dim
    }

    /// Width of an action.
    pub fn action_dim(&self) -> usize {
        self.action_dim
    }

    /// Units the actions come out in.
    pub fn units(&self) -> ActionUnits {
        self.units
    }

    /// LeRobot's configuration.
    pub fn config(&self) -> &PolicyConfig {
        &self.config
    }

    /// From observations to what the model takes, with what is unusual about them.
    ///
    /// # Errors
    /// [`Error::Input`] and [`Error::Image`] name the input at fault.
    pub fn process(
        &self,
        observations: &[Observation],
        noise: Vec<f32>,
        steps: usize,
        layout: PrefixLayout,
    ) -> Result<(ModelInput, Vec<String>)> {
        if observations.is_empty() {
            return Err(Error::input("observations", "the batch is empty"));
        }
        let Processed { cameras, tokens, state, notices } = self.prepare(observations)?;
        let input = ModelInput {
            batch: observations.len(),
            cameras,
            tokens: tokens.ids,
            token_mask: tokens.mask,
            token_length: tokens.length,
            state,
            noise,
            steps,
            prefix_length: usize::try_from(self.config.prefix_length).unwrap_or(0),
            layout,
        };
        Ok((input, notices))
    }

    /// Takes back an input that has been run: the next one's images are put into its memory.
    pub fn recycle(&self, input: ModelInput) {
        let images = input.cameras.into_iter().flat_map(|camera| camera.images).collect();
        *self.spare.lock().unwrap_or_else(PoisonError::into_inner) = images;
    }

    fn prepare(&self, observations: &[Observation]) -> Result<Processed> {
        let mut notices = Vec::new();
        let cameras = self.images(observations, &mut notices)?;
        let tasks: Vec<&str> = observations.iter().map(|o| o.task.as_str()).collect();
        let tokens = self.tokenizer.encode_batch(&tasks, &self.text)?;
        notices.extend(tokens.notice.clone());
        if let Some(id) = tokens.max_id().filter(|id| *id as usize >= self.sizes.vocab) {
            return Err(Error::Tokenizer {
                file: self.tokenizer.file().to_owned(),
                reason: format!(
                    "gives token {id}, the policy's vocabulary has {}; it belongs to another model",
                    self.sizes.vocab
                ),
            });
        }
        let mut state = Vec::with_capacity(observations.len() * self.config.max_state_dim);
        for (index, observation) in observations.iter().enumerate() {
            state.extend(self.state(index, observation)?);
        }
        Ok(Processed { cameras, tokens, state, notices })
    }

    /// The normalised, padded state of one observation.
    fn state(&self, index: usize, observation: &Observation) -> Result<Vec<f32>> {
        let mut state = observation.state.clone();
        if state.len() != self.state_dim {
            return Err(Error::input(
                "state",
                format!(
                    "observation {index} has {} numbers, the policy takes {}",
                    state.len(),
                    self.state_dim
                ),
            ));
        }
        if let Some(joint) = state.iter().position(|v| !v.is_finite()) {
            return Err(Error::input(
                "state",
                format!("number {joint} of observation {index} is {}; expected finite numbers", state[joint]),
            ));
        }
        self.state.normalize(&mut state)?;
        if self.config.adapt_to_pi_aloha {
            aloha::decode_state(&mut state)?;
        }
        if let Some(joint) = state.iter().position(|v| !v.is_finite()) {
            return Err(Error::input(
                "state",
                format!(
                    "number {joint} of observation {index} is {}, which normalises to {}; it is far outside the \
                     training data",
                    observation.state[joint], state[joint]
                ),
            ));
        }
        state.resize(self.config.max_state_dim, 0.0);
        Ok(state)
    }

    /// The images by camera: those that some observation has, in the policy's order, then as many absent ones
    /// as the configuration fills with masked black images. The others are left out.
    fn images(&self, observations: &[Observation], notices: &mut Vec<String>) -> Result<Vec<CameraInput>> {
        let mut spare = std::mem::take(&mut *self.spare.lock().unwrap_or_else(PoisonError::into_inner));
        let mut slots: Vec<Vec<Option<Vec<f32>>>> = vec![vec![None; observations.len()]; self.cameras.len()];
        let mut sides = vec![0; self.cameras.len()];
        for (index, observation) in observations.iter().enumerate() {
            for (name, image) in &observation.images {
                let resolved = self.camera_map.resolve(name, &self.cameras)?;
                let slot = self.cameras.iter().position(|camera| camera == resolved).unwrap_or_default();
                if slots[slot][index].is_some() {
                    return Err(Error::input(
                        "images",
                        format!("observation {index} has more than one image for camera `{resolved}`"),
                    ));
                }
                let normalizer = self.image_normalizers.get(slot).and_then(Option::as_ref);
                let memory = spare.pop().unwrap_or_default();
                let planes =
                    prepare_image_in(memory, image, self.config.resize_imgs_with_padding, normalizer)?;
                if planes.width != planes.height || !self.sizes.fits(planes.width) {
                    return Err(Error::Image {
                        name: image.name().to_owned(),
                        reason: format!(
                            "is {} × {}; without resize_imgs_with_padding the policy takes squares whose side is \
                             a multiple of {}",
                            planes.width,
                            planes.height,
                            self.sizes.patch * self.sizes.scale
                        ),
                    });
                }
                if sides[slot] != 0 && sides[slot] != planes.width {
                    return Err(Error::Image {
                        name: image.name().to_owned(),
                        reason: format!(
                            "is {} pixels wide where another observation of the batch has {}",
                            planes.width, sides[slot]
                        ),
                    });
                }
                sides[slot] = planes.width;
                slots[slot][index] = Some(planes.data);
            }
        }
        let Some(last_side) = sides.iter().rev().copied().find(|side| *side > 0) else {
            return Err(Error::input(
                "images",
                format!("no image; give at least one of {}", self.cameras.join(", ")),
            ));
        };

        let mut cameras = Vec::new();
        let mut absent = Vec::new();
        for ((name, slot), side) in self.cameras.iter().zip(slots).zip(sides) {
            if side == 0 {
                absent.push(name);
                continue;
            }
            let present: Vec<bool> = slot.iter().map(Option::is_some).collect();
            if present.contains(&false) {
                notices.push(format!("camera {name} is absent in part of the batch and masked there"));
            }
            let images =
                slot.into_iter().map(|image| image.unwrap_or_else(|| black(side, &mut spare))).collect();
            cameras.push(CameraInput { side, images, present });
        }
        for (index, name) in absent.into_iter().enumerate() {
            if index < self.config.empty_cameras {
                notices.push(format!("camera {name} is absent: a masked black image takes its place"));
                cameras.push(CameraInput {
                    side: last_side,
                    images: observations.iter().map(|_| black(last_side, &mut spare)).collect(),
                    present: vec![false; observations.len()],
                });
            } else {
                notices.push(format!("camera {name} is absent: the policy runs without it"));
            }
        }
        Ok(cameras)
    }

    /// From the model's padded actions `[batch, chunk, max_action_dim]` to normalised actions and actions in the
    /// policy's units, both `[batch, chunk, action_dim]`.
    ///
    /// # Errors
    /// [`Error::Input`] when a conversion does not fit the width of the actions.
    pub fn finish(&self, padded: &[f32]) -> Result<(Vec<f32>, Vec<f32>)> {
        let mut normalized: Vec<f32> = padded
            .chunks_exact(self.config.max_action_dim)
            .flat_map(|action| &action[..self.action_dim])
            .copied()
            .collect();
        if self.config.adapt_to_pi_aloha {
            for action in normalized.chunks_exact_mut(self.action_dim) {
                aloha::encode_actions(action)?;
            }
        }
        let mut actions = normalized.clone();
        self.action.unnormalize(&mut actions)?;
        Ok((normalized, actions))
    }
}

impl Sizes {
    /// Whether an image of this side is a whole number of tokens wide.
    fn fits(self, side: usize) -> bool {
        side > 0 && side.is_multiple_of(self.patch * self.scale)
    }
}

/// Planes of a black square, in spare memory where there is some.
fn black(side: usize, spare: &mut Vec<Vec<f32>>) -> Vec<f32> {
    let mut planes = spare.pop().unwrap_or_default();
    planes.clear();
    planes.resize(3 * side * side, -1.0);
    planes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::{Checkpoint, LoadOptions};
    use crate::policy::{PolicyOptions, SmolVla};
    use crate::processor::Image;
    use crate::reference::Reference;
    use crate::synth::{self, SynthOptions};

    #[test]
    fn images_are_made_in_memory_that_was_used_before() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("policy");
        synth::write(&SynthOptions::default(), &folder, &mut |_, _| ()).unwrap();
        let checkpoint = Checkpoint::open(&folder, &LoadOptions::default()).unwrap();
        let policy = SmolVla::open(Reference, &checkpoint, &PolicyOptions::default(), &mut |_| ()).unwrap();
        let pipeline = policy.pipeline();

        let image = |width, height, value| {
            Image::from_rgb8("picture", width, height, vec![value; width * height * 3]).unwrap()
        };
        let observe = |images: [(&str, Image); 2]| {
            let images = images.map(|(camera, image)| (camera.to_owned(), image)).to_vec();
            [Observation { images, state: vec![0.5; 6], task: "go".to_owned() }]
        };
        let process = |observations: &[Observation]| {
            pipeline.process(observations, Vec::new(), 1, PrefixLayout::Padded).unwrap().0
        };
        let images = |input: &ModelInput| -> Vec<Vec<f32>> {
            input.cameras.iter().flat_map(|camera| camera.images.clone()).collect()
        };
        let wide = observe([("camera1", image(30, 20, 200)), ("camera2", image(9, 9, 90))]);
        let tall = observe([("camera1", image(20, 30, 10)), ("camera2", image(64, 64, 60))]);
        let fresh = images(&process(&tall));
        let mut first = process(&wide);
        // More room than an image takes tells this memory from any other.
        const ROOM: usize = 1_000_000;
        first.cameras.iter_mut().flat_map(|camera| &mut camera.images).for_each(|i| i.reserve(ROOM));
        pipeline.recycle(first);
        let second = process(&tall);
        assert_eq!(second.cameras.len(), 2);
        assert!(second.cameras.iter().flat_map(|camera| &camera.images).all(|i| i.capacity() >= ROOM));
        assert_eq!(images(&second), fresh);
    }
}
