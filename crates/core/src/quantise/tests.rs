use std::path::PathBuf;

use super::*;
use crate::checkpoint::{Inspection, LoadOptions};
use crate::reference::Reference;
use crate::synth::{self, SynthOptions};

/// A tiny checkpoint in a folder of its own.
struct Source {
    root: tempfile::TempDir,
    folder: PathBuf,
}

impl Source {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("policy");
        synth::write(&SynthOptions::default(), &folder, &mut |_, _| ()).unwrap();
        Self { root, folder }
    }

    fn open(&self) -> Checkpoint {
        open(&self.folder).unwrap()
    }

    fn out(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn quantise(&self, name: &str, options: &QuantiseOptions) -> Result<Report> {
        let checkpoint = self.open();
        let observations = observations(&checkpoint);
        quantise(
            &|| Ok(Reference),
            checkpoint,
            &observations,
            options,
            &self.out(name),
            &mut |_, _| Ok(Vec::new()),
            &mut |_| (),
        )
    }
}

fn open(folder: &Path) -> Result<Checkpoint> {
    Checkpoint::open(folder, &LoadOptions::default())
}

/// One camera is enough, and quicker.
fn observations(checkpoint: &Checkpoint) -> Vec<Observation> {
    let mut observations = synthetic(checkpoint, 1, 3).unwrap();
    observations.iter_mut().for_each(|observation| observation.images.truncate(1));
    observations
}

fn actions(checkpoint: &Checkpoint) -> Vec<f32> {
    let mut policy = SmolVla::open(Reference, checkpoint, &PolicyOptions::default(), &mut |_| ()).unwrap();
    let request = ChunkRequest { noise: Some(Noise::Seed(0)), steps: Some(2) };
    policy.predict_action_chunk(&observations(checkpoint), &request, &mut Silent).unwrap().normalized
}

