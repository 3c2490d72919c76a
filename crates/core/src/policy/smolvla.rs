//! [`SmolVla`]: the policy on one backend.

use std::collections::VecDeque;
use std::time::Instant;

use super::pipeline::Normalizers;
use super::{
    ActionChunk, ActionUnits, ChunkRequest, Noise, Observation, Pipeline, Policy, PolicyInfo, StageTiming,
};
use crate::backend::{Backend, BackendError, BackendErrorKind, Precision};
use crate::checked::Checked;
use crate::checkpoint::Checkpoint;
use crate::config::{FeatureType, ImageSpecialTokens, NormalizationMode};
use crate::error::{Error, Result};
use crate::graph::{LoadProgress, Model, Observer, PrefixLayout, load};
use crate::precision::PrecisionPlan;
use crate::processor::{CameraMap, Normalizer, Tokenizer};

/// LeRobot's names of the features that are not images.
const STATE: &str = "observation.state";
const ACTION: &str = "action";

/// More Euler steps than this are a mistake: error falls with their number, and ten are usual.
const MAX_STEPS: usize = 1000;

/// SmolVLA on one backend.
///
/// ```no_run
/// use smolvla_core::checkpoint::{Checkpoint, LoadOptions};
/// use smolvla_core::policy::{Observation, Policy, PolicyOptions, SmolVla};
/// use smolvla_core::processor::Image;
/// use smolvla_core::reference::Reference;
///
/// let checkpoint = Checkpoint::open("my_policy".as_ref(), &LoadOptions::default())?;
/// let mut policy = SmolVla::open(Reference, &checkpoint, &PolicyOptions::default(), &mut |_| ())?;
/// let action = policy.select_action(&[Observation {
///     images: vec![("camera1".into(), Image::open("top.png")?)],
///     state: vec![0.0; 6],
///     task: "pick up the cube".into(),
/// }])?;
/// # Ok::<(), smolvla_core::Error>(())
/// ```
pub struct SmolVla<B: Backend> {
    model: Model<Checked<B>>,
    pipeline: Pipeline,
    info: PolicyInfo,
    layout: PrefixLayout,
    /// Actions not handed out yet; each holds one action per observation of the batch.
    queue: VecDeque<Vec<Vec<f32>>>,
    /// Seed of the next chunk's noise where a request brings none.
    next_seed: u64,
}

/// How to run a checkpoint.
#[derive(Clone, Debug, Default)]
pub struct PolicyOptions {
    /// The precision of each linear layer; `Precision::F32.into()` gives all the same.
    pub precision: PrecisionPlan,
    /// The user's names for the cameras; they take precedence over the checkpoint's own renaming.
    pub cameras: CameraMap,
    /// Keep or leave out padding; `None` lets the backend decide. The actions are the same.
    pub layout: Option<PrefixLayout>,
    /// Where the policy's own noise sequence starts: the first chunk takes `Noise::Seed(seed)`, the next
    /// `Noise::Seed(seed + 1)`, and so on.
    pub seed: u64,
}

