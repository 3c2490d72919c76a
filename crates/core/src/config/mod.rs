//! What a checkpoint's configuration files say, and the sizes that follow from them.

mod architecture;
pub(crate) mod files;
pub(crate) mod json;
pub(crate) mod policy;
mod vlm;

use std::collections::BTreeMap;

/// Far more layers than any model has; keeps a damaged number from filling the memory.
const MOST_LAYERS: usize = 4096;

/// The vision-language model whose published sizes are built in.
pub const SMOLVLM2_500M: &str = "HuggingFaceTB/SmolVLM2-500M-Video-Instruct";

/// What LeRobot's `config.json` says, as far as it affects inference. Absent keys take LeRobot's class
/// defaults; unknown keys are ignored.
#[derive(Clone, Debug, PartialEq)]
pub struct PolicyConfig {
    /// Input features in file order (`observation.state`, `observation.images.camera1`, …).
    pub input_features: Vec<(String, Feature)>,
    /// Output features in file order (`action`).
    pub output_features: Vec<(String, Feature)>,
    /// Normalisation by feature type.
    pub normalization_mapping: BTreeMap<FeatureType, NormalizationMode>,
    /// Actions predicted at once.
    pub chunk_size: usize,
    /// Actions of a chunk that `select_action` hands out before predicting again.
    pub n_action_steps: usize,
    /// Width the state is zero-padded to.
    pub max_state_dim: usize,
    /// Width the actions are denoised in.
    pub max_action_dim: usize,
    /// `(width, height)` images are resized into; `None` leaves them as they are.
    pub resize_imgs_with_padding: Option<(usize, usize)>,
    /// How many absent cameras are replaced by masked black images.
    pub empty_cameras: usize,
    /// Convert between Aloha's joint conventions and those of the pre-training data.
    pub adapt_to_pi_aloha: bool,
    /// Longest instruction, in tokens.
    pub tokenizer_max_length: usize,
    /// Euler steps from noise to actions.
    pub num_steps: usize,
    /// Folder or Hub repository of the vision-language model.
    pub vlm_model_name: String,
    /// Put special tokens around each image's tokens.
    pub add_image_special_tokens: bool,
    /// Whether odd layers of the expert attend to the prefix only.
    pub attention_mode: AttentionMode,
    /// Pad the prefix to this many tokens; zero or less: no padding.
    pub prefix_length: i64,
    /// How instructions are padded.
    pub pad_language_to: LanguagePadding,
    /// Layers of the action expert; `None`: as many as the language model.
    pub num_expert_layers: Option<usize>,
    /// Layers of the language model that are used; `None`: all.
    pub num_vlm_layers: Option<usize>,
    /// Every how many layers the expert attends to itself; `None`: never.
    pub self_attn_every_n_layers: Option<usize>,
    /// Width of the expert relative to the language model.
    pub expert_width_multiplier: f64,
    /// Shortest period of the time embedding.
    pub min_period: f64,
    /// Longest period of the time embedding.
    pub max_period: f64,
}

/// One entry of `input_features` or `output_features`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Feature {
    /// What it is.
    pub kind: FeatureType,
    /// Its declared shape; LeRobot does not enforce it for images.
    pub shape: Vec<usize>,
}

/// LeRobot's feature types.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum FeatureType {
    /// A camera image.
    Visual,
    /// Joint positions.
    State,
    /// State of the environment (SmolVLA ignores it).
    Env,
    /// Actions.
    Action,
    /// A reward (ignored).
    Reward,
    /// An instruction (ignored here; the task is an input of its own).
    Language,
}

/// How a feature is normalised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NormalizationMode {
    /// Not at all.
    Identity,
    /// `(x − mean)/(std + 1e-8)`.
    MeanStd,
    /// To `[-1, 1]` by minimum and maximum.
    MinMax,
    /// To `[-1, 1]` by the 1 % and 99 % quantiles.
    Quantiles,
    /// To `[-1, 1]` by the 10 % and 90 % quantiles.
    Quantile10,
}

