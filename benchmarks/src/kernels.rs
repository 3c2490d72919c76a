//! Single operations at the model's shapes, through the backend's own trait.
//!
//! A loop of our own rather than divan or criterion: each number of threads needs a process of its own, and what is
//! wanted is a rate against a ceiling measured beside it, not a change against an earlier run.

use std::time::Instant;

use serde::{Deserialize, Serialize};
use smolvla::backend::{Activation, AttentionShape, Epilogue};
use smolvla::graph::KeyValue;
use smolvla::weights::{LinearSource, StorageType, TensorView};
use smolvla::{Backend, BackendError, Precision};

use crate::ceiling::Ceilings;
use crate::engine::Engine;
use crate::machine::scratch;
use crate::one::{One, What};
use crate::precision::arithmetic;
use crate::progress::Progress;
use crate::statistics::{median, range};
use crate::{Failures, Result};

/// An operation of the model.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Subject {
    /// `rows × inputs` times `inputs × outputs`, with the epilogue that the model has there.
    Linear {
        /// Where in the model.
        layer: &'static str,
        rows: usize,
        inputs: usize,
        outputs: usize,
        epilogue: Tail,
    },
    /// Of one observation.
    Attention {
        /// Where in the model.
        layer: &'static str,
        heads: usize,
        kv_heads: usize,
        queries: usize,
        /// Keys of each segment.
        keys: &'static [usize],
        masked: bool,
        head_dim: usize,
    },
}

/// What follows a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tail {
    None,
    Bias,
    BiasGelu,
    BiasResidual,
    Residual,
}

/// Times of an operation, and what it was.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Timing {
    pub(crate) kernel: String,
    pub(crate) shape: String,
    /// Operations of one call.
    pub(crate) flops: f64,
    pub(crate) milliseconds: Vec<f64>,
}

/// A row of the table of kernels.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) kernel: String,
    pub(crate) shape: String,
    pub(crate) precision: String,
    pub(crate) isa: String,
    pub(crate) threads: usize,
    pub(crate) runs: usize,
    pub(crate) median_ms: f64,
    pub(crate) min_ms: f64,
    pub(crate) max_ms: f64,
    /// GFLOP/s.
    pub(crate) gflops: f64,
    pub(crate) percent_of_ceiling: Option<f64>,
}

/// What to measure kernels with.
#[derive(Debug)]
pub(crate) struct Selection<'a> {
    pub(crate) precisions: &'a [Precision],
    pub(crate) threads: &'a [usize],
    pub(crate) isas: &'a [Option<String>],
}

/// Timed calls of each kernel; at least.
const RUNS: usize = 15;
/// Short kernels are called more often, until this much time has gone by.
const LEAST_SECONDS: f64 = 0.1;
const MOST_RUNS: usize = 500;

impl Subject {
    /// All of them.
    pub(crate) fn all() -> Vec<Self> {
        let linear =
            |layer, rows, inputs, outputs, epilogue| Self::Linear { layer, rows, inputs, outputs, epilogue };
        let attention = |layer, heads, kv_heads, queries, keys, masked| Self::Attention {
            layer,
            heads,
            kv_heads,
            queries,
            keys,
            masked,
            head_dim: 64,
        };
        vec![
            linear("vision qkv", 1024, 768, 2304, Tail::Bias),
            linear("vision output", 1024, 768, 768, Tail::BiasResidual),
            linear("vision fc1", 1024, 768, 3072, Tail::BiasGelu),
            linear("vision fc2", 1024, 3072, 768, Tail::BiasResidual),
            linear("text qkv", 113, 960, 1600, Tail::None),
            linear("text gate and up", 113, 960, 5120, Tail::None),
            linear("text down", 113, 2560, 960, Tail::Residual),
            linear("expert qkv", 50, 720, 1600, Tail::None),
            linear("expert gate and up", 50, 720, 4096, Tail::None),
            linear("expert down", 50, 2048, 720, Tail::Residual),
            linear("expert output", 50, 960, 720, Tail::Residual),
            attention("vision attention", 12, 12, 1024, &[1024], false),
            attention("text attention", 15, 5, 113, &[113], true),
            attention("expert attention", 15, 5, 50, &[113, 50], true),
        ]
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Linear { layer, .. } | Self::Attention { layer, .. } => layer,
        }
    }

    fn shape(&self) -> String {
        match self {
            Self::Linear { rows, inputs, outputs, .. } => format!("{rows}×{inputs}×{outputs}"),
            Self::Attention { heads, queries, keys, head_dim, .. } => {
                format!("{heads}×{queries}×{}×{head_dim}", keys.iter().sum::<usize>())
            }
        }
    }

    fn flops(&self) -> f64 {
        match *self {
            Self::Linear { rows, inputs, outputs, .. } => 2.0 * (rows * inputs) as f64 * outputs as f64,
            Self::Attention { heads, queries, keys, head_dim, .. } => {
                4.0 * (heads * queries) as f64 * (keys.iter().sum::<usize>() * head_dim) as f64
            }
        }
    }
}

