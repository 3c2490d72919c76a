//! The kernels of a trace: what each multiplies, computes and moves.

use smolvla_core::count::{Op, OpKind, Product, Role, Trace};

use super::{Fusing, TILE};
use crate::plan::Plan;
use crate::tensix::{Fidelity, Format};

/// Bytes of a value on the device, shared exponents included (one byte for 16 values).
pub(super) fn bytes(format: Format) -> f64 {
    match format {
        Format::F32 => 4.0,
        Format::Bf16 => 2.0,
        Format::Bfp8 => 1.0625,
        Format::Bfp4 => 0.5625,
    }
}

/// What biases, gains and whatever else the host sends are kept in.
const HOST: Format = Format::F32;
/// What a mask that is added to scores is kept in.
const MASK: Format = Format::Bf16;

/// A kernel.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Work {
    pub(super) products: Vec<(Product, Fidelity)>,
    pub(super) vector: Option<Vector>,
    /// Bytes of weights, biases and gains.
    pub(super) weights: f64,
    /// Bytes of everything else, both ways.
    pub(super) activations: f64,
}

/// Work of the vector unit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Vector {
    /// Pieces that are dealt to cores whole.
    pub(super) units: u64,
    /// Tiles of each.
    pub(super) tiles_each: u64,
    /// Operations on each element.
    pub(super) operations: f64,
}

impl Vector {
    /// Tiles that do not depend on one another.
    fn tiles(count: u64, rows: u64, cols: u64, operations: f64) -> Option<Self> {
        let units = count * rows.div_ceil(TILE) * cols.div_ceil(TILE);
        (operations > 0.0).then_some(Self { units, tiles_each: 1, operations })
    }

    /// Rows that are reduced, each on one core.
    fn rows(count: u64, rows: u64, cols: u64, operations: f64) -> Option<Self> {
        let (units, tiles_each) = (count * rows.div_ceil(TILE), cols.div_ceil(TILE));
        Some(Self { units, tiles_each, operations })
    }
}

/// How the tensors of a trace are stored under a plan.
pub(super) struct Formats<'a> {
    trace: &'a Trace,
    plan: &'a Plan,
    of: Vec<Format>,
}

impl<'a> Formats<'a> {
    /// As [`TtBackend`](crate::TtBackend) stores results.
    pub(super) fn new(trace: &'a Trace, plan: &'a Plan) -> Self {
        let mut of = vec![HOST; trace.tensors.len()];
        for op in &trace.ops {
            let inputs = op.inputs.iter().map(|id| of[*id]);
            let format = match op.kind {
                OpKind::Linear => op.weight.as_ref().map_or(HOST, |weight| plan.linear(&weight.path).store),
                OpKind::Attention => plan.values.store,
                OpKind::LayerNorm | OpKind::RmsNorm => plan.norm.store,
                OpKind::Rope | OpKind::Activate | OpKind::SiluMul | OpKind::Scale => plan.elementwise.store,
                // Joined and moved as they are, the finest first.
                OpKind::ConcatTokens | OpKind::PixelShuffle | OpKind::View => inputs.min().unwrap_or(HOST),
                // On the host, and whatever core adds.
                _ => HOST,
            };
            for id in &op.outputs {
                of[*id] = format;
            }
        }
        Self { trace, plan, of }
    }

    /// Whether some product has operands that the matrix engine does not take.
    pub(super) fn multiplies_f32(&self) -> bool {
        let weights = self.trace.ops.iter().filter_map(|op| op.weight.as_ref().filter(|_| op.macs() > 0));
        let mut linear = weights.map(|weight| self.plan.linear(&weight.path));
        linear.any(|linear| linear.weights == Format::F32)
    }

    /// Bytes of a tensor on the device: whole tiles, but for the rows of numbers that gains and biases are.
    fn tensor(&self, id: usize) -> f64 {
        let info = &self.trace.tensors[id];
        let (rows, cols) = (info.rows as u64, info.cols as u64);
        let format = self.of[id];
        if info.role == Role::Parameter && rows == 1 {
            return cols as f64 * bytes(format);
        }
        matrix(1, rows, cols, format)
    }

    fn tensors(&self, ids: &[usize]) -> f64 {
        ids.iter().map(|id| self.tensor(*id)).sum()
    }

