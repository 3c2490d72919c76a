//! Quantised copies of a checkpoint: 8-bit weights, with a plan for the activations that go with them.
//!
//! [`quantise()`] runs the policy in f32 on some observations and watches what goes into every linear layer
//! (calibration), moves part of the activations' range into the weights where a norm comes before (SmoothQuant, folded
//! into the norm's gain, so the policy stays mathematically the same), rounds weights to integers with a scale an
//! output, and decides for each layer whether its activations may have 8 bits as well or need 16 (the escape). What
//! that does to layers and to actions is measured and reported.
//!
//! # The folder
//! | File | |
//! |---|---|
//! | `model.safetensors` | weights of linear layers as below, the norms that factors went into in F32, all else as it was |
//! | `precision.json` | a [`PrecisionPlan`]: `int8`, and `int8w` for layers that take the escape |
//! | `quantisation.json` | every layer's choice, and the options |
//! | `report.json`, `report.md` | what was measured, for programs and for people |
//! | all others | copies |
//!
//! # Weights of integers
//! `NAME` is I8 in the shape it had, in [-127, 127], with `NAME_scale`, F32 `[outputs]`: an element stands for
//! `digit · scale` (the names and meaning of compressed-tensors). A scale divided by 127, or by 32512, has a
//! mantissa of 13 bits ([`channel_scale`]), so that an integer device takes it without rounding.
//!
//! In 4 bits `NAME` is U8 with half as many columns, two integers of ±7 in a byte, the lower half first, with
//! `NAME_scale` as above and `NAME_multiplier`, U8 `[outputs, inputs / 64]`, from 1 to 18: an element stands for
//! `digit · multiplier · scale`. Digit times multiplier has 8 bits, so that such a weight is an 8-bit one for a device.
//!
//! The file's metadata have the key [`FORMAT_KEY`].

mod digits;
mod file;
mod layers;
mod observe;
mod probe;
mod report;
mod smooth;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::{fs, io};

pub use digits::{ChannelScale, ONE_DIGIT, TWO_DIGITS, channel_scale};
pub use observe::{synthetic, task};
pub use report::{JointError, LayerError, Options as ReportedOptions, PolicyError, Report};

use crate::backend::{Backend, Epilogue, Precision};
use crate::checkpoint::{Checkpoint, WEIGHTS, WeightsFile, compare, non_finite};
use crate::error::{Error, Result};
use crate::graph::{PrefixLayout, Silent};
use crate::policy::{ActionChunk, ChunkRequest, Noise, Observation, Policy, PolicyOptions, SmolVla};
use crate::precision::PrecisionPlan;
use crate::weights::{LinearSource, StorageType, TensorView};
use digits::{Int4, Int8, round_rows};
use layers::{Layer, layers};
use probe::{Mode, Probe, Record, Seen, lock};
use smooth::Smoothing;

/// The key of a weights file's metadata that says it is quantised, and in which format.
pub const FORMAT_KEY: &str = "quantisation";

/// The format that [`quantise()`] writes, with its version.
pub const FORMAT: &str = "smolvla-int8/1";

/// Files that [`quantise()`] adds to a checkpoint.
pub const PLAN_FILE: &str = "precision.json";
const CHOICES_FILE: &str = "quantisation.json";
const REPORT_FILES: [&str; 2] = ["report.json", "report.md"];
/// What tells a synthetic checkpoint's own bytes; they are no longer those.
const SYNTH_MANIFEST: &str = "synth.json";

/// How to quantise.
#[derive(Clone, Debug, PartialEq)]
pub struct QuantiseOptions {
    /// How much of the activations' range goes into the weights, from 0 (none of it) to 1 (all).
    pub alpha: f32,
    /// A layer whose output has a larger relative error (NMSE) with 8-bit activations gets 16-bit ones.
    pub escape_above: f64,
    /// Weights of layers whose output stays below this relative error get 4 bits; `None`: none do.
    pub int4_below: Option<f64>,
    /// Where the observations are from, for the report.
    pub source: String,
    /// A name for each number of an action, for the report; by default their places.
    pub joints: Option<Vec<String>>,
    /// Replace a folder that an earlier call wrote.
    pub replace: bool,
}

