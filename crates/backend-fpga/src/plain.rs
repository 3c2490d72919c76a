//! The device to which the others are held: one element after the other, by [`crate::arith`].

use std::sync::{Mutex, MutexGuard, PoisonError};

use smolvla_core::backend::Execution;

use crate::arith::{
    BASE, DIGIT, GELU_GATE, SIGMOID, Scale, TWO_DIGITS, activate, add, digits, multiply, norm, quantise,
    requantise, rotate, softmax,
};
use crate::descriptor::{Descriptor, Flags, Op, TILE_COLS, TILE_DEPTH, padded};
use crate::device::{Counters, DeviceError, DeviceInfo, FpgaDevice};
use crate::memory::Memory;

/// Runs descriptors as their documentation reads. Slow.
#[derive(Debug)]
pub struct PlainDevice {
    memory: Mutex<Memory>,
}

impl PlainDevice {
    /// With nothing in its memory.
    pub fn new() -> Self {
        Self { memory: Mutex::new(Memory::new()) }
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for PlainDevice {
    fn default() -> Self {
        Self::new()
    }
}

impl FpgaDevice for PlainDevice {
    fn info(&self) -> DeviceInfo {
        let execution =
            Execution::Emulated("the definition of its arithmetic, one number at a time".to_owned());
        DeviceInfo { name: "AMD Alveo U280".to_owned(), driver: None, execution }
    }

    fn write(&self, address: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        self.memory().write(address, bytes)
    }

    fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.memory().read(address, bytes)
    }

    fn run(&self, stream: &[Descriptor]) -> Result<Counters, DeviceError> {
        let mut memory = self.memory();
        for descriptor in stream {
            memory.prepare(descriptor)?;
            if descriptor.op == Op::End {
                break;
            }
            execute(&mut memory, descriptor);
        }
        Ok(Counters::default())
    }
}

fn execute(memory: &mut Memory, d: &Descriptor) {
    match d.op {
        Op::End => {}
        Op::Gemm => gemm(memory, d),
        Op::Quantise => quantise_rows(memory, d),
        Op::Norm => norm_rows(memory, d),
        Op::Softmax => softmax_rows(memory, d),
        Op::Activate => activate_rows(memory, d),
        Op::Rope => rope_rows(memory, d),
        Op::Combine => combine_rows(memory, d),
        Op::Copy => copy_blocks(memory, d),
    }
}

/// Address of a row.
fn row_at(start: u64, pitch: u32, row: u32) -> u64 {
    start + u64::from(pitch) * u64::from(row)
}

fn gemm(memory: &mut Memory, d: &Descriptor) {
    let depth = padded(d.depth as usize);
    let (planes, weight_planes) = (d.planes(), d.weight_planes());
    let activation = |memory: &Memory, row: u32, plane: usize, k: usize| {
        let at = row_at(d.source[0], d.pitch[0], row) + plane as u64 * u64::from(d.plane[0]) + k as u64;
        i64::from(memory.bytes(at, 1)[0] as i8)
    };
    let weight = |memory: &Memory, col: u32, plane: usize, k: usize| {
        let at = if d.flags.has(Flags::ROWS) {
            row_at(d.source[2], d.pitch[1], col) + plane as u64 * u64::from(d.plane[1]) + k as u64
        } else {
            let (panel, c) = (col as usize / TILE_COLS, col as usize % TILE_COLS);
            let plane = (panel * weight_planes + plane) * depth * TILE_COLS;
            let group = k / TILE_DEPTH * TILE_DEPTH * TILE_COLS;
            d.source[2] + (plane + group + TILE_DEPTH * c + k % TILE_DEPTH) as u64
        };
        i64::from(memory.bytes(at, 1)[0] as i8)
    };
    let columns: Vec<Scale> = memory.scales(d.source[3], d.cols as usize).collect();
    let rows: Vec<Scale> = memory.scales(d.source[1], d.rows as usize).collect();
    let bias: Option<Vec<f32>> =
        d.flags.has(Flags::BIAS).then(|| memory.words(d.destination[1], d.cols as usize).collect());
    for row in 0..d.rows {
        let mut results = Vec::with_capacity(d.cols as usize);
        for col in 0..d.cols {
            let mut sum = 0;
            for plane in 0..planes {
                for weight_plane in 0..weight_planes {
                    let dot: i64 = (0..depth)
                        .map(|k| activation(memory, row, plane, k) * weight(memory, col, weight_plane, k))
                        .sum();
                    let places = planes - 1 - plane + weight_planes - 1 - weight_plane;
                    sum += dot * i64::from(BASE).pow(places as u32);
                }
            }
            let bias = bias.as_ref().map(|bias| bias[col as usize]);
            let (row, column) = (rows[row as usize], columns[col as usize]);
            results.push(requantise(sum, row, column, weight_planes == 2, bias));
        }
        memory.set_words(row_at(d.destination[0], d.pitch[2], row), &results);
    }
}

/// A row of digits, its planes and its scale.
fn set_digits(memory: &mut Memory, d: &Descriptor, row: u32, values: &[i32], scale: Scale) {
    let start = row_at(d.destination[0], d.pitch[2], row);
    let width = padded(values.len());
    for plane in 0..d.planes() {
        let bytes = memory.bytes_mut(start + plane as u64 * u64::from(d.plane[0]), width);
        bytes.fill(0);
        for (byte, q) in bytes.iter_mut().zip(values) {
            let digit = match (d.planes(), plane) {
                (1, _) => *q as i8,
                (_, 0) => digits(*q).0,
                _ => digits(*q).1,
            };
            *byte = digit as u8;
        }
    }
    memory.set_scale(d.destination[1] + 4 * u64::from(row), scale);
}

/// The largest number in the digits of a result.
pub(crate) fn target(d: &Descriptor) -> i32 {
    if d.flags.has(Flags::TWO_DIGITS) { TWO_DIGITS } else { DIGIT }
}

fn quantise_rows(memory: &mut Memory, d: &Descriptor) {
    for row in 0..d.rows {
        let words: Vec<f32> = if d.flags.has(Flags::TRANSPOSE) {
            (0..d.cols)
                .flat_map(|j| memory.words(row_at(d.source[0], d.pitch[0], j) + 4 * u64::from(row), 1))
                .collect()
        } else {
            memory.words(row_at(d.source[0], d.pitch[0], row), d.cols as usize).collect()
        };
        let (values, scale) = quantise(&words, target(d));
        set_digits(memory, d, row, &values, scale);
    }
}

fn norm_rows(memory: &mut Memory, d: &Descriptor) {
    let cols = d.cols as usize;
    let gain: Vec<f32> = memory.words(d.source[1], cols).collect();
    let bias: Option<Vec<f32>> = d.flags.has(Flags::BIAS).then(|| memory.words(d.source[2], cols).collect());
    for row in 0..d.rows {
        let words: Vec<f32> = memory.words(row_at(d.source[0], d.pitch[0], row), cols).collect();
        let results = norm(&words, &gain, bias.as_deref(), f32::from_bits(d.immediate[0]));
        memory.set_words(row_at(d.destination[0], d.pitch[2], row), &results);
    }
}

fn softmax_rows(memory: &mut Memory, d: &Descriptor) {
    let cols = d.cols as usize;
    for row in 0..d.rows {
        let words: Vec<f32> = memory.words(row_at(d.source[0], d.pitch[0], row), cols).collect();
        let mask = d
            .flags
            .has(Flags::MASK)
            .then(|| memory.bytes(row_at(d.source[1], d.pitch[1], row % d.repeat), cols));
        let factor = f32::from_bits(d.immediate[0]);
        let (values, scale) = softmax(&words, mask, factor, target(d), d.immediate[1] as i32);
        set_digits(memory, d, row, &values, scale);
    }
}

fn activate_rows(memory: &mut Memory, d: &Descriptor) {
    let cols = d.cols as usize;
    let gate = if d.flags.has(Flags::GELU) { &GELU_GATE } else { &SIGMOID };
    for row in 0..d.rows {
        let words = memory.words(row_at(d.source[0], d.pitch[0], row), cols).map(|x| activate(x, gate));
        let results: Vec<f32> = if d.flags.has(Flags::MULTIPLY) {
            let factors = memory.words(row_at(d.source[1], d.pitch[0], row), cols);
            words.zip(factors).map(|(x, y)| multiply(x, y)).collect()
        } else {
            words.collect()
        };
        memory.set_words(row_at(d.destination[0], d.pitch[2], row), &results);
    }
}

fn rope_rows(memory: &mut Memory, d: &Descriptor) {
    let (half, heads) = (d.cols as usize, d.depth as usize);
    for row in 0..d.rows {
        let mut words: Vec<f32> =
            memory.words(row_at(d.source[0], d.pitch[0], row), heads * 2 * half).collect();
        let table = |start| memory.words(row_at(start, d.pitch[1], row % d.repeat), half);
        let angles: Vec<(f32, f32)> = table(d.source[1]).zip(table(d.source[2])).collect();
        for head in words.chunks_exact_mut(2 * half) {
            let (first, second) = head.split_at_mut(half);
            for ((x1, x2), (cos, sin)) in first.iter_mut().zip(second).zip(&angles) {
                (*x1, *x2) = rotate(*x1, *x2, *cos, *sin);
            }
        }
        memory.set_words(row_at(d.destination[0], d.pitch[2], row), &words);
    }
}

fn combine_rows(memory: &mut Memory, d: &Descriptor) {
    let cols = d.cols as usize;
    let alpha = f32::from_bits(d.immediate[0]);
    for row in 0..d.rows {
        let words = memory
            .words(row_at(d.source[0], d.pitch[0], row), cols)
            .map(|x| if d.flags.has(Flags::PLAIN) { x } else { multiply(alpha, x) });
        let results: Vec<f32> = if d.flags.has(Flags::ADD) {
            let summands = memory.words(row_at(d.source[1], d.pitch[1], row % d.repeat), cols);
            summands.zip(words).map(|(y, x)| add(y, x)).collect()
        } else {
            words.collect()
        };
        memory.set_words(row_at(d.destination[0], d.pitch[2], row), &results);
    }
}

fn copy_blocks(memory: &mut Memory, d: &Descriptor) {
    let bytes = d.cols as usize * 4;
    for block in 0..u64::from(d.depth) {
        for row in 0..d.rows {
            let from = row_at(d.source[0] + block * u64::from(d.plane[0]), d.pitch[0], row);
            let to = row_at(d.destination[0] + block * u64::from(d.plane[1]), d.pitch[2], row);
            let row = memory.bytes(from, bytes).to_vec();
            memory.bytes_mut(to, bytes).copy_from_slice(&row);
        }
    }
}
