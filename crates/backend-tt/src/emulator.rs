//! A Tensix's arithmetic in software: the device where there is no card.

use std::borrow::Cow;

use rayon::prelude::*;
use smolvla_core::Capabilities;
use smolvla_core::backend::{Activation, AttentionShape, BackendErrorKind, Execution};

use crate::device::{Given, Granularity, Readable, TtDevice};
use crate::error::DeviceError;
use crate::program::{Argument, AttentionKernel, Instruction, Op, Program, TensorType, Value};
use crate::tensix::kernels::{self, KernelConfig};
use crate::tensix::unary::Unary;
use crate::tensix::{self, Dest, Fidelity, Format, matmul, pack_bf16};

/// Runs programs in software with the numbers of a Blackhole: its formats, its matrix engine bit for bit, its packer
/// and its vector functions.
///
/// Where an operation is computed the way a kernel of the vendor's library computes it, [`tensix`] says which and how
/// closely. Operations run one by one, as a card runs kernels.
#[derive(Clone, Copy, Debug, Default)]
pub struct Emulator;

/// A matrix, weight or mask of the [`Emulator`].
#[derive(Debug)]
pub enum EmulatorBuffer {
    /// A matrix, its numbers on the grid of its format.
    Matrix(EmulatorMatrix),
    /// A weight, laid out for the matrix engine.
    Weight(tensix::Operand),
    /// Which keys a query may attend.
    Mask(Vec<bool>),
}

impl EmulatorBuffer {
    /// Whether this is what the program calls `argument`.
    fn is(&self, argument: &Argument) -> bool {
        match (self, *argument) {
            (Self::Matrix(matrix), Argument::Tensor(tensor)) => matrix.tensor == tensor,
            (Self::Weight(weight), Argument::Weight { outputs, inputs, .. }) => {
                (weight.outputs(), weight.inputs()) == (outputs, inputs)
            }
            (Self::Mask(mask), Argument::Mask { batch, queries, keys }) => {
                mask.len() == batch * queries * keys
            }
            _ => false,
        }
    }
}

/// Numbers that are not as many as their matrix has.
fn wrong_length(values: usize, rows: usize, cols: usize) -> DeviceError {
    DeviceError::new(
        BackendErrorKind::InvalidArgument,
        format!("{values} values for a matrix of {rows} × {cols}"),
    )
}

/// A row-major matrix, its numbers on the grid of its format.
#[derive(Clone, Debug)]
pub struct EmulatorMatrix {
    tensor: TensorType,
    values: Vec<f32>,
}

impl EmulatorMatrix {
    fn rows(&self) -> usize {
        self.tensor.rows
    }

    fn cols(&self) -> usize {
        self.tensor.cols
    }

    fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.cols()..][..self.cols()]
    }

    /// The numbers cast to `format` where that is coarser, as a kernel of its own does it.
    fn cast(&self, format: Format) -> Cow<'_, [f32]> {
        let own = self.tensor.format;
        if format <= own {
            return (&self.values).into();
        }
        let dest = if own == Format::F32 { Dest::Bits32 } else { Dest::Bits16 };
        let mut values = self.values.clone();
        each_rows(&mut values, self.cols(), |rows| {
            by_row(rows, self.cols(), format, |row| format.pack_precise(row, dest));
        });
        values.into()
    }
}

/// Elements that a thread takes at a time where each is computed by itself.
const GRAIN: usize = 1 << 14;

/// Runs `change` on groups of whole rows, over all cores.
fn each_rows(values: &mut [f32], cols: usize, change: impl Fn(&mut [f32]) + Send + Sync) {
    if let Some(rows) = GRAIN.checked_div(cols) {
        let rows_at_once = rows.max(1);
        values.par_chunks_mut(rows_at_once * cols).for_each(change);
    }
}

/// Runs `change` on each row of `values`; on all at once where no block of a format reaches into the next row.
fn by_row(values: &mut [f32], cols: usize, format: Format, mut change: impl FnMut(&mut [f32])) {
    if format <= Format::Bf16 || cols.is_multiple_of(tensix::format::BLOCK) {
        change(values);
    } else {
        values.chunks_exact_mut(cols).for_each(change);
    }
}

/// Writes accumulators to memory as the packer does.
fn pack(values: &mut [f32], tensor: TensorType, dest: Dest) {
    let TensorType { cols, format, .. } = tensor;
    each_rows(values, cols, |rows| by_row(rows, cols, format, |row| format.pack(row, dest)));
}

