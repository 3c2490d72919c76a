//! The product against the outputs of ttnn's kernels, and its kernels against the oracle.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;

use safetensors::SafeTensors;

use super::matrix::matmul_on;
use super::matrix_lanes::Isa;
use super::{Blocking, Dest, Fidelity, Math, Operand, matmul, matmul_plain, pack_bf16};

const FIDELITIES: [Fidelity; 4] = [Fidelity::LoFi, Fidelity::HiFi2, Fidelity::HiFi3, Fidelity::HiFi4];
const DESTS: [Dest; 2] = [Dest::Bits16, Dest::Bits32];

/// Outputs of ttnn 0.81.1 kernels on a simulated Blackhole: `<product>.<operand or settings>`. bf16 and block floats
/// are there as the upper halves of `f32`, the rest as the bits of `f32`.
static KERNELS: &[u8] = include_bytes!("fixtures/matrix.safetensors");

fn bits(file: &SafeTensors, name: &str) -> Vec<u32> {
    let tensor = file.tensor(name).unwrap();
    match tensor.dtype() {
        safetensors::Dtype::U16 => tensor
            .data()
            .as_chunks()
            .0
            .iter()
            .map(|&half| u32::from(u16::from_le_bytes(half)) << 16)
            .collect(),
        safetensors::Dtype::U32 => {
            tensor.data().as_chunks().0.iter().map(|&word| u32::from_le_bytes(word)).collect()
        }
        other => panic!("{name} holds {other:?}"),
    }
}

fn values(file: &SafeTensors, name: &str) -> Vec<f32> {
    bits(file, name).into_iter().map(f32::from_bits).collect()
}

fn to_bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// A 16-bit accumulator to `bfp8_b`, as the packer does it at the end of a product: 7 significant bits first, then the
/// grid of the largest exponent among 16 values of a row, half away from zero both times, at most 127; no -0.
fn pack_bfp8(values: &[f32]) -> Vec<f32> {
    let short: Vec<_> =
        values.iter().map(|value| f32::from_bits((value.to_bits() + 0x1_0000) & 0xFFFE_0000)).collect();
    let mut out = Vec::new();
    for row in short.chunks(16) {
        let exponent = row.iter().map(|value| value.to_bits() >> 23 & 0xFF).max().unwrap();
        let unit = 2.0_f32.powi(exponent as i32 - 127 - 6);
        out.extend(row.iter().map(|value| (value / unit).round().clamp(-127.0, 127.0) * unit + 0.0));
    }
    out
}

#[test]
fn products_equal_those_of_the_kernels() {
    let products = [
        ("mm32x64x32", 32, 64, 32),
        ("mm64x96x64", 64, 96, 64),
        ("mm64x768x96", 64, 768, 96),
        ("mm32x2048x64", 32, 2048, 64),
    ];
    let cases = [
        "LoFi.fp32dest0.out_bf16",
        "LoFi.fp32dest1.out_bf16",
        "LoFi.fp32dest1.out_f32",
        "HiFi2.fp32dest0.out_bf16",
        "HiFi2.fp32dest1.out_bf16",
        "HiFi2.fp32dest1.out_f32",
        "HiFi3.fp32dest0.out_bf16",
        "HiFi3.fp32dest1.out_f32",
        "HiFi4.fp32dest0.out_bf16",
        "HiFi4.fp32dest1.out_bf16",
        "HiFi4.fp32dest1.out_f32",
        "w_bfp8.HiFi2.fp32dest0.out_bf16",
        "w_bfp8.HiFi2.fp32dest1.out_bf16",
        "w_bfp8.HiFi2.fp32dest1.out_f32",
        "aw_bfp8.HiFi2.fp32dest0.out_bfp8",
    ];
    let file = SafeTensors::deserialize(KERNELS).unwrap();
    let mut unseen: BTreeSet<&str> = file.names().into_iter().filter(|name| name.contains("out")).collect();
    assert_eq!(unseen.len(), 34);
    for (product, rows, inputs, outputs) in products {
        for case in cases {
            let name = format!("{product}.{case}");
            if !unseen.remove(name.as_str()) {
                continue;
            }
            let fidelity =
                FIDELITIES.into_iter().find(|fidelity| case.contains(&format!("{fidelity:?}"))).unwrap();
            let dest = if case.contains("fp32dest1") { Dest::Bits32 } else { Dest::Bits16 };
            let a = if case.starts_with("aw_bfp8") { "a_bfp8" } else { "a" };
            let b = if case.contains("w_bfp8") { "b_bfp8" } else { "b" };
            let a = values(&file, &format!("{product}.{a}"));
            let b = values(&file, &format!("{product}.{b}"));
            let operand = Operand::from_inputs_by_outputs(&b, inputs, outputs);
            let math = Math { fidelity, dest };
            let got = matmul(&a, rows, &operand, math);
            if inputs == 64 {
                let plain = matmul_plain(&a, rows, &operand, math, Blocking::Whole);
                assert_eq!(to_bits(&got), to_bits(&plain), "{name}");
            }
            let got = match case.rsplit_once('_').unwrap().1 {
                "f32" => got,
                "bf16" => got.into_iter().map(pack_bf16).collect(),
                _ => pack_bfp8(&got),
            };
            let want = bits(&file, &name);
            let unequal = to_bits(&got).iter().zip(&want).filter(|(got, want)| got != want).count();
            assert_eq!((unequal, got.len()), (0, want.len()), "{name}");
        }
    }
    assert!(unseen.is_empty(), "not tested: {unseen:?}");
}

