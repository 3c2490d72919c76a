//! The JSON files, as LeRobot 0.6.1 and transformers write them.

use serde::Serialize;
use serde_json::ser::{PrettyFormatter, Serializer};
use serde_json::{Map, Value, json};

use super::Size;

/// JSON text with an indentation of `indent` spaces, as Python's `json` writes it.
pub(super) fn to_bytes(value: &Value, indent: usize) -> Vec<u8> {
    let indent = " ".repeat(indent);
    let mut bytes = Vec::new();
    let mut serializer =
        Serializer::with_formatter(&mut bytes, PrettyFormatter::with_indent(indent.as_bytes()));
    // Neither a `Value` nor a vector can fail to be written.
    let written = value.serialize(&mut serializer);
    debug_assert!(written.is_ok());
    bytes
}

/// `config.json` of the policy.
pub(super) fn policy(size: Size) -> Map<String, Value> {
    let (chunk, width, side, tokens, layers) = match size {
        Size::Base => (50, 32, 512, 48, 16),
        Size::Tiny => (10, 8, 64, 24, 4),
    };
    let camera = json!({ "type": "VISUAL", "shape": [3, 256, 256] });
    let config = [
        ("type", json!("smolvla")),
        ("n_obs_steps", json!(1)),
        (
            "input_features",
            json!({
                "observation.state": { "type": "STATE", "shape": [6] },
                "observation.images.camera1": camera,
                "observation.images.camera2": camera,
                "observation.images.camera3": camera,
            }),
        ),
        ("output_features", json!({ "action": { "type": "ACTION", "shape": [6] } })),
        ("device", json!("cpu")),
        ("use_amp", json!(false)),
        ("use_peft", json!(false)),
        ("push_to_hub", json!(true)),
        ("repo_id", json!(null)),
        ("private", json!(null)),
        ("tags", json!(null)),
        ("license", json!(null)),
        ("pretrained_path", json!(null)),
        ("pretrained_revision", json!(null)),
        ("chunk_size", json!(chunk)),
        ("n_action_steps", json!(chunk)),
        ("normalization_mapping", json!({ "VISUAL": "IDENTITY", "STATE": "MEAN_STD", "ACTION": "MEAN_STD" })),
        ("max_state_dim", json!(width)),
        ("max_action_dim", json!(width)),
        ("resize_imgs_with_padding", json!([side, side])),
        ("empty_cameras", json!(0)),
        ("adapt_to_pi_aloha", json!(false)),
        ("use_delta_joint_actions_aloha", json!(false)),
        ("tokenizer_max_length", json!(tokens)),
        ("num_steps", json!(10)),
        ("use_cache", json!(true)),
        ("freeze_vision_encoder", json!(true)),
        ("train_expert_only", json!(true)),
        ("train_state_proj", json!(true)),
        ("optimizer_lr", json!(0.0001)),
        ("optimizer_betas", json!([0.9, 0.95])),
        ("optimizer_eps", json!(1e-8)),
        ("optimizer_weight_decay", json!(1e-10)),
        ("optimizer_grad_clip_norm", json!(10)),
        ("scheduler_warmup_steps", json!(1000)),
        ("scheduler_decay_steps", json!(30000)),
        ("scheduler_decay_lr", json!(2.5e-6)),
        ("vlm_model_name", json!("vlm")),
        ("load_vlm_weights", json!(false)),
        ("add_image_special_tokens", json!(false)),
        ("attention_mode", json!("cross_attn")),
        ("prefix_length", json!(0)),
        ("pad_language_to", json!("max_length")),
        ("num_expert_layers", json!(0)),
        ("num_vlm_layers", json!(layers)),
        ("self_attn_every_n_layers", json!(2)),
        ("expert_width_multiplier", json!(0.75)),
        ("min_period", json!(0.004)),
        ("max_period", json!(4.0)),
        ("rtc_config", json!(null)),
        ("compile_model", json!(false)),
        ("compile_mode", json!("max-autotune")),
    ];
    config.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

/// `config.json` of the vision-language model.
pub(super) fn vlm(size: Size) -> Value {
    let published = json!({
        "architectures": ["SmolVLMForConditionalGeneration"],
        "image_token_id": 49190,
        "model_type": "smolvlm",
        "pad_token_id": 128002,
        "scale_factor": 4,
        "text_config": {
            "architectures": ["VLlama3ForCausalLM"],
            "head_dim": 64,
            "hidden_size": 960,
            "intermediate_size": 2560,
            "is_llama_config": true,
            "max_position_embeddings": 8192,
            "model_type": "llama",
            "num_attention_heads": 15,
            "num_hidden_layers": 32,
            "num_key_value_heads": 5,
            "pad_token_id": 2,
            "pixel_shuffle_factor": 4,
            "qk_layer_norms": false,
            "rms_norm_eps": 1e-5,
            "rope_interleaved": false,
            "rope_theta": 100000,
            "torch_dtype": "bfloat16",
            "use_resampler": false,
            "vocab_size": 49280,
        },
        "tie_word_embeddings": false,
        "torch_dtype": "float32",
        "use_cache": false,
        "vision_config": {
            "hidden_size": 768,
            "image_size": 512,
            "max_image_size": { "longest_edge": 512 },
            "model_type": "smolvlm_vision",
            "num_attention_heads": 12,
            "patch_size": 16,
            "size": { "longest_edge": 2048 },
            "tie_word_embeddings": false,
            "use_base_siglip": false,
        },
        "vocab_size": 49280,
    });
    match size {
        Size::Base => published,
        Size::Tiny => shrink(published),
    }
}

fn shrink(mut vlm: Value) -> Value {
    let changes = [
        ("/image_token_id", 382),
        ("/pad_token_id", 2),
        ("/vocab_size", 384),
        ("/text_config/head_dim", 16),
        ("/text_config/hidden_size", 96),
        ("/text_config/intermediate_size", 256),
        ("/text_config/num_attention_heads", 6),
        ("/text_config/num_hidden_layers", 6),
        ("/text_config/num_key_value_heads", 2),
        ("/text_config/vocab_size", 384),
        ("/vision_config/hidden_size", 48),
        ("/vision_config/image_size", 64),
        ("/vision_config/num_attention_heads", 3),
        ("/vision_config/patch_size", 8),
    ];
    for (pointer, value) in changes {
        if let Some(slot) = vlm.pointer_mut(pointer) {
            *slot = json!(value);
        }
    }
    // The published file leaves these to their defaults.
    vlm["vision_config"]["intermediate_size"] = json!(96);
    vlm["vision_config"]["num_hidden_layers"] = json!(2);
    vlm
}

/// `policy_preprocessor.json` for a `config.json`.
pub(super) fn preprocessor(config: &Map<String, Value>, state_file: &str) -> Value {
    let mut features = object(config, "input_features");
    features.extend(object(config, "output_features"));
    json!({
        "name": "policy_preprocessor",
        "steps": [
            { "registry_name": "rename_observations_processor", "config": { "rename_map": {} } },
            { "registry_name": "to_batch_processor", "config": {} },
            { "registry_name": "smolvla_new_line_processor", "config": {} },
            {
                "registry_name": "tokenizer_processor",
                "config": {
                    "max_length": config["tokenizer_max_length"],
                    "task_key": "task",
                    "padding_side": "right",
                    "padding": config["pad_language_to"],
                    "truncation": true,
                    "tokenizer_name": config["vlm_model_name"],
                },
            },
            { "registry_name": "device_processor", "config": { "device": "cpu", "float_dtype": null } },
            {
                "registry_name": "normalizer_processor",
                "config": {
                    "eps": 1e-8,
                    "features": features,
                    "norm_map": config["normalization_mapping"],
                },
                "state_file": state_file,
            },
        ],
    })
}

/// `policy_postprocessor.json` for a `config.json`.
pub(super) fn postprocessor(config: &Map<String, Value>, state_file: &str) -> Value {
    json!({
        "name": "policy_postprocessor",
        "steps": [
            {
                "registry_name": "unnormalizer_processor",
                "config": {
                    "eps": 1e-8,
                    "features": object(config, "output_features"),
                    "norm_map": config["normalization_mapping"],
                },
                "state_file": state_file,
            },
            { "registry_name": "device_processor", "config": { "device": "cpu", "float_dtype": null } },
        ],
    })
}

fn object(config: &Map<String, Value>, key: &str) -> Map<String, Value> {
    config.get(key).and_then(Value::as_object).cloned().unwrap_or_default()
}