/// What a vector operation leaves in accumulators of this width.
fn in_dest(value: f32, dest: Dest) -> f32 {
    match dest {
        Dest::Bits32 => value,
        Dest::Bits16 => pack_bf16(value),
    }
}

fn activate(value: f32, activation: Activation, dest: Dest) -> f32 {
    match activation {
        Activation::Silu => Unary::Silu.eval(value, dest),
        // The vendor's accurate GELU is the exact one; SigLIP's approximation is at most 5e-4 from it.
        Activation::GeluTanh => Unary::Gelu.eval(value, dest),
    }
}

/// How softmax and norms are configured: with a 32-bit destination what lies between two steps is in 32 bits too.
fn config(dest: Dest, approximate: bool, output: Format) -> KernelConfig {
    let between = match dest {
        Dest::Bits16 => Format::Bf16,
        Dest::Bits32 => Format::F32,
    };
    KernelConfig {
        dest,
        fidelity: Fidelity::HiFi4,
        approximate,
        intermediate: between,
        statistics: between,
        output,
    }
}

impl TtDevice for Emulator {
    type Buffer = EmulatorBuffer;
    type Executable = Program;

    fn granularity(&self) -> Granularity {
        Granularity::Operation
    }

    fn upload(
        &self,
        values: &[f32],
        rows: usize,
        cols: usize,
        format: Format,
    ) -> Result<EmulatorBuffer, DeviceError> {
        if rows.checked_mul(cols) != Some(values.len()) {
            return Err(wrong_length(values.len(), rows, cols));
        }
        let mut values = values.to_vec();
        format.round_host_matrix(&mut values, cols);
        Ok(EmulatorBuffer::Matrix(EmulatorMatrix { tensor: TensorType { rows, cols, format }, values }))
    }

    fn upload_weight(
        &self,
        values: &[f32],
        outputs: usize,
        inputs: usize,
        format: Format,
    ) -> Result<EmulatorBuffer, DeviceError> {
        if outputs.checked_mul(inputs) != Some(values.len()) {
            return Err(wrong_length(values.len(), outputs, inputs));
        }
        Ok(EmulatorBuffer::Weight(weight(values, outputs, inputs, format)))
    }

    fn upload_mask(
        &self,
        allowed: &[bool],
        _batch: usize,
        _queries: usize,
        _keys: usize,
    ) -> Result<EmulatorBuffer, DeviceError> {
        Ok(EmulatorBuffer::Mask(allowed.to_vec()))
    }

    fn compile(&self, program: &Program) -> Result<Program, DeviceError> {
        // What cannot be emitted is malformed: shapes are checked in one place for all devices.
        crate::stablehlo::emit(program, "program")?;
        Ok(program.clone())
    }

    fn execute(
        &self,
        program: &Program,
        arguments: Vec<Given<'_, EmulatorBuffer>>,
    ) -> Result<Vec<EmulatorBuffer>, DeviceError> {
        let fits =
            program.arguments.iter().zip(&arguments).all(|(argument, given)| given.buffer().is(argument));
        if !fits || arguments.len() != program.arguments.len() {
            return Err(DeviceError::new(
                BackendErrorKind::InvalidArgument,
                format!(
                    "{} arguments that are not the program's {}",
                    arguments.len(),
                    program.arguments.len()
                ),
            ));
        }
        let mut run = Run { arguments, results: Vec::with_capacity(program.instructions.len()) };
        for instruction in &program.instructions {
            let values = run.instruction(instruction)?;
            run.results.push(Some(EmulatorMatrix { tensor: instruction.result, values }));
        }
        let arguments = program.arguments.len();
        let result = |value: &Value| {
            let slot = value.0.checked_sub(arguments).and_then(|index| run.results.get_mut(index));
            slot.and_then(Option::take).map(EmulatorBuffer::Matrix).ok_or_else(malformed)
        };
        program.results.iter().map(result).collect()
    }
}

impl Readable for Emulator {
    fn download(&self, buffer: &EmulatorBuffer) -> Result<Vec<f32>, DeviceError> {
        match buffer {
            EmulatorBuffer::Matrix(matrix) => Ok(matrix.values.clone()),
            EmulatorBuffer::Weight(_) | EmulatorBuffer::Mask(_) => Err(malformed()),
        }
    }

