//! The vision-language model's `config.json`.

use std::path::Path;

use serde_json::Value;

use super::json::{self, Object};
use super::{MOST_LAYERS, TextConfig, VisionConfig, VlmConfig};
use crate::{Error, Result};

impl VlmConfig {
    /// Reads a SmolVLM `config.json`; absent keys take the defaults of transformers.
    ///
    /// `rope_theta` is ignored on purpose: SmolVLA applies its own rotation with base 10000.
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::Corrupt`] when the file cannot be read; [`Error::Config`] naming the key when
    /// a value is wrong, inconsistent with another or names an architecture that is not supported.
    pub fn from_file(file: &Path) -> Result<Self> {
        Self::parse(file, &json::read(file)?)
    }

    /// [`VlmConfig::from_file`] for JSON that is already in memory; `file` is for errors.
    pub(crate) fn parse(file: &Path, value: &Value) -> Result<Self> {
        let root = Object::root(file, value)?;
        only(&root, "model_type", &["smolvlm"], None)?;
        let text = root
            .object("text_config")?
            .ok_or_else(|| root.error("text_config", "is missing; expected an object"))?;
        let config = Self {
            vision: vision_config(&root.object_or_empty("vision_config")?)?,
            text: text_config(&text)?,
            scale_factor: root.size("scale_factor")?.unwrap_or(2),
        };
        config.check(file)?;
        Ok(config)
    }

    /// The published values of `HuggingFaceTB/SmolVLM2-500M-Video-Instruct`.
    pub fn smolvlm2_500m() -> Self {
        Self {
            vision: VisionConfig {
                layers: 12,
                hidden: 768,
                heads: 12,
                intermediate: 3072,
                image_size: 512,
                patch_size: 16,
                channels: 3,
                layer_norm_eps: 1e-6,
            },
            text: TextConfig {
                layers: 32,
                hidden: 960,
                heads: 15,
                kv_heads: 5,
                head_dim: 64,
                intermediate: 2560,
                rms_norm_eps: 1e-5,
                vocab: 49280,
            },
            scale_factor: 4,
        }
    }

    /// Checks that the sizes fit one another; `file` is for errors.
    pub(super) fn check(&self, file: &Path) -> Result<()> {
        let Self { vision, text, scale_factor } = self;
        let refuse = |key: &str, reason: String| {
            Err(Error::Config { file: file.to_owned(), key: key.to_owned(), reason })
        };
        for (key, whole, part_key, part) in [
            ("vision_config.hidden_size", vision.hidden, "num_attention_heads", vision.heads),
            ("vision_config.image_size", vision.image_size, "patch_size", vision.patch_size),
            ("text_config.num_attention_heads", text.heads, "num_key_value_heads", text.kv_heads),
        ] {
            if part == 0 || whole == 0 || whole % part != 0 {
                return refuse(key, format!("is {whole}; expected a multiple of {part_key} = {part}"));
            }
        }
        let patches = vision.image_size / vision.patch_size;
        if *scale_factor == 0 || patches % scale_factor != 0 {
            let reason = format!("is {scale_factor}; expected a divisor of the {patches} patches in a row");
            return refuse("scale_factor", reason);
        }
        if text.head_dim == 0 || text.head_dim % 2 != 0 {
            let reason = format!("is {}; rotary embeddings need an even width", text.head_dim);
            return refuse("text_config.head_dim", reason);
        }
        for (key, layers) in [
            ("vision_config.num_hidden_layers", vision.layers),
            ("text_config.num_hidden_layers", text.layers),
        ] {
            if layers == 0 || layers > MOST_LAYERS {
                return refuse(key, format!("is {layers}; expected 1 to {MOST_LAYERS}"));
            }
        }
        if vision.channels != 3 {
            return refuse("vision_config.num_channels", format!("is {}; expected 3", vision.channels));
        }
        Ok(())
    }
}

fn vision_config(object: &Object<'_>) -> Result<VisionConfig> {
    only(object, "hidden_act", &["gelu_pytorch_tanh"], Some("gelu_pytorch_tanh"))?;
    Ok(VisionConfig {
        layers: object.size("num_hidden_layers")?.unwrap_or(12),
        hidden: object.size("hidden_size")?.unwrap_or(1152),
        heads: object.size("num_attention_heads")?.unwrap_or(16),
        intermediate: object.size("intermediate_size")?.unwrap_or(3072),
        image_size: object.size("image_size")?.unwrap_or(224),
        patch_size: object.size("patch_size")?.unwrap_or(32),
        channels: object.size("num_channels")?.unwrap_or(3),
        layer_norm_eps: object.positive("layer_norm_eps")?.unwrap_or(1e-6) as f32,
    })
}

fn text_config(object: &Object<'_>) -> Result<TextConfig> {
    only(object, "model_type", &["llama"], Some("llama"))?;
    only(object, "hidden_act", &["silu", "swish"], Some("silu"))?;
    for key in ["attention_bias", "mlp_bias"] {
        if object.boolean(key)? == Some(true) {
            return Err(object.error(key, "is true; expected false, SmolVLM's language model has no biases"));
        }
    }
    let hidden = object.size("hidden_size")?.unwrap_or(4096);
    let heads = object.size("num_attention_heads")?.unwrap_or(32);
    // These two may be null.
    let optional = |key, default| -> Result<usize> {
        if object.has(key) { Ok(object.size(key)?.unwrap_or(default)) } else { Ok(default) }
    };
    Ok(TextConfig {
        layers: object.size("num_hidden_layers")?.unwrap_or(32),
        hidden,
        heads,
        kv_heads: optional("num_key_value_heads", heads)?,
        head_dim: optional("head_dim", hidden / heads)?,
        intermediate: object.size("intermediate_size")?.unwrap_or(11008),
        rms_norm_eps: object.positive("rms_norm_eps")?.unwrap_or(1e-6) as f32,
        vocab: object.size("vocab_size")?.unwrap_or(32000),
    })
}

/// Refuses any value of `key` but the supported ones.
fn only(object: &Object<'_>, key: &str, supported: &[&str], default: Option<&str>) -> Result<()> {
    let value = object.string(key)?.or(default);
    if value.is_some_and(|value| supported.contains(&value)) {
        return Ok(());
    }
    let is = value.map_or_else(|| "is missing".to_owned(), |value| format!("is \"{value}\""));
    Err(object.error(key, format!("{is}; expected \"{}\"", supported[0])))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn published() -> Value {
        json!({
            "model_type": "smolvlm", "scale_factor": 4,
            "text_config": {
                "head_dim": 64, "hidden_size": 960, "intermediate_size": 2560, "model_type": "llama",
                "num_attention_heads": 15, "num_hidden_layers": 32, "num_key_value_heads": 5,
                "rms_norm_eps": 1e-5, "rope_theta": 100000, "vocab_size": 49280,
            },
            "vision_config": {
                "hidden_size": 768, "image_size": 512, "num_attention_heads": 12, "patch_size": 16,
            },
        })
    }

    fn parsed(value: &Value) -> Result<VlmConfig> {
        VlmConfig::parse(Path::new("vlm/config.json"), value)
    }

    #[test]
    fn published_file_equals_built_in_values() {
        assert_eq!(parsed(&published()).unwrap(), VlmConfig::smolvlm2_500m());
    }

    #[test]
    fn absent_head_dim_is_hidden_over_heads() {
        let mut value = published();
        value["text_config"]["head_dim"] = Value::Null;
        assert_eq!(parsed(&value).unwrap().text.head_dim, 64);
    }

    #[test]
    fn wrong_values_are_refused_by_key() {
        let cases = [
            ("/model_type", json!("llava"), "expected \"smolvlm\""),
            ("/text_config/num_key_value_heads", json!(4), "multiple of num_key_value_heads = 4"),
            ("/text_config/head_dim", json!(63), "even width"),
            ("/text_config/model_type", json!("qwen2"), "text_config.model_type"),
            ("/vision_config/num_attention_heads", json!(11), "multiple of num_attention_heads = 11"),
            ("/vision_config/image_size", json!(500), "multiple of patch_size = 16"),
            ("/vision_config/hidden_size", json!(0), "at least 1"),
            ("/text_config/num_hidden_layers", json!(1_000_000), "expected 1 to 4096"),
            ("/text_config/vocab_size", json!(u64::MAX), "text_config.vocab_size"),
            ("/scale_factor", json!(5), "divisor of the 32 patches"),
        ];
        for (pointer, wrong, expected) in cases {
            let mut value = published();
            *value.pointer_mut(pointer).unwrap() = wrong;
            let message = parsed(&value).unwrap_err().to_string();
            assert!(message.contains(expected), "{pointer}: {message}");
        }
    }
}
