//! The whole model on one backend.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::rotary::rotary_table;
use super::{
    CameraInput, DenoiseContext, Expert, ExpertAttentionWeights, KeyValue, Observer, Patches, Prefix,
    PrefixLayout, Site, Stage, TextLayer, TextLayerOutput, TimeEmbeddings, Vision, denoise_step,
};
use crate::backend::{Backend, BackendError, Epilogue, Matrix};
use crate::config::Architecture;
use crate::sampler;

/// SmolVLA's parameters on a backend, and the computation from processed inputs to normalised actions.
pub struct Model<B: Backend> {
    pub(super) backend: B,
    pub(super) architecture: Architecture,
    pub(super) vision: Vision<B::Tensor, B::Linear>,
    pub(super) embeddings: B::Table,
    pub(super) state: B::Linear,
    pub(super) text: Vec<TextLayer<B::Tensor, B::Linear>>,
    pub(super) expert: Expert<B::Tensor, B::Linear>,
    /// Time embeddings of the number of steps used last.
    pub(super) time: Option<Arc<TimeEmbeddings<B::Tensor>>>,
    /// Memory of the patches cut last.
    pub(super) patches: Vec<f32>,
}

/// A batch of processed observations.
#[derive(Clone, Debug)]
pub struct ModelInput {
    /// Observations in the batch.
    pub batch: usize,
    /// Cameras in prefix order.
    pub cameras: Vec<CameraInput>,
    /// Token ids of the instructions, `[batch, token_length]`.
    pub tokens: Vec<u32>,
    /// Which of them are not padding.
    pub token_mask: Vec<bool>,
    /// Tokens of an instruction, with padding.
    pub token_length: usize,
    /// Normalised state padded with zeros, `[batch, max_state_dim]`.
    pub state: Vec<f32>,
    /// Noise to start from, `[batch, chunk, max_action_dim]`.
    pub noise: Vec<f32>,
    /// Euler steps.
    pub steps: usize,
    /// The prefix is padded to this many tokens (in the padded layout only).
    pub prefix_length: usize,
    /// Whether padding is computed or left out.
    pub layout: PrefixLayout,
}

/// What a run yields.
#[derive(Clone, Debug)]
pub struct ModelOutput {
    /// Normalised actions, `[batch, chunk, max_action_dim]`.
    pub actions: Vec<f32>,
    /// Wall time of each stage; the device is synchronised at its end.
    pub timings: Vec<(Stage, Duration)>,
    /// Tokens of the prefix as computed, padding included.
    pub prefix_tokens: usize,
}

/// The image tokens of some consecutive cameras that were encoded as one batch.
#[derive(Debug)]
struct Encoded<T> {
    /// `[cameras·batch·tokens, text width]`, camera by camera.
    tokens: T,
    /// Tokens of one image.
    tokens_per_image: usize,
    /// Cameras in it.
    cameras: usize,
}

impl<B: Backend> Model<B> {
    /// The backend the parameters live on.
    pub fn backend(&self) -> &B {
        &self.backend
    }

    /// The model's sizes.
    pub fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    /// How many language-model layers there are: those up to the last that the expert reads.
    pub fn text_layers(&self) -> usize {
        self.text.len()
    }

    /// From processed observations to normalised actions.
    pub fn run(
        &mut self,
        input: &ModelInput,
        observer: &mut dyn Observer,
    ) -> Result<ModelOutput, BackendError> {
        let mut timings = Vec::with_capacity(3);
        let mut started = Instant::now();
        let mut finish = |backend: &B, stage| -> Result<(), BackendError> {
            backend.synchronize()?;
            timings.push((stage, started.elapsed()));
            started = Instant::now();
            Ok(())
        };

        let images = self.encode_images(input, observer)?;
        finish(&self.backend, Stage::Vision)?;
        let (prefix, embeddings) = self.embed_prefix(input, images)?;
        let cache = self.prefill(&prefix, embeddings, observer)?;
        let context = self.denoise_context(&prefix, cache, input.steps)?;
        finish(&self.backend, Stage::Prefill)?;
        let actions = self.denoise(&context, input, observer)?;
        finish(&self.backend, Stage::Denoise)?;
        Ok(ModelOutput { actions, timings, prefix_tokens: prefix.tokens })
    }

    /// Image tokens of the cameras. Consecutive cameras with images of one size go through the tower together;
    /// in the packed layout absent cameras do not go through it at all.
    fn encode_images(
        &mut self,
        input: &ModelInput,
        observer: &mut dyn Observer,
    ) -> Result<Vec<Encoded<B::Tensor>>, BackendError> {
        let cameras: Vec<&CameraInput> =
            input.cameras.iter().filter(|camera| is_computed(camera, input.layout)).collect();
        cameras
            .chunk_by(|a, b| a.side == b.side)
            .map(|group| {
                Ok(Encoded {
                    tokens: self.encode(group, observer)?,
                    tokens_per_image: self.tokens_per_image(group[0].side),
                    cameras: group.len(),
                })
            })
            .collect()
    }

