use smolvla_core::backend::{Activation, AttentionShape};

use super::cases::cases;
use super::*;
use crate::program::{AttentionKernel, Op, TensorType, Value};
use crate::tensix::Math;
use crate::tensix::{Dest, Fidelity, Format};

const MATH: Math = Math { fidelity: Fidelity::HiFi2, dest: Dest::Bits32 };

fn tensor(rows: usize, cols: usize, format: Format) -> TensorType {
    TensorType { rows, cols, format }
}

fn count(text: &str, op: &str) -> usize {
    text.matches(&format!(" = stablehlo.{op} ")).count()
}

/// A norm, and a linear layer with all that may follow one; its result is written over the residual.
fn small() -> Program {
    let mut program = Program::default();
    let x = program.argument(Argument::Tensor(tensor(4, 8, Format::F32)));
    let gain = program.argument(Argument::Tensor(tensor(1, 8, Format::Bf16)));
    let weight = program.argument(Argument::Weight { outputs: 8, inputs: 8, format: Format::Bfp8 });
    let bias = program.argument(Argument::Tensor(tensor(1, 8, Format::Bf16)));
    let norm = Op::RmsNorm { eps: 1e-5, dest: Dest::Bits32, approximate: false };
    let y = program.push(norm, vec![x, gain], tensor(4, 8, Format::Bf16));
    let linear = Op::Linear {
        math: MATH,
        input: Format::Bf16,
        bias: true,
        activation: Some(Activation::Silu),
        residual: true,
    };
    let y = program.push(linear, vec![y, weight, bias, x], tensor(4, 8, Format::F32));
    program.results.push(y);
    program.donated.extend([0, 1]);
    program
}

#[test]
fn a_small_program_reads_like_this() {
    let expected = r#"module @"a \"layer\" \C3\A0 1" {
  func.func private @norm_0(%arg0: tensor<4x8xf32>, %arg1: tensor<8xf32>) -> (tensor<4x8xf32>) {
    %0 = stablehlo.multiply %arg0, %arg0 : tensor<4x8xf32>
    %1 = stablehlo.constant dense<0x00000000> : tensor<f32>
    %2 = stablehlo.reduce(%0 init: %1) applies stablehlo.add across dimensions = [1] : (tensor<4x8xf32>, tensor<f32>) -> tensor<4xf32>
    %3 = stablehlo.constant dense<0x3E000000> : tensor<4xf32>
    %4 = stablehlo.multiply %2, %3 : tensor<4xf32>
    %5 = stablehlo.constant dense<0x3727C5AC> : tensor<4xf32>
    %6 = stablehlo.add %4, %5 : tensor<4xf32>
    %7 = stablehlo.rsqrt %6 : tensor<4xf32>
    %8 = stablehlo.broadcast_in_dim %7, dims = [0] : (tensor<4xf32>) -> tensor<4x8xf32>
    %9 = stablehlo.multiply %arg0, %8 : tensor<4x8xf32>
    %10 = stablehlo.broadcast_in_dim %arg1, dims = [1] : (tensor<8xf32>) -> tensor<4x8xf32>
    %11 = stablehlo.multiply %9, %10 : tensor<4x8xf32>
    return %11 : tensor<4x8xf32>
  }
  func.func public @main(%arg0: tensor<4x8xf32> {tf.aliasing_output = 0 : i32}, %arg1: tensor<1x8xbf16> {jax.buffer_donor = true}, %arg2: tensor<8x8xbf16>, %arg3: tensor<1x8xbf16>) -> (tensor<4x8xf32>) {
    %0 = stablehlo.convert %arg1 : (tensor<1x8xbf16>) -> tensor<1x8xf32>
    %1 = stablehlo.reshape %0 : (tensor<1x8xf32>) -> tensor<8xf32>
    %2 = stablehlo.composite "tenstorrent.rms_norm" %arg0, %1 {composite_attributes = {epsilon = 0x3727C5AC : f32, normalized_shape = dense<8> : tensor<1xi64>}, decomposition = @norm_0} : (tensor<4x8xf32>, tensor<8xf32>) -> tensor<4x8xf32>
    %3 = stablehlo.convert %2 : (tensor<4x8xf32>) -> tensor<4x8xbf16>
    %4 = stablehlo.dot_general %3, %arg2, contracting_dims = [1] x [1] : (tensor<4x8xbf16>, tensor<8x8xbf16>) -> tensor<4x8xf32>
    %5 = stablehlo.convert %arg3 : (tensor<1x8xbf16>) -> tensor<1x8xf32>
    %6 = stablehlo.broadcast_in_dim %5, dims = [0, 1] : (tensor<1x8xf32>) -> tensor<4x8xf32>
    %7 = stablehlo.add %4, %6 : tensor<4x8xf32>
    %8 = stablehlo.logistic %7 : tensor<4x8xf32>
    %9 = stablehlo.multiply %7, %8 : tensor<4x8xf32>
    %10 = stablehlo.add %arg0, %9 : tensor<4x8xf32>
    return %10 : tensor<4x8xf32>
  }
}
"#;
    assert_eq!(emit(&small(), "a \"layer\" à 1").unwrap(), expected);
}

