//! Forms of `smolvla_backend_fpga::cycles` against the counters of the simulated design: equal to the cycle, for every operation
//! alone in a stream.
#![cfg(feature = "rtl-sim")]

use smolvla_backend_fpga::cycles;
use smolvla_backend_fpga::descriptor::{Descriptor, Flags, Op, padded, word_pitch};
use smolvla_backend_fpga::device::FpgaDevice;
use smolvla_backend_fpga::rtl::RtlDevice;

/// Where operands and results lie in the first bank.
const SOURCES: [u64; 4] = [0, 0x100_0000, 0x200_0000, 0x300_0000];
const BIAS: u64 = 0x340_0000;
const RESULT: u64 = 0x800_0000;
const SCALES: u64 = 0xc00_0000;

/// A device whose first bank has words that differ, so that norms take all their passes.
fn device() -> RtlDevice {
    let device = RtlDevice::new().unwrap();
    let mut state = 12_345_u32;
    let mut word = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        ((state >> 8) as f32 / (1 << 24) as f32 - 0.5).to_le_bytes()
    };
    for source in SOURCES {
        let bytes: Vec<u8> = (0..1 << 20).flat_map(|_| word()).collect();
        device.write(source, &bytes).unwrap();
    }
    device
}

fn check(cases: impl IntoIterator<Item = Descriptor>) {
    let device = device();
    let mut checked = 0;
    for d in cases {
        let before = device.usage();
        device.run(&[d]).unwrap();
        let usage = device.usage();
        let cost = cycles::of(&d);
        assert_eq!(usage.of(d.op) - before.of(d.op), cost.cycles, "{d:?}");
        assert_eq!(usage.beats_written - before.beats_written, cost.beats_written, "{d:?}");
        // Descriptors are read as well, sixteen at once.
        assert_eq!(usage.beats_read - before.beats_read - 32, cost.beats_read, "{d:?}");
        assert_eq!(usage.cycles - before.cycles, cycles::stream(&[d]), "{d:?}");
        checked += 1;
    }
    assert!(checked > 4);
}

fn product((rows, cols, depth, flags): (u32, u32, u32, Flags)) -> Descriptor {
    let digits = padded(depth as usize) as u32;
    let of = |flag, value| if flags.has(flag) { value } else { 0 };
    Descriptor {
        flags,
        rows,
        cols,
        depth,
        source: SOURCES,
        destination: [RESULT, of(Flags::BIAS, BIAS as u32).into()],
        pitch: [digits, of(Flags::ROWS, digits), word_pitch(cols as usize) as u32],
        plane: [
            of(Flags::TWO_DIGITS, rows * digits),
            of(Flags::ROWS, of(Flags::TWO_DIGIT_WEIGHTS, cols * digits)),
        ],
        ..Descriptor::new(Op::Gemm)
    }
}

#[test]
fn products() {
    let none = Flags::default();
    let (two, weights, rows, bias) = (Flags::TWO_DIGITS, Flags::TWO_DIGIT_WEIGHTS, Flags::ROWS, Flags::BIAS);
    let attention = two.and(weights).and(rows);
    check(
        [
            (1, 1, 1, none),
            (10, 16, 64, none),
            (10, 48, 64, none),
            (11, 16, 64, none),
            // Loading weights takes longer than computing.
            (3, 320, 64, none),
            (10, 160, 1024, bias),
            (8, 160, 64, bias),
            // As long.
            (7, 200, 200, two.and(weights)),
            (50, 33, 2048, none),
            (50, 720, 720, bias),
            (113, 96, 960, two),
            (100, 64, 64, attention),
            (1024, 32, 64, attention),
            (50, 163, 64, attention),
            (163, 64, 163, two.and(rows)),
            (50, 64, 163, attention),
            (1000, 16, 64, none),
        ]
        .map(product),
    );
}

/// Rows and columns, of a beat and of many, few and more than are on their way at a time.
const SHAPES: [(u32, u32); 13] = [
    (1, 16),
    (2, 16),
    (10, 16),
    (1, 64),
    (10, 64),
    (1, 768),
    (2, 768),
    (3, 768),
    (10, 768),
    (50, 720),
    (20, 113),
    (20, 1024),
    (5, 3072),
];

