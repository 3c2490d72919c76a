//! Each kernel against the form composed of Burn's operations, on the same device: matrices that are contiguous, columns
//! of a wider matrix, and transposed.

use std::process::ExitCode;

use libtest_mimic::Failed;
use smolvla_backend_wgpu::{Options, WgpuBackend, WgpuMatrix};
use smolvla_core::Backend;
use smolvla_core::backend::{AttentionShape, Epilogue, Matrix, Precision};
use smolvla_core::graph::KeyValue;
use smolvla_core::weights::{LinearSource, StorageType, TensorView};

use crate::support::{self, Test};

/// How a matrix lies in memory.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Layout {
    Contiguous,
    /// Columns in the middle of a wider matrix.
    Columns,
    Transposed,
}

const LAYOUTS: [Layout; 3] = [Layout::Contiguous, Layout::Columns, Layout::Transposed];

pub(crate) fn main() -> ExitCode {
    let tests: [(&str, Test); 6] = [
        ("norms", norms),
        ("rope", rope),
        ("silu_mul", silu_mul),
        ("attention", attention),
        ("attention_where_nothing_is_allowed", attention_where_nothing_is_allowed),
        ("linear_of_any_layout", linear),
    ];
    support::main(tests.map(|(name, test)| (name.to_owned(), test)))
}

/// Numbers between -2 and 2 that look random.
fn values(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(12345);
    (0..count)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 22) as f32 - 2.0
        })
        .collect()
}

/// A matrix of [`values`].
fn matrix(backend: &WgpuBackend, [rows, cols]: [usize; 2], layout: Layout, seed: u32) -> WgpuMatrix {
    let values = values(rows * cols, seed);
    match layout {
        Layout::Contiguous => backend.upload(&values, rows, cols).unwrap(),
        Layout::Transposed => {
            let turned: Vec<f32> =
                (0..cols).flat_map(|c| values.iter().skip(c).step_by(cols).copied()).collect();
            backend.upload(&turned, cols, rows).unwrap().transposed()
        }
        Layout::Columns => {
            let wide: Vec<f32> = values
                .chunks(cols)
                .flat_map(|row| [9.0, -9.0, 9.0].into_iter().chain(row.iter().copied()).chain([-9.0; 5]))
                .collect();
            let wide = backend.upload(&wide, rows, cols + 8).unwrap();
            backend.split_cols(&wide, &[3, cols, 5]).unwrap().swap_remove(1)
        }
    }
}

fn layer(
    backend: &WgpuBackend,
    weights: &[f32],
    [outputs, inputs]: [usize; 2],
    precision: Precision,
) -> <WgpuBackend as Backend>::Linear {
    let bytes: Vec<u8> = weights.iter().flat_map(|value| value.to_le_bytes()).collect();
    let view = TensorView::new(StorageType::F32, outputs, inputs, &bytes).unwrap();
    let source = LinearSource {
        name: "layer".to_owned(),
        path: "layer".to_owned(),
        weights: vec![view],
        biases: Vec::new(),
    };
    backend.prepare_linear(&source, precision).unwrap()
}

fn composed() -> WgpuBackend {
    let mut options = Options::default();
    options.composed = true;
    WgpuBackend::open(&options).unwrap()
}

/// Relative to the largest number, the difference is at most 3e-6: some roundings of sums in another order.
fn assert_close(
    what: &str,
    backend: &WgpuBackend,
    kernel: &WgpuMatrix,
    oracle: &WgpuMatrix,
) -> Result<(), Failed> {
    if (kernel.rows(), kernel.cols()) != (oracle.rows(), oracle.cols()) {
        return Err(Failed::from(format!("{what}: shapes differ")));
    }
    let [kernel, oracle] = [kernel, oracle].map(|x| backend.download(x).unwrap());
    let largest = oracle.iter().fold(0.0f32, |most, value| most.max(value.abs()));
    for (index, (a, b)) in kernel.iter().zip(&oracle).enumerate() {
        let difference = (a - b).abs();
        if difference.is_nan() || difference > 3e-6 * largest {
            return Err(Failed::from(format!("{what}: number {index} is {a}, composed {b}")));
        }
    }
    Ok(())
}

/// Every layout.
fn each(mut test: impl FnMut(Layout) -> Result<(), Failed>) -> Result<(), Failed> {
    LAYOUTS.into_iter().try_for_each(&mut test)
}

fn norms(backend: &WgpuBackend) -> Result<(), Failed> {
    let composed = composed();
    each(|layout| {
        for [rows, cols] in [[1, 1], [3, 24], [50, 720], [70, 65]] {
            let x = matrix(backend, [rows, cols], layout, 1);
            let gain = matrix(backend, [1, cols], layout, 2);
            let bias = matrix(backend, [1, cols], layout, 3);
            let [kernel, oracle] =
                [backend, &composed].map(|b| b.layer_norm(&x, &gain, &bias, 1e-6).unwrap());
            assert_close(&format!("layer_norm {rows}×{cols}, {layout:?}"), backend, &kernel, &oracle)?;
            let [kernel, oracle] = [backend, &composed].map(|b| b.rms_norm(&x, &gain, 1e-5).unwrap());
            assert_close(&format!("rms_norm {rows}×{cols}, {layout:?}"), backend, &kernel, &oracle)?;
        }
        Ok(())
    })
}