impl<B: Backend> SmolVla<B> {
    /// Prepares a checkpoint's parameters on `backend` and puts its processors together.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] when the checkpoint names no tokenizer that is at hand; [`Error::Config`],
    /// [`Error::Statistics`] and [`Error::Tensor`] for what does not fit together; [`Error::Input`] for a rule of the
    /// precision plan that is about no layer; [`Error::Backend`] when the device refuses, a precision it lacks
    /// included.
    pub fn open(
        backend: B,
        checkpoint: &Checkpoint,
        options: &PolicyOptions,
        progress: &mut dyn FnMut(LoadProgress),
    ) -> Result<Self> {
        let backend = Checked::new(backend.with_plan(&options.precision)?);
        let capabilities = backend.capabilities();
        let mut notices = checkpoint.notices.clone();
        let tokenizer = Tokenizer::from_file(checkpoint.tokenizer()?)?;
        let mut architecture = checkpoint.architecture.clone();
        if checkpoint.config.add_image_special_tokens {
            architecture.image_special_tokens =
                Some(image_special_tokens(&tokenizer, architecture.text.vocab)?);
        }
        notices.extend(tokenizer.notice().map(str::to_owned));
        let table_side = architecture.vision.image_size / architecture.vision.patch_size;
        if !table_side.is_power_of_two() {
            notices.push(format!(
                "the vision tower has {table_side} × {table_side} positions; where LeRobot's choice among them depends \
                 on rounding, exact fractions are used"
            ));
        }
        let text = tokenizer.settings(checkpoint.processors.max_length, checkpoint.processors.padding)?;
        let camera_map = CameraMap::from_rename_map(checkpoint.processors.rename_map.clone())
            .overridden_by(options.cameras.clone());
        let pipeline = Pipeline::new(
            checkpoint.config.clone(),
            checkpoint.config_file(),
            &architecture,
            camera_map,
            tokenizer,
            text,
            normalizers(checkpoint)?,
        )?;
        let model = load(backend, &architecture, &options.precision, checkpoint, progress)?;
        let layout = options.layout.unwrap_or(if capabilities.static_shapes {
            PrefixLayout::Padded
        } else {
            PrefixLayout::Packed
        });
        if pipeline.units() == ActionUnits::Normalized {
            notices.push(
                "state and actions are in the network's own normalised units: no statistics are applied"
                    .to_owned(),
            );
        }
        tracing::info!(
            backend = capabilities.backend,
            precision = %options.precision,
            ?layout,
            text_layers = model.text_layers(),
            "policy loaded from {}",
            checkpoint.folder.display()
        );
        let info = PolicyInfo {
            precision: options.precision.clone(),
            capabilities,
            cameras: pipeline.cameras().to_vec(),
            image_side: checkpoint
                .config
                .resize_imgs_with_padding
                .map_or(checkpoint.architecture.vision.image_size, |(width, _)| width),
            state_dim: pipeline.state_dim(),
            action_dim: pipeline.action_dim(),
            chunk_size: checkpoint.config.chunk_size,
            n_action_steps: checkpoint.config.n_action_steps,
            num_steps: checkpoint.config.num_steps,
            units: pipeline.units(),
            notices,
        };
        Ok(Self { model, pipeline, info, layout, queue: VecDeque::new(), next_seed: options.seed })
    }

    /// The graph with its parameters.
    pub fn model(&self) -> &Model<Checked<B>> {
        &self.model
    }

    /// Keeps or leaves out padding from now on; the actions are the same.
    pub fn set_layout(&mut self, layout: PrefixLayout) {
        self.layout = layout;
    }

    /// The processors.
    pub fn pipeline(&self) -> &Pipeline {
        &self.pipeline
    }

    fn noise(&mut self, requested: Option<Noise>, batch: usize) -> Result<Vec<f32>> {
        let noise = requested.unwrap_or_else(|| {
            let seed = self.next_seed;
            self.next_seed = seed.wrapping_add(1);
            Noise::Seed(seed)
        });
        noise.into_values(batch * self.info.chunk_size * self.pipeline.config().max_action_dim)
    }
}

impl<B: Backend> Policy for SmolVla<B> {
    fn info(&self) -> &PolicyInfo {
        &self.info
    }

    fn reset(&mut self) {
        self.queue.clear();
    }

