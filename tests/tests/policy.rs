//! What a policy promises beyond single numbers: the action queue, batches, absent cameras, sensitivity.

use std::path::Path;
use std::sync::{Arc, LazyLock, Mutex};

use serde_json::json;
use smolvla_conformance::altered::{Alteration, Altered};
use smolvla_conformance::metrics::{max_abs, nmse};
use smolvla_core::backend::Backend;
use smolvla_core::checkpoint::{Checkpoint, LoadOptions};
use smolvla_core::graph::{self, Observer, PrefixLayout, Silent, Site};
use smolvla_core::policy::{ActionChunk, ChunkRequest, Noise, Observation, Policy, PolicyOptions, SmolVla};
use smolvla_core::processor::Image;
use smolvla_core::reference::Reference;
use smolvla_core::synth::{self, Size, SynthOptions};
use smolvla_core::weights::LinearSource;
use smolvla_core::{BackendError, Capabilities, Precision, PrecisionPlan, Result};

/// A tiny checkpoint whose policy hands out four actions of each chunk, with two cameras of which one may be empty.
static FOLDER: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let overrides = json!({
        "n_action_steps": 4,
        "empty_cameras": 1,
        "input_features": {
            "observation.state": {"type": "STATE", "shape": [6]},
            "observation.images.top": {"type": "VISUAL", "shape": [3, 60, 80]},
            "observation.images.wrist": {"type": "VISUAL", "shape": [3, 60, 80]},
        },
    });
    let overrides = overrides.as_object().cloned().unwrap_or_default();
    let options = SynthOptions { size: Size::Tiny, seed: 5, overrides };
    synth::write(&options, &folder.path().join("policy"), &mut |_, _| ()).expect("a synthetic checkpoint");
    folder
});

fn policy() -> SmolVla<Reference> {
    let checkpoint = Checkpoint::open(&FOLDER.path().join("policy"), &LoadOptions::default()).unwrap();
    SmolVla::open(Reference, &checkpoint, &PolicyOptions::default(), &mut |_| ()).unwrap()
}

/// A picture of slanted stripes that depends on `seed`.
fn picture(seed: usize) -> Image {
    let pixel = |index: usize| ((index % 80 * (seed + 1) + index / 80 * 3 + seed * 40) % 256) as u8;
    Image::from_rgb8("picture", 80, 60, (0..80 * 60 * 3).map(|i| pixel(i / 3)).collect()).unwrap()
}

fn observation(seed: usize) -> Observation {
    Observation {
        images: vec![("top".to_owned(), picture(seed)), ("wrist".to_owned(), picture(seed + 7))],
        state: (0..6).map(|joint| (joint * 10 + seed) as f32).collect(),
        task: "pick up the red block".to_owned(),
    }
}

fn predict(policy: &mut dyn Policy, observations: &[Observation]) -> Result<ActionChunk> {
    let length = observations.len() * 10 * 8;
    let noise = (0..length).map(|i| (i % 80) as f32 / 40.0 - 1.0).collect();
    let request = ChunkRequest { noise: Some(Noise::Values(noise)), steps: None };
    policy.predict_action_chunk(observations, &request, &mut Silent)
}

/// How much two chunks differ, relative to the first.
fn difference(a: &ActionChunk, b: &ActionChunk) -> f64 {
    nmse(&a.normalized, &b.normalized).sqrt()
}

#[test]
fn select_action_hands_out_n_action_steps_then_predicts_again() {
    let mut policy = policy();
    let chunk = |policy: &mut SmolVla<Reference>, seed| {
        let request = ChunkRequest { noise: Some(Noise::Seed(seed)), steps: None };
        policy.predict_action_chunk(&[observation(1)], &request, &mut Silent).unwrap()
    };
    let (first, second) = (chunk(&mut policy, 0), chunk(&mut policy, 1));
    for step in 0..4 {
        assert_eq!(policy.select_action(&[observation(1)]).unwrap(), [first.action(0, step)], "step {step}");
    }
    // The queue is empty: the next chunk, from the next noise.
    assert_eq!(policy.select_action(&[observation(1)]).unwrap(), [second.action(0, 0)]);
}

