//! How a device goes through the graph: what is one kernel, and what crosses its memory interface.
//!
//! A kernel reads each of its operands once and writes each result once, however large they are: blocking is taken to be
//! good enough. All activations have one width, the residual stream, rotary tables and noise included.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use serde::Serialize;

use super::Widths;
use crate::count::{Op, OpKind, Part, Product, Role, TensorInfo, Trace, Weight};

/// What is computed as one kernel, reading its inputs from memory and leaving its results there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fusion {
    /// Each operation of the graph: a linear layer with its bias, activation and residual; an attention with its
    /// scores. What libraries of kernels do.
    #[default]
    Operations,
    /// Attention with its norm and projections; an MLP with its norm.
    Blocks,
    /// A whole transformer layer: activations cross the interface between layers only.
    Layers,
}

impl Fusion {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::Operations, Self::Blocks, Self::Layers];

    /// The name used on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Operations => "operations",
            Self::Blocks => "blocks",
            Self::Layers => "layers",
        }
    }
}

/// What becomes of the first layer of the time MLP, whose time half is the same for every action.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TimeMlp {
    /// The time half is kept from an earlier chunk of as many steps, as the graph does.
    #[default]
    Kept,
    /// This is the first chunk with this number of steps: the time half is computed once for each.
    First,
    /// The whole layer over every action in every step, as LeRobot writes it.
    Whole,
}

impl TimeMlp {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::Kept, Self::First, Self::Whole];

    /// The name used on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::First => "first",
            Self::Whole => "whole",
        }
    }
}

/// When the expert's projections of the prefix's keys and values are computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CrossKv {
    /// Once a chunk, as the graph does.
    #[default]
    Static,
    /// In every denoising step, as LeRobot does.
    EveryStep,
}

impl CrossKv {
    /// Every one.
    pub const ALL: [Self; 2] = [Self::Static, Self::EveryStep];

    /// The name used on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Static => "static",
            Self::EveryStep => "every-step",
        }
    }
}

/// How a device goes through the graph.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Execution {
    /// What is one kernel.
    pub fusion: Fusion,
    /// Whether attention is three kernels (scores, softmax, product with the values) that hand scores on through
    /// memory, twice there and twice back, instead of keeping them on chip. Only with [`Fusion::Operations`].
    pub unfused_attention: bool,
    /// When cross-attention's keys and values are computed.
    pub cross_kv: CrossKv,
    /// What becomes of the time MLP.
    pub time_mlp: TimeMlp,
    /// Bytes on chip in which weights of the expert stay between denoising steps, first come first served.
    pub resident_bytes: f64,
}

/// Bytes that cross a device's memory interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Traffic {
    /// Weights of linear layers, and rows of embedding tables.
    pub weights: f64,
    /// Their scales.
    pub scales: f64,
    /// Gains, biases, position embeddings.
    pub small_parameters: f64,
    /// Activations read.
    pub activations_read: f64,
    /// Activations written.
    pub activations_written: f64,
    /// Keys and values of the prefix, read.
    pub kv_read: f64,
    /// Keys and values of the prefix, written.
    pub kv_written: f64,
    /// Attention scores, both ways; zero where attention is fused.
    pub scores: f64,
}

impl Traffic {
    /// All of it.
    pub fn total(&self) -> f64 {
        self.weights + self.scales + self.small_parameters + self.activations() + self.kv() + self.scores
    }

    /// Activations both ways.
    pub fn activations(&self) -> f64 {
        self.activations_read + self.activations_written
    }

    /// The prefix's keys and values, both ways.
    pub fn kv(&self) -> f64 {
        self.kv_read + self.kv_written
    }

    /// Adds another's.
    pub fn add(&mut self, other: &Self) {
        self.weights += other.weights;
        self.scales += other.scales;
        self.small_parameters += other.small_parameters;
        self.activations_read += other.activations_read;
        self.activations_written += other.activations_written;
        self.kv_read += other.kv_read;
        self.kv_written += other.kv_written;
        self.scores += other.scores;
    }
}

