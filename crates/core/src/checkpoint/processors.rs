//! LeRobot's processor files: `policy_preprocessor.json` and `policy_postprocessor.json`.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use crate::Result;
use crate::config::json::{self, Object};
use crate::config::policy::{features, language_padding, normalization_mapping, token_count};
use crate::config::{FeatureType, LanguagePadding, NormalizationMode, PolicyConfig};
use crate::processor::Normalizer;

pub(super) const PREPROCESSOR: &str = "policy_preprocessor.json";
pub(super) const POSTPROCESSOR: &str = "policy_postprocessor.json";

/// What the processor files say, with the configuration's values where they are silent.
#[derive(Clone, Debug, PartialEq)]
pub struct Processors {
    /// Old and new name of observations that are renamed.
    pub rename_map: Vec<(String, String)>,
    /// Longest instruction, in tokens.
    pub max_length: usize,
    /// How instructions are padded.
    pub padding: LanguagePadding,
    /// Folder or Hub repository of the tokenizer.
    pub tokenizer_name: String,
    /// Guards normalisation against division by zero.
    pub eps: f32,
    /// File of the statistics that normalise observations, where the preprocessor names one.
    pub(super) normalizer_state: Option<PathBuf>,
    /// File of the statistics that give actions their units back, where the postprocessor names one.
    pub(super) unnormalizer_state: Option<PathBuf>,
    /// The postprocessor, where it leaves actions in the network's units although the configuration wants them
    /// normalised: it has no unnormalizer.
    pub(super) without_unnormalizer: Option<PathBuf>,
    modes: BTreeMap<FeatureType, NormalizationMode>,
}

impl Processors {
    /// Reads the processor files of a checkpoint folder. What they say wins over `config`.
    ///
    /// Also returns remarks on absent files and settings without effect.
    ///
    /// # Errors
    /// [`crate::Error::Config`] when a step is unknown (leaving it out would change the policy without a word),
    /// or a setting is wrong or unsupported.
    pub(super) fn load(folder: &Path, config: &PolicyConfig) -> Result<(Self, Vec<String>)> {
        let mut processors = Self {
            rename_map: Vec::new(),
            max_length: config.tokenizer_max_length,
            padding: config.pad_language_to,
            tokenizer_name: config.vlm_model_name.clone(),
            eps: Normalizer::EPSILON,
            normalizer_state: None,
            unnormalizer_state: None,
            without_unnormalizer: None,
            modes: config.normalization_mapping.clone(),
        };
        let mut notices = Vec::new();
        let preprocessor = folder.join(PREPROCESSOR);
        let mut eps = None;
        if preprocessor.is_file() {
            eps = processors.preprocess(&preprocessor, config, &mut notices)?;
        } else {
            notices.push(format!("{PREPROCESSOR} is absent: its settings are taken from config.json"));
        }
        let postprocessor = folder.join(POSTPROCESSOR);
        if postprocessor.is_file() {
            processors.postprocess(&postprocessor, eps, config, &mut notices)?;
        } else {
            notices.push(format!("{POSTPROCESSOR} is absent: its settings are taken from config.json"));
        }
        Ok((processors, notices))
    }

    /// How features of a kind are normalised.
    pub fn normalization_mode(&self, kind: FeatureType) -> NormalizationMode {
        self.modes.get(&kind).copied().unwrap_or(NormalizationMode::Identity)
    }

