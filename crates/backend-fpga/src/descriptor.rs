//! What the host asks of a compute unit: one descriptor an operation, 128 bytes, the same for every device.
//!
//! A stream of descriptors lies in the card's memory; a compute unit's sequencer reads it and does one after the
//! other. An operation's results are in memory before the next one begins, so a stream needs no other order.
//!
//! # In memory
//! - **Words**: activations and parameters of norms, binary32, row-major. A row begins at a multiple of 4 bytes where it
//!   is read (`source`) and, but for [`Op::Copy`] and [`Op::Rope`], at a multiple of 64 bytes where it is written. What lies
//!   between the end of a row and the next multiple of 64 bytes is not written by `Copy` and `Rope`, and may be
//!   overwritten with anything by the others.
//! - **Digits**: int8 rows of `depth` rounded up to 64 bytes ([`padded`]), the rest zeros; rows begin at multiples of
//!   64 bytes. A 16-bit number has two planes of digits, the high one first ([`crate::arith::digits`]).
//! - **Panels**: prepared weights `[outputs, inputs]`. Panel `p` holds outputs `16·p..16·p + 16`; a plane of it is
//!   `padded(inputs) / 8` times 128 bytes, of which byte `8·c + k` of the `i`th is the digit of output `16·p + c`, input
//!   `8·i + k`. Outputs and inputs that there are not are zeros.
//! - **Scales**: words of [`crate::arith::Scale`], one a row or a column; an array may begin at any multiple of 4 bytes.

/// What an operation does. The fields of [`Descriptor`] that it reads are listed with it; the others are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Op {
    /// Ends a stream.
    End = 0,
    /// `[rows, depth] · [cols, depth]ᵀ` to words `[rows, cols]`, by [`crate::arith::requantise`].
    ///
    /// `source[0]` digits of the activations, row pitch `pitch[0]`, second plane `plane[0]` bytes after the first
    /// ([`Flags::TWO_DIGITS`]); `source[1]` their scales `[rows]`; `source[2]` the weights: panels, or with
    /// [`Flags::ROWS`] digit rows of pitch `pitch[1]`, and with [`Flags::TWO_DIGIT_WEIGHTS`] two planes, the
    /// second `plane[1]` bytes after the first (panels: inside each panel, one plane after the other); `source[3]` scales
    /// `[cols]`, and with [`Flags::BIAS`] `destination[1]` (read, not written) bias words `[cols]`;
    /// `destination[0]` words, row pitch `pitch[2]`.
    Gemm = 1,
    /// Words `[rows, cols]` to digits and scales, row by row, by [`crate::arith::quantise`].
    ///
    /// `source[0]`, pitch `pitch[0]`; with [`Flags::TRANSPOSE`] row `i` is column `i` of the words `[cols, rows]` there,
    /// whose pitch is a multiple of 64 and `source[0]` too. `destination[0]` digits of pitch `pitch[2]`, second plane
    /// `plane[0]` after it with [`Flags::TWO_DIGITS`]; `destination[1]` scales `[rows]`.
    Quantise = 2,
    /// [`crate::arith::norm`] of each row. `source[0]` of pitch `pitch[0]`, `source[1]` gain, with [`Flags::BIAS`]
    /// (LayerNorm) `source[2]` bias; `immediate[0]` epsilon as a word; `destination[0]` of pitch `pitch[2]`.
    Norm = 3,
    /// [`crate::arith::softmax`] of each row. `source[0]` scores `[rows, cols]` of pitch `pitch[0]`; with
    /// [`Flags::MASK`] `source[1]` bytes `[repeat, cols]` of pitch `pitch[1]` (a multiple of 64; row `r` has mask row `r % repeat`);
    /// `immediate[0]` the factor as a word, `immediate[1]` the weights' target; digits and scales as in
    /// [`Op::Quantise`].
    Softmax = 4,
    /// [`crate::arith::activate`] of words `[rows, cols]`, by SiLU or with [`Flags::GELU`] by GELU's gate; with
    /// [`Flags::MULTIPLY`] times the word `source[1]` of the same pitch: `source[0]` and `pitch[0]`, `destination[0]`
    /// and `pitch[2]`.
    Activate = 5,
    /// [`crate::arith::rotate`] of words `[rows, heads · 2 · half]` in each head's halves. `source[0]` of pitch
    /// `pitch[0]`; `source[1]` cosines and `source[2]` sines, `[repeat, half]` of pitch `pitch[1]` (row `r` has table row
    /// `r % repeat`); `cols` is `half`, `depth` the heads; `destination[0]` of pitch `pitch[2]`.
    Rope = 6,
    /// Words `[rows, cols]`: `alpha · x`, or with [`Flags::ADD`] `y + alpha · x`, or with [`Flags::ADD`] and
    /// [`Flags::PLAIN`] `y + x`. `source[0]` is `x` of pitch `pitch[0]`, `source[1]` is `y` `[repeat, cols]` of pitch
    /// `pitch[1]`, `immediate[0]` alpha as a word; `destination[0]` of pitch `pitch[2]`.
    Combine = 7,
    /// Copies words bit by bit: `depth` blocks of `[rows, cols]`, `plane[0]` bytes apart in the source and `plane[1]` in the
    /// destination; `source[0]`, `pitch[0]`, `destination[0]`, `pitch[2]`.
    Copy = 8,
}