    fn capabilities(&self) -> Capabilities {
        let mut capabilities =
            crate::capabilities("Blackhole p150, emulated", &["balanced", "accurate", "fast"]);
        capabilities.execution =
            Execution::Emulated("smolvla's software model of the Tensix core's arithmetic".to_owned());
        capabilities.refusals = vec![(
            smolvla_core::Precision::F32,
            "the matrix engine multiplies at most 10 × 11 bits of its operands".to_owned(),
        )];
        capabilities
    }
}

/// A weight, rounded as the host's tools round it, in the matrix engine's order. Blocks of 16 lie along the outputs, as
/// the transposed weight is stored.
fn weight(values: &[f32], outputs: usize, inputs: usize, format: Format) -> tensix::Operand {
    if format <= Format::Bf16 {
        let mut values = values.to_vec();
        format.round_host_matrix(&mut values, inputs);
        return tensix::Operand::from_outputs_by_inputs(&values, outputs, inputs);
    }
    let mut transposed = vec![0.0; values.len()];
    if outputs > 0 {
        transposed.par_chunks_mut(outputs).enumerate().for_each(|(input, row)| {
            for (output, value) in row.iter_mut().enumerate() {
                *value = values[output * inputs + input];
            }
            format.round_host(row);
        });
    }
    tensix::Operand::from_inputs_by_outputs(&transposed, inputs, outputs)
}

/// A program whose operands are not what its operations take: the recorder does not make them.
fn malformed() -> DeviceError {
    DeviceError::new(BackendErrorKind::InvalidArgument, "the program is malformed")
}

/// A program under way.
struct Run<'a> {
    arguments: Vec<Given<'a, EmulatorBuffer>>,
    results: Vec<Option<EmulatorMatrix>>,
}