/// Measures each kernel, instruction set, precision and number of threads; each of the last three in a process.
pub(crate) fn run(
    selection: &Selection<'_>,
    ceilings: &Ceilings,
    failures: &mut Failures,
) -> Result<Vec<Row>> {
    let subjects = Subject::all().len();
    let processes = selection.precisions.len() * selection.threads.len() * selection.isas.len();
    let progress = Progress::new((processes * subjects) as u64);
    let mut rows = Vec::new();
    for isa in selection.isas {
        for &precision in selection.precisions {
            for &threads in selection.threads {
                let what = format!(
                    "kernels in {precision}, {threads} threads{}",
                    isa.as_deref().map(|isa| format!(", {isa}")).unwrap_or_default()
                );
                progress.next(0, &what);
                match process(precision, threads, isa.as_deref(), &progress) {
                    Ok((ran, timings)) => {
                        let row = |timing| row(timing, precision, &ran, threads, ceilings);
                        rows.extend(timings.into_iter().map(row));
                    }
                    Err(reason) => failures.push(format!("{what}: {reason}")),
                }
            }
        }
    }
    progress.finish();
    Ok(rows)
}

/// The instruction set that ran, and all kernels' times.
fn process(
    precision: Precision,
    threads: usize,
    isa: Option<&str>,
    progress: &Progress,
) -> Result<(String, Vec<Timing>)> {
    let one = One {
        what: What::Kernels,
        checkpoint: None,
        cameras: 1,
        batch: 1,
        precision: precision.name().to_owned(),
        backend: "cpu".to_owned(),
    };
    let mut engine =
        Engine::start("smolvla kernels", &mut one.command(threads, isa)?, &scratch().join("kernels.log"))?;
    let ready = engine.ready()?;
    let mut timings = Vec::new();
    for subject in Subject::all() {
        timings.push(engine.run()?);
        progress
            .next(1, &format!("{} {} in {precision}, {threads} threads", subject.name(), subject.shape()));
    }
    Ok((ready.isa.unwrap_or_default(), timings))
}

fn row(timing: Timing, precision: Precision, isa: &str, threads: usize, ceilings: &Ceilings) -> Row {
    let median_ms = median(timing.milliseconds.iter().copied());
    let (min_ms, max_ms) = range(timing.milliseconds.iter().copied());
    let gflops = timing.flops / 1e6 / median_ms;
    let ceiling = arithmetic(precision).and_then(|arithmetic| ceilings.of(arithmetic, threads));
    Row {
        kernel: timing.kernel,
        shape: timing.shape,
        precision: precision.name().to_owned(),
        isa: isa.to_owned(),
        threads,
        runs: timing.milliseconds.len(),
        median_ms,
        min_ms,
        max_ms,
        gflops,
        percent_of_ceiling: ceiling.map(|ceiling| 100.0 * gflops / ceiling),
    }
}

