//! `smolvla quantize`: an 8-bit copy of a checkpoint, and what that does to its actions.

mod folder;
mod tables;

use std::path::{Path, PathBuf};

use smolvla::backend::Execution;
use smolvla::checkpoint::Checkpoint;
use smolvla::policy::{Observation, Policy, PolicyOptions};
use smolvla::processor::CameraMap;
use smolvla::quantise::{
    self, PLAN_FILE, QuantiseOptions, QuantiseProgress, QuantiseStage, Report, check_out, is_quantised,
};
use smolvla::{Device, Precision, PrecisionPlan};

use crate::checkpoint_args::CheckpointArgs;
use crate::console::{Console, Task, Unit};
use crate::failure::Failure;
use crate::joints;

/// More made-up observations than this are a slip of the finger.
const MOST_SYNTHETIC: usize = 10_000;

const AFTER_HELP: &str = "\
Examples:
  A LeRobot checkpoint, calibrated on observations of yours:
    smolvla quantize --checkpoint ./my_policy --calibrate ./observations --out ./my_policy_int8

  Without any at hand, on eight made-up ones (worse, and it says so):
    smolvla quantize --checkpoint OWNER/NAME --calibrate 8 --out ./policy_int8

  Weights of some layers in 4 bits too, and the result also run on a backend:
    smolvla quantize --checkpoint ./my_policy --calibrate ./observations --out ./my_policy_int4 \\
      --int4 --also cpu

  Then:
    smolvla run --checkpoint ./my_policy_int8 --precision ./my_policy_int8/precision.json …

Observations are folders within the folder that --calibrate names, one for each, in any number:
  observations/000/camera1.png    an image from each camera, named as for `smolvla run --image`: PNG or JPEG
  observations/000/state.txt      joint positions, separated by commas or white space
  observations/000/task.txt       the instruction; observations/task.txt is for those without one
A folder that holds a state.txt itself is one observation. Some tens from different episodes are enough.

The result has report.md and report.json with the error of every layer and of every joint, precision.json
(which layers need 16-bit activations) and quantisation.json. Every backend reads the weights; integer
arithmetic is that of --precision precision.json.";

/// Write an 8-bit copy of a checkpoint, calibrated on observations, with its error layer by layer and joint by joint.
#[derive(clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Args {
    #[command(flatten)]
    checkpoint: CheckpointArgs,

    /// A folder of observations (see below), or a number of made-up ones.
    #[arg(long, value_name = "FOLDER|N", help_heading = "Calibration")]
    calibrate: String,
    /// Seed of made-up observations.
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Calibration")]
    seed: u64,

    /// How much of the activations' range goes into the weights: 0 none, 1 all.
    #[arg(long, value_name = "NUMBER", default_value_t = QuantiseOptions::ALPHA, value_parser = fraction, help_heading = "Layers")]
    alpha: f32,
    /// 16-bit activations for layers whose output has a larger relative squared error with 8-bit ones.
    #[arg(long, value_name = "ERROR", default_value_t = QuantiseOptions::ESCAPE_ABOVE, value_parser = error, help_heading = "Layers")]
    escape_above: f64,
    /// 4-bit weights for layers whose output stays close enough with them.
    #[arg(long, help_heading = "Layers")]
    int4: bool,
    /// How close that is, as a relative squared error.
    #[arg(long, value_name = "ERROR", default_value_t = QuantiseOptions::INT4_BELOW, value_parser = error, requires = "int4", help_heading = "Layers")]
    int4_below: f64,

    /// The folder to make.
    #[arg(long, value_name = "FOLDER", help_heading = "Output")]
    out: PathBuf,
    /// Replace a quantised checkpoint that is there already.
    #[arg(long, help_heading = "Output")]
    force: bool,
    /// Also run the quantised policy on this backend, by its plan, and report that.
    #[arg(long, value_name = "BACKEND", help_heading = "Output")]
    also: Option<String>,
    /// Names of the joints: so100, so101, or a list separated by commas.
    #[arg(long, value_name = "NAMES", help_heading = "Output")]
    joints: Option<String>,
}