    /// Follows the steps before the policy; returns the normaliser's epsilon.
    fn preprocess(
        &mut self,
        file: &Path,
        config: &PolicyConfig,
        notices: &mut Vec<String>,
    ) -> Result<Option<f32>> {
        let value = json::read(file)?;
        let root = Object::root(file, &value)?;
        let mut eps = None;
        let (mut newline, mut tokenizer, mut normalizer) = (false, false, false);
        for step in steps(&root)? {
            match step.name {
                "to_batch_processor" => {}
                "device_processor" => step.device(notices)?,
                "smolvla_new_line_processor" => newline = true,
                "rename_observations_processor" => {
                    let map = step.config.object_or_empty("rename_map")?;
                    for from in map.keys() {
                        let to = map.string(from)?.unwrap_or_default();
                        self.rename_map.push((from.to_owned(), to.to_owned()));
                    }
                }
                "tokenizer_processor" => {
                    if !newline {
                        return Err(step.object.error(
                            "registry_name",
                            "tokenizer_processor has no smolvla_new_line_processor before it; SmolVLA's \
                             instructions end in a newline",
                        ));
                    }
                    step.first(&mut tokenizer)?;
                    self.tokenize(&step.config)?;
                }
                "normalizer_processor" => {
                    step.first(&mut normalizer)?;
                    step.has_features()?;
                    eps = step.config.positive("eps")?.map(|eps| eps as f32);
                    self.normalize(&step, config)?;
                    self.note_identity(FeatureType::State, PREPROCESSOR, config, notices);
                    self.normalizer_state = step.state_file()?;
                }
                _ => return Err(step.unknown()),
            }
        }
        if !tokenizer {
            return Err(root.error("steps", "has no tokenizer_processor; the policy needs an instruction"));
        }
        if !normalizer {
            notices
                .push(format!("{PREPROCESSOR} has no normalizer_processor: observations stay as they are"));
            self.modes.retain(|kind, _| *kind == FeatureType::Action);
        }
        self.eps = eps.unwrap_or(Normalizer::EPSILON);
        Ok(eps)
    }

    fn tokenize(&mut self, config: &Object<'_>) -> Result<()> {
        self.max_length = token_count(config, "max_length", 512)?;
        self.padding = match config.string("padding")? {
            Some(name) => language_padding(config, "padding", name)?,
            None => LanguagePadding::MaxLength,
        };
        if config.has("tokenizer_name")
            && let Some(name) = config.string("tokenizer_name")?
        {
            name.clone_into(&mut self.tokenizer_name);
        }
        if let Some(side) = config.string("padding_side")?
            && side != "right"
        {
            return Err(config.error("padding_side", format!("is \"{side}\"; only \"right\" is supported")));
        }
        if config.boolean("truncation")? == Some(false) {
            return Err(config.error("truncation", "is false; only true is supported"));
        }
        Ok(())
    }

    fn normalize(&mut self, step: &Step<'_>, config: &PolicyConfig) -> Result<()> {
        if let Some(mapping) = step.config.object("norm_map")? {
            let action = self.modes.get(&FeatureType::Action).copied();
            self.modes = normalization_mapping(&mapping)?;
            // The postprocessor has the last word on actions.
            if let Some(mode) = action {
                self.modes.entry(FeatureType::Action).or_insert(mode);
            }
        }
        let mut named: Vec<String> =
            features(&step.config, "features")?.into_iter().map(|(name, _)| name).collect();
        if let Some(only) = step.config.strings("normalize_observation_keys")? {
            named.retain(|name| only.contains(&name.as_str()));
        }
        // Only features that the step names are normalised.
        if !named.iter().any(|name| name == "observation.state") {
            self.modes.remove(&FeatureType::State);
        }
        let is_camera = |name: &&str| !name.starts_with("observation.images.empty_camera_");
        let (with, without): (Vec<&str>, Vec<&str>) =
            config.cameras().filter(is_camera).partition(|camera| named.iter().any(|name| name == camera));
        if with.is_empty() {
            self.modes.remove(&FeatureType::Visual);
        } else if !without.is_empty()
            && self.normalization_mode(FeatureType::Visual) != NormalizationMode::Identity
        {
            return Err(step.config.error(
                "features",
                format!(
                    "normalises {} but not {}; expected all or none",
                    with.join(", "),
                    without.join(", ")
                ),
            ));
        }
        Ok(())
    }

    /// Notes that a step leaves features alone that the configuration wants normalised.
    fn note_identity(&self, kind: FeatureType, file: &str, config: &PolicyConfig, notices: &mut Vec<String>) {
        let wanted = wanted(config, kind);
        if wanted != NormalizationMode::Identity
            && self.normalization_mode(kind) == NormalizationMode::Identity
        {
            notices.push(format!(
                "{file} leaves {0} features as they are, where normalization_mapping.{0} in config.json is {1}",
                kind.name(),
                wanted.name()
            ));
        }
    }