/// What changes an operation; see [`Op`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Flags(pub u32);

impl Flags {
    /// Activations (or results) in two digits.
    pub const TWO_DIGITS: Self = Self(1);
    /// Weights in two digits.
    pub const TWO_DIGIT_WEIGHTS: Self = Self(1 << 1);
    /// With a bias.
    pub const BIAS: Self = Self(1 << 2);
    /// Weights as digit rows.
    pub const ROWS: Self = Self(1 << 3);
    /// Rows are columns of the source.
    pub const TRANSPOSE: Self = Self(1 << 4);
    /// With a mask.
    pub const MASK: Self = Self(1 << 5);
    /// GELU.
    pub const GELU: Self = Self(1 << 6);
    /// Times another operand.
    pub const MULTIPLY: Self = Self(1 << 7);
    /// Plus another operand.
    pub const ADD: Self = Self(1 << 8);
    /// Without the factor.
    pub const PLAIN: Self = Self(1 << 9);

    /// Both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `other` are set.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// One operation. Addresses are bytes in the card's memory, pitches and planes bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Descriptor {
    /// What is done.
    pub op: Op,
    /// How.
    pub flags: Flags,
    /// Rows of the result.
    pub rows: u32,
    /// Columns of the result.
    pub cols: u32,
    /// Inner dimension, or what [`Op`] says.
    pub depth: u32,
    /// Rows after which a smaller operand begins again.
    pub repeat: u32,
    /// Operands.
    pub source: [u64; 4],
    /// Results.
    pub destination: [u64; 2],
    /// From row to row: of the first operand, the second, the result.
    pub pitch: [u32; 3],
    /// From plane to plane, or block to block.
    pub plane: [u32; 2],
    /// Constants.
    pub immediate: [u32; 2],
}

impl Descriptor {
    /// Bytes of a descriptor in memory.
    pub const BYTES: usize = 128;

    /// An operation with every field zero.
    pub const fn new(op: Op) -> Self {
        Self {
            op,
            flags: Flags(0),
            rows: 0,
            cols: 0,
            depth: 0,
            repeat: 0,
            source: [0; 4],
            destination: [0; 2],
            pitch: [0; 3],
            plane: [0; 2],
            immediate: [0; 2],
        }
    }

    /// As it lies in memory, little-endian: `op` and `flags << 8` at byte 0, `rows` 4, `cols` 8, `depth` 12, `source`
    /// 16, 24, 32, 40, `destination` 48, 56, `pitch` 64, 68, 72, `repeat` 76, `plane` 80, 84, `immediate` 88, 92; zeros up to 128.
    pub fn to_bytes(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        let mut at = 0;
        let mut put = |value: &[u8]| {
            bytes[at..at + value.len()].copy_from_slice(value);
            at += value.len();
        };
        put(&(self.op as u32 | self.flags.0 << 8).to_le_bytes());
        for word in [self.rows, self.cols, self.depth] {
            put(&word.to_le_bytes());
        }
        for address in self.source.iter().chain(&self.destination) {
            put(&address.to_le_bytes());
        }
        let words = self.pitch.iter().chain([&self.repeat]).chain(&self.plane).chain(&self.immediate);
        for word in words {
            put(&word.to_le_bytes());
        }
        bytes
    }
}

/// Digits of a row in memory: a multiple of 64.
pub const fn padded(depth: usize) -> usize {
    depth.next_multiple_of(64)
}

/// Bytes of a row of words that begins where rows are written.
pub const fn word_pitch(cols: usize) -> usize {
    (cols * 4).next_multiple_of(64)
}

/// Banks of the card's memory: pseudo-channels of the U280's HBM.
pub const BANKS: usize = 32;
/// Bits of an address inside a bank.
pub const BANK_BITS: u32 = 28;

/// Rows of a tile: 50 actions are five of them.
pub const TILE_ROWS: usize = 10;
/// Columns of a tile and of a panel.
pub const TILE_COLS: usize = 16;
/// Products of a column that are added in a cycle.
pub const TILE_DEPTH: usize = 8;
/// Words of 8 digits that a row bank of the activation buffer holds: `⌈rows/10⌉ · padded(depth)/8 · planes` at most.
pub const ACTIVATION_WORDS: usize = 16_384;
/// Words of 128 digits that each half of the weight buffer holds: `padded(depth)/8 · planes` at most.
pub const WEIGHT_WORDS: usize = 2_048;
/// Words of a row that the vector unit's row buffer holds: `cols` of quantiser, norm and softmax at most.
pub const ROW_WORDS: usize = 16_384;
/// As many rows as columns are quantised at a time with [`Flags::TRANSPOSE`]; `cols` at most of them.
pub const TRANSPOSED_WORDS: usize = ROW_WORDS / TILE_COLS;
