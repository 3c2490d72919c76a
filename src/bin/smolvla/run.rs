//! `smolvla run`: one chunk of actions from images, joint positions and an instruction.

use std::path::PathBuf;

use smolvla::Device;
use smolvla::policy::{Noise, Observation, PolicyOptions};
use smolvla::processor::CameraMap;

use crate::checkpoint_args::CheckpointArgs;
use crate::console::Console;
use crate::failure::Failure;
use crate::observation::{ImageArg, image_arg, open_images, parse_state, parse_task, read_noise};
use crate::precision::PrecisionArgs;
use crate::prediction::{Job, predict};
use crate::{joints, output, output_file};

/// More steps than this are a slip of the finger.
const MAX_STEPS: u64 = 1000;

const AFTER_HELP: &str = "\
Examples:
  A folder that LeRobot wrote, one camera, a table of actions:
    smolvla run --checkpoint ./my_policy --image camera1=top.png \\
      --state 0,-90,90,45,0,10 --task \"pick up the red block\"

  A checkpoint from the Hub, your own camera names, joint names and a plot:
    smolvla run --checkpoint OWNER/NAME@main --camera top=observation.images.camera1 \\
      --image top=top.png --joints so100 --state 0,-90,90,45,0,10 \\
      --task \"pick up the red block\" --plot actions.png

  For another program:
    smolvla run … --json | jq .actions[0]

`smolvla inspect CHECKPOINT` shows the cameras, the width of the state and the statistics.";

/// Predict one chunk of actions.
#[derive(clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Args {
    #[command(flatten)]
    checkpoint: CheckpointArgs,

    /// An image (PNG or JPEG) and the camera it is from; once for each camera.
    #[arg(long = "image", value_name = "CAMERA=FILE", required = true, value_parser = image_arg, help_heading = "Observation")]
    images: Vec<ImageArg>,
    /// Joint positions in the units of the training data, separated by commas.
    #[arg(long, value_name = "NUMBERS", allow_hyphen_values = true, help_heading = "Observation")]
    state: String,
    /// What the robot is to do.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true, help_heading = "Observation")]
    task: String,
    /// Your name for one of the policy's cameras; can be repeated.
    #[arg(long = "camera", value_name = "NAME=FEATURE", help_heading = "Observation")]
    cameras: Vec<String>,

    /// The backend: cpu, wgpu (a GPU; wgpu:1 or wgpu:NAME for another), tt (a Tenstorrent Blackhole, emulated;
    /// tt:pjrt:FILE through a PJRT plugin), fpga (an Alveo U280, in software; fpga:rtl simulates the design, fpga:xrt:FILE
    /// is a card), ndarray, or reference (slow, for checks); `smolvla doctor` lists all that this build has, and the GPUs.
    #[arg(long, value_name = "NAME", default_value = "cpu", help_heading = "Computation")]
    backend: String,
    #[command(flatten, next_help_heading = "Computation")]
    precision: PrecisionArgs,
    /// Denoising steps; by default as the checkpoint says.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=MAX_STEPS), help_heading = "Computation")]
    steps: Option<u64>,
    /// Seed of the noise that denoising starts from: the same seed gives the same actions.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 0,
        allow_hyphen_values = true,
        value_parser = seed,
        conflicts_with = "noise",
        help_heading = "Computation"
    )]
    noise_seed: u64,
    /// Noise from a file: numbers as text, or the F32 tensor `noise` of a .safetensors file.
    #[arg(long, value_name = "FILE", help_heading = "Computation")]
    noise: Option<PathBuf>,

    /// Names of the joints: so100, so101, or a list separated by commas.
    #[arg(long, value_name = "NAMES", help_heading = "Output")]
    joints: Option<String>,
    /// Print one JSON object instead of the table.
    #[arg(long, conflicts_with = "csv", help_heading = "Output")]
    json: bool,
    /// Print comma-separated values instead of the table.
    #[arg(long, help_heading = "Output")]
    csv: bool,
    /// Also draw the actions into this PNG file.
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    plot: Option<PathBuf>,
}

pub(crate) fn perform(console: Console, args: Args) -> Result<(), Failure> {
    // What is cheap to refuse comes before what takes seconds.
    if let Some(path) = &args.plot {
        output_file::check(path, "png")?;
    }
    let joints = args.joints.as_deref().map(joints::parse).transpose()?;
    let observation = Observation {
        state: parse_state(&args.state)?,
        task: parse_task(&args.task)?,
        images: open_images(&args.images)?,
    };
    let noise = match &args.noise {
        Some(path) => Noise::Values(read_noise(path)?),
        None => Noise::Seed(args.noise_seed),
    };
    let cameras = camera_map(&args.cameras, &observation)?;
    let device = Device::open(&args.backend)?;
    let precision = args.precision.resolve(&device)?;

    let checkpoint = args.checkpoint.open(console)?;
    args.precision.mention_plan(console, &checkpoint.folder);
    let job = Job {
        checkpoint_name: args.checkpoint.name(),
        device,
        options: PolicyOptions { precision, cameras, ..PolicyOptions::default() },
        observation,
        noise,
        steps: args.steps.and_then(|steps| usize::try_from(steps).ok()),
        joints,
    };
    let prediction = predict(console, &checkpoint, job)?;

    if args.json {
        console.result(&output::json(&prediction)?)?;
    } else if args.csv {
        console.result(&output::csv(&prediction))?;
    } else {
        console.result(&output::table(&prediction))?;
        console.remark(&format!("\n{}", output::summary(&prediction)))?;
    }
    if let Some(path) = &args.plot {
        output_file::write(path, &output::plot(&prediction)?)?;
        console.status(&format!("plot written to {}", path.display()));
    }
    Ok(())
}

/// The renaming of `--camera`; a name that no image uses is a slip.
fn camera_map(entries: &[String], observation: &Observation) -> Result<CameraMap, Failure> {
    let map = CameraMap::parse(entries)?;
    for entry in entries {
        let name = entry.split('=').next().unwrap_or_default().trim();
        if observation.images.iter().all(|(camera, _)| camera != name) {
            return Err(Failure::input(format!("--camera {entry}: no --image is from a camera `{name}`")));
        }
    }
    Ok(map)
}

/// A seed; for clap.
fn seed(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("expected a whole number from 0 to {}", u64::MAX))
}
