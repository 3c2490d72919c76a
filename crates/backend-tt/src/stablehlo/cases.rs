//! Programs with what they must compute by the plain loops of [`Reference`]: for every device that gives numbers back.

use smolvla_core::backend::{Activation, AttentionShape, Backend, Epilogue, Matrix};
use smolvla_core::graph::KeyValue;
use smolvla_core::reference::{HostMask, HostMatrix, HostParameters, Reference};
use smolvla_core::weights::{LinearSource, StorageType, TensorView};

use crate::program::{Argument, AttentionKernel, Op, Program, TensorType, Value};
use crate::tensix::Format::{Bf16, Bfp8, F32};
use crate::tensix::Math;
use crate::tensix::{Dest, Fidelity, Format};

/// A program, its arguments and what it must compute.
pub(crate) struct Case {
    /// What it tries.
    pub(crate) name: &'static str,
    pub(crate) program: Program,
    /// The numbers of each argument, row-major; of a mask: 1 where a query may attend a key, else 0.
    pub(crate) inputs: Vec<Vec<f32>>,
    /// The numbers of each result.
    pub(crate) expected: Vec<Vec<f32>>,
    /// How far a result may be off, as a share of its largest number, where products are exact and f32 accumulates.
    pub(crate) tolerance: f32,
}

const MATH: Math = Math { fidelity: Fidelity::HiFi4, dest: Dest::Bits32 };
const DEST: Dest = Dest::Bits32;
const EPS: f32 = 1e-5;

/// Half a step of a format, and as much again for sums in another order.
fn tolerance(format: Format) -> f32 {
    if format == F32 { 1e-5 } else { 1.0 / 128.0 }
}

fn kernel(format: Format) -> AttentionKernel {
    AttentionKernel {
        scores: MATH,
        scores_format: F32,
        softmax: DEST,
        approximate: false,
        weights_format: format,
        values: MATH,
    }
}

/// The nearest bfloat16, ties to even.
fn bf16(value: f32) -> f32 {
    let bits = value.to_bits();
    f32::from_bits((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF_0000)
}

/// A program in the making, with the numbers of its arguments.
#[derive(Default)]
struct Maker {
    program: Program,
    inputs: Vec<Vec<f32>>,
    seed: u32,
}

/// A matrix on the host, and what it is in the program.
struct Given {
    value: Value,
    host: HostMatrix,
}

impl Maker {
    /// Whole numbers from −127 to 127, always the same.
    fn numbers(&mut self, count: usize) -> impl Iterator<Item = f32> {
        let start = self.seed;
        self.seed += count as u32;
        (start..self.seed).map(|index| {
            let mixed = index.wrapping_add(1).wrapping_mul(0x9E37_79B9);
            let mixed = (mixed ^ (mixed >> 15)).wrapping_mul(0x85EB_CA6B);
            ((mixed >> 8) % 255) as f32 - 127.0
        })
    }

    /// A matrix of numbers up to 2 that every format holds.
    fn tensor(&mut self, rows: usize, cols: usize, format: Format) -> Given {
        let values = self.numbers(rows * cols).map(|number| number / 64.0).collect();
        self.holding(values, rows, cols, format)
    }

    /// A matrix of numbers that only f32 holds.
    fn fine_tensor(&mut self, rows: usize, cols: usize) -> Given {
        let values = self.numbers(rows * cols).map(|number| number / 60.0).collect();
        self.holding(values, rows, cols, F32)
    }

    fn holding(&mut self, values: Vec<f32>, rows: usize, cols: usize, format: Format) -> Given {
        let host = Reference.upload(&values, rows, cols).unwrap();
        self.inputs.push(values);
        let value = self.program.argument(Argument::Tensor(TensorType { rows, cols, format }));
        Given { value, host }
    }

    /// A weight and, where asked for, a bias, as two arguments and one layer.
    fn weight(
        &mut self,
        outputs: usize,
        inputs: usize,
        format: Format,
        bias: Option<Format>,
    ) -> (Vec<Value>, HostParameters) {
        let weight: Vec<f32> = self.numbers(outputs * inputs).map(|number| number / 256.0).collect();
        let bytes = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
        let mut arguments = vec![self.program.argument(Argument::Weight { outputs, inputs, format })];
        let weight_bytes = bytes(&weight);
        self.inputs.push(weight);
        let bias_bytes = bias.map(|format| {
            let bias = self.tensor(1, outputs, format);
            arguments.push(bias.value);
            bytes(&self.inputs[bias.value.0])
        });
        let source = LinearSource {
            name: "case".to_owned(),
            path: "case".to_owned(),
            weights: vec![TensorView::new(StorageType::F32, outputs, inputs, &weight_bytes).unwrap()],
            biases: bias_bytes
                .iter()
                .map(|bytes| TensorView::new(StorageType::F32, 1, outputs, bytes).unwrap())
                .collect(),
        };
        (arguments, Reference.prepare_linear(&source, smolvla_core::Precision::F32).unwrap())
    }

    /// A mask that forbids about a third of the keys, and query 1 of the last observation everything.
    fn mask(&mut self, batch: usize, queries: usize, keys: usize) -> (Value, HostMask) {
        let mut allowed: Vec<bool> =
            self.numbers(batch * queries * keys).map(|number| number > -40.0).collect();
        allowed[((batch - 1) * queries + 1) * keys..][..keys].fill(false);
        self.inputs.push(allowed.iter().map(|allowed| f32::from(u8::from(*allowed))).collect());
        let value = self.program.argument(Argument::Mask { batch, queries, keys });
        (value, Reference.upload_mask(&allowed, batch, queries, keys).unwrap())
    }

    /// Adds an instruction whose result, of the expected shape, is one of the program's.
    fn result(&mut self, op: Op, operands: Vec<Value>, expected: &HostMatrix, format: Format) -> Value {
        let result = TensorType { rows: expected.rows(), cols: expected.cols(), format };
        let value = self.program.push(op, operands, result);
        self.program.results.push(value);
        value
    }

    fn case(self, name: &'static str, expected: &[&HostMatrix], tolerance: f32) -> Case {
        let expected = expected.iter().map(|matrix| Reference.download(matrix).unwrap()).collect();
        Case { name, program: self.program, inputs: self.inputs, expected, tolerance }
    }
}

/// Every operation, in the formats and shapes that its lowering tells apart.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    linear_cases(&mut cases);
    norm_cases(&mut cases);
    attention_cases(&mut cases);
    elementwise_cases(&mut cases);
    moving_cases(&mut cases);
    cases.push(layer_case());
    cases
}

