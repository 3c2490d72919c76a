//! Whole layers of the policy, at the sizes of the published one and with weights at random: the operations of the
//! backend on the simulated design and on the functional device, bit for bit.
//!
//! What takes more than seconds is ignored here; `cargo xtask rtl` runs it.
#![cfg(feature = "rtl-sim")]
#![allow(clippy::print_stdout, reason = "cycles are read in the output of `cargo xtask rtl`")]

use std::sync::Arc;
use std::time::Instant;

use smolvla_backend_fpga::FpgaBackend;
use smolvla_backend_fpga::descriptor::Op;
use smolvla_backend_fpga::device::FpgaDevice;
use smolvla_backend_fpga::functional::Functional;
use smolvla_backend_fpga::rtl::RtlDevice;
use smolvla_core::backend::{Backend, Precision};
use smolvla_core::graph::{
    DenoiseContext, Expert, ExpertAttentionWeights, ExpertLayer, GatedMlp, Heads, KeyValue, RotaryTable,
    TextLayer, TextOutput, TimeEmbeddings, VisionLayer, denoise_step,
};
use smolvla_core::weights::{LinearSource, StorageType, TensorView};
use smolvla_core::{BackendError, PrecisionPlan};

/// Heads of the language model and of the expert.
const HEADS: Heads = Heads { query: 15, kv: 5, dim: 64 };
/// Width of the language model, and of its MLP.
const TEXT: (usize, usize) = (960, 2560);
/// Width of the expert, and of its MLP.
const EXPERT: (usize, usize) = (720, 2048);
/// Width of the vision tower, and of its MLP.
const VISION: (usize, usize) = (768, 3072);
/// Tokens of a picture, an instruction and a state.
const PREFIX: usize = 113;
/// Actions of a chunk, and their width.
const CHUNK: (usize, usize) = (50, 32);
/// Layers of the expert.
const LAYERS: usize = 16;

type Tensor<D> = <FpgaBackend<D> as Backend>::Tensor;
type Linear<D> = <FpgaBackend<D> as Backend>::Linear;
type Mask<D> = <FpgaBackend<D> as Backend>::Mask;
type Outcome<T = Vec<Vec<f32>>> = Result<T, BackendError>;

/// Makes parameters and inputs, the same ones for every device.
struct Maker<'b, D: FpgaDevice> {
    backend: &'b FpgaBackend<D>,
    precision: Precision,
    state: u64,
}

