//! What has to be kept: parameters, the prefix's keys and values, activations.

use std::collections::HashSet;

use serde::Serialize;

use super::Widths;
use super::execution::{Execution, peak_activation};
use crate::checkpoint::{Component, ExpectedTensor, expected};
use crate::config::{Architecture, PolicyConfig};
use crate::count::{OpKind, Role, Trace};

/// Parameters of a component of the checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StoredComponent {
    /// The component, as `smolvla inspect` names it.
    pub component: &'static str,
    /// Tensors.
    pub tensors: usize,
    /// Elements in them.
    pub parameters: u64,
    /// Bytes of all of them.
    pub bytes: f64,
    /// Bytes of those that inference reads.
    pub needed_bytes: f64,
}

/// What has to be kept.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Storage {
    /// Every component, in the order of a forward pass.
    pub components: Vec<StoredComponent>,
    /// Tensors of the checkpoint.
    pub tensors: usize,
    /// Elements in them.
    pub parameters: u64,
    /// Bytes of all of them.
    pub bytes: f64,
    /// Bytes of those that inference reads.
    pub needed_bytes: f64,
    /// Bytes of the keys and values that denoising reads.
    pub kv_cache_bytes: f64,
    /// Largest sum of activations that are needed at one time, operation by operation.
    pub peak_activation_bytes: f64,
    /// Where that is.
    pub peak_activation_at: String,
    /// Largest result of one linear layer, as sums before rounding.
    pub largest_accumulator_bytes: f64,
    /// Largest attention scores of one layer, where they are not kept on chip.
    pub largest_scores_bytes: f64,
}

impl Storage {
    /// What a checkpoint of these sizes takes, and a chunk of it.
    pub fn of(
        policy: &PolicyConfig,
        architecture: &Architecture,
        trace: &Trace,
        execution: &Execution,
        widths: &Widths,
    ) -> Self {
        let tensors = expected(policy, architecture);
        let components: Vec<StoredComponent> =
            Component::ALL.into_iter().map(|component| stored(component, &tensors, widths)).collect();
        let (peak, peak_at) = peak_activation(trace, execution);
        let kept: HashSet<usize> = trace
            .ops
            .iter()
            .filter(|op| op.step.is_some())
            .flat_map(|op| op.inputs.clone())
            .filter(|id| trace.tensors[*id].role == Role::Cache)
            .collect();
        let kept: u64 = kept.into_iter().map(|id| trace.tensors[id].elements()).sum();
        let largest_result =
            trace.ops.iter().filter(|op| op.kind == OpKind::Linear).flat_map(|op| &op.products);
        let largest_result = largest_result.map(|product| product.rows * product.cols).max().unwrap_or(0);
        let largest_scores = trace.ops.iter().map(|op| op.scores).max().unwrap_or(0);
        Self {
            tensors: components.iter().map(|component| component.tensors).sum(),
            parameters: components.iter().map(|component| component.parameters).sum(),
            bytes: components.iter().map(|component| component.bytes).sum(),
            needed_bytes: components.iter().map(|component| component.needed_bytes).sum(),
            components,
            kv_cache_bytes: kept as f64 * widths.kv.bytes(),
            peak_activation_bytes: peak as f64 * widths.activations.bytes(),
            peak_activation_at: peak_at,
            largest_accumulator_bytes: largest_result as f64 * widths.accumulators.bytes(),
            largest_scores_bytes: largest_scores as f64 * widths.activations.bytes(),
        }
    }
}

fn stored(component: Component, tensors: &[ExpectedTensor], widths: &Widths) -> StoredComponent {
    let mut sum = StoredComponent {
        component: component.name(),
        tensors: 0,
        parameters: 0,
        bytes: 0.0,
        needed_bytes: 0.0,
    };
    for tensor in tensors.iter().filter(|tensor| tensor.component == component) {
        let elements = tensor.elements() as u64;
        // Gains, biases and positions are added or multiplied once, not part of a matrix product.
        let shape = tensor.shape();
        let bytes = if shape.len() < 2 || tensor.name.contains("position_embedding") {
            elements as f64 * widths.parameters.bytes()
        } else {
            widths.weight_bytes(elements, shape[0] as u64)
        };
        sum.tensors += 1;
        sum.parameters += elements;
        sum.bytes += bytes;
        if tensor.needed {
            sum.needed_bytes += bytes;
        }
    }
    sum
}
