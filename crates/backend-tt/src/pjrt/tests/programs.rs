//! Small programs in StableHLO, and what they compute, in plain Rust.

use smolvla_backend_tt::pjrt::ElementType;

/// Rows of the activations.
pub(super) const ROWS: usize = 64;
/// Width of the activations.
pub(super) const WIDTH: usize = 128;
/// Outputs of the linear layers.
pub(super) const OUTPUTS: usize = 96;
/// Heads of the attention, each `WIDTH / HEADS` wide.
pub(super) const HEADS: usize = 2;
/// Added under the root of the norm.
pub(super) const EPS: f32 = 1e-5;

/// A program and its inputs' types and sizes.
pub(super) struct Program {
    pub(super) name: &'static str,
    pub(super) mlir: String,
    pub(super) inputs: Vec<(ElementType, Vec<usize>)>,
}

/// All programs; `marked` says of each input whether it is a parameter, in the words of Tenstorrent's compiler.
pub(super) fn all(marked: bool) -> Vec<Program> {
    vec![
        linear("linear_f32", ElementType::F32, marked),
        linear("linear_bf16", ElementType::Bf16, marked),
        rms_norm(marked),
        attention(marked),
    ]
}

pub(super) fn named(name: &str, marked: bool) -> Program {
    let found = all(marked).into_iter().find(|program| program.name == name);
    found.unwrap_or_else(|| panic!("no program {name}"))
}

/// Attributes of an input.
fn role(marked: bool, parameter: bool) -> &'static str {
    match (marked, parameter) {
        (false, _) => "",
        (true, false) => " {ttcore.argument_type = #ttcore.argument_type<input>}",
        (true, true) => " {ttcore.argument_type = #ttcore.argument_type<parameter>}",
    }
}

/// `x·Wᵀ + b`.
fn linear(name: &'static str, element: ElementType, marked: bool) -> Program {
    let (input, parameter) = (role(marked, false), role(marked, true));
    let x = format!("tensor<{ROWS}x{WIDTH}x{element}>");
    let w = format!("tensor<{OUTPUTS}x{WIDTH}x{element}>");
    let b = format!("tensor<{OUTPUTS}x{element}>");
    let y = format!("tensor<{ROWS}x{OUTPUTS}x{element}>");
    let mlir = format!(
        "module @{name} {{
  func.func public @main(%x: {x}{input}, %w: {w}{parameter}, %b: {b}{parameter}) -> {y} {{
    %product = stablehlo.dot_general %x, %w, contracting_dims = [1] x [1] : ({x}, {w}) -> {y}
    %bias = stablehlo.broadcast_in_dim %b, dims = [1] : ({b}) -> {y}
    %sum = stablehlo.add %product, %bias : {y}
    return %sum : {y}
  }}
}}"
    );
    let inputs =
        vec![(element, vec![ROWS, WIDTH]), (element, vec![OUTPUTS, WIDTH]), (element, vec![OUTPUTS])];
    Program { name, mlir, inputs }
}

/// `x/√(mean(x²) + eps)·gain`, in float32 inside.
fn rms_norm(marked: bool) -> Program {
    let (input, parameter) = (role(marked, false), role(marked, true));
    let x = format!("tensor<{ROWS}x{WIDTH}xbf16>");
    let f = format!("tensor<{ROWS}x{WIDTH}xf32>");
    let r = format!("tensor<{ROWS}x1xf32>");
    let g = format!("tensor<{WIDTH}xbf16>");
    let mlir = format!(
        "module @rms_norm {{
  func.func public @main(%x: {x}{input}, %gain: {g}{parameter}) -> {x} {{
    %wide = stablehlo.convert %x : ({x}) -> {f}
    %two = stablehlo.constant dense<2.0> : {f}
    %squares = stablehlo.power %wide, %two : {f}
    %zero = stablehlo.constant dense<0.0> : tensor<f32>
    %sums = stablehlo.reduce(%squares init: %zero) applies stablehlo.add across dimensions = [1]
      : ({f}, tensor<f32>) -> tensor<{ROWS}xf32>
    %column = stablehlo.reshape %sums : (tensor<{ROWS}xf32>) -> {r}
    %count = stablehlo.constant dense<{WIDTH}.0> : {r}
    %mean = stablehlo.divide %column, %count : {r}
    %eps = stablehlo.constant dense<{EPS:.8e}> : {r}
    %shifted = stablehlo.add %mean, %eps : {r}
    %root = stablehlo.rsqrt %shifted : {r}
    %roots = stablehlo.broadcast_in_dim %root, dims = [0, 1] : ({r}) -> {f}
    %normed = stablehlo.multiply %wide, %roots : {f}
    %narrow = stablehlo.convert %normed : ({f}) -> {x}
    %gains = stablehlo.broadcast_in_dim %gain, dims = [1] : ({g}) -> {x}
    %y = stablehlo.multiply %gains, %narrow : {x}
    return %y : {x}
  }}
}}"
    );
    Program {
        name: "rms_norm",
        mlir,
        inputs: vec![(ElementType::Bf16, vec![ROWS, WIDTH]), (ElementType::Bf16, vec![WIDTH])],
    }
}