impl<D: FpgaDevice> Maker<'_, D> {
    /// Near a normal distribution, by SplitMix64.
    fn number(&mut self) -> f32 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.state ^ self.state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        let x = x ^ x >> 31;
        let sum: u32 = (0..4).map(|i| (x >> (16 * i) & 0xffff) as u32).sum();
        (f64::from(sum) / 37_837.0 - 3.464) as f32
    }

    fn numbers(&mut self, count: usize, factor: f32, mean: f32) -> Vec<f32> {
        (0..count).map(|_| self.number() * factor + mean).collect()
    }

    fn matrix(&mut self, rows: usize, cols: usize) -> Outcome<Tensor<D>> {
        let values = self.numbers(rows * cols, 1.0, 0.0);
        self.backend.upload(&values, rows, cols)
    }

    fn gain(&mut self, cols: usize) -> Outcome<Tensor<D>> {
        let values = self.numbers(cols, 0.1, 1.0);
        self.backend.upload(&values, 1, cols)
    }

    fn shift(&mut self, cols: usize) -> Outcome<Tensor<D>> {
        let values = self.numbers(cols, 0.1, 0.0);
        self.backend.upload(&values, 1, cols)
    }

    fn linear(&mut self, inputs: usize, outputs: usize, biased: bool) -> Outcome<Linear<D>> {
        let bytes = |values: Vec<f32>| values.into_iter().flat_map(f32::to_le_bytes).collect::<Vec<u8>>();
        let weights = bytes(self.numbers(inputs * outputs, (inputs as f32).sqrt().recip(), 0.0));
        let biases = bytes(self.numbers(outputs, 0.1, 0.0));
        let view =
            |bytes, rows, cols| TensorView::new(StorageType::F32, rows, cols, bytes).expect("a whole matrix");
        let source = LinearSource {
            name: format!("{outputs} of {inputs}"),
            path: "expert.action_in".to_owned(),
            weights: vec![view(&weights, outputs, inputs)],
            biases: if biased { vec![view(&biases, 1, outputs)] } else { Vec::new() },
        };
        self.backend.prepare_linear(&source, self.precision)
    }

    fn mlp(&mut self, (width, inner): (usize, usize)) -> Outcome<GatedMlp<Tensor<D>, Linear<D>>> {
        Ok(GatedMlp {
            norm: self.gain(width)?,
            gate_up: self.linear(width, 2 * inner, false)?,
            down: self.linear(inner, width, false)?,
            eps: 1.0e-5,
        })
    }

    fn rotary(&mut self, start: usize, count: usize) -> Outcome<RotaryTable<Tensor<D>>> {
        let half = HEADS.dim / 2;
        let angles: Vec<f32> = (start..start + count)
            .flat_map(|at| (0..half).map(move |j| at as f32 / 10_000_f32.powf(j as f32 / half as f32)))
            .collect();
        let upload = |f: fn(f32) -> f32| {
            self.backend.upload(&angles.iter().copied().map(f).collect::<Vec<_>>(), count, half)
        };
        Ok(RotaryTable { cos: upload(f32::cos)?, sin: upload(f32::sin)? })
    }

    fn mask(
        &mut self,
        queries: usize,
        keys: usize,
        allowed: impl Fn(usize, usize) -> bool,
    ) -> Outcome<Mask<D>> {
        let allowed: Vec<bool> = (0..queries * keys).map(|i| allowed(i / keys, i % keys)).collect();
        self.backend.upload_mask(&allowed, 1, queries, keys)
    }

    fn key_value(&mut self) -> Outcome<KeyValue<Tensor<D>>> {
        let width = HEADS.kv_width();
        Ok(KeyValue { key: self.matrix(PREFIX, width)?, value: self.matrix(PREFIX, width)? })
    }

    fn expert_layer(&mut self, index: usize) -> Outcome<ExpertLayer<Tensor<D>, Linear<D>>> {
        let (width, kv) = (EXPERT.0, HEADS.kv_width());
        let attention = if index.is_multiple_of(2) {
            let outputs = HEADS.qkv_widths().iter().sum();
            ExpertAttentionWeights::SelfAttention { qkv: self.linear(width, outputs, false)? }
        } else {
            ExpertAttentionWeights::CrossAttention {
                query: self.linear(width, HEADS.query_width(), false)?,
                key: self.linear(kv, kv, false)?,
                value: self.linear(kv, kv, false)?,
            }
        };
        Ok(ExpertLayer {
            text_layer: index,
            norm: self.gain(width)?,
            attention,
            output: self.linear(HEADS.query_width(), width, false)?,
            mlp: self.mlp(EXPERT)?,
            heads: HEADS,
            eps: 1.0e-5,
        })
    }

    fn context(&mut self, layers: usize) -> Outcome<DenoiseContext<Tensor<D>, Mask<D>>> {
        let (chunk, _) = CHUNK;
        let prefix = (0..layers).map(|_| self.key_value()).collect::<Outcome<_>>()?;
        // The last words of the instruction are padding.
        let is_there = |key: usize| !(90..112).contains(&key);
        Ok(DenoiseContext {
            batch: 1,
            prefix,
            self_mask: self.mask(chunk, PREFIX + chunk, |query, key| {
                if key < PREFIX { is_there(key) } else { key - PREFIX <= query }
            })?,
            cross_mask: Some(self.mask(chunk, PREFIX, |_, key| is_there(key))?),
            self_rotary: self.rotary(PREFIX - 22, chunk)?,
            cross_rotary: self.rotary(0, chunk)?,
            time: Arc::new(TimeEmbeddings { steps: vec![self.shift(EXPERT.0)?] }),
        })
    }

    fn vision(&mut self, tokens: usize) -> Outcome {
        let (width, inner) = VISION;
        let layer = VisionLayer {
            norm1: (self.gain(width)?, self.shift(width)?),
            qkv: self.linear(width, 3 * width, true)?,
            output: self.linear(width, width, true)?,
            norm2: (self.gain(width)?, self.shift(width)?),
            fc1: self.linear(width, inner, true)?,
            fc2: self.linear(inner, width, true)?,
            heads: Heads { query: 12, kv: 12, dim: 64 },
            eps: 1.0e-6,
        };
        let x = self.matrix(tokens, width)?;
        let y = self.backend.vision_layer(&layer, &x, 1)?;
        Ok(vec![self.backend.download(&y)?])
    }

    fn text(&mut self) -> Outcome {
        let (width, _) = TEXT;
        let layer = TextLayer {
            norm: self.gain(width)?,
            qkv: self.linear(width, HEADS.qkv_widths().iter().sum(), false)?,
            output: Some(TextOutput {
                projection: self.linear(HEADS.query_width(), width, false)?,
                mlp: self.mlp(TEXT)?,
            }),
            heads: HEADS,
            eps: 1.0e-5,
        };
        let x = self.matrix(PREFIX, width)?;
        let rotary = self.rotary(0, PREFIX)?;
        let mask = self.mask(PREFIX, PREFIX, |query, key| key < 64 || key <= query)?;
        let y = self.backend.text_layer(&layer, &x, &rotary.cos, &rotary.sin, &mask)?;
        let residual = y.residual.expect("this is not the last layer");
        [&y.kv.key, &y.kv.value, &residual].into_iter().map(|y| self.backend.download(y)).collect()
    }

    fn expert(&mut self, index: usize) -> Outcome {
        let layer = self.expert_layer(index)?;
        let context = self.context(1)?;
        let x = self.matrix(CHUNK.0, EXPERT.0)?;
        let y = self.backend.expert_layer(&layer, &context.prefix[0], &context, &x)?;
        Ok(vec![self.backend.download(&y)?])
    }

    fn step(&mut self) -> Outcome {
        let (width, _) = EXPERT;
        let (chunk, actions) = CHUNK;
        let expert = Expert {
            action_in: self.linear(actions, width, true)?,
            time_in_actions: self.linear(width, width, false)?,
            time_in_time: self.linear(width, width, true)?,
            time_out: self.linear(width, width, true)?,
            layers: (0..LAYERS).map(|index| self.expert_layer(index)).collect::<Outcome<_>>()?,
            norm: self.gain(width)?,
            eps: 1.0e-5,
            action_out: self.linear(width, actions, true)?,
        };
        let context = self.context(LAYERS)?;
        let x = self.matrix(chunk, actions)?;
        let started = Instant::now();
        let mut seen = Vec::new();
        let mut tap = |site, value: Tensor<D>| {
            seen.push(self.backend.download(&value)?);
            println!("  {site:?}, {:.1} s", started.elapsed().as_secs_f64());
            Ok(value)
        };
        let y = denoise_step(self.backend, &expert, &context, &x, 0, &mut tap)?;
        seen.push(self.backend.download(&y)?);
        Ok(seen)
    }
}