#[test]
fn queued_actions_do_not_look_at_new_observations_until_reset() {
    let mut policy = policy();
    policy.select_action(&[observation(1)]).unwrap();
    let request = ChunkRequest { noise: Some(Noise::Seed(0)), steps: None };
    let chunk = policy.predict_action_chunk(&[observation(1)], &request, &mut Silent).unwrap();
    assert_eq!(policy.select_action(&[observation(2)]).unwrap(), [chunk.action(0, 1)]);
    policy.reset();
    assert_ne!(policy.select_action(&[observation(2)]).unwrap(), [chunk.action(0, 2)]);
}

#[test]
fn select_action_refuses_another_batch_size_while_actions_are_queued() {
    let mut policy = policy();
    policy.select_action(&[observation(1), observation(2)]).unwrap();
    let error = policy.select_action(&[observation(1)]).unwrap_err().to_string();
    assert!(error.contains("actions for 2 are queued; call reset()"), "{error}");
    policy.reset();
    assert_eq!(policy.select_action(&[observation(1)]).unwrap().len(), 1);
}

#[test]
fn batch_predicts_what_each_observation_alone_does() {
    let mut policy = policy();
    let mut other = observation(2);
    other.task = "go".to_owned();
    let both = predict(&mut policy, &[observation(1), other.clone()]).unwrap();
    let alone = [predict(&mut policy, &[observation(1)]).unwrap(), predict(&mut policy, &[other]).unwrap()];
    let half = both.normalized.len() / 2;
    for (index, alone) in alone.iter().enumerate() {
        let part = &both.normalized[index * half..][..half];
        assert!(nmse(&alone.normalized, part) < 1e-12, "observation {index}");
    }
}

#[test]
fn prefix_layout_does_not_change_actions() {
    let mut policy = policy();
    let mut absent = observation(3);
    absent.images.pop();
    policy.set_layout(PrefixLayout::Padded);
    let padded = predict(&mut policy, std::slice::from_ref(&absent)).unwrap();
    policy.set_layout(PrefixLayout::Packed);
    let packed = predict(&mut policy, &[absent]).unwrap();
    assert!(packed.prefix_tokens < padded.prefix_tokens, "{} {}", packed.prefix_tokens, padded.prefix_tokens);
    assert!(difference(&padded, &packed) < 1e-6);
}

#[test]
fn camera_absent_from_part_of_a_batch_is_masked_there_and_said() {
    let mut policy = policy();
    let mut absent = observation(1);
    absent.images.pop();
    let alone = predict(&mut policy, std::slice::from_ref(&absent)).unwrap();
    let both = predict(&mut policy, &[absent, observation(2)]).unwrap();
    assert!(nmse(&alone.normalized, &both.normalized[..alone.normalized.len()]) < 1e-12);
    assert!(
        both.notices.iter().any(|n| n.contains("wrist is absent in part of the batch")),
        "{:?}",
        both.notices
    );
    assert!(alone.notices.iter().any(|n| n.contains("wrist is absent: a masked")), "{:?}", alone.notices);
}

#[test]
fn order_of_images_does_not_matter_but_swapping_cameras_does() {
    let mut policy = policy();
    let plain = predict(&mut policy, &[observation(1)]).unwrap();
    let mut reordered = observation(1);
    reordered.images.reverse();
    assert_eq!(predict(&mut policy, &[reordered]).unwrap().actions, plain.actions);
    let mut swapped = observation(1);
    swapped.images[0].0 = "wrist".to_owned();
    swapped.images[1].0 = "top".to_owned();
    assert!(difference(&plain, &predict(&mut policy, &[swapped]).unwrap()) > 1e-3);
}

#[test]
fn actions_depend_on_every_input() {
    let mut policy = policy();
    let plain = predict(&mut policy, &[observation(1)]).unwrap();
    assert_eq!(predict(&mut policy, &[observation(1)]).unwrap().actions, plain.actions, "two runs differ");
    let mut changed = vec![("task", observation(1)), ("state", observation(1)), ("camera", observation(1))];
    changed[0].1.task = "open the drawer".to_owned();
    changed[1].1.state[2] += 30.0;
    changed[2].1.images[1].1 = picture(3);
    for (what, observation) in changed {
        let moved = difference(&plain, &predict(&mut policy, &[observation]).unwrap());
        assert!(moved > 1e-3, "another {what} moves the actions by {moved:.1e} only");
    }
}

