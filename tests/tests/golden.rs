//! Every backend against LeRobot's own results, stage by stage.
//!
//! The checkpoints are made from their seeds (`synth`), so the repository holds only what LeRobot computed.

use std::collections::HashMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};

use libtest_mimic::{Arguments, Failed, Trial};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use smolvla_conformance::metrics::{max_abs, nmse};
use smolvla_conformance::{Golden, Recorder, compare_stages};
use smolvla_core::Backend;
use smolvla_core::checkpoint::{Checkpoint, LoadOptions};
use smolvla_core::config::Architecture;
use smolvla_core::graph::PrefixLayout;
use smolvla_core::policy::{ChunkRequest, Noise, Observation, Policy, PolicyOptions, SmolVla};
use smolvla_core::processor::Image;
use smolvla_core::reference::Reference;
use smolvla_core::synth::{self, Size, SynthOptions};

/// Largest NMSE of a stage of an f32 backend: a relative error of 1e-5, which leaves room for sums in another order
/// over 44 layers and ten steps; a wrong formula is off by far more.
const STAGE_NMSE: f64 = 1e-10;

/// Largest difference of a normalised action of the real-size model, absolute: a hundredth of what bf16 costs
/// LeRobot itself, and far below what a joint's encoder resolves.
const BASE_ACTION_MAX_ABS: f64 = 1e-4;

/// Largest difference between our f32 actions and those of LeRobot running the file's own bfloat16, absolute and
/// normalised: what that precision costs LeRobot itself on these checkpoints (0.054 at most, measured). It shows
/// that both references are of the same policy, and is where low precisions will be judged from.
const MIXED_ACTION_MAX_ABS: f64 = 0.06;

/// Largest difference of a pixel: values in [−1, 1] that torch interpolates in f32.
const PIXEL_MAX_ABS: f64 = 2e-6;

