//! Relations between runs of one backend: what must change the actions, and what must not.

use smolvla_core::graph::{PrefixLayout, Silent};
use smolvla_core::policy::{ActionChunk, Observation, Policy};
use smolvla_core::processor::Image;
use smolvla_core::synth::Size;

use super::{Check, Context, predict};
use crate::evidence::{Evidence, Judge, Stop};
use crate::fixtures::{ACTION_SPACE, Case, Reference};
use crate::report::Tier;
use crate::stages::Recorder;
use crate::tolerance::{Class, Gates, tolerance};

/// Least relative change (root of the NMSE) of the actions when an input changes that the policy must look at. On
/// these checkpoints LeRobot's actions change by 0.1 and more; rounding changes nothing, since runs repeat exactly.
const LEAST_CHANGE: f64 = 1e-3;

/// Every relation at one size. At full size only those of the first port's test, because each costs two runs.
pub(super) fn checks(size: Size) -> Vec<Check> {
    let (case, others) = match size {
        Size::Tiny => (ACTION_SPACE, TINY),
        Size::Base => ("base_one_camera", [].as_slice()),
    };
    let all = SENSITIVITIES.iter().chain(others);
    all.map(|(name, relation)| {
        Check::new(Tier::Metamorphic, size, *name, move |context| relation(&Scene::open(context, case)?))
    })
    .collect()
}

type Relation = fn(&Scene<'_>) -> Result<Evidence, Stop>;

const SENSITIVITIES: &[(&str, Relation)] = &[
    ("determinism", determinism),
    ("instruction_sensitivity", instruction_sensitivity),
    ("camera_sensitivity", camera_sensitivity),
    ("state_sensitivity", state_sensitivity),
];

const TINY: &[(&str, Relation)] = &[
    ("noise_sensitivity", noise_sensitivity),
    ("swapped_cameras_sensitivity", swapped_cameras_sensitivity),
    ("order_of_images_changes_nothing", order_of_images_changes_nothing),
    ("order_of_batch_changes_nothing", order_of_batch_changes_nothing),
    ("neighbours_in_batch_change_nothing", neighbours_in_batch_change_nothing),
    ("padding_changes_nothing", padding_changes_nothing),
    ("masked_camera_changes_nothing", masked_camera_changes_nothing),
    ("watching_changes_nothing", watching_changes_nothing),
    ("other_steps_in_between_change_nothing", other_steps_in_between_change_nothing),
];

/// A case's checkpoint with LeRobot's observations and noise.
struct Scene<'a> {
    context: &'a Context<'a>,
    case: &'a Case,
    observations: Vec<Observation>,
    /// Noise of all observations, one after the other.
    noise: Vec<f32>,
    /// Numbers of one observation's noise, and of one action.
    noise_length: usize,
    action_dim: usize,
}

impl<'a> Scene<'a> {
    fn open(context: &'a Context<'a>, case: &str) -> Result<Self, Stop> {
        let case = context.fixtures.case(case)?;
        let golden = context.fixtures.golden(case, Reference::Fp32)?;
        let observations = context.fixtures.observations(case, &golden)?;
        // [… observations, chunk, action width]
        let (shape, noise) = golden.f32("noise")?;
        let (noise, noise_length) = (noise.to_vec(), shape.iter().rev().take(2).product());
        let action_dim = golden.f32("actions")?.0.last().copied().unwrap_or(0);
        Ok(Self { context, case, observations, noise, noise_length, action_dim })
    }

    fn load(&self) -> Result<Box<dyn Policy>, Stop> {
        self.context.load(self.case, None)
    }

    /// Noise of one observation.
    fn noise(&self, observation: usize) -> Result<&[f32], Stop> {
        self.noise
            .get(observation * self.noise_length..(observation + 1) * self.noise_length)
            .ok_or_else(|| Stop::Fixture(format!("{}: no noise {observation}", self.case.name)))
    }

    /// The chunk of each observation under its own noise, as one batch.
    fn batch(&self, policy: &mut dyn Policy, observations: &[usize]) -> Result<ActionChunk, Stop> {
        let mut noise = Vec::new();
        for observation in observations {
            noise.extend_from_slice(self.noise(*observation)?);
        }
        let batch: Vec<Observation> =
            observations.iter().map(|index| self.observations[*index].clone()).collect();
        predict(policy, &batch, &noise, None, &mut Silent)
    }

