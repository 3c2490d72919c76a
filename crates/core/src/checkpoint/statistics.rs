//! Normalisation statistics, wherever LeRobot's versions keep them.
//!
//! Today's checkpoints have them in the processors' state files as `<feature>.<statistic>`; the published base
//! model has them once per robot as `<robot>.buffer.<feature>.<statistic>`; checkpoints up to LeRobot 0.3 have
//! them among the weights as `normalize_inputs.buffer_<feature>.<statistic>`, where infinity means "unset".

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use super::file::WeightsFile;
use super::processors::{POSTPROCESSOR, PREPROCESSOR, Processors};
use crate::config::{FeatureType, NormalizationMode, PolicyConfig};
use crate::processor::{FeatureStatistics, Normalizer};
use crate::{Error, Result};

/// Modules of old checkpoints that hold statistics; the first that has a feature wins.
const OLD_MODULES: [&str; 3] = ["unnormalize_outputs.", "normalize_inputs.", "normalize_targets."];

const ACTION: &str = "action";
const RAW: &str = "--raw-actions runs in the network's own normalised units";

/// Which statistics to use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum StatisticsChoice {
    /// Those that belong to no robot in particular.
    #[default]
    Auto,
    /// Those of the robot of this name.
    Named(String),
    /// None: state and actions are in the network's normalised units.
    Raw,
}

/// Every statistic a checkpoint holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Statistics {
    /// The file that those of observations were read from, or would have been: errors name it.
    pub file: PathBuf,
    /// Likewise of actions.
    pub action_file: PathBuf,
    /// By robot (`None`: of no robot in particular), then by feature.
    pub groups: BTreeMap<Option<String>, BTreeMap<String, FeatureStatistics>>,
}

/// The statistics of one robot.
#[derive(Clone, Debug, PartialEq)]
pub struct SelectedStatistics {
    /// The robot; `None` where the checkpoint does not tell robots apart.
    pub group: Option<String>,
    /// The file that those of observations are from.
    pub file: PathBuf,
    features: BTreeMap<String, FeatureStatistics>,
}

impl SelectedStatistics {
    /// The statistics of a feature; all absent when it has none.
    pub fn feature(&self, name: &str) -> FeatureStatistics {
        self.features.get(name).cloned().unwrap_or_default()
    }
}

impl Statistics {
    /// Reads the state files that the processors name, or where they name none the statistics among the
    /// weights, with a notice.
    ///
    /// As in LeRobot, observations are normalised by the normalizer's file alone, and actions get their units
    /// back by the unnormalizer's file alone.
    pub(super) fn load(
        folder: &Path,
        processors: &Processors,
        weights: Option<&WeightsFile>,
        config: &PolicyConfig,
    ) -> Result<(Self, Option<String>)> {
        let features: Vec<&str> = config
            .input_features
            .iter()
            .chain(&config.output_features)
            .map(|(name, _)| name.as_str())
            .collect();
        let (normalizer, unnormalizer) = (&processors.normalizer_state, &processors.unnormalizer_state);
        let or_file = |state: &Option<PathBuf>, otherwise| {
            state.clone().unwrap_or_else(|| folder.join::<&str>(otherwise))
        };
        let mut statistics = Self {
            file: or_file(normalizer, PREPROCESSOR),
            action_file: or_file(unnormalizer, POSTPROCESSOR),
            groups: Groups::new(),
        };
        for (path, of_actions) in [(normalizer, false), (unnormalizer, true)] {
            let Some(path) = path else { continue };
            for (group, mut found) in read(&open(path)?, &features, "")? {
                found.retain(|feature, _| (feature == ACTION) == of_actions);
                if !found.is_empty() {
                    statistics.groups.entry(group).or_default().extend(found);
                }
            }
        }
        let mut notice = None;
        if normalizer.is_none()
            && unnormalizer.is_none()
            && let Some(weights) = weights
        {
            for module in OLD_MODULES {
                for (group, found) in read(weights, &features, module)? {
                    let group = statistics.groups.entry(group).or_default();
                    for (feature, values) in found {
                        group.entry(feature).or_insert(values);
                    }
                }
            }
            if !statistics.groups.is_empty() {
                weights.path().clone_into(&mut statistics.file);
                weights.path().clone_into(&mut statistics.action_file);
                notice = Some(
                    "the processors name no file of statistics: those that older versions of LeRobot keep among \
                     the weights are used"
                        .to_owned(),
                );
            }
        }
        Ok((statistics, notice))
    }