#[test]
fn weights_are_marked_for_tenstorrents_compiler_alone() {
    let text = emit_for(&small(), "p", Target::Tenstorrent).unwrap();
    let mark = "%0 = stablehlo.custom_call @tt.mark_argument(%arg2) {api_version = 0 : i32, \
        mhlo.frontend_attributes = {ttcore.argument_type = \"parameter\", ttir.name = \"weight_2\"}} : \
        (tensor<8x8xbf16>) -> tensor<8x8xbf16>\n";
    assert!(text.contains(mark), "{text}");
    assert!(text.contains("dot_general %4, %0,"), "{text}");
    assert_eq!(text.matches("custom_call").count(), 1);
    assert_eq!(emit_for(&small(), "p", Target::Any).unwrap(), emit(&small(), "p").unwrap());
}

#[test]
fn names_are_symbols() {
    assert_eq!(symbol("step_1.b$"), Some("step_1.b$".to_owned()));
    assert_eq!(symbol("1st"), Some("\"1st\"".to_owned()));
    assert_eq!(symbol("a\\\n"), Some("\"a\\\\\\0A\"".to_owned()));
    assert!(emit(&small(), "").unwrap().starts_with("module {\n"));
}

#[test]
fn every_case_can_be_written_and_fits_its_arguments() {
    for case in cases() {
        let text = emit(&case.program, case.name).unwrap();
        assert_eq!(text, emit(&case.program, case.name).unwrap(), "{}", case.name);
        assert_eq!(case.inputs.len(), case.program.arguments.len(), "{}", case.name);
        for (argument, input) in case.program.arguments.iter().zip(&case.inputs) {
            let size: usize = argument_type(argument).dims.iter().product();
            assert_eq!(input.len(), size, "{}: {argument}", case.name);
        }
        assert_eq!(case.expected.len(), case.program.results.len(), "{}", case.name);
        for (result, expected) in case.program.results.iter().zip(&case.expected) {
            let TensorType { rows, cols, .. } = case.program.tensor_type(*result).unwrap();
            assert_eq!(expected.len(), rows * cols, "{}", case.name);
            assert!(expected.iter().all(|number| number.is_finite()), "{}", case.name);
        }
        assert!(case.tolerance < 0.01, "{}", case.name);
    }
}

#[test]
fn layers_share_masks_and_norms_and_heads_are_moved_once() {
    let mut program = Program::default();
    let format = Format::Bf16;
    let x = program.argument(Argument::Tensor(tensor(10, 24, format)));
    let kv = program.argument(Argument::Tensor(tensor(10, 8, format)));
    let gain = program.argument(Argument::Tensor(tensor(1, 24, format)));
    let table = program.argument(Argument::Tensor(tensor(5, 2, Format::F32)));
    let mask = program.argument(Argument::Mask { batch: 2, queries: 5, keys: 5 });
    let shape = AttentionShape { batch: 2, heads: 6, kv_heads: 2, head_dim: 4, scale: 0.5 };
    let kernel = AttentionKernel {
        scores: MATH,
        scores_format: Format::F32,
        softmax: Dest::Bits32,
        approximate: false,
        weights_format: format,
        values: MATH,
    };
    let mut y = x;
    for _ in 0..3 {
        let dest = Dest::Bits32;
        y = program.push(
            Op::RmsNorm { eps: 1e-5, dest, approximate: false },
            vec![y, gain],
            tensor(10, 24, format),
        );
        y = program.push(Op::Rope { dest }, vec![y, table, table], tensor(10, 24, format));
        let op = Op::Attention { shape, segments: 1, mask: true, kernel };
        y = program.push(op, vec![y, kv, kv, mask], tensor(10, 24, format));
    }
    program.results.push(y);
    let text = emit(&program, "layers").unwrap();
    assert_eq!((count(&text, "select"), text.matches("func.func private").count()), (1, 1));
    // Heads to the front before each rotation and back after each attention, not in between; keys and values once.
    assert_eq!(count(&text, "transpose"), 3 + 3 + 2, "{text}");
}

