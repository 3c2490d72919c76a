//! Descriptors through XRT's software emulation and our device process, held to the plain device.

use std::path::Path;
use std::time::Duration;

use libtest_mimic::{Completion, Failed, Trial};
use smolvla_backend_fpga::arith::Scale;
use smolvla_backend_fpga::descriptor::{Descriptor, Flags, Op, padded, word_pitch};
use smolvla_backend_fpga::device::{DeviceError, FpgaDevice};
use smolvla_backend_fpga::plain::PlainDevice;
use smolvla_backend_fpga::xrt::{XrtDevice, XrtOptions};
use smolvla_core::backend::{BackendErrorKind, Execution};

use super::common;
use super::harness::{Answer, DESIGN_VARIABLE, LEAVES_A_RUN, Place, completion};
use super::shim;

const DONE: &str = "done";
/// What the device process says of the device behind it.
const DEVICE: &str = if cfg!(feature = "rtl-sim") { "Verilator" } else { "the definition of its arithmetic" };
/// Cases of each operation that are run.
const CASES: usize = 3;
/// A case is left out if its memory is larger: the design takes a while to simulate.
const LARGEST_CASE_BYTES: usize = 1 << 18;
/// Bytes of a message between XRT and the device process, so that copies take several.
const PACKET: &str = "0x40000";

pub(super) fn trials() -> Vec<Trial> {
    let trial = |name: &str, task: &'static str| {
        Trial::ignorable_test(format!("emulated::{name}"), move || emulate(task))
    };
    vec![
        trial("results_are_those_of_the_plain_device", "emulated"),
        trial("buffers_lie_in_one_bank_of_the_card", "banks"),
        trial("a_run_that_does_not_end_is_an_error", LEAVES_A_RUN),
    ]
}

fn emulate(task: &str) -> Result<Completion, Failed> {
    let place = Place::new(true);
    let root = match place.debian_root() {
        Ok(root) => root,
        Err(reason) => return Ok(Completion::ignored_with(reason)),
    };
    let vitis = place.vitis();
    let variables = [
        ("XILINX_XRT", root.as_path()),
        ("XILINX_VITIS", &vitis),
        ("XCL_EMULATION_MODE", Path::new("sw_emu")),
        ("EMULATION_SOCKETID", Path::new("smolvla")),
        ("SW_EMU_PACKET_SIZE", Path::new(PACKET)),
    ];
    let completion = completion(place.child(task, &variables), DONE)?;
    if matches!(completion, Completion::Completed) && !place.text("stderr").contains(DEVICE) {
        return Err("the device process did not say which device it is".into());
    }
    Ok(completion)
}

/// Opens the emulated card with the emulation library mended; the reason where that cannot be.
fn open(options: XrtOptions) -> Result<XrtDevice, Answer> {
    let variable = |name| std::env::var_os(name).unwrap_or_default();
    shim::mend(Path::new(&variable("XILINX_XRT"))).map_err(Answer::Ignored)?;
    let design = variable(DESIGN_VARIABLE);
    XrtDevice::open_with(0, Path::new(&design), options).map_err(|error| Answer::Said(error.to_string()))
}

/// The child: everything that a card does.
pub(super) fn compute() -> Answer {
    let card = match open(XrtOptions { bank_bytes: Some(1 << 21), ..XrtOptions::default() }) {
        Ok(card) => card,
        Err(answer) => return answer,
    };
    let said = check(&card).map_or_else(|error| error.to_string(), |()| DONE.to_owned());
    Answer::Said(said)
}

fn check(card: &XrtDevice) -> Result<(), DeviceError> {
    let info = card.info();
    assert!(matches!(&info.execution, Execution::Emulated(by) if by.contains("XRT")), "{info:?}");
    assert!(info.driver.as_ref().is_some_and(|driver| driver.starts_with("XRT 2.")), "{info:?}");
    long_copies(card)?;
    let plain = PlainDevice::new();
    let (results, expected) = (compute_on(card)?, compute_on(&plain)?);
    assert!(expected.iter().flatten().any(|byte| *byte != 0));
    assert!(results == expected, "the card's results are not the plain device's");
    cases(card)?;
    long_stream(card)?;
    refusals(card);
    Ok(())
}