/// A reproducible sequence (SplitMix64).
struct Random(u64);

impl Random {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, end: usize) -> usize {
        (self.bits() % end as u64) as usize
    }
}

/// What numbers an operand holds.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// Like a bell curve, with all bits of `f32`.
    Plain,
    /// The same in bf16.
    Bf16,
    /// The same on a block grid with so many bits of magnitude.
    Block(u32),
    /// bf16 with exponents from a range of 60, and zeros.
    Wide,
    /// Few bits and few exponents: many products that lie halfway.
    Halves,
    /// Any bit pattern: infinities, NaN, denormals.
    Any,
    /// Exponents close to an end of their range.
    Ends,
    /// Mostly zeros, and few outliers.
    Sparse,
}

const KINDS: [Kind; 9] = [
    Kind::Plain,
    Kind::Bf16,
    Kind::Block(7),
    Kind::Block(3),
    Kind::Wide,
    Kind::Halves,
    Kind::Any,
    Kind::Ends,
    Kind::Sparse,
];

fn draw(random: &mut Random, kind: Kind, len: usize) -> Vec<f32> {
    let bf16 = |value: f32| f32::from_bits(value.to_bits() & 0xFFFF_0000);
    let mut values: Vec<f32> = (0..len)
        .map(|_| {
            let bell = (0..4).map(|_| random.below(1 << 24) as f32 / (1 << 23) as f32 - 1.0).sum::<f32>();
            let (bits, sign) = (random.bits() as u32, (random.bits() as u32) << 31);
            match kind {
                Kind::Plain => bell,
                Kind::Bf16 | Kind::Block(_) => bf16(bell),
                Kind::Wide if bits % 8 == 0 => 0.0,
                Kind::Wide => f32::from_bits(sign | (97 + bits % 60) << 23 | (bits >> 8 & 0x7F) << 16),
                Kind::Halves => f32::from_bits(sign | (120 + bits % 4) << 23 | (bits >> 8 & 7) << 20),
                Kind::Any => f32::from_bits(bits),
                Kind::Ends => f32::from_bits(sign | [1, 60, 190, 254][bits as usize % 4] << 23 | bits >> 9),
                Kind::Sparse if bits % 16 != 0 => 0.0,
                Kind::Sparse => bf16(bell * [1.0, 1e4, 1e-4][bits as usize / 16 % 3]),
            }
        })
        .collect();
    if let Kind::Block(magnitude) = kind {
        for block in values.chunks_mut(16) {
            let exponent = block.iter().map(|value| value.to_bits() >> 23 & 0xFF).max().unwrap() as i32;
            let unit = 2.0_f32.powi(exponent - 127 - (magnitude as i32 - 1));
            block.iter_mut().for_each(|value| *value = (*value / unit).trunc() * unit);
        }
    }
    values
}

#[test]
fn every_kernel_equals_the_plain_loops() {
    let mut random = Random(1);
    let mut shapes = vec![(1, 1, 1), (1, 70, 1), (3, 16, 33), (2, 33, 16), (5, 130, 17), (1, 300, 40)];
    shapes.extend((0..40).map(|_| (1 + random.below(9), 1 + random.below(200), 1 + random.below(50))));
    for (case, (rows, inputs, outputs)) in shapes.into_iter().cycle().take(400).enumerate() {
        let (x_kind, kind) = (KINDS[random.below(KINDS.len())], KINDS[random.below(KINDS.len())]);
        let x = draw(&mut random, x_kind, rows * inputs);
        let operand =
            Operand::from_inputs_by_outputs(&draw(&mut random, kind, inputs * outputs), inputs, outputs);
        let math = Math { fidelity: FIDELITIES[random.below(4)], dest: DESTS[random.below(2)] };
        let blocking = match NonZeroUsize::new(random.below(6)) {
            Some(tiles) => Blocking::Reload { tiles },
            None => Blocking::Whole,
        };
        let plain = to_bits(&matmul_plain(&x, rows, &operand, math, blocking));
        for isa in Isa::all() {
            let got = to_bits(&matmul_on(isa, &x, rows, &operand, math, blocking));
            assert!(
                got == plain,
                "case {case}: {isa:?}, {rows} x {inputs} x {outputs}, {x_kind:?} by {kind:?}, {math:?}, {blocking:?}"
            );
        }
    }
}