fn linear_cases(cases: &mut Vec<Case>) {
    let mut linear = |name,
                      rows,
                      (x_format, weight_format, bias, result),
                      activation,
                      residual: Option<(usize, Format)>| {
        let mut maker = Maker::default();
        let x = maker.tensor(rows, 7, x_format);
        let (mut operands, weight) = maker.weight(5, 7, weight_format, bias);
        operands.insert(0, x.value);
        let residual = residual.map(|(rows, format)| maker.tensor(rows, 5, format));
        operands.extend(residual.as_ref().map(|given| given.value));
        let epilogue = Epilogue { activation, residual: residual.as_ref().map(|given| &given.host) };
        let expected = Reference.linear(&x.host, &weight, epilogue).unwrap();
        let op = Op::Linear {
            math: MATH,
            input: x_format,
            bias: bias.is_some(),
            activation,
            residual: residual.is_some(),
        };
        maker.result(op, operands, &expected, result);
        cases.push(maker.case(name, &[&expected], tolerance(result)));
    };
    linear("linear", 3, (F32, F32, None, F32), None, None);
    linear("linear, bias, GELU", 3, (F32, F32, Some(F32), F32), Some(Activation::GeluTanh), None);
    linear(
        "linear, repeating residual",
        6,
        (F32, F32, Some(F32), F32),
        Some(Activation::Silu),
        Some((3, F32)),
    );
    linear("linear, one residual row", 4, (F32, F32, None, F32), None, Some((1, F32)));
    linear("linear in bf16", 4, (Bf16, Bfp8, Some(Bf16), Bf16), None, Some((2, Bf16)));
    linear("linear, bf16 residual", 2, (Bf16, Bf16, Some(F32), Bf16), None, Some((2, Bf16)));
    linear("linear, coarse weight", 3, (F32, Bfp8, None, F32), None, None);

    let mut maker = Maker::default();
    let x = maker.fine_tensor(3, 7);
    let (mut operands, weight) = maker.weight(5, 7, Bf16, None);
    operands.insert(0, x.value);
    let rounded: Vec<f32> = Reference.download(&x.host).unwrap().into_iter().map(bf16).collect();
    let rounded = Reference.upload(&rounded, 3, 7).unwrap();
    let expected = Reference.linear(&rounded, &weight, Epilogue::NONE).unwrap();
    let op = Op::Linear { math: MATH, input: Bf16, bias: false, activation: None, residual: false };
    maker.result(op, operands, &expected, F32);
    cases.push(maker.case("linear rounds its input", &[&expected], tolerance(F32)));
}

