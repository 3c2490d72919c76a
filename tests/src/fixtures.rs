//! Cases, goldens and checkpoints of the suite.
//!
//! Goldens lie in this package. Checkpoints are made from their seeds ([`synth`]), so the repository holds only
//! what LeRobot computed; each is compared by hash with the one LeRobot ran.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::Deserialize;
use sha2::{Digest, Sha256};
use smolvla_core::checkpoint::{Checkpoint, LoadOptions};
use smolvla_core::policy::Observation;
use smolvla_core::processor::Image;
use smolvla_core::synth::{self, Size, SynthOptions};

use crate::evidence::Stop;
use crate::golden::Golden;
use crate::report::CaseReport;

/// Name of the case with many observations and noises, whose golden holds actions only.
pub const ACTION_SPACE: &str = "action_space";

/// One entry of `fixtures/cases.json`.
#[derive(Clone, Debug, Deserialize)]
pub struct Case {
    /// Its name, and that of its golden files.
    pub name: String,
    #[serde(deserialize_with = "size")]
    size: Size,
    seed: u64,
    config: serde_json::Map<String, serde_json::Value>,
    reference: Vec<String>,
    #[serde(default)]
    stages: Stages,
    #[serde(default)]
    steps: Option<usize>,
    #[serde(default)]
    rename_map: HashMap<String, String>,
    #[serde(default)]
    observations: Vec<CaseObservation>,
}

/// How much of a run a golden holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stages {
    /// Every stage, whole.
    #[default]
    All,
    /// Everything but the images and the vision tower.
    NoVision,
    /// Samples of every stage.
    Digest,
    /// Inputs, noise and actions.
    Actions,
}

#[derive(Clone, Debug, Deserialize)]
struct CaseObservation {
    images: HashMap<String, CaseImage>,
}

#[derive(Clone, Debug, Deserialize)]
struct CaseImage {
    /// A picture of the repository, where the golden does not hold the pixels.
    file: Option<PathBuf>,
}

impl Case {
    /// Size of the checkpoint.
    pub fn size(&self) -> Size {
        self.size
    }

    /// How much of the run its golden holds.
    pub fn stages(&self) -> Stages {
        self.stages
    }

    /// Euler steps, where not the configuration's.
    pub fn steps(&self) -> Option<usize> {
        self.steps
    }

    /// Whether LeRobot also ran it in bfloat16.
    pub fn has_mixed(&self) -> bool {
        self.reference.iter().any(|reference| reference == "mixed")
    }
}

/// Which of LeRobot's runs a golden is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reference {
    /// With the checkpoint's weights in f32.
    Fp32,
    /// As LeRobot runs the file's own bfloat16.
    Mixed,
}

impl Reference {
    fn name(self) -> &'static str {
        match self {
            Self::Fp32 => "fp32",
            Self::Mixed => "mixed",
        }
    }
}

/// All cases, with the folders their files are in. Shared by checks that run at once.
#[derive(Debug)]
pub struct Fixtures {
    folder: PathBuf,
    cases: Vec<Case>,
    /// Tiny checkpoints, for the life of this value.
    temporary: tempfile::TempDir,
    /// Where real-size checkpoints are kept between runs.
    kept: PathBuf,
    /// Checkpoint folders whose weights have been compared with LeRobot's. Held while one is made, so that checks that
    /// share it wait.
    ready: Mutex<HashSet<PathBuf>>,
}

impl Fixtures {
    /// Reads this package's cases.
    ///
    /// # Errors
    /// [`Stop::Fixture`] when `cases.json` is absent or malformed, or no temporary folder can be made.
    pub fn open() -> Result<Self, Stop> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
        let cases = read_json(&folder.join("cases.json"))?;
        let temporary = tempfile::tempdir().map_err(|error| fixture("a temporary folder", &error))?;
        Ok(Self { folder, cases, temporary, kept: target_folder().join("tmp"), ready: Mutex::default() })
    }

    /// Every case.
    pub fn cases(&self) -> &[Case] {
        &self.cases
    }

    /// The case of a name.
    ///
    /// # Errors
    /// [`Stop::Fixture`] when there is none.
    pub fn case(&self, name: &str) -> Result<&Case, Stop> {
        self.cases
            .iter()
            .find(|case| case.name == name)
            .ok_or_else(|| Stop::Fixture(format!("cases.json has no case `{name}`")))
    }

    /// What LeRobot computed for a case.
    ///
    /// # Errors
    /// [`Stop::Fixture`] when the file is absent or unusable.
    pub fn golden(&self, case: &Case, reference: Reference) -> Result<Golden, Stop> {
        Ok(Golden::open(&self.golden_file(case, reference))?)
    }

    /// What LeRobot was given: the golden's inputs, with the pictures of the repository where a case takes those.
    ///
    /// # Errors
    /// [`Stop`] when an input is absent or malformed.
    pub fn observations(&self, case: &Case, golden: &Golden) -> Result<Vec<Observation>, Stop> {
        let mut observations = golden.observations()?;
        for (observation, inputs) in observations.iter_mut().zip(&case.observations) {
            for (camera, image) in &inputs.images {
                let Some(file) = &image.file else { continue };
                let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file);
                observation.images.push((camera.clone(), Image::open(path)?));
            }
        }
        Ok(observations)
    }

    /// Opens a case's checkpoint, made from its seed, and makes sure that it is the one LeRobot ran.
    ///
    /// # Errors
    /// [`Stop`] when it cannot be made, or is not that one.
    pub fn checkpoint(&self, case: &Case) -> Result<Checkpoint, Stop> {
        let folder = self.checkpoint_folder(case)?;
        Ok(Checkpoint::open(&folder, &LoadOptions::default())?)
    }

    /// As [`Fixtures::checkpoint`], the folder.
    ///
    /// # Errors
    /// As there.
    pub fn checkpoint_folder(&self, case: &Case) -> Result<PathBuf, Stop> {
        let parent = match case.size {
            Size::Base => &self.kept,
            Size::Tiny => self.temporary.path(),
        };
        let inputs = serde_json::to_vec(&(&case.config, &case.rename_map))
            .map_err(|error| Stop::Fixture(format!("case {}: {error}", case.name)))?;
        let key = &hex(&Sha256::digest(inputs))[..8];
        let folder = parent.join(format!("{}-{}-{key}", case.size.name(), case.seed));
        let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        if !ready.contains(&folder) {
            let golden = self.golden(case, Reference::Fp32)?;
            make(case, &folder, golden.metadata("model_sha256")?)?;
            ready.insert(folder.clone());
        }
        Ok(folder)
    }

    /// What a report says of a case.
    ///
    /// # Errors
    /// [`Stop::Fixture`] when its golden is absent or unusable.
    pub fn describe(&self, case: &Case) -> Result<CaseReport, Stop> {
        let golden = self.golden(case, Reference::Fp32)?;
        let metadata = |key| golden.metadata(key).map(str::to_owned);
        Ok(CaseReport {
            name: case.name.clone(),
            size: case.size.name().to_owned(),
            seed: case.seed,
            model_sha256: metadata("model_sha256")?,
            golden_sha256: sha256(&self.golden_file(case, Reference::Fp32))?,
            lerobot: metadata("lerobot")?,
            torch: metadata("torch")?,
        })
    }

    fn golden_file(&self, case: &Case, reference: Reference) -> PathBuf {
        self.folder.join(format!("golden/{}.{}.safetensors", case.name, reference.name()))
    }
}