/// What is run.
#[derive(Clone, Copy)]
enum Layer {
    Vision { tokens: usize },
    Text,
    Expert { index: usize },
    Step,
}

impl Layer {
    fn run<D: FpgaDevice>(self, maker: &mut Maker<'_, D>) -> Outcome {
        match self {
            Self::Vision { tokens } => maker.vision(tokens),
            Self::Text => maker.text(),
            Self::Expert { index } => maker.expert(index),
            Self::Step => maker.step(),
        }
    }
}

fn on<D: FpgaDevice>(device: D, layer: Layer, precision: Precision) -> (FpgaBackend<D>, Vec<Vec<f32>>) {
    let plan = PrecisionPlan::from(precision);
    let backend = FpgaBackend::new(device).with_plan(&plan).expect("the plan is for this backend");
    let mut maker = Maker { backend: &backend, precision, state: 7 };
    let results = layer.run(&mut maker).expect("the layer runs");
    (backend, results)
}

fn check(name: &str, layer: Layer, precision: Precision) {
    let (_, expected) = on(Functional::new(), layer, precision);
    let started = Instant::now();
    let device = RtlDevice::new().expect("the simulation opens");
    let (backend, found) = on(device, layer, precision);
    let usage = backend.device().usage();
    println!(
        "{name}, {}: {} cycles of {} descriptors in {:.1} s, {} beats read, {} written",
        precision.name(),
        usage.cycles,
        usage.descriptors,
        started.elapsed().as_secs_f64(),
        usage.beats_read,
        usage.beats_written
    );
    for op in [
        Op::End,
        Op::Gemm,
        Op::Quantise,
        Op::Norm,
        Op::Softmax,
        Op::Activate,
        Op::Rope,
        Op::Combine,
        Op::Copy,
    ] {
        println!(
            "  {op:?}: {} cycles, {:.1} %",
            usage.of(op),
            100.0 * usage.of(op) as f64 / usage.cycles as f64
        );
    }
    assert_eq!(expected.len(), found.len());
    for (which, (expected, found)) in expected.iter().zip(&found).enumerate() {
        assert_eq!(expected.len(), found.len());
        // A layer of nothing but zeros, or of numbers that are not, would be equal for no reason.
        let size = expected.iter().map(|x| f64::from(x.abs())).sum::<f64>() / expected.len() as f64;
        assert!((0.01..100.0).contains(&size), "{name}: numbers of {size} on average");
        let wrong: Vec<usize> =
            (0..expected.len()).filter(|i| expected[*i].to_bits() != found[*i].to_bits()).collect();
        assert!(
            wrong.is_empty(),
            "{name}, result {which}: {} of {} numbers differ, the first is {} in place of {} at {}",
            wrong.len(),
            expected.len(),
            found[wrong[0]],
            expected[wrong[0]],
            wrong[0]
        );
    }
}

