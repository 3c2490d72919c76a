//! What a descriptor must be for a device to take it.

use smolvla_core::backend::BackendErrorKind;

use crate::arith::{DIGIT, TWO_DIGITS};
use crate::descriptor::{
    ACTIVATION_WORDS, BANK_BITS, BANKS, Descriptor, Flags, Op, ROW_WORDS, TILE_COLS, TILE_DEPTH, TILE_ROWS,
    TRANSPOSED_WORDS, WEIGHT_WORDS, padded,
};
use crate::device::DeviceError;

/// What an operation touches: `blocks` blocks of `rows` rows of `bytes` bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Region {
    /// What it is, for messages.
    name: &'static str,
    pub(crate) start: u64,
    blocks: u64,
    plane: u64,
    rows: u64,
    pitch: u64,
    bytes: u64,
    /// Rows begin at multiples of so many bytes.
    alignment: u64,
    /// Also touched up to the next multiple of 64 bytes.
    rounded: bool,
}

impl Region {
    fn array(name: &'static str, start: u64, bytes: u64, alignment: u64) -> Self {
        Self { name, start, blocks: 1, plane: 0, rows: 1, pitch: 0, bytes, alignment, rounded: false }
    }

    fn matrix(name: &'static str, start: u64, rows: u32, pitch: u32, bytes: u64, alignment: u64) -> Self {
        Self { rows: rows.into(), pitch: pitch.into(), ..Self::array(name, start, bytes, alignment) }
    }

    fn rounded(self) -> Self {
        Self { rounded: true, ..self }
    }

    fn row_extent(&self) -> u64 {
        if self.rounded { self.bytes.next_multiple_of(64) } else { self.bytes }
    }

    /// Bytes from the first to the last, or more than there are.
    pub(crate) fn extent(&self) -> u64 {
        let rows = (self.rows - 1).saturating_mul(self.pitch);
        let blocks = (self.blocks - 1).saturating_mul(self.plane);
        rows.saturating_add(blocks).saturating_add(self.row_extent())
    }

    fn check(&self) -> Result<(), DeviceError> {
        let Self { name, start, alignment, .. } = *self;
        if !start.is_multiple_of(alignment)
            || self.rows > 1 && !self.pitch.is_multiple_of(alignment)
            || self.blocks > 1 && !self.plane.is_multiple_of(alignment)
        {
            return Err(refused(format!(
                "{name} at {start:#x}, pitch {}, do not lie at multiples of {alignment} bytes",
                self.pitch
            )));
        }
        if self.rows > 1 && self.pitch < self.row_extent() {
            return Err(refused(format!(
                "{name} have rows of {} bytes and a pitch of {}",
                self.bytes, self.pitch
            )));
        }
        let bank = 1 << BANK_BITS;
        if start >> BANK_BITS >= BANKS as u64 || (start % bank).saturating_add(self.extent()) > bank {
            return Err(refused(format!(
                "{name} at {start:#x}, {} bytes, are not in one bank",
                self.extent()
            )));
        }
        Ok(())
    }

    /// Whether some byte is in both; also said of some where only the spans cross.
    fn overlaps(&self, other: &Self) -> bool {
        if self.start + self.extent() <= other.start || other.start + other.extent() <= self.start {
            return false;
        }
        // More blocks than any operation has are not told apart.
        self.blocks * other.blocks > 1 << 16
            || (0..self.blocks)
                .any(|a| (0..other.blocks).any(|b| self.block(a).block_overlaps(&other.block(b))))
    }

    fn block(&self, index: u64) -> Self {
        Self { start: self.start + index * self.plane, blocks: 1, ..*self }
    }

    fn block_overlaps(&self, other: &Self) -> bool {
        let (a, b) = if self.start <= other.start { (self, other) } else { (other, self) };
        if a.start + a.extent() <= b.start {
            return false;
        }
        // Columns of one matrix, side by side.
        let pitch = a.pitch.max(b.pitch);
        let same = [a, b].iter().all(|region| region.rows == 1 || region.pitch == pitch);
        let at = (b.start - a.start) % pitch.max(1);
        !(same && pitch > 0 && at >= a.row_extent() && at + b.row_extent() <= pitch)
    }

    /// Whether each element lies where the other has it.
    fn is(&self, other: &Self) -> bool {
        (self.start, self.rows, self.bytes) == (other.start, other.rows, other.bytes)
            && (self.rows == 1 || self.pitch == other.pitch)
            && self.blocks == 1
            && other.blocks == 1
    }
}

/// What a descriptor reads and writes.
#[derive(Debug, Default)]
pub(crate) struct Operands {
    pub(crate) reads: Vec<Region>,
    pub(crate) writes: Vec<Region>,
}

