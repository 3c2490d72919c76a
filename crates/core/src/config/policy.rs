//! LeRobot's `config.json`.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use super::json::{self, Object};
use super::{
    AttentionMode, Feature, FeatureType, LanguagePadding, MOST_LAYERS, NormalizationMode, PolicyConfig,
};
use crate::Result;
use crate::checkpoint::MERGE_ADAPTER;

const STATE: &str = "observation.state";
const ACTION: &str = "action";

/// Far beyond any policy, and small enough that memory and time stay bounded where no weight has the size.
const MOST_TOKENS: usize = 8192;
const MOST_ACTIONS: usize = 4096;
const MOST_STEPS: usize = 1000;
const MOST_PIXELS: usize = 4096;
const MOST_EMPTY_CAMERAS: usize = 16;
const WIDEST: usize = 4096;

impl PolicyConfig {
    /// Reads a policy's `config.json`.
    ///
    /// The `observation.images.empty_camera_{i}` features that LeRobot adds for `empty_cameras` are part of the
    /// result.
    ///
    /// # Errors
    /// [`crate::Error::Io`] and [`crate::Error::Corrupt`] when the file cannot be read;
    /// [`crate::Error::Config`] naming the key when a value is wrong, unsupported or refused by LeRobot too.
    pub fn from_file(file: &Path) -> Result<Self> {
        Ok(read(file)?.0)
    }

    /// Width of the robot's state.
    pub fn state_dim(&self) -> usize {
        width(&self.input_features, STATE)
    }

    /// Width of an action.
    pub fn action_dim(&self) -> usize {
        width(&self.output_features, ACTION)
    }

    /// Names of the cameras in the order LeRobot looks at them.
    pub fn cameras(&self) -> impl Iterator<Item = &str> {
        let visual = |(_, feature): &&(String, Feature)| feature.kind == FeatureType::Visual;
        self.input_features.iter().filter(visual).map(|(name, _)| name.as_str())
    }
}

/// Reads a policy's `config.json`, with remarks on keys that are accepted but not followed.
pub(crate) fn read(file: &Path) -> Result<(PolicyConfig, Vec<String>)> {
    parse(file, &json::read(file)?)
}

/// [`read`] for JSON that is already in memory; `file` is for errors.
pub(crate) fn parse(file: &Path, value: &Value) -> Result<(PolicyConfig, Vec<String>)> {
    let object = Object::root(file, value)?;
    match object.string("type")? {
        Some("smolvla") => {}
        Some(other) => {
            return Err(object.error("type", format!("is \"{other}\"; expected \"smolvla\"")));
        }
        None => return Err(object.error("type", "is missing; expected \"smolvla\"")),
    }
    let config = PolicyConfig {
        input_features: input_features(&object)?,
        output_features: features(&object, "output_features")?,
        normalization_mapping: match object.object("normalization_mapping")? {
            Some(mapping) => normalization_mapping(&mapping)?,
            None => default_normalization(),
        },
        chunk_size: object.size("chunk_size")?.unwrap_or(50),
        n_action_steps: object.size("n_action_steps")?.unwrap_or(50),
        max_state_dim: object.size("max_state_dim")?.unwrap_or(32),
        max_action_dim: object.size("max_action_dim")?.unwrap_or(32),
        resize_imgs_with_padding: resize(&object)?,
        empty_cameras: empty_cameras(&object)?,
        adapt_to_pi_aloha: object.boolean("adapt_to_pi_aloha")?.unwrap_or(false),
        tokenizer_max_length: token_count(&object, "tokenizer_max_length", 48)?,
        num_steps: object.size("num_steps")?.unwrap_or(10),
        vlm_model_name: object.string("vlm_model_name")?.unwrap_or(super::SMOLVLM2_500M).to_owned(),
        add_image_special_tokens: object.boolean("add_image_special_tokens")?.unwrap_or(false),
        attention_mode: match object.string("attention_mode")? {
            Some(mode) if !mode.contains("cross") => AttentionMode::SelfOnly,
            _ => AttentionMode::Cross,
        },
        prefix_length: object.integer("prefix_length")?.unwrap_or(-1),
        pad_language_to: match object.string("pad_language_to")? {
            None => LanguagePadding::Longest,
            Some(name) => language_padding(&object, "pad_language_to", name)?,
        },
        num_expert_layers: layers(&object, "num_expert_layers", -1)?,
        num_vlm_layers: layers(&object, "num_vlm_layers", 16)?,
        self_attn_every_n_layers: layers(&object, "self_attn_every_n_layers", 2)?,
        expert_width_multiplier: object.positive("expert_width_multiplier")?.unwrap_or(0.75),
        min_period: object.positive("min_period")?.unwrap_or(4e-3),
        max_period: object.positive("max_period")?.unwrap_or(4.0),
    };
    check(&object, &config)?;
    Ok((config, notices(&object)?))
}