    fn predict_action_chunk(
        &mut self,
        observations: &[Observation],
        request: &ChunkRequest,
        observer: &mut dyn Observer,
    ) -> Result<ActionChunk> {
        let started = Instant::now();
        let steps = request.steps.unwrap_or(self.info.num_steps);
        if steps == 0 || steps > MAX_STEPS {
            return Err(Error::input(
                "num_steps",
                format!("{steps}; expected 1 to {MAX_STEPS} denoising steps"),
            ));
        }
        let noise = self.noise(request.noise.clone(), observations.len())?;
        let (input, notices) = self.pipeline.process(observations, noise, steps, self.layout)?;
        let mut timings = vec![StageTiming { stage: "preprocess", elapsed: started.elapsed() }];

        let output = self.model.run(&input, observer)?;
        self.pipeline.recycle(input);
        tracing::debug!(prefix_tokens = output.prefix_tokens, timings = ?output.timings, "chunk predicted");
        timings.extend(
            output
                .timings
                .iter()
                .map(|(stage, elapsed)| StageTiming { stage: stage.name(), elapsed: *elapsed }),
        );

        let started = Instant::now();
        if let Some(index) = output.actions.iter().position(|v| !v.is_finite()) {
            return Err(Error::Backend(BackendError::new(
                self.info.capabilities.backend,
                "denoise_step",
                BackendErrorKind::Other,
                format!(
                    "action value {index} is {}; nothing was returned{}",
                    output.actions[index],
                    if self.info.precision.precisions().contains(&Precision::F16) {
                        "; numbers beyond f16's range are infinite: try --precision f32"
                    } else {
                        ""
                    }
                ),
            )));
        }
        let (normalized, actions) = self.pipeline.finish(&output.actions)?;
        timings.push(StageTiming { stage: "postprocess", elapsed: started.elapsed() });
        Ok(ActionChunk {
            batch: observations.len(),
            chunk_size: self.info.chunk_size,
            action_dim: self.info.action_dim,
            actions,
            normalized,
            units: self.info.units,
            steps,
            prefix_tokens: output.prefix_tokens,
            timings,
            notices,
        })
    }

    fn select_action(&mut self, observations: &[Observation]) -> Result<Vec<Vec<f32>>> {
        if let Some(queued) = self.queue.front()
            && queued.len() != observations.len()
        {
            return Err(Error::input(
                "observations",
                format!(
                    "{} in the batch, but actions for {} are queued; call reset() first",
                    observations.len(),
                    queued.len()
                ),
            ));
        }
        if self.queue.is_empty() {
            let chunk = self.predict(observations)?;
            for notice in &chunk.notices {
                tracing::warn!("{notice}");
            }
            for step in 0..self.info.n_action_steps {
                self.queue.push_back((0..chunk.batch).map(|o| chunk.action(o, step).to_vec()).collect());
            }
        }
        self.queue
            .pop_front()
            .ok_or_else(|| Error::input("n_action_steps", "0; the policy hands out no actions"))
    }
}

fn normalizers(checkpoint: &Checkpoint) -> Result<Normalizers> {
    let mode = |kind| checkpoint.normalization_mode(kind);
    let normalizes_images = mode(FeatureType::Visual) != NormalizationMode::Identity;
    let Some(statistics) = &checkpoint.statistics else {
        if normalizes_images {
            return Err(Error::Config {
                file: checkpoint.config_file(),
                key: "normalization_mapping.VISUAL".to_owned(),
                reason: "images are normalised, which needs the statistics that raw actions leave out"
                    .to_owned(),
            });
        }
        return Ok(Normalizers {
            images: Vec::new(),
            state: Normalizer::identity(STATE),
            action: Normalizer::identity(ACTION),
            units: ActionUnits::Normalized,
        });
    };
    let normalizer = |feature: &str, kind| {
        let eps = checkpoint.processors.eps;
        Normalizer::new(feature, mode(kind), &statistics.feature(feature), eps, &statistics.file)
    };
    let image = |camera: &str| {
        // The cameras LeRobot adds for `empty_cameras` have no statistics; only black goes through.
        let added = camera.starts_with("observation.images.empty_camera_");
        (normalizes_images && !added).then(|| normalizer(camera, FeatureType::Visual)).transpose()
    };
    Ok(Normalizers {
        images: checkpoint.config.cameras().map(image).collect::<Result<_>>()?,
        state: normalizer(STATE, FeatureType::State)?,
        action: normalizer(ACTION, FeatureType::Action)?,
        units: ActionUnits::Dataset,
    })
}

fn image_special_tokens(tokenizer: &Tokenizer, vocab: usize) -> Result<ImageSpecialTokens> {
    let id = |token: &str| {
        tokenizer.token_id(token).filter(|id| (*id as usize) < vocab).ok_or_else(|| Error::Tokenizer {
            file: tokenizer.file().to_owned(),
            reason: format!("has no token `{token}`, which add_image_special_tokens needs"),
        })
    };
    Ok(ImageSpecialTokens { fake: id("<fake_token_around_image>")?, global: id("<global-img>")? })
}
