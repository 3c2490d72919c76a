#![allow(clippy::print_stdout, reason = "the tests say what they compared, case by case")]

use std::time::Instant;

use safetensors::SafeTensors;

use super::*;

/// One matrix of bfloat16 patterns, and its number of columns.
fn matrix(file: &'static [u8], name: &str) -> (Vec<f32>, usize) {
    let tensors = SafeTensors::deserialize(file).unwrap();
    let tensor = tensors.tensor(name).unwrap();
    let widen = |&pair: &[u8; 2]| f32::from_bits(u32::from(u16::from_le_bytes(pair)) << 16);
    (tensor.data().as_chunks::<2>().0.iter().map(widen).collect(), tensor.shape()[1])
}

const ROWS: &[u8] = include_bytes!("fixtures/rows.safetensors");
const TILE: &[u8] = include_bytes!("fixtures/tile.safetensors");

type Kernel = fn(&mut [f32], usize);

fn softmax_default(values: &mut [f32], cols: usize) {
    softmax(values, cols, KernelConfig::SOFTMAX);
}

fn layer_norm_default(values: &mut [f32], cols: usize) {
    layer_norm(values, cols, 1e-6, None, None, KernelConfig::LAYER_NORM);
}

fn rms_norm_default(values: &mut [f32], cols: usize) {
    rms_norm(values, cols, 1e-5, None, None, KernelConfig::RMS_NORM);
}

fn twice(values: &mut [f32], _: usize) {
    let other = values.to_vec();
    add(values, &other, Dest::Bits16, Format::Bf16);
}

/// Measured cases: file, input, output, kernel.
const MEASURED: [(&[u8], &str, &str, Kernel); 8] = [
    (ROWS, "softmax128.x", "softmax128.stable", softmax_default),
    (ROWS, "softmax960.x", "softmax960.stable", softmax_default),
    (TILE, "X", "softmax", softmax_default),
    (ROWS, "rms_norm960.x", "rms_norm960", rms_norm_default),
    (TILE, "X", "rms_norm", rms_norm_default),
    (ROWS, "layer_norm768.x", "layer_norm768", layer_norm_default),
    (TILE, "X", "layer_norm", layer_norm_default),
    (TILE, "X", "add", twice),
];

/// Share of elements whose bits differ, and the difference's Frobenius norm relative to `want`.
fn difference(got: &[f32], want: &[f32]) -> (f64, f64) {
    assert_eq!(got.len(), want.len());
    let differing = got.iter().zip(want).filter(|(g, w)| g.to_bits() != w.to_bits()).count();
    let squares = |sum: f64, x: f64| sum + x * x;
    let error = got.iter().zip(want).map(|(g, w)| f64::from(*g) - f64::from(*w)).fold(0.0, squares);
    let size = want.iter().map(|&w| f64::from(w)).fold(0.0, squares);
    (differing as f64 / want.len() as f64, (error / size).sqrt())
}

#[test]
fn measured_cases_are_equal_bit_for_bit() {
    let mut equal = 0;
    for (file, input, output, kernel) in MEASURED {
        let (mut values, cols) = matrix(file, input);
        let (want, _) = matrix(file, output);
        kernel(&mut values, cols);
        let (share, error) = difference(&values, &want);
        println!(
            "{output}: {:.2} % of {} elements differ, relative difference {error:.2e}",
            100.0 * share,
            want.len()
        );
        equal += usize::from(share == 0.0);
    }
    assert_eq!(equal, MEASURED.len());
}
#[test]
fn measured_cases_need_their_configuration() {
    // The other destination width, and lower fidelity, differ: the equality above is no coincidence.
    let (input, cols) = matrix(ROWS, "layer_norm768.x");
    let (want, _) = matrix(ROWS, "layer_norm768");
    for config in [
        KernelConfig { dest: Dest::Bits16, ..KernelConfig::LAYER_NORM },
        KernelConfig { fidelity: Fidelity::HiFi2, ..KernelConfig::LAYER_NORM },
        KernelConfig { intermediate: Format::Bf16, ..KernelConfig::LAYER_NORM },
    ] {
        let mut values = input.clone();
        layer_norm(&mut values, cols, 1e-6, None, None, config);
        let (share, error) = difference(&values, &want);
        println!("{config:?}: {:.0} % differ, relative difference {error:.1e}", 100.0 * share);
        assert!(share > 0.2 && error < 1e-2);
    }
}