    fn size(&self, id: usize) -> (u64, u64) {
        let info = &self.trace.tensors[id];
        (info.rows as u64, info.cols as u64)
    }
}

/// Bytes of `count` matrices in tiles.
fn matrix(count: u64, rows: u64, cols: u64, format: Format) -> f64 {
    let padded = |length: u64| length.div_ceil(TILE) * TILE;
    (count * padded(rows) * padded(cols)) as f64 * bytes(format)
}

/// The kernels of an operation.
pub(super) fn works(op: &Op, formats: &Formats<'_>, fusing: Fusing) -> Vec<Work> {
    let moved = formats.tensors(&op.inputs) + formats.tensors(&op.outputs);
    // The time half is kept from an earlier chunk of as many steps.
    if &*op.layer == "expert.time" {
        return Vec::new();
    }
    match op.kind {
        OpKind::Linear => linear(op, formats, fusing),
        OpKind::Attention => attention(op, formats, fusing),
        OpKind::LayerNorm => norm(op, formats, fusing, 8),
        OpKind::RmsNorm => norm(op, formats, fusing, 5),
        OpKind::Rope => {
            let (result, vector) = elementwise(op, formats);
            if fusing.gates {
                return vec![Work { vector, activations: moved, ..Work::default() }];
            }
            // Two slices, four products, a difference, a sum, a join; all but the last on halves.
            let half = |operations| Work {
                vector: vector.map(|vector| Vector { operations, ..vector }),
                activations: result,
                ..Work::default()
            };
            let copy = Work { activations: result, ..Work::default() };
            let join = Work { activations: 2.0 * result, ..Work::default() };
            let mut kernels = vec![copy; 2];
            kernels.extend(vec![half(0.5); 6]);
            kernels.push(join);
            kernels
        }
        OpKind::SiluMul => {
            let (result, vector) = elementwise(op, formats);
            if fusing.gates {
                return vec![Work { vector, activations: moved, ..Work::default() }];
            }
            let kernel = |operations, tensors: f64| Work {
                vector: vector.filter(|_| operations > 0.0).map(|vector| Vector { operations, ..vector }),
                activations: tensors * result,
                ..Work::default()
            };
            vec![kernel(0.0, 2.0), kernel(0.0, 2.0), kernel(4.0, 2.0), kernel(1.0, 3.0)]
        }
        OpKind::Activate | OpKind::Scale => {
            let (_, vector) = elementwise(op, formats);
            vec![Work { vector, activations: moved, ..Work::default() }]
        }
        OpKind::ConcatTokens | OpKind::PixelShuffle => {
            vec![Work { activations: moved, ..Work::default() }]
        }
        OpKind::View if !fusing.slices => {
            let copy = |id: &usize| Work { activations: 2.0 * formats.tensor(*id), ..Work::default() };
            op.outputs.iter().map(copy).collect()
        }
        // Views that are read in place, what runs on the host, and what moves between it and the card.
        _ => Vec::new(),
    }
}

/// Bytes of an operation's result, and its work on each tile of it.
fn elementwise(op: &Op, formats: &Formats<'_>) -> (f64, Option<Vector>) {
    let Some(result) = op.outputs.first() else { return (0.0, None) };
    let (rows, cols) = formats.size(*result);
    let operations = op.elementwise as f64 / (rows * cols).max(1) as f64;
    (formats.tensor(*result), Vector::tiles(1, rows, cols, operations))
}

fn norm(op: &Op, formats: &Formats<'_>, fusing: Fusing, primitives: usize) -> Vec<Work> {
    let (result, vector) = elementwise(op, formats);
    let Some(vector) = vector else { return Vec::new() };
    let (rows, cols) = op.outputs.first().map_or((0, 0), |id| formats.size(*id));
    let parameters = formats.tensors(op.inputs.get(1..).unwrap_or_default());
    if fusing.norms {
        let read = formats.tensors(op.inputs.get(..1).unwrap_or_default());
        return vec![Work {
            vector: Vector::rows(1, rows, cols, vector.operations),
            weights: parameters,
            activations: read + result,
            ..Work::default()
        }];
    }
    let operations = vector.operations / primitives as f64;
    let primitive = Work {
        vector: Some(Vector { operations, ..vector }),
        weights: parameters / primitives as f64,
        activations: 2.0 * result,
        ..Work::default()
    };
    vec![primitive; primitives]
}