fn norm_cases(cases: &mut Vec<Case>) {
    let mut norm = |name, layer: bool, format, gain_format, result| {
        let mut maker = Maker::default();
        let x = maker.tensor(3, 11, format);
        let gain = maker.tensor(1, 11, gain_format);
        let (op, operands, expected);
        if layer {
            let bias = maker.tensor(1, 11, gain_format);
            expected = Reference.layer_norm(&x.host, &gain.host, &bias.host, EPS).unwrap();
            op = Op::LayerNorm { eps: EPS, dest: DEST, approximate: false };
            operands = vec![x.value, gain.value, bias.value];
        } else {
            expected = Reference.rms_norm(&x.host, &gain.host, EPS).unwrap();
            op = Op::RmsNorm { eps: EPS, dest: DEST, approximate: false };
            operands = vec![x.value, gain.value];
        }
        maker.result(op, operands, &expected, result);
        cases.push(maker.case(name, &[&expected], tolerance(result)));
    };
    norm("layer norm", true, F32, F32, F32);
    norm("layer norm in bf16", true, Bf16, Bf16, Bf16);
    norm("layer norm, f32 to bf16", true, F32, Bf16, Bf16);
    norm("RMS norm", false, F32, F32, F32);
    norm("RMS norm in bf16", false, Bf16, F32, Bf16);
    norm("RMS norm, bf16 to f32", false, Bf16, Bf16, F32);
}

fn attention_cases(cases: &mut Vec<Case>) {
    let mut attention =
        |name, [batch, heads, kv_heads]: [usize; 3], segments: &[(usize, Format)], masked: bool, format| {
            let (head_dim, queries) = (6, 5);
            let mut maker = Maker::default();
            let q = maker.tensor(batch * queries, heads * head_dim, format);
            let mut operands = vec![q.value];
            let mut kv = Vec::new();
            for (keys, format) in segments {
                let [key, value] = [(); 2].map(|()| maker.tensor(batch * keys, kv_heads * head_dim, *format));
                operands.extend([key.value, value.value]);
                kv.push(KeyValue { key: key.host, value: value.host });
            }
            let keys = segments.iter().map(|(keys, _)| keys).sum();
            let mask = masked.then(|| maker.mask(batch, queries, keys));
            operands.extend(mask.as_ref().map(|(value, _)| *value));
            let shape =
                AttentionShape { batch, heads, kv_heads, head_dim, scale: (head_dim as f32).powf(-0.5) };
            let kv: Vec<_> = kv.iter().collect();
            let mask = mask.map(|(_, mask)| mask);
            let expected = Reference.attention(&q.host, &kv, mask.as_ref(), shape).unwrap();
            let op = Op::Attention { shape, segments: segments.len(), mask: masked, kernel: kernel(format) };
            maker.result(op, operands, &expected, format);
            cases.push(maker.case(name, &[&expected], tolerance(format)));
        };
    attention("attention", [1, 2, 2], &[(7, F32)], false, F32);
    attention("attention, shared heads, batch", [2, 6, 2], &[(7, F32)], false, F32);
    attention("attention, segments and mask", [2, 6, 2], &[(7, F32), (4, F32)], true, F32);
    attention("attention, mask without groups", [2, 3, 3], &[(9, F32)], true, F32);
    attention("attention in bf16", [2, 6, 2], &[(7, Bf16), (4, Bf16)], true, Bf16);
    attention("attention, segments in two formats", [2, 4, 1], &[(7, Bf16), (4, F32)], true, F32);
}

fn elementwise_cases(cases: &mut Vec<Case>) {
    let mut rope = |name, rows, table_rows, format| {
        let mut maker = Maker::default();
        let x = maker.tensor(rows, 3 * 8, format);
        let [cos, sin] = [(); 2].map(|()| maker.tensor(table_rows, 4, F32));
        let expected = Reference.rope(&x.host, &cos.host, &sin.host).unwrap();
        maker.result(Op::Rope { dest: DEST }, vec![x.value, cos.value, sin.value], &expected, format);
        cases.push(maker.case(name, &[&expected], tolerance(format)));
    };
    rope("rope", 5, 5, F32);
    rope("rope, repeating tables", 6, 3, F32);
    rope("rope in bf16", 6, 3, Bf16);

    let mut unary = |name, op, expected: fn(&HostMatrix) -> HostMatrix, format| {
        let mut maker = Maker::default();
        let x = maker.tensor(3, 10, format);
        let expected = expected(&x.host);
        maker.result(op, vec![x.value], &expected, format);
        cases.push(maker.case(name, &[&expected], tolerance(format)));
    };
    let activate = |activation| Op::Activate { activation, dest: DEST };
    let silu = |x: &HostMatrix| Reference.activate(x, Activation::Silu).unwrap();
    let gelu = |x: &HostMatrix| Reference.activate(x, Activation::GeluTanh).unwrap();
    let silu_mul = |x: &HostMatrix| Reference.silu_mul(x).unwrap();
    let scale = |x: &HostMatrix| Reference.scale(x, 1.7).unwrap();
    for format in [F32, Bf16] {
        unary("SiLU", activate(Activation::Silu), silu, format);
        unary("GELU", activate(Activation::GeluTanh), gelu, format);
        unary("SwiGLU's gate", Op::SiluMul { dest: DEST }, silu_mul, format);
        unary("scale", Op::Scale { factor: 1.7, dest: DEST }, scale, format);
    }
}

