use super::*;
use crate::device::FpgaDevice;
use crate::functional::Functional;
use crate::plain::PlainDevice;

/// A change to a descriptor.
type Change = fn(&mut Descriptor);

const BANK: u64 = 1 << BANK_BITS;

/// What is said of a descriptor, by devices too.
fn outcome(descriptor: &Descriptor) -> Result<(), String> {
    let checked = descriptor.check().map_err(|error| error.message);
    if checked.is_err() {
        let stream = [*descriptor];
        let (plain, functional) = (PlainDevice::new().run(&stream), Functional::new().run(&stream));
        assert!(plain.is_err() && functional.is_err(), "{descriptor:?}");
    }
    checked
}

/// `descriptor` is taken as it is and with each of `good`, and refused with each of `bad`, for that reason.
fn assert_checked(descriptor: Descriptor, good: &[Change], bad: &[(&str, Change)]) {
    let changed = |change: &Change| {
        let mut descriptor = descriptor;
        change(&mut descriptor);
        outcome(&descriptor)
    };
    outcome(&descriptor).unwrap();
    for (i, change) in good.iter().enumerate() {
        changed(change).unwrap_or_else(|error| panic!("change {i}: {error}"));
    }
    for (i, (why, change)) in bad.iter().enumerate() {
        let error = changed(change).expect_err(why);
        assert!(error.contains(why), "change {i}: {error}");
    }
}

#[test]
fn gemm() {
    let gemm = Descriptor {
        flags: Flags::BIAS,
        rows: 10,
        cols: 20,
        depth: 100,
        source: [0, BANK + 4, 2 * BANK, 3 * BANK + 4],
        destination: [4 * BANK, 5 * BANK + 4],
        pitch: [1 << 14, 1 << 14, 128],
        plane: [1 << 21, 1 << 21],
        ..Descriptor::new(Op::Gemm)
    };
    assert_checked(
        gemm,
        &[
            |d| d.flags = Flags::TWO_DIGITS.and(Flags::TWO_DIGIT_WEIGHTS).and(Flags::ROWS),
            |d| (d.rows, d.depth) = (80, 16_384),
            |d| (d.rows, d.depth, d.flags) = (80, 8_192, Flags::TWO_DIGITS.and(Flags::TWO_DIGIT_WEIGHTS)),
            // Up to the last byte that there is.
            |d| d.destination[0] = 5 * BANK - 1280,
            // Not a row to be far from another.
            |d| (d.rows, d.pitch) = (1, [0; 3]),
        ],
        &[
            ("has no flags", |d| d.flags = Flags::GELU),
            ("nothing to do", |d| d.rows = 0),
            ("nothing to do", |d| d.cols = 0),
            ("nothing to do", |d| d.depth = 0),
            ("words of activations", |d| (d.rows, d.depth) = (81, 16_384)),
            ("words of activations", |d| (d.rows, d.depth, d.flags) = (81, 8_192, Flags::TWO_DIGITS)),
            ("too large", |d| d.depth = 16_385),
            ("words of weights", |d| (d.depth, d.flags) = (8_193, Flags::TWO_DIGIT_WEIGHTS)),
            ("multiples of 64", |d| d.source[0] = 4),
            ("multiples of 64", |d| d.pitch[0] += 4),
            ("multiples of 64", |d| (d.flags, d.plane[0]) = (Flags::TWO_DIGITS, 32)),
            ("multiples of 4 ", |d| d.source[1] += 2),
            ("multiples of 64", |d| d.source[2] += 32),
            ("multiples of 64", |d| (d.flags, d.pitch[1]) = (Flags::ROWS, 130)),
            ("multiples of 4 ", |d| d.destination[1] += 1),
            ("multiples of 64", |d| d.destination[0] += 4),
            ("pitch of 64", |d| d.pitch[0] = 64),
            ("pitch of 64", |d| d.pitch[2] = 64),
            ("not in one bank", |d| d.destination[0] = 5 * BANK - 1216),
            ("not in one bank", |d| d.source[0] = 32 * BANK),
            ("not in one bank", |d| (d.flags, d.source[0]) = (Flags::TWO_DIGITS, u64::MAX - 63)),
            ("not in one bank", |d| d.source[2] = 3 * BANK - 4032),
            ("overwrite activations", |d| d.destination[0] = 64),
            ("overwrite scales", |d| d.destination[0] = BANK),
            ("overwrite panels", |d| d.destination[0] = 2 * BANK + 64),
            ("overwrite weights", |d| (d.flags, d.destination[0]) = (Flags::ROWS, 2 * BANK + 64)),
            ("overwrite column scales", |d| d.destination[0] = 3 * BANK + 64),
            ("overwrite bias", |d| d.destination[0] = 5 * BANK),
        ],
    );
}

