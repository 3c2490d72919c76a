//! Operations on the rows of matrices.

use smolvla_core::backend::Activation;

use super::Words;
use crate::descriptor::{Descriptor, Flags, Op};

/// LayerNorm where there is a bias, RMSNorm where there is none; `gain` and `bias` are of one row.
pub(crate) fn norm(x: Words, gain: Words, bias: Option<Words>, eps: f32, to: Words) -> Descriptor {
    Descriptor {
        flags: if bias.is_some() { Flags::BIAS } else { Flags(0) },
        source: [x.address, gain.address, bias.map_or(0, |bias| bias.address), 0],
        immediate: [eps.to_bits(), 0],
        ..of_rows(Op::Norm, x, to)
    }
}

/// `activation(x)`.
pub(crate) fn activate(x: Words, activation: Activation, to: Words) -> Descriptor {
    let flags = match activation {
        Activation::Silu => Flags(0),
        Activation::GeluTanh => Flags::GELU,
    };
    Descriptor { flags, ..of_rows(Op::Activate, x, to) }
}

/// `silu(gate) · up`, of the two halves of `x`.
pub(crate) fn silu_mul(x: Words, to: Words) -> Descriptor {
    let width = x.cols as usize / 2;
    let (gate, up) = (x.columns(0, width), x.columns(width, width));
    Descriptor {
        flags: Flags::MULTIPLY,
        source: [gate.address, up.address, 0, 0],
        ..of_rows(Op::Activate, gate, to)
    }
}

/// `x` turned by angles whose `cos` and `sin` have one pitch.
pub(crate) fn rope(x: Words, cos: Words, sin: Words, to: Words) -> Descriptor {
    Descriptor {
        cols: cos.cols,
        depth: x.cols / (2 * cos.cols),
        repeat: cos.rows,
        source: [x.address, cos.address, sin.address, 0],
        pitch: [x.pitch, cos.pitch, to.pitch],
        ..of_rows(Op::Rope, x, to)
    }
}

/// `alpha · x`.
pub(crate) fn scale(alpha: f32, x: Words, to: Words) -> Descriptor {
    Descriptor { immediate: [alpha.to_bits(), 0], ..of_rows(Op::Combine, x, to) }
}

/// `y + alpha · x`, or `y + x`; rows of `y` repeat.
pub(crate) fn add(alpha: Option<f32>, x: Words, y: Words, to: Words) -> Descriptor {
    Descriptor {
        flags: Flags::ADD.and(if alpha.is_some() { Flags(0) } else { Flags::PLAIN }),
        repeat: y.rows,
        source: [x.address, y.address, 0, 0],
        pitch: [x.pitch, y.pitch, to.pitch],
        immediate: [alpha.map_or(0, f32::to_bits), 0],
        ..of_rows(Op::Combine, x, to)
    }
}

fn of_rows(op: Op, x: Words, to: Words) -> Descriptor {
    Descriptor {
        rows: x.rows,
        cols: x.cols,
        source: [x.address, 0, 0, 0],
        destination: [to.address, 0],
        pitch: [x.pitch, 0, to.pitch],
        ..Descriptor::new(op)
    }
}
