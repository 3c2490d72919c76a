//! Synthetic checkpoints: complete LeRobot folders with made-up weights.
//!
//! They stand in for published weights where none can be fetched, and for tests. LeRobot loads them unchanged
//! (from within the folder, since the vision-language model is named by the relative path `vlm`). Every byte
//! follows from the options, on every machine and with any number of threads.

mod config;
mod statistics;
mod tokenizer;
mod values;
mod weights;

use std::path::{Path, PathBuf};
use std::{fs, io};

use serde_json::{Map, Value, json};

use crate::config::{Architecture, PolicyConfig, VlmConfig, json as json_file, policy};
use crate::{Error, Result};

/// Raised whenever the same options begin to give other bytes.
const FORMAT: u64 = 1;
const MANIFEST: &str = "synth.json";

/// How large the model is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Size {
    /// The sizes of `lerobot/smolvla_base`: 450 million parameters, a file of 907 MB.
    Base,
    /// A model of the same shape with a million parameters.
    #[default]
    Tiny,
}

impl Size {
    /// The name used on the command line and in the folder's manifest.
    pub fn name(self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::Tiny => "tiny",
        }
    }
}

/// What to write.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SynthOptions {
    /// How large the model is.
    pub size: Size,
    /// Chooses the weights.
    pub seed: u64,
    /// Values that replace those of `config.json`, by key; sizes follow from the result.
    pub overrides: Map<String, Value>,
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SynthReport {
    /// The folder.
    pub folder: PathBuf,
    /// Whether the folder held this very checkpoint already, so that nothing was written.
    pub reused: bool,
    /// Tensors in `model.safetensors`.
    pub tensors: usize,
    /// Parameters in them.
    pub parameters: usize,
    /// Size of `model.safetensors`.
    pub file_size_bytes: u64,
}

/// Writes a synthetic checkpoint folder. `progress` hears of bytes written and bytes in all.
///
/// The folder appears when it is complete: it is written beside `out` and renamed. An existing folder is left
/// alone unless it is empty; one that holds this very checkpoint (by its manifest and the sizes of its files)
/// is reported as such.
///
/// # Errors
/// [`Error::Io`] when `out` holds something else or cannot be written; [`Error::Input`] when an override names
/// no key of `config.json`; [`Error::Config`] when the overrides do not make a valid configuration.
///
/// ```
/// use smolvla_core::synth::{self, SynthOptions};
///
/// let folder = tempfile::tempdir()?;
/// let report = synth::write(&SynthOptions::default(), &folder.path().join("policy"), &mut |_, _| ())?;
/// assert_eq!(report.tensors, 124);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn write(options: &SynthOptions, out: &Path, progress: &mut dyn FnMut(u64, u64)) -> Result<SynthReport> {
    let plan = Plan::new(options)?;
    let report = |reused| SynthReport {
        folder: out.to_owned(),
        reused,
        tensors: plan.weights.tensors(),
        parameters: plan.weights.parameters(),
        file_size_bytes: plan.weights.file_size_bytes(),
    };
    if is_written(options, out)? {
        return Ok(report(true));
    }
    let parent = match out.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
    let beside = tempfile::Builder::new()
        .prefix(".smolvla-synth-")
        .tempdir_in(parent)
        .map_err(Error::io("create", parent))?;
    // A folder within the private temporary one, so that the result has ordinary permissions.
    let folder = beside.path().join("checkpoint");
    plan.write(&folder, progress)?;
    if out.exists() {
        fs::remove_dir(out).map_err(Error::io("replace", out))?;
    }
    fs::rename(&folder, out).map_err(Error::io("create", out))?;
    Ok(report(false))
}

/// The configuration and sizes of the checkpoint that [`write()`] would write, without writing it.
///
/// # Errors
/// As [`write()`], but for those about files.
///
/// ```
/// use smolvla_core::synth::{self, Size, SynthOptions};
///
/// let options = SynthOptions { size: Size::Base, ..SynthOptions::default() };
/// let (policy, architecture) = synth::sizes(&options)?;
/// assert_eq!((policy.num_steps, architecture.expert.hidden), (10, 720));
/// # Ok::<(), smolvla_core::Error>(())
/// ```
pub fn sizes(options: &SynthOptions) -> Result<(PolicyConfig, Architecture)> {
    let (_, _, policy, architecture) = configure(options)?;
    Ok((policy, architecture))
}

/// Both `config.json` files, the policy's with its overrides, and what they mean.
fn configure(options: &SynthOptions) -> Result<(Map<String, Value>, Value, PolicyConfig, Architecture)> {
    let mut config = config::policy(options.size);
    for (key, value) in &options.overrides {
        let Some(known) = config.get_mut(key) else {
            return Err(Error::input("overrides", format!("config.json has no key `{key}`")));
        };
        known.clone_from(value);
    }
    let vlm = config::vlm(options.size);
    let (policy_config, _) = policy::parse(Path::new("config.json"), &Value::Object(config.clone()))?;
    let vlm_config = VlmConfig::parse(Path::new("vlm/config.json"), &vlm)?;
    let architecture = Architecture::new(&policy_config, &vlm_config, Path::new("config.json"))?;
    Ok((config, vlm, policy_config, architecture))
}