/// What a device computes in one go.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Kernel {
    /// The part of the model.
    pub part: Part,
    /// The layer, or what stands in its place.
    pub layer: Arc<str>,
    /// What it is within the layer: an operation's name, `attention_block` or `mlp_block`; empty where it is all of it.
    pub name: Arc<str>,
    /// The denoising step.
    pub step: Option<usize>,
    /// How often something is started for it: once, or three times for an attention whose scores go through memory.
    pub launches: u64,
    /// Matrix products.
    pub products: Vec<Product>,
    /// Operations beside them.
    pub elementwise: u64,
    /// Bytes through memory.
    pub traffic: Traffic,
    /// Bytes of weights that it found on chip.
    pub resident: f64,
}

impl Kernel {
    /// Multiply-accumulates.
    pub fn macs(&self) -> u64 {
        self.products.iter().map(Product::macs).sum()
    }
}

/// The kernels of a trace.
pub fn kernels(trace: &Trace, execution: &Execution, widths: &Widths) -> Vec<Kernel> {
    let arranged = Arranged::new(trace, execution);
    let uses = Uses::of(&arranged);
    let mut resident = Resident { left: execution.resident_bytes, held: HashSet::new() };
    arranged
        .groups(execution.fusion)
        .into_iter()
        .map(|group| kernel(&arranged, &uses, &group, execution, widths, &mut resident))
        .collect()
}

/// The largest sum of activations that are needed at one time, in elements, and the layer and operation where that is.
/// Keys and values of the prefix, inputs and parameters are not in it.
pub fn peak_activation(trace: &Trace, execution: &Execution) -> (u64, String) {
    let arranged = Arranged::new(trace, execution);
    let uses = Uses::of(&arranged);
    let mut live: HashMap<usize, u64> = HashMap::new();
    let mut peak = (0, String::new());
    for (index, op) in arranged.ops.iter().enumerate() {
        for id in &op.outputs {
            let tensor = &arranged.tensors[*id];
            if tensor.role == Role::Activation && tensor.view_of.is_none() {
                live.insert(*id, tensor.elements());
            }
        }
        let scores = if execution.unfused_attention { op.scores } else { 0 };
        let sum = live.values().sum::<u64>() + scores;
        if sum > peak.0 {
            peak = (sum, format!("{}.{}", op.layer, op.name));
        }
        live.retain(|id, _| uses.last(&arranged, *id).is_some_and(|last| last > index));
    }
    peak
}

/// The operations of a trace as an [`Execution`] has them.
struct Arranged {
    ops: Vec<Op>,
    tensors: Vec<TensorInfo>,
}

impl Arranged {
    fn new(trace: &Trace, execution: &Execution) -> Self {
        let mut arranged = Self { ops: trace.ops.clone(), tensors: trace.tensors.clone() };
        match execution.time_mlp {
            TimeMlp::First => (),
            TimeMlp::Kept => arranged.drop_time_half(),
            TimeMlp::Whole => {
                arranged.drop_time_half();
                arranged.widen_time_mlp();
            }
        }
        if execution.cross_kv == CrossKv::EveryStep {
            arranged.repeat_cross_kv();
        }
        arranged
    }

    fn drop_time_half(&mut self) {
        let dropped = |op: &Op| &*op.layer == "expert.time";
        let embeddings: HashSet<usize> =
            self.ops.iter().filter(|op| dropped(op)).flat_map(|op| op.inputs.clone()).collect();
        self.ops.retain(|op| {
            let feeds = op.kind == OpKind::Upload && op.outputs.iter().any(|id| embeddings.contains(id));
            !dropped(op) && !feeds
        });
    }

    fn widen_time_mlp(&mut self) {
        let tensors = &mut self.tensors;
        for op in self.ops.iter_mut().filter(|op| &*op.name == "time_in_actions") {
            let Some(product) = op.products.first_mut() else { continue };
            // The embedding of the time beside each action, as wide as the action's own.
            let time = TensorInfo {
                rows: product.rows as usize,
                cols: product.depth as usize,
                role: Role::Input,
                view_of: None,
            };
            product.depth *= 2;
            op.biases = product.cols;
            if let Some(weight) = &mut op.weight {
                weight.elements *= 2;
                weight.path = "expert.time_in".into();
            }
            op.name = "time_in".into();
            // In place of the time half's result, which was added.
            op.inputs.truncate(1);
            op.inputs.push(tensors.len());
            tensors.push(time);
        }
    }

