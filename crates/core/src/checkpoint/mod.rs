//! LeRobot checkpoint folders: configuration, weights, statistics and processors.
//!
//! [`Checkpoint::open`] reads a folder and refuses what it cannot run exactly; [`Inspection`] says what is in a
//! folder, and what would be refused, without stopping at the first problem.

mod compare;
mod file;
mod inspect;
mod layout;
mod processors;
mod scan;
mod source;
mod statistics;

use std::io;
use std::path::{Path, PathBuf};

pub use compare::{Comparison, Finding, compare};
pub(crate) use file::{LARGEST_MULTIPLIER, MULTIPLIER, SCALE, framed};
pub use file::{TensorEntry, WeightsFile};
pub use inspect::{ComponentCount, DtypeCount, FeatureSummary, Inspection, StatisticsSummary};
pub use layout::{Axis, Component, ExpectedTensor, expected};
pub use processors::Processors;
pub use scan::non_finite;
pub use statistics::{SelectedStatistics, Statistics, StatisticsChoice};

use crate::config::{Architecture, FeatureType, NormalizationMode, PolicyConfig, VlmConfig, policy};
use crate::graph::Parameters;
use crate::weights::TensorView;
use crate::{Error, Result};

const CONFIG: &str = "config.json";
pub(crate) const WEIGHTS: &str = "model.safetensors";
pub(crate) const ADAPTER: &str = "adapter_model.safetensors";
pub(crate) const MERGE_ADAPTER: &str = "merge it into its base model in LeRobot (`policy.merge_and_unload()`, then \
                                        `save_pretrained`) and load the merged folder";

/// What to make of a folder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadOptions {
    /// Ignore tensors this library does not know, with a notice, rather than refuse them.
    pub allow_unknown: bool,
    /// Which normalisation statistics to use.
    pub statistics: StatisticsChoice,
    /// Folder with the `config.json` and tokenizer of the vision-language model, in the place of the one the
    /// checkpoint names.
    pub vlm: Option<PathBuf>,
    /// A `tokenizer.json`, or a folder that holds one, in the place of the one the checkpoint names.
    pub tokenizer: Option<PathBuf>,
}

/// A LeRobot checkpoint that is complete and consistent.
///
/// ```
/// use smolvla_core::checkpoint::{Checkpoint, LoadOptions};
/// use smolvla_core::synth::{self, SynthOptions};
///
/// let folder = tempfile::tempdir()?;
/// let folder = folder.path().join("policy");
/// synth::write(&SynthOptions::default(), &folder, &mut |_, _| ())?;
///
/// let checkpoint = Checkpoint::open(&folder, &LoadOptions::default())?;
/// assert_eq!(checkpoint.config.state_dim(), 6);
/// assert_eq!(checkpoint.tensor("model.state_proj.weight")?.rows(), checkpoint.architecture.text.hidden);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Checkpoint {
    /// The folder.
    pub folder: PathBuf,
    /// LeRobot's configuration.
    pub config: PolicyConfig,
    /// The vision-language model's configuration.
    pub vlm: VlmConfig,
    /// Every size, checked against the weights.
    pub architecture: Architecture,
    /// What happens around the policy.
    pub processors: Processors,
    /// Normalisation statistics; `None` where [`StatisticsChoice::Raw`] was asked for.
    pub statistics: Option<SelectedStatistics>,
    /// The parameters.
    pub weights: WeightsFile,
    /// What a user should know: files that are absent, tensors that are ignored.
    pub notices: Vec<String>,
    tokenizer: Option<PathBuf>,
}

impl Checkpoint {
    /// Opens a checkpoint folder and checks it from end to end: every value of the weights is read once.
    ///
    /// The weights stay mapped into memory for as long as the checkpoint exists: nobody may change or truncate
    /// `model.safetensors` until it is dropped, see [`WeightsFile::open`].
    ///
    /// # Errors
    /// Each names the file, and the key or tensor, at fault: [`Error::Config`], [`Error::Corrupt`],
    /// [`Error::Tensor`] for unknown, missing, mis-shaped or non-finite tensors, [`Error::Statistics`] where
    /// the choice of statistics is left to the user, and [`Error::Io`].
    pub fn open(folder: &Path, options: &LoadOptions) -> Result<Self> {
        check_folder(folder)?;
        let config_file = folder.join(CONFIG);
        let (config, mut notices) = policy::read(&config_file)?;
        let (processors, remarks) = Processors::load(folder, &config)?;
        notices.extend(remarks);
        let vlm = source::vlm_config(folder, &config, options)?;
        let architecture = Architecture::new(&config, &vlm, &config_file)?;

        let weights = open_weights(folder)?;
        let comparison = compare(&weights, &config, &architecture, options.allow_unknown);
        refuse(&weights, &comparison)?;
        notices.extend(comparison.notices);
        let robot = match &options.statistics {
            StatisticsChoice::Raw => None,
            StatisticsChoice::Auto => Some(None),
            StatisticsChoice::Named(robot) => Some(Some(robot.as_str())),
        };
        let statistics = match robot {
            // Absent or damaged state files do not matter then.
            None => None,
            Some(robot) => {
                let (statistics, notice) = Statistics::load(folder, &processors, Some(&weights), &config)?;
                notices.extend(notice);
                Some(statistics.select(robot, &processors, &config)?)
            }
        };
        if let Some(robot) = statistics.as_ref().and_then(|statistics| statistics.group.as_ref()) {
            notices.push(format!("normalisation uses the statistics of `{robot}`"));
        }
        let problems = non_finite(&weights, &config, &architecture);
        refuse(&weights, &Comparison { problems, notices: Vec::new() })?;

        let tokenizer = source::tokenizer(folder, &config, &processors, options)?;
        notices.extend(source::tokenizer_notice(folder, &config, &processors, options, tokenizer.as_deref()));
        Ok(Self {
            folder: folder.to_owned(),
            config,
            vlm,
            architecture,
            processors,
            statistics,
            weights,
            notices,
            tokenizer,
        })
    }