fn linear(op: &Op, formats: &Formats<'_>, fusing: Fusing) -> Vec<Work> {
    let (Some(product), Some(weight)) = (op.products.first(), &op.weight) else { return Vec::new() };
    let math = formats.plan.linear(&weight.path);
    let (input, residual) = match op.inputs.as_slice() {
        [input, residual, ..] => (formats.tensor(*input), Some(formats.tensor(*residual))),
        [input] => (formats.tensor(*input), None),
        [] => (0.0, None),
    };
    let (result, vector) = elementwise(op, formats);
    let bias = op.biases as f64 * bytes(HOST);
    let matrix = Work {
        products: vec![(*product, math.math.fidelity)],
        vector: None,
        weights: matrix(product.count, product.depth, product.cols, math.weights),
        activations: input + result,
    };
    if fusing.epilogues {
        let weights = matrix.weights + bias;
        let activations = matrix.activations + residual.unwrap_or(0.0);
        return vec![Work { vector, weights, activations, ..matrix }];
    }
    let mut kernels = vec![matrix];
    let Some(vector) = vector else { return kernels };
    let mut epilogue = |operations: f64, weights: f64, read: f64| {
        let vector = Some(Vector { operations, ..vector });
        kernels.push(Work { products: Vec::new(), vector, weights, activations: 2.0 * result + read });
    };
    let mut activation = vector.operations;
    if op.biases > 0 {
        epilogue(1.0, bias, 0.0);
        activation -= 1.0;
    }
    if residual.is_some() {
        activation -= 1.0;
    }
    if activation > 0.0 {
        epilogue(activation, 0.0, 0.0);
    }
    if let Some(residual) = residual {
        epilogue(1.0, 0.0, residual);
    }
    kernels
}

fn attention(op: &Op, formats: &Formats<'_>, fusing: Fusing) -> Vec<Work> {
    let ([scores, values], [query, segments @ ..], [result, ..]) =
        (op.products.as_slice(), op.inputs.as_slice(), op.outputs.as_slice())
    else {
        return Vec::new();
    };
    let plan = formats.plan;
    let Product { count, rows, cols, .. } = *scores;
    let operations = op.elementwise as f64 / op.scores.max(1) as f64;
    // Six operations a score are the scale and the softmax; one more is the mask's.
    let masked = operations > 6.0;
    let mask = if masked { matrix(1, rows, cols, MASK) } else { 0.0 };
    let (query, result) = (formats.tensor(*query), formats.tensor(*result));
    let every_other = |first| segments.iter().skip(first).step_by(2).map(|id| formats.tensor(*id)).sum();
    let (keys, value): (f64, f64) = (every_other(0), every_other(1));
    let (scored, weighed) = ((*scores, plan.scores.fidelity), (*values, plan.values.fidelity));
    if fusing.attention {
        return vec![Work {
            products: vec![scored, weighed],
            vector: Vector::rows(count, rows, cols, operations),
            weights: 0.0,
            activations: query + keys + value + mask + result,
        }];
    }
    let unnormalised = matrix(count, rows, cols, plan.scores.store);
    let weights = matrix(count, rows, cols, plan.softmax.store);
    let moving = |activations| Work { activations, ..Work::default() };
    let computing = |vector, activations| Work { vector, activations, ..Work::default() };
    let multiplying = |product, activations| Work { products: vec![product], activations, ..Work::default() };
    let one = Vector::tiles(count, rows, cols, 1.0);

    let mut kernels = Vec::new();
    if segments.len() > 2 {
        kernels.extend([moving(2.0 * keys), moving(2.0 * value)]);
    }
    kernels.extend([moving(2.0 * query), moving(2.0 * keys), moving(2.0 * value)]);
    kernels.push(multiplying(scored, query + keys + unnormalised));
    kernels.push(computing(one, 2.0 * unnormalised));
    if masked {
        kernels.push(computing(one, 2.0 * unnormalised + mask));
    }
    if fusing.softmax {
        kernels.push(computing(Vector::rows(count, rows, cols, 5.0), unnormalised + weights));
    } else {
        // Largest, difference, exponential, sum, quotient.
        kernels.extend(vec![computing(one, 2.0 * unnormalised); 4]);
        kernels.push(computing(one, unnormalised + weights));
    }
    kernels.push(multiplying(weighed, weights + value + result));
    kernels.push(moving(2.0 * result));
    kernels
}