pub(crate) fn perform(console: Console, args: &Args) -> Result<(), Failure> {
    // What is cheap to refuse comes before what takes seconds.
    let source = Source::parse(&args.calibrate)?;
    let names = args.joints.as_deref().map(joints::parse).transpose()?;
    let mut also = args.also.as_deref().map(integer_device).transpose()?;
    if let Source::Folder(folder) = &source {
        folder::check(folder)?;
    }
    check_out(None, &args.out, args.force)?;
    let checkpoint = args.checkpoint.open(console)?;
    check_out(Some(&checkpoint.folder), &args.out, args.force)?;
    if is_quantised(&checkpoint.weights) {
        return Err(Failure::input(format!(
            "checkpoint {}: {} is quantised already",
            args.checkpoint.name(),
            checkpoint.weights.path().display()
        ))
        .hint("start from the checkpoint that it was made of"));
    }
    joints::fit(names.as_deref(), checkpoint.config.action_dim())?;
    checkpoint.notices.iter().for_each(|notice| console.note(notice));

    let observations = source.observations(&checkpoint, args.seed)?;
    let cameras: Vec<&str> = checkpoint.config.cameras().collect();
    let map = CameraMap::from_rename_map(checkpoint.processors.rename_map.clone());
    for camera in &cameras {
        // `top` stands for `observation.images.top`; a name that stands for none is refused when it is watched.
        let is_of = |name: &str| map.resolve(name, &cameras).is_ok_and(|own| own == *camera);
        let lacking = |one: &&Observation| !one.images.iter().any(|(name, _)| is_of(name));
        let count = observations.iter().filter(lacking).count();
        if count > 0 {
            console.note(&format!(
                "{count} of {} observations have no image from camera {camera}: the policy is watched without it",
                observations.len()
            ));
        }
    }
    if let Source::Synthetic(count) = source {
        console.caution(&format!(
            "CALIBRATED ON {count} MADE-UP OBSERVATIONS: real images can have outliers that these do not; errors below \
             are those of made-up observations too. --calibrate FOLDER takes real ones"
        ));
    }
    let options = QuantiseOptions {
        alpha: args.alpha,
        escape_above: args.escape_above,
        int4_below: args.int4.then_some(args.int4_below),
        source: source.description(args.seed),
        joints: names,
        replace: args.force,
    };
    let mut stages = Stages { console, current: None };
    let mut others = |checkpoint: &Checkpoint, plan: &PrecisionPlan| -> smolvla::Result<_> {
        let mut policies: Vec<(String, Box<dyn Policy>)> = Vec::new();
        if let Some(device) = also.take() {
            let options = PolicyOptions { precision: plan.clone(), ..PolicyOptions::default() };
            let capabilities = device.capabilities();
            let name = match &capabilities.execution {
                Execution::Emulated(by) => {
                    format!("{} (EMULATED by {by}) by {PLAN_FILE}", capabilities.backend)
                }
                _ => format!("{} by {PLAN_FILE}", capabilities.backend),
            };
            policies.push((name, device.load(checkpoint, &options, &mut |_| ())?));
        }
        Ok(policies)
    };
    let report = quantise::quantise(
        &open_backend,
        checkpoint,
        &observations,
        &options,
        &args.out,
        &mut others,
        &mut |progress| stages.show(progress),
    )?;
    drop(stages);
    console.result(&tables::layers(&report))?;
    for policy in &report.policies {
        console.result(&tables::actions(policy))?;
    }
    console.result(&tables::summary(&report, &args.out))?;
    console.remark(&format!("\n{}", next(&report, &args.out)))
}

/// The backend that calibrates and measures.
#[cfg(feature = "cpu")]
fn open_backend() -> smolvla::Result<smolvla_backend_cpu::CpuBackend> {
    Ok(smolvla_backend_cpu::open()?)
}

/// The backend that calibrates and measures.
#[cfg(not(feature = "cpu"))]
fn open_backend() -> smolvla::Result<smolvla::reference::Reference> {
    Ok(smolvla::reference::Reference)
}

/// A backend that can run what a plan for quantised weights asks for.
fn integer_device(name: &str) -> Result<Device, Failure> {
    let device = Device::open(name)?;
    let capabilities = device.capabilities();
    match [Precision::Int8, Precision::Int8Weights].into_iter().find(|p| !capabilities.precisions.contains(p))
    {
        Some(lacking) => Err(Failure::input(format!(
            "--also {name}: the backend `{}` has no {lacking}, so it cannot run {PLAN_FILE}",
            capabilities.backend
        ))),
        None => Ok(device),
    }
}