/// A row of bfloat16 values between -4 and 4.
fn noise(len: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    let mut row: Vec<f32> = (0..len)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 21) as f32 - 4.0
        })
        .collect();
    Format::Bf16.round_host(&mut row);
    row
}

/// Both widths with formats that fit, precise functions.
const PRECISE: [KernelConfig; 2] = [
    KernelConfig { approximate: false, ..KernelConfig::RMS_NORM },
    KernelConfig { output: Format::F32, ..KernelConfig::LAYER_NORM },
];

#[test]
fn softmax_is_near_the_true_one_with_and_without_masks() {
    for (config, bound) in [(PRECISE[0], 3e-2), (PRECISE[1], 2e-3), (KernelConfig::SOFTMAX, 2e-2)] {
        // Seven columns short of two tiles, the last five masked.
        let (cols, masked) = (57, 5);
        for mask in [f32::NEG_INFINITY, -1e30, -1e4] {
            let mut values = noise(4 * cols, 3);
            for row in values.chunks_mut(cols) {
                row[cols - masked..].fill(mask);
            }
            let want: Vec<f32> = values
                .chunks(cols)
                .flat_map(|row| {
                    let sum: f64 = row.iter().map(|&x| f64::from(x).exp()).sum();
                    row.iter().map(move |&x| (f64::from(x).exp() / sum) as f32)
                })
                .collect();
            softmax(&mut values, cols, config);
            let (_, error) = difference(&values, &want);
            assert!(error < bound, "{config:?}, {mask}: {error}");
            assert!(values.chunks(cols).all(|row| row[cols - masked..].iter().all(|&x| x == 0.0)));
        }
    }
}

#[test]
fn a_fully_masked_row_gets_equal_weights() {
    for config in [PRECISE[0], PRECISE[1], KernelConfig::SOFTMAX] {
        for mask in [f32::NEG_INFINITY, f32::MIN, -1e9, 0.0] {
            let mut row = [mask; 64];
            softmax(&mut row, 64, config);
            assert!(
                row.iter().all(|&x| x == row[0] && (x - 1.0 / 64.0).abs() < 1e-3),
                "{config:?}, {mask}: {row:?}"
            );
        }
    }
}

#[test]
fn norms_with_gain_and_bias_are_near_the_true_ones() {
    // Two tiles and a half.
    let (rows, cols, eps) = (3, 80, 1e-3);
    let (gain, bias) = (noise(cols, 11), noise(cols, 12));
    for (config, bound) in [(PRECISE[0], 3e-2), (PRECISE[1], 2e-3)] {
        for centred in [false, true] {
            let input = noise(rows * cols, 5);
            let want: Vec<f32> = input
                .chunks(cols)
                .flat_map(|row| {
                    let mean = if centred {
                        row.iter().map(|&x| f64::from(x)).sum::<f64>() / cols as f64
                    } else {
                        0.0
                    };
                    let variance =
                        row.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / cols as f64;
                    let factor = 1.0 / (variance + eps).sqrt();
                    let normal = move |x: f32| (f64::from(x) - mean) * factor;
                    row.iter()
                        .zip(gain.iter().zip(&bias))
                        .map(move |(&x, (&g, &b))| (normal(x) * f64::from(g) + f64::from(b)) as f32)
                })
                .collect();
            let mut values = input.clone();
            let norm = if centred { layer_norm } else { rms_norm };
            norm(&mut values, cols, eps as f32, Some(&gain), Some(&bias), config);
            let (_, error) = difference(&values, &want);
            println!("centred {centred}, {:?}: {error:.1e}", config.dest);
            assert!(error < bound, "{config:?}: {error}");
        }
    }
}

#[test]
fn results_can_be_block_floats() {
    let mut plain = noise(96, 9);
    let mut blocks = plain.clone();
    layer_norm(&mut plain, 48, 1e-6, None, None, PRECISE[1]);
    for row in plain.chunks_mut(48) {
        Format::Bfp8.pack(row, Dest::Bits32);
    }
    let config = KernelConfig { output: Format::Bfp8, ..PRECISE[1] };
    layer_norm(&mut blocks, 48, 1e-6, None, None, config);
    assert_eq!(plain, blocks);
}

