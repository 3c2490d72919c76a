//! Contestants by name: a backend, its precision, and the checkpoint it runs.

use std::path::{Path, PathBuf};

use smolvla::backend::Execution;
use smolvla::policy::PolicyOptions;
use smolvla::quantise::PLAN_FILE;
use smolvla::{CheckpointSource, Device, OpenOptions, Precision, PrecisionPlan};
use smolvla_core::checkpoint::WeightsFile;
use smolvla_core::weights::StorageType;
use smolvla_tabletop::{CHUNK, PolicyPredictor};

/// What a precision can be that is the name of no number format.
const PLAN_SUFFIX: &str = ".json";

/// What tables call the policy that contestants are compared with.
pub(super) const LEROBOT: &str = "LeRobot";

/// A policy of ours that takes part, on a device that has been opened.
#[derive(Debug)]
pub struct Contestant {
    /// What tables call it.
    pub label: String,
    /// Another checkpoint than the run's.
    pub checkpoint: Option<PathBuf>,
    device: Device,
    plan: PrecisionPlan,
}

impl Contestant {
    /// Opens `BACKEND[:PRECISION]` on the run's checkpoint.
    ///
    /// What follows the last colon is a precision if it is one: a name of [`Precision`], `auto`, a plan that the backend
    /// in front of it has, or a `.json` file. Otherwise it belongs to the device: `tt:pjrt`, `wgpu:1`.
    ///
    /// # Errors
    /// When there is no such device or precision; the message says what there is.
    pub fn open(name: &str) -> Result<Self, String> {
        let (device, precision) = device(name)?;
        let plan = plan(&device, precision).map_err(|error| format!("{name}: {error}"))?;
        Ok(Self { label: name.to_owned(), checkpoint: None, device, plan })
    }

    /// Opens `LABEL=BACKEND[:PRECISION]@FOLDER`: a contestant on a checkpoint of its own. Without a precision, that is the
    /// plan in the folder where there is one.
    ///
    /// # Errors
    /// As [`Contestant::open`]; when the text is not of that form, or there is no such folder.
    pub fn open_also(text: &str) -> Result<Self, String> {
        let (label, backend, folder) = parse_also(text)?;
        if label.eq_ignore_ascii_case(LEROBOT) {
            return Err(format!("--also {text}: the label {LEROBOT} is LeRobot's own; choose another"));
        }
        let folder = PathBuf::from(folder);
        if !folder.is_dir() {
            return Err(format!("--also {text}: there is no folder {}", folder.display()));
        }
        let (device, precision) = device(backend)?;
        let own = folder.join(PLAN_FILE);
        let precision = match precision {
            None if own.is_file() => Some(own.to_string_lossy().into_owned()),
            other => other.map(str::to_owned),
        };
        let plan = plan(&device, precision.as_deref()).map_err(|error| format!("--also {text}: {error}"))?;
        Ok(Self { label: label.to_owned(), checkpoint: Some(folder), device, plan })
    }

    /// Device, what stood in for it, and precision: what a row of the report says of the contestant.
    pub fn place(&self) -> Place {
        let capabilities = self.device.capabilities();
        let device = match &capabilities.driver {
            Some(driver) => format!("{}; driver {driver}", capabilities.device),
            None => capabilities.device.clone(),
        };
        let emulated = match capabilities.execution {
            Execution::Emulated(by) => Some(by),
            _ => None,
        };
        Place { device, emulated, precision: self.plan.to_string() }
    }

    /// Observations that go into a prediction where up to `wanted` could: one where each number of them would be compiled
    /// anew.
    pub fn batch(&self, wanted: usize) -> usize {
        if self.device.capabilities().static_shapes { 1 } else { wanted }
    }

    /// Loads the policy: its own checkpoint, or else `checkpoint`. [`Contestant::batch`] of `batch` observations go into a
    /// prediction.
    ///
    /// # Errors
    /// When the checkpoint cannot be loaded, or is not for the table.
    pub fn load(self, checkpoint: &Path, batch: usize) -> Result<Loaded, String> {
        let fail = |error: &dyn std::fmt::Display| format!("{}: {error}", self.label);
        let folder = self.checkpoint.as_deref().unwrap_or(checkpoint);
        if !folder.is_dir() {
            return Err(fail(&format!("there is no checkpoint folder {}", folder.display())));
        }
        let source = CheckpointSource::Folder(folder.to_owned());
        let opened =
            smolvla::open(&source, &OpenOptions::from_env(), &mut |_| ()).map_err(|error| fail(&error))?;
        let batch = self.batch(batch);
        let options = PolicyOptions { precision: self.plan.clone(), ..PolicyOptions::default() };
        let width = opened.architecture.max_action_dim;
        let integers = integers(&folder.join("model.safetensors")).map_err(|error| fail(&error))?;
        let policy = self.device.load(&opened, &options, &mut |_| ()).map_err(|error| fail(&error))?;
        if policy.info().chunk_size != CHUNK {
            let found = policy.info().chunk_size;
            return Err(fail(&format!("its chunks have {found} actions; the table's have {CHUNK}")));
        }
        let policy = PolicyPredictor::new(policy, width, batch).map_err(|error| fail(&error))?;
        Ok(Loaded { policy, integers })
    }
}