/// An object of features, as `config.json` and the processor files hold them, in file order.
pub(crate) fn features(parent: &Object<'_>, key: &str) -> Result<Vec<(String, Feature)>> {
    // Null means "take them from the dataset" in training.
    if !parent.has(key) {
        return Ok(Vec::new());
    }
    let Some(features) = parent.object(key)? else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for name in features.keys() {
        let Some(entry) = features.object(name)? else { continue };
        let kind = entry.string("type")?.ok_or_else(|| entry.error("type", "is missing"))?;
        let kind = FeatureType::from_name(kind).ok_or_else(|| {
            let names = FeatureType::ALL.map(FeatureType::name).join(", ");
            entry.error("type", format!("is \"{kind}\"; expected one of {names}"))
        })?;
        let shape = entry.sizes("shape")?.ok_or_else(|| entry.error("shape", "is missing"))?;
        found.push((name.to_owned(), Feature { kind, shape }));
    }
    Ok(found)
}

/// An object that maps feature types to normalisation modes.
pub(crate) fn normalization_mapping(
    mapping: &Object<'_>,
) -> Result<BTreeMap<FeatureType, NormalizationMode>> {
    let mut found = BTreeMap::new();
    for key in mapping.keys() {
        let kind = FeatureType::from_name(key).ok_or_else(|| {
            let names = FeatureType::ALL.map(FeatureType::name).join(", ");
            mapping.error(key, format!("is not a feature type; expected {names}"))
        })?;
        let name = mapping.string(key)?.unwrap_or_default();
        let mode = NormalizationMode::from_name(name).ok_or_else(|| {
            let names = NormalizationMode::ALL.map(NormalizationMode::name).join(", ");
            mapping.error(key, format!("is \"{name}\"; expected one of {names}"))
        })?;
        found.insert(kind, mode);
    }
    Ok(found)
}

/// A value of `pad_language_to` or of a tokenizer's `padding`.
pub(crate) fn language_padding(object: &Object<'_>, key: &str, name: &str) -> Result<LanguagePadding> {
    match name {
        "longest" => Ok(LanguagePadding::Longest),
        "max_length" => Ok(LanguagePadding::MaxLength),
        other => Err(object.error(key, format!("is \"{other}\"; expected \"longest\" or \"max_length\""))),
    }
}

impl FeatureType {
    /// Every feature type.
    pub const ALL: [Self; 6] =
        [Self::State, Self::Visual, Self::Env, Self::Action, Self::Reward, Self::Language];

    /// The name LeRobot's files use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Visual => "VISUAL",
            Self::State => "STATE",
            Self::Env => "ENV",
            Self::Action => "ACTION",
            Self::Reward => "REWARD",
            Self::Language => "LANGUAGE",
        }
    }

    /// The feature type of a name in LeRobot's files.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

impl NormalizationMode {
    /// Every mode.
    pub const ALL: [Self; 5] =
        [Self::Identity, Self::MeanStd, Self::MinMax, Self::Quantiles, Self::Quantile10];