    /// Names of the robots that have statistics of their own.
    pub fn robots(&self) -> impl Iterator<Item = &str> {
        self.groups.keys().flatten().map(String::as_str)
    }

    /// The statistics of one robot, or with `None` those of no robot in particular; they hold every feature
    /// that `processors` normalise.
    ///
    /// # Errors
    /// [`Error::Statistics`] when there are none, some are missing or of the wrong width; it lists what there
    /// is and how to choose.
    pub fn select(
        &self,
        robot: Option<&str>,
        processors: &Processors,
        config: &PolicyConfig,
    ) -> Result<SelectedStatistics> {
        if let Some(file) = &processors.without_unnormalizer {
            let reason = format!(
                "has no unnormalizer_processor, although config.json wants actions normalised: actions would come \
                 out in the network's units; {RAW}"
            );
            return Err(Error::Statistics { file: file.clone(), reason });
        }
        let group = robot.map(str::to_owned);
        let features = match self.groups.get(&group) {
            Some(features) => features.clone(),
            None if robot.is_none() => BTreeMap::new(),
            None => {
                let reason =
                    format!("has no statistics of `{}`; {}", robot.unwrap_or_default(), self.advice());
                return Err(error(&self.file, reason));
            }
        };
        for (feature, kind, width) in normalized(config) {
            let mode = processors.normalization_mode(kind);
            if mode == NormalizationMode::Identity {
                continue;
            }
            let file = if kind == FeatureType::Action { &self.action_file } else { &self.file };
            let Some(values) = features.get(feature) else {
                let of = robot.map_or_else(String::new, |robot| format!(" of `{robot}`"));
                let reason = format!("has no statistics{of} for {feature}; {}", self.advice());
                return Err(error(file, reason));
            };
            let normalizer = Normalizer::new(feature, mode, values, processors.eps, file)?;
            if let Some(found) = normalizer.width().filter(|found| *found != width) {
                let reason = format!(
                    "has statistics of width {found} for {feature}, which config.json says is {width} wide"
                );
                return Err(error(file, reason));
            }
        }
        Ok(SelectedStatistics { group, file: self.file.clone(), features })
    }

    /// What there is and how to choose.
    fn advice(&self) -> String {
        let robots: Vec<&str> = self.robots().collect();
        match robots.first() {
            Some(first) => format!(
                "it has those of {}: choose one, for example with --stats {first}; {RAW}",
                robots.join(", ")
            ),
            None => format!("save the policy with its processors (LeRobot does so when it trains), or {RAW}"),
        }
    }
}

fn error(file: &Path, reason: String) -> Error {
    Error::Statistics { file: file.to_owned(), reason }
}

/// Opens a state file that a processor names.
fn open(path: &Path) -> Result<WeightsFile> {
    WeightsFile::open(path).map_err(|failure| match failure {
        Error::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => error(
            path,
            format!(
                "not found, although a processor file names it; copy it from where the policy is, or {RAW}"
            ),
        ),
        other => other,
    })
}

/// Whether a tensor among the weights holds statistics of an old checkpoint.
pub(super) fn is_statistic(name: &str) -> bool {
    OLD_MODULES.iter().any(|module| name.starts_with(module))
}