#[test]
fn element_wise_kernels() {
    let (a, b) = (noise(1500, 1), noise(1500, 2));
    let run = |kernel: &dyn Fn(&mut [f32])| {
        let mut values = a.clone();
        kernel(&mut values);
        values
    };
    // Products of two bfloat16 numbers are exact in 32 bits at the highest fidelity.
    let exact: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a * b).collect();
    let wide = run(&|v| mul(v, &b, Dest::Bits32, Fidelity::HiFi4, Format::F32));
    assert!(wide.iter().zip(&exact).all(|(x, y)| x == y));
    let (_, error) = difference(&run(&|v| mul(v, &b, Dest::Bits16, Fidelity::HiFi4, Format::Bf16)), &exact);
    assert!(error < 4e-3, "{error}");
    let sums: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a + b).collect();
    for (dest, bound) in [(Dest::Bits16, 3e-3), (Dest::Bits32, 3e-4)] {
        let (_, error) = difference(&run(&|v| add(v, &b, dest, Format::F32)), &sums);
        assert!(error < bound, "{error}");
    }
    assert_eq!(run(&|v| add_f32(v, &b)), sums);
    let cut: Vec<f32> = a.iter().map(|x| truncate_bf16(x * 0.3)).collect();
    assert_eq!(run(&|v| scale(v, 0.3, Dest::Bits16, Format::Bf16)), cut);
    let scaled: Vec<f32> = a.iter().map(|x| x * 0.3).collect();
    assert_eq!(run(&|v| scale(v, 0.3, Dest::Bits32, Format::F32)), scaled);
}

#[test]
fn empty_matrices_are_fine() {
    softmax(&mut [], 0, KernelConfig::SOFTMAX);
    rms_norm(&mut [], 4, 1e-5, None, None, KernelConfig::RMS_NORM);
}

#[test]
#[should_panic(expected = "7 values in rows of 3")]
fn ragged_matrices_are_refused() {
    softmax(&mut [0.0; 7], 3, KernelConfig::SOFTMAX);
}

#[test]
#[ignore = "prints timings; run it alone"]
fn speed() {
    let (rows, cols) = (2048, 1024);
    let input = noise(rows * cols, 1);
    let time = |name: &str, kernel: &dyn Fn(&mut [f32])| {
        let mut values = input.clone();
        let seconds = (0..5).map(|_| {
            values.copy_from_slice(&input);
            let start = Instant::now();
            kernel(&mut values);
            start.elapsed().as_secs_f64()
        });
        println!("{name}: {:.0} M values/s", input.len() as f64 / seconds.fold(f64::MAX, f64::min) / 1e6);
    };
    for dest in [Dest::Bits16, Dest::Bits32] {
        let with = |config: KernelConfig| KernelConfig { dest, ..config };
        time(&format!("softmax {dest:?}"), &|v| softmax(v, cols, with(KernelConfig::SOFTMAX)));
        let config = with(KernelConfig::LAYER_NORM);
        time(&format!("layer_norm {dest:?}"), &|v| layer_norm(v, cols, 1e-6, None, None, config));
        let config = with(KernelConfig::RMS_NORM);
        time(&format!("rms_norm {dest:?}"), &|v| rms_norm(v, cols, 1e-5, None, None, config));
        time(&format!("add {dest:?}"), &|v| add(v, &input, dest, Format::Bf16));
        time(&format!("mul {dest:?}"), &|v| mul(v, &input, dest, Fidelity::HiFi4, Format::Bf16));
        time(&format!("scale {dest:?}"), &|v| scale(v, 0.3, dest, Format::Bf16));
        time(&format!("gelu bf16 {dest:?}"), &|v| Unary::Gelu.apply(v, dest, Format::Bf16, Format::Bf16));
        time(&format!("gelu f32 {dest:?}"), &|v| Unary::Gelu.apply(v, dest, Format::F32, Format::F32));
    }
    for format in [Format::Bf16, Format::Bfp8, Format::Bfp4] {
        time(&format!("host to {format:?}"), &|v| format.round_host(v));
        time(&format!("packer to {format:?}"), &|v| format.pack(v, Dest::Bits16));
    }
}