    /// The chunk of an observation under the first noise.
    fn chunk(&self, policy: &mut dyn Policy, observation: Observation) -> Result<ActionChunk, Stop> {
        predict(policy, &[observation], self.noise(0)?, None, &mut Silent)
    }

    /// The first observation.
    fn first(&self) -> Observation {
        self.observations.first().cloned().unwrap_or_default()
    }

    /// The joints whose state is changed: all, or the first at full size, where each costs a run.
    fn joints(&self) -> std::ops::Range<usize> {
        match self.case.size() {
            Size::Tiny => 0..self.first().state.len(),
            Size::Base => 0..1,
        }
    }

    /// Holds two chunks to the limits of normalised actions.
    fn same(&self, evidence: &mut Evidence, what: &str, expected: &[f32], got: &[f32]) {
        let gates = tolerance(Class::Actions, self.context.precision).map_or(Gates::EXACT, |row| row.gates);
        evidence.compare_within(what, Judge::Itself, gates, [expected, got], self.action_dim);
    }

    /// Demands that two chunks differ.
    fn moved(&self, evidence: &mut Evidence, what: &str, plain: &ActionChunk, changed: &ActionChunk) {
        let values = [plain.normalized.as_slice(), changed.normalized.as_slice()];
        evidence.compare_within(what, Judge::Itself, Gates::NONE, values, plain.action_dim);
        let change = evidence.measurements.last().map_or(0.0, |measurement| measurement.metrics.nmse.sqrt());
        evidence.require(change >= LEAST_CHANGE, || {
            format!("{what} moves the actions by {change:.1e} of their size, at least {LEAST_CHANGE:.0e} is expected")
        });
    }
}

/// Two runs, and a run of a policy loaded anew, are equal bit for bit.
fn determinism(scene: &Scene<'_>) -> Result<Evidence, Stop> {
    let mut evidence = Evidence::default();
    let mut policy = scene.load()?;
    let first = scene.chunk(&mut *policy, scene.first())?;
    let again = scene.chunk(&mut *policy, scene.first())?;
    drop(policy);
    let anew = scene.chunk(&mut *scene.load()?, scene.first())?;
    for (what, other) in [("a second run", again), ("a policy loaded anew", anew)] {
        let values = [first.normalized.as_slice(), other.normalized.as_slice()];
        evidence.compare_within(what, Judge::Itself, Gates::EXACT, values, first.action_dim);
    }
    Ok(evidence)
}

/// Another instruction, and the same words in another order: of the same length, so that the words must be read.
fn instruction_sensitivity(scene: &Scene<'_>) -> Result<Evidence, Stop> {
    let mut evidence = Evidence::default();
    let mut policy = scene.load()?;
    let plain = scene.chunk(&mut *policy, scene.first())?;
    let mut other = scene.first();
    other.task = "open the drawer and take out the blue cup".to_owned();
    let moved = scene.chunk(&mut *policy, other)?;
    scene.moved(&mut evidence, "another instruction", &plain, &moved);

    let mut reordered = scene.first();
    let words: Vec<&str> = reordered.task.split(' ').collect();
    // The first word stays, because a tokenizer may take the space before a word into it.
    reordered.task =
        words.iter().take(1).chain(words.iter().skip(1).rev()).copied().collect::<Vec<_>>().join(" ");
    let moved = scene.chunk(&mut *policy, reordered)?;
    evidence.require(moved.prefix_tokens == plain.prefix_tokens, || {
        format!("the words in another order make {} tokens, not {}", moved.prefix_tokens, plain.prefix_tokens)
    });
    scene.moved(&mut evidence, "the instruction's words in another order", &plain, &moved);
    Ok(evidence)
}