fn furthest(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn smoothing_alone_keeps_the_actions() {
    let source = Source::new();
    let checkpoint = source.open();
    let (record, _) = watch(Reference, &checkpoint, &observations(&checkpoint), &mut |_, _, _| ()).unwrap();
    let layers = layers(&checkpoint.architecture);
    let smoothing = Smoothing::new(&checkpoint, &layers, &record, 0.5).unwrap();
    let normed = layers.iter().filter(|layer| layer.norm.is_some()).count();
    assert_eq!(smoothing.len(), normed);

    // Every weight and norm in f32 with its factors, and nothing rounded.
    let smoothed = |change: &dyn Fn(&mut Vec<f32>, &str)| {
        let folder = tempfile::tempdir().unwrap();
        copy_others(&checkpoint.folder, folder.path()).unwrap();
        let tensors: Vec<(String, Vec<usize>, Vec<u8>)> = checkpoint
            .weights
            .tensors()
            .map(|(name, entry)| {
                let norm = smoothing.norm(&checkpoint, name).unwrap();
                let mut values = norm.unwrap_or_else(|| smoothing.weight(&checkpoint, name).unwrap().0);
                change(&mut values, name);
                let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
                (name.to_owned(), entry.shape.clone(), bytes)
            })
            .collect();
        let views = tensors.iter().map(|(name, shape, bytes)| {
            let dtype = safetensors::Dtype::F32;
            (name, safetensors::tensor::TensorView::new(dtype, shape.clone(), bytes).unwrap())
        });
        safetensors::serialize_to_file(views, None, &folder.path().join(WEIGHTS)).unwrap();
        actions(&open(folder.path()).unwrap())
    };
    let original = actions(&checkpoint);
    let difference = furthest(&original, &smoothed(&|_, _| ()));
    assert!(difference < 1e-4 && difference > 0.0, "{difference}");
    // A norm without its factors shows.
    let norm = "model.vlm_with_expert.lm_expert.layers.0.input_layernorm.weight";
    let plain = checkpoint.tensor(norm).unwrap().to_f32();
    let wrong = smoothed(&|values, name| {
        if name == norm {
            values.clone_from(&plain);
        }
    });
    assert!(furthest(&original, &wrong) > 1e-3);
}

#[test]
fn quantised_checkpoint_opens_runs_and_is_near_the_original() {
    let source = Source::new();
    let report = source.quantise("int8", &QuantiseOptions::default()).unwrap();
    assert_eq!(report.layers.len(), layers(&source.open().architecture).len());
    assert!(report.layers.iter().all(|layer| layer.rows > 0 && layer.w8a8 > 0.0 && !layer.int4));
    // Sixteen bits leave the weights' error, which is near that of eight bits of a Gaussian row.
    assert!(report.layers.iter().all(|layer| layer.w8a16 < 3e-4), "{:?}", report.layers);
    assert!(report.bytes_after < report.bytes_before);
    let [policy] = &report.policies[..] else { panic!("{:?}", report.policies) };
    assert!(policy.rms_normalized > 0.0 && policy.rms_normalized < 0.1, "{policy:?}");
    assert!(policy.joints.iter().all(|joint| joint.pcc.is_some_and(|pcc| pcc > 0.99)), "{policy:?}");

    let quantised = open(&source.out("int8")).unwrap();
    assert!(is_quantised(&quantised.weights));
    let difference = furthest(&actions(&source.open()), &actions(&quantised));
    assert!(difference > 0.0 && difference < 0.2, "{difference}");
    for layer in layers(&quantised.architecture) {
        for name in &layer.weights {
            let view = quantised.tensor(name).unwrap();
            assert_eq!(view.dtype(), StorageType::I8, "{name}");
            // An integer device that rounds the floats again gets the same integers and scales.
            let again = Int8::new(&view.to_f32(), view.cols());
            let mut digits = vec![0; view.cols()];
            for row in 0..view.rows() {
                view.read_digits(row, &mut digits);
                assert_eq!(again.digits[row * view.cols()..][..view.cols()], digits, "{name} row {row}");
                assert_eq!(Some(again.steps[row]), view.row_scale(row), "{name} row {row}");
                assert!(ChannelScale::of_step(again.steps[row], TWO_DIGITS).is_some());
            }
        }
    }
    let inspection = Inspection::of(&quantised.folder, &LoadOptions::default()).unwrap();
    assert_eq!(inspection.refusals, [""; 0]);
    assert_eq!(
        inspection.parameters,
        Inspection::of(&source.folder, &LoadOptions::default()).unwrap().parameters
    );
    let said = inspection.to_string();
    assert!(said.contains("smolvla-int8/1") && said.contains("I8 "), "{said}");
}

#[test]
fn plan_gives_escaping_layers_sixteen_bits() {
    let source = Source::new();
    let options = QuantiseOptions { escape_above: 0.0, ..QuantiseOptions::default() };
    let all = source.quantise("all", &options).unwrap();
    let plan = PrecisionPlan::from_json_file(&source.out("all").join(PLAN_FILE)).unwrap();
    let escaped: Vec<&str> = all.escaped().map(|layer| layer.layer.as_str()).collect();
    assert!(escaped.len() > all.layers.len() / 2);
    for layer in &all.layers {
        let expected =
            if escaped.contains(&layer.layer.as_str()) { Precision::Int8Weights } else { Precision::Int8 };
        assert_eq!(plan.precision_for(&layer.layer), expected);
        assert_eq!(layer.escape, layer.w8a16 < layer.w8a8);
    }
    let options = QuantiseOptions { escape_above: 10.0, ..QuantiseOptions::default() };
    let none = source.quantise("none", &options).unwrap();
    assert_eq!(none.plan().uniform(), Some(Precision::Int8));
    assert!(all.policies[0].rms_normalized < none.policies[0].rms_normalized);
}

#[test]
fn weights_of_four_bits_are_read_as_they_were_measured() {
    let source = Source::new();
    let options = QuantiseOptions { int4_below: Some(1.0), ..QuantiseOptions::default() };
    let report = source.quantise("int4", &options).unwrap();
    let quantised = open(&source.out("int4")).unwrap();
    // A group is 64 wide, and most layers of a miniature are narrower or no multiple of it.
    assert!(
        report.layers.iter().all(|layer| layer.int4 == layer.inputs.is_multiple_of(64)),
        "{:?}",
        report.layers
    );
    assert!(report.layers.iter().filter(|layer| layer.int4).count() > 5);
    assert!(report.layers.iter().filter_map(|layer| layer.w4).all(|error| (0.001..0.02).contains(&error)));
    for (layer, error) in layers(&quantised.architecture).iter().zip(&report.layers) {
        for name in &layer.weights {
            let view = quantised.tensor(name).unwrap();
            assert_eq!(view.dtype() == StorageType::I4, error.int4, "{name}");
            assert!(!error.int4 || view.cols().is_multiple_of(64), "{name}");
        }
    }
    // What is read is near what was there; factors of a norm are only in the copy.
    let original = source.open();
    for layer in layers(&original.architecture).iter().filter(|layer| layer.norm.is_none()) {
        for name in &layer.weights {
            let error = report::nmse(
                &original.tensor(name).unwrap().to_f32(),
                &quantised.tensor(name).unwrap().to_f32(),
            );
            let expected = if layer.path.ends_with("down") { 1e-3..2e-2 } else { 1e-6..2e-2 };
            assert!(expected.contains(&error), "{name}: {error}");
        }
    }
    assert!(actions(&quantised).iter().all(|action| action.is_finite()));
    let none = QuantiseOptions { int4_below: Some(0.0), ..QuantiseOptions::default() };
    let report = source.quantise("none", &none).unwrap();
    assert!(report.layers.iter().all(|layer| !layer.int4));
}

#[test]
fn damaged_scales_are_refused_by_name() {
    use safetensors::tensor::{Dtype, SafeTensors, TensorView as RawView};

    let source = Source::new();
    source.quantise("int8", &QuantiseOptions::default()).unwrap();
    let file = source.out("int8").join(WEIGHTS);
    let good = fs::read(&file).unwrap();
    let name = "model.state_proj.weight";
    type Damage<'a> = &'a dyn Fn(&mut BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>);
    let refusal = |damage: Damage<'_>| {
        let tensors = SafeTensors::deserialize(&good).unwrap();
        let mut tensors: BTreeMap<_, _> = tensors
            .iter()
            .map(|(name, view)| {
                (name.to_owned(), (view.dtype(), view.shape().to_vec(), view.data().to_vec()))
            })
            .collect();
        damage(&mut tensors);
        let views = tensors
            .iter()
            .map(|(name, (dtype, shape, bytes))| (name, RawView::new(*dtype, shape.clone(), bytes).unwrap()));
        fs::write(&file, safetensors::serialize(views, None).unwrap()).unwrap();
        open(&source.out("int8")).unwrap_err().to_string()
    };
    let scale = format!("{name}_scale");
    let first = |value: f32| {
        let scale = scale.clone();
        refusal(&move |tensors| {
            tensors.get_mut(&scale).unwrap().2[..4].copy_from_slice(&value.to_le_bytes());
        })
    };
    for (message, culprit) in [
        (
            refusal(&|tensors| drop(tensors.remove(&scale))),
            "no scales: model.state_proj.weight_scale is missing",
        ),
        (
            refusal(&|tensors| {
                let tensor = tensors.get_mut(&scale).unwrap();
                tensor.1[0] -= 1;
                tensor.2.truncate(tensor.2.len() - 4);
            }),
            "one for each row",
        ),
        (first(f32::NAN), "scale 0 of model.state_proj.weight_scale is NaN"),
        (first(0.0), "is 0.0; expected positive"),
        (first(-1.0), "is -1.0; expected positive"),
        (first(f32::INFINITY), "is inf"),
        (first(f32::MAX), "finite times 128"),
    ] {
        assert!(message.contains(name) && message.contains(culprit), "{message}");
    }
    let message = refusal(&|tensors| tensors.get_mut(name).unwrap().2[7] = 0x80);
    assert!(
        message.contains(name) && message.contains("element 7 is below the symmetric range"),
        "{message}"
    );
    // Scales of a weight that needs none are a tensor like any other that is unknown.
    let message = refusal(&|tensors| {
        let (_, shape, bytes) = tensors[name].clone();
        let floats = bytes.iter().flat_map(|_| [0; 4]).collect();
        tensors.insert(name.to_owned(), (Dtype::F32, shape, floats));
    });
    assert!(message.contains("state_proj.weight_scale: is unknown"), "{message}");
    // A table of integers would reach backends that know floats only.
    let table = "model.vlm_with_expert.vlm.model.text_model.embed_tokens.weight";
    let message = refusal(&|tensors| {
        let (_, shape, bytes) = tensors[table].clone();
        tensors.insert(table.to_owned(), (Dtype::I8, shape, bytes[..bytes.len() / 2].to_vec()));
    });
    assert!(message.contains(table) && message.contains("only weights of linear layers"), "{message}");
}

