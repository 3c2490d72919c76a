//! The functional device against the plain one, with every instruction set that this processor has: all memory, byte
//! for byte.

use super::Functional;
use super::isa::Isa;
use crate::arith::{DIGIT, Scale, TWO_DIGITS, encode, multiply};
use crate::descriptor::{Descriptor, Flags, Op, padded, word_pitch};
use crate::device::FpgaDevice;
use crate::plain::PlainDevice;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    /// Near zero, more often small than large.
    fn number(&mut self) -> f32 {
        let unit = self.next() as i32 as f32 / i32::MAX as f32;
        unit * unit * unit * 8.0
    }

    /// Any finite word: signed zeros, subnormals, the largest.
    fn any(&mut self) -> f32 {
        match self.below(8) {
            0 => {
                [0.0, -0.0, f32::MAX, f32::MIN, f32::MIN_POSITIVE, -f32::MIN_POSITIVE][self.below(6) as usize]
            }
            1 => f32::from_bits(self.next() as u32 & 0x807f_ffff),
            _ => f32::from_bits((self.next() as u32 & 0x807f_ffff) | (self.below(255) as u32) << 23),
        }
    }

    /// A row of one of the kinds that quantisers and norms find hard.
    fn row(&mut self, length: usize) -> Vec<f32> {
        let kind = self.below(8);
        let mut row: Vec<f32> = (0..length)
            .map(|_| match kind {
                0 => 0.0,
                1 => self.any(),
                2 => f32::from_bits(self.next() as u32 & 0x807f_ffff),
                3 => f32::MAX,
                4 => self.number() * 1e-37,
                5 => 1000.0 + self.number(),
                _ => self.number(),
            })
            .collect();
        if kind == 6 {
            row[self.below(length as u64) as usize] = -1e6;
        }
        row
    }

    fn digit(&mut self) -> u8 {
        match self.below(8) {
            0 => DIGIT as u8,
            1 => -DIGIT as u8,
            _ => (self.below(255) as i32 - DIGIT) as u8,
        }
    }

    fn scale(&mut self) -> Scale {
        match self.below(8) {
            0 => Scale::default(),
            1 => Scale { mantissa: 1 << 14, exponent: self.below(254) as i16 - 140 },
            _ => Scale {
                mantissa: (1 << 12) + self.below(1 << 12) as u16,
                exponent: -(self.below(30) as i16) - 10,
            },
        }
    }
}

/// Rows of words, `pitch` bytes apart.
fn matrix(random: &mut Random, rows: usize, cols: usize, pitch: usize) -> Vec<u8> {
    let mut bytes = vec![0xa5; rows * pitch.max(cols * 4)];
    for row in bytes.chunks_mut(pitch.max(cols * 4)) {
        for (to, word) in row.chunks_exact_mut(4).zip(random.row(cols)) {
            to.copy_from_slice(&word.to_le_bytes());
        }
    }
    bytes
}

fn scales(random: &mut Random, count: usize) -> Vec<u8> {
    (0..count).flat_map(|_| random.scale().to_word().to_le_bytes()).collect()
}

/// Where a test lets results lie: after what is read.
const RESULT: u64 = 3 << 28 | 1 << 16;

/// Runs on both, and compares the beginnings of the banks that are used.
fn assert_same(memory: &[(u64, Vec<u8>)], stream: &[Descriptor]) {
    let plain = on(&PlainDevice::new(), memory, stream);
    for isa in Isa::available() {
        let functional = on(&Functional::with(isa), memory, stream);
        for (bank, (plain, functional)) in plain.iter().zip(&functional).enumerate() {
            if plain != functional {
                let at = (0..plain.len()).find(|i| plain[*i] != functional[*i]).unwrap() & !3;
                panic!(
                    "{}: bank {bank}, word at {at:#x}: {:x?} in place of {:x?} after {stream:?}",
                    isa.name(),
                    &functional[at..at + 4],
                    &plain[at..at + 4],
                );
            }
        }
    }
}

/// Leaves no zeros in what a device keeps from one operation to the next.
fn used() -> Descriptor {
    Descriptor {
        rows: 64,
        cols: 1024,
        source: [30 << 28, 0, 0, 0],
        destination: [31 << 28, 0],
        pitch: [4096, 0, 4096],
        immediate: [1.0_f32.to_bits(), 0],
        ..Descriptor::new(Op::Combine)
    }
}

