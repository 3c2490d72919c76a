//! Products and attention against plain loops, on every instruction set of this processor.

use half::bf16;
use smolvla_core::Backend;
use smolvla_core::backend::{Activation, AttentionShape, Matrix, Precision};
use smolvla_core::graph::KeyValue;
use smolvla_core::weights::{LinearSource, StorageType, TensorView};

use super::attention::{HeadColumns, PackedSegment, Rotary, attend};
use super::backend::{CpuBackend, Options};
use super::engine::Engine;
use super::isa::Isa;
use super::layers::linear;
use super::mask::Mask;
use super::product::{Finish, Target};
use super::rows::Norm;
use super::weights::{Operand, Weights};

/// Values from a fixed sequence, uniform in `[-1, 1]`.
struct Values(u64);

impl Values {
    fn take(&mut self, count: usize) -> Vec<f32> {
        (0..count)
            .map(|_| {
                self.0 ^= self.0 << 13;
                self.0 ^= self.0 >> 7;
                self.0 ^= self.0 << 17;
                (self.0 >> 40) as f32 / (1 << 23) as f32 - 1.0
            })
            .collect()
    }
}

/// Every instruction set of this processor, and AMX under emulation where the processor lacks it.
fn instruction_sets() -> Vec<Isa> {
    let mut sets = Isa::available();
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    if !Isa::Amx.is_available() && Isa::Avx512Bf16.is_available() {
        super::kernels::emulator::install();
        sets.push(Isa::Amx);
    }
    sets
}

