//! Operations with their memory, by name: what every device must do to the last bit.
//!
//! A case is a piece of memory, filled with noise and operands, and a stream; the device that is tested and
//! [`PlainDevice`] run it, and all of the piece must be equal, but for bytes that the contract leaves open. So what an
//! operation writes where it should not is seen too.

mod cases;

use smolvla_backend_fpga::descriptor::{Descriptor, Op, padded};
use smolvla_backend_fpga::device::FpgaDevice;
use smolvla_backend_fpga::plain::PlainDevice;

/// Units of the compute unit that have cases, in the order of their operations; `stream` has several in turn.
pub(crate) const UNITS: [&str; 9] =
    ["gemm", "quantise", "norm", "softmax", "activate", "rope", "combine", "copy", "stream"];

/// A named piece of work.
pub(crate) struct Case {
    /// What is special about it.
    pub(crate) name: String,
    /// Where its piece of memory begins.
    pub(crate) base: u64,
    /// What is there before.
    pub(crate) memory: Vec<u8>,
    /// What is done.
    pub(crate) stream: Vec<Descriptor>,
}

/// All cases of a unit of [`UNITS`]; none of another.
pub(crate) fn cases(unit: &str) -> Vec<Case> {
    match unit {
        "gemm" => cases::gemm(),
        "quantise" => cases::quantise(),
        "norm" => cases::norm(),
        "softmax" => cases::softmax(),
        "activate" => cases::activate(),
        "rope" => cases::rope(),
        "combine" => cases::combine(),
        "copy" => cases::copy(),
        "stream" => cases::stream(),
        _ => Vec::new(),
    }
}

/// Memory after the case on the device that defines it.
pub(crate) fn expected(case: &Case) -> Vec<u8> {
    run(case, &PlainDevice::new()).unwrap_or_else(|reason| panic!("{}: {reason}", case.name))
}

/// Memory after the case on a device.
pub(crate) fn run(case: &Case, device: &impl FpgaDevice) -> Result<Vec<u8>, String> {
    let mut memory = case.memory.clone();
    let done = device
        .write(case.base, &memory)
        .and_then(|()| device.run(&case.stream))
        .and_then(|_| device.read(case.base, &mut memory));
    done.map(|()| memory).map_err(|error| error.to_string())
}

/// Where memory differs first, and in how many bytes; `None` where it differs only in what is left open.
pub(crate) fn difference(case: &Case, expected: &[u8], found: &[u8]) -> Option<String> {
    let mut open = vec![false; expected.len()];
    for (start, bytes) in case.stream.iter().flat_map(left_open) {
        let start = (start - case.base) as usize;
        open[start..start + bytes].fill(true);
    }
    // What a later operation writes is not open.
    for (start, bytes) in case.stream.iter().flat_map(written) {
        let start = (start - case.base) as usize;
        open[start..start + bytes].fill(false);
    }
    let wrong: Vec<usize> = (0..open.len()).filter(|i| !open[*i] && expected[*i] != found[*i]).collect();
    let first = *wrong.first()?;
    let word = |memory: &[u8]| {
        let at = first & !3;
        memory.get(at..at + 4).map_or(0, |bytes| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    };
    let (want, got) = (word(expected), word(found));
    let place = case
        .stream
        .iter()
        .enumerate()
        .rev()
        .flat_map(|(i, d)| {
            written(d).into_iter().enumerate().map(move |(row, region)| (i, d.op, row, region))
        })
        .find(|(.., (start, bytes))| (*start..*start + *bytes as u64).contains(&(case.base + first as u64)))
        .map_or_else(
            || "outside of every result".to_owned(),
            |(i, op, row, (start, _))| {
                format!(
                    "{op:?} (descriptor {i}), row {row} of its results, byte {}",
                    case.base + first as u64 - start
                )
            },
        );
    Some(format!(
        "{} of {} bytes differ, first at {:#x}: {want:#010x} ({:e}) expected, {got:#010x} ({:e}) found: {place}",
        wrong.len(),
        open.len(),
        case.base + first as u64,
        f32::from_bits(want),
        f32::from_bits(got),
    ))
}

fn row(start: u64, pitch: u32, row: u32) -> u64 {
    start + u64::from(pitch) * u64::from(row)
}

/// Pieces that an operation defines, a row each.
fn written(d: &Descriptor) -> Vec<(u64, usize)> {
    let rows = |bytes: usize| (0..d.rows).map(move |i| (row(d.destination[0], d.pitch[2], i), bytes));
    let words = d.cols as usize * 4;
    match d.op {
        Op::End => Vec::new(),
        Op::Gemm | Op::Norm | Op::Activate | Op::Combine => rows(words).collect(),
        Op::Rope => rows(words * 2 * d.depth as usize).collect(),
        Op::Copy => (0..u64::from(d.depth))
            .flat_map(|block| {
                rows(words).map(move |(start, bytes)| (start + block * u64::from(d.plane[1]), bytes))
            })
            .collect(),
        Op::Quantise | Op::Softmax => {
            let planes = 1 + u64::from(d.flags.0 & 1);
            let digits = (0..planes).flat_map(|plane| {
                rows(padded(d.cols as usize))
                    .map(move |(start, bytes)| (start + plane * u64::from(d.plane[0]), bytes))
            });
            digits.chain([(d.destination[1], d.rows as usize * 4)]).collect()
        }
    }
}

/// Pieces that an operation may write anything to.
fn left_open(d: &Descriptor) -> Vec<(u64, usize)> {
    if !matches!(d.op, Op::Gemm | Op::Norm | Op::Activate | Op::Combine) {
        return Vec::new();
    }
    let rest = |(start, bytes): (u64, usize)| (start + bytes as u64, bytes.next_multiple_of(64) - bytes);
    written(d).into_iter().map(rest).collect()
}
