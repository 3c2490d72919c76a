//! What each operation of a program is in StableHLO.

use smolvla_core::backend::Activation;

use super::body::{Body, Element, Id};
use crate::program::{Argument, Instruction, Op, Program, TensorType, Value};
use crate::tensix::Format;

/// What was lowered, or what is wrong with the program.
pub(super) type Lowered<T> = Result<T, String>;

/// A function beside `main`: what a composite operation computes.
pub(super) struct Function {
    norm: Norm,
    pub(super) text: String,
}

/// What makes the functions of two norms the same.
#[derive(Clone, Copy, PartialEq)]
struct Norm {
    x: TensorType,
    gain: Format,
    /// A LayerNorm has one.
    bias: Option<Format>,
    eps: u32,
}

/// An operand that is a matrix of activations.
#[derive(Clone, Copy)]
pub(super) struct Tensor {
    pub(super) id: Id,
    pub(super) rows: usize,
    pub(super) cols: usize,
    format: Format,
}

/// An operand that is a mask.
#[derive(Clone, Copy)]
pub(super) struct Mask {
    pub(super) id: Id,
    pub(super) batch: usize,
    pub(super) queries: usize,
    pub(super) keys: usize,
}

enum Operand {
    Tensor(Tensor),
    Weight { id: Id, outputs: usize, inputs: usize },
    Mask(Mask),
}

/// The operands of an instruction, taken one after another.
pub(super) struct Operands {
    rest: std::vec::IntoIter<Operand>,
}

impl Operands {
    pub(super) fn tensor(&mut self, what: &str) -> Lowered<Tensor> {
        match self.rest.next() {
            Some(Operand::Tensor(tensor)) => Ok(tensor),
            Some(_) => Err(format!("{what} is not a tensor")),
            None => Err(format!("{what} is missing")),
        }
    }

    pub(super) fn mask(&mut self) -> Lowered<Mask> {
        match self.rest.next() {
            Some(Operand::Mask(mask)) => Ok(mask),
            Some(_) => Err("the mask is not a mask".to_owned()),
            None => Err("the mask is missing".to_owned()),
        }
    }

    /// The weight, with its outputs and inputs.
    fn weight(&mut self) -> Lowered<(Id, usize, usize)> {
        match self.rest.next() {
            Some(Operand::Weight { id, outputs, inputs }) => Ok((id, outputs, inputs)),
            Some(_) => Err("the weight is not a weight".to_owned()),
            None => Err("the weight is missing".to_owned()),
        }
    }

    /// A row of as many columns as `cols`.
    fn row(&mut self, what: &str, cols: usize) -> Lowered<Tensor> {
        let row = self.tensor(what)?;
        ensure((row.rows, row.cols) == (1, cols), || {
            format!("{what} is {}×{}, not 1×{cols}", row.rows, row.cols)
        })?;
        Ok(row)
    }

    fn finish(&self) -> Lowered<()> {
        ensure(self.rest.len() == 0, || format!("{} operands are left over", self.rest.len()))
    }
}

/// Fails with a message unless a condition holds.
pub(super) fn ensure(condition: bool, message: impl FnOnce() -> String) -> Lowered<()> {
    if condition { Ok(()) } else { Err(message()) }
}

/// A program on its way to a function's body.
pub(super) struct Lowering<'p> {
    program: &'p Program,
    pub(super) body: Body,
    /// The functions that the body calls on.
    pub(super) functions: Vec<Function>,
    /// What each instruction so far came to.
    lowered: Vec<Id>,
    /// The program's arguments in the body.
    arguments: Vec<Id>,
}

impl<'p> Lowering<'p> {
    /// `body` holds the program's arguments and nothing else.
    pub(super) fn new(program: &'p Program, body: Body, arguments: Vec<Id>) -> Self {
        Self { program, body, functions: Vec::new(), lowered: Vec::new(), arguments }
    }

    /// The results, once all instructions are lowered.
    pub(super) fn results(&self) -> Lowered<Vec<Id>> {
        ensure(!self.program.results.is_empty(), || "it has no results".to_owned())?;
        let result = |value: &Value| match value.0.checked_sub(self.arguments.len()) {
            Some(index) => {
                self.lowered.get(index).copied().ok_or_else(|| format!("its result {value:?} is not there"))
            }
            None => Err(format!("its result {value:?} is an argument")),
        };
        self.program.results.iter().map(result).collect()
    }