    fn tokens_per_image(&self, side: usize) -> usize {
        (side / self.architecture.vision.patch_size / self.architecture.scale_factor).pow(2)
    }

    /// The tower and the connector over images of one size, camera by camera; in several goes where the device's
    /// largest tensor would not hold the activations of all of them.
    fn encode(
        &mut self,
        cameras: &[&CameraInput],
        observer: &mut dyn Observer,
    ) -> Result<B::Tensor, BackendError> {
        let side = cameras[0].side / self.architecture.vision.patch_size;
        let images: Vec<&[f32]> =
            cameras.iter().flat_map(|camera| &camera.images).map(Vec::as_slice).collect();
        let goes = images
            .chunks(self.images_at_once(side))
            .map(|images| self.encode_at_once(images, side, observer))
            .collect::<Result<Vec<_>, _>>()?;
        match &goes[..] {
            [_] => Ok(goes.into_iter().next().expect("there is one")),
            _ => self.backend.concat_tokens(&goes.iter().collect::<Vec<_>>(), 1),
        }
    }

    /// How many images of `side × side` patches the tower can take without a tensor that the device has no place for.
    fn images_at_once(&self, side: usize) -> usize {
        let Some(limit) = self.backend.capabilities().max_tensor_bytes else { return usize::MAX };
        let vision = &self.architecture.vision;
        let patch_values = vision.channels * vision.patch_size.pow(2);
        // Activations of a patch, in f32: its colours, fused query, key and value, and the middle of the MLP.
        let widest = patch_values.max(3 * vision.hidden).max(vision.intermediate);
        let image = 4 * (side * side * widest) as u64;
        usize::try_from(limit / image.max(1)).unwrap_or(usize::MAX).max(1)
    }

    /// The tower and the connector over some images in one go.
    fn encode_at_once(
        &mut self,
        images: &[&[f32]],
        side: usize,
        observer: &mut dyn Observer,
    ) -> Result<B::Tensor, BackendError> {
        let backend = &self.backend;
        let vision = &self.architecture.vision;
        let patch_values = vision.channels * vision.patch_size.pow(2);
        let memory = std::mem::take(&mut self.patches);
        let mut patches = Patches::reusing(memory, images.len(), side, patch_values);
        for image in images {
            patches.push(image, vision.channels, vision.patch_size);
        }
        let images = images.len();
        self.patches = patches.values;
        let patches = backend.upload(&self.patches, images * side * side, patch_values)?;

        let positions;
        let positions = if side == self.vision.usual_positions.0 {
            &self.vision.usual_positions.1
        } else {
            let values = self.vision.positions_for(side, vision.image_size / vision.patch_size);
            positions = backend.upload(&values, side * side, vision.hidden)?;
            &positions
        };
        let mut x = backend.linear(&patches, &self.vision.patch_embedding, Epilogue::residual(positions))?;
        x = observe(backend, observer, Site::VisionEmbeddings, x)?;
        for (index, layer) in self.vision.layers.iter().enumerate() {
            x = backend.vision_layer(layer, &x, images)?;
            x = observe(backend, observer, Site::VisionLayer(index), x)?;
        }
        let (gain, bias) = &self.vision.post_norm;
        let x = backend.layer_norm(&x, gain, bias, vision.layer_norm_eps)?;
        let x = observe(backend, observer, Site::VisionOutput, x)?;
        let x = backend.pixel_shuffle(&x, side, self.architecture.scale_factor)?;
        let x = backend.linear(&x, &self.vision.connector, Epilogue::NONE)?;
        observe(backend, observer, Site::Connector, x)
    }

