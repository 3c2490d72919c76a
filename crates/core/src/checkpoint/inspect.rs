//! What is in a checkpoint folder.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use super::processors::Processors;
use super::statistics::Statistics;
use super::{
    CONFIG, Component, LoadOptions, StatisticsChoice, check_folder, compare, expected, non_finite,
    open_weights, source,
};
use crate::Result;
use crate::config::{Architecture, Feature, FeatureType, PolicyConfig, json, policy};
use crate::processor::FeatureStatistics;
use crate::quantise::FORMAT_KEY;

/// What a checkpoint folder holds and what [`super::Checkpoint::open`] would refuse about it.
///
/// Prints as a report for people and serialises for programs.
#[derive(Clone, Debug, Serialize)]
pub struct Inspection {
    /// The folder.
    pub folder: String,
    /// Every key of `config.json`, in file order.
    pub configuration: serde_json::Map<String, Value>,
    /// Input and output features in file order.
    pub features: Vec<FeatureSummary>,
    /// Statistics, by robot.
    pub statistics: Vec<StatisticsSummary>,
    /// Parameters of each component.
    pub components: Vec<ComponentCount>,
    /// Tensors of the weights file.
    pub tensors: usize,
    /// Parameters of the weights file, in all tensors.
    pub parameters: usize,
    /// Element types of the weights file.
    pub dtypes: Vec<DtypeCount>,
    /// What the weights file says about how it was quantised, by key; empty where it was not.
    pub quantisation: BTreeMap<String, String>,
    /// Size of the weights file.
    pub file_size_bytes: usize,
    /// Path of the tokenizer, where one was found.
    pub tokenizer: Option<String>,
    /// What a user should know although it is no reason to refuse.
    pub notices: Vec<String>,
    /// Why the checkpoint would not load; empty where it would.
    pub refusals: Vec<String>,
}

/// One input or output feature.
#[derive(Clone, Debug, Serialize)]
pub struct FeatureSummary {
    /// Its name.
    pub name: String,
    /// Its type, as LeRobot spells it.
    pub kind: &'static str,
    /// Its declared shape.
    pub shape: Vec<usize>,
    /// How it is normalised, as LeRobot spells it.
    pub normalization: &'static str,
}

/// The statistics of one feature of one robot.
#[derive(Clone, Debug, Serialize)]
pub struct StatisticsSummary {
    /// The robot; `None` where the checkpoint does not tell robots apart.
    pub robot: Option<String>,
    /// The feature.
    pub feature: String,
    /// Which statistics there are: `mean`, `std`, …
    pub statistics: Vec<&'static str>,
    /// Numbers in each.
    pub width: usize,
}

/// Parameters of one component.
#[derive(Clone, Debug, Serialize)]
pub struct ComponentCount {
    /// The component.
    pub component: &'static str,
    /// Its tensors.
    pub tensors: usize,
    /// Its parameters.
    pub parameters: usize,
    /// How many of them inference reads.
    pub read_at_inference: usize,
}

/// Tensors of one element type.
#[derive(Clone, Debug, Serialize)]
pub struct DtypeCount {
    /// The element type, as safetensors spells it.
    pub dtype: String,
    /// Tensors of it.
    pub tensors: usize,
    /// Bytes they take.
    pub size_bytes: usize,
}

