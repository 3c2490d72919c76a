//! What a device is asked to compute: a list of operations on numbered values.
//!
//! A program holds no numbers. Weights, biases, masks and activations are its arguments, so that layers of one
//! shape are one program, compiled once.

use std::fmt;

use smolvla_core::backend::{Activation, AttentionShape};

use crate::tensix::{Dest, Format, Math};

/// A value of a [`Program`]: arguments are counted first, then the results of its instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Value(pub usize);

/// A row-major matrix of activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TensorType {
    /// Rows: tokens of all observations.
    pub rows: usize,
    /// Columns.
    pub cols: usize,
    /// How it is stored.
    pub format: Format,
}

/// What a program takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Argument {
    /// An activation, a bias or a norm's gain.
    Tensor(TensorType),
    /// A linear layer's weight, `[outputs, inputs]`.
    Weight {
        /// Width of the result.
        outputs: usize,
        /// Width of what it is multiplied with.
        inputs: usize,
        /// How it is stored.
        format: Format,
    },
    /// Which keys a query may attend, `[batch, queries, keys]`.
    Mask {
        /// Observations.
        batch: usize,
        /// Query tokens of one.
        queries: usize,
        /// Keys of one.
        keys: usize,
    },
}

/// An operation. Its operands are values in the order given here; every operation has one result.
///
/// What lies between the steps inside one is the device's own: the emulator rounds where the vendor's kernels write to
/// memory (a product before its residual is added, scores after they are scaled) and takes the vendor's GELU; the
/// StableHLO form says f32 and one rounding of the result, and leaves the rest to the compiler.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// `residual + activation(x·Wᵀ + bias)`. Operands: `x`, weight, then bias `[1, outputs]` and residual (whose rows
    /// repeat) where there are any.
    Linear {
        /// How products are computed.
        math: Math,
        /// What `x` is rounded to before it is multiplied, where it is stored finer.
        input: Format,
        /// Whether there is a bias.
        bias: bool,
        /// Applied to the product with its bias.
        activation: Option<Activation>,
        /// Whether there is a residual.
        residual: bool,
    },
    /// LayerNorm of each row. Operands: `x`, gain `[1, cols]`, bias `[1, cols]`.
    LayerNorm {
        /// Added to the variance.
        eps: f32,
        /// Width of the accumulators.
        dest: Dest,
        /// Whether the vector unit takes its faster functions.
        approximate: bool,
    },
    /// RMSNorm of each row. Operands: `x`, gain `[1, cols]`.
    RmsNorm {
        /// Added to the mean square.
        eps: f32,
        /// Width of the accumulators.
        dest: Dest,
        /// Whether the vector unit takes its faster functions.
        approximate: bool,
    },
    /// `softmax(scale · q·kᵀ + mask)·v` for each observation and head. Operands: `q`, then key and value of each
    /// segment, then the mask where there is one.
    Attention {
        /// Heads and scale.
        shape: AttentionShape,
        /// Segments of keys and values.
        segments: usize,
        /// Whether there is a mask.
        mask: bool,
        /// How the numbers inside are computed and stored.
        kernel: AttentionKernel,
    },
    /// Rotary embedding in half-split form. Operands: `x`, cosines and sines `[table rows, head_dim/2]`, whose rows
    /// repeat.
    Rope {
        /// Width of the accumulators.
        dest: Dest,
    },
    /// An elementwise function of `x`.
    Activate {
        /// Which.
        activation: Activation,
        /// Width of the accumulators.
        dest: Dest,
    },
    /// `[gate, up] → silu(gate)·up`.
    SiluMul {
        /// Width of the accumulators.
        dest: Dest,
    },
    /// `factor · x`.
    Scale {
        /// The factor.
        factor: f32,
        /// Width of the accumulators.
        dest: Dest,
    },
    /// Joins the tokens of each observation. Operands: the parts, one or more.
    ConcatTokens {
        /// Observations.
        batch: usize,
    },
    /// Some rows of `x`, as many as the result has.
    SliceRows {
        /// The first.
        start: usize,
    },
    /// Some columns of `x`, as many as the result has.
    SliceCols {
        /// The first.
        start: usize,
    },
    /// Joins each `factor × factor` block of a square grid of tokens into one token.
    PixelShuffle {
        /// Side of the grid.
        grid: usize,
        /// Side of a block.
        factor: usize,
    },
}

/// How attention computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AttentionKernel {
    /// `q·kᵀ`.
    pub scores: Math,
    /// How scores are stored before the softmax.
    pub scores_format: Format,
    /// Accumulators of the softmax.
    pub softmax: Dest,
    /// Whether its exponential and reciprocal are the vector unit's faster ones.
    pub approximate: bool,
    /// How attention weights are stored.
    pub weights_format: Format,
    /// `weights·v`.
    pub values: Math,
}

/// One step of a [`Program`].
#[derive(Clone, Debug, PartialEq)]
pub struct Instruction {
    /// What is done.
    pub op: Op,
    /// With what.
    pub operands: Vec<Value>,
    /// What comes out.
    pub result: TensorType,
}

/// A list of operations; see the [module documentation](self).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Program {
    /// What it takes, in order.
    pub arguments: Vec<Argument>,
    /// What it does, in order: operands come before the instruction that reads them.
    pub instructions: Vec<Instruction>,
    /// What it yields, in order; no argument is among them.
    pub results: Vec<Value>,
    /// Arguments that are not read again after it, by index: a device may write results over them.
    pub donated: Vec<usize>,
}

impl Program {
    /// Adds an argument. All arguments come before the first instruction.
    pub fn argument(&mut self, argument: Argument) -> Value {
        debug_assert!(self.instructions.is_empty(), "arguments come first");
        self.arguments.push(argument);
        Value(self.arguments.len() - 1)
    }

    /// Adds an instruction.
    pub fn push(&mut self, op: Op, operands: Vec<Value>, result: TensorType) -> Value {
        self.instructions.push(Instruction { op, operands, result });
        Value(self.arguments.len() + self.instructions.len() - 1)
    }

    /// The instruction that computes `value`; `None` for an argument.
    pub fn producer(&self, value: Value) -> Option<&Instruction> {
        value.0.checked_sub(self.arguments.len()).and_then(|index| self.instructions.get(index))
    }

    /// The type of a matrix; `None` for weights, masks and values that are not there.
    pub fn tensor_type(&self, value: Value) -> Option<TensorType> {
        match self.arguments.get(value.0) {
            Some(Argument::Tensor(tensor)) => Some(*tensor),
            Some(_) => None,
            None => self.producer(value).map(|instruction| instruction.result),
        }
    }
}

impl fmt::Display for Argument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tensor(tensor) => tensor.fmt(f),
            Self::Weight { outputs, inputs, format } => write!(f, "weight {outputs}×{inputs} {format:?}"),
            Self::Mask { batch, queries, keys } => write!(f, "mask {batch}×{queries}×{keys}"),
        }
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}×{} {:?}", self.rows, self.cols, self.format)
    }
}