impl QuantiseOptions {
    /// The usual balance of SmoothQuant.
    pub const ALPHA: f32 = 0.5;
    /// Gaussian numbers in 8 bits are at 0.0002, rows with an outlier of twenty standard deviations at 0.002.
    pub const ESCAPE_ABOVE: f64 = 0.002;
    /// Gaussian weights in 4 bits with a multiplier for 64 are at about 0.01.
    pub const INT4_BELOW: f64 = 0.005;
}

impl Default for QuantiseOptions {
    fn default() -> Self {
        Self {
            alpha: Self::ALPHA,
            escape_above: Self::ESCAPE_ABOVE,
            int4_below: None,
            source: String::new(),
            joints: None,
            replace: false,
        }
    }
}

/// What is being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuantiseStage {
    /// Loading the policy, in parts.
    Load,
    /// Running the policy on the observations.
    Calibrate,
    /// Rounding layers and measuring their error.
    Measure,
    /// Writing the weights, in bytes.
    Write,
    /// Running the quantised policy on the observations.
    Compare,
}

/// How far [`quantise()`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuantiseProgress {
    /// What is being done.
    pub stage: QuantiseStage,
    /// Parts of it that are done.
    pub done: u64,
    /// Parts in all.
    pub total: u64,
}

/// Makes further policies of the quantised checkpoint, to be measured as well: a name and the policy.
pub type Others<'a> = dyn FnMut(&Checkpoint, &PrecisionPlan) -> Result<Vec<(String, Box<dyn Policy>)>> + 'a;

/// Writes a quantised copy of `checkpoint` to `out`, calibrated on `observations`.
///
/// `open` gives the f32 backend that everything is computed on. `others` is asked for policies of the quantised
/// checkpoint on other devices; their actions are compared with the f32 ones too. The folder appears when it is
/// complete: it is written beside `out` and renamed; it does so too where only one of the `others` fails.
///
/// # Errors
/// [`Error::Input`] where there are no observations, an option is no sensible number, or the checkpoint is quantised
/// already; [`Error::Io`] when `out` exists (and, with [`QuantiseOptions::replace`], is no quantised checkpoint), is
/// inside the checkpoint, or cannot be written; otherwise what running the policy fails with.
pub fn quantise<B: Backend>(
    open: &dyn Fn() -> Result<B>,
    checkpoint: Checkpoint,
    observations: &[Observation],
    options: &QuantiseOptions,
    out: &Path,
    others: &mut Others<'_>,
    progress: &mut dyn FnMut(QuantiseProgress),
) -> Result<Report> {
    check(options, &checkpoint, observations)?;
    check_out(Some(&checkpoint.folder), out, options.replace)?;
    let mut tell = |stage, done: usize, total: usize| {
        progress(QuantiseProgress { stage, done: done as u64, total: total as u64 });
    };

    let (record, original) = watch(open()?, &checkpoint, observations, &mut tell)?;
    let layers = layers(&checkpoint.architecture);
    let smoothing = Smoothing::new(&checkpoint, &layers, &record, options.alpha)?;
    let errors = measure(&open()?, &checkpoint, &layers, &smoothing, &record, options, &mut tell)?;
    drop(record);

    let parent = match out.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
    let beside = tempfile::Builder::new()
        .prefix(".smolvla-quantize-")
        .tempdir_in(parent)
        .map_err(Error::io("create", parent))?;
    // A folder within the private temporary one, so that the result has ordinary permissions.
    let folder = beside.path().join("checkpoint");
    copy_others(&checkpoint.folder, &folder)?;
    let contents = file::Contents::new(&checkpoint, &layers, &smoothing, &errors, options);
    contents.write(&folder.join(WEIGHTS), &mut |done, total| {
        progress(QuantiseProgress { stage: QuantiseStage::Write, done, total });
    })?;
    let mut tell = |stage, done: usize, total: usize| {
        progress(QuantiseProgress { stage, done: done as u64, total: total as u64 });
    };

    let source = checkpoint.folder.clone();
    let bytes_before = checkpoint.weights.size_bytes();
    let mut report = Report::new(&checkpoint, observations.len(), options, errors, bytes_before);
    let plan = report.plan();
    let quantised = reopened(checkpoint, &folder)?;
    report.bytes_after = quantised.weights.size_bytes();
    let targets = Arc::new(report.targets());
    let simulated = Probe::new(open()?, Mode::Round(targets));
    let mut policy = load(simulated, &quantised, &mut tell)?;
    let chunks = run(&mut policy, observations, QuantiseStage::Compare, &mut tell)?;
    drop(policy);
    let joints = options.joints.as_deref();
    report.policies.push(PolicyError::of(report::SIMULATED, joints, &original, &chunks));
    let mut compare_others = || -> Result<()> {
        for (name, mut policy) in others(&quantised, &plan)? {
            let chunks = run(policy.as_mut(), observations, QuantiseStage::Compare, &mut tell)?;
            report.policies.push(PolicyError::of(&name, joints, &original, &chunks));
        }
        Ok(())
    };
    // A device that fails does not cost what is done by now.
    let compared = compare_others();
    drop(quantised);

    for (name, text) in [
        (PLAN_FILE, plan.to_json()),
        (CHOICES_FILE, report.choices()),
        (REPORT_FILES[0], report.to_json()),
        (REPORT_FILES[1], report.to_markdown()),
    ] {
        let path = folder.join(name);
        fs::write(&path, text).map_err(Error::io("write", &path))?;
    }
    // Somebody else may have put something there by now.
    check_out(Some(&source), out, options.replace)?;
    put_in_place(&folder, out, &beside.path().join("replaced"))?;
    compared.map(|()| report)
}