#[test]
fn a_vision_layer_of_a_small_picture() {
    check("vision layer, 64 tokens", Layer::Vision { tokens: 64 }, Precision::Int8);
}

#[test]
fn a_text_layer() {
    check("text layer", Layer::Text, Precision::Int8);
}

#[test]
fn an_expert_layer_with_self_attention() {
    check("expert layer, self-attention", Layer::Expert { index: 0 }, Precision::Int8);
}

#[test]
fn an_expert_layer_with_cross_attention() {
    check("expert layer, cross-attention", Layer::Expert { index: 1 }, Precision::Int8);
}

#[test]
fn an_expert_layer_in_sixteen_bits() {
    check("expert layer, self-attention", Layer::Expert { index: 0 }, Precision::Int8Weights);
}

#[test]
fn an_expert_layer_in_eight_bits_throughout() {
    check("expert layer, self-attention", Layer::Expert { index: 0 }, Precision::Int8Full);
}

#[test]
#[ignore = "takes a minute; `cargo xtask rtl` runs it"]
fn a_vision_layer() {
    check("vision layer, 1024 tokens", Layer::Vision { tokens: 1024 }, Precision::Int8);
}

#[test]
#[ignore = "takes a minute; `cargo xtask rtl` runs it"]
fn a_denoising_step() {
    check("denoising step", Layer::Step, Precision::Int8);
}