#[test]
fn both_layouts_hold_the_same_operand() {
    let mut random = Random(2);
    let by_outputs = draw(&mut random, Kind::Plain, 37 * 45);
    let by_inputs: Vec<_> = (0..37 * 45).map(|at| by_outputs[at % 45 * 37 + at / 45]).collect();
    let x = draw(&mut random, Kind::Plain, 3 * 37);
    let math = Math { fidelity: Fidelity::HiFi4, dest: Dest::Bits32 };
    let one = matmul(&x, 3, &Operand::from_outputs_by_inputs(&by_outputs, 45, 37), math);
    let other = matmul(&x, 3, &Operand::from_inputs_by_outputs(&by_inputs, 37, 45), math);
    assert_eq!(to_bits(&one), to_bits(&other));
    let near: f32 = (0..37).map(|k| x[k] * by_outputs[k]).sum();
    assert!((one[0] - near).abs() < 0.02, "{} and {near}", one[0]);
}

#[test]
fn nothing_times_something_is_zeros() {
    let math = Math { fidelity: Fidelity::LoFi, dest: Dest::Bits16 };
    assert!(matmul(&[], 0, &Operand::from_outputs_by_inputs(&[1.0; 6], 2, 3), math).is_empty());
    assert!(matmul(&[1.0; 6], 2, &Operand::from_outputs_by_inputs(&[], 0, 3), math).is_empty());
    assert_eq!(matmul(&[], 2, &Operand::from_outputs_by_inputs(&[], 3, 0), math), [0.0; 6]);
}

#[test]
fn a_short_block_reads_back_less_of_a_wide_accumulator() {
    let math = Math { fidelity: Fidelity::LoFi, dest: Dest::Bits32 };
    // 1 + 2^-12 leaves `Dst` in full and comes back as 1.
    let mut x = vec![0.0; 64];
    (x[0], x[1]) = (1.0, 2.0_f32.powi(-6));
    let mut weights = x.clone();
    weights[33] = 0.0;
    let operand = Operand::from_outputs_by_inputs(&weights, 1, 64);
    let blocked = |tiles| {
        let blocking = Blocking::Reload { tiles: NonZeroUsize::new(tiles).unwrap() };
        super::matmul_blocked(&x, 1, &operand, math, blocking)
    };
    assert_eq!(matmul(&x, 1, &operand, math), blocked(2));
    assert_eq!(blocked(1), [1.0]);
}

#[test]
fn the_packer_rounds_half_away_from_zero() {
    assert_eq!(pack_bf16(f32::from_bits(0x3F80_8000)).to_bits(), 0x3F81_0000);
    assert_eq!(pack_bf16(f32::from_bits(0xBF80_7FFF)).to_bits(), 0xBF80_0000);
    assert_eq!(pack_bf16(f32::MAX), f32::INFINITY);
    assert_eq!(pack_bf16(-f32::NAN), f32::NEG_INFINITY);
    assert_eq!(pack_bf16(f32::from_bits(0x8000_0001)).to_bits(), 0);
}

/// `cargo test --release -p smolvla-backend-tt speed -- --ignored --nocapture`
#[test]
#[ignore = "a measurement"]
#[allow(clippy::print_stderr, reason = "a measurement speaks to whoever started it")]
fn speed() {
    let mut random = Random(3);
    let (rows, inputs, outputs) = (128, 960, 960);
    let x = draw(&mut random, Kind::Bf16, rows * inputs);
    let operand = Operand::from_outputs_by_inputs(
        &draw(&mut random, Kind::Block(7), inputs * outputs),
        outputs,
        inputs,
    );
    let maths = FIDELITIES.into_iter().flat_map(|fidelity| DESTS.map(|dest| Math { fidelity, dest }));
    for (isa, math) in Isa::all().into_iter().flat_map(|isa| maths.clone().map(move |math| (isa, math))) {
        let seconds = (0..20).map(|_| {
            let start = std::time::Instant::now();
            std::hint::black_box(matmul_on(isa, &x, rows, &operand, math, Blocking::Whole));
            start.elapsed().as_secs_f64()
        });
        let best = seconds.fold(f64::INFINITY, f64::min);
        eprintln!("{isa:?}, {math:?}: {:.2} GMAC/s", (rows * inputs * outputs) as f64 / best / 1e9);
    }
}
