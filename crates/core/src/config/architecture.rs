//! The sizes that follow from both configurations.

use std::path::Path;

use super::json::LARGEST;
use super::{
    Architecture, AttentionMode, ExpertAttention, ExpertConfig, ExpertSlot, ImageSpecialTokens, PolicyConfig,
    TextConfig, VlmConfig,
};
use crate::{Error, Result};

impl Architecture {
    /// Derives every size from the policy's configuration and its vision-language model's.
    ///
    /// The ids of the tokens around an image are the tokenizer's to say, so there are none yet: where
    /// `add_image_special_tokens` is set, follow up with [`Architecture::with_image_special_tokens`]. `file` is
    /// the policy's `config.json`, for errors.
    ///
    /// # Errors
    /// [`Error::Config`] when sizes do not fit one another, or the expert's layers are arranged in a way that
    /// LeRobot cannot run either.
    pub fn new(policy: &PolicyConfig, vlm: &VlmConfig, file: &Path) -> Result<Self> {
        vlm.check(file)?;
        let kept = policy.num_vlm_layers.map_or(vlm.text.layers, |kept| kept.min(vlm.text.layers));
        let text = TextConfig { layers: kept, ..vlm.text.clone() };
        let expert = expert(policy, &text, file)?;
        Ok(Self {
            vision: vlm.vision.clone(),
            text,
            scale_factor: vlm.scale_factor,
            expert,
            chunk_size: policy.chunk_size,
            max_state_dim: policy.max_state_dim,
            max_action_dim: policy.max_action_dim,
            min_period: policy.min_period,
            max_period: policy.max_period,
            image_special_tokens: None,
        })
    }

    /// The same sizes with the tokenizer's ids of the tokens around an image, for policies whose
    /// configuration sets `add_image_special_tokens`.
    pub fn with_image_special_tokens(self, tokens: ImageSpecialTokens) -> Self {
        Self { image_special_tokens: Some(tokens), ..self }
    }

    /// What the key and value projections of the expert layer `index` are shaped for: its own activations, or
    /// the language model's keys and values. LeRobot decides this by the expert's index.
    pub(crate) fn expert_projection(policy: &PolicyConfig, index: usize) -> ExpertAttention {
        attention_at(policy, index)
    }
}

fn expert(policy: &PolicyConfig, text: &TextConfig, file: &Path) -> Result<ExpertConfig> {
    let error =
        |key: &str, reason: String| Error::Config { file: file.to_owned(), key: key.to_owned(), reason };
    // Truncated like Python's int().
    let hidden = (text.hidden as f64 * policy.expert_width_multiplier) as usize;
    if hidden == 0 || !hidden.is_multiple_of(2) || hidden > LARGEST {
        return Err(error(
            "expert_width_multiplier",
            format!(
                "is {}, which makes the expert {hidden} wide ({} × the multiplier); expected an even width",
                policy.expert_width_multiplier, text.hidden
            ),
        ));
    }
    let layers = policy.num_expert_layers.unwrap_or(text.layers);
    if !text.layers.is_multiple_of(layers) {
        let reason =
            format!("is {layers}; expected a divisor of the language model's {} layers", text.layers);
        return Err(error("num_expert_layers", reason));
    }
    let schedule =
        schedule(policy, text, hidden, layers).map_err(|reason| error("num_expert_layers", reason))?;
    Ok(ExpertConfig { hidden, intermediate: intermediate(hidden), layers, schedule })
}

/// Which expert layer runs beside each language-model layer, or why LeRobot cannot run it.
fn schedule(
    policy: &PolicyConfig,
    text: &TextConfig,
    hidden: usize,
    layers: usize,
) -> Result<Vec<Option<ExpertSlot>>, String> {
    let multiple = text.layers / layers;
    let interchangeable = text.kv_heads * text.head_dim == hidden;
    let every = policy.self_attn_every_n_layers.unwrap_or(0);
    let mut slots = Vec::with_capacity(text.layers);
    for layer in 0..text.layers {
        let kind = attention_at(policy, layer);
        if !layer.is_multiple_of(multiple) {
            if kind == ExpertAttention::SelfAttention {
                return Err(format!(
                    "is {layers}: layer {layer} of {} attends to itself (self_attn_every_n_layers {every}, \
                     attention_mode) but has no expert layer; LeRobot cannot run it either",
                    text.layers
                ));
            }
            slots.push(None);
            continue;
        }
        let index = layer / multiple;
        if attention_at(policy, index) != kind && !interchangeable {
            return Err(format!(
                "is {layers}: layer {layer} runs as {} but its expert layer {index} is shaped for {} \
                 (self_attn_every_n_layers {every}); LeRobot cannot run it either",
                describe(kind),
                describe(attention_at(policy, index)),
            ));
        }
        slots.push(Some(ExpertSlot { index, kind }));
    }
    Ok(slots)
}