fn words(op: Op, (rows, cols): (u32, u32), flags: Flags) -> Descriptor {
    let pitch = word_pitch(cols as usize) as u32;
    let second = if op == Op::Combine && flags.has(Flags::ADD) { pitch } else { 0 };
    let is_norm = op == Op::Norm;
    let of = |is: bool, address| if is { address } else { 0 };
    Descriptor {
        flags,
        rows,
        cols,
        depth: if op == Op::Copy { 1 } else { 0 },
        repeat: if second == 0 { 0 } else { rows },
        source: [
            SOURCES[0],
            of(is_norm || second > 0 || flags.has(Flags::MULTIPLY), SOURCES[1]),
            of(is_norm && flags.has(Flags::BIAS), SOURCES[2]),
            0,
        ],
        destination: [RESULT, 0],
        pitch: [pitch, second, pitch],
        immediate: [if matches!(op, Op::Norm | Op::Combine) { 1e-5_f32.to_bits() } else { 0 }, 0],
        ..Descriptor::new(op)
    }
}

#[test]
fn rows_of_words() {
    let kinds = [
        (Op::Combine, Flags::default()),
        (Op::Combine, Flags::ADD),
        (Op::Activate, Flags::default()),
        (Op::Activate, Flags::MULTIPLY),
        (Op::Copy, Flags::default()),
        (Op::Norm, Flags::default()),
        (Op::Norm, Flags::BIAS),
    ];
    check(kinds.into_iter().flat_map(|(op, flags)| SHAPES.map(|shape| words(op, shape, flags))));
}

#[test]
fn rows_to_digits() {
    let kinds =
        [(Op::Quantise, Flags::default()), (Op::Softmax, Flags::default()), (Op::Softmax, Flags::MASK)];
    check(kinds.into_iter().flat_map(|(op, flags)| {
        [flags, flags.and(Flags::TWO_DIGITS)].into_iter().flat_map(move |flags| {
            SHAPES.map(|(rows, cols)| {
                let digits = padded(cols as usize) as u32;
                let is_softmax = op == Op::Softmax;
                let masked = flags.has(Flags::MASK);
                Descriptor {
                    source: [SOURCES[0], if masked { SOURCES[1] } else { 0 }, 0, 0],
                    destination: [RESULT, SCALES],
                    pitch: [word_pitch(cols as usize) as u32, if masked { digits } else { 0 }, digits],
                    repeat: if masked { rows } else { 0 },
                    plane: [if flags.has(Flags::TWO_DIGITS) { rows * digits } else { 0 }, 0],
                    immediate: if is_softmax { [0.125_f32.to_bits(), 127] } else { [0, 0] },
                    ..words(op, (rows, cols), flags)
                }
            })
        })
    }));
}

#[test]
fn columns_to_digits() {
    let shapes = [(16, 16), (32, 64), (48, 64), (64, 64), (64, 113), (64, 163), (64, 1024)];
    check(shapes.into_iter().flat_map(|(rows, cols)| {
        [Flags::TRANSPOSE, Flags::TRANSPOSE.and(Flags::TWO_DIGITS)].map(|flags| {
            let digits = padded(cols as usize) as u32;
            Descriptor {
                destination: [RESULT, SCALES],
                pitch: [word_pitch(rows as usize) as u32, 0, digits],
                plane: [if flags.has(Flags::TWO_DIGITS) { rows * digits } else { 0 }, 0],
                ..words(Op::Quantise, (rows, cols), flags)
            }
        })
    }));
}

#[test]
fn rotations() {
    let shapes = [(1, 1), (10, 1), (10, 5), (50, 15), (113, 5)];
    check(shapes.map(|(rows, heads)| {
        let pitch = word_pitch(64 * heads as usize) as u32;
        Descriptor {
            rows,
            cols: 32,
            depth: heads,
            repeat: rows,
            source: [SOURCES[0], SOURCES[1], SOURCES[2], 0],
            destination: [RESULT, 0],
            pitch: [pitch, 128, pitch],
            ..Descriptor::new(Op::Rope)
        }
    }));
}