impl Inspection {
    /// Looks at a folder. What would be refused at load is in the result.
    ///
    /// # Errors
    /// [`crate::Error::Io`] when there is no such folder.
    pub fn of(folder: &Path, options: &LoadOptions) -> Result<Self> {
        check_folder(folder)?;
        let mut inspection = Self {
            folder: folder.display().to_string(),
            configuration: serde_json::Map::new(),
            features: Vec::new(),
            statistics: Vec::new(),
            components: Vec::new(),
            tensors: 0,
            parameters: 0,
            dtypes: Vec::new(),
            quantisation: BTreeMap::new(),
            file_size_bytes: 0,
            tokenizer: None,
            notices: Vec::new(),
            refusals: Vec::new(),
        };
        let weights = inspection.or_refuse(open_weights(folder));
        if let Some(weights) = &weights {
            inspection.count_tensors(weights);
        }
        let config_file = folder.join(CONFIG);
        let Some(value) = inspection.or_refuse(json::read(&config_file)) else { return Ok(inspection) };
        if let Value::Object(map) = &value {
            inspection.configuration.clone_from(map);
        }
        let Some((config, notices)) = inspection.or_refuse(policy::parse(&config_file, &value)) else {
            return Ok(inspection);
        };
        inspection.notices.extend(notices);
        if let Some((processors, notices)) = inspection.or_refuse(Processors::load(folder, &config)) {
            inspection.notices.extend(notices);
            inspection.summarize_features(&config, &processors);
            let statistics = Statistics::load(folder, &processors, weights.as_ref(), &config);
            let statistics = match &options.statistics {
                StatisticsChoice::Raw => statistics.ok(),
                _ => inspection.or_refuse(statistics),
            };
            if let Some((statistics, notice)) = statistics {
                inspection.notices.extend(notice);
                inspection.summarize_statistics(&statistics);
                let selected = match &options.statistics {
                    StatisticsChoice::Raw => Ok(()),
                    StatisticsChoice::Auto => statistics.select(None, &processors, &config).map(drop),
                    StatisticsChoice::Named(robot) => {
                        statistics.select(Some(robot), &processors, &config).map(drop)
                    }
                };
                inspection.or_refuse(selected);
            }
            let tokenizer = source::tokenizer(folder, &config, &processors, options);
            match inspection.or_refuse(tokenizer) {
                Some(Some(file)) => {
                    inspection.tokenizer = Some(file.display().to_string());
                    let notice = source::tokenizer_notice(folder, &config, &processors, options, Some(&file));
                    inspection.notices.extend(notice);
                }
                Some(None) => inspection.notices.push(format!(
                    "no tokenizer at hand: it is in {}, or give one with --tokenizer",
                    processors.tokenizer_name
                )),
                None => {}
            }
        }
        let architecture = source::vlm_config(folder, &config, options)
            .and_then(|vlm| Architecture::new(&config, &vlm, &config_file));
        if let (Some(architecture), Some(weights)) = (inspection.or_refuse(architecture), &weights) {
            inspection.count_components(weights, &config, &architecture);
            let comparison = compare(weights, &config, &architecture, options.allow_unknown);
            let name = weights.path().display().to_string();
            let non_finite = non_finite(weights, &config, &architecture);
            let problems = comparison.problems.into_iter().chain(non_finite);
            inspection
                .refusals
                .extend(problems.map(|found| format!("{name}: {}: {}", found.tensor, found.reason)));
            inspection.notices.extend(comparison.notices);
        }
        Ok(inspection)
    }

    /// The value, or `None` with the error among the refusals.
    fn or_refuse<T>(&mut self, result: Result<T>) -> Option<T> {
        result.map_err(|error| self.refusals.push(error.to_string())).ok()
    }

    fn count_tensors(&mut self, weights: &super::WeightsFile) {
        let mut dtypes: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
        for (name, entry) in weights.tensors() {
            // Scales are how other numbers are stored, no parameters of their own.
            if weights.partner_of(name).is_none() {
                self.parameters += entry.elements();
            }
            let (tensors, size_bytes) = dtypes.entry(&entry.dtype).or_default();
            *tensors += 1;
            *size_bytes += entry.size_bytes();
        }
        self.tensors = weights.tensors().len();
        self.file_size_bytes = weights.size_bytes();
        if weights.metadata().contains_key(FORMAT_KEY) {
            self.quantisation.clone_from(weights.metadata());
        }
        self.dtypes = dtypes
            .into_iter()
            .map(|(dtype, (tensors, size_bytes))| DtypeCount { dtype: dtype.to_owned(), tensors, size_bytes })
            .collect();
    }

    fn count_components(
        &mut self,
        weights: &super::WeightsFile,
        config: &PolicyConfig,
        architecture: &Architecture,
    ) {
        let mut counts = Component::ALL.map(|component| {
            (
                component,
                ComponentCount {
                    component: component.name(),
                    tensors: 0,
                    parameters: 0,
                    read_at_inference: 0,
                },
            )
        });
        for tensor in expected(config, architecture) {
            let Some(entry) = weights.entry(&tensor.name) else { continue };
            if let Some((_, count)) = counts.iter_mut().find(|(component, _)| *component == tensor.component)
            {
                count.tensors += 1;
                count.parameters += entry.elements();
                count.read_at_inference += if tensor.needed { entry.elements() } else { 0 };
            }
        }
        self.components = counts.into_iter().map(|(_, count)| count).collect();
    }