fn attention_at(policy: &PolicyConfig, index: usize) -> ExpertAttention {
    let own = policy.self_attn_every_n_layers.is_some_and(|every| index.is_multiple_of(every));
    if own || policy.attention_mode == AttentionMode::SelfOnly {
        ExpertAttention::SelfAttention
    } else {
        ExpertAttention::CrossAttention
    }
}

fn describe(kind: ExpertAttention) -> &'static str {
    match kind {
        ExpertAttention::SelfAttention => "self-attention",
        ExpertAttention::CrossAttention => "cross-attention",
    }
}

/// Width of the expert's MLP: 8/3 of its width, rounded up to a multiple of 256.
fn intermediate(hidden: usize) -> usize {
    (4 * (2 * hidden / 3)).next_multiple_of(256)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn policy(overrides: &[(&str, Value)]) -> PolicyConfig {
        let mut value = json!({
            "type": "smolvla",
            "input_features": {
                "observation.state": { "type": "STATE", "shape": [6] },
                "observation.images.top": { "type": "VISUAL", "shape": [3, 256, 256] },
            },
            "output_features": { "action": { "type": "ACTION", "shape": [6] } },
        });
        for (key, value_of_key) in overrides {
            value[*key] = value_of_key.clone();
        }
        super::super::policy::parse(Path::new("config.json"), &value).unwrap().0
    }

    fn architecture(overrides: &[(&str, Value)]) -> Result<Architecture> {
        Architecture::new(&policy(overrides), &VlmConfig::smolvlm2_500m(), Path::new("config.json"))
    }

    fn kinds(architecture: &Architecture) -> Vec<Option<ExpertAttention>> {
        architecture.expert.schedule.iter().map(|slot| slot.map(|slot| slot.kind)).collect()
    }

    #[test]
    fn published_sizes_are_derived() {
        let sizes = architecture(&[]).unwrap();
        assert_eq!((sizes.expert.hidden, sizes.expert.intermediate, sizes.expert.layers), (720, 2048, 16));
        assert_eq!(sizes.text.layers, 16);
        for (layer, slot) in sizes.expert.schedule.iter().enumerate() {
            let slot = slot.unwrap();
            assert_eq!(slot.index, layer);
            assert_eq!(slot.kind == ExpertAttention::SelfAttention, layer % 2 == 0);
        }
        assert!(sizes.image_special_tokens.is_none());
    }

    #[test]
    fn zero_vlm_layers_keep_all() {
        assert_eq!(architecture(&[("num_vlm_layers", json!(0))]).unwrap().text.layers, 32);
    }

    #[test]
    fn self_only_mode_never_crosses() {
        let sizes = architecture(&[("attention_mode", json!("self_attn"))]).unwrap();
        assert!(kinds(&sizes).iter().all(|kind| *kind == Some(ExpertAttention::SelfAttention)));
    }

    #[test]
    fn fewer_expert_layers_run_where_all_cross() {
        let sizes =
            architecture(&[("num_expert_layers", json!(8)), ("self_attn_every_n_layers", json!(0))]).unwrap();
        assert_eq!(sizes.expert.schedule.iter().flatten().count(), 8);
        assert_eq!(sizes.expert.schedule[14].unwrap().index, 7);
        assert!(sizes.expert.schedule[15].is_none());
    }

    #[test]
    fn layouts_lerobot_cannot_run_are_refused() {
        // Layer 2 runs as self-attention by its own index, but expert layer 1 is shaped for cross-attention.
        let mismatch = architecture(&[("num_expert_layers", json!(8))]).unwrap_err().to_string();
        assert!(mismatch.contains("layer 2 runs as self-attention but its expert layer 1"), "{mismatch}");
        // Layer 1 is on the self-attention path without an expert layer.
        let absent = architecture(&[("num_expert_layers", json!(8)), ("attention_mode", json!("self_attn"))])
            .unwrap_err()
            .to_string();
        assert!(absent.contains("layer 1 of 16 attends to itself"), "{absent}");
        assert!(absent.contains("LeRobot cannot run it either"));
    }

    #[test]
    fn wrong_layer_counts_and_widths_are_refused() {
        let indivisible = architecture(&[("num_expert_layers", json!(5))]).unwrap_err().to_string();
        assert!(indivisible.contains("divisor of the language model's 16 layers"), "{indivisible}");
        let odd = architecture(&[("expert_width_multiplier", json!(0.7510417))]).unwrap_err().to_string();
        assert!(odd.contains("721 wide"), "{odd}");
    }

    #[test]
    fn special_tokens_are_the_tokenizers_to_say() {
        let tokens = ImageSpecialTokens { fake: 7, global: 8 };
        let sizes = architecture(&[("add_image_special_tokens", json!(true))]).unwrap();
        assert_eq!(sizes.image_special_tokens, None);
        assert_eq!(sizes.with_image_special_tokens(tokens).image_special_tokens, Some(tokens));
    }
}