    /// Follows the steps after the policy.
    fn postprocess(
        &mut self,
        file: &Path,
        eps: Option<f32>,
        config: &PolicyConfig,
        notices: &mut Vec<String>,
    ) -> Result<()> {
        let value = json::read(file)?;
        let root = Object::root(file, &value)?;
        let mut unnormalizer = false;
        for step in steps(&root)? {
            match step.name {
                "device_processor" => step.device(notices)?,
                "unnormalizer_processor" => {
                    step.first(&mut unnormalizer)?;
                    step.has_features()?;
                    let own = step.config.positive("eps")?.map(|eps| eps as f32);
                    if let (Some(own), Some(other)) = (own, eps)
                        && own != other
                    {
                        let reason =
                            format!("is {own} here and {other} in {PREPROCESSOR}; expected one value");
                        return Err(step.config.error("eps", reason));
                    }
                    self.eps = own.unwrap_or(self.eps);
                    if let Some(mapping) = step.config.object("norm_map")? {
                        let mode = normalization_mapping(&mapping)?.remove(&FeatureType::Action);
                        self.modes.insert(FeatureType::Action, mode.unwrap_or(NormalizationMode::Identity));
                    }
                    self.note_identity(FeatureType::Action, POSTPROCESSOR, config, notices);
                    self.unnormalizer_state = step.state_file()?;
                }
                _ => return Err(step.unknown()),
            }
        }
        if !unnormalizer {
            notices.push(format!("{POSTPROCESSOR} has no unnormalizer_processor: actions stay as they are"));
            self.modes.remove(&FeatureType::Action);
            if wanted(config, FeatureType::Action) != NormalizationMode::Identity {
                self.without_unnormalizer = Some(file.to_owned());
            }
        }
        Ok(())
    }
}

/// What the configuration says about features of a kind.
fn wanted(config: &PolicyConfig, kind: FeatureType) -> NormalizationMode {
    config.normalization_mapping.get(&kind).copied().unwrap_or(NormalizationMode::Identity)
}

/// One step of a processor file.
struct Step<'a> {
    name: &'a str,
    object: Object<'a>,
    config: Object<'a>,
}

fn steps<'a>(root: &Object<'a>) -> Result<Vec<Step<'a>>> {
    let steps = root.objects("steps")?.ok_or_else(|| root.error("steps", "is missing; expected an array"))?;
    let step = |object: Object<'a>| {
        let key = if object.has("registry_name") { "registry_name" } else { "class" };
        let name = object
            .string(key)?
            .ok_or_else(|| object.error("registry_name", "is missing; expected the name of a step"))?;
        let config = object.object_or_empty("config")?;
        Ok(Step { name, object, config })
    };
    steps.into_iter().map(step).collect()
}

