//! Products, and the digits that they are made of.

use super::{Digits, Places, Words};
use crate::descriptor::{
    ACTIVATION_WORDS, Descriptor, Flags, Op, TILE_DEPTH, TILE_ROWS, WEIGHT_WORDS, padded,
};

/// What stands on the weights' side of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Weights {
    /// A prepared layer.
    Panels { address: u64, scales: u64, bias: Option<u64>, outputs: u32, places: Places },
    /// Rows that were computed.
    Rows(Digits),
}

impl Weights {
    /// A prepared layer, so many bytes further on.
    pub(crate) fn moved(self, bytes: u64) -> Self {
        match self {
            Self::Panels { address, scales, bias, outputs, places } => Self::Panels {
                address: address + bytes,
                scales: scales + bytes,
                bias: bias.map(|bias| bias + bytes),
                outputs,
                places,
            },
            Self::Rows(rows) => {
                Self::Rows(Digits { address: rows.address + bytes, scales: rows.scales + bytes, ..rows })
            }
        }
    }
}

/// Longest sum that the buffers hold a row of, with so many digits on each side.
pub(crate) fn deepest(activations: Places, weights: Places) -> usize {
    let words = (ACTIVATION_WORDS / activations.planes()).min(WEIGHT_WORDS / weights.planes());
    words * TILE_DEPTH
}

/// Rows of `x` as digits.
pub(crate) fn quantise(x: Words, to: Digits) -> Descriptor {
    Descriptor {
        flags: to.places.flag(Flags::TWO_DIGITS),
        rows: x.rows,
        cols: x.cols,
        source: [x.address, 0, 0, 0],
        destination: [to.address, to.scales],
        pitch: [x.pitch, 0, to.pitch],
        plane: [plane(to), 0],
        ..Descriptor::new(Op::Quantise)
    }
}

/// Columns of `x` as rows of digits.
pub(crate) fn quantise_columns(x: Words, to: Digits) -> Descriptor {
    let flags = to.places.flag(Flags::TWO_DIGITS).and(Flags::TRANSPOSE);
    Descriptor { flags, rows: x.cols, cols: x.rows, ..quantise(x, to) }
}

/// `x · weightsᵀ` to `to`, in as few operations as the activations' buffer takes.
pub(crate) fn product(x: Digits, weights: Weights, to: Words) -> impl Iterator<Item = Descriptor> {
    let words = padded(x.depth as usize) / TILE_DEPTH * x.places.planes();
    let at_once = ACTIVATION_WORDS / words * TILE_ROWS;
    let rows = x.rows as usize;
    (0..rows).step_by(at_once.max(1)).map(move |start| {
        let count = at_once.min(rows - start);
        let (x, to) = (x.rows(start, count), to.rows(start, count));
        let own = Descriptor {
            flags: x.places.flag(Flags::TWO_DIGITS),
            rows: x.rows,
            depth: x.depth,
            pitch: [x.pitch, 0, to.pitch],
            plane: [plane(x), 0],
            ..Descriptor::new(Op::Gemm)
        };
        match weights {
            Weights::Panels { address, scales, bias, outputs, places } => Descriptor {
                flags: own.flags.and(places.flag(Flags::TWO_DIGIT_WEIGHTS)).and(if bias.is_some() {
                    Flags::BIAS
                } else {
                    Flags(0)
                }),
                cols: outputs,
                source: [x.address, x.scales, address, scales],
                destination: [to.address, bias.unwrap_or(0)],
                ..own
            },
            Weights::Rows(rows) => Descriptor {
                flags: own.flags.and(Flags::ROWS).and(rows.places.flag(Flags::TWO_DIGIT_WEIGHTS)),
                cols: rows.rows,
                source: [x.address, x.scales, rows.address, rows.scales],
                destination: [to.address, 0],
                pitch: [own.pitch[0], rows.pitch, own.pitch[2]],
                plane: [own.plane[0], plane(rows)],
                ..own
            },
        }
    })
}

/// A field that is zero where it is not read.
pub(super) fn plane(digits: Digits) -> u32 {
    match digits.places {
        Places::One => 0,
        Places::Two => digits.plane,
    }
}
