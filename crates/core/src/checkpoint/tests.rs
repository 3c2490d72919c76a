use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::sync::LazyLock;

use safetensors::tensor::{Dtype, SafeTensors, TensorView as RawView, serialize};
use serde_json::{Value, json};

use super::*;
use crate::config::SMOLVLM2_500M;
use crate::synth::{self, SynthOptions};

const PRE: &str = "policy_preprocessor.json";
const POST: &str = "policy_postprocessor.json";
const STATE: &str = "policy_preprocessor_step_5_normalizer_processor.safetensors";
const ACTIONS: &str = "policy_postprocessor_step_0_unnormalizer_processor.safetensors";
const QUERY: &str = "model.vlm_with_expert.vlm.model.text_model.layers.0.self_attn.q_proj.weight";
const HEAD: &str = "model.vlm_with_expert.vlm.lm_head.weight";

/// Tensors of a safetensors file: element type, shape and bytes.
type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

/// A tiny checkpoint to damage.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        static MASTER: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
            let folder = tempfile::tempdir().unwrap();
            synth::write(&SynthOptions::default(), folder.path(), &mut |_, _| ()).unwrap();
            folder
        });
        let folder = tempfile::tempdir().unwrap();
        copy(MASTER.path(), folder.path());
        Self(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn json(&self, name: &str, change: impl FnOnce(&mut Value)) -> &Self {
        let mut value: Value = serde_json::from_slice(&fs::read(self.path(name)).unwrap()).unwrap();
        change(&mut value);
        fs::write(self.path(name), value.to_string()).unwrap();
        self
    }

    fn config(&self, key: &str, value: Value) -> &Self {
        self.json(CONFIG, |config| config[key] = value)
    }

    fn tensors(&self, name: &str, change: impl FnOnce(&mut Tensors)) -> &Self {
        let bytes = fs::read(self.path(name)).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let mut tensors: Tensors = file
            .iter()
            .map(|(name, view)| {
                (name.to_owned(), (view.dtype(), view.shape().to_vec(), view.data().to_vec()))
            })
            .collect();
        change(&mut tensors);
        let views = tensors
            .iter()
            .map(|(name, (dtype, shape, bytes))| (name, RawView::new(*dtype, shape.clone(), bytes).unwrap()));
        fs::write(self.path(name), serialize(views, None::<HashMap<String, String>>).unwrap()).unwrap();
        self
    }

    fn weights(&self, change: impl FnOnce(&mut Tensors)) -> &Self {
        self.tensors(WEIGHTS, change)
    }

    /// Statistics of each robot rather than of all, as in the published base model.
    fn per_robot(&self) -> &Self {
        for file in [STATE, ACTIONS] {
            self.tensors(file, |tensors| {
                let all = std::mem::take(tensors);
                for (name, tensor) in all {
                    tensors.insert(format!("so100.buffer.{name}"), tensor.clone());
                    tensors.insert(format!("so100-blue.buffer.{name}"), tensor);
                }
            });
        }
        self
    }

    fn open(&self) -> Result<Checkpoint> {
        self.open_with(&LoadOptions::default())
    }

    fn open_with(&self, options: &LoadOptions) -> Result<Checkpoint> {
        Checkpoint::open(self.0.path(), options)
    }

    /// The message of the error that opening must give.
    fn refusal(&self) -> String {
        self.open().unwrap_err().to_string()
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn named(robot: &str) -> LoadOptions {
    LoadOptions { statistics: StatisticsChoice::Named(robot.to_owned()), ..LoadOptions::default() }
}

fn raw() -> LoadOptions {
    LoadOptions { statistics: StatisticsChoice::Raw, ..LoadOptions::default() }
}

fn f32s(values: &[f32]) -> (Dtype, Vec<usize>, Vec<u8>) {
    (Dtype::F32, vec![values.len()], values.iter().flat_map(|v| v.to_le_bytes()).collect())
}

#[test]
fn whole_checkpoint_opens_without_a_remark() {
    let folder = Folder::new();
    let checkpoint = folder.open().unwrap();
    assert!(checkpoint.notices.is_empty(), "{:?}", checkpoint.notices);
    assert_eq!(checkpoint.tokenizer().unwrap(), folder.path("vlm/tokenizer.json"));
    let statistics = checkpoint.statistics.unwrap();
    assert_eq!(statistics.group, None);
    assert_eq!(statistics.feature("action").mean.unwrap()[1], 119.9);
}

#[test]
fn missing_tensor_is_named() {
    let folder = Folder::new();
    let message = folder.weights(|tensors| drop(tensors.remove(QUERY))).refusal();
    assert!(message.contains(&format!("{QUERY}: is missing; expected shape [96, 96]")), "{message}");
}

#[test]
fn missing_tensor_that_nobody_reads_is_a_notice() {
    let folder = Folder::new();
    let checkpoint = folder.weights(|tensors| drop(tensors.remove(HEAD))).open().unwrap();
    assert!(checkpoint.notices.iter().any(|notice| notice.contains(HEAD)), "{:?}", checkpoint.notices);
}

#[test]
fn unknown_tensor_is_refused_unless_allowed() {
    let folder = Folder::new();
    folder.weights(|tensors| drop(tensors.insert("model.extra.weight".to_owned(), f32s(&[1.0]))));
    let message = folder.refusal();
    assert!(message.contains("model.extra.weight: is unknown; --allow-unknown"), "{message}");
    let options = LoadOptions { allow_unknown: true, ..LoadOptions::default() };
    let notices = folder.open_with(&options).unwrap().notices;
    assert_eq!(notices, ["unknown tensors are ignored: model.extra.weight"]);
}

#[test]
fn wrong_shape_names_key_and_both_numbers() {
    let message = Folder::new().config("max_state_dim", json!(16)).refusal();
    assert!(message.contains("model.state_proj.weight"), "{message}");
    assert!(message.contains("max_state_dim = 16 where the weights have 8"), "{message}");
}

#[test]
fn wrong_number_of_layers_names_key_and_both_numbers() {
    let more = Folder::new().config("num_vlm_layers", json!(6)).refusal();
    assert!(more.contains("num_vlm_layers asks for 6 layers, the file has 4"), "{more}");
    assert!(more.contains("likewise") && more.contains(" more)"), "{more}");
    let fewer = Folder::new().config("num_vlm_layers", json!(2)).refusal();
    assert!(fewer.contains("num_vlm_layers asks for 2 layers only"), "{fewer}");
}

#[test]
fn transposed_tensor_is_refused() {
    let name = "model.vlm_with_expert.lm_expert.layers.0.self_attn.k_proj.weight";
    let message = Folder::new().weights(|tensors| tensors.get_mut(name).unwrap().1.reverse()).refusal();
    assert!(message.contains("has shape [72, 32], the configuration expects [32, 72]"), "{message}");
}

#[test]
fn flattened_convolution_is_refused() {
    let name = "model.vlm_with_expert.vlm.model.vision_model.embeddings.patch_embedding.weight";
    let message = Folder::new().weights(|tensors| tensors.get_mut(name).unwrap().1 = vec![48, 192]).refusal();
    assert!(message.contains("expects [48, 3, 8, 8]"), "{message}");
}

#[test]
fn non_finite_value_names_tensor_and_index() {
    for (number, text) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf"), (f32::NEG_INFINITY, "-inf")] {
        let folder = Folder::new();
        let bits = half::bf16::from_f32(number).to_le_bytes();
        folder.weights(|tensors| tensors.get_mut(QUERY).unwrap().2[2 * 1234..][..2].copy_from_slice(&bits));
        let message = folder.refusal();
        assert!(message.contains(&format!("{QUERY}: element 1234 is {text}")), "{message}");
    }
}

#[test]
fn non_finite_value_that_nobody_reads_is_accepted() {
    let folder = Folder::new();
    let bits = half::bf16::NAN.to_le_bytes();
    folder.weights(|tensors| tensors.get_mut(HEAD).unwrap().2[..2].copy_from_slice(&bits));
    assert!(folder.open().is_ok());
}

#[test]
fn every_float_type_is_accepted_and_integers_are_not() {
    let bias = "model.state_proj.bias";
    let convert = |dtype: Dtype, encode: fn(f32) -> Vec<u8>| {
        let folder = Folder::new();
        folder.weights(|tensors| {
            let (old, _, bytes) = tensors.get_mut(bias).unwrap();
            let values = bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b));
            *bytes = values.flat_map(encode).collect();
            *old = dtype;
        });
        folder.open()
    };
    let original = Folder::new().open().unwrap().tensor(bias).unwrap().to_f32();
    let f64s = convert(Dtype::F64, |v| f64::from(v).to_le_bytes().to_vec()).unwrap();
    assert_eq!(f64s.tensor(bias).unwrap().to_f32(), original);
    let f16s = convert(Dtype::F16, |v| half::f16::from_f32(v).to_le_bytes().to_vec()).unwrap();
    let close = |(a, b): (&f32, &f32)| (a - b).abs() < 1e-4;
    assert!(f16s.tensor(bias).unwrap().to_f32().iter().zip(&original).all(close));
    let message = convert(Dtype::I32, |v| (v as i32).to_le_bytes().to_vec()).unwrap_err().to_string();
    assert!(message.contains("elements of type I32; expected F64, F32, F16, BF16"), "{message}");
    // Too large for f32.
    let message = convert(Dtype::F64, |_| 1e300_f64.to_le_bytes().to_vec()).unwrap_err().to_string();
    assert!(message.contains("element 0 is inf"), "{message}");
}