/// The features that are normalised, with their width.
fn normalized(config: &PolicyConfig) -> Vec<(&str, FeatureType, usize)> {
    let mut features = vec![
        ("observation.state", FeatureType::State, config.state_dim()),
        (ACTION, FeatureType::Action, config.action_dim()),
    ];
    let cameras = config.cameras().filter(|name| !name.starts_with("observation.images.empty_camera_"));
    features.extend(cameras.map(|name| (name, FeatureType::Visual, 3)));
    features
}

type Groups = BTreeMap<Option<String>, BTreeMap<String, FeatureStatistics>>;

/// The statistics in a file, of tensors whose names begin with `prefix`.
fn read(file: &WeightsFile, features: &[&str], prefix: &str) -> Result<Groups> {
    let mut groups = Groups::new();
    for (name, entry) in file.tensors() {
        let Some((path, statistic)) = name.strip_prefix(prefix).and_then(|rest| rest.rsplit_once('.')) else {
            continue;
        };
        let (group, feature) = split_group(path, features);
        let found = groups.entry(group).or_default().entry(feature).or_default();
        let slot = match statistic {
            "mean" => &mut found.mean,
            "std" => &mut found.std,
            "min" => &mut found.min,
            "max" => &mut found.max,
            "q01" => &mut found.q01,
            "q10" => &mut found.q10,
            "q90" => &mut found.q90,
            "q99" => &mut found.q99,
            // Counts and statistics of the future, of any element type.
            _ => continue,
        };
        if entry.elements() == 0 {
            return Err(file.error(name, "has no elements".to_owned()));
        }
        let values = file.tensor(name)?.to_f32();
        if !values.iter().all(|value| value.is_infinite()) {
            *slot = Some(values);
        }
    }
    for found in groups.values_mut() {
        found.retain(|_, values| *values != FeatureStatistics::default());
    }
    groups.retain(|_, found| !found.is_empty());
    Ok(groups)
}

/// The robot and the feature that a statistic's name without its last part means.
fn split_group(path: &str, features: &[&str]) -> (Option<String>, String) {
    let (group, buffer) = match path.split_once(".buffer") {
        Some((group, rest)) => (Some(group.to_owned()), rest),
        None => match path.strip_prefix("buffer") {
            Some(rest) => (None, rest),
            None => return (None, path.to_owned()),
        },
    };
    match buffer.strip_prefix(['.', '_']) {
        Some(feature) => (group, feature_name(feature, features)),
        // A feature that merely has "buffer" in its name.
        None => (None, path.to_owned()),
    }
}

/// The feature that a name with underscores in the place of dots means.
fn feature_name(flat: &str, features: &[&str]) -> String {
    let known = features.iter().find(|feature| feature.replace('.', "_") == flat.replace('.', "_"));
    known.map_or_else(|| flat.to_owned(), |feature| (*feature).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FEATURES: [&str; 3] = ["observation.state", "observation.images.top_view", "action"];

    #[test]
    fn every_layout_of_names_is_understood() {
        let cases = [
            ("action", None, "action"),
            ("observation.state", None, "observation.state"),
            ("so100.buffer.action", Some("so100"), "action"),
            ("so100-blue.buffer.observation.state", Some("so100-blue"), "observation.state"),
            ("so100.buffer_observation_state", Some("so100"), "observation.state"),
            ("buffer_observation_images_top_view", None, "observation.images.top_view"),
            ("buffer_something_else", None, "something_else"),
            ("observation.buffered", None, "observation.buffered"),
        ];
        for (path, group, feature) in cases {
            let expected = (group.map(str::to_owned), feature.to_owned());
            assert_eq!(split_group(path, &FEATURES), expected, "{path}");
        }
    }

    #[test]
    fn old_modules_are_recognised_among_weights() {
        assert!(is_statistic("normalize_inputs.so100.buffer_action.mean"));
        assert!(is_statistic("unnormalize_outputs.buffer_action.std"));
        assert!(!is_statistic("model.state_proj.weight"));
    }
}