fn engines() -> impl Iterator<Item = Engine> {
    instruction_sets().into_iter().map(|isa| Engine::new(isa, 2, false).unwrap())
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn weights(
    engine: &Engine,
    parts: &[(usize, &[f32])],
    inputs: usize,
    bias: Option<&[f32]>,
    p: Precision,
) -> Weights {
    let stored: Vec<_> = parts.iter().map(|(rows, values)| (*rows, bytes(values))).collect();
    let bias_bytes = bias.map(bytes);
    let mut biases = Vec::new();
    if let Some(stored_bias) = &bias_bytes {
        let mut start = 0;
        for (rows, _) in parts {
            let part = &stored_bias[start * 4..(start + rows) * 4];
            biases.push(TensorView::new(StorageType::F32, 1, *rows, part).unwrap());
            start += rows;
        }
    }
    let weights = stored
        .iter()
        .map(|(rows, bytes)| TensorView::new(StorageType::F32, *rows, inputs, bytes).unwrap())
        .collect();
    Weights::pack(
        &LinearSource { name: "test".into(), path: "test".into(), weights, biases },
        p,
        &engine.pool,
    )
    .unwrap()
}

/// What the engine may be off by, relative to the sum of the products' sizes: f32 rounds sums of up to 512 products; bf16
/// rounds both factors by 2⁻⁹; integers round both to a 254th of the largest of their row.
fn tolerance(precision: Precision) -> f64 {
    match precision {
        Precision::F32 => 1e-6,
        Precision::Bf16 => 2.0 / 256.0,
        Precision::Int8 => 2.0 / 80.0,
        _ => 2.0 / 100.0,
    }
}

const PRECISIONS: [Precision; 4] = [Precision::F32, Precision::Bf16, Precision::Int8, Precision::Int8Weights];

#[test]
fn linear_matches_the_plain_loop_on_every_instruction_set() {
    let mut values = Values(1);
    for engine in engines() {
        for precision in PRECISIONS {
            for (rows, inputs, outputs) in [
                (1, 1, 1),
                (2, 15, 16),
                (3, 16, 17),
                (5, 31, 33),
                (12, 32, 32),
                (13, 63, 31),
                (16, 64, 64),
                (17, 65, 48),
                (33, 100, 90),
                (50, 720, 97),
                (113, 40, 130),
            ] {
                let x = values.take(rows * inputs);
                let w = values.take(outputs * inputs);
                let bias = values.take(outputs);
                let residual = values.take(outputs * rows);
                let packed = weights(&engine, &[(outputs, &w)], inputs, Some(&bias), precision);
                let finish = Finish { residual: Some(&residual), ..Finish::default() };
                let y = linear(&engine, &x, Norm::None, &packed, finish);
                assert_eq!((y.rows(), y.cols()), (rows, outputs));
                for (index, &y) in y.values().iter().enumerate() {
                    let (row, output) = (index / outputs, index % outputs);
                    let (x, w) = (&x[row * inputs..][..inputs], &w[output * inputs..][..inputs]);
                    let products = x.iter().zip(w).map(|(&x, &w)| f64::from(x) * f64::from(w));
                    let expected =
                        products.clone().sum::<f64>() + f64::from(bias[output]) + f64::from(residual[index]);
                    let size = products.map(f64::abs).sum::<f64>() + 1.0;
                    let error = (f64::from(y) - expected).abs() / size;
                    assert!(
                        error <= tolerance(precision),
                        "{} {precision} {rows}×{inputs}×{outputs} [{row}, {output}]: {y}, expected {expected}",
                        engine.isa
                    );
                }
            }
        }
    }
}

/// Rounding is checked exactly: the engine's bf16 products are those of the rounded factors, and its integers lose nothing.
#[test]
fn linear_rounds_operands_and_nothing_else() {
    let mut values = Values(2);
    let (rows, inputs, outputs) = (7, 70, 40);
    let rounded =
        |values: Vec<f32>| values.into_iter().map(|v| bf16::from_f32(v).to_f32()).collect::<Vec<_>>();
    let (x, w) = (rounded(values.take(rows * inputs)), rounded(values.take(outputs * inputs)));
    // Integers with a 127 in each row: scales are powers of two, and no value is rounded.
    let whole = |values: Vec<f32>, width: usize| {
        let mut values: Vec<_> = values.into_iter().map(|v| (v * 127.0).round()).collect();
        values.iter_mut().step_by(width).for_each(|v| *v = 127.0);
        values
    };
    let (xi, wi) = (whole(values.take(rows * inputs), inputs), whole(values.take(outputs * inputs), inputs));
    for engine in engines() {
        for (precision, x, w) in
            [(Precision::Bf16, &x, &w), (Precision::Int8, &xi, &wi), (Precision::Int8Weights, &xi, &wi)]
        {
            let packed = weights(&engine, &[(outputs, w)], inputs, None, precision);
            let y = linear(&engine, x, Norm::None, &packed, Finish::default());
            for (index, &y) in y.values().iter().enumerate() {
                let (row, output) = (index / outputs, index % outputs);
                let products =
                    (0..inputs).map(|k| f64::from(x[row * inputs + k]) * f64::from(w[output * inputs + k]));
                let size: f64 = products.clone().map(f64::abs).sum();
                let error = (f64::from(y) - products.sum::<f64>()).abs() / size;
                assert!(error < 1e-6, "{} {precision} [{row}, {output}]: off by {error:e}", engine.isa);
            }
        }
    }
}

#[test]
fn gates_meet_their_up_projections() {
    let mut values = Values(3);
    let (rows, inputs) = (6, 20);
    for width in [16, 32, 48] {
        let x = values.take(rows * inputs);
        let (gate, up) = (values.take(width * inputs), values.take(width * inputs));
        for engine in engines() {
            for precision in PRECISIONS {
                let both = weights(&engine, &[(width, &gate), (width, &up)], inputs, None, precision);
                assert!(both.paired());
                let plain = linear(&engine, &x, Norm::None, &both, Finish::default());
                let gated =
                    linear(&engine, &x, Norm::None, &both, Finish { gated: true, ..Finish::default() });
                for row in 0..rows {
                    for column in 0..width {
                        let g = f64::from(plain.values()[row * 2 * width + column]);
                        let u = f64::from(plain.values()[row * 2 * width + width + column]);
                        let expected = g / (1.0 + (-g).exp()) * u;
                        let y = f64::from(gated.values()[row * width + column]);
                        assert!(
                            (y - expected).abs() < 1e-5,
                            "{} {precision}: {y}, expected {expected}",
                            engine.isa
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn activations_hold_for_extreme_inputs() {
    let x: Vec<f32> = vec![
        0.0, -0.0, 1e-30, -1e-30, 0.5, -0.5, 5.0, -5.0, 30.0, -30.0, 90.0, -90.0, 1e4, -1e4, 3e38, -3e38,
    ];
    for engine in engines() {
        for activation in [Activation::GeluTanh, Activation::Silu] {
            let mut out = engine.arena.take::<f32>(x.len());
            super::elementwise::apply(&engine, super::elementwise::Map::Activate(activation), &x, &mut out);
            for (&x, &y) in x.iter().zip(out.as_slice::<f32>()) {
                let wide = f64::from(x);
                let inner = match activation {
                    Activation::Silu => wide,
                    Activation::GeluTanh => {
                        2.0 * (2.0 / std::f64::consts::PI).sqrt() * (wide + 0.044715 * wide.powi(3))
                    }
                };
                let expected = wide / (1.0 + (-inner).exp());
                let error = (f64::from(y) - expected).abs();
                // The exponent is rounded too: by 2⁻²⁴ of itself, which the result feels as much.
                let relative = 3e-7 * (1.0 + inner.abs().min(100.0));
                assert!(
                    error <= relative * expected.abs() + 1e-35,
                    "{} {activation:?}({x}): {y}, expected {expected}",
                    engine.isa
                );
            }
            let mut nan = engine.arena.take::<f32>(1);
            super::elementwise::apply(
                &engine,
                super::elementwise::Map::Activate(activation),
                &[f32::NAN],
                &mut nan,
            );
            assert!(nan.as_slice::<f32>()[0].is_nan(), "{} {activation:?}", engine.isa);
        }
    }
}

#[test]
fn a_nan_in_a_row_reaches_all_its_outputs_and_no_other_row() {
    let mut values = Values(4);
    let (rows, inputs, outputs) = (3, 70, 33);
    let mut x = values.take(rows * inputs);
    x[inputs + 5] = f32::NAN;
    let w = values.take(outputs * inputs);
    for engine in engines() {
        for precision in PRECISIONS {
            let packed = weights(&engine, &[(outputs, &w)], inputs, None, precision);
            let y = linear(&engine, &x, Norm::None, &packed, Finish::default());
            for (index, y) in y.values().iter().enumerate() {
                assert_eq!(y.is_nan(), index / outputs == 1, "{} {precision} {index}", engine.isa);
            }
        }
    }
}

#[test]
fn a_weight_that_is_no_number_reaches_its_output_and_no_other() {
    let mut values = Values(7);
    let (rows, inputs, outputs) = (3, 70, 33);
    let x = values.take(rows * inputs);
    let mut w = values.take(outputs * inputs);
    (w[4 * inputs + 9], w[20 * inputs]) = (f32::NAN, f32::INFINITY);
    for engine in engines() {
        for precision in PRECISIONS {
            let packed = weights(&engine, &[(outputs, &w)], inputs, None, precision);
            let y = linear(&engine, &x, Norm::None, &packed, Finish::default());
            for (index, y) in y.values().iter().enumerate() {
                let spoilt = [4, 20].contains(&(index % outputs));
                assert_eq!(!y.is_finite(), spoilt, "{} {precision} {index}", engine.isa);
            }
        }
    }
}

/// What a tensor looks like packed stays with it; as keys it is something else than as values.
#[test]
fn keys_and_values_may_change_places() {
    let cpu = CpuBackend::new(Options::default()).unwrap();
    let shape = AttentionShape { batch: 1, heads: 2, kv_heads: 1, head_dim: 16, scale: 0.25 };
    let mut values = Values(8);
    let (q, a, b) = (values.take(5 * 32), values.take(40 * 16), values.take(40 * 16));
    let upload = |values: &[f32], cols| cpu.upload(values, values.len() / cols, cols).unwrap();
    let q = upload(&q, 32);
    let attend = |kv: &KeyValue<_>| {
        let out = cpu.attention(&q, &[kv], None, shape).unwrap();
        cpu.download(&out).unwrap()
    };
    let kv = KeyValue { key: upload(&a, 16), value: upload(&b, 16) };
    let first = attend(&kv);
    let swapped = KeyValue { key: kv.value, value: kv.key };
    let fresh = attend(&KeyValue { key: upload(&b, 16), value: upload(&a, 16) });
    assert_eq!(attend(&swapped), fresh);
    assert_ne!(first, fresh);
    // Nor does another number of heads take what was packed for one.
    let shape = AttentionShape { heads: 4, kv_heads: 2, head_dim: 8, ..shape };
    let attend = |kv: &KeyValue<_>| cpu.download(&cpu.attention(&q, &[kv], None, shape).unwrap()).unwrap();
    assert_eq!(attend(&swapped), attend(&KeyValue { key: upload(&b, 16), value: upload(&a, 16) }));
}

struct Attention {
    shape: AttentionShape,
    queries: usize,
    segments: Vec<usize>,
    masked: bool,
    rotary: bool,
}

#[test]
fn attention_matches_the_plain_loop_on_every_instruction_set() {
    let shape = |batch, heads, kv_heads, head_dim: usize| AttentionShape {
        batch,
        heads,
        kv_heads,
        head_dim,
        scale: (head_dim as f32).powf(-0.5),
    };
    let cases = [
        Attention { shape: shape(1, 1, 1, 2), queries: 1, segments: vec![1], masked: false, rotary: false },
        Attention { shape: shape(2, 2, 1, 8), queries: 3, segments: vec![5], masked: true, rotary: true },
        Attention { shape: shape(1, 3, 1, 40), queries: 13, segments: vec![33], masked: false, rotary: true },
        Attention {
            shape: shape(2, 4, 2, 64),
            queries: 17,
            segments: vec![31, 17],
            masked: true,
            rotary: true,
        },
        Attention {
            shape: shape(1, 2, 2, 64),
            queries: 40,
            segments: vec![300],
            masked: true,
            rotary: false,
        },
        Attention {
            shape: shape(1, 1, 1, 96),
            queries: 5,
            segments: vec![256, 1, 64],
            masked: true,
            rotary: true,
        },
    ];
    let mut values = Values(5);
    for case in &cases {
        let keys: usize = case.segments.iter().sum();
        let AttentionShape { batch, heads, kv_heads, head_dim, .. } = case.shape;
        let (width, kv_width) = (heads * head_dim, kv_heads * head_dim);
        let q = values.take(batch * case.queries * width);
        let kv: Vec<(Vec<f32>, Vec<f32>)> = case
            .segments
            .iter()
            .map(|keys| (values.take(batch * keys * kv_width), values.take(batch * keys * kv_width)))
            .collect();
        let angles = values.take(case.queries * head_dim / 2);
        let (cos, sin): (Vec<f32>, Vec<f32>) = angles.iter().map(|a| (a.cos(), a.sin())).unzip();
        // Every query sees some keys; the last one of the last observation sees none.
        let mut allowed: Vec<bool> = (0..batch * case.queries * keys).map(|i| i % 3 != 1).collect();
        let last = allowed.len() - keys;
        allowed[last..].fill(false);
        let mask = case.masked.then(|| Mask::new(&allowed, batch, case.queries, keys));

        for engine in engines() {
            for operand in [Operand::F32, Operand::Bf16] {
                let columns = |data, stride| HeadColumns { data, stride, start: 0 };
                let packed: Vec<_> = kv
                    .iter()
                    .map(|(k, v)| {
                        (
                            PackedSegment::keys(&engine, operand, &case.shape, columns(k, kv_width), None),
                            PackedSegment::values(&engine, operand, &case.shape, columns(v, kv_width)),
                        )
                    })
                    .collect();
                let segments: Vec<_> = packed.iter().map(|(k, v)| (k, v)).collect();
                let rotary = case.rotary.then_some(Rotary { cos: &cos, sin: &sin });
                let mut out = engine.arena.take::<f32>(q.len());
                let target = Target::Matrix(out.shared(), width);
                attend(
                    &engine,
                    operand,
                    &case.shape,
                    columns(&q, width),
                    rotary,
                    &segments,
                    mask.as_ref(),
                    target,
                );

                let limit = if operand == Operand::F32 { 2e-6 } else { 2e-2 };
                for (index, &y) in out.as_slice::<f32>().iter().enumerate() {
                    let (row, column) = (index / width, index % width);
                    let (observation, query) = (row / case.queries, row % case.queries);
                    let (head, dim) = (column / head_dim, column % head_dim);
                    let kv_head = head / (heads / kv_heads);
                    let mut query_values: Vec<f64> = q[row * width + head * head_dim..][..head_dim]
                        .iter()
                        .map(|&x| f64::from(x))
                        .collect();
                    if case.rotary {
                        let half = head_dim / 2;
                        for j in 0..half {
                            let (c, s) = (f64::from(cos[query * half + j]), f64::from(sin[query * half + j]));
                            let (x1, x2) = (query_values[j], query_values[j + half]);
                            (query_values[j], query_values[j + half]) = (x1 * c - x2 * s, x2 * c + x1 * s);
                        }
                    }
                    let mut scores = Vec::new();
                    let mut seen = Vec::new();
                    for (segment, &count) in kv.iter().zip(&case.segments) {
                        for key in 0..count {
                            let at = (observation * count + key) * kv_width + kv_head * head_dim;
                            let score: f64 = query_values
                                .iter()
                                .zip(&segment.0[at..])
                                .map(|(q, &k)| q * f64::from(k))
                                .sum::<f64>()
                                * f64::from(case.shape.scale);
                            let visible = !case.masked || allowed[row * keys + scores.len()];
                            scores.push(if visible { score } else { f64::from(f32::MIN) });
                            seen.push(f64::from(segment.1[at + dim]));
                        }
                    }
                    let greatest = scores.iter().copied().fold(f64::MIN, f64::max);
                    let weights: Vec<f64> = scores.iter().map(|score| (score - greatest).exp()).collect();
                    let expected = weights.iter().zip(&seen).map(|(w, v)| w * v).sum::<f64>()
                        / weights.iter().sum::<f64>();
                    assert!(
                        (f64::from(y) - expected).abs() <= limit,
                        "{} {operand:?} {:?} [{row}, {column}]: {y}, expected {expected}",
                        engine.isa,
                        case.shape
                    );
                }
            }
        }
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let mut values = Values(6);
    let (rows, inputs, outputs) = (61, 96, 200);
    let (x, w) = (values.take(rows * inputs), values.take(outputs * inputs));
    for isa in instruction_sets() {
        for precision in PRECISIONS {
            let run = |threads| {
                let engine = Engine::new(isa, threads, false).unwrap();
                let packed = weights(&engine, &[(outputs, &w)], inputs, None, precision);
                linear(&engine, &x, Norm::None, &packed, Finish::default()).values().to_vec()
            };
            let one = run(1);
            for threads in [2, 3, 5] {
                assert_eq!(run(threads), one, "{isa} {precision}, {threads} threads");
            }
        }
    }
}