/// Every joint by itself.
fn state_sensitivity(scene: &Scene<'_>) -> Result<Evidence, Stop> {
    let mut evidence = Evidence::default();
    let mut policy = scene.load()?;
    let plain = scene.chunk(&mut *policy, scene.first())?;
    for joint in scene.joints() {
        let mut other = scene.first();
        other.state[joint] += 20.0;
        let moved = scene.chunk(&mut *policy, other)?;
        scene.moved(&mut evidence, &format!("joint {joint} elsewhere"), &plain, &moved);
    }
    Ok(evidence)
}

/// Every camera by itself: one that is not looked at would hide behind the others.
fn camera_sensitivity(scene: &Scene<'_>) -> Result<Evidence, Stop> {
    let mut evidence = Evidence::default();
    let mut policy = scene.load()?;
    let plain = scene.chunk(&mut *policy, scene.first())?;
    for camera in 0..scene.first().images.len() {
        let mut other = scene.first();
        let (name, image) = &mut other.images[camera];
        let what = format!("another picture of {name}");
        *image = gradient()?;
        let moved = scene.chunk(&mut *policy, other)?;
        scene.moved(&mut evidence, &what, &plain, &moved);
    }
    Ok(evidence)
}

/// A picture unlike any other.
fn gradient() -> Result<Image, Stop> {
    let (width, height) = (64_usize, 48_usize);
    let pixel = |index: usize| [(index % width * 4) as u8, (index / width * 5) as u8, 128];
    Ok(Image::from_rgb8("gradient", width, height, (0..width * height).flat_map(pixel).collect())?)
}

fn noise_sensitivity(scene: &Scene<'_>) -> Result<Evidence, Stop> {
    let mut evidence = Evidence::default();
    let mut policy = scene.load()?;
    let plain = scene.chunk(&mut *policy, scene.first())?;
    let other = predict(&mut *policy, &[scene.first()], scene.noise(1)?, None, &mut Silent)?;
    scene.moved(&mut evidence, "another noise", &plain, &other);
    Ok(evidence)
}

fn swapped_cameras_sensitivity(scene: &Scene<'_>) -> Result<Evidence, Stop> {
    changed(scene, "cameras swapped", |observation| {
        if let [(_, first), (_, second), ..] = observation.images.as_mut_slice() {
            std::mem::swap(first, second);
        }
    })
}

/// Actions before and after a change that must be seen.
fn changed(scene: &Scene<'_>, what: &str, change: fn(&mut Observation)) -> Result<Evidence, Stop> {
    let mut evidence = Evidence::default();
    let mut policy = scene.load()?;
    let plain = scene.chunk(&mut *policy, scene.first())?;
    let mut other = scene.first();
    change(&mut other);
    let moved = scene.chunk(&mut *policy, other)?;
    scene.moved(&mut evidence, what, &plain, &moved);
    Ok(evidence)
}

/// Images are found by name, not by place.
fn order_of_images_changes_nothing(scene: &Scene<'_>) -> Result<Evidence, Stop> {
    let mut evidence = Evidence::default();
    let mut policy = scene.load()?;
    let plain = scene.chunk(&mut *policy, scene.first())?;
    let mut reversed = scene.first();
    reversed.images.reverse();
    let other = scene.chunk(&mut *policy, reversed)?;
    scene.same(&mut evidence, "images in another order", &plain.normalized, &other.normalized);
    Ok(evidence)
}

fn order_of_batch_changes_nothing(scene: &Scene<'_>) -> Result<Evidence, Stop> {
    let (order, other) = ([0, 1, 2, 9], [9, 2, 0, 1]);
    let mut evidence = Evidence::default();
    let mut policy = scene.load()?;
    let plain = scene.batch(&mut *policy, &order)?;
    let permuted = scene.batch(&mut *policy, &other)?;
    let length = plain.chunk_size * plain.action_dim;
    for (place, observation) in order.iter().enumerate() {
        let Some(elsewhere) = other.iter().position(|o| o == observation) else { continue };
        let expected = &plain.normalized[place * length..][..length];
        let got = &permuted.normalized[elsewhere * length..][..length];
        scene.same(&mut evidence, &format!("observation {observation} in another place"), expected, got);
    }
    Ok(evidence)
}