/// Everything but the bytes of the weights.
struct Plan {
    /// Small files by their path in the folder.
    files: Vec<(String, Vec<u8>)>,
    weights: weights::Plan,
    manifest: Map<String, Value>,
}

impl Plan {
    fn new(options: &SynthOptions) -> Result<Self> {
        let (config, vlm, policy_config, architecture) = configure(options)?;

        let mut files = vec![
            ("config.json".to_owned(), config::to_bytes(&Value::Object(config.clone()), 4)),
            ("vlm/config.json".to_owned(), config::to_bytes(&vlm, 2)),
        ];
        files.extend(tokenizer::files(options.size)?);
        files.extend(processor_files(&config, &policy_config)?);
        let weights = weights::Plan::new(options.seed, &policy_config, &architecture)?;
        let mut sizes: Map<String, Value> =
            files.iter().map(|(path, bytes)| (path.clone(), json!(bytes.len()))).collect();
        sizes.insert(weights::FILE.to_owned(), json!(weights.file_size_bytes()));
        let mut manifest = identity(options);
        manifest.insert("files".to_owned(), Value::Object(sizes));
        Ok(Self { files, weights, manifest })
    }

    fn write(&self, folder: &Path, progress: &mut dyn FnMut(u64, u64)) -> Result<()> {
        let manifest = config::to_bytes(&Value::Object(self.manifest.clone()), 2);
        let manifest = (MANIFEST.to_owned(), manifest);
        for (path, bytes) in self.files.iter().chain([&manifest]) {
            let path = folder.join(path);
            let parent = path.parent().unwrap_or(folder);
            fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
            fs::write(&path, bytes).map_err(Error::io("write", &path))?;
        }
        self.weights.write(&folder.join(weights::FILE), progress)
    }
}

/// The processor files and their state files.
fn processor_files(config: &Map<String, Value>, policy: &PolicyConfig) -> Result<Vec<(String, Vec<u8>)>> {
    const BEFORE: &str = "policy_preprocessor_step_5_normalizer_processor.safetensors";
    const AFTER: &str = "policy_postprocessor_step_0_unnormalizer_processor.safetensors";
    let state = statistics::state_file(policy)?;
    Ok(vec![
        ("policy_preprocessor.json".to_owned(), config::to_bytes(&config::preprocessor(config, BEFORE), 2)),
        (BEFORE.to_owned(), state.clone()),
        ("policy_postprocessor.json".to_owned(), config::to_bytes(&config::postprocessor(config, AFTER), 2)),
        (AFTER.to_owned(), state),
    ])
}

/// What tells one synthetic checkpoint from another.
fn identity(options: &SynthOptions) -> Map<String, Value> {
    let mut identity = Map::new();
    identity.insert("generator".to_owned(), json!("smolvla synth"));
    identity.insert("format".to_owned(), json!(FORMAT));
    identity.insert("size".to_owned(), json!(options.size.name()));
    identity.insert("seed".to_owned(), json!(options.seed));
    identity.insert("overrides".to_owned(), Value::Object(options.overrides.clone()));
    identity
}

/// Whether `out` holds the checkpoint of these options.
///
/// # Errors
/// [`Error::Io`] when it holds anything else.
fn is_written(options: &SynthOptions, out: &Path) -> Result<bool> {
    let refuse = |reason: &str| {
        let reason = format!("it exists and {reason}; choose another folder or remove it");
        Err(Error::io("write", out)(io::Error::new(io::ErrorKind::AlreadyExists, reason)))
    };
    if !out.exists() {
        return Ok(false);
    }
    if !out.is_dir() {
        return refuse("is not a folder");
    }
    if fs::read_dir(out).map_err(Error::io("read", out))?.next().is_none() {
        return Ok(false);
    }
    let Ok(Value::Object(mut manifest)) = json_file::read(&out.join(MANIFEST)) else {
        return refuse("holds something that is not a synthetic checkpoint");
    };
    let files = manifest.remove("files");
    if manifest != identity(options) {
        return refuse("holds a synthetic checkpoint of other options or another version");
    }
    let complete = files.as_ref().and_then(Value::as_object).is_some_and(|files| {
        files.iter().all(|(path, size)| {
            fs::metadata(out.join(path)).is_ok_and(|found| Some(found.len()) == size.as_u64())
        })
    });
    if complete { Ok(true) } else { refuse("holds a synthetic checkpoint with files missing or changed") }
}

#[cfg(test)]
mod tests;