fn refused(message: String) -> DeviceError {
    DeviceError { kind: BackendErrorKind::InvalidArgument, message }
}

impl Descriptor {
    /// Refuses what is not as [`Op`] says or larger than a compute unit's buffers.
    ///
    /// # Errors
    /// [`BackendErrorKind::InvalidArgument`], with what is wrong.
    pub fn check(&self) -> Result<(), DeviceError> {
        self.check_inner().map_err(|error| DeviceError {
            message: format!(
                "{:?} {} × {} × {}: {}",
                self.op, self.rows, self.cols, self.depth, error.message
            ),
            ..error
        })
    }

    fn check_inner(&self) -> Result<(), DeviceError> {
        let known = match self.op {
            Op::End | Op::Rope | Op::Copy => Flags(0),
            Op::Gemm => Flags::TWO_DIGITS.and(Flags::TWO_DIGIT_WEIGHTS).and(Flags::BIAS).and(Flags::ROWS),
            Op::Quantise => Flags::TWO_DIGITS.and(Flags::TRANSPOSE),
            Op::Norm => Flags::BIAS,
            Op::Softmax => Flags::TWO_DIGITS.and(Flags::MASK),
            Op::Activate => Flags::GELU.and(Flags::MULTIPLY),
            Op::Combine => Flags::ADD.and(Flags::PLAIN),
        };
        if !known.has(self.flags) {
            return Err(refused(format!("it has no flags {:#x}", self.flags.0 & !known.0)));
        }
        if self.op == Op::End {
            return Ok(());
        }
        let has_depth = matches!(self.op, Op::Gemm | Op::Rope | Op::Copy);
        if self.rows == 0 || self.cols == 0 || has_depth && self.depth == 0 {
            return Err(refused("nothing to do".to_owned()));
        }
        let repeats = match self.op {
            Op::Softmax => self.flags.has(Flags::MASK),
            Op::Combine => self.flags.has(Flags::ADD),
            op => op == Op::Rope,
        };
        if repeats && self.repeat == 0 {
            return Err(refused("an operand of no rows".to_owned()));
        }
        self.check_sizes()?;
        let operands = self.operands();
        operands.reads.iter().chain(&operands.writes).try_for_each(Region::check)?;
        for (i, write) in operands.writes.iter().enumerate() {
            if write.blocks > 1 && write.block(0).block_overlaps(&write.block(1)) {
                return Err(refused(format!("blocks of {} overlap", write.name)));
            }
            let in_place = matches!(self.op, Op::Activate | Op::Combine);
            let hit = operands
                .reads
                .iter()
                .filter(|read| !(in_place && write.is(read)))
                .chain(&operands.writes[..i])
                .find(|other| write.overlaps(other));
            if let Some(hit) = hit {
                return Err(refused(format!("{} would overwrite {}", write.name, hit.name)));
            }
        }
        Ok(())
    }

    /// Against the buffers of a compute unit.
    fn check_sizes(&self) -> Result<(), DeviceError> {
        let too_long = |cols: u32, most: usize| {
            (cols as usize > most).then(|| refused(format!("a row of {cols} words; at most {most}")))
        };
        let error = match self.op {
            Op::Gemm => {
                if self.depth as usize > WEIGHT_WORDS * TILE_DEPTH {
                    return Err(refused(format!("depth {} is too large", self.depth)));
                }
                let words = padded(self.depth as usize) / TILE_DEPTH;
                let weights = words * self.weight_planes();
                let activations = (self.rows as usize).div_ceil(TILE_ROWS) * words * self.planes();
                if weights > WEIGHT_WORDS {
                    Some(refused(format!("{weights} words of weights a panel; at most {WEIGHT_WORDS}")))
                } else {
                    (activations > ACTIVATION_WORDS).then(|| {
                        refused(format!("{activations} words of activations; at most {ACTIVATION_WORDS}"))
                    })
                }
            }
            Op::Quantise if self.flags.has(Flags::TRANSPOSE) => too_long(self.cols, TRANSPOSED_WORDS),
            Op::Softmax if ![DIGIT as u32, TWO_DIGITS as u32].contains(&self.immediate[1]) => Some(refused(
                format!("values of {} at most are neither one nor two digits", self.immediate[1]),
            )),
            Op::Quantise | Op::Norm | Op::Softmax => too_long(self.cols, ROW_WORDS),
            Op::Rope => {
                // Each half of a head begins a beat of the row buffer.
                let halves = u64::from(self.depth).saturating_mul(2);
                let words = u64::from(self.cols).next_multiple_of(TILE_COLS as u64).saturating_mul(halves);
                (words > ROW_WORDS as u64)
                    .then(|| refused(format!("a row of {words} words; the vector unit holds {ROW_WORDS}")))
            }
            Op::Combine if self.flags == Flags::PLAIN => {
                Some(refused("without factor and sum it is a copy".to_owned()))
            }
            _ => None,
        };
        error.map_or(Ok(()), Err)
    }