fn moving_cases(cases: &mut Vec<Case>) {
    let mut maker = Maker::default();
    let parts = [(2 * 3, F32), (2, Bf16), (2 * 4, F32)].map(|(rows, format)| maker.tensor(rows, 5, format));
    let values = parts.iter().map(|part| part.value).collect();
    let expected = Reference.concat_tokens(&parts.each_ref().map(|part| &part.host), 2).unwrap();
    maker.result(Op::ConcatTokens { batch: 2 }, values, &expected, F32);
    cases.push(maker.case("concatenation", &[&expected], 0.0));

    let mut maker = Maker::default();
    let x = maker.tensor(7, 9, Bf16);
    let rows = Reference.slice_rows(&x.host, 2, 3).unwrap();
    maker.result(Op::SliceRows { start: 2 }, vec![x.value], &rows, Bf16);
    let [_, cols, _] = Reference.split_cols(&x.host, &[4, 3, 2]).unwrap().try_into().unwrap();
    maker.result(Op::SliceCols { start: 4 }, vec![x.value], &cols, F32);
    cases.push(maker.case("slices", &[&rows, &cols], 0.0));

    let mut maker = Maker::default();
    let x = maker.tensor(2 * 36, 5, Bf16);
    let expected = Reference.pixel_shuffle(&x.host, 6, 3).unwrap();
    maker.result(Op::PixelShuffle { grid: 6, factor: 3 }, vec![x.value], &expected, Bf16);
    cases.push(maker.case("pixel shuffle", &[&expected], 0.0));
}

/// Self-attention as the expert's layers have it: a norm, fused projections, rotated queries and keys, a cached segment
/// and a residual that the result is written over.
fn layer_case() -> Case {
    let (batch, tokens, cached, width, head_dim) = (2, 3, 4, 12, 4);
    let shape = AttentionShape { batch, heads: 4, kv_heads: 2, head_dim, scale: 0.5 };
    let rows = batch * tokens;
    let mut maker = Maker::default();
    let x = maker.tensor(rows, width, F32);
    let gain = maker.tensor(1, width, F32);
    let (qkv, qkv_host) = maker.weight(32, width, F32, None);
    let [cos, sin] = [(); 2].map(|()| maker.tensor(tokens, head_dim / 2, F32));
    let [key, value] = [(); 2].map(|()| maker.tensor(batch * cached, 8, F32));
    let (mask, mask_host) = maker.mask(batch, tokens, cached + tokens);
    let (output, output_host) = maker.weight(width, 16, F32, None);

    let normed = Reference.rms_norm(&x.host, &gain.host, EPS).unwrap();
    let fused = Reference.linear(&normed, &qkv_host, Epilogue::NONE).unwrap();
    let [q_host, own_key, own_value] = Reference.split_cols(&fused, &[16, 8, 8]).unwrap().try_into().unwrap();
    let q_host = Reference.rope(&q_host, &cos.host, &sin.host).unwrap();
    let own = KeyValue { key: Reference.rope(&own_key, &cos.host, &sin.host).unwrap(), value: own_value };
    let prefix = KeyValue { key: key.host, value: value.host };
    let attended = Reference.attention(&q_host, &[&prefix, &own], Some(&mask_host), shape).unwrap();
    let expected = Reference.linear(&attended, &output_host, Epilogue::residual(&x.host)).unwrap();

    let program = &mut maker.program;
    let tensor = |cols| TensorType { rows, cols, format: F32 };
    let linear = |residual| Op::Linear { math: MATH, input: F32, bias: false, activation: None, residual };
    let y = program.push(
        Op::RmsNorm { eps: EPS, dest: DEST, approximate: false },
        vec![x.value, gain.value],
        tensor(width),
    );
    let fused = program.push(linear(false), vec![y, qkv[0]], tensor(32));
    let q = program.push(Op::SliceCols { start: 0 }, vec![fused], tensor(16));
    let k = program.push(Op::SliceCols { start: 16 }, vec![fused], tensor(8));
    let v = program.push(Op::SliceCols { start: 24 }, vec![fused], tensor(8));
    let q = program.push(Op::Rope { dest: DEST }, vec![q, cos.value, sin.value], tensor(16));
    let k = program.push(Op::Rope { dest: DEST }, vec![k, cos.value, sin.value], tensor(8));
    let op = Op::Attention { shape, segments: 2, mask: true, kernel: kernel(F32) };
    let attended = program.push(op, vec![q, key.value, value.value, k, v, mask], tensor(16));
    let result = program.push(linear(true), vec![attended, output[0], x.value], tensor(width));
    program.results.push(result);
    program.donated.push(x.value.0);
    maker.case("a layer", &[&expected], tolerance(F32))
}