#[test]
fn truncated_weights_are_refused() {
    let folder = Folder::new();
    let bytes = fs::read(folder.path(WEIGHTS)).unwrap();
    fs::write(folder.path(WEIGHTS), &bytes[..bytes.len() / 2]).unwrap();
    let message = folder.refusal();
    assert!(message.contains("truncated") && message.contains(WEIGHTS), "{message}");
}

#[test]
fn adapter_without_weights_says_to_merge() {
    let folder = Folder::new();
    fs::rename(folder.path(WEIGHTS), folder.path(ADAPTER)).unwrap();
    let message = folder.refusal();
    assert!(message.contains("LoRA") && message.contains("merge"), "{message}");
}

#[test]
fn adapter_beside_the_weights_is_refused() {
    let folder = Folder::new();
    fs::write(folder.path(ADAPTER), b"").unwrap();
    let message = folder.refusal();
    assert!(message.contains(ADAPTER) && message.contains("merge"), "{message}");
    let folder = Folder::new();
    assert!(folder.config("use_peft", json!(true)).refusal().contains("use_peft: is true"));
}

#[test]
fn tensor_without_elements_is_refused_at_once() {
    let folder = Folder::new();
    let header =
        r#"{"model.state_proj.weight":{"dtype":"F32","shape":[4611686018427387904,0],"data_offsets":[0,0]}}"#;
    let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat();
    fs::write(folder.path(WEIGHTS), bytes).unwrap();
    let refusals = Inspection::of(folder.0.path(), &LoadOptions::default()).unwrap().refusals;
    assert!(refusals[0].contains("model.state_proj.weight: has no elements"), "{refusals:?}");
}