fn main() {
    let cases: Vec<Case> = read_json(&fixtures().join("cases.json"));
    let checkpoints = Arc::new(Checkpoints::default());
    let mut trials = Vec::new();
    for case in cases {
        let case = Arc::new(case);
        if case.size == "tiny" {
            trials.push(trial("reference", Reference, &case, &checkpoints, tiny));
            trials.push(trial("cpu", smolvla_backend_cpu::open(), &case, &checkpoints, tiny));
        } else {
            trials.push(trial("cpu", smolvla_backend_cpu::open(), &case, &checkpoints, base));
        }
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

/// One entry of `fixtures/cases.json`.
#[derive(Debug, Deserialize)]
struct Case {
    name: String,
    size: String,
    seed: u64,
    config: serde_json::Map<String, serde_json::Value>,
    reference: Vec<String>,
    #[serde(default)]
    rename_map: HashMap<String, String>,
    observations: Vec<CaseObservation>,
}

#[derive(Debug, Deserialize)]
struct CaseObservation {
    images: HashMap<String, CaseImage>,
}

#[derive(Debug, Deserialize)]
struct CaseImage {
    /// A picture of the repository, where the golden does not hold the pixels.
    file: Option<PathBuf>,
}

type Check<B> = fn(B, &Case, &Checkpoints) -> Result<(), Failed>;

fn trial<B: Backend>(
    name: &str,
    backend: B,
    case: &Arc<Case>,
    checkpoints: &Arc<Checkpoints>,
    check: Check<B>,
) -> Trial {
    let (case, checkpoints) = (Arc::clone(case), Arc::clone(checkpoints));
    Trial::test(format!("{}::{}::{name}", case.size, case.name), move || check(backend, &case, &checkpoints))
}

/// Inputs, every stage, and the actions; with LeRobot's padding and without any.
fn tiny<B: Backend>(backend: B, case: &Case, checkpoints: &Checkpoints) -> Result<(), Failed> {
    let golden = golden(case)?;
    let checkpoint = checkpoints.open(case, &golden)?;
    let options = PolicyOptions { layout: Some(PrefixLayout::Padded), ..PolicyOptions::default() };
    let mut policy = SmolVla::open(backend, &checkpoint, &options, &mut |_| ())?;
    let observations = golden.observations()?;
    compare_inputs(&policy, &observations, &golden)?;

    let mut recorder = Recorder::default();
    let request = ChunkRequest { noise: Some(noise(&golden)?), steps: None };
    let padded = policy.predict_action_chunk(&observations, &request, &mut recorder)?;
    check_stages(&golden, &recorder, &checkpoint.architecture)?;
    within("actions.normalized", &golden, &padded.normalized)?;
    within("actions", &golden, &padded.actions)?;
    compare_with_mixed(case, &padded.normalized)?;

    policy.set_layout(PrefixLayout::Packed);
    let packed = policy.predict_action_chunk(&observations, &request, &mut smolvla_core::graph::Silent)?;
    if packed.prefix_tokens > padded.prefix_tokens {
        return Err("packing made the prefix longer".into());
    }
    within("actions.normalized", &golden, &packed.normalized)?;
    Ok(())
}

/// Digests of every stage and the final actions of the real-size model.
fn base<B: Backend>(backend: B, case: &Case, checkpoints: &Checkpoints) -> Result<(), Failed> {
    let golden = golden(case)?;
    let checkpoint = checkpoints.open(case, &golden)?;
    let options = PolicyOptions { layout: Some(PrefixLayout::Padded), ..PolicyOptions::default() };
    let mut policy = SmolVla::open(backend, &checkpoint, &options, &mut |_| ())?;
    let mut observations = golden.observations()?;
    for (observation, inputs) in observations.iter_mut().zip(&case.observations) {
        for (camera, image) in &inputs.images {
            let file = image.file.as_ref().ok_or("a base case takes its images from files")?;
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file);
            observation.images.push((camera.clone(), Image::open(path)?));
        }
    }

    let mut recorder = Recorder::default();
    let request = ChunkRequest { noise: Some(noise(&golden)?), steps: None };
    let chunk = policy.predict_action_chunk(&observations, &request, &mut recorder)?;
    check_stages(&golden, &recorder, &checkpoint.architecture)?;
    let (_, expected) = golden.f32("actions.normalized")?;
    let error = max_abs(expected, &chunk.normalized);
    if error > BASE_ACTION_MAX_ABS {
        return Err(format!("actions differ by {error:.1e}, allowed {BASE_ACTION_MAX_ABS:.0e}").into());
    }
    compare_with_mixed(case, &chunk.normalized)
}

/// Our actions against LeRobot's in bfloat16, where the case has them.
fn compare_with_mixed(case: &Case, actions: &[f32]) -> Result<(), Failed> {
    if !case.reference.iter().any(|reference| reference == "mixed") {
        return Ok(());
    }
    let golden = Golden::open(&fixtures().join(format!("golden/{}.mixed.safetensors", case.name)))?;
    let error = max_abs(golden.f32("actions.normalized")?.1, actions);
    if error <= MIXED_ACTION_MAX_ABS {
        return Ok(());
    }
    Err(format!("actions differ from LeRobot's in bfloat16 by {error:.3}, allowed {MIXED_ACTION_MAX_ABS}")
        .into())
}

/// Every stage of the golden but those that LeRobot computes and no action depends on.
fn check_stages(golden: &Golden, recorder: &Recorder, architecture: &Architecture) -> Result<(), Failed> {
    let mut differences = compare_stages(golden, recorder);
    let read = architecture.expert.schedule.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
    differences.retain(|difference| !is_dead(&difference.stage, read));
    if differences.len() < 10 {
        return Err(format!("only {} stages to compare", differences.len()).into());
    }
    let worst = differences.iter().map(|d| d.nmse).fold(0.0, f64::max);
    match differences.iter().find(|d| d.nmse > STAGE_NMSE) {
        None => Ok(()),
        Some(first) => Err(format!(
            "first diverges at {}: NMSE {:.1e} (max abs {:.1e}), allowed {STAGE_NMSE:.0e}; worst stage {worst:.1e}",
            first.stage, first.nmse, first.max_abs
        )
        .into()),
    }
}

/// Whether a stage lies behind the keys and values of the last of the `read` language-model layers.
fn is_dead(stage: &str, read: usize) -> bool {
    let Some(layer) = stage.strip_prefix("text.layers.") else { return false };
    let (index, is_cache) = match layer.split_once('.') {
        Some((index, rest)) => (index, rest.starts_with("key") || rest.starts_with("value")),
        None => (layer, false),
    };
    let index: usize = index.parse().unwrap_or(usize::MAX);
    index >= read || (!is_cache && index + 1 == read)
}

/// What enters the graph: tokens and masks exactly, state and pixels to rounding.
fn compare_inputs<B: Backend>(
    policy: &SmolVla<B>,
    observations: &[Observation],
    golden: &Golden,
) -> Result<(), Failed> {
    let (input, _) = policy.pipeline().process(observations, Vec::new(), 1, PrefixLayout::Padded)?;
    let (_, tokens) = golden.i64("processed.tokens")?;
    if !tokens.iter().map(|id| u32::try_from(*id).ok()).eq(input.tokens.iter().map(|id| Some(*id))) {
        return Err(format!("tokens are {:?}, expected {tokens:?}", input.tokens).into());
    }
    let (_, mask) = golden.u8("processed.token_mask")?;
    if !mask.iter().map(|m| *m != 0).eq(input.token_mask.iter().copied()) {
        return Err("the token mask differs".into());
    }
    if !policy.pipeline().config().adapt_to_pi_aloha {
        let (shape, _) = golden.f32("processed.state")?;
        let width = input.state.len() / shape[0];
        let state: Vec<f32> = input.state.chunks(width).flat_map(|row| &row[..shape[1]]).copied().collect();
        within("processed.state", golden, &state)?;
    }
    for (index, camera) in input.cameras.iter().enumerate() {
        // Some goldens leave out what enters and leaves the vision tower.
        let Ok((_, expected)) = golden.f32(&format!("processed.image.{index}")) else { continue };
        let error = max_abs(expected, &camera.images.concat());
        if error > PIXEL_MAX_ABS {
            return Err(format!("image {index} differs by {error:.1e}").into());
        }
    }
    Ok(())
}

fn within(name: &str, golden: &Golden, got: &[f32]) -> Result<(), Failed> {
    let (_, expected) = golden.f32(name)?;
    let error = nmse(expected, got);
    if error <= STAGE_NMSE { Ok(()) } else { Err(format!("{name}: NMSE {error:.1e}").into()) }
}

fn noise(golden: &Golden) -> Result<Noise, Failed> {
    Ok(Noise::Values(golden.f32("noise")?.1.to_vec()))
}

fn golden(case: &Case) -> Result<Golden, Failed> {
    Ok(Golden::open(&fixtures().join(format!("golden/{}.fp32.safetensors", case.name)))?)
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

fn read_json<T: for<'de> Deserialize<'de>>(path: &Path) -> T {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Synthetic checkpoints, each made once. The real-size one is kept between runs in the target folder.
#[derive(Default)]
struct Checkpoints {
    temporary: OnceLock<tempfile::TempDir>,
    /// Held while a checkpoint is made, so that cases that share one wait for it.
    made: Mutex<()>,
}

impl Checkpoints {
    /// Opens a case's checkpoint and makes sure that it is the one LeRobot ran.
    fn open(&self, case: &Case, golden: &Golden) -> Result<Checkpoint, Failed> {
        let folder = {
            let _guard = self.made.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            self.make(case, golden)?
        };
        Ok(Checkpoint::open(&folder, &LoadOptions::default())?)
    }

    fn make(&self, case: &Case, golden: &Golden) -> Result<PathBuf, Failed> {
        let size = if case.size == "base" { Size::Base } else { Size::Tiny };
        let parent = match size {
            Size::Base => PathBuf::from(env!("CARGO_TARGET_TMPDIR")),
            Size::Tiny => {
                self.temporary.get_or_init(|| tempfile::tempdir().expect("a temporary folder")).path().into()
            }
        };
        let inputs = serde_json::to_vec(&(&case.config, &case.rename_map))?;
        let folder = parent.join(format!("{}-{}-{:.8}", case.size, case.seed, hex(&Sha256::digest(inputs))));
        let expected = golden.metadata("model_sha256")?;
        if folder.exists() && sha256(&folder.join("model.safetensors"))? == expected {
            return Ok(folder);
        }
        // Absent, or left by an older version.
        let _ = fs::remove_dir_all(&folder);
        let options = SynthOptions { size, seed: case.seed, overrides: case.config.clone() };
        synth::write(&options, &folder, &mut |_, _| ())?;
        rename_cameras(&folder, &case.rename_map)?;
        let hash = sha256(&folder.join("model.safetensors"))?;
        if hash == expected {
            return Ok(folder);
        }
        Err(format!(
            "synth wrote weights {hash}, LeRobot ran {expected}; if synth was meant to change, run `cargo xtask golden`"
        )
        .into())
    }
}

/// Puts a rename map into the checkpoint's preprocessor, as a fine-tuned policy has one.
fn rename_cameras(folder: &Path, renames: &HashMap<String, String>) -> Result<(), Failed> {
    if renames.is_empty() {
        return Ok(());
    }
    let path = folder.join("policy_preprocessor.json");
    let mut json: serde_json::Value = read_json(&path);
    let step = json["steps"]
        .as_array_mut()
        .into_iter()
        .flatten()
        .find(|step| step["registry_name"] == "rename_observations_processor")
        .ok_or("no rename step")?;
    step["config"]["rename_map"] = serde_json::to_value(renames)?;
    fs::write(path, serde_json::to_vec(&json)?)?;
    Ok(())
}

fn sha256(path: &Path) -> Result<String, Failed> {
    let mut hasher = Sha256::new();
    let mut file = fs::File::open(path)?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex(&hasher.finalize())),
            count => hasher.update(&buffer[..count]),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