#[test]
fn rows() {
    let quantise = Descriptor {
        rows: 1024,
        cols: 100,
        source: [BANK + 4, 0, 0, 0],
        destination: [0, 1 << 20 | 4],
        pitch: [1 << 16, 0, 128],
        plane: [1 << 18, 0],
        ..Descriptor::new(Op::Quantise)
    };
    assert_checked(
        quantise,
        &[
            |d| d.flags = Flags::TWO_DIGITS,
            |d| (d.rows, d.cols, d.pitch[2]) = (8, 16_384, 16_384),
            |d| (d.flags, d.source[0]) = (Flags::TRANSPOSE, BANK),
        ],
        &[
            ("a row of 16385", |d| (d.rows, d.cols) = (1, 16_385)),
            ("a row of 1025", |d| (d.rows, d.cols, d.flags) = (1, 1025, Flags::TRANSPOSE)),
            ("multiples of 64", |d| d.flags = Flags::TRANSPOSE),
            ("multiples of 4 ", |d| d.pitch[0] += 2),
            ("overwrite digits", |d| (d.flags, d.plane[0]) = (Flags::TWO_DIGITS, 64)),
            ("overwrite digits", |d| d.destination[1] = 64),
            ("overwrite words", |d| d.destination[0] = BANK),
        ],
    );
    let norm = Descriptor {
        flags: Flags::BIAS,
        source: [0, BANK + 4, 2 * BANK + 4, 0],
        destination: [3 * BANK, 0],
        pitch: [404, 0, 448],
        ..Descriptor { op: Op::Norm, ..quantise }
    };
    assert_checked(
        norm,
        &[|d| d.flags = Flags(0)],
        &[
            ("multiples of 64", |d| d.pitch[2] = 404),
            // Up to the next multiple of 64 bytes.
            ("pitch of 384", |d| (d.cols, d.pitch) = (97, [388, 0, 384])),
            ("overwrite words", |d| (d.destination[0], d.pitch[0]) = (0, 448)),
        ],
    );
    let softmax = Descriptor {
        op: Op::Softmax,
        flags: Flags::MASK,
        repeat: 3,
        source: [2 * BANK + 4, BANK, 0, 0],
        pitch: [400, 128, 128],
        immediate: [0, 127],
        ..quantise
    };
    assert_checked(
        softmax,
        &[|d| d.immediate[1] = 32_512, |d| (d.flags, d.repeat) = (Flags(0), 0)],
        &[
            ("no rows", |d| d.repeat = 0),
            ("neither one nor two", |d| d.immediate[1] = 0),
            ("multiples of 64", |d| d.pitch[1] = 100),
            ("a row of 16385", |d| (d.rows, d.cols) = (1, 16_385)),
        ],
    );
}

#[test]
fn words() {
    let combine = Descriptor {
        flags: Flags::ADD,
        rows: 10,
        cols: 16,
        repeat: 10,
        source: [0, BANK, 0, 0],
        destination: [2 * BANK, 0],
        pitch: [64, 64, 64],
        ..Descriptor::new(Op::Combine)
    };
    assert_checked(
        combine,
        &[
            |d| d.destination[0] = d.source[0],
            |d| d.destination[0] = d.source[1],
            |d| d.source = [2 * BANK; 4],
            |d| (d.repeat, d.pitch[1]) = (1, 0),
            // Side by side in a matrix.
            |d| (d.destination[0], d.pitch) = (64, [128, 64, 128]),
        ],
        &[
            ("no rows", |d| d.repeat = 0),
            ("is a copy", |d| d.flags = Flags::PLAIN),
            ("overwrite words", |d| d.destination[0] = 64),
            ("overwrite words", |d| (d.destination[0], d.pitch[2]) = (0, 128)),
            ("overwrite summands", |d| (d.destination[0], d.repeat) = (BANK, 9)),
            ("overwrite words", |d| (d.source[0], d.destination[0], d.pitch) = (60, 0, [128, 64, 128])),
            // Into the next row.
            ("overwrite words", |d| (d.source[0], d.destination[0], d.pitch) = (96, 0, [128, 64, 128])),
        ],
    );
    let rope = Descriptor {
        rows: 10,
        cols: 3,
        depth: 5,
        repeat: 7,
        source: [4, BANK + 4, 2 * BANK + 4, 0],
        destination: [3 * BANK + 4, 0],
        pitch: [120, 12, 124],
        ..Descriptor::new(Op::Rope)
    };
    assert_checked(
        rope,
        &[],
        &[
            ("no rows", |d| d.repeat = 0),
            ("pitch of 116", |d| d.pitch[0] = 116),
            ("overwrite words", |d| (d.destination[0], d.pitch[2]) = (4, 120)),
            ("a row of", |d| (d.cols, d.depth) = (u32::MAX, u32::MAX)),
        ],
    );
}

#[test]
fn copies() {
    let copy = Descriptor {
        rows: 10,
        cols: 3,
        depth: 4,
        source: [4, 0, 0, 0],
        destination: [BANK + 4, 0],
        pitch: [48, 0, 12],
        plane: [12, 120],
        ..Descriptor::new(Op::Copy)
    };
    assert_checked(
        copy,
        &[
            |d| d.plane[0] = 0,
            |d| d.destination[0] = 4 + 480,
            // From blocks side by side to blocks side by side.
            |d| (d.pitch[2], d.plane[1]) = (48, 12),
        ],
        &[
            ("nothing to do", |d| d.depth = 0),
            ("blocks of results overlap", |d| d.plane[1] = 0),
            ("blocks of results overlap", |d| d.plane[1] = 108),
            ("overwrite words", |d| d.destination[0] = 4 + 468),
            ("multiples of 4 ", |d| d.plane[0] = 6),
        ],
    );
}

#[test]
fn devices_refuse_memory_that_there_is_not() {
    let mut bytes = [0; 8];
    for device in [0, 1] {
        for (address, is_there) in
            [(BANK - 8, true), (BANK - 4, false), (32 * BANK, false), (u64::MAX, false)]
        {
            let (read, write) = if device == 0 {
                let device = PlainDevice::new();
                (device.read(address, &mut bytes), device.write(address, &bytes))
            } else {
                let device = Functional::new();
                (device.read(address, &mut bytes), device.write(address, &bytes))
            };
            assert_eq!((read.is_ok(), write.is_ok()), (is_there, is_there), "{address:#x}");
        }
    }
}