/// What memory is after a stream.
fn on(device: &impl FpgaDevice, memory: &[(u64, Vec<u8>)], stream: &[Descriptor]) -> Vec<Vec<u8>> {
    for (address, bytes) in memory {
        device.write(*address, bytes).unwrap();
    }
    device.write(30 << 28, &[0x3f; 1 << 18]).unwrap();
    device.run(&[used()]).unwrap();
    device.run(stream).unwrap();
    (0..4_u64)
        .map(|bank| {
            let mut bytes = vec![0; 1 << 19];
            device.read(bank << 28, &mut bytes).unwrap();
            bytes
        })
        .collect()
}

#[test]
fn gemm() {
    let mut random = Random(1);
    for (case, (rows, cols, depth)) in [
        (1, 1_usize, 1),
        (10, 16, 64),
        (50, 33, 100),
        (13, 48, 720),
        (110, 17, 65),
        (3, 5, 1100),
        (97, 16, 8),
    ]
    .into_iter()
    .cycle()
    .take(28)
    .enumerate()
    {
        let mut flags = Flags(0);
        for (bit, flag) in
            [Flags::TWO_DIGITS, Flags::TWO_DIGIT_WEIGHTS, Flags::ROWS, Flags::BIAS].into_iter().enumerate()
        {
            // All of the first three for each size once, and both biases.
            if [case / 7, case / 14, case, case / 2][bit] & 1 == 1 {
                flags = flags.and(flag);
            }
        }
        let k = padded(depth);
        let (pitch, wide) = (k + 64 * (case % 3), k + 64 * (case % 2));
        let digit_rows = |random: &mut Random, rows: usize, pitch: usize| -> Vec<u8> {
            let worst = random.below(3) == 0;
            let mut one = |j: usize| match j % pitch {
                j if j >= depth => 0,
                _ if worst => DIGIT as u8,
                _ => random.digit(),
            };
            (0..rows * pitch).map(&mut one).collect()
        };
        let activations = digit_rows(&mut random, 2 * rows, pitch);
        let columns = cols.next_multiple_of(16);
        let weights = if flags.has(Flags::ROWS) {
            digit_rows(&mut random, 2 * cols, wide)
        } else {
            (0..2 * columns * k).map(|i| if i / 8 % 16 == 3 { DIGIT as u8 } else { random.digit() }).collect()
        };
        let memory = [
            (0, activations),
            (1 << 28, weights),
            (2 << 28 | 4, scales(&mut random, rows)),
            (2 << 28 | 0x1008, scales(&mut random, cols)),
            (2 << 28 | 0x200c, matrix(&mut random, 1, cols, 0)),
        ];
        assert_same(
            &memory,
            &[Descriptor {
                flags,
                rows: rows as u32,
                cols: cols as u32,
                depth: depth as u32,
                source: [0, 2 << 28 | 4, 1 << 28, 2 << 28 | 0x1008],
                destination: [RESULT, if flags.has(Flags::BIAS) { 2 << 28 | 0x200c } else { 0 }],
                pitch: [pitch as u32, wide as u32, word_pitch(cols) as u32 + 64],
                plane: [(rows * pitch) as u32, (cols * wide) as u32],
                ..Descriptor::new(Op::Gemm)
            }],
        );
    }
}

#[test]
fn quantise() {
    let mut random = Random(2);
    for case in 0..24 {
        let (rows, cols) = [(1, 1), (7, 64), (33, 100), (5, 720)][case % 4];
        let transpose = case & 8 != 0;
        let (count, length) = if transpose { (cols, rows) } else { (rows, cols) };
        let pitch = if transpose { word_pitch(length) } else { length * 4 + 4 * case };
        let mut flags = if transpose { Flags::TRANSPOSE } else { Flags(0) };
        if case & 4 != 0 {
            flags = flags.and(Flags::TWO_DIGITS);
        }
        // Not with TRANSPOSE: any multiple of 4.
        let source = if transpose { 64 } else { 4 * case as u64 };
        assert_same(
            &[(source, matrix(&mut random, count, length, pitch))],
            &[Descriptor {
                flags,
                rows: rows as u32,
                cols: cols as u32,
                source: [source, 0, 0, 0],
                destination: [RESULT, 2 << 28 | 4],
                pitch: [pitch as u32, 0, padded(cols) as u32 + 64],
                plane: [(rows * (padded(cols) + 64)) as u32, 0],
                ..Descriptor::new(Op::Quantise)
            }],
        );
    }
}