/// Whether a weights file holds quantised weights already.
pub fn is_quantised(weights: &WeightsFile) -> bool {
    let integers = |storage: Option<StorageType>| storage.is_some_and(StorageType::is_quantised);
    weights.metadata().contains_key(FORMAT_KEY) || weights.tensors().any(|(_, entry)| integers(entry.storage))
}

fn check(options: &QuantiseOptions, checkpoint: &Checkpoint, observations: &[Observation]) -> Result<()> {
    if is_quantised(&checkpoint.weights) {
        let file = checkpoint.weights.path().display();
        let reason = format!("{file} is quantised already; start from the checkpoint that it was made of");
        return Err(Error::input("checkpoint", reason));
    }
    if observations.is_empty() {
        return Err(Error::input("calibrate", "there are no observations; expected at least one"));
    }
    if !(0.0..=1.0).contains(&options.alpha) {
        return Err(Error::input("alpha", format!("{}; expected 0 to 1", options.alpha)));
    }
    for (name, value) in [("escape_above", Some(options.escape_above)), ("int4_below", options.int4_below)] {
        if value.is_some_and(|value| value.is_nan() || value < 0.0) {
            return Err(Error::input(name, "expected a relative error, 0 or more"));
        }
    }
    let action_dim = checkpoint.config.action_dim();
    match &options.joints {
        Some(names) if names.len() != action_dim => Err(Error::input(
            "joints",
            format!("{} names; an action of this policy has {action_dim} numbers", names.len()),
        )),
        _ => Ok(()),
    }
}

