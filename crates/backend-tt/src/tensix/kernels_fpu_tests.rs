use safetensors::SafeTensors;

use super::*;
use crate::tensix::Format;

/// Operands of every exponent and many mantissas, cut to `keep` bits.
fn operands(keep: u32) -> impl Iterator<Item = f32> {
    let mut state = 0x9e37_79b9_u32;
    std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        f32::from_bits(state & keep)
    })
    .filter(|x| x.is_finite())
}

#[test]
fn shortcuts_of_the_product_equal_the_phases() {
    for fidelity in [Fidelity::LoFi, Fidelity::HiFi2, Fidelity::HiFi3, Fidelity::HiFi4] {
        for (dest, keep) in [(Dest::Bits16, 0xffff_0000), (Dest::Bits32, 0xffff_e000)] {
            let multiplier = Multiplier::new(dest, fidelity);
            let mut values = operands(keep);
            for _ in 0..400_000 {
                let (a, b) = (values.next().unwrap(), values.next().unwrap());
                let (got, want) =
                    (multiplier.product(a, b), multiply_in_phases(a, b, dest, phases(fidelity)));
                assert_eq!(got.to_bits(), want.to_bits(), "{a:e} * {b:e}, {dest:?}, {fidelity:?}");
            }
        }
    }
}

#[test]
fn the_shortcut_of_the_sum_equals_the_adder() {
    for (dest, keep) in [(Dest::Bits16, 0xffff_0000), (Dest::Bits32, 0xffff_e000)] {
        let mut values = operands(keep);
        let mut blocks = 0;
        for _ in 0..200_000 {
            // Near each other, so that digits overlap.
            let a: [f32; LANES] = std::array::from_fn(|_| values.next().unwrap());
            let b = a.map(|a| {
                let step = (values.next().unwrap().to_bits() & 0x87ff_ffff) >> 1;
                f32::from_bits(
                    (a.to_bits().wrapping_add(step) & keep) ^ (values.next().unwrap().to_bits() & 1 << 31),
                )
            });
            let (mut a, mut b) = (a, b);
            (a[0], b[0], a[1], b[1]) = (0.0, -0.0, -0.0, -0.0);
            if !regular(&a, &b) {
                continue;
            }
            blocks += 1;
            let mut sums = a;
            add_block(&mut sums, &b, dest);
            for ((sum, a), b) in sums.into_iter().zip(a).zip(b) {
                assert_eq!(sum.to_bits(), add(a, b, dest).to_bits(), "{a:e} + {b:e}, {dest:?}");
            }
        }
        assert!(blocks > 10_000);
    }
}

#[test]
fn the_shortcut_of_the_groups_equals_the_aligned_sums() {
    let mut values = operands(0xffff_e000);
    let mut tiles = 0;
    for _ in 0..100_000 {
        // Exponents of a tile within 32 of each other, some values and some groups zero.
        let base = values.next().unwrap().to_bits() & 0x7000_0000;
        let tile: [f32; 32] = std::array::from_fn(|i| {
            let bits = values.next().unwrap().to_bits();
            let zero = bits & 0x6000 == 0 || (base & 0x1000_0000 != 0 && i >= 24);
            if zero { 0.0 } else { f32::from_bits(base | (bits & 0x8fff_e000)) }
        });
        let Some(terms) = groups_of_ordinary(&tile) else { continue };
        tiles += 1;
        for (terms, phase) in terms.iter().zip([0, 2]) {
            for (got, eight) in terms.iter().zip(tile.as_chunks::<8>().0) {
                let want = group(&eight.map(Operand::new), phase);
                let same = (got.exponent, got.significand) == (want.exponent, want.significand);
                assert!(
                    same && (got.negative == want.negative || want.significand == 0),
                    "{eight:?}, {phase}"
                );
            }
        }
    }
    assert!(tiles > 10_000);
}

#[test]
fn infinities_behave_as_large_numbers() {
    for dest in [Dest::Bits16, Dest::Bits32] {
        assert_eq!(add(f32::NEG_INFINITY, f32::INFINITY, dest), 0.0);
        assert_eq!(add(f32::NEG_INFINITY, 1.0, dest), f32::NEG_INFINITY);
    }
}

const TILE: &[u8] = include_bytes!("fixtures/tile.safetensors");

/// One matrix of bfloat16 patterns, and its number of columns.
fn matrix(name: &str) -> (Vec<f32>, usize) {
    let tensors = SafeTensors::deserialize(TILE).unwrap();
    let tensor = tensors.tensor(name).unwrap();
    let widen = |&pair: &[u8; 2]| f32::from_bits(u32::from(u16::from_le_bytes(pair)) << 16);
    (tensor.data().as_chunks::<2>().0.iter().map(widen).collect(), tensor.shape()[1])
}

/// A matrix product in 16 bits: tiles of 32, phases, faces of 16. Slow, and only a witness for the packer.
fn product(a: &str, b: &str, fidelity: Fidelity) -> Vec<f32> {
    let ((a, inner), (b, cols)) = (matrix(a), matrix(b));
    let element = |row: &[f32], col: usize| {
        let mut dst = 0;
        for tile in (0..inner).step_by(32) {
            for phase in 0..phases(fidelity) {
                for face in [tile, tile + 16] {
                    let group = |start: usize| {
                        let products: [(Operand, i32, u32); 8] = std::array::from_fn(|i| {
                            let (x, y) =
                                (Operand::new(b[(start + i) * cols + col]), Operand::new(row[start + i]));
                            let zero = x.significand == 0 || y.significand == 0;
                            let exponent =
                                if zero { 0 } else { x.exponent + y.exponent + phase_exponent(phase) };
                            let parts = part_a(x.significand, phase) * part_b(y.significand, phase);
                            let sign = Operand { negative: x.negative != y.negative, ..x };
                            (sign, exponent, if zero { 0 } else { parts })
                        });
                        let exponent = products.iter().map(|p| p.1).max().unwrap_or(0);
                        let sum: i32 = products
                            .iter()
                            .map(|(sign, e, p)| {
                                let apart = (exponent - e).min(30);
                                let rounded = (((u64::from(*p) << 1) + (1 << apart)) >> (apart + 1)) as i32;
                                if sign.negative { -rounded } else { rounded }
                            })
                            .sum();
                        Term { negative: sum < 0, exponent, significand: sum.unsigned_abs() << 13 }
                    };
                    dst = accumulate([group(face), group(face + 8)], dst, Dest::Bits16);
                }
            }
        }
        f32::from_bits(dst)
    };
    a.chunks(inner)
        .flat_map(|row| (0..cols).map(move |col| (row, col)))
        .map(|(row, col)| element(row, col))
        .collect()
}

#[test]
fn packed_products_equal_the_measured_ones() {
    let cases = [
        ("A", "B", Fidelity::HiFi4, Format::Bf16, "mm_HiFi4_0"),
        ("A", "b8", Fidelity::HiFi2, Format::Bf16, "mmab8_HiFi2_0"),
        ("a8", "b8", Fidelity::HiFi2, Format::Bfp8, "mmb8_HiFi2_0"),
    ];
    for (a, b, fidelity, output, name) in cases {
        let mut got = product(a, b, fidelity);
        for row in got.chunks_mut(32) {
            output.pack(row, Dest::Bits16);
        }
        assert_eq!(got, matrix(name).0, "{name}");
    }
}
