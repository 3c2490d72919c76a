//! Observations to calibrate on where there are no real ones.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use rand_distr::{Distribution, StandardNormal};

use crate::checkpoint::Checkpoint;
use crate::error::Result;
use crate::policy::Observation;
use crate::processor::{FeatureStatistics, Image};

const STATE: &str = "observation.state";

/// Pixels along a side of a synthetic image; it is brought to the policy's own size anyway.
const SIDE: usize = 256;
/// Colours along a side, between which pixels are interpolated.
const GRID: usize = 6;

const TASKS: [&str; 6] = [
    "pick up the red block and put it in the bin",
    "open the drawer",
    "fold the towel in half, then push it to the left",
    "stack the blue cube on the green cube",
    "put the pen into the cup",
    "wipe the table with the sponge",
];

/// The instruction of the synthetic observation of this number.
pub fn task(index: usize) -> &'static str {
    TASKS[index % TASKS.len()]
}

/// `count` made-up observations for every camera of the policy: smooth patches of colour with grain, states around
/// the training data's mean where the checkpoint has its statistics, and instructions in turn. The same seed gives the
/// same observations. They stand in for real ones: outliers that only real images cause are not seen in them.
///
/// # Errors
/// None that a checkpoint with cameras can cause.
pub fn synthetic(checkpoint: &Checkpoint, count: usize, seed: u64) -> Result<Vec<Observation>> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let width = checkpoint.config.state_dim();
    let FeatureStatistics { mean, std, min, max, .. } =
        checkpoint.statistics.as_ref().map(|statistics| statistics.feature(STATE)).unwrap_or_default();
    (0..count)
        .map(|index| {
            let images = checkpoint
                .config
                .cameras()
                .map(|camera| Ok((camera.to_owned(), image(camera, &mut rng)?)))
                .collect::<Result<_>>()?;
            let joint = |joint: usize, rng: &mut ChaCha8Rng| {
                let at = |values: &Option<Vec<f32>>| values.as_ref().and_then(|v| v.get(joint).copied());
                let normal: f32 = StandardNormal.sample(rng);
                let value = match (at(&mean), at(&std), at(&min), at(&max)) {
                    (Some(mean), Some(std), ..) => mean + normal * std,
                    (_, _, Some(min), Some(max)) => min + (max - min) * unit(rng),
                    _ => normal,
                };
                if value.is_finite() { value } else { normal }
            };
            let state = (0..width).map(|index| joint(index, &mut rng)).collect();
            Ok(Observation { images, state, task: task(index).to_owned() })
        })
        .collect()
}

/// From 0 to 1.
fn unit(rng: &mut ChaCha8Rng) -> f32 {
    (rng.next_u32() >> 8) as f32 / (1 << 24) as f32
}

/// Colours on a coarse grid, interpolated, with grain.
fn image(camera: &str, rng: &mut ChaCha8Rng) -> Result<Image> {
    let colours: Vec<f32> = (0..3 * GRID * GRID).map(|_| 255.0 * unit(rng)).collect();
    let mut pixels = Vec::with_capacity(3 * SIDE * SIDE);
    let place = |pixel: usize| {
        let at = pixel as f32 / SIDE as f32 * (GRID - 1) as f32;
        (at as usize, at.fract())
    };
    for (y, dy) in (0..SIDE).map(place) {
        for (x, dx) in (0..SIDE).map(place) {
            let grain = 16.0 * unit(rng) - 8.0;
            for channel in 0..3 {
                let colour = |x: usize, y: usize| colours[(y * GRID + x) * 3 + channel];
                let row = |y: usize| colour(x, y) * (1.0 - dx) + colour(x + 1, y) * dx;
                pixels.push((row(y) * (1.0 - dy) + row(y + 1) * dy + grain).clamp(0.0, 255.0) as u8);
            }
        }
    }
    Image::from_rgb8(format!("synthetic {camera}"), SIDE, SIDE, pixels)
}