    /// Joins images, instruction and state.
    fn embed_prefix(
        &self,
        input: &ModelInput,
        images: Vec<Encoded<B::Tensor>>,
    ) -> Result<(Prefix, B::Tensor), BackendError> {
        let backend = &self.backend;
        let batch = input.batch;
        let width = self.architecture.text.hidden;
        let scale = (width as f64).sqrt() as f32;
        let mut prefix = Prefix::new(batch);
        let mut parts = Vec::new();

        let mut image_tokens = self.image_tokens(images, batch, scale)?.into_iter();
        for camera in &input.cameras {
            if let Some(special) = self.architecture.image_special_tokens {
                prefix.push(2, false, |_, _| true);
                parts.push(
                    backend.embed_rows(&self.embeddings, &[special.fake, special.global].repeat(batch))?,
                );
            }
            if is_computed(camera, input.layout)
                && let Some(tokens) = image_tokens.next()
            {
                prefix.push(tokens.rows() / batch, false, |observation, _| camera.present[observation]);
                parts.push(tokens);
            }
            if let Some(special) = self.architecture.image_special_tokens {
                prefix.push(1, false, |_, _| true);
                parts.push(backend.embed_rows(&self.embeddings, &vec![special.fake; batch])?);
            }
        }

        let length = instruction_length(input);
        if length > 0 {
            let at = |observation: usize, token: usize| observation * input.token_length + token;
            let ids: Vec<u32> = (0..batch)
                .flat_map(|o| (0..length).map(move |t| at(o, t)))
                .map(|i| input.tokens[i])
                .collect();
            let words = backend.embed_rows(&self.embeddings, &ids)?;
            prefix.push(length, false, |observation, token| input.token_mask[at(observation, token)]);
            parts.push(backend.scale(&words, scale)?);
        }

        let state = backend.upload(&input.state, batch, self.architecture.max_state_dim)?;
        prefix.push(1, true, |_, _| true);
        parts.push(backend.linear(&state, &self.state, Epilogue::NONE)?);

        if input.layout == PrefixLayout::Padded && prefix.tokens < input.prefix_length {
            let padding = input.prefix_length - prefix.tokens;
            prefix.push(padding, false, |_, _| false);
            parts.push(backend.upload(&vec![0.0; batch * padding * width], batch * padding, width)?);
        }
        let parts: Vec<&B::Tensor> = parts.iter().collect();
        let embeddings = backend.concat_tokens(&parts, batch)?;
        Ok((prefix, embeddings))
    }

    /// The scaled image tokens of each camera, `[batch·tokens, width]`.
    fn image_tokens(
        &self,
        images: Vec<Encoded<B::Tensor>>,
        batch: usize,
        scale: f32,
    ) -> Result<Vec<B::Tensor>, BackendError> {
        let mut cameras = Vec::new();
        for encoded in images {
            let scaled = self.backend.scale(&encoded.tokens, scale)?;
            if encoded.cameras == 1 {
                cameras.push(scaled);
                continue;
            }
            let rows = batch * encoded.tokens_per_image;
            for camera in 0..encoded.cameras {
                cameras.push(self.backend.slice_rows(&scaled, camera * rows, rows)?);
            }
        }
        Ok(cameras)
    }

    /// Runs the language model over the prefix and keeps each layer's keys and values.
    fn prefill(
        &self,
        prefix: &Prefix,
        embeddings: B::Tensor,
        observer: &mut dyn Observer,
    ) -> Result<Vec<KeyValue<B::Tensor>>, BackendError> {
        let backend = &self.backend;
        let embeddings = observe(backend, observer, Site::PrefixEmbeddings, embeddings)?;
        let rotary = rotary_table(backend, &prefix.positions(), self.architecture.text.head_dim)?;
        let mask =
            backend.upload_mask(&prefix.attention_mask(), prefix.batch, prefix.tokens, prefix.tokens)?;
        let mut cache = Vec::with_capacity(self.text.len());
        let mut x = embeddings;
        for (index, layer) in self.text.iter().enumerate() {
            let TextLayerOutput { kv, residual } =
                backend.text_layer(layer, &x, &rotary.cos, &rotary.sin, &mask)?;
            cache.push(KeyValue {
                key: observe(backend, observer, Site::TextKey(index), kv.key)?,
                value: observe(backend, observer, Site::TextValue(index), kv.value)?,
            });
            let Some(next) = residual else { break };
            x = observe(backend, observer, Site::TextLayer(index), next)?;
        }
        Ok(cache)
    }