/// Times one kernel on a backend.
///
/// # Errors
/// The backend's own.
pub(crate) fn measure<B: Backend>(
    backend: &B,
    subject: &Subject,
    precision: Precision,
) -> std::result::Result<Timing, BackendError> {
    let milliseconds = match *subject {
        Subject::Linear { rows, inputs, outputs, epilogue, .. } => {
            linear(backend, precision, [rows, inputs, outputs], epilogue)?
        }
        Subject::Attention { heads, kv_heads, queries, keys, masked, head_dim, .. } => {
            let scale = (head_dim as f32).powf(-0.5);
            let shape = AttentionShape { batch: 1, heads, kv_heads, head_dim, scale };
            attention(backend, precision, shape, queries, keys, masked)?
        }
    };
    Ok(Timing {
        kernel: subject.name().to_owned(),
        shape: subject.shape(),
        flops: subject.flops(),
        milliseconds,
    })
}

fn linear<B: Backend>(
    backend: &B,
    precision: Precision,
    [rows, inputs, outputs]: [usize; 3],
    tail: Tail,
) -> std::result::Result<Vec<f64>, BackendError> {
    let biased = matches!(tail, Tail::Bias | Tail::BiasGelu | Tail::BiasResidual);
    let layer = prepare(backend, precision, inputs, outputs, biased)?;
    let x = backend.upload(&values(rows * inputs, 3), rows, inputs)?;
    let residual = backend.upload(&values(rows * outputs, 4), rows, outputs)?;
    time(|| {
        let epilogue = match tail {
            Tail::None | Tail::Bias => Epilogue::NONE,
            Tail::BiasGelu => Epilogue::activation(Activation::GeluTanh),
            Tail::BiasResidual | Tail::Residual => Epilogue::residual(&residual),
        };
        let y = backend.linear(&x, &layer, epilogue)?;
        backend.synchronize()?;
        Ok(y)
    })
}

fn prepare<B: Backend>(
    backend: &B,
    precision: Precision,
    inputs: usize,
    outputs: usize,
    biased: bool,
) -> std::result::Result<B::Linear, BackendError> {
    let weights = bf16_bytes(&values(outputs * inputs, 1));
    let biases = bf16_bytes(&values(outputs, 2));
    let view = |rows, cols, bytes| {
        TensorView::new(StorageType::Bf16, rows, cols, bytes).expect("as many bytes as elements were made")
    };
    let source = LinearSource {
        name: "a benchmark's layer".to_owned(),
        path: "benchmark".to_owned(),
        weights: vec![view(outputs, inputs, &weights)],
        biases: if biased { vec![view(1, outputs, &biases)] } else { Vec::new() },
    };
    backend.prepare_linear(&source, precision)
}

fn attention<B: Backend>(
    backend: &B,
    precision: Precision,
    shape: AttentionShape,
    queries: usize,
    keys: &[usize],
    masked: bool,
) -> std::result::Result<Vec<f64>, BackendError> {
    const INPUTS: usize = 64;
    // Through a layer: an engine may compute an attention in the precision of the layers that made its operands.
    let matrix = |rows: usize, heads: usize, seed| {
        let layer = prepare(backend, precision, INPUTS, heads * shape.head_dim, false)?;
        let x = backend.upload(&values(rows * INPUTS, seed), rows, INPUTS)?;
        backend.linear(&x, &layer, Epilogue::NONE)
    };
    let q = matrix(queries, shape.heads, 5)?;
    let segments: Vec<KeyValue<B::Tensor>> = keys
        .iter()
        .map(|&keys| {
            Ok(KeyValue { key: matrix(keys, shape.kv_heads, 6)?, value: matrix(keys, shape.kv_heads, 7)? })
        })
        .collect::<std::result::Result<_, BackendError>>()?;
    let segments: Vec<&KeyValue<B::Tensor>> = segments.iter().collect();
    let all: usize = keys.iter().sum();
    // Everything but the keys after a query's own, as among the actions of a chunk.
    let allowed: Vec<bool> =
        (0..queries).flat_map(|query| (0..all).map(move |key| key < all - queries + query + 1)).collect();
    let mask = masked.then(|| backend.upload_mask(&allowed, 1, queries, all)).transpose()?;
    time(|| {
        let y = backend.attention(&q, &segments, mask.as_ref(), shape)?;
        backend.synchronize()?;
        Ok(y)
    })
}