#[test]
fn inspection_reads_no_tensor_of_another_shape() {
    let folder = Folder::new();
    folder.weights(|tensors| {
        let (_, shape, bytes) = tensors.get_mut("model.state_proj.weight").unwrap();
        shape.reverse();
        bytes[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    });
    let refusals = Inspection::of(folder.0.path(), &LoadOptions::default()).unwrap().refusals;
    assert_eq!(refusals.len(), 1, "{refusals:?}");
    assert!(refusals[0].contains("has shape"), "{refusals:?}");
}

#[test]
fn absent_files_and_folders_are_named() {
    for name in [CONFIG, WEIGHTS, STATE] {
        let folder = Folder::new();
        fs::remove_file(folder.path(name)).unwrap();
        assert!(folder.refusal().contains(name), "{name}");
    }
    let folder = Folder::new();
    let absent = Checkpoint::open(&folder.path("none"), &LoadOptions::default()).unwrap_err().to_string();
    assert!(absent.contains("no such folder"), "{absent}");
    let file = Checkpoint::open(&folder.path(CONFIG), &LoadOptions::default()).unwrap_err().to_string();
    assert!(file.contains("not a folder"), "{file}");
}

#[test]
fn state_file_is_followed_by_its_name() {
    let folder = Folder::new();
    fs::rename(folder.path(STATE), folder.path("step_7.safetensors")).unwrap();
    folder.json(PRE, |pre| pre["steps"][5]["state_file"] = json!("step_7.safetensors"));
    let checkpoint = folder.open().unwrap();
    assert_eq!(checkpoint.statistics.unwrap().file, folder.path("step_7.safetensors"));
}

#[test]
fn actions_take_the_statistics_of_the_postprocessor() {
    let folder = Folder::new();
    folder.tensors(ACTIONS, |tensors| drop(tensors.insert("action.mean".to_owned(), f32s(&[7.0; 6]))));
    let statistics = folder.open().unwrap().statistics.unwrap();
    assert_eq!(statistics.feature("action").mean, Some(vec![7.0; 6]));
}

#[test]
fn each_processor_has_only_the_statistics_of_its_own_file() {
    let moved = |from: &str, to: &str, feature: &str| {
        let folder = Folder::new();
        let mut taken = Tensors::new();
        folder.tensors(from, |tensors| {
            taken = tensors.extract_if(.., |name, _| name.starts_with(feature)).collect();
        });
        folder.tensors(to, |tensors| tensors.extend(taken));
        folder.refusal()
    };
    let state = moved(STATE, ACTIONS, "observation.state.");
    assert!(state.contains(STATE) && state.contains("no statistics for observation.state"), "{state}");
    let action = moved(ACTIONS, STATE, "action.");
    assert!(action.contains(ACTIONS) && action.contains("no statistics for action"), "{action}");
}

#[test]
fn deleted_state_file_can_be_done_without() {
    for name in [STATE, ACTIONS] {
        let folder = Folder::new();
        fs::remove_file(folder.path(name)).unwrap();
        let message = folder.refusal();
        assert!(message.contains(name) && message.contains("--raw-actions"), "{message}");
        assert!(folder.open_with(&raw()).is_ok());
        let options = raw();
        assert!(Inspection::of(folder.0.path(), &options).unwrap().refusals.is_empty());
    }
}

#[test]
fn postprocessor_without_unnormalizer_is_refused_unless_raw() {
    let folder = Folder::new();
    folder.json(POST, |post| drop(post["steps"].as_array_mut().unwrap().remove(0)));
    let message = folder.refusal();
    assert!(message.contains(POST) && message.contains("network's units"), "{message}");
    assert!(message.contains("--raw-actions"), "{message}");
    assert!(folder.open_with(&raw()).is_ok());
}

#[test]
fn tokenizer_of_another_place_than_named_is_said() {
    let folder = Folder::new();
    folder.json(PRE, |pre| pre["steps"][3]["config"]["tokenizer_name"] = json!("someone/else"));
    let notices = folder.open().unwrap().notices;
    assert_eq!(notices.len(), 1, "{notices:?}");
    assert!(notices[0].contains("someone/else") && notices[0].contains("vlm"), "{notices:?}");
    copy(&folder.path("vlm"), &folder.path("someone/else"));
    assert!(folder.open().unwrap().notices.is_empty());
}

#[test]
fn statistics_of_several_robots_must_be_chosen() {
    let folder = Folder::new();
    let message = folder.per_robot().refusal();
    assert!(message.contains("it has those of so100, so100-blue"), "{message}");
    assert!(message.contains("--stats so100") && message.contains("--raw-actions"), "{message}");

    let chosen = folder.open_with(&named("so100-blue")).unwrap();
    assert_eq!(chosen.notices, ["normalisation uses the statistics of `so100-blue`"]);
    assert_eq!(chosen.statistics.unwrap().feature("observation.state").std.unwrap()[0], 26.9);
    let unknown = folder.open_with(&named("so101")).unwrap_err().to_string();
    assert!(unknown.contains("no statistics of `so101`; it has those of so100, so100-blue"), "{unknown}");
    assert!(folder.open_with(&raw()).unwrap().statistics.is_none());
}

#[test]
fn absent_statistics_are_refused_unless_unneeded() {
    let without = |folder: &Folder| {
        for (file, step) in [(PRE, 5), (POST, 0)] {
            folder.json(file, |json| drop(json["steps"][step].as_object_mut().unwrap().remove("state_file")));
        }
    };
    let folder = Folder::new();
    without(&folder);
    let message = folder.refusal();
    assert!(message.contains("no statistics for observation.state"), "{message}");
    assert!(folder.open_with(&raw()).is_ok());

    let identity = json!({ "STATE": "IDENTITY", "ACTION": "IDENTITY", "VISUAL": "IDENTITY" });
    folder.json(PRE, |pre| pre["steps"][5]["config"]["norm_map"] = identity.clone());
    folder.json(POST, |post| post["steps"][0]["config"]["norm_map"] = identity);
    assert!(folder.open().is_ok());
}

#[test]
fn statistics_that_do_not_fit_are_refused() {
    let width = Folder::new();
    for file in [STATE, ACTIONS] {
        width.tensors(file, |tensors| {
            for statistic in ["mean", "std"] {
                tensors.insert(format!("action.{statistic}"), f32s(&[1.0; 7]));
            }
        });
    }
    let message = width.refusal();
    assert!(message.contains("width 7 for action, which config.json says is 6 wide"), "{message}");

    let unset = Folder::new();
    unset.tensors(STATE, |tensors| {
        drop(tensors.insert("observation.state.std".to_owned(), f32s(&[f32::INFINITY; 6])));
    });
    let message = unset.refusal();
    assert!(message.contains("observation.state") && message.contains("std"), "{message}");

    let empty = Folder::new();
    empty.tensors(STATE, |tensors| drop(tensors.insert("action.mean".to_owned(), f32s(&[]))));
    assert!(empty.refusal().contains("action.mean: has no elements"));
}

#[test]
fn old_checkpoint_keeps_statistics_among_the_weights() {
    let folder = Folder::new();
    for file in [PRE, POST] {
        fs::remove_file(folder.path(file)).unwrap();
    }
    folder.weights(|tensors| {
        for (module, feature, mean) in [
            ("normalize_inputs", "observation_state", 1.0),
            ("normalize_targets", "action", f32::INFINITY),
            ("unnormalize_outputs", "action", 3.0),
        ] {
            tensors.insert(format!("{module}.buffer_{feature}.mean"), f32s(&[mean; 6]));
            tensors.insert(format!("{module}.buffer_{feature}.std"), f32s(&[2.0; 6]));
        }
    });
    let checkpoint = folder.open().unwrap();
    assert_eq!(checkpoint.notices.len(), 3, "{:?}", checkpoint.notices);
    assert!(checkpoint.notices[2].contains("older versions of LeRobot"), "{:?}", checkpoint.notices);
    let statistics = checkpoint.statistics.unwrap();
    assert_eq!(statistics.file, folder.path(WEIGHTS));
    assert_eq!(statistics.feature("observation.state").mean, Some(vec![1.0; 6]));
    assert_eq!(statistics.feature("action").mean, Some(vec![3.0; 6]));
}

#[test]
fn old_checkpoint_of_several_robots_must_be_chosen_from() {
    let folder = Folder::new();
    for file in [PRE, POST] {
        fs::remove_file(folder.path(file)).unwrap();
    }
    folder.weights(|tensors| {
        for name in
            ["normalize_inputs.so100.buffer_observation_state", "unnormalize_outputs.so100.buffer_action"]
        {
            for statistic in ["mean", "std"] {
                tensors.insert(format!("{name}.{statistic}"), f32s(&[1.0; 6]));
            }
        }
    });
    assert!(folder.refusal().contains("those of so100:"), "{}", folder.refusal());
    assert!(folder.open_with(&named("so100")).is_ok());
}

#[test]
fn unresolvable_vlm_is_named_and_can_be_given() {
    let folder = Folder::new();
    fs::rename(folder.path("vlm"), folder.path("elsewhere")).unwrap();
    folder.config("vlm_model_name", json!("someone/SmolVLM2-7B"));
    let message = folder.refusal();
    assert!(message.contains("someone/SmolVLM2-7B") && message.contains("--vlm"), "{message}");

    let vlm = Some(folder.path("elsewhere"));
    let given = folder.open_with(&LoadOptions { vlm: vlm.clone(), ..LoadOptions::default() }).unwrap();
    assert_eq!(given.tokenizer().unwrap(), folder.path("elsewhere/tokenizer.json"));
    let tokenizer = Some(folder.path("none.json"));
    let absent = folder.open_with(&LoadOptions { vlm, tokenizer, ..LoadOptions::default() }).unwrap_err();
    assert!(matches!(absent, Error::Tokenizer { .. }), "{absent}");
}

#[test]
fn published_vlm_is_built_in_and_lacks_only_its_tokenizer() {
    let folder = Folder::new();
    fs::remove_dir_all(folder.path("vlm")).unwrap();
    folder.config("vlm_model_name", json!(SMOLVLM2_500M));
    folder.json(PRE, |pre| pre["steps"][3]["config"]["tokenizer_name"] = json!(SMOLVLM2_500M));
    let config = PolicyConfig::from_file(&folder.path(CONFIG)).unwrap();
    let options = LoadOptions::default();
    let vlm = source::vlm_config(folder.0.path(), &config, &options).unwrap();
    assert_eq!(vlm, VlmConfig::smolvlm2_500m());
    let (processors, _) = Processors::load(folder.0.path(), &config).unwrap();
    let find = || source::tokenizer(folder.0.path(), &config, &processors, &options).unwrap();
    assert_eq!(find(), None);
    fs::create_dir(folder.path("tokenizer")).unwrap();
    fs::write(folder.path("tokenizer/tokenizer.json"), "{}").unwrap();
    assert_eq!(find(), Some(folder.path("tokenizer/tokenizer.json")));
}

#[test]
fn checkpoint_without_tokenizer_opens_and_says_so_when_asked() {
    let folder = Folder::new();
    fs::remove_file(folder.path("vlm/tokenizer.json")).unwrap();
    let mut checkpoint = folder.open().unwrap();
    let message = checkpoint.tokenizer().unwrap_err().to_string();
    assert!(message.contains("--tokenizer"), "{message}");
    checkpoint.set_tokenizer(&folder.path("vlm/other.json"));
    assert_eq!(checkpoint.tokenizer().unwrap(), folder.path("vlm/other.json"));
}

#[test]
fn inspection_counts_what_a_checkpoint_holds() {
    let folder = Folder::new();
    let inspection = Inspection::of(folder.0.path(), &LoadOptions::default()).unwrap();
    assert!(inspection.refusals.is_empty(), "{:?}", inspection.refusals);
    assert_eq!((inspection.tensors, inspection.parameters), (124, 900_120));
    let counted: usize = inspection.components.iter().map(|count| count.parameters).sum();
    assert_eq!(counted, inspection.parameters);
    let f32s = inspection.dtypes.iter().find(|count| count.dtype == "F32").unwrap();
    assert_eq!(f32s.tensors, 14);
    let text = inspection.to_string();
    for expected in ["900,120", "observation.images.camera2", "num_vlm_layers", "vlm/tokenizer.json"] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    let json = serde_json::to_value(&inspection).unwrap();
    assert_eq!(json["configuration"]["chunk_size"], 10);
}

#[test]
fn inspection_collects_every_refusal() {
    let folder = Folder::new();
    folder.per_robot().config("max_state_dim", json!(9)).weights(|tensors| {
        tensors.remove(QUERY);
        tensors.insert("model.extra".to_owned(), f32s(&[1.0]));
        let bias = &mut tensors.get_mut("model.action_in_proj.bias").unwrap().2;
        bias[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    });
    let inspection = Inspection::of(folder.0.path(), &LoadOptions::default()).unwrap();
    let refusals = inspection.refusals.join("\n");
    for expected in
        ["--stats so100", "max_state_dim = 9", QUERY, "model.extra: is unknown", "element 0 is NaN"]
    {
        assert!(refusals.contains(expected), "{expected}: {refusals}");
    }
    assert_eq!(inspection.refusals.len(), 5, "{refusals}");
    assert!(inspection.to_string().contains("would be refused"));
}

#[test]
fn inspection_works_where_nothing_loads() {
    let folder = Folder::new();
    folder.config("type", json!("act"));
    fs::write(folder.path(WEIGHTS), b"not weights").unwrap();
    let inspection = Inspection::of(folder.0.path(), &LoadOptions::default()).unwrap();
    assert_eq!(inspection.refusals.len(), 2, "{:?}", inspection.refusals);
    assert_eq!(inspection.configuration["type"], "act");
    assert!(Inspection::of(&folder.path("none"), &LoadOptions::default()).is_err());
}

#[test]
fn dead_tensors_are_the_ones_behind_the_last_keys_and_values() {
    let checkpoint = Folder::new().open().unwrap();
    let list = expected(&checkpoint.config, &checkpoint.architecture);
    let dead: Vec<_> = list.iter().filter(|tensor| !tensor.needed).map(|tensor| &tensor.name).collect();
    let last = "model.vlm_with_expert.vlm.model.text_model.layers.3";
    assert_eq!(dead.len(), 8, "{dead:?}");
    assert!(
        dead.iter().all(|name| {
            name.starts_with(last) || name.ends_with("text_model.norm.weight") || *name == HEAD
        })
    );
    for needed in ["input_layernorm", "self_attn.k_proj", "self_attn.v_proj"] {
        assert!(!dead.iter().any(|name| **name == format!("{last}.{needed}.weight")), "{needed}");
    }
}