/// Writes the checkpoint unless the folder holds it already.
fn make(case: &Case, folder: &Path, expected: &str) -> Result<(), Stop> {
    let weights = folder.join("model.safetensors");
    if weights.is_file() && sha256(&weights)? == expected {
        return Ok(());
    }
    // Absent, or left by an older version.
    if folder.exists() {
        fs::remove_dir_all(folder).map_err(|error| fixture(&folder.display().to_string(), &error))?;
    }
    let options = SynthOptions { size: case.size, seed: case.seed, overrides: case.config.clone() };
    if let Err(error) = synth::write(&options, folder, &mut |_, _| ()) {
        // Another process may have made it in the meantime.
        return if weights.is_file() && sha256(&weights)? == expected { Ok(()) } else { Err(error.into()) };
    }
    rename_cameras(folder, &case.rename_map)?;
    let hash = sha256(&weights)?;
    if hash == expected {
        return Ok(());
    }
    Err(Stop::Fixture(format!(
        "case {}: synth wrote weights {hash}, LeRobot ran {expected}; if synth was meant to change, run `cargo xtask golden`",
        case.name
    )))
}

/// Puts a rename map into the checkpoint's preprocessor, as a fine-tuned policy has one.
fn rename_cameras(folder: &Path, renames: &HashMap<String, String>) -> Result<(), Stop> {
    if renames.is_empty() {
        return Ok(());
    }
    let path = folder.join("policy_preprocessor.json");
    let mut json: serde_json::Value = read_json(&path)?;
    let map = serde_json::to_value(renames).map_err(|error| Stop::Fixture(error.to_string()))?;
    let step = json["steps"]
        .as_array_mut()
        .into_iter()
        .flatten()
        .find(|step| step["registry_name"] == "rename_observations_processor")
        .ok_or_else(|| Stop::Fixture(format!("{}: has no rename step", path.display())))?;
    step["config"]["rename_map"] = map;
    fs::write(&path, json.to_string()).map_err(|error| fixture(&path.display().to_string(), &error))
}

/// The target folder of the build that this program is part of, else a folder of the system's own for such things.
pub(crate) fn target_folder() -> PathBuf {
    let program = std::env::current_exe().unwrap_or_default();
    let profile = program.ancestors().find(|folder| folder.join(".fingerprint").is_dir());
    match profile.and_then(Path::parent) {
        Some(target) => target.to_owned(),
        None => std::env::temp_dir().join("smolvla-conformance"),
    }
}

fn size<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Size, D::Error> {
    match String::deserialize(deserializer)?.as_str() {
        "tiny" => Ok(Size::Tiny),
        "base" => Ok(Size::Base),
        other => Err(serde::de::Error::custom(format!("size `{other}`; expected tiny or base"))),
    }
}

fn read_json<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<T, Stop> {
    let name = path.display().to_string();
    let text = fs::read_to_string(path).map_err(|error| fixture(&name, &error))?;
    serde_json::from_str(&text).map_err(|error| Stop::Fixture(format!("{name}: {error}")))
}

pub(crate) fn sha256(path: &Path) -> Result<String, Stop> {
    let fail = |error: io::Error| fixture(&path.display().to_string(), &error);
    let mut hasher = Sha256::new();
    let mut file = fs::File::open(path).map_err(fail)?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).map_err(fail)? {
            0 => return Ok(hex(&hasher.finalize())),
            count => hasher.update(&buffer[..count]),
        }
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn fixture(what: &str, error: &io::Error) -> Stop {
    Stop::Fixture(format!("{what}: {error}"))
}
