//! Copies between the host and the device, as the backend counts them at its seam: an observation goes up, a chunk comes
//! down, nothing is read back before that and nothing goes up between the steps.

use std::process::ExitCode;

use libtest_mimic::Failed;
use smolvla_backend_wgpu::{Options, Transfers, WgpuBackend};
use smolvla_core::checkpoint::{Checkpoint, LoadOptions};
use smolvla_core::graph::{Observer, Silent, Site};
use smolvla_core::policy::{ChunkRequest, Noise, Observation, Policy, PolicyOptions, SmolVla};
use smolvla_core::processor::Image;
use smolvla_core::synth::{self, SynthOptions};

mod support;

fn main() -> ExitCode {
    let tests: [(&str, support::Test); 2] = [
        ("one_observation_up_and_one_chunk_down", one_observation_up_and_one_chunk_down),
        ("images_in_several_goes_give_the_same_actions", images_in_several_goes_give_the_same_actions),
    ];
    support::main(tests.map(|(name, test)| (name.to_owned(), test)))
}

/// What had been copied when each step's velocity was there.
struct Meter<'a> {
    backend: &'a WgpuBackend,
    steps: Vec<Transfers>,
}

impl Observer for Meter<'_> {
    fn reached(&mut self, site: Site) {
        if let Site::Velocity { .. } = site {
            self.steps.push(self.backend.transfers());
        }
    }
}

fn one_observation_up_and_one_chunk_down(backend: &WgpuBackend) -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let checkpoint = folder.path().join("policy");
    synth::write(&SynthOptions::default(), &checkpoint, &mut |_, _| ())?;
    let checkpoint = Checkpoint::open(&checkpoint, &LoadOptions::default())?;
    let mut policy = SmolVla::open(backend.clone(), &checkpoint, &PolicyOptions::default(), &mut |_| ())?;
    let side = policy.info().image_side;
    let cameras = policy.info().cameras[..2].to_vec();
    let image = Image::from_rgb8("grey", side, side, vec![90; 3 * side * side])?;
    let observation = [Observation {
        images: cameras.into_iter().map(|camera| (camera, image.clone())).collect(),
        state: vec![0.1; policy.info().state_dim],
        task: "go".to_owned(),
    }];

    let mut counted = Vec::new();
    for steps in [4, 4, 9, 9] {
        let before = backend.transfers();
        let mut meter = Meter { backend, steps: Vec::new() };
        let request = ChunkRequest { noise: Some(Noise::Seed(1)), steps: Some(steps) };
        policy.predict_action_chunk(&observation, &request, &mut meter)?;
        let after = backend.transfers();

        // All steps were enqueued with what was there at the first; the chunk came after the last.
        if meter.steps.len() != steps || meter.steps.iter().any(|step| *step != meter.steps[0]) {
            return Err(Failed::from(format!("something was copied between the steps: {:?}", meter.steps)));
        }
        if meter.steps[0].downloads != before.downloads {
            return Err(Failed::from("something was read back before the first step"));
        }
        let chunk = checkpoint.config.chunk_size * checkpoint.config.max_action_dim;
        let down = (after.downloads - before.downloads, after.download_bytes - before.download_bytes);
        if down != (1, 4 * chunk as u64) {
            return Err(Failed::from(format!(
                "{down:?} downloads and bytes, not one chunk of {chunk} numbers"
            )));
        }
        counted.push((after.uploads - before.uploads, after.upload_bytes - before.upload_bytes));
    }

    // The first chunk with so many steps brings their embedded times; they stay.
    let observation_up = counted[1];
    if counted[3] != observation_up
        || counted[0].0 != observation_up.0 + 4
        || counted[2].0 != observation_up.0 + 9
    {
        return Err(Failed::from(format!("uploads and bytes of four chunks: {counted:?}")));
    }
    // Patches of both cameras, words, state, the prefix's rotation (2) and mask, the expert's two masks at most and two
    // rotations (4), noise.
    let pixels = (2 * 3 * side * side * 4) as u64;
    if !(11..=13).contains(&observation_up.0) || observation_up.1 < pixels {
        return Err(Failed::from(format!("an observation is {observation_up:?} uploads and bytes")));
    }
    Ok(())
}

/// Nine images through an adapter that has room for six.
fn images_in_several_goes_give_the_same_actions(_: &WgpuBackend) -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let checkpoint = folder.path().join("policy");
    synth::write(&SynthOptions::default(), &checkpoint, &mut |_, _| ())?;
    let checkpoint = Checkpoint::open(&checkpoint, &LoadOptions::default())?;
    let vision = &checkpoint.architecture.vision;
    let actions = |goes: Option<usize>| -> Result<(Vec<f32>, u64), Failed> {
        let mut options = Options::default();
        let side = checkpoint.config.resize_imgs_with_padding.map_or(vision.image_size, |(width, _)| width);
        let patches = (side / vision.patch_size).pow(2);
        let widest = (3 * vision.hidden).max(vision.intermediate).max(3 * vision.patch_size.pow(2));
        options.max_tensor_bytes = goes.map(|images| (4 * images * patches * widest) as u64);
        let backend = WgpuBackend::open(&options)?;
        let mut policy = SmolVla::open(backend.clone(), &checkpoint, &PolicyOptions::default(), &mut |_| ())?;
        let info = policy.info().clone();
        let observations: Vec<Observation> = (0..3u8)
            .map(|number| {
                let image = |camera: u8| {
                    let value = 40 * number + 13 * camera;
                    Image::from_rgb8("plain", side, side, vec![value; 3 * side * side])
                };
                Ok(Observation {
                    images: (info.cameras.iter().zip(0..3))
                        .map(|(camera, number)| Ok((camera.clone(), image(number)?)))
                        .collect::<Result<_, Failed>>()?,
                    state: vec![0.1; info.state_dim],
                    task: "go".to_owned(),
                })
            })
            .collect::<Result<_, Failed>>()?;
        let before = backend.transfers().uploads;
        let request = ChunkRequest { noise: Some(Noise::Seed(1)), steps: Some(2) };
        let chunk = policy.predict_action_chunk(&observations, &request, &mut Silent)?;
        Ok((chunk.actions, backend.transfers().uploads - before))
    };
    let (at_once, uploads) = actions(None)?;
    let (in_goes, uploads_in_goes) = actions(Some(6))?;
    if uploads_in_goes != uploads + 1 {
        return Err(Failed::from(format!("{uploads} uploads at once, {uploads_in_goes} in two goes")));
    }
    let largest = at_once.iter().fold(0.0f32, |most, value| most.max(value.abs()));
    let difference = at_once.iter().zip(&in_goes).fold(0.0f32, |most, (a, b)| most.max((a - b).abs()));
    // Products of other sizes may sum in another order.
    if !(largest > 0.0 && difference <= 1e-4 * largest) {
        return Err(Failed::from(format!("actions of up to {largest} are {difference} apart")));
    }
    Ok(())
}