#[test]
fn number_of_steps_can_change_between_chunks() {
    let mut policy = policy();
    let mut run = |steps| {
        let request = ChunkRequest { noise: Some(Noise::Seed(3)), steps };
        policy.predict_action_chunk(&[observation(1)], &request, &mut Silent).unwrap()
    };
    let ten = run(None);
    let one = run(Some(1));
    assert_eq!((ten.steps, one.steps), (10, 1));
    assert!(max_abs(&ten.normalized, &one.normalized) > 1e-3);
    assert_eq!(run(Some(10)).actions, ten.actions);
}

#[test]
fn unused_observer_sees_every_stage_in_order() {
    #[derive(Default)]
    struct Order(Vec<Site>);
    impl Observer for Order {
        fn reached(&mut self, site: Site) {
            self.0.push(site);
        }
    }
    let mut order = Order::default();
    policy().predict_action_chunk(&[observation(1)], &ChunkRequest::default(), &mut order).unwrap();
    let stages: Vec<_> = order.0.iter().map(|site| site.stage()).collect();
    assert!(stages.is_sorted(), "{stages:?}");
    assert_eq!(order.0.first(), Some(&Site::VisionEmbeddings));
    assert_eq!(order.0.last(), Some(&Site::Actions { step: 10 }));
}

#[test]
fn inputs_that_cannot_be_right_are_refused_by_name() {
    let mut policy = policy();
    type Edit = fn(&mut Observation);
    let cases: &[(Edit, &str)] = &[
        (|o| o.state.truncate(5), "state: observation 0 has 5 numbers, the policy takes 6"),
        (|o| o.state.push(0.0), "state: observation 0 has 7 numbers"),
        (|o| o.state[3] = f32::NAN, "state: number 3 of observation 0 is NaN"),
        (|o| o.state[0] = f32::NEG_INFINITY, "state: number 0 of observation 0 is -inf"),
        (|o| o.task.clear(), "task"),
        (|o| o.task = " \n\t".to_owned(), "task"),
        (|o| o.images.clear(), "images: no image; give at least one of observation.images.top"),
        (|o| o.images[0].0 = "side".to_owned(), "no camera `side`"),
        (|o| o.images[0].0 = "wrist".to_owned(), "more than one image for camera `observation.images.wrist`"),
    ];
    for (edit, message) in cases {
        let mut bad = observation(1);
        edit(&mut bad);
        let error = predict(&mut policy, &[bad]).unwrap_err().to_string();
        assert!(error.contains(message), "{error}\nexpected {message}");
    }
    let mut refuse = |observations: &[Observation], noise, steps, message: &str| {
        let request = ChunkRequest { noise, steps };
        let error = policy.predict_action_chunk(observations, &request, &mut Silent).unwrap_err().to_string();
        assert!(error.contains(message), "{error}\nexpected {message}");
    };
    refuse(&[], None, None, "observations: the batch is empty");
    refuse(&[observation(1)], None, Some(0), "num_steps: 0");
    refuse(&[observation(1)], None, Some(1_000_000), "num_steps: 1000000; expected 1 to 1000");
    refuse(&[observation(1)], Some(Noise::Values(vec![0.0; 79])), None, "noise: 79 numbers; expected 80");
    refuse(&[observation(1)], Some(Noise::Values(vec![f32::NAN; 80])), None, "noise: number 0 is NaN");
}

/// What a backend was asked to prepare: paths of linear layers, each with its precision.
#[derive(Clone, Default)]
struct Asked(Arc<Mutex<Vec<(String, Precision)>>>);

impl Alteration<Reference> for Asked {
    fn capabilities(&self, inner: &Reference) -> Capabilities {
        let mut capabilities = inner.capabilities();
        capabilities.precisions.push(Precision::Bf16);
        capabilities
    }