    fn operand(&self, value: Value) -> Lowered<Operand> {
        if let (Some(argument), Some(&id)) =
            (self.program.arguments.get(value.0), self.arguments.get(value.0))
        {
            return Ok(match *argument {
                Argument::Tensor(TensorType { rows, cols, format }) => {
                    Operand::Tensor(Tensor { id, rows, cols, format })
                }
                Argument::Weight { outputs, inputs, .. } => Operand::Weight { id, outputs, inputs },
                Argument::Mask { batch, queries, keys } => Operand::Mask(Mask { id, batch, queries, keys }),
            });
        }
        let index = value.0 - self.arguments.len();
        match (self.lowered.get(index), self.program.instructions.get(index)) {
            (Some(&id), Some(Instruction { result: TensorType { rows, cols, format }, .. })) => {
                Ok(Operand::Tensor(Tensor { id, rows: *rows, cols: *cols, format: *format }))
            }
            _ => Err(format!("operand {value:?} is not there yet")),
        }
    }

    /// Lowers the next instruction.
    pub(super) fn instruction(&mut self, instruction: &Instruction) -> Lowered<()> {
        let result = instruction.result;
        ensure(super::is_sized(&[result.rows, result.cols]), || {
            format!("its result is empty or too large: {result}")
        })?;
        let operands: Vec<_> =
            instruction.operands.iter().map(|value| self.operand(*value)).collect::<Lowered<_>>()?;
        let mut operands = Operands { rest: operands.into_iter() };
        let y = self.op(&instruction.op, &mut operands, result)?;
        operands.finish()?;
        let shape = &self.body.type_of(y).dims;
        ensure(shape[..] == [result.rows, result.cols], || format!("its result is {shape:?}, not {result}"))?;
        let y = self.body.convert(y, result.format.into());
        self.lowered.push(y);
        Ok(())
    }

    /// An operation's result before it is rounded to its format: in f32, or as it was stored where nothing is computed.
    fn op(&mut self, op: &Op, operands: &mut Operands, result: TensorType) -> Lowered<Id> {
        match *op {
            Op::Linear { input, bias, activation, residual, .. } => {
                self.linear(operands, input, bias, activation, residual)
            }
            Op::LayerNorm { eps, .. } => {
                let x = operands.tensor("x")?;
                let gain = operands.row("gain", x.cols)?;
                let bias = operands.row("bias", x.cols)?;
                Ok(self.norm(x, gain, Some(bias), eps, result.format))
            }
            Op::RmsNorm { eps, .. } => {
                let x = operands.tensor("x")?;
                let gain = operands.row("gain", x.cols)?;
                Ok(self.norm(x, gain, None, eps, result.format))
            }
            Op::Attention { shape, segments, mask, kernel } => super::attention::attention(
                &mut self.body,
                operands,
                shape,
                segments,
                mask,
                kernel,
                result.format,
            ),
            Op::Rope { .. } => super::attention::rope(&mut self.body, operands, result.format),
            Op::Activate { activation, .. } => {
                let x = operands.tensor("x")?;
                let x = self.body.convert(x.id, Element::F32);
                Ok(activate(&mut self.body, x, activation))
            }
            Op::SiluMul { .. } => self.silu_mul(operands),
            Op::Scale { factor, .. } => {
                let x = operands.tensor("x")?;
                let x = self.body.convert(x.id, Element::F32);
                Ok(self.body.with_constant("multiply", x, factor))
            }
            Op::ConcatTokens { batch } => self.concat_tokens(operands, batch, result),
            Op::SliceRows { start } => {
                let x = operands.tensor("x")?;
                within(start, result.rows, x.rows)?;
                Ok(self.body.slice(x.id, 0, start, result.rows))
            }
            Op::SliceCols { start } => {
                let x = operands.tensor("x")?;
                within(start, result.cols, x.cols)?;
                Ok(self.body.slice(x.id, 1, start, result.cols))
            }
            Op::PixelShuffle { grid, factor } => self.pixel_shuffle(operands, grid, factor),
        }
    }