/// Refuses a folder that must not be written to, before time is spent on what goes into it. Without the checkpoint that
/// is to be quantised, only what that does not decide.
///
/// # Errors
/// [`Error::Io`].
pub fn check_out(checkpoint: Option<&Path>, out: &Path, replace: bool) -> Result<()> {
    let refuse =
        |reason: &str| Err(Error::io("write", out)(io::Error::new(io::ErrorKind::AlreadyExists, reason)));
    let real = |path: &Path| {
        path.ancestors().find_map(|part| part.canonicalize().ok().map(|real| (part.to_owned(), real)))
    };
    if let Some(Ok(checkpoint)) = checkpoint.map(Path::canonicalize)
        && let Ok(absolute) = std::path::absolute(out)
        && let Some((existing, resolved)) = real(&absolute)
    {
        // What does not exist yet has no links in it.
        let rest = absolute.strip_prefix(&existing).unwrap_or(Path::new(""));
        let target = resolved.join(rest);
        if target.starts_with(&checkpoint) {
            return refuse("it is the checkpoint itself, or inside it; choose a folder elsewhere");
        }
        if checkpoint.starts_with(&target) {
            return refuse("the checkpoint is inside it; choose a folder elsewhere");
        }
    }
    if !out.exists() {
        return Ok(());
    }
    if !out.is_dir() {
        return refuse("it exists and is not a folder");
    }
    if fs::read_dir(out).map_err(Error::io("read", out))?.next().is_none() {
        return Ok(());
    }
    match (out.join(CHOICES_FILE).is_file(), replace) {
        (true, true) => checkpoint.map_or(Ok(()), |checkpoint| only_ours(checkpoint, out)),
        (true, false) => refuse("it exists and holds a quantised checkpoint; --force replaces it"),
        (false, _) => {
            refuse("it exists and holds something that is not a quantised checkpoint; choose another folder")
        }
    }
}

/// Refuses to replace a folder with something in it that neither we nor the original put there: it may be somebody's own.
fn only_ours(checkpoint: &Path, out: &Path) -> Result<()> {
    let ours = [WEIGHTS, PLAN_FILE, CHOICES_FILE, REPORT_FILES[0], REPORT_FILES[1]];
    for entry in fs::read_dir(out).map_err(Error::io("read", out))? {
        let name = entry.map_err(Error::io("read", out))?.file_name();
        let is_ours = ours.iter().any(|own| name == *own);
        if !is_ours && !checkpoint.join(&name).exists() {
            let reason =
                format!("{} is in it and would be deleted; move it elsewhere", Path::new(&name).display());
            return Err(Error::io("replace", out)(io::Error::new(io::ErrorKind::AlreadyExists, reason)));
        }
    }
    Ok(())
}

/// Gives a finished folder its name; what had it goes to `aside`, which is deleted. Where that fails halfway, what
/// there was gets its name back.
fn put_in_place(folder: &Path, out: &Path, aside: &Path) -> Result<()> {
    let replaces = out.exists();
    if replaces {
        fs::rename(out, aside).map_err(Error::io("replace", out))?;
    }
    fs::rename(folder, out).map_err(|error| {
        if replaces {
            // What was there is better than nothing; where not even that can be had, the first error says why.
            let _ = fs::rename(aside, out);
        }
        Error::io("create", out)(error)
    })
}

/// Copies everything but the weights and what described them.
fn copy_others(from: &Path, to: &Path) -> Result<()> {
    let left_out = [WEIGHTS, SYNTH_MANIFEST, PLAN_FILE, CHOICES_FILE, REPORT_FILES[0], REPORT_FILES[1]];
    copy_folder(from, to, &left_out)
}

fn copy_folder(from: &Path, to: &Path, left_out: &[&str]) -> Result<()> {
    fs::create_dir_all(to).map_err(Error::io("create", to))?;
    for entry in fs::read_dir(from).map_err(Error::io("read", from))? {
        let entry = entry.map_err(Error::io("read", from))?;
        let (path, name) = (entry.path(), entry.file_name());
        // What is hidden is other tools' own.
        if name.to_str().is_some_and(|name| name.starts_with('.') || left_out.contains(&name)) {
            continue;
        }
        // Snapshots of the Hub hold links to files, and a link to a folder may lead back to this one.
        let leads_back =
            || from.canonicalize().is_ok_and(|from| path.canonicalize().is_ok_and(|to| from.starts_with(to)));
        if path.is_file() {
            fs::copy(&path, to.join(&name)).map_err(Error::io("copy", &path))?;
        } else if path.is_dir() && !leads_back() {
            copy_folder(&path, &to.join(&name), &[])?;
        }
    }
    Ok(())
}