/// Neighbours with longer instructions pad an observation's own: that must not show.
fn neighbours_in_batch_change_nothing(scene: &Scene<'_>) -> Result<Evidence, Stop> {
    let mut evidence = Evidence::default();
    let mut policy = scene.load()?;
    let together = scene.batch(&mut *policy, &[0, 9, 4, 6])?;
    let length = together.chunk_size * together.action_dim;
    for (place, observation) in [0, 9, 4, 6].into_iter().enumerate() {
        let alone = scene.batch(&mut *policy, &[observation])?;
        let got = &together.normalized[place * length..][..length];
        scene.same(&mut evidence, &format!("observation {observation} in a batch"), &alone.normalized, got);
    }
    Ok(evidence)
}

fn padding_changes_nothing(scene: &Scene<'_>) -> Result<Evidence, Stop> {
    let mut evidence = Evidence::default();
    // A checkpoint whose instructions are padded to their longest, with a camera that is absent.
    for case in ["max_length_padding", "empty_cameras"] {
        let scene = Scene::open(scene.context, case)?;
        let run = |layout| {
            let mut policy = scene.context.load(scene.case, Some(layout))?;
            scene.chunk(&mut *policy, scene.first())
        };
        let (padded, packed) = (run(PrefixLayout::Padded)?, run(PrefixLayout::Packed)?);
        evidence.require(packed.prefix_tokens < padded.prefix_tokens, || {
            format!("{case}: {} tokens with padding, {} without", padded.prefix_tokens, packed.prefix_tokens)
        });
        let what = format!("{case} without padding");
        scene.same(&mut evidence, &what, &padded.normalized, &packed.normalized);
    }
    Ok(evidence)
}

/// A camera absent from one observation of a batch is computed there and masked.
fn masked_camera_changes_nothing(scene: &Scene<'_>) -> Result<Evidence, Stop> {
    let scene = Scene::open(scene.context, "empty_cameras")?;
    let mut evidence = Evidence::default();
    let mut policy = scene.load()?;
    let alone = scene.chunk(&mut *policy, scene.first())?;
    // A neighbour that has the camera, so that it is computed for both.
    let mut full = scene.first();
    let absent = policy
        .info()
        .cameras
        .iter()
        .find(|camera| {
            !camera.contains("empty_camera") && !full.images.iter().any(|(name, _)| name == *camera)
        })
        .cloned()
        .ok_or_else(|| Stop::Fixture("empty_cameras: no camera is absent".to_owned()))?;
    let picture = full.images.first().map(|(_, image)| image.clone());
    full.images.extend(picture.map(|picture| (absent, picture)));
    let noise = [scene.noise(0)?; 2].concat();
    let both = predict(&mut *policy, &[scene.first(), full], &noise, None, &mut Silent)?;
    let got = &both.normalized[..alone.normalized.len()];
    scene.same(&mut evidence, "a masked camera", &alone.normalized, got);
    Ok(evidence)
}

/// Watching runs composed layers where a backend has layers of its own.
fn watching_changes_nothing(scene: &Scene<'_>) -> Result<Evidence, Stop> {
    let mut evidence = Evidence::default();
    let mut policy = scene.load()?;
    let plain = scene.chunk(&mut *policy, scene.first())?;
    let mut recorder = Recorder::default();
    let watched = predict(&mut *policy, &[scene.first()], scene.noise(0)?, None, &mut recorder)?;
    scene.same(&mut evidence, "a watched run", &watched.normalized, &plain.normalized);
    Ok(evidence)
}

/// What is kept between chunks (time embeddings, buffers) belongs to a number of steps.
fn other_steps_in_between_change_nothing(scene: &Scene<'_>) -> Result<Evidence, Stop> {
    let mut evidence = Evidence::default();
    let mut policy = scene.load()?;
    let run = |policy: &mut dyn Policy, steps| {
        predict(policy, &[scene.first()], scene.noise(0)?, Some(steps), &mut Silent)
    };
    let plain = run(&mut *policy, 10)?;
    let one = run(&mut *policy, 1)?;
    let again = run(&mut *policy, 10)?;
    scene.same(&mut evidence, "ten steps again", &plain.normalized, &again.normalized);
    scene.moved(&mut evidence, "one step", &plain, &one);
    Ok(evidence)
}