/// `attention_mode` of the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttentionMode {
    /// Cross-attention layers between self-attention ones (any text that contains "cross").
    Cross,
    /// Self-attention everywhere.
    SelfOnly,
}

/// `pad_language_to` of the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LanguagePadding {
    /// To the longest instruction of the batch.
    Longest,
    /// To `tokenizer_max_length`.
    MaxLength,
}

/// What the vision-language model's own `config.json` says.
#[derive(Clone, Debug, PartialEq)]
pub struct VlmConfig {
    /// Vision tower.
    pub vision: VisionConfig,
    /// Language model (with all its layers; the policy may use fewer).
    pub text: TextConfig,
    /// Pixel-shuffle factor of the connector.
    pub scale_factor: usize,
}

/// SigLIP vision tower.
#[derive(Clone, Debug, PartialEq)]
pub struct VisionConfig {
    /// Number of blocks.
    pub layers: usize,
    /// Width.
    pub hidden: usize,
    /// Attention heads.
    pub heads: usize,
    /// Width of the MLP.
    pub intermediate: usize,
    /// Side of the square the position embeddings are for, in pixels.
    pub image_size: usize,
    /// Side of a patch, in pixels.
    pub patch_size: usize,
    /// Colour channels.
    pub channels: usize,
    /// Epsilon of the layer norms.
    pub layer_norm_eps: f32,
}

/// Llama-style language model.
#[derive(Clone, Debug, PartialEq)]
pub struct TextConfig {
    /// Number of layers.
    pub layers: usize,
    /// Width.
    pub hidden: usize,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Width of the MLP.
    pub intermediate: usize,
    /// Epsilon of the RMS norms.
    pub rms_norm_eps: f32,
    /// Rows of the embedding table.
    pub vocab: usize,
}

/// Every size the graph needs, derived from both configurations and checked to be consistent.
#[derive(Clone, Debug, PartialEq)]
pub struct Architecture {
    /// Vision tower.
    pub vision: VisionConfig,
    /// Language model; `layers` is the number the policy keeps.
    pub text: TextConfig,
    /// Pixel-shuffle factor.
    pub scale_factor: usize,
    /// Action expert.
    pub expert: ExpertConfig,
    /// Actions predicted at once.
    pub chunk_size: usize,
    /// Width of the padded state.
    pub max_state_dim: usize,
    /// Width of the padded actions.
    pub max_action_dim: usize,
    /// Shortest period of the time embedding.
    pub min_period: f64,
    /// Longest period of the time embedding.
    pub max_period: f64,
    /// Present when image tokens are wrapped in special tokens; only the tokenizer knows their ids, see
    /// [`Architecture::with_image_special_tokens`].
    pub image_special_tokens: Option<ImageSpecialTokens>,
}

/// Token ids put around an image: `fake, global, <image tokens>, fake`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageSpecialTokens {
    /// `<fake_token_around_image>`.
    pub fake: u32,
    /// `<global-img>`.
    pub global: u32,
}

/// Action expert.
#[derive(Clone, Debug, PartialEq)]
pub struct ExpertConfig {
    /// Width.
    pub hidden: usize,
    /// Width of the MLP.
    pub intermediate: usize,
    /// Number of layers that exist in the checkpoint.
    pub layers: usize,
    /// For each language-model layer, the expert layer that runs beside it, if any.
    pub schedule: Vec<Option<ExpertSlot>>,
}

/// One expert layer's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpertSlot {
    /// Index among the expert's layers.
    pub index: usize,
    /// What it attends to.
    pub kind: ExpertAttention,
}

/// What an expert layer attends to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpertAttention {
    /// The prefix and, causally, the action tokens.
    SelfAttention,
    /// The prefix only, through its own key and value projections.
    CrossAttention,
}