    /// The name LeRobot's files use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Identity => "IDENTITY",
            Self::MeanStd => "MEAN_STD",
            Self::MinMax => "MIN_MAX",
            Self::Quantiles => "QUANTILES",
            Self::Quantile10 => "QUANTILE10",
        }
    }

    /// The mode of a name in LeRobot's files.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.name() == name)
    }
}

fn default_normalization() -> BTreeMap<FeatureType, NormalizationMode> {
    BTreeMap::from([
        (FeatureType::Visual, NormalizationMode::Identity),
        (FeatureType::State, NormalizationMode::MeanStd),
        (FeatureType::Action, NormalizationMode::MeanStd),
    ])
}

fn input_features(object: &Object<'_>) -> Result<Vec<(String, Feature)>> {
    let mut inputs = features(object, "input_features")?;
    for index in 0..empty_cameras(object)? {
        let name = format!("observation.images.empty_camera_{index}");
        let feature = Feature { kind: FeatureType::Visual, shape: vec![3, 480, 640] };
        match inputs.iter_mut().find(|(known, _)| *known == name) {
            Some((_, known)) => *known = feature,
            None => inputs.push((name, feature)),
        }
    }
    Ok(inputs)
}

fn empty_cameras(object: &Object<'_>) -> Result<usize> {
    let cameras = object.count("empty_cameras")?.unwrap_or(0);
    at_most(object, "empty_cameras", cameras, MOST_EMPTY_CAMERAS)
}

fn resize(object: &Object<'_>) -> Result<Option<(usize, usize)>> {
    const KEY: &str = "resize_imgs_with_padding";
    if object.keys().any(|key| key == KEY) && !object.has(KEY) {
        return Ok(None);
    }
    match object.sizes(KEY)?.as_deref() {
        None => Ok(Some((512, 512))),
        Some(&[width, height]) => {
            at_most(object, KEY, width.max(height), MOST_PIXELS)?;
            Ok(Some((width, height)))
        }
        Some(other) => {
            Err(object.error(KEY, format!("has {} numbers; expected [width, height] or null", other.len())))
        }
    }
}

/// A count of layers, where zero and less stand for a default that depends on other keys.
fn layers(object: &Object<'_>, key: &str, default: i64) -> Result<Option<usize>> {
    let count = object.integer(key)?.unwrap_or(default);
    let count = usize::try_from(count).ok().filter(|count| *count > 0);
    match count {
        Some(count) if count > MOST_LAYERS => {
            Err(object.error(key, format!("is {count}; expected at most {MOST_LAYERS}")))
        }
        _ => Ok(count),
    }
}

/// `value`, unless it is beyond what is plausible for `key`.
fn at_most(object: &Object<'_>, key: &str, value: usize, most: usize) -> Result<usize> {
    if value > most {
        return Err(object.error(key, format!("is {value}; expected at most {most}")));
    }
    Ok(value)
}

/// The length of a tokenizer's rows, under a key of the configuration or of a processor file.
pub(crate) fn token_count(object: &Object<'_>, key: &str, default: usize) -> Result<usize> {
    at_most(object, key, object.size(key)?.unwrap_or(default), MOST_TOKENS)
}