fn rope(backend: &WgpuBackend) -> Result<(), Failed> {
    let composed = composed();
    each(|layout| {
        for (rows, period, heads, half) in [(6, 6, 1, 1), (6, 3, 2, 4), (100, 50, 15, 32)] {
            let x = matrix(backend, [rows, heads * 2 * half], layout, 1);
            let cos = matrix(backend, [period, half], layout, 2);
            let sin = matrix(backend, [period, half], layout, 3);
            let [kernel, oracle] = [backend, &composed].map(|b| b.rope(&x, &cos, &sin).unwrap());
            assert_close(&format!("rope of {rows} rows, {layout:?}"), backend, &kernel, &oracle)?;
        }
        Ok(())
    })
}

fn silu_mul(backend: &WgpuBackend) -> Result<(), Failed> {
    let composed = composed();
    each(|layout| {
        for [rows, cols] in [[1, 2], [5, 14], [50, 400]] {
            let x = matrix(backend, [rows, cols], layout, 1);
            let [kernel, oracle] = [backend, &composed].map(|b| b.silu_mul(&x).unwrap());
            assert_close(&format!("silu_mul {rows}×{cols}, {layout:?}"), backend, &kernel, &oracle)?;
        }
        Ok(())
    })
}

/// Batch, queries, keys of each segment; heads, key/value heads, width of a head.
type Sizes = (usize, usize, &'static [usize], usize, usize, usize);

const ATTENTIONS: [Sizes; 4] = [
    (1, 1, &[1], 1, 1, 1),
    (2, 7, &[5], 4, 2, 128),
    (1, 50, &[113, 50], 15, 5, 64),
    (3, 65, &[16, 17], 2, 1, 16),
];

fn attention(backend: &WgpuBackend) -> Result<(), Failed> {
    let composed = composed();
    each(|layout| {
        for (batch, queries, segments, heads, kv_heads, head_dim) in ATTENTIONS {
            let shape =
                AttentionShape { batch, heads, kv_heads, head_dim, scale: (head_dim as f32).powf(-0.5) };
            let q = matrix(backend, [batch * queries, heads * head_dim], layout, 1);
            let kv: Vec<KeyValue<WgpuMatrix>> = segments
                .iter()
                .zip(2..)
                .map(|(&keys, seed)| KeyValue {
                    key: matrix(backend, [batch * keys, kv_heads * head_dim], layout, seed),
                    value: matrix(backend, [batch * keys, kv_heads * head_dim], layout, 10 + seed),
                })
                .collect();
            let kv: Vec<&KeyValue<WgpuMatrix>> = kv.iter().collect();
            let keys: usize = segments.iter().sum();
            // At random; and all of the first keys, as of an absent camera: a whole tile of the kernel.
            let scattered: Vec<bool> = values(batch * queries * keys, 7).iter().map(|v| *v < 1.0).collect();
            let late: Vec<bool> = (0..batch * queries * keys).map(|i| i % keys >= 20.min(keys - 1)).collect();
            let [scattered, late] =
                [scattered, late].map(|allowed| backend.upload_mask(&allowed, batch, queries, keys).unwrap());
            for mask in [None, Some(&scattered), Some(&late)] {
                let [kernel, oracle] =
                    [backend, &composed].map(|b| b.attention(&q, &kv, mask, shape).unwrap());
                let what =
                    format!("attention {shape:?} over {segments:?}, masked {}, {layout:?}", mask.is_some());
                assert_close(&what, backend, &kernel, &oracle)?;
            }
        }
        Ok(())
    })
}

/// The mean of all values.
fn attention_where_nothing_is_allowed(backend: &WgpuBackend) -> Result<(), Failed> {
    let shape = AttentionShape { batch: 1, heads: 1, kv_heads: 1, head_dim: 4, scale: 0.5 };
    let [q, key, value] = [1, 2, 3].map(|seed| matrix(backend, [20, 4], Layout::Contiguous, seed));
    let mask = backend.upload_mask(&[false; 400], 1, 20, 20).unwrap();
    let all = values(80, 3);
    let kv = KeyValue { key, value };
    let out = backend.attention(&q, &[&kv], Some(&mask), shape).unwrap();
    for (index, number) in backend.download(&out).unwrap().into_iter().enumerate() {
        let mean = all.iter().skip(index % 4).step_by(4).sum::<f32>() / 20.0;
        if (number - mean).abs() > 1e-6 {
            return Err(Failed::from(format!("number {index} is {number}, the mean is {mean}")));
        }
    }
    Ok(())
}

/// Products of views are those of copies: Burn's tracker knows of ones that were not.
fn linear(backend: &WgpuBackend) -> Result<(), Failed> {
    let precisions = backend.capabilities().precisions;
    each(|layout| {
        for [rows, inputs, outputs] in [[1, 8, 8], [7, 33, 20], [50, 72, 96]] {
            for precision in precisions.iter().copied() {
                let weights = layer(backend, &values(outputs * inputs, 4), [outputs, inputs], precision);
                let product = |layout| {
                    let x = matrix(backend, [rows, inputs], layout, 1);
                    backend.linear(&x, &weights, Epilogue::NONE).unwrap()
                };
                let what = format!("linear {rows}×{inputs}×{outputs} in {precision}, {layout:?}");
                assert_close(&what, backend, &product(layout), &product(Layout::Contiguous))?;
            }
        }
        Ok(())
    })
}
