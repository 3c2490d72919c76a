use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use super::*;
use crate::checkpoint::{Checkpoint, LoadOptions};

fn options(size: Size, overrides: Value) -> SynthOptions {
    let Value::Object(overrides) = overrides else { panic!("overrides are an object") };
    SynthOptions { size, seed: 0, overrides }
}

fn written(options: &SynthOptions) -> (tempfile::TempDir, PathBuf) {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("policy");
    write(options, &folder, &mut |_, _| ()).unwrap();
    (parent, folder)
}

/// Digest of every file by its path in the folder.
fn digests(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(digests(&path));
        } else {
            let name = path.strip_prefix(folder).unwrap().to_owned();
            found.insert(name, Sha256::digest(fs::read(&path).unwrap()).to_vec());
        }
    }
    found
}

#[test]
fn base_has_the_published_sizes() {
    let plan = Plan::new(&options(Size::Base, json!({}))).unwrap();
    assert_eq!(plan.weights.tensors(), 500);
    assert_eq!(plan.weights.parameters(), 450_046_176);
    assert_eq!(plan.weights.file_size_bytes(), 906_712_520);
}

#[test]
fn same_options_give_the_same_bytes() {
    let (_first, one) = written(&SynthOptions::default());
    let (_second, two) = written(&SynthOptions::default());
    assert_eq!(digests(&one), digests(&two));
    let other = SynthOptions { seed: 1, ..SynthOptions::default() };
    let (_third, three) = written(&other);
    assert_ne!(digests(&one).get(Path::new(weights::FILE)), digests(&three).get(Path::new(weights::FILE)));
}

#[test]
fn written_folder_loads() {
    let (_parent, folder) = written(&SynthOptions::default());
    let checkpoint = Checkpoint::open(&folder, &LoadOptions::default()).unwrap();
    assert!(checkpoint.notices.is_empty(), "{:?}", checkpoint.notices);
    assert_eq!(checkpoint.tokenizer().unwrap(), folder.join("vlm/tokenizer.json"));
}

#[test]
fn overrides_change_configuration_and_sizes() {
    let overrides = json!({
        "num_vlm_layers": 6, "num_expert_layers": 2, "self_attn_every_n_layers": 0, "max_state_dim": 20,
        "input_features": {
            "observation.state": { "type": "STATE", "shape": [14] },
            "observation.images.top": { "type": "VISUAL", "shape": [3, 480, 640] },
        },
        "output_features": { "action": { "type": "ACTION", "shape": [7] } },
        "normalization_mapping": { "VISUAL": "MEAN_STD", "STATE": "QUANTILES", "ACTION": "MIN_MAX" },
    });
    let (_parent, folder) = written(&options(Size::Tiny, overrides));
    let checkpoint = Checkpoint::open(&folder, &LoadOptions::default()).unwrap();
    assert_eq!((checkpoint.config.state_dim(), checkpoint.config.action_dim()), (14, 7));
    assert_eq!((checkpoint.architecture.text.layers, checkpoint.architecture.expert.layers), (6, 2));
    assert_eq!(checkpoint.tensor("model.state_proj.weight").unwrap().cols(), 20);
}

#[test]
fn self_attention_everywhere_leaves_only_projections_in_full_precision() {
    let plan = Plan::new(&options(Size::Tiny, json!({ "attention_mode": "self_attn" }))).unwrap();
    let (_parent, folder) = written(&options(Size::Tiny, json!({ "attention_mode": "self_attn" })));
    let checkpoint = Checkpoint::open(&folder, &LoadOptions::default()).unwrap();
    let full = checkpoint.weights.tensors().filter(|(_, entry)| entry.dtype == "F32").count();
    assert_eq!((plan.weights.tensors(), full), (124, 10));
}

#[test]
fn same_folder_is_reused_and_others_are_left_alone() {
    let (_parent, folder) = written(&SynthOptions::default());
    let before = digests(&folder);
    assert!(write(&SynthOptions::default(), &folder, &mut |_, _| panic!("nothing to write")).unwrap().reused);

    let other = SynthOptions { seed: 9, ..SynthOptions::default() };
    let message = write(&other, &folder, &mut |_, _| ()).unwrap_err().to_string();
    assert!(message.contains("other options"), "{message}");
    assert_eq!(digests(&folder), before);

    fs::write(folder.join("config.json"), "{}").unwrap();
    let message = write(&SynthOptions::default(), &folder, &mut |_, _| ()).unwrap_err().to_string();
    assert!(message.contains("missing or changed"), "{message}");
}

#[test]
fn foreign_folder_and_file_are_refused() {
    let parent = tempfile::tempdir().unwrap();
    let file = parent.path().join("notes.txt");
    fs::write(&file, "keep me").unwrap();
    for (out, expected) in [(parent.path(), "not a synthetic checkpoint"), (&file, "not a folder")] {
        let message = write(&SynthOptions::default(), out, &mut |_, _| ()).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    }
    assert_eq!(fs::read_to_string(&file).unwrap(), "keep me");
}

#[test]
fn empty_folder_is_filled() {
    let folder = tempfile::tempdir().unwrap();
    assert!(!write(&SynthOptions::default(), folder.path(), &mut |_, _| ()).unwrap().reused);
    assert!(Checkpoint::open(folder.path(), &LoadOptions::default()).is_ok());
}

#[test]
fn progress_ends_at_the_file_size() {
    let parent = tempfile::tempdir().unwrap();
    let mut heard = Vec::new();
    let report = write(&SynthOptions::default(), &parent.path().join("p"), &mut |done, total| {
        heard.push((done, total))
    })
    .unwrap();
    assert!(heard.is_sorted());
    assert_eq!(heard.last(), Some(&(report.file_size_bytes, report.file_size_bytes)));
    let size = fs::metadata(parent.path().join("p").join(weights::FILE)).unwrap().len();
    assert_eq!(size, report.file_size_bytes);
}

#[test]
fn refused_overrides_leave_nothing_behind() {
    let parent = tempfile::tempdir().unwrap();
    let cases = [
        (json!({ "chunk_sise": 5 }), "no key `chunk_sise`"),
        (json!({ "n_action_steps": 99 }), "more than chunk_size"),
        (json!({ "num_expert_layers": 3 }), "divisor"),
    ];
    for (overrides, expected) in cases {
        let options = options(Size::Tiny, overrides);
        let message = write(&options, &parent.path().join("p"), &mut |_, _| ()).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    }
    assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
}