/// The same checkpoint with the weights in `folder`, looked at as [`Checkpoint::open`] would.
fn reopened(mut checkpoint: Checkpoint, folder: &Path) -> Result<Checkpoint> {
    let weights = WeightsFile::open(&folder.join(WEIGHTS))?;
    let (config, architecture) = (&checkpoint.config, &checkpoint.architecture);
    let mut problems = compare(&weights, config, architecture, true).problems;
    problems.extend(non_finite(&weights, config, architecture));
    match problems.into_iter().next() {
        Some(found) => Err(weights.error(&found.tensor, found.reason)),
        None => {
            checkpoint.weights = weights;
            Ok(checkpoint)
        }
    }
}

/// Hears of stages, and of parts done and in all.
type Tell<'a> = dyn FnMut(QuantiseStage, usize, usize) + 'a;

fn load<B: Backend>(backend: B, checkpoint: &Checkpoint, tell: &mut Tell<'_>) -> Result<SmolVla<B>> {
    // Padding has nothing to say about what layers see.
    let options = PolicyOptions { layout: Some(PrefixLayout::Packed), ..PolicyOptions::default() };
    SmolVla::open(backend, checkpoint, &options, &mut |progress| {
        tell(QuantiseStage::Load, progress.done, progress.total);
    })
}

/// One chunk for each observation, the noise of each the same in every run.
fn run(
    policy: &mut dyn Policy,
    observations: &[Observation],
    stage: QuantiseStage,
    tell: &mut Tell<'_>,
) -> Result<Vec<ActionChunk>> {
    let mut chunks = Vec::with_capacity(observations.len());
    for (index, observation) in observations.iter().enumerate() {
        tell(stage, index, observations.len());
        let request = ChunkRequest { noise: Some(Noise::Seed(index as u64)), steps: None };
        chunks.push(policy.predict_action_chunk(std::slice::from_ref(observation), &request, &mut Silent)?);
    }
    tell(stage, observations.len(), observations.len());
    Ok(chunks)
}

/// What goes into each linear layer, and the actions that come out.
fn watch<B: Backend>(
    backend: B,
    checkpoint: &Checkpoint,
    observations: &[Observation],
    tell: &mut Tell<'_>,
) -> Result<(Record, Vec<ActionChunk>)> {
    let record = Arc::new(Mutex::new(Record::new()));
    let mut policy = load(Probe::new(backend, Mode::Watch(Arc::clone(&record))), checkpoint, tell)?;
    // What does not change between chunks goes through its layers once, at load or in the first chunk.
    let chunks = run(&mut policy, observations, QuantiseStage::Calibrate, tell)?;
    let record = std::mem::take(&mut *lock(&record));
    Ok((record, chunks))
}

/// The error of each layer's output in each form it could take, and which it takes.
fn measure<B: Backend>(
    backend: &B,
    checkpoint: &Checkpoint,
    layers: &[Layer],
    smoothing: &Smoothing,
    record: &Record,
    options: &QuantiseOptions,
    tell: &mut Tell<'_>,
) -> Result<Vec<LayerError>> {
    let mut errors = Vec::with_capacity(layers.len());
    for (index, layer) in layers.iter().enumerate() {
        tell(QuantiseStage::Measure, index, layers.len());
        let seen = record.get(&layer.path).ok_or_else(|| {
            Error::input("calibrate", format!("no observation reaches the layer {}", layer.path))
        })?;
        errors.push(measure_layer(backend, checkpoint, layer, smoothing, seen, options)?);
    }
    tell(QuantiseStage::Measure, layers.len(), layers.len());
    if options.int4_below.is_some() {
        agree_on_int4(layers, &mut errors);
    }
    Ok(errors)
}