/// A contestant's policy.
pub struct Loaded {
    /// Ready for episodes.
    pub policy: PolicyPredictor,
    /// How many of its weights are stored as integers of how many bits; `None` where none are.
    pub integers: Option<String>,
}

/// `33 weights in int8, 20 in int4`, of a file of weights.
fn integers(file: &Path) -> Result<Option<String>, smolvla_core::Error> {
    let file = WeightsFile::open(file)?;
    let count = |storage| file.tensors().filter(|(_, tensor)| tensor.storage == Some(storage)).count();
    let (int8, int4) = (count(StorageType::I8), count(StorageType::I4));
    Ok((int8 + int4 > 0).then(|| format!("{int8} weights in int8, {int4} in int4")))
}

/// Where and in what numbers a contestant runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The device, engine and driver.
    pub device: String,
    /// What stands in for the device.
    pub emulated: Option<String>,
    /// The precision plan.
    pub precision: String,
}

/// The device of `BACKEND[:PRECISION]`, and the precision that is named.
fn device(name: &str) -> Result<(Device, Option<&str>), String> {
    let whole = |name: &str| Device::open(name).map_err(|error| format!("{name}: {error}"));
    let Some((front, last)) = name.rsplit_once(':') else { return Ok((whole(name)?, None)) };
    let is_format = Precision::named(last).is_some() || last == PrecisionPlan::AUTO;
    if is_format || last.ends_with(PLAN_SUFFIX) {
        return Ok((whole(front)?, Some(last)));
    }
    if let Ok(device) = Device::open(front)
        && device.capabilities().plans.iter().any(|plan| plan.name() == Some(last))
    {
        return Ok((device, Some(last)));
    }
    match whole(name) {
        Ok(device) => Ok((device, None)),
        Err(no_device) => Err(match Device::open(front).map(|device| plan(&device, Some(last))) {
            Ok(Err(no_precision)) => {
                format!(
                    "`{last}` is neither a precision nor a device of `{front}`: {no_precision}; {no_device}"
                )
            }
            _ => no_device,
        }),
    }
}

/// The plan of a name, else the device's usual one.
fn plan(device: &Device, precision: Option<&str>) -> Result<PrecisionPlan, String> {
    let plan = match precision {
        Some(name) => PrecisionPlan::resolve(name, &device.capabilities()),
        None => device.default_plan(),
    };
    plan.map_err(|error| error.to_string())
}

/// `LABEL=BACKEND@FOLDER` in its parts.
fn parse_also(text: &str) -> Result<(&str, &str, &str), String> {
    let parts = text.split_once('=').and_then(|(label, rest)| {
        let (backend, folder) = rest.split_once('@')?;
        let is_complete = ![label, backend, folder].iter().any(|part| part.is_empty());
        is_complete.then_some((label, backend, folder))
    });
    parts.ok_or_else(|| {
        format!("--also {text}: expected LABEL=BACKEND[:PRECISION]@FOLDER, as int4=cpu:int8@my_copy")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn precision(name: &str) -> Option<String> {
        device(name).unwrap().1.map(str::to_owned)
    }

    #[test]
    fn what_follows_the_last_colon_is_a_precision_if_it_is_one() {
        assert_eq!(precision("cpu"), None);
        assert_eq!(precision("cpu:int8").as_deref(), Some("int8"));
        assert_eq!(precision("cpu:auto").as_deref(), Some("auto"));
        assert_eq!(precision("cpu:some/plan.json").as_deref(), Some("some/plan.json"));
    }

    #[cfg(feature = "tt")]
    #[test]
    fn what_names_a_device_or_plan_of_a_backend_is_that() {
        assert_eq!(precision("tt:fast").as_deref(), Some("fast"));
        assert_eq!(precision("tt:emulator"), None);
        assert_eq!(precision("tt:emulator:fast").as_deref(), Some("fast"));
        assert_eq!(Contestant::open("tt").unwrap().plan.name(), Some("balanced"));
        assert!(Contestant::open("tt:fast").unwrap().place().emulated.is_some());
    }

    #[test]
    fn what_is_neither_is_refused_with_what_there_is() {
        let error = device("cpu:int9").unwrap_err();
        assert!(error.contains("`int9` is neither") && error.contains("offers f32"), "{error}");
        let error = device("abacus").unwrap_err();
        assert!(error.contains("no `abacus`"), "{error}");
        let error = Contestant::open("reference:int8").unwrap_err();
        assert!(error.starts_with("reference:int8: ") && error.contains("int8"), "{error}");
    }

    #[test]
    fn also_takes_a_label_a_backend_and_a_folder() {
        assert_eq!(parse_also("int4=cpu:int8@a/b").unwrap(), ("int4", "cpu:int8", "a/b"));
        for wrong in ["int4", "int4=cpu", "=cpu@a", "int4=@a", "int4=cpu@"] {
            assert!(parse_also(wrong).unwrap_err().contains("LABEL=BACKEND"), "{wrong}");
        }
        assert!(Contestant::open_also("lerobot=cpu@/tmp").unwrap_err().contains("LeRobot's own"));
        assert!(Contestant::open_also("a=cpu@/nowhere/at/all").unwrap_err().contains("no folder"));
    }
}