impl Run<'_> {
    fn matrix(&self, value: Value) -> Result<&EmulatorMatrix, DeviceError> {
        let found = match self.arguments.get(value.0) {
            Some(given) => match given.buffer() {
                EmulatorBuffer::Matrix(matrix) => Some(matrix),
                _ => None,
            },
            None => self.results.get(value.0 - self.arguments.len()).and_then(Option::as_ref),
        };
        found.ok_or_else(malformed)
    }

    fn weight(&self, value: Value) -> Result<&tensix::Operand, DeviceError> {
        match self.arguments.get(value.0).map(Given::buffer) {
            Some(EmulatorBuffer::Weight(weight)) => Ok(weight),
            _ => Err(malformed()),
        }
    }

    fn mask(&self, value: Value) -> Result<&[bool], DeviceError> {
        match self.arguments.get(value.0).map(Given::buffer) {
            Some(EmulatorBuffer::Mask(mask)) => Ok(mask),
            _ => Err(malformed()),
        }
    }

    /// The operation's result, packed to its format.
    fn instruction(&self, instruction: &Instruction) -> Result<Vec<f32>, DeviceError> {
        let Instruction { op, operands, result } = instruction;
        let operand = |index: usize| operands.get(index).copied().ok_or_else(malformed);
        let x = self.matrix(operand(0)?)?;
        Ok(match op {
            Op::Linear { .. } => return self.linear(instruction, x),
            Op::LayerNorm { eps, dest, approximate } => {
                let (gain, bias) = (self.matrix(operand(1)?)?, self.matrix(operand(2)?)?);
                let config = config(*dest, *approximate, result.format);
                by_kernel(x, |rows, cols| {
                    kernels::layer_norm(rows, cols, *eps, Some(&gain.values), Some(&bias.values), config);
                })
            }
            Op::RmsNorm { eps, dest, approximate } => {
                let gain = self.matrix(operand(1)?)?;
                let config = config(*dest, *approximate, result.format);
                by_kernel(x, |rows, cols| {
                    kernels::rms_norm(rows, cols, *eps, Some(&gain.values), None, config);
                })
            }
            Op::Attention { shape, segments, mask, kernel } => {
                let segments = (0..*segments)
                    .map(|segment| {
                        let key = self.matrix(operand(1 + 2 * segment)?)?;
                        Ok([key, self.matrix(operand(2 + 2 * segment)?)?])
                    })
                    .collect::<Result<Vec<_>, DeviceError>>()?;
                let mask = match mask {
                    true => Some(self.mask(operand(1 + 2 * segments.len())?)?),
                    false => None,
                };
                let mut values = attention(x, &segments, mask, *shape, *kernel);
                pack(&mut values, *result, kernel.values.dest);
                values
            }
            Op::Rope { dest } => {
                let mut values = rope(x, self.matrix(operand(1)?)?, self.matrix(operand(2)?)?, *dest);
                pack(&mut values, *result, *dest);
                values
            }
            Op::Activate { activation, dest } => {
                elementwise(*result, *dest, |index| activate(x.values[index], *activation, *dest))
            }
            Op::SiluMul { dest } => {
                let width = result.cols;
                elementwise(*result, *dest, |index| {
                    let row = x.row(index / width);
                    let [gate, up] = [row[index % width], row[width + index % width]];
                    in_dest(activate(gate, Activation::Silu, *dest) * up, *dest)
                })
            }
            Op::Scale { factor, dest } => {
                let mut values = x.values.clone();
                let TensorType { cols, format, .. } = *result;
                each_rows(&mut values, cols, |rows| {
                    by_row(rows, cols, format, |row| kernels::scale(row, *factor, *dest, format));
                });
                values
            }
            Op::ConcatTokens { batch } => {
                let parts = operands.iter().map(|part| self.matrix(*part)).collect::<Result<Vec<_>, _>>()?;
                let mut values = Vec::with_capacity(result.rows * result.cols);
                for observation in 0..*batch {
                    for part in &parts {
                        let length = part.values.len() / (*batch).max(1);
                        values.extend_from_slice(&part.values[observation * length..][..length]);
                    }
                }
                values
            }
            Op::SliceRows { start } => x.values[start * x.cols()..][..result.rows * result.cols].to_vec(),
            Op::SliceCols { start } => {
                (0..x.rows()).flat_map(|row| &x.row(row)[*start..][..result.cols]).copied().collect()
            }
            Op::PixelShuffle { grid, factor } => pixel_shuffle(x, *grid, *factor),
        })
    }

    /// A product, with bias and activation before it leaves the accumulators; a residual is added by another kernel.
    fn linear(&self, instruction: &Instruction, x: &EmulatorMatrix) -> Result<Vec<f32>, DeviceError> {
        let Instruction { op, operands, result } = instruction;
        let Op::Linear { math, input, bias, activation, residual } = op else { return Err(malformed()) };
        let mut rest = operands.iter().skip(1).copied();
        let weight = self.weight(rest.next().ok_or_else(malformed)?)?;
        let mut values = matmul(&x.cast(*input), x.rows(), weight, *math);
        let mut next = || self.matrix(rest.next().ok_or_else(malformed)?);
        let (cols, dest) = (result.cols, math.dest);
        if *bias {
            let bias = next()?;
            // Partial sums lie in a buffer as wide as the accumulators before the bias is added.
            each_rows(&mut values, cols, |rows| {
                for row in rows.chunks_exact_mut(cols) {
                    kernels::add(row, &bias.values, dest, Format::F32);
                }
            });
        }
        if let Some(activation) = activation {
            values.par_iter_mut().with_min_len(GRAIN).for_each(|value| {
                *value = activate(*value, *activation, dest);
            });
        }
        pack(&mut values, *result, dest);
        if *residual {
            add_residual(&mut values, next()?, *result, dest);
        }
        Ok(values)
    }
}

/// Adds a matrix whose rows repeat, by the vector unit where one of the two is kept in 32 bits.
fn add_residual(values: &mut [f32], residual: &EmulatorMatrix, result: TensorType, dest: Dest) {
    let TensorType { cols, format, .. } = result;
    let in_f32 = format == Format::F32 || residual.tensor.format == Format::F32;
    if cols == 0 || residual.rows() == 0 {
        return;
    }
    values.par_chunks_exact_mut(cols).enumerate().for_each(|(row, values)| {
        let other = residual.row(row % residual.rows());
        if in_f32 {
            kernels::add_f32(values, other);
            format.pack(values, Dest::Bits32);
        } else {
            kernels::add(values, other, dest, format);
        }
    });
}

/// Each element by itself, on the vector unit.
fn elementwise(result: TensorType, dest: Dest, value: impl Fn(usize) -> f32 + Send + Sync) -> Vec<f32> {
    let length = result.rows * result.cols;
    let mut values: Vec<f32> = (0..length).into_par_iter().with_min_len(GRAIN).map(value).collect();
    pack(&mut values, result, dest);
    values
}