#[test]
fn malformed_programs_are_refused() {
    let refused = |change: &dyn Fn(&mut Program), message: &str| {
        let mut program = small();
        change(&mut program);
        let error = emit(&program, "p").unwrap_err();
        assert_eq!(error.kind, BackendErrorKind::InvalidArgument);
        assert!(error.message.starts_with("program `p` is malformed: "), "{error}");
        assert!(error.message.contains(message), "{error} does not say: {message}");
    };
    let operand = |index: usize, operand: usize, value: usize| {
        move |program: &mut Program| program.instructions[index].operands[operand] = Value(value)
    };
    refused(&operand(0, 0, 4), "instruction 0 (RmsNorm");
    refused(&operand(0, 0, 4), "operand Value(4) is not there yet");
    refused(&operand(1, 0, usize::MAX), "is not there yet");
    refused(&operand(1, 0, 2), "x is not a tensor");
    refused(&operand(1, 1, 0), "the weight is not a weight");
    refused(&operand(1, 2, 0), "bias is 4×8, not 1×8");
    refused(&|p| p.instructions[1].operands.truncate(1), "the weight is missing");
    refused(&|p| p.instructions[1].operands.push(Value(0)), "1 operands are left over");
    refused(&|p| p.instructions[1].result.cols = 7, "its result is [4, 8], not 4×7 F32");
    refused(&|p| p.instructions[1].result.rows = 0, "its result is empty or too large");
    refused(&|p| p.arguments[0] = Argument::Tensor(tensor(0, 8, Format::F32)), "argument 0 is empty or too");
    refused(&|p| p.arguments[0] = Argument::Tensor(tensor(4, usize::MAX, Format::F32)), "too large");
    refused(
        &|p| p.arguments[2] = Argument::Weight { outputs: 8, inputs: 9, format: Format::Bf16 },
        "9 inputs",
    );
    refused(&|p| p.results.clear(), "it has no results");
    refused(&|p| p.results[0] = Value(6), "Value(6) is not there");
    refused(&|p| p.results[0] = Value(3), "Value(3) is an argument");
    refused(&|p| p.donated.push(4), "argument 4 is donated, and there are 4");
    refused(&|p| p.donated.push(1), "argument 1 is donated twice");

    let dest = Dest::Bits32;
    let shape = AttentionShape { batch: 1, heads: 2, kv_heads: 2, head_dim: 4, scale: 0.5 };
    let kernel = AttentionKernel {
        scores: MATH,
        scores_format: Format::F32,
        softmax: dest,
        approximate: false,
        weights_format: Format::F32,
        values: MATH,
    };
    let attention = |shape, segments, mask| Op::Attention { shape, segments, mask, kernel };
    let others: [(Op, &[usize], &str); 13] = [
        (attention(AttentionShape { kv_heads: 0, ..shape }, 1, false), &[0, 0, 0], "2 do not divide into 0"),
        (attention(AttentionShape { batch: 3, ..shape }, 1, false), &[0, 0, 0], "4 do not divide into 3"),
        (attention(AttentionShape { head_dim: usize::MAX, ..shape }, 1, false), &[0, 0, 0], "its heads"),
        (attention(AttentionShape { kv_heads: 1, ..shape }, 1, false), &[0, 0, 0], "its heads 4 columns"),
        (attention(shape, 0, false), &[0], "nothing to attend to"),
        (attention(shape, usize::MAX, false), &[0, 0, 0], "a key is missing"),
        (attention(shape, 1, true), &[0, 0, 0, 0], "the mask is not a mask"),
        (Op::Rope { dest }, &[0, 0, 0], "8 do not divide into 16"),
        (Op::ConcatTokens { batch: 0 }, &[0], "4 do not divide into 0"),
        (Op::ConcatTokens { batch: 2 }, &[0, 0], "8 rows are joined"),
        (Op::SliceRows { start: usize::MAX }, &[0], "are not within 4"),
        (Op::SliceCols { start: 1 }, &[0], "8 from 1 on are not within 8"),
        (Op::PixelShuffle { grid: usize::MAX, factor: 1 }, &[0], "do not divide into"),
    ];
    for (op, operands, message) in others {
        let replace = |program: &mut Program| {
            program.instructions[0].op = op.clone();
            program.instructions[0].operands = operands.iter().map(|index| Value(*index)).collect();
        };
        refused(&replace, message);
    }
}
