//! What is wrong with the tensors a file holds.

use std::borrow::Cow;
use std::collections::BTreeSet;

use super::file::{TensorEntry, WeightsFile};
use super::layout::{ExpectedTensor, expected};
use super::statistics;
use crate::config::{Architecture, PolicyConfig};

/// What is wrong with one tensor of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The tensor.
    pub tensor: String,
    /// What is wrong with it and what was expected.
    pub reason: String,
}

/// The outcome of comparing a file with what is [`expected`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// What makes the file unusable.
    pub problems: Vec<Finding>,
    /// What a user should know although the file is usable.
    pub notices: Vec<String>,
}

impl Comparison {
    /// The problems as one text without the first one's name. Tensors with the same problem are told together,
    /// the first few by name and the rest by number.
    pub fn summary(&self) -> String {
        const REASONS: usize = 8;
        let mut reasons: Vec<(&str, Vec<&str>)> = Vec::new();
        for Finding { tensor, reason } in &self.problems {
            match reasons.iter_mut().find(|(known, _)| known == reason) {
                Some((_, tensors)) => tensors.push(tensor),
                None => reasons.push((reason, vec![tensor])),
            }
        }
        let mut text = String::new();
        for (index, (reason, tensors)) in reasons.iter().take(REASONS).enumerate() {
            if index > 0 {
                text.push_str(&format!("; {}: ", tensors[0]));
            }
            text.push_str(reason);
            if tensors.len() > 1 {
                text.push_str(&format!(" (likewise {})", enumerate(&tensors[1..])));
            }
        }
        let rest: usize = reasons.iter().skip(REASONS).map(|(_, tensors)| tensors.len()).sum();
        if rest > 0 {
            text.push_str(&format!("; and {rest} more"));
        }
        text
    }
}

/// Compares names, shapes and element types; the numbers themselves are for [`super::non_finite`].
pub fn compare(
    file: &WeightsFile,
    policy: &PolicyConfig,
    architecture: &Architecture,
    allow_unknown: bool,
) -> Comparison {
    let expected = expected(policy, architecture);
    let stacks = Stack::all(policy, architecture);
    let mut comparison = Comparison::default();
    let mut absent_but_unread = Vec::new();
    for tensor in &expected {
        let problem = match file.entry(&tensor.name) {
            None if tensor.needed => Some(missing(file, tensor, &stacks)),
            None => {
                absent_but_unread.push(tensor.name.as_str());
                None
            }
            Some(entry) => mismatch(file, entry, tensor),
        };
        if let Some(reason) = problem {
            comparison.problems.push(Finding { tensor: tensor.name.clone(), reason });
        }
    }
    if !absent_but_unread.is_empty() {
        comparison.notices.push(format!(
            "tensors that inference does not read are absent: {}",
            enumerate(&absent_but_unread)
        ));
    }

    let known: BTreeSet<&str> = expected.iter().map(|t| t.name.as_str()).collect();
    let unknown: Vec<&str> = file
        .tensors()
        .map(|(name, _)| name)
        .filter(|name| !known.contains(name) && !statistics::is_statistic(name))
        .filter(|name| file.partner_of(name).is_none_or(|weight| !known.contains(weight)))
        .collect();
    if allow_unknown {
        if !unknown.is_empty() {
            comparison.notices.push(format!("unknown tensors are ignored: {}", enumerate(&unknown)));
        }
    } else {
        comparison.problems.extend(
            unknown
                .into_iter()
                .map(|name| Finding { tensor: name.to_owned(), reason: unknown_reason(name, &stacks) }),
        );
    }
    comparison
}

/// A stack of layers, to tell a wrong number of them from stray tensors.
struct Stack {
    prefix: &'static str,
    layers: usize,
    key: &'static str,
}

impl Stack {
    fn all(policy: &PolicyConfig, architecture: &Architecture) -> [Self; 3] {
        [
            Self {
                prefix: "model.vlm_with_expert.vlm.model.vision_model.encoder.layers.",
                layers: architecture.vision.layers,
                key: "vision_config.num_hidden_layers",
            },
            Self {
                prefix: "model.vlm_with_expert.vlm.model.text_model.layers.",
                layers: architecture.text.layers,
                key: "num_vlm_layers",
            },
            Self {
                prefix: "model.vlm_with_expert.lm_expert.layers.",
                layers: architecture.expert.layers,
                key: if policy.num_expert_layers.is_some() { "num_expert_layers" } else { "num_vlm_layers" },
            },
        ]
    }

    /// The layer that a tensor of this stack belongs to.
    fn layer(&self, name: &str) -> Option<usize> {
        name.strip_prefix(self.prefix)?.split('.').next()?.parse().ok()
    }

    /// Layers of this stack that a file has.
    fn layers_in(&self, file: &WeightsFile) -> usize {
        file.tensors().filter_map(|(name, _)| self.layer(name)).max().map_or(0, |last| last + 1)
    }
}

fn missing(file: &WeightsFile, tensor: &ExpectedTensor, stacks: &[Stack]) -> String {
    for stack in stacks {
        if let Some(layer) = stack.layer(&tensor.name) {
            let present = stack.layers_in(file);
            if layer >= present {
                return format!(
                    "is missing: {} asks for {} layers, the file has {present}",
                    stack.key, stack.layers
                );
            }
        }
    }
    format!("is missing; expected shape {:?}", tensor.shape())
}

fn unknown_reason(name: &str, stacks: &[Stack]) -> String {
    let beyond = stacks.iter().find(|stack| stack.layer(name).is_some_and(|layer| layer >= stack.layers));
    match beyond {
        Some(stack) => format!("is unknown: {} asks for {} layers only", stack.key, stack.layers),
        None => "is unknown; --allow-unknown ignores it".to_owned(),
    }
}

fn mismatch(file: &WeightsFile, entry: &TensorEntry, tensor: &ExpectedTensor) -> Option<String> {
    let shape = tensor.shape();
    if entry.shape != shape {
        let differing: Vec<String> = if entry.shape.len() == shape.len() {
            let pairs = tensor.axes.iter().zip(&entry.shape).filter(|(axis, len)| axis.len != **len);
            pairs
                .map(|(axis, len)| format!("{} = {} where the weights have {len}", axis.key, axis.len))
                .collect()
        } else {
            Vec::new()
        };
        let why = if differing.is_empty() { String::new() } else { format!(": {}", differing.join(", ")) };
        return Some(format!("has shape {:?}, the configuration expects {shape:?}{why}", entry.shape));
    }
    if !tensor.needed {
        return None;
    }
    match entry.storage {
        Some(storage) if storage.is_quantised() && !tensor.is_linear_weight() => Some(format!(
            "has elements of type {}, which only weights of linear layers may have",
            entry.dtype
        )),
        _ => file.view(&tensor.name, entry).err().map(Cow::into_owned),
    }
}

fn enumerate(names: &[&str]) -> String {
    const NAMED: usize = 6;
    let mut text = names.iter().take(NAMED).copied().collect::<Vec<_>>().join(", ");
    if names.len() > NAMED {
        text.push_str(&format!(" and {} more", names.len() - NAMED));
    }
    text
}