fn check(object: &Object<'_>, config: &PolicyConfig) -> Result<()> {
    for (key, value, most) in [
        ("chunk_size", config.chunk_size, MOST_ACTIONS),
        ("num_steps", config.num_steps, MOST_STEPS),
        // Below zero it means no padding.
        ("prefix_length", usize::try_from(config.prefix_length).unwrap_or(0), MOST_TOKENS),
        ("max_state_dim", config.max_state_dim, WIDEST),
        ("max_action_dim", config.max_action_dim, WIDEST),
    ] {
        at_most(object, key, value, most)?;
    }
    if object.has("use_peft") && object.boolean("use_peft")? == Some(true) {
        return Err(object.error(
            "use_peft",
            format!("is true: the checkpoint is an adapter of another policy; {MERGE_ADAPTER}"),
        ));
    }
    if config.n_action_steps > config.chunk_size {
        return Err(object.error(
            "n_action_steps",
            format!("is {}, more than chunk_size = {}", config.n_action_steps, config.chunk_size),
        ));
    }
    if object.boolean("use_delta_joint_actions_aloha")? == Some(true) {
        return Err(object
            .error("use_delta_joint_actions_aloha", "is true, which LeRobot refuses too; expected false"));
    }
    if config.cameras().next().is_none() {
        return Err(object.error("input_features", "has no VISUAL feature; the policy needs a camera"));
    }
    for (key, features, name, kind, limit_key, limit) in [
        (
            "input_features",
            &config.input_features,
            STATE,
            FeatureType::State,
            "max_state_dim",
            config.max_state_dim,
        ),
        (
            "output_features",
            &config.output_features,
            ACTION,
            FeatureType::Action,
            "max_action_dim",
            config.max_action_dim,
        ),
    ] {
        let path = format!("{key}.{name}");
        let Some((_, feature)) = features.iter().find(|(known, _)| known == name) else {
            return Err(
                object.error(&path, format!("is missing; expected a feature of type {}", kind.name()))
            );
        };
        if feature.kind != kind {
            let (is, expected) = (feature.kind.name(), kind.name());
            return Err(object.error(&path, format!("has type {is}; expected {expected}")));
        }
        match feature.shape[..] {
            [width] if width <= limit => {}
            [width] => {
                return Err(object.error(&path, format!("is {width} wide, more than {limit_key} = {limit}")));
            }
            _ => {
                return Err(
                    object.error(&path, format!("has shape {:?}; expected one dimension", feature.shape))
                );
            }
        }
    }
    Ok(())
}

fn notices(object: &Object<'_>) -> Result<Vec<String>> {
    let mut notices = Vec::new();
    if object.boolean("use_cache")? == Some(false) {
        notices.push(
            "config.json sets use_cache to false, which LeRobot cannot run; the prefix cache is used"
                .to_owned(),
        );
    }
    if object.has("rtc_config")
        && let Some(rtc) = object.object("rtc_config")?
        && rtc.boolean("enabled")? == Some(true)
    {
        notices.push("config.json enables real-time chunking, which is not applied".to_owned());
    }
    Ok(notices)
}