fn measure_layer<B: Backend>(
    backend: &B,
    checkpoint: &Checkpoint,
    layer: &Layer,
    smoothing: &Smoothing,
    seen: &Seen,
    options: &QuantiseOptions,
) -> Result<LayerError> {
    let mut rows = seen.rows.concat();
    smoothing.divide_rows(layer, &mut rows);
    let (mut exact, mut int8, mut int4) = (Vec::new(), Vec::new(), Some(Vec::new()));
    let mut inputs = 0;
    for name in &layer.weights {
        let (weight, cols) = smoothing.weight(checkpoint, name)?;
        let columns = layer.columns.clone().unwrap_or(0..cols);
        inputs = columns.len();
        let cut = |values: &[f32]| -> Vec<f32> {
            values.chunks_exact(cols).flat_map(|row| &row[columns.clone()]).copied().collect()
        };
        exact.extend(cut(&weight));
        int8.extend(cut(&Int8::new(&weight, cols).values()));
        match (&mut int4, options.int4_below.and_then(|_| Int4::new(&weight, cols))) {
            (Some(all), Some(one)) => all.extend(cut(&one.values())),
            (all, _) => *all = None,
        }
    }
    let outputs = exact.len() / inputs.max(1);
    let product = |weight: &[f32], target: Option<i32>| -> Result<Vec<f32>> {
        let bytes: Vec<u8> = weight.iter().flat_map(|w| w.to_le_bytes()).collect();
        let view = TensorView::new(StorageType::F32, outputs, inputs, &bytes);
        let source = LinearSource {
            name: layer.path.clone(),
            path: layer.path.clone(),
            weights: view.into_iter().collect(),
            biases: Vec::new(),
        };
        let linear = backend.prepare_linear(&source, Precision::F32)?;
        let mut rows = rows.clone();
        if let Some(target) = target {
            round_rows(&mut rows, inputs, target);
        }
        let x = backend.upload(&rows, rows.len() / inputs.max(1), inputs)?;
        Ok(backend.download(&backend.linear(&x, &linear, Epilogue::NONE)?)?)
    };
    let expected = product(&exact, None)?;
    let w8a8 = report::nmse(&expected, &product(&int8, Some(ONE_DIGIT))?);
    let w8a16 = report::nmse(&expected, &product(&int8, Some(TWO_DIGITS))?);
    // Sixteen bits are of no use where the error is the weights'.
    let escape = w8a8 > options.escape_above && w8a16 < w8a8;
    let target = if escape { TWO_DIGITS } else { ONE_DIGIT };
    let w4 = match int4 {
        Some(weight) => Some(report::nmse(&expected, &product(&weight, Some(target))?)),
        None => None,
    };
    let int4 = matches!((w4, options.int4_below), (Some(error), Some(limit)) if error < limit);
    Ok(LayerError {
        layer: layer.path.clone(),
        inputs,
        outputs,
        rows: seen.rows.len(),
        smoothed: layer.norm.is_some(),
        w8a8,
        w8a16,
        w4,
        escape,
        int4,
    })
}

/// A tensor that several layers share gets 4 bits only where all of them may have it.
fn agree_on_int4(layers: &[Layer], errors: &mut [LayerError]) {
    let refused = layers.iter().zip(&*errors).filter(|(_, error)| !error.int4);
    let refused: BTreeSet<&str> = refused.flat_map(|(layer, _)| &layer.weights).map(String::as_str).collect();
    for (layer, error) in layers.iter().zip(errors) {
        error.int4 &= layer.weights.iter().all(|name| !refused.contains(name.as_str()));
    }
}

/// How each weight is stored, by its name: those that layers read, and those that only share their norm.
fn storage(
    checkpoint: &Checkpoint,
    layers: &[Layer],
    errors: &[LayerError],
) -> BTreeMap<String, StorageType> {
    let mut storage = BTreeMap::new();
    for (layer, error) in layers.iter().zip(errors) {
        let kind = if error.int4 { StorageType::I4 } else { StorageType::I8 };
        storage.extend(layer.weights.iter().map(|name| (name.clone(), kind)));
        let unread = layer.norm.iter().flat_map(|norm| &norm.unread);
        let present = unread.filter(|name| checkpoint.weights.entry(name).is_some());
        storage.extend(present.map(|name| (name.clone(), StorageType::I8)));
    }
    storage
}

#[cfg(test)]
mod tests;