    fn summarize_features(&mut self, config: &PolicyConfig, processors: &Processors) {
        let summary = |(name, feature): &(String, Feature)| FeatureSummary {
            name: name.clone(),
            kind: feature.kind.name(),
            shape: feature.shape.clone(),
            normalization: match feature.kind {
                kind @ (FeatureType::State | FeatureType::Action | FeatureType::Visual) => {
                    processors.normalization_mode(kind).name()
                }
                _ => "unused",
            },
        };
        self.features = config.input_features.iter().chain(&config.output_features).map(summary).collect();
    }

    fn summarize_statistics(&mut self, statistics: &Statistics) {
        for (robot, features) in &statistics.groups {
            for (feature, values) in features {
                let present = present(values);
                self.statistics.push(StatisticsSummary {
                    robot: robot.clone(),
                    feature: feature.clone(),
                    width: present.first().map_or(0, |(_, width)| *width),
                    statistics: present.into_iter().map(|(name, _)| name).collect(),
                });
            }
        }
    }
}

/// Name and width of the statistics a feature has.
fn present(values: &FeatureStatistics) -> Vec<(&'static str, usize)> {
    let all = [
        ("mean", &values.mean),
        ("std", &values.std),
        ("min", &values.min),
        ("max", &values.max),
        ("q01", &values.q01),
        ("q10", &values.q10),
        ("q90", &values.q90),
        ("q99", &values.q99),
    ];
    all.into_iter().filter_map(|(name, values)| Some((name, values.as_ref()?.len()))).collect()
}

impl fmt::Display for Inspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.folder)?;
        writeln!(f, "\nfeatures")?;
        for FeatureSummary { name, kind, shape, normalization } in &self.features {
            writeln!(f, "  {name:<32} {kind:<8} {shape:?} {normalization}")?;
        }
        writeln!(f, "\nstatistics")?;
        if self.statistics.is_empty() {
            writeln!(f, "  none")?;
        }
        for StatisticsSummary { robot, feature, statistics, width } in &self.statistics {
            let robot = robot.as_deref().unwrap_or("any robot");
            writeln!(f, "  {robot:<12} {feature:<32} [{width}] {}", statistics.join(" "))?;
        }
        writeln!(f, "\nconfiguration")?;
        let long = ["input_features", "output_features"];
        for (key, value) in self.configuration.iter().filter(|(key, _)| !long.contains(&key.as_str())) {
            writeln!(f, "  {key:<32} {value}")?;
        }
        writeln!(f, "\nparameters {:>32} {:>15}", "", "read at inference")?;
        for ComponentCount { component, tensors, parameters, read_at_inference } in &self.components {
            let (all, read) = (grouped(*parameters), grouped(*read_at_inference));
            writeln!(f, "  {component:<12} {tensors:>5} tensors {all:>15} {read:>17}")?;
        }
        let read: usize = self.components.iter().map(|count| count.read_at_inference).sum();
        let (all, read) = (grouped(self.parameters), grouped(read));
        writeln!(f, "  {:<12} {:>5} tensors {all:>15} {read:>17}", "total", self.tensors)?;
        writeln!(f, "\nweights file of {} bytes", grouped(self.file_size_bytes))?;
        for DtypeCount { dtype, tensors, size_bytes } in &self.dtypes {
            writeln!(f, "  {dtype:<12} {tensors:>5} tensors {:>15} bytes", grouped(*size_bytes))?;
        }
        if !self.quantisation.is_empty() {
            writeln!(f, "\nquantisation")?;
            for (key, value) in &self.quantisation {
                writeln!(f, "  {key:<32} {value}")?;
            }
        }
        writeln!(f, "\ntokenizer\n  {}", self.tokenizer.as_deref().unwrap_or("none at hand"))?;
        for (title, lines) in [("notices", &self.notices), ("would be refused", &self.refusals)] {
            if !lines.is_empty() {
                writeln!(f, "\n{title}")?;
            }
            for line in lines {
                writeln!(f, "  {line}")?;
            }
        }
        Ok(())
    }
}

/// A number with commas between groups of three digits.
fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_by_three() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(450_046_176), "450,046,176");
    }
}
