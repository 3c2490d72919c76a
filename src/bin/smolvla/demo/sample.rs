//! One chunk of a policy with random weights on sample pictures.

use std::path::Path;

use smolvla::checkpoint::Checkpoint;
use smolvla::policy::{Noise, Observation, PolicyOptions};
use smolvla::processor::Image;
use smolvla::synth::{Size, SynthOptions};
use smolvla::{CheckpointSource, Device, OpenOptions};

use super::Args;
use crate::checkpoint_args;
use crate::console::Console;
use crate::failure::Failure;
use crate::prediction::{Job, predict};
use crate::synth;
use crate::{cache, joints, output, output_file};

const SEED: u64 = 0;
const TASK: &str = "pick up the red block and put it in the bin";
/// The sample scene of assets/, by the cameras of the synthetic checkpoint.
const IMAGES: [(&str, &str, &[u8]); 3] = [
    ("camera1", "assets/top.png", include_bytes!("../../../../assets/top.png")),
    ("camera2", "assets/wrist.png", include_bytes!("../../../../assets/wrist.png")),
    ("camera3", "assets/side.png", include_bytes!("../../../../assets/side.png")),
];
/// The most cameras there can be.
pub(super) const CAMERAS: u64 = IMAGES.len() as u64;
/// A resting SO-100 arm, in degrees; the gripper in percent.
const STATE: [f32; 6] = [2.0, -96.0, 92.0, 68.0, -4.0, 8.0];
/// Actions shown from each end of the chunk.
const ENDS: usize = 3;
const PLOT: &str = "smolvla-demo.png";

const NEXT: &str = "\
Next, a real checkpoint (`cargo run --release --` in the place of `smolvla` where it is not installed):
  smolvla run --checkpoint FOLDER|OWNER/NAME --image camera1=FILE --state 0,-90,90,45,0,10 --task \"…\"
  smolvla run --help
";

pub(super) fn perform(console: Console, args: &Args, size: Size) -> Result<(), Failure> {
    let plot = args.out.join(PLOT);
    output_file::check(&plot, "png")?;
    let device = Device::open(&args.backend)?;
    let precision = args.precision.resolve(&device)?;

    let cache = cache::folder()?;
    cache::tidy(&cache);
    let folder = cache.join(format!("synth-{}-seed{SEED}", size.name()));
    let checkpoint = open_or_write(console, size, &folder)?;
    let job = Job {
        checkpoint_name: format!("synthetic {} checkpoint, random weights", size.name()),
        device,
        options: PolicyOptions { precision, ..PolicyOptions::default() },
        observation: observation(args.cameras.unwrap_or(CAMERAS), checkpoint.config.state_dim())?,
        noise: Noise::Seed(SEED),
        steps: None,
        joints: joints::parse("so100").ok().filter(|names| names.len() == checkpoint.config.action_dim()),
    };
    let prediction = predict(console, &checkpoint, job)?;

    output_file::write(&plot, &output::plot(&prediction)?)?;
    console.result(&output::excerpt(&prediction, ENDS))?;
    console.result(&format!("\n{}", output::summary(&prediction)))?;
    console.result(&format!("checkpoint  {}\nplot        {}\n", folder.display(), plot.display()))?;
    console.remark(&format!("\n{}\n{NEXT}", meaning(size)))
}

/// What the random weights of a policy of this size are worth.
fn meaning(size: Size) -> &'static str {
    match size {
        Size::Base => {
            "The weights are random, so this motion means nothing; the work done is that of a real policy."
        }
        Size::Tiny => {
            "The weights are random, so this motion means nothing, and a miniature's times say nothing about a real \
             policy."
        }
    }
}

/// The synthetic checkpoint, written first if the cache has none.
fn open_or_write(console: Console, size: Size, folder: &Path) -> Result<Checkpoint, Failure> {
    if folder.exists() {
        return open(console, size, folder).map_err(|failure| {
            failure.hint(format!("delete {} to have it written again", folder.display()))
        });
    }
    console.status(&format!("writing a checkpoint with random weights to {}, once", folder.display()));
    open(console, size, folder)
}

fn open(console: Console, size: Size, folder: &Path) -> Result<Checkpoint, Failure> {
    // Leaves a complete folder as it is.
    let options = SynthOptions { size, seed: SEED, ..SynthOptions::default() };
    synth::write(console, &options, folder)?;
    let source = CheckpointSource::Folder(folder.to_owned());
    checkpoint_args::open(console, &source, &OpenOptions::default())
}

fn observation(cameras: u64, state_dim: usize) -> Result<Observation, Failure> {
    let cameras = usize::try_from(cameras).unwrap_or(IMAGES.len());
    let images = IMAGES.iter().take(cameras);
    let images = images.map(|(camera, name, bytes)| Ok(((*camera).to_owned(), Image::decode(*name, bytes)?)));
    let state = STATE.into_iter().chain(std::iter::repeat(0.0)).take(state_dim).collect();
    Ok(Observation { images: images.collect::<Result<_, Failure>>()?, state, task: TASK.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn observation_has_the_sample_images_and_a_state_that_fits() {
        let observation = observation(2, 8).unwrap();
        assert_eq!(observation.images.len(), 2);
        assert!(observation.images.iter().all(|(_, image)| (image.width(), image.height()) == (640, 480)));
        assert_eq!(observation.state.len(), 8);
        assert_eq!(observation.state[..6], STATE);
    }
}