    fn linear(
        &mut self,
        operands: &mut Operands,
        input: Format,
        bias: bool,
        activation: Option<Activation>,
        residual: bool,
    ) -> Lowered<Id> {
        let x = operands.tensor("x")?;
        let (weight, outputs, inputs) = operands.weight()?;
        ensure(x.cols == inputs, || format!("x has {} columns, the weight {inputs} inputs", x.cols))?;
        let body = &mut self.body;
        // Only ever rounded: what is stored coarser stays as it is.
        let coarse = if input == Format::F32 { x.id } else { body.convert(x.id, input.into()) };
        let mut y = body.dot(coarse, weight, 1);
        if bias {
            let bias = operands.row("bias", outputs)?;
            let bias = repeat_rows(body, bias, x.rows);
            y = body.binary("add", y, bias);
        }
        if let Some(activation) = activation {
            y = activate(body, y, activation);
        }
        if residual {
            let residual = operands.tensor("residual")?;
            ensure(residual.cols == outputs && x.rows.is_multiple_of(residual.rows), || {
                format!(
                    "the residual is {}×{}, whose rows do not repeat over {}×{outputs}",
                    residual.rows, residual.cols, x.rows
                )
            })?;
            let residual = repeat_rows(body, residual, x.rows);
            y = body.binary("add", residual, y);
        }
        Ok(y)
    }

    /// A norm as a composite operation. It takes and yields one type, the finer of what `x` and the result are stored
    /// in, so that the result is rounded once.
    fn norm(&mut self, x: Tensor, gain: Tensor, bias: Option<Tensor>, eps: f32, result: Format) -> Id {
        let stored = [x.format, result];
        let format = if stored.contains(&Format::F32) { Format::F32 } else { Format::Bf16 };
        let mut widened = |row: Tensor| {
            let wanted = Element::from(format).finer(row.format.into());
            let id = self.body.convert(row.id, wanted);
            let id = self.body.reshape(id, vec![row.cols]);
            (id, if wanted == Element::F32 { Format::F32 } else { Format::Bf16 })
        };
        let (gain, gain_format) = widened(gain);
        let bias = bias.map(&mut widened);
        let norm = Norm {
            x: TensorType { rows: x.rows, cols: x.cols, format },
            gain: gain_format,
            bias: bias.map(|(_, format)| format),
            eps: eps.to_bits(),
        };
        let index = self.functions.iter().position(|function| function.norm == norm).unwrap_or_else(|| {
            let text = norm.function(&function_name(self.functions.len()));
            self.functions.push(Function { norm, text });
            self.functions.len() - 1
        });
        let name = if bias.is_some() { "tenstorrent.layer_norm" } else { "tenstorrent.rms_norm" };
        let attributes = format!(
            "epsilon = 0x{:08X} : f32, normalized_shape = dense<{}> : tensor<1xi64>",
            norm.eps, x.cols
        );
        let mut operands = vec![self.body.convert(x.id, format.into()), gain];
        operands.extend(bias.map(|(id, _)| id));
        self.body.composite(name, attributes, function_name(index), operands)
    }

    fn silu_mul(&mut self, operands: &mut Operands) -> Lowered<Id> {
        let x = operands.tensor("x")?;
        ensure(x.cols.is_multiple_of(2), || format!("{} columns are not a gate and as many more", x.cols))?;
        let (body, width) = (&mut self.body, x.cols / 2);
        let gate = body.slice(x.id, 1, 0, width);
        let gate = body.convert(gate, Element::F32);
        let gate = activate(body, gate, Activation::Silu);
        let up = body.slice(x.id, 1, width, width);
        let up = body.convert(up, Element::F32);
        Ok(body.binary("multiply", gate, up))
    }

    fn concat_tokens(&mut self, operands: &mut Operands, batch: usize, result: TensorType) -> Lowered<Id> {
        let mut parts = vec![operands.tensor("the first part")?];
        while operands.rest.len() > 0 {
            parts.push(operands.tensor("a part")?);
        }
        let mut tokens = 0_usize;
        let mut joined = Vec::with_capacity(parts.len());
        for part in parts {
            ensure(part.cols == result.cols, || {
                format!("a part has {} columns, the result {}", part.cols, result.cols)
            })?;
            let count = shared(part.rows, batch)?;
            tokens = tokens.saturating_add(count);
            let part_id = self.body.convert(part.id, result.format.into());
            joined.push(self.body.reshape(part_id, vec![batch, count, part.cols]));
        }
        let rows = tokens.saturating_mul(batch);
        ensure(rows == result.rows, || format!("{rows} rows are joined"))?;
        let joined = self.body.concatenate(joined, 1);
        Ok(self.body.reshape(joined, vec![rows, result.cols]))
    }