    /// The configuration of a checkpoint folder and the sizes that follow from it; nothing else in it is read.
    ///
    /// # Errors
    /// [`Error::Config`], [`Error::Corrupt`] and [`Error::Io`], as [`Checkpoint::open`].
    pub fn sizes(folder: &Path, options: &LoadOptions) -> Result<(PolicyConfig, Architecture)> {
        check_folder(folder)?;
        let config_file = folder.join(CONFIG);
        let (config, _) = policy::read(&config_file)?;
        let vlm = source::vlm_config(folder, &config, options)?;
        let architecture = Architecture::new(&config, &vlm, &config_file)?;
        Ok((config, architecture))
    }

    /// The policy's `config.json`.
    pub fn config_file(&self) -> PathBuf {
        self.folder.join(CONFIG)
    }

    /// A parameter by its name in LeRobot's state dict, as a matrix.
    ///
    /// # Errors
    /// [`Error::Tensor`] when there is no such parameter.
    pub fn tensor(&self, name: &str) -> Result<TensorView<'_>> {
        self.weights.tensor(name)
    }

    /// Gives back the memory that a parameter's part of the file takes, see [`WeightsFile::release`].
    pub fn release(&self, name: &str) {
        self.weights.release(name);
    }

    /// How features of a kind are normalised.
    pub fn normalization_mode(&self, kind: FeatureType) -> NormalizationMode {
        self.processors.normalization_mode(kind)
    }

    /// The `tokenizer.json`.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] when none was at hand; [`Checkpoint::tokenizer_source`] says where to get it.
    pub fn tokenizer(&self) -> Result<&Path> {
        self.tokenizer.as_deref().ok_or_else(|| Error::Tokenizer {
            file: self.folder.join("tokenizer.json"),
            reason: format!(
                "not found, and {} is no folder on this machine; give one with --tokenizer FILE, or --vlm FOLDER",
                self.tokenizer_source()
            ),
        })
    }

    /// The folder or Hub repository that the checkpoint's tokenizer is in, as the checkpoint names it.
    pub fn tokenizer_source(&self) -> &str {
        &self.processors.tokenizer_name
    }

    /// Supplies a tokenizer that was found or fetched after the checkpoint was opened.
    ///
    /// `path` is a `tokenizer.json` or a folder that holds one.
    pub fn set_tokenizer(&mut self, path: &Path) {
        self.tokenizer = Some(source::tokenizer_file(path));
    }
}

impl Parameters for Checkpoint {
    fn tensor(&self, name: &str) -> Result<TensorView<'_>> {
        self.tensor(name)
    }

    fn release(&self, name: &str) {
        self.release(name);
    }
}

fn check_folder(folder: &Path) -> Result<()> {
    let refuse = |kind, reason: &str| {
        let source = io::Error::new(kind, reason);
        Err(Error::Io { action: "read", path: folder.to_owned(), source })
    };
    if folder.is_dir() {
        Ok(())
    } else if folder.exists() {
        refuse(io::ErrorKind::NotADirectory, "not a folder; expected a LeRobot checkpoint folder")
    } else {
        refuse(io::ErrorKind::NotFound, "no such folder; expected a LeRobot checkpoint folder")
    }
}

fn open_weights(folder: &Path) -> Result<WeightsFile> {
    let path = folder.join(WEIGHTS);
    let adapter = folder.join(ADAPTER);
    if adapter.exists() {
        let reason = format!("is a LoRA adapter, which {WEIGHTS} alone would leave out; {MERGE_ADAPTER}");
        return Err(Error::Corrupt { file: adapter, reason });
    }
    WeightsFile::open(&path)
}

/// Turns the problems of a comparison into one error.
fn refuse(weights: &WeightsFile, comparison: &Comparison) -> Result<()> {
    match comparison.problems.first() {
        Some(first) => Err(weights.error(&first.tensor, comparison.summary())),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