#[test]
fn norm() {
    let mut random = Random(3);
    for case in 0..24 {
        let (rows, cols) = [(1, 1), (9, 768), (40, 33), (12, 960)][case % 4];
        let pitch = cols * 4 + 4 * (case % 5);
        let epsilon = [1e-6_f32, 1e-5, 0.0, 1e30, 1e-30, f32::MIN_POSITIVE][case / 4];
        assert_same(
            &[
                (12, matrix(&mut random, rows, cols, pitch)),
                (1 << 28 | 4, matrix(&mut random, 1, cols, 0)),
                (2 << 28 | 8, matrix(&mut random, 1, cols, 0)),
            ],
            &[Descriptor {
                flags: if case & 8 == 0 { Flags::BIAS } else { Flags(0) },
                rows: rows as u32,
                cols: cols as u32,
                source: [12, 1 << 28 | 4, 2 << 28 | 8, 0],
                destination: [RESULT, 0],
                pitch: [pitch as u32, 0, word_pitch(cols) as u32],
                immediate: [epsilon.to_bits(), 0],
                ..Descriptor::new(Op::Norm)
            }],
        );
    }
}

#[test]
fn softmax() {
    let mut random = Random(4);
    for case in 0..48 {
        let (rows, cols) = [(1, 1), (10, 113), (33, 64), (6, 1024)][case % 4];
        let pitch = cols * 4 + 4 * (case % 3);
        let repeat = 1 + case % 7;
        let mask: Vec<u8> = (0..repeat)
            .flat_map(|row| {
                // Some rows allow nothing, some all, some every other word.
                let row: Vec<u8> =
                    (0..padded(cols)).map(|j| [0, 1, (j % 2) as u8, 255][(row + case) % 4]).collect();
                row
            })
            .collect();
        let factor = [0.18_f32, -0.18, 1.0, 0.0, 1e-30, 1e30, f32::MAX, f32::MIN_POSITIVE, 3e-4][case % 9];
        let flags =
            [Flags(0), Flags::MASK, Flags::TWO_DIGITS, Flags::MASK.and(Flags::TWO_DIGITS)][case / 4 % 4];
        assert_same(
            &[(8, matrix(&mut random, rows, cols, pitch)), (1 << 28, mask)],
            &[Descriptor {
                flags,
                rows: rows as u32,
                cols: cols as u32,
                repeat: repeat as u32,
                source: [8, 1 << 28, 0, 0],
                destination: [RESULT, 2 << 28],
                pitch: [pitch as u32, padded(cols) as u32, padded(cols) as u32],
                plane: [(rows * padded(cols)) as u32, 0],
                immediate: [factor.to_bits(), [DIGIT, TWO_DIGITS][case / 8 % 2] as u32],
                ..Descriptor::new(Op::Softmax)
            }],
        );
    }
}

#[test]
fn activate() {
    let mut random = Random(5);
    for case in 0..16 {
        let (rows, cols) = [(1, 1), (31, 333)][case % 2];
        let pitch = word_pitch(cols);
        let flags = [Flags(0), Flags::GELU, Flags::MULTIPLY, Flags::GELU.and(Flags::MULTIPLY)][case / 2 % 4];
        // Every other time in place.
        let in_place = case & 8 != 0;
        assert_same(
            &[
                (128, matrix(&mut random, rows, cols, pitch)),
                (1 << 28 | 4, matrix(&mut random, rows, cols, pitch)),
            ],
            &[Descriptor {
                flags,
                rows: rows as u32,
                cols: cols as u32,
                source: [128, 1 << 28 | 4, 0, 0],
                destination: [if in_place { 128 } else { RESULT }, 0],
                pitch: [pitch as u32, 0, pitch as u32],
                ..Descriptor::new(Op::Activate)
            }],
        );
    }
}

#[test]
fn rope() {
    let mut random = Random(6);
    for (rows, half, heads, repeat) in [(1, 1, 1, 1), (25, 32, 15, 7), (50, 40, 3, 100), (4, 5, 2, 4)] {
        let bytes = half * 2 * heads * 4;
        let pitch = bytes + 4;
        assert_same(
            &[
                (4, matrix(&mut random, rows, half * 2 * heads, pitch)),
                (1 << 28 | 8, matrix(&mut random, repeat, half, half * 4 + 8)),
                (2 << 28 | 12, matrix(&mut random, repeat, half, half * 4 + 8)),
            ],
            &[Descriptor {
                rows: rows as u32,
                cols: half as u32,
                depth: heads as u32,
                repeat: repeat as u32,
                source: [4, 1 << 28 | 8, 2 << 28 | 12, 0],
                destination: [RESULT + 4, 0],
                pitch: [pitch as u32, half as u32 * 4 + 8, bytes as u32 + 20],
                ..Descriptor::new(Op::Rope)
            }],
        );
    }
}