    fn pixel_shuffle(&mut self, operands: &mut Operands, grid: usize, factor: usize) -> Lowered<Id> {
        let x = operands.tensor("x")?;
        let side = shared(grid, factor)?;
        let images = shared(x.rows, grid.saturating_mul(grid))?;
        let body = &mut self.body;
        let blocks = body.reshape(x.id, vec![images, side, factor, side, factor, x.cols]);
        let blocks = body.transpose(blocks, &[0, 1, 3, 2, 4, 5]);
        Ok(body.reshape(blocks, vec![images * side * side, factor * factor * x.cols]))
    }
}

fn function_name(index: usize) -> String {
    format!("norm_{index}")
}

impl Norm {
    /// The function that the composite operation stands for.
    fn function(&self, name: &str) -> String {
        let Self { x: TensorType { rows, cols, format }, gain, bias, eps } = *self;
        let mut body = Body::default();
        let x = body.argument(vec![rows, cols], format.into());
        let gain = body.argument(vec![cols], gain.into());
        let bias = bias.map(|bias| body.argument(vec![cols], bias.into()));
        let mean = |body: &mut Body, x: Id| {
            let sum = body.reduce("add", x, 1, 0.0);
            body.with_constant("multiply", sum, 1.0 / cols as f32)
        };
        let across = |body: &mut Body, x: Id, axis: usize| {
            let x = body.convert(x, Element::F32);
            body.broadcast(x, vec![rows, cols], vec![axis])
        };

        let mut y = body.convert(x, Element::F32);
        if bias.is_some() {
            let mean = mean(&mut body, y);
            let mean = across(&mut body, mean, 0);
            y = body.binary("subtract", y, mean);
        }
        let square = body.binary("multiply", y, y);
        let square = mean(&mut body, square);
        let shifted = body.with_constant("add", square, f32::from_bits(eps));
        let inverse = body.unary("rsqrt", shifted);
        let inverse = across(&mut body, inverse, 0);
        y = body.binary("multiply", y, inverse);
        let gain_across = across(&mut body, gain, 1);
        y = body.binary("multiply", y, gain_across);
        if let Some(bias) = bias {
            let bias = across(&mut body, bias, 1);
            y = body.binary("add", y, bias);
        }
        y = body.convert(y, format.into());

        body.function(&format!("func.func private @{name}"), &[], &[y]).to_string()
    }
}

/// A function of each number, in f32.
pub(super) fn activate(body: &mut Body, x: Id, activation: Activation) -> Id {
    match activation {
        Activation::Silu => {
            let sigmoid = body.unary("logistic", x);
            body.binary("multiply", x, sigmoid)
        }
        Activation::GeluTanh => {
            let square = body.binary("multiply", x, x);
            let cube = body.binary("multiply", square, x);
            let cube = body.with_constant("multiply", cube, 0.044715);
            let inner = body.binary("add", x, cube);
            let inner = body.with_constant("multiply", inner, (2.0 / std::f64::consts::PI).sqrt() as f32);
            let tanh = body.unary("tanh", inner);
            let shifted = body.with_constant("add", tanh, 1.0);
            let half = body.with_constant("multiply", x, 0.5);
            body.binary("multiply", half, shifted)
        }
    }
}

/// As many rows as `rows`, a multiple of those of `x`: row `r` is row `r % x.rows` of `x`.
fn repeat_rows(body: &mut Body, x: Tensor, rows: usize) -> Id {
    let id = body.convert(x.id, Element::F32);
    if x.rows == 1 || x.rows == rows {
        return body.broadcast(id, vec![rows, x.cols], vec![0, 1]);
    }
    let repeated = body.broadcast(id, vec![rows / x.rows, x.rows, x.cols], vec![1, 2]);
    body.reshape(repeated, vec![rows, x.cols])
}

/// How many each of `parts` equal parts has.
pub(super) fn shared(total: usize, parts: usize) -> Lowered<usize> {
    ensure(parts > 0 && total > 0 && total.is_multiple_of(parts), || {
        format!("{total} do not divide into {parts}")
    })?;
    Ok(total / parts)
}

fn within(start: usize, count: usize, total: usize) -> Lowered<()> {
    ensure(start.checked_add(count).is_some_and(|end| end <= total), || {
        format!("{count} from {start} on are not within {total}")
    })
}