    fn prepare_linear(
        &self,
        inner: &Reference,
        source: &LinearSource<'_>,
        precision: Precision,
    ) -> Result<<Reference as Backend>::Linear, BackendError> {
        self.0.lock().expect("no test panics in here").push((source.path.clone(), precision));
        // In f32 whatever was asked for: a lie that must not pass.
        inner.prepare_linear(source, precision)
    }
}

/// Opens the tiny checkpoint in `plan`; what was asked for, and the error if there was one.
fn opened(plan: PrecisionPlan) -> (Vec<(String, Precision)>, Option<String>) {
    let checkpoint = Checkpoint::open(&FOLDER.path().join("policy"), &LoadOptions::default()).unwrap();
    let asked = Asked::default();
    let options = PolicyOptions { precision: plan, ..PolicyOptions::default() };
    let backend = Altered::new(Reference, asked.clone());
    let error = SmolVla::open(backend, &checkpoint, &options, &mut |_| ()).err();
    let layers = asked.0.lock().unwrap().clone();
    (layers, error.map(|error| error.to_string()))
}

#[test]
fn every_linear_layer_has_a_path_of_its_own_and_is_prepared_once() {
    let checkpoint = Checkpoint::open(&FOLDER.path().join("policy"), &LoadOptions::default()).unwrap();
    let mut listed = graph::layer_paths(&checkpoint.architecture);
    let (layers, error) = opened(PrecisionPlan::default());
    assert_eq!(error, None);
    let mut prepared: Vec<String> = layers.into_iter().map(|(path, _)| path).collect();
    listed.sort();
    prepared.sort();
    assert_eq!(prepared, listed);
    prepared.dedup();
    assert_eq!(prepared.len(), listed.len(), "{prepared:?}");
    for path in
        ["vision.layers.0.qkv", "text.layers.0.gate_up", "expert.layers.1.query", "expert.time_in_time"]
    {
        assert!(listed.iter().any(|listed| listed == path), "no {path} in {listed:?}");
    }
}

#[test]
fn each_layer_is_asked_for_in_the_precision_of_the_plan() {
    let plan = PrecisionPlan::new("mixed", Precision::F32).with_rule("connector", Precision::Bf16, "");
    let (layers, error) = opened(plan.clone());
    assert!(layers.iter().all(|(path, precision)| *precision == plan.precision_for(path)), "{layers:?}");
    assert_eq!(layers.last().map(|(path, _)| path.as_str()), Some("connector"));
    // The reference prepared it in f32 all the same.
    let error = error.expect("what is prepared must be what was asked for");
    assert!(error.contains("modality_projection.proj: prepared as f32, bf16 was asked for"), "{error}");
}

#[test]
fn a_plan_that_does_not_fit_is_refused_before_anything_is_prepared() {
    let (layers, error) = opened(PrecisionPlan::default().with_rule("expert.layers.9.*", Precision::F32, ""));
    let error = error.expect("the expert has no such layer");
    assert!(error.contains("`expert.layers.9.*` matches no linear layer"), "{error}");
    assert!(layers.is_empty(), "{layers:?}");

    let (_, error) = opened(Precision::F16.into());
    let error = error.expect("the backend has no f16");
    assert!(error.contains("precision f16 is not supported; choose f32, bf16"), "{error}");

    let (_, error) = opened(PrecisionPlan::default().with_rule("text.embedding", Precision::F32, ""));
    assert!(error.is_some(), "a table has no precision to choose");
}

#[test]
fn raw_actions_are_normalised_and_said_to_be() {
    use smolvla_core::checkpoint::StatisticsChoice;
    use smolvla_core::policy::ActionUnits;
    let folder: &Path = &FOLDER.path().join("policy");
    let options = LoadOptions { statistics: StatisticsChoice::Raw, ..LoadOptions::default() };
    let checkpoint = Checkpoint::open(folder, &options).unwrap();
    let mut policy = SmolVla::open(Reference, &checkpoint, &PolicyOptions::default(), &mut |_| ()).unwrap();
    assert_eq!(policy.info().units, ActionUnits::Normalized);
    assert!(policy.info().notices.iter().any(|n| n.contains("no statistics are applied")));
    let chunk = predict(&mut policy, &[observation(1)]).unwrap();
    assert_eq!(chunk.actions, chunk.normalized);
}