    fn repeat_cross_kv(&mut self) {
        let (projections, rest): (Vec<Op>, Vec<Op>) = std::mem::take(&mut self.ops)
            .into_iter()
            .partition(|op| op.part == Part::CrossKv && op.kind.is_work());
        let mut began: Option<(Option<usize>, Arc<str>)> = None;
        let mut renamed: HashMap<usize, usize> = HashMap::new();
        for mut op in rest {
            let place = (op.step, Arc::clone(&op.layer));
            if op.part == Part::Expert && began.as_ref() != Some(&place) {
                renamed.clear();
                for projection in projections.iter().filter(|projection| projection.layer == op.layer) {
                    let mut own = projection.clone();
                    (own.part, own.step) = (Part::Expert, op.step);
                    for id in &mut own.outputs {
                        let copy = TensorInfo { role: Role::Activation, ..self.tensors[*id] };
                        renamed.insert(*id, self.tensors.len());
                        *id = self.tensors.len();
                        self.tensors.push(copy);
                    }
                    self.ops.push(own);
                }
                began = Some(place);
            }
            for id in &mut op.inputs {
                *id = renamed.get(id).copied().unwrap_or(*id);
            }
            self.ops.push(op);
        }
    }

    /// Indices of the operations of each kernel.
    fn groups(&self, fusion: Fusion) -> Vec<Vec<usize>> {
        let mut groups: Vec<Vec<usize>> = Vec::new();
        let mut before = None;
        for (index, op) in self.ops.iter().enumerate() {
            if matches!(op.kind, OpKind::Upload | OpKind::Download) {
                continue;
            }
            let key = match fusion {
                Fusion::Operations => {
                    if op.kind.is_work() {
                        groups.push(vec![index]);
                    }
                    continue;
                }
                Fusion::Blocks => (op.part, op.step, &op.layer, op.is_mlp),
                Fusion::Layers => (op.part, op.step, &op.layer, false),
            };
            match groups.last_mut() {
                Some(group) if before.as_ref() == Some(&key) => group.push(index),
                _ => groups.push(vec![index]),
            }
            before = Some(key);
        }
        groups.retain(|group| group.iter().any(|index| self.ops[*index].kind.is_work()));
        groups
    }
}

/// Which operations read a tensor, and which tensors are views of it.
struct Uses {
    readers: HashMap<usize, Vec<usize>>,
    views: HashMap<usize, Vec<usize>>,
}

impl Uses {
    fn of(arranged: &Arranged) -> Self {
        let mut uses = Self { readers: HashMap::new(), views: HashMap::new() };
        for (index, op) in arranged.ops.iter().enumerate() {
            if op.kind == OpKind::View {
                for id in &op.inputs {
                    uses.views.entry(*id).or_default().extend(&op.outputs);
                }
                continue;
            }
            for id in &op.inputs {
                uses.readers.entry(*id).or_default().push(index);
            }
        }
        uses
    }

    /// Whether an operation outside of `group` reads the tensor itself.
    fn leaves(&self, id: usize, group: &HashSet<usize>) -> bool {
        self.readers.get(&id).is_some_and(|readers| readers.iter().any(|reader| !group.contains(reader)))
    }

    /// Parts of a tensor that are read outside of `group`: itself, or those of its views.
    fn leaving(&self, id: usize, group: &HashSet<usize>) -> Vec<usize> {
        if self.leaves(id, group) {
            return vec![id];
        }
        let views = self.views.get(&id).map(Vec::as_slice).unwrap_or_default();
        views.iter().flat_map(|view| self.leaving(*view, group)).collect()
    }

    /// The last operation that reads a tensor or a view of it.
    fn last(&self, arranged: &Arranged, id: usize) -> Option<usize> {
        let own = self.readers.get(&id).and_then(|readers| readers.last().copied());
        let views = self.views.get(&id).map(Vec::as_slice).unwrap_or_default();
        // A view that is kept as keys or values has been copied to where they are kept.
        let views = views.iter().filter(|view| arranged.tensors[**view].role != Role::Cache);
        views.filter_map(|view| self.last(arranged, *view)).chain(own).max()
    }
}