/// A kernel that works in place on rows by themselves, over all cores.
fn by_kernel(x: &EmulatorMatrix, kernel: impl Fn(&mut [f32], usize) + Send + Sync) -> Vec<f32> {
    let mut values = x.values.clone();
    each_rows(&mut values, x.cols(), |rows| {
        rows.chunks_exact_mut(x.cols()).for_each(|row| kernel(row, x.cols()))
    });
    values
}

/// Attention of each observation and key/value head by itself: scores, softmax and values are three kernels.
fn attention(
    q: &EmulatorMatrix,
    segments: &[[&EmulatorMatrix; 2]],
    mask: Option<&[bool]>,
    shape: AttentionShape,
    kernel: AttentionKernel,
) -> Vec<f32> {
    let AttentionShape { batch, heads, kv_heads, head_dim, scale } = shape;
    let queries = q.rows() / batch.max(1);
    let keys: usize = segments.iter().map(|[key, _]| key.rows() / batch.max(1)).sum();
    let group = heads / kv_heads.max(1);
    let mut out = vec![0.0; q.values.len()];
    if queries == 0 || keys == 0 {
        return out;
    }
    let gather = |observation: usize, head: usize, which: usize| -> Vec<f32> {
        let rows = segments.iter().flat_map(|segment| {
            let matrix = segment[which];
            let count = matrix.rows() / batch;
            (observation * count..(observation + 1) * count).map(move |row| matrix.row(row))
        });
        rows.flat_map(|row| &row[head * head_dim..][..head_dim]).copied().collect()
    };
    let one = |(observation, kv_head): (usize, usize)| -> Vec<f32> {
        // The queries of all heads that share the keys, one head after another.
        let heads = kv_head * group..(kv_head + 1) * group;
        let x: Vec<f32> = heads
            .flat_map(|head| {
                (0..queries).flat_map(move |query| {
                    &q.row(observation * queries + query)[head * head_dim..][..head_dim]
                })
            })
            .copied()
            .collect();
        let rows = group * queries;
        let key = tensix::Operand::from_outputs_by_inputs(&gather(observation, kv_head, 0), keys, head_dim);
        let value = tensix::Operand::from_inputs_by_outputs(&gather(observation, kv_head, 1), keys, head_dim);
        let mut scores = matmul(&x, rows, &key, kernel.scores);
        by_row(&mut scores, keys, kernel.scores_format, |row| {
            kernels::scale(row, scale, kernel.scores.dest, kernel.scores_format);
        });
        if let Some(mask) = mask {
            for (row, scores) in scores.chunks_exact_mut(keys).enumerate() {
                let allowed = &mask[(observation * queries + row % queries) * keys..][..keys];
                for (score, allowed) in scores.iter_mut().zip(allowed) {
                    if !allowed {
                        *score = MASKED;
                    }
                }
            }
        }
        kernels::softmax(
            &mut scores,
            keys,
            config(kernel.softmax, kernel.approximate, kernel.weights_format),
        );
        matmul(&scores, rows, &value, kernel.values)
    };
    let pairs: Vec<(usize, usize)> =
        (0..batch).flat_map(|observation| (0..kv_heads).map(move |head| (observation, head))).collect();
    let results: Vec<Vec<f32>> = pairs.par_iter().map(|pair| one(*pair)).collect();
    for ((observation, kv_head), values) in pairs.into_iter().zip(results) {
        for (row, values) in values.chunks_exact(head_dim).enumerate() {
            let (head, query) = (kv_head * group + row / queries, row % queries);
            let at = (observation * queries + query) * heads * head_dim + head * head_dim;
            out[at..at + head_dim].copy_from_slice(values);
        }
    }
    out
}

/// What stands in place of a masked score: far below any other, the same for all, and finite in every format, so
/// that a query that may attend nothing attends everything alike.
const MASKED: f32 = -1e30;

/// On the vector unit.
fn rope(x: &EmulatorMatrix, cos: &EmulatorMatrix, sin: &EmulatorMatrix, dest: Dest) -> Vec<f32> {
    let half = cos.cols();
    let mut out = x.values.clone();
    out.par_chunks_exact_mut(x.cols().max(1)).enumerate().for_each(|(row, values)| {
        let (cos, sin) = (cos.row(row % cos.rows()), sin.row(row % sin.rows()));
        let product = |a: f32, b: f32| in_dest(a * b, dest);
        for head in values.chunks_exact_mut(2 * half) {
            let (first, second) = head.split_at_mut(half);
            for ((first, second), (cos, sin)) in first.iter_mut().zip(second).zip(cos.iter().zip(sin)) {
                let (a, b) = (*first, *second);
                *first = in_dest(product(a, *cos) - product(b, *sin), dest);
                *second = in_dest(product(b, *cos) + product(a, *sin), dest);
            }
        }
    });
    out
}