/// What to do next.
fn next(report: &Report, out: &Path) -> String {
    let (out, plan) = (out.display(), out.join(PLAN_FILE));
    let kind = if report.layers.iter().any(|layer| layer.int4) { "8- and 4-bit" } else { "8-bit" };
    format!(
        "Next, the policy with {kind} weights and integer arithmetic:\n  smolvla run --checkpoint {out} --precision {} …\n",
        plan.display()
    )
}

/// Where observations are from.
#[derive(Debug, PartialEq, Eq)]
enum Source {
    Folder(PathBuf),
    Synthetic(usize),
}

impl Source {
    /// A folder that is there, or else a number.
    fn parse(text: &str) -> Result<Self, Failure> {
        if Path::new(text).exists() {
            return Ok(Self::Folder(text.into()));
        }
        match text.parse() {
            Ok(0) => Err(Failure::input("--calibrate 0: there must be at least one observation")),
            Ok(count) if count <= MOST_SYNTHETIC => Ok(Self::Synthetic(count)),
            Ok(count) => {
                Err(Failure::input(format!("--calibrate {count}: expected at most {MOST_SYNTHETIC}")))
            }
            Err(_) => Err(Failure::input(format!(
                "--calibrate {text}: there is no such folder, and it is no number"
            ))
            .hint("`smolvla quantize --help` shows what a folder of observations looks like")),
        }
    }

    fn observations(&self, checkpoint: &Checkpoint, seed: u64) -> Result<Vec<Observation>, Failure> {
        match self {
            Self::Folder(folder) => folder::read(folder),
            Self::Synthetic(count) => Ok(quantise::synthetic(checkpoint, *count, seed)?),
        }
    }

    fn description(&self, seed: u64) -> String {
        match self {
            Self::Folder(folder) => folder.display().to_string(),
            Self::Synthetic(_) => format!("made up, seed {seed}; no real images were seen"),
        }
    }
}

/// A bar for each stage in turn.
struct Stages {
    console: Console,
    current: Option<(QuantiseStage, Task)>,
}

impl Stages {
    fn show(&mut self, progress: QuantiseProgress) {
        let QuantiseProgress { stage, done, total } = progress;
        let current = self.current.take().filter(|(current, _)| *current == stage);
        let (stage, task) = current.unwrap_or_else(|| {
            let (what, unit) = match stage {
                QuantiseStage::Load => ("preparing weights", Unit::Parts),
                QuantiseStage::Calibrate => ("watching the f32 policy", Unit::Parts),
                QuantiseStage::Measure => ("rounding layers", Unit::Parts),
                QuantiseStage::Write => ("writing weights", Unit::Bytes),
                QuantiseStage::Compare => ("running the quantised policy", Unit::Parts),
            };
            (stage, self.console.task(what, unit))
        });
        task.set(done, total);
        self.current = Some((stage, task));
    }
}

/// A number from 0 to 1; for clap.
fn fraction(text: &str) -> Result<f32, String> {
    text.parse()
        .ok()
        .filter(|number| (0.0..=1.0).contains(number))
        .ok_or_else(|| "expected 0 to 1".to_owned())
}

/// A relative error; for clap.
fn error(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|number: &f64| *number >= 0.0 && number.is_finite())
        .ok_or_else(|| "expected a number of 0 or more, such as 0.002".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calibration_is_a_folder_or_else_a_number() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("8");
        std::fs::create_dir(&path).unwrap();
        assert_eq!(Source::parse(path.to_str().unwrap()).unwrap(), Source::Folder(path));
        assert_eq!(Source::parse("12").unwrap(), Source::Synthetic(12));
        for (text, culprit) in
            [("0", "at least one"), ("-1", "no number"), ("absent", "no such folder"), ("99999", "at most")]
        {
            let message = Source::parse(text).unwrap_err().to_string();
            assert!(message.contains(culprit), "{message}");
        }
    }

    #[test]
    fn numbers_out_of_range_are_refused() {
        assert_eq!((fraction("0.25"), error("1e-3")), (Ok(0.25), Ok(1e-3)));
        for text in ["1.1", "-0.1", "NaN", "x"] {
            assert!(fraction(text).is_err(), "{text}");
        }
        for text in ["-1", "NaN", "inf", ""] {
            assert!(error(text).is_err(), "{text}");
        }
    }
}