    /// Planes of activations or results.
    pub(crate) fn planes(&self) -> usize {
        1 + usize::from(self.flags.has(Flags::TWO_DIGITS))
    }

    /// Planes of weights.
    pub(crate) fn weight_planes(&self) -> usize {
        1 + usize::from(self.flags.has(Flags::TWO_DIGIT_WEIGHTS))
    }

    /// What it reads and writes, where there is something to do.
    pub(crate) fn operands(&self) -> Operands {
        let Self { rows, cols, depth, source, destination, pitch, .. } = *self;
        let words = u64::from(cols) * 4;
        let [first, second, result] = pitch;
        let flag = |flag| self.flags.has(flag);
        let repeated = self.repeat.min(rows).max(1);
        let planes = |name, start: u64, rows: u32, pitch: u32, depth: u32, plane: u32, count: usize| {
            let at = move |i| start.saturating_add(u64::from(plane) * i);
            let digits = padded(depth as usize) as u64;
            (0..count as u64).map(move |i| Region::matrix(name, at(i), rows, pitch, digits, 64))
        };
        let source_words = || Region::matrix("words", source[0], rows, first, words, 4);
        let result_words = || Region::matrix("results", destination[0], rows, result, words, 64).rounded();
        let mut operands = Operands::default();
        let Operands { reads, writes } = &mut operands;
        match self.op {
            Op::End => {}
            Op::Gemm => {
                let activations =
                    planes("activations", source[0], rows, first, depth, self.plane[0], self.planes());
                reads.extend(activations);
                reads.push(Region::array("scales", source[1], u64::from(rows) * 4, 4));
                if flag(Flags::ROWS) {
                    let count = self.weight_planes();
                    reads.extend(planes("weights", source[2], cols, second, depth, self.plane[1], count));
                } else {
                    let panels = (cols as usize).div_ceil(TILE_COLS) * self.weight_planes();
                    let bytes = panels * padded(depth as usize) * TILE_COLS;
                    reads.push(Region::array("panels", source[2], bytes as u64, 64));
                }
                reads.push(Region::array("column scales", source[3], words, 4));
                if flag(Flags::BIAS) {
                    reads.push(Region::array("bias", destination[1], words, 4));
                }
                writes.push(result_words());
            }
            Op::Quantise | Op::Softmax => {
                if flag(Flags::TRANSPOSE) {
                    reads.push(Region::matrix("words", source[0], cols, first, u64::from(rows) * 4, 64));
                } else {
                    reads.push(source_words());
                }
                if flag(Flags::MASK) {
                    reads.push(Region::matrix("mask", source[1], repeated, second, cols.into(), 64));
                }
                writes.extend(planes(
                    "digits",
                    destination[0],
                    rows,
                    result,
                    cols,
                    self.plane[0],
                    self.planes(),
                ));
                writes.push(Region::array("scales", destination[1], u64::from(rows) * 4, 4));
            }
            Op::Norm => {
                reads.extend([source_words(), Region::array("gain", source[1], words, 4)]);
                if flag(Flags::BIAS) {
                    reads.push(Region::array("bias", source[2], words, 4));
                }
                writes.push(result_words());
            }
            Op::Activate => {
                reads.push(source_words());
                if flag(Flags::MULTIPLY) {
                    reads.push(Region::matrix("factors", source[1], rows, first, words, 4));
                }
                writes.push(result_words());
            }
            Op::Rope => {
                let bytes = words * 2 * u64::from(depth);
                reads.push(Region::matrix("words", source[0], rows, first, bytes, 4));
                reads.push(Region::matrix("cosines", source[1], repeated, second, words, 4));
                reads.push(Region::matrix("sines", source[2], repeated, second, words, 4));
                writes.push(Region::matrix("results", destination[0], rows, result, bytes, 4));
            }
            Op::Combine => {
                reads.push(source_words());
                if flag(Flags::ADD) {
                    reads.push(Region::matrix("summands", source[1], repeated, second, words, 4));
                }
                writes.push(result_words());
            }
            Op::Copy => {
                let blocks = |region: Region, plane: u32| Region {
                    blocks: depth.into(),
                    plane: plane.into(),
                    ..region
                };
                reads.push(blocks(source_words(), self.plane[0]));
                let results = Region::matrix("results", destination[0], rows, result, words, 4);
                writes.push(blocks(results, self.plane[1]));
            }
        }
        operands
    }
}

#[cfg(test)]
mod tests;