#[test]
fn what_cannot_be_quantised_is_refused() {
    let source = Source::new();
    let refused =
        |options: QuantiseOptions, out: &str| source.quantise(out, &options).unwrap_err().to_string();
    let options = QuantiseOptions::default;
    assert!(
        refused(QuantiseOptions { alpha: 1.5, ..options() }, "x").contains("alpha: 1.5; expected 0 to 1")
    );
    assert!(refused(QuantiseOptions { escape_above: f64::NAN, ..options() }, "x").contains("escape_above"));
    let joints = Some(vec!["one".to_owned()]);
    assert!(refused(QuantiseOptions { joints, ..options() }, "x").contains("has 6 numbers"));
    for out in ["policy", "policy/int8", "policy/a/b"] {
        assert!(refused(options(), out).contains("the checkpoint itself, or inside it"), "{out}");
    }
    let replace = QuantiseOptions { replace: true, ..options() };
    assert!(refused(replace.clone(), ".").contains("the checkpoint is inside it"));
    fs::create_dir_all(source.out("full/kept")).unwrap();
    assert!(refused(replace.clone(), "full").contains("is not a quantised checkpoint"));
    assert!(source.out("full/kept").is_dir());

    source.quantise("int8", &options()).unwrap();
    assert!(refused(options(), "int8").contains("--force replaces it"));
    source.quantise("int8", &replace).unwrap();
    let own = source.out("int8").join("notes.txt");
    fs::write(&own, "mine").unwrap();
    assert!(refused(replace.clone(), "int8").contains("notes.txt is in it"));
    fs::remove_file(&own).unwrap();
    let twice = open(&source.out("int8")).unwrap();
    let observations = observations(&twice);
    let run = |checkpoint, observations: &[Observation]| {
        let out = source.out("y");
        quantise(
            &|| Ok(Reference),
            checkpoint,
            observations,
            &options(),
            &out,
            &mut |_, _| Ok(vec![]),
            &mut |_| (),
        )
        .unwrap_err()
        .to_string()
    };
    assert!(run(twice, &observations).contains("is quantised already"));
    assert!(run(source.open(), &[]).contains("calibrate: there are no observations"));
    // Nothing is left beside: the checkpoint, the folder in the way and the one result.
    assert_eq!(fs::read_dir(source.root.path()).unwrap().count(), 3);
}

#[test]
fn made_up_observations_follow_from_their_seed() {
    let source = Source::new();
    let checkpoint = source.open();
    let states = |seed| -> Vec<Vec<f32>> {
        synthetic(&checkpoint, 8, seed).unwrap().into_iter().map(|observation| observation.state).collect()
    };
    assert_eq!(states(1), states(1));
    assert_ne!(states(1), states(2));
    assert_ne!(states(1)[0], states(1)[1]);
    let one = &synthetic(&checkpoint, 1, 1).unwrap()[0];
    assert_eq!(one.images.len(), checkpoint.config.cameras().count());
}