impl Step<'_> {
    fn unknown(&self) -> crate::Error {
        self.object.error(
            "registry_name",
            format!(
                "`{}` is not a step this library knows; leaving it out would change the policy",
                self.name
            ),
        )
    }

    /// Notes that a step of this kind was met, and refuses a second one.
    fn first(&self, met: &mut bool) -> Result<()> {
        if *met {
            let reason = format!("`{}` is there twice; expected it once", self.name);
            return Err(self.object.error("registry_name", reason));
        }
        *met = true;
        Ok(())
    }

    /// Refuses a normalizer without features, which LeRobot cannot construct.
    fn has_features(&self) -> Result<()> {
        if self.config.has("features") {
            return Ok(());
        }
        Err(self.config.error(
            "features",
            format!("is missing; `{}` needs the features it is for, in LeRobot too", self.name),
        ))
    }

    /// Devices are chosen by the caller; a conversion to another element type would have to be followed.
    fn device(&self, notices: &mut Vec<String>) -> Result<()> {
        if self.config.has("float_dtype") {
            let dtype = self.config.string("float_dtype")?.unwrap_or_default();
            notices.push(format!(
                "device_processor asks for {dtype} inputs; they stay f32, and the precision is chosen at load"
            ));
        }
        Ok(())
    }

    /// The file of the step's statistics, in the checkpoint's folder.
    fn state_file(&self) -> Result<Option<PathBuf>> {
        if !self.object.has("state_file") {
            return Ok(None);
        }
        let Some(name) = self.object.string("state_file")? else { return Ok(None) };
        let mut parts = Path::new(name).components();
        if name.is_empty() || !parts.all(|part| matches!(part, Component::Normal(_))) {
            let reason = format!("is \"{name}\"; expected the name of a file in the checkpoint's folder");
            return Err(self.object.error("state_file", reason));
        }
        let folder = self.object.file().parent().unwrap_or(Path::new(""));
        Ok(Some(folder.join(name)))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::{Value, json};

    use super::*;

    fn config() -> PolicyConfig {
        let value = json!({
            "type": "smolvla",
            "input_features": {
                "observation.state": { "type": "STATE", "shape": [2] },
                "observation.images.top": { "type": "VISUAL", "shape": [3, 8, 8] },
            },
            "output_features": { "action": { "type": "ACTION", "shape": [2] } },
        });
        crate::config::policy::parse(Path::new("config.json"), &value).unwrap().0
    }

    fn preprocessor() -> Value {
        json!({ "name": "policy_preprocessor", "steps": [
            { "registry_name": "rename_observations_processor", "config": { "rename_map": { "a": "b" } } },
            { "registry_name": "to_batch_processor", "config": {} },
            { "registry_name": "smolvla_new_line_processor", "config": {} },
            { "registry_name": "tokenizer_processor", "config": {
                "max_length": 24, "padding": "max_length", "padding_side": "right", "truncation": true,
                "tokenizer_name": "elsewhere" } },
            { "registry_name": "device_processor", "config": { "device": "cpu", "float_dtype": null } },
            { "registry_name": "normalizer_processor", "state_file": "in.safetensors", "config": {
                "eps": 1e-6,
                "features": { "observation.state": { "type": "STATE", "shape": [2] } },
                "norm_map": { "STATE": "MIN_MAX", "VISUAL": "MEAN_STD" } } },
        ] })
    }

    fn postprocessor() -> Value {
        json!({ "steps": [
            { "registry_name": "unnormalizer_processor", "state_file": "out.safetensors",
              "config": { "eps": 1e-6, "norm_map": { "ACTION": "QUANTILES" },
                          "features": { "action": { "type": "ACTION", "shape": [2] } } } },
            { "registry_name": "device_processor", "config": {} },
        ] })
    }

    fn loaded(before: Option<&Value>, after: Option<&Value>) -> Result<(Processors, Vec<String>)> {
        let folder = tempfile::tempdir().unwrap();
        for (name, value) in [(PREPROCESSOR, before), (POSTPROCESSOR, after)] {
            if let Some(value) = value {
                fs::write(folder.path().join(name), value.to_string()).unwrap();
            }
        }
        Processors::load(folder.path(), &config())
    }

    #[test]
    fn files_win_over_configuration() {
        let (processors, notices) = loaded(Some(&preprocessor()), Some(&postprocessor())).unwrap();
        assert_eq!(processors.rename_map, [("a".to_owned(), "b".to_owned())]);
        assert_eq!((processors.max_length, processors.padding), (24, LanguagePadding::MaxLength));
        assert_eq!(processors.tokenizer_name, "elsewhere");
        assert_eq!(processors.eps, 1e-6);
        let mode = |kind| processors.normalization_mode(kind);
        assert_eq!(mode(FeatureType::State), NormalizationMode::MinMax);
        assert_eq!(mode(FeatureType::Action), NormalizationMode::Quantiles);
        // The step's features name no camera, so images stay as they are.
        assert_eq!(mode(FeatureType::Visual), NormalizationMode::Identity);
        let name = |file: Option<PathBuf>| file.unwrap().file_name().unwrap().to_owned();
        assert_eq!(name(processors.normalizer_state), "in.safetensors");
        assert_eq!(name(processors.unnormalizer_state), "out.safetensors");
        assert!(notices.is_empty(), "{notices:?}");
    }

    #[test]
    fn absent_files_leave_configuration_and_a_notice_each() {
        let (processors, notices) = loaded(None, None).unwrap();
        assert_eq!((processors.max_length, processors.padding), (48, LanguagePadding::Longest));
        assert_eq!(processors.normalization_mode(FeatureType::Action), NormalizationMode::MeanStd);
        assert_eq!(processors.eps, Normalizer::EPSILON);
        assert_eq!(notices.len(), 2);
    }

    #[test]
    fn unfollowable_steps_are_refused() {
        let cases = [
            ("/steps/1/registry_name", json!("image_crop_resize_processor"), "image_crop_resize_processor"),
            (
                "/steps/2/registry_name",
                json!("to_batch_processor"),
                "no smolvla_new_line_processor before it",
            ),
            ("/steps/3/config/padding_side", json!("left"), "steps[3].config.padding_side"),
            ("/steps/3/config/truncation", json!(false), "only true"),
            ("/steps/3/registry_name", json!("device_processor"), "no tokenizer_processor"),
            ("/steps/5/state_file", json!("../in.safetensors"), "file in the checkpoint's folder"),
            ("/steps/5/config/norm_map/STATE", json!("Z"), "steps[5].config.norm_map.STATE"),
            ("/steps/5/config/eps", json!(1e-8), "expected one value"),
            ("/steps/5/config/features", Value::Null, "normalizer_processor` needs the features"),
            ("/steps/3/config/max_length", json!(8193), "max_length: is 8193; expected at most 8192"),
            ("/steps", json!({}), "expected an array"),
        ];
        for (pointer, wrong, expected) in cases {
            let mut value = preprocessor();
            *value.pointer_mut(pointer).unwrap() = wrong;
            let message = loaded(Some(&value), Some(&postprocessor())).unwrap_err().to_string();
            assert!(message.contains(expected), "{pointer}: {message}");
        }
    }

    #[test]
    fn repeated_steps_are_refused() {
        for (index, name) in [(3, "tokenizer_processor"), (5, "normalizer_processor")] {
            let mut value = preprocessor();
            let step = value["steps"][index].clone();
            value["steps"].as_array_mut().unwrap().push(step);
            let message = loaded(Some(&value), None).unwrap_err().to_string();
            assert!(
                message.contains(&format!("steps[6].registry_name: `{name}` is there twice")),
                "{message}"
            );
        }
        let mut value = postprocessor();
        let step = value["steps"][0].clone();
        value["steps"].as_array_mut().unwrap().push(step);
        let message = loaded(None, Some(&value)).unwrap_err().to_string();
        assert!(message.contains("`unnormalizer_processor` is there twice"), "{message}");
    }

    #[test]
    fn unnormalizer_without_features_is_refused() {
        let mut value = postprocessor();
        value["steps"][0]["config"].as_object_mut().unwrap().remove("features");
        let message = loaded(None, Some(&value)).unwrap_err().to_string();
        assert!(message.contains("steps[0].config.features: is missing"), "{message}");
    }

    #[test]
    fn identity_against_the_configuration_is_said() {
        let mut before = preprocessor();
        before["steps"][5]["config"]["features"] = json!({});
        let mut after = postprocessor();
        after["steps"][0]["config"]["norm_map"] = json!({ "ACTION": "IDENTITY" });
        let (processors, notices) = loaded(Some(&before), Some(&after)).unwrap();
        assert_eq!(processors.normalization_mode(FeatureType::State), NormalizationMode::Identity);
        assert_eq!(notices.len(), 2, "{notices:?}");
        assert!(notices[0].contains("normalization_mapping.STATE in config.json is MEAN_STD"), "{notices:?}");
        assert!(notices[1].contains("normalization_mapping.ACTION"), "{notices:?}");
    }

    #[test]
    fn missing_normalizer_is_said() {
        let mut value = preprocessor();
        value["steps"].as_array_mut().unwrap().pop();
        let (processors, notices) = loaded(Some(&value), Some(&postprocessor())).unwrap();
        assert_eq!(processors.normalization_mode(FeatureType::State), NormalizationMode::Identity);
        assert!(notices[0].contains("no normalizer_processor"));
    }
}