    /// Computes what every denoising step shares.
    fn denoise_context(
        &mut self,
        prefix: &Prefix,
        cache: Vec<KeyValue<B::Tensor>>,
        steps: usize,
    ) -> Result<DenoiseContext<B::Tensor, B::Mask>, BackendError> {
        let time = self.time_embeddings(steps)?;
        let backend = &self.backend;
        let chunk = self.architecture.chunk_size;
        let head_dim = self.architecture.text.head_dim;

        let mut cache: Vec<Option<KeyValue<B::Tensor>>> = cache.into_iter().map(Some).collect();
        let prefix_kv = self
            .expert
            .layers
            .iter()
            .map(|layer| {
                // Each language-model layer has at most one expert layer beside it.
                let kv = cache[layer.text_layer].take().expect("an expert layer has its own text layer");
                Ok(match &layer.attention {
                    ExpertAttentionWeights::SelfAttention { .. } => kv,
                    ExpertAttentionWeights::CrossAttention { key, value, .. } => KeyValue {
                        key: backend.linear(&kv.key, key, Epilogue::NONE)?,
                        value: backend.linear(&kv.value, value, Epilogue::NONE)?,
                    },
                })
            })
            .collect::<Result<_, BackendError>>()?;

        let after_prefix: Vec<i64> = prefix
            .valid_tokens()
            .into_iter()
            .flat_map(|offset| (0..chunk).map(move |token| (offset + token) as i64))
            .collect();
        let from_zero: Vec<i64> = (0..chunk as i64).collect();
        let cross_mask = prefix
            .cross_mask(chunk)
            .map(|mask| backend.upload_mask(&mask, prefix.batch, chunk, prefix.tokens))
            .transpose()?;
        Ok(DenoiseContext {
            batch: prefix.batch,
            prefix: prefix_kv,
            self_mask: backend.upload_mask(
                &prefix.self_mask(chunk),
                prefix.batch,
                chunk,
                prefix.tokens + chunk,
            )?,
            cross_mask,
            self_rotary: rotary_table(backend, &after_prefix, head_dim)?,
            cross_rotary: rotary_table(backend, &from_zero, head_dim)?,
            time,
        })
    }

    fn time_embeddings(&mut self, steps: usize) -> Result<Arc<TimeEmbeddings<B::Tensor>>, BackendError> {
        if let Some(time) = self.time.as_ref().filter(|time| time.steps.len() == steps) {
            return Ok(Arc::clone(time));
        }
        let Architecture { min_period, max_period, .. } = self.architecture;
        let width = self.architecture.expert.hidden;
        let rows = (0..steps)
            .map(|step| {
                let time = sampler::time(step, steps);
                let embedding = sampler::time_embedding(time, width, min_period, max_period);
                let embedding = self.backend.upload(&embedding, 1, width)?;
                self.backend.linear(&embedding, &self.expert.time_in_time, Epilogue::NONE)
            })
            .collect::<Result<_, BackendError>>()?;
        let time = Arc::new(TimeEmbeddings { steps: rows });
        self.time = Some(Arc::clone(&time));
        Ok(time)
    }

    /// Euler steps from noise to actions.
    fn denoise(
        &self,
        context: &DenoiseContext<B::Tensor, B::Mask>,
        input: &ModelInput,
        observer: &mut dyn Observer,
    ) -> Result<Vec<f32>, BackendError> {
        let backend = &self.backend;
        let rows = input.batch * self.architecture.chunk_size;
        let dt = sampler::step_size(input.steps) as f32;
        let mut x = backend.upload(&input.noise, rows, self.architecture.max_action_dim)?;
        for step in 0..input.steps {
            x = observe(backend, observer, Site::Actions { step }, x)?;
            let velocity = if self.wants_step(step, observer) {
                denoise_step(backend, &self.expert, context, &x, step, &mut |site, value| {
                    observe(backend, observer, site, value)
                })?
            } else {
                backend.denoise_step(&self.expert, context, &x, step)?
            };
            let velocity = observe(backend, observer, Site::Velocity { step }, velocity)?;
            x = backend.axpy(dt, &velocity, &x)?;
        }
        let x = observe(backend, observer, Site::Actions { step: input.steps }, x)?;
        backend.download(&x)
    }

    /// Whether the observer asks for a value inside this step.
    fn wants_step(&self, step: usize, observer: &dyn Observer) -> bool {
        observer.wants(Site::Suffix { step })
            || self
                .expert
                .layers
                .iter()
                .any(|layer| observer.wants(Site::ExpertLayer { step, layer: layer.text_layer }))
    }
}

fn is_computed(camera: &CameraInput, layout: PrefixLayout) -> bool {
    layout == PrefixLayout::Padded || camera.is_present()
}

/// Instruction tokens to embed: all of them in the padded layout, else up to the last that any observation uses.
fn instruction_length(input: &ModelInput) -> usize {
    match input.layout {
        PrefixLayout::Padded => input.token_length,
        PrefixLayout::Packed => (0..input.token_length)
            .rev()
            .find(|token| (0..input.batch).any(|o| input.token_mask[o * input.token_length + token]))
            .map_or(0, |last| last + 1),
    }
}

/// Shows a value to the observer and returns what the computation goes on with: the value, or the observer's
/// replacement.
fn observe<B: Backend>(
    backend: &B,
    observer: &mut dyn Observer,
    site: Site,
    value: B::Tensor,
) -> Result<B::Tensor, BackendError> {
    observer.reached(site);
    let (rows, cols) = (value.rows(), value.cols());
    if observer.wants(site) {
        observer.value(site, rows, cols, backend.download(&value)?);
    }
    match observer.replacement(site, rows, cols) {
        Some(values) => backend.upload(&values, rows, cols),
        None => Ok(value),
    }
}