/// Milliseconds of each call, after three that are not counted; dropping the result is not part of a call.
fn time<T>(
    mut call: impl FnMut() -> std::result::Result<T, BackendError>,
) -> std::result::Result<Vec<f64>, BackendError> {
    for _ in 0..3 {
        call()?;
    }
    let mut milliseconds = Vec::new();
    let begun = Instant::now();
    while milliseconds.len() < RUNS
        || (milliseconds.len() < MOST_RUNS && begun.elapsed().as_secs_f64() < LEAST_SECONDS)
    {
        let started = Instant::now();
        let result = call()?;
        milliseconds.push(1e3 * started.elapsed().as_secs_f64());
        drop(result);
    }
    Ok(milliseconds)
}

/// Numbers between −1 and 1 that follow from a seed.
fn values(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let next = || {
        // Knuth's multiplier; the low bits of such a generator are poor, so the high ones are taken.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    std::iter::repeat_with(next).take(count).collect()
}

/// The upper halves of the numbers: bfloat16, rounded towards zero.
fn bf16_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| [value.to_le_bytes()[2], value.to_le_bytes()[3]]).collect()
}

#[cfg(test)]
mod tests {
    use smolvla::reference::Reference;

    use super::*;

    #[test]
    fn every_kind_of_kernel_runs_on_a_backend() {
        let linear = |epilogue| Subject::Linear { layer: "tiny", rows: 3, inputs: 8, outputs: 5, epilogue };
        for tail in [Tail::None, Tail::Bias, Tail::BiasGelu, Tail::BiasResidual, Tail::Residual] {
            let timing = measure(&Reference, &linear(tail), Precision::F32).unwrap();
            assert!(timing.milliseconds.len() >= RUNS);
            assert_eq!((timing.shape.as_str(), timing.flops), ("3×8×5", 240.0));
        }
        let attention = Subject::Attention {
            layer: "tiny",
            heads: 4,
            kv_heads: 2,
            queries: 3,
            keys: &[5, 3],
            masked: true,
            head_dim: 2,
        };
        let timing = measure(&Reference, &attention, Precision::F32).unwrap();
        assert_eq!((timing.shape.as_str(), timing.flops), ("4×3×8×2", 4.0 * 4.0 * 3.0 * 8.0 * 2.0));
    }

    #[test]
    fn values_fill_their_range_and_follow_from_the_seed() {
        let some = values(1000, 1);
        assert_eq!(some, values(1000, 1));
        assert_ne!(some, values(1000, 2));
        let (low, high) = range(some.iter().map(|v| f64::from(*v)));
        assert!((-1.0..-0.9).contains(&low) && (0.9..1.0).contains(&high), "{low} … {high}");
        assert_eq!(bf16_bytes(&[1.0, -2.0]), [0x80, 0x3F, 0x00, 0xC0]);
    }

    #[test]
    fn rates_are_of_the_median_and_against_the_ceiling_of_the_precision() {
        let timing =
            Timing { kernel: "k".into(), shape: "s".into(), flops: 4e6, milliseconds: vec![1.0, 2.0, 9.0] };
        let ceilings = Ceilings {
            compute: vec![crate::ceiling::Ceiling {
                name: "fma".into(),
                arithmetic: Some(crate::ceiling::Arithmetic::F32),
                rates: vec![(1, 8.0)],
            }],
            ..Ceilings::default()
        };
        let row = row(timing, Precision::F32, "avx2", 1, &ceilings);
        assert_eq!((row.median_ms, row.gflops, row.percent_of_ceiling), (2.0, 2.0, Some(25.0)));
        assert_eq!((row.min_ms, row.max_ms, row.runs), (1.0, 9.0, 3));
    }
}