#[test]
fn combine() {
    let mut random = Random(7);
    for case in 0..18 {
        let (rows, cols, repeat) = [(1, 1, 1), (50, 720, 50), (23, 33, 5)][case % 3];
        let pitch = word_pitch(cols);
        let flags = [Flags(0), Flags::ADD, Flags::ADD.and(Flags::PLAIN)][case / 3 % 3];
        let in_place = case >= 9;
        assert_same(
            &[
                (64, matrix(&mut random, rows, cols, pitch)),
                (1 << 28 | 4, matrix(&mut random, repeat, cols, pitch + 4)),
            ],
            &[Descriptor {
                flags,
                rows: rows as u32,
                cols: cols as u32,
                repeat: repeat as u32,
                source: [64, 1 << 28 | 4, 0, 0],
                destination: [if in_place { 64 } else { RESULT }, 0],
                pitch: [pitch as u32, pitch as u32 + 4, pitch as u32],
                immediate: [random.any().to_bits(), 0],
                ..Descriptor::new(Op::Combine)
            }],
        );
    }
}

#[test]
fn copy_to_another_bank_and_the_same() {
    let mut random = Random(8);
    for (destination, bank) in [(RESULT + 4, 0), (1 << 18 | 12, 0), (RESULT + 4, 3)] {
        assert_same(
            &[(bank << 28 | 4, matrix(&mut random, 40, 40, 160))],
            &[Descriptor {
                rows: 9,
                cols: 7,
                depth: 4,
                source: [bank << 28 | 4, 0, 0, 0],
                destination: [destination, 0],
                pitch: [160, 0, 36],
                plane: [28, 1024],
                ..Descriptor::new(Op::Copy)
            }],
        );
    }
}

#[test]
fn later_operations_see_earlier_results_and_nothing_follows_the_end() {
    let mut random = Random(9);
    let (rows, cols) = (20, 64);
    let double = |from: u64, to: u64| Descriptor {
        rows: rows as u32,
        cols: cols as u32,
        source: [from, 0, 0, 0],
        destination: [to, 0],
        pitch: [256, 0, 256],
        immediate: [2.0_f32.to_bits(), 0],
        ..Descriptor::new(Op::Combine)
    };
    let memory = [(0, matrix(&mut random, rows, cols, 256))];
    let stream = [double(0, RESULT), double(RESULT, 1 << 28), Descriptor::new(Op::End), double(0, 1 << 28)];
    assert_same(&memory, &stream);

    let device = Functional::new();
    device.write(0, &3.0_f32.to_le_bytes()).unwrap();
    device.run(&stream).unwrap();
    let mut word = [0; 4];
    device.read(1 << 28, &mut word).unwrap();
    assert_eq!(f32::from_le_bytes(word), 12.0);
}

#[test]
fn fast_words_are_the_exact_ones() {
    let mut random = Random(10);
    for _ in 0..1 << 20 {
        let value = (random.next() as i64) >> random.below(64);
        let exponent = random.below(700) as i32 - 350;
        assert_eq!(
            super::rows::result(value, exponent).to_bits(),
            encode(value, exponent).to_bits(),
            "{value} {exponent}"
        );
        let (a, b) = (random.any(), random.any());
        assert_eq!(super::rows::product(a, b).to_bits(), multiply(a, b).to_bits(), "{a:e} {b:e}");
    }
    // All lengths, at the ends of the range and at ties.
    for length in 0..64 {
        for offset in [-3_i64, -2, -1, 0, 1, 2, 3] {
            let value = (1_i64 << length).wrapping_add(offset);
            for exponent in (-260..140).map(|e| e - length / 2) {
                for value in [value, value.wrapping_neg(), value ^ (1_i64 << length) >> 24] {
                    let (fast, exact) = (super::rows::result(value, exponent), encode(value, exponent));
                    assert_eq!(fast.to_bits(), exact.to_bits(), "{value} {exponent}");
                }
            }
        }
    }
    // Just below the normal range, where rounding would lift it.
    let x = f32::from_bits(0x3f7f_ffff);
    for (a, b) in [(x, f32::MIN_POSITIVE), (f32::from_bits(0x1fff_ffff), f32::from_bits(0x1fff_ffff))] {
        assert_eq!(super::rows::product(a, b).to_bits(), multiply(a, b).to_bits(), "{a:e} {b:e}");
    }
}

#[test]
fn tables_fit_32_bits() {
    for gate in [&crate::arith::SIGMOID, &crate::arith::GELU_GATE] {
        for pair in gate.windows(2) {
            let step = pair[1].checked_sub(pair[0]).unwrap();
            assert!(u64::from(step) * 0xfff + (1 << 11) <= u64::from(u32::MAX), "{step}");
        }
    }
}