/// `softmax(q·kᵀ/√d)·v` of every head, in float32 between the products.
fn attention(marked: bool) -> Program {
    let input = role(marked, false);
    let head = WIDTH / HEADS;
    let q = format!("tensor<1x{HEADS}x{ROWS}x{head}xbf16>");
    let s = format!("tensor<1x{HEADS}x{ROWS}x{ROWS}xbf16>");
    let f = format!("tensor<1x{HEADS}x{ROWS}x{ROWS}xf32>");
    let r = format!("tensor<1x{HEADS}x{ROWS}xf32>");
    let scale = (head as f32).powf(-0.5);
    let mlir = format!(
        "module @attention {{
  func.func public @main(%q: {q}{input}, %k: {q}{input}, %v: {q}{input}) -> {q} {{
    %scores = stablehlo.dot_general %q, %k, batching_dims = [0, 1] x [0, 1], contracting_dims = [3] x [3]
      : ({q}, {q}) -> {s}
    %scale = stablehlo.constant dense<{scale:.8e}> : {s}
    %scaled = stablehlo.multiply %scores, %scale : {s}
    %wide = stablehlo.convert %scaled : ({s}) -> {f}
    %lowest = stablehlo.constant dense<0xFF800000> : tensor<f32>
    %top = stablehlo.reduce(%wide init: %lowest) applies stablehlo.maximum across dimensions = [3]
      : ({f}, tensor<f32>) -> {r}
    %tops = stablehlo.broadcast_in_dim %top, dims = [0, 1, 2] : ({r}) -> {f}
    %shifted = stablehlo.subtract %wide, %tops : {f}
    %powers = stablehlo.exponential %shifted : {f}
    %zero = stablehlo.constant dense<0.0> : tensor<f32>
    %sum = stablehlo.reduce(%powers init: %zero) applies stablehlo.add across dimensions = [3]
      : ({f}, tensor<f32>) -> {r}
    %sums = stablehlo.broadcast_in_dim %sum, dims = [0, 1, 2] : ({r}) -> {f}
    %weights = stablehlo.divide %powers, %sums : {f}
    %narrow = stablehlo.convert %weights : ({f}) -> {s}
    %y = stablehlo.dot_general %narrow, %v, batching_dims = [0, 1] x [0, 1], contracting_dims = [3] x [2]
      : ({s}, {q}) -> {q}
    return %y : {q}
  }}
}}"
    );
    let shape = vec![1, HEADS, ROWS, head];
    Program { name: "attention", mlir, inputs: vec![(ElementType::Bf16, shape); 3] }
}

/// What [`linear`] computes.
pub(super) fn expected_linear(x: &[f32], w: &[f32], b: &[f32]) -> Vec<f32> {
    let dot =
        |row: &[f32], column: &[f32]| row.iter().zip(column).map(|(a, b)| f64::from(a * b)).sum::<f64>();
    x.chunks(WIDTH)
        .flat_map(|row| {
            w.chunks(WIDTH).zip(b).map(move |(column, bias)| (dot(row, column) + f64::from(*bias)) as f32)
        })
        .collect()
}

/// What [`rms_norm`] computes.
pub(super) fn expected_rms_norm(x: &[f32], gain: &[f32]) -> Vec<f32> {
    x.chunks(WIDTH)
        .flat_map(|row| {
            let mean = row.iter().map(|value| f64::from(value * value)).sum::<f64>() / WIDTH as f64;
            let root = 1.0 / (mean + f64::from(EPS)).sqrt();
            row.iter().zip(gain).map(move |(value, gain)| (f64::from(*value) * root) as f32 * gain)
        })
        .collect()
}

/// What [`attention`] computes.
pub(super) fn expected_attention(q: &[f32], k: &[f32], v: &[f32]) -> Vec<f32> {
    let head = WIDTH / HEADS;
    let area = ROWS * head;
    let mut y = Vec::new();
    for (q, (k, v)) in q.chunks(area).zip(k.chunks(area).zip(v.chunks(area))) {
        for query in q.chunks(head) {
            let score = |key: &[f32]| query.iter().zip(key).map(|(a, b)| f64::from(a * b)).sum::<f64>();
            let scores: Vec<f64> = k.chunks(head).map(|key| score(key) / (head as f64).sqrt()).collect();
            let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let powers: Vec<f64> = scores.iter().map(|score| (score - top).exp()).collect();
            let sum: f64 = powers.iter().sum();
            let values = |column| v.chunks(head).map(move |value| f64::from(value[column]));
            y.extend((0..head).map(|column| {
                (powers.iter().zip(values(column)).map(|(power, value)| power * value).sum::<f64>() / sum)
                    as f32
            }));
        }
    }
    y
}