fn pixel_shuffle(x: &EmulatorMatrix, grid: usize, factor: usize) -> Vec<f32> {
    let mut values = Vec::with_capacity(x.values.len());
    let side = grid / factor;
    for image in 0..x.rows() / (grid * grid) {
        for token in 0..side * side {
            for cell in 0..factor * factor {
                let row = token / side * factor + cell / factor;
                let col = token % side * factor + cell % factor;
                values.extend_from_slice(x.row((image * grid + row) * grid + col));
            }
        }
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stablehlo::cases::{Case, cases};

    fn run(case: &Case) -> Vec<Vec<f32>> {
        let arguments = case.program.arguments.iter().zip(&case.inputs).map(|(argument, values)| {
            let buffer = match *argument {
                Argument::Tensor(TensorType { rows, cols, format }) => {
                    Emulator.upload(values, rows, cols, format)
                }
                Argument::Weight { outputs, inputs, format } => {
                    Emulator.upload_weight(values, outputs, inputs, format)
                }
                Argument::Mask { batch, queries, keys } => {
                    let allowed: Vec<bool> = values.iter().map(|value| *value != 0.0).collect();
                    Emulator.upload_mask(&allowed, batch, queries, keys)
                }
            };
            Given::Donated(buffer.unwrap())
        });
        let program = Emulator.compile(&case.program).unwrap();
        let results = Emulator.execute(&program, arguments.collect()).unwrap();
        results.iter().map(|result| Emulator.download(result).unwrap()).collect()
    }

    #[test]
    fn every_operation_is_near_the_plain_loops() {
        let cases = cases();
        assert!(cases.len() > 30);
        for case in &cases {
            let (got, expected) = (run(case).concat(), case.expected.concat());
            let (mut error, mut scale) = (0.0, 1e-30);
            assert_eq!(got.len(), expected.len(), "{}", case.name);
            for (got, expected) in got.iter().zip(&expected) {
                error += f64::from(got - expected).powi(2);
                scale += f64::from(*expected).powi(2);
            }
            let moves = case.program.instructions.iter().all(|instruction| {
                matches!(
                    instruction.op,
                    Op::ConcatTokens { .. }
                        | Op::SliceRows { .. }
                        | Op::SliceCols { .. }
                        | Op::PixelShuffle { .. }
                )
            });
            let in_f32 = case.program.instructions.iter().all(|step| step.result.format == Format::F32);
            // Operands cut to 11 bits, and results rounded to 8: what a few operations lose at most (2.2e-3 and 8e-3).
            let limit = match (moves, in_f32) {
                (true, _) => 0.0,
                (false, true) => 3e-3,
                (false, false) => 1e-2,
            };
            let error = (error / scale).sqrt();
            assert!(error <= limit, "{}: {error}, at most {limit}", case.name);
        }
    }

    #[test]
    fn malformed_programs_are_errors() {
        let case = &cases()[0];
        let mut program = case.program.clone();
        program.instructions[0].operands[0] = Value(1000);
        assert!(Emulator.execute(&program, Vec::new()).is_err());
        assert!(Emulator.compile(&program).is_err());
        assert!(Emulator.execute(&case.program, Vec::new()).is_err());
        assert!(Emulator.upload(&[1.0], 5, 7, Format::Bf16).is_err());
        assert!(Emulator.upload_weight(&[1.0], usize::MAX, 2, Format::Bf16).is_err());
    }

    #[test]
    fn one_backend_serves_threads_of_the_pool_that_it_computes_on() {
        let backend = crate::TtBackend::new(Emulator);
        let sums: Vec<f32> = (0..64)
            .into_par_iter()
            .map(|task| {
                let x =
                    smolvla_core::Backend::upload(&backend, &vec![1.0; 1 << 15], 1 << 10, 1 << 5).unwrap();
                let x = smolvla_core::Backend::scale(&backend, &x, task as f32).unwrap();
                smolvla_core::Backend::download(&backend, &x).unwrap()[0]
            })
            .collect();
        assert!(sums.iter().enumerate().all(|(task, first)| *first == task as f32));
    }
}