/// Copies of many messages, to an odd place.
fn long_copies(card: &XrtDevice) -> Result<(), DeviceError> {
    let bytes: Vec<u8> = (0..1_000_003_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let address = at(9, 4_444);
    card.write(address, &bytes)?;
    let mut back = vec![0; bytes.len()];
    card.read(address, &mut back)?;
    assert!(back == bytes, "a long copy came back changed");
    Ok(())
}

fn at(bank: u64, offset: u64) -> u64 {
    bank << 28 | offset
}

/// Words that are small, of both signs, and not alike.
fn words(count: usize, seed: u32) -> Vec<u8> {
    let word = |i: usize| {
        let hash = (i as u32 ^ seed).wrapping_mul(2_654_435_761).rotate_left(13).wrapping_mul(0x9e37_79b1);
        f32::from((hash >> 16) as i16) / 8192.0
    };
    (0..count).flat_map(|i| word(i).to_le_bytes()).collect()
}

/// A linear layer with a bias, the sum with what it was computed from, and a copy; operands in many banks.
fn compute_on<D: FpgaDevice>(device: &D) -> Result<[Vec<u8>; 3], DeviceError> {
    const ROWS: u32 = 13;
    const INPUTS: usize = 96;
    const OUTPUTS: usize = 96;
    let pitch = word_pitch(OUTPUTS) as u32;
    let digit_pitch = padded(INPUTS) as u32;
    let plane = 0x4000;
    let [x, digits, scales] = [at(0, 0x1000), at(1, 0x40), at(2, 0x8)];
    let [weights, column_scales, bias] = [at(31, 0x200), at(30, 0), at(3, 0x1_0000)];
    let [product, sum, copy] = [at(4, 0), at(0, 0x2_0000), at(17, 0x340)];
    device.write(x, &words(ROWS as usize * INPUTS, 1))?;
    device.write(bias, &words(OUTPUTS, 2))?;
    let panels: Vec<u8> = words(OUTPUTS.div_ceil(16) * 16 * padded(INPUTS), 3)
        .chunks_exact(4)
        .map(|word| ((i32::from(word[2]) - 128).clamp(-127, 127)) as i8 as u8)
        .collect();
    device.write(weights, &panels)?;
    let scale = |i: usize| Scale { mantissa: 4096 + 37 * i as u16, exponent: -40 };
    let columns: Vec<u8> = (0..OUTPUTS).flat_map(|i| scale(i).to_word().to_le_bytes()).collect();
    device.write(column_scales, &columns)?;
    let quantise = Descriptor {
        flags: Flags::TWO_DIGITS,
        rows: ROWS,
        cols: INPUTS as u32,
        source: [x, 0, 0, 0],
        destination: [digits, scales],
        pitch: [word_pitch(INPUTS) as u32, 0, digit_pitch],
        plane: [plane, 0],
        immediate: [0; 2],
        ..Descriptor::new(Op::Quantise)
    };
    let gemm = Descriptor {
        flags: Flags::TWO_DIGITS.and(Flags::BIAS),
        rows: ROWS,
        cols: OUTPUTS as u32,
        depth: INPUTS as u32,
        source: [digits, scales, weights, column_scales],
        destination: [product, bias],
        pitch: [digit_pitch, 0, pitch],
        plane: [plane, 0],
        ..Descriptor::new(Op::Gemm)
    };
    let combine = Descriptor {
        flags: Flags::ADD,
        rows: ROWS,
        cols: OUTPUTS as u32,
        repeat: ROWS,
        source: [product, x, 0, 0],
        destination: [sum, 0],
        pitch: [pitch, pitch, pitch],
        immediate: [0.3_f32.to_bits(), 0],
        ..Descriptor::new(Op::Combine)
    };
    let block = Descriptor {
        rows: ROWS,
        cols: 5,
        depth: 2,
        source: [sum + 8, 0, 0, 0],
        destination: [copy, 0],
        pitch: [pitch, 0, 64],
        plane: [128, 0x2000],
        ..Descriptor::new(Op::Copy)
    };
    device.run(&[quantise, gemm, combine, block])?;
    let read = |address, len: usize| {
        let mut bytes = vec![0; len];
        device.read(address, &mut bytes).map(|()| bytes)
    };
    let matrix = (ROWS * pitch) as usize;
    Ok([read(product, matrix)?, read(sum, matrix)?, read(copy, 20)?])
}

/// Cases of every operation, whose bytes that are not results must stay.
fn cases(card: &XrtDevice) -> Result<(), DeviceError> {
    for unit in common::UNITS {
        let mut cases = common::cases(unit);
        cases.retain(|case| case.memory.len() <= LARGEST_CASE_BYTES);
        assert!(cases.len() >= CASES, "{unit}: {}", cases.len());
        for case in &cases[..CASES] {
            let found =
                common::run(case, card).unwrap_or_else(|reason| panic!("{unit}, {}: {reason}", case.name));
            let difference = common::difference(case, &common::expected(case), &found);
            assert_eq!(difference, None, "{unit}, {}", case.name);
        }
    }
    Ok(())
}

/// Streams longer than the card's buffer for them, and an end before the end.
fn long_stream(card: &XrtDevice) -> Result<(), DeviceError> {
    const COUNT: usize = 33_000;
    let (total, one) = (at(5, 0), at(6, 0));
    card.write(total, &[0; 4])?;
    card.write(one, &1_f32.to_le_bytes())?;
    let increment = Descriptor {
        flags: Flags::ADD.and(Flags::PLAIN),
        rows: 1,
        cols: 1,
        repeat: 1,
        source: [one, total, 0, 0],
        destination: [total, 0],
        pitch: [64; 3],
        ..Descriptor::new(Op::Combine)
    };
    let mut stream = vec![increment; COUNT];
    stream.extend([Descriptor::new(Op::End), increment]);
    let counters = card.run(&stream)?;
    // The simulated design counts, some cycles for each operation; the definition does not.
    let fewest = if cfg!(feature = "rtl-sim") { COUNT as u64 * 4 } else { 0 };
    assert!(counters.cycles >= fewest && (fewest > 0 || counters.cycles == 0), "{counters:?}");
    let mut bytes = [0; 4];
    card.read(total, &mut bytes)?;
    assert_eq!(f32::from_le_bytes(bytes), COUNT as f32);
    Ok(())
}

fn refusals(card: &XrtDevice) {
    let kind = |result: Result<(), DeviceError>| result.unwrap_err().kind;
    assert_eq!(kind(card.write(at(0, (1 << 21) - 1), &[0; 2])), BackendErrorKind::InvalidArgument);
    assert_eq!(kind(card.read(at(32, 0), &mut [0])), BackendErrorKind::InvalidArgument);
    // It would reach beyond the part of a bank that there is.
    let copy = Descriptor {
        rows: 2,
        cols: 1,
        depth: 1,
        source: [at(0, 0), 0, 0, 0],
        destination: [at(1, (1 << 21) - 64), 0],
        pitch: [64, 0, 64],
        ..Descriptor::new(Op::Copy)
    };
    assert_eq!(kind(card.run(&[copy]).map(drop)), BackendErrorKind::InvalidArgument);
}

/// The child: the first two buffers that are as large would be across a bank's end, one after the other.
pub(super) fn banks() -> Answer {
    let card = match open(XrtOptions { bank_bytes: Some(130 << 20), ..XrtOptions::default() }) {
        Ok(card) => card,
        Err(answer) => return answer,
    };
    let last = at(1, (130 << 20) - 4);
    let outcome = [at(0, 0), last].into_iter().zip([b"here", b"last"]).try_for_each(|(address, bytes)| {
        let mut back = [0; 4];
        card.write(address, bytes)?;
        card.read(address, &mut back)?;
        assert_eq!(&back, bytes);
        Ok::<_, DeviceError>(())
    });
    let copy = Descriptor {
        rows: 1,
        cols: 1,
        depth: 1,
        source: [last, 0, 0, 0],
        destination: [at(0, 64), 0],
        pitch: [64; 3],
        ..Descriptor::new(Op::Copy)
    };
    let mut copied = [0; 4];
    let copied = outcome
        .and_then(|()| card.run(&[copy]))
        .and_then(|_| card.read(at(0, 64), &mut copied))
        .map(|()| copied);
    Answer::Said(match copied {
        Ok(bytes) if bytes == *b"last" => DONE.to_owned(),
        other => format!("{other:?}"),
    })
}

/// The child: a run that takes longer than it may, and what is said then.
pub(super) fn time_out() -> Answer {
    let options = XrtOptions { bank_bytes: Some(1 << 21), timeout: Some(Duration::from_millis(100)) };
    let card = match open(options) {
        Ok(card) => card,
        Err(answer) => return answer,
    };
    let slow = Descriptor {
        rows: 256,
        cols: 1024,
        source: [at(0, 0), 0, 0, 0],
        destination: [at(1, 0), 0],
        pitch: [4096, 0, 4096],
        ..Descriptor::new(Op::Combine)
    };
    let first = card.run(&vec![slow; 2_000]);
    let second = card.read(at(0, 0), &mut [0]);
    let said = match (first, second) {
        (Err(first), Err(second))
            if first.kind == BackendErrorKind::Timeout && second.kind == BackendErrorKind::DeviceLost =>
        {
            DONE.to_owned()
        }
        other => format!("{other:?}"),
    };
    Answer::Said(said)
}