/// Weights that stay on chip.
struct Resident {
    left: f64,
    held: HashSet<Arc<str>>,
}

impl Resident {
    /// Whether a weight is there already; it stays from now on if there is room.
    fn holds(&mut self, weight: &Weight, bytes: f64) -> bool {
        if self.held.contains(&weight.path) {
            return true;
        }
        if bytes <= self.left {
            self.left -= bytes;
            self.held.insert(Arc::clone(&weight.path));
        }
        false
    }
}

fn kernel(
    arranged: &Arranged,
    uses: &Uses,
    group: &[usize],
    execution: &Execution,
    widths: &Widths,
    resident: &mut Resident,
) -> Kernel {
    let ops: Vec<&Op> = group.iter().map(|index| &arranged.ops[*index]).collect();
    let members: HashSet<usize> = group.iter().copied().collect();
    let first = ops[0];
    let name = match execution.fusion {
        Fusion::Operations => Arc::clone(&first.name),
        Fusion::Blocks if is_layer(&first.layer) && first.is_mlp => "mlp_block".into(),
        Fusion::Blocks if is_layer(&first.layer) => "attention_block".into(),
        Fusion::Blocks | Fusion::Layers => "".into(),
    };
    let mut kernel = Kernel {
        part: first.part,
        layer: Arc::clone(&first.layer),
        name,
        step: first.step,
        launches: 1,
        products: ops.iter().flat_map(|op| op.products.clone()).collect(),
        elementwise: ops.iter().map(|op| op.elementwise).sum(),
        traffic: Traffic::default(),
        resident: 0.0,
    };
    let mut made: HashSet<usize> = HashSet::new();
    let mut seen: HashSet<usize> = HashSet::new();
    for op in &ops {
        if op.kind == OpKind::View {
            if op.inputs.iter().all(|id| made.contains(id)) {
                made.extend(&op.outputs);
            }
            continue;
        }
        for id in op.inputs.iter().copied() {
            if made.contains(&id) || !seen.insert(id) {
                continue;
            }
            let tensor = &arranged.tensors[id];
            let elements = tensor.elements() as f64;
            match tensor.role {
                Role::Parameter => kernel.traffic.small_parameters += elements * widths.parameters.bytes(),
                Role::Cache => kernel.traffic.kv_read += elements * widths.kv.bytes(),
                Role::Input | Role::Activation => {
                    kernel.traffic.activations_read += elements * widths.activations.bytes();
                }
            }
        }
        made.extend(&op.outputs);
        for id in op.outputs.iter().flat_map(|id| uses.leaving(*id, &members)) {
            let tensor = &arranged.tensors[id];
            let elements = tensor.elements() as f64;
            match tensor.role {
                Role::Cache => kernel.traffic.kv_written += elements * widths.kv.bytes(),
                _ => kernel.traffic.activations_written += elements * widths.activations.bytes(),
            }
        }
        kernel.traffic.small_parameters += op.biases as f64 * widths.parameters.bytes();
        if let Some(weight) = &op.weight {
            let numbers = widths.number_bytes(weight.elements);
            let scales = widths.scale_bytes(weight.elements, weight.rows);
            if op.part == Part::Expert && op.step.is_some() && resident.holds(weight, numbers + scales) {
                kernel.resident += numbers + scales;
            } else {
                kernel.traffic.weights += numbers;
                kernel.traffic.scales += scales;
            }
        }
        if execution.unfused_attention && execution.fusion == Fusion::Operations {
            // Written, read by the softmax, written, read by the product with the values.
            kernel.traffic.scores += 4.0 * op.scores as f64 * widths.activations.bytes();
            kernel.launches += if op.scores > 0 { 2 } else { 0 };
        }
    }
    kernel
}

/// Whether a layer is one of a stack, with attention and an MLP.
fn is_layer(layer: &str) -> bool {
    layer.contains(".layers.")
}
