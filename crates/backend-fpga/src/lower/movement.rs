//! Operations that only move words.

use super::Words;
use crate::descriptor::{Descriptor, Op};

/// Blocks of equal size: `from` and `to` are the first of each.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Blocks {
    pub(crate) count: usize,
    /// Bytes from block to block where they are read.
    pub(crate) source: u64,
    /// Bytes from block to block where they are written.
    pub(crate) destination: u64,
}

impl Blocks {
    pub(crate) const ONE: Self = Self { count: 1, source: 0, destination: 0 };
}

/// Copies blocks of the size of `from` to the pitch and address of `to`.
pub(crate) fn copy(from: Words, to: Words, blocks: Blocks) -> Descriptor {
    Descriptor {
        rows: from.rows,
        cols: from.cols,
        depth: blocks.count as u32,
        source: [from.address, 0, 0, 0],
        destination: [to.address, 0],
        pitch: [from.pitch, 0, to.pitch],
        // Within a buffer, which a bank holds.
        plane: [blocks.source as u32, blocks.destination as u32],
        ..Descriptor::new(Op::Copy)
    }
}

/// The tokens of each observation joined.
pub(crate) fn concat_tokens(parts: &[Words], batch: usize, to: Words) -> Vec<Descriptor> {
    let tokens = to.rows as usize / batch;
    let mut start = 0;
    let mut stream = Vec::with_capacity(parts.len());
    for part in parts {
        let count = part.rows as usize / batch;
        let blocks = Blocks {
            count: batch,
            source: count as u64 * u64::from(part.pitch),
            destination: tokens as u64 * u64::from(to.pitch),
        };
        stream.push(copy(part.rows(0, count), to.rows(start, count), blocks));
        start += count;
    }
    stream
}

/// Each `factor × factor` block of a `grid × grid` square of tokens joined to one.
pub(crate) fn pixel_shuffle(x: Words, grid: usize, factor: usize, to: Words) -> Vec<Descriptor> {
    let (cols, side) = (x.cols as usize, grid / factor);
    // Tokens side by side are one piece where there is nothing between rows.
    let joined = if x.pitch == 4 * x.cols { factor } else { 1 };
    let pieces = (0..factor).flat_map(|r| (0..factor).step_by(joined).map(move |c| (r, c)));
    let piece = |(r, c): (usize, usize)| {
        let from = Words {
            address: x.row(r * grid + c),
            pitch: factor as u32 * x.pitch,
            rows: side as u32,
            cols: (joined * cols) as u32,
        };
        let blocks = Blocks {
            count: x.rows as usize / (grid * factor),
            source: (factor * grid) as u64 * u64::from(x.pitch),
            destination: side as u64 * u64::from(to.pitch),
        };
        copy(from, to.columns((r * factor + c) * cols, joined * cols), blocks)
    };
    pieces.map(piece).collect()
}
