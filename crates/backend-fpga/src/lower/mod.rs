//! Operations as descriptors. What is here knows addresses and sizes, and neither memory nor devices.

pub(crate) mod attention;
pub(crate) mod movement;
pub(crate) mod product;
pub(crate) mod rows;

use crate::arith::{DIGIT, TWO_DIGITS};
use crate::descriptor::{Flags, padded, word_pitch};

/// A matrix of words in the card's memory, or a part of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Words {
    pub(crate) address: u64,
    /// Bytes from row to row.
    pub(crate) pitch: u32,
    pub(crate) rows: u32,
    pub(crate) cols: u32,
}

impl Words {
    /// A whole matrix where there is place for [`Words::bytes`], which a bank has: sizes fit in 28 bits.
    pub(crate) fn whole(address: u64, rows: usize, cols: usize) -> Self {
        Self { address, pitch: word_pitch(cols) as u32, rows: rows as u32, cols: cols as u32 }
    }

    /// Bytes of a matrix; `None`: more than can be counted.
    pub(crate) fn bytes(rows: usize, cols: usize) -> Option<usize> {
        cols.checked_mul(4)?.checked_next_multiple_of(64)?.checked_mul(rows)
    }

    /// Where a row begins.
    pub(crate) fn row(self, row: usize) -> u64 {
        self.address + row as u64 * u64::from(self.pitch)
    }

    pub(crate) fn rows(self, start: usize, count: usize) -> Self {
        Self { address: self.row(start), rows: count as u32, ..self }
    }

    pub(crate) fn columns(self, start: usize, count: usize) -> Self {
        Self { address: self.address + 4 * start as u64, cols: count as u32, ..self }
    }

    /// Whether its rows begin where rows are written.
    pub(crate) fn is_aligned(self) -> bool {
        self.address.is_multiple_of(64) && self.pitch.is_multiple_of(64)
    }
}

/// How many digits a number has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Places {
    One,
    Two,
}

impl Places {
    /// Largest number.
    pub(crate) fn target(self) -> i32 {
        match self {
            Self::One => DIGIT,
            Self::Two => TWO_DIGITS,
        }
    }

    /// Planes of digits.
    pub(crate) fn planes(self) -> usize {
        match self {
            Self::One => 1,
            Self::Two => 2,
        }
    }

    /// `flag` where there are two.
    pub(crate) fn flag(self, flag: Flags) -> Flags {
        match self {
            Self::One => Flags(0),
            Self::Two => flag,
        }
    }
}

/// Rows of digits in the card's memory, with their scales.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Digits {
    pub(crate) address: u64,
    pub(crate) scales: u64,
    /// Numbers of a row.
    pub(crate) depth: u32,
    pub(crate) rows: u32,
    /// Bytes from row to row.
    pub(crate) pitch: u32,
    /// Bytes from the first plane to the second.
    pub(crate) plane: u32,
    pub(crate) places: Places,
}

impl Digits {
    /// All rows, where there is place for [`Digits::bytes`].
    pub(crate) fn whole(address: u64, rows: usize, depth: usize, places: Places) -> Self {
        let plane = rows * padded(depth);
        let scales = address + (plane * places.planes()) as u64;
        Self {
            address,
            scales,
            depth: depth as u32,
            rows: rows as u32,
            pitch: padded(depth) as u32,
            plane: plane as u32,
            places,
        }
    }

    /// Bytes of rows and scales, a multiple of 64.
    pub(crate) fn bytes(rows: usize, depth: usize, places: Places) -> Option<usize> {
        let row = depth.checked_next_multiple_of(64)?.checked_mul(places.planes())?.checked_add(4)?;
        row.checked_mul(rows)?.checked_next_multiple_of(64)
    }

    /// Some numbers of each row, from a multiple of 64 on.
    pub(crate) fn columns(self, start: usize, count: usize) -> Self {
        Self { address: self.address + start as u64, depth: count as u32, ..self }
    }

    pub(crate) fn rows(self, start: usize, count: usize) -> Self {
        Self {
            address: self.address + start as u64 * u64::from(self.pitch),
            scales: self.scales + 4 * start as u64,
            rows: count as u32,
            ..self
        }
    }
}