/// The one dimension of a feature that [`check`] has seen.
fn width(features: &[(String, Feature)], name: &str) -> usize {
    features
        .iter()
        .find(|(known, _)| known == name)
        .and_then(|(_, feature)| feature.shape.first().copied())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn minimal() -> Value {
        json!({
            "type": "smolvla",
            "input_features": {
                "observation.state": { "type": "STATE", "shape": [6] },
                "observation.images.wrist": { "type": "VISUAL", "shape": [3, 256, 256] },
                "observation.images.base": { "type": "VISUAL", "shape": [3, 256, 256] },
            },
            "output_features": { "action": { "type": "ACTION", "shape": [6] } },
        })
    }

    fn with(key: &str, value: Value) -> Value {
        let mut config = minimal();
        config[key] = value;
        config
    }

    fn parsed(value: &Value) -> PolicyConfig {
        parse(Path::new("config.json"), value).unwrap().0
    }

    fn refusal(value: &Value) -> String {
        parse(Path::new("config.json"), value).unwrap_err().to_string()
    }

    #[test]
    fn absent_keys_take_class_defaults() {
        let config = parsed(&minimal());
        assert_eq!((config.chunk_size, config.n_action_steps, config.num_steps), (50, 50, 10));
        assert_eq!((config.num_vlm_layers, config.num_expert_layers), (Some(16), None));
        assert_eq!(config.resize_imgs_with_padding, Some((512, 512)));
        assert_eq!(config.pad_language_to, LanguagePadding::Longest);
        assert_eq!((config.min_period, config.max_period), (4e-3, 4.0));
        assert_eq!((config.state_dim(), config.action_dim()), (6, 6));
    }

    #[test]
    fn cameras_keep_file_order() {
        let cameras: Vec<_> = parsed(&minimal()).cameras().map(str::to_owned).collect();
        assert_eq!(cameras, ["observation.images.wrist", "observation.images.base"]);
    }

    #[test]
    fn empty_cameras_are_added_as_inputs() {
        let config = parsed(&with("empty_cameras", json!(2)));
        assert_eq!(config.cameras().last(), Some("observation.images.empty_camera_1"));
        assert_eq!(config.cameras().count(), 4);
    }

    #[test]
    fn null_resize_leaves_images_alone() {
        assert_eq!(parsed(&with("resize_imgs_with_padding", Value::Null)).resize_imgs_with_padding, None);
    }

    #[test]
    fn zero_layers_stand_for_defaults() {
        let config = parsed(&with("num_vlm_layers", json!(0)));
        assert_eq!(config.num_vlm_layers, None);
        assert_eq!(parsed(&with("self_attn_every_n_layers", json!(-1))).self_attn_every_n_layers, None);
    }

    #[test]
    fn unknown_key_is_accepted_and_unused_cache_is_noticed() {
        let mut value = with("a_key_of_tomorrow", json!({ "x": 1 }));
        value["use_cache"] = json!(false);
        let (_, notices) = parse(Path::new("config.json"), &value).unwrap();
        assert_eq!(notices.len(), 1);
        assert!(notices[0].contains("use_cache"));
    }

    #[test]
    fn wrong_values_are_refused_by_key() {
        let cases = [
            ("type", json!("act"), "expected \"smolvla\""),
            ("chunk_size", json!(0), "at least 1"),
            ("chunk_size", json!(10), "n_action_steps: is 50, more than chunk_size = 10"),
            ("num_steps", json!("ten"), "num_steps"),
            ("use_delta_joint_actions_aloha", json!(true), "LeRobot refuses"),
            ("pad_language_to", json!("left"), "\"max_length\""),
            ("resize_imgs_with_padding", json!([512]), "[width, height]"),
            ("normalization_mapping", json!({ "STATE": "Z_SCORE" }), "QUANTILES"),
            ("normalization_mapping", json!({ "JOINTS": "IDENTITY" }), "normalization_mapping.JOINTS"),
            ("max_state_dim", json!(4), "6 wide, more than max_state_dim = 4"),
            ("input_features", json!({}), "no VISUAL"),
            ("input_features", json!({ "x": { "type": "SOUND", "shape": [1] } }), "input_features.x.type"),
            ("output_features", Value::Null, "output_features.action"),
            ("output_features", json!({ "action": { "type": "ACTION", "shape": [2, 3] } }), "one dimension"),
            ("min_period", json!(0.0), "above 0"),
            ("empty_cameras", json!(-1), "at least 0"),
            ("empty_cameras", json!(17), "empty_cameras: is 17; expected at most 16"),
            ("chunk_size", json!(4097), "chunk_size: is 4097; expected at most 4096"),
            ("num_steps", json!(1001), "num_steps: is 1001; expected at most 1000"),
            ("prefix_length", json!(8193), "prefix_length: is 8193; expected at most 8192"),
            ("tokenizer_max_length", json!(8193), "tokenizer_max_length: is 8193; expected at most 8192"),
            ("max_state_dim", json!(4097), "max_state_dim: is 4097; expected at most 4096"),
            ("max_action_dim", json!(4097), "max_action_dim: is 4097; expected at most 4096"),
            (
                "resize_imgs_with_padding",
                json!([512, 4097]),
                "resize_imgs_with_padding: is 4097; expected at most 4096",
            ),
            ("use_peft", json!(true), "merge"),
        ];
        for (key, value, expected) in cases {
            let message = refusal(&with(key, value.clone()));
            assert!(message.contains(expected), "{key} = {value}: {message}");
        }
    }
}
